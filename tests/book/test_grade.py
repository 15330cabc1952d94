"""Grading executes a copy of a notebook and reads the verdicts of its checks."""

import sys

import nbformat
import pytest
from nbformat import v4

from course_lib.book import grade as grade_module
from course_lib.book.grade import grade

PASS = "print('✓ Exercise {}: right on 4 fresh inputs')"
FAIL = "print('✗ Exercise {}, not yet: counts the queries')"
COPIED = """from course_lib.exercises.basics import what_is_in_context_learning as exercise


def copied(case):
    answers = [y for _, y in case.demonstrations]
    return sum(y in answers for _, y in case.queries) / len(case.queries)


print("debugging", end="")
exercise.copied.check(copied)"""


def text(source):
    return v4.new_markdown_cell(source)


def heading(number):
    return text(f"### Exercise {number} · Copying (●●○, 10 minutes)\n\nWrite it.")


def code(source, *tags):
    return v4.new_code_cell(source, metadata={"tags": list(tags)})


def stale(source, number):
    """A cell that passed once."""
    cell = code(source)
    cell.outputs = [
        v4.new_output("stream", name="stdout", text=f"✓ Exercise {number}: right on 4 fresh inputs\n")
    ]
    return cell


def save(path, *cells):
    path.write_text(nbformat.writes(v4.new_notebook(cells=list(cells))), encoding="utf-8")
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """The exit status and the output of the command line."""

    def main(*paths):
        monkeypatch.setattr(sys, "argv", ["grade", *map(str, paths)])
        status = grade_module.main()
        return status, capsys.readouterr()

    return main


def test_each_exercise_gets_its_last_verdict(tmp_path, run):
    path = save(
        tmp_path / "student.ipynb",
        text("# Title\n\n## Exercises"),
        heading("1"),
        code(f"{FAIL.format('1')}\n{PASS.format('1')}"),
        heading("2"),
        code(PASS.format("2")),
        code(f"{FAIL.format('2')}\n1 / 0"),
        heading("3"),
        stale("1", "3"),
        heading("4"),
        code(f"answer = missing\n{PASS.format('4')}"),
        code("1 / 0"),
        heading("5"),
        code(PASS.format("5"), "hide-cell", "solution"),
        heading("10"),
        code(f"import os\nassert os.path.samefile('.', {str(tmp_path)!r})\n{PASS.format('10')}"),
        code(PASS.format("99")),
        heading("11"),
        text("## Summary"),
        code("1 / 0"),
    )
    before = path.read_bytes()
    status, printed = run(path)
    assert printed.out.splitlines() == [
        str(path),
        "  1  passed",
        "  2  not yet: counts the queries",
        "  3  not attempted",
        "  4  not attempted: NameError: name 'missing' is not defined",
        "  5  not attempted",
        "  10  passed",
        "  11  not attempted",
        "  2 of 7 passed",
    ]
    assert status == 1
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["student.ipynb"]


@pytest.mark.slow
def test_the_verdicts_are_those_of_the_real_checks(tmp_path):
    cost = code("exercise.cost.check(lambda curve: curve['true answers'].mean())")
    path = save(tmp_path / "student.ipynb", heading("2"), code(COPIED), heading("4"), cost)
    assert grade(path) == {
        "2": None,
        "4": "not yet: on two numbers of shots and three cases the answer is a number, expected a tensor",
    }


def test_only_passing_everything_ends_well(tmp_path, run):
    good = save(tmp_path / "good.ipynb", heading("1"), code(PASS.format("1")))
    bad = save(tmp_path / "bad.ipynb", heading("1"), code("1"))
    assert run(good)[0] == 0
    assert run(bad, good)[0] == 1
    (tmp_path / "text.ipynb").write_text("no notebook")
    status, printed = run(tmp_path / "text.ipynb", good)
    assert status == 2
    assert printed.err.startswith(f"{tmp_path / 'text.ipynb'} is not a notebook: ")
    assert printed.out.endswith("  1 of 1 passed\n")


def test_a_kernel_that_dies_keeps_what_was_checked_before(tmp_path):
    end = code("import os\nos._exit(1)")
    cells = [heading("1"), code(PASS.format("1")), end, heading("2"), stale(PASS.format("2"), "2")]
    assert grade(save(tmp_path / "student.ipynb", *cells)) == {"1": None, "2": "not attempted"}


def test_a_cell_that_never_ends_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(grade_module, "_SECONDS", 1)
    cells = [heading("1"), code("while True: pass"), heading("2"), code(PASS.format("2"))]
    verdicts = grade(save(tmp_path / "student.ipynb", *cells))
    assert verdicts == {"1": "not attempted: KeyboardInterrupt", "2": None}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no notebook",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b'{"cells": 3, "nbformat_minor": 5}',
        b'{"cells": ["text"], "nbformat_minor": 5, "nbformat": 4, "metadata": {}}',
        b'{"cells": [{}], "nbformat_minor": 5, "nbformat": 4, "metadata": {}}',
        b'{"cells": [], "nbformat_minor": 5, "nbformat": 4}',
    ],
)
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "student.ipynb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"student\.ipynb is not a notebook: "):
        grade(path)


def test_a_notebook_without_exercises_and_a_missing_one_are_named(tmp_path, run):
    path = save(tmp_path / "student.ipynb", text("## Exercises"), code(PASS.format("1")))
    status, printed = run(path, tmp_path / "missing.ipynb")
    assert status == 2
    assert "student.ipynb has no headings '### Exercise 2 · …'" in printed.err
    assert "missing.ipynb" in printed.err
