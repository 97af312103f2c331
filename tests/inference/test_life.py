"""A generation's life in PostgreSQL: claimed once, written by one epoch, ended once, recovered from loss."""

from __future__ import annotations

import threading

import pytest
from django.db import IntegrityError, connection

from accounts.models import User
from inference import generations, stream, tasks
from inference.models import Generation, Outcome
from tests.rows import HandWorker, queued
from tests.stack import ABSENT, TINY, Stack, wait_until


def _row(generation: Generation) -> Generation:
    return Generation.objects.get(pk=generation.pk)


def test_of_many_claims_at_once_exactly_one_gets_the_generation(owner: User) -> None:
    generation = queued(owner)
    claimed = []

    def claim(name: str) -> None:
        if row := Generation.objects.claim(name, model=generation.model, door="chat"):
            claimed.append(row)
        connection.close()

    threads = [threading.Thread(target=claim, args=[f"w{number}"]) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.epoch for row in claimed] == [1]
    assert _row(generation).worker == claimed[0].worker


def test_the_same_message_delivered_ten_times_generates_once(stack: Stack, owner: User) -> None:
    stack.worker(TINY)
    generation = queued(owner, model=TINY)
    for _ in range(10):
        tasks.enqueue(TINY, "chat")
    wait_until(lambda: _row(generation).is_terminal and not tasks.backlog(TINY, "chat"), "the answer")
    row = _row(generation)
    starts = [fields for _, fields in stream.client().xrange(stream.key(row.pk)) if fields[b"k"] == b"start"]
    assert (row.state, row.epoch, len(starts)) == ("done", 1, 1)
    assert row.completion_tokens == len(bytes(row.token_ids)) // 4


def test_the_oldest_is_answered_first_whoevers_message_was_lost(stack: Stack, owner: User) -> None:
    stack.worker(TINY)
    lost, *newer = [queued(owner, model=TINY) for _ in range(4)]
    tasks.enqueue(TINY, "chat")
    wait_until(lambda: _row(lost).is_terminal, "the answer")
    assert {_row(generation).state for generation in newer} == {"queued"}
    for _ in newer:
        tasks.enqueue(TINY, "chat")
    wait_until(lambda: all(_row(generation).is_terminal for generation in newer), "the other answers")


def test_claims_at_once_take_different_generations_oldest_first(owner: User) -> None:
    first = queued(owner)
    second = queued(owner, model=first.model)
    queued(owner, model=first.model, door="api")
    claimed = [Generation.objects.claim("w", model=first.model, door="chat") for _ in range(3)]
    assert claimed == [first, second, None]


def test_a_stop_reaches_a_worker_with_its_next_save(owner: User) -> None:
    worker = HandWorker(queued(owner))
    assert worker.save()
    generations.cancel(worker.generation)
    assert not worker.save()
    assert worker.finish("cancelled")


def test_a_queued_generation_that_is_stopped_cannot_be_claimed(owner: User) -> None:
    generation = queued(owner)
    generations.cancel(generation)
    generations.cancel(generation)
    assert Generation.objects.claim("late", model=generation.model, door="chat") is None
    assert _row(generation).state == "cancelled"


def test_a_terminal_row_never_changes_again(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("the end")
    assert worker.finish()
    assert not worker.save()
    assert not worker.generation.finish(Outcome("failed"), worker.progress)
    generations.cancel(worker.generation)
    row = _row(worker.generation)
    assert (row.state, row.text, row.cancel_requested_at) == ("done", "the end", None)


def test_an_answer_that_is_handed_back_goes_on_elsewhere_unless_it_was_stopped(owner: User) -> None:
    stopped = HandWorker(queued(owner))
    generations.cancel(stopped.generation)
    assert not stopped.generation.hand_back(stopped.progress)
    stopped.finish("cancelled")
    speaking = HandWorker(queued(owner))
    speaking.write("one ")
    assert speaking.generation.hand_back(speaking.progress)
    assert not speaking.save()
    following = HandWorker(speaking.generation)
    following.write("two")
    following.finish()
    row = _row(speaking.generation)
    assert (row.state, row.text, row.epoch, row.crashes) == ("done", "one two", 2, 0)


def test_the_database_itself_keeps_one_generation_per_key(owner: User) -> None:
    first = queued(owner)
    with pytest.raises(IntegrityError):
        Generation.objects.create(
            owner=owner,
            door="chat",
            model=ABSENT,
            prompt=[],
            sampling={},
            idempotency_key=first.idempotency_key,
            request_hash=b"",
        )
    generations.cancel(first)
