"""The loss against the number of training rows, measured: would more rows help, and from where on is regularization needed?

    loss(n) = a + b n^-c

Each recipe is trained on nested subsets of the training rows, several draws of them, with equally many steps on each, and judged
on the same other rows. See `wellposed.statistics.power_law` for the fit and ``docs/bias-variance.md`` for what it says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, TrainingError
from wellposed.core.files import jsonable
from wellposed.core.formats import table
from wellposed.core.registry import lookup
from wellposed.decomposition import repeated_training as repeated
from wellposed.decomposition.repeated_training import PROBE_ROWS, Recipes, ends_of, format_interval
from wellposed.decomposition.variance_components import LEVEL, RowLosses
from wellposed.diagnosis.finding import Finding
from wellposed.optim.schedules import Plateau
from wellposed.parallel.jobs import Job
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.intervals import Array, Interval, chance_of_signs, crossed_interval, paired_interval
from wellposed.statistics.power_law import FEWEST_SIZES, SHAPE, PowerLaw, Prediction, fit_power_law
from wellposed.training.problem import Problem
from wellposed.training.resampling import sample_index
from wellposed.training.run import Run

SIZES = (0.1, 0.2, 0.4, 0.7, 1.0)
MATTERS = 0.05
"""Share of the present loss that twice the rows must take away to be worth having them: a twentieth."""
HELP, NOT, UNKNOWN = "more data would help", "more data would not help", "cannot be told"
LONGER = "more epochs, or another learning rate: so many rows are not learned in these steps."
FEWEST_DRAWS = 2


@dataclass(frozen=True)
class Level:
    """A recipe on a number of training rows.

    Attributes:
        train: loss on the rows that it was trained on.
        valid, gap: of the other rows, and above that of the training rows; intervals over draws (with seeds) and rows.
        table: ``(rows, draws)`` losses.
    """

    rows: int
    train: float
    valid: Interval
    gap: Interval
    table: Array


@dataclass(frozen=True)
class RecipeCurve:
    """A recipe at every size.

    Attributes:
        law: fitted to the losses of the other rows; None where there are fewer than four sizes, or losses are not above 0.
        gain: of twice the rows: by how much the loss would fall; None without a law.
        verdict: one of ``more data would help``, ``more data would not help``, ``cannot be told``; of few rows (at most 16) the
            last where turning the signs of their parts in the gain does not show it, as in `paired_interval`.
        rises: the first size at which the loss is shown to be above that of the size before: there as many steps are too few for
            the rows, and what is seen is optimization; 0 where there is none.
    """

    name: str
    recipe: Recipe
    levels: tuple[Level, ...]
    law: PowerLaw | None
    gain: Prediction | None
    verdict: str
    rises: int = 0

    @property
    def last(self) -> Level:
        """The losses with all training rows."""
        return self.levels[-1]


@dataclass(frozen=True)
class LearningCurve:
    """Losses of recipes against the number of training rows.

    Attributes:
        loss: its name. ``on``: the rows that it is of, ``rows`` of them. ``draws``: of each size.
        matters: the share of the present loss that is worth having.
    """

    curves: tuple[RecipeCurve, ...]
    loss: str
    on: str
    rows: int
    draws: int
    matters: float
    notes: tuple[str, ...] = ()

    def curve(self, name: str) -> RecipeCurve:
        """The curve of the recipe that is called ``name``.

        Raises:
            InputError: there is none.
        """
        return lookup("recipe", name, {curve.name: curve for curve in self.curves})

    def differences(self, one: str, other: str) -> dict[int, Interval]:
        """How much higher the loss of ``one`` is than that of the ``other``, by training rows: paired by draw and row.

        With a plain recipe and a regularized one: where the interval is above zero, regularization is needed.
        """
        a, b = self.curve(one), self.curve(other)
        return {x.rows: paired_interval(x.table - y.table, LEVEL) for x, y in zip(a.levels, b.levels, strict=True)}

    def findings(self) -> tuple[Finding, ...]:
        """For each recipe a finding whose lever is more data or more capacity, or which says that it cannot be told."""
        return tuple(found for curve in self.curves if (found := self._finding(curve)) is not None)

    def _finding(self, curve: RecipeCurve) -> Finding | None:
        gap, now = curve.last.gap, curve.last.valid.estimate
        if curve.gain is None or curve.verdict == UNKNOWN:
            return Finding(
                "not_enough_evidence", LEVEL, {"rows": self.rows, "draws": self.draws},
                LONGER if curve.rises else "more draws (repeats=), more sizes, or more rows to judge on.",
                f"Whether more data would help {curve.name!r} cannot be told.", "evidence", "data",
            )  # fmt: skip
        evidence = {
            "estimate": curve.gain.estimate, "low": curve.gain.low, "high": curve.gain.high, "loss": now,
            "gap": gap.estimate, "gap_low": gap.low, "gap_high": gap.high,
        }  # fmt: skip
        said = f"twice the rows would take {curve.gain.estimate:.3g} of {now:.3g} from the loss of {curve.name!r}"
        if curve.verdict == HELP and gap.low > 0:
            return Finding(
                "overfits", LEVEL, evidence, "more training rows; or more regularization, which stands in for them.",
                f"The gap is one of too few rows: {said}.", "regularization", "data",
            )  # fmt: skip
        if curve.verdict == NOT and gap.high < self.matters * now:
            return Finding(
                "underfits", LEVEL, evidence, "a larger or longer trained model, or other inputs: rows are not what is missing.",
                f"There is hardly a gap, and {said}.", "optimization", "capacity",
            )  # fmt: skip
        return None

    def to_dict(self) -> dict[str, Any]:
        """All numbers of the curves as dicts and lists that JSON can hold."""

        curves = [
            {
                "name": c.name, "recipe": c.recipe.to_dict(), "verdict": c.verdict, "rises": c.rises,
                "gain": ends_of(c.gain) or None, "floor": None if c.law is None else c.law.floor,
                "levels": [
                    {"rows": x.rows, "train": x.train, "valid": ends_of(x.valid), "gap": ends_of(x.gap)} for x in c.levels
                ],
            }
            for c in self.curves
        ]  # fmt: skip
        findings = [finding.to_dict() for finding in self.findings()]
        found: dict[str, Any] = jsonable(vars(self) | {"curves": curves, "findings": findings})
        return found

    def __str__(self) -> str:
        header = ["", "rows", "train", self.on, "gap"]
        rows = [
            [c.name if i == 0 else "", f"{x.rows}", f"{x.train:.4g}", format_interval(x.valid), format_interval(x.gap)]
            for c in self.curves
            for i, x in enumerate(c.levels)
        ]
        lines = [
            f"{self.loss} on {self.rows} {self.on} rows; {self.draws} draws of each size; {100 * LEVEL:.0f} % intervals over "
            "draws, seeds and rows",
            *table([header, *rows], right=range(1, len(header))),
            "",
            *(self._said(curve) for curve in self.curves),
            *self.notes,
        ]
        return "\n".join(lines)

    def _said(self, curve: RecipeCurve) -> str:
        if curve.rises:
            return f"{curve.name}: {curve.verdict}; the loss rises at {curve.rises} rows. Next: {LONGER}"
        if curve.gain is None:
            return f"{curve.name}: {curve.verdict}; a power law needs {FEWEST_SIZES} sizes and losses above 0."
        now = curve.last.valid.estimate
        shares = [f"{100 * value / now:.0f} %" for value in (curve.gain.estimate, curve.gain.low, curve.gain.high)]
        return (
            f"{curve.name}: {curve.verdict}. At {2 * curve.last.rows} rows the loss would fall by {shares[0]} "
            f"[{shares[1]}, {shares[2]}]; a fall of {100 * self.matters:.0f} % matters."
        )


@checked
def learning_curve(
    problem: Problem,
    recipes: Recipes,
    *,
    sizes: Sequence[float] = SIZES,
    repeats: int = 5,
    matters: float = MATTERS,
    on: str | None = None,
    engine: str = "auto",
    device: str | torch.device = "auto",
    deadline: float = math.inf,
    probe_rows: int | None = PROBE_ROWS,
) -> LearningCurve:
    """Training and validation loss against the number of training rows, and what twice the rows would bring.

    Subsets of a draw are nested and stratified; each draw has a seed of its own. Every size gets as many steps as the recipe takes
    on all rows, so that fewer rows do not mean less training. Runs of one size are trained as one population.

    Args:
        recipes: one, several, or a mapping with names: capacities, or a plain one beside a regularized one.
        sizes: shares of the training rows in (0, 1], or numbers of rows; put in order. Four or more are needed for an answer.
        repeats: >= 2 draws.
        matters: > 0, the share of the present loss that twice the rows must take away to be worth having.
        on: ``test`` or ``valid``; None takes test rows where there are any.
        engine, device, deadline, probe_rows: see `wellposed.fit_many`; draws that the deadline cuts off are left out.
    Raises:
        InputError: sizes, repeats or matters that cannot be.
        TrainingError: fewer than two draws were trained at every size.
        KeyboardInterrupt: Ctrl-C came before that; later, the draws that had ended are judged.
    Source:
        Cortes et al. (1994) for the form; Hestness et al. (2017) for networks.
    """
    several = repeated.recipes_by_name(recipes)
    total = len(problem.prepared.train)
    counts = row_counts(sizes, total)
    if repeats < FEWEST_DRAWS:
        raise InputError(
            f"learning_curve needs at least {FEWEST_DRAWS} repeats; it was given {repeats}. Five are usual."
        )
    if not matters > 0:
        raise InputError(f"matters= is a share of the present loss above 0; it was given {matters}.")
    where = repeated.evaluated_on(problem, on)
    keys = [(draw, name, rows) for draw in range(repeats) for name in several for rows in counts]
    jobs = [Job(as_many_steps(several[name], rows, total), draw, rows, draw) for draw, name, rows in keys]
    runs, stopped = repeated.train_complete(
        problem, jobs, engine=engine, device=device, deadline=deadline, probe_rows=probe_rows
    )
    source, target, weight = repeated.rows_on(problem, where)
    outputs = {i: run.outputs(source) for i, run in runs.items()}
    wild = {keys[i] for i, found in outputs.items() if not bool(torch.isfinite(found).all())}
    missing = {keys[i][0] for i in range(len(keys)) if i not in runs} | {draw for draw, _, _ in wild}
    whole = [d for d in range(repeats) if d not in missing]
    if len(whole) < FEWEST_DRAWS:
        if stopped:
            raise KeyboardInterrupt
        names = " and ".join(sorted({repr(name) for _, name, _ in wild}))
        raise TrainingError(
            f"Only {len(whole)} of {repeats} draws were trained at every size, and {FEWEST_DRAWS} are needed. "
            + (f"{names} diverged: lower its learning rate." if wild else "Give more time, or fewer sizes.")
        )
    curves = []
    for name, recipe in several.items():
        levels = []
        for rows in counts:
            mine = [keys.index((d, name, rows)) for d in whole]
            members = torch.stack([outputs[i] for i in mine]).double()
            losses = RowLosses(problem.loss, target, weight, members[0])
            on_train = [trained_loss(jobs[i], runs[i]) for i in mine]
            levels.append(level_of(rows, losses(members), losses.share, on_train))
        curves.append(curve_of(name, recipe, levels, matters))
    cut = repeats - len(whole)
    notes = (f"{cut} draws were cut off or diverged, and are left out.",) if cut else ()
    return LearningCurve(tuple(curves), problem.loss.name, where, len(target), len(whole), matters, notes)


def row_counts(sizes: Sequence[float], total: int) -> list[int]:
    """How many of ``total`` training rows each size is, without repeats, from the fewest on."""
    found = set()
    for size in sizes:
        rows = round(size * total) if isinstance(size, float) and size <= 1 else int(size)
        if not 2 <= rows <= total:
            raise InputError(
                f"sizes= are shares in (0, 1] or numbers of at least 2 of the {total} training rows; {size} is neither."
            )
        found.add(rows)
    if len(found) < 2:
        raise InputError("A learning curve needs at least two sizes. Give for example (0.1, 0.2, 0.4, 0.7, 1.0).")
    return sorted(found)


def as_many_steps(recipe: Recipe, rows: int, total: int) -> Recipe:
    """The recipe for so many rows with as many steps as all rows take: more epochs, and patiences that grow alike.

    Batches are nearly the recipe's, and equally large: steps on a last batch of a few rows would be noise that regularizes.
    """
    if rows == total:
        return recipe
    size = recipe.batch_size * recipe.accumulate
    batch = math.ceil(rows / max(1, round(rows / size)) / recipe.accumulate)
    steps = math.ceil(rows / (batch * recipe.accumulate))
    epochs = max(1, round(recipe.epochs * math.ceil(total / size) / steps))

    def longer(patience: int) -> int:
        return max(1, round(patience * epochs / recipe.epochs)) if patience else 0

    schedule: dict[str, Any] = {}
    course = recipe.schedule.course
    if isinstance(course, Plateau):
        schedule = {key: longer(value) for key, value in vars(course).items() if key in ("patience", "cooldown")}
    elif recipe.schedule.counts_epochs:  # counts go on to be as many steps
        schedule = {"per": math.ceil(total / size)}
    return recipe.replace(
        epochs=epochs, batch_size=batch, stopping={"patience": longer(recipe.stopping.patience)}, schedule=schedule
    )


def trained_loss(job: Job, run: Run) -> float:
    """The loss on the rows that a job was trained on."""
    prepared = run.problem.prepared
    source = prepared.train_clean.subset(sample_index(prepared, job.sample)[:PROBE_ROWS])
    _, target = source.batch(torch.arange(len(source)))
    outputs = run.outputs(source).double()
    losses = RowLosses(run.problem.loss, target, source.weight, outputs)
    return float(losses(outputs[None]).mean())


def level_of(rows: int, losses: Array, share: Array, train: Sequence[float]) -> Level:
    """A size from its draws: ``losses`` are ``(draws, rows)``, of which each row counts its ``share``."""
    means = losses.mean(1, keepdims=True)
    table = np.ascontiguousarray((losses - means * (share - 1)).T)
    above = table - np.asarray(train)[None, :]
    return Level(rows, float(np.mean(train)), crossed_interval(table, LEVEL), paired_interval(above, LEVEL), table)


def curve_of(name: str, recipe: Recipe, levels: Sequence[Level], matters: float = MATTERS) -> RecipeCurve:
    """Fit, and judge what twice the rows would bring."""
    means = np.array([level.table.mean(0) for level in levels])
    if len(levels) < FEWEST_SIZES or not (np.isfinite(means).all() and (means.mean(1) > 0).all()):
        return RecipeCurve(name, recipe, tuple(levels), None, None, UNKNOWN)
    sizes = [float(level.rows) for level in levels]
    # Training loss rises with rows, and the loss of other rows falls to where the two meet: not below training loss as it is.
    floor = max(0.0, levels[-1].valid.estimate - levels[-1].gap.high)
    law = fit_power_law(sizes, means, floor)
    twice = 2 * sizes[-1]
    gain = law.gain(twice)
    by_row = gains_by_row(sizes, means, floor, [level.table for level in levels], twice)
    rows_error = float(by_row.std(ddof=1)) / math.sqrt(len(by_row)) if len(by_row) > 1 else 0.0
    gain = gain.wider(rows_error, SHAPE * gain.estimate)
    worth = matters * float(means[-1].mean())
    level = 1 - (1 - LEVEL) / (len(levels) - 1)  # all comparisons together keep it
    pairs = itertools.pairwise(levels)
    rises = next((b.rows for a, b in pairs if paired_interval(b.table - a.table, level).low > 0), 0)
    sure = not rises and chance_of_signs(by_row - worth) <= 1 - LEVEL
    verdict = HELP if sure and gain.low > worth else NOT if sure and gain.high < worth else UNKNOWN
    return RecipeCurve(name, recipe, tuple(levels), law, gain, verdict, rises)


def gains_by_row(sizes: Sequence[float], means: Array, floor: float, tables: Sequence[Array], rows: float) -> Array:
    """Each row's part in the gain, ``(rows,)`` with the gain as their mean, by the gradient of the fit."""
    base = fit_power_law(sizes, means, floor).gain(rows).estimate
    parts = np.full(len(tables[0]), base)
    for k, losses in enumerate(tables):
        step = 1e-3 * float(means[k].mean())
        moved = means.copy()
        moved[k] += step
        slope = (fit_power_law(sizes, moved, floor).gain(rows).estimate - base) / step
        parts += slope * (losses.mean(1) - losses.mean())
    return parts
