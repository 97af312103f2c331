"""What breaks in one request, in one pass or in the whole cache, and who is to notice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.passes import CacheKind
from inference.engine.prompts import build
from inference.engine.requests import Handle
from inference.errors import WorkerLost
from inference.types import Finished, FinishReason, Grammar, GrammarKind, Sampling, Turn
from tests.inference.engine.conftest import collect, finish
from tests.tiny.replies import COUNT, HELLO, MARKDOWN, NAME, REPLIES, SCRIPTS, STORY

Ids = Callable[[str], tuple[int, ...]]
GREEDY = Sampling(temperature=0, max_tokens=1024)
QUESTIONS = [COUNT, SCRIPTS, MARKDOWN, STORY]
NOT_FINITE = Finished(FinishReason.ERROR, "The model's logits are not finite.")
caches = pytest.mark.parametrize("cache", [CacheKind.SLOTS, CacheKind.PAGED])


@pytest.fixture
def ids(tiny: LoadedModel) -> Ids:
    return lambda question: build(tiny, [Turn("user", question)], 1024).ids


@contextmanager
def before_each_pass(tiny: LoadedModel, act: Callable[[list[int]], None]) -> Iterator[None]:
    """Have it called with the ids that the model is about to read."""

    def hook(model: torch.nn.Module, args: tuple[()], given: dict[str, torch.Tensor]) -> None:
        act(given["input_ids"].flatten().tolist())

    handle = tiny.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def not_finite_after(tiny: LoadedModel, bad: int) -> Iterator[None]:
    """The model's hidden state is not a number where it reads that token."""

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.where(args[0][..., None] == bad, torch.nan, output)

    handle = tiny.model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def poison(engine: Engine, tiny: LoadedModel, *, slot: int | None = None) -> None:
    """Write what is not a number over all keys and values, or those of one slot."""
    for index in range(tiny.model.config.num_hidden_layers):
        for part in engine._passes._cache.layer(index):
            (part if slot is None else part[slot]).fill_(torch.nan)


def begun(engine: Engine, ids: Ids, steps: int = 12) -> dict[str, Handle]:
    handles = {question: engine.submit(ids(question), GREEDY) for question in QUESTIONS}
    for _ in range(steps):
        engine.step()
    return handles


def texts(engine: Engine, handles: dict[str, Handle]) -> dict[str, str]:
    while engine.step():
        pass
    return {question: collect(handle)[0] for question, handle in handles.items()}


@caches
def test_a_pass_that_raises_and_leaves_the_cache_in_ruins_costs_no_answer(
    tiny: LoadedModel, ids: Ids, cache: CacheKind
) -> None:
    engine, raised = Engine(tiny, cache=cache), []

    def fail_once(read: list[int]) -> None:
        if not raised:
            raised.append(True)
            poison(engine, tiny)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    finish(engine, engine.submit(ids(NAME), GREEDY, owner="ann"))  # its keys are kept, and are ruined too
    handles = begun(engine, ids)
    with before_each_pass(tiny, fail_once):
        assert texts(engine, handles) == {question: REPLIES[question] for question in QUESTIONS}
    text, _, end = finish(engine, engine.submit(ids(NAME), GREEDY, owner="ann"))
    assert (text, end.cached_tokens) == (REPLIES[NAME], 0)


@caches
def test_a_model_that_fails_for_everybody_ends_them_and_serves_those_who_come_later(
    tiny: LoadedModel, ids: Ids, cache: CacheKind
) -> None:
    engine = Engine(tiny, cache=cache)
    handles = begun(engine, ids)

    def fail(read: list[int]) -> None:
        raise RuntimeError("out of memory")

    with before_each_pass(tiny, fail):
        while engine.step():
            pass
    ends = [collect(handle)[2] for handle in handles.values()]
    assert ends == [Finished(FinishReason.ERROR, "RuntimeError: out of memory")] * len(QUESTIONS)
    assert engine.stats().kv_share == 0
    assert texts(engine, begun(engine, ids, steps=0)) == {question: REPLIES[question] for question in QUESTIONS}


