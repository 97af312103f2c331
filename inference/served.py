"""What a worker serves: a model in this process, or an engine elsewhere, behind one small interface.

A leaf beside `types`: it knows neither torch nor HTTP. The host and the runner know nothing but this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.errors import ContextExceeded
from inference.types import Delta, Finished, Priority, Sampling, Turn

# Called by whoever gives out events; True where somebody waits for them now: a first token, or an end.
OnEvents = Callable[[bool], None]


class ServedError(Exception):
    """A request cannot be served; `code` is one of `inference.errors`.

    ServedError
    └── ContextTooLong   the newest message alone does not fit
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ContextTooLong(ServedError):
    """The newest message alone does not fit into the context."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ContextExceeded.code)


class Handle(Protocol):
    """One request's answer: Deltas in order, then exactly one Finished."""

    def get(self, timeout: float | None = None) -> Delta | Finished | None:
        """The next event; None after `timeout` seconds without one, and at once when Finished has been taken."""

    def cancel(self) -> None:
        """End the request, with FinishReason.CANCELLED. Idempotent; does nothing to one that has ended."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """What another worker wrote of an answer. tokens: how many it sampled, whose ids may be unknown."""

    text: str = ""
    reasoning: str = ""
    token_ids: Sequence[int] = ()
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that was taken. prompt_tokens is None where only the end will tell."""

    handle: Handle
    prompt_tokens: int | None
    dropped_turns: int


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that run and wait, sampling speed of late, tokens since the start, and how much of the room for keys and
    values is held, from 0 to 1."""

    running: int
    waiting: int
    tokens_per_s: float
    tokens_total: int
    kv_share: float


class Served(Protocol):
    """A model that answers. All methods are thread-safe."""

    @property
    def revision(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    @property
    def ready(self) -> bool:
        """Whether a request that comes now would be answered; an engine elsewhere may be away for a while."""

    @property
    def alive(self) -> bool:
        """False once it can never answer again, and its process should make room for another."""

    def begin(
        self, turns: Sequence[Turn], sampling: Sampling, *, priority: Priority, owner: str, resumed: Resumed
    ) -> Begun:
        """Take a request; its handle gives what follows `resumed`. Blocks while the prompt is built.

        Raises ServedError.
        """

    def load(self) -> Load:
        """A snapshot, exact enough for a gauge."""

    def start(self, on_events: OnEvents) -> None:
        """Begin to answer. on_events is called after events were given out, from a thread of the model's."""

    def close(self) -> None:
        """End what still runs, with FinishReason.ERROR. Blocks until it has stopped."""
