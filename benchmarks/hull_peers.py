"""The solvers that hull.py compares. Each forms its matrices from queries and values: that is timed too.

"weights": min ½|Wᵀa|² over weights a, with W = V − q. "distance": the dual, min ½|y|² with ⟨(wᵢ, s), y⟩ ≥ s
for all i, in d + 1 variables; its multipliers are multiples of the weights; s = max |wᵢ|. nnls, quadprog and
daqp take "distance", in which they are fastest. Peers are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls

from course_lib.readouts import hull

INSTALL = "pip install --no-deps -c requirements.txt -r benchmarks/requirements.txt"
OWN, SHARED = "course_lib, own values", "course_lib, shared values"
REBUILT, COMPILED = "cvxpy, rebuilt", "cvxpy, compiled once"

Run = Callable[[], Any]  # solves all queries: weights, or gradients for the queries
Layer = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # weights and points


class Problem(NamedTuple):
    """Queries (N, d), values (N, n, d) or shared (n, d), and gradients (N, d) of a loss for the points."""

    queries: np.ndarray
    values: np.ndarray
    slope: np.ndarray

    def first(self, count: int) -> Problem:
        """The same with fewer queries."""
        values = self.values if self.values.ndim == 2 else self.values[:count]
        return Problem(self.queries[:count], values, self.slope[:count])


class Solver(NamedTuple):
    """`prepare(problem, backward)` makes what is timed."""

    name: str
    prepare: Callable[[Problem, bool], Run]
    differentiable: bool = False


def solvers(n: int, device: str) -> list[Solver]:
    ours = partial(with_torch, course, device=device)
    chunk = max(4, (2**31 if device == "cuda" else 2**21) // (8 * n * n))  # bytes: larger ones are slower
    result = [Solver(OWN, ours, True), Solver(SHARED, ours, True)]
    result += [Solver("qpth, weights", partial(with_torch, qpth, device=device, chunk=chunk), True)]
    if device == "cuda":
        return result
    for form in ("weights", "distance"):
        layer = partial(qplayer, distance=form == "distance")
        result += [Solver(f"QPLayer, {form}", partial(with_torch, layer, chunk=chunk), True)]
        result += [Solver(f"qpax, {form}", partial(qpax, distance=form == "distance"), True)]
    result += [Solver(name, partial(cvxpy, compiled=name == COMPILED)) for name in (REBUILT, COMPILED)]
    return [*result, Solver("scipy nnls", scipy_nnls), Solver("quadprog", quadprog), Solver("daqp", daqp)]


def need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"{module} is missing ({error}). Install the peers: {INSTALL}") from error


def distance_rows(query: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n, d + 1), the rows (wᵢ, s) divided by s."""
    rows = np.ones((len(values), len(query) + 1))
    np.subtract(values, query, out=rows[:, :-1])
    rows[:, :-1] /= np.sqrt(np.square(rows[:, :-1]).sum(-1).max())
    return rows


def one_by_one(solve: Callable[[np.ndarray, np.ndarray], np.ndarray], problem: Problem) -> Run:
    return lambda: np.stack([solve(q, v) for q, v in zip(problem.queries, problem.values, strict=True)])


def scipy_nnls(problem: Problem, backward: bool) -> Run:
    last = np.eye(problem.queries.shape[1] + 1)[-1]
    return one_by_one(lambda q, v: nnls(distance_rows(q, v).T, last)[0], problem)


def quadprog(problem: Problem, backward: bool) -> Run:
    n, m = problem.values.shape[1], problem.queries.shape[1] + 1
    solve_qp, eye, zero, one = need("quadprog").solve_qp, np.eye(m), np.zeros(m), np.ones(n)
    return one_by_one(lambda q, v: solve_qp(eye, zero, distance_rows(q, v).T, one)[4], problem)


def daqp(problem: Problem, backward: bool) -> Run:
    """One workspace for all queries, as its manual advises."""
    n, m = problem.values.shape[1], problem.queries.shape[1] + 1
    above, least, sense = np.full(n, 1e30), np.ones(n), np.zeros(n, dtype=np.int32)
    model = need("daqp").Model()
    model.settings = {**model.settings, "primal_tol": 1e-11}  # with the default, 1e-6, gaps reach 1e-6
    rows = distance_rows(problem.queries[0], problem.values[0])
    model.setup(np.eye(m), np.zeros(m), rows, above, least, sense)

    def solve(query: np.ndarray, values: np.ndarray) -> np.ndarray:
        model.update(A=distance_rows(query, values), sense=np.zeros(n, dtype=np.int32))
        return model.solve()[3]["lam"]

    return one_by_one(lambda q, v: np.abs(solve(q, v)), problem)


def cvxpy(problem: Problem, backward: bool, compiled: bool) -> Run:
    """Rebuilt for every query, or compiled once with queries and values as parameters."""
    cp = need("cvxpy")

    def program(q: Any, v: Any) -> tuple[Any, Any]:
        a = cp.Variable(v.shape[0], nonneg=True)
        return cp.Problem(cp.Minimize(cp.sum_squares(v.T @ a - q)), [cp.sum(a) == 1]), a

    parameters = [cp.Parameter(x.shape[1:]) for x in (problem.queries, problem.values)]
    once = program(*parameters)

    def solve(*data: np.ndarray) -> np.ndarray:
        if compiled:
            for parameter, value in zip(parameters, data, strict=True):
                parameter.value = value
        task, a = once if compiled else program(*data)
        task.solve(solver="CLARABEL")
        return a.value

    return one_by_one(solve, problem)


