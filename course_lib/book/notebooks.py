"""Executes the notebooks of the book in place, so that executing twice gives the same bytes.

`python -m course_lib.book.notebooks` executes every notebook of `_toc.yml`; with `01 04` those whose name
starts so; with `--measure` it also writes down what each one costs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from course_lib.book.costs import CORES, Cost, record
from course_lib.book.files import listed, read, write

_STATE = "application/vnd.jupyter.widget-state+json"
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


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


def main() -> int:
    """Executes the notebooks named on the command line, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.notebooks", description=__doc__)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="how file names start (default: all)")
    parser.add_argument("--list", action="store_true", help="only print the paths of the notebooks")
    parser.add_argument("--measure", action="store_true", help="write down seconds and memory")
    options = parser.parse_args()
    if options.measure and os.environ.get("OMP_NUM_THREADS") != str(CORES):
        parser.error(f"costs are stated for {CORES} cores: set OMP_NUM_THREADS={CORES}")
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
