"""`settle`: the last phase of training, on all rows, down to a certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.core.checks import Within, checked
from wellposed.core.progress import emit
from wellposed.optimality.certify import Certificate, certificate
from wellposed.optimality.objective import Cost, CostPoint
from wellposed.penalties.base import Term
from wellposed.training.calls import Target

GROWTH = 1.25
"""What a step is multiplied by where the last was accepted at once: the curvature may have fallen."""
PATIENCE = 1000
"""Steps without a lower cost or a smaller violation after which rounding is all that is left."""
ROUNDING = 16
"""Units of rounding of the cost within which two costs cannot be told apart: sums over rows round more than once."""

TensorList = list[Tensor]


@checked
def settle(
    net: nn.Module,
    loss: Any,
    data: Any,
    terms: Iterable[Term] | Term | Optimizer = (),
    tolerance: Annotated[float, Within(0)] = 1e-6,
    steps: Annotated[int, Within(0)] = 10_000,
    *,
    optimizer: Optimizer | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    target: Target | None = None,
) -> Certificate:
    """Minimize ``mean loss(w) + sum of terms(w)`` from the weights as they are, in place, until `certify` finds no more.

    Accelerated proximal gradient on all rows in evaluation mode: ``w <- prox(y - t grad(y), t)`` with extrapolated ``y``,
    Euclidean steps ``t`` by backtracking, restarts where the momentum turns against the descent, and a cost that never
    rises (beyond rounding), for models that are not convex too. Zeros are settled exactly.

    Args:
        net, loss, data, terms, optimizer, forward, target: as in `certify`. Only the weights change.
        tolerance: >= 0, of the violation, in the units of the gradient. Single precision reaches about 1e-4.
        steps: >= 0; 0 only certifies.
    Returns:
        The certificate at the end; its notes say what stopped it where the tolerance was not reached.
    Raises:
        CompositionError: terms with no known joint step, or decay that solves no known objective.
    Source:
        Beck & Teboulle (2009), SIAM J. Imaging Sciences 2(1); restarts: O'Donoghue & Candes (2015), FoCM 15.
    """
    cost = Cost(net, loss, data, terms, optimizer, forward=forward, target=target)
    with cost.frozen():
        notes = _Descent(cost, tolerance).run(steps)
        return certificate(cost, cost.at(), tolerance, notes)


class _Descent:
    """The state of the descent: the weights ``w``, the last ones, the extrapolation, and the step."""

    def __init__(self, cost: Cost, tolerance: float) -> None:
        self.cost, self.tolerance = cost, tolerance
        self.params = cost.params
        self.eps = torch.finfo(self.params[0].dtype).eps
        self.step = 1.0

    def run(self, steps: int) -> list[str]:
        """Descend, and say why it ended where the tolerance was not reached."""
        w = self.cost.charges.feasible()
        point = self._at(w)
        objective, best, idle, momentum = point.objective, self._violation(point), 0, 1.0
        if not math.isfinite(objective):
            return ["the cost is not finite at the start; nothing was changed."] if steps else []
        y, at_y = w, point
        for number in range(1, steps + 1):
            if best <= self.tolerance:
                break
            u, smooth = self._step(y, at_y)
            self._set(u)
            reached = smooth + self.cost.charges.value()
            slack = ROUNDING * self.eps * max(abs(objective), abs(smooth))
            if not reached <= objective + slack:
                if y is w:
                    idle = PATIENCE  # a plain proximal step of a small enough length cannot rise but by rounding
                    break
                y, momentum = w, 1.0
                at_y = self._at(w)
                idle += 1
                continue
            turned = _dot(_less(y, u), _less(u, w)) > 0
            following = 1.0 if turned else 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum**2))
            weight = 0.0 if turned else (momentum - 1.0) / following
            lower = reached < objective - slack
            last, w, momentum = w, u, following
            objective = min(objective, reached)
            residual = math.sqrt(_dot(_less(y, u), _less(y, u))) / self.step
            if residual <= 2.0 * self.tolerance or number % 10 == 0 or turned or weight == 0.0:
                at_w = self._at(w)
                found = self._violation(at_w)
                smaller = found < 0.9 * best
                best = min(best, found) if found > self.tolerance else found
            else:
                at_w, smaller = None, False
            idle = 0 if lower or smaller else idle + 1
            if idle >= PATIENCE:
                break
            if weight == 0.0 and at_w is not None:
                y, at_y = w, at_w
            else:
                y = [a + weight * (a - b) for a, b in zip(w, last, strict=True)]
                at_y = self._at(y)
            if number % 100 == 0:
                emit("settle", step=number, steps=steps, violation=best, objective=objective)
        self._set(w)
        if best <= self.tolerance or not steps:
            return []
        if idle >= PATIENCE:
            precision = str(self.params[0].dtype).removeprefix("torch.")
            return [f"settling ended: no step lowers the objective by more than rounding in {precision}."]
        return [
            f"settling used up its {steps} steps; the violation was still falling or above the tolerance. Give more steps=."
        ]

    def _step(self, y: TensorList, at: CostPoint) -> tuple[TensorList, float]:
        """One proximal step from ``y``, of a length at which the quadratic model lies above the cost."""
        self.step *= GROWTH
        while True:
            u = self.cost.charges.prox([a - self.step * g for a, g in zip(y, at.grads, strict=True)], self.step)
            move = _less(u, y)
            square = _dot(move, move)
            self._set(u)
            smooth = self.cost.smooth()
            slack = ROUNDING * self.eps * max(abs(at.smooth), abs(smooth))
            above = at.smooth + _dot(at.grads, move) + square / (2.0 * self.step)
            if square / (2.0 * self.step) <= 16.0 * slack:
                # Costs differ by rounding only: gradients still tell the curvature along the move.
                fits = math.isfinite(smooth) and _dot(_less(self.cost.at().grads, at.grads), move) <= square / self.step
            else:
                fits = smooth <= above + slack
            if fits or square == 0.0 or self.step < 1e-300:
                return u, smooth
            self.step *= 0.5

    def _set(self, values: TensorList) -> None:
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)

    def _at(self, values: TensorList) -> CostPoint:
        self._set(values)
        return self.cost.at()

    def _violation(self, point: CostPoint) -> float:
        return math.hypot(*(found.violation for _, found in self.cost.charges.judged(point.grads)))


def _less(a: Sequence[Tensor], b: Sequence[Tensor]) -> TensorList:
    return [x - y for x, y in zip(a, b, strict=True)]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum())
