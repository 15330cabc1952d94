"""Exercises of What is in-context learning?"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from scipy.stats import norm, t

from course_lib import fewshot, stats
from course_lib.page.exercises import Exercise

# 1 Write a format

OPPOSITES = [("wet", "dry"), ("early", "late"), ("full", "empty"), ("left", "right")]


def _template(example: str, separator: str, end: str = "") -> Callable[..., str]:
    form = fewshot.Format(example, separator)
    return lambda demonstrations, query: form.context(demonstrations, query) + end


template = Exercise(
    1,
    reference=_template("Q: {x}\nA: {y}", "\n\n"),
    inputs={
        "one demonstration": lambda _: (OPPOSITES[:1], "loud"),
        "four demonstrations": lambda _: (OPPOSITES, "loud"),
        "no demonstration": lambda _: ([], "loud"),
        "answers of several words": lambda _: (
            [("is it late?", "No, not yet."), ("why?", "So.")],
            "who is it?",
        ),
    },
    mistakes={
        r"puts question and answer on one line: separate them by \n": _template("Q: {x} A: {y}", "\n\n"),
        r"leaves no empty line between examples: that takes two line breaks, \n\n": _template(
            "Q: {x}\nA: {y}", "\n"
        ),
        r"has an empty line between question and answer: one \n is enough there": _template(
            "Q: {x}\n\nA: {y}", "\n\n"
        ),
        "has no 'A: ' in front of the answer": _template("Q: {x}\n{y}", "\n\n"),
        "has no 'Q: ' in front of the question": _template("{x}\nA: {y}", "\n\n"),
        "has no space before the answer": _template("Q: {x}\nA:{y}", "\n\n"),
        "ends with a space: that belongs to the answer's first token": _template(
            "Q: {x}\nA: {y}", "\n\n", end=" "
        ),
        "ends with a line break: the prompt ends where the answer begins": _template(
            "Q: {x}\nA: {y}", "\n\n", end="\n"
        ),
    },
)


# 2 Could it be copying?


def _answers(case: fewshot.Case) -> set[str]:
    return {y for _, y in case.demonstrations}


def _copied(case: fewshot.Case) -> float:
    return sum(y in _answers(case) for _, y in case.queries) / len(case.queries)


def _numbers_case(generator: torch.Generator, shots: int, n_queries: int) -> fewshot.Case:
    """Numbers with their remainder; a pair may come again."""
    numbers = torch.randint(100, (shots + n_queries,), generator=generator).tolist()
    pairs = [(str(n), str(n % 10)) for n in numbers]
    return fewshot.Case(pairs[:shots], pairs[shots:])


copied = Exercise(
    2,
    reference=_copied,
    inputs={
        "two queries": lambda _: (
            fewshot.Case(
                [("Lima", "America"), ("Oslo", "Europe"), ("Rome", "Europe")],
                [("Paris", "Europe"), ("Cairo", "Africa")],
            ),
        ),
        "a word that is asked again": lambda _: (
            fewshot.Case(
                [("bank", "money"), ("bark", "tree"), ("bat", "animal"), ("light", "lamp")],
                [("bank", "river"), ("bark", "tree"), ("wolf", "animal")],
            ),
        ),
        "many queries": lambda generator: (_numbers_case(generator, shots=6, n_queries=20),),
        "no demonstrations": lambda _: (fewshot.Case([], [("Paris", "Europe"), ("Cairo", "Africa")]),),
    },
    mistakes={
        "counts the queries: divide by their number": lambda case: sum(
            y in _answers(case) for _, y in case.queries
        ),
        "compares whole pairs: only the answers have to be equal": lambda case: (
            sum(pair in case.demonstrations for pair in case.queries) / len(case.queries)
        ),
        "compares the inputs x: could an answer y be copied?": lambda case: (
            sum(x in {a for a, _ in case.demonstrations} for x, _ in case.queries) / len(case.queries)
        ),
        "looks for the answers among the inputs x of the demonstrations": lambda case: (
            sum(y in {a for a, _ in case.demonstrations} for _, y in case.queries) / len(case.queries)
        ),
        "looks at the last demonstration only": lambda case: (
            sum(y == case.demonstrations[-1][1] for _, y in case.queries) / len(case.queries)
        ),
        "divides by the number of demonstrations: each query counts once": lambda case: (
            sum(y in _answers(case) for _, y in case.queries) / len(case.demonstrations)
        ),
        "gives the share of the demonstrations whose answer is asked for": lambda case: (
            sum(y in {a for _, a in case.queries} for _, y in case.demonstrations) / len(case.demonstrations)
        ),
        "gives the share that is not among the demonstrations' answers": lambda case: 1 - _copied(case),
        "counts an answer once that several queries share: count the queries": lambda case: (
            len({y for _, y in case.queries} & _answers(case)) / len(case.queries)
        ),
        "finds none: a query is a pair (x, y), and its y is what could be copied": lambda case: 0.0,
    },
)


# 3 Take out the tilt


def _among(log_probs: torch.Tensor) -> torch.Tensor:
    return log_probs.log_softmax(-1)


def _log_probs(*shape: int) -> Callable[[torch.Generator], tuple[torch.Tensor]]:
    """Labels that share a vocabulary with ten other words."""

    def make(generator: torch.Generator) -> tuple[torch.Tensor]:
        scores = 2 * torch.randn(*shape[:-1], shape[-1] + 10, generator=generator)
        return (scores.log_softmax(-1)[..., : shape[-1]],)

    return make


without_tilt = Exercise(
    3,
    reference=fewshot.without_tilt,
    inputs={
        "two queries and two labels": _log_probs(2, 2),
        "five queries and three labels": _log_probs(5, 3),
        "a batch of cases": _log_probs(4, 5, 3),
        "cases after several numbers of demonstrations": _log_probs(2, 4, 5, 3),
    },
    mistakes={
        "normalises among the labels, and subtracts no mean yet": _among,
        "takes the mean over the labels: the tilt is what a label has on all queries": lambda log_probs: (
            _among(log_probs) - _among(log_probs).mean(-1, keepdim=True)
        ),
        "does not normalise among the labels: log_softmax does, along the last axis": lambda log_probs: (
            log_probs - log_probs.mean(-2, keepdim=True)
        ),
        "normalises after subtracting the mean: first normalise, then subtract": lambda log_probs: (
            log_probs - log_probs.mean(-2, keepdim=True)
        ).log_softmax(-1),
        "averages probabilities: average their logarithms": lambda log_probs: (
            _among(log_probs) - _among(log_probs).exp().mean(-2, keepdim=True).log()
        ),
        "subtracts probabilities: subtract their logarithms": lambda log_probs: (
            _among(log_probs).exp() - _among(log_probs).exp().mean(-2, keepdim=True)
        ),
        "divides by the mean: subtract it": lambda log_probs: (
            _among(log_probs) / _among(log_probs).mean(-2, keepdim=True)
        ),
        "subtracts one mean over everything: each label has its own": lambda log_probs: (
            _among(log_probs) - _among(log_probs).mean()
        ),
        "averages over all cases together: each case has its own mean": lambda log_probs: (
            _among(log_probs) - _among(log_probs).flatten(0, -2).mean(0)
        ),
        "averages along axis 0, which are the queries of a single case only: count from the end": (
            lambda log_probs: _among(log_probs) - _among(log_probs).mean(0)
        ),
    },
)


# 4 The cost of shuffled answers

Curve = dict[str, torch.Tensor]


def _lost(curve: Curve) -> torch.Tensor:
    return curve["true answers"] - curve["shuffled answers"]


def _curve(shots: int, cases: int) -> Callable[[torch.Generator], tuple[Curve]]:
    """Accuracies on four queries each."""

    def make(generator: torch.Generator) -> tuple[Curve]:
        right = torch.randint(5, (2, shots, cases), generator=generator) / 4
        return ({"true answers": right[0], "shuffled answers": right[1]},)

    return make


cost = Exercise(
    4,
    reference=lambda curve: _lost(curve).mean(-1),
    inputs={
        "two numbers of shots and three cases": _curve(2, 3),
        "as many cases as numbers of shots": _curve(4, 4),
        "one case": _curve(3, 1),
        "six numbers of shots and twelve cases": _curve(6, 12),
    },
    mistakes={
        "gives the accuracy with true answers: how much of it does shuffling cost?": lambda curve: curve[
            "true answers"
        ].mean(-1),
        "subtracts the wrong way round: a loss is what true answers have more": lambda curve: (
            -_lost(curve).mean(-1)
        ),
        "averages over the numbers of shots: average over the cases, the last axis": lambda curve: _lost(
            curve
        ).mean(0),
        "averages over everything: keep the numbers of shots apart": lambda curve: _lost(curve).mean(),
        "looks at the largest number of shots only": lambda curve: _lost(curve)[-1].mean(),
        "does not average over the cases yet": _lost,
        "adds up the cases: take their mean": lambda curve: _lost(curve).sum(-1),
        "takes absolute values: in some cases shuffling may help": lambda curve: _lost(curve).abs().mean(-1),
        "gives the share that is lost: subtract, and do not divide": lambda curve: (
            _lost(curve).mean(-1) / curve["true answers"].mean(-1)
        ),
    },
)


# 5 An honest interval

Interval = tuple[float, float, float]


def _interval(values: torch.Tensor, quantile: float, correction: int = 1) -> Interval:
    """An interval with another quantile, or another standard deviation."""
    mean, half = values.mean(), quantile * values.std(correction=correction) / sqrt(values.numel())
    return mean.item(), (mean - half).item(), (mean + half).item()


def _t(cases: int, probability: float = 0.975, lost: int = 1) -> float:
    return float(t.ppf(probability, cases - lost))


def _reaches(interval: Interval) -> Interval:
    mean, low, high = interval
    return mean, mean - low, high - mean


def _right(cases: int, queries: int) -> Callable[[torch.Generator], tuple[torch.Tensor]]:
    """Zeros and ones, more alike within a case than between cases."""

    def make(generator: torch.Generator) -> tuple[torch.Tensor]:
        share = torch.rand(cases, 1, generator=generator)
        return ((torch.rand(cases, queries, generator=generator) < share).float(),)

    return make


interval = Exercise(
    5,
    reference=lambda right: stats.mean_interval(right.float().mean(-1)),
    inputs={
        "ten cases of four queries": _right(10, 4),
        "as many cases as queries": _right(8, 8),
        "twelve cases of ten queries": _right(12, 10),
        "cases that are all right or all wrong": lambda _: (
            torch.arange(10).remainder(2).float()[:, None].expand(10, 8).clone(),
        ),
    },
    mistakes={
        "gives an interval without a width: how far do the cases scatter?": lambda right: (
            (right.mean().item(),) * 3
        ),
        "takes all answers as independent, so that the interval is too narrow: one value per case": (
            lambda right: stats.mean_interval(right)
        ),
        "takes all answers as independent, and uses the normal 1.96: one value per case, and t": (
            lambda right: _interval(right, norm.ppf(0.975))
        ),
        "takes all answers as independent, with √(p(1 − p)/N): one value per case, and t": lambda right: (
            _interval(right, norm.ppf(0.975), correction=0)
        ),
        "takes all answers as independent, with √(p(1 − p)/N) and t: one value per case": lambda right: (
            _interval(right, _t(right.numel()), correction=0)
        ),
        "divides the standard deviation of the cases by C: divide it by √C": lambda right: _interval(
            right.mean(-1), _t(len(right)) / sqrt(len(right))
        ),
        "takes one value per query: average over the queries, to have one per case": lambda right: _interval(
            right.mean(0), _t(right.shape[1])
        ),
        "uses the normal 1.96: few cases need the wider t": lambda right: _interval(
            right.mean(-1), norm.ppf(0.975)
        ),
        "uses the standard deviation of a population: divide the sum of squares by C − 1, as .std() does": (
            lambda right: _interval(right.mean(-1), _t(len(right)), correction=0)
        ),
        "uses the standard deviation of the cases: divide it by √C for that of their mean": lambda right: (
            _interval(right.mean(-1), _t(len(right)) * sqrt(len(right)))
        ),
        "leaves 5 % on each side: 95 % in the middle leave 2.5 % on each": lambda right: _interval(
            right.mean(-1), _t(len(right), 0.95)
        ),
        "uses as many degrees of freedom as cases: there is one fewer, C − 1": lambda right: _interval(
            right.mean(-1), _t(len(right), lost=0)
        ),
        "gives how far the interval reaches, not where it ends": lambda right: _reaches(
            stats.mean_interval(right.mean(-1))
        ),
    },
)
