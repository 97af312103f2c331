from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.harmony import LONGEST_HEADER, HarmonySplitter, Mark
from inference.types import Channel
from tests.inference.engine.cutting import cut

IDS = {mark: number for number, mark in enumerate(Mark)}
START, CHANNEL, MESSAGE, END = (IDS[mark] for mark in (Mark.START, Mark.CHANNEL, Mark.MESSAGE, Mark.END))
ASSISTANT = [START, "assistant"]
TEXTS = st.text(st.sampled_from("ab \n<|>"), max_size=20)


def splitter(header: list[int | str]) -> HarmonySplitter:
    return HarmonySplitter({number: mark for mark, number in IDS.items()}, header)


def split(parts: list[str | int], header: list[int | str] = ASSISTANT) -> tuple[str, str]:
    """Reasoning and answer, after a prompt with this end."""
    harmony, texts = splitter(header), {Channel.REASONING: "", Channel.ANSWER: ""}
    for part in parts:
        for piece in harmony.text(part) if isinstance(part, str) else harmony.mark(part):
            texts[piece.channel] += piece.text
    for piece in harmony.flush():
        texts[piece.channel] += piece.text
    return texts[Channel.REASONING], texts[Channel.ANSWER]


def message(channel: str, text: str) -> list[str | int]:
    return [CHANNEL, channel, MESSAGE, text, END]


def test_analysis_is_reasoning_and_final_the_answer() -> None:
    parts = [*message("analysis", "They greet me."), *ASSISTANT, *message("final", "Hello!")]
    assert split(parts) == ("They greet me.", "Hello!")


@settings(max_examples=300)
@given(data=st.data(), thought=TEXTS, answer=TEXTS)
def test_any_text_is_split_the_same_however_it_is_cut(data: st.DataObject, thought: str, answer: str) -> None:
    analysis = [CHANNEL, *cut(data, "analysis"), MESSAGE, *cut(data, thought), END]
    final = [START, *cut(data, "assistant"), CHANNEL, *cut(data, "final"), MESSAGE, *cut(data, answer)]
    assert split([*analysis, *final]) == (thought.lstrip(), answer.lstrip())


def test_what_is_cut_off_in_its_thoughts_has_no_answer() -> None:
    assert split([CHANNEL, "analysis", MESSAGE, "Let me see"]) == ("Let me see", "")
    assert split([CHANNEL, "analysis", MESSAGE, "Done.", END, START, "assist"]) == ("Done.", "")
    assert split([CHANNEL, "ana"]) == ("", "")


def test_commentary_to_people_is_answer_and_to_a_tool_reasoning() -> None:
    preamble = message("commentary", "I look it up.")
    assert split([*preamble, *ASSISTANT, *message("final", "It rains.")]) == ("", "I look it up.\n\nIt rains.")
    assert split(message("commentary to=functions.weather ", "{}")) == ("{}", "")
    assert split([START, "assistant to=functions.weather", *message("commentary", "{}")]) == ("{}", "")


def test_messages_of_one_channel_stand_apart() -> None:
    parts = [*message("analysis", "One."), *ASSISTANT, *message("analysis", "\nTwo."), *ASSISTANT]
    assert split(parts) == ("One.\n\nTwo.", "")
    assert split([*message("analysis", ""), *ASSISTANT, *message("analysis", "Two.")]) == ("Two.", "")


def test_a_prompt_may_have_begun_the_message() -> None:
    assert split(["Hello!"], [*ASSISTANT, CHANNEL, "final", MESSAGE]) == ("", "Hello!")
    assert split([*message("final", "Hello!")], []) == ("", "Hello!")


def test_a_message_without_a_channel_is_answer() -> None:
    assert split([MESSAGE, "Hello!"]) == ("", "Hello!")


def test_a_model_that_has_lost_the_format_is_heard_all_the_same() -> None:
    text = "word " * LONGEST_HEADER
    assert split([text[:300], text[300:]], []) == ("", text)


@pytest.mark.parametrize(
    ("parts", "channel", "answering"),
    [
        ([], Channel.REASONING, False),
        ([CHANNEL, "analysis", MESSAGE], Channel.REASONING, False),
        ([CHANNEL, "final"], Channel.REASONING, False),
        ([CHANNEL, "final", MESSAGE], Channel.ANSWER, True),
        ([CHANNEL, "final", MESSAGE, "Hi", END], Channel.REASONING, False),
    ],
)
def test_it_knows_whether_the_answer_has_begun(parts: list[str | int], channel: Channel, answering: bool) -> None:
    harmony = splitter([*ASSISTANT, *parts])
    assert (harmony.channel, harmony.answering) == (channel, answering)
