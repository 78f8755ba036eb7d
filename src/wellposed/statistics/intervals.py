"""Intervals for a mean difference over rows and seeds, which are crossed: every seed is judged on every row.

    difference[row, seed] = mean + row effect + seed effect + row-by-seed effect

The variance of the mean is ``(MS_rows + MS_seeds - MS_interaction) / (rows * seeds)``. Five seeds on eight hundred rows
are neither four thousand independent numbers nor five: which of the two limits is said with the interval, and how many
would show a gain that is not shown. ``docs/derivations/evidence.md`` has the proofs and what was measured.

A claim rests on `paired_interval`, which an exact test widens where few rows differ; several claims at once on `holm`;
scores of folds on `fold_interval`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wellposed.core.errors import DataError, InputError
from wellposed.statistics.student import student_quantile

POWER = 0.8  # the probability with which a gain of the estimated size is to be shown


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

    @property
    def holds_zero(self) -> bool:
        """Whether no difference at all is among what the interval holds, so that neither side may be called better."""
        return self.low <= 0 <= self.high

    @property
    def standard_error(self) -> float:
        """The square root of the variance of the mean, never below the larger of its two parts, whatever widened the interval."""
        of_rows, of_seeds, both = self.squares
        return math.sqrt(max(of_rows + of_seeds - both, of_rows, of_seeds) / (self.rows * self.pairs))

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
        """``{"estimate", "low", "high", "level", "pairs", "rows", "limited_by", "shown", "needs"}``."""
        names = ("estimate", "low", "high", "level", "pairs", "rows", "limited_by", "shown")
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


def paired_interval(differences: npt.ArrayLike, level: float = 0.95) -> Interval:
    """`crossed_interval` for a claim: where it leaves out 0 and an exact test of the rows does not, it is widened to both sides
    of 0, as far as the largest difference of a row.

    Student's quantiles trust the spread of a few rows: two rows that are both gained have none, and six hits against one of
    eight rows are called a gain 1.5 times as often as promised. The exact test turns the signs of the rows' differences in
    every way (of hits it is McNemar's); below `fewest_rows` it shows nothing, whatever the differences. A single row has no
    such test: there the interval speaks of the seeds.

    Args:
        differences, level: as in `crossed_interval`.
    Raises:
        DataError, InputError: see `crossed_interval`.
    Source:
        Fisher (1935), The Design of Experiments, for the signs; McNemar (1947), Psychometrika 12.
    """
    found = crossed_interval(differences, level)
    of_rows = _checked(differences).mean(axis=1)
    if found.rows < 2 or found.holds_zero or chance_of_signs(of_rows) <= 1 - level:
        return found
    most = float(np.abs(of_rows).max())
    return replace(found, low=min(found.low, -most), high=max(found.high, most), limited_by="rows")


MOST_TURNED = 16
"""Rows that differ up to which all their signs are turned: 65,536 sums. Of more, Student's quantile is near enough."""


def chance_of_signs(values: Array) -> float:
    """The share of all signs of the values with a sum as far from 0 as theirs; 0 where more than `MOST_TURNED` are not 0."""
    values = values[values != 0]
    if len(values) > MOST_TURNED:
        return 0.0
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(values.sum()) - 1e-9 * np.abs(values).sum()).mean())


def fewest_rows(level: float) -> int:
    """The rows below which no claim can be made at this level: turning all signs has ``2^(1 - rows)`` of them as extreme.

    Args:
        level: inside (0, 1): 6 rows at 0.95.
    """
    return math.ceil(1 - math.log2(1 - _checked_level(level)) - 1e-9)


