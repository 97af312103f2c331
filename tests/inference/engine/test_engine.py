from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic, sleep

import pytest
import torch

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.prompts import build
from inference.engine.requests import EngineClosed, InvalidRequest, QueueFull
from inference.errors import WorkerLost
from inference.types import Delta, Finished, FinishReason, Sampling, Turn
from tests.inference.engine.conftest import collect, finish
from tests.tiny.replies import COUNT, EMOJI, HELLO, NAME, REPLIES, SCRIPTS, STORY, STORY_STOP

Ids = Callable[[str], tuple[int, ...]]
Start = Callable[..., Engine]
GREEDY = Sampling(temperature=0, max_tokens=1024)


@pytest.fixture
def ids(tiny: LoadedModel) -> Ids:
    return lambda question: build(tiny, [Turn("user", question)], 1024).ids


def test_an_answer_ends_with_the_token_that_ends_it_counted_but_not_shown(
    engine: Engine, tiny: LoadedModel, ids: Ids
) -> None:
    text, tokens, end = finish(engine, engine.submit(ids(HELLO), GREEDY))
    assert (text, end) == (REPLIES[HELLO], Finished(FinishReason.STOP))
    assert tokens == [*tiny.tokenizer.encode(REPLIES[HELLO]), tiny.tokenizer.eos_token_id]


def test_deltas_hold_whole_characters_only(engine: Engine, ids: Ids) -> None:
    handle = engine.submit(ids(EMOJI), GREEDY)
    while engine.step():
        pass
    deltas = [event for event in handle if isinstance(event, Delta)]
    assert all(len(delta.token_ids) == 1 and "\ufffd" not in delta.text for delta in deltas)
    assert sum(not delta.text for delta in deltas) > 20  # bytes inside a character


def test_max_tokens_ends_an_answer_with_length(engine: Engine, ids: Ids) -> None:
    text, tokens, end = finish(engine, engine.submit(ids(COUNT), replace(GREEDY, max_tokens=7)))
    assert (text, len(tokens), end.reason) == ("1 2 3 4 5 6 7", 7, FinishReason.LENGTH)


def test_half_a_character_at_the_limit_is_left_out(engine: Engine, ids: Ids) -> None:
    text, tokens, _ = finish(engine, engine.submit(ids(SCRIPTS), replace(GREEDY, max_tokens=4)))
    assert (text, len(tokens)) == (REPLIES[SCRIPTS][0], 4)


def test_a_stop_string_across_tokens_ends_an_answer_before_it(engine: Engine, ids: Ids) -> None:
    text, tokens, end = finish(engine, engine.submit(ids(STORY), replace(GREEDY, stop=("nothing", STORY_STOP))))
    assert (text, end.reason) == (REPLIES[STORY].split(STORY_STOP)[0], FinishReason.STOP)
    assert len(tokens) < 26


def test_the_end_of_the_context_ends_an_answer_with_length(tiny: LoadedModel, ids: Ids) -> None:
    prompt = ids(COUNT)
    engine = Engine(replace(tiny, context_length=len(prompt) + 20))
    text, tokens, end = finish(engine, engine.submit(prompt, GREEDY))
    # the last token needs no place of its own: nothing is read after it
    assert (len(tokens), end.reason) == (21, FinishReason.LENGTH)
    assert REPLIES[COUNT].startswith(text)


def test_many_answers_grow_side_by_side_and_each_is_right(engine: Engine, ids: Ids) -> None:
    handles = {question: engine.submit(ids(question), GREEDY) for question in REPLIES}
    assert engine.stats().waiting == len(REPLIES)
    engine.step()
    assert (engine.stats().running, engine.stats().waiting) == (4, len(REPLIES) - 4)
    while engine.step():
        pass
    assert {question: collect(handle)[0] for question, handle in handles.items()} == REPLIES
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def test_a_prompt_read_in_chunks_gives_the_same_answer(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny, step_tokens=5)
    handle = engine.submit(ids(NAME), GREEDY)
    engine.step()
    assert handle.get(timeout=0) is None
    assert finish(engine, handle)[0] == REPLIES[NAME]


