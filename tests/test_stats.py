"""Intervals and tests: known answers, properties, bad input, and how often the intervals cover the truth."""

from math import inf, nan, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from course_lib.stats import (
    Interval,
    above_null,
    coin_tosses,
    holm,
    mean_interval,
    paired_difference,
    share_difference,
    share_interval,
    sign_flip_test,
)


@st.composite
def pairs_of_hits(draw):
    """(N, Q) zeros and ones, twice."""
    n, q = draw(st.integers(2, 9)), draw(st.integers(1, 6))
    bits = st.lists(st.booleans(), min_size=n * q, max_size=n * q)
    extreme = st.booleans().map(lambda bit: [bit] * (n * q))
    return tuple(torch.tensor(draw(bits | extreme)).view(n, q) for _ in range(2))


def assert_close(found, expected, error=1e-9):
    assert found == pytest.approx(expected, abs=error)


# Means of real numbers


def test_mean_interval_is_that_of_scipy():
    values = torch.tensor([1.5, -2.0, 4.0, 0.25, 3.0])
    t = reference.ttest_1samp(values.double().numpy(), 0)
    assert_close(mean_interval(values), (1.35, *t.confidence_interval(0.95)))
    assert_close(mean_interval(values, 0.5), (1.35, *t.confidence_interval(0.5)))
    assert_close(mean_interval(values[:4].view(2, 2)), mean_interval(values[:4]))
    assert isinstance(mean_interval(values), Interval)


def test_rounded_values_have_the_variance_of_rounding():
    values = torch.tensor([0.5, 0.5, 1.0, 1.5, 0.0, 0.5])
    plain, wide = mean_interval(values), mean_interval(values, resolution=0.5)
    variance = values.double().var().item()
    ratio = (wide.high - wide.value) / (plain.high - plain.value)
    assert ratio == pytest.approx(((variance + 0.25 / 12) / variance) ** 0.5)
    same = mean_interval(torch.full((8,), 0.25), resolution=1e-4)
    assert same.low < same.value < same.high < 0.2501
    apart = paired_difference(torch.full((8,), 0.25), torch.full((8,), 0.5), resolution=1e-4)
    assert_close(apart.high - apart.value, (same.high - same.value) * 2**0.5)


