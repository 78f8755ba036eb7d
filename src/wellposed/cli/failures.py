"""Errors at the command line: one sentence on stderr, exit status 1; 2 for wrong usage, 128 + the signal where one came."""

from __future__ import annotations

import errno
import io
import traceback
from collections.abc import Callable
from typing import Any

from wellposed.cli.interrupts import Interrupts
from wellposed.cli.terminal import complain, explain, harmless_streams, undelivered


class Interrupted(Exception):
    """Ctrl-C, or what ends like it, came before there was anything to keep, or after all was kept."""


def run_command(command: Callable[[], Any], debug: bool) -> int:
    """Run a command; the exit status. ``debug`` shows the traceback."""
    with Interrupts() as interrupts, harmless_streams():
        try:
            status = _status(command, debug)
            missing = undelivered()
            if missing and not status:
                complain(
                    f"Error: Standard output could not be written ({missing}). What was written to files is whole."
                )
                status = 1
        except KeyboardInterrupt:
            complain("Interrupted.")
            # Where the signal came inside of `exec`, as in an import, `python -m` would end as if by Ctrl-C, whatever we return,
            # unless other code is executed after it.
            exec("pass")
            status = interrupts.status
        return status if interrupts.came is None else interrupts.status


def _status(command: Callable[[], Any], debug: bool) -> int:
    try:
        ended = command()
    except SystemExit as error:
        ended = error.code if isinstance(error.code, int) or not error.code else 1
    except Interrupted:
        raise KeyboardInterrupt from None
    except Exception as error:
        show = getattr(error, "show", None)
        if show is not None:  # of the parser: how the command is used
            usage = io.StringIO()
            show(file=usage)
            explain(usage.getvalue())
            return int(getattr(error, "exit_code", 2))
        if debug:
            explain(traceback.format_exc())
        complain(f"Error: {sentence(error)}")
        return 1
    return ended if isinstance(ended, int) else 0


def sentence(error: Exception) -> str:
    """What a person needs to know of an error, on one line."""
    from wellposed.core.errors import WellposedError

    text = str(error)
    if isinstance(error, WellposedError):
        return text
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        advice = "Free some space and run the command again; a study that was begun goes on with improve --resume."
        return f"The disk is full ({error.filename or text}). {advice}"
    if isinstance(error, OSError):
        return f"{error.strerror or text}: {error.filename}." if error.filename else text
    if isinstance(error, ModuleNotFoundError):
        return f"{text}. Run: pip install 'wellposed[all]'"
    return f"Unexpected {type(error).__name__}: {text}. Run again with --debug to see where, and please report it."
