"""The declared space of recipes: its dimensions as data, and the recipe at a point of it.

The sampler, the widening of ranges and the ablation all read the same declaration.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from wellposed.core.random import seeded
from wellposed.core.shared import threads_of
from wellposed.noise.activations import dropout_from_streams
from wellposed.recipe.presets import PRESETS
from wellposed.recipe.recipe import Recipe
from wellposed.search.ingredients import Ingredient, contents, ingredients, own_charges
from wellposed.training.history import Stopped
from wellposed.training.loop import Shared, Training
from wellposed.training.problem import Problem
from wellposed.training.resampling import Sample

Point = dict[str, Any]
"""The values of the dimensions that are active, by name."""

ADAPTIVE = ("adamw", "adam", "rmsprop")
OFTEN, SELDOM, MOST_OFTEN = 1.5, 0.4, 0.8
"""What a finding makes of the odds of the ingredients that it calls for and of the others, and the highest odds."""
AROUND = 4.0
"""Learning rates are first tried within this factor of the baseline's."""
PROBE_ROWS = 8
WIDER, FURTHER = 3.0, 1 / 3
"""A range is widened by this factor on a logarithmic scale, and by this share of itself on a linear one."""
BORDER = 0.05
"""Share of a range that is its border."""
SOMEWHAT = 0.1
"""Share of a range that is kept when it is shrunk, at least."""


