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
from course_lib.learning.functions import Interleaved, Regressor
from course_lib.scratch.transformer import Config
from course_lib.synthetic import regression
from course_lib.synthetic.regression import FAMILIES, Prompts

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
    lesson = functions.lesson(6, seeded(), family=regression.Family(regression.linear, 3, 4, noise=0.1))
    assert lesson.shape == (6, 4, 4)
    x, y = lesson[..., :3], lesson[..., 3]
    third = functions.transformer(x[:, :2], y[:, :2], x[:, 2:3], model=model)[:, 0]
    by_hand = (third - y[:, 2]).square().mean()
    each = (model(x, y) - y).square()
    torch.testing.assert_close(functions.squared_error(model, lesson), each.mean())
    torch.testing.assert_close(each[:, 2].mean(), by_hand)


def test_evaluation_compares_on_the_same_prompts():
    family = regression.Family(regression.linear, 3, 8, noise=0.2)
    found = functions.evaluate(build(Regressor), family)
    assert set(found) == {
        f"{who}, {n} examples" for who in ("model", "ridge", "3 nearest") for n in (3, 6, 8)
    }
    drawn = regression.draw(family, 2000, seeded(1), m=4)
    best = functions.errors(partial(functions.ridge, noise=0.2), drawn, (6,)).mean()
    assert found["ridge, 6 examples"] == pytest.approx(best.item())
    assert found["ridge, 8 examples"] < found["ridge, 6 examples"] < found["3 nearest, 6 examples"]


@pytest.mark.parametrize("kind", [Regressor, Interleaved])
def test_bad_input_is_named(kind):
    model = build(kind)
    with pytest.raises(ValueError, match="x: 2 coordinates, expected 3"):
        model(torch.zeros(1, 4, 2), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="m=0"):
        regression.draw(FAMILIES["linear-5"], 2, seeded(), m=0)
    with pytest.raises(ValueError, match=r"config.rotary=False"):
        Interleaved(CONFIG)
