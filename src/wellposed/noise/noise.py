"""What a kind of noise declares, once: its key in a recipe, where it acts, how it is applied, how a search tries it.

The recipe, the training loop, the population, the decompositions, the advice and the search read the declarations here, so that
a kind is added by its own class. Our kinds are found by introspection; a kind of somebody else's by `known_as`, or as soon as a
recipe holds one.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from wellposed.core.errors import InputError, described
from wellposed.core.numbers import convert_numbers
from wellposed.core.registry import classes_in, snake_case
from wellposed.core.selectors import selector, weights
from wellposed.penalties.base import Schedule, Searched, at_least_zero, setting_text

K = TypeVar("K", bound="type[Noise]")
Where = Literal["inputs", "labels", "activations", "depth", "weights", "gradients"]
PLACED: tuple[Where, ...] = ("activations", "depth", "weights")
"""Where noise needs a place in the model."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A number in ``[noise]`` of a recipe, which sets a ``field`` of the noise, and is ``off`` where it is left out.

    Attributes:
        title: what histories and searches call it; empty for a setting that is no size.
        says: what it is called in the line that describes a recipe.
        type: of a setting: what the recipe takes.
        searched: how a search tries it; None: it does not.
        advised: for a finding, at least how much of it goes with each of the rule's moves; 0 is none.
    """

    name: str
    field: str
    off: Any = 0.0
    title: str = ""
    says: str = ""
    type: Any = None
    searched: Searched | None = None
    advised: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)


class Noise(ABC):
    """A kind of noise and its size; off in evaluation, and off at size 0, bit for bit. A frozen dataclass.

    Attributes:
        acts: on ``inputs``, ``labels`` or ``gradients``; or at the places that `on` says: ``activations``, ``depth``, ``weights``.
        size_field: the field that holds the size.
        share: whether the size is in [0, 1), as a rate; else it is any finite number >= 0.
        keys: in ``[noise]`` of a recipe, where the name alone is not the key.
        order: in which noises stand in a recipe and act.
        images: whether inputs must be images.
        mixes: whether examples are mixed: `apply` then returns ``(x, permutation, weight)``, as `wellposed.mixup`.
        random: whether it draws. What does not draw is seen in one pass.
        of_classes: whether labels must be of classes.
        site: which stream it draws from, where that has not its name.
        searched: how a search tries it; None: it does not.
    Example:
        >>> import torch, wellposed as wp
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Blank(wp.Noise):
        ...     rate: float
        ...     acts = "inputs"
        ...
        ...     def apply(self, x, size, source):
        ...         return x * (torch.rand(x.shape, generator=source) >= size).to(x)
        >>> wp.Recipe(noise=[Blank(0.1)]).describe()
        'adamw lr 0.001, blank 0.1'
    """

    acts: ClassVar[Where]
    size_field: ClassVar[str] = "rate"
    share: ClassVar[bool] = True
    keys: ClassVar[tuple[Key, ...]] = ()
    order: ClassVar[int] = 5
    images: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    random: ClassVar[bool] = True
    of_classes: ClassVar[bool] = False
    site: ClassVar[str] = ""
    searched: ClassVar[Searched | None] = None

    def __post_init__(self) -> None:
        convert_numbers(self, self.size_field)
        self.check_size(getattr(self, self.size_field))

    @property
    def size(self) -> float:
        return float(getattr(self, self.size_field))

    def check_size(self, size: float) -> None:
        if not self.share:
            at_least_zero(self, **{self.size_field: size})
        elif isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 <= size < 1:
            raise InputError(f"{type(self).__name__} needs a rate in [0, 1); it was given {size!r}.")

    def sizes(self, count: int) -> list[float]:
        """The size at each of ``count`` places; the same unless the class says otherwise."""
        return [self.size] * count

    @classmethod
    def own_size(cls, model: nn.Module, softens: bool) -> float | None:
        """How much of this noise a model has by itself, where a recipe's key can act on it; None where it cannot. ``softens`` says
        whether the loss takes probabilities of classes, so that labels can be smoothed.
        """
        return 0.0

    def at(self, step: int) -> float:
        """The size at a step of the optimizer, 0 for the first: of noise on gradients."""
        return self.size

    @abstractmethod
    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Any:
        """What is disturbed, disturbed: inputs, an output, a parameter or a gradient; of labels the numbers, or the
        probabilities of the classes. ``x`` is not modified, and ``source`` is on the CPU."""

    def behind(self, x: Tensor, size: float, source: torch.Generator, entered: Tensor | None) -> Tensor:
        """`apply` to the output of a module; ``entered`` is the module's first input, where that is a tensor."""
        disturbed: Tensor = self.apply(x, size, source)
        return disturbed

    def labels(self, target: Tensor, classes: int | None, dtype: torch.dtype, source: torch.Generator) -> Tensor:
        """The targets as training sees them: class indices become probabilities, others (``classes`` None) keep their shape."""
        x = target.to(dtype) if classes is None else nn.functional.one_hot(target.long(), classes).to(dtype)
        disturbed: Tensor = self.apply(x, self.size, source)
        return disturbed

    def uncompiled(self, classes: bool) -> str:
        """Why the compiled kernel cannot draw this noise, so that torch has to; empty where it can. ``classes`` says whether the
        kernel itself smooths and mixes class indices.
        """
        return f"labels are disturbed by {self.name}" if classes and (self.acts == "labels" or self.mixes) else ""

    def on(self, where: Any = weights, schedule: Schedule | None = None) -> Placed:
        """Bind to places: of noise on weights a selector of parameters, as of a penalty (``wp.weights`` by default).

        Else modules: a glob, a module type, a predicate ``(name, module)``, or a list of these. Of the modules that a glob
        matches, those inside another one of them are left out: ``"layers.*"`` is each layer, not what is in it.

        Args:
            schedule: the factor of the size at a training forward, 0 for the first.
        """
        if self.acts not in PLACED:
            raise InputError(f"{self} acts on {self.acts}, not at a place of the model. Write Recipe(noise=[{self}]).")
        if schedule is not None and not callable(schedule):
            raise InputError(f"A schedule is a function of the step, such as lambda step: 0.5; {schedule!r} is none.")
        return Placed(
            self, selector(where) if self.acts == "weights" and not isinstance(where, str) else where, schedule
        )

    @property
    def called(self) -> list[str]:
        """The names of this noise's settings that are not off; its own name where it has none."""
        return [key.name for key in self.keys if key.title and getattr(self, key.field)] or [self.name]

    @property
    def stream(self) -> str:
        return self.site or self.name

    @property
    def name(self) -> str:
        """The name in recipes, such as ``dropout`` or ``drop_connect``."""
        return snake_case(type(self).__name__)

    @staticmethod
    def known_as(name: str) -> Callable[[K], K]:
        """Declare a kind of your own, as a decorator: recipes know it by this name, as a key too, and a search tries it where
        it is ``searched``.

        Raises:
            InputError: the name is taken by another kind, or the class is no dataclass.
        """

        def declare(kind: K) -> K:
            reserved = {key.name: ours for ours in keyed() for key in ours.keys} | {"places": Placed, "own": Noise}
            taken: type | None = (kinds() | reserved).get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (kind.__module__, kind.__qualname__):
                raise InputError(f"The name {name!r} of a noise is taken by {taken.__qualname__}. Take another one.")
            given: object = kind
            if not is_dataclass(given):
                raise InputError(f"A recipe can hold dataclasses only; add @dataclass(frozen=True) to {kind.__name__}.")
            THEIRS[name] = kind
            return kind

        return declare

    def __str__(self) -> str:
        values = ", ".join(f"{f.name}={setting_text(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({values})"


@dataclass(frozen=True)
class Placed:
    """Noise, bound to the modules or parameters that ``where`` selects."""

    noise: Noise
    where: object
    schedule: Schedule | None = None

    @staticmethod
    def refused(caller: str, given: object) -> InputError:
        """What is said where noise that is bound to a place is needed and something else is given, or is among it."""
        if isinstance(given, (list, tuple)):
            given = next((one for one in given if not isinstance(one, Placed)), None)
        if isinstance(given, Noise):
            return InputError(f"Noise is bound to a place with .on(...); {given} is not. Write {given}.on(...).")
        return InputError(
            f'{caller} needs noise at a place, such as wp.Dropout(0.1).on("encoder.*"), or a list of such; it was given '
            f"{described(given)}."
        )

    def __str__(self) -> str:
        return f"{self.noise} on {self.where}"

    def size(self, base: float, step: int) -> float:
        if self.schedule is None:
            return base
        size = base * float(self.schedule(step))
        self.noise.check_size(size)
        return size


Kind = type[Noise]
THEIRS: dict[str, Kind] = {}
"""Kinds that are not ours, by the name that recipes write."""


def kinds() -> dict[str, Kind]:
    """Every kind of noise by its name in recipes: ours, and then those of others that are known."""
    return classes_in("wellposed.noise", Noise) | THEIRS  # type: ignore[type-abstract]


def keyed() -> list[Kind]:
    return sorted((kind for kind in kinds().values() if kind.keys), key=lambda kind: kind.order)


def noise_name(kind: Kind) -> str:
    """The name that a recipe writes: the known one, else ``module:Class``, by which the kind is known from now on."""
    for name, known in kinds().items():
        if known is kind:
            return name
    name = f"{kind.__module__}:{kind.__qualname__}"
    Noise.known_as(name)(kind)
    return name
