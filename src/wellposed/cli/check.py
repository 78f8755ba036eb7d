"""``wellposed check``: how a table is read, before anything is trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wellposed.cli.options import Kinds, MaxMemory, kinds_by_column
from wellposed.cli.terminal import decode_argument, say

if TYPE_CHECKING:
    from wellposed.data.table_files import TableFile

WIDEST = 32
"""Signs of a name or a value that are shown."""


def check_table(
    data: Annotated[str, typer.Argument(help="A table: .csv .tsv .parquet (also .gz), .xlsx.")],
    target: Annotated[
        str | None, typer.Option(help="The column to predict. By default the last one, as improve takes it.")
    ] = None,
    kind: Kinds = None,
    max_memory: MaxMemory = None,
) -> None:
    """Show how each column of a table is read, and what improve would leave out."""
    from wellposed.core.errors import DataError
    from wellposed.data.table_files import open_table
    from wellposed.data.tables import prepare_table

    table = open_table(data, kinds_by_column(kind))
    say(f"{data}: {table.layout}")
    for line in _lines(table):
        say(line)
    try:
        left = prepare_table(table.frame, decode_argument(target)).warnings
    except DataError as error:
        left = (str(error), *(() if target else ("Name the column to predict with --target.",)))
    for note in (*table.notes, *left):
        say(f"note: {note}")


def _lines(table: TableFile) -> list[str]:
    from wellposed.core.formats import table as aligned

    rows = [("column", "read as", "first cell", "its value", "missing")]
    for name, reading in table.readings.items():
        values = table.frame[name]
        first = int(values.notna().to_numpy().argmax())
        value, cell = values.iloc[first], str(table.cells[name].iloc[first])
        shown = f"{value:.10g}" if isinstance(value, float) else str(value).removesuffix(" 00:00:00")
        rows.append((_short(name), reading.said(), _short(cell), _short(shown), str(int(values.isna().sum()))))
    return aligned(rows)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
