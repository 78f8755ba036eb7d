"""What readers give (`Log`), and what is made of it (`Table`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wellposed.core.reading import check_cells

LONGEST_NAME = 60  # signs of a name or a line in a message
Array = npt.NDArray[np.float64]

KERAS, TENSORBOARD, LIGHTNING, TRANSFORMERS, WANDB, FASTAI, OURS, PLAIN, TEXT = (
    "Keras", "TensorBoard", "Lightning", "transformers", "wandb", "fastai", "wellposed", "table", "text",
)  # fmt: skip
"""Who wrote a log, as far as it shows: what cannot be known from it depends on that."""


@dataclass(frozen=True)
class Log:
    """One run's columns as their writer left them: equal lengths, in the order of writing, None where a cell is empty.

    Args:
        columns: by their own names.
        name: where they came from.
        format: one of the names above.
        facts: what the source says about itself.
        notes: what had to be decided in reading, a sentence each.
    """

    columns: Mapping[str, Sequence[Any]]
    name: str
    format: str = PLAIN
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How a log was understood.

    Args:
        format: who wrote it.
        axis: what the curves run along, ``epoch`` or ``step``.
        taken: our name of each column -> its name in the log.
        left: columns that were not used.
        notes: what had to be decided, a sentence each.
        unassigned: losses among ``left`` whose side no word tells: one of them may be the validation loss that is missing.
    """

    format: str = PLAIN
    axis: str = "epoch"
    taken: Mapping[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unassigned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Columns of equal length by our names, NaN where nothing is known, and what the source says about itself.

    ``facts["reading"]`` is the `Reading`.
    """

    columns: dict[str, Array]
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = "curves"


def normalize_name(name: str) -> str:
    """``"Val Loss"``, ``"val/loss"`` and ``"val-loss"`` are one name: ``val_loss``."""
    if not name.isascii():
        name = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of rows that need not have the same keys.

    Raises:
        DataError: there are so many different keys that the cells would not fit in memory.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    check_cells("A log", len(rows), len(names))
    return {str(name): [row.get(name) for row in rows] for name in names}


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


def cut_name(name: str) -> str:
    """A name or a line as an error quotes it: on one line, and not longer than `LONGEST_NAME`."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
