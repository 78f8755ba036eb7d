"""Schedules: the learning rate as a pure function of time, and strengths that follow one.

A `Course` is frozen settings and one formula, ``rate(base, t, total)``, so that a run can be resumed at any step, many runs can
share one clock, and a slot of a population has the rates of the run alone. `COURSES` names every course that a recipe knows;
`rate_at` adds the warm-up and counts steps or epochs. `Plateau` alone looks at the curves instead of the clock: its
`PlateauClock` is the only state. Names and settings are those of ``torch.optim.lr_scheduler``.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Literal

from wellposed.core.checks import ConfidenceLevel, Count, Positive, Within, checked
from wellposed.core.errors import InputError, described, did_you_mean, listed
from wellposed.core.numbers import to_python
from wellposed.core.registry import snake_case
from wellposed.penalties.base import Schedule

FLOOR = 0.01
"""Cosine and one-cycle end at a hundredth of the rate: low enough to settle, not so low that the last steps are lost."""

Monitor = Literal["valid_loss", "valid_metric", "train_loss", "train_metric", "cost"]
"""Columns of the history that a plateau and early stopping can look at."""


Size = Annotated[float, Within(0, sys.float_info.max)]
"""A finite number >= 0."""


# Courses of the learning rate


class Course(ABC):
    """The learning rate as a function of time. Not a dataclass itself, so that a `Custom` one is kept as it is."""

    @property
    def counted(self) -> bool:
        """Whether ``t`` is compared with a setting (epochs, unless something else is said); where that is None, the course spans
        all of training, and moves at each step."""
        return all(getattr(self, name, 1) is not None for name in ("step_size", "total_iters"))

    @abstractmethod
    def rate(self, base: float, t: int, total: float) -> float:
        """The rate after ``t`` counts (steps or epochs) of ``total``; ``base`` is the optimizer's own."""


@checked
@dataclass(frozen=True)
class Constant(Course):
    """``base`` throughout; with a warm-up, after it."""

    counted = False

    def rate(self, base: float, t: int, total: float) -> float:
        return base


@checked
@dataclass(frozen=True)
class Cosine(Course):
    """``min_lr + (base - min_lr) * (1 + cos(pi * t/total))/2``, torch's ``CosineAnnealingLR`` with ``T_max`` all of training.

    Args:
        min_lr: >= 0, what the rate falls to (torch's ``eta_min``); left out, a hundredth of ``base``.
    Source:
        Loshchilov & Hutter (2017), ICLR.
    """

    min_lr: Size | None = None

    counted = False

    def rate(self, base: float, t: int, total: float) -> float:
        if self.min_lr is None:
            return base * _cosine(t / total, FLOOR)
        return self.min_lr + (base - self.min_lr) * _cosine(t / total)


def _cosine(progress: float, floor: float = 0.0) -> float:
    """From 1 down half a cosine to ``floor`` at progress 1."""
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


@checked
@dataclass(frozen=True)
class CosineRestarts(Course):
    """Half a cosine from ``base`` to ``min_lr`` over ``T_0`` counts, then again from ``base``, each ``T_mult`` times as long.

    Torch's ``CosineAnnealingWarmRestarts``.

    Args:
        T_0: >= 1, counts until the first restart.
        T_mult: >= 1; 1 restarts every ``T_0`` counts.
        min_lr: >= 0 (torch's ``eta_min``).
    Source:
        Loshchilov & Hutter (2017), ICLR.
    """

    T_0: Count
    T_mult: Count = 1
    min_lr: Size = 0.0

    def rate(self, base: float, t: int, total: float) -> float:
        period = self.T_0
        if self.T_mult == 1:
            t %= period
        while t >= period:
            t, period = t - period, period * self.T_mult
        return self.min_lr + (base - self.min_lr) * _cosine(t / period)


