"""`compare`: is b better than a? Runs, scores by row or by fold, or files of predictions, paired row by row and seed by seed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.core.checks import checked
from wellposed.core.csv import csv_columns
from wellposed.core.errors import DataError, InputError, listed
from wellposed.statistics.intervals import Array, Interval, fold_interval, paired_interval

SMALLEST_PROBABILITY = 1e-12  # a probability of exactly 0 for the true class costs -log of this, not infinity
ROW_NAMES = ("row", "id", "row_id")
MOST_FOLDS = 100
"""So many scores or fewer, one for each of nobody knows what, may be ten times ten folds."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """How much better b is than a, on the same rows, with its interval; ``score`` names what one row contributes.

    ``folds``: the scores are of so many folds, and the interval is `fold_interval`'s; None: of rows and seeds.
    """

    interval: Interval
    score: str = "score"
    note: str = ""
    folds: int | None = None

    @property
    def shown(self) -> bool:
        """Whether b is better than a at the interval's level; with one seed, whether these two models are."""
        return self.interval.low > 0

    def to_dict(self) -> dict[str, Any]:
        """The interval's numbers with ``score``, ``note`` and ``folds``; ``shown`` is that of the comparison."""
        own = {"shown": self.shown, "score": self.score, "note": self.note, "folds": self.folds}
        return {**self.interval.to_dict(), **own, **({"needs": None} if self.folds else {})}

    def __str__(self) -> str:
        i = self.interval
        numbers = f"{100 * i.level:.4g}% interval {_digits(i.low)} to {_digits(i.high)}"
        seeds = "1 seed" if i.pairs == 1 else f"{i.pairs} seeds"
        basis = f"{seeds} x {i.rows} rows; {i.limited_by} limit"
        if self.folds:
            basis = f"{i.rows} scores of {self.folds} folds, corrected for the training rows that they share"
        if self.shown:
            text = f"b is better than a by {_digits(i.estimate)} {self.score} ({numbers}; {basis})."
        elif i.high < 0:
            text = f"b is worse than a by {_digits(-i.estimate)} {self.score} ({numbers}; {basis})."
        else:
            text = f"Not shown: b minus a is {_digits(i.estimate)} {self.score} ({numbers}; {basis})."
            needs = "" if self.folds else i.needs.sentence(i.pairs, i.rows, f"{_digits(i.needs.smallest)} {self.score}")
            text = f"{text} {needs}".rstrip()
        return f"{text} {self.note}".rstrip()

    __repr__ = __str__


def _digits(value: float) -> str:
    return f"{value:.3f}" if 0.0095 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


@checked
def compare(a: Any, b: Any, *, on: str = "valid", level: float = 0.95, folds: int | None = None) -> Comparison:
    """Paired evidence that ``b`` is better than ``a``: the mean of ``score_b - score_a`` over rows and seeds, or over folds.

    Seeds are paired where both sides have the same ones; otherwise in the given order, which is said in the note.

    Args:
        a, b: a Run or a list of Runs; a CSV file of predictions; or scores where higher is better: an array or tensor
            ``(rows,)`` or ``(rows, seeds)``, or a list of arrays ``(rows,)``, one per seed. A file has ``target`` and
            either ``prediction`` (labels: 1 for a hit, 0 for a miss; numbers: minus the squared error), ``prediction_0
            ...`` for several seeds, or ``p_<class>`` (log of the target's probability). With a column ``row`` or ``id``
            in both, rows are matched by it; a column ``weight`` weighs them; with a column ``fold`` the rows of a fold have one
            score together.
        on: the part of the data that runs are scored on, ``valid`` or ``test``. Arrays and files ignore it.
        level: inside (0, 1).
        folds: the scores ``(n,)`` are one for each fold of a cross-validation in so many parts, >= 2, of all its
            repetitions; of random splits it is one over the tested share. Folds share training rows, which
            `wellposed.statistics.intervals.fold_interval` corrects. None: they are of rows.
    Raises:
        DataError: the two sides do not have the same rows or number of seeds, or cannot be read.
        InputError: the two sides are of different kinds, or few scores may be of rows or of folds.
    """
    left, right = _kind(a), _kind(b)
    if left != right:
        raise InputError(f"compare needs two of one kind, such as two lists of runs; given {left} and {right}.")
    if folds is not None and left != "arrays":
        raise InputError(f"folds= is for arrays of scores, one for each fold; given {left}. Leave it out.")
    if left == "files":
        return _compare_files(Path(a), Path(b), level)
    if left == "runs":
        return _compare_runs(_listed(a), _listed(b), on, level)
    one, other = _scores(a), _scores(b)
    if folds is None and _maybe_folds(a, one) and _maybe_folds(b, other):
        raise InputError(
            f"compare cannot tell {len(one)} scores of rows from scores of folds, which share training rows. Give folds=, the "
            "number of parts of the cross-validation; or, for scores of rows, arrays (rows, 1)."
        )
    return _compare_arrays(one, other, level, folds=folds)


