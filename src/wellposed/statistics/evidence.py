"""Is b better than a? A paired interval over rows and seeds, which are crossed: every seed is judged on every row.

    difference[row, seed] = mean + row effect + seed effect + row-by-seed effect

The variance of the mean is ``(MS_rows + MS_seeds - MS_interaction) / (rows * seeds)``. Five seeds on eight hundred rows
are neither four thousand independent numbers nor five: which of the two limits is said with the interval, and how many
would show a gain that is not shown. ``docs/derivations/evidence.md`` has the proofs and what was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wellposed.core.checks import checked
from wellposed.core.errors import DataError, InputError, listed
from wellposed.logs import csv_columns

Array = npt.NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-12  # a probability of exactly 0 for the true class costs -log of this, not infinity
ROW_NAMES = ("row", "id", "row_id")
POWER = 0.8  # the probability with which a gain of the estimated size is to be shown
MOST_PAIRS, MOST_ROWS = 1_000, 10_000_000  # beyond these nobody trains or collects; they are said in the sentence


@lru_cache(maxsize=4096)
def student_quantile(p: float, dof: float) -> float:
    """The ``t`` with ``P(T <= t) = p`` under Student's distribution with ``dof`` degrees of freedom.

    Args:
        p: inside (0, 1).
        dof: > 0, need not be whole.
    Raises:
        InputError: ``p`` or ``dof`` is outside its range.
    """
    if not (0 < p < 1 and dof > 0):
        raise InputError(f"student_quantile needs 0 < p < 1 and dof > 0; given p = {p}, dof = {dof}.")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -student_quantile(1 - p, dof)
    low, high = 0.0, 2.0
    while student_tail(high, dof) > 1 - p:
        low, high = high, 2 * high
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if student_tail(middle, dof) > 1 - p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def student_tail(t: float, dof: float) -> float:
    """``P(T > t)`` for ``t >= 0``: half the regularized incomplete beta ``I_x(dof/2, 1/2)``, at
    ``x = dof/(dof + t^2)``.
    """
    if dof > 1e8:  # the logarithms of the gamma functions cancel there, and the normal distribution is exact to 1e-9
        return 0.5 * math.erfc(t / math.sqrt(2))
    return 0.5 * _incomplete_beta(dof / 2, 0.5, dof / (dof + t * t), t * t / (dof + t * t))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """``I_x(a, b)`` with ``rest = 1 - x`` given apart, so that nothing cancels near x = 1."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    if x < (a + 1) / (a + b + 2):  # the continued fraction converges fast on this side; the other by symmetry
        return math.exp(log_front) * _beta_fraction(a, b, x) / a
    return 1 - math.exp(log_front) * _beta_fraction(b, a, rest) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, evaluated by the modified Lentz method."""
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


@dataclass(frozen=True)
class Interval:
    """A mean difference and where it lies with probability ``level``.

    ``pairs`` is the number of seeds, ``rows`` of rows, ``limited_by`` what twice as many of would narrow the interval
    more, ``squares`` the mean squares ``(MS_rows, MS_seeds, MS_interaction)``; with one seed or one row that of the other alone.
    """

    estimate: float
    low: float
    high: float
    level: float
    pairs: int
    rows: int
    limited_by: Literal["rows", "seeds"]
    squares: tuple[float, float, float]

    @property
    def shown(self) -> bool:
        """Whether the difference is above zero at this level, whichever the seeds: one seed shows nothing of others."""
        return self.low > 0 and self.covers_seeds

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval speaks of training again, and not of these very models only."""
        return self.pairs > 1

    @cached_property
    def dof(self) -> float:
        """The degrees of freedom at which Student's quantile, times the standard error, is half the interval."""
        p, one, other = (1 + self.level) / 2, self.rows - 1, self.pairs - 1
        if min(one, other) < 1:
            return float(max(one, other))
        total = _total(self.squares)
        if total <= 0:
            return float(min(one, other))
        half = _half_width(self.squares, self.rows, self.pairs, p)
        return _degrees_of(half * math.sqrt(self.rows * self.pairs / total), p, one, other)

    @cached_property
    def needs(self) -> Needs:
        """How many pairs or rows would show a gain of this size at this level."""
        return self.needed()

    def needed(self, again: float | None = None) -> Needs:
        """`needs`, where more pairs on the same rows are another look and so are judged at the level ``again``.

        Args:
            again: inside (0, 1); None is the interval's own level.
        Raises:
            InputError: ``again`` is outside (0, 1).
        """
        return _needs(self, self.level if again is None else _checked_level(again))

    def to_dict(self) -> dict[str, Any]:
        """``{"estimate", "low", "high", "level", "pairs", "rows", "dof", "limited_by", "shown", "needs"}``."""
        names = ("estimate", "low", "high", "level", "pairs", "rows", "dof", "limited_by", "shown")
        return {**{name: getattr(self, name) for name in names}, "needs": self.needs.to_dict()}


