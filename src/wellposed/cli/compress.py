"""``wellposed compress``: a smaller network with equal outputs, from the best model of a run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from wellposed.cli.options import MaxMemory
from wellposed.cli.terminal import complain, hand_over, say, stdout_to_stderr

FOLDER = "small"
"""Where in a run the smaller network is written."""
RANDOM = (
    "The rows were random numbers, since no DATA was given. Give a table to compare outputs on rows that were measured."
)


def compress(
    run: Annotated[Path, typer.Argument(help="A folder that improve wrote.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Rows on which both networks are compared, as predict takes them. By default random ones, which the result says."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the smaller network to this .onnx file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    max_memory: MaxMemory = None,
) -> None:
    """Remove what is zero as a group from the best model of a run, and show what it costs before and after."""
    import wellposed as wp
    from wellposed.cli.predict import model_and_rows
    from wellposed.core.errors import InputError
    from wellposed.core.files import jsonable

    if out is not None and (out.suffix != ".onnx" or out.is_dir()):
        raise InputError(f"'{out}' is no name of an .onnx file; give one with --out.")
    with stdout_to_stderr():  # what a problem file prints is no result
        saved, rows = model_and_rows(run, data)
        timed = out is not None and importlib.util.find_spec("onnxruntime") is not None
        small = wp.compress(saved.model, rows, onnx=timed)
        if data is None:
            small = replace(small, notes=(*small.notes, RANDOM))
        folder = small.save(run / FOLDER) if small.shrunk else None
        difference = None if out is None else small.to_onnx(out)
    if as_json:
        written = {"folder": folder, "onnx": out, "onnx_difference": difference}
        hand_over(json.dumps(jsonable({**small.to_dict(), **written})))
        return
    say(str(small))
    if folder is not None:
        say(f"written to '{folder}', with all that wp.verify needs")
    if out is not None:
        differs = "" if difference is None else f"; onnxruntime differs by {difference:.2g}"
        complain(f"note: ONNX written to '{out}'{differs}")
