"""Which demonstrations to show.

Every strategy takes queries and a pool and chooses k of the pool for each query. Texts are compared by their
embeddings, unit vectors whose inner products are cosine similarities (`lm.embed`). All are
batched over queries, on the device of their tensors, and never choose an item twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import bm25s
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import one_hot

from course_lib.fewshot import Case, Pair
from course_lib.prompting import greedy


class Selection(NamedTuple):
    """Demonstrations for Q queries."""

    indices: torch.Tensor  # (Q, k) in the pool, in the order in which they were chosen
    scores: torch.Tensor  # (Q, k) what each was worth when it was chosen


def nearest(queries: torch.Tensor, pool: torch.Tensor, k: int) -> Selection:
    """The k items of a pool with the largest inner products, the largest first; see Liu et al. (2022).

    Args:
        queries: (Q, d).
        pool: (n, d).
        k: at most n.

    Raises:
        ValueError: shapes that do not fit, or k is not in 1 … n.
    """
    _check(queries, pool, k)
    size = max(greedy.AT_A_TIME // max(len(queries), 1), 1)
    scores = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(pool), size):
        found, at = _largest(queries @ pool[start : start + size].T, k)
        scores, order = torch.cat([scores, found], 1).topk(min(k, scores.shape[1] + found.shape[1]))
        indices = torch.cat([indices, at + start], 1).gather(1, order)
    return Selection(indices, scores)


def _largest(scores: torch.Tensor, k: int, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """`topk` of rows: the k largest are in the k blocks with the largest maxima."""
    n = scores.shape[1]
    if n < 4 * k * block:
        return scores.topk(min(k, n))
    whole = n // block * block
    maxima = scores[:, :whole].unflatten(1, (-1, block)).amax(-1)
    blocks = maxima.topk(k).indices  # (Q, k)
    at = (blocks[..., None] * block + torch.arange(block, device=scores.device)).flatten(1)
    at = torch.cat([at, torch.arange(whole, n, device=scores.device).expand(len(at), -1)], 1)
    found, order = scores.gather(1, at).topk(k)
    return found, at.gather(1, order)


def farthest(queries: torch.Tensor, pool: torch.Tensor, k: int) -> Selection:
    """The control of `nearest`: the k items with the smallest inner products, the smallest first."""
    chosen = nearest(-queries, pool, k)
    return Selection(chosen.indices, -chosen.scores)


def mmr(queries: torch.Tensor, pool: torch.Tensor, k: int, balance: float = 0.5) -> Selection:
    """Maximal marginal relevance (Carbonell & Goldstein 1998): alike to the query, unlike each other.

    Chooses again and again the item with the largest λ sim(q, qᵢ) − (1 − λ) max sim(qᵢ, qⱼ), where j runs
    over what has been chosen; nothing is subtracted from the first.

    Args:
        queries: (Q, d) unit vectors.
        pool: (n, d) unit vectors.
        k: at most n.
        balance: λ, from 0 to 1, where relevance alone counts.

    Raises:
        ValueError: see `nearest`; a balance outside 0 … 1.
    """
    _check(queries, pool, k)
    if not 0 <= balance <= 1:
        raise ValueError(f"balance={balance}: expected 0 to 1")
    return Selection(
        *greedy.choose(queries, pool, k, lambda alike: greedy.Redundancy(balance * alike, 1 - balance))
    )


def dpp(queries: torch.Tensor, pool: torch.Tensor, k: int, scale: float = 1.0) -> Selection:
    """Greedy MAP of a determinantal point process: the set with a large det L, Lᵢⱼ = rᵢ sim(qᵢ, qⱼ) rⱼ.

    The quality of an item is rᵢ = exp(scale · sim(q, qᵢ)). Each item chosen raises log det L by the score
    that is returned; conditional variances are updated as in Chen et al. (2018). Copies of what has been
    chosen have almost no volume of their own, and come last, the most relevant first.

    Args:
        queries: (Q, d) unit vectors.
        pool: (n, d) unit vectors.
        k: at most n.
        scale: how much relevance counts against diversity, from 0.

    Raises:
        ValueError: see `nearest`; a negative scale.
    """
    _check(queries, pool, k)
    if scale < 0:
        raise ValueError(f"scale={scale}: expected at least 0")
    return Selection(*greedy.choose(queries, pool, k, lambda alike: greedy.Volume(2 * scale * alike)))


def clustered(queries: torch.Tensor, pool: torch.Tensor, k: int, seed: int = 0) -> Selection:
    """The nearest item of each of k clusters of the pool (k-means), the nearest first.

    Args:
        queries: (Q, d).
        pool: (n, d).
        k: number of clusters, at most n different items.
        seed: another seed begins with other centres.

    Raises:
        ValueError: see `nearest`; fewer than k items of the pool differ.
    """
    _check(queries, pool, k)
    if (different := len(pool.unique(dim=0))) < k:
        raise ValueError(f"k={k}: only {different} items of the pool differ")
    own = KMeans(k, n_init=1, random_state=seed).fit_predict(pool.numpy(force=True))
    own = torch.from_numpy(own).long().to(pool.device)
    found = [nearest(queries, pool[members], 1) for members in (own == c for c in range(k))]
    members = [(own == c).nonzero()[:, 0] for c in range(k)]
    indices = torch.cat([m[f.indices] for m, f in zip(members, found, strict=True)], 1)
    scores, order = torch.cat([f.scores for f in found], 1).sort(descending=True)
    return Selection(indices.gather(1, order), scores)


def at_random(queries: torch.Tensor, pool: torch.Tensor, k: int, seed: int = 0) -> Selection:
    """The control of all: k items for each query, all sets equally likely; scores are zero.

    Args:
        queries: (Q, d), of which only the number counts.
        pool: (n, d), the same.
        k: at most n.
        seed: another seed draws others.

    Raises:
        ValueError: see `nearest`.
    """
    _check(queries, pool, k)
    draws = torch.rand(len(queries), len(pool), generator=torch.Generator().manual_seed(seed))
    return Selection(draws.topk(k).indices.to(pool.device), pool.new_zeros(len(queries), k))


def balanced(
    queries: torch.Tensor, pool: torch.Tensor, k: int, labels: torch.Tensor, seed: int = 0
) -> Selection:
    """At random, with as many of each label as of any other, as far as k allows; scores are zero.

    Args:
        queries: (Q, d), of which only the number counts.
        pool: (n, d), the same.
        k: at most n.
        labels: (n,) of the pool.
        seed: another seed draws others.

    Raises:
        ValueError: see `nearest`; labels of another length.
    """
    _check(queries, pool, k)
    generator = torch.Generator().manual_seed(seed)
    chosen = _quota(torch.rand(len(queries), len(pool), generator=generator), labels, k, generator)
    return Selection(chosen.to(pool.device), pool.new_zeros(len(queries), k))


def nearest_of_each(
    queries: torch.Tensor, pool: torch.Tensor, k: int, labels: torch.Tensor, seed: int = 0
) -> Selection:
    """The nearest items, with as many of each label as of any other, in random order; see `balanced`.

    Which labels have one more, where k is no multiple of their number, is drawn at random, too: neither the
    number nor the order of the labels tells anything of the answer, only the texts do.
    """
    _check(queries, pool, k)
    relevance = queries @ pool.T
    generator = torch.Generator().manual_seed(seed)
    chosen = _quota(relevance.cpu(), labels, k, generator).to(pool.device)
    return Selection(chosen, relevance.gather(1, chosen))


def _quota(scores: torch.Tensor, labels: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """(Q, k) of scores (Q, n): the best of each label, the second of each, …, as many as k; shuffled."""
    if labels.shape != scores.shape[1:]:
        raise ValueError(f"labels {tuple(labels.shape)}: expected one for each of {scores.shape[1]} items")
    turn = torch.empty_like(scores)  # how many of the same label are better
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0].cpu()
        turn[:, members] = (-scores[:, members]).argsort(1).argsort(1).to(scores.dtype)
    chosen = (turn + torch.rand(scores.shape, generator=generator)).topk(k, largest=False).indices
    return chosen.gather(1, torch.rand(chosen.shape, generator=generator).argsort(1))


def bm25(queries: Sequence[str], pool: Sequence[str], k: int) -> Selection:
    """The k texts that share the most telling words with the query (Robertson & Zaragoza 2009), by `bm25s`.

    Of texts with the same score, the earlier in the pool comes first.

    Raises:
        ValueError: k is not in 1 … n.
    """
    if not 1 <= k <= len(pool):
        raise ValueError(f"k={k}: expected 1 to {len(pool)}, the size of the pool")
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(pool), show_progress=False), show_progress=False)
    words = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
    scores = torch.stack([torch.from_numpy(index.get_scores(own)) for own in words])
    scores, indices = scores.sort(dim=1, descending=True, stable=True)
    return Selection(indices[:, :k], scores[:, :k])


def ordered(chosen: Selection, how: str, seed: int = 0) -> Selection:
    """The same choice in another order; `cases` shows the first of them last.

    Args:
        chosen: k demonstrations for each query with their scores.
        how: where the highest scores are shown: "last", next to the query; "first"; or anywhere, "random".
        seed: another seed draws other random orders.

    Raises:
        ValueError: there is no such order.
    """
    keys = {
        "last": -chosen.scores,
        "first": chosen.scores,
        "random": torch.rand(chosen.scores.shape, generator=torch.Generator().manual_seed(seed)),
    }
    if how not in keys:
        raise ValueError(f"how={how!r}: expected one of {', '.join(keys)}")
    order = keys[how].to(chosen.scores.device).argsort(dim=1, stable=True)
    return Selection(chosen.indices.gather(1, order), chosen.scores.gather(1, order))


def cases(chosen: Selection, pool: Sequence[Pair], queries: Sequence[Pair]) -> list[Case]:
    """A case for each query; the first chosen of its demonstrations comes last, next to the query."""
    return [
        Case([pool[i] for i in reversed(own)], [query])
        for own, query in zip(chosen.indices.tolist(), queries, strict=True)
    ]


def vote(chosen: Selection, labels: torch.Tensor, n_labels: int) -> torch.Tensor:
    """The control without a language model: (Q,) the most frequent label of the chosen.

    Ties go to the label that was chosen first.

    Args:
        chosen: k demonstrations of each query.
        labels: (n,) of the pool.
        n_labels: how many different labels there are.
    """
    k = chosen.indices.shape[1]
    votes = one_hot(labels[chosen.indices], n_labels).double()  # (Q, k, labels)
    early = 0.5 ** torch.arange(1, k + 1, dtype=torch.double, device=votes.device)  # together less than one
    return (votes * (1 + early[:, None])).sum(1).argmax(-1)


def coverage(
    queries: torch.Tensor, pool: torch.Tensor, chosen: Selection
) -> tuple[torch.Tensor, torch.Tensor]:
    """How alike the chosen are to their query, and how alike to each other.

    Args:
        queries: (Q, d) unit vectors.
        pool: (n, d) unit vectors.
        chosen: at least two items for each query.

    Returns:
        (Q,) the relevance, their mean similarity to the query, and (Q,) the redundancy, the mean similarity
        of two of them.
    """
    items = pool[chosen.indices]  # (Q, k, d)
    k = items.shape[1]
    among = (items @ items.mT).sum((1, 2)) - items.square().sum((1, 2))
    return (items @ queries[:, :, None])[..., 0].mean(1), among / (k * (k - 1))


def _check(queries: torch.Tensor, pool: torch.Tensor, k: int) -> None:
    if queries.ndim != 2 or pool.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ValueError(
            f"queries {tuple(queries.shape)} and pool {tuple(pool.shape)}: expected (Q, d), (n, d)"
        )
    if not 1 <= k <= len(pool):
        raise ValueError(f"k={k}: expected 1 to {len(pool)}, the size of the pool")
