"""JSON: a history of ours or of Keras, transformers' ``trainer_state.json``, rows, columns; and JSON lines of rows or of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wellposed.core.errors import DataError
from wellposed.logs.column_names import SIDES
from wellposed.logs.in_memory import named_as, of_rows
from wellposed.logs.log import OURS, TRANSFORMERS, Log, columns_of

NAMES = ("run", "name", "id", "run_id", "path", "source")  # of a run, where a line has it


def logs_from_json(path: Path, text: str) -> list[Log]:
    """The runs of a JSON document.

    Raises:
        DataError: it is damaged, or none of the known shapes.
    """
    found = of_value(_loaded(text, path), str(path))
    if not found:
        raise DataError(
            f"'{path}' is not a saved history: it needs 'rows' and 'facts', 'log_history', columns or rows. "
            "Or give a CSV file of curves."
        )
    return found


def _loaded(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"'{path}' is not readable JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise DataError(f"'{path}' is not readable JSON: {error}.") from None


def of_value(value: Any, name: str) -> list[Log]:
    """The runs in a JSON value; none where its shape is not known."""
    if isinstance(value, list):
        rows = value if value and all(isinstance(row, dict) for row in value) else []
        if sum(bool(_columns(row)) for row in rows) * 2 > len(rows):  # runs, though one of them may be damaged
            return [_run(row, f"{name}: {_name(row, number)}") for number, row in enumerate(rows, 1)]
        return [of_rows(rows, name)] if rows else []
    if not isinstance(value, dict):
        return []
    if _is_rows(value.get("log_history")):
        return [_transformers(value, name)]
    if _is_rows(value.get("rows")) and isinstance(value.get("facts"), dict):
        return [Log(columns_of(value["rows"]), name, OURS, dict(value["facts"]))]
    if isinstance(value.get("history"), dict):
        return of_value(value["history"], name)
    if _columns(value):
        return [_run(value, name)]
    parts = {key: part for key, part in value.items() if isinstance(part, dict) and _columns(part)}
    if parts and all(key.lower() in SIDES for key in parts):  # {"train": {"loss": [...]}, "valid": {...}}
        sides = {f"{key} {column}": cells for key, part in parts.items() for column, cells in _columns(part).items()}
        return [Log(sides, name, named_as(sides))]
    return [_run(part, f"{name}: {key}" if len(parts) > 1 else name) for key, part in parts.items()]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _columns(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of a run: lists, or numbered cells as pandas writes them. Keys that name a run are none."""
    found: dict[str, list[Any]] = {}
    for key, cells in value.items():
        if isinstance(cells, dict) and cells and all(str(number).isdecimal() for number in cells):
            cells = [cells[number] for number in sorted(cells, key=int)]
        if isinstance(cells, list) and not any(isinstance(cell, (list, dict)) for cell in cells):
            found[str(key)] = cells
    return found


def _run(value: Mapping[str, Any], name: str) -> Log:
    columns = _columns(value) or {str(key): [cell] for key, cell in value.items()}  # the latter is refused by its names
    return Log(columns, name, named_as(columns))


def _name(value: Mapping[str, Any], number: int) -> str:
    return next((str(value[key]) for key in NAMES if isinstance(value.get(key), (str, int))), f"run {number}")


def _transformers(value: Mapping[str, Any], name: str) -> Log:
    """What a Trainer logged. Of several evaluation sets, each ``eval_NAME_loss``, one is taken and said."""
    rows = [row for row in value["log_history"] if "train_runtime" not in row]
    return Log(columns_of(rows), name, TRANSFORMERS)


def read_lines(path: Path, text: str) -> list[Log]:
    """The runs of JSON lines: a line is a row, or a whole run with lists.

    Raises:
        DataError: a line is no object. A last line that was cut off, as by a run that still writes, is left out.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    values: list[Any] = []
    cut = False
    for number, line in lines:
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == lines[-1][0] and values and not text.endswith("\n"):
                cut = True
                break
            raise DataError(f"'{path}' is not JSON lines: line {number}: {error}.") from None
    if not values:
        raise DataError(f"'{path}' is empty; at least one line is needed.")
    if not all(isinstance(value, dict) for value in values):
        raise DataError(f"'{path}' is not JSON lines of curves: every line needs an object, as {{\"epoch\": 1, ...}}.")
    notes = ("The last line was cut off and left out.",) if cut else ()
    return [Log(log.columns, log.name, log.format, log.facts, notes) for log in of_value(values, str(path))]


def is_lines(text: str) -> bool:
    """Whether text is JSON lines rather than one document: its first line is whole by itself, and more follow."""
    first, _, rest = text.strip().partition("\n")
    if not rest.strip() or not first.startswith("{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True
