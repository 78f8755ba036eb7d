"""Any loss, example by example: the sum of its units (tokens, outputs) and how many there are.

    mean = sum_i w_i total_i / sum_i w_i count_i

With one unit an example this is the plain mean; with masked tokens it is the mean over tokens, and its standard error
treats examples, not tokens, as the independent draws.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.errors import InputError, ProblemError, described, did_you_mean, listed
from wellposed.losses.classification import aligned, binary_cross_entropy, classes_second, cross_entropy
from wellposed.losses.regression import absolute_error, huber, squared_error


@dataclass(frozen=True)
class PerExample:
    """``total`` and ``count`` of each example, both ``(n,)``."""

    total: Tensor
    count: Tensor

    def sums(self, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The (weighted) sum over units, which carries gradient, and the (weighted) number of units; both 0-d."""
        if weight is None:
            return self.total.sum(), self.count.sum()
        weight = weight.to(self.total)
        return (weight * self.total).sum(), (weight * self.count).sum()

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The (weighted) mean over units, 0-d, carries gradient; 0 where no unit counts."""
        total, size = self.sums(weight)
        return total / size.clamp_min(torch.finfo(size.dtype).tiny)


NAMED: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber,
}
CLASSIFYING = {"cross_entropy", "binary_cross_entropy"}
ALIASES = {"mse": "squared_error", "mae": "absolute_error", "ce": "cross_entropy", "bce": "binary_cross_entropy"}


class Loss:
    """A loss by name or by callable, that can be asked for each example's part.

    Args:
        given: a name of `NAMED`, a torch loss module, a function with ``reduction=``, or any callable
            ``loss(outputs, target)`` that returns values for each example, values with a mask, or their mean.
    Raises:
        InputError: ``given`` is neither a known name nor callable.
    """

    def __init__(self, given: Any) -> None:
        self.given: Any = given.given if isinstance(given, Loss) else given
        given = _as_module(self.given)
        if isinstance(given, str):
            name = ALIASES.get(given, given)
            if name not in NAMED:
                raise InputError(f"There is no loss {given!r}.{did_you_mean(given, NAMED)} Known: {listed(NAMED)}.")
            self.name = name
            self.ignored: int | None = None
            self._units: Callable[[Any, Any], Any] = NAMED[name]
            self._clean = self._units
        elif callable(given):
            self.name = _name_of(given)
            self.ignored = _ignored(given)
            self._units = _unreduced(given)
            self._clean = _unreduced(without_smoothing(given))
        else:
            raise InputError(f"A loss is a name ({listed(NAMED)}) or a callable; {described(given)} is neither.")

    @property
    def classifies(self) -> bool:
        """Whether the loss compares class scores with labels."""
        return self.name in CLASSIFYING

    def mean(self, outputs: Any, target: Any, weight: Tensor | None = None) -> Tensor:
        """The mean that training minimizes, 0-d, carries gradient.

        Raises:
            ProblemError: outputs and targets do not fit, or weights are given to a loss that is a mean already.
        """
        return self.parts(outputs, target, weight is not None).mean(weight)

    def parts(self, outputs: Any, target: Any, weighted: bool = False) -> PerExample:
        """Each example's part as training sees it, with gradient. A loss that only returns means is one example, and
        counts as many units as it has rows.

        Raises:
            ProblemError: outputs and targets do not fit, or a loss that is a mean already shall be ``weighted``.
        """
        units = self._call(self._units, outputs, target)
        if isinstance(units, Tensor) and units.ndim == 0:
            if weighted:
                raise ProblemError(
                    "Example weights need a loss that returns a value for each example; this one returns their mean. "
                    "Use reduction='none'."
                )
            return _whole(units, max(1, _rows(target) or _rows(outputs)))
        return per_example(self._of_rows(units, outputs, target), target, self.ignored)

    @torch.no_grad()
    def per_example(self, outputs: Any, target: Any) -> PerExample:
        """Each example's part, without label smoothing. A loss that only returns means is asked example by example.

        Where the mean of those does not agree with the loss (it couples examples), the whole batch counts as one unit.
        """
        units = self._call(self._clean, outputs, target)
        if isinstance(units, Tensor) and units.ndim == 0:
            return self._sliced(outputs, target, units)
        return per_example(self._of_rows(units, outputs, target), target, self.ignored)

    def _of_rows(self, units: Any, outputs: Any, target: Any) -> Any:
        """Units with a first axis of examples; those of tokens that were flattened are put back to their example."""
        values, mask = units if isinstance(units, tuple) and len(units) == 2 else (units, None)
        rows = _rows(target) or _rows(outputs)
        if not isinstance(values, Tensor) or values.ndim == 0 or not rows or len(values) == rows:
            return units
        if values.ndim == 1 and isinstance(target, Tensor) and len(values) == target.numel():
            both = [part.reshape(rows, -1) for part in (values, mask) if isinstance(part, Tensor)]
            return both[0] if mask is None else tuple(both)
        raise ProblemError(
            f"The loss {self.name!r} returned {len(values)} values for {rows} examples. Return one for each example, or "
            "their mean, a tensor without axes."
        )

    def _sliced(self, outputs: Any, target: Any, mean: Tensor) -> PerExample:
        rows = _rows(outputs)
        if rows and rows == _rows(target):
            singles = [self._call(self._clean, outputs[i : i + 1], target[i : i + 1]) for i in range(rows)]
            parts = torch.stack([single.reshape(()) for single in singles]).float()
            if torch.isclose(parts.mean(), mean.float(), rtol=1e-3, atol=1e-6):
                return PerExample(parts, torch.ones_like(parts))
            if self._broadcasts(outputs, target, parts.mean()):
                raise ProblemError(
                    f"The loss {self.name!r} compares all rows with all: outputs are {_shape(outputs)}, targets are "
                    f"{_shape(target)}. Give both one shape."
                )
        return _whole(mean.float(), max(1, _rows(target) or rows))

    def _broadcasts(self, outputs: Tensor, target: Tensor, mean: Tensor) -> bool:
        """Whether the loss would be the mean over examples if ``(n, 1)`` and ``(n,)`` were one shape."""
        if len(outputs) < 2 or {tuple(outputs.shape), tuple(target.shape)} != {(len(outputs),), (len(outputs), 1)}:
            return False
        try:
            fitting = self._call(self._clean, outputs.reshape(-1), target.reshape(-1))
        except ProblemError:
            return False
        return bool(torch.isclose(fitting.float(), mean, rtol=1e-3, atol=1e-6))

    def _call(self, units: Callable[[Any, Any], Any], outputs: Any, target: Any) -> Any:
        try:
            return units(outputs, target)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise ProblemError(
                f"The loss {self.name!r} does not fit the model: outputs are {_shape(outputs)}, targets are "
                f"{_shape(target)} ({error})."
            ) from error


def per_example(units: Any, target: Any, ignored: int | None = None) -> PerExample:
    """Sum the units of each example: ``units`` is ``(n, ...)``, or a pair of it and a mask of the same shape.

    Raises:
        ProblemError: what the loss returned has no axis of examples.
    """
    if isinstance(units, PerExample):
        return units
    values, mask = units if isinstance(units, tuple) else (units, None)
    if not isinstance(values, Tensor) or values.ndim == 0:
        raise ProblemError("A loss must return a tensor: a value for each example, or their mean.")
    if mask is None and ignored is not None and isinstance(target, Tensor) and target.shape == values.shape:
        mask = target != ignored
    count = torch.ones_like(values) if mask is None else mask.to(values.dtype).expand_as(values)
    total = values if mask is None else values.where(mask.bool().expand_as(values), torch.zeros_like(values))
    return PerExample(_by_row(total), _by_row(count))


def _by_row(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).sum(1)


ELEMENTWISE = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.PoissonNLLLoss,
)  # fmt: skip
"""torch's losses that compare number with number, and would broadcast ``(n, 1)`` against ``(n,)``."""


