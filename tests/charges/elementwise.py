"""Penalties that are sums over single weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import wellposed as wp
from charges import equal
from wellposed.core.selectors import Leaf, leaves
from wellposed.ops.nonconvex_prox import hard_threshold
from wellposed.ops.prox import soft_threshold
from wellposed.penalties.elementwise import WeightedL1, WeightedL2
from wellposed.penalties.nonconvex import L0, MCP, SCAD
from wellposed.penalties.reference import L1SP, L2SP

GIVEN: dict[str, list[dict[str, Any]]] = {
    "l1": [{"strength": 0.3}],
    "l2": [{"strength": 0.4}],
    "elastic_net": [{"strength": 0.5, "mix": 0.3}, {"strength": 0.3, "mix": 1.0}, {"strength": 0.3, "mix": 0.0}],
    "weighted_l1": [
        {"strength": 0.6, "weights": 0.5},
        {"strength": 0.3, "weights": torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)},
    ],
    "weighted_l2": [
        {"strength": 0.6, "weights": 0.5},
        {"strength": 0.3, "weights": torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)},
    ],
    # Steps go up to 3, in a metric to 6: with every gamma some are beyond convexity, with the small ones most.
    "mcp": [{"strength": 0.3}, {"strength": 0.4, "gamma": 1.5}, {"strength": 0.3, "gamma": 0.2}],
    "scad": [{"strength": 0.3}, {"strength": 0.4, "gamma": 2.1}],
    "l0": [{"strength": 0.3}],
    "l2_sp": [{"strength": 0.4, "reference": 0.7}, {"strength": 0.4, "reference": 0.0}],
    "l1_sp": [{"strength": 0.3, "reference": 0.7}, {"strength": 0.3, "reference": 0.0}],
}


SCALINGS = ("torch", "composer", "independent", "timm")


def l1_form(cls: Callable[..., Any]) -> None:
    """``w = (3, -0.5, 0, -2)``, strength 0.5, step 2: threshold 1."""
    w = torch.tensor([3.0, -0.5, 0.0, -2.0], dtype=torch.float64)
    penalty = cls(0.5)
    equal(penalty.value(w), 2.75)
    equal(penalty.prox(w, 2.0), [2.0, 0.0, 0.0, -1.0])
    # Off zero |0.1 + 0.5|, |0.2 - 0.5| and |-0.4 - 0.5|; at zero 0.7 - 0.5.
    grad = torch.tensor([0.1, 0.2, 0.7, -0.4], dtype=torch.float64)
    equal(penalty.violation(w, grad), math.sqrt(0.36 + 0.09 + 0.04 + 0.81))
    found = [cls.prior(0.5, 6), cls.prior(0.5, 6, noise_std=0.5), cls.lasso(0.3)]
    equal(torch.tensor([p.strength for p in found], dtype=torch.float64), [1 / 3, 1 / 6, 0.6])


def l2_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5: value 0.25*(9 + 1) and, with step 2, division by 2; gradient 0.5*w."""
    w = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
    penalty = cls(0.5)
    equal(penalty.value(w).detach(), 2.5)
    equal(penalty.prox(w.detach(), 2.0), [1.5, -0.5])
    (grad,) = torch.autograd.grad(penalty.value(w), w)
    equal(grad, [1.5, -0.5])
    equal(penalty.violation(w.detach(), torch.tensor([-1.5, 4.5], dtype=torch.float64)), 4.0)
    # Conventions: 0.3/6, twice 0.3, 1/(6*0.25) and, with noise 0.5, half of that, 2*0.3/6.
    found = [cls.textbook(0.3, 6), cls.keras(0.3), cls.prior(0.5, 6), cls.prior(0.5, 6, 0.5), cls.ridge(0.3, 6)]
    equal(torch.tensor([p.strength for p in found], dtype=torch.float64), [0.05, 0.6, 1 / 1.5, 0.5 / 1.5, 0.1])
    # Decay by 0.5 at rate 0.1, where the first was 0.2 and the largest is 0.4.
    factors = [cls.decoupled(0.5, scaling).decay_factor(0.1, 0.2, 0.4) for scaling in SCALINGS]
    equal(torch.tensor(factors, dtype=torch.float64), [0.95, 0.75, 0.5, 0.9875])


