"""Points of distributions: densities equal SciPy's, documents are as described, and Bayes' rule is exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from course_lib.synthetic import distributions as d

GENERATOR = torch.Generator


def scipy_of(family, a, b):
    """The SciPy distribution of the same parameters."""
    return (stats.norm(a, b), stats.chi2(a), stats.poisson(a), stats.expon(scale=a), stats.gamma(a, scale=b))[
        family
    ]


@settings(max_examples=60)
@given(st.integers(0, 4), st.floats(0, 1), st.floats(0, 1))
def test_densities_equal_scipy(family, u, v):
    one = d.from_quantiles(*(torch.tensor([x]) for x in (family, u, v)))
    theirs = scipy_of(family, one.a.double().item(), one.b.double().item())
    x = torch.arange(d.STARTS[family], 41)
    log_p = theirs.logpmf(x.numpy()) if family == 2 else theirs.logpdf(x.numpy())
    torch.testing.assert_close(
        one[:, None].log_density(x)[0].double(), torch.from_numpy(log_p), atol=2e-3, rtol=1e-4
    )
    mean, std = one.mean_std()
    assert mean.item() == pytest.approx(theirs.mean(), rel=1e-4, abs=1e-4)
    assert std.item() == pytest.approx(theirs.std(), rel=1e-4)


def test_a_family_has_no_density_below_its_first_x():
    each = d.from_quantiles(torch.arange(5), torch.full((5,), 0.5), torch.full((5,), 0.5))
    below = each.log_density(d.STARTS - 1)
    assert torch.isfinite(below[0]) or d.STARTS[0] == d.LOWEST
    assert (below[1:] == -torch.inf).all()
    assert torch.isfinite(each.log_density(d.STARTS)).all()


def test_parameters_are_drawn_from_their_ranges():
    drawn = d.draw_densities(5000, GENERATOR().manual_seed(0))
    assert drawn.family.bincount().min() > 900
    ranges = {0: (0, 25, 1.5, 6), 1: (3, 25, 1, 1), 2: (1, 20, 1, 1), 3: (2, 12, 1, 1), 4: (1.5, 10, 0.7, 3)}
    for family, (a_low, a_high, b_low, b_high) in ranges.items():
        one = drawn[drawn.family == family]
        assert a_low <= one.a.min() < a_low + 0.1 * (a_high - a_low)
        assert a_high - 0.1 * (a_high - a_low) < one.a.max() <= a_high + 1e-3
        assert b_low - 1e-6 <= one.b.min()
        assert one.b.max() <= b_high + 1e-3


@pytest.mark.parametrize(("spread", "beyond"), [(4.0, 0.0), (2.0, 0.0), (4.0, 3.0)])
def test_points_lie_where_they_should(spread, beyond):
    normals = d.from_quantiles(
        torch.zeros(50, dtype=torch.long), torch.full((50,), 0.5), torch.full((50,), 0.4)
    )
    x, log_p = d.draw_points(normals, 40, GENERATOR().manual_seed(0), spread=spread, beyond=beyond)
    mean, std = normals.mean_std()
    away = (x - mean[:, None]).abs() / std[:, None]
    assert away.max() <= spread
    assert away.min() >= beyond
    assert away.max() > spread - 1
    noise = log_p - normals[:, None].log_density(x)
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(d.NOISE, rel=0.1)


def test_x_is_uniform_over_its_span():
    one = d.from_quantiles(torch.tensor([2]), torch.tensor([0.8]), torch.tensor([0.5]))
    x, _ = d.draw_points(one, 20_000, GENERATOR().manual_seed(0), spread=2.0)
    first, last = (int(end) for end in one.span(2.0))
    counts = x[0].bincount(minlength=last + 1)[first:]
    assert x.min() == first
    assert x.max() == last
    assert (counts / counts.float().mean() - 1).abs().max() < 0.15


def test_no_points_are_an_error():
    poisson = d.from_quantiles(torch.tensor([2]), torch.tensor([0.0]), torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"spread=4.0, beyond=5.0: a distribution has no such points"):
        d.draw_points(poisson, 3, GENERATOR(), spread=4.0, beyond=5.0)


def test_bins_and_their_centres():
    assert torch.equal(d.bins(d.centres()), torch.arange(d.BINS))
    assert d.bins(torch.tensor([-99.0, -torch.inf, 99.0])).tolist() == [0, 0, d.BINS - 1]


def test_tokens_do_not_overlap():
    x, p, family = (
        d.x_token(torch.arange(d.LOWEST, d.HIGHEST + 1)),
        d.p_token(d.centres()),
        d.family_token(torch.arange(5)),
    )
    assert torch.equal(torch.cat([x, p, family]), torch.arange(d.VOCAB))


def test_points_become_tokens_in_order():
    x, log_p = torch.tensor([[3, 4]]), torch.tensor([[-1.0, -2.0]])
    assert d.points(x, log_p).tolist() == [
        [13, *d.p_token(log_p)[0, :1].tolist(), 14, *d.p_token(log_p)[0, 1:].tolist()]
    ]
    named = d.points(x, log_p, torch.tensor([[4, 0]]))
    assert named[0, [1, 4]].tolist() == [d.VOCAB - 1, d.VOCAB - 5]
    assert named[0, [0, 2, 3, 5]].tolist() == d.points(x, log_p)[0].tolist()
    assert d.points(x[:, :0], log_p[:, :0]).shape == (1, 0)


def test_documents_are_spelled_in_words():
    tokens = d.points(torch.tensor([[-10, 40]]), torch.tensor([[-1.0, -20.0]]), torch.tensor([[1, 2]]))[0]
    assert d.spelled(tokens) == "x=-10 chi-square -1.0 x=40 Poisson -11.9"


@pytest.mark.parametrize("noisy", [False, True])
def test_documents_name_one_family_as_often_as_they_should(noisy):
    pages = d.documents(3000, GENERATOR().manual_seed(0), spread=4.0, noisy=noisy)
    assert pages.shape == (3000, d.LENGTH)
    names = pages >= d.XS + d.BINS
    is_x = pages < d.XS
    assert is_x[:, 0].all()
    follows_x = is_x[:, :-1] & names[:, 1:]
    assert torch.equal(follows_x.sum(), names[:, 1:].sum())  # a name comes behind an x only
    assert (is_x[:, :-1] & is_x[:, 1:]).sum() == 0
    share = names.sum(1) / is_x[:, :-1].sum(1).clamp(min=1)
    assert (share > 0.99).float().mean() == pytest.approx(0.4, abs=0.04)
    assert share[share < 0.9].mean() == pytest.approx(0.2, abs=0.03)
    full = pages[share > 0.99]
    of = full[full >= d.XS + d.BINS].view(len(full), -1)
    agree = (of == of.mode(1).values[:, None]).float().mean(1)
    if noisy:
        assert 0.15 < (agree == 1).float().mean() < 0.3  # a fifth has no wrong name
        assert agree.min() < 0.45
    else:
        assert (agree == 1).all()


def test_a_spread_of_two_never_shows_more():
    for seed in range(3):
        one = d.from_quantiles(torch.zeros(1, dtype=torch.long), torch.tensor([0.5]), torch.tensor([0.5]))
        x, _ = d.draw_points(one, 99, GENERATOR().manual_seed(seed), spread=2.0)
        assert ((x - 12.5).abs() <= 2 * 3.0).all()


# Exact Bayes, on a grid small enough to sum by hand


@pytest.fixture(scope="module")
def bayes():
    return d.Bayes(spread=4.0, cells=24)


def test_the_grid_has_the_prior_of_pretraining():
    densities, log_prior = d.grid(24)
    for family in range(5):
        assert log_prior[densities.family == family].exp().sum().item() == pytest.approx(0.2, rel=1e-4)
    assert (densities.family == 0).sum() == 144
    assert (densities.family == 1).sum() == 24


def test_the_posterior_by_hand(bayes):
    x, log_p, x0 = torch.tensor([[5, 9]]), torch.tensor([[-2.5, -3.1]]), torch.tensor([7])
    densities, log_prior = d.grid(24)
    weight = log_prior.exp().double()
    for g in range(len(weight)):
        one = densities[g : g + 1]
        first, last = (end.item() for end in one.span(4.0))
        for xi, pi in ((5, -2.5), (9, -3.1), (7, None)):
            weight[g] *= (first <= xi <= last) / (last - first + 1)
            if pi is not None:
                low = d.FLOOR + d.WIDTH * math.floor((pi - d.FLOOR) / d.WIDTH)
                true = one.log_density(torch.tensor([xi])).item()
                noise = stats.norm(true, d.NOISE)
                weight[g] *= noise.cdf(low + d.WIDTH) - noise.cdf(low)
    expected = (weight / weight.sum())[None].float()
    torch.testing.assert_close(bayes.log_weights(x, log_p, x0).softmax(-1), expected, atol=2e-4, rtol=1e-2)


def test_predictions_average_over_the_posterior(bayes):
    posterior = torch.rand(3, len(bayes.log_prior), generator=GENERATOR().manual_seed(0)).softmax(-1)
    x0 = torch.tensor([3, 20, 3])
    family, density = bayes.family(posterior), bayes.density(posterior, x0)
    for i in range(3):
        by_hand = torch.stack([posterior[i, bayes.densities.family == k].sum() for k in range(5)])
        torch.testing.assert_close(family[i], by_hand)
        torch.testing.assert_close(density[i], bayes.p_bins[d.x_token(x0[i])] @ posterior[i])
    torch.testing.assert_close(density.sum(1), torch.ones(3))


def test_bins_under_noise_sum_to_one(bayes):
    torch.testing.assert_close(bayes.p_bins.sum(1), torch.ones_like(bayes.p_bins[:, 0]), atol=1e-5, rtol=0)


def test_points_outside_the_span_rule_out_unless_place_is_ignored():
    x, log_p, x0 = torch.tensor([[-6]]), torch.tensor([[-4.0]]), torch.tensor([-5])
    strict, blind = (
        d.Bayes(spread, cells=24).log_weights(x, log_p, x0).softmax(-1) for spread in (4.0, None)
    )
    only_normals = d.Bayes(4.0, cells=24).family(strict)
    assert only_normals[0, 0] > 0.999
    assert (blind > 0).sum() > (strict > 1e-12).sum()


def test_outliers_mix_with_chance():
    bayes = d.Bayes(4.0, outliers=0.3, cells=24)
    x, log_p, x0 = torch.tensor([[5]]), torch.tensor([[-2.5]]), torch.tensor([7])
    seen = bayes.p_bins[d.x_token(x[0, 0]), d.bins(log_p[0, 0])] * bayes.p_x[d.x_token(x[0, 0])]
    weight = bayes.log_prior.exp() * bayes.p_x[d.x_token(x0[0])] * (0.7 * seen + 0.3 / (d.XS * d.BINS))
    torch.testing.assert_close(
        bayes.log_weights(x, log_p, x0)[0].softmax(-1), weight / weight.sum(), atol=1e-6, rtol=1e-3
    )


def test_more_points_name_the_family(bayes):
    generator = GENERATOR().manual_seed(0)
    drawn = d.draw_densities(60, generator)
    x, log_p = d.draw_points(drawn, 17, generator, spread=4.0)
    right = []
    for n in (1, 16):
        posterior = bayes.log_weights(x[:, :n], log_p[:, :n], x[:, 16]).softmax(-1)
        right.append((bayes.family(posterior).argmax(-1) == drawn.family).float().mean())
    assert right[0] < 0.7 < 0.8 < right[1]
