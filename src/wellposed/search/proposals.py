"""Optuna's samplers over the space, in lots: quasi-random points first, then a tree of Parzen estimators that learns from all told.

The study that is asked lives in memory and is made anew from the trials that are told, so that a lot is a function of them and
of (seed, lot) alone, and a range that was widened is one from the first trial on. What is kept on disk is `journal`'s.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.quasirandom import SobolEngine

from wellposed.core.errors import require
from wellposed.core.random import numpy_generator, stream_seed
from wellposed.core.shared import warnings_apart
from wellposed.search.space import Dimension, Point, Space, same_choice
from wellposed.study.ranking import WORST, Rank

MOST_DRAWS = 20
"""Draws for a point that differs from all others; a small space may have no more, and then one comes twice."""
FIRST_POINTS = 32
"""Of the quasi-random sequence, how many are drawn beyond the one that is asked for."""


@dataclass(frozen=True)
class TrialResult:
    """What became of a point.

    Attributes:
        rank: greater is better; `WORST` where it diverged.
        culled: after how many epochs halving stopped it; None where it was trained to its end.
    """

    point: Point
    rank: Rank
    culled: int | None = None


class Proposals:
    """Points of a space to be tried.

    Args:
        seed: of all draws.
        quasi: so many points are quasi-random before the first that is learned.
    """

    def __init__(self, space: Space, seed: int, quasi: int) -> None:
        self.space, self.seed, self.quasi = space, seed, quasi
        self._units: list[dict[str, float]] = []

    def ask(
        self,
        count: int,
        first: int,
        lot: int,
        told: Sequence[TrialResult],
        shared: Point | None = None,
        running: Sequence[Point] = (),
    ) -> list[Point]:
        """So many points that differ from all told ones.

        Args:
            first: how many points were asked for before; those below ``quasi`` are quasi-random.
            lot: the number of the lot, for the draws of the learned ones.
            shared: values of shared dimensions that all of them get.
            running: points that are trained at the same time; what is learned keeps away from them.
        """
        known = [*(t.point for t in told), *running]
        found: list[Point] = []
        drawn = 0
        with quietly():
            study = self._study(told, running, lot) if first + count > self.quasi else None
            while len(found) < count:
                at = first + len(found)
                if study is None or at < self.quasi:
                    point = self._quasi(at if not drawn else self.quasi + drawn * count + at, shared or {})
                else:
                    point = self._learned(study, shared or {})
                drawn += 1
                if point not in known or drawn > MOST_DRAWS + count:
                    found.append(point)
                    known.append(point)
                    drawn = 0
        return found

    def group(self, lot: int, number: int, told: Sequence[TrialResult]) -> Point:
        """Values of the shared dimensions for a group of a lot: drawn as the space says at first, later often those of one of
        the best that are told."""
        draw = numpy_generator(self.seed, "group", lot, number)
        best = sorted((t for t in told if t.rank > WORST and t.culled is None), key=lambda t: t.rank, reverse=True)
        take = best[draw.integers(min(LEADERS, len(best)))].point if best else {}
        exploit = len(told) >= self.quasi and draw.random() < EXPLOIT
        chosen: Point = {}
        for dimension in (d for d in self.space.dimensions.values() if d.shared):
            value, changes = dimension.at(draw.random()), draw.random() < CHANGES
            leads = take.get(dimension.name)
            chosen[dimension.name] = leads if exploit and not changes and leads is not None else value
        return chosen

    def _quasi(self, at: int, shared: Point) -> Point:
        """The point at the ``at``-th place of a scrambled Sobol sequence."""
        if len(self._units) <= at:  # a power of two, as the sequence wants it
            self._units = _sobol(list(self.space.dimensions), self.seed, 2 ** (at + FIRST_POINTS).bit_length())
        return self.space.point(self._units[at], shared)

    def _study(self, told: Sequence[TrialResult], running: Sequence[Point], lot: int) -> Any:
        """Optuna's study in memory with all that was told: ranks in the place of scores, so that losses break ties."""
        optuna = require("optuna", "search")
        seed = stream_seed(self.seed, "proposals", lot) % 2**32
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=0, seed=seed
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        order = {rank: place for place, rank in enumerate(sorted({t.rank for t in told}))}
        study.add_trials([self._frozen(t, float(order[t.rank])) for t in told if self.space.fits(t.point)])
        study.add_trials([self._trial(point, "RUNNING") for point in running])
        return study

    def _said(self, point: Point) -> Point:
        return {name: to_optuna(self.space.dimensions[name], value) for name, value in point.items()}

    def _trial(self, point: Point, state: str, **outcome: Any) -> Any:
        distributions = {name: distribution(self.space.dimensions[name]) for name in point}
        trial: Any = require("optuna", "search").trial
        return trial.create_trial(
            params=self._said(point), distributions=distributions, state=trial.TrialState[state], **outcome
        )

    def _frozen(self, told: TrialResult, value: float) -> Any:
        if told.culled is None or told.rank == WORST:
            return self._trial(told.point, "COMPLETE", value=value)
        return self._trial(told.point, "PRUNED", intermediate_values={told.culled: value})

    def _learned(self, study: Any, shared: Point) -> Point:
        study.enqueue_trial(self._said(shared))
        trial = study.ask()
        point: Point = {}
        for name, dimension in self.space.dimensions.items():
            if dimension.active(point):
                value = suggest_value(trial, dimension)
                point[name] = dimension.back(dimension.scaled(value)) if dimension.kind == "size" else value
        return point


