"""Penalties that are sums over single weights: L1, L2, and the elastic net that holds both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.core.errors import InputError
from wellposed.ops.prox import shrink, soft_threshold
from wellposed.penalties.base import How, Penalty, Traits, at_least_zero


class Separable(Penalty):
    """``g(w) = l1 * |w|_1 + l2/2 * |w|_2^2``: what L1, L2 and the elastic net have in common."""

    @property
    def l1(self) -> float:
        """Strength of ``|w|_1``."""
        return 0.0

    @property
    def l2(self) -> float:
        """Strength of ``1/2 |w|_2^2``."""
        return 0.0

    def value(self, w: Tensor) -> Tensor:
        """``l1 * |w|_1 + l2/2 * |w|_2^2``, 0-d."""
        total = w.new_zeros(())
        if self.l1:
            total = total + self.l1 * w.abs().sum()
        if self.l2:
            total = total + 0.5 * self.l2 * w.square().sum()
        return total

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``soft_threshold(w, step*l1) / (1 + step*l2)``, for each coordinate alone."""
        return shrink(soft_threshold(w, step * self.l1), step * self.l2)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """``|grad + l2*w + l1*sign(w)|`` off zero, ``max(|grad| - l1, 0)`` at zero; Euclidean over coordinates."""
        smooth = grad + self.l2 * w
        off = (smooth + self.l1 * w.sign()).abs()
        at = (smooth.abs() - self.l1).clamp_min(0.0)
        distance: Tensor = torch.linalg.vector_norm(torch.where(w == 0, at, off))
        return distance


@dataclass(frozen=True)
class L1(Separable):
    """``strength * sum_i |w_i|``: drives single weights to exactly zero.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing. From about the largest ``|gradient|`` at zero on, all is zero.
    Source:
        Tibshirani (1996), JRSS-B 58(1).
    Example:
        >>> import torch
        >>> L1(1.0).prox(torch.tensor([3.0, -0.5]), step=1.0)
        tensor([2., 0.])
    """

    strength: float
    traits: ClassVar[Traits] = Traits(homogeneous=1)
    hows: ClassVar[tuple[How, ...]] = ("prox", "loss")

    def __post_init__(self) -> None:
        at_least_zero(self, strength=self.strength)

    @property
    def l1(self) -> float:
        """The strength."""
        return self.strength


@dataclass(frozen=True)
class L2(Separable):
    """``strength/2 * sum_i w_i^2``, whose gradient is ``strength * w``: torch's weight decay.

    By default decoupled (``how="decay"``): ``w *= 1 - lr*strength`` before the optimizer's step. ``how="loss"`` and
    ``how="prox"`` minimize ``loss + strength/2 |w|^2`` itself; decay does so for plain SGD only, and the audit says what
    it solves elsewhere.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
    Source:
        Hoerl & Kennard (1970), Technometrics 12(1); decoupled: Loshchilov & Hutter (2019), ICLR.
    """

    strength: float
    traits: ClassVar[Traits] = Traits(homogeneous=2)
    hows: ClassVar[tuple[How, ...]] = ("decay", "prox", "loss")

    def __post_init__(self) -> None:
        at_least_zero(self, strength=self.strength)

    @property
    def l2(self) -> float:
        """The strength."""
        return self.strength


@dataclass(frozen=True)
class ElasticNet(Separable):
    """``strength * (mix * |w|_1 + (1 - mix)/2 * |w|_2^2)``: zeros, shared among correlated weights.

    Args:
        strength: >= 0, per mean loss.
        mix: in [0, 1]; 1 is L1, 0 is L2.
    Source:
        Zou & Hastie (2005), JRSS-B 67(2).
    """

    strength: float
    mix: float = 0.5
    traits: ClassVar[Traits] = Traits()
    hows: ClassVar[tuple[How, ...]] = ("prox", "loss")

    def __post_init__(self) -> None:
        at_least_zero(self, strength=self.strength, mix=self.mix)
        if self.mix > 1:
            raise InputError(f"ElasticNet needs 0 <= mix <= 1; it was given {self.mix!r}.")

    @property
    def l1(self) -> float:
        """``strength * mix``."""
        return self.strength * self.mix

    @property
    def l2(self) -> float:
        """``strength * (1 - mix)``."""
        return self.strength * (1.0 - self.mix)
