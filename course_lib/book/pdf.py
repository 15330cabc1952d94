"""Prints the built book as one PDF with a table of contents: `python -m course_lib.book.pdf`.

The pages are read as a browser shows them, with their math typeset and their widgets drawn, and put together
into one document, in which links between the pages become links inside it. It is printed twice: only the
first print tells on which page each heading stands.
"""

from __future__ import annotations

import argparse
import sys
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser
from pypdf import PdfReader

from course_lib.book.browser import chromium, settle
from course_lib.book.files import listed

WHOLE = "whole-book.html"  # is there while it is printed
_COLLECT = Path(__file__).with_suffix(".js")
_STYLE = Path(__file__).with_suffix(".css")
_FOOTER = '<p style="width: 100%; text-align: center; font: 9px sans-serif" class="pageNumber"></p>'
_MARGIN = {"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"}


def build(root: Path, pdf: Path) -> None:
    """Prints the pages of `_toc.yml`.

    Args:
        root: Folder of `_toc.yml` and `_build/html`.
        pdf: The file to write.

    Raises:
        FileNotFoundError: The book is not built, or there is no browser.
    """
    html = root / "_build" / "html"
    pages = [html / path.relative_to(root).with_suffix(".html") for path in listed(root)]
    for page in pages:
        if not page.exists():
            raise FileNotFoundError(f"{page} is not there: build the book first (make book)")
    title = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["title"]
    with chromium() as browser:
        parts = _collect(browser, pages)
        draft = _print(browser, html, _document(title, parts, {}))
        found = _page_numbers(draft)
        whole = _print(browser, html, _document(title, parts, found))
    if _page_numbers(whole) != found:
        raise RuntimeError("the table of contents changed the pages it lists")
    pdf.parent.mkdir(parents=True, exist_ok=True)
    pdf.write_bytes(whole)


def _collect(browser: Browser, pages: list[Path]) -> list[dict[str, Any]]:
    numbers = {page.resolve().as_posix(): n for n, page in enumerate(pages)}
    parts = []
    for n, path in enumerate(pages):
        page = browser.new_page()
        page.goto(path.resolve().as_uri())
        settle(page)
        parts.append(page.evaluate(_COLLECT.read_text(encoding="utf-8"), [n, numbers]))
        page.close()
    return parts


def _document(title: str, parts: list[dict[str, Any]], numbers: dict[str, int]) -> str:
    sheets = dict.fromkeys(sheet for part in parts for sheet in part["sheets"])
    styles = dict.fromkeys(style for part in parts for style in part["styles"])
    links = "".join(f'<link rel="stylesheet" href="{escape(sheet)}">' for sheet in sheets)
    contents = "".join(
        f'<li class="level-{h["level"]}"><a href="#{h["id"]}"><span>{escape(h["text"])}</span>'
        f"<span>{numbers.get(h['id'], 0)}</span></a></li>"
        for part in parts
        for h in part["headings"]
    )
    body = "".join(
        f'<article class="bd-article" id="p{n}">{part["html"]}</article>' for n, part in enumerate(parts)
    )
    return (
        f'<!doctype html><html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>{links}<style>{''.join(styles)}</style>"
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body>"
        f'<nav class="contents"><p class="title">{escape(title)}</p><ol>{contents}</ol></nav>'
        f'<main class="bd-content">{body}</main></body></html>'
    )


def _print(browser: Browser, folder: Path, document: str) -> bytes:
    path = folder / WHOLE  # beside the pages, whose fonts it may then load
    path.write_text(document, encoding="utf-8")
    page = browser.new_page()
    try:
        page.goto(path.resolve().as_uri())
        settle(page)
        return page.pdf(
            format="A4",
            margin=_MARGIN,
            print_background=True,
            outline=True,
            tagged=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=_FOOTER,
        )
    finally:
        page.close()
        path.unlink()


def _page_numbers(pdf: bytes) -> dict[str, int]:
    """The number of the page, counted from 1, on which each target of a link stands."""
    reader = PdfReader(BytesIO(pdf))
    return {
        name.lstrip("/"): reader.get_destination_page_number(target) + 1
        for name, target in reader.named_destinations.items()
    }


def main() -> int:
    """Prints the book of the current folder into `_build/pdf/book.pdf`."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.pdf", description=__doc__)
    parser.parse_args()
    pdf = Path("_build", "pdf", "book.pdf")
    build(Path.cwd(), pdf)
    print(f"{pdf}: {len(PdfReader(pdf).pages)} pages, {pdf.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
