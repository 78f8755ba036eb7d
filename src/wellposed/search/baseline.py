"""The baseline: plain AdamW with its own search of the learning rate, so that a gain is not the tuning of a straw man."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from wellposed.core.clock import enter_stage
from wellposed.core.errors import ProblemError, listed
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.playbook import edge_note
from wellposed.search.runner import Bench
from wellposed.search.timing import with_epochs
from wellposed.study.ranking import Rank
from wellposed.study.trials import Trial

BASELINE_RATES = (1e-3, 3e-3, 3e-4, 1e-2, 3e-2)
"""Learning rates of the baseline's own search, the likeliest first; a best one at the border brings the next beyond it."""
FEWEST_RATES = 3
"""Learning rates of the baseline, whatever the budget: a gain over an untuned baseline would say nothing."""
BEYOND = 2
"""Rates beyond the border of the list, at most."""


def tuned_baseline(bench: Bench, plain: Recipe, epochs: int, rows: int | None) -> Recipe:
    """The best of several learning rates, all trained together, looking beyond the border where the best is there.

    Raises:
        ProblemError: every rate diverged.
    """
    enter_stage("baseline")
    if bench.account.budget.none:
        return plain
    limit = len(BASELINE_RATES)
    if bench.account.budget.unit == "recipes":
        limit = max(FEWEST_RATES, min(limit, int(bench.account.budget.amount) // 3))
    before = bench.state.trials if bench.state.lots or bench.account.timed else bench.begin_again()
    done = {trial.built.optimizer.lr: trial for trial in tried_rates(before, plain)}
    while not bench.interrupted:
        more_until = bench.until(budget_split.RATES) if bench.account.timed else 0.21
        if len(done) >= FEWEST_RATES and bench.account.spent >= more_until:
            break
        rates = next_rates({rate: bench.rank(trial) for rate, trial in done.items()}, limit)
        if not rates:
            break
        recipes = [plain.replace(optimizer={"lr": rate}) for rate in rates]
        lot = [
            bench.planned(
                "baseline", recipe, with_epochs(recipe, epochs), bench.seed,
                {"optimizer": recipe.optimizer.name, "rate": recipe.optimizer.lr},
            )
            for recipe in recipes
        ]  # fmt: skip
        bench.train("baseline", lot, rows, ends=bench.until(budget_split.SEARCH))
        ended = {trial.built.optimizer.lr: trial for trial in tried_rates(bench.state.trials, plain)}
        if ended.keys().isdisjoint(rates):
            break  # the clock cut them all
        done |= {rate: trial for rate, trial in ended.items() if rate in rates}
    trials = tried_rates(bench.state.trials, plain)
    if not trials:
        return plain  # interrupted before the first one ended
    if not any(math.isfinite(trial.valid_loss) for trial in trials):
        raise divergence_error(trial.built.optimizer.lr for trial in trials)
    if said := edge_note(trials, bench.sign, "the baseline"):
        bench.notes.append(said)
    return max(trials, key=bench.rank).built


def next_rates(done: Mapping[float, Rank], limit: int) -> list[float]:
    """The first rates of the list, all at once; then, one by one, up to two beyond the border while the best is there.

    Args:
        done: how each rate that was tried ranks.
        limit: of the rates of the list.
    """
    waiting = [rate for rate in BASELINE_RATES[:limit] if rate not in done]
    if waiting:
        return waiting
    if not 1 < limit <= len(done) < limit + BEYOND:
        return []
    best = max(done, key=lambda rate: done[rate])
    if best not in (min(done), max(done)):
        return []
    return [float(f"{best * (3 if best == max(done) else 1 / 3):.1g}")]


def tried_rates(trials: Iterable[Trial], plain: Recipe) -> list[Trial]:
    """The rates so far, of this very baseline: under a clock, another pace may have given it another batch size."""
    every = [trial for trial in trials if trial.kind == "baseline"]
    return [t for t in every if t.built == plain.replace(optimizer={"lr": t.built.optimizer.lr})] or every


def findings_of(bench: Bench, baseline: Recipe) -> list[str]:
    """What held the baseline back when it was chosen, seen from inside where its run is at hand; a resumed study keeps it."""
    for trial in bench.state.of("baseline"):
        if trial.built == baseline and not bench.state.lots:
            run = bench.runs.get(trial.index)
            if run is None and bench.state.confirmed:
                break  # the baseline of a study that goes on, and what was seen of it then
            late = bench.account.timed and bench.account.spent >= bench.until(budget_split.SEARCH)
            bench.state.findings = trial.findings if run is None or late else bench.diagnosed(run).names
            bench.keep()
    return bench.state.findings


def divergence_error(rates: Iterable[float]) -> ProblemError:
    """The error for a baseline that learns nothing at any rate."""
    return ProblemError(
        f"Plain training diverged in its first epoch, at every learning rate tried ({listed(f'{r:g}' for r in rates)}): "
        "the cost is NaN or infinite. Look for NaN and huge values in inputs and targets, and for logarithms and divisions "
        "in model and loss."
    )
