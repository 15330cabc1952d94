"""The projection onto a convex hull against solvers of quadratic programs, in one run on the same problems.

    pip install --no-deps -c requirements.txt -r benchmarks/requirements.txt
    python benchmarks/hull.py [--sizes 16x8 512x32] [--queries 256] [--budget 20] [--device cuda]

Prints microseconds per query (of one core's time; on CUDA of the clock), the best of three repeats taken in
turn, forward and with the gradients for queries and values; the largest duality gap of ½|x − q|², relative to
max |vᵢ − q|²; the largest distance of a gradient for a query from course_lib's, relative to the gradient for
the point; and the ratios to course_lib with own values for each query. Peers solve each query's own problem:
shared values do not help them. A job that does not fit into its budget of seconds is done with fewer queries
or, if less than two fit, not at all (–). A wrong answer counts for nothing and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
)
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if hasattr(os, "sched_setaffinity"):  # XLA would use more cores all the same
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import torch
from hull_peers import COMPILED, OWN, REBUILT, SHARED, Problem, Run, Solver, solvers

REPEATS = 3
FEW = {"cpu": 4, "cuda": 256}  # queries from which the time of a peer is estimated
SIZES = {(16, 8): 2, (64, 64): 5, (256, 64): 20, (512, 32): 100}  # goal over the fastest differentiable peer
LARGEST_GAP = 1e-5


class Job:
    """A solver's work on a problem: forward, or forward and backward."""

    def __init__(self, solver: Solver, problem: Problem, backward: bool, args: argparse.Namespace) -> None:
        self.cuda, self.best = args.device == "cuda", float("inf")
        self.count, self.run, self.result = 0, lambda: None, np.empty(0)
        try:
            count = len(problem.queries)
            if solver.name not in (OWN, SHARED):
                few = problem.first(FEW[args.device])
                run = solver.prepare(few, backward)
                run()
                count = min(count, int(args.budget / (REPEATS + 1) / self.seconds(run) * len(few.queries)))
            if count > 1:
                self.run = solver.prepare(problem.first(count), backward)
                result = self.run()
                self.result = result.numpy(force=True) if torch.is_tensor(result) else np.asarray(result)
                self.count = count
        except Exception as error:
            print(f"{solver.name}: {type(error).__name__}: {error}", file=sys.stderr)

    def seconds(self, run: Run) -> float:
        """Of one call, the mean over a tenth of a second; on the CPU only what this process itself uses."""
        clock = time.perf_counter if self.cuda else time.process_time
        calls, spent, before = 0, 0.0, clock()
        while spent < 0.1:
            run()
            if self.cuda:
                torch.cuda.synchronize()
            calls, spent = calls + 1, clock() - before
        return spent / calls

    def repeat(self) -> None:
        """Times it once more, if it works."""
        if self.count:
            self.best = min(self.best, self.seconds(self.run) / self.count)


class Row:
    """A solver's two jobs on a problem, and how exact it is."""

    def __init__(self, solver: Solver, problem: Problem, args: argparse.Namespace) -> None:
        self.name, self.problem, self.note = solver.name, problem, ""
        self.gap, self.error = np.nan, np.nan
        self.jobs = [Job(solver, problem, b, args) for b in (False, True)[: 1 + solver.differentiable]]
        self.valid, count = len(self.jobs), self.jobs[0].count
        if count:
            self.gap, self.points = judge(problem.first(count), self.jobs[0].result)
        fewer = [str(job.count) for job in self.jobs if 0 < job.count < len(problem.queries)]
        if fewer:
            self.note = f"{' and '.join(fewer)} queries"

    def compare(self, ours: Row) -> None:
        """With course_lib's on the same problem; jobs that are wrong count no longer."""
        if len(self.jobs) > 1 and self.jobs[1].count:
            exact = ours.jobs[1].result[: self.jobs[1].count]
            errors = np.linalg.norm(self.jobs[1].result - exact, axis=-1)
            errors /= np.linalg.norm(self.problem.slope[: len(errors)], axis=-1)
            self.error = errors.max()
            if not np.median(errors) < 5e-2:  # some may be: where the support is about to change
                self.valid, self.note = 1, "WRONG gradients"
        if self.jobs[0].count:
            apart = np.linalg.norm(self.points - ours.points[: self.jobs[0].count], axis=-1).max()
            # by strong convexity a gap bounds the distance from the projection
            if not (self.gap < LARGEST_GAP and apart < 1e-6 + (2 * max(self.gap, 0)) ** 0.5):
                self.valid, self.note = 0, f"WRONG, {apart:.0e} from the point that course_lib finds"

    def time(self, backward: bool = False) -> float:
        """Seconds per query, or infinity."""
        return self.jobs[backward].best if self.valid > backward else float("inf")


Table = dict[str, Row]


def make(n: int, d: int, count: int, kind: str, shared: bool) -> Problem:
    g = np.random.default_rng(n + d)
    values = g.standard_normal((n, d) if shared else (count, n, d)) / d**0.5
    queries = g.standard_normal((count, d)) / d**0.5
    if kind == "inside":
        weights = g.dirichlet(np.ones(n), size=count)
        queries = weights @ values if shared else (weights[:, None] @ values)[:, 0]
    return Problem(queries, values, g.standard_normal((count, d)))


