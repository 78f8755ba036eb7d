"""Ctrl-C, SIGTERM (a cluster takes the machine back) and SIGHUP (a terminal is closed) end a command alike.

The first raises KeyboardInterrupt in the main thread: training hands over what it has, the study is written, and the exit
status is 128 + the signal. Where Python cannot hand the exception on (in a destructor, in what a weak reference calls, as at the
end of an import), it would be told and forgotten: it is raised again a moment later. What follows within `INSISTING` seconds is
the same wish, and does not disturb the writing. Only the command line installs this: a library must leave the signals of somebody's
program alone.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN = 0.02
"""Seconds until an interrupt that was swallowed is raised again: what swallowed it has ended by then."""
INSISTING = 5.0
"""Seconds after which another signal means: at once. A study is saved in less; its state is whole at any moment."""


class Interrupts:
    """Takes the signals that ask to end, inside a ``with`` block. What is ignored stays so: ``nohup``, and jobs behind ``&``."""

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self._until = 0.0
        self._before: dict[int, Any] = {}
        self._told: Any = None

    @property
    def status(self) -> int:
        """The exit status that says so: 130, 143 or 129."""
        return 128 + (self.came or signal.SIGINT)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._take)
            self._told, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            # The process is about to end with its status; a tenth Ctrl-C must not make another of it.
            signal.signal(number, signal.SIG_IGN if self.came is not None else before)
        if self._told is not None:
            sys.unraisablehook = self._told

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.came is not None and now < self._until:
            return
        self.came, self._until = self.came or signal.Signals(number), now + INSISTING
        raise KeyboardInterrupt

    def _swallowed(self, what: Any) -> None:
        """Python could not hand an exception on."""
        if not issubclass(what.exc_type, KeyboardInterrupt) or self.came is None:
            self._told(what)
            return
        later = threading.Timer(AGAIN, self._again)
        later.daemon = True
        later.start()

    def _again(self) -> None:
        self._until = 0.0
        number, main = self.came or signal.SIGINT, threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, number)  # wakes it from a call that waits, too
        else:
            _thread.interrupt_main(number)
