"""By simulation: intervals cover at their level, nulls are shown as rarely as promised, and "how many" is as many.

Each check is a function of what is judged, so that the same check meets wrong judges too and must catch them. The tables are in
``benchmarks/evidence.py``; here is a sample of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pytest

from wellposed.statistics import intervals
from wellposed.statistics.intervals import Interval, crossed_interval, look_level
from wellposed.statistics.student import student_quantile

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]
Judge = Callable[[Array, float], tuple[float, float]]
Half = Callable[[tuple[float, float, float], int, int, float], float]
ALPHA = 0.05  # of all looks together, one-sided; look k is judged by a two-sided interval of twice its share

# judges: low and high of a table of differences


def ours(d: Array, level: float) -> tuple[float, float]:
    interval = crossed_interval(d, level)
    return interval.low, interval.high


def rows_only(d: Array, level: float) -> tuple[float, float]:
    return ours(d.mean(axis=1), level)


def seeds_only(d: Array, level: float) -> tuple[float, float]:
    return ours(d.mean(axis=0)[None, :], level)


def bootstrap_of_seeds(d: Array, level: float) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = rng.choice(d.mean(axis=0), (400, d.shape[1])).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def all_independent(d: Array, level: float) -> tuple[float, float]:
    return ours(d.reshape(-1), level)


def without_skewness(d: Array, level: float) -> tuple[float, float]:
    rows, seeds = d.shape
    half = intervals._half_width(intervals.mean_squares(d), rows, seeds, (1 + level) / 2)
    return float(d.mean()) - half, float(d.mean()) + half


# tables whose mean is 0


def effects(law: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Mean 0 and variance 1; ``falls`` is often a little better and rarely much worse, ``rises`` the reverse."""
    if law == "heavy":
        return rng.standard_t(3, shape) / math.sqrt(3)
    if law in ("falls", "rises"):
        return (1 - rng.exponential(size=shape)) * (1 if law == "falls" else -1)
    return rng.normal(size=shape)


def table(law: str, rng: np.random.Generator, rows: int, seeds: int, of_seeds: float, of_both: float) -> Array:
    """Differences with the seeds' part of the variance of the mean ``of_seeds`` times the rows', mean 0.

    ``hits`` are differences of 0 and 1 of two recipes that are alike; nine rows of ten are easy.
    """
    seed = math.sqrt(of_seeds * seeds / rows)
    if law == "hits":
        base = 3.3 + 2.6 * rng.normal(size=(rows, 1))
        sides = [
            base
            + 0.5 * rng.normal(size=(rows, 1))
            + seed * rng.normal(size=(1, seeds))
            + of_both * rng.normal(size=(rows, seeds))
            for _ in range(2)
        ]
        return (sides[1] > 0).astype(np.float64) - (sides[0] > 0)
    rest = of_both * effects(law, rng, (rows, seeds))
    return effects(law, rng, (rows, 1)) + seed * rng.normal(size=(1, seeds)) + rest


def errors(judge: Judge, draw: Callable[[], Array], draws: int, level: float = 0.95) -> tuple[float, float]:
    """The shares of intervals above and below the true mean, 0."""
    ends = [judge(draw(), level) for _ in range(draws)]
    return sum(low > 0 for low, _ in ends) / draws, sum(high < 0 for _, high in ends) / draws


def covers(judge: Judge, law: str, rows: int, seeds: int, of_seeds: float, of_both: float, draws: int = 1000) -> bool:
    """Whether both errors together are the level's, but for what that many draws cannot tell."""
    rng = np.random.default_rng([rows, seeds])
    found = sum(errors(judge, lambda: table(law, rng, rows, seeds, of_seeds, of_both), draws))
    return found <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(
    ("law", "seeds"),
    [
        # Half of them, each law by two counts of seeds and each count by two laws.
        pytest.param(law, seeds, marks=() if (j - i) % 4 < 2 else pytest.mark.nightly)
        for i, law in enumerate(["normal", "heavy", "hits", "falls"])
        for j, seeds in enumerate([2, 5, 10, 20])
    ],
)
def test_intervals_cover_at_their_level(law: str, seeds: int) -> None:
    for rows, of_seeds, of_both in ((60, 0.0, 0.5), (60, 0.3, 0.5), (250, 1.0, 2.0), (250, 4.0, 0.0)):
        assert covers(ours, law, rows, seeds, of_seeds, of_both), (rows, of_seeds, of_both)


