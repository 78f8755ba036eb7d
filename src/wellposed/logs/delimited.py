"""Delimited text: plain tables, Keras' CSVLogger, Lightning's ``metrics.csv``, exports of wandb, histories of ours."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from wellposed.core.csv import split_columns
from wellposed.logs.column_names import EPOCHS, STEPS
from wellposed.logs.log import FASTAI, LIGHTNING, OURS, WANDB, Log, named_as, normalize_name

BETWEEN = " - "  # wandb writes "run - metric"; a run's own name may have it too, a metric's seldom
RANGES = ("__MIN", "__MAX")


def read_delimited(path: Path, text: str) -> list[Log]:
    """The runs of a delimited file."""
    columns = split_columns(_without_empty_column(text), path)
    blank = {name: [cell or None for cell in cells] for name, cells in columns.items()}
    notes = _blank_end(text)
    if by_run := _by_run(blank):
        several, notes_of = len(by_run) > 1, _sampled(blank)
        return [Log(mine, f"{path}: {run}" if several else str(path), WANDB, {}, notes_of.get(run, ()))
                for run, mine in by_run.items()]  # fmt: skip
    return [Log(blank, str(path), _writer(path, blank), {}, notes)]


def _without_empty_column(text: str) -> str:
    """Rows of tabs in which one cell more than the header has stands empty in each row, without that cell."""
    header, _, rest = text.partition("\n")
    width = header.count("\t") + 1
    if width < 3 or rest.partition("\n")[0].count("\t") != width:
        return text
    rows = [line.split("\t") for line in rest.split("\n") if line.strip()]
    empty = [place for place in range(width) if all(len(row) == width + 1 and not row[place].strip() for row in rows)]
    if len(empty) != 1:
        return text
    return "\n".join([header, *("\t".join(row[: empty[0]] + row[empty[0] + 1 :]) for row in rows)])


def _blank_end(text: str) -> tuple[str, ...]:
    """What spreadsheets leave below a table, and what a run that left the numbers writes where no epoch is numbered."""
    end = itertools.takewhile(lambda line: not line.strip(",;\t| \r"), reversed(text.split("\n")))
    count = sum(bool(line.strip(" \r")) for line in end)
    if count == 0:
        return ()
    rows = "The last row is" if count == 1 else f"The last {count} rows are"
    return (f"{rows} blank and left out: if these were losses of NaN, training diverged there.",)


def _writer(path: Path, columns: Mapping[str, object]) -> str:
    names = {normalize_name(name) for name in columns}
    if "train_loss_se" in names:
        return OURS
    if {"epoch", "train_loss", "valid_loss", "time"} <= names:
        return FASTAI
    if {"epoch", "step"} <= names and (
        path.name == "metrics.csv" or any(n.endswith(("_step", "_epoch")) for n in names)
    ):
        return LIGHTNING
    if {"runtime", "timestamp", "step"} <= names and any(name.startswith("_") for name in columns):
        return WANDB
    return named_as(columns)


def _by_run(columns: Mapping[str, list[str | None]]) -> dict[str, dict[str, list[str | None]]]:
    """The columns of each run in a chart that wandb exported; empty for any other table."""
    if not any(BETWEEN in name and name.endswith(RANGES) for name in columns):
        return {}
    shared = {name: cells for name, cells in columns.items() if BETWEEN not in name}
    found: dict[str, dict[str, list[str | None]]] = {}
    for name, cells in columns.items():
        if BETWEEN in name and not name.endswith(RANGES):
            run, metric = name.rsplit(BETWEEN, 1)
            found.setdefault(run, _axes(shared))[metric.removeprefix("_") if metric == "_step" else metric] = cells
    return {run: _used(mine) for run, mine in found.items()}


def _axes(shared: Mapping[str, list[str | None]]) -> dict[str, list[str | None]]:
    return {name: cells for name, cells in shared.items() if normalize_name(name) in (*EPOCHS, *STEPS)}


def _used(columns: dict[str, list[str | None]]) -> dict[str, list[str | None]]:
    """The rows in which a run has any value: others belong to other runs."""
    own = [cells for name, cells in columns.items() if normalize_name(name) not in (*EPOCHS, *STEPS)]
    keep = [i for i, cells in enumerate(zip(*own, strict=True)) if any(cell is not None for cell in cells)]
    return {name: [cells[i] for i in keep] for name, cells in columns.items()}


def _sampled(columns: Mapping[str, Sequence[str | None]]) -> dict[str, tuple[str, ...]]:
    """A note for each run whose chart has points that are averages of several values, as wandb makes of long histories."""
    found: dict[str, tuple[str, ...]] = {}
    for name, cells in columns.items():
        run = name.rsplit(BETWEEN, 1)[0]
        if BETWEEN in name and not name.endswith(RANGES) and run not in found:
            ends = [columns.get(name + end, cells) for end in RANGES]
            if any(tuple(cells) != tuple(end) for end in ends):
                found[run] = (
                    f"'{name}' is a chart's sample: each point stands for several values, between __MIN and __MAX.",
                )
    return found