def test_paired_difference_is_of_the_differences():
    a, b = torch.tensor([3.0, 5.0, 4.0]), torch.tensor([1.0, 4.0, 4.5])
    assert_close(paired_difference(a, b, 0.8), mean_interval(a - b, 0.8))
    assert paired_difference(a, b).value == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5], "values: got 1, expected at least two"),
        ([], "values: got 0"),
        ([1.0, nan], "finite numbers, got nan"),
        ([1.0, -inf, 2.0], "finite numbers, got -inf"),
        ([1.0, 1.0, 1.0], "width zero says nothing; for shares use share_interval or share_difference"),
    ],
)
def test_no_interval_of_a_mean(values, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(torch.tensor(values))
    with pytest.raises(ValueError, match=message):
        paired_difference(torch.tensor(values) + 1, torch.ones(len(values)))


# Shares


@pytest.mark.parametrize(("right", "answers"), [(0, 2), (0, 30), (1, 8), (7, 20), (20, 20)])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_independent_answers_give_the_interval_of_clopper_and_pearson(right, answers, confidence):
    hits = (torch.arange(answers) < right).view(-1, 1)
    exact = reference.binomtest(right, answers).proportion_ci(confidence, "exact")
    assert_close(share_interval(hits, confidence=confidence), (right / answers, *exact))


def test_dependent_answers_give_the_interval_of_korn_and_graubard():
    shares, queries = torch.tensor([0.9, 0.4, 0.7, 1.0, 0.5, 0.8]), 10
    p, variance = 43 / 60, np.var([9, 4, 7, 10, 5, 8], ddof=1) / 100 / 6
    t = reference.t.ppf(0.975, 59) / reference.t.ppf(0.975, 5)
    n = p * (1 - p) / variance * t**2 * 60 / 59  # 60/59: both variances are free of bias
    assert 6 < n < 60
    ends = reference.beta.ppf([0.025, 0.975], [p * n, p * n + 1], [n - p * n + 1, n - p * n])
    assert_close(share_interval(shares, of=queries), (p, *ends), 1e-6)


@pytest.mark.parametrize("trials", [2, 5, 20])
def test_trials_without_an_error_count_for_one_answer_each(trials):
    low = 0.025 ** (1 / trials)  # at this share, N independent answers are all right with a chance of 2.5 %
    assert_close(share_interval(torch.ones(trials, 12)), (1, low, 1))
    assert_close(share_interval(torch.zeros(trials, 12)), (0, 0, 1 - low))


def test_trials_that_agree_count_for_no_more_than_independent_answers():
    hits = torch.tensor([1.0, 0.0, 1.0, 1.0]).expand(6, 4)
    exact = reference.binomtest(18, 24).proportion_ci(0.95, "exact")
    assert_close(share_interval(hits), (0.75, *exact))


@given(pairs_of_hits(), st.integers(1, 5))
def test_copies_of_an_answer_count_once(pair, copies):
    a, b = (hits[:, :1] for hits in pair)
    assert_close(share_interval(a.repeat(1, copies)), share_interval(a))
    assert_close(share_difference(a.repeat(1, copies), b.repeat(1, copies)), share_difference(a, b))


@given(pairs_of_hits(), st.floats(0.01, 0.999))
def test_an_interval_of_a_share_has_a_width_and_stays_inside(pair, confidence):
    share = share_interval(pair[0], confidence=confidence)
    assert share.value == pytest.approx(pair[0].float().mean().item())
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.low < share.high
    difference = share_difference(*pair, confidence=confidence)
    assert difference.value == pytest.approx((pair[0].float() - pair[1].float()).mean().item(), abs=1e-6)
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert difference.low < difference.high


@given(pairs_of_hits(), st.floats(0.01, 0.999), st.floats(0.01, 0.999))
def test_more_confidence_makes_wider(pair, one, other):
    for interval, hits in ((share_interval, pair[:1]), (share_difference, pair)):
        narrow, wide = (interval(*hits, confidence=c) for c in sorted((one, other)))
        assert wide.low <= narrow.low + 1e-9
        assert narrow.high <= wide.high + 1e-9


@given(pairs_of_hits(), st.randoms())
def test_the_order_of_trials_and_the_form_of_hits_do_not_matter(pair, random):
    order = random.sample(range(len(pair[0])), len(pair[0]))
    a, b = pair
    share, difference = share_interval(a), share_difference(a, b)
    assert_close(share_interval(a[order]), share)
    assert_close(share_difference(a[order], b[order]), difference)
    shares = [hits.float().mean(1) for hits in pair]
    assert_close(share_interval(shares[0], of=a.shape[1]), share)
    assert_close(share_difference(*shares, of=a.shape[1]), difference)


@given(pairs_of_hits())
def test_right_and_wrong_are_mirror_images(pair):
    a, b = pair
    value, low, high = share_interval(a)
    assert_close(share_interval(~a), (1 - value, 1 - high, 1 - low))
    value, low, high = share_difference(a, b)
    assert_close(share_difference(b, a), (-value, -high, -low))
    assert_close(share_difference(~b, ~a), (value, low, high))


def test_difference_of_independent_pairs_is_that_of_bonett_and_price():
    """Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009)."""
    a = torch.tensor([1] * 1 + [1] * 1 + [0] * 7 + [0] * 12).view(-1, 1)
    b = torch.tensor([1] * 1 + [0] * 1 + [1] * 7 + [0] * 12).view(-1, 1)
    p, q = 2 / 23, 8 / 23
    half = 1.959964 * sqrt((p + q - (p - q) ** 2) / 23)
    assert_close(share_difference(a, b), (-6 / 21, p - q - half, p - q + half), 1e-6)
    assert_close(share_difference(a, b), (-0.2857, -0.508, -0.013), 5e-4)


def test_difference_of_shares_that_vary_like_reals_is_nearly_students():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(100, 400, (60,), generator=generator) / 500 for _ in range(2))
    student, found = mean_interval(a - b), share_difference(a, b, of=500)
    assert found.value == pytest.approx(student.value)
    assert found.high - found.low == pytest.approx(student.high - student.low, rel=0.03)


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_trials_without_a_variance_count_for_one_pair_each(a, b):
    one, many = (share_difference(torch.full((6, q), a), torch.full((6, q), b)) for q in (1, 10))
    assert_close(one, many)


