"""Coming back: a reload, a lost network, another way in. Nothing is missing and nothing comes twice."""

from __future__ import annotations

import json
import time

from accounts.guests import ensure_owner
from inference import recovery, stream
from tests.browser_client import Answer, Guest
from tests.rows import HandWorker, queued
from tests.stack import SLOW, TINY, Stack
from tests.tiny.replies import COUNT, HELLO, REPLIES

LENGTH = {"max_tokens": 120}


def test_a_reload_in_mid_answer_shows_what_is_saved_and_streams_the_rest(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options=LENGTH)
        socket.read(sent["generation"], until=lambda answer: len(answer.text) > 60)
    saved = guest.stored(sent)
    assert saved["generation"]["state"] == "running"
    answer = Answer()
    answer.text, answer.last = saved["text"], saved["generation"]["cursor"]
    with guest.socket() as socket:
        socket.follow(sent["generation"], saved["generation"]["cursor"])
        socket.read(sent["generation"], answer)
    assert not any(frame["type"] == "replace" for frame in answer.frames)
    assert answer.text == guest.stored(sent)["text"]
    assert REPLIES[COUNT].startswith(answer.text)
    assert answer.done["usage"]["completion_tokens"] == 120


def test_following_from_nothing_gives_everything_from_the_first_character(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options=LENGTH)
        socket.read(sent["generation"], until=lambda answer: len(answer.text) > 20)
        socket.follow(sent["generation"])
        answer = socket.read(sent["generation"], Answer())
    assert answer.text == guest.stored(sent)["text"]


def test_following_from_every_event_gives_exactly_the_rest(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent, whole = socket.answer(COUNT, SLOW, options={"max_tokens": 40})
        events = [frame for frame in whole.frames if frame["type"] == "delta"]
        for place in range(len(events)):
            answer = Answer()
            answer.text = "".join(frame["text"] for frame in events[: place + 1])
            answer.last = events[place]["id"]
            socket.follow(sent["generation"], events[place]["id"])
            assert socket.read(sent["generation"], answer).text == whole.text


def test_a_finished_answer_is_followed_from_postgresql_when_the_log_is_gone(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        stream.client().delete(stream.key(sent["generation"]))
        socket.follow(sent["generation"])
        answer = socket.read(sent["generation"], Answer())
    assert answer.text == REPLIES[HELLO]
    assert answer.done["state"] == "done"


def test_who_begins_at_a_log_that_a_second_worker_began_misses_nothing_of_the_first(guest: Guest) -> None:
    """With the log of the first one lost, the first entry of a later epoch was taken for the answer's beginning."""
    generation = queued(ensure_owner(guest.http.cookies["sessionid"]))
    first = HandWorker(generation)
    first.write("one, ")
    assert first.generation.hand_back(first.progress)
    stream.client().delete(stream.key(generation.pk))
    second = HandWorker(generation, "another")
    second.write("two")
    with guest.socket() as socket:
        socket.follow(str(generation.pk))
        answer = socket.read(str(generation.pk), until=lambda answer: answer.text)
        second.finish()
        assert socket.read(str(generation.pk), answer).text == "one, two"


def test_a_log_that_vanishes_in_mid_answer_loses_no_text(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options=LENGTH)
        answer = socket.read(sent["generation"], until=lambda answer: len(answer.text) > 30)
        stream.client().delete(stream.key(sent["generation"]))
        socket.read(sent["generation"], answer)
    assert answer.text == guest.stored(sent)["text"]
    assert answer.done["usage"]["completion_tokens"] == 120


def test_a_gap_in_the_middle_of_the_log_is_noticed_by_who_comes_later(guest: Guest) -> None:
    worker = HandWorker(queued(ensure_owner(guest.http.cookies["sessionid"])))
    worker.write("one ")
    worker.text += "kept by PostgreSQL alone "
    worker.log.skip()
    worker.save()
    worker.write("three")
    generation = str(worker.generation.pk)
    with guest.socket() as socket:
        socket.follow(generation)
        answer = socket.read(generation, until=lambda answer: answer.text.endswith("three"))
        worker.finish()
        socket.read(generation, answer)
    assert answer.text == "one kept by PostgreSQL alone three"


def test_the_last_words_that_redis_never_had_come_with_the_end(guest: Guest) -> None:
    worker = HandWorker(queued(ensure_owner(guest.http.cookies["sessionid"])))
    worker.write("one ")
    generation = str(worker.generation.pk)
    with guest.socket() as socket:
        socket.follow(generation)
        answer = socket.read(generation, until=lambda answer: answer.text)
        worker.text += "two"
        worker.log.skip()
        worker.finish()
        socket.read(generation, answer)
    assert answer.text == "one two"


def _waits(answer: Answer) -> bool:
    return bool(answer.frames) and answer.frames[-1]["type"] == "queued"


def test_who_follows_a_lost_worker_sees_the_next_one_go_on_in_the_same_sentence(guest: Guest) -> None:
    worker = HandWorker(queued(ensure_owner(guest.http.cookies["sessionid"])))
    worker.write("one ")
    generation = str(worker.generation.pk)
    with guest.socket() as socket, guest.socket() as other:
        socket.follow(generation)
        answer = socket.read(generation, until=lambda answer: answer.text)
        worker.lose_lease()
        recovery.reap()
        assert socket.read(generation, answer, until=_waits).text == "one "
        other.follow(generation)
        late = other.read(generation, until=_waits)
        assert late.text == "one "
        time.sleep(0.5)  # nothing is to happen: a place in the queue is told now and then, not as fast as can be
        successor = HandWorker(worker.generation)
        successor.write("two")
        for reader, shown in ((socket, answer), (other, late)):
            reader.read(generation, shown, until=lambda answer: answer.text == "one two")
        successor.finish()
        for reader, shown in ((socket, answer), (other, late)):
            assert reader.read(generation, shown).text == "one two"
            assert sum(frame["type"] == "queued" for frame in shown.frames) < 10


def test_what_a_lost_worker_wrote_is_shown_while_it_waits_though_its_log_is_gone(guest: Guest) -> None:
    worker = HandWorker(queued(ensure_owner(guest.http.cookies["sessionid"])))
    worker.write("half an answer")
    worker.lose_lease()
    recovery.reap()
    stream.client().delete(stream.key(worker.generation.pk))
    generation = str(worker.generation.pk)
    with guest.socket() as socket:
        socket.follow(generation)
        assert socket.read(generation, until=_waits).text == "half an answer"
        socket.put(type="stop", generation=generation)
        assert socket.read(generation).done["state"] == "cancelled"


def test_a_place_that_never_was_gets_the_whole_text_instead_of_a_wrong_rest(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        socket.follow(sent["generation"], "9-999")
        answer = socket.read(sent["generation"], Answer())
    assert answer.text == REPLIES[HELLO]


def test_server_sent_events_carry_the_same_frames_and_resume(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options={"max_tokens": 40})
    address = f"/generations/{sent['generation']}/events"
    first = _events(guest, address, stop_after=3)
    rest = _events(guest, address, headers={"Last-Event-ID": first[-1]["id"]})
    answer = Answer()
    for frame in first + rest:
        answer.take(frame)
    assert answer.text == guest.stored(sent)["text"] != ""
    assert rest[-1]["type"] == "done"


def _events(guest: Guest, address: str, stop_after: int = 10**9, headers: dict[str, str] | None = None) -> list[dict]:
    found: list[dict] = []
    with guest.http.stream("GET", address, headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if sum("text" in frame for frame in found) >= stop_after:
                    break
    return found
