"""`Spread`: how far targets are from a prediction, learned of residuals that the prediction was not fitted to.

A likelihood that has its mean and its variance to learn at once weighs rows by the variance it has so far, and its mean suffers.
Here the mean is there already, and what is left is a convex-like problem of few numbers: a spread that is log-linear in features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.core.checks import Seed, checked
from wellposed.core.errors import DataError
from wellposed.core.random import generator
from wellposed.data.piecewise import PiecewiseLinear

TAILS = 9
"""Gaussians of a mixture: enough for its tails to be smooth as far as one row in a thousand."""
RIDGES = (1.0, 10.0, 100.0, 1000.0)
"""Precisions of the Gaussian prior of the coefficients, of which held-out residuals choose."""
APART = 10.0
"""Precision of the prior of how far a component's scale is from that of a lognormal distribution."""
FOLDS = 5
BINS = 6
"""Of each feature."""
LEAST = 1e-6
"""Of the residuals' own spread: below it, a spread would be of the targets' rounding."""


@dataclass(frozen=True)
class Spread:
    """``r ~ 1/C sum_c N(0, s(x)^2 exp(2 t_c))``, ``log s(x) = a + b . code(x)``: Gaussians whose spread is itself uncertain.

    ``code`` is `wellposed.PiecewiseLinear` with few bins, so that ``log s`` is a sum of piecewise linear functions of single
    features; beyond the rows that it was fitted on they stay what they are at the last of them.

    ``t_c = tail z_c + d_c``. ``z_c`` are the ``C = 9`` quantiles of the standard normal in the middle of equal parts, so that alone
    they give the heavy tails of a normal with lognormal scale; ``d_c`` with a Gaussian prior of precision 10 let the scales have
    any other distribution that the residuals speak for. All ``t_c`` alike are a Gaussian.

    Attributes:
        coefficients: ``a``, then ``b``.
        scales: ``t_c``, ``(C,)``.
        ridge: the precision of the prior of ``b`` that held-out residuals chose.
        low, high: the range of each feature.
    """

    coefficients: Tensor
    scales: Tensor
    ridge: float
    code: PiecewiseLinear
    low: Tensor
    high: Tensor

    @classmethod
    @checked
    def fit(cls, features: Tensor, residuals: Tensor, seed: Seed = 0) -> Spread:
        """The spread of least ``-sum_i log p(r_i) + ridge/2 |b|^2``; the ridge has the least held-out value in 5 folds.

        Args:
            features: ``(rows, features)``, finite.
            residuals: ``(rows,)``, target less prediction, of a prediction that was not fitted to these rows.
        Raises:
            DataError: fewer than 10 rows, or residuals that are all 0.
        Example:
            >>> x = torch.linspace(-1, 1, 2000)[:, None]
            >>> r = x[:, 0].exp() * torch.randn(2000, generator=torch.Generator().manual_seed(0))
            >>> [round(float(s), 1) for s in Spread.fit(x, r)(torch.tensor([[-1.0], [0.0], [1.0]]))]
            [0.4, 1.0, 2.7]
        """
        x, r = features.double(), residuals.double()
        typical = float(r.square().mean().sqrt())
        if len(r) < 2 * FOLDS or not typical > 0:
            raise DataError(
                f"A spread is learned of {2 * FOLDS} residuals or more that are not all 0; it was given {len(r)}, whose root mean "
                f"square is {typical:g}."
            )
        r, code = r / typical, PiecewiseLinear(x, BINS)
        z = _with_constant(code(x))
        fold = torch.randperm(len(r), generator=generator(seed, "spread")) % FOLDS

        def held_out(ridge: float) -> float:
            parts = [(fold != number, fold == number) for number in range(FOLDS)]
            return sum(float(_nll(*_minimum(z[rest], r[rest], ridge), z[held], r[held])) for rest, held in parts)

        ridge = min(RIDGES, key=held_out)
        found, scales = _minimum(z, r, ridge)
        found[0] += math.log(typical)
        return cls(found, scales, ridge, code, x.amin(0), x.amax(0))

    def __call__(self, features: Tensor) -> Tensor:
        """The spread ``s(x)`` that the scales of all components multiply, ``(rows,)``."""
        inside = features.double().clamp(self.low, self.high)
        return (_with_constant(self.code(inside)) @ self.coefficients).exp()

    def components(self, features: Tensor) -> Tensor:
        """The standard deviation of each component, ``(C, rows)``."""
        return self(features) * self.scales[:, None].exp()


def _with_constant(z: Tensor) -> Tensor:
    return torch.cat([z.new_ones(len(z), 1), z], 1).double()


def _places() -> Tensor:
    return torch.special.ndtri((torch.arange(TAILS, dtype=torch.float64) + 0.5) / TAILS)  # type: ignore[no-any-return]


def _nll(found: Tensor, scales: Tensor, z: Tensor, r: Tensor) -> Tensor:
    """The sum over rows of ``-log p(r)``, less its constant."""
    log_std = ((z @ found)[:, None] + scales).clamp(min=math.log(LEAST))  # residuals of exactly 0 would take one to 0
    density = -0.5 * (r[:, None] * (-log_std).exp()).square() - log_std
    return math.log(TAILS) * len(r) - density.logsumexp(1).sum()


def _minimum(z: Tensor, r: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Coefficients and scales, from a constant spread on."""
    found, tail, apart = z.new_zeros(z.shape[1]), z.new_tensor(0.3), z.new_zeros(TAILS)
    free = [part.requires_grad_() for part in (found, tail, apart)]
    optimizer = torch.optim.LBFGS(free, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        prior = ridge / 2 * found[1:].square().sum() + APART / 2 * apart.square().sum()
        cost = (_nll(found, tail * _places() + apart, z, r) + prior) / len(r)
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return found.detach(), (tail * _places() + apart).detach()
