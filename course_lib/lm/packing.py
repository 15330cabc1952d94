"""Prompts laid out in one sequence in which every shared prefix occurs once.

Sorted, prompts come in the order of a depth-first walk through their prefix trie: each shares its beginning
with the one before it and adds a *run* of new tokens. The runs, one after another, are the packed sequence;
a prompt's *path* names the rows its tokens have there. Everything but attention acts on rows alone. In
attention a row sees the rows of its path up to itself, which `blocks` turns into few dense problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

BLOCK_TOKENS = 64  # runs with the same ancestors are attended together, up to so many tokens at a time
SHARED, PADDED_KEY, PADDED_QUERY = -1, -2, -3  # in place of a run's number


@dataclass(frozen=True)
class Problem:
    """One attention problem: the rows that ask, the rows that may be seen, and the run each belongs to."""

    queries: np.ndarray  # (q,) rows
    query_runs: np.ndarray  # (q,)
    keys: np.ndarray  # (k,) rows
    key_runs: np.ndarray  # (k,) SHARED for rows that every query sees


@dataclass(frozen=True)
class Blocks:
    """B attention problems of about the same shape, padded to Q queries against K keys each."""

    queries: torch.Tensor  # (B, Q) rows
    keys: torch.Tensor  # (B, K) rows
    mask: torch.Tensor  # (B, 1, Q, K) True where a query sees a key
    distance: torch.Tensor  # (B, 1, Q, K) how many positions a key lies before the query
    slots: torch.Tensor  # (n,) the queries that are not padding, as indices into B·Q; padded ones give NaN


@dataclass(frozen=True)
class Packing:
    """N prompts as one sequence of T rows."""

    tokens: np.ndarray  # (T,) token ids
    depth: np.ndarray  # (T,) the position of each row in its prompts
    paths: list[np.ndarray]  # for each prompt the rows of its tokens
    runs: list[tuple[np.ndarray, np.ndarray]]  # (ancestor rows, own rows)

    def blocks(self, device: torch.device) -> list[Blocks]:
        """The attention problems of the packed sequence."""
        problems = []
        for ancestors, own in _siblings(self.runs):
            queries = np.concatenate(own)
            runs = np.repeat(np.arange(len(own)), [len(rows) for rows in own])
            keys = np.concatenate([ancestors, queries])
            problems.append(Problem(queries, runs, keys, np.r_[np.full(len(ancestors), SHARED), runs]))
        return stack(problems, self.depth, device)


def pack(prompts: Sequence[Sequence[int]], symbols: Sequence[Sequence[int]] | None = None) -> Packing:
    """Lay out prompts so that shared prefixes occur once.

    Args:
        prompts: N lists of token ids.
        symbols: N lists as long as the prompts: two positions are shared only if their symbols, and those
            before them, are equal. By default the token ids themselves.
    """
    symbols = prompts if symbols is None else symbols
    tokens: list[int] = []
    depth: list[int] = []
    runs = []
    paths: list[np.ndarray] = [np.empty(0, int)] * len(prompts)
    last: Sequence[int] = []
    path = np.empty(0, int)
    for i in sorted(range(len(prompts)), key=symbols.__getitem__):
        shared = common_prefix(last, symbols[i])
        own = np.arange(len(tokens), len(tokens) + len(prompts[i]) - shared)
        tokens += prompts[i][shared:]
        depth += range(shared, len(prompts[i]))
        if len(own):
            runs.append((path[:shared], own))
        paths[i] = path = np.concatenate([path[:shared], own])
        last = symbols[i]
    return Packing(np.array(tokens, int), np.array(depth, int), paths, runs)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading elements two sequences share."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def batches(symbols: Sequence[Sequence[int]], max_tokens: int, extra: int = 0) -> list[list[int]]:
    """Split prompts into groups that pack into at most `max_tokens` rows, neighbours in the trie together.

    A group that is full is cut where its prompts share least, as long as half of its rows remain in it: what
    is shared across a cut is computed twice.

    Args:
        symbols: N lists, see `pack`.
        max_tokens: rows of a group; a single longer prompt makes a group of its own.
        extra: rows that each prompt takes besides its tokens.
    """
    order = sorted(range(len(symbols)), key=symbols.__getitem__)
    lengths = np.array([len(symbols[i]) + extra for i in order], int)
    shared = np.array([0, *(common_prefix(symbols[i], symbols[j]) for i, j in pairwise(order))], int)
    ends = np.cumsum(lengths - shared)  # rows up to each prompt, if all were in one group
    groups, start = [], 0
    while start < len(order):
        rows = ends[start:] - ends[start] + lengths[start]
        stop = start + max(1, int(np.searchsorted(rows, max_tokens, side="right")))
        if stop < len(order):
            first = start + 1 + int(np.searchsorted(rows, max_tokens / 2))
            stop -= int(shared[min(first, stop) : stop + 1][::-1].argmin())  # of several the last
        groups.append(order[start:stop])
        start = stop
    return groups


def stack(problems: Iterable[Problem], depth: np.ndarray, device: torch.device) -> list[Blocks]:
    """Batch problems of about the same shape.

    Args:
        problems: what attends to what.
        depth: (T,) the position of each row in its prompts.
        device: where the index tensors go.
    """
    shapes: dict[tuple[int, int], list[Problem]] = {}
    for problem in problems:
        shape = _size_class(len(problem.queries)), _size_class(len(problem.keys))
        shapes.setdefault(shape, []).append(problem)
    return [_padded(group, depth, device) for group in shapes.values()]


def _padded(problems: list[Problem], depth: np.ndarray, device: torch.device) -> Blocks:
    queries, query_runs = (
        _pad([p.queries for p in problems], 0),
        _pad([p.query_runs for p in problems], PADDED_QUERY),
    )
    keys, key_runs = _pad([p.keys for p in problems], 0), _pad([p.key_runs for p in problems], PADDED_KEY)
    same_run = query_runs[:, :, None] == key_runs[:, None, :]  # (B, Q, K)
    causal = keys[:, None, :] <= queries[:, :, None]
    mask = (key_runs[:, None, :] == SHARED) | (same_run & causal)
    distance = depth[queries][:, :, None] - depth[keys][:, None, :]
    slots = np.flatnonzero(query_runs != PADDED_QUERY)
    arrays = queries, keys, mask[:, None], distance[:, None], slots
    return Blocks(*(torch.from_numpy(array).to(device) for array in arrays))


def _pad(arrays: list[np.ndarray], fill: int) -> np.ndarray:
    padded = np.full((len(arrays), max(map(len, arrays))), fill)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _siblings(runs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Runs with the same ancestors, together up to `BLOCK_TOKENS` rows."""
    open_groups: dict[int, list[np.ndarray]] = {}
    groups = []
    for ancestors, own in runs:
        parent = int(ancestors[-1]) if len(ancestors) else -1
        group = open_groups.get(parent)
        if group is None or sum(map(len, group)) + len(own) > BLOCK_TOKENS:
            group = open_groups[parent] = []
            groups.append((ancestors, group))
        group.append(own)
    return groups


def _size_class(n: int) -> int:
    """Round up to one of eight sizes an octave: padding to it adds at most an eighth."""
    step = max(1, 2 ** (n.bit_length() - 1) // 8)
    return -(-n // step) * step
