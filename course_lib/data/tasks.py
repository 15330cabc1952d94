"""Tasks: sets of (query, answer) pairs that one simple rule connects.

The eighteen built-in ones carry the names of the tasks in Hendel et al. (2023), "In-Context Learning Creates
Task Vectors"; the pairs were compiled for this course (`tasks/index.csv`).
"""

import csv
import difflib
import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable

FOLDER = files("course_lib.data") / "tasks"  # works from a checkout and from an installed wheel


@dataclass(frozen=True)
class Task:
    """Pairs (query, answer) with distinct queries."""

    name: str
    category: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct answers, sorted."""
        return tuple(sorted({y for _, y in self.pairs}))

    @property
    def majority(self) -> tuple[str, float]:
        """The most frequent answer (on a tie the first of `labels`) and its share: the trivial baseline."""
        answer, count = Counter(sorted(y for _, y in self.pairs)).most_common(1)[0]
        return answer, count / len(self.pairs)

    def reversed(self) -> "Task":
        """From answer to query; of several queries with one answer the last."""
        pairs = {y: (y, x) for x, y in self.pairs}
        return replace(self, name=f"{self.name} ←", pairs=tuple(pairs.values()))

    def both_ways(self) -> "Task":
        """Every other pair reversed, so that a prompt shows both directions but no pair in both of them.

        Raises:
            ValueError: some text is a query in one direction and in the other.
        """
        pairs = tuple(pair if i % 2 else pair[::-1] for i, pair in enumerate(self.pairs))
        twice = [x for x, count in Counter(x for x, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"task {self.name!r}: {twice[0]!r} is a query twice; expected it once")
        return replace(self, name=f"{self.name} ↔", pairs=pairs)

    def split(self, dev: float = 0.5, seed: int = 0) -> tuple["Task", "Task"]:
        """Shuffles the pairs and cuts them into a development and a test task with no query in common.

        The order is that of a SHA-256 hash of seed and query, hence the same on every machine.

        Args:
            dev: share of the pairs that go to the development task; each side gets at least one pair.
            seed: another seed gives another shuffle.

        Raises:
            ValueError: if `dev` is not strictly between 0 and 1, or the task has fewer than two pairs.
        """
        if not (isinstance(dev, (int, float)) and 0 < dev < 1):
            raise ValueError(f"dev={dev!r}: expected a share strictly between 0 and 1")
        if len(self.pairs) < 2:
            raise ValueError(f"task {self.name!r} has {len(self.pairs)} pair(s): a split needs at least 2")
        shuffled = sorted(self.pairs, key=lambda pair: hashlib.sha256(f"{seed}:{pair[0]}".encode()).digest())
        cut = min(max(round(dev * len(shuffled)), 1), len(shuffled) - 1)
        return replace(self, pairs=tuple(shuffled[:cut])), replace(self, pairs=tuple(shuffled[cut:]))


def names() -> tuple[str, ...]:
    """The names of the built-in tasks: algorithmic, translation, linguistic, knowledge."""
    return tuple(_categories())


def load(name: str) -> Task:
    """Loads a built-in task by name.

    Raises:
        ValueError: if there is no task of that name.
    """
    if name not in names():
        close = difflib.get_close_matches(str(name), names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"name={name!r}: no such task.{hint} Known tasks: {', '.join(names())}")
    return Task(name, _categories()[name], _pairs(FOLDER / f"{name}.csv"))


def read(path: str | Path) -> Task:
    """Reads a task of your own from a CSV file with the header `x,y`; its category is "custom".

    Spaces around a cell are dropped and blank lines skipped.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        ValueError: if the file is not CSV in UTF-8, has no columns x and y, no pairs, a row with too many
            cells, a blank cell or a query twice; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r}: no such file; expected a CSV file with the header x,y")
    return Task(path.stem, "custom", _pairs(path))


@functools.cache
def _categories() -> dict[str, str]:
    with (FOLDER / "index.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row["category"] for row in csv.DictReader(file)}


def _pairs(path: "Path | Traversable") -> tuple[tuple[str, str], ...]:
    found: dict[str, tuple[str, int]] = {}  # query: (answer, line)
    with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte-order mark
        rows = csv.DictReader(file, skipinitialspace=True)
        try:
            header = rows.fieldnames = [column.strip() for column in rows.fieldnames or ()]
            if not {"x", "y"} <= set(header):
                problem = f"expected the columns x,y, found {','.join(header) or 'an empty line or file'}"
                raise ValueError(f"{path}, line 1: {problem}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row:
                    raise ValueError(f'{where}: too many cells; a cell with commas needs quotes, "a,b"')
                x, y = ((row[column] or "").strip() for column in ("x", "y"))
                if not (x and y):
                    raise ValueError(f"{where}: blank {'y' if x else 'x'}; expected a query and an answer")
                if x in found:
                    raise ValueError(f"{where}: x={x!r} is already on line {found[x][1]}; expected it once")
                found[x] = (y, rows.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}, after line {rows.line_num}: expected CSV in UTF-8; {error}") from error
    if not found:
        raise ValueError(f"{path}, line 2: no pairs; expected rows x,y below the header")
    return tuple((x, y) for x, (y, _) in found.items())
