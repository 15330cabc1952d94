"""Chapter 02: the point of a span, a plane or a convex hull that is nearest to a query.

Attention returns an average of values with weights α ≥ 0, Σα = 1: a point of their convex hull. The point of
the hull nearest to the query q has the weights that solve min ½‖Σ αᵢvᵢ − q‖². `project` finds it exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import nnls

_ADD = 4  # vertices added in one round: with more, supports are overshot and rounds are wasted
_PATIENCE = 3  # rounds without progress before vertices are added one at a time
_ROUNDS = 200
_RIDGE = 1e-14  # makes dependent vertices factorisable; the refinement takes it out again
_TOLERANCE = 4e-13  # of a slope, relative to the distance, in a hull of radius one


class Projection(NamedTuple):
    """What `project` finds.

    Attributes:
        coordinates: (..., n) weights of the values.
        point: (..., d) their average, the projection.
        gap: (...) by how much ½‖point − q‖² may at most exceed its smallest value, the hull's duality gap;
            for span and plane, the steepest slope towards a value. In squared units.
        support: (..., n) which coordinates are not zero.
    """

    coordinates: torch.Tensor
    point: torch.Tensor
    gap: torch.Tensor
    support: torch.Tensor


def project(
    queries: torch.Tensor, values: torch.Tensor, onto: str = "hull", max_support: int | None = None
) -> Projection:
    """Finds the point nearest to each query.

    Args:
        queries: (..., d) floating-point numbers.
        values: (n, d), shared by all queries, or (..., n, d), a set for each query.
        onto: "span" for any weights, "affine" for weights of sum one, "hull" if they are not negative either.
        max_support: for the hull, the largest number of values to use. They are chosen greedily, each where
            the distance falls fastest, so that another choice of as many may come nearer.

    Returns:
        The projections, in the dtype of the queries and computed in float64. Where weights are not unique,
        those of span and plane are the smallest; those of the hull use at most d + 1 values. Coordinates and
        point are differentiable in queries and values as long as the support stays the same.

    Raises:
        ValueError: shapes do not fit, something is not finite, there are no values, or `onto` or
            `max_support` is not one of those above.
    """
    _check(queries, values, onto, max_support)
    batch, (n, d) = queries.shape[:-1], values.shape[-2:]
    q, v = queries.reshape(-1, d).double(), values.double()
    if v.ndim > 2:
        v = v.expand(*batch, n, d).reshape(-1, n, d)
    # sums of weights are one, except for the span: then the centre of the values can be moved to the origin
    c = torch.zeros(d).to(v) if onto == "span" else v.mean(-2)
    q, v = q - c, v - c[..., None, :]
    if onto == "hull":
        a = _implicit(_solve(q.detach(), v.detach(), max_support), q, v)
    else:
        a = _times(q, torch.linalg.pinv(v)) + (1 / n if onto == "affine" else 0)
    point = _times(a, v)
    slopes = _times(point - q, v.mT).detach()
    gap = (a.detach() * slopes).sum(-1) - slopes.amin(-1) if onto == "hull" else slopes.abs().amax(-1)
    a, point, gap = (x.reshape((*batch, *x.shape[1:])).to(queries.dtype) for x in (a, point + c, gap))
    return Projection(a, point, gap, a != 0)


def _check(queries: torch.Tensor, values: torch.Tensor, onto: str, max_support: int | None) -> None:
    for name, tensor, least in (("queries", queries, 1), ("values", values, 2)):
        if tensor.ndim < least or not tensor.is_floating_point():
            raise ValueError(
                f"{name}: expected floating-point numbers on {least} or more axes, "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        if not tensor.isfinite().all():
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
    if max_support is not None and (onto != "hull" or max_support < 1):
        raise ValueError(f"max_support={max_support!r}: expected at least 1, and onto='hull'")


def _times(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """Each row of x (B, i) times a matrix shared by all rows (i, j) or its own (B, i, j): (B, j)."""
    return x @ m if m.ndim == 2 else torch.bmm(x[:, None], m)[:, 0]


def _solve(q: torch.Tensor, v: torch.Tensor, max_support: int | None) -> torch.Tensor:
    """Weights of the nearest points of the hull, by block pivoting (Portugal, Júdice & Vicente 1994).

    Every round solves for the weights of the current vertices, drops those whose weight is negative and adds
    those towards which the distance still falls. It ends with no such vertex on either side: the conditions
    of optimality. At most d + 1 vertices are used, so that few suffice inside the hull too.

    Args:
        q: (B, d).
        v: (n, d) or (B, n, d), centred.
        max_support: at most so many vertices, added one at a time.

    Returns:
        (B, n).
    """
    radius = v.norm(dim=-1).amax(-1)  # () or (B,)
    radius = torch.where(radius > 0, radius, 1)
    q, v = q / radius[..., None], v / radius[..., None, None]
    (size, d), n = q.shape, v.shape[-2]
    most = min(n, d + 1, max_support or n)
    score = _times(q, v.mT)
    rows = torch.arange(size, device=q.device)
    a = torch.zeros(size, n, dtype=q.dtype, device=q.device)
    if size == 0:
        return a
    inside = torch.zeros_like(a, dtype=torch.bool)  # which vertices are used
    inside[rows, (v.square().sum(-1) - 2 * score).argmin(-1)] = True
    fewest, stalled = torch.full_like(rows, n + 1), torch.zeros_like(rows)
    places = torch.arange(min(_ADD, n), device=q.device)
    for round_ in range(_ROUNDS):
        weights, slopes, failed, loose = _on_support(q, v, score, inside)
        negative = weights < 0
        slack = _TOLERANCE * (_times(weights, v) - q).norm(dim=-1, keepdim=True) + 1e-15
        kept = inside & ~negative
        room = torch.where(stalled > _PATIENCE, 1, _ADD).clamp(max=most - kept.sum(-1))
        if max_support is not None:
            room = room.clamp(max=1 if round_ + 1 < most else 0)
        steep = ~inside & (slopes < -slack)
        if max_support is None:  # full, though not optimal: some of the vertices depend on the others
            full = (room == 0) & ~negative.any(-1)
            kept[full, loose[full]] = False
            room = torch.where(full, 1, room)
        else:
            steep &= (negative.any(-1) | (room > 0))[:, None]
        wrong = negative.sum(-1) + steep.sum(-1)
        live = (wrong > 0) | failed
        a[rows[~live]] = weights[~live]
        if not live.any():
            return a
        stalled = torch.where(wrong < fewest, 0, stalled + 1)
        fewest = torch.minimum(fewest, wrong)
        falling = torch.where(steep, slopes, torch.inf).topk(len(places), -1, largest=False)
        added = falling.values.isfinite() & (places < room[:, None])
        last = n - 1 - (negative | steep).flip(-1).to(torch.int8).argmax(-1)
        inside = torch.where(
            (stalled > 10 * _PATIENCE)[:, None] & (max_support is None),
            inside ^ torch.nn.functional.one_hot(last, n).bool(),  # slow, but cannot cycle (Murty 1974)
            kept | torch.zeros_like(kept).scatter(-1, falling.indices, added),
        )
        q, score, inside, fewest, stalled, rows = (x[live] for x in (q, score, inside, fewest, stalled, rows))
        v = v if v.ndim == 2 else v[live]
    a[rows] = _one_by_one(q, v)
    return a


def _one_by_one(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same by non-negative least squares, for the rare queries on which block pivoting goes in circles.

    With the values seen from the query, Σ bᵢ(vᵢ − q) = 0 and Σ bᵢ = 1 as nearly as possible, b ≥ 0: the
    directions of b and of the weights agree (Haskell & Hanson 1981).
    """
    rows = []
    for query, values in zip(q.cpu(), v.cpu().expand(len(q), -1, -1), strict=True):
        seen = torch.cat([values - query, torch.ones_like(values[:, :1])], -1)
        b, _ = nnls(seen.T.numpy(), torch.eye(seen.shape[-1], dtype=seen.dtype)[-1].numpy())
        rows.append(torch.from_numpy(b / b.sum()))
    return torch.stack(rows).to(q)


