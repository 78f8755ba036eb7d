"""The text of a file of logs, plain or compressed, in whatever encoding its mark says, and not without end."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from pathlib import Path

from wellposed.core.errors import DataError, listed
from wellposed.core.reading import check_cells, read_bytes

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def text_of(path: Path) -> str:
    """The text of a file, unpacked if its name ends in ``.gz``. UTF-8, or UTF-16 with its mark, as spreadsheets write.

    Raises:
        DataError: it cannot be read, is no text, or is larger than memory allows.
    """
    data = bytes_of(path)
    coding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(coding)
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not UTF-8 text; save it as CSV in UTF-8.") from None


def bytes_of(path: Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in ``.gz``."""
    return read_bytes(path, "log", DataError, packed=path.suffix == ".gz")


def csv_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a delimited text file (comma, semicolon, tab, bar or blanks; also .gz), as text.

    Raises:
        DataError: it cannot be read as text, is empty, has a header only, a repeated name, or a row that is too long.
    """
    return split_columns(text_of(path), path)


def split_columns(text: str, path: Path) -> dict[str, list[str]]:
    """The columns of delimited text. A header that is repeated further down, as by a run that was resumed, is no row."""
    text, delimiter = _delimiter(strip_comments(text))
    check_cells(f"'{path}'", 1, text.count(delimiter) + text.count("\n"))
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in table if "".join(row).strip()]
    except csv.Error as error:
        raise DataError(f"'{path}' is not a readable CSV file: {error}.") from None
    if not rows:
        raise DataError(f"'{path}' is empty; a header and at least one row are needed.")
    header = [name.strip() for name in rows[0]]
    body = [row for row in rows[1:] if row != rows[0]]
    if not body:
        raise DataError(f"'{path}' has a header but no rows.")
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"'{path}' has the column {listed(repeated)} more than once; rename one of them.")
    width = len(header)
    check_cells(f"'{path}'", len(body), width)
    if long := [number for number, row in enumerate(body, 2) if any(cell.strip() for cell in row[width:])]:
        raise DataError(
            f"'{path}' has more cells in row {long[0]} than its header has names ({width})."
            + (" If decimals are written with commas, separate the columns by semicolons." if delimiter == "," else "")
        )
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    if all(len(row) == width for row in body):
        return {name: list(map(str.strip, cells)) for name, cells in zip(names, zip(*body, strict=True), strict=True)}
    return {name: [row[i].strip() if i < len(row) else "" for row in body] for i, name in enumerate(names)}


def strip_comments(text: str) -> str:
    """Without remarks before the header. One right before numbers is the header itself, as numpy writes it."""
    lines = text.split("\n")
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    if count == 0:
        return text
    if re.match(r'\s*"?[-+.\d]', lines[count]):
        count -= 1
    return "\n".join(lines[count:]).lstrip("# ")


def _delimiter(text: str) -> tuple[str, str]:
    """The text without a spreadsheet's ``sep=;`` line, and the sign between its cells."""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        return rest, first.strip()[-1]
    found = max(",;\t", key=first.count)
    if found in first:
        return text, found
    rows = [line.split() for line in text.split("\n") if line.strip()]
    if "|" not in first and len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])} != {1}:
        return "\n".join("\t".join(row) for row in rows), "\t"
    return text, "|" if "|" in first else found
