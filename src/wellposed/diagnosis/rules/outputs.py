"""What the network ends in and what it is asked for: output, loss and targets must fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.rule import Inside, measured

if TYPE_CHECKING:
    from torch import Tensor

    from wellposed.diagnosis.signals import Signals, Targets
    from wellposed.training.inspection import Inspection

BOUNDED = {"softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, float("inf"))}
"""Ranges of the activations that a network may end in."""
SLACK = 1e-3  # of probabilities: what rounding may add


def exclusive(targets: Targets | None) -> bool:
    """Whether each row is of one of three classes or more. With two, both kinds of cross-entropy are the same."""
    return targets is not None and targets.one_hot and targets.columns > 2


def is_shares(outputs: Tensor | None) -> bool:
    """Whether rows of several outputs are in [0, 1] and sum to 1, as a softmax's."""
    if outputs is None or outputs.ndim < 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return False
    inside = bool((outputs >= 0).all()) and bool((outputs <= 1).all())
    return inside and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())


class WrongOutput(Inside):
    """The activation that the network ends in does not fit the loss.

    Cross-entropy and binary cross-entropy take any number and apply softmax or sigmoid themselves: an output that ends in one (or
    in a ReLU or tanh, which cut scores) bounds what the loss can reach. ``NLLLoss`` takes logarithms of probabilities, ``BCELoss``
    and cross-entropies written by hand take these: of classes that exclude each other, which sigmoids do not make sum to 1, or of
    each output, of which softmax lets no two be likely. A loss on numbers cannot reach targets outside the range of a sigmoid,
    tanh or ReLU: holds if a hundredth of the targets lies outside. Ending in an activation is seen from the operation that made
    the outputs; a softmax also from rows in [0, 1] that sum to 1; over one unit it is 1 whatever the network says.
    ``log_softmax`` before cross-entropy changes nothing and is left alone.
    """

    name, severity = "wrong_output", 2
    beyond = "rescored"
    axis, pulls = "optimization", "loop"
    code = "model = model[:-1]  # without the last activation"
    OUTSIDE = 0.01  # of the targets: a few outliers would say nothing about the design

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        inspection = signals.last
        if inspection is None or inspection.outputs is None:
            return None
        name, outputs = signals.loss.name, inspection.outputs
        shares = all(is_shares(seen.outputs) for seen in (signals.first, inspection) if seen is not None)
        made = inspection.made_by or ("softmax" if shares else None)
        single = outputs.ndim < 2 or outputs.shape[-1] == 1
        if single and (made == "softmax" or (len(outputs) > 1 and bool((outputs == 1).all()))):
            return self._found(
                inspection, "softmax over one unit, which is 1 for every row", name,
                "end in a linear layer of one score, or give an output to each class",
            )  # fmt: skip
        logs = name == "NLLLoss" and outputs.ndim > 1 and bool((outputs.exp().sum(1) - 1).abs().max() < 1e-2)
        takes, targets = signals.loss.of_shares, signals.targets
        beyond = takes is not None and bool(((outputs < -SLACK) | (outputs > 1 + SLACK)).any())
        each = takes == "binary" or signals.loss.numeric  # a multinomial likelihood wants shares of several labels
        if made == "softmax" and each and targets is not None and targets.several:
            return self._found(
                inspection, "softmax, whose rows sum to 1", f"{name} of rows that may have several labels",
                "end in a sigmoid for each label; better, use BCEWithLogitsLoss on the scores",
            )  # fmt: skip
        for loss, unfit, lever in (
            ("cross_entropy", made in BOUNDED, "give the scores to the loss as they are: it applies softmax itself"),
            ("binary_cross_entropy", made in (*BOUNDED, "log_softmax", "log_sigmoid"),
             "give the scores to the loss as they are: it applies the sigmoid itself"),
            ("NLLLoss", made != "log_softmax" and not logs, "end in log_softmax, or use cross-entropy on scores"),
            ("binary", beyond or made in ("relu", "tanh") or (made == "softmax" and not (targets and targets.one_hot)),
             "end in a sigmoid; better, use BCEWithLogitsLoss on the scores"),
            ("classes", beyond or made in ("relu", "tanh", "sigmoid"),
             "end in softmax; better, use cross-entropy on the scores"),
        ):  # fmt: skip
            if loss in (name, takes) and unfit:
                ends = made or ("no log_softmax" if loss == "NLLLoss" else "no activation, so that outputs leave 0..1")
                return self._found(inspection, ends, name, lever)
        if signals.loss.numeric and made in BOUNDED and signals.targets is not None:
            return self._outside(inspection, made, signals.targets)
        return None

    def _found(self, inspection: Inspection, made: str, loss: str, lever: str) -> Finding:
        outputs = inspection.outputs
        low, high = (float(outputs.min()), float(outputs.max())) if outputs is not None else (0.0, 0.0)
        return self.finding(
            0.97, {"ends_in": made, "loss": loss, "lowest": low, "highest": high, "rows": inspection.rows}, lever,
            f"The network ends in {made}, and the loss is {loss}: the output does not fit the loss.",
        )  # fmt: skip

    def _outside(self, inspection: Inspection, made: str, targets: Targets) -> Finding | None:
        low, high = BOUNDED[made]
        slack = 1e-3 * max(targets.spread, 1e-12)
        outside = float(((targets.values < low - slack) | (targets.values > high + slack)).double().mean())
        if outside < self.OUTSIDE:
            return None
        return self.finding(
            0.95,
            {**measured("share of targets out of reach", outside), "ends_in": made, "lowest_target": targets.low,
             "highest_target": targets.high},
            f"end in a linear layer without {made}, or bring the targets into its range",
            f"The network ends in {made}, and {outside:.0%} of the targets lie outside its range: it can never reach them.",
        )  # fmt: skip


