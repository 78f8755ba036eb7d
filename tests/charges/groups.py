"""Penalties of groups, in one tensor and across several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from charges import equal
from wellposed.ops.norms import group_norms, other_axes
from wellposed.ops.prox import group_soft_threshold, soft_threshold

GIVEN: dict[str, list[dict[str, Any]]] = {
    "group_l2": [{"strength": 0.2}, {"strength": 0.3, "by": "input"}],
}


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
    # A kernel (2, 1, 1, 2): sqrt(size) is that of one filter.
    equal(cls(s).value(w.view(2, 1, 1, 2)), 5.5)


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "group_l2": group_l2_form,
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
    @property
    def axis(self) -> int:
        return 1 - super().axis


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
