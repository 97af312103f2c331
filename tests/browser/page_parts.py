"""The chat page in the words of its tests."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect


def choose(page: Page, slug: str) -> None:
    """Pick a model by mouse, waiting until its worker is known."""
    page.get_by_test_id("picker-button").click()
    option = page.locator(f'[data-testid="picker-option"][data-slug="{slug}"]')
    expect(option).to_have_attribute("data-state", "ready", timeout=30_000)
    option.click()
    expect(page.get_by_test_id("picker")).to_be_hidden()


def ask(page: Page, text: str) -> Locator:
    """Type and press Enter; the answer's message."""
    count = answers(page).count()
    composer = page.get_by_test_id("composer")
    composer.fill(text)
    composer.press("Enter")
    expect(answers(page)).to_have_count(count + 1)
    return answers(page).last


def answers(page: Page) -> Locator:
    return page.locator('[data-testid="message"][data-role="assistant"]')


def messages(page: Page) -> Locator:
    return page.get_by_test_id("message")


def wait_for_state(answer: Locator, state: str) -> None:
    expect(answer).to_have_attribute("data-state", state, timeout=60_000)


def raw(answer: Locator) -> str:
    """What the model wrote, before Markdown."""
    return str(answer.evaluate("element => element.rawText"))


def wait_for_text(answer: Locator, length: int) -> None:
    """Until the answer has grown to `length` characters."""
    answer.page.wait_for_function(
        "([element, length]) => element.rawText.length >= length", arg=[answer.element_handle(), length]
    )


def conversation_id(page: Page) -> str:
    page.wait_for_url(re.compile(r"/c/[0-9a-f-]{36}$"))
    return page.url.rsplit("/", 1)[1]


def stored_text(page: Page) -> str:
    """The last message as the server has it."""
    response = page.request.get(f"/conversations/{conversation_id(page)}")
    return str(response.json()["messages"][-1]["text"])
