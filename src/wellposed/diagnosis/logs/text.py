"""The text of a file of logs, plain or compressed, in whatever encoding its mark says, and not without end."""

from __future__ import annotations

import codecs
from pathlib import Path

from wellposed.core.errors import DataError
from wellposed.core.reading import read_bytes

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def text_of(path: Path) -> str:
    """The text of a file, unpacked if its name ends in ``.gz``. UTF-8, or UTF-16 with its mark, as spreadsheets write.

    Raises:
        DataError: it cannot be read, is no text, or is larger than memory allows.
    """
    data = bytes_of(path)
    coding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(coding)
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not UTF-8 text; save it as CSV in UTF-8.") from None
    if "\0" in text:
        raise DataError(f"'{path}' holds binary data, not text; save it as CSV in UTF-8.")
    return text


def bytes_of(path: Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in ``.gz``."""
    return read_bytes(path, "log", DataError, packed=path.suffix == ".gz")
