"""Sets chosen item by item, each time the one that adds most: lazily, exactly, for many queries at once.

Where gains only fall as a set grows, those of an earlier moment are bounds for later ones (Minoux 1978). So
the whole pool is scored once, and after that only a few candidates for each query, until the best of them
falls below what some other item may still be worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

AT_A_TIME = 2**24  # similarities that are in memory together, 64 MB of float32
CANDIDATES = 128  # of the pool, for which gains are kept exact
SMALLEST = 1e-6  # volume that a copy of what has been chosen adds


class Gains(Protocol):
    """What each of n items of a pool is worth next to those that have been chosen, for Q queries."""

    def gains(self) -> torch.Tensor:
        """(Q, n); from the second item on, no gain ever grows."""

    def chose(self, similarity: torch.Tensor, at: torch.Tensor) -> None:
        """Takes note of an item, (Q,) one for each query, and of its similarity (Q, n) to all."""

    def only(self, columns: torch.Tensor) -> Gains:
        """The same for m items (Q, m) of the n."""


class Redundancy:
    """Gains of maximal marginal relevance: relevance, less the similarity to the most alike of the chosen."""

    def __init__(self, relevance: torch.Tensor, weight: float, most: torch.Tensor | None = None) -> None:
        self.relevance, self.weight, self.most = relevance, weight, most

    def gains(self) -> torch.Tensor:
        """See `Gains`."""
        return self.relevance if self.most is None else self.relevance - self.weight * self.most

    def chose(self, similarity: torch.Tensor, at: torch.Tensor) -> None:
        """See `Gains`."""
        self.most = similarity if self.most is None else torch.maximum(self.most, similarity)

    def only(self, columns: torch.Tensor) -> Redundancy:
        """See `Gains`."""
        most = None if self.most is None else self.most.gather(1, columns)
        return Redundancy(self.relevance.gather(1, columns), self.weight, most)


class Volume:
    """Gains of a determinantal point process: relevance, and the log of the variance that is left."""

    def __init__(self, relevance: torch.Tensor) -> None:
        self.relevance, self.variance = relevance, torch.ones_like(relevance)
        self.rows = relevance.new_empty(*relevance.shape, 0)  # (Q, n, chosen) of the Cholesky factor

    def gains(self) -> torch.Tensor:
        """See `Gains`."""
        return self.relevance + self.variance.clamp(min=SMALLEST).log()

    def chose(self, similarity: torch.Tensor, at: torch.Tensor) -> None:
        """See `Gains`."""
        line = torch.arange(len(at), device=at.device)
        row, variance = self.rows[line, at], self.variance[line, at].clamp(min=SMALLEST)
        new = (similarity - (self.rows @ row[..., None])[..., 0]) / variance[:, None].sqrt()
        self.variance = self.variance - new.square()
        self.rows = torch.cat([self.rows, new[..., None]], -1)

    def only(self, columns: torch.Tensor) -> Volume:
        """See `Gains`."""
        part = Volume(self.relevance.gather(1, columns))
        part.variance = self.variance.gather(1, columns)
        part.rows = self.rows.gather(1, columns[..., None].expand(-1, -1, self.rows.shape[-1]))
        return part


def choose(
    queries: torch.Tensor, pool: torch.Tensor, k: int, start: Callable[[torch.Tensor], Gains]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses the item with the largest gain, k times.

    Args:
        queries: (Q, d).
        pool: (n, d).
        k: at most n.
        start: makes the gains of an empty set from inner products (Q, n) of queries and pool.

    Returns:
        (Q, k) what was chosen, never the same twice, and (Q, k) the gain of each at that moment.
    """
    size = max(AT_A_TIME // len(pool), 1)
    parts = [_choose(part, pool, k, start) for part in queries.split(size)]
    indices, gains = (torch.cat(part) for part in zip(*parts, strict=True))
    return indices, gains


def _choose(
    queries: torch.Tensor, pool: torch.Tensor, k: int, start: Callable[[torch.Tensor], Gains]
) -> tuple[torch.Tensor, torch.Tensor]:
    relevance, line = queries @ pool.T, torch.arange(len(queries), device=queries.device)
    chosen, scores = line.new_empty(len(line), 0), relevance.new_empty(len(line), 0)
    few = min(CANDIDATES, len(pool))
    while chosen.shape[1] < k:
        state = start(relevance)
        for item in chosen.T:
            state.chose(pool[item] @ pool.T, item)
        gains = state.gains().scatter(1, chosen, -torch.inf)
        bounds, columns = gains.topk(min(few + 1, len(pool)))
        others = bounds[:, few] if few < len(pool) else torch.full_like(bounds[:, 0], -torch.inf)
        near, vectors = state.only(columns[:, :few]), pool[columns[:, :few]]  # (Q, few, d)
        free = bounds[:, :few]  # minus infinity where an item has been chosen
        first = chosen.shape[1] == 0
        while chosen.shape[1] < k:
            best, at = torch.minimum(near.gains(), free).max(1)
            if (best < others).any():
                break
            chosen = torch.cat([chosen, columns[line, at, None]], 1)
            scores = torch.cat([scores, best[:, None]], 1)
            free[line, at] = -torch.inf
            near.chose((vectors @ vectors[line, at, :, None])[..., 0], at)
            if first:  # the gains may grow once
                break
    return chosen, scores
