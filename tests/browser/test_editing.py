"""Editing a question in its own place, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.page_parts import answers, ask, choose, messages, raw, wait_for_state, wait_for_text
from tests.stack import ABSENT, SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, NAME, REPLIES


@pytest.fixture(autouse=True)
def workers(stack: Stack) -> None:
    for model in (TINY, SLOW):
        stack.worker(model)


def questions(page: Page) -> Locator:
    return page.locator('[data-testid="message"][data-role="user"]')


def edit(page: Page, number: int) -> Locator:
    """Open the editor of a question by keyboard; its box."""
    button = questions(page).nth(number).get_by_role("button", name="Edit")
    button.focus()
    page.keyboard.press("Enter")
    box = page.get_by_test_id("editor").get_by_role("textbox")
    expect(box).to_be_focused()
    return box


def test_an_edited_question_is_answered_in_its_place_and_the_old_branch_is_kept(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    wait_for_state(ask(page, EMOJI), "done")
    box = edit(page, 0)
    expect(box).to_have_value(HELLO)
    box.fill("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    for event in ("{key: 'Enter', isComposing: true}", "{key: 'Enter', keyCode: 229}"):
        box.evaluate(f"element => element.dispatchEvent(new KeyboardEvent('keydown', {{bubbles: true, ...{event}}}))")
    expect(box).to_have_value("one\ntwo")
    box.fill(NAME)
    box.press("Enter")
    expect(messages(page)).to_have_count(2)
    wait_for_state(answers(page).last, "done")
    assert raw(answers(page).last) == REPLIES[NAME]
    expect(questions(page).first.get_by_test_id("branches")).to_have_text("2/2")
    questions(page).first.get_by_role("button", name="Previous version").click()
    expect(messages(page)).to_have_count(4)
    assert raw(answers(page).last) == REPLIES[EMOJI]


def test_leaving_the_editor_or_the_page_loses_nothing(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 20)
    box = edit(page, 0)
    box.fill("a better way to say it")
    # While the answer is written the editor is there already, and Escape is for the editor, not for the answer.
    expect(page.get_by_test_id("editor").get_by_role("button", name="Send")).to_be_disabled()
    box.press("Escape")
    expect(page.get_by_test_id("editor")).to_have_count(0)
    expect(questions(page).first).to_contain_text(COUNT)
    expect(questions(page).first.get_by_role("button", name="Edit")).to_be_focused()
    expect(answer).to_have_attribute("data-state", "running")
    page.keyboard.press("Escape")
    wait_for_state(answer, "cancelled")
    expect(edit(page, 0)).to_have_value("a better way to say it")
    page.reload()
    box = page.get_by_test_id("editor").get_by_role("textbox")
    expect(box).to_have_value("a better way to say it")
    page.get_by_test_id("editor").get_by_role("button", name="Cancel").click()
    page.reload()
    expect(questions(page)).to_have_count(1)
    expect(page.get_by_test_id("editor")).to_have_count(0)


def test_a_refused_edit_gives_its_text_back_and_shows_what_was_there(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    wait_for_state(ask(page, EMOJI), "done")
    page.evaluate(
        """absent => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                send.call(this, data.replace('"model":"tiny"', `"model":"${absent}"`));
            };
        }""",
        ABSENT,
    )
    box = edit(page, 0)
    box.fill("please do not lose me")
    box.press("Enter")
    expect(page.get_by_test_id("error").first).to_contain_text("is not running at the moment")
    expect(page.get_by_test_id("editor").get_by_role("textbox")).to_have_value("please do not lose me")
    expect(messages(page)).to_have_count(4)
    assert raw(answers(page).last) == REPLIES[EMOJI]


def test_an_edit_that_was_sent_without_a_network_arrives_after_a_reload(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    page.evaluate("WebSocket.prototype.send = () => {}")
    box = edit(page, 0)
    box.fill(NAME)
    box.press("Enter")
    expect(questions(page).first).to_contain_text(NAME)
    page.reload()
    wait_for_state(answers(page).last, "done")
    assert raw(answers(page).last) == REPLIES[NAME]
    expect(questions(page).first.get_by_test_id("branches")).to_have_text("2/2")
    expect(messages(page)).to_have_count(2)


def test_escape_stops_the_answer_only_where_nothing_is_open_that_it_would_close(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 10)
    edit(page, 0)
    page.get_by_test_id("composer").focus()
    page.keyboard.press("Escape")
    page.get_by_test_id("editor").get_by_role("button", name="Cancel").click()
    page.get_by_test_id("picker-button").click()
    expect(page.get_by_test_id("picker")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("picker")).to_be_hidden()
    shown = len(raw(answer))
    wait_for_text(answer, shown + 20)
    page.keyboard.press("Escape")
    wait_for_state(answer, "cancelled")
