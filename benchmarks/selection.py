"""Choosing demonstrations against scikit-learn, FAISS, DPPy and a loop over queries, in one run.

    pip install --no-deps -c requirements.txt -r benchmarks/requirements.txt
    python benchmarks/selection.py [--pools 1000 10000 100000] [--largest 1000000] [--queries 256]

Random unit vectors of 384 dimensions, k = 8; the largest pool is for nearest neighbours only. Prints
milliseconds for all queries, the best of three repeats taken in turn; the ratio to course_lib; the memory
that a first call takes beyond what the process holds; and for how many queries the choice is the same. A loop
chooses for one query after the other, with NumPy over the whole pool; the same "item by item" reads the
formula aloud. What does not fit into its budget of seconds is timed on fewer queries and the time multiplied.
DPPy draws sets at random from the same determinantal point process, which is what it offers, and not
greedily, so that its sets are others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from dppy.finite_dpps import FiniteDPP
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize

from course_lib.prompting import selection

K, DIMENSIONS, REPEATS, BALANCE, SCALE = 8, 384, 3, 0.5, 1.0
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]  # queries (Q, d), pool (n, d): (Q, k)


def ours(strategy: Callable[..., selection.Selection], *setting: float) -> Choose:
    """A strategy of course_lib."""
    return lambda queries, pool: strategy(
        torch.from_numpy(queries), torch.from_numpy(pool), K, *setting
    ).indices.numpy()


def scikit_learn(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Brute force; of unit vectors the nearest have the largest inner products."""
    return NearestNeighbors(n_neighbors=K, algorithm="brute").fit(pool).kneighbors(queries)[1]