def elastic_net_form(cls: Callable[..., Any]) -> None:
    """Strength 2, mix 0.25: 0.5*|w|_1 + 0.75*|w|^2; with step 2 threshold 1, then division by 4."""
    w = torch.tensor([3.0, -0.5], dtype=torch.float64)
    penalty = cls(2.0, mix=0.25)
    equal(penalty.value(w), 0.5 * 3.5 + 0.75 * 9.25)
    equal(penalty.prox(w, 2.0), [0.5, 0.0])
    zero = torch.zeros(2, dtype=torch.float64)
    equal(penalty.violation(zero, torch.tensor([0.4, 0.9], dtype=torch.float64)), 0.4)
    translated = cls.sklearn(0.3, 0.25)
    equal(torch.tensor([translated.l1, translated.l2], dtype=torch.float64), [0.15, 0.45])


def weighted_l1_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5 and rates (2, 0, 4): thresholds (1, 0, 2) per step; two rows share them."""
    rates = torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64)
    w = torch.tensor([[3.0, -0.5, 1.0], [-0.5, 0.0, -5.0]], dtype=torch.float64)
    penalty = cls(0.5, rates)
    equal(penalty.value(w), 3.0 + 2.0 + 0.5 + 10.0)
    equal(penalty.prox(w, 1.0), [[2.0, -0.5, 0.0], [0.0, 0.0, -3.0]])
    equal(penalty.prox(w, torch.full_like(w, 0.5)), [[2.5, -0.5, 0.0], [0.0, 0.0, -4.0]])
    # Off zero |0.2 + 1| and |0.3|, at zero |3| - 2.
    grad = torch.tensor([0.2, 0.3, 3.0], dtype=torch.float64)
    equal(penalty.violation(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), grad), math.sqrt(1.44 + 0.09 + 1.0))
    equal(cls(0.5, 3.0).prox(w, 1.0), [[1.5, 0.0, 0.0], [0.0, 0.0, -3.5]])
    low = penalty.at(leaf_of(torch.zeros(2, 3)))
    assert low.weights.dtype == torch.float32
    equal(low.weights, [2.0, 0.0, 4.0])


def weighted_l2_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5 and rates (2, 0, 4): divided by (1 + t, 1, 1 + 2t); gradient (1, 0, 2) * w."""
    rates = torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64)
    w = torch.tensor([[3.0, -0.5, 1.0], [-1.0, 0.0, -6.0]], dtype=torch.float64)
    penalty = cls(0.5, rates)
    equal(penalty.value(w), 0.5 * (9.0 + 1.0) + 1.0 * (1.0 + 36.0))
    equal(penalty.prox(w, 1.0), [[1.5, -0.5, 1 / 3], [-0.5, 0.0, -2.0]])
    # |-1 + 1|, |0.3| and |1 + 2|.
    at, grad = torch.ones(3, dtype=torch.float64), torch.tensor([-1.0, 0.3, 1.0], dtype=torch.float64)
    equal(penalty.violation(at, grad), math.sqrt(0.09 + 9.0))
    low = penalty.at(leaf_of(torch.zeros(2, 3)))
    assert low.weights.dtype == torch.float32


def mcp_form(cls: Callable[..., Any]) -> None:
    """Strength 1, gamma 2: 1 - 1/4 and 3 - 9/4 below 2 would be; flat at 1 from 2 on."""
    w = torch.tensor([1.0, -1.5, 0.0, 5.0], dtype=torch.float64)
    penalty = cls(1.0, gamma=2.0)
    equal(penalty.value(w), 0.75 + (1.5 - 2.25 / 4) + 1.0)
    # Step 1: (|w| - 1)/(1 - 1/2) up to 2, then w itself.
    equal(penalty.prox(torch.tensor([0.9, 1.5, -1.75, -3.0], dtype=torch.float64), 1.0), [0.0, 1.0, -1.5, -3.0])
    # Step 8 is beyond gamma: all or nothing at sqrt(8*2) = 4, the sparser at the tie; a local minimizer would keep 3.
    equal(penalty.prox(torch.tensor([3.0, 4.0, -4.1], dtype=torch.float64), 8.0), [0.0, 0.0, -4.1])
    mixed = torch.tensor([1.0, 8.0, 0.0, 2.0], dtype=torch.float64)
    equal(penalty.prox(torch.tensor([1.5, 4.1, 0.1, 2.0], dtype=torch.float64), mixed), [1.0, 4.1, 0.1, 0.0])
    # |0.1 + 1/2|, |0.5 - 1/4|, 1.25 - 1, |0.4 + 0|.
    grad = torch.tensor([0.1, 0.5, 1.25, 0.4], dtype=torch.float64)
    equal(penalty.violation(w, grad), math.sqrt(0.36 + 0.0625 + 0.0625 + 0.16))


