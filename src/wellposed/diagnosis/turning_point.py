"""When validation turned, for how long, by how much it rose, and whether the error rose with the loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves

EXACT = 1e-6  # of a number: less is rounding, of single precision too
FEWEST = 3  # values that can show a turning point: a level before it, its own, and one after


@dataclass(frozen=True)
class Turn:
    """A turning point of the validation loss.

    Args:
        epoch: of the lowest level, as the source numbers it (a step where the curves run along steps).
        epoch_low, epoch_high: the first and the last epoch whose level might be the lowest, but for the noise.
        since: how long before the last validation it was, in epochs (steps where the curves run along steps).
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
    since: float
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
        last = f"{format_place(self.since)} {axis}{'' if self.since == 1 else 's'}"
        turned = f"{axis} {format_place(self.epoch)}"
        share = "" if self.percent is None else f" ({self.percent:.3g} %)"
        rose = give_or_take(self.rise, self.low, self.high)
        if not self.certain:
            return (
                f"Validation may have turned at {turned}, {last} before the end: it ended "
                f"{rose} higher, and the noise is as large."
            )
        low, high = format_place(self.epoch_low), format_place(self.epoch_high)
        where = "" if low == high else f" (between {low} and {high})"
        said = (
            f"Validation turned at {turned}{where}, {last} before the end, and rose by "
            f"{rose}{share}{'' if self.matters else ', too little to matter'}."
        )
        if self.error_rise is not None and self.error_low is not None and self.error_high is not None:
            moved = f"by {give_or_take(self.error_rise, self.error_low, self.error_high, '+.3g')}"
            together = f" The error changed with it, {moved}."
            said += f" Loss and error disagree: the error changed {moved} meanwhile." if self.disagree else together
        return said


def format_place(place: float) -> str:
    """An epoch or a step as people write it: whole ones in full, however large; broken epochs to four digits."""
    return f"{place:.0f}" if place == round(place) else f"{place:.4g}"


def give_or_take(estimate: float, low: float, high: float, digits: str = ".3g") -> str:
    """``0.34 ± 0.05``; the number alone where its interval is as narrow as rounding makes it: nothing was noisy."""
    half = (high - low) / 2
    noisy = math.isfinite(half) and half > EXACT * abs(estimate)
    return f"{estimate:{digits}} ± {half:.2g}" if noisy else f"{estimate:{digits}}"


def turn(curves: Curves) -> Turn | None:
    """The turning point of the validation loss, or None: too few values, or it ended at its lowest level."""
    at = np.flatnonzero(np.isfinite(curves.valid_loss))
    rise = measure.valid_rise(curves)
    if len(at) < FEWEST or not math.isfinite(rise.estimate) or rise.epochs == 0:
        return None
    if rise.estimate <= EXACT * abs(measure.end(curves.valid_loss)):
        return None
    values = measure.running_median(curves.valid_loss[at])
    width = measure.window(len(at))
    levels = measure.running_mean(values, width)
    lowest = int(levels.argmin())
    level = float(levels[lowest])
    picked = max(float(levels[-1]) - level - rise.estimate, 0.0)  # by how much the lowest of many lies too low
    as_low = np.flatnonzero(levels <= level + picked + math.sqrt(2) * measure.Z * measure.level_se(curves.valid_loss))
    epoch, low, high = (float(curves.epoch[at[i + (width - 1) // 2]]) for i in (lowest, as_low[0], as_low[-1]))
    rose = rise.estimate, rise.low, rise.high
    share, least, most = (100 / level * end if level > 0 else None for end in rose)
    matters, error = rise.low > 0 and rise.estimate >= rise.material, measure.error_rise(curves)
    found = Turn(
        epoch, low, high, float(curves.epoch[at[-1]]) - epoch, *rose, share, least, most, rise.low > 0, matters
    )
    if error is None:
        return found
    disagree = matters and not (error.low > 0 and error.estimate >= error.material)
    return replace(found, error_rise=error.estimate, error_low=error.low, error_high=error.high, disagree=disagree)
