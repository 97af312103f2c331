"""Generation: the one truth about an answer, and the compare-and-set steps of its life.

Invariants, kept by the WHERE clause of each UPDATE:
- a row leaves `queued` once (claim, cancel or give up), and a claim raises its epoch;
- only the worker of the current epoch writes to a running row;
- a terminal row never changes again.
Leases are compared with PostgreSQL's clock alone, never with a worker's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from inference.stream import pack_ids
from inference.types import FinishReason

LEASE_S = 15


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker has produced so far, as it is saved: the text and the event (of its epoch) that it reaches."""

    text: str
    reasoning: str
    token_ids: Sequence[int]
    seq: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a generation ended: a terminal state, and why."""

    state: str
    finish_reason: FinishReason | None = None
    error_code: str = ""


class GenerationQuerySet(models.QuerySet["Generation"]):
    def active(self) -> GenerationQuerySet:
        return self.filter(state__in=Generation.ACTIVE)

    def queued(self) -> GenerationQuerySet:
        return self.filter(state=Generation.State.QUEUED)

    def claim(self, generation_id: uuid.UUID, worker: str) -> Generation | None:
        """Take a queued generation; None where another worker has it, or it is over. One statement."""
        rows = self.raw(
            """UPDATE inference_generation
               SET state = 'running', epoch = epoch + 1, worker = %s, last_seq = 0, started_at = clock_timestamp(),
                   lease_until = clock_timestamp() + make_interval(secs => %s)
               WHERE id = %s AND state = 'queued' RETURNING *""",
            [worker, LEASE_S, generation_id],
        )
        return next(iter(rows), None)

    def expired(self) -> GenerationQuerySet:
        """Running rows whose worker has not renewed its lease; locked, past those that another reaper holds."""
        stale = self.filter(state=Generation.State.RUNNING, lease_until__lt=ClockNow())
        return stale.order_by("lease_until").select_for_update(skip_locked=True)


class ClockNow(Now):
    """clock_timestamp(): the time of the statement, where Now() would give the transaction's start."""

    def as_postgresql(self, compiler, connection, **extra):  # type: ignore[no-untyped-def]
        return self.as_sql(compiler, connection, template="clock_timestamp()", **extra)


class Generation(models.Model):
    """One answer being written, or written. `text` and `reasoning` are what the person was shown."""

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
    sampling = models.JSONField()
    idempotency_key = models.UUIDField()
    request_hash = models.BinaryField(max_length=32)
    request_id = models.CharField(max_length=32, blank=True)

    state = models.CharField(max_length=11, choices=State, default=State.QUEUED)
    epoch = models.PositiveIntegerField(default=0)
    worker = models.CharField(max_length=80, blank=True)
    lease_until = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)

    text = models.TextField(blank=True)
    reasoning = models.TextField(blank=True)
    token_ids = models.BinaryField(default=bytes)
    last_seq = models.PositiveIntegerField(default=0)

    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(default=0)
    dropped_messages = models.PositiveIntegerField(default=0)
    finish_reason = models.CharField(max_length=10, blank=True)
    error_code = models.CharField(max_length=40, blank=True)

    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = GenerationQuerySet.as_manager()

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
            models.Index(fields=["model", "created_at"], name="generation_queue", condition=Q(state="queued")),
            models.Index(fields=["owner"], name="generation_active", condition=Q(state__in=("queued", "running"))),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.state} {self.id}"

    @property
    def is_terminal(self) -> bool:
        return self.state not in self.ACTIVE

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

    def read_prompt(self, *, prompt_tokens: int, dropped_messages: int, revision: str) -> bool:
        """Record what the worker made of the prompt. False where this epoch has lost the row."""
        fields = {"prompt_tokens": prompt_tokens, "dropped_messages": dropped_messages, "revision": revision}
        return bool(self._mine().update(**fields))

    def persist(self, progress: Progress) -> bool:
        """Save progress and renew the lease. False: another epoch owns the row, it is over, or a stop was asked for."""
        lease = ClockNow() + timedelta(seconds=LEASE_S)
        mine = self._mine().filter(cancel_requested_at__isnull=True)
        return bool(mine.update(lease_until=lease, first_token_at=self.first_token_at, **_columns(progress)))

    def finish(self, outcome: Outcome, progress: Progress) -> bool:
        """The terminal write, with everything that is final. False where this epoch has lost the row."""
        fields = {
            "state": outcome.state,
            "finish_reason": outcome.finish_reason or "",
            "error_code": outcome.error_code,
        }
        now = timezone.now()
        values = {**fields, **_columns(progress), "first_token_at": self.first_token_at, "finished_at": now}
        if not self._mine().update(**values, lease_until=None):
            return False
        for name, value in values.items():
            setattr(self, name, value)
        return True

    def hand_back(self) -> bool:
        """Queue a claimed generation again before it has any text. False where this epoch has lost the row."""
        silent = self._mine().filter(text="", cancel_requested_at__isnull=True)
        return bool(silent.update(state=self.State.QUEUED, lease_until=None, worker=""))

    def stop_was_asked_for(self) -> bool:
        """Whether its owner has asked to stop it, whoever ends it now."""
        return Generation.objects.filter(pk=self.pk, cancel_requested_at__isnull=False).exists()

    def _mine(self) -> GenerationQuerySet:
        return Generation.objects.filter(pk=self.pk, epoch=self.epoch, state=self.State.RUNNING)


def _columns(progress: Progress) -> dict[str, object]:
    return {
        "text": progress.text,
        "reasoning": progress.reasoning,
        "token_ids": pack_ids(progress.token_ids),
        "completion_tokens": len(progress.token_ids),
        "last_seq": progress.seq,
    }
