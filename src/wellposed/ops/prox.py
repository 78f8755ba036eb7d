"""Proximal operators: ``argmin_u  1/2 sum_i (u_i - w_i)^2 / step_i + g(u)``.

``step`` is a number or a tensor of ``w``'s shape (a diagonal metric); a coordinate with step 0 does not move.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.ops.norms import group_norms, other_axes

Step = float | Tensor


def soft_threshold(w: Tensor, threshold: Step) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + sum_i threshold_i |u_i|  =  w - clip(w, -threshold, threshold)``.

    A coordinate with ``|w_i| <= threshold_i`` becomes exactly 0. Threshold 0 returns ``w``.
    """
    if isinstance(threshold, Tensor):
        return w - torch.clamp(w, -threshold, threshold)
    return w - w.clamp(-threshold, threshold)


def shrink(w: Tensor, amount: Step) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + 1/2 sum_i amount_i u_i^2  =  w / (1 + amount)``."""
    return w / (1.0 + amount)


def group_soft_threshold(w: Tensor, step: Step, strength: float, axis: int) -> Tensor:
    """Shrink whole groups to zero: ``g(u) = strength * sum_g |u_g|_2``, a group being one index along ``axis``.

    With one step ``t`` for a group, ``u_g = max(1 - t*strength/|w_g|, 0) w_g``. With a step for each coordinate the
    minimizer is ``u_i = w_i r / (r + step_i*strength)`` where ``r = |u_g|`` solves the secular equation
    ``sum_i w_i^2 / (r + step_i*strength)^2 = 1``; the group is exactly 0 where ``sum_i (w_i/step_i)^2 <= strength^2``.

    Args:
        w: floating, at least one axis. Not modified.
        step: >= 0. 0 leaves a coordinate as it is.
        strength: >= 0. 0 returns ``w``.
        axis: the axis along which groups are counted.
    Source:
        Yuan & Lin (2006), JRSS-B 68(1), for equal steps; the derivation for a diagonal metric is in docs/derivations.md.
    """
    if strength == 0:
        return w.clone()
    if not isinstance(step, Tensor) or step.numel() == 1:
        norms = group_norms(w, axis)
        scale = (1.0 - strength * step / norms.clamp_min(torch.finfo(w.dtype).tiny)).clamp_min(0.0)
        return w * scale
    return _group_in_metric(w, step * strength, axis)


def _group_in_metric(w: Tensor, shift: Tensor, axis: int) -> Tensor:
    """Solve the secular equation of every group at once; ``shift = step * strength``.

    ``phi(r) = (sum_i w_i^2/(r+shift_i)^2)^(-1/2)`` is concave and increasing, and the root of ``phi(r) = 1`` is wanted:
    Newton's method from any point left of the root climbs to it monotonically, in a handful of steps.
    """
    axes = other_axes(w, axis)
    moves = shift > 0
    inverse = torch.where(moves, w / shift.where(moves, torch.ones_like(shift)), torch.zeros_like(w))
    frozen = (~moves & (w != 0)).any(dim=axes, keepdim=True) if axes else ~moves & (w != 0)
    alive = frozen | (_sum(inverse.square(), axes) > 1.0)
    square = w.square()
    norm = _sum(square, axes).sqrt()
    # The largest shift bounds the root from below; a group that dies is given any positive radius.
    low = norm - shift.amax(dim=axes, keepdim=True) if axes else norm - shift
    radius = torch.where(alive, low.clamp_min(torch.finfo(w.dtype).eps * norm), torch.ones_like(norm))
    radius = radius.clamp_min(torch.finfo(w.dtype).tiny)
    for _ in range(64):
        scaled = (radius + shift).reciprocal()
        terms = square * scaled * scaled
        total = _sum(terms, axes)
        slope = _sum(terms * scaled, axes)
        # Newton on total^(-1/2) = 1.
        update = (total.sqrt() - 1.0) * total / slope.clamp_min(torch.finfo(w.dtype).tiny)
        update = torch.where(alive, update, torch.zeros_like(update))
        radius = radius + update.clamp_min(0.0)
        if bool((update <= 4 * torch.finfo(w.dtype).eps * radius).all()):
            break
    # The factor first: where the shift is 0 it is exactly 1, and the coordinate stays bit for bit.
    return torch.where(alive, w * (radius / (radius + shift)), torch.zeros_like(w))


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.sum(dim=axes, keepdim=True) if axes else x
