"""All orders of sets of demonstrations, and the nearest demonstrations of queries in three orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch

from course_lib import lm
from course_lib.fewshot import (
    Case,
    Classification,
    Pair,
    label_log_probs,
    label_measures,
    orders,
    right_labels,
    short_texts,
    shown_labels,
    without_tilt,
)
from course_lib.fewshot.classification import FORMATS
from course_lib.prompting import ordering, selection
from course_lib.prompting.ordering import DEV, PLANS, Plan
from course_lib.studies.study import Row, Study, Unit

PROBES = 24  # texts that the model writes to try an order on, at most
ASKED, POOL, K = 100, 1000, 8  # queries with neighbours of their own in three orders; how many neighbours


def order_rows(
    model: lm.LanguageModel, plan: Plan, case: Case, dev: Sequence[Pair], seed: int
) -> Iterator[Row]:
    """For every order of a set what it answers, and what could have been known of it before.

    Args:
        model: a language model.
        plan: the task and its labels.
        case: demonstrations and queries.
        dev: labelled examples.
        seed: for the probes that the model writes.

    Yields:
        A row for each order with "shown", the numbers of its labels; one digit for each query, the number of
        the label that is chosen, in "answers", "without tilt", and calibrated by inputs that say nothing, by
        texts the model writes, and by `dev` in "by nothing", "by written" and "by dev"; the digits of
        "dev answers"; "free", the mean log-probabilities of the labels after inputs that say nothing; and the
        entropies on texts the model writes, "global" and "local", and on `dev`, "global dev" and "local dev".
    """
    format, labels = FORMATS[plan.task], list(plan.labels)
    every = orders(case)

    def scores(texts: Sequence[str]) -> torch.Tensor:
        pairs = [(x, labels[0]) for x in texts]  # the answers are not looked at
        cases = [Case(c.demonstrations, pairs) for c in every]
        return ordering.order_scores(model, format, cases, labels)

    asked, tried = (scores([x for x, _ in pairs]) for pairs in (case.queries, dev))
    probes = ordering.written_probes(model, format, every[:: max(len(every) // PROBES, 1)], seed)
    probed, free = scores(probes), scores(ordering.CONTENT_FREE)
    chosen = {
        "answers": asked,
        "by nothing": ordering.calibrate(asked, free),
        "by written": ordering.calibrate(asked, probed),
        "by dev": ordering.calibrate(asked, tried),
        "without tilt": without_tilt(asked),
        "dev answers": tried,
    }
    measures = {
        "global": ordering.global_entropy(probed),
        "local": ordering.local_entropy(probed),
        "global dev": ordering.global_entropy(tried),
        "local dev": ordering.local_entropy(tried),
    }
    for i, shown in enumerate(shown_labels(every, labels).tolist()):
        yield (
            {"shown": shown, "probes": len(probes)}
            | {name: round(values[i].item(), 4) for name, values in measures.items()}
            | {"free": [round(log_p, 3) for log_p in free[i].mean(0).tolist()]}
            | {name: _digits(log_p[i].argmax(-1)) for name, log_p in chosen.items()}
        )


def _digits(labels: torch.Tensor) -> str:
    return "".join(map(str, labels.tolist()))


def set_rows(
    model: lm.LanguageModel, name: str, number: int, case: Case, dev: Sequence[Pair]
) -> Iterator[Row]:
    """The rows of one set of a plan, of the table "order"."""
    plan = PLANS[name]
    right, dev_right = (
        _digits(right_labels([Case([], pairs)], plan.labels)[0]) for pairs in (case.queries, dev)
    )
    about = {"table": "order", "task": name, "set": number, "right": right, "dev right": dev_right}
    for j, row in enumerate(order_rows(model, plan, case, dev, 1000 * number)):
        yield about | {"order": j} | row


def similarity_row(model: lm.LanguageModel, task: Classification, how: str, k: int = K) -> Row:
    """Answers after each query's nearest demonstrations in one of three orders: of the table "similarity"."""
    near = selection.nearest(task.query_vectors, task.pool_vectors, k)
    cases = selection.cases(selection.ordered(near, how), task.pool, task.queries)
    log_p = label_log_probs(model, task.format, cases, [k], task.labels)[0, :, 0]
    found = label_measures(log_p, task.query_labels)
    log_p = [round(value, 4) for value in found["log p"].tolist()]
    return {"table": "similarity", "task": task.name, "how": how} | {
        "right": found["right"].int().tolist(),
        "log p": log_p,
    }


def units(model: lm.LanguageModel) -> Iterator[Unit]:
    """A unit for each set of demonstrations, and for each order by similarity."""
    for name, plan in PLANS.items():
        for i, (case, dev) in enumerate(ordering.draw_sets(plan)):
            yield Unit(
                f"{name}, {i}", lambda n=name, i=i, case=case, dev=dev: set_rows(model, n, i, case, dev)
            )
    task = cache(lambda name: short_texts(name, POOL).sampled(ASKED))
    for name in FORMATS:
        for how in ("last", "first", "random"):
            yield Unit(f"{name}, {how}", lambda n=name, h=how: [similarity_row(model, task(n), h)])


STUDY = Study("ordering-demonstrations", {"dev": DEV, "probes": PROBES, "asked": ASKED}, units)
