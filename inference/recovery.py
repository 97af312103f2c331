"""What the scheduler does every few seconds: lost messages are sent again, lost workers' answers are ended.

Each function is idempotent and may run in several processes at once.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from inference import metrics, stream, tasks, workers
from inference.errors import NeverStarted, WorkerLost
from inference.models import Generation
from inference.stream import EventId
from inference.types import Channel

log = logging.getLogger("recovery")

RESEND_AFTER_S = 5
GIVE_UP_AFTER_S = 60
BATCH = 100


def sweep() -> int:
    """Send queued generations again whose message was lost. Returns how many.

    While a queue holds messages, its rows are only waiting their turn; an empty queue with old rows has lost some.
    A claim decides in PostgreSQL, so a message too many does no harm. Raises RedisError.
    """
    old = Generation.objects.queued().filter(created_at__lt=timezone.now() - timedelta(seconds=RESEND_AFTER_S))
    sent = 0
    for model, door in old.values_list("model", "door").distinct():
        if tasks.backlog(model, door):
            continue
        for generation in old.filter(model=model, door=door).order_by("created_at")[:BATCH]:
            tasks.enqueue(generation)
            sent += 1
    if sent:
        log.info("sent queued generations again", extra={"count": sent})
    return sent


def give_up(absent_since: dict[str, datetime]) -> int:
    """End queued generations whose model has had no worker for GIVE_UP_AFTER_S. Raises RedisError.

    `absent_since` is the caller's memory between calls: a worker that restarts is away for some seconds only, and what
    waited for long before must not be given up for that.
    """
    now = timezone.now()
    served = {worker.model for worker in workers.living()}
    waiting = set(Generation.objects.queued().values_list("model", flat=True).distinct())
    for model in served | (absent_since.keys() - waiting):
        absent_since.pop(model, None)
    for model in waiting - served:
        absent_since.setdefault(model, now)
    patience = timedelta(seconds=GIVE_UP_AFTER_S)
    gone = [model for model, since in absent_since.items() if now - since >= patience]
    ended = 0
    for generation in Generation.objects.queued().filter(model__in=gone, created_at__lt=now - patience)[:BATCH]:
        row = Generation.objects.queued().filter(pk=generation.pk)
        fields = {"state": Generation.State.FAILED, "error_code": NeverStarted.code, "finished_at": now}
        if row.update(**fields):
            _announce_end(generation)
            ended += 1
    return ended


def reap() -> int:
    """End running generations whose worker has let its lease run out, with all that it wrote. Returns how many.

    The epoch is raised and the log fenced first; then nothing can be added to the tail that is read. Raises RedisError.
    """
    reaped = 0
    while True:
        with transaction.atomic():
            generation = Generation.objects.expired().first()
            if generation is None:
                return reaped
            _interrupt(generation)
        _announce_end(generation)
        reaped += 1
        metrics.count("worker_lost")
        log.warning("worker lost", extra={"generation": generation.pk, "worker": generation.worker})


def _interrupt(generation: Generation) -> None:
    last = EventId(generation.epoch, generation.last_seq)
    generation.epoch += 1
    stream.fence(generation.pk, generation.epoch)
    events = stream.tail(generation.pk, last)
    token_ids = bytes(generation.token_ids) + b"".join(event.token_ids for event in events)
    generation.text += "".join(event.text for event in events if event.channel is Channel.ANSWER)
    generation.reasoning += "".join(event.text for event in events if event.channel is Channel.REASONING)
    generation.token_ids = token_ids
    generation.completion_tokens = len(stream.unpack_ids(token_ids))
    stopped = generation.cancel_requested_at is not None
    generation.state = Generation.State.CANCELLED if stopped else Generation.State.INTERRUPTED
    generation.finish_reason = "cancelled" if stopped else ""
    generation.error_code = "" if stopped else WorkerLost.code
    generation.last_seq = 0
    generation.lease_until, generation.finished_at = None, timezone.now()
    generation.save()


def _announce_end(generation: Generation) -> None:
    try:
        stream.end(generation.pk, generation.epoch, generation.last_seq)
    except stream.Fenced:
        log.info("ended twice", extra={"generation": generation.pk})
    stream.tell_owner(generation.owner_id, generation.pk)
