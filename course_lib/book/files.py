"""The pages of the book as files: which there are, and notebooks read and written the same way each time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from course_lib.packages import whole

# The parts of the book: folders in book/, course_lib/ and tests/, and the captions in `_toc.yml`.
PARTS = {
    "basics": "What it is",
    "attention": "Attention",
    "inference": "Bayesian inference",
    "learning": "Learning algorithms",
    "mechanisms": "Inside a language model",
    "prompting": "Writing the prompt",
    "origins": "Where it comes from",
}


def toc(root: Path) -> dict[str, Any]:
    """Reads `_toc.yml`.

    Raises:
        FileNotFoundError: There is none in `root`.
    """
    return yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))


def listed(root: Path) -> list[Path]:
    """Finds the files of `_toc.yml` in reading order.

    Args:
        root: Folder of `_toc.yml`.

    Raises:
        FileNotFoundError: There is no `_toc.yml`, or it lists a file that is neither a notebook nor Markdown.
    """
    return [page(root, name) for name in _names(toc(root))]


def _names(entry: Any) -> list[str]:
    if isinstance(entry, list):
        return [name for part in entry for name in _names(part)]
    if not isinstance(entry, dict):
        return []
    own = [entry[kind] for kind in ("root", "file") if kind in entry]
    return own + [name for value in entry.values() for name in _names(value)]


def page(root: Path, name: str) -> Path:
    """Finds the file of an entry of `_toc.yml`.

    Raises:
        FileNotFoundError: It is neither a notebook nor Markdown.
    """
    for path in (root / name, root / f"{name}.ipynb", root / f"{name}.md"):
        if path.suffix in (".ipynb", ".md") and path.is_file():
            return path
    raise FileNotFoundError(
        f"_toc.yml lists {name!r}, but there is no {name}.ipynb and no {name}.md in {root}"
    )


def key(path: Path) -> str:
    """The name of a chapter with its part in front, as in "mechanisms/task-vectors"."""
    return f"{path.parent.name}/{path.stem}"


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
    with whole(path) as part:
        part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
