"""What an engine elsewhere says arrives as if it were here: text in two channels, tokens, and one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from inference.types import Channel, FinishReason, Sampling, Turn
from tests.inference.elsewhere.conftest import HELLO, SAMPLING, Asking
from tests.inference.elsewhere.server import NAME, PROMPT_TOKENS, REPLY, Exchange, Server, says
from tests.stack import wait_until


def test_an_answer_streams_with_its_tokens_and_its_end(server: Server, asking: Asking) -> None:
    told = asking.ask()
    assert told.text == "".join(REPLY)
    assert [delta.text for delta in told.deltas] == list(REPLY)
    assert [delta.unnamed for delta in told.deltas] == [1] * len(REPLY)
    assert told.end is not None
    assert (told.end.reason, told.end.prompt_tokens) == (FinishReason.STOP, PROMPT_TOKENS)
    assert told.end.completion_tokens == len(REPLY)
    assert (told.begun.prompt_tokens, told.begun.dropped_turns) == (None, 0)


def test_the_request_says_what_the_sampling_says_and_nothing_that_is_neutral(server: Server, asking: Asking) -> None:
    asking.ask([Turn("system", "Be brief."), *HELLO])
    (exchange,) = server.asked
    salt = exchange.body.pop("cache_salt")
    assert len(salt) == 32
    assert "ann" not in salt
    assert exchange.body == {
        "model": NAME,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0.6,
        "top_p": 0.95,
        "max_tokens": 100,
        "seed": 7,
    }
    assert exchange.path == "/v1/chat/completions"
    assert "authorization" not in exchange.headers


def test_every_parameter_that_is_set_is_sent_under_the_servers_name_for_it(server: Server, asking: Asking) -> None:
    asking.ask(
        sampling=Sampling(
            temperature=0,
            top_k=20,
            min_p=0.1,
            max_tokens=50,
            min_tokens=2,
            stop=("END",),
            stop_ids=(7,),
            repetition_penalty=1.1,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias=((5, -100.0),),
        )
    )
    body = server.asked[0].body
    assert {name: body[name] for name in ("temperature", "top_k", "min_p", "max_tokens", "min_tokens")} == {
        "temperature": 0,
        "top_k": 20,
        "min_p": 0.1,
        "max_tokens": 50,
        "min_tokens": 2,
    }
    assert (body["stop"], body["stop_token_ids"], body["logit_bias"]) == (["END"], [7], {"5": -100.0})
    assert (body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (1.1, 0.5, -0.5)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_the_model_thinks_aloud_is_another_channel(server: Server, asking: Asking, name: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Hm", name=name)
        await exchange.token(", well", name=name)
        exchange.tokens += 1
        await exchange.chunk(**{name: ".", "content": "Yes"}, usage=exchange.usage())
        await exchange.finish()

    server.script(script)
    told = asking.ask()
    assert (told.reasoning, told.text) == ("Hm, well.", "Yes")
    assert [delta.channel for delta in told.deltas] == [Channel.REASONING] * 3 + [Channel.ANSWER]
    assert told.tokens == 3
    assert told.end is not None
    assert told.end.completion_tokens == 3


def test_a_server_without_a_reasoning_parser_has_its_thoughts_told_by_their_tags(
    server: Server, elsewhere: Callable[..., Asking]
) -> None:
    server.script(says("<thi", "nk>", "\n", "Hm", ".</th", "ink>", "\n\n", "Yes, <think>", " is", " a tag.<"))
    told = elsewhere(reasons=True).ask()
    assert (told.reasoning, told.text) == ("Hm.", "Yes, <think> is a tag.<")
    assert told.end is not None
    assert told.end.completion_tokens == 10


def test_a_server_with_a_reasoning_parser_is_left_to_it(server: Server, elsewhere: Callable[..., Asking]) -> None:
    server.script(says("<think>", " opens", " it.", thoughts=["What", " opens?"]))
    told = elsewhere(reasons=True).ask()
    assert (told.reasoning, told.text) == ("What opens?", "<think> opens it.")


@pytest.mark.parametrize(
    ("said", "meant"),
    [("stop", "stop"), ("length", "length"), ("max_tokens", "length"), ("eos", "stop"), ("tool_calls", "stop")],
)
def test_each_reason_of_an_end_is_understood(server: Server, asking: Asking, said: str, meant: str) -> None:
    server.script(says("Yes", reason=said))
    end = asking.ask().end
    assert end is not None
    assert end.reason == meant


def test_events_are_read_by_the_letter_however_they_are_cut(server: Server, asking: Asking) -> None:
    """Comments, other fields, CRLF, a space more or less, several data lines of one event, bytes one by one."""
    said = (
        ': ping\r\n\r\nevent: message\r\nid: 1\r\ndata: {"choices":[{"index":0,\r\n'
        'data: "delta":{"content":"né 😀"}}]}\r\n\r\n'
        'data:{"choices":[{"index":1,"delta":{"content":"other"}},{"index":0,"delta":{"content":" два"}}]}\n\n'
        'retry: 10\n\ndata: {"choices":[{"index":0,"delta":{"content":null},"finish_reason":"stop"}]}\n\n'
        "data: [DONE]\r\n\r\n"
    ).encode()

    async def script(exchange: Exchange) -> None:
        # The server's word about the encoding is wrong, as event streams have only one.
        await exchange.head(kind="text/event-stream; charset=latin-1")
        for place in range(len(said)):
            await exchange.raw(said[place : place + 1])
            await asyncio.sleep(0)
        await exchange.end()

    server.script(script)
    told = asking.ask()
    assert told.text == "né 😀 два"
    assert told.end is not None
    assert (told.end.reason, told.end.completion_tokens) == (FinishReason.STOP, 2)


def test_many_events_in_one_piece_are_as_many_deltas(server: Server, asking: Asking) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        line = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        await exchange.raw(line * 50 + b"data: [DONE]\n\n")
        await exchange.end()

    server.script(script)
    told = asking.ask()
    assert (told.text, told.tokens) == ("a" * 50, 50)
    assert told.end is not None
    assert told.end.reason is FinishReason.STOP


def test_the_servers_first_model_is_asked_for_or_the_one_that_the_source_names(
    server: Server, elsewhere: Callable[..., Asking]
) -> None:
    server.names = ["org/first", "org/second"]
    elsewhere().ask()
    named = elsewhere(name="org/second")
    named.ask()
    assert [exchange.body["model"] for exchange in server.asked] == ["org/first", "org/second"]
    assert named.model.revision == "/weights/org/second"


def test_the_key_is_sent_and_shown_nowhere(
    server: Server, elsewhere: Callable[..., Asking], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    asking = elsewhere(api_key="sk-hush")
    asking.ask(sampling=SAMPLING)
    assert {exchange.headers["authorization"] for exchange in server.exchanges} == {"Bearer sk-hush"}
    assert "hush" not in caplog.text


def test_answers_run_beside_each_other_and_use_connections_again(server: Server, asking: Asking) -> None:
    server.script(*[says("a", "b", pause_s=0.3) for _ in range(4)])
    begun = [asking.begin() for _ in range(4)]
    wait_until(lambda: asking.model.load().running + asking.model.load().waiting == 4, "the answers")
    assert [told.rest().text for told in begun] == ["ab"] * 4
    for _ in range(3):
        asking.ask()
    ports = {exchange.writer.get_extra_info("peername") for exchange in server.exchanges}
    assert len(ports) <= 5
    wait_until(lambda: asking.model.load().running + asking.model.load().waiting == 0, "the end of all answers")
    assert asking.model.load().tokens_total == 4 * 2 + 3 * len(REPLY)


def test_a_proxy_of_the_environment_is_not_asked(
    server: Server, elsewhere: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert elsewhere().ask().text == "".join(REPLY)
