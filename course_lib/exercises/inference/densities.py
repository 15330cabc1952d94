"""Exercises of Locating a density."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise

# 1 From log-likelihoods to a family


def _family(log_weight: torch.Tensor, member: torch.Tensor, n_families: int) -> torch.Tensor:
    return _summed(log_weight.softmax(0), member, n_families)


def _summed(weight: torch.Tensor, member: torch.Tensor, n_families: int) -> torch.Tensor:
    return weight.new_zeros(n_families).index_add(0, member, weight)


def _counts(member: torch.Tensor, n_families: int) -> torch.Tensor:
    return _summed(torch.ones(len(member), dtype=torch.float64), member, n_families)


def _best(log_weight: torch.Tensor, member: torch.Tensor, n_families: int) -> torch.Tensor:
    return torch.stack([log_weight[member == k].max() for k in range(n_families)]).softmax(0)


def _weights(G: int, n_families: int, low: float) -> Callable[..., tuple]:
    def make(generator: torch.Generator) -> tuple:
        log_weight = low + 3 * torch.rand(G, generator=generator, dtype=torch.float64)
        member = torch.cat(
            [torch.arange(n_families), torch.randint(n_families, (G - n_families,), generator=generator)]
        )
        return log_weight, member, n_families

    return make


family = Exercise(
    1,
    reference=_family,
    inputs={
        "eight distributions of two families": _weights(8, 2, -3.0),
        "very small weights": _weights(24, 2, -2000.0),
        "three families": _weights(60, 3, -5.0),
    },
    mistakes={
        "compares the best members: a family has the sum of all its members' weights": _best,
        "averages over a family's members: their weights add": lambda log_weight, member, n: (
            _family(log_weight, member, n) / _counts(member, n)
        ),
        "does not exponentiate: sum the weights, not their logarithms": lambda log_weight, member, n: _summed(
            log_weight, member, n
        ),
        "does not divide by the sum: probabilities have sum one": lambda log_weight, member, n: _summed(
            log_weight.exp(), member, n
        ),
        "divides by zero when weights are tiny: use softmax on the logarithms": lambda weight, member, n: (
            _summed(weight.exp(), member, n) / weight.exp().sum()
        ),
        "takes softmax of the families' sums of logarithms": lambda log_weight, member, n: _summed(
            log_weight, member, n
        ).softmax(0),
    },
)


# 2 A bin under noise


def _bin(log_p: torch.Tensor, low: float, high: float, noise: float) -> torch.Tensor:
    return torch.special.ndtr((high - log_p) / noise) - torch.special.ndtr((low - log_p) / noise)


def _rough(log_p: torch.Tensor, low: float, high: float, noise: float) -> torch.Tensor:
    return torch.exp(-((((low + high) / 2 - log_p) / noise) ** 2) / 2) * (high - low)


def _values(n: int, low: float, high: float, noise: float) -> Callable[..., tuple]:
    return lambda generator: (
        low + (high - low) * (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.5),
        low,
        high,
        noise,
    )


bin_probability = Exercise(
    2,
    reference=_bin,
    inputs={
        "a bin as wide as the noise": _values(6, -3.0, -2.0, 1.0),
        "a narrow bin": _values(6, -3.0, -2.9, 0.5),
        "little noise": _values(6, -3.0, -2.7, 0.15),
    },
    mistakes={
        "takes the height of the bell in the middle of the bin, without its factor": _rough,
        "takes the height of the bell in the middle of the bin: the probability is an area": (
            lambda log_p, low, high, noise: _rough(log_p, low, high, noise) / (noise * (2 * torch.pi) ** 0.5)
        ),
        "does not divide by the noise": lambda log_p, low, high, noise: _bin(log_p, low, high, 1.0),
        "divides by the variance: noise is a standard deviation": lambda log_p, low, high, noise: _bin(
            log_p, low, high, noise**2
        ),
        "forgets the lower bound": lambda log_p, low, high, noise: torch.special.ndtr((high - log_p) / noise),
        "ignores the noise: log P is in the bin or not": lambda log_p, low, high, noise: (
            (log_p >= low) & (log_p < high)
        ).double(),
    },
)


# 3 Expecting outliers


def _tolerant(likelihood: torch.Tensor, share: float, chance: float) -> torch.Tensor:
    return ((1 - share) * likelihood + share * chance).log().sum(0)


def _likelihoods(n: int, G: int, share: float) -> Callable[..., tuple]:
    return lambda generator: (torch.rand(n, G, generator=generator, dtype=torch.float64), share, 0.01)


tolerant = Exercise(
    3,
    reference=_tolerant,
    inputs={
        "three points, two distributions": _likelihoods(3, 2, 0.2),
        "one point": _likelihoods(1, 4, 0.5),
        "eight points": _likelihoods(8, 5, 0.1),
    },
    mistakes={
        "averages logarithms: for each point, average the probabilities, then take the logarithm": (
            lambda likelihood, share, chance: (
                (1 - share) * likelihood.log().sum(0) + share * torch.tensor(chance).log()
            )
        ),
        "averages logarithms, point by point: average the probabilities, then take the logarithm": (
            lambda likelihood, share, chance: (
                (1 - share) * likelihood.log() + share * torch.tensor(chance).log()
            ).sum(0)
        ),
        "mixes after multiplying: whether a point is foreign is decided for each point": (
            lambda likelihood, share, chance: (
                (1 - share) * likelihood.prod(0) + share * chance ** len(likelihood)
            ).log()
        ),
        "ignores the foreign points": lambda likelihood, share, chance: likelihood.log().sum(0),
        "forgets chance: a foreign point has that probability": lambda likelihood, share, chance: (
            ((1 - share) * likelihood + share).log().sum(0)
        ),
        "exchanges share and 1 − share": lambda likelihood, share, chance: _tolerant(
            likelihood, 1 - share, chance
        ),
        "adds the foreign part without taking the share off the other": lambda likelihood, share, chance: (
            (likelihood + share * chance).log().sum(0)
        ),
        "averages over the points: independent points multiply": lambda likelihood, share, chance: (
            _tolerant(likelihood, share, chance) / len(likelihood)
        ),
    },
)


# 4 A reader that locates


def _locate(curves: torch.Tensor, at: torch.Tensor, seen: torch.Tensor, asked: int) -> torch.Tensor:
    return curves[(curves[:, at] - seen).square().sum(1).argmin(), asked]


def _reshaped(curves: torch.Tensor, at: torch.Tensor, seen: torch.Tensor, asked: int) -> torch.Tensor:
    best = (curves[:, at] - seen).square().sum(1).argmin()
    return curves[best, asked] + (seen - curves[best, at]).mean()


def _curves(G: int, X: int, n: int) -> Callable[..., tuple]:
    def make(generator: torch.Generator) -> tuple:
        curves = -4 * torch.rand(G, X, generator=generator, dtype=torch.float64)
        at = torch.randint(X, (n,), generator=generator)
        seen = curves[G // 2, at] - 0.8 * torch.rand(n, generator=generator, dtype=torch.float64)
        return curves, at, seen, X - 1

    return make


locate = Exercise(
    4,
    reference=_locate,
    inputs={
        "five densities, three points": _curves(5, 6, 3),
        "forty densities": _curves(40, 9, 5),
        "many points": _curves(12, 10, 30),
    },
    mistakes={
        "shifts the density to the points: that reader reshapes": _reshaped,
        "compares with the first places: the points are at the places `at`": lambda curves, at, seen, asked: (
            curves[(curves[:, : len(at)] - seen).square().sum(1).argmin(), asked]
            if len(at) <= curves.shape[1]
            else curves[0, asked]
        ),
        "does not square: differences of both signs cancel": lambda curves, at, seen, asked: curves[
            (curves[:, at] - seen).sum(1).argmin(), asked
        ],
        "takes the worst": lambda curves, at, seen, asked: curves[
            (curves[:, at] - seen).square().sum(1).argmax(), asked
        ],
        "averages all densities: locating chooses one": lambda curves, at, seen, asked: curves[
            :, asked
        ].mean(),
        "copies the nearest point: take a density": lambda curves, at, seen, asked: seen[
            (at - asked).abs().argmin()
        ],
        "copies the last point": lambda curves, at, seen, asked: seen[-1],
        "returns the misfit": lambda curves, at, seen, asked: (curves[:, at] - seen).square().sum(1).min(),
    },
)
