"""Projections are exact on easy and on degenerate values, against other solvers, and differentiable."""

import math

import numpy as np
import pytest
import quadprog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from course_lib.readouts import hull
from course_lib.readouts.hull import project

D = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def lattice(ticks):
    return torch.cartesian_prod(ticks, ticks).to(D)


V = randn(16, 8)
Q = randn(50, 8, seed=1)
TWICE = torch.cat([V, V + 1e-7 * randn(16, 8, seed=2)])
FAMILIES = {
    "gaussian": (Q, V),
    "clustered": (Q, (randn(4, 1, 8) + 0.05 * randn(4, 6, 8, seed=2)).reshape(24, 8)),
    "common mean": (Q, 0.1 * V + 5),
    "inside": (V.mean(0) + 0.02 * Q, V),
    "inside a simplex": (randn(64, 64, seed=3).mean(0) + 0.02 * randn(50, 64), randn(64, 64, seed=3)),
    "duplicates": (Q, torch.cat([V, V])),
    "near duplicates": (Q, TWICE),
    "near duplicates far away": (Q + 1e4, TWICE + 1e4),
    "collinear": (Q, randn(20, 1) * randn(1, 8, seed=2) + randn(1, 8, seed=3)),
    "one value": (Q, V[:1]),
    "one value five times": (Q, V[:1].expand(5, 8)),
    "few values": (randn(50, 100), randn(5, 100, seed=2)),
    "many values": (randn(50, 3), randn(1000, 3, seed=2)),
    "many values around": (0.1 * randn(50, 3), randn(1000, 3, seed=2)),
    "at a vertex": (V[:10], V),
    "on an edge": ((V[:10] + V[1:11]) / 2, V),
    "tiny": (1e-8 * Q, 1e-8 * V),
    "huge": (1e8 * Q, 1e8 * V),
    "far queries": (1e6 * Q, V),
    "one dimension": (randn(50, 1), randn(10, 1, seed=2)),
    "grid": (lattice(torch.arange(-1.0, 5)), lattice(torch.arange(4.0))),
}


def relative_gap(queries, values, a):
    """The duality gap, computed anew from coordinates, over radius times distance (inside: radius)."""
    v, q = values.double(), queries.double()
    c = v.mean(-2, keepdim=True)
    w = v - c
    residual = (a.double()[..., None, :] @ w)[..., 0, :] - (q - c[..., 0, :])
    slopes = (w @ residual[..., None])[..., 0]
    gap = (a * slopes).sum(-1) - slopes.amin(-1)
    radius = w.norm(dim=-1).amax(-1).clamp_min(1e-300)
    distance = residual.norm(dim=-1)
    return gap / radius / torch.maximum(distance, 1e-3 * radius)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_optimal_in_float64(family, shared):
    q, v = FAMILIES[family]
    p = project(q, v if shared else v.expand(len(q), *v.shape))
    a = p.coordinates
    assert (a >= 0).all()
    assert relative_gap(q, v, a).max() <= 1e-12
    torch.testing.assert_close(a.sum(-1), torch.ones(len(q), dtype=D), rtol=0, atol=1e-14)
    scale = v.abs().max() + q.abs().max()
    torch.testing.assert_close(p.point / scale, a @ v / scale, rtol=0, atol=1e-14)
    assert (p.support == (a > 0)).all()
    assert (p.support.sum(-1) <= v.shape[1] + 1).all()
    assert (p.gap >= -1e-15 * scale**2).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_optimal_in_float32(family):
    q, v = (x.float() for x in FAMILIES[family])
    p = project(q, v)
    assert p.coordinates.dtype == p.point.dtype == torch.float32
    a = p.coordinates.double()
    assert relative_gap(q, v, a / a.sum(-1, keepdim=True)).max() <= 1e-5


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 10), st.floats(0, 3), st.integers(0, 10**6))
def test_agrees_with_nnls(n, d, spread, seed):
    v, q = randn(n, d, seed=seed), spread * randn(d, seed=seed + 1)
    w = (v - q).numpy()
    scale = np.linalg.norm(w, axis=1).max()
    b, _ = nnls(np.vstack([w.T, np.full(n, scale)]), np.append(np.zeros(d), scale))
    other = torch.tensor(b / b.sum()) @ v
    torch.testing.assert_close(project(q, v).point, other, rtol=1e-7, atol=1e-7)


