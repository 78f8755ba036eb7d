"""The one door for reading: only regular files, and only as large as memory allows.

A pipe without a writer would be waited for without end, ``/dev/zero`` never ends, and a small compressed file may unpack to
more than a machine has. So a file is opened without waiting, looked at, and compared with one limit before it is read: about
how much memory reading may take. `reading_up_to` and ``--max-memory`` raise it.

A pipe is refused also as data (``<(zcat x.gz)``): a study reads its data again when it goes on, and a pipe gives them once.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Literal

from wellposed.core.checks import checked
from wellposed.core.errors import DataError, InputError, did_you_mean

LIMIT = 4 * 2**30
FileKind = Literal["table", "log", "JSON", "recipe", "array", "model", "page"]
TIMES: dict[FileKind, int] = {"table": 4, "log": 16, "JSON": 32, "recipe": 1024, "array": 2, "model": 2, "page": 2}
"""Memory that one byte of a file takes at most, about, when it is read: ``[[],[],`` is 24 times as large as a list in Python.
A recipe is read by slow code, and has a few hundred bytes."""
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
CHUNK = 2**20

_limit: ContextVar[int] = ContextVar("wellposed_reading_limit", default=LIMIT)


@checked
@contextlib.contextmanager
def reading_up_to(memory: int | str) -> Iterator[None]:
    """Inside the block, reading a file may take about this much memory; without it, 4 GiB.

    Args:
        memory: bytes, > 0, or a text such as ``"16GiB"``, ``"500M"``; K, M, G and T are powers of 1024.
    Raises:
        InputError: it is neither.

    Example:
        >>> import wellposed as wp
        >>> with wp.reading_up_to("16GiB"):
        ...     pass  # wp.diagnose("huge.csv"), wp.improve(...)
    """
    token = _limit.set(parse_bytes(memory))
    try:
        yield
    finally:
        _limit.reset(token)


def memory_limit() -> int:
    return _limit.get()


def parse_bytes(given: int | str) -> int:
    """Bytes of ``"4GiB"``, ``"500M"`` or a number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(given), re.IGNORECASE)
    count = int(float(found[1]) * UNITS[found[2].lower()]) if found and len(str(given)) < 40 else 0
    if count < 1:
        raise InputError(f"{given!r} is no amount of memory; give bytes, or a number with K, M, G or T, such as 16GiB.")
    return count


def format_bytes(count: float) -> str:
    """Bytes for a person: ``3 MiB``, ``1.5 GiB``."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{count / one:.3g} {unit}" if count < 1000 * one else f"{count / one:,.0f} {unit}"
    return f"{count:.0f} bytes"


def check_memory(what: str, need: float, error: type[InputError]) -> None:
    """Refuse to build what (``"'a.parquet' has 400,000,000 rows"``) would ``need`` more bytes than reading may take."""
    limit = _limit.get()
    if need > limit:
        enough = f"{2 ** math.ceil(math.log2(max(need / 2**30, 1)))}GiB" if math.isfinite(need) else "more"
        raise error(
            f"{what}: reading takes about {format_bytes(need)} of memory, and may take {format_bytes(limit)}. "
            f"If the file is what it should be and the memory is there, "
            f"allow more: --max-memory {enough}, or wp.reading_up_to({enough!r})."
        )


def open_regular(path: str | Path, error: type[InputError], called: str = "file") -> BinaryIO:
    """A regular file, open for reading; whatever else has this name is refused without being waited for. ``called`` is its kind in
    messages.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"There is no {called} '{path}'.{_neighbour(path)} Check the path.") from None
    except (OSError, ValueError) as reason:  # ValueError: a zero in the name
        if path_is_folder(path):  # Windows
            raise error(f"'{path}' is a folder; a file is needed. Give the path of a file in it.") from None
        raise error(f"'{path}' cannot be read: {getattr(reason, 'strerror', None) or reason}.") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise error(f"'{path}' is a folder; a file is needed. Give the path of a file in it.")
    raise error(f"'{path}' is a pipe or a device, which is not read; save it as a file first.")


def path_is_folder(path: Path) -> bool:
    """Whether it is a folder; False also for what is no path at all."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_bytes(
    path: str | Path, kind: FileKind, error: type[InputError], called: str = "file", packed: bool = False
) -> bytes:
    """The content of a regular file that memory allows for; ``packed`` says that gzip unpacks it, and its size is counted before,
    in little memory.
    """
    path = Path(path)
    with open_regular(path, error, called) as file:
        try:
            count = os.fstat(file.fileno()).st_size
            _check(path, kind, format_bytes(count), count, error)
            if not packed:
                return file.read(count)
            if count > CHUNK:  # zeros behind a gzip file are passed over one by one
                file.seek(-CHUNK, os.SEEK_END)
                if not any(file.read(CHUNK)):
                    raise error(
                        f"'{path}' ends with more than {format_bytes(CHUNK)} of zeros, which no gzip file has. Make it again."
                    )
                file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                count = 0
                while part := len(unpacked.read(CHUNK)):
                    count += part
                    _check(path, kind, f"{format_bytes(count)} or more, unpacked", count, error)
                unpacked.seek(0)
                return unpacked.read(count)
        except (gzip.BadGzipFile, EOFError, zlib.error) as reason:
            raise error(
                f"'{path}' cannot be unpacked: it is not a whole gzip file ({str(reason).rstrip('.')[:120]}). "
                "Make it again, or rename it if it is not compressed."
            ) from None
        except OSError as reason:
            raise error(f"'{path}' cannot be read: {reason.strerror or reason}.") from None


def _check(path: Path, kind: FileKind, large: str, count: int, error: type[InputError]) -> None:
    check_memory(f"'{path}' has {large}, which is much for a {kind}", count * TIMES[kind], error)


def _neighbour(path: Path) -> str:
    try:
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    except (OSError, ValueError):
        return ""


def check_cells(what: str, rows: int, columns: int) -> None:
    """Refuse a table of more cells than memory allows: also one of short rows under many names, which is filled up."""
    check_memory(f"{what} has {rows:,} rows and {columns:,} columns", 64 * rows * columns, DataError)
