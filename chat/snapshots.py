"""What a share holds of a conversation: the visible branch's texts, and nothing else of it.

No ids, siblings, system prompts, options, owners or figures; reasoning only where it was asked for. Empty answers, of
those that were stopped before their first word, are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from time import thread_time

import msgspec
from django.conf import settings

from chat import findings, markdown
from chat.models import Message
from inference.availability import catalog
from inference.errors import NothingToShare, ShareTooLarge, ShareUnfinished

PLAIN_ABOVE_CHARACTERS = 64 * 1024
RENDER_BUDGET_S = 4.0


class SharedMessage(msgspec.Struct, frozen=True):
    """A message as it is stored in a share. `html` is an answer's text, rendered and sanitised; where it is
    empty the text is shown as it is.

    model is the slug, model_name what the catalog called it at that time; both are empty for a person's message.
    """

    role: str
    text: str
    created_at: datetime
    model: str = ""
    model_name: str = ""
    reasoning: str = ""
    html: str = ""


def take(branch: Sequence[Message], *, reasoning: bool, masked: Collection[findings.Kind]) -> list[SharedMessage]:
    """Freeze a branch. Raises NothingToShare, ShareUnfinished, ShareTooLarge."""
    if any(message.generation and not message.generation.is_terminal for message in branch):
        raise ShareUnfinished
    messages = [_taken(message, reasoning=reasoning) for message in branch]
    messages = [message for message in messages if message.text.strip() or message.reasoning.strip()]
    if not messages:
        raise NothingToShare
    size = sum(len(message.text.encode()) + len(message.reasoning.encode()) for message in messages)
    if len(messages) > settings.SHARE_MAX_MESSAGES or size > settings.SHARE_MAX_BYTES:
        limits = {"message_limit": settings.SHARE_MAX_MESSAGES, "size_limit": settings.SHARE_MAX_BYTES}
        raise ShareTooLarge(messages=len(messages), size=size, **limits)
    return _rendered([_masked(message, masked) for message in messages])


def rendered_again(messages: Sequence[SharedMessage]) -> list[SharedMessage]:
    """The same texts, with the HTML of the present renderer."""
    return _rendered(messages)


def stored(messages: Sequence[SharedMessage]) -> list[object]:
    """The form that a JSON column takes."""
    return [msgspec.to_builtins(message) for message in messages]


def read(column: object) -> list[SharedMessage]:
    return msgspec.convert(column, list[SharedMessage])


def _taken(message: Message, *, reasoning: bool) -> SharedMessage:
    generation = message.generation
    if generation is None:
        return SharedMessage(role=message.role, text=message.text, created_at=message.created_at)
    return SharedMessage(
        role=message.role,
        text=generation.text,
        created_at=message.created_at,
        model=generation.model,
        model_name=_model_name(generation.model),
        reasoning=generation.reasoning if reasoning else "",
    )


def _model_name(slug: str) -> str:
    try:
        return catalog().get(slug).name
    except KeyError:
        return slug


def _masked(message: SharedMessage, kinds: Collection[findings.Kind]) -> SharedMessage:
    if not kinds:
        return message
    texts = {name: findings.mask(getattr(message, name), kinds) for name in ("text", "reasoning")}
    return msgspec.structs.replace(message, **texts)


def _rendered(messages: Sequence[SharedMessage]) -> list[SharedMessage]:
    """With the HTML of each answer. Some texts take markdown-it quadratic time: one that is very long, and all that
    come when the time is spent, stay plain."""
    end_s = thread_time() + RENDER_BUDGET_S
    return [
        msgspec.structs.replace(message, html=markdown.render(message.text) if _renders(message, end_s) else "")
        for message in messages
    ]


def _renders(message: SharedMessage, end_s: float) -> bool:
    is_short = len(message.text) <= PLAIN_ABOVE_CHARACTERS
    return message.role == Message.Role.ASSISTANT and is_short and thread_time() < end_s
