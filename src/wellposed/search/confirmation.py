"""The confirmation: pairs of runs of baseline and best with equal new seeds, and one look at rows that the search never touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from wellposed.bayes.calibration import FEWEST, calibration
from wellposed.core.clock import CONFIRMATION, enter_stage
from wellposed.decomposition.error_budget import least_seconds
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.ablation import CHAIN
from wellposed.search.ablation import PAIRS as ABLATED
from wellposed.search.baseline import divergence_error
from wellposed.search.finalists import fewer_rows
from wellposed.search.ingredients import contents
from wellposed.search.references import References
from wellposed.search.runner import Bench
from wellposed.search.timing import MOST_EPOCHS, with_epochs
from wellposed.statistics.intervals import ALPHA, Interval, holm, look_level, of_itself, paired_interval
from wellposed.study.fingerprint import digest_of_test_rows
from wellposed.study.ranking import ended_usable
from wellposed.training.history import Stopped
from wellposed.training.run import Run

PAIRS = (4, 5, 10, 20)
"""Pairs of confirmation runs: planned for where runs are long, without a clock, at most, and at most where nothing follows them."""
SEEDS = 1000
"""The confirmation's seeds begin so far from the study's own: nothing was chosen by them."""
LONGER = 2.0
"""How many times the search's epochs a confirmation run may have, where there is time."""
FEWEST_EPOCHS = 3

Pair = tuple[Run, Run]


@dataclass
class Confirmed:
    """What the confirmation on untouched rows found.

    Attributes:
        baseline, best: that were compared; equal where nothing beat the baseline, or the best diverged.
        pairs: of runs, baseline first. Those that the clock cut are among them only where there is no whole one.
        tested: what each test row adds to the scores of each pair.
        interval: None where nothing was looked at, or no pair is whole.
        looks: at these rows, this one included; 0 where nothing was looked at.
        epochs, rows: that a run had.
    """

    baseline: Recipe
    best: Recipe
    pairs: list[Pair] = field(default_factory=list)
    tested: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    interval: Interval | None = None
    looks: int = 0
    epochs: int = 0
    rows: int | None = None


@dataclass(frozen=True)
class ConfirmationPlan:
    """How many pairs at first, for how many epochs, on how many rows (None: all)."""

    pairs: int
    epochs: int
    rows: int | None


def confirm(bench: Bench, baseline: Recipe, best: Recipe, epochs: int) -> Confirmed:
    """Paired runs of both recipes, and one look at the test rows.

    Raises:
        ProblemError: without a search, the baseline diverged.
        TrainingError, InputError: a recipe cannot be trained.
    """
    enter_stage(CONFIRMATION)
    pair = [baseline] if baseline == best else [baseline, best]
    ours, theirs = bench.trained(baseline), bench.trained(best)
    if bench.account.timed and bench.account.spent >= budget_split.LATEST and ours is not None and theirs is not None:
        rows = min(len(run.problem.prepared.train) for run in (ours, theirs))
        part = "" if rows == bench.total else f", trained on {rows} of {bench.total} rows"
        bench.notes.append(f"There was no time for a confirmation: the runs of the search stand for it{part}.")
        found = Confirmed(baseline, best, [(ours, theirs)], epochs=epochs, rows=None if rows == bench.total else rows)
        look_at_test_rows(bench, found, whole=False)
        return found
    end, most = confirmation_ends(bench, pair, epochs)
    how = plan_pairs(bench, pair, epochs, end)
    if how.rows is not None:
        bench.notes.append(
            f"The confirmation trained on {how.rows} of {bench.total} training rows to stay within the budget."
        )
    pairs, cut = trained_pairs(bench, pair, how, 0, how.pairs)
    while bench.account.timed and not bench.interrupted and not cut:
        # Those so far have shown how long they take, and so how many more fit.
        scored = scoring(bench, pair)
        each = bench.pace.seconds("confirmation", pair, how.epochs, how.rows or bench.total) + scored
        more = min(most - len(pairs), int((bench.seconds_to(end) - len(pairs) * scored) / max(each, 1e-9)))
        later, cut = trained_pairs(bench, pair, how, len(pairs), max(0, more))
        if not later:
            break
        pairs += later
    if cut:
        bench.notes.append("A pair of confirmation runs was cut by the clock and does not count as evidence.")
    found = Confirmed(baseline, best, pairs or cut, epochs=how.epochs, rows=how.rows)
    if bench.account.budget.none and pairs and not ended_usable(pairs[0][0]):
        raise divergence_error([baseline.optimizer.lr])
    if found.pairs and not bench.interrupted:
        look_at_test_rows(bench, found, whole=bool(pairs))
    return found


