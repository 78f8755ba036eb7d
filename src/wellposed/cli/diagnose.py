"""``wellposed diagnose``: what the curves that somebody has say."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def diagnose(
    sources: Annotated[list[str], typer.Argument(help="CSV files of curves, or folders that improve wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> None:
    """Say what holds a model back, from its training curves."""
    from wellposed.core.files import jsonable
    from wellposed.diagnosis.diagnose import diagnose_many

    found = diagnose_many(sources)
    if as_json:
        print(json.dumps([jsonable(one.to_dict()) for one in found]))
        return
    for one in found:
        print(one)