@settings(max_examples=50)
@given(st.integers(1, 10), st.floats(0, 3), st.integers(0, 10**6))
def test_agrees_with_quadratic_programming(n, spread, seed):
    v, q = randn(n, n + 2, seed=seed), spread * randn(n + 2, seed=seed + 1)
    sum_and_signs, bounds = np.hstack([np.ones((n, 1)), np.eye(n)]), np.eye(n + 1)[0]
    a = quadprog.solve_qp((v @ v.T).numpy(), (v @ q).numpy(), sum_and_signs, bounds, meq=1)[0]
    torch.testing.assert_close(project(q, v).coordinates, torch.tensor(a), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("n", "d", "seed"), [(23, 3, 120), (21, 4, 151), (24, 3, 158), (19, 5, 268), (9, 2, 1)]
)
def test_optimal_on_lattices(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    v = torch.randint(-3, 4, (2000, n, d), generator=generator).to(D)
    q = torch.randint(-4, 5, (2000, d), generator=generator).to(D)
    p = project(q, v)
    assert relative_gap(q, v, p.coordinates).max() <= 1e-12
    assert p.support.sum(-1).max() <= d + 1


def test_queries_that_never_end_are_solved_one_by_one(monkeypatch):
    monkeypatch.setattr(hull, "_ROUNDS", -1000)
    for v in (V, V.expand(50, 16, 8)):
        assert relative_gap(Q, v, project(Q, v).coordinates).max() <= 1e-12


MASK = torch.rand(50, 16, generator=torch.Generator().manual_seed(4)) < 0.5
MASK[:, 3] = True
MASK[0] = torch.arange(16) == 3


@pytest.mark.parametrize("rounds", [hull._ROUNDS, -1000])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", ["gaussian", "inside", "inside a simplex", "duplicates"])
def test_a_mask_takes_values_away(family, shared, rounds, monkeypatch):
    monkeypatch.setattr(hull, "_ROUNDS", rounds)
    q, v = FAMILIES[family]
    mask = MASK.repeat(1, len(v) // 16)
    p = project(q, v if shared else v.expand(len(q), *v.shape), mask=mask)
    assert not (p.support & ~mask).any()
    for i in range(len(q)):
        alone = project(q[i], v[mask[i]])
        torch.testing.assert_close(p.point[i], alone.point, rtol=0, atol=1e-9)
        torch.testing.assert_close(p.gap[i], alone.gap, rtol=0, atol=1e-11)


def test_masked_values_may_be_anywhere():
    v = torch.tensor([[0.0, 0], [1, 0], [1e8, 1e8]], dtype=D)
    mask = torch.tensor([True, True, False])
    q = torch.tensor([[0.5, 0.5]], dtype=D)
    for values in (v, v[None]):
        p = project(q, values, mask=mask)
        torch.testing.assert_close(p.coordinates, torch.tensor([[0.5, 0.5, 0]], dtype=D))


@pytest.mark.parametrize("onto", ["affine", "hull"])
def test_equal_values_that_do_not_average_exactly(onto):
    for copies in (3, 5, 10):
        v = randn(200, 1, 2, seed=copies).expand(200, copies, 2)
        p = project(randn(200, 2, seed=1), v, onto)
        torch.testing.assert_close(p.point, v[:, 0])
        torch.testing.assert_close(p.coordinates.sum(-1), torch.ones(200, dtype=D))


def test_queries_as_far_as_numbers_go():
    far = project(1e30 * Q, V)
    best = (Q @ V.T).argmax(-1)
    torch.testing.assert_close(far.point, V[best])


@pytest.mark.parametrize("onto", ["span", "affine", "hull"])
def test_sets_of_very_different_sizes_in_one_batch(onto):
    v = torch.stack([1e8 * V[:3], 1e-8 * V[:3]])
    q = torch.stack([1e8 * Q[0], 1e-8 * Q[0]])
    both = project(q, v, onto).coordinates
    torch.testing.assert_close(both, project(Q[0], V[:3], onto).coordinates.expand(2, 3))
    assert project(q[:0], v[:0], onto).point.shape == (0, 8)


@pytest.mark.parametrize("k", [1, 2, None])
def test_the_gap_is_what_the_weights_say(k):
    p = project(Q, V, max_support=k)
    slopes = (p.point - Q) @ V.T
    expected = (p.coordinates * slopes).sum(-1) - slopes.amin(-1)
    torch.testing.assert_close(p.gap, expected, rtol=1e-9, atol=1e-13)
    assert (p.gap > 1e-3).any() == (k is not None)


def test_a_mask_for_all_queries():
    first = torch.arange(16) < 5
    torch.testing.assert_close(project(Q, V, mask=first).point, project(Q, V[:5]).point)
    few = project(Q, V, mask=first, max_support=2)
    torch.testing.assert_close(few.point, project(Q, V[:5], max_support=2).point)


@given(st.integers(0, 10**6))
def test_no_point_of_the_hull_is_nearer(seed):
    v, q = randn(12, 3, seed=seed), randn(3, seed=seed + 1)
    p = project(q, v)
    others = randn(200, 12, seed=seed + 2).mul(3).softmax(-1) @ v
    assert ((p.point - q).square().sum() <= (others - q).square().sum(-1) + 1e-12).all()


def test_known_answers():
    square = torch.tensor([[0.0, 0.0], [1, 0], [1, 1], [0, 1]])
    q = torch.tensor([[2.0, 0.5], [-1, -1], [0.5, 2], [0.25, 0.5]])
    nearest = torch.tensor([[1.0, 0.5], [0, 0], [0.5, 1], [0.25, 0.5]])
    torch.testing.assert_close(project(q, square).point, nearest)
    torch.testing.assert_close(project(q[0], square).coordinates, torch.tensor([0, 0.5, 0.5, 0]))


def test_span_and_plane_against_least_squares():
    v = randn(3, 8)
    span = torch.linalg.lstsq(v.T, Q.T).solution.T
    torch.testing.assert_close(project(Q, v, "span").coordinates, span)
    plane = project(Q, v, "affine")
    torch.testing.assert_close(plane.coordinates.sum(-1), torch.ones(50, dtype=D))
    torch.testing.assert_close((plane.point - Q) @ (v[1:] - v[0]).T, torch.zeros(50, 2, dtype=D))
    assert project(Q, v, "span").gap.max() < 1e-13
    assert plane.gap.max() < 1e-13


@pytest.mark.parametrize("n", [2, 5, 9, 16])
@pytest.mark.parametrize("onto", ["affine", "hull"])
def test_the_origin_does_not_matter(onto, n):
    for offset in (1.0, 5.0, 1e4):
        near, far = project(Q, V[:n], onto), project(Q + offset, V[:n] + offset, onto)
        torch.testing.assert_close(far.coordinates, near.coordinates, rtol=0, atol=1e-13 * (1 + offset))
        torch.testing.assert_close(far.point - offset, near.point, rtol=0, atol=1e-13 * (1 + offset))


@pytest.mark.parametrize("onto", ["span", "affine"])
def test_smallest_weights_of_dependent_values(onto):
    v = V[:1].expand(4, 8)
    p = project(V[0], v, onto)
    torch.testing.assert_close(p.coordinates, torch.full((4,), 0.25, dtype=D))
    torch.testing.assert_close(p.point, V[0])


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_few_vertices(k):
    p, full = project(Q, V, max_support=k), project(Q, V)
    distance = (p.point - Q).norm(dim=-1)
    assert (p.coordinates >= 0).all()
    assert p.support.sum(-1).max() <= k
    assert (distance >= (full.point - Q).norm(dim=-1) - 1e-12).all()
    assert (distance <= torch.cdist(Q, V).amin(-1) + 1e-12).all()
    if k == 1:
        torch.testing.assert_close(distance, torch.cdist(Q, V).amin(-1))


def test_more_vertices_come_nearer():
    v = randn(200, 60)
    q = v.mean(0) + 0.02 * randn(20, 60, seed=1)
    used = [project(q, v, max_support=k) for k in (35, 40, 45)]
    assert [p.support.sum(-1).max() <= k for p, k in zip(used, (35, 40, 45), strict=True)] == [True] * 3
    assert used[0].support.sum(-1).max() > 31
    assert (used[0].coordinates >= 0).all()
    distances = torch.stack([(p.point - q).norm(dim=-1).mean() for p in used])
    assert (distances.diff() < 0).all()


def test_large_limits_are_kept_and_small_ones_used_up():
    v = randn(500, 400)
    p = project(v.mean(0) + 0.01 * randn(2, 400, seed=1), v, max_support=201)
    assert p.support.sum(-1).max() <= 201
    q, v = 0.3 * randn(500, 10, seed=2), randn(30, 10, seed=3)
    for k in range(2, 10):
        p = project(q, v, max_support=k)
        assert p.support.sum(-1).max() <= k
        unused = (p.support.sum(-1) < k) & (p.gap > 1e-9)
        assert unused.double().mean() < 0.01


def test_greedy_choice_does_not_depend_on_progress(monkeypatch):
    v = randn(200, 60)
    q = v.mean(0) + 0.02 * randn(20, 60, seed=1)
    patient = project(q, v, max_support=35).coordinates
    monkeypatch.setattr(hull, "_PATIENCE", 0)
    torch.testing.assert_close(project(q, v, max_support=35).coordinates, patient)


@pytest.mark.parametrize("onto", ["span", "affine", "hull"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_gradients(onto, shared, inside):
    v = randn(9 if onto == "hull" else 3, 4)
    q = v.mean(0) + (0.1 if inside else 2) * randn(5, 4, seed=1)
    v = v if shared else v + 0.1 * randn(5, *v.shape, seed=2)
    q, v = q.requires_grad_(), v.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, v: project(q, v, onto)[:2], (q, v))


@pytest.mark.parametrize("inside", [True, False])
def test_second_derivatives(inside):
    v = randn(9, 4)
    q = v.mean(0) + (0.1 if inside else 2) * randn(2, 4, seed=1)
    assert torch.autograd.gradgradcheck(
        lambda q, v: project(q, v).point, (q.requires_grad_(), v.requires_grad_())
    )


def test_gradients_under_a_mask():
    q, v = Q[:6].clone().requires_grad_(), V.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda q, v: project(q, v, mask=MASK[:6])[:2], (q, v))


def test_any_batch_shape():
    q, v = randn(2, 3, 8), randn(2, 3, 16, 8, seed=1)
    p = project(q, v)
    assert [tuple(x.shape) for x in p] == [(2, 3, 16), (2, 3, 8), (2, 3), (2, 3, 16)]
    torch.testing.assert_close(p.point[1, 2], project(q[1, 2], v[1, 2]).point)
    assert project(randn(0, 8), V).point.shape == (0, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    p = project(Q.cuda(), V.cuda())
    torch.testing.assert_close(p.point.cpu(), project(Q, V).point)


@pytest.mark.parametrize(
    ("queries", "values", "options", "message"),
    [
        (Q, torch.zeros(0, 8), {}, "values: expected at least one"),
        (Q, V[:, :7], {}, "values: expected shape"),
        (Q, V.expand(49, 16, 8), {}, "values: expected shape"),
        (Q, V[0], {}, "values: expected floating"),
        (Q.long(), V, {}, "queries: expected floating"),
        (torch.tensor(1.0), V, {}, "queries: expected floating"),
        (Q * math.nan, V, {}, "queries: expected finite"),
        (Q, V / 0, {}, "values: expected finite"),
        (Q, V, {"onto": "simplex"}, "onto='simplex'"),
        (Q, V, {"max_support": 0}, "max_support=0"),
        (Q, V, {"max_support": 2, "onto": "span"}, "max_support=2"),
        (Q, V, {"max_support": 2.5}, "max_support=2.5: expected a positive integer"),
        (Q, V, {"mask": MASK, "onto": "affine"}, "mask: expected booleans that broadcast .* onto='affine'"),
        (Q, V, {"mask": MASK.double()}, "mask: expected booleans"),
        (Q, V, {"mask": MASK[:, :15]}, r"mask: expected booleans that broadcast to \(50, 16\)"),
        (Q[0], V, {"mask": MASK}, r"mask: expected booleans that broadcast to \(16,\)"),
        (Q, V, {"mask": MASK & False}, "mask: expected every query"),
    ],
)
def test_bad_input(queries, values, options, message):
    with pytest.raises(ValueError, match=message):
        project(queries, values, **options)
