"""Sets that say which weights may be there, and of which sign and size: orthants, boxes, simplices, sparse patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.constraints.balls import Grouped
from wellposed.core.errors import InputError
from wellposed.core.numbers import settle
from wellposed.ops.norms import group_size
from wellposed.ops.project import into_interval, keep_largest, onto_simplex
from wellposed.penalties.base import Constraint, Traits, at_least_zero


@dataclass(frozen=True)
class NonNegative(Constraint):
    """``w_i >= 0`` for every weight: ``max(w_i, 0)``.

    Source:
        Lee & Seung (1999), Nature 401; monotone networks: Sill (1998), NeurIPS.
    """

    traits: ClassVar[Traits] = Traits(symmetric=False)

    @property
    def interval(self) -> tuple[float, float]:
        """``(0, infinity)``."""
        return 0.0, math.inf

    def project(self, w: Tensor) -> Tensor:
        """``max(w, 0)``."""
        return into_interval(w, *self.interval)


@dataclass(frozen=True)
class Box(Constraint):
    """``low <= w_i <= high`` for every weight: ``clip(w_i, low, high)``.

    Args:
        low: at most ``high``; minus infinity leaves this end open.
        high: at least ``low``; infinity leaves this end open. One end is finite.
    """

    low: float
    high: float

    @property
    def traits(self) -> Traits:
        """Zeros come of an end that is 0: what is beyond it is set there."""
        return Traits(symmetric=False, sparse=0.0 in (self.low, self.high))

    def __post_init__(self) -> None:
        settle(self, "low", "high")
        numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in self.interval)
        # Comparisons with what is not a number are false.
        if not numbers or not (self.low <= self.high and self.low < math.inf and self.high > -math.inf):
            raise InputError(f"Box needs numbers low <= high; it was given {self.low!r} and {self.high!r}.")
        if math.isinf(self.low) and math.isinf(self.high):
            raise InputError("Box needs at least one finite end; with both infinite, leave it out.")

    @property
    def interval(self) -> tuple[float, float]:
        """``(low, high)``."""
        return self.low, self.high

    def project(self, w: Tensor) -> Tensor:
        """``clip(w, low, high)``."""
        return into_interval(w, *self.interval)


@dataclass(frozen=True)
class Simplex(Grouped):
    """``w_i >= 0`` and ``sum_i w_i = total`` in every group: weights that mix, many of them exactly zero.

    Args:
        total: >= 0, in the units of the weights. 0 allows only zeros.
        by: groups as in `wellposed.constraints.balls.MaxNorm`.
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
        _ = self.axis

    def project(self, w: Tensor) -> Tensor:
        """``max(w - theta, 0)`` with the theta that meets the total; a feasible group comes back unchanged."""
        return onto_simplex(w, self.total, self.axis)


@dataclass(frozen=True)
class TopK(Grouped):
    """At most ``keep`` weights of every group are not zero: the largest magnitudes stay, the others become 0.

    Not convex. The projected step is iterative hard thresholding; its `violation` is the residual of that step, which
    depends on the step's size.

    Args:
        keep: a whole number >= 0 of weights, or a fraction in (0, 1) of the group's size, rounded to the nearest whole
            number, but at least 1. 0 allows only zeros; a number beyond the group's size allows everything.
        by: ``"all"``, the whole tensor, or groups as in `wellposed.constraints.balls.MaxNorm`.
    Raises:
        ShapeError: a parameter has fewer than two axes, unless by all.
    Source:
        Blumensath & Davies (2009), Applied and Computational Harmonic Analysis 27(3).
    Example:
        >>> import torch
        >>> TopK(2).project(torch.tensor([1.0, -3.0, 0.5, 1.0]))
        tensor([ 1., -3.,  0.,  0.])
    """

    keep: float
    by: str = "all"
    traits: ClassVar[Traits] = Traits(convex=False)

    def __post_init__(self) -> None:
        settle(self, "keep")
        count = isinstance(self.keep, int) and not isinstance(self.keep, bool) and self.keep >= 0
        if not count and not (isinstance(self.keep, float) and 0.0 < self.keep < 1.0):
            raise InputError(
                f"TopK needs keep as a whole number >= 0, or a fraction between 0 and 1; it was given {self.keep!r}."
            )
        _ = self.axis

    def count(self, w: Tensor) -> int:
        """How many weights of a group may stay."""
        if isinstance(self.keep, int):
            return self.keep
        size = w.numel() if self.axis is None else group_size(w, self.axis)
        return max(1, round(self.keep * size))

    def project(self, w: Tensor) -> Tensor:
        """The largest magnitudes of each group; among equal ones the lowest index."""
        return keep_largest(w, self.count(w), self.axis)
