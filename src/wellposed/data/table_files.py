"""Read tables from files, and take any kind of table as a pandas frame. Every failure is one sentence."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from wellposed.core.csv import (
    decoded,
    first_records,
    header_of,
    lines,
    no_rows,
    records,
    refuse_duplicates,
    separated,
    too_wide,
)  # fmt: skip
from wellposed.core.errors import DataError, listed, require
from wellposed.core.reading import check_memory, memory_limit, open_regular, read_bytes
from wellposed.core.shared import warnings_apart

if TYPE_CHECKING:
    import pandas as pd

EXTENSIONS = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz", ".parquet.gz")

# A word for "missing", in lower case. It means missing only in a column whose other values are all numbers: among
# texts, "NA" may be Namibia and "none" a kind of fence.
MISSING_WORDS = frozenset({"na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "<na>", "missing"})


def read_table(path: str | Path) -> pd.DataFrame:
    """Read ``.csv``, ``.tsv`` or ``.parquet``, each also with ``.gz``, as a frame of ``(rows, columns)``.

    Numbers and ``True``/``False`` are parsed, other texts stay texts, an empty cell is missing. Text must be UTF-8 (or
    UTF-16 with its byte order mark). The sign between cells is found as by `wellposed.core.csv.separated`: a comma, a
    semicolon, a tab, a bar, or blanks between numbers. With a semicolon, ``1,5`` is a number where no cell is written ``1.5``.
    A row with fewer cells than the header is filled with missing values; a header cell that is empty is named
    ``column_3`` by its place.

    Raises:
        DataError: the file is missing, a folder, of another kind, damaged, not UTF-8, empty, or has only a header,
            two columns of one name, or a row with more cells than the header.
        MissingExtra: pandas (or pyarrow, for Parquet) is not installed.
    """
    path = Path(path)
    extension = _extension(path)
    packed = extension.endswith(".gz")
    if extension == ".parquet":
        with open_regular(path, DataError) as file:
            return _from_parquet(file, path)
    content = read_bytes(path, "table", DataError, packed=packed)
    if extension == ".parquet.gz":
        return _from_parquet(io.BytesIO(content), path)
    # One kind of line end, in cells too: a lone carriage return in quotes makes some pandas ask for all memory.
    text = decoded(content, path).replace("\r\n", "\n").replace("\r", "\n")
    return _from_text(text, path)


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
    result: pd.DataFrame = frame.reset_index(drop=True)
    return result


# --- files ---------------------------------------------------------------------------------------------------------


def _extension(path: Path) -> str:
    name = path.name.lower()
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return extension
    raise DataError(f"'{path}' is not a kind of table that can be read. Give one of {listed(EXTENSIONS)}.")


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:120] if lines else type(error).__name__


# --- text ----------------------------------------------------------------------------------------------------------


def _from_text(text: str, path: Path) -> pd.DataFrame:
    pandas = require("pandas", "tables")
    if 32 * len(text) > memory_limit():  # a record is a list of texts while it is looked at
        longest = max(map(len, lines(text)))
        check_memory(f"'{path}' has a line of {longest:,} signs", 32 * longest, DataError)
    text, separator = separated(text, path)
    header = _checked_header(text, path, separator)
    decimal = "," if separator == ";" and _has_decimal_commas(text, path) else "."
    errors = pandas.errors
    try:
        with warnings_apart():
            warnings.simplefilter("error", errors.ParserWarning)  # it would lose cells
            frame = pandas.read_csv(
                io.BytesIO(_below_header(text, path, separator).encode()),  # a StringIO takes four bytes for each sign
                sep=separator,
                header=None,
                names=header,
                index_col=False,
                keep_default_na=False,
                na_values=[""],
                low_memory=False,  # one type for a whole column, whatever its length
                decimal=decimal,
            )
    except (errors.ParserError, errors.EmptyDataError, errors.ParserWarning, ValueError, OverflowError) as error:
        raise DataError(f"'{path}' cannot be read as a table: {_short(error)}. Check its quotes.") from None
    return _missing_words_removed(frame, decimal)


def _checked_header(text: str, path: Path, separator: str) -> list[str]:
    """The names in the first record, after checking every row against their number."""
    found = records(text, path, separator)
    names = header_of(found, path)
    rows = 0
    for line, record in found:
        rows += 1
        if len(record) > len(names):
            raise too_wide(path, line, len(record), len(names), separator)
    if rows == 0:
        raise no_rows(path)
    # pandas holds the text, where each cell begins, and its value; a column costs a kilobyte before it has a row.
    need = 4 * len(text) + rows * (24 + 24 * len(names)) + 1024 * len(names)
    check_memory(f"'{path}' has {rows:,} rows of {len(names):,} cells", need, DataError)
    return names


def _below_header(text: str, path: Path, separator: str) -> str:
    """The text after the first record that is not blank."""
    line, _ = next(records(text, path, separator))
    return text[sum(map(len, itertools.islice(lines(text), line))) :]


_WITH_COMMA, _WITH_POINT = re.compile(r"\s*[-+]?\d+,\d+\s*"), re.compile(r"\s*[-+]?\d*\.\d+\s*")


def _has_decimal_commas(text: str, path: Path) -> bool:
    cells = [cell for _, record in first_records(text, path, ";") for cell in record]
    return any(map(_WITH_COMMA.fullmatch, cells)) and not any(map(_WITH_POINT.fullmatch, cells))


def _missing_words_removed(frame: pd.DataFrame, decimal: str) -> pd.DataFrame:
    """Text columns that hold only numbers and words for "missing" become numbers."""
    pandas = require("pandas", "tables")
    for name in frame.columns:
        if frame[name].dtype.kind != "O":
            continue
        codes, uniques = pandas.factorize(frame[name])
        texts = [value.strip() if isinstance(value, str) else "" for value in uniques]
        words = np.array([text.lower() in MISSING_WORDS or not text for text in texts], dtype=bool)
        if not words.any() or words.all():
            continue
        cells = pandas.Series(texts, dtype=object).mask(words)
        numbers = pandas.to_numeric(cells.str.replace(decimal, ".", regex=False), errors="coerce")
        if numbers.isna().to_numpy().sum() == words.sum():
            frame[name] = np.append(numbers.to_numpy(dtype=np.float64), np.nan)[codes]
    return frame


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
    limit = memory_limit()
    for name, at_most in texts.items():
        if need + at_most > limit:
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
    try:
        frame: pd.DataFrame = pandas.DataFrame(
            {name: np.asarray(v) if _is_tensor(v) else v for name, v in columns.items()}
        )
    except ValueError as error:
        raise DataError(
            f"The dict of columns is no table: {_short(error)}. Give a list of values for each name."
        ) from None
    return frame


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
    frame: pd.DataFrame = pandas.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
    return frame.infer_objects()
