"""Saved values are read against the annotations of what they are made into: a dataclass is the schema of its JSON."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from wellposed.core.errors import FormatError, described, first_line

T = TypeVar("T")

Whole = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A whole number >= 0 that every library can count to."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is neither infinite nor NaN."""
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Stored = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number whose NaN or infinity was written as null, since JSON has neither: it comes back as NaN."""


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def validate(kind: type[T], value: Any, what: str, needs: Iterable[str] = ()) -> T:
    """A value that was read from JSON, as an object of ``kind`` (a dataclass, or ``list[dict[str, float]]``); no type is taken for
    another.

    Args:
        what: the subject of the error, such as ``"The state in 'runs/a'"``.
        needs: keys that must be there although the dataclass has a default for them, which would silently be taken for what was
            lost.
    """
    for key in needs:
        if isinstance(value, dict) and key not in value:
            raise FormatError(f"{what} is damaged: {key} is missing.")
    return _read(kind, lambda: _adapter(cast(Any, kind)).validate_json(json.dumps(value), strict=True), what)


def validate_state(kind: type[T], value: Any, what: str) -> T:
    """The same of a value that may hold tensors and never was JSON, such as a part of a checkpoint; ``kind`` is a TypedDict."""
    return _read(kind, lambda: _adapter(cast(Any, kind)).validate_python(value), what)


def _read(kind: type[T], parse: Callable[[], Any], what: str) -> T:
    try:
        return cast(T, parse())
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(str(part) for part in wrong["loc"]) or "it"
        missing = wrong["type"] == "missing"
        said = f"{wrong['msg'][:1].lower()}{wrong['msg'][1:]}".rstrip(".")  # in the middle of a sentence
        given = "is missing" if missing else f"is {described(wrong['input'])}; {said}"
        raise FormatError(f"{what} is damaged: {place} {given}.") from None
    except (
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # what json cannot write: a tensor, or nested without end
        raise FormatError(f"{what} is damaged: {first_line(error)}.") from None
