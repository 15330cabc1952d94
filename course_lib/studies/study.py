"""A study: a table that takes too long for a page, measured unit by unit, and taken up where it stopped.

Each process appends the rows of a unit to a file of its own as soon as they are measured. A run that was
interrupted finds them there; a run with other settings refuses to go on with them.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from course_lib import lm
from course_lib.packages import versions
from course_lib.studies.results import Results, save

MEASURED_BY = ("torch", "transformers", "numpy", "course-lib")
Row = dict[str, Any]


class Unit(NamedTuple):
    """Rows that are measured together, whatever has been measured before."""

    key: str
    rows: Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class Study:
    """What is measured of any language model."""

    name: str  # of the chapter it belongs to
    settings: Mapping[str, Any]  # all that the rows depend on, besides the model
    units: Callable[[lm.LanguageModel], Iterable[Unit]]  # in the order of the table; keys differ


def run(study: Study, model: lm.LanguageModel, command: str, out: Path) -> Path:
    """Measures what is not there yet, and writes the table when all is there.

    With several processes (Accelerate), each measures its share of the units with a model of its own.

    Args:
        study: what to measure.
        model: the language model, on this process's device.
        command: what to type to measure again.
        out: folder of the results file.

    Returns:
        The results file, `out/STUDY-MODEL.json`, which the main process writes.

    Raises:
        ValueError: an interrupted run in `out` had other settings, or two units have one key.
    """
    state, path = Accelerator(), out / f"{study.name}-{slug(model.name)}.json"
    about = {
        "model": model.name,
        "revision": model.revision,
        "commit": model.commit,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "settings": json.loads(json.dumps(dict(study.settings))),  # as a file gives them back
    }
    done = _done(path, about)
    units = list(study.units(model))
    if len({unit.key for unit in units}) < len(units):
        raise ValueError(f"study {study.name!r}: expected different keys, got {[u.key for u in units]}")
    state.wait_for_everyone()  # nobody writes before all have read
    mine = units[state.process_index :: state.num_processes]
    part = _part(path, state.process_index)
    for unit in tqdm(mine, study.name, disable=None, mininterval=1):
        if unit.key not in done:
            done[unit.key] = [json.loads(json.dumps(row)) for row in unit.rows()]
            _append(part, about, unit.key, done[unit.key])
    shares = gather_object([{unit.key: done[unit.key] for unit in mine}])
    if state.is_main_process:
        every = {key: rows for share in shares for key, rows in share.items()}
        rows = [row for unit in units for row in every[unit.key]]
        device, date = model.device.type, f"{datetime.now(UTC):%Y-%m-%d}"
        made = {"command": command, "date": date, "versions": versions(*MEASURED_BY), "device": device}
        save(path, Results(**about, **made, rows=rows))
        for left in _parts(path):
            left.unlink()
    state.wait_for_everyone()
    return path


def slug(name: str) -> str:
    """A model's name as part of a file name, another for every name: "a/m" becomes "a--m"."""
    return os.path.normpath(name).replace("--", "----").replace(os.sep, "--")


def _part(path: Path, process: int) -> Path:
    return path.with_suffix(f".{process}.part")


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.part"))


def _append(part: Path, about: Mapping[str, Any], key: str, rows: list[Row]) -> None:
    """Adds the rows of a unit to a part file, which begins with what they depend on."""
    part.parent.mkdir(parents=True, exist_ok=True)
    begun = part.exists() and part.stat().st_size
    with part.open("a", encoding="utf-8") as file:
        if not begun:
            file.write(json.dumps(about) + "\n")
        file.write(json.dumps({"unit": key, "rows": rows}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _done(path: Path, about: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The rows that interrupted runs have left, by unit; a line that was cut off is dropped from its file."""
    done: dict[str, list[Row]] = {}
    for part in _parts(path):
        text = part.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            part.write_text(whole, encoding="utf-8")
        head, *lines = whole.splitlines() or ["null"]
        if (before := json.loads(head)) is not None and before != about:
            other = {key: value for key, value in before.items() if about.get(key) != value}
            raise ValueError(
                f"{part} is of an interrupted run with other settings, {other}: "
                "go on with those, or remove the file to begin anew"
            )
        done |= {unit["unit"]: unit["rows"] for unit in map(json.loads, lines)}
    return done
