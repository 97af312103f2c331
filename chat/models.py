"""Conversations and their messages, a tree: a message answers its parent, and siblings are alternatives.

A person's message holds its text; an answer's text is its generation's, never copied here.
"""

from __future__ import annotations

import secrets
import uuid
from typing import cast

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from inference.models import Generation

TITLE_MAX = 80


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def owned_by(self, owner: User | None) -> ConversationQuerySet:
        """The one way in: nobody reads or writes a conversation but through this."""
        return self.filter(owner=owner) if owner else self.none()

    def with_answering(self) -> ConversationQuerySet:
        """Sets `answering`: whether one of its answers is being written or waits to be."""
        active = Generation.objects.active().filter(message__conversation=OuterRef("pk"))
        return cast(ConversationQuerySet, self.annotate(answering=Exists(active)))


class Conversation(models.Model):
    """`leaf` is the end of the branch that is shown."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=TITLE_MAX)
    model = models.CharField(max_length=80)
    leaf = models.ForeignKey("Message", on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    objects = ConversationQuerySet.as_manager()
    answering: bool

    class Meta:
        indexes = [models.Index(fields=["owner", "-updated_at", "-id"], name="conversation_newest")]

    def __str__(self) -> str:
        return str(self.id)

    def branch(self) -> list[Message]:
        """The visible messages, oldest first, each with its generation but for its prompt and token ids. One query.

        Sets `siblings` of each: the ids of the messages that answer the same one, its own among them, oldest first.
        """
        messages = self.messages.select_related("generation").defer("generation__prompt", "generation__token_ids")
        rows = {row.pk: row for row in messages.order_by("created_at", "pk")}
        siblings: dict[uuid.UUID | None, list[uuid.UUID]] = {}
        for row in rows.values():
            siblings.setdefault(row.parent_id, []).append(row.pk)
        branch: list[Message] = []
        at = self.leaf_id
        while at is not None:
            row = rows[at]
            row.siblings = siblings[row.parent_id]
            branch.append(row)
            at = row.parent_id
        return branch[::-1]


class Message(models.Model):
    """`shown` is the child that was last on the visible branch: who comes back to this message sees that one below."""

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, related_name="children")
    role = models.CharField(max_length=9, choices=Role)
    shown = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="+")
    content = models.TextField(blank=True)
    generation = models.OneToOneField(Generation, on_delete=models.CASCADE, null=True, related_name="message")
    created_at = models.DateTimeField(default=timezone.now)

    siblings: list[uuid.UUID]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="answers_have_a_generation",
                condition=models.Q(role="user", generation__isnull=True)
                | models.Q(role="assistant", generation__isnull=False, content=""),
            )
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.id}"

    @property
    def text(self) -> str:
        return self.generation.text if self.generation else self.content


class ShareQuerySet(models.QuerySet["Share"]):
    def owned_by(self, owner: User | None) -> ShareQuerySet:
        """The one way in for who shares; readers come by the token alone."""
        return self.filter(owner=owner) if owner else self.none()

    def living(self) -> ShareQuerySet:
        return self.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=Now()))

    def expired(self) -> ShareQuerySet:
        return self.filter(expires_at__lte=Now())


def new_token() -> str:
    return secrets.token_urlsafe(32)


class Share(models.Model):
    """A frozen copy of a conversation's visible branch, for whoever knows the token. Revoking deletes the row.

    The token is stored as it is, so that its owner can copy the address again: it opens nothing but what stands beside
    it in the same row, so a hash of it would protect nothing from who can read the table. `messages` are those of
    `chat.snapshots`; `rendering` is the version of the renderer that made their HTML. `masked` are kinds of
    `chat.findings`.
    """

    token = models.CharField(max_length=43, unique=True, default=new_token, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="shares")
    conversation = models.OneToOneField(Conversation, on_delete=models.CASCADE, related_name="share")
    title = models.CharField(max_length=TITLE_MAX)
    messages = models.JSONField()
    rendering = models.PositiveSmallIntegerField()
    with_reasoning = models.BooleanField(default=False)
    masked = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)

    objects = ShareQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["owner", "-updated_at"], name="share_newest"),
            models.Index(fields=["expires_at"], name="share_expiry", condition=Q(expires_at__isnull=False)),
        ]

    def __str__(self) -> str:
        # Never the token: it would open the page to whoever reads a log or the admin.
        return f"share of {self.conversation_id}"


def title_of(content: str) -> str:
    """A conversation's first title: the first line of its first message, cut at a word."""
    line = " ".join(content.strip().split("\n", 1)[0].split())
    if len(line) <= TITLE_MAX:
        return line
    cut = line[: TITLE_MAX - 1]
    # Languages without spaces are cut at the character.
    return (cut.rsplit(" ", 1)[0] if " " in cut[TITLE_MAX // 2 :] else cut) + "…"
