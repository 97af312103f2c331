"""The socket's manners: what it refuses, how it says so, and who may see what."""

from __future__ import annotations

import json
import uuid

import pytest
from django.contrib.sessions.models import Session
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from inference.errors import TABLE
from tests.browser_client import Guest
from tests.stack import ABSENT, SLOW, TINY, Stack, wait_until
from tests.tiny.replies import COUNT, HELLO, REPLIES

UUID = str(uuid.uuid4())
SEND = {"type": "send", "key": UUID, "conversation": None, "parent": None, "model": TINY, "content": "x", "options": {}}
MALFORMED = {
    "nothing": "",
    "no JSON": "{",
    "a bare number": "7",
    "null": "null",
    "a list": "[]",
    "no type": "{}",
    "a numeric type": '{"type":1}',
    "an unknown type": '{"type":"shout"}',
    "a missing field": '{"type":"send"}',
    "an unknown field": json.dumps({**SEND, "colour": "red"}),
    "an unknown option": json.dumps({**SEND, "options": {"temprature": 1}}),
    "options of the wrong type": json.dumps({**SEND, "options": []}),
    "content that is no text": json.dumps({**SEND, "content": ["x"]}),
    "a key that is no UUID": json.dumps({**SEND, "key": "abc"}),
    "a temperature of 3": json.dumps({**SEND, "options": {"temperature": 3}}),
    "a top_p that is no number": json.dumps({**SEND, "options": {"top_p": float("nan")}}),
    "five stop strings": json.dumps({**SEND, "options": {"stop": list("abcde")}}),
    "an empty stop string": json.dumps({**SEND, "options": {"stop": [""]}}),
    "a seed past 63 bits": json.dumps({**SEND, "options": {"seed": 2**63}}),
    "an endless model name": json.dumps({**SEND, "model": "m" * 5000}),
    "an event id without a dash": json.dumps({"type": "follow", "generation": UUID, "after": "12"}),
    "an event id with digits of another script": json.dumps({"type": "follow", "generation": UUID, "after": "١-٢"}),
    "an event id with a line break": json.dumps({"type": "follow", "generation": UUID, "after": "1-2\n"}),
    "a negative event id": json.dumps({"type": "ack", "generation": UUID, "id": "-1-2"}),
    "deep nesting": '{"type":"send","options":' + "[" * 20000 + "]" * 20000 + "}",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_frame_is_refused_with_a_sentence_and_the_socket_stays_open(guest: Guest, text: str) -> None:
    with guest.socket() as socket:
        socket.connection.send(text)
        frame = socket.get()
        assert (frame["type"], frame["code"]) == ("error", "bad_frame")
        assert len(frame["message"]) > 20
        socket.put(type="follow", generation=UUID, after=None)
        assert socket.get()["code"] == "not_found"


def test_a_binary_frame_is_refused(guest: Guest) -> None:
    with guest.socket() as socket:
        socket.connection.send(b"\x00\xff")
        assert socket.get()["code"] == "bad_frame"


def test_a_frame_over_64_kib_is_refused_and_the_socket_stays_open(guest: Guest) -> None:
    with guest.socket() as socket:
        socket.put(**{**SEND, "content": "x" * 70_000})
        frame = socket.get()
        assert frame["code"] == "frame_too_large"
        assert "65,536" in frame["message"]
        socket.put(type="follow", generation=UUID, after=None)
        assert socket.get()["code"] == "not_found"


def test_a_frame_over_a_mebibyte_closes_the_socket(guest: Guest) -> None:
    with guest.socket() as socket:
        socket.connection.send("x" * (1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            socket.get()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_text_that_is_no_utf8_closes_the_socket(guest: Guest) -> None:
    with guest.socket() as socket:
        socket.connection.send(b'{"type":"\xff"}', text=True)
        with pytest.raises(ConnectionClosed) as closed:
            socket.get()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "empty_message"),
        (" \n\t\u3000", "empty_message"),
        ("x" * 50_000, "message_too_long"),
        ("with \0 inside", "invalid_text"),
    ],
)
def test_a_message_that_cannot_be_stored_is_refused_and_leaves_nothing(
    stack: Stack, guest: Guest, content: str, code: str
) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        frame = socket.ask(content, TINY)
    assert frame["code"] == code
    assert guest.http.get("/conversations").json()["conversations"] == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"options": {"stop": ["a\0"]}}, "invalid_text"),
        ({"options": {"system": "a\0"}}, "invalid_text"),
        ({"model": "tiny\0"}, "unknown_model"),
    ],
)
def test_a_nul_anywhere_is_refused_and_the_socket_stays_open(
    stack: Stack, guest: Guest, fields: dict[str, object], code: str
) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        socket.put(**{**SEND, "key": str(uuid.uuid4()), **fields})
        assert socket.until(lambda frame: frame["type"] == "error")["code"] == code
        assert socket.answer(HELLO, TINY)[1].text == REPLIES[HELLO]


