"""Read tables from files, and take any kind of table as a pandas frame. Every failure is one sentence."""

from __future__ import annotations

import codecs
import datetime
import io
import itertools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from wellposed.core import csv
from wellposed.core.csv import no_rows, records, refuse_duplicates
from wellposed.core.errors import DataError, listed, require
from wellposed.core.reading import check_memory, format_bytes, memory_limit, open_regular, read_bytes
from wellposed.core.shared import warnings_apart
from wellposed.data.columns import column_reading, read_columns
from wellposed.data.readings import MISSING_WORDS, Notation, quantity

if TYPE_CHECKING:
    import pandas as pd

TEXTS, SHEETS = (".csv", ".tsv", ".txt", ".data", ".dat"), (".xlsx", ".xlsm", ".xls", ".ods")
REPLACED = chr(0xFFFD)
"""What stands in a text for bytes that are no UTF-8."""
EXTENSIONS = (*(f"{end}{packed}" for end in (*TEXTS, ".parquet") for packed in ("", ".gz")), *SHEETS)


@dataclass(frozen=True)
class TableFile:
    """A file as it was read: columns of values, how each was read, and sentences about what is not plain.

    ``frame`` has one row for each row of the file, also for blank ones. ``cells`` are the columns before their texts were
    taken as anything.
    """

    frame: pd.DataFrame
    cells: pd.DataFrame
    readings: dict[str, Notation]
    layout: str
    notes: tuple[str, ...]

    def summary(self) -> str:
        """The layout of the file and how its columns are read, in one line."""
        names: dict[str, list[str]] = {}
        for name, reading in self.readings.items():
            names.setdefault(reading.said(), []).append(name)
        return "; ".join([self.layout, *(f"{said}: {listed(columns)}" for said, columns in names.items())])


def read_table(path: str | Path, kinds: Mapping[str, str | Notation] | None = None) -> pd.DataFrame:
    """Read a text table, an Excel sheet or ``.parquet`` as a frame of ``(rows, columns)``: the frame of `open_table`."""
    return open_table(path, kinds).frame


def open_table(path: str | Path, kinds: Mapping[str, str | Notation] | None = None) -> TableFile:
    """Read ``.csv``, ``.tsv``, ``.txt``, ``.data``, ``.dat`` or ``.parquet``, each also with ``.gz``, or a sheet.

    How a column is written is decided from all of its cells: ``1.234,5``, ``1,234.5``, ``$ 5``, ``12 kg`` and ``95 %`` are numbers,
    ``31.12.2024`` is a date, ``007`` a code, ``n.d.`` among numbers is missing. Other texts stay texts, an empty cell is missing.
    Text is UTF-8, UTF-16 or, where it can be neither, Windows-1252. The sign between cells is found as by
    `wellposed.core.csv.separated`. A row with fewer cells than the header is filled with missing values; a header cell that
    is empty is named ``unnamed_3`` by its place, and where the first row holds values and no names, all are: ``column_3``.

    Args:
        kinds: by column, how it is taken: ``"number"``, ``"category"``, ``"boolean"``, ``"date"``, ``"ignore"``, or a `Notation`.
    Raises:
        DataError: the file is missing, a folder, of another kind, damaged, empty, or has only a header, two columns of
            one name, or a row with more cells than the header; or there is no such column or kind.
        MissingExtra: pandas (or pyarrow, for Parquet; or python-calamine, for sheets) is not installed.
    """
    known = [name for name, kind in (kinds or {}).items() if isinstance(kind, Notation)]
    cells, separator, layout, notes = read_cells(path, known)
    given = {name: kind for name, kind in (kinds or {}).items() if name in cells or name not in known}
    frame, readings, said = read_columns(cells, given, separator)
    layout = f"{layout}; {len(frame):,} rows, {cells.shape[1]:,} columns"
    return TableFile(frame, cells, readings, layout, (*notes, *said))


