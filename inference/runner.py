"""One answer, from its claim to its end, on a thread of the worker.

The engine samples on a thread of its own and never waits for this one. Here tokens are gathered for at most 50 ms into
one entry of the token log, saved each second together with the lease, and closed by one terminal write. The runner
holds no truth: if the row or the log says that another epoch owns the generation, it stops and writes nothing more.
What another worker began it goes on with, from the text and the token ids that the row has.
"""

from __future__ import annotations

import logging
import time
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
from inference.errors import ContextExceeded, EngineFailed
from inference.models import LEASE_S, Generation, Outcome, Progress
from inference.stream import Fenced, TokenLog
from inference.types import Channel, Delta, Finished, FinishReason, Priority, Sampling, Turn

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


def run(model: str, door: str) -> None:
    """Claim the oldest generation of a queue and write it to its end. Does nothing where none waits any more."""
    if host is None:
        raise RuntimeError("this process is no worker: it has no engine")
    with host.at_work():
        generation = _stored(lambda: Generation.objects.claim(host.name, model=model, door=door))
        if generation is None:
            _count_lost_claim(model, door)
            return
        answer = Answer(generation, host)
        try:
            answer.write()
        except Exception:
            # The one boundary of the system: whatever breaks here must not leave a row running until its lease ends.
            log.exception("generation broke", extra={"generation": generation.pk})
            if answer.outcome is None:
                answer.end(Outcome(Generation.State.FAILED, error_code=EngineFailed.code))
        finally:
            answer.release()


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


@dataclass
class Answer:
    """The state of one run: what has been written to the log, and what still waits to be.

    `held` is text that the engine gave out at the end alone, as it might have become something else (half a stop
    string). It belongs to the answer when it ends here: a worker that goes on holds it back itself.
    """

    generation: Generation
    host: Host
    pending: list[Delta] = field(default_factory=list)
    held: list[Delta] = field(default_factory=list)
    handle: Handle | None = None
    lost: bool = False
    unreachable: bool = False
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        row = self.generation
        self.log = TokenLog(row.pk, row.epoch)
        self.text = {Channel.ANSWER: row.text, Channel.REASONING: row.reasoning}
        self.token_ids = stream.unpack_ids(bytes(row.token_ids))

    def write(self) -> None:
        sampling = Sampling.read(self.generation.sampling)
        turns = [Turn(**turn) for turn in self.generation.prompt]
        prompt = self.host.prompt(turns, sampling.max_tokens)
        if prompt is None:
            return self.end(Outcome(Generation.State.FAILED, error_code=ContextExceeded.code))
        sampling = replace(sampling, max_tokens=prompt.max_tokens)
        self.handle = self.host.submit(
            self.generation.pk,
            prompt.ids,
            sampling,
            priority=Priority(self.generation.door),
            owner=str(self.generation.owner_id),
            resume_ids=self.token_ids,
        )
        self._open(len(prompt.ids), self.generation.cut_turns + prompt.dropped_turns)
        finished = self._pump(self.handle)
        cut_off = self.host.drained and finished.reason is FinishReason.CANCELLED
        if not self.lost and not (cut_off and self._hand_back()):
            self.end(self._outcome(finished))

    def release(self) -> None:
        """Take the request from the engine, if it is still there. The same generation may run here anew by now."""
        if self.handle is not None:
            self.host.release(self.generation.pk, self.handle)

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
                if not self._persist():
                    handle.cancel()
                persisted = now
            if self.lost:
                handle.cancel()

    def _take(self, delta: Delta) -> None:
        self.held.append(delta)
        if not delta.token_ids:
            return
        if self.generation.first_token_at is None:
            self.generation.first_token_at = timezone.now()
        self.pending += self.held
        self.held.clear()
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

    def _persist(self) -> bool:
        """Whether the row is still this run's to write."""
        if self.unreachable:
            self._pass_over()
        try:
            return _stored(lambda: self.generation.persist(self._progress()))
        except (DatabaseError, InterfaceError):
            # Tried again in a second; the lease says how long this may go on.
            log.warning("PostgreSQL does not answer", extra={"generation": self.generation.pk})
            return True

    def end(self, outcome: Outcome) -> None:
        """Log what is pending, write the terminal row, then mark the log's end. Writes nothing once lost."""
        self.outcome = outcome
        self._flush()
        for delta in self.held:
            self.text[delta.channel] += delta.text
        if self.lost or not self._finish(outcome):
            log.warning("lost to a newer epoch", extra={"generation": self.generation.pk})
            return
        try:
            for delta in self.held:
                self.log.append(delta.text, (), delta.channel)
            self.log.close()
            stream.tell_owner(self.generation.owner_id, self.generation.pk)
            metrics.observe(self.generation)
        except (RedisError, Fenced):
            log.warning("token log unreachable", extra={"generation": self.generation.pk})
        self._report()

    def _hand_back(self) -> bool:
        """Queue the answer again for another worker; the sweeper tells of it. False where its owner has stopped it."""
        self._flush()
        return not self.lost and _stored(lambda: self.generation.hand_back(self._progress()))

    def _flush(self) -> None:
        self._emit()
        if self.unreachable:
            self._pass_over()

    def _finish(self, outcome: Outcome) -> bool:
        """The terminal write; tried again while PostgreSQL is away, for as long as the lease may hold."""
        deadline = time.monotonic() + LEASE_S
        # What was held comes to the log after this: were it there before, a crash in between would have it said twice.
        progress = replace(self._progress(), seq=self.log.seq + len(self.held))
        while True:
            try:
                return _stored(lambda: self.generation.finish(outcome, progress))
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