def test_half_a_surrogate_pair_is_refused_as_malformed(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        socket.connection.send(json.dumps({**SEND, "content": "half \ud83d"}))
        assert socket.get()["code"] in ("bad_frame", "invalid_text")


def test_an_unknown_model_and_one_without_a_worker_are_told_apart(stack: Stack, guest: Guest) -> None:
    with guest.socket() as socket:
        assert socket.ask("hello", "no-such-model")["code"] == "unknown_model"
        frame = socket.ask("hello", ABSENT)
    assert frame["code"] == "no_worker"
    assert frame["message"].startswith("Tiny Absent is not running")
    assert guest.http.get("/conversations").json()["conversations"] == []


def test_an_unknown_conversation_and_an_unknown_parent_are_not_found(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        assert socket.ask("hello", TINY, conversation=UUID)["code"] == "not_found"
        sent, _ = socket.answer(HELLO, TINY)
        assert socket.ask("hello", TINY, conversation=sent["conversation"], parent=UUID)["code"] == "not_found"


def test_the_same_key_gives_the_same_generation_and_with_another_body_a_conflict(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    key = str(uuid.uuid4())
    with guest.socket() as socket:
        first = socket.ask(HELLO, TINY, key=key)
        again = socket.ask(HELLO, TINY, key=key)
        other = socket.ask("Something else", TINY, key=key)
    assert again == first
    assert other["code"] == "idempotency_conflict"
    assert len(guest.http.get("/conversations").json()["conversations"]) == 1


def test_a_question_during_an_answer_is_refused_until_the_answer_has_ended(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        leaf = guest.conversation(sent["conversation"])["messages"][-1]["id"]
        assert socket.ask("and?", SLOW, conversation=sent["conversation"], parent=leaf)["code"] == "answer_in_progress"
        socket.put(type="stop", generation=sent["generation"])
        socket.read(sent["generation"])
        assert socket.ask("and?", SLOW, conversation=sent["conversation"], parent=leaf)["type"] == "accepted"


def test_one_person_can_have_only_so_many_answers_at_once(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = [socket.ask(COUNT, SLOW) for _ in range(8)]
        refused = socket.ask(COUNT, SLOW)
        socket.stop_all(sent)
    assert refused["code"] == "too_many_active"


def test_an_answer_can_be_generated_again_beside_the_first(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        first = guest.conversation(sent["conversation"])["messages"][-1]
        key = str(uuid.uuid4())
        socket.put(
            type="regenerate", key=key, conversation=sent["conversation"], message=first["id"], model=TINY, options={}
        )
        again = socket.until(lambda frame: frame.get("key") == key)
        socket.read(again["generation"])
    messages = guest.conversation(sent["conversation"])["messages"]
    assert [message["text"] for message in messages] == [HELLO, REPLIES[HELLO]]
    assert messages[-1]["id"] != first["id"]
    assert messages[-1]["parent"] == first["parent"] == again["message"]


def test_a_stranger_can_neither_follow_nor_stop_nor_answer_into(stack: Stack, guest: Guest, stranger: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as mine, stranger.socket() as theirs:
        sent = mine.ask(COUNT, SLOW)
        leaf = guest.conversation(sent["conversation"])["messages"][-1]["id"]
        theirs.follow(sent["generation"])
        assert theirs.get()["code"] == "not_found"
        theirs.put(type="stop", generation=sent["generation"])
        assert theirs.get()["code"] == "not_found"
        key = str(uuid.uuid4())
        frame = {"key": key, "conversation": sent["conversation"], "model": SLOW, "options": {}}
        theirs.put(type="regenerate", message=leaf, **frame)
        assert theirs.get()["code"] == "not_found"
        theirs.put(type="send", parent=leaf, content="mine now", **frame)
        assert theirs.get()["code"] == "not_found"
        mine.read(sent["generation"], until=lambda answer: len(answer.text) > 10)
        mine.put(type="stop", generation=sent["generation"])
        assert mine.read(sent["generation"]).done["state"] == "cancelled"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", None])
def test_a_foreign_origin_gets_no_socket(guest: Guest, origin: str | None) -> None:
    headers = {"Cookie": f"sessionid={guest.http.cookies['sessionid']}"} | ({"Origin": origin} if origin else {})
    with pytest.raises(InvalidStatus) as refused:
        connect(guest.base.replace("http", "ws") + "/ws/chat/", additional_headers=headers)
    assert refused.value.response.status_code in (400, 403)


def test_no_session_cookie_gets_no_socket(guest: Guest) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(guest.base.replace("http", "ws") + "/ws/chat/", additional_headers={"Origin": guest.base})
    assert refused.value.response.status_code == 403


def test_a_made_up_session_is_closed_with_4401(guest: Guest) -> None:
    headers = {"Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz123456", "Origin": guest.base}
    with connect(guest.base.replace("http", "ws") + "/ws/chat/", additional_headers=headers) as connection:
        assert json.loads(connection.recv(10))["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_a_session_that_ends_is_noticed_with_the_next_message_and_nothing_is_stored(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        socket.answer(HELLO, TINY)
        Session.objects.filter(session_key=guest.http.cookies["sessionid"]).delete()
        assert socket.ask("anyone?", TINY)["code"] == "session_expired"
        with pytest.raises(ConnectionClosed):
            socket.get()


def test_two_tabs_follow_one_answer_and_both_see_all_of_it(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as one, guest.socket() as two:
        sent = one.ask(COUNT, SLOW, options={"max_tokens": 60})
        two.follow(sent["generation"])
        first, second = one.read(sent["generation"]), two.read(sent["generation"])
    assert first.text == second.text == guest.stored(sent)["text"] != ""


def test_a_first_message_is_told_to_its_own_tab_as_well(stack: Stack, guest: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        news = socket.until(lambda frame: frame["type"] == "conversation")
        socket.stop_all([sent])
    assert (news["conversation"], news["title"], news["answering"]) == (sent["conversation"], COUNT, True)


def test_other_tabs_hear_of_a_conversation_that_begins_and_ends_elsewhere(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as one:
        one.answer(HELLO, TINY)
        with guest.socket() as two:
            # The second tab listens once its session is looked up; a refusal shows that it has been.
            two.follow(UUID)
            two.until(lambda frame: frame["type"] == "error")
            sent = one.ask(COUNT, TINY)
            begun = two.until(lambda frame: frame.get("generation") == sent["generation"])
            wait_until(lambda: guest.stored(sent)["generation"]["state"] == "done", "the answer")
            ended = two.until(lambda frame: frame.get("generation") == sent["generation"])
    assert begun["type"] == ended["type"] == "conversation"
    assert begun["conversation"] == sent["conversation"]
    assert begun["title"] == COUNT
    assert ended["answering"] is False


def test_every_error_code_of_the_table_is_documented() -> None:
    from tests.conftest import ROOT

    text = (ROOT / "docs" / "protocol.md").read_text()
    assert [code for code in TABLE if f"`{code}`" not in text] == []
