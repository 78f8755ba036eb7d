"""``wellposed``: the commands, and errors as one sentence."""

from __future__ import annotations

import sys
from typing import Any

from wellposed.cli.failures import run_command


def run() -> None:
    """Entry point of the ``wellposed`` command."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    sys.exit(run_command(_main, debug))


def _main() -> Any:
    from wellposed.cli.app import app

    return app(prog_name="wellposed", standalone_mode=False)


if __name__ == "__main__":
    run()