@dataclass(frozen=True)
class Dimension:
    """One thing that may differ between two recipes.

    Attributes:
        name: such as ``rate``, ``l2`` (whether it is in) or ``l2.size``.
        kind: ``size``: a number of a range; ``choice``: one of several; ``in``: whether an ingredient is in.
        low, high: of a range, ``log`` on a logarithmic scale. ``least`` and ``most`` bound its widening.
        choices: of a choice, with their ``odds``; of ``in``, odds is one number.
        when: the dimension is active where these others have one of these values.
        shared: drawn once for all recipes of a group, since only equal ones are trained together.
    """

    name: str
    kind: Literal["size", "choice", "in"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    least: float = 0.0
    most: float = 1.0
    choices: tuple[Any, ...] = ()
    odds: tuple[float, ...] = ()
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    shared: bool = False

    def active(self, point: Mapping[str, Any]) -> bool:
        """Whether it has a value where the others have these."""
        return all(point.get(name, False) in values for name, values in self.when)

    def at(self, u: float) -> Any:
        """The value at ``u`` in [0, 1): of a range by its scale, of a choice by its odds."""
        if self.kind == "size":
            return self.back(self.scaled(self.low) + u * (self.scaled(self.high) - self.scaled(self.low)))
        if self.kind == "in":
            return u < self.odds[0]
        passed = zip(self.choices, itertools.accumulate(self.odds), strict=True)
        return next((choice for choice, odds in passed if u < odds), self.choices[-1])

    def scaled(self, value: float) -> float:
        """The value on the scale of the range."""
        return math.log(value) if self.log else value

    def back(self, scaled: float) -> float:
        """The value that lies there on the scale, with two digits: enough for a size, and people can read it."""
        return min(max(_short(self._unscaled(scaled)), self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of this dimension."""
        if self.kind == "size":
            return isinstance(value, (int, float)) and self.low <= value <= self.high
        return value in (True, False) if self.kind == "in" else any(same_choice(value, c) for c in self.choices)

    def side(self, value: float) -> Literal["low", "high"] | None:
        """At which border of the range a value lies; None inside."""
        low, high, at = self.scaled(self.low), self.scaled(self.high), self.scaled(value)
        edge = BORDER * (high - low)
        return "low" if at <= low + edge else "high" if at >= high - edge else None

    def _unscaled(self, scaled: float) -> float:
        return math.exp(scaled) if self.log else scaled

    def widened(self, side: Literal["low", "high"]) -> Dimension:
        """With a range that reaches further on this side, up to ``least`` or ``most``."""
        step = math.log(WIDER) if self.log else FURTHER * (self.high - self.low)
        if side == "high":
            high = _short(self._unscaled(self.scaled(self.high) + step))
            return dataclasses.replace(self, high=min(self.most, high))
        low = _short(self._unscaled(self.scaled(self.low) - step))
        return dataclasses.replace(self, low=max(self.least, low))

    def shrunk(self, high: float) -> Dimension:
        """With a range that ends at ``high``, or at a tenth of the range where that is more."""
        least = self.scaled(self.low) + SOMEWHAT * (self.scaled(self.high) - self.scaled(self.low))
        return dataclasses.replace(self, high=min(self.high, _short(max(high, self._unscaled(least)))))

    def told(self) -> dict[str, Any]:
        range_ = {"low": self.low, "high": self.high, "log": self.log} if self.kind == "size" else {}
        choices = {"choices": list(self.choices)} if self.kind == "choice" else {}
        when = {"when": {name: list(values) for name, values in self.when}} if self.when else {}
        return {"name": self.name, "kind": self.kind, **range_, **choices, **when}


class Space:
    """Recipes that fit a problem.

    Args:
        problem: says which ingredients its model and data take, and which settings of the model may vary.
        baseline: the tuned baseline; learning rates lie around its own.
        findings: names of findings about the baseline; they move the odds: where it overfits, what regularizes is likelier;
            where it underfits, that is rarer, and optimization and capacity are tried.
        ranges: of dimensions that were widened or shrunk before.
        own: a recipe of the user's; penalties and constraints in it that they wrote are ingredients too.
    """

    def __init__(
        self,
        problem: Problem,
        baseline: Recipe,
        findings: Collection[str],
        ranges: Mapping[str, Sequence[float]] | None = None,
        own: Recipe | None = None,
    ) -> None:
        self.problem, self.baseline = problem, baseline
        self.overfits = bool(set(findings) & {"overfits", "overconfident"})
        self.underfits = bool(set(findings) & {"underfits", "undertrained"}) and not self.overfits
        known = (*ingredients(), *own_charges(own))
        self.refused = refused_ingredients(problem, baseline, known)
        self.ingredients = tuple(i for i in known if i.name not in self.refused)
        declared = [*self._parts(), *(d for i in self.ingredients for d in self._of(i))]
        self.declared = tuple(declared)
        self.dimensions = {dimension.name: dimension for dimension in declared}
        for name, (low, high) in (ranges or {}).items():
            if name in self.dimensions:
                self.dimensions[name] = dataclasses.replace(self.dimensions[name], low=low, high=high)

    # --- the declaration

    def _parts(self) -> list[Dimension]:
        """Optimizer, learning rate, schedule, batch size and the settings of the model."""
        rate, size = self.baseline.optimizer.lr, self.baseline.batch_size
        batches = tuple(dict.fromkeys((max(1, size // 2), size, size * 2)))
        adaptive, sgd = (("optimizer", ADAPTIVE),), (("optimizer", ("sgd",)),)
        warm = (("schedule", ("constant", "cosine")),)
        return [
            *(self._setting(key, values) for key, values in self.problem.space.items()),
            Dimension("batch_size", "choice", choices=batches, odds=_even(batches), shared=True),
            Dimension("optimizer", "choice", choices=(*ADAPTIVE, "sgd"), odds=(0.55, 0.2, 0.08, 0.17)),
            Dimension("rate", "size", rate / AROUND, rate * AROUND, True, rate / 1000, rate * 1000, when=adaptive),
            Dimension("sgd_rate", "size", 3e-3, 0.3, True, 1e-5, 10.0, when=sgd),
            Dimension("schedule", "choice", choices=("constant", "cosine", "one_cycle"), odds=(0.2, 0.45, 0.35)),
            Dimension("warmup", "choice", choices=(0.0, 0.05, 0.15), odds=(0.6, 0.25, 0.15), when=warm),
        ]  # fmt: skip

    def _setting(self, key: str, values: Sequence[Any]) -> Dimension:
        """A setting of the model. Where the baseline underfits, larger numbers are likelier."""
        choices = tuple(_plain(value) for value in values)
        odds = _even(choices)
        numbers = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in choices)
        if self.underfits and numbers and len(choices) > 1:
            places = [sorted(choices).index(c) + 1 for c in choices]
            odds = tuple(place / sum(places) for place in places)
        return Dimension(f"model.{key}", "choice", choices=choices, odds=odds, shared=True)

    def _of(self, ingredient: Ingredient) -> tuple[Dimension, Dimension]:
        """Whether an ingredient is in, and with which size."""
        i = ingredient
        names = {one.name for one in self.ingredients}
        apart = tuple((other, (False,)) for other in i.without if other in names)
        size = Dimension(f"{i.name}.size", "size", i.low, i.high, i.log, i.least, i.most, when=((i.name, (True,)),))
        return Dimension(i.name, "in", odds=(self._odds(i),), when=apart), size

    def _odds(self, ingredient: Ingredient) -> float:
        factor = 1.0
        if self.overfits and ingredient.regularizes:
            factor = OFTEN
        elif self.underfits:
            factor = SELDOM if ingredient.regularizes else OFTEN
        return min(MOST_OFTEN, factor * ingredient.odds)

    # --- its points

    def point(self, units: Mapping[str, float], given: Mapping[str, Any] | None = None) -> Point:
        """The point at these places in [0, 1); what is ``given`` stays."""
        point: Point = {}
        for name, dimension in self.dimensions.items():
            if dimension.active(point):
                point[name] = given[name] if given and name in given else dimension.at(units[name])
        return point

    def recipe(self, point: Mapping[str, Any]) -> Recipe:
        model = {key: point.get(f"model.{key}", self.baseline.model.get(key)) for key in self.problem.space}
        kind = point.get("optimizer", "adamw")
        optimizer = {"name": kind, "lr": point["sgd_rate" if kind == "sgd" else "rate"]}
        if kind == "sgd":
            optimizer |= {"momentum": 0.9, "nesterov": True}
        values: dict[str, Any] = {
            "batch_size": point.get("batch_size", self.baseline.batch_size),
            "optimizer": optimizer,
            "schedule": {"name": point.get("schedule", "constant"), "warmup": point.get("warmup", 0.0)},
            "model": {**self.baseline.model, **{key: value for key, value in model.items() if value is not None}},
        }
        for ingredient in self.ingredients:
            if point.get(ingredient.name):
                ingredient.put(values, point.get(f"{ingredient.name}.size", ingredient.low))
        return Recipe(**values)

    def fits(self, point: Mapping[str, Any]) -> bool:
        """Whether a point of an earlier space is one of this one."""
        return all(name in self.dimensions and self.dimensions[name].holds(value) for name, value in point.items())

    def starts(self) -> list[Point]:
        """Points that are tried first: proven cocktails, stronger ones where the baseline overfits, and where it underfits,
        none that regularizes and the largest settings of the model."""
        cocktails = (*STRONG, *LIGHT) if self.overfits else (*PLAIN, LIGHT[0]) if self.underfits else LIGHT
        return [self._start(cocktail, large=self.underfits and n == 0) for n, cocktail in enumerate(cocktails)]

    def _start(self, cocktail: Mapping[str, Any], large: bool) -> Point:
        """The point of a cocktail, as far as the problem takes it; other settings are the baseline's."""
        plainly = self.baseline
        given: Point = {"optimizer": "adamw", "rate": plainly.optimizer.lr, "batch_size": plainly.batch_size}
        for key, values in self.problem.space.items():
            plain = plainly.model.get(key, default_of(self.problem, key, values))
            given[f"model.{key}"] = _plain(values[-1] if large else plain)
        given |= {"schedule": cocktail.get("schedule", "cosine"), "warmup": 0.05}
        given |= {i.name: i.name in cocktail for i in self.ingredients}
        given |= {f"{i.name}.size": cocktail[i.name] for i in self.ingredients if i.name in cocktail}
        return self.point(dict.fromkeys(self.dimensions, 0.5), given)

    def plain(self, rate: float) -> Point:
        """The point of plain training at a learning rate: nothing is in."""
        return {**self._start({}, large=False), "rate": rate, "schedule": "constant", "warmup": 0.0}

    def default(self) -> Recipe:
        """The recipe that is compared where nothing is searched: the first preset, as far as the problem takes it."""
        recipe = PRESETS["steady"].recipe.replace(model=self.baseline.model)
        for one in contents(recipe, self.baseline):
            if one.name in self.refused:
                recipe = one.removed(recipe)
        return recipe

    def told(self) -> list[dict[str, Any]]:
        """The dimensions as data, for the record."""
        return [dimension.told() for dimension in self.dimensions.values()]


LIGHT: tuple[dict[str, Any], ...] = (
    {"l2": 0.01, "dropout": 0.1, "ema": 0.01},
    {"l2": 0.1, "dropout": 0.3, "label_smoothing": 0.05, "input_noise": 0.05, "schedule": "one_cycle"},
)
STRONG: tuple[dict[str, Any], ...] = (
    {"l2": 0.3, "dropout": 0.4, "label_smoothing": 0.1, "mixup": 0.4, "ema": 0.01},
    {"l2": 0.1, "l1": 1e-4, "dropout": 0.3, "input_noise": 0.15, "swa": 0.3},
)
PLAIN: tuple[dict[str, Any], ...] = ({"clip": 1.0, "ema": 0.01}, {"schedule": "one_cycle", "ema": 0.01})
"""Cocktails to begin with: ingredients with their sizes."""


def refused_ingredients(problem: Problem, baseline: Recipe, known: Sequence[Ingredient]) -> dict[str, str]:
    """The ingredients that the problem's model and data do not take, and why: one step is tried with each of them."""
    found: dict[str, str] = {}
    shared = Shared.of(problem, Sample(), PROBE_ROWS, torch.device("cpu"))
    for ingredient in known:
        values = baseline.replace(epochs=1).model_dump()
        ingredient.put(values, math.sqrt(ingredient.low * ingredient.high))
        try:
            try_step(problem, Recipe(**values), shared)
        except Exception as error:
            # Whatever it is, it is what the search would meet; the plain recipe was tried before and took its steps.
            found[ingredient.name] = str(error) or type(error).__name__
    return found


def try_step(problem: Problem, recipe: Recipe, shared: Shared) -> None:
    """One step of a few rows, of a model that is thrown away."""
    with seeded(0, "tried"), threads_of(1):
        training = Training.begin(problem, recipe, 0, torch.device("cpu"), math.inf, None, PROBE_ROWS, shared=shared)
        training.model.train()
        with dropout_from_streams(training.model, training.streams):
            training.step(0, torch.arange(min(PROBE_ROWS, len(training.data.train))))
        training.finish(Stopped.EPOCHS)


def default_of(problem: Problem, key: str, values: Sequence[Any]) -> Any:
    """The factory's own value of a setting where it is one of the space's, else the middle one."""
    parameter = inspect.signature(problem.model).parameters.get(key)
    own = None if parameter is None else parameter.default
    return own if any(same_choice(own, value) for value in values) else values[len(values) // 2]


def same_choice(a: Any, b: Any) -> bool:
    """Whether two choices are the same: True is not 1."""
    return type(a) is type(b) and bool(a == b)


def _even(choices: Sequence[Any]) -> tuple[float, ...]:
    return tuple(1.0 / len(choices) for _ in choices)


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own, and a tuple as the list that it is when it comes back from a file."""
    return value.item() if hasattr(value, "item") else list(value) if isinstance(value, tuple) else value


def _short(value: float) -> float:
    return float(f"{value:.2g}")