def _maybe_folds(given: Any, scores: Array) -> bool:
    """Whether scores without a second axis are few, and not the hits and misses that only rows have."""
    flat = getattr(given, "ndim", 1) == 1 and scores.ndim == 2 and scores.shape[1] == 1
    return flat and len(scores) <= MOST_FOLDS and not np.isin(scores, (0.0, 1.0)).all()


def _kind(side: Any) -> str:
    if isinstance(side, (str, Path)):
        return "files"
    several = _listed(side)
    return "runs" if several and all(hasattr(run, "row_scores") for run in several) else "arrays"


def _listed(side: Any) -> list[Any]:
    return list(side) if isinstance(side, (list, tuple)) else [side]


def _scores(side: Any) -> Array:
    if isinstance(side, (list, tuple)) and len(side) > 0:
        if all(getattr(seed, "ndim", None) == 1 for seed in side):
            columns = [_numbers(seed) for seed in side]
            if len(rows := {len(column) for column in columns}) > 1:
                raise DataError(
                    f"compare needs the same rows for every seed; the arrays have {listed(sorted(rows))} rows."
                )
            return np.stack(columns, axis=1)
        if all(isinstance(seed, (list, tuple)) for seed in side):
            raise InputError(
                "compare cannot tell rows from seeds in a list of lists; give an array (rows, seeds), or a list of arrays "
                "(rows,), one per seed."
            )
        side = [_numbers(row) for row in side]  # numbers, or tensors of one
    scores = _numbers(side)
    return scores[:, None] if scores.ndim == 1 else scores


def _numbers(side: Any) -> Array:
    """In double precision on the CPU; tensors may require a gradient."""
    if hasattr(side, "detach"):
        side = side.detach().cpu().double()
    try:
        return np.asarray(side, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"compare cannot read a {type(side).__name__}; give Runs, CSV files of predictions, or scores of rows."
        ) from None


def _compare_arrays(
    a: Array, b: Array, level: float, score: str = "score", note: str = "", folds: int | None = None
) -> Comparison:
    if a.ndim != 2 or b.ndim != 2:
        raise DataError(f"Scores need the shape (rows,) or (rows, seeds); given {a.shape} and {b.shape}.")
    if a.shape[0] != b.shape[0]:
        raise DataError(f"compare needs the same rows on both sides; a has {a.shape[0]} rows, b has {b.shape[0]}.")
    if a.shape[1] != b.shape[1]:
        raise DataError(f"compare pairs seeds; a has {a.shape[1]}, b has {b.shape[1]}. Train both on the same seeds.")
    if folds is not None:
        return Comparison(fold_interval(b - a, folds, level), score, note, folds)
    interval = paired_interval(b - a, level)
    if not interval.covers_seeds:
        note = f"{note} One seed: this speaks of these two models, not of training again.".strip()
    return Comparison(interval, score, note)


