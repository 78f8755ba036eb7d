"""``wellposed predict``: a saved model on new rows."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="A folder that improve wrote.")],
    data: Annotated[str, typer.Argument(help="A table or .npz of new rows, or FILE.py:NAME for its test rows.")],
    out: Annotated[Path | None, typer.Option(help="A .csv to write; by default stdout.")] = None,
) -> None:
    """Predict new rows with the best model of a run."""
    from wellposed.core.files import write_atomically

    text = written(predicted(run, data))
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomically(out, text)


def predicted(run: Path, data: str) -> dict[str, Any]:
    """Columns of predictions."""
    import torch

    from wellposed.cli.improve import PROBLEM_FILE
    from wellposed.core.errors import DataError, FormatError
    from wellposed.data.arrays import Source
    from wellposed.data.tables import read_table
    from wellposed.training.checkpoint import load
    from wellposed.training.problems import file_problem, new_images

    if not (run / "model").is_dir():
        raise FormatError(f"'{run}' holds no model; give a folder that 'wellposed improve' wrote.")
    if PROBLEM_FILE.search(data):
        problem = file_problem(data)
        source: Source = problem.prepared.test or problem.prepared.valid
        return load(run / "model", problem).predict(source.batch(torch.arange(len(source)))[0])
    saved = load(run / "model")
    if data.lower().endswith(".npz"):
        return saved.predict(new_images(data))
    if saved.encoder is None:
        raise DataError(f"The model in '{run}' takes arrays, not tables; give an .npz.")
    return saved.predict(read_table(data))


def written(columns: dict[str, Any]) -> str:
    """Columns as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return out.getvalue()
