"""Intervals and tests for what is measured over trials.

A trial is a draw of demonstrations, with the queries asked after them. Trials are independent of each other;
answers after the same demonstrations succeed and fail together and are not. Intervals cover the draw of
trials. Shares of right answers take `share_interval` and `share_difference`, all other measurements
`mean_interval` and `paired_difference`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import sqrt
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy.special import betaincinv, ndtri, stdtrit
from scipy.stats import permutation_test

Key = TypeVar("Key", bound=Hashable)


class Interval(NamedTuple):
    """What was measured, and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(values: torch.Tensor, confidence: float = 0.95, resolution: float = 0.0) -> Interval:
    """Mean of independent real numbers with Student's t interval (Student 1908). Not for shares.

    Args:
        values: (N,) one number for each trial, of any unit; another shape is flattened.
        confidence: probability to cover the mean, for normal values.
        resolution: that values were rounded to, as in a file; adds the variance of rounding, resolution²/12.

    Returns:
        Mean and interval in the unit of the values.

    Raises:
        ValueError: fewer than two values, a value is not finite, or all values agree and are not
            rounded.
    """
    values = _finite(values, "values").double()
    if not resolution and (values == values[0]).all():
        raise ValueError(
            f"values: all {len(values)} are {values[0].item():g}: an interval of width zero says nothing; "
            "for shares use share_interval or share_difference"
        )
    mean = values.mean().item()
    error = sqrt((values.var().item() + resolution**2 / 12) / len(values))
    half = stdtrit(len(values) - 1, _upper(confidence)) * error
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    a: torch.Tensor, b: torch.Tensor, confidence: float = 0.95, resolution: float = 0.0
) -> Interval:
    """Mean of a − b with Student's t interval, of real numbers measured on the same trials. Not for shares.

    Args:
        a: (N,) one number for each trial.
        b: (N,) numbers of the same trials, in the same order and unit.
        confidence: see `mean_interval`.
        resolution: that the numbers were rounded to, see there.

    Returns:
        Mean difference and interval in the unit of the numbers.

    Raises:
        ValueError: the shapes differ, or `mean_interval` refuses the differences.
    """
    _same_shape(a, b)
    return mean_interval(a.double() - b.double(), confidence, resolution * 2**0.5)


def share_interval(hits: torch.Tensor, of: int | None = None, confidence: float = 0.95) -> Interval:
    """Share of right answers with the interval of Clopper & Pearson (1934) at an effective number of answers.

    Answers of one trial depend on each other. The NQ answers of N trials count for as many independent ones
    as would let the share vary as much as it does from trial to trial, corrected for the small number of
    trials that show it (Korn & Graubard 1998): at most for NQ, and at least for N, as if a trial were one
    answer. They count for N if all are right or all are wrong. Then nothing shows how answers depend on each
    other; but however they do, N trials without an error have at most the chance pᴺ where the share is p.
    So the interval can be wider for no wrong answer than for one, which shows that a trial need not fail
    as a whole.

    Args:
        hits: (N, Q) zeros and ones, the Q answers of each of N ≥ 2 trials, or (N,) shares of right answers.
            Independent answers are trials of one query, (Q, 1).
        of: number Q of answers that each share is of; leave it out for zeros and ones.
        confidence: probability to cover the expected share.

    Returns:
        Share and interval, within [0, 1] and never of width zero.

    Raises:
        ValueError: the shape does not fit, something is neither zero nor one nor a share of Q answers, or
            there are fewer than two trials.
    """
    right, queries = _right_answers(hits, of, "hits")
    answers, x = len(right) * queries, right.sum().item()
    share = x / answers
    effective = answers / _design_effect(right / queries, share * (1 - share), queries, confidence)
    successes, failures = share * effective, (answers - x) / answers * effective
    upper = _upper(confidence)
    low = betaincinv(successes, failures + 1, 1 - upper) if successes else 0.0
    high = betaincinv(successes + 1, failures, upper) if failures else 1.0
    return Interval(share, float(low), float(high))


