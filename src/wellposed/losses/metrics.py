"""Metrics, each with what every row adds to it, so that two models can be compared row by row.

``rows(outputs, target)`` has one number for each example, whose mean is the score. Where a metric is no mean over rows
(balanced accuracy, R2, RMSE, AUC) the numbers are its linearization: score plus the row's influence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.core.errors import InputError
from wellposed.core.registry import classes_in, lookup
from wellposed.losses.classification import IGNORED, aligned, binary_cross_entropy, classes_second, cross_entropy
from wellposed.losses.per_example import average, per_example


class Metric(ABC):
    """A score of outputs on targets."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    in_units: ClassVar[bool] = False
    """Whether the score is in the units of the target, and scales with it."""

    @abstractmethod
    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(n,)``, float64: each example's part; the mean is the score."""

    def rows_of_many(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(models, n)``: `rows` of several models' outputs ``(models, n, ...)`` on the same targets."""
        return torch.stack([self.rows(one, target) for one in outputs])

    def score(self, outputs: Tensor, target: Tensor) -> float:
        """The metric over all rows."""
        return float(self.rows(outputs, target).mean())


def _correct(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted class, label and mask, one unit an entry, with an axis of examples first."""
    if _are_shares(outputs, target):
        target = target.argmax(1)
    elif _is_binary(outputs, target):
        outputs, target = aligned(outputs, target)
        return (outputs > 0).long(), target.long(), torch.ones_like(target, dtype=torch.bool)
    outputs, target = classes_second(outputs, target.long())
    return outputs.argmax(1), target, target != IGNORED


def _are_shares(outputs: Tensor, target: Tensor) -> bool:
    """Whether targets are probabilities of classes: several numbers a row, >= 0, that sum to 1."""
    if not target.is_floating_point() or target.ndim != 2 or target.shape != outputs.shape or target.shape[1] < 2:
        return False
    return bool((target >= 0).all()) and bool((target.sum(1) - 1.0).abs().max() < 1e-3)


def _is_binary(outputs: Tensor, target: Tensor) -> bool:
    """Whether each output is the logit of a label of its own."""
    return outputs.shape == target.shape or (outputs.ndim == target.ndim + 1 and outputs.shape[-1] == 1)


class Accuracy(Metric):
    """Share of units (rows, tokens) whose highest score is the label."""

    name = "accuracy"

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """1 where right, 0 where wrong; for tokens the linearized share."""
        predicted, label, mask = _correct(outputs, target)
        return average([per_example(((predicted == label).double(), mask), label)]).rows

    def rows_of_many(self, outputs: Tensor, target: Tensor) -> Tensor:
        """In one pass where each row has one label."""
        if outputs.ndim != 3 or target.ndim != 1 or target.is_floating_point() or bool((target == IGNORED).any()):
            return super().rows_of_many(outputs, target)
        return (outputs.argmax(2) == target).double()


class BalancedAccuracy(Metric):
    """Mean over classes of the share of the class's rows that are right."""

    name = "balanced_accuracy"

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The score plus each row's influence: ``(right - share of its class) * n/(classes*n_c)``, over a row's units."""
        predicted, label, mask = _correct(outputs, target)
        classes, index, counts = torch.unique(label[mask], return_inverse=True, return_counts=True)
        right = (predicted == label)[mask].double()
        shares = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, index, right) / counts
        influence = torch.zeros(label.shape, dtype=torch.float64)
        influence[mask] = (right - shares[index]) * (len(label) / (len(classes) * counts.double()))[index]
        rows: Tensor = shares.mean() + influence.reshape(len(label), -1).sum(1)
        return rows


class LogLoss(Metric):
    """Mean cross-entropy of the class scores, in nats."""

    name = "log_loss"
    higher_is_better = False

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``-log p(label)``; for tokens the linearized mean."""
        binary = _is_binary(outputs, target) and not _are_shares(outputs, target)
        loss = binary_cross_entropy if binary else cross_entropy
        units = loss(outputs.double(), target)
        return average([per_example(units, target)]).rows


class AUC(Metric):
    """Area under the ROC curve: the chance that a positive row scores above a negative one. Two classes."""

    name = "auc"

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The area plus each row's influence (its placement among the other class). Source: DeLong et al. (1988)."""
        if outputs.ndim == 2 and outputs.shape[1] == 2:
            outputs = outputs[:, 1] - outputs[:, 0]
        elif outputs.ndim == 2 and outputs.shape[1] == 1:
            outputs = outputs[:, 0]
        if outputs.ndim != 1 or len(torch.unique(target)) > 2:
            raise InputError("auc is for two classes; use accuracy, balanced_accuracy or log_loss.")
        score, positive = outputs.double(), target == target.max()
        if bool(positive.all()):
            return torch.full_like(score, torch.nan)
        n, n1, n0 = len(score), int(positive.sum()), int((~positive).sum())
        placement = torch.empty_like(score)
        placement[positive] = _share_below(score[positive], score[~positive])
        placement[~positive] = 1.0 - _share_below(score[~positive], score[positive])
        area = placement[positive].mean()
        size = torch.where(positive, n / n1, n / n0).double()
        return area + (placement - area) * size


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Share of ``others`` below each value, ties counting one half."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, values, right=False)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto).double() / (2 * len(ordered))


class R2(Metric):
    """``1 - sum (y - f)^2 / sum (y - mean y)^2``, over all outputs together."""

    name = "r2"

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``r2 - n ((y_i - f_i)^2 - (1 - r2) (y_i - mean y)^2) / sum (y - mean y)^2``."""
        outputs, target = aligned(outputs.double(), target.double())
        squares = (outputs - target).square().reshape(len(target), -1).sum(1)
        spread = (target - target.mean(0)).square().reshape(len(target), -1).sum(1)
        left = squares.sum() / spread.sum()
        return 1.0 - left - (squares - left * spread) / spread.mean()

    def rows_of_many(self, outputs: Tensor, target: Tensor) -> Tensor:
        """In one pass."""
        models, target = len(outputs), target.double().reshape(len(target), -1)
        outputs = outputs.double().reshape(models, len(target), -1)
        if outputs.shape[2] != target.shape[1]:
            return super().rows_of_many(outputs, target)
        squares = (outputs - target).square().sum(2)
        spread = (target - target.mean(0)).square().sum(1)
        left = squares.sum(1, keepdim=True) / spread.sum()
        return 1.0 - left - (squares - left * spread) / spread.mean()


class RMSE(Metric):
    """``sqrt(mean (y - f)^2)``, in the units of the target."""

    name = "rmse"
    higher_is_better = False
    in_units = True

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``rmse + ((y_i - f_i)^2 - mse)/(2 rmse)``."""
        outputs, target = aligned(outputs.double(), target.double())
        squares = (outputs - target).square().reshape(len(target), -1).mean(1)
        root = squares.mean().sqrt()
        return root + (squares - squares.mean()) / (2.0 * root.clamp_min(1e-300))


class MAE(Metric):
    """``mean |y - f|``, in the units of the target."""

    name = "mae"
    higher_is_better = False
    in_units = True

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``|y_i - f_i|``."""
        outputs, target = aligned(outputs.double(), target.double())
        return (outputs - target).abs().reshape(len(target), -1).mean(1)


class _Scaled(Metric):
    """A metric of standardized targets, in the target's own units."""

    def __init__(self, inner: Metric, scale: float) -> None:
        self.inner, self.scale = inner, scale

    @property
    def name(self) -> str:  # type: ignore[override]
        """The inner metric's name."""
        return self.inner.name

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """As the inner metric's."""
        return self.inner.higher_is_better

    def rows(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The inner rows times the target's scale."""
        return self.inner.rows(outputs, target) * self.scale

    def rows_of_many(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The inner rows times the target's scale."""
        return self.inner.rows_of_many(outputs, target) * self.scale


def scaled(inner: Metric, scale: float) -> Metric:
    """The metric in the units of a target that was divided by ``scale``."""
    return _Scaled(inner, scale) if inner.in_units else inner


def metrics() -> dict[str, type[Metric]]:
    """Every metric by name."""
    return classes_in("wellposed.losses", Metric)  # type: ignore[type-abstract]


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        InputError: there is none; the nearest is suggested.
    """
    return lookup("metric", name, metrics())()
