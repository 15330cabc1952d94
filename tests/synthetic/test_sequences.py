"""Sequences in which a segment of random tokens comes a second time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.synthetic import sequences


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def copied_at(tokens, segment):
    """Where the second time of the segment begins, and how far from the first, for distinct tokens."""
    at = [row.nonzero()[0].item() - 1 for row in sequences.repeated_pairs(tokens)]
    return [(i, i - row.tolist().index(row[i])) for i, row in zip(at, tokens, strict=True)]


def test_copies_hold_a_segment_twice_at_any_distance():
    tokens = sequences.copies(V=100_000, length=20, segment=6)(2000, generator())
    assert tokens.shape == (2000, 20)
    assert set(sequences.repeated_pairs(tokens).sum(1).tolist()) == {5}  # all but the first of six
    found = copied_at(tokens, 6)
    distances = [sum(d == k for _, d in found) for k in range(6, 15)]
    assert sum(distances) == 2000
    assert min(distances) > 150  # of 222 expected: no distance can be guessed
    assert {i - d for i, d in found if d == 6} == set(range(9))


def test_copies_at_one_distance():
    tokens = sequences.copies(V=100_000, length=20, segment=6, distance=9)(100, generator())
    assert {d for _, d in copied_at(tokens, 6)} == {9}


@pytest.mark.parametrize(("segment", "distance"), [(11, None), (6, 5), (6, 15)])
def test_segments_that_do_not_fit_are_told(segment, distance):
    with pytest.raises(ValueError, match="fit into 20 tokens"):
        sequences.copies(length=20, segment=segment, distance=distance)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_repeated_pairs_are_those_a_loop_finds(sequence):
    pairs = [tuple(sequence[i - 1 : i + 1]) for i in range(1, len(sequence))]
    expected = [False] + [pair in pairs[:i] for i, pair in enumerate(pairs)]
    assert sequences.repeated_pairs(torch.tensor([sequence]))[0].tolist() == expected
