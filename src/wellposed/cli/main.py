"""``wellposed``: the commands, and errors as one sentence."""

from __future__ import annotations

import atexit
import gc
import sys
import time
from functools import partial
from typing import Any

from wellposed.cli.failures import run_command

COLLECTED = 50_000, 5, 5
"""Objects between two collections of garbage, and collections of the young between those of older ones. By default garbage is
looked for a hundred times as often, among the half a million objects that imports make, none of which is any."""


def run() -> None:
    """Entry point of the ``wellposed`` command."""
    # What the interpreter did before this line counts too: a budget in seconds begins with the process.
    began = time.monotonic() - time.process_time()
    # Else the interpreter looks at its end through every object of torch for what nobody needs: a second of work for nothing.
    atexit.register(gc.freeze)
    gc.set_threshold(*COLLECTED)
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    sys.exit(run_command(partial(_main, began), debug))


def _main(began: float) -> Any:
    from wellposed.cli.app import app

    return app(prog_name="wellposed", standalone_mode=False, obj=began)


if __name__ == "__main__":
    run()
