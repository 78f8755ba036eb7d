"""When a run has waited long enough, and which epoch is its best: the rule of Keras' ``EarlyStopping`` (see `StoppingSpec`)."""

from __future__ import annotations

import math

from wellposed.core.errors import ProblemError
from wellposed.optim.schedules import Monitor, Plateau
from wellposed.recipe.recipe import Recipe, StoppingSpec
from wellposed.training.problem import Problem


class Patience:
    """Told of each epoch's value by `update`, of which more is better where ``higher``; ``over`` says that training is to stop."""

    def __init__(self, settings: StoppingSpec, higher: bool = False) -> None:
        self.settings, self.sign = settings, -1.0 if higher else 1.0
        self.lowest = self.best = math.inf
        self.waited = 0
        self.over = False

    def update(self, epoch: int, value: float) -> bool:
        """Look at an epoch's value; whether it is the best so far."""
        settings, signed = self.settings, self.sign * value
        first = signed < self.lowest
        self.lowest = signed if first else self.lowest
        self.waited += 1
        if signed + settings.min_delta < self.best:
            self.best = signed
            if settings.baseline is None or signed + settings.min_delta < self.sign * settings.baseline:
                self.waited = 0
        elif settings.patience and self.waited >= settings.patience and epoch > 0:
            self.over = True
        return first


def monitored_values(recipe: Recipe) -> dict[str, Monitor]:
    """What stopping and the schedule look at, by the key that says so."""
    found = {"stopping": recipe.stopping.monitor}
    if isinstance(recipe.schedule.course, Plateau):
        found["schedule"] = recipe.schedule.course.monitor
    return found


def monitor_is_score(problem: Problem, monitor: Monitor) -> bool:
    """Whether more of it is better: only of some metrics."""
    return monitor.endswith("_metric") and problem.metric is not None and problem.metric.higher_is_better


def check_monitors(problem: Problem, recipe: Recipe, measured: bool = True) -> None:
    """Refuse to wait for a metric that there is not, or that is not ``measured``."""
    for section, monitor in monitored_values(recipe).items():
        if monitor.endswith("_metric") and not (problem.metric and measured):
            why = "the outputs are too many, or of a kind, that the metric is not measured" if problem.metric else (
                'the problem has none. Give the problem metric="accuracy" or another one'
            )  # fmt: skip
            raise ProblemError(f"[{section}] monitor = {monitor!r} needs a metric, and {why}. Or monitor valid_loss.")
