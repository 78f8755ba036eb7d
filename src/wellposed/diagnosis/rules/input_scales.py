"""Inputs and targets of wildly different or extreme scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.rule import Inside, end_of, measured

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
    below .01, or if one spreads more than 100 times as wide as the median one; or if validation inputs are 30 times as large as
    training inputs, or a 30th: they are not prepared alike. Columns of 0 and 1 and sparse columns
    are sane whatever their spread. What enters the first layer is judged, so that a norm or a division inside the model counts;
    behind an embedding nothing is.
    """

    name, severity = "unscaled_inputs", 3
    beyond = "standardized"
    axis, pulls = "optimization", "data"
    code = "x = (x - x_train.mean(0)) / x_train.std(0)"
    explains = ("slow", "undertrained", "oscillates")

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        found, times, layers = unscaled(signals), signals.times, signals.last.layers if signals.last is not None else ()
        normed = bool(layers) and layers[0].role == "norm"
        if times is not None and not normed and not 1 / LARGE < times < LARGE:
            return self.finding(
                0.95, {**measured("validation over training inputs, root mean square", times), "threshold": LARGE},
                "prepare the inputs of both sides alike, with the numbers of the training rows",
                f"Validation inputs are {times:.3g} times as large as training inputs: the sides are not scaled alike.",
            )  # fmt: skip
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


class WrongTargets(Inside):
    """Targets from which nothing can be learned, or not by steps of a usual length.

    Holds if all training rows have one label and validation rows do not; or if a loss on numbers ended above twice the constant
    prediction's (or ran away) where targets have a root mean square above 30 and inputs are scaled.
    """

    name, severity = "wrong_targets", 2
    axis, pulls = "optimization", "data"
    code = "y = (y - y_train.mean(0)) / y_train.std(0)"
    explains = (
        "slow", "too_few_steps", "undertrained", "rate_too_low", "rate_too_high", "not_learning", "diverged", "exploding_gradients",
    )  # fmt: skip
    overrules = ("overfits",)
    FAR = 2.0  # what cannot be learned ends a little above the constant prediction

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        targets, constant = signals.targets, curves.fact("constant_loss")
        if signals.one_label:
            return self.finding(
                0.95, {"labels": 1, **end_of(curves)}, "see how labels are read: a division of whole numbers makes them 0",
                "All training rows have one label, and validation rows have others: nothing can be learned from them.",
            )  # fmt: skip
        if targets is None or not signals.loss.numeric or constant is None or unscaled(signals) is not None:
            return None
        size, end = float(targets.values.square().mean().sqrt()), curves.train_loss[-1] if len(curves) else 0.0
        if size <= LARGE or end <= self.FAR * constant:  # NaN, too, is no number below
            return None
        return self.finding(
            0.9, {**measured("root mean square of the targets", size), "threshold": LARGE, "constant": constant, **end_of(curves)},
            "standardize the targets by mean and standard deviation of the training rows, and scale predictions back",
            f"Targets have a root mean square of {size:.3g}, and training ended far above a constant prediction: scale them.",
        )  # fmt: skip
