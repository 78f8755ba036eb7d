"""The folder of a study: claimed by one process, and only if it is empty or resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wellposed.core.errors import FolderInUse, InputError
from wellposed.core.files import PARTIAL, open_for_appending, sweep
from wellposed.study.trials import STATE

LOCK = ".lock"
MODEL = "model"
_held: set[Any] = set()
"""Locks that this process holds."""
BUSY = "Another process works in '{}'; wait for it, or give another --out."


@contextlib.contextmanager
def claim_folder(folder: Path, resume: bool) -> Iterator[None]:
    """Make the folder ours: it must be empty, or a study that is resumed; a second process is refused."""
    made = not folder.exists()
    try:
        if folder.exists() and not folder.is_dir():
            raise FolderInUse(f"'{folder}' is a file; give a folder with --out.")
        folder.mkdir(parents=True, exist_ok=True)
        content = {p.name for p in folder.iterdir() if not p.name.startswith(PARTIAL)} - {LOCK}
        lock = open_for_appending(folder / LOCK, folder)
    except OSError as error:
        if isinstance(error, FolderInUse):
            raise
        raise InputError(f"The folder '{folder}' cannot be written: {error.strerror or error}.") from None
    with lock:
        _lock(lock, folder)
        _held.add(lock)
        try:
            if content and not resume:
                raise FolderInUse(
                    f"The folder '{folder}' is in use; give another --out, or --resume to go on with its study."
                )
            if content and resume and STATE not in content:
                raise FolderInUse(f"The folder '{folder}' holds no study to resume; give another --out.")
            for place in (folder, folder / MODEL):
                sweep(place, folder)
            yield
        finally:
            _held.discard(lock)
            with contextlib.suppress(OSError):
                os.unlink(folder / LOCK)
                if made:
                    folder.rmdir()  # only where nothing was kept in it


def _lock(file: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows: the folder's content still says that it is in use
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(BUSY.format(folder)) from None
    try:
        same = os.fstat(file.fileno()).st_ino == os.stat(folder / LOCK).st_ino
    except FileNotFoundError:
        same = False
    if not same:  # another process took its lock away when it ended, and a third may hold a new one
        raise FolderInUse(BUSY.format(folder))


def _let_go() -> None:
    """A worker that was forked holds no lock: it may live a moment longer than a process that is killed, whose study is resumed."""
    for lock in _held:
        lock.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
