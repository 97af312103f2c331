"""The JSON resources of docs/protocol.md, made of rows; the pages and the addresses that answer JSON share them."""

from __future__ import annotations

import uuid
from datetime import datetime

import msgspec
from django.conf import settings

from accounts.models import User
from chat import conversations
from chat.frames import Failure, Usage, failure, usage
from chat.models import Conversation, Message
from inference.availability import Listed, catalog, listing
from inference.following import saved
from inference.models import Generation


class Summary(msgspec.Struct, frozen=True):
    id: uuid.UUID
    title: str
    updated_at: datetime
    answering: bool


class GenerationResource(msgspec.Struct, frozen=True):
    id: uuid.UUID
    state: str
    model: str
    model_name: str
    cursor: str | None
    finish_reason: str | None
    error: Failure | None
    usage: Usage | None
    ttft_ms: int | None
    tokens_per_s: float | None
    dropped_messages: int
    reasoning: str


class MessageResource(msgspec.Struct, frozen=True):
    id: uuid.UUID
    parent: uuid.UUID | None
    siblings: list[uuid.UUID]
    role: str
    text: str
    created_at: datetime
    generation: GenerationResource | None


class ConversationResource(msgspec.Struct, frozen=True):
    id: uuid.UUID
    title: str
    model: str
    updated_at: datetime
    messages: list[MessageResource]


class ModelResource(msgspec.Struct, frozen=True):
    slug: str
    name: str
    maker: str
    description: str
    licence: str
    context_length: int
    capabilities: tuple[str, ...]
    default: bool
    state: str
    loading: float | None
    slots: int
    running: int
    waiting: int


class ConversationList(msgspec.Struct, frozen=True):
    conversations: list[Summary]
    next: str | None


class Limits(msgspec.Struct, frozen=True):
    message_bytes: int


class PageData(msgspec.Struct, frozen=True):
    conversation: ConversationResource | None
    conversations: list[Summary]
    next: str | None
    models: list[ModelResource]
    limits: Limits


def page_data(owner: User | None, conversation_id: uuid.UUID | None) -> PageData:
    """All that a page shows. Raises NotFound."""
    listed = conversation_list(owner, "")
    return PageData(
        conversation=conversation(owner, conversation_id) if conversation_id else None,
        conversations=listed.conversations,
        next=listed.next,
        models=models(),
        limits=Limits(message_bytes=settings.MESSAGE_MAX_BYTES),
    )


def conversation(owner: User | None, conversation_id: uuid.UUID) -> ConversationResource:
    """Two queries; raises NotFound."""
    row = conversations.read(owner, conversation_id)
    messages = [_message(message) for message in row.branch()]
    return ConversationResource(row.pk, row.title, row.model, row.updated_at, messages)


def conversation_list(owner: User | None, before: str) -> ConversationList:
    rows, following = conversations.page(owner, before)
    return ConversationList([summary(row, answering=row.answering) for row in rows], following)


def summary(row: Conversation, *, answering: bool) -> Summary:
    return Summary(row.pk, row.title, row.updated_at, answering)


def models() -> list[ModelResource]:
    """The catalog with its live load."""
    return [_model(listed) for listed in listing()]


def _message(row: Message) -> MessageResource:
    generation = _generation(row.generation) if row.generation else None
    return MessageResource(row.pk, row.parent_id, row.siblings, row.role, row.text, row.created_at, generation)


def _generation(row: Generation) -> GenerationResource:
    return GenerationResource(
        id=row.pk,
        state=row.state,
        model=row.model,
        model_name=_model_name(row.model),
        cursor=str(saved(row)) if row.epoch else None,
        finish_reason=row.finish_reason or None,
        error=failure(row),
        usage=usage(row),
        ttft_ms=row.ttft_ms,
        tokens_per_s=row.tokens_per_s,
        dropped_messages=row.dropped_messages,
        reasoning=row.reasoning,
    )


def _model_name(slug: str) -> str:
    """The name the catalog gives; the slug for a model that has left it."""
    try:
        return catalog().get(slug).name
    except KeyError:
        return slug


def _model(listed: Listed) -> ModelResource:
    spec = listed.spec
    return ModelResource(
        slug=spec.slug,
        name=spec.name,
        maker=spec.maker,
        description=spec.description,
        licence=spec.licence,
        context_length=spec.context_length,
        capabilities=tuple(spec.capabilities),
        default=spec.default,
        state="ready" if listed.ready else "off" if listed.loading is None else "loading",
        loading=listed.loading,
        slots=listed.slots,
        running=listed.running,
        waiting=listed.waiting,
    )
