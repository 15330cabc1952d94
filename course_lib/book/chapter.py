"""Begins a chapter that already passes all tests: `python -m course_lib.book.chapter mechanisms my-topic`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import Any

import jupytext
import nbformat
import yaml

from course_lib.book import contents
from course_lib.book.files import PARTS, toc, write
from course_lib.book.notebooks import execute
from course_lib.book.repository import address, install_cell

_TEMPLATES = Path(__file__).with_name("template")


def begin(root: Path, part: str, name: str) -> list[Path]:
    """Writes a notebook, its concept module, its exercises and their tests, and lists it last in its part.

    Args:
        root: Folder of `_toc.yml`.
        part: Folder of the part, as in "mechanisms"; if `_toc.yml` does not have it yet, it gets it.
        name: Words, as in "my-topic".

    Returns:
        The files, the notebook first; it is not executed yet.

    Raises:
        ValueError: There is no such part, or a malformed name.
        FileExistsError: A file is there already.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*", name) or iskeyword(name):
        raise ValueError(f'name must be words as in "my-topic", got {name!r}')
    module = name.replace("-", "_")
    notebook = root / "book" / part / f"{name}.ipynb"
    files = {
        "module": root / "course_lib" / part / f"{module}.py",
        "exercises": root / "course_lib" / "exercises" / part / f"{module}.py",
        "test": root / "tests" / part / f"test_{module}.py",
    }
    for path in filter(Path.exists, (notebook, *files.values())):
        raise FileExistsError(f"{path.relative_to(root)} is there already")

    title = name.replace("-", " ").capitalize()
    names = {"part": part, "module": module, "title": title}
    for kind, path in files.items():
        write(path, _fill(kind, **names))
    for kind in ("module", "exercises"):
        files[kind].with_name("__init__.py").touch()
    text = _fill("notebook", **names, install=install_cell(address(root)))
    cells = jupytext.reads(text, fmt="py:percent")
    cells.metadata = {"course": {"question": f"{title}?"}}
    write(notebook, nbformat.writes(cells))
    write(
        root / "_toc.yml", yaml.safe_dump(_with(toc(root), part, name), sort_keys=False, allow_unicode=True)
    )
    return [notebook, *files.values()]


def _fill(kind: str, **names: object) -> str:
    return Template((_TEMPLATES / f"{kind}.txt").read_text(encoding="utf-8")).substitute(names)


def _with(listing: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    """Lists a chapter at the end of its part, and a new part behind the other numbered ones."""
    parts = listing.setdefault("parts", [])
    entry = next((entry for entry in parts if entry["caption"] == PARTS[part]), None)
    if entry is None:
        entry = {"caption": PARTS[part], "numbered": 1, "chapters": []}
        parts.insert(sum(bool(other.get("numbered")) for other in parts), entry)
    entry["chapters"].append({"file": f"book/{part}/{name}"})
    return listing


def main() -> int:
    """Begins the chapter named on the command line, and executes it."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.book.chapter", description=__doc__)
    parser.add_argument("part", help=f"its part: {', '.join(PARTS)}")
    parser.add_argument("name", help="words, as in my-topic")
    options = parser.parse_args()
    root = Path.cwd()
    try:
        paths = begin(root, options.part, options.name)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    for command in (["check", "--select", "I", "--fix"], ["format"]):  # names differ in length and order
        subprocess.run([sys.executable, "-m", "ruff", *command, "-q", *paths], check=True)
    contents.update(root)
    execute(paths[0], threads=1)
    print(*(path.relative_to(root) for path in paths), sep="\n")
    print(f"Next: make runtimes CHAPTER={options.part}/{options.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
