"""Proximal operators: ``argmin_u  1/2 sum_i (u_i - w_i)^2 / step_i + g(u)``.

``step`` is a number or a tensor of ``w``'s shape (a diagonal metric); a coordinate with step 0 does not move.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.ops.groups import Groups, along
from wellposed.ops.norms import precise, rooted_sum

StepSize = float | Tensor


def soft_threshold(w: Tensor, threshold: StepSize) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + sum_i threshold_i |u_i|  =  w - clip(w, -threshold, threshold)``.

    A coordinate with ``|w_i| <= threshold_i`` becomes exactly 0. Threshold 0 returns ``w``.
    """
    if isinstance(threshold, Tensor):
        # At w = 0 and threshold 0 the difference has the value of w, but not its gradient.
        return torch.where(threshold == 0, w, w - torch.clamp(w, -threshold, threshold))
    return w - w.clamp(-threshold, threshold) if threshold else w.clone()


def shrink(w: Tensor, amount: StepSize) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + 1/2 sum_i amount_i u_i^2  =  w / (1 + amount)``."""
    return w / (1.0 + amount)


def soft_threshold_towards(w: Tensor, threshold: StepSize, kink: StepSize) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + sum_i threshold_i |u_i - kink_i|``.

    A coordinate with ``|w_i - kink_i| <= threshold_i`` becomes exactly ``kink_i``. Threshold 0 returns ``w``.
    """
    away = w - kink
    clipped = torch.clamp(away, -threshold, threshold)  # type: ignore[arg-type]
    # Not ``w - clipped`` everywhere: rounding would miss the kink.
    return torch.where(away.abs() <= threshold, torch.as_tensor(kink, dtype=w.dtype, device=w.device), w - clipped)


@precise
def shrink_towards(w: Tensor, amount: StepSize, center: StepSize) -> Tensor:
    """``argmin_u 1/2 |u - w|^2 + 1/2 sum_i amount_i (u_i - center_i)^2  =  (w + amount*center)/(1 + amount)``."""
    return (w + amount * center) / (1.0 + amount)


def group_soft_threshold(w: Tensor, step: StepSize, strength: float, axis: int) -> Tensor:
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


@precise
def group_shrink(w: Tensor, step: StepSize, strength: StepSize, groups: Groups) -> Tensor:
    """`group_soft_threshold` of any groups: ``g(u) = sum_g strength_g |u_g|_2``. What is in no group comes back, and so does a
    group with a number that is not finite.

    Args:
        step: >= 0, a number or one per coordinate.
        strength: >= 0, a number or one per group (compact, as `Groups.sum` gives it).
    """
    if not isinstance(strength, Tensor) and strength == 0:
        return w.clone()
    x, y, scale, sound = _scaled(w, groups)
    strength = strength * torch.ones_like(scale)
    # The step first, and the scale last: a strength over a scale may be infinite, and its product with a step of 0 is no number.
    if not isinstance(step, Tensor) or step.numel() == 1:
        norms = groups.norms(y)
        some, amount = norms > 0, strength * step / scale
        factor = (1.0 - amount / norms.where(some, torch.ones_like(norms))).clamp_min(0.0)
        factor = groups.spread(factor.where(some, (amount == 0).to(norms)))
    else:
        shift = groups.split(step.expand_as(w)) * groups.spread(strength) / groups.spread(scale)
        radius, alive = _radii(y, shift, torch.ones_like(shift), groups)
        radius, lives = groups.spread(radius), groups.spread(alive)
        # The factor first: where the shift is 0 it is exactly 1, and the coordinate stays bit for bit.
        sum_ = (radius + shift).where(lives, torch.ones_like(shift))
        factor = (radius / sum_).where(lives, (shift == 0).to(shift))
    return groups.join(torch.where(groups.spread(sound), x * factor, x), w)


