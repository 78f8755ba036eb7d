"""The divergence of distributions of weights from a prior, as a charge of their means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from charges import equal
from wellposed.penalties.divergence import GAUSSIAN, KL, LAPLACE, Family, GaussianPrior, LaplacePrior, Prior, Weights


def q(prior: Prior, family: Family, scale: float = 0.5) -> Weights:
    return Weights(prior, family, math.log(scale))


GIVEN: dict[str, list[dict[str, Any]]] = {
    "kl": [
        {"rows": 2, "strength": 0.8, "q": q(GaussianPrior(1.3), GAUSSIAN)},
        {"rows": 2, "strength": 0.8, "q": q(GaussianPrior(1.3), LAPLACE)},
        {"rows": 2, "strength": 0.8, "q": q(LaplacePrior(1.3), GAUSSIAN)},
        {"rows": 2, "strength": 0.8, "q": q(LaplacePrior(1.3), LAPLACE)},
    ]
}


def kl_form(cls: Callable[..., Any]) -> None:
    """By hand, at means 1 and -2: of N(m, 1/4) from N(0, 4), and of Laplace(m, 1/2) from Laplace(0, 2)."""
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    gaussian = cls(rows=10, strength=0.5, q=q(GaussianPrior(2.0), GAUSSIAN))
    wanted = (1 + 4) / 8 + 2 * (0.5 * 0.0625 - 0.5 + math.log(4.0))
    equal(gaussian.value(w), 0.05 * wanted)
    equal(gaussian.prox(w, 20.0), [0.8, -1.6])  # divided by 1 + 20 * 0.05/4
    equal(gaussian.violation(w, torch.tensor([0.0, 0.0]).double()), 0.05 * math.hypot(0.25, 0.5))
    laplace = cls(rows=1, q=q(LaplacePrior(2.0), LAPLACE))
    wanted = 2 * (math.log(4.0) - 1) + 3 / 2 + (math.exp(-2.0) + math.exp(-4.0)) / 4
    equal(laplace.value(w), wanted)
    equal(laplace.violation(w[:1], torch.zeros(1).double()), 0.5 * (1 - math.exp(-2.0)))
    mixed = cls(rows=1, q=q(LaplacePrior(2.0), GAUSSIAN, 1.0))
    # E|w| of N(1, 1) is erf(1/sqrt 2) + sqrt(2/pi e).
    size = math.erf(math.sqrt(0.5)) + math.sqrt(2 / math.pi / math.e)
    equal(mixed.value(w[:1]), size / 2 + math.log(4.0) - 0.5 * math.log(2 * math.pi * math.e))
    equal(cls(rows=1, free=100.0, q=q(LaplacePrior(2.0), LAPLACE)).value(w), 200.0)


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {"kl": kl_form}


class KLForgetsTheRows(KL):
    @property
    def factor(self) -> float:
        return self.strength


class KLTheOtherWayRound(KL):
    """``KL(p || q)`` of Gaussians."""

    def value(self, w: Tensor) -> Tensor:
        assert self.q is not None
        assert isinstance(self.q.prior, GaussianPrior)
        ratio = self.q.prior.std / math.exp(float(self.q.log_scale))
        square = (w / math.exp(float(self.q.log_scale))).square()
        return self.factor * (0.5 * (square + ratio**2 - 1) - math.log(ratio)).sum()


class KLWithoutTheEntropy(KL):
    def value(self, w: Tensor) -> Tensor:
        assert self.q is not None
        return self.factor * self.q.prior.energy(self.q, w, self.q.scale_like(w)).sum()


class KLMovesByItsPriorAlone(KL):
    """The prox of the point, as if there were no distribution around it."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        assert self.q is not None
        if not isinstance(self.q.prior, LaplacePrior):
            return super().prox(w, step)
        return torch.sign(w) * (w.abs() - step * self.factor / self.q.prior.scale).clamp_min(0.0)