def crossed_interval(differences: npt.ArrayLike, level: float = 0.95) -> Interval:
    """A t interval for the mean of ``differences[row, seed]``, with rows and seeds crossed random effects.

    ``half^2 = (t_seeds^2 * MS_seeds + t_rows^2 * max(MS_rows - MS_interaction, 0)) / (rows * seeds)``, and at least
    ``t_rows^2 * MS_rows / (rows * seeds)``, where ``t`` is Student's quantile at one less than that many degrees of
    freedom. (With fewer rows than seeds they change places.) On the side to which the rows are skewed ``t_rows`` is
    longer by Johnson's term.

    Args:
        differences: ``(rows, seeds)`` or ``(rows,)`` for one seed, finite. With one seed only the rows are covered.
        level: inside (0, 1); near 1 the interval is widest.
    Raises:
        DataError: not finite, not one or two axes, or fewer than two rows and two seeds.
        InputError: ``level`` is outside (0, 1).
    Source:
        Searle, Casella & McCulloch (1992), Variance Components, for the mean squares; Banerjee (1961), Sankhya A 23, for the
        sum of squared quantiles; Johnson (1978), JASA 73, for the skewness.
    """
    d = _checked(differences)
    p = (1 + _checked_level(level)) / 2
    rows, seeds = d.shape
    if rows < 2 and seeds < 2:
        raise DataError(f"An interval needs at least 2 rows or 2 seeds; given {rows} row and {seeds} seed.")
    estimate = float(d.mean())
    squares = mean_squares(d)
    skew = _skewness(d.mean(axis=1))
    below = _half_width(squares, rows, seeds, p, max(-skew, 0.0))
    above = _half_width(squares, rows, seeds, p, max(skew, 0.0))
    side = _limited_by(squares, rows, seeds, p)
    return Interval(estimate, estimate - below, estimate + above, level, seeds, rows, side, squares)


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level must lie inside (0, 1); given {level}.")
    return level


def _checked(differences: npt.ArrayLike) -> Array:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim == 1:
        d = d[:, None]
    if d.ndim != 2 or d.size == 0:
        raise DataError(f"Differences need the shape (rows, seeds) or (rows,); given {d.shape}.")
    if not np.isfinite(d).all():
        raise DataError(f"{int((~np.isfinite(d)).sum())} of {d.size} differences are not finite numbers.")
    return d


def mean_squares(d: Array) -> tuple[float, float, float]:
    """``(MS_rows, MS_seeds, MS_interaction)`` of a two-way table ``(rows, seeds)`` without replication.

    Of a single seed or a single row they are 0, but for the mean square of the other.
    """
    rows, seeds = d.shape
    row_effect = d.mean(axis=1, keepdims=True) - d.mean()
    seed_effect = d.mean(axis=0, keepdims=True) - d.mean()
    rest = d - d.mean() - row_effect - seed_effect
    return (
        seeds * float((row_effect**2).sum()) / max(rows - 1, 1),
        rows * float((seed_effect**2).sum()) / max(seeds - 1, 1),
        float((rest**2).sum()) / max((rows - 1) * (seeds - 1), 1) if min(rows, seeds) > 1 else 0.0,
    )


