"""Strategies of choosing demonstrations, in two tasks: what the model answers to each query, and controls."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch

from course_lib import lm
from course_lib.fewshot import (
    Case,
    Classification,
    Pair,
    label_log_probs,
    label_measures,
    prompts_and_answers,
    right_labels,
    short_texts,
    shuffle_answers,
)
from course_lib.lm.packing import pack
from course_lib.prompting import by_model, selection
from course_lib.prompting.selection import Selection
from course_lib.studies.study import Row, Study, Unit

K, POOL, QUERIES, PROBES = 8, 1000, 200, 20
BALANCES, SCALES, SHOTS, DRAWS = (0.3, 0.5, 0.7), (0.0, 0.3, 1.0, 3.0), (1, 2, 4, 16), 2
CANDIDATES, WRITTEN, KEPT = 128, 64, 16  # demonstrations tried one by one; texts written and kept, per label
FIXED = 8  # random sets that all queries share


def answer_row(model: lm.LanguageModel, task: Classification, cases: Sequence[Case]) -> Row:
    """What a model answers to each query after its demonstrations, and what that costs.

    Args:
        model: a language model.
        task: how prompts are written, and its labels.
        cases: one for each query, all with as many demonstrations.

    Returns:
        A list with an entry for each query: "right", "calibrated" (by the tilt that all queries share) and
        "log p", see `label_measures`. And "tokens": how many the model reads for all, shared beginnings once.
    """
    k = len(cases[0].demonstrations)
    log_p = label_log_probs(model, task.format, cases, [k], task.labels)[0, :, 0]  # (Q, labels)
    found = label_measures(log_p, right_labels(cases, task.labels)[:, 0])
    prompts, _ = prompts_and_answers(model, task.format, cases, [k])
    return {
        "right": found["right"].int().tolist(),
        "calibrated": found["calibrated"].int().tolist(),
        "log p": [round(value, 4) for value in found["log p"].tolist()],
        "tokens": len(pack(prompts).tokens),
    }


def choice_row(task: Classification, chosen: Selection) -> Row:
    """Of demonstrations from the pool, for each query: the neighbours' vote, relevance and redundancy."""
    right, labels = task.query_labels, task.pool_labels
    found = {"vote": (selection.vote(chosen, labels, len(task.labels)) == right).int().tolist()}
    found["own"] = (labels[chosen.indices] == right[:, None]).sum(1).tolist()  # of the right label
    if chosen.indices.shape[1] > 1:
        measured = selection.coverage(task.query_vectors, task.pool_vectors, chosen)
        for name, values in zip(("relevance", "redundancy"), measured, strict=True):
            found[name] = [round(value, 4) for value in values.tolist()]
    return found


def strategies(task: Classification, k: int = K) -> dict[tuple[str, float], Selection]:
    """What each strategy chooses from the pool, by its name and setting: λ, scale or seed."""
    vectors = task.query_vectors, task.pool_vectors
    names = [x for x, _ in task.queries], [x for x, _ in task.pool]
    labels = task.pool_labels
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


def like_neighbours(task: Classification, chosen: Selection, seed: int = 0) -> list[Case]:
    """The control: the labels of the chosen in their order, each with a random text that has it."""
    generator = random.Random(seed)
    of = {y: [pair for pair in task.pool if pair[1] == y] for y in task.labels}
    return [
        Case([generator.choice(of[y]) for _, y in case.demonstrations], case.queries)
        for case in selection.cases(chosen, task.pool, task.queries)
    ]


def same(task: Classification, demonstrations: Sequence[Pair]) -> list[Case]:
    """The same demonstrations for every query, the first of them last."""
    return [Case(list(reversed(demonstrations)), [query]) for query in task.queries]


