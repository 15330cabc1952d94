"""Exercises of Locate and project."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise

# 1 A cut


def _alpha(n: int) -> Callable[[torch.Generator], tuple]:
    """Causal attention of n positions, of which the last two ask and the second and third are hidden."""

    def draw(generator: torch.Generator) -> tuple:
        weights = torch.rand(n, n, generator=generator).tril()
        return weights / weights.sum(-1, keepdim=True), [n - 2, n - 1], [1, 2]

    return draw


def _cut(alpha: torch.Tensor, asks: list[int], seen: list[int]) -> torch.Tensor:
    alpha = alpha.clone()
    alpha[torch.tensor(asks)[:, None], torch.tensor(seen)] = 0
    return alpha / alpha.sum(-1, keepdim=True)


def _not_again_one(alpha: torch.Tensor, asks: list[int], seen: list[int]) -> torch.Tensor:
    alpha = alpha.clone()
    alpha[torch.tensor(asks)[:, None], torch.tensor(seen)] = 0
    return alpha


def _for_all(alpha: torch.Tensor, asks: list[int], seen: list[int]) -> torch.Tensor:
    alpha = alpha.clone()
    alpha[:, seen] = 0
    return alpha / alpha.sum(-1, keepdim=True)


cut = Exercise(
    1,
    reference=_cut,
    inputs={"six positions": _alpha(6), "twelve positions": _alpha(12)},
    mistakes={
        "leaves the rows that were cut with a sum below one": _not_again_one,
        "hides the positions from all others, not only from those that ask": _for_all,
        "cuts the other way: from what is seen to what asks": lambda alpha, asks, seen: _cut(
            alpha, seen, asks
        ),
    },
)


# 2 More than chance?


def _scores(layers: int, heads: int, n: int) -> Callable[[torch.Generator], tuple]:
    """Two scores of all heads that have something in common, and a number of heads."""

    def draw(generator: torch.Generator) -> tuple:
        a, b, common = torch.randn(3, layers, heads, generator=generator)
        return a + common, b + common, n

    return draw


def _highest(scores: torch.Tensor, n: int) -> set[int]:
    return set(scores.flatten().topk(n).indices.tolist())


def _overlap(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    return torch.tensor([len(_highest(a, n) & _highest(b, n)), n * n / a.numel()])


overlap = Exercise(
    2,
    reference=_overlap,
    inputs={"the highest 5 of 60": _scores(12, 5, 5), "the highest 14 of 270": _scores(30, 9, 14)},
    mistakes={
        "expects too many by chance: each of n heads is among the others with probability n / all heads": (
            lambda a, b, n: torch.tensor([_overlap(a, b, n)[0], float(n)])
        ),
        "returns a share instead of numbers of heads": lambda a, b, n: _overlap(a, b, n) / n,
        "counts heads that are in either of the two": lambda a, b, n: torch.tensor(
            [len(_highest(a, n) | _highest(b, n)), n * n / a.numel()]
        ),
    },
)


# 3 For or against


def _label(k: int, labels: int) -> Callable[[torch.Generator], tuple]:
    """Attention to k labels, what the value of each adds to the logits of all labels, and which they are."""

    def draw(generator: torch.Generator) -> tuple:
        attention = torch.rand(k, generator=generator) / k
        written = torch.randn(k, labels, generator=generator)
        return attention, written, torch.randint(labels, (k,), generator=generator)

    return draw


def _raised(attention: torch.Tensor, written: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    own = written.gather(-1, shown[:, None])[:, 0]
    return (attention * (own - written.mean(-1))).sum()


raised = Exercise(
    3,
    reference=_raised,
    inputs={"eight labels of two kinds": _label(8, 2), "three labels of five kinds": _label(3, 5)},
    mistakes={
        "leaves out the mean over labels, so that a head that raises all of them counts as for the one": (
            lambda attention, written, shown: (attention * written.gather(-1, shown[:, None])[:, 0]).sum()
        ),
        "adds up what is written to all labels, not to the one that is seen": (
            lambda attention, written, shown: (attention[:, None] * written).sum()
        ),
        "leaves out the attention": lambda attention, written, shown: _raised(
            torch.ones_like(attention), written, shown
        ),
        "takes the mean over demonstrations; a head returns their sum": lambda attention, written, shown: (
            _raised(attention, written, shown) / len(shown)
        ),
    },
)


# 4 As much for each label


def _uneven(k: int) -> Callable[[torch.Generator], tuple]:
    """Attention to k labels of three kinds, of which the second is not shown."""

    def draw(generator: torch.Generator) -> tuple:
        shown = 2 * torch.randint(2, (k,), generator=generator)
        shown[:2] = torch.tensor([0, 2])
        return torch.rand(k, generator=generator) / k, shown

    return draw


def _totals(attention: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Of each demonstration, the attention to all that have its label."""
    return ((shown[:, None] == shown) * attention).sum(-1)


def _level(attention: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    return attention / _totals(attention, shown) * attention.sum() / len(shown.unique())


def _by_number(attention: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    weighed = attention / (shown[:, None] == shown).sum(-1)
    return weighed * attention.sum() / weighed.sum()


level = Exercise(
    4,
    reference=_level,
    inputs={"eight demonstrations": _uneven(8), "four demonstrations": _uneven(4)},
    mistakes={
        "does not keep the sum of the attention": lambda attention, shown: (
            attention / _totals(attention, shown)
        ),
        "divides by the number of demonstrations of a label, not by their attention": _by_number,
        "makes all demonstrations equal; those of the same label may differ": lambda attention, shown: (
            attention.sum() / len(shown.unique()) / (shown[:, None] == shown).sum(-1)
        ),
    },
)
