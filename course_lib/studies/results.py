"""Stored results: tables too long for a chapter, with how, when and by what they were measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.packages import whole

FOLDER = files("course_lib.studies") / "stored"  # works from a checkout and from an installed wheel


@dataclass(frozen=True)
class Results:
    """Rows of a table, and where they come from."""

    model: str
    revision: str | None  # of the model, if one was asked for
    commit: str | None  # of the weights, where a hub records one
    command: str  # what to type to measure again
    date: str  # UTC
    versions: Mapping[str, str]
    device: str
    dtype: str
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def select(self, **named: Any) -> list[Mapping[str, Any]]:
        """The rows in which each of some entries has the value given."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in named.items())]


def save(path: Path, results: Results) -> None:
    """Writes results, a row a line; the file appears whole, and its folder is made."""
    about = {key: value for key, value in vars(results).items() if key != "rows"}
    head = json.dumps(about, indent=1, ensure_ascii=False)[:-2]
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in results.rows)
    with whole(path) as part:
        part.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def load(name: str | os.PathLike[str]) -> Results:
    """The stored results of that name, or those in a file of your own that ends with ".json".

    Raises:
        FileNotFoundError: there are none; the message lists what there is.
        ValueError: the file is not one that `save` wrote.
    """
    path = Path(name) if str(name).endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        stored = sorted(file.name.removesuffix(".json") for file in FOLDER.iterdir())
        raise FileNotFoundError(f"name={str(name)!r}: no such results; stored are {', '.join(stored)}")
    try:
        return Results(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a results file of this course: {error}") from error
