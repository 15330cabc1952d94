"""Every notebook of the book is in its contents, says its place there, and keeps the rules of lint."""

import re
from pathlib import Path

import pytest

from course_lib.book.contents import changes, chapters
from course_lib.book.files import PARTS, listed, toc
from course_lib.book.lint import BY_NUMBER, lint

ROOT = Path(__file__).parents[2]
BOOK = sorted((ROOT / "book").glob("**/*.ipynb"))
TEXTS = [
    path
    for pattern in ("book/**/*.md", "course_lib/**/*.py", "tests/**/*.py", "benchmarks/*.py")
    for path in ROOT.glob(pattern)
]


def test_contents_list_every_notebook():
    assert sorted(path for path in listed(ROOT) if path.suffix == ".ipynb") == BOOK
    assert [chapter.path for chapter in chapters(ROOT)] == [p for p in listed(ROOT) if p.suffix == ".ipynb"]


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_chapter_has_a_module_of_exercises(path):
    module = ROOT / "course_lib" / "exercises" / path.parent.name / f"{path.stem.replace('-', '_')}.py"
    assert f"exercises.{path.parent.name} import {module.stem} as exercise" in path.read_text(
        encoding="utf-8"
    )
    assert module.exists()


def test_parts_are_folders_in_one_order():
    parts = [part for part in toc(ROOT)["parts"] if part.get("numbered")]
    found = {}
    for part in parts:
        [folder] = {Path(entry["file"]).parts[1] for entry in part["chapters"]}
        found[folder] = part["caption"]
    assert list(found.items()) == [item for item in PARTS.items() if item[0] in found]
    assert {part["numbered"] for part in parts} == {1}  # chapters, not their sections


def test_places_and_costs_are_those_of_the_contents():
    assert [path.name for path in changes(ROOT)] == [], "run python -m course_lib.book.contents"


def test_links_to_chapters_are_their_titles():
    titles = {chapter.path: chapter.title for chapter in chapters(ROOT)}
    for path in [*BOOK, *ROOT.glob("book/*.md")]:
        for text, link in re.findall(r"\[([^\]\n]+)\]\(([^)\s]+\.ipynb)\)", path.read_text(encoding="utf-8")):
            assert titles[(path.parent / link).resolve()] == text, path


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path):
    assert lint(path) == []


def test_no_text_names_a_chapter_by_its_number():
    found = [path.name for path in TEXTS if BY_NUMBER.search(path.read_text(encoding="utf-8"))]
    assert found == []
