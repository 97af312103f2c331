"""The share dialog and the shared page in a real browser, with and without scripts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from django.db import connection
from playwright.sync_api import Browser, Page, expect

from tests.browser.page_parts import ask, choose, conversation_id, raw, wait_for_state
from tests.stack import SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, MARKDOWN, REPLIES

T = TypeVar("T")


@pytest.fixture(autouse=True)
def worker(stack: Stack) -> None:
    stack.worker(TINY)


def _elsewhere(action: Callable[[], T]) -> T:
    """On another thread: Playwright's loop runs on this one, where Django refuses every query."""

    def run() -> T:
        try:
            return action()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def _shared(*texts: str, title: str = "A talk", reasoning: str = "") -> str:
    """The path of a share of somebody's conversation with these texts."""
    from accounts.models import User
    from chat import shares
    from tests.rows import talk

    def make() -> str:
        person = User.objects.create(kind=User.Kind.GUEST)
        conversation = talk(person, *texts, title=title, reasoning=reasoning)
        choice = shares.Choice(reasoning=bool(reasoning))
        return f"/s/{shares.put(person, conversation.pk, choice, expires=None).token}"

    return _elsewhere(make)


def _open_dialog(page: Page) -> None:
    page.get_by_test_id("share-button").click()
    expect(page.get_by_test_id("share-dialog").locator("form")).to_be_visible()


def test_a_conversation_is_shared_copied_updated_and_revoked(page: Page) -> None:
    expect(page.get_by_test_id("share-button")).to_be_hidden()
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    _open_dialog(page)
    dialog = page.get_by_test_id("share-dialog")
    expect(dialog).to_contain_text("What is written later stays private")
    dialog.get_by_label("The link ends").select_option(label="in 7 days")
    dialog.get_by_role("button", name="Create link").click()
    dialog.get_by_role("button", name="Copy link").click()
    address = page.evaluate("navigator.clipboard.readText()")
    assert address == page.get_by_test_id("share-address").input_value()
    expect(dialog).to_contain_text("Ends ")
    assert REPLIES[HELLO] in page.request.get(address).text()

    dialog.get_by_role("button", name="Close").click()
    wait_for_state(ask(page, EMOJI), "done")
    assert REPLIES[EMOJI] not in page.request.get(address).text()
    _open_dialog(page)
    expect(dialog.get_by_label("The link ends")).to_have_value("7")
    dialog.get_by_role("button", name="Update link").click()
    expect(dialog.get_by_role("status")).to_have_text("The link shows the conversation as it is now.")
    assert REPLIES[EMOJI] in page.request.get(address).text()

    dialog.get_by_role("button", name="Stop sharing").click()
    expect(dialog.get_by_role("button", name="Create link")).to_be_focused()
    assert page.request.get(address).status == 404
    assert page.request.get(f"{address}/card.png").status == 404


