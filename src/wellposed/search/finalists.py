"""The best few again with other seeds: the run that made a recipe a finalist was chosen for its luck."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from wellposed.core.clock import enter_stage
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.runner import Bench
from wellposed.search.timing import with_epochs
from wellposed.study.trials import rank_trials
from wellposed.training.history import Stopped

SIZES = ((8, 3), (5, 3), (3, 3), (3, 2), (2, 2), (2, 1), (1, 1))
"""How many finalists there are with how many seeds, where there is time: the first that fits."""
WITHOUT_CLOCK, EACH = (3, 3), 12
"""Without a clock, three; and one more for every so many recipes that were tried, up to the first of `SIZES`."""


def best_of_finalists(bench: Bench, baseline: Recipe, epochs: int) -> Recipe:
    """The recipe with the best mean in validation over new seeds, on all rows if time allows; the baseline is among them."""
    enter_stage("finalists")
    if bench.account.timed and bench.account.spent >= bench.until(budget_split.CONFIRMATION):
        bench.notes.append("There was no time to train the best few again: the best of the search was taken as it is.")
        cut = (Stopped.CULLED, Stopped.BUDGET)
        first = [t for t in bench.state.of("baseline", "search") if t.built != baseline and t.stopped not in cut]
        own = [t for t in bench.state.of("baseline") if t.built == baseline]
        return max([*own, *first], key=bench.rank).built if own else baseline
    searched = rank_trials(bench.state.of("search"), bench.sign)
    several = list({t.built.to_toml(): t.built for t in searched if t.stopped != Stopped.CULLED}.values())
    count, seeds, epochs, rows = plan_finalists(bench, [baseline, *several], len(searched), epochs)
    candidates = [baseline, *several[:count]]
    lot = [
        bench.planned("finalist", recipe, with_epochs(recipe, epochs), bench.seed + again)
        for again in range(1, 1 + seeds)
        for recipe in candidates
    ]
    ends = min(bench.account.spent + budget_split.FINALISTS * 1.5 * (1.0 - bench.start), budget_split.LATEST)
    bench.train("finalist", bench.left(lot), rows, ends=ends)
    ended = {trial.index: trial for trial in bench.state.of("finalist")}
    scores: dict[str, list[float]] = defaultdict(list)
    for planned in lot:
        if planned.index in ended:
            scores[planned.recipe.to_toml()].append(bench.rank(ended[planned.index])[0])
    most = max(map(len, scores.values()), default=0)
    # A recipe that the clock cut out of some seeds has been judged on others than the rest.
    scored = [recipe for recipe in candidates if len(scores[recipe.to_toml()]) == most > 0]
    return max(scored, key=lambda r: float(np.mean(scores[r.to_toml()])), default=baseline)


def plan_finalists(bench: Bench, recipes: list[Recipe], tried: int, epochs: int) -> tuple[int, int, int, int | None]:
    """How many finalists with how many seeds, for how many epochs, on how many rows (None: all)."""
    if not bench.account.timed:
        return min(SIZES[0][0], max(WITHOUT_CLOCK[0], tried // EACH)), WITHOUT_CLOCK[1], epochs, None
    left = budget_split.HASTE * budget_split.FINALISTS * (1.0 - bench.start) * bench.account.budget.amount
    pace, total = bench.pace, bench.total
    for count, seeds in SIZES:
        lot = recipes[: 1 + count] * seeds
        if count <= max(1, len(recipes) - 1) and pace.seconds("finalist", lot, epochs, total) <= left:
            return count, seeds, epochs, None
    count, seeds = SIZES[-2]
    lot = recipes[: 1 + count] * seeds
    fewer, rows = fewer_rows(bench, "finalist", lot, left, epochs)
    return count, seeds, fewer, rows


def fewer_rows(bench: Bench, kind: str, lot: list[Recipe], seconds: float, epochs: int) -> tuple[int, int | None]:
    """Epochs and rows of a lot that is to take so many seconds: half of the epochs on all rows, or else on fewer rows."""
    pace, total = bench.pace, bench.total
    at_all = pace.affordable(kind, lot, total, seconds, epochs)
    if at_all >= max(1, epochs // 2):
        return at_all, None
    goal = max(1, epochs // 2)
    rows = max(min(1000, total), int(total * at_all / goal))
    return pace.affordable(kind, lot, rows, seconds, epochs), rows if rows < total else None
