"""What an error budget names: the largest term that is clearly above zero and whose lever, pulled, lowers the validation loss."""

from __future__ import annotations

import math
from functools import partial
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
    found = []
    if budget.way_gain is not None and budget.helps_on_the_way:
        rival = _rival(budget)
        how = "" if rival is None else f" ({recipe_difference(budget.recipe, rival)})"
        found.append(
            "Optimization is not named, since the validation loss does not improve where the same cost is minimized better: by "
            f"{_between(budget.valid_gain)}. But on the way there, stopped at its best epoch, the same training{how} lowers it by "
            f"{_between(budget.way_gain)}."
        )
    refuted = [part for part in budget.suspects if part.name != "optimization" and budget.helped(part) is False]
    for _, same in groupby(sorted(refuted, key=budget.name_of), key=budget.name_of):
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


def _rival(budget: BudgetTerms) -> Recipe | None:
    """The recipe trained like the one that found w*."""
    rival = next((one.rival for one in budget.levels if one.rival is not None), None)
    if rival is None:
        return None
    theirs = rival.model_dump(include={"optimizer", "schedule", "epochs"})
    return Recipe(**{**budget.recipe.model_dump(), **theirs})


def finding_of(budget: BudgetTerms, part: BudgetTerm) -> Finding:
    """The finding that a part names; its confidence grows with how far the interval is from zero, in units of its half width.

    What was seen to do better is proposed first: the best change that was tried, or the rival that found w*.
    """
    share, name, measured, answer = _share(budget, part), budget.name_of(part), None, budget.answer(part)
    tried = " Whether its lever helps was not tried."
    if part.name == "floor":
        pulls = "capacity"
        lever = "a still larger network, better inputs, or cleaner labels: no regularizer and no optimizer gets below this floor"
        says = (
            f"{share} is the floor: no network that was trained, the larger one included, fits its rows better. "
            "More capacity or noise in the data."
        )
    elif part.name == "gap":
        pulls, lever = "regularizer", "a stronger regularizer, or more data"
        says = f"{share} is the generalization gap between training and validation rows."
    elif part.name == "optimization":
        (name, pulls, lever), measured, tried = _fault(budget), _rival(budget), ""
        says = (
            f"{share} is left by the optimizer, and validation improves by {_between(budget.valid_gain)} where the same "
            "cost is minimized better."
        )
    elif part.name == "stopping" and budget.longer_harms:
        pulls, lever, tried = "regularizer", "a regularizer, so that training can go on without harm", ""
        says = (
            f"{share} is given up by stopping early, and rightly: going on raises the validation loss by "
            f"{budget.going_on.estimate:.3g}. Stopping is the regularizer here."
        )
    elif part.name == "stopping":
        pulls, lever, tried = "schedule", "longer training, or an annealed rate", ""
        says = (
            f"{share} is given up by the choice of an early epoch, and validation improves by "
            f"{-budget.going_on.estimate:.3g} where training goes on."
        )
    elif name == "over_regularized":
        pulls, lever = "regularizer", "weaker terms and less noise"
        says = (
            f"{share} is the price of the recipe's own terms and noise: the best weights under them fit so much worse."
        )
    else:  # where nothing is charged, what is left above the floor is the network's
        pulls, lever = "capacity", "a larger network"
        measured = budget.recipe.replace(model=dict(budget.larger)) if budget.larger else None
        says = f"{share} is for want of capacity: a larger network fits the training rows so much better."
    if answer is not None:
        measured = answer.remedy.change.recipe
        tried = f" Tried: {answer.remedy.change.says}; it lowers the validation loss by {_between(answer.gain)}."
    first = () if measured is None else (_change(budget.recipe, measured),)
    others = [change for change in changes_for(name, budget.recipe, budget.room) if change.recipe != measured]
    half = (part.high - part.low) / 2
    sure = 1.0 if half <= 0 else 1 - math.exp(-part.low / half)
    return Finding(
        name,
        budget.level * (0.5 + 0.5 * sure),
        _evidence(part, budget) | ({} if answer is None else {"gain": answer.gain.estimate}),
        lever,
        says + tried,
        axis="regularization" if pulls == "regularizer" else "optimization",
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
    unsure, seeds = partial(Finding, axis="evidence", pulls="data"), {"seeds": len(budget.seeds)}
    if len(budget.seeds) < 2:
        says = "With one seed the terms have no interval."
        return unsure("not_enough_evidence", 0.9, seeds, "at least 2 seeds, better 3", says)
    if budget.hurried:
        says = "Other networks had less time to train than the recipe, so the terms are not what their names say."
        return unsure("not_enough_evidence", 0.9, seeds, "more seconds", says)
    if budget.helps_on_the_way:  # a change was seen to lower the validation loss: it is offered
        assert budget.way_gain is not None
        rival, part = _rival(budget), budget["optimization"]
        return unsure(
            "not_enough_evidence", 0.7, _evidence(part, budget) | {"gain": budget.way_gain.estimate},
            "better optimization, stopped early, and a regularizer so that it can go on",
            f"The optimizer leaves {_share(budget, part)}; going all the way does not lower the validation loss, and "
            f"stopping on the way lowers it by {_between(budget.way_gain)}: neither lever alone is the answer.",
            changes=() if rival is None else (_change(budget.recipe, rival),),
        )  # fmt: skip
    if not budget.suspects:
        return unsure("noisy_evidence", 0.7, seeds, "more seeds or validation rows", "No term is clearly above zero.")
    largest = budget.suspects[0]
    words = SAYS.get(largest.name, "what the optimizer left")
    says = (
        f"The largest part, {_share(budget, largest)}, is {words}, but nothing shows that it can be taken away: no lever that was "
        "pulled clearly lowers the validation loss."
    )
    more = "more training rows" if largest.name == "gap" else "better inputs"
    gains = [budget.gain(remedy) for remedy in budget.remedies]
    if any(part.name == "optimization" for part in budget.suspects):
        gains += [gain for gain in (budget.valid_gain, budget.way_gain) if gain is not None]
    possible = max((gain.high for gain in gains), default=-math.inf)
    if possible >= MATTERS * abs(budget.valid.estimate):
        lever, says = (
            f"more seeds or validation rows to see it; {more} to lower it",
            f"{says} A gain of {possible:.3g} is possible still.",
        )
        return unsure("noisy_evidence", 0.7, _evidence(largest, budget), lever, says)
    return Finding("healthy", 0.7, _evidence(largest, budget), f"nothing; {more}, if the loss is to be lower", says)
