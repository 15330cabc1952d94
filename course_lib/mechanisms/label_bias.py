"""Locate and project, the bias: labels that are frequent, or come last, are favoured; attention made equal.

A label gets the attention of all demonstrations that have it. Yu & Ananiadou (2024) take this for the reason
why predictions lean to frequent and to late labels, and weigh the attention of in-context heads against it;
the factors here are made in that spirit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from course_lib import lm
from course_lib.fewshot import Case, Classification, LabelAttention, LaidOut, Pair, attention_by_label, tilt

MIXED = "mixed"
VERSIONS = {
    MIXED: "aaaabbbb",
    "many first": "aaaaaabb",
    "many second": "bbbbbbaa",
    "first last": "bbbbaaaa",
    "second last": "aaaabbbb",
}


def unequal(task: Classification, version: str, n: int, n_queries: int = 12, seed: int = 0) -> list[Case]:
    """Cases of two labels, as many queries of each, whose demonstrations are unequal or in order.

    All versions with the same seed ask the same queries; two that are opposite differ in nothing but which
    label is frequent, or comes last.

    Args:
        task: of two labels.
        version: a key of `VERSIONS`; `MIXED` and "many …" are in random order.
        n: number of cases.
        n_queries: number of queries of a case, even.
        seed: another seed draws others.

    Raises:
        ValueError: the task has not two labels.
    """
    if len(task.labels) != 2:
        raise ValueError(f"task {task.name!r}: expected two labels, got {', '.join(task.labels)}")
    drawn = []
    for i in range(n):
        generator = random.Random(f"{task.name}, {i}, {seed}")

        def of(pairs: Sequence[Pair], label: str, k: int, generator: random.Random) -> list[Pair]:
            return generator.sample([pair for pair in pairs if pair[1] == label], k)

        queries = [p for label in task.labels for p in of(task.queries, label, n_queries // 2, generator)]
        shown = [iter(of(task.pool, label, 6, generator)) for label in task.labels]
        order = list(VERSIONS[version])
        if "last" not in version:
            generator.shuffle(order)
        drawn.append(Case([next(shown["ab".index(y)]) for y in order], queries))
    return drawn


def by_number(laid_out: LaidOut) -> torch.Tensor:
    """(C Q, k) factors under which each label that is shown has the same attention, if all places had."""
    same = laid_out.shown[:, :, None] == laid_out.shown[:, None]  # (C Q, k, k)
    number = same.sum(-1)
    return laid_out.shown.shape[1] / number / (1 / number).sum(-1, keepdim=True)


def by_place(laid_out: LaidOut, usual: torch.Tensor) -> torch.Tensor:
    """(C Q, layers, heads, k) factors that undo what a place receives as usual, (layers, heads, k)."""
    return (usual.mean(-1, keepdim=True) / usual).expand(len(laid_out.layouts), *usual.shape)


def by_share(laid_out: LaidOut, seen: LabelAttention) -> torch.Tensor:
    """(C Q, layers, heads, k) factors that give all labels the same attention, on average over a case."""
    each = attention_by_label(seen.attention, laid_out.shown, len(laid_out.labels))
    means = laid_out.per_case(each)  # (C, layers, heads, labels)
    factors = (means.mean(-1, keepdim=True) / means).repeat_interleave(laid_out.n_queries, 0)
    return factors.gather(-1, laid_out.shown[:, None, None].expand(*factors.shape[:-1], -1))


def weighed(laid_out: LaidOut, heads: Sequence[lm.Head], factors: torch.Tensor) -> list[lm.Weigh]:
    """Attention of some heads from the last token to the labels, times factors.

    Args:
        laid_out: C Q prompts of k demonstrations.
        heads: (layer, head) of each.
        factors: (C Q, k) for all heads alike, or (C Q, layers, heads, k).
    """
    found = []
    for layer, head in heads:
        own = (factors if factors.ndim == 2 else factors[:, layer, head]).tolist()
        pairs = [
            [(where.last, y, factor) for y, factor in zip(where.labels, each, strict=True)]
            for where, each in zip(laid_out.layouts, own, strict=True)
        ]
        found.append(lm.Weigh([layer], pairs, [head]))
    return found


def tilt_to_second(laid_out: LaidOut, log_p: torch.Tensor) -> torch.Tensor:
    """(C,) the tilt to the second of two labels less that to the first, in nats, from log p (C Q, labels)."""
    return tilt(log_p.unflatten(0, (-1, laid_out.n_queries))).diff(dim=-1)[:, 0]


def share_of_second(laid_out: LaidOut, seen: LabelAttention, heads: Sequence[lm.Head]) -> torch.Tensor:
    """(C,) of the attention of some heads to labels, the share that the second of two labels gets."""
    layers, own = map(list, zip(*heads, strict=True))
    each = attention_by_label(seen.attention, laid_out.shown, 2)[:, layers, own]  # (C Q, heads, 2)
    return laid_out.per_case((each[..., 1] / each.sum(-1)).mean(-1))
