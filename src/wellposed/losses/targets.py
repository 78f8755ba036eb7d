"""What targets a loss or a metric takes. Everything is compared with its limits before anything is counted or built of it.

One wrong label is enough to ask for all memory (ten million classes), and a label outside its range gives a loss without
meaning (binary cross-entropy of -1 is negative). So each check looks at the smallest and the largest target only, and says
in one sentence what was found, what is needed and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.core.batches import cat_padded
from wellposed.core.errors import TargetError

IGNORED = -100
"""Class indices of this value are left out, as in torch."""
SLACK = 2.0**-8
"""Rounding of targets near 1 that were smoothed or mixed in bfloat16."""


def joined_targets(parts: Sequence[Tensor], ignored: int = IGNORED) -> Tensor | None:
    """Targets of batches as one tensor. Labels of tokens that are filled in are left out; None where targets of batches that
    are padded to different lengths are numbers, since none of them would be left out, and of sparse matrices."""
    if any(part.layout != torch.strided for part in parts):
        return None
    ragged = len({part.shape[1:] for part in parts}) > 1
    if ragged and (len({part.ndim for part in parts}) > 1 or any(part.is_floating_point() for part in parts)):
        return None
    return cat_padded(parts, ignored)


def extremes(target: Tensor) -> tuple[float, float]:
    """The smallest and the largest target, both NaN where any is NaN; (0, 0) of an empty tensor."""
    if not target.numel() or target.dtype == torch.bool or target.is_complex():
        return 0.0, 0.0
    low, high = torch.aminmax(target.detach())
    return float(low), float(high)


def need_numbers(name: str, target: Tensor, least: float = -math.inf) -> None:
    """Refuse targets that are NaN or infinite, or below ``least``."""
    low, high = extremes(target)
    if math.isfinite(low) and math.isfinite(high):
        if low < least:
            raise TargetError(
                f"{name} needs targets of at least {least:g}; the smallest is {low:g}. Take another loss for such amounts."
            )
        return
    bad = ~torch.isfinite(target.detach())
    row = int(bad.reshape(len(bad), -1).any(1).nonzero()[0]) if bad.ndim else 0
    raise TargetError(
        f"{name} needs targets that are finite numbers; {int(bad.sum())} of {target.numel()} are NaN or infinite, the first in "
        f"row {row} of those given. Leave these rows out, or fill them in."
    )


def need_shares(name: str, target: Tensor) -> None:
    """Refuse targets outside [0, 1], up to rounding."""
    low, high = extremes(target)
    if low >= -SLACK and high <= 1.0 + SLACK:
        return
    need_numbers(name, target)
    advice = "Use cross_entropy for classes, squared_error for amounts."
    if bool(((target == low) | (target == high)).all()):
        given = {(-1.0, 1.0): "(y + 1) / 2", (1.0, 2.0): "y - 1"}.get((low, high), f"(y == {high:g})")
        advice = f"Of two labels {low:g} and {high:g} make 0 and 1: {given}."
    raise TargetError(f"{name} needs targets in [0, 1]; these go from {low:g} to {high:g}. {advice}")


def need_signs(name: str, target: Tensor) -> None:
    """Refuse targets other than -1 and 1, as the margin losses of torch have them."""
    if not bool((target.abs() == 1).all()):
        need_numbers(name, target)
        low, high = extremes(target)
        raise TargetError(
            f"{name} needs targets -1 and 1; these go from {low:g} to {high:g}. Of labels 0 and 1 make them: 2 * y - 1."
        )


def need_classes(name: str, target: Tensor, classes: int | None = None, ignored: int = IGNORED) -> None:
    """Refuse labels (any shape; floating ones must be whole) that are no class indices ``0 .. classes - 1``, where so many outputs
    are known; the index ``ignored`` is left out.
    """
    if target.is_floating_point():
        need_numbers(name, target)
        if not bool((target == target.round()).all()):
            low, high = extremes(target)
            raise TargetError(
                f"{name} needs class indices (whole numbers from 0) or probabilities of each class; these targets are "
                f"fractions from {low:g} to {high:g}. Use squared_error for amounts."
            )
    low, high = extremes(target)
    if low >= 0 and (classes is None or high < classes):
        return
    low, high = extremes(target[target != ignored])
    if low < 0:
        signs = low == -1 and bool(((target == -1) | (target == 1) | (target == ignored)).all())
        advice = (
            "Of labels -1 and 1 make 0 and 1: (y + 1) / 2." if signs else f"A row to leave out has the label {ignored}."
        )
        raise TargetError(f"{name} needs class indices from 0 on; there is the label {low:.0f}. {advice}")
    if classes is not None and high >= classes:
        advice = f"Number the classes 0 to {classes - 1}, or give the model an output for each."
        if low >= 1 and high == classes:
            advice = "They count from 1: subtract 1."
        elif high > classes and extremes(target[target != high])[1] < classes:
            advice += f" If it marks what has no class, leave it out: nn.CrossEntropyLoss(ignore_index={high:.0f})."
        raise TargetError(
            f"{name}: label {high:.0f} needs {high + 1:.0f} outputs, there are {classes}; the labels go from {low:.0f} to "
            f"{high:.0f}. {advice}"
        )


def need_distributions(name: str, target: Tensor) -> None:
    """Refuse probabilities of classes, on axis 1, that are negative or do not sum to 1."""
    need_numbers(name, target)
    sums = target.detach().double().sum(1)
    off = (sums - 1.0).abs()
    if extremes(target)[0] >= -SLACK and (not off.numel() or bool(off.max() <= SLACK)):
        return
    low, high = extremes(target)
    worst = float(sums.flatten()[off.argmax()])
    raise TargetError(
        f"{name} takes floating targets of the outputs' shape as probabilities of the classes (axis 1), which are at least 0 and "
        f"sum to 1; these go from {low:g} to {high:g}, and one row sums to {worst:g}. Divide each row by its sum, give class "
        "indices, or use squared_error for amounts."
    )
