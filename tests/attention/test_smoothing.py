"""Attention as smoothing: bounds, kernel regression, tables, and how sharply heads attend."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch.testing import assert_close

from course_lib import lm, readouts
from course_lib.attention import smoothing
from course_lib.attention.smoothing import Table

D = torch.float64
SCORES = st.lists(st.floats(-5, 5), min_size=2, max_size=8)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def a_table(n=30, m=20, d=4, classes=3):
    labels = torch.randint(classes, (n + m,), generator=torch.Generator().manual_seed(1))
    values = torch.eye(classes, dtype=D)[labels]
    return Table(randn(n, d), values[:n], randn(m, d, seed=2), values[n:])


# The bound


def test_the_bound_of_the_example():
    scores = torch.tensor([2, 1, 0.5], dtype=D)
    assert smoothing.sharpness_bound(scores, 3).item() == pytest.approx(2 * math.exp(-3))
    assert smoothing.sharpness_bound(scores.flip(0), 0).item() == 2


@given(SCORES, st.floats(0, 50))
def test_the_bound_holds_and_is_reached_within_its_factor(scores, c):
    z = torch.tensor(scores, dtype=D)
    bound, rest = smoothing.sharpness_bound(z, c), 1 - (c * z).softmax(-1).amax(-1)
    assert rest <= bound * (1 + 1e-9) + 1e-12
    assert rest >= bound / (len(z) - 1) / (1 + bound) * (1 - 1e-9) - 1e-12  # one score is at the gap Δ


@given(st.floats(0.1, 3), st.integers(2, 9))
def test_the_bound_is_tight_when_all_others_tie(gap, n):
    z = torch.zeros(n, dtype=D)
    z[0] = gap
    c = 20 / gap
    rest = (c * z).softmax(-1)[1:].sum()
    assert_close(smoothing.sharpness_bound(z, c), rest, rtol=1e-6, atol=0)


def test_the_bound_has_one_value_for_each_row():
    z = randn(4, 3, 6)
    bound = smoothing.sharpness_bound(z, 2.0)
    assert bound.shape == (4, 3)
    assert_close(bound[2, 1], smoothing.sharpness_bound(z[2, 1], 2.0))


@pytest.mark.parametrize("scores", [torch.tensor(1.0), torch.zeros(1), torch.zeros(3, 0)])
def test_the_bound_needs_two_scores(scores):
    with pytest.raises(ValueError, match="scores: expected at least two"):
        smoothing.sharpness_bound(scores, 1)


@pytest.mark.parametrize("c", [-1, math.inf, math.nan])
def test_the_bound_needs_a_finite_temperature(c):
    with pytest.raises(ValueError, match=f"c={c}: expected a finite number"):
        smoothing.sharpness_bound(torch.zeros(2), c)


# Distances and inner products


@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0.1, 20))
def test_softmax_with_the_norm_as_a_coordinate_is_the_gaussian_kernel(seed, d, c):
    queries, keys, values = randn(5, d, seed=seed), 3 * randn(7, d, seed=seed + 1), randn(7, 2)
    expected = readouts.distance_softmax(queries, keys, values, c=c)
    got = readouts.softmax(*smoothing.with_norm(queries, keys), values, c=c)
    assert_close(got, expected, atol=1e-9, rtol=1e-9)
    plain = smoothing.with_norm(queries[0, None], keys)
    assert_close(
        (plain[0] @ plain[1].T)[0], -(queries[0] - keys).square().sum(-1) / 2 + queries[0] @ queries[0] / 2
    )


def nadaraya_watson(query, keys, values, variance):
    """Written from the definition, one query at a time."""
    kernel = [
        math.exp(-sum((q - k) ** 2 for q, k in zip(query, key, strict=True)) / 2 / variance) for key in keys
    ]
    return [
        sum(w * v for w, v in zip(kernel, column, strict=True)) / sum(kernel)
        for column in zip(*values, strict=True)
    ]


@pytest.mark.parametrize("c", [0.0001, 0.3, 1.0, 7.0])
def test_predictions_are_a_kernel_regression(c):
    table = a_table()
    outputs, weights = smoothing.predict(table, c=c)
    expected = [
        nadaraya_watson(q, table.keys.tolist(), table.values.tolist(), 1 / c) for q in table.queries.tolist()
    ]
    assert_close(outputs, torch.tensor(expected, dtype=D), atol=1e-12, rtol=0)
    assert weights.shape == (20, 30)


def test_equal_norms_make_softmax_the_gaussian_kernel_and_others_do_not():
    table = a_table()
    ball = Table(table.keys / table.keys.norm(dim=-1, keepdim=True), table.values, table.queries, table.truth)
    for one, same in ((ball, True), (table, False)):
        difference = (
            smoothing.predict(one, readouts.softmax, c=2.0)[1] - smoothing.predict(one, c=2.0)[1]
        ).abs()
        assert (difference.max() < 1e-12) == same


# Leave one out


@pytest.mark.parametrize(
    "readout", [partial(readouts.distance_softmax, c=1.3), partial(readouts.k_nearest, k=3)]
)
def test_leave_one_out_is_a_prediction_from_the_others(readout):
    table = a_table(n=12)
    outputs = smoothing.leave_one_out(table, readout)
    for i in range(12):
        others = torch.arange(12) != i
        alone = Table(table.keys[others], table.values[others], table.keys[i, None], table.values[i, None])
        assert_close(outputs[i, None], smoothing.predict(alone, readout)[0])


def test_the_choice_is_the_best_and_the_first_of_equals():
    table = a_table(n=40, classes=2)
    grid = [0.0, 0.3, 1.0, 3.0, 1e9]
    scores = [smoothing.row_scores(smoothing.leave_one_out(table, c=c), table.values).mean() for c in grid]
    assert scores[int(np.argmax(scores))] > min(scores)
    assert smoothing.choose(table, grid) == grid[int(np.argmax(scores))]
    assert smoothing.choose(table, grid[::-1]) == grid[4 - int(np.argmax(scores[::-1]))]
    constant = Table(table.keys, torch.tensor([[1.0, 0]], dtype=D).expand(40, 2), table.queries, table.truth)
    assert smoothing.choose(constant, [3.0, 1.0]) == 3
    with pytest.raises(ValueError, match="grid is empty: expected at least one k"):
        smoothing.choose(table, [], readouts.k_nearest, "k")


# scikit-learn


@pytest.mark.parametrize("name", smoothing.TABLES)
def test_at_large_c_it_is_the_nearest_neighbour_of_scikit_learn(name):
    table = smoothing.load_table(name)
    outputs, weights = smoothing.predict(table, c=1e9)
    assert weights.amax(-1).min() > 1 - 1e-9
    if table.values.shape[1] > 1:
        peer = KNeighborsClassifier(1).fit(table.keys, table.values.argmax(-1))
        assert outputs.argmax(-1).tolist() == peer.predict(table.queries).tolist()
    else:
        peer = KNeighborsRegressor(1).fit(table.keys, table.values)
        np.testing.assert_allclose(outputs, peer.predict(table.queries), rtol=1e-9)


def test_a_tie_is_shared_and_scikit_learn_takes_one():
    tie = Table(
        torch.tensor([[1.0], [-1.0], [5.0]], dtype=D),
        torch.tensor([[0.0, 1], [1, 0], [1, 0]], dtype=D),
        torch.zeros(1, 1, dtype=D),
        torch.tensor([[0.0, 1]], dtype=D),
    )
    assert_close(smoothing.predict(tie, c=1e6)[0], torch.tensor([[0.5, 0.5]], dtype=D))
    peer = KNeighborsClassifier(1).fit(tie.keys, tie.values.argmax(-1))
    assert peer.predict(tie.queries) == [1]  # the first row
    assert smoothing.predict(tie, c=1e6)[0].argmax() == 0  # the first class


@pytest.mark.parametrize(
    ("name", "shape"), [("digits", (898, 64, 10)), ("wine", (89, 13, 3)), ("diabetes", (221, 10, 1))]
)
def test_tables_are_halves_in_units_of_the_demonstrations(name, shape):
    table = smoothing.load_table(name)
    n, d, classes = shape
    assert table.keys.shape == (n, d)
    assert table.values.shape == (n, classes)
    assert len(table.queries) == len(table.truth) in (n, n + 1)
    assert_close(table.keys.mean(0), torch.zeros(d, dtype=D), atol=1e-9, rtol=0)
    assert set(table.keys.var(0, correction=0).round(decimals=9).tolist()) <= {0.0, 1.0}
    assert table.queries.mean(0).abs().max() > 1e-3  # its own mean would be another unit
    if classes > 1:
        assert ((table.values == 1).sum(-1) == 1).all()
        assert (table.values.mean(0) - table.truth.mean(0)).abs().max() < 0.02  # every class in both halves
    other = smoothing.load_table(name, seed=1)
    assert not torch.equal(other.values, table.values)
    assert torch.equal(smoothing.load_table(name).keys, table.keys)


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_rows_keep_their_answers(name):
    x, y = map(torch.from_numpy, smoothing.TABLES[name](return_X_y=True))
    table = smoothing.load_table(name)
    rows, answers = torch.cat([table.keys, table.queries]), torch.cat([table.values, table.truth])
    original, scaled = ((z - z.mean(0)) / z.std(0, correction=0) for z in (x, rows))
    nearest = torch.cdist(scaled, original).argmin(-1)
    assert sorted(nearest.tolist()) == list(range(len(x)))
    assert (answers.argmax(-1) if name == "wine" else answers[:, 0]).tolist() == y[nearest].tolist()


def test_there_is_no_other_table():
    with pytest.raises(ValueError, match="name='iris': expected one of digits, wine, diabetes"):
        smoothing.load_table("iris")


# Scores


def test_scores_are_accuracy_or_explained_variance():
    truth = torch.eye(3)[[0, 1, 2, 2]]
    outputs = torch.tensor([[0.6, 0.2, 0.2], [0.5, 0.4, 0.1], [0, 0, 1], [0.3, 0.3, 0.4]])
    assert smoothing.row_scores(outputs, truth).tolist() == [1, 0, 1, 1]
    y = torch.tensor([[0.0], [2], [4], [6]], dtype=D)  # variance 5
    scores = smoothing.row_scores(torch.tensor([[0.0], [3], [4], [4]]), y)
    assert_close(scores, torch.tensor([1, 0.8, 1, 0.2], dtype=D))
    assert smoothing.row_scores(y.mean(0).expand(4, 1), y).mean().item() == pytest.approx(0)


@pytest.mark.parametrize("shape", [(4, 1), (3, 3), (4,)])
def test_scores_need_outputs_like_the_truth(shape):
    with pytest.raises(ValueError, match=r"outputs: got shape .*, expected \(4, 3\)"):
        smoothing.row_scores(torch.zeros(shape), torch.eye(4)[:, :3])


@given(st.integers(1, 20), st.sampled_from([0.0, 0.5, 20.0]))
def test_bias_and_variance_sum_to_the_squared_error(size, c):
    table = Table(randn(20, 2), randn(20, 1, seed=3), randn(15, 2, seed=4), randn(15, 1, seed=5))
    bias, variance = smoothing.bias_variance(table, c, size, draws=6)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(6):
        rows = torch.randperm(20, generator=generator)[:size]
        part = Table(table.keys[rows], table.values[rows], table.queries, table.truth)
        errors.append(1 - smoothing.row_scores(smoothing.predict(part, c=c)[0], table.truth).mean())
    assert bias + variance == pytest.approx(float(np.mean(errors)))
    assert (variance > 1e-12) == (size < 20)  # all sets of 20 are the same


@pytest.mark.parametrize("size", [0, 21])
def test_sets_are_as_large_as_the_table_at_most(size):
    table = Table(randn(20, 2), randn(20, 1), randn(5, 2), randn(5, 1))
    with pytest.raises(ValueError, match=f"size={size}: expected 1 to 20 demonstrations"):
        smoothing.bias_variance(table, 1.0, size)


# Weights


@given(st.integers(1, 6), st.integers(0, 5))
def test_equal_weights_on_m_keys_are_m_neighbours(m, unused):
    weights = torch.tensor([1 / m] * m + [0.0] * unused, dtype=D)
    assert smoothing.effective_neighbours(weights).item() == pytest.approx(m)


@given(SCORES, st.floats(0, 5), st.floats(0.1, 5))
def test_sharper_weights_have_fewer_neighbours(scores, c, more):
    z = torch.tensor(scores, dtype=D)
    assume(z.max() - z.min() > 1e-3)
    few, many = (smoothing.effective_neighbours((by * z).softmax(-1)) for by in (c + more, c))
    assert 1 - 1e-9 <= few < many + 1e-9 <= len(z) + 1e-6


def test_the_first_token_can_be_left_out():
    weights = torch.tensor([[0.9, 0.06, 0.03, 0.01]])
    assert_close(smoothing.without_first(weights), torch.tensor([[0.6, 0.3, 0.1]]))


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=6), st.floats(0, 4))
def test_the_spread_is_that_of_the_scores_that_are_seen(scores, c):
    z = torch.tensor([*scores, 7.0], dtype=D)
    visible = torch.tensor([True] * len(scores) + [False])
    weights = (c * z).masked_fill(~visible, -torch.inf).softmax(-1)
    got = smoothing.spread(weights, visible)
    assert got.item() == pytest.approx(c * np.std(scores), abs=1e-6)


def test_the_common_token_is_the_same_for_all_queries():
    fixed = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.7, 0.1]])  # (P, T)
    moving = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    weights = torch.stack([fixed, moving], 1)[None, None]  # (1, 1, P, heads, T)
    assert_close(smoothing.common(weights), torch.tensor([[[0.75, 0.5]]]))


# Heads


PROMPTS = [[0, 5, 9, 4, 7, 3], [0, 8, 8, 1, 2, 6], [0, 5, 9, 11, 12, 13]]


def test_attended_are_the_weights_that_lm_forward_reads(tiny):
    weights, visible = smoothing.attended(tiny, PROMPTS, last=3)
    assert weights.shape == (3, tiny.n_layers, 3, tiny.n_heads, 6)
    assert visible[:, 0].tolist() == [[True] * 4 + [False] * 2, [True] * 5 + [False], [True] * 6]
    seen = visible[:, None].expand(3, 1, 1, 6).permute(1, 0, 2, 3)  # (1, P, 1, T)
    assert (weights.masked_select(~seen.expand_as(weights)) == 0).all()
    assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=D), atol=1e-5, rtol=0)
    read = lm.Read(attention=[1], positions=[4])
    assert_close(weights[:, 1, 1].float(), lm.forward(tiny, PROMPTS, read).attention[:, 0, 0])


def test_attended_needs_one_length(llama):
    with pytest.raises(ValueError, match=r"prompts: expected all of one length, got \[2, 3\]"):
        smoothing.attended(llama, [[1, 2, 3], [1, 2]], last=1)
    with pytest.raises(ValueError, match="position -4 is outside"):
        smoothing.attended(llama, [[1, 2, 3]], last=4)
    with pytest.raises(ValueError, match="last=0: expected at least one position"):
        smoothing.attended(llama, [[1, 2, 3]], last=0)


def test_a_factor_of_one_changes_nothing_and_zero_averages(tiny):
    usual = lm.token_losses(tiny, PROMPTS)
    assert_close(lm.token_losses(tiny, PROMPTS, smoothing.tempered(tiny, 1)), usual, atol=1e-4, rtol=0)
    uniform = [lm.Attend(layer, readouts.uniform) for layer in range(tiny.n_layers)]
    flat = lm.token_losses(tiny, PROMPTS, smoothing.tempered(tiny, 0))
    assert_close(flat, lm.token_losses(tiny, PROMPTS, uniform), atol=1e-4, rtol=0)
    sharp = lm.token_losses(tiny, PROMPTS, smoothing.tempered(tiny, 50))
    for changed in (flat, sharp):
        assert (changed - usual).abs().max() > 1e-4


@pytest.mark.parametrize("factor", [-1, math.inf])
def test_a_factor_is_finite_and_not_negative(llama, factor):
    with pytest.raises(ValueError, match=f"factor={factor}: expected a finite number"):
        smoothing.tempered(llama, factor)
