"""Attention as smoothing.

With α = softmax(c z) attention is a kernel smoother: the answer to a query is an average of the answers of
the demonstrations, the nearer ones weighing more. The inverse temperature c says how much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from course_lib import lm, readouts
from course_lib.readouts import Readout, distance_softmax

TABLES = {"digits": datasets.load_digits, "wine": datasets.load_wine, "diabetes": datasets.load_diabetes}


def sharpness_bound(scores: torch.Tensor, c: float) -> torch.Tensor:
    """At most this much weight does softmax(c z) leave to all but the best: 1 − max α ≤ (n − 1) e^{−cΔ}.

    Args:
        scores: (..., n) scores z of at least two keys.
        c: inverse temperature, not negative.

    Returns:
        (...,): the bound, where Δ is the gap between the best score and the second best.

    Raises:
        ValueError: fewer than two scores, or a c that is negative or not finite.
    """
    if scores.ndim == 0 or scores.shape[-1] < 2:
        raise ValueError(f"scores: expected at least two, got shape {tuple(scores.shape)}")
    if not 0 <= c < inf:
        raise ValueError(f"c={c}: expected a finite number that is not negative")
    best = scores.topk(2).values  # (..., 2)
    return (scores.shape[-1] - 1) * (-c * (best[..., 0] - best[..., 1])).exp()


def with_norm(queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One coordinate more, 1 for a query and −‖k‖²/2 for a key: inner products now order keys by distance.

    ⟨(q, 1), (k, −‖k‖²/2)⟩ = −‖q − k‖²/2 + ‖q‖²/2, and the last term is the same for all keys. From
    (..., m, d) and (..., n, d) to (..., m, d + 1) and (..., n, d + 1).
    """
    longer = torch.cat([queries, torch.ones_like(queries[..., :1])], -1)
    return longer, torch.cat([keys, -keys.square().sum(-1, keepdim=True) / 2], -1)


def effective_neighbours(weights: torch.Tensor) -> torch.Tensor:
    """How many keys weights (..., n) amount to: exp(H(α)), which is m if m keys share the weight equally."""
    return torch.special.entr(weights).sum(-1).exp()


# Tables: the training rows are the demonstrations, the test rows the queries


@dataclass(frozen=True)
class Table:
    """n demonstrations and m queries."""

    keys: torch.Tensor  # (n, d)
    values: torch.Tensor  # (n, classes), one row of which is 1 at its class, or (n, 1) numbers
    queries: torch.Tensor  # (m, d)
    truth: torch.Tensor  # (m, classes) or (m, 1), as the values


def load_table(name: str, seed: int = 0) -> Table:
    """A table of scikit-learn, half of its rows demonstrations and half queries; another seed cuts otherwise.

    "digits" and "wine" have classes, "diabetes" has numbers; another name raises a ValueError. Columns have
    mean 0 and variance 1 over the demonstrations; everything is float64.
    """
    if name not in TABLES:
        raise ValueError(f"name={name!r}: expected one of {', '.join(TABLES)}")
    x, y = TABLES[name](return_X_y=True)
    values, by = (y[:, None], None) if name == "diabetes" else (np.eye(y.max() + 1)[y], y)
    parts = train_test_split(x, values, test_size=0.5, random_state=seed, stratify=by)
    scaler = StandardScaler().fit(parts[0])
    keys, queries, values, truth = map(torch.from_numpy, (*map(scaler.transform, parts[:2]), *parts[2:]))
    return Table(keys, values, queries, truth)


def predict(
    table: Table, readout: Readout = distance_softmax, **settings: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries attend to the demonstrations: classification or regression without any training.

    Returns probabilities (m, classes) or numbers (m, 1), and weights (m, n); for readouts and their settings,
    such as c, see `course_lib.readouts`, which also raises a ValueError for shapes that do not fit.
    """
    return readout(table.queries, table.keys, table.values, **settings)


def leave_one_out(table: Table, readout: Readout = distance_softmax, **settings: float) -> torch.Tensor:
    """Every demonstration asks all the others: (n, classes) or (n, 1). Otherwise as `predict`."""
    others = ~torch.eye(len(table.keys), dtype=torch.bool)
    return readout(table.keys, table.keys, table.values, others, **settings)[0]


def row_scores(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(m,) scores: 1 or 0 for a class, 1 − (ŷ − y)²/Var(y) for a number; their mean is accuracy or R².

    Outputs and truth are (m, classes) or (m, 1); a ValueError tells that their shapes differ.
    """
    if outputs.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"outputs: got shape {tuple(outputs.shape)}, expected {tuple(truth.shape)}")
    if truth.shape[1] > 1:
        return (outputs.argmax(-1) == truth.argmax(-1)).double()
    return 1 - ((outputs - truth).square() / truth.var(correction=0))[:, 0]


