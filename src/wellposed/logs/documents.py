"""JSON and what is like it: rows, columns, runs and sides, nested in whatever way, and JSON lines of rows or of runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wellposed.core.errors import DataError
from wellposed.core.reading import check_cells
from wellposed.logs.column_names import EPOCHS, SIDES, STEPS, boosted_name, guess, name_words, parse_name
from wellposed.logs.log import OURS, TRANSFORMERS, Log, columns_of, named_as, normalize_name, of_rows

NAMES = ("run", "name", "id", "run_id", "path", "source")  # of a run, where a line has it
NUMBERED = re.compile(r"(?:epoch|step|iter|round)?[ _-]*(\d+)", re.IGNORECASE)
DEEPEST = 6  # levels of dicts; logs have three or four


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


def of_value(value: Any, name: str, depth: int = 0) -> list[Log]:
    """The runs in a JSON value; none where its shape is not known."""
    if isinstance(value, list):
        rows = value if value and all(isinstance(row, dict) for row in value) else []
        long = sum(
            any(len(cells) > 1 for cells in _columns(flattened(row)).values()) and not _is_placed(row) for row in rows
        )
        if long * 2 >= max(len(rows), 1):  # runs, though one of them may be damaged
            runs = [(row, f"{name}: {_name(row, number)}") for number, row in enumerate(rows, 1)]
            return [log for row, called in runs for log in of_value(row, called, depth + 1) or [_run(row, called)]]
        return [of_rows([flattened(row) for row in rows], name)] if rows else []
    if not isinstance(value, dict) or depth > DEEPEST:
        return []
    if is_rows(value.get("log_history")):
        return [_transformers(value, name)]
    if is_rows(value.get("iterations")) and isinstance(value.get("meta"), dict):
        return [Log(columns_of([*_boosted(value["meta"], value["iterations"])]), name)]
    if is_rows(value.get("rows")) and isinstance(value.get("facts"), dict):
        return [Log(columns_of(value["rows"]), name, OURS, dict(value["facts"]))]
    if isinstance(value.get("history"), (dict, list)) and (found := of_value(value["history"], name, depth + 1)):
        return found
    if rows := _numbered(value):
        return [of_rows(rows, name)]
    parts = {str(key): part for key, part in value.items() if isinstance(part, (dict, list)) and not _is_column(part)}
    sides = {key: columns for key, part in parts.items() if (columns := _of_a_side(key, part))}
    own = _columns(value) | _of_quantities(parts)
    own |= {f"{key} {name}": cells for key, columns in sides.items() for name, cells in columns.items()}
    listed = {key: rows for key, part in parts.items() if (rows := _rows_of_a_side(key, part))}
    if listed and not {"train_loss", "valid_loss"} <= guess(own).taken.keys():
        rows = [row for rows in listed.values() for row in rows]
        if not own and len(listed) > 1 and all(map(_is_placed, rows)):
            return [of_rows(rows, name)]
        own |= {column: cells for rows in listed.values() for column, cells in columns_of(rows).items()}
    if own and guess(own).taken.keys() & {"train_loss", "valid_loss", "valid_metric"}:
        return [Log(own, name, named_as(own))]
    several = {
        key: found
        for key, part in parts.items()
        if key not in {*sides, *listed} and (found := of_value(part, "", depth + 1))
    }
    several = {
        key: mine for key, mine in ((key, _with_losses(found)) for key, found in several.items()) if mine
    } or several
    if several:
        named = [(key, log) for key, logs in several.items() for log in logs]
        return [
            replace(log, name=_named(name, f"{key} {log.name}".strip(": ") if len(named) > 1 else ""))
            for key, log in named
        ]
    return [_run(value, name)] if own else []


def _is_placed(row: Mapping[str, Any]) -> bool:
    """Whether a dict says of which epoch or step it is: a row, though a metric in it is a list."""
    return any(isinstance(cell, (int, float)) and normalize_name(key) in (*EPOCHS, *STEPS) for key, cell in row.items())


def _named(name: str, part: str) -> str:
    return f"{name}: {part}" if name and part else name or part


def _with_losses(logs: list[Log]) -> list[Log]:
    return [log for log in logs if guess(log.columns).taken.keys() & {"train_loss", "valid_loss"}]


def _is_side(key: str, columns: Iterable[str]) -> bool:
    """Whether a key says whose the columns are: ``train``, not ``training_history`` of columns that say it themselves."""
    words = name_words(key)
    mine = {SIDES[word] for word in words if word in SIDES}
    theirs = {SIDES[word] for column in columns for word in name_words(column) if word in SIDES}
    return bool(mine) and len(words) < 3 and theirs <= mine


def _of_a_side(key: str, part: Any) -> dict[str, list[Any]]:
    """The columns of ``"train": {"loss": [...]}``; none where the key is no side's."""
    columns = _columns(flattened(part)) if isinstance(part, dict) else {}
    return columns if _is_side(key, columns) else {}


