"""The pace of a study under a clock: how fast a recipe trains, on how many threads, and how many epochs fit its share."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from wellposed.core.errors import ProblemError, WellposedError
from wellposed.core.random import untouched
from wellposed.noise.activations import dropout_from_streams
from wellposed.recipe.recipe import Recipe
from wellposed.search.budget import Account
from wellposed.training.loop import Training
from wellposed.training.problem import Problem

FEWEST_EPOCHS, MOST_EPOCHS = 12, 300
"""The search trains on fewer rows if a run would have fewer epochs than this; small data need no more than that."""
PLAIN_EPOCHS = 100
"""Epochs of a run at most, without a clock."""
EPOCH_RUNS = 30
"""A budget in epochs is spread over so many recipes."""
FEWEST_ROWS = PROBE_ROWS = 1000
SHORT_STEP = 0.003
"""Seconds of a step below which one thread is as fast as two on a quiet machine, and far faster on a busy one."""
STEPS = 6
"""Steps that are timed; the median is taken."""
STALLED = 2.0
"""A run that takes so many times what was planned says that the machine has changed: speeds are measured anew."""


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, of an epoch's evaluation and of evaluating one row, and the threads they were measured with."""

    step: float
    rest: float
    row: float
    threads: int


class Pace:
    """Plans the epochs of a study's runs.

    Args:
        problem, device: what is trained, and where.
        account: the budget; only under a clock is anything measured.
    """

    def __init__(self, problem: Problem, account: Account, device: torch.device) -> None:
        self.problem, self.account, self.device = problem, account, device
        self._speeds: dict[tuple[Any, ...], Speed] = {}

    def speed(self, recipe: Recipe, rows: int | None = None) -> Speed:
        """Measured on a few steps of this very recipe, with one thread and, where steps are long, with all of them.

        Several threads pay for large networks; on a busy machine they wait for each other, many times longer, and for short
        steps that costs more than it can gain.
        """
        noise = recipe.noise
        sizes = (
            noise.dropout,
            noise.input,
            noise.cutout,
            noise.mixup,
            noise.cutmix,
            noise.gradient,
            recipe.averaging.ema,
        )
        switched = tuple(bool(x) for x in (*sizes, recipe.clip, recipe.sharpness.radius, recipe.lookahead.every))
        places = (recipe.accumulate, *(place.kind for place in noise.places))
        kinds = tuple((term.penalty, term.how) for term in recipe.terms)
        key = (repr(sorted(recipe.model.items())), recipe.batch_size, recipe.optimizer.name, switched, places, kinds)
        if key not in self._speeds:
            several = torch.get_num_threads() if self.device.type == "cpu" else 1
            probe = self.probe_rows(rows or 4 * FEWEST_ROWS)
            alone = self._measured(recipe, probe, 1)
            long = several > 1 and alone.step > SHORT_STEP
            together = self._measured(recipe, probe, several) if long else alone
            self._speeds[key] = min(alone, together, key=lambda speed: speed.step)
        return self._speeds[key]

    def _measured(self, recipe: Recipe, probe_rows: int | None, threads: int) -> Speed:
        try:
            with threads_of(threads):
                return Speed(*measured(self.problem, recipe, self.device, probe_rows), threads)
        except WellposedError:
            raise
        except Exception as error:
            raise ProblemError(f"The model cannot be trained: {type(error).__name__}: {error}.") from error

    def threads(self, recipe: Recipe) -> int:
        """The threads to train the recipe with; without a clock those that torch has, so that a study can be repeated."""
        return self.speed(recipe).threads if self.account.timed else torch.get_num_threads()

    def took(self, planned: float, seconds: float) -> None:
        """A run took so long; far beyond the plan, what was measured no longer holds."""
        if seconds > STALLED * planned:
            self._speeds.clear()

    def probe_rows(self, rows: int) -> int | None:
        """Under a clock, watching must not cost more than training: half of the training rows, at least 1000."""
        return max(PROBE_ROWS, rows // 2) if self.account.timed else None

    def planned(self, recipe: Recipe, rows: int, share: float) -> tuple[Recipe, int]:
        """The recipe with as many epochs as its share of the budget allows, and on how many rows.

        Without a clock the number of epochs is fixed, so that a study can be repeated exactly.
        """
        budget = self.account.budget
        if budget.unit == "epochs" and not budget.none:
            return with_epochs(recipe, max(1, min(PLAIN_EPOCHS, round(budget.amount / EPOCH_RUNS)))), rows
        if not self.account.timed:
            return with_epochs(recipe, PLAIN_EPOCHS), rows
        speed = self.speed(recipe, rows)
        seconds = share * budget.amount
        steps = seconds / speed.step
        if steps / math.ceil(rows / recipe.batch_size) < FEWEST_EPOCHS / 4:
            rows = max(min(FEWEST_ROWS, rows), min(rows, int(steps / (FEWEST_EPOCHS / 4) * recipe.batch_size)))
        epoch = math.ceil(rows / recipe.batch_size) * speed.step + speed.rest
        return with_epochs(recipe, max(1, min(MOST_EPOCHS, int(seconds / epoch)))), rows

    def affordable_rows(self, recipe: Recipe, share: float) -> int:
        """Training rows with which the recipe has `FEWEST_EPOCHS` epochs in its share, at least `FEWEST_ROWS`."""
        speed = self.speed(recipe)
        each = share * self.account.budget.amount / FEWEST_EPOCHS
        return max(FEWEST_ROWS, int(max(1.0, (each - speed.rest) / speed.step) * recipe.batch_size))


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with that many epochs, and patience for a fifth of them; what a recipe itself says is kept as a limit."""
    plain = Recipe()
    if recipe.epochs != plain.epochs:
        epochs = min(epochs, recipe.epochs)
    if recipe.stopping != plain.stopping:
        return recipe.replace(epochs=epochs)
    return recipe.replace(epochs=epochs, stopping={"patience": max(10, epochs // 5)})


def measured(
    problem: Problem, recipe: Recipe, device: torch.device, probe_rows: int | None
) -> tuple[float, float, float]:
    """The median of a few steps, an evaluation, and its part for one row, of a model that is thrown away."""
    with untouched():
        training = Training.begin(problem, recipe, 0, device, math.inf, None, probe_rows)
        training.model.train()
        times = []
        with dropout_from_streams(training.model, training.streams):
            for index in list(training.batches(0))[:STEPS]:
                began = time.perf_counter()
                training.step(0, index)
                times.append(time.perf_counter() - began)
        began = time.perf_counter()
        training.record({"epoch": 0}, began)
        rest = time.perf_counter() - began
    return sorted(times)[len(times) // 2], rest, rest / sum(len(probe) for probe in training.probes)


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
