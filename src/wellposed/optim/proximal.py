"""Several proximal terms on one parameter as one joint step, where that is proven; a refusal elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wellposed.core.errors import CompositionError
from wellposed.ops.prox import group_soft_threshold, shrink, soft_threshold
from wellposed.penalties.base import Penalty
from wellposed.penalties.elementwise import Separable
from wellposed.penalties.group import GroupL2


@dataclass(frozen=True)
class JointProx:
    """``argmin_u 1/2 sum (u-w)^2/t + l1 |u|_1 + l2/2 |u|^2 + sum_groups s |u_g|`` in one step.

    The absolute values come first, since ``sign(u) = sign(soft(w, t*l1))`` and the stationarity of the rest is that of
    the thresholded point in the same metric; the square then turns ``(w, t)`` into ``(w, t)/(1 + t*l2)``; the group term
    is solved last, in that metric.
    """

    l1: float
    l2: float
    group: GroupL2 | None

    def __call__(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The joint minimizer; step 0 returns ``w``."""
        u = soft_threshold(w, step * self.l1) if self.l1 else w
        if self.l2:
            u = shrink(u, step * self.l2)
            step = step / (1.0 + step * self.l2)
        if self.group is not None:
            u = group_soft_threshold(u, step, self.group.scaled(w), self.group.axis)
        return u


def joint(name: str, penalties: Sequence[Penalty]) -> JointProx:
    """The joint operator of several penalties on the parameter ``name``.

    Raises:
        CompositionError: their joint proximal step has no proven form.
    """
    separable = [p for p in penalties if isinstance(p, Separable)]
    groups = [p for p in penalties if isinstance(p, GroupL2)]
    others = [p for p in penalties if not isinstance(p, (Separable, GroupL2))]
    axes = {g.axis for g in groups}
    if others or len(axes) > 1:
        raise CompositionError(
            f"{' and '.join(str(p) for p in penalties)} have no proven joint proximal step on {name!r}. "
            'Charge different parameters, or enforce all but one with how="loss".'
        )
    group = GroupL2(sum(g.strength for g in groups), groups[0].by) if groups else None
    return JointProx(sum(p.l1 for p in separable), sum(p.l2 for p in separable), group)
