"""An answer that was cut off goes on in its own message, and every token is counted once."""

from __future__ import annotations

import uuid

import pytest

from inference.models import Generation
from inference.stream import unpack_ids
from tests.browser_client import Answer, Frame, Guest, Socket
from tests.stack import NARROW, SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, REPLIES, SCRIPTS, STORY


def last(guest: Guest, sent: Frame) -> Frame:
    return guest.conversation(sent["conversation"])["messages"][-1]


def go_on(socket: Socket, guest: Guest, sent: Frame, model: str) -> tuple[Frame, Answer]:
    frame = socket.again("continue", model, conversation=sent["conversation"], message=last(guest, sent)["id"])
    assert frame["type"] == "accepted", frame
    return frame, socket.read(frame["generation"])


@pytest.mark.parametrize(
    ("question", "stop", "room"), [(COUNT, [], 40), (EMOJI, [], 13), (SCRIPTS, [], 23), (STORY, ["END-OF-THE"], 3)]
)
def test_an_answer_at_its_length_limit_goes_on_in_the_same_sentence_as_often_as_is_asked(
    stack: Stack, guest: Guest, question: str, stop: list[str], room: int
) -> None:
    """Cut within characters of several tokens, and within what might become a stop string."""
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, answer = socket.answer(question, TINY, options={"max_tokens": room, "stop": stop})
        message, counted, parts = last(guest, sent), [room], 1
        assert answer.done["finish_reason"] == "length"
        while answer.done["finish_reason"] == "length":
            frame, answer = go_on(socket, guest, sent, TINY)
            assert frame["message"] == message["parent"]
            assert answer.text == last(guest, sent)["text"]
            assert REPLIES[question].startswith(answer.text)
            counted.append(answer.done["usage"]["completion_tokens"])
            assert counted[-1] <= room
            parts += 1
    assert answer.text == REPLIES[question]
    assert [shown["id"] for shown in guest.conversation(sent["conversation"])["messages"]][-1] == message["id"]
    assert last(guest, sent)["siblings"] == [message["id"]]
    row = Generation.objects.get(pk=frame["generation"])
    # Each token is counted by the generation that sampled it, and by no other.
    assert sum(counted) == len(unpack_ids(bytes(row.token_ids))) == row.carried_tokens + row.completion_tokens
    assert parts > 2


def test_a_stopped_answer_goes_on_and_the_whole_reads_as_if_it_had_not_been_stopped(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW, options={"max_tokens": 120})
        socket.read(sent["generation"], until=lambda answer: len(answer.text) > 30)
        socket.put(type="stop", generation=sent["generation"])
        socket.read(sent["generation"])
        stopped = last(guest, sent)["text"]
        frame, answer = go_on(socket, guest, sent, SLOW)
        texts = [frame["text"] for frame in answer.frames if frame["type"] == "replace"]
    assert texts[0].startswith(stopped) or stopped.startswith(texts[0])
    assert answer.text.startswith(stopped)
    assert REPLIES[COUNT].startswith(answer.text)
    # What came first is counted where it was sampled, and the new part has as much room as the first had.
    row = Generation.objects.get(pk=frame["generation"])
    assert row.continues_id == uuid.UUID(sent["generation"])
    assert (answer.done["finish_reason"], row.completion_tokens) == ("length", 120)


def test_the_first_request_sent_again_is_answered_as_before_though_another_goes_on(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    key, options = str(uuid.uuid4()), {"max_tokens": 20}
    with guest.socket() as socket:
        sent = socket.ask(COUNT, TINY, key=key, options=options)
        socket.read(sent["generation"])
        fields = {"conversation": sent["conversation"], "message": last(guest, sent)["id"], "key": str(uuid.uuid4())}
        first = socket.again("continue", TINY, **fields)
        socket.read(first["generation"])
        assert socket.again("continue", TINY, **fields) == first
        assert socket.ask(COUNT, TINY, key=key, options=options) == sent
        go_on(socket, guest, sent, TINY)
        assert socket.again("continue", TINY, **fields) == first


def test_what_cannot_go_on_is_refused_and_stays_as_it_is(stack: Stack, guest: Guest, stranger: Guest) -> None:
    for model in (TINY, SLOW):
        stack.worker(model)
    with guest.socket() as mine, stranger.socket() as theirs:
        whole, _ = mine.answer(HELLO, TINY)
        fields = {"conversation": whole["conversation"], "message": last(guest, whole)["id"]}
        assert mine.again("continue", TINY, **fields)["code"] == "cannot_continue"
        assert mine.again("continue", TINY, **{**fields, "message": whole["message"]})["code"] == "bad_request"
        running = mine.ask(COUNT, SLOW)
        fields = {"conversation": running["conversation"], "message": last(guest, running)["id"]}
        assert mine.again("continue", SLOW, **fields)["code"] == "answer_in_progress"
        mine.read(running["generation"], until=lambda answer: len(answer.text) > 5)
        mine.stop_all([running])
        assert mine.again("continue", TINY, **fields)["code"] == "bad_request"
        assert theirs.again("continue", SLOW, **fields)["code"] == "not_found"
        mine.put(type="continue", key=str(uuid.uuid4()), model=SLOW, options={"seed": 1}, **fields)
        assert mine.until(lambda frame: frame["type"] == "error")["code"] == "bad_frame"
    assert Generation.objects.filter(continues=running["generation"]).count() == 0


def test_a_second_tab_reads_the_whole_while_it_goes_on(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as one, guest.socket() as two:
        sent, _ = one.answer(COUNT, SLOW, options={"max_tokens": 40})
        fields = {"conversation": sent["conversation"], "message": last(guest, sent)["id"]}
        frame = one.again("continue", SLOW, **fields)
        two.follow(frame["generation"])
        answers = [socket.read(frame["generation"]) for socket in (one, two)]
    assert answers[0].text == answers[1].text == last(guest, sent)["text"]
    assert REPLIES[COUNT].startswith(answers[0].text)


def test_an_answer_that_two_lost_workers_ended_goes_on(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(COUNT, TINY, options={"max_tokens": 50})
        ended = {"state": "interrupted", "finish_reason": "", "error_code": "worker_lost", "crashes": 2}
        Generation.objects.filter(pk=sent["generation"]).update(**ended)
        frame, answer = go_on(socket, guest, sent, TINY)
    row = Generation.objects.get(pk=frame["generation"])
    assert REPLIES[COUNT].startswith(answer.text)
    # What its forerunner cost counts against that one alone.
    assert (row.state, row.crashes, row.carried_tokens, row.completion_tokens) == ("done", 0, 50, 50)


def test_an_answer_that_fills_the_context_does_not_go_on(stack: Stack, guest: Guest) -> None:
    stack.worker(NARROW)
    with guest.socket() as socket:
        sent, answer = socket.answer(COUNT, NARROW, options={"max_tokens": 240})
        while answer.done["finish_reason"] == "length":
            fields = {"conversation": sent["conversation"], "message": last(guest, sent)["id"]}
            frame = socket.again("continue", NARROW, **fields)
            if frame["type"] == "error":
                break
            answer = socket.read(frame["generation"])
    assert frame["code"] == "cannot_continue"
    assert answer.done["state"] == "done"
    assert REPLIES[COUNT].startswith(answer.text)