def scad_form(cls: Callable[..., Any]) -> None:
    """Strength 1, gamma 3: 0.5; at 2 it is (12 - 4 - 1)/4; flat at 2 from 3 on."""
    w = torch.tensor([0.5, -2.0, 0.0, 5.0], dtype=torch.float64)
    penalty = cls(1.0, gamma=3.0)
    equal(penalty.value(w), 0.5 + 1.75 + 2.0)
    # Step 1: soft up to 2, then (2|w| - 3)/(2 - 1) up to 3, then w itself.
    given = torch.tensor([0.9, -1.75, 2.5, -3.5], dtype=torch.float64)
    equal(penalty.prox(given, 1.0), [0.0, -0.75, 2.0, -3.5])
    # Step 3 is beyond gamma - 1: soft up to (3 + 1 + 3)/2 = 3.5, where both cost 2; then w itself.
    equal(penalty.prox(torch.tensor([2.9, -3.25, 3.5, 3.6], dtype=torch.float64), 3.0), [0.0, -0.25, 0.5, 3.6])
    # Step 9 is beyond gamma + 1: all or nothing at sqrt(9*4) = 6, where both cost 2; 9 would be soft's.
    equal(penalty.prox(torch.tensor([5.9, 6.0, -6.1, 8.0], dtype=torch.float64), 9.0), [0.0, 0.0, -6.1, 8.0])
    mixed = torch.tensor([1.0, 3.0, 9.0, 0.0], dtype=torch.float64)
    equal(penalty.prox(torch.tensor([2.5, 3.25, 6.1, -0.1], dtype=torch.float64), mixed), [2.0, 0.25, 6.1, -0.1])
    # |0.1 + 1|, |0.75 - 1/2|, 1.25 - 1, |0.4 + 0|.
    grad = torch.tensor([0.1, 0.75, 1.25, 0.4], dtype=torch.float64)
    equal(penalty.violation(w, grad), math.sqrt(1.21 + 0.0625 + 0.0625 + 0.16))


def l0_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5: three weights cost 1.5; step 4 keeps what exceeds sqrt(2*4*0.5) = 2, and zeros the tie."""
    w = torch.tensor([3.0, -1e-12, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    penalty = cls(0.5)
    value = penalty.value(w)
    equal(value.detach(), 1.5)
    (grad,) = torch.autograd.grad(value, w)
    equal(grad, [0.0, 0.0, 0.0, 0.0])
    equal(penalty.prox(w.detach(), 4.0), [3.0, 0.0, 0.0, 0.0])
    equal(penalty.prox(w.detach(), torch.tensor([16.0, 0.0, 1.0, 1.0])), [0.0, -1e-12, 0.0, -2.0])
    # Step 4: 3 - 4*0.25 = 2 goes to 0, so it moves by 3; 0 - 4*(-1) = 4 stays: a move by 4.
    at = torch.tensor([3.0, 0.0], dtype=torch.float64)
    equal(penalty.violation(at, torch.tensor([0.25, -1.0], dtype=torch.float64), 4.0), 5.0 / 4.0)


def leaf_of(tensor: Tensor) -> Leaf:
    """A model's only parameter."""
    holder = nn.Module()
    holder.w = nn.Parameter(tensor)
    return leaves(holder)[0]


def bound_to_start(cls: Callable[..., Any], given: Callable[[Leaf], Any]) -> Any:
    """Bound at (3, -2), which training then moves to (5, 5): the reference must stay."""
    leaf = leaf_of(torch.tensor([3.0, -2.0], dtype=torch.float64))
    bound = cls(0.5, given(leaf)).at(leaf)
    with torch.no_grad():
        leaf.tensor.copy_(torch.tensor([5.0, 5.0], dtype=torch.float64))
    return bound