def read_cells(path: str | Path, names: Sequence[str] = ()) -> tuple[pd.DataFrame, str, str, list[str]]:
    """The cells of a table as they stand in the file: ``frame, separator, layout, notes``; errors as of `open_table`.

    Args:
        names: columns that must be there: the first row is a header if it has one of them.
    """
    path = Path(path)
    extension = next((end for end in EXTENSIONS if path.name.lower().endswith(end)), None)
    if extension is None:
        raise DataError(f"'{path}' is not a kind of table that can be read. Give one of {listed(EXTENSIONS)}.")
    if extension == ".parquet":
        with open_regular(path, DataError) as file:
            return _from_parquet(file, path), ",", "Parquet", []
    content = read_bytes(path, "table", DataError, packed=extension.endswith(".gz"))
    if extension == ".parquet.gz":
        return _from_parquet(io.BytesIO(content), path), ",", "Parquet", []
    if extension in SHEETS:
        return _from_sheets(content, path, names)
    text, encoding = _decoded(content, path)
    frame, separator, notes = _from_text(text, path, names)
    shown = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}.get(separator, repr(separator))
    return frame, separator, f"{encoding}, {shown} between cells", notes


def as_frame(x: Any) -> pd.DataFrame:
    """Any table as a pandas frame with text column names and rows numbered from 0. The argument is not modified.

    Args:
        x: a pandas or polars frame (anything with ``to_pandas()``), a series, a dict of columns, or a 2-d array or
            tensor ``(rows, features)``, whose columns are then named ``x0``, ``x1``, ...
    Raises:
        DataError: ``x`` is none of these, or two columns have one name.
        MissingExtra: pandas is not installed.

    Example:
        >>> list(as_frame([[1.0, 2.0], [3.0, 4.0]]).columns)
        ['x0', 'x1']
    """
    pandas = require("pandas", "tables")
    if isinstance(x, pandas.Series):
        x = x.to_frame()
    if not isinstance(x, pandas.DataFrame) and hasattr(x, "to_pandas"):
        x = x.to_pandas()
    if isinstance(x, pandas.DataFrame):
        frame = x.copy(deep=False)
    elif isinstance(x, Mapping):
        frame = _from_columns(x)
    else:
        frame = _from_array(x)
    frame.columns = pandas.Index([str(name) for name in frame.columns], dtype=object)
    refuse_duplicates(frame.columns, "The table")
    for name, kind in frame.dtypes.items():
        if isinstance(kind, pandas.PeriodDtype):  # months and the like are their first moment
            frame[name] = frame[name].dt.to_timestamp()
        elif str(kind).startswith("duration["):  # Arrow's durations are pandas' own
            frame[name] = frame[name].astype("timedelta64[ns]")
    return frame.reset_index(drop=True)  # type: ignore[no-any-return]


# --- files ---------------------------------------------------------------------------------------------------------


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:120] if lines else type(error).__name__


# --- text ----------------------------------------------------------------------------------------------------------


