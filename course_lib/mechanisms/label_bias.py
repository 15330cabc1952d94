"""Chapter 10, last part: labels that are frequent, or come last, are favoured; attention made equal again.

A label gets the attention of all demonstrations that have it. Yu & Ananiadou (2024) take this for the reason
why predictions lean to frequent and to late labels, and weigh the attention of in-context heads against it;
the factors here are made in that spirit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import FORMATS, Case, Pair, Setting, short_texts
from course_lib.mechanisms.label_heads import Answers, Labels, vote
from course_lib.mechanisms.label_routes import Prompts

PAIRS = {"sentiment": ("negative", "positive"), "topic": ("business", "sports")}
MIXED = "mixed"
VERSIONS = {
    MIXED: "aaaabbbb",
    "many first": "aaaaaabb",
    "many second": "bbbbbbaa",
    "first last": "bbbbaaaa",
    "second last": "aaaabbbb",
}


def unequal(task: str, version: str, n: int, n_queries: int = 12, seed: int = 0) -> list[Setting]:
    """Cases of two labels, as many queries of each, whose demonstrations are unequal or in order.

    All versions with the same seed ask the same queries; two that are opposite differ in nothing but which
    label is frequent, or comes last.

    Args:
        task: a key of `PAIRS`.
        version: a key of `VERSIONS`; `MIXED` and "many …" are in random order.
        n: number of cases.
        n_queries: number of queries of a case, even.
        seed: another seed draws others.
    """
    (pool, others), names = short_texts(task), PAIRS[task]
    drawn = []
    for i in range(n):
        generator = random.Random(f"{task}, {i}, {seed}")

        def of(pairs: Sequence[Pair], name: str, k: int, generator: random.Random) -> list[Pair]:
            return generator.sample([pair for pair in pairs if pair[1] == name], k)

        queries = [pair for name in names for pair in of(others, name, n_queries // 2, generator)]
        shown = [iter(of(pool, name, 6, generator)) for name in names]
        order = list(VERSIONS[version])
        if "last" not in version:
            generator.shuffle(order)
        drawn.append(
            Setting(FORMATS[task], names, Case([next(shown["ab".index(y)]) for y in order], queries))
        )
    return drawn


def by_number(asked: Prompts) -> torch.Tensor:
    """(C Q, k) factors under which each label that is shown has the same attention, if all places had."""
    same = asked.shown[:, :, None] == asked.shown[:, None]  # (C Q, k, k)
    number = same.sum(-1)
    return asked.shown.shape[1] / number / (1 / number).sum(-1, keepdim=True)


def by_place(asked: Prompts, usual: torch.Tensor) -> torch.Tensor:
    """(C Q, layers, heads, k) factors that undo what a place receives as usual, (layers, heads, k)."""
    return (usual.mean(-1, keepdim=True) / usual).expand(len(asked.where), *usual.shape)


def by_share(asked: Prompts, seen: Labels) -> torch.Tensor:
    """(C Q, layers, heads, k) factors that give all labels the same attention, on average over a case."""
    n = len(asked.where) // len(asked.cases)
    votes = asked.per_case(vote(seen.attention, asked.shown, len(asked.labels)))  # (C, layers, heads, labels)
    factors = (votes.mean(-1, keepdim=True) / votes).repeat_interleave(n, 0)
    return factors.gather(-1, asked.shown[:, None, None].expand(*factors.shape[:-1], -1))


def weighed(asked: Prompts, heads: Sequence[lm.Head], factors: torch.Tensor) -> list[lm.Weigh]:
    """Attention of some heads from the last token to the labels, times factors.

    Args:
        asked: C Q prompts of k demonstrations.
        heads: (layer, head) of each.
        factors: (C Q, k) for all heads alike, or (C Q, layers, heads, k).
    """
    found = []
    for layer, head in heads:
        own = (factors if factors.ndim == 2 else factors[:, layer, head]).tolist()
        pairs = [
            [(where.last, y, factor) for y, factor in zip(where.labels, each, strict=True)]
            for where, each in zip(asked.where, own, strict=True)
        ]
        found.append(lm.Weigh([layer], pairs, [head]))
    return found


def tilt(asked: Prompts, answers: Answers) -> torch.Tensor:
    """(C,) log-odds of the second of two labels, the mean over the queries of each case."""
    return asked.per_case(answers.logits[:, 1] - answers.logits[:, 0])


def share(asked: Prompts, seen: Labels, heads: Sequence[lm.Head]) -> torch.Tensor:
    """(C,) of the attention of some heads to labels, the share that the second of two labels gets."""
    layers, own = map(list, zip(*heads, strict=True))
    votes = vote(seen.attention, asked.shown, 2)[:, layers, own]  # (C Q, heads, 2)
    return asked.per_case((votes[..., 1] / votes.sum(-1)).mean(-1))
