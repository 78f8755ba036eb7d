"""The hierarchy between an input's linear effect and the network's use of it, as one joint proximal step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.ops.norms import at_least_float32, largest, lengths, power_of_two, rooted_sum


def hierarchical_prox(
    theta: Tensor, w: Tensor, theta_step: Tensor, step: Tensor, strength: float, hierarchy: float
) -> tuple[Tensor, Tensor]:
    """``argmin 1/2 |u - theta|^2 + 1/2 |v - w|^2 + strength*|u|_2  subject to  |v|_inf <= hierarchy*|u|_2``, for each row.

    Both squares are in the metric of the steps: ``sum_i (u_i - theta_i)^2/theta_step_i``. Given the length ``b = |u|``,
    ``v`` is ``w`` clipped to ``hierarchy*b``, and ``u_i = theta_i b/(b + theta_step_i q)``. The derivative of the rest in
    ``b`` vanishes where ``q = strength - hierarchy * sum_i max(|w_i| - hierarchy*b, 0)/step_i``; with ``|u| = b`` this is
    one equation for ``b``, concave and increasing to the power -1/2: Newton's method climbs to its root. For equal steps
    in a row of ``theta``, and for one output, the start is the root: the largest of as many ratios as there are weights,
    by sorting.

    Args:
        theta: ``(inputs, outputs)``, the linear effects. Not modified.
        w: ``(inputs, weights)``, the weights out of each input. Not modified. An input with a number that is not finite,
            here or in ``theta``, comes back as it is.
        theta_step, step: >= 0, of their shapes. A coordinate with step 0 does not move; where a ``w_i`` is fixed, ``u`` is
            as long as it needs, if any of its coordinates moves at all.
        strength: >= 0.
        hierarchy: >= 0. 0 leaves the linear effects only, infinity does not restrict ``w``.
    Source:
        Lemhadri, Ruan, Abraham & Tibshirani (2021), JMLR 22, for equal steps; the derivation for a diagonal metric is in
        docs/derivations/groups.md.
    """
    if not theta.numel():
        return theta.clone(), w.clone()
    # In units of a power of two near the largest number of an input, squares neither overflow nor vanish.
    both = torch.cat([at_least_float32(theta), at_least_float32(w)], 1)
    scale, sound = power_of_two(largest(both, 1)), torch.isfinite(both).all(1, keepdim=True)
    small, weights = (
        torch.where(sound, at_least_float32(x) / scale, torch.zeros_like(at_least_float32(x))) for x in (theta, w)
    )
    tau, t = at_least_float32(theta_step), at_least_float32(step)
    length = _length(small, weights, tau, t, strength / scale, hierarchy)
    u = torch.where(sound & (tau > 0), _of_length(small, tau, length) * scale, theta)
    if math.isinf(hierarchy):
        return u.to(theta.dtype), w.clone()
    bound = hierarchy * length
    clipped = torch.where(weights.abs() < bound, weights, weights.sign() * bound)
    v = torch.where(sound & (t > 0), clipped * scale, w)
    return u.to(theta.dtype), v.to(w.dtype)


def _length(theta: Tensor, w: Tensor, tau: Tensor, t: Tensor, strength: Tensor, hierarchy: float) -> Tensor:
    """``|u|`` of each row, ``(inputs, 1)``."""
    norm = lengths(theta, 1)
    most = tau.amax(1, keepdim=True)
    restricted = not math.isinf(hierarchy) and hierarchy > 0 and w.shape[1] > 0
    least = torch.zeros_like(norm)
    height, weight = w.abs(), torch.zeros_like(w)
    if restricted:
        moves = t > 0
        weight = torch.where(moves, t.where(moves, torch.ones_like(t)).reciprocal(), weight)
        least = torch.where(moves, torch.zeros_like(w), height / hierarchy).amax(1, keepdim=True)
    # What the coordinates with the largest step need, whatever the others do: left of the root, and exact without others.
    level = lengths(torch.where(tau == most, theta, torch.zeros_like(theta)), 1)
    if restricted:
        order = height.sort(dim=1, descending=True)
        sizes, pulls = order.values, weight.gather(1, order.indices)
        first = torch.zeros_like(norm)
        lift = torch.cat([first, (pulls * sizes).cumsum(1)], 1)
        stiff = torch.cat([first, pulls.cumsum(1)], 1)
        ratios = (level - most * strength + most * hierarchy * lift) / (1.0 + most * hierarchy**2 * stiff)
        length = ratios.amax(1, keepdim=True)
    else:
        length = level - most * strength
    length = torch.maximum(length, least).clamp_min(0.0)
    tiny, eps = torch.finfo(w.dtype).tiny, torch.finfo(w.dtype).eps
    square, floor = theta.square(), theta.abs() / 2
    for _ in range(100):
        gap = (height - hierarchy * length).clamp_min(0.0) if restricted else torch.zeros_like(w)
        pull = strength - (hierarchy * (gap * weight).sum(1, keepdim=True) if restricted else 0.0)
        rate = hierarchy**2 * (weight * (gap > 0)).sum(1, keepdim=True) if restricted else 0.0
        # At the root a denominator is at least |theta_i|; half of it from below keeps the climb on the left of the root.
        scaled = _inverse(torch.maximum(length + tau * pull, floor), square > 0)
        terms = square * scaled * scaled
        total = terms.sum(1, keepdim=True)
        slope = (terms * scaled * (1.0 + tau * rate)).sum(1, keepdim=True)
        update = ((rooted_sum(total) - 1.0) * total / slope.clamp_min(tiny)).clamp_min(0.0)
        length = length + update
        if not bool((update > 4 * eps * length).any()):
            break
    return torch.where(most > 0, length, norm)


def _of_length(theta: Tensor, tau: Tensor, length: Tensor) -> Tensor:
    """``argmin_u sum_i (u_i - theta_i)^2/tau_i`` over ``|u| = length``, for each row.

    ``u_i = theta_i b/(b + tau_i q)`` with the ``q`` that makes the length right. Where no ``q`` does, since all that could
    become longer is 0, the first coordinate with the largest step takes the rest: every sign and direction is as good.
    """
    tiny, eps = torch.finfo(theta.dtype).tiny, torch.finfo(theta.dtype).eps
    norm = lengths(theta, 1)
    most, index = tau.max(1, keepdim=True)
    some = theta != 0
    moves = (tau > 0) & some
    inverse = tau.where(tau > 0, torch.ones_like(tau)).reciprocal()
    low = torch.full_like(theta, -math.inf)
    reach = torch.where(norm >= length, most, tau.amin(1, keepdim=True))
    whole = (norm - length) / reach.where(reach > 0, torch.ones_like(reach))
    q = torch.maximum(
        torch.where(moves, (theta.abs() - length) * inverse, low).amax(1, keepdim=True),
        torch.where(reach > 0, whole, torch.full_like(norm, -math.inf)),
    )
    # A direction that is 0 bounds the multiplier too: beyond it the length goes there.
    q = torch.maximum(q, -length / most.clamp_min(tiny))
    q = torch.where((length > 0) & (most > 0), q, torch.zeros_like(q))
    square, floor = theta.square(), theta.abs() / 2
    climbing = (length > 0) & moves.any(1, keepdim=True)
    for _ in range(100):
        scaled = _inverse(torch.maximum(length + tau * q, floor), some)
        terms = square * scaled * scaled
        total = terms.sum(1, keepdim=True)
        slope = (terms * scaled * tau).sum(1, keepdim=True)
        update = ((rooted_sum(total) - 1.0) * total / slope.clamp_min(tiny)).clamp_min(0.0)
        update = torch.where(climbing, update, torch.zeros_like(update))
        q = q + update
        if not bool((update * most > 4 * eps * length).any()):
            break
    factor = length * _inverse(torch.maximum(length + tau * q, floor), some)
    u = torch.where(tau > 0, theta * factor, theta)
    missing = (length.square() - u.square().sum(1, keepdim=True)).clamp_min(0.0)
    first = torch.arange(theta.shape[1], device=theta.device) == index
    needed = first & (u == 0) & (most > 0) & (missing > 16 * eps * length.square())
    return torch.where(needed, rooted_sum(missing), u)


def _inverse(x: Tensor, where: Tensor) -> Tensor:
    """``1/x``, and 0 elsewhere, whatever stands there; so for gradients too."""
    return torch.where(where, x.where(where, torch.ones_like(x)).reciprocal(), torch.zeros_like(x))
