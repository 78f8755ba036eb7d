"""The recipe: optimizer, schedule, terms, noise, averaging, stopping, settings of the model."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wellposed.core.errors import InputError, RecipeError, did_you_mean, listed
from wellposed.core.files import check_schema
from wellposed.core.reading import check_memory, read_bytes
from wellposed.core.registry import classes_in
from wellposed.noise.perturb import NOISES, Placed
from wellposed.optim.schedules import PLATEAU, SHAPES, shaped
from wellposed.penalties.base import Chargeable, How, Schedule, Term

SCHEMA = 1
Scalar = bool | int | float | str
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimizer of ``torch.optim`` by its name in small letters."""
    return {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }


def chargeables() -> dict[str, type[Chargeable]]:
    """Every penalty and constraint by its name in recipes."""
    penalties = classes_in("wellposed.penalties", Chargeable)
    constraints = classes_in("wellposed.constraints", Chargeable)
    return {name: cls for name, cls in {**penalties, **constraints}.items() if is_dataclass(cls)}


FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers whose update is one pass over memory where torch allows it: the same formula, several times faster."""


def fusable(parameter: Any) -> bool:
    """Whether torch's fused update takes the parameter."""
    return parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


class OptimizerSpec(Section):
    """``name`` is any class of ``torch.optim``, or the class itself; its other settings stand beside it (``momentum = 0.9``)."""

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True)

    name: str = "adamw"
    lr: Positive = 1e-3

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: Any) -> str:
        if isinstance(name, type) and issubclass(name, torch.optim.Optimizer):
            name = name.__name__
        if not isinstance(name, str) or name.lower() not in optimizers():
            raise ValueError(
                f"there is no optimizer {name!r} in torch.optim.{did_you_mean(str(name), optimizers())} "
                "One from elsewhere goes to wp.fit(..., optimizer=lambda parameters: ...)"
            )
        return name.lower()

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, given: Any) -> Any:
        """Sequences become tuples, so that a recipe equals itself read back; what TOML cannot say is refused."""
        return written(given, cls.model_fields, tables=False) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _taken(self) -> Self:
        known = set(inspect.signature(optimizers()[self.name]).parameters) - {"params"}
        for key in self.settings:
            if key not in known:
                raise ValueError(
                    f"{self.name} takes no {key!r}.{did_you_mean(key, known)} Known: {listed(sorted(known), 20)}"
                )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What goes to the optimizer beside the learning rate."""
        return dict(self.model_extra or {})

    def build(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer; its ``weight_decay`` is 0 unless the recipe says otherwise.

        Raises:
            RecipeError: the optimizer refuses a setting.
        """
        cls: Any = optimizers()[self.name]
        settings = self.settings
        known = inspect.signature(cls).parameters
        parameters = list(parameters)
        if "weight_decay" in known:
            settings.setdefault("weight_decay", 0.0)
        if cls in FUSED and not {"foreach", "fused"} & set(settings) and all(map(fusable, parameters)):
            settings["fused"] = True
        try:
            built: torch.optim.Optimizer = cls(parameters, lr=self.lr, **settings)
            return built
        except (TypeError, ValueError) as error:
            raise RecipeError(f"[optimizer] {self.name} does not accept {settings}: {error}.") from None


class ScheduleSpec(Section):
    """``name``: constant, cosine, one_cycle, step or plateau. ``warmup``: share of the steps that rise from 0."""

    name: str = "constant"
    warmup: Rate = 0.0
    patience: Annotated[int, Field(ge=1)] = 10

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [*SHAPES, PLATEAU]
        if name not in known:
            raise ValueError(f"there is no schedule {name!r}.{did_you_mean(name, known)} Known: {listed(known)}")
        return name


class TermSpec(Section):
    """One ``[[terms]]``: a penalty with its strength, or a constraint with its bound, and where and how.

    What else the charge takes stands beside it (``by = "input"``, ``gamma = 3.0``). ``schedule`` lets the strength follow one
    of the learning rate's shapes over the whole of training, after rising linearly over the share ``warmup`` of it.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True)

    penalty: str
    strength: NonNegative | None = None
    bound: NonNegative | None = None
    on: str | tuple[str, ...] = "weights"
    how: How | None = None
    schedule: str = "constant"
    warmup: Rate = 0.0

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, given: Any) -> Any:
        """Sequences become tuples, so that a recipe equals itself read back; what TOML cannot say is refused."""
        return written(given, cls.model_fields) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        check_shape(self.schedule, "a strength")
        self.build()
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the charge is made with."""
        own = {key: value for key in ("strength", "bound") if (value := getattr(self, key)) is not None}
        return {**own, **(self.model_extra or {})}

    @property
    def amount(self) -> float:
        """The strength, or the bound; 0 where there is neither."""
        return float(self.strength if self.strength is not None else self.bound or 0.0)

    def build(self, total_steps: int | None = None) -> Term:
        """The term, with its penalty, selector and enforcement.

        Args:
            total_steps: of training, for strengths that follow a schedule; None leaves it out.
        Raises:
            ValueError: the penalty is not known or does not take what was given.
        """
        known = chargeables()
        if self.penalty not in known:
            raise ValueError(
                f"there is no penalty {self.penalty!r}.{did_you_mean(self.penalty, known)} Known: {listed(known, 40)}"
            )
        others = ["how", "schedule", "warmup"]
        charge: Chargeable = made(known[self.penalty], f"penalty {self.penalty!r}", self.settings, others)
        schedule = scheduled(self.schedule, self.warmup, total_steps)
        return charge.on(None if self.on == "weights" else self.on, how=self.how, schedule=schedule)


