"""Who is behind a browser session: the guest bound to it, made at the first message and not before.

A session is named by its key. Every function here is synchronous and asks PostgreSQL afresh, so that a session that
was ended elsewhere stops working at the next question.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import import_module

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.db import transaction
from django.utils import timezone

from accounts.models import User

SESSION_FIELD = "guest"


class SessionExpired(Exception):
    """The session key names no living session."""


def owner_of(session_key: str) -> User | None:
    """The person behind the session, None before their first message. Raises SessionExpired. Two queries."""
    return _owner(_session(session_key))


def ensure_owner(session_key: str) -> User:
    """The person behind the session, made now where there is none. Raises SessionExpired.

    Idempotent, also between two tabs that send their first messages at once: the session's row is locked.
    """
    owner = owner_of(session_key)
    if owner:
        return owner
    with transaction.atomic():
        if not Session.objects.select_for_update().filter(session_key=session_key).exists():
            raise SessionExpired
        session = _session(session_key)
        owner = _owner(session)
        if owner is None:
            owner = User.objects.create(kind=User.Kind.GUEST)
            session[SESSION_FIELD] = str(owner.pk)
            session.save()
    return owner


def forget_unseen(days: int) -> int:
    """Delete the guests who did not come back for `days`, with all they own. Returns how many rows went."""
    cutoff: datetime = timezone.now() - timedelta(days=days)
    deleted, _ = User.objects.guests_unseen_since(cutoff).delete()
    return deleted


def _session(session_key: str) -> SessionBase:
    store = import_module(settings.SESSION_ENGINE).SessionStore
    # A key that no row has would be read as an empty session, and saved as a new one.
    if not session_key or not store().exists(session_key):
        raise SessionExpired
    session: SessionBase = store(session_key)
    return session


def _owner(session: SessionBase) -> User | None:
    key = session.get(SESSION_FIELD)
    return User.objects.filter(pk=key, is_active=True).first() if key else None
