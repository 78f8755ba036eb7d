"""Other ways to train: better optimization of the same cost, the same network without regularization, a larger one.

Each is a recipe; a probe trains them and keeps what is lowest. See `wellposed.decomposition.error_budget`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from wellposed.core.errors import ProblemError
from wellposed.noise.activations import dropouts
from wellposed.noise.noise import Where
from wellposed.optim.audit import COUPLED
from wellposed.optim.optimizer_metrics import is_adaptive
from wellposed.optim.regularize import regularize
from wellposed.recipe.noise_section import NoiseSpec
from wellposed.recipe.recipe import Recipe
from wellposed.training.problem import Problem

ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""A decade and a half around Adam's usual rate: one of them is within a factor of 2 of the best for most networks."""
SGD_RATES = (0.03,)
"""With Nesterov's momentum .9; where the Adam family is badly conditioned, this is another road."""
OWN_FACTORS = (1 / 3, 1.0, 3.0)
"""The recipe's own optimizer, around its own rate."""
FEWEST_STEPS = 1000
"""Steps below which an annealed optimizer has not come to rest on any problem."""
LONGER = 2
"""Times the epochs that the recipe took: enough to see whether going on lowers the cost."""
WIDER = 4
"""Times the width of the larger network: beyond it the training loss of a network that can fit is at its floor."""
LARGE = 2_000_000
"""Parameters beyond which the larger network is no larger than that: the probe should cost about what a search costs."""
SUBLINEAR = 2 / 3
"""Power of the weights with which the time of a step grows: large products are done faster. Networks with 20 to 33 times the
weights took 1.6 to 10 times as long on one core."""
FEW_ADAM_RATES = (3e-3, 1e-2)
"""Where time is short: the middle of `ADAM_RATES`."""
WIDTHS = ("width", "hidden", "hidden_size", "hidden_dim", "units", "channels", "features", "filters", "d_model", "dim")
DEPTHS = ("depth", "layers", "n_layers", "num_layers", "blocks", "n_blocks")
"""Names of settings that make a network larger, where a problem declares no space for them."""


@dataclass(frozen=True)
class Objective:
    """The cost that a recipe minimizes.

    Attributes:
        recipe: with terms whose minimum is that of the written cost, whatever the optimizer; without what only smooths
            the way (averages, lookahead, noise on gradients).
        cost: the same with those terms only that have a cost.
        fixed: whether there is such a cost; decay under an adaptive optimizer has none.
        noisy: whether training draws noise that the cost is an expectation over.
        regularized: whether it is more than the data loss.
        notes: what was decided, a sentence each.
    """

    recipe: Recipe
    cost: Recipe
    fixed: bool = True
    noisy: bool = False
    regularized: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, problem: Problem, recipe: Recipe) -> Objective:
        """The objective of a recipe on a problem."""
        model = problem.build(recipe.model, 0)
        optimizer = recipe.optimizer.build(list(model.parameters()))
        terms, counted, fixed = [], [], True
        audit = {(row.term, row.how): row for row in regularize(optimizer, model, recipe.build_terms(1)).audit().rows}
        for spec, term in zip(recipe.terms, recipe.build_terms(1), strict=True):
            values = spec.model_dump()
            found = audit.get((str(term.charge), "decay")) if term.how == "decay" else None
            if found is not None and found.effective_strength is not None and not is_adaptive(optimizer):
                values |= {"how": "prox", "strength": found.effective_strength}
            elif term.how == "decay":
                fixed = False
            terms.append(values)
            if values["how"] == "prox" or term.how != "decay":
                counted.append(values)
        settings = dict(recipe.optimizer.settings)
        own = float(settings.get("weight_decay", 0.0) or 0.0)
        decoupled = any(group.get("decoupled_weight_decay", False) for group in optimizer.param_groups)
        decoupled = decoupled or isinstance(optimizer, torch.optim.AdamW) or not isinstance(optimizer, COUPLED)
        if own and not decoupled:  # an L2 in the loss
            settings.pop("weight_decay")
            terms.append({"penalty": "l2", "strength": own, "on": "*", "how": "prox"})
            counted.append(terms[-1])
        elif own:
            fixed = False
        noise = recipe.noise
        changed = recipe.model_dump() | {
            "terms": terms, "optimizer": {"name": recipe.optimizer.name, "lr": recipe.optimizer.lr, **settings},
            "averaging": {}, "lookahead": {}, "noise": noise.without("gradients"), "precision": "float32",
        }  # fmt: skip
        rates = [one.p for one in dropouts(model).values()] if noise.dropout is None else [noise.dropout]
        noisy = any(rates) or noise.drawn
        more = bool(terms or own or noisy or noise.acting("labels") or recipe.sharpness.radius)
        cost = Recipe(**{**changed, "terms": counted})
        notes = []
        if not fixed:
            notes.append(
                f"Decay under {recipe.optimizer.title} minimizes no fixed cost. Its best weights are the lowest training loss "
                "that was reached under the same decay, applied at least as long; there is no cost to fall short of."
            )
        if recipe.sharpness.radius:
            notes.append(
                "The sharpness-aware step is taken by the rivals too; what it adds to the cost is not counted in the cost."
            )
        if any(term.schedule != "constant" or term.warmup for term in recipe.terms):
            notes.append("A strength that follows a schedule is judged at its last value.")
        return cls(Recipe(**changed), cost, fixed, noisy, more, tuple(notes))