def _skewness(values: Array) -> float:
    """The adjusted third standardized moment of the rows' means; 0 for fewer than three rows, or equal ones."""
    rows = len(values)
    centred = values - values.mean()
    variance = float((centred**2).mean())
    scale = math.sqrt(variance)
    if rows < 3 or scale <= 1e-12 * float(np.abs(values).max()):
        return 0.0
    return float(((centred / scale) ** 3).mean()) * math.sqrt(rows * (rows - 1)) / (rows - 2)


def _half_width(squares: tuple[float, float, float], rows: int, seeds: int, p: float, skew: float = 0.0) -> float:
    """Half the interval: the distance to the end on the side to which the rows have the skewness ``skew`` >= 0.

    A weighted mean of the two quantiles, or Satterthwaite's degrees of freedom, cover too rarely with two or three
    seeds at high levels (3 times the error at 99.8 %): they trust a seed variance that is small by chance. The sum
    of squares covers at least at its level, whatever the mixture.
    """
    of_rows, of_seeds, both = squares
    t_rows = _row_quantile(p, rows, skew)
    t_seeds = student_quantile(p, seeds - 1) if seeds > 1 else 0.0
    if rows < seeds:
        of_rows, of_seeds, t_rows, t_seeds = of_seeds, of_rows, t_seeds, t_rows
    most = max(t_seeds**2 * of_seeds + t_rows**2 * max(of_rows - both, 0.0), t_rows**2 * of_rows)
    return math.sqrt(most / (rows * seeds))


def _row_quantile(p: float, rows: int, skew: float) -> float:
    """Student's quantile for the rows with Johnson's term ``skew * (1 + 2 t^2) / (6 sqrt(rows))``."""
    if rows < 2:
        return 0.0
    t = student_quantile(p, rows - 1)
    return t + skew * (1 + 2 * t * t) / (6 * math.sqrt(rows))


def _total(squares: tuple[float, float, float]) -> float:
    """The variance of the mean times ``rows * seeds``, never below the larger of its two parts."""
    of_rows, of_seeds, both = squares
    return max(of_rows + of_seeds - both, of_rows, of_seeds)


def _limited_by(squares: tuple[float, float, float], rows: int, seeds: int, p: float) -> Literal["rows", "seeds"]:
    """What twice as many of would narrow the interval more."""
    if rows < 2 or seeds < 2:
        return "rows" if seeds < 2 else "seeds"
    parts = _components(squares, rows, seeds)
    more_rows = _half_width(_expected(parts, 2 * rows, seeds), 2 * rows, seeds, p)
    more_seeds = _half_width(_expected(parts, rows, 2 * seeds), rows, 2 * seeds, p)
    return "rows" if more_rows <= more_seeds else "seeds"


def _components(squares: tuple[float, float, float], rows: int, seeds: int) -> tuple[float, float, float]:
    """The variances of the row, seed and row-by-seed effects, none below zero."""
    of_rows, of_seeds, both = squares
    return max(of_rows - both, 0.0) / seeds, max(of_seeds - both, 0.0) / rows, both


def _expected(parts: tuple[float, float, float], rows: int, seeds: int) -> tuple[float, float, float]:
    """The mean squares to be expected of that many rows and seeds."""
    row, seed, rest = parts
    return seeds * row + rest, rows * seed + rest, rest


def _degrees_of(quantile: float, p: float, one: int, other: int) -> float:
    """The degrees of freedom between ``one`` and ``other`` at which Student's quantile is ``quantile``."""
    low, high = float(min(one, other)), float(max(one, other))
    for _ in range(20):
        middle = math.sqrt(low * high)  # the quantile changes fast at few degrees of freedom
        if student_tail(quantile, middle) > 1 - p:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


