"""Reading a record that somebody else wrote: a missing or odd part is left out, never a traceback."""

from __future__ import annotations

import math
from typing import Any

from wellposed.core.files import jsonable
from wellposed.core.numbers import LARGEST
from wellposed.core.signs import visible


def clean_json(value: Any) -> Any:
    """The value as plain JSON types whose strings can be written and shown: control characters and lone surrogates are spelled out.

    Example:
        >>> cleaned({"name": "a\\x00b", "low": float("nan")})
        {'name': 'a\\x00b', 'low': None}
    """
    return _cleaned(jsonable(value))


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {_visible(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return _visible(value) if isinstance(value, str) else value


def _visible(value: str) -> str:
    return visible(value, keep="\n\t")


def part(value: Any, *keys: str) -> Any:
    """What lies under ``keys``, or None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def rows(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list."""
    return [item for item in listing(value) if isinstance(item, dict)]


def number_or_nan(value: Any) -> float:
    """The number, or NaN for what is none: null, text, true and false, and what is too large to reckon with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST < value < LARGEST:
        return math.nan
    return float(value)


def numbers_or_nan(value: Any) -> list[float]:
    """Each item of a list as a number."""
    return [number_or_nan(item) for item in listing(value)]


def finite_numbers(values: list[float]) -> list[float]:
    """The values that are neither NaN nor infinite, in their order."""
    return [value for value in values if math.isfinite(value)]


def text(value: Any, most: int = 300) -> str:
    """The value as text of at most ``most`` signs; an empty string for nothing."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    written = str(value)
    return written if len(written) <= most else written[: most - 1] + "…"


def texts(value: Any, most: int = 300, count: int = 100) -> list[str]:
    """At most ``count`` texts of a list; a single text is a list of one."""
    items = [value] if isinstance(value, str) else listing(value)
    return [written for item in items[:count] if (written := text(item, most))]
