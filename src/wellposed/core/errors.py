"""Errors say what was given, what is needed and what to do.

WellposedError
├── InputError (also ValueError)      something a person gave cannot be used
│   ├── DataError                     a table, an array, a loader, a file of data
│   ├── RecipeError                   a recipe: unknown key, impossible value
│   ├── SelectorError                 a selector that matches nothing, or is no selector
│   ├── ShapeError                    a tensor whose shape does not fit
│   ├── CompositionError              terms that cannot be enforced together, or not by this optimizer
│   ├── ProblemError                  a model, a loss or a problem file that does not work
│   │   └── TargetError               targets that a loss does not take, or labels without an output
│   ├── FormatError                   a saved file of another schema, or damaged
│   └── StudyFinished                 a study that is to go on has spent its budget
├── FolderInUse (also FileExistsError)  an output folder that holds something else
├── TrainingError (also RuntimeError) training failed; `.run` keeps what was reached
└── MissingExtra (also ImportError)   an optional dependency is not installed
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, time
from types import ModuleType
from typing import Any, TypeVar

from wellposed.core.clock import IMPORTS, spent_on

T = TypeVar("T")


LONGEST_WORD = 300
"""Signs of a word in a message: a cell of 70,000 signs in a damaged file is told by its beginning."""


class WellposedError(Exception):
    """Base of everything that wellposed raises on purpose."""

    def __init__(self, message: str = "") -> None:
        # A word's beginning, and its last two signs, which may close a quote and end the sentence.
        super().__init__(re.sub(rf"(\S{{60}})\S{{{LONGEST_WORD - 62},}}(\S\S)", r"\1…\2", str(message)))


class InputError(WellposedError, ValueError):
    """Something a person gave cannot be used."""


class DataError(InputError):
    """A table, an array, a loader or a file of data cannot be used."""


class RecipeError(InputError):
    """A recipe has an unknown key or an impossible value."""


class SelectorError(InputError):
    """A selector matches nothing, or is no selector."""


class ShapeError(InputError):
    """A tensor's shape is not one that the function can take."""


class CompositionError(InputError):
    """Terms cannot be enforced together, or not by this optimizer."""


class ProblemError(InputError):
    """A model, a loss or a problem file does not work."""


class TargetError(ProblemError):
    """Targets are outside what a loss takes, or a label has no output."""


class FormatError(InputError):
    """A saved file is damaged or has another schema."""


class StudyFinished(InputError):
    """A study that is to go on has spent its budget, and its results are written."""


class FolderInUse(WellposedError, FileExistsError):
    """An output folder holds something else."""


class TrainingError(WellposedError, RuntimeError):
    """Training failed; ``run`` keeps the history and the best weights that were reached, or is None."""

    def __init__(self, message: str, run: Any = None) -> None:
        super().__init__(message)
        self.run = run


class MissingExtra(WellposedError, ImportError):
    """An optional dependency is not installed."""


RENAMED = {"heads": "outputs", "logit_norm": "logit_l2"}
"""Names in recipes that were given up, and what they are called now."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest candidate, the new name of one that was renamed, or an empty string."""
    names = [str(c) for c in candidates]
    if (now := RENAMED.get(str(name))) in names:
        return f" It is called {now!r} now."
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.55)
    return f" Did you mean {near[0]!r}?" if near else ""


def described(value: object) -> str:
    """What a person gave, in a few words: what is short as it is, else its type, and its shape if it has one."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    known = value is None or isinstance(value, (bool, int, float, str, list, tuple, dict, date, time))
    if known and not _many_parts(value):
        text = repr(value)
        if len(text) <= 80 and "\n" not in text:
            return text
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"


def _many_parts(value: object, most: int = 80) -> bool:
    """Whether a text of it has surely more than ``most`` characters, as a batch's has: torch takes a while to write tensors."""
    todo, seen = [value], 0
    while todo and seen <= most:
        part = todo.pop()
        numel = getattr(part, "numel", None)
        seen += numel() if callable(numel) else 1
        todo.extend(part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ())
    return seen > most


def first_line(error: BaseException) -> str:
    """What an exception says, in one line and without its full stop; its type where it says nothing."""
    said = " ".join(str(error).split("\n\n")[0].split())
    return (said[:300] + " ..." if len(said) > 300 else said).rstrip(".") or type(error).__name__


def guard_call(what: str, function: Callable[..., T]) -> Callable[..., T]:
    """A function that a person gave, whose own errors are told as what they are: the person's, with the place."""

    def asked(*args: Any) -> T:
        try:
            return function(*args)
        except WellposedError:
            raise
        except Exception as error:  # any error of other people's code; it is told, with its traceback as the cause
            raise InputError(f"{what} raised {type(error).__name__}: {first_line(error)}.") from error

    return asked


@contextmanager
def noting(what: object, *given: object) -> Iterator[None]:
    """What somebody's own code raises inside the block stays what it is, and gets a note: who raised it, on what."""
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:
        note = f"Raised by {what}, which was given {listed(map(described, given))}."
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names as a short readable list: ``a, b, c and 5 more``."""
    items = [str(name) for name in names]
    if len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say in one sentence how to install it."""
    try:
        with spent_on(IMPORTS):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"This needs {module.split('.')[0]!r}, which is not installed. Run: pip install 'wellposed[{extra}]'"
        ) from None
