"""The command line in a fork of the tests' process, which has imported all that a command needs: as in a process of its own, less
the seconds of its start."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable


def forked(run: Callable[[], object]) -> int:
    """The exit status of a fork that runs this, 99 for an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99
    try:
        run()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(status)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """``wellposed words``, in the folder that one is in."""
    from wellposed.cli import main

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def run() -> None:
            sys.stdin, sys.stdout, sys.stderr = None, out, err  # type: ignore[assignment]
            sys.argv = ["wellposed", *words]
            main.run()

        status = forked(run)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), err.read())
