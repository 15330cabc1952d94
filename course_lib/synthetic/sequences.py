"""Sequences that can only be predicted from themselves: a segment of random tokens comes a second time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def copies(
    V: int = 32, length: int = 48, segment: int = 16, distance: int | None = None
) -> Callable[[int, torch.Generator], torch.Tensor]:
    """Draws random tokens in which one segment comes a second time.

    Args:
        V: tokens.
        length: of a sequence, at least two segments.
        segment: tokens that are repeated.
        distance: from the first time to the second; by default all that fit are equally likely.

    Raises:
        ValueError: the segment does not fit in twice, at that distance.
    """
    shortest, longest = (segment, length - segment) if distance is None else (distance, distance)
    if not segment <= shortest <= longest <= length - segment:
        raise ValueError(
            f"segment={segment}, distance={distance}: expected two segments that fit into {length} tokens"
        )

    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(V, (n, length), generator=generator)
        distance = torch.randint(shortest, longest + 1, (n, 1), generator=generator)
        first = torch.rand(n, 1, generator=generator) * (length - segment + 1 - distance)
        source = first.long() + torch.arange(segment)  # (n, segment)
        return tokens.scatter(1, source + distance, tokens.gather(1, source))

    return draw


def repeated_pairs(tokens: torch.Tensor) -> torch.Tensor:
    """(N, T) whether a token and the one before it stood next to each other before."""
    same = tokens[:, :, None] == tokens[:, None, :]
    pair = functional.pad(same[:, 1:, 1:] & same[:, :-1, :-1], (1, 0, 1, 0))  # (N, T, T)
    return pair.tril(-1).any(-1)
