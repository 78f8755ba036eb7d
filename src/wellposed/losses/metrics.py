"""Metrics, each with what every row adds to it, so that two models can be compared row by row.

``rows(outputs, target)`` has one number for each example, whose mean is the score. Where a metric is no mean over rows
(balanced accuracy, F1, R2, RMSE, AUC) the numbers are its linearization: score plus the row's influence. So the paired interval
of two models' rows is the delta method's, which the tests hold against the jackknife.

A metric of ours is a frozen dataclass with at most one number, found by introspection: ``"top_k_accuracy:5"`` is
``TopKAccuracy(5)``. Any other metric is a callable, see `wellposed.losses.any_metric.Metric`.
Outputs are logits or log-probabilities, ``(n, classes)`` in any of `CrossEntropy`'s layouts or ``(n,)`` of the second of two
classes; or numbers. Weights are scikit-learn's ``sample_weight``. No metric is NaN where outputs are finite: what is not defined on
the targets is refused, and `undefined` says why beforehand.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from wellposed.core.checks import Count, Within, checked
from wellposed.core.errors import InputError
from wellposed.core.registry import classes_in
from wellposed.losses.any_metric import Metric
from wellposed.losses.classification import BinaryCrossEntropy, CrossEntropy, classes_second
from wellposed.losses.criterion import from_spec, match_shapes
from wellposed.losses.per_example import Loss, PerExample, mean_loss, per_example
from wellposed.losses.score import Score
from wellposed.losses.targets import IGNORED, need_classes, need_numbers, need_shares

# --- rows from units


@dataclass(frozen=True)
class _Units:
    """What is scored: one label a row, or several (tokens, outputs) of example ``row``, without masked ones; ``scores`` ``(units,
    classes)``, or ``(units,)`` logits of the second of two classes; and each unit's weight ``share``, which sum to 1.
    """

    scores: Tensor
    label: Tensor
    row: Tensor
    share: Tensor
    rows: int
    plain: bool

    @property
    def predicted(self) -> Tensor:
        """The class with the highest score; of equal ones the first."""
        return self.scores.argmax(1) if self.scores.ndim > 1 else (self.scores > 0).long()

    @property
    def classes(self) -> int:
        return self.scores.shape[1] if self.scores.ndim > 1 else 2

    def mean_rows(self, values: Tensor) -> Tensor:
        """Each example's linearized part of ``sum share * values``."""
        values = values.double()
        if self.plain:
            return values
        score = (self.share * values).sum()
        parts = self.rows * self.share * (values - score)
        return score + torch.zeros(self.rows, dtype=torch.float64).index_add_(0, self.row, parts)


def _units(metric: Score, outputs: Tensor, target: Tensor, weight: Tensor | None) -> _Units:
    """Scores and labels of the units that count, in double precision; probabilities as targets give their likeliest class."""
    metric.require(target, weight)
    outputs = outputs.double()
    if _are_shares(outputs, target):
        target = target.argmax(1)
    if _is_binary(outputs, target):
        need_shares(metric.name, target)
        outputs, target = match_shapes(outputs, target)
        label, scores = target.round().long(), outputs
    else:
        scores, target = classes_second(outputs, target)
        need_classes(metric.name, target, scores.shape[1])
        label, scores = target.long(), scores.movedim(1, -1)
    n, each = len(label), label[0].numel()
    row = torch.arange(n).repeat_interleave(each)
    share = (torch.ones(n, dtype=torch.float64) if weight is None else weight.double()).repeat_interleave(each)
    label, scores = label.reshape(-1), scores.reshape(n * each, *scores.shape[label.ndim :])
    keep = label != IGNORED
    whole = bool(keep.all())
    if not whole:
        label, scores, row, share = label[keep], scores[keep], row[keep], share[keep]
    if not bool(share.sum() > 0):
        raise InputError(f"{metric.name} needs a row that counts; all that have a weight are left out.")
    return _Units(scores, label, row, share / share.sum(), n, whole and each == 1 and weight is None)


