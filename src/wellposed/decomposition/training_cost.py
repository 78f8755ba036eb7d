"""What training sees: the loss of given weights with a recipe's noise on, row by row, and what it adds as penalties.

The weights stay as they are: they are put into a new model, which is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellposed.core.random import generator, reseed, seeded, stream_seed
from wellposed.data.arrays import to_device
from wellposed.losses.per_example import Loss, PerExample, mean_loss
from wellposed.noise.activations import Streams, dropout_from_streams, dropouts
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import find_wrapper
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.intervals import Array
from wellposed.training.loop import Training
from wellposed.training.problem import Problem

StateDict = Mapping[str, Tensor]
Mode = Literal["training", "noise", "norms", "evaluation"]
"""Which modules are in training mode: all, all but batch norm, batch norm alone, none."""

DRAWS = 8
"""Draws of the noise. The rows average it as well, so that a few draws are enough to see how much it varies."""


@dataclass(frozen=True)
class Seen:
    """What training sees at given weights.

    Attributes:
        rows: ``(rows, draws)``, each row's part of the loss with each draw of the noise; means over rows are losses.
        outputs: what the outputs are charged with each draw.
    """

    rows: Array
    outputs: Array

    @property
    def loss(self) -> float:
        """The expected loss, without penalties."""
        return float(self.rows.mean())


@dataclass(frozen=True)
class View:
    """How training is looked at.

    Attributes:
        recipe: whose noise is on.
        mode: see `Mode`.
        clean: rows as they are, without augmentation, and the loss without a smoothing of its own.
        smooth: whether a smoothing of the loss's own is on.
    """

    recipe: Recipe
    mode: Mode = "training"
    augmented: bool = True
    smooth: bool = True

    def noisy(self, model: nn.Module) -> bool:
        """Whether another draw can give another loss."""
        noise = self.recipe.noise
        drawn = any(one.random for one in noise.acting("inputs", "labels"))
        active = self.mode in ("training", "noise") and (noise.places or any(one.p for one in dropouts(model).values()))
        batched = self.mode in ("training", "norms") and any(isinstance(one, _BatchNorm) for one in model.modules())
        return bool(drawn or active or batched)


def loss_as_trained(
    problem: Problem, state: StateDict, view: View, *, seed: int = 0, rows: int | None, draws: int = DRAWS, step: int
) -> Seen:
    """The loss of these weights on all training rows as the recipe's training would see it.

    Args:
        state: of the model that the recipe builds.
        seed: of the noise: equal seeds draw equal noise, whatever else is looked at.
        rows: those that the recipe was trained on; see `fit`.
        draws: >= 1; one is taken where there is nothing to draw.
        step: of training, >= 0: for noise and strengths that follow a schedule.
    """
    if not step:
        step = draws * math.ceil(len(problem.prepared.train) / view.recipe.batch_size)
    with seeded(seed, "seen"):
        training = Training.begin(
            problem, view.recipe, stream_seed(seed, "seen"), torch.device("cpu"), math.inf, rows, 2
        )
        augments = view.augmented and training.data.train is not training.data.train_clean
        count = draws if view.noisy(training.model) or augments else 1
        parts = [_one_draw(training, state, view, seed, draw, step) for draw in range(count)]
        _closed(training)
    return Seen(np.stack([rows for rows, _ in parts], axis=1), np.array([charged for _, charged in parts]))


def penalty_costs(
    problem: Problem, recipe: Recipe, state: StateDict, *, seed: int, step: int, rows: int | None
) -> tuple[float, float]:
    """What the weights are charged in the cost that training minimizes (``how="loss"``), and by all terms together.

    Args:
        seed: of the run, for penalties that refer to where it began.
    """
    training = Training.begin(problem, recipe, seed, torch.device("cpu"), math.inf, rows, 2)
    training.model.load_state_dict(dict(state))
    optimizer = _regularized(training)
    optimizer.steps = step
    with torch.no_grad():
        found = float(optimizer.weights_penalty()), math.fsum(optimizer.values().values())
    _closed(training)
    return found


def _closed(training: Training) -> None:
    if training.perturbed is not None:
        training.perturbed.remove()
    _regularized(training).remove()


def _regularized(training: Training) -> Regularized:
    optimizer = find_wrapper(training.optimizer, Regularized)
    assert optimizer is not None  # a training has one
    return optimizer


def _one_draw(training: Training, state: StateDict, view: View, seed: int, draw: int, step: int) -> tuple[Array, float]:
    """Each row's part of the loss, in the rows' order, and what the outputs are charged on average."""
    model = training.model
    model.load_state_dict(dict(state))  # batch norm's statistics are moved by a draw
    set_mode(model, view.mode)
    training = replace(training, streams=Streams(stream_seed(seed, "draw", draw)))
    _regularized(training).steps = step
    parts: list[PerExample] = []
    weights: list[Tensor] = []
    charge = 0.0
    taken = torch.randperm(len(training.data.train), generator=generator(seed, "seen", draw))
    order = list(torch.split(taken, training.recipe.batch_size))
    if len(order) > 1 and len(order[-1]) == 1:  # a batch of one row has no variance: it joins the one before it
        order[-2:] = [torch.cat(order[-2:])]
    with dropout_from_streams(model, training.streams):
        for number, index in enumerate(order):
            training.streams.step = number
            reseed(seed, "seen", draw, number)
            if training.perturbed is not None:
                # Sizes that follow a schedule are those of the steps just before.
                training.perturbed.step = max(0, step - number - 1 - draw * training.steps_per_epoch) * training.passes
            part, weight, penalty = _batch(training, index, view)
            parts.append(part)
            charge += penalty * len(index)
            if weight is not None:
                weights.append(weight)
    rows = mean_loss(parts, weights or None).rows.numpy()
    if len(rows) == len(taken):
        rows = rows[np.argsort(taken.numpy())]
    return rows.astype(np.float64), charge / len(taken)


def _batch(training: Training, index: Tensor, view: View) -> tuple[PerExample, Tensor | None, float]:
    source = training.data.train if view.augmented else training.data.train_clean
    inputs, target = source.batch(index)
    weight = None if source.weight is None else source.weight[index]
    inputs, mixing = training.disturbed(to_device(inputs, training.device))
    differentiated = "inputs" in training.needs
    if differentiated:
        inputs = inputs.detach().requires_grad_()
    with torch.set_grad_enabled(differentiated):
        outputs = training.problem.forward(training.model, inputs)
        second = training.problem.forward(training.model, inputs) if "reference" in training.needs else None
        penalty: Any = 0.0
        if training.needs:
            given = inputs if differentiated else None
            penalty = training.optimizer.outputs_penalty(outputs, inputs=given, reference=second)
    with torch.no_grad():
        told, weight = training.told(outputs.detach(), to_device(target, training.device), weight, mixing)
        return loss_parts(training.problem.loss, outputs.detach(), told, view.smooth), weight, float(penalty)


@torch.no_grad()
def loss_parts(loss: Loss, outputs: Any, target: Any, smooth: bool) -> PerExample:
    """Each example's part, with a smoothing of the loss's own or without it."""
    return loss.parts(outputs, target) if smooth else loss.per_example(outputs, target)


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Which modules are in training mode; see `Mode`."""
    for module in model.modules():
        norm = isinstance(module, _BatchNorm)
        module.training = {"training": True, "noise": not norm, "norms": norm, "evaluation": False}[mode]
