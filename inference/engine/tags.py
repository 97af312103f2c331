"""Reasoning between two strings, `<think>` and `</think>` for most models that have it.

Only a block with which the answer begins is reasoning: delimiters that are quoted later are text. Whitespace right
after a delimiter belongs to neither channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from inference.engine.channels import Piece
from inference.engine.stops import overlap
from inference.types import Channel


class _Place(Enum):
    BEFORE = auto()  # nothing has come yet but whitespace, or what may become a delimiter
    WITHIN = auto()
    AFTER = auto()


class TagSplitter:
    """opening, closing: the delimiters; special: those that are one special token each, by its id.

    Such a token is a mark, and its string, spelt out in other tokens, is text. opened: the prompt has opened the block
    already, so that the answer begins inside; a model that opens it once more is forgiven.
    """

    def __init__(self, opening: str, closing: str, *, special: Mapping[int, str], opened: bool) -> None:
        self._special = special
        leads = {opening: _Place.WITHIN, closing: _Place.AFTER}
        self._leads = {text: place for text, place in leads.items() if text not in special.values()}
        self._opening, self._closing = opening, closing
        self._opened = opened
        self._place = _Place.BEFORE
        self._held = ""
        self._trims = opened

    @property
    def channel(self) -> Channel:
        if self._place is _Place.BEFORE:
            return Channel.REASONING if self._opened or self._held.strip() else Channel.ANSWER
        return Channel.REASONING if self._place is _Place.WITHIN else Channel.ANSWER

    @property
    def answering(self) -> bool:
        return self._place is _Place.AFTER or (self._place is _Place.BEFORE and not self._opened)

    def marks(self, token_id: int) -> bool:
        return token_id in self._special

    def mark(self, token_id: int) -> list[Piece]:
        """A mark where there is nothing to open or to close is left out."""
        delimiter = self._special[token_id]
        if delimiter == self._opening and self._place is _Place.BEFORE:
            self._enter(_Place.WITHIN)
        elif delimiter == self._closing and self._place is not _Place.AFTER:
            held = self.flush() if self._held.strip() else []
            self._enter(_Place.AFTER)
            return held
        return []

    def text(self, text: str) -> list[Piece]:
        text, self._held = self._held + text, ""
        pieces: list[Piece] = []
        if self._place is _Place.BEFORE:
            text = self._begin(text)
        if self._place is _Place.WITHIN:
            text = self._think(self._trimmed(text), pieces)
        if self._place is _Place.AFTER and (text := self._trimmed(text)):
            pieces.append(Piece(Channel.ANSWER, text))
        return pieces

    def flush(self) -> list[Piece]:
        """Half a delimiter at the end is text."""
        held, self._held = self._held, ""
        within = self._place is _Place.WITHIN or (self._opened and self._place is _Place.BEFORE)
        held = held.lstrip() if self._trims else held
        return [Piece(Channel.REASONING if within else Channel.ANSWER, held)] if held else []

    def _begin(self, text: str) -> str:
        """What follows the delimiter with which the answer begins, or all of it where it begins with none."""
        start = text.lstrip()
        for delimiter, place in self._leads.items():
            if start.startswith(delimiter):
                self._enter(place)
                return start[len(delimiter) :]
        if not start or any(delimiter.startswith(start) for delimiter in self._leads):
            self._held = text
            return ""
        self._place = _Place.WITHIN if self._opened else _Place.AFTER
        return text

    def _think(self, text: str, pieces: list[Piece]) -> str:
        """Adds what is reasoning to the pieces; returns what follows the end of the block."""
        rest = ""
        if self._closing in self._leads:
            text, closed, rest = text.partition(self._closing)
            if closed:
                self._enter(_Place.AFTER)
            elif keep := overlap(text, (self._closing,)):
                text, self._held = text[:-keep], text[-keep:]
        if text:
            pieces.append(Piece(Channel.REASONING, text))
        return rest

    def _enter(self, place: _Place) -> None:
        self._place, self._held, self._trims = place, "", True

    def _trimmed(self, text: str) -> str:
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        return text
