"""Executes the notebooks of the book in place, so that executing twice gives the same bytes.

`python -m course_lib.page.notebooks` executes every notebook of `_toc.yml`; with `01 04` those whose name
starts so; with `--measure` it also writes down what each one costs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from course_lib.page.lint import LAUNCH

_STATE = "application/vnd.jupyter.widget-state+json"
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_CORES = 2
_RUNTIMES = Path("book", "runtimes.json")
_MARKS = ("<!-- chapters -->", "<!-- /chapters -->")


class Cost(NamedTuple):
    """What one execution takes: wall-clock seconds, and the peak memory of its kernel in GB."""

    seconds: float
    memory_gb: float


def listed(root: Path) -> list[Path]:
    """Finds the files of `_toc.yml` in reading order.

    Args:
        root: Folder of `_toc.yml`.

    Raises:
        FileNotFoundError: There is no `_toc.yml`, or it lists a file that is neither a notebook nor Markdown.
    """
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [_page(root, name) for name in _names(toc)]


def _names(entry: Any) -> list[str]:
    if isinstance(entry, list):
        return [name for part in entry for name in _names(part)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [name for value in entry.values() for name in _names(value)]


def _page(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.ipynb", root / f"{name}.md"):
        if path.suffix in (".ipynb", ".md") and path.is_file():
            return path
    raise FileNotFoundError(
        f"_toc.yml lists {name!r}, but there is no {name}.ipynb and no {name}.md in {root}"
    )


def read(path: Path) -> NotebookNode:
    """Reads a notebook; a cell without an id gets one from its position, which it then keeps.

    Raises:
        FileNotFoundError: There is no such file.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["nbformat_minor"] = max(5, raw["nbformat_minor"])
    stem = re.sub(r"[^a-zA-Z0-9_-]", "-", path.stem)[:50]
    taken = {cell.get("id") for cell in raw["cells"]}
    for n, cell in enumerate(raw["cells"], 1):
        if not cell.get("id"):
            name = f"{stem}-{n:02d}"
            while name in taken:
                name += "a"
            cell["id"] = name
            taken.add(name)
    return nbformat.reads(json.dumps(raw), as_version=4)


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    os.replace(part, path)


def execute(path: Path) -> Cost:
    """Executes a notebook in its own folder and writes it back with outputs and widgets.

    A cell that fails leaves the file as it was.

    Args:
        path: The notebook.

    Returns:
        What it took. The memory is that of the largest kernel this process has started and ended, so it is
        the notebook's own in a fresh process only.

    Raises:
        FileNotFoundError: There is no such file.
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    path = Path(path)
    notebook = read(path)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name=_KERNEL["name"],
        store_widget_state=True,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    start = time.perf_counter()
    client.execute(env={**os.environ, **_QUIET})
    seconds = time.perf_counter() - start
    write(path, _normal(notebook))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes or kilobytes
    return Cost(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9)


def _normal(notebook: NotebookNode) -> str:
    """Writes a notebook without what differs between executions: ids of widgets, details of the kernel."""
    notebook.metadata["kernelspec"] = _KERNEL
    notebook.metadata["language_info"] = {"name": "python"}
    text = nbformat.writes(notebook)
    models = notebook.metadata.get("widgets", {}).get(_STATE, {}).get("state", {})
    if not models:
        return text
    numbers = {model: f"{i:032x}" for i, model in enumerate(models)}  # in order of creation
    text = re.sub("|".join(numbers), lambda found: numbers[found[0]], text)
    return nbformat.writes(nbformat.reads(text, as_version=4))  # sorts by the new ids


def record(root: Path, costs: dict[Path, Cost]) -> None:
    """Writes measured costs into `book/runtimes.json`, the launch lines and the table of the README.

    Args:
        root: Folder of `_toc.yml` and `README.md`.
        costs: What each executed notebook took, on two cores.

    Raises:
        ValueError: A notebook has no launch line, or the README no place for the table.
    """
    book = root / _RUNTIMES
    runtimes = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    for path, cost in costs.items():
        entry = {"seconds": round(cost.seconds), "memory_gb": round(cost.memory_gb, 1), "cores": _CORES}
        runtimes[path.stem] = entry
        _launch_line(path, entry)
    write(book, json.dumps(runtimes, indent=1, sort_keys=True))
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, mark, rest = text.partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not (mark and end):
        raise ValueError(f"{readme} needs the marks {' and '.join(_MARKS)} around the table of chapters")
    write(readme, f"{before}{mark}\n{_chapter_table(root, runtimes)}\n{end}{after}")


def _launch_line(path: Path, entry: dict[str, Any]) -> None:
    notebook = read(path)
    cell = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if cell is None or not LAUNCH.search(cell.source):
        raise ValueError(f"the first text cell of {path} has no line '*Runs in … on two CPU cores.*'")
    seconds, memory = entry["seconds"], entry["memory_gb"]
    span = f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    cell.source = LAUNCH.sub(f"*Runs in {span} and {memory} GB on two CPU cores.*", cell.source)
    write(path, nbformat.writes(notebook))


def _chapter_table(root: Path, runtimes: dict[str, Any]) -> str:
    lines = ["| Chapter | Question | Minutes | Memory |", "|---|---|---|---|"]
    for path in listed(root):
        if path.suffix != ".ipynb" or path.stem not in runtimes:
            continue
        notebook, entry = read(path), runtimes[path.stem]
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        title = found[1] if (found := re.search(r"^# (.+)", text, re.MULTILINE)) else path.stem
        question = notebook.metadata.get("course", {}).get("question", "")
        minutes = max(0.1, round(entry["seconds"] / 60, 1))
        link = path.relative_to(root).as_posix()
        lines.append(f"| [{title}]({link}) | {question} | {minutes} | {entry['memory_gb']} GB |")
    return "\n".join(lines)


def main() -> int:
    """Executes the notebooks named on the command line, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.page.notebooks", description=__doc__)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="how file names start (default: all)")
    parser.add_argument("--list", action="store_true", help="only print the paths of the notebooks")
    parser.add_argument("--measure", action="store_true", help="write down seconds and memory")
    options = parser.parse_args()
    if options.measure and os.environ.get("OMP_NUM_THREADS") != str(_CORES):
        parser.error(f"costs are stated for {_CORES} cores: set OMP_NUM_THREADS={_CORES}")
    root = Path.cwd()
    paths = [path for path in listed(root) if path.suffix == ".ipynb"]
    for chapter in options.chapters:
        if not any(path.name.startswith(chapter) for path in paths):
            parser.error(f"no notebook of _toc.yml starts with {chapter!r}: {[path.name for path in paths]}")
    if options.chapters:
        paths = [path for path in paths if path.name.startswith(tuple(options.chapters))]
    if options.list:
        print(*(path.relative_to(root) for path in paths))
        return 0
    costs, failed = {}, False
    for path in paths:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                costs[path] = pool.submit(execute, path).result()
            except CellExecutionError as error:
                failed = True
                print(f"{path.relative_to(root)} failed and is unchanged:\n{error}", file=sys.stderr)
            else:
                cost = costs[path]
                print(f"{path.relative_to(root)}: {cost.seconds:.1f} s, {cost.memory_gb:.2f} GB")
    if options.measure:
        record(root, costs)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