def _compare_runs(a: list[Any], b: list[Any], on: str, level: float) -> Comparison:
    if len(a) != len(b):
        raise DataError(f"compare pairs runs by seed; a has {len(a)} runs, b has {len(b)}. Train both on equal seeds.")
    seeds_a, seeds_b = ([getattr(run, "seed", None) for run in side] for side in (a, b))
    note = ""
    if len(set(seeds_a)) == len(a) and set(seeds_a) == set(seeds_b):
        b = [b[seeds_b.index(seed)] for seed in seeds_a]
    else:
        note = "The seeds differ, so the runs were paired in the given order."
    columns = [[np.asarray(run.row_scores(on), dtype=np.float64).ravel() for run in side] for side in (a, b)]
    rows = {len(column) for side in columns for column in side}
    if len(rows) > 1:
        raise DataError(f"The runs were scored on different numbers of '{on}' rows: {listed(sorted(rows))}.")
    left, right = (np.stack(side, axis=1) for side in columns)
    facts = getattr(getattr(a[0], "history", None), "facts", None)
    name = facts.get("metric") if isinstance(facts, Mapping) else None
    return _compare_arrays(left, right, level, str(name) if name else "score", note)


@dataclass(frozen=True)
class _Predictions:
    """A file of predictions, its rows in the file's order."""

    path: Path
    columns: dict[str, list[str]]

    @property
    def keys(self) -> list[str] | None:
        name = next((name for name in ROW_NAMES if name in self.columns), None)
        return None if name is None else self.columns[name]

    @property
    def predicted(self) -> list[str]:
        """Names of the columns of predictions, one a seed, in the order of their numbers."""
        numbered = [name for name in self.columns if re.fullmatch(r"prediction_\d+", name)]
        plain = ["prediction"] if "prediction" in self.columns else []
        return plain or sorted(numbered, key=lambda name: int(name.split("_")[1]))

    @property
    def classes(self) -> list[str]:
        return [name[2:] for name in self.columns if name.startswith("p_") and len(name) > 2]


def _read_predictions(path: Path) -> _Predictions:
    file = _Predictions(path, csv_columns(path))
    if "target" not in file.columns or not (file.predicted or file.classes):
        raise DataError(
            f"'{path}' needs the column 'target' and 'prediction' (or prediction_0 ..., or p_<class>); "
            f"found: {listed(file.columns, 12)}."
        )
    return file


def _compare_files(a: Path, b: Path, level: float) -> Comparison:
    left, right = _aligned(_read_predictions(a), _read_predictions(b))
    if left.predicted and right.predicted:
        numeric = not (_labels(left) and _labels(right))
        score, name = (_squared_error, "squared error") if numeric else (_hits, "accuracy")
    elif left.classes and right.classes:
        score, name = _log_likelihood, "log-likelihood"
    else:
        raise DataError(f"'{a}' and '{b}' need the same kind of columns: 'prediction' in both, or 'p_<class>' in both.")
    one, other, weight = score(left), score(right), _weights(left, right)
    fold = left.columns.get("fold") or right.columns.get("fold")
    if fold is None:
        return _compare_arrays(_weighted(one, weight), _weighted(other, weight), level, name)
    parts = [part for number in dict.fromkeys(fold) if weight[part := np.array(fold) == number].any()]
    sides = [side.mean(axis=1) for side in (one, other)]
    a_means, b_means = (np.array([[np.average(side[part], weights=weight[part])] for part in parts]) for side in sides)
    return _compare_arrays(a_means, b_means, level, name, folds=len(parts))


def _weights(left: _Predictions, right: _Predictions) -> Array:
    """One number >= 0 for each row, from a column ``weight`` of either file; 1 without one.

    Raises:
        DataError: they are no such numbers, all 0, or differ between the files.
    """
    columns = [file.columns["weight"] for file in (left, right) if "weight" in file.columns]
    found = [np.array([_float(cell) for cell in column], dtype=np.float64) for column in columns]
    for weight in found:
        if not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
            raise DataError(
                f"The column 'weight' of '{left.path}' or '{right.path}' needs numbers of at least 0, not all of them 0."
            )
        if not np.array_equal(weight, found[0]):
            raise DataError(f"'{left.path}' and '{right.path}' weigh their rows differently; equal weights are needed.")
    return found[0] if found else np.ones(len(left.columns["target"]))


