"""The history of a run: like-for-like curves, one row an epoch."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, did_you_mean, listed, require
from wellposed.core.files import check_schema, jsonable, write_atomically
from wellposed.core.schemas import Stored, validate
from wellposed.core.tfrecord import event_file

SCHEMA = 1
EVENTS = "events.out.tfevents.0.wellposed"
"""The name by which TensorBoard knows its files."""


class Stopped(StrEnum):
    """Why a training ended: after its epochs, by patience, at the turn, by the clock, ..."""

    EPOCHS = "epochs"
    PATIENCE = "patience"
    TURNED = "turned"
    BUDGET = "budget"
    DIVERGED = "diverged"
    CULLED = "culled"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    __repr__ = str.__repr__  # as the word that is saved


@dataclass
class _Saved:
    """A history in JSON."""

    facts: dict[str, Any]
    rows: list[dict[str, Stored]]


COLUMNS = {
    "epoch": "0 for the first",
    "train_loss": "mean loss on the training probe: clean inputs, evaluation mode, no penalty, no smoothing",
    "valid_loss": "the same on as many validation rows, from the same weights",
    "train_loss_se": "standard error of train_loss over examples",
    "valid_loss_se": "standard error of valid_loss over examples",
    "train_metric": "the metric on the training probe",
    "valid_metric": "the metric on the validation rows",
    "valid_rise": "mean paired difference of the validation losses to the best epoch so far",
    "valid_rise_se": "its standard error over examples",
    "train_gain": "by how much train_loss is below the loss of the best constant prediction, paired by row",
    "train_gain_se": "its standard error over examples",
    "valid_gain": "the same on the validation rows",
    "valid_gain_se": "its standard error over examples",
    "cost": "what the optimizer minimized, averaged over the epoch: noisy loss plus penalties in the cost",
    "penalty": "all terms together, at the end of the epoch",
    "grad_norm": "Euclidean norm of the gradient, averaged over the epoch's steps, before clipping",
    "weight_norm": "Euclidean norm of all weights",
    "zeros": "share of the weight matrices' entries that are exactly 0",
    "lr": "learning rate of the epoch's last step",
    "seconds": "wall-clock seconds of the epoch, watching included",
    "watch_seconds": "of these, what watching took",
}
"""What each column means; terms add columns ``term:...`` with their own values."""


@checked
class History:
    """Rows of numbers, one an epoch, and facts that hold for all of them.

    Args:
        facts: such as ``metric``, ``higher_is_better``, ``constant_loss``, ``stopped``, ``epochs_planned``.
        rows: one mapping an epoch.
    """

    def __init__(self, facts: dict[str, Any] | None = None, rows: list[dict[str, Any]] | None = None) -> None:
        self.facts: dict[str, Any] = dict(facts or {})
        self.rows: list[dict[str, float]] = [] if rows is None else list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[float]:
        """A column, a number for each epoch; NaN where an epoch has none.

        Raises:
            InputError: no epoch has it, and it is none of `COLUMNS`.
        """
        if self.rows and column not in COLUMNS and column not in self.columns:
            known = self.columns
            raise InputError(
                f"A history has no column {column!r}.{did_you_mean(column, known)} It has: {listed(known, len(known))}."
            )
        return [row.get(column, math.nan) for row in self.rows]

    @property
    def best(self) -> int:
        """The row with the lowest validation loss, counted from 0; -1 where there is none."""
        losses = self["valid_loss"]
        finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
        return min(finite, key=lambda i: losses[i]) if finite else -1

    @property
    def columns(self) -> list[str]:
        """The columns that occur, in the order of `COLUMNS`, then terms."""
        seen = dict.fromkeys(key for row in self.rows for key in row)
        return [c for c in COLUMNS if c in seen] + [c for c in seen if c not in COLUMNS]

    def append(self, row: dict[str, float]) -> None:
        """Add the row of an epoch: numbers by column."""
        self.rows.append(row)

    def frame(self) -> Any:
        """The history as a pandas frame, a row for each epoch.

        Raises:
            MissingExtra: pandas is not installed.
        """
        pandas = require("pandas", "tables")
        return pandas.DataFrame(self.rows, columns=self.columns)

    def to_csv(self) -> str:
        """The rows as a CSV text, with an empty cell for each missing number."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _written(v) for k, v in row.items()} for row in self.rows)
        return out.getvalue()

    def to_tensorboard(self, folder: str | Path, within: str | Path | None = None) -> Path:
        """Write an event file into ``folder``, which ``tensorboard --logdir`` of it, or of a folder above it, shows as a run.

        Its tags are the columns, its steps the epochs; what is not finite is left out. Written again, it replaces the last one.
        """
        numbers = [  # what single precision cannot hold is not finite there
            {c: float(row[c]) for c in self.columns if abs(float(row.get(c, math.nan))) < 2.0**127} for row in self.rows
        ]
        seconds = [row.get("seconds", 0.0) for row in numbers]
        began = time.time() - math.fsum(seconds)
        whens = [began + passed for passed in itertools.accumulate(seconds)]
        steps = [int(row.pop("epoch", i)) for i, row in enumerate(numbers)]
        return write_atomically(Path(folder) / EVENTS, event_file(zip(whens, steps, numbers, strict=True)), within)

    def to_dict(self) -> dict[str, Any]:
        """The history as dicts and lists that JSON can hold."""
        return {"schema": SCHEMA, "facts": jsonable(self.facts), "rows": jsonable(self.rows)}

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str = "history") -> History:
        """The history that `to_dict` gave; a missing number is NaN.

        Raises:
            FormatError: another schema, or damaged.
        """
        check_schema(value.get("schema"), SCHEMA, where, "history")
        saved = validate(_Saved, value, f"The history in '{where}'")
        return cls(saved.facts, saved.rows)

    @checked
    def save(self, path: str | Path, within: str | Path | None = None) -> Path:
        """Write the history as JSON and return the path; ``within`` is the folder of the run that the file must lie in."""
        return write_atomically(path, json.dumps(self.to_dict()) + "\n", within)

    def __str__(self) -> str:
        shown = [
            c for c in ("epoch", "train_loss", "valid_loss", "train_metric", "valid_metric", "lr") if c in self.columns
        ]
        lines = ["  ".join(c.rjust(18 if c.endswith("loss") else 12) for c in shown)]
        for row in self.rows:
            cells = []
            for column in shown:
                value = row.get(column, math.nan)
                text = f"{value:.0f}" if column == "epoch" else f"{value:.4g}"
                if column.endswith("loss"):
                    text = f"{value:.4f} ± {row.get(column + '_se', math.nan):.4f}"
                cells.append(text.rjust(18 if column.endswith("loss") else 12))
            lines.append("  ".join(cells))
        return "\n".join(lines)


def _written(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return value
