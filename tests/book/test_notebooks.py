"""Every notebook of the book is in its contents and keeps the rules of `course_lib.book.lint`."""

from pathlib import Path

import pytest

from course_lib.book.files import listed
from course_lib.book.lint import lint

ROOT = Path(__file__).parents[1]
BOOK = sorted((ROOT / "book").glob("*.ipynb"))


def contents():
    return listed(ROOT) if (ROOT / "_toc.yml").exists() else []


def test_contents_list_every_notebook():
    assert sorted(path for path in contents() if path.suffix == ".ipynb") == BOOK


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path):
    assert lint(path) == []