@checked
@dataclass(frozen=True)
class OneCycle(Course):
    """Up a cosine from ``base/25`` to ``base`` over the first 30 %, then a cosine down to a hundredth of it.

    Source:
        Smith & Topin (2018), 1708.07120.
    """

    counted = False

    def rate(self, base: float, t: int, total: float) -> float:
        progress, rise = t / total, 0.3
        if progress < rise:
            return base * (0.04 + 0.96 * 0.5 * (1.0 - math.cos(math.pi * progress / rise)))
        return base * _cosine((progress - rise) / (1.0 - rise), FLOOR)


@checked
@dataclass(frozen=True)
class Step(Course):
    """``base * gamma^floor(t/step_size)``, torch's ``StepLR``; without ``step_size`` it falls at 1/2 and at 3/4 of training.

    Args:
        step_size: >= 1, counts between falls.
        gamma: > 0, the factor of each.
    """

    step_size: Count | None = None
    gamma: Positive = 0.1

    def rate(self, base: float, t: int, total: float) -> float:
        falls = (t >= total / 2) + (t >= total * 3 / 4) if self.step_size is None else t // self.step_size
        return base * _power(self.gamma, falls)


@checked
@dataclass(frozen=True)
class Multistep(Course):
    """``base * gamma^k`` with ``k`` the number of milestones <= t, torch's ``MultiStepLR``.

    Args:
        milestones: whole numbers >= 0; one that stands twice counts twice.
        gamma: > 0, the factor at each.
    """

    milestones: Sequence[Annotated[int, Within(0)]]
    gamma: Positive = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(sorted(map(to_python, self.milestones))))
        if not self.milestones:
            raise InputError("Multistep needs at least one milestone, such as [30, 60]; it was given none.")

    def rate(self, base: float, t: int, total: float) -> float:
        return base * _power(self.gamma, bisect_right(self.milestones, t))


@checked
@dataclass(frozen=True)
class Exponential(Course):
    """``base * gamma^t``, torch's ``ExponentialLR``.

    Args:
        gamma: > 0, the factor at each count; 1 is constant.
    """

    gamma: Positive

    def rate(self, base: float, t: int, total: float) -> float:
        return base * _power(self.gamma, t)


@checked
@dataclass(frozen=True)
class Linear(Course):
    """``base * (start_factor + (end_factor - start_factor) * min(t, n)/n)``, torch's ``LinearLR``, which has other defaults.

    Args:
        start_factor, end_factor: >= 0; from 1 to 0 unless something else is said (torch's are 1/3 and 1).
        total_iters: n >= 1; left out, all of training (torch's is 5).
    """

    start_factor: Size = 1.0
    end_factor: Size = 0.0
    total_iters: Count | None = None

    def rate(self, base: float, t: int, total: float) -> float:
        done = min(1.0, t / (self.total_iters or total))
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


@checked
@dataclass(frozen=True)
class Polynomial(Course):
    """``base * (1 - min(t, n)/n)^power``, torch's ``PolynomialLR``.

    Args:
        power: > 0; 1 is linear.
        total_iters: n >= 1, where the rate becomes 0; left out, all of training (torch's is 5).
    """

    power: Positive = 1.0
    total_iters: Count | None = None

    def rate(self, base: float, t: int, total: float) -> float:
        return float(base * (1.0 - min(1.0, t / (self.total_iters or total))) ** self.power)


def _power(gamma: float, times: int) -> float:
    """``gamma^times``; infinity where it is too large for a number."""
    try:
        return float(gamma**times)
    except OverflowError:
        return math.inf


