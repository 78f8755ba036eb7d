"""`risk_coverage`: which rows to leave to somebody else, so that of the others few are wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import DataError, require
from wellposed.data.arrays import doubles

STEPS = 20
"""Shares of the rows at which a threshold is tried, each with a part of the error that may happen."""


@dataclass(frozen=True)
class Selected:
    """A threshold: of rows whose score is above it, at most ``risk`` are wrong, with probability ``confidence``.

    Attributes:
        threshold: answer where the score is larger.
        coverage: the share of the rows that are answered; ``wrong``: the share of wrong ones among them, as seen.
        bound: the upper bound of the share that is wrong among new rows that are answered.
    """

    threshold: float
    coverage: float
    wrong: float
    bound: float
    confidence: float


@dataclass(frozen=True)
class RiskCoverage:
    """How many answers are wrong when the rows with the highest scores alone are answered.

    Attributes:
        scores: from the highest down. ``wrong``: whether each of these rows is.
    """

    scores: np.ndarray
    wrong: np.ndarray

    @property
    def coverage(self) -> np.ndarray:
        """``k/n`` for the ``k`` highest scores, k from 1 to n."""
        return np.arange(1, len(self.wrong) + 1) / len(self.wrong)

    @property
    def risk(self) -> np.ndarray:
        """The share that is wrong among the ``k`` highest scores."""
        return np.asarray(np.cumsum(self.wrong) / np.arange(1, len(self.wrong) + 1))

    @property
    def area(self) -> float:
        """The mean of `risk` over the coverages, by which scores of one network are compared; lower is better."""
        return float(self.risk.mean())

    @property
    def best(self) -> float:
        """The area of a score that puts every wrong row last: none is lower."""
        return RiskCoverage(self.scores, np.sort(self.wrong)).area

    @checked
    def threshold(self, risk: ConfidenceLevel, confidence: ConfidenceLevel = 0.95) -> Selected:
        """The largest share of rows that can be answered with at most ``risk`` of the answers wrong, with that confidence.

        At each of 20 shares the errors among the rows above the threshold are binomial, and their bound is Clopper and Pearson's at
        ``1 - (1 - confidence)/20``: all 20 hold together, so the largest whose bound is low enough may be chosen. Measure on rows
        that the network was not trained on, and the score not chosen by.

        Raises:
            DataError: no share has a bound that low.
        Source:
            Geifman & El-Yaniv (2017), NeurIPS, whose binary search is a fixed list here.
        """
        n, error = len(self.wrong), (1.0 - confidence) / STEPS
        least = 1.0
        for step in range(STEPS, 0, -1):
            rank = math.ceil(step * n / STEPS)
            limit = -math.inf if rank == n else float(self.scores[rank])
            above = int((self.scores > limit).sum())
            if above:
                wrong = int(self.wrong[:above].sum())
                special = require("scipy.special", "tables")
                bound = float(special.betaincinv(wrong + 1.0, above - wrong, 1.0 - error)) if wrong < above else 1.0
                least = min(least, bound)
                if bound <= risk:
                    return Selected(limit, above / n, wrong / above, bound, confidence)
        raise DataError(
            f"No threshold keeps the share of wrong answers below {risk:g} with confidence {confidence:g} on {n} rows; the lowest "
            f"bound is {least:.3g}. Give more rows, a larger risk=, or a better score."
        )


def risk_coverage(score: Any, wrong: Any) -> RiskCoverage:
    """The risk-coverage curve: rows are answered from the highest score down, and the others left out.

    Args:
        score: ``(rows,)``, higher is surer: a probability, or less an uncertainty.
        wrong: ``(rows,)``, whether the answer is wrong: 0 and 1, or booleans.
    Raises:
        DataError: shapes differ, there is no row, a score is NaN, or ``wrong`` is no 0 or 1.
    Example:
        >>> found = risk_coverage([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1])
        >>> found.risk.round(3).tolist(), found.area == found.best
        ([0.0, 0.0, 0.333, 0.5], True)
    """
    scores, errors = doubles(score, "score=").numpy(), doubles(wrong, "wrong=").numpy()
    fits = scores.shape == errors.shape and scores.ndim == 1 and len(scores) > 0
    if not fits or np.isnan(scores).any() or not np.isin(errors, (0.0, 1.0)).all():
        raise DataError(
            "risk_coverage needs score= and wrong= of one shape (rows,), with numbers in the first and 0 or 1 in the second; they "
            f"have {scores.shape} and {errors.shape}."
        )
    order = np.argsort(-scores, kind="stable")
    return RiskCoverage(scores[order], errors[order])
