"""A chapter begun from the template passes everything that a chapter has to pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.book import chapter
from course_lib.book.files import listed, read
from course_lib.book.lint import lint

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path):
    """The course without its chapters and tests."""
    for name in ("_config.yml", "pyproject.toml", "references.bib"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "course_lib", tmp_path / "course_lib")
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_exercises.py", tmp_path / "tests")
    (tmp_path / "book").mkdir()
    for name in ("intro", "glossary"):
        (tmp_path / "book" / f"{name}.md").write_text(f"# {name}\n")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: book/glossary\n", encoding="utf-8"
    )
    return tmp_path


def python(root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_new_chapter_passes_all_tests(copy):
    out = python(copy, "-m", "course_lib.book.chapter", "13-my-topic", "--module", "topic")
    assert out.startswith("13-my-topic.ipynb: ")
    notebook = copy / "book" / "13-my-topic.ipynb"
    assert lint(notebook) == []
    assert listed(copy)[1] == notebook
    sanitise = f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}"
    python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", sanitise, str(notebook))
    python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    python(copy, "-m", "ruff", "check", "--no-cache", ".")
    python(copy, "-m", "ruff", "format", "--no-cache", "--check", ".")


def test_chapters_are_listed_in_order(copy):
    for slug in ("05-five", "03-three", "11-eleven", "04-four"):
        chapter.begin(copy, slug)
    names = [path.stem for path in listed(copy)]
    assert names == ["intro", "03-three", "04-four", "05-five", "11-eleven", "glossary"]
    assert (copy / "course_lib" / "exercises" / "eleven.py").exists()
    assert read(copy / "book" / "04-four.ipynb").metadata.course.question == "Four?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("my-topic",), "slug"), (("13-My",), "slug"), (("13",), "slug"), (("13-a", "no-name"), "module")],
)
def test_names_of_another_form(copy, arguments, message):
    with pytest.raises(ValueError, match=message):
        chapter.begin(copy, *arguments)


@pytest.mark.parametrize("second", [("13-other", "other"), ("14-mine", "topic")])
def test_nothing_is_overwritten(copy, second):
    chapter.begin(copy, "13-topic")
    before = sorted(copy.rglob("*"))
    with pytest.raises(FileExistsError, match="topic"):
        chapter.begin(copy, *second)
    assert sorted(copy.rglob("*")) == before