def flat_index(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """FAISS's exact index."""
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(pool)
    return index.search(queries, K)[1]


def nearest_loop(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Query after query."""
    return np.stack([np.argsort(-(pool @ query))[:K] for query in queries])


def mmr_loop(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Query after query, item after item."""
    found = []
    for query in queries:
        relevance, redundancy, chosen = BALANCE * (pool @ query), np.zeros(len(pool), np.float32), []
        for i in range(K):
            worth = relevance - (1 - BALANCE) * redundancy
            worth[chosen] = -np.inf
            chosen.append(int(worth.argmax()))
            alike = pool @ pool[chosen[-1]]
            redundancy = np.maximum(redundancy, alike) if i else alike
        found.append(chosen)
    return np.array(found)


def dpp_loop(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Query after query, by the incremental Cholesky factor of Chen et al. (2018)."""
    found = []
    for query in queries:
        relevance, variance = 2 * SCALE * (pool @ query), np.ones(len(pool), np.float32)
        rows, chosen = np.empty((0, len(pool)), np.float32), []
        for _ in range(K):
            worth = relevance + np.log(variance.clip(1e-6))
            worth[chosen] = -np.inf
            j = int(worth.argmax())
            row = (pool @ pool[j] - rows[:, j] @ rows) / np.sqrt(variance[j].clip(1e-6))
            rows, variance, chosen = np.vstack([rows, row]), variance - row**2, [*chosen, j]
        found.append(chosen)
    return np.array(found)


def item_by_item(worth: Callable[[np.ndarray, np.ndarray, list[int], int], float]) -> Choose:
    """The formula read aloud: a loop over queries, choices and items."""

    def choose(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
        found = []
        for query in queries:
            relevance, chosen = pool @ query, []
            for _ in range(K):
                others = (i for i in range(len(pool)) if i not in chosen)
                chosen.append(max(others, key=lambda i: worth(relevance, pool, chosen, i)))
            found.append(chosen)
        return np.array(found)

    return choose


def mmr_worth(relevance: np.ndarray, pool: np.ndarray, chosen: list[int], i: int) -> float:
    """Relevance less redundancy."""
    redundancy = max((pool[i] @ pool[j] for j in chosen), default=0.0)
    return BALANCE * relevance[i] - (1 - BALANCE) * redundancy


def dpp_worth(relevance: np.ndarray, pool: np.ndarray, chosen: list[int], i: int) -> float:
    """The log-determinant of the set with one item more."""
    items = [*chosen, i]
    return 2 * SCALE * relevance[items].sum() + np.linalg.slogdet(pool[items] @ pool[items].T)[1]


def dppy_sets(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """DPPy: random sets of k items."""
    found = []
    for query in queries:
        quality = np.exp(SCALE * (pool @ query)).astype(float)
        kernel = quality[:, None] * (pool @ pool.T) * quality
        kernel += 1e-3 * np.eye(len(pool))  # else its eigenvalues round below zero
        found.append(FiniteDPP("likelihood", L=kernel).sample_exact_k_dpp(size=K, random_state=0))
    return np.array(found)


JOBS: dict[str, dict[str, Choose]] = {
    "nearest": {
        "course_lib": ours(selection.nearest),
        "scikit-learn": scikit_learn,
        "FAISS": flat_index,
        "loop": nearest_loop,
    },
    "MMR": {
        "course_lib": ours(selection.mmr, BALANCE),
        "loop": mmr_loop,
        "item by item": item_by_item(mmr_worth),
    },
    "DPP": {
        "course_lib": ours(selection.dpp, SCALE),
        "loop": dpp_loop,
        "item by item": item_by_item(dpp_worth),
        "DPPy": dppy_sets,
    },
}
ONE_BY_ONE = {"loop", "item by item", "DPPy"}
SMALL = {"DPPy": 1_000, "item by item": 10_000}  # the largest pools they are tried on


def memory(field: str) -> float:
    """MB of this process: "VmRSS" now, "VmHWM" at most (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1000


def first_call(choose: Choose, queries: np.ndarray, pool: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds, MB at most beyond what was there, and what was chosen."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    chosen = choose(queries, pool)
    return time.perf_counter() - start, memory("VmHWM") - before, chosen


def compare(jobs: dict[str, Choose], queries: np.ndarray, pool: np.ndarray, budget: float) -> None:
    """Times the peers of one strategy in turn and prints a line for each."""
    counts, peaks, chosen, best = {}, {}, {}, dict.fromkeys(jobs, np.inf)
    for name, choose in jobs.items():
        counts[name] = len(queries)
        if name in ONE_BY_ONE:
            seconds = first_call(choose, queries[:1], pool)[0]
            counts[name] = int(np.clip(budget / (REPEATS + 1) / seconds, 1, len(queries)))
        _, peaks[name], chosen[name] = first_call(choose, queries[: counts[name]], pool)
    for _ in range(REPEATS):
        for name, choose in jobs.items():
            start = time.perf_counter()
            choose(queries[: counts[name]], pool)
            seconds = (time.perf_counter() - start) * len(queries) / counts[name]
            best[name] = min(best[name], seconds)
    for name, seconds in best.items():
        same = np.sort(chosen[name]) == np.sort(chosen["course_lib"][: counts[name]])
        ratio = seconds / best["course_lib"]
        print(
            f"  {name:14}{1000 * seconds:12.1f} ms{ratio:9.2f} ×{peaks[name]:8.0f} MB"
            f"   {int(same.all(1).sum())}/{counts[name]}",
            flush=True,
        )


def main() -> None:
    """Compares all strategies on all pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pools", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--largest", type=int, default=1_000_000, help="for nearest only; 0: none")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument(
        "--budget", type=float, default=20, help="seconds for a peer that takes query by query"
    )
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)

    def unit(n: int) -> np.ndarray:
        return normalize(torch.randn(n, DIMENSIONS, generator=generator), dim=1).numpy()

    queries = unit(args.queries)
    for n in [*args.pools, args.largest]:
        pool = unit(n)
        for strategy, jobs in JOBS.items():
            if n and (strategy == "nearest" or n != args.largest):
                feasible = {name: job for name, job in jobs.items() if n <= SMALL.get(name, n)}
                print(f"{strategy}, {n:,} items, {len(queries)} queries")
                compare(feasible, queries, pool, args.budget)


if __name__ == "__main__":
    main()
