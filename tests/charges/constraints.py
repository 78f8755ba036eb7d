"""Sets that weights must stay in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from charges import equal
from wellposed.constraints.balls import L1Ball, L2Ball, LInfBall, UnitNorm
from wellposed.constraints.multiplier import NormBound
from wellposed.constraints.patterns import Box, HalfSpace, NonNegative, Simplex, TopK
from wellposed.constraints.spectral import Orthogonal, SpectralBall
from wellposed.ops.norms import group_norms
from wellposed.ops.project import simplex_threshold
from wellposed.ops.singular_values import as_matrices, from_matrices, spectral_map

GIVEN: dict[str, list[dict[str, Any]]] = {
    "max_norm": [{"bound": 1.0}, {"bound": 0.7, "by": "input"}, {"bound": 0.0}, {"bound": 2.0, "by": "all"}],
    "l2_ball": [{"bound": 1.0}, {"bound": 0.0}],
    "l1_ball": [{"bound": 1.0}, {"bound": 0.5, "by": "unit"}, {"bound": 0.0}],
    "linf_ball": [{"bound": 0.5}, {"bound": 0.0}],
    "unit_norm": [{}, {"by": "channel"}, {"by": "all"}],
    "non_negative": [{}],
    "box": [
        {"low": -0.5, "high": 1.0},
        {"low": 0.2, "high": math.inf},
        {"low": 1.0, "high": 1.0},
        {"low": [-1.0, 0.0, -math.inf], "high": [[0.5], [1.0], [math.inf], [2.0]]},
    ],
    "half_space": [
        {"normal": 1.0, "limit": 0.5},
        {"normal": [1.0, -2.0, 0.5], "limit": -0.3, "by": "unit"},
        {"normal": [[1.0], [0.0], [-3.0], [2.0]], "limit": [0.5, 0.0, -1.0, 2.0], "by": "unit"},
        {"normal": [[1.0], [0.0], [-3.0], [2.0]], "limit": -0.5, "by": "input"},
    ],
    "simplex": [{}, {"total": 2.0, "by": "input"}, {"total": 0.3, "by": "all"}, {"total": 0.0}],
    "top_k": [{"keep": 3}, {"keep": 0}, {"keep": 0.3, "by": "unit"}, {"keep": 1, "by": "input"}],
    "spectral_ball": [{"bound": 1.0}, {"bound": 0.5, "parts": 2}, {"bound": 0.0}],
    "orthogonal": [{}, {"parts": 2}],
    "norm_bound": [{"bound": 1.0}],
}


def tensor(*rows: Any) -> Tensor:
    """Rows in float64."""
    return torch.tensor(rows, dtype=torch.float64)


def max_norm_form(cls: Callable[..., Any]) -> None:
    """Bound 2.5: the row (3, 4) of norm 5 is halved, the row (1, 2) stays; columns for ``by="input"``."""
    w = torch.tensor([[3.0, 4.0], [1.0, 2.0]], dtype=torch.float64)
    equal(cls(2.5).project(w), [[1.5, 2.0], [1.0, 2.0]])
    columns = torch.tensor([[3.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
    equal(cls(2.5, by="input").project(columns), [[1.5, 1.0], [2.0, 2.0]])
    kernel = torch.tensor([3.0, 4.0, 1.0, 2.0], dtype=torch.float64).view(2, 1, 1, 2)
    equal(cls(2.5).project(kernel).flatten(), [1.5, 2.0, 1.0, 2.0])


def l2_ball_form(cls: Callable[..., Any]) -> None:
    """Norm 5 onto 2.5, all four weights as one group."""
    equal(cls(2.5).project(tensor([3.0, 0.0], [0.0, 4.0])), [[1.5, 0.0], [0.0, 2.0]])


def l1_ball_form(cls: Callable[..., Any]) -> None:
    """(3, -2, 0.5): 1 off each leaves 2 + 1; rows alone each have their bound."""
    equal(cls(3.0).project(tensor(3.0, -2.0, 0.5)), [2.0, -1.0, 0.0])
    equal(cls(3.0, by="unit").project(tensor([3.0, -2.0], [1.0, 2.0])), [[2.0, -1.0], [1.0, 2.0]])


def linf_ball_form(cls: Callable[..., Any]) -> None:
    """Clipped at 1.5 on both sides."""
    equal(cls(1.5).project(tensor(3.0, -2.0, 0.5)), [1.5, -1.5, 0.5])


def unit_norm_form(cls: Callable[..., Any]) -> None:
    """(3, 4) of norm 5, (0.3, 0.4) grows; zeros become the first unit vector."""
    w = tensor([3.0, 4.0], [0.3, 0.4], [0.0, 0.0])
    equal(cls().project(w), [[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
    equal(cls(by="input").project(w.T), [[0.6, 0.6, 1.0], [0.8, 0.8, 0.0]])
    equal(cls(by="all").project(tensor([3.0, 0.0], [0.0, 4.0])), [[0.6, 0.0], [0.0, 0.8]])


def non_negative_form(cls: Callable[..., Any]) -> None:
    """What is negative becomes 0."""
    equal(cls().project(tensor(3.0, -2.0, 0.5)), [3.0, 0.0, 0.5])


def box_form(cls: Callable[..., Any]) -> None:
    """Between -1 and 2, and with an open end."""
    equal(cls(-1.0, 2.0).project(tensor(3.0, -2.0, 0.5)), [2.0, -1.0, 0.5])
    equal(cls(-math.inf, 2.0).project(tensor(3.0, -2.0)), [2.0, -2.0])
    # An end for each column and for each row.
    equal(cls([0.0, -1.0], [[1.0], [2.0]]).project(tensor([3.0, -2.0], [3.0, 0.5])), [[1.0, -1.0], [2.0, 0.5]])


def half_space_form(cls: Callable[..., Any]) -> None:
    """(2, 4) with normal (1, 2) and limit 5: <a, w> = 10 is 5 too much, |a|^2 = 5, so once the normal is taken away."""
    equal(cls([1.0, 2.0], 5.0).project(tensor(2.0, 4.0)), [1.0, 2.0])
    equal(cls([1.0, 2.0], 5.0).project(tensor(1.0, 1.0)), [1.0, 1.0])
    # A limit below 0 pushes away from the origin: -1 - 0 over |a|^2 = 2.
    equal(cls(1.0, -1.0).project(tensor(0.0, 0.0)), [-0.5, -0.5])
    # Each row alone, with one normal and two limits; the second row is within its own.
    w = tensor([2.0, 4.0], [2.0, 4.0])
    equal(cls([1.0, 2.0], [5.0, 11.0], by="unit").project(w), [[1.0, 2.0], [2.0, 4.0]])
    # Of all: <a, w> = 20 with |a|^2 = 10 is 10 too much.
    equal(cls([1.0, 2.0], 10.0).project(w), [[1.0, 2.0], [1.0, 2.0]])
    equal(cls([[1.0], [0.0]], 1.0, by="input").project(w), [[1.0, 1.0], [2.0, 4.0]])


def simplex_form(cls: Callable[..., Any]) -> None:
    """(1, 0.5, -2): a quarter off the first two makes 1; (0, 0) is shared evenly; columns for ``by="input"``."""
    equal(cls().project(tensor([1.0, 0.5, -2.0], [0.0, 0.0, 0.0])), [[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    equal(cls(2.0, by="input").project(tensor([3.0, 1.0], [0.0, 1.0])), [[2.0, 1.0], [0.0, 1.0]])


def top_k_form(cls: Callable[..., Any]) -> None:
    """The largest magnitudes, of equal ones the first; a third of three is one; a fraction leaves at least one."""
    equal(cls(2).project(tensor(1.0, -3.0, 0.5, 1.0)), [1.0, -3.0, 0.0, 0.0])
    equal(cls(1, by="unit").project(tensor([1.0, -3.0], [2.0, 0.5])), [[0.0, -3.0], [2.0, 0.0]])
    equal(cls(0.34, by="input").project(tensor([1.0, 3.0], [2.0, -4.0], [0.0, 1.0])), [[0, 0], [2.0, -4.0], [0, 0]])
    equal(cls(0.01).project(tensor(1.0, -3.0)), [0.0, -3.0])
    equal(cls(9).project(tensor(1.0, -3.0)), [1.0, -3.0])


def spectral_ball_form(cls: Callable[..., Any]) -> None:
    """Singular values 5, 2 and 1 clipped at 2; a turned matrix of 4 and 2 to the identity times 2."""
    equal(cls(2.0).project(torch.diag(tensor(5.0, -2.0, 1.0))), torch.diag(tensor(2.0, -2.0, 1.0)).tolist())
    equal(cls(2.0).project(tensor([3.0, 1.0], [1.0, 3.0])), [[2.0, 0.0], [0.0, 2.0]])
    equal(cls(2.5, parts=2).project(tensor([3.0], [4.0], [0.0], [2.0])), [[1.5], [2.0], [0.0], [2.0]])


def orthogonal_form(cls: Callable[..., Any]) -> None:
    """A stretched rotation loses its stretch, wide or tall; zeros become the identity."""
    turn, stretch = tensor([0.6, -0.8], [0.8, 0.6]), torch.diag(tensor(3.0, 0.5))
    equal(cls().project(turn @ stretch), turn.tolist())
    equal(cls().project(tensor([3.0, 4.0])), [[0.6, 0.8]])
    equal(cls().project(tensor([3.0], [4.0])), [[0.6], [0.8]])
    equal(cls().project(torch.zeros(2, 3, dtype=torch.float64)), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    equal(cls(parts=2).project(tensor([3.0], [4.0], [0.0], [2.0])), [[0.6], [0.8], [0.0], [1.0]])


def norm_bound_form(cls: Callable[..., Any]) -> None:
    """``|w| = 5``, bound 4, step 0.1: the excess is 1/4, of 1/0.1 + 2 a tenth of it; at 5/1.2 the excess is 1/24."""
    w, multiplier = tensor(3.0, 4.0), torch.tensor(2.0, dtype=torch.float64)
    charge = cls(4.0, rate=0.1)
    equal(charge.start(w), 0.0)
    equal(charge.update(multiplier, w, 0.1), 2.0 + 0.1 * 12.0 * 0.25)
    equal(charge.strength(multiplier, w, 0.1), 2.25)
    equal(charge.strength(multiplier, w, 0.1, "decay"), 3.5)
    equal(charge.strength(multiplier), 2.0)
    # Inside, at norm 1: 2 - 0.1*12*0.75; and half of -7.5 and 2 is below 0.
    equal(charge.update(multiplier, w / 5, 0.1), 2.0 - 0.9)
    equal(charge.strength(multiplier, w / 5, 0.1), 0.0)
    equal(charge.update(multiplier / 10, w / 5, 0.1), 0.0)
    # Steps of 0.1 and 0.2 count with 9/25 and 16/25: 0.164.
    equal(charge.update(multiplier, w, tensor(0.1, 0.2)), 2.0 + 0.1 * (1 / 0.164 + 2.0) * 0.25)
    equal(cls().update(multiplier, w, 0.1), 2.0)
    equal(charge.update(multiplier, w, 0.0), 2.0)


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "max_norm": max_norm_form,
    "l2_ball": l2_ball_form,
    "l1_ball": l1_ball_form,
    "linf_ball": linf_ball_form,
    "unit_norm": unit_norm_form,
    "non_negative": non_negative_form,
    "box": box_form,
    "half_space": half_space_form,
    "simplex": simplex_form,
    "top_k": top_k_form,
    "spectral_ball": spectral_ball_form,
    "orthogonal": orthogonal_form,
    "norm_bound": norm_bound_form,
}


class NormOntoALargerBall(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return wp.MaxNorm(1.01 * self.bound, self.by).project(w)


class NormScaledTooFar(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis or 0)
        return torch.where(norms > self.bound, w * (0.9 * self.bound / norms), w)


class NormScaledNotFarEnough(NormScaledTooFar):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis or 0)
        return torch.where(norms > self.bound, w * (1.01 * self.bound / norms), w)


class NormNotIdempotent(NormScaledTooFar):
    """Keras's form: the small number in the denominator moves feasible weights too."""

    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis or 0)
        return w * norms.clamp_max(self.bound) / (norms + 1e-7)


