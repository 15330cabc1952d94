"""Points of distributions as tokens, documents of them, and exact inference of which distribution it is.

A document lists points of one distribution: x, at times the name of its family, and the density P(x).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.distributions import Chi2, Distribution, Exponential, Gamma, Normal, Poisson
from torch.nn.functional import one_hot

FAMILIES = ("normal", "chi-square", "Poisson", "exponential", "gamma")
LOWEST, HIGHEST = -10, 40  # of x, which is a whole number
BINS, WIDTH, FLOOR = 42, 0.3, -12.0  # of log P(x), in nats
NOISE = 0.15  # standard deviation, in nats, of what log P(x) is written with
XS = HIGHEST - LOWEST + 1
VOCAB = XS + BINS + len(FAMILIES)  # tokens: first those of x, then those of P(x), then the families
LENGTH = 51  # tokens of a document; seventeen named points
_TINY = 1e-30  # under a logarithm
STARTS = torch.tensor([LOWEST, 1, 0, 1, 1])  # the first x of each family


# Distributions and their points


@dataclass(frozen=True)
class Densities:
    """Distributions side by side, each tensor of one shape (...)."""

    family: torch.Tensor  # index in FAMILIES
    a: torch.Tensor  # normal, Poisson, exponential: mean · chi-square: degrees of freedom · gamma: shape
    b: torch.Tensor  # normal: standard deviation · gamma: scale · else without meaning

    def __getitem__(self, index: object) -> Densities:
        return Densities(self.family[index], self.a[index], self.b[index])

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        """Its log P(x), in nats, for x that broadcasts with (...); −∞ where the family has no x."""
        return self._pick(lambda one: one.log_prob(x)).where(x >= STARTS[self.family], -torch.inf)

    def mean_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and standard deviations."""
        return self._pick(lambda one: one.mean), self._pick(lambda one: one.stddev)

    def span(self, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The first and the last x within so many standard deviations of the mean."""
        mean, std = self.mean_std()
        first = torch.maximum((mean - spread * std).ceil(), STARTS[self.family])
        return first, (mean + spread * std).floor().clamp(max=HIGHEST)

    def _pick(self, of: Callable[[Distribution], torch.Tensor]) -> torch.Tensor:
        a, b = self.a, self.b
        each = (
            Normal(a, b, False),
            Chi2(a, False),
            Poisson(a, False),
            Exponential(1 / a, False),
            Gamma(a, 1 / b, False),
        )
        values = torch.stack([of(one) for one in each])
        return values.gather(0, self.family.expand(values.shape[1:])[None])[0]


def from_quantiles(family: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> Densities:
    """The distributions at the quantiles u and v, 0 to 1, of how parameters are drawn in pretraining."""

    def log_uniform(low: float, high: float, at: torch.Tensor) -> torch.Tensor:
        return low * (high / low) ** at

    a = torch.stack(
        [25 * u, 3 + 22 * u, log_uniform(1, 20, u), log_uniform(2, 12, u), log_uniform(1.5, 10, u)]
    )
    one = torch.ones_like(v)
    b = torch.stack([log_uniform(1.5, 6, v), one, one, one, log_uniform(0.7, 3, v)])
    return Densities(family, *(x.gather(0, family[None])[0] for x in (a, b)))


def draw_densities(n: int, generator: torch.Generator) -> Densities:
    """So many distributions as pretraining draws them, each family as often."""
    family = torch.randint(len(FAMILIES), (n,), generator=generator)
    u, v = torch.rand(2, n, generator=generator)
    return from_quantiles(family, u, v)


def draw_points(
    densities: Densities, n: int, generator: torch.Generator, *, spread: float, beyond: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of each distribution, with x uniform among the whole numbers of its span.

    Args:
        densities: of shape (N,).
        n: points of each.
        generator: seeded.
        spread: x is at most so many standard deviations from the mean.
        beyond: and at least so many.

    Returns:
        x (N, n) whole numbers and log P (N, n) with noise, in nats.

    Raises:
        ValueError: a distribution has no such x.
    """
    x = torch.arange(LOWEST, HIGHEST + 1)
    first, last = densities.span(spread)
    mean, std = densities.mean_std()
    may = (x >= first[:, None]) & (x <= last[:, None]) & ((x - mean[:, None]).abs() >= beyond * std[:, None])
    if not may.any(-1).all():
        raise ValueError(f"spread={spread}, beyond={beyond}: a distribution has no such points")
    chosen = x[torch.multinomial(may.float(), n, replacement=True, generator=generator)]
    noise = NOISE * torch.randn(chosen.shape, generator=generator)
    return chosen, densities[:, None].log_density(chosen) + noise


def bins(log_p: torch.Tensor) -> torch.Tensor:
    """The bin of each log P, 0 to BINS − 1; what lies below or above goes into the last one."""
    return ((log_p - FLOOR) / WIDTH).floor().clamp(0, BINS - 1).long()


def centres() -> torch.Tensor:
    """The log P (BINS,) in the middle of each bin, in nats."""
    return FLOOR + WIDTH * (torch.arange(BINS) + 0.5)


# Documents and prompts


def x_token(x: torch.Tensor) -> torch.Tensor:
    """The token of x."""
    return (x - LOWEST).long()


def p_token(log_p: torch.Tensor) -> torch.Tensor:
    """The token of a log P."""
    return XS + bins(log_p)


def family_token(family: torch.Tensor) -> torch.Tensor:
    """The token of a family."""
    return XS + BINS + family


def points(x: torch.Tensor, log_p: torch.Tensor, names: torch.Tensor | None = None) -> torch.Tensor:
    """Points (N, n), with names (N, n) or without, as tokens (N, 2n) or (N, 3n)."""
    columns = [x_token(x), p_token(log_p)]
    if names is not None:
        columns.insert(1, family_token(names))
    return torch.stack(columns, -1).flatten(1)


def documents(n: int, generator: torch.Generator, *, spread: float, noisy: bool) -> torch.Tensor:
    """What the models are pretrained on: in 40 % of documents every point names the family, else every fifth.

    Args:
        n: how many.
        generator: seeded.
        spread: x is at most so many standard deviations from the mean.
        noisy: in each document a share of the names, 0, ¼, ½, ¾ or 1, is exchanged for names at random.

    Returns:
        (n, LENGTH) tokens.
    """
    densities = draw_densities(n, generator)
    most = LENGTH // 2 + 1
    names = densities.family[:, None].expand(n, most)
    if noisy:
        share = torch.randint(5, (n, 1), generator=generator) / 4
        wrong = torch.rand(n, most, generator=generator) < share
        names = torch.randint(len(FAMILIES), names.shape, generator=generator).where(wrong, names)
    tokens = points(*draw_points(densities, most, generator, spread=spread), names)
    named = torch.where(torch.rand(n, 1, generator=generator) < 0.4, 1.0, 0.2)
    keep = torch.ones(n, most, 3, dtype=torch.bool)
    keep[:, :, 1] = torch.rand(n, most, generator=generator) < named
    kept_first = (~keep.flatten(1)).byte().argsort(dim=1, stable=True)[:, :LENGTH]
    return tokens.gather(1, kept_first)


def spelled(tokens: torch.Tensor) -> str:
    """A document (T,) in words: x=7, the family, log P in nats."""
    words = [f"x={x}" for x in range(LOWEST, HIGHEST + 1)]
    words += [f"{log_p:.1f}" for log_p in centres().tolist()]
    return " ".join([*words, *FAMILIES][token] for token in tokens.tolist())


# Exact Bayes


class Bayes:
    """Exact inference over a grid of distributions, with the prior of pretraining.

    Args:
        spread: of the points the reader expects, as in `documents`; None: where they lie tells it nothing.
        outliers: the share of points that the reader expects to be of no distribution at all.
        cells: of the grid along the parameter of a family that has one; half of it along each of two.
    """

    def __init__(self, spread: float | None, *, outliers: float = 0.0, cells: int = 240) -> None:
        self.densities, self.log_prior = grid(cells)  # (G,)
        self.p_bins, x = _bin_probabilities(cells), torch.arange(LOWEST, HIGHEST + 1)
        first, last = self.densities.span(spread) if spread else (torch.tensor(LOWEST), torch.tensor(HIGHEST))
        inside = (x[:, None] >= first) & (x[:, None] <= last)
        self.p_x = (1 / (last - first + 1)).where(inside, 0.0)  # (XS, G)
        self.outliers = outliers

    def log_weights(self, x: torch.Tensor, log_p: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        """Prior times likelihood of the points and of the x that is asked about, as logarithms.

        Args:
            x: (N, n) whole numbers.
            log_p: (N, n), in nats.
            x0: (N,).

        Returns:
            (N, G); `softmax(-1)` makes p(distribution | prompt) of it. An impossible prompt leaves those that
            contradict it the least often.
        """
        chance = self.outliers / (XS * BINS)
        log_w = self.log_prior + (self.p_x[x_token(x0)] + _TINY).log()
        for xi, pi in zip(x.T, log_p.T, strict=True):
            seen = self.p_bins[x_token(xi), bins(pi)] * self.p_x[x_token(xi)]  # (N, G)
            log_w = log_w + ((1 - self.outliers) * seen + chance + _TINY).log()
        return log_w

    def family(self, posterior: torch.Tensor) -> torch.Tensor:
        """p(family | prompt) (N, FAMILIES)."""
        return posterior @ one_hot(self.densities.family).to(posterior)

    def density(self, posterior: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        """p(bin of log P(x0) | prompt) (N, BINS)."""
        out = posterior.new_empty(len(x0), BINS)
        for token in x_token(x0).unique():
            rows = x_token(x0) == token
            out[rows] = posterior[rows] @ self.p_bins[token].T
        return out


def grid(cells: int) -> tuple[Densities, torch.Tensor]:
    """Distributions in the middle of cells of equal prior, and the log prior of each."""
    along, few = ((torch.arange(n) + 0.5) / n for n in (cells, cells // 2))
    parts = []
    for index in range(len(FAMILIES)):
        u, v = torch.cartesian_prod(few, few).T if index in (0, 4) else (along, torch.full((cells,), 0.5))
        parts.append((torch.full((len(u),), index), u, v, torch.full((len(u),), -math.log(len(u)))))
    family, u, v, log_prior = (torch.cat(part) for part in zip(*parts, strict=True))
    return from_quantiles(family, u, v), log_prior - math.log(len(FAMILIES))


@functools.cache  # 250 MB at 240 cells, the same for all readers
def _bin_probabilities(cells: int) -> torch.Tensor:
    """(XS, BINS, G): where log P is written, with its noise, for every x under every distribution."""
    log_p = grid(cells)[0].log_density(torch.arange(LOWEST, HIGHEST + 1)[:, None])  # (XS, G)
    edges = FLOOR + WIDTH * torch.arange(1, BINS)
    below = torch.special.ndtr((edges[:, None] - log_p[:, None]) / NOISE)  # (XS, BINS − 1, G)
    ends = torch.zeros_like(below[:, :1])
    return torch.diff(torch.cat([ends, below, ends + 1], 1), dim=1)