LEADERS = 5
EXPLOIT, CHANGES = 0.75, 0.25
"""How often a group takes the shared values of one of the best `LEADERS`, and how often one of them is drawn anew."""


def distribution(dimension: Dimension, *held: Any) -> Any:
    """The dimension as Optuna says it, so wide that it holds these values, from before its range was changed."""
    distributions = require("optuna", "search").distributions
    if dimension.kind == "size":
        low, high = min([dimension.low, *held]), max([dimension.high, *held])
        return distributions.FloatDistribution(low, high, log=dimension.log)
    choices = choices_of(dimension)
    return distributions.CategoricalDistribution((*choices, *(value for value in held if value not in choices)))


def choices_of(dimension: Dimension) -> tuple[Any, ...]:
    """The choices of a dimension that is no range, as Optuna says them: as text where they are lists, or where it would take some
    for equal (1, 1.0 and True)."""
    choices = (False, True) if dimension.kind == "in" else dimension.choices
    plain = all(isinstance(choice, (bool, int, float, str)) for choice in choices)
    return choices if plain and len(set(choices)) == len(choices) else tuple(map(repr, choices))


def to_optuna(dimension: Dimension, value: Any) -> Any:
    """A value as Optuna says it."""
    if dimension.kind != "choice":
        return value
    for choice, label in zip(dimension.choices, choices_of(dimension), strict=True):
        if same_choice(choice, value):
            return label
    return value if isinstance(value, (bool, int, float, str)) else repr(value)


def suggest_value(trial: Any, dimension: Dimension) -> Any:
    """The value that a trial of Optuna suggests."""
    if dimension.kind == "size":
        return trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)
    label = trial.suggest_categorical(dimension.name, choices_of(dimension))
    return dimension.choices[choices_of(dimension).index(label)] if dimension.kind == "choice" else label


def _sobol(names: Sequence[str], seed: int, count: int) -> list[dict[str, float]]:
    """The first points of a scrambled Sobol sequence in the unit cube."""
    sequence = SobolEngine(len(names), scramble=True, seed=stream_seed(seed, "quasi") % 2**32)  # type: ignore[no-untyped-call]
    return [dict(zip(names, point, strict=True)) for point in sequence.draw(count, dtype=torch.float64).tolist()]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's log on stderr and its warnings of what is experimental; both are as before afterwards."""
    optuna = require("optuna", "search")
    with warnings_apart():
        warnings.simplefilter("ignore")
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
