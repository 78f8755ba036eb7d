"""A table as numbers for a network, and a target as classes or a scaled number. Both are learned on training rows only.

An encoder is a list of column descriptions, plain numbers and texts that are saved as JSON. Nothing that it learned can
come from rows that it was not fitted on, and nothing that it gives is NaN or infinite.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, cast

import numpy as np
from pydantic import AfterValidator, Field

from wellposed.core.errors import DataError, FormatError, described, did_you_mean, listed, require
from wellposed.core.files import check_schema
from wellposed.core.numbers import LARGEST
from wellposed.core.schemas import Finite, Scale, validate
from wellposed.data import columns as tabled
from wellposed.data.columns import as_days, as_numbers, as_truths, category_codes, distinct, level_name
from wellposed.data.readings import MOST_LEVELS, ColumnKind, Floats, Integers, Notation, Truths, Usual
from wellposed.data.table_files import as_frame

if TYPE_CHECKING:
    import pandas as pd

Matrix: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

SCHEMA = 1
FAR = 10.0  # scaled numbers beyond it are far from those of training
LEAST_ROWS = 4  # a category with fewer training rows teaches nothing alone; such ones are "other" together
MOST_CATEGORY_FEATURES = 2048  # of all category columns together; with more than 64 of them each keeps fewer levels
BEND = 3.0  # scaled numbers stay within (-3, 3)
FURTHEST = 1e12  # scaled numbers are cut here first, so that nothing overflows
MOST_PIECE_FEATURES = 512  # of all number columns together: a wide table has fewer for each, and a very wide one none
MOST_PIECE_CELLS = 2**27  # of all training rows together, half a gibibyte: very many rows have fewer pieces, too
FEWEST_PIECES = 4  # fewer say little more than the number itself
NORMAL_IQR = 1.349  # the interquartile range of a standard normal: scaled by IQR/1.349 it keeps standard deviation 1


# --- numbers -------------------------------------------------------------------------------------------------------


def robust_scale(x: Floats) -> tuple[float, float]:
    """``center, scale`` of the finite values of ``x``, both unmoved by a few wild ones.

    The center is the median, the scale the interquartile range / 1.349 (the standard deviation, for normal values).
    More than half of the values equal (an amount that is mostly 0) have interquartile range 0: the scale is then the
    median distance of the *others* from the center. Two distinct values become -1 and 1, one value 0.
    """
    x = x[np.isfinite(x)]
    if x.size == 0:
        return 0.0, 1.0
    low, high = float(x.min()), float(x.max())
    if np.all((x == low) | (x == high)):
        return min(max(low / 2 + high / 2, low), high), (high / 2 - low / 2) or 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        first, center, third = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
        scale = (third - first) / NORMAL_IQR
        if scale == 0:
            distance = np.abs(x - center)
            scale = float(np.median(distance[distance > 0]))
    return center, (scale if np.isfinite(scale) and scale > 0 else 1.0)


def squash(x: Floats, center: float, scale: float) -> Floats:
    """``z / sqrt(1 + (z/3)^2)`` with ``z = (x - center) / scale``: about z where |z| < 1, within (-3, 3) everywhere.

    Strictly increasing, so that the order of heavy-tailed values survives where cutting would lose it. A value that is
    missing or infinite becomes 0, the center.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.clip((x - center) / scale, -FURTHEST, FURTHEST)
    return np.where(np.isfinite(x) & np.isfinite(z), z / np.hypot(1.0, z / BEND), 0.0)


def quantile_edges(z: Floats, pieces: int) -> tuple[float, ...]:
    """The increasing ends of at most ``pieces`` pieces with equally many values in each; none where fewer than two are left."""
    if len(np.unique(z)) <= FEWEST_PIECES:
        return ()
    edges = np.unique(np.quantile(z, np.linspace(0.0, 1.0, pieces + 1)))
    return tuple(edges.tolist()) if len(edges) > 2 else ()