def rival_epochs(took: int, steps_per_epoch: int) -> int:
    """Epochs of a rival: so many times those that the recipe took, and enough steps to come to rest."""
    return max(LONGER * took, math.ceil(FEWEST_STEPS / max(1, steps_per_epoch)))


def relative_cost(problem: Problem, recipe: Recipe, settings: Mapping[str, Any] | None) -> float:
    """About how many times as long the network with other settings takes to train: by its weights, at least 1; 0 for none."""
    if settings is None:
        return 0.0
    more, now = (_parameters_of(problem, {**recipe.model, **extra}) for extra in (settings, {}))
    return float(max(1.0, more / max(1, now)) ** SUBLINEAR)


def rival_recipes(objective: Objective, epochs: int, few: bool = False) -> list[Recipe]:
    """Recipes that minimize the same cost by other rates, schedules and optimizers, longer; fewer of them where time is short.

    Where decay has no cost, only those that decay at least as long: a rate that is lower on average would fit before the
    decay is felt, and pass for better optimization.
    """
    own = objective.recipe.optimizer
    ways: list[dict[str, Any]] = [
        {"name": own.name, "lr": own.lr * factor, **own.settings}
        for factor in (OWN_FACTORS[1:] if few else OWN_FACTORS)
        if objective.fixed or factor >= 1
    ]
    adam = {} if objective.fixed else dict(own.settings)
    name = "adam" if objective.fixed else own.name
    rates = FEW_ADAM_RATES if few else ADAM_RATES
    ways += [{"name": name, "lr": rate, **adam} for rate in rates if objective.fixed or rate >= own.lr]
    if objective.fixed and not few:
        ways += [{"name": "sgd", "lr": rate, "momentum": 0.9, "nesterov": True} for rate in SGD_RATES]
    recipes = [long_training(objective.recipe, way, epochs) for way in ways]
    return [recipe for i, recipe in enumerate(recipes) if recipe not in recipes[:i]]


def long_training(recipe: Recipe, way: Mapping[str, Any], epochs: int) -> Recipe:
    """The recipe by another optimizer, annealed over so many epochs, with the weights of the last one."""
    annealed = {"epochs": epochs, "schedule": {"name": "cosine", "warmup": 0.05}}
    last = {"stopping": {"patience": 0, "keep": "last"}}
    return Recipe(**{**recipe.model_dump(), "optimizer": dict(way), **annealed, **last})


def unregularized_rivals(
    recipe: Recipe, epochs: int, settings: Mapping[str, Any] | None = None, few: bool = False
) -> list[Recipe]:
    """The data loss alone, by Adam at several rates; with other settings of the model where they are given."""
    silent = without_regularization(recipe.replace(model=dict(settings or {})))
    rates = FEW_ADAM_RATES if few else ADAM_RATES
    return [long_training(silent, {"name": "adam", "lr": rate}, epochs) for rate in rates]


def without_regularization(recipe: Recipe) -> Recipe:
    """The recipe without regularization: no terms, no noise, none of the model's own dropout, no decay of the optimizer."""
    decays = bool(recipe.optimizer.settings.get("weight_decay"))
    optimizer = recipe.optimizer.model_dump() | ({"weight_decay": 0.0} if decays else {})
    silent = {"noise": NoiseSpec().without(*get_args(Where)), "terms": [], "sharpness": {}, "optimizer": optimizer}
    return Recipe(**{**recipe.model_dump(), **silent})


def larger_model_settings(problem: Problem, recipe: Recipe) -> dict[str, Any] | None:
    """Settings of the model that make it larger, or None where none is known to.

    Settings of the problem's space take its largest value, or those that are a width or a depth by their name are
    multiplied: a width by `WIDER`, a depth by one layer more.
    """
    now = _settings(problem, recipe)
    before = _parameters_of(problem, {**recipe.model})
    for times in (WIDER, 2):
        found = {}
        for key, value in now.items():
            more = [times * value] if key in WIDTHS else [value + 1, 2] if key in DEPTHS else [value]
            found[key] = max([*more, *filter(_is_whole, problem.space.get(key, []))])
        found = {key: grown for key, grown in found.items() if grown != now[key]}
        if found and before < _parameters_of(problem, {**recipe.model, **found}) <= max(LARGE, 2 * before):
            return found
    return None


def _settings(problem: Problem, recipe: Recipe) -> dict[str, int]:
    """Whole numbers among the model's settings: what the recipe says, else the factory's default, else the space's middle."""
    found: dict[str, Any] = {}
    try:
        parameters = inspect.signature(problem.model).parameters
    except (TypeError, ValueError):
        parameters = inspect.Signature().parameters
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            found[name] = parameter.default
        elif name in problem.space:
            found[name] = problem.space[name][len(problem.space[name]) // 2]
    found |= recipe.model
    return {key: value for key, value in found.items() if _is_whole(value)}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parameters_of(problem: Problem, settings: Mapping[str, Any]) -> int:
    """How many weights the model has; 0 where these settings do not fit together."""
    try:
        return sum(p.numel() for p in problem.build(settings, 0).parameters())
    except ProblemError:
        return 0
