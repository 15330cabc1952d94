"""Exercises of Attention as smoothing."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch

from course_lib.attention import smoothing
from course_lib.page.exercises import Exercise

# 1 How many neighbours?


def _log_sum(weights: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(weights).sum(-1)


def _weights(*shape: int) -> Callable[[torch.Generator], tuple[torch.Tensor]]:
    return lambda generator: (torch.randn(*shape, generator=generator).softmax(-1),)


neighbours = Exercise(
    1,
    reference=smoothing.effective_neighbours,
    inputs={
        "five weights": _weights(5),
        "four queries": _weights(4, 7),
        "a batch of heads": _weights(2, 3, 5),
        "weights of which some are zero": lambda _: (
            torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25], [0.7, 0.2, 0.1, 0]]),
        ),
    },
    mistakes={
        "gives the entropy: take its exponential": _log_sum,
        "gives NaN where a weight is zero: 0 log 0 counts as 0, as in torch.special.entr": lambda weights: (
            -(weights * weights.log()).sum(-1)
        ).exp(),
        "has the sign of the entropy flipped: it is −Σ α log α, which is never negative": lambda weights: (
            -_log_sum(weights)
        ).exp(),
        "takes e to an entropy in bits: with logarithms to base 2 the power is one of 2": lambda weights: (
            _log_sum(weights) / log(2)
        ).exp(),
        "averages over the keys: the entropy is a sum over them": lambda weights: (
            torch.special.entr(weights).mean(-1).exp()
        ),
        "sums over everything: each query has its own number, along the last axis": lambda weights: (
            torch.special.entr(weights).sum().exp()
        ),
        "takes each term's exponential and then the sum: first the sum": lambda weights: (
            torch.special.entr(weights).exp().sum(-1)
        ),
        "gives 1/Σα², which is another way to count: use the entropy": lambda weights: (
            1 / weights.square().sum(-1)
        ),
        "gives 1/max α, which is another way to count: use the entropy": lambda weights: 1 / weights.amax(-1),
        "counts the weights that are not zero, however small they are": lambda weights: (weights > 0).sum(-1),
    },
)


# 2 How sharp is sharp enough?


def _gap(scores: torch.Tensor) -> torch.Tensor:
    best = scores.topk(2).values
    return best[..., 0] - best[..., 1]


def _sharp_enough(scores: torch.Tensor, rest: float) -> torch.Tensor:
    return log((scores.shape[-1] - 1) / rest) / _gap(scores)


def _scores(rest: float, *shape: int) -> Callable[[torch.Generator], tuple[torch.Tensor, float]]:
    return lambda generator: (2 * torch.randn(*shape, generator=generator), rest)


sharp = Exercise(
    2,
    reference=_sharp_enough,
    inputs={
        "the scores 2, 1 and 0.5": lambda _: (torch.tensor([2, 1, 0.5]), 0.01),
        "six scores in any order": _scores(0.01, 6),
        "a batch of queries": _scores(1e-6, 4, 9),
        "a hundred keys": _scores(0.1, 2, 3, 100),
    },
    mistakes={
        "gives the bound at c = 1: solve it for c": lambda scores, rest: (
            (scores.shape[-1] - 1) * (-_gap(scores)).exp()
        ),
        "leaves out how many others there are: each of the n − 1 may have its share": lambda scores, rest: (
            log(1 / rest) / _gap(scores)
        ),
        "counts n others: the best key is not among them": lambda scores, rest: (
            log(scores.shape[-1] / rest) / _gap(scores)
        ),
        "has the sign flipped: log(rest/(n − 1)) is negative, and c is not": lambda scores, rest: (
            -_sharp_enough(scores, rest)
        ),
        "multiplies by the gap: a larger gap needs a smaller c": lambda scores, rest: (
            _sharp_enough(scores, rest) * _gap(scores).square()
        ),
        "takes the gap to the lowest score: the second best is the most dangerous": lambda scores, rest: (
            log((scores.shape[-1] - 1) / rest) / (scores.amax(-1) - scores.amin(-1))
        ),
        "takes the gap to the mean: the second best is the most dangerous": lambda scores, rest: (
            log((scores.shape[-1] - 1) / rest) / (scores.amax(-1) - scores.mean(-1))
        ),
        "takes the first two scores: the best two can stand anywhere": lambda scores, rest: (
            log((scores.shape[-1] - 1) / rest) / (scores[..., 0] - scores[..., 1])
        ),
        "takes the logarithm to base 10: e^{−cΔ} asks for the natural one": lambda scores, rest: (
            _sharp_enough(scores, rest) / log(10)
        ),
        "takes the smallest gap of all queries: each has its own c": lambda scores, rest: (
            log((scores.shape[-1] - 1) / rest) / _gap(scores).min()
        ),
    },
)


# 3 A kernel smoother

Arguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]


def _squares(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return (queries[:, None] - keys).square().sum(-1)  # (m, n)


def _smooth(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, c: float) -> torch.Tensor:
    return (-c / 2 * _squares(queries, keys)).softmax(-1) @ values


def _kernel(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, c: float
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel = (-c / 2 * _squares(queries, keys)).exp()
    return kernel, kernel @ values


def _points(m: int, n: int, d: int, width: int, c: float, far: float = 0) -> Callable[..., Arguments]:
    """Some queries, all moved away from the keys by `far` along every axis."""

    def make(generator: torch.Generator) -> Arguments:
        queries, keys, values = (
            torch.randn(*shape, generator=generator) for shape in ((m, d), (n, d), (n, width))
        )
        return queries + far, keys, values, c

    return make


smoother = Exercise(
    3,
    reference=_smooth,
    inputs={
        "one query on a line": lambda _: (
            torch.tensor([[1.0]]),
            torch.tensor([[0.0], [2.0], [4.0]]),
            torch.tensor([[0.0], [10.0], [20.0]]),
            0.7,
        ),
        "four queries and three keys": _points(4, 3, 2, 2, c=1.5),
        "as many queries as keys": _points(5, 5, 3, 1, c=0.4),
        "queries far away from all keys": _points(2, 4, 3, 2, c=4, far=20),
    },
    mistakes={
        "divides 0 by 0 far away, where all kernels are 0: take softmax, which first subtracts the largest": (
            lambda *arguments: _kernel(*arguments)[1] / _kernel(*arguments)[0].sum(-1, keepdim=True)
        ),
        "does not divide by the sum of the kernels: it gives a sum, not an average": lambda *arguments: (
            _kernel(*arguments)[1]
        ),
        "uses inner products: without equal norms they are not distances": lambda queries, keys, values, c: (
            (c * queries @ keys.T).softmax(-1) @ values
        ),
        "uses the distance: square it": lambda queries, keys, values, c: (
            (-c / 2 * _squares(queries, keys).sqrt()).softmax(-1) @ values
        ),
        "leaves out the ½ in front of the square: c would be 1/(2σ²)": lambda queries, keys, values, c: (
            (-c * _squares(queries, keys)).softmax(-1) @ values
        ),
        "divides by c: c is 1/σ², so it multiplies": lambda queries, keys, values, c: (
            (-_squares(queries, keys) / 2 / c).softmax(-1) @ values
        ),
        "leaves out c": lambda queries, keys, values, c: (-_squares(queries, keys) / 2).softmax(-1) @ values,
        "prefers keys that are far away: the sign in front of the square is negative": (
            lambda queries, keys, values, c: (c / 2 * _squares(queries, keys)).softmax(-1) @ values
        ),
        "normalises over the queries: each query's weights sum to one over the keys": (
            lambda queries, keys, values, c: (-c / 2 * _squares(queries, keys)).softmax(0) @ values
        ),
        "averages the squares over the coordinates: sum them": lambda queries, keys, values, c: (
            (-c / 2 * _squares(queries, keys) / keys.shape[1]).softmax(-1) @ values
        ),
        "takes the value of the nearest key only": lambda queries, keys, values, c: values[
            _squares(queries, keys).argmin(-1)
        ],
        "averages the keys: what is averaged are the values": lambda queries, keys, values, c: (
            (-c / 2 * _squares(queries, keys)).softmax(-1) @ keys
        ),
    },
)


# 4 Leave one out


def _own(keys: torch.Tensor) -> torch.Tensor:
    return torch.eye(len(keys), dtype=torch.bool)


def _left_out(keys: torch.Tensor, values: torch.Tensor, c: float) -> torch.Tensor:
    return (-c / 2 * _squares(keys, keys)).masked_fill(_own(keys), -torch.inf).softmax(-1) @ values


def _masked_late(keys: torch.Tensor, values: torch.Tensor, c: float) -> torch.Tensor:
    alpha = (-c / 2 * _squares(keys, keys)).softmax(-1).masked_fill(_own(keys), 0)
    return alpha / alpha.sum(-1, keepdim=True) @ values


def _rows(n: int, d: int, width: int, c: float) -> Callable[..., tuple[torch.Tensor, torch.Tensor, float]]:
    return lambda generator: _points(1, n, d, width, c)(generator)[1:]


leave = Exercise(
    4,
    reference=_left_out,
    inputs={
        "four demonstrations on a line": lambda _: (
            torch.tensor([[0.0], [1.0], [3.0], [6.0]]),
            torch.tensor([[1.0], [2.0], [4.0], [8.0]]),
            0.5,
        ),
        "ten demonstrations with three classes": lambda generator: (
            torch.randn(10, 2, generator=generator),
            torch.eye(3)[torch.randint(3, (10,), generator=generator)],
            2.0,
        ),
        "c = 0": _rows(6, 2, 2, 0.0),
        "two demonstrations": _rows(2, 3, 1, 1.0),
        "a c of 1e8": _rows(6, 2, 1, 1e8),
    },
    mistakes={
        "lets each demonstration see itself, at distance 0: only a score of −∞ leaves it out": (
            lambda keys, values, c: _smooth(keys, keys, values, c)
        ),
        "takes the own weight away after softmax: the others' weights do not sum to one any more": (
            lambda keys, values, c: (
                (-c / 2 * _squares(keys, keys)).softmax(-1).masked_fill(_own(keys), 0) @ values
            )
        ),
        "masks after softmax, when the own weight has taken everything: mask the scores": _masked_late,
        "leaves all others out: the mask is the wrong way round": lambda keys, values, c: (
            (-c / 2 * _squares(keys, keys)).masked_fill(~_own(keys), -torch.inf).softmax(-1) @ values
        ),
        "uses inner products: −c‖k − k'‖²/2 are the scores": lambda keys, values, c: (
            (c * keys @ keys.T).masked_fill(_own(keys), -torch.inf).softmax(-1) @ values
        ),
        "leaves out the ½ in front of the square": lambda keys, values, c: _left_out(keys, values, 2 * c),
        "normalises over the queries: weights sum to one along the last axis": lambda keys, values, c: (
            (-c / 2 * _squares(keys, keys)).masked_fill(_own(keys), -torch.inf).softmax(0) @ values
        ),
        "also leaves out all demonstrations behind it: every other one may answer": lambda keys, values, c: (
            (-c / 2 * _squares(keys, keys))
            .masked_fill(torch.ones(len(keys), len(keys)).triu().bool(), -torch.inf)
            .softmax(-1)
            @ values
        ),
    },
)
