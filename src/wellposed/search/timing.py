"""The pace of a study under a clock: how fast recipes train alone and together, and how many epochs of how many recipes fit."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from wellposed.core.batches import tensors_in
from wellposed.core.preserve import random_states_kept
from wellposed.core.shared import threads_of
from wellposed.data.arrays import to_device
from wellposed.noise.activations import dropout_from_streams
from wellposed.recipe.recipe import Recipe
from wellposed.search.holdout import in_a_sentence
from wellposed.study.budget import Account
from wellposed.training.evaluate import evaluating
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
STEP, PER_WORK, PER_WEIGHT, SCORING, PER_SCORED = 7e-5, 4.6e-11, 2.5e-9, 2e-4, 1.2e-11
"""Seconds that one of several recipes trained together takes for a step, for each multiplication of a row, for each weight that is
moved, for an evaluation, and for each multiplication in one. Fitted on one core to 22 perceptrons from 64 x 1 to 512 x 3 with
batches from 16 to 256: the largest errors are a third, and what another machine makes of it is learned."""
COUNTED = 4
"""Rows in whose forward pass they are counted."""
BY_TORCH = 2e-3
"""Seconds of a step that torch takes for one recipe alone, beside a program of the kernel."""
UNIT = 100.0
"""Multiplications that an output of a layer costs beside those by its weights: norm, activation, dropout."""
TILT = 0.25
"""Epochs for each recipe of the search: of ``J`` epochs that fit in all, each has ``sqrt(TILT * J)``."""
MOST_AROUND = 4.0
FEW = 4
"""So few recipes say nothing of a lot of many."""
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


class Pace:
    """Plans the epochs of a study's runs.

    A lot takes ``around * sum_j planned_j * lasting * factor_j * arithmetic_j``: what an epoch takes by its arithmetic; what the
    machine, its load and the way of training make of that; which share of their epochs runs have, since halving and patience end
    them early; and what is spent between epochs. All but the arithmetic is learned from the lots themselves.

    Args:
        problem, device: what is trained, and where.
        account: the budget; only under a clock is anything measured.
    """

    def __init__(self, problem: Problem, account: Account, device: torch.device) -> None:
        self.problem, self.account, self.device = problem, account, device
        self.together, self.load, self.compiled = 1, 1.0, False
        self.torch_threads = torch.get_num_threads()
        self.most = self.torch_threads if device.type == "cpu" else 1
        self._sizes: dict[str, tuple[float, int]] = {}
        self._factors: dict[TrainingShape, tuple[float, float]] = {}  # with the seconds of an epoch by its arithmetic
        self._lasting: dict[str, float] = {}
        self._around: dict[str, float] = {}
        self._last_around = 1.0

    # --- arithmetic

    def check(self, recipe: Recipe) -> None:
        """Take a step of this very recipe, and evaluate, so that what cannot be trained is said early."""
        with threads_of(1), random_states_kept(), in_a_sentence("The model cannot be trained"):
            training = Training.begin(self.problem, recipe, 0, self.device, math.inf, None, PROBE_ROWS)
            training.model.train()
            with dropout_from_streams(training.model, training.streams):
                training.step(0, next(iter(training.batches(0))))
            training.record({"epoch": 0}, time.perf_counter())

    def size(self, recipe: Recipe) -> tuple[float, int]:
        """Of the recipe's network the multiplications for one row, counted in a forward pass of a few, and its weights."""
        key = repr(sorted(recipe.model.items()))
        if key not in self._sizes:
            data = self.problem.prepared.train_clean
            index = torch.arange(min(COUNTED, len(data)))
            with random_states_kept(), in_a_sentence("The model cannot be trained"):
                model = self.problem.build(recipe.model, 0).to(self.device)
                inputs = to_device(data.batch(index)[0], self.device)
                work = count_work(model, lambda: self.problem.forward(model, inputs))
            self._sizes[key] = work / len(index), sum(p.numel() for p in model.parameters())
        return self._sizes[key]

    def step(self, recipe: Recipe) -> float:
        """Seconds of a step by its arithmetic alone. Sharpness takes each gradient twice."""
        work, weights = self.size(recipe)
        step = STEP + PER_WORK * work * recipe.batch_size + PER_WEIGHT * weights
        if self.compiled and stepped_by_torch(recipe):
            step += BY_TORCH
        return 2.0 * step if recipe.sharpness.radius else step

    def epoch(self, recipe: Recipe, rows: int) -> float:
        """Seconds of an epoch by its arithmetic alone, with its evaluation."""
        most, valid = self.probe_rows(rows), len(self.problem.prepared.valid)
        scored = valid + rows if most is None else min(most, rows) + min(most, valid)
        return rows / recipe.batch_size * self.step(recipe) + self.scoring(recipe, scored)

    def scoring(self, recipe: Recipe, rows: int) -> float:
        """Seconds in which a network is evaluated on so many rows, by its arithmetic alone."""
        return SCORING + PER_SCORED * self.size(recipe)[0] * rows

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
        """How many times as long as by its arithmetic an epoch takes: of recipes of this shape, or of the shape that is most alike
        in size; before anything was trained, ``load``: how many times as long as alone this process takes."""
        if (shape := recipe_shape(recipe)) in self._factors:
            return self._factors[shape][0]
        known = [other for other in self._factors if other[-2:] == shape[-2:]] or list(self._factors)
        if not known:
            return self.load
        here = math.log(self.epoch(recipe, FEWEST_ROWS))
        return min((self._factors[other] for other in known), key=lambda one: abs(math.log(one[1]) - here))[0]

    def took(self, kind: str, lot: Sequence[TrialTiming], rows: int, seconds: float) -> None:
        """Learn from a lot that took so long: what an epoch of each shape takes, how many of their epochs runs of this kind have,
        and what is spent between epochs."""
        shapes: dict[TrainingShape, list[TrialTiming]] = defaultdict(list)
        for one in lot:
            shapes[recipe_shape(one.recipe)].append(one)
        for shape, members in shapes.items():
            together = sum(one.seconds for one in members)
            expected = sum(one.epochs * self.epoch(one.recipe, rows) for one in members)
            if together > 0 and expected > 0 and (len(members) >= FEW or shape not in self._factors):
                self._factors[shape] = together / expected, self.epoch(members[0].recipe, FEWEST_ROWS)
        if len(lot) < FEW:
            return
        ended = [one for one in lot if not one.cut]
        if ended:
            self._lasting[kind] = max(sum(one.epochs for one in ended) / sum(one.recipe.epochs for one in ended), 0.1)
        within = sum(one.seconds for one in lot)
        if within > 0:
            self._last_around = self._around[kind] = min(max(seconds / within, 1.0), MOST_AROUND)

    def seconds(self, kind: str, recipes: Sequence[Recipe], epochs: int, rows: int) -> float:
        """What a lot of these recipes is expected to take."""
        return epochs * sum(self.cost(kind, recipe, rows) for recipe in recipes)

    def cost(self, kind: str, recipe: Recipe, rows: int) -> float:
        """Seconds that each planned epoch of a recipe adds to a lot."""
        around = self._around.get(kind, self._last_around)
        lasting = self._lasting.get(kind, HALVED if kind == "search" else 1.0)
        return around * lasting * self.factor(recipe) * self.epoch(recipe, rows)

    # --- plans

    def search_plan(self, plain: Recipe, total: int, seconds: float) -> tuple[int, int]:
        """Epochs and rows of the search's runs: with ``FEWEST_EPOCHS`` for `FEWEST_RECIPES` at least, if need be on fewer rows;
        without a clock always the same ones, so that a study can be repeated exactly."""
        budget = self.account.budget
        if not self.account.timed:
            few = budget.unit == "epochs" and not budget.none
            return max(1, min(PLAIN_EPOCHS, round(budget.amount / EPOCH_RUNS))) if few else PLAIN_EPOCHS, total
        wanted = seconds / (FEWEST_EPOCHS * FEWEST_RECIPES)
        rows, cost = total, self.cost("search", plain, total)
        if cost > wanted:
            rows = min(total, max(FEWEST_ROWS, int(total * wanted / cost)))
        # More time gives longer runs and more of them.
        fit = max(seconds, 0.0) / self.cost("search", plain, rows)
        return max(1, min(MOST_EPOCHS, max(FEWEST_EPOCHS, int(math.sqrt(TILT * fit))), int(fit / 4) or 1)), rows

    def affordable(self, kind: str, recipes: Sequence[Recipe], rows: int, seconds: float, most: int) -> int:
        """How many epochs these recipes can have together in so many seconds, from 1 to ``most``."""
        return max(1, min(most, int(seconds / max(self.seconds(kind, recipes, 1, rows), 1e-9))))


