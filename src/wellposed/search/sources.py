"""Where the error of the baseline and of the best recipe comes from: an error budget of each, with the time that is left."""

from __future__ import annotations

import time
from typing import Any

from wellposed.core.errors import TrainingError
from wellposed.core.progress import report
from wellposed.diagnosis.error_budget import error_budget, least_seconds
from wellposed.search.bench import Bench
from wellposed.search.confirmation import Confirmed

SHORTEST = 4.0
"""Seconds below which a budget would be one of rivals that were hardly trained."""
FEWEST_RUNS = 2
"""Where time is short: below it there is no interval."""
WRITING = 2.0
"""Seconds that the study is left for its report and its files."""
MOST_RUNS = 3
"""Of the confirmation's runs that are taken apart: enough for an interval, and each has rivals of its own."""


def error_budgets(bench: Bench, shown: Confirmed) -> dict[str, Any]:
    """An error budget of ``baseline`` and ``best``, as far as the time goes; empty where no clock says when to end.

    Two recipes share the time that is left; where it is enough for one of them only, that is the best one.
    """
    sides = {"baseline": 0, "best": 1} if shown.best != shown.baseline else {"baseline": 0}
    found: dict[str, Any] = {}
    for place, (name, side) in enumerate(sides.items()):
        runs = [pair[side] for pair in shown.pairs if pair[side].stopped in ("epochs", "patience")][:MOST_RUNS]
        if bench.interrupted or not bench.account.timed or not runs:
            break
        left = (bench.account.deadline(1.0) - WRITING - time.monotonic()) / (len(sides) - place)
        needed = max(SHORTEST, least_seconds(bench.problem, runs[0].recipe, runs))
        if left < needed and len(runs) > FEWEST_RUNS:
            runs = runs[:FEWEST_RUNS]
            needed = max(SHORTEST, least_seconds(bench.problem, runs[0].recipe, runs))
        if left < needed:
            bench.notes.append(too_late(name, needed, max(left, 0.0)))
            continue
        report("phase", text="error budget")
        try:
            budget = error_budget(
                bench.problem, runs[0].recipe, runs=runs, rows=shown.rows, deadline=time.monotonic() + left,
                engine=bench.engine, device=str(bench.device),
            )  # fmt: skip
        except TrainingError as error:
            bench.notes.append(f"The error budget could not be measured: {error}")
        except KeyboardInterrupt:
            bench.interrupted = True
        else:
            found[name] = budget.to_dict()
    return found


def too_late(side: str, needed: float, left: float) -> str:
    """The note that the time was not enough."""
    whose = {"baseline": "tuned baseline", "best": "best recipe"}[side]
    return (
        f"Where the error of the {whose} comes from was not measured: about {needed:.0f} s are needed and {left:.0f} s were left. "
        "wp.error_budget(problem, recipe) measures it."
    )
