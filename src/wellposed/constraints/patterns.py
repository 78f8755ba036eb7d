"""Sets that say which weights may be there, of which sign and size: orthants, boxes, half-spaces, simplices, patterns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from wellposed.constraints.balls import GroupConstraint
from wellposed.core.checks import Within, checked
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import Leaf
from wellposed.ops.groups import along
from wellposed.ops.project import as_rows, into_half_space, into_interval, keep_largest, onto_simplex, row_norms
from wellposed.penalties.base import ByValue, Constraint, Numbers, Penalty, Traits, array, at_least_zero, setting_text
from wellposed.penalties.elementwise import broadcasts


@checked
@dataclass(frozen=True)
class NonNegative(Constraint):
    """``w_i >= 0`` for every weight: ``max(w_i, 0)``.

    Source:
        Lee & Seung (1999), Nature 401; monotone networks: Sill (1998), NeurIPS.
    """

    traits: ClassVar[Traits] = Traits(symmetric=False)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    def project(self, w: Tensor) -> Tensor:
        return into_interval(w, *self.interval)


@checked
@dataclass(frozen=True, eq=False)
class Box(ByValue, Constraint):
    """``low_i <= w_i <= high_i`` for every weight: ``clip(w_i, low_i, high_i)``.

    Args:
        low: at most ``high``: a number, or an array that broadcasts to the parameter (a tensor, numpy's, or lists). Minus
            infinity leaves this end open.
        high: at least ``low``, likewise; infinity leaves this end open. One end is finite.
    Raises:
        ShapeError: an array does not broadcast to the parameter.
    Example:
        >>> import torch
        >>> Box(0.0, torch.tensor([1.0, 2.0])).project(torch.tensor([[3.0, 3.0], [-1.0, 1.0]]))
        tensor([[1., 2.],
                [0., 1.]])
    """

    low: Numbers
    high: Numbers

    @property
    def traits(self) -> Traits:
        """Sparse where an end is 0 somewhere: what is beyond it is set to 0."""
        return Traits(symmetric=False, sparse=any(_any(end == 0.0) for end in self.interval))

    def __post_init__(self) -> None:
        ends = low, high = array(self, "low"), array(self, "high")
        numbers = all(isinstance(x, (int, float, Tensor)) and not isinstance(x, bool) for x in ends)
        # Comparisons with what is not a number are false.
        if not numbers or not (_all(low <= high) and _all(low < math.inf) and _all(high > -math.inf)):
            raise InputError(
                f"Box needs numbers low <= high; it was given {setting_text(low)} and {setting_text(high)}."
            )
        if all(_all(abs(end) == math.inf) for end in ends):
            raise InputError("Box needs at least one finite end; with both infinite, leave it out.")

    __repr__ = Constraint.__str__

    @property
    def interval(self) -> tuple[float | Tensor, float | Tensor]:
        return self.low, self.high

    def check(self, name: str, w: Tensor) -> None:
        for end in ("low", "high"):
            check_broadcast(self, end, getattr(self, end), name, w)

    def at(self, leaf: Leaf) -> Self:
        return replace(self, low=cast_to_weights(self.low, leaf.tensor), high=cast_to_weights(self.high, leaf.tensor))

    def project(self, w: Tensor) -> Tensor:
        return into_interval(w, *self.interval)


@checked
@dataclass(frozen=True, eq=False)
class HalfSpace(ByValue, GroupConstraint):
    """``<a, w_g> <= limit_g`` for every group, ``a`` the normal: ``w_g -= max(<a, w_g> - limit_g, 0)/|a_g|^2 * a_g``.

    A budget that weights share (``normal=1``), an order that they keep, a response that stays below a limit. With minus the
    normal and minus the limit it is the other side.

    Args:
        normal: ``a``: a number, or an array that broadcasts to the parameter (a tensor, numpy's, or lists); one row for all
            units, or a row for each. Finite, and not 0.
        limit: a finite number, of any sign, or one for each group in a row.
        by: ``"all"``, the whole tensor, or groups as in `wellposed.constraints.balls.MaxNorm`: rows with ``"unit"``.
    Raises:
        InputError: the normal is 0 everywhere.
        ShapeError: an array does not broadcast to the parameter, there is not one limit for each group, or a parameter has
            fewer than two axes, unless by all.
    Source:
        Boyd & Vandenberghe (2004), Convex Optimization, 8.1.1.
    Example:
        >>> import torch
        >>> HalfSpace(torch.tensor([1.0, 2.0]), 5.0).project(torch.tensor([2.0, 4.0]))
        tensor([1., 2.])
    """

    normal: Numbers
    limit: Numbers
    by: str = "all"

    @property
    def traits(self) -> Traits:
        """Sparse where a normal along one coordinate and a limit of 0 together hold a weight at or beyond 0."""
        alone = isinstance(self.normal, Tensor) and int(torch.count_nonzero(self.normal)) == 1
        return Traits(symmetric=False, sparse=alone and _any(torch.as_tensor(self.limit) == 0))

    def __post_init__(self) -> None:
        for name in ("normal", "limit"):
            value = array(self, name)
            number = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
            if not number or not bool(torch.isfinite(torch.as_tensor(value)).all()):
                raise InputError(f"HalfSpace needs a finite {name}; it was given {setting_text(value)}.")
        if _all(self.normal == 0):
            raise InputError("HalfSpace needs a normal that is not 0: it says nothing about the weights otherwise.")
        if isinstance(self.limit, Tensor) and (self.limit.ndim != 1 or self.axis is None):
            raise InputError(
                f"HalfSpace needs one limit, or one for each group in a row, by unit or by input; it was given "
                f"{setting_text(self.limit)} with by={self.by!r}."
            )
        _ = self.axis

    __repr__ = Constraint.__str__

    def check(self, name: str, w: Tensor) -> None:
        super().check(name, w)
        check_broadcast(self, "normal", self.normal, name, w)
        groups = 1 if self.axis is None else w.shape[self.axis]
        if isinstance(self.limit, Tensor) and len(self.limit) != groups:
            raise ShapeError(
                f"HalfSpace needs one limit for each of the {groups} groups of {name!r} of shape {tuple(w.shape)}; it was "
                f"given {len(self.limit)}."
            )
        free = row_norms(as_rows(self._spread(w), self.axis)).reshape(-1) == 0 if w.numel() else torch.zeros(0)
        if _all(torch.as_tensor(self.limit) >= 0) or not bool(free.any()):
            return
        if bool((free & (torch.as_tensor(self.limit, device=free.device) < 0)).any()):
            raise InputError(
                f"HalfSpace has a normal of 0 and a limit below 0 in a group of {name!r}: nothing satisfies 0 <= limit. "
                "Give a limit >= 0 there."
            )

    def at(self, leaf: Leaf) -> Self:
        """This constraint with its arrays on the parameter's device, and the axis that a transposed convolution has for ``by``."""
        here = super().at(leaf)
        return replace(
            here, normal=cast_to_weights(here.normal, leaf.tensor), limit=cast_to_weights(here.limit, leaf.tensor)
        )

    def times(self, factor: float) -> Self:
        return replace(self, limit=self.limit * factor)

    def project(self, w: Tensor) -> Tensor:
        if not w.numel():
            return w.clone()
        limit = torch.as_tensor(self.limit, device=w.device)
        return into_half_space(w, self._spread(w), limit, self.axis)

    def _spread(self, w: Tensor) -> Tensor:
        return (
            torch.as_tensor(self.normal, device=w.device).to(torch.promote_types(w.dtype, torch.float32)).expand_as(w)
        )


def _any(holds: bool | Tensor) -> bool:
    return bool(torch.as_tensor(holds).any())


def _all(holds: bool | Tensor) -> bool:
    return bool(torch.as_tensor(holds).all())


def cast_to_weights(value: float | Tensor, w: Tensor) -> float | Tensor:
    """An array in the type of a parameter, float32 at least, and on its device; a number as it is."""
    wide = torch.promote_types(w.dtype, torch.float32)
    return value.to(device=w.device, dtype=wide) if isinstance(value, Tensor) else value


def check_broadcast(owner: object, setting: str, value: float | Tensor, name: str, w: Tensor) -> None:
    if isinstance(value, Tensor) and not broadcasts(value, w):
        raise ShapeError(
            f"{type(owner).__name__} needs a {setting} that broadcasts to the parameter; {name!r} has shape "
            f"{tuple(w.shape)}, the {setting} has {tuple(value.shape)}. Give one term for each shape."
        )


@checked
@dataclass(frozen=True)
class Simplex(GroupConstraint):
    """``w_i >= 0`` and ``sum_i w_i = total`` in every group: weights that mix, many of them exactly zero.

    Args:
        total: >= 0, in the units of the weights. 0 allows only zeros.
        by: groups as in `wellposed.constraints.balls.MaxNorm`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, unless by all.
    Source:
        Held, Wolfe & Crowder (1974), Mathematical Programming 6; Duchi et al. (2008), ICML.
    Example:
        >>> import torch
        >>> Simplex(by="all").project(torch.tensor([1.0, 0.5, -2.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """

    total: float = 1.0
    by: str = "unit"
    traits: ClassVar[Traits] = Traits(symmetric=False)

    def __post_init__(self) -> None:
        at_least_zero(self, total=self.total)
        super().__post_init__()

    def project(self, w: Tensor) -> Tensor:
        """``max(w - theta, 0)`` with the theta that meets the total; a feasible group comes back unchanged."""
        return onto_simplex(w, self.total, self.axis)


@checked
@dataclass(frozen=True)
class TopK(GroupConstraint):
    """At most ``keep`` weights of every group are not zero: the largest magnitudes stay, the others become 0.

    Not convex. The projected step is iterative hard thresholding; its `violation` is the residual of that step, which
    depends on the step's size.

    Args:
        keep: a whole number >= 0 of weights, or a fraction in (0, 1) of the group's size, rounded to the nearest whole
            number, but at least 1. 0 allows only zeros; a number beyond the group's size allows everything.
        by: ``"all"``, the whole tensor, or groups as in `wellposed.constraints.balls.MaxNorm`, with its errors.
    Raises:
        ShapeError: a parameter has fewer than two axes, unless by all.
    Source:
        Blumensath & Davies (2009), Applied and Computational Harmonic Analysis 27(3).
    Example:
        >>> import torch
        >>> TopK(2).project(torch.tensor([1.0, -3.0, 0.5, 1.0]))
        tensor([ 1., -3.,  0.,  0.])
    """

    keep: Annotated[int, Within(0)] | Annotated[float, Within(0, 1, open="both")]
    by: str = "all"
    traits: ClassVar[Traits] = Traits(convex=False)
    keeps_signs: ClassVar[bool] = True

    def count(self, w: Tensor) -> int:
        if isinstance(self.keep, int):
            return self.keep
        size = w.numel() if self.axis is None else along(w, self.axis).sizes
        return max(1, round(self.keep * size))

    def project(self, w: Tensor) -> Tensor:
        """The largest magnitudes of each group; among equal ones the lowest index."""
        return keep_largest(w, self.count(w), self.axis)

    def follows(self, weighted: bool, thresholds: bool, cores: Sequence[Penalty]) -> bool:
        """Whether projecting after these terms' own steps solves the joint step: only after absolute values of one strength."""
        return not weighted and not cores
