"""Strategies for choosing demonstrations: against brute force, on copies, and on bad input."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize

from course_lib.fewshot import Case
from course_lib.prompting import greedy, selection
from course_lib.prompting.selection import Selection

LABELS = torch.arange(60) % 3


def unit(n, d=16, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)


QUERIES, POOL = unit(7, seed=1), unit(60)
BY_VECTORS = {
    "nearest": selection.nearest,
    "farthest": selection.farthest,
    "mmr": selection.mmr,
    "dpp": selection.dpp,
    "clustered": selection.clustered,
    "at_random": selection.at_random,
    "balanced": lambda q, p, k: selection.balanced(q, p, k, torch.arange(len(p)) % 3),
    "nearest_of_each": lambda q, p, k: selection.nearest_of_each(q, p, k, torch.arange(len(p)) % 3),
}


def slow_mmr(query, pool, k, balance):
    """One query, as in the formula."""
    chosen = []
    for _ in range(k):
        worth = [
            balance * (query @ v) - (1 - balance) * max((v @ pool[j] for j in chosen), default=0)
            if i not in chosen
            else -torch.inf
            for i, v in enumerate(pool)
        ]
        chosen.append(int(np.argmax(worth)))
    return chosen


def slow_dpp(query, pool, k, scale):
    """One query: the determinant of every set with one item more."""
    quality = torch.exp(scale * (pool @ query))
    kernel = quality[:, None] * (pool @ pool.T) * quality
    chosen = []
    for _ in range(k):
        sets = [[*chosen, i] for i in range(len(pool))]
        worth = [torch.logdet(kernel[s][:, s]) if s[-1] not in chosen else -torch.inf for s in sets]
        chosen.append(int(np.argmax(worth)))
    return chosen


@pytest.mark.parametrize("name", BY_VECTORS)
def test_choices_are_k_different_items_of_the_pool(name):
    for k in (1, 5, 60):
        chosen = BY_VECTORS[name](QUERIES, POOL, k)
        assert chosen.indices.shape == chosen.scores.shape == (7, k)
        assert all(len(set(own)) == k and set(own) <= set(range(60)) for own in chosen.indices.tolist())
        assert chosen.scores.isfinite().all()


@pytest.mark.parametrize("name", BY_VECTORS)
def test_bad_sizes_are_refused(name):
    for k in (0, 61):
        with pytest.raises(ValueError, match=f"k={k}: expected 1 to 60"):
            BY_VECTORS[name](QUERIES, POOL, k)
    with pytest.raises(ValueError, match=r"expected \(Q, d\), \(n, d\)"):
        BY_VECTORS[name](QUERIES[:, :5], POOL, 3)


def test_nearest_is_what_scikit_learn_finds():
    distance, indices = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(POOL).kneighbors(QUERIES)
    chosen = selection.nearest(QUERIES, POOL, 9)
    assert chosen.indices.tolist() == indices.tolist()
    torch.testing.assert_close(chosen.scores, 1 - torch.from_numpy(distance).square() / 2)


@pytest.mark.parametrize("n", [100, 2111, 4160])
@pytest.mark.parametrize("at_a_time", [7 * 500, 2**24])
def test_nearest_in_large_pools_and_in_parts(n, at_a_time, monkeypatch):
    monkeypatch.setattr(greedy, "AT_A_TIME", at_a_time)
    pool = unit(n)
    scores, indices = (QUERIES @ pool.T).topk(8)
    chosen = selection.nearest(QUERIES, pool, 8)
    assert chosen.indices.tolist() == indices.tolist()
    torch.testing.assert_close(chosen.scores, scores)


def test_farthest_turns_the_scores_over():
    chosen = selection.farthest(QUERIES, POOL, 5)
    scores, indices = (QUERIES @ POOL.T).topk(5, largest=False)
    assert chosen.indices.tolist() == indices.tolist()
    torch.testing.assert_close(chosen.scores, scores)


@pytest.mark.parametrize("at_a_time", [200, 2**22])
@pytest.mark.parametrize("balance", [0.05, 0.3, 0.7, 1.0])
def test_mmr_is_the_formula(balance, at_a_time, monkeypatch):
    monkeypatch.setattr(greedy, "AT_A_TIME", at_a_time)
    chosen = selection.mmr(QUERIES, POOL, 6, balance)
    assert chosen.indices.tolist() == [slow_mmr(query, POOL, 6, balance) for query in QUERIES]
    among = POOL[chosen.indices] @ POOL[chosen.indices].mT
    last = balance * (QUERIES * POOL[chosen.indices[:, 5]]).sum(1) - (1 - balance) * among[:, 5, :5].amax(1)
    torch.testing.assert_close(chosen.scores[:, 5], last)


@pytest.mark.parametrize("at_a_time", [200, 2**22])
@pytest.mark.parametrize("scale", [0.02, 1.0, 5.0])
def test_dpp_is_greedy_in_the_determinant(scale, at_a_time, monkeypatch):
    monkeypatch.setattr(greedy, "AT_A_TIME", at_a_time)
    chosen = selection.dpp(QUERIES, POOL, 6, scale)
    assert chosen.indices.tolist() == [slow_dpp(query, POOL, 6, scale) for query in QUERIES]
    quality = torch.exp(scale * QUERIES @ POOL.T).gather(1, chosen.indices)
    items = POOL[chosen.indices]
    log_det = torch.logdet(quality[:, :, None] * (items @ items.mT) * quality[:, None])
    torch.testing.assert_close(chosen.scores.sum(1), log_det)


def test_greedy_dpp_comes_near_the_best_set():
    pool = POOL[:12]
    kernel = pool @ pool.T
    best = max(torch.logdet(kernel[list(s)][:, list(s)]) for s in itertools.combinations(range(12), 4))
    found = selection.dpp(QUERIES[:1], pool, 4, scale=0.0).scores.sum()
    assert best - 0.1 < found <= best + 1e-9


def test_without_diversity_mmr_and_dpp_are_nearest():
    wanted = selection.nearest(QUERIES, POOL, 6).indices
    assert torch.equal(selection.mmr(QUERIES, POOL, 6, 1.0).indices, wanted)
    assert torch.equal(selection.dpp(QUERIES, POOL, 6, 1e4).indices, wanted)


@settings(max_examples=30)
@given(
    st.integers(2, 40),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.sampled_from(["mmr", "dpp"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_copies_come_last_and_never_twice(n, originals, seed, name, dtype):
    """Pools of copies are where a determinantal point process divides by zero."""
    generator = torch.Generator().manual_seed(seed)
    items = unit(originals, seed=seed, dtype=dtype)
    copies = torch.randint(originals, (n,), generator=generator)
    chosen = BY_VECTORS[name](unit(3, seed=seed + 1, dtype=dtype), items[copies], n).indices
    assert all(sorted(own) == list(range(n)) for own in chosen.tolist())
    if name == "dpp":
        different = len(copies.unique())
        assume((items @ items.T).triu(1).max() < 0.99)
        assert all(len(set(own)) == different for own in copies[chosen[:, :different]].tolist())


def test_more_balance_means_more_relevance_and_more_redundancy():
    found = [
        selection.coverage(QUERIES, POOL, selection.mmr(QUERIES, POOL, 6, balance))
        for balance in (0.0, 0.5, 1.0)
    ]
    for measured in zip(*found, strict=True):
        assert sorted(measured, key=lambda values: values.mean()) == list(measured)


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_mmr_refuses_balances_outside(bad):
    with pytest.raises(ValueError, match="balance"):
        selection.mmr(QUERIES, POOL, 3, bad)


def test_dpp_refuses_negative_scales():
    with pytest.raises(ValueError, match="scale=-1"):
        selection.dpp(QUERIES, POOL, 3, -1)


def test_clustered_takes_the_nearest_of_each_cluster():
    centres = unit(3, seed=5)
    own = torch.arange(30) % 3
    pool = normalize(centres[own] + 0.05 * unit(30, seed=6), dim=1)
    chosen = selection.clustered(QUERIES, pool, 3)
    relevance = QUERIES @ pool.T
    for query, (indices, scores) in enumerate(zip(*chosen, strict=True)):
        assert set(own[indices].tolist()) == {0, 1, 2}
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        for i in indices:
            assert relevance[query, i] == relevance[query, own == own[i]].max()


def test_clustered_refuses_a_pool_of_copies():
    with pytest.raises(ValueError, match="k=3: only 2 items of the pool differ"):
        selection.clustered(QUERIES, POOL[[0, 1, 0, 1, 0]], 3)


def test_at_random_draws_all_items_equally_often():
    drawn = selection.at_random(unit(6000), POOL[:6], 2).indices
    counts = torch.bincount(drawn.flatten(), minlength=6)
    assert counts.sum() == 12000
    assert (counts - 2000).abs().max() < 200
    assert not torch.equal(drawn, selection.at_random(unit(6000), POOL[:6], 2, seed=1).indices)


@pytest.mark.parametrize("name", ["balanced", "nearest_of_each"])
def test_every_label_comes_equally_often(name):
    choose = getattr(selection, name)
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    shown = labels[choose(unit(300, seed=2), POOL, 6, labels).indices]
    assert all(sorted(own) == [0, 0, 1, 1, 2, 2] for own in shown.tolist())
    extra = labels[choose(unit(900, seed=2), POOL, 7, labels).indices]
    counts = torch.stack([(extra == c).sum(1) for c in range(3)], 1)
    assert counts.amin() == 2
    assert ((counts == 3).sum(0) - 300).abs().max() < 60  # which label has one more is drawn
    assert (labels[choose(QUERIES, POOL, 60, labels).indices] == 2).sum(1).tolist() == [5] * 7
    with pytest.raises(ValueError, match="expected one for each of 60 items"):
        choose(QUERIES, POOL, 6, labels[:-1])


@pytest.mark.parametrize("name", ["balanced", "nearest_of_each"])
def test_labels_come_in_random_order(name):
    labels = torch.tensor([0, 1] * 30)
    queries = unit(900)
    chosen = getattr(selection, name)(queries, POOL, 6, labels)
    shown = labels[chosen.indices]
    assert abs(shown[:, 0].sum() - 450) < 60
    assert abs((shown[:, 0] == shown[:, 1]).sum() - 360) < 60  # two of five
    best = labels[(queries @ POOL.T).argmax(1)]
    assert abs((shown[:, 0] == best).sum() - 450) < 60


def test_nearest_of_each_takes_the_nearest_of_a_label():
    chosen = selection.nearest_of_each(QUERIES, POOL, 6, LABELS)
    for query, own in enumerate(chosen.indices):
        for label in range(3):
            members = (label == LABELS).nonzero()[:, 0]
            best = members[(POOL[members] @ QUERIES[query]).topk(2).indices]
            assert set(own[LABELS[own] == label].tolist()) == set(best.tolist())
    torch.testing.assert_close(chosen.scores, (QUERIES @ POOL.T).gather(1, chosen.indices))


def test_bm25_finds_shared_rare_words():
    pool = ["the cat sat", "a dog barked loudly", "the dog and the cat", "stocks fell sharply"]
    chosen = selection.bm25(["why do dogs bark? a dog barked", "falling stocks"], pool, 2)
    assert chosen.indices[0].tolist() == [1, 2]
    assert chosen.indices[1, 0] == 3
    assert (chosen.scores[:, 0] > chosen.scores[:, 1]).all()
    with pytest.raises(ValueError, match="k=5: expected 1 to 4"):
        selection.bm25(["a"], pool, 5)


def test_bm25_takes_the_earlier_of_equals():
    pool = ["red", "blue"] * 30
    indices = selection.bm25(["blue", "an unknown word"], pool, 40).indices
    assert indices[0].tolist() == [*range(1, 60, 2), *range(0, 20, 2)]
    assert indices[1].tolist() == list(range(40))


def test_a_choice_in_other_orders():
    chosen = Selection(torch.tensor([[5, 2, 9], [1, 7, 3]]), torch.tensor([[0.1, 0.9, 0.5], [0.6, 0.2, 0.4]]))
    last, first = (selection.ordered(chosen, how) for how in ("last", "first"))
    assert last.indices.tolist() == [[2, 9, 5], [1, 3, 7]]  # `cases` turns them round
    assert first.indices.tolist() == [[5, 9, 2], [7, 3, 1]]
    torch.testing.assert_close(last.scores, torch.tensor([[0.9, 0.5, 0.1], [0.6, 0.4, 0.2]]))
    many = Selection(torch.arange(6).expand(600, 6), torch.zeros(600, 6))
    drawn = selection.ordered(many, "random").indices
    assert (torch.bincount(drawn[:, 0], minlength=6) - 100).abs().max() < 45
    assert not torch.equal(drawn, selection.ordered(many, "random", seed=1).indices)
    with pytest.raises(ValueError, match="how='middle': expected one of last, first, random"):
        selection.ordered(chosen, "middle")


def test_cases_show_the_first_chosen_last():
    pool = [("a", "no"), ("b", "yes"), ("c", "no")]
    chosen = Selection(torch.tensor([[2, 0], [1, 2]]), torch.zeros(2, 2))
    assert selection.cases(chosen, pool, [("q", "yes"), ("r", "no")]) == [
        Case([("a", "no"), ("c", "no")], [("q", "yes")]),
        Case([("c", "no"), ("b", "yes")], [("r", "no")]),
    ]


def test_vote_is_the_most_frequent_label_and_ties_go_to_the_earlier():
    labels = torch.tensor([0, 0, 1, 1, 2])
    chosen = torch.tensor([[0, 2, 3, 4], [2, 0, 1, 3], [0, 2, 3, 1], [4, 0, 1, 2]])
    votes = selection.vote(Selection(chosen, torch.zeros(4, 4)), labels, 3)
    assert votes.tolist() == [1, 1, 0, 0]
    assert selection.vote(Selection(torch.tensor([[4]]), torch.zeros(1, 1)), labels, 4).tolist() == [2]


def test_coverage_of_known_vectors():
    pool = torch.eye(3)
    chosen = Selection(torch.tensor([[0, 1], [0, 0]]), torch.zeros(2, 2))
    relevance, redundancy = selection.coverage(torch.tensor([[0.6, 0.8, 0.0]] * 2), pool, chosen)
    torch.testing.assert_close(relevance, torch.tensor([0.7, 0.6]))
    torch.testing.assert_close(redundancy, torch.tensor([0.0, 1.0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("name", ["nearest", "farthest", "mmr", "dpp", "clustered", "nearest_of_each"])
def test_cuda_chooses_the_same(name):
    here = BY_VECTORS[name](QUERIES, POOL, 6)
    there = BY_VECTORS[name](QUERIES.cuda(), POOL.cuda(), 6)
    assert there.indices.is_cuda
    assert torch.equal(here.indices, there.indices.cpu())
