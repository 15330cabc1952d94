"""Functions in context: draws, prompts, algorithms with known answers, a transformer that reads vectors."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor

from course_lib.learning import functions
from course_lib.learning.functions import FAMILIES, Interleaved, Prompts, Regressor
from course_lib.scratch.transformer import Config

CONFIG = Config(vocab=3, length=12, layers=2, heads=2, d=16)
ROTARY = Config(vocab=3, length=12, layers=2, heads=2, d=16, rotary=True)
COUNT = 4000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts(n=7, d=3, B=5, m=2, seed=0):
    """Examples of noisy linear functions in float64, and questions."""
    generator = seeded(seed)
    x, query = (torch.randn(B, k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    w = torch.randn(B, d, 1, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(B, n, generator=generator, dtype=torch.float64)
    return Prompts(x, (x @ w)[..., 0] + noise, query, (query @ w)[..., 0])


# Functions


@pytest.mark.parametrize("family", [FAMILIES["linear-5"], FAMILIES["sparse-8"]])
def test_linear_functions_are_linear(family):
    function = family.function(4, family.d, seeded())
    a, b = torch.randn(2, 4, 6, family.d, generator=seeded(1))
    torch.testing.assert_close(function(2 * a - b), 2 * function(a) - function(b), atol=1e-5, rtol=1e-5)


def test_sparse_functions_use_as_many_coordinates_as_said():
    function = functions.linear(200, 8, seeded(), nonzero=2)
    slopes = function(torch.eye(8).expand(200, 8, 8))
    assert ((slopes != 0).sum(1) == 2).all()
    assert (slopes != 0).any(0).all()  # at all places


def test_trees_depend_on_three_signs_and_have_eight_values():
    tree = functions.tree(50, 5, seeded())
    x = torch.randn(50, 300, 5, generator=seeded(1))
    values = tree(x)
    torch.testing.assert_close(tree(x.sign()), values)
    assert max(len(v.unique()) for v in values) == 8
    assert min(len(v.unique()) for v in values) >= 2


def test_a_tree_goes_left_at_negative_coordinates():
    tree = functions.tree(1, 1, seeded(), depth=1)
    low, high = tree(torch.tensor([[[-1.0], [1.0]]]))[0]
    generator = seeded()
    torch.randint(1, (1, 1), generator=generator)
    leaves = torch.randn(1, 2, generator=generator)[0]
    assert (low, high) == (leaves[0], leaves[1])


@pytest.mark.parametrize(
    ("name", "size"), [("linear-5", 5), ("sparse-8", 2), ("trees-5", 1), ("networks-8", 1)]
)
def test_values_are_as_large_as_said(name, size):
    drawn = functions.draw(FAMILIES[name], COUNT, seeded())
    assert drawn.truth.square().mean() == pytest.approx(size, rel=0.12)
    assert drawn.truth.mean() == pytest.approx(0, abs=0.1 * size**0.5)


def test_networks_are_not_linear_but_keep_scale():
    network = functions.network(4, 5, seeded())
    x = torch.randn(4, 6, 5, generator=seeded(1))
    torch.testing.assert_close(network(3 * x), 3 * network(x))
    assert (network(-x) + network(x)).abs().max() > 0.1


# Prompts


def test_a_prompt_shows_noisy_values_and_asks_for_the_true_one():
    family = FAMILIES["linear-5"]
    drawn = functions.draw(family, COUNT, seeded(), m=3)
    assert drawn.x.shape == (COUNT, 20, 5)
    assert drawn.y.shape == (COUNT, 20)
    assert drawn.query.shape == (COUNT, 3, 5)
    assert drawn.truth.shape == (COUNT, 3)
    w = torch.linalg.lstsq(drawn.query[:, :, :], drawn.truth[..., None]).solution  # any w of the right values
    fit = torch.linalg.lstsq(drawn.x, drawn.y[..., None])
    residual = (drawn.x @ fit.solution)[..., 0] - drawn.y
    assert (residual.square().sum(1) / (20 - 5)).mean().sqrt() == pytest.approx(0.3, rel=0.03)
    torch.testing.assert_close((drawn.query @ w)[..., 0], drawn.truth, atol=1e-3, rtol=1e-3)
    exact = functions.draw(family, 50, seeded(), noise=0.0)
    torch.testing.assert_close(functions.least_squares(*exact[:3]), exact.truth, atol=1e-3, rtol=1e-3)


def test_first_keeps_the_questions():
    drawn = functions.draw(FAMILIES["trees-5"], 3, seeded(), m=2)
    three = drawn.first(3)
    assert three.x.shape == (3, 3, 5)
    assert torch.equal(three.y, drawn.y[:, :3])
    assert torch.equal(three.query, drawn.query)


def test_changed_prompts():
    family, usual = FAMILIES["linear-8"], functions.draw(FAMILIES["linear-8"], COUNT, seeded(), m=2)
    scaled = functions.draw(family, COUNT, seeded(), m=2, scale=3.0)
    torch.testing.assert_close(scaled.x, 3 * usual.x)
    torch.testing.assert_close(scaled.truth, 3 * usual.truth)
    higher = functions.draw(family, COUNT, seeded(), m=2, scale_y=3.0)
    torch.testing.assert_close(higher.x, usual.x)
    torch.testing.assert_close(higher.truth, 3 * usual.truth)
    shifted = functions.draw(family, COUNT, seeded(), m=2, shift=2.0)
    offset = shifted.x - usual.x
    torch.testing.assert_close(offset, offset[:, :1].expand_as(offset), atol=1e-5, rtol=0)
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((COUNT, 32), 2.0), atol=1e-4, rtol=0)
    assert torch.equal(functions.draw(family, COUNT, seeded(), m=2, noise=1.0).truth, usual.truth)


def test_skewed_inputs_have_the_covariance_that_is_said():
    drawn = functions.draw(FAMILIES["linear-5"], 3000, seeded(), skewed=True)
    gram = drawn.x.mT @ drawn.x / 20
    assert gram.diagonal(dim1=1, dim2=2).sum(1).mean() == pytest.approx(5, rel=0.05)
    torch.testing.assert_close(
        gram.mean(0), torch.eye(5), atol=0.15, rtol=0
    )  # directions differ between prompts
    largest = torch.linalg.eigvalsh(gram)[:, -1].mean()
    assert largest == pytest.approx(5 / (1 + 1 / 4 + 1 / 9 + 1 / 16 + 1 / 25), rel=0.1)


def test_questions_come_from_the_other_half_space():
    drawn = functions.draw(FAMILIES["linear-5"], 300, seeded(), m=4, sides=True)
    between = drawn.x.mean(1)[:, None] - drawn.query.mean(1)[:, None]
    direction = torch.linalg.lstsq(drawn.x, torch.ones(300, 20, 1)).solution.mT  # points to the examples
    assert (drawn.x @ between.mT > 0).float().mean() > 0.85
    assert (drawn.query @ direction.mT < 0).float().mean() > 0.8
    torch.testing.assert_close(drawn.x.square().mean(), torch.tensor(1.0), atol=0.05, rtol=0)


# Algorithms


def each_fit(model, p):
    return torch.stack([torch.from_numpy(model.fit(x, y).predict(q)) for x, y, q, _ in zip(*p, strict=True)])


@pytest.mark.parametrize("n", [2, 3, 7])
def test_least_squares_and_ridge_are_those_of_scikit_learn(n):
    p = prompts(n)
    ours = functions.ridge(*p[:3], noise=0.5)
    torch.testing.assert_close(ours, each_fit(Ridge(alpha=0.25, fit_intercept=False), p))
    torch.testing.assert_close(
        functions.least_squares(*p[:3]), each_fit(LinearRegression(fit_intercept=False), p)
    )


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=20)
def test_nearest_is_that_of_scikit_learn(n, k, seed):
    p = prompts(n, seed=seed)
    peer = KNeighborsRegressor(min(k, n))
    torch.testing.assert_close(functions.nearest(*p[:3], k=k), each_fit(peer, p))


def test_ridge_is_the_posterior_mean():
    """By importance sampling: weigh functions of the prior by their likelihood."""
    p = prompts(2, d=1, B=1, m=1)
    w = torch.randn(400_000, generator=seeded(3), dtype=torch.float64)
    log_p = -((p.y[0] - w[:, None] * p.x[0, :, 0]) ** 2).sum(1) / (2 * 0.3**2)
    mean = (log_p.softmax(0) @ w) * p.query[0, 0, 0]
    assert functions.ridge(*p[:3], noise=0.3).item() == pytest.approx(mean.item(), rel=0.02)


def test_sparse_bayes_is_the_posterior_mean():
    p = prompts(3, d=3, B=1, m=1)
    w = torch.randn(400_000, 3, generator=seeded(3), dtype=torch.float64)
    w = w * (torch.rand(400_000, 3, generator=seeded(4)).argsort(1) < 1)
    log_p = -((p.y[0] - w @ p.x[0].T) ** 2).sum(1) / (2 * 0.5**2)
    mean = log_p.softmax(0) @ w @ p.query[0, 0]
    got = functions.sparse_bayes(*p[:3], noise=0.5, nonzero=1).item()
    assert got == pytest.approx(mean.item(), rel=0.03)
    torch.testing.assert_close(
        functions.sparse_bayes(*p[:3], noise=0.5, nonzero=3), functions.ridge(*p[:3], noise=0.5)
    )


def test_averaging_by_hand():
    x, y = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]), torch.tensor([[2.0, 4.0]])
    assert functions.averaging(x, y, torch.eye(2)[None]).tolist() == [[(2 + 12) / 2, 4 / 2]]


def test_averaging_is_right_on_average():
    generator, w = seeded(), torch.tensor([1.0, -2.0])
    x = torch.randn(1, 50_000, 2, generator=generator)
    torch.testing.assert_close(functions.averaging(x, x @ w, torch.eye(2)[None])[0], w, atol=0.05, rtol=0)


def test_gradient_descent_begins_at_zero_and_ends_at_least_squares():
    p = prompts(9)
    assert (functions.gradient_descent(*p[:3], steps=0) == 0).all()
    torch.testing.assert_close(
        functions.gradient_descent(*p[:3], steps=3000), functions.least_squares(*p[:3]), atol=1e-5, rtol=0
    )
    one = functions.gradient_descent(*p[:3], steps=1)
    size = 1 / np.linalg.eigvalsh((p.x.mT @ p.x).numpy())[:, -1]
    by_hand = (p.query @ (torch.from_numpy(size)[:, None, None] * p.x.mT @ p.y[..., None]))[..., 0]
    torch.testing.assert_close(one, by_hand)


@pytest.mark.parametrize(
    "algorithm",
    [
        functions.zero,
        functions.least_squares,
        functions.averaging,
        functions.nearest,
        partial(functions.ridge, noise=0.3),
        partial(functions.sparse_bayes, noise=0.3, nonzero=2),
        partial(functions.gradient_descent, steps=3),
        partial(functions.fitted, model=LinearRegression),
        partial(functions.transformer, model=Regressor(CONFIG)),
        partial(functions.transformer, model=Interleaved(ROTARY)),
    ],
)
def test_every_algorithm_answers_without_examples(algorithm):
    cast = Prompts(*(each.float() for each in prompts(4))).first(0)
    answers = algorithm(*cast[:3])
    assert answers.shape == (5, 2)
    if not isinstance(getattr(algorithm, "keywords", {}).get("model"), Regressor):
        assert (answers == 0).all()


def test_fitted_is_the_estimator():
    p = prompts(6)
    ours = functions.fitted(*p[:3], model=lambda: Ridge(alpha=0.25, fit_intercept=False))
    torch.testing.assert_close(ours, functions.ridge(*p[:3], noise=0.5))


# The transformer


def random_prompts(n=5, m=3, seed=0):
    generator = seeded(seed)
    return (
        torch.randn(4, n, 3, generator=generator),
        torch.randn(4, n, generator=generator),
        torch.randn(4, m, 3, generator=generator),
    )


def build(kind):
    torch.manual_seed(0)
    model = kind(ROTARY if kind is Interleaved else CONFIG)
    for parameter in model.parameters():  # far from the small first weights, so that all parts matter
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", [Regressor, Interleaved])
@torch.no_grad()
def test_in_training_each_x_is_answered_from_the_examples_before_it(kind):
    model = build(kind)
    x, y, _ = random_prompts()
    together = model(x, y)
    assert together.shape == y.shape
    for i in range(5):
        alone = model(x[:, :i], y[:, :i], x[:, i : i + 1])[:, 0]
        torch.testing.assert_close(together[:, i], alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Regressor, Interleaved])
@torch.no_grad()
def test_questions_do_not_see_each_other(kind):
    model = build(kind)
    x, y, query = random_prompts()
    together = model(x, y, query)
    alone = torch.cat([model(x, y, query[:, i : i + 1]) for i in range(3)], 1)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Regressor, Interleaved])
@torch.no_grad()
def test_answers_depend_on_every_example(kind):
    model = build(kind)
    x, y, query = random_prompts()
    before = model(x, y, query)
    for i in range(5):
        changed = y.clone()
        changed[:, i] += 1
        assert (model(x, changed, query) - before).abs().min() > 1e-6


def test_slope_is_the_change_of_the_answer():
    model = build(Regressor).double()
    x, y, query = (each.double() for each in random_prompts())
    slopes = functions.slope(model, x, y, query)
    step = 1e-5 * torch.eye(3, dtype=torch.float64)[1]
    ahead, back = (functions.transformer(x, y, query + s, model=model) for s in (step, -step))
    torch.testing.assert_close(slopes[..., 1], (ahead - back) / 2e-5, atol=1e-6, rtol=1e-5)
    assert not query.requires_grad


def test_errors_by_number_of_examples():
    p = prompts(6)
    found = functions.errors(functions.least_squares, p, (0, 2, 6))
    assert found.shape == (5, 3)
    torch.testing.assert_close(found[:, 0], p.truth.square().mean(1))
    last = functions.least_squares(*p[:3])
    torch.testing.assert_close(found[:, 2], (last - p.truth).square().mean(1))


def test_squared_error_is_that_of_the_lesson():
    model = build(Regressor)
    lesson = functions.lesson(6, seeded(), family=functions.Family(functions.linear, 3, 4, noise=0.1))
    assert lesson.shape == (6, 4, 4)
    x, y = lesson[..., :3], lesson[..., 3]
    third = functions.transformer(x[:, :2], y[:, :2], x[:, 2:3], model=model)[:, 0]
    by_hand = (third - y[:, 2]).square().mean()
    each = (model(x, y) - y).square()
    torch.testing.assert_close(functions.squared_error(model, lesson), each.mean())
    torch.testing.assert_close(each[:, 2].mean(), by_hand)


def test_evaluation_compares_on_the_same_prompts():
    family = functions.Family(functions.linear, 3, 8, noise=0.2)
    found = functions.evaluate(build(Regressor), family)
    assert set(found) == {
        f"{who}, {n} examples" for who in ("model", "ridge", "3 nearest") for n in (3, 6, 8)
    }
    drawn = functions.draw(family, 2000, seeded(1), m=4)
    best = functions.errors(partial(functions.ridge, noise=0.2), drawn, (6,)).mean()
    assert found["ridge, 6 examples"] == pytest.approx(best.item())
    assert found["ridge, 8 examples"] < found["ridge, 6 examples"] < found["3 nearest, 6 examples"]


@pytest.mark.parametrize("kind", [Regressor, Interleaved])
def test_bad_input_is_named(kind):
    model = build(kind)
    with pytest.raises(ValueError, match="x: 2 coordinates, expected 3"):
        model(torch.zeros(1, 4, 2), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="m=0"):
        functions.draw(FAMILIES["linear-5"], 2, seeded(), m=0)
    with pytest.raises(ValueError, match=r"config.rotary=False"):
        Interleaved(CONFIG)
