from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.fairness import Shares
from inference.engine.queues import Queues
from inference.engine.scheduler import Job, Scheduler
from inference.types import Priority
from tests.inference.engine.stepping import Blocks, Stepper, Talker

SLOTS = 4
LARGEST = 40  # tokens of a job, sampled ones included
# Two that wait for the same slots may differ by what fills all slots once, on either side.
LEAD = 2 * SLOTS * LARGEST

jobs = st.fixed_dictionaries({"known": st.integers(1, 30), "answer": st.integers(1, 10)})


def keep_waiting(stepper: Stepper, owner: str, priority: Priority, **fields: int) -> None:
    """See to it that the owner has more waiting than there are slots."""
    waiting = [job for job in stepper.scheduler.waiting if (job.owner, job.priority) == (owner, priority)]
    for _ in range(SLOTS + 1 - len(waiting)):
        stepper.add(owner, priority, **fields)


@settings(max_examples=40, deadline=None)
@given(api=jobs, chat=jobs, owners=st.integers(1, 5))
def test_two_classes_that_both_wait_get_the_same_service(api: dict, chat: dict, owners: int) -> None:
    stepper = Stepper(slots=SLOTS)
    for _ in range(120):
        for owner in range(owners):
            keep_waiting(stepper, f"api {owner}", Priority.API, **api)
        keep_waiting(stepper, "chat", Priority.CHAT, **chat)
        stepper.step()
        assert abs(stepper.served["api"] - stepper.served["chat"]) <= LEAD


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(jobs, min_size=2, max_size=4))
def test_owners_that_all_wait_get_the_same_service_whatever_the_size_of_their_jobs(sizes: list[dict]) -> None:
    stepper = Stepper(slots=SLOTS)
    for _ in range(120):
        for number, fields in enumerate(sizes):
            keep_waiting(stepper, f"owner {number}", Priority.CHAT, **fields)
        stepper.step()
        served = [stepper.served[f"owner {number}"] for number in range(len(sizes))]
        assert max(served) - min(served) <= LEAD


def test_weights_say_how_two_classes_share() -> None:
    stepper = Stepper(slots=SLOTS)
    weights = {Priority.API: 3.0, Priority.CHAT: 1.0}
    stepper.scheduler = Scheduler(stepper.memory, slots=SLOTS, step_tokens=64, chunk_tokens=16, weights=weights)
    for _ in range(600):
        for priority in weights:
            keep_waiting(stepper, "anna", priority, known=10, answer=5)
        stepper.step()
    assert stepper.served["api"] / stepper.served["chat"] == pytest.approx(3, rel=0.1)


def test_a_weight_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Scheduler(Blocks(1, 1), slots=1, step_tokens=1, chunk_tokens=1, weights={Priority.API: 0.0})


@pytest.mark.parametrize("stranger", [lambda n: "returning", lambda n: f"returning {n % 3}", lambda n: f"new {n}"])
def test_a_constant_stream_of_others_never_starves_who_was_served_before(stranger: Callable[[int], str]) -> None:
    stepper = Stepper(slots=1)
    mine = [stepper.add("anna", known=30, answer=1) for _ in range(5)]
    for _ in range(200):
        while len(stepper.scheduler.waiting) < len([job for job in mine if job in stepper.scheduler.waiting]) + 3:
            stepper.add(stranger(len(stepper.added)), known=10, answer=1)
        stepper.step()
    assert set(mine) <= set(stepper.finished)
    assert stepper.served.total() - stepper.served["anna"] > 500


def test_a_flood_of_one_owner_delays_another_by_no_more_than_what_runs() -> None:
    stepper = Stepper(slots=SLOTS)
    for _ in range(100):
        stepper.add("flood", known=30, answer=10)
    for _ in range(50):
        stepper.step()
    quiet = stepper.add("quiet", known=5, answer=1)
    finished = len(stepper.finished)
    while quiet not in stepper.finished:
        stepper.step()
    assert len(stepper.finished) - finished <= SLOTS + 1


def test_free_places_are_shared_among_owners_before_any_token_is_served() -> None:
    stepper = Stepper(slots=SLOTS)
    for owner in ("anna", "otto"):
        for _ in range(SLOTS):
            stepper.add(owner, known=10)
    assert sorted(job.owner for job in stepper.step().admitted) == ["anna", "anna", "otto", "otto"]


