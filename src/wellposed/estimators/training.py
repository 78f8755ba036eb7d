"""From encoded rows to networks: which rows are held out from which, and with which recipes they are trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.core.errors import TrainingError
from wellposed.data.arrays import Arrays
from wellposed.data.data import Data, Prepared
from wellposed.data.splits import folds, split
from wellposed.parallel.executors import fit_many
from wellposed.recipe.presets import PRESETS
from wellposed.recipe.recipe import Recipe
from wellposed.search.holdout import plain_recipe
from wellposed.training.checkpoint import Saved
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import TableMLP

VALID = 0.2
"""Share of the rows that are held out where they are held out once: by time, or of very many rows."""
MANY = 100_000
"""From so many rows on they are held out once: a network more costs more than a fifth of the rows is worth."""

LEAST_SECONDS = 2.0
"""That a part is given where the clock has run out before it began: a late answer is better than none."""

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Encoded rows: inputs ``(rows, features)``, classes ``(rows,)`` or scaled numbers ``(rows, targets)``, and weights."""

    x: Tensor
    y: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def at(self, index: Indices) -> EncodedRows:
        """The rows at ``index``, in that order."""
        places = torch.from_numpy(np.asarray(index))
        return EncodedRows(self.x[places], self.y[places], None if self.weight is None else self.weight[places])

    @property
    def counts(self) -> Tensor:
        """``(rows,)`` how much each row counts, in double precision."""
        return torch.ones(len(self), dtype=torch.float64) if self.weight is None else self.weight.double()

    @property
    def source(self) -> Arrays:
        """As a problem takes them."""
        return Arrays(self.x, self.y, self.weight)


@dataclass(frozen=True, eq=False)
class HeldPart:
    """Rows held out from networks, and what gives the rows that these learn from."""

    learned: Callable[[], EncodedRows]
    held: EncodedRows


def untuned(rows: int) -> Recipe:
    """The recipe of budget ``"0"``: AdamW with a cosine, light decay and dropout, averaged weights; batches by the rows."""
    return PRESETS["steady"].recipe.replace(batch_size=plain_recipe(rows).batch_size)


def held_out(
    count: int, members: int, seed: int, classes: Any = None, groups: Any = None, times: Any = None, copies: Any = None
) -> list[tuple[Indices, Indices]]:
    """The rows that a network learns from and those held out from it, in turn; a single pair where they are held out once.

    Args:
        count: rows, >= 2.
        members: networks, >= 1.
        classes, groups, times, copies: ``(rows,)`` each, or None; see `wellposed.data.splits.split`.
    Raises:
        DataError: there are not two groups, or not two times.
    """
    if groups is None and copies is not None:
        kinds = 1 if classes is None else len(np.unique(classes))
        if len(np.unique(copies)) < 2 * kinds:
            copies = None  # hardly any two rows differ, and copies kept together could not be held out
    if times is not None or members == 1 or count >= MANY:
        return [split(count, VALID, seed=seed, target=classes, groups=groups, time=times, duplicates=copies)]
    units = min(len(np.unique(ids)) for ids in (groups, copies, np.arange(count)) if ids is not None)
    parts = folds(count, max(2, min(members, units)), seed=seed, target=classes, groups=groups, duplicates=copies)
    return [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in np.unique(parts)]


def train(
    parts: Sequence[HeldPart],
    recipes: Sequence[Recipe],
    members: int,
    seed: int,
    loss: Any,
    outputs: int,
    device: str = "auto",
    deadline: float = math.inf,
) -> list[dict[str, list[Saved]]]:
    """For each part the networks of each recipe, by its TOML; where there is one part, of each of ``members`` seeds.

    Args:
        outputs: of a network.
        deadline: a value of ``time.monotonic()``; parts that have not begun by then are left out, but for the first.
    Raises:
        TrainingError: every network diverged, or none had begun by the deadline.
    """
    found: list[dict[str, list[Saved]]] = []
    begun = 0
    for place, part in enumerate(parts):
        now = time.monotonic()
        if found and now >= deadline:
            break
        problem = PartOfRows(part.learned(), part.held, loss, outputs)
        seeds = range(seed, seed + members) if len(parts) == 1 else [seed + place]
        ends = now + max((deadline - now) / (len(parts) - place), LEAST_SECONDS)
        runs = fit_many(problem, recipes, seeds=list(seeds), device=device, deadline=ends)
        begun += len(runs)
        found.append({})
        for run in runs:
            if all(bool(weight.isfinite().all()) for weight in run.model.state_dict().values()):
                found[-1].setdefault(run.recipe.to_toml(), []).append(Saved.of(run))
    if not begun:
        raise TrainingError("The budget was over before a network had begun to learn. Give more time.")
    if not any(found):
        raise TrainingError(
            "Training diverged: the networks' weights are no numbers. Look for huge values in the columns and in the target."
        )
    return found


class PartOfRows(Problem):
    """A perceptron for encoded rows, with an output also for a class that none of these rows has."""

    def __init__(self, learned: EncodedRows, held: EncodedRows, loss: Any, outputs: int) -> None:
        classifies = not learned.y.is_floating_point()
        data = Data(learned.source, held.source, task="classification" if classifies else "regression")
        super().__init__(TableMLP(), loss, data, metric="accuracy" if classifies else "mae")
        self.outputs = outputs

    @cached_property
    def prepared(self) -> Prepared:
        """The data, and how many outputs they need."""
        return replace(super().prepared, outputs=self.outputs)
