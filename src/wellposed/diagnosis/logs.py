"""Read the curves that people already have: CSV files, run folders, frames, lists and dicts, into named columns.

Names of columns are guessed: ``loss, val_loss, accuracy, val_accuracy`` (Keras), ``train_loss_epoch`` (Lightning),
``train_loss, valid_loss`` (ours). Rows of one epoch are merged, since some loggers write training and validation in
rows of their own.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wellposed.core.errors import DataError, listed

Array = npt.NDArray[np.float64]

TRAIN_LOSS = ("train_loss", "train_loss_epoch", "training_loss", "train_losses", "tr_loss", "loss_train", "loss")
VALID_LOSS = (
    "valid_loss", "val_loss", "val_loss_epoch", "valid_loss_epoch", "validation_loss", "valid_losses", "val_losses",
    "eval_loss", "dev_loss", "loss_val", "loss_valid", "test_loss", "test_losses",
)  # fmt: skip
LAST_RESORT = {"train_loss": ("train_loss_step",), "valid_loss": ("val_loss_step",)}
EPOCH = ("epoch", "epochs", "ep")
LEARNING_RATE = ("lr", "learning_rate", "lr_adam", "lr_adamw", "lr_sgd")
TRAIN_PREFIXES = ("train_", "training_", "tr_", "")
VALID_PREFIXES = ("valid_", "val_", "validation_", "eval_", "dev_", "test_")
HIGHER_IS_BETTER = (
    "accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy", "accuracies",
    "balanced_accuracy", "top1", "top_1", "f1", "f1_score", "auc", "roc_auc", "r2",
)  # fmt: skip
LOWER_IS_BETTER = ("error", "error_rate", "rmse", "mae", "mse", "root_mean_squared_error", "mean_absolute_error")
OURS = (
    "train_loss_se", "valid_loss_se", "train_metric", "valid_metric", "cost", "penalty", "grad_norm", "weight_norm",
    "zeros", "seconds", "watch_seconds", "valid_rise", "valid_rise_se",
)  # fmt: skip
MISSING = ("", "na", "n/a", "null", "none", "-")
GROUPS = ("run", "recipe", "trial")  # a table of several runs says in one of these whose row it is


@dataclass(frozen=True)
class Table:
    """Columns of equal length by our names, NaN where nothing is known, and what the source says about itself."""

    columns: dict[str, Array]
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = "curves"


def read(source: Any) -> Table:
    """The curves of a Watch, Run, History, frame, dict of lists, list of dicts, CSV file or run folder.

    Raises:
        DataError: there is nothing to read, or no column of losses among what was found.
    """
    if isinstance(source, (str, Path)):
        return _read_path(Path(source))
    history = getattr(source, "history", None)
    if history is not None and not callable(history):
        return _renamed(read(history), source)
    rows = getattr(source, "rows", None)
    if isinstance(rows, Sequence):
        return _table(_columns_of(rows), dict(getattr(source, "facts", None) or {}), type(source).__name__.lower())
    if isinstance(source, Mapping):
        return _table({str(key): list(values) for key, values in source.items() if _is_column(values)}, {}, "dict")
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        return _table({str(name): list(source[name]) for name in source.columns}, {}, "frame")
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        return _table(_columns_of(source), {}, "rows")
    raise DataError(
        f"diagnose cannot read a {type(source).__name__}; give a Watch, a Run, a History, a frame, a dict of lists, "
        "a list of dicts, a CSV file or a run folder."
    )


def _renamed(table: Table, source: Any) -> Table:
    return Table(table.columns, table.facts, type(source).__name__.lower())


def _is_column(values: Any) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, (str, bytes, Mapping))


def _columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_path(path: Path) -> Table:
    if path.is_dir():
        inside = next((path / name for name in ("history.json", "history.csv") if (path / name).is_file()), None)
        if inside is None:
            raise DataError(f"'{path}' is a folder without history.csv; give a run folder or a CSV file of curves.")
        return _read_file(inside, str(path))
    if not path.is_file():
        raise DataError(f"There is no file '{path}'; give a CSV file of curves or a run folder.")
    return _read_file(path, str(path))


def _read_file(path: Path, name: str) -> Table:
    if path.suffix == ".json":
        return _read_history(path, name)
    return _table(_one_run(csv_columns(path)), {}, name)


def _read_history(path: Path, name: str) -> Table:
    """A history of ours saved as JSON: rows and facts."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"'{path}' is not readable JSON: {error}.") from None
    rows, facts = (value.get("rows"), value.get("facts")) if isinstance(value, dict) else (None, None)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not isinstance(facts, dict):
        raise DataError(f"'{path}' is not a saved history: it needs 'rows' and 'facts'. Or give a CSV file of curves.")
    return _table(_columns_of(rows), dict(facts), name)


