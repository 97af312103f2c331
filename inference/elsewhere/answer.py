"""One answer that an engine elsewhere writes: ask, try again within bounds, pass on what comes, end.

A request is tried again only before anything was given out. Whatever happens, its handle gets exactly one Finished.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from inference.elsewhere import fitting, wire
from inference.elsewhere.dialect import Dialect
from inference.elsewhere.faults import Broken, Busy, Fault, Refused, Silent, TooLong, UnknownOption, Unreachable
from inference.elsewhere.metering import Meter
from inference.elsewhere.patience import Patience
from inference.elsewhere.reading import Reading
from inference.elsewhere.upstream import Listed, Upstream
from inference.engine.channels import Splitter
from inference.engine.requests import Handle, Request
from inference.engine.tags import TagSplitter
from inference.errors import WorkerLost
from inference.served import OnEvents, Resumed
from inference.types import Delta, Finished, FinishReason, Sampling, Turn

log = logging.getLogger("worker")

# Where a busy server does not say when to come again: so long, and twice as long each time.
BUSY_S = 1.0
# Refusals that lead to another try, for length and for unknown fields, in all.
MOST_REFUSALS = 6


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the model `served`, whose context holds `context_length` tokens.

    salt: see Dialect.fields. tags: the strings between which the model thinks aloud, where it has such.
    """

    served: Listed
    turns: Sequence[Turn]
    sampling: Sampling
    resumed: Resumed
    context_length: int
    salt: str
    tags: tuple[str, str] | None


