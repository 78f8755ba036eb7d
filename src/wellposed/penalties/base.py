"""What a penalty is, and a term: a penalty or constraint bound to parameters and to an enforcement."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args

from torch import Tensor

from wellposed.core.errors import InputError, ShapeError
from wellposed.core.registry import snake_case
from wellposed.core.selectors import Selector, selector, weights

How = Literal["loss", "decay", "prox", "project"]


@dataclass(frozen=True)
class Traits:
    """What holds for a penalty, as the laws and the composition rules need to know it."""

    convex: bool = True
    weak_convexity: float = 0.0
    homogeneous: int | None = None
    symmetric: bool = True


class Chargeable(ABC):
    """A penalty or a constraint: something that can be bound to parameters with `on`."""

    hows: ClassVar[tuple[How, ...]]

    def on(self, where: object = weights, how: How | None = None) -> Term:
        """Bind to the parameters that ``where`` selects; ``how`` is the enforcement, by default the right one.

        Raises:
            InputError: this penalty cannot be enforced so.
        """
        chosen = how or self.hows[0]
        if chosen not in get_args(How):
            raise InputError(f"how={chosen!r} is not known; it is one of {', '.join(get_args(How))}.")
        if chosen not in self.hows:
            raise InputError(
                f"{type(self).__name__} cannot be enforced by how={chosen!r}; it can by {', '.join(self.hows)}."
            )
        return Term(self, selector(where), chosen)

    def check(self, name: str, w: Tensor) -> None:
        """Refuse a parameter whose shape this cannot charge; by default every shape can be charged."""
        return None

    @property
    def name(self) -> str:
        """The name in recipes: ``l1``, ``group_l2``, ``max_norm``."""
        return snake_case(type(self).__name__)

    def __str__(self) -> str:
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({values})"


class Penalty(Chargeable):
    """A charge ``g(w) >= 0`` on one tensor, with the operators that enforce it."""

    traits: ClassVar[Traits]
    strength: float

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """``g(w)``, 0-d, carries gradient."""

    @abstractmethod
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + g(u)``; ``step`` is a number or one per coordinate."""

    @abstractmethod
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """Euclidean distance of ``-grad`` to the subdifferential of ``g`` at ``w``, 0-d. 0 where stationary."""


class Constraint(Chargeable):
    """A set that weights must stay in."""

    hows: ClassVar[tuple[How, ...]] = ("project",)

    @abstractmethod
    def project(self, w: Tensor) -> Tensor:
        """``argmin_u |u - w|`` over the set; a feasible ``w`` comes back unchanged."""


@dataclass(frozen=True)
class Term:
    """A penalty or a constraint, bound to parameters (``where``) and to an enforcement (``how``)."""

    charge: Chargeable
    where: Selector
    how: How

    def __str__(self) -> str:
        return f"{self.charge} on {self.where} by {self.how}"


def at_least_zero(owner: object, **values: float) -> None:
    """Refuse strengths and bounds that are negative, infinite or not numbers."""
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise InputError(f"{type(owner).__name__} needs a finite {name} >= 0; it was given {value!r}.")


GROUP_AXES = {"unit": 0, "input": 1}
"""Groups of torch's layouts: a unit (filter) is an index of axis 0, an input (channel) of axis 1."""


def group_axis(owner: object, by: str) -> int:
    """The axis that ``by`` names."""
    if by not in GROUP_AXES:
        raise InputError(f"{type(owner).__name__} groups by {' or '.join(GROUP_AXES)}; it was given by={by!r}.")
    return GROUP_AXES[by]


def needs_axes(owner: object, name: str, w: Tensor, axes: int) -> None:
    """Refuse tensors with too few axes, naming the parameter and the remedy."""
    if w.ndim < axes:
        raise ShapeError(
            f"{type(owner).__name__} needs >= {axes} axes; {name!r} has shape {tuple(w.shape)}. "
            "Use .on(wp.weights) or a glob that names matrices and kernels only."
        )
