"""Measures orders of demonstrations: `python -m course_lib.ordering_results`, half an hour on two cores."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from course_lib import lm, ordering, results, selection
from course_lib.data import texts
from course_lib.demonstrations import FORMATS, Case, Pair, centred, orders, short_texts, truth
from course_lib.label_bias import PAIRS
from course_lib.selection_results import Task, said, task


class Plan(NamedTuple):
    """What is measured: sets of demonstrations with as many of each label, in all orders."""

    task: str  # a key of FORMATS
    labels: Sequence[str]
    shots: int  # of each label
    sets: int
    queries: int  # of each set


PLANS = {
    "sentiment": Plan("sentiment", PAIRS["sentiment"], 2, 8, 40),
    "two topics": Plan("topic", PAIRS["topic"], 2, 8, 40),
    "five topics": Plan("topic", texts.TOPICS, 1, 3, 20),
}
DEV = 12  # labelled examples to try an order on
PROBES = 24  # texts that the model writes to try an order on, at most
ASKED, K = 100, 8  # queries with neighbours of their own in three orders; how many


def sets(plan: Plan, n_dev: int = DEV) -> list[tuple[Case, list[Pair]]]:
    """Demonstrations, label by label, with their queries, and labelled examples to try orders on.

    Args:
        plan: what is wanted; queries of different sets differ.
        n_dev: labelled examples of each set, which are neither shown nor asked.
    """
    pool, others = (
        [pair for pair in part if pair[1] in plan.labels] for part in short_texts(plan.task, 1000)
    )
    generator = random.Random(0)
    asked = generator.sample(others, plan.sets * plan.queries)
    drawn = []
    for i in range(plan.sets):
        each = [[pair for pair in pool if pair[1] == label] for label in plan.labels]
        shown = [pair for own in each for pair in generator.sample(own, plan.shots)]
        dev = generator.sample([pair for pair in pool if pair not in shown], n_dev)
        drawn.append((Case(shown, asked[i * plan.queries : (i + 1) * plan.queries]), dev))
    return drawn


def order_rows(
    model: lm.LanguageModel, plan: Plan, case: Case, dev: Sequence[Pair], seed: int
) -> Iterator[dict]:
    """For every order of a set what it answers, and what could have been known of it before.

    Args:
        model: a language model.
        plan: the task and its labels.
        case: demonstrations and queries.
        dev: labelled examples.
        seed: for the probes that the model writes.

    Yields:
        A row for each order with "shown", the numbers of its labels; one digit for each query in "answers",
        "calibrated" and "centred", the number of the label that is chosen; "free", the log-probabilities of
        the labels after inputs that say nothing; and measures of the order that need no labels of the
        queries: "global" and "local" entropy on probes the model writes, "global dev" and "local dev" on
        `dev`, and "dev", the accuracy there.
    """
    format, labels = FORMATS[plan.task], list(plan.labels)
    every = orders(case)

    def of(pairs: Sequence[Pair]) -> torch.Tensor:
        return ordering.ask(model, format, [Case(c.demonstrations, pairs) for c in every], labels)

    asked, tried = of(case.queries), of(dev)
    probes = ordering.written_probes(model, format, every[:: max(len(every) // PROBES, 1)], seed)
    probed = of([(x, labels[0]) for x in probes])
    free = ordering.content_free(model, format, every, labels)
    chosen = {"answers": asked, "calibrated": ordering.calibrate(asked, free), "centred": centred(asked)}
    measures = {
        "global": ordering.global_entropy(probed),
        "local": ordering.local_entropy(probed),
        "global dev": ordering.global_entropy(tried),
        "local dev": ordering.local_entropy(tried),
        "dev": ordering.hits(tried, truth([Case([], dev)], labels)[0]).mean(1),
    }
    for i, shown in enumerate(truth([Case([], c.demonstrations) for c in every], labels).tolist()):
        yield (
            {"shown": shown, "probes": len(probes)}
            | {name: round(values[i].item(), 4) for name, values in measures.items()}
            | {"free": [round(log_p, 3) for log_p in free[i].tolist()]}
            | {name: _digits(log_p[i]) for name, log_p in chosen.items()}
        )


def _digits(log_p: torch.Tensor) -> str:
    return "".join(map(str, log_p.argmax(-1).tolist()))


def similarity_rows(model: lm.LanguageModel, given: Task, k: int = K) -> Iterator[dict]:
    """Each query's nearest demonstrations in three orders."""
    near = selection.nearest(given.query_vectors, given.pool_vectors, k)
    for how in ("last", "first", "random"):
        chosen = selection.ordered(near, how)
        yield {"how": how} | said(model, given, selection.cases(chosen, given.pool, given.queries))


def measure(model: lm.LanguageModel) -> Iterator[dict[str, Any]]:
    """All rows, of the tables "order" and "similarity"."""
    for name, plan in PLANS.items():
        for i, (case, dev) in enumerate(sets(plan)):
            right = "".join(map(str, truth([case], plan.labels)[0].tolist()))
            for j, row in enumerate(order_rows(model, plan, case, dev, 1000 * i)):
                yield {"table": "order", "task": name, "set": i, "order": j, "right": right} | row
    for name in FORMATS:
        for row in similarity_rows(model, task(name, n_queries=ASKED)):
            yield {"table": "similarity", "task": name} | row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures sentiment and topic, and writes a results file."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.ordering_results", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    given = parser.parse_args(arguments)
    model = lm.load(given.model)
    rows = []
    for row in measure(model):
        rows.append(row)
        print(*list(row.values())[:4], flush=True)
    command = f"python -m course_lib.ordering_results --model {given.model}"
    about = {"dev": DEV, "probes": PROBES, "asked": ASKED}
    path = given.out / f"ordering-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=command, settings=about)


if __name__ == "__main__":
    main()
