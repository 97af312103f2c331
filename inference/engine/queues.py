"""Who waits: the jobs of the scheduler, in a line for each owner, and which of them is to be admitted next."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import Generic, TypeVar

from inference.engine.fairness import Shares
from inference.types import Priority


class Place(Enum):
    """Where the scheduler keeps a job."""

    NOWHERE = 0
    WAITING = 1
    RUNNING = 2


@dataclass(eq=False)
class Job:
    """One request as the scheduler sees it. The fields below `computed` are the scheduler's own.

    known: prompt, resumed and sampled tokens so far; whoever samples one raises it. computed: how many of them have
    keys and values in the cache; always less than known between a commit() and the next plan().
    """

    owner: str
    priority: Priority
    known: int
    computed: int = 0
    place: Place = field(default=Place.NOWHERE, init=False)
    rank: tuple[bool, int] = field(default=(False, 0), init=False)  # the least is the most important one that runs
    room: int = field(default=0, init=False)  # tokens that memory holds ready
    read: int = field(default=0, init=False)  # the most tokens that were ever computed
    charged: int = field(default=0, init=False)  # up to where its owner has paid: never twice for what is read again


AnyJob = TypeVar("AnyJob", bound=Job)  # what an engine makes of Job, with fields of its own


def by_rank(job: Job) -> tuple[bool, int]:
    return job.rank


class Queues(Generic[AnyJob]):
    """All jobs that wait, and the service that classes and owners have had, in tokens."""

    def __init__(self, weights: Mapping[Priority, float]) -> None:
        """weights: how API and CHAT share, 1 where one has none. Raises ValueError unless they are positive."""
        self._shared = {priority: weights.get(priority, 1.0) for priority in (Priority.API, Priority.CHAT)}
        if min(self._shared.values()) <= 0:
            raise ValueError("Weights must be positive.")
        self._classes = Shares(self._shared)
        self._queues: dict[Priority, _Queue[AnyJob]] = {priority: _Queue() for priority in Priority}

    def __iter__(self) -> Iterator[AnyJob]:
        return chain.from_iterable(self._queues.values())

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, job: AnyJob) -> None:
        """To the end of its owner's line."""
        job.place = Place.WAITING
        self._queues[job.priority].add(job)
        if job.priority in self._shared:
            self._classes.join(job.priority)

    def put_back(self, job: AnyJob) -> None:
        """A job that ran, ahead of all others of its class, those put back before included."""
        job.place = Place.WAITING
        self._queues[job.priority].returned.appendleft(job)

    def next(self, *, background: bool) -> AnyJob | None:
        """Whoever ran before goes first, then the class and in it the owner with the least service.

        background: whether a BACKGROUND job may be answered, where nobody else waits.
        """
        shared = [self._queues[priority] for priority in self._shared]
        if returned := [queue.returned[0] for queue in shared if queue.returned]:
            return min(returned, key=by_rank)
        if (priority := self._classes.least()) is not None:
            return self._queues[priority].head()
        return self._queues[Priority.BACKGROUND].head() if background else None

    def take(self, job: AnyJob) -> None:
        """The job waits no more."""
        queue = self._queues[job.priority]
        queue.take(job)
        if not queue.lines:
            self._classes.leave(job.priority)

    def charge(self, job: AnyJob, upto: int) -> None:
        """The job is served up to that token, or will be soon. What it has been charged for is never charged again."""
        if upto > job.charged:
            self._queues[job.priority].owners.charge(job.owner, upto - job.charged)
            if job.priority in self._shared:
                self._classes.charge(job.priority, upto - job.charged)
            job.charged = upto

    def forget(self, job: AnyJob) -> None:
        """The job is gone: refund what was charged and never read. An owner without any other leaves no trace."""
        if job.charged > job.read:
            self._queues[job.priority].owners.refund(job.owner, job.charged - job.read)
            if job.priority in self._shared:
                self._classes.refund(job.priority, job.charged - job.read)
        self._queues[job.priority].forget(job.owner)


class _Queue(Generic[AnyJob]):
    """The waiting jobs of one class: who was running already, then a line for each owner."""

    def __init__(self) -> None:
        self.returned: deque[AnyJob] = deque()
        self.lines: dict[str, deque[AnyJob]] = {}
        self.owners: Shares[str] = Shares()
        self._jobs: Counter[str] = Counter()  # of each owner, those that run included

    def __iter__(self) -> Iterator[AnyJob]:
        return chain(self.returned, *self.lines.values())

    def __len__(self) -> int:
        return len(self.returned) + sum(map(len, self.lines.values()))

    def add(self, job: AnyJob) -> None:
        self._jobs[job.owner] += 1
        self.lines.setdefault(job.owner, deque()).append(job)
        self.owners.join(job.owner)

    def head(self) -> AnyJob | None:
        if self.returned:
            return self.returned[0]
        owner = self.owners.least()
        return None if owner is None else self.lines[owner][0]

    def take(self, job: AnyJob) -> None:
        if job in self.returned:
            self.returned.remove(job)
            return
        line = self.lines[job.owner]
        line.remove(job)
        if not line:
            del self.lines[job.owner]
            self.owners.leave(job.owner)

    def forget(self, owner: str) -> None:
        self._jobs[owner] -= 1
        if not self._jobs[owner]:
            del self._jobs[owner]
            self.owners.forget(owner)
