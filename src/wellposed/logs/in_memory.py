"""Curves that are in memory: a Watch, a Run, a History, a frame, dicts of lists, a list of dicts, nested as in a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wellposed.core.errors import DataError, listed
from wellposed.logs.documents import DEEPEST, is_rows, of_value
from wellposed.logs.log import OURS, Log, columns_of, named_as, of_rows

BOOSTED = ("evals_result_", "evals_result", "get_evals_result")  # of LightGBM, XGBoost and CatBoost


def read_object(source: Any) -> list[Log]:
    """The curves of an object.

    Raises:
        DataError: it is none of the known kinds.
    """
    kind = type(source).__name__.lower()
    history = getattr(source, "history", None)
    if history is not None and not callable(history):
        return [replace(log, name=kind) for log in read_object(history)]
    for name in BOOSTED:
        results = getattr(source, name, None)
        if results is not None:
            return [replace(log, name=kind) for log in read_object(results() if callable(results) else results)]
    rows = getattr(source, "rows", None)
    if isinstance(rows, Sequence):
        columns = columns_of(rows)
        writer = OURS if "train_loss_se" in columns else named_as(columns)
        return [Log(columns, kind, writer, dict(getattr(source, "facts", None) or {}))]
    log: Any = getattr(source, "log_history", None)
    if is_rows(log):  # the state of a Trainer
        return [of_rows(log, kind)]
    if (isinstance(source, Mapping) or is_rows(source)) and (
        found := of_value(plain(source), "dict" if isinstance(source, Mapping) else "rows")
    ):
        return found
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
    if is_rows(source):
        return [of_rows(source, "rows")]
    raise DataError(
        f"diagnose cannot read a {type(source).__name__}; give a Watch, a Run, a History, a frame, a dict of lists, "
        "a list of dicts, a CSV file or a run folder. Two lists of losses are {'train_loss': first, 'val_loss': second}."
    )


def is_column(values: Any) -> bool:
    """Whether something is a column of cells."""
    return hasattr(values, "__len__") and not isinstance(values, (str, bytes, Mapping))


def plain(value: Any, depth: int = 0) -> Any:
    """What a JSON document would hold in the place of a value: arrays and tensors are lists."""
    if depth > DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(cell, depth + 1) for key, cell in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(cell, depth + 1) for cell in value]
    return value.tolist() if hasattr(value, "tolist") else value
