"""Curves that are in memory: a Watch, a Run, a History, a frame, dicts of lists, a list of dicts, nested as in a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import getattr_static
from typing import Any

from wellposed.core.errors import DataError, guard_call, listed
from wellposed.logs.documents import DEEPEST, is_rows, of_value
from wellposed.logs.log import OURS, Log, columns_of, named_as

BOOSTED = ("evals_result_", "evals_result", "get_evals_result")  # of LightGBM, XGBoost and CatBoost
DEEPEST_OBJECT = 2  # objects within each other: a network of skorch has a history, which is a list


def read_object(source: Any, depth: int = 0) -> list[Log]:
    """The curves of an object.

    Raises:
        DataError: it is none of the known kinds, or has recorded nothing.
        InputError: a fitted model cannot give its results; with the reason.
    """
    kind = type(source).__name__.lower()
    inner = None if isinstance(source, type) or depth > DEEPEST_OBJECT else _held(source)
    if inner is not None:
        return [replace(log, name=kind) for log in read_object(inner, depth + 1)]
    rows = getattr(source, "rows", None)
    if isinstance(rows, Sequence):
        columns = columns_of(rows)
        writer = OURS if "train_loss_se" in columns else named_as(columns)
        return [Log(columns, kind, writer, dict(getattr(source, "facts", None) or {}))]
    if is_rows(source) or isinstance(source, Mapping):
        kind = "dict" if isinstance(source, Mapping) else "rows"
        found = of_value(plain(source), kind)
        if source and not found:
            raise DataError(
                f"The {kind} holds no column: give each of {listed(source)} as a list, with one number an epoch."
            )
        return found or [Log({}, kind)]
    if is_frame(source):
        columns = {str(name): list(source[name]) for name in source.columns}
        return [Log(columns, "frame", named_as(columns))]
    raise DataError(
        f"diagnose cannot read a {type(source).__name__}; give a Watch, a Run, a History, a frame, a dict of lists, "
        "a list of dicts, a CSV file or a run folder. Two lists of losses are {'train_loss': first, 'val_loss': second}."
    )


def _held(source: Any) -> Any:
    """What an object keeps its curves in: a history, a Trainer's log, or what a model of boosting recorded; None in any other."""
    history = getattr(source, "history", None)
    if history is not None and not callable(history):
        return history
    for holder in (source, getattr(source, "state", None)):  # a Trainer of transformers, or its state
        if is_rows(log := getattr(holder, "log_history", None)):
            return log
    asked = guard_call(f"The results of the {type(source).__name__}", getattr)
    for name in BOOSTED:
        results = asked(source, name, None)
        results = guard_call(f"{name} of the {type(source).__name__}", results)() if callable(results) else results
        if isinstance(results, Mapping) and not results:
            raise DataError(
                f"The {type(source).__name__} recorded nothing. Fit it with eval_set=, training rows first."
            )
        if isinstance(results, Mapping):
            return results
    return None


def is_frame(value: Any) -> bool:
    """Whether something has columns that are asked for by their names, as frames of pandas and polars do."""
    absent = object()  # mocks and proxies answer to every name: only what is there counts
    return all(getattr_static(value, name, absent) is not absent for name in ("columns", "__getitem__"))


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """What a JSON document would hold in the place of a value: arrays, tensors and any sequence are lists, a frame is a dict.

    What holds itself, under however many keys, ends there; ``within`` are the ids of what the value is in.
    """
    if type(value) in (float, int, str):  # most of what there is, by far
        return value
    if len(within) > DEEPEST or id(value) in within:
        return None
    within = (*within, id(value))
    if is_frame(value):
        value = {name: list(value[name]) for name in value.columns}
    if isinstance(value, Mapping):
        return {str(key): plain(cell, within) for key, cell in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(cell, within) for cell in value]
    whole = getattr(value, "tolist", None) or getattr(
        value, "to_list", None
    )  # of NumPy, torch and pandas, and of polars
    return whole() if whole is not None else value
