"""A model that an engine elsewhere runs, as `inference.served` wants it.

One thread runs an event loop with all connections. It asks the server every few seconds what it serves: while that is
not answered, or the model is not in the list, the worker is not ready and announces nothing; it comes back by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic

from inference.catalog import ModelSpec, OpenAISource
from inference.elsewhere import fitting
from inference.elsewhere.answer import Answer, Question
from inference.elsewhere.dialect import Dialect
from inference.elsewhere.faults import Fault
from inference.elsewhere.patience import USUAL, Patience
from inference.elsewhere.upstream import Listed, Upstream, choose
from inference.errors import ModelUnreachable, WorkerLost
from inference.served import Begun, Load, OnEvents, Resumed, ServedError
from inference.types import Priority, Sampling, Turn

log = logging.getLogger("worker")

# One answer that is late or lost takes nobody off the list; a server under load may need longer for one.
MOST_MISSED = 1
START_S = 6.0
CLOSE_S = 5.0


class RemoteModel:
    """The model of an `openai:` source. connections: the most answers at once."""

    def __init__(self, spec: ModelSpec, *, api_key: str, connections: int, patience: Patience = USUAL) -> None:
        if not isinstance(spec.source, OpenAISource):
            raise ValueError(f"{spec.slug} runs here.")
        self._spec = spec
        self._source = spec.source
        self._api_key = api_key
        self._connections = connections
        self._patience = patience
        self._dialect = Dialect()
        self._on_events: OnEvents = lambda urgent: None
        self._served: Listed | None = None
        self._ready = False
        self._looked = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._upstream: Upstream | None = None
        self._closing = asyncio.Event()
        self._answers: dict[asyncio.Task[None], Answer] = {}
        self._ended_tokens = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=4)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="elsewhere", daemon=True)

    @property
    def revision(self) -> str:
        """What the server says it has loaded."""
        served = self._served
        return (served.root or served.name)[:120] if served else ""

    @property
    def device(self) -> str:
        return "elsewhere"

    @property
    def dtype(self) -> str:
        return "unknown"

    @property
    def context_length(self) -> int:
        """What the catalog declares, or less where the server has less."""
        theirs = self._served.context_length if self._served else None
        return min(self._spec.context_length, theirs or self._spec.context_length)

    @property
    def ready(self) -> bool:
        return self._ready and self.alive

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def begin(
        self, turns: Sequence[Turn], sampling: Sampling, *, priority: Priority, owner: str, resumed: Resumed
    ) -> Begun:
        """As in `inference.served`. A conversation that may be too long waits for the server's word.

        The server has its own order: priority means nothing to it.
        """
        served, loop, upstream = self._served, self._loop, self._upstream
        if served is None or loop is None or upstream is None:
            raise ServedError("The engine elsewhere has not answered yet.", ModelUnreachable.code)
        if not self._dialect.goes_on(served, resumed, reasons=self._spec.reasoning is not None):
            raise ServedError("The engine elsewhere cannot go on in an answer.", WorkerLost.code)
        question = Question(
            served=served,
            turns=turns,
            sampling=sampling,
            resumed=resumed,
            context_length=self.context_length,
            salt=hashlib.sha256(owner.encode()).hexdigest()[:32],
            tags=self._tags(),
        )
        answer = Answer(question, upstream, dialect=self._dialect, patience=self._patience, on_events=self._on_events)
        try:
            loop.call_soon_threadsafe(self._launch, answer)
        except RuntimeError as error:
            raise ServedError("The worker is ending.", ModelUnreachable.code) from error
        if not fitting.is_sure(answer.fit, self.context_length):
            answer.settled.wait(self._patience.accept_s)
        return Begun(answer.handle, None, answer.fit.dropped)

    def _tags(self) -> tuple[str, str] | None:
        declared = self._spec.reasoning
        return (declared.open, declared.close) if declared and declared.open and declared.close else None

    def load(self) -> Load:
        answers = list(self._answers.values())
        running = sum(answer.begun for answer in answers)
        return Load(running, len(answers) - running, self._tokens_per_s(), self._tokens(), 0.0)

    def start(self, on_events: OnEvents) -> None:
        """Blocks until the server has answered or not, 6 s at most."""
        self._on_events = on_events
        self._thread.start()
        self._looked.wait(START_S)

    def close(self) -> None:
        loop = self._loop
        if loop is not None and self.alive:
            loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(CLOSE_S)

    async def _serve(self) -> None:
        """The event loop's life."""
        loop = asyncio.get_running_loop()
        self._upstream = Upstream(self._source.url, api_key=self._api_key, connections=self._connections)
        self._loop = loop
        watching = loop.create_task(self._watch(self._upstream))
        closing = loop.create_task(self._closing.wait())
        # Should the watch ever break, the thread ends, and the process makes room for another.
        await asyncio.wait([watching, closing], return_when=asyncio.FIRST_COMPLETED)
        self._ready = False
        tasks = [watching, closing, *self._answers]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_S)
        await self._upstream.close()

    def _launch(self, answer: Answer) -> None:
        task = answer.launch(asyncio.get_running_loop())
        self._answers[task] = answer
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ended_tokens += self._answers.pop(task).tokens
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an answer from elsewhere broke", exc_info=error, extra={"model": self._spec.slug})

    async def _watch(self, upstream: Upstream) -> None:
        missed = 0
        while True:
            try:
                self._served = choose(await upstream.models(), self._source.model)
                missed = 0
                self._become(True, "")
            except Fault as fault:
                missed += 1
                if missed > MOST_MISSED or not self._looked.is_set():
                    self._become(False, str(fault))
            self._looked.set()
            self._samples.append((monotonic(), self._tokens()))
            await asyncio.sleep(self._patience.poll_s)

    def _become(self, ready: bool, why: str) -> None:
        if ready != self._ready or not self._looked.is_set():
            words = "engine elsewhere answers" if ready else f"engine elsewhere is away: {why}"
            log.log(logging.INFO if ready else logging.WARNING, words, extra={"model": self._spec.slug})
        self._ready = ready

    def _tokens(self) -> int:
        return self._ended_tokens + sum(answer.tokens for answer in list(self._answers.values()))

    def _tokens_per_s(self) -> float:
        """Over the last seconds, idle ones included."""
        samples = list(self._samples)
        if not samples:
            return 0.0
        at, tokens = samples[0]
        return max(0.0, self._tokens() - tokens) / max(monotonic() - at, 0.001)
