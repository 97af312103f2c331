"""One answer, from its claim to its end, on a thread of the worker.

The engine samples on a thread of its own, and two more write what it gives out (`inference.writers`). This one begins:
claim, prompt, the log's first entry; waits; and ends: one terminal write, then the log's end mark. The runner holds no
truth: if the row or the log says that another epoch owns the generation, it stops and writes nothing more. What another
worker began it goes on with, from the text and the token ids that the row has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, connection
from redis.exceptions import RedisError

from inference import metrics, stream, waits
from inference.answers import Answer
from inference.errors import EngineFailed, WorkerLost
from inference.host import Host
from inference.models import LEASE_S, Generation, Outcome
from inference.served import ServedError
from inference.stream import Fenced
from inference.types import Finished, FinishReason, Priority, Sampling, Turn
from inference.writers import Writers

log = logging.getLogger("worker")

RETRY_S = 0.5

T = TypeVar("T")

# What this process answers with, set by the worker once its model is loaded.
runner: Runner | None = None


def run(model: str, door: str) -> None:
    """Claim the oldest generation of a queue and write it to its end. Does nothing where none waits any more."""
    if runner is None:
        raise RuntimeError("this process is no worker: it has no model")
    runner.run(model, door)


class Runner:
    """Answers with what a host serves. All methods are thread-safe."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.writers = Writers(host.name)

    def start(self) -> None:
        self.writers.start()
        self.host.start(self.writers.wake, lambda: self.writers.alive)

    def stop(self, patience_s: float) -> None:
        """Let answers end for so long, hand the rest back, and end the model. Blocks."""
        self.host.drain(patience_s)
        self.host.close()

    def run(self, model: str, door: str) -> None:
        """Claim and answer; blocks until the answer is over."""
        with self.host.at_work():
            generation = _stored(lambda: Generation.objects.claim(self.host.name, model=model, door=door))
            if generation is None:
                _count_lost_claim(model, door)
                return
            self.answer(Answer(generation))

    def answer(self, answer: Answer) -> None:
        """Write an answer that was claimed, to its end."""
        outcome: Outcome | None = None
        try:
            outcome = self._write(answer)
            self._end(answer, outcome)
        except Exception:
            # The one boundary of the system: whatever breaks here must not leave a row running until its lease ends.
            log.exception("generation broke", extra={"generation": answer.generation.pk})
            if outcome is None:
                self._end(answer, Outcome(Generation.State.FAILED, error_code=EngineFailed.code))
        finally:
            self.writers.remove(answer)
            if answer.handle is not None:
                self.host.release(answer.generation.pk, answer.handle)

    def _write(self, answer: Answer) -> Outcome:
        row = answer.generation
        try:
            begun = self.host.begin(
                row.pk,
                [Turn(**turn) for turn in row.prompt],
                Sampling.read(row.sampling),
                priority=Priority(row.door),
                owner=str(row.owner_id),
                resumed=answer.resumed,
            )
        except ServedError as error:
            log.warning("not taken", extra={"generation": row.pk, "code": error.code})
            return Outcome(_failed(error.code), error_code=error.code)
        answer.handle = begun.handle
        dropped = row.cut_turns + begun.dropped_turns
        answer.open(prompt_tokens=begun.prompt_tokens or 0, dropped_messages=dropped)
        read = partial(
            row.read_prompt,
            prompt_tokens=begun.prompt_tokens,
            dropped_messages=dropped,
            revision=self.host.served.revision,
        )
        if not answer.lost and not _stored(read):
            answer.lost = True
        if not answer.lost:
            self.writers.add(answer)
            answer.over.wait()
        return _outcome(answer)

    def _end(self, answer: Answer, outcome: Outcome) -> None:
        """Write the terminal row, then mark the log's end; where the worker ends first, hand the answer back instead.

        Writes nothing for an answer that is lost.
        """
        # A save of the saver's that is under way finds the row no longer running.
        self.writers.remove(answer)
        row = answer.generation
        if not answer.lost and self._hand_back(answer, outcome):
            return
        if answer.lost or not _finish(answer, outcome):
            log.warning("lost to a newer epoch", extra={"generation": row.pk})
            return
        try:
            answer.close()
            stream.tell_owner(row.owner_id, row.pk)
            metrics.observe(row)
            waits.observe(row)
        except (RedisError, Fenced):
            log.warning("token log unreachable", extra={"generation": row.pk})
        _report(row)

    def _hand_back(self, answer: Answer, outcome: Outcome) -> bool:
        """Queue an answer again that was cut off by a drain, or with the model itself, which counts as a crash."""
        row = answer.generation
        if self.host.drained and outcome.state == Generation.State.CANCELLED:
            return _stored(lambda: row.hand_back(answer.progress()))
        crashed = outcome.state == Generation.State.INTERRUPTED and not self.host.served.alive
        return crashed and row.may_crash_again and _stored(lambda: row.hand_back(answer.progress(), crashed=True))


def _stored(operation: Callable[[], T]) -> T:
    """One database operation, and the connection back to the pool: an answer takes minutes and a statement a few
    milliseconds, and a connection that PostgreSQL has closed must not stay with the thread."""
    try:
        return operation()
    finally:
        connection.close()


def _count_lost_claim(model: str, door: str) -> None:
    log.debug("nothing to claim", extra={"model": model, "door": door})
    with suppress(RedisError):
        metrics.count("claim_lost")


def _finish(answer: Answer, outcome: Outcome) -> bool:
    """The terminal write; tried again while PostgreSQL is away, for as long as the lease may hold."""
    deadline = time.monotonic() + LEASE_S
    progress = answer.last()
    while True:
        try:
            return _stored(lambda: answer.generation.finish(outcome, progress))
        except (DatabaseError, InterfaceError):
            if time.monotonic() > deadline:
                raise
            log.warning("PostgreSQL does not answer", extra={"generation": answer.generation.pk})
            time.sleep(RETRY_S)


def _outcome(answer: Answer) -> Outcome:
    finished = answer.finished or Finished(FinishReason.CANCELLED)
    ended = partial(Outcome, cached_tokens=finished.cached_tokens, prompt_tokens=finished.prompt_tokens)
    if finished.reason is FinishReason.ERROR:
        code = finished.code or EngineFailed.code
        log.error("engine failed", extra={"generation": answer.generation.pk, "code": code})
        return ended(_failed(code), error_code=code)
    state = Generation.State.CANCELLED if finished.reason is FinishReason.CANCELLED else Generation.State.DONE
    return ended(state, finished.reason)


def _failed(code: str) -> Generation.State:
    """An answer that cannot go on where it was cut off is interrupted, and its text stays; any other has failed."""
    return Generation.State.INTERRUPTED if code == WorkerLost.code else Generation.State.FAILED


def _report(row: Generation) -> None:
    log.info(
        "answered",
        extra={
            "request_id": row.request_id,
            "generation": row.pk,
            "model": row.model,
            "door": row.door,
            "state": row.state,
            "code": row.error_code,
            "epoch": row.epoch,
            "ttft_ms": row.ttft_ms,
            "completion_tokens": row.completion_tokens,
            "tokens_per_s": row.tokens_per_s,
        },
    )
