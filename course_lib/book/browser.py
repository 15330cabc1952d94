"""A headless Chromium for tests of the built pages and for printing them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: containers have none; the pages are our own. The others keep it from calling home.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts the Chromium or Chrome of this machine, or the one that `playwright install chromium` brought.

    Raises:
        FileNotFoundError: There is none.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_executable(playwright), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def settle(page: Page) -> None:
    """Waits until the math of a built page is typeset, its widgets are drawn and its fonts are there."""
    page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")
    page.wait_for_function(
        """() => document.querySelectorAll('script[type$="widget-view+json"]').length
            <= document.querySelectorAll('.widget > *').length"""
    )
    page.evaluate("() => document.fonts.ready.then(() => null)")


def _executable(playwright: Playwright) -> str:
    path = next(filter(None, map(shutil.which, _NAMES)), None) or playwright.chromium.executable_path
    if not Path(path).exists():
        raise FileNotFoundError(
            "no Chromium or Chrome found: install it (apt-get install chromium) or run "
            "`.venv/bin/python -m playwright install chromium`"
        )
    return path
