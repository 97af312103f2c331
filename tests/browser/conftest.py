"""A real Chromium for the page's tests. Nothing of Django's database is used here: Playwright runs an event loop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.stack import Stack

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="package")
def browser(stack: Stack) -> Iterator[Browser]:
    """For this package alone: while Playwright's loop runs, Django refuses every query on this thread."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise RuntimeError("Chromium is not on PATH; `make test` installs it where it can")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    """One visitor: tabs of the same context share its session and storage."""
    visitor = browser.new_context(base_url=stack.base, viewport={"width": 1280, "height": 800})
    visitor.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.set_default_timeout(20_000)
    yield visitor
    visitor.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """The new-chat page. A test fails on any error that the page's own code raises or the CSP reports."""
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    opened.goto("/")
    yield opened
    assert problems == []
