"""Waiting on the page: the place in line, how long it will take, and another model that begins at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.page_parts import ask, choose, raw, wait_for_state
from tests.browser_client import Guest
from tests.stack import SLOTS_USUAL, SLOW, TINY, Stack
from tests.tiny.replies import COUNT, HELLO, REPLIES


@pytest.fixture
def crowded(stack: Stack) -> Iterator[None]:
    """The slow model has all its places taken."""
    for model in (TINY, SLOW):
        stack.worker(model)
    with Guest(stack.base) as other, other.socket() as socket:
        sent = [socket.ask(COUNT, SLOW) for _ in range(SLOTS_USUAL)]
        for asked in sent:
            socket.read(asked["generation"], until=lambda answer: answer.text)
        yield
        socket.stop_all(sent)


@pytest.mark.usefixtures("crowded")
def test_what_waits_shows_its_place_and_can_be_given_to_a_model_that_is_free(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, HELLO)
    expect(answer).to_contain_text("Next in line")
    expect(answer).to_contain_text("Tiny Slow")
    move = answer.get_by_role("button", name="Start now with Tiny", exact=True)
    move.focus()
    page.keyboard.press("Enter")
    wait_for_state(answer, "done")
    assert raw(answer) == REPLIES[HELLO]
    expect(answer).not_to_contain_text("Tiny Slow")
    page.reload()
    again = page.get_by_test_id("message").last
    expect(again).to_contain_text("Tiny")
    expect(again).not_to_contain_text("Tiny Slow")
