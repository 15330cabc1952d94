"""Sets chosen item by item, each time the one that adds most, for many queries at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

AT_A_TIME = 2**23  # similarities that are in memory together, 32 MB of float32
SMALLEST = 1e-6  # volume that a copy of what has been chosen adds


class Gains(Protocol):
    """What each of n items of a pool is worth next to those that have been chosen, for Q queries."""

    def now(self) -> torch.Tensor:
        """(Q, n), minus infinity for what has been chosen."""

    def chose(self, at: torch.Tensor, similarity: torch.Tensor) -> None:
        """Takes note of an item, (Q,) one for each query, and of its similarity (Q, n) to all."""


class Redundancy:
    """Gains of maximal marginal relevance: relevance, less the similarity to the most alike of the chosen."""

    def __init__(self, relevance: torch.Tensor, weight: float) -> None:
        self.relevance, self.weight = relevance, weight
        self.most: torch.Tensor | None = None  # (Q, n)

    def now(self) -> torch.Tensor:
        """See `Gains`."""
        return self.relevance if self.most is None else self.relevance.add(self.most, alpha=-self.weight)

    def chose(self, at: torch.Tensor, similarity: torch.Tensor) -> None:
        """See `Gains`."""
        self.relevance.scatter_(1, at[:, None], -torch.inf)
        self.most = similarity if self.most is None else torch.maximum(self.most, similarity, out=self.most)


class Volume:
    """Gains of a determinantal point process: relevance, and the log of the variance that is left."""

    def __init__(self, relevance: torch.Tensor) -> None:
        self.relevance, self.variance = relevance, torch.ones_like(relevance)
        self.rows: list[torch.Tensor] = []  # (Q, n) each, of the Cholesky factor of all items

    def now(self) -> torch.Tensor:
        """See `Gains`."""
        return self.variance.clamp(min=SMALLEST).log_().add_(self.relevance)

    def chose(self, at: torch.Tensor, similarity: torch.Tensor) -> None:
        """See `Gains`."""
        at = at[:, None]
        for row in self.rows:
            similarity.addcmul_(row, row.gather(1, at), value=-1)
        row = similarity / self.variance.gather(1, at).clamp(min=SMALLEST).sqrt()
        self.variance.addcmul_(row, row, value=-1)
        self.relevance.scatter_(1, at, -torch.inf)
        self.rows.append(row)


def choose(
    queries: torch.Tensor, pool: torch.Tensor, k: int, start: Callable[[torch.Tensor], Gains]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses the item with the largest gain, k times.

    Args:
        queries: (Q, d).
        pool: (n, d).
        k: at most n.
        start: makes the gains next to nothing from inner products (Q, n) of queries and pool.

    Returns:
        (Q, k) what was chosen, never the same twice, and (Q, k) the gain of each at that moment.
    """
    chosen, gains = [], []
    for part in queries.split(max(AT_A_TIME // len(pool), 1)):
        state, steps = start(part @ pool.T), []
        for _ in range(k):
            steps.append(state.now().max(1))
            state.chose(steps[-1].indices, pool[steps[-1].indices] @ pool.T)
        chosen.append(torch.stack([step.indices for step in steps], 1))
        gains.append(torch.stack([step.values for step in steps], 1))
    return torch.cat(chosen), torch.cat(gains)
