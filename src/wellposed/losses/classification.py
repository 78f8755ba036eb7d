"""Losses of class scores. Each returns ``(values, mask)``: a value for each unit, and which units count (None: all)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wellposed.losses.criterion import Criterion, at_least_single, match_shapes, over_outputs
from wellposed.losses.targets import IGNORED, extremes, need_classes, need_distributions, need_shares

MOST_COUNTED = 2**18
"""More classes than this are counted only where there are as many rows."""


def is_distribution(outputs: Tensor, target: Tensor) -> bool:
    """Whether targets have a probability for each class, as opposed to one class index."""
    return target.is_floating_point() and target.shape == outputs.shape and outputs.ndim > 1


def class_indices(name: str, outputs: Tensor, target: Tensor, ignored: int = IGNORED) -> tuple[Tensor, Tensor]:
    """Class scores and class indices in torch's layout, checked: nothing is looked up or counted by a label without output."""
    if outputs.ndim < 2:
        raise ValueError("class scores have an axis of classes: (n, classes)")
    outputs, target = classes_second(outputs, target)
    need_classes(name, target, outputs.shape[1], ignored)
    return outputs, target.long()


def classes_second(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Class scores ``(n, classes, ...)`` as torch has them, and labels ``(n, ...)``: ``(n, ..., classes)`` is turned, labels ``(n,
    1)`` become ``(n,)``, and ``(n * m, classes)`` of labels ``(n, m)`` is put back to its examples. Where both layouts fit, it
    is torch's.
    """
    if outputs.ndim == 2 and target.ndim > 1 and len(outputs) == target.numel() > len(target):
        outputs = outputs.view(*target.shape, -1)
    if target.ndim == outputs.ndim == 2 and target.shape[-1] == 1:
        target = target.squeeze(-1)
    torch_layout = outputs.shape[:1] + outputs.shape[2:] == target.shape
    if not torch_layout and outputs.shape[:-1] == target.shape:
        outputs = outputs.movedim(-1, 1)
    return outputs, target


@dataclass(frozen=True)
class CrossEntropy(Criterion):
    """``-log softmax(outputs)[target]``, in nats. Convex in the outputs."""

    name = "cross_entropy"
    aliases = ("ce",)
    classifies = True
    softens = True
    kernel = 0

    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """A value for each label, and the mask of those that count.

        Args:
            outputs: logits ``(n, classes)``, ``(n, classes, ...)`` as in torch, or with the classes last, ``(n, ...,
                classes)``.
            target: class indices ``(n,)`` or ``(n, ...)``, with -100 masked; or probabilities ``(n, classes)`` that sum to 1.
        """
        if is_distribution(outputs, target):
            need_distributions(self.name, target)
            outputs = at_least_single(outputs)
            return F.cross_entropy(outputs, target.to(outputs.dtype), reduction="none"), None
        outputs, target = class_indices(self.name, outputs, target)
        mask = target != IGNORED
        values = F.cross_entropy(outputs, target, reduction="none", ignore_index=IGNORED)
        return values, None if bool(mask.all()) else mask

    def check(self, target: Tensor, classes: int | None = None) -> None:
        """Class indices from 0 to ``classes - 1``, with -100 left out; or rows of probabilities."""
        if target.is_floating_point() and target.ndim > 1 and target.shape[1] == classes:
            need_distributions(self.name, target)
        else:
            need_classes(self.name, target, classes)

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """Logarithms of the training rows' class shares, for the classes ``0 .. k`` that either side has; of probabilities ``(n,
        classes)`` those of their means. Each class gets half a row more, so that one that only validation has does not make the
        loss infinite. None for a label so large that counting up to it would take all memory.
        """
        if train.is_floating_point() and train.ndim > 1:
            return ((train.float().sum(0) + 0.5) / (len(train) + 0.5 * train.shape[1])).log()
        low, high = extremes(torch.cat([train, valid])) if train.dtype == valid.dtype else (-1.0, 0.0)
        if train.is_floating_point() or low < 0 or high >= max(MOST_COUNTED, len(train)):
            return None
        counts = torch.bincount(train, minlength=int(high) + 1).float()
        return ((counts + 0.5) / (counts + 0.5).sum()).log()


@dataclass(frozen=True)
class BinaryCrossEntropy(Criterion):
    """``log(1 + exp(f)) - y f`` for ``y`` in [0, 1], summed over outputs ``f``, ``(n,)`` or ``(n, outputs)``. Convex in them.

    Labels -1 and 1, for which it has no lower bound, are refused.
    """

    name = "binary_cross_entropy"
    aliases = ("bce",)
    classifies = True
    softens = True
    kernel = 2

    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        need_shares(self.name, target)
        outputs, target = match_shapes(outputs, target)
        return over_outputs(F.binary_cross_entropy_with_logits(outputs, target, reduction="none")), None

    def check(self, target: Tensor, classes: int | None = None) -> None:
        need_shares(self.name, target)

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The logit of each output's share of ones, which is kept off 0 and 1."""
        share = train.float().mean(0).clamp(1e-6, 1 - 1e-6)
        return (share / (1 - share)).log()
