"""Curves that are in memory: a Watch, a Run, a History, a frame, a dict of lists, a list of dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wellposed.core.errors import DataError, listed
from wellposed.logs.log import KERAS, OURS, PLAIN, TRANSFORMERS, Log, columns_of, normalize_name


def read_object(source: Any) -> list[Log]:
    """The curves of an object.

    Raises:
        DataError: it is none of the known kinds.
    """
    kind = type(source).__name__.lower()
    history = getattr(source, "history", None)
    if history is not None and not callable(history):
        return [replace(log, name=kind) for log in read_object(history)]
    rows = getattr(source, "rows", None)
    if isinstance(rows, Sequence):
        columns = columns_of(rows)
        writer = OURS if "train_loss_se" in columns else named_as(columns)
        return [Log(columns, kind, writer, dict(getattr(source, "facts", None) or {}))]
    if isinstance(source, Mapping):
        columns = {str(key): list(values) for key, values in source.items() if is_column(values)}
        if source and not columns:
            raise DataError(
                f"The dict has no column: give each of {listed(source)} as a list, with one number an epoch."
            )
        return [Log(columns, "dict", named_as(columns))]
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        columns = {str(name): list(source[name]) for name in source.columns}
        return [Log(columns, "frame", named_as(columns))]
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        return [of_rows(source, "rows")]
    raise DataError(
        f"diagnose cannot read a {type(source).__name__}; give a Watch, a Run, a History, a frame, a dict of lists, "
        "a list of dicts, a CSV file or a run folder."
    )


def of_rows(rows: Sequence[Mapping[str, Any]], name: str) -> Log:
    """A log from rows. The last row of transformers, which sums up the whole training, is no row of a curve."""
    if any("eval_loss" in row or "train_runtime" in row for row in rows):
        rows = [row for row in rows if "train_runtime" not in row]
        return Log(columns_of(rows), name, TRANSFORMERS)
    columns = columns_of(rows)
    return Log(columns, name, named_as(columns))


def named_as(columns: Mapping[str, Any]) -> str:
    """Whose names these are: Keras calls the training loss ``loss`` and the validation loss ``val_loss``."""
    names = {normalize_name(name) for name in columns}
    return KERAS if {"loss", "val_loss"} <= names and "train_loss" not in names else PLAIN


def is_column(values: Any) -> bool:
    """Whether something is a column of cells."""
    return hasattr(values, "__len__") and not isinstance(values, (str, bytes, Mapping))
