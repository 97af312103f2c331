"""What people do with shares: freeze, update, expire, revoke, limits, and a copy of one's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import User
from chat import shares, snapshots
from chat.findings import Kind
from chat.models import Conversation, Message, Share
from inference.errors import (
    NotFound,
    NothingToShare,
    ShareTooLarge,
    ShareUnfinished,
    TooManyShares,
)
from inference.models import Generation
from tests.rows import queued, talk

PLAIN = shares.Choice()


@pytest.fixture
def stranger(database: None) -> User:
    return User.objects.create(kind=User.Kind.GUEST)


def _put(conversation: Conversation, choice: shares.Choice = PLAIN, expires: timedelta | None = None) -> Share:
    return shares.put(conversation.owner, conversation.pk, choice, expires=expires)


def _texts(share: Share) -> list[str]:
    return [message.text for message in shares.read(share.token)[1]]


def _ask(conversation: Conversation, text: str) -> None:
    """One more message at the end of the visible branch."""
    last = Message.objects.create(conversation=conversation, parent=conversation.leaf, role="user", content=text)
    conversation.leaf = last
    conversation.save()


def test_a_share_holds_the_visible_branch_and_nothing_else(owner: User) -> None:
    conversation = talk(owner, "question", "shown answer", reasoning="thoughts")
    hidden = Generation.objects.get(text="shown answer", owner=owner)
    hidden.pk, hidden.idempotency_key, hidden.text = uuid.uuid4(), uuid.uuid4(), "another version"
    hidden.save(force_insert=True)
    question = conversation.messages.get(role="user")
    Message.objects.create(conversation=conversation, parent=question, role="assistant", generation=hidden)
    share = _put(conversation)
    assert _texts(share) == ["question", "shown answer"]
    stored = str(Share.objects.get(pk=share.pk).messages)
    for private in ("another version", "thoughts", str(owner.pk), str(conversation.pk), str(hidden.pk)):
        assert private not in stored
    assert shares.read(share.token)[1][1].model_name == "Tiny"


def test_the_token_is_32_random_bytes(owner: User) -> None:
    tokens = {_put(talk(owner, "a", "b")).token for _ in range(3)}
    assert len(tokens) == 3
    assert {len(token) for token in tokens} == {43}


def test_later_messages_stay_private_until_the_share_is_updated_at_the_same_address(owner: User) -> None:
    conversation = talk(owner, "first", "answer")
    share = _put(conversation, expires=timedelta(days=7))
    _ask(conversation, "later")
    assert _texts(share) == ["first", "answer"]
    updated = shares.update(owner, conversation.pk)
    assert (updated.token, updated.expires_at) == (share.token, share.expires_at)
    assert _texts(share) == ["first", "answer", "later"]


def test_an_answer_that_changes_afterwards_does_not_change_its_share(owner: User) -> None:
    conversation = talk(owner, "first", "as it was")
    share = _put(conversation)
    Generation.objects.filter(owner=owner).update(text="rewritten")
    Conversation.objects.filter(pk=conversation.pk).update(title="renamed")
    assert _texts(share) == ["first", "as it was"]
    assert shares.read(share.token)[0].title == "A talk"


def test_reasoning_is_shared_only_where_it_is_asked_for_and_an_update_keeps_the_choice(owner: User) -> None:
    conversation = talk(owner, "q", "a", reasoning="hm")
    share = _put(conversation)
    assert [message.reasoning for message in shares.read(share.token)[1]] == ["", ""]
    _put(conversation, shares.Choice(reasoning=True))
    shares.update(owner, conversation.pk)
    assert [message.reasoning for message in shares.read(share.token)[1]] == ["", "hm"]


def test_what_is_masked_is_nowhere_in_the_row_and_an_update_masks_it_again(owner: User) -> None:
    title = "write to ann@example.org"
    conversation = talk(owner, title, "I wrote to ann@example.org", title=title, reasoning="ann@example.org?")
    assert [(found.kind, found.count) for found in shares.check(owner, conversation.pk)] == [(Kind.EMAIL, 3)]
    share = _put(conversation, shares.Choice(reasoning=True, masked=[Kind.EMAIL]))
    _ask(conversation, "or to bob@example.org")
    share = shares.update(owner, conversation.pk)
    row = str(Share.objects.filter(pk=share.pk).values().get())
    assert "example.org" not in row
    assert row.count("[e-mail address removed]") == 6  # the answer's text and its HTML both hold it


def test_an_expired_share_is_there_for_nobody_and_is_deleted(owner: User) -> None:
    conversation = talk(owner, "q", "a")
    share = _put(conversation, expires=timedelta(days=1))
    assert abs(share.expires_at - timezone.now() - timedelta(days=1)) < timedelta(minutes=1)
    Share.objects.filter(pk=share.pk).update(expires_at=timezone.now())
    with pytest.raises(NotFound):
        shares.read(share.token)
    assert shares.of(owner, conversation.pk) is None
    assert shares.listed(owner) == []
    with pytest.raises(NotFound):
        shares.update(owner, conversation.pk)
    assert shares.forget_expired() >= 1
    assert not Share.objects.filter(pk=share.pk).exists()


def test_sharing_after_the_end_makes_another_address(owner: User) -> None:
    conversation = talk(owner, "q", "a")
    first = _put(conversation, expires=timedelta(days=1))
    Share.objects.filter(pk=first.pk).update(expires_at=timezone.now())
    assert _put(conversation).token != first.token


def test_a_revoked_share_leaves_no_row_and_revoking_twice_is_no_fault(owner: User) -> None:
    conversation = talk(owner, "q", "a")
    share = _put(conversation)
    shares.revoke(owner, conversation.pk)
    shares.revoke(owner, conversation.pk)
    assert not Share.objects.filter(token=share.token).exists()
    with pytest.raises(NotFound):
        shares.read(share.token)
    assert _put(conversation).token != share.token


def test_a_share_goes_with_its_conversation_and_with_its_owner(owner: User, stranger: User) -> None:
    first, second = talk(owner, "q", "a"), talk(stranger, "q", "a")
    tokens = [_put(first).token, _put(second).token]
    first.delete()
    stranger.delete()
    assert not Share.objects.filter(token__in=tokens).exists()


OPERATIONS: list[Callable[[User | None, uuid.UUID], object]] = [
    shares.of,
    shares.check,
    lambda owner, conversation: shares.put(owner, conversation, PLAIN, expires=None),
    shares.update,
    shares.revoke,
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_stranger_and_nobody_find_nothing_to_act_on(
    owner: User, stranger: User, operation: Callable[[User | None, uuid.UUID], object]
) -> None:
    conversation = talk(owner, "q", "a")
    share = _put(conversation)
    for person in (stranger, None):
        with pytest.raises(NotFound):
            operation(person, conversation.pk)
        assert shares.listed(person) == []
    assert _texts(share) == ["q", "a"]


def test_an_unfinished_answer_is_not_shared(owner: User) -> None:
    conversation = queued(owner).message.conversation
    with pytest.raises(ShareUnfinished):
        _put(conversation)


def test_an_empty_answer_is_left_out_and_an_empty_conversation_refused(owner: User) -> None:
    assert _texts(_put(talk(owner, "q", ""))) == ["q"]
    with pytest.raises(NothingToShare):
        _put(talk(owner))


def test_a_thousand_messages_are_shared_and_one_more_is_refused(owner: User) -> None:
    limit = settings.SHARE_MAX_MESSAGES
    assert len(_texts(_put(talk(owner, *["text"] * limit)))) == limit
    with pytest.raises(ShareTooLarge, match=r"1,001 messages"):
        _put(talk(owner, *["text"] * (limit + 1)))


def test_a_conversation_of_too_many_bytes_is_refused(owner: User) -> None:
    with pytest.raises(ShareTooLarge):
        _put(talk(owner, "q", "é" * (settings.SHARE_MAX_BYTES // 2)))


def test_a_text_that_takes_long_to_render_stays_plain(owner: User) -> None:
    share = _put(talk(owner, "q", "[" * (snapshots.PLAIN_ABOVE_CHARACTERS + 1)))
    assert shares.read(share.token)[1][1].html == ""


def test_one_share_too_many_is_refused_and_an_update_is_not(owner: User) -> None:
    last = talk(owner, "q", "a")
    rows = [Conversation(owner=owner, title="t", model="tiny") for _ in range(settings.SHARES_PER_OWNER - 1)]
    Conversation.objects.bulk_create(rows)
    Share.objects.bulk_create(Share(owner=owner, conversation=row, title="t", messages=[], rendering=1) for row in rows)
    share = _put(last)
    with pytest.raises(TooManyShares):
        _put(talk(owner, "q", "a"))
    assert shares.update(owner, last.pk).token == share.token
    shares.revoke(owner, rows[0].pk)
    _put(talk(owner, "q", "a"))


def _at_once(*actions: Callable[[], object]) -> list[object]:
    """What each gives back, or the error it raises, when all begin at the same moment on threads of their own."""
    start = Barrier(len(actions))

    def run(action: Callable[[], object]) -> object:
        start.wait()
        try:
            return action()
        except NotFound as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


@transaction.atomic
def _delete(conversation: uuid.UUID) -> None:
    Conversation.objects.select_for_update().get(pk=conversation).delete()


def test_two_tabs_that_share_at_once_get_the_same_address(owner: User) -> None:
    conversation = talk(owner, "q", "a")
    made = _at_once(*[lambda: _put(conversation).token] * 4)
    assert len(set(made)) == 1
    assert Share.objects.filter(conversation=conversation).count() == 1


def test_a_conversation_deleted_while_it_is_shared_leaves_no_share(owner: User) -> None:
    for _ in range(5):
        conversation = talk(owner, "q", "a")
        pk = conversation.pk
        put = partial(shares.put, owner, pk, PLAIN, expires=None)
        shared, _ = _at_once(put, partial(_delete, pk))
        assert isinstance(shared, Share | NotFound)
        assert not Share.objects.filter(conversation=pk).exists()


def test_an_older_renderers_html_is_made_again_once(owner: User) -> None:
    share = _put(talk(owner, "q", "*a*"))
    Share.objects.filter(pk=share.pk).update(
        rendering=0, messages=[{**message, "html": "old"} for message in share.messages]
    )
    assert "<em>a</em>" in shares.read(share.token)[1][1].html
    assert "<em>a</em>" in str(Share.objects.get(pk=share.pk).messages)


@pytest.mark.parametrize("token", ["", "x", "\0", "A" * 43, "../..", "é" * 43, "%00"])
def test_a_token_that_is_none_is_not_found(database: None, token: str) -> None:
    with pytest.raises(NotFound):
        shares.read(token)


def test_a_share_does_not_tell_its_token_where_it_is_named(owner: User) -> None:
    share = _put(talk(owner, "q", "a"))
    assert share.token not in f"{share} {share!r}"
