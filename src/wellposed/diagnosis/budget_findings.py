"""What an error budget names: the largest term that is clearly above zero, with the change of the recipe that answers it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from wellposed.diagnosis.advice import MOST_CHANGES, advised, said
from wellposed.diagnosis.finding import Change, Finding
from wellposed.recipe.recipe import Recipe

if TYPE_CHECKING:
    from wellposed.diagnosis.budget import ErrorBudget, Part

MOSTLY = 0.8
"""A change is the remedy where it makes good so much of what the optimizer left: the smallest such change is named."""
RATE_FACTOR = 3
"""A rival's rate that differs by less than this from the recipe's is the same to within what a search would tell."""


def _evidence(part: Part, budget: ErrorBudget) -> dict[str, Any]:
    share = part.estimate / budget.valid.estimate if budget.valid.estimate > 0 else math.nan
    return {"estimate": part.estimate, "low": part.low, "high": part.high, "share": share}


def finding_of(budget: ErrorBudget, part: Part) -> Finding:
    """The finding that a part names, by its own function."""
    made = {
        "floor": _of_floor, "capacity": _of_capacity, "charged": _of_charges, "regularization": _of_charges,
        "optimization": _of_optimization, "stopping": _of_stopping, "gap": _of_gap,
    }[part.name]  # fmt: skip
    return made(budget, part)


def _named(
    budget: ErrorBudget,
    part: Part,
    name: str,
    axis: str,
    pulls: str,
    lever: str,
    says: str,
    measured: Recipe | None = None,
) -> Finding:
    """A finding; its confidence grows with how far the interval is from zero, in units of its half width.

    Args:
        measured: the recipe that was seen to do better; it is proposed first.
    """
    first = () if measured is None else (Change(said(budget.recipe, measured), measured),)
    others = [change for change in advised(name, budget.recipe, budget.room) if change.recipe != measured]
    half = (part.high - part.low) / 2
    sure = 1.0 if half <= 0 else 1 - math.exp(-part.low / half)
    return Finding(
        name,
        budget.level * (0.5 + 0.5 * sure),
        _evidence(part, budget),
        lever,
        says,
        axis=axis,
        pulls=pulls,
        changes=(*first, *others)[:MOST_CHANGES],
    )


def _share(budget: ErrorBudget, part: Part) -> str:
    return f"{part.estimate:.3g} of the validation loss of {budget.valid.estimate:.3g}"


def _of_floor(budget: ErrorBudget, part: Part) -> Finding:
    return _named(
        budget, part, "underfits", "optimization", "capacity",
        "a still larger network, better inputs, or cleaner labels: no regularizer and no optimizer gets below this floor",
        f"{_share(budget, part)} is the floor: no network that was trained, the larger one included, fits its rows better. "
        "More capacity or noise in the data.",
    )  # fmt: skip


def _of_capacity(budget: ErrorBudget, part: Part) -> Finding:
    return _named(
        budget, part, "underfits", "optimization", "capacity", "a larger network",
        f"{_share(budget, part)} is for want of capacity: a larger network fits the training rows so much better.",
        budget.recipe.replace(model=dict(budget.larger)) if budget.larger else None,
    )  # fmt: skip


def _of_charges(budget: ErrorBudget, part: Part) -> Finding:
    if not budget.objective.regularized:  # nothing is charged: what is left above the floor is the network's
        return _of_capacity(budget, part)
    return _named(
        budget, part, "over_regularized", "regularization", "regularizer", "weaker terms and less noise",
        f"{_share(budget, part)} is the price of the recipe's own terms and noise: the best weights under them fit so much worse.",
    )  # fmt: skip


def _of_optimization(budget: ErrorBudget, part: Part) -> Finding:
    rival = next((one.rival for one in budget.levels if one.rival is not None), None)
    name, pulls, lever = _fault(budget)
    gain = budget.helps or budget.valid_gain
    where = (
        "where the same cost is minimized better" if gain is budget.valid_gain
        else "on the way to where the same cost is minimized better; going all the way would overfit"
    )  # fmt: skip
    return _named(
        budget, part, name, "optimization", pulls, lever,
        f"{_share(budget, part)} is left by the optimizer, and validation improves by {gain.estimate:.3g} {where}.",
        None if rival is None else _trained_like(budget.recipe, rival),
    )  # fmt: skip


def _trained_like(recipe: Recipe, rival: Recipe) -> Recipe:
    """The recipe with the rival's optimizer, schedule and length."""
    names = ("optimizer", "schedule", "epochs")
    return Recipe(**{**recipe.model_dump(), **{name: rival.model_dump()[name] for name in names}})


