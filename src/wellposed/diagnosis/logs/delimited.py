"""Delimited text: plain tables, Keras' CSVLogger, Lightning's ``metrics.csv``, exports of wandb, histories of ours."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from wellposed.core.errors import DataError, listed
from wellposed.diagnosis.logs.log import FASTAI, LIGHTNING, OURS, WANDB, Log, check_cells, plain
from wellposed.diagnosis.logs.names import EPOCHS, STEPS
from wellposed.diagnosis.logs.objects import named_as
from wellposed.diagnosis.logs.text import text_of

BETWEEN = " - "  # wandb writes "run - metric"; a run's own name may have it too, a metric's seldom
RANGES = ("__MIN", "__MAX")


def csv_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a delimited text file (comma, semicolon, tab, bar or blanks; also .gz), as text.

    Raises:
        DataError: it cannot be read as text, is empty, has a header only, a repeated name, or a row that is too long.
    """
    return split(text_of(path), path)


def split(text: str, path: Path) -> dict[str, list[str]]:
    """The columns of delimited text. A header that is repeated further down, as by a run that was resumed, is no row."""
    text, delimiter = _delimiter(uncommented(text))
    check_cells(f"'{path}'", 1, text.count(delimiter) + text.count("\n"))
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in table if "".join(row).strip()]
    except csv.Error as error:
        raise DataError(f"'{path}' is not a readable CSV file: {error}.") from None
    if not rows:
        raise DataError(f"'{path}' is empty; a header and at least one row are needed.")
    header = [name.strip() for name in rows[0]]
    body = [row for row in rows[1:] if row != rows[0]]
    if not body:
        raise DataError(f"'{path}' has a header but no rows.")
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"'{path}' has the column {listed(repeated)} more than once; rename one of them.")
    width = len(header)
    check_cells(f"'{path}'", len(body), width)
    if long := [number for number, row in enumerate(body, 2) if any(cell.strip() for cell in row[width:])]:
        raise DataError(
            f"'{path}' has more cells in row {long[0]} than its header has names ({width})."
            + (" If decimals are written with commas, separate the columns by semicolons." if delimiter == "," else "")
        )
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    if all(len(row) == width for row in body):
        return {name: list(map(str.strip, cells)) for name, cells in zip(names, zip(*body, strict=True), strict=True)}
    return {name: [row[i].strip() if i < len(row) else "" for row in body] for i, name in enumerate(names)}


def uncommented(text: str) -> str:
    """Without remarks before the header. One right before numbers is the header itself, as numpy writes it."""
    if not text.startswith("#"):
        return text
    lines = text.split("\n")
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    if count == 0:
        return text
    if re.match(r'\s*"?[-+.\d]', lines[count]):
        count -= 1
    return "\n".join(lines[count:]).lstrip("# ")


def _delimiter(text: str) -> tuple[str, str]:
    """The text without a spreadsheet's ``sep=;`` line, and the sign between its cells."""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        return rest, first.strip()[-1]
    found = max(",;\t", key=first.count)
    if found in first:
        return text, found
    width = len(text.lstrip().partition("\n")[0].split())
    if "|" in first or width < 2:
        return text, "|" if "|" in first else found
    rows = [line.split() for line in text.split("\n") if line.strip()]
    if len(rows) > 1 and {len(row) for row in rows} == {width}:
        return "\n".join("\t".join(row) for row in rows), "\t"
    return text, found


def read_delimited(path: Path, text: str) -> list[Log]:
    """The runs of a delimited file."""
    columns = split(text, path)
    blank = {name: [cell or None for cell in cells] for name, cells in columns.items()}
    notes = _blank_end(text)
    if by_run := _by_run(blank):
        several, notes_of = len(by_run) > 1, _sampled(blank)
        return [Log(mine, f"{path}: {run}" if several else str(path), WANDB, {}, notes_of.get(run, ()))
                for run, mine in by_run.items()]  # fmt: skip
    return [Log(blank, str(path), _writer(path, blank), {}, notes)]


def _blank_end(text: str) -> tuple[str, ...]:
    """What spreadsheets leave below a table, and what a run that left the numbers writes where no epoch is numbered."""
    end = itertools.takewhile(lambda line: not line.strip(",;\t| \r"), reversed(text.split("\n")))
    count = sum(bool(line.strip(" \r")) for line in end)
    if count == 0:
        return ()
    rows = "The last row is" if count == 1 else f"The last {count} rows are"
    return (f"{rows} blank and left out: if these were losses that were no numbers, training diverged there.",)


def _writer(path: Path, columns: Mapping[str, object]) -> str:
    names = {plain(name) for name in columns}
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
    return {name: cells for name, cells in shared.items() if plain(name) in (*EPOCHS, *STEPS)}


def _used(columns: dict[str, list[str | None]]) -> dict[str, list[str | None]]:
    """The rows in which a run has any value: others belong to other runs."""
    own = [cells for name, cells in columns.items() if plain(name) not in (*EPOCHS, *STEPS)]
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
