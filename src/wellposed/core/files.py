"""The one door for writing: files are whole or not there, nobody's links are followed in a run folder, modes are kept.

A run folder may come from a stranger, and then ``model`` or ``.lock`` may be a link to a file of the user's. So there are two
ways in. A file in a folder of ours is written with ``within=`` that folder: each folder below it is opened without following
links, the new file takes the place of a link and never goes through it. A file that the user named (``--out``) is written
where its links point to, and in place where it is no regular file: a device, a pipe, ``/dev/stdout``.

`wellposed.core.reading` is the door for reading. A test finds every other place that opens a path.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from wellposed.core.errors import FormatError, InputError, described, first_line
from wellposed.core.reading import read_bytes

PARTIAL = ".wellposed-"
"""How the name of a file begins that is being written. A killed process leaves one behind; `sweep` removes it."""
LINK = getattr(os, "O_NOFOLLOW", 0)
FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
FILE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)


def write_atomically(
    path: str | Path, content: str | bytes, within: str | Path | None = None, mode: int = 0o666
) -> Path:
    """Write a whole file or none: into a neighbour, flushed to disk, and renamed over ``path``, with the folder flushed too.

    The mode of a file that is replaced is kept; a new one gets what the umask leaves of ``mode``. Folders are made as needed.

    Args:
        path: the file. Where ``within`` is None the user named it: its links are resolved and stay, and what is no regular
            file (a device, a pipe, an open descriptor such as ``/dev/stdout``) is written in place.
        content: text is written as UTF-8.
        within: the folder of ours that ``path`` lies in. Links below it are not followed: a link in the file's place is
            replaced, a link in a folder's place is refused.
    Raises:
        InputError: a folder stands in the file's place, something else in a folder's, or, below ``within``, a link in one's.
        OSError: it cannot be written; the old file is as it was.
    """
    path = Path(path)
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is no name of a file: it holds a zero byte.")
    data = content.encode() if isinstance(content, str) else content
    try:
        if within is not None:
            _replaced(path, data, Path(within), mode)
        elif not _in_place(path, data):
            target = Path(os.path.realpath(path))
            if target.is_file() and not os.access(target, os.W_OK):  # a rename would not mind
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            _replaced(target, data, target.parent, mode)
    except (
        OSError
    ) as error:  # the system names the partial file, or none: people know only the file that they asked for
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    return path


def write_json(path: str | Path, value: dict[str, Any], within: str | Path | None = None) -> Path:
    """`write_atomically` of a JSON object; numbers that are not finite become ``null``."""
    return write_atomically(path, json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n", within)


def open_for_appending(path: Path, within: Path) -> BinaryIO:
    """A file in a folder of ours for reading and appending, made if absent, never truncated, not through links."""
    with _folder(path.parent, within) as at:
        try:
            handle = os.open(
                _name(path, at), os.O_RDWR | os.O_APPEND | os.O_CREAT | NOWAIT | LINK | FILE, 0o666, dir_fd=at
            )
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise InputError(FOREIGN.format(path)) from None
            raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise InputError(FOREIGN.format(path))
    return os.fdopen(handle, "r+b", buffering=0)


NOWAIT = getattr(os, "O_NONBLOCK", 0)  # to open a pipe nobody reads from would wait for ever
FOREIGN = "'{}' is a link, a pipe or a folder, not a file of a run. Whoever made this folder put it there: remove it."


def replace(old: Path, new: Path) -> None:
    """Give a file of ours another name in its folder; what had that name is gone."""
    with _folder(old.parent, old.parent) as at:
        os.replace(_name(old, at), _name(new, at), src_dir_fd=at, dst_dir_fd=at)
        _flushed(at)


def sweep(folder: Path, within: Path) -> None:
    """Remove the files that a killed process was writing in a folder of ours."""
    if folder != within and not os.path.lexists(folder):
        return
    with _folder(folder, within) as at:
        for entry in list(os.scandir(folder if at is None else at)):
            if entry.name.startswith(PARTIAL) and not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_name(folder / entry.name, at), dir_fd=at)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this process alone (mode 0700), gone at the end."""
    with tempfile.TemporaryDirectory(prefix="wellposed-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _folder(path: Path, within: Path) -> Iterator[int | None]:
    """An open folder, made if absent, in which names can be opened; no link below ``within`` is followed.

    None on Windows, which opens no folders; there each name is looked at before it is used.
    """
    try:
        within.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"'{within}' is no folder, and none can be made there; give another name.") from None
    parts = path.relative_to(within).parts
    if sys.platform == "win32":
        for count in range(1, len(parts) + 1):
            step = within.joinpath(*parts[:count])
            if step.is_symlink() or (step.exists() and not step.is_dir()):
                raise InputError(FOREIGN_FOLDER.format(step))
            step.mkdir(exist_ok=True)
        yield None
        return
    at = os.open(within, os.O_RDONLY | FOLDER)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=at)
                _flushed(at)
            try:
                inner = os.open(part, os.O_RDONLY | FOLDER | LINK, dir_fd=at)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise InputError(FOREIGN_FOLDER.format(within / part)) from None
                raise
            os.close(at)
            at = inner
        yield at
    finally:
        os.close(at)


