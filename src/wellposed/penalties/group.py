"""Penalties that drive whole groups of weights to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.ops.norms import group_norms, group_size, other_axes
from wellposed.ops.prox import group_soft_threshold
from wellposed.penalties.base import How, Penalty, Traits, at_least_zero, group_axis, needs_axes


@dataclass(frozen=True)
class GroupL2(Penalty):
    """``strength * sqrt(size) * sum_g |w_g|_2``: whole units or inputs become exactly zero.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        by: ``"unit"``, the weights into one unit or filter (an index of axis 0), or ``"input"``, the weights out of one
            input or channel (an index of axis 1).
    Raises:
        ShapeError: a parameter has fewer than two axes.
    Source:
        Yuan & Lin (2006), JRSS-B 68(1); Scardapane et al. (2017), Neurocomputing 241.
    """

    strength: float
    by: str = "unit"
    traits: ClassVar[Traits] = Traits(homogeneous=1)
    hows: ClassVar[tuple[How, ...]] = ("prox", "loss")

    def __post_init__(self) -> None:
        at_least_zero(self, strength=self.strength)
        group_axis(self, self.by)

    @property
    def axis(self) -> int:
        """The axis along which groups are counted."""
        return group_axis(self, self.by)

    def check(self, name: str, w: Tensor) -> None:
        """Refuse vectors."""
        needs_axes(self, name, w, 2)

    def scaled(self, w: Tensor) -> float:
        """``strength * sqrt(size of a group)``."""
        return self.strength * math.sqrt(group_size(w, self.axis))

    def value(self, w: Tensor) -> Tensor:
        """``strength * sqrt(size) * sum_g |w_g|_2``, 0-d; its gradient at a zero group is 0."""
        norms: Tensor = torch.linalg.vector_norm(w, dim=other_axes(w, self.axis))
        return self.scaled(w) * norms.sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """Exact, also with a step for each coordinate; see `wellposed.ops.prox.group_soft_threshold`."""
        return group_soft_threshold(w, step, self.scaled(w), self.axis)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """Off zero ``|grad_g + s w_g/|w_g||``, at zero ``max(|grad_g| - s, 0)``; Euclidean over groups."""
        norms = group_norms(w, self.axis)
        strength = self.scaled(w)
        off = group_norms(grad + strength * w / norms.where(norms > 0, torch.ones_like(norms)), self.axis)
        at = (group_norms(grad, self.axis) - strength).clamp_min(0.0)
        distance: Tensor = torch.linalg.vector_norm(torch.where(norms == 0, at, off))
        return distance
