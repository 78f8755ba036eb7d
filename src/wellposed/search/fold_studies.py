"""Every row of a small table held out in turn: a whole study for each fold, and the gain of the search over all of them.

A search that had seen a row cannot be judged on it, so each fold has a search of its own on the other rows, with its own
baseline, finalists and confirmation. What is estimated is what searching gains over the tuned baseline on a table of this kind;
the model that is kept is that of the first fold.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.core.clock import clock_open
from wellposed.core.errors import InputError
from wellposed.data.columns import category_codes
from wellposed.data.splits import duplicate_ids, folds
from wellposed.data.tables import TableData
from wellposed.search.improve import improve
from wellposed.statistics.intervals import ALPHA, fold_interval, look_level
from wellposed.study.budget import Budget
from wellposed.study.study import Study
from wellposed.training.ready_problems import table_problem

SIDES = ("baseline", "best")


def fold_tables(table: TableData, count: int) -> Iterator[tuple[TableData, tuple[Any, ...]]]:
    """The table without each fold, and the rows of the fold: features, target, and weight where there is one.

    Raises:
        InputError: the table is ordered in time, where earlier rows may not be held out.
        DataError: there are fewer rows or groups than folds.
    """
    if table.time is not None:
        raise InputError("--folds holds out every row in turn, and --time only the latest. Leave one of the two out.")
    labelled = table.task == "classification" or table.levels is not None
    target = category_codes(table.target)[0] if labelled else None
    copies = duplicate_ids(table.frame, table.target) if table.target.ndim == 1 else None
    place = folds(len(table.frame), count, seed=0, target=target, groups=table.groups, duplicates=copies)
    for fold in range(count):
        rest, held = np.flatnonzero(place != fold), np.flatnonzero(place == fold)
        weight = () if table.weight is None else (table.weight[held],)
        rows = (table.frame.iloc[held], table.target.iloc[held], *weight)
        part = dataclasses.replace(
            table,
            frame=table.frame.iloc[rest].reset_index(drop=True),
            target=table.target.iloc[rest].reset_index(drop=True),
            groups=None if table.groups is None else table.groups[rest],
            weight=None if table.weight is None else table.weight[rest],
            sha256=f"{table.sha256} {fold}/{count}",
        )
        yield part, rows


def improve_in_folds(
    table: TableData,
    count: int,
    budget: str | Budget,
    seed: int,
    out: Path,
    *,
    metric: str | None = None,
    class_weight: str | None = None,
    warnings: tuple[str, ...] = (),
    began: float | None = None,
    **options: Any,
) -> Study:
    """`improve` once for each fold; the study of the first, whose record speaks of all.

    Args:
        count: of folds, >= 2.
        budget: of seconds for all folds together; of recipes or epochs for each.
        out: a folder for each fold's study, ``fold-1`` and so on, beside what is kept of all.
        warnings: sentences that every study repeats.
        options: of `improve`.
    Raises:
        InputError, DataError: see `fold_tables` and `improve`.
    """
    spent = Budget.parse(budget)
    began = time.monotonic() if began is None else began
    if spent.unit == "seconds":
        spent = Budget(spent.amount / count, "seconds")
    studies: list[Study] = []
    with clock_open(began) as clock:
        for number, (part, held) in enumerate(fold_tables(table, count), start=1):
            problem = table_problem(part, metric=metric, test=held, class_weight=class_weight)
            problem.warnings = (*problem.warnings, *warnings)
            began = began if number == 1 else time.monotonic()
            study = improve(problem, spent, seed, out / f"fold-{number}", began=began, **options)
            studies.append(study)
            if study.improvement is None or study.interrupted:
                return study
    first = studies[0]
    first.over_folds = together(studies) | {"clock": clock.told()}
    first.folder = out
    first.save(out)
    return first


def together(studies: list[Study]) -> dict[str, Any]:
    """The parts of a record that speak of all folds: mean scores, and the gain with its interval."""
    records = [study.record() for study in studies]
    level = look_level(1, 2.0 * ALPHA)
    gains = [record["improvement"]["estimate"] for record in records]
    found = fold_interval(gains, len(gains), level)
    rows = sum(record["data"]["test"] for record in records)
    sides = {name: records[0][name] | _means([record[name] for record in records], "valid", "test") for name in SIDES}
    improvement = {
        "estimate": found.estimate, "low": found.low, "high": found.high,
        "level": level, "pairs": records[0]["improvement"]["pairs"], "looks": 1,
        "shown": found.low > 0, "limited_by": None, "rows": rows, "needs": None,
    }  # fmt: skip
    each = []
    for gain, record in zip(gains, records, strict=True):
        tested = {side: record[side]["test"] for side in SIDES}
        each.append({"gain": gain, "rows": record["data"]["test"], **tested, "recipe": record["best"]["recipe"]})
    return {
        **sides,
        "improvement": improvement,
        "references": _means([record["references"] for record in records]),
        "constant": _means([record["constant"] for record in records]),
        "confirmation": records[0]["confirmation"] | {"rows": rows},
        "against_references": {},  # rows of different folds are of different models
        "calibration": {},
        "folds": each,
        "recipes_tried": sum(record["recipes_tried"] for record in records),
        "seconds": math.fsum(record["seconds"] for record in records),
    }  # fmt: skip


def _means(records: list[dict[str, float]], *keys: str) -> dict[str, float]:
    """The mean of each of these numbers, or of each that every fold has."""
    common = keys or [key for key in records[0] if all(key in record for record in records)]
    return {key: float(np.mean([record[key] for record in records])) for key in common}
