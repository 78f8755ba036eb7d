"""`Run`: one recipe trained on one problem with one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.errors import InputError
from wellposed.data.arrays import Source, to_device
from wellposed.losses.per_example import MeanLoss
from wellposed.losses.score import Score
from wellposed.optim.audit import Audit, average_note
from wellposed.optim.regularize import regularize
from wellposed.recipe.recipe import Recipe
from wellposed.training.device import device_of
from wellposed.training.evaluate import Evaluation, batches_of, evaluate, evaluating, signed_rows
from wellposed.training.history import History, Stopped
from wellposed.training.problem import Problem


@dataclass(eq=False)
class Run:
    """A trained model with its history; the weights are those of the best epoch.

    Attributes:
        model: in evaluation mode, on the CPU.
        history: like-for-like curves.
        recipe, seed, problem: what was trained.
        stopped: a `Stopped`, or the word of a ``stop=`` of the user's own.
        engine: how it was trained: ``alone``, ``population of 32``, ``processes: population of 16``, ``ray: alone``, say.
    """

    model: nn.Module
    history: History
    recipe: Recipe
    seed: int
    problem: Problem
    stopped: str = Stopped.EPOCHS
    engine: str = "alone"

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights were kept; -1 where none was."""
        return int(self.history.facts.get("chosen", -1))

    @checked
    def evaluate(self, on: str = "valid") -> Evaluation:
        """Loss and metric on all rows of ``train``, ``valid`` or ``test``.

        Raises:
            InputError: the problem has no such rows, or the metric is not defined on them.
        """
        source = self._source(on)
        targets = source.targets()
        if self.problem.metric is not None and targets is not None:
            self.problem.metric.require(targets, source.weight)
        return self._measured(source, self.problem.metric)

    @checked
    def losses(self, source: Source) -> MeanLoss:
        """The data loss on the rows of a source."""
        return self._measured(source, None).loss

    def _measured(self, source: Source, metric: Score | None) -> Evaluation:
        weights = None if source.weight is None else [source.weight]
        return evaluate(
            self.model, batches_of(source), self.problem.loss, metric,
            device=device_of(self.model), forward=self.problem.forward, weights=weights, by_row=True,
        )  # fmt: skip

    @checked
    def score(self, on: str = "valid") -> float:
        """The metric (or the loss where there is none), as people read it."""
        measured = self.evaluate(on)
        return measured.metric if measured.metric_rows is not None else measured.loss.mean

    @checked
    def row_scores(self, on: str = "valid") -> np.ndarray:
        """What each row adds to the score, higher is better; the mean is the score, or less the loss."""
        measured = self.evaluate(on)
        if measured.metric_rows is not None and self.problem.metric is not None:
            return signed_rows(measured.metric_rows, self.problem.metric.higher_is_better)
        return signed_rows(measured.loss.rows, higher_is_better=False)

    @checked
    def outputs(self, source: Source) -> Tensor:
        """The model's outputs on the rows of a source, on the CPU."""
        device = device_of(self.model)
        with evaluating(self.model):
            parts = [self.problem.forward(self.model, to_device(x, device)).cpu() for x, _ in batches_of(source)]
        return torch.cat(parts)

    def audit(self) -> Audit:
        """The table of who was charged what; see `wellposed.optim.audit`."""
        optimizer = self.recipe.optimizer.build(self.model.parameters())
        found = regularize(optimizer, self.model, self.recipe.build_terms(total_steps=1)).audit()
        says = self.recipe.averaging.says
        return replace(found, notes=(*found.notes, average_note(says))) if says else found

    def _source(self, on: str) -> Source:
        prepared = self.problem.prepared
        sources: dict[str, Any] = {"train": prepared.train_clean, "valid": prepared.valid, "test": prepared.test}
        if on not in sources or sources[on] is None:
            raise InputError(f"The problem has no {on!r} rows; it has {', '.join(k for k, v in sources.items() if v)}.")
        found: Source = sources[on]
        return found
