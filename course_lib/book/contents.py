"""The order of the chapters, which stands in `_toc.yml` alone, and what other files say about it.

`python -m course_lib.book.contents` writes into the first cell of each chapter its number, its part, its
neighbours and what it costs, and the tables of chapters into the pages that have one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from course_lib.book.costs import runtimes
from course_lib.book.files import key, page, toc, write

PLACE = re.compile(r"^\*Chapter \d+ · .+\*$", re.MULTILINE)
LAUNCH = re.compile(r"^\*Runs in .+ on two CPU cores\.\*$", re.MULTILINE)
_TITLE = re.compile(r"# (.+)")
_MARKS = ("<!-- chapters -->", "<!-- /chapters -->")
_TABLES = {"README.md": True, "book/intro.md": False, "book/teaching.md": True}  # whether with costs


class Chapter(NamedTuple):
    """A notebook of a numbered part of the book."""

    path: Path
    number: int
    part: str
    title: str
    question: str

    def link(self, folder: Path) -> str:
        """The title, as a link for a page in `folder`."""
        return f"[{self.title}]({Path(os.path.relpath(self.path, folder)).as_posix()})"


def chapters(root: Path) -> list[Chapter]:
    """Finds the chapters in reading order: the pages of numbered parts, counted through all of them.

    Args:
        root: Folder of `_toc.yml`.

    Raises:
        FileNotFoundError: There is no `_toc.yml`, or it lists a file that is not there.
        ValueError: A numbered part lists something else than a notebook that begins with a title.
    """
    found: list[Chapter] = []
    for part in toc(root).get("parts", []):
        for entry in part["chapters"] if part.get("numbered") else ():
            path = page(root, entry["file"])
            if path.suffix != ".ipynb":
                raise ValueError(f"{path} is in the numbered part {part['caption']!r} and not a notebook")
            notebook = json.loads(path.read_text(encoding="utf-8"))
            if not (title := _TITLE.match(_source(_first(notebook)))):
                raise ValueError(f"the first text cell of {path} has no title '# …'")
            question = notebook["metadata"].get("course", {}).get("question", "")
            found.append(Chapter(path, len(found) + 1, part["caption"], title[1], question))
    return found


def changes(root: Path) -> dict[Path, str]:
    """Finds the files that do not say what `_toc.yml` and `book/runtimes.json` say.

    Args:
        root: Folder of `_toc.yml` and `README.md`.

    Returns:
        The text that each such file should have.

    Raises:
        FileNotFoundError: There is no `_toc.yml`, or it lists a file that is not there.
        ValueError: A page has no place for the table of chapters; and as `chapters`.
    """
    order, costs = chapters(root), runtimes(root)
    around = [None, *order, None]
    new = {}
    for before, chapter, after in zip(around, order, around[2:], strict=False):
        place = _place(chapter, before, after)
        new[chapter.path] = _notebook(chapter.path, place, costs.get(key(chapter.path)))
    for name, with_costs in _TABLES.items():
        new[root / name] = _page(root / name, order, costs if with_costs else None)
    return {path: text for path, text in new.items() if text != path.read_text(encoding="utf-8")}


def update(root: Path) -> list[Path]:
    """Writes what `changes` finds, and returns the files; errors as there."""
    texts = changes(root)
    for path, text in texts.items():
        write(path, text)
    return list(texts)


def _place(chapter: Chapter, before: Chapter | None, after: Chapter | None) -> str:
    beside = (("before", before), ("after", after))
    links = ", ".join(f"{where} it {other.link(chapter.path.parent)}" for where, other in beside if other)
    return f"*{' · '.join(filter(None, [f'Chapter {chapter.number}', chapter.part, links]))}*"


def _notebook(path: Path, place: str, cost: dict[str, Any] | None) -> str:
    """The text of a notebook whose first text cell says its place, and its costs if they are known."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = _first(notebook)
    title, _, rest = _source(cell).partition("\n")
    source = f"{title}\n\n{place}\n\n{PLACE.sub('', rest, count=1).lstrip()}"
    if cost:
        source = LAUNCH.sub(f"*Runs in {_span(cost)} on two CPU cores.*", source)
    cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _page(path: Path, order: list[Chapter], costs: dict[str, Any] | None) -> str:
    """The text of a page with its table of chapters."""
    before, mark, rest = path.read_text(encoding="utf-8").partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not (mark and end):
        raise ValueError(f"{path} needs the marks {' and '.join(_MARKS)} around the table of chapters")
    return f"{before}{mark}\n{_table(path.parent, order, costs)}\n{end}{after}"


def _table(folder: Path, order: list[Chapter], costs: dict[str, Any] | None) -> str:
    heads = ["No.", "Chapter", "Question"] + ["Minutes", "Memory"] * (costs is not None)
    rows, part = [heads, ["---"] * len(heads)], ""
    for chapter in order:
        if chapter.part != part:
            part = chapter.part
            rows.append(["", f"**{part}**", *[""] * (len(heads) - 2)])
        row = [str(chapter.number), chapter.link(folder), chapter.question]
        if costs is not None:
            cost = costs.get(key(chapter.path))
            row += [f"{max(0.1, cost['seconds'] / 60):.1f}", f"{cost['memory_gb']} GB"] if cost else ["", ""]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _span(cost: dict[str, Any]) -> str:
    seconds = cost["seconds"]
    time = f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{time} and {cost['memory_gb']} GB"


def _first(notebook: dict[str, Any]) -> dict[str, Any]:
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return next(cells, {"source": ""})


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def main() -> int:
    """Writes the order of the chapters of the current folder wherever it is said."""
    for path in update(Path.cwd()):
        print(path.relative_to(Path.cwd()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