START: tuple[Callable[[Leaf], Any], ...] = (
    lambda leaf: None,
    lambda leaf: leaf.tensor,
    lambda leaf: {"w": leaf.tensor.detach(), "v": torch.zeros(2)},
)
"""Three ways to say the weights at the moment of binding."""


def l2_sp_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5, reference (3, -2): at (5, -2) 0.25*4; step 2 halves the way there."""
    w = torch.tensor([5.0, -2.0], dtype=torch.float64, requires_grad=True)
    for given in START:
        penalty = bound_to_start(cls, given)
        value = penalty.value(w)
        equal(value.detach(), 1.0)
        (grad,) = torch.autograd.grad(value, w)
        equal(grad, [1.0, 0.0])
        assert not penalty.center.requires_grad
        equal(penalty.center, [3.0, -2.0])
        equal(penalty.prox(w.detach(), 2.0), [4.0, -2.0])
        equal(penalty.prox(w.detach() + 1, torch.tensor([0.0, 6.0], dtype=torch.float64)), [6.0, -1.75])
        equal(penalty.violation(w.detach(), torch.tensor([2.0, 4.0], dtype=torch.float64)), 5.0)
    assert cls(0.5, 0.7).strength == 0.5


def l1_sp_form(cls: Callable[..., Any]) -> None:
    """Strength 0.5, reference (3, -2): at (5, -2.5) 0.5*2.5; step 2 moves by 1, no further than there."""
    w = torch.tensor([5.0, -2.5], dtype=torch.float64, requires_grad=True)
    for given in START:
        penalty = bound_to_start(cls, given)
        value = penalty.value(w)
        equal(value.detach(), 1.25)
        (grad,) = torch.autograd.grad(value, w)
        equal(grad, [0.5, -0.5])
        origin = penalty.origin(w.detach())
        assert not penalty.reference.requires_grad
        equal(origin, [3.0, -2.0])
        found = penalty.prox(w.detach(), 2.0)
        equal(found, [4.0, -2.0])
        assert torch.equal(found[1], origin[1])
        equal(penalty.prox(w.detach(), torch.tensor([0.0, 0.5], dtype=torch.float64)), [5.0, -2.25])
        # |2.5 + 0.5| off the reference, 4.5 - 0.5 at it.
        at = torch.tensor([5.0, -2.0], dtype=torch.float64)
        equal(penalty.violation(at, torch.tensor([2.5, 4.5], dtype=torch.float64)), 5.0)
    assert cls(0.5, 0.7).strength == 0.5


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "l1": l1_form,
    "l2": l2_form,
    "elastic_net": elastic_net_form,
    "weighted_l1": weighted_l1_form,
    "weighted_l2": weighted_l2_form,
    "mcp": mcp_form,
    "scad": scad_form,
    "l0": l0_form,
    "l2_sp": l2_sp_form,
    "l1_sp": l1_sp_form,
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


class L2TextbookWithHalf(wp.L2):
    @classmethod
    def textbook(cls, lam: float, m: int) -> Any:
        return cls(lam / (2 * m))


class L2KerasAsTorch(wp.L2):
    @classmethod
    def keras(cls, lam: float) -> Any:
        return cls(lam)


class L2PriorForgetsTheNoise(wp.L2):
    @classmethod
    def prior(cls, std: float, m: int, noise_std: float | None = None) -> Any:
        return super().prior(std, m)


class L2PriorWithHalfTheNoise(wp.L2):
    @classmethod
    def prior(cls, std: float, m: int, noise_std: float | None = None) -> Any:
        return super().prior(std, m, None if noise_std is None else noise_std / math.sqrt(2))


class L2RidgeOfTheMean(wp.L2):
    @classmethod
    def ridge(cls, alpha: float, m: int) -> Any:
        return cls(2 * alpha)


class L2DecayAlwaysAsTorch(wp.L2):
    def decay_factor(self, lr: float, first: float, largest: float) -> float:
        return 1 - lr * self.strength


class L2DecaySwapsFirstAndLargest(wp.L2):
    def decay_factor(self, lr: float, first: float, largest: float) -> float:
        return super().decay_factor(lr, largest, first)


class L1LassoWithoutTwo(wp.L1):
    @classmethod
    def lasso(cls, alpha: float) -> Any:
        return cls(alpha)


class L1PriorOfTheDeviation(wp.L1):
    @classmethod
    def prior(cls, scale: float, m: int, noise_std: float | None = None) -> Any:
        return super().prior(scale / math.sqrt(2), m, noise_std)


class WeightedL1ForgetsTheRates(WeightedL1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, step * self.strength)


class WeightedL1ValueForgetsTheRates(WeightedL1):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.abs().sum()


class WeightedL1SquaresTheRates(WeightedL1):
    @property
    def l1(self) -> Any:
        return self.strength * self.weights**2


class WeightedL1DividesByTheRates(WeightedL1):
    @property
    def l1(self) -> Any:
        return self.strength / torch.as_tensor(self.weights).clamp_min(1e-3)


class WeightedL1ForgetsTheStrength(WeightedL1):
    @property
    def l1(self) -> Any:
        return self.weights


class WeightedL2ForgetsTheRates(WeightedL2):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return w / (1 + step * self.strength)


class WeightedL2WithoutTheHalf(WeightedL2):
    def value(self, w: Tensor) -> Tensor:
        return (self.rates * w.square()).sum()


class WeightedL1MeanRate(WeightedL1):
    @property
    def l1(self) -> Any:
        return self.strength * float(torch.as_tensor(self.weights).mean())


class WeightedL1KeepsItsType(WeightedL1):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, step * self.l1)

    def at(self, leaf: Leaf) -> Any:
        return self


class MCPLocalMinimizer(MCP):
    """The formula of the convex case wherever it gives a point: firm up to gamma*s, then w."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype)
        firm = _soft(w, t * self.strength * torch.ones_like(w)) / (1 - t / self.gamma).clamp_min(1e-9)
        return torch.where(w.abs() > self.gamma * self.strength, w, firm.clamp(-w.abs(), w.abs()))


