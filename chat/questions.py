"""What a person asks: a question, the same in other words, another answer. Each function is one synchronous operation.

Each is idempotent by its frame's key, stores all or nothing in one transaction, and shows what it has made. Whatever is
not the owner's raises NotFound.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import User
from chat import tree
from chat.conversations import locked, message_of
from chat.frames import Asking, Continue, Edit, Regenerate, Send, SendOptions
from chat.models import Conversation, Message, title_of
from inference import generations
from inference.catalog import ModelSpec
from inference.errors import AnswerInProgress, BadRequest, EmptyMessage, InvalidText, MessageTooLong, NotFound
from inference.models import Generation
from inference.types import Turn


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request made, or had made when it was first asked."""

    conversation: uuid.UUID
    message: uuid.UUID
    generation: uuid.UUID


def send(owner: User, frame: Send, *, request_id: str) -> Sent:
    """Store a question and start its answer.

    `request_id` goes with the generation, so that the log lines of web and worker can be joined.

    Raises EmptyMessage, MessageTooLong, InvalidText, NotFound, AnswerInProgress, IdempotencyConflict, and what
    `generations.admit` raises.
    """
    _check_question(frame)
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
            conversation = locked(owner, frame.conversation)
        parent = message_of(conversation, frame.parent) if frame.parent else None
        if parent and parent.generation and not parent.generation.is_terminal:
            raise AnswerInProgress
        question = Message.objects.create(
            conversation=conversation, parent=parent, role=Message.Role.USER, content=frame.content
        )
        return _answer(owner, frame, spec, conversation, question, request_id=request_id)


def edit(owner: User, frame: Edit, *, request_id: str) -> Sent:
    """Ask in other words: a question beside the one of before, and its answer. Raises as `send` does."""
    _check_question(frame)
    with transaction.atomic():
        if repeated := _repeated(owner, frame):
            return repeated
        spec = generations.admit(owner, frame.model)
        conversation = locked(owner, frame.conversation)
        asked = message_of(conversation, frame.message)
        if asked.role != Message.Role.USER:
            raise BadRequest(detail="only a question can be edited")
        if asked.children.filter(generation__state__in=Generation.ACTIVE).exists():
            raise AnswerInProgress
        question = Message.objects.create(
            conversation=conversation, parent=asked.parent, role=Message.Role.USER, content=frame.content
        )
        return _answer(owner, frame, spec, conversation, question, request_id=request_id)


def regenerate(owner: User, frame: Regenerate, *, request_id: str) -> Sent:
    """Start another answer beside an assistant message. Raises as `send` does."""
    _check_options(frame.options)
    with transaction.atomic():
        if repeated := _repeated(owner, frame):
            return repeated
        spec = generations.admit(owner, frame.model)
        conversation = locked(owner, frame.conversation)
        answer = message_of(conversation, frame.message)
        if answer.generation is None or answer.parent is None:
            raise BadRequest(detail="only an answer can be generated again")
        if not answer.generation.is_terminal:
            raise AnswerInProgress
        return _answer(owner, frame, spec, conversation, answer.parent, request_id=request_id)


def go_on(owner: User, frame: Continue, *, request_id: str) -> Sent:
    """Let an answer that was cut off go on in its own message. Raises CannotContinue, and as `send` does."""
    with transaction.atomic():
        if repeated := _repeated(owner, frame):
            return repeated
        spec = generations.admit(owner, frame.model)
        conversation = locked(owner, frame.conversation)
        answer = message_of(conversation, frame.message)
        earlier = answer.generation
        if earlier is None or answer.parent is None:
            raise BadRequest(detail="only an answer can go on")
        if earlier.model != frame.model:
            raise BadRequest(detail="an answer goes on with the model that began it")
        if not earlier.is_terminal:
            raise AnswerInProgress
        answer.generation = generations.go_on(
            earlier, model=spec, key=frame.key, fingerprint=_fingerprint(frame), request_id=request_id
        )
        answer.save(update_fields=["generation"])
        _show(conversation, answer, frame.model)
        return Sent(conversation.pk, answer.parent.pk, answer.generation.pk)


def _repeated(owner: User, frame: Asking) -> Sent | None:
    """The first result of this key. Locks the owner's row, so that two sends of one person follow each other."""
    User.objects.select_for_update(no_key=True).get(pk=owner.pk)
    found = generations.find(owner, frame.key, _fingerprint(frame))
    if found is None:
        return None
    answer = _answer_with(found)
    assert answer.parent_id is not None  # noqa: S101 - an answer answers something
    return Sent(answer.conversation_id, answer.parent_id, found.pk)


def _answer_with(generation: Generation) -> Message:
    """The message of a generation, or of the one that goes on with it. Raises NotFound where it was deleted."""
    at: Generation | None = generation
    while at is not None:
        if answer := Message.objects.filter(generation=at).first():
            return answer
        at = Generation.objects.filter(continues=at).first()
    raise NotFound


def _answer(
    owner: User,
    frame: Send | Edit | Regenerate,
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
    _show(conversation, answer, frame.model)
    return Sent(conversation.pk, question.pk, generation.pk)


def _show(conversation: Conversation, answer: Message, model: str) -> None:
    tree.show(conversation, answer.pk)
    conversation.model, conversation.updated_at = model, timezone.now()
    conversation.save(update_fields=["model", "updated_at"])


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


def _options(options: SendOptions) -> generations.Options:
    fields = {name: value for name, value in msgspec.structs.asdict(options).items() if name != "system"}
    return generations.Options(**fields)


def _fingerprint(frame: Asking) -> bytes:
    return generations.fingerprint(msgspec.to_builtins(frame))


def _check_question(frame: Send | Edit) -> None:
    _check_text(frame.content)
    _check_options(frame.options)
    if not frame.content.strip():
        raise EmptyMessage


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
