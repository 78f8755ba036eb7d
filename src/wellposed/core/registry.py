"""Find classes by introspection, so that no hand-kept list can drift; and somebody's own by their import name.

What a user writes has a name too: ``"mypackage.penalties:Mine"``. To import a module is to run it, so that a name is imported
only inside of `importing`, which stands around what the user typed: a recipe of theirs, an option of the command line. Elsewhere
(the state of a study, a saved model, whatever lies in a folder that may be a stranger's) a name only finds what this process has
imported already.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from wellposed.core.errors import InputError, did_you_mean, first_line, listed

T = TypeVar("T")


def snake_case(name: str) -> str:
    """``GroupL2`` -> ``group_l2``, ``LInfBall`` -> ``linf_ball``, ``KLToStandardNormal`` -> ``kl_to_standard_normal``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", "_", name).lower()


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
    """The choice of that name, or an error that suggests the nearest one."""
    if name in choices:
        return choices[name]
    raise InputError(f"There is no {kind} {name!r}.{did_you_mean(name, choices)} Known: {listed(choices, 30)}.")


_typed: ContextVar[bool] = ContextVar("typed", default=False)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside the block import names are imported, which runs their modules: only around what the user typed."""
    token = _typed.set(True)
    try:
        yield
    finally:
        _typed.reset(token)


def is_import_name(name: object) -> bool:
    """Whether this is written as an import name, ``"package.module:Class"``, and not as one of ours."""
    return isinstance(name, str) and ":" in name


def import_name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def is_importable(thing: Any) -> bool:
    """Whether the import name of a class or a function leads back to it: not so inside of a function."""
    return _found(*import_name(thing).split(":")) is thing


def imported(name: str, kind: str) -> Any:
    """What an import name stands for.

    Args:
        name: ``"package.module:Class"``.
        kind: what it should be, for errors: ``"penalty"``.
    """
    module, _, path = name.partition(":")
    if module not in sys.modules:
        if not _typed.get():
            raise InputError(
                f"the {kind} {name!r} is somebody's own code, which has not been imported here. wellposed imports code only for a "
                "recipe or an option that you give yourself, never for what it finds in a folder of results: import it "
                "first, or give a recipe that names it (wp.Recipe.from_toml, --recipe FILE)"
            )
        _import(module, name, kind)
    found = _found(module, path)
    if found is None:
        near = did_you_mean(path, [key for key in vars(sys.modules[module]) if not key.startswith("_")])
        raise InputError(f"there is no {path!r} in the module {module!r}, for the {kind} {name!r}.{near}")
    return found


def _found(module: str, path: str) -> Any:
    """What lies in a module that is imported; looked up without running any code of it."""
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found


def import_typed(name: str, kind: str) -> Any:
    """`imported`, of a name that the user typed on the command line."""
    if not is_import_name(name):
        raise InputError(f"A {kind} of your own is named as 'package.module:Class'; it was given {name!r}.")
    try:
        with importing():
            return imported(name, kind)
    except InputError as error:
        said = str(error)
        raise InputError(f"{said[:1].upper()}{said[1:].removesuffix('.')}.") from error


def _import(module: str, name: str, kind: str) -> None:
    here = [] if os.getcwd() in sys.path else [os.getcwd()]  # as for `python -m`, but after what is installed
    sys.path.extend(here)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InputError(
                f"the module of the {kind} {name!r} needs {error.name!r}, which is not installed"
            ) from error
        raise InputError(
            f"there is no module {error.name!r}, for the {kind} {name!r}. An import name is 'package.module:Class'; the package "
            "must be installed, or lie in this folder or in one that PYTHONPATH names"
        ) from None
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is run
        raise InputError(f"importing the {kind} {name!r} raised {type(error).__name__}: {first_line(error)}") from error
    finally:
        for folder in here:
            sys.path.remove(folder)
