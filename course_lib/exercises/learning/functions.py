"""Exercises of Learning functions in context."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise


def _prompt(n: int, d: int, *more: float) -> Callable[[torch.Generator], tuple]:
    """Inputs (n, d), values (n,) of a noisy linear function, a question (d,), and what follows."""

    def make(generator: torch.Generator) -> tuple:
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        w = torch.randn(d, generator=generator, dtype=torch.float64)
        y = x @ w + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
        return x, y, torch.randn(d, generator=generator, dtype=torch.float64), *more

    return make


# 1 Ridge regression


def _ridge(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, noise: float) -> torch.Tensor:
    return _with(x, y, query, noise**2)


def _with(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, penalty: float) -> torch.Tensor:
    return query @ torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


ridge = Exercise(
    1,
    reference=_ridge,
    inputs={
        "eight examples in three dimensions": _prompt(8, 3, 0.5),
        "three examples in five dimensions": _prompt(3, 5, 0.5),
        "a lot of noise": _prompt(12, 4, 2.0),
    },
    mistakes={
        "takes σ in place of its square": lambda x, y, query, noise: _with(x, y, query, noise),
        "takes no account of the noise: that is least squares": lambda x, y, query, noise: (
            query @ (torch.linalg.pinv(x) @ y)
        ),
        "adds σ² to every entry of XᵀX: it belongs on the diagonal": lambda x, y, query, noise: (
            query @ torch.linalg.solve(x.T @ x + noise**2, x.T @ y) if len(x) >= x.shape[1] else query.sum()
        ),
        "multiplies the penalty by n": lambda x, y, query, noise: _with(x, y, query, len(x) * noise**2),
        "returns w: the answer is w·x": lambda x, y, query, noise: torch.linalg.solve(
            x.T @ x + noise**2 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y
        ),
    },
)


# 2 Nearest neighbours


def _nearest(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, k: int) -> torch.Tensor:
    return y[(x - query).norm(dim=1).topk(min(k, len(x)), largest=False).indices].mean()


nearest = Exercise(
    2,
    reference=_nearest,
    inputs={
        "eight examples, two neighbours": _prompt(8, 3, 2),
        "twenty examples, three neighbours": _prompt(20, 2, 3),
        "two examples, five neighbours": _prompt(2, 4, 5),
    },
    mistakes={
        "takes the farthest examples": lambda x, y, query, k: y[
            (x - query).norm(dim=1).topk(min(k, len(x))).indices
        ].mean(),
        "takes those of largest inner product, which are not the nearest": lambda x, y, query, k: y[
            (x @ query).topk(min(k, len(x))).indices
        ].mean(),
        "sums the values: take their mean": lambda x, y, query, k: _nearest(x, y, query, k) * min(k, len(x)),
        "averages over all examples": lambda x, y, query, k: y.mean(),
        "fails if there are fewer examples than k": lambda x, y, query, k: (
            _nearest(x, y, query, k) / (k <= len(x))
        ),
    },
)


# 3 Who sees whom


def _mask(n: int) -> torch.Tensor:
    return _of(n, torch.ones(n, n).tril(-1), torch.ones(n, n).tril(), torch.eye(n))


def _of(n: int, questions: torch.Tensor, examples: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.cat([examples, torch.zeros(n, n)], 1), torch.cat([questions, own], 1)]).bool()


mask = Exercise(
    3,
    reference=_mask,
    inputs={
        "two examples": lambda generator: (2,),
        "one example": lambda generator: (1,),
        "six examples": lambda generator: (6,),
    },
    mistakes={
        "lets question i see example i, which holds its answer": lambda n: _of(
            n, torch.ones(n, n).tril(), torch.ones(n, n).tril(), torch.eye(n)
        ),
        "lets every question see all examples, its own among them": lambda n: _of(
            n, torch.ones(n, n), torch.ones(n, n).tril(), torch.eye(n)
        ),
        "lets an example see later ones": lambda n: _of(
            n, torch.ones(n, n).tril(-1), torch.ones(n, n), torch.eye(n)
        ),
        "lets questions see other questions": lambda n: _of(
            n, torch.ones(n, n).tril(-1), torch.ones(n, n).tril(), torch.ones(n, n).tril()
        ),
        "does not let a question see itself": lambda n: _of(
            n, torch.ones(n, n).tril(-1), torch.ones(n, n).tril(), torch.zeros(n, n)
        ),
        "is turned over: rows see, columns are seen": lambda n: _mask(n).T,
        "is the mask of a language model, where each sees all before": lambda n: (
            torch.ones(2 * n, 2 * n).tril().bool()
        ),
    },
)


# 4 The slope of an answer


def _slope(x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, sigma: float) -> torch.Tensor:
    return _smooth(x, y, query, sigma)[1]


def _smooth(
    x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A Gaussian kernel smoother's answer and its gradient by the question."""
    alpha = (-(x - query).square().sum(1) / (2 * sigma**2)).softmax(0)
    answer = alpha @ y
    return answer, (alpha * (y - answer)) @ x / sigma**2


slope = Exercise(
    4,
    reference=_slope,
    inputs={
        "eight examples in three dimensions": _prompt(8, 3, 1.0),
        "five examples, a narrow kernel": _prompt(5, 2, 0.7),
        "twenty examples, a wide kernel": _prompt(20, 4, 2.0),
    },
    mistakes={
        "is the answer itself, not its slope": lambda *inputs: _smooth(*inputs)[0],
        "points the other way": lambda *inputs: -_slope(*inputs),
        "does not divide by σ²": lambda x, y, query, sigma: _slope(x, y, query, sigma) * sigma**2,
        "keeps the weights constant: they change with the question, too": lambda x, y, query, sigma: (
            torch.zeros_like(query)
        ),
        "is least squares' w, which is the same everywhere": lambda x, y, query, sigma: (
            torch.linalg.pinv(x) @ y
        ),
    },
)
