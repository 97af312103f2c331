"""The two channels of an answer, what a model thinks aloud and what it answers, and who tells one from the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inference.types import Channel


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one channel."""

    channel: Channel
    text: str


class Splitter(Protocol):
    """Splits one answer. However its text is cut into pieces, what each channel has in the end is the same.

    Marks are tokens that stand for a delimiter and have no text: the splitter knows them by their ids.
    """

    @property
    def channel(self) -> Channel:
        """What a token without text would belong to now."""

    @property
    def answering(self) -> bool:
        """Whether the next token may be one of the answer."""

    def marks(self, token_id: int) -> bool:
        """Whether this token is a mark."""

    def text(self, text: str) -> list[Piece]:
        """Go on with text; what may be part of a delimiter is held back."""

    def mark(self, token_id: int) -> list[Piece]:
        """Go on with a mark."""

    def flush(self) -> list[Piece]:
        """What was held back; the answer is over."""


class Whole:
    """The splitter of a model that does not think aloud: all is answer."""

    channel = Channel.ANSWER
    answering = True

    def marks(self, token_id: int) -> bool:
        return False

    def text(self, text: str) -> list[Piece]:
        return [Piece(Channel.ANSWER, text)] if text else []

    def mark(self, token_id: int) -> list[Piece]:
        return []

    def flush(self) -> list[Piece]:
        return []
