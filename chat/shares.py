"""What people do with shares. Each function is one synchronous operation.

The owner's operations name a conversation, which has one share at most; whatever is not the owner's raises NotFound.
Readers name a token. A share that has expired is not there for anybody, also before it is deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import User
from chat import conversations, copies, findings, markdown, snapshots
from chat.models import Conversation, Share
from chat.snapshots import SharedMessage
from inference.errors import NotFound, TooManyCopies, TooManyShares


@dataclass(frozen=True, slots=True)
class Choice:
    """How to share: with the models' reasoning or without, and which kinds of findings to mask."""

    reasoning: bool = False
    masked: Collection[findings.Kind] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """How often a kind of finding stands in a conversation, and the first of them."""

    kind: findings.Kind
    count: int
    example: str


def of(owner: User | None, conversation_id: uuid.UUID) -> Share | None:
    """The share of a conversation, None where there is none. Two queries; raises NotFound."""
    conversation = conversations.read(owner, conversation_id)
    return Share.objects.living().filter(conversation=conversation).defer("messages").first()


def listed(owner: User | None) -> list[Share]:
    """The owner's shares, the one changed last first, without their messages. One query."""
    return list(Share.objects.owned_by(owner).living().defer("messages").order_by("-updated_at"))


def check(owner: User | None, conversation_id: uuid.UUID) -> list[Found]:
    """What stands in the visible branch that its owner may not want to publish. Two queries; raises NotFound.

    Reasoning counts too: it may be asked for.
    """
    branch = conversations.read(owner, conversation_id).branch()
    texts = [text for row in branch for text in (row.text, row.generation.reasoning if row.generation else "")]
    every = [(found.kind, text[found.start : found.end]) for text in texts for found in findings.find(text)]
    return [
        Found(kind, len(examples), examples[0])
        for kind in findings.Kind
        if (examples := [example for found, example in every if found is kind])
    ]


def put(owner: User | None, conversation_id: uuid.UUID, choice: Choice, *, expires: timedelta | None) -> Share:
    """Share the visible branch as it is now; a conversation that is shared keeps its address. Idempotent.

    `expires` counts from now; None is never. Raises NotFound, TooManyShares and what `snapshots.take` raises.
    """
    return _write(owner, conversation_id, choice, {"expires_at": timezone.now() + expires if expires else None})


def update(owner: User | None, conversation_id: uuid.UUID) -> Share:
    """Bring a share up to date, with the choices made before. Raises as `put` does."""
    share = of(owner, conversation_id)
    if share is None:
        raise NotFound
    kinds = [findings.Kind(kind) for kind in share.masked]
    return _write(owner, conversation_id, Choice(share.with_reasoning, kinds), {})


def revoke(owner: User | None, conversation_id: uuid.UUID) -> None:
    """Delete a share, so that its page and card are gone at once. Idempotent. Two queries; raises NotFound."""
    conversations.read(owner, conversation_id)
    Share.objects.owned_by(owner).filter(conversation=conversation_id).delete()


def read(token: str) -> tuple[Share, list[SharedMessage]]:
    """A share and its messages. One query; after a change of the renderer, once, another. Raises NotFound."""
    share = _living(token)
    messages = snapshots.read(share.messages)
    if share.rendering != markdown.RENDERING:
        messages = snapshots.rendered_again(messages)
        # Only where it was not updated meanwhile: the older text must not come back.
        Share.objects.filter(pk=share.pk, updated_at=share.updated_at).update(
            messages=snapshots.stored(messages), rendering=markdown.RENDERING
        )
    return share, messages


def continue_from(owner: User, token: str) -> Conversation:
    """A conversation of the owner's with the share's messages, which outlives the share.

    Raises NotFound, TooManyCopies.
    """
    share = _living(token)
    messages = snapshots.read(share.messages)
    model = next((message.model for message in reversed(messages) if message.model), "")
    with transaction.atomic():
        _lock(owner.pk)
        since = timezone.now() - timedelta(hours=1)
        if Conversation.objects.owned_by(owner).filter(created_at__gt=since).count() >= settings.SHARE_COPIES_PER_HOUR:
            raise TooManyCopies(limit=settings.SHARE_COPIES_PER_HOUR)
        return copies.copy(owner, title=share.title, model=model, messages=messages)


def forget_expired() -> int:
    """Delete the shares that have expired. Returns how many there were."""
    return Share.objects.expired().delete()[0]


def _lock(owner_id: uuid.UUID) -> None:
    if not User.objects.select_for_update(no_key=True).filter(pk=owner_id):
        raise NotFound


def _living(token: str) -> Share:
    # PostgreSQL refuses a NUL; no token holds one.
    share = None if "\0" in token else Share.objects.living().filter(token=token).first()
    if share is None:
        raise NotFound
    return share


def _write(owner: User | None, conversation_id: uuid.UUID, choice: Choice, fields: dict[str, object]) -> Share:
    conversation = conversations.read(owner, conversation_id)
    # Rendering may take a second: outside of the transaction, which would hold up the owner's sends.
    messages = snapshots.take(conversation.branch(), reasoning=choice.reasoning, masked=choice.masked)
    title = findings.mask(conversation.title, choice.masked)[: Share._meta.get_field("title").max_length]
    fields |= {
        "title": title,
        "messages": snapshots.stored(messages),
        "rendering": markdown.RENDERING,
        "with_reasoning": choice.reasoning,
        "masked": sorted(choice.masked),
        "updated_at": timezone.now(),
    }
    with transaction.atomic():
        # The owner's row makes the limit exact; who deletes a conversation locks it first, as this does.
        _lock(conversation.owner_id)
        if not Conversation.objects.owned_by(owner).select_for_update(no_key=True).filter(pk=conversation_id):
            raise NotFound
        Share.objects.owned_by(owner).expired().delete()
        share = Share.objects.filter(conversation=conversation).first()
        if share is None:
            if Share.objects.owned_by(owner).count() >= settings.SHARES_PER_OWNER:
                raise TooManyShares(limit=settings.SHARES_PER_OWNER)
            share = Share(owner=conversation.owner, conversation=conversation)
        for name, value in fields.items():
            setattr(share, name, value)
        share.save()
        return share