def _fault(budget: ErrorBudget) -> tuple[str, str, str]:
    """The name of an optimizer's fault, the lever, and the advice: by the smallest change that makes good most of what was left:
    longer, then another rate, then another optimizer."""
    if _median([one.closes(one.patient) for one in budget.levels]) >= MOSTLY:
        return "undertrained", "schedule", "longer training with a rate that comes down"
    kin = [one for one in budget.levels if one.kin is not None and one.closes(one.kin_loss) >= MOSTLY]
    rates = [one.kin.optimizer.lr for one in kin if one.kin is not None]
    ratio = _median(rates) / budget.recipe.optimizer.lr
    if ratio >= RATE_FACTOR:
        return "rate_too_low", "optimizer", f"a learning rate of about {_median(rates):.2g}"
    if ratio <= 1 / RATE_FACTOR:
        return "rate_too_high", "optimizer", f"a learning rate of about {_median(rates):.2g}"
    return "slow", "optimizer", "another optimizer, an annealed schedule, longer training"


def _median(values: list[float]) -> float:
    """Of those that are known; NaN, which compares as false, where none is."""
    found = sorted(value for value in values if math.isfinite(value))
    return found[len(found) // 2] if found else math.nan


def _of_stopping(budget: ErrorBudget, part: Part) -> Finding:
    if budget.longer_harms:
        return _named(
            budget, part, "overfits", "regularization", "regularizer",
            "a regularizer, so that training can go on without harm",
            f"{_share(budget, part)} is given up by stopping early, and rightly: going on raises the validation loss by "
            f"{budget.going_on.estimate:.3g}. Stopping is the regularizer here.",
        )  # fmt: skip
    return _named(
        budget, part, "undertrained", "optimization", "schedule", "longer training, or an annealed rate",
        f"{_share(budget, part)} is given up by the choice of an early epoch, and validation improves by "
        f"{-budget.going_on.estimate:.3g} where training goes on.",
    )  # fmt: skip


def _of_gap(budget: ErrorBudget, part: Part) -> Finding:
    return _named(
        budget, part, "overfits", "regularization", "regularizer", "a stronger regularizer, or more data",
        f"{_share(budget, part)} is the generalization gap between training and validation rows.",
    )  # fmt: skip


def nothing_found(budget: ErrorBudget) -> Finding:
    """What is said where nothing can be named."""
    if len(budget.seeds) < 2:
        return Finding(
            "not_enough_evidence", 0.9, {"seeds": len(budget.seeds)}, "at least 2 seeds, better 3",
            "With one seed the terms have no interval.", axis="evidence", pulls="data",
        )  # fmt: skip
    left = budget["optimization"]
    if left.low > 0:
        return Finding(
            "noisy_evidence", 0.7, _evidence(left, budget), "better optimization together with a regularizer, or more seeds",
            f"The optimizer leaves {_share(budget, left)}, but validation is not shown to improve where it is made good.",
            axis="evidence", pulls="data",
        )  # fmt: skip
    return Finding(
        "noisy_evidence", 0.7, {"seeds": len(budget.seeds)}, "more seeds or validation rows",
        "No term is clearly above zero.", axis="evidence", pulls="data",
    )  # fmt: skip
