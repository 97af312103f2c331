"""Tokens of an engine elsewhere are counted by its word where that can be true, and by its chunks where not."""

from __future__ import annotations

from typing import Any

import pytest

from inference.elsewhere.metering import MARGIN_TOKENS, Meter
from tests.inference.elsewhere.conftest import SAMPLING, Asking
from tests.inference.elsewhere.server import PROMPT_TOKENS, Exchange, Script, Server, refuses, says


def _with_usage(usage: Any, *texts: str) -> Script:
    """A server that tells its usage at the end alone."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for text in texts:
            await exchange.chunk(content=text)
        await exchange.finish(usage=usage)

    return script


def test_several_tokens_of_one_chunk_are_counted_as_the_server_says(server: Server, asking: Asking) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once upon", tokens=2)
        await exchange.token("", tokens=1)
        await exchange.token(" a time", tokens=2)
        exchange.tokens += 1  # the end token
        await exchange.finish()

    server.script(script)
    told = asking.ask()
    assert [(delta.text, delta.unnamed) for delta in told.deltas] == [("Once upon", 2), (" a time", 3)]
    assert told.end is not None
    assert told.end.completion_tokens == 6


def test_without_a_running_usage_each_chunk_is_a_token_until_the_end_says_how_many(
    server: Server, asking: Asking
) -> None:
    server.script(_with_usage({"prompt_tokens": 5, "completion_tokens": 7}, "Once", " upon"))
    told = asking.ask()
    assert told.tokens == 2
    assert told.end is not None
    assert (told.end.completion_tokens, told.end.prompt_tokens) == (7, 5)


def test_tokens_from_the_servers_prefix_cache_are_told(server: Server, asking: Asking) -> None:
    usage = {"prompt_tokens": 50, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 32}}
    server.script(_with_usage(usage, "Yes"))
    end = asking.ask().end
    assert end is not None
    assert (end.prompt_tokens, end.cached_tokens) == (50, 32)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "completion_tokens": -1},
        {"prompt_tokens": 5, "completion_tokens": 0},
        {"prompt_tokens": 5, "completion_tokens": 100 + MARGIN_TOKENS + 1},
        {"prompt_tokens": -5, "completion_tokens": 2},
        {"prompt_tokens": 10**9, "completion_tokens": 2},
        {"prompt_tokens": 5, "completion_tokens": "2"},
        {"prompt_tokens": 5, "completion_tokens": 2.5},
        {"prompt_tokens": 5, "completion_tokens": True},
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 6}},
    ],
)
def test_a_usage_that_cannot_be_true_is_not_believed_and_that_is_logged(
    server: Server, asking: Asking, usage: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    server.script(_with_usage(usage, "Once", " upon", " a"))
    told = asking.ask()
    assert told.text == "Once upon a"
    assert told.end is not None
    assert (told.end.completion_tokens, told.end.prompt_tokens, told.end.cached_tokens) == (3, None, 0)
    assert "implausible usage" in caplog.text


def test_a_running_usage_that_falls_is_not_believed_from_then_on(server: Server, asking: Asking) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for tokens, text in [(1, "a"), (3, "b"), (2, "c"), (90, "d")]:
            await exchange.chunk(content=text, usage={"prompt_tokens": 5, "completion_tokens": tokens})
        await exchange.finish(usage=None)

    server.script(script)
    told = asking.ask()
    assert [delta.unnamed for delta in told.deltas] == [1, 2, 1, 1]
    assert told.end is not None
    assert told.end.completion_tokens == 5


def test_no_usage_at_all_leaves_what_was_counted(server: Server, asking: Asking) -> None:
    server.script(_with_usage(None, "Once", " upon"))
    end = asking.ask().end
    assert end is not None
    assert (end.completion_tokens, end.prompt_tokens) == (2, None)


@pytest.mark.parametrize(
    ("refused", "left"),
    [("continuous_usage_stats", {"include_usage": True}), ("stream_options", None)],
)
def test_an_option_that_the_server_refuses_is_left_out_from_then_on(
    server: Server, asking: Asking, refused: str, left: object
) -> None:
    server.script(refuses(400, f"Unexpected field {refused}."))
    assert asking.ask().text
    asking.ask()
    assert len(server.asked) == 3
    assert [exchange.body.get("stream_options") for exchange in server.asked[1:]] == [left, left]


def test_an_option_that_is_refused_again_is_no_reason_to_ask_for_ever(server: Server, asking: Asking) -> None:
    server.script(*[refuses(422, "stream_options")] * 3)
    end = asking.ask().end
    assert end is not None
    assert end.code == "model_refused"
    assert len(server.asked) == 2


def test_a_stopped_answer_counts_what_was_given_out(server: Server, asking: Asking) -> None:
    server.script(says(*["a"] * 50, pause_s=0.05))
    told = asking.begin().until(3)
    told.handle.cancel()
    told.rest()
    assert told.end is not None
    assert (told.end.reason, told.end.completion_tokens) == ("cancelled", None)
    assert told.tokens == len(told.text) < 10
    assert told.end.prompt_tokens == PROMPT_TOKENS


def test_a_meter_believes_no_more_tokens_than_were_asked_for_but_an_end_token() -> None:
    meter = Meter(most_tokens=SAMPLING.max_tokens, most_prompt_tokens=10)
    assert meter.take({"completion_tokens": SAMPLING.max_tokens + 1}, has_text=True) == SAMPLING.max_tokens + 1
    assert meter.believes
    assert meter.completion_tokens == SAMPLING.max_tokens + 1