def _decoded(content: bytes, path: Path) -> tuple[str, str]:
    """The text of a table with one kind of line end, and how it was encoded."""
    half = len(content) // 2
    for mark, nothing in ((codecs.BOM_UTF16_LE, content[1::2]), (codecs.BOM_UTF16_BE, content[::2])):
        if half > 4 and nothing.count(0) > 0.4 * half and content[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            content = mark + content  # text in Latin letters, whose mark was left out
            break
    encoding = "UTF-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "UTF-8"
    try:
        text = csv.decoded(content, path)
    except DataError:
        legacy = _windows_text(content) if encoding == "UTF-8" else None
        if legacy is None:
            raise
        text, encoding = legacy, "Windows-1252"
    # One kind of line end, in cells too: a lone carriage return in quotes makes some pandas ask for all memory.
    return text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n"), encoding


def _windows_text(content: bytes) -> str | None:
    """The text if it can be Windows-1252; None for binary data, and for UTF-8 of which a few bytes are damaged."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    as_utf8 = content.decode("utf-8", "replace")
    bad = as_utf8.count(REPLACED)
    other = sum(not part.isascii() for part in as_utf8.replace(REPLACED, ""))
    alone = sum(len(run) for run in re.findall(r"[^\x00-\x7f]+", text) if len(run) < 3)
    western = 2 * alone > sum(not sign.isascii() for sign in text)  # whole words of such signs are another alphabet's
    return text if western and other <= bad and not re.search(r"[\x00-\x08\x0b\x0e-\x1f]", text) else None


def _from_text(text: str, path: Path, expected: Sequence[str]) -> tuple[pd.DataFrame, str, list[str]]:
    """All cells as texts, a missing one where it is empty; one row for each line, blank ones among them too."""
    pandas = require("pandas", "tables")
    if 32 * len(text) > memory_limit():  # a record is a list of texts while it is looked at
        longest = max(map(len, csv.lines(text)))
        check_memory(f"'{path}' has a line of {longest:,} signs", 32 * longest, DataError)
    text, remarks = _below_remarks(_single_spaced(text), path)
    text, notes = _below_titles(text)
    notes = remarks + notes
    text, separator = csv.separated(text, path)
    if (plain := csv.unescaped(text, path, separator)) is not None:
        text = plain
        notes.append(
            "Backslashes before quotes and separators are read as escapes: what follows them belongs to the cell."
        )
    head = [record for _, record in csv.first_records(text, path, separator)]
    names, headed = _names(head, expected, path, notes)
    width = _checked_width(text, path, separator, names, headed)
    body = (_below_header(text, path, separator) if headed else text).strip("\n")
    errors = pandas.errors
    try:
        with warnings_apart():
            warnings.simplefilter("error", errors.ParserWarning)  # it would lose cells
            frame = pandas.read_csv(
                io.BytesIO(body.encode()),  # a StringIO takes four bytes for each sign
                sep=separator,
                header=None,
                names=[*names, *range(width - len(names))],
                index_col=False,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
            )
    except (errors.ParserError, errors.EmptyDataError, errors.ParserWarning, ValueError, OverflowError) as error:
        raise DataError(f"'{path}' cannot be read as a table: {_short(error)}. Check its quotes.") from None
    return _without_empty_ends(frame[names]), separator, notes


def _single_spaced(text: str) -> str:
    """The text without the blank lines between all of its lines, which a wrong line end leaves; others are rows."""
    blank = text.count("\n\n")
    if blank < 2 or 2 * blank < text.strip("\n").count("\n"):
        return text
    rows = text.strip("\n").split("\n")
    return text if any(rows[1::2]) else "\n".join(rows[::2]) + "\n"


def _below_remarks(text: str, path: Path) -> tuple[str, list[str]]:
    """The text without lines that begin with ``#`` above the header, and a note of them."""
    marked = list(itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), csv.lines(text)))
    while marked and not marked[-1].startswith("#"):
        marked.pop()
    below = text[sum(map(len, marked)) :]
    if not marked or not below or below.isspace():
        return text, []
    bare = marked[-1].lstrip("# ")
    whole = bool(bare.strip()) and bare.count('"') % 2 == 0  # no quote that goes on below
    if whole and _is_header_of(bare, "".join(itertools.islice(csv.lines(below), csv.SNIFFED_RECORDS)), path):
        own = marked.pop()
        below = (own if bare[0] in csv.SEPARATORS else own.removeprefix("# ")) + below
    left = sum(map(bool, map(str.strip, marked)))
    return below, [f"Lines that begin with '#' stand above the header; left out: {left}."] if left else []


