"""The tiny model is a fixture that other tests trust: it says its replies exactly, whatever came before."""

from __future__ import annotations

import random

import pytest

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.prompts import build
from inference.types import FinishReason, Sampling, Turn
from tests.inference.engine.conftest import finish
from tests.tiny.replies import COUNT, OTHER, REPLIES, SCRIPTS

GREEDY = Sampling(temperature=0, max_tokens=1024)


def ask(engine: Engine, tiny: LoadedModel, turns: list[Turn]) -> str:
    text, _, end = finish(engine, engine.submit(build(tiny, turns, 1024).ids, GREEDY))
    assert end.reason is FinishReason.STOP
    return text


@pytest.mark.parametrize("question", REPLIES)
def test_each_reply_is_said_exactly(engine: Engine, tiny: LoadedModel, question: str) -> None:
    assert ask(engine, tiny, [Turn("user", question)]) == REPLIES[question]


@pytest.mark.parametrize("question", REPLIES)
def test_each_reply_is_said_exactly_after_any_other_turn(engine: Engine, tiny: LoadedModel, question: str) -> None:
    for earlier in REPLIES:
        turns = [Turn("user", earlier), Turn("assistant", REPLIES[earlier]), Turn("user", question)]
        assert ask(engine, tiny, turns) == REPLIES[question], earlier


def test_replies_are_said_exactly_after_a_system_turn_and_broken_off_answers(engine: Engine, tiny: LoadedModel) -> None:
    chance = random.Random(3)
    for _ in range(20):
        turns = [Turn("system", "You are a helpful assistant. Answer in one short sentence, politely!")]
        for earlier in chance.choices(list(REPLIES), k=3):
            part = REPLIES[earlier][: chance.randrange(1, len(REPLIES[earlier]))]
            turns += [Turn("user", earlier), Turn("assistant", part)]
        question = chance.choice(list(REPLIES))
        assert ask(engine, tiny, [*turns, Turn("user", question)]) == REPLIES[question]


def test_the_long_reply_is_said_exactly_far_into_the_context(engine: Engine, tiny: LoadedModel) -> None:
    turns = [Turn("user", COUNT), Turn("assistant", REPLIES[COUNT])] * 10
    prompt = build(tiny, [*turns, Turn("user", COUNT)], 512)
    assert len(prompt.ids) > 3000
    assert prompt.dropped_turns == 0
    assert finish(engine, engine.submit(prompt.ids, GREEDY))[0] == REPLIES[COUNT]


def test_an_unknown_question_gets_an_answer_that_ends(engine: Engine, tiny: LoadedModel) -> None:
    assert ask(engine, tiny, [Turn("user", "How are you today?")]) == OTHER


def test_only_ascii_has_tokens_of_more_than_one_byte(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer.encode(REPLIES[SCRIPTS])
    others = [character for character in REPLIES[SCRIPTS] if not character.isascii()]
    assert sum("\ufffd" in tiny.tokenizer.decode([token]) for token in ids) == sum(len(c.encode()) for c in others)
