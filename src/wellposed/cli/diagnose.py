"""``wellposed diagnose``: what the curves that somebody has say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wellposed.cli.failures import sentence
from wellposed.cli.options import MaxMemory, RuleNames, imported_types
from wellposed.cli.terminal import complain, hand_over, say, stdout_encodes, terminal_width

if TYPE_CHECKING:
    from wellposed.diagnosis.diagnosis import Diagnoses, Diagnosis

HELP = (
    "Logs: CSV, TSV, JSON, JSON lines (also .gz), event files of TensorBoard, what Keras, Lightning, transformers or wandb "
    "wrote, folders of these, or folders that improve wrote."
)


def diagnose(
    sources: Annotated[list[str], typer.Argument(help=HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="For several sources: print each diagnosis in full below the table.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the curves with the turning point: FILE.svg, .png or .html.")
    ] = None,
    reader: Annotated[
        list[str] | None,
        typer.Option(metavar="PACKAGE.MODULE:FUNCTION", help="A log reader of your own; may be given several times."),
    ] = None,
    rule: RuleNames = None,
    max_memory: MaxMemory = None,
) -> None:
    """Say what holds a model back, from its training curves."""
    from wellposed.core.files import jsonable

    if figure is not None:
        from wellposed.reporting.turning import check_name

        check_name(figure)
    found, unread = _all_of(sources, imported_types(reader, "reader"), imported_types(rule, "rule"))
    if as_json and (len(found) or not unread):
        hand_over(json.dumps([jsonable(one.to_dict()) for one in found]) + "\n")
    elif not as_json:
        _show(found, details)
    if figure is not None and len(found):
        from wellposed.reporting.turning import write_figure

        write_figure(found, figure)
        if not as_json:
            say(f"figure: {figure}")
    if unread:
        raise typer.Exit(1)


def _all_of(sources: list[str], readers: list[Any], rules: list[Any]) -> tuple[Diagnoses, bool]:
    """What can be read is judged; each source that cannot gets its sentence on stderr."""
    from wellposed.core.errors import WellposedError
    from wellposed.diagnosis.diagnose import every_run, worst_first
    from wellposed.diagnosis.diagnosis import Diagnoses

    found: list[Diagnosis] = []
    unread = False
    for source in sources:
        try:
            runs: list[Diagnosis | Exception] = [*every_run(source, readers, rules)]
        except (WellposedError, OSError) as error:
            runs = [error]
        for one in runs:
            if isinstance(one, Exception):
                complain(f"Error: {sentence(one)}")
                unread = True
            else:
                found.append(one)
    return Diagnoses(tuple(found), worst_first(found)), unread


def _show(found: Diagnoses, details: bool) -> None:
    """One source with everything; several as a table, the worst first."""
    from wellposed.reporting.sketch import SIGNS, sketch

    columns = terminal_width()
    if len(found) > 1:
        say(found.table(columns))
        if not details:
            say("\nAdd --details to see the evidence, the next step and what is not known for each of them.")
    for one in found.worst_first if details or len(found) == 1 else ():
        if len(found) > 1:
            say()
        if columns is not None and (drawing := sketch(one, columns, ascii_only=not stdout_encodes(SIGNS))):
            say(f"{drawing}\n")
        say(str(one))
