"""What each ingredient of the best recipe is worth, on validation rows, and the simplest recipe that is not shown to be behind.

Pairs of runs with equal seeds, with and without one ingredient, all trained together. The rows are those that the recipe was
chosen on, and the seeds are new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wellposed.core.clock import enter_stage
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.ingredients import FixedPart, Ingredient, contents
from wellposed.search.runner import Bench
from wellposed.search.timing import with_epochs
from wellposed.statistics.intervals import Interval, holm, paired_interval
from wellposed.training.history import Stopped

LEVEL = 0.95
PAIRS = (2, 5)
"""Pairs of runs for each ingredient: at least, and at most."""
SEEDS = 2000
"""The ablation's seeds begin so far from the study's own."""
SHORTEST = 16
"""Epochs from which a run may have half of them, where the time is not enough for whole ones."""
CHAIN = 0.8
"""Of the time that is left, what the pairs may take; the rest is for recipes without several ingredients."""


@dataclass(frozen=True)
class Worth:
    """What one ingredient is worth: the gain of having it, and the recipe without."""

    ingredient: Ingredient | FixedPart
    without: Recipe
    interval: Interval

    def told(self) -> dict[str, Any]:
        """What ``study.json`` keeps of it."""
        numbers = {key: getattr(self.interval, key) for key in ("estimate", "low", "high", "level", "pairs")}
        return {"ingredient": self.ingredient.name, **numbers}


@dataclass
class Ablation:
    """What each ingredient is worth, the most valuable first, the simplest recipe within one standard error, and what several
    ingredients are worth over one."""

    worths: list[Worth] = field(default_factory=list)
    simplest: dict[str, Any] | None = None
    cocktail: dict[str, Any] | None = None


def ablation(bench: Bench, baseline: Recipe, best: Recipe, epochs: int, rows: int | None) -> Ablation:
    """Take the best recipe apart.

    Args:
        epochs, rows: of a run, as in the confirmation.
    """
    found = Ablation()
    inside = contents(best, baseline)
    if bench.interrupted or not inside:
        return found
    enter_stage("ablation")
    without = [one.removed(best) for one in inside]
    pairs = affordable_pairs(bench, [best, *without], epochs, rows)
    if pairs < PAIRS[0] and bench.account.timed and epochs >= SHORTEST:
        epochs = math.ceil(epochs / 2)
        pairs = affordable_pairs(bench, [best, *without], epochs, rows)
    if pairs < PAIRS[0]:
        bench.notes.append(
            f"What each of the {len(inside)} ingredients of the best recipe is worth was not measured: the budget leaves less "
            f"than {PAIRS[0]} pairs of runs for each."
        )
        return found
    full, *others = scores(bench, [best, *without], epochs, rows, pairs)
    if len(full) < pairs:
        bench.notes.append("The ablation was cut before its runs had ended; it is left out.")
        return found
    arrays = {one.name: theirs for one, theirs in zip(inside, others, strict=True)}
    judged = holm(
        {name: np.stack([*np.subtract(full, a)], axis=1) for name, a in arrays.items() if len(a) == pairs}, LEVEL
    )
    recipes = zip(inside, without, strict=True)
    found.worths = [Worth(one, recipe, judged[one.name]) for one, recipe in recipes if one.name in judged]
    found.worths.sort(key=lambda worth: worth.interval.estimate, reverse=True)
    measured = Measured(bench, best, found.worths, full, arrays, epochs, rows)
    found.simplest = simplest(measured)
    if len(found.worths) == len(inside):  # else the recipe with one of them has others, too
        found.cocktail = cocktail(measured)
    return found


@dataclass(frozen=True)
class Measured:
    """What was measured with equal seeds, and the means to measure more.

    Attributes:
        worths: of the ingredients, the most valuable first.
        full: what each validation row adds to the score of the whole recipe, seed by seed.
        without: the same without each ingredient, by its name.
        epochs, rows: of a run.
    """

    bench: Bench
    best: Recipe
    worths: list[Worth]
    full: list[np.ndarray]
    without: dict[str, list[np.ndarray]]
    epochs: int
    rows: int | None

    def also(self, recipes: Sequence[Recipe]) -> list[list[np.ndarray]]:
        """The same of other recipes, of each that ended with all seeds; of none where the time is not enough for all."""
        pairs = len(self.full)
        if affordable_pairs(self.bench, recipes, self.epochs, self.rows, share=1.0, fewest=pairs) < pairs:
            return [[] for _ in recipes]
        found = scores(self.bench, recipes, self.epochs, self.rows, pairs)
        return [theirs if len(theirs) == pairs else [] for theirs in found]


def cocktail(measured: Measured) -> dict[str, Any] | None:
    """How much better all ingredients are than the most valuable one alone; None where there is one, or no time for it.

    Model, optimizer, schedule and batch size are those of the recipe on both sides.
    """
    several = [worth.ingredient for worth in measured.worths if isinstance(worth.ingredient, Ingredient)]
    if len(several) < 2:
        return None
    first, *others = several
    recipe = measured.best
    for one in others:
        recipe = one.removed(recipe)
    alone = measured.without[others[0].name] if len(others) == 1 else measured.also([recipe])[0]
    if not alone:
        return None
    found = gain(measured.full, alone)
    numbers = {key: getattr(found, key) for key in ("estimate", "low", "high", "level", "pairs")}
    return {"alone": first.name, "others": [one.name for one in others], **numbers}


def simplest(measured: Measured) -> dict[str, Any] | None:
    """The recipe without the most ingredients that is within one standard error of the best; None where each is needed.

    Ingredients whose gain is within one standard error of nothing are left out one after another, the least valuable first, and
    each recipe so made is trained with the same seeds. The best of them may be better than the recipe they come from.
    """
    full = measured.full
    idle = [worth for worth in reversed(measured.worths) if worth.interval.estimate <= worth.interval.standard_error]
    if not idle:
        return None
    chain = [measured.best, idle[0].without]
    for worth in idle[1:]:
        chain.append(worth.ingredient.removed(chain[-1]))
    tried = {0: full, 1: measured.without[idle[0].ingredient.name]}
    later = chain[2:]
    if later:
        tried |= {place: theirs for place, theirs in enumerate(measured.also(later), 2) if theirs}
    top = max(tried, key=lambda place: float(np.mean(tried[place])))
    behind = {place: gain(tried[top], theirs) for place, theirs in tried.items()}
    place = max(place for place, lost in behind.items() if place == top or lost.estimate <= lost.standard_error)
    if place == 0:
        return None
    found = gain(tried[place], full)
    return {
        "recipe": chain[place].to_toml(),
        "describe": chain[place].describe(),
        "without": [worth.ingredient.name for worth in idle[:place]],
        "difference": found.estimate,
        **{key: getattr(found, key) for key in ("low", "high", "level", "pairs")},
        "standard_error": found.standard_error,
    }


def gain(full: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Interval:
    """How much better the full recipe is, with its interval."""
    return paired_interval(np.stack([*np.subtract(full, theirs)], axis=1), LEVEL)


def affordable_pairs(
    bench: Bench, recipes: Sequence[Recipe], epochs: int, rows: int | None, share: float = CHAIN, fewest: int = 1
) -> int:
    """How many runs of each recipe fit: under a clock in what is left of it, else in as many runs as the search had."""
    if not bench.account.timed:
        tried = len(bench.state.of("baseline", "search"))
        return fewest if share == 1.0 else min(PAIRS[1], tried // len(recipes))
    left = bench.seconds_until(budget_split.ABLATION, share)
    each = bench.pace.seconds("ablation", list(recipes), epochs, rows or bench.total)
    return max(0, min(PAIRS[1], int(left / max(each, 1e-9))))


def scores(
    bench: Bench, recipes: Sequence[Recipe], epochs: int, rows: int | None, pairs: int
) -> list[list[np.ndarray]]:
    """What each validation row adds to the score, of each recipe with each seed; fewer where a run failed or was cut."""
    seeds = [SEEDS + bench.seed + number for number in range(pairs)]
    lot = [bench.planned("ablation", recipe, with_epochs(recipe, epochs), seed) for recipe in recipes for seed in seeds]
    runs = bench.train("ablation", lot, rows, ends=bench.until(budget_split.ABLATION))
    found: list[list[np.ndarray]] = [[] for _ in recipes]
    for place, run in enumerate(runs):
        if run is not None and run.stopped != Stopped.BUDGET:
            rows_of = run.row_scores("valid")
            found[place // pairs] += [rows_of] if np.isfinite(rows_of).all() else []
    return found