@pytest.mark.parametrize(
    ("hits", "of", "message"),
    [
        (torch.ones(4), None, r"shape \(4,\) and of=None, expected zeros and ones \(trials, queries\)"),
        (torch.ones(2, 3, 4), None, "shape"),
        (torch.ones(4, 0), None, "shape"),
        (torch.tensor(1.0), None, "shape"),
        (torch.ones(4, 2), 2, r"shape \(4, 2\) and of=2, .* shares \(trials,\)"),
        (torch.ones(4), 0, "of=0"),
        (torch.ones(1, 5), None, r"one trial, expected at least two.*\(answers, 1\)"),
        (torch.ones(1), 5, "one trial"),
        (torch.tensor([[0.5], [1.0]]), None, "expected zeros and ones, got numbers from 0.5 to 1"),
        (torch.tensor([[nan], [1.0]]), None, "expected zeros and ones"),
        (torch.tensor([[-1.0], [1.0]]), None, "expected zeros and ones"),
        (torch.tensor([0.5, 0.3]), 4, "multiples of 1/4 from 0 to 1, got numbers from 0.3 to 0.5"),
        (torch.tensor([0.5, 1.25]), 4, "multiples of 1/4"),
        (torch.tensor([0.5, nan]), 4, "multiples of 1/4"),
    ],
)
def test_no_interval_of_a_share(hits, of, message):
    with pytest.raises(ValueError, match=f"hits: .*{message}"):
        share_interval(hits, of)
    with pytest.raises(ValueError, match=f"a: .*{message}"):
        share_difference(hits, torch.ones_like(hits), of)


def test_both_sides_of_a_difference_are_checked():
    with pytest.raises(ValueError, match="b: expected zeros and ones, got numbers from 1 to 2"):
        share_difference(torch.ones(2, 1), torch.tensor([[1.0], [2.0]]))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, 95, nan])
def test_confidence_is_a_probability(confidence):
    hits = torch.tensor([[1.0], [0.0], [1.0]])
    for interval in (
        lambda: share_interval(hits, confidence=confidence),
        lambda: share_interval(hits * 0, confidence=confidence),
        lambda: share_difference(hits, 1 - hits, confidence=confidence),
        lambda: share_difference(hits, hits, confidence=confidence),
        lambda: mean_interval(hits, confidence),
    ):
        with pytest.raises(ValueError, match=f"confidence={confidence}"):
            interval()


def test_pairs_have_one_shape():
    for difference in (paired_difference, share_difference):
        with pytest.raises(ValueError, match=r"shapes \(3, 1\) and \(3, 2\), expected the same trials"):
            difference(torch.ones(3, 1), torch.ones(3, 2))


# Tests


