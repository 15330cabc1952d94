"""Eighteen tasks with task vectors, three of them both ways, too; scored by the first token and in full."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from course_lib import lm
from course_lib.data import tasks
from course_lib.mechanisms import task_vectors as tv
from course_lib.stats import share_interval
from course_lib.studies.study import Row, Study, Unit

SETTINGS = {"shots": 5, "n_cases": 20, "n_queries": 5, "seed": 0}
KINDS = ("regular", "hypothesis", "baseline")
BOTH_WAYS = ("to_upper", "plural_singular", "present_gerund")


def row(model: lm.LanguageModel, task: tasks.Task, scoring: tv.Scoring) -> Row:
    """One task: accuracies as [value, low, high]."""
    found = tv.evaluate(model, task, scoring=scoring, **SETTINGS)
    return {
        "task": task.name,
        "category": task.category,
        "scoring": scoring,
        "layer": found.layer,
        "majority": round(found.majority, 4),
        **{kind: [round(x, 4) for x in share_interval(found.hits[kind])] for kind in KINDS},
        "by_layer": [round(x, 4) for x in found.by_layer.tolist()],
    }


def with_both_ways(names: Iterable[str]) -> list[tasks.Task]:
    """The tasks of these names, and those of `BOTH_WAYS` among them reversed and both ways."""
    chosen = [tasks.load(name) for name in names]
    two_way = [task for task in chosen if task.name in BOTH_WAYS]
    for task in two_way:
        chosen += [replace(turned, category="both ways") for turned in (task.reversed(), task.both_ways())]
    return chosen


def units(model: lm.LanguageModel) -> Iterator[Unit]:
    """A unit for each task and scoring, first by the first token, then by the full answer."""
    for scoring in ("first", "full"):
        for task in with_both_ways(tasks.names()):
            yield Unit(f"{task.name}, {scoring}", lambda t=task, s=scoring: [row(model, t, s)])


STUDY = Study("task-vectors", SETTINGS | {"format": tv.ARROW.example}, units)
