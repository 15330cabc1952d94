"""Cuts, heads, ablations and label bias in prompts of real texts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache

import torch

from course_lib import lm
from course_lib.fewshot import (
    CUTS,
    TWO_LABELS,
    Classification,
    LaidOut,
    label_attention,
    label_scores,
    lay_out,
    short_texts,
)
from course_lib.mechanisms.label_bias import (
    MIXED,
    VERSIONS,
    by_number,
    by_place,
    by_share,
    share_of_second,
    tilt_to_second,
    unequal,
    weighed,
)
from course_lib.mechanisms.label_heads import (
    HeadMeasures,
    Preferences,
    head_groups,
    head_measures,
    preferences,
)
from course_lib.mechanisms.label_routes import FOUND, TESTED, case_measures, cut_scores, layer_ranges
from course_lib.studies.study import Row, Study, Unit

SHARES, DRAWS = (0.01, 0.02, 0.05), 5  # of all heads; how often as many are drawn at random
CASES, QUERIES, LOOKED = 8, 10, 6  # cases, queries of each where heads are tested, and where they are found


def rounded(values: torch.Tensor) -> list[float]:
    """The values to four digits, for a file."""
    return [round(value, 4) for value in values.tolist()]


def measures(laid_out: LaidOut, log_p: torch.Tensor) -> Row:
    """`case_measures`, for a file."""
    return {name: rounded(values) for name, values in case_measures(laid_out, log_p).items()}


def cut_row(model: lm.LanguageModel, laid_out: LaidOut, cut: str, layers: range) -> Row:
    """Answers with one of the `CUTS` in some layers; "none": without."""
    if cut == "none":
        log_p = label_scores(model, laid_out.prompts, laid_out.labels)
    else:
        log_p = cut_scores(model, laid_out, cut, layers)
    return {"cut": cut, "layers": [layers.start, layers.stop]} | measures(laid_out, log_p)


def head_rows(found: HeadMeasures) -> Iterator[Row]:
    """What is found of each head."""
    for layer, head in itertools.product(*map(range, found.gain.shape)):
        values = {name: round(float(scores[layer, head]), 4) for name, scores in found._asdict().items()}
        yield {"layer": layer, "head": head} | values


def tower_rows(found: Sequence[Preferences]) -> Iterator[Row]:
    """What the scores of each head agree with, in each case."""
    for layer, head in itertools.product(*map(range, found[0].apart.shape)):
        names = Preferences._fields
        each = {name: torch.stack([getattr(f, name)[layer, head] for f in found]) for name in names}
        yield {"layer": layer, "head": head} | {name: rounded(values) for name, values in each.items()}


def ablation_rows(
    model: lm.LanguageModel, laid_out: LaidOut, found: HeadMeasures, prefix: torch.Tensor, n: int
) -> Iterator[Row]:
    """Answers without the n heads of each group, and without as many that are in no group."""
    named = head_groups(found, prefix, n)
    drawn = [(name, 0, heads) for name, heads in named.items()]
    apart = [head for heads in named.values() for head in heads]
    drawn += [("random", i, lm.random_heads(model, n, i, apart)) for i in range(DRAWS)]
    for name, i, heads in drawn:
        log_p = label_scores(model, laid_out.prompts, laid_out.labels, write=lm.ablation(heads))
        yield {"heads": name, "n": n, "draw": i, "which": heads} | measures(laid_out, log_p)


def bias_rows(
    model: lm.LanguageModel, laid_out: LaidOut, heads: Mapping[str, Sequence[lm.Head]], usual: torch.Tensor
) -> Iterator[Row]:
    """Answers to demonstrations that are unequal or in order, as they are and with weighed attention.

    Args:
        model: a language model.
        laid_out: prompts of two labels.
        heads: groups of heads, among them "raising".
        usual: (layers, heads, k) attention to each place, where nothing is unequal.
    """

    def row(by: str, name: str, strength: float, weigh: Sequence[lm.Weigh] = ()) -> Row:
        log_p = label_scores(model, laid_out.prompts, laid_out.labels, weigh=weigh)
        about = {"weighed": name, "by": by, "strength": strength}
        return about | {"tilt": rounded(tilt_to_second(laid_out, log_p))} | measures(laid_out, log_p)

    seen = label_attention(model, laid_out)
    yield row("", "none", 0.0) | {"share": rounded(share_of_second(laid_out, seen, heads["raising"]))}
    cures = {
        "number": by_number(laid_out),
        "place": by_place(laid_out, usual),
        "share": by_share(laid_out, seen),
    }
    for by, factors in cures.items():
        for name, chosen in heads.items():
            for strength in (0.5, 1.0) if name == "raising" else (1.0,):
                yield row(by, name, strength, weighed(laid_out, chosen, factors**strength))


def task_units(
    model: lm.LanguageModel, task: Classification, prefix: Callable[[], torch.Tensor]
) -> Iterator[Unit]:
    """All units of one task: of the tables "cut", "head", "tower", "ablation" and "bias".

    Args:
        model: a language model.
        task: "sentiment" or "topic".
        prefix: makes the prefix-matching scores of all heads, (layers, heads).
    """
    tested = cache(lambda: lay_out(model, task, task.cases(CASES, QUERIES, seed=TESTED)))
    drawn = task.cases(CASES, LOOKED, seed=FOUND)
    found = cache(lambda: head_measures(model, lay_out(model, task, drawn)))
    two = task.only(TWO_LABELS[task.name])

    def unequal_prompts(version: str, seed: int) -> LaidOut:
        return lay_out(model, two, unequal(two, version, CASES, QUERIES, seed))

    @cache
    def biased() -> tuple[dict[str, list[lm.Head]], torch.Tensor]:
        usual = label_attention(model, unequal_prompts(MIXED, FOUND)).attention.mean(0)
        n = round(SHARES[-1] * prefix().numel())
        named = head_groups(found(), prefix(), n)
        heads = {name: named[name] for name in ("raising", "lowering")}
        heads["random"] = lm.random_heads(model, n, 0, heads["raising"] + heads["lowering"])
        return heads, usual

    def unit(table: str, about: str, rows: Callable[[], Iterable[Row]], **more: str) -> Unit:
        named = {"table": table, "task": task.name} | more
        return Unit(f"{task.name}, {table}, {about}", lambda: [named | row for row in rows()])

    yield unit("cut", "none", lambda: [cut_row(model, tested(), "none", range(0))])
    for cut, layers in itertools.product(CUTS, layer_ranges(model)):
        about = f"{cut}, {layers.start} to {layers.stop}"
        yield unit("cut", about, lambda c=cut, r=layers: [cut_row(model, tested(), c, r)])
    yield unit("head", "all", lambda: head_rows(found()))
    yield unit("tower", "all", lambda: tower_rows([preferences(model, task, case) for case in drawn]))
    for share in SHARES:
        yield unit(
            "ablation",
            str(share),
            lambda s=share: ablation_rows(
                model, tested(), found(), prefix(), max(1, round(s * prefix().numel()))
            ),
        )
    for version in VERSIONS:
        yield unit(
            "bias",
            version,
            lambda v=version: bias_rows(model, unequal_prompts(v, TESTED), *biased()),
            version=version,
        )


def units(model: lm.LanguageModel) -> Iterator[Unit]:
    """The units of both tasks."""
    prefix = cache(lambda: lm.head_scores(model, lm.repeated_tokens(model)).prefix)
    for name in TWO_LABELS:
        yield from task_units(model, short_texts(name), prefix)


SETTINGS = {"cases": CASES, "queries": QUERIES, "looked": LOOKED, "shares": SHARES, "draws": DRAWS}
STUDY = Study("locate-and-project", SETTINGS, units)
