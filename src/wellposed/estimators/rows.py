"""What `fit` and `predict` are given, checked by scikit-learn's conventions, as a frame for the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wellposed.core.errors import DataError, described, listed, require
from wellposed.data.columns import category_codes, column_kind, is_text
from wellposed.data.table_files import as_frame

if TYPE_CHECKING:
    import pandas as pd

FEW_TEXTS = 20
"""So many different values, or half of all rows where that is more, make a column of sentences one of texts."""
WORDS = 3
"""Words that a value of a column of texts has on average, at least: names and descriptions, not codes."""
FEW_ROWS = 20
"""In fewer new rows values far from those of training are no sign that a column has changed."""


def features_of(estimator: Any, X: Any, known: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows as a frame; sets, or compares with, ``n_features_in_`` and ``feature_names_in_``.

    Args:
        X: an array ``(rows, columns)``, or a pandas or polars frame whose columns may be of any kind but text.
        known: the names of the columns of `fit`; None where these are its rows. Without names, in either, places count.
    Raises:
        DataError, ValueError, TypeError: there is no row or column, a value is infinite, complex or an object, or the columns are
            not those of `fit`.
    """
    validation: Any = require("sklearn.utils.validation", "tables")
    if hasattr(X, "to_pandas"):
        X = X.to_pandas()
    if isinstance(X, require("pandas", "tables").DataFrame):
        frame = as_frame(X)  # refuses two columns of one name
        validation.validate_data(estimator, X, reset=known is None, skip_check_array=True)
    else:
        X = validation.validate_data(estimator, X, reset=known is None, dtype=None, ensure_all_finite="allow-nan")
        frame = as_frame(X)
    if not frame.shape[0] or not frame.shape[1]:
        raise DataError(
            f"Found {frame.shape[0]} rows (samples) and {frame.shape[1]} feature(s) in X, while a minimum of 1 is required of both."
        )
    # scikit-learn has compared the names where both have some, and counted the columns.
    if known is not None and {*known} != {*frame}:
        frame = frame.set_axis(list(known), axis=1)
    frame = frame.infer_objects()  # columns of objects that are all numbers, dates or truths have the type of these
    for name, column in frame.items():
        if column.dtype.kind == "c":
            raise DataError(f"Complex data not supported: column {name!r} is of complex numbers.")
        if column.dtype.kind == "f" and np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).any():
            raise DataError(f"Column {name!r} contains infinity. Make it a number, or NaN where it is missing.")
        if column.dtype == object:
            odd = next((value for value in column if isinstance(value, (dict, list, tuple, set, np.ndarray))), None)
            if odd is not None:
                raise DataError(
                    f"Column {name!r} holds {described(odd)}; a cell must be a number, a text, a truth or a date."
                )
    return frame


def refuse_texts(frame: pd.DataFrame) -> None:
    """Refuse columns of sentences, of which no category comes back.

    Raises:
        DataError: naming them.
    """
    found = []
    for name, column in frame.items():
        codes, values = category_codes(column) if is_text(column) else (np.zeros(0), [])
        there = int((codes >= 0).sum())
        words = np.mean([len(value.split()) for value in values]) if values else 0.0
        if len(values) >= max(FEW_TEXTS, there / 2) and words >= WORDS and column_kind(column) == "category":
            found.append(f"column {name!r} holds {len(values)} different texts in {there} rows, such as {values[0]!r}")
    if found:
        raise DataError(
            f"Texts are not learned from: {listed(found, 2)}. Leave such columns out, or make numbers of them, as "
            "sklearn.feature_extraction.text.TfidfVectorizer and sklearn.decomposition.TruncatedSVD do."
        )


def row_values(values: Any, rows: int, name: str) -> Any:
    """A value for each row, as an array ``(rows,)``; None stays None.

    Raises:
        DataError: another shape, or a missing value.
    """
    if values is None:
        return None
    pandas = require("pandas", "tables")
    series = pandas.Series(np.asarray(values).reshape(-1) if np.ndim(values) != 1 else values).reset_index(drop=True)
    if len(series) != rows or np.ndim(values) > 2:
        raise DataError(f"{name}= needs one value for each of the {rows} rows; it has shape {np.shape(values)}.")
    if series.isna().any():
        raise DataError(f"{name}= is missing in {int(series.isna().sum())} rows. Give every row a value.")
    return series
