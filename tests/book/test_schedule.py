"""Several notebooks at a time: how many, and what one that dies does to the others."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from course_lib.book import files, notebooks, schedule

ROOT = Path(__file__).parents[2]
NAMES = ("short", "long", "new", "large")
PATHS = [Path("book", "attention", f"{name}.ipynb") for name in NAMES]
RUNTIMES = {
    "attention/short": {"seconds": 5, "memory_gb": 1.0},
    "attention/long": {"seconds": 90, "memory_gb": 1.0},
    "attention/large": {"seconds": 60, "memory_gb": 4.0},
}


# How many


@pytest.mark.parametrize(
    ("cores", "memory", "at_once", "threads"),
    [
        (1, 100, 1, 1),
        (2, 100, 2, 1),
        (3, 100, 3, 1),
        (4, 100, 4, 1),
        (9, 100, 4, 2),  # there are no more notebooks
        (4, 11.2, 3, 1),  # 1.25 · (4 + 3 + 1 + 1) GB for all four
        (4, 8.7, 1, 4),  # the two largest do not fit
        (2, 8.8, 2, 1),
        (2, 0.1, 1, 2),  # at least one
    ],
)
def test_as_many_at_a_time_as_memory_and_cores_allow(cores, memory, at_once, threads):
    plan = schedule.plan(PATHS, RUNTIMES, cores, memory)
    assert plan[1:] == (at_once, threads)
    assert plan.threads * plan.at_once <= max(cores, 1)


def test_the_longest_is_begun_first_and_the_unknown_before_it():
    plan = schedule.plan(PATHS, RUNTIMES, 2, 100)
    assert [path.stem for path in plan.paths] == ["new", "long", "large", "short"]
    assert schedule.plan([], {}, 2, 100) == ([], 1, 2)


def test_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "_CGROUP", tmp_path)
    whole = schedule.free_memory_gb()
    (tmp_path / "memory.current").write_text("250000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert schedule.free_memory_gb() == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text("500000000\n")
    assert schedule.free_memory_gb() == 0.25


# Which


def test_a_notebook_is_named_with_or_without_its_part():
    both = [*PATHS, Path("book", "learning", "short.ipynb")]
    assert notebooks.select(PATHS, []) == PATHS
    assert notebooks.select(both, ["new", "attention/short"]) == [PATHS[0], PATHS[2]]
    with pytest.raises(ValueError, match=r"'short' must .*, as in attention/short, learning/short$"):
        notebooks.select(both, ["short"])
    with pytest.raises(ValueError, match=r"'08' must .* attention/short, attention/long"):
        notebooks.select(both, ["08"])


# What happens

MEET = """\
import time
from pathlib import Path
Path("{name}.here").touch()
end = time.monotonic() + 60
while not Path("{other}.here").exists():
    assert time.monotonic() < end, "the other notebook has not begun"
    time.sleep(0.05)"""
THREADS = "import os\nprint('threads', os.environ['OMP_NUM_THREADS'])"


def execute(root, cells, *arguments, **environment):
    """The exit status and the outputs of a book of one notebook for each name, of one code cell each."""
    folder = root / "book" / "attention"
    folder.mkdir(parents=True)
    for name, source in cells.items():
        text = v4.new_markdown_cell(f"# {name}")
        notebook = v4.new_notebook(cells=[text, v4.new_code_cell(source)])
        (folder / f"{name}.ipynb").write_text(nbformat.writes(notebook) + "\n")
    entries = "".join(f"  - file: book/attention/{name}\n" for name in cells)
    (root / "_toc.yml").write_text(f"parts:\n- caption: Attention\n  numbered: 1\n  chapters:\n{entries}")
    for page in ("README.md", "book/intro.md", "book/teaching.md"):
        (root / page).write_text("<!-- chapters -->\n<!-- /chapters -->\n")
    command = [sys.executable, "-m", "course_lib.book.notebooks", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    printed = {
        name: "".join(output.text for output in files.read(folder / f"{name}.ipynb").cells[1].outputs)
        for name in cells
    }
    return done, printed


@pytest.mark.slow
@pytest.mark.skipif(schedule.free_cores() < 2, reason="one core runs one notebook at a time")
def test_two_notebooks_run_at_the_same_time_with_a_thread_each(tmp_path):
    cells = {
        name: f"{THREADS}\n{MEET.format(name=name, other=other)}"
        for name, other in (("one", "two"), ("two", "one"))
    }
    done, printed = execute(tmp_path, cells, LOKY_MAX_CPU_COUNT="2", OMP_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    assert printed == {"one": "threads 1\n", "two": "threads 1\n"}


@pytest.mark.slow
def test_notebooks_that_die_do_not_stop_the_others(tmp_path):
    cells = {
        "raises": "1 / 0",
        "kernel": "import os\nos._exit(1)",
        "worker": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint('survived')",
        "good": "print('good')",
    }
    done, printed = execute(tmp_path, cells)
    assert done.returncode == 1
    assert done.stdout.startswith("book/attention/good.ipynb: ")
    assert done.stdout.count("\n") == 1
    for name in ("raises", "kernel", "worker"):
        assert f"book/attention/{name}.ipynb failed and is unchanged:\n" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert printed == {"raises": "", "kernel": "", "worker": "", "good": "good\n"}


def test_measuring_takes_two_cores(tmp_path):
    done, printed = execute(tmp_path, {"one": THREADS}, "--measure", LOKY_MAX_CPU_COUNT="1")
    assert done.returncode == 2
    assert "costs are stated for 2 cores" in done.stderr
    assert printed == {"one": ""}
