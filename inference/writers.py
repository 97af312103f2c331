"""The two threads that write what a worker's answers say: tokens to Redis, progress to PostgreSQL.

Each writes for all answers at once, one pipeline or one statement a turn, so that many answers cost little more than
one, and the engine's thread waits for neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from django.db import DatabaseError, InterfaceError, connection
from redis.exceptions import RedisError

from inference import stream
from inference.answers import Answer
from inference.models import Generation

log = logging.getLogger("worker")

EMIT_S = 0.05
PERSIST_S = 1.0


class Writers:
    """Publishes and saves the answers that are added, until each is over."""

    def __init__(self, worker: str) -> None:
        self._publisher = Publisher()
        self._saver = Saver(worker)

    def start(self) -> None:
        self._publisher.start()
        self._saver.start()

    @property
    def alive(self) -> bool:
        return self._publisher.is_alive() and self._saver.is_alive()

    def wake(self, urgent: bool) -> None:
        """Events were given out; `urgent` where somebody waits for them now. For the model's threads; never blocks."""
        self._publisher.wake(urgent)

    def add(self, answer: Answer) -> None:
        self._saver.add(answer)
        self._publisher.add(answer)

    def remove(self, answer: Answer) -> None:
        """Whoever ends an answer writes its last words itself. Idempotent."""
        self._publisher.remove(answer)
        self._saver.remove(answer)


class _Writer(threading.Thread):
    """A thread that writes for all answers added to it."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._answers: set[Answer] = set()
        self._changed = threading.Condition()

    def add(self, answer: Answer) -> None:
        with self._changed:
            self._answers.add(answer)
            self._changed.notify()

    def remove(self, answer: Answer) -> None:
        with self._changed:
            self._answers.discard(answer)


class Publisher(_Writer):
    """Writes tokens to their logs: each EMIT_S, and at once where somebody waits for a first token or an end."""

    def __init__(self) -> None:
        super().__init__("publisher")
        self._some = False
        self._urgent = False
        self._idle = False

    def add(self, answer: Answer) -> None:
        super().add(answer)
        self.wake(urgent=True)

    def wake(self, urgent: bool) -> None:
        with self._changed:
            self._some = True
            self._urgent = self._urgent or urgent
            # While it waits for its next turn anyway, nothing is gained by waking it for each step of the engine.
            if self._urgent or self._idle:
                self._changed.notify()

    def run(self) -> None:
        written = 0.0
        while True:
            self._wait(written + EMIT_S)
            if self._publish():
                written = time.monotonic()

    def _wait(self, due: float) -> None:
        with self._changed:
            self._idle = True
            self._changed.wait_for(lambda: self._some)
            self._idle = False
            self._changed.wait_for(lambda: self._urgent, timeout=max(0.0, due - time.monotonic()))
            self._some = self._urgent = False

    def _publish(self) -> bool:
        """One turn. Whether anything was written."""
        with self._changed:
            answers = list(self._answers)
        gathered = [(answer, answer.gather()) for answer in answers]
        entries = [entry for _, found in gathered for entry in found]
        faults = iter(_write(entries))
        for answer, found in gathered:
            answer.settle([next(faults) for _ in found])
            if answer.over.is_set():
                self.remove(answer)
        return bool(entries)


def _write(entries: Sequence[stream.Entry]) -> Sequence[Exception | None]:
    """What went wrong with each: the same with all where Redis does not answer."""
    if not entries:
        return []
    try:
        return stream.write_all(entries)
    except RedisError as error:
        return [error] * len(entries)


class Saver(_Writer):
    """Saves progress and renews leases each PERSIST_S; what is no longer this worker's to write is cancelled."""

    def __init__(self, worker: str) -> None:
        super().__init__("saver")
        self._worker = worker

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._answers)
            time.sleep(PERSIST_S)
            with self._changed:
                answers = list(self._answers)
            if answers:
                self._save(answers)

    def _save(self, answers: Sequence[Answer]) -> None:
        written = [(answer, answer.progress()) for answer in answers]
        try:
            saved = Generation.objects.persist(
                self._worker, [(answer.generation, progress) for answer, progress in written]
            )
        except (DatabaseError, InterfaceError):
            # Tried again in a second; the leases say how long this may go on.
            log.warning("PostgreSQL does not answer", extra={"worker": self._worker})
            return
        finally:
            # A connection that PostgreSQL has closed must not stay with the thread.
            connection.close()
        for answer, _ in written:
            if (answer.generation.pk, answer.generation.epoch) not in saved:
                answer.cancel()
