"""`calibrate`: probabilities made right on rows of their own. `conformal`: intervals made as wide as they must be.

What is fitted here must not be fitted on rows that the network was trained on, where it is surer than it may be, and must not be
judged on the rows that it was fitted on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wellposed.bayes.chances import Chances
from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import DataError, require
from wellposed.data.arrays import doubles

Way = Literal["temperature", "platt", "isotonic", "venn_abers"]
HALVINGS = 100
"""Of the bracket of a temperature."""


@dataclass(frozen=True)
class Calibrator:
    """A map from a network's outputs or probabilities to calibrated ones; `calibrate` fits it.

    Attributes:
        how: which map.
        rows: it was fitted on.
        temperature: by which outputs are divided; None of another map.
    """

    how: Way
    rows: int
    fitted: Any = field(repr=False)
    given: Chances = field(repr=False)

    @property
    def temperature(self) -> float | None:
        if self.how != "temperature":
            return None
        return 1.0 / self.fitted if self.fitted else math.inf

    def predict(self, outputs: Any) -> Tensor:
        """Calibrated probabilities of new rows, in the shape of what is given.

        Args:
            outputs: what `calibrate` was given, of new rows.
        Raises:
            DataError: they are of another kind or shape.
        """
        new = Chances.read(outputs, self.given)
        if self.how == "temperature":
            return new.answer((self.fitted * new.logs).softmax(1))
        places = range(new.logs.shape[1]) if len(self.fitted) > 1 else [1]
        columns = [_applied(one, new.logs, k) for one, k in zip(self.fitted, places, strict=True)]
        found = torch.from_numpy(np.stack(columns, 1))
        if len(self.fitted) == 1:
            return new.answer(torch.cat([1.0 - found, found], 1))
        total = found.sum(1, keepdim=True)
        return torch.where(total > 0, found / total, 1.0 / found.shape[1])

    def interval(self, outputs: Any) -> tuple[Tensor, Tensor]:
        """Of Venn-Abers the two probabilities of the second of two classes, ``(low, high)``, each ``(rows,)``.

        One of the two, the one that the row's own label would choose, is calibrated exactly, whatever the network and however few
        the rows; their distance says how much the rows leave open.

        Raises:
            DataError: the map is another, or there are more than two classes.
        """
        if self.how != "venn_abers" or len(self.fitted) > 1:
            raise DataError("An interval of a probability needs how='venn_abers' and two classes.")
        low, high = self.fitted[0].both(Chances.read(outputs, self.given).logs[:, 1].exp().numpy())
        return torch.from_numpy(low), torch.from_numpy(high)


@checked
def calibrate(outputs: Any, y: Any, how: Way = "temperature", *, training: Any = None) -> Calibrator:
    """Fit a map that makes probabilities right: of rows to which 0.8 is given, 80 % are of that class.

    - ``"temperature"``: ``softmax(outputs / T)``, the ``T`` of the highest likelihood, which is the only minimum of a convex cost.
      One number: for few rows. No prediction changes its class.
    - ``"platt"``: ``sigmoid(a s + b)`` of each class's logit ``s`` against all others, divided by the sum over the classes.
    - ``"isotonic"``: any rising function of each class's probability; a few hundred rows or more.
    - ``"venn_abers"``: isotonic with the new row's own label added either way. Of two classes the answer has an exact guarantee:
      see `Calibrator.interval`. The probability is ``p1 / (1 - p0 + p1)``, which is best for the logarithmic loss at its worst. Of
      more classes each is taken against all others and the sum made 1, without a guarantee: on few rows it is not sure enough.

    Args:
        outputs: of rows that the network was not trained on, ``(rows, classes)``, or ``(rows,)`` of the second of two classes:
            probabilities, or outputs before the softmax, whichever they are.
        y: their classes, ``(rows,)``, counted from 0.
        training: outputs of the rows that the network was trained on, to be refused if they are the same.
    Raises:
        DataError: rows of training are among these, there is one class only, shapes differ, or every row is right already, so
            that no temperature is the best.
        MissingExtra: ``"platt"``, ``"isotonic"`` and ``"venn_abers"`` need scikit-learn.
    Source:
        Guo et al. (2017), ICML; Platt (1999); Zadrozny & Elkan (2002), KDD; Vovk, Petej & Fedorova (2015), NIPS.
    Example:
        >>> too_sure = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
        >>> found = calibrate(too_sure, [0, 0, 1, 1])
        >>> round(found.temperature, 3), [round(float(p), 3) for p in found.predict(too_sure)[0]]
        (3.641, [0.75, 0.25])
    """
    given = Chances.read(outputs)
    labels = given.labels(y)
    if training is not None:
        _refuse_training(given.logs, Chances.read(training, given).logs)
    if bool((labels == labels[0]).all()):
        raise DataError(
            f"Calibration needs rows of two classes or more; all {len(labels)} are of class {int(labels[0])}."
        )
    if how == "temperature":
        return Calibrator(how, len(labels), inverse_temperature(given.logs, labels), given)
    classes = range(given.logs.shape[1]) if given.logs.shape[1] > 2 else [1]
    fit = {"platt": _platt, "isotonic": _isotonic, "venn_abers": _VennAbers.fit}[how]
    return Calibrator(how, len(labels), [fit(given.logs, labels == k, k) for k in classes], given)


def _refuse_training(logs: Tensor, trained: Tensor) -> None:
    known = {row.tobytes() for row in trained.numpy()}
    same = sum(row.tobytes() in known for row in logs.numpy())
    if same > len(logs) / 2:
        raise DataError(
            f"Calibration needs rows of its own: {same} of the {len(logs)} rows have outputs of training rows, on which a "
            "network is surer than it may be. Hold rows out of the training."
        )


def inverse_temperature(logs: Tensor, labels: Tensor, counts: Tensor | None = None) -> float:
    """The least ``mean(logsumexp(b z) - b z_y)`` over b >= 0, where its slope, which rises, is 0.

    Args:
        counts: ``(rows,)`` how much each row counts in the mean; by default all alike.
    Raises:
        DataError: every row is right already.
    """
    counts = torch.ones(len(logs), dtype=logs.dtype) if counts is None else counts
    own = logs.gather(1, labels[:, None])[:, 0]
    if bool((own == logs.max(1).values).all()):
        raise DataError(
            f"No temperature is the best: all {len(labels)} rows are predicted right, and the surer the better. Give more rows, or "
            "how='venn_abers'."
        )

    def slope(b: float) -> float:
        return float(((((b * logs).softmax(1) * logs).sum(1) - own) * counts).sum())

    low, high = 0.0, 1.0
    if slope(low) >= 0.0:
        return low
    while slope(high) < 0.0:
        low, high = high, 2.0 * high
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
    return 0.5 * (low + high)


def _logit(logs: Tensor, k: int) -> np.ndarray:
    """``log p_k - log(1 - p_k)``, also where the probability is 1 up to rounding."""
    others = torch.cat([logs[:, :k], logs[:, k + 1 :]], 1)
    return np.asarray((logs[:, k] - others.logsumexp(1)).numpy())


def _platt(logs: Tensor, positive: Tensor, k: int) -> Any:
    """Logistic regression on one logit, whose labels are Platt's: ``(n1 + 1)/(n1 + 2)`` and ``1/(n0 + 2)``."""
    linear = require("sklearn.linear_model", "tables")
    ones = int(positive.sum())
    share = np.where(positive.numpy(), (ones + 1.0) / (ones + 2.0), 1.0 / (len(positive) - ones + 2.0))
    twice, labels = np.tile(_logit(logs, k), 2)[:, None], np.repeat([1, 0], len(share))
    found = linear.LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    return found.fit(twice, labels, sample_weight=np.concatenate([share, 1.0 - share]))


