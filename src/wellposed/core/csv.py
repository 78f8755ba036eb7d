"""Delimited text, as tables and as logs have it: one decoder, one way to find the sign between cells, one set of rules.

`wellposed.data.table_files` gives what is found here to pandas, `wellposed.logs.delimited` keeps it as columns of text.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from wellposed.core.errors import DataError, listed
from wellposed.core.reading import check_cells, read_bytes

SEPARATORS = (";", "\t", "|", ",")  # in order of preference: a comma may stand in every number, and fit too
SNIFFED_RECORDS = 50  # enough to see whether a separator gives every record the same number of cells
_BLANKED = re.compile(r'"[^"]*"(?!\S)|\S+')
NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)


def decoded(content: bytes, path: Path) -> str:
    """The text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one, as spreadsheets write it."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"0x{content[error.start]:02x}" if error.start < len(content) else "its end"
        raise DataError(
            f"'{path}' is not UTF-8 text (byte {byte} at position {error.start}). "
            "Save it as UTF-8; if it was written as latin1, for example: iconv -f latin1 -t utf-8 OLD > NEW"
        ) from None
    if "\0" in text:
        raise DataError(
            f"'{path}' holds binary data, not text. Give CSV or TSV in UTF-8; a Parquet file ends in .parquet."
        )
    return text


def text_of(path: Path) -> str:
    """The text of a log, unpacked if its name ends in ``.gz``."""
    return decoded(read_bytes(path, "log", DataError, packed=path.suffix == ".gz"), path)


def separated(text: str, path: Path) -> tuple[str, str]:
    """The text and the sign between its cells.

    A spreadsheet's line ``sep=;`` says it, and is taken off; then comes the tab of a ``.tsv`` file; then the first of
    `SEPARATORS` that gives all of the first records the same number of cells, quotes counted; then the sign that the header
    has most of. Blanks between numbers, or blanks and tabs, are replaced by tabs where none of these stands in the header.
    """
    first, _, rest = text.partition("\n")
    if len(sign := first.strip("\r ")) == 5 and sign.lower().startswith("sep="):
        return rest, sign[-1]
    header = text.strip().partition("\n")[0]
    if "\t" in header and re.search(r"\.tsv(\.gz)?$", path.name, re.IGNORECASE):
        return text, "\t"
    most = max(SEPARATORS, key=header.count)
    for separator in filter(text.__contains__, SEPARATORS):
        widths = {len(record) for _, record in first_records(text, path, separator)}
        if len(widths) == 1 and max(widths) > 1:
            most = separator
            break
    if (most == "\t" or most not in header) and (rows := _between_blanks(text, header.count("\t") + 1)):
        return "\n".join(map("\t".join, rows)), "\t"
    return text, most


def _between_blanks(text: str, tabbed: int) -> list[list[str]]:
    """The cells of a table written with blanks, below whose header most are numbers; empty if the text is none.

    There are more of them than ``tabbed``, what tabs alone give. A cell in quotes is one; the names of rows need no name, as R
    writes them.
    """
    width = len(_BLANKED.findall(text.lstrip().partition("\n")[0]))
    if width <= tabbed:  # before a large text is taken apart
        return []
    rows = [_BLANKED.findall(line) for line in text.split("\n") if line.strip()]
    if {len(row) for row in rows[1:]} == {width + 1}:
        rows[0].insert(0, '""')
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return []
    cells = [cell for row in rows[1:] for cell in row]
    return rows if 2 * sum(NUMBER.fullmatch(cell) is not None for cell in cells) > len(cells) else []


