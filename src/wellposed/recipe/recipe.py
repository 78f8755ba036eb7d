"""The recipe: optimizer, schedule, terms, noise, averaging, stopping, settings of the model."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import (
    BaseModel,
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from torch import nn

from wellposed.core.errors import RecipeError, described, did_you_mean, listed
from wellposed.core.files import check_schema, meant, spelled
from wellposed.core.reading import check_memory, read_bytes
from wellposed.core.registry import (
    classes_in,
    import_name,
    imported,
    importing,
    is_import_name,
    is_importable,
    snake_case,
)
from wellposed.optim.averaging import Average, Buffers, Start, Warmup, averaging_says
from wellposed.optim.schedules import (
    BY_FUNCTION,
    COURSES,
    TORCH_NAMES,
    Course,
    Custom,
    Monitor,
    rate_at,
)
from wellposed.penalties.base import Chargeable, How, Term
from wellposed.recipe.held import Held, nested_values, opened, taken_apart, words_of
from wellposed.recipe.noise_section import SAYS, NoiseSpec, PlaceSpec
from wellposed.recipe.section import (
    NonNegativeNumber,
    OpenSection,
    PositiveNumber,
    Rate,
    Section,
    TomlScalar,
    build_object,
    check_shape,
    strength_schedule,
)

SCHEMA = 1


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimizer of ``torch.optim`` by its name in small letters."""
    base = torch.optim.Optimizer
    classes = {name.lower(): cls for name, cls in vars(torch.optim).items() if isinstance(cls, type)}
    return {name: cls for name, cls in classes.items() if issubclass(cls, base) and cls is not base}


def chargeables() -> dict[str, type[Chargeable]]:
    """Every penalty and constraint by its name in recipes."""
    known = classes_in("wellposed.penalties", Chargeable) | classes_in("wellposed.constraints", Chargeable)
    return {name: cls for name, cls in known.items() if is_dataclass(cls)}


FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers whose update is one pass over memory where torch allows it: the same formula, several times faster."""


class OptimizerSpec(OpenSection):
    """``name`` is any class of ``torch.optim``, by its name or itself; or a class of one's own, which TOML calls by its import
    name. Its other settings stand beside it (``momentum = 0.9``)."""

    name: Any = "adamw"
    lr: PositiveNumber = 1e-3

    @field_validator("name")
    @classmethod
    def _known(cls, name: Any) -> str | type[torch.optim.Optimizer]:
        if is_import_name(name):
            name = imported(name, "optimizer")
        if isinstance(name, type) and issubclass(name, torch.optim.Optimizer):
            ours = name.__name__.lower()
            return ours if optimizers().get(ours) is name else name
        if not isinstance(name, str) or name.lower() not in optimizers():
            raise ValueError(
                f"there is no optimizer {name!r} in torch.optim.{did_you_mean(str(name), optimizers())} One of your own is given "
                "as a class, or by its import name 'package.module:Class'"
            )
        return name.lower()

    @field_serializer("name", when_used="json")
    def _named(self, name: Any) -> str:
        return self.says

    @property
    def kind(self) -> type[torch.optim.Optimizer]:
        return self.name if isinstance(self.name, type) else optimizers()[self.name]

    @property
    def title(self) -> str:
        """What it is called: ``adamw``, and ``mine`` for a class ``Mine`` of somebody's own."""
        return self.kind.__name__.lower()

    @property
    def says(self) -> str:
        """How TOML says it: ``adamw``, or an import name."""
        return import_name(self.name) if isinstance(self.name, type) else str(self.name)

    @model_validator(mode="after")
    def _taken(self) -> Self:
        parameters = inspect.signature(self.kind).parameters
        known = set(parameters) - {"params"}
        for key, value in self.settings.items():
            if key not in known:
                raise ValueError(
                    f"{self.title} takes no {key!r}.{did_you_mean(key, known)} Known: {listed(sorted(known), 20)}"
                )
            boolean = any(isinstance(one, bool) for one in nested_values(value))
            if boolean and "bool" not in str(parameters[key].annotation):
                raise ValueError(
                    f"{key} = {described(value)} is not possible: a number is needed, and True and False are none"
                )
        return self

    def build(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer; its ``weight_decay`` is 0 unless the recipe says otherwise.

        Raises:
            RecipeError: the optimizer refuses a setting.
        """
        cls: Any = self.kind
        settings, parameters = self.settings, list(parameters)
        if "weight_decay" in inspect.signature(cls).parameters:
            settings.setdefault("weight_decay", 0.0)
        known_to_fuse = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        if cls in FUSED and known_to_fuse and settings.keys().isdisjoint(("foreach", "fused")):
            settings["fused"] = True
        try:
            built: torch.optim.Optimizer = cls(parameters, lr=self.lr, **settings)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"[optimizer] {self.title} does not accept {settings}: {error}.") from None
        return built


class ScheduleSpec(OpenSection):
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

    name: Any = "constant"
    warmup: Rate = 0.0
    per: str | int | None = None

    @field_validator("per", mode="before")
    @classmethod
    def _counts(cls, per: Any) -> Any:
        whole = isinstance(per, int) and not isinstance(per, bool) and per >= 1
        if per not in (None, "epoch", "step") and not whole:
            raise ValueError(f"per is 'epoch', 'step' or a number of steps >= 1; it was given {per!r}")
        return per

    @classmethod
    def taken(cls, given: Any) -> Any:
        """A function alone is a schedule."""
        return {"name": given} if callable(given) else given

    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: Any) -> str | Custom:
        if isinstance(name, Custom):
            return name
        if callable(name) and not isinstance(name, type):
            return Custom(name)
        if not isinstance(name, str) or name not in COURSES:
            called = getattr(name, "__name__", str(name))  # torch's class, or its name
            ours = TORCH_NAMES.get(called)
            hint = did_you_mean(called, COURSES) if ours is None else f" torch's {called} is {ours!r} here."
            raise ValueError(f"there is no schedule {called!r}.{hint} Known: {listed(COURSES, 20)}. {BY_FUNCTION}")
        return name

    @field_serializer("name", when_used="json")
    def _named(self, name: str | Custom) -> str:
        return str(name)

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        self.course  # noqa: B018 - refuses settings that the course does not take
        return self

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
        others = ["name", "warmup", "per"]
        course: Course = build_object(COURSES[self.name], f"schedule {self.name!r}", self.settings, others)
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


class TermSpec(OpenSection):
    """One ``[[terms]]``: a penalty with its strength, or a constraint with its bound, and where and how.

    What else the charge takes stands beside it (``by = "input"``, ``gamma = 3.0``). ``schedule`` lets the strength follow one
    of the learning rate's shapes over the whole of training, after rising linearly over the share ``warmup`` of it.
    """

    tables = True
    penalty: Any
    strength: NonNegativeNumber | None = None
    bound: NonNegativeNumber | None = None
    on: Any = "weights"
    how: How | None = None
    schedule: Any = "constant"
    warmup: Rate = 0.0

    @classmethod
    def taken(cls, given: Any) -> Any:
        """A term in Python is taken apart."""
        if isinstance(given, Chargeable):
            raise ValueError(str(Term.refused("A recipe", given)).removesuffix("."))
        return taken_apart(given) if isinstance(given, Term) else given

    @field_validator("penalty")
    @classmethod
    def _charge(cls, penalty: Any) -> str | type[Chargeable]:
        """One of ours by its name; the class of one that somebody wrote, which TOML calls by its import name."""
        if is_import_name(penalty):
            penalty = imported(penalty, "penalty")
        if isinstance(penalty, type) and issubclass(penalty, Chargeable) and not inspect.isabstract(penalty):
            ours = snake_case(penalty.__name__)
            return ours if chargeables().get(ours) is penalty else penalty
        if not isinstance(penalty, str):
            raise ValueError(
                f"a penalty or a constraint is needed, by its name or as a class of wp.Penalty, wp.Constraint or "
                f"wp.FunctionalPenalty with all their methods; it was given {described(penalty)}"
            )
        return penalty

    @field_validator("on")
    @classmethod
    def _place(cls, on: Any) -> Any:
        return on if isinstance(on, Held) else words_of(on)

    @field_validator("schedule")
    @classmethod
    def _shape(cls, schedule: Any) -> Any:
        if isinstance(schedule, str):
            check_shape(schedule, "a strength")
        elif not isinstance(schedule, Held) and not callable(schedule):
            raise ValueError(f"a schedule is a name or a function of the step; it was given {described(schedule)}")
        return Held(schedule) if callable(schedule) else schedule

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        self.build()
        return self

    @model_serializer(mode="plain")
    def _as_keys(self, info: SerializationInfo) -> dict[str, Any]:
        """All keys as they are; for JSON as words: a class by its import name, and no place where there is none to say."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if info.exclude_defaults:
            values = {k: v for k, v in values.items() if v != type(self).model_fields[k].default}
        values |= self.model_extra or {}
        if info.mode == "python":
            return values
        if not self.charge.placed():
            values.pop("on", None)
        if isinstance(self.penalty, type):
            values["penalty"] = import_name(self.penalty)
        return {key: repr(value) if isinstance(value, Held) else value for key, value in values.items()}

    @property
    def charge(self) -> type[Chargeable]:
        """The class of the penalty or the constraint.

        Raises:
            ValueError: there is none of that name.
        """
        if isinstance(self.penalty, type):
            return self.penalty
        known = chargeables()
        if self.penalty not in known:
            raise ValueError(
                f"there is no penalty {self.penalty!r}.{did_you_mean(self.penalty, known)} Known: {listed(known, 40)}. One of "
                "your own has an import name, 'package.module:Class'"
            )
        return known[self.penalty]

    @property
    def name(self) -> str:
        """What it is called: ``l1``, ``max_norm``, and ``mine`` for a class ``Mine`` of somebody's own."""
        return snake_case(self.penalty.__name__) if isinstance(self.penalty, type) else str(self.penalty)

    @property
    def unsaid(self) -> str:
        """What of the term only Python can say; empty where TOML can say all of it."""
        if isinstance(self.penalty, type) and not is_importable(self.penalty):
            return f"its class {import_name(self.penalty)} cannot be imported: define it in a module, outside of any function"
        values = {"on": self.on, "schedule": self.schedule, **self.settings}
        found = next((key for key, value in values.items() if isinstance(value, Held)), None)
        return f"its {found} is {values[found]}, which is more than text and numbers" if found else ""

    @property
    def settings(self) -> dict[str, Any]:
        own = {"strength": self.strength, "bound": self.bound, **super().settings}
        return {key: value for key, value in own.items() if value is not None or key not in ("strength", "bound")}

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
        settings = {key: opened(value) for key, value in self.settings.items()}
        others = ["how", "schedule", "warmup"]
        charge: Chargeable = build_object(self.charge, f"penalty {self.name!r}", settings, others)
        if isinstance(self.schedule, Held):
            schedule = None if total_steps is None else self.schedule.value
        else:
            schedule = strength_schedule(self.schedule, self.warmup, total_steps)
        where = opened(self.on)
        return charge.on(None if where == "weights" else where, how=self.how, schedule=schedule)


class SharpnessSpec(Section):
    """Sharpness-aware minimization: ``radius`` of the ascent, 0 is off; ``adaptive`` for ASAM. Each step costs two."""

    radius: NonNegativeNumber = 0.0
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
    min_delta: NonNegativeNumber = 0.0
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
    clip: NonNegativeNumber = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    model: dict[str, TomlScalar | list[TomlScalar]] = Field(default_factory=dict)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    terms: tuple[TermSpec, ...] = ()
    noise: NoiseSpec = NoiseSpec()
    averaging: AveragingSpec = AveragingSpec()
    sharpness: SharpnessSpec = SharpnessSpec()
    lookahead: LookaheadSpec = LookaheadSpec()
    stopping: StoppingSpec = StoppingSpec()

    @field_validator("terms", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, (Term, Chargeable)) else given

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**meant(values))
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
            with importing():
                return cls(**values)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    def to_toml(self) -> str:
        """The recipe as TOML: what differs from the defaults, and ``epochs``, ``batch_size`` and the optimizer always.

        Raises:
            RecipeError: the schedule is a function, or a term holds what TOML cannot say; a class of one's own is written by its
                import name.
        """
        self._check_written()
        return self._toml(self._shown())

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
        """The recipe as `to_toml` writes it, in dicts and lists that JSON can hold; ``Recipe(**values)`` reads them.

        JSON has no infinity: that of a box without an end is ``{"float": "inf"}``.

        Raises:
            RecipeError: the schedule is a function, or a term holds what only Python can say.
        """
        self._check_written()
        found: dict[str, Any] = spelled(self._shown())
        return found

    def _check_written(self) -> None:
        for term in self.terms:
            if term.unsaid:
                raise RecipeError(
                    f"The term {term.name} cannot be written down: {term.unsaid}. Or keep the recipe in Python."
                )
        if isinstance(self.optimizer.name, type) and not is_importable(self.optimizer.name):
            raise RecipeError(
                f"The optimizer {import_name(self.optimizer.name)} cannot be imported, so it cannot be written down: define it in "
                "a module, outside of any function. Or keep the recipe in Python."
            )
        if isinstance(self.schedule.name, Custom):
            raise RecipeError(
                f"The schedule {self.schedule.name} is a function, which cannot be written down. Take one of "
                f"{listed(COURSES, 20)}, or keep the recipe in Python."
            )

    def _shown(self) -> dict[str, Any]:
        """As `to_dict`, a function by its name."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        always = {"epochs": self.epochs, "batch_size": self.batch_size}
        optimizer = {"name": self.optimizer.says, "lr": self.optimizer.lr, **values.pop("optimizer", {})}
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
            if isinstance(change, Mapping) and isinstance(old, (Section, dict)):
                change = old.merged(change) if isinstance(old, Section) else {**old, **change}
            values[key] = change.model_dump() if isinstance(change, BaseModel) else change
        return Recipe(**values)

    def build_terms(self, total_steps: int | None = None) -> list[Term]:
        """The terms with their penalties and selectors; strengths follow their schedules over ``total_steps``."""
        return [spec.build(total_steps) for spec in self.terms]

    @property
    def classes(self) -> list[type]:
        """The user's own classes of penalties, constraints and optimizers in this recipe."""
        return [one for one in (self.optimizer.name, *(term.penalty for term in self.terms)) if isinstance(one, type)]

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """The settings in which two recipes differ, mine first: ``{"optimizer.lr": (0.001, 0.01)}``."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = [*mine, *(k for k in theirs if k not in mine)]
        found = {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}
        if self.schedule.name != other.schedule.name:  # two functions may have one name
            found["schedule.name"] = (str(self.schedule.name), str(other.schedule.name))
        if self.terms != other.terms and "terms" not in found:  # nor need two classes, or two tensors, read differently
            found["terms"] = ([str(term.build()) for term in self.terms], [str(term.build()) for term in other.terms])
        return found

    def __hash__(self) -> int:
        return hash((self.epochs, self.batch_size, self.optimizer.name, self.optimizer.lr, self.terms))

    def describe(self) -> str:
        """One line for a person: the optimizer and everything that is switched on."""
        parts = [f"{self.optimizer.title} lr {self.optimizer.lr:.2g}"]
        if self.schedule.name != "constant":
            parts.append(str(self.schedule.name))
        parts += [t.name if t.strength is t.bound is None else f"{t.name} {t.amount:.2g}" for t in self.terms]
        sizes = (
            *((SAYS.get(name, name.replace("_", " ")), size) for name, size in self.noise.sizes.items()),
            *((place.kind, place.amount) for place in self.noise.places), ("sharpness", self.sharpness.radius),
            ("lookahead", self.lookahead.every), ("ema", self.averaging.ema), ("swa", self.averaging.swa), ("clip", self.clip),
        )  # fmt: skip
        parts += [f"{label} {value:.3g}" for label, value in sizes if value]
        return ", ".join([*parts, *(f"{key} {value}" for key, value in self.model.items())])

    def __str__(self) -> str:
        return self._toml(self._shown())


def _toml_text(path_or_text: str | Path) -> tuple[str, str]:
    """The text and what to call it in errors: a string is a path if it ends in .toml or has no equals sign."""
    given = str(path_or_text)
    text = "\n" in given or not given.strip() or ("=" in given and not given.endswith(".toml"))
    if isinstance(path_or_text, str) and text:
        return path_or_text, "The recipe"
    path = Path(path_or_text)
    try:
        return read_bytes(path, "recipe", RecipeError, called="recipe file").decode("utf-8"), f"'{path}'"
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe file '{path}' cannot be read: {error}.") from None


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {k: v for key, value in values.items() for k, v in _flat(value, f"{prefix}{key}.").items()}


def explain_errors(error: ValidationError) -> str:
    """Pydantic's findings as one sentence each, with a suggestion for an unknown key."""
    sentences = []
    for problem in error.errors():
        place = [part for part in problem["loc"] if part not in ("float", "int", "str", "bool", "tuple[str, ...]")]
        key = ".".join(str(part) for part in place)
        given = described(problem["input"])
        if place[0] == "model" and len(place) > 1:
            said = "a setting of the model is a number, text, true or false, or a list"
            sentences.append(f"model.{place[1]} = {given} is not possible: {said}")
        elif problem["type"] == "extra_forbidden":
            known = _keys_at(place[:-1])
            sentences.append(
                f"unknown key {key!r}.{did_you_mean(str(place[-1]), known)} Known here: {listed(known, 14)}"
            )
        elif problem["type"] == "value_error":
            sentences.append(f"{key}: {str(problem['ctx']['error']).removesuffix('.')}")
        else:
            sentences.append(f"{key} = {given} is not possible: {problem['msg'].lower()}")
    text = "; ".join(dict.fromkeys(sentence.removesuffix(".") for sentence in sentences))
    return text if text.endswith("?") else f"{text}."


def _keys_at(place: list[Any]) -> list[str]:
    """The keys that a section of the recipe knows."""
    section: Any = Recipe
    for part in place:
        known = {name: field.annotation for name, field in section.model_fields.items()}
        found = {**known, "terms": TermSpec, "places": PlaceSpec}.get(part)
        section = found if isinstance(found, type) and issubclass(found, BaseModel) else section
    return list(section.model_fields)
