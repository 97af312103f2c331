"""How requests end when the engine is drained, closed, or left alone with many of them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

import pytest

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.passes import CacheKind
from inference.engine.prompts import build
from inference.engine.requests import EngineClosed, Handle, QueueFull
from inference.types import Delta, Finished, FinishReason, Priority, Sampling, Turn
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


@pytest.mark.parametrize("cache", [CacheKind.SLOTS, CacheKind.PAGED])
def test_a_thousand_requests_cancelled_at_any_time_end_once_each_and_leave_no_slot(
    tiny: LoadedModel, ids: Ids, cache: CacheKind
) -> None:
    chance = random.Random(7)
    engine = Engine(tiny, slots=8, queue_limit=1000, kv_tokens=2000, cache=cache)
    prompts, waiting = [ids(question) for question in REPLIES], []
    handles: list[Handle] = []
    while len(handles) < 1000 or waiting:
        for _ in range(min(chance.randrange(12), 1000 - len(handles))):
            sampling = Sampling(temperature=1.0, max_tokens=chance.randint(1, 30), seed=len(handles))
            priority, owner = chance.choice([*Priority]), chance.choice("abc")
            handles.append(engine.submit(chance.choice(prompts), sampling, priority=priority, owner=owner))
            waiting.append(handles[-1])
        for handle in chance.sample(waiting, min(chance.randrange(8), len(waiting))):
            handle.cancel()
            waiting.remove(handle)
        engine.step()
        waiting = [handle for handle in waiting if chance.random() < 0.97]  # these are left to end
    while engine.step():
        pass
    ends = [[event for event in handle if isinstance(event, Finished)] for handle in handles]
    assert all(len(end) == 1 for end in ends)
    reasons = {end.reason for (end,) in ends}
    assert reasons <= {FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED}
    assert len(reasons) > 1
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_share) == (0, 0, 0)
    again = [engine.submit(ids(HELLO), GREEDY) for _ in range(8)]
    engine.step()
    assert engine.stats().running == 8
    while engine.step():
        pass
    assert [collect(handle)[0] for handle in again] == [REPLIES[HELLO]] * 8


def test_many_threads_that_submit_and_cancel_get_an_end_each_or_are_told_that_the_queue_is_full(
    started: Start, ids: Ids
) -> None:
    engine = started(slots=2, queue_limit=4)
    prompt, found = ids(COUNT), list[FinishReason | None]()

    def ask(number: int) -> None:
        chance = random.Random(number)
        for _ in range(12):
            try:
                handle = engine.submit(prompt, replace(GREEDY, max_tokens=chance.randint(1, 20)))
            except QueueFull:
                found.append(None)
                continue
            if chance.random() < 0.4:
                handle.get(timeout=5)
                handle.cancel()
            ends = [event for event in handle if isinstance(event, Finished)]
            found.append(ends[0].reason if len(ends) == 1 else FinishReason.ERROR)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 16 * 12
    assert {*found} == {None, FinishReason.LENGTH, FinishReason.CANCELLED}
    assert engine.drain(timeout_s=5)
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
