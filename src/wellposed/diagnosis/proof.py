"""A verdict that runs the experiment: its first changes are tried from the very state that was judged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from wellposed.core.errors import InputError
from wellposed.diagnosis.advice import Room, recipe_difference, with_advice
from wellposed.diagnosis.diagnose import rules as all_rules
from wellposed.diagnosis.finding import Change, Finding
from wellposed.diagnosis.forks import Fork, forked
from wellposed.diagnosis.moves import with_usual_rate
from wellposed.diagnosis.rules.rule import Rule
from wellposed.recipe.recipe import Recipe
from wellposed.training.continuation import Continuation, begun_anew, continue_from, rescored, shuffled, standardized

FEWEST_SEEDS, MOST_SEEDS = 3, 8
"""With two seeds an interval is hardly one; more than eight narrow it little."""
MOST_CHANGES = 3
"""Changes that are tried: the first two of the surest finding that has any, and the first of the next one."""
LONGEST, SHORTEST = 2.0, 10
"""Epochs of a branch, over those there had been, and at least: what takes longer is another training."""

REMADE: dict[str, tuple[str, Callable[[Continuation], Continuation]]] = {
    "shuffled": ("rows shuffled", shuffled),
    "standardized": ("begun anew, inputs standardized", standardized),
    "rescored": ("without the last activation", rescored),
}


def prove(
    source: Any, findings: Sequence[Finding], rules: Sequence[Rule], seconds: float
) -> tuple[tuple[Finding, ...], Fork]:
    """The findings with the changes that pull their levers, and what the first of these are worth."""
    began = time.monotonic()
    start = continue_from(source)
    room = Room.of(start.problem, source.model)
    findings = with_advice(findings, start.recipe, room, rules)
    beyond = {rule.name: rule.beyond for rule in (*all_rules(), *rules)}
    findings = tuple(_with_remade(start, one, beyond.get(one.name, ""), room) for one in findings)
    changes = _first_changes(start, findings)
    if not changes:
        raise InputError(
            "There is nothing to prove: the findings have no change that a recipe can make. "
            f"They say: {findings[0].lever or findings[0].name}."
        )
    took = [second for second in source.history["seconds"] if second > 0]  # without epochs, the whole budget
    passes = (
        (seconds - (time.monotonic() - began)) / (1 + len(changes)) / (float(np.median(took)) if took else math.inf)
    )
    wanted = max(SHORTEST, LONGEST * start.state.epoch)
    epochs = int(max(1, min(wanted, passes / FEWEST_SEEDS)))
    seeds = int(min(MOST_SEEDS, max(FEWEST_SEEDS, passes / epochs)))
    return findings, forked(start, changes, epochs, seeds, "auto", began + seconds)


def _gone_on(start: Continuation, recipe: Recipe) -> Recipe:
    """What a recipe is in a continuation, which has no schedule, and a length and patience of its own."""
    return recipe.replace(epochs=start.recipe.epochs, schedule=start.recipe.schedule, stopping=start.recipe.stopping)


def _with_remade(start: Continuation, finding: Finding, how: str, room: Room) -> Finding:
    """The finding with what no recipe says, behind its first change: other weights to begin with, or the rows in another order."""
    with suppress(InputError):
        says, remake = REMADE.get(how, ("", None))
        if remake is not None and (how != "shuffled" or start.sampler is not None) and remake(start):
            # A rate that unscaled inputs allowed is far from that of scaled ones.
            recipe = with_usual_rate(start.recipe, room) if how == "standardized" else start.recipe
            says = ", ".join(filter(None, (says, recipe_difference(start.recipe, recipe))))
            return replace(finding, changes=(Change(says, recipe, remake), *finding.changes))
        if how == "anew" and begun_anew(start):
            recipe = _gone_on(start, finding.changes[0].recipe if finding.changes else start.recipe)
            says = ", ".join(filter(None, ("begun anew", recipe_difference(start.recipe, recipe))))
            changes = (*finding.changes[:1], Change(says, recipe, begun_anew), *finding.changes[1:])
            return replace(finding, changes=changes)
    return finding


def _first_changes(start: Continuation, findings: Sequence[Finding]) -> list[Change]:
    """Changes that make another training than going on does."""
    chosen: dict[str, Change] = {}
    for most, finding in zip((2, 1), [one for one in findings if one.changes], strict=False):
        new: dict[str, Change] = {}
        for change in finding.changes:
            recipe = _gone_on(start, change.recipe)
            if change.remake is not None:
                new[change.says] = change
            elif recipe != start.recipe and recipe.model == start.recipe.model:
                says = recipe_difference(start.recipe, recipe)
                new[says] = Change(says, recipe)
        chosen |= dict([item for item in new.items() if item[0] not in chosen][:most])
    return list(chosen.values())[:MOST_CHANGES]