def _increasing(edges: tuple[float, ...]) -> tuple[float, ...]:
    if len(edges) == 1 or np.any(np.diff(edges) <= 0):
        raise ValueError("must be increasing numbers, at least two")
    return edges


# --- columns -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnLimits:
    """How many features one column may have: the levels of a category, and the pieces of a number."""

    levels: int
    pieces: int = 0


@dataclass(frozen=True)
class Column(ABC):
    """What the training rows taught about one column. ``missing``: if some had no value, a 0/1 feature says so.

    ``reading`` is how its texts were read, and how those of new rows are.
    """

    kind: ClassVar[ColumnKind]
    name: str
    missing: bool
    reading: Notation | None = field(default=None, kw_only=True)

    @classmethod
    @abstractmethod
    def learn(cls, values: pd.Series[Any], limits: ColumnLimits, reading: Notation) -> Column:
        """Learn from the training rows of one column."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """One name for each feature that `encode` gives."""

    @abstractmethod
    def encode(self, values: pd.Series[Any]) -> Matrix | Floats:
        """``(rows,)`` values as ``(rows, features)``, finite."""

    def doubts(self, values: pd.Series[Any]) -> list[str]:
        """What about new rows is not as in training, in sentences that go on after the column's name."""
        return []

    def _with_missing(self, names: list[str]) -> list[str]:
        return [*names, f"{self.name} (missing)"] if self.missing else names

    def _stacked(self, features: Sequence[Floats], absent: Truths) -> Floats:
        return np.column_stack([*features, absent.astype(np.float64)] if self.missing else features)


@dataclass(frozen=True)
class NumberColumn(Column):
    """``squash(x, center, scale)``; missing, infinite and unreadable values are 0 (the center).

    ``low`` and ``high`` are the ends of the training rows. Between ``edges`` ``e_0 < ... < e_k``, which are on the scale of the
    squashed numbers ``s``, there are ``k`` more features ``clip((s - e_j)/(e_{j+1} - e_j), 0, 1)``: what is linear in them
    bends at each edge in ``s``.
    """

    kind = "number"
    center: Finite
    scale: Scale
    edges: Annotated[tuple[Finite, ...], AfterValidator(_increasing)] = field(default=(), kw_only=True)
    low: Finite | None = field(default=None, kw_only=True)
    high: Finite | None = field(default=None, kw_only=True)

    @classmethod
    def learn(cls, values: pd.Series[Any], limits: ColumnLimits, reading: Notation) -> NumberColumn:
        x = as_numbers(values, reading)
        there = np.isfinite(x)
        center, scale = robust_scale(x)
        edges = quantile_edges(squash(x[there], center, scale), limits.pieces) if limits.pieces and there.any() else ()
        return cls(str(values.name), not there.all(), center, scale, edges=edges, reading=reading, **_ends(x))

    @property
    def names(self) -> list[str]:
        return self._with_missing([self.name, *(f"{self.name} (piece {k + 1})" for k in range(len(self.edges) - 1))])

    def encode(self, values: pd.Series[Any]) -> Floats:
        x = as_numbers(values, self.reading)
        s, edges = squash(x, self.center, self.scale), np.asarray(self.edges)
        with np.errstate(over="ignore"):  # edges may be as near as numbers can be
            pieces = np.clip((s - edges[:-1, None]) / np.diff(edges)[:, None], 0.0, 1.0) if self.edges else ()
        return self._stacked([s, *pieces], ~np.isfinite(x))

    def doubts(self, values: pd.Series[Any]) -> list[str]:
        x = as_numbers(values, self.reading)
        x = x[np.isfinite(x)]
        if self.low is None or self.high is None:
            return []
        far = (x < self.low) | (x > self.high) | (np.abs(x - self.center) / self.scale > FAR)
        if 2 * far.sum() <= x.size:
            return []
        return [
            f"has {far.sum()} of {x.size} values far from those of training ({self.low:g} to {self.high:g}, mostly near "
            f"{self.center:g}), such as {x[far][0]:g}. Is it in another unit?"
        ]