def first_records(text: str, path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """As `records`, as many as are looked at to see what a file is."""
    return (found for _, found in zip(range(SNIFFED_RECORDS), records(text, path, separator), strict=False))


def records(text: str, path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line it ends on."""
    reader = csv.reader(lines(text), delimiter=separator)
    try:
        for record in reader:
            if len(record) > 1 or any(cell.strip() for cell in record):
                yield reader.line_num, record
    except csv.Error as error:
        raise DataError(
            f"'{path}' cannot be read as a table near line {reader.line_num}: {error}. Check its quotes."
        ) from None


def unescaped(text: str, path: Path, separator: str) -> str | None:
    r"""The text with doubled quotes in place of backslashes, where these keep quotes and separators within cells (``\"`` and
    ``\,``, as Spark and MySQL write them): where quotes end, and records have the header's cells, only so. Otherwise None."""
    kept = re.escape(separator)
    if not re.search(rf'\\["{kept}]', text):
        return None
    _, header = next(records(text, path, separator))
    with contextlib.suppress(csv.Error):  # a quote that ends within a cell
        if all(len(record) <= len(header) for record in csv.reader(lines(text), delimiter=separator, strict=True)):
            return None
    other = re.sub(rf'\\(?!["\\{kept}])', r"\\\\", text)  # as in ``C:\data``, which is none
    rows = list(csv.reader(lines(other), delimiter=separator, escapechar="\\"))
    if {len(row) for row in rows if row} != {len(header)}:
        return None
    written = io.StringIO()
    csv.writer(written, delimiter=separator, lineterminator="\n").writerows(rows)
    return written.getvalue()


def lines(text: str) -> Iterator[str]:
    """Each line with its end, without a copy of the text."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def header_of(found: Iterator[tuple[int, list[str]]], path: Path) -> list[str]:
    """The names in the first record; an empty one is named by its place, ``column_3``."""
    _, first = next(found, (0, []))
    if not first:
        raise DataError(f"'{path}' is empty. A table needs a header and at least one row.")
    names = [name.strip() or f"column_{place}" for place, name in enumerate(first, start=1)]
    refuse_duplicates(names, f"'{path}'")
    return names


def refuse_duplicates(names: Iterable[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{what} has more than one column named {listed(repr(n) for n in twice)}. Give each column its own name."
        )


def too_wide(path: Path, line: int, cells: int, width: int, separator: str) -> DataError:
    """What is said of a record that has more cells than the header."""
    return DataError(
        f"'{path}' has {cells} cells on line {line}, more than its header's {width}. "
        "Quote cells that hold the separator, or mend the header."
        + (" If decimals are written with commas, separate the columns by semicolons." if separator == "," else "")
    )


def no_rows(path: Path) -> DataError:
    return DataError(f"'{path}' has a header and no rows. Give a table with rows.")


def csv_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a delimited text file (comma, semicolon, tab, bar or blanks; also .gz), as text."""
    return split_columns(text_of(path), path)


def split_columns(text: str, path: Path) -> dict[str, list[str]]:
    """The columns of a log's text, without remarks before the header and rows of empty cells. A header that is repeated
    further down, as by a run that was resumed, is no row."""
    text = strip_comments(text)
    check_cells(f"'{path}'", 1, max(map(text.count, SEPARATORS)) + text.count("\n"))
    text, separator = separated(text, path)
    found = ((line, record) for line, record in records(text, path, separator) if "".join(record).strip())
    names = header_of(found, path)
    width = len(names)
    body: list[list[str]] = []
    for line, record in found:
        cells = [cell.strip() for cell in record]
        if any(cells[width:]):
            raise too_wide(path, line, len(cells), width, separator)
        if any(cell and cell != name for cell, name in zip(cells, names, strict=False)):
            body.append(cells[:width])
    if not body:
        raise no_rows(path)
    check_cells(f"'{path}'", len(body), width)
    columns = itertools.zip_longest(*body, fillvalue="")  # short rows are filled up
    return {name: list(next(columns, [""] * len(body))) for name in names}


def strip_comments(text: str) -> str:
    """Without remarks before the header. One right before numbers is the header itself, as numpy writes it."""
    if not text.startswith("#"):
        return text
    lines = text.split("\n")
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    if count == 0:
        return text
    if re.match(r'\s*"?[-+.\d]', lines[count]):
        count -= 1
    return "\n".join(lines[count:]).lstrip("# ")
