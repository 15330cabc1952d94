"""What chapters cost to run: measured, and written down in `book/runtimes.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from course_lib.book.files import key, write

CORES = 2  # on which costs are measured
_RUNTIMES = Path("book", "runtimes.json")


class Cost(NamedTuple):
    """What one execution takes: wall-clock seconds, and the peak memory of its kernel in GB."""

    seconds: float
    memory_gb: float


def runtimes(root: Path) -> dict[str, dict[str, Any]]:
    """Reads what was measured: "seconds" and "memory_gb" by "PART/NAME".

    Args:
        root: Folder of `_toc.yml`.
    """
    path = root / _RUNTIMES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record(root: Path, costs: dict[Path, Cost]) -> None:
    """Adds costs to what was measured.

    Args:
        root: Folder of `_toc.yml`.
        costs: What each executed notebook took, on two cores.
    """
    entries = {
        key(path): {"seconds": round(cost.seconds), "memory_gb": round(cost.memory_gb, 1), "cores": CORES}
        for path, cost in costs.items()
    }
    write(root / _RUNTIMES, json.dumps(runtimes(root) | entries, indent=1, sort_keys=True))
