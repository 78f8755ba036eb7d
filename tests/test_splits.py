"""Splits: nothing straddles, every class is learned from, and the shares are as asked."""

from __future__ import annotations

import numpy as np
import pytest

from wellposed.core.errors import DataError
from wellposed.data.splits import duplicate_count, duplicate_ids, folds, split


def check(rows: int, rest: np.ndarray, held: np.ndarray) -> None:
    assert np.array_equal(np.sort(np.r_[rest, held]), np.arange(rows))
    assert np.array_equal(rest, np.sort(rest))
    assert np.array_equal(held, np.sort(held))
    assert len(rest)
    assert len(held)


def straddles(ids: np.ndarray, rest: np.ndarray, held: np.ndarray) -> bool:
    return bool(np.isin(ids[held], ids[rest]).any())


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("rows", [2, 10, 1000])
def test_shares(rows: int, fraction: float) -> None:
    rest, held = split(rows, fraction, seed=0)
    check(rows, rest, held)
    assert abs(len(held) - np.clip(fraction * rows, 1, rows - 1)) <= 0.5


def test_equal_seeds_and_streams_give_equal_splits() -> None:
    one, same = split(100, 0.3, seed=1)[1], split(100, 0.3, seed=1)[1]
    assert np.array_equal(one, same)
    assert not np.array_equal(one, split(100, 0.3, seed=2)[1])
    assert not np.array_equal(one, split(100, 0.3, seed=1, stream="other")[1])


def test_strata_are_exact() -> None:
    target = np.repeat([0, 1, 2], [700, 250, 50])
    held = split(1000, 0.2, seed=0, target=target)[1]
    assert np.bincount(target[held]).tolist() == [140, 50, 10]


