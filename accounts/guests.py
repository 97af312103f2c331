"""Who is behind a browser session: the guest bound to it, made at the first message and not before.

A session is named by its key. Every function here is synchronous and asks PostgreSQL afresh, so that a session that
was ended elsewhere stops working at the next question.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.models import User

SESSION_FIELD = "guest"


class SessionExpired(Exception):
    """The session key names no living session."""


def owner_of(session_key: str) -> User | None:
    """The person behind the session, None before their first message. Raises SessionExpired. Two queries."""
    return _owner(_living(Session.objects.all(), session_key))


def ensure_owner(session_key: str) -> User:
    """The person behind the session, made now where there is none. Raises SessionExpired.

    Idempotent, also between two tabs that send their first messages at once: the session's row is locked.
    """
    owner = owner_of(session_key)
    if owner:
        return owner
    with transaction.atomic():
        session = _living(Session.objects.select_for_update(), session_key)
        owner = _owner(session)
        if owner is None:
            owner = User.objects.create(kind=User.Kind.GUEST)
            session.session_data = SessionStore().encode({**session.get_decoded(), SESSION_FIELD: str(owner.pk)})
            session.save(update_fields=["session_data"])
    return owner


def ensure_owner_of(session: SessionBase) -> User:
    """The person behind a request's session; both are made where there is none, or where the session has ended."""
    try:
        owner = ensure_owner(session.session_key or "")
    except SessionExpired:
        session.create()
        owner = ensure_owner(session.session_key or "")
    # The middleware will write this session object over the row that now names the person.
    session[SESSION_FIELD] = str(owner.pk)
    return owner


def forget_unseen(days: int) -> int:
    """Delete the guests who did not come back for `days`, with all they own. Returns how many rows went."""
    cutoff: datetime = timezone.now() - timedelta(days=days)
    deleted, _ = User.objects.guests_unseen_since(cutoff).delete()
    return deleted


def _living(sessions: QuerySet[Session], session_key: str) -> Session:
    session = sessions.filter(session_key=session_key, expire_date__gt=timezone.now()).first()
    if session is None:
        raise SessionExpired
    return session


def _owner(session: Session) -> User | None:
    key = session.get_decoded().get(SESSION_FIELD)
    return User.objects.filter(pk=key, is_active=True).first() if key else None