FOREIGN_FOLDER = (
    "'{}' is a link or a file where a run has a folder of its own; nothing is written through it. Remove it."
)


def _name(path: Path, at: int | None) -> str:
    return str(path) if at is None else path.name


def _flushed(at: int | None) -> None:
    """A new name is on disk when its folder is; some file systems cannot promise that."""
    if at is not None:
        with contextlib.suppress(OSError):
            os.fsync(at)


def _replaced(path: Path, data: bytes, within: Path, mode: int) -> None:
    with _folder(path.parent, within) as at:
        partial = _name(path.with_name(PARTIAL + secrets.token_hex(8)), at)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | LINK | FILE, mode, dir_fd=at)
        try:
            with os.fdopen(handle, "wb") as file:
                _keep_mode(handle, path, at)
                file.write(data)
                file.flush()
                os.fsync(handle)
            os.replace(partial, _name(path, at), src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=at)
            raise
        _flushed(at)


def _keep_mode(handle: int, path: Path, at: int | None) -> None:
    """Give a new file the owner and the mode of the one that it will replace, before anything is written into it.

    Where the group cannot be kept, its rights are not given to another group.
    """
    try:
        found = os.stat(_name(path, at), dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"'{path}' is a folder where a file is to be written; remove it, or give another name.")
    if not stat.S_ISREG(found.st_mode) or sys.platform == "win32":
        return
    mode, mine = stat.S_IMODE(found.st_mode) & 0o777, os.fstat(handle)
    if (found.st_uid, found.st_gid) != (mine.st_uid, mine.st_gid):
        try:
            os.fchown(handle, found.st_uid, found.st_gid)
        except OSError:
            try:
                os.fchown(handle, -1, found.st_gid)
            except OSError:
                mode &= ~0o070
    os.fchmod(handle, mode)


def _in_place(path: Path, data: bytes) -> bool:
    """Write into what the user named where it is no regular file, or a descriptor of this process; whether it is so."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    number = _descriptor(path)
    if number is None and stat.S_ISREG(found.st_mode):
        return False
    handle = os.open(path, os.O_WRONLY | FILE) if number is None else os.dup(number)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return True


def _descriptor(path: Path) -> int | None:
    """The number in ``/dev/fd/1``, also behind links such as ``/dev/stdout``. A file behind it is written on, not replaced."""
    for _ in range(40):  # as many links as Linux follows
        folder = Path(os.path.realpath(path.parent))
        if str(folder) in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            break
        path = folder / os.readlink(path)
    return None


def jsonable(value: Any) -> Any:
    """The value with what JSON cannot say (NaN, infinities, numpy and path types) put into what it can.

    An infinity becomes ``null``, as a measurement that there is none of; that of a setting is `spelled` first.
    """
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)


INFINITIES = {math.inf: "inf", -math.inf: "-inf"}


def spelled(value: Any) -> Any:
    """Settings with an infinity as ``{"float": "inf"}``, since JSON has none; `meant` reads it.

    Example:
        >>> spelled({"high": math.inf}), meant(spelled({"high": math.inf}))
        ({'high': {'float': 'inf'}}, {'high': inf})
    """
    if isinstance(value, dict):
        return {key: spelled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelled(item) for item in value]
    return {"float": INFINITIES[value]} if isinstance(value, float) and value in INFINITIES else value


def meant(value: Any, levels: int = 40) -> Any:
    """Inverse of `spelled`. No setting is nested so deeply as ``levels``; what a stranger's file nests deeper stays as it is."""
    if not levels:
        return value
    if isinstance(value, dict):
        text: Any = value.get("float") if len(value) == 1 else None
        if text in INFINITIES.values():
            return float(text)
        return {key: meant(item, levels - 1) for key, item in value.items()}
    return type(value)(meant(item, levels - 1) for item in value) if type(value) in (list, tuple) else value


def read_json(path: str | Path, schema: int, kind: str) -> dict[str, Any]:
    """Read a JSON object that was saved with ``"schema": schema``."""
    content = read_bytes(path, "JSON", FormatError, called=f"{kind} at")
    try:
        value = json.loads(content.decode("utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # also of its encoding, of integers without end, and of levels without end
        raise FormatError(f"'{path}' is not a readable {kind}: {first_line(error)}.") from None
    if not isinstance(value, dict) or "schema" not in value:
        raise FormatError(f"'{path}' is not a {kind}: it has no 'schema'.")
    check_schema(value["schema"], schema, path, kind)
    return value


def check_schema(found: object, expected: int, path: str | Path, kind: str) -> None:
    """Refuse a schema that this version cannot read, saying which side is older."""
    if found == expected and not isinstance(found, bool):
        return
    if isinstance(found, int) and not isinstance(found, bool) and found > expected:
        raise FormatError(
            f"'{path}' is a {kind} of schema {found}; this wellposed reads schema {expected}. Update wellposed to read it."
        )
    raise FormatError(
        f"'{path}' is a {kind} of schema {described(found)}; this wellposed reads schema {expected} only."
    )
