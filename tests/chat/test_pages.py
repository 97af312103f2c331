"""Pages and JSON resources: what the owner gets, and that nobody else gets it."""

from __future__ import annotations

import json
import re
import uuid
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from accounts.guests import ensure_owner
from chat.models import Conversation, title_of
from inference.models import Generation
from tests.browser_client import Guest
from tests.rows import HandWorker, queued
from tests.stack import ABSENT, TINY, Stack
from tests.tiny.replies import HELLO, REPLIES


def _page_data(html: str) -> dict:
    return json.loads(re.search(r'<script id="page-data" type="application/json">(.*?)</script>', html)[1])


def _answered(stack: Stack, guest: Guest) -> dict:
    stack.worker(TINY)
    with guest.socket() as socket:
        return socket.answer(HELLO, TINY)[0]


def test_the_first_page_sets_a_session_and_makes_no_user(stack: Stack) -> None:
    response = httpx.get(stack.base)
    cookie = response.headers["set-cookie"]
    assert response.status_code == 200
    assert "sessionid=" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    data = _page_data(response.text)
    assert data["conversation"] is None
    assert data["conversations"] == []
    assert [model["slug"] for model in data["models"] if model["default"]] == [TINY]


def test_a_conversations_page_holds_its_messages_for_its_owner_alone(
    stack: Stack, guest: Guest, stranger: Guest
) -> None:
    sent = _answered(stack, guest)
    for address in (f"/c/{sent['conversation']}", f"/conversations/{sent['conversation']}"):
        assert guest.http.get(address).status_code == 200
        assert stranger.http.get(address).status_code == 404
        assert httpx.get(stack.base + address).status_code == 404
    data = _page_data(guest.http.get(f"/c/{sent['conversation']}").text)
    assert [message["text"] for message in data["conversation"]["messages"]] == [HELLO, REPLIES[HELLO]]
    generation = data["conversation"]["messages"][1]["generation"]
    assert generation["state"] == "done"
    assert generation["model_name"] == "Tiny"


def test_a_strangers_events_and_what_does_not_exist_are_both_not_found(
    stack: Stack, guest: Guest, stranger: Guest
) -> None:
    sent = _answered(stack, guest)
    assert guest.http.get(f"/generations/{sent['generation']}/events").status_code == 200
    assert stranger.http.get(f"/generations/{sent['generation']}/events").status_code == 404
    for address in ("/c/", "/conversations/", "/generations/"):
        missing = guest.http.get(f"{address}{uuid.uuid4()}" + ("/events" if "gen" in address else ""))
        assert missing.status_code == 404
    assert guest.http.get("/c/not-a-uuid").status_code == 404


@pytest.mark.parametrize("address", ["/", "/conversations", "/models", "/healthz"])
def test_only_reading_is_allowed(guest: Guest, address: str) -> None:
    if address != "/healthz":
        assert guest.http.post(address).status_code in (403, 405)
    assert guest.http.get(address).status_code == 200


def test_pages_are_never_stored_and_load_nothing_from_elsewhere(stack: Stack, guest: Guest) -> None:
    sent = _answered(stack, guest)
    for address in ("/", f"/c/{sent['conversation']}", "/conversations"):
        response = guest.http.get(address)
        assert "no-store" in response.headers["cache-control"]
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "same-origin"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_every_script_and_style_of_the_page_is_ours_hashed_and_cached_for_ever(stack: Stack, guest: Guest) -> None:
    html = guest.http.get("/").text
    addresses = re.findall(r'(?:src|href)="([^"#]+\.(?:js|css|svg|png))"', html)
    assert len(addresses) > 5
    for address in addresses:
        assert address.startswith("/static/")
        response = guest.http.get(address)
        assert response.status_code == 200
        assert "immutable" in response.headers["cache-control"]


