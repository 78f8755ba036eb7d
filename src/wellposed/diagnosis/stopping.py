"""When to stop: as soon as it is known well enough that the best epoch is past.

    evidence = epochs waited * (mean loss of the last quarter of the wait - best loss) / noise

The wait is the time since the best epoch, the noise that from epoch to epoch, so that the evidence has no unit. It grows with
how long the loss stayed above its best and with how far. Over histories that did find a better epoch later, the largest evidence
that came before it has a tail that falls as a power. That turns evidence into a risk: the share of histories that would have
been stopped before their best epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import InputError
from wellposed.diagnosis.curves import GAUSSIAN_MAD, SECOND_DIFFERENCE
from wellposed.logs import Array
from wellposed.training.history import Stopped

# Of the 419 published histories by which benchmarks/stopping.py calibrates, a share of (EVEN / evidence) ** POWER passed an
# evidence and found a better epoch afterwards, from shares of a third to a hundredth; of 880 others, fewer.
EVEN, POWER = 10.0, 0.6
SHORTEST_WAIT = 5  # epochs: the mean of the last quarter needs some, and a noise too
MEMORY = 50  # epochs that the noise is taken from: it changes while training settles
ROUNDING = 1e-6  # of the largest loss: below it a difference is one of printed digits


@dataclass(frozen=True)
class StopWhenSure:
    """A rule that stops once the risk that a better epoch is still to come is at most ``risk``.

    A pure function of the losses so far: nothing has to be saved for a run to be resumed. See `stop_when_sure`.
    """

    risk: float = 0.05
    column: str = "valid_loss"

    def __post_init__(self) -> None:
        if isinstance(self.risk, bool) or not isinstance(self.risk, (int, float)) or not 0 < self.risk < 1:
            raise InputError(f"stop_when_sure needs a risk between 0 and 1; got {self.risk!r}. 0.05 is a good start.")

    def __call__(self, history: Any) -> str | None:
        """``"turned"`` if training should stop now, else None.

        Args:
            history: a `History` or a Watch (its ``column``), or the losses so far, one an epoch.
        """
        return Stopped.TURNED if self.doubt(history) <= self.risk else None

    def doubt(self, history: Any) -> float:
        """The risk that a better epoch is still to come, as far as the losses tell: from 1, at the best epoch, towards 0."""
        found = stopping_evidence(self._losses(history))
        return 1.0 if found <= EVEN else (EVEN / found) ** POWER

    def _losses(self, history: Any) -> Array:
        history = getattr(history, "history", history)
        rows = getattr(history, "rows", None)
        if rows is None:
            return np.asarray(history, dtype=np.float64).reshape(-1)
        if rows and not any(self.column in row for row in rows):
            raise InputError(f"stop_when_sure looks at '{self.column}', which the history does not have; give column=.")
        return np.array([row.get(self.column, math.nan) for row in rows], dtype=np.float64)


@checked
def stop_when_sure(risk: ConfidenceLevel = 0.05, *, column: str = "valid_loss") -> StopWhenSure:
    """Stop when validation has turned and going on will hardly find a better epoch, at a known risk of being wrong.

    For ``fit(..., stop=stop_when_sure())``, for an own loop (``if rule(watch): break``), and for a callback of any
    framework, which calls it with the validation losses so far. Keep the weights of the best epoch, as ``fit`` does.

    Args:
        risk: the share of histories in which a better epoch would still have come, above 0 and below 1. Smaller waits
            longer: 0.2 costs few epochs, 0.01 is for runs that are not repeated.
        column: what it looks at in a `History`; lower must be better.
    Raises:
        InputError: ``risk`` is not between 0 and 1.
    Source:
        The statistic is a cumulative sum in units of noise (Page, 1954, Biometrika 41); the risk is measured, see
        ``benchmarks/stopping.py``.

    Example:
        >>> rule = stop_when_sure(risk=0.1)
        >>> falling = [1.0, 0.8, 0.7, 0.65, 0.63, 0.625]
        >>> rule(falling)
        >>> rule(falling + [0.63 + 0.01 * epoch + 0.002 * (-1) ** epoch for epoch in range(20)])
        'turned'
    """
    return StopWhenSure(risk, column)


def stopping_evidence(losses: Sequence[float] | Array) -> float:
    """Of a turn, at the last epoch: ``wait * (mean of the last quarter of the wait - best) / noise``, at least 0.

    Epochs without a number between losses had no validation and count for nothing. More of them at the end than ever before in
    one stretch, and at least `SHORTEST_WAIT` (`MEMORY` where no loss is known yet), mean that the losses left the numbers:
    then it is infinite. Lasts ``O(n)``.
    """
    every = np.asarray(losses, dtype=np.float64)
    at = np.flatnonzero(np.isfinite(every))
    blank = np.diff(np.concatenate([[-1], at, [len(every)]])) - 1  # before each loss, and at the end
    usual = max(SHORTEST_WAIT - 1, blank[:-1].max()) if len(at) else MEMORY - 1
    if blank[-1] > usual:
        return math.inf
    values = every[at]
    wait = len(values) - 1 - int(np.argmin(values)) if len(values) else 0
    if wait < SHORTEST_WAIT:
        return 0.0
    last = values[-max(3, wait // 4) :]
    return wait * max(float(last.mean() - values.min()), 0.0) / recent_noise(values)


def recent_noise(values: Array) -> float:
    """The noise from epoch to epoch over the last `MEMORY` epochs, by second differences; above 0.

    Their scaled median, which single jumps do not move; where most of them are rounding alone, their mean.
    """
    size = np.abs(np.diff(values[-MEMORY - 2 :], 2))
    floor = ROUNDING * float(np.abs(values).max()) + np.finfo(np.float64).tiny
    if len(size) == 0:
        return floor
    middle = float(np.median(size)) * GAUSSIAN_MAD
    return max((middle if middle > floor else float(size.mean())) / SECOND_DIFFERENCE, floor)
