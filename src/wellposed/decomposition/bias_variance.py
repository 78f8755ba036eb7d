"""Bias and variance of recipes, measured: trained on bootstrap resamples of the training rows, judged on the same other rows.

    loss = bias (and the labels' noise) + variance of the data + variance of the seeds

See `wellposed.decomposition.variance_components` for the estimates and ``docs/bias-variance.md`` for what they say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellposed.core.checks import Seed, checked
from wellposed.core.errors import InputError, TrainingError, guard_call
from wellposed.core.files import jsonable
from wellposed.core.formats import table
from wellposed.core.random import stream_seed
from wellposed.core.registry import lookup
from wellposed.decomposition import repeated_training as repeated
from wellposed.decomposition.repeated_training import PROBE_ROWS, Recipes, Vary, ends_of, format_interval
from wellposed.decomposition.variance_components import (
    FEWEST,
    LEVEL,
    RowLosses,
    VarianceComponent,
    decompose,
    half_over,
    zero_one,
)
from wellposed.diagnosis.finding import Change, Finding
from wellposed.parallel.jobs import Job
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.intervals import Interval, crossed_interval
from wellposed.training.problem import Problem

NAMES = {
    "loss": "loss", "bias": "noise + bias", "variance": "variance", "data": "of data", "seeds": "of seeds", "both": "of both",
}  # fmt: skip
HITS = {"error": "0-1 error", "main": "main wrong", "away": "+ varies away", "back": "- varies back"}
SMALLER = (
    "A bootstrap resample holds about 63 % of the distinct rows, so bias and variance are those of a smaller training set: "
    "as a rule larger than with all rows, as the last column shows."
)
NOISE = "Noise of the labels is in the bias: rows with one label each do not tell the two apart."
ONE_SET = (
    "All resamples come from one training set. How far that one is off counts as bias, and adds to it about the "
    "variance of the data."
)
GROUPED = "Rows are resampled one by one, though they come in groups: with other groups the variance would be larger."
CHOSEN = "Each run kept the epoch that was best on these very rows, so that its loss is a little too low; test rows would not be."
STOPPED = (
    "Each run kept its best epoch, so that numbers of epochs look more alike than they are: stopping = {'keep': 'last'} shows what "
    "stopping early does."
)


@dataclass(frozen=True)
class BiasVarianceRow:
    """Bias and variance of one recipe, in units of the loss.

    Attributes:
        parts: ``loss``, ``bias`` (with the noise), ``variance`` = loss - bias; where seeds are repeated ``data`` and ``seeds``, and
            where they are crossed with resamples ``both``, which add up to the variance.
        zero_one: ``error = main + away - back``, or None where nothing is classified.
        whole: the mean loss of the recipe trained on all rows, each once; NaN where there was no time for it.
        resamples: the numbers of those that were trained with every seed.
    """

    name: str
    recipe: Recipe
    parts: Mapping[str, VarianceComponent]
    zero_one: Mapping[str, VarianceComponent] | None
    whole: float
    resamples: tuple[int, ...]
    strength: float | None = None


@dataclass(frozen=True)
class BiasVariance:
    """Bias and variance of recipes, from the weakest to the strongest.

    Attributes:
        loss: its name. ``on``: the rows that it is of. ``rows``: how many. ``train_rows``: of a resample.
        crossed: whether all resamples have the same seeds.
        varies: what the strength is of; empty where recipes were given.
        notes: what the numbers cannot say.
    """

    points: tuple[BiasVarianceRow, ...]
    loss: str
    on: str
    rows: int
    train_rows: int
    seeds: int
    crossed: bool
    varies: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> BiasVarianceRow:
        """The recipe with the lowest loss; of equal ones the first."""
        return min(self.points, key=lambda point: point.parts["loss"].estimate)

    def point(self, name: str) -> BiasVarianceRow:
        """The row of the recipe that is called ``name``.

        Raises:
            InputError: there is none.
        """
        return lookup("recipe", name, {point.name: point for point in self.points})

    def difference(self, one: str, other: str, part: str = "loss", level: float = LEVEL) -> Interval:
        """How much higher a part is for ``one`` than for the ``other``: paired, since both had the same resamples and rows.

        Args:
            part: a key of ``Point.parts``.
            level: inside (0, 1).
        Raises:
            InputError: there is no such recipe or part, or fewer than three resamples that both were trained on.
        """
        a, b = self.point(one), self.point(other)
        if part not in a.parts or part not in b.parts:
            raise InputError(f"There is no part {part!r}; there are {', '.join(a.parts)}.")
        both = sorted(set(a.resamples) & set(b.resamples))
        if len(both) < FEWEST:
            raise InputError(f"A difference needs {FEWEST} resamples that both were trained on; there are {len(both)}.")
        tables = [p.parts[part].table[:, [p.resamples.index(r) for r in both]] for p in (a, b)]
        found = crossed_interval(tables[0] - tables[1], level)
        more = half_over(a.parts[part].over_seeds - b.parts[part].over_seeds, level)
        below, above = (math.hypot(found.estimate - end, more) for end in (found.low, found.high))
        return replace(found, low=found.estimate - below, high=found.estimate + above)

    def findings(self) -> tuple[Finding, ...]:
        """What the ends of the path are: ``overfits`` where more strength shows less loss by less variance, ``over_regularized``
        where less strength shows less loss by less bias."""
        found = (self._end(self.points[0], "variance"), self._end(self.points[-1], "bias"))
        return tuple(finding for finding in found if finding is not None)

    def _end(self, end: BiasVarianceRow, part: str) -> Finding | None:
        best = self.best
        if end is best or len(self.points) < 2:
            return None
        # The best of several is compared with the end: each comparison is judged so that all of them together keep the level.
        level = 1 - (1 - LEVEL) / (len(self.points) - 1)
        more, why = (self.difference(end.name, best.name, what, level) for what in ("loss", part))
        if not (more.shown and why.low > 0):
            return None
        weak = part == "variance"
        name, way = ("overfits", "more") if weak else ("over_regularized", "less")
        return Finding(
            name, LEVEL,
            {"estimate": more.estimate, "low": more.low, "high": more.high, f"{part}_above": why.estimate,
             "resamples": len(end.resamples), "rows": self.rows},
            f"{way} regularization, as in {best.name!r}.",
            f"{end.name!r} has {more.estimate:.3g} more loss than {best.name!r}, by {why.estimate:.3g} more {part}.",
            "regularization", "regularizer",
            (Change(f"{end.name} -> {best.name}", best.recipe),),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All numbers of the table as dicts and lists that JSON can hold."""

        def of(parts: Mapping[str, VarianceComponent] | None) -> dict[str, Any] | None:
            return None if parts is None else {name: ends_of(part) for name, part in parts.items()}

        points = [
            {**vars(p), "recipe": p.recipe.to_dict(), "parts": of(p.parts), "zero_one": of(p.zero_one)}
            for p in self.points
        ]
        findings = [finding.to_dict() for finding in self.findings()]
        found: dict[str, Any] = jsonable(vars(self) | {"points": points, "best": self.best.name, "findings": findings})
        return found

    def __str__(self) -> str:
        first = self.points[0]
        names = [name for name in NAMES if name in first.parts]
        squared = {"bias": "noise + bias²"} if self.loss in ("squared_error", "mse") else {}
        header = ["", *(squared.get(name, NAMES[name]) for name in names), "on all rows"]
        rows = [[p.name, *(format_interval(p.parts[name]) for name in names), f"{p.whole:.4g}"] for p in self.points]
        kind = "the same" if self.crossed else "own"
        count = min(len(point.resamples) for point in self.points)
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        lines = [
            f"{self.loss} on {self.rows} {self.on} rows; {count} resamples of {self.train_rows} rows with {kind} {seeds}; "
            f"{100 * LEVEL:.0f} % intervals over resamples and rows",
            *table([header, *rows], right=range(1, len(header))),
        ]
        if first.zero_one is not None:
            hits = [[p.name, *(format_interval(p.zero_one[n]) for n in HITS)] for p in self.points if p.zero_one]
            lines += ["", *table([["", *HITS.values()], *hits], right=range(1, len(HITS) + 1))]
        return "\n".join([*lines, "", *self.notes, *map(str, self.findings())])


