"""``wellposed report``: write the page of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wellposed.cli.options import MaxMemory
from wellposed.cli.terminal import say


def report(
    run: Annotated[Path, typer.Argument(help="A folder that improve wrote.")], max_memory: MaxMemory = None
) -> None:
    """Write report.html of a run again, from its study.json."""
    from wellposed.core.errors import InputError
    from wellposed.reporting.html import report as write

    if run.exists() and not run.is_dir():
        raise InputError(f"'{run}' is a file; give a folder that 'wellposed improve' wrote.")
    say(f"report: {write(run)}")
