"""The pace of a study under a clock: how fast recipes train alone and together, and how many epochs of how many recipes fit."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
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
TILT = 0.8
"""Epochs for each recipe of the search: of ``J`` epochs that fit in all, each has ``sqrt(TILT * J)``."""
LEAST_FACTOR = 0.02
FEWEST_RECIPES = 20
"""With fewer recipes a search says little."""


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, of an epoch's evaluation and of evaluating one row, and the threads they were measured with."""

    step: float
    rest: float
    row: float
    threads: int


class Pace:
    """Plans the epochs of a study's runs.

    A lot takes ``factor * sum_j epochs_j * alone_j``: what an epoch of each recipe takes alone, times what training them together
    makes of it (1 for those that gain little). The factor is learned from the lots themselves, kind by kind, since halving ends
    the runs of the search early.

    Args:
        problem, device: what is trained, and where.
        account: the budget; only under a clock is anything measured.
    """

    def __init__(self, problem: Problem, account: Account, device: torch.device) -> None:
        self.problem, self.account, self.device = problem, account, device
        self.together, self.stacked = 1, False
        self._speeds: dict[tuple[Any, ...], Speed] = {}
        self._factors: dict[str, float] = {}
        self._last = 1.0

    # --- alone

    def speed(self, recipe: Recipe, rows: int | None = None) -> Speed:
        """Measured on a few steps of plain training with the recipe's model and batch size, with one thread and, where steps
        are long, with all of them.

        Several threads pay for large networks; on a busy machine they wait for each other, many times longer, and for short
        steps that costs more than it can gain.
        """
        key = (repr(sorted(recipe.model.items())), recipe.batch_size)
        if key not in self._speeds:
            plain = Recipe(model=recipe.model, batch_size=recipe.batch_size)
            several = torch.get_num_threads() if self.device.type == "cpu" else 1
            probe = self.probe_rows(rows or 4 * FEWEST_ROWS)
            alone = self._measured(plain, probe, 1)
            long = several > 1 and alone.step > SHORT_STEP
            both = self._measured(plain, probe, several) if long else alone
            self._speeds[key] = min(alone, both, key=lambda speed: speed.step)
        return self._speeds[key]

    def _measured(self, recipe: Recipe, probe_rows: int | None, threads: int) -> Speed:
        try:
            with threads_of(threads):
                return Speed(*measured(self.problem, recipe, self.device, probe_rows), threads)
        except WellposedError:
            raise
        except Exception as error:
            raise ProblemError(f"The model cannot be trained: {type(error).__name__}: {error}.") from error

    def check(self, recipe: Recipe) -> None:
        """Take a few steps of this very recipe, so that what cannot be trained is said early."""
        self._measured(recipe, PROBE_ROWS, 1)

    def epoch(self, recipe: Recipe, rows: int) -> float:
        """Seconds of an epoch alone. Sharpness takes each gradient twice."""
        speed = self.speed(recipe, rows)
        step = speed.step * (2.0 if recipe.sharpness.radius else 1.0)
        return math.ceil(rows / recipe.batch_size) * step + speed.rest

    def probe_rows(self, rows: int) -> int | None:
        """Under a clock, watching must not cost more than training: half of the training rows, at least 1000."""
        return max(PROBE_ROWS, rows // 2) if self.account.timed else None

    # --- together

    def threads(self) -> int:
        """The threads to train with; without a clock those that torch has, so that a study can be repeated."""
        return self.together if self.account.timed else torch.get_num_threads()

    def factor(self, kind: str) -> float:
        """What training together makes of the time alone: of lots of this kind where there was one, else of the last one whose
        runs were trained to their ends."""
        return self._factors.get(kind, self._last)

    def took(self, kind: str, alone: float, seconds: float) -> None:
        """Recipes that would have taken ``alone`` seconds one after another, to their last epoch, took so long together."""
        if alone <= 0:
            return
        now = max(seconds / alone, LEAST_FACTOR)
        before = self._factors.get(kind)
        self._factors[kind] = now if before is None else math.sqrt(now * max(now, before))
        if kind != "search":
            self._last = self._factors[kind]

    def seconds(self, kind: str, recipes: Sequence[Recipe], epochs: int, rows: int) -> float:
        """What a lot of these recipes is expected to take."""
        factor = self.factor(kind)
        each = [(self.epoch(recipe, rows), 1.0 if apart(recipe) else factor) for recipe in recipes]
        return epochs * sum(seconds * share for seconds, share in each)

    # --- plans

    def fixed_epochs(self) -> int | None:
        """Epochs of a run without a clock, so that a study can be repeated exactly; None under a clock."""
        budget = self.account.budget
        if self.account.timed:
            return None
        if budget.unit == "epochs" and not budget.none:
            return max(1, min(PLAIN_EPOCHS, round(budget.amount / EPOCH_RUNS)))
        return PLAIN_EPOCHS

    def search_plan(self, plain: Recipe, total: int, seconds: float) -> tuple[int, int]:
        """Epochs and rows of the search's runs: with ``FEWEST_EPOCHS`` for `FEWEST_RECIPES` at least, if need be on fewer rows."""
        fixed = self.fixed_epochs()
        if fixed is not None:
            return fixed, total
        factor = self.factor("search")
        wanted = seconds / (FEWEST_EPOCHS * FEWEST_RECIPES)
        rows = total
        if factor * self.epoch(plain, total) > wanted:
            speed = self.speed(plain, total)
            steps = max(1.0, (wanted / factor - speed.rest) / speed.step)
            rows = min(total, max(FEWEST_ROWS, int(steps * plain.batch_size)))
        return self.epochs_of(plain, rows, seconds), rows

    def epochs_of(self, plain: Recipe, rows: int, seconds: float) -> int:
        """Epochs of each run, where ``seconds`` are for all of them: more time gives longer runs and more of them."""
        fit = seconds / (self.factor("search") * self.epoch(plain, rows))
        return max(1, min(MOST_EPOCHS, max(FEWEST_EPOCHS, int(math.sqrt(TILT * fit))), int(fit / 4) or 1))

    def affordable(self, kind: str, recipes: Sequence[Recipe], rows: int, seconds: float, most: int) -> int:
        """How many epochs these recipes can have together in so many seconds, from 1 to ``most``."""
        return max(1, min(most, int(seconds / max(self.seconds(kind, recipes, 1, rows), 1e-9))))


def apart(recipe: Recipe) -> bool:
    """Whether a recipe gains little from others: noise inside the model, and charges of outputs, are for slower programs."""
    return bool(recipe.noise.places) or any(term.penalty == "confidence" for term in recipe.terms)


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
