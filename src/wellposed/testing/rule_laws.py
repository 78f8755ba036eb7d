"""Laws of finding rules and of log readers: what both must do with whatever curves and files there are."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.core.errors import DataError, WellposedError
from wellposed.diagnosis.curves import ARRAYS, Curves
from wellposed.diagnosis.diagnose import own_rules
from wellposed.diagnosis.finding import AXES, PULLS, Finding
from wellposed.diagnosis.rules.rule import Rule
from wellposed.logs import Reader, Table, read_each
from wellposed.logs.sources import read_by
from wellposed.testing.laws import LawBroken, holds

LOSSES = (
    "train_loss",
    "valid_loss",
    "train_loss_se",
    "valid_loss_se",
    "cost",
    "penalty",
    "valid_rise",
    "valid_rise_se",
)
"""Columns in the unit of the loss."""
UNITS = (2.0**-10, 2.0**10)
"""Powers of two: they change no rounding."""


def _odd_curves() -> dict[str, Mapping[str, Sequence[float]]]:
    """Curves that a rule may meet, by what is odd about them."""
    falling = [1.0 / (1 + epoch) for epoch in range(12)]
    return {
        "one epoch": {"train_loss": [1.0], "valid_loss": [1.1]},
        "no validation": {"train_loss": falling},
        "no training": {"valid_loss": falling},
        "a constant": {"train_loss": [0.5] * 8, "valid_loss": [0.5] * 8},
        "zeros": {"train_loss": [0.0] * 8, "valid_loss": [0.0] * 8},
        "negative losses": {"train_loss": [-x for x in falling], "valid_loss": [-2 * x for x in falling]},
        "NaN in the middle": {"train_loss": [*falling[:5], math.nan, *falling[6:]], "valid_loss": falling},
        "infinite at the end": {"train_loss": [*falling, math.inf], "valid_loss": [*falling, math.inf]},
        "falling": {"train_loss": falling, "valid_loss": [0.1 + x for x in falling]},
    }


def check_rule(
    rule: Rule | type[Rule], found: Sequence[Any], absent: Sequence[Any] = (), free_of_unit: bool = True
) -> None:
    """Try a finding rule on curves: those that it is about, others, and odd ones.

    It gives a finding under its own name, with a confidence in [0, 1], words, an axis and a lever that are known, and evidence that
    JSON can say; it gives the same twice, changes no curve, and raises nothing.

    Args:
        found: sources (as `wellposed.diagnose` takes them) of which it must say something; at least one.
        absent: sources of which it must say nothing.
        free_of_unit: with losses in another unit it says the same.
    Raises:
        LawBroken: naming the source and what is wrong.
    """
    (one,) = own_rules([rule])
    holds(len(found) > 0, f"give check_rule(found=[...]) at least one source that {one.name!r} is about")
    for place, source in enumerate(found):
        said = _judged(one, f"found[{place}]", source, free_of_unit)
        holds(said is not None, f"{one.name!r} is not found in found[{place}]")
    for place, source in enumerate(absent):
        said = _judged(one, f"absent[{place}]", source, free_of_unit)
        holds(said is None, f"{one.name!r} is found in absent[{place}]: {said}")
    for about, source in _odd_curves().items():
        _judged(one, about, source, free_of_unit)


def _judged(rule: Rule, about: str, source: Any, free_of_unit: bool) -> Finding | None:
    curves = Curves.of(source)
    before = {name: getattr(curves, name).copy() for name in ARRAYS}
    said = _said(rule, about, curves)
    same = all(np.array_equal(getattr(curves, name), before[name], equal_nan=True) for name in ARRAYS)
    holds(same, f"{rule.name!r} changes the curves of {about}")
    holds(_told(_said(rule, about, curves)) == _told(said), f"{rule.name!r} says two things of {about}")
    for unit in UNITS if free_of_unit and curves.signals is None else ():
        other = _in_unit(curves, unit)
        again = _said(rule, about, other)
        message = f"{rule.name!r} depends on the unit of the loss in {about}; compare ratios, or say free_of_unit=False"
        holds((said is None) == (again is None), message)
        if said is not None and again is not None:
            holds(abs(said.confidence - again.confidence) <= 1e-6, message)
    return said


def _in_unit(curves: Curves, unit: float) -> Curves:
    """The same curves with every loss multiplied."""
    values = {name: getattr(curves, name) * (unit if name in LOSSES else 1.0) for name in ARRAYS}
    losses = {k: v * unit for k, v in curves.facts.items() if k.endswith("_loss") and isinstance(v, float)}
    return Curves(**values, given=curves.given, facts={**curves.facts, **losses}, source=curves.source)


def _said(rule: Rule, about: str, curves: Curves) -> Finding | None:
    try:
        found = rule.judge(curves)
    except Exception as error:  # whatever it is, no curve may end in it
        raise LawBroken(f"{rule.name!r} raises {type(error).__name__} at {about}: {error}") from error
    if found is None:
        return None
    holds(isinstance(found, Finding), f"{rule.name!r} gives {type(found).__name__} at {about}; give a Finding or None")
    holds(found.name == rule.name, f"{rule.name!r} gives a finding called {found.name!r}; write self.finding(...)")
    holds(0 <= found.confidence <= 1, f"{rule.name!r} has the confidence {found.confidence} at {about}")
    holds(found.axis in AXES, f"{rule.name!r} has the axis {found.axis!r}; it is one of {', '.join(AXES)}")
    holds(found.pulls in PULLS, f"{rule.name!r} pulls {found.pulls!r}; it is one of {', '.join(PULLS)}")
    holds(bool(found.says and found.lever), f"{rule.name!r} needs words for what it says, and for the lever")
    try:
        json.dumps(found.to_dict())
    except (TypeError, ValueError) as error:
        raise LawBroken(f"{rule.name!r} has evidence that JSON cannot say: {error}") from error
    return found


def _told(found: Finding | None) -> str:
    return "" if found is None else json.dumps(found.to_dict(), sort_keys=True)


CUTS = (0.0, 0.3, 0.6, 0.95)
FOREIGN = (b"", b"\x00\xff\xfe binary", b"Dear reader,\nno numbers here.\n", b"{}", b"[1, 2]\n", b"a,b\n1,2\n")


def check_reader(reader: Reader, source: str | Path) -> None:
    """Try a log reader on a file of its kind, on parts of it, and on what is not of its kind.

    Of its own file it gives curves with losses, the same twice, and leaves the file as it is. Of foreign files, folders and objects
    it gives None. Of a file that breaks off it gives what there is, None, or a `DataError`.

    Args:
        source: a file of its kind, with at least two epochs.
    Raises:
        LawBroken: with what is wrong.
    """
    path = Path(source)
    content = path.read_bytes()
    first, second = (_tables(reader, path, f"'{path}'") for _ in range(2))
    holds(first, f"the reader gives None for '{path}', a file of its kind")
    for table in first:
        losses = [column for name in ("train_loss", "valid_loss") if (column := table.columns.get(name)) is not None]
        holds(any(np.isfinite(column).any() for column in losses), f"the reader finds no losses in '{path}'")
    holds(str(first) == str(second), f"the reader reads '{path}' in two ways")
    holds(path.read_bytes() == content, f"the reader changes '{path}'")
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        for share in CUTS:
            part.write_bytes(content[: int(share * len(content))])
            _tables(reader, part, f"the first {share:.0%} of '{path}'")
        foreign: list[Any] = [Path(folder) / "empty", {"loss": [1.0]}, 3.0]
        foreign[0].mkdir()
        for number, text in enumerate(FOREIGN):
            other = Path(folder) / f"other-{number}.txt"
            other.write_bytes(text)
            foreign.append(other)
        for one in foreign:
            about = repr(one.read_bytes()) if isinstance(one, Path) and one.is_file() else repr(one)
            holds(not _tables(reader, one, about), f"the reader takes {about}, which is not of its kind, for its own")


def _tables(reader: Reader, source: Any, about: str) -> list[Table]:
    """What a reader makes of a source; nothing where it says that this is not its own, or that it is damaged."""
    try:
        if read_by(source, [reader]) is None:
            return []
        return [one for one in read_each(source, [reader]) if isinstance(one, Table)]
    except DataError:
        return []
    except WellposedError as error:
        raise LawBroken(f"at {about} {error}") from error
