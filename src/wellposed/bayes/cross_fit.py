"""`cross_fit`: networks by folds, so that each row has a prediction by networks that have not seen it, and an honest spread.

    networks     every recipe on every fold and every scale of the target, for the squared error alone, in one population a fold
    selection    weights of the recipes, greedily, by the squared error of the rows held out
    neighbours   what residuals of rows nearby say, where that lowers the error of rows left out
    spread       how far targets are from all that, learned of the same residuals

Every choice is made on rows held out, and no row is lost to validation: all of them are held out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wellposed.bayes.nearby import Nearby
from wellposed.bayes.predictive import PredictiveNumbers
from wellposed.bayes.spread import Spread
from wellposed.core.checks import Count, Seed, Within, checked
from wellposed.core.errors import DataError, InputError
from wellposed.core.random import generator
from wellposed.data.arrays import doubles, real_numbers
from wellposed.data.data import Data
from wellposed.parallel.executors import fit_many
from wellposed.recipe.recipe import Recipe
from wellposed.training.evaluate import evaluating
from wellposed.training.problem import Problem

PICKS = 30
"""Steps of the greedy selection; each adds one recipe to the mean, again or anew."""
SMALLEST = 1e-12
"""Below this variance members agree to the last digit."""


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """What `cross_fit` gives.

    Attributes:
        weights: of each member, a recipe on a scale of the target; they sum to 1.
        members: ``"recipe 0"`` and ``"recipe 0, log"``, say.
        held_out: the predictive distribution of the training rows, each by networks that have not seen it.
        nearby, spread: see `wellposed.bayes.nearby` and `wellposed.bayes.spread`.
    """

    weights: tuple[float, ...]
    members: tuple[str, ...]
    held_out: PredictiveNumbers = field(repr=False)
    nearby: Nearby = field(repr=False)
    spread: Spread = field(repr=False)
    _folds: tuple[tuple[Member, ...], ...] = field(repr=False)
    _near: Standardized = field(repr=False)

    @checked
    def predict(self, X: Any) -> PredictiveNumbers:
        """The mixture of Gaussians for new rows, in the units of the target; its mean is that of all folds' networks.

        Args:
            X: ``(rows, features)`` as the networks were trained on.
        """
        x = real_numbers(X, "X", "Give an array of numbers.").cpu().float()
        weights = torch.tensor(self.weights, dtype=torch.float64)
        parts = [_combined(torch.stack([m(x) for m in members]), weights) for members in self._folds]
        mean, apart = (torch.stack(part).mean(0) for part in zip(*parts, strict=True))
        correction = self.nearby(self._near(x))
        return _predictive(mean, _features(mean, apart, self._near(x), correction), correction, self.spread)


@checked
def cross_fit(
    model: Callable[..., nn.Module],
    X: Any,
    y: Any,
    recipes: Sequence[Recipe] | Recipe,
    *,
    folds: Annotated[int, Within(2)] = 10,
    seeds: Sequence[Seed] = (0,),
    seed: Seed = 0,
    near: Count | None = None,
) -> CrossFitted:
    """Networks by ``folds`` parts of the rows, weighed by errors on the parts left out, and a spread learned of these errors.

    Where all targets are above 0 every recipe is also trained on their logarithm.

    Args:
        model: ``make_net(**settings)``, one output.
        X, y: ``(rows, features)`` numbers near 1, and ``(rows,)`` targets.
        recipes: of the networks, the members; their weights are chosen, so that a bad one costs seconds only. Let the last weights
            be kept (``stopping={"patience": 0, "keep": "last"}``): the folds are not there to stop a training.
        seeds: of each recipe; their mean is the member.
        seed: of the folds.
        near: how many of X's first columns say which rows are near each other; by default all of them.
    Raises:
        DataError: fewer than 10 rows, or X and y that are no finite numbers of as many rows.
        InputError: no recipe, no seed, or more folds than rows.
    Source:
        Stacking: Wolpert (1992), Neural Networks 5; the greedy choice: Caruana et al. (2004), ICML; residuals and a Gaussian
        process: Qiu, Meyerson & Miikkulainen (2020), ICLR.
    Example:
        >>> import torch, wellposed as wp
        >>> X = torch.rand(200, 1)
        >>> recipe = wp.Recipe(epochs=5, stopping={"patience": 0, "keep": "last"})
        >>> found = wp.cross_fit(lambda: torch.nn.Linear(1, 1), X, 2 * X[:, 0] + 0.1 * torch.randn(200), recipe, folds=2)
        >>> found.predict(X[:3]).mean.shape, found.members
        (torch.Size([3]), ('recipe 0',))
    """
    x = real_numbers(X, "X", "Give an array of numbers.").cpu().float()
    target = doubles(y, "y").squeeze()
    finite = bool(x.isfinite().all() and target.isfinite().all())
    if x.ndim != 2 or target.shape != x.shape[:1] or len(x) < 10 or not finite:
        raise DataError(
            f"wp.cross_fit needs 10 rows or more of finite numbers, X of shape (rows, features) and y of shape (rows,); they have "
            f"{tuple(x.shape)} and {tuple(target.shape)}."
        )
    several = [recipes] if isinstance(recipes, Recipe) else list(recipes)
    if not several or not seeds or folds > len(x):
        raise InputError(
            f"wp.cross_fit needs a recipe, a seed and no more folds than rows; it was given {len(several)} recipes, {len(seeds)} "
            f"seeds and {folds} folds of {len(x)} rows."
        )
    logs = (False, True) if bool((target > 0).all()) else (False,)
    fold = torch.randperm(len(x), generator=generator(seed, "folds")) % folds
    trained, outputs = [], target.new_zeros(len(logs) * len(several), len(x))
    for number in range(folds):
        inside = fold != number
        members = [m for log in logs for m in _members(model, x[inside], target[inside], several, seeds, log)]
        outputs[:, ~inside] = torch.stack([member(x[~inside]) for member in members])
        trained.append(tuple(members))
    weights = _greedy(outputs, target)
    mean, apart = _combined(outputs, weights)
    standard = Standardized.of(x[:, :near])
    nearby = Nearby.fit(standard(x), target - mean, seed)
    correction = nearby()
    features = _features(mean, apart, standard(x), correction)
    spread = Spread.fit(features, target - mean - correction[0], seed)
    held_out = _predictive(mean, features, correction, spread)
    names = tuple(f"recipe {i}{', log' if log else ''}" for log in logs for i in range(len(several)))
    return CrossFitted(tuple(weights.tolist()), names, held_out, nearby, spread, tuple(trained), standard)


@dataclass(frozen=True, eq=False)
class Member:
    """The seeds of one recipe, whose mean is the prediction in the units of the target."""

    models: tuple[nn.Module, ...]
    shift: float
    scale: float
    log: bool

    def __call__(self, x: Tensor) -> Tensor:
        parts = []
        for model in self.models:
            with evaluating(model):
                parts.append(model(x).squeeze(1).double())
        found = torch.stack(parts).mean(0) * self.scale + self.shift
        return found.exp() if self.log else found


@dataclass(frozen=True)
class Standardized:
    """The first columns of inputs with mean 0 and deviation 1 on the training rows."""

    shift: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Standardized:
        scale = x.double().std(0, correction=0)
        return cls(x.double().mean(0), torch.where(scale > 0, scale, 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        return (x[:, : len(self.shift)].double() - self.shift) / self.scale


def _members(
    model: Callable[..., nn.Module], x: Tensor, y: Tensor, recipes: Sequence[Recipe], seeds: Sequence[int], log: bool
) -> list[Member]:
    y = y.log() if log else y
    shift, scale = float(y.mean()), float(y.std()) or 1.0
    z = ((y - shift) / scale).float()[:, None]
    problem = Problem(model, "squared_error", Data(train=(x, z), valid=(x[:1], z[:1])))
    models = tuple(run.model for run in fit_many(problem, recipes, seeds=seeds, device="cpu", probe_rows=1))
    starts = range(0, len(models), len(seeds))
    return [Member(models[start : start + len(seeds)], shift, scale, log) for start in starts]


def _greedy(outputs: Tensor, target: Tensor) -> Tensor:
    """Weights of members: the one that helps the mean most is added, `PICKS` times."""
    counts, total = torch.zeros(len(outputs), dtype=torch.float64), torch.zeros_like(target)
    for pick in range(1, PICKS + 1):
        errors = ((total + outputs) / pick - target).square().mean(1)
        best = int(errors.argmin())
        counts[best] += 1
        total = total + outputs[best]
    return counts / PICKS


def _combined(outputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of members, and the logarithm of their spread: all of them, since one alone may have all the weight."""
    return weights @ outputs, outputs.var(0, correction=0).clamp_min(SMALLEST).log() / 2


def _features(mean: Tensor, apart: Tensor, x: Tensor, correction: tuple[Tensor, Tensor]) -> Tensor:
    """What a spread may depend on."""
    return torch.cat([torch.stack([mean, apart, correction[0].abs(), correction[1].log()], 1), x], 1)


def _predictive(mean: Tensor, features: Tensor, correction: tuple[Tensor, Tensor], spread: Spread) -> PredictiveNumbers:
    stds = spread.components(features)
    return PredictiveNumbers((mean + correction[0]).expand_as(stds)[..., None], stds[..., None])
