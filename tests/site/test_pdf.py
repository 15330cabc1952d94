"""The printed book: `make pdf`."""

import re
import subprocess
import sys

import pytest
from built import HTML, PAGES, ROOT
from pypdf import PdfReader

from course_lib.book import pdf


@pytest.fixture(scope="module")
def book(browser):
    """The PDF of the built pages."""
    if not (HTML / "index.html").exists():
        pytest.skip("the book is not built: run make book")
    subprocess.run([sys.executable, "-m", "course_lib.book.pdf"], cwd=ROOT, check=True, timeout=600)
    return PdfReader(ROOT / "_build" / "pdf" / "book.pdf")


def squeezed(text):
    return re.sub(r"\s", "", text)


def test_contents_tell_the_page_of_every_section(book):
    entries = re.findall(r"^(.+) (\d+)$", book.pages[0].extract_text(), re.MULTILINE)
    assert len(entries) > len(PAGES)
    for title, number in entries:
        assert squeezed(title) in squeezed(book.pages[int(number) - 1].extract_text()), title


def test_every_link_inside_has_a_target(book):
    targets = set(book.named_destinations)
    notes = [note.get_object() for page in book.pages for note in page.get("/Annots", [])]
    inside = [note["/Dest"] for note in notes if "/Dest" in note]
    assert len(inside) > 100
    assert [link for link in inside if link not in targets] == []


def test_no_link_leads_to_a_file(book):
    notes = [note.get_object() for page in book.pages for note in page.get("/Annots", [])]
    outside = [note["/A"]["/URI"] for note in notes if "/URI" in note.get("/A", {})]
    assert any(link.startswith("https://arxiv.org/") for link in outside)
    assert [link for link in outside if link.startswith("file:")] == []


def test_nothing_is_left_out(book):
    def found(word, pages):
        return any(word in squeezed(page.extract_text()) for page in pages)

    # the glossary stands at the end, and reading all pages takes a minute
    assert found("上下文学习", reversed(book.pages)), (
        "is a font with Chinese characters there (fonts-wqy-microhei)?"
    )
    assert found("Solution", book.pages)
    assert not (HTML / pdf.WHOLE).exists()


def test_outline_and_title(book):
    titles = [entry.title for entry in book.outline if not isinstance(entry, list)]
    assert len(titles) == len(PAGES)


def test_book_that_is_not_built(tmp_path):
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (tmp_path / "intro.md").write_text("# Intro\n")
    with pytest.raises(FileNotFoundError, match="make book"):
        pdf.build(tmp_path, tmp_path / "book.pdf")
