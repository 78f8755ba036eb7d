"""Numbers of other libraries as Python's own, so that a setting is a number, compares as one and is shown as one."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

LARGEST = 1e100
"""Beyond it, squares, differences and quantiles overflow: a target is refused, and a loss of this size has diverged."""


def to_python(value: object) -> Any:
    """A number of numpy's or another library's, or a 0-d tensor, as Python's; anything else as it is.

    A tensor that requires a gradient stays one: as a number it would silently be a constant.
    """
    found: Any = value
    readable = not getattr(found, "requires_grad", False) and not getattr(found, "is_meta", False)
    if getattr(found, "ndim", None) == 0 and hasattr(found, "item") and readable:
        found = found.item()
    return found if isinstance(found, (int, float)) or not isinstance(found, Real) else float(found)


def arrayed(value: object) -> bool:
    """Whether a value is a list, an array, a column or a frame, which may stand where a tensor is needed; a tensor is not."""
    if isinstance(value, Sequence):
        return not isinstance(value, (str, bytes, bytearray))
    return hasattr(value, "__array__") and not hasattr(value, "layout")


def convert_numbers(owner: object, *names: str) -> None:
    """Make settings of an object, frozen or not, `to_python`."""
    for name in names:
        object.__setattr__(owner, name, to_python(getattr(owner, name)))
