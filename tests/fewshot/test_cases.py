"""Cases: drawn, shuffled, in all orders."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import fewshot

PAIRS = [("hot", "cold"), ("up", "down"), ("day", "night"), ("big", "small"), ("old", "new"), ("wet", "dry")]


@settings(deadline=None)
@given(
    shots=st.integers(0, 3), n_cases=st.integers(1, 5), n_queries=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_cases_are_reproducible_and_disjoint(shots, n_cases, n_queries, seed):
    pool, queries = PAIRS[:3], PAIRS[3:]
    cases = fewshot.draw(pool, queries, shots, n_cases, n_queries, seed)
    assert cases == fewshot.draw(pool, queries, shots, n_cases, n_queries, seed)
    assert len(cases) == n_cases
    for case in cases:
        assert len(set(case.demonstrations)) == shots
        assert len(set(case.queries)) == n_queries
        assert set(case.demonstrations) <= set(pool)
        assert set(case.queries) <= set(queries)


def test_queries_are_used_up_before_one_comes_again():
    cases = fewshot.draw(PAIRS[:3], PAIRS[3:], 1, n_cases=3, n_queries=1)
    assert {case.queries[0] for case in cases} == set(PAIRS[3:])


def test_seeds_differ():
    assert fewshot.draw(PAIRS[:3], PAIRS[3:], 3, 5, 3, seed=0) != fewshot.draw(
        PAIRS[:3], PAIRS[3:], 3, 5, 3, seed=1
    )


@pytest.mark.parametrize(
    ("pool", "queries", "shots", "n_queries", "message"),
    [
        (PAIRS[:2], PAIRS[2:], 3, 1, "only 2 demonstrations"),
        (PAIRS[:2], PAIRS[2:4], 1, 3, "queries to draw from"),
        (PAIRS[:3], PAIRS[2:], 1, 1, "queries must not be demonstrations too: .'day'"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(pool, queries, shots, n_queries, message):
    with pytest.raises(ValueError, match=message):
        fewshot.draw(pool, queries, shots, 1, n_queries)


def test_shuffling_keeps_queries_and_answers_and_breaks_pairs():
    case = fewshot.Case(PAIRS[:5], PAIRS[5:])
    (shuffled,) = fewshot.shuffle_answers([case])
    assert shuffled.queries == case.queries
    assert [x for x, _ in shuffled.demonstrations] == [x for x, _ in case.demonstrations]
    assert sorted(y for _, y in shuffled.demonstrations) == sorted(y for _, y in case.demonstrations)
    assert shuffled.demonstrations != case.demonstrations


def test_orders_are_all_permutations():
    orders = fewshot.orders(fewshot.Case(PAIRS[:3], PAIRS[3:]))
    assert len({tuple(case.demonstrations) for case in orders}) == math.factorial(3)
    assert all(set(case.demonstrations) == set(PAIRS[:3]) for case in orders)


def test_right_and_shown_labels_are_indices_of_labels():
    cases = [fewshot.Case([], PAIRS[:2]), fewshot.Case([], PAIRS[1:3])]
    assert fewshot.right_labels(cases, ["down", "night", "cold"]).tolist() == [[2, 0], [0, 1]]
    shown = [fewshot.Case(PAIRS[1:3], []), fewshot.Case(PAIRS[:2], [])]
    assert fewshot.shown_labels(shown, ["down", "night", "cold"]).tolist() == [[0, 1], [2, 0]]


def test_a_dummy_query_stays_with_its_case():
    case = fewshot.Case(PAIRS[:3], PAIRS[3:], "dark")
    assert {c.dummy for c in (*fewshot.orders(case), *fewshot.shuffle_answers([case]))} == {"dark"}