def look_at_test_rows(bench: Bench, found: Confirmed, whole: bool) -> None:
    """Look at the test rows. A best recipe that diverged gives its place to the baseline."""
    scored = {id(run): run.row_scores("test") for pair in found.pairs for run in pair}
    tested = [(scored[id(ours)], scored[id(theirs)]) for ours, theirs in found.pairs]
    if any(np.isfinite(ours).all() and not np.isfinite(theirs).all() for ours, theirs in tested):
        bench.notes.append(
            f"The best recipe diverged in the confirmation, and the baseline is kept ({found.best.describe()})."
        )
        found.best = found.baseline
        found.pairs = [(ours, ours) for ours, _ in found.pairs]
        tested = [(ours, ours) for ours, _ in tested]
    found.tested = tested
    found.looks = count_look(bench)
    if whole:
        # Only a gain counts, so the error of a two-sided interval is one-sided: its level may use twice ALPHA.
        level = look_level(found.looks, 2.0 * ALPHA)
        if found.best == found.baseline:
            found.interval = of_itself(np.stack([scores for scores, _ in tested], axis=1), level)
        else:
            found.interval = paired_interval(np.stack([b - a for a, b in tested], axis=1), level)


def reliability(run: Run) -> dict[str, Any] | None:
    """How far a run's confidences are from the share that is right, on the rows of the confirmation, which were looked at.

    None where a row has no class of its own (several labels, tokens, probabilities), is left out or has a weight, or where there
    are too few rows.
    """
    test, loss = run.problem.prepared.test, run.problem.loss
    target = None if test is None else test.targets()
    if test is None or target is None or not loss.classifies or test.weight is not None or find_spec("scipy") is None:
        return None
    target = target.squeeze(1) if target.ndim == 2 and target.shape[1] == 1 else target
    outputs = loss.response(run.outputs(test).float())
    if target.ndim != 1 or outputs.ndim > 2 or len(target) < FEWEST or not bool(outputs.isfinite().all()):
        return None
    if not bool(((target >= 0) & (target == target.round())).all()):
        return None
    outputs = outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
    scores = torch.stack([torch.zeros_like(outputs), outputs], 1) if outputs.ndim == 1 else outputs
    return calibration(scores.double().softmax(1), target).to_dict()


def against_references(found: Confirmed, others: References) -> dict[str, Interval]:
    """How much better the best recipe's runs are on the test rows than each reference, all claims together judged at the level
    of the confirmation; empty where it has none."""
    if found.interval is None:
        return {}
    ours = np.stack([theirs for _, theirs in found.tested], axis=1)
    tables = {name: ours - rows[:, None] for name, rows in others.rows.items()}
    return holm({name: d for name, d in tables.items() if np.isfinite(d).all()}, found.interval.level)


def count_look(bench: Bench) -> int:
    """The number of this look at the test rows. It is written down before anything is shown; a process that was killed in
    between showed nothing, and its look is made again as the same."""
    state, rows = bench.state, digest_of_test_rows(bench.problem)
    if state.looking != rows:
        state.looks[rows] = state.looks.get(rows, 0) + 1
        state.looking = rows
        bench.keep()
    return state.looks[rows]


# --- plans


