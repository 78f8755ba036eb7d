"""`select`: which inputs a problem needs, read from the path of strengths; and a network whose inputs can leave one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.core.checks import Count, Positive, Seed, Within, checked
from wellposed.core.errors import InputError, listed
from wellposed.core.selectors import inputs as all_inputs
from wellposed.data.data import Prepared
from wellposed.sparsity.path import Path, strength_path, trainer_of
from wellposed.sparsity.resampled import first_parts, frequencies, null_strength
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
        frequency: of every input, in how many halves of the rows it enters early; None where no halves were drawn.
        how: what decided, in words.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    importance: dict[str, float]
    path: Path = field(repr=False)
    asked: int | None = None
    frequency: dict[str, float] | None = None
    how: str = ""

    @property
    def mask(self) -> Tensor:
        """Which inputs are chosen: ``(inputs,)`` booleans."""
        chosen = torch.zeros(len(self.path.names), dtype=torch.bool)
        chosen[list(self.numbers)] = True
        return chosen

    def __str__(self) -> str:
        of = f"{len(self.names)} of {len(self.path.names)} {self.path.noun}"
        lines = [f"{of}, by the {self.how}: {listed(self.names, 30) or 'none'}."]
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
    by: Literal["validation", "stability", "null"] = "validation",
    most_false: Positive = 1.0,
    threshold: Annotated[float, Within(0.5, 1, open="low")] = 0.75,
    pairs: Count = 50,
    level: Annotated[float, Within(0, 1, open="both")] = 0.05,
    draws: Count = 199,
    tolerance: Positive = 1e-6,
    steps: Count = 1000,
    seed: Seed = 0,
) -> Selection:
    """The ``k`` inputs that enter the path first, or those of its strongest model within one standard error of the best.

    The columns of a table that are encoded as several features enter and leave together.

    Args:
        problem: any model.
        k: >= 1, how many; None lets ``by`` decide.
        by: ``"validation"``, the strongest model within one standard error of the best. ``"stability"`` keeps what enters early
            on most halves of the rows, such that on average at most ``most_false`` inputs are kept in vain:
            ``E[false] <= q^2 / ((2 threshold - 1) p)``, where each half chooses the first q of p inputs. This holds for inputs that
            a half chooses with a probability of at most ``q/p``. ``"null"`` takes the strength that empties the selection
            with probability ``1 - level`` where targets are in random order. The last two look at all rows but the test rows.
        most_false, threshold, pairs: > 0; in (0.5, 1], the share of halves; >= 1 pairs of halves.
        level, draws: in (0, 1); >= 1 random orders of the targets.
        penalty, on, points, ratio, folds, tolerance, steps, seed: see `strength_path`.
    Raises:
        InputError: there are fewer than ``k``, or no choice can satisfy the bound; and what `strength_path` raises.
        DataError: halves of rows that have ``time=``.
    Source:
        Shah & Samworth (2013), JRSS-B 75(1), theorem 1; Giacobino et al. (2017), Electronic J. Statistics 11(2).
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        >>> problem = wp.Problem(lambda: torch.nn.Linear(4, 1), "squared_error", (x, 2 * x[:, :1] + x[:, 2:3]))
        >>> wp.select(problem, k=2, points=8).names
        ('x0', 'x2')
    """
    given: dict[str, Any] = {"penalty": penalty, "on": on, "tolerance": tolerance, "steps": steps, "seed": seed}
    if by == "null" and k is None:
        _, trainer, support = trainer_of(problem, terms=(), **given)
        limit = null_strength(trainer, support, level, draws, seed)
        path = strength_path(
            problem, strengths=np.geomspace(limit / ratio**0.5, limit, points).tolist(), folds=folds, **given
        )
    else:
        path = strength_path(problem, points=points, ratio=ratio, folds=folds, **given)
    if k is not None and k > len(path.names):
        raise InputError(f"select was asked for k={k}, and there are {len(path.names)} {path.noun}. Give a smaller k.")
    ranking = path.ranking()
    often = None
    if k is not None:
        chosen, how = ranking[:k], "order in which they enter"
    elif by == "stability":
        _, trainer, support = trainer_of(problem, terms=(), **given)
        first = first_parts(len(path.names), most_false, threshold)
        shares = np.geomspace(1.0, ratio, points).tolist()
        often = frequencies(trainer, support, first, pairs, seed, shares)
        chosen = sorted(np.flatnonzero(often >= threshold).tolist(), key=lambda i: -often[i])
        bound = first**2 / ((2.0 * threshold - 1.0) * len(path.names))
        how = (
            f"halves of the rows: each is among the first {first} in at least {100 * threshold:g} % of {2 * pairs} halves, and on "
            f"average at most {bound:.2g} are kept in vain"
        )
    else:
        point, how = path.one_se, "strongest model within one standard error of the best"
        if by == "null":
            point = path.points[-1]
            how = f"strength {point.strength:.4g}, which targets in random order exceed in at most {100 * level:g} % of all cases"
        left = set(point.support)
        chosen = [i for i in ranking if i in left]
    frequency = None if often is None else dict(zip(path.names, often.tolist(), strict=True))
    names = tuple(path.names[i] for i in chosen)
    return Selection(names, tuple(chosen), path.entered, path, k, frequency, how)
