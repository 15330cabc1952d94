"""The dual form: identities, constructed layers, and closed forms held against sampling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.learning import duality
from course_lib.scratch.training import Recipe, train

SHAPES = {"n": st.integers(1, 7), "d": st.integers(1, 5), "seed": st.integers(0, 99)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prompt(n, d, B=3, m=2, seed=0):
    """Examples and questions in float64."""
    x, query = random(B, n, d, seed=seed), random(B, m, d, seed=seed + 1)
    return x, random(B, n, seed=seed + 2), query


# The dual form


@given(**SHAPES)
@settings(max_examples=30)
def test_attention_without_softmax_is_the_update(n, d, seed):
    values, keys, queries = random(n, 3, seed=seed), random(n, d, seed=seed + 1), random(4, d, seed=seed + 2)
    by_hand = torch.stack([sum(v * (k @ q) for v, k in zip(values, keys, strict=True)) for q in queries])
    attended = duality.linear_attention(values, keys, queries)
    torch.testing.assert_close(attended, by_hand, atol=1e-10, rtol=0)
    torch.testing.assert_close(queries @ duality.as_update(values, keys).T, by_hand, atol=1e-10, rtol=0)


@given(**SHAPES)
@settings(max_examples=30)
def test_a_step_of_gradient_descent_is_the_update(n, d, seed):
    W = random(3, d, seed=seed).requires_grad_()
    inputs, targets = random(n, d, seed=seed + 1), random(n, 3, seed=seed + 2)
    outputs = inputs @ W.T
    gradient, at_outputs = torch.autograd.grad((outputs - targets).pow(4).sum(), (W, outputs))
    torch.testing.assert_close(
        -0.1 * gradient, duality.as_update(-0.1 * at_outputs, inputs), atol=1e-10, rtol=1e-12
    )


# One layer is one step


@given(**SHAPES, layers=st.integers(1, 4))
@settings(max_examples=30)
def test_constructed_layers_are_steps(n, d, seed, layers):
    x, y, query = prompt(n, d, seed=seed)
    sizes = 0.3 * random(layers, seed=seed + 3).abs()
    P = random(d, d, seed=seed + 4)
    P = P @ P.T / d
    for preconditioner in (None, P):
        by_layer = duality.attend_in_layers(*duality.construct(sizes, d, preconditioner), x, y, query)
        w = duality.descend(x, y, sizes, preconditioner)
        assert w.shape == (layers + 1, 3, d)
        torch.testing.assert_close(by_layer, torch.einsum("kbd,bmd->kbm", w[1:], query))


def test_a_step_goes_down_the_gradient():
    x, y, _ = prompt(6, 3)
    w = random(3, 3, seed=7)
    two = duality.descend(x, y, torch.tensor([0.2, 0.3]))
    w = two[1].clone().requires_grad_()
    loss = ((x @ w[..., None])[..., 0] - y).square().sum() / 12
    (gradient,) = torch.autograd.grad(loss, w)
    torch.testing.assert_close(two[2], two[1] - 0.3 * gradient)
    assert (two[0] == 0).all()


def test_gd_plus_plus_changes_the_inputs_before_the_next_step():
    x, y, query = prompt(6, 3)
    sizes, shrink = (
        torch.tensor([0.2, 0.3], dtype=torch.float64),
        torch.tensor([0.1, 0.7], dtype=torch.float64),
    )
    got = duality.attend_in_layers(*duality.construct(sizes, 3, shrink=shrink), x, y, query)[-1]
    first = torch.einsum("bni,bn->bi", x, y) / 6 * 0.2
    left, answer = y - torch.einsum("bni,bi->bn", x, first), torch.einsum("bmi,bi->bm", query, first)
    even = torch.eye(3, dtype=torch.float64) - 0.1 * x.mT @ x / 6
    x, query = x @ even, query @ even
    second = torch.einsum("bni,bn->bi", x, left) / 6 * 0.3
    torch.testing.assert_close(got, answer + torch.einsum("bmi,bi->bm", query, second))


def test_questions_do_not_matter_to_each_other():
    x, y, query = prompt(5, 3, m=4)
    V, K = random(2, 4, 4), random(2, 4, 4, seed=1)
    together = duality.attend_in_layers(V, K, x, y, query)
    alone = torch.cat([duality.attend_in_layers(V, K, x, y, query[:, i : i + 1]) for i in range(4)], -1)
    torch.testing.assert_close(together, alone)


def test_a_module_is_its_layers():
    model = duality.LinearSelfAttention(3, layers=2).double()
    x, y, query = prompt(5, 3)
    by_layer = duality.attend_in_layers(model.value, model.key_query, x, y, query)
    torch.testing.assert_close(model(x, y, query), by_layer[-1])
    assert not torch.equal(by_layer[0], by_layer[1])


# Closed forms


def test_the_best_step_is_that_of_von_oswald():
    size, loss = duality.best_step(10, 10, 1 / 12, 1 / 80)
    assert size == pytest.approx(6.0606, abs=1e-4)
    assert loss == pytest.approx(0.2062, abs=1e-4)


@pytest.mark.parametrize(("d", "n"), [(2, 3), (4, 10)])
def test_the_best_step_is_best_by_sampling(d, n):
    x = random(200_000, n + 1, d)  # E x² = 1, E x⁴ = 3
    w = random(200_000, d, seed=1)
    y = torch.einsum("bni,bi->bn", x, w)
    step = torch.einsum("bni,bn->bi", x[:, :-1], y[:, :-1]) / n
    answer = (step * x[:, -1]).sum(-1)
    size, loss = duality.best_step(d, n, 1.0, 3.0)
    fitted = (answer * y[:, -1]).mean() / answer.square().mean()  # least squares of y on the answer
    assert size == pytest.approx(fitted.item(), rel=0.02)
    assert loss == pytest.approx(((size * answer - y[:, -1]) ** 2).mean().item() / 2, rel=0.02)


def test_the_best_preconditioner_has_no_gradient():
    root = random(4, 4)
    covariance = root @ root.T
    P = duality.best_preconditioner(covariance, 6)
    best = duality.expected_loss(P, covariance, 6)
    for seed in range(20):
        other = 0.01 * random(4, 4, seed=seed)
        assert duality.expected_loss(P + other + other.T, covariance, 6) > best


def test_the_best_preconditioner_of_an_even_covariance_is_the_best_step():
    P = duality.best_preconditioner(torch.eye(5, dtype=torch.float64), 10)
    size, loss = duality.best_step(5, 10, 1.0, 3.0)
    torch.testing.assert_close(P, size * torch.eye(5, dtype=torch.float64))
    assert duality.expected_loss(P, torch.eye(5, dtype=torch.float64), 10) == pytest.approx(loss)


def test_the_expected_loss_is_that_of_sampling():
    covariance = torch.diag(torch.tensor([3.0, 0.5], dtype=torch.float64))
    P = torch.tensor([[0.2, 0.1], [0.1, 0.6]], dtype=torch.float64)
    x = random(200_000, 9, 2) @ covariance.sqrt()
    w = random(200_000, 2, seed=1)
    y = torch.einsum("bni,bi->bn", x, w)
    step = torch.einsum("bni,bn->bi", x[:, :-1], y[:, :-1]) / 8 @ P
    sampled = ((step * x[:, -1]).sum(-1) - y[:, -1]).square().mean() / 2
    assert duality.expected_loss(P, covariance, 8) == pytest.approx(sampled.item(), rel=0.02)


# Equal functions


def test_layers_of_equal_function_have_equal_tensors():
    V, K = random(4, 4), random(4, 4, seed=1)
    other_V, other_K = 2 * V, K / 2
    other_V[:-1], other_K[:, -1] = 5, 7  # neither reaches the answer of one layer
    torch.testing.assert_close(duality.function_of(V, K), duality.function_of(other_V, other_K))
    assert not torch.allclose(duality.function_of(V, K), duality.function_of(V.roll(1, 1), K))


def test_values_and_keys_may_change_places():
    """The answer holds both of them against the same sum over examples."""
    u, v, c = random(3, 4)
    one, two = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    one[-1], two[-1] = u, v
    K_one, K_two = torch.outer(v, c), torch.outer(u, c)
    x, y, query = prompt(6, 3)
    first = duality.attend_in_layers(one[None], K_one[None], x, y, query)
    torch.testing.assert_close(first, duality.attend_in_layers(two[None], K_two[None], x, y, query))
    torch.testing.assert_close(duality.function_of(one, K_one), duality.function_of(two, K_two))


def test_the_function_of_a_layer_gives_its_answers():
    V, K = random(4, 4), random(4, 4, seed=1)
    x, y, query = prompt(6, 3)
    z = torch.cat([x, y[..., None]], -1)
    answers = -torch.einsum("pqc,bnp,bnq,bmc->bm", duality.function_of(V, K), z, z, query) / 6
    torch.testing.assert_close(answers, duality.attend_in_layers(V[None], K[None], x, y, query)[-1])


def test_a_trained_layer_finds_the_construction():
    def draw(B, generator):
        x = torch.randn(B, 7, 2, generator=generator)
        return torch.cat([x, x @ torch.randn(B, 2, 1, generator=generator)], -1)

    def loss(model, batch):
        answers = model(batch[:, :-1, :-1], batch[:, :-1, -1], batch[:, -1:, :-1])[:, 0]
        return (answers - batch[:, -1, -1]).square().mean()

    torch.manual_seed(0)
    model = duality.LinearSelfAttention(2)
    train(model, draw, Recipe(300, 512, lr=0.02, weight_decay=0), loss=loss)
    ours = duality.function_of(model.value[0], model.key_query[0]).flatten()
    theirs = duality.function_of(*(part[0] for part in duality.construct(torch.ones(1), 2))).flatten()
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
    size, _ = duality.best_step(2, 6, 1.0, 3.0)
    assert (ours.norm() / theirs.norm()).item() == pytest.approx(size, rel=0.1)
