"""What the diagnosis of the baseline advises is tried before anything else, and whether it helped is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from wellposed.diagnosis.advice import Room, advised
from wellposed.diagnosis.curves import Z
from wellposed.diagnosis.finding import Change
from wellposed.recipe.recipe import Recipe
from wellposed.search.bench import Bench
from wellposed.search.state import Trial
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
        for change in advised(name, baseline, room):
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


def note_advice(bench: Bench, baseline: Recipe, runs: Mapping[int, Run | None]) -> None:
    """Write down what became of each piece of advice that was trained: the validation loss before and after, and whether it helped.

    Args:
        runs: by the number of their trial.
    """
    before, plain = baseline_trial(bench, baseline), baseline_run(bench, baseline)
    if before is None:
        return
    trials = {trial.index: trial for trial in bench.state.trials}
    for advice in bench.state.advice:
        trial = trials.get(advice["trial"])
        if trial is None or "helped" in advice:
            continue
        low, high = paired(plain, runs.get(trial.index))
        if math.isnan(low):
            low = high = before.valid_loss - trial.valid_loss
        advice |= {
            "before": before.valid_loss, "after": trial.valid_loss, "low": low, "high": high,
            "stopped": trial.stopped, "helped": bool(low > 0), "harmed": not high >= 0,
        }  # fmt: skip


def paired(plain: Run | None, changed: Run | None) -> tuple[float, float]:
    """By how much the validation loss fell, row by row: a 95 % interval over rows for these two runs; NaN where one is missing."""
    if plain is None or changed is None:
        return math.nan, math.nan
    rows = plain.evaluate().loss.rows.double() - changed.evaluate().loss.rows.double()
    if len(rows) < 2 or not bool(torch.isfinite(rows).all()):
        return math.nan, math.nan
    mean, se = float(rows.mean()), float(rows.std()) / math.sqrt(len(rows))
    return mean - Z * se, mean + Z * se


def told(advice: Mapping[str, Any]) -> str:
    """A piece of advice and what became of it, as a sentence."""
    began = f"{advice['finding'].replace('_', ' ')}: {advice['says']}"
    if "helped" not in advice:
        return f"{began}. It was not trained to an end."
    verdict = (
        "it helped"
        if advice["helped"]
        else "it did harm"
        if advice["harmed"]
        else "no difference beyond the noise of the rows"
    )
    early = " Halving stopped it early." if advice["stopped"] == "culled" else ""
    return f"{began}. Validation loss {advice['before']:.4g} -> {advice['after']:.4g}: {verdict}.{early}"