def holm(tables: Mapping[str, npt.ArrayLike], level: float = 0.95) -> dict[str, Interval]:
    """A `paired_interval` of each of several comparisons, such that any of them leaves out a true 0 with chance ``1 - level``.

    Of ``m`` comparisons each is judged at ``1 - (1 - level)/m``; those that leave out 0 keep that interval, and the others
    are judged again, as so many as are left. This is Holm's procedure, without probabilities.

    Args:
        tables: differences ``(rows, seeds)`` or ``(rows,)`` by name, as in `crossed_interval`.
        level: of all claims together, inside (0, 1). One comparison alone is judged at this level.
    Raises:
        DataError, InputError: see `crossed_interval`.
    Source:
        Holm (1979), Scandinavian Journal of Statistics 6.
    """
    found: dict[str, Interval] = {}
    while left := [name for name in tables if name not in found or found[name].holds_zero]:
        judged = {name: paired_interval(tables[name], 1 - (1 - level) / len(left)) for name in left}
        found |= judged
        if all(interval.holds_zero for interval in judged.values()):
            break
    return {name: found[name] for name in tables}


def fold_interval(differences: npt.ArrayLike, folds: int, level: float = 0.95) -> Interval:
    """A t interval for the mean difference of scores of folds, which share most of their training rows.

    ``half = t * sd * sqrt(1/n + 1/(folds - 1))`` at ``n - 1`` degrees of freedom, where ``1/(folds - 1)`` is the ratio of test to
    training rows. The plain test, with ``1/n`` alone, finds a difference between equal methods in a fifth to a half of
    the cases. Without any spread the signs decide, as in `paired_interval`.

    Args:
        differences: ``(n,)``, finite, n >= 2: one for each fold, of all repetitions.
        folds: >= 2; of random splits one over the share that is tested.
        level: inside (0, 1).
    Raises:
        DataError: not finite, or not ``(n,)`` with n >= 2.
        InputError: ``folds`` or ``level`` is outside its range.
    Source:
        Nadeau & Bengio (2003), Machine Learning 52; Bouckaert & Frank (2004), PAKDD, for repetitions.
    """
    if folds < 2:
        raise InputError(f"folds must be at least 2; given {folds}. Of random splits it is one over the tested share.")
    d = _checked(differences)
    if d.shape[1] > 1 or len(d) < 2:
        raise DataError(f"Scores of folds need the shape (n,) with at least 2 of them; given {d.shape}.")
    n, spread = len(d), float(d.std(ddof=1))
    if spread <= 1e-12 * float(np.abs(d).max()):
        return paired_interval(d, level)
    half = student_quantile((1 + _checked_level(level)) / 2, n - 1) * spread * math.sqrt(1 / n + 1 / (folds - 1))
    estimate = float(d.mean())
    return Interval(estimate, estimate - half, estimate + half, level, 1, n, "rows", mean_squares(d))


def of_itself(scores: npt.ArrayLike, level: float = 0.95) -> Interval:
    """A recipe compared with itself: no difference, and the noise of a comparison with another one that does not differ more from
    it, row by row, than a second training does. So its `Interval.needs` says what such a comparison would have shown at least.

    Args:
        scores: ``(rows, seeds)`` of one recipe, finite. From one seed alone no noise is known, and it is taken as 0.
        level: inside (0, 1).
    Raises:
        DataError, InputError: see `crossed_interval`.
    """
    s = _checked(scores)
    rows, seeds = s.shape
    _, of_seeds, rest = mean_squares(s)
    # Two trainings share the rows' effects, which drop out; the variances of the other two add.
    squares = (2 * rest, 2 * of_seeds, 2 * rest)
    side = _limited_by(squares, rows, seeds, (1 + _checked_level(level)) / 2)
    return Interval(0.0, 0.0, 0.0, level, seeds, rows, side, squares)


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
    t_rows, t_seeds = (student_quantile(p, count - 1) if count > 1 else 0.0 for count in (rows, seeds))
    t_rows += skew * (1 + 2 * t_rows * t_rows) / (6 * math.sqrt(rows)) if rows > 1 else 0.0  # Johnson's term
    if rows < seeds:
        of_rows, of_seeds, t_rows, t_seeds = of_seeds, of_rows, t_seeds, t_rows
    most = max(t_seeds**2 * of_seeds + t_rows**2 * max(of_rows - both, 0.0), t_rows**2 * of_rows)
    return math.sqrt(most / (rows * seeds))


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


