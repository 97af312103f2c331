"""A generation's life in PostgreSQL: claimed once, written by one epoch, ended once, recovered from loss."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from accounts.models import User
from inference import generations, recovery, stream, tasks
from inference.models import Generation, Outcome
from inference.stream import Fenced
from inference.types import Channel
from tests.rows import HandWorker, queued
from tests.stack import ABSENT, TINY, Stack, wait_until


def _row(generation: Generation) -> Generation:
    return Generation.objects.get(pk=generation.pk)


def test_of_many_claims_at_once_exactly_one_gets_the_generation(owner: User) -> None:
    generation = queued(owner)
    claimed = []

    def claim(name: str) -> None:
        if row := Generation.objects.claim(generation.pk, name):
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
        tasks.enqueue(generation)
    wait_until(lambda: _row(generation).is_terminal and not tasks.backlog(TINY, "chat"), "the answer")
    row = _row(generation)
    starts = [fields for _, fields in stream.client().xrange(stream.key(row.pk)) if fields[b"k"] == b"start"]
    assert (row.state, row.epoch, len(starts)) == ("done", 1, 1)
    assert row.completion_tokens == len(bytes(row.token_ids)) // 4


def test_a_zombie_of_an_old_epoch_can_write_neither_text_nor_an_end(owner: User) -> None:
    zombie = HandWorker(queued(owner))
    zombie.write("seen by all ")
    zombie.save()
    zombie.lose_lease()
    recovery.reap()
    with pytest.raises(Fenced):
        zombie.write("never seen")
    assert not zombie.save()
    assert not zombie.finish()
    row = _row(zombie.generation)
    assert (row.state, row.text, row.epoch) == ("interrupted", "seen by all ", 2)


def test_a_lost_worker_leaves_saved_text_and_the_tail_of_its_log(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("saved, ")
    worker.save()
    worker.write("only in the log, ")
    worker.write("both kept")
    worker.lose_lease()
    recovery.reap()
    row = _row(worker.generation)
    assert row.text == "saved, only in the log, both kept"
    assert row.completion_tokens == len(worker.ids)
    assert stream.unpack_ids(bytes(row.token_ids)) == worker.ids
    assert (row.state, row.error_code) == ("interrupted", "worker_lost")


def test_a_lost_workers_tail_keeps_thoughts_and_answer_apart(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.log.append("thinking", [1], Channel.REASONING)
    worker.log.append("answer", [2])
    worker.lose_lease()
    recovery.reap()
    row = _row(worker.generation)
    assert (row.reasoning, row.text, row.completion_tokens) == ("thinking", "answer", 2)


def test_a_lost_worker_and_a_flushed_log_leave_the_saved_text(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("saved")
    worker.save()
    worker.write(" lost with Redis")
    stream.client().delete(stream.key(worker.generation.pk))
    worker.lose_lease()
    recovery.reap()
    assert _row(worker.generation).text == "saved"


def test_a_stop_that_the_worker_never_heard_is_kept_when_it_is_lost(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("some text")
    worker.save()
    generations.cancel(worker.generation)
    worker.lose_lease()
    recovery.reap()
    row = _row(worker.generation)
    assert (row.state, row.text, row.error_code) == ("cancelled", "some text", "")


def test_a_stop_reaches_a_worker_with_its_next_save(owner: User) -> None:
    worker = HandWorker(queued(owner))
    assert worker.save()
    generations.cancel(worker.generation)
    assert not worker.save()
    assert worker.finish("cancelled")


def test_a_lease_that_is_renewed_is_not_reaped(owner: User) -> None:
    worker = HandWorker(queued(owner))
    recovery.reap()
    assert worker.save()
    assert _row(worker.generation).state == "running"
    worker.finish()


def test_a_message_that_was_lost_is_sent_again(stack: Stack, owner: User) -> None:
    stack.worker(TINY)
    generation = queued(owner, model=TINY, created_at=timezone.now() - timedelta(seconds=6))
    wait_until(lambda: _row(generation).is_terminal, "the sweeper's message")
    assert _row(generation).state == "done"


def test_what_no_worker_comes_for_ends_with_a_sentence(owner: User) -> None:
    generation = queued(owner, created_at=timezone.now() - timedelta(seconds=61))
    fresh = queued(owner)
    absent_since: dict[str, datetime] = {}
    recovery.give_up(absent_since)
    assert _row(generation).state == "queued", "a worker that restarts is away for a moment only"
    absent_since[ABSENT] -= timedelta(seconds=61)
    recovery.give_up(absent_since)
    row = _row(generation)
    assert (row.state, row.error_code) == ("failed", "never_started")
    assert _row(fresh).state == "queued"
    generations.cancel(fresh)


def test_a_queued_generation_that_is_stopped_cannot_be_claimed(owner: User) -> None:
    generation = queued(owner)
    generations.cancel(generation)
    generations.cancel(generation)
    assert Generation.objects.claim(generation.pk, "late") is None
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


def test_a_generation_without_a_word_goes_back_to_the_queue_and_one_with_words_does_not(owner: User) -> None:
    stopped = HandWorker(queued(owner))
    generations.cancel(stopped.generation)
    assert not stopped.generation.hand_back()
    stopped.finish("cancelled")
    silent, speaking = HandWorker(queued(owner)), HandWorker(queued(owner))
    speaking.write("word")
    speaking.save()
    assert silent.generation.hand_back()
    assert not speaking.generation.hand_back()
    assert _row(silent.generation).state == "queued"
    assert Generation.objects.claim(silent.generation.pk, "next").epoch == 2
    speaking.finish()
    generations.cancel(_row(silent.generation))


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


def test_the_queue_position_counts_those_before_in_the_same_models_queue(owner: User) -> None:
    one, two = queued(owner, model="a-model-of-its-own"), queued(owner, model="a-model-of-its-own")
    assert (generations.queue_position(one), generations.queue_position(two)) == (1, 2)
    for generation in (one, two):
        generations.cancel(generation)
