"""A column of a table: what kind it is, and its values in that kind.

Everything that looks at texts looks at the distinct ones only, so that a long column of few categories is cheap.
`wellposed.data.readings` says what a text is; here are columns of any type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from wellposed.core.errors import DataError, did_you_mean, listed, require
from wellposed.data import readings
from wellposed.data.readings import ColumnKind, Floats, Integers, Notation, Usual, infer_reading, sentinels

if TYPE_CHECKING:
    import pandas as pd


def level_name(value: Any) -> str:
    """A value as the name of a category: ``1``, ``1.0`` and ``"1"`` are one category, white space around it is none."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def category_codes(column: pd.Series[Any]) -> tuple[Integers, list[str]]:
    """``codes`` into ``names``, the distinct categories in order of appearance; -1 where missing (an empty text is)."""
    codes, uniques = distinct(column)
    named = np.array([level_name(value) or None for value in uniques], dtype=object)
    table, names = require("pandas", "tables").factorize(named)
    return np.append(table, -1)[codes], list(names)  # the last entry is what code -1 finds


def _counted(column: pd.Series[Any]) -> tuple[Integers, list[str], Integers]:
    """`category_codes`, and how many rows each category has."""
    codes, names = category_codes(column)
    return codes, names, np.bincount(codes[codes >= 0], minlength=len(names))


def distinct(column: pd.Series[Any]) -> tuple[Integers, list[Any]]:
    """``codes`` into the distinct values in order of appearance; -1 where missing."""
    pandas = require("pandas", "tables")
    try:
        codes, uniques = pandas.factorize(column)
    except TypeError:  # lists, dicts and other values that have no hash
        codes, uniques = pandas.factorize(column.map(str, na_action="ignore"))
    return np.asarray(codes, dtype=np.int64), list(uniques)


def apart_where_missing(codes: Integers) -> Integers:
    """Codes ``(rows,)``, each missing one (-1) a number of its own beyond the others."""
    alone = codes < 0
    return np.where(alone, codes.max() + np.cumsum(alone), codes)


def is_text(column: pd.Series[Any]) -> bool:
    """Whether the column holds texts or objects, of which some may be numbers."""
    types = require("pandas", "tables").api.types
    return bool(types.is_object_dtype(column.dtype) or types.is_string_dtype(column.dtype))


def column_kind(column: pd.Series[Any]) -> ColumnKind:
    """The kind of a column, by its type and, for texts, by its values.

    - booleans, or only words for yes and no in one of several languages: ``boolean``;
    - numeric types, durations (in days): ``number``; dates and times: ``date``; a pandas categorical: ``category``;
    - texts: ``number`` if at least 90 % of the values are numbers, or at least half of them and there are more than 30
      distinct values (then categories would say little); words for "missing" do not count, and digits that begin with 0
      are codes; ``date`` if at least 90 % are written as ``2024-05-31``, ``31.05.2024``, ``5/31/2024`` or ``31 May 2024``,
      with or without a time; otherwise ``category``.
    """
    return column_reading(column).kind


def column_reading(column: pd.Series[Any], usual: Usual | None = None, kind: ColumnKind | None = None) -> Notation:
    """How a column is read: by its type, or by all of its texts. ``kind`` is one that a person gave."""
    pandas = require("pandas", "tables")
    types = pandas.api.types
    if types.is_bool_dtype(column.dtype):
        return Notation(kind or "boolean")
    if types.is_datetime64_any_dtype(column.dtype):
        return Notation(kind or "date")
    if types.is_numeric_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        return Notation(kind or "number")
    if isinstance(column.dtype, pandas.CategoricalDtype):
        names = {level_name(name).lower() for name in column.cat.categories}
        return Notation(kind or ("boolean" if names and names <= readings.PLAIN_TRUTHS else "category"))
    if kind in (None, "number") and (plain := _plain_numbers(column)) is not None:
        return Notation("number", missing=sentinels(*np.unique(plain, return_counts=True)))
    _, texts, counts = _counted(column)
    return infer_reading(texts, counts, usual, kind)


_CODE, _EITHER = re.compile(r"\s*[-+]?0\d+\s*"), re.compile(r"\s*[-+]?[1-9]\d{0,2}\.\d{3}\s*")
_COMPACT_DATE = re.compile(r"(?:19|20)\d{6}")