def made(cls: type[Any], what: str, given: Mapping[str, Any], others: Sequence[str]) -> Any:
    """An object from its settings.

    Raises:
        ValueError: something is missing, or not known.
    """
    taken = [name for name, parameter in inspect.signature(cls).parameters.items() if writable(parameter)]
    needed = [name for name in taken if inspect.signature(cls).parameters[name].default is inspect.Parameter.empty]
    if extra := [key for key in given if key not in taken]:
        hint = did_you_mean(extra[0], [*taken, *others])
        raise ValueError(f"{what} takes no {listed(extra)}.{hint} It takes {listed(taken)}")
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{what} needs {listed(missing)}")
    return cls(**given)


def check_shape(name: str, of: str) -> None:
    """Refuse a schedule that is none of the learning rate's shapes."""
    if name not in SHAPES:
        raise ValueError(f"there is no schedule {name!r} for {of}.{did_you_mean(name, SHAPES)} Known: {listed(SHAPES)}")


def scheduled(name: str, warmup: float, total_steps: int | None) -> Schedule | None:
    """The factor of a size over training; None where it is constant, or where training is not known yet."""
    if total_steps is None or (name == "constant" and not warmup):
        return None
    return shaped(name, total_steps, warmup)


def writable(parameter: inspect.Parameter) -> bool:
    """Whether a recipe can say this argument of a charge: numbers, text, and mappings of them, but no tensors."""
    return parameter.name not in ("reference", "convention")


def written(given: Mapping[str, Any], fields: Iterable[str], tables: bool = True) -> dict[str, Any]:
    """Extra settings as a recipe can hold them; ``tables`` says whether a setting may itself have keys.

    Raises:
        ValueError: a value cannot be written as TOML.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    for key, value in values.items():
        parts = (
            value if isinstance(value, tuple) else value.values() if tables and isinstance(value, Mapping) else (value,)
        )
        if key not in fields and not all(isinstance(part, (bool, int, float, str)) for part in parts):
            raise ValueError(f"{key} = {value!r} cannot be written in a recipe. Give a number or text, or leave it out")
    return values


class PlaceSpec(Section):
    """One ``[[noise.places]]``: a kind of noise with its size, on modules or weights that ``on`` selects.

    ``schedule`` and ``warmup`` let the size follow a shape over the whole of training, as a term's strength.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True)

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
    def settings(self) -> dict[str, Any]:
        """What the noise is made with."""
        return dict(self.model_extra or {})

    @property
    def amount(self) -> float:
        """The rate or the standard deviation."""
        return self.build().noise.size

    def build(self, total_steps: int | None = None) -> Placed:
        """The noise at its place.

        Raises:
            ValueError: the kind is not known or does not take what was given.
        """
        if self.kind not in NOISES:
            raise ValueError(
                f"there is no noise {self.kind!r}.{did_you_mean(self.kind, NOISES)} Known: {listed(NOISES, 20)}"
            )
        noise = made(NOISES[self.kind], f"noise {self.kind!r}", self.settings, ["schedule", "warmup"])
        placed: Placed = noise.on(self.on, schedule=scheduled(self.schedule, self.warmup, total_steps))
        return placed


class NoiseSpec(Section):
    """Noise on inputs, labels, layers and gradients; 0 is off.

    Args:
        dropout: rate of every dropout layer, in [0, 1); left out, the model keeps its own.
        label_smoothing: in [0, 1).
        input: standard deviation, in units of the inputs.
        cutout: share of an image's area that is blanked, in [0, 1).
        mixup, cutmix: concentration of the Beta distribution that two examples are mixed by; one of the two.
        gradient: variance of noise on gradients at the first step; it dies out as ``1/(1 + t)^0.55``.
        places: noise on chosen modules and weights.
    """

    dropout: Rate | None = None
    label_smoothing: Rate = 0.0
    input: NonNegative = 0.0
    cutout: Rate = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    gradient: NonNegative = 0.0
    places: tuple[PlaceSpec, ...] = ()

    @model_validator(mode="after")
    def _one_mixing(self) -> Self:
        if self.mixup and self.cutmix:
            raise ValueError("examples are mixed by mixup or by cutmix, not both")
        return self


