"""Generation: the one truth about an answer, and the compare-and-set steps of its life.

Invariants, kept by the WHERE clause of each UPDATE:
- a claim raises the epoch, so that each worker that writes has one of its own;
- only who is named in a running row writes to it: the worker of its epoch, or the reaper that has taken it over;
- a row goes back to `queued` with all that was written, so that the next worker goes on in the same sentence;
- a terminal row never changes again.
Leases are compared with PostgreSQL's clock alone, never with a worker's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import connection, models
from django.db.models import Q
from django.utils import timezone

from inference.stream import pack_ids
from inference.types import FinishReason

LEASE_S = 15
# An answer whose worker is lost goes on elsewhere, unless it has cost so many workers: it may be what ends them.
CRASHES_MAX = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker has produced so far, as it is saved: the text and the event (of its epoch) that it reaches.

    tokens were sampled in all, reasoning_tokens of them before the answer; token_ids are those whose ids are known. The
    last held_text and held_reasoning characters had been held back, and came only because the answer ends here.
    """

    text: str
    reasoning: str
    token_ids: Sequence[int]
    tokens: int
    reasoning_tokens: int
    seq: int
    held_text: int = 0
    held_reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a generation ended: a terminal state, and why.

    cached_tokens of the prompt were not read anew. prompt_tokens is given where only the end could tell it.
    """

    state: str
    finish_reason: FinishReason | None = None
    error_code: str = ""
    cached_tokens: int = 0
    prompt_tokens: int | None = None


class GenerationQuerySet(models.QuerySet["Generation"]):
    def active(self) -> GenerationQuerySet:
        return self.filter(state__in=Generation.ACTIVE)

    def queued(self) -> GenerationQuerySet:
        return self.filter(state=Generation.State.QUEUED)

    def running(self) -> GenerationQuerySet:
        return self.filter(state=Generation.State.RUNNING)

    def claim(self, worker: str, *, model: str, door: str) -> Generation | None:
        """Take the oldest generation of a queue; None where none waits. One statement."""
        return self._take(
            """WITH oldest AS (
                   SELECT id FROM inference_generation WHERE state = 'queued' AND model = %s AND door = %s
                   ORDER BY created_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
               UPDATE inference_generation AS taken
               SET state = 'running', epoch = epoch + 1, worker = %s, last_seq = 0, started_at = clock_timestamp(),
                   lease_until = clock_timestamp() + make_interval(secs => %s)
               FROM oldest WHERE taken.id = oldest.id RETURNING taken.*""",
            [model, door, worker, LEASE_S],
        )

    def take_over(self, reaper: str) -> Generation | None:
        """Take the running generation whose lease ran out first; None where none did. One statement.

        Its worker can write to it no more. The epoch stays until the reaper is done, as `last_seq` is a place in it.
        Sets `lost_worker`, the name of who let the lease run out.
        """
        return self._take(
            """WITH lost AS (
                   SELECT id, worker AS lost_worker FROM inference_generation
                   WHERE state = 'running' AND lease_until < clock_timestamp()
                   ORDER BY lease_until LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
               UPDATE inference_generation AS taken
               SET worker = %s, lease_until = clock_timestamp() + make_interval(secs => %s)
               FROM lost WHERE taken.id = lost.id RETURNING taken.*, lost.lost_worker""",
            [reaper, LEASE_S],
        )

    def persist(self, worker: str, written: Sequence[tuple[Generation, Progress]]) -> set[tuple[uuid.UUID, int]]:
        """Save the progress of a worker's answers and renew their leases. One statement, whatever their number.

        Returns id and epoch of those that were saved; the others are lost or over, or a stop was asked for.
        """
        rows = sorted(((row, progress) for row, progress in written), key=lambda pair: pair[0].pk)
        columns = zip(
            *((row.pk, row.epoch, row.first_token_at, *_values(progress)) for row, progress in rows), strict=True
        )
        with connection.cursor() as cursor:
            cursor.execute(
                """UPDATE inference_generation AS mine
                   SET first_token_at = new.first_token_at, text = new.text, reasoning = new.reasoning,
                       token_ids = new.token_ids, completion_tokens = new.tokens,
                       reasoning_tokens = new.reasoning_tokens, last_seq = new.seq,
                       lease_until = clock_timestamp() + make_interval(secs => %s)
                   FROM unnest(%s::uuid[], %s::int[], %s::timestamptz[], %s::text[], %s::text[], %s::bytea[], %s::int[],
                               %s::int[], %s::int[])
                        AS new(id, epoch, first_token_at, text, reasoning, token_ids, tokens, reasoning_tokens, seq)
                   WHERE mine.id = new.id AND mine.epoch = new.epoch AND mine.worker = %s AND mine.state = 'running'
                         AND mine.cancel_requested_at IS NULL
                   RETURNING mine.id, mine.epoch""",
                [LEASE_S, *map(list, columns), worker],
            )
            return {(pk, epoch) for pk, epoch in cursor.fetchall()}

    def _take(self, statement: str, parameters: list[object]) -> Generation | None:
        return next(iter(self.raw(statement, parameters)), None)


class Generation(models.Model):
    """One answer being written, or written. `text` and `reasoning` are what the person was shown.

    `cut_turns` were left out of the prompt at the start, as no context could hold them; `dropped_messages` counts these
    and what the worker left out. `crashes` counts the workers that were lost over it. Of the tokens, cached_tokens are
    part of prompt_tokens, and reasoning_tokens of completion_tokens. Who `continues` another begins with its text and
    token ids: these carried_tokens count there, and in none of the figures here.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        CANCELLED = "cancelled"
        INTERRUPTED = "interrupted"
        FAILED = "failed"

    class Door(models.TextChoices):
        CHAT = "chat"
        API = "api"

    ACTIVE = (State.QUEUED, State.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="generations")
    door = models.CharField(max_length=4, choices=Door)
    model = models.CharField(max_length=80)
    revision = models.CharField(max_length=120, blank=True)
    prompt = models.JSONField()
    cut_turns = models.PositiveIntegerField(default=0)
    sampling = models.JSONField()
    idempotency_key = models.UUIDField()
    request_hash = models.BinaryField(max_length=32)
    request_id = models.CharField(max_length=32, blank=True)

    state = models.CharField(max_length=11, choices=State, default=State.QUEUED)
    epoch = models.PositiveIntegerField(default=0)
    crashes = models.PositiveSmallIntegerField(default=0)
    worker = models.CharField(max_length=80, blank=True)
    lease_until = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)

    text = models.TextField(blank=True)
    reasoning = models.TextField(blank=True)
    held_text = models.PositiveIntegerField(default=0)
    held_reasoning = models.PositiveIntegerField(default=0)
    token_ids = models.BinaryField(default=bytes)
    last_seq = models.PositiveIntegerField(default=0)

    continues = models.OneToOneField("self", on_delete=models.SET_NULL, null=True, related_name="continued_by")
    carried_tokens = models.PositiveIntegerField(default=0)

    prompt_tokens = models.PositiveIntegerField(null=True)
    cached_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    dropped_messages = models.PositiveIntegerField(default=0)
    finish_reason = models.CharField(max_length=10, blank=True)
    error_code = models.CharField(max_length=40, blank=True)

    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = GenerationQuerySet.as_manager()
    lost_worker: str

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "idempotency_key"], name="one_generation_per_key"),
            models.CheckConstraint(
                name="running_has_lease", condition=~Q(state="running") | Q(lease_until__isnull=False)
            ),
            models.CheckConstraint(
                name="terminal_has_end",
                condition=Q(state__in=("queued", "running")) | Q(finished_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(fields=["lease_until"], name="generation_lease", condition=Q(state="running")),
            models.Index(
                fields=["model", "door", "created_at", "id"], name="generation_queue", condition=Q(state="queued")
            ),
            models.Index(fields=["owner"], name="generation_active", condition=Q(state__in=("queued", "running"))),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.state} {self.id}"

    @property
    def is_terminal(self) -> bool:
        return self.state not in self.ACTIVE

    @property
    def may_crash_again(self) -> bool:
        """Whether it may go on once more after the worker that has it now is lost."""
        return self.crashes + 1 < CRASHES_MAX

    @property
    def ttft_ms(self) -> int | None:
        """From the request's arrival to the first token, queue included: what the person waited."""
        if self.first_token_at is None:
            return None
        return round((self.first_token_at - self.created_at).total_seconds() * 1000)

    @property
    def tokens_per_s(self) -> float | None:
        """Decode rate after the first token; None for answers too short to have one."""
        if self.first_token_at is None or self.finished_at is None or self.completion_tokens < 2:
            return None
        seconds = (self.finished_at - self.first_token_at).total_seconds()
        return round((self.completion_tokens - 1) / seconds, 1) if seconds > 0 else None

    def read_prompt(self, *, prompt_tokens: int | None, dropped_messages: int, revision: str) -> bool:
        """Record what the worker made of the prompt. False where the row is lost."""
        fields = {"prompt_tokens": prompt_tokens, "dropped_messages": dropped_messages, "revision": revision}
        return bool(self._mine().update(**fields))

    def finish(self, outcome: Outcome, progress: Progress, *, crashed: bool = False) -> bool:
        """The terminal write, with everything that is final. False where the row is lost.

        `crashed` is for the reaper, which ends the row in the next epoch: that of its fence.
        """
        values: dict[str, object] = {
            "state": outcome.state,
            "finish_reason": outcome.finish_reason or "",
            "error_code": outcome.error_code,
            "cached_tokens": outcome.cached_tokens,
            "first_token_at": self.first_token_at,
            "finished_at": timezone.now(),
            "held_text": progress.held_text,
            "held_reasoning": progress.held_reasoning,
            **_columns(progress),
            **self._next_epoch(crashed),
        }
        if outcome.prompt_tokens is not None:
            values["prompt_tokens"] = outcome.prompt_tokens
        if not self._mine().update(**values, lease_until=None):
            return False
        for name, value in values.items():
            setattr(self, name, value)
        return True

    def hand_back(self, progress: Progress, *, crashed: bool = False) -> bool:
        """Queue a running generation again with all that it has, for another worker to go on from there.

        False where the row is lost or a stop was asked for. `crashed` as for `finish`.
        """
        mine = self._mine().filter(cancel_requested_at__isnull=True)
        values = {"first_token_at": self.first_token_at, **_columns(progress), **self._next_epoch(crashed)}
        return bool(mine.update(state=self.State.QUEUED, lease_until=None, worker="", **values))

    def abandon(self, error_code: str) -> bool:
        """End as interrupted with what the row has, unread. False where the row is lost."""
        ended = {"state": self.State.INTERRUPTED, "error_code": error_code, "finished_at": timezone.now()}
        return bool(self._mine().update(**ended, lease_until=None, **self._next_epoch(crashed=True)))

    def stop_was_asked_for(self) -> bool:
        """Whether its owner has asked to stop it, whoever ends it now."""
        return Generation.objects.filter(pk=self.pk, cancel_requested_at__isnull=False).exists()

    def _mine(self) -> GenerationQuerySet:
        return Generation.objects.filter(pk=self.pk, epoch=self.epoch, worker=self.worker, state=self.State.RUNNING)

    def _next_epoch(self, crashed: bool) -> dict[str, object]:
        return {"epoch": self.epoch + 1, "crashes": self.crashes + 1} if crashed else {}


def _columns(progress: Progress) -> dict[str, object]:
    names = ("text", "reasoning", "token_ids", "completion_tokens", "reasoning_tokens", "last_seq")
    return dict(zip(names, _values(progress), strict=True))


def _values(progress: Progress) -> tuple[object, ...]:
    counts = (progress.tokens, progress.reasoning_tokens, progress.seq)
    return (progress.text, progress.reasoning, pack_ids(progress.token_ids), *counts)
