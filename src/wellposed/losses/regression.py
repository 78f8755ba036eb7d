"""Losses of numbers. Each returns ``(values, None)``.

Every loss of ours adds up over the outputs of an example, as a negative log-likelihood does, and is a mean over examples.
The two that are called a mean, ``"mse"`` and ``"mae"``, are a mean over outputs too, as in torch and Keras: they return a
value for each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wellposed.core.checks import checked
from wellposed.core.errors import InputError
from wellposed.losses.criterion import (
    AVERAGED,
    Criterion,
    match_shapes,
    over_outputs,
    weighted_mean,
    weighted_quantile,
)
from wellposed.losses.targets import need_numbers


def squared_error(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``sum_outputs (y - f)^2``, without 1/2. ``outputs`` and ``target``: ``(n,)`` or ``(n, outputs)``.

    Raises:
        TargetError: a target is NaN or infinite, as for every loss here.
    """
    need_numbers("squared_error", target)
    outputs, target = match_shapes(outputs, target)
    return over_outputs((outputs - target).square()), None


def absolute_error(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``sum_outputs |y - f|``."""
    need_numbers("absolute_error", target)
    outputs, target = match_shapes(outputs, target)
    return over_outputs((outputs - target).abs()), None


def mse(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``(y - f)^2`` of each number, since each counts as one in the mean; torch's ``mse_loss``."""
    need_numbers("mse", target)
    outputs, target = match_shapes(outputs, target)
    return (outputs - target).square(), None


def mae(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``|y - f|`` of each number, since each counts as one in the mean; torch's ``l1_loss``."""
    need_numbers("mae", target)
    outputs, target = match_shapes(outputs, target)
    return (outputs - target).abs(), None


def huber(outputs: Tensor, target: Tensor, delta: float = 1.0) -> tuple[Tensor, None]:
    """``sum_outputs h(y - f)`` with ``h(r) = r^2/2`` for ``|r| <= delta`` and ``delta (|r| - delta/2)`` beyond.

    Of each output this is torch's ``huber_loss``, which averages over outputs too. ``delta`` > 0 is in the target's units:
    towards 0 the loss is ``delta`` times the absolute error, towards infinity half the squared error.

    Source:
        Huber (1964), Annals of Mathematical Statistics 35(1).
    """
    need_numbers("huber", target)
    outputs, target = match_shapes(outputs, target)
    return over_outputs(F.huber_loss(outputs, target, reduction="none", delta=delta)), None


def quantile(outputs: Tensor, target: Tensor, level: float = 0.5) -> tuple[Tensor, None]:
    """``sum_outputs max(level (y - f), (level - 1) (y - f))``, the pinball loss.

    Least where ``f`` is the quantile ``level`` in (0, 1) of ``y``; at 1/2 half the absolute error, as in scikit-learn's
    ``mean_pinball_loss``.

    Source:
        Koenker & Bassett (1978), Econometrica 46(1).
    """
    need_numbers("quantile", target)
    outputs, target = match_shapes(outputs, target)
    left = target - outputs
    return over_outputs(torch.maximum(level * left, (level - 1.0) * left)), None


def poisson(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``sum_outputs exp(f) - y f``: the negative log-likelihood of counts ``y`` whose rate is ``exp(f)``.

    Of each output this is torch's ``poisson_nll_loss`` with its defaults, which averages over outputs too. The
    output is the logarithm of the rate, and ``log y!``, on which nothing depends, is left out. Metrics see the rate.

    Raises:
        TargetError: a target is negative, NaN or infinite.
    """
    need_numbers("poisson", target, least=0.0)
    outputs, target = match_shapes(outputs, target)
    return over_outputs(F.poisson_nll_loss(outputs, target, log_input=True, full=False, reduction="none")), None


@dataclass(frozen=True)
class _OfNumbers(Criterion):
    """A loss of any finite targets."""

    numeric = True

    def check(self, target: Tensor, classes: int | None = None) -> None:
        """Finite numbers."""
        need_numbers(self.name, target)


@dataclass(frozen=True)
class SquaredError(_OfNumbers):
    """``sum_outputs (y - f)^2``, without 1/2. Convex in the outputs."""

    name = "squared_error"
    formula = staticmethod(squared_error)
    kernel = 1

    def constant(self, train: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """The mean."""
        return weighted_mean(train, weight)


@dataclass(frozen=True)
class AbsoluteError(_OfNumbers):
    """``sum_outputs |y - f|``. Convex in the outputs."""

    name = "absolute_error"
    formula = staticmethod(absolute_error)
    kernel = 3

    def constant(self, train: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """The median; of two in the middle the smaller."""
        return weighted_quantile(train, weight, 0.5)


@dataclass(frozen=True)
class MeanSquaredError(SquaredError):
    """``mean_outputs (y - f)^2``, torch's ``mse_loss``: `SquaredError` divided by the number of outputs."""

    name = "mse"
    formula = staticmethod(mse)
    averages = SquaredError
    kernel = AVERAGED + 1


@dataclass(frozen=True)
class MeanAbsoluteError(AbsoluteError):
    """``mean_outputs |y - f|``, torch's ``l1_loss``: `AbsoluteError` divided by the number of outputs."""

    name = "mae"
    formula = staticmethod(mae)
    averages = AbsoluteError
    kernel = AVERAGED + 3


@checked
@dataclass(frozen=True)
class Huber(_OfNumbers):
    """``r^2/2`` for ``|r| <= delta`` and ``delta (|r| - delta/2)`` beyond, of ``r = y - f``, summed over outputs.

    As text ``"huber"`` (delta 1) or ``"huber:0.5"``. Convex in the outputs.

    Args:
        delta: > 0, in the units in which the network is trained: a number column of a table is scaled to deviation 1.
    Raises:
        InputError: delta is not > 0 and finite.
    Example:
        >>> import torch, wellposed as wp
        >>> wp.Huber(0.5).units(torch.tensor([0.0, 0.0]), torch.tensor([0.2, 3.0]))[0]
        tensor([0.0200, 1.3750])
    """

    delta: float = 1.0

    name = "huber"
    formula = staticmethod(huber)
    kernel = 4

    def __post_init__(self) -> None:
        if not 0.0 < self.delta < math.inf:
            raise InputError(f"Huber's delta is a finite number > 0; it was given {self.delta!r}. Write Huber(1.0).")

    def compiled(self) -> int | None:
        """The kernel computes delta 1."""
        return self.kernel if self.delta == 1.0 else None


@checked
@dataclass(frozen=True)
class Quantile(_OfNumbers):
    """``max(level r, (level - 1) r)`` of ``r = y - f``, summed over outputs: the pinball loss, least at the quantile
    ``level`` of ``y``.

    As text ``"quantile:0.9"``. Convex in the outputs.

    Args:
        level: in (0, 1); 0.5 is half the absolute error.
    Raises:
        InputError: the level is not in (0, 1).
    Example:
        >>> import torch, wellposed as wp
        >>> wp.Quantile(0.9).units(torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))[0]
        tensor([0.9000, 0.1000])
    """

    level: float = 0.5

    name = "quantile"
    formula = staticmethod(quantile)
    aliases = ("pinball",)

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise InputError(f"A quantile's level lies in (0, 1); it was given {self.level!r}. Write Quantile(0.9).")

    def constant(self, train: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """The training targets' quantile: of ``n`` sorted ones number ``ceil(level n)``."""
        return weighted_quantile(train, weight, self.level)


@dataclass(frozen=True)
class Poisson(_OfNumbers):
    """``exp(f) - y f``, summed over outputs: counts ``y >= 0`` whose rate is ``exp(f)``.

    As text ``"poisson"``. Convex in the outputs. The network gives the logarithm of the rate; metrics, references and
    predictions are of the rate, and the target of a table is not shifted.

    Example:
        >>> import torch, wellposed as wp
        >>> wp.Poisson().units(torch.tensor([0.0]), torch.tensor([2.0]))[0]
        tensor([1.])
    """

    name = "poisson"
    formula = staticmethod(poisson)
    aliases = ("poisson_nll",)
    numeric = False
    affine = False

    def check(self, target: Tensor, classes: int | None = None) -> None:
        """Finite numbers >= 0."""
        need_numbers(self.name, target, least=0.0)

    def constant(self, train: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """The logarithm of the mean, which is kept off 0."""
        return weighted_mean(train, weight).clamp_min(1e-6).log()

    def response(self, outputs: Tensor) -> Tensor:
        """The rate ``exp(f)``."""
        return outputs.exp()
