"""Exercises of Choosing demonstrations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.stats import binomtest
from torch.nn.functional import normalize

from course_lib.page.exercises import Exercise

# 1 Nearest neighbours


def _vectors(n: int, d: int) -> Callable[[torch.Generator], tuple]:
    """A query (d,), a pool (n, d) of vectors of different lengths, and k."""

    def draw(generator: torch.Generator) -> tuple:
        lengths = 0.2 + 3 * torch.rand(n, 1, generator=generator)
        return torch.randn(d, generator=generator), torch.randn(n, d, generator=generator) * lengths, 3

    return draw


def _cosine(query: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
    return normalize(pool, dim=-1) @ normalize(query, dim=-1)


def _nearest(query: torch.Tensor, pool: torch.Tensor, k: int) -> torch.Tensor:
    return _cosine(query, pool).topk(k).indices


nearest = Exercise(
    1,
    reference=_nearest,
    inputs={"eight items": _vectors(8, 4), "fifty items": _vectors(50, 6)},
    mistakes={
        "lets long vectors win: take the cosine, not the inner product": lambda query, pool, k: (
            (pool @ query).topk(k).indices
        ),
        "takes those that lie closest as points; the cosine does not depend on the length": (
            lambda query, pool, k: (pool - query).norm(dim=-1).topk(k, largest=False).indices
        ),
        "takes the farthest": lambda query, pool, k: _cosine(query, pool).topk(k, largest=False).indices,
        "returns them with the nearest last": lambda query, pool, k: _nearest(query, pool, k).flip(0),
        "returns similarities, not indices": lambda query, pool, k: _cosine(query, pool).topk(k).values,
    },
)


# 2 One step of MMR


def _chosen(n: int, chosen: list[int], balance: float) -> Callable[[torch.Generator], tuple]:
    """Relevance (n,), similarities (n, n), what has been chosen, and λ."""

    def draw(generator: torch.Generator) -> tuple:
        items = normalize(torch.randn(n, 3, generator=generator), dim=-1)
        query = normalize(torch.randn(3, generator=generator), dim=-1)
        return items @ query, items @ items.T, list(chosen), balance

    return draw


def _nearest_chosen(generator: torch.Generator) -> tuple:
    relevance, similarity, _, _ = _chosen(40, [], 0.9)(generator)
    return relevance, similarity, relevance.topk(2).indices.tolist(), 0.95


def _mmr(
    relevance: torch.Tensor,
    similarity: torch.Tensor,
    chosen: list[int],
    balance: float,
    alike: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows.amax(0),
) -> torch.Tensor:
    worth = balance * relevance - (1 - balance) * alike(similarity[chosen])
    worth[chosen] = -torch.inf
    return worth.argmax()


step = Exercise(
    2,
    reference=_mmr,
    inputs={
        "twelve items of which two are chosen": _chosen(12, [4, 7], 0.3),
        "thirty items of which six are chosen": _chosen(30, [3, 4, 5, 6, 7, 8], 0.4),
        "forty items of which the nearest is chosen, and λ near 1": _nearest_chosen,
    },
    mistakes={
        "ignores what has been chosen": lambda relevance, similarity, chosen, balance: relevance.index_fill(
            0, torch.tensor(chosen), -torch.inf
        ).argmax(),
        "takes the mean similarity to the chosen, not the largest": lambda *given: _mmr(
            *given, alike=lambda rows: rows.mean(0)
        ),
        "adds the similarity to the chosen; it is subtracted": lambda *given: _mmr(
            *given, alike=lambda rows: -rows.amax(0)
        ),
        "weighs relevance by 1 − λ and redundancy by λ": lambda relevance, similarity, chosen, balance: _mmr(
            relevance, similarity, chosen, 1 - balance
        ),
        "may choose an item again": lambda relevance, similarity, chosen, balance: (
            balance * relevance - (1 - balance) * similarity[chosen].amax(0)
        ).argmax(),
    },
)


# 3 The volume of a set


def _set(k: int, d: int) -> Callable[[torch.Generator], tuple]:
    """A query (d,), k items (k, d), all unit vectors, and the scale."""

    def draw(generator: torch.Generator) -> tuple:
        vectors = normalize(torch.randn(k + 1, d, generator=generator), dim=-1)
        return vectors[0], vectors[1:], 1.5

    return draw


def _volume(query: torch.Tensor, items: torch.Tensor, scale: float, power: float = 1.0) -> torch.Tensor:
    quality = torch.exp(power * scale * (items @ query))
    return torch.logdet(quality[:, None] * (items @ items.T) * quality)


volume = Exercise(
    3,
    reference=_volume,
    inputs={"three items": _set(3, 6), "five items": _set(5, 8)},
    mistakes={
        "leaves out the quality": lambda query, items, scale: torch.logdet(items @ items.T),
        "multiplies by the quality once; Lᵢⱼ has that of i and that of j": lambda query, items, scale: (
            _volume(query, items, scale, 0.5)
        ),
        "leaves out the scale": lambda query, items, scale: _volume(query, items, 1.0),
        "returns the determinant, not its logarithm": lambda query, items, scale: _volume(
            query, items, scale
        ).exp(),
        "takes the similarities to the query for the kernel": lambda query, items, scale: torch.logdet(
            torch.outer(items @ query, items @ query)
        ),
    },
)


# 4 A paired test


def _hits(n: int) -> Callable[[torch.Generator], tuple]:
    """Right answers (n,) of two strategies to the same queries, 0 or 1."""

    def draw(generator: torch.Generator) -> tuple:
        easy = torch.rand(n, generator=generator)
        a = (easy + 0.2 * torch.randn(n, generator=generator) < 0.65).int()
        return a, (easy + 0.2 * torch.randn(n, generator=generator) < 0.5).int()

    return draw


def _sign_test(a: torch.Tensor, b: torch.Tensor, alternative: str = "two-sided") -> float:
    wins, losses = int((a > b).sum()), int((a < b).sum())
    return binomtest(wins, wins + losses, alternative=alternative).pvalue


paired = Exercise(
    4,
    reference=_sign_test,
    inputs={"sixty queries": _hits(60), "two hundred queries": _hits(200)},
    mistakes={
        "asks only whether the first is better: the test has two sides": lambda a, b: _sign_test(
            a, b, "greater"
        ),
        "counts queries on which both agree as losses": lambda a, b: (
            binomtest(int((a > b).sum()), len(a)).pvalue
        ),
        "counts the queries that the first answers right, whatever the second does": lambda a, b: (
            binomtest(int(a.sum()), len(a)).pvalue
        ),
        "shares agreements out, half to each": lambda a, b: (
            binomtest(int((a > b).sum() + (a == b).sum() // 2), len(a)).pvalue
        ),
    },
)
