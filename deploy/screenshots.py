"""Take the README's pictures of a running instance: `.venv/bin/python deploy/screenshots.py http://127.0.0.1:8000`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
QUESTION = "Write a short Python function that reverses a string, and explain it in two sentences."
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PICTURES = {
    "chat-light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "chat-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


def main(address: str) -> None:
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for name, window in PICTURES.items():
            _take(browser, address, FOLDER / f"{name}.png", window)
        browser.close()


def _take(browser: Browser, address: str, picture: Path, window: dict[str, Any]) -> None:
    context = browser.new_context(**window, device_scale_factor=2)
    page = context.new_page()
    page.goto(address)
    page.get_by_test_id("composer").fill(QUESTION)
    page.get_by_test_id("composer").press("Enter")
    answer = page.locator('[data-testid="message"][data-role="assistant"][data-state="done"]')
    answer.wait_for(timeout=120_000)
    page.wait_for_timeout(500)
    page.screenshot(path=picture)
    context.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
