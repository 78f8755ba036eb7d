"""`calibration`: how far probabilities are from the shares that come true, without the bias that few rows give that number."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np

from wellposed.bayes.chances import Chances
from wellposed.bayes.reliability_figure import calibration_sentence, reliability_picture
from wellposed.core.checks import ConfidenceLevel, Seed, Within, checked
from wellposed.core.errors import DataError, require
from wellposed.core.random import numpy_generator

FEWEST, EACH = 20, 10
"""Rows that a calibration error needs, and rows of a bin: with fewer there are fewer bins."""
DRAWS = 999
"""Of labels from the probabilities themselves: the smallest p-value is 1/1000."""
LARGEST_BLOCK = 2**20
"""Numbers that are drawn at once."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of like confidence: the mean confidence, the share that is right with its exact interval, and how many rows."""

    confidence: float
    right: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Calibration:
    """How far confidences are from the share that is right; `calibration` measures it.

    Attributes:
        error: root mean square over rows of the gap of their bin, without the part that chance adds; 0 where chance explains all.
        low, high: the interval of `error`.
        level: of the interval.
        p_value: how probable a gap as large as this one is for a perfectly calibrated model with these very confidences.
        ece: mean absolute gap over the bins, the usual number, which few rows push upwards.
        ece_by_chance: what `ece` is on average for a perfectly calibrated model with these very confidences.
        rows: that were looked at. ``bins``: from the least to the most confident.
    """

    error: float
    low: float
    high: float
    level: float
    p_value: float
    ece: float
    ece_by_chance: float
    rows: int
    bins: tuple[ReliabilityBin, ...]

    def __str__(self) -> str:
        return calibration_sentence(self.to_dict())

    def figure(self) -> str:
        """The reliability diagram as SVG that is readable on white and on dark ground.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return reliability_picture(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """What JSON can say, as it stands in ``study.json``."""
        return {**asdict(self), "bins": [asdict(one) for one in self.bins]}


@checked
def calibration(
    probabilities: Any,
    y: Any,
    *,
    bins: Annotated[int, Within(1, 1000)] = 15,
    level: ConfidenceLevel = 0.95,
    seed: Seed = 0,
) -> Calibration:
    """Measure calibration: ``error^2 = sum_b n_b/n (gap_b^2 - var_b)`` of bins of equally many rows.

    ``gap_b`` is the mean of confidence less right or wrong in a bin, and ``var_b`` the variance that chance gives it, by which its
    square is too large on average. The confidence is the highest probability, and right is whether its class is the label; of
    single numbers ``(rows,)`` it is the probability of the second class, and right whether that is the label. Bins hide what
    differs inside of them: the error is a lower bound of the one without bins.

    The interval is ``error^2 +- z sqrt(sum_b (n_b/n)^2 (4 gap_b^2 var_b + 2 var_b^2))``, of a sum of squares of normal means. The
    p-value draws right and wrong from the confidences themselves, and is exact.

    Args:
        probabilities: ``(rows, classes)``, or ``(rows,)`` of the second of two classes; or outputs before the softmax. Of rows
            that neither the network nor a calibration was fitted on.
        y: their classes, counted from 0.
        bins: at most; each has 10 rows or more.
        level: of the interval.
    Raises:
        DataError: fewer than 20 rows, or shapes that do not fit.
        MissingExtra: scipy is not installed.
    Source:
        Kumar, Liang & Ma (2019), NeurIPS; Bröcker (2012), Climate Dynamics 39; Vaicenavicius et al. (2019), AISTATS.
    Example:
        >>> draw = np.random.default_rng(0)
        >>> chance = draw.uniform(size=4000)
        >>> found = calibration(chance, draw.uniform(size=4000) < chance)
        >>> found.low, found.ece > 0.01, found.p_value > 0.05
        (0.0, True, True)
    """
    special = require("scipy.special", "tables")
    given = Chances.read(probabilities)
    labels = given.labels(y).numpy()
    chances = given.logs.exp().numpy()
    sure = chances[:, 1] if given.single else chances.max(1)
    right = (labels == 1 if given.single else labels == chances.argmax(1)).astype(float)
    if len(sure) < FEWEST:
        raise DataError(f"A calibration error needs at least {FEWEST} rows; there are {len(sure)}.")
    place = _equal_bins(sure, max(1, min(bins, len(sure) // EACH)))
    count = np.bincount(place).astype(float)
    mean = [np.bincount(place, weights=x) / count for x in (sure, right)]
    gap, share = mean[1] - mean[0], count / len(sure)
    spread = np.bincount(place, weights=(right - sure - gap[place]) ** 2) / ((count - 1.0) * count)
    square = float(share @ (gap**2 - spread))
    room = float(special.ndtri(0.5 + 0.5 * level)) * math.sqrt(
        float(share**2 @ (4.0 * np.maximum(gap**2 - spread, 0.0) * spread + 2.0 * spread**2))
    )
    told = _gaps_by_chance(sure, place, count, numpy_generator(seed, "calibration"))
    p_value = (1.0 + float((told**2 @ share >= gap**2 @ share - 1e-15).sum())) / (1.0 + DRAWS)
    ends = [math.sqrt(max(x, 0.0)) for x in (square, square - room, square + room)]
    hits = np.bincount(place, weights=right)
    tail = 0.5 - 0.5 * level
    low = np.where(hits > 0, special.betaincinv(hits, count - hits + 1.0, tail), 0.0)
    high = np.where(hits < count, special.betaincinv(hits + 1.0, count - hits, 1.0 - tail), 1.0)
    columns = zip(*(column.tolist() for column in (*mean, low, high, count.astype(int))), strict=True)
    return Calibration(
        ends[0], ends[1], ends[2], level, p_value, float(share @ np.abs(gap)), float((np.abs(told) @ share).mean()), len(sure),
        tuple(ReliabilityBin(*one) for one in columns),
    )  # fmt: skip


def _gaps_by_chance(sure: np.ndarray, place: np.ndarray, count: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """``(draws, bins)``: the gaps of a model that is right as often as it says."""
    found, block = [], max(1, LARGEST_BLOCK // len(sure))
    for start in range(0, DRAWS, block):
        many = min(block, DRAWS - start)
        off = (draw.random((many, len(sure))) < sure) - sure
        at = place + len(count) * np.arange(many)[:, None]
        sums = np.bincount(at.reshape(-1), weights=off.reshape(-1), minlength=many * len(count))
        found.append(sums.reshape(many, -1) / count)
    return np.concatenate(found)


def _equal_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each value: about equally many in each, at least two, and equal values in one."""
    distinct, place, rows = np.unique(values, return_inverse=True, return_counts=True)
    wanted, number, held, left = len(values) / bins, 0, 0, len(values)
    of_value = np.empty(len(distinct), dtype=np.int64)
    for at, many in enumerate(rows):
        if held >= max(2.0, wanted) and left >= max(2.0, 0.5 * wanted):
            number, held = number + 1, 0
        of_value[at] = number
        held, left = held + many, left - many
    return np.asarray(of_value[place.reshape(-1)])