class MCPSoftBeyondConvexity(MCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype)
        return torch.where(t < self.gamma, super().prox(w, step), _soft(w, step * self.strength))


class MCPThresholdWithoutRoot(MCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype)
        return torch.where(t < self.gamma, super().prox(w, step), hard_threshold(w, t * self.strength))


class MCPSwitchesTooEarly(MCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype)
        hard = hard_threshold(w, self.strength * (t * self.gamma).sqrt())
        return torch.where(2 * t < self.gamma, super().prox(w, step), hard)


class MCPFirmAtStrength(MCP):
    """Firm thresholding that ends at s, not at gamma*s."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return torch.where(w.abs() > self.strength * max(1.0, self.gamma / 2), w, super().prox(w, step))


class MCPWithoutHalf(MCP):
    def value(self, w: Tensor) -> Tensor:
        m = w.abs().clamp_max(self.gamma * self.strength)
        return (m * (self.strength - m / self.gamma)).sum()


class MCPNeverFlat(MCP):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.abs().sum() - w.square().sum() / (2 * self.gamma)


class MCPViolationOfL1(MCP):
    def slope(self, size: Tensor) -> Tensor:
        return torch.full_like(size, self.strength)


class MCPTieTheDenserWay(MCP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        threshold = self.strength * (torch.as_tensor(step, dtype=w.dtype) * self.gamma).sqrt()
        beyond = torch.as_tensor(step) >= self.gamma
        return torch.where(beyond & (w.abs() == threshold), w, super().prox(w, step))


class SCADLocalMinimizer(SCAD):
    """Soft wherever that is a local minimum."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype)
        soft = _soft(w, t * self.strength * torch.ones_like(w))
        return torch.where((t >= self.gamma - 1) & (w.abs() <= self.strength * (1 + t)), soft, super().prox(w, step))


class SCADLargestLocalMinimizer(SCAD):
    """w itself wherever that is a local minimum."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return torch.where(w.abs() > self.gamma * self.strength, w, super().prox(w, step))


class SCADOneThresholdBeyondConvexity(SCAD):
    """The threshold of steps below gamma + 1 for larger ones too."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        t = torch.as_tensor(step, dtype=w.dtype)
        soft = _soft(w, t * self.strength * torch.ones_like(w))
        kept = torch.where(w.abs() > self.strength * (self.gamma + 1 + t) / 2, w, soft)
        return torch.where(t >= self.gamma - 1, kept, super().prox(w, step))