@dataclass(frozen=True)
class Needs:
    """What it takes to show a gain of the size that was estimated, with probability ``power`` at the interval's level.

    Args:
        gain: the estimate; where it is not above zero there is nothing to show, and the numbers are None.
        smallest: the smallest gain that the comparison as it is would have shown with that probability.
        pairs: how many paired seeds on the present rows; None where no number up to `MOST_PAIRS` would, or where one
            seed does not say how much seeds matter.
        rows: how many rows with the present seeds; None where no number up to `MOST_ROWS` would.
        both: the pairs and rows that would together, in the present proportion, where neither would alone.
        power: inside (0, 1).
    """

    gain: float
    smallest: float
    pairs: int | None = None
    rows: int | None = None
    both: tuple[int, int] | None = None
    power: float = POWER

    def to_dict(self) -> dict[str, Any]:
        """``{"gain", "smallest", "pairs", "rows", "both", "power"}``, ``both`` as ``[pairs, rows]`` or None."""
        both = None if self.both is None else list(self.both)
        names = ("gain", "smallest", "pairs", "rows")
        return {**{name: getattr(self, name) for name in names}, "both": both, "power": self.power}

    def sentence(self, pairs: int, rows: int, smallest: str) -> str:
        """What more would show the gain, and what the comparison could have shown, in one sentence.

        Args:
            pairs, rows: of the comparison as it is.
            smallest: `smallest` as people write it, with its unit.
        """
        here = f"the smallest gain that {_seeds(pairs)} on {_amount(rows, 'row')} would have shown is {smallest}"
        if self.gain <= 0:
            return f"There is no gain to show; {here}, {self._chance}."
        return f"{self._way(pairs, rows)}, {self._chance}; {here}."

    @property
    def _chance(self) -> str:
        return f"with probability {self.power:.4g}"

    def _way(self, pairs: int, rows: int) -> str:
        size, here, these = "a gain of this size", f"on these {_amount(rows, 'row')}", f"with these {_seeds(pairs)}"
        if pairs < 2:
            these = "between these two models"  # and whatever the rows, nothing is shown of other seeds
        if self.pairs and self.rows:
            more = f"about {_rounded(self.rows)} rows {these}"
            return f"About {_rounded(self.pairs)} pairs of seeds {here} would show {size}, or {more}"
        if self.rows and pairs < 2:
            return f"About {_rounded(self.rows)} rows would show {size} {these}"
        if self.rows:
            none = f"No number of seeds up to {MOST_PAIRS:,} would show {size} {here}"
            return f"{none}; about {_rounded(self.rows)} rows {these} would"
        none = f"No number of rows up to {MOST_ROWS:,} would show {size} {these}"
        if self.pairs:
            return f"{none}; about {_rounded(self.pairs)} pairs of seeds {here} would"
        if self.both:
            together = f"about {_rounded(self.both[0])} pairs of seeds on {_rounded(self.both[1])} rows would"
            return f"Neither more seeds nor more rows alone would show {size}; {together}"
        return none if pairs < 2 else f"{none}, nor would any number of seeds up to {MOST_PAIRS:,} {here}"


def _seeds(pairs: int) -> str:
    return "one pair of seeds" if pairs == 1 else f"{pairs:,} pairs of seeds"