def judge(problem: Problem, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest gap, and the points as seen from the queries, in units of max |vᵢ − q|."""
    a = np.maximum(weights, 0)
    a /= a.sum(-1, keepdims=True)
    seen = problem.values - problem.queries[:, None]
    seen /= np.linalg.norm(seen, axis=-1).max(-1)[:, None, None]
    x = (a[:, None] @ seen)[:, 0]
    return float(((x * x).sum(-1) - (seen @ x[..., None])[..., 0].min(-1)).max()), x


def measure(n: int, d: int, kind: str, args: argparse.Namespace) -> Table:
    """Runs and prints the table of one size and kind."""
    own, shared = (make(n, d, args.queries, kind, shared) for shared in (False, True))
    rows = [Row(s, shared if s.name == SHARED else own, args) for s in solvers(n, args.device)]
    table = {row.name: row for row in rows}
    for row in rows:
        row.compare(table[SHARED if row.name == SHARED else OWN])
    for _ in range(REPEATS):
        for job in [job for row in rows for job in row.jobs]:
            job.repeat()
    print(f"\n{kind}, n = {n}, d = {d}, {args.queries} queries")
    print(f"{'':26}{'µs':>8} {'+gradient':>9} {'gap':>7} {'Δgradient':>9} {'ratio':>7} {'+gradient':>9}")
    for row in rows:
        exact = f"{show(row.gap, '.0e'):>7} {show(row.error, '.0e'):>9}"
        µs = [show(row.time(b) * 1e6, ".0f") for b in (False, True)]
        ratios = [show(row.time(b) / table[OWN].time(b), ".2f") for b in (False, True)]
        print(f"{row.name:26}{µs[0]:>8} {µs[1]:>9} {exact} {ratios[0]:>7} {ratios[1]:>9}  {row.note}")
    return table


def show(number: float, form: str) -> str:
    return format(number, form) if np.isfinite(number) else "–"


def summary(tables: dict[tuple[str, int, int], Table], args: argparse.Namespace) -> None:
    """For each goal and size the time of the fastest of the peers it names, divided by course_lib's."""
    names = list(next(iter(tables.values())))
    any_form = [name for name in names if name.startswith(("qpth", "QPLayer", "qpax"))]
    weights = [name for name in any_form if name.endswith("weights")]
    goals = [
        (f"{REBUILT} ≥ 50×", "outside", [REBUILT], OWN, False, 50),
        (f"{COMPILED} ≥ 50×", "outside", [COMPILED], OWN, False, 50),
        ("fastest differentiable ≥ *", "outside", any_form, OWN, False, None),
        ("… with gradients ≥ *", "outside", any_form, OWN, True, None),
        ("… of those in weights ≥ *", "outside", weights, OWN, False, None),
        ("… with gradients ≥ *", "outside", weights, OWN, True, None),
        ("daqp, own values ≥ 1×", "outside", ["daqp"], OWN, False, 1),
        ("daqp, shared values ≥ 2×", "outside", ["daqp"], SHARED, False, 2),
        ("daqp, own values ≥ 0.5×", "inside", ["daqp"], OWN, False, 0.5),
        ("daqp, shared values ≥ 0.5×", "inside", ["daqp"], SHARED, False, 0.5),
    ]
    print(f"\n{'goals: time of peer / course_lib':36}{''.join(f'{size!s:>18}' for size in args.sizes)}")
    for label, kind, peers, ours, backward, goal in goals:
        if not set(peers) <= set(names):
            continue
        line = ""
        for size in args.sizes:
            table, least = tables[kind, *size], goal or SIZES.get(size, float("nan"))
            r = min(table[peer].time(backward) for peer in peers) / table[ours].time(backward)
            mark = "" if np.isnan(least) or np.isinf(r) else "reached" if r >= least else "missed"
            line += f"{show(r, '.2f'):>10} {mark:7}"
        print(f"{kind:8}{label:28}{line}")
    print("*", ", ".join(f"{goal}× at {size}" for size, goal in SIZES.items()))


def main() -> None:
    def size(text: str) -> tuple[int, int]:
        n, d = text.split("x")
        return int(n), int(d)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=list(SIZES), metavar="NxD")
    parser.add_argument("--queries", type=int, help="256; on CUDA 10000")
    parser.add_argument("--budget", type=float, default=20, help="seconds for a job")
    parser.add_argument("--device", choices=list(FEW), default="cpu")
    args = parser.parse_args()
    args.queries = args.queries or (256 if args.device == "cpu" else 10000)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    tables = {(kind, *s): measure(*s, kind, args) for s in args.sizes for kind in ("outside", "inside")}
    summary(tables, args)
    wrong = [
        f"{row.name} {key}" for key, table in tables.items() for row in table.values() if "WRONG" in row.note
    ]
    if wrong:
        raise SystemExit(f"wrong answers: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
