"""A reader's copy of a shared conversation."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from accounts.models import User
from chat import shares
from chat.models import Conversation, Share
from inference.errors import TooManyCopies
from inference.models import Generation
from tests.rows import talk


@pytest.fixture
def stranger(database: None) -> User:
    return User.objects.create(kind=User.Kind.GUEST)


def _shared(conversation: Conversation) -> Share:
    return shares.put(conversation.owner, conversation.pk, shares.Choice(), expires=None)


def test_a_copy_belongs_to_the_reader_and_survives_the_original(owner: User, stranger: User) -> None:
    conversation = talk(owner, "question", "answer", reasoning="private", title="Original")
    share = _shared(conversation)
    copied = shares.continue_from(stranger, share.token)
    conversation.delete()
    owner.delete()
    branch = Conversation.objects.owned_by(stranger).get(pk=copied.pk).branch()
    assert [(message.role, message.text) for message in branch] == [("user", "question"), ("assistant", "answer")]
    assert (copied.title, copied.model) == ("Original", "tiny")
    assert not Conversation.objects.filter(pk=conversation.pk).exists()


def test_a_copied_answer_is_over_and_counts_nothing(owner: User, stranger: User) -> None:
    share = _shared(talk(owner, "question", "answer", reasoning="private"))
    shares.continue_from(stranger, share.token)
    copied = Generation.objects.get(owner=stranger)
    assert copied.is_terminal
    assert (copied.reasoning, copied.prompt, copied.prompt_tokens, copied.completion_tokens) == ("", [], None, 0)


def test_copies_are_bounded(owner: User, stranger: User) -> None:
    share = _shared(talk(owner, "q", "a"))
    for _ in range(settings.SHARE_COPIES_PER_HOUR):
        shares.continue_from(stranger, share.token)
    with pytest.raises(TooManyCopies):
        shares.continue_from(stranger, share.token)
    Conversation.objects.filter(owner=stranger).update(created_at=timezone.now() - timedelta(hours=2))
    shares.continue_from(stranger, share.token)
