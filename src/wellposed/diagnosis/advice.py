"""What a finding makes of a recipe: for each finding the changes to try, in order.

Each rule of ours names the moves that pull its lever, and each kind of noise its sizes. What no recipe can mend (a loss that does
not fit, a loop that forgets a mode) has no moves: the finding's lever says what to change in the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from torch import nn

from wellposed.diagnosis.diagnose import rules as all_rules
from wellposed.diagnosis.finding import Change, Finding
from wellposed.diagnosis.moves import RecipeMove
from wellposed.noise.noise import keyed
from wellposed.recipe.recipe import Recipe
from wellposed.training.problem import Problem

if TYPE_CHECKING:
    from wellposed.diagnosis.rules.rule import Rule

MOST_CHANGES = 3
"""Changes that a finding proposes: more would be a search."""
ADVICE = {rule.name: rule.moves for rule in all_rules() if rule.moves}
"""For each finding the moves to try, in order; moves of one entry are made together."""


@dataclass(frozen=True)
class Room:
    """What a problem leaves room for.

    Attributes:
        noise: keys of a recipe's ``[noise]`` that would act here, with the size that the model itself has of each.
        settings: of the model, with the values that may be tried.
    """

    noise: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, model: nn.Module) -> Room:
        """The room of a problem, whose model is looked at."""
        own = {
            key.name: kind.own_size(model, problem.loss.softens) for kind in keyed() for key in kind.keys if key.title
        }
        return cls({key: size for key, size in own.items() if size is not None}, dict(problem.space))


def changes_for(name: str, recipe: Recipe, room: Room, rules: Sequence[Rule] = ()) -> tuple[Change, ...]:
    """The changes of a recipe that pull the lever of a finding, the first to be tried first; empty where none can."""
    found: list[Change] = []
    tried = [recipe]
    own = [rule for rule in rules if rule.name == name]
    advised = (changed for rule in own for changed in rule.advice(recipe))
    moves = [entry for rule in own for entry in rule.moves] or ADVICE.get(name, ())
    for changed in (*advised, *_moved(name, moves, recipe, room)):
        if changed not in tried:
            tried.append(changed)
            found.append(Change(recipe_difference(recipe, changed), changed))
    return tuple(found[:MOST_CHANGES])


def _moved(name: str, moves: Sequence[Sequence[RecipeMove]], recipe: Recipe, room: Room) -> Iterator[Recipe]:
    """The recipe after each entry of ``moves``, with the noise that its kinds advise for the same place."""
    for place, entry in enumerate(moves):
        changed = reduce(lambda so_far, move: move(so_far, room), entry, recipe)
        advised = {
            key.name: key.advised[name][place]
            for kind in keyed()
            for key in kind.keys
            if place < len(key.advised.get(name, ()))
        }
        more = {
            key: size
            for key, size in advised.items()
            if key in room.noise and (getattr(recipe.noise, key) or 0.0) < size
        }
        yield changed.replace(noise=more) if more else changed


def with_advice(
    findings: Sequence[Finding], recipe: Recipe, room: Room, rules: Sequence[Rule] = ()
) -> tuple[Finding, ...]:
    """The findings with the changes of this recipe that pull their levers."""
    return tuple(replace(finding, changes=changes_for(finding.name, recipe, room, rules)) for finding in findings)


def recipe_difference(old: Recipe, new: Recipe) -> str:
    """The difference of two recipes in a few words: ``"lr 0.1 -> 0.01, l2 0.1 added"``."""
    words = [
        f"{NAMED.get(key, key.rpartition('.')[2].replace('_', ' '))} {_short(key, a)} -> {_short(key, b)}"
        for key, (a, b) in old.differences(new).items()
        if not key.startswith("terms") and key != "stopping.patience"
    ]
    before = {(t.penalty, t.on): t.amount for t in old.terms}
    for term in new.terms:
        amount = before.get((term.penalty, term.on))
        if amount is None:
            words.append(f"{term.name} {term.amount:.3g} added")
        elif amount != term.amount:
            words.append(f"{term.name} {amount:.3g} -> {term.amount:.3g}")
    after = {(t.penalty, t.on) for t in new.terms}
    words += [f"{term.name} {term.amount:.3g} removed" for term in old.terms if (term.penalty, term.on) not in after]
    return ", ".join(words)


NAMED = {"optimizer.name": "optimizer", "schedule.name": "schedule"}
"""What the last part of a key does not say."""


def _short(key: str, value: Any) -> str:
    if value is None:
        return "the model's own" if key.startswith(("noise", "model")) else "none"
    return f"{value:.3g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