def _are_shares(outputs: Tensor, target: Tensor) -> bool:
    """Whether targets are probabilities of classes: several numbers a row, >= 0, that sum to 1."""
    if not target.is_floating_point() or target.ndim != 2 or target.shape != outputs.shape or target.shape[1] < 2:
        return False
    return bool((target >= 0).all()) and bool((target.sum(1) - 1.0).abs().max() < 1e-3)


def _is_binary(outputs: Tensor, target: Tensor) -> bool:
    """Whether each output is the logit of a label of its own."""
    return outputs.shape == target.shape or (outputs.ndim == target.ndim + 1 and outputs.shape[-1] == 1)


# --- means over labels


@dataclass(frozen=True)
class Accuracy(Score):
    """Share of units (rows, tokens) whose highest score is the label; a single logit says the second class above 0."""

    name = "accuracy"
    classifies = True

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        units = _units(self, outputs, target, weight)
        return units.mean_rows(units.predicted == units.label)

    def rows_of_many(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        if outputs.ndim != 3 or target.ndim != 1 or target.is_floating_point() or weight is not None:
            return super().rows_of_many(outputs, target, weight)
        if bool((target < 0).any()):
            return super().rows_of_many(outputs, target)
        self.require(target)
        need_classes(self.name, target, outputs.shape[2])
        return (outputs.argmax(2) == target).double()


@checked
@dataclass(frozen=True)
class TopKAccuracy(Score):
    """Share of units whose label is among the ``k`` highest scores; 1 from as many ``k`` as there are classes.

    Of equal scores the later classes come first, as in scikit-learn's ``top_k_accuracy_score``. As text ``"top_k_accuracy:5"``.

    Args:
        k: >= 1.
    """

    k: Count = 2

    name = "top_k_accuracy"
    title = "top-k accuracy"
    classifies = True

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        units = _units(self, outputs, target, weight)
        if self.k == 1 and units.scores.ndim == 1:
            return units.mean_rows(units.predicted == units.label)
        if self.k >= units.classes:
            return units.mean_rows(torch.ones_like(units.label))
        mine = units.scores.gather(1, units.label[:, None])
        later = torch.arange(units.classes) > units.label[:, None]
        ahead = (~(units.scores <= mine) | ((units.scores == mine) & later)).sum(1)
        return units.mean_rows(ahead < self.k)


@dataclass(frozen=True)
class LogLoss(Score):
    """Mean cross-entropy of the class scores, in nats."""

    name = "log_loss"
    title = "log loss"
    classifies = True
    higher_is_better = False

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``-log p(label)``; for tokens the linearized mean."""
        self.require(target, weight)
        binary = _is_binary(outputs, target) and not _are_shares(outputs, target)
        loss = BinaryCrossEntropy() if binary else CrossEntropy()
        return averaged(per_example(loss.units(outputs.double(), target), target), weight)


@dataclass(frozen=True)
class Brier(Score):
    """Mean squared distance of the predicted probabilities to what happened, as scikit-learn's ``brier_score_loss``.

    ``(p - y)^2`` of the second of two classes, in [0, 1]; of more classes ``sum_c (p_c - y_c)^2``, in [0, 2].
    """

    name = "brier"
    title = "Brier score"
    classifies = True
    higher_is_better = False

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        if _are_shares(outputs, target):
            self.require(target, weight)
            apart = (outputs.double().softmax(1) - target.double()).square().sum(1)
            return averaged(per_example(apart / (2.0 if target.shape[1] == 2 else 1.0), target), weight)
        units = _units(self, outputs, target, weight)
        if units.classes == 2:
            second = units.scores.sigmoid() if units.scores.ndim == 1 else units.scores.softmax(1)[:, 1]
            return units.mean_rows((second - units.label).square())
        chances = units.scores.softmax(1)
        mine = chances.gather(1, units.label[:, None])[:, 0]
        return units.mean_rows(chances.square().sum(1) - mine.square() + (1.0 - mine).square())


@checked
@dataclass(frozen=True)
class ECE(Score):
    """Expected calibration error: ``sum_b |sum_(i in b) w_i (confidence_i - right_i)| / sum w`` over bins of equal width.

    The confidence is the highest probability, and right is whether its class is the label; of a single logit it is the
    probability of the second class, and right whether it is the label, as in torchmetrics' ``CalibrationError`` (norm
    ``l1``). In [0, 1]. The last bin holds 1. It is biased upwards where bins hold few rows. The rows are its linearization
    at the signs that the bins' gaps have; where the true gaps are near 0 an interval from them is too narrow. As text
    ``"ece:10"``.

    Args:
        bins: >= 1.
    Source:
        Guo et al. (2017), ICML.
    """

    bins: Annotated[int, Within(1, 10**6)] = 15

    name = "ece"
    title = "calibration error"
    classifies = True
    higher_is_better = False

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        units = _units(self, outputs, target, weight)
        if units.scores.ndim == 1:
            sure, right = units.scores.sigmoid(), units.label == 1
        else:
            sure, right = units.scores.softmax(1).max(1).values, units.predicted == units.label
        edges = torch.linspace(0.0, 1.0, self.bins + 1, dtype=torch.float64)
        bins = (torch.bucketize(sure, edges, right=True) - 1).clamp(0, self.bins - 1)
        gap = sure - right.double()
        gaps = torch.zeros(self.bins, dtype=torch.float64).index_add_(0, bins, units.share * gap)
        return units.mean_rows(gaps.sign()[bins] * gap)


# --- functions of counts by class


@dataclass(frozen=True)
class _Counted(Score):
    """A metric that is a function of three shares for each class that a label or a prediction has: labels, predictions, and labels
    that were predicted. A share of nothing is 0, as by scikit-learn's ``zero_division``. A row's influence is the gradient by
    the shares times what it adds to them.
    """

    classifies = True
    average: ClassVar[str] = "macro"

    @abstractmethod
    def of(self, labelled: Tensor, predicted: Tensor, hit: Tensor) -> Tensor:
        """The score of each class, ``(classes,)``, or of sums over them."""

    def pooled(self, labelled: Tensor, predicted: Tensor, hit: Tensor, names: Tensor) -> Tensor:
        if self.average == "micro":
            return self.of(labelled.sum(), predicted.sum(), hit.sum())
        found = self.of(labelled, predicted, hit)
        if self.average == "binary":
            return found[names == 1].sum()
        return (labelled * found).sum() if self.average == "weighted" else found.mean()

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        units = _units(self, outputs, target, weight)
        predicted = units.predicted
        names, index = torch.unique(torch.cat([units.label, predicted]), return_inverse=True)
        if self.average == "binary" and (units.classes > 2 or int(names[-1]) > 1):
            raise InputError(
                f"{self.name} is for two classes, and the model scores {units.classes}; use {self.name}_macro, "
                f"{self.name}_micro or {self.name}_weighted."
            )
        label, guess = index[: len(units.label)], index[len(units.label) :]
        right = (label == guess).double()
        shares = torch.zeros(3, len(names), dtype=torch.float64)
        for kind, place, amount in ((0, label, units.share), (1, guess, units.share), (2, label, units.share * right)):
            shares[kind].index_add_(0, place, amount)
        with torch.enable_grad():
            shares.requires_grad_()
            score = self.pooled(shares[0], shares[1], shares[2], names)
            slope = torch.autograd.grad(score, shares, allow_unused=True)[0] if score.requires_grad else None
        if slope is None:
            slope = torch.zeros_like(shares)
        influence = slope[0][label] + slope[1][guess] + slope[2][label] * right - (slope * shares.detach()).sum()
        rows = torch.zeros(units.rows, dtype=torch.float64)
        return float(score.detach()) + rows.index_add_(0, units.row, units.rows * units.share * influence)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, 0 where the whole is 0; with a finite gradient there."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)


def _averages(cls: type[_Counted]) -> type[_Counted]:
    """Declare the metric of several classes, too: ``f1_macro``, ``f1_micro`` and ``f1_weighted`` beside ``f1``."""
    said = {
        "macro": "Mean over the classes that a label or a prediction has.",
        "micro": "Counted over all rows of all classes together, which is the accuracy.",
        "weighted": "Mean over the classes by their rows.",
    }
    for over, doc in said.items():
        title = f"{over} {cls.title}" if cls.title else ""
        own = {"name": f"{cls.name}_{over}", "title": title, "average": over, "__doc__": doc, "__module__": __name__}
        name = f"{cls.__name__}{over.capitalize()}"
        globals()[name] = dataclass(frozen=True)(type(name, (cls,), own))
    return cls


@dataclass(frozen=True)
class BalancedAccuracy(_Counted):
    """Mean over the classes that have rows of the share of these rows that are right."""

    name = "balanced_accuracy"

    def of(self, labelled: Tensor, predicted: Tensor, hit: Tensor) -> Tensor:
        return _ratio(hit, labelled)[labelled > 0]


@_averages
@dataclass(frozen=True)
class Recall(_Counted):
    """Share of the second class's rows that are predicted as such; 0 where it has none. Two classes."""

    name = "recall"
    average = "binary"

    def of(self, labelled: Tensor, predicted: Tensor, hit: Tensor) -> Tensor:
        return _ratio(hit, labelled)


