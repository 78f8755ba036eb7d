"""`Predictive`: what a Bayesian model answers for new rows, a distribution in place of a number.

Numbers are a mixture of Gaussians with equal weights (`PredictiveNumbers`): one component after linearization, one for each
network of an ensemble, one for each sample of weights. Classes are the mean of the components' probabilities
(`PredictiveClasses`). Both are in double precision on the CPU, and their scores are means over rows, lower is better.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import DataError, InputError, listed
from wellposed.core.numbers import to_python
from wellposed.data.arrays import doubles, real_numbers

BISECTIONS = 80
"""Halvings of the bracket of a quantile: more than the 53 bits of a double need, since a bracket may straddle 0."""
LARGEST_BLOCK = 2**24
"""Numbers that `PredictiveNumbers.crps` holds at once: 128 MB."""
SEVERAL_LABELS = (
    "The predictive distribution of several labels at once is not known here; train a network for each label, or use "
    "cross_entropy where exactly one is true."
)


class Predictive(ABC):
    """A distribution for each of ``rows`` new rows: of numbers (`NumbersPredicted`) or of classes (`PredictiveClasses`)."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The expected target: of numbers their mean, of classes the probability of each."""

    @abstractmethod
    def nll(self, y: Any) -> float:
        """``-1/rows sum_i log p(y_i)``, in nats."""


class NumbersPredicted(Predictive):
    """A distribution of numbers; answers and targets have the shape ``(rows,)`` where there is one for a row."""

    @abstractmethod
    def quantile(self, p: float) -> Tensor:
        """The value below which a target of the row lies with probability ``p``."""

    @checked
    def interval(self, level: ConfidenceLevel) -> tuple[Tensor, Tensor]:
        """The central interval that holds a target of the row with probability ``level``: ``(low, high)``.

        Its ends are the quantiles ``(1 - level)/2`` and ``(1 + level)/2``.
        """
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def _targets(self, y: Any) -> Tensor:
        given, needed = doubles(y, "Targets"), self.mean.shape
        if given.shape not in (needed, (*needed, 1)) or not bool(given.isfinite().all()):
            raise DataError(
                f"The targets must be finite numbers of shape {tuple(needed)}, one for each answer; they have shape "
                f"{tuple(given.shape)}."
            )
        return given.reshape(needed)