def _isotonic(logs: Tensor, positive: Tensor, k: int) -> Any:
    isotonic = require("sklearn.isotonic", "tables")
    found = isotonic.IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    return found.fit(logs[:, k].exp().numpy(), positive.numpy().astype(float))


@dataclass(frozen=True)
class _VennAbers:
    """Distinct scores in order, the share of the class among the rows of each, and how many rows it has."""

    scores: np.ndarray
    share: np.ndarray
    rows: np.ndarray

    @classmethod
    def fit(cls, logs: Tensor, positive: Tensor, k: int) -> _VennAbers:
        scores, place, rows = np.unique(logs[:, k].exp().numpy(), return_inverse=True, return_counts=True)
        return cls(scores, np.bincount(place, weights=positive.numpy()) / rows, rows.astype(float))

    def both(self, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The isotonic fit at each new score with that row as one of the other classes, and as one of this class.

        It depends only on between which scores, or on which, the new one lies: so many fits are made, and not one a row.
        """
        place = np.searchsorted(self.scores, new)
        there = self.scores[np.minimum(place, len(self.scores) - 1)] == new
        where, row = np.unique(np.stack([place, there], 1), axis=0, return_inverse=True)
        found = np.array([[self._fitted(int(p), bool(t), label) for label in (0.0, 1.0)] for p, t in where])
        low, high = found[row.reshape(-1)].T
        return low, high

    def _fitted(self, place: int, there: bool, label: float) -> float:
        regression = require("sklearn.isotonic", "tables").isotonic_regression
        share, rows = self.share.copy(), self.rows.copy()
        if there:
            share[place] = (share[place] * rows[place] + label) / (rows[place] + 1.0)
            rows[place] += 1.0
        else:
            share, rows = np.insert(share, place, label), np.insert(rows, place, 1.0)
        return float(regression(share, sample_weight=rows)[place])


def _applied(fitted: Any, logs: Tensor, k: int) -> np.ndarray:
    """The calibrated probability of class ``k``, before the classes are made to sum to 1."""
    if isinstance(fitted, _VennAbers):
        low, high = fitted.both(logs[:, k].exp().numpy())
        return np.asarray(high / (1.0 - low + high))
    if hasattr(fitted, "predict_proba"):
        return np.asarray(fitted.predict_proba(_logit(logs, k)[:, None])[:, 1])
    return np.asarray(fitted.predict(logs[:, k].exp().numpy()))


@dataclass(frozen=True)
class Conformal:
    """By how much intervals are widened (or, below 0, narrowed) on each side, so that they hold ``level`` of new targets.

    Attributes:
        margin: in the units of the target.
        level: the share that is guaranteed.
        rows: it was fitted on.
    """

    margin: float
    level: float
    rows: int

    def predict(self, low: Any, high: Any) -> tuple[Tensor, Tensor]:
        """The intervals of new rows, ``(low - margin, high + margin)``.

        Where a margin below 0 would narrow an interval to less than nothing, both ends are its middle ``(low + high)/2``.
        """
        low, high = doubles(low, "low="), doubles(high, "high=")
        middle = (low + high) / 2
        return torch.minimum(low - self.margin, middle), torch.maximum(high + self.margin, middle)

    def __str__(self) -> str:
        most = self.level + 1.0 / (self.rows + 1.0)
        return (
            f"Intervals widened by {self.margin:g} on each side hold a new target with probability {self.level:g} to {most:.4g}, "
            f"on average over new rows and over the {self.rows} rows of calibration, if these are exchangeable; not for each kind "
            "of row by itself."
        )


@checked
def conformal(low: Any, high: Any, y: Any, level: ConfidenceLevel = 0.9, counts: Any = None) -> Conformal:
    """Widen a network's intervals so that they hold a new target with probability ``level``, whatever the network and the noise.

    The margin is the ``ceil((rows + 1) level)``-th smallest of ``max(low - y, y - high)``. If calibration rows and the new row
    are exchangeable, the probability, over both, is at least ``level`` and at most ``level + 1/(rows + 1)`` where no two scores
    are equal. That is a mean over all rows: an interval that is right on average may be too narrow for rows of one kind.

    Args:
        low, high: ends of intervals for rows that the network was not trained on, ``(rows,)``: of any level, since the margin
            makes up for it; for a point prediction both are the prediction.
        y: their targets, ``(rows,)``.
        counts: ``(rows,)`` > 0, how much each row counts, of new rows as of these; by default all alike. The rows are then worth
            ``(sum counts)^2 / sum counts^2``.
    Raises:
        DataError: shapes differ, numbers are not finite, or there are fewer than ``level / (1 - level)`` rows.
    Source:
        Romano, Patterson & Candès (2019), NeurIPS; Vovk, Gammerman & Shafer (2005).
    Example:
        >>> found = conformal([0.0] * 9, [0.0] * 9, [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9], 0.8)
        >>> round(found.margin, 3)
        0.8
    """
    low, high, y = doubles(low, "low="), doubles(high, "high="), doubles(y, "y=")
    counts = torch.ones_like(y) if counts is None else doubles(counts, "counts=")
    given = (low, high, y, counts)
    if len({one.shape for one in given}) > 1 or y.ndim != 1 or not all(bool(one.isfinite().all()) for one in given):
        raise DataError(
            "conformal needs low=, high=, y= and counts= as finite numbers of one shape (rows,); they have "
            f"{', '.join(str(tuple(one.shape)) for one in given)}."
        )
    if bool((counts <= 0).any()):
        raise DataError("conformal needs counts= above 0.")
    share = counts * counts.sum() / counts.square().sum()
    worth = float(share.sum())
    needed = (worth + 1) * level - 1e-9
    if needed > worth:
        raise DataError(
            f"An interval that holds {level:g} of new targets needs at least {math.ceil(level / (1.0 - level) - 1e-9)} rows of "
            f"calibration; there are {worth:.0f}. Give more rows, or a lower level."
        )
    off = torch.maximum(low - y, y - high)
    ordered, places = off.sort()
    rank = int(torch.searchsorted(share[places].cumsum(0), needed))
    return Conformal(float(ordered[min(rank, len(ordered) - 1)]), level, len(ordered))
