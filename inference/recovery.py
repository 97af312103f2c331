"""What the scheduler does every few seconds: lost messages are sent again, lost workers' answers go on elsewhere.

Each function is idempotent and may run in several processes at once.
"""

from __future__ import annotations

import logging
import struct
import uuid
from datetime import datetime, timedelta

from django.db import DatabaseError
from django.db.models import Count
from django.utils import timezone
from kombu.exceptions import OperationalError
from redis.exceptions import ResponseError

from inference import metrics, stream, tasks, workers
from inference.errors import NeverStarted, WorkerLost
from inference.models import Generation, Outcome, Progress
from inference.stream import EventId
from inference.types import Channel, FinishReason

log = logging.getLogger("recovery")

RESEND_AFTER_S = 5
GIVE_UP_AFTER_S = 60
ABANDON_AFTER_S = 600
BATCH = 100
# What is wrong with one row or its log alone; where Redis or PostgreSQL is away, the others would not fare better.
UNREADABLE = (ResponseError, DatabaseError, ValueError, KeyError, struct.error)


def sweep() -> int:
    """Send the messages that queued generations lack. Returns how many. One query; raises RedisError.

    A message stands for no generation in particular, so what counts is how many there are: at least one for each row
    that has waited for a while. One too many does no harm, as the claim decides in PostgreSQL.
    """
    old = Generation.objects.queued().filter(created_at__lt=timezone.now() - timedelta(seconds=RESEND_AFTER_S))
    sent = 0
    for model, door, waiting in old.values_list("model", "door").annotate(waiting=Count("pk")):
        for _ in range(min(waiting - tasks.backlog(model, door), BATCH)):
            tasks.enqueue(model, door)
            sent += 1
    if sent:
        log.info("sent messages again", extra={"count": sent})
    return sent


def give_up(absent_since: dict[str, datetime]) -> int:
    """End queued generations whose model has had no worker for GIVE_UP_AFTER_S, nor one that loads. Raises RedisError.

    `absent_since` is the caller's memory between calls: a worker that restarts is away for some seconds only, and what
    waited for long before must not be given up for that.
    """
    now = timezone.now()
    served = {worker.model for worker in workers.living()} | {worker.model for worker in workers.loading()}
    waiting = set(Generation.objects.queued().values_list("model", flat=True).distinct())
    for model in served | (absent_since.keys() - waiting):
        absent_since.pop(model, None)
    for model in waiting - served:
        absent_since.setdefault(model, now)
    patience = timedelta(seconds=GIVE_UP_AFTER_S)
    gone = [model for model, since in absent_since.items() if now - since >= patience]
    ended = 0
    for generation in Generation.objects.queued().filter(model__in=gone, created_at__lt=now - patience)[:BATCH]:
        row = Generation.objects.queued().filter(pk=generation.pk, epoch=generation.epoch)
        state, code = Generation.State.FAILED, NeverStarted.code
        if generation.token_ids:
            # Handed back in mid-answer, and nobody came to go on.
            state, code = Generation.State.INTERRUPTED, WorkerLost.code
        if row.update(state=state, error_code=code, finished_at=now):
            _announce_end(generation)
            ended += 1
    return ended


def reap() -> int:
    """Queue generations again whose worker has let its lease run out, with all that it wrote. Returns how many.

    Each is taken over in one short statement, and no lock is held while Redis is asked: a reaper that is lost itself
    lets the lease run out again. A row that cannot be read is told of, holds up no other, and is tried again when this
    reaper's lease on it has run out; ABANDON_AFTER_S from its start it ends with what was saved. Raises RedisError
    where Redis is away.
    """
    name = f"reaper-{uuid.uuid4().hex}"
    reaped = 0
    while generation := Generation.objects.take_over(name):
        try:
            reaped += _recover(generation)
        except UNREADABLE:
            log.exception("not reaped", extra={"generation": generation.pk, "epoch": generation.epoch})
            reaped += _abandon(generation)
    return reaped


def _recover(generation: Generation) -> bool:
    """Send a generation to another worker, or end it where it must not go on. False where the row was lost meanwhile.

    The log is fenced first; then nothing can be added to the tail that is read.
    """
    stream.fence(generation.pk, generation.epoch + 1)
    written = _written(generation)
    if generation.may_crash_again and generation.hand_back(written, crashed=True):
        _send(generation)
    elif generation.finish(_outcome(generation), written, crashed=True):
        _announce_end(generation)
    else:
        return False
    metrics.count("worker_lost")
    log.warning(
        "worker lost",
        extra={"request_id": generation.request_id, "generation": generation.pk, "worker": generation.lost_worker},
    )
    return True


def _abandon(generation: Generation) -> bool:
    """End what could not be read for so long that it never will be. It keeps what was saved; its log stays as it is."""
    started = generation.started_at or generation.created_at
    if timezone.now() - started < timedelta(seconds=ABANDON_AFTER_S) or not generation.abandon(WorkerLost.code):
        return False
    metrics.count("worker_lost")
    stream.tell_owner(generation.owner_id, generation.pk)
    return True


def _written(generation: Generation) -> Progress:
    """What was saved and what the log holds beyond it, as the first place of the epoch that follows."""
    events = stream.tail(generation.pk, EventId(generation.epoch, generation.last_seq))
    thoughts = [event for event in events if event.channel is Channel.REASONING]
    return Progress(
        text=generation.text + "".join(event.text for event in events if event.channel is Channel.ANSWER),
        reasoning=generation.reasoning + "".join(event.text for event in thoughts),
        token_ids=stream.unpack_ids(bytes(generation.token_ids) + b"".join(event.token_ids for event in events)),
        tokens=generation.completion_tokens + sum(event.tokens for event in events),
        reasoning_tokens=generation.reasoning_tokens + sum(event.tokens for event in thoughts),
        seq=0,
    )


def _outcome(generation: Generation) -> Outcome:
    if generation.stop_was_asked_for():
        return Outcome(Generation.State.CANCELLED, FinishReason.CANCELLED)
    return Outcome(Generation.State.INTERRUPTED, error_code=WorkerLost.code)


def _send(generation: Generation) -> None:
    try:
        tasks.enqueue(generation.model, generation.door)
    except OperationalError:
        log.warning("queued without a message", extra={"generation": generation.pk})


def _announce_end(generation: Generation) -> None:
    try:
        stream.end(generation.pk, generation.epoch, generation.last_seq)
    except stream.Fenced:
        log.info("ended twice", extra={"generation": generation.pk})
    stream.tell_owner(generation.owner_id, generation.pk)
