"""Proximal operators of penalties that are not convex: the global minimizer, coordinate by coordinate, for every step.

``argmin_u 1/2 (u - w)^2/step + g(u)`` may have two solutions where ``step`` times the weak convexity of ``g`` reaches 1;
at such a tie the one nearer to zero is taken. ``step`` >= 0 is a number or a tensor that broadcasts to ``w``; 0 returns ``w``,
as a ``strength`` of 0 does. ``w`` is floating and is not modified.
docs/derivations/elementwise.md has the cases.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.ops.norms import precise
from wellposed.ops.prox import StepSize, soft_threshold


def hard_threshold(w: Tensor, threshold: StepSize) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + sum_i threshold_i^2/2 [u_i != 0]``: ``w_i`` where ``|w_i| > threshold_i``, else 0."""
    return torch.where(w.abs() <= threshold, torch.zeros_like(w), w)  # what is not a number stays


@precise
def mcp_prox(w: Tensor, step: StepSize, strength: float, gamma: float) -> Tensor:
    """``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + sum_i mcp(u_i)``, the minimax concave penalty.

    Where ``step < gamma`` the problem is convex: ``min(|w|, max(|w| - step*strength, 0)/(1 - step/gamma))``, firm
    thresholding. Elsewhere it is concave between its kinks: all or nothing, at ``strength*sqrt(step*gamma)``.

    Args:
        gamma: > 0.
    Source:
        Zhang (2010), Annals of Statistics 38(2); Gao & Bruce (1997), Statistica Sinica 7(4), for firm thresholding.
    """
    return _by_curvature(
        step,
        gamma,
        lambda t: _shrunk(w, soft_threshold(w, t * strength).abs() / (1.0 - t / gamma)),
        lambda t: hard_threshold(w, strength * (t * gamma) ** 0.5),
    )


@precise
def scad_prox(w: Tensor, step: StepSize, strength: float, gamma: float) -> Tensor:
    """``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + sum_i scad(u_i)``, the smoothly clipped absolute deviation.

    Where ``step < gamma - 1`` the problem is convex, and ``|u| = min(|w|, max(soft, middle))`` with ``soft = |w| -
    step*strength`` and ``middle = strength + (|w| - strength*(1 + step))/(1 - step/(gamma - 1))``. Elsewhere ``w`` is kept
    where ``|w|`` exceeds ``strength*(gamma + 1 + step)/2`` (from ``step = gamma + 1`` on ``strength*sqrt(step*(gamma +
    1))``), and soft thresholded below.

    Args:
        gamma: > 2.
    Source:
        Fan & Li (2001), Journal of the American Statistical Association 96(456), for step 1.
    """

    def convex(t: StepSize) -> Tensor:
        middle = strength + (w.abs() - strength * (1.0 + t)) / (1.0 - t / (gamma - 1.0))
        return _shrunk(w, torch.maximum(soft_threshold(w, t * strength).abs(), middle))

    def concave(t: StepSize) -> Tensor:
        # At the threshold keeping w costs as much as the best point below: still soft thresholded, or 0 already.
        linear, root = 0.5 * (gamma + 1.0 + t), (t * (gamma + 1.0)) ** 0.5
        if isinstance(t, Tensor):
            threshold = strength * torch.where(t < gamma + 1.0, linear, root)
            return torch.where(w.abs() > threshold, w, soft_threshold(w, t * strength))
        return torch.where(
            w.abs() > strength * (linear if t < gamma + 1.0 else root), w, soft_threshold(w, t * strength)
        )

    return _by_curvature(step, gamma - 1.0, convex, concave)


def _by_curvature(
    step: StepSize, limit: float, convex: Callable[[StepSize], Tensor], concave: Callable[[StepSize], Tensor]
) -> Tensor:
    """``convex`` where the step is below ``limit``, one over the weak convexity, and ``concave`` from there on."""
    if not isinstance(step, Tensor):
        return convex(step) if step < limit else concave(step)
    below = step < limit
    # Where the other case holds the convex one is asked at step 0, which divides by nothing that vanishes.
    return torch.where(below, convex(step.where(below, torch.zeros_like(step))), concave(step))


def _shrunk(w: Tensor, size: Tensor) -> Tensor:
    """``w`` with its absolute value brought down to ``size``; adding 0 turns a negative zero into a plain one."""
    return torch.copysign(torch.minimum(w.abs(), size), w) + 0.0