def _ends(x: Floats) -> dict[str, float]:
    there = x[np.isfinite(x)]
    return {"low": float(there.min()), "high": float(there.max())} if there.size else {}


@dataclass(frozen=True)
class BooleanColumn(Column):
    """1 for true, -1 for false, 0 for missing."""

    kind = "boolean"

    @classmethod
    def learn(cls, values: pd.Series[Any], limits: ColumnLimits, reading: Notation) -> BooleanColumn:
        return cls(str(values.name), bool(np.isnan(as_truths(values)).any()), reading=reading)

    @property
    def names(self) -> list[str]:
        return self._with_missing([self.name])

    def encode(self, values: pd.Series[Any]) -> Floats:
        x = as_truths(values)
        return self._stacked([np.nan_to_num(2 * x - 1)], np.isnan(x))


@dataclass(frozen=True)
class CategoryColumn(Column):
    """One 0/1 feature for each level, one for all others where the training rows had such, one for missing."""

    kind = "category"
    levels: tuple[str, ...]
    other: bool

    @classmethod
    def learn(cls, values: pd.Series[Any], limits: ColumnLimits, reading: Notation) -> CategoryColumn:
        codes, names = category_codes(values)
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        # The most frequent first, equally frequent ones by name: the order of the rows must not matter.
        ranked = sorted(range(len(names)), key=lambda i: (-counts[i], names[i]))
        kept = [names[i] for i in ranked[: limits.levels] if counts[i] >= LEAST_ROWS]
        some_missing = bool((codes < 0).any())
        return cls(str(values.name), some_missing, tuple(sorted(kept)), len(kept) < len(names), reading=reading)

    @property
    def names(self) -> list[str]:
        known = [f"{self.name} = {level}" for level in self.levels]
        return self._with_missing([*known, f"{self.name} (other)"] if self.other else known)

    def encode(self, values: pd.Series[Any]) -> Matrix:
        codes, names = category_codes(values)
        nowhere = -1
        place = {level: i for i, level in enumerate(self.levels)}
        other = len(self.levels) if self.other else nowhere
        absent = len(self.levels) + self.other if self.missing else nowhere
        target = np.array([*(place.get(name, other) for name in names), absent])[codes]
        encoded = np.zeros((len(codes), len(self.names)), dtype=np.float32)
        rows = np.flatnonzero(target != nowhere)
        encoded[rows, target[rows]] = 1.0
        return encoded

    def doubts(self, values: pd.Series[Any]) -> list[str]:
        codes, names = category_codes(values)
        known = set(self.levels)
        new = np.array([name not in known for name in names], dtype=bool)
        count, there = int(np.append(new, False)[codes].sum()), int((codes >= 0).sum())
        if not known or 2 * count <= there:
            return []
        example = names[int(np.flatnonzero(new)[0])]
        return [
            f"has {count} of {there} values, such as {example!r}, that are none of the {len(known)} that training could learn "
            f"({listed(map(repr, self.levels), 3)})."
        ]


