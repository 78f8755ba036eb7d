"""From any source to tables: a log is read, its runs are told apart, its columns guessed, its rows made points."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wellposed.core.errors import DataError, guard_call, listed
from wellposed.logs.cells import cell_numbers, has_commas
from wellposed.logs.column_names import NOBODY, OF_OURS, VALID, guess
from wellposed.logs.folders import read_path
from wellposed.logs.in_memory import read_object
from wellposed.logs.log import FASTAI, Log, Reading, Table
from wellposed.logs.points import points_from_cells
from wellposed.logs.shapes import one_side_a_column, runs

LAST = 2**53  # an epoch or a step is counted, and floats count no further; NaN and infinity are places of no row
LONGEST_NAME = 60  # signs of a column's name in a message
NEEDED = ("epoch", "train_loss", "valid_loss")  # a text in one of these is an error; other columns can be left out


Reader = Callable[[Any], Any]
"""A reader of somebody's own: from a source (a `Path`, where a name of one was given) to what is read here, a dict of lists, rows,
a frame, a `Log` or, of several runs, a list of `Log`; None where the source is no log of its kind."""


def read(source: Any, readers: Sequence[Reader] = ()) -> Table:
    """The curves of one run: of a Watch, Run, History, frame, dict of lists, list of dicts, a file or a folder.

    Raises:
        DataError: there is nothing to read, no column of losses among what was found, or more than one run.
    """
    found = read_all(source, readers)
    if len(found) > 1:
        raise DataError(
            f"'{source}' holds {len(found)} runs ({listed((table.name for table in found), 3)}); diagnose() judges one. "
            "Use diagnose_many(), or the command 'wellposed diagnose'."
        )
    return found[0]


def read_all(source: Any, readers: Sequence[Reader] = ()) -> list[Table]:
    """The curves of every run in a source.

    Raises:
        DataError: as `read`, but for the number of runs.
    """
    found = read_each(source, readers)
    for one in found:
        if isinstance(one, DataError):
            raise one
    return [one for one in found if isinstance(one, Table)]


def read_each(source: Any, readers: Sequence[Reader] = ()) -> list[Table | DataError]:
    """The curves of every run in a source; for a run among several that cannot be read, the reason.

    Raises:
        DataError: the source itself cannot be read.
    """
    if isinstance(source, Table):
        return [source]
    if isinstance(source, str) and not source:  # of an unset variable; as a path it would be the folder one is in
        raise DataError("The name of the source is empty; give a file or a folder of logs.")
    source = Path(source) if isinstance(source, str) else source
    found = read_by(source, readers)
    if found is None:
        found = read_path(source) if isinstance(source, Path) else read_object(source)
    logs = [run for log in found for run in runs(log)]
    return [_tried(log) for log in logs]


def read_by(source: Any, readers: Sequence[Reader]) -> list[Log] | None:
    """What the first reader gives that knows the source; None where none does."""
    for reader in readers:
        name = getattr(reader, "__name__", type(reader).__name__)
        found = guard_call(f"The reader {name}", reader)(source)
        if isinstance(found, Log):
            return [found]
        if isinstance(found, (list, tuple)) and found and all(isinstance(one, Log) for one in found):
            return list(found)
        if found is not None:
            whose = str(source) if isinstance(source, Path) else name
            return [replace(log, name=whose) for log in read_object(found)]
    return None


def _tried(log: Log) -> Table | DataError:
    try:
        return log_columns(one_side_a_column(log))
    except DataError as error:
        return DataError(str(error) if log.name in str(error) else f"'{log.name}': {error}")


def log_columns(log: Log) -> Table:
    """A log's columns by our names, one entry an epoch or an evaluation.

    Raises:
        DataError: no column of losses, columns of different lengths, or text where a number is needed.
    """
    found = guess(log.columns, VALID if log.format == FASTAI else NOBODY)
    notes = [*log.notes, *found.notes]
    raw: dict[str, list[float | None]] = {}
    for ours, theirs in found.taken.items():
        cells = log.columns[theirs]
        try:
            raw[ours] = cell_numbers(cells, theirs, counts=ours in ("epoch", "step"))
        except DataError as error:
            if ours in NEEDED:
                raise
            notes.append(f"{error} It was left out.")
            continue
        if has_commas(cells) and ours not in ("epoch", "step"):
            notes.append(f"'{theirs}' has decimal commas.")
        if ours in ("epoch", "step"):
            raw[ours] = [cell if cell is not None and abs(cell) < LAST else None for cell in raw[ours]]
    raw = {ours: cells for ours, cells in raw.items() if any(cell is not None for cell in cells)}
    _require_losses(log, raw)
    taken = {ours: theirs for ours, theirs in found.taken.items() if ours in raw}
    curves = points_from_cells(raw, "valid_rise" in raw)
    if "step" in taken and "step" not in curves.columns and curves.axis == "epoch" and "epoch" not in taken:
        taken["epoch"] = taken["step"]
    facts = {"like_for_like": "train_loss_se" in raw and "valid_rise" in raw, **log.facts}
    if found.metric and "valid_metric" in raw:
        facts.setdefault("metric", found.metric)
        facts.setdefault("higher_is_better", found.higher_is_better)
    left = [name for name in log.columns if name not in taken.values() and name not in OF_OURS]
    facts["reading"] = Reading(log.format, curves.axis, taken, tuple(left), tuple(dict.fromkeys(notes + curves.notes)))
    return Table(curves.columns, facts, log.name)


def _require_losses(log: Log, raw: dict[str, list[float | None]]) -> None:
    filled = any(len(cells) for cells in log.columns.values())
    if "train_loss" not in raw and "valid_loss" not in raw and filled:
        if empty := [
            theirs for ours, theirs in guess(log.columns).taken.items() if ours in ("train_loss", "valid_loss")
        ]:
            raise DataError(f"'{log.name}' has not one value in {listed(empty)}; losses are needed, one an epoch.")
        raise DataError(
            f"'{log.name}' has no column of losses. Found: {listed(map(_cut, log.columns), 12)}. "
            f"Needed: train_loss (or loss) and valid_loss (or val_loss).{_hint(log.columns)}"
        )
    if len({len(cells) for cells in raw.values()}) > 1:
        lengths = listed(f"{name} {len(cells)}" for name, cells in raw.items())
        raise DataError(f"'{log.name}' has columns of different lengths: {lengths}. Give every epoch a row.")


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _hint(columns: Iterable[str]) -> str:
    names = {name.strip().lower() for name in columns}
    if all(re.fullmatch(r"[-+.\de]+|column_\d+", name) for name in names):
        return " Its first row has numbers only: give the columns names."
    if {"wall time", "step", "value"} <= names:
        return " This is one curve, exported by TensorBoard without its name: give the event files or their folder."
    return ""