@dataclass(frozen=True)
class Needs:
    """What it takes to show a gain of the size that was estimated, with probability ``power`` at the interval's level.

    Args:
        gain: the estimate; where it is not above zero there is nothing to show, and the numbers are None.
        smallest: the smallest gain that the comparison as it is would have shown with that probability; infinite with
            fewer rows than `fewest_rows`.
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
        """``{"gain", "smallest", "pairs", "rows", "both", "power"}``, ``both`` as ``[pairs, rows]`` or None, no gain as None."""
        both = None if self.both is None else list(self.both)
        return {**asdict(self), "smallest": self.smallest if math.isfinite(self.smallest) else None, "both": both}

    def sentence(self, pairs: int, rows: int, smallest: str) -> str:
        """What more would show the gain, and what the comparison could have shown, in one sentence.

        Args:
            pairs, rows: of the comparison as it is.
            smallest: `smallest` as people write it, with its unit.
        """
        if not math.isfinite(self.smallest):
            more = f" About {_rounded(self.rows)} rows would show one of this size." if self.rows else ""
            return f"So few rows ({rows}) show no gain at this level, whatever its size.{more}"
        chance = f"with probability {self.power:.4g}"
        here = f"the smallest gain that {_seeds(pairs)} on {_amount(rows, 'row')} would have shown is {smallest}"
        if self.gain <= 0:
            return f"There is no gain to show; {here}, {chance}."
        return f"{self._way(pairs, rows)}, {chance}; {here}."

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
    parts, fewest = _components(interval.squares, rows, pairs), fewest_rows(interval.level)
    enough = rows == 1 or rows >= fewest  # one row: the interval is of the seeds
    smallest = _smallest_gain(parts, rows, pairs, interval.level) if enough else math.inf
    if gain <= 0:
        return Needs(gain, smallest)

    def shows(of_rows: int, of_pairs: int, level: float = interval.level) -> bool:
        return power(gain, parts, of_rows, of_pairs, level) >= POWER

    from_pairs, from_rows = (2, 2) if interval.shown else (pairs + 1, rows + 1)
    more_pairs = more_rows = more_of_both = None
    if pairs > 1 and enough:
        more_pairs = _first(lambda count: shows(rows, count, again), from_pairs, MOST_PAIRS)
    if rows > 1:
        more_rows = _first(lambda count: shows(count, pairs), max(from_rows, fewest), MOST_ROWS)
    if more_pairs is None and more_rows is None and min(pairs, rows) > 1:
        most = max(min(MOST_PAIRS, MOST_ROWS * pairs // rows), 1)
        count = _first(lambda count: shows(-(-rows * count // pairs), count), pairs + 1, most)
        more_of_both = None if count is None else (count, -(-rows * count // pairs))
    return Needs(gain, smallest, more_pairs, more_rows, more_of_both)


def _first(holds: Callable[[int], bool], start: int, most: int) -> int | None:
    """The smallest whole number from ``start`` to ``most`` from which on ``holds`` is true; None if there is none."""
    if start > most or not holds(most):
        return None
    return start + bisect_left(range(start, most), True, key=holds)


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

    def above(squares: tuple[float, float, float]) -> float:
        return 0.5 * math.erfc((_half_width(squares, rows, seeds, p) - gain) / spread / math.sqrt(2))

    if rows == 1 or seeds == 1:
        whole = rows * seeds * spread**2
        return above((0.0, whole, 0.0) if rows == 1 else (whole, 0.0, 0.0))
    drawn = _chi_squares(min(rows, seeds) - 1)
    if seeds <= rows:
        return sum(weight * above((of_rows, of_seeds * share, both)) for share, weight in drawn)
    return sum(weight * above((of_rows * share, of_seeds, both)) for share, weight in drawn)


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


ALPHA = 0.05
"""One-sided error of all looks together: look k is judged at ``ALPHA/2^k``, which for the first is a 95 % interval."""
Array = npt.NDArray[np.float64]
MOST_PAIRS, MOST_ROWS = 1_000, 10_000_000  # beyond these nobody trains or collects; they are said in the sentence
