from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.scheduler import Scheduler
from inference.types import Priority
from tests.inference.engine.stepping import BLOCK, Blocks, Stepper

BLOCKS = 12
CAPACITY = BLOCKS * BLOCK

sizes = st.tuples(st.integers(1, CAPACITY), st.integers(1, CAPACITY), st.integers(0, CAPACITY)).map(
    # Every job fits into memory alone: its last sampled token is never read.
    lambda drawn: {"known": drawn[0], "answer": min(drawn[1], CAPACITY + 1 - drawn[0]), "cached": drawn[2]}
)
adding = st.tuples(st.just("add"), st.sampled_from("abc"), st.sampled_from(list(Priority)), sizes)
cancelling = st.tuples(st.just("cancel"), st.integers(0, 50))
stepping = st.tuples(st.just("step"), st.integers(1, 9))
preempting = st.tuples(st.just("preempt"), st.integers(0, 5))
failing = st.tuples(st.just("fail"))
scripts = st.lists(st.one_of(adding, adding, stepping, cancelling, preempting, failing), max_size=40)
shapes = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 5),
        "step_tokens": st.integers(5, 40),
        "chunk_tokens": st.integers(1, 20),
        "slice_tokens": st.none() | st.integers(1, 20),
    }
)


def play(stepper: Stepper, script: list[tuple]) -> list:
    """Do what the script says; returns the jobs that were cancelled."""
    cancelled = []
    for action, *rest in script:
        if action == "add":
            owner, priority, fields = rest
            stepper.add(owner, priority, **fields)
        elif action == "cancel" and stepper.added:
            job = stepper.added[rest[0] % len(stepper.added)]
            if job in (*stepper.scheduler.running, *stepper.scheduler.waiting):
                cancelled.append(job)
            stepper.scheduler.remove(job)
        elif action == "step":
            for _ in range(rest[0] if stepper.scheduler else 0):
                stepper.step()
        elif action == "preempt" and stepper.scheduler.running:
            running = stepper.scheduler.running
            stepper.scheduler.preempt(running[rest[0] % len(running)])
        elif action == "fail":
            stepper.fail()
    return cancelled


@settings(max_examples=300, deadline=None)
@given(script=scripts, shape=shapes)
def test_every_mix_of_jobs_keeps_the_rules_in_each_step_and_comes_to_its_end(script: list[tuple], shape: dict) -> None:
    stepper = Stepper(blocks=BLOCKS, **shape)
    cancelled = play(stepper, script)
    stepper.run()
    assert stepper.exhausted == []
    assert {*stepper.finished, *cancelled} == set(stepper.added)
    assert len(stepper.finished) + len(cancelled) == len(stepper.added)
    assert stepper.memory.held == {}


@settings(max_examples=60, deadline=None)
@given(known=st.integers(1, 2 * CAPACITY), answer=st.integers(1, 2 * CAPACITY))
def test_a_job_that_memory_is_too_small_for_is_told_once_it_runs_alone(known: int, answer: int) -> None:
    stepper = Stepper(blocks=BLOCKS)
    small = [stepper.add(known=20, answer=20) for _ in range(3)]
    large = stepper.add("otto", known=known, answer=answer)
    stepper.run()
    assert set(small) <= set(stepper.finished)
    assert (large in stepper.exhausted) == (known + answer - 1 > CAPACITY)
    if known <= CAPACITY:
        assert large.known >= min(known + answer, CAPACITY + 1)


def test_a_prompt_that_fills_the_whole_memory_is_answered_alone_with_one_token() -> None:
    stepper = Stepper(blocks=BLOCKS)
    whole = stepper.add(known=CAPACITY, answer=1)
    stepper.run()
    assert stepper.finished == [whole]


@pytest.mark.parametrize("sizes", [(0, 8, 8), (9, 8, 8), (4, 8, 0)])
def test_sizes_with_which_nothing_could_move_are_refused(sizes: tuple[int, int, int]) -> None:
    slots, step_tokens, chunk_tokens = sizes
    with pytest.raises(ValueError, match="must hold"):
        Scheduler(Blocks(1, 1), slots=slots, step_tokens=step_tokens, chunk_tokens=chunk_tokens)


def test_a_long_prompt_is_read_in_small_chunks_while_somebody_decodes_and_in_large_ones_otherwise() -> None:
    stepper = Stepper()
    long = stepper.add("otto", known=200)
    assert [chunk.count for chunk in stepper.step().chunks] == [64]
    decoding = stepper.add("anna", known=1, answer=3)
    for _ in range(3):
        assert {chunk.job: chunk.count for chunk in stepper.step().chunks} == {decoding: 1, long: 16}
    assert [chunk.count for chunk in stepper.step().chunks] == [64]


def test_a_long_prompt_is_read_in_slices_beside_others_and_a_short_one_as_a_whole() -> None:
    stepper = Stepper(slice_tokens=6)
    decoding = stepper.add("anna", known=1, answer=4)
    stepper.step()
    long = stepper.add("otto", known=200)
    assert {chunk.job: chunk.count for chunk in stepper.step().chunks} == {decoding: 1, long: 6}
    short = stepper.add("emma", known=10)
    assert {chunk.job: chunk.count for chunk in stepper.step().chunks} == {decoding: 1, long: 6, short: 10}