@checked
@dataclass(frozen=True)
class Plateau(Course):
    """Multiply the rate by ``factor`` after more than ``patience`` epochs without a better ``monitor``.

    Torch's ``ReduceLROnPlateau``, with its defaults: the rate becomes ``max(factor * rate, min_lr)``, unless that is no more
    than ``eps`` below it. Whether higher or lower is better is known of each monitor.

    Args:
        factor: in (0, 1).
        patience: >= 0, bad epochs that are borne; 0 reduces after each.
        threshold: >= 0. Better is below ``best * (1 - threshold)``, or ``best - threshold`` where ``threshold_mode`` is
            ``"abs"`` (above ``best * (1 + threshold)`` or ``best + threshold`` where higher is better). NaN is never better.
        threshold_mode: ``"rel"`` (then ``threshold`` < 1) or ``"abs"``.
        cooldown: >= 0, epochs after a reduction in which nothing is counted as bad.
        min_lr: >= 0, no reduction goes below it.
        eps: >= 0, a reduction by no more than this is not made.
        monitor: one of `Monitor`.
    """

    factor: ConfidenceLevel = 0.1
    patience: Annotated[int, Within(0)] = 10
    threshold: Size = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Annotated[int, Within(0)] = 0
    min_lr: Size = 0.0
    eps: Size = 1e-8
    monitor: Monitor = "valid_loss"

    def __post_init__(self) -> None:
        if self.threshold_mode == "rel" and self.threshold >= 1:
            raise InputError(
                f"Plateau needs a relative threshold below 1; it was given {self.threshold!r}. For a difference say "
                'threshold_mode = "abs".'
            )

    counted = False

    def rate(self, base: float, t: int, total: float) -> float:
        return base


class PlateauClock:
    """How often a `Plateau` has reduced the rate; told of each epoch's value, of which more is better where ``higher``, by
    `update`.
    """

    def __init__(self, settings: Plateau, higher: bool = False) -> None:
        self.settings, self.sign = settings, -1.0 if higher else 1.0
        self.best = math.inf
        self.bad = self.resting = self.reductions = 0

    def update(self, value: float) -> None:
        settings, signed = self.settings, self.sign * value
        relative = settings.threshold_mode == "rel"
        bar = self.best * (1.0 - self.sign * settings.threshold) if relative else self.best - settings.threshold
        if signed < bar:
            self.best, self.bad = signed, 0
        else:
            self.bad += 1
        if self.resting:
            self.resting, self.bad = self.resting - 1, 0
        if self.bad > settings.patience:
            self.reductions, self.resting, self.bad = self.reductions + 1, settings.cooldown, 0

    def rate(self, base: float) -> float:
        """``base`` after the reductions so far."""
        for _ in range(self.reductions):
            lower = max(base * self.settings.factor, self.settings.min_lr)
            if base - lower <= self.settings.eps:
                break
            base = lower
        return base


class Custom(Course):
    """``base * function(t)``, torch's ``LambdaLR``: a schedule of one's own. A recipe with one cannot be written as TOML.

    Args:
        function: of the count, 0 for the first; gives a finite factor >= 0.
    """

    def __init__(self, function: Schedule) -> None:
        self.function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and self.function == other.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __repr__(self) -> str:
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{named.__module__}.{named.__qualname__}"

    def rate(self, base: float, t: int, total: float) -> float:
        return base * factor_at(self.function, t)


COURSES: dict[str, type[Course]] = {
    snake_case(cls.__name__): cls
    for cls in (
        Constant, Cosine, CosineRestarts, OneCycle, Step, Multistep, Exponential, Linear, Polynomial, Plateau,
    )
}  # fmt: skip
"""Every schedule of the learning rate, by its name in recipes."""

TORCH_NAMES = {
    "StepLR": "step",
    "MultiStepLR": "multistep",
    "ExponentialLR": "exponential",
    "LinearLR": "linear",
    "PolynomialLR": "polynomial",
    "CosineAnnealingLR": "cosine",
    "CosineAnnealingWarmRestarts": "cosine_restarts",
    "ReduceLROnPlateau": "plateau",
}
"""torch's schedulers that are a course of ours, by the name that a script calls them."""

BY_FUNCTION = "Any other schedule is a function of the count: Recipe(schedule=lambda epoch: 0.95**epoch)."

SHAPES: dict[str, Course] = {
    name: cls()
    for name, cls in COURSES.items()
    if cls is not Plateau and all(field.default is not MISSING for field in fields(cls)) and not cls().counted  # type: ignore[arg-type]
}
"""The courses that span all of training and need no setting: what a strength can follow too."""


