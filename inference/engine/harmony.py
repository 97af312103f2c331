"""Reasoning in channels, as gpt-oss writes it (OpenAI's harmony format): an answer is several messages,

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>

analysis is reasoning and final the answer. commentary is what a model says between calls of tools: to nobody in
particular it is meant for people and is answer, to a tool (`to=functions.weather`) it is reasoning, as people are not
meant to read it. Headers are shown to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from inference.engine.channels import Piece
from inference.types import Channel

# A header has a few words. What is longer comes from a model that has lost the format, and is its answer.
LONGEST_HEADER = 200
BETWEEN_MESSAGES = "\n\n"


class Mark(Enum):
    """The special tokens that shape a message."""

    START = "<|start|>"
    CHANNEL = "<|channel|>"
    MESSAGE = "<|message|>"
    END = "<|end|>"


class HarmonySplitter:
    """marks: the ids of all Marks. prompt_ids: the rendered prompt, whose end begins the first header."""

    def __init__(self, marks: Mapping[int, Mark], header: Sequence[int | str] = ()) -> None:
        self._marks = marks
        self._role, self._name = "", ""
        self._in_name = False
        self._body: Channel | None = None
        self._trims = False
        self._begun: set[Channel] = set()  # channels that have text
        for part in header:
            if isinstance(part, str):
                self.text(part)
            else:
                self.mark(part)
        self._begun.clear()

    @property
    def channel(self) -> Channel:
        return self._body or Channel.REASONING

    @property
    def answering(self) -> bool:
        return self._body is Channel.ANSWER

    def marks(self, token_id: int) -> bool:
        return token_id in self._marks

    def mark(self, token_id: int) -> list[Piece]:
        mark = self._marks[token_id]
        if mark is Mark.MESSAGE and self._body is None:
            self._body, self._trims = self._addressed(), True
        elif mark is Mark.CHANNEL and self._body is None:
            self._name, self._in_name = "", True
        elif mark in (Mark.START, Mark.END):
            self._role, self._name, self._in_name, self._body = "", "", False, None
        return []

    def text(self, text: str) -> list[Piece]:
        if self._body is None:
            text = self._read_header(text)
        if self._trims:
            text = text.lstrip()
        if not text or self._body is None:
            return []
        if self._trims and self._body in self._begun:
            text = BETWEEN_MESSAGES + text
        self._trims = False
        self._begun.add(self._body)
        return [Piece(self._body, text)]

    def flush(self) -> list[Piece]:
        """Nothing is held but half a header."""
        return []

    def _read_header(self, text: str) -> str:
        """Takes the text into the header; gives back all of one that is none."""
        if self._in_name:
            self._name += text
        else:
            self._role += text
        header = self._role + self._name
        if len(header) <= LONGEST_HEADER:
            return ""
        self._body = Channel.ANSWER
        return header

    def _addressed(self) -> Channel:
        words = self._name.split()
        to_tool = any(word.startswith("to=") for word in (*self._role.split(), *words))
        return Channel.REASONING if to_tool or words[:1] == ["analysis"] else Channel.ANSWER