def csv_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a delimited text file (comma, semicolon or tab; also .gz), as text.

    Raises:
        DataError: it cannot be read as text, is empty, has a header only, a repeated name, or a row that is too long.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            text = file.read()
    except FileNotFoundError:
        raise DataError(f"There is no file '{path}'.") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError):
        raise DataError(f"'{path}' is not UTF-8 text; save it as CSV in UTF-8.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    return _split(text, path)


def _split(text: str, path: Path) -> dict[str, list[str]]:
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"'{path}' is not a readable CSV file: {error}.") from None
    if not rows:
        raise DataError(f"'{path}' is empty; a header and at least one row are needed.")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    if not body:
        raise DataError(f"'{path}' has a header but no rows.")
    if repeated := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise DataError(f"'{path}' has the column {listed(repeated)} more than once; rename one of them.")
    if long := [number for number, row in enumerate(body, 2) if len(row) > len(header)]:
        raise DataError(f"'{path}' has more cells in row {long[0]} than its header has names ({len(header)}).")
    return {name: [row[index].strip() if index < len(row) else "" for row in body] for index, name in enumerate(header)}


def _one_run(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Of a table of several runs, the rows of the one called ``best``, else of the first."""
    key = next((column for column in columns if _plain(column) in GROUPS), None)
    if key is None or len(set(columns[key])) < 2:
        return columns
    chosen = "best" if "best" in columns[key] else columns[key][0]
    keep = [index for index, value in enumerate(columns[key]) if value == chosen]
    return {column: [values[index] for index in keep] for column, values in columns.items()}


def _plain(name: str) -> str:
    """``"Val Loss"``, ``"val/loss"`` and ``"val-loss"`` are one name: ``val_loss``."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def _number(cell: Any) -> float | None:
    """A number; NaN for one written as such; None for what is missing. Raises ValueError for anything else."""
    if cell is None:
        return None
    if isinstance(cell, str):
        return None if cell.strip().lower() in MISSING else float(cell)
    if hasattr(cell, "item"):
        cell = cell.item()
    return None if cell is None or isinstance(cell, str) else float(cell)


def _numbers(cells: Iterable[Any], name: str) -> list[float | None]:
    numbers: list[float | None] = []
    for row, cell in enumerate(cells, 1):
        try:
            numbers.append(_number(cell))
        except (TypeError, ValueError):
            raise DataError(f"Column '{name}' has {cell!r} in row {row}; a number is needed.") from None
    return numbers


def _table(columns: Mapping[str, Sequence[Any]], facts: dict[str, Any], name: str) -> Table:
    names = _names(list(columns), facts)
    raw = {ours: _numbers(columns[theirs], theirs) for ours, theirs in names.items()}
    raw = {ours: cells for ours, cells in raw.items() if any(cell is not None for cell in cells)}
    losses = [ours for ours in ("train_loss", "valid_loss") if ours in raw]
    if not losses and len(columns) and any(len(cells) for cells in columns.values()):
        raise DataError(
            f"'{name}' has no column of losses. Found: {listed(columns, 12)}. "
            "Needed: train_loss (or loss) and valid_loss (or val_loss)."
        )
    if len({len(cells) for cells in raw.values()}) > 1:
        raise DataError(f"'{name}' has columns of different lengths: {_lengths(raw)}. Give every epoch a row.")
    facts = {"like_for_like": "train_loss_se" in raw and "valid_rise" in raw, **facts}
    return Table(_merged(raw, losses), facts, name)


def _lengths(raw: Mapping[str, Sequence[Any]]) -> str:
    return listed(f"{name} {len(cells)}" for name, cells in raw.items())


def _names(found: list[str], facts: dict[str, Any]) -> dict[str, str]:
    """Our name of each known column -> its name in the source. Adds what the metric's name tells to ``facts``."""
    plain: dict[str, str] = {}
    for name in found:
        plain.setdefault(_plain(name), name)
    names: dict[str, str] = {}
    for ours, aliases in (("train_loss", TRAIN_LOSS), ("valid_loss", VALID_LOSS), ("epoch", EPOCH),
                          ("lr", LEARNING_RATE)):  # fmt: skip
        alias = next((alias for alias in (*aliases, *LAST_RESORT.get(ours, ())) if alias in plain), None)
        if alias is not None:
            names[ours] = plain[alias]
    names |= {ours: plain[ours] for ours in OURS if ours in plain}
    if "train_metric" not in names and "valid_metric" not in names:
        names |= _metric_names(plain, facts)
    return names


def _metric_names(plain: Mapping[str, str], facts: dict[str, Any]) -> dict[str, str]:
    for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
        train = next((plain[p + metric] for p in TRAIN_PREFIXES if p + metric in plain), None)
        valid = next((plain[p + metric] for p in VALID_PREFIXES if p + metric in plain), None)
        if valid is not None:
            facts.setdefault("metric", metric)
            facts.setdefault("higher_is_better", metric in HIGHER_IS_BETTER)
            return {"valid_metric": valid} | ({"train_metric": train} if train is not None else {})
    return {}


def _merged(raw: Mapping[str, list[float | None]], losses: Sequence[str]) -> dict[str, Array]:
    """One row an epoch: the mean of what an epoch's rows know; rows without an epoch or without a loss are dropped."""
    count = max((len(cells) for cells in raw.values()), default=0)
    epochs = raw.get("epoch") or list(range(count))
    groups: dict[float, list[int]] = {}
    for index, epoch in enumerate(epochs):
        if epoch is not None and math.isfinite(epoch):
            groups.setdefault(float(epoch), []).append(index)
    every = sorted(groups)
    logged = [any(raw[name][i] is not None for name in losses for i in groups[e]) for e in every]
    kept = [e for e, has in zip(every, _epochs(logged, "valid_rise" in raw), strict=True) if has]
    merged = {"epoch": np.array(kept, dtype=np.float64)}
    for name, cells in raw.items():
        if name != "epoch":
            merged[name] = np.array([_mean([cells[i] for i in groups[e]]) for e in kept], dtype=np.float64)
    return merged


def _epochs(logged: list[bool], ours: bool) -> list[bool]:
    """Which rows are epochs: those that logged a loss, and the rows at the end if losses stopped being numbers there.

    Many writers leave a cell blank for NaN. Blank rows between others are sparse logging, and one at the end may hold
    the results of a test; more of them than ever before in one stretch, or any in a history of ours, mean divergence.
    """
    if True not in logged:
        return logged
    last = len(logged) - 1 - logged[::-1].index(True)
    tail = len(logged) - 1 - last
    longest = max((len(list(run)) for has, run in itertools.groupby(logged[:last]) if not has), default=0)
    broke = tail > max(longest, 0 if ours else 1)
    return [has or (broke and index > last) for index, has in enumerate(logged)]


def _mean(cells: list[float | None]) -> float:
    """The mean of the known cells. NaN among numbers is a frame's blank; infinity stays."""
    known = [cell for cell in cells if cell is not None and not math.isnan(cell)]
    return sum(known) / len(known) if known else math.nan
