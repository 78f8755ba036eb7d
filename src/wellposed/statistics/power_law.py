"""A power law with a floor, fitted so that few and noisy sizes cannot lead it astray, and what it says beyond them.

    loss(n) = L ((1 - s) + s (n/N)^-c),    0 <= s <= 1 the share of the loss at N rows that more rows can take away

The share and the rate ``c`` lie on a grid, ``L`` is solved for: every shape has a likelihood, and what is said is a mixture
over all shapes. Where the sizes cannot tell a floor from a slow rate, as they often cannot, both are in the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from wellposed.core.errors import InputError

Array = npt.NDArray[np.float64]

RATES: Array = np.geomspace(0.05, 4.0, 48)
"""From the slowest that was reported for networks (.07 for language models: Kaplan et al. 2020, Hestness et al. 2017) to four times
the rate 1 of a well-specified parametric model, since the loss of an overfitted network falls faster than any classical rate
where rows are few; equally likely on the scale of the logarithm."""
SHARES: Array = np.linspace(0.0, 1.0, 41)
"""Of what lies above the lowest possible floor: from nothing that rows could take away to all of it; equally likely."""
LARGEST_FLOOR = 0.99
"""Share of the loss at N: a little room is left where training and other rows have the same loss."""
FEWEST_SIZES = 4
"""Three numbers are fitted, and one size must be left that could contradict them."""
PRIOR_RUNS = 4.0
"""How many runs the spread common to all sizes counts for, beside those of a size: that of few runs is hardly known."""
MISFIT = 0.01
"""Relative standard deviation of a curve about the law at the largest size, and as much again for each halving of the rows: no
curve of a network is a power law to better than a percent, and what is asked for lies beyond the largest size, not the smallest."""
SHAPE = 0.25
"""Standard deviation of a gain about what the law says of it, as a share of it: curves bend beyond their sizes, where no fit sees
it. On 46 curves of tables and images any share from .2 to .33 made the intervals hold equally many."""


@dataclass(frozen=True)
class Prediction:
    """What the law says of a number of rows, with its 95 % interval."""

    estimate: float
    low: float
    high: float

    def wider(self, *errors: float) -> Prediction:
        """With these standard errors too, which have nothing to do with those in it or each other."""
        half = 1.96 * math.hypot(*errors)
        below, above = math.hypot(self.estimate - self.low, half), math.hypot(self.high - self.estimate, half)
        return Prediction(self.estimate, self.estimate - below, self.estimate + above)


@dataclass(frozen=True)
class PowerLaw:
    """The probability of each shape of a power law, given the losses.

    Attributes:
        rows: the largest size, N.
        weight, scale, spread: ``(shapes,)``: probability of each shape, its L and the standard deviation of that.
        share, rate: ``(shapes,)``.
    """

    rows: float
    weight: Array
    scale: Array
    spread: Array
    share: Array
    rate: Array

    def shapes(self, rows: float) -> Array:
        """The loss at ``rows`` as a share of that at the largest size, ``(shapes,)``."""
        return (1 - self.share) + self.share * (rows / self.rows) ** -self.rate

    def at(self, rows: float, level: float = 0.95) -> Prediction:
        """The loss at a number of rows > 0."""
        return self._mixture(self.shapes(rows), level)

    def gain(self, rows: float, level: float = 0.95) -> Prediction:
        """By how much the loss at a number of rows is below that at N, if the curve is such a law; see `SHAPE`."""
        return self._mixture(1 - self.shapes(rows), level)

    @property
    def floor(self) -> float:
        """The mean of the loss that no number of rows goes below."""
        return float((self.weight * self.scale * (1 - self.share)).sum())

    def _mixture(self, times: Array, level: float) -> Prediction:
        centre, spread = self.scale * times, np.maximum(self.spread * np.abs(times), 1e-300)
        low, high = (_quantile(self.weight, centre, spread, p) for p in ((1 - level) / 2, (1 + level) / 2))
        return Prediction(float((self.weight * centre).sum()), low, high)


def fit_power_law(sizes: Sequence[float], losses: npt.ArrayLike, floor: float = 0.0) -> PowerLaw:
    """The posterior over shapes, given losses of several runs at several sizes.

    Args:
        floor: >= 0, a loss that no number of rows goes below, such as the training loss at N: it rises with rows, to where the
            loss of other rows falls to. More than the loss at N is taken as nearly that.
        sizes: ``(sizes,)`` numbers of rows > 0, at least `FEWEST_SIZES`, rising.
        losses: ``(sizes, runs)`` of at least two runs, finite and > 0.
    Raises:
        InputError: fewer sizes or runs, or losses that no power law can have.
    """
    n, table = np.asarray(sizes, dtype=float), np.asarray(losses, dtype=float)
    if table.ndim != 2 or len(n) != len(table) or len(n) < FEWEST_SIZES or table.shape[1] < 2:
        raise InputError(
            f"A power law needs at least {FEWEST_SIZES} sizes with 2 runs each; it was given {table.shape} losses of {len(n)}."
        )
    if not (np.isfinite(table).all() and (table.mean(1) > 0).all() and (np.diff(n) > 0).all() and n[0] > 0):
        raise InputError("A power law needs finite mean losses above 0 and sizes that rise from above 0.")
    means, errors = table.mean(1), standard_errors(n, table)
    room = 1 - min(max(floor / float(means[-1]), 0.0), LARGEST_FLOOR)
    share, rate = (grid.ravel() for grid in np.meshgrid(room * SHARES, RATES, indexing="ij"))
    shape = (1 - share) + share * (n[:, None] / n[-1]) ** -rate  # (sizes, shapes)
    weights = 1 / errors[:, None] ** 2
    precision = (weights * shape**2).sum(0)
    scale = (weights * shape * means[:, None]).sum(0) / precision
    misfit = (weights * (means[:, None] - scale * shape) ** 2).sum(0)
    # The spread is estimated, by so many degrees of freedom: Student's likelihood in place of the normal one. Where even the
    # best shape misses by more, the spread is larger than the runs say, and is taken to be that of the misses.
    dof = len(n) * (table.shape[1] - 1)
    more = max(1.0, float(misfit.min()) / (len(n) - 3))
    log = -0.5 * (dof + len(n) - 1) * np.log1p(misfit / more / dof) - 0.5 * np.log(precision) - np.log(scale)
    weight = np.exp(log - log.max())
    return PowerLaw(float(n[-1]), weight / weight.sum(), scale, np.sqrt(more / precision), share, rate)


def standard_errors(sizes: Array, table: Array) -> Array:
    """Of the mean at each size: its own spread, drawn to the relative spread that is common to all, and the misfit."""
    means, runs = table.mean(1), table.shape[1]
    own = table.var(axis=1, ddof=1)
    common = float((own / means**2).mean()) * means**2
    variance = ((runs - 1) * own + PRIOR_RUNS * common) / (runs - 1 + PRIOR_RUNS)
    misfit = MISFIT * (1 + np.log2(sizes[-1] / sizes)) * means
    found: Array = np.sqrt(variance / runs + misfit**2)
    return found


def _quantile(weight: Array, centre: Array, spread: Array, p: float) -> float:
    """Of a mixture of normal distributions, by halving."""
    low, high = float((centre - 10 * spread).min()), float((centre + 10 * spread).max())
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.special.ndtr(torch.from_numpy((middle - centre) / spread)).numpy()
        low, high = (middle, high) if float((weight * below).sum()) < p else (low, middle)
        if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
            break
    return (low + high) / 2
