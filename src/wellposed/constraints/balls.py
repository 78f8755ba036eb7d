"""Norm balls, and the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from wellposed.core.checks import checked
from wellposed.core.errors import InputError
from wellposed.core.selectors import Leaf
from wellposed.ops.groups import AXES
from wellposed.ops.project import into_interval, into_l1_ball, into_norm_ball, onto_unit_sphere
from wellposed.penalties.base import Constraint, Penalty, Searched, Traits, at_least_zero, changed, needs_axes
from wellposed.penalties.layouts import laid_out

WAYS: dict[str, int | None] = {**AXES, "all": None}
"""Groups: a unit (filter) is an index of axis 0, an input (channel) one of axis 1, all the whole tensor.

Units and inputs of transposed kernels are found where they are; see `wellposed.penalties.layouts.laid_out`.
"""


def positively_homogeneous(cores: Sequence[Penalty]) -> bool:
    """Whether all are convex with ``g(c u) = c g(u)`` for c > 0."""
    return all(core.traits.convex and core.traits.homogeneous == 1 for core in cores)


def _cut_alike(core: Penalty, constraint: Constraint) -> bool:
    """Whether the groups of a penalty are those of the norm ball: units or inputs, by whatever name."""
    ways = [
        AXES.get(by) if isinstance(by := getattr(charge, "by", "unit"), str) else None for charge in (core, constraint)
    ]
    return core.merged(core) is not None and ways[0] is not None and ways[0] == ways[1]


class Bounded(Constraint):
    """A set of what is not larger than a bound."""

    bound: float

    @property
    def traits(self) -> Traits:
        return Traits(sparse=self.bound == 0)

    def __post_init__(self) -> None:
        at_least_zero(self, bound=self.bound)
        super().__post_init__()


class GroupConstraint(Constraint):
    """A set for each group of weights; ``by`` says what a group is."""

    by: str

    def __post_init__(self) -> None:
        _ = self.axis

    @property
    def axis(self) -> int | None:
        """The axis along which groups are counted; None where the whole tensor is one."""
        if self.by not in WAYS:
            raise InputError(
                f"{type(self).__name__} groups by unit or input (filter, channel), axis 0 or axis 1, or takes all; "
                f"it was given by={self.by!r}."
            )
        return WAYS[self.by]

    def at(self, leaf: Leaf) -> Self:
        """With the axis of a transposed convolution's units and inputs."""
        return changed(self, by=laid_out(self, self.by, leaf))

    def check(self, name: str, w: Tensor) -> None:
        if self.axis is not None:
            needs_axes(self, name, w, 2)


class BoundedGroups(Bounded, GroupConstraint):
    """A bound for each group of weights."""


@checked
@dataclass(frozen=True)
class MaxNorm(BoundedGroups):
    """``|w_g|_2 <= bound`` for every group, projected after each step: ``w_g *= min(1, bound/|w_g|)``.

    Args:
        bound: >= 0, in the units of the weights. 0 allows only zeros; infinity is refused, leave the term out instead.
        by: ``"unit"`` or ``"filter"``, the weights into one (axis 0); ``"input"`` or ``"channel"``, those out of one
            (axis 1); ``"all"``, the whole tensor; ``"axis 0"`` or ``"axis 1"``, an index of it. Kernels of transposed
            convolutions, ``(in, out, k...)``, have units and inputs the other way round, and are grouped so in a model.
    Raises:
        ShapeError: a parameter has fewer than two axes, unless by all; or a convolution with ``groups > 1`` has no axis
            of inputs (transposed: of units).
    Source:
        Srebro & Shraibman (2005), COLT; with dropout: Srivastava et al. (2014), JMLR 15.
    """

    bound: float
    by: str = "unit"
    keeps_signs: ClassVar[bool] = True
    searched: ClassVar[Searched] = Searched(
        low=1.0, high=4.0, least=0.1, most=30.0, odds=0.1, amount="bound", without=("group_l2",)
    )

    def project(self, w: Tensor) -> Tensor:
        return into_norm_ball(w, self.bound, self.axis)

    def follows(self, weighted: bool, thresholds: bool, cores: Sequence[Penalty]) -> bool:
        """After absolute values, and after group norms whose groups are its own: units or inputs, by whatever name."""
        return positively_homogeneous(cores) if self.by == "all" else all(_cut_alike(core, self) for core in cores)


@checked
@dataclass(frozen=True)
class L2Ball(Bounded):
    """Keep the norm of the whole tensor within a bound, ``|w|_2 <= bound``: `MaxNorm` with ``by="all"``.

    Args:
        bound: >= 0, in the units of the weights. 0 allows only zeros; infinity is refused.
    Example:
        >>> import torch
        >>> L2Ball(2.5).project(torch.tensor([3.0, 4.0]))
        tensor([1.5000, 2.0000])
    """

    bound: float
    keeps_signs: ClassVar[bool] = True

    def project(self, w: Tensor) -> Tensor:
        return into_norm_ball(w, self.bound, None)

    def follows(self, weighted: bool, thresholds: bool, cores: Sequence[Penalty]) -> bool:
        """Whether projecting after these steps solves the joint step: after anything convex with ``g(c u) = c g(u)``."""
        return positively_homogeneous(cores)


@checked
@dataclass(frozen=True)
class L1Ball(BoundedGroups):
    """``|w_g|_1 <= bound`` for every group: weights shrink by a common amount, and small ones become exactly zero.

    Args:
        bound: >= 0, in the units of the weights. 0 allows only zeros; infinity is refused.
        by: ``"all"``, the whole tensor, or groups as in `MaxNorm`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, unless by all.
    Source:
        Tibshirani (1996), JRSS-B 58(1), in its first form; projection: Duchi et al. (2008), ICML.
    """

    bound: float
    by: str = "all"
    keeps_signs: ClassVar[bool] = True
    traits: ClassVar[Traits] = Traits()

    def project(self, w: Tensor) -> Tensor:
        """``sign(w) * max(|w| - theta, 0)`` with the theta that meets the bound; a feasible group is unchanged."""
        return into_l1_ball(w, self.bound, self.axis)

    def follows(self, weighted: bool, thresholds: bool, cores: Sequence[Penalty]) -> bool:
        """Whether projecting after these terms' own steps solves the joint step: only after absolute values of one strength."""
        return not weighted and not cores


@checked
@dataclass(frozen=True)
class LInfBall(Bounded):
    """Keep every weight within a bound: ``|w_i| <= bound``.

    Args:
        bound: >= 0, in the units of the weights. 0 allows only zeros; infinity is refused.
    """

    bound: float

    @property
    def interval(self) -> tuple[float, float]:
        return -self.bound, self.bound

    def project(self, w: Tensor) -> Tensor:
        return into_interval(w, *self.interval)


@checked
@dataclass(frozen=True)
class UnitNorm(GroupConstraint):
    """``|w_g|_2 = 1`` for every group: ``w_g /= |w_g|``. A group of zeros becomes the first unit vector.

    The sphere is not convex: of a group of zeros every point of it is a nearest one, and one is fixed.

    Args:
        by: groups as in `MaxNorm`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, unless by all.
    Source:
        Salimans & Kingma (2016), NeurIPS, as a reparametrization.
    """

    by: str = "unit"
    traits: ClassVar[Traits] = Traits(convex=False, symmetric=False, sparse=False)

    def project(self, w: Tensor) -> Tensor:
        return onto_unit_sphere(w, self.axis)
