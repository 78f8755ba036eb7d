"""Losses of numbers.

Every loss of ours adds up over the outputs of an example, as a negative log-likelihood does, and is a mean over examples.
The two that are called a mean, ``"mse"`` and ``"mae"``, are a mean over outputs too, as in torch and Keras: they have a
value for each number.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wellposed.core.checks import ConfidenceLevel, Positive, checked
from wellposed.core.errors import InputError, require
from wellposed.losses.criterion import AVERAGED, Criterion, match_shapes, over_outputs
from wellposed.losses.distributions import Distribution, inside
from wellposed.losses.targets import need_numbers


@dataclass(frozen=True)
class _OfNumbers(Criterion):
    """A loss of any finite targets."""

    numeric = True
    least: ClassVar[float] = -math.inf
    """The smallest target that it takes."""

    def check(self, target: Tensor, classes: int | None = None) -> None:
        need_numbers(self.name, target, self.least)

    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
        """A sum for each example of outputs ``(n,)`` or ``(n, outputs)``; of a mean over outputs a value for each number."""
        self.check(target)
        values = self.each(*match_shapes(outputs, target))
        return values if self.averages else over_outputs(values), None

    @abstractmethod
    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        """What each number costs; the shape of both."""


@dataclass(frozen=True)
class SquaredError(_OfNumbers):
    """``sum_outputs (y - f)^2``, without 1/2. Convex in the outputs."""

    name = "squared_error"
    kernel = 1

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).square()

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        return train.float().mean(0)


@dataclass(frozen=True)
class AbsoluteError(_OfNumbers):
    """``sum_outputs |y - f|``. Convex in the outputs."""

    name = "absolute_error"
    kernel = 3

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).abs()

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The median; of two in the middle the smaller."""
        return train.float().median(0).values


@dataclass(frozen=True)
class MeanSquaredError(SquaredError):
    """``mean_outputs (y - f)^2``, torch's ``mse_loss``: `SquaredError` divided by the number of outputs."""

    name = "mse"
    averages = SquaredError
    kernel = AVERAGED + 1


@dataclass(frozen=True)
class MeanAbsoluteError(AbsoluteError):
    """``mean_outputs |y - f|``, torch's ``l1_loss``: `AbsoluteError` divided by the number of outputs."""

    name = "mae"
    averages = AbsoluteError
    kernel = AVERAGED + 3


@checked
@dataclass(frozen=True)
class Huber(_OfNumbers):
    """``r^2/2`` for ``|r| <= delta`` and ``delta (|r| - delta/2)`` beyond, of ``r = y - f``, summed over outputs.

    As text ``"huber"`` (delta 1) or ``"huber:0.5"``. Convex in the outputs. Of each output this is torch's ``huber_loss``,
    which averages over outputs too.

    Args:
        delta: > 0, in the units in which the network is trained: a number column of a table is scaled to deviation 1. Towards
            0 the loss is ``delta`` times the absolute error, towards infinity half the squared error.
    Raises:
        InputError: delta is not > 0 and finite.
    Source:
        Huber (1964), Annals of Mathematical Statistics 35(1).
    Example:
        >>> import torch, wellposed as wp
        >>> wp.Huber(0.5).units(torch.tensor([0.0, 0.0]), torch.tensor([0.2, 3.0]))[0]
        tensor([0.0200, 1.3750])
    """

    delta: Positive = 1.0

    name = "huber"
    kernel = 4

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(outputs, target, reduction="none", delta=self.delta)

    def compiled(self) -> int | None:
        return self.kernel if self.delta == 1.0 else None


@checked
@dataclass(frozen=True)
class Quantile(_OfNumbers):
    """``max(level r, (level - 1) r)`` of ``r = y - f``, summed over outputs: the pinball loss, least at the quantile
    ``level`` of ``y``.

    As text ``"quantile:0.9"``. Convex in the outputs.

    Args:
        level: in (0, 1); 0.5 is half the absolute error, as in scikit-learn's ``mean_pinball_loss``.
    Raises:
        InputError: the level is not in (0, 1).
    Source:
        Koenker & Bassett (1978), Econometrica 46(1).
    Example:
        >>> import torch, wellposed as wp
        >>> wp.Quantile(0.9).units(torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))[0]
        tensor([0.9000, 0.1000])
    """

    level: ConfidenceLevel = 0.5

    name = "quantile"
    aliases = ("pinball",)

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        left = target - outputs
        return torch.maximum(self.level * left, (self.level - 1.0) * left)

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The constant prediction with the lowest loss: of ``n`` sorted training targets number ``ceil(level n)``."""
        return train.float().kthvalue(max(1, math.ceil(self.level * len(train))), 0).values


@dataclass(frozen=True)
class Poisson(_OfNumbers, Distribution):
    """``exp(f) - y f``, summed over outputs: counts ``y >= 0`` whose rate is ``exp(f)``.

    As text ``"poisson"``. Convex in the outputs. Of each output this is torch's ``poisson_nll_loss`` with its defaults, which
    averages over outputs too; ``log y!``, on which nothing depends, is left out.

    The network gives the logarithm of the rate; metrics, references and predictions are of the rate, and the target of a table
    is not shifted.

    Example:
        >>> import torch, wellposed as wp
        >>> wp.Poisson().units(torch.tensor([0.0]), torch.tensor([2.0]))[0]
        tensor([1.])
    """

    name = "poisson"
    aliases = ("poisson_nll",)
    needs = "the logarithm of a rate"
    convex = True
    numeric = False
    affine = False
    least = 0.0

    @property
    def width(self) -> int:
        return 1

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.poisson_nll_loss(outputs, target, log_input=True, full=False, reduction="none")

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The constant prediction with the lowest loss: the logarithm of the mean target, kept off 0."""
        return train.float().mean(0).clamp_min(1e-6).log()

    def response(self, outputs: Tensor) -> Tensor:
        return outputs.exp()

    def nll(self, outputs: Tensor, target: Tensor) -> Tensor:
        """With the ``log y!`` that the loss leaves out."""
        outputs, target = match_shapes(outputs, target)
        return over_outputs(self.each(outputs, target) + torch.lgamma(target + 1.0))

    def crps(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Source: Wei & Held (2014), TEST 23(4)."""
        special = require("scipy.special", "tables")
        outputs, target = match_shapes(outputs.double(), target)
        rate, y = outputs.exp().cpu().numpy(), target.floor().cpu().numpy()
        share = torch.from_numpy(special.xlogy(y, rate) - rate - special.gammaln(y + 1.0)).exp()
        below, rates = torch.from_numpy(special.pdtr(y, rate)), torch.from_numpy(rate)
        among = torch.from_numpy(special.ive(0, 2.0 * rate) + special.ive(1, 2.0 * rate))
        return (target - rates) * (2.0 * below - 1.0) + rates * (2.0 * share - among)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        """The least count that a target is at most with probability ``level`` or more."""
        special = require("scipy.special", "tables")
        rate = outputs.double().exp().cpu().numpy()
        found = np.maximum(np.ceil(special.pdtrik(inside(level), rate)), 0.0)
        lower = np.maximum(found - 1.0, 0.0)  # the inverse is rounded
        return torch.from_numpy(np.where(special.pdtr(lower, rate) >= level, lower, found))

    def std(self, outputs: Tensor) -> Tensor:
        return (0.5 * outputs).exp()

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        raise InputError("Counts are not shifted or scaled; give them as they are.")
