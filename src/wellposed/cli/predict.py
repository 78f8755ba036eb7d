"""``wellposed predict``: a saved model on new rows."""

from __future__ import annotations

import csv
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wellposed.cli.options import MaxMemory
from wellposed.cli.terminal import complain, hand_over, stdout_to_stderr

if TYPE_CHECKING:
    from wellposed.training.checkpoint import Saved

RANDOM_ROWS = 1024
FORMULA = re.compile(r"[=@\t\r]|[+-].*[(|!]", re.DOTALL)
"""How a text begins that a spreadsheet would run. A number, or a class called + or -, is none."""


def predict(
    run: Annotated[Path, typer.Argument(help="A folder that improve wrote.")],
    data: Annotated[str, typer.Argument(help="A table or .npz of new rows, or FILE.py:NAME for its test rows.")],
    out: Annotated[Path | None, typer.Option(help="A .csv to write; by default stdout.")] = None,
    max_memory: MaxMemory = None,
) -> None:
    """Predict new rows with the best model of a run: one prediction for each row, read as the training rows were."""
    from wellposed.core.errors import InputError
    from wellposed.core.files import write_atomically
    from wellposed.core.shared import warnings_apart

    if out is not None and out.is_dir():
        raise InputError(f"'{out}' is a folder; give the name of a .csv file with --out.")
    with stdout_to_stderr(), warnings_apart(record=True) as seen:  # what a problem file prints is no prediction
        warnings.simplefilter("always", UserWarning)
        columns = prediction_columns(run, data)
        text = csv_text(columns)
    for doubt in seen or ():
        complain(f"warning: {doubt.message}")
    if out is not None:
        write_atomically(out, text)
    else:
        hand_over(text)


def prediction_columns(run: Path, data: str) -> dict[str, Any]:
    from wellposed.core.errors import DataError

    saved, inputs = model_and_rows(run, data, encoded=False)
    try:
        return saved.predict(inputs)
    except RuntimeError as error:
        raise DataError(
            f"The rows in {data!r} do not fit the model in '{run}': {str(error).splitlines()[0]}."
        ) from None


def model_and_rows(run: Path, data: str | None, encoded: bool = True) -> tuple[Saved, Any]:
    """The model of a run, and rows for it.

    Args:
        data: what ``predict`` takes; None draws random rows, which is possible for the encoded rows of a table alone.
        encoded: give the rows as the network takes them, and not as `Saved.predict` does.
    """
    import dataclasses

    import torch

    from wellposed.cli.improve import PROBLEM_FILE
    from wellposed.core.errors import DataError, FormatError
    from wellposed.data.table_files import read_cells
    from wellposed.search.improve import with_test
    from wellposed.training.checkpoint import load
    from wellposed.training.ready_problems import file_problem, new_images

    if not (run / "model").is_dir():
        raise FormatError(f"'{run}' holds no model; give a folder that 'wellposed improve' wrote.")
    if data is not None and PROBLEM_FILE.search(data):
        problem = file_problem(data)
        test = (problem if problem.data.test is not None else with_test(problem)).prepared.test
        assert test is not None  # with_test splits some off
        # The rows of a problem are encoded already.
        saved = dataclasses.replace(load(run / "model", problem), encoder=None)
        return saved, test.batch(torch.arange(len(test)))[0]
    saved = load(run / "model")
    if data is None:
        if saved.encoder is None:
            raise DataError(f"The model in '{run}' does not say what rows it takes; give some as a second argument.")
        width = next(iter(saved.model.parameters())).shape[-1]
        return saved, torch.randn(RANDOM_ROWS, width, generator=torch.Generator().manual_seed(0))
    images = data.lower().endswith(".npz")
    if images != (saved.encoder is None):
        wanted = "a table with its columns" if images else "an .npz"
        raise DataError(f"The model in '{run}' does not take {data!r}; give {wanted}.")
    inputs: Any
    if saved.encoder is None:
        inputs = new_images(data)
    else:
        inputs = read_cells(data, [column.name for column in saved.encoder.columns])[0]
        inputs = saved.encoder.transform(inputs) if encoded else inputs
    return saved, torch.as_tensor(inputs) if encoded else inputs


def safe(cell: Any) -> Any:
    """The cell, or with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def csv_text(columns: dict[str, Any]) -> str:
    """Columns as CSV; several numbers a row become ``prediction_0``, ``prediction_1``, ..."""
    for name in [name for name, column in columns.items() if column.ndim == 2]:
        columns = {**columns, **{f"{name}_{place}": part for place, part in enumerate(columns[name].T)}}
        del columns[name]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(safe, columns))
    writer.writerows(map(safe, row) for row in zip(*(column.tolist() for column in columns.values()), strict=True))
    return out.getvalue()
