"""Attention as projection.

Attention returns an average of values, a point of their convex hull. Is it the point nearest to the query?
The projection itself is in `readouts.hull`, the ways to attend in `readouts`; here they are put to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from scipy.optimize import nnls
from torch import nn

from course_lib.readouts import Readout, onto_simplex

# What softmax solves


def entropy_objective(alpha: torch.Tensor, z: torch.Tensor, c: float) -> torch.Tensor:
    """⟨α, z⟩ + H(α)/c, of which softmax(c z) is the maximum over the simplex.

    Args:
        alpha: (..., n) weights.
        z: (..., n) scores.
        c: inverse temperature.

    Returns:
        (...), in units of the scores.
    """
    return (alpha * z).sum(-1) + torch.special.entr(alpha).sum(-1) / c


def slopes(alpha: torch.Tensor, query: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The gradient V(Vᵀα − q) of ½‖Σ αᵢvᵢ − q‖².

    Args:
        alpha: (..., n) weights.
        query: (..., d).
        values: (n, d).

    Returns:
        (..., n).
    """
    return (alpha @ values - query) @ values.T


def exponentiated_gradient(
    alpha: torch.Tensor, query: torch.Tensor, values: torch.Tensor, step: float
) -> torch.Tensor:
    """One step downhill that multiplies: αᵢ e^{−step·slopeᵢ}, divided by its sum (Kivinen & Warmuth 1997)."""
    return (alpha.log() - step * slopes(alpha, query, values)).softmax(-1)


def projected_gradient(
    alpha: torch.Tensor, query: torch.Tensor, values: torch.Tensor, step: float
) -> torch.Tensor:
    """One step downhill, and back to the nearest point of the simplex."""
    return onto_simplex(alpha - step * slopes(alpha, query, values))


def entropic_projection(
    query: torch.Tensor, values: torch.Tensor, c: float, steps: int = 2000
) -> torch.Tensor:
    """The weights that minimise ½‖Σ αᵢvᵢ − q‖² − H(α)/c: between uniform (c = 0) and the projection (c = ∞).

    They answer to themselves: α = softmax(c V(q − Vᵀα)). Found by exponentiated gradient.

    Args:
        query: (..., d).
        values: (n, d).
        c: inverse temperature, positive. Beyond about 100 it takes more steps.
        steps: of the descent.

    Returns:
        (..., n).

    Raises:
        ValueError: c is not positive.
    """
    if not 0 < c < torch.inf:
        raise ValueError(f"c={c!r}: expected a positive number")
    centred = values - values.mean(0)
    step = 1 / (centred.square().sum(-1).max().item() + 1 / c)
    log_alpha = torch.zeros(*query.shape[:-1], len(values), dtype=values.dtype, device=values.device)
    for _ in range(steps):
        alpha = log_alpha.softmax(-1)
        log_alpha = (log_alpha - step * (slopes(alpha, query, values) + log_alpha / c)).log_softmax(-1)
    return log_alpha.exp()


# How near does it come?

FAMILIES = ("orthonormal", "random", "clustered", "common mean")


