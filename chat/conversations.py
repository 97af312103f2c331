"""What a person does with conversations: send, answer again, read. Each function is one synchronous operation.

Every door of the chat calls these with an owner; whatever is not the owner's raises NotFound.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from redis.exceptions import RedisError

from accounts.models import User
from chat import tree
from chat.frames import ConversationChanged, Regenerate, Send, SendOptions
from chat.models import Conversation, Message, title_of
from inference import generations, stream
from inference.catalog import ModelSpec
from inference.errors import AnswerInProgress, BadRequest, EmptyMessage, InvalidText, MessageTooLong, NotFound
from inference.models import Generation
from inference.types import Turn

log = logging.getLogger("chat")

PAGE = 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """What a send or a regenerate made, or had made when it was first asked."""

    conversation: uuid.UUID
    message: uuid.UUID
    generation: uuid.UUID


def send(owner: User, frame: Send, *, request_id: str) -> Sent:
    """Store a message and start its answer, in one transaction. Idempotent by the frame's key.

    `request_id` goes with the generation, so that the log lines of web and worker can be joined.

    Raises EmptyMessage, MessageTooLong, InvalidText, NotFound, AnswerInProgress, IdempotencyConflict, and what
    `generations.admit` raises.
    """
    _check_text(frame.content)
    _check_options(frame.options)
    if not frame.content.strip():
        raise EmptyMessage
    with transaction.atomic():
        if repeated := _repeated(owner, frame):
            return repeated
        spec = generations.admit(owner, frame.model)
        if frame.conversation is None:
            if frame.parent is not None:
                raise BadRequest(detail="a new conversation has no parent message")
            title = title_of(frame.content)
            conversation = Conversation.objects.create(owner=owner, title=title, model=frame.model)
        else:
            conversation = _locked(owner, frame.conversation)
        parent = _message(conversation, frame.parent) if frame.parent else None
        if parent and parent.generation and not parent.generation.is_terminal:
            raise AnswerInProgress
        question = Message.objects.create(
            conversation=conversation, parent=parent, role=Message.Role.USER, content=frame.content
        )
        return _answer(owner, frame, spec, conversation, question, request_id=request_id)


def regenerate(owner: User, frame: Regenerate, *, request_id: str) -> Sent:
    """Start another answer beside an assistant message. Idempotent; raises as `send` does."""
    _check_options(frame.options)
    with transaction.atomic():
        if repeated := _repeated(owner, frame):
            return repeated
        spec = generations.admit(owner, frame.model)
        conversation = _locked(owner, frame.conversation)
        answer = _message(conversation, frame.message)
        if answer.generation is None or answer.parent is None:
            raise BadRequest(detail="only an answer can be generated again")
        if not answer.generation.is_terminal:
            raise AnswerInProgress
        return _answer(owner, frame, spec, conversation, answer.parent, request_id=request_id)


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
        conversation = _locked(owner, conversation_id)
        tree.show(conversation, message_id)
        transaction.on_commit(lambda: _tell(conversation))


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


def generation_of(owner: User | None, generation_id: uuid.UUID) -> Generation:
    """A generation of the owner's. One query; raises NotFound."""
    return _existing(Generation.objects.filter(owner=owner, pk=generation_id).first() if owner else None)


def _repeated(owner: User, frame: Send | Regenerate) -> Sent | None:
    """The first result of this key. Locks the owner's row, so that two sends of one person follow each other."""
    User.objects.select_for_update(no_key=True).get(pk=owner.pk)
    found = generations.find(owner, frame.key, _fingerprint(frame))
    if found is None:
        return None
    answer = Message.objects.select_related("parent").get(generation=found)
    assert answer.parent is not None  # noqa: S101 - an answer answers something
    return Sent(answer.conversation_id, answer.parent.pk, found.pk)


def _answer(
    owner: User,
    frame: Send | Regenerate,
    spec: ModelSpec,
    conversation: Conversation,
    question: Message,
    *,
    request_id: str,
) -> Sent:
    generation = generations.start(
        generations.Request(
            owner=owner,
            door=Generation.Door.CHAT,
            model=spec,
            turns=_turns(conversation, question, frame.options.system),
            options=_options(frame.options),
            key=frame.key,
            fingerprint=_fingerprint(frame),
            request_id=request_id,
        )
    )
    answer = Message.objects.create(
        conversation=conversation, parent=question, role=Message.Role.ASSISTANT, generation=generation
    )
    tree.show(conversation, answer.pk)
    conversation.model, conversation.updated_at = frame.model, timezone.now()
    conversation.save(update_fields=["model", "updated_at"])
    return Sent(conversation.pk, question.pk, generation.pk)


def _turns(conversation: Conversation, question: Message, system: str) -> Sequence[Turn]:
    """The prompt: the branch down to the question. An answer that came to nothing leaves two questions in a row, which
    become one turn: many chat templates insist that user and assistant alternate."""
    conversation.leaf = question
    turns = [Turn("system", system)] if system.strip() else []
    for message in conversation.branch():
        if turns and turns[-1].role == message.role:
            turns[-1] = Turn(message.role, f"{turns[-1].content}\n\n{message.text}")
        elif message.text.strip():
            turns.append(Turn(message.role, message.text))
    return turns


def _tell(conversation: Conversation) -> None:
    try:
        stream.tell_owner_of(conversation.owner_id, conversation.pk)
    except RedisError:
        # Other tabs learn it when they next read the conversation.
        log.warning("a change reached PostgreSQL only", extra={"conversation": conversation.pk})


def _options(options: SendOptions) -> generations.Options:
    fields = {name: value for name, value in msgspec.structs.asdict(options).items() if name != "system"}
    return generations.Options(**fields)


def _fingerprint(frame: Send | Regenerate) -> bytes:
    return generations.fingerprint(msgspec.to_builtins(frame))


def _existing(row: T | None) -> T:
    if row is None:
        raise NotFound
    return row


def _locked(owner: User | None, conversation_id: uuid.UUID) -> Conversation:
    return _existing(
        Conversation.objects.owned_by(owner).select_for_update(no_key=True).filter(pk=conversation_id).first()
    )


def _message(conversation: Conversation, message_id: uuid.UUID) -> Message:
    return _existing(conversation.messages.select_related("generation", "parent").filter(pk=message_id).first())


def _check_options(options: SendOptions) -> None:
    for text in (options.system, *options.stop):
        _check_text(text)


def _check_text(text: str) -> None:
    """Bounds for a person's text; PostgreSQL takes neither NUL nor halves of a surrogate pair."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidText from None
    if size > settings.MESSAGE_MAX_BYTES:
        raise MessageTooLong(size=size, limit=settings.MESSAGE_MAX_BYTES)
    if "\0" in text:
        raise InvalidText


def _cursor(text: str) -> tuple[datetime, uuid.UUID]:
    moment, _, identifier = text.partition("_")
    try:
        return datetime.fromisoformat(moment), uuid.UUID(identifier)
    except ValueError:
        raise BadRequest(detail="that is not a place in the list") from None
