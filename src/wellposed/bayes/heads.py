"""`distribution_of`: the outputs of a network whose loss knows a distribution, as that distribution; and the score of samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from wellposed.bayes.predictive import SEVERAL_LABELS, NumbersPredicted, Predictive, PredictiveClasses
from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import DataError, InputError
from wellposed.data.arrays import doubles
from wellposed.losses.distributions import Distribution
from wellposed.losses.per_example import Loss


@dataclass(frozen=True)
class PredictiveHead(NumbersPredicted):
    """What a loss's outputs say of each target: answers and targets are ``(rows,)`` of one number a row, else ``(rows, t, ...)``.

    Spreads and intervals are of the noise that the network has learned (aleatoric); what it does not know itself (epistemic)
    is seen by several networks, or by a posterior.
    """

    distribution: Distribution
    outputs: Tensor

    @property
    def mean(self) -> Tensor:
        """The expected target; of quantiles the median."""
        return self.distribution.response(self.outputs)

    @property
    def std(self) -> Tensor:
        """The standard deviation of each target.

        Raises:
            InputError: the loss is of quantiles.
        """
        return self.distribution.std(self.outputs)

    @checked
    def quantile(self, p: ConfidenceLevel) -> Tensor:
        """The value below which a target of the row lies with probability ``p``."""
        return self.distribution.quantile(self.outputs, p)

    def nll(self, y: Any) -> float:
        """``-1/rows sum_i log p(y_i)``, in nats for a row: a sum over its numbers."""
        return float(self.distribution.nll(self.outputs, self._targets(y)).mean())

    def crps(self, y: Any) -> float:
        """``mean of E|Y - y| - 1/2 E|Y - Y'|`` over rows and numbers, in the units of the targets."""
        return float(self.distribution.crps(self.outputs, self._targets(y)).mean())

    def rescaled(self, scale: float, shift: float = 0.0) -> Self:
        """The distribution of ``scale*y + shift``: back in the units of targets that were standardized."""
        return replace(self, outputs=self.distribution.rescaled(self.outputs, scale, shift))


def distribution_of(loss: Any, outputs: Any) -> Predictive:
    """The outputs of a network as the distributions that its loss says they are, in double precision on the CPU.

    Args:
        loss: a name, such as ``"gaussian"`` or ``"quantiles:0.05,0.5,0.95"``, or the loss itself.
        outputs: ``(rows, ...)``, as the network gives them.
    Returns:
        `PredictiveHead` of numbers: ``.mean .std .quantile(p) .interval(level) .nll(y) .crps(y) .rescaled(scale, shift)``; of
        classes (also in an order) `PredictiveClasses`.
    Raises:
        InputError: the loss gives one number and no distribution, or several labels at once.
        DataError: the outputs are not finite, or not as many as the loss has for each number.
    Example:
        >>> told = distribution_of("gaussian", [[1.0, 0.0], [5.0, 2.0]])
        >>> told.mean.tolist(), [round(float(end), 2) for end in told.interval(0.9)[1]]
        ([1.0, 5.0], [2.64, 9.47])
    """
    known = Loss(loss)
    given = doubles(outputs, "outputs=", "Give the outputs of a network.")
    if not bool(given.isfinite().all()):
        raise DataError("The outputs must be finite numbers; some are not: the training diverged.")
    try:
        scores = known.response(given)
    except ValueError as error:
        raise DataError(f"These outputs, {tuple(given.shape)}, are none of the loss {str(known)!r}: {error}.") from None
    if known.distribution is not None:
        return PredictiveHead(known.distribution, given)
    if not known.classifies:
        raise InputError(
            f"The loss {str(known)!r} gives one number for each target, and no distribution. Train with gaussian, student_t, "
            "gaussian_mixture, quantiles or poisson, or add a posterior to the network."
        )
    if known.labels == "shares" and scores.ndim > 1 and scores.shape[1] > 1:
        raise InputError(SEVERAL_LABELS)
    if scores.ndim == 1 or scores.shape[1] == 1:
        scores = torch.stack([torch.zeros_like(scores.reshape(-1)), scores.reshape(-1)], 1)
    return PredictiveClasses(scores.softmax(1)[None])


def crps_of_samples(samples: Any, y: Any) -> Tensor:
    """``mean_s |x_s - y| - sum_(s<t) |x_s - x_t| / (m (m - 1))`` of each row: the continuous ranked probability score of a
    distribution of which there are samples, without bias however few they are.

    Args:
        samples: ``(m, n)``, m >= 2.
        y: ``(n,)``.
    Returns:
        ``(n,)``, in the units of ``y``; in expectation over the samples the score of the distribution they are from. Of few
        samples a row's may be below 0.
    Raises:
        DataError: other shapes, fewer than two samples, or numbers that are not finite.
    Source:
        Ferro (2014), Q. J. R. Meteorol. Soc. 140(683): the fair score.
    Example:
        >>> crps_of_samples([[0.0], [2.0]], [1.0]).tolist()
        [0.0]
    """
    x, target = doubles(samples, "samples=").numpy(), doubles(y, "y=").numpy()
    fits = x.ndim == 2 and len(x) > 1 and target.shape == x.shape[1:]
    if not fits or not (np.isfinite(x).all() and np.isfinite(target).all()):
        raise DataError(
            f"crps_of_samples needs finite samples (m, n) with m >= 2, and targets (n,); they have {x.shape} and {target.shape}."
        )
    m = len(x)
    # Of sorted numbers the sum of all distances is sum_s (2 s - m - 1) x_(s), s from 1.
    ranks = 2.0 * np.arange(1, m + 1) - m - 1.0
    return torch.from_numpy(np.abs(x - target).mean(0) - ranks @ np.sort(x, axis=0) / (m * (m - 1)))
