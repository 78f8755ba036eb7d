"""From any source to tables: a log is read, its runs are told apart, its columns guessed, its rows made points."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.core.errors import DataError, guard_call, listed
from wellposed.logs.cells import cell_numbers, has_commas
from wellposed.logs.column_names import (
    EPOCHS,
    NOBODY,
    OF_OURS,
    SIDES,
    STEPS,
    TEST,
    VALID,
    Guess,
    guess,
    name_words,
    parse_name,
)
from wellposed.logs.folders import read_path
from wellposed.logs.in_memory import read_object
from wellposed.logs.lengths import made_rows
from wellposed.logs.log import FASTAI, OURS, Array, Log, Reading, Table, cut_name
from wellposed.logs.points import FEWEST, counted_on, points_from_cells, restarts
from wellposed.logs.shapes import one_side_a_column, runs, wide

LAST = 2**53  # an epoch or a step is counted, and floats count no further; NaN and infinity are places of no row
MOST_COLUMNS = 20_000  # each name is taken apart word by word
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
        name = source if isinstance(source, (str, Path)) else type(source).__name__
        raise DataError(
            f"'{name}' holds {len(found)} runs ({listed((table.name for table in found), 3)}); diagnose() judges one. "
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
    return [one for log in found for one in _tried(log)]


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


def _tried(log: Log) -> list[Table | DataError]:
    """The tables of a log; for what of it cannot be read, the reason, which keeps nobody from reading the others."""
    found: list[Table | DataError] = []
    try:
        each = runs(_few_columns(wide(log)))
    except DataError as error:
        return [_named(error, log)]
    for run in each:
        try:
            found += log_tables(one_side_a_column(run))
        except DataError as error:
            found.append(_named(error, run))
    return found


def _named(error: DataError, log: Log) -> DataError:
    return DataError(str(error) if log.name in str(error) else f"'{log.name}': {error}")


def _few_columns(log: Log) -> Log:
    if len(log.columns) > MOST_COLUMNS:
        raise DataError(
            f"'{log.name}' has {len(log.columns):,} columns, and at most {MOST_COLUMNS:,} are looked at. "
            "Keep those of epochs, losses and metrics."
        )
    return log


def log_tables(log: Log) -> list[Table]:
    """A log's columns by our names, one entry an epoch or an evaluation; a table for each run, where its numbers begin anew.

    Raises:
        DataError: no column of losses, columns of different lengths, or text where a number is needed.
    """
    found = guess(log.columns, VALID if log.format == FASTAI else NOBODY)
    raw, notes = numbers_of(log, found)
    _require_losses(log, raw)
    parts = restarts(raw) if log.format != OURS else []
    if len(parts) > 1 and (counted := counted_on(raw, parts)) is not None:
        notes.append(
            f"The epochs begin anew {len(parts) - 1} times, after one or two each: they were counted on as one run."
        )
        raw, parts = counted, parts[:1]
        return [_table(log, found, raw, notes)]
    if len(parts) <= 1:
        return [_table(log, found, raw, notes)]
    notes.append(f"The numbers of epochs or steps begin anew: {len(parts)} runs.")
    each = [{name: cells[a:b] for name, cells in raw.items()} for a, b in parts]
    return [
        _table(replace(log, name=f"{log.name}: run {i}"), found, _filled(mine), notes) for i, mine in enumerate(each, 1)
    ]


def numbers_of(log: Log, found: Guess) -> tuple[dict[str, Sequence[float | None]], list[str]]:
    """The cells of the columns that are used, as numbers, and what had to be decided. ``train_loss/1`` is a part of a loss."""
    notes = [*log.notes, *found.notes]
    raw: dict[str, Sequence[float | None]] = {}
    wanted = dict(found.taken)
    for number, both in enumerate(found.parts[1:], 1):
        wanted |= {
            f"{side}/{number}": name for side, name in zip(("train_loss", "valid_loss"), both, strict=True) if name
        }
    for ours, theirs in wanted.items():
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
    if (value := _never_computed(raw)) is not None:
        del raw["valid_loss"]
        notes.append(
            f"'{found.taken['valid_loss']}' is {value:g} in every row: it was never computed, and was left out."
        )
    for ours in ("train_loss", "valid_loss"):
        if ours in raw and parse_name(found.taken[ours]).what == "ppl":
            raw[ours] = [cell if cell is None or not cell > 0 else math.log(cell) for cell in raw[ours]]
            notes.append(f"'{found.taken[ours]}' is a perplexity; its logarithm is the loss.")
    return made_rows(_filled(raw), _looked(log, found), notes), notes


def _looked(log: Log, found: Guess) -> dict[str, Sequence[float | None]]:
    """Epochs or steps of validation alone, as ``val_epochs`` or ``eval_steps`` says them, by what they count."""
    looked: dict[str, Sequence[float | None]] = {}
    for name, cells in log.columns.items():
        words = name_words(name)
        places = ["epoch" if word in EPOCHS else "step" for word in words if word in (*EPOCHS, *STEPS)]
        sides = [SIDES[word] for word in words if word in SIDES]
        if len(words) == 2 and len(places) == 1 and sides in ([VALID], [TEST]) and name not in found.taken.values():
            with suppress(DataError):  # texts are no places
                looked.setdefault(places[0], cell_numbers(cells, name, counts=True))
    return looked


def _never_computed(raw: Mapping[str, Sequence[float | None]]) -> float | None:
    """0, or NaN beside no metric, where the validation loss is that throughout, and the training loss has several numbers."""
    train, valid = ({cell for cell in raw.get(side, ()) if cell is not None} for side in ("train_loss", "valid_loss"))
    if len(train) < 2 or not all(map(math.isfinite, train)):
        return None
    blank = "valid_metric" not in raw and all(map(math.isnan, valid))
    return next((value for value in valid if valid == {0.0} or blank), None)


def _filled(raw: Mapping[str, Sequence[float | None]]) -> dict[str, Sequence[float | None]]:
    return {ours: cells for ours, cells in raw.items() if any(cell is not None for cell in cells)}


def _table(log: Log, found: Guess, raw: dict[str, Sequence[float | None]], notes: Sequence[str]) -> Table:
    facts: dict[str, Any] = {"like_for_like": "train_loss_se" in raw and "valid_rise" in raw, **log.facts}
    taken = {ours: theirs for ours, theirs in found.taken.items() if ours in raw}
    notes = [*notes]
    if "train_loss" not in raw and "valid_loss" not in raw:
        stand_in = {f"{side}_loss": f"{side}_metric" for side in ("train", "valid") if f"{side}_metric" in raw}
        for ours, metric in stand_in.items():
            raw[ours] = _as_error(raw[metric], found.higher_is_better)
            taken[ours] = taken[metric]
        if stand_in:
            said = f"1 - {found.metric}" if found.higher_is_better else found.metric
            notes.append(
                f"There is no loss: {said} stands in for it, which moves in steps and says nothing of confidence."
            )
            facts["stands_in"] = found.metric
    curves = points_from_cells(raw, "valid_rise" in raw)
    if "step" in taken and "step" not in curves.columns and curves.axis == "epoch" and "epoch" not in taken:
        taken["epoch"] = taken["step"]
    if found.parts:
        facts["parts"] = _add_parts(curves.columns, found, taken)
        notes += _turned(facts["parts"])
    if found.metric and "valid_metric" in raw:
        facts.setdefault("metric", found.metric)
        facts.setdefault("higher_is_better", found.higher_is_better)
    if found.unassigned:
        notes.append(
            f"Whose loss {listed(map(repr, found.unassigned), 4)} is, its name does not say. "
            "If it is of validation, call it val_loss."
        )
    left = [name for name in log.columns if name not in taken.values() and name not in OF_OURS]
    notes = list(dict.fromkeys([*notes, *curves.notes]))
    facts["reading"] = Reading(log.format, curves.axis, taken, tuple(left), tuple(notes), found.unassigned)
    return Table(curves.columns, facts, log.name)


def _as_error(cells: Sequence[float | None], higher: bool) -> list[float | None]:
    known = [cell for cell in cells if cell is not None and math.isfinite(cell)]
    one = 100.0 if known and max(known) > 1 and higher else 1.0
    return [None if cell is None else (one - cell if higher else cell) / one for cell in cells]


def _add_parts(columns: dict[str, Array], found: Guess, taken: dict[str, str]) -> dict[str, dict[str, Array]]:
    """Put the sums of the parts in the places of the first ones; gives each part's curves, by its words and side."""
    said: dict[str, dict[str, Array]] = {}
    for at, side in enumerate(("train", "valid")):
        total = columns.get(f"{side}_loss")
        for number, both in enumerate(found.parts):
            part = columns.pop(f"{side}_loss/{number}", None) if number else total
            if part is not None and total is not None and both[at]:
                said.setdefault(" ".join(parse_name(str(both[at])).parts), {})[side] = part
                with np.errstate(all="ignore"):  # parts may be infinite
                    columns[f"{side}_loss"] = total if number == 0 else columns[f"{side}_loss"] + part
        if names := [name for both in found.parts if (name := both[at])]:
            taken[f"{side}_loss"] = " + ".join(names)
    return said


