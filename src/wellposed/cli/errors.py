"""Errors at the command line: one sentence on stderr, exit status 1; 2 for wrong usage, 130 for Ctrl-C."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

LONGEST = 1500
"""Signs of one message: a column's name may have ten thousand."""


def guarded(command: Callable[[], None], debug: bool) -> int:
    """Run a command; the exit status. ``debug`` shows the traceback."""
    try:
        command()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away; there is nobody to tell.
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"Error: {shown(sentence(error))}", file=sys.stderr)
        return 1
    return 0


def visible(text: str) -> str:
    """Text of others for a terminal, without the control characters that could steer it."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def shown(text: str) -> str:
    """Text of others as one line for a terminal, and not without end."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def sentence(error: Exception) -> str:
    """What a person needs to know of an error, on one line."""
    from wellposed.core.errors import WellposedError

    text = " ".join(str(error).split())
    if isinstance(error, WellposedError):
        return text
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full; free some space and go on with --resume. ({error.filename or text})"
    if isinstance(error, OSError):
        return f"{error.strerror or text}: {error.filename}." if error.filename else text
    if isinstance(error, ModuleNotFoundError):
        return f"{text}. Run: pip install 'wellposed[all]'"
    return f"Unexpected {type(error).__name__}: {text}. Run again with --debug to see where, and please report it."
