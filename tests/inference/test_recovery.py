"""What the scheduler does about lost messages and lost workers, on rows and logs that are written by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from accounts.models import User
from inference import generations, recovery, stream, tasks, workers
from inference.models import Generation, Outcome
from inference.stream import Fenced
from inference.types import Channel
from tests.rows import HandWorker, end_lease, queued
from tests.stack import TINY, Stack, wait_until


def _row(generation: Generation) -> Generation:
    return Generation.objects.get(pk=generation.pk)


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
    assert (row.state, row.text, row.epoch) == ("queued", "seen by all ", 2)


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
    assert (row.state, row.crashes) == ("queued", 1)


def test_a_second_lost_worker_ends_the_answer_with_all_that_both_wrote(owner: User) -> None:
    first = HandWorker(queued(owner))
    first.write("one ")
    first.lose_lease()
    recovery.reap()
    second = HandWorker(first.generation)
    assert (second.text, second.ids) == (first.text, first.ids)
    second.write("two")
    second.lose_lease()
    recovery.reap()
    row = _row(first.generation)
    assert (row.state, row.error_code, row.text, row.crashes) == ("interrupted", "worker_lost", "one two", 2)
    assert stream.unpack_ids(bytes(row.token_ids)) == second.ids
    assert (row.epoch, row.completion_tokens) == (4, len("one two"))


def test_a_reaper_that_is_lost_itself_leaves_everything_to_the_next(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("saved, ")
    worker.save()
    worker.write("only in the log")
    worker.lose_lease()
    taken = Generation.objects.take_over("lost-reaper")
    assert (taken, taken.lost_worker) == (worker.generation, "by-hand")
    assert not worker.save(), "who was taken for dead writes no more"
    stream.fence(taken.pk, taken.epoch + 1)
    recovery.reap()
    assert _row(taken).state == "running", "its lease has not run out"
    end_lease(taken)
    recovery.reap()
    assert not taken.finish(Outcome("interrupted"), worker.progress, crashed=True)
    row = _row(taken)
    assert (row.state, row.text, row.crashes) == ("queued", "saved, only in the log", 1)


def test_one_row_that_cannot_be_read_keeps_no_other_from_being_reaped(owner: User) -> None:
    poisoned, healthy = HandWorker(queued(owner)), HandWorker(queued(owner))
    key = stream.key(poisoned.generation.pk)
    stream.client().delete(key)
    stream.client().set(key, "no stream")
    for worker in (poisoned, healthy):
        worker.lose_lease()
    recovery.reap()
    assert (_row(poisoned.generation).state, _row(healthy.generation).state) == ("running", "queued")
    stream.client().delete(key)
    end_lease(poisoned.generation)
    recovery.reap()
    assert _row(poisoned.generation).state == "queued"


def test_what_could_not_be_read_for_ten_minutes_ends_with_what_was_saved(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("saved")
    worker.save()
    Generation.objects.filter(pk=worker.generation.pk).update(
        token_ids=b"\1\2\3", started_at=timezone.now() - timedelta(seconds=recovery.ABANDON_AFTER_S + 1)
    )
    worker.lose_lease()
    recovery.reap()
    row = _row(worker.generation)
    assert (row.state, row.error_code, row.text, row.crashes) == ("interrupted", "worker_lost", "saved", 1)


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


def test_as_many_messages_are_sent_again_as_are_missing(owner: User) -> None:
    waiting = timezone.now() - timedelta(seconds=6)
    model = queued(owner, created_at=waiting).model
    for _ in range(2):
        queued(owner, model=model, created_at=waiting)
    tasks.enqueue(model, "chat")
    recovery.sweep()
    assert tasks.backlog(model, "chat") == 3
    recovery.sweep()
    assert tasks.backlog(model, "chat") == 3


def test_what_no_worker_comes_for_ends_with_a_sentence(owner: User) -> None:
    generation = queued(owner, created_at=timezone.now() - timedelta(seconds=61))
    half = queued(owner, model=generation.model, created_at=generation.created_at, text="half", token_ids=b"\1\0\0\0")
    fresh = queued(owner, model=generation.model)
    absent_since: dict[str, datetime] = {}
    recovery.give_up(absent_since)
    assert _row(generation).state == "queued", "a worker that restarts is away for a moment only"
    absent_since[generation.model] -= timedelta(seconds=61)
    recovery.give_up(absent_since)
    row = _row(generation)
    assert (row.state, row.error_code) == ("failed", "never_started")
    assert (_row(half).state, _row(half).error_code, _row(half).text) == ("interrupted", "worker_lost", "half")
    assert _row(fresh).state == "queued"
    generations.cancel(fresh)


def test_what_waits_for_a_worker_that_still_loads_its_model_is_not_given_up(owner: User) -> None:
    generation = queued(owner, created_at=timezone.now() - timedelta(seconds=61))
    long_ago = timezone.now() - timedelta(seconds=61)
    with workers.announced_as_loading("slow-to-load", generation.model):
        wait_until(lambda: [one for one in workers.loading() if one.model == generation.model], "the notice")
        recovery.give_up({generation.model: long_ago})
        assert _row(generation).state == "queued"
    recovery.give_up({generation.model: long_ago})
    assert _row(generation).state == "failed"


def test_a_stop_ends_what_waits_to_go_on_and_keeps_its_text(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("half")
    stale = _row(worker.generation)
    worker.lose_lease()
    recovery.reap()
    generations.cancel(stale)
    assert (_row(stale).state, _row(stale).text) == ("cancelled", "half")
    assert stream.client().xrevrange(stream.key(stale.pk), count=1)[0][1] == {b"k": b"end"}