def test_the_same_seed_gives_the_same_text_and_another_does_not(engine: Engine, ids: Ids) -> None:
    def sample(seed: int) -> list[int]:
        hot = Sampling(temperature=1.8, max_tokens=40, seed=seed)
        return finish(engine, engine.submit(ids("anything"), hot))[1]

    assert sample(11) == sample(11)
    assert sample(11) != sample(12)


@pytest.mark.parametrize("temperature", [0.0, 1.8])
@pytest.mark.parametrize("taken", [1, 6, 15])
def test_another_engine_goes_on_in_the_same_sentence(
    tiny: LoadedModel, ids: Ids, temperature: float, taken: int
) -> None:
    sampling = Sampling(temperature=temperature, max_tokens=60, seed=4, stop=("(Thai",))
    first, second = Engine(tiny), Engine(tiny)
    handle = first.submit(ids(SCRIPTS), sampling)
    while first.step():
        pass
    *deltas, end = list(handle)
    saved = [token for delta in deltas[:taken] for token in delta.token_ids]
    text, tokens, resumed_end = finish(second, second.submit(ids(SCRIPTS), sampling, resume_ids=saved))
    assert "".join(delta.text for delta in deltas[:taken]) + text == "".join(delta.text for delta in deltas)
    assert saved + tokens == [token for delta in deltas for token in delta.token_ids]
    assert resumed_end == end


def test_resuming_an_answer_that_was_complete_samples_nothing(engine: Engine, tiny: LoadedModel, ids: Ids) -> None:
    whole = [*tiny.tokenizer.encode(REPLIES[HELLO]), tiny.tokenizer.eos_token_id]
    ended = finish(engine, engine.submit(ids(HELLO), GREEDY, resume_ids=whole))
    full = finish(engine, engine.submit(ids(HELLO), replace(GREEDY, max_tokens=3), resume_ids=whole[:3]))
    assert ended == ("", [], Finished(FinishReason.STOP))
    assert full == ("", [], Finished(FinishReason.LENGTH))


def test_cancel_takes_effect_before_the_next_forward_pass(engine: Engine, ids: Ids) -> None:
    handle = engine.submit(ids(COUNT), GREEDY)
    for _ in range(5):
        engine.step()
    handle.cancel()
    handle.cancel()
    assert engine.step() is False
    text, tokens, end = collect(handle)
    assert (text, len(tokens), end.reason) == ("1 2 3 4 5", 5, FinishReason.CANCELLED)
    handle.cancel()
    assert handle.get() is None


def test_a_waiting_request_can_be_cancelled(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny, slots=1)
    first, second = engine.submit(ids(HELLO), GREEDY), engine.submit(ids(COUNT), GREEDY)
    second.cancel()
    engine.step()
    assert collect(second) == ("", [], Finished(FinishReason.CANCELLED))
    assert finish(engine, first)[0] == REPLIES[HELLO]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny, slots=1, queue_limit=2)
    handles = [engine.submit(ids(HELLO), GREEDY) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        engine.submit(ids(HELLO), GREEDY)
    engine.step()
    handles.append(engine.submit(ids(HELLO), GREEDY))
    while engine.step():
        pass
    assert [collect(handle)[0] for handle in handles] == [REPLIES[HELLO]] * 3


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        ([], GREEDY),
        ([1.5], GREEDY),
        ([True], GREEDY),
        ([-1], GREEDY),
        ([10**9], GREEDY),
        ([5] * 4097, GREEDY),
        ([5], Sampling(temperature=-0.1)),
        ([5], Sampling(temperature=math.nan)),
        ([5], Sampling(temperature=math.inf)),
        ([5], Sampling(temperature="1")),
        ([5], Sampling(top_p=0)),
        ([5], Sampling(top_p=1.1)),
        ([5], Sampling(top_p=math.nan)),
        ([5], Sampling(top_k=-1)),
        ([5], Sampling(top_k=2.5)),
        ([5], Sampling(max_tokens=0)),
        ([5], Sampling(max_tokens=True)),
        ([5], Sampling(seed=None)),
        ([5], Sampling(stop=("",))),
        ([5], Sampling(stop=("x" * 257,))),
        ([5], Sampling(stop=("x",) * 17)),
        ([5], Sampling(stop="text")),
    ],
)
def test_a_request_with_a_wrong_value_is_refused(engine: Engine, prompt: list[int], sampling: Sampling) -> None:
    with pytest.raises(InvalidRequest):
        engine.submit(prompt, sampling)
    assert engine.stats().waiting == 0


