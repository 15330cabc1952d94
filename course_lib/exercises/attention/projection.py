"""Exercises of Attention as projection."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.attention import projection as pj
from course_lib.page.exercises import Exercise
from course_lib.readouts import onto_simplex

# 1 The nearest point of a segment


def _segment(clip: Callable[[torch.Tensor], torch.Tensor], start: int = 0) -> Callable[..., torch.Tensor]:
    def nearest(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        along = v[1] - v[0]
        t = clip((q - v[start]) @ along / (along @ along))
        return v[0] + t * along

    return nearest


def _both(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(0, 1)


ENDS = torch.tensor([[1.0, 0.0], [3.0, 0.0]])

segment = Exercise(
    1,
    reference=_segment(_both),
    inputs={
        "a query above the segment": lambda _: (torch.tensor([1.3, 1.0]), ENDS),
        "a query beyond the second value": lambda _: (torch.tensor([4.0, -1.0]), ENDS),
        "a query before the first value": lambda _: (torch.tensor([-2.0, 0.5]), ENDS),
        "five dimensions": lambda g: (torch.randn(5, generator=g), torch.randn(2, 5, generator=g)),
    },
    mistakes={
        "finds the nearest point of the line: weights may not be negative": _segment(lambda t: t),
        "stops at the first value but not at the second": _segment(lambda t: t.clamp_min(0)),
        "stops at the second value but not at the first": _segment(lambda t: t.clamp_max(1)),
        "measures from the origin, not from the first value": lambda q, v: (
            v[0] + _both(q @ (v[1] - v[0]) / (v[1] - v[0]).square().sum()) * (v[1] - v[0])
        ),
        "measures from the second value, not from the first": _segment(_both, start=1),
        "forgets to divide by the squared length of the segment": lambda q, v: (
            v[0] + _both((q - v[0]) @ (v[1] - v[0])) * (v[1] - v[0])
        ),
        "returns the nearer of the two values: points between them may be nearer": lambda q, v: v[
            (v - q).norm(dim=-1).argmin()
        ],
        "divides by the length of the segment, not by its square": lambda q, v: (
            v[0] + _both((q - v[0]) @ (v[1] - v[0]) / (v[1] - v[0]).norm()) * (v[1] - v[0])
        ),
    },
)


# 2 A certificate


def _gap(alpha: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    x = alpha @ v
    return ((x - v) @ (x - q)).max()


def _weights(n: int, d: int, centre: float = 0.0) -> Callable[[torch.Generator], tuple[torch.Tensor, ...]]:
    def draw(g: torch.Generator) -> tuple[torch.Tensor, ...]:
        v, q = (centre + torch.randn(*shape, generator=g) for shape in ((n, d), (d,)))
        return torch.randn(n, generator=g).softmax(0), q, v

    return draw


certificate = Exercise(
    2,
    reference=_gap,
    inputs={
        "all weight on one of two values": lambda _: (
            torch.tensor([1.0, 0.0]),
            torch.tensor([2.5, 1.0]),
            ENDS,
        ),
        "the solution itself": lambda _: (torch.tensor([0.25, 0.75]), torch.tensor([2.5, 1.0]), ENDS),
        "six values": _weights(6, 3),
        "nine values in the plane": _weights(9, 2),
        "six values far from the origin": _weights(6, 3, centre=5.0),
    },
    mistakes={
        "takes the largest absolute product: where it is negative there is nothing to gain": lambda a, q, v: (
            ((a @ v - v) @ (a @ v - q)).abs().max()
        ),
        "takes the product at the value with the largest ⟨q, vᵢ⟩: take the largest product": lambda a, q, v: (
            (a @ v - v) @ (a @ v - q)
        )[(v @ q).argmax()],
        "adds up the products: one good direction is enough": lambda a, q, v: (
            (a @ v - v) @ (a @ v - q)
        ).sum(),
        "takes the smallest of the products: the largest bounds the gain": lambda a, q, v: (
            (a @ v - v) @ (a @ v - q)
        ).min(),
        "points from x to the values: the difference is x − vᵢ": lambda a, q, v: (
            (v - a @ v) @ (a @ v - q)
        ).max(),
        "points from the query to the values: the first difference is x − vᵢ": lambda a, q, v: (
            (q - v) @ (a @ v - q)
        ).max(),
        "takes the mean over the values: one good direction is enough": lambda a, q, v: (
            (a @ v - v) @ (a @ v - q)
        ).mean(),
        "returns the squared distance: by how much could it fall?": lambda a, q, v: (
            (a @ v - q).square().sum()
        ),
        "returns half the squared distance: by how much could it fall?": lambda a, q, v: (
            (a @ v - q).square().sum() / 2
        ),
    },
)


# 3 Onto the simplex

SCORES = {
    "scores that are weights": lambda _: (torch.tensor([0.2, 0.5, 0.3]),),
    "one negative score": lambda _: (torch.tensor([0.9, 0.6, -0.5]),),
    "one large score": lambda _: (torch.tensor([4.0, 1.0, 0.0, 0.5]),),
    "ten random scores": lambda g: (torch.randn(10, generator=g),),
}

simplex = Exercise(
    3,
    reference=onto_simplex,
    inputs=SCORES,
    mistakes={
        "is softmax, which gives every score some weight": lambda z: z.softmax(-1),
        "clips negative scores and divides by the sum: subtract a threshold instead": lambda z: (
            z.clamp_min(0) / z.clamp_min(0).sum()
        ),
        "makes the sum one but leaves negative weights": lambda z: z + (1 - z.sum()) / len(z),
        "computes the threshold from all scores: only those above it count": lambda z: (
            z + (1 - z.sum()) / len(z)
        ).clamp_min(0),
        "gives all weight to the largest score": lambda z: torch.nn.functional.one_hot(z.argmax(), len(z)).to(
            z
        ),
    },
)


# 4 A step of Frank and Wolfe


def _frank_wolfe(
    direction: Callable[..., torch.Tensor] = lambda a, q, v: -pj.slopes(a, q, v),
    line_search: bool = True,
    clip: Callable[[torch.Tensor], torch.Tensor] = _both,
) -> Callable[..., torch.Tensor]:
    def step(alpha: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        i = direction(alpha, q, v).argmax()
        along = v[i] - alpha @ v
        length = along @ along
        t = (q - alpha @ v) @ along / length.clamp_min(1e-12)
        t = clip(t) if line_search else torch.ones(())
        return alpha + t * (torch.nn.functional.one_hot(i, len(v)).to(alpha) - alpha)

    return step


def _divided_by_length(alpha: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    i = pj.slopes(alpha, q, v).argmin()
    along = v[i] - alpha @ v
    t = _both((q - alpha @ v) @ along / along.norm().clamp_min(1e-12))
    return alpha + t * (torch.eye(len(v))[i] - alpha)


def _unguarded(alpha: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    i = pj.slopes(alpha, q, v).argmin()
    along = v[i] - alpha @ v
    t = _both((q - alpha @ v) @ along / (along @ along))
    return alpha + t * (torch.eye(len(v))[i] - alpha)


frank_wolfe = Exercise(
    4,
    reference=_frank_wolfe(),
    inputs={
        "all weight on one of two values": lambda _: (
            torch.tensor([1.0, 0.0]),
            torch.tensor([1.3, 1.0]),
            ENDS,
        ),
        "a query beyond the second value": lambda _: (
            torch.tensor([0.5, 0.5]),
            torch.tensor([9.0, 1.0]),
            ENDS,
        ),
        "six values": _weights(6, 3),
        "nine values in the plane": _weights(9, 2),
        "six values far from the origin": _weights(6, 3, centre=5.0),
        "weights that are the solution already": lambda _: (
            torch.tensor([0.0, 1.0]),
            torch.tensor([9.0, 1.0]),
            ENDS,
        ),
    },
    mistakes={
        "moves all the way to the value with the largest inner product: follow the slope, and stop in time": (
            _frank_wolfe(lambda a, q, v: v @ q, line_search=False)
        ),
        "moves to the value with the steepest slope of either sign: the distance must fall": _frank_wolfe(
            lambda a, q, v: pj.slopes(a, q, v).abs()
        ),
        "divides by the length of the segment, not by its square": _divided_by_length,
        "divides by zero where the value is reached already: keep the divisor above zero": _unguarded,
        "moves to the value with the largest inner product with q: what is still missing is q − x": (
            _frank_wolfe(lambda a, q, v: v @ q)
        ),
        "moves to the value where the distance grows fastest: mind the sign": _frank_wolfe(pj.slopes),
        "moves to the value nearest to the query: follow the slope": _frank_wolfe(
            lambda a, q, v: -(v - q).square().sum(-1)
        ),
        "goes all the way to the value: stop where the distance is smallest": _frank_wolfe(line_search=False),
        "goes beyond the value: the step is at most one": _frank_wolfe(clip=lambda t: t.clamp_min(0)),
    },
)
