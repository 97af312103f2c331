"""A shared page as its readers get it, and the addresses by which its owner changes it, over HTTP."""

from __future__ import annotations

import io
import re
from datetime import timedelta

import httpx
import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from PIL import Image

from accounts.guests import ensure_owner
from accounts.models import User
from chat import shares
from chat.models import Conversation, Share
from tests.browser_client import Guest
from tests.rows import talk
from tests.stack import Stack

HOSTILE = '<script>alert(1)</script>"><img src=https://evil.example/x onerror=alert(1)>'


@pytest.fixture
def person(guest: Guest) -> User:
    return ensure_owner(guest.http.cookies["sessionid"])


def _shared(person: User, *texts: str, **fields: str) -> Share:
    return shares.put(person, talk(person, *texts, **fields).pk, shares.Choice(), expires=None)


def _csrf(guest: Guest) -> dict[str, str]:
    token = re.search(r'data-csrf="(\w+)"', guest.http.get("/").text)
    assert token
    return {"X-CSRFToken": token[1], "Origin": guest.base}


def _put(guest: Guest, conversation: Conversation, **body: object) -> httpx.Response:
    body = {"expires_in_days": None, **body}
    return guest.http.put(f"/conversations/{conversation.pk}/share", json=body, headers=_csrf(guest))


def test_anybody_reads_a_share_without_a_cookie(stack: Stack, person: User) -> None:
    share = _shared(person, "What is *this*?", "It is **bold**.", title="A title")
    response = httpx.get(f"{stack.base}/s/{share.token}")
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    assert "cookie" not in response.headers.get("vary", "").lower()
    assert "What is *this*?" in response.text
    assert "It is <strong>bold</strong>." in response.text
    assert "Tiny" in response.text


def test_its_headers_keep_it_out_of_caches_indexes_and_referrers(stack: Stack, person: User) -> None:
    share = _shared(person, "q", "a")
    for address in (f"/s/{share.token}", f"/s/{share.token}/card.png", f"/s/{share.token}x", "/s/a/b/c"):
        headers = httpx.get(stack.base + address).headers
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-robots-tag"] == "noindex, nofollow"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "connect-src 'none'" in policy
        assert "img-src 'self';" in policy
        assert "unsafe" not in policy
        assert "set-cookie" not in headers


def test_its_card_and_its_tags_tell_where_it_is(stack: Stack, person: User) -> None:
    share = _shared(person, "q", "a", title='Tides & "moons"')
    html = httpx.get(f"{stack.base}/s/{share.token}").text
    assert '<meta property="og:title" content="Tides &amp; &quot;moons&quot;">' in html
    assert '<meta name="robots" content="noindex, nofollow">' in html
    card = re.search(r'og:image" content="([^"]+)"', html)
    assert card
    assert card[1] == f"{stack.base}/s/{share.token}/card.png"
    response = httpx.get(card[1])
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (1200, 630)


@pytest.mark.parametrize("title", ["", "🙂", "لماذا", "word " * 40, "長" * 200, "\u202etxt\0", "x" * 300])
def test_a_card_is_drawn_for_every_title(title: str) -> None:
    from chat import cards

    assert Image.open(io.BytesIO(cards.draw(title, ("A model", "Another")))).size == (1200, 630)


def test_what_never_was_has_expired_was_revoked_or_is_malformed_look_the_same(stack: Stack, person: User) -> None:
    expired, revoked = _shared(person, "q", "a"), _shared(person, "q", "a")
    Share.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert httpx.get(f"{stack.base}/s/{revoked.token}").status_code == 200
    shares.revoke(person, revoked.conversation_id)
    paths = [expired.token, revoked.token, "A" * 43, "x", "%00", "a/b", "..%2f..", "é"]
    pages = set()
    for path in [*paths, *(f"{path}/card.png" for path in paths), f"{revoked.token}/continue"]:
        response = httpx.get(f"{stack.base}/s/{path}")
        assert response.status_code == 404
        pages.add(re.sub(r'nonce="[^"]*"', "", response.text))
    assert len(pages) == 1
    assert "Nothing is shared at this address" in pages.pop()


