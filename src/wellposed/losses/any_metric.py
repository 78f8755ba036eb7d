"""Any metric: a function, one of scikit-learn's metrics or scorers, or an object of torchmetrics' kind, as a `Score`."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, described, first_line
from wellposed.core.numbers import to_python
from wellposed.losses.score import Score

if TYPE_CHECKING:
    from wellposed.losses.per_example import Loss

GROUPS = 100
"""Of rows, of which each is left out once to see what its rows add to a score: the error of a standard error is then 7 %."""
ORDERED = ("y_true", "y1", "labels_true")
"""First arguments of scikit-learn's metrics, which take targets first, as arrays."""
SURE = ("y_proba", "y_prob", "y_score", "probas_pred", "pred_decision")
"""Second arguments that are probabilities, not labels."""
MORE, LESS = ("_score",), ("_loss", "_error", "_deviance")
"""How scikit-learn's names say whether a higher value is better."""


@checked
class Metric(Score):
    """Make a metric of any callable.

    What it is called with depends on what it is: a metric of scikit-learn (or any function whose first argument is ``y_true``)
    gets arrays, labels or probabilities as its second argument asks for them; a scorer of scikit-learn asks for what it needs;
    an object with ``update``, ``compute`` and ``reset``, as torchmetrics has them, gets predictions (of classes their
    probabilities) and targets; any other callable gets the model's outputs and the targets, as tensors. Examples are the first
    axis.

    The rows' parts are the jackknife's, from `GROUPS` groups of rows that are left out one after the other.

    Args:
        function: it returns one number.
        higher_is_better: where the metric does not say so itself.
        name: in reports; by default the function's.
    Raises:
        InputError: it is not callable, or nobody says whether a higher value is better.
    Example:
        >>> import torch, wellposed as wp
        >>> within = wp.Metric(lambda f, y: ((f - y).abs() < 1).float().mean(), higher_is_better=True, name="within 1")
        >>> within.score(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 1.0]))
        0.5
    """

    in_units = True

    def __init__(
        self, function: Callable[..., Any], *, higher_is_better: bool | None = None, name: str | None = None
    ) -> None:
        if not callable(function) or isinstance(function, type):
            hint = f" Write {function.__name__}()." if isinstance(function, type) else ""
            raise InputError(
                f"A metric is a name or a callable (predictions, targets) -> number; it was given {described(function)}.{hint}"
            )
        inner = function.func if isinstance(function, functools.partial) else function
        name = name or _name_of(inner)
        better = _direction(inner) if higher_is_better is None else higher_is_better
        if better is None:
            raise InputError(
                f"It is not known whether a higher {name!r} is better. Write wp.Metric({name}, higher_is_better=True), or False."
            )
        taken = _parameters(function)
        own = {
            "function": function, "name": name, "higher_is_better": better, "taken": taken, "scorer": _is_scorer(inner),
            "counts": all(hasattr(inner, part) for part in ("update", "compute", "reset")),
        }  # fmt: skip
        for key, value in own.items():
            object.__setattr__(self, key, value)

    function: Callable[..., Any]
    taken: tuple[str, ...]
    scorer: bool
    counts: bool

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def trained_with(self, loss: Loss) -> Metric:
        found = copy.copy(self)
        object.__setattr__(found, "classifies", loss.classifies)
        return found

    def undefined(self, target: Tensor, weight: Tensor | None = None) -> str:
        if weight is not None and not (self.scorer or "sample_weight" in self.taken):
            return f"the metric {self.name!r} takes no sample_weight, and the rows have weights. Take another metric."
        return super().undefined(target, weight)

    def at_once(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        self.require(target, weight)
        return torch.full((len(target),), self._value(outputs, target, weight), dtype=torch.float64)

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The score plus each row's influence, by leaving out groups of rows; 0 where the rest has no score."""
        whole = self.at_once(outputs, target, weight)
        n, score = len(target), float(whole[0])
        count = min(n, GROUPS)
        if count < 3 or not math.isfinite(score):
            return whole
        group, influence = torch.arange(n) % count, torch.zeros(count, dtype=torch.float64)
        for i in range(count):
            keep = group != i
            try:
                rest = self._value(outputs[keep], target[keep], None if weight is None else weight[keep])
            except InputError:
                continue
            influence[i] = (count - 1) * (score - rest) if math.isfinite(rest) else 0.0
        # Rows of a group move together: their parts are as much larger as keeps the variance of the mean.
        return whole + (influence - influence[group].mean())[group] * math.sqrt((n - 1) / (count - 1))

    def _value(self, outputs: Tensor, target: Tensor, weight: Tensor | None) -> float:
        try:
            found = to_python(self._called(*_alike(outputs, target), weight))
        except Exception as error:  # whatever somebody's own function raises
            shapes = f"outputs are {tuple(outputs.shape)}, targets are {tuple(target.shape)} {target.dtype}"
            raise InputError(
                f"The metric {self.name!r} cannot be computed: {type(error).__name__}: {first_line(error)} ({shapes})."
            ) from error
        if not isinstance(found, Real):
            raise InputError(f"The metric {self.name!r} must return one number; it returned {described(found)}.")
        return float(found)

    def _called(self, outputs: Tensor, target: Tensor, weight: Tensor | None) -> Any:
        weights = {} if weight is None else {"sample_weight": weight.numpy()}
        if self.scorer:
            return self.function(_answers(outputs, self.classifies), outputs.numpy(), target.numpy(), **weights)
        if self.taken[:1] and self.taken[0] in ORDERED:
            sure = self.taken[1] in SURE or self.name == "log_loss"  # whose older versions call them y_pred
            return self.function(target.numpy(), _predicted(outputs, self.classifies, sure), **weights)
        if not self.counts:
            return self.function(outputs, target, **weights)
        metric: Any = copy.deepcopy(self.function)
        metric.reset()
        if self.classifies:
            outputs, target = _chances(outputs), target.long() if bool((target == target.round()).all()) else target
        if getattr(metric, "task", "") == "binary" or type(metric).__name__.startswith("Binary"):
            outputs = outputs[:, 1] if outputs.ndim == 2 and outputs.shape[1] == 2 and target.ndim == 1 else outputs
        metric.update(outputs, target)
        return metric.compute()


def _alike(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """``(n, 1)`` beside ``(n,)`` as ``(n,)``, so that nothing is compared with all others."""
    if outputs.ndim == target.ndim + 1 and outputs.shape[-1] == 1:
        return outputs.squeeze(-1), target
    if target.ndim == outputs.ndim + 1 and target.shape[-1] == 1:
        return outputs, target.squeeze(-1)
    if target.ndim == 2 == outputs.ndim and target.shape[1] == 1 < outputs.shape[1]:
        return outputs, target.squeeze(-1)
    return outputs, target


def _chances(outputs: Tensor) -> Tensor:
    """Probabilities of the classes, or of each label that is a logit of its own."""
    return outputs.double().softmax(1) if outputs.ndim > 1 and outputs.shape[1] > 1 else outputs.double().sigmoid()


def _predicted(outputs: Tensor, classifies: bool, sure: bool) -> np.ndarray:
    """What scikit-learn's metrics compare with targets: numbers, labels, or probabilities (of two classes the second's)."""
    if not classifies:
        return np.asarray(outputs.double().numpy())
    chances = _chances(outputs)
    if sure:
        return np.asarray((chances[:, 1] if chances.ndim == 2 and chances.shape[1] == 2 else chances).numpy())
    return np.asarray((chances.argmax(1) if chances.ndim > 1 else (chances > 0.5).long()).numpy())


def _answers(outputs: Tensor, classifies: bool) -> Any:
    """Outputs as a fitted estimator of scikit-learn, which is what a scorer asks."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Answers(ClassifierMixin if classifies else RegressorMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(outputs.shape[1] if outputs.ndim > 1 else 2)

        def fit(self, X: Any, y: Any) -> Any:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, X: Any) -> np.ndarray:
            return _predicted(outputs, classifies, sure=False)

        if classifies:

            def predict_proba(self, X: Any) -> np.ndarray:
                chances = _chances(outputs)
                both = chances if chances.ndim > 1 else torch.stack([1.0 - chances, chances], 1)
                return np.asarray(both.numpy())

    return Answers()


def _name_of(function: Any) -> str:
    inner = getattr(function, "_score_func", function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _is_scorer(function: Any) -> bool:
    return type(function).__module__.startswith("sklearn.metrics._scorer")


def _direction(function: Any) -> bool | None:
    """Whether a higher value is better, where the metric says so: by itself, as a scorer, or by scikit-learn's names."""
    said = getattr(function, "higher_is_better", None)
    if isinstance(said, bool) or _is_scorer(function):
        return said if isinstance(said, bool) else True
    if str(getattr(function, "__module__", "")).startswith("sklearn."):
        name = _name_of(function)
        return True if name.endswith(MORE) else False if name.endswith(LESS) else None
    return None


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
