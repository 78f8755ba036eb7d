"""Losses of class scores. Each returns ``(values, mask)``: a value for each unit, and which units count (None: all)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Targets of this value are masked, as in torch."""


def cross_entropy(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """``-log softmax(outputs)[target]``.

    Args:
        outputs: logits ``(n, classes)``, ``(n, classes, ...)`` as in torch, or with the classes last, ``(n, ..., classes)``.
        target: class indices ``(n,)`` or ``(n, ...)``, with -100 masked; or probabilities ``(n, classes)``.
    Returns:
        values ``(n,)`` or ``(n, ...)`` in nats, and the mask of the units that count.
    """
    if target.is_floating_point() and target.shape == outputs.shape:
        outputs = wide(outputs)
        return F.cross_entropy(outputs, target.to(outputs.dtype), reduction="none"), None
    outputs, target = classes_second(outputs, target.long())
    highest = int(target.max()) if target.numel() else 0
    if highest >= outputs.shape[1]:
        raise ValueError(f"label {highest} needs {highest + 1} outputs, there are {outputs.shape[1]}")
    values = F.cross_entropy(outputs, target, reduction="none", ignore_index=IGNORED)
    mask = target != IGNORED
    return values, None if bool(mask.all()) else mask


def classes_second(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Class scores ``(n, classes, ...)`` as torch has them, and labels ``(n, ...)``.

    ``(n, ..., classes)`` is turned, labels ``(n, 1)`` become ``(n,)``. Where both layouts fit, it is torch's.
    """
    if target.ndim == outputs.ndim == 2 and target.shape[-1] == 1:
        target = target.squeeze(-1)
    torch_layout = outputs.shape[:1] + outputs.shape[2:] == target.shape
    if not torch_layout and outputs.shape[:-1] == target.shape:
        outputs = outputs.movedim(-1, 1)
    return outputs, target


def binary_cross_entropy(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """``log(1 + exp(-(2y-1) f))``, summed over outputs.

    Args:
        outputs: logits ``(n,)`` or ``(n, outputs)``.
        target: 0 or 1, of the same shape, or ``(n,)`` for one output.
    """
    outputs, target = aligned(outputs, target)
    values = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    return values.flatten(1).sum(1) if values.ndim > 1 else values, None


def aligned(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one shape: ``(n, 1)`` goes with ``(n,)``; anything else that differs is refused.

    Raises:
        ValueError: the shapes differ; broadcasting ``(n, 1)`` against ``(n,)`` would silently compare all with all.
    """
    if outputs.shape != target.shape:
        if outputs.ndim == target.ndim + 1 and outputs.shape[-1] == 1:
            outputs = outputs.squeeze(-1)
        elif target.ndim == outputs.ndim + 1 and target.shape[-1] == 1:
            target = target.squeeze(-1)
    if outputs.shape != target.shape:
        raise ValueError(f"shapes {tuple(outputs.shape)} and {tuple(target.shape)} differ")
    outputs = wide(outputs)
    return outputs, target.to(outputs.dtype)


def wide(outputs: Tensor) -> Tensor:
    """At least single precision: in half precision the differences of a loss would be lost."""
    if not outputs.is_floating_point():
        return outputs.to(torch.get_default_dtype())
    return outputs.float() if outputs.element_size() < 4 else outputs
