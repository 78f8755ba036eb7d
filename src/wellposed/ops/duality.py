"""Fenchel duals of linear models: by how much, at most, a cost exceeds its minimum.

    P(W, b) = 1/m sum_i l(W x_i + b, y_i) + l1 |W|_1 + l2/2 |W|^2 + s sum_g |W_g|     >=     D(U)   for every feasible U

``D(U) = -1/m sum_i l*(m u_i, y_i) - g*(-U^T X)``; docs/certificates.md derives it. Every tensor is floating; ``z``, ``y``
and ``u`` are ``(rows, outputs)``, ``x`` is ``(rows, features)``, ``w`` is ``(outputs, features)``. Targets of a
cross-entropy are probabilities: labels as rows of 0 and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.ops.groups import Groups
from wellposed.ops.prox import soft_threshold

LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy")
"""The losses whose conjugates are known here."""


def losses(name: str, z: Tensor, y: Tensor) -> Tensor:
    """``l(z_i, y_i)``, ``(rows,)``: ``|y - z|^2``, ``sum log(1 + e^z) - y z``, or ``log sum e^z - y z``."""
    if name == "squared_error":
        return (y - z).square().sum(1)
    if name == "binary_cross_entropy":
        return (torch.logaddexp(z, torch.zeros_like(z)) - y * z).sum(1)
    return torch.logsumexp(z, 1) - (y * z).sum(1)


def slopes(name: str, z: Tensor, y: Tensor) -> Tensor:
    """The derivative of each row's loss by ``z``, of ``z``'s shape."""
    if name == "squared_error":
        return 2.0 * (z - y)
    return (torch.sigmoid(z) if name == "binary_cross_entropy" else torch.softmax(z, 1)) - y


def conjugates(name: str, v: Tensor, y: Tensor) -> Tensor:
    """``l*(v_i) = sup_z v_i z - l(z, y_i)``, ``(rows,)``.

    ``v`` must be in the domain: anything for squared error, ``v + y`` probabilities for the cross-entropies.
    """
    if name == "squared_error":
        return (v * y + 0.25 * v.square()).sum(1)
    p = (v + y).clamp(0.0, 1.0)
    entropy = torch.xlogy(p, p)
    return (entropy + torch.xlogy(1.0 - p, 1.0 - p) if name == "binary_cross_entropy" else entropy).sum(1)


def best_shift(name: str, z: Tensor, y: Tensor) -> Tensor:
    """``argmin_b sum_i l(z_i + b, y_i)``, ``(outputs,)``, by Newton's method with halved steps.

    There the slopes of every output sum to zero, as a free bias demands of a dual point. Where the minimum is at
    infinity (labels of one class only) the last step is returned; see that the slopes sum to zero.
    """
    b = z.new_zeros(z.shape[1])
    cost = losses(name, z, y).sum()
    for _ in range(100):
        slope = slopes(name, z + b, y).sum(0)
        move = torch.linalg.pinv(_curvature(name, z + b), hermitian=True) @ slope
        if not bool(move.abs().max() > 4 * torch.finfo(z.dtype).eps * (1.0 + b.abs().max())):
            break
        for _ in range(40):
            trial = losses(name, z + (b - move), y).sum()
            # Near the minimum costs differ by rounding only, and Newton's step is right.
            if bool(trial <= cost + 16 * torch.finfo(z.dtype).eps * cost.abs()):
                break
            move = 0.5 * move
        else:
            break
        b, cost = b - move, trial
    return b


def _curvature(name: str, z: Tensor) -> Tensor:
    """``sum_i d^2 l(z_i)/dz^2``, ``(outputs, outputs)``."""
    if name == "squared_error":
        return 2.0 * len(z) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    if name == "binary_cross_entropy":
        p = torch.sigmoid(z)
        return torch.diag((p * (1.0 - p)).sum(0))
    p = torch.softmax(z, 1)
    return torch.diag(p.sum(0)) - p.T @ p


def excess(c: Tensor, l1: float | Tensor, group: float | Tensor, groups: Groups | None) -> Tensor:
    """``max(|soft(c_g, l1)| - group, 0)`` for every group: how far ``c`` is outside the dual ball of the two norms.

    A number in no group, as all are where ``groups`` is None, is its own group, of strength 0.
    """
    soft = soft_threshold(c, l1)
    if groups is None:
        return soft.abs()
    found = (groups.norms(groups.split(soft)) - group).clamp_min(0.0).flatten()
    rest = groups.rest(soft)
    return found if rest is None else torch.cat([found, rest.abs().flatten()])


def largest_feasible_factor(c: Tensor, l1: float | Tensor, group: float | Tensor, groups: Groups | None) -> Tensor:
    """The largest ``a`` in [0, 1] with ``a*c`` in the dual ball, to one part in ``2^60``, 0-d."""
    low, high = c.new_zeros(()), c.new_ones(())
    if not bool(excess(c, l1, group, groups).max() > 0):
        return high
    if groups is None:
        size = c.abs()
        return torch.where(size > l1, l1 / size.clamp_min(torch.finfo(c.dtype).tiny), high).min()
    for _ in range(60):
        middle = 0.5 * (low + high)
        out = excess(middle * c, l1, group, groups).max() > 0
        low, high = torch.where(out, low, middle), torch.where(out, middle, high)
    return low


def dual_point(name: str, y: Tensor, z: Tensor, units: float, free_bias: bool) -> Tensor:
    """``u_i = 1/m dl(z_i, y_i)``, at the best bias where the bias is free, so that its outputs sum to zero."""
    if free_bias:
        z = z + best_shift(name, z, y)
    u = slopes(name, z, y) / units
    # Once more, for what rounding left; elsewhere a shift would leave the domain.
    return u - u.mean(0) if free_bias and name == "squared_error" else u


def dual(
    name: str,
    x: Tensor,
    y: Tensor,
    u: Tensor,
    *,
    l1: float | Tensor,
    l2: float,
    group: float | Tensor,
    groups: Groups | None,
    units: float,
    offset: Tensor,
) -> Tensor:
    """``D(u) = -1/m sum l*(m u_i) + <u, offset> - g*(-u^T x)``, 0-d; ``u`` is shrunk first where only that is feasible.

    Without ``l2``, ``g*`` is 0 in the dual ball and infinite outside. With it, ``g*(c) = 1/(2 l2) sum_g excess_g(c)^2``.
    """
    c = -(u.T @ x)
    if l2 > 0:
        charge = excess(c, l1, group, groups).square().sum() / (2.0 * l2)
    else:
        u, charge = u * largest_feasible_factor(c, l1, group, groups), u.new_zeros(())
    return (u * offset).sum() - conjugates(name, units * u, y).sum() / units - charge


def duality_gap(
    name: str,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    b: Tensor | None,
    *,
    l1: float | Tensor = 0.0,
    l2: float = 0.0,
    group: float | Tensor = 0.0,
    groups: Groups | None = None,
    free_bias: bool = True,
    units: float | None = None,
) -> Tensor:
    """``P(w, b) - D(u) >= P(w, b) - min P``, 0-d, >= 0; infinite where no dual point is known.

    Args:
        name: one of `LOSSES`.
        x, y, w, b: rows, targets ``(rows, outputs)``, weights and bias or None.
        l1, l2, group: strengths >= 0; ``group`` is that of ``|w_g|`` itself, a number or one for each group; ``l1`` is a
            number or of ``w``'s shape.
        groups: who is in a group; None: no groups.
        free_bias: the bias is minimized over and not charged; False: it stays as it is.
        units: m, by which the sum of losses is divided; by default the rows.
    Source:
        Fenchel's duality; rescaled dual points: El Ghaoui, Viallon & Rabbani (2012), Pacific Journal of Optimization 8(4).
    """
    units = float(len(x)) if units is None else units
    fixed = x.new_zeros(w.shape[0]) if b is None else b
    free = free_bias and b is not None
    z = x @ w.T + fixed
    u = dual_point(name, y, z, units, free)
    rounding = 1e3 * torch.finfo(x.dtype).eps
    if free and bool(u.sum(0).abs().max() > rounding * u.abs().sum(0).max().clamp_min(rounding)):
        return x.new_full((), torch.inf)
    charge = (l1 * w.abs()).sum() + 0.5 * l2 * w.square().sum()
    if groups is not None:
        charge = charge + (group * groups.norms(groups.split(w))).sum()
    primal = losses(name, z, y).sum() / units + charge
    offset = torch.zeros_like(fixed) if free else fixed
    bound = dual(name, x, y, u, l1=l1, l2=l2, group=group, groups=groups, units=units, offset=offset)
    return (primal - bound).clamp_min(0.0)
