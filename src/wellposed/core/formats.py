"""Numbers as people write them: with the digits that they can bear, a real minus sign, and units."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from wellposed.core.records import number_or_nan, text

MISSING = "–"


def table(rows: Sequence[Sequence[str]], ruled: bool = False, right: Collection[int] = ()) -> list[str]:
    """Rows of words as lines with their columns below one another; ``ruled`` draws a line below the first.

    Args:
        right: which columns are put to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [f"{'>' if i in right else '<'}{width}" for i, width in enumerate(widths)]
    lines = ["  ".join(f"{cell:{place}}" for cell, place in zip(row, places, strict=True)).rstrip() for row in rows]
    return [*lines[:1], *["  ".join("-" * width for width in widths)] * ruled, *lines[1:]]


def format_decimals(value: float, decimals: int) -> str:
    """A number with that many decimals, thousands separated, a real minus sign, and no minus zero."""
    if not math.isfinite(value):
        return MISSING
    written = f"{value:,.{decimals}f}" if abs(value) < 1e9 else f"{value:.3g}"
    return written.removeprefix("-") if not written.strip("-0.,") else written.replace("-", "−")


def score(value: Any) -> str:
    """A score or a loss, with about four digits.

    Example:
        >>> score(0.8831), score(14.256), score(1234.5), score(0.00012), score(None)
        ('0.8831', '14.26', '1,234', '0.00012', '–')
    """
    found = number_or_nan(value)
    size = abs(found)
    if 0 < size < 1e-3:
        return f"{found:.2g}".replace("-", "−")
    return format_decimals(found, 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0)


def decimals_for(width: float) -> int:
    """How many decimals show an interval of that width to two digits."""
    if not math.isfinite(width) or width <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(width)), 0), 8)


def decimals_between(low: float, high: float) -> int:
    """How many decimals show an interval to two digits, and on which side of 0 its ends lie.

    Example:
        >>> decimals_between(-0.1, 0.3), decimals_between(0.0012, 0.44)
        (2, 3)
    """
    found = decimals_for(high - low)
    ends = [-math.floor(math.log10(abs(end))) for end in (low, high) if end and math.isfinite(end)]
    return max(found, min(found + 3, max(ends, default=0)))


def with_sign(value: float, decimals: int) -> str:
    written = format_decimals(value, decimals)
    return f"+{written}" if value > 0 and written.strip("0.,") else written


def count(value: Any) -> str:
    """A whole number with thousands separated, or a dash."""
    return format_decimals(number_or_nan(value), 0)


def count_noun(amount: float, noun: str) -> str:
    """``1 paired seed``, ``1,200 untouched rows``."""
    return f"{count(amount)} {noun}{'' if amount == 1 else 's'}"


def percent(value: Any) -> str:
    """A share as a percentage: ``95 %``, ``97.5 %``."""
    found = number_or_nan(value)
    return f"{found * 100:.4g} %" if math.isfinite(found) else MISSING


def duration(value: Any) -> str:
    """Seconds as people say them: ``48 s``, ``4 min 58 s``, ``2 h 5 min``."""
    seconds = number_or_nan(value)
    if not math.isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60:,} h"


SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
TIME = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?)\s*$")


def parse_seconds(given: Any) -> float | None:
    """Seconds of ``"90s"``, ``"2m"`` or ``"1.5 hours"``; None of anything else.

    Example:
        >>> parse_seconds("2m"), parse_seconds("a while")
        (120.0, None)
    """
    found = TIME.match(str(given).lower())
    return None if found is None else float(found[1]) * SECONDS[found[2][0]]


def number_or_text(value: Any) -> str:
    """A number of an evidence with three digits, a yes or no, or the text itself."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value).replace("-", "−")
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) else text(value, 120) or MISSING
