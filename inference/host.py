"""What one worker process hosts: a model that answers, the control stream and the heartbeat.

The runner's threads call it; it knows Redis, and nothing of PostgreSQL, Celery or torch.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
from redis.exceptions import RedisError

from inference import stream, workers
from inference.served import Begun, Handle, OnEvents, Resumed, Served
from inference.types import Priority, Sampling, Turn

log = logging.getLogger("worker")

CONTROL_BLOCK_MS = 1000
RETRY_S = 0.5
# What an cancelled answer has to store what it wrote.
LAST_WRITES_S = 3.0
# Stops that come before their generation has reached the engine are remembered for this many.
EARLY_STOPS = 1000


class Host:
    """One engine, shared by every task of this process. All methods are thread-safe."""

    def __init__(self, *, name: str, model: str, served: Served, slots: int) -> None:
        self.name = name
        self.served = served
        self.drained = False
        self._model = model
        self._slots = slots
        self._handles: dict[uuid.UUID, Handle] = {}
        self._early: deque[uuid.UUID] = deque(maxlen=EARLY_STOPS)
        self._at_work = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def start(self, on_events: OnEvents, fit: Callable[[], bool]) -> None:
        """Begin to answer and announce it. `fit` says whether the process can still write what is given out."""
        self.served.start(on_events)
        threading.Thread(target=self._listen, name="control", daemon=True).start()
        threading.Thread(target=self._beat, args=[fit], name="heartbeat", daemon=True).start()

    def close(self) -> None:
        """End the model; an answer that still runs breaks. Blocks until it has stopped."""
        self.served.close()

    def _leave(self) -> None:
        self._closing.set()
        try:
            workers.retire(self.name)
        except RedisError:
            log.warning("left without a word: Redis does not answer", extra={"worker": self.name})

    def drain(self, patience_s: float) -> None:
        """Leave the list of workers, give running answers `patience_s` to end, then cancel the rest. Blocks."""
        self._leave()
        self._wait_for_answers(patience_s)
        self.drained = True
        for generation_id in list(self._handles):
            self.cancel(generation_id)
        self._wait_for_answers(LAST_WRITES_S)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Held by a task from before its claim until after its last write; a drain waits for it."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1

    def begin(
        self,
        generation_id: uuid.UUID,
        turns: Sequence[Turn],
        sampling: Sampling,
        *,
        priority: Priority,
        owner: str,
        resumed: Resumed,
    ) -> Begun:
        """Hand a generation to the model, under its id, so that a stop finds it. Raises ServedError."""
        begun = self.served.begin(turns, sampling, priority=priority, owner=owner, resumed=resumed)
        with self._lock:
            self._handles[generation_id] = begun.handle
            stopped = generation_id in self._early
        if stopped or self.drained:
            begun.handle.cancel()
        return begun

    def cancel(self, generation_id: uuid.UUID) -> None:
        """Stop decoding before the next step. Idempotent; for an id that has not come yet it holds when it comes."""
        with self._lock:
            handle = self._handles.get(generation_id)
            if handle is None:
                self._early.append(generation_id)
        if handle is not None:
            handle.cancel()

    def release(self, generation_id: uuid.UUID, handle: Handle) -> None:
        """Forget a run that has ended here; one that is still being decoded is cancelled.

        A generation that was lost and came back has a handle of its own by then, which stays.
        """
        with self._lock:
            if self._handles.get(generation_id) is handle:
                del self._handles[generation_id]
        handle.cancel()

    def _wait_for_answers(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self._at_work and time.monotonic() < deadline:
            time.sleep(0.05)

    def _listen(self) -> None:
        """Carry out what arrives on the control stream, until the process ends."""
        cursor = "$"
        while True:
            try:
                if cursor == "$":
                    last = stream.client().xrevrange(stream.control_key(self.name), count=1)
                    cursor = last[0][0].decode() if last else "0-0"
                reply = stream.client().xread({stream.control_key(self.name): cursor}, block=CONTROL_BLOCK_MS)
            except RedisError:
                time.sleep(RETRY_S)
                continue
            for entry_id, fields in reply[0][1] if reply else []:
                cursor = entry_id.decode()
                self._obey(fields[b"command"], uuid.UUID(fields[b"generation"].decode()))

    def _obey(self, command: bytes, generation_id: uuid.UUID) -> None:
        if command == b"cancel":
            self.cancel(generation_id)
        else:
            log.warning("unknown command on the control stream", extra={"worker": self.name})

    def _beat(self, fit: Callable[[], bool]) -> None:
        process = psutil.Process()
        while not self._closing.is_set():
            if not (self.served.alive and fit()):
                self._give_up()
                return
            try:
                if self.served.ready:
                    workers.announce(self._announcement(process))
                else:
                    workers.retire(self.name)
            except RedisError:
                log.warning("not announced: Redis does not answer", extra={"worker": self.name})
            self._closing.wait(workers.HEARTBEAT_S)

    def _announcement(self, process: psutil.Process) -> workers.Announcement:
        load = self.served.load()
        return workers.Announcement(
            worker=self.name,
            model=self._model,
            revision=self.served.revision,
            device=self.served.device,
            dtype=self.served.dtype,
            context_length=self.served.context_length,
            slots=self._slots,
            running=load.running,
            waiting=load.waiting,
            tokens_per_s=round(load.tokens_per_s, 1),
            kv_share=round(load.kv_share, 3),
            memory_bytes=process.memory_info().rss,
        )

    def _give_up(self) -> None:
        """Without one of its threads it would fail every message: end the process; a new one does better."""
        log.critical("a thread of the worker has died", extra={"worker": self.name})
        self._leave()
        os.kill(os.getpid(), signal.SIGTERM)
