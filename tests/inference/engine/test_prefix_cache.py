"""What was read once is not read again, for its owner alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.passes import CacheKind
from inference.engine.prefixes import BLOCK_TOKENS
from inference.engine.prompts import build
from inference.types import Finished, FinishReason, Sampling, Turn
from tests.inference.engine.conftest import finish
from tests.tiny.replies import HELLO, NAME, REPLIES

GREEDY = Sampling(temperature=0, max_tokens=200)
Build = Callable[..., Engine]
HISTORY = [Turn("user", "once more " * 60), Turn("assistant", "as you like"), Turn("user", NAME)]


@pytest.fixture(params=[CacheKind.SLOTS, CacheKind.PAGED])
def build_engine(tiny: LoadedModel, request: pytest.FixtureRequest) -> Build:
    return partial(Engine, tiny, cache=request.param)


def _ids(tiny: LoadedModel, turns: list[Turn]) -> tuple[int, ...]:
    return build(tiny, turns, 200).ids


def _read(tiny: LoadedModel, engine: Engine, ids: tuple[int, ...], owner: str) -> tuple[str, int]:
    """The answer, and how many tokens of the prompt the model had to read for it."""
    read, others = 0, engine.stats().running

    def count(model: torch.nn.Module, args: tuple[()], given: dict[str, torch.Tensor]) -> None:
        nonlocal read
        read += given["input_ids"].numel()

    hook = tiny.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        text, tokens, end = finish(engine, engine.submit(ids, GREEDY, owner=owner))
    finally:
        hook.remove()
    read -= len(tokens) - 1
    assert end.cached_tokens == len(ids) - read or others
    return text, read


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(tiny: LoadedModel, build_engine: Build) -> None:
    engine, first = build_engine(), _ids(tiny, HISTORY)
    text, read = _read(tiny, engine, first, "ann")
    assert (text, read) == (REPLIES[NAME], len(first))
    second = _ids(tiny, [*HISTORY, Turn("assistant", text), Turn("user", HELLO)])
    text, read = _read(tiny, engine, second, "ann")
    assert text == REPLIES[HELLO]
    assert read <= len(second) - len(first)


def test_a_stranger_with_the_same_prompt_is_answered_no_sooner(tiny: LoadedModel, build_engine: Build) -> None:
    engine, ids = build_engine(), _ids(tiny, HISTORY)
    _read(tiny, engine, ids, "ann")
    assert _read(tiny, engine, ids, "bob") == (REPLIES[NAME], len(ids))
    assert _read(tiny, engine, ids, "ann") == (REPLIES[NAME], 1)


def test_two_branches_of_a_conversation_share_what_they_have_in_common(tiny: LoadedModel, build_engine: Build) -> None:
    """While the first still grows, its keys are copied for the second."""
    engine, ids = build_engine(), _ids(tiny, HISTORY)
    first = engine.submit(ids, GREEDY, owner="ann")
    while first.get(timeout=0) is None:
        engine.step()
    other = _ids(tiny, [*HISTORY[:2], Turn("user", HELLO)])
    text, read = _read(tiny, engine, other, "ann")
    assert text == REPLIES[HELLO]
    assert read < len(other) // 2 + len(REPLIES[NAME])


def test_cached_tokens_are_those_of_the_prompt_when_it_was_first_admitted(tiny: LoadedModel) -> None:
    """Neither what another engine sampled counts, nor what is found again after a preemption."""
    ids = _ids(tiny, HISTORY)
    engine = Engine(tiny, slots=2)
    *_, end = finish(engine, engine.submit(ids, GREEDY, owner="ann"))
    assert end.cached_tokens == 0
    said = tiny.tokenizer.encode(REPLIES[NAME])
    resumed = finish(engine, engine.submit(ids, GREEDY, owner="ann", resume_ids=said[:5]))
    assert resumed[2].cached_tokens == len(ids)
    scarce = Engine(tiny, slots=2, kv_tokens=len(ids) + 4 * BLOCK_TOKENS)
    handles = [scarce.submit(ids, replace(GREEDY, max_tokens=80, min_tokens=80), owner=owner) for owner in "ab"]
    while scarce.step():
        pass
    assert [list(handle)[-1] for handle in handles] == [Finished(FinishReason.LENGTH)] * 2


def test_memory_that_is_only_kept_gives_way_to_those_who_run(tiny: LoadedModel, build_engine: Build) -> None:
    ids = _ids(tiny, HISTORY)
    engine = build_engine(slots=3, kv_tokens=len(ids) + 6 * BLOCK_TOKENS)
    for owner in ("ann", "bob", "cid", "ann"):
        text, read = _read(tiny, engine, ids, owner)
        assert (text, read) == (REPLIES[NAME], len(ids))


def test_a_request_that_can_never_fit_ends_for_its_length(tiny: LoadedModel, build_engine: Build) -> None:
    engine = build_engine(kv_tokens=2 * BLOCK_TOKENS)
    handle = engine.submit([5] * 50, replace(GREEDY, max_tokens=1000, min_tokens=1000), owner="ann")
    _, tokens, end = finish(engine, handle)
    assert end == Finished(FinishReason.LENGTH)
    assert len(tokens) == 2 * BLOCK_TOKENS - 50 + 1


def test_numbers_that_are_not_finite_reach_no_other_answer(tiny: LoadedModel, build_engine: Build) -> None:
    engine, ids = build_engine(slots=2), _ids(tiny, HISTORY)
    embedding = tiny.model.get_input_embeddings()

    def break_it(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, torch.nan)

    hook = embedding.register_forward_hook(break_it)
    try:
        assert finish(engine, engine.submit(ids, GREEDY, owner="ann"))[2].reason is FinishReason.ERROR
    finally:
        hook.remove()
    handles = [engine.submit(_ids(tiny, [Turn("user", HELLO)]), GREEDY, owner="ann"), engine.submit(ids, GREEDY)]
    assert finish(engine, handles[0])[0] == REPLIES[HELLO]
    assert finish(engine, handles[1])[0] == REPLIES[NAME]