@pytest.mark.parametrize("seed", range(20))
def test_every_class_is_learned_from(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = int(draw.integers(4, 300))
    target = draw.integers(0, draw.integers(2, rows), rows)
    groups = draw.integers(0, rows, rows) if seed % 2 else None
    fraction = draw.uniform(0.1, 0.9)
    try:
        rest, held = split(rows, fraction, seed=seed, target=target, groups=groups)
    except DataError:
        assert len(np.unique(target)) > rows / 4
        return
    check(rows, rest, held)
    assert set(target) == set(target[rest])


def test_many_small_classes_still_fill_the_share() -> None:
    target = np.repeat(np.arange(100), 2)
    held = split(200, 0.2, seed=0, target=target)[1]
    assert len(held) == 40


@pytest.mark.parametrize("seed", range(20))
def test_groups_and_copies_never_straddle(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = 400
    groups, copies = draw.integers(0, 60, rows), np.arange(rows)
    copies[draw.integers(0, rows, 10)] = copies[draw.integers(0, rows, 10)]
    target = draw.integers(0, 3, rows)
    rest, held = split(rows, 0.25, seed=seed, target=target, groups=groups, duplicates=copies)
    check(rows, rest, held)
    assert not straddles(groups, rest, held)
    assert not straddles(copies, rest, held)
    assert 0.15 < len(held) / rows < 0.35


def test_large_groups_are_held_out_as_often_as_small_ones() -> None:
    groups = np.r_[np.repeat(np.arange(20), 10), 20 + np.arange(200)]
    share = np.mean([np.mean(split(400, 0.25, seed=s, groups=groups)[1] < 200) for s in range(60)])
    assert abs(share - 0.5) < 0.07


def test_few_uneven_groups() -> None:
    for sizes in ([50, 50], [90, 10], [98, 1, 1], [40, 30, 30]):
        groups = np.repeat(np.arange(len(sizes)), sizes)
        rest, held = split(len(groups), 0.2, seed=0, groups=groups)
        check(len(groups), rest, held)
        assert not straddles(groups, rest, held)


def test_copies_of_one_class_are_spread_as_asked() -> None:
    ids = np.repeat(np.arange(100), 4)
    target = np.repeat([0, 1], 200)
    held = split(400, 0.25, seed=0, target=target, duplicates=ids)[1]
    assert np.bincount(target[held]).tolist() == [52, 52] or abs(len(held) - 100) <= 4


# --- in time -------------------------------------------------------------------------------------------------------


def test_the_latest_rows_are_held_out() -> None:
    time = np.random.default_rng(0).permutation(100).astype(float)
    rest, held = split(100, 0.2, seed=0, time=time)
    check(100, rest, held)
    assert len(held) == 20
    assert time[rest].max() < time[held].min()


def test_equal_times_stay_together() -> None:
    time = np.repeat([0.0, 1.0, 2.0], [10, 50, 40])
    rest, held = split(100, 0.2, seed=0, time=time)
    assert (len(rest), len(held)) == (60, 40)
    assert not straddles(time, rest, held)


def test_groups_in_time() -> None:
    time = np.arange(100.0)
    groups = (np.arange(100) + 5) // 10
    rest, held = split(100, 0.2, seed=0, time=time, groups=groups)
    check(100, rest, held)
    assert time[rest].max() < time[held].min()
    assert not straddles(groups, rest, held)
    assert len(held) in (15, 25)
    with pytest.raises(DataError, match="overlap"):
        split(100, 0.2, seed=0, time=time, groups=np.arange(100) % 2)


def test_copies_in_time_leave_the_held_out_rows() -> None:
    ids = np.arange(100)
    ids[95] = 3
    ids[99] = 98
    rest, held = split(100, 0.2, seed=0, time=np.arange(100.0), duplicates=ids)
    assert len(rest) == 80
    assert 95 not in held
    assert {98, 99} <= set(held.tolist())
    with pytest.raises(DataError, match="copy of an earlier"):
        split(100, 0.2, seed=0, time=np.arange(100.0), duplicates=np.arange(100) % 50)


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "fraction", "options", "message"),
    [
        (10, 0.0, {}, "between 0 and 1"),
        (10, 1.0, {}, "between 0 and 1"),
        (1, 0.5, {}, "at least 2 rows"),
        (0, 0.5, {}, "at least 2 rows"),
        (10, 0.5, {"groups": np.zeros(10)}, "one group"),
        (10, 0.5, {"groups": np.zeros(9)}, "one value for each row"),
        (10, 0.5, {"time": np.zeros(10)}, "one time"),
        (10, 0.5, {"time": np.r_[np.nan, np.arange(9)]}, "no time"),
        (10, 0.5, {"target": np.arange(10)}, "No rows can be held out"),
    ],
)
def test_errors(rows: int, fraction: float, options: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(rows, fraction, seed=0, **options)  # type: ignore[arg-type]


# --- copies --------------------------------------------------------------------------------------------------------


def test_copies_are_exact() -> None:
    array = np.array([[0.0, np.nan], [-0.0, np.nan], [0.0, 1.0], [0.0, np.nan]])
    assert duplicate_ids(array).tolist() == [0, 0, 1, 0]
    assert duplicate_count(duplicate_ids(array)) == 2
    images = np.zeros((3, 2, 2), dtype=np.uint8)
    images[1, 0, 0] = 1
    assert duplicate_ids(images).tolist() == [0, 1, 0]
    assert duplicate_count(duplicate_ids(images, np.array([0, 0, 1]))) == 0


def test_copies_in_a_frame_count_missing_and_the_target() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, None, 1.0, None, 1.0], "b": ["x", None, "x", None, "y"]})
    ids = duplicate_ids(frame)
    assert ids[0] == ids[2]
    assert ids[1] == ids[3]
    assert len(set(ids.tolist())) == 3
    assert duplicate_count(duplicate_ids(frame, pd.Series([0, 0, 1, 0, 0]))) == 1


@pytest.mark.parametrize("seed", range(5))
def test_copies_as_pandas_finds_them(seed: int) -> None:
    pd = pytest.importorskip("pandas")
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"a": draw.integers(0, 4, 300), "b": draw.choice(["x", "y", None], 300), "c": draw.integers(0, 9, 300)}
    )
    assert duplicate_count(duplicate_ids(frame)) == int(frame.duplicated().sum())


def test_classes_of_two_rows_can_be_held_out_in_many_folds() -> None:
    """What other folds hold is learned from where one is held out, so that a class needs no row beside them."""
    y = np.repeat(np.arange(26), [3] * 8 + [2] * 18)
    for seed in range(8):
        found = folds(len(y), 5, seed=seed, target=y)
        assert np.bincount(found, minlength=5).min() >= 6
        assert all(set(y[found != fold]) == set(y) for fold in range(5))
