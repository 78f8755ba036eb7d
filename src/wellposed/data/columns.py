"""What a column holds: numbers, categories, booleans or dates; and its values in that kind.

Everything that looks at texts looks at the distinct ones only, so that a long column of few categories is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from wellposed.core.errors import require

if TYPE_CHECKING:
    import pandas as pd

ColumnKind = Literal["number", "category", "boolean", "date"]
KINDS: tuple[ColumnKind, ...] = get_args(ColumnKind)
Floats: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Integers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

MOSTLY = 0.9  # a column of texts with at least this share of numbers (or of dates) is one of numbers (dates)
MOST_LEVELS = 30  # a column with more distinct values than this is poorly said by categories

TRUE_WORDS, FALSE_WORDS = frozenset({"true", "yes", "y", "t", "1"}), frozenset({"false", "no", "n", "f", "0"})


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
    place: dict[str, int] = {"": -1}
    names: list[str] = []
    table = np.full(len(uniques) + 1, -1, dtype=np.int64)  # the last entry is what code -1 finds
    for i, name in enumerate(map(level_name, uniques)):
        if name not in place:
            place[name] = len(names)
            names.append(name)
        table[i] = place[name]
    return table[codes], names


def distinct(column: pd.Series[Any]) -> tuple[Integers, list[Any]]:
    """``codes`` into the distinct values in order of appearance; -1 where missing."""
    pandas = require("pandas", "tables")
    try:
        codes, uniques = pandas.factorize(column)
    except TypeError:  # lists, dicts and other values that have no hash
        codes, uniques = pandas.factorize(column.map(str, na_action="ignore"))
    return np.asarray(codes, dtype=np.int64), list(uniques)


def column_kind(column: pd.Series[Any]) -> ColumnKind:
    """The kind of a column, by its type and, for texts, by its values.

    - booleans, or only the texts true and false: ``boolean``;
    - numeric types, durations (in days): ``number``; dates and times: ``date``; a pandas categorical: ``category``;
    - texts: ``number`` if at least 90 % of the values are numbers, or at least half of them and there are more than 30
      distinct values (then categories would say little); ``date`` if at least 90 % are written ``2024-05-31`` (or with
      slashes or points, or followed by a time); otherwise ``category``.
    """
    types = require("pandas", "tables").api.types
    if types.is_bool_dtype(column.dtype):
        return "boolean"
    if types.is_datetime64_any_dtype(column.dtype):
        return "date"
    if types.is_numeric_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        return "number"
    codes, names = category_codes(column)
    if names and {name.lower() for name in names} <= {"true", "false"}:
        return "boolean"
    if isinstance(column.dtype, require("pandas", "tables").CategoricalDtype):
        return "category"
    return _kind_of_texts(codes, names)


def _kind_of_texts(codes: Integers, names: list[str]) -> ColumnKind:
    if not names:
        return "number"
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    numbers = counts[~np.isnan(parse_numbers(names))].sum() / counts.sum()
    if numbers >= MOSTLY or (numbers >= 0.5 and len(names) > MOST_LEVELS):
        return "number"
    written = np.array([_DATE.fullmatch(name) is not None for name in names])
    if counts[written].sum() / counts.sum() >= MOSTLY:
        return "date"
    return "category"


def is_text(column: pd.Series[Any]) -> bool:
    """Whether the column holds texts or objects, of which some may be numbers."""
    types = require("pandas", "tables").api.types
    return bool(types.is_object_dtype(column.dtype) or types.is_string_dtype(column.dtype))


def parse_numbers(names: Iterable[str]) -> Floats:
    """Texts as float64: NaN for what is no number, 1 and 0 for true and false."""
    pandas = require("pandas", "tables")
    words = {"true": "1", "false": "0"}
    texts = pandas.Series([words.get(name.lower(), name) for name in names], dtype=object)
    return np.asarray(pandas.to_numeric(texts, errors="coerce"), dtype=np.float64)


def as_numbers(column: pd.Series[Any]) -> Floats:
    """``(rows,)`` float64, NaN where missing or no number. Infinities stay."""
    types = require("pandas", "tables").api.types
    if types.is_datetime64_any_dtype(column.dtype):
        return as_days(column)
    if types.is_timedelta64_dtype(column.dtype):
        return np.asarray(column.to_numpy() / np.timedelta64(1, "D"), dtype=np.float64)
    if types.is_complex_dtype(column.dtype):
        return np.real(column.to_numpy()).astype(np.float64)
    if types.is_numeric_dtype(column.dtype):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    codes, names = category_codes(column)
    return np.append(parse_numbers(names), np.nan)[codes]


def as_truths(column: pd.Series[Any]) -> Floats:
    """``(rows,)`` float64: 1 true, 0 false, NaN where missing or neither. So do yes, no, y, n, t, f, 1, 0."""
    codes, names = category_codes(column)
    values = [1.0 if n.lower() in TRUE_WORDS else 0.0 if n.lower() in FALSE_WORDS else np.nan for n in names]
    return np.array([*values, np.nan])[codes]


def as_days(column: pd.Series[Any]) -> Floats:
    """``(rows,)`` float64: days since 1970-01-01 UTC with their fraction, NaN where missing or no date."""
    pandas = require("pandas", "tables")
    types = pandas.api.types
    if types.is_numeric_dtype(column.dtype):
        return as_numbers(column)
    if types.is_datetime64_any_dtype(column.dtype):
        return _days(pandas.DatetimeIndex(column))
    codes, names = category_codes(column)
    return np.append(_days_in(names), np.nan)[codes]


_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ]\s*(\d{1,2}:\d{2}\S*.*))?")


def _days_in(names: Sequence[str]) -> Floats:
    pandas = require("pandas", "tables")
    matches = [_DATE.fullmatch(name) for name in names]
    written = [
        f"{m[1]}-{m[2]:0>2}-{m[3]:0>2}" + (f"T{m[4].strip():0>5}" if m[4] else "") if m else None for m in matches
    ]
    return _days(pandas.DatetimeIndex(pandas.to_datetime(written, errors="coerce", utc=True, format="ISO8601")))


def _days(moments: pd.DatetimeIndex) -> Floats:
    if moments.tz is not None:
        moments = moments.tz_convert(None)
    return np.asarray((moments.to_numpy() - np.datetime64(0, "D")) / np.timedelta64(1, "D"), dtype=np.float64)
