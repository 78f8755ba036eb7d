"""Penalties of groups, in one tensor and across several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from charges import equal
from wellposed.core.errors import ShapeError
from wellposed.ops.groups import Groups, along
from wellposed.ops.norms import group_norms, other_axes, rooted_sum
from wellposed.ops.prox import group_minimax_shrink, group_shrink, group_soft_threshold, soft_threshold
from wellposed.ops.variation_prox import variation_prox
from wellposed.penalties.base import CoupledPenalty, Penalty, Traits
from wellposed.penalties.coupled import TiedGroups
from wellposed.penalties.group import GroupMCP, SparseGroup
from wellposed.penalties.hierarchical import Hierarchical
from wellposed.penalties.variation import TotalVariation
from wellposed.testing import check_penalty
from wellposed.testing.laws import PENALTY_LAWS, STEPS, cases, minimizes, minimizes_in_metric

ALL = torch.tensor([0])
"""Group numbers that broadcast to every shape: one group of all."""

BY_SIGHT = torch.tensor([[0, 1, -1], [0, 0, 1], [1, 1, 1], [-1, 0, 0]])
"""Group numbers of a matrix (4, 3): two groups of five, and two weights in none."""

Given = dict[str, Any]
COUPLED: dict[str, list[tuple[Given, list[tuple[int, ...]]]]] = {
    "tied_groups": [
        (
            {"strength": 0.2, "axes": {"a.weight": "unit", "a.bias": "unit", "b.weight": "input"}},
            [(3, 2), (3,), (2, 3)],
        ),
        ({"strength": 0.1, "axes": {"a": "filter", "b": "channel"}}, [(2, 1, 2), (2, 2, 2)]),
        ({"strength": 0.3, "axes": {"a": "unit", "b": "input"}, "weights": 1.5}, [(2, 2), (1, 2)]),
    ],
    "hierarchical": [
        ({"strength": 0.4, "hierarchy": 1.5}, [(1, 3), (3, 3)]),
        ({"strength": 0.3, "hierarchy": 0.7, "group": True}, [(2, 3), (4, 3)]),
    ],
}
"""Constructor arguments of the penalties of several tensors, and the shapes of those that are cut out of a flat one."""

GIVEN: dict[str, list[Given]] = {
    "group_l2": [
        {"strength": 0.2},
        {"strength": 0.3, "by": "input"},
        {"strength": 0.2, "by": "head", "heads": 2},
        {"strength": 0.3, "by": "block", "block": (2, 1)},
        {"strength": 0.1, "by": ALL},
        {"strength": 0.3, "weights": 1.0},
        {"strength": 0.3, "by": "input", "weights": [2.0, 0.0, 0.5]},
        {"strength": 0.3, "by": BY_SIGHT, "weights": (1.0, 2.0)},
    ],
    "sparse_group": [
        {"strength": 0.3},
        {"strength": 0.4, "mix": 0.2, "by": "input"},
        {"strength": 0.4, "mix": 0.4, "by": "input", "weights": [2.0, 0.0, 0.5]},
    ],
    "group_mcp": [
        {"strength": 0.3},
        {"strength": 0.2, "gamma": 3.5, "by": "input"},
        {"strength": 0.2, "by": BY_SIGHT, "weights": [0.0, 1.5]},
    ],
    "total_variation": [{"strength": 0.3}, {"strength": 0.2, "axis": 0}],
    **{name: [given for given, _ in entries] for name, entries in COUPLED.items()},
}


@dataclass(frozen=True)
class AsOne(Penalty):
    """A penalty of several tensors as one of a flat tensor that holds them all, one behind the other.

    Attributes:
        charge: of several tensors.
        shapes: of the tensors.
        strict: the value is infinite where a hierarchy is not kept.
        strength: that of the charge, or another.
    """

    __module__ = "charges"  # it is no mutant: these are the subclasses that belong to a module of this folder

    charge: CoupledPenalty
    shapes: Sequence[tuple[int, ...]]
    strict: bool = False
    strength: float = -1.0

    def __post_init__(self) -> None:
        if self.strength < 0:
            object.__setattr__(self, "strength", self.charge.strength)

    @property
    def traits(self) -> Traits:
        return self.charge.traits

    @property
    def hows(self) -> Any:
        return self.charge.hows

    def check(self, name: str, w: Tensor) -> None:
        total = sum(math.prod(shape) for shape in self.shapes)
        if w.shape != (total,):
            raise ShapeError(f"AsOne is cut from {total} numbers, not from {tuple(w.shape)}.")

    @property
    def inner(self) -> Any:
        changed: Any = replace
        return changed(self.charge, strength=self.strength)

    @property
    def total(self) -> tuple[int]:
        """The shape of the flat tensor."""
        return (sum(math.prod(shape) for shape in self.shapes),)

    def cut(self, w: Tensor) -> list[Tensor]:
        parts = w.split([math.prod(shape) for shape in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def flat(self, ws: Sequence[Tensor]) -> Tensor:
        return torch.cat([w.reshape(-1) for w in ws])

    def value(self, w: Tensor) -> Tensor:
        ws = self.cut(w)
        value: Tensor = self.inner.value(ws)
        if self.strict and isinstance(self.charge, Hierarchical) and self.strength > 0:
            length = ws[0].norm(dim=0)
            slack = 1e-12 if w.dtype == torch.float64 else 1e-5
            kept = ws[1].abs().amax(0) <= self.charge.hierarchy * length * (1 + slack)
            return value if bool(kept.all()) else value + math.inf
        return value

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        steps = self.cut(step) if isinstance(step, Tensor) and step.ndim else [step] * len(self.shapes)
        return self.flat(self.inner.prox(self.cut(w), steps))

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        found: Tensor = self.inner.violation(self.cut(w), self.cut(grad), step)
        return found


def as_one(charge: CoupledPenalty) -> AsOne:
    """A penalty of several tensors, one of those in `COUPLED` or wrong in one way, as one of a flat tensor."""
    kind = "tied_groups" if isinstance(charge, TiedGroups) else "hierarchical"
    shapes = next(
        shapes
        for given, shapes in COUPLED[kind]
        if all(getattr(charge, name) == value for name, value in given.items())
    )
    return AsOne(charge, shapes)


def check_coupled(charge: CoupledPenalty, **settings: Any) -> None:
    """Every law on a penalty of several tensors.

    The value of a hierarchy does not say what is forbidden, so that its prox is compared with rivals by another one, which
    does.
    """
    one = as_one(charge)
    if not isinstance(charge, Hierarchical):
        check_penalty(one, shapes=[one.total], **settings)
        return
    compared = (minimizes, minimizes_in_metric)
    seed, dtype = settings.get("seed", 0), settings.get("dtype", torch.float64)
    for case in cases(one, [one.total], seed, dtype, STEPS):
        for law in PENALTY_LAWS:
            law(AsOne(charge, one.shapes, strict=law in compared), case)


def group_l2_form(cls: Callable[..., Any]) -> None:
    """Rows (3, 4) and (0.3, 0.4), norms 5 and 0.5; strength 1/sqrt(2) makes sqrt(size)*strength 1; step 1."""
    w = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    s = 1.0 / math.sqrt(2.0)
    equal(cls(s).value(w), 5.5)
    equal(cls(s).prox(w, 1.0), [[2.4, 3.2], [0.0, 0.0]])
    equal(cls(s, by="input").value(w), math.hypot(3, 0.3) + math.hypot(4, 0.4))
    at_zero = torch.tensor([[0.0, 3.0], [0.6, 0.0]], dtype=torch.float64)
    equal(cls(s).violation(torch.zeros_like(w), at_zero), 2.0)
    # A step for each coordinate: with r = 1 the secular equation 4/(1 + 1)^2 = 1 holds whatever moves a zero.
    metric = torch.tensor([[1.0, 7.0]], dtype=torch.float64)
    equal(cls(s).prox(torch.tensor([[2.0, 0.0]], dtype=torch.float64), metric), [[1.0, 0.0]])
    # (18/5)^2/(2 + 4)^2 + (16/5)^2/(2 + 2)^2 = 0.36 + 0.64: the root is r = 2.
    found = cls(s).prox(
        torch.tensor([[3.6, 3.2]], dtype=torch.float64), torch.tensor([[4.0, 2.0]], dtype=torch.float64)
    )
    equal(found, [[1.2, 1.6]])
    # Weights in place of sqrt(2): norms 5 and 0.5 are charged 2 and 0, and step 1/2 takes 1 off the first.
    equal(cls(1.0, weights=[2.0, 0.0]).value(w), 10.0)
    equal(cls(1.0, weights=torch.tensor([2.0, 0.0])).prox(w, 0.5), [[2.4, 3.2], [0.3, 0.4]])
    equal(cls(1.0, weights=1.0).value(w), 5.5)
    # Group numbers 2 and 0, with weights for 0, 1 and 2.
    equal(cls(1.0, by=torch.tensor([[2], [0]]), weights=[4.0, 9.0, 2.0]).value(w), 12.0)
    # A kernel (2, 1, 1, 2): sqrt(size) is that of one filter.
    equal(cls(s).value(w.view(2, 1, 1, 2)), 5.5)


def sparse_group_form(cls: Callable[..., Any]) -> None:
    """Rows (4, -5) and (1.3, 1.4), l1 = 1, s = 1, step 1: thresholds leave (3, -4) and (0.3, 0.4), of norms 5 and 0.5."""
    w = torch.tensor([[4.0, -5.0], [1.3, 1.4]], dtype=torch.float64)
    root = math.sqrt(2.0)
    # strength * mix = 1 and strength * (1 - mix) * sqrt(2) = 1
    penalty = cls(1.0 + 1.0 / root, mix=root / (1.0 + root))
    equal(penalty.prox(w, 1.0), [[2.4, -3.2], [0.0, 0.0]])
    equal(penalty.value(w), 9.0 + 2.7 + math.hypot(4, 5) + math.hypot(1.3, 1.4))
    # At zero the gradient (4, -5) loses 1 each, and the norm 5 another 1; (1.3, 1.4) nothing is left of.
    equal(penalty.violation(torch.zeros_like(w), w), 4.0)
    # Off zero: (1 + 0.6, -1 - 0.8); a zero beside it, (1, 0): 0 + 1 + 1, and 1.5 - 1.
    at = torch.tensor([[3.0, -4.0], [1.0, 0.0]], dtype=torch.float64)
    grad = torch.tensor([[0.0, 0.0], [0.0, 1.5]], dtype=torch.float64)
    equal(penalty.violation(at, grad), math.sqrt(1.6**2 + 1.8**2 + 2.0**2 + 0.5**2))


def group_mcp_form(cls: Callable[..., Any]) -> None:
    """s = 1 and gamma = 2. Rows of norms 5 (free), 1.5 and 0.5; step 1: the second shrinks to (1.5 - 1)/(1 - 1/2) = 1."""
    w = torch.tensor([[3.0, 4.0], [0.9, 1.2], [0.3, 0.4]], dtype=torch.float64)
    s = 1.0 / math.sqrt(2.0)
    penalty = cls(s, gamma=2.0)
    equal(penalty.value(w), 1.0 + (1.5 - 1.5**2 / 4) + (0.5 - 0.25 / 4))
    equal(penalty.prox(w, 1.0), [[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]])
    # Step 8 is above gamma: 0 or free, whatever is less. |w|^2/16 against 1: all but a norm above 4 becomes 0.
    equal(penalty.prox(w, 8.0), [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    # Steps 1/2 and 1: the denominators 0.5 + 0.75 r and 1 + 0.5 r are 1.25 and 1.5 at the root r = 1.
    metric = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    equal(penalty.prox(torch.tensor([[0.75, 1.2]], dtype=torch.float64), metric), [[0.6, 0.8]])
    # Steps 1/2 and 4: (0.6, 0.8) is stationary for (0.75, 2.4), and costs 0.0225 + 0.32 + 0.75; free costs 1.
    metric = torch.tensor([[0.5, 4.0]], dtype=torch.float64)
    equal(penalty.prox(torch.tensor([[0.75, 2.4]], dtype=torch.float64), metric), [[0.75, 2.4]])
    # Slopes 1 - 1.5/2 = 1/4 along (0.6, 0.8), none beyond the knot, and 2 - 1 at zero.
    at = torch.tensor([[3.0, 4.0], [0.9, 1.2], [0.0, 0.0]], dtype=torch.float64)
    grad = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    equal(penalty.violation(at, grad), math.hypot(0.25, 1.0))


def total_variation_form(cls: Callable[..., Any]) -> None:
    """(0, 0.5, 4) with strength 0.5 and step 1: the first two meet at 0.5, the last comes down by 0.5."""
    w = torch.tensor([[0.0, 0.5, 4.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    penalty = cls(0.5)
    equal(penalty.value(w), 2.0)
    equal(penalty.prox(w, 1.0), [[0.5, 0.5, 3.5], [2.0, 2.0, 2.0]])
    # Step 4: (0.5 + 2)/2 and 4 - 2; step 8: all meet at the mean.
    equal(penalty.prox(w, 4.0), [[1.25, 1.25, 2.0], [2.0, 2.0, 2.0]])
    equal(penalty.prox(w, 8.0), [[1.5, 1.5, 1.5], [2.0, 2.0, 2.0]])
    equal(cls(0.5, axis=0).value(w), 0.5 * (2.0 + 1.5 + 2.0))
    # A step for each: 0 + 1*0.5 and 4 - 3*0.5.
    metric = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    equal(penalty.prox(torch.tensor([[0.0, 4.0]], dtype=torch.float64), metric), [[0.5, 2.5]])
    # They meet where 1/1 and 1/3 balance: (0 + 1/3)/(4/3).
    equal(penalty.prox(torch.tensor([[0.0, 1.0]], dtype=torch.float64), metric), [[0.25, 0.25]])
    # On a level line the dual is free: gradients (0.4, -0.4) are taken up, of (0.7, -0.7) 0.2 remain each.
    level = torch.ones(2, dtype=torch.float64)
    equal(penalty.violation(level, torch.tensor([0.4, -0.4], dtype=torch.float64)), 0.0)
    equal(penalty.violation(level, torch.tensor([0.7, -0.7], dtype=torch.float64)), math.hypot(0.2, 0.2))
    # Off it the slope is -1/2, 1/2.
    rising = torch.tensor([0.0, 1.0], dtype=torch.float64)
    equal(penalty.violation(rising, torch.zeros_like(rising)), math.hypot(0.5, 0.5))


def tied_groups_form(cls: Callable[..., Any]) -> None:
    """Group 0 is (2; 1; 2, 0) of norm 3, group 1 is (0; 0.3; 0, 0.4) of norm 0.5; s = 1, step 1."""
    penalty = cls(0.5, {"a": "unit", "b": "unit", "c": "input"})
    ws = [
        torch.tensor([[2.0], [0.0]], dtype=torch.float64),
        torch.tensor([1.0, 0.3], dtype=torch.float64),
        torch.tensor([[2.0, 0.0], [0.0, 0.4]], dtype=torch.float64),
    ]
    equal(penalty.value(ws), 3.5)
    a, b, c = penalty.prox(ws, [1.0, 1.0, 1.0])
    equal(a, [[4 / 3], [0.0]])
    equal(b, [2 / 3, 0.0])
    equal(c, [[4 / 3, 0.0], [0.0, 0.0]])
    grads = [torch.full_like(w, 1.0) for w in ws]
    equal(penalty.violation([torch.zeros_like(w) for w in ws], grads), math.hypot(1.0, 1.0))


def hierarchical_form(cls: Callable[..., Any]) -> None:
    """theta = (1, 0.2), W = (2, 0; 0, 0.1), hierarchy 1, strength 0.5, step 1.

    Input 0: b - 1 + 0.5 - (2 - b) = 0, so b = 1.25 and W is cut to 1.25. Input 1: 0.2 + 0.1 is below 0.5.
    """
    theta = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    w = torch.tensor([[2.0, 0.0], [0.0, 0.1]], dtype=torch.float64)
    penalty = cls(0.5, hierarchy=1.0)
    equal(penalty.value([theta, w]), 0.6)
    u, v = penalty.prox([theta, w], [1.0, 1.0])
    equal(u, [[1.25, 0.0]])
    equal(v, [[1.25, 0.0], [0.0, 0.0]])
    # Two outputs (0.6, 0.8) of norm 1 go along; grouped, the strength is 0.5 * sqrt(2).
    two = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    u, v = penalty.prox([two, w[:, :1]], [1.0, 1.0])
    equal(u, [[0.75], [1.0]])
    equal(v, [[1.25], [0.0]])
    equal(cls(0.5, hierarchy=1.0, group=True).value([two, w[:, :1]]), 0.5 * math.sqrt(2.0))
    # Without a gradient (1, 0; 0.2, 0.1) moves as above: |(0.25, -0.2; 2 - 1.25, 0.1)|.
    zeros = [torch.zeros_like(theta), torch.zeros_like(w)]
    equal(penalty.violation([theta, w], zeros), math.sqrt(0.25**2 + 0.2**2 + 0.75**2 + 0.1**2))


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "group_l2": group_l2_form,
    "sparse_group": sparse_group_form,
    "group_mcp": group_mcp_form,
    "total_variation": total_variation_form,
    "tied_groups": tied_groups_form,
    "hierarchical": hierarchical_form,
}


class GroupProxWithoutSize(wp.GroupL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return group_soft_threshold(w, step, self.strength, self.axis)


class GroupWithoutSize(wp.GroupL2):
    def scaled(self, w: Tensor) -> float:
        return self.strength


class GroupSizeWithoutRoot(wp.GroupL2):
    def scaled(self, w: Tensor) -> float:
        return super().scaled(w) ** 2 / max(self.strength, 1e-300)


class GroupProxAlongTheOtherAxis(wp.GroupL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return group_soft_threshold(w, step, self.scaled(w), 1 - self.axis)


class GroupAlongTheOtherAxis(wp.GroupL2):
    def groups(self, w: Tensor) -> Groups:
        return along(w, 1 - self.axis) if self.by in ("unit", "input") else super().groups(w)


class GroupWithTheLargestStep(wp.GroupL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.amax(dim=other_axes(w, self.axis), keepdim=True).expand_as(w)
        return super().prox(w, step)


class GroupWithTheMeanStep(wp.GroupL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.mean(dim=other_axes(w, self.axis), keepdim=True).expand_as(w)
        return super().prox(w, step)


class GroupScaledByEachStep(wp.GroupL2):
    """The closed form of one step, used coordinate by coordinate: what most implementations do."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        norms = group_norms(w, self.axis).clamp_min(1e-300)
        return w * (1 - step * self.scaled(w) / norms).clamp_min(0)


