"""The engine: many requests, one model, one forward pass a step for all of them.

    engine = Engine(loaded)
    engine.start()
    for event in engine.submit(prompt.ids, Sampling(seed=7)):
        ...
    engine.close()

A step is: end what was aborted, plan (`scheduler`), read (`passes`), sample (`sampler`), give out. One thread owns the
model; submit(), abort() and stats() may be called from any.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from time import monotonic

import torch

from inference.engine.loading import LoadedModel
from inference.engine.passes import CacheKind, passes
from inference.engine.requests import EngineClosed, Handle, QueueFull, Rate, validate
from inference.engine.sampler import Sampler
from inference.engine.scheduler import Chunk, Plan, Scheduler
from inference.engine.sequence import Row
from inference.types import Finished, FinishReason, Priority, Sampling

# The most tokens that one pass reads: about 0.3 s on two cores for the default model.
STEP_TOKENS = {"cpu": 256, "cuda": 8192}
# The most tokens of prompts beside answers that grow: each of those waits for them.
CHUNK_TOKENS = {"cpu": 64, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class Stats:
    """The engine's load: requests that run and wait, sampling speed of late, tokens since the start, and how much of
    the room for keys and values is held, from 0 to 1."""

    running: int
    waiting: int
    tokens_per_s: float
    tokens_total: int
    kv_share: float


class Engine:
    """Answers requests with one model.

    slots: how many answers grow at the same time. queue_limit: how many more may wait. kv_tokens: how many tokens' keys
    and values may be held in all; None takes a share of the free memory. step_tokens, chunk_tokens: the most tokens
    that one pass reads, and the most of prompts in a pass in which other answers grow. pace_s: the least time between
    two steps, a throttle for operators who want a laptop cool and for tests that want to watch.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        slots: int = 4,
        queue_limit: int = 256,
        kv_tokens: int | None = None,
        step_tokens: int | None = None,
        chunk_tokens: int | None = None,
        cache: CacheKind = CacheKind.AUTO,
        pace_s: float = 0.0,
    ) -> None:
        self._loaded = loaded
        self._queue_limit = queue_limit
        self._pace_s = pace_s
        self._vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        self._passes = passes(loaded, slots=slots, kv_tokens=kv_tokens, cache=cache)
        self._sampler = Sampler()
        kind = loaded.device.type
        self._scheduler = Scheduler[Row](
            self._passes,
            slots=slots,
            step_tokens=max(slots, step_tokens or STEP_TOKENS[kind]),
            chunk_tokens=chunk_tokens or CHUNK_TOKENS[kind],
        )
        self._changed = threading.Condition()  # guards _arrived, _queued and _closing
        self._arrived: deque[Row] = deque()
        self._queued = 0  # of the scheduler's, as of the last step
        self._running = 0
        self._closing = False
        self._rate = Rate()
        self._thread: threading.Thread | None = None

    def submit(
        self,
        prompt_ids: Ids[int],
        sampling: Sampling,
        *,
        priority: Priority = Priority.CHAT,
        owner: str = "",
        resumed_ids: Ids[int] = (),
    ) -> Handle:
        """Queue a request and return at once. Raises InvalidRequest, QueueFull and EngineClosed.

        owner: whose it is, for fairness within a priority, and for the prefix cache, which never crosses owners.
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
        row = Row(self._loaded, handle, vocabulary=self._vocabulary, priority=priority, owner=owner)
        with self._changed:
            if self._closing:
                raise EngineClosed("The engine is closed.")
            if self._queued + len(self._arrived) >= self._queue_limit:
                raise QueueFull(f"{self._queue_limit} requests are waiting already.")
            self._arrived.append(row)
            self._changed.notify_all()
        return handle

    def abort(self, handle: Handle) -> None:
        """End a request before its next forward pass, with FinishReason.CANCELLED. Idempotent."""
        handle.abort()

    def stats(self) -> Stats:
        """A snapshot, exact enough for a gauge."""
        return Stats(
            running=self._running,
            waiting=self._queued + len(self._arrived),
            tokens_per_s=self._rate.per_second(),
            tokens_total=self._rate.total,
            kv_share=self._passes.kv_share,
        )

    @torch.inference_mode()
    def step(self) -> bool:
        """Advance everything once; returns whether there is work left. For the owning thread, or for a test instead."""
        began = monotonic()
        self._receive()
        for row in self._rows():
            if row.handle.aborted.is_set():
                self._end(row, FinishReason.CANCELLED)
            elif row.finished is not None:  # resumed, and complete already
                self._end(row, row.finished)
        plan = self._scheduler.plan()
        for row in plan.exhausted:
            self._end(row, FinishReason.LENGTH)
        sampled = self._advance(plan)
        if sampled:
            self._rate.add(sampled, began=began)
        with self._changed:
            self._running = len(self._scheduler.running)
            self._queued = len(self._scheduler) - self._running
            return bool(len(self._scheduler) or self._arrived)

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
            self._changed.wait_for(lambda: self._closing or self._arrived or len(self._scheduler))
            return not self._closing

    def _keep_pace(self, began: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=max(0.0, began + self._pace_s - monotonic()))

    def _receive(self) -> None:
        with self._changed:
            arrived = [*self._arrived]
            self._arrived.clear()
            self._queued += len(arrived)
        for row in arrived:
            self._scheduler.add(row)

    def _rows(self) -> list[Row]:
        return [*self._scheduler.running, *self._scheduler.waiting]

    def _advance(self, plan: Plan[Row]) -> int:
        """Read and sample what is planned; returns how many tokens were sampled.

        The boundary between one request and all others: whatever a model raises (out of memory, a shape that it does
        not take) is looked for by reading each request alone, and ends the one that it came from.
        """
        if not plan.chunks:
            return 0
        if len(plan.chunks) > 1 and not self._passes.together:
            return self._advance_each(plan)
        try:
            logits = self._passes.read(plan.chunks)
        except Exception as error:
            if len(plan.chunks) > 1:
                return self._advance_each(plan)
            self._break(plan.chunks[0].job, f"{type(error).__name__}: {error}")
            return 0
        sampling = [chunk for chunk in plan.chunks if chunk.samples]
        self._scheduler.commit(plan)
        self._passes.keep(plan.chunks)
        return self._sample(sampling, logits)

    def _advance_each(self, plan: Plan[Row]) -> int:
        return sum(self._advance(Plan((chunk,), (), (), ())) for chunk in plan.chunks)

    def _sample(self, chunks: list[Chunk[Row]], logits: torch.Tensor) -> int:
        if not chunks:
            return 0
        rows = [chunk.job for chunk in chunks]
        choices = self._sampler.choose(logits, [row.state for row in rows])
        for row, choice in zip(rows, choices, strict=True):
            if choice.error is not None:
                self._break(row, choice.error)
                continue
            row.take(choice)
            if row.finished is not None:
                self._end(row, row.finished)
        return sum(choice.error is None for choice in choices)

    def _break(self, row: Row, error: str) -> None:
        self._passes.spoil(row)
        self._end(row, FinishReason.ERROR, error)

    def _end(self, row: Row, reason: FinishReason, error: str = "") -> None:
        self._scheduler.remove(row)
        row.end(reason, error)

    def _end_everything(self, error: str) -> None:
        self._receive()
        for row in self._rows():
            self._scheduler.remove(row)
            row.handle.put(Finished(reason=FinishReason.ERROR, error=error))
