"""What readers of a share see: the page, its preview card, and a copy of their own. No session is read or made to read.

Whatever is not there, never was, has expired or was revoked answers with one and the same page.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from csp.constants import NONE, SELF
from csp.decorators import csp_replace
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from accounts import guests
from chat import cards, shares
from chat.snapshots import SharedMessage
from inference.errors import DomainError, NotFound

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
}


def _for_readers(view: View[P]) -> View[P]:
    """Gives every answer the headers of a share, and the one page for what is not there."""

    @wraps(view)
    def answered(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        try:
            response = view(request, *args, **kwargs)
        except NotFound:
            response = render(request, "chat/shared_missing.html", status=404)
        except DomainError as error:
            response = render(request, "chat/shared_refused.html", {"sentence": error.message}, status=error.status)
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    policy = {"img-src": [SELF], "connect-src": [NONE], "worker-src": [NONE]}
    return csp_replace(policy)(answered)  # type: ignore[no-any-return]


@require_safe
@_for_readers
def page(request: HttpRequest, token: str) -> HttpResponse:
    """One query. Needs no cookie and sets none."""
    share, messages = shares.read(token)
    values = {
        "share": share,
        "messages": messages,
        "models": _models(messages),
        "title": share.title,
        "address": request.build_absolute_uri(request.path),
        "card": request.build_absolute_uri(reverse("shared-card", args=[token])),
        "action": reverse("shared-continue", args=[token]),
    }
    return render(request, "chat/shared.html", values)


@require_safe
@_for_readers
def card(request: HttpRequest, token: str) -> HttpResponse:
    share, messages = shares.read(token)
    return HttpResponse(cards.draw(share.title, tuple(_models(messages))), content_type="image/png")


@require_safe
@_for_readers
def missing(request: HttpRequest, token: str) -> HttpResponse:
    """Addresses that no share can have."""
    raise NotFound


@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
@_for_readers
def continue_shared(request: HttpRequest, token: str) -> HttpResponse:
    """Gives the reader a copy, and goes to it.

    The shared page sets no cookie, so its form carries no token. The browser itself says where a request comes from
    (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/; no page can write that header). Browsers that do not say it
    are asked on a page with a token.
    """
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "same-origin":
        return _copied(request, token)
    if request.method == "POST" and "csrfmiddlewaretoken" not in request.POST:
        return redirect(request.path)
    return _confirmed(request, token)


@csrf_protect
def _confirmed(request: HttpRequest, token: str) -> HttpResponse:
    if request.method == "POST":
        return _copied(request, token)
    share, _ = shares.read(token)
    return render(request, "chat/shared_continue.html", {"share": share})


def _copied(request: HttpRequest, token: str) -> HttpResponse:
    # Asked before anybody is made for it.
    shares.read(token)
    owner = guests.ensure_owner_of(request.session)
    conversation = shares.continue_from(owner, token)
    return redirect("conversation-page", conversation=conversation.pk)


def _models(messages: list[SharedMessage]) -> list[str]:
    """The names of the models that answered, in their order."""
    return list(dict.fromkeys(message.model_name for message in messages if message.model_name))