def _weighted(scores: Array, weight: Array) -> Array:
    """Each row's part of the weighted mean, linearized: their plain mean is the weighted one."""
    if np.ptp(weight) == 0:
        return scores  # exactly, so that equal rows stay equal
    mean = np.average(scores, axis=0, weights=weight)
    return np.asarray(mean + (weight / weight.mean())[:, None] * (scores - mean))


def _aligned(left: _Predictions, right: _Predictions) -> tuple[_Predictions, _Predictions]:
    """Both files in the same order of rows, with the same targets."""
    if left.keys is not None and right.keys is not None:
        order = _order(left, right)
        right = replace(right, columns={name: [cells[i] for i in order] for name, cells in right.columns.items()})
    targets, others = left.columns["target"], right.columns["target"]
    if len(targets) != len(others):
        raise DataError(f"'{left.path}' has {len(targets)} rows, '{right.path}' {len(others)}; equal ones are needed.")
    for row, (one, other) in enumerate(zip(targets, others, strict=True), 1):
        if one != other and not _same_number(one, other):
            raise DataError(
                f"The targets differ in row {row}: {one!r} in '{left.path}', {other!r} in '{right.path}'. Both files "
                "need the same rows in the same order, or a column 'id' to match them by."
            )
    return left, right


def _order(left: _Predictions, right: _Predictions) -> list[int]:
    keys, others = left.keys or [], right.keys or []
    for file, names in ((left, keys), (right, others)):
        if len(set(names)) < len(names):
            raise DataError(f"'{file.path}' names a row more than once in its column of rows.")
    where = {key: index for index, key in enumerate(others)}
    if where.keys() != set(keys):
        alone = [repr(row) for row in sorted(where.keys() ^ set(keys))]
        raise DataError(f"'{left.path}' and '{right.path}' do not have the same rows; in one only: {listed(alone, 4)}.")
    return [where[key] for key in keys]


def _same_number(one: str, other: str) -> bool:
    first, second = _float(one), _float(other)
    return first is not None and first == second


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _labels(file: _Predictions) -> bool:
    """Whether predictions are class labels: text, or whole numbers that all occur among whole targets."""
    targets = [_float(cell) for cell in file.columns["target"]]
    if any(value is None for value in targets):
        return True
    known = set(targets)
    predictions = {_float(cell) for name in file.predicted for cell in file.columns[name]}
    return all(value is not None and value == math.floor(value) for value in known) and predictions <= known


def _hits(file: _Predictions) -> Array:
    targets = file.columns["target"]
    pairs = [zip(file.columns[name], targets, strict=True) for name in file.predicted]
    columns = [[cell == target or _same_number(cell, target) for cell, target in pair] for pair in pairs]
    return np.array(columns, dtype=np.float64).T


def _squared_error(file: _Predictions) -> Array:
    columns = [[_float(cell) for cell in file.columns[name]] for name in ("target", *file.predicted)]
    values = np.array(columns, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"'{file.path}' has a target or a prediction that is not a finite number.")
    return np.asarray(-((values[1:] - values[0]) ** 2).T)


def _log_likelihood(file: _Predictions) -> Array:
    scores = []
    for row, target in enumerate(file.columns["target"], 1):
        if f"p_{target}" not in file.columns:
            raise DataError(f"'{file.path}' has the target {target!r} in row {row} but no column 'p_{target}'.")
        probability = _float(file.columns[f"p_{target}"][row - 1])
        if probability is None or not 0 <= probability <= 1:
            raise DataError(f"'{file.path}' has a probability outside [0, 1] in row {row}.")
        scores.append(math.log(max(probability, SMALLEST_PROBABILITY)))
    return np.array(scores, dtype=np.float64)[:, None]
