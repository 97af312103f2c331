"""Stop: the engine stops at once, and what is stored is what was shown."""

from __future__ import annotations

import random
import time

from inference import workers
from tests.browser_client import Guest
from tests.stack import SLOW, TINY, Stack, wait_until
from tests.tiny.replies import COUNT, REPLIES


def test_stop_ends_the_answer_and_stored_is_shown(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 30)
        socket.put(type="stop", generation=sent["generation"], seen=answer.last)
        socket.read(sent["generation"], answer)
    stored = guest.stored(sent)
    assert answer.done["state"] == stored["generation"]["state"] == "cancelled"
    assert answer.done["finish_reason"] == "cancelled"
    assert answer.text == stored["text"]
    assert REPLIES[COUNT].startswith(answer.text)


def test_stop_at_random_moments_always_stores_what_was_shown_and_counts_its_tokens(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    chance = random.Random(7)
    with guest.socket() as socket:
        for _ in range(12):
            sent = socket.ask(COUNT, SLOW)
            wanted = chance.randrange(0, 25)
            answer = socket.read(sent["generation"], until=lambda answer, n=wanted: len(answer.text) >= n)
            socket.put(type="stop", generation=sent["generation"])
            socket.read(sent["generation"], answer)
            stored = guest.stored(sent)
            assert answer.text == stored["text"]
            assert answer.done["usage"] == stored["generation"]["usage"]


def test_stop_frees_the_engine_within_200_ms_of_its_decode_steps(stack: Stack, guest: Guest) -> None:
    """At one token every 30 ms, the tokens sampled after the stop tell for how long the engine went on."""
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 30)
        before = len(REPLIES[COUNT][: len(answer.text)])
        socket.put(type="stop", generation=sent["generation"])
        socket.read(sent["generation"], answer)
    # A token of the tiny model is at least one character; up to 50 ms of them were on their way already.
    assert len(answer.text) - before <= 4 * (200 + 50) / 30
    name = stack.name_of(stack.processes[SLOW])
    wait_until(lambda: next(w for w in workers.living() if w.worker == name).running == 0, "an idle engine")


def test_stopping_what_waits_in_the_queue_ends_it_before_it_begins(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = [socket.ask(COUNT, SLOW) for _ in range(6)]
        waiting = sent[-1]
        socket.put(type="stop", generation=waiting["generation"])
        done = socket.until(lambda f: f.get("generation") == waiting["generation"] and f["type"] == "done")
        socket.stop_all(sent[:-1])
    assert done["state"] == "cancelled"
    assert guest.stored(waiting)["text"] == ""
    assert done["usage"] is None


def test_a_full_engine_tells_those_who_wait_their_place(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = [socket.ask(COUNT, SLOW) for _ in range(6)]
        places = {}
        while len(places) < 2:
            frame = socket.until(lambda frame: frame["type"] == "queued")
            places[frame["generation"]] = frame["position"]
        socket.stop_all(sent)
    assert places == {sent[4]["generation"]: 1, sent[5]["generation"]: 2}


def test_leaving_stops_nothing(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options={"max_tokens": 40})
        socket.read(sent["generation"], until=lambda answer: answer.text)
    wait_until(lambda: guest.stored(sent)["generation"]["state"] == "done", "the answer")
    assert guest.stored(sent)["generation"]["usage"]["completion_tokens"] == 40


def test_a_stop_after_the_end_changes_nothing(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, answer = socket.answer(COUNT, TINY)
        socket.put(type="stop", generation=sent["generation"])
        time.sleep(0.2)  # nothing is to happen: there is no event to wait for
    assert guest.stored(sent)["generation"]["state"] == "done"
    assert guest.stored(sent)["text"] == answer.text