def plan_pairs(bench: Bench, pair: list[Recipe], epochs: int, end: float) -> ConfirmationPlan:
    """Without a clock five pairs; under one as many as fit until the share ``end``, and longer runs where more than ten would."""
    if not bench.account.timed:
        return ConfirmationPlan(PAIRS[1], epochs, None)
    left = max(0.0, bench.seconds_to(end)) - PAIRS[0] * scoring(bench, pair)
    each = bench.pace.seconds("confirmation", pair, epochs, bench.total)
    fit = int(left / max(each, 1e-9))
    if fit >= PAIRS[2]:
        longer = min(LONGER, left / (PAIRS[2] * each))
        return ConfirmationPlan(PAIRS[1], min(MOST_EPOCHS, int(longer * epochs)), None)
    if fit >= PAIRS[0]:
        return ConfirmationPlan(min(fit, PAIRS[1]), epochs, None)
    fewer, rows = fewer_rows(bench, "confirmation", pair * PAIRS[0], left, epochs)
    return ConfirmationPlan(PAIRS[0], max(fewer, min(FEWEST_EPOCHS, epochs)), rows)


def confirmation_ends(bench: Bench, pair: Sequence[Recipe], epochs: int) -> tuple[float, int]:
    """By which share of the budget the confirmation ends, and after how many pairs: before what follows, or where neither the
    ablation nor an error budget could be made in what is left then, so late that all is written in time."""
    if not bench.account.timed:
        return 1.0, PAIRS[1]
    ablated = len(pair) > 1 or bool(bench.kept_free)
    usual = bench.until((budget_split.CONFIRMATION if ablated else budget_split.ABLATION) - bench.kept_free)
    last = max(usual, budget_split.LATEST - bench.writing / bench.account.budget.amount)
    if bench.kept_free:
        return usual, PAIRS[2]
    recipes = [pair[-1]] * (1 + len(contents(pair[-1], pair[0]))) * ABLATED[0]
    ablation = bench.pace.seconds("ablation", recipes, epochs, bench.total)  # half of the epochs of runs twice as long
    if ablated and ablation <= CHAIN * (bench.seconds_to(bench.until(budget_split.ABLATION)) - bench.seconds_to(usual)):
        return usual, PAIRS[2]
    runs = [run for recipe in pair if (run := bench.trained(recipe)) is not None]
    budgets = (least_seconds(bench.problem, run.recipe, [run] * budget_split.TAKEN_APART) for run in runs)
    least = max(min(budgets, default=0.0), budget_split.ERROR_BUDGET)
    return (usual, PAIRS[2]) if least <= (last - usual) * bench.account.budget.amount else (last, PAIRS[3])


def scoring(bench: Bench, pair: Sequence[Recipe]) -> float:
    """Seconds in which the test rows of a pair are scored."""
    test = bench.problem.prepared.test
    return 0.0 if test is None else sum(bench.pace.scoring(recipe, len(test)) for recipe in pair)


# --- runs


def trained_pairs(
    bench: Bench, pair: list[Recipe], how: ConfirmationPlan, first: int, count: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs of runs with the seeds from ``first`` on, all trained together: whole ones, and those that the clock cut."""
    recipes = [with_epochs(recipe, how.epochs) for recipe in pair]
    seeds = [SEEDS + bench.seed + first + number for number in range(count)]
    lot = [bench.planned("confirmation", recipe, recipe, seed) for seed in seeds for recipe in recipes]
    ends = max(budget_split.LATEST, bench.account.spent + budget_split.GRACE) if bench.account.timed else math.inf
    runs = bench.train("confirmation", lot, how.rows, ends=ends)
    whole: list[Pair] = []
    cut: list[Pair] = []
    for place in range(0, len(runs), len(recipes)):
        ours, theirs = runs[place], runs[place + len(recipes) - 1]
        if ours is not None and theirs is not None:
            (cut if Stopped.BUDGET in (ours.stopped, theirs.stopped) else whole).append((ours, theirs))
    return whole, cut
