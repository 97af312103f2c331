"""What crosses a boundary: frozen dataclasses that the doors, the service, the runner and the engine share.

A leaf: it imports the standard library alone, so that the engine runs where there is no Django.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why an engine stopped sampling; the words of the OpenAI API, and the two that it has no word for."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Channel(StrEnum):
    """Which part of an answer a piece of text belongs to."""

    ANSWER = "answer"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt, as the model's chat template takes it: role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. temperature 0 is greedy; top_k 0 and top_p 1 switch those filters off."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens just sampled and the text that they complete; never half a UTF-8 character, and possibly no text."""

    token_ids: tuple[int, ...]
    text: str
    channel: Channel = Channel.ANSWER


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of a handle. error is a sentence for the log when reason is ERROR."""

    reason: FinishReason
    error: str = ""