class SharpnessSpec(Section):
    """Sharpness-aware minimization: ``radius`` of the ascent, 0 is off; ``adaptive`` for ASAM. Each step costs two."""

    radius: NonNegative = 0.0
    adaptive: bool = False


class LookaheadSpec(Section):
    """Slow weights that move ``share`` of the way every ``every`` steps; ``every`` 0 is off."""

    every: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


class AveragingSpec(Section):
    """``ema``: decay of an exponential average, 0 for none. ``swa``: share of the epochs, at the end, averaged equally."""

    ema: Rate = 0.0
    swa: Rate = 0.0

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.ema and self.swa:
            raise ValueError("averaging is by ema or by swa, not both")
        return self


class StoppingSpec(Section):
    """Stop when the validation loss reached no new minimum for ``patience`` epochs; 0 never stops early. ``keep``: the
    weights of the ``best`` epoch by validation loss, or of the ``last``."""

    patience: Annotated[int, Field(ge=0)] = 20
    keep: Literal["best", "last"] = "best"


class Recipe(Section):
    """What may change between two runs. Frozen; ``replace`` gives a changed copy.

    Args:
        epochs: >= 1, at most.
        batch_size: >= 1, examples a step (a step sums ``accumulate`` of them).
        accumulate: >= 1, batches whose gradients make one step.
        clip: bound on the gradient's norm; 0 is off.
        precision: ``float32``, or autocast to ``bfloat16`` or ``float16``.
    Example:
        >>> Recipe(epochs=5).replace(optimizer={"lr": 0.01}).optimizer.lr
        0.01
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 128
    accumulate: Annotated[int, Field(ge=1)] = 1
    clip: NonNegative = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    model: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    terms: tuple[TermSpec, ...] = ()
    noise: NoiseSpec = NoiseSpec()
    averaging: AveragingSpec = AveragingSpec()
    sharpness: SharpnessSpec = SharpnessSpec()
    lookahead: LookaheadSpec = LookaheadSpec()
    stopping: StoppingSpec = StoppingSpec()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError(explained(error)) from None

    @classmethod
    def from_toml(cls, path_or_text: str | Path) -> Recipe:
        """Read a recipe from a file, or from the text itself.

        Raises:
            RecipeError: the file is missing, is no TOML, or has an unknown key or an impossible value.
            FormatError: the recipe was written in another schema.
        """
        text, where = _toml_text(path_or_text)
        dots = text.count(".")  # a key a.b.c is kept with all that it begins with: memory grows with the square
        check_memory(f"{where} has {dots:,} dots", 4 * dots**2, RecipeError)
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{where} is not valid TOML: {error}.") from None
        except RecursionError:
            raise RecipeError(f"{where} is nested too deeply for a recipe.") from None
        check_schema(values.pop("schema", SCHEMA), SCHEMA, where.strip("'"), "recipe")
        try:
            return cls(**values)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    def to_toml(self) -> str:
        """The recipe as TOML: what differs from the defaults, and ``epochs``, ``batch_size`` and the optimizer always."""
        values = self.to_dict()
        terms = values.pop("terms", [])
        blocks = [tomli_w.dumps({"schema": SCHEMA, **values})]
        for term in terms:
            tables = {key: value for key, value in term.items() if isinstance(value, Mapping)}
            blocks.append(f"\n[[terms]]\n{tomli_w.dumps({k: v for k, v in term.items() if k not in tables})}")
            blocks.append(tomli_w.dumps({"terms": tables}) if tables else "")
        return "".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """As `to_toml`, as plain dictionaries and lists."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        always = {"epochs": self.epochs, "batch_size": self.batch_size}
        optimizer = {"name": self.optimizer.name, "lr": self.optimizer.lr, **values.pop("optimizer", {})}
        return {**always, **{k: v for k, v in values.items() if k not in always}, "optimizer": optimizer}

    def replace(self, **changes: Any) -> Recipe:
        """A copy with changes; a mapping changes only the keys it names, anything else takes the place of the old.

        Example:
            >>> Recipe().replace(noise={"dropout": 0.2}).noise.dropout
            0.2
        """
        values = self.model_dump()
        for key, change in changes.items():
            old = values.get(key)
            if isinstance(change, BaseModel):
                change = change.model_dump()
            values[key] = {**old, **change} if isinstance(old, dict) and isinstance(change, Mapping) else change
        return Recipe(**values)

    def build_terms(self, total_steps: int | None = None) -> list[Term]:
        """The terms with their penalties and selectors; strengths follow their schedules over ``total_steps``."""
        return [spec.build(total_steps) for spec in self.terms]

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """What differs: ``{"optimizer.lr": (0.001, 0.01)}``."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = [*mine, *(k for k in theirs if k not in mine)]
        return {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}

    def describe(self) -> str:
        """One line for a person: the optimizer and everything that is switched on."""
        parts = [f"{self.optimizer.name} lr {self.optimizer.lr:.2g}"]
        if self.schedule.name != "constant":
            parts.append(self.schedule.name)
        parts += [t.penalty if t.strength is t.bound is None else f"{t.penalty} {t.amount:.2g}" for t in self.terms]
        for label, value in (
            ("dropout", self.noise.dropout),
            ("smoothing", self.noise.label_smoothing),
            ("input noise", self.noise.input),
            ("cutout", self.noise.cutout),
            ("mixup", self.noise.mixup),
            ("cutmix", self.noise.cutmix),
            ("gradient noise", self.noise.gradient),
            *((place.kind, place.amount) for place in self.noise.places),
            ("sharpness", self.sharpness.radius),
            ("lookahead", self.lookahead.every),
            ("ema", self.averaging.ema),
            ("swa", self.averaging.swa),
            ("clip", self.clip),
        ):
            if value:
                parts.append(f"{label} {value:.3g}")
        parts += [f"{key} {value}" for key, value in self.model.items()]
        return ", ".join(parts)

    def __str__(self) -> str:
        return self.to_toml()


def _toml_text(path_or_text: str | Path) -> tuple[str, str]:
    """The text and what to call it in errors: a string is a path if it ends in .toml or has no equals sign."""
    if isinstance(path_or_text, str) and _is_text(path_or_text):
        return path_or_text, "The recipe"
    path = Path(path_or_text)
    try:
        return read_bytes(path, "recipe", RecipeError, called="recipe file").decode("utf-8"), f"'{path}'"
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe file '{path}' cannot be read: {error}.") from None


def _is_text(given: str) -> bool:
    return "\n" in given or not given.strip() or ("=" in given and not given.endswith(".toml"))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        flat: dict[str, Any] = {}
        for key, value in values.items():
            flat |= _flat(value, f"{prefix}{key}.")
        return flat
    return {prefix.removesuffix("."): values}


def explained(error: ValidationError) -> str:
    """Pydantic's findings as one sentence each, with a suggestion for an unknown key."""
    sentences = []
    for problem in error.errors():
        place = [part for part in problem["loc"] if part not in ("float", "int", "str", "bool", "tuple[str, ...]")]
        key = ".".join(str(part) for part in place)
        if place[0] == "model" and len(place) > 1:
            value = f"model.{place[1]} = {problem['input']!r}"
            sentences.append(
                f"{value} is not possible: a setting of the model is a number, text, true or false, or a list"
            )
        elif problem["type"] == "extra_forbidden":
            known = _keys_at(place[:-1])
            sentences.append(
                f"unknown key {key!r}.{did_you_mean(str(place[-1]), known)} Known here: {listed(known, 14)}"
            )
        elif problem["type"] == "value_error":
            sentences.append(f"{key}: {str(problem['ctx']['error']).removesuffix('.')}")
        else:
            sentences.append(f"{key} = {problem['input']!r} is not possible: {problem['msg'].lower()}")
    text = "; ".join(dict.fromkeys(sentence.removesuffix(".") for sentence in sentences))
    return text if text.endswith("?") else f"{text}."


def _keys_at(place: list[Any]) -> list[str]:
    """The keys that a section of the recipe knows."""
    section: type[BaseModel] = Recipe
    for part in place:
        if part in ("terms", "places"):
            section = TermSpec if part == "terms" else PlaceSpec
        elif isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
    return list(section.model_fields)


def as_recipe(given: object) -> Recipe:
    """A recipe from a recipe, a preset's name, or a path to a TOML file.

    Raises:
        RecipeError: it is none of these.
    """
    from wellposed.recipe.presets import PRESETS

    if isinstance(given, Recipe):
        return given
    if isinstance(given, str) and given in PRESETS:
        return PRESETS[given].recipe
    if isinstance(given, Path) or (isinstance(given, str) and ("=" in given or given.endswith(".toml"))):
        return Recipe.from_toml(given)
    if isinstance(given, str):
        raise RecipeError(f"There is no preset {given!r}.{did_you_mean(given, PRESETS)} Known: {listed(PRESETS, 20)}.")
    raise InputError(f"A recipe is a wp.Recipe, a preset's name or a path to a .toml file; {given!r} is none of them.")
