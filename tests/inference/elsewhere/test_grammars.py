"""What an answer has to match is told to the server in its own words, or the request is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inference.served import Resumed, ServedError
from inference.types import Grammar, GrammarKind, Sampling
from tests.inference.elsewhere.conftest import Asking
from tests.inference.elsewhere.server import Server

SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}}'
OBJECT = {"response_format": {"type": "json_object"}}
FORMAT = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
            "strict": True,
        },
    }
}


@pytest.mark.parametrize(
    ("owner", "grammar", "fields"),
    [
        ("someone", Grammar(GrammarKind.JSON_OBJECT), OBJECT),
        ("someone", Grammar(GrammarKind.JSON_SCHEMA, SCHEMA), FORMAT),
        ("vllm", Grammar(GrammarKind.JSON_SCHEMA, SCHEMA), FORMAT),
        ("vllm", Grammar(GrammarKind.REGEX, "a+"), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", Grammar(GrammarKind.CHOICE, '["a", "b"]'), {"structured_outputs": {"choice": ["a", "b"]}}),
        ("sglang", Grammar(GrammarKind.REGEX, "a+"), {"regex": "a+"}),
        ("sglang", Grammar(GrammarKind.CHOICE, '["é\\"", "b"]'), {"ebnf": 'root ::= "é\\"" | "b"'}),
    ],
)
def test_each_kind_of_server_is_told_in_its_own_words(
    server: Server, elsewhere: Callable[..., Asking], owner: str, grammar: Grammar, fields: dict[str, Any]
) -> None:
    server.owner = owner
    elsewhere().ask(sampling=Sampling(grammar=grammar))
    body = server.asked[0].body
    assert {name: body[name] for name in fields} == fields
    assert sum(name in body for name in ("response_format", "structured_outputs", "regex", "ebnf")) == 1


@pytest.mark.parametrize("grammar", [Grammar(GrammarKind.REGEX, "a+"), Grammar(GrammarKind.CHOICE, '["a"]')])
def test_a_server_that_cannot_be_told_is_not_asked(
    server: Server, elsewhere: Callable[..., Asking], grammar: Grammar
) -> None:
    server.owner = "someone"
    with pytest.raises(ServedError) as caught:
        elsewhere().begin(sampling=Sampling(grammar=grammar))
    assert caught.value.code == "model_refused"
    assert server.asked == []


def test_log_probabilities_are_refused_and_not_left_out(asking: Asking) -> None:
    with pytest.raises(ServedError) as caught:
        asking.begin(sampling=Sampling(top_logprobs=0))
    assert caught.value.code == "model_refused"


def test_an_answer_that_is_bound_does_not_begin_to_match_anew(server: Server, asking: Asking) -> None:
    with pytest.raises(ServedError) as caught:
        asking.begin(
            sampling=Sampling(grammar=Grammar(GrammarKind.JSON_OBJECT)), resumed=Resumed(text='{"a":', tokens=3)
        )
    assert caught.value.code == "worker_lost"
    assert server.asked == []
