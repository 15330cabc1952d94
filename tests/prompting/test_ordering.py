"""Orders of demonstrations: what is measured of them, on known answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import lm
from course_lib.fewshot import Case, Format, orders, score
from course_lib.fewshot.classification import FORMATS
from course_lib.lm import sampling
from course_lib.prompting import ordering

FORMAT = Format("Q: {x}\nA: {y}", "\n\n", "Answer.\n")
CASE = Case([("ab", "no"), ("cde", "yes"), ("f", "no")], [("gh", "yes"), ("ij", "no")])
LABELS = ("no", "yes")


def slow(model, case, x):
    each = [FORMAT.tokens(model, case.demonstrations, x, label) for label in LABELS]
    return score(model, [each[0][0]], [[answer for _, answer in each]]).log_p[0].log_softmax(-1)


def log_p_of(answers, n_labels):
    """Log-probabilities whose most likely label is given, all as sure."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(answers), n_labels)
    return (2.0 * one_hot).log_softmax(-1)


def test_all_orders_are_asked_as_one_by_one(llama):
    every = orders(CASE)
    found = ordering.order_scores(llama, FORMAT, every, LABELS)
    assert found.shape == (6, 2, 2)
    wanted = torch.stack([torch.stack([slow(llama, case, x) for x, _ in CASE.queries]) for case in every])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert found.std(0).max() > 1e-3


def test_hits():
    found = ordering.right_answers(log_p_of([[0, 1, 2], [2, 1, 0]], 3), torch.tensor([0, 1, 0]))
    assert found.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_agreement_by_place_finds_recency():
    shown = torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    answers = [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]  # the last label, but once
    found = ordering.agreement_by_place(torch.tensor(answers), shown)
    torch.testing.assert_close(found, torch.tensor([5 / 12, 5 / 12, 11 / 12], dtype=torch.double))


def test_tilt_is_what_has_to_change():
    right = torch.tensor([0, 0, 1, 2])
    answers = torch.tensor([[0, 0, 1, 2], [2, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 2]])
    torch.testing.assert_close(
        ordering.answer_imbalance(answers, right, 3), torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.double)
    )


@given(st.integers(1, 6), st.integers(2, 4), st.integers(0, 1000))
def test_tilt_bounds_accuracy(q, labels, seed):
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randint(labels, (5, q), generator=generator)
    right = torch.randint(labels, (q,), generator=generator)
    found = ordering.answer_imbalance(answers, right, labels)
    assert (found >= 0).all()
    assert ((answers == right).double().mean(1) <= 1 - found + 1e-9).all()


def test_global_entropy_counts_answers_and_local_entropy_doubt():
    answers = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1]]
    log_p = log_p_of(answers, 2)
    found = ordering.global_entropy(log_p)
    wanted = [0, math.log(2), -0.25 * math.log(0.25) - 0.75 * math.log(0.75)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.double))
    p = 1 / (1 + math.exp(-2))
    doubt = -p * math.log(p) - (1 - p) * math.log(1 - p)
    torch.testing.assert_close(ordering.local_entropy(log_p), torch.full((3,), doubt, dtype=torch.double))
    sure = torch.tensor([[[0.0, -torch.inf]]])
    assert ordering.local_entropy(sure).item() == 0


@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.integers(0, 1000))
def test_entropies_lie_between_zero_and_log_labels(n, q, labels, seed):
    log_p = torch.randn(n, q, labels, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    for entropy in (ordering.global_entropy, ordering.local_entropy):
        found = entropy(log_p)
        assert found.shape == (n,)
        assert (found >= 0).all()
        assert (found <= math.log(labels) + 1e-6).all()


def test_gain_of_the_orders_put_first():
    accuracy = torch.tensor([0.1, 0.9, 0.5, 0.7])  # 0.55 on average
    assert ordering.gain(accuracy, accuracy, 1) == pytest.approx(0.35)
    assert ordering.gain(-accuracy, accuracy, 2) == pytest.approx(-0.25)
    tied = torch.tensor([1.0, 1.0, 0.0, 2.0])
    assert ordering.gain(tied, accuracy, 2) == pytest.approx((0.7 + 0.5) / 2 - 0.55)


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 1000))
def test_gain_does_not_depend_on_how_orders_are_listed(n, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    measure = torch.randint(levels, (7,), generator=generator).double()
    accuracy = torch.rand(7, generator=generator).double()
    shuffled = torch.randperm(7, generator=generator)
    found = ordering.gain(measure, accuracy, n)
    assert ordering.gain(measure[shuffled], accuracy[shuffled], n) == pytest.approx(found)
    if n == 7 or levels == 1:
        assert found == pytest.approx(0)


def test_probes_are_written_after_each_order(llama, monkeypatch):
    seen = []

    def write(model, opening, n, seed):
        seen.append((opening, n, seed))
        return [] if seed == 7 else [f"text {seed // 3}"]

    monkeypatch.setattr(lm, "sample_texts", write)
    texts = ordering.written_probes(llama, FORMAT, orders(CASE), seed=5)
    assert texts == ["text 1", "text 2", "text 3"]  # copies are left out
    assert [n for _, n, _ in seen] == [1] * 6
    assert [seed for *_, seed in seen] == list(range(5, 11))
    assert seen[0][0] == "Answer.\nQ: ab\nA: no\n\nQ: cde\nA: yes\n\nQ: f\nA: no\n\nQ:"


@pytest.mark.slow
def test_real_probes_are_texts(real):
    case = Case([("a joyless , idiotic film .", "negative"), ("warm and very funny .", "positive")], [])
    texts = ordering.written_probes(real, FORMATS["sentiment"], orders(case))
    assert all(sampling.SHORTEST <= len(text.split()) <= sampling.LONGEST for text in texts)


def test_calibration_divides_by_mean_probabilities():
    log_p = torch.tensor([[[0.6, 0.4], [0.9, 0.1]]]).log()
    reference = torch.tensor([[[0.8, 0.2], [0.7, 0.3]]]).log()
    found = ordering.calibrate(log_p, reference).exp()
    torch.testing.assert_close(found, torch.tensor([[[0.8 / 2.4, 1.6 / 2.4], [1.2 / 1.6, 0.4 / 1.6]]]))


def test_each_prompt_is_calibrated_by_itself():
    log_p = torch.randn(4, 1, 3).log_softmax(-1)
    torch.testing.assert_close(ordering.calibrate(log_p, log_p), torch.full((4, 1, 3), 1 / 3).log())


@pytest.mark.parametrize("name", ordering.PLANS)
def test_sets_are_balanced_and_apart(name):
    plan = ordering.PLANS[name]._replace(sets=3, queries=6)
    drawn = ordering.draw_sets(plan, 10)
    asked = [pair for case, _ in drawn for pair in case.queries]
    assert len(set(asked)) == 18
    assert {y for _, y in asked} <= set(plan.labels)
    for case, dev in drawn:
        shown = [y for _, y in case.demonstrations]
        assert len(set(case.demonstrations)) == len(shown)
        assert shown == [y for y in plan.labels for _ in range(plan.shots)]
        assert len(set(dev)) == 10
        assert [y for _, y in dev] == [y for y in plan.labels for _ in range(10 // len(plan.labels))]
        assert not set(dev) & {*case.demonstrations, *asked}
    assert drawn[0][0].demonstrations != drawn[1][0].demonstrations