@_averages
@dataclass(frozen=True)
class Precision(_Counted):
    """Share of the rows predicted as the second class that are; 0 where none is predicted. Two classes."""

    name = "precision"
    average = "binary"

    def of(self, labelled: Tensor, predicted: Tensor, hit: Tensor) -> Tensor:
        return _ratio(hit, predicted)


@_averages
@dataclass(frozen=True)
class F1(_Counted):
    """``2 hits / (labels + predictions)`` of the second class, the harmonic mean of precision and recall. Two classes."""

    name = "f1"
    title = "F1"
    average = "binary"

    def of(self, labelled: Tensor, predicted: Tensor, hit: Tensor) -> Tensor:
        return _ratio(2.0 * hit, labelled + predicted)


@dataclass(frozen=True)
class AUC(Score):
    """Area under the ROC curve: the chance that a positive row scores above a negative one. Two classes, both present."""

    name = "auc"
    title = "AUC"
    classifies = True

    def undefined(self, target: Tensor, weight: Tensor | None = None) -> str:
        counted = target if weight is None else target[weight > 0]
        if (reason := super().undefined(target, weight)) or bool((counted != counted.reshape(-1)[0]).any()):
            return reason
        return (
            f"auc needs rows of both classes, and all {len(counted)} that count are of class "
            f"{float(counted.reshape(-1)[0]):g}. Give more rows, or use accuracy or log_loss."
        )

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The area plus each row's influence (its placement among the other class). Source: DeLong et al. (1988)."""
        self.require(target, weight)
        if outputs.ndim == 2 and outputs.shape[1] == 2:
            outputs = outputs[:, 1] - outputs[:, 0]
        elif outputs.ndim == 2 and outputs.shape[1] == 1:
            outputs = outputs[:, 0]
        target = target.reshape(-1) if target.shape == (len(target), 1) else target
        if outputs.ndim != 1 or target.ndim != 1 or len(torch.unique(target)) > 2:
            raise InputError("auc is for two classes; use accuracy, balanced_accuracy or log_loss.")
        score, positive = outputs.double(), target == target.max()
        share = torch.ones_like(score) if weight is None else weight.double()
        ones, zeros = share[positive].sum(), share[~positive].sum()
        placement = torch.empty_like(score)
        placement[positive] = _share_below(score[positive], score[~positive], share[~positive])
        placement[~positive] = 1.0 - _share_below(score[~positive], score[positive], share[positive])
        area = (share * placement)[positive].sum() / ones
        size = len(score) * share / torch.where(positive, ones, zeros)
        return area + (placement - area) * size


