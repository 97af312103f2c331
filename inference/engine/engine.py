"""The engine: admits requests into a few slots and advances them in turn, a forward pass each.

    engine = Engine(loaded)
    engine.start()
    for event in engine.submit(prompt.ids, Sampling(seed=7)):
        ...
    engine.close()

A step is: reap what was aborted, admit what waits, advance every active sequence once. A long prompt is read in
chunks, so that other answers and an abort never wait for more than one of them. One thread owns the model; submit(),
abort() and stats() may be called from any.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from time import monotonic

import torch

from inference.engine.loading import LoadedModel
from inference.engine.requests import EngineClosed, Handle, QueueFull, Rate, validate
from inference.engine.sequence import Sequence
from inference.types import Finished, FinishReason, Sampling

PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}  # read in one pass: about 0.3 s on two cores for the default model


@dataclass(frozen=True, slots=True)
class Stats:
    """The engine's load: sequences in slots, requests in the queue, sampling speed of late, tokens since the start."""

    running: int
    waiting: int
    tokens_per_s: float
    tokens_total: int


class Engine:
    """Answers requests with one model.

    slots: how many answers grow at the same time. queue_limit: how many more may wait. pace_s: the least time between
    two steps, a throttle for operators who want a laptop cool and for tests that want to watch.
    """

    def __init__(self, loaded: LoadedModel, *, slots: int = 4, queue_limit: int = 256, pace_s: float = 0.0) -> None:
        self._loaded = loaded
        self._slots = slots
        self._queue_limit = queue_limit
        self._pace_s = pace_s
        self._vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        self._prefill_tokens = PREFILL_TOKENS[loaded.device.type]
        self._changed = threading.Condition()  # guards _waiting and _closing
        self._waiting: deque[Handle] = deque()
        self._closing = False
        self._active: list[Sequence] = []
        self._rate = Rate()
        self._thread: threading.Thread | None = None

    def submit(self, prompt_ids: Ids[int], sampling: Sampling, *, resumed_ids: Ids[int] = ()) -> Handle:
        """Queue a request and return at once. Raises InvalidRequest, QueueFull and EngineClosed.

        resumed_ids continues an answer that another engine began: they are read after the prompt, count against
        max_tokens, and only what follows them is given out; with the same seed it is what the other would have said.
        """
        request = validate(
            prompt_ids,
            resumed_ids,
            sampling,
            vocabulary=self._vocabulary,
            context_length=self._loaded.context_length,
        )
        handle = Handle(request, self._wake)
        with self._changed:
            if self._closing:
                raise EngineClosed("The engine is closed.")
            if len(self._waiting) >= self._queue_limit:
                raise QueueFull(f"{self._queue_limit} requests are waiting already.")
            self._waiting.append(handle)
            self._changed.notify_all()
        return handle

    def abort(self, handle: Handle) -> None:
        """End a request before its next forward pass, with FinishReason.CANCELLED. Idempotent."""
        handle.abort()

    def stats(self) -> Stats:
        """A snapshot, exact enough for a gauge."""
        return Stats(
            running=len(self._active),
            waiting=len(self._waiting),
            tokens_per_s=self._rate.per_second(),
            tokens_total=self._rate.total,
        )

    @torch.inference_mode()
    def step(self) -> bool:
        """Advance everything once; returns whether there is work left. For the owning thread, or for a test instead."""
        began = monotonic()
        self._drop_aborted_waiters()
        self._admit()
        sampled = sum(self._advance(sequence) for sequence in self._active)
        self._active = [sequence for sequence in self._active if sequence.finished is None]
        if sampled:
            self._rate.add(sampled, began=began)
        return bool(self._active or self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs; False before start() and once it has ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Run step() on a thread of the engine's own until close()."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests and end those that are left with FinishReason.ERROR. Blocks for at most one step."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._end_everything("The engine was closed before the answer was complete.")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._sleep_until_needed():
                began = monotonic()
                self.step()
                self._keep_pace(began)
        finally:
            with self._changed:
                self._closing = True
            self._end_everything("The engine's thread ended.")

    def _sleep_until_needed(self) -> bool:
        """Block while there is nothing to do; False once the engine is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._active)
            return not self._closing

    def _keep_pace(self, began: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=max(0.0, began + self._pace_s - monotonic()))

    def _drop_aborted_waiters(self) -> None:
        with self._changed:
            dropped = [handle for handle in self._waiting if handle.aborted.is_set()]
            self._waiting = deque(handle for handle in self._waiting if not handle.aborted.is_set())
        for handle in dropped:
            handle.put(Finished(reason=FinishReason.CANCELLED))

    def _admit(self) -> None:
        while len(self._active) < self._slots:
            with self._changed:
                if not self._waiting:
                    return
                handle = self._waiting.popleft()
            try:
                self._active.append(Sequence(self._loaded, handle, prefill_tokens=self._prefill_tokens))
            # The same boundary as in _advance: what cannot begin ends alone.
            except Exception as error:
                handle.put(Finished(reason=FinishReason.ERROR, error=f"{type(error).__name__}: {error}"))

    def _advance(self, sequence: Sequence) -> int:
        """Advance one sequence; end it where it is complete, aborted or broken. Returns how many tokens it sampled."""
        sampled = 0
        try:
            if sequence.handle.aborted.is_set():
                sequence.finished = FinishReason.CANCELLED
            elif sequence.finished is None:
                sampled = sequence.advance()
            if sequence.finished is not None:
                sequence.end(sequence.finished)
        # The boundary between one request and all others: whatever a model raises (out of memory, a shape it does
        # not take, NaN) ends this answer only.
        except Exception as error:
            sequence.finished = FinishReason.ERROR
            sequence.end(FinishReason.ERROR, f"{type(error).__name__}: {error}")
        return sampled

    def _end_everything(self, error: str) -> None:
        with self._changed:
            left = [*self._waiting, *(sequence.handle for sequence in self._active)]
            self._waiting.clear()
            self._active = []
        for handle in left:
            handle.put(Finished(reason=FinishReason.ERROR, error=error))