def rate_at(course: Course, base: float, step: int, total: int, warmup: float = 0.0, unit: int = 1) -> float:
    """The learning rate of a step.

    During a warm-up of ``round(warmup * total)`` steps the rate is ``(step + 1)/(warm + 1)`` times the course's. A course that
    spans all of training begins after it; counts (milestones, periods) are of all steps, so that a fall at epoch 30 comes at
    epoch 30.

    Args:
        base: the optimizer's own rate.
        step: 0 for the first, up to ``total - 1``.
        total: >= 1, optimizer steps of all of training.
        warmup: in [0, 1).
        unit: >= 1, steps that make one count: 1, or the steps of an epoch.
    """
    warm = round(warmup * total)
    passed, whole = (step, total) if course.counted else (max(0, step - warm), max(1, total - warm))
    found = course.rate(base, passed // unit, whole / unit)
    return found * ((step + 1) / (warm + 1)) if step < warm else found


# Schedules of a strength or a bound: functions of the optimizer's step, 0 for the first, that are equal if their
# settings are, and show them.


def factor_at(schedule: Schedule, step: int) -> float:
    """The factor of a strength, or of a rate, at a step."""
    try:
        factor = to_python(schedule(step))
    except TypeError as error:
        raise InputError(
            f"A schedule is a function of the step, such as wp.ramp(1000) or lambda step: 1.0; at step {step} "
            f"{schedule!r} failed: {error}."
        ) from error
    if not isinstance(factor, (int, float)) or not 0 <= factor < math.inf:
        raise InputError(
            f"A schedule gives a finite factor >= 0; at step {step} {schedule!r} gives {described(factor)}."
        )
    return float(factor)


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

    steps: Count

    def __call__(self, step: int) -> float:
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

    steps: Count
    floor: Annotated[float, Within(0, 1)] = 0.0

    def __call__(self, step: int) -> float:
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

    stairs: Mapping[Annotated[int, Within(0)], Size] | tuple[tuple[Annotated[int, Within(0)], Size], ...]

    def __post_init__(self) -> None:
        pairs = tuple(sorted((to_python(step), to_python(factor)) for step, factor in dict(self.stairs).items()))
        if not pairs:
            raise InputError("Staircase needs at least one step, such as {1000: 0.5}; it was given none.")
        # A frozen dataclass of tuples can be compared and hashed, and does not change with the mapping it came from.
        object.__setattr__(self, "stairs", pairs)

    def __call__(self, step: int) -> float:
        passed = [factor for start, factor in dict(self.stairs).items() if start <= step]
        return float(passed[-1]) if passed else 1.0


@checked
@dataclass(frozen=True)
class NamedSchedule:
    """One of `SHAPES` over ``total_steps``, as the learning rate follows it; its last value from then on.

    Args:
        name: ``"constant"``, ``"cosine"``, ``"one_cycle"``, ``"step"``, ``"linear"`` or ``"polynomial"``.
        total_steps: >= 1.
        warmup: in [0, 1): the share of the steps over which the factor first rises linearly from 0.
    Example:
        >>> import wellposed as wp
        >>> [round(wp.named_schedule("cosine", 100, warmup=0.1)(step), 3) for step in (0, 9, 10, 55)]
        [0.091, 0.909, 1.0, 0.505]
    """

    name: str
    total_steps: Count
    warmup: Annotated[float, Within(0, 1, open="high")] = 0.0

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise InputError(
                f"There is no shape {self.name!r}.{did_you_mean(self.name, SHAPES)} Known: {listed(SHAPES)}."
            )

    def __call__(self, step: int) -> float:
        return rate_at(SHAPES[self.name], 1.0, min(step, self.total_steps - 1), self.total_steps, self.warmup)


ramp, decay_to, staircase, named_schedule = Ramp, DecayTo, Staircase, NamedSchedule
