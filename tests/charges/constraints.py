"""Sets that weights must stay in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from charges import equal
from wellposed.ops.norms import group_norms

GIVEN: dict[str, list[dict[str, Any]]] = {
    "max_norm": [{"bound": 1.0}, {"bound": 0.7, "by": "input"}, {"bound": 0.0}],
}


def max_norm_form(cls: Callable[..., Any]) -> None:
    """Bound 2.5: the row (3, 4) of norm 5 is halved, the row (1, 2) stays; columns for ``by="input"``."""
    w = torch.tensor([[3.0, 4.0], [1.0, 2.0]], dtype=torch.float64)
    equal(cls(2.5).project(w), [[1.5, 2.0], [1.0, 2.0]])
    columns = torch.tensor([[3.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
    equal(cls(2.5, by="input").project(columns), [[1.5, 1.0], [2.0, 2.0]])
    kernel = torch.tensor([3.0, 4.0, 1.0, 2.0], dtype=torch.float64).view(2, 1, 1, 2)
    equal(cls(2.5).project(kernel).flatten(), [1.5, 2.0, 1.0, 2.0])


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "max_norm": max_norm_form,
}


class NormOntoALargerBall(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return wp.MaxNorm(1.01 * self.bound, self.by).project(w)


class NormScaledTooFar(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis)
        return torch.where(norms > self.bound, w * (0.9 * self.bound / norms), w)

    @property
    def axis(self) -> int:
        return {"unit": 0, "input": 1}[self.by]


class NormScaledNotFarEnough(NormScaledTooFar):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis)
        return torch.where(norms > self.bound, w * (1.01 * self.bound / norms), w)


class NormNotIdempotent(NormScaledTooFar):
    """Keras's form: the small number in the denominator moves feasible weights too."""

    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis)
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
        norms = group_norms(w, self.axis)
        return torch.where(norms > 0, w * (self.bound / norms.clamp_min(1e-300)), w)


class NormIsABox(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return w.clamp(-self.bound, self.bound)


class NormSquared(NormScaledTooFar):
    def project(self, w: Tensor) -> Tensor:
        norms = group_norms(w, self.axis).square()
        return torch.where(norms > self.bound, w * (self.bound / norms.clamp_min(1e-300)), w)


class NormDoesNothing(wp.MaxNorm):
    def project(self, w: Tensor) -> Tensor:
        return w
