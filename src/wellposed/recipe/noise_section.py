"""The section ``[noise]`` of a recipe: numbers that are the keys of our kinds of noise, noise at places, and kinds of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

from pydantic import (
    InstanceOf,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from wellposed.core.errors import described, did_you_mean, listed
from wellposed.core.registry import imported, is_import_name
from wellposed.core.selectors import ROLES, Selector
from wellposed.noise.noise import PLACED, THEIRS, Key, Kind, Noise, Placed, Where, keyed, kinds, noise_name
from wellposed.recipe.section import (
    NonNegativeNumber,
    OpenSection,
    Rate,
    Section,
    build_object,
    check_shape,
    strength_schedule,
)


class PlaceSpec(OpenSection):
    """One ``[[noise.places]]``: a kind of noise with its size, on modules or weights that ``on`` selects.

    ``schedule`` and ``warmup`` let the size follow a shape over the whole of training, as a term's strength.
    """

    kind: str
    on: str | tuple[str, ...]
    schedule: str = "constant"
    warmup: Rate = 0.0

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        check_shape(self.schedule, "a noise")
        self.build()
        return self

    @property
    def amount(self) -> float:
        """The rate or the standard deviation."""
        return self.build().noise.size

    def build(self, total_steps: int | None = None) -> Placed:
        """The noise at its place.

        Raises:
            ValueError: the kind is not known or does not take what was given.
        """
        noise = made_noise(self.kind, self.settings, ["schedule", "warmup"])
        placed: Placed = noise.on(self.on, schedule=strength_schedule(self.schedule, self.warmup, total_steps))
        return placed


def _number(kind: Kind, key: Key) -> tuple[Any, Any]:
    """What the recipe takes for a key, and its default."""
    taken = key.type or (Rate if kind.share else NonNegativeNumber)
    return (taken | None if key.off is None else taken), key.off


KEYS: Any = {key.name: _number(kind, key) for kind in keyed() for key in kind.keys}
_Numbers: Any = create_model("_Numbers", __base__=Section, **KEYS)
SIZES = {key.name: key for kind in keyed() for key in kind.keys if key.title}
SAYS = {key.title: key.says for key in SIZES.values() if key.says}


class NoiseSpec(_Numbers):  # type: ignore[misc]
    """Noise on inputs, labels, layers and gradients; 0 is off. Its numbers are the keys of our kinds of noise.

    In Python it may be a noise or a list of them: ``Recipe(noise=[wp.Dropout(0.2).on("encoder.*"), Mine(0.1)])``.

    Args:
        places: noise on chosen modules and weights.
        own: noise of a kind that is not ours. One that is known by a name may be written by it too: ``{"mine": 0.1}``.
    """

    places: tuple[PlaceSpec, ...] = ()
    own: tuple[InstanceOf[Noise], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_keys(cls, given: Any) -> Any:
        """Noises as keys, places or kinds of one's own; a known kind by its name."""
        given = [given] if isinstance(given, (Noise, Placed)) else given
        if isinstance(given, (list, tuple)):
            given = {"own": given}
        if not isinstance(given, Mapping):
            return given
        values = {key: value for key, value in given.items() if key not in THEIRS}
        values["own"] = []
        sizes = {key: value for key, value in given.items() if key in THEIRS}
        for one in (_made_of(one) for one in given.get("own", ())):
            if isinstance(one, Placed):
                values["places"] = [*values.get("places", ()), _placed(one)]
            elif one.keys:
                values |= {key.name: getattr(one, key.field) for key in one.keys}
            elif type(one) not in map(THEIRS.get, sizes):
                values["own"].append(one)
        values["own"] += [_made_of({"kind": key, THEIRS[key].size_field: size}) for key, size in sizes.items() if size]
        values["own"].sort(key=lambda noise: (noise.order, noise.name))  # as it acts, however it was written
        return values

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Kinds of one's own by their names and settings; as TOML by a key alone where that says it all."""
        values: dict[str, Any] = write(self)
        if self.own:
            own = [{"kind": noise_name(type(one)), **vars(one)} for one in self.own]
            alone = [len(one) == 2 and ":" not in one["kind"] and info.mode == "json" for one in own]
            values |= {one["kind"]: noise.size for one, noise, key in zip(own, self.own, alone, strict=True) if key}
            values["own"] = [one for one, key in zip(own, alone, strict=True) if not key]
        return values if values.get("own") else {key: value for key, value in values.items() if key != "own"}

    def __getattr__(self, name: str) -> Any:
        """The size of a known kind of noise that is not ours."""
        if name in THEIRS:
            return next((one.size for one in self.own if type(one) is THEIRS[name]), 0.0)
        return super().__getattr__(name)

    @cached_property
    def active(self) -> tuple[Noise, ...]:
        """What is on and needs no place, in the order in which it acts."""
        on = [kind for kind in keyed() if any(getattr(self, key.name) for key in kind.keys if key.title)]
        ours = (kind(**{key.field: getattr(self, key.name) for key in kind.keys}) for kind in on)
        return tuple(sorted((*ours, *(one for one in self.own if one.size)), key=lambda noise: noise.order))

    def acting(self, *where: Where) -> tuple[Noise, ...]:
        """What is on there and needs no place."""
        return tuple(noise for noise in self.active if noise.acts in where)

    def without(self, *where: Where) -> NoiseSpec:
        """The same with nothing on there, the model's own dropout neither."""
        numbers = {key.name: 0.0 for kind in keyed() if kind.acts in where for key in kind.keys if key.title}
        places = [place for place in self.places if place.build().noise.acts not in where]
        own = [noise for noise in self.own if noise.acts not in where]
        return NoiseSpec(**{**self.model_dump(), **numbers, "places": places, "own": own})

    def weaker(self, by: Callable[[float], float]) -> dict[str, Any]:
        """The changes that make every size smaller; noise at places is taken out."""
        numbers = {name: by(size) for name in SIZES if (size := getattr(self, name))}
        own = [replace(one, **{one.size_field: by(one.size)}) for one in self.own]  # type: ignore[type-var]
        return {**numbers, "places": [], **({"own": own} if own else {})}

    @property
    def sizes(self) -> dict[str, float]:
        """The size of everything that is on and needs no place, as histories and searches call it."""
        ours = {key.title: getattr(self, name) for name, key in SIZES.items()}
        return {name: float(size) for name, size in (ours | {one.name: one.size for one in self.own}).items() if size}

    @property
    def drawn(self) -> bool:
        """Whether the cost is random by it; the model's own dropout is not looked at."""
        return bool(self.places) or any(noise.random for noise in self.acting("inputs", "labels"))


