"""A conversation that is too long for an engine elsewhere loses its oldest turns, by the server's own figures."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import history
from inference.elsewhere import faults, fitting
from inference.elsewhere.faults import TooLong
from inference.types import Sampling, Turn
from tests.inference.elsewhere.conftest import Asking
from tests.inference.elsewhere.server import REPLY, Exchange, Script, Server, refuses, says

# What servers say to a request of so many prompt tokens, so many more to answer, and a context of so many.
WORDS = {
    "vllm": "This model's maximum context length is {limit} tokens. However, you requested {answer} output tokens and "
    "your prompt contains {prompt} input tokens, for a total of {total} tokens. Please reduce the length of the input "
    "prompt or the number of requested output tokens.",
    "vllm 0.9": "This model's maximum context length is {limit} tokens. However, you requested {total} tokens "
    "({prompt} in the messages, {answer} in the completion). Please reduce the length of the messages or completion.",
    "vllm, answer": "'max_tokens' or 'max_completion_tokens' is too large: {answer}. This model's maximum context "
    "length is {limit} tokens and your request has {prompt} input tokens ({answer} > {limit} - {prompt}).",
    "sglang": "Requested token count exceeds the model's maximum context length of {limit} tokens. You requested a "
    "total of {total} tokens: {prompt} tokens from the input messages and {answer} tokens for the completion.",
    "sglang, input": "The input ({prompt} tokens) is longer than the model's context length ({limit} tokens).",
    "llama.cpp": "request ({prompt} tokens) exceeds the available context size ({limit} tokens), try increasing it",
}


def _counts(words: str, *, limit: int = 1000, bytes_per_token: float = 4.0) -> Script:
    """A server that counts the tokens of what it is asked and refuses what is too much."""

    async def script(exchange: Exchange) -> None:
        prompt = round(sum(len(turn["content"]) for turn in exchange.body["messages"]) / bytes_per_token)
        answer = exchange.body["max_tokens"]
        if prompt + answer > limit:
            text = words.format(prompt=prompt, answer=answer, total=prompt + answer, limit=limit)
            await refuses(400, text)(exchange)
        else:
            await says(*REPLY)(exchange)

    return script


def _conversation(turns: int, size: int) -> list[Turn]:
    """A system turn, and so many turns of each side before a last one of the user."""
    body = [Turn("user" if place % 2 == 0 else "assistant", f"{place:04}" * (size // 4)) for place in range(2 * turns)]
    return [Turn("system", "Be brief."), *body, Turn("user", "And now?")]


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
def test_the_servers_figures_are_understood(words: str) -> None:
    text = words.format(prompt=5000, answer=100, total=5100, limit=4096)
    fault = faults.of_response(400, {}, f'{{"error": {{"message": "{text}"}}}}'.encode())
    assert isinstance(fault, TooLong)
    assert (fault.prompt_tokens, fault.limit) == (5000, 4096)


@pytest.mark.parametrize(
    "body", [b'{"message": "maximum context length", "code": 400}', b'{"detail": "max_model_len"}', b"context length"]
)
def test_words_in_any_shape_of_error_are_found(body: bytes) -> None:
    fault = faults.of_response(400, {}, body)
    assert isinstance(fault, TooLong)
    assert (fault.prompt_tokens, fault.limit) == (None, None)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
@pytest.mark.parametrize("bytes_per_token", [0.9, 4.0])
def test_the_oldest_turns_go_until_the_server_takes_it(
    server: Server, asking: Asking, words: str, bytes_per_token: float
) -> None:
    server.script(*[_counts(words, bytes_per_token=bytes_per_token)] * 10)
    turns = _conversation(80, 100)
    told = asking.ask(turns)
    assert told.text == "".join(REPLY)
    assert 2 <= len(server.asked) <= 4
    sent = server.asked[-1].body["messages"]
    dropped = told.begun.dropped_turns
    assert dropped > 0
    assert dropped % 2 == 0
    assert [turn["content"] for turn in sent] == [turn.content for turn in (turns[0], *turns[1 + dropped :])]
    # No more went than had to: most of the room is used.
    assert sum(len(turn["content"]) for turn in sent) / bytes_per_token > 1000 * 0.4


def test_words_without_figures_lose_half_each_time(server: Server, asking: Asking) -> None:
    server.script(*[_counts("It exceeds the context window.")] * 10)
    turns = _conversation(20, 400)
    told = asking.ask(turns)
    assert told.text == "".join(REPLY)
    assert told.begun.dropped_turns > 0
    assert server.asked[-1].body["messages"][-1]["content"] == "And now?"


def test_an_answer_is_asked_to_be_shorter_before_a_turn_is_lost(server: Server, asking: Asking) -> None:
    server.script(*[_counts(WORDS["vllm"])] * 10)
    turns = _conversation(3, 400)
    told = asking.ask(turns, sampling=Sampling(max_tokens=900))
    assert told.begun.dropped_turns == 0
    assert [exchange.body["max_tokens"] for exchange in server.asked] == [900, 1000 - 604]


@pytest.mark.parametrize("words", [WORDS["vllm"], WORDS["sglang, input"], "It exceeds the context window."])
def test_a_message_that_does_not_fit_by_itself_is_told_as_one_that_is_too_long_here(
    server: Server, asking: Asking, words: str
) -> None:
    server.script(*[_counts(words)] * 20)
    told = asking.ask([*_conversation(2, 40), Turn("assistant", "Yes?"), Turn("user", "x" * 8000)])
    assert told.end is not None
    assert told.end.code == "context_exceeded"
    assert len(server.asked) <= 7


def test_what_could_never_fit_is_not_even_sent(server: Server, elsewhere: Callable[..., Asking]) -> None:
    asking = elsewhere(context_length=1000)
    told = asking.ask(_conversation(200, 400))
    assert told.begun.dropped_turns > 0
    assert sum(len(turn["content"]) for turn in server.asked[0].body["messages"]) <= 8000


def test_the_shorter_context_of_catalog_and_server_counts(server: Server, elsewhere: Callable[..., Asking]) -> None:
    server.context_length = 2000
    assert elsewhere(context_length=4096).model.context_length == 2000
    assert elsewhere(context_length=1000).model.context_length == 1000
    server.context_length = None
    assert elsewhere(context_length=4096).model.context_length == 4096


def test_words_of_a_refusal_are_not_searched_for_long() -> None:
    began = time.monotonic()
    assert isinstance(faults.of_response(400, {}, b"context length " + b"1,2,3 tokens in the " * 3000), TooLong)
    assert time.monotonic() - began < 0.5


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=3000), min_size=1, max_size=30),
    max_tokens=st.integers(min_value=1, max_value=4000),
    bytes_per_token=st.floats(min_value=0.5, max_value=12),
    tells=st.booleans(),
)
def test_every_try_asks_for_less_and_the_first_and_the_newest_turn_stay(
    sizes: list[int], max_tokens: int, bytes_per_token: float, tells: bool
) -> None:
    roles = ("user", "assistant")
    body = [Turn(roles[place % 2], "x" * size) for place, size in enumerate(sizes)]
    turns = [Turn("system", "Be brief."), *body]
    limit = 1000
    fit: fitting.Fit | None = fitting.first(turns, max_tokens, limit)
    for _ in range(100):
        assert fit is not None
        prompt = round(history.size(fit.turns) / bytes_per_token)
        assert fit.turns[0] == turns[0]
        assert fit.turns[-1] == turns[-1]
        assert len(fit.turns) + fit.dropped == len(turns)
        if prompt + fit.max_tokens <= limit:
            return
        before = fit
        fit = fitting.smaller(turns, fit, TooLong(prompt if tells else None, limit if tells else None), limit)
        if fit is None:
            return
        assert (fit.dropped, -fit.max_tokens) > (before.dropped, -before.max_tokens)
    raise AssertionError("it does not end")
