"""Proximal operators: ``argmin_u  1/2 sum_i (u_i - w_i)^2 / step_i + g(u)``.

``step`` is a number or a tensor of ``w``'s shape (a diagonal metric); a coordinate with step 0 does not move.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.ops.groups import Groups, along

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


def soft_threshold_towards(w: Tensor, threshold: Step, kink: Step) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + sum_i threshold_i |u_i - kink_i|``.

    A coordinate with ``|w_i - kink_i| <= threshold_i`` becomes exactly ``kink_i``. Threshold 0 returns ``w``.
    """
    away = w - kink
    clipped = torch.clamp(away, -threshold, threshold)  # type: ignore[arg-type]
    # Not ``w - clipped`` everywhere: rounding would miss the kink.
    return torch.where(away.abs() <= threshold, torch.as_tensor(kink, dtype=w.dtype, device=w.device), w - clipped)


def shrink_towards(w: Tensor, amount: Step, center: Step) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + 1/2 sum_i amount_i (u_i - center_i)^2  =  (w + amount*center)/(1 + amount)``."""
    return (w + amount * center) / (1.0 + amount)


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
        Yuan & Lin (2006), JRSS-B 68(1), for equal steps; the derivation for a diagonal metric is in docs/derivations/groups.md.
    """
    return group_shrink(w, step, strength, along(w, axis))


def group_shrink(w: Tensor, step: Step, strength: Step, groups: Groups) -> Tensor:
    """`group_soft_threshold` of any groups: ``g(u) = sum_g strength_g |u_g|_2``.

    Args:
        w: floating. Not modified; what is in no group comes back.
        step: >= 0, a number or one per coordinate.
        strength: >= 0, a number or one per group (compact, as `Groups.sum` gives it).
        groups: of ``w``.
    """
    if not isinstance(strength, Tensor) and strength == 0:
        return w.clone()
    x = groups.split(w)
    if not isinstance(step, Tensor) or step.numel() == 1:
        norms = groups.norms(x)
        scale = (1.0 - strength * step / norms.clamp_min(torch.finfo(w.dtype).tiny)).clamp_min(0.0)
        return groups.join(x * groups.spread(scale), w)
    shift = groups.split(step.expand_as(w)) * _spread(strength, groups)
    radius, alive = _radii(x, shift, 1.0, groups)
    # The factor first: where the shift is 0 it is exactly 1, and the coordinate stays bit for bit.
    radius = groups.spread(radius)
    return groups.join(torch.where(groups.spread(alive), x * (radius / (radius + shift)), torch.zeros_like(x)), w)


def group_minimax_shrink(w: Tensor, step: Step, strength: Step, gamma: float, groups: Groups) -> Tensor:
    """``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + sum_g h_g(|u_g|)``, the minimax concave penalty of each group's norm.

    ``h(r) = s r - r^2/(2 gamma)`` up to ``r = gamma*s`` and constant from there. The global minimizer, for every step.
    As a function of the radius alone the objective has the derivative ``s - r/gamma - q(r)`` up to ``min(|w_g|, gamma*s)``,
    with ``q`` convex and decreasing: it is concave, so that there is at most one minimum inside, where it first rises
    through 0. In the radius this is ``sum_i w_i^2/(s*step_i + r*(1 - step_i/gamma))^2 = 1``, whose left side to the power
    -1/2 is concave: Newton's method climbs to the first root, or shows that there is none. It competes with 0 and ``w``.
    The proof is in docs/derivations/groups.md.

    Args:
        w: floating. Not modified; what is in no group comes back.
        step: >= 0, a number or one per coordinate; also above ``gamma``.
        strength: >= 0, a number or one per group. 0 returns ``w``.
        gamma: > 0; infinity is `group_shrink`.
        groups: of ``w``.
    Source:
        Zhang (2010), Annals of Statistics 38(2); of groups: Huang, Breheny & Ma (2012), Statistical Science 27(4).
    """
    if not isinstance(strength, Tensor) and strength == 0:
        return w.clone()
    x = groups.split(w)
    s = torch.as_tensor(strength, dtype=w.dtype, device=w.device)
    t = groups.split(torch.as_tensor(step, dtype=w.dtype, device=w.device).expand_as(w))
    norms, knot = groups.norms(x), gamma * s
    shift, gain = t * _spread(strength, groups), 1.0 - t / gamma
    radius, alive = _radii(x, shift, gain, groups, knot)
    there = radius.isfinite()  # a group that is not drawn to 0, without a root: nothing inside
    radius = torch.where(there, radius, torch.ones_like(radius))
    r = groups.spread(radius)
    near = torch.where(groups.spread(alive & there), x * (r / (r * gain + shift)), torch.zeros_like(x))
    moved = torch.where(t > 0, (near - x).square() / t.where(t > 0, torch.ones_like(t)), torch.zeros_like(x))
    charge = torch.where(alive, s * radius - radius.square() / (2 * gamma), torch.zeros_like(radius))
    free = knot * s / 2  # what w itself is charged beyond the knot
    far = ~there | ((norms >= knot) & (0.5 * groups.sum(moved) + charge > free))
    return groups.join(torch.where(groups.spread(far), x, near), w)


def _radii(x: Tensor, shift: Tensor, gain: Step, groups: Groups, most: Step = float("inf")) -> tuple[Tensor, Tensor]:
    """The first root of ``sum_i x_i^2/(gain_i r + shift_i)^2 = 1`` in every group at once, and where 0 is no minimum.

    ``phi(r) = (sum_i x_i^2/(gain_i r + shift_i)^2)^(-1/2)`` is concave where its denominators are positive, and the first
    root of ``phi(r) = 1`` is wanted: Newton's method from any point left of it climbs to it monotonically, in a handful of
    steps. Where ``phi`` turns down before, or the root is beyond ``most``, the radius is infinite.
    """
    tiny, eps = torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).eps
    moves = shift > 0
    inverse = torch.where(moves, x / shift.where(moves, torch.ones_like(shift)), torch.zeros_like(x))
    frozen = groups.amax((~moves & (x != 0)).to(x.dtype)) > 0
    alive = frozen | (groups.sum(inverse.square()) > 1.0)
    square = x.square()
    norm = groups.sum(square).sqrt()
    # The largest shift bounds the root from below; a group that dies is given any positive radius.
    low = (norm - groups.amax(shift)).clamp_min(eps * norm)
    radius = torch.where(alive, low, torch.ones_like(norm)).clamp_min(tiny)
    climbing = alive
    for _ in range(100):
        scaled = (groups.spread(radius) * gain + shift).reciprocal()
        terms = square * scaled * scaled
        total = groups.sum(terms)
        slope = groups.sum(terms * scaled * gain)
        # Newton on total^(-1/2) = 1.
        update = (total.sqrt() - 1.0) * total / slope.clamp_min(tiny)
        update = torch.where(climbing, update, torch.zeros_like(update)).clamp_min(0.0)
        lost = climbing & (((total > 1.0) & (slope <= 0)) | (radius + update > most * (1 + eps)))
        radius = torch.where(lost, torch.full_like(radius, float("inf")), radius + update)
        climbing = climbing & ~lost & (update > 4 * eps * radius)
        if not bool(climbing.any()):
            break
    return radius, alive


def _spread(strength: Step, groups: Groups) -> Step:
    return groups.spread(strength) if isinstance(strength, Tensor) else strength
