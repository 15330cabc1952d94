"""Attention as projection: identities, known answers, and what the language model's heads compare."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from course_lib import readouts
from course_lib.attention import projection as pj
from course_lib.readouts import hull

D = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


V, Q = randn(8, 5), randn(5, seed=1)
EQUAL = torch.full((8,), 1 / 8, dtype=D)


@given(st.floats(0.01, 50), st.integers(0, 10**6))
def test_softmax_has_the_largest_objective_by_the_divergence(c, seed):
    z = randn(8, seed=seed)
    alpha, beta = (c * z).softmax(-1), randn(100, 8, seed=seed + 1).softmax(-1)
    short = pj.entropy_objective(alpha, z, c) - pj.entropy_objective(beta, z, c)
    assert_close(short, (beta * (beta / alpha).log()).sum(-1) / c, atol=1e-10, rtol=1e-10)


def test_the_entropy_of_a_corner_is_zero():
    assert pj.entropy_objective(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0]), 5.0) == 2.0


def test_slopes_are_the_gradient():
    alpha = randn(8, seed=2).softmax(-1).requires_grad_()
    ((alpha @ V - Q).square().sum() / 2).backward()
    assert_close(pj.slopes(alpha.detach(), Q, V), alpha.grad)


def test_first_steps_from_equal_weights():
    scores = 3.0 * V @ (Q - V.mean(0))
    assert_close(pj.exponentiated_gradient(EQUAL, Q, V, 3.0), scores.softmax(-1))
    assert_close(pj.projected_gradient(EQUAL, Q, V, 3.0), readouts.onto_simplex(scores))


@pytest.mark.parametrize("step", [pj.exponentiated_gradient, pj.projected_gradient])
def test_many_steps_lead_to_the_projection(step):
    alpha = EQUAL
    for _ in range(5000):
        alpha = step(alpha, Q, V, 0.05)
    assert_close(alpha @ V, hull.project(Q, V).point, atol=1e-3, rtol=0)


@settings(max_examples=20)
@given(st.floats(0.1, 8), st.integers(0, 10**6))
def test_the_entropic_projection_answers_to_itself(c, seed):
    q = randn(3, 5, seed=seed)
    alpha = pj.entropic_projection(q, V, c)
    assert_close(alpha, (c * (q - alpha @ V) @ V.T).softmax(-1), atol=1e-8, rtol=0)


def test_ends_of_the_entropic_projection():
    assert_close(pj.entropic_projection(Q, V, 1e-9), EQUAL)
    sharp = pj.entropic_projection(Q, V, 1e5, steps=20_000)
    assert_close(sharp @ V, hull.project(Q, V).point, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="c=0: expected a positive number"):
        pj.entropic_projection(Q, V, 0)


def test_families_are_what_they_say():
    orthonormal = pj.draw_values("orthonormal", 3, 6, 8, generator())
    assert_close(orthonormal @ orthonormal.mT, torch.eye(6, dtype=D).expand(3, 6, 6))
    for family, length in (("random", 1.0), ("clustered", 1.02), ("common mean", 10**0.5)):
        values = pj.draw_values(family, 500, 32, 16, generator())
        assert values.shape == (500, 32, 16)
        assert values.square().sum(-1).mean().sqrt().item() == pytest.approx(length, abs=0.1)
    clusters = pj.draw_values("clustered", 500, 32, 16, generator()).unflatten(1, (4, 8))
    within = (clusters - clusters.mean(2, keepdim=True)).square().sum(-1).mean()
    assert within.sqrt().item() == pytest.approx(0.2 * (7 / 8) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("family", "n"), [("orthonormal", 9), ("clustered", 10), ("gaussian", 8)])
def test_unknown_or_unsuitable_families(family, n):
    with pytest.raises(ValueError, match=f"family='{family}' with n={n}, d=8: expected one of orthonormal"):
        pj.draw_values(family, 2, n, 8, generator())


def test_errors_are_relative_to_the_mean():
    values = randn(20, 6, 4)
    queries = randn(20, 4, seed=1)
    assert_close(pj.relative_error(values.mean(1), queries, values), torch.ones(20, dtype=D))
    assert_close(pj.relative_error(queries, queries, values), torch.zeros(20, dtype=D))
    halfway = (values.mean(1) + queries) / 2
    assert_close(pj.relative_error(halfway, queries, values), torch.full((20,), 0.25, dtype=D))


def test_the_best_temperature():
    values = pj.draw_values("orthonormal", 50, 8, 8, generator())
    queries = values[:, 0]
    assert pj.best_temperature(readouts.softmax, queries, values, [0.1, 1, 100]) == 100
    assert pj.best_temperature(readouts.softmax, values.mean(1), values, [0.0, 1, 100]) == 0.0


def test_planted_values_are_found_where_they_can_be():
    values = pj.draw_values("orthonormal", 50, 8, 8, generator())
    queries, which = pj.plant(values, (0.6, 0.4), 0.0, generator())
    expected = torch.stack([0.6 * v[i] + 0.4 * v[j] for v, (i, j) in zip(values, which, strict=True)])
    assert_close(queries, expected)
    assert which[:, 0].unique().numel() == 8
    assert (which[:, 0] != which[:, 1]).all()
    alpha = pj.read(readouts.onto_hull, queries, values)[1]
    assert_close(alpha.gather(1, which), torch.tensor([[0.6, 0.4]], dtype=D).expand(50, 2))
    assert (pj.found(alpha, which) == 1).all()
    assert (pj.found(-alpha, which) == 0).all()
    noisy, _ = pj.plant(values, (0.6, 0.4), 0.5, generator())
    assert (noisy - queries).square().sum(-1).mean().sqrt().item() == pytest.approx(0.5, rel=0.2)


def test_found_counts_the_planted_share():
    alpha = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    assert pj.found(alpha, torch.tensor([[1, 0]])) == 1
    assert pj.found(alpha, torch.tensor([[3, 0]])) == 0.5


def test_the_other_solver_finds_the_same_point():
    assert_close(pj.nnls_weights(Q, V) @ V, hull.project(Q, V).point)


@pytest.mark.parametrize("task", ["recall", "mixture"])
def test_examples_have_the_answers_they_claim(task):
    examples = pj.draw_examples(task, 40, generator(), noise=0.0)
    assert [tuple(x.shape) for x in examples] == [(40, 1, 16), (40, 32, 16), (40, 32, 8), (40, 1, 8)]
    outputs, alpha = readouts.onto_hull(examples.queries, examples.keys, examples.values)
    assert_close(outputs, examples.targets, atol=1e-4, rtol=0)
    weights = alpha[:, 0].sort(-1, descending=True).values
    assert (weights[:, 2:] < 1e-4).all()
    assert (weights[:, 0].std() > 0.1) == (task == "mixture")


def test_noise_is_in_recall_only():
    for task, differs in (("recall", True), ("mixture", False)):
        still, noisy = (pj.draw_examples(task, 40, generator(), noise=x) for x in (0.0, 1.0))
        assert torch.equal(still.queries, noisy.queries) != differs
    with pytest.raises(ValueError, match="task='copy': expected 'recall' or 'mixture'"):
        pj.draw_examples("copy", 4, generator())


def test_training_helps_and_is_repeatable():
    fresh = pj.draw_examples("recall", 500, generator(5))
    before, _ = pj.answers(pj.LearnedReadout(readouts.distance_softmax, 2.0), fresh)
    model = pj.trained(readouts.distance_softmax, 2.0, "recall", steps=60)
    error, right = pj.answers(model, fresh)
    assert error < 0.7 * before
    assert right > 0.7
    again = pj.trained(readouts.distance_softmax, 2.0, "recall", steps=60)
    assert pj.answers(again, fresh) == (error, right)
    assert pj.trained(readouts.onto_hull, None, "recall", steps=1).log_c is None


def test_answers_of_the_truth_and_of_zero():
    fresh = pj.draw_examples("recall", 20, generator())
    assert pj.answers(lambda examples: examples.targets, fresh) == (0.0, 1.0)
    error, right = pj.answers(lambda examples: 0 * examples.targets, fresh)
    assert error == 1.0
    assert right < 0.3


def test_agreement_counts_keys_with_weight():
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1])
    for alpha, k, expected in [
        ([0.7, 0.2, 0.1, 0.0], 1, 1.0),
        ([0.0, 0.0, 1.0, 0.0], 1, 0.0),
        ([0.0, 0.0, 1.0, 0.0], 3, 1.0),  # the other two have no weight
        ([0.6, 0.0, 0.0, 0.4], 2, 0.5),
    ]:
        assert pj.agreement(torch.tensor(alpha), reference, k) == expected


def test_readouts_with_options_are_read_alike():
    values = randn(4, 6, 5)
    outputs, alpha = pj.read(partial(readouts.softmax, c=2.0), values[:, 0], values)
    assert outputs.shape == (4, 5)
    assert_close(alpha[1], (2.0 * values[1] @ values[1, 0]).softmax(-1))