def test_a_message_with_markup_is_text_in_the_page(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    with guest.socket() as socket:
        sent, _ = socket.answer(attack, TINY)
    html = guest.http.get(f"/c/{sent['conversation']}").text
    assert "<script>alert(1)" not in html
    assert "<img src=x" not in html
    assert _page_data(html)["conversation"]["messages"][0]["text"] == attack


def test_the_list_goes_on_page_by_page_newest_first_without_gaps(guest: Guest) -> None:
    owner = ensure_owner(guest.http.cookies["sessionid"])
    now = timezone.now()
    rows = [
        Conversation(owner=owner, title=str(number), model=ABSENT, updated_at=now - timedelta(minutes=number // 3))
        for number in range(120)
    ]
    Conversation.objects.bulk_create(rows)
    titles, cursor = [], ""
    while cursor is not None:
        page = guest.http.get("/conversations", params={"before": cursor}).json()
        assert len(page["conversations"]) <= 50
        titles += [row["title"] for row in page["conversations"]]
        cursor = page["next"]
    assert sorted(map(int, titles)) == list(range(120))
    assert [int(title) // 3 for title in titles] == sorted(int(title) // 3 for title in titles)


@pytest.mark.parametrize("cursor", ["x", "2026-01-01_", "_", "2026-13-45T00:00:00_" + str(uuid.uuid4()), "\0"])
def test_a_cursor_that_is_none_is_refused(guest: Guest, cursor: str) -> None:
    response = guest.http.get("/conversations", params={"before": cursor})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_request"


def test_a_conversation_that_is_being_answered_says_so_in_the_list(guest: Guest) -> None:
    queued(ensure_owner(guest.http.cookies["sessionid"]))
    assert [row["answering"] for row in guest.http.get("/conversations").json()["conversations"]] == [True]


def test_the_models_tell_which_are_running(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    states = {model["slug"]: model["state"] for model in guest.http.get("/models").json()["models"]}
    assert (states[TINY], states[ABSENT]) == ("ready", "off")


def test_ready_names_what_lives_and_metrics_are_prometheus_text(stack: Stack, guest: Guest) -> None:
    _answered(stack, guest)
    ready = guest.http.get("/readyz")
    assert ready.status_code == 200
    assert TINY in ready.json()["models"]
    metrics = guest.http.get("/metrics").text
    assert 'lambda_generations_total{door="chat",model="tiny",state="done"}' in metrics
    assert 'lambda_ttft_seconds_bucket{door="chat",le="+Inf",model="tiny"}' in metrics
    assert 'lambda_worker_slots{model="tiny"' in metrics
    assert 'lambda_worker_kv_ratio{model="tiny"' in metrics
    assert 'lambda_cached_prompt_tokens_total{door="chat",model="tiny"' in metrics


def test_the_admin_shows_no_text_of_anybody(database: None, owner: object) -> None:
    from django.contrib import admin
    from django.test import RequestFactory

    from inference.models import Generation

    shown = admin.site.get_model_admin(Generation).get_fields(RequestFactory().get("/"))
    assert not {"prompt", "text", "reasoning", "token_ids"} & set(shown)
    assert {"state", "model", "owner"} <= set(shown)


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("Hello\nsecond line", "Hello"),
        ("  spaces   inside  ", "spaces inside"),
        ("word " * 40, "word " * 14 + "word…"),
        ("長" * 200, "長" * 79 + "…"),
    ],
)
def test_a_title_is_the_first_line_cut_at_a_word(content: str, title: str) -> None:
    assert title_of(content) == title


def test_what_a_model_thought_is_there_after_a_reload(guest: Guest) -> None:
    worker = HandWorker(queued(ensure_owner(guest.http.cookies["sessionid"])))
    worker.write("the answer")
    worker.finish()
    Generation.objects.filter(pk=worker.generation.pk).update(reasoning="a thought")
    answer = guest.conversation(str(worker.generation.message.conversation_id))["messages"][-1]
    assert (answer["text"], answer["generation"]["reasoning"]) == ("the answer", "a thought")