def test_idleness_earns_no_credit() -> None:
    stepper = Stepper(slots=SLOTS)
    stepper.add("idle", known=5, answer=5_000)
    for _ in range(600):
        keep_waiting(stepper, "busy", Priority.CHAT, known=10, answer=10)
        stepper.step()
    before = stepper.served.copy()
    for _ in range(100):
        for owner in ("busy", "idle"):
            keep_waiting(stepper, owner, Priority.CHAT, known=10, answer=10)
        stepper.step()
    gained = stepper.served - before
    assert before["busy"] - before["idle"] > 3 * LEAD
    assert abs(gained["busy"] - gained["idle"]) <= LEAD


def test_a_class_that_was_idle_earns_no_credit() -> None:
    stepper = Stepper(slots=SLOTS)
    for step in range(400):
        keep_waiting(stepper, "anna", Priority.API, known=10, answer=10)
        if step == 300:
            before = stepper.served["api"]
        if step >= 300:
            keep_waiting(stepper, "anna", Priority.CHAT, known=10, answer=10)
        stepper.step()
    assert before > 3 * LEAD
    assert abs(stepper.served["api"] - before - stepper.served["chat"]) <= LEAD


def test_who_cancels_pays_only_for_what_was_read() -> None:
    stepper = Stepper(slots=1)
    cancelled = stepper.add("anna", known=10_000)
    stepper.memory.total = 10_000
    next_of_anna = stepper.add("anna", known=10, answer=1)
    others = [stepper.add("otto", known=100, answer=1) for _ in range(5)]
    stepper.step()
    stepper.scheduler.remove(cancelled)
    stepper.run()
    assert stepper.finished.index(next_of_anna) <= stepper.finished.index(others[1])


def test_what_is_cached_is_not_charged() -> None:
    stepper = Stepper(slots=1)
    for _ in range(2):
        stepper.add("anna", known=50, cached=40, answer=1)
        stepper.add("otto", known=20, answer=1)
    stepper.run()
    assert [job.owner for job in stepper.finished] == ["anna", "otto", "anna", "otto"]


def test_what_is_read_again_after_a_preemption_is_not_charged_again() -> None:
    queues = Queues({})
    anna, otto, *later = (Job(owner, Priority.CHAT, known=10) for owner in ("anna", "otto", "otto", "anna"))
    for job in (anna, otto, *later):
        queues.add(job)
    queues.take(anna)
    queues.charge(anna, 10)
    queues.put_back(anna)
    queues.take(anna)
    queues.charge(anna, 10)
    queues.take(otto)
    queues.charge(otto, 15)
    assert queues.next(background=False) is later[1]


def test_owners_who_left_leave_nothing_behind() -> None:
    scheduler = Scheduler(Blocks(10, 1), slots=1, step_tokens=8, chunk_tokens=8)

    def come_and_go(number: int) -> None:
        job = Talker(f"owner {number}", Priority.CHAT, known=5)
        scheduler.add(job)
        scheduler.commit(scheduler.plan())
        scheduler.remove(job)

    come_and_go(0)
    tracemalloc.start()
    try:
        begin, _ = tracemalloc.get_traced_memory()
        for number in range(2_000):
            come_and_go(number)
        end, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert end - begin < 20_000


keys = st.sampled_from("abcd")
deeds = st.one_of(st.tuples(st.sampled_from(["join", "leave"]), keys), st.tuples(st.just("serve"), st.integers(1, 100)))


@settings(max_examples=200, deadline=None)
@given(script=st.lists(deeds, max_size=60))
def test_a_newcomer_never_goes_before_the_one_that_waits_and_had_least(script: list[tuple]) -> None:
    shares: Shares[str] = Shares()
    for deed, *rest in script:
        if deed == "join":
            shares.join(rest[0])
        elif deed == "leave":
            shares.leave(rest[0])
        elif (key := shares.least()) is not None:
            shares.charge(key, rest[0])
    first = shares.least()
    shares.join("new")
    assert shares.least() == (first or "new")


def test_a_newcomer_does_not_start_behind_all_that_wait_because_another_had_much_and_left() -> None:
    shares: Shares[str] = Shares()
    shares.join("much")
    shares.join("little")
    shares.charge("much", 1_000)
    shares.leave("much")
    shares.join("new")
    shares.charge("little", 1)
    assert shares.least() == "new"


def test_a_newcomer_gets_no_credit_over_who_was_served_while_nobody_waited() -> None:
    shares: Shares[str] = Shares()
    for _ in range(2):
        shares.join("busy")
        shares.leave("busy")
        shares.charge("busy", 1_000)
    shares.join("new")
    shares.join("busy")
    shares.charge("new", 1_001)
    assert shares.least() == "busy"
