"""Schedules: the learning rate as a pure function of how far training has come.

A factor of the recipe's rate, so that a run can be resumed at any step and many runs can share one clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, did_you_mean, listed
from wellposed.core.numbers import plain, settle
from wellposed.penalties.base import at_least_zero

Shape = Callable[[float], float]

FLOOR = 0.01
"""Cosine and one-cycle end at a hundredth of the rate: low enough to settle, not so low that the last steps are lost."""


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 down half a cosine to `FLOOR` at progress 1."""
    return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Up from 1/25 to 1 over the first 30 %, then a cosine down to `FLOOR`. Source: Smith & Topin (2018), 1708.07120."""
    rise = 0.3
    if progress < rise:
        return 0.04 + 0.96 * 0.5 * (1.0 - math.cos(math.pi * progress / rise))
    return cosine((progress - rise) / (1.0 - rise))


def step(progress: float) -> float:
    """1, then 0.1 from half of the way, then 0.01 from three quarters."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


SHAPES: dict[str, Shape] = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle, "step": step}
PLATEAU = "plateau"
"""The schedule that looks at the validation loss instead of the clock; see `Plateau`."""


def factor(name: str, step_index: int, total_steps: int, warmup: float = 0.0) -> float:
    """The factor of the learning rate for a step.

    Args:
        name: one of `SHAPES`, or ``"plateau"``, which is constant here.
        step_index: 0 for the first step, up to ``total_steps - 1``.
        total_steps: >= 1.
        warmup: in [0, 1): share of the steps over which the rate first rises linearly from 0.
    """
    shape = SHAPES.get(name, constant)
    warm_steps = round(warmup * total_steps)
    if step_index < warm_steps:
        return (step_index + 1) / (warm_steps + 1)
    return shape((step_index - warm_steps) / max(1, total_steps - warm_steps))


class Plateau:
    """Divide the rate by 10 for every ``patience`` epochs in which the validation loss reached no new minimum."""

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.best = math.inf
        self.waited = 0
        self.scale = 1.0

    def update(self, loss: float) -> float:
        """Look at an epoch's validation loss; the factor for the next epoch."""
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self.scale, self.waited = self.scale * 0.1, 0
        return self.scale


# Schedules of a strength or a bound: functions of the optimizer's step, 0 for the first, that are equal if their
# settings are, and show them.


def _count(owner: object, name: str, value: object, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{type(owner).__name__} needs a whole number {name} >= {least}; it was given {value!r}.")


def _share(owner: object, name: str, value: object, below_1: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
    if not number or (below_1 and value == 1.0):
        raise InputError(
            f"{type(owner).__name__} needs {name} in [0, 1{')' if below_1 else ']'}; it was given {value!r}."
        )


@checked
@dataclass(frozen=True)
class Ramp:
    """``min(1, step/steps)``: 0 at the first step, 1 from ``steps`` on.

    Args:
        steps: >= 1.
    Example:
        >>> import wellposed as wp
        >>> [wp.ramp(4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    steps: int

    def __post_init__(self) -> None:
        settle(self, "steps")
        _count(self, "steps", self.steps)

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        return min(1.0, step / self.steps)


@checked
@dataclass(frozen=True)
class DecayTo:
    """``floor + (1 - floor) * (1 + cos(pi * step/steps))/2``: 1 at the first step, ``floor`` from ``steps`` on.

    Args:
        steps: >= 1.
        floor: in [0, 1]; 0 ends without any charge, 1 is constant.
    Example:
        >>> import wellposed as wp
        >>> [round(wp.decay_to(4, floor=0.5)(step), 3) for step in (0, 2, 4, 9)]
        [1.0, 0.75, 0.5, 0.5]
    """

    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        settle(self, "steps")
        _count(self, "steps", self.steps)
        settle(self, "floor")
        _share(self, "floor", self.floor)

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        if step >= self.steps:
            return float(self.floor)
        return 1.0 - (1.0 - self.floor) * 0.5 * (1.0 - math.cos(math.pi * step / self.steps))


@checked
@dataclass(frozen=True)
class Staircase:
    """1 at first; from each step that is named on, the factor that is given with it.

    Args:
        stairs: ``{step: factor}``, or pairs; steps >= 0, finite factors >= 0.
    Example:
        >>> import wellposed as wp
        >>> fall = wp.staircase({1000: 0.5, 2000: 0.1})
        >>> [fall(step) for step in (0, 999, 1000, 2000)]
        [1.0, 1.0, 0.5, 0.1]
    """

    stairs: Mapping[int, float] | tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        pairs = tuple(sorted((plain(step), plain(factor)) for step, factor in dict(self.stairs).items()))
        if not pairs:
            raise InputError("Staircase needs at least one step, such as {1000: 0.5}; it was given none.")
        for step, factor in pairs:
            _count(self, "step", step, least=0)
            at_least_zero(self, factor=factor)
        # A frozen dataclass of tuples can be compared and hashed, and does not change with the mapping it came from.
        object.__setattr__(self, "stairs", pairs)

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        passed = [factor for start, factor in dict(self.stairs).items() if start <= step]
        return float(passed[-1]) if passed else 1.0


@checked
@dataclass(frozen=True)
class Shaped:
    """One of `SHAPES` over ``total_steps``, as the learning rate follows it; its last value from then on.

    Args:
        name: ``"constant"``, ``"cosine"``, ``"one_cycle"`` or ``"step"``.
        total_steps: >= 1.
        warmup: in [0, 1): the share of the steps over which the factor first rises linearly from 0.
    Example:
        >>> import wellposed as wp
        >>> [round(wp.shaped("cosine", 100, warmup=0.1)(step), 3) for step in (0, 9, 10, 55)]
        [0.091, 0.909, 1.0, 0.505]
    """

    name: str
    total_steps: int
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise InputError(
                f"There is no shape {self.name!r}.{did_you_mean(self.name, SHAPES)} Known: {listed(SHAPES)}."
            )
        settle(self, "total_steps", "warmup")
        _count(self, "total_steps", self.total_steps)
        _share(self, "warmup", self.warmup, below_1=True)

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        return factor(self.name, min(step, self.total_steps - 1), self.total_steps, self.warmup)


ramp, decay_to, staircase, shaped = Ramp, DecayTo, Staircase, Shaped