def _is_header_of(remark: str, below: str, path: Path) -> bool:
    """Whether a remark is the header itself, as numpy writes one.

    It has as many cells as the line below it, and that line holds no names: no text above numbers. Among texts alone, a blank
    before a cell makes the remark a sentence.
    """
    sample, sign = csv.separated(remark + below, path)
    names, *rows = [record for _, record in csv.first_records(sample, path, sign)] or [[]]
    if not rows or not len(names) == len(rows[0]) > 1 or _above_numbers(rows):
        return False
    return any(quantity(cell) is not None for cell in rows[0]) or not any(cell.startswith(" ") for cell in names)


def _above_numbers(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a cell of the first row is a text, and all that stand below it are numbers or dates."""
    for place, cell in enumerate(rows[0]):
        below = [row[place].strip() for row in rows[1:] if len(row) > place]
        below = [one for one in below if one and one.lower() not in MISSING_WORDS]
        there = cell.strip() and cell.strip().lower() not in MISSING_WORDS
        if there and below and quantity(cell) is None and None not in map(quantity, below):
            return True
    return False


def _below_titles(text: str) -> tuple[str, list[str]]:
    """The text without lines of one filled cell that stand above a header of three or more, and a note of them."""
    first = list(itertools.islice(csv.lines(text), 12))
    filled_by = {sign: [sum(map(bool, map(str.strip, line.split(sign)))) for line in first] for sign in csv.SEPARATORS}
    for sign, filled in filled_by.items():
        if filled[:1] > [1] and len({line.count(sign) for line in first if line.strip()}) == 1:
            return text, []  # a header with as many cells as the rows below it, where another sign stands within cells
    for filled in filled_by.values():
        titles = next((place for place, count in enumerate(filled) if count > 2), 0)
        above = filled[:titles]
        if any(above) and max(above) < 2 and not any('"' in line or "sep=" in line for line in first[:titles]):
            return text[sum(map(len, first[:titles])) :], [
                f"Above the header stands {' '.join(first[0].split())!r}: left out."
            ]
    return text, []


def has_header(head: Sequence[Sequence[str]], expected: Sequence[str] = ()) -> bool:
    """Whether the first of a table's first records names the columns, and holds no values of a row.

    It holds values if it has a number, as they stand below, where numbers are below, and no text there; or, where no column
    has numbers, if all of its cells come back below them. Years, and numbers that count the columns, are names.

    Args:
        expected: names of which one must be in a header, if any are given.
    """
    if expected:
        first = {cell.strip() for cell in (head[0] if head else ())}
        return bool(first & set(expected)) or not all(re.fullmatch(r"column_\d+", name) for name in expected)
    if len(head) < 2:
        return True
    measured, recurs = [], []
    for place, cell in enumerate(map(str.strip, head[0])):
        below = [record[place].strip() for record in head[1:] if len(record) > place]
        below = [one for one in below if one and one.lower() not in MISSING_WORDS]
        kinds = Counter(map(quantity, below))
        if not cell or not below or cell.lower() in MISSING_WORDS:
            continue
        said = quantity(cell)
        if kinds[None] > 0.1 * len(below):
            recurs.append(cell in below)
        elif said not in kinds or (said is None and cell not in below):
            return True
        else:
            measured.append(cell)
    if not measured:
        return len(head) < 4 or not recurs or not all(recurs)
    whole = [int(cell) for cell in measured if re.fullmatch(r"\d{1,4}", cell)]
    if len(whole) < len(measured):
        return False
    counted = len(whole) > 1 and whole in (list(range(len(whole))), list(range(1, len(whole) + 1)))
    return not any(recurs) and (counted or all(1900 <= year <= 2100 for year in whole))


def _names(
    head: Sequence[Sequence[str]], expected: Sequence[str], path: Path, notes: list[str]
) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first record holds them; where it does not, a note says so."""
    if not has_header(head, expected):
        names = [f"column_{place}" for place in range(1, len(head[0]) + 1)]
        notes.append(f"The first row holds values and no names: the columns are called {names[0]}, ..., {names[-1]}.")
        return names, False
    if not head or not head[0]:
        raise DataError(f"'{path}' is empty. A table needs a header and at least one row.")
    first = ["", *head[0]] if _has_row_names(head) else head[0]
    names = [name.strip() or f"unnamed_{place}" for place, name in enumerate(first, start=1)]
    refuse_duplicates(names, f"'{path}'")
    return names, True


def _has_row_names(head: Sequence[Sequence[str]]) -> bool:
    """Whether each row begins with a name or a count for which the header has no cell, as R writes them."""
    titles = [record[0] for record in head[1:]]
    wider = all(len(record) == len(head[0]) + 1 and record[-1] for record in head[1:])
    counted = titles == [str(place) for place in range(1, len(head))]
    return wider and len(set(titles)) == len(titles) > 1 and (counted or all(quantity(one) is None for one in titles))


def _checked_width(text: str, path: Path, separator: str, names: Sequence[str], headed: bool) -> int:
    """The cells of the longest row, after checking that those beyond the names are empty, and that memory allows for all."""
    rows, width = 0, len(names)
    found = records(text, path, separator)
    if headed:
        next(found)
    for line, record in found:
        rows += 1
        if len(record) > len(names):
            if any(cell.strip() for cell in record[len(names) :]):
                raise csv.too_wide(path, line, len(record), len(names), separator)
            width = max(width, len(record))
    if rows == 0:
        raise no_rows(path)
    # pandas holds the text, where each cell begins, and its value; a column costs a kilobyte before it has a row.
    need = 4 * len(text) + rows * (24 + 24 * width) + 1024 * width
    check_memory(f"'{path}' has {rows:,} rows of {width:,} cells", need, DataError)
    return width


def _below_header(text: str, path: Path, separator: str) -> str:
    """The text after the first record that is not blank."""
    line, _ = next(records(text, path, separator))
    return text[sum(map(len, itertools.islice(csv.lines(text), line))) :]


def _without_empty_ends(frame: pd.DataFrame) -> pd.DataFrame:
    """Without columns that have neither a name nor a cell, which a separator at the ends of lines leaves."""
    empty = [name for name in frame.columns if re.fullmatch(r"unnamed_\d+", name) and frame[name].isna().all()]
    return frame.drop(columns=empty)


# --- sheets --------------------------------------------------------------------------------------------------------


def _from_sheets(content: bytes, path: Path, expected: Sequence[str]) -> tuple[pd.DataFrame, str, str, list[str]]:
    """The first sheet that has cells; numbers and dates have the types that the sheet gives them."""
    pandas, calamine = require("pandas", "tables"), require("python_calamine", "excel")
    try:
        if content[:2] == b"PK":
            unpacked = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(content)).infolist())
            check_memory(f"'{path}' has {format_bytes(unpacked)}, unpacked", 8 * unpacked, DataError)
        sheets = pandas.read_excel(
            io.BytesIO(content), sheet_name=None, header=None, dtype=object, engine="calamine",
            keep_default_na=False, na_values=[""],
        )  # fmt: skip
    except (calamine.CalamineError, zipfile.BadZipFile, ValueError, OSError, KeyError) as error:
        raise DataError(f"'{path}' cannot be read as a sheet ({_short(error)}). Save it again, or as CSV.") from None
    full = {str(name): sheet for name, sheet in sheets.items() if sheet.notna().to_numpy().any()}
    if not full:
        raise DataError(f"'{path}' is empty. A table needs a header and at least one row.")
    title, sheet = next(iter(full.items()))
    notes = [] if len(full) == 1 else [f"Of {len(full)} sheets ({listed(full)}), the first is read: {title!r}."]
    filled = np.flatnonzero(sheet.notna().to_numpy().any(axis=1))
    sheet = sheet.iloc[filled[0] : filled[-1] + 1].map(_in_a_sheet)
    if titles := _titles_above(sheet):
        notes.append(f"Above the header stands {str(sheet.iloc[0].dropna().iloc[0])!r}: rows left out: {titles}.")
        sheet = sheet.iloc[titles:]
    head = sheet.head(csv.SNIFFED_RECORDS).map(lambda cell: "" if cell is None or cell != cell else str(cell))
    head = head.to_numpy().tolist()
    names, headed = _names(head, expected, path, notes)
    rows = sheet.iloc[1:] if headed else sheet
    if len(rows) == 0:
        raise no_rows(path)
    frame = rows.reset_index(drop=True).set_axis(pandas.Index(names, dtype=object), axis=1).infer_objects()
    for name, column in list(frame.items()):
        if not pandas.api.types.is_object_dtype(column):
            continue
        # Texts among others: all become texts, written alike.
        texts = column[column.map(lambda cell: isinstance(cell, str))]
        decimal = column_reading(texts).decimal if len(texts) else "."
        frame[name] = column.map(lambda cell, sign=decimal: _as_text(cell, sign), na_action="ignore")
    return _without_empty_ends(frame), ",", f"sheet {title!r}", notes