class Answer:
    """One request, from its first try to its end. All but `handle`, `settled` and `cancel` is the event loop's.

    settled: set once the server has taken the request, or it has ended.
    """

    def __init__(
        self,
        question: Question,
        upstream: Upstream,
        *,
        dialect: Dialect,
        patience: Patience,
        on_events: OnEvents,
    ) -> None:
        self.handle = Handle(Request((), (), question.sampling), self.cancel)
        self.settled = threading.Event()
        self.tokens = 0
        self.begun = False
        self._question = question
        self._upstream = upstream
        self._dialect = dialect
        self._patience = patience
        self._on_events = on_events
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._ended = False
        self._said = question.resumed.text
        left = question.sampling.max_tokens - question.resumed.tokens
        self._fit = fitting.first(question.turns, left, question.context_length)
        self._meter = self._new_meter()
        self._tries = 0
        self._waited_s = 0.0
        self._refusals = 0

    @property
    def fit(self) -> fitting.Fit:
        return self._fit

    def launch(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Begin, on the loop's own thread."""
        self._loop = loop
        self._task = loop.create_task(self._run())
        # A task that is cancelled before its first step runs nothing of its own.
        self._task.add_done_callback(lambda _: self._end(self._cut_off()))
        return self._task

    def cancel(self) -> None:
        """Close the connection, which ends the answer at the server. For any thread; idempotent."""
        self._cancelled = True
        if self._loop is not None:
            # The loop is closed once the worker ends, and all answers with it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        if self._cancelled:
            return
        try:
            self._end(await self._write())
        except asyncio.CancelledError:
            self._end(self._cut_off())
            raise
        except Fault as fault:
            self._end(self._failed(fault))

    async def _write(self) -> Finished:
        """Try until an answer has ended. Raises the Fault after which no other try is made."""
        if self._fit.max_tokens < 1:
            return Finished(FinishReason.LENGTH)
        while True:
            try:
                return await self._try()
            except (Unreachable, Broken, Busy) as fault:
                if self.begun or isinstance(fault, Silent):
                    raise
                await asyncio.sleep(self._pause_s(fault))
            except (TooLong, UnknownOption) as refusal:
                self._refusals += 1
                if self._refusals > MOST_REFUSALS or not self._asks_less(refusal):
                    raise

    async def _try(self) -> Finished:
        meter = self._meter = self._new_meter()
        reading = Reading(
            self._give,
            meter,
            self._patience,
            most_tokens=self._fit.max_tokens,
            said=self._said,
            splitter=self._new_splitter(),
        )
        try:
            async with (
                asyncio.timeout(self._patience.first_token_s) as clock,
                self._upstream.answer(self._body()) as events,
            ):
                self.settled.set()
                await reading.read(events, clock)
        # Once it has said that the answer ends, nothing is missing but its usage or the end of the stream.
        except TimeoutError:
            if not reading.is_over:
                raise self._stalled() from None
        except Fault:
            if not reading.is_over:
                raise
        reading.finish()
        resumed = self._question.resumed.tokens
        return replace(
            self._counted(),
            reason=reading.finish_reason or FinishReason.STOP,
            completion_tokens=resumed + meter.completion_tokens,
        )

    def _body(self) -> dict[str, Any]:
        question = self._question
        least = max(0, question.sampling.min_tokens - question.resumed.tokens)
        sampling = replace(question.sampling, max_tokens=self._fit.max_tokens, min_tokens=least)
        served = question.served
        return {
            **wire.fields(served.name, self._fit.turns, sampling, said=self._said.rstrip()),
            **self._dialect.fields(served, question.salt),
        }

    def _give(self, delta: Delta) -> None:
        is_first, self.begun = not self.begun, True
        self.tokens += delta.tokens
        self.handle.put(delta)
        self._on_events(is_first)

    def _stalled(self) -> Fault:
        return Broken("The stream stalled.") if self.begun else Silent("The server said nothing.")

    def _pause_s(self, fault: Fault) -> float:
        """How long to wait before another try. Raises the fault where there is none."""
        if isinstance(fault, Busy):
            pause_s = fault.retry_after_s or max(BUSY_S, self._waited_s)
            self._waited_s += pause_s
            if self._waited_s > self._patience.busy_s:
                raise fault
            return pause_s
        pauses = self._patience.unreachable_s
        if self._tries >= len(pauses):
            raise fault
        self._tries += 1
        return pauses[self._tries - 1]

    def _asks_less(self, refusal: TooLong | UnknownOption) -> bool:
        """Whether there is another way to ask."""
        if isinstance(refusal, UnknownOption):
            return self._dialect.forget(refusal.name)
        question = self._question
        fit = fitting.smaller(question.turns, self._fit, refusal, question.context_length)
        if fit is None:
            return False
        self._fit = fit
        return True

    def _new_meter(self) -> Meter:
        most_prompt = self._fit.most_prompt_tokens + len(self._said.encode())
        return Meter(most_tokens=self._fit.max_tokens, most_prompt_tokens=most_prompt)

    def _new_splitter(self) -> Splitter | None:
        tags = self._question.tags
        return TagSplitter(*tags, special={}, opened=False) if tags and not self._said else None

    def _counted(self) -> Finished:
        """The figures of the prompt. That of one that goes on holds what was said; about as many tokens as it took."""
        prompt = self._meter.prompt_tokens
        if prompt is not None and self._said:
            prompt = max(0, prompt - self._question.resumed.tokens)
        cached = min(self._meter.cached_tokens, prompt or 0)
        return Finished(FinishReason.STOP, cached_tokens=cached, prompt_tokens=prompt)

    def _cut_off(self) -> Finished:
        """Cancelled, or closed with the worker; what was given out counts."""
        if self._cancelled:
            return replace(self._counted(), reason=FinishReason.CANCELLED)
        return replace(self._counted(), reason=FinishReason.ERROR, error="The worker was closed.")

    def _failed(self, fault: Fault) -> Finished:
        # A server that does not take the beginning of an answer: what there is of it stays.
        lost = self._said and isinstance(fault, Refused) and not isinstance(fault, TooLong)
        code = (WorkerLost if lost else fault.error).code
        log.warning("an engine elsewhere failed: %s", fault, extra={"model": self._question.served.name, "code": code})
        return replace(self._counted(), reason=FinishReason.ERROR, error=str(fault), code=code)

    def _end(self, finished: Finished) -> None:
        """The first end counts."""
        if not self._ended:
            self._ended = True
            self.handle.put(finished)
            self.settled.set()
            self._on_events(True)
