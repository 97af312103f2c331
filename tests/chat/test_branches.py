"""The tree of a conversation: which branch is visible, who may choose it, and who hears of it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.guests import ensure_owner
from accounts.models import User
from chat import conversations, resources
from chat.models import Conversation, Message
from inference.errors import NotFound
from inference.models import Generation
from tests.browser_client import Guest
from tests.stack import ABSENT, SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, NAME, REPLIES


def question(conversation: Conversation, parent: Message | None, content: str = "why?") -> Message:
    return conversation.messages.create(role="user", parent=parent, content=content)


def answer(conversation: Conversation, parent: Message, text: str = "so.", **fields: Any) -> Message:
    values = {"door": "chat", "model": ABSENT, "prompt": [{"role": "user", "content": "why?"}], "sampling": {}}
    ended = {"state": "done", "finished_at": timezone.now(), "request_hash": b"", "idempotency_key": uuid.uuid4()}
    row = Generation.objects.create(owner=conversation.owner, text=text, **{**values, **ended, **fields})
    return conversation.messages.create(role="assistant", parent=parent, generation=row)


def started(owner: User) -> Conversation:
    return Conversation.objects.create(owner=owner, title="why?", model=ABSENT)


def visible(owner: User, conversation: Conversation) -> list[uuid.UUID]:
    return [message.id for message in resources.conversation(owner, conversation.pk).messages]


def test_each_message_tells_its_siblings_in_the_order_of_their_making(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        answers = [guest.conversation(sent["conversation"])["messages"][-1]["id"]]
        for _ in range(2):
            again = socket.again("regenerate", TINY, conversation=sent["conversation"], message=answers[0])
            socket.read(again["generation"])
            answers.append(guest.conversation(sent["conversation"])["messages"][-1]["id"])
    asked, answered = guest.conversation(sent["conversation"])["messages"]
    assert asked["siblings"] == [asked["id"]]
    assert answered["siblings"] == answers
    assert answered["id"] == answers[-1]


def test_a_branch_is_chosen_remembered_and_found_again_where_it_was_left(owner: User) -> None:
    conversation = started(owner)
    root = question(conversation, None)
    first, second = answer(conversation, root), answer(conversation, root)
    below = [question(conversation, first, text) for text in ("one", "two", "three")]
    ends = [answer(conversation, message) for message in below]

    def show(message: Message) -> list[uuid.UUID]:
        conversations.show(owner, conversation.pk, message.pk)
        return visible(owner, conversation)

    # Never seen: the newest below it.
    assert show(first) == [root.pk, first.pk, below[2].pk, ends[2].pk]
    assert show(below[0]) == [root.pk, first.pk, below[0].pk, ends[0].pk]
    assert show(second) == [root.pk, second.pk]
    assert show(first) == [root.pk, first.pk, below[0].pk, ends[0].pk]
    # A first message has siblings too.
    other = question(conversation, None)
    assert show(other) == [other.pk]
    assert resources.conversation(owner, conversation.pk).messages[0].siblings == [root.pk, other.pk]
    assert show(root) == [root.pk, first.pk, below[0].pk, ends[0].pk]


def test_what_is_asked_from_a_hidden_branch_is_shown_with_it(stack: Stack, guest: Guest) -> None:
    """A tab that has not heard of a switch yet sends its question where its reader saw it."""
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        first = guest.conversation(sent["conversation"])["messages"][-1]["id"]
        again = socket.again("regenerate", TINY, conversation=sent["conversation"], message=first)
        socket.read(again["generation"])
        second = guest.conversation(sent["conversation"])["messages"][-1]["id"]
        socket.answer(EMOJI, TINY, conversation=sent["conversation"], parent=first)
    texts = [message["text"] for message in guest.conversation(sent["conversation"])["messages"]]
    assert texts == [HELLO, REPLIES[HELLO], EMOJI, REPLIES[EMOJI]]
    assert [message["text"] for message in guest.show(sent["conversation"], second)] == [HELLO, REPLIES[HELLO]]
    assert len(guest.show(sent["conversation"], first)) == 4


def test_a_conversation_of_200_messages_opens_with_two_queries_and_without_prompts(owner: User) -> None:
    conversation = started(owner)
    leaf: Message | None = None
    for _ in range(100):
        leaf = answer(conversation, question(conversation, leaf))
    conversation.leaf = leaf
    conversation.save()
    with CaptureQueriesContext(connection) as queries:
        opened = resources.conversation(owner, conversation.pk)
    assert len(opened.messages) == 200
    assert len(queries) == 2
    assert not any(column in query["sql"] for query in queries for column in ('"prompt"', '"token_ids"'))


def test_other_tabs_hear_of_a_switch_and_the_list_keeps_its_order(guest: Guest) -> None:
    owner = ensure_owner(guest.http.cookies["sessionid"])
    conversation = started(owner)
    root = question(conversation, None)
    first, second = answer(conversation, root), answer(conversation, root)
    conversations.show(owner, conversation.pk, second.pk)
    before = guest.conversation(str(conversation.pk))["updated_at"]
    with guest.socket() as tab:
        tab.follow(str(uuid.uuid4()))
        tab.until(lambda frame: frame["type"] == "error")
        assert [message["id"] for message in guest.show(str(conversation.pk), str(first.pk))][-1] == str(first.pk)
        news = tab.until(lambda frame: frame["type"] == "conversation")
    assert (news["conversation"], news["generation"]) == (str(conversation.pk), None)
    assert news["updated_at"] == before


def test_a_stranger_a_visitor_without_a_token_and_a_foreign_message_change_nothing(
    guest: Guest, stranger: Guest, owner: User
) -> None:
    mine = started(ensure_owner(guest.http.cookies["sessionid"]))
    ensure_owner(stranger.http.cookies["sessionid"])
    root = question(mine, None)
    first, second = answer(mine, root), answer(mine, root)
    conversations.show(mine.owner, mine.pk, second.pk)
    address, body = f"/conversations/{mine.pk}", {"shown": str(first.pk)}
    assert stranger.write("PATCH", address, body).status_code == 404
    assert guest.http.patch(address, json=body).status_code == 403
    foreign = question(started(owner), None)
    assert guest.write("PATCH", address, {"shown": str(foreign.pk)}).status_code == 404
    assert guest.conversation(str(mine.pk))["messages"][-1]["id"] == str(second.pk)
    with pytest.raises(NotFound):
        conversations.show(None, mine.pk, first.pk)


@pytest.mark.parametrize("body", [None, [], {}, {"shown": None}, {"shown": "x"}, {"shown": str(uuid.uuid4()), "x": 1}])
def test_a_malformed_switch_is_refused_with_a_sentence(guest: Guest, body: object) -> None:
    conversation = started(ensure_owner(guest.http.cookies["sessionid"]))
    refused = guest.write("PATCH", f"/conversations/{conversation.pk}", body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "bad_request"


def test_a_question_in_other_words_stands_beside_the_first_and_is_answered(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        first, _ = socket.answer(HELLO, TINY)
        leaf = guest.conversation(first["conversation"])["messages"][-1]["id"]
        second, _ = socket.answer(EMOJI, TINY, conversation=first["conversation"], parent=leaf)
        key = str(uuid.uuid4())
        fields = {"conversation": first["conversation"], "message": second["message"], "content": NAME, "key": key}
        edited = socket.again("edit", TINY, **fields)
        assert socket.read(edited["generation"]).text == REPLIES[NAME]
        assert socket.again("edit", TINY, **fields) == edited
        assert socket.again("edit", TINY, **{**fields, "content": HELLO})["code"] == "idempotency_conflict"
    messages = guest.conversation(first["conversation"])["messages"]
    assert [message["text"] for message in messages] == [HELLO, REPLIES[HELLO], NAME, REPLIES[NAME]]
    assert messages[2]["siblings"] == [second["message"], edited["message"]]
    texts = [message["text"] for message in guest.show(first["conversation"], second["message"])]
    assert texts == [HELLO, REPLIES[HELLO], EMOJI, REPLIES[EMOJI]]


def test_the_first_question_can_be_edited_and_its_answer_hears_nothing_of_the_old_one(
    stack: Stack, guest: Guest
) -> None:
    stack.worker(TINY)
    with guest.socket() as socket:
        sent, _ = socket.answer(HELLO, TINY)
        where = {"conversation": sent["conversation"], "message": sent["message"]}
        edited = socket.again("edit", TINY, content=NAME, **where)
        socket.read(edited["generation"])
    assert Generation.objects.get(pk=edited["generation"]).prompt == [{"role": "user", "content": NAME}]
    assert len(guest.conversation(sent["conversation"])["messages"]) == 2


def test_what_cannot_be_edited_is_refused_and_leaves_nothing(stack: Stack, guest: Guest, stranger: Guest) -> None:
    stack.worker(SLOW)
    with guest.socket() as mine, stranger.socket() as theirs:
        sent = mine.ask(COUNT, SLOW)
        answered = guest.conversation(sent["conversation"])["messages"][-1]["id"]
        where = {"conversation": sent["conversation"], "message": sent["message"]}
        assert mine.again("edit", SLOW, content=HELLO, **where)["code"] == "answer_in_progress"
        mine.stop_all([sent])
        assert mine.again("edit", SLOW, content=" \n", **where)["code"] == "empty_message"
        assert mine.again("edit", SLOW, content="a\0b", **where)["code"] == "invalid_text"
        assert mine.again("edit", ABSENT, content=HELLO, **where)["code"] == "no_worker"
        assert mine.again("edit", SLOW, content=HELLO, **{**where, "message": answered})["code"] == "bad_request"
        assert theirs.again("edit", SLOW, content="mine now", **where)["code"] == "not_found"
        mine.put(type="edit", key=str(uuid.uuid4()), model=SLOW, **where)
        assert mine.until(lambda frame: frame["type"] == "error")["code"] == "bad_frame"
    assert Message.objects.filter(conversation=sent["conversation"]).count() == 2


def test_an_answer_in_the_middle_is_given_again_by_another_model_and_the_old_branch_stays(
    stack: Stack, guest: Guest
) -> None:
    for model in (TINY, SLOW):
        stack.worker(model)
    with guest.socket() as socket:
        first, _ = socket.answer(HELLO, TINY)
        leaf = guest.conversation(first["conversation"])["messages"][-1]["id"]
        socket.answer(EMOJI, TINY, conversation=first["conversation"], parent=leaf)
        again = socket.again("regenerate", SLOW, conversation=first["conversation"], message=leaf)
        socket.read(again["generation"])
    messages = guest.conversation(first["conversation"])["messages"]
    assert [message["text"] for message in messages] == [HELLO, REPLIES[HELLO]]
    assert (messages[-1]["siblings"][0], messages[-1]["generation"]["model"]) == (leaf, SLOW)
    assert len(guest.show(first["conversation"], leaf)) == 4
