"""Intervals for crossed rows and seeds cover what they say, and `compare` pairs what belongs together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from wellposed.core.errors import DataError, InputError
from wellposed.statistics.compare import compare
from wellposed.statistics.intervals import (
    POWER,
    Interval,
    Needs,
    crossed_interval,
    look_level,
    mean_squares,
    of_itself,
    paired_interval,
    power,
)
from wellposed.statistics.student import student_quantile


class FakeRun:
    def __init__(self, seed: int, scores: np.ndarray) -> None:
        self.seed, self.recipe, self._scores = seed, "r", scores

    def row_scores(self, on: str) -> np.ndarray:
        return self._scores if on == "valid" else self._scores[:5]


# Student's quantile


@pytest.mark.parametrize("dof", [1, 1.5, 2, 3.7, 10, 99, 1234.5, 1e7, 1e12])
@pytest.mark.parametrize("p", [1e-6, 0.025, 0.3, 0.5, 0.9, 0.975, 0.99999])
def test_quantiles_are_students(p: float, dof: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_quantile(p, dof) == pytest.approx(stats.t.ppf(p, dof), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("p", "dof"), [(0, 3), (1, 3), (0.5, 0), (math.nan, 3), (0.9, math.nan)])
def test_quantiles_outside_their_range(p: float, dof: float) -> None:
    with pytest.raises(InputError, match="student_quantile"):
        student_quantile(p, dof)


# The interval


def test_mean_squares_of_a_table_done_by_hand() -> None:
    # rows 1, 3 and seeds -1, 1 added up, and one cell off by 4: effects +-2, +-2, interaction +-1
    assert mean_squares(np.array([[0.0, 2.0], [2.0, 8.0]])) == pytest.approx((16.0, 16.0, 4.0))


def test_one_seed_is_the_interval_of_the_rows() -> None:
    stats = pytest.importorskip("scipy.stats")
    d = np.random.default_rng(0).normal(0.2, 1, 50)
    d = np.concatenate([d, 2 * d.mean() - d])  # without skewness
    interval = crossed_interval(d)
    expected = stats.t.interval(0.95, 99, d.mean(), d.std(ddof=1) / 10)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert (interval.pairs, interval.rows, interval.limited_by, interval.covers_seeds) == (1, 100, "rows", False)


def test_the_end_on_the_side_of_the_skewness_is_farther_by_johnsons_term() -> None:
    stats = pytest.importorskip("scipy.stats")
    d = -np.random.default_rng(0).exponential(1, 50)
    interval = crossed_interval(d)
    se, t = d.std(ddof=1) / math.sqrt(50), stats.t.ppf(0.975, 49)
    term = -stats.skew(d, bias=False) * (1 + 2 * t * t) / (6 * math.sqrt(50))
    assert term > 0.2
    assert (interval.low, interval.high) == pytest.approx((d.mean() - se * (t + term), d.mean() + se * t))
    back = crossed_interval(-d)
    assert (back.low, back.high) == pytest.approx((-interval.high, -interval.low))


def test_the_standard_error_is_that_of_the_mean_also_where_an_exact_test_widened_the_interval() -> None:
    few = np.r_[np.ones(5), np.zeros(395)]
    assert crossed_interval(few).low > 0 >= paired_interval(few).low, "five rows that differ show nothing"
    assert paired_interval(few).standard_error == pytest.approx(few.std(ddof=1) / 20)
    rows, seeds = np.arange(400.0)[:, None], np.array([[0.0, 9.0]])
    assert crossed_interval(rows + seeds).standard_error == pytest.approx(math.hypot(rows.std(ddof=1) / 20, 4.5))


def test_one_seed_shows_nothing_of_others() -> None:
    d = np.random.default_rng(0).normal(1, 1, 50)
    assert crossed_interval(d).low > 0
    assert not crossed_interval(d).shown
    assert crossed_interval(np.stack([d] * 2, axis=1)).shown
    assert compare(np.zeros((50, 1)), d).shown  # of these two models
    assert compare(np.zeros((50, 1)), d).to_dict()["shown"] is True


def test_the_sum_of_squared_quantiles_done_by_hand() -> None:
    # mean squares 16, 16 and 4; two rows and two seeds: both quantiles are that of one degree of freedom
    d = np.array([[0.0, 2.0], [2.0, 8.0]])
    t = math.tan(math.pi * 0.475)
    assert crossed_interval(d).high - 3 == pytest.approx(t * math.sqrt((16 + 16 - 4) / 4))
    flat = np.array([[1.0], [2.0], [3.0]]) + np.zeros((3, 2))  # no seeds: Student's interval of the rows
    assert crossed_interval(flat).high - 2 == pytest.approx(student_quantile(0.975, 2) / math.sqrt(3))


def test_what_limits_is_said() -> None:
    rng = np.random.default_rng(1)
    rows, seeds = rng.normal(size=(60, 1)), rng.normal(size=(1, 6))
    assert crossed_interval(rows + 0.01 * seeds).limited_by == "rows"
    assert crossed_interval(0.1 * rows + seeds).limited_by == "seeds"


def test_without_spread_the_interval_is_a_point_and_with_two_seeds_it_is_wide() -> None:
    point = crossed_interval(np.ones((10, 3)))
    assert (point.low, point.high, point.shown) == (1, 1, True)
    two = crossed_interval(np.random.default_rng(2).normal(0.3, 1, (1, 2)) + np.zeros((100, 1)))
    assert (two.high - two.estimate) / two.standard_error == pytest.approx(student_quantile(0.975, 1), rel=0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, 1)), "at least 2 rows or 2 seeds"),
        (np.array([1, math.nan]), "1 of 2"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.zeros(0), "shape"),
    ],
)
def test_bad_differences(given: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        crossed_interval(given)


def test_bad_level() -> None:
    with pytest.raises(InputError, match="level"):
        crossed_interval([1.0, 2.0], level=1.0)


def test_intervals_are_not_needlessly_wide() -> None:
    """That they hold 0 often enough, whatever the mixture of variances, is shown in `test_evidence_simulated`."""
    rng = np.random.default_rng(10)
    tables = [rng.normal(size=(100, 1)) + math.sqrt(0.1) * rng.normal(size=(1, 10)) for _ in range(400)]
    assert np.mean([interval.low <= 0 <= interval.high for interval in map(crossed_interval, tables)]) <= 0.985


def test_the_first_look_and_those_after() -> None:
    assert [look_level(k) for k in (1, 2, 3)] == pytest.approx([0.975, 0.9875, 0.99375])
    assert sum(1 - look_level(k) for k in range(1, 60)) <= 0.05 + 1e-9
    assert 0 < look_level(10_000) < 1
    with pytest.raises(InputError, match="looks"):
        look_level(0)


# how many more


def interval_of(
    gain: float, row: float, seed: float, rest: float, rows: int, pairs: int, low: float = -1.0
) -> Interval:
    """An interval whose mean squares are exactly those to be expected of these variances."""
    squares = (pairs * row + rest, rows * seed + rest, rest)
    return Interval(gain, low, 2 * gain - low, 0.95, pairs, rows, "rows", squares)


def test_power_is_that_of_students_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for gain, rows in ((0.1, 800), (0.3, 60), (0.3, 150)):
        expected = stats.nct.sf(stats.t.ppf(0.975, rows - 1), rows - 1, gain * math.sqrt(rows))
        assert power(gain, (1.0, 0.0, 0.0), rows, 1, 0.95) == pytest.approx(expected, abs=0.01)
    for gain, seeds in ((1.0, 4), (1.0, 10), (2.5, 3), (3.0, 2)):  # rows without effect: the test of the seeds' means
        expected = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, gain * math.sqrt(seeds))
        assert power(gain, (0.0, 1.0, 0.0), 10_000, seeds, 0.95) == pytest.approx(expected, abs=0.002)
    assert power(0.1, (0.0, 0.0, 0.0), 10, 5, 0.95) == 1
    assert power(0.0, (1.0, 1.0, 1.0), 100, 5, 0.95) == pytest.approx(0.02, abs=0.006)


def test_only_rows_limit_and_their_number_is_students() -> None:
    needs = interval_of(0.1, 1.0, 0.0, 0.0, 300, 5).needs
    assert needs.pairs is None
    assert needs.rows == pytest.approx(((1.96 + 0.8416) / 0.1) ** 2, rel=0.01)
    assert needs.both is None
    assert power(0.1, (1.0, 0.0, 0.0), needs.rows, 5, 0.95) >= POWER > power(0.1, (1.0, 0, 0), needs.rows - 1, 5, 0.95)
    said = needs.sentence(5, 300, "0.16 accuracy")
    assert said == (
        "No number of seeds up to 1,000 would show a gain of this size on these 300 rows; about 790 rows with these "
        "5 pairs of seeds would, with probability 0.8; the smallest gain that 5 pairs of seeds on 300 rows would have "
        "shown is 0.16 accuracy."
    )


def test_only_seeds_limit() -> None:
    needs = interval_of(0.01, 0.0, 0.0004, 0.01, 2000, 3).needs
    assert needs.rows is None
    assert needs.pairs is not None
    assert 30 <= needs.pairs <= 40
    assert "No number of rows up to 10,000,000 would show" in needs.sentence(3, 2000, "0.05 score")
    assert f"about {needs.pairs} pairs of seeds on these 2,000 rows would" in needs.sentence(3, 2000, "0.05 score")


def test_either_would_do_or_only_both_together_or_nothing() -> None:
    either = interval_of(0.02, 0.01, 0.0001, 0.1, 300, 5).needs
    assert either.pairs is not None
    assert either.rows is not None
    assert "pairs of seeds on these 300 rows would show a gain of this size, or about" in either.sentence(5, 300, "x")
    both = interval_of(0.01, 0.25, 0.0004, 0.0, 800, 5).needs
    assert (both.pairs, both.rows) == (None, None)
    assert both.both is not None
    assert power(0.01, (0.25, 0.0004, 0.0), both.both[1], both.both[0], 0.95) >= POWER
    assert "Neither more seeds nor more rows alone" in both.sentence(5, 800, "x")
    none = interval_of(1e-9, 1.0, 1.0, 0.0, 800, 5).needs
    assert (none.pairs, none.rows, none.both) == (None, None, None)
    assert "nor would any number of seeds" in none.sentence(5, 800, "x")


def test_more_is_needed_than_did_not_do() -> None:
    """Mean squares without noise may promise that the present numbers are enough; they were not."""
    needs = interval_of(0.2, 1.0, 0.0, 0.0, 300, 5).needs
    assert (needs.pairs, needs.rows) == (6, 301)
    shown = interval_of(0.2, 1.0, 0.0, 0.0, 300, 5, low=0.05).needs
    assert shown.rows is not None
    assert shown.rows < 300


def test_a_stricter_level_for_another_look_needs_more_pairs() -> None:
    interval = interval_of(0.01, 0.0, 0.0004, 0.01, 2000, 3)
    assert (interval.needed(0.975).pairs or 0) > (interval.needs.pairs or 0)
    assert interval.needed(0.95) == interval.needs
    with pytest.raises(InputError, match="level"):
        interval.needed(1.0)


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_where_nothing_was_gained_nothing_is_promised(gain: float) -> None:
    needs = interval_of(gain, 1.0, 0.0, 0.0, 300, 5).needs
    assert (needs.pairs, needs.rows, needs.both) == (None, None, None)
    assert power(needs.smallest, (1.0, 0.0, 0.0), 300, 5, 0.95) == pytest.approx(POWER, abs=1e-3)
    assert needs.sentence(5, 300, "0.16 score").startswith("There is no gain to show; the smallest gain that 5 pairs")


def test_one_seed_says_how_many_rows_and_one_row_how_many_seeds() -> None:
    d = 0.1 + np.tile([-1.0, 1.0], 50)
    one = crossed_interval(d).needs
    assert one.pairs is None
    assert one.rows == pytest.approx(796, rel=0.01)
    assert one.sentence(1, 100, "x").startswith(
        "About 800 rows would show a gain of this size between these two models"
    )
    across = crossed_interval(d[None, :]).needs
    assert across.rows is None
    assert across.pairs == pytest.approx(796, rel=0.01)


def test_what_is_needed_goes_to_json() -> None:
    needs = Needs(0.1, 0.2, None, 30, None)
    assert needs.to_dict() == {
        "gain": 0.1, "smallest": 0.2, "pairs": None, "rows": 30, "both": None, "power": 0.8,
    }  # fmt: skip
    assert Needs(0.1, 0.2, both=(7, 90)).to_dict()["both"] == [7, 90]
    assert crossed_interval(np.ones((10, 3))).needs == Needs(1.0, 0.0, 2, 6)  # without spread: fewer rows show nothing
    assert crossed_interval(np.random.default_rng(0).normal(size=(20, 3))).to_dict()["needs"]["power"] == 0.8


# compare


def scores(better: float, rows: int = 300, seeds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    a = rng.normal(size=(rows, 1)) + 0.1 * rng.normal(size=(rows, seeds))
    return a, a + better + 0.1 * rng.normal(size=(rows, seeds))


def test_a_real_gain_is_shown_a_null_one_is_not_and_a_loss_is_said() -> None:
    a, b = scores(0.05)
    gain = compare(a, b)
    assert gain.shown
    assert str(gain).startswith("b is better than a by 0.0")
    assert "5 seeds x 300 rows" in str(gain)
    assert "b is worse" in str(compare(b, a))
    null = compare(*scores(0.0))
    assert str(null).startswith("Not shown")
    assert "the smallest gain that 5 pairs of seeds on 300 rows would have shown is 0.0" in str(null)
    assert "smallest gain" not in str(gain)
    assert gain.to_dict()["pairs"] == 5


def test_a_recipe_against_itself_has_the_noise_of_two_trainings() -> None:
    rng = np.random.default_rng(3)
    rows, seeds, found, wanted = 60, 4, [], []
    for _ in range(300):
        effect = rng.normal(size=(rows, 1))
        a, b = (effect + 0.3 * rng.normal(size=(1, seeds)) + 0.5 * rng.normal(size=(rows, seeds)) for _ in range(2))
        found.append(of_itself(a).squares)
        wanted.append(crossed_interval(b - a).squares)
    assert np.mean(found, axis=0) == pytest.approx(np.mean(wanted, axis=0), rel=0.1)
    alone = of_itself(a)
    assert (alone.estimate, alone.low, alone.high, alone.pairs, alone.rows) == (0, 0, 0, seeds, rows)
    assert alone.needs.smallest > 0
    assert alone.needs.pairs is None
    assert of_itself(a[:, 0]).needs.smallest == 0


def test_swapping_sides_turns_the_interval_round() -> None:
    a, b = scores(0.05)
    there, back = compare(a, b).interval, compare(b, a).interval
    assert (there.low, there.high, there.estimate) == pytest.approx((-back.high, -back.low, -back.estimate))


def test_runs_are_paired_by_seed() -> None:
    a, b = scores(0.05)
    runs_a = [FakeRun(seed, a[:, seed]) for seed in range(5)]
    runs_b = [FakeRun(seed, b[:, seed]) for seed in (3, 0, 4, 2, 1)]
    assert compare(runs_a, runs_b).interval == compare(a, b).interval
    assert compare(runs_a, runs_b, on="test").interval.rows == 5
    assert compare(runs_a[0], runs_b[1]).interval.pairs == 1
    other = [FakeRun(seed + 10, b[:, seed]) for seed in range(5)]
    assert "in the given order" in compare(runs_a, other).note
    with pytest.raises(DataError, match="a has 5 runs, b has 4"):
        compare(runs_a, runs_b[:4])
    with pytest.raises(DataError, match="different numbers"):
        compare(runs_a[0], FakeRun(0, a[:7, 0]))


def test_a_list_of_arrays_is_one_for_each_seed() -> None:
    a, b = scores(0.05)
    wanted = compare(a, b).interval
    assert compare(list(a.T), tuple(b.T)).interval == wanted
    assert compare(list(a.T), b).interval == wanted
    assert compare([torch.from_numpy(column).requires_grad_() for column in a.T.copy()], b).interval == wanted
    assert compare(torch.from_numpy(a).requires_grad_(), torch.from_numpy(b)).interval == wanted
    assert wanted.rows == 300
    assert compare(list(a[:, 0]), [torch.tensor(s, requires_grad=True) for s in b[:, 0]]).interval.pairs == 1
    square_a, square_b = a[:5], b[:5]  # as many rows as seeds: nothing but the form says which is which
    assert compare(list(square_a.T), list(square_b.T)).interval == compare(square_a, square_b).interval
    assert compare(list(square_a), list(square_b)).interval != compare(square_a, square_b).interval
    half = torch.from_numpy(a).bfloat16()
    assert compare(half, half).interval.estimate == 0


def test_lists_that_cannot_be_read() -> None:
    a, b = scores(0.05)
    with pytest.raises(DataError, match="the same rows for every seed; the arrays have 9, 300 rows"):
        compare([a[:, 0], a[:9, 1]], [b[:, 0], b[:, 1]])
    with pytest.raises(InputError, match="cannot tell rows from seeds in a list of lists"):
        compare(a.tolist(), b.tolist())


def test_arrays_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="3 rows, b has 4"):
        compare(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError, match="pairs seeds"):
        compare(np.zeros((3, 2)), np.zeros((3, 3)))
    with pytest.raises(InputError, match="two of one kind"):
        compare(np.zeros(3), "file.csv")
    with pytest.raises(InputError, match="cannot read a object"):
        compare(object(), object())


def write(folder: Path, name: str, header: str, rows: list[str]) -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]))
    return path


def test_files_of_labels_matched_by_row(tmp_path: Path) -> None:
    truth = ["cat", "dog"] * 20
    a = write(tmp_path, "a.csv", "id,target,prediction", [f"{i},{t},cat" for i, t in enumerate(truth)])
    b = write(tmp_path, "b.csv", "target,prediction,id", [f"{t},{t},{i}" for i, t in reversed(list(enumerate(truth)))])
    result = compare(a, str(b))
    assert result.score == "accuracy"
    assert result.interval.estimate == pytest.approx(0.5)
    assert result.shown
    assert "One seed" in str(result)


def test_files_of_numbers_seeds_and_probabilities(tmp_path: Path) -> None:
    a = write(tmp_path, "a.csv", "target,prediction", ["1.0,0.5", "2.0,2.5", "3.0,3.5"])
    b = write(tmp_path, "b.csv", "target,prediction", ["1,1", "2,2", "3,3"])
    assert compare(a, b).interval.estimate == pytest.approx(0.25)
    assert compare(a, b).score == "squared error"
    seeds = "target,prediction_0,prediction_1"
    a = write(tmp_path, "a2.csv", seeds, ["0,0,0", "1,0,1", "1,1,0"])
    b = write(tmp_path, "b2.csv", seeds, ["0,0,0", "1,1,1", "1,1,1"])
    assert compare(a, b).interval.pairs == 2
    assert compare(a, b).interval.estimate == pytest.approx(1 / 3)
    a = write(tmp_path, "a3.csv", "target,p_x,p_y", ["x,0.5,0.5", "y,0.5,0.5"])
    b = write(tmp_path, "b3.csv", "target,p_x,p_y", ["x,0.8,0.2", "y,1,0"])
    assert compare(a, b).interval.estimate == pytest.approx((math.log(1.6) + math.log(1e-12 / 0.5)) / 2)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    def file(name: str, header: str, *rows: str) -> Path:
        return write(tmp_path, name, header, list(rows))

    good = file("good.csv", "id,target,prediction", "1,a,a", "2,b,b")
    with pytest.raises(DataError, match="There is no file"):
        compare(good, tmp_path / "none.csv")
    with pytest.raises(DataError, match="needs the column 'target'"):
        compare(good, file("1.csv", "id,y", "1,a"))
    with pytest.raises(DataError, match="in one only: '2', '3'"):
        compare(good, file("2.csv", "id,target,prediction", "1,a,a", "3,b,b"))
    with pytest.raises(DataError, match="targets differ in row 2"):
        compare(good, file("3.csv", "id,target,prediction", "1,a,a", "2,a,b"))
    with pytest.raises(DataError, match="more than once"):
        compare(good, file("4.csv", "id,target,prediction", "1,a,a", "1,b,b"))
    with pytest.raises(DataError, match="2 rows"):
        compare(good, file("5.csv", "target,prediction", "a,a", "b,b", "b,b"))
    with pytest.raises(DataError, match="same kind"):
        compare(good, file("6.csv", "id,target,p_a,p_b", "1,a,1,0", "2,b,0,1"))
    odd = file("7.csv", "target,p_a", "a,2", "a,1")
    with pytest.raises(DataError, match="outside"):
        compare(odd, odd)