@dataclass(frozen=True)
class DateColumn(Column):
    """Days since 1970 as a number, and the place in the year, the week and (if ``clock``) the day as points on circles.

    A circle has two features, sine and cosine, so that December is near January; both are 0 where the date is missing.
    """

    kind = "date"
    center: Finite
    scale: Scale
    clock: bool
    low: Finite | None = field(default=None, kw_only=True)
    high: Finite | None = field(default=None, kw_only=True)

    @classmethod
    def learn(cls, values: pd.Series[Any], limits: ColumnLimits, reading: Notation) -> DateColumn:
        days = as_days(values, reading)
        there = days[np.isfinite(days)]
        clock = bool(np.any(there % 1 != 0))
        return cls(str(values.name), there.size < days.size, *robust_scale(days), clock, reading=reading, **_ends(days))

    @property
    def names(self) -> list[str]:
        circles = ["year", "week", "day"] if self.clock else ["year", "week"]
        points = [f"{self.name} ({side} of {circle})" for circle in circles for side in ("sine", "cosine")]
        return self._with_missing([self.name, *points])

    def encode(self, values: pd.Series[Any]) -> Floats:
        days = as_days(values, self.reading)
        absent = ~np.isfinite(days)
        phases = _phases(np.where(absent, 0.0, days))[: 3 if self.clock else 2]
        points = [np.where(absent, 0.0, f(2 * np.pi * phase)) for phase in phases for f in (np.sin, np.cos)]
        return self._stacked([squash(days, self.center, self.scale), *points], absent)

    def doubts(self, values: pd.Series[Any]) -> list[str]:
        days = as_days(values, self.reading)
        days = days[np.isfinite(days)]
        if self.low is None or self.high is None:
            return []
        width = max(self.high - self.low, 366.0)  # new rows come later: that alone is no doubt
        far = (days < self.low - width) | (days > self.high + width)
        if 2 * far.sum() <= days.size:
            return []
        low, high, example = (np.datetime64(int(day), "D") for day in (self.low, self.high, days[far][0]))
        return [
            f"has {far.sum()} of {days.size} dates far from those of training ({low} to {high}), such as {example}."
        ]


def _phases(days: Floats) -> list[Floats]:
    """Where in the year, the week (from Monday) and the day, each in [0, 1)."""
    whole = np.clip(np.floor(days), -(10**7), 10**7).astype(np.int64)
    year = whole.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    return [(whole - year) / 366, ((whole + 3) % 7) / 7, days % 1]  # 1970-01-01 was a Thursday