@pytest.mark.parametrize(("rows", "seeds"), [(5, 5), (8, 20), (4, 3)])
def test_few_rows_are_covered_too(rows: int, seeds: int) -> None:
    for of_seeds, of_both in ((0.0, 1.0), (0.3, 0.5), (10.0, 0.5)):
        assert covers(ours, "normal", rows, seeds, of_seeds, of_both)


@pytest.mark.parametrize("law", ["normal", "hits"])
def test_half_a_judge_is_caught(law: str) -> None:
    assert not covers(rows_only, law, 250, 5, 1.0, 0.5)
    assert not covers(seeds_only, law, 250, 5, 0.0, 0.1)
    assert not covers(bootstrap_of_seeds, law, 250, 5, 20.0, 0.5, draws=300)
    assert not covers(all_independent, law, 250, 5, 1.0, 0.5)


# every mixture of variances and every level, without the noise of drawing


def excess(half: Half, rows: int, seeds: int, parts: tuple[float, float, float], level: float) -> float:
    """How many times ``1 - level`` the error is: under Gaussian effects the mean squares are chi-squares, apart from the mean.

    All three are integrated over.
    """
    row, seed, rest = (part * scale for part, scale in zip(parts, (rows, seeds, rows * seeds), strict=True))
    spread = math.sqrt(sum(parts))
    grid = (np.arange(200) + 0.5) / 200
    roots = (math.sqrt(seeds - 1) + 6) * grid**3  # fine near 0, where the errors are
    weights = np.exp((seeds - 2) * np.log(roots) - roots**2 / 2) * grid**2
    missed = 0.0
    for root, weight in zip(roots.tolist(), (weights / weights.sum()).tolist(), strict=True):
        of_seeds = (rows * seed + rest) * root**2 / (seeds - 1)
        for a, share in nodes(rows - 1, 9):
            for b, part in nodes((rows - 1) * (seeds - 1), 3 if rest else 1):
                z = half(((seeds * row + rest) * a, of_seeds, rest * b), rows, seeds, (1 + level) / 2) / spread
                missed += weight * share * part * math.erfc(z / math.sqrt(2))
    return missed / (1 - level)


@lru_cache
def nodes(dof: int, count: int) -> list[tuple[float, float]]:
    """Values of chi-square by many degrees of freedom and their weights: Gauss's, of its nearly normal cubic root."""
    z, weights = np.polynomial.hermite_e.hermegauss(count)
    values = (1 - 2 / (9 * dof) + z * math.sqrt(2 / (9 * dof))) ** 3
    return list(zip(values.tolist(), (weights / weights.sum()).tolist(), strict=True))


MIXTURES = [  # the parts of the variance of the mean
    (1, 0, 0), (1, 0.1, 0), (1, 0.3, 0), (1, 1, 0), (0.3, 1, 0), (0.1, 1, 0), (0, 1, 0), (0, 0, 1), (0.5, 0, 0.5),
    (0, 0.5, 0.5), (1, 0.1, 1), (1, 1, 1),
]  # fmt: skip


def excesses(half: Half, seeds: int, rows: int = 100) -> Iterator[float]:
    """The excess of each mixture, at the first look and at the sixth."""
    levels = (0.95, look_level(6, 2 * ALPHA))
    return (excess(half, rows, seeds, parts, level) for parts in MIXTURES for level in levels)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 20])
def test_no_mixture_of_variances_escapes_at_any_look(seeds: int) -> None:
    assert max(excesses(intervals._half_width, seeds)) <= 1.01


def total_of(squares: tuple[float, float, float]) -> float:
    """The variance of the mean times rows and seeds, never below the larger of its two parts."""
    of_rows, of_seeds, both = squares
    return max(of_rows + of_seeds - both, of_rows, of_seeds)


