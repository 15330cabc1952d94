"""How a notebook is executed, compared and measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import v4

from course_lib.book import files, notebooks

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "nbval.cfg"
ALT = "One curve that rises from 0 to 1 over three steps."


CELLS = [
    "import sys\nfrom course_lib.page import claim, figure, new_figure, scrub",
    "print('one', flush=True)\nprint('two', flush=True)\nclaim('Two is even', 2, at_least=2)",
    "def draw(n):\n    fig, axes = new_figure(width=2, height=1)\n    axes.bar([0], [n])\n    return fig",
    f"figure(draw(2), 1, 'A bar', {ALT!r})",
    f"scrub(draw, [1, 2], 2, 'A bar grows', label='n', alt={ALT!r}, describe=lambda n: f'It is {{n}}.')",
]


def save(path, cells, **metadata):
    notebook = v4.new_notebook(cells=cells, metadata=metadata)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A book of one notebook, executed twice from the command line and once compared by nbval."""
    root = tmp_path_factory.mktemp("book")
    (root / "book" / "attention").mkdir(parents=True)
    chapters = "parts:\n- caption: Attention\n  numbered: 1\n  chapters:\n  - file: book/attention/bar\n"
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/intro\n{chapters}")
    for page in ("README.md", "book/intro.md", "book/teaching.md"):
        (root / page).write_text("before\n<!-- chapters -->\nold\n<!-- /chapters -->\nafter\n")
    text = v4.new_markdown_cell("# Bars\n\n*Runs in 9 s and 9 GB on two CPU cores.*")
    cells = [text, *(v4.new_code_cell(source) for source in CELLS)]
    path = save(root / "book" / "attention" / "bar.ipynb", cells, course={"question": "How high?"})
    notebook = nbformat.read(path, 4)
    raw = re.sub(r' *"id": "[^"]*",\n', "", nbformat.writes(notebook))
    path.write_text(raw, encoding="utf-8")
    command = [sys.executable, "-m", "course_lib.book.notebooks"]
    runs = []
    for arguments in (["attention/bar"], ["--measure"], []):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        runs.append((path.read_bytes(), result.stdout))
    return root, runs


@pytest.mark.slow
def test_executing_twice_gives_the_same_bytes(executed):
    _, runs = executed
    assert runs[1][0] == runs[2][0]
    measured = re.compile(rb"\*Runs in .*? on two CPU cores\.\*")
    assert measured.sub(b"", runs[0][0]) == measured.sub(b"", runs[1][0])
    assert re.fullmatch(r"book/attention/bar\.ipynb: \d+\.\d s, \d\.\d\d GB\n", runs[0][1])


def test_executed_notebook_is_whole(executed):
    root, runs = executed
    notebook = nbformat.reads(runs[0][0].decode(), 4)
    assert [cell.id for cell in notebook.cells] == [f"bar-{n:02d}" for n in range(1, 7)]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4, 5]
    [stream] = notebook.cells[2].outputs
    assert stream.text == "one\ntwo\n✓ Two is even\n  measured 2 · accepted ≥ 2\n"
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert sorted(state) == [f"{i:032x}" for i in range(len(state))]
    view = notebook.cells[5].outputs[0].data["application/vnd.jupyter.widget-view+json"]
    slider = state[view["model_id"]]["state"]
    assert [re.search('alt="([^"]*)"', p)[1] for p in slider["pictures"]] == [f"{ALT} n: 1.", f"{ALT} n: 2."]
    assert (slider["label"], slider["names"], slider["notes"]) == ("n", ["1", "2"], ["It is 1.", "It is 2."])
    assert slider["caption"] == "<strong>Figure 2.</strong> A bar grows"
    assert "export default { render }" in slider["_esm"]
    assert ".scrub-frame" in slider["_css"]
    assert not list(root.rglob("*.part"))


def test_measured_costs_are_written_down(executed):
    root, _ = executed
    notebook = files.read(root / "book" / "attention" / "bar.ipynb")
    assert re.search(r"\*Runs in \d+ s and \d\.\d GB on two CPU cores\.\*$", notebook.cells[0].source)
    assert re.search(
        r'"attention/bar": \{\s+"cores": 2,\s+"memory_gb": \d\.\d', (root / "book/runtimes.json").read_text()
    )
    for page, link in (
        ("README.md", "book/attention/bar.ipynb"),
        ("book/teaching.md", "attention/bar.ipynb"),
    ):
        text = (root / page).read_text()
        row = rf"\| 1 \| \[Bars\]\({re.escape(link)}\) \| How high\? \| 0\.\d \| \d\.\d GB \|"
        assert re.search(row, text)
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "old" not in text


@pytest.mark.parametrize(
    ("old", "new", "passes"), [("measured 2 ", "measured 3 ", True), ("≥ 2", "≥ 1", False)]
)
def test_comparison_sees_changed_outputs(executed, tmp_path, old, new, passes):
    _, runs = executed
    path = tmp_path / "bar.ipynb"
    text = runs[2][0].decode()
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        f"--nbval-sanitize-with={CONFIG}",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    result = subprocess.run(
        [*command, str(path)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode == 0) is passes, result.stdout


def test_failing_cell_leaves_the_notebook_alone(tmp_path):
    path = save(tmp_path / "bad.ipynb", [v4.new_code_cell("print(1)"), v4.new_code_cell("1 / 0")])
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(path, threads=1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ipynb"]


def test_ids_are_kept_and_new_ones_avoid_them(tmp_path):
    cells = [v4.new_markdown_cell("a", id="n-02"), v4.new_markdown_cell("b", id="x")]
    path = save(tmp_path / "n.ipynb", cells)
    path.write_text(path.read_text().replace('"id": "x",', ""))
    assert [cell.id for cell in files.read(path).cells] == ["n-02", "n-02a"]
