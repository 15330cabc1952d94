"""Demonstrations with queries to be answered after them: drawn, shuffled, put into order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from course_lib.fewshot.formats import Pair


@dataclass(frozen=True)
class Case:
    """Demonstrations S, in order, queries to be answered after them, and perhaps a dummy query.

    A dummy query is asked only to read what happens inside the model; its answer does not matter.
    """

    demonstrations: Sequence[Pair]
    queries: Sequence[Pair]
    dummy: str = ""


def draw(
    pool: Sequence[Pair], queries: Sequence[Pair], shots: int, n_cases: int, n_queries: int, seed: int = 0
) -> list[Case]:
    """Cases with independent random demonstrations and queries.

    Args:
        pool: pairs to take demonstrations from; none of them may be among the queries.
        queries: pairs to take queries from; they are used up before one comes again.
        shots: number of demonstrations of a case.
        n_cases: number of cases.
        n_queries: number of queries of a case.
        seed: another seed draws others.

    Raises:
        ValueError: the pool is too small, or a query is also in the pool.
    """
    if shots > len(pool) or n_queries > len(queries):
        raise ValueError(f"there are only {len(pool)} demonstrations and {len(queries)} queries to draw from")
    if common := {x for x, _ in pool} & {x for x, _ in queries}:
        raise ValueError(f"queries must not be demonstrations too: {sorted(common)[:3]}")
    generator = random.Random(seed)
    stock: list[Pair] = []
    cases = []
    for _ in range(n_cases):
        if len(stock) < n_queries:
            stock = generator.sample(list(queries), len(queries))
        taken, stock = stock[:n_queries], stock[n_queries:]
        cases.append(Case(generator.sample(list(pool), shots), taken))
    return cases


def shuffle_answers(cases: Sequence[Case], seed: int = 0) -> list[Case]:
    """The control: the same demonstrations with their answers exchanged among them at random."""
    generator = random.Random(seed)
    shuffled = []
    for case in cases:
        answers = [y for _, y in case.demonstrations]
        generator.shuffle(answers)
        pairs = [(x, y) for (x, _), y in zip(case.demonstrations, answers, strict=True)]
        shuffled.append(replace(case, demonstrations=pairs))
    return shuffled


def orders(case: Case) -> list[Case]:
    """The same demonstrations in every order: k! cases."""
    return [replace(case, demonstrations=order) for order in itertools.permutations(case.demonstrations)]


def right_labels(cases: Sequence[Case], labels: Sequence[str]) -> torch.Tensor:
    """(C, Q) the index of each query's right answer among the labels."""
    return torch.tensor([[list(labels).index(y) for _, y in case.queries] for case in cases])


def shown_labels(cases: Sequence[Case], labels: Sequence[str]) -> torch.Tensor:
    """(C, k) the index of each demonstration's answer among the labels."""
    return torch.tensor([[list(labels).index(y) for _, y in case.demonstrations] for case in cases])
