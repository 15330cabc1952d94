"""Demonstrations that a language model chooses or writes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from course_lib import lm
from course_lib.fewshot import Case, Classification, Format, Pair, label_log_probs, right_labels, without_tilt

OPENINGS = {
    "sentiment": 'The following is a {y} review of a film, in one sentence:\n\n"',
    "topic": 'The following is the beginning of a news article about {y}:\n\n"',
}


def probes(task: Classification, tried: int, n: int = 20) -> list[Pair]:
    """Labelled examples to try demonstrations on, as many of each label, behind the first of the pool.

    Args:
        task: of which the first `tried` examples of the pool are the demonstrations to try.
        tried: how many.
        n: how many probes.
    """
    each = [[p for p in task.pool[tried:] if p[1] == y][: n // len(task.labels)] for y in task.labels]
    return [pair for own in each for pair in own]


def mean_gains(
    model: lm.LanguageModel,
    format: Format,
    labels: Sequence[str],
    pool: Sequence[Pair],
    probes: Sequence[Pair],
) -> torch.Tensor:
    """What each demonstration, shown alone, adds to the log-probability of the right label.

    Args:
        model: a language model.
        format: how prompts are written.
        labels: the answers to choose from.
        pool: n demonstrations.
        probes: labelled examples to try them on, none of them in the pool.

    Returns:
        (n,) log p(y | demonstration, x) − log p(y | x) among the labels, in nats, averaged over the probes.
    """
    right = right_labels([Case([], probes)], labels)[..., None]  # (1, probes, 1)

    def of_right(cases: Sequence[Case], shots: int) -> torch.Tensor:
        log_p = label_log_probs(model, format, cases, [shots], labels)[0].log_softmax(-1)
        return log_p.gather(-1, right.expand(len(cases), -1, -1)).mean((1, 2))

    return of_right([Case([pair], probes) for pair in pool], 1) - of_right([Case([], probes)], 0)


def believed(
    model: lm.LanguageModel, format: Format, written: Mapping[str, Sequence[str]], n: int
) -> list[Pair]:
    """Of texts written for each label, those that the model itself most clearly gives that label.

    It is asked without demonstrations, and the advantage of a label that all texts share is taken away.

    Args:
        model: a language model.
        format: how prompts are written.
        written: for each label the texts that were written for it.
        n: how many of each label to keep.

    Returns:
        At most n pairs of each label, the clearest first; only texts whose most likely label is their own.
    """
    labels = list(written)
    pairs = [(x, y) for y, texts in written.items() for x in texts]
    among = without_tilt(label_log_probs(model, format, [Case([], pairs)], [0], labels)[0])[
        0
    ]  # (texts, labels)
    kept = []
    for i, y in enumerate(labels):
        own = [j for j, (_, label) in enumerate(pairs) if label == y and among[j].argmax() == i]
        margin = among[:, i] - among.scatter(1, torch.full((len(pairs), 1), i), -torch.inf).amax(1)
        kept += [pairs[j] for j in sorted(own, key=lambda j: -margin[j])[:n]]
    return kept
