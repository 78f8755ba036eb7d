"""A table made ready: target, task, groups, time and usable features, with a plain sentence for everything suspicious.

The way in: ``read_table`` -> ``prepare_table`` -> ``split`` -> ``TableEncoder.fit(training rows)``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wellposed.core.errors import DataError, did_you_mean, listed, require
from wellposed.core.formats import count_noun
from wellposed.core.numbers import LARGEST
from wellposed.core.random import numpy_generator
from wellposed.data import columns
from wellposed.data.columns import as_numbers, category_codes, column_kind, distinct, is_text, ordered_values
from wellposed.data.encoding import TableEncoder as TableEncoder
from wellposed.data.encoding import TargetEncoder as TargetEncoder
from wellposed.data.exchangeability import ROW_ORDER, Suspect, ranks, suspects
from wellposed.data.readings import Floats, Integers, Notation, Truths
from wellposed.data.splits import duplicate_count, duplicate_ids
from wellposed.data.table_files import as_frame
from wellposed.data.table_files import read_table as read_table
from wellposed.data.target_columns import LINKS, Link, is_long_tailed, level_places, ordered_levels

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["classification", "regression"]

TARGET_NAMES = ("target", "label", "y", "class")
LEAST_ROWS = 10  # fewer cannot be split into training, validation and confirmation rows
RARE = 5  # a class needs about this many rows to be in training, validation and confirmation rows

# Whole numbers are classes if there are few, and each comes back often enough to be learned ...
FEW_CLASSES = 20
NO_CLASSES = frozenset(
    {"NA", "na", "N/A", "n/a", "NaN", "nan", "NAN", "NULL", "null", "<NA>", "#N/A"}
)  # and not Na: sodium
# ... or up to a hundred if none is rare: classes that somebody numbered are filled, a measured quantity has thin tails.
MANY_CLASSES, LEAST_OF_MANY = 100, 10

UNIQUE_SHARE = 0.95  # texts of which this share are distinct name rows
LEAST_FOR_ID = 20  # in fewer rows, distinct values are no sign of an id
ID_NAME = re.compile(
    r"(^|[_\W])(id|uuid|guid|index|idx|key|row|nr|no|number)$|^unnamed|^(row|record|obs|case)[._ ]?(id|nr|no|number|names?)?$"
)

LEAK = 0.9999  # |correlation| with the target beyond which a column is taken for a form of the target
LEAK_ERRORS = 0.001  # share of rows in which a column may miss the class and still count as a form of the target
LEAK_ROWS = 20_000  # rows looked at for leaks: enough to see one, and the time stays bounded


@dataclass(frozen=True)
class TableData:
    """A table that can be split, encoded and learned from. All parts have the same rows in the same order.

    ``frame`` has the features only; ``target`` no missing value, and several columns where there are several targets;
    ``groups`` are ids 0, 1, ...; ``time`` are numbers (days since 1970 for dates); ``weight`` is finite and >= 0; ``link``
    and ``levels`` say how the target is trained, see `Data`; ``suspects`` are columns on which the target depends as a
    random split does not suppose; ``sha256`` is of the contents of all that is trained on, equal on every machine;
    ``readings`` are how the columns of a file were read (`wellposed.data.table_files.open_table`), empty for other tables.
    """

    frame: pd.DataFrame
    target: Any
    groups: Integers | None
    time: Floats | None
    name: str
    task: Task
    warnings: tuple[str, ...]
    sha256: str
    weight: Floats | None = None
    link: Link = "none"
    levels: tuple[Any, ...] | None = None
    suspects: tuple[Suspect, ...] = ()
    readings: dict[str, Notation] = field(default_factory=dict)


def prepare_table(
    frame: Any,
    target: str | Sequence[str] | None,
    *,
    task: str | None = None,
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    weight: str | None = None,
    link: str | None = None,
    levels: Sequence[str] = (),
    name: str = "table",
    readings: Mapping[str, Notation] | None = None,
) -> TableData:
    """Take a table apart into features, target, groups and time, leave out what cannot help, and say so.

    Left out, each with a warning: rows without target or time; columns that are all missing or constant, or that name
    rows (nearly all texts different; numbers that count the rows). Infinite features become missing; a column of mostly
    numbers with some texts becomes numbers, the texts missing (`column_kind` says when). Only warned about: columns that
    give the target away, classes with fewer than 5 rows (a class with one row is always a training row, so it is never
    scored), exact copies of rows. Group and time are not features. Nothing here is learned from values across rows
    except these choices of columns.

    Args:
        frame: ``(rows, columns)``, anything that `as_frame` takes. Not modified.
        target: the target's column, or several of numbers; None takes one named target, label, y or class, or else the last one.
        task: ``"classification"``, ``"regression"``, ``"ordinal"`` (levels in an order, trained as their places), or None:
            texts, booleans and categories are classes; whole numbers
            are classes if at most 20 distinct ones come back 5 times on average, or at most 100 with 10 rows each; two
            values of any kind are classes; other numbers are quantities.
        drop: columns to leave out.
        group: column whose rows of one value must stay together in splits; rows without value are groups of their own.
        time: column, numbers or dates, by which later rows are held out; ``"rows"`` is the order of the rows, unless a
            column is called so.
        weight: column of numbers >= 0 by which rows count; it is no feature.
        link: ``"log"`` trains the logarithm of an amount, ``"none"`` the amount; None takes the logarithm of a target that
            is clearly
            long-tailed, see `is_long_tailed`, and says so.
        levels: of an ordinal target, from the lowest on; needed where they are texts.
        name: what messages call the table.
        readings: how the columns were read, as `open_table` says; new rows are read so too.
    Raises:
        DataError: a column is not found (with a suggestion) or used twice; the target is all missing, infinite, has one
            value only, does not fit the task, or hardly ever repeats; no feature is left; fewer than 10 rows have a
            target.

    Example:
        >>> data = prepare_table({"size": range(0, 60, 3), "kind": ["a", "b"] * 10}, "kind")
        >>> data.task, list(data.frame.columns)
        ('classification', ['size'])
    """
    table = as_frame(frame)
    warnings: list[str] = []
    goals = _target_names(table, target, warnings)
    _check_columns(table, goals, drop, group, time, weight)
    if link not in (None, *LINKS):
        raise DataError(
            f"There is no target transform {link!r}.{did_you_mean(str(link), LINKS)} Use {' or '.join(LINKS)}."
        )
    table = table.drop(columns=list(dict.fromkeys(drop)))
    if time == ROW_ORDER and time not in table.columns:
        table = table.assign(**{time: np.arange(len(table))})
    apart = list(dict.fromkeys(n for n in (*goals, group, time, weight) if n is not None))
    others = table.drop(columns=apart)
    ids = [str(name) for name in others if _names_rows(others[name])]  # before rows are left out
    for one in goals:
        table = _rows_with_target(table, one, warnings)
    moments = None if time is None else _moments(table[time])
    if moments is not None:
        table, moments = _rows_with_time(table, moments, str(time), warnings)
    goal: Any
    if len(goals) == 1:
        goal, decided, order = _one_target(table[goals[0]], task, levels, warnings)
    else:
        goal, decided, order = _several_targets(table[goals], task, levels), "regression", None
    chosen = _link(goal, link, decided, order, warnings)
    groups = None if group is None else columns.apart_where_missing(distinct(table[group])[0])
    shares = None if weight is None else _weights(table[weight])
    others = table.drop(columns=apart)
    features = _usable(others, ids, warnings)
    if features.shape[1] == 0:
        why = warnings[-1] if warnings else "Give a table with at least one more column."
        raise DataError(f"{name} has no usable feature column besides the target {', '.join(goals)!r}. {why}")
    for one in goals:
        _warn_of_leaks(features, goal if len(goals) == 1 else goal[one], decided, warnings)
    scored = features.assign(**{f"target {n}": goal[n] for n in goals}) if len(goals) > 1 else features
    if copies := duplicate_count(duplicate_ids(scored, None if len(goals) > 1 else goal)):
        warnings.append(
            f"{copies} of {len(scored)} rows are exact copies of an earlier row, target included; "
            "copies stay on one side of every split."
        )
    _warn_of_totals(table, warnings)
    digest = table_hash(scored, goal if len(goals) == 1 else goal[goals[0]])
    if shares is not None or chosen != "none" or order is not None:
        said = f"{digest} {chosen} {order}".encode() + (b"" if shares is None else shares.astype("<f8").tobytes())
        digest = hashlib.sha256(said).hexdigest()
    skip = [kind for kind, given in (("group", group), ("time", time)) if given is not None]
    classes = decided == "classification"
    codes = category_codes(goal)[0] if classes else _as_places(goal, order)
    found = suspects(others, codes, classes, skip=skip)
    kept = {column: reading for column, reading in (readings or {}).items() if column in features.columns}
    return TableData(
        features, goal, groups, moments, name, decided, tuple(warnings), digest, shares, chosen, order, found, kept
    )  # fmt: skip


def infer_task(target: Any, of_numbers: Task | None = None) -> Task:
    """The task that a target asks for, by the rules of `prepare_table`; missing values are not looked at.

    Args:
        of_numbers: the task of a target that holds numbers, where something else than their values says it.
    Raises:
        DataError: the target is all missing, infinite, or holds dates.

    Example:
        >>> infer_task([0.5, 1.5, 2.5]), infer_task(["a", "b", "a"])
        ('regression', 'classification')
    """
    series = require("pandas", "tables").Series(target, name=getattr(target, "name", None) or "y")
    there = series[~_missing(series)]
    if len(there) == 0:
        raise DataError("The target is missing in all rows. Give values.")
    return _task(there, None, [], of_numbers)


def table_hash(frame: pd.DataFrame, target: pd.Series[Any]) -> str:
    """SHA-256 of names and values, column by column: numbers as little-endian float64, others as their categories."""
    found = hashlib.sha256()
    for title, column in [*frame.items(), ("", target)]:
        if is_text(column) or column_kind(column) in ("category", "boolean"):
            codes, names = category_codes(column)
            content = codes.astype("<i8").tobytes() + "\x1f".join(names).encode("utf-8", "surrogatepass")
        else:
            values = as_numbers(column)
            content = (np.where(np.isnan(values), np.nan, values) + 0.0).astype("<f8").tobytes()
        found.update(f"{title!s}\x1e{len(content)}\x1e".encode("utf-8", "surrogatepass") + content)
    return found.hexdigest()


# --- which columns -------------------------------------------------------------------------------------------------


def _target_names(table: pd.DataFrame, target: str | Sequence[str] | None, warnings: list[str]) -> list[str]:
    """The columns of the targets: one, or several, of which none comes twice."""
    names = list(table.columns)
    if not names:
        raise DataError("The table has no columns. Give one with features and a target.")
    if target is None:
        likely = [name for wanted in TARGET_NAMES for name in names if name.lower() == wanted]
        if not likely:
            warnings.append(
                f"No target was given: the last column, {names[-1]!r}, is taken. Name another if it is not the target."
            )
        return [*likely, names[-1]][:1]
    found = list(dict.fromkeys([target] if isinstance(target, str) else target))
    if not found:
        raise DataError("No target was named. Give at least one column.")
    for name in found:
        if name not in names:
            raise DataError(
                f"There is no column {name!r} to be the target.{did_you_mean(str(name), names)} Columns: {listed(names)}."
            )
    return found


def _check_columns(
    table: pd.DataFrame,
    targets: Sequence[str],
    drop: Sequence[str],
    group: str | None,
    time: str | None,
    weight: str | None,
) -> None:
    if isinstance(drop, str):
        raise DataError(f"drop={drop!r} is a text; a list of column names is needed. Write [{drop!r}].")
    names = list(table.columns)
    asked: list[tuple[str, str | None]] = [("to drop", name) for name in drop]
    asked += [("to group by", group), ("to weigh rows by", weight)]
    asked += [("to order rows in time by", None if time == ROW_ORDER else time)]
    for purpose, name in asked:
        if name is not None and name not in names:
            raise DataError(
                f"There is no column {name!r} {purpose}.{did_you_mean(name, names)} Columns: {listed(names)}."
            )
        if name in targets:
            raise DataError(f"Column {name!r} is the target and cannot be the one {purpose}. Give another target.")
    for name in (group, time, weight):
        if name is not None and name in drop:
            raise DataError(
                f"Column {name!r} is dropped and also needed for splits or weights. Remove it from the columns to drop."
            )


# --- which rows ----------------------------------------------------------------------------------------------------


def _missing(column: pd.Series[Any]) -> Truths:
    if is_text(column):
        return np.asarray(category_codes(column)[0] < 0)
    return np.asarray(column.isna().to_numpy(dtype=bool))


def _missing_targets(column: pd.Series[Any]) -> tuple[Truths, list[str]]:
    """Which rows have no target, and the words of programs for "missing" among classes: nobody wants to predict these."""
    absent = _missing(column)
    if not is_text(column) or isinstance(column.dtype, require("pandas", "tables").CategoricalDtype):
        return absent, []  # a categorical: a person said that all are classes
    codes, names = category_codes(column)
    words = [place for place, name in enumerate(names) if name.strip() in NO_CLASSES]
    others = [name for place, name in enumerate(names) if place not in words]
    if len(others) > 4 and all(re.fullmatch("[A-Z]{2}", name) for name in others):
        words = [place for place in words if names[place] != "NA"]  # North America or Namibia among such codes
    return absent | np.isin(codes, words), [names[place] for place in words]


def _rows_with_target(table: pd.DataFrame, target: str, warnings: list[str]) -> pd.DataFrame:
    absent, words = _missing_targets(table[target])
    if absent.all():
        raise DataError(
            f"The target {target!r} is missing in all {len(table)} rows. Give a column with values as target."
        )
    if (known := int(len(table) - absent.sum())) < LEAST_ROWS:
        raise DataError(
            f"Only {count_noun(known, 'row')} with a target; at least {LEAST_ROWS} are needed to train, choose and confirm. "
            "Give more rows."
        )
    if not absent.any():
        return table
    warnings.append(
        f"The target {target!r} is missing in {absent.sum()} of {len(table)} rows; these are left out."
        + (f" If {listed(map(repr, words))} is a class, give --kind {target}=category." if words else "")
    )
    return table.loc[~absent].reset_index(drop=True)


def _moments(column: pd.Series[Any]) -> Floats:
    moments = ordered_values(column)
    if moments is None:
        raise DataError(
            f"The time {str(column.name)!r} holds neither numbers nor dates. "
            "Write dates as 2024-05-31, or give another column."
        )
    return np.where(np.isfinite(moments), moments, np.nan)


def _rows_with_time(
    table: pd.DataFrame, moments: Floats, time: str, warnings: list[str]
) -> tuple[pd.DataFrame, Floats]:
    absent = np.isnan(moments)
    if len(table) - absent.sum() < LEAST_ROWS:
        raise DataError(f"{len(table) - absent.sum()} rows have a time in {time!r}; at least {LEAST_ROWS} are needed.")
    if not absent.any():
        return table, moments
    # Put first or last, they would be training rows from the future, or held-out rows from the past.
    warnings.append(f"The time {time!r} is missing in {absent.sum()} of {len(table)} rows; these are left out.")
    return table.loc[~absent].reset_index(drop=True), moments[~absent]


def _weights(column: pd.Series[Any]) -> Floats:
    weight = as_numbers(column)
    bad = int((~np.isfinite(weight) | (weight < 0)).sum())
    if bad or not weight.sum() > 0:
        raise DataError(
            f"The weight {str(column.name)!r} is missing, negative or no number in {bad} of {len(weight)} rows, "
            "or 0 in all. Give a "
            "number >= 0 for each row."
        )
    return weight


# --- the target ----------------------------------------------------------------------------------------------------


def _one_target(
    column: pd.Series[Any], task: str | None, levels: Sequence[str], warnings: list[str]
) -> tuple[pd.Series[Any], Task, tuple[Any, ...] | None]:
    """The target, its task, and the levels of an ordinal one."""
    if task == "ordinal" or levels:
        if task not in (None, "ordinal"):
            raise DataError(f"levels= are for an ordinal target, and the task is {task!r}. Give the task ordinal.")
        order = ordered_levels(column, levels)
        if len(np.unique(category_codes(column)[0])) < 2:
            raise DataError(
                f"The target {column.name!r} has one value only; there is nothing to learn. Give another target."
            )
        return column, "regression", order
    decided = _task(column, task, warnings)
    return _checked_target(column, decided, warnings), decided, None


def _several_targets(frame: pd.DataFrame, task: str | None, levels: Sequence[str]) -> pd.DataFrame:
    if task not in (None, "regression") or levels:
        raise DataError(
            f"Several targets are trained together as numbers (regression), and not as {task or 'levels'}. Give one of them alone."
        )
    found = {}
    for name, column in frame.items():
        if _numeric_target(column) is None:
            raise DataError(
                f"Several targets must all be numbers, and {name!r} holds {_example(column)}. Leave it out, or give it alone."
            )
        _task(column, "regression", [])
        found[name] = _checked_target(column, "regression", [])
    return require("pandas", "tables").DataFrame(found)  # type: ignore[no-any-return]


def _link(
    goal: Any,
    asked: str | None,
    task: Task,
    order: tuple[Any, ...] | None,
    warnings: list[str],
) -> Link:
    """Whether the logarithm is trained: where asked for, or where nothing was said and one target is clearly long-tailed."""
    if asked == "log":
        if task == "classification" or order is not None:
            raise DataError(
                "A logarithm is of amounts, and this target has classes or levels. Leave --target-transform out."
            )
        least = float(np.asarray(goal, dtype=np.float64).min())
        if least < 0:
            raise DataError(
                f"The target goes down to {least:g}, and there is no logarithm of less than 0. Take --target-transform none."
            )
        return "log"
    if asked == "none" or task == "classification" or order is not None or goal.ndim == 2 or not is_long_tailed(goal):
        return "none"
    y = goal.to_numpy(dtype=np.float64)
    warnings.append(
        f"The target {goal.name!r} is long-tailed (median {np.median(y):.3g}, mean {y.mean():.3g}, largest "
        f"{y.max():.3g}): its logarithm is "
        "trained, predictions come back in its own unit and are never below 0, and the score is the mean "
        "absolute error, which a few large rows do "
        "not make alone. --target-transform none trains it as it is."
    )
    return "log"


def _as_places(goal: Any, order: tuple[Any, ...] | None) -> Floats:
    if order is None:
        return np.asarray(goal, dtype=np.float64)
    return level_places(goal, [columns.level_name(level) for level in order])


def _numeric_target(target: pd.Series[Any]) -> Floats | None:
    """The target as numbers, or None if any value is none."""
    if column_kind(target) in ("boolean", "category", "date"):
        return None
    y = as_numbers(target)
    return None if np.isnan(y).any() else y


def _task(target: pd.Series[Any], task: str | None, warnings: list[str], of_numbers: Task | None = None) -> Task:
    if task not in (None, "classification", "regression"):
        known = ("classification", "regression", "ordinal")
        raise DataError(f"There is no task {task!r}.{did_you_mean(str(task), known)} Use {listed(known)}.")
    y = _numeric_target(target)
    if y is not None and np.isinf(y).any():
        raise DataError(
            f"The target {target.name!r} is infinite in {np.isinf(y).sum()} rows. Remove or mend these rows."
        )
    if y is not None and float(np.abs(y).max(initial=0.0)) > LARGEST:
        raise DataError(
            f"The target {target.name!r} has numbers beyond {LARGEST:g}, whose squares no float holds. Give it in a larger "
            "unit, or its logarithm."
        )
    if task == "classification":
        return "classification"
    if task == "regression":
        if y is None:
            raise DataError(
                f"The target {target.name!r} holds {_example(target)}, and regression needs numbers. "
                "Use classification, or give a numeric target."
            )
        return "regression"
    if y is None:
        if column_kind(target) == "date":
            raise DataError(f"The target {target.name!r} holds dates. Turn them into numbers or classes first.")
        return "classification"
    return of_numbers or _task_of_numbers(target, y, warnings)


def _task_of_numbers(target: pd.Series[Any], y: Floats, warnings: list[str]) -> Task:
    values, counts = np.unique(y, return_counts=True)
    count = len(values)
    whole = bool((values == np.round(values)).all())
    few = count <= FEW_CLASSES and count * RARE <= len(y)
    filled = count <= MANY_CLASSES and int(counts.min()) >= LEAST_OF_MANY
    if not (whole and (few or filled)) and count > 2:
        return "regression"
    if count > 10:
        warnings.append(
            f"The target {target.name!r} has {count} distinct whole numbers, taken as classes. "
            "If they are quantities, set the task to regression."
        )
    return "classification"


def _example(target: pd.Series[Any]) -> str:
    if is_text(target):
        names = category_codes(target)[1]
        numbers = Notation("number").values(names)
        return listed((repr(name) for name, number in zip(names, numbers, strict=True) if np.isnan(number)), 3)
    kinds: dict[str, str] = {"boolean": "true and false", "date": "dates"}
    return kinds.get(column_kind(target), "categories")


def _checked_target(target: pd.Series[Any], task: Task, warnings: list[str]) -> pd.Series[Any]:
    codes, values = category_codes(target)
    counts = np.bincount(codes)
    if len(values) < 2:
        raise DataError(
            f"The target {target.name!r} has one value only ({values[0]!r}); there is nothing to learn. "
            "Give rows of at least two, or another target."
        )
    if task == "regression":
        numbers: pd.Series[Any] = require("pandas", "tables").Series(as_numbers(target), name=target.name)
        return numbers
    if len(values) > len(target) / 2:
        raise DataError(
            f"The target {target.name!r} has {len(values)} distinct values in {len(target)} rows; "
            "every class needs several rows. Give another target, or use regression if it is a number."
        )
    rare = [values[i] for i in np.flatnonzero(counts < RARE)]
    if rare:
        warnings.append(
            f"{len(rare)} of {len(values)} classes have fewer than {RARE} rows ({listed(rare)}): they are kept, "
            "but may be missing where the model is chosen and confirmed."
        )
    return target


# --- the features --------------------------------------------------------------------------------------------------


def _usable(frame: pd.DataFrame, ids: Sequence[str], warnings: list[str]) -> pd.DataFrame:
    """The columns that can help, numbers as numbers; what was left out or changed goes to the warnings."""
    frame = _without(frame, ids, "look like ids that name rows", warnings)
    frame = _one_type_each(_finite(frame, warnings), warnings)
    empty, constant = [], []
    for name in frame.columns:
        codes, values = category_codes(frame[name]) if is_text(frame[name]) else distinct(frame[name])
        if not len(values):
            empty.append(name)
        elif len(values) == 1 and not (codes < 0).any():  # one value and missing ones are two kinds of rows
            constant.append(name)
    frame = _without(frame, empty, "are missing in all rows", warnings)
    return _without(frame, constant, "have one value only", warnings)


def _without(frame: pd.DataFrame, names: Sequence[str], why: str, warnings: list[str]) -> pd.DataFrame:
    if names:
        warnings.append(f"Left out, since they {why}: {listed(map(repr, names))}.")
    return frame.drop(columns=list(names))


def _finite(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """Infinite numbers as missing."""
    numbers = [name for name in frame.columns if not is_text(frame[name]) and column_kind(frame[name]) == "number"]
    values = {name: as_numbers(frame[name]) for name in numbers}
    wild = {name: x for name, x in values.items() if np.isinf(x).any()}
    if wild:
        shown = listed(f"{name!r} ({np.isinf(x).sum()} rows)" for name, x in wild.items())
        warnings.append(f"Infinite values are treated as missing: {shown}.")
    return frame.assign(**{name: np.where(np.isinf(x), np.nan, x) for name, x in wild.items()})


def _one_type_each(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """Texts that are (mostly) numbers as numbers; a warning where a column is a mixture, whichever way it goes."""
    replaced: dict[str, Floats] = {}
    for name in frame.columns:
        if not is_text(frame[name]):
            continue
        reading = columns.column_reading(frame[name])
        if reading.kind == "number":
            numbers = as_numbers(frame[name], reading)
            replaced[name] = np.where(np.isinf(numbers), np.nan, numbers)
        if reading.kind not in ("boolean", "date"):
            missed = columns.unread(frame[name], reading if reading.kind == "number" else Notation("number"))
            if 0 < 2 * missed.count <= missed.there:
                warnings.append(columns.mixture(name, missed, reading))
    return frame.assign(**replaced)


def _names_rows(column: pd.Series[Any]) -> bool:
    """Whether values name rows: texts nearly all different, or whole numbers that count rows or are called an id."""
    types = require("pandas", "tables").api.types
    if types.is_integer_dtype(column.dtype):
        return _counts_rows(column)
    if not is_text(column) or column_kind(column) != "category":
        return False
    codes, names = category_codes(column)
    there = int((codes >= 0).sum())
    return there >= LEAST_FOR_ID and len(names) >= UNIQUE_SHARE * there


def _counts_rows(column: pd.Series[Any]) -> bool:
    if len(column) < LEAST_FOR_ID or column.isna().any():
        return False
    x = column.to_numpy(dtype=np.float64)
    if (np.diff(x) == 1).all():
        return True
    return len(np.unique(x)) == len(x) and ID_NAME.search(str(column.name).lower()) is not None


# --- suspicions ----------------------------------------------------------------------------------------------------


def _warn_of_leaks(frame: pd.DataFrame, target: pd.Series[Any], task: Task, warnings: list[str]) -> None:
    if is_text(target):  # of levels, too, a column may be a relabelling
        task = "classification"
    rows = len(frame)
    if rows > LEAK_ROWS:
        some = np.sort(numpy_generator(0, "leaks").choice(rows, LEAK_ROWS, replace=False))
        frame, target = frame.iloc[some], target.iloc[some]
    tells = _tells_class(target) if task == "classification" else _tells_number(target)
    leaks = [str(name) for name in frame.columns if tells(frame[name])]
    if leaks:
        each = "column predicts" if len(leaks) == 1 else "columns each predict"
        warnings.append(
            f"{len(leaks)} {each} the target {target.name!r} almost perfectly: {listed(map(repr, leaks))}. "
            "If it would not be known before the target is, drop it."
        )


def _tells_class(target: pd.Series[Any]) -> Callable[[pd.Series[Any]], bool]:
    """A test of one column: are the classes a relabelling of its categories, or cut from its order by thresholds?

    Missing is a category, and the last place in the order: a date that only one class has gives it away.
    """
    y, classes = category_codes(target)
    allowed = LEAK_ERRORS * len(y)

    def tells(column: pd.Series[Any]) -> bool:
        x = ordered_values(column)
        ordered = x is not None
        if x is not None:
            places: Integers = np.unique(np.where(np.isnan(x), np.inf, x), return_inverse=True)[1].astype(np.int64)
        else:
            places = category_codes(column)[0] + 1
        count = int(places.max()) + 1
        if not ordered and count > 2 * len(classes) + 1:  # many small categories are pure by chance
            return False
        # The class that each place has most of, without a table of all places and classes: both may be thousands.
        pairs, often = np.unique(places * len(classes) + y, return_counts=True)
        place, label = np.divmod(pairs, len(classes))
        order = np.lexsort((label, -often, place))
        most = order[np.append(True, np.diff(place[order]) > 0)]
        errors, winners = len(y) - often[most].sum(), label[most]
        # Every class must be told from the others, or missing a rare class would cost nothing.
        if errors > allowed or len(np.unique(winners)) < len(classes):
            return False
        changes = int((np.diff(winners) != 0).sum())
        return not ordered or changes <= len(classes) - 1 + 2 * (allowed - errors)

    return tells


def _tells_number(target: pd.Series[Any]) -> Callable[[pd.Series[Any]], bool]:
    """A test of one column: is it the target in another unit, or on another scale that keeps its order?"""
    y = target.to_numpy(dtype=np.float64)

    def tells(column: pd.Series[Any]) -> bool:
        if column_kind(column) != "number":
            return False
        x = as_numbers(column)
        there = np.isfinite(x)
        if there.sum() < max(LEAST_ROWS, 0.5 * len(x)):
            return False
        return _correlation(x[there], y[there]) > LEAK or _correlation(ranks(x[there]), ranks(y[there])) > LEAK

    return tells


def _correlation(x: Floats, y: Floats) -> float:
    """``|correlation|``, 0 where one of the two does not vary. Scaled first, so that large numbers do not overflow."""
    x, y = (v / (np.abs(v).max() or 1.0) for v in (x, y))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return abs(float(x @ y)) / size if size > 0 else 0.0


def _warn_of_totals(table: pd.DataFrame, warnings: list[str]) -> None:
    """Name the first or the last row where two or more of its numbers are the sums of all others, as below an export."""
    numbers = table.select_dtypes("number").to_numpy(np.float64)
    if len(numbers) < 4:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        both = np.nansum(numbers, axis=0) / 2
    for at, row in (("first", numbers[0]), ("last", numbers[-1])):
        count = int((np.isclose(row, both, rtol=1e-6) & (row != 0) & np.isfinite(both)).sum())
        if count > 1:
            warnings.append(
                f"The {at} row is the sum of all others in {count} columns: a total, no example. Leave it out."
            )
