"""Penalties of whole matrices: of their singular values, and of the norms of their rows.

A linear layer's weight is ``(out, in)``. A kernel ``(out, in, k...)`` is flattened to ``(out, in*k...)``, which is how it
acts on one patch. A transposed kernel ``(in, out, k...)`` is the matrix ``(in, out*k...)``: transposed, what the layer makes
of one place, and so of the same singular values. ``parts`` cuts axis 0 into equal parts, each a matrix of its own: multi-head
attention stacks the projections of queries, keys and values in one ``in_proj_weight``, and is cut into three where a model is
known; the kernel of a convolution is cut into its ``groups`` there, each of which has inputs and outputs of its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from wellposed.core.checks import Count, checked
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import Leaf
from wellposed.ops.groups import AXES
from wellposed.ops.norms import largest, length, lengths, power_of_two
from wellposed.ops.project import simplex_threshold
from wellposed.ops.singular_values import (
    above_rounding,
    as_matrices,
    lower_the_largest,
    on_matrices,
    rounding,
    singular_values,
    smaller_gram,
    soft_threshold_spectrum,
    svd,
    toward_one,
)
from wellposed.penalties.base import Chargeable, How, Penalty, Traits, changed, needs_axes, setting_text
from wellposed.penalties.group import Weights, _GroupNorms


class OfMatrices(Chargeable):
    """What charges and constraints of matrices have in common.

    Attributes:
        parts: >= 1, equal parts of axis 0, each a matrix of its own; by itself 3 for attention's ``in_proj_weight``, and
            a convolution's ``groups``. Give 4 for an LSTM's stacked gates, 3 for a GRU's.
    Raises:
        ShapeError: a parameter has fewer than two axes, or axis 0 cannot be cut so.
    """

    parts: Count

    def check(self, name: str, w: Tensor) -> None:
        needs_axes(self, name, w, 2)
        if w.shape[0] % self.parts:
            raise ShapeError(
                f"{type(self).__name__} with parts={self.parts} needs axis 0 to hold {self.parts} equal parts; {name!r} has "
                f"shape {tuple(w.shape)}. Leave parts out, or give a number that divides {w.shape[0]}."
            )

    def at(self, leaf: Leaf) -> Self:
        """With the parts that are stacked in attention (3) and in grouped convolutions, unless parts were given."""
        return changed(self, parts=stacked_in(leaf)) if self.parts == 1 else self


def stacked_in(leaf: Leaf) -> int:
    """How many matrices a layer stacks in one parameter: queries, keys and values; the groups of a convolution."""
    if isinstance(leaf.module, nn.MultiheadAttention):
        return 3 if any(path.endswith("in_proj_weight") for path in leaf.paths) else 1
    return leaf.module.groups if isinstance(leaf.module, _ConvNd) and leaf.tensor.ndim > 2 else 1


class _MatrixPenalty(OfMatrices, Penalty):
    """A penalty of the singular values of each part."""

    strength: float

    def value(self, w: Tensor) -> Tensor:
        """The charge of all parts, 0-d; 0 of an empty matrix."""
        return self.of_matrices(as_matrices(w, self.parts), w.dtype).to(w.dtype) if w.numel() else w.sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        def operator(a: Tensor) -> Tensor:
            return self.moved(a, torch.as_tensor(step, dtype=a.dtype, device=a.device) * self.strength, w.dtype)

        return on_matrices(w, self.parts, operator)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        if not w.numel():
            return w.sum()
        return self.distance(as_matrices(w, self.parts), as_matrices(grad, self.parts), w.dtype).to(w.dtype)

    @abstractmethod
    def of_matrices(self, a: Tensor, dtype: torch.dtype) -> Tensor:
        """The charge of matrices that were held in ``dtype``."""

    @abstractmethod
    def moved(self, a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
        """The minimizer for finite matrices; ``amount = step * strength``, 0-d."""

    @abstractmethod
    def distance(self, a: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """The violation of matrices."""


@checked
@dataclass(frozen=True)
class Nuclear(_MatrixPenalty):
    """``strength * sum_i sigma_i(W)``: singular values become exactly zero, so that the matrix has low rank.

    The proximal step subtracts ``step * strength`` from each singular value and stops at 0. It is Euclidean: one step
    for the whole matrix. A kernel ``(out, in, k...)`` is the matrix ``(out, in*k...)``.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing. From the largest singular value of the gradient at 0 on, the
            matrix is 0.
        parts: >= 1, of axis 0, each a matrix of its own; see `wellposed.penalties.matrix.OfMatrices`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, or axis 0 cannot be cut so.
    Source:
        Fazel, Hindi & Boyd (2001), ACC; proximal step: Cai, Candes & Shen (2010), SIAM J. Optim. 20(4); subdifferential:
        Watson (1992), Linear Algebra and its Applications 170.
    Example:
        >>> import torch
        >>> Nuclear(1.0).prox(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), step=1.0)
        tensor([[2., 0.],
                [0., 0.]])
    """

    strength: float
    parts: Count = 1
    traits: ClassVar[Traits] = Traits(homogeneous=1, symmetric=False, diagonal=False)

    def of_matrices(self, a: Tensor, dtype: torch.dtype) -> Tensor:
        """``strength * sum_i sigma_i``; its gradient is the shortest subgradient, 0 along what is 0."""
        s = singular_values(a)
        return self.strength * torch.where(above_rounding(s, a, dtype), s, torch.zeros_like(s)).sum()

    def moved(self, a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
        return soft_threshold_spectrum(a, amount)

    def distance(self, a: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """Exact: the subdifferential at ``U sigma V^T`` is ``strength * (U V^T + Z)``, ``U^T Z = 0, Z V = 0, |Z|_2 <= 1``.

        ``-grad`` has a part beside U and V, where Z is free: of its singular values counts what exceeds the strength;
        of the rest, what differs from ``strength * U V^T``.
        """
        g = -grad
        u, s, vh = svd(a)
        alive = above_rounding(s, a, dtype)
        u, vh = u * alive.unsqueeze(-2), vh * alive.unsqueeze(-1)
        free = g - u @ (u.mT @ g)
        free = free - (free @ vh.mT) @ vh
        over = (singular_values(free) - self.strength).clamp_min(0.0)
        fixed = g - free - self.strength * (u @ vh)
        return torch.hypot(length(over), length(fixed))


@checked
@dataclass(frozen=True)
class Spectral(_MatrixPenalty):
    """``strength * sigma_1(W)``: the largest singular value, the Lipschitz constant of the layer, is charged.

    The proximal step lowers the largest singular values to a common one: those above ``theta`` become ``theta``, where
    what is cut off sums to ``step * strength``. It is Euclidean: one step for the whole matrix. A kernel
    ``(out, in, k...)`` is the matrix ``(out, in*k...)``, which acts on one patch; of the convolution it bounds the
    Lipschitz constant only up to a factor of ``sqrt(prod(k))``.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing. From the sum of the singular values of the gradient at 0 on,
            the matrix is 0.
        parts: >= 1, of axis 0, each a matrix of its own; see `wellposed.penalties.matrix.OfMatrices`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, or axis 0 cannot be cut so.
    Source:
        Yoshida & Miyato (2017), arXiv:1705.10941, charges its square; proximal step by Moreau's identity: Parikh & Boyd
        (2014), Foundations and Trends in Optimization 1(3), 6.7.
    """

    strength: float
    parts: Count = 1
    traits: ClassVar[Traits] = Traits(homogeneous=1, symmetric=False, diagonal=False)

    def of_matrices(self, a: Tensor, dtype: torch.dtype) -> Tensor:
        """``strength * sigma_1``, summed over parts; its gradient at 0 is 0."""
        s = singular_values(a).amax(dim=-1)
        return self.strength * torch.where(s != 0, s, torch.zeros_like(s)).sum()

    def moved(self, a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
        return lower_the_largest(a, amount)

    def distance(self, a: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """Exact: the subdifferential is ``strength * U_1 H V_1^T`` with H symmetric, >= 0, of trace 1, on the top space.

        The nearest H has the eigenvalues of the symmetric part of ``U_1^T (-grad) V_1``, projected on the simplex. At
        0 the subdifferential is the nuclear ball: singular values are projected on the L1 ball.
        """
        g = -grad
        u, s, vh = svd(a)
        top = s >= s[..., :1] * (1.0 - rounding(a, dtype))
        u, vh = u * top.unsqueeze(-2), vh * top.unsqueeze(-1)
        inner = u.mT @ g @ vh.mT
        inner = (inner + inner.mT) / 2
        # What is not in the top space gets eigenvalues so low that the simplex takes none of it.
        low = -(2.0 + 2.0 * torch.linalg.matrix_norm(inner, keepdim=True) + self.strength)
        inner = inner + torch.diag_embed((~top).to(a.dtype)) * low
        good = torch.isfinite(inner).all()
        values, vectors = torch.linalg.eigh(torch.where(good, inner, torch.zeros_like(inner)))
        values = (values - simplex_threshold(values, self.strength)).clamp_min(0.0)
        off = torch.linalg.matrix_norm(g - u @ (vectors * values.unsqueeze(-2)) @ vectors.mT @ vh)
        spectrum = singular_values(g)
        theta = simplex_threshold(spectrum, self.strength).clamp_min(0.0)
        at_zero = torch.linalg.vector_norm(spectrum.minimum(theta), dim=-1)
        at_zero = torch.where(spectrum.sum(dim=-1) <= self.strength, torch.zeros_like(at_zero), at_zero)
        distance = torch.where(s[..., 0] == 0, at_zero, off).where(good, torch.full_like(off, math.nan))
        return length(distance)


@checked
@dataclass(frozen=True)
class Orthogonality(_MatrixPenalty):
    """``strength/4 * |W W^T - I|_F^2``: rows become orthonormal, and lengths are kept from layer to layer.

    With more rows than columns it is ``W^T W`` instead, so that the charge can reach 0. It is
    ``strength/4 * sum_i (sigma_i^2 - 1)^2``: smooth, and not convex (``strength``-weakly). Its gradient is
    ``strength * (W W^T - I) W``. A kernel ``(out, in, k...)`` is the matrix ``(out, in*k...)``.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        parts: >= 1, of axis 0, each a matrix of its own; see `wellposed.penalties.matrix.OfMatrices`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, or axis 0 cannot be cut so.
    Source:
        Brock, Lim, Ritchie & Weston (2017), ICLR; Bansal, Chen & Wang (2018), NeurIPS.
    """

    strength: float
    parts: Count = 1
    hows: ClassVar[tuple[How, ...]] = ("loss", "prox")

    @property
    def traits(self) -> Traits:
        """Not convex: ``(u^2 - 1)^2/4`` has curvature -1 at 0, times the strength."""
        return Traits(convex=False, weak_convexity=self.strength, symmetric=False, diagonal=False, sparse=False)

    def of_matrices(self, a: Tensor, dtype: torch.dtype) -> Tensor:
        """``strength/4 * |W W^T - I|_F^2``, summed over parts."""
        # Large numbers are divided first: infinities of both signs would be no number.
        scale = power_of_two(largest(a, (-2, -1))).clamp_min(1.0)
        gram = smaller_gram(a / scale)
        gap = gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) / scale / scale
        return 0.25 * self.strength * (lengths(gap, (-2, -1)) * scale * scale).square().sum()

    def moved(self, a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
        """A global minimizer, also where it is not the only one; see `wellposed.ops.singular_values.toward_one`."""
        return toward_one(a, amount, dtype)

    def distance(self, a: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
        """The distance to a stationary point, ``|grad + strength * (W W^T - I) W|``."""
        wide = a.shape[-2] <= a.shape[-1]
        cube = (a @ a.mT) @ a if wide else a @ (a.mT @ a)
        return length(grad + self.strength * (cube - a))


@checked
@dataclass(frozen=True, eq=False)
class RowL21(_GroupNorms):
    """``strength * sum_i c_i |w_i|_2`` over the rows: the L2,1 norm of a matrix; whole rows become exactly zero.

    It is `GroupL2` by unit with weights ``c_i = 1`` instead of ``sqrt(size of a row)``. A kernel's row is one filter, also
    of a transposed convolution, where it is an index of axis 1.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        by: what a row is; ``"unit"``, and ``"axis 1"`` where the layer's kernel is transposed, which is filled in.
        weights: ``c``, a finite number >= 0 for all rows, or one for each. 0 leaves a row free.
    Raises:
        ShapeError: a parameter has fewer than two axes, or is the kernel of a transposed convolution with groups.
    Source:
        Argyriou, Evgeniou & Pontil (2008), Machine Learning 73; Nie et al. (2010), NeurIPS.
    """

    strength: float
    by: str = field(default="unit", repr=False)
    weights: Weights = 1.0

    def __post_init__(self) -> None:
        if self.by not in AXES:
            raise InputError(f"RowL21 charges rows by one of {', '.join(AXES)}; it was given by={self.by!r}.")
        super().__post_init__()

    def __str__(self) -> str:
        told = isinstance(self.weights, Tensor) or self.weights != 1.0
        several = f", weights={setting_text(self.weights)}" if told else ""
        return f"RowL21(strength={self.strength!r}{several})"
