"""The tree of a conversation in a real browser: switching between versions of a message."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.page_parts import answers, ask, choose, messages, raw, wait_for_state, wait_for_text
from tests.stack import ABSENT, SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, REPLIES

ABSENT_NAME = ABSENT.replace("-", " ").title()


@pytest.fixture(autouse=True)
def workers(stack: Stack) -> None:
    for model in (TINY, SLOW):
        stack.worker(model)


def branches(message: Locator) -> Locator:
    return message.get_by_test_id("branches")


def answer_again(page: Page) -> Locator:
    """Another answer beside the last one."""
    before = answers(page).last.get_attribute("data-message-id")
    answers(page).last.get_by_role("button", name="Try again").click()
    page.wait_for_function(
        """before => {
            const last = [...document.querySelectorAll('[data-role="assistant"]')].at(-1);
            return last.dataset.messageId && last.dataset.messageId !== before;
        }""",
        arg=before,
    )
    return answers(page).last


def test_versions_of_an_answer_are_switched_by_keyboard_remembered_and_live_in_other_tabs(
    page: Page, context: BrowserContext
) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    wait_for_state(ask(page, EMOJI), "done")
    first = answers(page).last.get_attribute("data-message-id")
    expect(branches(answers(page).last)).to_be_hidden()
    wait_for_state(answer_again(page), "done")
    expect(branches(answers(page).last)).to_have_text("2/2")
    tab = context.new_page()
    tab.goto(page.url)
    expect(branches(answers(tab).last)).to_have_text("2/2")
    expect(tab.get_by_test_id("connection")).to_have_attribute("data-state", "connected")

    branches(answers(page).last).get_by_role("button", name="Previous version").focus()
    page.keyboard.press("Enter")
    expect(answers(page).last).to_have_attribute("data-message-id", first)
    expect(branches(answers(page).last)).to_have_text("1/2")
    # The focus stays at the switch, at its end too, so that the keyboard goes on from there.
    expect(branches(answers(page).last).get_by_role("button", name="Previous version")).to_be_focused()
    expect(answers(tab).last).to_have_attribute("data-message-id", first)
    page.reload()
    expect(answers(page).last).to_have_attribute("data-message-id", first)
    branches(answers(tab).last).get_by_role("button", name="Next version").click()
    expect(branches(answers(page).last)).to_have_text("2/2")
    tab.close()


def test_an_answer_that_is_being_written_is_left_and_found_again(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, COUNT), "done")
    choose(page, SLOW)
    writing = answer_again(page)
    wait_for_text(writing, 20)
    branches(writing).get_by_role("button", name="Previous version").click()
    expect(branches(answers(page).last)).to_have_text("1/2")
    assert raw(answers(page).last) == REPLIES[COUNT]
    expect(page.get_by_test_id("send")).to_have_attribute("data-mode", "send")
    branches(answers(page).last).get_by_role("button", name="Next version").click()
    again = answers(page).last
    expect(again).to_have_attribute("data-state", "running")
    shown = len(raw(again))
    wait_for_text(again, shown + 40)
    page.keyboard.press("Escape")
    wait_for_state(again, "cancelled")
    assert REPLIES[COUNT].startswith(raw(again))


def test_a_switch_that_the_server_does_not_answer_says_so_and_changes_nothing(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    wait_for_state(answer_again(page), "done")
    page.route("**/conversations/*", lambda route: route.abort())
    branches(answers(page).last).get_by_role("button", name="Previous version").click()
    expect(page.get_by_test_id("error")).to_contain_text("could not be fetched")
    expect(branches(answers(page).last)).to_have_text("2/2")
    expect(messages(page)).to_have_count(2)


def test_any_answer_is_given_again_by_another_model_chosen_by_keyboard(page: Page) -> None:
    choose(page, TINY)
    first = ask(page, HELLO)
    wait_for_state(first, "done")
    wait_for_state(ask(page, EMOJI), "done")
    opener = answers(page).first.get_by_role("button", name="Answer again with another model")
    opener.focus()
    page.keyboard.press("Enter")
    menu = page.get_by_test_id("model-menu")
    items = menu.get_by_role("menuitem")
    expect(items.first).to_be_focused()
    expect(items.filter(has_text=ABSENT_NAME)).to_have_count(0)
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(opener).to_be_focused()
    page.keyboard.press("Enter")
    expect(items.first).to_be_focused()
    for _ in range(items.count()):
        if "Tiny Slow" in str(page.evaluate("document.activeElement.textContent")):
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(menu).to_be_hidden()
    expect(messages(page)).to_have_count(2)
    expect(answers(page).last).to_contain_text("Tiny Slow")
    expect(page.get_by_test_id("picker-button")).to_contain_text("Tiny Slow")
    wait_for_state(answers(page).last, "done")
    branches(answers(page).last).get_by_role("button", name="Previous version").click()
    expect(messages(page)).to_have_count(4)


def test_nothing_can_be_asked_again_while_an_answer_is_written(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    choose(page, SLOW)
    writing = ask(page, COUNT)
    wait_for_text(writing, 10)
    expect(answers(page).first.get_by_role("button", name="Try again")).to_be_disabled()
    page.get_by_test_id("send").click()
    wait_for_state(writing, "cancelled")
    expect(answers(page).first.get_by_role("button", name="Try again")).to_be_enabled()


def test_a_new_chat_from_a_message_opens_at_its_own_address_with_what_came_before(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    wait_for_state(ask(page, EMOJI), "done")
    original = page.url
    answers(page).first.get_by_role("button", name="New chat from here").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/c/" in url and url != original)
    expect(messages(page)).to_have_count(2)
    assert raw(answers(page).last) == REPLIES[HELLO]
    expect(page.get_by_test_id("conversation-link")).to_have_count(2)
    wait_for_state(ask(page, COUNT), "done")
    expect(messages(page)).to_have_count(4)
    page.go_back()
    expect(messages(page)).to_have_count(4)
    assert raw(answers(page).last) == REPLIES[EMOJI]
