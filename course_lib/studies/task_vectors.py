"""The table of chapter 08 for any causal language model.

`python -m course_lib.studies.task_vectors MODEL [--accept-licence] [--out results]` evaluates the eighteen tasks with
task vectors, three of them both ways, too, scored by the first token and by the full answer, and writes a
results file.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from course_lib import lm
from course_lib.data import tasks
from course_lib.fewshot.demonstrations import accuracy
from course_lib.lm.weights import PACKAGES
from course_lib.mechanisms import task_vectors as tv
from course_lib.studies import results

SETTINGS = {"shots": 5, "n_trials": 20, "n_queries": 5, "seed": 0}
KINDS = ("regular", "hypothesis", "baseline")
BOTH_WAYS = ("to_upper", "plural_singular", "present_gerund")


def row(model: lm.LanguageModel, task: tasks.Task, scoring: tv.Scoring, **settings: int) -> dict[str, Any]:
    """One task as a row of a results file: accuracies as [value, low, high]."""
    found = tv.evaluate(model, task, scoring=scoring, **settings)
    return {
        "task": task.name,
        "category": task.category,
        "scoring": scoring,
        "layer": found.layer,
        "majority": round(found.majority, 4),
        **{kind: [round(x, 4) for x in accuracy(found.hits[kind])] for kind in KINDS},
        "by_layer": [round(x, 4) for x in found.by_layer.tolist()],
    }


def wanted(names: Iterable[str]) -> list[tasks.Task]:
    """The tasks of these names, and those of `BOTH_WAYS` among them reversed and both ways."""
    chosen = [tasks.load(name) for name in names]
    two_way = [task for task in chosen if task.name in BOTH_WAYS]
    for task in two_way:
        chosen += [replace(turned, category="both ways") for turned in (task.reversed(), task.both_ways())]
    return chosen


def table(model: lm.LanguageModel, names: Iterable[str], **settings: int) -> list[dict[str, Any]]:
    """The rows of all tasks, first by the first token, then by the full answer."""
    each = [(scoring, task) for scoring in ("first", "full") for task in wanted(names)]
    return [row(model, task, scoring, **settings) for scoring, task in tqdm(each, desc="tasks", leave=False)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures a model, prints the averages and writes the results file."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.studies.task_vectors", description=__doc__)
    parser.add_argument("model", help=f"{', '.join(PACKAGES)}, a folder, or a name on the Hugging Face hub")
    parser.add_argument("--accept-licence", action="store_true", help="you accept the terms of the weights")
    parser.add_argument("--dtype", default="float32", help="of the weights, as torch names it")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    parser.add_argument("--tasks", nargs="+", default=tasks.names(), metavar="TASK", help="only these tasks")
    given = parser.parse_args(arguments)
    terms = PACKAGES[given.model].terms if given.model in PACKAGES else ""
    if terms:
        licence = PACKAGES[given.model].licence
        print(f"{given.model} is provided under and subject to the {licence} found at {terms}")
        if not given.accept_licence:
            parser.exit(2, "Read them and, if you accept them, add --accept-licence.\n")
    dtype = getattr(torch, given.dtype, None)
    model = lm.load(given.model, dtype=dtype, accept_licence=given.accept_licence)
    rows = table(model, given.tasks, **SETTINGS)
    command = ["python", "-m", "course_lib.studies.task_vectors", *(["--accept-licence"] if terms else []), given.model]
    settings = {**SETTINGS, "format": tv.ARROW.example, "dtype": given.dtype, "device": model.device.type}
    path = given.out / f"task_vectors-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=shlex.join(command), settings=settings)
    for scoring in ("first", "full"):
        chosen = [r for r in rows if r["scoring"] == scoring and r["category"] != "both ways"]
        means = {kind: sum(r[kind][0] for r in chosen) / len(chosen) for kind in KINDS}
        print(scoring, "  ".join(f"{kind} {mean:.3f}" for kind, mean in means.items()))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
