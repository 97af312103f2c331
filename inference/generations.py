"""The service both doors call: start a generation, stop it, and tell how it stands.

Synchronous, one operation one function. Following a generation's text is `inference.following`; what happens when a
worker or Redis is lost is `inference.recovery`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from accounts.models import User
from inference import history, stream, tasks, workers
from inference.availability import catalog
from inference.catalog import ModelSpec
from inference.errors import (
    AlreadyStarted,
    CannotContinue,
    IdempotencyConflict,
    NoWorker,
    QueueFull,
    TooManyActive,
    Unavailable,
    UnknownModel,
)
from inference.models import Generation
from inference.types import FinishReason, Sampling, Turn

log = logging.getLogger("generations")

# More than tokens hold on average in any language: what is over the context's length of these can never be read.
BYTES_PER_TOKEN = 16
# What a copy of a generation has of the original: no counts, as it has sampled nothing.
COPIED = (
    *("owner_id", "door", "model", "revision", "cut_turns", "sampling", "state", "text", "reasoning", "held_text"),
    *("held_reasoning", "dropped_messages", "finish_reason", "error_code", "created_at", "finished_at"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a person or client set of the sampling; None stands for the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A validated wish for an answer. `key` and `fingerprint` make it idempotent per owner."""

    owner: User
    door: str
    model: ModelSpec
    turns: Sequence[Turn]
    options: Options
    key: uuid.UUID
    fingerprint: bytes
    request_id: str = ""


