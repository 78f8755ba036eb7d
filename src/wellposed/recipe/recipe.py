"""The recipe: optimizer, schedule, terms, noise, averaging, stopping, settings of the model."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from torch import nn

from wellposed.core.errors import RecipeError, described, did_you_mean, listed
from wellposed.core.files import check_schema
from wellposed.core.reading import check_memory, read_bytes
from wellposed.core.registry import classes_in
from wellposed.noise.inputs import MixMode
from wellposed.noise.perturb import NOISES, Placed
from wellposed.optim.averaging import Average, Buffers, Start, Warmup, averaging_says
from wellposed.optim.schedules import COURSES, SHAPES, Course, Custom, Monitor, named_schedule, rate_at
from wellposed.penalties.base import Chargeable, How, Schedule, Term

SCHEMA = 1


def _is_a_number(value: float) -> float:
    if value != value:
        raise ValueError("NaN is no number")
    return value


Number = Annotated[float, AfterValidator(_is_a_number)]
Scalar = bool | int | Number | str
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants")

    def merged(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """All values, those of ``change`` in place of the old."""
        return {**self.model_dump(), **change}


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

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True, ser_json_inf_nan="constants")

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
        return to_settings(given, cls.model_fields, tables=False) if isinstance(given, Mapping) else given

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
    """How the learning rate moves: one of `wellposed.optim.schedules.COURSES`, whose settings stand beside the name.

    A fall at epoch 30: ``{"name": "multistep", "milestones": [30]}``. What is counted (``gamma``'s powers, ``step_size``,
    ``milestones``, ``T_0``, ``total_iters``) counts epochs, as users of ``torch.optim.lr_scheduler`` step once an epoch. A
    schedule that spans all of training (constant, cosine, one_cycle; step, linear and polynomial without a count) moves at
    each step.

    Args:
        name: of the schedule; or a function of the count, 0 for the first, that gives a factor of the rate, as for torch's
            ``LambdaLR``. It counts epochs unless ``per`` says ``"step"``, and cannot be written as TOML.
        warmup: in [0, 1), share of the steps over which the rate first rises linearly from 0; see
            `wellposed.optim.schedules.rate_at`.
        per: what is counted: ``"epoch"``, ``"step"``, or a number of steps that make one count; also for a schedule that spans
            all of training, which then moves once a count.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True)

    name: Any = "constant"
    warmup: Rate = 0.0
    per: str | int | None = None

    @field_validator("per", mode="before")
    @classmethod
    def _counts(cls, per: Any) -> Any:
        whole = isinstance(per, int) and not isinstance(per, bool) and per >= 1
        if per not in (None, "epoch", "step") and not whole:
            raise ValueError(f"what is counted is 'epoch', 'step' or a number of steps >= 1; it was given {per!r}")
        return per

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, given: Any) -> Any:
        """A function alone is a schedule; sequences become tuples, so that a recipe equals itself read back."""
        if callable(given):
            given = {"name": given}
        return to_settings(given, cls.model_fields, tables=False) if isinstance(given, Mapping) else given

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: Any) -> str | Custom:
        if isinstance(name, Custom):
            return name
        if callable(name) and not isinstance(name, type):
            return Custom(name)
        if not isinstance(name, str) or name not in COURSES:
            raise ValueError(
                f"there is no schedule {name!r}.{did_you_mean(str(name), COURSES)} Known: {listed(COURSES, 20)}"
            )
        return name

    @field_serializer("name", when_used="json")
    def _named(self, name: str | Custom) -> str:
        return str(name)

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        self.course  # noqa: B018 - refuses settings that the course does not take
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the course is made with."""
        return dict(self.model_extra or {})

    @cached_property
    def course(self) -> Course:
        """The schedule with its settings.

        Raises:
            ValueError: it does not take one of them.
        """
        if isinstance(self.name, Custom):
            if self.settings:
                raise ValueError(
                    f"a schedule that is a function takes no settings; it was given {listed(self.settings)}"
                )
            return self.name
        course: Course = build_object(
            COURSES[self.name], f"schedule {self.name!r}", self.settings, ["name", "warmup", "per"]
        )
        return course

    def rate(self, base: float, step: int, total: int, epoch_steps: int) -> float:
        """The learning rate of a step out of ``total``, where an epoch has ``epoch_steps``; ``base`` is the optimizer's own."""
        unit = self.per if isinstance(self.per, int) else epoch_steps if self.counts_epochs else 1
        return rate_at(self.course, base, step, total, self.warmup, unit)

    @property
    def counts_epochs(self) -> bool:
        """Whether the rate changes once an epoch, and its counts are of epochs."""
        return self.per == "epoch" or (self.per is None and self.course.counted)

    def merged(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """All values, those of ``change`` in place of the old. Another schedule does not inherit the settings of this one."""
        if change.get("name", self.name) != self.name:
            return {"warmup": self.warmup, "per": self.per, **change}
        return super().merged(change)


class TermSpec(Section):
    """One ``[[terms]]``: a penalty with its strength, or a constraint with its bound, and where and how.

    What else the charge takes stands beside it (``by = "input"``, ``gamma = 3.0``). ``schedule`` lets the strength follow one
    of the learning rate's shapes over the whole of training, after rising linearly over the share ``warmup`` of it.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True, ser_json_inf_nan="constants")

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
        return to_settings(given, cls.model_fields) if isinstance(given, Mapping) else given

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
        charge: Chargeable = build_object(known[self.penalty], f"penalty {self.penalty!r}", self.settings, others)
        schedule = strength_schedule(self.schedule, self.warmup, total_steps)
        return charge.on(None if self.on == "weights" else self.on, how=self.how, schedule=schedule)


def build_object(cls: type[Any], what: str, given: Mapping[str, Any], others: Sequence[str]) -> Any:
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


def strength_schedule(name: str, warmup: float, total_steps: int | None) -> Schedule | None:
    """The factor of a size over training; None where it is constant, or where training is not known yet."""
    if total_steps is None or (name == "constant" and not warmup):
        return None
    return named_schedule(name, total_steps, warmup)


def writable(parameter: inspect.Parameter) -> bool:
    """Whether a recipe can say this argument of a charge: numbers, text, and mappings of them, but no tensors."""
    return parameter.name not in ("reference", "convention")


def to_settings(given: Mapping[str, Any], fields: Iterable[str], tables: bool = True) -> dict[str, Any]:
    """Extra settings as a recipe can hold them; ``tables`` says whether a setting may itself have keys.

    Raises:
        ValueError: a value cannot be written as TOML.
    """
    values = {key: _tuples(value) for key, value in given.items()}
    for key, value in values.items():
        parts = value.values() if tables and isinstance(value, Mapping) else (value,)
        if key not in fields and not all(
            isinstance(leaf, (bool, int, float, str)) for p in parts for leaf in _flat_in(p)
        ):
            raise ValueError(
                f"{key} = {described(value)} cannot be written in a recipe. Give numbers or text, an array as lists, or leave it "
                "out"
            )
    return values


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _flat_in(value: Any) -> Iterator[Any]:
    """What nested tuples hold."""
    if isinstance(value, tuple):
        for part in value:
            yield from _flat_in(part)
    else:
        yield value


class PlaceSpec(Section):
    """One ``[[noise.places]]``: a kind of noise with its size, on modules or weights that ``on`` selects.

    ``schedule`` and ``warmup`` let the size follow a shape over the whole of training, as a term's strength.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True, ser_json_inf_nan="constants")

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
        noise = build_object(NOISES[self.kind], f"noise {self.kind!r}", self.settings, ["schedule", "warmup"])
        placed: Placed = noise.on(self.on, schedule=strength_schedule(self.schedule, self.warmup, total_steps))
        return placed


class NoiseSpec(Section):
    """Noise on inputs, labels, layers and gradients; 0 is off.

    Args:
        dropout: rate of every dropout layer, in [0, 1); left out, the model keeps its own.
        label_smoothing: in [0, 1).
        input: standard deviation, in units of the inputs.
        cutout: share of an image's area that is blanked, in [0, 1).
        mixup, cutmix: concentration of the Beta distribution that two examples are mixed by. With both, one of them is drawn
            each time, cutmix with probability ``switch_prob``.
        switch_prob: in [0, 1], as in timm.
        mix_mode: ``"batch"``: one weight and one of mixup and cutmix for each batch; ``"elem"``: for each example.
        gradient: variance of noise on gradients at the first step; it dies out as ``1/(1 + t)^0.55``.
        places: noise on chosen modules and weights.
    """

    dropout: Rate | None = None
    label_smoothing: Rate = 0.0
    input: NonNegative = 0.0
    cutout: Rate = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    switch_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    mix_mode: MixMode = "batch"
    gradient: NonNegative = 0.0
    places: tuple[PlaceSpec, ...] = ()


class SharpnessSpec(Section):
    """Sharpness-aware minimization: ``radius`` of the ascent, 0 is off; ``adaptive`` for ASAM. Each step costs two."""

    radius: NonNegative = 0.0
    adaptive: bool = False


class LookaheadSpec(Section):
    """Slow weights that move ``share`` of the way every ``every`` steps; ``every`` 0 is off."""

    every: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


class AveragingSpec(Section):
    """An average of the weights, which is what is evaluated and kept; see `wellposed.optim.averaging.Average`.

    Args:
        ema: decay of an exponential average, in [0, 1); 0 for none.
        swa: share of the epochs, at the end, averaged equally; 0 for none.
        warmup: of the exponential average: ``ratio``, ``power``, or ``none`` for constant decay.
        start: what the exponential average begins with: ``update``, the weights after the first step, or ``model``, those
            before it.
        buffers: ``copy`` takes the model's, ``average`` averages them too.
    """

    ema: Rate = 0.0
    swa: Rate = 0.0
    warmup: Warmup = "ratio"
    start: Start = "update"
    buffers: Buffers = "copy"

    def build(self, model: nn.Module) -> Average | None:
        """The average of a model; None where there is none."""
        if not (self.ema or self.swa):
            return None
        return Average(model, self.ema or None, warmup=self.warmup, start=self.start, buffers=self.buffers)

    @property
    def says(self) -> str:
        """The average in words for the audit; nothing where there is none."""
        if not (self.ema or self.swa):
            return ""
        says = averaging_says(self.ema or None, self.warmup, self.start, self.buffers)
        return says if self.ema else f"{says}, over the last {self.swa:.0%} of the epochs"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.ema and self.swa:
            raise ValueError("averaging is by ema or by swa, not both")
        return self


class StoppingSpec(Section):
    """When training ends before its last epoch, and whose weights come back.

    Training stops when ``monitor`` has not improved for ``patience`` epochs, by the rule of Keras' ``EarlyStopping``: an
    improvement is below ``best - min_delta`` (above ``best + min_delta`` where higher is better), and with a ``baseline`` only
    one that is so much beyond the baseline too begins the waiting anew. NaN is no improvement.

    Args:
        patience: >= 0, epochs; 0 never stops early.
        monitor: ``valid_loss``, ``valid_metric``, ``train_loss``, ``train_metric``, or ``cost``, what the optimizer minimized.
            Whether higher or lower is better is known of each.
        min_delta: >= 0, in the units of ``monitor``.
        baseline: in the units of ``monitor``; left out, there is none.
        keep: the weights of the ``best`` epoch by ``monitor``, however small its lead and wherever the baseline is; or of the
            ``last``.
    """

    patience: Annotated[int, Field(ge=0)] = 20
    monitor: Monitor = "valid_loss"
    min_delta: NonNegative = 0.0
    baseline: Annotated[float, Field(allow_inf_nan=False)] | None = None
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
            raise RecipeError(explain_errors(error)) from None

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
        """The recipe as TOML: what differs from the defaults, and ``epochs``, ``batch_size`` and the optimizer always.

        Raises:
            RecipeError: the schedule is a function, which TOML cannot say.
        """
        return self._toml(self.to_dict())

    @staticmethod
    def _toml(values: dict[str, Any]) -> str:
        terms = values.pop("terms", [])
        blocks = [tomli_w.dumps({"schema": SCHEMA, **values})]
        for term in terms:
            tables = {key: value for key, value in term.items() if isinstance(value, Mapping)}
            blocks.append(f"\n[[terms]]\n{tomli_w.dumps({k: v for k, v in term.items() if k not in tables})}")
            blocks.append(tomli_w.dumps({"terms": tables}) if tables else "")
        return "".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """As `to_toml`, as plain dictionaries and lists.

        Raises:
            RecipeError: the schedule is a function, which they cannot say.
        """
        if isinstance(self.schedule.name, Custom):
            raise RecipeError(
                f"The schedule {self.schedule.name} is a function, which cannot be written down. Take one of "
                f"{listed(COURSES, 20)}, or keep the recipe in Python."
            )
        return self._shown()

    def _shown(self) -> dict[str, Any]:
        """As `to_dict`, a function by its name."""
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
            old = getattr(self, key, None)
            if isinstance(change, BaseModel):
                change = change.model_dump()
            elif isinstance(change, Mapping) and isinstance(old, Section):
                change = old.merged(change)
            elif isinstance(change, Mapping) and isinstance(old, dict):
                change = {**old, **change}
            values[key] = change
        return Recipe(**values)

    def build_terms(self, total_steps: int | None = None) -> list[Term]:
        """The terms with their penalties and selectors; strengths follow their schedules over ``total_steps``."""
        return [spec.build(total_steps) for spec in self.terms]

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """What differs: ``{"optimizer.lr": (0.001, 0.01)}``."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = [*mine, *(k for k in theirs if k not in mine)]
        found = {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}
        if self.schedule.name != other.schedule.name:  # two functions may have one name
            found["schedule.name"] = (str(self.schedule.name), str(other.schedule.name))
        return found

    def describe(self) -> str:
        """One line for a person: the optimizer and everything that is switched on."""
        parts = [f"{self.optimizer.name} lr {self.optimizer.lr:.2g}"]
        if self.schedule.name != "constant":
            parts.append(str(self.schedule.name))
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
        return self._toml(self._shown())


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


def explain_errors(error: ValidationError) -> str:
    """Pydantic's findings as one sentence each, with a suggestion for an unknown key."""
    sentences = []
    for problem in error.errors():
        place = [part for part in problem["loc"] if part not in ("float", "int", "str", "bool", "tuple[str, ...]")]
        key = ".".join(str(part) for part in place)
        if place[0] == "model" and len(place) > 1:
            value = f"model.{place[1]} = {described(problem['input'])}"
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
            sentences.append(f"{key} = {described(problem['input'])} is not possible: {problem['msg'].lower()}")
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
