from __future__ import annotations

import math
from typing import Any

import pytest

from inference.engine.requests import InvalidRequest, Request, validate
from inference.types import Sampling

VOCABULARY = 50


def check(**fields: Any) -> Request:
    return validate([1], [], Sampling(**fields), vocabulary=VOCABULARY, context_length=100)


@pytest.mark.parametrize(
    "fields",
    [
        {"min_p": 0},
        {"min_p": 1.0},
        {"min_tokens": 5, "max_tokens": 5},
        {"stop_ids": (0, VOCABULARY - 1)},
        {"stop_ids": (3,) * 64},
        {"presence_penalty": -2, "frequency_penalty": 2.0},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 10},
        {"logit_bias": ((0, -100), (VOCABULARY - 1, 100.0))},
        {"logit_bias": ((1, 0.5),) * 1024},
        {"top_logprobs": 0},
        {"top_logprobs": 20},
    ],
)
def test_values_at_their_bounds_are_taken(fields: dict[str, Any]) -> None:
    assert check(**fields).sampling == Sampling(**fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, "1", (1.0,), -1000, 1000])
@pytest.mark.parametrize("name", ["min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_what_is_no_number_in_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} is not"):
        check(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, True, None, "1", 100.5, -101])
def test_a_bias_that_is_no_number_in_range_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="logit bias"):
        check(logit_bias=((1, 1.0), (2, value)))


@pytest.mark.parametrize("token", [-1, VOCABULARY, 1.0, True, None, "1"])
def test_what_is_no_token_id_is_refused(token: object) -> None:
    with pytest.raises(InvalidRequest, match="logit bias"):
        check(logit_bias=((token, 1.0),))
    with pytest.raises(InvalidRequest, match="stop id"):
        check(stop_ids=(1, token))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 1.0}, "min_tokens"),
        ({"min_tokens": True}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"stop_ids": [1]}, "stop_ids"),
        ({"stop_ids": (1,) * 65}, "stop_ids"),
        ({"stop_ids": 1}, "stop_ids"),
        ({"logit_bias": {1: 2.0}}, "logit_bias"),
        ({"logit_bias": ((1, 1.0),) * 1025}, "logit_bias"),
        ({"logit_bias": ((1,),)}, "logit bias"),
        ({"logit_bias": ([1, 1.0],)}, "logit bias"),
        ({"logit_bias": (1,)}, "logit bias"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 1.0}, "top_logprobs"),
    ],
)
def test_a_wrong_value_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        check(**fields)
