"""How long what is queued will wait: its place, and an estimate from what the model's answers took of late.

What answers took is kept in Redis, as figures may be: nobody is billed by them.
"""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from statistics import fmean

from django.utils import timezone
from redis.exceptions import RedisError

from inference import workers
from inference.models import Generation
from inference.stream import client

# So many answers are looked back at, and forgotten after a day without one.
HISTORY = 50
EXPIRY_S = 24 * 3600
# Before any has ended: half a page.
ASSUMED_TOKENS = 256
# Everyone who waits asks every two seconds; they are told from one look at the queue.
FRESH_S = 1.0
_TOOK = struct.Struct("<If")


@dataclass(frozen=True, slots=True)
class Took:
    """An answer that has ended: tokens sampled, and seconds from its claim to its end."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Running:
    """An answer that is being written: tokens so far, the most it may have, and seconds since its claim."""

    tokens: int
    most: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a generation stands: position 1 is next. eta_s is None where nothing is known to tell it by."""

    position: int
    eta_s: float | None


def observe(generation: Generation) -> None:
    """Remember how long an answer took that was written in one piece and to its own end. Raises RedisError."""
    row = generation
    if row.state != Generation.State.DONE or row.crashes or not row.started_at or not row.finished_at:
        return
    key = _key(row.model)
    with client().pipeline(transaction=False) as pipe:
        pipe.lpush(key, _TOOK.pack(row.completion_tokens, (row.finished_at - row.started_at).total_seconds()))
        pipe.ltrim(key, 0, HISTORY - 1)
        pipe.expire(key, EXPIRY_S)
        pipe.execute()


def place_of(generation: Generation) -> Place | None:
    """Its place in its model's queue; None where it waits no more. At most one look at the queue each FRESH_S."""
    with _lock:
        looked, places = _looks.get(generation.model, (0.0, {}))
        if generation.pk not in places or time.monotonic() - looked > FRESH_S:
            places = _look(generation.model)
            _looks[generation.model] = (time.monotonic(), places)
        return places.get(generation.pk)


def estimate(
    running: Sequence[Running], queued: Sequence[int], *, slots: int, history: Sequence[Took]
) -> list[float] | None:
    """Seconds until each of `queued`, told by the most tokens it may have, begins. None where no speed is known.

    The queue is played forward: whoever is next takes the slot that becomes free first. How many tokens an answer will
    have is the mean of the answers in `history` that had more than it has already, each cut at its own most.
    """
    timed = [took for took in history if took.tokens] or [Took(job.tokens, job.seconds) for job in running]
    tokens = sum(took.tokens for took in timed)
    if not tokens or not slots:
        return None
    pace_s = sum(took.seconds for took in timed) / tokens
    lengths = [took.tokens for took in history]
    free = [pace_s * _left(job.tokens, job.most, lengths) for job in running]
    free += [0.0] * (slots - len(free))
    # More run than there are slots where a worker has just gone: its answers are taken up again.
    heapify(free)
    starts = []
    for most in queued:
        starts.append(heappop(free))
        heappush(free, starts[-1] + pace_s * _left(0, most, lengths))
    return starts


def _left(said: int, most: int, lengths: Sequence[int]) -> float:
    """How many more tokens are to be expected of an answer that has `said` so many."""
    longer = [min(length, most) - said for length in lengths if length > said]
    if longer:
        return max(0.0, fmean(longer))
    # Longer than any before: half of what is left, but no more than it has already.
    usual = said or ASSUMED_TOKENS
    return min(usual, (most - said) / 2 if said else most)


def _look(model: str) -> dict[uuid.UUID, Place]:
    rows = list(
        Generation.objects.queued()
        .filter(model=model)
        .order_by("created_at", "id")
        .values_list("id", "sampling__max_tokens")
    )
    if not rows:
        return {}
    starts = _estimate(model, [int(most or ASSUMED_TOKENS) for _, most in rows])
    return {pk: Place(place + 1, starts[place] if starts else None) for place, (pk, _) in enumerate(rows)}


def _estimate(model: str, queued: Sequence[int]) -> list[float] | None:
    try:
        slots = sum(worker.slots for worker in workers.living() if worker.model == model)
        history = [Took(*_TOOK.unpack(packed)) for packed in client().lrange(_key(model), 0, -1)]
    except RedisError:
        return None
    now = timezone.now()
    fields = ("completion_tokens", "sampling__max_tokens", "started_at")
    running = [
        Running(tokens, int(most or ASSUMED_TOKENS), (now - started).total_seconds())
        for tokens, most, started in Generation.objects.running().filter(model=model).values_list(*fields)
    ]
    return estimate(running, queued, slots=slots, history=history)


def _key(model: str) -> str:
    return f"took:{model}"


_lock = threading.Lock()
_looks: dict[str, tuple[float, dict[uuid.UUID, Place]]] = {}
