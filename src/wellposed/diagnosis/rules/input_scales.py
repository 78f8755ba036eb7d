"""Inputs of wildly different or extreme scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.rule import Inside, measured

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals

LARGE = 30.0  # root mean square: the curvature along the feature is its square, about 1,000 times that of a scaled one
SMALL = 1e-2  # all features: the curvature of their weights is 10,000 times less than that of the biases
RATIO = 100.0  # of the largest to the median scale: then 10,000 of curvatures
FILLED = 0.2  # a column that is 0 in most rows has a small spread by its nature


@dataclass(frozen=True)
class Scales:
    """What is wrong with the scales: the extreme value, what it is compared with, and in which words."""

    value: float
    limit: float
    largest: float
    median: float
    says: str


def unscaled(signals: Signals) -> Scales | None:
    """The scales of what enters the first layer, if they are extreme; None if sane or not seen."""
    inspection = signals.last
    columns = inspection.entering if inspection is not None else None
    if columns is None or not np.isfinite(columns.rms).all():
        return None
    dense = (columns.spread > 0) & (columns.filled >= FILLED) & ~columns.binary
    alive = columns.rms[columns.rms > 0]
    if not len(alive):
        return None
    largest = float(alive.max())
    median = float(np.median(columns.rms[dense])) if dense.any() else largest
    if largest > LARGE:
        return Scales(largest, LARGE, largest, median, f"the largest feature has a root mean square of {largest:.3g}")
    if dense.any() and largest < SMALL:
        return Scales(largest, SMALL, largest, median, f"all features are below {largest:.2g} in root mean square")
    narrow = float(np.median(columns.spread[dense])) if dense.sum() >= 2 else 0.0
    if narrow > 0 and (ratio := float(columns.spread[dense].max()) / narrow) > RATIO:
        return Scales(ratio, RATIO, largest, median, f"the widest feature spreads {ratio:.3g} times the median one")
    return None


class UnscaledInputs(Inside):
    """Features enter the first layer in wildly different or extreme scales.

    The curvature along a weight is the mean square of its input, and the learning rate that all weights share is bounded by the
    largest. Holds if a feature's root mean square exceeds 30 (images of 0..255, amounts in single units), if all are
    below .01, or if one spreads more than 100 times as wide as the median one. Columns of 0 and 1 and sparse columns
    are sane whatever their spread. What enters the first layer is judged, so that a norm or a division inside the model counts;
    behind an embedding nothing is.
    """

    name, severity = "unscaled_inputs", 3
    beyond = "standardized"
    axis, pulls = "optimization", "data"
    code = "x = (x - x_train.mean(0)) / x_train.std(0)"
    explains = ("slow", "undertrained", "oscillates")

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        found = unscaled(signals)
        if found is None:
            return None
        return self.finding(
            0.9,
            {**measured("scale found", found.value), "threshold": found.limit, "largest": found.largest,
             "median": found.median},
            "standardize each feature by the mean and standard deviation of the training rows (images: to about -1..1), "
            "or put a batch norm first",
            f"{found.says[0].upper()}{found.says[1:]}: the inputs are not scaled, and no one learning rate fits all of them.",
        )  # fmt: skip
