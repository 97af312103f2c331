"""The chat's pages, its JSON resources, and the Server-Sent Events of one generation."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeVar

import msgspec
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from accounts import guests
from accounts.models import User
from chat import conversations, frames, presence, resources
from chat.forks import fork
from inference.errors import BadRequest, DomainError, NotFound
from inference.following import follow
from inference.stream import EventId
from inference.threads import on_thread

T = TypeVar("T")


class ConversationPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shown` is a message whose branch is to be the visible one."""

    shown: uuid.UUID


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: uuid.UUID


@never_cache
@require_safe
def new_chat(request: HttpRequest) -> HttpResponse:
    """The empty page; it makes the session that the socket needs, and no user yet."""
    if not request.session.session_key:
        request.session.create()
    return _page(request, None)


@never_cache
@require_safe
def conversation_page(request: HttpRequest, conversation: uuid.UUID) -> HttpResponse:
    return _page(request, conversation)


@never_cache
@require_safe
def conversation_list(request: HttpRequest) -> HttpResponse:
    try:
        return json_response(resources.conversation_list(owner_of(request), request.GET.get("before", "")))
    except DomainError as error:
        return error_response(error)


@never_cache
@require_http_methods(["GET", "HEAD", "PATCH"])
def conversation(request: HttpRequest, conversation: uuid.UUID) -> HttpResponse:
    owner = owner_of(request)
    try:
        if request.method == "PATCH":
            conversations.show(owner, conversation, _body(request, ConversationPatch).shown)
        return json_response(resources.conversation(owner, conversation))
    except DomainError as error:
        return error_response(error)


@never_cache
@require_POST
def forks(request: HttpRequest, conversation: uuid.UUID) -> HttpResponse:
    """A new conversation, which begins with the branch down to a message of this one."""
    try:
        copy = fork(owner_of(request), conversation, _body(request, Fork).message)
    except DomainError as error:
        return error_response(error)
    return json_response(resources.summary(copy, answering=False), 201)


@never_cache
@require_safe
def models(request: HttpRequest) -> HttpResponse:
    return json_response({"models": resources.models()})


@never_cache
@require_GET
async def events(request: HttpRequest, generation: uuid.UUID) -> HttpResponse | StreamingHttpResponse:
    """The frames of the socket for one generation, as Server-Sent Events (WHATWG HTML, section 9.2)."""
    try:
        await on_thread(lambda: conversations.generation_of(owner_of(request), generation))
        presence.check(request.session.session_key or "")
        after = _event_id(request.headers.get("Last-Event-ID") or request.GET.get("after", ""))
    except DomainError as error:
        return error_response(error)
    session_key = request.session.session_key or ""
    response = StreamingHttpResponse(_event_stream(session_key, generation, after), content_type="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def _event_stream(session_key: str, generation: uuid.UUID, after: EventId | None) -> AsyncIterator[bytes]:
    # Counted here: a client that leaves before the first byte never starts this generator, nor ends it.
    with presence.connected(session_key):
        async with aclosing(follow(generation, after)) as items:
            async for item in items:
                at = getattr(item, "id", None)
                prefix = f"id: {at}\n" if at else ""
                yield f"{prefix}data: {frames.encode(frames.outgoing(generation, item))}\n\n".encode()


def _page(request: HttpRequest, conversation_id: uuid.UUID | None) -> HttpResponse:
    owner = owner_of(request)
    if owner:
        owner.seen()
    try:
        data = resources.page_data(owner, conversation_id)
    except NotFound:
        raise Http404 from None
    title = data.conversation.title if data.conversation else "New chat"
    return render(request, "chat/page.html", {"page": msgspec.to_builtins(data), "title": title})


def owner_of(request: HttpRequest) -> User | None:
    try:
        return guests.owner_of(request.session.session_key or "")
    except guests.SessionExpired:
        return None


def _body(request: HttpRequest, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # msgspec's words name the field and the expected type, and quote no content.
        raise BadRequest(detail=str(error).rstrip(".")) from None


def _event_id(text: str) -> EventId | None:
    try:
        return EventId.parse(text) if text else None
    except ValueError:
        return None


def json_response(body: object, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)


def error_response(error: DomainError) -> HttpResponse:
    return json_response({"error": {"code": error.code, "message": error.message}}, error.status)
