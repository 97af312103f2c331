from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from inference.catalog import ModelSpec, Prices, Reasoning
from inference.elsewhere.model import RemoteModel
from inference.elsewhere.patience import Patience
from inference.served import OnEvents, Resumed
from inference.types import Channel, Delta, Finished, Priority, Sampling, Turn
from tests.inference.elsewhere.server import Server, serving

HELLO = [Turn("user", "Hello")]
QUICK = Patience(unreachable_s=(0.05, 0.1), poll_s=0.1)
SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=100, seed=7)


class Told:
    """What one request gave: its text and reasoning, its tokens, its end."""

    def __init__(self, model: RemoteModel, turns: list[Turn], sampling: Sampling, resumed: Resumed) -> None:
        self.begun = model.begin(turns, sampling, priority=Priority.CHAT, owner="ann", resumed=resumed)
        self.handle = self.begun.handle
        self.deltas: list[Delta] = []
        self.end: Finished | None = None

    def rest(self, timeout_s: float = 20) -> Told:
        """Everything up to the end, which comes once."""
        while self.end is None:
            event = self.handle.get(timeout=timeout_s)
            assert event is not None, "the answer did not end"
            self._take(event)
        assert self.handle.get(timeout=0.05) is None
        return self

    def until(self, count: int) -> Told:
        """The next deltas, so many of them."""
        while len(self.deltas) < count:
            event = self.handle.get(timeout=20)
            assert isinstance(event, Delta)
            self._take(event)
        return self

    def _take(self, event: Delta | Finished) -> None:
        if isinstance(event, Finished):
            self.end = event
        else:
            self.deltas.append(event)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas if delta.channel is Channel.ANSWER)

    @property
    def reasoning(self) -> str:
        return "".join(delta.text for delta in self.deltas if delta.channel is Channel.REASONING)

    @property
    def tokens(self) -> int:
        return sum(delta.tokens for delta in self.deltas)


class Asking:
    """A started model elsewhere, and what it is asked."""

    def __init__(self, model: RemoteModel) -> None:
        self.model = model

    def begin(self, turns: list[Turn] = HELLO, sampling: Sampling = SAMPLING, resumed: Resumed | None = None) -> Told:
        return Told(self.model, turns, sampling, resumed or Resumed())

    def ask(self, turns: list[Turn] = HELLO, sampling: Sampling = SAMPLING, resumed: Resumed | None = None) -> Told:
        return self.begin(turns, sampling, resumed).rest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def elsewhere(server: Server) -> Iterator[Callable[..., Asking]]:
    """Starts models elsewhere, with what a test declares of them, and closes them."""
    models: list[RemoteModel] = []

    def start(
        *,
        name: str = "",
        context_length: int = 4096,
        reasons: bool = False,
        api_key: str = "",
        url: str = "",
        patience: Patience = QUICK,
        on_events: OnEvents = lambda urgent: None,
    ) -> Asking:
        spec = declared(f"openai:{url or server.url}" + (f"#{name}" if name else ""), context_length, reasons=reasons)
        models.append(RemoteModel(spec, api_key=api_key, connections=8, patience=patience))
        models[-1].start(on_events)
        return Asking(models[-1])

    yield start
    for model in models:
        model.close()
        assert not model.alive


@pytest.fixture
def asking(elsewhere: Callable[..., Asking]) -> Asking:
    return elsewhere()


def declared(source: str, context_length: int, *, reasons: bool = False) -> ModelSpec:
    return ModelSpec(
        slug="large",
        name="Large",
        maker="Tests",
        description="Runs elsewhere.",
        licence="MIT",
        source_text=source,
        context_length=context_length,
        prices=Prices(prompt=0, cached_prompt=0, completion=0),
        reasoning=Reasoning(open="<think>", close="</think>") if reasons else None,
    )
