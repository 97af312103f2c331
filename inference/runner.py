"""One answer, from its claim to its end, on a thread of the worker.

The engine samples on a thread of its own and never waits for this one. Here tokens are gathered for at most 50 ms into
one entry of the token log, saved each second together with the lease, and closed by one terminal write. The runner
holds no truth: if the row or the log says that another epoch owns the generation, it stops and writes nothing more.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone
from redis.exceptions import RedisError

from inference import metrics, stream
from inference.errors import ContextExceeded, EngineFailed, WorkerLost
from inference.models import LEASE_S, Generation, Outcome, Progress
from inference.stream import Fenced, TokenLog
from inference.types import Channel, Delta, Finished, FinishReason, Sampling, Turn

if TYPE_CHECKING:
    from inference.engine.requests import Handle
    from inference.host import Host

log = logging.getLogger("worker")

EMIT_S = 0.05
PERSIST_S = 1.0
RETRY_S = 0.5

T = TypeVar("T")

# The engine of this process, set by the worker once its model is loaded.
host: Host | None = None


def run(generation_id: uuid.UUID) -> None:
    """Claim the generation and write it to its end. Does nothing where another worker has it, or it is over."""
    if host is None:
        raise RuntimeError("this process is no worker: it has no engine")
    with host.at_work():
        generation = _stored(lambda: Generation.objects.claim(generation_id, host.name))
        if generation is None:
            _count_lost_claim(generation_id)
            return
        answer = Answer(generation, host)
        try:
            answer.write()
        except Exception:
            # The one boundary of the system: whatever breaks here must not leave a row running until its lease ends.
            log.exception("generation broke", extra={"generation": generation_id})
            if answer.outcome is None:
                answer.end(Outcome(Generation.State.FAILED, error_code=EngineFailed.code))
        finally:
            host.release(generation_id)


def _stored(operation: Callable[[], T]) -> T:
    """One database operation, and the connection back to the pool: an answer takes minutes and a statement a few
    milliseconds, and a connection that PostgreSQL has closed must not stay with the thread."""
    try:
        return operation()
    finally:
        connection.close()


def _count_lost_claim(generation_id: uuid.UUID) -> None:
    log.debug("nothing to claim", extra={"generation": generation_id})
    with suppress(RedisError):
        metrics.count("claim_lost")


@dataclass
class Answer:
    """The state of one run: what has been written to the log, and what still waits to be."""

    generation: Generation
    host: Host
    text: dict[Channel, str] = field(default_factory=lambda: dict.fromkeys(Channel, ""))
    token_ids: list[int] = field(default_factory=list)
    pending: list[Delta] = field(default_factory=list)
    lost: bool = False
    unreachable: bool = False
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.log = TokenLog(self.generation.pk, self.generation.epoch)

    def write(self) -> None:
        sampling = Sampling(**{**self.generation.sampling, "stop": tuple(self.generation.sampling["stop"])})
        turns = [Turn(**turn) for turn in self.generation.prompt]
        prompt = self.host.prompt(turns, sampling.max_tokens)
        if prompt is None:
            return self.end(Outcome(Generation.State.FAILED, error_code=ContextExceeded.code))
        handle = self.host.submit(self.generation.pk, prompt.ids, replace(sampling, max_tokens=prompt.max_tokens))
        self._open(len(prompt.ids), prompt.dropped_turns)
        finished = self._pump(handle)
        if self.lost:
            return
        unsaid = self.host.drained and finished.reason is FinishReason.CANCELLED and not self.token_ids
        # Nothing was said yet: another worker can begin afresh, and the sweeper sends it there.
        if unsaid and _stored(self.generation.hand_back):
            return
        self.end(self._outcome(finished))

    def _pump(self, handle: Handle) -> Finished:
        """Move tokens from the engine to the log and to PostgreSQL until the engine has ended. Blocks."""
        emitted = 0.0
        persisted = time.monotonic()
        while True:
            now = time.monotonic()
            due = min(emitted + EMIT_S if self.pending else now + PERSIST_S, persisted + PERSIST_S)
            event = handle.get(timeout=max(0.0, due - now))
            if isinstance(event, Finished):
                return event
            if event is not None:
                self._take(event)
            now = time.monotonic()
            if self.pending and now - emitted >= EMIT_S:
                self._emit()
                emitted = now
            if now - persisted >= PERSIST_S and not self.lost:
                self._persist()
                persisted = now
            if self.lost:
                self.host.abort(self.generation.pk)

    def _take(self, delta: Delta) -> None:
        if not self.token_ids and delta.token_ids:
            self.generation.first_token_at = timezone.now()
        self.pending.append(delta)
        self.token_ids.extend(delta.token_ids)

    def _open(self, prompt_tokens: int, dropped_messages: int) -> None:
        fields = {"prompt_tokens": prompt_tokens, "dropped_messages": dropped_messages}
        try:
            self.log.open(**fields)
        except Fenced:
            self.lost = True
        except RedisError:
            self.unreachable = True
        read = partial(self.generation.read_prompt, **fields, revision=self.host.revision)
        if not self.lost and not _stored(read):
            self.lost = True

    def _emit(self) -> None:
        """Write what is pending to the log, one entry per run of a channel.

        After an error nobody knows whether the entry has arrived; nothing more is tried until `_pass_over`.
        """
        if self.unreachable:
            return
        try:
            while self.pending:
                channel, group = next(groupby(self.pending, key=attrgetter("channel")))
                run = list(group)
                text = "".join(delta.text for delta in run)
                self.log.append(text, [token for delta in run for token in delta.token_ids], channel)
                self.text[channel] += text
                del self.pending[: len(run)]
        except Fenced:
            self.lost = True
        except RedisError:
            self.unreachable = True
            log.warning("token log unreachable", extra={"generation": self.generation.pk})

    def _pass_over(self) -> None:
        """Redis did not take what is pending: keep it in PostgreSQL alone, and leave a gap that followers notice."""
        for delta in self.pending:
            self.text[delta.channel] += delta.text
        self.pending.clear()
        self.unreachable = False
        self.log.skip()

    def _persist(self) -> None:
        if self.unreachable:
            self._pass_over()
        try:
            kept = _stored(lambda: self.generation.persist(self._progress()))
        except (DatabaseError, InterfaceError):
            # Tried again in a second; the lease says how long this may go on.
            log.warning("PostgreSQL does not answer", extra={"generation": self.generation.pk})
            return
        if not kept:
            self.host.abort(self.generation.pk)

    def end(self, outcome: Outcome) -> None:
        """Log what is pending, write the terminal row, then mark the log's end. Writes nothing once lost."""
        self.outcome = outcome
        self._emit()
        if self.unreachable:
            self._pass_over()
        if self.lost or not self._finish(outcome):
            log.warning("lost to a newer epoch", extra={"generation": self.generation.pk})
            return
        try:
            self.log.close()
            stream.tell_owner(self.generation.owner_id, self.generation.pk)
            metrics.observe(self.generation)
        except (RedisError, Fenced):
            log.warning("token log unreachable", extra={"generation": self.generation.pk})
        self._report()

    def _finish(self, outcome: Outcome) -> bool:
        """The terminal write; tried again while PostgreSQL is away, for as long as the lease may hold."""
        deadline = time.monotonic() + LEASE_S
        while True:
            try:
                return _stored(lambda: self.generation.finish(outcome, self._progress()))
            except (DatabaseError, InterfaceError):
                if time.monotonic() > deadline:
                    raise
                log.warning("PostgreSQL does not answer", extra={"generation": self.generation.pk})
                time.sleep(RETRY_S)

    def _progress(self) -> Progress:
        """What the log holds: text and ids that no entry has carried yet are left out until one has."""
        waiting = sum(len(delta.token_ids) for delta in self.pending)
        ids = self.token_ids[: len(self.token_ids) - waiting]
        return Progress(self.text[Channel.ANSWER], self.text[Channel.REASONING], ids, self.log.seq)

    def _outcome(self, finished: Finished) -> Outcome:
        if finished.reason is FinishReason.ERROR:
            log.error("engine failed", extra={"generation": self.generation.pk, "code": EngineFailed.code})
            return Outcome(Generation.State.FAILED, error_code=EngineFailed.code)
        cut_off = finished.reason is FinishReason.CANCELLED and self.host.drained
        if cut_off and not _stored(self.generation.stop_was_asked_for):
            return Outcome(Generation.State.INTERRUPTED, error_code=WorkerLost.code)
        state = Generation.State.CANCELLED if finished.reason is FinishReason.CANCELLED else Generation.State.DONE
        return Outcome(state, finished.reason)

    def _report(self) -> None:
        row = self.generation
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
