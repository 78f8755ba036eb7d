"""Penalties of differences between neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.core.checks import checked
from wellposed.core.errors import ShapeError
from wellposed.ops.norms import at_least_float32, unless_diverged
from wellposed.ops.variation_prox import variation_distance, variation_prox
from wellposed.penalties.base import Penalty, Traits


@checked
@dataclass(frozen=True)
class TotalVariation(Penalty):
    """``strength * sum_i |w_{i+1} - w_i|`` along an axis, for each line: neighbouring weights become exactly equal.

    For inputs or positions that have an order: time, frequency, pixels. The prox is exact, also with a step for each
    coordinate; it is one loop along the axis for all lines at once.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing; from some strength on each line is constant.
        axis: along which neighbours stand; -1 is the last, the inputs of a linear layer, the columns of a kernel.
    Raises:
        ShapeError: a parameter has no such axis, or has one entry along it.
    Source:
        Rudin, Osher & Fatemi (1992), Physica D 60; Tibshirani et al. (2005), JRSS-B 67(1).
    Example:
        >>> import torch
        >>> TotalVariation(0.5).prox(torch.tensor([0.0, 0.5, 4.0]), step=1.0)
        tensor([0.5000, 0.5000, 3.5000])
    """

    strength: float
    axis: int = -1
    traits: ClassVar[Traits] = Traits(homogeneous=1, symmetric=False, sparse=False)

    def check(self, name: str, w: Tensor) -> None:
        if not -w.ndim <= self.axis < w.ndim or w.shape[self.axis] < 2:
            raise ShapeError(
                f"TotalVariation needs >= 2 entries along axis {self.axis}; {name!r} has shape {tuple(w.shape)}. "
                "Give another axis=, or a glob that names others."
            )

    def value(self, w: Tensor) -> Tensor:
        return (
            (self.strength * at_least_float32(w).diff(dim=self.axis).abs().sum()).to(w.dtype) if w.numel() else w.sum()
        )

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """Exact, also with a step for each coordinate; see `wellposed.ops.variation_prox.variation_prox`."""
        return variation_prox(w, step, self.strength, self.axis)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """The exact distance of ``-grad`` to the subdifferential, 0-d; see `wellposed.ops.variation_prox.variation_distance`."""
        return unless_diverged(variation_distance(w, grad, self.strength, self.axis), w)
