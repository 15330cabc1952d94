"""Executes the notebooks of the book in place, so that executing twice gives the same bytes.

`python -m course_lib.book.notebooks` executes every notebook of `_toc.yml`, as many at a time as memory and
cores allow; with `task-vectors` or `mechanisms/task-vectors` this one. With `--measure` it executes one after
the other and writes down what each one costs.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from course_lib.book import contents
from course_lib.book.costs import CORES, Cost, record, runtimes
from course_lib.book.files import key, listed, read, write
from course_lib.book.schedule import Plan, free_cores, free_memory_gb, plan, run

_STATE = "application/vnd.jupyter.widget-state+json"
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def execute(path: Path, threads: int) -> Cost:
    """Executes a notebook in its own folder and writes it back with outputs and widgets.

    A cell that fails leaves the file as it was.

    Args:
        path: The notebook.
        threads: That its kernel may use for arithmetic.

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
    client.execute(env={**os.environ, **_QUIET, "OMP_NUM_THREADS": str(threads)})
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


def select(paths: list[Path], names: list[str]) -> list[Path]:
    """Finds notebooks by name.

    Args:
        paths: All notebooks.
        names: As in "mechanisms/task-vectors", or "task-vectors" if no other part has one of that name.

    Returns:
        The notebooks in the order of `paths`; all of them if no name is given.

    Raises:
        ValueError: A name that no notebook has, or more than one.
    """
    chosen = []
    for name in names:
        found = [path for path in paths if name in (path.stem, key(path))]
        if len(found) != 1:
            known = ", ".join(map(key, found or paths))
            raise ValueError(f"{name!r} must name one notebook of _toc.yml, as in {known}")
        chosen += found
    return [path for path in paths if path in chosen or not names]


def main() -> int:
    """Executes the notebooks named on the command line, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.notebooks", description=__doc__)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="PART/NAME, or NAME (default: all)")
    parser.add_argument("--list", action="store_true", help="only print the paths, the longest first")
    parser.add_argument("--measure", action="store_true", help="write down seconds and memory")
    options = parser.parse_args()
    root, cores = Path.cwd(), free_cores()
    if options.measure and cores < CORES:
        parser.error(f"costs are stated for {CORES} cores, and there is {cores}")
    try:
        paths = select([path for path in listed(root) if path.suffix == ".ipynb"], options.chapters)
    except ValueError as error:
        parser.error(str(error))
    planned = plan(paths, runtimes(root), cores, free_memory_gb())
    if options.list:
        print(*(path.relative_to(root) for path in planned.paths))
        return 0
    contents.update(root)
    whole = Plan(paths, 1, CORES) if options.measure else planned
    costs: dict[Path, Cost] = {}
    for path, cost, error in run(execute, whole):
        if error:
            print(
                f"{path.relative_to(root)} failed and is unchanged:\n{type(error).__name__}: {error}",
                file=sys.stderr,
            )
        else:
            costs[path] = cost
            print(f"{path.relative_to(root)}: {cost.seconds:.1f} s, {cost.memory_gb:.2f} GB", flush=True)
    if options.measure:
        record(root, costs)
        contents.update(root)
    return int(len(costs) < len(paths))


if __name__ == "__main__":
    sys.exit(main())
