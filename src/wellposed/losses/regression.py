"""Losses of numbers, summed over outputs. Each returns ``(values, None)``: a value for each example."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from wellposed.losses.classification import aligned


def _over_outputs(values: Tensor) -> tuple[Tensor, None]:
    return (values.flatten(1).sum(1) if values.ndim > 1 else values), None


def squared_error(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``sum_outputs (y - f)^2``, without 1/2. ``outputs`` and ``target``: ``(n,)`` or ``(n, outputs)``."""
    outputs, target = aligned(outputs, target)
    return _over_outputs((outputs - target).square())


def absolute_error(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``sum_outputs |y - f|``."""
    outputs, target = aligned(outputs, target)
    return _over_outputs((outputs - target).abs())


def huber(outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """``sum_outputs h(y - f)`` with ``h(r) = r^2/2`` for ``|r| <= 1`` and ``|r| - 1/2`` beyond."""
    outputs, target = aligned(outputs, target)
    return _over_outputs(F.huber_loss(outputs, target, reduction="none"))
