"""What an error budget names: the largest term that is clearly above zero and whose lever, pulled, lowers the validation loss."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from wellposed.decomposition.budget_terms import MATTERS, BudgetTerm, BudgetTerms
from wellposed.decomposition.rivals import without_regularization
from wellposed.diagnosis.advice import MOST_CHANGES, changes_for, recipe_difference
from wellposed.diagnosis.finding import Change, Finding
from wellposed.recipe.recipe import Recipe

MOSTLY = 0.8
"""A change is the remedy where it makes good so much of what the optimizer left: the smallest such change is named."""
RATE_FACTOR = 3
"""A rival's rate that differs by less than this from the recipe's is the same to within what a search would tell."""


def _share(budget: BudgetTerms, part: BudgetTerm) -> str:
    return f"{part.estimate:.3g} of the validation loss of {budget.valid.estimate:.3g}"


def _evidence(part: BudgetTerm, budget: BudgetTerms) -> dict[str, Any]:
    share = part.estimate / budget.valid.estimate if budget.valid.estimate > 0 else math.nan
    return {"estimate": part.estimate, "low": part.low, "high": part.high, "share": share}


def to_try(budget: BudgetTerms) -> dict[str, tuple[Change, ...]]:
    """The changes that the findings of suspected parts would propose, by the findings' names: each is a claim to be tested.

    Optimization and a choice that was too early are not among them: w* and the last epoch have answered them.
    """
    names = {budget.name_of(part) for part in budget.suspects if part.name != "optimization"} - {"undertrained"}
    return {name: changes for name in sorted(names) if (changes := _changes(budget, name))}


def _changes(budget: BudgetTerms, name: str) -> tuple[Change, ...]:
    """Of a finding; of too much regularization also none at all, which reaches the dropout that a model has of itself."""
    recipe = budget.recipe
    if name == "underfits":
        return () if budget.larger is None else (_change(recipe, recipe.replace(model=dict(budget.larger))),)
    changes = changes_for(name, recipe, budget.room)
    if name != "over_regularized":
        return changes
    none = _change(recipe, without_regularization(recipe))
    return changes if none.recipe in [recipe, *(change.recipe for change in changes)] else (*changes, none)


def _change(recipe: Recipe, changed: Recipe) -> Change:
    return Change(recipe_difference(recipe, changed), changed)


def remarks(budget: BudgetTerms) -> tuple[str, ...]:
    """What was tried and did not help, and what helps only on the way to w*: a sentence each."""
    found = [_on_the_way(budget)] if budget.helps_on_the_way else []
    refuted = [part for part in budget.suspects if part.name != "optimization" and budget.refuted(part)]
    refuted.sort(key=lambda part: budget.name_of(part))
    for _, same in groupby(refuted, key=lambda part: budget.name_of(part)):
        parts = list(same)
        tried, answer = budget.tried(parts[0]), budget.answer(parts[0])
        assert answer is not None  # it was refuted
        words = " and ".join(SAYS[part.name] for part in parts)
        each = "the change that" if len(tried) == 1 else f"none of {len(tried)} changes that"
        wins = "pulls its lever does not clearly lower" if len(tried) == 1 else "pull its lever clearly lowers"
        found.append(
            f"Not named: {words} of {sum(part.estimate for part in parts):.3g}, since {each} {wins} the validation loss"
            f"{'' if len(tried) == 1 else ', the best'} ({answer.remedy.change.says}) by {_between(answer.gain)}."
        )
    return tuple(found)


SAYS = {
    "floor": "a floor",
    "capacity": "a want of capacity",
    "charged": "a price of terms and noise",
    "regularization": "a price of terms and noise",
    "stopping": "what stopping gives up",
    "gap": "a generalization gap",
}


def _between(gain: BudgetTerm) -> str:
    return f"{gain.estimate:.3g} [{gain.low:.3g}, {gain.high:.3g}]"


def _on_the_way(budget: BudgetTerms) -> str:
    assert budget.way_gain is not None
    rival = _rival(budget)
    how = "" if rival is None else f" ({recipe_difference(budget.recipe, rival)})"
    return (
        f"Optimization is not named, since the validation loss does not improve where the same cost is minimized better: by "
        f"{_between(budget.valid_gain)}. But on the way there, stopped at its best epoch, the same training{how} lowers it by "
        f"{_between(budget.way_gain)}."
    )


def _rival(budget: BudgetTerms) -> Recipe | None:
    """The recipe trained like the one that found w*."""
    rival = next((one.rival for one in budget.levels if one.rival is not None), None)
    if rival is None:
        return None
    theirs = rival.model_dump(include={"optimizer", "schedule", "epochs"})
    return Recipe(**{**budget.recipe.model_dump(), **theirs})


def finding_of(budget: BudgetTerms, part: BudgetTerm) -> Finding:
    """The finding that a part names."""
    share = _share(budget, part)
    if part.name == "floor":
        return _named(
            budget, part, "underfits", "optimization", "capacity",
            "a still larger network, better inputs, or cleaner labels: no regularizer and no optimizer gets below this floor",
            f"{share} is the floor: no network that was trained, the larger one included, fits its rows better. "
            "More capacity or noise in the data.",
        )  # fmt: skip
    if part.name == "gap":
        return _named(
            budget, part, "overfits", "regularization", "regularizer", "a stronger regularizer, or more data",
            f"{share} is the generalization gap between training and validation rows.",
        )  # fmt: skip
    if part.name == "optimization":
        name, pulls, lever = _fault(budget)
        return _named(
            budget, part, name, "optimization", pulls, lever,
            f"{share} is left by the optimizer, and validation improves by {_between(budget.valid_gain)} where the same "
            "cost is minimized better.",
            _rival(budget),
        )  # fmt: skip
    if part.name == "stopping" and budget.longer_harms:
        return _named(
            budget, part, "overfits", "regularization", "regularizer",
            "a regularizer, so that training can go on without harm",
            f"{share} is given up by stopping early, and rightly: going on raises the validation loss by "
            f"{budget.going_on.estimate:.3g}. Stopping is the regularizer here.",
        )  # fmt: skip
    if part.name == "stopping":
        return _named(
            budget, part, "undertrained", "optimization", "schedule", "longer training, or an annealed rate",
            f"{share} is given up by the choice of an early epoch, and validation improves by "
            f"{-budget.going_on.estimate:.3g} where training goes on.",
        )  # fmt: skip
    if part.name != "capacity" and budget.objective.regularized:
        return _named(
            budget, part, "over_regularized", "regularization", "regularizer", "weaker terms and less noise",
            f"{share} is the price of the recipe's own terms and noise: the best weights under them fit so much worse.",
        )  # fmt: skip
    return _named(  # where nothing is charged, what is left above the floor is the network's
        budget, part, "underfits", "optimization", "capacity", "a larger network",
        f"{share} is for want of capacity: a larger network fits the training rows so much better.",
        budget.recipe.replace(model=dict(budget.larger)) if budget.larger else None,
    )  # fmt: skip


def _named(
    budget: BudgetTerms,
    part: BudgetTerm,
    name: str,
    axis: str,
    pulls: str,
    lever: str,
    says: str,
    measured: Recipe | None = None,
) -> Finding:
    """A finding; its confidence grows with how far the interval is from zero, in units of its half width.

    Args:
        measured: the recipe that was seen to do better; it is proposed first. By default the remedy that was.
    """
    answer = budget.answer(part)
    if answer is not None:
        measured = answer.remedy.change.recipe
        says += f" Tried: {answer.remedy.change.says}; it lowers the validation loss by {_between(answer.gain)}."
    elif part.name in ("gap", "floor", "capacity", "charged", "regularization"):
        says += " Whether its lever helps was not tried."
    first = () if measured is None else (_change(budget.recipe, measured),)
    others = [change for change in changes_for(name, budget.recipe, budget.room) if change.recipe != measured]
    half = (part.high - part.low) / 2
    sure = 1.0 if half <= 0 else 1 - math.exp(-part.low / half)
    return Finding(
        name,
        budget.level * (0.5 + 0.5 * sure),
        _evidence(part, budget) | ({} if answer is None else {"gain": answer.gain.estimate}),
        lever,
        says,
        axis=axis,
        pulls=pulls,
        changes=(*first, *others)[:MOST_CHANGES],
    )


def _fault(budget: BudgetTerms) -> tuple[str, str, str]:
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


def nothing_found(budget: BudgetTerms) -> Finding:
    """What is said where nothing can be named."""
    if len(budget.seeds) < 2:
        return Finding(
            "not_enough_evidence", 0.9, {"seeds": len(budget.seeds)}, "at least 2 seeds, better 3",
            "With one seed the terms have no interval.", axis="evidence", pulls="data",
        )  # fmt: skip
    if budget.hurried:
        return Finding(
            "not_enough_evidence", 0.9, {"seeds": len(budget.seeds)}, "more seconds",
            "Other networks had less time to train than the recipe, so the terms are not what their names say.",
            axis="evidence", pulls="data",
        )  # fmt: skip
    if budget.helps_on_the_way:
        return _only_on_the_way(budget)
    if not budget.suspects:
        return Finding(
            "noisy_evidence", 0.7, {"seeds": len(budget.seeds)}, "more seeds or validation rows",
            "No term is clearly above zero.", axis="evidence", pulls="data",
        )  # fmt: skip
    largest, possible = budget.suspects[0], _possible(budget)
    words = SAYS.get(largest.name, "what the optimizer left")
    says = (
        f"The largest part, {_share(budget, largest)}, is {words}, but nothing shows that it can be taken away: no lever that was "
        "pulled clearly lowers the validation loss."
    )
    more = "more training rows" if largest.name == "gap" else "better inputs"
    if possible is not None:
        return Finding(
            "noisy_evidence", 0.7, _evidence(largest, budget), f"more seeds or validation rows to see it; {more} to lower it",
            f"{says} A gain of {possible.high:.3g} is possible still.", axis="evidence", pulls="data",
        )  # fmt: skip
    return Finding("healthy", 0.7, _evidence(largest, budget), f"nothing; {more}, if the loss is to be lower", says)


def _possible(budget: BudgetTerms) -> BudgetTerm | None:
    """The gain that may be largest still, where it would matter."""
    gains = [budget.gain(remedy) for remedy in budget.remedies]
    if any(part.name == "optimization" for part in budget.suspects):
        gains += [gain for gain in (budget.valid_gain, budget.way_gain) if gain is not None]
    most = max(gains, key=lambda gain: gain.high, default=None)
    return most if most is not None and most.high >= MATTERS * abs(budget.valid.estimate) else None


def _only_on_the_way(budget: BudgetTerms) -> Finding:
    """No lever is named, but a change was seen to lower the validation loss: it is offered."""
    assert budget.way_gain is not None
    rival = _rival(budget)
    return Finding(
        "not_enough_evidence", 0.7, _evidence(budget["optimization"], budget) | {"gain": budget.way_gain.estimate},
        "better optimization, stopped early, and a regularizer so that it can go on",
        f"The optimizer leaves {_share(budget, budget['optimization'])}; going all the way does not lower the validation loss, and "
        f"stopping on the way lowers it by {_between(budget.way_gain)}: neither lever alone is the answer.",
        axis="evidence", pulls="data",
        changes=() if rival is None else (_change(budget.recipe, rival),),
    )  # fmt: skip
