from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from transformers import AutoTokenizer

from inference.engine.engine import Engine
from inference.engine.grammars import Grammars
from inference.engine.harmony import Mark
from inference.engine.loading import LoadedModel, load
from inference.engine.prompts import build
from inference.engine.reasoning import AnswerFormat
from inference.engine.requests import LONGEST_GRAMMAR, LONGEST_REGEX, EngineClosed, Handle, InvalidRequest, Request
from inference.engine.sampler import Choice
from inference.engine.sequence import Row
from inference.types import (
    Finished,
    FinishReason,
    Grammar,
    GrammarKind,
    Priority,
    Reasoning,
    ReasoningFormat,
    Sampling,
    Turn,
)
from tests.inference.engine.conftest import collect, finish
from tests.tiny.replies import HELLO, REPLIES, SCRIPTS, STORY, STORY_STOP

Ids = Callable[[str], tuple[int, ...]]


class Person(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(max_length=12)]
    age: Annotated[int, msgspec.Meta(ge=0, le=130)]
    mood: Literal["glad", "sad"]
    tags: Annotated[list[bool], msgspec.Meta(max_length=3)]


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "mood": {"enum": ["glad", "sad"]},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["name", "age", "mood", "tags"],
        "additionalProperties": False,
    }
)
PERSON = Grammar(GrammarKind.JSON_SCHEMA, SCHEMA)
DATE = Grammar(GrammarKind.REGEX, r"(19|20)\d\d-[01]\d-[0-3]\d( [a-z]{1,5})?")
ANSWERS = ["yes", "no", "no way", 'say "maybe"\n', "\u65e5\u672c"]
CHOICE = Grammar(GrammarKind.CHOICE, json.dumps(ANSWERS))
HOT = Sampling(temperature=1.0, max_tokens=400)


@pytest.fixture
def ids(tiny: LoadedModel) -> Ids:
    return lambda question: build(tiny, [Turn("user", question)], 400).ids


def said(engine: Engine, prompt: tuple[int, ...], sampling: Sampling, seeds: range) -> list[tuple[str, Finished]]:
    handles = [engine.submit(prompt, replace(sampling, seed=seed)) for seed in seeds]
    while engine.step():
        pass
    return [(text, end) for text, _, end in map(collect, handles)]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_an_answer_follows_its_schema_whatever_the_model_would_say(
    tiny: LoadedModel, ids: Ids, temperature: float
) -> None:
    sampling = replace(HOT, grammar=PERSON, temperature=temperature)
    for text, end in said(Engine(tiny), ids(SCRIPTS), sampling, range(12)):
        assert end.reason is FinishReason.STOP
        assert msgspec.json.decode(text, type=Person).mood in text


def test_any_object_is_json(tiny: LoadedModel, ids: Ids) -> None:
    sampling = replace(HOT, grammar=Grammar(GrammarKind.JSON_OBJECT))
    complete = [
        text for text, end in said(Engine(tiny), ids(HELLO), sampling, range(20)) if end.reason is FinishReason.STOP
    ]
    assert len(complete) > 5
    assert all(isinstance(json.loads(text), dict) for text in complete)


def test_an_answer_matches_its_pattern_and_is_one_of_its_choices(tiny: LoadedModel, ids: Ids) -> None:
    engine = Engine(tiny)
    dates = said(engine, ids(HELLO), replace(HOT, grammar=DATE), range(12))
    assert all(re.fullmatch(DATE.text, text) and end.reason is FinishReason.STOP for text, end in dates)
    choices = said(engine, ids(HELLO), replace(HOT, grammar=CHOICE, temperature=9.0), range(40))
    assert {text for text, _ in choices} == set(ANSWERS)
    assert all(end.reason is FinishReason.STOP for _, end in choices)


def test_an_answer_ends_as_soon_as_nothing_can_follow(tiny: LoadedModel, ids: Ids) -> None:
    engine, only = Engine(tiny), Grammar(GrammarKind.CHOICE, '["certainly"]')
    sampling = replace(HOT, grammar=only, min_tokens=300)
    text, tokens, end = finish(engine, engine.submit(ids(HELLO), sampling))
    assert (text, end.reason) == ("certainly", FinishReason.STOP)
    assert not tiny.eos_ids & {*tokens}
    text, tokens, end = finish(engine, engine.submit(ids(HELLO), replace(HOT, grammar=only, max_tokens=1)))
    assert (len(tokens), end.reason) == (1, FinishReason.LENGTH)
    assert "certainly".startswith(text)


