"""Penalties that are sums over single weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from charges import equal
from wellposed.ops.prox import soft_threshold

GIVEN: dict[str, list[dict[str, Any]]] = {
    "l1": [{"strength": 0.3}],
    "l2": [{"strength": 0.4}],
    "elastic_net": [{"strength": 0.5, "mix": 0.3}, {"strength": 0.3, "mix": 1.0}, {"strength": 0.3, "mix": 0.0}],
}


def l1_form(cls: Callable[..., Any]) -> None:
    """``w = (3, -0.5, 0, -2)``, strength 0.5, step 2: threshold 1."""
    w = torch.tensor([3.0, -0.5, 0.0, -2.0], dtype=torch.float64)
    penalty = cls(0.5)
    equal(penalty.value(w), 2.75)
    equal(penalty.prox(w, 2.0), [2.0, 0.0, 0.0, -1.0])
    # Off zero |0.1 + 0.5|, |0.2 - 0.5| and |-0.4 - 0.5|; at zero 0.7 - 0.5.
    grad = torch.tensor([0.1, 0.2, 0.7, -0.4], dtype=torch.float64)
    equal(penalty.violation(w, grad), math.sqrt(0.36 + 0.09 + 0.04 + 0.81))


def l2_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5: value 0.25*(9 + 1) and, with step 2, division by 2; gradient 0.5*w."""
    w = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
    penalty = cls(0.5)
    equal(penalty.value(w).detach(), 2.5)
    equal(penalty.prox(w.detach(), 2.0), [1.5, -0.5])
    (grad,) = torch.autograd.grad(penalty.value(w), w)
    equal(grad, [1.5, -0.5])
    equal(penalty.violation(w.detach(), torch.tensor([-1.5, 4.5], dtype=torch.float64)), 4.0)


def elastic_net_form(cls: Callable[..., Any]) -> None:
    """Strength 2, mix 0.25: 0.5*|w|_1 + 0.75*|w|^2; with step 2 threshold 1, then division by 4."""
    w = torch.tensor([3.0, -0.5], dtype=torch.float64)
    penalty = cls(2.0, mix=0.25)
    equal(penalty.value(w), 0.5 * 3.5 + 0.75 * 9.25)
    equal(penalty.prox(w, 2.0), [0.5, 0.0])
    zero = torch.zeros(2, dtype=torch.float64)
    equal(penalty.violation(zero, torch.tensor([0.4, 0.9], dtype=torch.float64)), 0.4)


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "l1": l1_form,
    "l2": l2_form,
    "elastic_net": elastic_net_form,
}


def _soft(w: Tensor, t: float | Tensor) -> Tensor:
    return soft_threshold(w, t)


class L1TwiceTheThreshold(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, 2 * step * self.strength)


class L1HalfTheThreshold(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, 0.5 * step * self.strength)


class L1WrongSign(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return 2 * w - _soft(w, step * self.strength)


class L1ReadsData(wp.L1):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.data.abs().sum()


class L1HalfDetached(wp.L1):
    def value(self, w: Tensor) -> Tensor:
        return 0.5 * self.strength * (w.abs().sum() + w.detach().abs().sum())


class L1InPlace(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return w.sub_(torch.as_tensor(step * self.strength, dtype=w.dtype).expand(w.shape).minimum(w.abs()) * w.sign())


class L1ModifiesTheStep(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, step.mul_(self.strength) if isinstance(step, Tensor) else step * self.strength)


class L1IgnoresTheMetric(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, float(torch.as_tensor(step).mean()) * self.strength)


class L1IgnoresTheStep(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, self.strength)


class L1HardThreshold(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return torch.where(w.abs() > step * self.strength, w, torch.zeros_like(w))


class L1AlmostZero(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, step * self.strength) + 1e-4 * w * torch.as_tensor(step > 0)


class L1NotANumberAtZero(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return w / w.abs() * (w.abs() - step * self.strength).clamp_min(0)


class L1OneSided(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return torch.where(w > 0, _soft(w, step * self.strength), w)


class L1MeanInsteadOfSum(wp.L1):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.abs().mean()


class L1LosesPrecision(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w.float(), (step.float() if isinstance(step, Tensor) else step) * self.strength).to(w.dtype)


class L1LosesItsType(wp.L1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return super().prox(w, step).float()


class L1ViolationWithoutDeadZone(wp.L1):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return (grad + self.strength * w.sign()).norm()


class L1ViolationWithoutStrength(wp.L1):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return torch.where(w == 0, (grad.abs() - 1).clamp_min(0), grad + w.sign()).norm()


class L1ViolationSquared(wp.L1):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return super().violation(w, grad, step).square()


class L1TwiceAsStrong(wp.L1):
    @property
    def l1(self) -> float:
        return 2 * self.strength


class L2WithoutHalf(wp.L2):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.square().sum()


class L2TwiceAsStrong(wp.L2):
    @property
    def l2(self) -> float:
        return 2 * self.strength


class L2Explicit(wp.L2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return w * (1 - step * self.strength)


class L2NotSquared(wp.L2):
    def value(self, w: Tensor) -> Tensor:
        return 0.5 * self.strength * w.norm()


class L2ViolationOfTheLoss(wp.L2):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return grad.norm()


class ElasticNetWrongOrder(wp.ElasticNet):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w / (1 + step * self.l2), step * self.l1)


class ElasticNetSwapped(wp.ElasticNet):
    @property
    def l1(self) -> float:
        return self.strength * (1 - self.mix)

    @property
    def l2(self) -> float:
        return self.strength * self.mix


class ElasticNetOnlyThreshold(wp.ElasticNet):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, step * self.l1)