def _as_programs_write(column: pd.Series[Any]) -> pd.Series[Any] | None:
    """The numbers of texts that are all written as programs write them, which needs no look at each; else None."""
    pandas = require("pandas", "tables")
    types = pandas.api.types
    if types.is_object_dtype(column.dtype) and types.infer_dtype(column, skipna=True) != "string":
        return None
    try:
        numbers: pd.Series[Any] = pandas.to_numeric(column)  # ends at the first text that is none
    except (TypeError, ValueError):
        return None
    if not types.is_numeric_dtype(numbers.dtype):  # beyond 64 bits
        numbers = pandas.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().equals(column.notna()) else None


def _plain_numbers(column: pd.Series[Any]) -> Floats | None:
    """The values, none missing, of texts that are numbers and cannot be codes, dates or thousands; else None."""
    numbers = _as_programs_write(column) if is_text(column) else None
    if numbers is None or not numbers.notna().any():
        return None
    texts = column.dropna().tolist()
    points = [text for text in texts if "." in text]
    if any(map(_CODE.fullmatch, texts)) or all(map(_COMPACT_DATE.fullmatch, texts)):
        return None
    if points and all(map(_EITHER.fullmatch, points)):
        return None
    return np.asarray(numbers.dropna(), dtype=np.float64)


def as_numbers(column: pd.Series[Any], reading: Notation | None = None) -> Floats:
    """``(rows,)`` float64, NaN where missing or no number. Infinities stay.

    Args:
        reading: how texts are written; by default it is found.
    """
    types = require("pandas", "tables").api.types
    if types.is_datetime64_any_dtype(column.dtype):
        return as_days(column)
    if types.is_timedelta64_dtype(column.dtype):
        return np.asarray(column.to_numpy() / np.timedelta64(1, "D"), dtype=np.float64)
    if types.is_complex_dtype(column.dtype):
        return np.real(column.to_numpy()).astype(np.float64)
    if types.is_numeric_dtype(column.dtype):
        found = np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return found if reading is None else reading.without_sentinels(found)
    return _by_reading(column, reading, "number")


def as_truths(column: pd.Series[Any]) -> Floats:
    """``(rows,)`` float64: 1 true, 0 false, NaN where missing or neither. So do yes and no in several languages, 1 and 0."""
    return _by_reading(column, Notation("boolean"), "boolean")


def as_days(column: pd.Series[Any], reading: Notation | None = None) -> Floats:
    """``(rows,)`` float64: days since 1970-01-01 UTC with their fraction, NaN where missing or no date.

    Args:
        reading: how texts are written; by default it is found.
    """
    pandas = require("pandas", "tables")
    types = pandas.api.types
    if types.is_numeric_dtype(column.dtype):
        return as_numbers(column)
    if types.is_datetime64_any_dtype(column.dtype):
        return readings.days_of(pandas.DatetimeIndex(column))
    return _by_reading(column, reading, "date")


def ordered_values(column: pd.Series[Any]) -> Floats | None:
    """``(rows,)`` numbers, or dates as days since 1970; None of a column of another kind."""
    kind = column_kind(column)
    return as_days(column) if kind == "date" else as_numbers(column) if kind == "number" else None


def _by_reading(column: pd.Series[Any], reading: Notation | None, kind: ColumnKind) -> Floats:
    if reading is not None and reading.plain and (numbers := _as_programs_write(column)) is not None:
        return reading.without_sentinels(numbers.to_numpy(dtype=np.float64))
    codes, names, counts = _counted(column)
    return np.append((reading or infer_reading(names, counts, kind=kind)).values(names), np.nan)[codes]


# --- whole tables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unread:
    """Cells of a column that its reading makes nothing of: ``count`` of ``there``, such as ``example``."""

    count: int
    there: int
    example: str


