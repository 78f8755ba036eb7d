"""A gain over folds, of which each was held out of a search of its own: how sure it is, though the folds share their
training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wellposed.core.errors import DataError
from wellposed.statistics.student import student_quantile


def folds_interval(gains: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """``(mean, low, high)`` of the gain, by the corrected resampled t test.

    ``half = t_(K-1) * S * sqrt(1/K + 1/(K-1))``, where ``S`` is the standard deviation of the ``K`` gains, and the second
    summand is the ratio of held-out rows to the others. Without it the interval is too short, since any two folds share
    training rows.

    Args:
        gains: one mean difference for each of K >= 2 folds, positive where better; finite.
        level: inside (0, 1).
    Raises:
        DataError: fewer than 2 folds, or a gain that is no number.
        InputError: ``level`` is outside (0, 1).
    Source:
        Nadeau & Bengio (2003), Machine Learning 52.

    Example:
        >>> [round(value, 3) for value in folds_interval([0.02, 0.03, 0.025, 0.03, 0.02])]
        [0.025, 0.016, 0.034]
    """
    found = np.asarray(gains, dtype=np.float64)
    count = len(found)
    if count < 2 or not np.isfinite(found).all():
        raise DataError(f"An interval over folds needs a gain for each of at least 2; it was given {list(gains)}.")
    mean = float(found.mean())
    half = (
        student_quantile((1 + level) / 2, count - 1) * float(found.std(ddof=1)) * math.sqrt(1 / count + 1 / (count - 1))
    )
    return mean, mean - half, mean + half