def choose(table: Table, grid: list[float], readout: Readout = distance_softmax, name: str = "c") -> float:
    """The setting with the best leave-one-out score; of equals, the first of the grid."""
    if not len(grid):
        raise ValueError(f"grid is empty: expected at least one {name}")
    outputs = {value: leave_one_out(table, readout, **{name: value}) for value in grid}
    return max(grid, key=lambda value: row_scores(outputs[value], table.values).mean())


def bias_variance(table: Table, c: float, size: int = 40, draws: int = 200) -> tuple[float, float]:
    """Where errors of regression come from, over random sets of `size` of the demonstrations.

    Returns means over queries of (y − mean ŷ)², which is squared bias and noise, and of the variance of ŷ,
    both in units of Var(y). Their sum is the mean squared error. A ValueError tells of a wrong size.
    """
    if not 1 <= size <= len(table.keys):
        raise ValueError(f"size={size}: expected 1 to {len(table.keys)} demonstrations")
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randperm(len(table.keys), generator=generator)[:size] for _ in range(draws)]
    parts = [Table(table.keys[rows], table.values[rows], table.queries, table.truth) for rows in sets]
    outputs = torch.stack([predict(part, c=c)[0] for part in parts])  # (draws, m, 1)
    errors = (table.truth - outputs.mean(0)).square(), outputs.var(0, correction=0)
    bias, variance = (error.mean() / table.truth.var(correction=0) for error in errors)
    return bias.item(), variance.item()


# The heads of a language model


def attended(
    model: lm.LanguageModel, prompts: Sequence[Sequence[int]], last: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention weights of all heads, from the last P positions of N prompts that have T tokens each.

    Returns (N, layers, P, heads, T) in float64, and (P, 1, T), whether a position sees a token. A ValueError
    tells that prompts differ in length, or have fewer positions than P = `last`, or that it is not positive.
    """
    if len(lengths := sorted({len(prompt) for prompt in prompts})) != 1:
        raise ValueError(f"prompts: expected all of one length, got {lengths}")
    if last < 1:
        raise ValueError(f"last={last}: expected at least one position")
    read = lm.Read(attention=range(model.n_layers), positions=range(-last, 0))
    weights = lm.forward(model, prompts, read).attention.cpu().double()
    return weights, torch.ones(lengths * 2, dtype=torch.bool).tril()[-last:, None]


def without_first(weights: torch.Tensor) -> torch.Tensor:
    """The weights of all tokens but the first, with sum one again: from (..., T) to (..., T − 1)."""
    return weights[..., 1:] / weights[..., 1:].sum(-1, keepdim=True)


def spread(weights: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The standard deviation of c z over the visible tokens, from (..., T) weights, which are ∝ e^{c z}.

    Scores have no unit of their own; in units of their standard deviation, this is the head's c.
    """
    logs = weights.clamp_min(1e-38).log().where(visible, torch.nan)  # up to a constant, c z
    return (logs - logs.nanmean(-1, keepdim=True)).square().nanmean(-1).sqrt()


def common(weights: torch.Tensor) -> torch.Tensor:
    """Weight of the token that all queries together attend to most, from (N, L, P, H, T) to (N, L, H)."""
    return weights.mean(2).amax(-1)


def tempered(model: lm.LanguageModel, factor: float) -> list[lm.Attend]:
    """For `lm.forward`: c is multiplied by a factor in all heads; 1 changes nothing, 0 makes them average.

    Raises:
        ValueError: a factor that is negative or not finite.
    """
    if not 0 <= factor < inf:
        raise ValueError(f"factor={factor}: expected a finite number that is not negative")

    def readout(queries: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return readouts.softmax(queries, *rest, c=factor * queries.shape[-1] ** -0.5)

    return [lm.Attend(layer, readout) for layer in range(model.n_layers)]
