"""A conversation that begins as a copy of another's branch; what becomes of the one does not touch the other."""

from __future__ import annotations

import uuid
from itertools import pairwise

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from chat import conversations
from chat.models import Conversation, Message, title_of
from inference import generations
from inference.errors import AnswerInProgress
from inference.models import Generation


def fork(owner: User | None, conversation_id: uuid.UUID, message_id: uuid.UUID) -> Conversation:
    """Copy the branch down to a message into a conversation of its own, and tell the owner's tabs.

    Raises NotFound, and AnswerInProgress where that answer is still being written.
    """
    with transaction.atomic():
        original = conversations.locked(owner, conversation_id)
        original.leaf = conversations.message_of(original, message_id)
        branch = original.branch()
        if any(message.generation and not message.generation.is_terminal for message in branch):
            raise AnswerInProgress
        title = title_of(branch[0].text)
        copy = Conversation.objects.create(owner_id=original.owner_id, title=title, model=original.model)
        messages = _copies(branch, copy)
        Generation.objects.bulk_create(message.generation for message in messages if message.generation)
        Message.objects.bulk_create(messages)
        copy.leaf, copy.updated_at = messages[-1], timezone.now()
        copy.save(update_fields=["leaf", "updated_at"])
        transaction.on_commit(lambda: conversations.tell(copy))
    return copy


def _copies(branch: list[Message], conversation: Conversation) -> list[Message]:
    """Unsaved, each with a copy of its generation; they point to each other, which is checked at the commit alone."""
    copies: list[Message] = []
    for message in branch:
        copies.append(
            Message(
                conversation=conversation,
                parent=copies[-1] if copies else None,
                role=message.role,
                content=message.content,
                generation=generations.copy(message.generation) if message.generation else None,
                created_at=message.created_at,
            )
        )
    for message, below in pairwise(copies):
        message.shown = below
    return copies