def unread(column: pd.Series[Any], reading: Notation) -> Unread:
    """How many texts of a column are no number, date or truth under a reading. Words for "missing" are not counted."""
    as_it_is = not is_text(column) or reading.kind == "category"
    if as_it_is or (reading.plain and _as_programs_write(column) is not None):
        return Unread(0, int(column.notna().sum()), "")
    _, names, counts = _counted(column)
    there = np.array([name.lower() not in readings.MISSING_WORDS for name in names], dtype=bool)
    bad = there & np.isnan(replace(reading, missing=()).values(names))
    example = names[int(np.flatnonzero(bad)[0])] if bad.any() else ""
    return Unread(int(counts[bad].sum()), int(counts[there].sum()), example)


def other_sign(column: pd.Series[Any], reading: Notation, usual: Usual | None = None) -> Notation | None:
    """How texts are read whose decimal sign is not that of ``reading``; None where it is, or where that is in doubt."""
    if usual is None and not unread(column, reading).count:
        return None
    found = column_reading(column, usual, "number")
    other = found.decimal != reading.decimal and not found.doubt and (found.grouped or _has(column, found.decimal))
    fits = other and found.unit in ("", reading.unit) and not unread(column, found).count
    return replace(found, missing=reading.missing) if fits else None


def read_columns(
    frame: pd.DataFrame, kinds: Mapping[str, str | Notation] | None = None, separator: str = ","
) -> tuple[pd.DataFrame, dict[str, Notation], list[str]]:
    """Columns of texts as the numbers, dates and truths that they are; how each was read; and what is to be said of it.

    A column that can be read in two ways is read as the others show: where one has decimal commas beyond doubt, ``1.234``
    is 1234. Categories, and yes and no in words, stay the texts that they are.

    Args:
        frame: columns of any type, named by text. Not modified.
        kinds: kinds or readings for some columns; ``ignore`` leaves one out, ``text`` is ``category``. ``number:,`` has decimal
            commas and ``date:month`` the month first, where the cells allow both.
        separator: the sign between cells of the file.
    Raises:
        DataError: ``kinds`` names an unknown column or kind.
    """
    given = checked_kinds(kinds or {}, list(frame.columns))
    frame = frame.drop(columns=[name for name, kind in given.items() if kind == "ignore"])
    found = {name: _found(frame[name], Usual(separator=separator), given.get(name)) for name in frame.columns}
    usual = _usual(found, separator, frame)
    for name, reading in found.items():
        if reading.doubt:
            found[name] = _found(frame[name], usual, given.get(name))
    gone = {number for reading in found.values() for number in reading.missing}
    for name, reading in found.items():
        if gone and reading.kind == "number" and not reading.missing and not isinstance(given.get(name), Notation):
            values, counts = np.unique(as_numbers(frame[name], reading), return_counts=True)
            found[name] = replace(reading, missing=sentinels(values, counts, gone))
    said: list[str] = []
    columns: dict[str, pd.Series[Any]] = {}
    for name, reading in found.items():
        columns[name] = read_column(frame[name], reading, isinstance(given.get(name), str))
        said += _remarks(name, frame[name], reading)
    for number in sorted(gone):
        names = listed(repr(name) for name, reading in found.items() if number in reading.missing)
        said.append(f"{number:g} is taken as missing in {names}.")
    pandas = require("pandas", "tables")
    return pandas.DataFrame(columns, index=frame.index, columns=frame.columns), found, said


def _found(column: pd.Series[Any], usual: Usual, given: str | Notation | None) -> Notation:
    if isinstance(given, Notation):
        return given
    kind, _, how = (given or "").partition(":")
    if how:
        usual = replace(usual, order=cast(Any, how)) if kind == "date" else replace(usual, decimal=cast(Any, how))
    reading = column_reading(column, usual, cast(ColumnKind | None, kind or None))
    if reading.kind == "number" and not is_text(column):
        reading = replace(reading, missing=sentinels(*np.unique(as_numbers(column), return_counts=True)))
    return reading


def _usual(found: Mapping[str, Notation], separator: str, frame: pd.DataFrame) -> Usual:
    """What most columns show that can be read in one way only."""
    texts = {name: reading for name, reading in found.items() if not reading.doubt and is_text(frame[name])}
    numbers = {name: reading for name, reading in texts.items() if reading.kind == "number"}
    signs = Counter(r.decimal for n, r in numbers.items() if r.grouped or _has(frame[n], r.decimal))
    orders = Counter(r.order for r in texts.values() if r.kind == "date" and r.order != "year")
    return Usual(
        signs.most_common(1)[0][0] if signs else None, orders.most_common(1)[0][0] if orders else None, separator
    )


