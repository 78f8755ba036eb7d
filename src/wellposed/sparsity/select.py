"""`select`: which inputs a problem needs, read from the path of strengths; and a network whose inputs can leave one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wellposed.core.checks import Count, Positive, Seed, Within, checked
from wellposed.core.errors import InputError, listed
from wellposed.core.selectors import inputs as all_inputs
from wellposed.data.data import Prepared
from wellposed.penalties.base import Penalty
from wellposed.penalties.hierarchical import Hierarchical
from wellposed.sparsity.path import Path, strength_path
from wellposed.training.problem import Problem


class SkipNet(nn.Module):
    """``skip(x) + layers(x)``: a linear part and one hidden layer, as `Hierarchical` binds them; without units a linear model.

    Args:
        inputs, outputs: >= 1. ``hidden``: >= 0, units.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.skip = nn.Linear(inputs, outputs)
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs) -> (n, outputs)``."""
        scores: Tensor = self.skip(x) + self.layers(x)
        return scores


@dataclass(frozen=True)
class LinearOrSkip:
    """Factory of a linear model, or of a `SkipNet` where there are hidden units."""

    hidden: int = 0

    def __call__(self, data: Prepared) -> nn.Module:
        """A model with as many inputs and outputs as the data need."""
        sizes = data.features, data.outputs
        return SkipNet(*sizes, self.hidden) if self.hidden else nn.Linear(*sizes)


@dataclass(frozen=True)
class Selection:
    """The inputs that `select` chose.

    Attributes:
        names, numbers: of the chosen ones, the most important first; numbers count from 0 in the order of ``path.names``.
        importance: of every input: the strength up to which it is in the model.
        path: what it was read from.
        asked: how many were asked for; None where the path decided.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    importance: dict[str, float]
    path: Path = field(repr=False)
    asked: int | None = None

    @property
    def mask(self) -> Tensor:
        """Which inputs are chosen: ``(inputs,)`` booleans."""
        chosen = torch.zeros(len(self.path.names), dtype=torch.bool)
        chosen[list(self.numbers)] = True
        return chosen

    def __str__(self) -> str:
        of = f"{len(self.names)} of {len(self.path.names)} {self.path.noun}"
        cause = (
            "strongest model within one standard error of the best"
            if self.asked is None
            else "order in which they enter"
        )
        lines = [f"{of}, by the {cause}: {listed(self.names, 30) or 'none'}."]
        late = [name for name in self.names if not self.importance[name]]
        if late:
            lines.append(
                f"{len(late)} of them never enter on this path and stand in the order of the columns: {listed(late)}. "
                "Give a smaller ratio=."
            )
        return "\n".join([*lines, *self.path.sentences()])


@checked
def select(
    problem: Problem,
    k: Count | None = None,
    *,
    penalty: Any = "group",
    on: Any = all_inputs,
    points: Annotated[int, Within(2)] = 50,
    ratio: Annotated[float, Within(0, 1, open="both")] = 1e-3,
    folds: Annotated[int, Within(2)] | None = None,
    tolerance: Positive = 1e-6,
    steps: Count = 1000,
    seed: Seed = 0,
) -> Selection:
    """The ``k`` inputs that enter the path first, or those of its strongest model within one standard error of the best.

    The columns of a table that are encoded as several features enter and leave together.

    Args:
        problem: any model.
        k: >= 1, how many; None lets the validation loss decide.
        penalty, on, points, ratio, folds, tolerance, steps, seed: see `strength_path`.
    Raises:
        InputError: there are fewer than ``k``; and what `strength_path` raises.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        >>> problem = wp.Problem(lambda: torch.nn.Linear(4, 1), "squared_error", (x, 2 * x[:, :1] + x[:, 2:3]))
        >>> wp.select(problem, k=2, points=8).names
        ('x0', 'x2')
    """
    path = strength_path(
        problem, penalty, on, points=points, ratio=ratio, folds=folds, tolerance=tolerance, steps=steps, seed=seed
    )
    if k is not None and k > len(path.names):
        raise InputError(f"select was asked for k={k}, and there are {len(path.names)} {path.noun}. Give a smaller k.")
    ranking = path.ranking()
    numbers = ranking[:k] if k is not None else [i for i in ranking if i in set(path.one_se.support)]
    return Selection(tuple(path.names[i] for i in numbers), tuple(numbers), path.entered, path, k)


def default_penalty(hidden: int, hierarchy: float = 10.0) -> Penalty | Hierarchical | str:
    """Whole inputs: a group lasso of a linear model, LassoNet's hierarchy of a `SkipNet`."""
    return Hierarchical(1.0, hierarchy) if hidden else "group"