def test_stop_strings_hold_within_a_grammar(engine: Engine, ids: Ids) -> None:
    sampling = replace(HOT, grammar=CHOICE, stop=("maybe",))
    texts = {text for text, _ in said(engine, ids(HELLO), replace(sampling, temperature=9.0), range(30))}
    assert texts <= {"yes", "no", "no way", 'say "', "\u65e5\u672c"}
    assert 'say "' in texts


def test_rows_without_a_grammar_say_what_they_say_alone(tiny: LoadedModel, ids: Ids) -> None:
    plain = [replace(HOT, temperature=1.5, max_tokens=40, seed=seed) for seed in range(3)]
    alone = [said(Engine(tiny), ids(SCRIPTS), sampling, range(sampling.seed, sampling.seed + 1)) for sampling in plain]
    engine = Engine(tiny, slots=6)
    handles = []
    for sampling in plain:
        handles.append(engine.submit(ids(SCRIPTS), sampling))
        engine.submit(ids(HELLO), replace(HOT, grammar=PERSON, seed=sampling.seed))
    while engine.step():
        pass
    assert [[(text, end)] for text, _, end in map(collect, handles)] == alone


@pytest.mark.parametrize("grammar", [PERSON, DATE, CHOICE])
def test_another_engine_goes_on_within_the_grammar(tiny: LoadedModel, ids: Ids, grammar: Grammar) -> None:
    engine, sampling = Engine(tiny), replace(HOT, grammar=grammar, seed=5)
    text, tokens, end = finish(engine, engine.submit(ids(HELLO), sampling))
    for taken in range(0, len(tokens) + 1, 1 + len(tokens) // 8):
        resumed = finish(engine, engine.submit(ids(HELLO), sampling, resume_ids=tokens[:taken]))
        assert (tokens[:taken] + resumed[1], resumed[2].reason) == (tokens, end.reason)
        assert text.endswith(resumed[0])


def test_what_does_not_follow_the_grammar_cannot_be_gone_on_from(tiny: LoadedModel, ids: Ids) -> None:
    with pytest.raises(InvalidRequest, match="resume_ids do not follow the grammar"):
        Engine(tiny).submit(ids(HELLO), replace(HOT, grammar=CHOICE), resume_ids=tiny.tokenizer.encode("perhaps"))


def schema(text: object) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, text if isinstance(text, str) else json.dumps(text))


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        (schema("{"), "Expecting property name"),
        (schema("[]"), "a schema is a JSON object"),
        (schema('{"allOf":[' * 6000), "cannot be used"),
        (schema({"type": "strange"}), "Invalid type: strange"),
        (schema({"$ref": "http://127.0.0.1/schema"}), "does not fetch"),
        (schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "no text matches"),
        (schema({"type": "string", "pattern": "(a"}), "unclosed group"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"not": {}}), "Unimplemented keys"),
        (schema(" " * (LONGEST_GRAMMAR + 1)), f"at most {LONGEST_GRAMMAR}"),
        (Grammar(GrammarKind.REGEX, "(a"), "unclosed group"),
        (Grammar(GrammarKind.REGEX, "(?=a)b"), "look-around"),
        (Grammar(GrammarKind.REGEX, r"[^\s\S]"), "no text matches"),
        (Grammar(GrammarKind.REGEX, "a" * (LONGEST_REGEX + 1)), f"at most {LONGEST_REGEX}"),
        (Grammar(GrammarKind.CHOICE, "yes"), "Expecting value"),
        (Grammar(GrammarKind.CHOICE, "[]"), "1 to 1000 texts"),
        (Grammar(GrammarKind.CHOICE, json.dumps(["a"] * 1001)), "1 to 1000 texts"),
        (Grammar(GrammarKind.CHOICE, '["a", ""]'), "at least one character"),
        (Grammar(GrammarKind.CHOICE, '["a", 1]'), "at least one character"),
        (Grammar("json_schema", "{}"), "known kind"),
        (Grammar(GrammarKind.REGEX, None), "not a text"),
        ({"kind": "regex", "text": "a"}, "not a Grammar"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_in_a_sentence(
    engine: Engine, grammar: Grammar, complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(complaint)) as caught:
        engine.submit([5], replace(HOT, grammar=grammar))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    assert engine.stats().waiting == 0


def test_a_grammar_that_becomes_too_complex_ends_its_own_row_alone(tiny: LoadedModel, ids: Ids) -> None:
    hard = Grammar(GrammarKind.REGEX, "((a{1000}){1000}){1000}")
    engine = Engine(tiny)
    neighbour = engine.submit(ids(HELLO), Sampling(temperature=0, max_tokens=60))
    handle = engine.submit(ids(HELLO), replace(HOT, grammar=hard))
    assert finish(engine, neighbour)[0] == REPLIES[HELLO]
    assert collect(handle)[2].error == "No token is allowed here."


def test_what_a_model_thinks_aloud_is_free_and_its_answer_is_not(tiny: LoadedModel, ids: Ids) -> None:
    opened = Reasoning(ReasoningFormat.TAGS, "<|im_start|>assistant", STORY_STOP)
    engine, sampling = Engine(tiny, reasoning=opened), Sampling(temperature=0, grammar=DATE)
    handle = engine.submit(ids(STORY), sampling)
    while engine.step():
        pass
    *deltas, end = list(handle)
    assert "".join(d.text for d in deltas if d.channel == "reasoning") == REPLIES[STORY].split(STORY_STOP)[0]
    answer = "".join(d.text for d in deltas if d.channel == "answer")
    assert re.fullmatch(DATE.text, answer)
    assert end == Finished(FinishReason.STOP)


def test_a_block_of_reasoning_may_come_before_the_grammar_where_one_token_opens_it(
    tiny: LoadedModel, tiny_model_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    opening = tokenizer.convert_tokens_to_ids("<think>")
    yes, no = tokenizer.encode("y")[0], tokenizer.encode("n")[0]
    matcher = Grammars(replace(tiny, tokenizer=tokenizer), len(tokenizer)).matcher(CHOICE)

    def allowed() -> set[int]:
        matcher.prepare()
        words = matcher.mask().tolist()
        return {token for token in (opening, yes, no) if words[token // 32] >> token % 32 & 1}

    matcher.opening = opening
    assert allowed() == {opening, yes, no}
    matcher.accept(opening)
    assert allowed() == {yes, no}
    matcher.accept(yes)
    assert allowed() == set()
    assert not matcher.failed


def test_the_grammar_of_an_answer_in_messages_begins_with_the_final_one(
    tiny: LoadedModel, tiny_model_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens([mark.value for mark in Mark], special_tokens=True)
    loaded, vocabulary = replace(tiny, tokenizer=tokenizer), len(tokenizer)
    prompt = tuple(tokenizer.encode("<|start|>assistant"))
    row = Row(
        loaded,
        Handle(Request(prompt, (), Sampling(grammar=CHOICE)), lambda: None),
        answers=AnswerFormat(tokenizer, Reasoning(ReasoningFormat.HARMONY)),
        grammar=Grammars(loaded, vocabulary).matcher(CHOICE),
        vocabulary=vocabulary,
        priority=Priority.CHAT,
        owner="",
    )
    free = "<|channel|>analysis<|message|>Hm. yes<|end|><|start|>assistant<|channel|>final<|message|>"
    for token in tokenizer.encode(free):
        assert row.state.grammar is None
        row.take(Choice(token))
    for token in tokenizer.encode("yes"):
        assert row.state.grammar is not None
        assert row.finished is None
        row.take(Choice(token))
    row.end(row.finished or FinishReason.ERROR)
    *deltas, end = list(row.handle)
    assert "".join(delta.text for delta in deltas if delta.channel == "answer") == "yes"
    assert "".join(delta.text for delta in deltas if delta.channel == "reasoning") == "Hm. yes"
    assert end == Finished(FinishReason.STOP)


def test_without_llguidance_only_requests_with_a_grammar_are_refused(
    engine: Engine, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare GPU machine may lack it."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(InvalidRequest, match="llguidance, which is not installed"):
        engine.submit(ids(HELLO), replace(HOT, grammar=CHOICE))
    assert finish(engine, engine.submit(ids(HELLO), Sampling(temperature=0)))[0] == REPLIES[HELLO]


def test_a_closed_engine_compiles_no_grammar(engine: Engine, ids: Ids) -> None:
    engine.close()
    with pytest.raises(EngineClosed):
        engine.submit(ids(HELLO), replace(HOT, grammar=schema("{")))


def test_a_grammar_survives_the_way_through_json() -> None:
    for sampling in (Sampling(grammar=PERSON), Sampling(grammar=Grammar(GrammarKind.JSON_OBJECT)), Sampling()):
        assert Sampling.read(json.loads(json.dumps(asdict(sampling)))) == sampling


@pytest.mark.default_model
def test_the_default_model_answers_in_json(default_model_dir: Path) -> None:
    loaded = load(default_model_dir, device="cpu")
    engine = Engine(loaded, slots=3)
    prompt = build(loaded, [Turn("user", "Describe a person as JSON.")], 100).ids
    for text, end in said(engine, prompt, replace(HOT, grammar=PERSON, max_tokens=100), range(3)):
        assert end.reason is FinishReason.STOP
        msgspec.json.decode(text, type=Person)