def test_keys_of_one_answer_that_are_no_numbers_are_read_anew(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny, cache=CacheKind.SLOTS)
    handles = begun(engine, ids)
    poison(engine, tiny, slot=1)
    assert texts(engine, handles) == {question: REPLIES[question] for question in QUESTIONS}


@caches
def test_logits_that_are_not_finite_end_their_row_among_many(tiny: LoadedModel, ids: Ids, cache: CacheKind) -> None:
    engine = Engine(tiny, slots=6, cache=cache)
    stumble = tiny.tokenizer.convert_tokens_to_ids("\u00ff")  # a byte that no text has
    with not_finite_after(tiny, stumble):
        bad = [engine.submit([*ids(HELLO), stumble, 7], GREEDY)]
        handles = begun(engine, ids, steps=3)
        bad.append(engine.submit([5] * 40 + [stumble], GREEDY))
        assert texts(engine, handles) == {question: REPLIES[question] for question in QUESTIONS}
    assert [collect(handle) for handle in bad] == [("", [], NOT_FINITE)] * 2
    assert finish(engine, engine.submit(ids(NAME), GREEDY))[0] == REPLIES[NAME]


def test_what_breaks_while_a_token_is_given_out_ends_that_answer_alone(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny)
    handles = begun(engine, ids, steps=2)
    held = engine.submit(ids(HELLO), replace(GREEDY, grammar=Grammar(GrammarKind.REGEX, "[a-z]{40}")))
    engine._grammars._pool.shutdown(cancel_futures=True)  # no mask can be computed any more
    assert texts(engine, handles) == {question: REPLIES[question] for question in QUESTIONS}
    end = collect(held)[2]
    assert end.reason is FinishReason.ERROR
    assert end.error.split(":")[0] in ("RuntimeError", "CancelledError")


def test_a_request_that_raises_alone_is_tried_once_more_and_no_further(tiny: LoadedModel) -> None:
    engine, passes = Engine(tiny), []

    def fail(read: list[int]) -> None:
        passes.append(read)
        raise ValueError("shape")

    with before_each_pass(tiny, fail):
        end = finish(engine, engine.submit([5, 6], GREEDY))[2]
    assert end == Finished(FinishReason.ERROR, "ValueError: shape")
    assert passes == [[5, 6]] * 2


@caches
@pytest.mark.parametrize("room", [340, 500, 800])
def test_answers_that_grow_past_memory_say_what_they_say_alone(
    tiny: LoadedModel, ids: Ids, cache: CacheKind, room: int
) -> None:
    """Each is preempted now and then, and reads its prompt and what it has said again."""
    hot = Sampling(temperature=1.2, max_tokens=260, min_tokens=260)
    asked = [(ids(question), replace(hot, seed=seed)) for seed, question in enumerate(QUESTIONS)]
    expected = []
    for request in asked:
        lone = Engine(tiny)
        expected.append(finish(lone, lone.submit(*request))[:2])
    engine = Engine(tiny, kv_tokens=room, cache=cache)
    handles = [engine.submit(*request) for request in asked]
    most = 0
    while engine.step():
        most = max(most, engine.stats().running)
    assert [collect(handle)[:2] for handle in handles] == expected
    assert most > 1
    assert engine.stats().kv_share == 0


def test_an_engine_whose_thread_dies_ends_its_answers_as_those_of_a_lost_worker(
    tiny: LoadedModel, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU that has failed for good nothing can be cleared any more."""
    engine = Engine(tiny)
    handles = begun(engine, ids, steps=3)
    engine._passes._cache._layers[:] = [None]  # neither read nor cleared without an error
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    engine.start()
    engine._thread.join(timeout=30)
    assert not engine.alive
    for handle in handles.values():
        *_, end = iter(lambda get=handle.get: get(timeout=1), None)
        assert (end.reason, end.code) == (FinishReason.ERROR, WorkerLost.code)