def test_signs_are_flipped_exactly_where_few():
    assert sign_flip_test(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(2 / 8)
    assert sign_flip_test(torch.tensor([1.0, 2.0, -3.0])) == pytest.approx(8 / 8)  # the mean is 0
    assert sign_flip_test(-torch.arange(1.0, 11)) == pytest.approx(2 / 1024)
    assert sign_flip_test(torch.zeros(5)) == 1


def test_signs_are_drawn_where_many():
    differences = torch.randn(40, generator=torch.Generator().manual_seed(0)) + 0.3
    p = sign_flip_test(differences)
    assert p == sign_flip_test(differences)
    assert p != sign_flip_test(differences, seed=1)
    assert p == pytest.approx(reference.ttest_1samp(differences.numpy(), 0).pvalue, abs=0.02)
    assert sign_flip_test(differences + 9, draws=99) == pytest.approx(
        2 / 100
    )  # twice the smallest of one side


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_rounding_breaks_no_ties(dtype):
    twelfths = torch.randint(-3, 5, (24,), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert sign_flip_test(twelfths / 12) == sign_flip_test(twelfths)


@pytest.mark.parametrize(
    ("values", "message"), [([1.0], "got 1, expected at least two"), ([1.0, nan], "got nan")]
)
def test_no_sign_flips(values, message):
    with pytest.raises(ValueError, match=f"differences: .*{message}"):
        sign_flip_test(torch.tensor(values))


def test_holm_steps_down_and_stops():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values) == ["d", "a"]  # 0.03 > 0.05 / 2; that 0.04 ≤ 0.05 no longer counts
    assert holm(p_values, level=0.06) == ["d", "a", "c", "b"]
    assert holm(p_values, level=0.019) == []
    assert holm({}) == []
    assert holm({1: 0.05}) == [1]


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8))
def test_holm_rejects_no_less_than_bonferroni(p_values):
    passed = holm(p_values)
    assert {key for key, p in p_values.items() if p <= 0.05 / len(p_values)} <= set(passed)
    assert [p_values[key] for key in passed] == sorted(p_values[key] for key in passed)
    assert all(p_values[key] <= 0.05 for key in passed)


@pytest.mark.parametrize("p", [-0.1, 1.1, nan])
def test_holm_takes_p_values(p):
    with pytest.raises(ValueError, match=r"p_values: \{'b': .*expected numbers in \[0, 1\]"):
        holm({"a": 0.5, "b": p})


def test_coin_tosses_are_binomial():
    null = coin_tosses(0.3, (4, 5), torch.sum, draws=4000)
    assert null.shape == (4000,)
    assert null.mean().item() == pytest.approx(6, abs=0.15)
    assert null.var().item() == pytest.approx(4.2, rel=0.1)
    torch.testing.assert_close(null, coin_tosses(0.3, (4, 5), torch.sum, draws=4000))
    assert not null.equal(coin_tosses(0.3, (4, 5), torch.sum, draws=4000, seed=1))


def test_coins_may_differ():
    seen = []
    coin_tosses(
        torch.tensor([0.0, 0.5, 1.0]), (6, 3), lambda hits: seen.append(hits) or hits.mean(), draws=200
    )
    rates = torch.stack(seen).mean((0, 1))
    assert rates[[0, 2]].tolist() == [0, 1]
    assert rates[1].item() == pytest.approx(0.5, abs=0.05)
    assert seen[0].shape == (6, 3)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (1.5, r"p=1.5: expected chances in \[0, 1\]"),
        (-0.1, "p=-0.1"),
        (nan, "p=nan"),
        (torch.tensor([0.5, 2.0]), "expected chances"),
        (torch.tensor([0.5, 0.5, 0.5]), r"p: shape \(3,\) does not broadcast to \(4, 2\)"),
    ],
)
def test_no_coins(p, message):
    with pytest.raises(ValueError, match=message):
        coin_tosses(p, (4, 2), torch.sum)


def test_what_was_observed_is_one_of_the_draws():
    null = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert above_null(2.0, null) == 3 / 5
    assert above_null(9.0, null) == 1 / 5
    assert above_null(-1.0, null) == 1
    assert above_null(0.1 + 0.2, torch.tensor([0.3])) == 1  # equal up to rounding
    assert above_null(-0.3, torch.tensor([-0.1 - 0.2])) == 1


@pytest.mark.parametrize(("observed", "null"), [(nan, [1.0]), (1.0, [nan, 0.0]), (1.0, [])])
def test_no_p_value_without_numbers(observed, null):
    with pytest.raises(ValueError, match=r"observed=.*expected numbers, not NaN"):
        above_null(observed, torch.tensor(null))
