"""What the diagnosis of the baseline advises is tried before anything else, and whether it helped is written down."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from wellposed.core.formats import percent
from wellposed.diagnosis.advice import Room, changes_for
from wellposed.diagnosis.finding import Change
from wellposed.recipe.recipe import Recipe
from wellposed.search.ablation import LEVEL
from wellposed.search.runner import Bench
from wellposed.statistics.intervals import Interval, paired_interval
from wellposed.study.trials import Trial
from wellposed.training.history import Stopped
from wellposed.training.run import Run

MOST_ADVICE = 3
"""Findings whose first change is tried: the surest come first, and the search has its own ways."""


def first_changes(bench: Bench, baseline: Recipe) -> list[tuple[str, Change]]:
    """The first change that each finding about the baseline advises, the surest finding's first.

    One that comes to nothing with the study's own number of epochs and its patience is passed over.
    """
    run = baseline_run(bench, baseline)
    model = run.model if run is not None else bench.problem.build(baseline.model, bench.seed)
    room = Room.of(bench.problem, model)
    found: list[tuple[str, Change]] = []
    tried = [baseline]
    for name in bench.state.findings:
        for change in changes_for(name, baseline, room, bench.rules):
            trained = change.recipe.replace(epochs=baseline.epochs, stopping=baseline.stopping)
            if trained not in tried:
                tried.append(trained)
                found.append((name, replace(change, recipe=trained)))
                break
    return found[:MOST_ADVICE]


def baseline_trial(bench: Bench, baseline: Recipe) -> Trial | None:
    """The best trial of the tuned baseline; None before there is one."""
    own = [trial for trial in bench.state.of("baseline") if trial.built == baseline]
    return max(own, key=bench.rank) if own else None


def baseline_run(bench: Bench, baseline: Recipe) -> Run | None:
    """Its run, where this session trained it."""
    trial = baseline_trial(bench, baseline)
    return None if trial is None else bench.runs.get(trial.index)


def measure_against(bench: Bench, baseline: Recipe) -> None:
    """Keep the baseline's loss on each validation row, so that advice is measured by the same numbers whenever it is trained."""
    run = baseline_run(bench, baseline)
    if run is not None:
        bench.state.losses = losses_of(run)


def losses_of(run: Run) -> str:
    """The loss on each validation row, as `State.losses` has them."""
    rows = run.evaluate().loss.rows.double().cpu().numpy()
    return base64.b64encode(rows.astype("<f8").tobytes()).decode()


def note_advice(bench: Bench, baseline: Recipe, trial: Trial, run: Run) -> None:
    """Write down what became of the advice that a trial tried: the validation loss before and after, and whether it helped."""
    before = baseline_trial(bench, baseline)
    for advice in bench.state.advice:
        if advice["trial"] != trial.index or "helped" in advice or before is None:
            continue
        # Pieces of advice end at different times, so that Holm's order is not known: each has its share of the error.
        found = paired_gain(bench.state.losses, run, 1 - (1 - LEVEL) / len(bench.state.advice))
        low, high, level = (None, None, None) if found is None else (found.low, found.high, found.level)
        advice |= {
            "before": before.valid_loss, "after": trial.valid_loss, "low": low, "high": high, "level": level,
            "stopped": trial.stopped, "helped": low is not None and low > 0,
            "harmed": trial.diverged or (high is not None and high < 0),
        }  # fmt: skip


def paired_gain(plain: str, changed: Run, level: float = LEVEL) -> Interval | None:
    """By how much the validation loss fell, row by row, with its interval over rows for these two runs; None where the rows of
    the first are not known, or some loss is not finite.

    Args:
        plain: see `State.losses`.
        level: inside (0, 1).
    """
    try:
        before = np.frombuffer(base64.b64decode(plain, validate=True), "<f8")
    except ValueError:
        return None
    after = changed.evaluate().loss.rows.double().cpu().numpy()
    if len(before) < 2 or before.shape != after.shape or not np.isfinite(before - after).all():
        return None
    return paired_interval(before - after, level)


def advice_sentence(advice: Mapping[str, Any]) -> str:
    """A piece of advice and what became of it, as a sentence."""
    began = f"{advice['finding'].replace('_', ' ')}: {advice['says']}"
    if "helped" not in advice:
        return f"{began}. It was not trained to its end."
    verdict = "no difference beyond the noise of the rows is shown"
    if advice["helped"]:
        verdict = "it helped in this pair of runs"
    elif advice["harmed"]:
        verdict = "it did harm in this pair of runs"
    elif advice["low"] is None:
        verdict = "whether that is more than the noise of the rows was not measured"
    if advice["low"] is not None:
        low, high = -advice["high"], -advice["low"]
        verdict += f" (the loss changed by {low:+.2g} to {high:+.2g}, {percent(advice.get('level'))} interval)"
    early = " Halving stopped it early." if advice["stopped"] == Stopped.CULLED else ""
    return f"{began}. Validation loss {advice['before']:.4g} -> {advice['after']:.4g}: {verdict}.{early}"
