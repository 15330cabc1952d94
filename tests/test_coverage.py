"""How often the intervals of `stats` cover the truth."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats as reference

from course_lib.stats import mean_interval, share_difference, share_interval

# Coverage of 95 % intervals by simulation. p is the chance of a right answer, N the number of trials, Q that
# of the answers of a trial and ρ their correlation. The intervals of 1 − p are mirror images of those of p.

DRAWS = 200
RATES, TRIALS = (0.02, 0.1, 0.3, 0.5), (4, 8, 12, 20)
CLUSTERS = [(1, 0), *product((4, 10), (0, 0.1, 0.3))]  # Q and ρ
# p of a, p of the answers of b that are its own, and the part of b that is copied from a
PAIRS = [(0.1, 0.02, 0.0), (0.02, 0.98, 0.5), (0.5, 0.5, 0.9), (0.3, 0.9, 0.0)]


def chances(rng, p, rho, size):
    """Of trials to answer right: beta, which makes the answers of a trial correlate by ρ."""
    if rho in (0, 1):
        return np.full(size, p) if rho == 0 else (rng.random(size) < p).astype(float)
    return rng.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1), size)


def intervals(counts, interval):
    """(DRAWS, 3) value, low and high of counts (DRAWS, N); once for those that differ in the order only."""
    samples, which = np.unique(np.sort(counts), axis=0, return_inverse=True)
    return np.array([interval(torch.from_numpy(sample)) for sample in samples])[which.ravel()]


def intervals_of_shares(p, n, q, rho):
    rng = np.random.default_rng(0)
    right = rng.binomial(q, chances(rng, p, rho, (DRAWS, n)))
    return intervals(right, lambda sample: share_interval(sample / q, of=q))


def intervals_of_differences(p, own, copied, n, q, rho):
    rng, size = np.random.default_rng(0), (DRAWS, n, q)
    a, b = (rng.random(size) < chances(rng, rate, rho, (DRAWS, n, 1)) for rate in (p, own))
    b = np.where(rng.random(size) < copied, a, b)
    both = a.sum(2) * (q + 1) + b.sum(2)
    return intervals(both, lambda pair: share_difference(pair // (q + 1) / q, pair % (q + 1) / q, of=q))


def covered(intervals, truth):
    return ((intervals[:, 1] <= truth + 1e-9) & (truth - 1e-9 <= intervals[:, 2])).mean()


def check_coverage(cells):
    worst = min(cells, key=cells.get)
    assert np.mean(list(cells.values())) >= 0.95
    assert cells[worst] >= 0.88, (worst, cells[worst])


def test_intervals_of_shares_cover():
    """Of 4000 draws each, 98 % on average and 91 % in the worst cell: p = 0.1, N = 8, Q = 10, ρ = 0.3."""
    grid = product(RATES, TRIALS, CLUSTERS)
    check_coverage({(p, n, *c): covered(intervals_of_shares(p, n, *c), p) for p, n, c in grid})


def test_intervals_of_shares_cover_whatever_the_dependence():
    grid = product((0.02, 0.3, 0.5), (2, 4, 8, 20), (0.5, 0.7, 1))
    check_coverage({(p, n, rho): covered(intervals_of_shares(p, n, 10, rho), p) for p, n, rho in grid})


def test_intervals_of_differences_cover():
    cells = {}
    for (p, own, copied), n, c in product(PAIRS, TRIALS, CLUSTERS):
        found = intervals_of_differences(p, own, copied, n, *c)
        cells[p, own, copied, n, *c] = covered(found, (1 - copied) * (p - own))
    check_coverage(cells)


def test_intervals_of_means_cover():
    for n in (2, 5, 20):
        values = torch.randn(2000, n, generator=torch.Generator().manual_seed(n)) * 3 + 1
        assert covered(np.array([mean_interval(row) for row in values]), 1) == pytest.approx(0.95, abs=0.015)


def test_intervals_of_independent_answers_are_not_wide():
    """On average 1.29 times as wide as Wilson's; more only where all are right, or all are wrong."""
    ratios = []
    for p, n, q in product(RATES, (8, 12, 20), (1, 4, 10)):
        share, low, high = intervals_of_shares(p, n, q, 0).T
        z2 = reference.norm.ppf(0.975) ** 2 / (n * q)
        wilson = 2 * np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
        ratios.append((high - low).mean() / wilson.mean())
        mixed = (share > 0) & (share < 1)
        assert (high - low)[mixed].mean() <= 1.35 * wilson[mixed].mean(), (p, n, q)
    assert np.mean(ratios) <= 1.35
