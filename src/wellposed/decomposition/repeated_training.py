"""Recipes trained again and again on samples of the rows: how they are named, varied, trained and written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.core.errors import InputError, WellposedError
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job, NotBegun, Outcome, interrupted
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe, chargeables
from wellposed.training.history import Stopped
from wellposed.training.problem import Problem
from wellposed.training.run import Run

Recipes = Recipe | str | Path | Sequence[Recipe | str | Path] | Mapping[str, Recipe | str | Path]
Vary = str | Callable[[Recipe, float], Recipe]

PROBE_ROWS = 2000
"""Rows of either side that an epoch is judged by: their mean is known to a few percent of its spread, and runs are many."""
LESS_IS_STRONGER = ("epochs", "stopping.patience", "clip")
"""Of these the smaller number regularizes more, as of every bound."""
WHOLE = (Stopped.EPOCHS, Stopped.PATIENCE, Stopped.DIVERGED)
"""How a run stops that was not cut off: the others were trained less than their recipe says."""


def recipes_by_name(recipes: Recipes) -> dict[str, Recipe]:
    """The recipes by name: that of the mapping, the preset's, or ``recipe 1``, ``recipe 2``, ... in their order."""
    if isinstance(recipes, Mapping):
        found = {str(name): as_recipe(recipe) for name, recipe in recipes.items()}
    else:
        several = [recipes] if isinstance(recipes, (Recipe, str, Path)) else list(recipes)
        names = [str(one) if isinstance(one, (str, Path)) else f"recipe {i + 1}" for i, one in enumerate(several)]
        if len(set(names)) < len(names):
            raise InputError("Two recipes have the same name. Give a mapping from a name of yours to each recipe.")
        found = {name: as_recipe(recipe) for name, recipe in zip(names, several, strict=True)}
    if not found:
        raise InputError("There is no recipe. Give at least one, such as wp.Recipe() or 'baseline'.")
    return found


def with_amount(recipe: Recipe, vary: Vary, value: float) -> Recipe:
    """The recipe with one amount set.

    Args:
        vary: ``"terms.l2"`` sets the strength of that penalty, which is added where the recipe has none of it, and
            ``"terms.max_norm"`` the bound of that constraint, which infinity takes out; ``"epochs"``, ``"noise.dropout"`` or any
            other key sets that; a function is called with recipe and value.
    """
    if callable(vary):
        return vary(recipe, value)
    section, _, key = vary.partition(".")
    if section == "terms" and key:
        terms = [dict(term) for term in recipe.model_dump()["terms"]]
        mine = [term for term in terms if term["penalty"] == key]
        amount = "bound" if is_bound(vary) else "strength"
        if amount == "bound" and value == math.inf:
            return recipe.replace(terms=[term for term in terms if term not in mine])
        for term in mine:
            term[amount] = value
        return recipe.replace(terms=terms if mine else [*terms, {"penalty": key, amount: value}])
    if key or section in Recipe.model_fields:
        return recipe.replace(**{section: {key: value} if key else value})
    raise InputError(
        f"There is nothing {vary!r} in a recipe that could be varied. Write 'terms.l2', 'noise.dropout', 'optimizer.lr', or "
        "give a function of a recipe and a number that returns a recipe."
    )


def is_bound(vary: str) -> bool:
    """Whether that is a constraint with a bound, ``"terms.max_norm"``, and not a penalty with a strength."""
    section, _, key = vary.partition(".")
    known = chargeables() if section == "terms" else {}
    taken = {one.name for one in fields(known[key])} if key in known else set()  # type: ignore[arg-type]
    return "bound" in taken and "strength" not in taken


def weakest_first(vary: Vary, values: Sequence[float]) -> list[float]:
    """The numbers, each once, from the weakest regularization to the strongest.

    As a rule the smallest is the weakest. Of a bound, of epochs and of a patience it is the largest, and of a patience and
    of clipping 0 before all others, which is none at all. Of a function's numbers it is the smallest.
    """
    rising = sorted({float(value) for value in values})
    if callable(vary) or not (is_bound(vary) or vary in LESS_IS_STRONGER):
        return rising
    off = [value for value in rising if value == 0 and not is_bound(vary)]
    return [*off, *(value for value in reversed(rising) if value not in off)]


def amount_of(value: float) -> str:
    """A strength as a word: a bound that is infinite is none."""
    return "none" if value == math.inf else f"{value:g}"


def train_complete(problem: Problem, jobs: Sequence[Job], **settings: Any) -> tuple[dict[int, Run], bool]:
    """The runs that were trained as their recipes say, by the job's place; and whether Ctrl-C ended others.

    Args:
        settings: of `train_jobs`.
    """
    told: dict[int, Outcome] = {}
    stopped = False
    try:
        train_jobs(problem, jobs, **settings, done=told.__setitem__)
    except KeyboardInterrupt:  # what had ended was told
        stopped = True
    for _, outcome in sorted(told.items(), key=lambda item: item[0]):
        if isinstance(outcome, WellposedError) and not isinstance(outcome, NotBegun):
            raise outcome
    runs = {i: run for i, run in told.items() if isinstance(run, Run) and run.stopped in WHOLE}
    return runs, stopped or any(map(interrupted, told.values()))


def evaluated_on(problem: Problem, on: str | None) -> str:
    """``test`` where the problem has such rows, else ``valid``; or what is asked for."""
    there = problem.prepared.test is not None
    if on not in (None, "test", "valid") or (on == "test" and not there):
        raise InputError(
            f"The problem has no {on!r} rows to evaluate on. Use on='valid'{', or test' if there else ''}."
        )
    return on or ("test" if there else "valid")


def rows_on(problem: Problem, on: str) -> tuple[Any, Tensor, Tensor | None]:
    """The source of those rows, their targets, and how much each counts."""
    source = problem.prepared.test if on == "test" else problem.prepared.valid
    assert source is not None
    target = source.targets()
    if target is None:  # items of a Dataset, fetched in order
        found = [source.batch(part)[1] for part in torch.split(torch.arange(len(source)), 1024)]
        if not all(isinstance(part, Tensor) for part in found):
            raise InputError("A decomposition needs targets that are one tensor. Give targets as numbers.")
        target = torch.cat(found)
    return source, target, source.weight


def ends_of(found: Any) -> dict[str, float]:
    """An estimate and its interval as data; empty for None."""
    return {} if found is None else {name: getattr(found, name) for name in ("estimate", "low", "high")}


def format_interval(found: Any) -> str:
    """``0.512 [0.490, 0.534]``: two digits of half the interval's width, since more say nothing."""
    estimate, low, high = found.estimate, found.low, found.high
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0):
        return f"{estimate:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    if decimals > 6:
        return f"{estimate:.3g} [{low:.3g}, {high:.3g}]"
    return f"{estimate:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
