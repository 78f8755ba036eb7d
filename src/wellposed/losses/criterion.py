"""What every loss of ours declares in one place: its formula, its targets, its best constant, and where it runs.

A loss is a frozen dataclass with at most one parameter, a number or several. It is found by introspection;
``"huber:0.5"``, ``wp.Huber(0.5)`` and ``str(wp.Huber(0.5))`` are the same loss, so that files keep it as text.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from wellposed.core.errors import InputError, did_you_mean, listed
from wellposed.ops.norms import at_least_float32

T = TypeVar("T")

AVERAGED = 8
"""Added to the number of a loss in ``kernel.c``: a mean over outputs in place of their sum."""


@dataclass(frozen=True)
class Criterion(ABC):
    """What one example costs, by outputs and target."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    classifies: ClassVar[bool] = False
    """Whether class scores are compared with labels."""
    numeric: ClassVar[bool] = False
    """Whether outputs are predictions of the target itself, number by number."""
    affine: ClassVar[bool] = True
    """Whether the target may be shifted and scaled before training, as columns of a table are."""
    convex: ClassVar[bool] = True
    """Whether the loss is convex in the outputs."""
    softens: ClassVar[bool] = False
    """Whether targets may be probabilities of classes, so that labels can be smoothed."""
    averages: ClassVar[type[Criterion] | None] = None
    """The loss whose sum over outputs this one divides by their number."""
    kernel: ClassVar[int | None] = None
    """The loss's number in the compiled population's ``kernel.c``; None: torch computes it."""

    @abstractmethod
    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """A value for each example, token or number that counts as one in the mean, and which count (None: all).

        Raises:
            TargetError, ValueError: the targets are outside the loss's domain, or shapes differ.
        """

    @abstractmethod
    def check(self, target: Tensor, classes: int | None = None) -> None:
        """Refuse targets outside the domain, before anything is counted or built of them; ``classes`` is the number of outputs,
        where targets are class indices and it is known.

        Raises:
            TargetError: what was found, what is needed, what to do.
        """

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The outputs, alike for every row, that cost least on training targets ``(n, ...)``; None where not known."""
        return None

    def response(self, outputs: Tensor) -> Tensor:
        """The prediction in the target's own terms, which metrics compare with it; the outputs themselves by default."""
        return outputs

    def outputs_for(self, targets: int) -> int:
        """How many outputs a model needs for so many numbers, or classes, to predict."""
        return targets

    def compiled(self) -> int | None:
        """`kernel` where it computes this parameter."""
        return self.kernel

    def __str__(self) -> str:
        return to_spec(self.name, self)


def to_spec(name: str, value: Any) -> str:
    """``name``, or ``name:0.5`` where the one parameter is not its default."""
    given = [number for field in fields(value) if (number := getattr(value, field.name)) != field.default]
    return ":".join([name, *(",".join(f"{part:g}" for part in _numbers(number)) for number in given)])


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def from_spec(kind: str, text: str, choices: dict[str, type[T]]) -> T:
    """The loss or metric, of ``choices``, that a text such as ``"huber"`` or ``"huber:0.5"`` names; ``kind`` is its word in
    messages.
    """
    name, colon, number = text.partition(":")
    if name not in choices:
        raise InputError(f"There is no {kind} {text!r}.{did_you_mean(name, choices)} Known: {listed(choices, 40)}.")
    cls: Any = choices[name]
    if not colon:
        return cls()  # type: ignore[no-any-return]
    parameters = fields(cls)
    if not parameters:
        raise InputError(f"The {kind} {name!r} takes no number; it was given {text!r}. Write {name!r}.")
    default = parameters[0].default
    try:
        values = tuple(float(part) for part in number.split(",")) if isinstance(default, tuple) else (float(number),)
        if not all(map(math.isfinite, values)):
            raise ValueError
    except ValueError:
        usual = ",".join(f"{part:g}" for part in _numbers(default))
        raise InputError(
            f"The {kind} {text!r} needs a number after the colon, its {parameters[0].name}, such as {name}:{usual}."
        ) from None
    if isinstance(default, tuple):
        return cls(values)  # type: ignore[no-any-return]
    value = values[0]
    return cls(int(value) if isinstance(default, int) and value == int(value) else value)  # type: ignore[no-any-return]


def over_outputs(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def match_shapes(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one shape: ``(n, 1)`` goes with ``(n,)``; anything else that differs is refused."""
    if outputs.shape != target.shape:
        if outputs.ndim == target.ndim + 1 and outputs.shape[-1] == 1:
            outputs = outputs.squeeze(-1)
        elif target.ndim == outputs.ndim + 1 and target.shape[-1] == 1:
            target = target.squeeze(-1)
    if outputs.shape != target.shape:
        raise ValueError(f"shapes {tuple(outputs.shape)} and {tuple(target.shape)} differ")
    outputs = at_least_single(outputs)
    return outputs, target.to(outputs.dtype)


def at_least_single(outputs: Tensor) -> Tensor:
    """At least single precision: in half precision the differences of a loss would be lost."""
    return at_least_float32(outputs) if outputs.is_floating_point() else outputs.to(torch.get_default_dtype())