def test_the_dialog_works_by_keyboard_alone_and_keeps_the_focus(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    button = page.get_by_test_id("share-button")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_test_id("share-dialog")
    expect(dialog.get_by_role("button", name="Create link")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        # Outside of the page's own elements is only the browser's frame, where the body has the focus.
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    dialog.get_by_role("button", name="Create link").focus()
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Copy link")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()


def test_what_was_found_is_pointed_out_and_masked(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, "I am ann@example.org, and my other one is ann@example.com"), "done")
    _open_dialog(page)
    dialog = page.get_by_test_id("share-dialog")
    choice = dialog.get_by_role("checkbox", name="2 e-mail addresses")
    expect(choice).to_be_checked()
    dialog.get_by_role("button", name="Create link").click()
    expect(page.get_by_test_id("share-address")).to_be_visible()
    html = page.request.get(page.get_by_test_id("share-address").input_value()).text()
    assert "ann@example" not in html
    assert "[e-mail address removed]" in html

    dialog.get_by_role("button", name="Close").click()
    wait_for_state(ask(page, "Call me at +49 30 901820"), "done")
    page.goto("/shares")
    page.get_by_role("button", name="Update").click()
    expect(page.get_by_test_id("share")).to_have_count(1)
    page.get_by_test_id("share").get_by_role("link").first.click()
    expect(page.get_by_text("Call me at [phone number removed]")).to_be_visible()


def test_a_refusal_and_a_lost_network_are_told_in_the_dialog(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    _open_dialog(page)
    dialog = page.get_by_test_id("share-dialog")
    page.route("**/share", lambda route: route.abort())
    dialog.get_by_role("button", name="Create link").click()
    expect(dialog.get_by_role("alert")).to_contain_text("could not be reached")
    page.unroute("**/share")
    dialog.get_by_role("button", name="Create link").click()
    expect(page.get_by_test_id("share-address")).to_be_visible()
    expect(dialog.get_by_role("alert")).to_be_hidden()


def test_an_unfinished_answer_is_refused_with_a_sentence_and_escape_does_not_stop_it(page: Page, stack: Stack) -> None:
    stack.worker(SLOW)
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_state(answer, "running")
    _open_dialog(page)
    dialog = page.get_by_test_id("share-dialog")
    dialog.get_by_role("button", name="Create link").click()
    expect(dialog.get_by_role("alert")).to_have_text(
        "An answer is still being written. Wait for it, or stop it, and share again."
    )
    expect(dialog.get_by_role("button", name="Create link")).to_be_focused()
    # Wherever the focus is.
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    wait_for_state(answer, "done")
    assert raw(answer) == REPLIES[COUNT]


def test_the_list_of_shares_copies_and_revokes(page: Page) -> None:
    page.goto("/shares")
    expect(page.get_by_text("You share nothing.")).to_be_visible()
    page.goto("/")
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    _open_dialog(page)
    page.get_by_test_id("share-dialog").get_by_role("button", name="Create link").click()
    expect(page.get_by_test_id("share-address")).to_be_visible()
    address = page.get_by_test_id("share-address").input_value()
    page.get_by_role("link", name="All your shares").click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == address
    page.get_by_role("button", name="Stop sharing").click()
    expect(page.get_by_text("You share nothing.")).to_be_visible()
    assert page.request.get(address).status == 404


def test_a_shared_page_is_read_without_scripts_and_without_cookies(browser: Browser, stack: Stack) -> None:
    path = _shared("The question", REPLIES[MARKDOWN], title="A title", reasoning="It thought this")
    reader = browser.new_context(base_url=stack.base, java_script_enabled=False)
    page = reader.new_page()
    page.goto(path)
    expect(page.get_by_role("heading", level=1, name="A title")).to_be_visible()
    expect(page.get_by_text("The question")).to_be_visible()
    expect(page.locator(".answer table")).to_be_visible()
    expect(page.locator(".answer pre").first).to_be_visible()
    page.get_by_text("Thoughts").click()
    expect(page.get_by_text("It thought this")).to_be_visible()
    assert reader.cookies() == []
    reader.close()


def test_a_reader_continues_in_one_click(browser: Browser, stack: Stack) -> None:
    path = _shared("The question", "The answer")
    reader = browser.new_context(base_url=stack.base)
    page = reader.new_page()
    page.goto(path)
    page.get_by_role("button", name="Continue this conversation").click()
    conversation_id(page)
    expect(page.get_by_text("The answer")).to_be_visible()
    choose(page, TINY)
    wait_for_state(ask(page, EMOJI), "done")
    page.reload()
    expect(page.get_by_text("The answer")).to_be_visible()
    reader.close()


HOSTILE = "\n\n".join(
    [
        "<script>window.ran = true</script><img src=https://evil.example/a onerror='window.ran = true'>",
        "![x](https://evil.example/b.png)",
        "[click me](javascript:window.ran=true)",
        "<iframe src=https://evil.example/c></iframe><style>@import 'https://evil.example/d'</style>",
        "<svg onload='window.ran = true'></svg><base href=https://evil.example/>",
        '<meta http-equiv=refresh content="0; url=https://evil.example/e">',
    ]
)


def test_hostile_texts_run_nothing_and_load_nothing(browser: Browser, stack: Stack) -> None:
    path = _shared(HOSTILE, HOSTILE, title="<img src=https://evil.example/t onerror='window.ran = true'>")
    reader = browser.new_context(base_url=stack.base)
    page = reader.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path)
    page.wait_for_load_state("networkidle")
    page.get_by_text("click me").last.click()
    assert page.evaluate("window.ran") is None
    assert page.url == stack.base + path
    assert asked
    assert [address for address in asked if not address.startswith(stack.base)] == []
    expect(page.locator(".answer img, .answer iframe, .answer script, .bubble *")).to_have_count(0)
    expect(page.locator('.answer a[href^="javascript"]')).to_have_count(0)
    reader.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page(browser: Browser, stack: Stack, width: int) -> None:
    path = _shared("x" * 400, f"{REPLIES[MARKDOWN]}\n\n```\n{'y' * 400}\n```\n\n`{'z' * 400}`", title="t" * 80)
    reader = browser.new_context(base_url=stack.base, viewport={"width": width, "height": 800})
    page = reader.new_page()
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    reader.close()


def test_each_block_is_written_in_its_own_direction(browser: Browser, stack: Stack) -> None:
    path = _shared("مرحبا", "مرحبا بالعالم\n\nHello world")
    reader = browser.new_context(base_url=stack.base)
    page = reader.new_page()
    page.goto(path)
    directions = page.locator(".answer .block").evaluate_all(
        "blocks => blocks.map((block) => getComputedStyle(block).direction)"
    )
    assert directions == ["rtl", "ltr"]
    reader.close()
