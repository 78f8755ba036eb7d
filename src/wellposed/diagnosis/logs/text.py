"""The text of a file of logs, plain or compressed, in whatever encoding its mark says, and not without end."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from wellposed.core.errors import DataError

MOST_BYTES = 256 * 2**20  # a million rows of twenty numbers; in memory it takes some gigabytes
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def text_of(path: Path) -> str:
    """The text of a file, unpacked if its name ends in ``.gz``. UTF-8, or UTF-16 with its mark, as spreadsheets write.

    Raises:
        DataError: it cannot be read, is no text, or is larger than `MOST_BYTES`.
    """
    data = bytes_of(path)
    coding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(coding)
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not UTF-8 text; save it as CSV in UTF-8.") from None


def bytes_of(path: Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in ``.gz``."""
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"There is no file '{path}'.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(
            f"'{path}' cannot be unpacked: it is damaged, or no gzip file. Compress it again, or give the plain file."
        ) from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    if len(data) > MOST_BYTES:
        raise DataError(
            f"'{path}' has more than {MOST_BYTES // 2**20} MiB{' unpacked' if packed else ''}; give a log of epochs, "
            "or every so many steps."
        )
    return bytes(data)