FUNCTIONS: dict[Any, type[nn.Module]] = {
    nn.functional.cross_entropy: nn.CrossEntropyLoss,
    nn.functional.nll_loss: nn.NLLLoss,
    nn.functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    nn.functional.mse_loss: nn.MSELoss,
    nn.functional.l1_loss: nn.L1Loss,
    nn.functional.smooth_l1_loss: nn.SmoothL1Loss,
    nn.functional.huber_loss: nn.HuberLoss,
}


def _as_module(given: Any) -> Any:
    """torch's functional cross-entropy, also with arguments set by ``functools.partial``, as the module it stands for."""
    function = given.func if isinstance(given, functools.partial) and not given.args else given
    if callable(function) and isinstance(function, Hashable) and function in FUNCTIONS:
        keywords = dict(given.keywords) if isinstance(given, functools.partial) else {}
        return FUNCTIONS[function](**keywords)
    return given


def _ignored(given: Any) -> int | None:
    """The target that a loss leaves out of its mean."""
    value = getattr(given, "ignore_index", None)
    return int(value) if isinstance(value, int) else None


def _whole(mean: Tensor, rows: int) -> PerExample:
    """A batch as one example of ``rows`` units."""
    return PerExample((mean * rows).reshape(1), torch.full((1,), float(rows), device=mean.device, dtype=mean.dtype))


