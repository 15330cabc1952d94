"""A chapter begun from the template passes everything that a chapter has to pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.book import chapter
from course_lib.book.contents import changes, chapters
from course_lib.book.files import listed
from course_lib.book.lint import lint

ROOT = Path(__file__).parents[2]
TOC = """\
format: jb-book
root: book/intro
parts:
- caption: Reference
  chapters:
  - file: book/teaching
"""


@pytest.fixture
def copy(tmp_path):
    """The course without its chapters and tests."""
    for name in ("_config.yml", "pyproject.toml", "references.bib"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "course_lib", tmp_path / "course_lib")
    (tmp_path / "tests" / "exercises").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "exercises" / "test_exercises.py", tmp_path / "tests" / "exercises")
    (tmp_path / "book").mkdir()
    for page in ("README.md", "book/intro.md", "book/teaching.md"):
        (tmp_path / page).write_text("# Page\n\n<!-- chapters -->\n<!-- /chapters -->\n")
    (tmp_path / "_toc.yml").write_text(TOC)
    return tmp_path


def python(root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_new_chapter_passes_all_tests(copy):
    out = python(copy, "-m", "course_lib.book.chapter", "prompting", "my-topic")
    assert out.splitlines() == [
        "book/prompting/my-topic.ipynb",
        "course_lib/prompting/my_topic.py",
        "course_lib/exercises/prompting/my_topic.py",
        "tests/prompting/test_my_topic.py",
        "Next: make runtimes CHAPTER=prompting/my-topic",
    ]
    notebook = copy / "book" / "prompting" / "my-topic.ipynb"
    assert lint(notebook) == []
    assert listed(copy)[1] == notebook
    assert changes(copy) == {}
    sanitise = f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}"
    run = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    python(copy, *run, "--nbval", sanitise, str(notebook))
    python(copy, *run, "-k", "my_topic", "tests/prompting", "tests/exercises")
    python(copy, "-m", "ruff", "check", "--no-cache", "book", "tests", "course_lib/exercises/prompting")
    python(copy, "-m", "ruff", "format", "--no-cache", "--check", ".")


def test_chapters_are_listed_last_in_their_part_and_new_parts_last(copy):
    for part, name in (("mechanisms", "one"), ("origins", "long-ago"), ("mechanisms", "two")):
        chapter.begin(copy, part, name)
    assert [path.stem for path in listed(copy)] == ["intro", "one", "two", "long-ago", "teaching"]
    numbers = [(c.number, c.part, c.question) for c in chapters(copy)]
    assert numbers == [
        (1, "Inside a language model", "One?"),
        (2, "Inside a language model", "Two?"),
        (3, "Where it comes from", "Long ago?"),
    ]
    for folder in ("course_lib", "course_lib/exercises"):
        assert (copy / folder / "origins" / "__init__.py").exists()
        assert (copy / folder / "origins" / "long_ago.py").exists()


def test_the_contents_of_the_course_are_kept_by_a_new_chapter(copy):
    before = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    (copy / "_toc.yml").write_text(before, encoding="utf-8")
    chapter.begin(copy, "basics", "my-topic")
    added = "  - file: book/basics/what-is-in-context-learning\n  - file: book/basics/my-topic\n"
    after = before.replace("  - file: book/basics/what-is-in-context-learning\n", added)
    assert (copy / "_toc.yml").read_text(encoding="utf-8") == after


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("magic", "my-topic", "part must be one of basics, attention, .*, got 'magic'"),
        ("basics", "My-topic", "name must be words"),
        ("basics", "13-my-topic", "name"),
        ("basics", "my_topic", "name"),
        ("basics", "my--topic", "name"),
        ("basics", "", "name"),
        ("basics", "class", "name"),
    ],
)
def test_names_of_another_form(copy, part, name, message):
    before = sorted(copy.rglob("*"))
    with pytest.raises(ValueError, match=message):
        chapter.begin(copy, part, name)
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize(("part", "name"), [("basics", "topic"), ("learning", "duality")])
def test_nothing_is_overwritten(copy, part, name):
    chapter.begin(copy, "basics", "topic")
    before = sorted(copy.rglob("*"))
    with pytest.raises(FileExistsError, match=name):
        chapter.begin(copy, part, name)
    assert sorted(copy.rglob("*")) == before
