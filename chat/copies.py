"""A conversation made of messages that were written elsewhere: nothing is generated, counted or charged for them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from django.utils import timezone

from accounts.models import User
from chat.models import Conversation, Message
from chat.snapshots import SharedMessage
from inference.models import Generation


def copy(owner: User, *, title: str, model: str, messages: Sequence[SharedMessage]) -> Conversation:
    """A new conversation of the owner's with these messages in a row. Call it in a transaction. Five queries.

    An answer's text is its generation's, so each copied answer gets one that is over already: with no prompt, no tokens
    and no figures. It never passes the terminal UPDATE at which answers are counted.
    """
    now = timezone.now()
    conversation = Conversation.objects.create(owner=owner, title=title, model=model)
    rows: list[Message] = []
    generations: list[Generation] = []
    for message in messages:
        row = Message(
            conversation=conversation,
            parent=rows[-1] if rows else None,
            role=message.role,
            created_at=message.created_at,
        )
        if message.role == Message.Role.ASSISTANT:
            row.generation = Generation(
                owner=owner,
                door=Generation.Door.CHAT,
                model=message.model,
                prompt=[],
                sampling={},
                idempotency_key=uuid.uuid4(),
                request_hash=bytes(32),
                state=Generation.State.DONE,
                text=message.text,
                reasoning=message.reasoning,
                finished_at=now,
            )
            generations.append(row.generation)
        else:
            row.content = message.text
        rows.append(row)
    Generation.objects.bulk_create(generations)
    Message.objects.bulk_create(rows)
    conversation.leaf = rows[-1] if rows else None
    conversation.save(update_fields=["leaf"])
    return conversation