class GroupOfSingles(wp.GroupL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return soft_threshold(w, step * self.scaled(w))


class GroupWithoutRoot(wp.GroupL2):
    """A missing square root turns the group lasso into L2."""

    def value(self, w: Tensor) -> Tensor:
        return self.scaled(w) * group_norms(w, self.axis).square().sum()


class GroupViolationWithoutSize(wp.GroupL2):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return GroupWithoutSize(self.strength, self.by).violation(w, grad, step)


class GroupNotANumber(wp.GroupL2):
    def value(self, w: Tensor) -> Tensor:
        # The root of a sum of squares has no gradient at 0.
        return self.scaled(w) * w.square().sum(dim=other_axes(w, self.axis)).sqrt().sum()


class GroupHeadsInterleaved(wp.GroupL2):
    """Every second row, instead of consecutive ones."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        if self.heads is None:
            return super().prox(w, step)
        rows = torch.arange(len(w)) % self.heads
        return wp.GroupL2(self.strength, by=rows.view(-1, *[1] * (w.ndim - 1))).prox(w, step)


class GroupBlocksAreUnits(wp.GroupL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return super().prox(w, step) if self.block is None else wp.GroupL2(self.strength).prox(w, step)


class SparseGroupWrongOrder(SparseGroup):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return soft_threshold(self.whole.prox(w, step), step * self.l1)


class SparseGroupSwapped(SparseGroup):
    @property
    def l1(self) -> float:
        return self.strength * (1 - self.mix)

    @property
    def whole(self) -> wp.GroupL2:
        return wp.GroupL2(self.strength * self.mix, self.by)


class SparseGroupWithoutSize(SparseGroup):
    @property
    def whole(self) -> wp.GroupL2:
        return GroupWithoutSize(self.strength * (1 - self.mix), self.by)


class SparseGroupIgnoresTheMetricOfGroups(SparseGroup):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        thresholded = soft_threshold(w, step * self.l1)
        mean = float(step.mean()) if isinstance(step, Tensor) and step.ndim else step
        return torch.where(torch.as_tensor(step) > 0, self.whole.prox(thresholded, mean), w)


class SparseGroupViolationAddsUp(SparseGroup):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return self.whole.violation(w, grad + self.l1 * w.sign(), step)


class GroupMCPWithoutSize(GroupMCP):
    def scaled(self, w: Tensor) -> float:
        return self.strength


class GroupMCPNeverFree(GroupMCP):
    def value(self, w: Tensor) -> Tensor:
        r, s = group_norms(w, self.axis), self.scaled(w)
        knot = self.gamma * s
        beyond = knot * s / 2 + s * (r - knot)
        return torch.where(r <= knot, s * r - r.square() / (2 * self.gamma), beyond).sum()


class GroupMCPIsGroupL2(GroupMCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return group_shrink(w, step, self.scaled(w), self.groups(w))


class GroupMCPAlwaysShrinks(GroupMCP):
    """The formula of steps below gamma, used above it too."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        if isinstance(step, Tensor) and step.numel() > 1:
            return super().prox(w, step)
        r, s = group_norms(w, self.axis), self.scaled(w)
        inside = ((r - step * s) / (1 - step / self.gamma)).clamp_min(0.0)
        return torch.where((r >= self.gamma * s) | (r == 0) | (step == 0), w, w * inside / r.clamp_min(1e-300))


class GroupMCPInTheMeanMetric(GroupMCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        if isinstance(step, Tensor) and step.numel() > 1:
            mean = step.mean(dim=other_axes(w, self.axis), keepdim=True).expand_as(w)
            return torch.where(step > 0, super().prox(w, mean), w)
        return super().prox(w, step)


class GroupMCPTwiceGamma(GroupMCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return group_minimax_shrink(w, step, self.scaled(w), 2 * self.gamma, along(w, self.axis))


class GroupMCPViolationOfGroupL2(GroupMCP):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return wp.GroupL2(self.strength, self.by).violation(w, grad, step)


class VariationSquared(TotalVariation):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.diff(dim=self.axis).square().sum()


class VariationAroundACircle(TotalVariation):
    def value(self, w: Tensor) -> Tensor:
        return super().value(w) + self.strength * (w.select(self.axis, 0) - w.select(self.axis, -1)).abs().sum()


class VariationAlongTheOtherAxis(TotalVariation):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return variation_prox(w, step, self.strength, -1 if self.axis == 0 else 0)


class VariationIgnoresTheMetric(TotalVariation):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        mean = float(torch.as_tensor(step).mean())
        return torch.where(torch.as_tensor(step) > 0, variation_prox(w, mean, self.strength, self.axis), w)


class VariationByOneSweep(TotalVariation):
    """Each pair meets or comes nearer, one pair after the other: right for two entries only."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype).expand_as(w).movedim(self.axis, -1)
        u = w.movedim(self.axis, -1).clone()
        for i in range(u.shape[-1] - 1):
            u[..., i : i + 2] = variation_prox(u[..., i : i + 2], t[..., i : i + 2], self.strength)
        return u.movedim(-1, self.axis)


class VariationViolationWithoutTheDual(TotalVariation):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        x = w.clone().requires_grad_()
        (pull,) = torch.autograd.grad(self.value(x), x)
        return (grad + pull).norm()


class TiedWithoutSize(TiedGroups):
    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        size = sum(w.numel() for w in ws) / ws[0].shape[0]
        return TiedGroups(self.strength / math.sqrt(size), self.axes).prox(ws, steps)


class TiedEachAlone(TiedGroups):
    """A norm for each tensor: what separate terms charge."""

    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        alone = [TiedGroups(self.strength, {name: by}) for name, by in self.axes.items()]
        return [one.prox([w], [t])[0] for one, w, t in zip(alone, ws, steps, strict=True)]


class TiedByUnitsOnly(TiedGroups):
    def value(self, ws: Sequence[Tensor]) -> Tensor:
        squares = [w.reshape(len(w), -1).square().sum(1) for w in ws]
        least = min(map(len, squares))
        total = torch.stack([s[:least] for s in squares]).sum(0)
        return (
            self.strength
            * math.sqrt(sum(w.numel() for w in ws) / ws[0].shape[0])
            * total.clamp_min(1e-300).sqrt().sum()
        )


class TiedInOneStep(TiedGroups):
    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        return super().prox(ws, [float(torch.as_tensor(t).mean()) for t in steps])


class HierarchyBySkipAlone(Hierarchical):
    """The linear effect is shrunk first, and the rest is cut to it: what looks right."""

    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        u = group_shrink(ws[0], steps[0], self.scaled(ws[0]), along(ws[0], 1))
        bound = self.hierarchy * u.norm(dim=0)
        return [u, torch.where(torch.as_tensor(steps[1]) > 0, ws[1].clamp(-bound, bound), ws[1])]


class HierarchyNotKept(Hierarchical):
    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        return [super().prox(ws, steps)[0], ws[1].clone()]


class HierarchyTwiceTheStrength(Hierarchical):
    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        return Hierarchical(2 * self.strength, self.hierarchy, group=self.group).prox(ws, steps)


class HierarchyOfTheMeanStep(Hierarchical):
    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        found = super().prox(ws, [float(torch.as_tensor(t).mean()) for t in steps])
        return [torch.where(torch.as_tensor(t) > 0, u, w) for u, w, t in zip(found, ws, steps, strict=True)]


class GroupOfNotANumber(wp.GroupL2):
    """No comparison holds for what is not a number, so that its group counts as dead."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(w, dim=tuple(range(1, w.ndim)), keepdim=True)
        return (
            torch.where(norms > 0, super().prox(w, step), torch.zeros_like(w))
            if self.by == "unit"
            else super().prox(w, step)
        )


class GroupWithoutRoom(wp.GroupL2):
    """Squares in the type of the weights: those of large numbers are infinite, those of small ones vanish."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        if self.by != "unit" or isinstance(step, Tensor):
            return super().prox(w, step)
        norms = rooted_sum(w.square().sum(dim=tuple(range(1, w.ndim)), keepdim=True))
        factor = (1.0 - step * self.scaled(w) / norms.where(norms > 0, torch.ones_like(norms))).clamp_min(0.0)
        shrunk = w * torch.where((norms > 0) | (torch.as_tensor(step) == 0), factor, torch.zeros_like(norms))
        return torch.where(torch.isfinite(w), shrunk, w)


class GroupOfNothing(wp.GroupL2):
    def value(self, w: Tensor) -> Tensor:
        return super().value(w) + 0.0 * w.max()


class GroupWeightsForgotten(wp.GroupL2):
    def scaled(self, w: Tensor) -> float | Tensor:
        return wp.GroupL2(self.strength, self.by, self.heads, self.block).scaled(w)


class GroupWeightsTimesTheRoot(wp.GroupL2):
    def scaled(self, w: Tensor) -> float | Tensor:
        sizes = self.groups(w).sizes
        return super().scaled(w) * (1.0 if self.weights is None else sizes**0.5)