def weighted_quantile(squares: tuple[float, float, float], rows: int, seeds: int, p: float) -> float:
    """Cochran's mean of the two quantiles."""
    of_rows, of_seeds, _ = squares
    t = (of_rows * student_quantile(p, rows - 1) + of_seeds * student_quantile(p, seeds - 1)) / (of_rows + of_seeds)
    return t * math.sqrt(total_of(squares) / (rows * seeds))


def satterthwaite(squares: tuple[float, float, float], rows: int, seeds: int, p: float) -> float:
    """One number of degrees of freedom for the estimated variance."""
    of_rows, of_seeds, _ = squares
    total = total_of(squares)
    dof = total**2 / (of_rows**2 / (rows - 1) + of_seeds**2 / (seeds - 1))
    return student_quantile(p, max(round(dof, 1), 1.0)) * math.sqrt(total / (rows * seeds))


def test_single_quantiles_are_caught() -> None:
    assert any(found > 2 for found in excesses(weighted_quantile, 2))
    assert any(found > 2 for found in excesses(satterthwaite, 3))


def skewed_error(judge: Judge) -> float:
    """How often a recipe with mean 0 that is often a little better and rarely much worse is called better; 60 rows."""
    rng = np.random.default_rng(3)
    return errors(judge, lambda: table("falls", rng, 60, 10, 0.1, 0.5), 6000)[0]


def test_skewed_rows_are_called_better_hardly_more_often() -> None:
    assert skewed_error(ours) <= 0.035
    assert skewed_error(without_skewness) > 0.037


# the null: recipes that do nothing


def winner(rng: np.random.Generator, recipes: int, rows: int) -> tuple[Array, Array]:
    """The best of recipes that do nothing, by one seed on validation rows: its effects on those and on untouched rows."""
    valid = rng.normal(size=(recipes, rows))
    untouched = rng.normal(size=(recipes, rows))
    seen = valid.mean(axis=1) + 0.05 * rng.normal(size=recipes)
    best = int(seen.argmax())
    return valid[best], untouched[best]


def confirmed(rng: np.random.Generator, on: Array, pairs: int) -> Array:
    """Differences of new pairs of seeds on rows with these effects."""
    return on[:, None] + 0.05 * rng.normal(size=(1, pairs)) + 0.5 * rng.normal(size=(len(on), pairs))


def null_studies(level_of: Callable[[int], float], looks: int, again: str, pairs: int, studies: int = 1000) -> float:
    """The share of studies of recipes that do nothing which show a gain, reopened until one does.

    ``again`` is what a later look has: another ``recipe``, or more ``pairs`` of the same one; ``valid`` looks at the rows
    that the winner was picked on.
    """
    rng = np.random.default_rng(pairs)
    shown = 0
    for _ in range(studies):
        valid, untouched = winner(rng, 20, 100)
        table_ = confirmed(rng, untouched, pairs)
        for look in range(1, looks + 1):
            if again == "valid":
                table_ = confirmed(rng, valid, pairs)
            elif again == "recipe" and look > 1:
                table_ = confirmed(rng, winner(rng, 20, 100)[1], pairs)
            elif again == "pairs" and look > 1:
                table_ = np.concatenate([table_, confirmed(rng, untouched, 2)], axis=1)
            if crossed_interval(table_, level_of(look)).shown:
                shown += 1
                break
    return shown / studies


def above(rate: float, studies: int = 1000) -> float:
    return rate + 4 * math.sqrt(rate * (1 - rate) / studies)


corrected = partial(look_level, alpha=2 * ALPHA)


@pytest.mark.parametrize("pairs", [2, 5, 10])
def test_a_winner_of_recipes_that_do_nothing_is_rarely_shown(pairs: int) -> None:
    assert null_studies(corrected, 1, "recipe", pairs) <= above(0.025)


@pytest.mark.parametrize("again", ["recipe", "pairs"])
def test_reopened_studies_stay_at_their_level(again: str) -> None:
    assert null_studies(corrected, 6, again, 5) <= above(ALPHA)


