"""Cells to numbers: blanks, percent signs, decimal commas; anything else is said."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from wellposed.core.errors import DataError

MISSING = ("", "na", "n/a", "null", "none", "-", "--", "---", "—", "no log")
BLANKS = ("NAType", "NaTType")  # of pandas, which need not be installed
COMMA = re.compile(r"[-+]?(\d*|\d{1,3}(\.\d{3})+),\d+(e[-+]?\d+)?", re.IGNORECASE)  # 0,53 and 1.234,5
THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
PLACED = re.compile(r"^(?:(?:epoch|step|iter\w*)[\s#:.]*)?(\d+)(?:\s*/\s*\d+)?:?$", re.IGNORECASE)  # Epoch 3, 3/10, 3:
TENSOR = re.compile(r"\b[A-Za-z_][\w.]{0,40}\(\s*([-+.\deE]+|nan|inf)\s*(?:,[^()]*(?:\(\))?[^()]*)?\)")
"""A number as an object prints itself: ``tensor(0.5, device='cuda:0')``."""
LONGEST = 40  # signs of a cell that are shown


def cell_number(cell: Any, counts: bool = False) -> float | None:
    """A number; NaN for one written as such; None for what is missing.

    Args:
        counts: the column counts (epochs, steps): ``1,000`` is a thousand there, and 1.0 in a column of losses.
    Raises:
        ValueError, TypeError: it is anything else.
    """
    if hasattr(cell, "item"):
        cell = cell.item()
    if cell is None or type(cell).__name__ in BLANKS:
        return None
    if not isinstance(cell, str):
        return _float(cell)
    text = TENSOR.sub(r"\1", cell).strip().removesuffix("%").rstrip()
    if text.lower() in MISSING:
        return None
    if (counts or "." in text) and THOUSANDS.fullmatch(text):
        return float(text.replace(",", ""))
    if counts and (placed := PLACED.fullmatch(text)):
        return float(placed[1])
    if COMMA.fullmatch(text):
        return float(text.replace(".", "").replace(",", "."))
    if "_" in text:
        raise ValueError(text)  # which Python would read as a number
    return float(text)


def _float(cell: Any) -> float:
    try:
        return float(cell)
    except OverflowError:  # a whole number beyond the range of floats
        return math.inf if cell > 0 else -math.inf


def cell_numbers(cells: Iterable[Any], name: str, counts: bool = False) -> list[float | None]:
    """Each cell as a number, or None where it is blank; see `cell_number`.

    Raises:
        DataError: a cell is no number.
    """
    cells = list(cells)
    plain = plain_numbers(cells)
    if plain is not None:
        return plain
    found: list[float | None] = []
    for row, cell in enumerate(cells, 1):
        try:
            found.append(cell_number(cell, counts))
        except (TypeError, ValueError):
            raise DataError(
                f"Column '{' '.join(name.split())}' has {shorten_cell(cell)} in row {row}; a number is needed."
            ) from None
    return found


def plain_numbers(cells: list[Any]) -> list[float | None] | None:
    """`cell_number` of each at once, where all are floats, or text that is a float as it stands; None where they are not."""
    kinds = set(map(type, cells))
    if kinds <= {float, type(None)}:
        return cells
    if kinds <= {float, np.float64, np.float32}:
        return list(np.array(cells, dtype=np.float64).tolist())
    if not kinds <= {str, type(None)} or "_" in "".join(filter(None, cells)):
        return None
    try:
        return [None if cell is None else float(cell) for cell in cells]
    except ValueError:  # blanks, percent signs, decimal commas: each is read by itself
        return None


def shorten_cell(cell: Any) -> str:
    """A cell as it is shown in a message: not without end."""
    text = repr(cell)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def has_commas(cells: Iterable[Any]) -> bool:
    """Whether decimals are written with a comma."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return "," in "".join(texts) and any(COMMA.fullmatch(cell.strip().rstrip("% ")) for cell in texts)
