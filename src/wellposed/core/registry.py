"""Find classes by introspection, so that no hand-kept list can drift."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from typing import Any, TypeVar

from wellposed.core.errors import InputError, did_you_mean, listed

T = TypeVar("T")


def snake_case(name: str) -> str:
    """``GroupL2`` -> ``group_l2``, ``MaxNorm`` -> ``max_norm``, ``L1`` -> ``l1``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def classes_in(package: str, base: type[T]) -> dict[str, type[T]]:
    """Every concrete subclass of ``base`` defined in the modules of ``package``, by its name in snake case."""
    every: Any = base  # which mypy does not take for something hashable
    return dict(_classes_in(package, every))


@functools.cache
def _classes_in(package: str, base: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for cls in vars(module).values():
            if not (inspect.isclass(cls) and issubclass(cls, base)) or inspect.isabstract(cls):
                continue
            if cls.__module__ == module.__name__ and not cls.__name__.startswith("_"):
                name = getattr(cls, "name", None)
                found[name if isinstance(name, str) else snake_case(cls.__name__)] = cls
    return dict(sorted(found.items()))


def lookup(kind: str, name: str, choices: dict[str, T]) -> T:
    """The choice of that name, or an error that suggests the nearest one.

    Raises:
        InputError: no choice has that name.
    """
    if name in choices:
        return choices[name]
    raise InputError(f"There is no {kind} {name!r}.{did_you_mean(name, choices)} Known: {listed(choices, 30)}.")