def test_looks_that_are_not_counted_and_rows_that_were_searched_are_caught() -> None:
    assert null_studies(lambda look: 0.95, 6, "recipe", 10) > above(ALPHA)
    assert null_studies(corrected, 1, "valid", 5) > above(ALPHA)


def test_one_pair_would_be_fooled_by_seeds_and_so_shows_nothing() -> None:
    rng = np.random.default_rng(0)
    pairs = [table("normal", rng, 250, 1, 4.0, 0.5) for _ in range(400)]
    assert sum(crossed_interval(d).low > 0 for d in pairs) / 400 > 0.1
    assert not any(crossed_interval(d).shown for d in pairs)


# how many


def shown_share(
    gain: float, parts: tuple[float, float, float], rows: int, pairs: int, draws: int = 1500, level: float = 0.95
) -> float:
    """How often a gain is shown by that many rows and pairs."""
    rng = np.random.default_rng([rows, pairs])
    row, seed, rest = (math.sqrt(part) for part in parts)
    found = 0
    for _ in range(draws):
        d = gain + row * rng.normal(size=(rows, 1)) + seed * rng.normal(size=(1, pairs))
        found += crossed_interval(d + rest * rng.normal(size=(rows, pairs)), level).shown
    return found / draws


def of(gain: float, parts: tuple[float, float, float], rows: int, pairs: int) -> Interval:
    squares = intervals._expected(parts, rows, pairs)
    return Interval(gain, -1.0, 1.0 + 2 * gain, 0.95, pairs, rows, "rows", squares)


CASES = [
    (0.10, (0.10, 0.004, 0.3), 120, 2),
    (0.05, (0.05, 0.001, 0.3), 200, 3),
    (0.03, (0.05, 0.0001, 0.1), 200, 5),
    (0.15, (0.60, 0.0, 0.1), 120, 5),
]


@pytest.mark.parametrize(("gain", "parts", "rows", "pairs"), CASES)
def test_as_many_pairs_or_rows_as_are_said_show_the_gain(
    gain: float, parts: tuple[float, float, float], rows: int, pairs: int
) -> None:
    needs = of(gain, parts, rows, pairs).needs
    assert needs.pairs is not None or needs.rows is not None
    if needs.pairs is not None:
        assert 0.76 <= shown_share(gain, parts, rows, needs.pairs) <= 0.9  # one pair more is a large step
    if needs.rows is not None:
        assert 0.76 <= shown_share(gain, parts, needs.rows, pairs) <= 0.85
    assert 0.76 <= shown_share(needs.smallest, parts, rows, pairs) <= 0.84


def test_a_number_by_the_normal_distribution_is_caught() -> None:
    gain, (row, seed, rest), rows = 0.10, (0.02, 0.004, 0.1), 400
    wanted = (gain / (1.96 + 0.84)) ** 2
    pairs = math.ceil((seed + rest / rows) / (wanted - row / rows))
    assert shown_share(gain, (row, seed, rest), rows, pairs) < 0.76


def test_the_number_that_a_study_estimates_is_near_the_true_one() -> None:
    """Rows are many, so their number is known well; seeds are few, so half of the studies are within a factor of two."""
    rng = np.random.default_rng(0)
    gain, parts, rows, pairs = 0.05, (0.3, 0.0003, 0.1), 300, 5
    truth = of(gain, parts, rows, pairs).needs.rows
    assert truth is not None
    found = []
    for _ in range(100):
        d = math.sqrt(parts[0]) * rng.normal(size=(rows, 1)) + math.sqrt(parts[1]) * rng.normal(size=(1, pairs))
        interval = crossed_interval(d + math.sqrt(parts[2]) * rng.normal(size=(rows, pairs)))
        estimated = intervals._components(interval.squares, rows, pairs)
        found.append(of(gain, estimated, rows, pairs).needs.rows or math.inf)
    assert truth / 1.5 <= float(np.median(found)) <= 1.5 * truth
