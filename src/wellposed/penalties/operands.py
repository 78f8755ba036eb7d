"""What the operators of a charge take: whoever calls `prox`, `project`, `value` or `violation` by hand is told what does not fit.

Kinds and shapes are looked at, not numbers in tensors: optimizers call these operators in every step.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from wellposed.core.errors import InputError, ShapeError, described, listed

ROLES = {
    "value": ("weights",),
    "project": ("weights",),
    "prox": ("weights", "step"),
    "violation": ("weights", "gradient", "step"),
}
"""What the operators take, in order, whatever a class calls it."""


def guard_operators(cls: type, several: bool = False) -> None:
    """Let the operators that a class defines look at what they are given: one tensor, or lists for ``several``."""
    for name, roles in ROLES.items():
        if name in vars(cls):
            setattr(cls, name, _guarded(vars(cls)[name], roles, several))


def _guarded(operator: Callable[..., Any], roles: tuple[str, ...], several: bool) -> Callable[..., Any]:
    names = list(inspect.signature(operator).parameters)[1:]

    @functools.wraps(operator)
    def guarded(self: Any, *args: Any, **named: Any) -> Any:
        given = args if not named else (*args, *(named[name] for name in names[len(args) :] if name in named))
        who = f"{type(self).__name__}.{operator.__name__}"
        if not several:
            _look(who, roles, given)
            if given and given[0].ndim == 0:  # rows, columns and neighbours need axes
                self.check("weights", given[0])
            step = given[roles.index("step")] if "step" in roles and len(given) == len(roles) else None
            if isinstance(step, Tensor) and step.numel() > 1 and not self.traits.diagonal:
                raise ShapeError(
                    f"{who} takes one step for all weights; it was given steps of shape {tuple(step.shape)}."
                )
        elif given:
            lists, rest = given[:2], given[2:]  # the step of a violation is one for all
            if not all(isinstance(each, (list, tuple)) and len(each) == len(given[0]) for each in lists):
                raise InputError(
                    f"{who} takes lists of equal length, one entry for each tensor; it was given {listed(map(described, lists))}."
                )
            for entries in zip(*lists, strict=True):
                _look(who, roles, (*entries, *rest))
        return operator(self, *args, **named)

    return guarded


def _look(who: str, roles: tuple[str, ...], given: Sequence[Any]) -> None:
    if given:
        weights = _tensor(who, "weights", given[0])
        for role, value in zip(roles[1:], given[1:], strict=False):
            if role == "gradient":
                _same_shape(who, weights, value)
            else:
                _fits_as_step(who, weights, value)


def _tensor(who: str, role: str, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else described(value)
    raise InputError(f"{who} takes the {role} as a tensor of real numbers; it was given {what}.")


def _same_shape(who: str, weights: Tensor, value: Any) -> None:
    gradient = _tensor(who, "gradient", value)
    if gradient.shape != weights.shape:
        raise ShapeError(
            f"{who} takes a gradient of the weights' shape {tuple(weights.shape)}; it was given one of "
            f"{tuple(gradient.shape)}."
        )


def _fits_as_step(who: str, weights: Tensor, step: Any) -> None:
    if isinstance(step, Tensor):
        sizes = zip(reversed(step.shape), reversed(weights.shape), strict=False)
        if step.ndim > weights.ndim or any(a not in (1, b) for a, b in sizes):
            raise ShapeError(
                f"{who} takes one step, or one for each weight of {tuple(weights.shape)}; it was given steps "
                f"of shape {tuple(step.shape)}."
            )
    elif isinstance(step, bool) or not isinstance(step, Real) or not 0 <= float(step) < math.inf:
        raise InputError(f"{who} takes a step that is a number >= 0; it was given {described(step)}.")
