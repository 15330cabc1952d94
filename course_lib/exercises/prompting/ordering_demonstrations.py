"""Exercises of Ordering demonstrations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from course_lib.page.exercises import Exercise

# 1 Reading what is shared once


def _orders(generator: torch.Generator) -> tuple:
    """Four prompts of which some begin alike and some end alike."""
    a, b, c = torch.randint(10, (3, 4), generator=generator).tolist()
    return ([[0, *a, *b, *c], [0, *a, *c, *b], [0, *b, *a, *c], [0, *a, *b]],)


def _few_words(generator: torch.Generator) -> tuple:
    """Short prompts of two different tokens, with copies."""
    return (torch.randint(2, (12, 5), generator=generator).tolist(),)


def _prefixes(prompts: list[list[int]]) -> int:
    return len({tuple(p[:i]) for p in prompts for i in range(1, len(p) + 1)})


def _after_the_common(prompts: list[list[int]]) -> int:
    columns = zip(*prompts, strict=False)
    common = next((i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, prompts)))
    return common + sum(len(p) - common for p in prompts)


read = Exercise(
    1,
    reference=_prefixes,
    inputs={"four prompts": _orders, "prompts with copies": _few_words},
    mistakes={
        "counts all tokens of all prompts": lambda prompts: sum(map(len, prompts)),
        "counts different tokens; a token is read again after another beginning": (
            lambda prompts: len({token for p in prompts for token in p})
        ),
        "counts different prompts, not the tokens in them": lambda prompts: len(set(map(tuple, prompts))),
        "saves only copies of whole prompts": lambda prompts: sum(map(len, set(map(tuple, prompts)))),
        "saves only what all prompts share": _after_the_common,
        "counts the empty beginning, too": lambda prompts: _prefixes(prompts) + 1,
        "takes tokens at the same place for the same, whatever came before": (
            lambda prompts: len({(i, token) for p in prompts for i, token in enumerate(p)})
        ),
    },
)


# 2 Recency


def _answers(
    n: int, queries: int, k: int, labels: int
) -> Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]:
    """Answers (n, queries) and labels shown (n, k)."""

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        shown = torch.randint(labels, (n, k), generator=generator)
        return torch.randint(labels, (n, queries), generator=generator), shown

    return draw


def _agreement(answers: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    return (answers[:, :, None] == shown[:, None]).double().mean((0, 1))


agreement = Exercise(
    2,
    reference=_agreement,
    inputs={"six orders": _answers(6, 5, 3, 2), "as many places as queries": _answers(24, 4, 4, 2)},
    mistakes={
        "begins with the last place": lambda answers, shown: _agreement(answers, shown).flip(0),
        "counts, where it should give shares": lambda answers, shown: (
            _agreement(answers, shown) * answers.numel()
        ),
        "gives a share for each order; average over orders, too": lambda answers, shown: (
            (answers[:, :, None] == shown[:, None]).double().mean(1)
        ),
        "averages over places, too": lambda answers, shown: _agreement(answers, shown).mean(),
        "gives the shares that differ": lambda answers, shown: 1 - _agreement(answers, shown),
    },
)


# 3 GlobalE


def _said(n: int, labels: int, spared: int) -> Callable[[torch.Generator], tuple[torch.Tensor, int]]:
    """Answers (n,) that never are one of the last labels."""

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, int]:
        return torch.randint(labels - spared, (n,), generator=generator), labels

    return draw


def _entropy(answers: torch.Tensor, labels: int) -> torch.Tensor:
    shares = torch.bincount(answers, minlength=labels).double() / len(answers)
    return torch.special.entr(shares).sum()


def _without_care(answers: torch.Tensor, labels: int) -> torch.Tensor:
    shares = torch.bincount(answers, minlength=labels).double() / len(answers)
    return -(shares * shares.log()).sum()


entropy = Exercise(
    3,
    reference=_entropy,
    inputs={"three labels": _said(20, 3, 0), "a label that is never said": _said(20, 3, 1)},
    mistakes={
        "has the wrong sign": lambda answers, labels: -_entropy(answers, labels),
        "is in bits, not in nats": lambda answers, labels: _entropy(answers, labels) / math.log(2),
        "is nan if a label is never said: 0 · log 0 counts as 0": _without_care,
        "takes the entropy of counts, not of shares": lambda answers, labels: torch.special.entr(
            torch.bincount(answers, minlength=labels).double()
        ).sum(),
        "is divided by the number of labels": lambda answers, labels: _entropy(answers, labels) / labels,
    },
)


# 4 Contextual calibration


def _probabilities(n: int, labels: int) -> Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]:
    """Probabilities (n, labels) after queries, and (labels,) after inputs that say nothing."""

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        p = torch.randn(n + 1, labels, generator=generator).softmax(-1)
        return p[1:], p[0]

    return draw


def _calibrated(p: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    return p / free / (p / free).sum(-1, keepdim=True)


calibrate = Exercise(
    4,
    reference=_calibrated,
    inputs={"five queries": _probabilities(5, 3), "as many queries as labels": _probabilities(4, 4)},
    mistakes={
        "does not sum to one over the labels": lambda p, free: p / free,
        "sums to one over the queries, not over the labels": lambda p, free: p / free / (p / free).sum(0),
        "multiplies with what is said to nothing": lambda p, free: _calibrated(p, 1 / free),
        "subtracts probabilities; divide": lambda p, free: p - free,
        "takes the average over the queries for what is said to nothing": (
            lambda p, free: _calibrated(p, p.mean(0))
        ),
    },
)
