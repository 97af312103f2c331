"""Losing parts on purpose: a worker killed or drained in mid-answer, Redis stopped for a while."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
from django.db import connection

from inference.models import Generation
from tests.browser_client import Answer, Guest
from tests.stack import SLOW, Stack, wait_until
from tests.tiny.replies import COUNT, REPLIES


@pytest.fixture
def guest(stack: Stack) -> Iterator[Guest]:
    with Guest(stack.base) as visitor:
        yield visitor


def test_kill_9_of_the_worker_leaves_the_shown_text_and_a_clear_state(stack: Stack, guest: Guest) -> None:
    worker = stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 60)
        worker.kill()
        worker.wait()
        # The lease runs out after 15 s, and the reaper looks every 5 s.
        socket.read(sent["generation"], answer)
    stored = guest.stored(sent)
    assert answer.done["state"] == stored["generation"]["state"] == "interrupted"
    assert answer.done["error"]["code"] == "worker_lost"
    assert answer.text == stored["text"]
    assert REPLIES[COUNT].startswith(stored["text"])
    assert len(stored["text"]) > 60


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


def test_sigterm_interrupts_what_takes_over_20_s_and_keeps_its_text(stack: Stack, guest: Guest) -> None:
    worker = stack.worker(SLOW, WORKER_PACE_MS="100")
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 5)
        worker.send_signal(signal.SIGTERM)
        socket.read(sent["generation"], answer)
    stored = guest.stored(sent)
    assert stored["generation"]["state"] == "interrupted"
    assert answer.text == stored["text"]
    assert Generation.objects.get(pk=sent["generation"]).completion_tokens > 100
    assert worker.wait(30) == 0
