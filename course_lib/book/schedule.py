"""How many chapters are executed at a time, and each of them in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import psutil

from course_lib.book.files import key

_MARGIN = 1.25  # of memory, over what was measured
_UNKNOWN = {"seconds": math.inf, "memory_gb": 3.0}  # of a chapter that was not measured: the most it may take
_CGROUP = Path("/sys/fs/cgroup")


class Plan(NamedTuple):
    """Notebooks in the order in which they are begun, how many at a time, and with how many threads each."""

    paths: list[Path]
    at_once: int
    threads: int


def plan(paths: list[Path], runtimes: dict[str, Any], cores: int, memory_gb: float) -> Plan:
    """Runs as many notebooks at a time as memory and cores allow, whichever those are; the longest first.

    Args:
        paths: The notebooks.
        runtimes: What was measured, by "PART/NAME".
        cores: Cores to use.
        memory_gb: Memory to use, in GB. One notebook is run at a time even if it needs more.

    Returns:
        The plan. The cores are shared equally.
    """
    costs = [runtimes.get(key(path), _UNKNOWN) for path in paths]
    longest = sorted(zip(costs, paths, strict=True), key=lambda pair: -pair[0]["seconds"])
    largest = sorted((_MARGIN * cost["memory_gb"] for cost in costs), reverse=True)[:cores]
    at_once = max(1, sum(needed <= memory_gb for needed in accumulate(largest)))
    return Plan([path for _, path in longest], at_once, max(1, cores // at_once))


def free_cores() -> int:
    """The cores that this process may use: those of the machine, or fewer in a container."""
    return joblib.cpu_count()


def free_memory_gb() -> float:
    """The memory that is free on this machine or, if that is less, in its container."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int((_CGROUP / f"memory.{what}").read_text()) for what in ("max", "current"))
        free = min(free, limit - used)
    return free / 1e9


def run(job: Callable[[Path, int], Any], chosen: Plan) -> Iterator[tuple[Path, Any, BaseException | None]]:
    """Carries out a plan, each notebook in a process of its own: one that dies does not stop the others.

    Args:
        job: A function of a module, which is called with a notebook and its number of threads.
        chosen: The plan.

    Yields:
        For each notebook, as they end: its path, what the job returned, and its error or None.
    """
    pool = ThreadPoolExecutor(chosen.at_once)
    try:
        futures = {pool.submit(_alone, job, path, chosen.threads): path for path in chosen.paths}
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], None if error else future.result(), error
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt begins no more of them


def _alone(job: Callable[[Path, int], Any], path: Path, threads: int) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(job, path, threads).result()