def test_hostile_messages_and_titles_are_text(stack: Stack, person: User) -> None:
    share = _shared(person, HOSTILE, f"{HOSTILE}\n\n[x](javascript:alert(1))", title=HOSTILE)
    html = httpx.get(f"{stack.base}/s/{share.token}").text
    assert "<script>alert" not in html
    assert "<img" not in html
    assert 'href="javascript' not in html


def test_only_reading_is_allowed(stack: Stack, person: User) -> None:
    share = _shared(person, "q", "a")
    for method in ("POST", "PUT", "DELETE"):
        for address in (f"/s/{share.token}", f"/s/{share.token}/card.png"):
            assert httpx.request(method, stack.base + address).status_code in (403, 405)


def test_a_page_of_a_hundred_messages_takes_one_query(stack: Stack, person: User) -> None:
    share = _shared(person, *["A *text* of some words."] * 100)
    client = Client(headers={"host": "127.0.0.1"})
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = client.get(f"/s/{share.token}")
    assert response.content.count(b"<article") == 100
    assert len(queries) == 1


def test_its_owner_shares_updates_and_revokes(guest: Guest, stranger: Guest, person: User) -> None:
    conversation = talk(person, "my number is +49 30 901820", "a")
    before = guest.http.get(f"/conversations/{conversation.pk}/share").json()
    assert before == {"share": None, "found": [{"kind": "phone", "count": 1, "example": "+49 30 901820"}]}
    made = _put(guest, conversation, expires_in_days=7, masked=["phone"])
    assert made.status_code == 200
    address = made.json()["address"]
    assert "[phone number removed]" in httpx.get(address).text
    assert "901820" not in httpx.get(address).text
    again = _put(guest, conversation)
    assert (again.json()["address"], again.json()["expires_at"]) == (address, None)
    assert guest.http.get(f"/conversations/{conversation.pk}/share").json()["share"] == again.json()
    assert guest.http.delete(f"/conversations/{conversation.pk}/share", headers=_csrf(guest)).status_code == 204
    assert httpx.get(address).status_code == httpx.get(f"{address}/card.png").status_code == 404


def test_a_stranger_and_nobody_get_not_found_for_every_operation(
    stack: Stack, guest: Guest, stranger: Guest, person: User
) -> None:
    ensure_owner(stranger.http.cookies["sessionid"])
    share = _shared(person, "q", "a")
    address = f"/conversations/{share.conversation_id}/share"
    assert stranger.http.get(address).status_code == httpx.get(stack.base + address).status_code == 404
    assert _put(stranger, share.conversation).status_code == 404
    assert stranger.http.delete(address, headers=_csrf(stranger)).status_code == 404
    for action in ("update", "revoke"):
        form = {"action": action, "conversation": str(share.conversation_id)}
        assert stranger.http.post("/shares", data=form, headers=_csrf(stranger)).status_code == 404
    assert share.token not in stranger.http.get("/shares").text
    assert httpx.get(f"{stack.base}/s/{share.token}").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"expires_in_days": 2}',
        b'{"expires_in_days": null, "x": 1}',
        b"{}",
        b" " * 5000,
        b'{"expires_in_days": null, "masked": ["name"]}',
        b'{"expires_in_days": null, "reasoning": 1}',
    ],
)
def test_a_malformed_request_is_refused_with_a_sentence(guest: Guest, person: User, body: bytes) -> None:
    conversation = talk(person, "q", "a")
    response = guest.http.put(f"/conversations/{conversation.pk}/share", content=body, headers=_csrf(guest))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


def test_changes_need_the_pages_token(guest: Guest, person: User) -> None:
    share = _shared(person, "q", "a")
    address = f"/conversations/{share.conversation_id}/share"
    assert guest.http.delete(address).status_code == 403
    assert guest.http.put(address, json={"expires_in_days": None}).status_code == 403
    assert guest.http.post("/shares", data={"action": "revoke"}).status_code == 403
    assert Share.objects.filter(pk=share.pk).exists()