def _titles_above(sheet: pd.DataFrame) -> int:
    """How many rows above the header hold titles and remarks: 0 unless the first fills at most half of the usual cells.

    The header is the first row that fills as many cells as most rows do; the first cell above an index may be blank. Where
    that row has numbers, and there are texts alone in the one above it, this is the header, of which some cells are blank.
    """
    there = sheet.head(csv.SNIFFED_RECORDS).notna().to_numpy()
    cells = there.sum(axis=1) + ~there[:, 0]
    usual = int(np.median(cells[cells > 1])) if (cells > 1).any() else 1
    if usual < 3 or 2 * there[0].sum() > usual:
        return 0
    place = int((cells >= usual).argmax())
    texts = [all(isinstance(cell, str) for cell in sheet.iloc[row].dropna()) for row in (place - 1, place)]
    return place - 1 if texts == [True, False] and 2 * cells[place - 1] > usual else place


def _in_a_sheet(cell: Any) -> Any:
    """A cell, None where it is empty; a day is its first moment."""
    if isinstance(cell, str):
        return cell if cell.strip() else None
    if isinstance(cell, datetime.time):
        return cell.isoformat()
    if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime):
        return datetime.datetime(cell.year, cell.month, cell.day)
    return None if cell is None or cell != cell else cell


