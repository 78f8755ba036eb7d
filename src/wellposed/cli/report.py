"""``wellposed report``: write the page of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="A folder that improve wrote.")]) -> None:
    """Write report.html of a run again, from its study.json."""
    from wellposed.reporting.html import report as write

    print(f"report: {write(run)}")
