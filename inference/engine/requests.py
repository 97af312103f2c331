"""What is asked of the engine, validated, and the handle through which the answer comes back."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from inference.types import Delta, Finished, Grammar, GrammarKind, Sampling

MOST_STOPS = 16
LONGEST_STOP = 256
MOST_STOP_IDS = 64
MOST_BIASES = 1024
LARGEST_BIAS = 100.0
LARGEST_PENALTY = 2.0
LARGEST_REPETITION_PENALTY = 10.0
MOST_TOP_LOGPROBS = 20
LONGEST_GRAMMAR = 65_536
LONGEST_REGEX = 4096


class EngineError(Exception):
    """The engine does not take this request.

    EngineError
    ├── InvalidRequest   a value that no engine could serve; the message names it
    ├── QueueFull        as many wait as may wait: try again later
    └── EngineClosed     the engine takes no more requests
    """


class InvalidRequest(EngineError, ValueError):
    """A value is out of its range; the message names it."""


class QueueFull(EngineError):
    """The engine's queue is full."""


class EngineClosed(EngineError):
    """The engine has been closed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One validated request. resume_ids were sampled by another engine: they count, but are not given out again."""

    prompt_ids: tuple[int, ...]
    resume_ids: tuple[int, ...]
    sampling: Sampling


class Handle:
    """One request's answer: Deltas in order, then exactly one Finished. For one consumer, on any thread."""

    def __init__(self, request: Request, wake: Callable[[], None]) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self._wake = wake
        self._events: queue.SimpleQueue[Delta | Finished] = queue.SimpleQueue()
        self._ended = False
        self._drained = False

    def get(self, timeout: float | None = None) -> Delta | Finished | None:
        """The next event; None after `timeout` seconds without one, and at once when Finished has been taken."""
        if self._drained:
            return None
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        self._drained = isinstance(event, Finished)
        return event

    def __iter__(self) -> Iterator[Delta | Finished]:
        """The events that have not been taken yet, up to and including Finished. Blocks between them."""
        while (event := self.get()) is not None:
            yield event

    def cancel(self) -> None:
        """End the request before its next forward pass, with FinishReason.CANCELLED. Idempotent."""
        self.cancelled.set()
        self._wake()

    def put(self, event: Delta | Finished) -> None:
        """For the engine's thread alone. What comes after Finished is ignored, so that there is just one."""
        if not self._ended:
            self._ended = isinstance(event, Finished)
            self._events.put(event)


def validate(
    prompt_ids: Sequence[int], resume_ids: Sequence[int], sampling: Sampling, *, vocabulary: int, context_length: int
) -> Request:
    """Check every value. Raises InvalidRequest, whose message names the first that is wrong."""
    prompt, resumed = tuple(prompt_ids), tuple(resume_ids)
    if not prompt:
        raise InvalidRequest("The prompt is empty.")
    if not all(_is_id(token, vocabulary) for token in prompt + resumed):
        raise InvalidRequest(f"A token id is not an integer from 0 to {vocabulary - 1}.")
    if len(prompt) + len(resumed) > context_length:
        raise InvalidRequest(f"{len(prompt) + len(resumed)} tokens do not fit into a context of {context_length}.")
    _check_sampling(sampling, vocabulary)
    return Request(prompt_ids=prompt, resume_ids=resumed, sampling=sampling)


def _check_sampling(sampling: Sampling, vocabulary: int) -> None:
    _check_filters(sampling)
    _check_end(sampling, vocabulary)
    _check_changes(sampling, vocabulary)
    _check_grammar(sampling.grammar)
    top = sampling.top_logprobs
    if top is not None and (type(top) is not int or not 0 <= top <= MOST_TOP_LOGPROBS):
        raise InvalidRequest(f"top_logprobs is not an integer from 0 to {MOST_TOP_LOGPROBS}.")


