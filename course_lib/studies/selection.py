"""Measures chosen demonstrations: `python -m course_lib.studies.selection`, 90 minutes on two cores."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot.demonstrations import (
    FORMATS,
    Case,
    Pair,
    asked,
    centred,
    label_log_probs,
    short_texts,
    shuffle_answers,
    truth,
)
from course_lib.lm.embeddings import embed
from course_lib.lm.packing import pack
from course_lib.prompting import by_model as lm_selection
from course_lib.prompting import selection
from course_lib.prompting.selection import Selection
from course_lib.studies import results

K, POOL, QUERIES, PROBES = 8, 1000, 200, 20
BALANCES, SCALES, SHOTS, DRAWS = (0.3, 0.5, 0.7), (0.0, 0.3, 1.0, 3.0), (1, 2, 4, 16), 2
CANDIDATES, WRITTEN, KEPT = 128, 64, 16  # demonstrations tried one by one; texts written and kept, per label
FIXED = 8  # random sets that all queries share


class Task(NamedTuple):
    """Queries, a pool of demonstrations, and their embeddings."""

    name: str
    labels: Sequence[str]
    pool: list[Pair]
    queries: list[Pair]
    pool_vectors: torch.Tensor  # (n, d)
    query_vectors: torch.Tensor  # (Q, d)

    @property
    def pool_labels(self) -> torch.Tensor:
        """(n,) the index of each label."""
        return torch.tensor([list(self.labels).index(y) for _, y in self.pool])


def task(name: str, n: int = POOL, n_queries: int = QUERIES) -> Task:
    """Real texts, at most 20 words each: the first n to choose from, and queries, which are others.

    Args:
        name: "sentiment" or "topic".
        n: size of the pool.
        n_queries: number of queries, of which fewer are the first of more.
    """
    pool, others = short_texts(name, n)
    queries = random.Random(0).sample(others, len(others))[:n_queries]
    return Task(
        name,
        texts.load(name).label_names,
        pool,
        queries,
        embed([x for x, _ in pool]),
        embed([x for x, _ in queries]),
    )


def probes(given: Task, n: int = PROBES) -> list[Pair]:
    """Labelled examples to try demonstrations on, as many of each label, which are not themselves tried."""
    others = given.pool[CANDIDATES:]
    each = [[pair for pair in others if pair[1] == label][: n // len(given.labels)] for label in given.labels]
    return [pair for own in each for pair in own]


def said(model: lm.LanguageModel, given: Task, cases: Sequence[Case]) -> dict[str, Any]:
    """What a model answers to each query after its demonstrations, and what that costs.

    Args:
        model: a language model.
        given: the task.
        cases: one for each query, all with as many demonstrations.

    Returns:
        A list with an entry for each query: "right", whether its most likely label is right; "centred", the
        same without the advantage that a label has in all queries; "log p", of the right label among the
        labels, in nats. And "tokens": how many the model reads for all, shared beginnings once.
    """
    k = len(cases[0].demonstrations)
    log_p = label_log_probs(model, FORMATS[given.name], cases, [k], given.labels)[0, :, 0]  # (Q, labels)
    right = truth(cases, given.labels)  # (Q, 1)
    prompts, _ = asked(model, FORMATS[given.name], cases, [k])
    return {
        "right": (log_p.argmax(-1) == right[:, 0]).int().tolist(),
        "centred": (centred(log_p).argmax(-1) == right[:, 0]).int().tolist(),
        "log p": [round(value, 4) for value in log_p.log_softmax(-1).gather(-1, right)[:, 0].tolist()],
        "tokens": len(pack(prompts).tokens),
    }


def shown(given: Task, chosen: Selection) -> dict[str, Any]:
    """Of demonstrations from the pool, for each query: the neighbours' vote, relevance and redundancy."""
    right = truth([Case([], given.queries)], given.labels)[0]
    n_labels, labels = len(given.labels), given.pool_labels
    found = {"vote": (selection.vote(chosen, labels, n_labels) == right).int().tolist()}
    found["own"] = (labels[chosen.indices] == right[:, None]).sum(1).tolist()  # of the right label
    if chosen.indices.shape[1] > 1:
        measured = selection.coverage(given.query_vectors, given.pool_vectors, chosen)
        for name, values in zip(("relevance", "redundancy"), measured, strict=True):
            found[name] = [round(value, 4) for value in values.tolist()]
    return found