def _scaled(w: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The split tensor, the same divided by a power of two in each group (0 of a group that is not finite), the powers, and which
    groups are finite.
    """
    x = groups.split(w)
    scale, sound = groups.scales(x), groups.sound(x)
    y = torch.where(groups.spread(sound), x / groups.spread(scale), torch.zeros_like(x))
    return x, y, scale, sound


@precise
def group_minimax_shrink(w: Tensor, step: StepSize, strength: StepSize, gamma: float, groups: Groups) -> Tensor:
    """``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + sum_g h_g(|u_g|)``, the minimax concave penalty of each group's norm.

    ``h(r) = s r - r^2/(2 gamma)`` up to ``r = gamma*s`` and constant from there. The global minimizer, for every step.
    As a function of the radius alone the objective has the derivative ``s - r/gamma - q(r)`` up to ``min(|w_g|, gamma*s)``,
    with ``q`` convex and decreasing: it is concave, so that there is at most one minimum inside, where it first rises
    through 0. In the radius this is ``sum_i w_i^2/(s*step_i + r*(1 - step_i/gamma))^2 = 1``, whose left side to the power
    -1/2 is concave: Newton's method climbs to the first root, or shows that there is none. It competes with 0 and ``w``.
    The proof is in docs/derivations/groups.md.

    Args:
        w, step, strength, groups: as of `group_shrink`; steps may be above ``gamma``.
        gamma: > 0; infinity is `group_shrink`.
    Source:
        Zhang (2010), Annals of Statistics 38(2); of groups: Huang, Breheny & Ma (2012), Statistical Science 27(4).
    """
    if not isinstance(strength, Tensor) and strength == 0:
        return w.clone()
    x, y, scale, sound = _scaled(w, groups)
    s = (strength / scale).clamp_max(torch.finfo(w.dtype).max)  # an infinite one times a step of 0 is no number
    t = groups.split(torch.as_tensor(step, dtype=w.dtype, device=w.device).expand_as(w))
    norms, knot = groups.norms(y), gamma * s
    shift, gain = t * groups.spread(s), 1.0 - t / gamma
    radius, alive = _radii(y, shift, gain, groups, knot)
    there = radius.isfinite()  # a group that is not drawn to 0, without a root: nothing inside
    radius = torch.where(there, radius, torch.ones_like(radius))
    r, lives = groups.spread(radius), groups.spread(alive & there)
    below = (r * gain + shift).where(lives, torch.ones_like(y))
    factor = (r / below).where(lives, torch.zeros_like(y))
    moved = torch.where(t > 0, (y * (factor - 1.0)).square() / t.where(t > 0, torch.ones_like(t)), torch.zeros_like(y))
    charge = torch.where(alive, s * radius - radius.square() / (2 * gamma), torch.zeros_like(radius))
    free = knot * s / 2  # what w itself is charged beyond the knot
    far = ~there | ((norms >= knot) & (0.5 * groups.sum(moved) + charge > free)) | (s == 0) | ~sound
    return groups.join(torch.where(groups.spread(far), x, x * factor), w)


def _radii(x: Tensor, shift: Tensor, gain: Tensor, groups: Groups, most: StepSize = math.inf) -> tuple[Tensor, Tensor]:
    """The first root of ``sum_i x_i^2/(gain_i r + shift_i)^2 = 1`` in every group at once, and where 0 is no minimum.

    ``phi(r) = (sum_i x_i^2/(gain_i r + shift_i)^2)^(-1/2)`` is concave where its denominators are positive, and the first
    root of ``phi(r) = 1`` is wanted: Newton's method from any point left of it climbs to it monotonically, in a handful of
    steps. Where ``phi`` turns down before, or the root is beyond ``most``, the radius is infinite.
    """
    with torch.no_grad():
        radius, alive = _climb(x, shift, gain, groups, most)
    if torch.is_grad_enabled() and (x.requires_grad or shift.requires_grad or gain.requires_grad):
        # At the root one more step of Newton's method moves nothing, and has the gradient of the implicit function.
        found = alive & radius.isfinite()
        total, slope = _secular(x, shift, gain, radius.where(found, torch.ones_like(radius)), found, groups)
        radius = radius + ((rooted_sum(total) - 1.0) * (total / slope).detach()).where(found, torch.zeros_like(total))
    return radius, alive


def _climb(x: Tensor, shift: Tensor, gain: Tensor, groups: Groups, most: StepSize) -> tuple[Tensor, Tensor]:
    """The radii without a gradient; ``x`` is of size 1, so that squares neither overflow nor vanish."""
    tiny, eps = torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).eps
    moves = shift > 0
    inverse = torch.where(moves, x / shift.where(moves, torch.ones_like(shift)), torch.zeros_like(x))
    frozen = groups.amax((~moves & (x != 0)).to(x.dtype)) > 0
    alive = frozen | (groups.norms(inverse) > 1.0)
    norm = groups.norms(x)
    # The largest shift bounds the root from below; a group that dies is given any positive radius.
    low = (norm - groups.amax(shift)).clamp_min(eps * norm)
    radius = torch.where(alive, low, torch.ones_like(norm)).clamp_min(tiny)
    climbing = alive
    for _ in range(100):
        total, slope = _secular(x, shift, gain, radius, climbing, groups)
        # Newton on total^(-1/2) = 1.
        update = (total.sqrt() - 1.0) * (total / slope.clamp_min(tiny))
        update = torch.where(climbing, update, torch.zeros_like(update)).clamp_min(0.0)
        lost = climbing & (((total > 1.0) & (slope <= 0)) | (radius + update > most * (1 + eps)))
        radius = torch.where(lost, torch.full_like(radius, math.inf), radius + update)
        climbing = climbing & ~lost & (update > 4 * eps * radius)
        if not bool(climbing.any()):
            break
    return radius, alive


def _secular(
    x: Tensor, shift: Tensor, gain: Tensor, radius: Tensor, at: Tensor, groups: Groups
) -> tuple[Tensor, Tensor]:
    """``sum_i q_i^2`` and ``sum_i q_i^2 gain_i/d_i`` with ``q_i = x_i/d_i`` and ``d_i = gain_i r + shift_i``; 0 elsewhere."""
    here = groups.spread(at) & (x != 0)
    below = (groups.spread(radius) * gain + shift).where(here, torch.ones_like(x))
    terms = (x / below).where(here, torch.zeros_like(x)).square()
    return groups.sum(terms), groups.sum(terms * gain / below)
