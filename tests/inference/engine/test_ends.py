"""How requests end when the engine is drained, closed, or left alone with many of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import pytest

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.prompts import build
from inference.engine.requests import EngineClosed
from inference.types import Delta, FinishReason, Sampling, Turn
from tests.inference.engine.conftest import collect
from tests.tiny.replies import COUNT, HELLO, REPLIES

Ids = Callable[[str], tuple[int, ...]]
Start = Callable[..., Engine]
GREEDY = Sampling(temperature=0, max_tokens=1024)


@pytest.fixture
def ids(tiny: LoadedModel) -> Ids:
    return lambda question: build(tiny, [Turn("user", question)], 1024).ids


def test_draining_lets_all_that_was_taken_end_and_takes_no_more(started: Start, ids: Ids) -> None:
    engine = started(slots=1, pace_s=0.005)
    handles = [engine.submit(ids(HELLO), GREEDY) for _ in range(3)]
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(engine.drain(timeout_s=60)))
    draining.start()
    assert isinstance(handles[0].get(timeout=5), Delta)
    with pytest.raises(EngineClosed):
        engine.submit(ids(HELLO), GREEDY)
    draining.join(timeout=60)
    assert drained == [True]
    assert [collect(handle)[2].reason for handle in handles] == [FinishReason.STOP] * 3


def test_draining_gives_up_after_its_timeout_and_what_runs_goes_on(started: Start, ids: Ids) -> None:
    engine = started(pace_s=0.02)
    handle = engine.submit(ids(COUNT), replace(GREEDY, max_tokens=60))
    began = monotonic()
    assert engine.drain(timeout_s=0.1) is False
    assert 0.1 <= monotonic() - began < 1
    assert len(collect(handle)[1]) == 60
    assert engine.drain(timeout_s=5) is True


def test_draining_an_idle_engine_returns_at_once(started: Start) -> None:
    began = monotonic()
    assert started().drain(timeout_s=30) is True
    assert monotonic() - began < 1


def test_closing_ends_a_drain(started: Start, ids: Ids) -> None:
    engine = started(pace_s=0.05)
    handle = engine.submit(ids(COUNT), GREEDY)
    threading.Timer(0.2, engine.close).start()
    began = monotonic()
    assert engine.drain(timeout_s=30) is True
    assert monotonic() - began < 10
    text, _, end = collect(handle)
    assert end.reason is FinishReason.ERROR
    assert REPLIES[COUNT].startswith(text)
