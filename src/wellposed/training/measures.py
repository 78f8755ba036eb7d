"""What a row of a history says: both sides like for like, the weights, the terms; and what a constant would reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.core.selectors import leaves
from wellposed.losses.per_example import Loss, MeanLoss, PerExample, mean_loss
from wellposed.losses.score import Score
from wellposed.ops.shards import unshard
from wellposed.training.evaluate import BATCH, Evaluation, evaluate
from wellposed.training.loop_activity import real

MOST_NUMBERS = 2**24
"""Outputs that are computed at once: 64 MiB."""


@dataclass(frozen=True)
class ConstantPrediction:
    """The best constant prediction, learned from training targets: outputs ``(classes,)`` for class indices (``classes``), the
    same for every token or pixel; else ``(...)`` of one example.
    """

    loss: Loss
    outputs: Tensor
    classes: bool

    @classmethod
    def learned(cls, loss: Loss, train: Tensor | None, valid: Tensor | None) -> ConstantPrediction | None:
        """From all training targets at hand; None where the loss has no known constant, or there are no targets. A class that only
        the validation targets have needs an output too.
        """
        if train is None or valid is None or not train.numel() or not valid.numel():
            return None
        if {train.shape[1:], valid.shape[1:]} == {(), (1,)}:  # (n, 1) is (n,)
            train, valid = train.reshape(-1), valid.reshape(-1)
        if train.shape[1:] != valid.shape[1:]:
            return None
        classes = loss.classes_are_indices and not train.is_floating_point()
        outputs = loss.constant(train, valid)
        return None if outputs is None else cls(loss, outputs, classes)

    def evaluate(self, target: Tensor, metric: Score | None = None) -> Evaluation:
        """Loss and metric on targets ``(n, ...)``; the metric is NaN where the outputs would take too much memory."""
        if self.classes and target.ndim == 2 and target.shape[1] == 1:
            target = target[:, 0]
        units = target[0].numel() if self.classes else 1
        at_once = MOST_NUMBERS // max(1, units * self.outputs.numel())
        if at_once < 1 and self.classes and not self.loss.weighted:
            return Evaluation(mean_loss([self._looked_up(target)]), math.nan, None)
        batches = ((part, part) for part in torch.split(target, max(1, min(BATCH, at_once))))
        return evaluate(
            nn.Identity(), batches, self.loss, metric, device=torch.device("cpu"), forward=lambda _, y: self._of(y)
        )

    def _of(self, target: Tensor) -> Tensor:
        if not self.classes:
            alike = self.outputs.expand(len(target), *self.outputs.shape)
            return alike.reshape(target.shape) if alike.numel() == target.numel() else alike
        units = [1] * (target.ndim - 1)
        return self.outputs.view(1, -1, *units).expand(len(target), -1, *target.shape[1:])

    def _looked_up(self, target: Tensor) -> PerExample:
        """The losses of class indices without the outputs of every token: of a language model they would be gigabytes."""
        counts = target != self.loss.ignored_index
        values = -self.outputs.log_softmax(0)[target.where(counts, torch.zeros_like(target))] * counts
        return PerExample(values.flatten(1).sum(1), counts.flatten(1).sum(1).to(values.dtype))


def constant_facts(loss: Loss, metric: Score | None, train: Tensor | None, valid: Tensor | None) -> dict[str, float]:
    """``constant_loss`` and ``chance_metric`` on validation targets of the constant learned on training targets; empty
    where the loss has no known constant."""
    constant = ConstantPrediction.learned(loss, train, valid)
    if constant is None or valid is None:
        return {}
    measured = constant.evaluate(valid, metric)
    return {"constant_loss": measured.loss.mean, "chance_metric": measured.metric}


def like_for_like(train: Evaluation, valid: Evaluation, best: Tensor | None) -> dict[str, float]:
    """Losses with standard errors and metrics of both sides, and the rise since the best epoch's rows ``best``."""
    rise, rise_se = rise_since(best, valid.loss)
    return {
        "train_loss": train.loss.mean,
        "valid_loss": valid.loss.mean,
        "train_loss_se": train.loss.se,
        "valid_loss_se": valid.loss.se,
        "train_metric": train.metric,
        "valid_metric": valid.metric,
        "valid_rise": rise,
        "valid_rise_se": rise_se,
    }


def gain_over(constant: Evaluation | None, now: Evaluation, side: str) -> dict[str, float]:
    """By how much the network's loss is below that of the constant prediction on the same rows, with its standard error."""
    if constant is None or len(constant.loss.rows) != len(now.loss.rows):
        return {}
    gain, error = rise_since(now.loss.rows, constant.loss)
    return {f"{side}_gain": gain, f"{side}_gain_se": error}


def term_facts(values: dict[str, float]) -> dict[str, float]:
    return {"penalty": math.fsum(values.values()), **{f"term:{name}": value for name, value in values.items()}}


def rise_since(best: Tensor | None, now: MeanLoss) -> tuple[float, float]:
    """Mean paired difference of the rows' losses to the best epoch's, with its standard error; 0 at the first epoch."""
    if best is None or best.shape != now.rows.shape:
        return 0.0, 0.0
    difference = now.rows - best
    n = len(difference)
    return float(difference.mean()), float(difference.std() / math.sqrt(n)) if n > 1 else math.nan


@torch.no_grad()
def weight_facts(model: nn.Module) -> dict[str, float]:
    """Norm of all parameters (not of what says how widely they spread), and the share of exact zeros among weight matrices."""
    found = [leaf for leaf in leaves(model) if leaf.role != "spread"]
    norm = math.sqrt(math.fsum(float(real(leaf.tensor).square().sum()) for leaf in found))
    weights = [leaf.tensor for leaf in found if leaf.role == "weight"]
    count = sum(w.numel() for w in weights)
    zeros = sum(w.numel() - int(torch.count_nonzero(unshard(w))) for w in weights)
    return {"weight_norm": norm, "zeros": zeros / count if count else 0.0}
