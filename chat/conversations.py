"""A person's conversations: read them, list them, choose what is shown. Each function is one synchronous operation.

Every door of the chat calls these with an owner; whatever is not the owner's raises NotFound.
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime
from typing import TypeVar

from django.db import transaction
from django.db.models import Q
from redis.exceptions import RedisError

from accounts.models import User
from chat import tree
from chat.frames import ConversationChanged
from chat.models import Conversation, Message
from inference import stream
from inference.errors import BadRequest, NotFound
from inference.models import Generation

log = logging.getLogger("chat")

PAGE = 50

T = TypeVar("T")


def read(owner: User | None, conversation_id: uuid.UUID) -> Conversation:
    """A conversation of the owner's. One query; raises NotFound."""
    return _existing(Conversation.objects.owned_by(owner).filter(pk=conversation_id).first())


def page(owner: User | None, before: str = "") -> tuple[list[Conversation], str | None]:
    """Up to PAGE conversations, newest first, from behind the cursor `before`, and the next cursor. One query.

    Each has `answering` set. Raises BadRequest for a cursor that is none.
    """
    rows = Conversation.objects.owned_by(owner).with_answering()
    if before:
        moment, identifier = _cursor(before)
        rows = rows.filter(Q(updated_at__lt=moment) | Q(updated_at=moment, pk__lt=identifier))
    found = list(rows.order_by("-updated_at", "-pk")[: PAGE + 1])
    last = found[PAGE - 1] if len(found) > PAGE else None
    return found[:PAGE], f"{last.updated_at.isoformat()}_{last.pk}" if last else None


def show(owner: User | None, conversation_id: uuid.UUID, message_id: uuid.UUID) -> None:
    """Make the branch through a message the visible one, and tell the owner's other tabs. Raises NotFound."""
    with transaction.atomic():
        conversation = locked(owner, conversation_id)
        tree.show(conversation, message_id)
        transaction.on_commit(lambda: tell(conversation))


def change(
    owner: User, *, generation_id: uuid.UUID | None = None, conversation_id: uuid.UUID | None = None
) -> ConversationChanged | None:
    """What to tell the owner's tabs when a generation has begun or ended, or a conversation was changed otherwise.

    None where there is no such conversation. One query.
    """
    about = Q(messages__generation=generation_id) if generation_id else Q(pk=conversation_id)
    row = Conversation.objects.owned_by(owner).with_answering().filter(about).first()
    if row is None:
        return None
    return ConversationChanged(
        conversation=row.pk,
        title=row.title,
        answering=row.answering,
        updated_at=row.updated_at,
        generation=generation_id,
    )


def tell(conversation: Conversation) -> None:
    """Say to the owner's tabs that a conversation has begun or was changed."""
    try:
        stream.tell_owner_of(conversation.owner_id, conversation.pk)
    except RedisError:
        # Other tabs learn it when they next read the conversation.
        log.warning("a change reached PostgreSQL only", extra={"conversation": conversation.pk})


def generation_of(owner: User | None, generation_id: uuid.UUID) -> Generation:
    """A generation of the owner's. One query; raises NotFound."""
    return _existing(Generation.objects.filter(owner=owner, pk=generation_id).first() if owner else None)


def locked(owner: User | None, conversation_id: uuid.UUID) -> Conversation:
    """A conversation of the owner's, locked until the transaction ends: its tree changes in one place at a time.

    Raises NotFound.
    """
    return _existing(
        Conversation.objects.owned_by(owner).select_for_update(no_key=True).filter(pk=conversation_id).first()
    )


def message_of(conversation: Conversation, message_id: uuid.UUID) -> Message:
    """A message with its generation and its parent. One query; raises NotFound."""
    return _existing(conversation.messages.select_related("generation", "parent").filter(pk=message_id).first())


def _existing(row: T | None) -> T:
    if row is None:
        raise NotFound
    return row


def _cursor(text: str) -> tuple[datetime, uuid.UUID]:
    moment, _, identifier = text.partition("_")
    try:
        return datetime.fromisoformat(moment), uuid.UUID(identifier)
    except ValueError:
        raise BadRequest(detail="that is not a place in the list") from None
