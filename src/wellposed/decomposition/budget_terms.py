"""The terms of an error budget: differences of measured losses with their intervals, and which of them matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from wellposed.core.errors import InputError, listed
from wellposed.decomposition.rivals import Objective
from wellposed.diagnosis.advice import Room
from wellposed.diagnosis.finding import Change
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.intervals import Array, Interval, crossed_interval, paired_interval
from wellposed.statistics.student import half_width

MATERIAL = 0.01
"""A part below this share of the validation loss is not named: pulling its lever would move nothing that people read."""
MATTERS = 0.1
"""Where a gain of this share of the validation loss is possible still, nothing is called healthy: less is hardly anything."""
TERMS = ("floor", "regularization", "optimization", "stopping", "gap")
"""The terms, in the order in which they add up."""


@dataclass(frozen=True)
class BudgetTerm:
    """One number with its interval.

    Attributes:
        values: for each seed; their mean is ``estimate``.
        rows: ``(rows, seeds)``, where validation rows vary it too; else None.
        low, high: where it lies at the budget's level; NaN where one seed says nothing of others.
    """

    name: str
    values: tuple[float, ...]
    low: float
    high: float
    rows: Array | None = field(default=None, repr=False, compare=False)

    @property
    def estimate(self) -> float:
        """The mean over the seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "estimate", "low", "high", "clear", "values"}``."""
        names = ("name", "estimate", "low", "high", "clear")
        return {name: getattr(self, name) for name in names} | {"values": list(self.values)}


@dataclass(frozen=True)
class Levels:
    """The losses of one seed that the terms are differences of.

    Attributes:
        floor: T0, the lowest training loss of any network that was trained, the larger one included.
        same: the lowest training loss of the same network, with or without its regularization.
        best: T(w*), of the lowest cost that was found.
        end, chosen: T at the last epoch, and of the weights that come back.
        valid: V(chosen), for each row.
        valid_best, valid_end: V(w*) and V(w_end), for each row.
        valid_way: V on the way to w*, at the epoch that the recipe's rule would choose; None where it was not needed.
        cost_end, cost_best: the cost at w_end and w*.
        winner: which recipe found w*; empty where it is the recipe's own.
        rival: that recipe; None where it is the recipe's own.
        patient: the training loss of the recipe's own optimizer and rate, annealed and longer; NaN where it was not trained.
        kin, kin_loss: the best of the recipe's own optimizer or its kind, at any rate, and its training loss.
    """

    floor: float
    same: float
    best: float
    end: float
    chosen: float
    valid: Array
    valid_best: Array
    valid_end: Array
    cost_end: float
    cost_best: float
    winner: str = ""
    rival: Recipe | None = None
    patient: float = math.nan
    valid_way: Array | None = None
    kin: Recipe | None = None
    kin_loss: float = math.nan

    def closes(self, loss: float) -> float:
        """The share of what the optimizer left that this training loss makes good; NaN where nothing was left."""
        left = self.end - self.best
        return (self.end - loss) / left if left > 0 else math.nan


@dataclass(frozen=True)
class Remedy:
    """A change that a finding would propose, trained and stopped as the recipe is.

    Attributes:
        name: the finding whose lever it pulls.
        valid: the validation loss, each row's part, for each seed.
    """

    name: str
    change: Change
    valid: tuple[Array, ...] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Answer:
    """What pulling a part's lever does.

    Attributes:
        remedy: the change that lowers the validation loss most, of those that were tried.
        gain: what a choice like that takes off the validation loss; see `cross_fitted`.
        helps: whether that is clear, and large enough to be named.
    """

    remedy: Remedy
    gain: BudgetTerm
    helps: bool


def cross_fitted(gains: Array) -> Array:
    """``(rows, seeds)``: the gain of the best of several changes, without the luck of having been chosen.

    The best of several looks better than it is on the rows and seeds that it was chosen by. So for every second row and each seed
    the change is taken that is best on the other rows with the other seeds.

    Args:
        gains: ``(changes, rows, seeds)``, two seeds or more.
    """
    _, rows, seeds = gains.shape
    found = np.empty((rows, seeds))
    for seed in range(seeds):
        others = np.arange(seeds) != seed
        for half in (0, 1):
            elsewhere = gains[:, 1 - half :: 2] if rows > 1 else gains
            best = int(elsewhere[:, :, others].mean((1, 2)).argmax())
            found[half::2, seed] = gains[best, half::2, seed]
    return found


@dataclass(frozen=True)
class BudgetTerms:
    """The losses that `error_budget` measured, the terms that are differences of them, and which of them are large and proven.

    Attributes:
        levels: the losses of each seed.
        seeds: in the same order.
        recipe: whose budget it is.
        objective: whose cost w* is best in; see `wellposed.decomposition.rivals.Objective`.
        larger: settings of the larger network; None where none is known, and capacity is then not known either.
        level: of the intervals.
        constant: the validation loss of the best constant prediction; NaN where unknown.
        runs, epochs, seconds: what the probe cost, runs that were given not counted.
        notes: what limits the numbers, a sentence each.
        room: what the problem leaves room for, for the changes that findings propose.
        hurried: whether time was too short for rivals that train as long as the recipe: then nothing is named.
        remedies: changes that were tried; a part is named only where one of its own lowers the validation loss.
    """

    levels: tuple[Levels, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    objective: Objective
    larger: Mapping[str, Any] | None
    level: float = 0.95
    constant: float = math.nan
    runs: int = 0
    epochs: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    room: Room = field(default_factory=Room)
    remedies: tuple[Remedy, ...] = ()
    hurried: bool = False

    def _by_seed(self, name: str, of: Callable[[Levels], float]) -> BudgetTerm:
        """A part that only seeds vary: the training rows are the problem's."""
        values = tuple(of(one) for one in self.levels)
        half = half_width(values, self.level)
        mean = math.fsum(values) / len(values)
        return BudgetTerm(name, values, mean - half, mean + half)

    def _by_rows(
        self, name: str, rows: Array, interval: Callable[[Array, float], Interval] = paired_interval
    ) -> BudgetTerm:
        """A difference that validation rows and seeds vary: ``(rows, seeds)``."""
        found = interval(rows, self.level)
        return BudgetTerm(name, tuple(float(mean) for mean in rows.mean(0)), found.low, found.high, rows)

    @cached_property
    def parts(self) -> tuple[BudgetTerm, ...]:
        """The five terms, in the order of `TERMS`: they add up to `valid`."""
        return (
            self._by_seed("floor", lambda one: one.floor),
            self._by_seed("regularization", lambda one: one.best - one.floor),
            self._by_seed("optimization", lambda one: one.end - one.best),
            self._by_seed("stopping", lambda one: one.chosen - one.end),
            self._by_rows("gap", self._valid - np.array([one.chosen for one in self.levels])),
        )

    def __getitem__(self, name: str) -> BudgetTerm:
        """A term by its name, or ``"valid"``, ``"capacity"``, ``"charged"``, ``"valid_gain"``, ``"way_gain"``,
        ``"going_on"``, ``"shortfall"``.

        Raises:
            InputError: there is none, or it could not be measured.
        """
        always = (*self.parts, *self.apart, self.valid, self.valid_gain, self.going_on)
        known = {part.name: part for part in (*always, self.shortfall, self.way_gain) if part is not None}
        if name not in known:
            raise InputError(f"This budget has no {name!r}. It has {listed(list(known), len(known))}.")
        return known[name]

    @cached_property
    def valid(self) -> BudgetTerm:
        """V(chosen), the sum of the terms."""
        return self._by_rows("valid", self._valid, crossed_interval)

    @cached_property
    def _valid(self) -> Array:
        """V(chosen), ``(rows, seeds)``."""
        return np.stack([one.valid for one in self.levels], axis=1)

    @cached_property
    def apart(self) -> tuple[BudgetTerm, ...]:
        """What the regularization term is made of: ``capacity``, by which the same network without regularization stays
        above the floor, and ``charged``, what the terms and the noise add. Empty where no larger network was trained."""
        if self.larger is None:
            return ()
        return (
            self._by_seed("capacity", lambda one: one.same - one.floor),
            self._by_seed("charged", lambda one: one.best - one.same),
        )

    @cached_property
    def shortfall(self) -> BudgetTerm | None:
        """``cost(w_end) - cost(w*)``: a lower bound of what optimization left, since a better optimum may exist. None where
        the recipe minimizes no cost."""
        if not self.objective.fixed:
            return None
        return self._by_seed("shortfall", lambda one: one.cost_end - one.cost_best)

    @cached_property
    def valid_gain(self) -> BudgetTerm:
        """V(chosen) - V(w*): whether better optimization would help on new rows, and not only on the training rows."""
        return self._by_rows("valid_gain", self._valid - np.stack([one.valid_best for one in self.levels], axis=1))

    @cached_property
    def way_gain(self) -> BudgetTerm | None:
        """V(chosen) less V on the way to w*, both at the epoch of lowest validation loss: whether better optimization helps
        where training is stopped as the recipe stops it. Measured where w* itself is not shown to help; else None."""
        ways = [one.valid_way for one in self.levels if one.valid_way is not None]
        if len(ways) < len(self.levels):
            return None
        return self._by_rows("way_gain", self._valid - np.stack(ways, axis=1))

    @cached_property
    def going_on(self) -> BudgetTerm:
        """V(w_end) - V(chosen): above zero, going on did harm."""
        return self._by_rows("going_on", np.stack([one.valid_end for one in self.levels], axis=1) - self._valid)

    @property
    def _split(self) -> tuple[BudgetTerm, ...]:
        """The terms, with what regularization is made of in its place."""
        split = self.apart or (self["regularization"],)
        return (self["floor"], *split, self["optimization"], self["stopping"], self["gap"])

    @cached_property
    def suspects(self) -> tuple[BudgetTerm, ...]:
        """Parts whose levers are pulled, the largest first: clearly above zero and worth it, or large and not clear, since seeds
        that end in different valleys make wide intervals; the epoch that was chosen only where going on clearly helps or harms."""
        scale = 0.0 if self.hurried else abs(self.valid.estimate)
        clear = [
            part for part in self._split if scale and part.estimate >= (MATERIAL if part.low > 0 else MATTERS) * scale
        ]
        if not (self.longer_helps or self.longer_harms):
            clear = [part for part in clear if part.name != "stopping"]
        return tuple(sorted(clear, key=lambda part: -part.estimate))

    @cached_property
    def candidates(self) -> tuple[BudgetTerm, ...]:
        """What is named, the largest first: suspects but for those whose lever was pulled, and the validation loss did not clearly
        improve. Optimization is named only where it improves at w*; what is not clear, only where its lever clearly helps."""
        helped = [(part, self.helped(part)) for part in self.suspects]
        named = [part for part, helps in helped if helps or (helps is None and part.low > 0)]
        if len(self.seeds) < 2:  # of the gap alone something is known: it is named where nothing may be larger
            named = [part for part in named if part.estimate >= max(one.estimate for one in self._split)]
        return tuple(named)

    def name_of(self, part: BudgetTerm) -> str:
        """The name of the finding that a part makes; optimization has several, see `_fault`."""
        if part.name == "stopping":
            return "overfits" if self.longer_harms else "undertrained"
        if part.name in ("charged", "regularization"):
            return "over_regularized" if self.objective.regularized else "underfits"
        return {"floor": "underfits", "capacity": "underfits", "gap": "overfits"}.get(part.name, part.name)

    def tried(self, part: BudgetTerm) -> tuple[Remedy, ...]:
        return tuple(remedy for remedy in self.remedies if remedy.name == self.name_of(part))

    def gain(self, remedy: Remedy) -> BudgetTerm:
        """V(chosen) less V of a remedy, both stopped by the recipe's rule."""
        return self._by_rows(remedy.name, self._gains((remedy,))[0])

    def _gains(self, remedies: Sequence[Remedy]) -> Array:
        """``(remedies, rows, seeds)``: what each takes off the validation loss."""
        return self._valid - np.stack([np.stack(remedy.valid, axis=1) for remedy in remedies])

    def answer(self, part: BudgetTerm) -> Answer | None:
        """What the best of the changes that were tried for a part takes off the validation loss; None where none was tried."""
        tried = self.tried(part)
        if not tried:
            return None
        gains = self._gains(tried)
        best = tried[int(gains.mean((1, 2)).argmax())]
        gain = self._by_rows(part.name, cross_fitted(gains))
        return Answer(best, gain, self._worth(gain))

    def helped(self, part: BudgetTerm) -> bool | None:
        """Whether the validation loss clearly improved where a part's lever was pulled; None where it was not."""
        if part.name == "optimization":
            return self._worth(self.valid_gain)
        answer = self.answer(part)
        return None if answer is None else answer.helps

    @cached_property
    def longer_harms(self) -> bool:
        """Whether validation is clearly worse at the last epoch."""
        return self._above_zero(self.going_on)

    @cached_property
    def longer_helps(self) -> bool:
        """Whether validation is clearly better at the last epoch: the epoch was chosen too early."""
        rows = self.going_on.rows
        return rows is not None and self._above_zero(replace(self.going_on, rows=-rows))

    @property
    def helps_on_the_way(self) -> bool:
        """Whether better optimization clearly lowers the validation loss where it is stopped as the recipe is, but not at w*."""
        return self.way_gain is not None and self._worth(self.way_gain) and not self._worth(self.valid_gain)

    def _worth(self, gain: BudgetTerm) -> bool:
        """Whether a gain on validation rows is clear, and large enough to be named."""
        return gain.estimate >= MATERIAL * abs(self.valid.estimate) and self._above_zero(gain)

    def _above_zero(self, part: BudgetTerm) -> bool:
        """Whether a difference of validation losses is above zero. Only one side counts, so that the level is of one side: the
        interval at ``2 level - 1``."""
        if part.rows is None or len(self.seeds) < 2 or self.level <= 0.5:
            return False
        return paired_interval(part.rows, 2 * self.level - 1).low > 0
