"""In which order to show demonstrations.

The same k demonstrations have k! orders (`fewshot.orders`). All are asked at once: prompts share their
beginnings, and the engine reads what they share only once. What is measured of an order needs only its
log-probabilities of the labels, (orders, queries, labels).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import one_hot

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot import TWO_LABELS, Case, Format, Pair, label_log_probs, short_texts


class Plan(NamedTuple):
    """Sets of demonstrations with as many of each label, which are shown in all orders."""

    task: str  # "sentiment" or "topic"
    labels: Sequence[str]
    shots: int  # of each label
    sets: int
    queries: int  # of each set


PLANS = {
    "sentiment": Plan("sentiment", TWO_LABELS["sentiment"], 2, 8, 40),
    "two topics": Plan("topic", TWO_LABELS["topic"], 2, 8, 40),
    "five topics": Plan("topic", texts.TOPICS, 1, 3, 20),
}
DEV = 20  # labelled examples to try an order on, as many of each label


def draw_sets(plan: Plan, n_dev: int = DEV) -> list[tuple[Case, list[Pair]]]:
    """Demonstrations, label by label, with their queries, and labelled examples to try orders on.

    Args:
        plan: what is wanted; queries of different sets differ.
        n_dev: labelled examples of each set, as many of each label, which are neither shown nor asked.
    """
    task = short_texts(plan.task, 1000).only(plan.labels)
    generator = random.Random(0)
    asked = generator.sample(task.queries, plan.sets * plan.queries)
    drawn = []
    for i in range(plan.sets):
        shown, dev = [], []
        for label in plan.labels:
            own = [pair for pair in task.pool if pair[1] == label]
            own = generator.sample(own, plan.shots + n_dev // len(plan.labels))
            shown, dev = shown + own[: plan.shots], dev + own[plan.shots :]
        drawn.append((Case(shown, asked[i * plan.queries : (i + 1) * plan.queries]), dev))
    return drawn


CONTENT_FREE = ("N/A", "[MASK]", "")  # inputs that say nothing (Zhao et al. 2021)


def order_scores(
    model: lm.LanguageModel, format: Format, cases: Sequence[Case], labels: Sequence[str]
) -> torch.Tensor:
    """(C, Q, labels) log p of each label among the labels, for C cases with as many demonstrations each."""
    k = len(cases[0].demonstrations)
    return label_log_probs(model, format, cases, [k], labels)[0].log_softmax(-1)


def right_answers(log_p: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(…, Q) whether the most likely label is right, 0 or 1; `right` (Q,) are indices of labels."""
    return (log_p.argmax(-1) == right).float()


def agreement_by_place(answers: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """How often the answer is the label that stands at each place: recency, if it is most often the last.

    Args:
        answers: (orders, Q) the labels that are answered, as indices.
        shown: (orders, k) the labels in the order in which they are shown, as indices.

    Returns:
        (k,) the share of all answers, from the first place to the last.
    """
    return (answers[..., None] == shown[:, None]).double().mean((0, 1))


def answer_imbalance(answers: torch.Tensor, right: torch.Tensor, labels: int) -> torch.Tensor:
    """The share of answers that would have to change for each label to be answered as often as it is right.

    Args:
        answers: (orders, Q) the labels that are answered, as indices.
        right: (Q,) the right ones.
        labels: number of labels.

    Returns:
        (orders,) half the sum, over labels, of the differences of shares; at most one minus this of the
        answers can be right.
    """
    shares, wanted = (one_hot(given, labels).double().mean(-2) for given in (answers, right))
    return (shares - wanted).abs().sum(-1) / 2


def global_entropy(log_p: torch.Tensor) -> torch.Tensor:
    """GlobalE of Lu et al. (2022): the entropy of the answers that an order gives to a set of probes.

    Args:
        log_p: (orders, probes, labels).

    Returns:
        (orders,) in nats; low where an order gives almost all probes the same label.
    """
    shares = one_hot(log_p.argmax(-1), log_p.shape[-1]).double().mean(1)
    return torch.special.entr(shares).sum(-1)


def local_entropy(log_p: torch.Tensor) -> torch.Tensor:
    """LocalE of Lu et al. (2022): the entropy of the label probabilities, averaged over probes.

    Args:
        log_p: (orders, probes, labels), normalised over labels.

    Returns:
        (orders,) in nats; low where an order makes the model sure of all its answers.
    """
    return torch.special.entr(log_p.double().exp()).sum(-1).mean(-1)


def gain(measure: torch.Tensor, accuracy: torch.Tensor, n: int) -> float:
    """What one wins by taking the n orders that a measure puts first; those that tie share the last places.

    Args:
        measure: (orders,).
        accuracy: (orders,).
        n: at most the number of orders.

    Returns:
        The mean accuracy of these n orders less that of all.
    """
    least = measure.topk(n).values[-1]
    ahead, tied = measure > least, measure == least
    chosen = accuracy[ahead].sum() + (n - ahead.sum()) * accuracy[tied].mean()
    return (chosen / n - accuracy.mean()).item()


def written_probes(
    model: lm.LanguageModel, format: Format, orders: Sequence[Case], seed: int = 0
) -> list[str]:
    """Texts that the model itself writes after each order of demonstrations, as in Lu et al. (2022).

    Args:
        model: a language model.
        format: how prompts are written.
        orders: cases whose demonstrations are continued.
        seed: another seed draws others.

    Returns:
        Different texts, at most one for each order.
    """
    before = format.example.split("{x}")[0]
    written = []
    for i, case in enumerate(orders):
        shown = format.separator.join(format.example.format(x=x, y=y) for x, y in case.demonstrations)
        opening = f"{format.instruction}{shown}{format.separator}{before.rstrip()}"
        written += lm.sample_texts(model, opening, 1, seed + i)
    return list(dict.fromkeys(written))


def calibrate(log_p: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Divides by what the same prompt says to other inputs, on average.

    With `CONTENT_FREE` inputs this is contextual calibration (Zhao et al. 2021), with texts of the task it is
    like domain-context (Fei et al. 2023) and batch calibration (Zhou et al. 2024).

    Args:
        log_p: (C, Q, labels).
        reference: (C, R, labels) log-probabilities after R other inputs.

    Returns:
        (C, Q, labels), normalised over labels.
    """
    return (log_p - reference.exp().mean(1, keepdim=True).log()).log_softmax(-1)