def task_units(model: lm.LanguageModel, task: Classification) -> Iterator[Unit]:
    """A unit for each strategy and control in one task."""

    def unit(
        strategy: str, setting: float, k: int, cases: Callable[[], list[Case]], more: Callable[[], Row] = dict
    ) -> Unit:
        about = {"task": task.name, "strategy": strategy, "setting": setting, "k": k}
        key = ", ".join(map(str, about.values()))
        return Unit(key, lambda: [about | answer_row(model, task, cases()) | more()])

    def of_pool(strategy: str, setting: float, k: int, chosen: Selection) -> Unit:
        cases = selection.cases(chosen, task.pool, task.queries)
        return unit(strategy, setting, k, lambda: cases, lambda: choice_row(task, chosen))

    yield unit("none", 0, 0, lambda: same(task, []))
    every = strategies(task)
    for (strategy, setting), chosen in every.items():
        yield of_pool(strategy, setting, K, chosen)
    last = selection.ordered(every["nearest of each label", 0], "last")
    yield of_pool("nearest of each label, nearest last", 0, K, last)
    near = every["nearest", 0]
    near_cases = selection.cases(near, task.pool, task.queries)
    yield unit("nearest, labels shuffled", 0, K, lambda: shuffle_answers(near_cases))
    yield unit("labels of the nearest", 0, K, lambda: like_neighbours(task, near))
    yield from units_by_model(model, task, unit)
    for k in SHOTS:
        vectors = task.query_vectors, task.pool_vectors
        yield of_pool("nearest", 0, k, selection.nearest(*vectors, k))
        yield of_pool("random", 0, k, selection.at_random(*vectors, k))


def units_by_model(
    model: lm.LanguageModel, task: Classification, unit: Callable[..., Unit]
) -> Iterator[Unit]:
    """Demonstrations that the model itself chooses or writes, and sets that all queries share."""
    generator, tried = random.Random(0), task.pool[:CANDIDATES]

    @cache
    def gains() -> torch.Tensor:
        probes = by_model.probes(task, CANDIDATES, PROBES)
        return by_model.mean_gains(model, task.format, task.labels, tried, probes)

    def by_gain(highest: bool) -> list[Case]:
        best = gains().argsort(descending=True).tolist()
        return same(task, [tried[i] for i in (best[:K] if highest else best[-K:])])

    @cache
    def written() -> dict[str, list[str]]:
        opening = by_model.OPENINGS[task.name]
        return {y: lm.sample_texts(model, opening.format(y=y), WRITTEN) for y in task.labels}

    @cache
    def kept() -> list[Pair]:
        return by_model.believed(model, task.format, written(), KEPT)

    @cache
    def shared_written() -> list[list[Pair]]:
        return [generator.sample(kept(), K) for _ in range(FIXED)]

    def nearest_written() -> list[Case]:
        near = selection.nearest(task.query_vectors, lm.embed([x for x, _ in kept()]), K)
        return selection.cases(near, kept(), task.queries)

    def about_written() -> Row:
        return {"written": {y: len(own) for y, own in written().items()}, "kept": kept()}

    def about_gains() -> Row:
        return {"gains": [round(value, 4) for value in gains().tolist()]}

    yield unit("highest gain", 0, K, lambda: by_gain(True), about_gains)
    yield unit("lowest gain", 0, K, lambda: by_gain(False))
    shared = [generator.sample(task.pool, K) for _ in range(FIXED)]
    for seed, pairs in enumerate(shared):
        yield unit("random, shared", seed, K, lambda pairs=pairs: same(task, pairs))
    yield unit("written, nearest", 0, K, nearest_written, about_written)
    for seed in range(FIXED):
        yield unit("written, shared", seed, K, lambda seed=seed: same(task, shared_written()[seed]))


def chosen_task(name: str) -> Classification:
    """The task of the chapter: a pool to choose from, and queries."""
    return short_texts(name, POOL).sampled(QUERIES)


def units(model: lm.LanguageModel) -> Iterator[Unit]:
    """The units of both tasks."""
    for name in ("sentiment", "topic"):
        yield from task_units(model, chosen_task(name))


SETTINGS = {"queries": QUERIES, "pool": POOL, "candidates": CANDIDATES, "probes": PROBES}
STUDY = Study("choosing-demonstrations", SETTINGS, units)
