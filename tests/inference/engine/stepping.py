"""A scheduler at work without a model: memory that counts blocks, jobs that say what they are told, and every rule of
a step checked in every step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import ceil

from inference.engine.queues import Place
from inference.engine.scheduler import Chunk, Job, Plan, Scheduler
from inference.types import Priority

BLOCK = 4


@dataclass(eq=False)
class Talker(Job):
    """Ends after `answer` sampled tokens. cached: how many of its tokens memory finds on admission."""

    answer: int = 1
    cached: int = 0


@dataclass
class Blocks:
    """Memory of `total` blocks, in `places` places."""

    total: int
    places: int
    held: dict[Job, int] = field(default_factory=dict)
    found: dict[Job, int] = field(default_factory=dict)
    asked: int = 0  # how often a job was to be admitted

    def admit(self, job: Job) -> int | None:
        assert job not in self.held
        assert isinstance(job, Talker)
        self.asked += 1
        if len(self.held) == self.places:
            return None
        self.held[job] = 0
        self.found[job] = min(job.cached, job.known - 1)
        # What is cached takes room too, if there is any.
        if not self.grow(job, self.found[job]):
            self.found[job] = 0
        return self.found[job]

    def grow(self, job: Job, tokens: int) -> bool:
        needed = max(self.held[job], ceil(tokens / BLOCK))
        if sum(self.held.values()) - self.held[job] + needed > self.total:
            return False
        self.held[job] = needed
        return True

    def release(self, job: Job) -> None:
        del self.held[job], self.found[job]


class Stepper:
    """Steps a scheduler, samples for its jobs, and holds each plan against the rules."""

    def __init__(
        self,
        *,
        blocks: int = 1000,
        slots: int = 4,
        step_tokens: int = 64,
        chunk_tokens: int = 16,
        slice_tokens: int | None = None,
    ) -> None:
        self.memory = Blocks(blocks, slots)
        self.scheduler = Scheduler(
            self.memory, slots=slots, step_tokens=step_tokens, chunk_tokens=chunk_tokens, slice_tokens=slice_tokens
        )
        self.slots, self.step_tokens, self.chunk_tokens = slots, step_tokens, chunk_tokens
        self.slice_tokens = slice_tokens or chunk_tokens
        self.added: list[Talker] = []
        self.begun: set[Job] = set()
        self.finished: list[Job] = []
        self.exhausted: list[Job] = []
        self.served: Counter[str] = Counter()  # tokens read, by owner and by class

    def add(self, owner: str = "anna", priority: Priority = Priority.CHAT, **fields: int) -> Talker:
        job = Talker(owner, priority, **fields)
        self.added.append(job)
        self.scheduler.add(job)
        return job

    def fail(self) -> None:
        """A pass failed, and the cache was rebuilt."""
        self.memory = Blocks(self.memory.total, self.memory.places)
        self.scheduler.restart(self.memory)

    def step(self) -> Plan:
        before = self.scheduler.running
        unread = {job: job.known - job.computed for job in before}
        plan = self.scheduler.plan()
        self.check_places(before, plan)
        self.check_chunks(before, unread, plan)
        sampling = [chunk.job for chunk in plan.chunks if chunk.samples]
        self.scheduler.commit(plan)
        for chunk in plan.chunks:
            self.served.update({chunk.job.owner: chunk.count, str(chunk.job.priority): chunk.count})
        for job in sampling:
            self.sample(job)
        for job in plan.exhausted:
            self.exhausted.append(job)
            self.scheduler.remove(job)
        return plan

    def run(self, steps: int = 20_000) -> None:
        """Until nothing is left, which must be within that many steps."""
        for _ in range(steps):
            if not self.scheduler:
                return
            self.step()
        raise AssertionError(f"{len(self.scheduler)} jobs are left after {steps} steps.")

    def sample(self, job: Job) -> None:
        assert isinstance(job, Talker)
        job.known += 1
        job.answer -= 1
        if not job.answer:
            self.finished.append(job)
            self.scheduler.remove(job)

    def check_places(self, before: tuple[Job, ...], plan: Plan) -> None:
        running = self.scheduler.running
        assert set(self.memory.held) == set(running)
        assert len(running) <= self.slots
        assert set(running) == {*before, *plan.admitted} - set(plan.preempted)
        assert not set(plan.admitted) & set(plan.preempted)
        kept = [job.rank for job in before if job not in plan.preempted]
        assert all(rank < victim.rank for rank in kept for victim in plan.preempted)
        assert all(job.computed == self.memory.found[job] for job in plan.admitted)
        for job in plan.preempted:
            assert (job.place, job.computed) == (Place.WAITING, 0)
            assert job is not before[0] or job.priority is Priority.BACKGROUND
        if any(job.priority is Priority.BACKGROUND for job in plan.admitted):
            assert all(job.priority is Priority.BACKGROUND for job in self.scheduler.waiting)
        self.begun |= set(plan.admitted)
        late = {(job.owner, job.priority) for job in self.added if job.place is Place.WAITING and job not in self.begun}
        for line in late:
            mine = [job for job in self.added if (job.owner, job.priority) == line and job.place is not Place.NOWHERE]
            order = [job in self.begun for job in mine]
            assert order == sorted(order, reverse=True), "First in, first out within an owner"

    def check_chunks(self, before: tuple[Job, ...], unread: dict[Job, int], plan: Plan) -> None:
        running = self.scheduler.running
        assert len({chunk.job for chunk in plan.chunks}) == len(plan.chunks)
        for chunk in plan.chunks:
            assert chunk.job in running
            assert chunk.count >= 1
            assert chunk.start == chunk.job.computed
            assert chunk.start + chunk.count <= chunk.job.known
            assert self.memory.held[chunk.job] * BLOCK >= chunk.start + chunk.count
        assert sum(self.memory.held.values()) <= self.memory.total
        decodes = [chunk for chunk in plan.chunks if decoding(chunk)]
        total = sum(chunk.count for chunk in plan.chunks)
        assert total <= self.step_tokens
        assert not decodes or total - len(decodes) <= self.chunk_tokens
        for chunk in plan.chunks if decodes else ():
            assert chunk.job.known <= self.chunk_tokens or chunk.count <= max(1, self.slice_tokens)
        if plan.exhausted:
            assert not plan.chunks
            assert set(running) <= set(plan.exhausted)
        else:
            wanted = {job for job in before if unread[job] == 1 and job in running}
            assert wanted <= {chunk.job for chunk in decodes}
            assert plan.chunks or not self.scheduler


def decoding(chunk: Chunk) -> bool:
    return chunk.job.known - chunk.start == 1
