"""Which constraints go with which others and with which proximal steps: what is proven, and a refusal for the rest.

Projecting after a proximal step is the joint step in these cases (equal steps; docs/derivations/composition.md):

- squares before any set: completing them leaves a distance to one point;
- an interval after any convex function of single weights, in any metric; one that ends at 0 also before group norms;
- a norm ball around 0 after anything convex with ``g(c u) = c g(u)`` for c > 0, if no part of it reaches across balls;
- an L1 ball after L1; the largest ``k`` after L1; clipped singular values after the nuclear norm;
- two sets: an interval that ends at 0 before norm balls, the L1 ball and the largest ``k``; intervals among themselves.

Each set says itself which of this holds for it (`Constraint.follows`, `Constraint.keeps_signs`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wellposed.core.errors import CompositionError
from wellposed.ops.project import IntervalEnd
from wellposed.penalties.base import Constraint, Penalty

WeightInterval = tuple[IntervalEnd, IntervalEnd]


def intersection(constraints: Sequence[Constraint]) -> WeightInterval | None:
    """What all intervals among the constraints allow; None where there is none."""
    found = [c.interval for c in constraints if c.interval is not None]
    if not found:
        return None
    lows, highs = zip(*found, strict=True)
    ends: tuple[IntervalEnd, IntervalEnd] = (
        functools.reduce(lambda a, b: _extreme(max, torch.maximum, a, b), lows),
        functools.reduce(lambda a, b: _extreme(min, torch.minimum, a, b), highs),
    )
    return ends


def _extreme(of_numbers: Any, of_arrays: Any, a: IntervalEnd, b: IntervalEnd) -> Any:
    """The larger or the smaller of two ends, weight by weight where one of them is an array."""
    array = a if isinstance(a, Tensor) else b
    if not isinstance(array, Tensor):
        return of_numbers(a, b)
    return of_arrays(*(torch.as_tensor(x).to(array) for x in (a, b)))


def is_cone(interval: WeightInterval) -> bool:
    plain = not any(isinstance(end, Tensor) for end in interval)
    return plain and interval in ((0.0, math.inf), (-math.inf, 0.0))


def order_constraints(name: str, constraints: Sequence[Constraint]) -> list[Constraint]:
    """Constraints in the order in which projecting on one after the other is projecting on all."""
    intervals = [c for c in constraints if c.interval is not None]
    rest = [c for c in constraints if c.interval is None]
    meeting = intersection(constraints)
    if meeting is not None and bool(torch.as_tensor(meeting[0] > meeting[1]).any()):
        raise CompositionError(f"{name!r}: nothing satisfies {' and '.join(map(str, intervals))} at once.")
    cone = meeting is None or is_cone(meeting)
    if len(rest) > 1 or (rest and intervals and not (cone and rest[0].keeps_signs)):
        raise CompositionError(
            f"{name!r} has two constraints, {' and '.join(map(str, constraints))}; projecting on one leaves the other. "
            "Give one, or constrain different parameters."
        )
    return [*intervals, *rest]


def check_after(name: str, penalties: Sequence[Penalty], constraint: Constraint) -> None:
    """Refuse a constraint (no interval) whose projection after the proximal step is not the joint step."""
    parts = [penalty.summands() for penalty in penalties]
    weighted = any(not isinstance(part.l1, float | int) for part in parts)
    thresholds = weighted or any(part.l1 for part in parts)
    cores = [part.core for part in parts if part.core is not None]
    if (thresholds or cores) and not constraint.follows(weighted, thresholds, cores):
        raise CompositionError(
            f"{' and '.join(map(str, penalties))} with {constraint} have no proven joint step on {name!r}. "
            'Enforce the penalty with how="loss", or charge different parameters.'
        )
