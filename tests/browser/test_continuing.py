"""An answer that was cut off goes on where it stands, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.page_parts import answers, ask, choose, messages, raw, stored_text, wait_for_state, wait_for_text
from tests.stack import SLOW, TINY, Stack
from tests.tiny.replies import COUNT, HELLO, REPLIES


@pytest.fixture(autouse=True)
def workers(stack: Stack) -> None:
    for model in (TINY, SLOW):
        stack.worker(model)


def test_a_stopped_answer_goes_on_in_its_own_message_and_nothing_shown_goes_away(
    page: Page, context: BrowserContext
) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 30)
    page.keyboard.press("Escape")
    wait_for_state(answer, "cancelled")
    stopped = raw(answer)
    tab = context.new_page()
    tab.goto(page.url)
    expect(answers(tab).last).to_have_attribute("data-state", "cancelled")
    expect(tab.get_by_test_id("connection")).to_have_attribute("data-state", "connected")
    answer.evaluate(
        """element => {
            window.shortest = Infinity;
            const look = () => {
                window.shortest = Math.min(window.shortest, element.rawText.length);
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    answer.get_by_role("button", name="Continue").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("send")).to_have_attribute("data-mode", "stop")
    wait_for_text(answer, len(stopped) + 60)
    wait_for_text(answers(tab).last, len(stopped) + 60)
    assert page.evaluate("window.shortest") >= len(stopped)
    page.keyboard.press("Escape")
    wait_for_state(answer, "cancelled")
    wait_for_state(answers(tab).last, "cancelled")
    assert raw(answer) == raw(answers(tab).last) == stored_text(page)
    assert raw(answer).startswith(stopped)
    assert REPLIES[COUNT].startswith(raw(answer))
    expect(messages(page)).to_have_count(2)
    expect(answer.get_by_test_id("branches")).to_be_hidden()
    tab.close()


def test_an_answer_in_the_middle_goes_on_and_what_follows_it_stays(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 30)
    page.get_by_test_id("send").click()
    wait_for_state(answer, "cancelled")
    stopped = len(raw(answer))
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    first = answers(page).first
    first.get_by_role("button", name="Continue").click()
    wait_for_text(first, stopped + 40)
    expect(messages(page)).to_have_count(4)
    page.keyboard.press("Escape")
    wait_for_state(first, "cancelled")
    assert raw(answers(page).last) == REPLIES[HELLO]


def test_a_refused_continuation_leaves_the_answer_as_it_was(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 30)
    page.get_by_test_id("send").click()
    wait_for_state(answer, "cancelled")
    stopped = raw(answer)
    page.evaluate(
        """() => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                send.call(this, data.replace('"model":"tiny-slow"', '"model":"tiny-absent"'));
            };
        }"""
    )
    answer.get_by_role("button", name="Continue").click()
    expect(page.get_by_test_id("error").first).to_contain_text("is not running at the moment")
    expect(answer).to_have_attribute("data-state", "cancelled")
    assert raw(answer) == stopped
    expect(answer.get_by_role("button", name="Continue")).to_be_enabled()