class NormAlongTheOtherAxis(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return wp.MaxNorm(self.bound, "input" if self.by == "unit" else "unit").project(w)


class NormInPlace(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return w.copy_(super().project(w))


class NormOfAll(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        norm = w.norm()
        return torch.where(norm > self.bound, w * (self.bound / norm.clamp_min(1e-300)), w)


class NormOntoTheSphere(NormScaledTooFar):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis or 0)
        return torch.where(norms > 0, w * (self.bound / norms.clamp_min(1e-300)), w)


class NormIsABox(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp(-self.bound, self.bound)


class NormSquared(NormScaledTooFar):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis or 0).square()
        return torch.where(norms > self.bound, w * (self.bound / norms.clamp_min(1e-300)), w)


class NormDoesNothing(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return w


class L2WithTheBoundSquared(L2Ball):
    def project(self, w: Tensor) -> Tensor:
        return L2Ball(2.5**2 if self.bound == 2.5 else self.bound).project(w)


class L2ByTheUnit(L2Ball):
    def project(self, w: Tensor) -> Tensor:
        return wp.MaxNorm(self.bound).project(w) if w.ndim > 1 else super().project(w)


class L2Divided(L2Ball):
    """Divided by the norm whenever it is not zero: what is inside moves out."""

    def project(self, w: Tensor) -> Tensor:
        return w * (self.bound / w.norm().clamp_min(1e-30))


class L1Scaled(L1Ball):
    """Scaled down to the bound instead of thresholded."""

    def project(self, w: Tensor) -> Tensor:
        size = w.abs().sum()
        return w * (self.bound / size) if size > self.bound * (1 + 1e-6) else w


class L1WithoutSigns(L1Ball):
    def project(self, w: Tensor) -> Tensor:
        return super().project(w).abs()


class L1ByTheOtherAxis(L1Ball):
    def project(self, w: Tensor) -> Tensor:
        return L1Ball(self.bound, {"unit": "input", "input": "unit"}.get(self.by, self.by)).project(w)


class L1ThresholdOfTheBound(L1Ball):
    def project(self, w: Tensor) -> Tensor:
        return w - w.clamp(-self.bound, self.bound)


class LInfScaled(LInfBall):
    def project(self, w: Tensor) -> Tensor:
        largest = w.abs().max()
        return w * (self.bound / largest) if largest > self.bound else w


class LInfOneSided(LInfBall):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp_max(self.bound)


class LInfSquared(LInfBall):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp(-(self.bound**2), self.bound**2)


class UnitNotANumberAtZero(UnitNorm):
    def project(self, w: Tensor) -> Tensor:
        return w / group_norms(w, 0)


class UnitNotIdempotent(UnitNorm):
    """Divided each time, and by a little more than the norm."""

    def project(self, w: Tensor) -> Tensor:
        return super().project(w) / (1 + 1e-7)


class UnitIsABall(UnitNorm):
    def project(self, w: Tensor) -> Tensor:
        return wp.MaxNorm(1.0, self.by).project(w)


class UnitAlongTheOtherAxis(UnitNorm):
    def project(self, w: Tensor) -> Tensor:
        return UnitNorm({"unit": "input"}.get(self.by, "unit")).project(w) if w.ndim > 1 else super().project(w)


class NonNegativeMagnitudes(NonNegative):
    def project(self, w: Tensor) -> Tensor:
        return w.abs()


class NonNegativeNegated(NonNegative):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp_max(0)


class NonNegativeInPlace(NonNegative):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp_(min=0)


class BoxWithoutLow(Box):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp(max=self.high)


class BoxWithoutHigh(Box):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp(min=self.low)


class BoxToItsEnds(Box):
    """What is outside goes to the further end."""

    def project(self, w: Tensor) -> Tensor:
        inside = (w >= self.low) & (w <= self.high)
        return torch.where(inside, w, torch.full_like(w, self.low if math.isfinite(self.low) else self.high))


class SimplexMayBeNegative(Simplex):
    """Onto the plane of the sum alone."""

    def project(self, w: Tensor) -> Tensor:
        axis = self.axis
        mean = w.mean() if axis is None else w.mean(dim=[i for i in range(w.ndim) if i != axis], keepdim=True)
        size = w.numel() if axis is None else w.numel() / w.shape[axis]
        return w - mean + self.total / size


class SimplexRescaled(Simplex):
    """Cut at 0 and divided by the sum: feasible, not the nearest."""

    def project(self, w: Tensor) -> Tensor:
        w = w.clamp_min(0) + 1e-12
        total = w.sum() if self.axis is None else w.sum(dim=[i for i in range(w.ndim) if i != self.axis], keepdim=True)
        return w * (self.total / total)


class SimplexOfAll(Simplex):
    def project(self, w: Tensor) -> Tensor:
        return Simplex(self.total, by="all").project(w)


class SimplexIsABall(Simplex):
    def project(self, w: Tensor) -> Tensor:
        return L1Ball(self.total, self.by).project(w.clamp_min(0))


class TopByValue(TopK):
    """The largest values stay, not the largest magnitudes."""

    def project(self, w: Tensor) -> Tensor:
        return TopK(self.keep, self.by).project(w.clamp_min(0))


class TopOneMore(TopK):
    def project(self, w: Tensor) -> Tensor:
        return TopK(self.count(w) + 1, self.by).project(w)


class TopOfAll(TopK):
    def project(self, w: Tensor) -> Tensor:
        return TopK(self.keep).project(w)


class TopAboveThreshold(TopK):
    """Ties all stay: more than ``keep``."""

    def project(self, w: Tensor) -> Tensor:
        kept = super().project(w).abs()
        return torch.where(w.abs() >= kept[kept > 0].min(), w, torch.zeros_like(w)) if kept.any() else kept


class SpectralScaledDown(SpectralBall):
    """Divided by the largest singular value, as spectral normalization does."""

    def project(self, w: Tensor) -> Tensor:
        a = as_matrices(w, self.parts)
        top = torch.linalg.matrix_norm(a, ord=2, keepdim=True)
        return from_matrices(torch.where(top > self.bound * (1 + 1e-9), a * (self.bound / top), a), w)


class SpectralFrobenius(SpectralBall):
    def project(self, w: Tensor) -> Tensor:
        return L2Ball(self.bound).project(w)


class SpectralNotIdempotent(SpectralBall):
    def project(self, w: Tensor) -> Tensor:
        return from_matrices(spectral_map(as_matrices(w, self.parts), lambda s: s.clamp_max(self.bound)), w)


class SpectralForgetsItsParts(SpectralBall):
    def project(self, w: Tensor) -> Tensor:
        return SpectralBall(self.bound).project(w)


class OrthogonalByGramSchmidt(Orthogonal):
    """Orthonormal, but not the nearest."""

    def project(self, w: Tensor) -> Tensor:
        a = as_matrices(w, self.parts)
        if float((from_matrices(Orthogonal().project(a[0]), a[0]) - a[0]).abs().max()) == 0.0 and self.parts == 1:
            return w
        wide = a.shape[-2] <= a.shape[-1]
        q, r = torch.linalg.qr(a.mT if wide else a)
        q = q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q).unsqueeze(-2)
        return from_matrices(q.mT if wide else q, w)


class OrthogonalWithoutFullRank(Orthogonal):
    """What is zero stays zero."""

    def project(self, w: Tensor) -> Tensor:
        return from_matrices(spectral_map(as_matrices(w, self.parts), lambda s: (s > 1e-9).to(s)), w)


class OrthogonalOneStep(Orthogonal):
    """One step of Newton and Schulz."""

    def project(self, w: Tensor) -> Tensor:
        a = as_matrices(w, self.parts)
        return from_matrices(1.5 * a - 0.5 * a @ a.mT @ a, w)


class OrthogonalForgetsItsParts(Orthogonal):
    def project(self, w: Tensor) -> Tensor:
        return Orthogonal().project(w)


class BoundSquared(NormBound):
    def excess(self, w: Tensor, like: Tensor) -> Tensor:
        return w.square().sum() / (self.bound or 1.0) ** 2 - 1.0


class BoundMultiplierMayBeNegative(NormBound):
    def update(self, multiplier: Tensor, w: Tensor, step: float | Tensor) -> Tensor:
        return multiplier + self.rate * (1.0 / step + multiplier) * self.excess(w, multiplier)


class BoundWithoutTheStep(NormBound):
    def update(self, multiplier: Tensor, w: Tensor, step: float | Tensor) -> Tensor:
        return super().update(multiplier, w, 1.0)


class BoundDescends(NormBound):
    def excess(self, w: Tensor, like: Tensor) -> Tensor:
        return -super().excess(w, like)


class BoxClipsInfinity(Box):
    def project(self, w: Tensor) -> Tensor:
        low, high = (torch.as_tensor(end).to(w) for end in self.interval)
        return w.clamp(low, high)


class L2WithoutAGradient(L2Ball):
    """Divided by a norm of 0 where that is not asked for: the value is right, the gradient is not a number."""

    def project(self, w: Tensor) -> Tensor:
        norm = w.square().sum().sqrt()
        return torch.where((norm > self.bound * (1 + 1e-12)) & torch.isfinite(norm), w * (self.bound / norm), w)


class SimplexLosesItsTotal(Simplex):
    """Thresholds beside large numbers: the total is lost in rounding, and all becomes 0."""

    def project(self, w: Tensor) -> Tensor:
        if (
            self.by != "all"
            or not w.numel()
            or float(w.detach().abs().max()) < 1e10
            or not bool(torch.isfinite(w).all())
        ):
            return super().project(w)
        row = w.double().reshape(1, -1)
        return (row - simplex_threshold(row, self.total)).clamp_min(0.0).view(w.shape).to(w.dtype)


class BallOfNothing(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return super().project(w) if float(w.detach().abs().max()) < math.inf else w.clone()


class HalfSpaceAlongTheUnitNormal(HalfSpace):
    """The excess is divided by the norm of the normal once, not twice."""

    def project(self, w: Tensor) -> Tensor:
        if self.axis is not None or not w.numel():
            return super().project(w)
        normal = torch.as_tensor(self.normal).to(w).expand_as(w)
        over = ((normal * w).sum() - self.limit).clamp_min(0.0)
        return w - over * normal / normal.norm()


class HalfSpaceIsAPlane(HalfSpace):
    def project(self, w: Tensor) -> Tensor:
        return -HalfSpace(self.normal, -self.limit, self.by).project(-super().project(w))


class HalfSpaceOfAll(HalfSpace):
    def project(self, w: Tensor) -> Tensor:
        return (
            HalfSpace(self.normal, self.limit).project(w) if not isinstance(self.limit, Tensor) else super().project(w)
        )
