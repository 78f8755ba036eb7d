"""Norm balls."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wellposed.ops.project import into_norm_ball
from wellposed.penalties.base import Constraint, at_least_zero, group_axis, needs_axes


@dataclass(frozen=True)
class MaxNorm(Constraint):
    """``|w_g|_2 <= bound`` for every group, projected after each step: ``w_g *= min(1, bound/|w_g|)``.

    Args:
        bound: >= 0, in the units of the weights. 0 allows only zeros; infinity is refused, leave the term out instead.
        by: ``"unit"``, the weights into one unit or filter (axis 0), or ``"input"``, those out of one input (axis 1).
    Raises:
        ShapeError: a parameter has fewer than two axes.
    Source:
        Srebro & Shraibman (2005), COLT; with dropout: Srivastava et al. (2014), JMLR 15.
    """

    bound: float
    by: str = "unit"

    def __post_init__(self) -> None:
        at_least_zero(self, bound=self.bound)
        group_axis(self, self.by)

    def check(self, name: str, w: Tensor) -> None:
        """Refuse vectors."""
        needs_axes(self, name, w, 2)

    def project(self, w: Tensor) -> Tensor:
        """The nearest feasible weights; a feasible ``w`` comes back unchanged."""
        return into_norm_ball(w, self.bound, group_axis(self, self.by))
