"""A browser's place at the door: a session with a guest behind it, and what its socket sends as headers."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore

from accounts.guests import ensure_owner
from accounts.models import User


@dataclass(frozen=True, slots=True)
class Visitor:
    owner: User
    cookie: str


def new() -> Visitor:
    """A guest with a session, as after a first visit. Some queries."""
    session = SessionStore()
    session.create()
    key = str(session.session_key)
    return Visitor(owner=ensure_owner(key), cookie=f"{settings.SESSION_COOKIE_NAME}={key}")


def address() -> str:
    return f"ws://127.0.0.1:{settings.PORT}/ws/chat/"


def headers(cookie: str) -> dict[str, str]:
    return {"Cookie": cookie, "Origin": f"http://127.0.0.1:{settings.PORT}"}