def test_an_error_in_one_answer_ends_that_one_and_no_other(engine: Engine, tiny: LoadedModel, ids: Ids) -> None:
    def break_on_unk(model: torch.nn.Module, args: tuple[()], given: dict[str, torch.Tensor]) -> None:
        if 0 in given["input_ids"]:
            raise RuntimeError("out of memory")

    hook = tiny.model.register_forward_pre_hook(break_on_unk, with_kwargs=True)
    try:
        bad, good = engine.submit([5, 0], GREEDY), engine.submit(ids(HELLO), GREEDY)
        assert finish(engine, good)[0] == REPLIES[HELLO]
    finally:
        hook.remove()
    assert collect(bad) == ("", [], Finished(FinishReason.ERROR, "RuntimeError: out of memory"))


def test_a_started_engine_answers_many_threads(started: Start, ids: Ids) -> None:
    engine, found = started(), {}

    def ask(number: int, question: str) -> None:
        found[number] = (question, collect(engine.submit(ids(question), GREEDY))[0])

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate([*REPLIES] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 2 * len(REPLIES)
    assert all(text == REPLIES[question] for question, text in found.values())
    assert engine.stats().tokens_total > 1000
    assert engine.stats().tokens_per_s > 0


def test_an_idle_engine_wakes_for_a_request_and_a_cancel(started: Start, ids: Ids) -> None:
    engine = started(pace_s=0.02)
    sleep(0.1)
    handle = engine.submit(ids(COUNT), GREEDY)
    assert isinstance(handle.get(timeout=5), Delta)
    began = monotonic()
    handle.cancel()
    assert collect(handle)[2].reason is FinishReason.CANCELLED
    assert monotonic() - began < 0.5


def test_pace_slows_the_steps_down(started: Start, ids: Ids) -> None:
    began = monotonic()
    assert len(collect(started(pace_s=0.02).submit(ids(COUNT), replace(GREEDY, max_tokens=20)))[1]) == 20
    assert 0.35 < monotonic() - began < 3


def test_closing_ends_every_handle_once_and_refuses_more(started: Start, ids: Ids) -> None:
    engine = started(slots=1, pace_s=0.05)
    handles = [engine.submit(ids(COUNT), GREEDY) for _ in range(3)]
    assert isinstance(handles[0].get(timeout=5), Delta)
    engine.close()
    for handle in handles:
        *_, end = list(handle)
        assert isinstance(end, Finished)
        assert (end.reason, end.code) == (FinishReason.ERROR, WorkerLost.code)
        assert handle.get() is None
    with pytest.raises(EngineClosed):
        engine.submit(ids(HELLO), GREEDY)


def test_waiting_for_an_event_gives_up_after_its_timeout(engine: Engine, ids: Ids) -> None:
    handle = engine.submit(ids(HELLO), GREEDY)
    began = monotonic()
    assert handle.get(timeout=0.05) is None
    assert monotonic() - began >= 0.05


def test_a_long_prompt_does_not_hold_up_another_answer(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny)
    short = engine.submit(ids(HELLO), GREEDY)
    engine.step()
    long = engine.submit([5] * 2000, replace(GREEDY, max_tokens=1))
    for _ in range(3):
        engine.step()
    assert long.get(timeout=0) is None
    assert len([short.get(timeout=0) for _ in range(4)]) == 4
    assert finish(engine, short)[2].reason is FinishReason.STOP
