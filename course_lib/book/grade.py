"""Grades the exercises of notebooks: `python -m course_lib.book.grade student.ipynb …`.

A copy of a notebook is executed in its folder, without the cells tagged `solution`. Every heading
`### Exercise 2 · …` is an exercise to pass, and its last verdict counts. The exit status is 0 if every
exercise is passed, 1 if one is not, and 2 if a file is not a notebook with exercises.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from course_lib.book.files import read
from course_lib.page.diagnoses import cut, error_line

_HEADING = re.compile(r"^#{1,3} (?:Exercise (\d+) ·)?", re.MULTILINE)
_VERDICT = re.compile(r"[✓✗] Exercise (\d+)(?:: right|, not yet: (.*))")
_NO_CHECK = "not attempted"
_SECONDS = 600  # that one cell may take


def grade(path: Path) -> dict[str, str | None]:
    """Executes a copy of a notebook and reads what its checks print.

    Args:
        path: The notebook, which is not changed.

    Returns:
        For each exercise of the notebook, in order: None if it is passed, else what is missing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a notebook, or has no exercises.
    """
    notebook = _read(Path(path))
    if not _verdicts(notebook):
        raise ValueError(f"{path} has no headings '### Exercise 2 · …'")
    client = NotebookClient(
        notebook,
        timeout=_SECONDS,
        interrupt_on_timeout=True,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(Path(path).resolve().parent)}},
    )
    with contextlib.suppress(DeadKernelError):  # what was checked before counts
        client.execute(env={**os.environ, "TQDM_DISABLE": "1"})
    return _verdicts(notebook)


def _read(path: Path) -> NotebookNode:
    """Reads a notebook without solutions and without outputs."""
    try:
        notebook = read(path)
        kept = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    except (AttributeError, KeyError, TypeError, ValueError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a notebook: {cut(repr(error))}") from error
    for cell in kept:
        if cell.cell_type == "code":
            cell.outputs = []
    notebook.cells = kept
    return notebook


def _verdicts(notebook: NotebookNode) -> dict[str, str | None]:
    verdicts: dict[str, str | None] = {}
    current = ""
    for cell in notebook.cells:
        for current in _HEADING.findall(cell.source) if cell.cell_type == "markdown" else ():
            if current:
                verdicts[current] = _NO_CHECK
        for output in cell.get("outputs", []):
            if output.output_type == "error" and verdicts.get(current) == _NO_CHECK:
                verdicts[current] = f"{_NO_CHECK}: {error_line(output.ename, output.evalue)}"
            for number, problem in _VERDICT.findall(output.get("text", "")):
                if number in verdicts:
                    verdicts[number] = f"not yet: {problem}" if problem else None
    return verdicts


def main() -> int:
    """Prints one line for each exercise of the notebooks named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.grade", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    status = 0
    for path in parser.parse_args().notebooks:
        try:
            verdicts = grade(path)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            status = 2
            continue
        passed = sum(verdict is None for verdict in verdicts.values())
        print(path)
        for number, verdict in verdicts.items():
            print(f"  {number}  {verdict or 'passed'}")
        print(f"  {passed} of {len(verdicts)} passed")
        status = max(status, int(passed < len(verdicts)))
    return status


if __name__ == "__main__":
    sys.exit(main())
