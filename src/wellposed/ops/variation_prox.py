"""Total variation along an axis: its proximal operator by dynamic programming, and its distance from stationarity."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.ops.norms import largest, length, power_of_two, precise, signs

StepSize = float | Tensor


@precise
def variation_prox(w: Tensor, step: StepSize, strength: StepSize, axis: int = -1) -> Tensor:
    """``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + sum_i strength_i |u_{i+1} - u_i|``, for each line along ``axis``.

    Forward, the derivative of the least cost of ``u_1..u_i`` as a function of ``u_i`` is a piecewise linear increasing
    function, kept by its knots; passing on to ``u_{i+1}`` clips it to ``[-strength, strength]``. Backward, each ``u_i`` is
    ``u_{i+1}`` clipped to the interval that the clipping left. Exact to rounding, in one loop along the axis, all lines at
    once: its steps cost as many operations as there are knots, at most ``2 i``, in practice the length of a level run.

    Args:
        w: floating, at least one axis. Not modified. A line with a number that is not finite comes back as it is.
        step: >= 0, a number or one per coordinate. A coordinate with step 0 does not move.
        strength: >= 0, a number, or one for each neighbouring pair (``w``'s shape, one less along ``axis``).
        axis: along which neighbours differ.
    Source:
        Johnson (2013), Journal of Computational and Graphical Statistics 22(2); the derivation is in
        docs/derivations/groups.md.
    """
    if not w.numel() or w.shape[axis] < 2 or (not isinstance(strength, Tensor) and strength == 0):
        return w.clone()
    t = torch.as_tensor(step, dtype=w.dtype, device=w.device).expand_as(w)
    given, times = _lines(w, axis), _lines(t, axis)
    sound = torch.isfinite(given).all(1, keepdim=True)
    y = given.where(sound, torch.zeros_like(given))
    scale = power_of_two(largest(y, 1)).clamp_min(1.0)  # a large number over a small step would be infinite
    y = y / scale
    charge = torch.as_tensor(strength, dtype=w.dtype, device=w.device)
    pairs = _lines(charge.expand_as(w.narrow(axis, 1, w.shape[axis] - 1)), axis) / scale
    if not isinstance(strength, Tensor):
        pairs = pairs.minimum(_enough(y, times))
    with torch.no_grad():
        levels = _levels(y, times, pairs)
    if torch.is_grad_enabled() and y.requires_grad:
        means = _means(y, times, levels)
        levels = levels + (means - means.detach())
    u = torch.where(sound, levels * scale, given)
    shape = (*w.shape[: axis % w.ndim], *w.shape[axis % w.ndim + 1 :], w.shape[axis])
    return torch.where(t > 0, u.view(shape).movedim(-1, axis), w)


def variation_distance(w: Tensor, grad: Tensor, strength: float, axis: int = -1) -> Tensor:
    """Euclidean distance of ``-grad`` to the subdifferential of ``strength * sum_i |w_{i+1} - w_i|`` at ``w``, 0-d.

    Where neighbours differ the dual variable is ``strength`` with their sign; inside of a run of equal values it is free in
    ``[-strength, strength]``, and the nearest choice leaves the proximal point of the run's own variation.
    """
    if not w.numel() or w.shape[axis] < 2:
        return length(grad)
    jumps = signs(w.diff(dim=axis))
    zero = torch.zeros_like(w.narrow(axis, 0, 1))
    pull = strength * (torch.cat([zero, jumps], axis) - torch.cat([jumps, zero], axis))
    left = variation_prox(grad + pull, 1.0, torch.where(jumps == 0, strength, 0.0).to(w.dtype), axis)
    return length(left)


def _lines(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _levels(y: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The minimizers of ``(lines, n)`` values ``y`` with steps ``t`` and strengths ``s`` of the ``n - 1`` pairs."""
    n = y.shape[1]
    first, reach = y[:, :1], t[:, :1] * s[:, :1]
    at = torch.cat([first - reach, first + reach], 1)
    slope = torch.cat([-s[:, :1], s[:, :1]], 1)
    ends = [at]
    width = 16
    for i in range(1, n):
        now, time, before = y[:, i : i + 1], t[:, i : i + 1], s[:, i - 1 : i]
        # The derivative at the knots, times the step: so a step of 0 needs no case of its own.
        scaled = time * slope + (at - now)
        if i == n - 1:
            last = _crossing(at, scaled, now, time * before, torch.zeros_like(now)).where(time > 0, now)
            break
        after = s[:, i : i + 1]
        low, high = (_crossing(at, scaled, now, time * before, sign * time * after) for sign in (-1.0, 1.0))
        low, high = low.where(time > 0, now), torch.maximum(low, high).where(time > 0, now)
        ends.append(torch.cat([low, high], 1))
        value = slope + (at - now) / time.clamp_min(torch.finfo(y.dtype).tiny)
        slope = torch.cat([-after, value.clamp(-after, after), after], 1)
        at = torch.cat([low, at.clamp(low, high), high], 1)
        if at.shape[1] > 2 * width:
            at, slope = _without_repetitions(at, slope, after)
            width = max(16, at.shape[1])
    levels = [last]
    for end in reversed(ends):
        levels.append(levels[-1].clamp(end[:, :1], end[:, 1:]))
    return torch.cat(levels[::-1], 1)


def _enough(y: Tensor, t: Tensor) -> Tensor:
    """A strength from which on lines no longer change, ``(lines, 1)``: in a larger one small numbers would be lost.

    A line is constant from the largest dual variable of its mean on. Where a step is 0, the dual variables that have the
    same sign on a stretch between two fixed numbers differ by at most ``(max y - min y) * sum_i 1/t_i``, and shift freely.
    """
    moves = t > 0
    pace = torch.where(moves, 1.0 / t.where(moves, torch.ones_like(t)), torch.zeros_like(t))
    total = pace.sum(1, keepdim=True)
    low, high = y.amin(1, keepdim=True), y.amax(1, keepdim=True)
    mean = (pace * y).sum(1, keepdim=True) / total.where(total > 0, torch.ones_like(total))
    dual = (pace * (y - mean)).cumsum(1).abs().amax(1, keepdim=True)
    rounding = 4 * y.shape[1] * torch.finfo(y.dtype).eps * torch.maximum(high, -low) * total
    return torch.where(moves.all(1, keepdim=True), 1.01 * dual + rounding, 2.0 * (high - low) * total)


def _means(y: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """The mean of ``y`` over each run of equal ``u``, weighted by ``1/t``, which is all that ``u`` depends on nearby.

    A number with step 0 holds its whole run.
    """
    starts = torch.cat([torch.ones_like(u[:, :1]), (u.diff(dim=1) != 0).to(u)], 1)
    run = (starts.reshape(-1).cumsum(0) - 1).long()
    flat, held = t.reshape(-1), (t == 0).reshape(-1).to(t)
    none = torch.zeros(int(run[-1]) + 1, dtype=t.dtype, device=t.device)
    holds = none.index_add(0, run, held)[run] > 0
    weight = torch.where(holds, held, 1.0 / flat.where(flat > 0, torch.ones_like(flat)))
    sums = (none.index_add(0, run, x) for x in (weight * y.reshape(-1), weight))
    top, bottom = (found[run] for found in sums)
    return (top / bottom).view(y.shape)


def _crossing(at: Tensor, scaled: Tensor, now: Tensor, reach: Tensor, level: Tensor) -> Tensor:
    """Where the increasing function through the knots, of slope 1 beyond them, crosses ``level``; ``(lines, 1)``."""
    count, knots = (scaled < level).sum(1, keepdim=True), at.shape[1]
    right = count.clamp_max(knots - 1)
    left = (count - 1).clamp_min(0)
    a, b, below, above = at.gather(1, left), at.gather(1, right), scaled.gather(1, left), scaled.gather(1, right)
    rise = above - below
    share = (level - below) / rise.where(rise > 0, torch.ones_like(rise))
    inside = torch.minimum(a + share * (b - a), b)
    return torch.where(count == 0, now + reach + level, torch.where(count == knots, now - reach + level, inside))


def _without_repetitions(at: Tensor, slope: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The knots from the last one at ``-s`` to the first one at ``s``; lines with fewer repeat their last."""
    first = ((slope <= -s).sum(1, keepdim=True) - 1).clamp_min(0)
    last = (at.shape[1] - (slope >= s).sum(1, keepdim=True)).clamp_max(at.shape[1] - 1)
    last = torch.maximum(first, last)
    width = int((last - first).max()) + 1
    index = torch.minimum(first + torch.arange(width, device=at.device), last)
    return at.gather(1, index), slope.gather(1, index)