def _amount(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _rounded(count: int) -> str:
    """Up to two digits: more would be a claim that the estimate does not carry."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{-(-count // unit) * unit:,}"


def _needs(interval: Interval, again: float) -> Needs:
    """The power calculation of `Interval.needed`; more pairs are judged at the level ``again``."""
    pairs, rows, gain = interval.pairs, interval.rows, interval.estimate
    parts = _components(interval.squares, rows, pairs)
    smallest = _smallest_gain(parts, rows, pairs, interval.level)
    if gain <= 0:
        return Needs(gain, smallest)

    def with_pairs(count: int) -> bool:
        return power(gain, parts, rows, count, again) >= POWER

    def with_rows(count: int) -> bool:
        return power(gain, parts, count, pairs, interval.level) >= POWER

    def with_both(count: int) -> bool:
        return power(gain, parts, -(-rows * count // pairs), count, interval.level) >= POWER

    from_pairs, from_rows = (2, 2) if interval.shown else (pairs + 1, rows + 1)
    more_pairs = _first(with_pairs, from_pairs, MOST_PAIRS) if pairs > 1 else None
    more_rows = _first(with_rows, from_rows, MOST_ROWS) if rows > 1 else None
    more_of_both = None
    if more_pairs is None and more_rows is None and min(pairs, rows) > 1:
        count = _first(with_both, pairs + 1, max(min(MOST_PAIRS, MOST_ROWS * pairs // rows), 1))
        more_of_both = None if count is None else (count, -(-rows * count // pairs))
    return Needs(gain, smallest, more_pairs, more_rows, more_of_both)


def _first(holds: Callable[[int], bool], start: int, most: int) -> int | None:
    """The smallest whole number from ``start`` to ``most`` from which on ``holds`` is true; None if there is none."""
    if start > most or not holds(most):
        return None
    low, step, high = start - 1, 1, start
    while high < most and not holds(high):
        low, step = high, 2 * step
        high = min(start + step, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _smallest_gain(parts: tuple[float, float, float], rows: int, seeds: int, level: float) -> float:
    """The gain that is shown with probability `POWER`, by bisection."""
    low, high = 0.0, math.sqrt(_variance(parts, rows, seeds))
    if high == 0:
        return 0.0
    while power(high, parts, rows, seeds, level) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, parts, rows, seeds, level) < POWER else (low, middle)
    return high


def _variance(parts: tuple[float, float, float], rows: int, seeds: int) -> float:
    row, seed, rest = parts
    return row / rows + seed / seeds + rest / (rows * seeds)


def power(gain: float, parts: tuple[float, float, float], rows: int, seeds: int, level: float) -> float:
    """The probability that the interval of that many rows and seeds lies above 0: ``E Phi((gain - half) / sd)``.

    The mean square of the fewer (seeds, as a rule) is averaged over its distribution, the other is near its mean.

    Args:
        gain: the true mean difference.
        parts: variances of the row, seed and row-by-seed effects, each >= 0.
        rows, seeds: >= 1, at least one of them >= 2.
        level: inside (0, 1).
    """
    spread, p = math.sqrt(_variance(parts, rows, seeds)), (1 + level) / 2
    if spread == 0:
        return float(gain > 0)
    of_rows, of_seeds, both = _expected(parts, rows, seeds)
    if rows == 1 or seeds == 1:
        squares = (0.0, rows * seeds * spread**2, 0.0) if rows == 1 else (rows * seeds * spread**2, 0.0, 0.0)
        return _normal((gain - _half_width(squares, rows, seeds, p)) / spread)
    total = 0.0
    for share, weight in _chi_squares(min(rows, seeds) - 1):
        squares = (of_rows, of_seeds * share, both) if seeds <= rows else (of_rows * share, of_seeds, both)
        total += weight * _normal((gain - _half_width(squares, rows, seeds, p)) / spread)
    return total


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


@lru_cache(maxsize=4096)
def _chi_squares(dof: int) -> list[tuple[float, float]]:
    """Values of chi-square by ``dof`` and their probabilities: 80 midpoints of its root, whose density is smooth."""
    centre = math.sqrt(dof)
    roots = np.linspace(max(centre - 5, 0.0), centre + 5, 81)
    roots = (roots[1:] + roots[:-1]) / 2
    log_density = (dof - 1) * np.log(roots) - roots**2 / 2
    weights = np.exp(log_density - log_density.max())
    return list(zip((roots**2 / dof).tolist(), (weights / weights.sum()).tolist(), strict=True))


def look_level(looks: int, alpha: float = 0.05) -> float:
    """The level of look number ``looks`` at the same confirmation rows: ``1 - alpha / 2**looks``.

    Over any number of looks the chance of a false claim stays below ``alpha``.

    Args:
        looks: >= 1, the first look is 1.
        alpha: inside (0, 1), the chance of a false claim over all looks together.
    Raises:
        InputError: either is outside its range.
    """
    if looks < 1 or not 0 < alpha < 1:
        raise InputError(f"look_level needs looks >= 1 and 0 < alpha < 1; given looks = {looks}, alpha = {alpha}.")
    return 1 - alpha / 2.0 ** min(looks, 40)  # beyond 40 looks the level would round to 1


@dataclass(frozen=True)
class Comparison:
    """How much better b is than a, on the same rows, with its interval; ``score`` names what one row contributes."""

    interval: Interval
    score: str = "score"
    note: str = ""

    @property
    def shown(self) -> bool:
        """Whether b is better than a at the interval's level; with one seed, whether these two models are."""
        return self.interval.low > 0

    def to_dict(self) -> dict[str, Any]:
        """The interval's numbers with ``score`` and ``note``; ``shown`` is that of the comparison."""
        return {**self.interval.to_dict(), "shown": self.shown, "score": self.score, "note": self.note}

    def __str__(self) -> str:
        i = self.interval
        numbers = f"{100 * i.level:.4g}% interval {_digits(i.low)} to {_digits(i.high)}"
        seeds = "1 seed" if i.pairs == 1 else f"{i.pairs} seeds"
        basis = f"{seeds} x {i.rows} rows; {i.limited_by} limit"
        if self.shown:
            text = f"b is better than a by {_digits(i.estimate)} {self.score} ({numbers}; {basis})."
        elif i.high < 0:
            text = f"b is worse than a by {_digits(-i.estimate)} {self.score} ({numbers}; {basis})."
        else:
            needs = i.needs.sentence(i.pairs, i.rows, f"{_digits(i.needs.smallest)} {self.score}")
            text = f"Not shown: b minus a is {_digits(i.estimate)} {self.score} ({numbers}; {basis}). {needs}"
        return f"{text} {self.note}".rstrip()


def _digits(value: float) -> str:
    return f"{value:.3f}" if 0.0095 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


@checked
def compare(a: Any, b: Any, *, on: str = "valid", level: float = 0.95) -> Comparison:
    """Paired evidence that ``b`` is better than ``a``: the mean of ``score_b - score_a`` over rows and seeds.

    Seeds are paired where both sides have the same ones; otherwise in the given order, which is said in the note.

    Args:
        a, b: a Run or a list of Runs; a CSV file of predictions; or scores where higher is better: an array or tensor
            ``(rows,)`` or ``(rows, seeds)``, or a list of arrays ``(rows,)``, one per seed. A file has ``target`` and
            either ``prediction`` (labels: 1 for a hit, 0 for a miss; numbers: minus the squared error), ``prediction_0
            ...`` for several seeds, or ``p_<class>`` (log of the target's probability). With a column ``row`` or ``id``
            in both, rows are matched by it.
        on: the part of the data that runs are scored on, ``valid`` or ``test``. Arrays and files ignore it.
        level: inside (0, 1).
    Raises:
        DataError: the two sides do not have the same rows or number of seeds, or cannot be read.
        InputError: the two sides are of different kinds.
    """
    left, right = _kind(a), _kind(b)
    if left != right:
        raise InputError(f"compare needs two of one kind; given {left} and {right}.")
    if left == "files":
        return _compare_files(Path(a), Path(b), level)
    if left == "runs":
        return _compare_runs(_listed(a), _listed(b), on, level)
    return _compare_arrays(_scores(a), _scores(b), level)


def _kind(side: Any) -> str:
    if isinstance(side, (str, Path)):
        return "files"
    if hasattr(side, "row_scores") or (
        isinstance(side, (list, tuple)) and len(side) > 0 and all(hasattr(run, "row_scores") for run in side)
    ):
        return "runs"
    return "arrays"


def _listed(side: Any) -> list[Any]:
    return list(side) if isinstance(side, (list, tuple)) else [side]


def _scores(side: Any) -> Array:
    if isinstance(side, (list, tuple)) and len(side) > 0:
        if all(getattr(seed, "ndim", None) == 1 for seed in side):
            return _of_seeds([_numbers(seed) for seed in side])
        if all(isinstance(seed, (list, tuple)) for seed in side):
            raise InputError(
                "compare cannot tell rows from seeds in a list of lists; give an array (rows, seeds), or a list of arrays "
                "(rows,), one per seed."
            )
        side = [_numbers(row) for row in side]  # numbers, or tensors of one
    scores = _numbers(side)
    return scores[:, None] if scores.ndim == 1 else scores


def _of_seeds(columns: list[Array]) -> Array:
    """``(rows, seeds)`` of one array for each seed."""
    rows = {len(column) for column in columns}
    if len(rows) > 1:
        raise DataError(f"compare needs the same rows for every seed; the arrays have {listed(sorted(rows))} rows.")
    return np.stack(columns, axis=1)


def _numbers(side: Any) -> Array:
    """In double precision on the CPU; tensors may require a gradient."""
    if hasattr(side, "detach"):
        side = side.detach().cpu().double()
    try:
        return np.asarray(side, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"compare cannot read a {type(side).__name__}; give Runs, CSV files of predictions, or scores of rows."
        ) from None


def _compare_arrays(a: Array, b: Array, level: float, score: str = "score", note: str = "") -> Comparison:
    if a.ndim != 2 or b.ndim != 2:
        raise DataError(f"Scores need the shape (rows,) or (rows, seeds); given {a.shape} and {b.shape}.")
    if a.shape[0] != b.shape[0]:
        raise DataError(f"compare needs the same rows on both sides; a has {a.shape[0]} rows, b has {b.shape[0]}.")
    if a.shape[1] != b.shape[1]:
        raise DataError(f"compare pairs seeds; a has {a.shape[1]}, b has {b.shape[1]}. Train both on the same seeds.")
    interval = crossed_interval(b - a, level)
    if not interval.covers_seeds:
        note = f"{note} One seed: this speaks of these two models, not of training again.".strip()
    return Comparison(interval, score, note)


def _compare_runs(a: list[Any], b: list[Any], on: str, level: float) -> Comparison:
    if len(a) != len(b):
        raise DataError(f"compare pairs runs by seed; a has {len(a)} runs, b has {len(b)}. Train both on equal seeds.")
    seeds_a, seeds_b = ([getattr(run, "seed", None) for run in side] for side in (a, b))
    note = ""
    if len(set(seeds_a)) == len(a) and set(seeds_a) == set(seeds_b):
        b = [b[seeds_b.index(seed)] for seed in seeds_a]
    else:
        note = "The seeds differ, so the runs were paired in the given order."
    columns = [[np.asarray(run.row_scores(on), dtype=np.float64).ravel() for run in side] for side in (a, b)]
    rows = {len(column) for side in columns for column in side}
    if len(rows) > 1:
        raise DataError(f"The runs were scored on different numbers of '{on}' rows: {listed(sorted(rows))}.")
    left, right = (np.stack(side, axis=1) for side in columns)
    return _compare_arrays(left, right, level, _metric_of(a[0]), note)


def _metric_of(run: Any) -> str:
    facts = getattr(getattr(run, "history", None), "facts", None)
    name = facts.get("metric") if isinstance(facts, Mapping) else None
    return str(name) if name else "score"


@dataclass(frozen=True)
class _Predictions:
    """A file of predictions, its rows in the file's order."""

    path: Path
    columns: dict[str, list[str]]

    @property
    def keys(self) -> list[str] | None:
        name = next((name for name in ROW_NAMES if name in self.columns), None)
        return None if name is None else self.columns[name]

    @property
    def predicted(self) -> list[str]:
        """Names of the columns of predictions, one a seed, in the order of their numbers."""
        numbered = [name for name in self.columns if re.fullmatch(r"prediction_\d+", name)]
        plain = ["prediction"] if "prediction" in self.columns else []
        return plain or sorted(numbered, key=lambda name: int(name.split("_")[1]))

    @property
    def classes(self) -> list[str]:
        return [name[2:] for name in self.columns if name.startswith("p_") and len(name) > 2]

    def reordered(self, order: Sequence[int]) -> _Predictions:
        return _Predictions(self.path, {name: [cells[i] for i in order] for name, cells in self.columns.items()})


def _read_predictions(path: Path) -> _Predictions:
    file = _Predictions(path, csv_columns(path))
    if "target" not in file.columns or not (file.predicted or file.classes):
        raise DataError(
            f"'{path}' needs the column 'target' and 'prediction' (or prediction_0 ..., or p_<class>); "
            f"found: {listed(file.columns, 12)}."
        )
    return file


def _compare_files(a: Path, b: Path, level: float) -> Comparison:
    left, right = _aligned(_read_predictions(a), _read_predictions(b))
    if left.predicted and right.predicted:
        numeric = not (_labels(left) and _labels(right))
        score = _squared_error if numeric else _hits
        name = "squared error" if numeric else "accuracy"
        return _compare_arrays(score(left), score(right), level, name)
    if left.classes and right.classes:
        return _compare_arrays(_log_likelihood(left), _log_likelihood(right), level, "log-likelihood")
    raise DataError(f"'{a}' and '{b}' need the same kind of columns: 'prediction' in both, or 'p_<class>' in both.")


def _aligned(left: _Predictions, right: _Predictions) -> tuple[_Predictions, _Predictions]:
    """Both files in the same order of rows, with the same targets."""
    if left.keys is not None and right.keys is not None:
        right = right.reordered(_order(left, right))
    targets, others = left.columns["target"], right.columns["target"]
    if len(targets) != len(others):
        raise DataError(f"'{left.path}' has {len(targets)} rows, '{right.path}' {len(others)}; equal ones are needed.")
    for row, (one, other) in enumerate(zip(targets, others, strict=True), 1):
        if one != other and not _same_number(one, other):
            raise DataError(
                f"The targets differ in row {row}: {one!r} in '{left.path}', {other!r} in '{right.path}'. Both files "
                "need the same rows in the same order, or a column 'id' to match them by."
            )
    return left, right


def _order(left: _Predictions, right: _Predictions) -> list[int]:
    keys, others = left.keys or [], right.keys or []
    for file, names in ((left, keys), (right, others)):
        if len(set(names)) < len(names):
            raise DataError(f"'{file.path}' names a row more than once in its column of rows.")
    where = {key: index for index, key in enumerate(others)}
    if where.keys() != set(keys):
        alone = [repr(row) for row in sorted(where.keys() ^ set(keys))]
        raise DataError(f"'{left.path}' and '{right.path}' do not have the same rows; in one only: {listed(alone, 4)}.")
    return [where[key] for key in keys]


def _same_number(one: str, other: str) -> bool:
    first, second = _float(one), _float(other)
    return first is not None and first == second


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _labels(file: _Predictions) -> bool:
    """Whether predictions are class labels: text, or whole numbers that all occur among whole targets."""
    targets = [_float(cell) for cell in file.columns["target"]]
    if any(value is None for value in targets):
        return True
    known = set(targets)
    predictions = {_float(cell) for name in file.predicted for cell in file.columns[name]}
    return all(value is not None and value == math.floor(value) for value in known) and predictions <= known


def _hits(file: _Predictions) -> Array:
    targets = file.columns["target"]
    columns = [
        [cell == target or _same_number(cell, target) for cell, target in zip(file.columns[name], targets, strict=True)]
        for name in file.predicted
    ]
    return np.array(columns, dtype=np.float64).T


def _squared_error(file: _Predictions) -> Array:
    columns = [[_float(cell) for cell in file.columns[name]] for name in ("target", *file.predicted)]
    values = np.array(columns, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"'{file.path}' has a target or a prediction that is not a finite number.")
    return np.asarray(-((values[1:] - values[0]) ** 2).T)


def _log_likelihood(file: _Predictions) -> Array:
    scores = []
    for row, target in enumerate(file.columns["target"]):
        if f"p_{target}" not in file.columns:
            raise DataError(f"'{file.path}' has the target {target!r} in row {row + 1} but no column 'p_{target}'.")
        probability = _float(file.columns[f"p_{target}"][row])
        if probability is None or not 0 <= probability <= 1:
            raise DataError(f"'{file.path}' has a probability outside [0, 1] in row {row + 1}.")
        scores.append(math.log(max(probability, SMALLEST_PROBABILITY)))
    return np.array(scores, dtype=np.float64)[:, None]