@checked
def bias_variance(
    problem: Problem,
    recipes: Recipes,
    *,
    resamples: int = 20,
    seeds: Sequence[Seed] = (0, 1),
    crossed: bool = False,
    strengths: Sequence[float] | None = None,
    on: str | None = None,
    engine: str = "auto",
    device: str | torch.device = "auto",
    deadline: float = math.inf,
    probe_rows: int | None = PROBE_ROWS,
) -> BiasVariance:
    """``E loss = bias + variance`` of each recipe, over bootstrap resamples of the training rows and over seeds.

    All runs are one population where the model can be stacked. Every recipe has the same resamples and seeds. The central
    prediction is the mean output: of cross-entropy the normalized geometric mean of the probabilities. Bias and variance
    are unbiased for the number of resamples and seeds, exactly so for squared error.

    Args:
        recipes: from the weakest regularization to the strongest: one, several, or a mapping with names.
        resamples: >= 3; more narrow the intervals, at equal cost each.
        seeds: of initialization, order and noise. With one, the variance is of data and seeds together.
        crossed: False gives every resample seeds of its own, so that the bias is that of the mean over many; True gives all the
            same, which tells the seeds' own variance from that of seeds and data together, and makes the bias that of these seeds.
        strengths: one number for each recipe, for tables and figures.
        on: ``test`` or ``valid``; None takes test rows where there are any.
        engine, device, deadline, probe_rows: see `wellposed.fit_many`; runs that the deadline cuts off are left out. Those that
            are trained as one population end at about the same time, so that a deadline before that leaves none of them.
    Raises:
        InputError: too few resamples or seeds, or a loss that does not say what each row adds.
        TrainingError: fewer than three resamples were trained with every seed.
        KeyboardInterrupt: Ctrl-C came before that; later, those that had ended are judged.
    Source:
        Geman, Bienenstock & Doursat (1992); Heskes (1998), Neural Computation 10; Yang et al. (2020), ICML, whose central
        prediction of cross-entropy this is; Gupta et al. (2022), for seeds and data.
    """
    several, numbers = repeated.recipes_by_name(recipes), list(map(int, seeds))
    _check(resamples, numbers, strengths, several)
    where = repeated.evaluated_on(problem, on)
    # All recipes of a resample together, so that a deadline leaves whole resamples. None is all rows, each once.
    samples: list[int | None] = [*range(resamples), None]
    keys = [(r, name, seed) for r in samples for name in several for seed in numbers]
    jobs = []
    for r, name, seed in keys:
        own = seed if crossed or r is None else stream_seed(seed, "resample", r)
        jobs.append(Job(several[name], own, draw=0) if r is None else Job(several[name], own, resample=r))
    runs, stopped = repeated.train_complete(
        problem, jobs, engine=engine, device=device, deadline=deadline, probe_rows=probe_rows
    )
    source, target, weight = repeated.rows_on(problem, where)
    points, dropped = [], 0
    for i, (name, recipe) in enumerate(several.items()):
        found: dict[int | None, list[torch.Tensor]] = {}
        for place, run in sorted(runs.items()):
            r, whose, _ = keys[place]
            if whose == name and bool(torch.isfinite(outputs := run.outputs(source)).all()):
                found.setdefault(r, []).append(outputs)
        complete = [r for r in range(resamples) if len(found.get(r, [])) == len(numbers)]
        dropped += resamples - len(complete)
        if len(complete) < FEWEST:
            if stopped:
                raise KeyboardInterrupt
            raise TrainingError(
                f"Only {len(complete)} of {resamples} resamples of {name!r} were trained to their end with finite outputs, "
                f"and {FEWEST} are needed. Give more time, or a recipe that does not diverge."
            )
        outputs = torch.stack([torch.stack(found[r]) for r in complete])
        losses = RowLosses(problem.loss, target, weight, outputs[0, 0])
        whole = float(losses(torch.stack(found[None]).double()).mean()) if None in found else math.nan
        shown = zero_one(outputs, target, losses.share) if problem.loss.classifies and weight is None else None
        parts = decompose(outputs, losses, crossed)
        strength = None if strengths is None else float(strengths[i])
        points.append(BiasVarianceRow(name, recipe, parts, shown, whole, tuple(complete), strength))
    return BiasVariance(
        tuple(points), problem.loss.name, where, len(target), len(problem.prepared.train), len(numbers), crossed,
        notes=_notes(problem, where, several, len(numbers), crossed, dropped),
    )  # fmt: skip


