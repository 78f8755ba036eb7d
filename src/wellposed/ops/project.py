"""Euclidean projections: ``argmin_u |u - w|`` over the allowed set.

Each is idempotent bit for bit: what is feasible up to a few units in the last place is not touched, and what is
projected is feasible in that sense. Sums and norms are therefore taken in float64 where the device has it.

What is not finite stays what it is, also where a bound could clip an infinity: weights that have diverged must not look
bounded. A group with a number that is not finite comes back as it is, and so does a tensor without numbers.

``w`` is floating and is not modified. Bounds are >= 0, and 0 gives zeros. ``axis`` says along which axis groups are counted; None
takes the whole tensor as one group.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.ops.norms import largest, lengths, power_of_two, with_gradient_of

ULPS = 4
"""How many times the machine's epsilon a group may exceed its bound and still count as feasible."""


def slack(rows: Tensor) -> float:
    """The relative excess that rounding alone may cause: of each number, and of their sum."""
    return ULPS * torch.finfo(rows.dtype).eps + math.sqrt(rows.shape[1]) * torch.finfo(sum_dtype(rows)).eps


def sum_dtype(w: Tensor) -> torch.dtype:
    """The type for sums: float64, where the device has it."""
    return torch.float32 if w.device.type == "mps" else torch.float64


def as_rows(w: Tensor, axis: int | None) -> Tensor:
    """``w`` as a matrix ``(groups, size)``, a row for each index of ``axis``; of None, one row."""
    if axis is None:
        return w.reshape(1, w.numel())
    moved = w.movedim(axis, 0)
    return moved.reshape(w.shape[axis], math.prod(moved.shape[1:]))


