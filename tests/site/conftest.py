"""The built book, served on a free port and looked at in a real browser."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from built import HTML, PAGES
from playwright.sync_api import ConsoleMessage, Page, Response

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


@dataclass
class View:
    """A page of the book as it was opened, and what was seen on the way."""

    page: Page
    path: str
    said: list[str] = field(default_factory=list)  # on the console
    asked: list[str] = field(default_factory=list)  # addresses
    failed: list[str] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    def watch(self) -> None:
        """Takes note of everything from now on."""

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.said.append(message.text)

        def answered(response: Response) -> None:
            self.responses.append(response)
            if response.status >= 400:
                self.failed.append(response.url)

        self.page.on("console", heard)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", answered)
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))


@contextmanager
def opened(browser, address: str, path: str, mode: str = "light", width: int = 1280, before=None):
    """Opens a page in the given mode and width, and waits until it is drawn."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.add_init_script(f"localStorage.mode = localStorage.theme = '{mode}'")
    view = View(context.new_page(), path)
    view.watch()
    if before is not None:
        before(view.page)
    view.page.goto(address + path, wait_until="load")
    settle(view.page)
    yield view
    context.close()


# A page is opened once for all tests of a kind, as that takes seconds


@pytest.fixture(scope="module")
def light(request, browser, site) -> Iterator[View]:
    """A page at 1280 px, to be looked at."""
    with opened(browser, site, request.param) as view:
        yield view


@pytest.fixture(scope="module")
def dark(request, browser, site) -> Iterator[View]:
    """A page in its dark colours."""
    with opened(browser, site, request.param, mode="dark") as view:
        yield view


@pytest.fixture(scope="module")
def narrow(request, browser, site) -> Iterator[View]:
    """A page on a phone."""
    with opened(browser, site, request.param, width=390) as view:
        yield view


@pytest.fixture(scope="module")
def file(request, browser) -> Iterator[Page]:
    """A page to do something to, opened as a file and with a clock that can be run."""
    if not (HTML / "index.html").exists():
        pytest.skip("the book is not built: run make book")
    address = f"{HTML.as_uri()}/"
    with opened(browser, address, request.param, before=lambda page: page.clock.install()) as view:
        yield view.page


@pytest.fixture
def visit(browser, site):
    """Opens a page for one test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(opened(browser, site, path)).page
