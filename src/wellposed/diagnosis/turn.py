"""When validation turned, for how long, by how much it rose, and whether the error rose with the loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.logs import Array

FEWEST = 3  # values that can show a turning point: a level before it, its own, and one after


@dataclass(frozen=True)
class Turn:
    """A turning point of the validation loss.

    Args:
        epoch: of the lowest level, as the source numbers it (a step where the curves run along steps).
        epoch_low, epoch_high: the epochs between which every level might be the lowest, but for the noise.
        since: how many epochs (or evaluations) were logged after it.
        rise: by how much the loss ended above the lowest level; ``low`` and ``high`` bound it at 95 %.
        percent: the rise in per cent of the lowest level; None where that is not above 0.
        percent_low, percent_high: its interval.
        certain: the interval of the rise lies above 0.
        matters: it is certain, and at least what early stopping would be worth (a twentieth of the lowest level).
        error_rise: by how much the error rate rose since the best loss, from 0 to 1; None where it is not known.
        error_low, error_high: its interval.
        disagree: the loss rose by an amount that matters and the error did not; None where no error is known.
    """

    epoch: float
    epoch_low: float
    epoch_high: float
    since: int
    rise: float
    low: float
    high: float
    percent: float | None
    percent_low: float | None
    percent_high: float | None
    certain: bool
    matters: bool
    error_rise: float | None = None
    error_low: float | None = None
    error_high: float | None = None
    disagree: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, ready for JSON."""
        return asdict(self)

    def says(self, axis: str = "epoch") -> str:
        """One or two plain sentences."""
        half, last = (self.high - self.low) / 2, f"{self.since} {_counted(axis, self.since)}"
        share = "" if self.percent is None else f" ({self.percent:.3g} %)"
        if not self.certain:
            return (
                f"Validation may have turned at {axis} {self.epoch:g}, {last} before the end: it ended "
                f"{self.rise:.3g} ± {half:.2g} higher, and the noise is as large."
            )
        where = "" if self.epoch_low == self.epoch_high else f" (between {self.epoch_low:g} and {self.epoch_high:g})"
        said = (
            f"Validation turned at {axis} {self.epoch:g}{where}, {last} before the end, and rose by "
            f"{self.rise:.3g} ± {half:.2g}{share}{'' if self.matters else ', too little to matter'}."
        )
        if self.error_rise is not None and self.error_low is not None and self.error_high is not None:
            moved = f"by {self.error_rise:+.3g} ± {(self.error_high - self.error_low) / 2:.2g}"
            said += (
                f" Loss and error disagree: the error changed {moved} meanwhile."
                if self.disagree
                else f" The error changed with it, {moved}."
            )
        return said


def _counted(axis: str, count: int) -> str:
    word = "epoch" if axis == "epoch" else "evaluation"
    return word if count == 1 else f"{word}s"


def turn(curves: Curves) -> Turn | None:
    """The turning point of the validation loss, or None: too few values, or it ended at its lowest level."""
    at = np.flatnonzero(np.isfinite(curves.valid_loss))
    rise = measure.valid_rise(curves)
    if len(at) < FEWEST or not math.isfinite(rise.estimate) or rise.estimate <= 0 or rise.epochs == 0:
        return None
    values = measure.steady(curves.valid_loss[at])
    width = measure.window(len(at))
    levels = measure.running_mean(values, width)
    lowest = int(levels.argmin())
    first, last = _as_low(levels, lowest, math.sqrt(2) * measure.Z * measure.level_se(curves.valid_loss))
    epoch, low, high = (float(curves.epoch[at[i + (width - 1) // 2]]) for i in (lowest, first, last))
    level = float(levels[lowest])
    unit = 100 / level if level > 0 else None
    error = measure.error_rise(curves)
    matters = rise.low > 0 and rise.estimate >= rise.material
    return Turn(
        epoch, low, high, rise.epochs, rise.estimate, rise.low, rise.high,
        percent=None if unit is None else unit * rise.estimate,
        percent_low=None if unit is None else unit * rise.low,
        percent_high=None if unit is None else unit * rise.high,
        certain=rise.low > 0, matters=matters,
        error_rise=None if error is None else error.estimate,
        error_low=None if error is None else error.low,
        error_high=None if error is None else error.high,
        disagree=None if error is None else matters and not (error.low > 0 and error.estimate >= error.material),
    )  # fmt: skip


def _as_low(levels: Array, lowest: int, margin: float) -> tuple[int, int]:
    """The stretch around the lowest level in which no level is clearly above it."""
    high = np.flatnonzero(levels > levels[lowest] + margin)
    before, after = high[high < lowest], high[high > lowest]
    return int(before[-1]) + 1 if len(before) else 0, int(after[0]) - 1 if len(after) else len(levels) - 1