@checked
def bias_variance_path(
    problem: Problem, recipe: Recipe | str | Path, vary: Vary, strengths: Sequence[float], **settings: Any
) -> BiasVariance:
    """Bias and variance of a recipe along the strength of anything that regularizes: the classical figure, measured.

    Args:
        vary: ``"terms.l2"``, ``"terms.max_norm"``, ``"noise.dropout"``, ``"epochs"`` or any other key; or
            ``vary(recipe, strength)`` giving a recipe.
        strengths: are put in order, the weakest regularization first: that is the smallest number, but of bounds the largest
            (infinity is no bound), as of ``"epochs"``, and of ``"stopping.patience"`` and ``"clip"`` first 0, then the largest.
        settings: of `bias_variance`.
    Raises:
        InputError: no strengths, or nothing to vary; and see `bias_variance`.
    Example:
        ``wp.bias_variance_path(problem, "baseline", "terms.l2", [0, .01, .03, .1, .3, 1])``
    """
    vary = vary if isinstance(vary, str) else guard_call("vary=", vary)
    ordered = repeated.weakest_first(vary, strengths)
    if not ordered:
        raise InputError("A path needs strengths, and there is none. Give for example [0, 0.01, 0.1, 1].")
    base, what = as_recipe(recipe), vary if isinstance(vary, str) else "strength"
    label = what.rpartition(".")[2]
    several = {f"{label} {repeated.amount_of(v)}": repeated.with_amount(base, vary, v) for v in ordered}
    found = bias_variance(problem, several, **settings)
    points = tuple(replace(point, strength=value) for point, value in zip(found.points, ordered, strict=True))
    notes = (*found.notes, STOPPED) if what == "epochs" and base.stopping.keep == "best" else found.notes
    return replace(found, points=points, varies=what, notes=notes)