def _check_filters(sampling: Sampling) -> None:
    if not _is_number(sampling.temperature) or sampling.temperature < 0:
        raise InvalidRequest("temperature is not a finite number of at least 0.")
    if not _is_number(sampling.top_p) or not 0 < sampling.top_p <= 1:
        raise InvalidRequest("top_p is not a number above 0 and at most 1.")
    if type(sampling.top_k) is not int or sampling.top_k < 0:
        raise InvalidRequest("top_k is not an integer of at least 0.")
    if not _is_number(sampling.min_p) or not 0 <= sampling.min_p <= 1:
        raise InvalidRequest("min_p is not a number from 0 to 1.")
    if type(sampling.seed) is not int:
        raise InvalidRequest("seed is not an integer.")


def _check_end(sampling: Sampling, vocabulary: int) -> None:
    if type(sampling.max_tokens) is not int or sampling.max_tokens < 1:
        raise InvalidRequest("max_tokens is not an integer of at least 1.")
    if type(sampling.min_tokens) is not int or not 0 <= sampling.min_tokens <= sampling.max_tokens:
        raise InvalidRequest("min_tokens is not an integer from 0 to max_tokens.")
    if not isinstance(sampling.stop, tuple) or len(sampling.stop) > MOST_STOPS:
        raise InvalidRequest(f"stop is not a tuple of at most {MOST_STOPS} strings.")
    if not all(isinstance(word, str) and 0 < len(word) <= LONGEST_STOP for word in sampling.stop):
        raise InvalidRequest(f"A stop string does not have 1 to {LONGEST_STOP} characters.")
    if not isinstance(sampling.stop_ids, tuple) or len(sampling.stop_ids) > MOST_STOP_IDS:
        raise InvalidRequest(f"stop_ids is not a tuple of at most {MOST_STOP_IDS} token ids.")
    if not all(_is_id(token, vocabulary) for token in sampling.stop_ids):
        raise InvalidRequest(f"A stop id is not an integer from 0 to {vocabulary - 1}.")


def _check_changes(sampling: Sampling, vocabulary: int) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        if not _is_number(value) or abs(value) > LARGEST_PENALTY:
            raise InvalidRequest(f"{name} is not a number from -{LARGEST_PENALTY:g} to {LARGEST_PENALTY:g}.")
    if not _is_number(sampling.repetition_penalty) or not 0 < sampling.repetition_penalty <= LARGEST_REPETITION_PENALTY:
        raise InvalidRequest(f"repetition_penalty is not a number above 0 and at most {LARGEST_REPETITION_PENALTY:g}.")
    if not isinstance(sampling.logit_bias, tuple) or len(sampling.logit_bias) > MOST_BIASES:
        raise InvalidRequest(f"logit_bias is not a tuple of at most {MOST_BIASES} pairs.")
    for pair in sampling.logit_bias:
        if not isinstance(pair, tuple) or len(pair) != 2 or not _is_id(pair[0], vocabulary):
            raise InvalidRequest(f"A logit bias is not a pair of a token id, from 0 to {vocabulary - 1}, and a number.")
        if not _is_number(pair[1]) or abs(pair[1]) > LARGEST_BIAS:
            raise InvalidRequest(f"A logit bias is not a number from -{LARGEST_BIAS:g} to {LARGEST_BIAS:g}.")


def _check_grammar(grammar: object) -> None:
    if grammar is None:
        return
    if not isinstance(grammar, Grammar) or not isinstance(grammar.kind, GrammarKind):
        raise InvalidRequest("grammar is not a Grammar of a known kind.")
    longest = LONGEST_REGEX if grammar.kind is GrammarKind.REGEX else LONGEST_GRAMMAR
    if not isinstance(grammar.text, str) or len(grammar.text) > longest:
        raise InvalidRequest(f"The grammar ({grammar.kind}) is not a text of at most {longest} characters.")


def _is_id(value: object, vocabulary: int) -> bool:
    return type(value) is int and 0 <= value < vocabulary


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