def strategies(given: Task, k: int = K) -> dict[tuple[str, float], Selection]:
    """What each strategy chooses from the pool, by its name and setting: λ, scale or seed."""
    vectors = given.query_vectors, given.pool_vectors
    names = [x for x, _ in given.queries], [x for x, _ in given.pool]
    labels = given.pool_labels
    return (
        {("nearest", 0): selection.nearest(*vectors, k)}
        | {("random", seed): selection.at_random(*vectors, k, seed) for seed in range(DRAWS)}
        | {("nearest of each label", 0): selection.nearest_of_each(*vectors, k, labels)}
        | {("balanced", 0): selection.balanced(*vectors, k, labels)}
        | {("BM25", 0): selection.bm25(*names, k)}
        | {("MMR", balance): selection.mmr(*vectors, k, balance) for balance in BALANCES}
        | {("DPP", scale): selection.dpp(*vectors, k, scale) for scale in SCALES}
        | {("clusters", 0): selection.clustered(*vectors, k)}
        | {("farthest", 0): selection.farthest(*vectors, k)}
    )


def like_neighbours(given: Task, chosen: Selection, seed: int = 0) -> list[Case]:
    """The control: the labels of the chosen in their order, each with a random text that has it."""
    generator = random.Random(seed)
    of = {y: [pair for pair in given.pool if pair[1] == y] for y in given.labels}
    return [
        Case([generator.choice(of[y]) for _, y in case.demonstrations], case.queries)
        for case in selection.cases(chosen, given.pool, given.queries)
    ]


def same(given: Task, demonstrations: Sequence[Pair]) -> list[Case]:
    """The same demonstrations for every query, the first of them last."""
    return [Case(list(reversed(demonstrations)), [query]) for query in given.queries]


def measure(model: lm.LanguageModel, given: Task) -> Iterator[dict]:
    """All rows of one task: for each strategy and control what the model answers to each query.

    Args:
        model: a language model.
        given: the task.
    """

    def row(strategy: str, setting: float, cases: Sequence[Case], **more: Any) -> dict:
        about = {"task": given.name, "strategy": strategy, "setting": setting}
        return about | {"k": len(cases[0].demonstrations)} | said(model, given, cases) | more

    yield row("none", 0, same(given, []))
    every = strategies(given)
    near = every["nearest", 0]
    for (strategy, setting), chosen in every.items():
        cases = selection.cases(chosen, given.pool, given.queries)
        yield row(strategy, setting, cases, **shown(given, chosen))
    last = selection.ordered(every["nearest of each label", 0], "last")
    cases = selection.cases(last, given.pool, given.queries)
    yield row("nearest of each label, nearest last", 0, cases, **shown(given, last))
    near_cases = selection.cases(near, given.pool, given.queries)
    yield row("nearest, labels shuffled", 0, shuffle_answers(near_cases))
    yield row("labels of the nearest", 0, like_neighbours(given, near))
    yield from own_rows(model, given, row)
    for k in SHOTS:
        for (strategy, setting), chosen in {
            ("nearest", 0): selection.nearest(given.query_vectors, given.pool_vectors, k),
            ("random", 0): selection.at_random(given.query_vectors, given.pool_vectors, k),
        }.items():
            cases = selection.cases(chosen, given.pool, given.queries)
            yield row(strategy, setting, cases, **shown(given, chosen))


def own_rows(model: lm.LanguageModel, given: Task, row: Callable[..., dict]) -> Iterator[dict]:
    """Rows of demonstrations that the model itself chooses or writes, and sets that all queries share."""
    format, generator = FORMATS[given.name], random.Random(0)
    tried = given.pool[:CANDIDATES]
    gained = lm_selection.gains(model, format, given.labels, tried, probes(given))
    best = gained.argsort(descending=True).tolist()
    rounded = [round(value, 4) for value in gained.tolist()]
    yield row("highest gain", 0, same(given, [tried[i] for i in best[:K]]), gains=rounded)
    yield row("lowest gain", 0, same(given, [tried[i] for i in best[-K:]]))
    for seed in range(FIXED):
        yield row("random, shared", seed, same(given, generator.sample(given.pool, K)))

    opening = lm_selection.OPENINGS[given.name]
    written = {y: lm_selection.write(model, opening.format(y=y), WRITTEN) for y in given.labels}
    kept = lm_selection.believed(model, format, written, KEPT)
    vectors = embed([x for x, _ in kept])
    near = selection.nearest(given.query_vectors, vectors, K)
    texts = {"written": {y: len(own) for y, own in written.items()}, "kept": kept}
    yield row("written, nearest", 0, selection.cases(near, kept, given.queries), **texts)
    for seed in range(FIXED):
        yield row("written, shared", seed, same(given, generator.sample(kept, K)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures sentiment and topic, and writes a results file."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.studies.selection", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    given = parser.parse_args(arguments)
    model = lm.load(given.model)
    rows = []
    for name in FORMATS:
        for row in measure(model, task(name)):
            rows.append(row)
            hits = sum(row["right"]) / len(row["right"])
            print(row["task"], row["strategy"], row["setting"], row["k"], f"{hits:.2f}", flush=True)
    command = f"python -m course_lib.studies.selection --model {given.model}"
    about = {"queries": QUERIES, "pool": POOL, "candidates": CANDIDATES, "probes": PROBES}
    path = given.out / f"selection-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=command, settings=about)


if __name__ == "__main__":
    main()