def _name_of(given: Any) -> str:
    known = {
        nn.CrossEntropyLoss: "cross_entropy",
        nn.BCEWithLogitsLoss: "binary_cross_entropy",
        nn.MSELoss: "squared_error",
    }
    return known.get(type(given)) or str(getattr(given, "__name__", type(given).__name__))


def _unreduced(given: Any) -> Callable[[Any, Any], Any]:
    """The callable with its reduction over examples taken out, where that is possible."""
    if isinstance(given, nn.modules.loss._Loss) and hasattr(given, "reduction"):
        if isinstance(given, (nn.CrossEntropyLoss, nn.NLLLoss)):
            return _of_classes(given)
        loose = copy.copy(given)
        loose.reduction = "none"
        if isinstance(given, ELEMENTWISE):
            return lambda outputs, target: loose(*aligned(outputs, target))
        if given.reduction == "batchmean":
            return lambda outputs, target: loose(outputs, target).flatten(1).sum(1)
        return loose
    try:
        has_reduction = "reduction" in inspect.signature(given).parameters
    except (TypeError, ValueError):
        has_reduction = False
    if has_reduction and not isinstance(given, type):
        return lambda outputs, target: given(outputs, target, reduction="none")
    return given  # type: ignore[no-any-return]


def without_smoothing(given: Any) -> Any:
    """The loss without label smoothing, which is noise on the targets: losses that are compared must be clean."""
    if isinstance(given, nn.CrossEntropyLoss) and given.label_smoothing:
        given = copy.copy(given)
        given.label_smoothing = 0.0
    return given


def _of_classes(given: nn.CrossEntropyLoss | nn.NLLLoss) -> Callable[[Any, Any], Any]:
    """Values and how much each counts. Class weights weigh both sums, as torch's weighted mean does:
    ``sum w_y l / sum w_y``; what is ignored counts nothing."""
    loose = copy.deepcopy(given)
    loose.reduction = "none"

    def units(outputs: Tensor, target: Tensor) -> Tensor | PerExample:
        if target.is_floating_point():
            return loose(outputs, target)  # type: ignore[no-any-return]
        outputs, target = classes_second(outputs, target.long())
        counts = target != given.ignore_index
        if given.weight is not None:
            weight = loose.weight = given.weight.to(outputs)
            counts = weight[target.where(counts, torch.zeros_like(target))] * counts
        values = loose(outputs, target)
        return PerExample(_by_row(values), _by_row(counts.to(values.dtype)))

    return units


def _rows(value: Any) -> int:
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else 0


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


@dataclass(frozen=True)
class Average:
    """A mean with its standard error over examples, and what each example adds to it.

    ``rows[i]`` is example ``i``'s linearized part: the mean of ``rows`` is ``mean``, and differences of rows between
    two models on the same examples are paired.
    """

    mean: float
    se: float
    rows: Tensor


def average(parts: list[PerExample], weights: list[Tensor] | None = None) -> Average:
    """The mean over all parts with its standard error, by linearization of the ratio.

    ``se^2 = n/(n-1) * sum_i (w_i (total_i - mean*count_i))^2 / (sum_i w_i count_i)^2``; NaN for fewer than 2 examples.
    """
    total, count = torch.cat([p.total for p in parts]), torch.cat([p.count for p in parts])
    return averages(total[None], count[None], None if weights is None else torch.cat(weights))[0]


def averages(total: Tensor, count: Tensor, weight: Tensor | None = None) -> list[Average]:
    """`average` of several models on the same examples.

    Args:
        total, count: ``(models, n)``.
        weight: ``(n,)``.
    """
    total, count = total.double().cpu(), count.double().cpu()
    if weight is not None:
        total, count = total * weight.double().cpu(), count * weight.double().cpu()
    n, sizes = total.shape[1], count.sum(1)
    if n == 0:
        return [Average(math.nan, math.nan, row) for row in total]
    means = (total.sum(1) / sizes)[:, None]
    influence = (total - means * count) * (n / sizes)[:, None]
    spread = (influence.square().sum(1) / (n * (n - 1))).sqrt() if n > 1 else torch.full_like(sizes, math.nan)
    plain = weight is None and bool((count == 1).all())
    rows = total if plain else means + influence
    return [Average(mean, se, row) for mean, se, row in zip(means[:, 0].tolist(), spread.tolist(), rows, strict=True)]
