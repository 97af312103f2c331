"""Guests: made at the first message, bound to a session, forgotten when they stay away."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import IntegrityError, connection
from django.utils import timezone

from accounts import guests
from accounts.models import User
from chat.models import Conversation
from tests.rows import queued


def test_a_session_has_nobody_behind_it_before_the_first_message(session_key: str) -> None:
    assert guests.owner_of(session_key) is None
    owner = guests.ensure_owner(session_key)
    assert owner.kind == User.Kind.GUEST
    assert guests.owner_of(session_key) == owner == guests.ensure_owner(session_key)


def test_two_first_messages_at_once_make_one_guest(session_key: str) -> None:
    found = []

    def ensure() -> None:
        found.append(guests.ensure_owner(session_key).pk)
        connection.close()

    threads = [threading.Thread(target=ensure) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 6


@pytest.mark.parametrize("key", ["", "unknown", "x" * 5000])
def test_a_session_that_does_not_exist_is_nobodys(database: None, key: str) -> None:
    for ask in (guests.owner_of, guests.ensure_owner):
        with pytest.raises(guests.SessionExpired):
            ask(key)


def test_an_expired_session_is_gone(session_key: str) -> None:
    guests.ensure_owner(session_key)
    Session.objects.filter(session_key=session_key).update(expire_date=timezone.now() - timedelta(seconds=1))
    with pytest.raises(guests.SessionExpired):
        guests.owner_of(session_key)


def test_two_sessions_are_two_people(session_key: str, owner: User) -> None:
    other = SessionStore()
    other.create()
    assert guests.ensure_owner(str(other.session_key)) != owner


def test_guests_who_stay_away_are_deleted_with_all_they_wrote_and_others_stay(owner: User) -> None:
    generation = queued(owner)
    present = User.objects.create()
    account = User.objects.create(kind="account", email=f"{owner.pk}@example.org")
    old = timezone.now() - timedelta(days=31)
    User.objects.filter(pk__in=[owner.pk, account.pk]).update(last_seen_at=old)
    guests.forget_unseen(30)
    assert not User.objects.filter(pk=owner.pk).exists()
    assert not Conversation.objects.filter(messages__generation=generation).exists()
    assert User.objects.filter(pk__in=[present.pk, account.pk]).count() == 2


def test_a_visit_is_noted_at_most_once_an_hour(owner: User) -> None:
    old = timezone.now() - timedelta(hours=2)
    User.objects.filter(pk=owner.pk).update(last_seen_at=old)
    owner.refresh_from_db()
    owner.seen()
    seen = User.objects.get(pk=owner.pk).last_seen_at
    assert seen > old
    User.objects.get(pk=owner.pk).seen()
    assert User.objects.get(pk=owner.pk).last_seen_at == seen


def test_the_database_refuses_an_account_without_an_email(database: None) -> None:
    with pytest.raises(IntegrityError):
        User.objects.create(kind="account")
