"""Chapter 10, second half: which heads answer a few-shot prompt.

Links are cut and heads are taken away in prompts of real texts. What is found on some prompts is to be tested
on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from course_lib import lm
from course_lib.fewshot.demonstrations import Case, Format, Setting, truth
from course_lib.lm.embeddings import embed
from course_lib.mechanisms.label_heads import (
    Answers,
    Layout,
    agreement,
    ask,
    at_labels,
    direct,
    gain,
    label_tokens,
    layout,
    links,
    one_by_one,
    towers,
)


class Prompts(NamedTuple):
    """The prompts of C cases of Q queries each, written for a model."""

    format: Format
    cases: list[Case]
    where: list[Layout]  # of C Q prompts
    labels: list[int]  # the token of each label
    right: torch.Tensor  # (C Q,) the right label of each
    shown: torch.Tensor  # (C Q, k) the labels of the demonstrations

    def per_case(self, values: torch.Tensor) -> torch.Tensor:
        """(C, ...) the mean over the queries of each case of values (C Q, ...)."""
        return values.float().unflatten(0, (len(self.cases), -1)).mean(1)


def prompts(model: lm.LanguageModel, drawn: Sequence[Setting]) -> Prompts:
    """Writes the prompts of cases of one task, all with as many demonstrations and queries."""
    format, names, _ = drawn[0]
    cases = [case for _, _, case in drawn]
    where = [layout(model, format, case, x) for case in cases for x, _ in case.queries]
    shown = [
        [list(names).index(y) for _, y in case.demonstrations]
        for case in cases
        for _ in range(len(case.queries))
    ]
    labels = label_tokens(model, format, names)
    return Prompts(format, cases, where, labels, truth(cases, names).flatten(), torch.tensor(shown))


def said(asked: Prompts, answers: Answers) -> dict[str, list[float]]:
    """What is measured of answers, the mean of each case.

    Returns:
        "accuracy" of the labels chosen (`Answers.chosen`), "plain" of the most likely ones, "log p" of the
        right one among the labels, and "mass", the probability of all labels together.
    """
    among = answers.logits.log_softmax(-1).gather(1, asked.right[:, None])[:, 0]
    chosen = answers.chosen(len(asked.where) // len(asked.cases))
    measured = {
        "accuracy": chosen == asked.right,
        "plain": answers.logits.argmax(-1) == asked.right,
        "log p": among,
        "mass": answers.log_p.logsumexp(-1).exp(),
    }
    return {name: rounded(asked.per_case(values)) for name, values in measured.items()}


def rounded(values: torch.Tensor) -> list[float]:
    """The values to four digits, for a file."""
    return [round(value, 4) for value in values.tolist()]


# Where it passes


def ranges(model: lm.LanguageModel) -> list[range]:
    """All layers, the layers below a third, a half and two thirds of the model, and those from there on."""
    n = model.n_layers
    bounds = [n // 3, n // 2, 2 * n // 3]
    return [range(n), *(range(b) for b in bounds), *(range(b, n) for b in bounds)]


def without_links(
    model: lm.LanguageModel, asked: Prompts, cut: str, layers: Sequence[int]
) -> dict[str, list[float]]:
    """`said` with one of the `CUTS` in some layers."""
    weigh = lm.Weigh(layers, [links(where, cut) for where in asked.where])
    return said(asked, ask(model, asked.where, asked.labels, weigh=[weigh]))


# Heads


class Found(NamedTuple):
    """What is found of the heads (layers, heads), the mean over prompts."""

    gain: torch.Tensor  # nats that the right label loses if the head's part of the logits is taken away
    effect: torch.Tensor  # nats that it loses if the head returns zero
    carried: torch.Tensor  # nats that all labels gain if a zero-shot prompt gets the head's few-shot mean
    attention: torch.Tensor  # to the labels of the demonstrations, together
    own: torch.Tensor  # share of labels of which the value, written out, raises itself most
    raised: torch.Tensor  # what it adds to the logits of the labels shown, above the mean of all labels


def find(model: lm.LanguageModel, asked: Prompts) -> Found:
    """Asks of each head what it does for the right label at the last token."""
    whole = ask(model, asked.where, asked.labels)
    gains = gain(whole, direct(model, asked.where, asked.labels), asked.right)
    effects = gain(whole, one_by_one(model, asked.where, asked.labels), asked.right)
    seen = at_labels(model, asked.where, asked.labels)
    shown = asked.shown[:, None, None, :, None].expand(*seen.written.shape[:-1], 1)
    return Found(
        gain=gains.mean(0),
        effect=effects.mean(0),
        carried=carry(model, asked),
        attention=seen.attention.sum(-1).mean(0),
        own=(seen.written.argmax(-1) == shown[..., 0]).float().mean((0, 3)),
        raised=(seen.attention * seen.written.gather(-1, shown)[..., 0]).sum(-1).mean(0),
    )


def carry(model: lm.LanguageModel, asked: Prompts) -> torch.Tensor:
    """What the few-shot mean of each head does in zero-shot prompts: (layers, heads) nats for all labels."""
    read = lm.Read(heads=range(model.n_layers))
    means = lm.forward(model, [p.tokens for p in asked.where], read).heads[:, :, 0].mean(0)
    bare = [layout(model, asked.format, Case([], []), x) for case in asked.cases for x, _ in case.queries]
    before = ask(model, bare, asked.labels).log_p.logsumexp(-1)  # (N,)
    after = one_by_one(model, bare, asked.labels, means).log_p.logsumexp(-1)  # (N, layers, heads)
    return (after - before[:, None, None]).mean(0)


class Preferences(NamedTuple):
    """What the scores of the heads (layers, heads) for labels agree with, see `agreement`."""

    apart: torch.Tensor  # with the scores of two `towers`
    alike: torch.Tensor  # with how alike the texts are to MiniLM
    right: torch.Tensor  # with whether a demonstration has the label that is right for the query


def preferences(model: lm.LanguageModel, drawn: Setting) -> Preferences:
    """Asks which queries prefer which demonstrations of the same prompt, and why."""
    here = prompts(model, [drawn])
    shown, asked = ([x for x, _ in pairs] for pairs in (drawn.case.demonstrations, drawn.case.queries))
    own = at_labels(model, here.where, here.labels).scores  # (Q, layers, heads, k)
    apart = towers(model, drawn.format, drawn.case)
    alike = embed(asked) @ embed(shown).T
    right = (here.shown == here.right[:, None]).float()
    return Preferences(
        agreement(own, apart), agreement(own, alike[:, None, None]), agreement(own, right[:, None, None])
    )


def in_context(found: Found, n: int) -> list[lm.Head]:
    """The n heads (layer, head) highest by the worse of two ranks: by gain, and by ablation effect."""

    def ranks(values: torch.Tensor) -> torch.Tensor:
        return values.flatten().argsort(descending=True, stable=True).argsort()

    worse = torch.maximum(ranks(found.gain), ranks(found.effect))
    return [divmod(int(i), found.gain.shape[1]) for i in worse.argsort(stable=True)[:n]]