def _check(resamples: int, seeds: list[int], strengths: Sequence[float] | None, recipes: Mapping[str, Recipe]) -> None:
    if resamples < FEWEST:
        raise InputError(
            f"bias_variance needs at least {FEWEST} resamples; it was given {resamples}. Twenty are usual."
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds= needs one or more numbers, none of them twice; it was given {seeds}.")
    if strengths is not None and len(strengths) != len(recipes):
        raise InputError(f"strengths= has {len(strengths)} numbers and there are {len(recipes)} recipes.")
    if strengths is not None and bool((np.diff(np.asarray(strengths, dtype=float)) < 0).any()):
        raise InputError(
            "Recipes go from the weakest to the strongest; strengths= must not fall. (Of bounds and "
            "epochs the largest number is the weakest: give them to bias_variance_path, or leave strengths= out.)"
        )


def _notes(
    problem: Problem, on: str, recipes: Mapping[str, Recipe], seeds: int, crossing: bool, dropped: int
) -> tuple[str, ...]:
    found = [NOISE, ONE_SET, SMALLER]
    if problem.data.groups is not None:
        found.append(GROUPED)
    if on == "valid" and any(recipe.stopping.keep == "best" for recipe in recipes.values()):
        found.append(CHOSEN)
    if seeds == 1:
        same = "All numbers are for this one seed." if crossing else "The variance is of data and seeds together."
        found.append(f"One seed for each resample. {same} Give several to tell the two apart.")
    elif crossing and seeds < FEWEST:
        found.append(f"The intervals are of these {seeds} seeds; over seeds they need {FEWEST}.")
    if dropped:
        found.append(f"{dropped} resamples of a recipe were cut off or diverged, and are left out.")
    return tuple(found)
