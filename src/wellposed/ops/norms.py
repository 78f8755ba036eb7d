"""Norms over the groups of a tensor, of numbers of any size and type; and the rules that every operator keeps.

- **Not finite.** NaN and the infinities stay what they are, so that weights that have diverged never look finite, bounded
  or sparse. Where numbers are coupled (a group, a row, a matrix) one that is not finite leaves no minimizer: the whole
  group comes back as it was given, and the other groups are solved as if it were not there.
- **Any size.** Squares are taken of numbers that have been divided by a power of two near the largest, which is exact:
  they neither overflow nor vanish.
- **Any type.** Types shorter than float32 are computed in float32, and rounded once.
- **Nothing.** A tensor without numbers comes back, and is charged 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Axes = int | tuple[int, ...] | None
T = TypeVar("T")


def at_least_float32(x: T) -> T:
    """A tensor of a type shorter than float32 in float32; anything else as it is."""
    given: Any = x
    short = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return given.float() if short else given  # type: ignore[no-any-return]


def precise(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator whose first argument, and result, may be of a type shorter than float32; it is computed in float32."""

    @functools.wraps(operator)
    def wrapped(w: Tensor, *args: Any, **settings: Any) -> Tensor:
        return operator(at_least_float32(w), *map(at_least_float32, args), **settings).to(w.dtype)

    return wrapped


class Valued(torch.autograd.Function):
    """The first argument, with the gradient of the second, which it equals to rounding."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, likewise: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def with_gradient_of(value: Tensor, likewise: Tensor) -> Tensor:
    """``value``, bit for bit, with the gradient of ``likewise``: of what is projected, where what is feasible comes back."""
    found: Tensor = Valued.apply(value, likewise)  # type: ignore[no-untyped-call]
    return found


def unless_diverged(distance: Tensor, w: Tensor) -> Tensor:
    """A distance at ``w``; NaN where a number of ``w`` is not finite, at which nothing is stationary."""
    return torch.where(torch.isfinite(w).all(), distance, torch.full_like(distance, math.nan))


def power_of_two(size: Tensor) -> Tensor:
    """The largest power of two that is at most ``size >= 0``; 1 where that is 0 or not finite. Carries no gradient."""
    size = size.detach()
    mantissa = torch.frexp(size).mantissa  # in [1/2, 1), so that the quotient is exact; 0/0 or inf/inf elsewhere
    return torch.nan_to_num(size / (2 * mantissa), nan=1.0)


def largest(x: Tensor, dim: Axes = None) -> Tensor:
    """``max |x_i|`` over the axes ``dim``, which stay with length 1; 0 where there is nothing, all axes for None."""
    dim = tuple(range(x.ndim)) if dim is None else dim
    return x.abs().amax(dim, keepdim=True) if x.numel() and dim != () else x.abs().sum(dim, keepdim=True)


def rooted_sum(squares: Tensor) -> Tensor:
    """The square root of a sum of squares, whose gradient at 0 is 0 instead of infinite."""
    some = squares > 0
    return torch.where(some, squares.where(some, torch.ones_like(squares)).sqrt(), squares)


def lengths(x: Tensor, dim: Axes = None) -> Tensor:
    """``|x|_2`` over the axes ``dim``, which stay with length 1; its gradient at 0 is 0. All axes for None."""
    dim = tuple(range(x.ndim)) if dim is None else dim
    scale = power_of_two(largest(x, dim))
    return rooted_sum((x / scale).square().sum(dim, keepdim=True)) * scale if dim != () else x.abs()


def length(x: Tensor) -> Tensor:
    """``|x|_2`` of all numbers, 0-d."""
    return lengths(at_least_float32(x.reshape(-1))).reshape(()).to(x.dtype)


def signs(x: Tensor) -> Tensor:
    """-1, 0 or 1, and NaN of what is not a number, for which `torch.sign` has 0."""
    return torch.where(x.isnan(), x, x.sign())


def other_axes(w: Tensor, axis: int) -> tuple[int, ...]:
    """Every axis of ``w`` but ``axis``: a group is one index along ``axis``."""
    return tuple(i for i in range(w.ndim) if i != axis % w.ndim)


def group_norms(w: Tensor, axis: int) -> Tensor:
    """``|w_g|_2`` for each index ``g`` along ``axis``; shape of ``w`` with the other axes of length 1."""
    return lengths(w, other_axes(w, axis))
