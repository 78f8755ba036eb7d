"""Where the error of the baseline and of the best recipe comes from: an error budget of each, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wellposed.core.clock import enter_stage
from wellposed.core.errors import TrainingError
from wellposed.decomposition.error_budget import error_budget, least_seconds
from wellposed.search import budget_split
from wellposed.search.confirmation import Confirmed
from wellposed.search.runner import Bench
from wellposed.training.history import Stopped
from wellposed.training.run import Run

MOST_RUNS = 3
"""Of the confirmation's runs that are taken apart: enough for an interval, and each has rivals of its own."""


@dataclass(frozen=True)
class PlannedBudget:
    """A budget that could be measured: whose, of which runs, and what it takes at least."""

    name: str
    runs: list[Run]
    seconds: float


def error_budgets(bench: Bench, shown: Confirmed) -> dict[str, Any]:
    """An error budget of ``baseline`` and ``best``, as far as the time goes; empty where no clock says when to end."""
    if bench.interrupted or not bench.account.timed:
        return {}
    sides = {"baseline": 0, "best": 1} if shown.best != shown.baseline else {"baseline": 0}
    able = [plan for name, side in sides.items() if (plan := plan_budget(bench, shown, name, side)) is not None]
    chosen = affordable(able, time_left(bench))
    bench.notes += [too_late(plan, time_left(bench)) for plan in able if plan not in chosen]
    found: dict[str, Any] = {}
    for place, plan in enumerate(chosen):
        enter_stage("error budget")
        share = plan.seconds / sum(other.seconds for other in chosen[place:])
        try:
            budget = error_budget(
                bench.problem, plan.runs[0].recipe, runs=plan.runs, rows=shown.rows,
                deadline=time.monotonic() + share * time_left(bench), engine=bench.engine, device=str(bench.device),
            )  # fmt: skip
        except TrainingError as error:
            bench.notes.append(f"The error budget could not be measured: {error}")
        except KeyboardInterrupt:
            bench.interrupted = True
            break
        else:
            found[plan.name] = budget.to_dict()
    return found


def time_left(bench: Bench) -> float:
    """Seconds until the budget is gone, less those that writing takes; 0 at least."""
    return max(bench.account.deadline(1.0) - bench.writing - time.monotonic(), 0.0)


def plan_budget(bench: Bench, shown: Confirmed, name: str, side: int) -> PlannedBudget | None:
    """The budget of one side of the confirmation, of fewer runs where that makes it fit; None where no run ended by itself."""
    runs = [pair[side] for pair in shown.pairs if pair[side].stopped in (Stopped.EPOCHS, Stopped.PATIENCE)][:MOST_RUNS]
    if not runs:
        return None
    for some in (runs, runs[: budget_split.TAKEN_APART]):
        plan = PlannedBudget(
            name, some, max(budget_split.ERROR_BUDGET, least_seconds(bench.problem, some[0].recipe, some))
        )
        if plan.seconds <= time_left(bench):
            break
    return plan


def affordable(plans: Sequence[PlannedBudget], left: float) -> list[PlannedBudget]:
    """Both budgets where the time is enough, else that of the best recipe, else that of the baseline.

    Example:
        >>> base, best = PlannedBudget("baseline", [], 30.0), PlannedBudget("best", [], 50.0)
        >>> [[plan.name for plan in affordable([base, best], left)] for left in (90, 60, 40, 20)]
        [['baseline', 'best'], ['best'], ['baseline'], []]
    """
    if sum(plan.seconds for plan in plans) <= left:
        return list(plans)
    return [plan for plan in reversed(plans) if plan.seconds <= left][:1]


def too_late(plan: PlannedBudget, left: float) -> str:
    """The note that the time was not enough."""
    whose = {"baseline": "tuned baseline", "best": "best recipe"}[plan.name]
    return (
        f"Where the error of the {whose} comes from was not measured: it takes about {plan.seconds:.0f} s, and {left:.0f} s were "
        "left. wp.error_budget(problem, recipe) measures it."
    )
