"""What a recipe takes from objects: a term taken apart into a charge's class and its settings, and what only Python can say.

Most settings are numbers and words, which TOML can say. Others (a tensor, a function, a predicate that selects weights) are `Held`:
a recipe has them in memory, trains with them, compares and copies them, and refuses to be written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.core.errors import described
from wellposed.penalties.base import FunctionalPenalty, Term, equal_settings


class Held:
    """A value that a recipe holds in Python and cannot write down."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and equal_settings(self.value, other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))

    def __repr__(self) -> str:
        words = (getattr(self.value, name, None) for name in ("__qualname__", "text"))
        return next(filter(None, words), None) or described(self.value)


def opened(value: Any) -> Any:
    """What is held; any other value as it is."""
    return value.value if isinstance(value, Held) else value


def held(value: Any) -> Any:
    """The value itself where TOML can say it, lists as tuples; else `Held`."""
    if isinstance(value, Tensor) and value.dtype == torch.float64:
        value = value.tolist()  # what lists of numbers become in a charge
    value = tuples(value)
    parts = value.values() if isinstance(value, Mapping) else (value,)
    return value if all(map(sayable, parts)) else Held(value)


def tuples(value: Any) -> Any:
    """Lists and arrays of numpy or pandas as tuples, at every depth, so that a recipe equals itself read back; their numbers as
    Python's own. A tensor stays one."""
    if hasattr(value, "__array__") and not isinstance(value, Tensor):
        value = np.asarray(value).tolist()
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


def sayable(value: Any) -> bool:
    """Whether TOML can say this: a number that is not NaN, text, or nested lists of them."""
    return all(isinstance(leaf, (bool, int, float, str)) and leaf == leaf for leaf in nested_values(value))


def nested_values(value: Any) -> Iterator[Any]:
    """The values that nested tuples hold, one after the other."""
    if isinstance(value, tuple):
        for part in value:
            yield from nested_values(part)
    else:
        yield value


def words_of(where: object) -> Any:
    """What a recipe writes for a selector: its words; `Held` where there are none, as for a predicate or a module's type."""
    where = getattr(where, "said", None) or where
    where = tuple(where) if isinstance(where, list) else where
    words = isinstance(where, str) or (isinstance(where, tuple) and all(isinstance(one, str) for one in where))
    return where if words else Held(where)


def taken_apart(term: Term) -> dict[str, Any]:
    """A term as the keys of a recipe: the charge's class, the fields that differ from their defaults, where and how.

    Raises:
        ValueError: the charge is no dataclass, so that its settings are not known.
    """
    charge: Any = term.charge
    if not hasattr(charge, "__dataclass_fields__"):
        raise ValueError(
            f"{type(charge).__name__} is no dataclass, so a recipe does not know its settings. Write @dataclass(frozen=True) "
            "above the class, and its settings as fields"
        )
    values: dict[str, Any] = {"penalty": type(charge)}
    settings = {}
    for one in fields(charge):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if one.init and (default is MISSING or not equal_settings(getattr(charge, one.name), default)):
            settings[one.name] = getattr(charge, one.name)
    if taken := {"penalty", "on", "how", "schedule", "warmup"} & set(settings):
        raise ValueError(
            f"{type(charge).__name__} has a field {min(taken)!r}, which is the name of a key of every term; call it otherwise"
        )
    values |= {name: held(value) for name, value in settings.items()}
    where = words_of(term.where)
    if charge.placed() and (isinstance(charge, FunctionalPenalty) or where != words_of(charge.everywhere)):
        values["on"] = where
    if term.how != charge.default_how:
        values["how"] = term.how
    if term.schedule is not None:
        values["schedule"] = Held(term.schedule)
    return values
