"""Curves of one run as arrays, and pure functions that measure them: noise, trend, rise after the turning point, gap.

Every measure comes with an interval. Two kinds of noise are kept apart: from epoch to epoch (estimated from second
differences, so that a smooth trend does not count as noise), and from row to row (the standard errors of the losses,
where the source gives them; a plain log does not).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wellposed import logs
from wellposed.core.numbers import LARGEST
from wellposed.logs import Array
from wellposed.logs.column_names import NO_RATE
from wellposed.statistics.student import student_quantile

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals

Z = 1.96  # 95 % of a normal distribution lie within this many standard errors
LONGEST_WINDOW = 20  # averaging more epochs than this at the end would blur a late rise
FEWEST_BENT = 8  # values that a parabola is fitted to; fewer would follow their own noise
END_SHARE = 0.25  # the trend "at the end" is the one over the last quarter of the epochs
GAUSSIAN_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
SECOND_DIFFERENCE = math.sqrt(6.0)  # y[t-1] - 2 y[t] + y[t+1] of white noise has this many of its standard deviations
THIRD_DIFFERENCE = math.sqrt(20.0)
BENT = 2.0  # times as much noise by second differences as by third ones: the rest is a bend
# For noise with correlation r from epoch to epoch, the standard error of a window mean is that of white noise times this
# power of the ratio of differences over a window to those over one epoch: right or up to 30 % too wide for r up to .7.
SLOW_POWER = 2.4
REGRESSION_METRICS = frozenset((
    "r2", "rmse", "mse", "mae", "ppl", "perplexity", "psnr", "root_mean_squared_error", "mean_absolute_error", "mean_squared_error",
))  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """The curves of one run, all of equal length, one entry an epoch, NaN where unknown.

    ``facts`` is what the source says about itself (``constant_loss``, ``like_for_like``, ``regularized``, ...);
    ``signals`` is what was seen inside a Watch or a Run, None for logs.
    """

    epoch: Array
    train_loss: Array
    valid_loss: Array
    train_loss_se: Array
    valid_loss_se: Array
    train_metric: Array
    valid_metric: Array
    cost: Array
    penalty: Array
    grad_norm: Array
    weight_norm: Array
    zeros: Array
    lr: Array
    valid_rise: Array
    valid_rise_se: Array
    given: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: str = "curves"
    signals: Signals | None = None

    @classmethod
    def of(cls, source: Any, readers: Sequence[logs.Reader] = ()) -> Self:
        """The curves of a Watch, Run, History, frame, dict of lists, list of dicts, CSV file or run folder, or of what one of the
        readers knows.
        """
        if isinstance(source, cls):
            return source
        table = logs.read(source, readers)
        count = len(table.columns["epoch"])
        arrays = {name: table.columns.get(name, np.full(count, np.nan)) for name in ARRAYS}
        for name, y in arrays.items():  # what is too large to reckon with is infinite, as of a run that diverged
            if (large := np.abs(y) > LARGEST).any():
                arrays[name] = np.where(large, np.copysign(np.inf, y), y)
        inside = None
        if hasattr(source, "model") and hasattr(source, "history"):
            from wellposed.diagnosis.signals import Signals  # which needs torch, and logs do not

            inside = Signals.of(source)
        return cls(**arrays, given=frozenset(table.columns), facts=table.facts, source=table.name, signals=inside)

    def __len__(self) -> int:
        return len(self.epoch)

    @cached_property
    def train(self) -> Array:
        """The training losses that are finite, in order."""
        return finite_values(self.train_loss)

    @cached_property
    def valid(self) -> Array:
        """The validation losses that are finite, in order."""
        return finite_values(self.valid_loss)

    def fact(self, name: str) -> float | None:
        """A fact that is a finite number, or None."""
        value = self.facts.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)


ARRAYS = tuple(one.name for one in fields(Curves) if one.type == "Array")


def finite_values(y: Array) -> Array:
    """The finite entries, in order."""
    return y[np.isfinite(y)]


def window(count: int) -> int:
    """How many epochs are averaged for one level of a curve: a tenth of them, from 1 to 20."""
    return max(1, min(LONGEST_WINDOW, count // 10))


def running_median(values: Array) -> Array:
    """Running median of three, so that one spike is no level: ``(n,)`` to ``(n,)``. Under 12 values it returns them."""
    if len(values) < 12:
        return values
    lower, upper = np.minimum(values[:-2], values[1:-1]), np.maximum(values[:-2], values[1:-1])
    middle = np.maximum(lower, np.minimum(upper, values[2:]))
    return np.concatenate([middle[:1], middle, middle[-1:]])


def end(y: Array) -> float:
    """The level at the end: the mean of the last `window` known values, single spikes taken out; NaN without any."""
    values = running_median(finite_values(y))
    return float(values[-window(len(values)) :].mean()) if len(values) else math.nan


def start(y: Array) -> float:
    """The level before training got anywhere: the median of the first three known values of a long curve, so that
    one spike says nothing; the first value of a short one."""
    values = finite_values(y)
    return float(np.median(values[: 3 if len(values) >= 30 else 1])) if len(values) else math.nan


STEEP = 0.5  # of all that follows: a fall of one epoch that is larger is the beginning


def progress(y: Array, reference: float | None = None) -> float:
    """How far a curve came down once it had begun: from its first value (or the reference, if that is lower) to its lowest.

    An untrained network's loss may be anything: without a reference, epochs of the first quarter whose fall alone is more than half
    of all the rest are not counted, so that what follows them is measured by what it does itself.
    """
    values = finite_values(y)
    if len(values) == 0:
        return 0.0
    low, first = float(values.min()), 0
    for at in range(len(values) // 4 if reference is None else 0):
        if values[at] - values[at + 1] > STEEP * (values[at] - low) > 0:
            first = at + 1
    top = float(values[first]) if reference is None else min(reference, float(values[first]))
    return max(top - low, 0.0)


def whole_progress(y: Array) -> float:
    """From the first value of a curve down to its lowest."""
    values = finite_values(y)
    return max(float(values[0] - values.min()), 0.0) if len(values) else 0.0


WIDE = 3.0  # a positive curve that spans this factor is straight in logarithms, if anywhere


def falls_throughout(y: Array) -> bool:
    """Whether the later half of a curve (at least its last five values) falls so steadily that no noise explains it, and its
    lowest value is its last."""
    values = finite_values(y)
    later = values[-max(5, len(values) // 2) :]
    return is_ordered(later) and int(later.argmin()) == len(later) - 1


def is_ordered(values: Array) -> bool:
    """Whether values fall, one after the other, more often than chance has it (Kendall's tau, 5 %); False under five."""
    count = len(values)
    if count < 5:
        return False
    tau = falling_pairs(values) / (count * (count - 1) / 2)
    return tau * math.sqrt(9 * count * (count - 1) / (2 * (2 * count + 5))) >= 1.645


def falling_pairs(values: Array) -> int:
    """How many pairs of values fall, less those that rise, in a time of ``n log(n)^2``: two ranks are told apart by their highest
    different bit, and at each bit the high ones before the low ones of equal higher bits are counted."""
    ranks = np.unique(values, return_inverse=True)[1]
    falling = 0
    for bit in range(int(ranks.max()).bit_length()):
        ordered = ranks[np.argsort(ranks >> bit + 1, kind="stable")]
        first = np.searchsorted(ordered >> bit + 1, ordered >> bit + 1)  # of the same higher bits
        high = ordered >> bit & 1
        highs = np.concatenate([[0], np.cumsum(high)])
        highs_before, before = highs[:-1] - highs[first], np.arange(len(high)) - first
        falling += int(np.where(high, highs_before - before, highs_before).sum())
    return falling


def running_mean(values: Array, width: int) -> Array:
    """Means of every ``width`` consecutive values: ``(n,)`` to ``(n - width + 1,)``."""
    if width <= 1:
        return values
    total = np.cumsum(np.concatenate([[0.0], values]))
    return np.asarray((total[width:] - total[:-width]) / width)


def noise(y: Array, lag: int = 1) -> float:
    """Standard deviation of the epoch-to-epoch noise: the scaled median of absolute second differences at ``lag``.

    A straight trend cancels exactly and outliers do not move a median. Rounded curves, where most differences are 0,
    fall back on the mean. 0 where fewer than ``2 * lag + 1`` values are known. In a few epochs a steep start and a turn are
    most of the curve, and their bend is no noise: there third differences, of which a parabola has none, are taken if they are
    much less.
    """
    values = finite_values(y)
    if len(values) < 2 * lag + 1:
        return 0.0
    bent = values[2 * lag :] - 2 * values[lag:-lag] + values[: -2 * lag]
    found = _scaled_median(bent) / SECOND_DIFFERENCE
    if lag == 1 and FEWEST_BENT - 2 <= len(values) < 2 * FEWEST_BENT:
        straight = _scaled_median(np.diff(bent)) / THIRD_DIFFERENCE
        return straight if found > BENT * straight else found  # the less of two estimates would be too small
    return found


def _scaled_median(rest: Array) -> float:
    """Standard deviation of normal numbers from the median of their sizes; from the mean, where most are 0."""
    size = np.abs(rest)
    middle = float(np.median(size)) * GAUSSIAN_MAD
    return middle if middle > 0 else float(size.mean()) * math.sqrt(math.pi / 2)


def swings(y: Array) -> tuple[float, float]:
    """How far a curve swings about a parabola, over its last quarter (at least 7 values) and over as many before.

    Scaled medians of absolute residuals, so that single spikes play no part and swings of any period up to a quarter of
    the epochs count; widened for the three numbers that a parabola takes. A sudden fall is no swing. Zeros where fewer
    than 14 values are known.
    """
    values = finite_values(y)
    values = np.concatenate([values[: len(values) // 2], without_last_step(values[len(values) // 2 :])])
    count = max(7, len(values) // 4)
    if len(values) < 2 * count:
        return 0.0, 0.0
    quarters = np.stack([values[-count:], values[-2 * count : -count]])
    now, before = np.median(np.abs(without_parabola(quarters)), axis=1) * GAUSSIAN_MAD * math.sqrt(count / (count - 3))
    return float(now), float(before)


def without_parabola(rows: Array) -> Array:
    """What a parabola leaves of each row: ``(curves, n)`` to ``(curves, n)``."""
    x = np.arange(rows.shape[1]) - (rows.shape[1] - 1) / 2
    basis = np.stack([np.ones(len(x)), x, x * x - float(x @ x) / len(x)])
    basis /= np.sqrt((basis * basis).sum(axis=1, keepdims=True))
    return np.asarray(rows - (rows @ basis.T) @ basis)


def common(a: Array, b: Array) -> float:
    """Correlation of what two curves have besides a parabola over their second halves; 0 under 8 common epochs."""
    both = np.isfinite(a) & np.isfinite(b)
    half = np.stack([a[both], b[both]])[:, int(both.sum()) // 2 :]
    if half.shape[1] < 8:
        return 0.0
    unit = np.abs(half).max(axis=1, keepdims=True)
    rest = without_parabola(half / np.where(unit > 0, unit, 1.0))
    size = np.sqrt((rest * rest).sum(axis=1))
    return float(rest[0] @ rest[1] / (size[0] * size[1])) if size.min() > 1e-12 else 0.0


FEWEST_AFTER = 6  # epochs after a sudden fall that tell whether it goes on
STEP = 6.0  # times the usual change, and times the noise: the largest of a few dozen changes of noise is 3 to 4 times the usual


def last_step(values: Array) -> tuple[int, int] | None:
    """A sudden fall that stands alone, as after a drop of the learning rate: where it begins, and where it is over.

    The change from a short window to the one after the next is compared with the changes elsewhere and with the noise; and a
    fall that goes on before it or after it by a quarter as much from one window to the next is no sudden one.
    """
    width = max(4, len(values) // 12)
    if len(values) < 6 * width:
        return None
    means = running_mean(values, width)
    change = means[2 * width :] - means[: -2 * width]
    deepest = int(change.argmin())
    elsewhere = np.abs(np.concatenate([change[: max(deepest - 2 * width, 0)], change[deepest + 2 * width :]]))
    if len(elsewhere) < width or not change[deepest] < 0 or deepest < width:
        return None
    around = [means[deepest] - means[deepest - width], *(means[deepest + 3 * width :][:1] - means[deepest + 2 * width])]
    if min(around) < change[deepest] / 4:
        return None
    usual = max(float(np.median(elsewhere)), noise(values) * math.sqrt(2 / width))
    return (deepest + width, deepest + 2 * width) if -change[deepest] > STEP * usual else None


def without_last_step(values: Array) -> Array:
    """The curve without its sudden fall: what lies before is brought to the level after it, what falls is left out."""
    step = last_step(values)
    if step is None:
        return values
    begins, ends = step
    width = max(4, len(values) // 12)
    fall = float(values[ends : ends + width].mean() - values[begins - width : begins].mean())
    return np.concatenate([values[:begins] + fall, values[ends:]])


def level_se(y: Array) -> float:
    """Standard error of a `window` mean on this curve, from the epoch-to-epoch noise of its second half.

    White noise shrinks with the root of the window. Where differences over a window are wider than over one epoch, the
    fluctuation is slow and shrinks less, see `SLOW_POWER`, until a whole window counts as one value. A sudden fall is no
    noise, see `without_last_step`.
    """
    values = finite_values(y)
    width = window(len(values))
    later = values[len(values) // 2 :] if len(values) >= 12 else values
    later = without_last_step(later)
    fast, lag = noise(later), max(width, 4)
    slow = noise(later, lag) if len(later) >= 4 * lag else 0.0  # in less, a bend of the curve would look like noise
    if slow <= fast:
        return fast / math.sqrt(width)
    if fast * 100 < slow:
        return slow
    return min(slow, fast / math.sqrt(width) * math.pow(slow / fast, SLOW_POWER))


def reference_level(curves: Curves) -> float:
    """The loss without learning: the constant prediction's; else the higher of both curves' starts, NaN without any."""
    constant = curves.fact("constant_loss")
    return float(np.fmax(start(curves.train_loss), start(curves.valid_loss))) if constant is None else constant


CHANCE = tuple(map(math.log, (2, 3, 10, 100, 1000)))
"""What cross-entropy is where every class is as likely, for the numbers of classes that people have."""


def chance_level(curves: Curves) -> float | None:
    """``ln K``, where the loss of a side rests from early on, and neither came below it by a fiftieth later on; else None.

    A network that gives every row the same answer has this loss; so has one that learned until then, but it would not begin there.
    Besides the numbers of classes that are usual, the one that a score of chance tells is tried.
    """
    constant = curves.fact("constant_loss")
    sides = [values for values in (curves.train, curves.valid) if len(values) >= 3]
    if not sides or not is_classification(curves):
        return None
    error = error_rate(curves, "valid")
    right = 1 - end(error) if error is not None else 0.0
    classes = round(1 / right) if right > 0.001 else 0
    of_score = [math.log(classes)] if classes > 1 and abs(classes * right - 1) < 0.1 else []  # 25 % right, as of four
    for level in (*CHANCE, *of_score):
        later = min(float(values[len(values) // 3 :].min()) for values in sides)
        learned = later < 0.98 * level or float(sides[0][0]) > 1.5 * level
        # The constant of a few rows may lie beside the level.
        other = constant is not None and abs(constant - level) > RISE_OF_BEST * level
        late = [values[len(values) // 3 :] for values in sides]
        rests = any(abs(np.median(y) - level) <= 0.005 * level and np.std(y) <= 0.02 * level for y in late)
        if rests and not learned and not other:
            return level
    return None


def lowest_valid(curves: Curves) -> float:
    """The lowest validation loss; a training loss below it is of rows that are fitted. Minus infinity where none is known."""
    return float(curves.valid.min()) if len(curves.valid) else -math.inf


APART, BELOW, STAYS = 10.0, 0.4, 3.0


def scales_apart(curves: Curves) -> float | None:
    """Validation over training loss at the end, where both cannot be on one scale; else None.

    That is `APART` times or more, or less than `BELOW`, at the first epoch and at the last, by a factor that stays within `STAYS`:
    before anything is learned a network is as good on both sides, and a gap grows with time.
    """
    both = np.isfinite(curves.train_loss) & np.isfinite(curves.valid_loss)
    train, valid = curves.train_loss[both], curves.valid_loss[both]
    if len(train) < 2 or min(train.min(), valid.min()) <= 0:
        return None
    first, last = float(valid[0]) / float(train[0]), float(end(valid)) / float(end(train))
    apart = min(first, last) >= APART or max(first, last) <= BELOW
    return last if apart and first <= STAYS * last and last <= STAYS * first < math.inf else None


def began_late(curves: Curves) -> bool:
    """Whether the log begins long after training did, as its numbers of epochs say: the start of a tail is no reference."""
    known = finite_values(curves.epoch)
    return len(known) > 1 and bool(known[0] > 2 * float(np.median(np.diff(known))) + 1)


def best_index(curves: Curves) -> int | None:
    """Position of the lowest validation loss (training loss where there is none); None where no loss is finite."""
    for y in (curves.valid_loss, curves.train_loss):
        if np.isfinite(y).any():
            return int(np.where(np.isfinite(y), y, np.inf).argmin())
    return None


@dataclass(frozen=True)
class Trend:
    """Slope of a curve over its last ``epochs``; ``gain`` is by how much the fit fell over them (> 0: falls)."""

    gain: float
    low: float
    high: float
    late_gain: float
    epochs: int
    se: float = math.inf

    @property
    def surely(self) -> float:
        """How surely it falls, where ``gain`` is above 0; a loss below what a float tells apart from 0 falls half as surely."""
        return normal(Z * self.gain / max(self.gain - self.low, 1e-12 * abs(self.gain), sys.float_info.min))

    def keeps(self, share: float) -> bool:
        """Whether the second half fell at no less than ``share`` of the pace, give or take a standard error of its own (half
        of the epochs know a slope ``2 ** 1.5`` times worse)."""
        return self.late_gain + 2**1.5 * self.se >= share * self.gain


def trend(y: Array, of: int | None = None) -> Trend:
    """Least squares over the last quarter (at least 4 known values), with an interval widened for autocorrelation.

    The residuals of neighbouring epochs resemble each other, so ``n`` of them count as ``n (1 - r) / (1 + r)`` with
    ``r`` their lag-1 correlation. ``late_gain`` is the gain over the second half alone, on the same scale: a curve that
    levels off has a small one. The quarter is one of ``of`` epochs, where ``y`` is the beginning of a longer curve. After a
    sudden fall within it, the trend is that of what comes after, where that is long enough to have one.
    """
    values = finite_values(y)
    count = min(len(values), max(5 if len(values) >= 10 else 4, round(END_SHARE * (of or len(values)))))
    half = len(values) // 2
    if step := last_step(values[half:]):
        after = len(values) - half - step[1]
        count = after if FEWEST_AFTER <= after < count else count
    if count < 3:
        return Trend(0.0, -math.inf, math.inf, 0.0, count)
    last = values[-count:]
    slope, se, dof = _line(last)
    if last.min() > 0 and last.max() > WIDE * last.min():  # in logarithms its bend is none
        steep, error, dof = _line(np.log(last))
        se = abs(slope) * error / abs(steep) if steep else se
    wide = student_quantile(0.975, dof) * se
    late = _line(values[-max(count // 2, 2) :])[0] if count >= 6 else slope
    span = count - 1
    return Trend(-slope * span, (-slope - wide) * span, (-slope + wide) * span, -late * span, count, se * span)


def _line(values: Array) -> tuple[float, float, float]:
    """Slope, its standard error and degrees of freedom, of values against their position."""
    unit = float(np.abs(values).max()) or 1.0
    slope, se, dof = _unit_line(values / unit)  # squares of very large or small losses would leave the numbers
    return slope * unit, se * unit, dof


def _unit_line(values: Array) -> tuple[float, float, float]:
    count = len(values)
    x = np.arange(count) - (count - 1) / 2
    spread = float(x @ x)
    slope = float(x @ values) / spread
    rest, fitted = values - values.mean() - slope * x, 2
    if count >= FEWEST_BENT:  # a bend is no noise
        bend = x * x - float(x @ x) / count
        rest, fitted = rest - float(bend @ values) / float(bend @ bend) * bend, 3
    squares = float(rest @ rest)
    if count < 3 or squares <= 1e-24 * float(values @ values):  # on a line, up to rounding
        return slope, 0.0, max(count - 2.0, 1.0)
    r = min(max(float(rest[1:] @ rest[:-1]) / squares, 0.0), 0.9)
    effective = max(count * (1 - r) / (1 + r), fitted + 1.0)
    dof = max(effective - fitted, 1.0)
    return slope, math.sqrt(squares / dof / spread), round(dof, 1)


@dataclass(frozen=True)
class Gap:
    """Validation minus training loss at the end, with a 95 % interval.

    ``rows`` is whether the interval covers the sampling of validation rows too.
    """

    estimate: float
    se: float
    rows: bool

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.estimate - Z * self.se

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.estimate + Z * self.se


@dataclass(frozen=True)
class Rise(Gap):
    """By how much a curve ended above its lowest level.

    ``material`` is the smallest rise that would matter, ``epochs`` how long ago the lowest level was.
    """

    material: float
    epochs: int

    @property
    def belief(self) -> float:
        """Probability that the rise matters, the threshold itself being uncertain by half its size."""
        if not math.isfinite(self.estimate) or self.material <= 0:
            return 0.0
        return normal((self.estimate - self.material) / math.hypot(self.se, self.material / 2))


def normal(z: float) -> float:
    """``P(Z <= z)`` of a standard normal variable."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


TOO_NOISY = 0.5  # of an error rate: where it may have grown by so much, nobody knows whether the answers got worse
FEW_POINTS = 0.1  # of the rows: less is a small change, however uncertain
RISE_OF_BEST = 0.05  # a loss a twentieth above its best is what people see in a plot and what early stopping gains
RISE_OF_PROGRESS = 0.02  # and where the best is near zero, a fiftieth of what training had achieved


def material_rise(y: Array, reference: float | None = None) -> float:
    """The smallest rise above the lowest level that would matter: a share of that level, and of the progress made.

    Both are ratios, so that the unit of the loss plays no part. ``reference`` is the level without learning; the start
    of the curve where it is not known. Losses that cross zero (densities) are judged by the progress alone.
    """
    values = finite_values(y)
    if len(values) == 0:
        return math.nan
    best = float(running_mean(running_median(values), window(len(values))).min())
    progress = max((start(y) if reference is None else reference) - best, 0.0)
    if best <= 0:
        return RISE_OF_BEST * max(progress, float(np.ptp(values)))
    return max(RISE_OF_BEST * best, RISE_OF_PROGRESS * progress)


def rise(y: Array, reference: float | None = None) -> Rise:
    """How far the end lies above the lowest level, corrected for having picked the lowest of many noisy levels.

    The minimum of ``m`` levels that noise alone could have made lowest lies about ``sqrt(2 ln m)`` standard errors too
    low; this is taken off the estimate.
    """
    values = finite_values(y)
    if len(values) < 3:
        return Rise(math.nan, math.inf, False, material_rise(y, reference), 0)
    width, se = window(len(values)), level_se(y)
    levels = running_mean(running_median(values), width)
    lowest = int(levels.argmin())
    rivals = np.count_nonzero(levels <= levels[lowest] + 2 * Z * se) / width
    estimate = float(levels[-1] - levels[lowest]) - se * math.sqrt(2 * math.log(max(rivals, 1.0)))
    both = math.sqrt(2.0) * se  # noise at the end and at the lowest level
    return Rise(estimate, both, False, material_rise(y, reference), len(levels) - 1 - lowest)


def valid_rise(curves: Curves) -> Rise:
    """`rise` of the validation loss, with the sampling of rows where paired differences on the same rows are known."""
    plain = rise(curves.valid_loss, curves.fact("constant_loss"))
    paired, errors = finite_values(curves.valid_rise), finite_values(curves.valid_rise_se)
    if len(paired) < 3 or len(errors) == 0 or not math.isfinite(plain.estimate):
        return plain
    return replace(plain, se=math.hypot(plain.se, float(errors[-1])), rows=True)


def generalization_gap(curves: Curves) -> Gap:
    """The generalization gap of the loss at the end: ``valid - train``, both as `end` levels."""
    estimate = end(curves.valid_loss) - end(curves.train_loss)
    errors = [finite_values(e) for e in (curves.train_loss_se, curves.valid_loss_se)]
    rows = all(len(e) for e in errors)
    se = math.hypot(level_se(curves.valid_loss), level_se(curves.train_loss), *(float(e[-1]) for e in errors if len(e)))
    return Gap(estimate, se, rows)


def is_classification(curves: Curves) -> bool:
    """Whether the metric is a rate of hits or misses, as far as the source tells."""
    task, metric = str(curves.facts.get("task", "")).lower(), str(curves.facts.get("metric", "")).lower()
    return "regression" not in task and metric not in REGRESSION_METRICS | NO_RATE


def error_rate(curves: Curves, side: str) -> Array | None:
    """The metric of ``side`` (``train`` or ``valid``) as an error in [0, 1], lower is better; None if it is not one."""
    y = curves.train_metric if side == "train" else curves.valid_metric
    values, higher = finite_values(y), bool(curves.facts.get("higher_is_better", True))
    if len(values) == 0 or not is_classification(curves) or values.min() < 0 or np.isinf(y).any():
        return None
    scale = 1.0 if values.max() <= 1 or (not higher and np.median(values) <= 1) else 100.0
    if values.max() > (scale if higher else 5 * scale):
        return None
    return 1 - y / scale if higher else np.minimum(y / scale, 1.0)  # words put in make more errors than there are words


def chance_error(curves: Curves) -> float | None:
    """The error of the constant prediction, in [0, 1]; None where it is not known."""
    chance = curves.fact("chance_metric")
    if chance is None or not 0 <= chance <= 1 or not is_classification(curves):
        return None
    return 1 - chance if curves.facts.get("higher_is_better", True) else chance


def error_rise(curves: Curves) -> Rise | None:
    """By how much the validation *error* rose since the best *loss*; None where no error rate is known, or one so noisy
    that it may have grown by half, or not at all: it says nothing about the answers.

    The comparison point was chosen by the loss, so nothing has to be corrected for a choice. Of ``n`` rows at least
    ``n * |rise|`` changed sides, which bounds the sampling error from below (McNemar).
    """
    error = error_rate(curves, "valid")
    best = best_index(curves)
    if error is None or best is None or len(finite_values(error)) < 3:
        return None
    width = window(len(finite_values(error)))
    around = finite_values(error[max(0, best - width // 2) : best + width // 2 + 1])
    if len(around) == 0:
        return None
    base, last = float(around.mean()), end(error)
    rows = curves.fact("valid_rows")
    estimate, se = last - base, math.sqrt(2.0) * level_se(error)
    if rows:
        se = math.hypot(se, math.sqrt(max(abs(estimate), 1 / rows) / rows))
    if estimate <= Z * se and estimate + Z * se > max(TOO_NOISY * max(base, last), FEW_POINTS):
        return None
    material = RISE_OF_BEST * max(base, 1e-9)
    return Rise(estimate, se, rows is not None, material, len(error) - 1 - best)


@dataclass(frozen=True)
class RelativeError:
    """What is left of what the constant prediction leaves: 1 is no learning, 0 is no error. ``of`` says of which."""

    train: float
    valid: float
    of: str
    certain: bool


def remaining(curves: Curves) -> RelativeError | None:
    """The error at the end as a share of the constant prediction's: of the error rate, else of the loss.

    ``certain`` is whether the constant prediction is known; otherwise the start of training stands in for it, which a
    log that begins after its first epoch understates.
    """
    train, valid = error_rate(curves, "train"), error_rate(curves, "valid")
    if train is not None and valid is not None:
        # An untrained network makes the most errors; a log that begins later is taken to have begun at a coin's toss.
        known = chance_error(curves)
        reference = known or max(*(float(finite_values(rate).max()) for rate in (train, valid)), 0.5)
        return RelativeError(end(train) / reference, end(valid) / reference, "error", bool(known))
    constant, values = curves.fact("constant_loss"), curves.train
    reference = constant if constant is not None else float(values[0]) if len(values) else math.nan
    if len(values) == 0 or values.min() < 0 or not reference > 0:
        return None
    losses = end(curves.train_loss), end(curves.valid_loss)
    return RelativeError(losses[0] / reference, losses[1] / reference, "loss", constant is not None)
