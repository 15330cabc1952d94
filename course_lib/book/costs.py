"""What chapters cost to run, written down where readers look for it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from course_lib.book.files import listed, read, write
from course_lib.book.lint import LAUNCH

CORES = 2  # on which costs are measured
_RUNTIMES = Path("book", "runtimes.json")
_TABLES = (Path("README.md"), Path("book", "teaching.md"))
_MARKS = ("<!-- chapters -->", "<!-- /chapters -->")


class Cost(NamedTuple):
    """What one execution takes: wall-clock seconds, and the peak memory of its kernel in GB."""

    seconds: float
    memory_gb: float


def record(root: Path, costs: dict[Path, Cost]) -> None:
    """Writes costs into `book/runtimes.json`, the launch lines, and the tables of README and teaching page.

    Args:
        root: Folder of `_toc.yml` and `README.md`.
        costs: What each executed notebook took, on two cores.

    Raises:
        ValueError: A notebook has no launch line, or a page no place for the table.
    """
    book = root / _RUNTIMES
    runtimes = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    for path, cost in costs.items():
        entry = {"seconds": round(cost.seconds), "memory_gb": round(cost.memory_gb, 1), "cores": CORES}
        runtimes[path.stem] = entry
        _launch_line(path, entry)
    write(book, json.dumps(runtimes, indent=1, sort_keys=True))
    for page in _TABLES:
        _write_table(root, root / page, runtimes)


def _write_table(root: Path, page: Path, runtimes: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    before, mark, rest = text.partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not (mark and end):
        raise ValueError(f"{page} needs the marks {' and '.join(_MARKS)} around the table of chapters")
    table = _chapter_table(root, page.parent, runtimes)
    write(page, f"{before}{mark}\n{table}\n{end}{after}")


def _launch_line(path: Path, entry: dict[str, Any]) -> None:
    notebook = read(path)
    cell = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if cell is None or not LAUNCH.search(cell.source):
        raise ValueError(f"the first text cell of {path} has no line '*Runs in … on two CPU cores.*'")
    seconds, memory = entry["seconds"], entry["memory_gb"]
    span = f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    cell.source = LAUNCH.sub(f"*Runs in {span} and {memory} GB on two CPU cores.*", cell.source)
    write(path, nbformat.writes(notebook))


def _chapter_table(root: Path, folder: Path, runtimes: dict[str, Any]) -> str:
    lines = ["| Chapter | Question | Minutes | Memory |", "|---|---|---|---|"]
    for path in listed(root):
        if path.suffix != ".ipynb" or path.stem not in runtimes:
            continue
        notebook, entry = read(path), runtimes[path.stem]
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        title = found[1] if (found := re.search(r"^# (.+)", text, re.MULTILINE)) else path.stem
        question = notebook.metadata.get("course", {}).get("question", "")
        minutes = max(0.1, round(entry["seconds"] / 60, 1))
        link = Path(os.path.relpath(path, folder)).as_posix()
        lines.append(f"| [{title}]({link}) | {question} | {minutes} | {entry['memory_gb']} GB |")
    return "\n".join(lines)
