"""A fork: a conversation that begins as a copy of a branch."""

from __future__ import annotations

import uuid

import pytest
from django.db.models import Sum

from accounts.guests import ensure_owner
from chat.models import Conversation
from inference.models import Generation
from tests.browser_client import Frame, Guest
from tests.stack import SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, NAME, REPLIES


def fork(guest: Guest, conversation: str, message: str) -> Frame:
    response = guest.write("POST", f"/conversations/{conversation}/forks", {"message": message})
    assert response.status_code == 201
    return response.json()  # type: ignore[no-any-return]


def test_a_fork_has_the_branch_down_to_the_message_and_goes_its_own_way(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    owner = ensure_owner(guest.http.cookies["sessionid"])
    with guest.socket() as socket:
        first, _ = socket.answer(HELLO, TINY)
        leaf = guest.conversation(first["conversation"])["messages"][-1]["id"]
        second, _ = socket.answer(EMOJI, TINY, conversation=first["conversation"], parent=leaf)
        # The branch of a message that is not visible can be forked as well.
        edited = socket.again("edit", TINY, content=NAME, conversation=first["conversation"], message=first["message"])
        socket.read(edited["generation"])
        sampled = Generation.objects.filter(owner=owner).aggregate(all=Sum("completion_tokens"))["all"]
        copy = fork(guest, first["conversation"], second["message"])
        assert Generation.objects.filter(owner=owner).aggregate(all=Sum("completion_tokens"))["all"] == sampled
        messages = guest.conversation(copy["id"])["messages"]
        assert [message["text"] for message in messages] == [HELLO, REPLIES[HELLO], EMOJI]
        assert copy["title"] == HELLO
        assert messages[1]["generation"]["state"] == "done"
        assert messages[1]["generation"]["model_name"] == "Tiny"
        # It is read as a prompt, and what is asked in it does not reach the original.
        edited = socket.again("edit", TINY, content=NAME, conversation=copy["id"], message=messages[-1]["id"])
        assert socket.read(edited["generation"]).text == REPLIES[NAME]
    assert len(guest.conversation(copy["id"])["messages"]) == 4
    assert [m["text"] for m in guest.conversation(first["conversation"])["messages"]] == [NAME, REPLIES[NAME]]
    Conversation.objects.get(pk=first["conversation"]).delete()
    assert len(guest.conversation(copy["id"])["messages"]) == 4


def test_an_answer_that_was_cut_off_goes_on_in_the_fork_and_is_counted_once(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(COUNT, TINY, options={"max_tokens": 30})
        cut = guest.conversation(sent["conversation"])["messages"][-1]
        copy = fork(guest, sent["conversation"], cut["id"])
        leaf = guest.conversation(copy["id"])["messages"][-1]["id"]
        assert guest.conversation(copy["id"])["messages"][-1]["generation"]["usage"] is None
        more = socket.again("continue", TINY, conversation=copy["id"], message=leaf)
        answer = socket.read(more["generation"])
    assert answer.done["usage"]["completion_tokens"] == 30
    assert len(answer.text) > len(cut["text"])
    assert REPLIES[COUNT].startswith(answer.text)
    assert guest.conversation(sent["conversation"])["messages"][-1]["text"] == cut["text"]


def test_a_fork_is_told_to_the_owners_other_tabs(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        socket.rest(1)
        copy = fork(guest, sent["conversation"], sent["message"])
        news = socket.until(lambda frame: frame["type"] == "conversation" and frame["conversation"] == copy["id"])
    assert (news["title"], news["answering"], news["generation"]) == (HELLO, False, None)


def test_what_is_not_the_owners_or_not_over_or_malformed_is_not_forked(
    stack: Stack, guest: Guest, stranger: Guest
) -> None:
    stack.worker(SLOW)
    with guest.socket() as socket:
        sent = socket.ask(COUNT, SLOW)
        leaf = guest.conversation(sent["conversation"])["messages"][-1]["id"]
        address = f"/conversations/{sent['conversation']}/forks"
        refused = guest.write("POST", address, {"message": leaf})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "answer_in_progress")
        socket.stop_all([sent])
    ensure_owner(stranger.http.cookies["sessionid"])
    assert stranger.write("POST", address, {"message": leaf}).status_code == 404
    assert guest.http.post(address, json={"message": leaf}).status_code == 403
    assert guest.write("POST", address, {"message": str(uuid.uuid4())}).status_code == 404
    assert guest.write("POST", address, {"message": leaf, "title": "x"}).status_code == 400
    assert guest.http.get(address).status_code == 405
    assert len(guest.http.get("/conversations").json()["conversations"]) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"message":1}', b"\xff"])
def test_a_body_that_is_no_json_of_ours_is_refused(guest: Guest, body: bytes) -> None:
    owner = ensure_owner(guest.http.cookies["sessionid"])
    conversation = Conversation.objects.create(owner=owner, title="x", model=TINY)
    headers = {"X-CSRFToken": guest.http.cookies["csrftoken"], "Content-Type": "application/json"}
    refused = guest.http.post(f"/conversations/{conversation.pk}/forks", content=body, headers=headers)
    assert refused.status_code == 400
