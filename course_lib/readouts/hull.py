"""The point of a span, a plane or a convex hull that is nearest to a query.

Attention returns an average of values with weights α ≥ 0, Σα = 1: a point of their convex hull. The point of
the hull nearest to the query q has the weights that solve min ½‖Σ αᵢvᵢ − q‖². `project` finds it exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import nnls

_ADD = 4  # vertices added in one round: with more, supports are overshot and rounds are wasted
_PATIENCE = 3  # rounds without progress before vertices are added one at a time
_ROUNDS = 60  # and one for each vertex that may be used
_FAR = 1e12  # radii
_RIDGE = 1e-14  # makes dependent vertices factorisable; the refinement takes it out again
_TOLERANCE = 4e-13  # of a slope, relative to the distance, in a hull of radius one


class Projection(NamedTuple):
    """What `project` finds.

    Attributes:
        coordinates: (..., n) weights of the values.
        point: (..., d) their average, the projection.
        gap: (...) by how much ½‖point − q‖² may at most exceed its smallest value, the hull's duality gap;
            for span and plane, the steepest slope towards a value. In squared units, and before the results
            are rounded to the dtype of the queries.
        support: (..., n) which coordinates are not zero.
    """

    coordinates: torch.Tensor
    point: torch.Tensor
    gap: torch.Tensor
    support: torch.Tensor


def project(
    queries: torch.Tensor,
    values: torch.Tensor,
    onto: str = "hull",
    *,
    mask: torch.Tensor | None = None,
    max_support: int | None = None,
) -> Projection:
    """Finds the point nearest to each query.

    Args:
        queries: (..., d) floating-point numbers.
        values: (n, d), shared by all queries, or (..., n, d), a set for each query.
        onto: "span" for any weights, "affine" for weights of sum one, "hull" if they are not negative either.
        mask: for the hull, booleans that broadcast to (..., n), true where a query may use a value.
        max_support: for the hull, the largest number of values to use. They are chosen greedily, each where
            the distance falls fastest, so that another choice of as many may come nearer.

    Returns:
        The projections, in the dtype of the queries and computed in float64. Where weights are not unique,
        those of span and plane are the smallest; those of the hull use at most d + 1 values. Coordinates and
        point are differentiable in queries and values as long as the support stays the same.

    Raises:
        ValueError: shapes do not fit, something is not finite, a query may use no value, or `onto`, `mask` or
            `max_support` is not one of those above.
    """
    _check(queries, values, onto, mask, max_support)
    batch, (n, d) = queries.shape[:-1], values.shape[-2:]
    q, v = queries.reshape(-1, d).double(), values.double()
    if v.ndim > 2:
        v = v.expand(*batch, n, d).reshape(-1, n, d)
    allowed = None if mask is None else mask.expand(*batch, n).reshape(-1, n)
    used = allowed if allowed is None or v.ndim == 3 else allowed.any(0)
    # sums of weights are one, except for the span: then the centre of the values can be moved to the origin
    centre = torch.zeros(d).to(v) if onto == "span" else _mean(v, used)
    centre = centre.detach() if onto == "hull" else centre  # where it is makes no difference to the hull
    with torch.no_grad():
        unit = v - centre[..., None, :]
        lengths = unit.norm(dim=-1)  # (n) or (B, n)
        lengths = lengths if used is None else lengths.where(used, 0)
        radius = lengths.amax(-1, keepdim=True)
        offset = centre.norm(dim=-1, keepdim=True)
        precision = max(n, d) * torch.finfo(v.dtype).eps  # closer values than that are the same
        radius = torch.where(radius > precision * offset, radius, torch.where(offset > 0, offset, 1))
        unit.div_(radius[..., None])  # in place: values are large
    q = (q - centre) / radius
    if onto == "hull":
        far = q.detach().norm(dim=-1, keepdim=True)
        near = q.detach() * (_FAR / far).clamp(max=1)  # farther away makes no difference
        solution = _solve(near, unit, lengths / radius, allowed, max_support)
        vertices, on = _pack(solution > 0)
        chosen = _choose(v, torch.arange(len(q), device=q.device), vertices)
        chosen = (chosen - centre[..., None, :]) / radius[..., None] * on[..., None]
        weights = _implicit(solution.gather(-1, vertices) * on, q, chosen, on)
        a, point = torch.zeros_like(solution).scatter_add(-1, vertices, weights), _times(weights, chosen)
    else:
        v = (v - centre[..., None, :]) / radius[..., None]
        rounding = precision * (1 + offset.detach() / radius)[..., 0]  # the centring uncovers it
        a = _times(q, torch.linalg.pinv(v, atol=rounding, rtol=torch.full_like(rounding, precision)))
        a = a + (1 / n if onto == "affine" else 0)
        point = _times(a, v)
    slopes = _times((point - q).detach(), unit.mT)
    if onto == "hull":
        lowest = slopes if allowed is None else slopes.masked_fill(~allowed, torch.inf)
        gap = (a.detach() * slopes).sum(-1) - lowest.amin(-1)
    else:
        gap = slopes.abs().amax(-1)
    results = a, point * radius + centre, gap * radius[..., 0].square()
    a, point, gap = (x.reshape((*batch, *x.shape[1:])).to(queries.dtype) for x in results)
    return Projection(a, point, gap, a != 0)


def _mean(v: torch.Tensor, used: torch.Tensor | None) -> torch.Tensor:
    """Of the values (n, d) or (B, n, d) that are used, (n) or (B, n): (d) or (B, d)."""
    if used is None:
        return v.mean(-2)
    return v.masked_fill(~used[..., None], 0).sum(-2) / used.sum(-1, keepdim=True)


def _check(
    queries: torch.Tensor, values: torch.Tensor, onto: str, mask: torch.Tensor | None, max_support: int | None
) -> None:
    for name, tensor, least in (("queries", queries, 1), ("values", values, 2)):
        if tensor.ndim < least or not tensor.is_floating_point():
            raise ValueError(
                f"{name}: expected floating-point numbers on {least} or more axes, "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if 0 in values.shape[-2:]:
        raise ValueError(f"values: expected at least one, got shape {tuple(values.shape)}")
    if queries.shape[-1] != values.shape[-1] or values.shape[:-2] not in ((), queries.shape[:-1]):
        raise ValueError(
            f"values: expected shape (n, {queries.shape[-1]}) or (*{tuple(queries.shape[:-1])}, n, "
            f"{queries.shape[-1]}) for queries of shape {tuple(queries.shape)}, got {tuple(values.shape)}"
        )
    if onto not in ("span", "affine", "hull"):
        raise ValueError(f"onto={onto!r}: expected 'span', 'affine' or 'hull'")
    if max_support is not None and not (isinstance(max_support, int) and max_support > 0 and onto == "hull"):
        raise ValueError(f"max_support={max_support!r}: expected a positive integer, and onto='hull'")
    if mask is None:
        return
    shape = (*queries.shape[:-1], values.shape[-2])
    if onto != "hull" or mask.dtype != torch.bool or not broadcasts(mask.shape, shape):
        raise ValueError(
            f"mask: expected booleans that broadcast to {shape}, and onto='hull', "
            f"got {mask.dtype} of shape {tuple(mask.shape)}, and onto={onto!r}"
        )
    if not mask.any(-1).all():
        raise ValueError("mask: expected every query to have a value that it may use")


def broadcasts(shape: torch.Size, to: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape can be expanded to the other."""
    short = len(to) - len(shape)
    return short >= 0 and all(a in (1, b) for a, b in zip(shape, to[short:], strict=True))


