"""Functions of each family, and prompts that show their values."""

import pytest
import torch

from course_lib.learning import functions
from course_lib.synthetic import regression
from course_lib.synthetic.regression import FAMILIES

COUNT = 4000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("family", [FAMILIES["linear-5"], FAMILIES["sparse-8"]])
def test_linear_functions_are_linear(family):
    function = family.function(4, family.d, seeded())
    a, b = torch.randn(2, 4, 6, family.d, generator=seeded(1))
    torch.testing.assert_close(function(2 * a - b), 2 * function(a) - function(b), atol=1e-5, rtol=1e-5)


def test_sparse_functions_use_as_many_coordinates_as_said():
    function = regression.linear(200, 8, seeded(), nonzero=2)
    slopes = function(torch.eye(8).expand(200, 8, 8))
    assert ((slopes != 0).sum(1) == 2).all()
    assert (slopes != 0).any(0).all()  # at all places


def test_trees_depend_on_three_signs_and_have_eight_values():
    tree = regression.tree(50, 5, seeded())
    x = torch.randn(50, 300, 5, generator=seeded(1))
    values = tree(x)
    torch.testing.assert_close(tree(x.sign()), values)
    assert max(len(v.unique()) for v in values) == 8
    assert min(len(v.unique()) for v in values) >= 2


def test_a_tree_goes_left_at_negative_coordinates():
    tree = regression.tree(1, 1, seeded(), depth=1)
    low, high = tree(torch.tensor([[[-1.0], [1.0]]]))[0]
    generator = seeded()
    torch.randint(1, (1, 1), generator=generator)
    leaves = torch.randn(1, 2, generator=generator)[0]
    assert (low, high) == (leaves[0], leaves[1])


@pytest.mark.parametrize(
    ("name", "size"), [("linear-5", 5), ("sparse-8", 2), ("trees-5", 1), ("networks-8", 1)]
)
def test_values_are_as_large_as_said(name, size):
    drawn = regression.draw(FAMILIES[name], COUNT, seeded())
    assert drawn.truth.square().mean() == pytest.approx(size, rel=0.12)
    assert drawn.truth.mean() == pytest.approx(0, abs=0.1 * size**0.5)


def test_networks_are_not_linear_but_keep_scale():
    network = regression.network(4, 5, seeded())
    x = torch.randn(4, 6, 5, generator=seeded(1))
    torch.testing.assert_close(network(3 * x), 3 * network(x))
    assert (network(-x) + network(x)).abs().max() > 0.1


def test_a_prompt_shows_noisy_values_and_asks_for_the_true_one():
    family = FAMILIES["linear-5"]
    drawn = regression.draw(family, COUNT, seeded(), m=3)
    assert drawn.x.shape == (COUNT, 20, 5)
    assert drawn.y.shape == (COUNT, 20)
    assert drawn.query.shape == (COUNT, 3, 5)
    assert drawn.truth.shape == (COUNT, 3)
    w = torch.linalg.lstsq(drawn.query[:, :, :], drawn.truth[..., None]).solution  # any w of the right values
    fit = torch.linalg.lstsq(drawn.x, drawn.y[..., None])
    residual = (drawn.x @ fit.solution)[..., 0] - drawn.y
    assert (residual.square().sum(1) / (20 - 5)).mean().sqrt() == pytest.approx(0.3, rel=0.03)
    torch.testing.assert_close((drawn.query @ w)[..., 0], drawn.truth, atol=1e-3, rtol=1e-3)
    exact = regression.draw(family, 50, seeded(), noise=0.0)
    torch.testing.assert_close(functions.least_squares(*exact[:3]), exact.truth, atol=1e-3, rtol=1e-3)


def test_first_keeps_the_questions():
    drawn = regression.draw(FAMILIES["trees-5"], 3, seeded(), m=2)
    three = drawn.first(3)
    assert three.x.shape == (3, 3, 5)
    assert torch.equal(three.y, drawn.y[:, :3])
    assert torch.equal(three.query, drawn.query)


def test_changed_prompts():
    family, usual = FAMILIES["linear-8"], regression.draw(FAMILIES["linear-8"], COUNT, seeded(), m=2)
    scaled = regression.draw(family, COUNT, seeded(), m=2, scale=3.0)
    torch.testing.assert_close(scaled.x, 3 * usual.x)
    torch.testing.assert_close(scaled.truth, 3 * usual.truth)
    higher = regression.draw(family, COUNT, seeded(), m=2, scale_y=3.0)
    torch.testing.assert_close(higher.x, usual.x)
    torch.testing.assert_close(higher.truth, 3 * usual.truth)
    shifted = regression.draw(family, COUNT, seeded(), m=2, shift=2.0)
    offset = shifted.x - usual.x
    torch.testing.assert_close(offset, offset[:, :1].expand_as(offset), atol=1e-5, rtol=0)
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((COUNT, 32), 2.0), atol=1e-4, rtol=0)
    assert torch.equal(regression.draw(family, COUNT, seeded(), m=2, noise=1.0).truth, usual.truth)


def test_skewed_inputs_have_the_covariance_that_is_said():
    drawn = regression.draw(FAMILIES["linear-5"], 3000, seeded(), skewed=True)
    gram = drawn.x.mT @ drawn.x / 20
    assert gram.diagonal(dim1=1, dim2=2).sum(1).mean() == pytest.approx(5, rel=0.05)
    torch.testing.assert_close(
        gram.mean(0), torch.eye(5), atol=0.15, rtol=0
    )  # directions differ between prompts
    largest = torch.linalg.eigvalsh(gram)[:, -1].mean()
    assert largest == pytest.approx(5 / (1 + 1 / 4 + 1 / 9 + 1 / 16 + 1 / 25), rel=0.1)


def test_questions_come_from_the_other_half_space():
    drawn = regression.draw(FAMILIES["linear-5"], 300, seeded(), m=4, sides=True)
    between = drawn.x.mean(1)[:, None] - drawn.query.mean(1)[:, None]
    direction = torch.linalg.lstsq(drawn.x, torch.ones(300, 20, 1)).solution.mT  # points to the examples
    assert (drawn.x @ between.mT > 0).float().mean() > 0.85
    assert (drawn.query @ direction.mT < 0).float().mean() > 0.8
    torch.testing.assert_close(drawn.x.square().mean(), torch.tensor(1.0), atol=0.05, rtol=0)
