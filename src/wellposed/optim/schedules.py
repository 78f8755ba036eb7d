"""Schedules: the learning rate as a pure function of how far training has come.

A factor of the recipe's rate, so that a run can be resumed at any step and many runs can share one clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
