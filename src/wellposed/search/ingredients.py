"""What may be in a recipe or not: how it is put in, recognized, and taken out again.

Ingredient          one thing with one size
├── Setting         a number of the recipe: dropout, label smoothing, clipping, an average
├── Charge          a term: a penalty or a constraint
└── Place           noise on weights or modules
Part                the optimizer, the schedule, the batch size, the model's settings: always there, perhaps the baseline's
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from wellposed.noise.noise import PLACED, kinds
from wellposed.penalties.base import Chargeable, Constraint, FunctionalPenalty, Searched
from wellposed.recipe.recipe import Recipe, TermSpec, chargeables

Values = dict[str, Any]
"""A recipe in the making, as the arguments of `Recipe`."""


@dataclass(frozen=True, kw_only=True)
class Ingredient(Searched, ABC):
    """One ingredient of a cocktail, with the range of its size and the rest of what a search tries of it.

    Attributes:
        name: in the space, the notes and the ablation.
        regularizes: whether it is there for the gap rather than for the cost: what an overfitting baseline calls for.
    """

    name: str
    regularizes: bool = True

    @abstractmethod
    def put(self, values: Values, size: float) -> None:
        """Put it into a recipe in the making."""

    @abstractmethod
    def inside(self, recipe: Recipe) -> bool:
        """Whether the recipe has it."""

    @abstractmethod
    def removed(self, recipe: Recipe) -> Recipe:
        """The recipe without this ingredient; the given one is not modified."""


@dataclass(frozen=True, kw_only=True)
class Setting(Ingredient):
    """A number at ``path`` in the recipe, such as ``noise.dropout``; ``off`` is its value where it is out.

    ``whole`` rounds it, ``rest`` means 1 less the size (an average's decay by what it forgets).
    """

    path: str
    off: float | None = 0.0
    whole: bool = False
    rest: bool = False

    def put(self, values: Values, size: float) -> None:
        size = round(1.0 - size, 6) if self.rest else size
        _set(values, self.path, round(size) if self.whole else size)

    def inside(self, recipe: Recipe) -> bool:
        value: Any = recipe
        for key in self.path.split("."):
            value = getattr(value, key)
        return bool(value)

    def removed(self, recipe: Recipe) -> Recipe:
        values = recipe.model_dump()
        _set(values, self.path, self.off)
        return Recipe(**values)


@dataclass(frozen=True, kw_only=True)
class Charge(Ingredient):
    """A term of the recipe: a penalty with its strength."""

    penalty: str | type[Chargeable]

    def put(self, values: Values, size: float) -> None:
        term = {"penalty": self.penalty, self.amount: size, **self.settings}
        values["terms"] = [*values.get("terms", []), term]

    def inside(self, recipe: Recipe) -> bool:
        return any(term.penalty == self.penalty for term in recipe.terms)

    def removed(self, recipe: Recipe) -> Recipe:
        return recipe.replace(terms=[term for term in recipe.terms if term.penalty != self.penalty])


@dataclass(frozen=True, kw_only=True)
class Place(Ingredient):
    """Noise of ``kind`` on weights."""

    kind: str

    def put(self, values: Values, size: float) -> None:
        noise = values.setdefault("noise", {})
        noise["places"] = [*noise.get("places", []), {"kind": self.kind, "on": "weights", self.amount: size}]

    def inside(self, recipe: Recipe) -> bool:
        return any(place.kind == self.kind for place in recipe.noise.places)

    def removed(self, recipe: Recipe) -> Recipe:
        places = [place for place in recipe.noise.places if place.kind != self.kind]
        return recipe.replace(noise={"places": [place.model_dump() for place in places]})


def _set(values: Values, path: str, value: Any) -> None:
    section, _, key = path.rpartition(".")
    (values.setdefault(section, {}) if section else values)[key] = value


def _charges() -> list[Charge]:
    """The charges that say what a search tries of them: penalties of weights, then their constraints, then penalties of
    outputs; of each the likelier first."""
    declared = [(name, cls, searched) for name, cls in chargeables().items() if (searched := vars(cls).get("searched"))]
    declared.sort(key=lambda one: (issubclass(one[1], FunctionalPenalty), issubclass(one[1], Constraint), -one[2].odds))
    return [Charge(name=name, penalty=name, **vars(how)) for name, _, how in declared]


WITHIN, AT_MOST = 10.0, 1000.0
"""The size of a charge that somebody wrote is tried within the first factor of that in their recipe, and widened to the second."""
OWN_ODDS = 0.3


def own_charges(recipe: Recipe | None) -> tuple[Charge, ...]:
    """The charges in a recipe that somebody wrote, with the settings that they have there."""
    terms = {} if recipe is None else {term.penalty: term for term in recipe.terms if isinstance(term.penalty, type)}
    return tuple(charge for term in terms.values() if (charge := _own(term)) is not None)


def _own(term: TermSpec) -> Charge | None:
    """None where it has no size that could be tried."""
    declared, size = vars(term.penalty).get("searched"), term.amount
    if declared is None and size:
        declared = Searched(
            low=size / WITHIN, high=size * WITHIN, least=size / AT_MOST, most=size * AT_MOST, odds=OWN_ODDS,
            amount="strength" if term.strength is not None else "bound",
        )  # fmt: skip
    if declared is None:
        return None
    known = {ingredient.name for ingredient in ingredients()}
    name = term.name if term.name not in known else f"own_{term.name}"
    settings = term.model_dump(exclude_defaults=True, exclude={"penalty", declared.amount})
    return Charge(name=name, penalty=term.penalty, **{**vars(declared), "settings": settings})


TERMS: tuple[Ingredient, ...] = tuple(_charges())
"""What weights are charged."""

WAYS: tuple[Ingredient, ...] = (
    Setting(
        name="ema", path="averaging.ema", rest=True, regularizes=False,
        low=1e-3, high=3e-2, least=2e-4, most=0.2, odds=0.4,
    ),
    Setting(
        name="swa", path="averaging.swa", regularizes=False, log=False, without=("ema",),
        low=0.1, high=0.5, least=0.05, most=0.66, odds=0.15,
    ),
    Setting(
        name="sharpness", path="sharpness.radius", regularizes=False,
        low=0.01, high=0.2, least=1e-3, most=1.0, odds=0.08,
    ),
    Setting(
        name="lookahead", path="lookahead.every", whole=True, regularizes=False,
        low=4, high=12, least=2, most=30, odds=0.05,
    ),
    Setting(name="clip", path="clip", regularizes=False, low=0.3, high=3.0, least=0.01, most=30.0, odds=0.25),
)  # fmt: skip
"""How the cost is minimized."""


def ingredients() -> tuple[Ingredient, ...]:
    """Everything that a cocktail may contain, declared once: the sampler, the widening and the ablation read it here."""
    return (*TERMS, *noises(), *WAYS)


def noises() -> list[Ingredient]:
    """The kinds of noise that say how a search tries them."""
    found: list[Ingredient] = []
    for name, kind in kinds().items():
        for key in kind.keys:
            if how := key.searched:
                found.append(Setting(name=key.title, path=f"noise.{key.name}", off=key.off, **vars(how)))
        if how := kind.searched:
            if kind.acts in PLACED:
                found.append(Place(name=name, kind=name, **{**vars(how), "amount": kind.size_field}))
            else:
                found.append(Setting(name=name, path=f"noise.{name}", **vars(how)))
    return sorted(found, key=lambda ingredient: ingredient.rank)


@dataclass(frozen=True)
class FixedPart:
    """A part that every recipe has, such as its optimizer; without it means: as in the baseline."""

    name: str
    baseline: Recipe

    def inside(self, recipe: Recipe) -> bool:
        """Whether the recipe's part differs from the baseline's."""
        return bool(getattr(recipe, self.name) != getattr(self.baseline, self.name))

    def removed(self, recipe: Recipe) -> Recipe:
        """The recipe with the baseline's part."""
        return Recipe(**{**recipe.model_dump(), self.name: self.baseline.model_dump()[self.name]})


def contents(recipe: Recipe, baseline: Recipe) -> list[Ingredient | FixedPart]:
    """What a recipe has beyond its baseline: ingredients and parts, in the order in which they are declared."""
    fixed = [FixedPart(name, baseline) for name in ("optimizer", "schedule", "batch_size", "model")]
    everything: tuple[Ingredient | FixedPart, ...] = (*ingredients(), *own_charges(recipe), *fixed)
    return [one for one in everything if one.inside(recipe) and one.removed(recipe) != recipe]
