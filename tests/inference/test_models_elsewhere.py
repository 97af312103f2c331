"""A chat with a model that an engine elsewhere runs: the whole product, and a server on loopback for the engine."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference import workers
from inference.models import Generation
from tests.browser_client import Answer, Guest
from tests.inference.elsewhere.server import PROMPT_TOKENS, REPLY, Exchange, Server, refuses, says, serving
from tests.stack import ELSEWHERE, ELSEWHERE_PORT, Stack, wait_until


@pytest.fixture
def guest(stack: Stack) -> Iterator[Guest]:
    with Guest(stack.base) as visitor:
        yield visitor


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ELSEWHERE_PORT) as running:
        yield running


@pytest.fixture
def worker(stack: Stack, server: Server) -> subprocess.Popen[bytes]:
    return stack.worker(ELSEWHERE)


async def _counts_for_ever(exchange: Exchange) -> None:
    await exchange.begin()
    number = 0
    while not exchange.left.is_set():
        number += 1
        await exchange.token(f"{number} ")
        await asyncio.sleep(0.02)


def _text_of(answer: Answer, channel: str) -> str:
    frames = [frame for frame in answer.frames if frame["type"] == "delta" and frame["channel"] == channel]
    return "".join(frame["text"] for frame in frames)


@pytest.mark.usefixtures("worker")
def test_an_answer_streams_with_its_thoughts_and_the_servers_count_of_tokens(server: Server, guest: Guest) -> None:
    server.script(says(*REPLY, thoughts=("Hm", ", well.")))
    with guest.socket() as socket:
        sent, answer = socket.answer("hello", ELSEWHERE)
    assert (_text_of(answer, "reasoning"), _text_of(answer, "answer")) == ("Hm, well.", "".join(REPLY))
    assert answer.done is not None
    assert (answer.done["state"], answer.done["finish_reason"]) == ("done", "stop")
    assert answer.done["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert answer.done["usage"]["completion_tokens"] == len(REPLY) + 2
    row = Generation.objects.get(pk=sent["generation"])
    assert (row.text, row.reasoning, row.reasoning_tokens) == ("".join(REPLY), "Hm, well.", 2)
    assert row.revision == "/weights/org/large"
    assert bytes(row.token_ids) == b""


def test_its_worker_loads_no_torch(worker: subprocess.Popen[bytes]) -> None:
    assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()


@pytest.mark.usefixtures("worker")
def test_stop_ends_it_at_the_server_and_stored_is_shown_is_counted(server: Server, guest: Guest) -> None:
    server.script(_counts_for_ever)
    with guest.socket() as socket:
        sent = socket.ask("count", ELSEWHERE)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 20)
        stopped_at = time.monotonic()
        socket.put(type="stop", generation=sent["generation"])
        socket.read(sent["generation"], answer)
    (exchange,) = server.asked
    wait_until(exchange.left.is_set, "the connection's end", 5)
    assert exchange.left_at - stopped_at < 1.0
    stored = guest.stored(sent)
    assert answer.done is not None
    assert answer.done["state"] == stored["generation"]["state"] == "cancelled"
    assert answer.text == stored["text"]
    assert answer.done["usage"]["completion_tokens"] == len(answer.text.split())


def test_after_kill_9_of_the_worker_another_goes_on_in_the_same_sentence(
    stack: Stack, server: Server, worker: subprocess.Popen[bytes], guest: Guest
) -> None:
    server.script(_counts_for_ever, says("and", " so", " on."))
    with guest.socket() as socket:
        sent = socket.ask("count", ELSEWHERE)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 20)
        worker.kill()
        worker.wait()
        stack.worker(ELSEWHERE)
        # The lease runs out after 15 s, and the reaper looks every 5 s.
        socket.read(sent["generation"], answer)
    said = server.asked[1].body["messages"][-1]
    assert said["role"] == "assistant"
    assert said["content"].startswith("1 2 3")
    assert answer.text == guest.stored(sent)["text"] == f"{said['content']} and so on."
    assert answer.done is not None
    assert answer.done["state"] == "done"
    assert answer.done["usage"]["completion_tokens"] == len(said["content"].split()) + 3


def test_an_answer_that_its_server_cannot_go_on_with_keeps_its_text(
    stack: Stack, server: Server, worker: subprocess.Popen[bytes], guest: Guest
) -> None:
    server.script(_counts_for_ever)
    with guest.socket() as socket:
        sent = socket.ask("count", ELSEWHERE)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 20)
        worker.kill()
        worker.wait()
        server.owner = "someone"
        stack.worker(ELSEWHERE)
        socket.read(sent["generation"], answer)
    assert len(server.asked) == 1
    assert answer.done is not None
    assert (answer.done["state"], answer.done["error"]["code"]) == ("interrupted", "worker_lost")
    assert answer.text == guest.stored(sent)["text"]
    assert answer.text.startswith("1 2 3")


@pytest.mark.usefixtures("worker")
def test_a_refusal_is_an_error_with_words_and_the_worker_goes_on(server: Server, guest: Guest) -> None:
    server.script(refuses(401))
    with guest.socket() as socket:
        _, refused = socket.answer("hello", ELSEWHERE)
        _, answered = socket.answer("hello", ELSEWHERE)
    assert refused.done is not None
    assert (refused.done["state"], refused.done["error"]["code"]) == ("failed", "model_refused")
    assert answered.text == "".join(REPLY)


@pytest.mark.usefixtures("worker")
def test_while_the_server_is_away_a_chat_is_refused_and_afterwards_answered(
    stack: Stack, server: Server, guest: Guest
) -> None:
    name = stack.name_of(stack.processes[ELSEWHERE])
    server.stop_listening()
    wait_until(lambda: all(found.worker != name for found in workers.living()), "the worker's leave", 20)
    with guest.socket() as socket:
        assert socket.ask("hello", ELSEWHERE)["code"] == "no_worker"
        server.listen_again()
        wait_until(lambda: any(found.worker == name for found in workers.living()), "its return", 20)
        _, answer = socket.answer("hello", ELSEWHERE)
    assert answer.text == "".join(REPLY)
