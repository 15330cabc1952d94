"""Demonstrations beside fine-tuning, in two tasks, on a model and on an untrained one of the same shape."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from course_lib import lm
from course_lib.fewshot import short_texts
from course_lib.learning.finetuning import LR, SHOTS, compare_updates
from course_lib.studies.study import Row, Study, Unit

CASES, QUERIES = 10, 12  # of each task; of each case
OTHER = {"sentiment": "topic", "topic": "sentiment"}


def units(model: lm.LanguageModel) -> Iterator[Unit]:
    """A unit for each task, case and model; `model` has separate weights for keys and values."""
    given = {name: short_texts(name) for name in OTHER}
    drawn = {name: task.cases(CASES, QUERIES, SHOTS) for name, task in given.items()}
    untrained = cache(lambda: lm.untrained(model))

    def rows(name: str, case: int, who: str) -> Iterator[Row]:
        lesson, other = ((given[n], drawn[n][case]) for n in (name, OTHER[name]))
        for row in compare_updates(model if who == "trained" else untrained(), lesson, other):
            yield {"task": name, "case": case, "model": who} | row

    for name in OTHER:
        for case in range(CASES):
            for who in ("trained", "untrained"):
                yield Unit(f"{name}, {case}, {who}", lambda n=name, c=case, w=who: rows(n, c, w))


STUDY = Study("dual-of-fine-tuning", {"lr": LR, "shots": SHOTS, "cases": CASES, "queries": QUERIES}, units)