def read_column(column: pd.Series[Any], reading: Notation, asked: bool = False) -> pd.Series[Any]:
    """A column in the type of its reading; categories, and yes and no in words, as they are.

    Args:
        asked: a person gave the kind: then a category is a pandas categorical, which nothing takes for numbers again.
    """
    found = _typed(column, reading, asked)
    pandas = require("pandas", "tables")
    return column if found is None else pandas.Series(found, index=column.index, name=column.name)


def _typed(column: pd.Series[Any], reading: Notation, asked: bool) -> Any:
    """The values of a column in the type of its reading; None where they are as they should be."""
    if reading.kind == "category":
        codes, names = category_codes(column)
        return require("pandas", "tables").Categorical.from_codes(codes, names) if asked else None
    if reading.kind == "date":
        days = as_days(column, reading)
        whole = np.where(np.isnan(days), 0, days)
        with np.errstate(invalid="ignore"):
            moments = np.round(whole * 86_400e6).astype("int64").astype("datetime64[us]")
        moments[np.isnan(days)] = np.datetime64("NaT")
        return moments
    if reading.kind == "boolean":
        values, names = as_truths(column), category_codes(column)[1]
        if not asked and not {name.lower() for name in names} <= readings.PLAIN_TRUTHS:
            return None
        gone = np.isnan(values)
        return np.where(gone, None, values == 1.0) if gone.any() else values.astype(bool)
    if not reading.missing and not is_text(column):
        return None
    if not reading.missing and reading.plain and (numbers := _as_programs_write(column)) is not None:
        return numbers  # with large whole numbers whole
    values = as_numbers(column, reading)
    are_whole = bool((np.isfinite(values) & (np.abs(values) < 2**53) & (values == np.round(values))).all())
    return values.astype(np.int64) if are_whole and not (is_text(column) and _has(column, reading.decimal)) else values


def _has(column: pd.Series[Any], sign: str) -> bool:
    return bool(column.astype(str).str.contains(sign, regex=False).any())


def _remarks(name: str, column: pd.Series[Any], reading: Notation) -> list[str]:
    """What somebody would want to know of how a column was read, in sentences."""
    missed = unread(column, reading)
    said = [mixture(name, missed, reading)] if missed.count else []
    taken = " is read as categories" if reading.kind == "category" else ""
    return [*said, f"Column {name!r}{taken}: {reading.doubt}."] if reading.doubt else said


def mixture(name: str, missed: Unread, reading: Notation) -> str:
    """A sentence about a column of which some cells are not what it is taken as."""
    what = {"date": "dates", "boolean": "yes and no"}.get(reading.kind, "numbers")
    taken = reading.said() + ("" if reading.kind == "category" else ", and the texts as missing")
    return (
        f"Column {name!r} mixes {what} and texts ({missed.count} of {missed.there} values, such as {missed.example!r}, "
        f"are no {what}): it is taken as {taken}."
    )


HOW: dict[str, tuple[str, ...]] = {"number": (".", ","), "date": ("day", "month")}
"""What may follow a kind and a colon, where cells can be read in two ways."""


def checked_kinds(kinds: Mapping[str, str | Notation], names: list[str]) -> dict[str, str | Notation]:
    """Kinds by column, after checking that there are such columns and kinds; ``text`` is ``category``.

    Raises:
        DataError: there are not, with a suggestion.
    """
    checked: dict[str, str | Notation] = {}
    known = (*readings.KINDS, "ignore", "text", *(f"{kind}:{how}" for kind, ways in HOW.items() for how in ways))
    for name, given in kinds.items():
        if name not in names:
            kind = given.kind if isinstance(given, Notation) else given
            raise DataError(f"There is no column {name!r} to be a {kind}.{did_you_mean(name, names)}")
        if isinstance(given, str) and given not in known:
            raise DataError(
                f"Column {name!r} cannot be a {given!r}.{did_you_mean(given, known)} Kinds: {listed(known, 12)}."
            )
        checked[name] = "category" if given == "text" else given
    return checked
