"""The page in a real browser, against the real server and worker."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.page_parts import (
    answers,
    ask,
    choose,
    conversation_id,
    raw,
    stored_text,
    wait_for_state,
    wait_for_text,
)
from tests.stack import ABSENT, SLOW, TINY, Stack
from tests.tiny.replies import COUNT, EMOJI, HELLO, MARKDOWN, REPLIES


@pytest.fixture(autouse=True)
def workers(stack: Stack) -> None:
    for model in (TINY, SLOW):
        stack.worker(model)


def test_a_guest_asks_and_reads_the_answer_at_an_address_of_its_own(page: Page) -> None:
    expect(page.get_by_text("Ask an open model")).to_be_visible()
    choose(page, TINY)
    answer = ask(page, EMOJI)
    wait_for_state(answer, "done")
    assert raw(answer) == REPLIES[EMOJI] == stored_text(page)
    expect(answer.get_by_test_id("answer-text")).to_have_text(REPLIES[EMOJI])
    expect(page.get_by_test_id("conversation-link")).to_have_text(EMOJI)
    expect(page).to_have_title(f"{EMOJI} · Lambda Chat")
    expect(answer).to_contain_text("Tiny")


def test_a_reload_in_mid_answer_ends_with_byte_identical_text(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 250)  # beyond what the first save, after a second, holds
    page.reload()
    again = answers(page).last
    assert len(raw(again)) > 20
    expect(again).to_have_attribute("data-state", "running")
    wait_for_state(again, "done")
    assert raw(again) == REPLIES[COUNT] == stored_text(page)


def test_a_second_tab_follows_the_same_answer_to_the_same_text(page: Page, context: BrowserContext) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 40)
    tab = context.new_page()
    tab.goto(page.url)
    other = answers(tab).last
    wait_for_text(other, 120)
    page.get_by_test_id("send").click()
    wait_for_state(answer, "cancelled")
    wait_for_state(other, "cancelled")
    assert raw(answer) == raw(other) == stored_text(page)
    tab.close()


def test_a_question_from_another_tab_appears_by_itself(page: Page, context: BrowserContext) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    tab = context.new_page()
    tab.goto(page.url)
    expect(answers(tab)).to_have_count(1)
    expect(tab.get_by_test_id("connection")).to_have_attribute("data-state", "connected")
    wait_for_state(ask(page, EMOJI), "done")
    expect(answers(tab)).to_have_count(2)
    wait_for_state(answers(tab).last, "done")
    assert raw(answers(tab).last) == REPLIES[EMOJI]
    tab.close()


def test_stop_and_escape_end_the_answer_and_keep_what_was_shown(page: Page) -> None:
    choose(page, SLOW)
    first = ask(page, COUNT)
    wait_for_text(first, 30)
    expect(page.get_by_test_id("send")).to_have_attribute("data-mode", "stop")
    page.get_by_test_id("send").click()
    wait_for_state(first, "cancelled")
    assert raw(first) == stored_text(page)
    second = ask(page, COUNT)
    wait_for_text(second, 30)
    page.keyboard.press("Escape")
    wait_for_state(second, "cancelled")
    assert raw(second) == stored_text(page)
    expect(page.get_by_test_id("send")).to_have_attribute("data-mode", "send")


def test_the_first_conversation_is_in_the_list_while_it_is_answered(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    expect(page.get_by_test_id("conversation-link")).to_have_text(COUNT)
    expect(answer).to_have_attribute("data-state", "running")
    page.get_by_test_id("send").click()
    wait_for_state(answer, "cancelled")


def test_markdown_is_rendered_with_code_tables_and_maths_and_money_stays_money(page: Page) -> None:
    choose(page, TINY)
    answer = ask(page, MARKDOWN)
    wait_for_state(answer, "done")
    text = answer.get_by_test_id("answer-text")
    expect(text.locator("h1, h2, h3").first).to_have_text("Title")
    expect(text.locator("table td").nth(1)).to_have_text("$5")
    expect(text.locator(".katex-base").first).to_be_visible()
    expect(text.locator("p", has=page.locator(".katex-base"))).to_have_count(1)
    expect(text).to_contain_text("They cost $5 and $9, and")
    expect(text.locator("pre code span").first).to_be_visible()
    text.get_by_role("button", name="Copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == "print(1 < 2 and 'ok')"


def test_a_library_that_arrives_late_never_brings_an_older_text_back(page: Page) -> None:
    """The text of an answer stayed cut off when the highlighter was loaded while its last words were being rendered."""
    shown = page.evaluate(
        """async () => {
            const address = performance.getEntriesByType("resource").map((entry) => entry.name)
                .find((name) => /models\\/markdown\\.[0-9a-f]+\\.js$/.test(name));
            const { MarkdownRenderer } = await import(address);
            const workers = [];
            const Real = window.Worker;
            window.Worker = class extends EventTarget {
                posted = [];
                constructor() { super(); workers.push(this); }
                postMessage(request) { this.posted.push(request); }
                terminate() {}
                say(data) { this.dispatchEvent(new MessageEvent("message", { data })); }
            };
            const shown = [];
            const renderer = new MarkdownRenderer("unused");
            const show = (text) => renderer.render("m", text, (blocks) => shown.push(blocks[0]));
            const answer = (worker, complete) => {
                const { id, text } = worker.posted.shift();
                worker.say({ type: "rendered", id, blocks: [text], complete });
            };
            show("half");
            const [worker] = workers;
            worker.say({ type: "ready" });
            answer(worker, false);
            show("half and the rest");
            worker.say({ type: "loaded" });
            while (worker.posted.length > 0) answer(worker, true);
            window.Worker = Real;
            return shown;
        }"""
    )
    assert shown == ["half", "half and the rest"]


def test_a_text_that_waits_for_a_library_is_shown_again_with_it(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, MARKDOWN), "done")
    page.reload()
    expect(answers(page).last.locator(".katex-base").first).to_be_visible()


def test_enter_sends_shift_enter_breaks_the_line_and_composition_never_sends(page: Page) -> None:
    choose(page, TINY)
    composer = page.get_by_test_id("composer")
    composer.press_sequentially("one")
    composer.press("Shift+Enter")
    composer.press_sequentially("two")
    assert composer.input_value() == "one\ntwo"
    for event in ("{key: 'Enter', isComposing: true}", "{key: 'Enter', keyCode: 229}"):
        composer.evaluate(
            f"element => element.dispatchEvent(new KeyboardEvent('keydown', {{bubbles: true, ...{event}}}))"
        )
    assert answers(page).count() == 0
    composer.press("Enter")
    expect(answers(page)).to_have_count(1)
    expect(composer).to_have_value("")


def test_the_draft_survives_a_reload_and_each_conversation_has_its_own(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    page.get_by_test_id("composer").fill("a thought for later")
    page.reload()
    expect(page.get_by_test_id("composer")).to_have_value("a thought for later")
    page.get_by_test_id("new-chat").first.click()
    expect(page.get_by_test_id("composer")).to_have_value("")
    page.get_by_test_id("conversation-link").first.click()
    expect(page.get_by_test_id("composer")).to_have_value("a thought for later")


def test_a_refused_message_comes_back_into_the_composer_with_a_sentence(page: Page, context: BrowserContext) -> None:
    choose(page, TINY)
    # The model's worker goes away between the choice and the message: the page still offers it.
    page.evaluate(
        """absent => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                send.call(this, data.replace('"model":"tiny"', `"model":"${absent}"`));
            };
        }""",
        ABSENT,
    )
    composer = page.get_by_test_id("composer")
    composer.fill("please do not lose me")
    composer.press("Enter")
    expect(page.get_by_test_id("error").first).to_contain_text("is not running at the moment")
    expect(composer).to_have_value("please do not lose me")


def test_without_the_network_the_page_says_so_and_sends_when_it_is_back(page: Page, context: BrowserContext) -> None:
    choose(page, TINY)
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "connected")
    context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('offline'))")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "offline")
    context.set_offline(False)
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "connected")
    answer = ask(page, HELLO)
    wait_for_state(answer, "done")
    assert raw(answer) == REPLIES[HELLO]


def test_a_message_over_the_limit_is_told_before_it_is_sent(page: Page) -> None:
    page.get_by_test_id("composer").fill("x" * 60_000)
    expect(page.get_by_text("Too long: 58.6 KB of at most 48 KB.")).to_be_visible()
    expect(page.get_by_test_id("send")).to_be_disabled()
    page.get_by_test_id("composer").fill("short again")
    expect(page.get_by_test_id("send")).to_be_enabled()


def test_the_picker_works_by_keyboard_and_refuses_what_is_not_running(page: Page) -> None:
    page.get_by_test_id("picker-button").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("picker")).to_be_visible()
    off = page.locator(f'[data-testid="picker-option"][data-slug="{ABSENT}"]')
    expect(off).to_have_attribute("aria-disabled", "true")
    page.keyboard.type("slow")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("picker")).to_be_hidden()
    expect(page.get_by_test_id("picker-button")).to_contain_text("Tiny Slow")


def test_new_chat_and_back_keep_both_conversations(page: Page) -> None:
    choose(page, TINY)
    wait_for_state(ask(page, HELLO), "done")
    first = conversation_id(page)
    page.get_by_test_id("new-chat").first.click()
    expect(answers(page)).to_have_count(0)
    wait_for_state(ask(page, EMOJI), "done")
    assert conversation_id(page) != first
    expect(page.get_by_test_id("conversation-link")).to_have_count(2)
    page.get_by_test_id("conversation-link").filter(has_text=HELLO).click()
    expect(answers(page).last.get_by_test_id("answer-text")).to_have_text(REPLIES[HELLO])
    page.go_back()
    expect(answers(page).last.get_by_test_id("answer-text")).to_have_text(REPLIES[EMOJI])


def test_an_answer_that_failed_can_be_tried_again(page: Page) -> None:
    choose(page, SLOW)
    answer = ask(page, COUNT)
    wait_for_text(answer, 10)
    page.get_by_test_id("send").click()
    wait_for_state(answer, "cancelled")
    answer.get_by_role("button", name="Try again").click()
    again = answers(page).last
    expect(again).to_have_attribute("data-state", "running")
    page.keyboard.press("Escape")
    wait_for_state(again, "cancelled")
    expect(answers(page)).to_have_count(1)


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window(page: Page, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 780})
    choose(page, TINY)
    wait_for_state(ask(page, MARKDOWN), "done")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_markup_in_a_question_or_an_answer_runs_nothing_and_loads_nothing(page: Page) -> None:
    choose(page, TINY)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    attack = '<img src="https://evil.example/x.png" onerror="window.hacked=1"><script>window.hacked=1</script>'
    wait_for_state(ask(page, attack), "done")
    assert page.evaluate("window.hacked") is None
    assert [url for url in requests if "evil.example" in url] == []
