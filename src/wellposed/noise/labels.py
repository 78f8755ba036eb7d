"""Noise on labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from wellposed.core.checks import Within, checked
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.reading import format_bytes, memory_limit
from wellposed.noise.inputs import rowwise
from wellposed.noise.noise import Key, Noise
from wellposed.penalties.base import Searched


def smooth_classes(target: Tensor, classes: int, amount: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Class indices ``(n,)`` as probabilities ``(n, classes)``: ``1 - amount + amount/classes`` on the label, ``amount/classes``
    elsewhere; amount in [0, 1), 0 is one-hot.

    Source:
        Szegedy et al. (2016), CVPR.
    """
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise InputError(
            f"Labels must be in 0 to {classes - 1} for {classes} classes; these go from {int(target.min())} to "
            f"{int(target.max())}. Number the classes from 0."
        )
    smooth = torch.full((*target.shape, classes), amount / classes, device=target.device, dtype=dtype)
    return smooth.scatter_(-1, target.unsqueeze(-1), 1.0 - amount + amount / classes)


def smooth_binary(target: Tensor, amount: float) -> Tensor:
    """0/1 targets drawn towards one half: ``y*(1 - amount) + amount/2``; amount in [0, 1)."""
    return target * (1.0 - amount) + 0.5 * amount


HELD = 16
"""Bytes for each probability while targets are mixed: float32, and four of them are held at once."""


def _is_permutation(numbers: Tensor, rows: int) -> bool:
    """Whether each of ``0 .. rows - 1`` is there once. It is asked at each step, so nothing is sorted."""
    if numbers.shape != (rows,) or numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        return False
    if not rows:
        return True
    low, high = torch.aminmax(numbers)
    return int(low) >= 0 and int(high) < rows and bool((torch.bincount(numbers, minlength=rows) == 1).all())


@checked
def mixed_targets(
    target: Tensor,
    permutation: Tensor,
    weight: Annotated[float, Within(0, 1)] | Tensor,
    classes: Annotated[int, Within(2)] | None = None,
) -> Tensor:
    """``weight * t + (1 - weight) * t[permutation]``: the targets of inputs that were mixed so.

    Args:
        target: ``(n, *)``: probabilities or real targets; or ``(n,)`` integer class indices, of which one-hot
            probabilities are made first. Not modified.
        permutation: ``(n,)``, and
        weight: in [0, 1], one number or ``(n,)``, as `mixup`, `cutmix`, `mixup_or_cutmix` or `ManifoldMixup` gave them. 1
            leaves every target as it is.
        classes: how many there are; needed for class indices.
    Returns:
        The shape of ``target``; for class indices ``(n, classes)``, which ``cross_entropy`` takes.
    Raises:
        InputError: class indices without ``classes``, or outside them, or more classes than there is memory for.
        ShapeError: the permutation is not of the target's rows, or there are several weights that are not one for each.
    """
    rows = len(target) if target.ndim else -1
    if not _is_permutation(permutation, rows):
        raise ShapeError(
            f"mixed_targets needs the permutation of the {max(rows, 0)} rows of the target, as mixup gave it; it was given "
            f"{permutation.dtype} of shape {tuple(permutation.shape)}."
        )
    if target.is_complex():
        raise InputError(
            "mixed_targets needs class indices, probabilities or real targets; it was given complex numbers."
        )
    if isinstance(weight, Tensor) and weight.ndim and weight.shape != target.shape[:1]:
        raise ShapeError(
            f"Targets of {len(target)} examples are mixed by one weight or by {len(target)}; weight has shape "
            f"{tuple(weight.shape)}."
        )
    if isinstance(weight, Tensor) and not bool(((weight >= 0) & (weight <= 1)).all()):
        raise InputError("mixed_targets needs weights in [0, 1], as mixup gave them; one of these is outside, or NaN.")
    if not target.is_floating_point():
        if classes is None:
            raise InputError(
                f"Class indices ({target.dtype}) cannot be mixed; their probabilities can. Give classes=, how many there are."
            )
        need = HELD * target.numel() * classes
        if need > memory_limit():
            raise InputError(
                f"mixed_targets makes a probability of each of {classes:,} classes for each of {target.numel():,} labels: this "
                f"takes about {format_bytes(need)} of memory, and may take {format_bytes(memory_limit())}. Give as classes= how "
                "many outputs the model has, or allow more with wp.reading_up_to(...)."
            )
        target = smooth_classes(target.long(), classes, 0.0)
    kept = rowwise(weight, target)
    return kept * target + (1.0 - kept) * target[permutation.to(target.device)]


@dataclass(frozen=True)
class LabelSmoothing(Noise):
    """`smooth_classes`, or `smooth_binary` where each output is a label of its own; ``amount`` in [0, 1)."""

    amount: float

    acts = "labels"
    size_field, order, random, of_classes = "amount", 1, False, True
    keys = (
        Key(
            name="label_smoothing", field="amount", title="label_smoothing", says="smoothing",
            searched=Searched(low=0.02, high=0.2, least=0.005, most=0.5, odds=0.25, rank=1),
            advised={"overfits": (0.0, 0.05, 0.0), "overconfident": (0.05, 0.0, 0.0), "label_noise": (0.1, 0.0, 0.0)},
        ),
    )  # fmt: skip

    @classmethod
    def own_size(cls, model: nn.Module, softens: bool) -> float | None:
        return 0.0 if softens else None

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return smooth_binary(x, size)

    def labels(self, target: Tensor, classes: int | None, dtype: torch.dtype, source: torch.Generator) -> Tensor:
        if classes is None:
            return smooth_binary(target.to(dtype), self.amount)
        return smooth_classes(target, classes, self.amount, dtype)

    def uncompiled(self, classes: bool) -> str:
        return ""
