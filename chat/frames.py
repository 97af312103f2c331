"""Every frame of the WebSocket, typed (docs/protocol.md). Decoding validates; nothing behind it checks types again."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

import msgspec

from inference.errors import BadFrame, DomainError, FrameTooLarge, sentence
from inference.following import Ended, Followed, Queued, Snapshot, Started, Text
from inference.models import Generation
from inference.stream import EventId

FRAME_MAX_BYTES = 64 * 1024

Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Slug = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
EventIdText = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}-[0-9]{1,18}\Z")]


class SendOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=32768)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[tuple[Stop, ...], msgspec.Meta(max_length=4)] = ()
    system: Annotated[str, msgspec.Meta(max_length=8192)] = ""


class _Frame(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """A frame from a client. `asks` tells which question its refusal answers."""

    @property
    def asks(self) -> dict[str, uuid.UUID]:
        generation = getattr(self, "generation", None)
        return {"generation": generation} if generation else {}


class _Asking(_Frame, frozen=True):
    key: uuid.UUID

    @property
    def asks(self) -> dict[str, uuid.UUID]:
        return {"key": self.key}


class Send(_Asking, frozen=True, tag="send"):
    model: Slug
    content: str
    conversation: uuid.UUID | None = None
    parent: uuid.UUID | None = None
    options: SendOptions = SendOptions()


class Edit(_Asking, frozen=True, tag="edit"):
    conversation: uuid.UUID
    message: uuid.UUID
    model: Slug
    content: str
    options: SendOptions = SendOptions()


class Regenerate(_Asking, frozen=True, tag="regenerate"):
    conversation: uuid.UUID
    message: uuid.UUID
    model: Slug
    options: SendOptions = SendOptions()


class ContinueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None: an answer goes on as it was begun."""


class Continue(_Asking, frozen=True, tag="continue"):
    conversation: uuid.UUID
    message: uuid.UUID
    model: Slug
    options: ContinueOptions = ContinueOptions()


class Follow(_Frame, frozen=True, tag="follow"):
    generation: uuid.UUID
    after: EventIdText | None = None


class StopFrame(_Frame, frozen=True, tag="stop"):
    generation: uuid.UUID
    seen: EventIdText | None = None


class Move(_Frame, frozen=True, tag="move"):
    generation: uuid.UUID
    model: Slug


class Ack(_Frame, frozen=True, tag="ack"):
    generation: uuid.UUID
    id: EventIdText


Asking = Send | Edit | Regenerate | Continue
ClientFrame = Asking | Follow | StopFrame | Move | Ack
_decoder = msgspec.json.Decoder(ClientFrame)
_encoder = msgspec.json.Encoder()


def decode(data: str | bytes) -> ClientFrame:
    """A client's frame. Raises FrameTooLarge and BadFrame, whose sentence names the field at fault."""
    size = len(data.encode(errors="surrogatepass")) if isinstance(data, str) else len(data)
    if size > FRAME_MAX_BYTES:
        raise FrameTooLarge(size=size, limit=FRAME_MAX_BYTES)
    try:
        frame: ClientFrame = _decoder.decode(data)
        return frame
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # msgspec's words name the field and the expected type, and quote no content.
        raise BadFrame(detail=str(error).rstrip(".")) from None


def encode(frame: msgspec.Struct) -> str:
    return _encoder.encode(frame).decode()


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int


class Failure(msgspec.Struct, frozen=True):
    code: str
    message: str


class Accepted(msgspec.Struct, frozen=True, tag_field="type", tag="accepted"):
    key: uuid.UUID
    conversation: uuid.UUID
    message: uuid.UUID
    generation: uuid.UUID


class QueuedFrame(msgspec.Struct, frozen=True, tag_field="type", tag="queued"):
    generation: uuid.UUID
    position: int
    eta_s: float | None = None


class StartedFrame(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    generation: uuid.UUID
    id: str
    prompt_tokens: int
    dropped_messages: int


class Delta(msgspec.Struct, frozen=True, tag_field="type", tag="delta"):
    generation: uuid.UUID
    id: str
    text: str
    channel: str


class Replace(msgspec.Struct, frozen=True, tag_field="type", tag="replace"):
    generation: uuid.UUID
    id: str
    text: str
    reasoning: str


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    generation: uuid.UUID
    id: str
    state: str
    finish_reason: str | None
    usage: Usage | None
    ttft_ms: int | None
    tokens_per_s: float | None
    error: Failure | None
    dropped_messages: int


class ConversationChanged(msgspec.Struct, frozen=True, tag_field="type", tag="conversation"):
    conversation: uuid.UUID
    title: str
    answering: bool
    updated_at: datetime
    generation: uuid.UUID | None


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="type", tag="error", omit_defaults=True):
    code: str
    message: str
    key: uuid.UUID | None = None
    generation: uuid.UUID | None = None


def refusal(error: DomainError, asks: dict[str, uuid.UUID]) -> ErrorFrame:
    return ErrorFrame(code=error.code, message=error.message, **asks)


def outgoing(generation: uuid.UUID, item: Followed) -> msgspec.Struct:
    """The frame that says to a client what `follow` has yielded."""
    match item:
        case Text(id=at, text=text, channel=channel):
            return Delta(generation=generation, id=str(at), text=text, channel=channel)
        case Started(id=at, prompt_tokens=tokens, dropped_messages=dropped):
            return StartedFrame(generation=generation, id=str(at), prompt_tokens=tokens, dropped_messages=dropped)
        case Snapshot(id=at, text=text, reasoning=reasoning):
            return Replace(generation=generation, id=str(at), text=text, reasoning=reasoning)
        case Queued(position=position, eta_s=eta_s):
            return QueuedFrame(
                generation=generation, position=position, eta_s=None if eta_s is None else round(eta_s, 1)
            )
        case Ended(generation=row):
            return _done(row)


def usage(row: Generation) -> Usage | None:
    if row.prompt_tokens is None:
        return None
    return Usage(prompt_tokens=row.prompt_tokens, completion_tokens=row.completion_tokens)


def failure(row: Generation) -> Failure | None:
    return Failure(code=row.error_code, message=sentence(row.error_code)) if row.error_code else None


def _done(row: Generation) -> Done:
    return Done(
        generation=row.pk,
        id=str(EventId(row.epoch, row.last_seq)),
        state=row.state,
        finish_reason=row.finish_reason or None,
        usage=usage(row),
        ttft_ms=row.ttft_ms,
        tokens_per_s=row.tokens_per_s,
        error=failure(row),
        dropped_messages=row.dropped_messages,
    )
