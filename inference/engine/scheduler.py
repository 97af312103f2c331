"""Continuous batching: which tokens of which requests the next forward pass reads.

Each step is plan(), the forward pass, commit(). What holds:

- A job whose last token alone is unread decodes in every step. Prompts are read in what the budget leaves.
- Of the prompts being read, the one admitted first gets half of the budget, so that each ends at some time; the other
  half goes to the shortest remainders, so that a short question is not held back by a long document; the first takes
  what they leave. BACKGROUND takes what all leave.
- Who is admitted next: first who was running already and lost the place; then the class, and in it the owner, with the
  least service (`fairness`), FIFO within an owner. Nobody overtakes a job that does not fit yet: a large one gets in.
- BACKGROUND is admitted when nothing else waits, and gives place and memory up to whatever waits.
- Where a running job cannot grow, the least important one is preempted (BACKGROUND, then the latest admitted) and reads
  its tokens again later. The first admitted of the best class never is, so that something always ends.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from inference.engine.queues import AnyJob, Job, Place, Queues, by_rank
from inference.types import Priority

__all__ = ["Chunk", "Job", "Memory", "Plan", "Scheduler"]

HeldJob_contra = TypeVar("HeldJob_contra", bound=Job, contravariant=True)
EQUAL = MappingProxyType({Priority.API: 1.0, Priority.CHAT: 1.0})


@dataclass(frozen=True, slots=True)
class Chunk(Generic[AnyJob]):
    """Tokens [start, start + count) of a job, to be read in one forward pass."""

    job: AnyJob
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """Whether the last logits give a new token. To be asked before `known` is raised for it."""
        return self.start + self.count == self.job.known


@dataclass(frozen=True, slots=True)
class Plan(Generic[AnyJob]):
    """A step: at most one chunk a job, those that decode first.

    preempted lost their memory and wait again. exhausted can never go on, because memory is too small for one of them
    alone: they are to be removed, and while there are any there are no chunks.
    """

    chunks: tuple[Chunk[AnyJob], ...]
    admitted: tuple[AnyJob, ...]
    preempted: tuple[AnyJob, ...]
    exhausted: tuple[AnyJob, ...]


class Memory(Protocol[HeldJob_contra]):
    """The KV cache, as the scheduler needs it."""

    def admit(self, job: HeldJob_contra) -> int | None:
        """Take a place. How many of its tokens are cached already, always less than known; None without a place."""

    def grow(self, job: HeldJob_contra, tokens: int) -> bool:
        """Make room for `tokens` tokens of an admitted job in all; False, and nothing changed, when there is none.

        False for more than one job may ever hold looks like exhausted memory and preempts others: end such jobs first.
        """

    def release(self, job: HeldJob_contra) -> None:
        """Take place and room back from an admitted job."""


class Scheduler(Generic[AnyJob]):
    """Plans steps for up to `slots` running jobs. For the engine's thread alone; nothing blocks.

    step_tokens: the most tokens a step reads. chunk_tokens: the most tokens of prompts in a step in which somebody
    decodes, who waits for all of them. slice_tokens: the most of a prompt that is longer than chunk_tokens, in such a
    step; None for as much as chunk_tokens. weights: how API and CHAT share while both wait.
    """

    def __init__(
        self,
        memory: Memory[AnyJob],
        *,
        slots: int,
        step_tokens: int,
        chunk_tokens: int,
        slice_tokens: int | None = None,
        weights: Mapping[Priority, float] = EQUAL,
    ) -> None:
        """Raises ValueError for sizes with which a step could read nothing, and unless weights are positive."""
        if not 1 <= slots <= step_tokens or chunk_tokens < 1 or slice_tokens == 0:
            raise ValueError("1 <= slots <= step_tokens, 1 <= chunk_tokens and 1 <= slice_tokens must hold.")
        self._memory = memory
        self._slots = slots
        self._step_tokens = step_tokens
        self._chunk_tokens = chunk_tokens
        self._slice_tokens = slice_tokens or chunk_tokens
        self._queues = Queues[AnyJob](weights)
        self._running: list[AnyJob] = []  # by rank
        self._blocked: AnyJob | None = None  # does not fit before something is released
        self._numbers = count()

    @property
    def running(self) -> Sequence[AnyJob]:
        """The most important first: API and CHAT by admission, then BACKGROUND."""
        return tuple(self._running)

    @property
    def waiting(self) -> Sequence[AnyJob]:
        """In no order across owners."""
        return tuple(self._queues)

    def __len__(self) -> int:
        return len(self._running) + len(self._queues)

    def add(self, job: AnyJob) -> None:
        """Queue a new job."""
        self._queues.add(job)

    def remove(self, job: AnyJob) -> None:
        """Finished, cancelled or failed: take back whatever it has. Idempotent."""
        if job.place is Place.NOWHERE:
            return
        if job.place is Place.RUNNING:
            self._release(job)
        else:
            self._queues.take(job)
        job.place = Place.NOWHERE
        self._queues.forget(job)

    def plan(self) -> Plan[AnyJob]:
        """Preempt, admit, and say what the next forward pass reads. Without a commit() the same is planned again."""
        preempted: list[AnyJob] = []
        admitted: list[AnyJob] = []
        exhausted = self._make_room(preempted)
        # Memory that was just taken from a job is for those that grow.
        if not preempted and exhausted is None:
            exhausted = self._admit(admitted, preempted)
        chunks = () if exhausted else (*self._decodes(), *self._prefills())
        return Plan(chunks, tuple(admitted), tuple(preempted), (exhausted,) if exhausted else ())

    def commit(self, plan: Plan[AnyJob]) -> None:
        """The pass succeeded: what it read is in the cache, and is charged. Jobs removed meanwhile are passed over."""
        for chunk in plan.chunks:
            job = chunk.job
            if job.place is Place.RUNNING:
                job.computed = chunk.start + chunk.count
                job.read = max(job.read, job.computed)
                self._queues.charge(job, job.computed)

    def preempt(self, job: AnyJob) -> None:
        """Take its place and memory from a running job: it waits again, ahead of all others, and reads anew."""
        self._release(job)
        self._put_back(job)

    def restart(self, memory: Memory[AnyJob] | None = None) -> None:
        """The cache was rebuilt after a failed pass, as `memory` where that is another object.

        Every running job waits again, ahead of all others and in the same order. Nothing is released: the places are
        gone already.
        """
        if memory is not None:
            self._memory = memory
        self._blocked = None
        while self._running:
            self._put_back(self._running.pop())

    def _make_room(self, preempted: list[AnyJob]) -> AnyJob | None:
        """Room for the next token of each job that decodes, the most important first. Returns who has none alone."""
        for job in tuple(self._running):
            while job.known > job.room and job.place is Place.RUNNING:
                if self._memory.grow(job, job.known):
                    job.room = job.known
                elif len(self._running) == 1:
                    return job
                else:
                    preempted.append(self._preempt())
        return None

    def _preempt(self) -> AnyJob:
        job = self._running[-1]
        self.preempt(job)
        return job

    def _admit(self, admitted: list[AnyJob], preempted: list[AnyJob]) -> AnyJob | None:
        """Admit while there is a place and room. Returns who does not fit into memory even alone."""
        while (job := self._next(preempted)) is not None:
            if len(self._running) < self._slots and job is not self._blocked and self._enter(job):
                admitted.append(job)
            elif not self._running:
                return job
            elif self._yields() and job.priority is not Priority.BACKGROUND:
                preempted.append(self._preempt())
            else:
                self._blocked = job
                return None
        return None

    def _next(self, preempted: list[AnyJob]) -> AnyJob | None:
        """Who is to be admitted next, where that is possible. Who was just preempted does not come right back."""
        full = len(self._running) >= self._slots
        if full and not self._yields():
            return None
        return self._queues.next(background=not full and not preempted)

    def _yields(self) -> bool:
        """Whether a running job gives way to whoever waits."""
        return bool(self._running) and self._running[-1].priority is Priority.BACKGROUND

    def _enter(self, job: AnyJob) -> bool:
        """Give the job a place, and room for all it knows and one more: else it would be preempted soon for that one.

        A job that runs alone may do without the one more; it can still say one token.
        """
        cached = self._memory.admit(job)
        if cached is None:
            return False
        if self._memory.grow(job, job.known + 1):
            job.room = job.known + 1
        elif not self._running and self._memory.grow(job, job.known):
            job.room = job.known
        else:
            self._memory.release(job)
            return False
        job.computed = cached
        job.read, job.charged = max(job.read, cached), max(job.charged, cached)
        # The whole prompt is charged now, as in the paper: else an owner would get all free places at once.
        self._queues.charge(job, job.known)
        self._queues.take(job)
        job.place = Place.RUNNING
        job.rank = (job.priority is Priority.BACKGROUND, next(self._numbers))
        insort(self._running, job, key=by_rank)
        return True

    def _decodes(self) -> Iterator[Chunk[AnyJob]]:
        return (Chunk(job, job.computed, 1) for job in self._running if job.known - job.computed == 1)

    def _prefills(self) -> Iterator[Chunk[AnyJob]]:
        unread = {job: job.known - job.computed for job in self._running if job.known - job.computed > 1}
        if not unread:
            return
        decoding = len(self._running) - len(unread)
        budget = min(self._chunk_tokens, self._step_tokens - decoding) if decoding else self._step_tokens
        first = next(iter(unread))
        most = {job: min(tokens, self._most(job)) if decoding else tokens for job, tokens in unread.items()}
        grants = {first: min(most[first], (budget + 1) // 2)}
        left = budget - grants[first]
        for job in sorted(unread, key=lambda job: (job.rank[0], inf if job is first else unread[job], job.rank)):
            more = min(most[job] - grants.get(job, 0), left)
            if more:
                grants[job] = grants.get(job, 0) + more
                left -= more
        for job, tokens in grants.items():
            yield Chunk(job, job.computed, tokens)

    def _most(self, job: AnyJob) -> int:
        """Of one prompt, beside others that decode. A short one delays them once; a long one, in every step."""
        return self._chunk_tokens if job.known <= self._chunk_tokens else self._slice_tokens

    def _release(self, job: AnyJob) -> None:
        self._memory.release(job)
        self._running.remove(job)
        self._blocked = None

    def _put_back(self, job: AnyJob) -> None:
        job.computed = 0
        self._queues.put_back(job)
