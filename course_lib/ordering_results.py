"""Measures orders of demonstrations: `python -m course_lib.ordering_results`, half an hour on two cores."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from course_lib import lm, ordering, results, selection
from course_lib.data import texts
from course_lib.demonstrations import FORMATS, Case, Pair, orders, short_texts, truth
from course_lib.selection_results import Task, said, task

SETS, QUERIES, DEV = {"sentiment": 8, "topic": 4}, {"sentiment": 40, "topic": 20}, 10
SHOTS = {"sentiment": 2, "topic": 1}  # of each label
PROBES = 24  # texts that the model writes to try an order on, for each set
ASKED, K = 100, 8  # queries with neighbours of their own in three orders; how many


def sets(name: str, n: int, n_queries: int, n_dev: int = DEV) -> list[tuple[Case, list[Pair]]]:
    """Demonstrations with as many of each label, label by label, their queries, and labelled examples to try.

    Args:
        name: "sentiment", with two reviews of each label, or "topic", with one article of each.
        n: how many sets.
        n_queries: queries of each set; those of different sets differ.
        n_dev: labelled examples of each set, which are neither shown nor asked.
    """
    pool, others = short_texts(name, 1000)
    labels, generator = texts.load(name).label_names, random.Random(0)
    asked = generator.sample(others, n * n_queries)
    drawn = []
    for i in range(n):
        shown = [
            pair
            for label in labels
            for pair in generator.sample([pair for pair in pool if pair[1] == label], SHOTS[name])
        ]
        dev = generator.sample([pair for pair in pool if pair not in shown], n_dev)
        drawn.append((Case(shown, asked[i * n_queries : (i + 1) * n_queries]), dev))
    return drawn


def order_rows(
    model: lm.LanguageModel, name: str, case: Case, dev: Sequence[Pair], seed: int
) -> Iterator[dict]:
    """For every order of a set what it answers, and what could have been known of it before.

    Args:
        model: a language model.
        name: "sentiment" or "topic".
        case: demonstrations and queries.
        dev: labelled examples.
        seed: for the probes that the model writes.

    Yields:
        A row for each order with "shown", the numbers of its labels; one digit for each query in "answers"
        and "calibrated", the number of the label that is chosen; and measures of the order that need no
        labels of the queries: "global" and "local" entropy on probes the model writes, "global dev" and
        "local dev" on `dev`, and "dev", the accuracy there.
    """
    format, labels = FORMATS[name], list(texts.load(name).label_names)
    every = orders(case)

    def of(pairs: Sequence[Pair]) -> torch.Tensor:
        return ordering.ask(model, format, [Case(c.demonstrations, pairs) for c in every], labels)

    asked, tried = of(case.queries), of(dev)
    probes = ordering.written_probes(model, format, every[:: max(len(every) // PROBES, 1)], seed)
    probed = of([(x, labels[0]) for x in probes])
    calibrated = ordering.calibrate(asked, ordering.content_free(model, format, every, labels))
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
            | {"answers": _digits(asked[i]), "calibrated": _digits(calibrated[i])}
        )


def _digits(log_p: torch.Tensor) -> str:
    return "".join(map(str, log_p.argmax(-1).tolist()))


def similarity_rows(model: lm.LanguageModel, given: Task, k: int = K) -> Iterator[dict]:
    """Each query's nearest demonstrations in three orders."""
    near = selection.nearest(given.query_vectors, given.pool_vectors, k)
    for how in ("last", "first", "random"):
        chosen = ordering.by_similarity(near, how)
        yield {"how": how} | said(model, given, selection.cases(chosen, given.pool, given.queries))


def measure(model: lm.LanguageModel, name: str) -> Iterator[dict[str, Any]]:
    """All rows of one task, of the tables "order" and "similarity"."""
    for i, (case, dev) in enumerate(sets(name, SETS[name], QUERIES[name])):
        right = "".join(map(str, truth([case], texts.load(name).label_names)[0].tolist()))
        for j, row in enumerate(order_rows(model, name, case, dev, 1000 * i)):
            yield {"table": "order", "task": name, "set": i, "order": j, "right": right} | row
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
    for name in FORMATS:
        for row in measure(model, name):
            rows.append(row)
            print(*list(row.values())[:4], flush=True)
    command = f"python -m course_lib.ordering_results --model {given.model}"
    about = {"sets": SETS, "queries": QUERIES, "dev": DEV, "asked": ASKED}
    path = given.out / f"ordering-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=command, settings=about)


if __name__ == "__main__":
    main()
