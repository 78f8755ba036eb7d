"""Penalties of single weights that are not convex: large weights pay nothing more, so they are not biased.

Their proximal step is the global minimizer for every step: under adaptive optimizers the step of a coordinate may be of any
size, and ``step * weak convexity >= 1`` is routine.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.core.checks import Positive, Within, checked
from wellposed.ops.nonconvex_prox import hard_threshold, mcp_prox, scad_prox
from wellposed.ops.norms import at_least_float32, length, signs, unless_diverged
from wellposed.penalties.base import How, Penalty, Traits


class FoldedConcave(Penalty):
    """``g(w) = sum_i rho(|w_i|)`` with ``rho`` increasing and concave: as steep as L1 at zero, flat far away."""

    @abstractmethod
    def slope(self, size: Tensor) -> Tensor:
        """``rho'`` at ``size = |w|``, off zero."""

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """``|grad + rho'(|w|) sign(w)|`` off zero, ``max(|grad| - strength, 0)`` at zero; Euclidean over coordinates.

        Off zero ``g`` is smooth and at zero it is convex nearby, so the limiting subdifferential is what this says. It is a
        condition of first order: where ``step * weak convexity >= 1`` the proximal step may leave a stationary point.
        """
        off = (grad + self.slope(w.abs()) * signs(w)).abs()
        at = (grad.abs() - self.strength).clamp_min(0.0)
        return unless_diverged(length(torch.where(w == 0, at, off)), w)


@checked
@dataclass(frozen=True)
class MCP(FoldedConcave):
    """The minimax concave penalty: ``sum_i s|w_i| - w_i^2/(2 gamma)`` up to ``|w_i| = gamma*s``, ``gamma s^2/2`` from there on.

    ``s`` is the strength. Weights beyond ``gamma*s`` are not shrunk; between, thresholding is firm.

    Args:
        strength: >= 0, per mean loss, the slope at zero. 0 charges nothing.
        gamma: > 0, finite. Towards infinity it is L1; towards 0, with ``gamma*strength^2/2`` held, it is L0 of that strength.
            The weak convexity is ``1/gamma``.
    Source:
        Zhang (2010), Annals of Statistics 38(2).
    Example:
        >>> import torch
        >>> MCP(1.0, gamma=3.0).prox(torch.tensor([4.0, 2.0, -0.5]), step=1.0)
        tensor([4.0000, 1.5000, 0.0000])
    """

    strength: float
    gamma: Positive = 3.0

    @property
    def traits(self) -> Traits:
        """Not convex, with weak convexity ``1/gamma``."""
        return Traits(convex=False, weak_convexity=1.0 / self.gamma, linear=False)

    def value(self, w: Tensor) -> Tensor:
        """``sum_i s*m_i - m_i^2/(2 gamma)`` with ``m_i = min(|w_i|, gamma*s)``, 0-d."""
        m = at_least_float32(w).abs().clamp_max(self.gamma * self.strength)
        return (m * (self.strength - m / (2.0 * self.gamma))).sum().to(w.dtype)

    def slope(self, size: Tensor) -> Tensor:
        """The derivative of the charge by ``|w_i|``: ``max(strength - size/gamma, 0)``, of ``size``'s shape."""
        return (self.strength - size / self.gamma).clamp_min(0.0)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The global minimizer, at a tie 0; see `wellposed.ops.nonconvex_prox.mcp_prox`."""
        return mcp_prox(w, step, self.strength, self.gamma)


@checked
@dataclass(frozen=True)
class SCAD(FoldedConcave):
    """The smoothly clipped absolute deviation: L1 up to ``|w_i| = s``, then its slope falls to 0 at ``gamma*s``.

    ``rho(x) = s x`` for ``x <= s``, ``(2 gamma s x - x^2 - s^2)/(2 (gamma - 1))`` up to ``gamma*s``, ``s^2 (gamma + 1)/2``
    from there on, with ``s`` the strength.

    Args:
        strength: >= 0, per mean loss, the slope at zero. 0 charges nothing.
        gamma: > 2, finite; towards infinity it is L1. The weak convexity is ``1/(gamma - 1)``. The authors advise 3.7.
    Source:
        Fan & Li (2001), Journal of the American Statistical Association 96(456).
    Example:
        >>> import torch
        >>> SCAD(1.0, gamma=3.0).prox(torch.tensor([4.0, 2.5, 1.5, -0.5]), step=1.0)
        tensor([4.0000, 2.0000, 0.5000, 0.0000])
    """

    strength: float
    gamma: Annotated[float, Within(2, sys.float_info.max, open="low")] = 3.7

    @property
    def traits(self) -> Traits:
        """Not convex, with weak convexity ``1/(gamma - 1)``."""
        return Traits(convex=False, weak_convexity=1.0 / (self.gamma - 1.0), linear=False)

    def value(self, w: Tensor) -> Tensor:
        """``sum_i s*min(|w_i|, gamma*s) - d_i^2/(2 (gamma - 1))`` with ``d_i = clip(|w_i| - s, 0, (gamma - 1) s)``, 0-d."""
        size = at_least_float32(w).abs().clamp_max(self.gamma * self.strength)
        d = (size - self.strength).clamp_min(0.0)
        return (self.strength * size - d.square() / (2.0 * (self.gamma - 1.0))).sum().to(w.dtype)

    def slope(self, size: Tensor) -> Tensor:
        """``s`` up to ``s``, then ``max(gamma*s - size, 0)/(gamma - 1)``."""
        falling = (self.gamma * self.strength - size) / (self.gamma - 1.0)
        return falling.clamp(0.0, self.strength)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The global minimizer, at a tie the smaller; see `wellposed.ops.nonconvex_prox.scad_prox`."""
        return scad_prox(w, step, self.strength, self.gamma)


@checked
@dataclass(frozen=True)
class L0(Penalty):
    """``strength * (number of weights that are not zero)``: a weight is kept as it is, or is exactly zero.

    Its gradient is zero wherever there is one, so it is enforced by the proximal step only.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing. A step ``t`` keeps weights above ``sqrt(2 t strength)``.
    Source:
        Blumensath & Davies (2008), Journal of Fourier Analysis and Applications 14.
    Example:
        >>> import torch
        >>> L0(0.5).prox(torch.tensor([3.0, -0.5]), step=1.0)
        tensor([3., 0.])
    """

    strength: float
    traits: ClassVar[Traits] = Traits(convex=False, weak_convexity=math.inf, homogeneous=0)
    hows: ClassVar[tuple[How, ...]] = ("prox",)

    def value(self, w: Tensor) -> Tensor:
        """``strength * sum_i [w_i != 0]``, 0-d; carries a gradient, which is zero."""
        return (self.strength * signs(at_least_float32(w)).abs().sum()).to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``w_i`` where ``|w_i| > sqrt(2*step*strength)``, else 0, also at the tie; see `hard_threshold`."""
        return hard_threshold(w, (2.0 * self.strength * at_least_float32(step)) ** 0.5)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """``|w - prox(w - step*grad, step)|/step``; every weight is a local minimum of ``g`` or flat, so no gradient tells."""
        return length(w - self.prox(w - step * grad, step)) / step