_BY_KIND: dict[str, type[Column]] = {c.kind: c for c in (NumberColumn, CategoryColumn, BooleanColumn, DateColumn)}


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableEncoder:
    """A table of any kinds as ``(rows, features)`` float32, by what the training rows taught.

    - number: ``z / sqrt(1 + (z/3)^2)`` with ``z = (x - median) / (IQR/1.349)``, see `robust_scale` and `squash`; so
      heavy tails neither shrink the rest nor leave (-3, 3). Missing, infinite or unreadable: 0, which is the median. With
      ``pieces`` there are more features, each of which rises from 0 to 1 between two quantiles: what a network makes of a number
      can then bend where its values are, as a tree's steps can. All numbers together have about 512 of them at most.
    - boolean: -1 or 1; missing 0.
    - category: one 0/1 feature for each of the 30 most frequent levels that have at least 4 training rows, one for all
      others together if the training rows had others. A level never seen is "other", or all zeros where there is none.
    - date: days (as a number), and sine and cosine of the place in year, week and, if there are times, day.

    A column that missed values in the training rows has one more feature, 1 where the value is missing. All categories
    together make about 2,048 features at most (from the 65th category column on each keeps fewer levels, at least one);
    numbers are all kept.
    """

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, frame: Any, kinds: Mapping[str, str | Notation] | None = None, pieces: int = 0) -> TableEncoder:
        """Learn from the training rows.

        Args:
            frame: ``(rows, columns)`` of features, rows >= 1: anything that `as_frame` takes. Not modified.
            kinds: kinds for some columns by name, ``"number"``, ``"category"``, ``"boolean"`` or ``"date"``, or their
                `Notation`; the others are inferred, see `column_kind`. ``"ignore"`` leaves a column out.
            pieces: of a number, at most; 0 for the number alone.
        Raises:
            DataError: there is no row or no column, or ``kinds`` names an unknown column or kind.
        Source:
            Gorishniy, Rubachev & Babenko (2022), NeurIPS, for the pieces.
        """
        table = as_frame(frame)
        if table.shape[0] == 0 or table.shape[1] == 0:
            raise DataError(
                f"The training rows are {table.shape[0]} x {table.shape[1]}; an encoder needs at least one of both."
            )
        given = tabled.checked_kinds(kinds or {}, list(table.columns))
        table = table.drop(columns=[name for name, kind in given.items() if kind == "ignore"])
        found: dict[str, Notation] = {}
        for name in table.columns:
            kind: Any = given.get(name)
            found[name] = kind if isinstance(kind, Notation) else tabled.column_reading(table[name], kind=kind)
        many = Counter(reading.kind for reading in found.values())
        pieces = min(pieces, min(MOST_PIECE_FEATURES, MOST_PIECE_CELLS // len(table)) // max(many["number"], 1))
        levels = max(1, min(MOST_LEVELS, MOST_CATEGORY_FEATURES // max(many["category"], 1) - 2))
        limits = ColumnLimits(levels, pieces if pieces >= FEWEST_PIECES else 0)
        return cls(tuple(_BY_KIND[r.kind].learn(table[name], limits, r) for name, r in found.items()))

    @property
    def names(self) -> list[str]:
        """One name for each feature, in the order of `transform`'s columns."""
        return [name for column in self.columns for name in column.names]

    @property
    def whole(self) -> Integers:
        """Places from 0 on, increasing, of the features that are no pieces of a number. The references take these alone."""
        pieces = [(k, len(getattr(column, "edges", ()))) for column in self.columns for k in range(len(column.names))]
        return np.flatnonzero([not 0 < k < edges for k, edges in pieces])

    @property
    def places(self) -> dict[Column, slice]:
        """Where each column's features are among all."""
        ends = list(itertools.accumulate((len(column.names) for column in self.columns), initial=0))
        return {column: slice(*ends[k : k + 2]) for k, column in enumerate(self.columns)}

    def transform(self, frame: Any) -> Matrix:
        """Encode a table as ``(rows, features)`` float32 numbers, all of them finite.

        Args:
            frame: has the columns of the training rows by name, in any order; others are ignored. An array's columns
                are named by their place. Not modified.
        Raises:
            DataError: a column is missing.
        """
        table, _ = self._alike(as_frame(frame))
        encoded = np.empty((len(table), len(self.names)), dtype=np.float32)
        for column, place in self.places.items():
            encoded[:, place] = column.encode(table[column.name])
        return encoded

    def doubts(self, frame: Any) -> list[str]:
        """What about new rows is not as in training, one sentence a column; empty where nothing is.

        Values that cannot be read, values far from those of training in most rows, categories in most rows that training
        did not know, and columns that are mostly empty and were not.

        Raises:
            DataError: a column is missing, or most of its values cannot be read as what it was in training.
        """
        table, other = self._alike(as_frame(frame))
        said = [f"Column {c.name!r} {one}" for c in self.columns for one in _doubts(c, table[c.name])]
        for name, example in self._either_way(table).items():
            said.append(
                f"Column {name!r} has thousands in training, and here nothing but {example!r} and the like, which are read as "
                "decimals. Write them as in training if these are thousands."
            )
        if other:
            said.append(f"The decimal sign is not that of training, and read so: {listed(map(repr, other))}.")
        if blank := table.isna().all(axis=1).sum():
            said.append(f"{blank} of {len(table)} rows are blank: what is predicted for them rests on nothing.")
        return said

    def _alike(self, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """The table, after a check of its names, with numbers for texts that have the other decimal sign than in training; and
        which columns have it.

        It must be beyond doubt in one of them; then those that can be read in two ways are read as this one.
        """
        self._check(set(table.columns))
        known = {c.name: c.reading for c in self.columns if c.kind == "number" and c.reading is not None}
        found = {n: tabled.other_sign(table[n], reading) for n, reading in known.items() if tabled.is_text(table[n])}
        usual = next((Usual(reading.decimal) for reading in found.values() if reading is not None), None)
        for name in found if usual is not None else ():
            found[name] = found[name] or tabled.other_sign(table[name], known[name], usual)
        new = {name: reading for name, reading in found.items() if reading is not None}
        return table.assign(**{name: as_numbers(table[name], reading) for name, reading in new.items()}), list(new)

    def _either_way(self, table: pd.DataFrame) -> dict[str, str]:
        """An example from each column whose decimals may be the thousands of another dialect, as they were in training."""
        grouped = [c for c in self.columns if c.kind == "number" and c.reading is not None and c.reading.grouped]
        texts = {c.name: tabled.category_codes(table[c.name])[1] for c in grouped if tabled.is_text(table[c.name])}
        doubtful = [name for name in texts if tabled.column_reading(table[name], kind="number").doubt]
        signs = {c.name: cast(Notation, c.reading).decimal for c in grouped}
        found = {name: next((text for text in texts[name] if signs[name] in text), "") for name in doubtful}
        return {name: example for name, example in found.items() if example}

    def _check(self, known: set[str]) -> None:
        absent = [column.name for column in self.columns if column.name not in known]
        if not absent:
            return
        expected = {column.name for column in self.columns}
        hint = did_you_mean(absent[0], [name for name in known if name not in expected])
        raise DataError(
            f"The table misses {len(absent)} of the {len(self.columns)} columns that the model was trained on: "
            f"{listed(map(repr, absent))}.{hint} Give a table with these columns."
        )

    def to_dict(self) -> dict[str, Any]:
        """What JSON can say; `from_dict` gives back an encoder that transforms equally, bit for bit."""
        return {"schema": SCHEMA, "columns": [{"kind": column.kind, **asdict(column)} for column in self.columns]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TableEncoder:
        """The encoder that `to_dict` described.

        Raises:
            FormatError: the description has another schema or is damaged.
        """
        check_schema(saved.get("schema"), SCHEMA, "columns", "description of a table's columns")
        columns = validate(list[dict[str, Any]], saved.get("columns"), "The description of a table's columns")
        return cls(tuple(_column_from(item) for item in columns))


def _column_from(item: Mapping[str, Any]) -> Column:
    kind: str = validate(cast(Any, ColumnKind), item.get("kind"), "The kind of a column")
    what = f"The description of the column {described(item.get('name'))}"
    found = validate(_BY_KIND[kind], item, what)
    if isinstance(found, (NumberColumn, DateColumn)) and found.low is not None and found.high is not None:
        low, center, high = found.low, found.center, found.high
        if not low <= center <= high:
            raise FormatError(f"{what} is damaged: its center {center:g} is not between {low:g} and {high:g}.")
    return found


def _doubts(column: Column, values: pd.Series[Any]) -> list[str]:
    said: list[str] = []
    if column.reading is not None:
        missed = tabled.unread(values, column.reading)
        if missed.count:
            what = f"{missed.count} of {missed.there} values that are no {column.kind}, such as {missed.example!r}"
            learned = getattr(column, "low", 0.0) is not None  # a column that was empty in training was read as nothing
            if learned and 2 * missed.count > missed.there:
                raise DataError(
                    f"Column {column.name!r} was read as {column.reading.said()} in training and now has {what}. Write it alike."
                )
            said.append(f"has {what}: they count as missing.")
    absent = values.isna().to_numpy(dtype=bool)
    if not column.missing and 2 * absent.sum() > len(absent):
        said.append(f"is empty in {absent.sum()} of {len(absent)} rows, and was in no training row.")
    return said + column.doubts(values)


# --- the target ----------------------------------------------------------------------------------------------------

Label: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class TargetEncoder:
    """Classes as 0, 1, ... in sorted order, or a number as ``(y - mean) / scale``, both of the training rows.

    ``labels`` are the classes with the types that they came in, or None for regression.
    """

    task: Literal["classification", "regression"]
    labels: Annotated[tuple[Label, ...], Field(min_length=1)] | None = None
    mean: Finite = 0.0
    scale: Scale = 1.0

    @classmethod
    def fit(cls, series: Any, task: str) -> TargetEncoder:
        """Learn from a target ``(rows,)``: a series or an array, no value missing.

        Args:
            task: ``"classification"`` or ``"regression"``.
        Raises:
            DataError: a value is missing, or no finite number (regression), or there is no row, or no such task.
        """
        target = _as_series(series)
        if task == "classification":
            codes, values = distinct(target)
            _refuse_missing(codes < 0)
            return cls("classification", _sorted_labels(values))
        if task != "regression":
            raise DataError(f"There is no task {task!r}. Use 'classification' or 'regression'.")
        y = _finite_numbers(target)
        return cls("regression", None, float(y.mean()), float(y.std()) or 1.0)

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, in the order of their indices; None for regression."""
        return None if self.labels is None else [level_name(label) for label in self.labels]

    def transform(self, series: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """``(rows,)``: int64 indices of classes, or float32 with mean 0 and deviation 1 on the training rows.

        Raises:
            DataError: a class that was not there in training, a missing value, or no number.
        """
        target = _as_series(series)
        if self.classes is None:
            scaled: Floats = (_finite_numbers(target) - self.mean) / self.scale
            return scaled.astype(np.float32)
        codes, names = category_codes(target)
        _refuse_missing(codes < 0)
        place = {name: i for i, name in enumerate(self.classes)}
        unknown = [name for name in names if name not in place]
        if unknown:
            raise DataError(
                f"The target has {listed(map(repr, unknown))}, which no training row had. "
                f"Known classes: {listed(self.classes)}."
            )
        return np.array([place[name] for name in names], dtype=np.int64)[codes]

    def inverse(self, values: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """Indices back to the classes as they came in, scaled numbers back to the target's unit (float64)."""
        if self.labels is None:
            return np.asarray(np.asarray(values, dtype=np.float64) * self.scale + self.mean)
        of_one_type = all(type(label) is type(self.labels[0]) for label in self.labels)
        texts = isinstance(self.labels[0], str) or not of_one_type
        known = np.array(self.labels, dtype=object if texts else None)
        return known[np.asarray(values, dtype=np.int64)]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can say; `from_dict` gives the encoder back."""
        labels = None if self.labels is None else list(self.labels)
        return {"schema": SCHEMA, "task": self.task, "labels": labels, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TargetEncoder:
        """The encoder that `to_dict` described.

        Raises:
            FormatError: the description has another schema or is damaged.
        """
        check_schema(saved.get("schema"), SCHEMA, "target", "description of a target")
        found = validate(cls, saved, "The description of a target", ("labels", "mean", "scale"))
        if (found.labels is None) != (found.task == "regression"):
            raise FormatError(
                f"The description of a target is damaged: a {found.task} has {described(found.labels)} as labels."
            )
        return found


def _as_series(values: Any) -> pd.Series[Any]:
    pandas = require("pandas", "tables")
    if not isinstance(values, pandas.Series):
        values = pandas.Series(np.asarray(values).reshape(-1))
    series: pd.Series[Any] = values
    if len(series) == 0:
        raise DataError("The target has no rows. Give at least one.")
    return series


def _finite_numbers(target: pd.Series[Any]) -> Floats:
    y = as_numbers(target)
    bad = int((~np.isfinite(y)).sum())
    if bad:
        raise DataError(f"The target has {bad} values that are missing, infinite or no number. Remove these rows.")
    if float(np.abs(y).max(initial=0.0)) > LARGEST:
        raise DataError(f"The target has numbers beyond {LARGEST:g}. Give it in a larger unit, or its logarithm.")
    return y


def _refuse_missing(absent: Truths) -> None:
    if absent.any():
        raise DataError(f"The target is missing in {int(absent.sum())} rows. Remove these rows.")


def _sorted_labels(values: Iterable[Any]) -> tuple[Label, ...]:
    by_name = {level_name(value): _label(value) for value in values}
    labels = list(by_name.values())
    if any(isinstance(label, str) for label in labels):
        return tuple(sorted(by_name))  # texts and numbers together are all texts
    return tuple(sorted(labels))


def _label(value: Any) -> Label:
    plain: object = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, (bool, int)):
        return plain
    if isinstance(plain, float):
        return int(plain) if plain.is_integer() else plain
    return level_name(plain)
