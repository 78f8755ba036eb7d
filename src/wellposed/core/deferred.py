"""Modules that a library imports at once and hardly ever uses, imported when one of their names is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _LaterModule(ModuleType):
    """Stands for a module while others are imported; each name that they take of it is a `_LaterName`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _LaterName(self.__name__, name)


class _LaterName:
    """Stands for a function or object of a module, which is imported when this is called or asked for an attribute."""

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def _real(self) -> Any:
        module, name = self._place
        return getattr(importlib.import_module(module), name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._real()(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """While the block imports others, these modules are not; whoever imports one afterwards gets it whole.

    Args:
        names: with dots; those that are imported already stay as they are.
    """
    held = {name: _LaterModule(name) for name in names if name not in sys.modules}
    sys.modules |= held
    try:
        yield
    finally:
        for name, module in held.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
