"""Scores of a whole distribution, each best in expectation for the true one; and how often an interval holds its target.

They read the distribution that the outputs are of (`wellposed.losses.distributions`): a loss that gives one number is refused.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import InputError
from wellposed.losses.distributions import Distribution
from wellposed.losses.metrics import averaged
from wellposed.losses.per_example import Loss, per_example
from wellposed.losses.score import Score
from wellposed.losses.targets import need_numbers


class OfDistribution(Score):
    """A metric of the distribution that a loss's outputs are of; `trained_with` says which."""

    higher_is_better = False
    in_units = True
    known: ClassVar[Distribution | None] = None
    """What the outputs are of; set by `trained_with`."""

    def trained_with(self, loss: Loss) -> Self:
        if loss.distribution is None:
            raise InputError(
                f"The metric {self.name!r} is of a distribution, and the loss {loss.name!r} gives none. Take the loss gaussian, "
                "student_t, gaussian_mixture or poisson, or quantiles for what needs no density."
            )
        found = copy.copy(self)
        object.__setattr__(found, "known", loss.distribution)
        tried = found.read(loss, torch.zeros(1, loss.distribution.width))
        found.rows(tried, torch.zeros(1))  # what the loss does not know is said here, and not after the training
        return found

    @property
    def distribution(self) -> Distribution:
        if self.known is None:
            raise InputError(f"The metric {self.name!r} needs the loss that says what the outputs are; give it too.")
        return self.known

    def read(self, loss: Loss, outputs: Tensor) -> Tensor:
        return outputs

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        return self.distribution.rescaled(outputs.double(), scale, shift)

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        self.require(target, weight)
        need_numbers(self.name, target)
        with torch.no_grad():
            return averaged(per_example(self.each(outputs.double(), target.double()), target), weight)

    @abstractmethod
    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        """What each row scores, ``(n,)``."""


@dataclass(frozen=True)
class NLL(OfDistribution):
    """``-log p(y)`` in nats, in the target's own units, summed over the numbers of a row. Of counts with its ``log y!``."""

    name = "nll"
    title = "negative log-likelihood"

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.distribution.nll(outputs, target)


@dataclass(frozen=True)
class CRPS(OfDistribution):
    """``E|Y - y| - 1/2 E|Y - Y'|``, the continuous ranked probability score, in the target's own units; a mean over the numbers
    of a row. Of a certain prediction it is the absolute error.

    Source:
        Gneiting & Raftery (2007), JASA 102(477).
    """

    name = "crps"
    title = "CRPS"

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.distribution.crps(outputs, target).reshape(len(target), -1).mean(1)


@dataclass(frozen=True)
class _OfInterval(OfDistribution):
    """A metric of the central interval that holds a target with probability ``level``."""

    level: ConfidenceLevel = 0.9

    def read(self, loss: Loss, outputs: Tensor) -> Tensor:
        """``(n, 2, t, ...)``: both ends."""
        ends = [self.distribution.quantile(outputs, 0.5 * (1.0 + sign * self.level)) for sign in (-1.0, 1.0)]
        return torch.stack([end[:, None] if end.ndim == 1 else end for end in ends], 1)

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        return Score.rescaled(self, outputs, scale, shift)

    def each(self, outputs: Tensor, target: Tensor) -> Tensor:
        low, high = outputs.unbind(1)
        return self.scored(low, high, target.reshape(low.shape)).reshape(len(target), -1).mean(1)

    @abstractmethod
    def scored(self, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
        """What each number scores."""


@checked
@dataclass(frozen=True)
class IntervalScore(_OfInterval):
    """``(u - l) + 2/(1 - level) (max(l - y, 0) + max(y - u, 0))`` of the central interval ``[l, u]``.

    Its width, and a fine for each unit that a target lies outside; in the target's own units.

    As text ``"interval_score:0.9"``.

    Args:
        level: in (0, 1): how probable the interval is to hold its target.
    Source:
        Gneiting & Raftery (2007), JASA 102(477), equation 43.
    """

    name = "interval_score"
    title = "interval score"

    def scored(self, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
        return high - low + 2.0 / (1.0 - self.level) * ((low - y).clamp_min(0.0) + (y - high).clamp_min(0.0))


@checked
@dataclass(frozen=True)
class CoverageGap(_OfInterval):
    """``|share of targets inside the central interval - level|``.

    As text ``"coverage_gap:0.9"``. It is no proper score: an interval that ignores the inputs may have no gap. Its rows are
    ``inside - level`` with the sign of their mean; where the true gap is near 0 an interval from them is too narrow.

    Args:
        level: in (0, 1).
    """

    name = "coverage_gap"
    title = "coverage gap"
    in_units = False

    def scored(self, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
        return ((low <= y) & (y <= high)).double()

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        off = super().rows(outputs, target, weight) - self.level
        return off if float(off.mean()) >= 0 else -off
