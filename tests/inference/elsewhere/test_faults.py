"""Whatever an engine elsewhere does wrong, the answer ends once, with words; it is tried again only unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from inference.elsewhere import faults
from inference.elsewhere.patience import Patience
from inference.errors import TABLE
from inference.types import Finished, FinishReason
from tests.inference.elsewhere.conftest import Asking, Told
from tests.inference.elsewhere.server import REPLY, Exchange, Script, Server, refuses, says


def _failed(told: Told, code: str) -> Finished:
    assert told.end is not None
    assert (told.end.reason, told.end.code) == (FinishReason.ERROR, code)
    assert code in TABLE
    assert told.end.error.endswith(".")
    return told.end


async def _cuts_at_once(exchange: Exchange) -> None:
    exchange.cut()


async def _cuts_after_the_head(exchange: Exchange) -> None:
    await exchange.begin()
    exchange.cut()


async def _ends_without_a_reason(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.end()


@pytest.mark.parametrize(
    "fault",
    [_cuts_at_once, _cuts_after_the_head, _ends_without_a_reason, refuses(500), refuses(502), refuses(429)],
)
def test_what_fails_before_the_first_token_is_tried_again(server: Server, asking: Asking, fault: Script) -> None:
    server.script(fault)
    assert asking.ask().text == "".join(REPLY)
    assert len(server.asked) == 2


def test_tries_end(server: Server, asking: Asking) -> None:
    server.script(*[_cuts_at_once] * 10)
    _failed(asking.ask(), "model_unreachable")
    assert len(server.asked) == 3


def test_a_server_that_refuses_connections_is_told(server: Server, asking: Asking) -> None:
    server.stop_listening()
    _failed(asking.ask(), "model_unreachable")


@pytest.mark.parametrize("name", ["content", "reasoning_content"])
def test_what_breaks_off_after_something_was_given_out_is_not_tried_again(
    server: Server, asking: Asking, name: str
) -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once", name=name)
        exchange.cut()

    server.script(breaks)
    told = asking.ask()
    assert told.text + told.reasoning == "Once"
    assert _failed(told, "engine_failed").completion_tokens is None
    assert len(server.asked) == 1


def test_a_stream_that_ends_without_saying_why_is_broken(server: Server, asking: Asking) -> None:
    async def ends(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        await exchange.end()

    server.script(ends)
    told = asking.ask()
    assert told.text == "Once"
    _failed(told, "engine_failed")


@pytest.mark.parametrize("mark", [b"data: [DONE]\n\n", b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'])
def test_either_of_the_two_marks_of_an_end_is_enough(server: Server, asking: Asking, mark: bytes) -> None:
    """Some servers send one alone, or break the connection after it."""

    async def ends(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        await exchange.raw(mark)
        exchange.cut()

    server.script(ends)
    told = asking.ask()
    assert told.end is not None
    assert (told.text, told.end.reason) == ("Once", FinishReason.STOP)


def test_a_stream_that_stays_open_after_its_end_is_left(server: Server, elsewhere: Callable[..., Asking]) -> None:
    async def stays(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        await exchange.chunk(reason="length")
        await exchange.left.wait()

    server.script(stays)
    told = elsewhere(patience=Patience(usage_s=0.2, poll_s=0.1)).ask()
    assert told.end is not None
    assert (told.end.reason, told.end.completion_tokens) == (FinishReason.LENGTH, 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}}, "engine_failed"),
        ({"error": "out of memory"}, "engine_failed"),
        ({"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}, "model_refused"),
        ({"choices": [{"delta": {}, "finish_reason": "abort"}]}, "engine_failed"),
        ([], "engine_failed"),
    ],
)
def test_an_error_within_the_stream_ends_the_answer(
    server: Server, asking: Asking, error: dict[str, Any], code: str
) -> None:
    async def errs(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        await exchange.event(error)
        await exchange.raw(b"data: [DONE]\n\n")
        await exchange.end()

    server.script(errs)
    told = asking.ask()
    assert told.text == "Once"
    end = _failed(told, code)
    assert "CUDA" not in end.error


@pytest.mark.parametrize("data", [b"data: {no json\n\n", b"data: " + b"[" * 100_000 + b"\n\n", b"data: 7\n\n"])
def test_what_is_no_chunk_ends_the_answer(server: Server, asking: Asking, data: bytes) -> None:
    async def babbles(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        await exchange.raw(data)
        await exchange.left.wait()

    server.script(babbles)
    _failed(asking.ask(), "engine_failed")


@pytest.mark.parametrize("line", [b"data: " + b"x" * 65536, b": " + b"x" * 65536, b"data: x\n" * 8192])
def test_an_event_without_an_end_is_not_gathered_for_ever(server: Server, asking: Asking, line: bytes) -> None:
    async def floods(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        await exchange.raw(line)
        while not exchange.left.is_set():
            await exchange.raw(line)

    server.script(floods)
    _failed(asking.ask(), "engine_failed")
    assert server.asked[0].sent_bytes < 32 * 1024 * 1024  # the sockets' buffers hold some


def test_more_text_than_was_asked_for_ends_the_answer(server: Server, asking: Asking) -> None:
    async def floods(exchange: Exchange) -> None:
        await exchange.begin()
        while not exchange.left.is_set():
            await exchange.chunk(content="x" * 5000)

    server.script(floods)
    told = asking.ask()
    _failed(told, "engine_failed")
    assert len(told.text) < 60_000


def test_a_stalled_stream_is_left(server: Server, elsewhere: Callable[..., Asking]) -> None:
    async def stalls(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token("Once")
        while not exchange.left.is_set():
            await exchange.raw(b": still here\n\n")
            await asyncio.sleep(0.05)

    server.script(stalls)
    told = elsewhere(patience=Patience(idle_s=0.3, poll_s=0.1)).ask()
    assert told.text == "Once"
    _failed(told, "engine_failed")


@pytest.mark.parametrize("begins", [False, True])
def test_a_server_that_says_nothing_is_not_waited_for_twice(
    server: Server, elsewhere: Callable[..., Asking], begins: bool
) -> None:
    async def says_nothing(exchange: Exchange) -> None:
        if begins:
            await exchange.begin()
        await exchange.left.wait()

    server.script(says_nothing)
    _failed(elsewhere(patience=Patience(first_token_s=0.3, poll_s=0.1)).ask(), "model_unreachable")
    assert len(server.asked) == 1


def test_a_slow_first_token_is_waited_for(server: Server, elsewhere: Callable[..., Asking]) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.5)
        await exchange.begin()
        await asyncio.sleep(0.5)
        await says_on(exchange)

    async def says_on(exchange: Exchange) -> None:
        await exchange.token("Once")
        await exchange.finish()

    server.script(slow)
    assert elsewhere(patience=Patience(idle_s=0.3, poll_s=0.1)).ask().text == "Once"


def test_a_busy_server_is_asked_again_when_it_says(server: Server, asking: Asking) -> None:
    server.script(refuses(503, Retry_After="1"))
    began = time.monotonic()
    assert asking.ask().text == "".join(REPLY)
    assert 1.0 <= time.monotonic() - began < 3.0


@pytest.mark.parametrize("after", [{"Retry_After": "3600"}, {}])
def test_a_server_that_stays_busy_is_told(
    server: Server, elsewhere: Callable[..., Asking], after: dict[str, str]
) -> None:
    server.script(*[refuses(429, **after)] * 10)
    began = time.monotonic()
    _failed(elsewhere(patience=Patience(busy_s=1.5, poll_s=0.1)).ask(), "model_busy")
    assert time.monotonic() - began < 4.0
    assert len(server.asked) == (1 if after else 2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_told_and_not_repeated(
    server: Server, asking: Asking, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(refuses(status, "You wrote: a secret"))
    end = _failed(asking.ask(), "model_refused")
    assert str(status) in end.error
    assert end.error in caplog.text
    assert len(server.asked) == 1
    assert "secret" not in end.error + caplog.text


def test_a_redirect_is_not_followed(server: Server, asking: Asking) -> None:
    server.script(refuses(307, Location="http://127.0.0.1:9/v1/chat/completions"))
    _failed(asking.ask(), "model_refused")


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_response_that_is_no_stream_is_refused(server: Server, asking: Asking, kind: str) -> None:
    async def answers_at_once(exchange: Exchange) -> None:
        await exchange.head(kind=kind)
        await exchange.raw(b'{"choices": [{"message": {"content": "Once"}}]}')
        await exchange.end()

    server.script(answers_at_once)
    assert kind in _failed(asking.ask(), "model_refused").error


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("-7", 0.0), ("soon", 0.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0)],
)
def test_a_time_to_come_again_is_seconds_or_a_date(header: str, seconds: float) -> None:
    assert faults.retry_after_s(header, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds


def test_text_around_a_fault_is_counted_once(server: Server, asking: Asking) -> None:
    server.script(_cuts_after_the_head, says("a", "b"))
    told = asking.ask()
    assert (told.text, told.tokens) == ("ab", 2)