def _as_text(cell: Any, decimal: str) -> str:
    """A cell beside texts. A number gets a fourth decimal where three could be taken for thousands."""
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(" ").removesuffix(" 00:00:00")
    if not isinstance(cell, float):
        return str(cell)
    text = str(cell)
    return (f"{text}0" if re.fullmatch(r"-?\d{1,3}\.\d{3}", text) else text).replace(".", decimal)


# --- parquet -------------------------------------------------------------------------------------------------------


def _from_parquet(content: BinaryIO, path: Path) -> pd.DataFrame:
    arrow, parquet = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
    if not content.seek(0, io.SEEK_END):
        raise DataError(f"'{path}' is empty. A table needs columns and at least one row.")
    try:
        file = parquet.ParquetFile(content)
        _check_parquet(content, file, path)
        refuse_duplicates(file.schema_arrow.names, f"'{path}'")
        # The index that pandas leaves in a file names rows; it is no column that anybody chose.
        columns = [name for name in file.schema_arrow.names if not re.fullmatch(r"__index_level_\d+__", name)]
        table = file.read(columns=columns)
        table.validate(full=True)  # that texts are UTF-8, which else is found out where they are used
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as a Parquet file ({_short(error)}). Make it again.") from None
    try:
        frame = table.to_pandas(ignore_metadata=True)
    except (ValueError, OverflowError) as error:  # such as a time in a year that Python has no date for
        raise DataError(f"'{path}' has a cell that cannot be taken ({_short(error)}). Leave its column out.") from None
    if len(frame) == 0:
        raise DataError(f"'{path}' has columns and no rows. Give a table with rows.")
    return as_frame(frame)


