"""The pace of a study under a clock: how fast recipes train alone and together, and how many epochs of how many recipes fit."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wellposed.core.errors import ProblemError, WellposedError
from wellposed.core.preserve import random_states_kept
from wellposed.core.shared import threads_of
from wellposed.noise.activations import dropout_from_streams
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.study.budget import Account
from wellposed.training.history import Stopped
from wellposed.training.loop import Training
from wellposed.training.problem import Problem
from wellposed.training.run import Run

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
TILT = 0.25
"""Epochs for each recipe of the search: of ``J`` epochs that fit in all, each has ``sqrt(TILT * J)``."""
LEAST_FACTOR, MOST_AROUND = 0.02, 4.0
FEW = 4
"""So few recipes are hardly faster together than alone, and say nothing of a lot of many."""
SLOWER = 0.75
"""A program of a larger model has more arithmetic and less overhead to save: as the time alone grows, so does the factor, by this
power; measured: .07 for 128 units in 2 layers, .6 for 256 in 4."""
HALVED = 0.6
"""Share of their epochs that runs of the search have, before one has shown it: two rungs that stop half each leave 0.58."""
FEWEST_RECIPES = 20
"""With fewer recipes a search says little."""


TrainingShape = tuple[Any, ...]


@dataclass(frozen=True)
class TrialTiming:
    """What a recipe took in a lot: epochs, its share of the seconds, and whether the clock cut it."""

    recipe: Recipe
    epochs: int
    seconds: float
    cut: bool

    @classmethod
    def of(cls, run: Run) -> TrialTiming:
        return cls(run.recipe, len(run.history), sum(run.history["seconds"]), run.stopped == Stopped.BUDGET)


@dataclass(frozen=True)
class Speed:
    """Seconds of a step, of an epoch's evaluation and of evaluating one row, and the threads they were measured with."""

    step: float
    rest: float
    row: float
    threads: int