def _rows_of_a_side(key: str, part: Any) -> list[dict[str, Any]]:
    """The rows of ``"train": [{"step": 1, "loss": 2}, ...]``, named by their side; none where the key is no side's."""
    rows = [*map(flattened, part)] if isinstance(part, list) and part and is_rows(part) else []
    if not _is_side(key, columns_of(rows)):
        return []
    places = (*EPOCHS, *STEPS)
    return [
        {name if normalize_name(name) in places else f"{key} {name}": cell for name, cell in row.items()}
        for row in rows
    ]


def _of_quantities(parts: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns of ``"losses": {"train": [...], "val": [...]}``."""
    found = {key: _columns(part) for key, part in parts.items() if isinstance(part, dict) and parse_name(key).what}
    return {
        f"{side} {key}": cells
        for key, columns in found.items()
        if all(word in SIDES for name in columns for word in name_words(name))
        for side, cells in columns.items()
    }


def is_rows(value: Any) -> bool:
    """Whether it is a list of dicts."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(row, Mapping) for row in value)


def flattened(value: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """A row without dicts in it: ``{"val": {"loss": 1}}`` is ``{"val/loss": 1}``. Columns of numbered cells stay."""
    found: dict[str, Any] = {}
    for key, cell in value.items():
        if isinstance(cell, dict) and depth < DEEPEST and not _is_column(cell):
            found |= {f"{key}/{inner}": part for inner, part in flattened(cell, depth + 1).items()}
        else:
            single = isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], (int, float))
            found[str(key)] = cell[0] if single else cell
        check_cells("A row", 1, len(found))
    return found


def _numbered(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a dict whose keys count epochs; none for any other."""
    keys = {key: NUMBERED.fullmatch(str(key)) for key, row in value.items() if isinstance(row, dict)}
    if len(keys) < 2 or not all(keys.values()) or 2 * len(keys) < len(value):
        return []
    rows = [(int(found[1]), flattened(value[key])) for key, found in keys.items() if found and len(found[1]) < 16]
    if any(isinstance(cell, (list, dict)) for _, row in rows for cell in row.values()):
        return []
    return [{"epoch": number, **row} for number, row in sorted(rows, key=lambda both: both[0])]


def _is_column(cells: Any) -> bool:
    """Lists of cells or of ``[step, value]``, or numbered cells as pandas writes them."""
    if isinstance(cells, dict):
        return (
            bool(cells)
            and all(str(n).isdecimal() for n in cells)
            and not any(isinstance(c, (list, dict)) for c in cells.values())
        )
    return isinstance(cells, list) and not any(isinstance(cell, dict) for cell in cells)


def _columns(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of a run. Of cells that are pairs or triples, as ``[time, step, value]``, the last is the value."""
    found: dict[str, list[Any]] = {}
    for key, cells in value.items():
        if not _is_column(cells):
            continue
        if isinstance(cells, dict):
            cells = [cells[number] for number in sorted(cells, key=int)]
        if cells and all(isinstance(cell, list) and len(cell) in (2, 3) for cell in cells):
            cells = [cell[-1] for cell in cells]
        if not any(isinstance(cell, (list, dict)) for cell in cells):
            found[str(key)] = cells
    return found


def _run(value: Mapping[str, Any], name: str) -> Log:
    columns = (
        _columns(value) or _columns(flattened(value)) or {str(key): [cell] for key, cell in value.items()}
    )  # the latter is refused by its names
    return Log(columns, name, named_as(columns))


def _boosted(meta: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of CatBoost's ``catboost_training.json``, which lists the values of each set of rows in the order of ``meta``."""
    for row in rows:
        found = {"iter": row.get("iteration")}
        for side, cells in row.items():
            metrics: Any = meta.get(f"{side.rstrip('0123456789')}_metrics")
            if isinstance(cells, list) and is_rows(metrics):
                found |= {
                    boosted_name(side, str(one.get("name"))): cell for one, cell in zip(metrics, cells, strict=False)
                }
        yield found


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
    count = len(lines)
    lines = [
        (number, line) for number, line in lines if not line.lstrip().startswith(("//", "#"))
    ]  # a person's remarks
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
    notes = [f"Lines of remarks ({count - len(lines)}) were left out."] * (count > len(lines))
    notes += ["The last line was cut off and left out."] * cut
    return [replace(log, notes=tuple(notes)) for log in of_value(values, str(path))]


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
