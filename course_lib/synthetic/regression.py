"""Functions drawn from families, and prompts that show their values at some inputs (Garg et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

Function = Callable[[torch.Tensor], torch.Tensor]  # B functions at once: (B, n, d) -> (B, n)
Draw = Callable[[int, int, torch.Generator], Function]  # B and d, seeded


def linear(B: int, d: int, generator: torch.Generator, nonzero: int | None = None) -> Function:
    """f(x) = w·x with w ~ N(0, I), of which only `nonzero` coordinates, at random places, are kept."""
    w = torch.randn(B, d, generator=generator)
    if nonzero is not None:
        w = w * (torch.rand(B, d, generator=generator).argsort(1) < nonzero)
    return lambda x: (x @ w[:, :, None])[..., 0]


def tree(B: int, d: int, generator: torch.Generator, depth: int = 3) -> Function:
    """A full tree: each node asks for the sign of one coordinate, each leaf holds a value ~ N(0, 1)."""
    asked = torch.randint(d, (B, 2**depth - 1), generator=generator)
    leaves = torch.randn(B, 2**depth, generator=generator)

    def function(x: torch.Tensor) -> torch.Tensor:
        node = torch.zeros(x.shape[:2], dtype=torch.long)
        for _ in range(depth):
            right = x.gather(2, asked.gather(1, node)[..., None])[..., 0] > 0
            node = 2 * node + 1 + right
        return leaves.gather(1, node - asked.shape[1])

    return function


def network(B: int, d: int, generator: torch.Generator, hidden: int = 100) -> Function:
    """f(x) = Σ aᵢ max(wᵢ·x, 0), scaled so that f(x)² is one on average over functions and x."""
    w = torch.randn(B, d, hidden, generator=generator)
    a = torch.randn(B, hidden, 1, generator=generator) * (2 / (d * hidden)) ** 0.5
    return lambda x: (functional.relu(x @ w) @ a)[..., 0]


@dataclass(frozen=True)
class Family:
    """Functions that a prompt may show, and how it shows them."""

    function: Draw
    d: int  # inputs are x ~ N(0, I) in d dimensions
    n: int  # most examples of a prompt
    noise: float = 0.0  # standard deviation of what is added to a value that is shown


FAMILIES = {
    "linear-5": Family(linear, 5, 20, noise=0.3),
    "linear-8": Family(linear, 8, 32, noise=0.3),
    "sparse-8": Family(partial(linear, nonzero=2), 8, 32, noise=0.3),
    "trees-5": Family(tree, 5, 32),
    "trees-8": Family(tree, 8, 32),
    "networks-5": Family(network, 5, 32),
    "networks-8": Family(network, 8, 32),
}


class Prompts(NamedTuple):
    """B prompts of n examples, and m questions for each."""

    x: torch.Tensor  # (B, n, d)
    y: torch.Tensor  # (B, n), with noise
    query: torch.Tensor  # (B, m, d)
    truth: torch.Tensor  # (B, m), without noise

    def first(self, n: int) -> Prompts:
        """The same questions after the first n examples."""
        return self._replace(x=self.x[:, :n], y=self.y[:, :n])


def draw(
    family: Family,
    B: int,
    generator: torch.Generator,
    *,
    m: int = 1,
    scale: float = 1.0,
    scale_y: float = 1.0,
    shift: float = 0.0,
    noise: float | None = None,
    skewed: bool = False,
    sides: bool = False,
) -> Prompts:
    """Prompts as in training, or changed in one of the ways of Garg et al. (2022, section 4).

    Args:
        family: what to draw.
        B: how many prompts.
        generator: of all that is random.
        m: questions for each prompt.
        scale: all inputs are multiplied by it.
        scale_y: all values are multiplied by it, before noise.
        shift: length of a vector, in a random direction for each prompt, that is added to all inputs.
        noise: standard deviation in place of the family's.
        skewed: inputs have a covariance of eigenvalues ∝ 1/i², in random directions, and of trace d.
        sides: examples come from one half-space, questions from the other.

    Raises:
        ValueError: `m` is less than one.
    """
    if m < 1:
        raise ValueError(f"m={m}: expected at least one question")
    d, noise = family.d, family.noise if noise is None else noise
    x = scale * torch.randn(B, family.n + m, d, generator=generator)
    function = family.function(B, d, generator)
    if skewed:
        spread = torch.arange(1, d + 1) ** -1.0  # the square root of the eigenvalues
        turn, _ = torch.linalg.qr(torch.randn(B, d, d, generator=generator))
        x = (x * spread * (d / spread.square().sum()).sqrt()) @ turn
    direction = functional.normalize(torch.randn(B, 1, d, generator=generator), dim=-1)
    x = x + shift * direction
    if sides:
        along = x @ direction.mT  # (B, n + m, 1)
        wanted = torch.tensor([1.0] * family.n + [-1.0] * m)[:, None]
        x = x + (wanted * along.abs() - along) * direction
    value = scale_y * function(x)
    shown = value + noise * torch.randn(value.shape, generator=generator)
    return Prompts(x[:, :-m], shown[:, :-m], x[:, -m:], value[:, -m:])
