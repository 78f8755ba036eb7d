"""``wellposed watch``: a page of this machine alone that follows trainings while they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wellposed.cli.terminal import say


def watch_folder(
    folder: Annotated[
        Path, typer.Argument(help="Where trainings write their logs: each file or folder in it is a run.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Follow trainings on a page of this machine: curves, findings as they change, what was stopped. Ctrl-C ends it."""
    from wellposed.reporting.live import page_server

    server, _ = page_server(folder, port)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    say(f"watching {folder}: {address} (Ctrl-C ends it)", now=True)
    if open_page:
        typer.launch(address)
    try:
        server.serve_forever()
    finally:
        server.server_close()
