"""What a metric is: a score with what every row adds to it, so that two models can be compared row by row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from wellposed.core.errors import InputError
from wellposed.losses.criterion import to_spec
from wellposed.losses.targets import IGNORED

if TYPE_CHECKING:
    from wellposed.losses.per_example import Loss


@dataclass(frozen=True)
class Score(ABC):
    """A score of outputs on targets."""

    name: ClassVar[str]
    title: ClassVar[str] = ""
    """As people write it; by default the name with blanks."""
    classifies: ClassVar[bool] = False
    """Whether outputs are scores of classes; else they are numbers."""
    higher_is_better: ClassVar[bool] = True
    in_units: ClassVar[bool] = False
    """Whether the score changes when the target is shifted or scaled, so that it is taken in the target's own units."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", to_spec(type(self).name, self))

    def trained_with(self, loss: Loss) -> Score:
        """The metric of a model that is trained with this loss; refused where it cannot be read from such a model's outputs.

        Raises:
            InputError: it cannot be read from the outputs of such a model.
        """
        return self

    def read(self, loss: Loss, outputs: Tensor) -> Tensor:
        """What `rows` takes, from the outputs of a model that is trained with this loss: its predictions by default."""
        return loss.response(outputs)

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        """What `read` gave, of a target that is ``scale`` times as large, plus ``shift``; in double precision."""
        return outputs.double() * scale + shift

    @abstractmethod
    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(n,)``, float64: each example's part; the mean is the score. ``weight`` is ``(n,)``, >= 0; None: all count alike.

        Raises:
            InputError, ValueError: the metric is not defined on these targets, or they do not fit the outputs.
        """

    def rows_of_many(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(models, n)``: `rows` of several models' outputs ``(models, n, ...)`` on the same targets."""
        return torch.stack([self.at_once(one, target, weight) for one in outputs])

    def at_once(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """As `rows` where these cost no more than the score; else the score alone, for each example."""
        return self.rows(outputs, target, weight)

    def score(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> float:
        return float(self.rows(outputs, target, weight).mean())

    def undefined(self, target: Tensor, weight: Tensor | None = None) -> str:
        """Why the metric has no value on these targets, whatever the outputs; empty where it has one."""
        if not len(target):
            return f"{self.name} needs at least one row."
        if weight is not None and not bool(weight.sum() > 0):
            return f"{self.name} needs a row that counts; all weights are 0."
        if self.classifies and not target.is_floating_point() and bool((target == IGNORED).all()):
            return f"{self.name} needs a row that counts; all labels are {IGNORED}, which leaves them out."
        return ""

    def require(self, target: Tensor, weight: Tensor | None = None) -> None:
        if reason := self.undefined(target, weight):
            raise InputError(reason)
