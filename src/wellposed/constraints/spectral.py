"""Sets of matrices that are described by singular values. Kernels ``(out, in, k...)`` are matrices ``(out, in*k...)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.core.checks import Count, checked
from wellposed.ops.singular_values import clip_spectrum, on_matrices, onto_orthonormal
from wellposed.penalties.base import Constraint, Penalty, Traits, at_least_zero
from wellposed.penalties.matrix import Nuclear, OfMatrices


@checked
@dataclass(frozen=True)
class SpectralBall(OfMatrices, Constraint):
    """``sigma_1(W) <= bound``: singular values above the bound are clipped, the others stay.

    The layer's Lipschitz constant is at most ``bound``. (Dividing the matrix by its largest singular value is not the
    projection: it shrinks all others too.) A kernel ``(out, in, k...)`` is the matrix ``(out, in*k...)``.

    Args:
        bound: >= 0. 0 allows only zeros; infinity is refused.
        parts: >= 1, of axis 0, each a matrix of its own; see `wellposed.penalties.matrix.OfMatrices`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, or axis 0 cannot be cut so.
    Source:
        Lefkimmiatis, Ward & Unser (2013), IEEE Transactions on Image Processing 22(5); for layers: Sedghi, Gupta & Long
        (2019), ICLR.
    """

    bound: float
    parts: Count = 1

    @property
    def traits(self) -> Traits:
        return Traits(symmetric=False, sparse=self.bound == 0)

    def __post_init__(self) -> None:
        at_least_zero(self, bound=self.bound)

    def project(self, w: Tensor) -> Tensor:
        return on_matrices(w, self.parts, lambda a: clip_spectrum(a, self.bound, w.dtype))

    def follows(self, weighted: bool, thresholds: bool, cores: Sequence[Penalty]) -> bool:
        """Whether projecting after these terms' own steps solves the joint step: after the nuclear norm of the same matrices."""
        return not thresholds and all(isinstance(core, Nuclear) and core.parts == self.parts for core in cores)


@checked
@dataclass(frozen=True)
class Orthogonal(OfMatrices, Constraint):
    """``W W^T = I``, or ``W^T W = I`` with more rows than columns: the nearest one is ``U V^T``.

    Not convex. Of a matrix without full rank many are nearest; one that depends on the matrix alone is taken (the
    identity for a matrix of zeros). A kernel ``(out, in, k...)`` is the matrix ``(out, in*k...)``.

    Args:
        parts: >= 1, of axis 0, each a matrix of its own; see `wellposed.penalties.matrix.OfMatrices`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, or axis 0 cannot be cut so.
    Source:
        Fan & Hoffman (1955), Proceedings of the AMS 6(1); Higham (1986), SIAM J. Sci. Stat. Comput. 7(4).
    """

    parts: Count = 1
    traits: ClassVar[Traits] = Traits(convex=False, symmetric=False, sparse=False)

    def project(self, w: Tensor) -> Tensor:
        return on_matrices(w, self.parts, lambda a: onto_orthonormal(a, w.dtype))
