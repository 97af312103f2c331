"""What the owner of a conversation does with its share: JSON for the dialog, and the page that lists all shares."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.models import User
from chat import shares
from chat.findings import Kind
from chat.models import Share
from chat.views import error_response, json_response, owner_of
from inference.errors import BadRequest, DomainError

BODY_MAX_BYTES = 4096


class ShareRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`expires_in_days` null is never."""

    expires_in_days: Literal[1, 7, 30] | None
    reasoning: bool = False
    masked: Annotated[tuple[Kind, ...], msgspec.Meta(max_length=len(Kind))] = ()


class ShareResource(msgspec.Struct, frozen=True):
    address: str
    title: str
    reasoning: bool
    masked: tuple[Kind, ...]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class FoundResource(msgspec.Struct, frozen=True):
    kind: Kind
    count: int
    example: str


class SharingResource(msgspec.Struct, frozen=True):
    """What the dialog shows: the share, if there is one, and what could be masked."""

    share: ShareResource | None
    found: list[FoundResource]


@never_cache
@require_http_methods(["GET", "HEAD", "PUT", "DELETE"])
def share(request: HttpRequest, conversation: uuid.UUID) -> HttpResponse:
    try:
        owner = owner_of(request)
        if request.method == "PUT":
            return json_response(_put(request, owner, conversation))
        if request.method == "DELETE":
            shares.revoke(owner, conversation)
            return HttpResponse(status=204)
        there = shares.of(owner, conversation)
        found = [FoundResource(found.kind, found.count, found.example) for found in shares.check(owner, conversation)]
        return json_response(SharingResource(_resource(request, there) if there else None, found))
    except DomainError as error:
        return error_response(error)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def share_list(request: HttpRequest) -> HttpResponse:
    """The owner's shares; its buttons are forms, which work without scripts."""
    owner, message, status = owner_of(request), "", 200
    if request.method == "POST":
        try:
            _act(owner, request.POST.get("action", ""), request.POST.get("conversation", ""))
            return redirect(request.path)
        except DomainError as error:
            message, status = error.message, error.status
    rows = [(row, _address(request, row)) for row in shares.listed(owner)]
    return render(request, "chat/shares.html", {"shares": rows, "message": message, "title": "Shares"}, status=status)


def _put(request: HttpRequest, owner: User | None, conversation: uuid.UUID) -> ShareResource:
    if len(request.body) > BODY_MAX_BYTES:
        raise BadRequest(detail="its body is too long")
    try:
        asked = msgspec.json.decode(request.body, type=ShareRequest)
    except msgspec.MsgspecError as error:
        raise BadRequest(detail=str(error)) from None
    expires = timedelta(days=asked.expires_in_days) if asked.expires_in_days else None
    choice = shares.Choice(asked.reasoning, frozenset(asked.masked))
    return _resource(request, shares.put(owner, conversation, choice, expires=expires))


def _act(owner: User | None, action: str, conversation: str) -> None:
    try:
        identifier = uuid.UUID(conversation)
    except ValueError:
        raise BadRequest(detail="it names no conversation") from None
    if action == "update":
        shares.update(owner, identifier)
    elif action == "revoke":
        shares.revoke(owner, identifier)
    else:
        raise BadRequest(detail="a share can be updated or revoked")


def _resource(request: HttpRequest, row: Share) -> ShareResource:
    return ShareResource(
        address=_address(request, row),
        title=row.title,
        reasoning=row.with_reasoning,
        masked=tuple(Kind(kind) for kind in row.masked),
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
    )


def _address(request: HttpRequest, row: Share) -> str:
    return request.build_absolute_uri(reverse("shared", args=[row.token]))
