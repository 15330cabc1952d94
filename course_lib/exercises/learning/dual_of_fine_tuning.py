"""Exercises of The dual of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise


def _random(*shapes: tuple[int, ...]) -> Callable[[torch.Generator], tuple]:
    def make(generator: torch.Generator) -> tuple:
        return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)

    return make


# 1 The update that attention makes

update = Exercise(
    1,
    reference=lambda values, keys: values.T @ keys,
    inputs={
        "three demonstrations": _random((3, 2), (3, 4)),
        "one demonstration": _random((1, 3), (1, 3)),
        "forty demonstrations": _random((40, 5), (40, 5)),
    },
    mistakes={
        "is transposed: ΔW takes a query and gives a value": lambda values, keys: keys.T @ values,
        "averages over demonstrations: their contributions add": lambda values, keys: (
            values.T @ keys / len(keys)
        ),
        "is n × n: sum over the demonstrations": lambda values, keys: values @ values.T + keys @ keys.T,
        "takes one demonstration only": lambda values, keys: torch.outer(values[0], keys[0]),
        "has softmax in it": lambda values, keys: values.T @ keys.softmax(0),
    },
)


# 2 One layer, one step


def _construct(d: int, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    value, key_query = torch.zeros(d + 1, d + 1), torch.eye(d + 1)
    value[-1, -1], key_query[-1, -1] = -size, 0
    return value, key_query


construct = Exercise(
    2,
    reference=_construct,
    inputs={
        "two coordinates": lambda generator: (2, 0.5),
        "one coordinate": lambda generator: (1, 2.0),
        "five coordinates": lambda generator: (5, 6.0606),
    },
    mistakes={
        "adds y in place of taking it off: what is left of an example shrinks": lambda d, size: (
            -_construct(d, size)[0],
            _construct(d, size)[1],
        ),
        "compares y, too: the question's y is not known": lambda d, size: (
            _construct(d, size)[0],
            torch.eye(d + 1),
        ),
        "compares y and changes the inputs: each matrix needs one part only": lambda d, size: (
            -size * torch.eye(d + 1),
            torch.eye(d + 1),
        ),
        "changes the inputs, too": lambda d, size: (-size * torch.eye(d + 1), _construct(d, size)[1]),
        "takes a step of size one": lambda d, size: _construct(d, 1.0),
        "has the step twice, in both matrices": lambda d, size: (
            _construct(d, size)[0],
            size * _construct(d, size)[1],
        ),
        "exchanges the two matrices": lambda d, size: _construct(d, size)[::-1],
    },
)


# 3 A preconditioner


def _preconditioner(covariance: torch.Tensor, n: int) -> torch.Tensor:
    return _of((n + 1) / n, 1 / n, covariance)


def _of(by_itself: float, by_trace: float, covariance: torch.Tensor) -> torch.Tensor:
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    return torch.linalg.inv(by_itself * covariance + by_trace * covariance.trace() * eye)


def _covariance(d: int, n: int) -> Callable[[torch.Generator], tuple]:
    def make(generator: torch.Generator) -> tuple:
        x = torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
        return x @ x.T / (2 * d), n

    return make


preconditioner = Exercise(
    3,
    reference=_preconditioner,
    inputs={
        "two coordinates, ten examples": _covariance(2, 10),
        "five coordinates, three examples": _covariance(5, 3),
        "three coordinates, a thousand examples": _covariance(3, 1000),
    },
    mistakes={
        "is the inverse of the covariance, best for infinitely many examples only": lambda covariance, n: (
            torch.linalg.inv(covariance)
        ),
        "forgets the trace: the other directions make noise": lambda covariance, n: _of(
            (n + 1) / n, 0, covariance
        ),
        "does not divide the trace by n": lambda covariance, n: _of((n + 1) / n, 1, covariance),
        "is not inverted": lambda covariance, n: torch.linalg.inv(_preconditioner(covariance, n)),
        "is diagonal: the covariance is not": lambda covariance, n: _preconditioner(
            covariance.diag().diag(), n
        ),
    },
)


# 4 The same direction?


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(a, b, dim=-1).mean()


direction = Exercise(
    4,
    reference=lambda icl, tuned, zero: _cosine(icl - zero, tuned - zero),
    inputs={
        "four queries": _random((4, 3), (4, 3), (4, 3)),
        "one query": _random((1, 6), (1, 6), (1, 6)),
        "large outputs that change little": lambda generator: tuple(
            50 + x for x in _random((5, 4), (5, 4), (5, 4))(generator)
        ),
    },
    mistakes={
        "compares the outputs: compare what changed": lambda icl, tuned, zero: _cosine(icl, tuned),
        "takes the zero-shot output off one of the two only": lambda icl, tuned, zero: _cosine(
            icl - zero, tuned
        ),
        "averages before the cosine: each query has its own": lambda icl, tuned, zero: _cosine(
            (icl - zero).mean(0), (tuned - zero).mean(0)
        ),
        "is an inner product: divide by both lengths": lambda icl, tuned, zero: (
            ((icl - zero) * (tuned - zero)).sum(-1).mean()
        ),
        "is one value per query: return their mean": lambda icl, tuned, zero: torch.cosine_similarity(
            icl - zero, tuned - zero, dim=-1
        ),
    },
)
