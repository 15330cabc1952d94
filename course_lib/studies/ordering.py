"""Measures orders of demonstrations: `python -m course_lib.studies.ordering`, 75 minutes on two cores."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot.demonstrations import FORMATS, Case, Pair, centred, orders, short_texts, truth
from course_lib.mechanisms.label_bias import PAIRS
from course_lib.prompting import ordering, selection
from course_lib.studies import results
from course_lib.studies.selection import Task, said, task


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
DEV = 20  # labelled examples to try an order on, as many of each label
PROBES = 24  # texts that the model writes to try an order on, at most
ASKED, K = 100, 8  # queries with neighbours of their own in three orders; how many


def sets(plan: Plan, n_dev: int = DEV) -> list[tuple[Case, list[Pair]]]:
    """Demonstrations, label by label, with their queries, and labelled examples to try orders on.

    Args:
        plan: what is wanted; queries of different sets differ.
        n_dev: labelled examples of each set, as many of each label, which are neither shown nor asked.
    """
    pool, others = (
        [pair for pair in part if pair[1] in plan.labels] for part in short_texts(plan.task, 1000)
    )
    generator = random.Random(0)
    asked = generator.sample(others, plan.sets * plan.queries)
    drawn = []
    for i in range(plan.sets):
        shown, dev = [], []
        for label in plan.labels:
            own = [pair for pair in pool if pair[1] == label]
            own = generator.sample(own, plan.shots + n_dev // len(plan.labels))
            shown, dev = shown + own[: plan.shots], dev + own[plan.shots :]
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
        A row for each order with "shown", the numbers of its labels; one digit for each query, the number of
        the label that is chosen, in "answers", in "centred", and calibrated by inputs that say nothing, by
        texts the model writes, and by `dev` in "by nothing", "by written" and "by dev"; the digits of
        "dev answers"; "free", the mean log-probabilities of the labels after inputs that say nothing; and the
        entropies on texts the model writes, "global" and "local", and on `dev`, "global dev" and "local dev".
    """
    format, labels = FORMATS[plan.task], list(plan.labels)
    every = orders(case)

    def of(texts: Sequence[str]) -> torch.Tensor:
        pairs = [(x, labels[0]) for x in texts]  # the answers are not looked at
        return ordering.ask(model, format, [Case(c.demonstrations, pairs) for c in every], labels)

    asked, tried = (of([x for x, _ in pairs]) for pairs in (case.queries, dev))
    probes = ordering.written_probes(model, format, every[:: max(len(every) // PROBES, 1)], seed)
    probed, free = of(probes), of(ordering.CONTENT_FREE)
    chosen = {
        "answers": asked,
        "by nothing": ordering.calibrate(asked, free),
        "by written": ordering.calibrate(asked, probed),
        "by dev": ordering.calibrate(asked, tried),
        "centred": centred(asked),
        "dev answers": tried,
    }
    measures = {
        "global": ordering.global_entropy(probed),
        "local": ordering.local_entropy(probed),
        "global dev": ordering.global_entropy(tried),
        "local dev": ordering.local_entropy(tried),
    }
    for i, shown in enumerate(truth([Case([], c.demonstrations) for c in every], labels).tolist()):
        yield (
            {"shown": shown, "probes": len(probes)}
            | {name: round(values[i].item(), 4) for name, values in measures.items()}
            | {"free": [round(log_p, 3) for log_p in free[i].mean(0).tolist()]}
            | {name: _digits(log_p[i].argmax(-1)) for name, log_p in chosen.items()}
        )


def _digits(labels: torch.Tensor) -> str:
    return "".join(map(str, labels.tolist()))


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
            right, dev_right = (
                _digits(truth([Case([], pairs)], plan.labels)[0]) for pairs in (case.queries, dev)
            )
            about = {"table": "order", "task": name, "set": i, "right": right, "dev right": dev_right}
            for j, row in enumerate(order_rows(model, plan, case, dev, 1000 * i)):
                yield about | {"order": j} | row
    for name in FORMATS:
        for row in similarity_rows(model, task(name, n_queries=ASKED)):
            yield {"table": "similarity", "task": name} | row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures sentiment and topic, and writes a results file."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.studies.ordering", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    given = parser.parse_args(arguments)
    model = lm.load(given.model)
    rows = []
    for row in measure(model):
        rows.append(row)
        print(*(row[key] for key in ("task", "set", "order", "how") if key in row), flush=True)
    command = f"python -m course_lib.studies.ordering --model {given.model}"
    about = {"dev": DEV, "probes": PROBES, "asked": ASKED}
    path = given.out / f"ordering-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=command, settings=about)


if __name__ == "__main__":
    main()