def test_a_short_prompt_is_answered_at_once_although_a_long_one_was_there_first() -> None:
    stepper = Stepper(blocks=10_000)
    stepper.add("otto", known=8_000)
    stepper.step()
    short = stepper.add("anna", known=20, answer=1)
    stepper.step()
    assert stepper.finished == [short]


def test_a_long_prompt_is_read_to_its_end_although_short_ones_never_cease() -> None:
    stepper = Stepper(blocks=10_000)
    long = stepper.add("otto", known=3_200, answer=1)
    for _ in range(100):
        assert long not in stepper.finished
        while len(stepper.scheduler) < 8:
            stepper.add("anna", known=60, answer=1)
        stepper.step()
    assert long in stepper.finished


def test_what_is_cached_is_not_read_again() -> None:
    stepper = Stepper()
    stepper.add(known=40, cached=30)
    assert [(chunk.start, chunk.count) for chunk in stepper.step().chunks] == [(30, 10)]


def test_nothing_is_admitted_that_has_no_room_for_one_token_more_than_it_knows() -> None:
    stepper = Stepper(blocks=4)
    stepper.add("anna", known=7, answer=2)
    later = stepper.add("otto", known=8, answer=2)
    assert len(stepper.step().admitted) == 1
    assert stepper.scheduler.waiting == (later,)
    stepper.run()
    assert later in stepper.finished


def test_who_does_not_fit_is_not_tried_again_before_something_is_released() -> None:
    stepper = Stepper(blocks=10)
    first = stepper.add("anna", known=20, answer=12)
    stepper.step()
    stepper.add("otto", known=36, answer=1)
    while first not in stepper.finished:
        stepper.step()
    assert stepper.memory.asked == 2
    stepper.run()
    assert stepper.memory.asked == 3


def test_the_latest_job_gives_its_memory_to_the_first_and_goes_on_where_it_was() -> None:
    stepper = Stepper(blocks=6)
    first, latest = (stepper.add(owner, known=8, answer=10) for owner in ("anna", "otto"))
    plans = [stepper.step()]
    while not plans[-1].preempted:
        plans.append(stepper.step())
    assert plans[-1].preempted == (latest,)
    assert latest.known > 8
    newcomer = stepper.add("nora", known=1, answer=1)
    stepper.run()
    assert stepper.finished[0] is first
    assert latest.known == first.known == 18
    assert newcomer in stepper.finished


def test_a_preempted_job_goes_before_newcomers() -> None:
    stepper = Stepper(blocks=6)
    _, latest = (stepper.add(owner, known=8, answer=10) for owner in ("anna", "otto"))
    while latest not in stepper.step().preempted:
        pass
    stepper.add("nora", known=1, answer=1)
    assert next(plan for plan in iter(stepper.step, None) if plan.admitted).admitted[0] is latest


def test_background_work_gives_up_its_place_and_its_memory_to_whoever_waits() -> None:
    for scarce in ({"slots": 1}, {"blocks": 4}):
        stepper = Stepper(**scarce)
        background = stepper.add(priority=Priority.BACKGROUND, known=10, answer=5)
        assert stepper.step().admitted == (background,)
        chat = stepper.add(known=10, answer=2)
        plan = stepper.step()
        assert (plan.preempted, plan.admitted) == ((background,), (chat,))
        stepper.run()
        assert stepper.finished == [chat, background]


def test_background_prompts_are_read_with_what_the_others_leave() -> None:
    stepper = Stepper()
    background = stepper.add("anna", Priority.BACKGROUND, known=100)
    stepper.step()
    chat = stepper.add("otto", known=60)
    assert {chunk.job: chunk.count for chunk in stepper.step().chunks} == {chat: 60, background: 4}


def test_after_a_failed_pass_all_begin_again_in_their_order_ahead_of_who_waits() -> None:
    stepper = Stepper(slots=3)
    for owner in ("anna", "otto", "nora"):
        stepper.add(owner, Priority.API if owner == "otto" else Priority.CHAT, known=30, answer=9)
    running = stepper.step().admitted
    assert [job.owner for job in running] in (["otto", "anna", "nora"], ["anna", "otto", "nora"])
    stepper.step()
    stepper.add("fresh", known=1)
    stepper.fail()
    assert stepper.scheduler.running == ()
    assert [job.computed for job in running] == [0, 0, 0]
    assert stepper.step().admitted == running
    assert [job.computed > 0 for job in running] == [True, True, True]


def test_removing_a_job_twice_or_before_it_runs_is_harmless() -> None:
    stepper = Stepper(slots=1)
    running, waiting = stepper.add("anna", known=9), stepper.add("otto", known=9)
    plan = stepper.scheduler.plan()
    for job in (running, waiting, running, waiting):
        stepper.scheduler.remove(job)
    stepper.scheduler.commit(plan)
    assert not stepper.scheduler
    assert stepper.memory.held == {}
    assert running.computed == 0