@dataclass(frozen=True)
class PredictiveNumbers(NumbersPredicted):
    """``p(y) = 1/C sum_c prod_k N(y_k; mean_ck, std_ck^2)`` for each row: a mixture of ``C`` Gaussians of equal weight.

    Answers and targets have the shape ``(rows,)`` where there is one output, else ``(rows, outputs)``.

    Args:
        means, stds: of each component, ``(components, rows, outputs)``; finite, ``stds`` above 0 (in total: the noise, and what
            a component itself does not know).
        epistemic_var: the part of the variance that more rows would take away, ``(rows, outputs)``, or None where it is not
            known apart. The rest of the variance is aleatoric: noise of the targets.
    Raises:
        DataError: other shapes, values that are not finite, or a spread of 0, whose density is infinite or none.
    Example:
        >>> two = PredictiveNumbers.mixture([[0.0], [2.0]], noise_std=1.0)
        >>> two.mean.tolist(), two.epistemic.tolist(), [round(float(end), 3) for end in two.interval(0.9)]
        ([1.0], [1.0], [-1.284, 3.284])
    """

    means: Tensor
    stds: Tensor
    epistemic_var: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("means", "stds"):
            object.__setattr__(self, name, doubles(getattr(self, name), f"{name}=", "Give a tensor."))
        if self.means.ndim != 3 or self.means.shape != self.stds.shape or not self.means.numel():
            raise DataError(
                "PredictiveNumbers needs means and stds of one shape (components, rows, outputs), not empty; they have "
                f"{tuple(self.means.shape)} and {tuple(self.stds.shape)}."
            )
        if not bool(self.means.isfinite().all() and self.stds.isfinite().all() and (self.stds > 0).all()):
            raise DataError(
                "A predictive distribution needs finite means and finite spreads above 0: with a spread of 0 a target has no "
                "density. Add the noise of the targets."
            )

    @classmethod
    def gaussian(cls, mean: Any, epistemic_std: Any, noise_std: Any) -> Self:
        """One Gaussian for each row, of variance ``epistemic_std^2 + noise_std^2``.

        Args:
            mean: ``(rows,)`` or ``(rows, outputs)``.
            epistemic_std, noise_std: >= 0: numbers, or of a shape that broadcasts to that of ``mean``, its last axes first:
                ``(outputs,)`` is one for each output, ``(rows, 1)`` one for each row of several outputs.
        """
        mean = doubles(mean, "mean=", "Give a tensor.")
        spreads = [_spread(epistemic_std, "epistemic_std=", mean), _spread(noise_std, "noise_std=", mean)]
        if mean.ndim == 1:
            mean, *spreads = (part[:, None] for part in (mean, *spreads))
        epistemic, noise = (spread.square() for spread in spreads)
        return cls(mean[None], (epistemic + noise).sqrt()[None], epistemic)

    @classmethod
    def mixture(cls, means: Any, noise_std: Any) -> Self:
        """A component for each network or sample of weights: their disagreement is the epistemic part.

        Args:
            means: ``(components, rows)`` or ``(components, rows, outputs)``.
            noise_std: > 0: a number, or of a shape that broadcasts to that of ``means``, its last axes first: of several outputs
                ``(outputs,)`` is one for each output, and ``(components, 1, 1)`` one for each component.
        """
        means = doubles(means, "means=", "Give a tensor.")
        noise = _spread(noise_std, "noise_std=", means)
        if means.ndim == 2:
            means, noise = means[..., None], noise[..., None]
        return cls(means, noise, means.var(0, correction=0))

    @property
    def mean(self) -> Tensor:
        return _answer(self.means.mean(0))

    @property
    def _variance(self) -> Tensor:
        return self.stds.square().mean(0) + self.means.var(0, correction=0)

    @property
    def std(self) -> Tensor:
        """In total: ``sqrt(mean_c std_c^2 + variance of the components' means)``."""
        return _answer(self._variance.sqrt())

    @property
    def epistemic(self) -> Tensor | None:
        """The standard deviation that more rows would take away; None where it is not known apart."""
        return None if self.epistemic_var is None else _answer(self.epistemic_var.sqrt())

    @property
    def aleatoric(self) -> Tensor | None:
        """The standard deviation of the targets' own noise, ``sqrt(std^2 - epistemic^2)``; None where not known apart."""
        if self.epistemic_var is None:
            return None
        return _answer((self._variance - self.epistemic_var).clamp_min(0).sqrt())

    @checked
    def quantile(self, p: ConfidenceLevel) -> Tensor:
        """The value below which a target of the row lies with probability ``p``, of each output alone.

        Source:
            The quantile of a mixture lies between the least and the largest of its components', and is found by bisection.
        """
        each = self.means + self.stds * torch.special.ndtri(torch.tensor(p, dtype=torch.float64))
        low, high = each.amin(0), each.amax(0)
        for _ in range(BISECTIONS if len(each) > 1 else 0):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle - self.means) / self.stds).mean(0) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return _answer((low + high) / 2)

    def nll(self, y: Any) -> float:
        """``-1/rows sum_i log p(y_i)``, in nats for a row: a sum over its outputs, in the units of the targets.

        Targets that are multiplied by ``s`` add ``log s`` for each output.

        Raises:
            DataError: targets of another shape, or not finite.
        """
        z = (self._targets(y) - self.means) / self.stds
        density = (-0.5 * z.square() - self.stds.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        return -float((density.logsumexp(0) - math.log(len(density))).mean())

    def crps(self, y: Any) -> float:
        """``mean of E|Y - y| - 1/2 E|Y - Y'|`` over rows and outputs, in the units of the targets; of a point the absolute error.

        Raises:
            DataError: targets of another shape, or not finite.
        Source:
            Grimit, Gneiting, Berrocal & Johnson (2006), Q. J. R. Meteorol. Soc. 132, eq. 5.
        """
        apart = _mean_distance(self._targets(y) - self.means, self.stds).mean(0)
        rows = max(1, LARGEST_BLOCK // (len(self.means) ** 2 * self.means.shape[2]))
        among = []
        for mean, std in zip(torch.split(self.means, rows, 1), torch.split(self.stds, rows, 1), strict=True):
            both = (std[:, None].square() + std[None].square()).sqrt()
            among.append(_mean_distance(mean[:, None] - mean[None], both).mean((0, 1)))
        return float((apart - torch.cat(among) / 2).mean())

    def rmse(self, y: Any) -> float:
        """``sqrt(mean (mean_i - y_i)^2)`` over rows and outputs.

        Raises:
            DataError: targets of another shape, or not finite.
        """
        return float((self._targets(y) - self.means.mean(0)).square().mean().sqrt())

    def rescaled(self, scale: float | Tensor, shift: float | Tensor = 0.0) -> Self:
        """The distribution of ``scale*y + shift``: back in the units of targets that were standardized.

        Args:
            scale: > 0; a number, or one for each output, as ``shift``.
        """
        var = None if self.epistemic_var is None else self.epistemic_var * scale**2
        return replace(self, means=self.means * scale + shift, stds=self.stds * scale, epistemic_var=var)

    def _targets(self, y: Any) -> Tensor:
        return super()._targets(y).reshape(self.means.shape[1:])


@dataclass(frozen=True)
class PredictiveClasses(Predictive):
    """``p(class) = 1/C sum_c p_c(class)`` for each row: the mean of the components' probabilities.

    Args:
        components: probabilities, ``(components, rows, classes)``, each row of which sums to 1. One component where the
            integral over weights was taken otherwise.
    Raises:
        DataError: other shapes, or values that are no probabilities.
    Example:
        >>> sure = PredictiveClasses([[[0.9, 0.1], [0.2, 0.8]]])
        >>> sure.accuracy([0, 0]), round(sure.nll([0, 0]), 3)
        (0.5, 0.857)
    """

    components: Tensor

    def __post_init__(self) -> None:
        given = doubles(self.components, "components=", "Give a tensor of probabilities.")
        object.__setattr__(self, "components", given)
        if given.ndim != 3 or not given.numel() or given.shape[2] < 2:
            raise DataError(
                "PredictiveClasses needs probabilities of shape (components, rows, classes), with two classes or more; they have "
                f"{tuple(given.shape)}."
            )
        if not bool((given >= 0).all()) or not torch.allclose(given.sum(-1), given.new_ones(()), atol=1e-4):
            raise DataError("PredictiveClasses needs probabilities: numbers >= 0 whose sum over the classes is 1.")

    @property
    def mean(self) -> Tensor:
        return self.probabilities

    @property
    def probabilities(self) -> Tensor:
        """``(rows, classes)``."""
        return self.components.mean(0)

    @property
    def entropy(self) -> Tensor:
        """Of `probabilities`, in nats, ``(rows,)``: the uncertainty in total."""
        return _entropy(self.probabilities)

    @property
    def aleatoric(self) -> Tensor | None:
        """The components' mean entropy in nats, ``(rows,)``; None of one component, which does not know it apart."""
        return _entropy(self.components).mean(0) if len(self.components) > 1 else None

    @property
    def epistemic(self) -> Tensor | None:
        """The mutual information of class and weights in nats, ``(rows,)``: total entropy less `aleatoric`.

        Source:
            Depeweg et al. (2018), ICML.
        """
        return None if self.aleatoric is None else (self.entropy - self.aleatoric).clamp_min(0)

    def nll(self, y: Any) -> float:
        """``-1/rows sum_i log p(y_i)``, in nats.

        Args:
            y: classes, ``(rows,)``, counted from 0.
        Raises:
            DataError: targets of another shape, or classes that the model does not have.
        """
        chosen = self.probabilities.gather(1, self._labels(y)[:, None])
        return -float(chosen.clamp_min(torch.finfo(torch.float64).tiny).log().mean())

    def accuracy(self, y: Any) -> float:
        """The share of rows whose most probable class is the target."""
        labels = self._labels(y)
        return float((self.probabilities.argmax(1) == labels).double().mean())

    def _labels(self, y: Any) -> Tensor:
        given = real_numbers(y, "Targets", "Give the classes, counted from 0.").cpu()
        given = given.squeeze(1) if given.ndim == 2 and given.shape[1] == 1 else given
        rows, classes = self.components.shape[1:]
        known = (given == given.long()) & (given >= 0) & (given < classes)
        if given.shape != (rows,) or not bool(known.all()):
            raise DataError(
                f"The targets must be {rows} classes, whole numbers from 0 to {classes - 1}, one for each row; they have shape "
                f"{tuple(given.shape)} and go from {float(given.min()):g} to {float(given.max()):g}."
            )
        return given.long()


def _mean_distance(difference: Tensor, std: Tensor) -> Tensor:
    """``E|D|`` of ``D ~ N(difference, std^2)``: ``m (2 Phi(m/s) - 1) + 2 s phi(m/s)``."""
    z = difference / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return difference * torch.erf(z / math.sqrt(2)) + 2 * std * density


def _entropy(shares: Tensor) -> Tensor:
    return -torch.xlogy(shares, shares).sum(-1)


def _spread(value: Any, name: str, mean: Tensor) -> Tensor:
    """Standard deviations >= 0 in the shape of the means that they belong to."""
    number = to_python(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= sys.float_info.max:
        value = [number]
    spread = doubles(value, name, "Give a number >= 0, or one for each output.")
    if not bool((spread >= 0).all()):
        raise InputError(f"{name} must be standard deviations >= 0; the least is {float(spread.min()):g}.")
    try:
        return spread.expand_as(mean)
    except RuntimeError:
        raise InputError(
            f"{name} of shape {tuple(spread.shape)} does not broadcast to the means, {tuple(mean.shape)}: give a number, one for "
            "each output, or that shape."
        ) from None


def refuse_not_finite(outputs: Tensor) -> Tensor:
    """A network's outputs ``(rows, ...)`` for new rows, as they are.

    Raises:
        DataError: some are NaN or infinite, with the rows.
    """
    bad = (~outputs.isfinite().reshape(len(outputs), -1).all(1)).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"The network's outputs for {len(bad)} of {len(outputs)} new rows are not finite (rows {listed(bad.tolist())}, counted "
            "from 0): their inputs are not finite, or the network's weights are not."
        )
    return outputs


def _answer(found: Tensor) -> Tensor:
    return found.squeeze(-1) if found.shape[-1] == 1 else found
