"""The stored table of chapter 10: cuts, heads, ablations and label bias in prompts of real texts."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import FORMATS, settings
from course_lib.mechanisms.induction import head_scores, repeated
from course_lib.mechanisms.label_bias import (
    MIXED,
    VERSIONS,
    by_number,
    by_place,
    by_share,
    share,
    tilt,
    unequal,
    weighed,
)
from course_lib.mechanisms.label_heads import CUTS, ask, at_labels
from course_lib.mechanisms.label_routes import (
    Found,
    Preferences,
    Prompts,
    find,
    in_context,
    preferences,
    prompts,
    ranges,
    rounded,
    said,
    without_links,
)
from course_lib.studies import results

FOUND, TESTED = 1, 2  # seeds of the prompts on which heads are found, and on which they are tested
SHARES, DRAWS = (0.01, 0.02, 0.05), 5  # of all heads; how often as many are drawn at random
CASES, QUERIES, LOOKED = 8, 10, 6  # cases, queries of each where heads are tested, and where they are found


def cut_rows(model: lm.LanguageModel, asked: Prompts) -> Iterator[dict]:
    """Answers without cuts, then with each of the `CUTS` in each of the `ranges` of layers."""
    yield {"cut": "none", "layers": [0, 0]} | said(asked, ask(model, asked.where, asked.labels))
    for cut in CUTS:
        for layers in ranges(model):
            named = {"cut": cut, "layers": [layers.start, layers.stop]}
            yield named | without_links(model, asked, cut, layers)


def head_rows(found: Found) -> Iterator[dict]:
    """What is found of each head."""
    for layer, head in itertools.product(*map(range, found.gain.shape)):
        values = {name: round(float(scores[layer, head]), 4) for name, scores in found._asdict().items()}
        yield {"layer": layer, "head": head} | values


def tower_rows(found: Sequence[Preferences]) -> Iterator[dict]:
    """What the scores of each head agree with, in each case."""
    for layer, head in itertools.product(*map(range, found[0].apart.shape)):
        names = Preferences._fields
        values = {
            name: rounded(torch.stack([getattr(f, name)[layer, head] for f in found])) for name in names
        }
        yield {"layer": layer, "head": head} | values


def groups(found: Found, prefix: torch.Tensor, n: int) -> dict[str, list[lm.Head]]:
    """The n heads that stand out, in four ways."""
    return {
        "in-context": in_context(found, n),
        "induction": lm.strongest_heads(prefix, n),
        "raising": lm.strongest_heads(found.raised, n),
        "lowering": lm.strongest_heads(-found.raised, n),
    }


def ablation_rows(
    model: lm.LanguageModel, asked: Prompts, found: Found, prefix: torch.Tensor
) -> Iterator[dict]:
    """Answers without the heads of each group, and without as many that are in no group."""
    for part in SHARES:
        n = max(1, round(part * prefix.numel()))
        named = groups(found, prefix, n)
        drawn = [(name, 0, heads) for name, heads in named.items()]
        apart = [head for heads in named.values() for head in heads]
        drawn += [("random", i, lm.random_heads(model, n, i, apart)) for i in range(DRAWS)]
        for name, i, heads in drawn:
            answers = ask(model, asked.where, asked.labels, lm.ablation(heads))
            yield {"heads": name, "n": n, "draw": i, "which": heads} | said(asked, answers)


def bias_rows(
    model: lm.LanguageModel, here: Prompts, heads: Mapping[str, Sequence[lm.Head]], usual: torch.Tensor
) -> Iterator[dict]:
    """Answers to demonstrations that are unequal or in order, as they are and with weighed attention.

    Args:
        model: a language model.
        here: prompts of two labels.
        heads: groups of heads, among them "raising".
        usual: (layers, heads, k) attention to each place, where nothing is unequal.
    """
    seen = at_labels(model, here.where, here.labels)
    answers = ask(model, here.where, here.labels)
    yield (
        {"weighed": "none", "by": "", "strength": 0.0, "share": rounded(share(here, seen, heads["raising"]))}
        | {"tilt": rounded(tilt(here, answers))}
        | said(here, answers)
    )
    remedies = {"number": by_number(here), "place": by_place(here, usual), "share": by_share(here, seen)}
    for by, factors in remedies.items():
        for name, chosen in heads.items():
            for strength in (0.5, 1.0) if name == "raising" else (1.0,):
                answers = ask(model, here.where, here.labels, weigh=weighed(here, chosen, factors**strength))
                named = {"weighed": name, "by": by, "strength": strength}
                yield named | {"tilt": rounded(tilt(here, answers))} | said(here, answers)


def measure(model: lm.LanguageModel, task: str, n: int = CASES, n_queries: int = QUERIES) -> Iterator[dict]:
    """All rows of one task: of the tables "cut", "head", "tower", "ablation" and "bias".

    Args:
        model: a language model.
        task: "sentiment" or "topic".
        n: number of cases.
        n_queries: number of queries of a case.
    """
    asked = prompts(model, settings(task, n, n_queries, seed=TESTED))
    for row in cut_rows(model, asked):
        yield {"table": "cut", "task": task} | row

    drawn = settings(task, n, min(LOOKED, n_queries), seed=FOUND)
    found = find(model, prompts(model, drawn))
    for row in head_rows(found):
        yield {"table": "head", "task": task} | row
    for row in tower_rows([preferences(model, each) for each in drawn]):
        yield {"table": "tower", "task": task} | row
    prefix = head_scores(model, repeated(model)).prefix
    for row in ablation_rows(model, asked, found, prefix):
        yield {"table": "ablation", "task": task} | row

    mixed = prompts(model, unequal(task, MIXED, n, n_queries, FOUND))
    usual = at_labels(model, mixed.where, mixed.labels).attention.mean(0)
    k = round(SHARES[-1] * prefix.numel())
    named = groups(found, prefix, k)
    heads = {name: named[name] for name in ("raising", "lowering")}
    heads["random"] = lm.random_heads(model, k, 0, heads["raising"] + heads["lowering"])
    for version in VERSIONS:
        for row in bias_rows(
            model, prompts(model, unequal(task, version, n, n_queries, TESTED)), heads, usual
        ):
            yield {"table": "bias", "task": task, "version": version} | row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures sentiment and topic, and writes a results file."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.studies.locate", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    given = parser.parse_args(arguments)
    model = lm.load(given.model)
    rows = []
    for task in FORMATS:
        for row in measure(model, task):
            rows.append(row)
            print(*list(row.values())[:6], flush=True)
    command = f"python -m course_lib.studies.locate --model {given.model}"
    about = {
        "cases": CASES,
        "queries": QUERIES,
        "looked": LOOKED,
        "shares": SHARES,
        "draws": DRAWS,
        "device": model.device.type,
    }
    path = given.out / f"locate-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=command, settings=about)


if __name__ == "__main__":
    main()
