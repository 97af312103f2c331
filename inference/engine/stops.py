"""Stop strings: the text ends before the first that is complete, and nothing that may become one is given out."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """feed() the text piece by piece, flush() once at the end. After a stop string `stopped` is true."""

    def __init__(self, words: Iterable[str]) -> None:
        self.stopped = False
        self._words = tuple(words)
        self._held = ""  # what may be the beginning of a stop string

    def feed(self, text: str) -> str:
        """What is certain to come before any stop string."""
        if self.stopped:
            return ""
        if not self._words or not text:
            return text
        text, self._held = self._held + text, ""
        found = [(place + len(word), place) for word in self._words if (place := text.find(word)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        if keep := overlap(text, self._words):
            text, self._held = text[:-keep], text[-keep:]
        return text

    def flush(self) -> str:
        """What only looked like a stop string."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, words: tuple[str, ...]) -> int:
    """The length of the longest end of `text` that begins a word and is not all of it."""
    longest = min(len(text), max(map(len, words)) - 1)
    for length in range(longest, 0, -1):
        end = text[-length:]
        if any(len(word) > length and word.startswith(end) for word in words):
            return length
    return 0
