"""``wellposed path``: which inputs of a table are needed, and how strong a penalty should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wellposed.cli.improve import Asked, problem_of
from wellposed.cli.options import Kinds, MaxMemory, kinds_by_column
from wellposed.cli.terminal import complain, decode_argument, hand_over, say, stdout_to_stderr

PLACES = ("inputs", "weights", "units")
HIDDEN = 32
"""Units of the network where there is something to drop inside of it, and nothing else is said."""


def path(
    data: Annotated[str, typer.Argument(help=".csv .tsv .parquet (also .gz), .xlsx, or FILE.py:NAME.")],
    target: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
    penalty: Annotated[str, typer.Option(help="l1, group, sparse_group, hierarchical, mcp, scad.")] = "group",
    on: Annotated[str, typer.Option(help="What the penalty removes: inputs, weights or units.")] = "inputs",
    hidden: Annotated[
        int | None,
        typer.Option(
            min=0, help="Hidden units of the network. By default 32 for hierarchical or units, else 0, a linear model."
        ),
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="How many strengths the path has.")] = 30,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Judge by cross-validation with this many folds, not on validation rows.")
    ] = None,
    kind: Kinds = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for path.json and path.svg.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of splits and initialization.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print path.json, and nothing else.")] = False,
    max_memory: MaxMemory = None,
) -> None:
    """Train models along the strengths of a penalty: what they keep, what they score, and which strength is best."""
    with stdout_to_stderr():
        from wellposed.core.errors import FolderInUse, InputError, did_you_mean, listed
        from wellposed.core.files import jsonable, write_atomically, write_json
        from wellposed.core.selectors import inputs, weights
        from wellposed.sparsity.path import strength_path
        from wellposed.sparsity.select import LinearOrSkip

        if on not in PLACES:
            raise InputError(f"--on is one of {listed(PLACES)}; it was given {on!r}.{did_you_mean(on, PLACES)}")
        if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FolderInUse(f"--out needs a new or an empty folder; '{out}' holds something.")
        columns = [decode_argument(name) or name for name in drop or []]
        asked = Asked(target=decode_argument(target), drop=columns, kind=kinds_by_column(kind))
        problem, *_ = problem_of(data, None, asked, pieces=False)
        if problem.prepared.encoder is not None:
            units = (HIDDEN if penalty == "hierarchical" or on == "units" else 0) if hidden is None else hidden
            problem.model = LinearOrSkip(units)
        where = {"inputs": inputs, "weights": weights, "units": "layers.0"}[on]
        found = strength_path(problem, penalty, where, points=points, folds=folds, seed=seed)
        if out is not None:
            write_json(out / "path.json", found.to_dict(), out)
            write_atomically(out / "path.svg", found.figure(), out)
    for warning in problem.warnings:
        complain(f"warning: {warning}")
    if as_json:
        hand_over(json.dumps(jsonable(found.to_dict())) + "\n")
        return
    say(str(found))
    if out is not None:
        say(f"figure: {out / 'path.svg'}")
