"""The built book, served on a free port and looked at in a real browser."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from built import HTML, PAGES
from playwright.sync_api import Page

from course_lib.book.browser import settle


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The address of the built book, with a slash at the end."""
    if not (HTML / "index.html").exists():
        pytest.skip("the book is not built: run make book")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def whole() -> None:
    """Skips a test of pages that were built without npm."""
    if "_static/mathjax/" not in (HTML / PAGES[0]).read_text(encoding="utf-8"):
        pytest.skip("the pages load MathJax from a CDN, because npm was not there when they were built")


@pytest.fixture
def visit(browser, site):
    """Opens a page of the book in the given mode and width, and waits until it is drawn."""
    contexts = []

    def go(path: str, *, mode: str = "light", width: int = 1280, base: str = site, watch=None) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        context.add_init_script(f"localStorage.mode = '{mode}'; localStorage.theme = '{mode}'")
        page = context.new_page()
        if watch is not None:
            watch(page)
        page.goto(base + path, wait_until="load")
        settle(page)
        return page

    yield go
    for context in contexts:
        context.close()