def fingerprint(body: object) -> bytes:
    """SHA-256 of a request's JSON form; equal bodies have equal fingerprints, whatever their fields' order."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).digest()


def find(owner: User, key: uuid.UUID, body: bytes) -> Generation | None:
    """The generation that this owner asked for under this key. Raises IdempotencyConflict for another body."""
    found = Generation.objects.filter(owner=owner, idempotency_key=key).first()
    if found and bytes(found.request_hash) != body:
        raise IdempotencyConflict
    return found


def start(request: Request) -> Generation:
    """Insert a queued generation, and tell the workers of its model when the caller's transaction commits.

    Of a long conversation it keeps what the context could hold. Call it inside a transaction that has locked the
    owner's row, has asked `find`, and was admitted.
    """
    turns, cut = history.cut(request.turns, request.model.context_length * BYTES_PER_TOKEN)
    generation = Generation.objects.create(
        owner=request.owner,
        door=request.door,
        model=request.model.slug,
        prompt=[asdict(turn) for turn in turns],
        cut_turns=cut,
        sampling=asdict(_sampling(request.model, request.options)),
        idempotency_key=request.key,
        request_hash=request.fingerprint,
        request_id=request.request_id,
    )
    transaction.on_commit(lambda: _send(generation))
    return generation


def go_on(earlier: Generation, *, model: ModelSpec, key: uuid.UUID, fingerprint: bytes, request_id: str) -> Generation:
    """Insert a queued generation that goes on where `earlier` ended, in the same sentence. As `start` otherwise.

    It looks like one that a worker has handed back in its first epoch, so that workers and followers need to know
    nothing of it. It may sample as many tokens as `earlier` might, and counts those alone. Raises CannotContinue.
    """
    carried = earlier.carried_tokens + earlier.completion_tokens
    if not _can_go_on(earlier, carried, model.context_length):
        raise CannotContinue
    room = earlier.sampling["max_tokens"] - earlier.carried_tokens
    generation = Generation.objects.create(
        owner=earlier.owner,
        door=earlier.door,
        model=earlier.model,
        prompt=earlier.prompt,
        cut_turns=earlier.cut_turns,
        sampling={**earlier.sampling, "max_tokens": carried + room},
        continues=earlier,
        carried_tokens=carried,
        epoch=1,
        # What was held back may yet become something else: the worker holds it back itself.
        text=earlier.text[: len(earlier.text) - earlier.held_text],
        reasoning=earlier.reasoning[: len(earlier.reasoning) - earlier.held_reasoning],
        token_ids=earlier.token_ids,
        idempotency_key=key,
        request_hash=fingerprint,
        request_id=request_id,
    )
    transaction.on_commit(lambda: _send(generation))
    return generation


def copy(original: Generation) -> Generation:
    """An unsaved copy of one that is over, with what a reader is shown of it.

    Where the answer was cut off the copy can go on as the original could. May issue a query.
    """
    kept = {name: getattr(original, name) for name in COPIED}
    row = Generation(**kept, prompt=[], idempotency_key=uuid.uuid4(), request_hash=b"")
    if original.finish_reason != FinishReason.STOP:
        row.prompt, row.token_ids = original.prompt, original.token_ids
        row.carried_tokens = original.carried_tokens + original.completion_tokens
        # As much room for what may follow as the original has.
        most = original.sampling["max_tokens"] + original.completion_tokens
        row.sampling = {**original.sampling, "max_tokens": most}
    return row


def admit(owner: User, slug: str) -> ModelSpec:
    """The model, if it can take one more of this owner's. Two queries and two Redis calls.

    Raises UnknownModel, NoWorker, TooManyActive, QueueFull, or Unavailable where Redis does not answer.
    """
    spec = _running_model(slug)
    if Generation.objects.active().filter(owner=owner).count() >= settings.ACTIVE_LIMIT:
        raise TooManyActive(limit=settings.ACTIVE_LIMIT)
    _check_room(spec)
    return spec


def move(generation: Generation, slug: str) -> None:
    """Let another model answer what still waits, with its seniority. Idempotent.

    Raises what `admit` raises, but for TooManyActive, and AlreadyStarted for one that has been claimed: what one model
    has said, no other can go on with.
    """
    spec = _running_model(slug)
    if generation.model == slug:
        return
    _check_room(spec)
    if not Generation.objects.queued().filter(pk=generation.pk, epoch=0).update(model=slug):
        raise AlreadyStarted
    generation.model = slug
    _send(generation)


def cancel(generation: Generation) -> None:
    """End a generation; what was streamed stays. Idempotent; a terminal row stays as it is.

    A queued one ends here. A running one is ended by its worker, which hears of it over its control stream at once, or,
    should that message get lost, with its next save. The wish is written first: from then on nobody queues it again.
    """
    now = timezone.now()
    row = Generation.objects.filter(pk=generation.pk)
    ended = {"state": Generation.State.CANCELLED, "finish_reason": "cancelled", "finished_at": now}
    if not row.active().update(cancel_requested_at=now):
        return
    try:
        over = row.queued().update(**ended)
        generation.refresh_from_db(fields=["epoch", "last_seq", "worker"])
        if over:
            stream.end(generation.pk, generation.epoch, generation.last_seq)
            stream.tell_owner(generation.owner_id, generation.pk)
        else:
            stream.tell_worker(generation.worker, "cancel", generation.pk)
    except (RedisError, stream.Fenced):
        log.warning("stop reached PostgreSQL only", extra={"generation": generation.pk})


def _running_model(slug: str) -> ModelSpec:
    try:
        spec = catalog().get(slug)
    except KeyError:
        raise UnknownModel from None
    try:
        if not any(worker.model == slug for worker in workers.living()):
            raise NoWorker(model=spec.name)
    except RedisError:
        raise Unavailable from None
    return spec


def _check_room(spec: ModelSpec) -> None:
    waiting = Generation.objects.queued().filter(model=spec.slug).count()
    if waiting >= settings.QUEUE_LIMIT:
        raise QueueFull(waiting=waiting, model=spec.name)


def _can_go_on(earlier: Generation, carried: int, context_length: int) -> bool:
    """Whether it has begun and was cut off, the ids of all its tokens are known, and one more could be read."""
    if earlier.finish_reason == FinishReason.STOP or not carried:
        return False
    known = len(stream.unpack_ids(bytes(earlier.token_ids)))
    return known == carried and (earlier.prompt_tokens or 0) + carried < context_length


def _sampling(spec: ModelSpec, options: Options) -> Sampling:
    """The options over the model's defaults; a request without a seed gets one, so that it can be repeated."""
    given = {name: value for name, value in asdict(options).items() if value not in (None, ())}
    defaults = spec.sampling
    return Sampling(
        temperature=given.get("temperature", defaults.temperature),
        top_p=given.get("top_p", defaults.top_p),
        top_k=given.get("top_k", defaults.top_k),
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
        max_tokens=min(given.get("max_tokens", defaults.max_tokens), spec.context_length),
        seed=given.get("seed", secrets.randbits(63)),
        stop=given.get("stop", ()),
    )


def _send(generation: Generation) -> None:
    try:
        tasks.enqueue(generation.model, generation.door)
        stream.tell_owner(generation.owner_id, generation.pk)
    except (OperationalError, RedisError):
        # The row is safe in PostgreSQL; the sweeper sends it again.
        extra = {"request_id": generation.request_id, "generation": generation.pk}
        log.warning("queued without a message", extra=extra)
