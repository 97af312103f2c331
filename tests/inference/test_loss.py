"""Losing parts on purpose: a worker killed or drained in mid-answer, Redis stopped for a while."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from django.db import connection

from inference.models import Generation
from tests.browser_client import Answer, Frame, Guest, Socket
from tests.stack import SLOW, TINY, Stack, wait_until
from tests.tiny.replies import COUNT, EMOJI, SCRIPTS, STORY, STORY_STOP


@pytest.fixture
def guest(stack: Stack) -> Iterator[Guest]:
    with Guest(stack.base) as visitor:
        yield visitor


ASKED: dict[str, dict[str, object]] = {
    COUNT: {"max_tokens": 200},
    # Their characters have up to four tokens each: some ids that were saved had not become text yet.
    EMOJI: {},
    SCRIPTS: {},
    # Here text is held back until it is known whether it becomes the stop string.
    STORY: {"stop": [STORY_STOP]},
}


@contextmanager
def _begun(guest: Guest) -> Iterator[list[tuple[Socket, Frame, Answer]]]:
    """Several answers of the slow model that each have said something, with the socket that each is read from."""
    with ExitStack() as sockets:
        asked = []
        for question, options in ASKED.items():
            socket = sockets.enter_context(guest.socket())
            asked.append((socket, socket.ask(question, SLOW, options=options)))
        yield [
            (socket, sent, socket.read(sent["generation"], until=lambda answer: answer.text)) for socket, sent in asked
        ]


def _go_on_as_if_nothing_had_happened(guest: Guest, begun: list[tuple[Socket, Frame, Answer]]) -> list[Generation]:
    """Read the answers to their end: the same model, undisturbed, must say the same with as many tokens."""
    with guest.socket() as socket:
        undisturbed = [socket.answer(question, TINY, options=options)[1] for question, options in ASKED.items()]
    for (socket, sent, answer), whole in zip(begun, undisturbed, strict=True):
        socket.read(sent["generation"], answer)
        assert answer.done["state"] == "done"
        assert answer.text == guest.stored(sent)["text"] == whole.text
        assert answer.done["usage"] == whole.done["usage"]
        assert answer.done["finish_reason"] == whole.done["finish_reason"]
    return [Generation.objects.get(pk=sent["generation"]) for _, sent, _ in begun]


def test_after_kill_9_of_the_worker_another_goes_on_in_the_same_sentence(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    worker = stack.worker(SLOW)
    with _begun(guest) as begun:
        worker.kill()
        worker.wait()
        stack.worker(SLOW)
        # The lease runs out after 15 s, and the reaper looks every 5 s.
        count, *_ = _go_on_as_if_nothing_had_happened(guest, begun)
    assert (count.crashes, count.epoch) == (1, 3), "a claim, the reaper's fence, a claim"


def test_a_worker_that_slept_through_its_lease_comes_back_and_spoils_nothing(stack: Stack, guest: Guest) -> None:
    """A laptop's lid is shut, or a machine swaps: meanwhile another worker goes on with its answers."""
    stack.worker(TINY)
    sleeper = stack.worker(SLOW)
    with _begun(guest) as begun:
        sleeper.send_signal(signal.SIGSTOP)
        try:
            del stack.processes[SLOW]
            stack.worker(SLOW)
            count = begun[0][1]["generation"]
            wait_until(lambda: Generation.objects.get(pk=count).epoch == 3, "the other worker's claim")
        finally:
            sleeper.send_signal(signal.SIGCONT)
        count, *_ = _go_on_as_if_nothing_had_happened(guest, begun)
        assert (count.crashes, count.epoch) == (1, 3)
    sleeper.send_signal(signal.SIGTERM)
    assert sleeper.wait(30) == 0


def test_a_model_whose_worker_was_killed_is_refused_once_its_heartbeat_is_gone(stack: Stack, guest: Guest) -> None:
    worker = stack.worker(SLOW)
    worker.kill()
    worker.wait()
    with guest.socket() as socket:
        wait_until(lambda: socket.ask("hello", SLOW).get("code") == "no_worker", "the refusal")


def test_connections_that_postgresql_ends_cost_no_answer_a_word(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options={"max_tokens": 120})
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 60)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        # Those that lay idle in this process's own pool are gone too; it would try them one by one, ever more slowly.
        connection.pool.check()
        socket.read(sent["generation"], answer)
    stored = guest.stored(sent)
    assert (answer.done["state"], stored["generation"]["state"]) == ("done", "done")
    assert answer.text == stored["text"]
    assert answer.done["usage"]["completion_tokens"] == 120


def test_redis_that_is_away_for_a_while_costs_no_answer_a_word(
    stack: Stack, guest: Guest, redis_server: subprocess.Popen[bytes]
) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options={"max_tokens": 250})
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 60)
        redis_server.send_signal(signal.SIGSTOP)
        wait_until(lambda: len(Generation.objects.get(pk=sent["generation"]).text) > len(answer.text) + 60, "a save")
        redis_server.send_signal(signal.SIGCONT)
        socket.read(sent["generation"], answer)
        socket.follow(sent["generation"])
        late = socket.read(sent["generation"], Answer())
    assert answer.text == late.text == guest.stored(sent)["text"]
    assert answer.done["usage"]["completion_tokens"] == 250


def test_sigterm_ends_short_answers_in_peace_and_takes_no_new_ones(stack: Stack, guest: Guest) -> None:
    worker = stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options={"max_tokens": 60})
        socket.read(sent["generation"], until=lambda answer: answer.text)
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: socket.ask("hello", SLOW).get("code") == "no_worker", "the worker's leaving")
        wait_until(lambda: guest.stored(sent)["generation"]["state"] == "done", "the answer")
    assert guest.stored(sent)["generation"]["usage"]["completion_tokens"] == 60
    assert worker.wait(30) == 0


def test_after_sigterm_another_worker_goes_on_with_what_takes_over_20_s(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    worker = stack.worker(SLOW, WORKER_PACE_MS="250")
    with _begun(guest) as begun:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        count = guest.stored(begun[0][1])
        assert count["generation"]["state"] == "queued"
        assert len(count["text"]) > 60
        stack.worker(SLOW)
        row, *_ = _go_on_as_if_nothing_had_happened(guest, begun)
    assert (row.crashes, row.epoch) == (0, 2)