def _check_parquet(content: BinaryIO, file: Any, path: Path) -> None:
    """Refuse, by what the file says of itself, what would take too much memory: a million equal values take a few bytes.

    Texts may be written once and pointed to; how long they are where each stands in its row is counted from the pointers.
    """
    meta, schema = file.metadata, file.metadata.schema
    large = f"'{path}' has {meta.num_rows:,} rows and {meta.num_columns:,} columns"
    need = float(1024 * meta.num_columns * max(1, meta.num_row_groups))
    check_memory(large, need, DataError)
    texts: Counter[str] = Counter()
    largest = 0  # of the parts with texts: its unpacked pages and what is made of them are in memory at once
    for group in range(meta.num_row_groups):
        for place in range(meta.num_columns):
            part, kind = meta.row_group(group).column(place), schema.column(place)
            as_objects = kind.logical_type.type in ("DECIMAL", "DATE", "TIME")
            need += part.num_values * max(128 if as_objects else 16, 2 * (kind.length or 0))
            need += part.total_uncompressed_size
            if part.physical_type == "BYTE_ARRAY":
                texts[part.path_in_schema] += part.num_values * part.total_uncompressed_size
                largest = max(largest, part.total_uncompressed_size)
    need += largest
    check_memory(large, need, DataError)
    for name, at_most in texts.items():
        if need + at_most > memory_limit():
            need += _text_bytes(content, name)
            check_memory(large, need, DataError)


def _text_bytes(content: BinaryIO, name: str) -> float:
    """Bytes of a column's texts, each counted as often as it stands in a row; read as pointers, which are small."""
    arrow, compute = require("pyarrow", "tables"), require("pyarrow.compute", "tables")
    parquet = require("pyarrow.parquet", "tables")
    found = 0.0
    pointed = parquet.ParquetFile(content, read_dictionary=[name])
    for batch in pointed.iter_batches(columns=[name]):
        left = list(batch.columns)
        while left:
            array = left.pop()
            if arrow.types.is_dictionary(array.type):
                lengths = compute.binary_length(array.dictionary)
                found += compute.sum(compute.take(lengths, array.indices)).as_py() or 0
            elif arrow.types.is_struct(array.type):
                left += array.flatten()
            elif arrow.types.is_nested(array.type):
                left.append(array.flatten() if hasattr(array, "flatten") else array.values)
    return found


# --- objects -------------------------------------------------------------------------------------------------------


def _from_columns(columns: Mapping[Any, Any]) -> pd.DataFrame:
    pandas = require("pandas", "tables")
    lengths = {str(name): np.shape(values)[:1] for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = listed(f"{name!r} {length[0] if length else 'one value'}" for name, length in lengths.items())
        raise DataError(f"The columns have unequal lengths: {shown}. Give every column the same number of rows.")
    values = {name: np.asarray(v) if _is_tensor(v) else v for name, v in columns.items()}
    try:
        return pandas.DataFrame(values)  # type: ignore[no-any-return]
    except ValueError as error:
        said = f"The dict of columns is no table: {_short(error)}. Give a list of values for each name."
        raise DataError(said) from None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach")


def _from_array(x: Any) -> pd.DataFrame:
    pandas = require("pandas", "tables")
    if _is_tensor(x):
        x = x.detach().cpu().numpy()
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise DataError(f"A {type(x).__name__} is no table: {_short(error)}. Give rows of equal length.") from None
    if array.ndim != 2:
        raise DataError(
            f"A {type(x).__name__} of shape {array.shape} is no table. "
            "Give a frame, a dict of columns, or an array of shape (rows, features)."
        )
    return pandas.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])]).infer_objects()  # type: ignore[no-any-return]