def _made_of(given: Any) -> Noise | Placed:
    """A noise from its name and settings, as they were written.

    Raises:
        ValueError: it is none, its kind is not known, or it needs a place.
    """
    if isinstance(given, Mapping) and "kind" in given:
        given = made_noise(given["kind"], {key: value for key, value in given.items() if key != "kind"})
    if isinstance(given, Noise) and given.acts in PLACED and not given.keys:
        raise ValueError(f"{given} needs a place. Write {given}.on(...)")
    if not isinstance(given, (Noise, Placed)):
        raise ValueError(
            f"{described(given)} is no noise. Give a wp.Noise, or one that is bound to a place with .on(...)"
        )
    return given


def _placed(given: Placed) -> dict[str, Any]:
    """A noise at its place as a recipe writes it.

    Raises:
        ValueError: the place is a predicate or the schedule a function, which a recipe cannot write.
    """
    where = given.where
    on = where.text if isinstance(where, Selector) and ROLES.get(where.text) is where else where
    names = on if isinstance(on, (list, tuple)) else [on]
    if given.schedule is not None or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{given} cannot be written in a recipe: give names or globs as its place, and no function as schedule"
        )
    return {"kind": noise_name(type(given.noise)), "on": on, **vars(given.noise)}


def made_noise(kind: str, settings: Mapping[str, Any], others: Sequence[str] = ()) -> Noise:
    """A noise by its name in recipes.

    Raises:
        ValueError: the kind is not known or does not take what was given.
    """
    known = kinds()
    if kind not in known and is_import_name(kind):
        found = imported(kind, "noise")
        if not (isinstance(found, type) and issubclass(found, Noise)) or inspect.isabstract(found):
            raise ValueError(f"{kind!r} is {described(found)}; a class of wp.Noise with all its methods is needed")
        noise_name(found)  # known from now on
        known[kind] = found
    if kind not in known:
        raise ValueError(f"there is no noise {kind!r}.{did_you_mean(kind, known)} Known: {listed(known, 20)}")
    noise: Noise = build_object(known[kind], f"noise {kind!r}", settings, others)
    return noise