def draw_values(family: str, batch: int, n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    """Sets of values of a kind.

    Args:
        family: "orthonormal" (n at most d), "random" Gaussian vectors of length about one, "clustered" around
            four centres with a fifth of the centres' spread, or "common mean", random around a vector that is
            three times as long.
        batch: how many sets.
        n: values in a set; for "clustered" a multiple of four.
        d: their dimension.
        generator: seeded.

    Returns:
        (batch, n, d), float64.

    Raises:
        ValueError: the family is unknown, or n does not suit it.
    """

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, d, generator=generator, dtype=torch.float64) / d**0.5

    if family == "orthonormal" and n <= d:
        return torch.linalg.qr(random(d)).Q[:, :n]
    if family == "random":
        return random(n)
    if family == "clustered" and n % 4 == 0:
        return (random(4, 1) + 0.2 * random(4, n // 4)).flatten(1, 2)
    if family == "common mean":
        return random(n) + 3 * random(1)
    raise ValueError(f"family={family!r} with n={n}, d={d}: expected one of {', '.join(FAMILIES)}")


def relative_error(outputs: torch.Tensor, queries: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """‖a − q‖² over ‖v̄ − q‖²: 0 at the query, 1 for the mean of the values.

    Args:
        outputs: (B, d).
        queries: (B, d).
        values: (B, n, d).

    Returns:
        (B,).
    """
    return (outputs - queries).square().sum(-1) / (values.mean(-2) - queries).square().sum(-1)


def read(readout: Readout, queries: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (B, d) and weights (B, n) of a query (B, d) for each set of values (B, n, d), also the keys."""
    outputs, alpha = readout(queries[:, None], values, values)
    return outputs[:, 0], alpha[:, 0]


def best_temperature(
    readout: Readout, queries: torch.Tensor, values: torch.Tensor, cs: Sequence[float]
) -> float:
    """The inverse temperature, of those given, at which a readout's outputs (B, d) err least on average."""

    def error(c: float) -> float:
        outputs, _ = read(partial(readout, c=c), queries, values)
        return relative_error(outputs, queries, values).mean().item()

    return min(cs, key=error)


# Are the coordinates importance?


def plant(
    values: torch.Tensor, shares: Sequence[float], noise: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries that are known averages of a few values.

    Args:
        values: (B, n, d).
        shares: the weights of as many values, chosen at random.
        noise: length of what is added to the average.
        generator: seeded.

    Returns:
        (B, d) queries, and (B, len(shares)) which values were mixed, in the order of the shares.
    """
    batch, n, d = values.shape
    which = torch.rand(batch, n, generator=generator).argsort(-1)[:, : len(shares)]
    chosen = values.gather(1, which[..., None].expand(-1, -1, d))
    mixed = torch.tensor(shares, dtype=values.dtype) @ chosen
    return mixed + noise * torch.randn(batch, d, generator=generator, dtype=values.dtype) / d**0.5, which


def found(alpha: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The share (B,) of the planted values (B, k) that are among the k largest weights (B, n)."""
    largest = alpha.topk(which.shape[-1], -1).indices
    return (which[:, :, None] == largest[:, None, :]).any(-1).double().mean(-1)


def nnls_weights(query: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The projection's weights (n,) for one query (d,) by another exact solver, scipy.optimize.nnls."""
    seen = torch.cat([values - query, torch.ones_like(values[:, :1])], -1)
    b, _ = nnls(seen.T.numpy(), [0.0] * len(query) + [1.0])
    return torch.from_numpy(b / b.sum())


# A readout trained end to end


class Examples(NamedTuple):
    """What a readout is trained on: one query for each set of keys and values."""

    queries: torch.Tensor  # (B, 1, d)
    keys: torch.Tensor  # (B, n, d)
    values: torch.Tensor  # (B, n, d_v)
    targets: torch.Tensor  # (B, 1, d_v)


def draw_examples(task: str, batch: int, generator: torch.Generator, noise: float = 1.0) -> Examples:
    """Keys and values at random, 32 of dimensions 16 and 8, and a query whose answer is known.

    Args:
        task: "recall", a key with noise, to be answered with its value; or "mixture", an average of two keys,
            to be answered with the same average of their values.
        batch: how many.
        generator: seeded.
        noise: length of what is added to a query in "recall", in lengths of a key.

    Raises:
        ValueError: the task is unknown.
    """
    if task not in ("recall", "mixture"):
        raise ValueError(f"task={task!r}: expected 'recall' or 'mixture'")
    n, d, d_v = 32, 16, 8
    keys, values = (torch.randn(batch, n, size, generator=generator) / size**0.5 for size in (d, d_v))
    weights = torch.zeros(batch, 1, n)
    first = torch.rand(batch, generator=generator) if task == "mixture" else torch.ones(batch)
    weights[:, 0, 0], weights[:, 0, 1] = first, 1 - first
    added = noise * torch.randn(batch, 1, d, generator=generator) / d**0.5
    queries = weights @ keys + (added if task == "recall" else 0)
    return Examples(queries, keys, values, weights @ values)


class LearnedReadout(nn.Module):
    """A readout behind learned maps of queries and keys, with a learned temperature if it has one."""

    def __init__(self, readout: Readout, c: float | None, d: int = 16) -> None:
        super().__init__()
        self.readout = readout
        self.of_queries, self.of_keys = nn.Parameter(torch.eye(d)), nn.Parameter(torch.eye(d))
        self.log_c = None if c is None else nn.Parameter(torch.tensor(c).log())

    def forward(self, examples: Examples) -> torch.Tensor:
        """Outputs (B, 1, d_v)."""
        options = {} if self.log_c is None else {"c": self.log_c.exp()}
        q, k = examples.queries @ self.of_queries, examples.keys @ self.of_keys
        return self.readout(q, k, examples.values, **options)[0]


def trained(readout: Readout, c: float | None, task: str, steps: int = 300, seed: int = 0) -> LearnedReadout:
    """Trains a readout on a task by Adam, on the squared error of fresh examples.

    Args:
        readout: the readout.
        c: the inverse temperature it starts with; None if it has none.
        task: see `draw_examples`.
        steps: of 64 examples each.
        seed: of the examples.
    """
    model = LearnedReadout(readout, c)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        examples = draw_examples(task, 64, generator)
        loss = (model(examples) - examples.targets).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def answers(model: nn.Module, examples: Examples) -> tuple[float, float]:
    """The squared error relative to the targets' squares, and how often the right value is the nearest."""
    outputs = model(examples)
    error = (outputs - examples.targets).square().sum() / examples.targets.square().sum()
    nearest = torch.cdist(outputs, examples.values).argmin(-1)
    right = torch.cdist(examples.targets, examples.values).argmin(-1)
    return error.item(), (nearest == right).float().mean().item()


# In a language model


def agreement(alpha: torch.Tensor, reference: torch.Tensor, k: int) -> torch.Tensor:
    """How many of the k heaviest keys of α, of those with any weight, are among the reference's k heaviest.

    Args:
        alpha: (..., n) weights.
        reference: (..., n) weights.
        k: how many.

    Returns:
        (...), shares.
    """
    marks = torch.zeros_like(alpha, dtype=torch.bool)
    ours, theirs = (marks.scatter(-1, x.topk(k, -1).indices, True) & (x > 0) for x in (alpha, reference))
    return (ours & theirs).sum(-1) / ours.sum(-1)
