"""What a regularizer is worth, in training rows: how many the recipe without it would need to do as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellposed.core.checks import Count, checked
from wellposed.core.errors import InputError
from wellposed.core.files import jsonable
from wellposed.core.random import numpy_generator
from wellposed.decomposition.learning_curve import SIZES, LearningCurve, learning_curve
from wellposed.decomposition.variance_components import LEVEL
from wellposed.penalties.base import Term
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.intervals import Array
from wellposed.training.problem import Problem

UNCHANGED, CHANGED = "without", "with"
RESAMPLES = 2000
"""Of rows and draws together, for the interval: its ends then move by about a hundredth from seed to seed."""


@dataclass(frozen=True)
class Price:
    """How many times the training rows a change is worth: ``ratio``, with ``low`` and ``high`` as its 95 % interval.

    Attributes:
        ratio: rows that the recipe without the change needs, over the rows with it, at equal loss; above 1 the change helps.
        rows: with the change, at which the two were compared: the most, up to half of all, whose loss the recipe without it still
            reaches.
        curve: both learning curves.
    """

    ratio: float
    low: float
    high: float
    rows: int
    curve: LearningCurve

    @property
    def shown(self) -> bool:
        """Whether the change is shown to be worth more rows: ``low`` is above 1."""
        return self.low > 1.0

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON; an end that is not known is None."""
        numbers = {name: getattr(self, name) for name in ("ratio", "low", "high", "rows", "shown")}
        found: dict[str, Any] = jsonable({**numbers, "curve": self.curve.to_dict()})
        return found

    def __str__(self) -> str:
        high = "more than can be seen" if math.isinf(self.high) else f"{self.high:.3g}"
        between = f"({self.low:.3g} to {high}, at {self.rows} rows, {self.curve.draws} draws)"
        if self.shown:
            return f"The change is worth {self.ratio:.3g} times the rows {between}."
        if self.high < 1.0:
            return f"The change costs: it does as well as {self.ratio:.3g} of the rows without it {between}."
        return f"Not shown: the change does as well as {self.ratio:.3g} times the rows {between}."


@checked
def price(
    problem: Problem,
    change: Recipe | Mapping[str, Any] | Term | Sequence[Term],
    recipe: Recipe | str | Path = "baseline",
    *,
    sizes: Sequence[float] = SIZES,
    repeats: Count = 5,
    on: str | None = None,
    engine: str = "auto",
    device: str | torch.device = "auto",
    deadline: float = math.inf,
) -> Price:
    """How many times the training rows a change of the recipe is worth, from learning curves with and without it.

    Nothing is extrapolated: the loss with the change on ``n`` rows is looked for on the curve without it, between the sizes that
    were trained. The interval resamples rows and draws together.

    Args:
        change: a recipe; what to change of ``recipe`` (``{"noise": {"dropout": 0.3}}``); or terms to add to it.
        recipe: without the change.
        sizes, repeats, on, engine, device, deadline: as of `learning_curve`.
    Raises:
        InputError, RecipeError: the change is none, or sizes that cannot be.
        TrainingError: fewer than two draws were trained at every size.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(200, 30)
        >>> y = x[:, :1] + torch.randn(200, 1)
        >>> problem = wp.Problem(lambda: torch.nn.Linear(30, 1), "mse", wp.Data(train=(x, y), valid=0.5))
        >>> base = wp.Recipe(epochs=60, batch_size=20, optimizer={"lr": 0.02}, stopping={"keep": "last", "patience": 0})
        >>> wp.price(problem, wp.L2(0.3).on(), base, repeats=3).ratio > 1
        True
    """
    base = as_recipe(recipe)
    if not isinstance(change, (Recipe, Mapping)):
        terms = [change] if isinstance(change, Term) else list(change)
        if not terms:
            raise InputError("change is an empty list of terms, which changes nothing; give at least one term.")
        change = {"terms": [*base.terms, *terms]}
    several = {UNCHANGED: base, CHANGED: change if isinstance(change, Recipe) else base.replace(**change)}
    return price_of(
        learning_curve(
            problem, several, sizes=sizes, repeats=repeats, on=on, engine=engine, device=device, deadline=deadline
        )
    )


def price_of(curve: LearningCurve) -> Price:
    """What the curve ``with`` is worth against the curve ``without``."""
    levels = [curve.curve(name).levels for name in (UNCHANGED, CHANGED)]
    without, changed = (np.stack([level.table for level in several]) for several in levels)  # (sizes, rows, draws)
    counts = np.array([level.rows for level in levels[1]], dtype=np.float64)
    plain, better = _falling(without), _falling(changed)
    # Up to half of all, so that twice the rows could be seen.
    reached = np.flatnonzero((better >= plain.min()) & (counts <= counts[-1] / 2))
    at = int(reached[-1]) if len(reached) else 0
    ratio = _rows_for(counts, plain, better[at]) / _rows_for(counts[: at + 1], better[: at + 1], better[at])
    source = numpy_generator(0, "price")
    rows, draws = without.shape[1:]
    ratios = np.empty(RESAMPLES)
    for one in range(RESAMPLES):
        picked = np.ix_(source.integers(rows, size=rows), source.integers(draws, size=draws))
        drawn = [_falling(table[:, picked[0], picked[1]]) for table in (without, changed[: at + 1])]
        wanted = drawn[1][-1]
        ratios[one] = _rows_for(counts, drawn[0], wanted) / _rows_for(counts[: at + 1], drawn[1], wanted)
    low, high = (float(np.quantile(ratios, p)) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    beyond = high >= counts[-1] / counts[at] * (1 - 1e-9)  # the curve without the change ends there
    return Price(ratio, low, math.inf if beyond else high, int(counts[at]), curve)


def _falling(table: Array) -> Array:
    """The mean loss at each size, or that of fewer rows where it was lower: who has more rows may leave some out."""
    found: Array = np.minimum.accumulate(table.mean((1, 2)))
    return found


def _rows_for(counts: Array, falling: Array, wanted: float) -> float:
    """The fewest rows with which a falling curve reaches a loss, on a logarithmic scale; its ends where it is beyond them."""
    at = int(np.argmax(falling <= wanted)) if falling[-1] <= wanted else len(counts) - 1
    if at == 0 or falling[at] >= falling[at - 1]:
        return float(counts[at])
    share = (falling[at - 1] - max(wanted, falling[at])) / (falling[at - 1] - falling[at])
    return float(counts[at - 1] ** (1.0 - share) * counts[at] ** share)
