"""Rows held out, so that what is measured on them was never seen: stratified, by groups, by time, copies together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from wellposed.core.errors import DataError, listed, require
from wellposed.core.random import numpy_generator
from wellposed.data.columns import category_codes, is_text
from wellposed.data.readings import Truths
from wellposed.data.table_files import as_frame

Rows: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
AnyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def split(
    rows: int,
    fraction: float,
    *,
    seed: int,
    stream: str = "split",
    target: AnyArray | None = None,
    groups: AnyArray | None = None,
    time: AnyArray | None = None,
    duplicates: AnyArray | None = None,
) -> tuple[Rows, Rows]:
    """Hold out about ``fraction`` of the rows: ``rest, held``, both sorted, without a row in common.

    At random, rows that share a group or are copies of each other are one unit, and a unit is never split (through
    both relations: a copy of a row brings that row's group along). With ``target`` each class gives its share, as far
    as units allow; a class with one row, or in one unit only, stays in the rest, and no class is held out entirely.

    With ``time`` the latest rows are held out, and equal times stay together. Groups then stay whole by cutting only
    where every group lies on one side. A held-out row that is a copy of a row in the rest is left out of both (time
    cannot bend for it); otherwise rest and held are all rows.

    Args:
        rows: number of rows, >= 2.
        fraction: share to hold out, 0 < fraction < 1. At least one row is held out and one is left.
        seed, stream: what the choice is drawn from; equal ones give equal splits.
        target: ``(rows,)`` class indices >= 0, to stratify by. Not used with ``time``.
        groups: ``(rows,)`` a group's id per row.
        time: ``(rows,)`` numbers that order the rows, no NaN.
        duplicates: ``(rows,)`` an id per row, equal for copies, see `duplicate_ids`.
    Raises:
        DataError: fewer rows, groups or times than a split needs, or an argument of the wrong length.

    Example:
        >>> rest, held = split(10, 0.3, seed=0)
        >>> len(rest), len(held)
        (7, 3)
    """
    if not 0 < fraction < 1:
        raise DataError(f"A split holds out a share between 0 and 1, and {fraction} was given. Give for example 0.2.")
    if rows < 2:
        raise DataError(f"A split needs at least 2 rows, and there is {rows}. Give more rows.")
    _check_shapes(rows, target=target, groups=groups, time=time, duplicates=duplicates)
    if time is not None:
        return _latest(np.asarray(time), fraction, groups, duplicates)
    units = _united(rows, groups, duplicates)
    classes = np.zeros(rows, dtype=np.int64) if target is None else _ids(target)
    held = _drawn(units, classes, fraction, numpy_generator(seed, stream))
    return np.flatnonzero(~held), np.flatnonzero(held)


def _check_shapes(rows: int, **values: AnyArray | None) -> None:
    for name, ids in values.items():
        if ids is not None and np.shape(ids) != (rows,):
            raise DataError(f"{name} has shape {np.shape(ids)}; a split of {rows} rows needs one value for each row.")


def folds(
    rows: int,
    count: int,
    *,
    seed: int,
    target: AnyArray | None = None,
    groups: AnyArray | None = None,
    duplicates: AnyArray | None = None,
) -> Rows:
    """``(rows,)`` the fold 0, ..., ``count - 1`` in which each row is held out: about equally many, by the rules of `split`.

    Rows that share a group or are copies are in one fold, and each class gives its share to each fold as far as units allow.

    Args:
        count: >= 2; at most as many as there are groups (or rows that are no copies).
        seed, target, groups, duplicates: see `split`.
    Raises:
        DataError: fewer than two folds, or more than can be held out.

    Example:
        >>> np.bincount(folds(10, 5, seed=0)).tolist()
        [2, 2, 2, 2, 2]
    """
    if count < 2 or count > rows:
        raise DataError(f"{rows} rows can be held out in 2 to {rows} folds; {count} were asked for.")
    _check_shapes(rows, target=target, groups=groups, duplicates=duplicates)
    classes = np.zeros(rows, dtype=np.int64) if target is None else _ids(target)
    totals = np.bincount(classes)
    found = np.full(rows, count - 1, dtype=np.int64)
    left = np.arange(rows)
    for fold in range(count - 1):
        units = _united(len(left), *(None if ids is None else np.asarray(ids)[left] for ids in (groups, duplicates)))
        labels, own = np.unique(classes[left], return_inverse=True)
        others = totals[labels] - np.bincount(own)  # in folds before, and so learned from where this one is held out
        held = _drawn(units, own, 1 / (count - fold), numpy_generator(seed, f"fold {fold}"), others)
        found[left[held]] = fold
        left = left[~held]
    return found


def duplicate_ids(table: Any, target: Any = None) -> Rows:
    """``(rows,)`` ids, 0, 1, ...; equal exactly where rows are exact copies.

    Missing equals missing, and 0.0 equals -0.0. A copy in a table is one of features *and* target: pass both. By
    features alone, tables of few discrete columns would be mostly copies, though their rows are different cases that
    happen to look alike; the target makes the distinction as well as it can be made.

    Args:
        table: a frame, or an array or tensor ``(rows, ...)`` such as images. Not modified.
        target: ``(rows,)``, or None to compare features only.

    Example:
        >>> duplicate_ids(np.array([[1.0], [2.0], [1.0]])).tolist()
        [0, 1, 0]
    """
    if hasattr(table, "detach"):
        table = table.detach().cpu().numpy()
    if isinstance(table, np.ndarray) and table.dtype.kind != "O":
        ids = _bytes_ids(table)
    else:
        frame = as_frame(table)
        ids = np.zeros(len(frame), dtype=np.int64)
        for name in frame.columns:
            ids = _refined(ids, _column_ids(frame[name]))
    if target is not None:
        ids = _refined(ids, _column_ids(target))
    return ids


def duplicate_count(ids: AnyArray) -> int:
    """How many rows are copies of an earlier row."""
    return len(ids) - len(np.unique(ids))


# --- at random -----------------------------------------------------------------------------------------------------


def _drawn(units: Rows, classes: Rows, fraction: float, draw: np.random.Generator, others: Rows | int = 0) -> Truths:
    """Which rows are held out. Units come in random order, so that large ones are no likelier than small ones.

    Args:
        others: how many rows of each class there are beside these, none of which is held out with them.
    """
    contents = _contents(units, classes)
    if len(contents) < 2:
        raise DataError(
            "All rows are one group (or copies of one row), and a split needs at least two. "
            "Leave the group out, or give rows of another group."
        )
    order: list[int] = draw.permutation(len(contents)).tolist()
    chosen = _Choice(classes, fraction, others).take(contents, order)
    return np.isin(units, chosen)


Content: TypeAlias = list[tuple[int, int]]  # (class, rows of that class) of one unit


def _contents(units: Rows, classes: Rows) -> list[Content]:
    pairs, counts = np.unique(np.stack([units, classes], axis=1), axis=0, return_counts=True)
    contents: list[Content] = [[] for _ in range(int(units.max()) + 1)]
    for (unit, label), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        contents[unit].append((label, count))
    return contents


class _Choice:
    """Units taken one by one while they bring the held-out rows nearer to what each class should give.

    A unit with c_k rows of class k is nearer if ``|need - c|^2 < |need|^2``, so the rows of one class are rounded to
    the nearest number; a second pass goes by the total alone, since many small classes would each round to nothing.
    """

    def __init__(self, classes: Rows, fraction: float, others: Rows | int) -> None:
        totals = np.bincount(classes)
        self.left: list[int] = (totals + others).tolist()  # rows of each class that are not held out
        # Without its last row, a class cannot be asked for more than the others.
        self.need: list[float] = np.minimum(fraction * totals, np.maximum(totals + others - 1, 0)).tolist()
        self.total = max(1.0, fraction * len(classes))

    def take(self, contents: Sequence[Content], order: Sequence[int]) -> list[int]:
        chosen = [unit for unit in order if self._nearer(contents[unit]) and self._taken(contents[unit])]
        already = set(chosen)
        left = [unit for unit in order if unit not in already]
        chosen += [unit for unit in left if self._nearer_in_total(contents[unit]) and self._taken(contents[unit])]
        return chosen or [self._smallest(contents, order)]

    def _allowed(self, content: Content) -> bool:
        return all(self.left[label] > count for label, count in content)

    def _nearer(self, content: Content) -> bool:
        gain = sum(count * (2 * self.need[label] - count) for label, count in content)
        return gain > 0 and self._nearer_in_total(content)

    def _nearer_in_total(self, content: Content) -> bool:
        return 2 * self.total > sum(count for _, count in content) and self._allowed(content)

    def _taken(self, content: Content) -> bool:
        for label, count in content:
            self.left[label] -= count
            self.need[label] -= count
            self.total -= count
        return True

    def _smallest(self, contents: Sequence[Content], order: Sequence[int]) -> int:
        allowed = [unit for unit in order if self._allowed(contents[unit])]
        if not allowed:
            raise DataError(
                "No rows can be held out: each group (or set of copies) holds all rows of some class. "
                "Give more rows, or leave the group out."
            )
        return min(allowed, key=lambda unit: sum(count for _, count in contents[unit]))


# --- in time -------------------------------------------------------------------------------------------------------


def _latest(time: AnyArray, fraction: float, groups: AnyArray | None, duplicates: AnyArray | None) -> tuple[Rows, Rows]:
    try:
        moments = time.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"time= needs numbers or dates, which have an order; it was given {time.dtype}. Of texts pandas.to_datetime makes "
            "dates."
        ) from None
    if not np.isfinite(moments).all():
        raise DataError("Some rows have no time. Remove these rows, or leave the time out.")
    blocks = _whole_blocks(_ids(time), groups)
    sizes = np.bincount(blocks)
    if len(sizes) < 2:
        if groups is None:
            raise DataError("No rows can be held out by time: all rows have one time. Leave the time out.")
        raise DataError(
            "No rows can be held out by time: the groups overlap from the first time to the last. "
            "Leave the time or the group out."
        )
    after = np.cumsum(sizes[::-1])[::-1][1:]  # rows from block 1, 2, ... on
    cut = 1 + int(np.argmin(np.abs(after - fraction * len(time))))
    rest, held = np.flatnonzero(blocks < cut), np.flatnonzero(blocks >= cut)
    if duplicates is not None:
        ids = _ids(duplicates)
        held = held[~np.isin(ids[held], ids[rest])]
        if held.size == 0:
            raise DataError(
                "Every row of the latest times is a copy of an earlier one. Remove copies, or leave the time out."
            )
    return rest, held


def _whole_blocks(moments: Rows, groups: AnyArray | None) -> Rows:
    """Blocks 0, 1, ... in time order such that no moment and no group is in two of them."""
    if groups is None:
        return moments
    ids = _ids(groups)
    first = np.full(int(ids.max()) + 1, moments.max() + 1)
    last = np.full_like(first, -1)
    np.minimum.at(first, ids, moments)
    np.maximum.at(last, ids, moments)
    # A group forbids cuts between its first and last moment: +1 where it opens, -1 after it closed.
    opened = np.zeros(int(moments.max()) + 2, dtype=np.int64)
    np.add.at(opened, first + 1, 1)
    np.add.at(opened, last + 1, -1)
    free = np.cumsum(opened)[: int(moments.max()) + 1] == 0  # a cut before moment t splits no group
    free[0] = False
    blocks: Rows = np.cumsum(free)[moments]
    return blocks


# --- ids -----------------------------------------------------------------------------------------------------------


def _ids(values: AnyArray) -> Rows:
    """Any values as 0, 1, ... in sorted order."""
    try:
        return np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1).astype(np.int64)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in np.asarray(values).flat})
        raise DataError(
            f"Groups must all be numbers, or all be texts; these are {listed(kinds)}, which have no common order. Give "
            "each row the number or the name of its group."
        ) from None


def _united(rows: int, groups: AnyArray | None, duplicates: AnyArray | None) -> Rows:
    """Units 0, 1, ...: rows that one of the relations joins, directly or through others."""
    if groups is None and duplicates is None:
        return np.arange(rows)
    if groups is None or duplicates is None:
        return _ids(np.asarray(duplicates if groups is None else groups))
    first, second = _ids(groups), _ids(duplicates)
    parent = list(range(int(first.max()) + 1))
    seen: dict[int, int] = {}
    for group, copy in np.unique(np.stack([first, second], axis=1), axis=0).tolist():
        one, other = _root(parent, group), _root(parent, seen.setdefault(copy, group))
        parent[max(one, other)] = min(one, other)
    return _ids(np.array([_root(parent, group) for group in range(len(parent))])[first])


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _bytes_ids(array: AnyArray) -> Rows:
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    if flat.dtype.kind in "fc":
        flat = np.where(np.isnan(flat), np.nan, flat) + 0.0  # one NaN, one zero
    place: dict[bytes, int] = {}
    # 128 bits: two different rows of a billion meet with probability 1e-21.
    keys = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in flat)
    return np.array([place.setdefault(key, len(place)) for key in keys], dtype=np.int64)


def _column_ids(column: Any) -> Rows:
    if isinstance(column, np.ndarray) and column.dtype.kind != "O":
        return _ids(column)
    pandas = require("pandas", "tables")
    column = pandas.Series(column)
    return category_codes(column)[0] if is_text(column) else np.asarray(pandas.factorize(column)[0], dtype=np.int64)


def _refined(ids: Rows, by: Rows) -> Rows:
    """Ids of pairs of ids."""
    if ids.size == 0 or ids.max() + 1 == ids.size:  # all different already
        return ids
    return _ids(ids * (by.max() + 2) + (by + 1))