def _turned(parts: Mapping[str, Mapping[str, Array]]) -> list[str]:
    """Which parts of the validation loss ended above their lowest value by more than a twentieth while training fell."""
    risen = []
    for name, sides in parts.items():
        train, valid = (y[np.isfinite(y)] for y in (sides.get("train", np.empty(0)), sides.get("valid", np.empty(0))))
        if len(train) > 2 and len(valid) > 2 and valid[-1] > 1.05 * valid.min() > 0 and train[-1] < train[0]:
            risen.append(f"{name} from {valid.min():.3g} to {valid[-1]:.3g}")
    return [f"On validation rows, parts of the loss rose: {listed(risen, 4)}."] if risen else []


def _require_losses(log: Log, raw: Mapping[str, Sequence[float | None]]) -> None:
    filled = any(len(cells) for cells in log.columns.values())
    if "train_loss" not in raw and "valid_loss" not in raw and filled and not _metrics_alone(log, raw):
        if empty := [
            theirs for ours, theirs in guess(log.columns).taken.items() if ours in ("train_loss", "valid_loss")
        ]:
            raise DataError(f"'{log.name}' has not one value in {listed(empty)}; losses are needed, one an epoch.")
        raise DataError(
            f"'{log.name}' has no column of losses. Found: {listed(map(cut_name, log.columns), 12)}. "
            f"Needed: train_loss (or loss) and valid_loss (or val_loss).{_hint(log.columns)}"
        )
    if len({len(cells) for cells in raw.values()}) > 1:
        lengths = listed(f"{name} {len(cells)}" for name, cells in raw.items())
        raise DataError(
            f"'{log.name}' has columns of different lengths: {lengths}. Give every epoch a row, None where nothing was measured."
        )


def _metrics_alone(log: Log, raw: Mapping[str, Sequence[float | None]]) -> bool:
    """Whether a log without losses has a metric that can stand in: along epochs or steps, or of both sides and nothing else."""
    values = [cell for cell in raw.get("valid_metric", ()) if cell is not None]
    both = "train_metric" in raw
    places = raw.get("epoch") or raw.get("step") or (range(len(values)) if both and len(log.columns) == 2 else ())
    fewest = 2 if both and len(log.columns) > 2 else FEWEST
    return len(values) >= fewest and len({*places} - {None}) >= fewest


def _hint(columns: Iterable[str]) -> str:
    names = {name.strip().lower() for name in columns}
    if all(re.fullmatch(r"[-+.\de]+|column_\d+", name) for name in names):
        return " Its first row has numbers only: give the columns names."
    if {"wall time", "step", "value"} <= names:
        return " This is one curve, exported by TensorBoard without its name: give the event files or their folder."
    return ""
