"""Which in-context learning needs induction heads?

Heads of a real model are silenced, a share of them at a time: those that match prefixes, those that look at
the token in front, and as many drawn at random. What can the model no longer do?
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch

from course_lib import lm
from course_lib.data import tasks, texts
from course_lib.fewshot import Format, Pair, score
from course_lib.studies.study import Row, Study, Unit

PROMPTS = 60  # of each kind
SHARES, DRAWS = (0.01, 0.02, 0.05), 5  # of all heads; how often as many are drawn at random


class Probe(NamedTuple):
    """Few-shot prompts of one kind, answered right if the most likely token is the answer's first."""

    name: str
    prompts: list[list[int]]
    answers: list[int]  # the first token of each


def probes(model: lm.LanguageModel, n: int = PROMPTS, shots: int = 8, seed: int = 0) -> list[Probe]:
    """Prompts whose answers can be copied from a demonstration, from the query, or not at all.

    `lookup` shows random pairs of words and asks for one of them again. `… shown` and `… not shown` are the
    same queries with one demonstration, or none, that has the answer.

    Args:
        model: whose tokens the prompts are made of.
        n: prompts of each kind.
        shots: demonstrations of each.
        seed: another seed draws others.
    """
    words = sorted({x for name in ("antonyms", "country_capital", "plural_singular") for x, _ in pairs(name)})

    def lookup(generator: random.Random) -> list[Pair]:
        drawn = generator.sample(words, 2 * shots)
        shown = list(zip(drawn[:shots], drawn[shots:], strict=True))
        return [*shown, generator.choice(shown)]

    def labels(name: str, shown: int) -> Callable[[random.Random], list[Pair]]:
        often = [pair for pair in pairs(name) if sum(pair[1] == y for _, y in pairs(name)) > 1]

        def draw(generator: random.Random) -> list[Pair]:
            asked = generator.choice(often)
            others = [pair for pair in pairs(name) if pair[1] != asked[1]]
            same = [pair for pair in often if pair[1] == asked[1] and pair != asked]
            demonstrations = generator.sample(same, shown) + generator.sample(others, shots - shown)
            return [*generator.sample(demonstrations, shots), asked]

        return draw

    kinds = {"lookup": lookup}
    for name in ("location_continent", "person_language"):
        kinds |= {f"{name}, shown": labels(name, 1), f"{name}, not shown": labels(name, 0)}
    for name in ("list_first", "antonyms", "plural_singular"):
        kinds[name] = lambda generator, name=name: generator.sample(pairs(name), shots + 1)
    found = []
    for name, draw in kinds.items():
        drawn = [draw(random.Random(f"{seed}, {i}")) for i in range(n)]
        both = [Format().tokens(model, shown, x, y) for *shown, (x, y) in drawn]
        found.append(Probe(name, [prompt for prompt, _ in both], [a[0] for _, a in both]))
    return found


def pairs(name: str) -> Sequence[Pair]:
    """The pairs of a task."""
    return tasks.load(name).pairs


def articles(model: lm.LanguageModel, n: int = 16, length: int = 400) -> list[list[int]]:
    """The first tokens of news articles, each behind the document start."""
    news = (model.prompt(example.text) for example in texts.load("topic").test)
    return [tokens[: length + 1] for tokens in news if len(tokens) > length][:n]


EARLY, LATE = slice(40, 60), slice(-60, None)  # tokens of an article


def ablation_measures(
    model: lm.LanguageModel,
    copied: Sequence[Sequence[int]],
    news: Sequence[Sequence[int]],
    asked: Sequence[Probe],
    heads: Sequence[tuple[int, int]] = (),
    instead: torch.Tensor | None = None,
) -> dict[str, list[float]]:
    """What a model can do while some of its heads are ablated.

    Args:
        model: a language model.
        copied: prompts of `lm.repeated_tokens`.
        news: prompts of `articles`.
        asked: few-shot prompts.
        heads: (layer, head) of each that is ablated.
        instead: what these return, see `lm.ablation`.

    Returns:
        By name and for each prompt: loss on "first" and "second" time of repeated tokens, without the first
        of each; loss "early" and "late" in articles; 1.0 where a probe's answer is right.
    """
    write = lm.ablation(heads, instead)
    twice, along = (lm.token_losses(model, prompts, write=write) for prompts in (copied, news))
    start = len(model.document_start)
    m = (len(copied[0]) - start) // 2
    found = {
        "first": twice[:, start : start + m - 1],
        "second": twice[:, start + m :],
        "early": along[:, EARLY],
        "late": along[:, LATE],
    }
    found = {name: losses.mean(1).cpu() for name, losses in found.items()}
    for probe in asked:
        answers = [[[token]] for token in probe.answers]
        found[probe.name] = score(model, probe.prompts, answers, write=write).greedy[:, 0].float()
    return {name: [round(value, 3) for value in values.tolist()] for name, values in found.items()}


def units(model: lm.LanguageModel) -> Iterator[Unit]:
    """A unit for the whole model, and for each share, group of heads, draw and way to ablate."""
    copied, news, asked = lm.repeated_tokens(model), articles(model), probes(model)
    scores, means = lm.head_scores(model, copied), cache(lambda: lm.head_means(model, news))

    def row(name: str, n: int, instead: str, draw: int, heads: Sequence[lm.Head]) -> Iterator[Row]:
        values = means() if instead == "mean" else None
        found = ablation_measures(model, copied, news, asked, heads, values)
        yield {"heads": name, "n": n, "instead": instead, "draw": draw, "which": heads} | found

    def unit(*about: object) -> Unit:
        return Unit(", ".join(map(str, about[:4])), lambda: row(*about))

    yield unit("none", 0, "", 0, [])
    for share in SHARES:
        n = max(1, round(share * scores.prefix.numel()))
        groups = [
            ("induction", 0, lm.strongest_heads(scores.prefix, n)),
            ("previous token", 0, lm.strongest_heads(scores.previous, n)),
        ]
        groups += [("random", i, lm.random_heads(model, n, i, groups[0][2])) for i in range(DRAWS)]
        for name, i, heads in groups:
            for instead in ("zero", "mean"):
                yield unit(name, n, instead, i, heads)


STUDY = Study("induction-heads", {"prompts": PROMPTS, "shares": SHARES, "draws": DRAWS}, units)