def _share_below(values: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """(Weighted) share of ``others`` below each value, ties counting one half."""
    ordered, order = others.sort()
    total = torch.cat([share.new_zeros(1), share[order].cumsum(0)])
    below = total[torch.searchsorted(ordered, values, right=False)]
    upto = total[torch.searchsorted(ordered, values, right=True)]
    return (below + upto) / (2 * total[-1])


# --- of numbers


def averaged(part: PerExample, weight: Tensor | None) -> Tensor:
    return mean_loss([part], None if weight is None else [weight]).rows


@dataclass(frozen=True)
class _OfNumbers(Score):
    """A mean over rows and outputs of what each number is off by."""

    higher_is_better = False
    in_units = True

    @abstractmethod
    def off(self, outputs: Tensor, target: Tensor) -> Tensor:
        """What each number costs; the shape of both."""

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        outputs, target = _numbers(self, outputs, target, weight)
        return averaged(per_example(self.off(outputs, target).reshape(len(target), -1).mean(1), target), weight)


def _numbers(metric: Score, outputs: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    metric.require(target, weight)
    need_numbers(metric.name, target)
    return match_shapes(outputs.double(), target.double())


@dataclass(frozen=True)
class MAE(_OfNumbers):
    """``mean |y - f|``, in the units of the target."""

    name = "mae"
    title = "MAE"

    def off(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).abs()


@dataclass(frozen=True)
class MAPE(_OfNumbers):
    """``mean |y - f| / |y|``, as a share: 0.1 is ten percent.

    Where ``y`` is 0 it is divided by 2.2e-16, as in scikit-learn, so that one such row decides the score.
    """

    name = "mape"
    title = "MAPE"

    def off(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).abs() / target.abs().clamp_min(torch.finfo(torch.float64).eps)


@checked
@dataclass(frozen=True)
class Pinball(_OfNumbers):
    """``mean max(level (y - f), (level - 1) (y - f))``: how well ``f`` is the quantile ``level`` of ``y``, in its units.

    As text ``"pinball:0.9"``. scikit-learn's ``mean_pinball_loss``.

    Args:
        level: in [0, 1].
    """

    level: Annotated[float, Within(0, 1)] = 0.5

    name = "pinball"
    title = "pinball loss"

    def read(self, loss: Loss, outputs: Tensor) -> Tensor:
        """The quantile of that level where the loss knows the distribution; else the prediction."""
        return loss.response(outputs) if loss.distribution is None else loss.distribution.quantile(outputs, self.level)

    def off(self, outputs: Tensor, target: Tensor) -> Tensor:
        left = target - outputs
        return torch.maximum(self.level * left, (self.level - 1.0) * left)


@dataclass(frozen=True)
class RMSE(_OfNumbers):
    """``sqrt(mean (y - f)^2)``, in the units of the target."""

    name = "rmse"
    title = "RMSE"

    def off(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).square()

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``rmse + ((y_i - f_i)^2 - mse)/(2 rmse)``."""
        squares = super().rows(outputs, target, weight)
        root = squares.mean().sqrt()
        return root + (squares - squares.mean()) / (2.0 * root.clamp_min(1e-300))


@dataclass(frozen=True)
class R2(Score):
    """``1 - sum (y - f)^2 / sum (y - mean y)^2``, over all outputs together.

    Where the target is constant (one row, say) it is 1 if every prediction is exact and 0 if not, as in scikit-learn.
    """

    name = "r2"
    title = "R²"

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``r2 - n ((y_i - f_i)^2 - (1 - r2) (y_i - mean y)^2) / sum (y - mean y)^2``."""
        outputs, target = _numbers(self, outputs, target, weight)
        return self._rows(outputs[None], target, weight)[0]

    def rows_of_many(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        if outputs[0].numel() != target.numel():
            return super().rows_of_many(outputs, target, weight)
        self.require(target, weight)
        need_numbers(self.name, target)
        return self._rows(outputs.double(), target.double(), weight)

    @staticmethod
    def _rows(outputs: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        n = len(target)
        target, outputs = target.reshape(n, -1), outputs.reshape(len(outputs), n, -1)
        share = torch.full((n, 1), 1.0 / n, dtype=torch.float64) if weight is None else weight.double()[:, None]
        share = share / share.sum()
        squares = (outputs - target).square().sum(2)
        counted = target[share[:, 0] > 0]
        varies = (counted != counted[0]).any(0)  # the mean of equal numbers may differ from them by rounding
        spread = ((target - (share * target).sum(0)).square() * varies).sum(1)
        total = (share[:, 0] * spread).sum()
        lost = (squares * share[:, 0]).sum(1, keepdim=True)
        if not bool(total > 0):
            return (lost == 0).double().expand(-1, n)
        left = lost / total
        return 1.0 - left - n * share[:, 0] * (squares - left * spread) / total


@dataclass(frozen=True)
class _Restored(Score):
    """A metric of encoded targets, in the target's own terms."""

    inner: Score
    outputs: Callable[[Tensor], Tensor]
    target: Callable[[Tensor], Tensor]

    name = ""

    def __post_init__(self) -> None:
        for part in ("name", "title", "classifies", "higher_is_better", "in_units"):
            object.__setattr__(self, part, getattr(self.inner, part))

    def undefined(self, target: Tensor, weight: Tensor | None = None) -> str:
        return self.inner.undefined(target, weight)

    def read(self, loss: Loss, outputs: Tensor) -> Tensor:
        return self.inner.read(loss, outputs)

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.inner.rows(self.outputs(outputs), self.target(target), weight)

    def at_once(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.inner.at_once(self.outputs(outputs), self.target(target), weight)


def in_target_units(inner: Score, scale: float, mean: float = 0.0) -> Score:
    """The metric in the units of a target of which ``mean`` was subtracted, and which was then divided by ``scale``."""
    if not inner.in_units or (scale == 1.0 and mean == 0.0):
        return inner
    return in_own_terms(
        inner, partial(_shifted, scale=scale, shift=mean), partial(inner.rescaled, scale=scale, shift=mean)
    )


def in_own_terms(
    inner: Score, restored: Callable[[Tensor], Tensor], outputs: Callable[[Tensor], Tensor] | None = None
) -> Score:
    """The metric of targets that were encoded, taken of both sides after ``restored`` has undone the encoding (``outputs`` in what
    the metric reads, where that is no prediction of the target).
    """
    return _Restored(inner, outputs or restored, restored)


def _shifted(target: Tensor, scale: float, shift: float) -> Tensor:
    return target.double() * scale + shift


def metrics(classifying: bool | None = None) -> dict[str, type[Score]]:
    """Every metric by name; those for classes (True) or for numbers (False)."""
    found: dict[str, type[Score]] = classes_in("wellposed.losses", Score)  # type: ignore[type-abstract]
    return {name: cls for name, cls in found.items() if cls is not Metric and classifying in (None, cls.classifies)}


def metric(given: Any, loss: Loss | None = None) -> Score:
    """The metric of that name, with its number after a colon if it takes one: ``"pinball:0.9"``; or any callable, see `Metric`.

    Args:
        loss: says whether a callable is given classes or numbers, and what distribution the outputs are of.
    Raises:
        InputError: there is none of that name (the nearest is suggested), a callable does not say whether more is better, or it
            cannot be read from the outputs of a model with that loss.
    """
    if isinstance(given, str):
        given = from_spec("metric", given, metrics())
    found = given if isinstance(given, Score) else Metric(given)
    return found if loss is None else found.trained_with(loss)


def default_metric(loss: Loss) -> Score | None:
    """Accuracy where a loss classifies, R2 where it is the squared error (its mean over outputs too), else none."""
    if loss.classifies:
        return Accuracy()
    return R2() if loss.summed == "squared_error" else None