class Pace:
    """Plans the epochs of a study's runs.

    A lot takes ``around * sum_j planned_j * lasting * factor_j * alone_j``: what an epoch of each recipe takes alone; what training
    it together with others makes of that; which share of their epochs runs have, since halving and patience end them early; and
    what is spent between epochs. All but ``alone`` is learned from the lots themselves.

    Args:
        problem, device: what is trained, and where.
        account: the budget; only under a clock is anything measured.
    """

    def __init__(self, problem: Problem, account: Account, device: torch.device) -> None:
        self.problem, self.account, self.device = problem, account, device
        self.together = 1
        self.torch_threads = torch.get_num_threads()
        self.most = self.torch_threads if device.type == "cpu" else 1
        self._speeds: dict[tuple[Any, ...], Speed] = {}
        self._factors: dict[TrainingShape, float] = {}
        self._alone: dict[TrainingShape, float] = {}
        self._lasting: dict[str, float] = {}
        self._around: dict[str, float] = {}
        self._last_around = 1.0

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
            probe = self.probe_rows(rows or 4 * FEWEST_ROWS)
            alone = self._measured(plain, probe, 1)
            long = self.most > 1 and alone.step > SHORT_STEP
            late = self.account.timed and self.account.spent >= budget_split.STARTED
            both = self._measured(plain, probe, self.most) if long and not late else alone
            self._speeds[key] = min(alone, both, key=lambda speed: speed.step)
        return self._speeds[key]

    def _measured(self, recipe: Recipe, probe_rows: int | None, threads: int) -> Speed:
        try:
            with threads_of(threads):
                return Speed(*measure_speed(self.problem, recipe, self.device, probe_rows), threads)
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

    def calm(self) -> contextlib.AbstractContextManager[None]:
        """As many threads for what is done between trainings: on a busy machine those that wait for each other cost most."""
        return threads_of(self.threads())

    def factor(self, recipe: Recipe) -> float:
        """What training together makes of the time alone of an epoch: of recipes of this shape, or of the shape most alike in
        time, from which a slower one gains less; 1 before anything was trained together."""
        if (shape := recipe_shape(recipe)) in self._factors:
            return self._factors[shape]
        alike = [other for other in self._factors if other[-1] == shape[-1]]
        if not alike:
            return 1.0
        alone = self.alone(recipe)
        nearest = min(alike, key=lambda other: abs(math.log(self._alone[other] / alone)))
        found = self._factors[nearest]
        return max(found, min(1.0, found * math.pow(alone / self._alone[nearest], SLOWER)))

    def took(self, kind: str, lot: Sequence[TrialTiming], rows: int, seconds: float) -> None:
        """Learn from a lot that took so long: what an epoch of each shape takes, how many of their epochs runs of this kind have,
        and what is spent between epochs."""
        shapes: dict[TrainingShape, list[TrialTiming]] = defaultdict(list)
        for one in lot:
            shapes[recipe_shape(one.recipe)].append(one)
        for shape, members in shapes.items():
            together = sum(one.seconds for one in members)
            alone = sum(one.epochs * self.epoch(one.recipe, rows) for one in members)
            if alone > 0 and (len(members) >= FEW or shape not in self._factors):
                self._factors[shape] = max(together / alone, LEAST_FACTOR)
                self._alone[shape] = self.alone(members[0].recipe)
        if len(lot) < FEW:
            return
        ended = [one for one in lot if not one.cut]
        if ended:
            self._lasting[kind] = max(sum(one.epochs for one in ended) / sum(one.recipe.epochs for one in ended), 0.1)
        within = sum(one.seconds for one in lot)
        if within > 0 and kind != "probe":
            self._last_around = self._around[kind] = min(max(seconds / within, 1.0), MOST_AROUND)

    def alone(self, recipe: Recipe) -> float:
        """Seconds of an epoch alone on `FEWEST_ROWS` rows, to compare shapes by."""
        return self.epoch(recipe, FEWEST_ROWS)

    def seconds(self, kind: str, recipes: Sequence[Recipe], epochs: int, rows: int) -> float:
        """What a lot of these recipes is expected to take."""
        return epochs * sum(self.cost(kind, recipe, rows) for recipe in recipes)

    def cost(self, kind: str, recipe: Recipe, rows: int) -> float:
        """Seconds that each planned epoch of a recipe adds to a lot."""
        around = self._around.get(kind, self._last_around)
        lasting = self._lasting.get(kind, HALVED if kind == "search" else 1.0)
        return around * lasting * self.factor(recipe) * self.epoch(recipe, rows)

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
        wanted = seconds / (FEWEST_EPOCHS * FEWEST_RECIPES)
        rows, cost = total, self.cost("search", plain, total)
        if cost > wanted:
            speed = self.speed(plain, total)
            steps = max(1.0, (self.epoch(plain, total) * wanted / cost - speed.rest) / speed.step)
            rows = min(total, max(FEWEST_ROWS, int(steps * plain.batch_size)))
        # More time gives longer runs and more of them.
        fit = max(seconds, 0.0) / self.cost("search", plain, rows)
        return max(1, min(MOST_EPOCHS, max(FEWEST_EPOCHS, int(math.sqrt(TILT * fit))), int(fit / 4) or 1)), rows

    def affordable(self, kind: str, recipes: Sequence[Recipe], rows: int, seconds: float, most: int) -> int:
        """How many epochs these recipes can have together in so many seconds, from 1 to ``most``."""
        return max(1, min(most, int(seconds / max(self.seconds(kind, recipes, 1, rows), 1e-9))))


def recipe_shape(recipe: Recipe) -> TrainingShape:
    """What recipes have in common that one program trains; sharpness takes each gradient twice, and noise on
    weights goes through Python."""
    sharp = bool(recipe.sharpness.radius)
    return repr(sorted(recipe.model.items())), recipe.batch_size, sharp, bool(recipe.noise.places)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with that many epochs, and patience for a fifth of them; what a recipe itself says is kept as a limit."""
    plain = Recipe()
    if recipe.epochs != plain.epochs:
        epochs = min(epochs, recipe.epochs)
    if recipe.stopping != plain.stopping:
        return recipe.replace(epochs=epochs)
    return recipe.replace(epochs=epochs, stopping={"patience": max(10, epochs // 5)})


def measure_speed(
    problem: Problem, recipe: Recipe, device: torch.device, probe_rows: int | None
) -> tuple[float, float, float]:
    """The median of a few steps, an evaluation, and its part for one row, of a model that is thrown away."""
    with random_states_kept():
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
