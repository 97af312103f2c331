"""The requests on board, and a step for all of them: whoever fails ends, and takes nobody along."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from inference.engine.passes import Passes
from inference.engine.sampler import Choice, Sampler
from inference.engine.scheduler import Chunk, Plan, Scheduler
from inference.engine.sequence import Row
from inference.types import FinishReason

Chunks = Sequence[Chunk[Row]]
WORKER_LOST = "worker_lost"  # as inference.errors calls it: what was written is kept, and can be gone on from


class Batch:
    """Scheduler, passes and sampler of an engine. For its thread alone.

    slots, step_tokens, chunk_tokens, slice_tokens: as the scheduler takes them.
    """

    def __init__(
        self, passes: Passes, *, slots: int, step_tokens: int, chunk_tokens: int, slice_tokens: int | None
    ) -> None:
        self._passes = passes
        self._sampler = Sampler()
        self._scheduler = Scheduler[Row](
            passes, slots=slots, step_tokens=step_tokens, chunk_tokens=chunk_tokens, slice_tokens=slice_tokens
        )
        self._urgent = False

    def __len__(self) -> int:
        return len(self._scheduler)

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    def add(self, row: Row) -> None:
        self._scheduler.add(row)

    def step(self) -> int:
        """End what was cancelled, plan, read, sample, give out. Returns how many tokens were sampled."""
        for row in self._rows():
            if row.handle.cancelled.is_set():
                self._end(row, FinishReason.CANCELLED)
            elif row.finished is not None:  # resumed, and complete already
                self._end(row, row.finished)
        plan = self._scheduler.plan()
        for row in plan.admitted:
            row.enter()
        for row in plan.exhausted:
            self._end(row, FinishReason.LENGTH)
        return self._advance(plan.chunks) if plan.chunks else 0

    def end_all(self, error: str) -> None:
        """End whatever is left with FinishReason.ERROR, and say that it is not the requests' fault."""
        for row in self._rows():
            self._end(row, FinishReason.ERROR, error, code=WORKER_LOST)

    def take_urgent(self) -> bool:
        """Whether a first token or an end was given out since the last call."""
        urgent, self._urgent = self._urgent, False
        return urgent

    def _rows(self) -> list[Row]:
        return [*self._scheduler.running, *self._scheduler.waiting]

    def _advance(self, chunks: Chunks) -> int:
        """Read and sample what is planned; returns how many tokens were sampled.

        The boundary between one request and all others: whatever a model raises (out of memory, a shape that it does
        not take) is looked for by reading each request alone, and whoever it comes from then has failed twice.
        """
        parts: deque[Chunks] = deque([chunks] if self._passes.together else [[chunk] for chunk in chunks])
        failed: dict[Row, str] = {}
        sampled, again = 0, False
        while parts:
            part = parts.popleft()
            try:
                logits = self._passes.read(part)
            except Exception as error:
                if len(part) > 1:
                    parts.extend([chunk] for chunk in part)
                    again = True
                else:
                    row = part[0].job
                    failed[row] = _told(error)
                    row.failed = row.failed or again
                continue
            sampling = [chunk.job for chunk in part if chunk.samples]
            self._scheduler.commit(Plan(tuple(part), (), (), ()))
            self._passes.keep(part)
            sampled += self._sample(sampling, logits, failed)
        self._mend(failed, all_failed=len(failed) == len(chunks))
        return sampled

    def _sample(self, rows: list[Row], logits: Tensor, failed: dict[Row, str]) -> int:
        sampled = 0
        for row, choice in zip(rows, self._choose(rows, logits), strict=True):
            if choice.error is None:
                sampled += self._take(row, choice)
            elif choice.broken:
                failed[row] = choice.error
            else:
                self._end(row, FinishReason.ERROR, choice.error)
        return sampled

    def _choose(self, rows: list[Row], logits: Tensor) -> list[Choice]:
        if not rows:
            return []
        try:
            return self._sampler.choose(logits, [row.state for row in rows])
        except Exception as error:
            if len(rows) == 1:
                return [Choice(token=None, error=_told(error))]
        return [choice for n, row in enumerate(rows) for choice in self._choose([row], logits[n : n + 1])]

    def _take(self, row: Row, choice: Choice) -> bool:
        """Give out a token; False where that fails."""
        try:
            row.take(choice)
        except Exception as error:
            self._end(row, FinishReason.ERROR, _told(error))
            return False
        self._urgent = self._urgent or row.began
        if row.finished is not None:
            self._end(row, row.finished)
        return True

    def _mend(self, failed: dict[Row, str], *, all_failed: bool) -> None:
        """Nobody is to use again what those have in the cache that raised, or whose logits are not finite.

        Where that is each of a step, nobody knows what a pass that broke has left in the cache: it is cleared, and
        whoever runs reads all tokens again. So does who fails for the first time, as the fault may have been in what
        another pass had left; who fails twice ends.
        """
        if all_failed:
            # Before anybody ends: where clearing fails, nobody has failed but the machine. Nobody holds a place then.
            self._scheduler.restart()
            self._passes.clear()
        for row, error in failed.items():
            if not all_failed:
                self._passes.spoil(row)
                self._scheduler.preempt(row)
            if row.failed:
                self._end(row, FinishReason.ERROR, error)
            row.failed = True

    def _end(self, row: Row, reason: FinishReason, error: str = "", *, code: str = "") -> None:
        self._scheduler.remove(row)
        row.end(reason, error, code=code)
        self._urgent = True


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
