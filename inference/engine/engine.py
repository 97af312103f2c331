"""The engine: many requests, one model, one forward pass a step for all of them.

    engine = Engine(loaded)
    engine.start()
    for event in engine.submit(prompt.ids, Sampling(seed=7)):
        ...
    engine.drain(timeout_s=20)
    engine.close()

A step (`batch`) is: end what was cancelled, plan, read, sample, give out. One thread owns the model; submit() and
stats() may be called from any, and so may a handle's cancel().
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Ids
from time import monotonic

import torch

from inference.engine.batch import Batch
from inference.engine.grammars import Grammars
from inference.engine.loading import LoadedModel
from inference.engine.passes import CacheKind, passes
from inference.engine.reasoning import AnswerFormat
from inference.engine.requests import EngineClosed, Handle, QueueFull, validate
from inference.engine.sequence import Row
from inference.engine.stats import Rate, Stats
from inference.types import Priority, Reasoning, Sampling

# The most tokens that one pass reads: about 0.3 s on two cores for the default model.
STEP_TOKENS = {"cpu": 256, "cuda": 8192}
# The most tokens of prompts beside answers that grow, each of which waits for them; and the most of one long prompt.
CHUNK_TOKENS, SLICE_TOKENS = {"cpu": 64, "cuda": 2048}, {"cpu": 24, "cuda": 2048}


class Engine:
    """Answers requests with one model.

    slots: how many answers grow at the same time. queue_limit: how many more may wait. kv_tokens: how many tokens' keys
    and values may be held in all; None takes a share of the free memory. step_tokens, chunk_tokens: the most tokens
    that one pass reads, and the most of prompts in a pass in which other answers grow. reasoning: how the model marks
    what it thinks aloud; None takes all that it says for its answer. pace_s: the least time between two steps, a
    throttle for operators who want a laptop cool and for tests that want to watch.

    Raises ValueError for a format of reasoning that the model's tokenizer has not the tokens for.
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
        reasoning: Reasoning | None = None,
        cache: CacheKind = CacheKind.AUTO,
        pace_s: float = 0.0,
    ) -> None:
        self._loaded = loaded
        self._answers = AnswerFormat(loaded.tokenizer, reasoning)
        self._queue_limit = queue_limit
        self._pace_s = pace_s
        self._vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        self._grammars = Grammars(loaded, self._vocabulary)
        self._passes = passes(loaded, slots=slots, kv_tokens=kv_tokens, cache=cache)
        kind = loaded.device.type
        self._batch = Batch(
            self._passes,
            slots=slots,
            step_tokens=max(slots, step_tokens or STEP_TOKENS[kind]),
            chunk_tokens=chunk_tokens or CHUNK_TOKENS[kind],
            slice_tokens=None if chunk_tokens else SLICE_TOKENS[kind],
        )
        self._changed = threading.Condition()  # guards all that follows, but for _rate
        self._arrived: deque[Row] = deque()
        self._queued = 0  # of those in the batch, as of the last step
        self._running = 0
        self._refusing = False  # takes no more requests
        self._closing = False  # takes no more steps
        self._rate = Rate()
        self._on_events: Callable[[bool], None] = lambda urgent: None
        self._thread: threading.Thread | None = None

    def listen(self, on_events: Callable[[bool], None]) -> None:
        """Have it called after each step, on the engine's thread: whether a first token or an end was given out."""
        self._on_events = on_events

    def submit(
        self,
        prompt_ids: Ids[int],
        sampling: Sampling,
        *,
        priority: Priority = Priority.CHAT,
        owner: str = "",
        resume_ids: Ids[int] = (),
    ) -> Handle:
        """Queue a request and return at once. Raises InvalidRequest, QueueFull and EngineClosed.

        owner: whose it is, for fairness within a priority, and for the prefix cache, which never crosses owners.
        resume_ids continues an answer that another engine began: they are read after the prompt, count against
        max_tokens, and only what follows them is given out; with the same seed it is what the other would have said.
        """
        request = validate(
            prompt_ids,
            resume_ids,
            sampling,
            vocabulary=self._vocabulary,
            context_length=self._loaded.context_length,
        )
        with self._changed:
            self._check_room()  # before a grammar is compiled
        handle = Handle(request, self._wake)
        row = Row(
            self._loaded,
            handle,
            answers=self._answers,
            grammar=self._grammars.matcher(sampling.grammar) if sampling.grammar else None,
            vocabulary=self._vocabulary,
            priority=priority,
            owner=owner,
        )
        with self._changed:
            self._check_room()
            self._arrived.append(row)
            self._changed.notify_all()
        return handle

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
        if sampled := self._batch.step():
            self._rate.add(sampled, began=began)
        self._tell()
        return self._count()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs; False before start() and once it has ended."""
        return self._thread is not None and self._thread.is_alive() and not self._closing

    def start(self) -> None:
        """Run step() on a thread of the engine's own until close()."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def drain(self, timeout_s: float) -> bool:
        """Take no more requests, and wait until all that were taken have ended. Whether they have. Blocks."""
        with self._changed:
            self._refusing = True
            return self._changed.wait_for(lambda: not self._busy, timeout_s)

    def close(self) -> None:
        """Take no more requests and end those that are left with FinishReason.ERROR. Blocks for at most one step."""
        with self._changed:
            self._refusing = self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._end_everything("The engine was closed before the answer was complete.")

    def _check_room(self) -> None:
        if self._refusing:
            raise EngineClosed("The engine takes no more requests.")
        if self._queued + len(self._arrived) >= self._queue_limit:
            raise QueueFull(f"{self._queue_limit} requests are waiting already.")

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
                self._refusing = self._closing = True
            self._end_everything("The engine's thread ended.")

    def _sleep_until_needed(self) -> bool:
        """Block while there is nothing to do; False once the engine is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._arrived or len(self._batch))
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
            self._batch.add(row)

    @property
    def _busy(self) -> bool:
        """Whether a request has not ended yet, as of the last step."""
        return bool(self._running or self._queued or self._arrived)

    def _count(self) -> bool:
        """Tell other threads how things stand after a step; returns whether there is work left."""
        with self._changed:
            self._running = self._batch.running
            self._queued = len(self._batch) - self._running
            if not self._busy:
                self._changed.notify_all()
            return self._busy

    def _tell(self) -> None:
        self._on_events(self._batch.take_urgent())

    def _end_everything(self, error: str) -> None:
        self._receive()
        self._batch.end_all(error)
        self._tell()
        self._count()