def recipe_shape(recipe: Recipe) -> TrainingShape:
    """What recipes have in common that take equally long: sharpness takes each gradient twice, and some steps are torch's."""
    sharp = bool(recipe.sharpness.radius)
    return repr(sorted(recipe.model.items())), recipe.batch_size, sharp, stepped_by_torch(recipe)


def stepped_by_torch(recipe: Recipe) -> bool:
    """Whether each step of the recipe is taken for it alone by torch, also where the kernel trains the others."""
    noise = recipe.noise
    return bool(noise.places or noise.acting("gradients") or recipe.lookahead.every or recipe.classes)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with that many epochs, and patience for a fifth of them; what a recipe itself says is kept as a limit."""
    plain = Recipe()
    if recipe.epochs != plain.epochs:
        epochs = min(epochs, recipe.epochs)
    if recipe.stopping != plain.stopping:
        return recipe.replace(epochs=epochs)
    return recipe.replace(epochs=epochs, stopping={"patience": max(10, epochs // 5)})


def count_work(model: nn.Module, forward: Callable[[], Any]) -> float:
    """Multiplications of a forward pass, with `UNIT` for each output: each place of a layer's output takes each of its matrices
    once, in linear, convolutional, recurrent and attending layers; an embedding is looked up."""
    found = 0.0

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        nonlocal found
        weights = {id(one): one for one in (getattr(layer, "weight", None), *layer.parameters(recurse=False))}
        matrices = [one for one in weights.values() if isinstance(one, Tensor) and one.ndim > 1]
        made = next(tensors_in(output), None) if matrices and not isinstance(layer, ParametrizationList) else None
        if made is not None and made.ndim:
            found += made.numel() * UNIT
            if not isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
                found += sum(one.numel() * made.numel() / made.shape[1 if one.ndim > 2 else -1] for one in matrices)

    with contextlib.ExitStack() as stack:
        for layer in model.modules():
            stack.callback(layer.register_forward_hook(count).remove)
        stack.enter_context(evaluating(model))
        forward()
    return found
