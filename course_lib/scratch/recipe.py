"""How a small model is trained: the numbers that, with the code, give the same weights again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; a step's batch and learning rate depend on nothing else."""

    steps: int
    batch: int = 64  # sequences a step, over all processes
    lr: float = 0.01  # the highest: it rises over `warmup` steps and falls as a half cosine to a twentieth
    warmup: int = 50
    weight_decay: float = 0.01
    seed: int = 0  # of the first weights and of the data

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, the first of which is 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)

    def generator(self, step: int) -> torch.Generator:
        """What the data of a step are drawn with: a run taken up again sees what it would have seen."""
        return torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + step)
