"""Which branch of a conversation's tree is shown.

Invariant: from the first message of the visible branch, following `shown` leads to the conversation's `leaf`. A branch
that was left keeps its own marks, so that who comes back to it finds it as it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from chat.models import Conversation, Message
from inference.errors import NotFound


def show(conversation: Conversation, message_id: uuid.UUID) -> None:
    """Make the branch through a message the visible one, down to where it was last seen, or else its newest end.

    Call it with the conversation's row locked. Two queries, three where another branch was shown. Raises NotFound.
    """
    messages = conversation.messages.only("parent", "shown").order_by("created_at", "pk")
    rows = {row.pk: row for row in messages}
    if message_id not in rows:
        raise NotFound
    leaf = _end_below(rows, message_id)
    turned: list[Message] = []
    at = rows[leaf]
    while at.parent_id is not None:
        parent = rows[at.parent_id]
        if parent.shown_id != at.pk:
            parent.shown_id = at.pk
            turned.append(parent)
        at = parent
    Message.objects.bulk_update(turned, ["shown"])
    conversation.leaf_id = leaf
    conversation.save(update_fields=["leaf"])


def _end_below(rows: Mapping[uuid.UUID, Message], message_id: uuid.UUID) -> uuid.UUID:
    """`rows` are all messages, oldest first."""
    newest = {row.parent_id: row.pk for row in rows.values()}
    at: uuid.UUID = message_id
    while at in newest:
        at = rows[at].shown_id or newest[at]
    return at
