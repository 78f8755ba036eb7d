"""Euclidean projections: ``argmin_u |u - w|`` over the allowed set.

Each is idempotent bit for bit: what is feasible up to a few units in the last place is not touched, and what is
projected is feasible in that sense. Sums and norms are therefore taken in float64 where the device has it. A group
with a number that is not finite stays not finite.

``axis`` says along which axis groups are counted; None takes the whole tensor as one group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ULPS = 4
"""How many times the machine's epsilon a group may exceed its bound and still count as feasible."""


def slack(rows: Tensor) -> float:
    """The relative excess that rounding alone may cause: of each number, and of their sum."""
    return ULPS * torch.finfo(rows.dtype).eps + math.sqrt(rows.shape[1]) * torch.finfo(wide(rows)).eps


def wide(w: Tensor) -> torch.dtype:
    """The type for sums: float64, where the device has it."""
    return torch.float32 if w.device.type == "mps" else torch.float64


def as_rows(w: Tensor, axis: int | None) -> Tensor:
    """``(groups, size)``."""
    if axis is None:
        return w.reshape(1, w.numel())
    return w.movedim(axis, 0).reshape(w.shape[axis], -1)


def from_rows(rows: Tensor, w: Tensor, axis: int | None) -> Tensor:
    """The inverse of `as_rows` for a tensor of ``w``'s shape."""
    if axis is None:
        return rows.reshape(w.shape)
    return rows.reshape(w.movedim(axis, 0).shape).movedim(0, axis)


def row_norms(rows: Tensor) -> Tensor:
    """``(groups, 1)`` Euclidean norms in the wide type."""
    # Squares of float64 are added pairwise: a running sum would lose as many digits as the groups are long.
    if rows.dtype == wide(rows):
        return rows.square().sum(dim=1, keepdim=True).sqrt()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=wide(rows))
    return norms


def into_norm_ball(w: Tensor, bound: float, axis: int | None) -> Tensor:
    """Project each group onto ``{u : |u_g|_2 <= bound}``: ``u_g = w_g * min(1, bound/|w_g|)``.

    Args:
        w: floating. Not modified.
        bound: >= 0. 0 gives zeros.
        axis: groups are counted along this axis; None is one group.
    """
    rows = as_rows(w, axis)
    norms = row_norms(rows)
    factor = bound / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    shrunk = (rows * factor.to(torch.promote_types(w.dtype, torch.float32))).to(w.dtype)
    return from_rows(torch.where(norms > bound * (1.0 + slack(rows)), shrunk, rows), w, axis)


def onto_unit_sphere(w: Tensor, axis: int | None) -> Tensor:
    """Project each group onto ``{u : |u_g|_2 = 1}``: ``u_g = w_g/|w_g|``, and the first unit vector for a group of zeros.

    A group of zeros is equally far from the whole sphere; any point of it would be a nearest one.

    Args:
        w: floating. Not modified.
        axis: groups are counted along this axis; None is one group.
    """
    rows = as_rows(w, axis)
    largest = rows.abs().amax(dim=1, keepdim=True)
    # Divided by the largest first: neither the smallest nor the largest numbers lose their square.
    scaled = rows.to(wide(w)) / largest.to(wide(w))
    unit = (scaled / row_norms(scaled)).to(w.dtype)
    first = torch.zeros_like(rows)
    first[:, 0] = 1.0
    unit = torch.where(largest == 0, first, unit)
    return from_rows(torch.where((row_norms(rows) - 1.0).abs() <= slack(rows), rows, unit), w, axis)


