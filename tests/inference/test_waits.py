"""What is told to whoever waits: the place in the queue, and how long it will take."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from inference import generations, waits, workers
from inference.waits import Running, Took, estimate
from inference.workers import Announcement
from tests.rows import HandWorker, queued

TENTH = Took(tokens=100, seconds=10.0)  # ten tokens a second


def test_the_next_one_waits_for_the_answer_that_ends_first() -> None:
    running = [Running(tokens=20, most=1000, seconds=2.0), Running(tokens=70, most=1000, seconds=7.0)]
    assert estimate(running, [1000, 1000, 1000], slots=2, history=[TENTH]) == pytest.approx([3.0, 8.0, 13.0])


def test_nobody_waits_while_a_slot_is_free() -> None:
    running = [Running(tokens=20, most=1000, seconds=2.0)]
    assert estimate(running, [1000, 1000], slots=2, history=[TENTH]) == pytest.approx([0.0, 8.0])


def test_an_answer_has_no_more_tokens_than_it_may_have() -> None:
    assert estimate([Running(0, 30, 0.0)], [1000, 1000], slots=1, history=[TENTH]) == pytest.approx([3.0, 13.0])


def test_long_answers_of_late_tell_what_is_left_of_a_long_one() -> None:
    history = [Took(100, 10.0), Took(400, 40.0)]
    # Of answers that had more than 200 tokens there is one, with 400.
    assert estimate([Running(200, 1000, 20.0)], [1000], slots=1, history=history) == pytest.approx([20.0])


def test_before_any_answer_has_ended_the_running_ones_tell_the_speed() -> None:
    assert estimate([Running(50, 150, 5.0)], [1000], slots=1, history=[]) == pytest.approx([5.0])
    assert estimate([Running(0, 150, 5.0)], [1000], slots=1, history=[]) is None
    assert estimate([], [1000], slots=0, history=[TENTH]) is None


jobs = st.builds(Running, tokens=st.integers(0, 500), most=st.integers(500, 4000), seconds=st.floats(0, 100))
answers = st.builds(Took, tokens=st.integers(0, 4000), seconds=st.floats(0, 400))


@given(
    running=st.lists(jobs, max_size=6),
    queued=st.lists(st.integers(1, 4000), min_size=1, max_size=12),
    slots=st.integers(1, 4),
    history=st.lists(answers, max_size=8),
)
def test_whoever_comes_later_never_waits_less(
    running: list[Running], queued: list[int], slots: int, history: list[Took]
) -> None:
    starts = estimate(running, queued, slots=slots, history=history)
    if starts is not None:
        assert starts == sorted(starts)
        assert all(0 <= start < float("inf") for start in starts)


def _announced(model: str, slots: int) -> None:
    workers.announce(
        Announcement(
            worker=f"by-hand-{uuid.uuid4().hex[:6]}",
            model=model,
            revision="r",
            device="cpu",
            dtype="float32",
            context_length=2048,
            slots=slots,
            running=0,
            waiting=0,
            tokens_per_s=0.0,
            kv_share=0.0,
            memory_bytes=0,
        )
    )


def test_the_place_counts_those_before_in_the_same_models_queue(owner: User) -> None:
    one = queued(owner)
    two, other = queued(owner, model=one.model), queued(owner)
    places = [waits.place_of(generation) for generation in (one, two, other)]
    assert [place.position for place in places if place] == [1, 2, 1]
    assert [place.eta_s for place in places if place] == [None, None, None]
    for generation in (one, two, other):
        generations.cancel(generation)


def test_what_answers_took_of_late_tells_how_long_the_next_ones_wait(owner: User) -> None:
    worker = HandWorker(queued(owner))
    worker.write("ten tokens")
    worker.generation.started_at = timezone.now() - timedelta(seconds=5)
    worker.finish()
    waits.observe(worker.generation)
    model = worker.generation.model
    _announced(model, slots=1)
    first, second = queued(owner, model=model), queued(owner, model=model)
    places = [waits.place_of(generation) for generation in (first, second)]
    assert places[0] == waits.Place(1, 0.0)
    assert places[1] is not None
    assert places[1].eta_s == pytest.approx(5.0, abs=0.5)
    for generation in (first, second):
        generations.cancel(generation)


def test_what_is_claimed_or_over_has_no_place(owner: User) -> None:
    generation = queued(owner)
    assert waits.place_of(generation) is not None
    HandWorker(generation)
    waiting = queued(owner, model=generation.model)
    # Whoever is not in the last look is looked for at once.
    assert waits.place_of(waiting) == waits.Place(1, None)
    assert waits.place_of(generation) is None
    generations.cancel(waiting)


def test_many_who_ask_at_once_are_told_from_one_look(owner: User) -> None:
    crowd = [queued(owner, model="a-model-with-a-crowd") for _ in range(5)]
    with CaptureQueriesContext(connection) as queries:
        places = [waits.place_of(generation) for generation in crowd]
    assert [place.position for place in places if place] == [1, 2, 3, 4, 5]
    # Who waits, and who is being answered.
    assert len(queries) == 2
    for generation in crowd:
        generations.cancel(generation)
