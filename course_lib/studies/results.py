"""Stored results: tables too long for a chapter, with how, when and by what they were measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.packages import versions, whole

FOLDER = files("course_lib.studies") / "stored"  # works from a checkout and from an installed wheel
MEASURED_BY = ("torch", "transformers", "numpy", "course-lib")


@dataclass(frozen=True)
class Results:
    """Rows of a table, and where they come from."""

    model: str
    command: str
    date: str  # UTC
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def select(self, **named: Any) -> list[Mapping[str, Any]]:
        """The rows in which each of some entries has the value given."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in named.items())]


def save(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    model: str,
    command: str,
    settings: Mapping[str, Any],
) -> Results:
    """Writes rows with today's date and the versions of what measured them; the file appears whole.

    Args:
        path: the JSON file to write; its folder is made.
        rows: dictionaries of numbers, texts and lists of them.
        model: name of the model that was measured.
        command: what to type to measure again.
        settings: what the measurement depends on.
    """
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    results = Results(model, command, date, versions(*MEASURED_BY), dict(settings), list(rows))
    about = {key: value for key, value in vars(results).items() if key != "rows"}
    head = json.dumps(about, indent=1, ensure_ascii=False)[:-2]
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in results.rows)  # a row a line
    with whole(Path(path)) as part:
        part.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return results


def load(name: str) -> Results:
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