def simplex_threshold(rows: Tensor, total: float | Tensor) -> Tensor:
    """``(groups, 1)`` numbers ``theta`` with ``sum_i max(rows_i - theta, 0) = total``, by sorting; in the rows' type.

    With ``v`` sorted downwards, ``theta = (v_1 + ... + v_k - total)/k`` for the largest k with ``v_k > theta``.
    """
    ordered = rows.sort(dim=1, descending=True).values
    count = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    means = (ordered.cumsum(dim=1) - total) / count
    kept = (ordered > means).sum(dim=1, keepdim=True).clamp_min(1)
    theta = means.gather(1, kept - 1)
    # Newton's method on the sum, which falls piecewise linearly: it takes back the rounding of the running sum.
    for _ in range(2):
        over = (rows - theta).clamp_min(0.0)
        theta = theta + (over.sum(dim=1, keepdim=True) - total) / (over > 0).sum(dim=1, keepdim=True).clamp_min(1)
    return theta


def _onto_simplex(rows: Tensor, total: float) -> Tensor:
    """Rows of the wide type onto the simplex, with a sum that is right to an ulp of the total, not of the rows."""
    rows = (rows - simplex_threshold(rows, total)).clamp_min(0.0)
    for _ in range(2):
        # Only what is there is corrected: a zero stays exactly zero.
        there = rows > 0
        excess = (rows.sum(dim=1, keepdim=True) - total) / there.sum(dim=1, keepdim=True).clamp_min(1)
        rows = torch.where(there, rows - excess, rows).clamp_min(0.0)
    return rows


def onto_simplex(w: Tensor, total: float, axis: int | None) -> Tensor:
    """Project each group onto ``{u : u_i >= 0, sum_i u_i = total}``: ``u_i = max(w_i - theta, 0)``.

    Args:
        w: floating. Not modified.
        total: >= 0. 0 gives zeros.
        axis: groups are counted along this axis; None is one group.
    Source:
        Held, Wolfe & Crowder (1974), Mathematical Programming 6; Duchi et al. (2008), ICML.
    """
    rows = as_rows(w, axis)
    projected = _onto_simplex(rows.to(wide(w)), total).to(w.dtype)
    gap = (rows.sum(dim=1, keepdim=True, dtype=wide(w)) - total).abs()
    inside = (rows >= 0).all(dim=1, keepdim=True) & (gap <= total * slack(rows))
    return from_rows(torch.where(inside, rows, projected), w, axis)


def into_l1_ball(w: Tensor, bound: float, axis: int | None) -> Tensor:
    """Project each group onto ``{u : |u_g|_1 <= bound}``: magnitudes onto the simplex, where they are too many.

    Args:
        w: floating. Not modified.
        bound: >= 0. 0 gives zeros.
        axis: groups are counted along this axis; None is one group.
    Source:
        Duchi, Shalev-Shwartz, Singer & Chandra (2008), ICML.
    """
    rows = as_rows(w, axis)
    size = rows.abs()
    # The sign is put back by multiplication, so that what is not a number stays so.
    projected = rows.sign() * _onto_simplex(size.to(wide(w)), bound).to(w.dtype)
    outside = size.sum(dim=1, keepdim=True, dtype=wide(w)) > bound * (1.0 + slack(rows))
    return from_rows(torch.where(outside, projected, rows), w, axis)


def keep_largest(w: Tensor, keep: int, axis: int | None) -> Tensor:
    """Project each group onto ``{u : at most keep weights are not zero}``: the largest magnitudes stay as they are.

    Among equal magnitudes the lowest index stays.

    Args:
        w: floating. Not modified.
        keep: >= 0. 0 gives zeros; from the group's size on nothing changes.
        axis: groups are counted along this axis; None is one group.
    """
    rows = as_rows(w, axis)
    order = rows.abs().sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros_like(rows, dtype=torch.bool).scatter(1, order[:, :keep], True)
    return from_rows(torch.where(kept, rows, torch.zeros_like(rows)), w, axis)


def into_interval(w: Tensor, low: float, high: float) -> Tensor:
    """Project onto ``{u : low <= u_i <= high}``: clip. An end may be infinite."""
    # Bounds that the type of w cannot hold are infinite for it.
    top = torch.finfo(w.dtype).max
    return w.clamp(low if low >= -top else -math.inf, high if high <= top else math.inf)