def _on_support(
    q: torch.Tensor, v: torch.Tensor, score: torch.Tensor, inside: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best weights, of any sign and with sum one, on the given vertices.

    Returns:
        (B, n) weights; (B, n) slopes towards all vertices, less those on the support; (B,) whether it failed;
        (B,) the vertex that depends most on the others.
    """
    vertices, on = _pack(inside)
    factor, info = torch.linalg.cholesky_ex(_gram(v, vertices, on))
    right = torch.stack([score.gather(-1, vertices) * on, on], -1)
    best, ones = torch.cholesky_solve(right, factor).unbind(-1)
    unit = ones / ones.sum(-1, keepdim=True)
    weights = best + (1 - best.sum(-1, keepdim=True)) * unit

    def look(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        full = torch.zeros_like(score).scatter(-1, vertices, weights * on)
        return full, _times(_times(full, v) - q, v.mT)

    _, slopes = look(weights)  # not from the Gram matrix, which squares the condition number: refines
    step = torch.cholesky_solve((slopes.gather(-1, vertices) * on)[..., None], factor)[..., 0]
    weights = weights - step
    weights = weights + (1 - weights.sum(-1, keepdim=True)) * unit
    full, slopes = look(weights)
    level = (slopes.gather(-1, vertices) * on).sum(-1, keepdim=True) / on.sum(-1, keepdim=True)
    pivots = torch.where(on > 0, factor.diagonal(dim1=1, dim2=2), torch.inf)
    loose = vertices.gather(-1, pivots.argmin(-1, keepdim=True))[..., 0]
    return full, slopes - level, (info > 0) | ~full.isfinite().all(-1), loose


def _pack(inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the marked vertices, (B, k), and 1.0 where there is one, 0.0 in the places left over."""
    k = int(inside.sum(-1).max())
    marks, vertices = inside.to(torch.float64).topk(k, -1)
    return vertices, marks


def _gram(v: torch.Tensor, vertices: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
    """(B, k, k) products of the vertices plus one, which changes nothing on weights of sum one."""
    chosen = v[vertices] if v.ndim == 2 else v.gather(1, vertices[..., None].expand(-1, -1, v.shape[-1]))
    gram = (chosen @ chosen.mT + 1) * (on[:, :, None] * on[:, None, :])
    gram.diagonal(dim1=1, dim2=2).add_(1 - on + _RIDGE)
    return gram


def _implicit(a: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The weights a (B, n) as a differentiable function of q and v, by the implicit function theorem.

    On the support the slopes are equal. A Newton step restores that when q and v change; at the solution
    itself the step is zero, but not its derivative.
    """
    if not (q.requires_grad or v.requires_grad):
        return a
    vertices, on = _pack(a > 0)
    radius = v.detach().norm(dim=-1).amax(-1)
    radius = torch.where(radius > 0, radius, 1)
    factor = torch.linalg.cholesky(_gram(v.detach() / radius[..., None, None], vertices, on))
    slopes = _times(_times(a, v) - q, v.mT).gather(-1, vertices) * on / radius.square()[..., None]
    step, ones = torch.cholesky_solve(torch.stack([slopes, on], -1), factor).unbind(-1)
    step = (step - step.sum(-1, keepdim=True) * ones / ones.sum(-1, keepdim=True)) * on
    return a - torch.zeros_like(a).scatter(-1, vertices, step - step.detach())
