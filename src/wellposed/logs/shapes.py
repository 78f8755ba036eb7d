"""Tables of other shapes: several runs in one table, one row for each side of an epoch, one row for each value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from wellposed.core.errors import DataError
from wellposed.core.reading import check_cells
from wellposed.logs.column_names import EPOCHS, FEWEST, NOBODY, STEPS, TEST, TRAIN, VALID, guess, named_side, parse_name
from wellposed.logs.log import PLAIN, Log, normalize_name

ONE_EACH = (
    "name", "id", "run", "run_id", "run_name", "experiment", "model", "models", "method", "network", "architecture",
    "config", "variant",
)  # fmt: skip
RUN_WORDS = ("run", "fold", "trial", "seed", "experiment", "repeat", "repetition", "kfold", "split")
TRIALS = ("trial", "trial_id", "trial_name", "trial_number")
GROUPS = (*RUN_WORDS, *TRIALS[1:], "recipe", "run_id", "run_name", "config", "model")
PHASES = ("phase", "split", "set", "subset", "mode", "stage", "dataset", "data", "partition", "side", "type", "part")
SETTINGS = re.compile(
    r"(?:config|params?|parameters|hyperparameters|hparams|hp|learning_?rate|lr|drop_?out|batch_?size|weight_?decay|momentum|optimizer|regulari[sz]ation\w*"
    r"|initiali[sz]ation|train_size|\w*(?:seed|patience)"
    r"|(?:num_|n_)?(?:hidden|units|layers|neurons|filters)\w*)(?:[/_.].*|$)", re.IGNORECASE,
)  # fmt: skip
"""Names of what a search tries."""
SCHEDULED = re.compile(r"(?:lr|learning_?rate|momentum)", re.IGNORECASE)
SEARCHED = re.compile(r"(?:config|params?|parameters|hyperparameters|hparams|hp)[/_.](?!.*norm)", re.IGNORECASE)
RESULTS = "'{}' has one row for each setting that was tried: results, not curves. Give the history of one of them."
KEYS = ("metric", "metric_name", "variable", "key", "tag", "name", "quantity", "curve", "series")
"""Columns that say what the value of a row is."""


def runs(log: Log) -> list[Log]:
    """The runs of a table that says in one column whose row it is; of a study of ours the one called ``best``.

    Columns of several lengths are several runs, where those of each length have losses of both sides: ``reg_loss`` and
    ``reg_val_loss`` beside a shorter ``cls_loss`` and ``cls_val_loss``.
    """
    if found := _unpacked(log):
        return found
    if len(lengths := {len(cells) for cells in log.columns.values()}) > 1:
        parts = [{name: cells for name, cells in log.columns.items() if len(cells) == one} for one in lengths]
        if all({"train_loss", "valid_loss"} <= guess(part).taken.keys() for part in parts):
            return [replace(log, columns=part, name=f"{log.name}: {next(iter(part))}") for part in parts]
        return [log]  # it is refused later, by the names that matter
    _refuse_results(log)
    if (each := _one_a_column(log)) is not None:
        return each
    key = next(
        (
            name
            for name in log.columns
            if normalize_name(name) in GROUPS and _tells_apart(log, name) and not _names_sides(log, name)
        ),
        None,
    )
    if key is None:
        return _stages(log)
    whose = [_label(cell) for cell in log.columns[key]]
    places: dict[str, list[int]] = {}
    for place, one in enumerate(whose):
        places.setdefault(one, []).append(place)
    if "best" in places:
        note = f"Of {len(places)} runs in '{key}', the one called best was taken."
        return [replace(_rows(log, key, places["best"], "best"), name=log.name, notes=(*log.notes, note))]
    return [_rows(log, key, keep, one) for one, keep in places.items()]


def _stages(log: Log) -> list[Log]:
    """The parts of a table whose training losses follow one another under different names, as of two stages: a run each."""
    blocks: list[list[int]] = []
    for first, last in sorted(_spans(log)):
        if blocks and first <= blocks[-1][1]:
            blocks[-1][1] = max(blocks[-1][1], last)
        else:
            blocks.append([first, last])
    if len(blocks) < 2:
        return [log]
    begins = [0, *(first for first, _ in blocks[1:])]
    if any(first < begin <= last for first, last in _spans(log, (TRAIN, VALID, TEST, NOBODY)) for begin in begins):
        return [log]  # one of validation goes on
    cut = [
        {name: cells[a:b] for name, cells in log.columns.items()}
        for a, b in zip(begins, [*begins[1:], None], strict=True)
    ]
    parts = [{name: cells for name, cells in part.items() if any(c is not None for c in cells)} for part in cut]
    axes = [part.get(taken.get("epoch", taken.get("step", "")), ()) for part in parts for taken in [guess(part).taken]]
    if any(len({*cells} - {None}) < FEWEST for cells in axes):
        return [log]
    return [replace(log, columns=part, name=f"{log.name}: stage {i}") for i, part in enumerate(parts, 1)]


def _spans(log: Log, sides: Sequence[str] = (TRAIN, NOBODY)) -> Iterator[tuple[int, int]]:
    """The first and the last row of each loss of these sides that makes a curve."""
    for name, cells in log.columns.items():
        rows = [i for i, cell in enumerate(cells) if cell is not None]
        parsed = parse_name(name)
        if parsed.is_loss and parsed.side in sides and len(rows) >= FEWEST:
            yield rows[0], rows[-1]


def _unpacked(log: Log) -> list[Log]:
    """The runs of a table with a row for each run, and whole curves in its cells, as ``model,train_losses``."""
    packed = {
        name: cells
        for name, cells in log.columns.items()
        if cells and all(isinstance(cell, str) and cell[:1] == "[" for cell in cells)
    }
    try:
        curves = {name: [json.loads(cell.replace("nan", "NaN")) for cell in cells] for name, cells in packed.items()}
    except (ValueError, RecursionError):  # nested without end
        return []
    own = next((cells for name, cells in log.columns.items() if name not in curves), None)
    count = len(next(iter(curves.values()), ()))
    return [
        replace(
            log,
            columns={name: cells[i] for name, cells in curves.items()},
            name=f"{log.name}: {own[i] if own else i + 1}",
        )
        for i in range(count)
    ]


def _refuse_results(log: Log) -> None:
    """A table with one row a run, or one for each setting of a search, has final results and no curves."""
    if _is_search(log) or _ends_alone(log):
        raise DataError(RESULTS.format(log.name))
    for name, cells in log.columns.items():
        if normalize_name(name) in ONE_EACH and len(cells) > 1:
            values = [_label(cell) for cell in cells if cell is not None and re.search(r"\w", _label(cell))]
            if 1 < len(values) == len({*values}) >= len(cells) - 1 and all(
                re.search("[a-z]", value, re.IGNORECASE) for value in values
            ):
                raise DataError(
                    f"'{log.name}' has one row for each run (see '{name}'): results, not curves. "
                    "Export the history of each run: a row for each epoch."
                )


def _is_search(log: Log) -> bool:
    """Whether rows are the settings of a search: one that was tried in each row, or no axis, and several that differ."""
    varied = {name: {*map(_label, cells)} for name, cells in log.columns.items() if SETTINGS.match(name.strip())}
    varied = {name: values for name, values in varied.items() if len(values) > 1}
    rows = len(next(iter(log.columns.values()), ()))
    counted = any(
        normalize_name(name) in (*EPOCHS, *STEPS) and len({*map(_label, cells)}) == rows
        for name, cells in log.columns.items()
    )
    if rows < 3 or counted:
        return False
    if any(SEARCHED.match(name.strip()) and 2 * len(values) > rows for name, values in varied.items()):
        return True
    axis = any(normalize_name(name) in (*EPOCHS, *STEPS) for name in log.columns)
    kept = [name for name in varied if not SCHEDULED.match(name.strip())]  # what no training changes as it goes
    return not axis and bool(kept) and len(varied) > 1


def _ends_alone(log: Log) -> bool:
    """Whether each row of a table is of the same epoch, and words tell the rows apart."""
    epochs = next((cells for name, cells in log.columns.items() if normalize_name(name) in EPOCHS), ())
    steps = any(normalize_name(name) in STEPS for name in log.columns)
    if log.format != PLAIN or steps or len(epochs) < 3 or len({*map(_label, epochs)}) > 1:
        return False
    others = [[*map(_label, cells)] for name, cells in log.columns.items() if not parse_name(name).what]
    return any(len({*cells}) > 1 and all(cell[:1].isalpha() for cell in cells) for cells in others)


def _one_a_column(log: Log) -> list[Log] | None:
    """The runs of a table with a column for each setting, as ``lr_0.1,lr_0.01``: names that differ in a number alone."""
    names = [name for name in log.columns if normalize_name(name) not in (*EPOCHS, *STEPS)]
    stems = {re.sub(r"\d+(?:\.\d+)?(?:e-?\d+)?", "0", name) for name in names}
    numbered = len(names) > 1 and len(stems) == 1 and "0" in (stem := stems.pop()) and stem.strip("0_ ")
    if not numbered or any(parse_name(name).what or parse_name(name).side for name in names):
        return None
    axis = {name: log.columns[name] for name in log.columns.keys() - {*names}}
    note = "There is a column for each run, and nothing says what was measured; it was taken for the training loss."
    return [
        replace(log, columns={**axis, "loss": log.columns[name]}, name=f"{log.name}: {name}", notes=(*log.notes, note))
        for name in names
    ]


def _label(cell: Any) -> str:
    return str(cell).strip()


def _tells_apart(log: Log, name: str) -> bool:
    """Whether a column has several values, each in several rows: a seed that differs in every row is none."""
    cells = log.columns[name]
    values = {_label(cell) for cell in cells if cell is not None and _label(cell)}
    return 2 <= len(values) <= len(cells) / 2


def _rows(log: Log, key: str, keep: list[int], one: str) -> Log:
    columns = {name: [cells[index] for index in keep] for name, cells in log.columns.items() if name != key}
    return replace(log, columns=columns, name=f"{log.name}: {one}")


def wide(log: Log) -> Log:
    """A table with a row for each value, as ``step,metric,value``: a column for each metric."""
    names = {normalize_name(name): name for name in log.columns}
    key = next((names[one] for one in KEYS if one in names and _names_quantities(log.columns[names[one]])), None)
    if key is None or "value" not in names or len({len(cells) for cells in log.columns.values()}) > 1:
        return log
    kinds = [_label(cell) for cell in log.columns[key]]
    columns = {name: cells for name, cells in log.columns.items() if name not in (key, names["value"])}
    check_cells(f"'{log.name}'", len(kinds), len(set(kinds)))
    for kind in dict.fromkeys(kinds):
        columns[kind] = [
            cell if mine == kind else None for cell, mine in zip(log.columns[names["value"]], kinds, strict=True)
        ]
    return replace(log, columns=columns, notes=(*log.notes, f"The column '{key}' says what each value measures."))


def _names_quantities(cells: Sequence[Any]) -> bool:
    kinds = dict.fromkeys(_label(cell) for cell in cells)
    return 2 * len(kinds) <= len(cells) and any(parse_name(kind).what for kind in kinds)


def one_side_a_column(log: Log) -> Log:
    """A table with one row for training and one for validation, as ``phase,epoch,loss``: a column for each side."""
    if len({len(cells) for cells in log.columns.values()}) > 1:
        return log
    key = next((name for name in log.columns if normalize_name(name) in PHASES and _names_sides(log, name)), None)
    if key is None:
        return log
    told = {cell: named_side(cell) for cell in {_label(cell) for cell in log.columns[key]}}
    sides = [told[_label(cell)] for cell in log.columns[key]]
    columns: dict[str, list[Any]] = {}
    for name, cells in log.columns.items():
        if name == key:
            continue
        if normalize_name(name) in (*EPOCHS, *STEPS):
            columns[name] = list(cells)
            continue
        for side in dict.fromkeys(side for side in sides if side):
            columns[f"{side} {name}"] = [
                cell if mine == side else None for cell, mine in zip(cells, sides, strict=True)
            ]
    note = f"The column '{key}' says which rows are of training and which of validation."
    return replace(log, columns=columns, notes=(*log.notes, note))


def _names_sides(log: Log, name: str) -> bool:
    found = {_label(cell) for cell in log.columns[name] if cell is not None and _label(cell)}
    return len(found) < 10 and len({named_side(value) for value in found}) >= 2 and all(map(named_side, found))