def test_over_the_limit_is_told_in_a_sentence(guest: Guest, person: User) -> None:
    rows = [Conversation(owner=person, title="t", model="tiny") for _ in range(settings.SHARES_PER_OWNER)]
    Conversation.objects.bulk_create(rows)
    Share.objects.bulk_create(
        Share(owner=person, conversation=row, title="t", messages=[], rendering=1) for row in rows
    )
    response = _put(guest, talk(person, "q", "a"))
    assert (response.status_code, response.json()["error"]["code"]) == (429, "too_many_shares")


def test_the_list_updates_and_revokes_by_forms(stack: Stack, guest: Guest, person: User) -> None:
    share = _shared(person, "q", "a", title="Listed")
    assert f"/s/{share.token}" in guest.http.get("/shares").text
    for action, status in (("update", 200), ("revoke", 404)):
        form = {"action": action, "conversation": str(share.conversation_id)}
        assert guest.http.post("/shares", data=form, headers=_csrf(guest)).status_code == 302
        assert httpx.get(f"{stack.base}/s/{share.token}").status_code == status
    assert "You share nothing" in guest.http.get("/shares").text
    for form in ({}, {"action": "x", "conversation": str(share.conversation_id)}, {"conversation": "x"}):
        assert guest.http.post("/shares", data=form, headers=_csrf(guest)).status_code == 400


SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}


def test_who_continues_gets_a_copy_of_their_own_and_a_session_that_opens_it(stack: Stack, person: User) -> None:
    share = _shared(person, "question", "answer")
    with httpx.Client(base_url=stack.base, follow_redirects=True) as reader:
        response = reader.post(f"/s/{share.token}/continue", headers=SAME_ORIGIN)
        copied = response.url.path
        assert re.fullmatch(r"/c/[0-9a-f-]{36}", copied)
        assert "answer" in response.text
        again = reader.post(f"/s/{share.token}/continue", headers=SAME_ORIGIN).url.path
        assert reader.get(copied).status_code == reader.get(again).status_code == 200
        shares.revoke(person, share.conversation_id)
        assert reader.get(copied).status_code == 200
    assert httpx.get(stack.base + copied).status_code == 404


def test_a_session_that_has_ended_gets_a_new_one(stack: Stack, person: User) -> None:
    share = _shared(person, "question", "answer")
    with httpx.Client(base_url=stack.base, follow_redirects=True, cookies={"sessionid": "x" * 32}) as reader:
        assert reader.post(f"/s/{share.token}/continue", headers=SAME_ORIGIN).url.path.startswith("/c/")


def test_another_site_cannot_make_a_visitor_continue(stack: Stack, person: User) -> None:
    share = _shared(person, "question", "answer")
    before = Conversation.objects.count()
    for site in ("cross-site", "same-site", "none", ""):
        headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.example"}
        response = httpx.post(f"{stack.base}/s/{share.token}/continue", headers=headers)
        assert response.status_code == 302
        assert "sessionid" not in response.headers.get("set-cookie", "")
        forged = httpx.post(
            f"{stack.base}/s/{share.token}/continue", headers=headers, data={"csrfmiddlewaretoken": "x" * 64}
        )
        assert forged.status_code == 403
    assert Conversation.objects.count() == before


def test_a_browser_that_tells_no_site_is_asked_first(stack: Stack, person: User) -> None:
    share = _shared(person, "question", "answer")
    with httpx.Client(base_url=stack.base, follow_redirects=True) as reader:
        page = reader.post(f"/s/{share.token}/continue")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token
        headers = {"Origin": stack.base}
        response = reader.post(f"/s/{share.token}/continue", data={"csrfmiddlewaretoken": token[1]}, headers=headers)
        assert response.url.path.startswith("/c/")


def test_nobody_is_made_for_a_share_that_is_not_there(stack: Stack) -> None:
    before = User.objects.count()
    response = httpx.post(f"{stack.base}/s/{'A' * 43}/continue", headers=SAME_ORIGIN)
    assert response.status_code == 404
    assert "set-cookie" not in response.headers
    assert User.objects.count() == before