def share_difference(
    a: torch.Tensor, b: torch.Tensor, of: int | None = None, confidence: float = 0.95
) -> Interval:
    """Difference a − b of two shares of right answers, measured on the same trials.

    It is the adjusted Wald interval of Bonett & Price (2012), which adds one pair for either side to those
    where only one of a and b is right, at an effective number of pairs as in `share_interval`. Of each trial
    only as many pairs are counted as unlike as the numbers of right answers of a and b show, so that zeros
    and ones give the same interval as their shares.

    Args:
        a: (N, Q) zeros and ones or (N,) shares, as for `share_interval`.
        b: answers to the same queries after the same demonstrations, in the same order and form.
        of: number Q of answers that each share is of; leave it out for zeros and ones.
        confidence: probability to cover the expected difference.

    Returns:
        Difference and interval, within [−1, 1] and never of width zero.

    Raises:
        ValueError: the shapes differ, or `share_interval` refuses a or b.
    """
    _same_shape(a, b)
    (right_a, queries), (right_b, _) = _right_answers(a, of, "a"), _right_answers(b, of, "b")
    apart, answers = right_a - right_b, len(a) * queries
    value, unlike = apart.sum().item() / answers, apart.abs().sum().item() / answers
    effective = answers / _design_effect(apart / queries, unlike - value**2, queries, confidence)
    centre = effective * value / (effective + 2)
    variance = (effective * unlike + 2) / (effective + 2) - centre**2
    half = float(ndtri(_upper(confidence))) * sqrt(variance / (effective + 2))
    return Interval(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def sign_flip_test(differences: torch.Tensor, draws: int = 4999, seed: int = 0) -> float:
    """Two-sided p-value of a mean of zero: differences of pairs keep their size and get random signs.

    All 2ᴺ signs are tried where that takes no more than the draws (`scipy.stats.permutation_test`).

    Args:
        differences: (N,) of independent pairs; another shape is flattened.
        draws: number of random draws of all signs.
        seed: another seed draws others.

    Returns:
        p-value, larger than zero.

    Raises:
        ValueError: fewer than two differences, or one is not finite.
    """
    found = permutation_test(
        (_finite(differences, "differences").numpy(),),  # as they are: scipy judges ties by their precision
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=draws,
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: Mapping[Key, float], level: float = 0.05) -> list[Key]:
    """The hypotheses that Holm's (1979) step-down procedure rejects, smallest p-value first.

    The chance to reject any true hypothesis is at most the level, however the tests depend on each other.

    Args:
        p_values: p-value of each of the hypotheses that are tested together.
        level: that chance.

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    if wrong := {key: p for key, p in p_values.items() if not 0 <= p <= 1}:
        raise ValueError(f"p_values: {wrong}, expected numbers in [0, 1]")
    passed: list[Key] = []
    for key in sorted(p_values, key=p_values.__getitem__):
        if p_values[key] > level / (len(p_values) - len(passed)):
            break
        passed.append(key)
    return passed


def coin_tosses(
    p: float | torch.Tensor,
    shape: Sequence[int],
    statistic: Callable[[torch.Tensor], float | torch.Tensor],
    draws: int = 2000,
    seed: int = 0,
) -> torch.Tensor:
    """What a statistic of answers is when every answer is an independent toss of a coin.

    Args:
        p: chance that an answer is right, one number or a tensor that broadcasts to the shape, such as (Q,)
            for the shape (trials, Q).
        shape: shape of the answers.
        statistic: takes zeros and ones of the shape, returns one number.
        draws: number of times that all coins are tossed.
        seed: another seed tosses others.

    Returns:
        (draws,) the statistic of each draw.

    Raises:
        ValueError: p is not in [0, 1], or does not broadcast to the shape.
    """
    chances = torch.as_tensor(p, dtype=torch.get_default_dtype())
    if not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError(f"p={p}: expected chances in [0, 1]")
    try:
        chances = chances.expand(*shape)
    except RuntimeError as error:
        raise ValueError(f"p: shape {tuple(chances.shape)} does not broadcast to {tuple(shape)}") from error
    generator = torch.Generator().manual_seed(seed)
    tossed = (torch.bernoulli(chances, generator=generator) for _ in range(draws))
    return torch.tensor([float(statistic(hits)) for hits in tossed], dtype=torch.double)


def above_null(observed: float, null: torch.Tensor) -> float:
    """One-sided p-value: the share of draws under the null that are at least as large as what was observed.

    What was observed counts as one more draw, so that p is never zero (Phipson & Smyth 2010). Numbers that
    differ by a millionth of themselves, as sums of floats in another order may, are the same.

    Args:
        observed: the statistic of the data.
        null: (draws,) the same statistic under the null, see `coin_tosses`.

    Raises:
        ValueError: there are no draws, or a number is not one.
    """
    draws = null.double()
    if not len(draws) or draws.isnan().any() or observed != observed:
        raise ValueError(f"observed={observed}, null of shape {tuple(null.shape)}: expected numbers, not NaN")
    above = (draws >= observed - 1e-6 * abs(observed)).sum().item()
    return (above + 1) / (len(draws) + 1)


def _design_effect(means: torch.Tensor, variance: float, queries: int, confidence: float) -> float:
    """How many answers count for one independent answer, from 1 to the number of queries of a trial.

    Args:
        means: (N,) mean over the answers of each trial.
        variance: of a single answer, over all trials; zero if all answers agree.
        queries: number of answers of a trial.
        confidence: of the interval; the lower, the less a variance of few trials has to be corrected.
    """
    if not variance:
        return float(queries)
    trials, upper = len(means), _upper(confidence)
    independent = variance * trials / (trials * queries - 1)  # of a mean, if answers were independent
    few = stdtrit(trials - 1, upper) / stdtrit(trials * queries - 1, upper)
    return min(max(1.0, float(few**2) * means.var().item() / independent), float(queries))


def _right_answers(hits: torch.Tensor, of: int | None, name: str) -> tuple[torch.Tensor, int]:
    """(N,) number of right answers of each trial, and of how many."""
    each, axes = (1, 2) if of is None else (of, 1)
    hits = hits.detach().double()
    if hits.ndim != axes or not hits.numel() or each < 1:
        raise ValueError(
            f"{name}: shape {tuple(hits.shape)} and of={of}, expected zeros and ones (trials, queries), "
            "or shares (trials,) and of how many answers they are"
        )
    if len(hits) < 2:
        raise ValueError(
            f"{name}: one trial, expected at least two, as one does not show how trials differ; "
            "independent answers are trials of one query, (answers, 1)"
        )
    given = hits * each
    right = given.round().clamp(0, each)
    if not (given - right).abs().max() < 1e-3:  # shares in few bits are not exact; a NaN is no number either
        wanted = "zeros and ones" if of is None else f"multiples of 1/{of} from 0 to 1"
        raise ValueError(f"{name}: expected {wanted}, got numbers from {hits.min():g} to {hits.max():g}")
    return right.reshape(len(hits), -1).sum(1), right.numel() // len(hits) * each


def _finite(values: torch.Tensor, name: str) -> torch.Tensor:
    """(N,) at least two finite numbers, flattened."""
    values = values.detach().flatten().cpu()
    if len(values) < 2:
        raise ValueError(f"{name}: got {len(values)}, expected at least two")
    if not values.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {values[~values.isfinite()][0].item()}")
    return values


def _same_shape(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"a, b: shapes {tuple(a.shape)} and {tuple(b.shape)}, expected the same trials")


def _upper(confidence: float) -> float:
    """The quantile at the upper end of a two-sided interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1")
    return (1 + confidence) / 2