class WrongLoss(Inside):
    """The loss does not fit the targets.

    Cross-entropy on a single score is always 0; any loss may be the same whatever the outputs are. Targets that a loss does not
    take at all are refused before, but a binary cross-entropy by hand takes others than 0..1. After a softmax over three classes or
    more it asks of each alone, and not which one it is. One that takes logarithms of 0 is judged where training ended so. A loss
    on numbers treats class numbers as amounts: holds if the targets are whole numbers without a gap, of few distinct values, and
    the features say that they are names: ridge fits of the classes hit more validation rows than the rounded fit of the number,
    by a tenth and by more than the sampling error, which counts and ranks do not show. A loss on numbers for one-hot rows, or for
    labels 0 and 1 behind a sigmoid or softmax, learns, but slowly where it is wrong and sure. Of a loss of one's own it is seen
    that below zero it falls without a bound, faster and faster, as where its sign is wrong.
    """

    name, severity = "wrong_loss", 2
    axis, pulls = "optimization", "loop"
    code = "loss = torch.nn.CrossEntropyLoss()"
    GAIN = 0.1  # more hits by classes than by rounded numbers: ranks on a line show less
    FASTER = 3.0  # times the fall of the first half of the epochs in the second: what has a bound slows down
    FEWEST = 8  # epochs
    overrules = ("undertrained", "slow", "rate_too_low")

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        inspection, targets, values = signals.last, signals.targets, curves.train
        half, fell = len(values) // 2, bool((np.diff(values) < 0).all())
        below = len(values) >= self.FEWEST and values[-1] < min(0.0, values[0] - 10 * abs(values[0]))
        if below and fell and values[half] - values[-1] > self.FASTER * (values[0] - values[half]):
            return self.finding(
                0.9, {"start": float(values[0]), "train_loss": float(values[-1])},
                "see that what is minimized is what should be small: the sign of the loss, and of each term in it",
                f"The loss fell from {values[0]:.3g} to {values[-1]:.3g}, below zero and faster and faster: it has no bound, and "
                "what should grow is minimized.",
            )  # fmt: skip
        if inspection is None or targets is None:
            return None
        name, takes, outputs = signals.loss.name, signals.loss.of_shares, inspection.outputs
        single = name == "cross_entropy" and outputs is not None and outputs.ndim > 1 and outputs.shape[1] == 1
        for holds, sure, lever, says in (
            (single or signals.loss.blind, 0.95, "use binary cross-entropy for one score, or give one score a class",
             f"The loss {name} is the same whatever the network says, as of a single score: it does not fit the output."),
            (takes == "binary" and (targets.low < -SLACK or targets.high > 1 + SLACK), 0.95,
             "use cross-entropy with one score a class, or targets in 0..1",
             f"Targets go from {targets.low:g} to {targets.high:g}, and {name} is a binary cross-entropy: it does not fit them."),
            (takes == "binary" and inspection.made_by == "softmax" and exclusive(targets), 0.8,
             "use cross-entropy on the scores, which asks which class it is",
             f"Each row is of one of {targets.columns} classes, as softmax says, and {name} asks of each alone: it does not fit."),
            (signals.loss.breaks and len(curves) > 0 and not np.isfinite(curves.train_loss[-1]), 0.8,
             "use cross-entropy on scores, which never takes the logarithm of 0",
             f"{name} takes the logarithm of a probability that may be 0, and was no finite number at the end."),
        ):  # fmt: skip
            if holds:
                return self.finding(sure, {"loss": name}, lever, says)
        return self._numbers(signals, targets, inspection.made_by) if signals.loss.numeric else None

    def _numbers(self, signals: Signals, targets: Targets, made: str | None) -> Finding | None:
        lever = "use cross-entropy with one score a class"
        labels = targets.whole and targets.distinct == 2 and (targets.low, targets.high) == (0, 1)
        if (targets.one_hot and targets.columns >= 2) or (labels and made in ("sigmoid", "softmax")):
            return self.finding(
                0.7, {"columns": targets.columns, "loss": signals.loss.name},
                lever if targets.one_hot else "use binary cross-entropy on the score, without the last activation",
                f"The targets are labels, {f'one of {targets.columns} classes' if targets.one_hot else '0 or 1'}, and "
                f"{signals.loss.name} compares numbers: the loss does not fit the targets.",
            )  # fmt: skip
        if signals.gain is None or not (targets.codes and targets.distinct >= 3 and targets.columns == 1):
            return None
        by_class, rounded, error = signals.gain
        gain = by_class - rounded
        if not (gain >= self.GAIN and gain > 3 * error):
            return None
        return self.finding(
            0.95 if targets.integer else 0.85,
            {**measured("more hits by classes than by numbers", gain, error), "classes": targets.distinct,
             "loss": signals.loss.name},
            lever,
            f"The targets are {targets.distinct} class numbers, and {signals.loss.name} takes them for amounts: the loss does not "
            "fit the targets.",
        )  # fmt: skip