def _times(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Each row of x (B, i) times a matrix shared by all rows (i, j) or its own (B, i, j): (B, j)."""
    return x @ m if m.ndim == 2 else torch.bmm(x[:, None], m)[:, 0]


def _solve(
    q: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    allowed: torch.Tensor | None,
    max_support: int | None,
) -> torch.Tensor:
    """Weights of the nearest points of the hull, by block pivoting (Portugal, Júdice & Vicente 1994).

    Every round fits the weights of the current vertices, drops those whose weight is negative and adds those
    towards which the distance still falls. It ends with no such vertex on either side: the conditions of
    optimality. At most d + 1 vertices are used, so that few suffice inside the hull too.

    Args:
        q: (B, d).
        v: (n, d) or (B, n, d), centred, the farthest at distance one.
        lengths: (n) or (B, n) of the vertices.
        allowed: (B, n) which vertices a query may use; all, if it is not given.
        max_support: at most so many vertices, added one at a time.

    Returns:
        (B, n).
    """
    (size, d), n = q.shape, v.shape[-2]
    a = torch.zeros(size, n, dtype=q.dtype, device=q.device)
    if size == 0:
        return a
    most = min(n, d + 1)
    greedy = max_support is not None and max_support < most
    score = _times(q, v.mT)
    rows = at = torch.arange(size, device=q.device)  # which row of a, and of v, belongs to each query
    current = torch.zeros_like(a, dtype=torch.bool)  # the vertices in use
    if allowed is None:
        allowed = torch.ones_like(current)
    near = (lengths.square() - 2 * score).masked_fill(~allowed, torch.inf)
    current[rows, near.argmin(-1)] = True
    fewest, stalled = torch.full_like(rows, n + 1), torch.zeros_like(rows)
    for round_ in range(4 * max_support + 1 if greedy else _ROUNDS + most):
        fit = _fit(q, v, at, score, current)
        negative = fit.weights < 0
        steep = allowed & ~current & (fit.slopes < -(_TOLERANCE * fit.distance + 1e-15)[:, None])
        if greedy:
            free = (current.sum(-1) < max_support) & ~negative.any(-1) & (round_ < 3 * max_support)
            steep &= free[:, None]
        wrong = negative | steep
        live = wrong.any(-1) | fit.failed
        done = ~live
        a[rows[done]] = fit.weights[done]
        if not live.any():
            return a
        stalled = torch.where(wrong.sum(-1) < fewest, 0, stalled + 1)
        fewest = torch.minimum(fewest, wrong.sum(-1))
        kept = current & ~negative
        if greedy:
            current = _add(kept, fit.slopes, steep, torch.ones_like(rows))
        else:
            room = torch.where(stalled > _PATIENCE, 1, _ADD).clamp(max=most - kept.sum(-1))
            full = (room == 0) & ~negative.any(-1)  # and not optimal: some vertices depend on the others
            kept[full, fit.loose[full]] = False
            current, before = _add(kept, fit.slopes, steep, torch.where(full, 1, room)), current.sum(-1)
            if most == n:  # a simplex: when many of its vertices are in use, all of them may be
                many = (before <= n / 3) & (current.sum(-1) > n / 3) & (stalled <= _PATIENCE)
                current[many] = allowed[many]
        q, score, allowed, current, fewest, stalled, rows, at = (
            x[live] for x in (q, score, allowed, current, fewest, stalled, rows, at)
        )
        if v.ndim == 3 and len(at) < 0.6 * len(v):  # not every time: values are large
            v, at = v[at], torch.arange(len(at), device=q.device)
    a[rows] = _one_by_one(q, v if v.ndim == 2 else v[at], allowed)
    return a


def _add(
    current: torch.Tensor, slopes: torch.Tensor, steep: torch.Tensor, room: torch.Tensor
) -> torch.Tensor:
    """The current vertices and the steepest ones, at most as many as there is room for, (B,)."""
    falling = torch.where(steep, slopes, torch.inf).topk(min(_ADD, slopes.shape[-1]), -1, largest=False)
    places = torch.arange(falling.values.shape[-1], device=room.device)
    added = falling.values.isfinite() & (places < room[:, None])
    return current | torch.zeros_like(current).scatter(-1, falling.indices, added)


def _one_by_one(q: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """The same by non-negative least squares, for the rare queries on which block pivoting goes in circles.

    With the values seen from the query, Σ bᵢ(vᵢ − q) = 0 and Σ bᵢ = 1 as nearly as possible, b ≥ 0: the
    directions of b and of the weights agree (Haskell & Hanson 1981).
    """
    a = torch.zeros(allowed.shape, dtype=q.dtype)
    for row, query, values, may in zip(
        a, q.cpu(), v.cpu().expand(len(q), -1, -1), allowed.cpu(), strict=True
    ):
        seen = torch.cat([values[may] - query, torch.ones_like(values[may][:, :1])], -1)
        b, _ = nnls(seen.T.numpy(), torch.eye(seen.shape[-1], dtype=seen.dtype)[-1].numpy())
        row[may] = torch.from_numpy(b / b.sum())
    return a.to(q)


class _Fit(NamedTuple):
    """The best weights, of any sign and with sum one, on the current vertices of each query.

    Attributes:
        weights: (B, n).
        slopes: (B, n) towards all vertices, less those on the current ones.
        distance: (B,) from the query to the average.
        failed: (B,) whether rounding errors left no such weights.
        loose: (B,) the vertex that depends most on the others.
    """

    weights: torch.Tensor
    slopes: torch.Tensor
    distance: torch.Tensor
    failed: torch.Tensor
    loose: torch.Tensor


def _fit(
    q: torch.Tensor, v: torch.Tensor, at: torch.Tensor, score: torch.Tensor, current: torch.Tensor
) -> _Fit:
    vertices, on = _pack(current)
    chosen = _choose(v, at, vertices) * on[..., None]
    factor, info = _factor(chosen, on)
    right = torch.stack([score.gather(-1, vertices) * on, on], -1)
    best, ones = torch.cholesky_solve(right, factor).unbind(-1)
    unit = ones / ones.sum(-1, keepdim=True)
    weights = best + (1 - best.sum(-1, keepdim=True)) * unit
    # refined with slopes that come not from the Gram matrix, which squares the condition number
    slopes = torch.bmm(chosen, (_times(weights, chosen) - q)[..., None])
    weights = weights - torch.cholesky_solve(slopes, factor)[..., 0]
    weights = weights + (1 - weights.sum(-1, keepdim=True)) * unit
    residual = _times(weights, chosen) - q
    level = torch.bmm(chosen, residual[..., None])[..., 0].sum(-1, keepdim=True) / on.sum(-1, keepdim=True)
    if v.ndim == 2:
        slopes = residual @ v.mT
    else:  # of all rows of v, without a copy
        spread = torch.zeros(len(v), q.shape[-1], dtype=q.dtype, device=q.device)
        slopes = torch.bmm(v, spread.index_copy(0, at, residual)[..., None])[at, :, 0]
    pivots = torch.where(on > 0, factor.diagonal(dim1=1, dim2=2), torch.inf)
    return _Fit(
        weights=torch.zeros_like(score).scatter_add(-1, vertices, weights * on),
        slopes=slopes - level,
        distance=residual.norm(dim=-1),
        failed=(info > 0) | ~weights.isfinite().all(-1),
        loose=vertices.gather(-1, pivots.argmin(-1, keepdim=True))[..., 0],
    )


def _pack(current: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the marked vertices, (B, k), and 1.0 where there is one; 0 and 0.0 in the rest."""
    counts = current.sum(-1)
    row, vertex = current.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    vertices = counts.new_zeros(len(counts), int(counts.max()) if len(counts) else 0)
    vertices[row, place] = vertex
    return vertices, (torch.arange(vertices.shape[1], device=row.device) < counts[:, None]).double()


def _choose(v: torch.Tensor, at: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
    """The vertices (B, k) of shared values, or of the rows `at` (B,) of v: (B, k, d)."""
    if v.ndim == 3:
        vertices = vertices + v.shape[1] * at[:, None]
    return v.flatten(0, -2).index_select(0, vertices.flatten()).view(*vertices.shape, v.shape[-1])


def _factor(chosen: torch.Tensor, on: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factors of the products of vertices plus one, which changes nothing on weights of sum one."""
    gram = torch.baddbmm(on[:, :, None] * on[:, None, :], chosen, chosen.mT)
    gram.diagonal(dim1=1, dim2=2).add_(1 - on + _RIDGE)
    return torch.linalg.cholesky_ex(gram)


def _implicit(weights: torch.Tensor, q: torch.Tensor, chosen: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
    """The weights (B, k) as a differentiable function of q and vertices, by the implicit function theorem.

    On the support the slopes are equal. A Newton step restores that when q and the vertices change; at the
    solution itself the step is zero, but not its derivative.
    """
    if not (q.requires_grad or chosen.requires_grad):
        return weights
    factor, _ = _factor(chosen, on)
    slopes = torch.bmm(chosen, (_times(weights, chosen) - q)[..., None])[..., 0]
    step, ones = torch.cholesky_solve(torch.stack([slopes, on], -1), factor).unbind(-1)
    step = (step - step.sum(-1, keepdim=True) * ones / ones.sum(-1, keepdim=True)) * on
    return weights - (step - step.detach())