def from_rows(rows: Tensor, w: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return rows.reshape(w.shape)
    return rows.reshape(w.movedim(axis, 0).shape).movedim(0, axis)


def by_rows(w: Tensor, axis: int | None, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """``nearest`` of the groups of ``w`` as rows; a group that is not finite comes back, and so does what is empty."""
    if not w.numel():
        return w.clone()
    rows = as_rows(w, axis)
    sound = torch.isfinite(rows).all(dim=1, keepdim=True)
    found = nearest(rows.where(sound, torch.zeros_like(rows)))
    return from_rows(torch.where(sound, found, rows), w, axis)


def row_norms(rows: Tensor) -> Tensor:
    """``(groups, 1)`` Euclidean norms in the wide type; the gradient at 0 is 0."""
    # Squares of float64 are added pairwise: a running sum would lose as many digits as the groups are long.
    if rows.dtype == sum_dtype(rows):
        return lengths(rows, 1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=sum_dtype(rows))
    return norms


def into_norm_ball(w: Tensor, bound: float, axis: int | None) -> Tensor:
    """Project each group onto ``{u : |u_g|_2 <= bound}``: ``u_g = w_g * min(1, bound/|w_g|)``."""
    if not w.numel():
        return w.clone()
    rows = as_rows(w, axis)
    norms = row_norms(rows)
    # A group that is not finite has no finite norm, and stays. `by_rows` would look at every weight for it, at every step.
    outside = ((norms > bound * (1.0 + slack(rows))) | (bound == 0)) & torch.isfinite(norms)
    factor = bound / norms.where(outside & (norms > 0), torch.ones_like(norms))
    factor = factor.to(torch.promote_types(w.dtype, torch.float32))
    return from_rows(torch.where(outside, (rows * factor).to(w.dtype), rows), w, axis)


def onto_unit_sphere(w: Tensor, axis: int | None) -> Tensor:
    """Project each group onto ``{u : |u_g|_2 = 1}``: ``u_g = w_g/|w_g|``; of a group of zeros, equally far from all, the first
    unit vector.
    """

    def nearest(rows: Tensor) -> Tensor:
        some = (rows != 0).any(dim=1, keepdim=True)
        scaled = rows.to(sum_dtype(w))
        norms = lengths(scaled, 1)
        unit = (scaled / norms.where(some, torch.ones_like(norms))).to(w.dtype)
        first = torch.zeros_like(rows)
        first[:, 0] = 1.0
        near = (norms - 1.0).abs() <= slack(rows)
        nearest = torch.where(some, unit, first)
        return with_gradient_of(torch.where(near, rows, nearest), nearest)

    return by_rows(w, axis, nearest)


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
    # A shift of all changes nothing; beside the largest number the total would be lost in rounding.
    if total == 0:
        return 0.0 * rows
    rows = rows - rows.amax(dim=1, keepdim=True)
    rows = (rows - simplex_threshold(rows, total)).clamp_min(0.0)
    for _ in range(2):
        # Only what is there is corrected: a zero stays exactly zero.
        there = rows > 0
        excess = (rows.sum(dim=1, keepdim=True) - total) / there.sum(dim=1, keepdim=True).clamp_min(1)
        rows = torch.where(there, rows - excess, rows).clamp_min(0.0)
    return rows


def onto_simplex(w: Tensor, total: float, axis: int | None) -> Tensor:
    """Project each group onto ``{u : u_i >= 0, sum_i u_i = total}``: ``u_i = max(w_i - theta, 0)``.

    Source:
        Held, Wolfe & Crowder (1974), Mathematical Programming 6; Duchi et al. (2008), ICML.
    """

    def nearest(rows: Tensor) -> Tensor:
        projected = _onto_simplex(rows.to(sum_dtype(w)), total).to(w.dtype)
        gap = (rows.sum(dim=1, keepdim=True, dtype=sum_dtype(w)) - total).abs()
        inside = (rows >= 0).all(dim=1, keepdim=True) & (gap <= total * slack(rows))
        return with_gradient_of(torch.where(inside, rows, projected), projected)

    return by_rows(w, axis, nearest)


def into_l1_ball(w: Tensor, bound: float, axis: int | None) -> Tensor:
    """Project each group onto ``{u : |u_g|_1 <= bound}``: magnitudes onto the simplex, where they are too many.

    Source:
        Duchi, Shalev-Shwartz, Singer & Chandra (2008), ICML.
    """

    def nearest(rows: Tensor) -> Tensor:
        size = rows.abs()
        projected = rows.sign() * _onto_simplex(size.to(sum_dtype(w)), bound).to(w.dtype)
        outside = size.sum(dim=1, keepdim=True, dtype=sum_dtype(w)) > bound * (1.0 + slack(rows))
        return torch.where(outside | (bound == 0), projected, rows)

    return by_rows(w, axis, nearest)


def keep_largest(w: Tensor, keep: int, axis: int | None) -> Tensor:
    """Project each group onto ``{u : at most keep weights are not zero}``: the largest magnitudes stay as they are.

    Among equal magnitudes the lowest index stays; from the group's size on nothing changes.
    """

    def nearest(rows: Tensor) -> Tensor:
        order = rows.abs().sort(dim=1, descending=True, stable=True).indices
        kept = torch.zeros_like(rows, dtype=torch.bool).scatter(1, order[:, :keep], True)
        return torch.where(kept, rows, torch.zeros_like(rows))

    return by_rows(w, axis, nearest)


IntervalEnd = float | Tensor
"""An end of an interval: a number, or one for each weight, which may be infinite."""


def into_interval(w: Tensor, low: IntervalEnd, high: IntervalEnd) -> Tensor:
    """Project onto ``{u : low_i <= u_i <= high_i}``: clip. An end may be infinite; what is not finite is not clipped."""
    ends = [torch.as_tensor(end, device=w.device).to(w.dtype) for end in (low, high)]
    clipped = torch.clamp(w.detach(), *ends)
    if not (
        w.requires_grad and torch.is_grad_enabled()
    ):  # in a step nobody asks for a gradient, and each pass over w counts
        return torch.where(w.isinf(), w, clipped)
    free = ((w > ends[0]) & (w < ends[1])) | ~torch.isfinite(w)
    return torch.where(free, w, clipped)


def into_half_space(w: Tensor, normal: Tensor, bound: Tensor, axis: int | None) -> Tensor:
    """Project each group onto ``{u : <a_g, u_g> <= b_g}``: ``u_g = w_g - max(<a_g, w_g> - b_g, 0)/|a_g|^2 a_g``.

    Args:
        normal: ``a``, of the shape of ``w``. A group in which it is 0 comes back.
        bound: ``b``, of any sign, 0-d or one for each group.
    """
    a = as_rows(normal, axis).to(sum_dtype(w))
    # Divided by a power of two, so that its square neither overflows nor vanishes.
    scale = power_of_two(largest(a, 1))
    a, b = a / scale, bound.to(sum_dtype(w)).reshape(-1, 1) / scale
    square = a.square().sum(dim=1, keepdim=True)

    def over(rows: Tensor) -> Tensor:
        return ((rows * a).sum(dim=1, keepdim=True) - b).clamp_min(0.0)

    def nearest(rows: Tensor) -> Tensor:
        found, some = rows.to(sum_dtype(w)), square > 0
        about = (found * a).abs().sum(dim=1, keepdim=True) + b.abs()
        outside = some & (over(found) > slack(rows) * about)
        for _ in range(2):  # the second step takes back the rounding of the first
            found = found - over(found) / square.where(some, torch.ones_like(square)) * a
        return torch.where(outside, found.to(w.dtype), rows)

    return by_rows(w, axis, nearest)
