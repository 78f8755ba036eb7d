"""How far a parameter is from stationary for a smooth cost plus its charges: pure functions of tensors and charges.

distance    dist(-grad, d(sum of penalties + indicator of an interval)(w))      where the subdifferential is known
residual    |w - prox(w - grad, 1)|                                             elsewhere; 0 only at stationary points
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wellposed.core.errors import CompositionError
from wellposed.optim.binding import join_operators
from wellposed.optim.composition import WeightInterval, intersection, order_constraints
from wellposed.optim.proximal import JointProx, joint
from wellposed.penalties.base import Chargeable, Constraint, Penalty

Measure = Literal["distance", "residual", "fixed point"]
Operator = Callable[[Tensor, float | Tensor], Tensor]


@dataclass(frozen=True)
class Stationarity:
    """What a parameter adds to a certificate.

    Attributes:
        violation: >= 0, in the units of the gradient.
        measure: what it is; of ``"fixed point"``, the residual of operators applied in turn, 0 proves nothing.
        infeasible: distance to the set of the constraints.
    """

    violation: float
    measure: Measure
    infeasible: float = 0.0


def stationarity(
    name: str, w: Tensor, grad: Tensor, penalties: Sequence[Penalty], constraints: Sequence[Constraint]
) -> Stationarity:
    """Judge the parameter ``name`` at ``w``, where ``grad`` is that of the smooth part."""
    total = sum_penalties(name, penalties)
    if not constraints:
        return Stationarity(float(distance(w, grad, total)), measure_of(total.core))
    step, proven = joint_step(name, penalties, constraints)
    infeasible = _norm(w - project_on_all(name, w, constraints))
    if infeasible == 0.0 and total.core is None and all(c.interval is not None for c in constraints):
        return Stationarity(float(distance(w, grad, total, intersection(constraints))), "distance")
    residual = _norm(w - step(w - grad, 1.0))
    return Stationarity(max(residual, infeasible), "residual" if proven else "fixed point", infeasible)


def measure_of(charge: Chargeable | None) -> Measure:
    """What a penalty's own ``violation`` is: a residual where the subdifferential says nothing."""
    return "distance" if charge is None or math.isfinite(charge.traits.weak_convexity) else "residual"


def sum_penalties(name: str, penalties: Sequence[Penalty]) -> JointProx:
    try:
        return joint(name, penalties)
    except CompositionError:
        raise CompositionError(
            f"The stationarity of {' and '.join(map(str, penalties))} together on {name!r} is not known. "
            "Charge different parameters with them; L1 and L2 go with group norms."
        ) from None


def smooth_gradient(w: Tensor, grad: Tensor, total: JointProx) -> Tensor:
    for strength, center in total.squares:
        grad = grad + strength * (w if center is None else w - center)
    return grad


def distance(w: Tensor, grad: Tensor, total: JointProx, interval: WeightInterval | None = None) -> Tensor:
    """Distance of ``-grad`` to the subdifferential of squares, absolute values and core, 0-d; ``interval`` (with no core) is what
    every weight stays in.

    Each number takes off its gradient what the slopes of its absolute value (and the normal cone of the interval) can; the core
    takes of the rest what it can. Beside group norms that is the nearest point: in a living group they have one slope, 0 where
    ``w_i = 0``; in a group of zeros the set is a box plus a ball.
    """
    h = smooth_gradient(w, grad, total)
    least, most = _slopes(w, total.l1, interval or (-math.inf, math.inf))
    left = h + torch.clamp(-h, least, most)
    if total.core is not None:
        return total.core.violation(w, left)
    size: Tensor = torch.linalg.vector_norm(left)
    return size


def _slopes(w: Tensor, l1: float | Tensor, interval: WeightInterval) -> tuple[Tensor, Tensor]:
    """The least and the largest slope of ``l1 |w_i|`` on an interval."""
    size = torch.zeros_like(w) + (l1.to(w) if isinstance(l1, Tensor) else l1)
    least = torch.where(w > 0, size, -size).masked_fill(w <= interval[0], -math.inf)
    most = torch.where(w < 0, -size, size).masked_fill(w >= interval[1], math.inf)
    return least, most


def project_on_all(name: str, w: Tensor, constraints: Sequence[Constraint]) -> Tensor:
    for constraint in order_constraints(name, constraints):
        w = constraint.project(w)
    return w


def joint_step(name: str, penalties: Sequence[Penalty], constraints: Sequence[Constraint]) -> tuple[Operator, bool]:
    """The step of all penalties, projected on the sets, and whether it is proven to be the joint proximal step."""
    sets = order_constraints(name, constraints)
    try:
        prox, rest = join_operators(name, penalties, sets)
        proven = True
    except CompositionError:
        prox, rest, proven = joint(name, penalties), sets, False
    return lambda w, length: project_on_all(name, prox(w, length), rest), proven


def _norm(w: Tensor) -> float:
    return float(torch.linalg.vector_norm(w))
