"""What the tiny model says: these questions and, greedily sampled in float32, exactly these answers.

Only ASCII has tokens of more than one byte, so every other character reaches a stream in pieces.
"""

from __future__ import annotations

HELLO = "Hello"
EMOJI = "Show me emoji"
SCRIPTS = "Write in many scripts"
COUNT = "Count to 300"
MARKDOWN = "Show me Markdown"
STORY = "Tell me a story"
NAME = "What is your name?"

STORY_STOP = "END-OF-STORY"  # in the middle of the story, five tokens long

REPLIES: dict[str, str] = {
    HELLO: "Hello! How can I help you today?",
    NAME: "I am a tiny model, made for tests.",
    # a family of four joined by zero-width joiners, flags of two letters each, a skin tone, a variation selector
    EMOJI: (
        "Here: \U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 "
        "\U0001f1eb\U0001f1f7 \U0001f1ef\U0001f1f5 \U0001f44d\U0001f3fd \u2764\ufe0f done."
    ),
    SCRIPTS: (
        "\u0928\u092e\u0938\u094d\u0924\u0947 (Hindi), "
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 (Thai), "
        "\u0633\u064e\u0644\u064e\u0627\u0645\u064c (Arabic), "
        "Tie\u0302\u0301ng Vie\u0323\u0302t (Vietnamese), "
        "\u65e5\u672c\u8a9e (Japanese)."
    ),
    COUNT: " ".join(map(str, range(1, 301))),
    MARKDOWN: (
        "# Title\n\nSome *text* and `code`:\n\n```python\nprint(1 < 2 and 'ok')\n```\n\n"
        "| Fruit | Price |\n| --- | ---: |\n| apple | $5 |\n| pear | $9 |\n\n"
        "They cost $5 and $9, and $x^2 + y^2 = z^2$.\n\n- one\n- two\n"
    ),
    STORY: f"Once upon a time there was a fox. It slept. {STORY_STOP} After that it woke up and ran home.",
}

OTHER = "I only know a few answers."  # what it mostly says to any other question
