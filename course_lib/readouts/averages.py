"""Readouts: ways to average values with weights that compare a query with keys.

All have one signature. They take queries (..., m, d), keys (..., n, d) and values (..., n, d_v), whose
leading axes (batch, heads) broadcast, and a mask (..., m, n), true where a query may use a key; every query
may use at least one. They return outputs (..., m, d_v) and weights (..., m, n). Further arguments are bound
with `functools.partial`, after which each can take the place of softmax in a transformer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_lib.readouts.hull import broadcasts, project

_LARGE = 2**20  # numbers: sets of keys that would take more in copies are projected onto one by one

Readout = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def softmax(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    c: float | torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as usual: α is the softmax of c times the scores zᵢ = ⟨q, kᵢ⟩ (Vaswani et al. 2017).

    Args:
        queries: (..., m, d).
        keys: (..., n, d).
        values: (..., n, d_v).
        mask: (..., m, n), true where a query may use a key.
        c: inverse temperature, a number or a tensor that broadcasts with the scores; by default 1/√d.

    Returns:
        Outputs (..., m, d_v) and weights (..., m, n).

    Raises:
        ValueError: shapes do not fit, or a query may use no key.
    """
    return _read(_scores(queries, keys, values, mask, c).softmax(-1), values)


def distance_softmax(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    c: float | torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """α = softmax(−c‖q − kᵢ‖²/2): a Gaussian kernel of variance 1/c (Nadaraya 1964; Watson 1964).

    As ‖q − k‖² = ‖q‖² − 2⟨q, k⟩ + ‖k‖² and a number that is the same for all keys cancels, it is `softmax`
    with c‖kᵢ‖²/2 taken off the scores. Arguments, result and errors as there.
    """
    _check(queries, keys, values, mask)
    centre = keys.mean(-2, keepdim=True)  # far from the origin, large numbers would cancel
    queries, keys, scale = queries - centre, keys - centre, _scale(queries, c)
    scores = _scores(queries, keys, values, mask, scale)
    return _read((scores - scale * keys.square().sum(-1)[..., None, :] / 2).softmax(-1), values)


def sparsemax(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    c: float | torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """α is the point of the simplex nearest to c z (Martins & Astudillo 2016). Otherwise as `softmax`."""
    return _read(onto_simplex(_scores(queries, keys, values, mask, c)), values)


def unit_norm(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    c: float | torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """α = softmax(c z) divided by its length, ‖α‖₂ = 1; outputs leave the hull. Otherwise as `softmax`."""
    alpha = _scores(queries, keys, values, mask, c).softmax(-1)
    return _read(alpha / alpha.norm(dim=-1, keepdim=True), values)


def uniform(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same weight for every key that the query may use: a control. Otherwise as `softmax`."""
    _check(queries, keys, values, mask)
    scores = torch.zeros_like(queries @ keys.mT)
    return _read((scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1), values)


def onto_hull(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    scale: float = 1.0,
    max_support: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """α are the weights of the point nearest to the query in the convex hull of the keys.

    Args:
        queries: (..., m, d).
        keys: (..., n, d).
        values: (..., n, d_v).
        mask: (..., m, n), true where a query may use a key.
        scale: a number that the queries are multiplied with first.
        max_support: at most so many weights that are not zero, see `readouts.hull.project`.

    Returns:
        Outputs (..., m, d_v) and weights (..., m, n).

    Raises:
        ValueError: shapes do not fit, or a query may use no key.
    """
    _check(queries, keys, values, mask)
    queries = scale * queries
    if keys.ndim == 2:
        return _read(project(queries, keys, mask=mask, max_support=max_support).coordinates, values)
    lead = torch.broadcast_shapes(
        queries.shape[:-2], keys.shape[:-2], () if mask is None else mask.shape[:-2]
    )
    (m, d), n = queries.shape[-2:], keys.shape[-2]
    queries, keys = queries.expand(*lead, m, d), keys.expand(*lead, n, d)
    mask = mask if mask is None else mask.expand(*lead, m, n)
    if m * n * d <= _LARGE:  # all sets at once; each query gets a copy of its keys
        each = keys[..., None, :, :].expand(*lead, m, n, d)
        return _read(project(queries, each, mask=mask, max_support=max_support).coordinates, values)
    masks = [None] * lead.numel() if mask is None else mask.flatten(0, -3)
    sets = zip(queries.flatten(0, -3), keys.flatten(0, -3), masks, strict=True)
    alpha = [project(q, k, mask=may, max_support=max_support).coordinates for q, k, may in sets]
    return _read(torch.stack(alpha).view(*lead, m, n), values)


def k_nearest(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A readout to compare with: the k nearest keys have the weight 1/k each (Cover & Hart 1967)."""
    most = keys.shape[-2] if mask is None else int(mask.sum(-1).min())
    if not 1 <= k <= most:
        raise ValueError(f"k={k}: expected 1 to {most} keys")
    distances = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances if mask is None else distances.masked_fill(~mask, torch.inf)
    alpha = torch.zeros_like(distances).scatter(-1, distances.topk(k, largest=False).indices, 1 / k)
    return alpha @ values, alpha


def onto_simplex(z: torch.Tensor) -> torch.Tensor:
    """The nearest weights of sum one that are not negative: α = max(z − t, 0) with the t that makes Σα = 1.

    Args:
        z: (..., n); −∞ gets no weight.

    Returns:
        (..., n).
    """
    z = z - z.amax(-1, keepdim=True)
    falling = z.sort(-1, descending=True).values
    places = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    inside = 1 + places * falling > falling.cumsum(-1)  # the largest numbers, for as long as they get weight
    count = inside.sum(-1, keepdim=True)
    total = falling.masked_fill(~inside, 0).sum(-1, keepdim=True)
    return (z - (total - 1) / count).clamp_min(0)


def _scores(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    c: float | torch.Tensor | None,
) -> torch.Tensor:
    """(..., m, n), −∞ where the mask forbids."""
    _check(queries, keys, values, mask)
    scores = _scale(queries, c) * (queries @ keys.mT)
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def _scale(queries: torch.Tensor, c: float | torch.Tensor | None) -> float | torch.Tensor:
    return queries.shape[-1] ** -0.5 if c is None else c


def _read(alpha: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return alpha @ values, alpha


def _check(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> None:
    for name, tensor in (("queries", queries), ("keys", keys), ("values", values)):
        if tensor.ndim < 2:
            raise ValueError(f"{name}: expected two axes or more, got shape {tuple(tensor.shape)}")
    if queries.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"keys: expected vectors of length {queries.shape[-1]}, as the queries, got {keys.shape[-1]}"
        )
    if keys.shape[-2] != values.shape[-2] or not keys.shape[-2]:
        raise ValueError(
            f"values: expected one for each of at least one key, got {values.shape[-2]} for {keys.shape[-2]}"
        )
    try:
        lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (queries, keys, values)))
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in (queries, keys, values))
        raise ValueError(
            f"queries, keys, values: expected leading axes that broadcast, got {shapes}"
        ) from error
    expected = (*lead, queries.shape[-2], keys.shape[-2])
    if mask is not None and (mask.dtype != torch.bool or not broadcasts(mask.shape, expected)):
        raise ValueError(
            f"mask: expected booleans of shape (..., {queries.shape[-2]}, {keys.shape[-2]}), "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if mask is not None and not mask.any(-1).all():
        raise ValueError("mask: expected every query to have a key that it may use")
