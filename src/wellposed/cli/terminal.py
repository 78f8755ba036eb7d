"""The one place through which a command speaks: sentences, data and errors, to whatever listens, or to nobody.

`harmless_streams` makes the two streams of the process harmless for the time of a command: a stream that was closed leads nowhere,
what cannot be written (a full disk, a reader that left, a terminal that was shut) is kept as a fact, and a sign that the
encoding lacks gets its form in ASCII. So nothing that is printed, by us, by a library or by a problem file, can end a study.
What names of others could do to a terminal is taken from them in `say` and `complain`.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import select
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any

from wellposed.core.signs import READABLE, fitting, visible

LONGEST = 1500
"""Signs of one message: a column's name may have ten thousand."""
LAYOUT = re.compile("[ \n]+")
GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""Whoever read went away, as ``head`` does, or a terminal that is closed: nobody misses anything."""


def say(text: str = "", now: bool = False) -> None:
    """Print sentences or a table on stdout; ``now`` also into a pipe, whose reader would wait for more."""
    print(_lines(text), flush=now)


def complain(text: str) -> None:
    """Print a message on stderr as one line, and not without end."""
    line = visible(LAYOUT.sub(" ", text.strip(" \n")))
    print(line if len(line) <= LONGEST else f"{line[:LONGEST]}…", file=sys.stderr)


def explain(text: str) -> None:
    """Print what has several lines on stderr: usage, a traceback."""
    print(_lines(text.rstrip("\n")), file=sys.stderr)


def hand_over(text: str) -> None:
    """Print data on stdout: as it is for a pipe or a file, harmless for a terminal.

    A sign that the encoding of the output lacks is written by its number, so that no two labels become one.
    """
    if sys.stdout.isatty():
        say(text.removesuffix("\n"))
        return
    encoding = sys.stdout.encoding or "utf-8"
    fit = fitting(text, encoding, lossless=True)
    if fit != text:
        complain(
            f"note: the output's encoding ({encoding}) lacks some signs; they are written by their number, as \\u2212."
        )
    sys.stdout.write(fit)


def decode_argument(name: str | None) -> str | None:
    """A name of a column as it was typed: where Python takes arguments for ASCII, its other signs come as single bytes."""
    if name is not None and name != name.encode("utf-8", "ignore").decode("utf-8"):
        with suppress(UnicodeError):
            return os.fsencode(name).decode("utf-8")
    return name


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what somebody's problem file prints inside the block: stdout is kept for results."""
    with redirect_stdout(sys.stderr):
        yield


def stdout_encodes(signs: str) -> bool:
    """Whether stdout has all these signs, for a drawing that has another form without them."""
    return fitting(signs, sys.stdout.encoding or "utf-8") == signs


def terminal_width() -> int | None:
    """Signs of a line where stdout is a terminal, else None."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


@contextmanager
def harmless_streams() -> Iterator[None]:
    """Make stdout and stderr harmless inside the block."""
    fill_gaps()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell that a home cannot be written
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = harmless(before[0], False), harmless(before[1], True)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def fill_gaps() -> None:
    """Open nothing where the process was given no stdin, stdout or stderr: else the next file takes the place."""
    for place in (0, 1, 2):
        try:
            os.fstat(place)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            if nothing != place:
                os.dup2(nothing, place)
                os.close(nothing)
            os.set_inheritable(place, True)


def harmless(stream: Any, at_once: bool) -> Any:
    """The stream, written to in a way that never fails; one that takes text alone as it is.

    Args:
        at_once: hand over each line as it comes, also to what is no terminal.
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    with suppress(OSError, ValueError):
        stream.flush()
    if not hasattr(stream, "buffer"):
        return stream
    end = End(stream)
    return io.TextIOWrapper(io.BufferedWriter(end), stream.encoding, READABLE, line_buffering=at_once or end.isatty())


class End(io.RawIOBase):
    """Where a stream leads to, which keeps its first failure instead of raising it."""

    def __init__(self, stream: Any) -> None:
        self.failure: OSError | None = None
        self._stream = stream
        self._write: Callable[[Any], int]
        try:
            self._write = partial(os.write, stream.fileno())
        except (OSError, ValueError):  # in memory
            self._write = stream.buffer.write

    def write(self, data: Any) -> int:
        """Write, or drop what cannot be written any more."""
        while self.failure is None:
            try:
                return self._write(data)
            except BlockingIOError:  # a pipe that its other end made non-blocking, and full
                select.select([], [self], [])
            except OSError as error:
                self.failure = error
        return len(data)

    def writable(self) -> bool:
        """Always True: a text stream has to say so."""
        return True

    def fileno(self) -> int:
        """The system's number of the file."""
        return int(self._stream.fileno())

    def isatty(self) -> bool:
        """Whether a terminal shows what is written."""
        return bool(self._stream.isatty())


def undelivered() -> str:
    """Why somebody who wanted what was printed on stdout did not get it; empty where nobody misses anything."""
    sys.stdout.flush()
    end = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = end.failure if isinstance(end, End) else None
    return "" if failure is None or failure.errno in GONE else str(failure.strerror)