def with_torch(
    layer: Layer, problem: Problem, backward: bool, device: str = "cpu", chunk: int = 10**9
) -> Run:
    """Chunks of queries: layers that fill matrices for each are fastest when these stay in the cache."""
    q, v, slope = (torch.tensor(x, device=device) for x in problem)
    cuts = [slice(i, i + chunk) for i in range(0, len(q), chunk)]
    chunks = [(q[cut], v if v.ndim == 2 else v[cut], slope[cut]) for cut in cuts]

    def gradient(q: torch.Tensor, v: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        q, v = q.detach().requires_grad_(), v.detach().requires_grad_()
        return torch.autograd.grad((layer(q, v)[1] * slope).sum(), (q, v))[0]

    if backward:
        return lambda: torch.cat([gradient(*c) for c in chunks])
    return lambda: torch.cat([layer(q, v)[0] for q, v, _ in chunks])


def course(q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return hull.project(q, v)[:2]


def seen(q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W / s and s (N, 1)."""
    w = v - q[:, None]
    s = w.detach().norm(dim=-1).amax(-1)[:, None]
    return w / s[..., None], s


def qpth(q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """It wants a definite matrix: a ridge, too small to show in the gap."""
    (w, _), n = seen(q, v), v.shape[1]
    eye, zero, one = torch.eye(n).to(v), torch.zeros(n).to(v), torch.ones(1).to(v)
    layer = need("qpth.qp").QPFunction(verbose=-1, check_Q_spd=False)
    a = layer(w @ w.mT + 1e-10 * eye, zero.expand(len(q), n), -eye, zero, one.expand(1, n), one)
    return a, (a[:, None] @ v)[:, 0]


def qplayer(q: torch.Tensor, v: torch.Tensor, distance: bool) -> tuple[torch.Tensor, torch.Tensor]:
    (w, s), (n, d), size = seen(q, v), v.shape[1:], len(q)
    layer, none = need("proxsuite.torch.qplayer").QPFunction(), torch.tensor([])
    above = torch.full((n,), 1e20)
    if distance:
        rows = torch.cat([w, torch.ones(size, n, 1)], -1)
        y, _, a = layer(torch.eye(d + 1), torch.zeros(size, d + 1), none, none, rows, torch.ones(n), above)
        return a.abs(), q + s * y[:, :-1] / y[:, -1:]
    simplex = torch.ones(1, n), torch.ones(1), torch.eye(n), torch.zeros(n), above
    a = layer(w @ w.mT, torch.zeros(size, n), *simplex)[0]
    return a, (a[:, None] @ v)[:, 0]


def qpax(problem: Problem, backward: bool, distance: bool) -> Run:
    """At the tolerance 1e-8 it rarely stops by itself; 16 steps reach it.

    Its faster, explicit, backend computes a wrong gradient for the constraints' matrix (version 0.1.4), which
    "distance" needs.
    """
    jax, jnp, qp = need("jax"), need("jax.numpy"), need("qpax")
    jax.config.update("jax_enable_x64", True)
    n, d = problem.values.shape[1:]
    chunk = max(1, 2**19 // (8 * n * n))

    def program(q: Any, v: Any) -> tuple[Any, tuple[Any, ...]]:
        w = v - q
        s = jnp.sqrt(jax.lax.stop_gradient((w * w).sum(-1).max()))
        w = w / s
        if distance:
            m, rows = d + 1, jnp.concatenate([w, jnp.ones((n, 1))], -1)
            return s, (jnp.eye(m), jnp.zeros(m), jnp.zeros((0, m)), jnp.zeros(0), -rows, -jnp.ones(n))
        return s, (w @ w.T, jnp.zeros(n), jnp.ones((1, n)), jnp.ones(1), -jnp.eye(n), jnp.zeros(n))

    def weights(q: Any, v: Any, slope: Any) -> Any:
        return qp.solve_qp(*program(q, v)[1], solver_tol=1e-8, max_iter=16)[2 if distance else 0]

    def loss(q: Any, v: Any, slope: Any) -> Any:
        s, matrices = program(q, v)
        way = {"backend": "i", "max_iter": 30} if distance else {"backend": "e", "max_iter": 16}
        x = qp.solve_qp_primal(*matrices, solver_tol=1e-8, target_kappa=1e-12, **way)
        return (q + s * x[:-1] / x[-1] if distance else x @ v) @ slope

    one = jax.grad(loss, (0, 1)) if backward else weights
    function = jax.jit(lambda *data: jax.lax.map(lambda x: one(*x), data, batch_size=chunk))
    arguments = [jnp.asarray(x) for x in problem]

    def run() -> Any:
        result = jax.block_until_ready(function(*arguments))
        return result[0] if backward else result

    return run
