"""What every section of a recipe has in common: it is frozen, refuses what it does not know, and equals itself read back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from wellposed.core.errors import described, did_you_mean, listed
from wellposed.optim.schedules import SHAPES, named_schedule
from wellposed.penalties.base import Schedule
from wellposed.recipe.held import Held, sayable, tuples


def _is_a_number(value: float) -> float:
    if value != value:
        raise ValueError("NaN is no number")
    return value


FiniteNumber = Annotated[float, AfterValidator(_is_a_number)]
TomlScalar = bool | int | FiniteNumber | str
NonNegativeNumber = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants")

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers and arrays of numpy as Python's own. True is no number, although Python and pydantic take it for 1."""
        types = _types_of(cls, str(info.field_name))
        if isinstance(value := tuples(value), bool) and types & {int, float} and bool not in types:
            raise ValueError(f"a number is needed, and {value} is none")
        return value

    def merged(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """All values, those of ``change`` in place of the old."""
        return {**self.model_dump(), **change}


class OpenSection(Section):
    """A section that names something which takes settings of its own: they stand beside the section's keys."""

    model_config = ConfigDict(extra="allow")
    tables: ClassVar[bool] = False
    """Whether a setting may itself have keys."""

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, given: Any) -> Any:
        """Sequences become tuples, so that a recipe equals itself read back; what TOML cannot say is refused."""
        given = cls.taken(given)
        if not isinstance(given, Mapping):
            return given
        values = {key: tuples(value) for key, value in given.items()}
        for key, value in values.items():
            parts = value.values() if cls.tables and isinstance(value, Mapping) else (value,)
            if key not in cls.model_fields and not isinstance(value, Held) and not all(map(sayable, parts)):
                raise ValueError(
                    f"{key} = {described(value)} cannot be written in a recipe. Give numbers or text, an array as lists, or leave "
                    "it out"
                )
        return values

    @classmethod
    def taken(cls, given: Any) -> Any:
        """What may stand in Python in place of the section's keys, as these."""
        return given

    @property
    def settings(self) -> dict[str, Any]:
        """What stands beside the section's own keys."""
        return dict(self.model_extra or {})


def build_object(cls: type[Any], what: str, given: Mapping[str, Any], others: Sequence[str]) -> Any:
    """An object from its settings.

    Raises:
        ValueError: something is missing, or not known.
    """
    taken = inspect.signature(cls).parameters
    needed = [name for name, parameter in taken.items() if parameter.default is inspect.Parameter.empty]
    if extra := [key for key in given if key not in taken]:
        hint = did_you_mean(extra[0], [*taken, *others])
        raise ValueError(f"{what} takes no {listed(extra)}.{hint} It takes {listed(taken) or 'no settings'}")
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{what} needs {listed(missing)}")
    return cls(**given)


def check_shape(name: str, of: str) -> None:
    """Refuse a schedule that is none of the learning rate's shapes."""
    if name not in SHAPES:
        raise ValueError(f"there is no schedule {name!r} for {of}.{did_you_mean(name, SHAPES)} Known: {listed(SHAPES)}")


def strength_schedule(name: str, warmup: float, total_steps: int | None) -> Schedule | None:
    """The factor of a size over training; None where it is constant, or where training is not known yet."""
    if total_steps is None or (name == "constant" and not warmup):
        return None
    return named_schedule(name, total_steps, warmup)


@functools.cache
def _types_of(section: type[Section], name: str) -> set[Any]:
    return _types(section.model_fields[name].annotation)


def _types(annotation: Any) -> set[Any]:
    """What an annotation is made of."""
    return {annotation}.union(*map(_types, get_args(annotation)))