class SCADAtStepOne(SCAD):
    """The textbook's formula, which holds for step 1, at every step."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return super().prox(w, 1.0 if not isinstance(step, Tensor) and step else step)


class SCADSlopeOfMCP(SCAD):
    def slope(self, size: Tensor) -> Tensor:
        return (self.strength - size / self.gamma).clamp_min(0)


class SCADFlatTooEarly(SCAD):
    def value(self, w: Tensor) -> Tensor:
        return super().value(w.clamp(-2 * self.strength, 2 * self.strength))


class SCADIgnoresTheMetric(SCAD):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return super().prox(w, float(torch.as_tensor(step).mean()))


class L0ThresholdWithoutTwo(L0):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return hard_threshold(w, (self.strength * step) ** 0.5)


class L0ThresholdWithoutRoot(L0):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return hard_threshold(w, 2 * self.strength * step)


class L0SoftThreshold(L0):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, (2 * self.strength * step) ** 0.5)


class L0CountsWithoutGradient(L0):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * (w != 0).sum().to(w.dtype)


class L0CountsWithTolerance(L0):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * torch.where(w.abs() > 1e-8, w.sign().abs(), 0 * w).sum()


class L0ViolationWithoutStep(L0):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return (w - self.prox(w - grad, 1.0)).norm()


class L0ViolationNotDivided(L0):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return super().violation(w, grad, step) * step


class L0KeepsTheTie(L0):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return torch.where(w.abs() >= (2 * self.strength * step) ** 0.5, w, 0 * w)


class L2SPWithoutHalf(L2SP):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * (w - self.origin(w)).square().sum()


class L2SPTowardsZero(L2SP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return w / (1 + step * self.strength)


class L2SPExplicit(L2SP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return w - step * self.strength * (w - self.origin(w))


class L2SPStaleReference(L2SP):
    """Shares memory with the parameter: the reference trains along, and nothing is charged."""

    def at(self, leaf: Leaf) -> Any:
        found = super().at(leaf)
        object.__setattr__(found, "reference", leaf.tensor.detach())
        return found


class L2SPBoundToZero(L2SP):
    def at(self, leaf: Leaf) -> Any:
        return replace(self, reference=0.0)


class L2SPReferenceWithGradient(L2SP):
    def at(self, leaf: Leaf) -> Any:
        found = super().at(leaf)
        object.__setattr__(found, "reference", leaf.tensor.clone())
        return found


class L2SPViolationOfL2(L2SP):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return (grad + self.strength * w).norm()


class L1SPHalf(L1SP):
    def value(self, w: Tensor) -> Tensor:
        return 0.5 * self.strength * (w - self.origin(w)).abs().sum()


class L1SPTowardsZero(L1SP):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return _soft(w, step * self.strength)


class L1SPNearTheReference(L1SP):
    """The formula by the book: rounding misses the reference, and moves w at step 0."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return self.origin(w) + _soft(w - self.origin(w), step * self.strength)


class L1SPKinkAtZero(L1SP):
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        off = (grad + self.strength * (w - self.origin(w)).sign()).abs()
        return torch.where(w == 0, (grad.abs() - self.strength).clamp_min(0), off).norm()


class L1SPStaleReference(L1SP):
    def at(self, leaf: Leaf) -> Any:
        found = super().at(leaf)
        object.__setattr__(found, "reference", leaf.tensor.detach())
        return found


class L1SPReferenceWithGradient(L1SP):
    def at(self, leaf: Leaf) -> Any:
        found = super().at(leaf)
        object.__setattr__(found, "reference", leaf.tensor.clone())
        return found


class L0OfNotANumber(L0):
    """A comparison with what is not a number is false, so that it becomes 0."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        kept = w.abs() > (2.0 * self.strength * step) ** 0.5
        return torch.where(kept, w, torch.zeros_like(w))


class L1ViolationOfNotANumber(wp.L1):
    """The sign of what is not a number is 0 in torch."""

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return super().violation(w.nan_to_num(nan=0.0), grad, step)


class L1WithoutAGradient(wp.L1):
    """A root of squares in place of the absolute value."""

    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.square().sqrt().sum()
