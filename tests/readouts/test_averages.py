"""Readouts: known answers, the identities between them, masks, batches, gradients and bad input."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsRegressor

from course_lib.readouts import (
    averages,
    distance_softmax,
    k_nearest,
    onto_hull,
    onto_simplex,
    softmax,
    sparsemax,
    uniform,
    unit_norm,
)
from course_lib.readouts.hull import project

D = torch.float64
READOUTS = {
    "softmax": softmax,
    "sharp softmax": partial(softmax, c=3.0),
    "distance_softmax": distance_softmax,
    "sparsemax": sparsemax,
    "unit_norm": unit_norm,
    "uniform": uniform,
    "hull": onto_hull,
    "sparse hull": partial(onto_hull, max_support=2),
}
every = pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


Q, K, V = randn(2, 3, 5, 4), randn(2, 3, 6, 4, seed=1), randn(2, 3, 6, 7, seed=2)
MASK = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(3)) < 0.6
MASK[..., 0] = True


@every
def test_weights_average_the_values_query_by_query(readout):
    outputs, weights = readout(Q, K, V, MASK)
    assert outputs.shape == (2, 3, 5, 7)
    assert weights.shape == (2, 3, 5, 6)
    torch.testing.assert_close(outputs, weights @ V)
    total = weights.norm(dim=-1) if readout is unit_norm else weights.sum(-1)
    torch.testing.assert_close(total, torch.ones(2, 3, 5, dtype=D))
    assert (weights >= 0).all()
    assert (weights[~MASK.expand_as(weights)] == 0).all()
    for where in [(0, 0, 1), (1, 2, 4)]:  # the same as alone, with only the keys it may use
        b, h, i = where
        may = MASK[b, 0, i]
        alone = readout(Q[b, h, i : i + 1], K[b, h, may], V[b, h, may])
        torch.testing.assert_close(outputs[b, h, i], alone[0][0])
        torch.testing.assert_close(weights[b, h, i, may], alone[1][0])


@every
def test_keys_shared_by_a_batch(readout):
    outputs, weights = readout(Q, K[0, 0], V[0, 0])
    full = readout(Q, K[0, 0].expand_as(K), V[0, 0].expand_as(V))
    torch.testing.assert_close(outputs, full[0])
    torch.testing.assert_close(weights, full[1])


@every
def test_differentiable(readout):
    inputs = [x[0, 0].clone().requires_grad_() for x in (Q, K, V)]
    assert torch.autograd.gradcheck(lambda q, k, v: readout(q, k, v, MASK[0, 0])[0], inputs)


def test_softmax_is_scaled_dot_product_attention():
    expected = torch.nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=MASK)
    torch.testing.assert_close(softmax(Q, K, V, MASK)[0], expected)


def test_temperatures():
    scores = torch.tensor([[2.0, 1, 0.5]])
    identity = torch.eye(3)
    for c, expected in [(0, [1 / 3] * 3), (1, [0.6285, 0.2312, 0.1402]), (10000, [1.0, 0, 0])]:
        weights = softmax(scores, identity, identity, c=c)[1]
        torch.testing.assert_close(weights, torch.tensor([expected]), atol=1e-4, rtol=0)


def test_distance_softmax_is_a_gaussian_kernel():
    kernel = (-2.5 * torch.cdist(Q, K).square() / 2).exp()
    expected = kernel / kernel.sum(-1, keepdim=True)
    torch.testing.assert_close(distance_softmax(Q, K, V, c=2.5)[1], expected)


def test_distances_far_from_the_origin():
    q, k, v = (x.float() for x in (Q, K, V))
    exact = distance_softmax(Q, K, V, c=1.0)[1]
    far = distance_softmax(q + 1024, k + 1024, v, c=1.0)[1]
    torch.testing.assert_close(far.double(), exact, atol=2e-3, rtol=0)  # of the numbers 1024 + k themselves


def test_uniform_does_not_look_at_the_scores():
    weights = uniform(1e300 * Q, 1e300 * K, V)[1]
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 6))


def test_one_temperature_for_each_head():
    c = torch.tensor([0.5, 1.0, 2.0], dtype=D)[:, None, None]
    for readout in (softmax, distance_softmax, sparsemax, unit_norm):
        torch.testing.assert_close(
            readout(Q, K, V, c=c)[1][:, 2], readout(Q[:, 2], K[:, 2], V[:, 2], c=2.0)[1]
        )


def test_unit_norm_is_softmax_in_another_length():
    weights, plain = unit_norm(Q, K, V)[1], softmax(Q, K, V)[1]
    torch.testing.assert_close(weights / weights.sum(-1, keepdim=True), plain)


def test_hull_is_the_projection():
    p = project(0.5 * Q[0, 0], K[0, 0])
    outputs, weights = onto_hull(Q[0, 0], K[0, 0], K[0, 0], scale=0.5)
    torch.testing.assert_close(weights, p.coordinates)
    torch.testing.assert_close(outputs, p.point)


@pytest.mark.parametrize("mask", [MASK, None])
def test_large_sets_of_keys_one_by_one(mask, monkeypatch):
    together = onto_hull(Q[:, :1], K, V, mask)
    monkeypatch.setattr(averages, "_LARGE", 0)
    for one, other in zip(onto_hull(Q[:, :1], K, V, mask), together, strict=True):
        torch.testing.assert_close(one, other)


@given(st.integers(1, 12), st.floats(0.01, 100), st.integers(0, 10**6))
def test_nearest_point_of_the_simplex_is_a_projection_onto_the_hull_of_the_corners(n, scale, seed):
    z = scale * randn(4, n, seed=seed)
    corners = torch.eye(n, dtype=D)
    torch.testing.assert_close(onto_simplex(z), project(z, corners).coordinates, rtol=0, atol=1e-9)


def test_simplex_known_answers():
    z = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0.5, 0.1, -5], [1e8, 1e8, 0], [0.3, -torch.inf, 0.1]])
    expected = torch.tensor([[1 / 3] * 3, [1, 0, 0], [0.7, 0.3, 0], [0.5, 0.5, 0], [0.6, 0, 0.4]])
    torch.testing.assert_close(onto_simplex(z), expected)


@every
def test_bad_input(readout):
    for arguments, message in [
        ((Q[0, 0, 0], K, V), "queries: expected two axes"),
        ((Q, K[..., :3], V), "keys: expected vectors of length 4"),
        ((Q, K, V[..., :5, :]), "values: expected one for each"),
        ((Q, K[..., :0, :], V[..., :0, :]), "values: expected one for each of at least one key"),
        ((Q, K, V, MASK.double()), "mask: expected booleans"),
        ((Q, K, V, MASK[..., :5]), "mask: expected booleans of shape"),
        ((Q, K, V, MASK & False), "mask: expected every query"),
        ((Q, K, V, MASK[:, :, :4]), "mask: expected booleans of shape"),
        ((Q, K[:, :2], V), "queries, keys, values: expected leading axes that broadcast"),
    ]:
        with pytest.raises(ValueError, match=message):
            readout(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every
def test_on_cuda(readout):
    outputs, _ = readout(*(x.cuda() for x in (Q, K, V, MASK)))
    torch.testing.assert_close(outputs.cpu(), readout(Q, K, V, MASK)[0])


def test_a_readout_takes_its_options_by_name():
    for name in ("softmax", "distance_softmax", "sparsemax", "unit_norm", "onto_hull"):
        with pytest.raises(TypeError):
            getattr(averages, name)(Q, K, V, None, 1.0)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_k_nearest_is_that_of_scikit_learn(k):
    queries, keys, values = randn(20, 4), randn(60, 4, seed=1), randn(60, 3, seed=2)
    outputs, weights = k_nearest(queries, keys, values, k=k)
    peer = torch.from_numpy(KNeighborsRegressor(k).fit(keys, values).predict(queries))
    torch.testing.assert_close(outputs, peer)
    assert ((weights > 0).sum(-1) == k).all()


@pytest.mark.parametrize("k", [0, 31])
def test_k_is_a_number_of_keys(k):
    x = randn(30, 4)
    with pytest.raises(ValueError, match=f"k={k}: expected 1 to 30 keys"):
        k_nearest(x, x, x, k=k)
    with pytest.raises(ValueError, match="k=30: expected 1 to 29 keys"):
        k_nearest(x, x, x, ~torch.eye(30, dtype=torch.bool), k=30)
