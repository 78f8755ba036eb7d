"""`error_budget`: where the validation loss of a recipe comes from, measured, term by term; the terms add up.

    V(chosen) = T0  +  [T(w*) - T0]  +  [T(w_end) - T(w*)]  +  [T(chosen) - T(w_end)]  +  [V(chosen) - T(chosen)]
                floor  regularization   optimization           stopping                   generalization gap

T is the data loss on all training rows, V on all validation rows, both in evaluation mode on clean rows without penalty.
`docs/error-budget.md` says what each weight is and what each term names.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.core.checks import Seed, checked
from wellposed.core.errors import InputError, TrainingError, WellposedError
from wellposed.core.progress import emit
from wellposed.data.data import Prepared
from wellposed.decomposition.budget_findings import to_try
from wellposed.decomposition.budget_terms import Levels, Remedy
from wellposed.decomposition.measured_budget import ErrorBudget
from wellposed.decomposition.rivals import (
    ADAM_RATES,
    FEW_ADAM_RATES,
    Objective,
    larger_model_settings,
    relative_cost,
    rival_epochs,
    rival_recipes,
    unregularized_rivals,
)
from wellposed.decomposition.training_cost import StateDict, View, loss_as_trained, penalty_costs
from wellposed.diagnosis.advice import Room
from wellposed.optim.averaging import batch_norms
from wellposed.optimality.settle import settle
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job, interrupted
from wellposed.penalties.base import FunctionalPenalty
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.intervals import Array
from wellposed.training.evaluate import batches_of, call
from wellposed.training.history import History, Stopped
from wellposed.training.problem import Problem
from wellposed.training.resampling import with_sample
from wellposed.training.run import Run

SEEDS = (0, 1, 2)
ON = 2
"""Rivals of each kind that go on from the first seed to the others."""
PROBE_ROWS = 64
"""Rows at which rivals are looked at in each epoch: they keep their last weights, so looking is no choice."""
TRAINING_SHARE = 0.5
"""Of the time that is left, for rivals; the rest is for trying remedies, for settling, and for what is slower than it was."""
POLISH = (200, 2000)
"""At least and at most so many full-batch steps settle the best rival: fewer do not pay, more are another training."""
POLISH_STEP = 4.0
"""Times as long as looking at all rows once takes a full-batch step: forth, back, and forth again to see how long it may be."""
SETTLING_SHARE = 0.5
"""Of the time that is left after training rivals; remedies take the rest."""
SHARE = 0.6
"""Of the time that is left, at most, for the rivals of the first seed, and then for those of the others."""
SPARE = 1.5
"""Looking at networks is given so many times the time that the recipe's own took."""


@checked
def error_budget(
    problem: Problem,
    recipe: Recipe | str | Path = "baseline",
    *,
    seeds: Iterable[Seed] | None = None,
    runs: Sequence[Run] | Run = (),
    epochs: int | None = None,
    rows: int | None = None,
    seconds: float | None = None,
    deadline: float = math.inf,
    engine: str = "auto",
    device: str = "auto",
    level: float = 0.95,
) -> ErrorBudget:
    """Split the validation loss of a recipe into floor, regularization, optimization, stopping and generalization gap.

    Beside the recipe this trains rivals that minimize the same cost by other means (w* is the best of all weights seen), the
    same network without regularization, and a larger one. All are trained with the first seed, the best two of each kind with
    the others too.

    Args:
        seeds: at least one, each once; by default those of ``runs``, or 0, 1 and 2. Two or more give intervals for the terms that
            seeds vary; 3 show large terms.
        runs: of this recipe and problem, already trained to their end, on equal rows: they are not trained again.
        epochs: of each rival, >= 1; by default twice as many as the recipe took, and at least 1,000 steps.
        rows: those that the recipe is trained on; see `fit`.
        seconds: bounds the probe: > 0; what is trained until then counts. The recipe's own runs must have ended.
        deadline: the same as a value of ``time.monotonic()``.
        engine, device: see `fit_many`.
        level: of the intervals, inside (0, 1).
    Raises:
        InputError: no seed, a seed twice, runs of another recipe or problem, or runs that were stopped from outside.
        TrainingError: the recipe's own runs did not end in time, or all of them diverged.
        KeyboardInterrupt: Ctrl-C; a budget of a part of the rivals would name the wrong lever.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> problem = wp.Problem(lambda: torch.nn.Linear(3, 1), "squared_error", wp.Data(train=(x, x[:, :1]), valid=0.5))
        >>> budget = wp.error_budget(problem, wp.Recipe(epochs=5), seeds=(0, 1), epochs=20)
        >>> abs(sum(part.estimate for part in budget.parts) - budget.valid.estimate) < 1e-9
        True
    """
    recipe = as_recipe(recipe)
    given = [runs] if isinstance(runs, Run) else list(runs)
    for run in given:
        if run.problem is not problem or run.recipe.differences(recipe):
            raise InputError(
                "runs= must be of this problem and this recipe. Leave them out, and the recipe is trained."
            )
        if run.stopped not in (Stopped.EPOCHS, Stopped.PATIENCE, Stopped.DIVERGED):
            raise InputError(
                f"A run that was stopped from outside ({run.stopped!r}) has no end of its own. Leave it out."
            )
    numbers = [run.seed for run in given] or list(SEEDS) if seeds is None else list(map(int, seeds))
    numbers += [run.seed for run in given if run.seed not in numbers]
    if not numbers or len(set(numbers)) < len(numbers) or not 0 < level < 1:
        raise InputError(
            f"error_budget needs different seeds and a level inside (0, 1); given {numbers} and {level!r}."
        )
    if seconds is not None:
        if not seconds > 0:
            raise InputError(f"seconds= must be above 0; it was given {seconds!r}.")
        deadline = min(deadline, time.monotonic() + seconds)
    if given:
        least = min(int(run.history.facts.get("train_rows", len(problem.prepared.train))) for run in given)
        rows = least if least < len(problem.prepared.train) else None
    probe = _Probe(problem, recipe, Objective.of(problem, recipe), tuple(numbers), rows, deadline, engine, device)
    return probe.measured(given, epochs, level)


@dataclass(frozen=True)
class Found:
    """Weights with what they cost.

    Attributes:
        training: the data loss; ``valid``: each validation row's part of it.
        cost: what the recipe minimizes, at these weights.
        by: the recipe that found them, None where it is the budget's own; ``polished`` by full-batch steps.
    """

    state: StateDict
    training: float
    valid: Array
    cost: float
    by: Recipe | None = None
    polished: bool = False


@dataclass(frozen=True)
class RivalPlan:
    """Which rivals are trained: for so many epochs, and ``few`` where time is short."""

    length: int
    few: bool = False

    @property
    def on(self) -> int:
        """Rivals of each kind that go on to the other seeds."""
        return 1 if self.few else ON

    def kinds(self, objective: Objective, recipe: Recipe, bigger: Mapping[str, Any] | None) -> dict[str, list[Recipe]]:
        return {
            "rivals": rival_recipes(objective, self.length, self.few),
            "same": unregularized_rivals(recipe, self.length, few=self.few) if objective.regularized else [],
            "larger": [] if bigger is None else unregularized_rivals(recipe, self.length, bigger, self.few),
        }

    def jobs(self, objective: Objective, seeds: int, weighs: float) -> float:
        """How many there are; larger ones count ``weighs`` times."""
        rates = len(FEW_ADAM_RATES if self.few else ADAM_RATES)
        first = len(rival_recipes(objective, 1, self.few)) + rates * (objective.regularized + weighs)
        return first + (seeds - 1) * self.on * (1 + objective.regularized + weighs)


def _pace(runs: Sequence[Run]) -> float:
    """Seconds of an epoch."""
    return sum(math.fsum(run.history["seconds"]) / len(run.history) for run in runs) / len(runs)


def least_seconds(problem: Problem, recipe: Recipe, runs: Sequence[Run]) -> float:
    """The time below which `error_budget` cannot train its rivals for as many epochs as the recipe took, and names nothing.

    Args:
        runs: of the recipe, one or more; they tell how long an epoch takes.
    """
    weighs = relative_cost(problem, recipe, larger_model_settings(problem, recipe))
    jobs = RivalPlan(1, few=True).jobs(Objective.of(problem, recipe), len(runs), weighs)
    return jobs * _pace(runs) * max(len(run.history) for run in runs) / TRAINING_SHARE


@dataclass
class _Probe:
    """A measurement under way: what is trained, and what was found.

    Attributes:
        hurried: whether time was too short for rivals that train as long as the recipe.
        look: seconds that it took to look at a network, its cost included, at most.
        pass_: seconds of one pass over training and validation rows, at most.
    """

    problem: Problem
    recipe: Recipe
    objective: Objective
    seeds: tuple[int, ...]
    rows: int | None
    deadline: float
    engine: str
    device: str
    runs: int = 0
    epochs: int = 0
    hurried: bool = False
    look: float = 0.0
    pass_: float = 0.0
    notes: list[str] = field(default_factory=list)

    def measured(self, given: Sequence[Run], epochs: int | None, level: float) -> ErrorBudget:
        began = time.perf_counter()
        own, ends = self.own(given)
        chosen = {seed: (self.found("own", own[seed]), self.found("own", ends[seed])) for seed in own}
        steps = math.ceil(min(self.rows or math.inf, len(self.problem.prepared.train)) / self.recipe.batch_size)
        bigger = larger_model_settings(self.problem, self.recipe)
        length = epochs or rival_epochs(max(len(run.history) for run in own.values()), steps)
        took = max(len(run.history) for run in own.values())
        plan = self.affordable(length, took, own, bigger)
        kinds = plan.kinds(self.objective, self.recipe, bigger)
        found = self.compete(kinds, list(own), plan.on)
        settled = self.settled(found, list(own))
        levels = tuple(self.levels(seed, *chosen[seed], found, settled) for seed in own)
        if bigger is None:
            self.notes.append(
                "No setting is known that makes the model larger, so the floor is that of the same network, and capacity is not "
                'known. Give the problem a space such as {"width": [64, 256]}.'
            )
        if len(own) < 2:
            self.notes.append(
                "One seed does not show how much seeds differ: the intervals cover only the choice of validation rows."
            )
        constant = float(self.problem.constant().get("constant_loss", math.nan))
        budget = ErrorBudget(
            levels, tuple(own), self.recipe, self.objective, bigger, level, constant,
            room=Room.of(self.problem, next(iter(own.values())).model), hurried=self.hurried,
        )  # fmt: skip
        if any(part.name == "optimization" and budget.helped(part) is False for part in budget.suspects):
            budget = replace(budget, levels=self.on_the_way(budget))
        if len(own) > 1:
            budget = replace(budget, remedies=self.remedies(budget))
        notes = tuple(dict.fromkeys((*self.objective.notes, *self.notes)))  # each once, in order
        return replace(budget, runs=self.runs, epochs=self.epochs, seconds=time.perf_counter() - began, notes=notes)

    def remedies(self, budget: ErrorBudget) -> tuple[Remedy, ...]:
        """The changes that the parts would propose, trained with the budget's seeds and stopped as the recipe is.

        Only those count that were trained to their end with every seed.
        """
        changes = [(name, change) for name, several in to_try(budget).items() for change in several]
        jobs = [Job(change.recipe, seed, self.rows) for _, change in changes for seed in budget.seeds]
        if not jobs:
            return ()
        emit("error_budget", jobs=len(jobs))
        rows = iter([self.rows_of(run) for run in self.train(jobs, None)])
        tried = []
        for name, change in changes:
            own = tuple(one for one in itertools.islice(rows, len(budget.seeds)) if one is not None)
            if len(own) == len(budget.seeds):
                tried.append(Remedy(name, change, own))
        if len(tried) < len(changes):
            self.notes.append(
                f"{len(changes) - len(tried)} of {len(changes)} changes failed or were not trained to their end, and do not count."
            )
        return tuple(tried)

    def rows_of(self, run: Run | None) -> Array | None:
        """The validation loss, each row's part; None where the run did not come to its own end, or lost the numbers."""
        if run is None or run.stopped not in (Stopped.EPOCHS, Stopped.PATIENCE) or run.best_epoch < 0:
            return None
        rows = self.losses(run)[1]
        return rows if np.isfinite(rows).all() else None

    def on_the_way(self, budget: ErrorBudget) -> tuple[Levels, ...]:
        """The levels with the validation loss at the best epoch on the way to w*, where the recipe, too, keeps its best."""
        if self.recipe.stopping.keep != "best":
            return budget.levels
        levels = list(zip(budget.seeds, budget.levels, strict=True))
        best = {"keep": "best"}
        jobs = [Job(one.rival.replace(stopping=best), seed, self.rows) for seed, one in levels if one.rival is not None]
        rows = {job.seed: self.rows_of(run) for job, run in zip(jobs, self.train(jobs, None), strict=True)}
        if any(one is None for one in rows.values()):
            return budget.levels
        # Where w* is the recipe's own there is no other way.
        return tuple(replace(one, valid_way=rows.get(seed, one.valid)) for seed, one in levels)

    def affordable(self, length: int, took: int, own: Mapping[int, Run], bigger: Mapping[str, Any] | None) -> RivalPlan:
        """The rivals that fit into the time, by the pace of the recipe's own runs: a schedule that is cut off has not come down,
        and is worse than a short one. First there are fewer, then they are shorter."""
        if math.isinf(self.deadline):
            return RivalPlan(length)
        weighs, pace = relative_cost(self.problem, self.recipe, bigger), _pace(list(own.values()))
        for plan in (RivalPlan(length), RivalPlan(length, few=True)):
            jobs = plan.jobs(self.objective, len(own), weighs)
            left = TRAINING_SHARE * (self.deadline - SPARE * self.look * jobs - time.monotonic())
            fits = max(1, int(left / max(jobs * pace, 1e-9)))
            if fits >= length:
                break
        if plan.few:
            self.notes.append(
                "For want of time there were fewer other networks: the floor and the best weights may lie lower."
            )
        if fits < length:
            self.notes.append(f"For want of time the other networks had {fits} epochs each and not {length}.")
        self.hurried = fits < min(took, length)
        return replace(plan, length=min(length, fits))

    def own(self, given: Sequence[Run]) -> tuple[dict[int, Run], dict[int, Run]]:
        """The recipe's runs with the weights that come back, and with those of their last epoch, by seed.

        A run with the same seed takes the same way; another one keeps the end of it.
        """
        runs = {run.seed: run for run in given}
        last = self.recipe.replace(stopping={"keep": "last"})
        jobs = [Job(self.recipe, seed, self.rows) for seed in self.seeds if seed not in runs]
        ended = {seed for seed, run in runs.items() if run.best_epoch == len(run.history) - 1}
        jobs += [Job(last, seed, self.rows) for seed in self.seeds if seed not in ended]
        trained = self.train(jobs, None)
        ends: dict[int, Run] = {}
        for job, run in zip(jobs, trained, strict=True):
            if run is None or run.stopped == Stopped.BUDGET:
                raise TrainingError(
                    "The recipe's own runs did not end in the time that was given. Give the budget more seconds, or runs."
                )
            (ends if job.recipe is last else runs)[job.seed] = run
        diverged = {s for s, r in runs.items() if Stopped.DIVERGED in (r.stopped, ends.get(s, r).stopped)}
        kept = {s: runs[s] for s in self.seeds if runs[s].best_epoch >= 0 and s not in diverged}
        if not kept:
            raise TrainingError(
                "Every run of the recipe diverged, so there is no loss to split. Lower its learning rate."
            )
        if len(kept) < len(self.seeds):
            self.notes.append(f"{len(self.seeds) - len(kept)} of {len(self.seeds)} runs diverged and are left out.")
        return kept, {s: ends.get(s, run) for s, run in kept.items()}

    def train(self, jobs: Sequence[Job], probe_rows: int | None, share: float = 1.0) -> list[Run | None]:
        """Train, and count what it takes; None for what failed or never began.

        Args:
            share: of the time that is left and not needed to look at what was trained.
        """
        now = time.monotonic()
        left = share * (self.deadline - SPARE * self.look * len(jobs) - now)
        if left <= 0 or not jobs:
            return [None] * len(jobs)
        outcomes = train_jobs(
            self.problem, jobs, engine=self.engine, device=self.device, deadline=now + left, probe_rows=probe_rows
        )
        if any(map(interrupted, outcomes)):
            raise KeyboardInterrupt
        kept = [outcome if isinstance(outcome, Run) else getattr(outcome, "run", None) for outcome in outcomes]
        runs = [run if isinstance(run, Run) else None for run in kept] + [None] * (len(jobs) - len(kept))
        epochs = [len(run.history) for run in runs if run is not None]
        self.runs, self.epochs = self.runs + len(epochs), self.epochs + sum(epochs)
        return runs

    def compete(
        self, kinds: Mapping[str, Sequence[Recipe]], seeds: Sequence[int], on: int
    ) -> dict[tuple[str, int], list[Found]]:
        """Train all of each kind with the first seed, and the best of each kind with the others."""
        found: dict[tuple[str, int], list[Found]] = {(kind, seed): [] for kind in kinds for seed in seeds}
        going = {kind: list(recipes) for kind, recipes in kinds.items()}
        cut = 0
        for first, stage in ((True, seeds[:1]), (False, seeds[1:])):
            jobs = [(kind, Job(recipe, seed, self.rows)) for kind in going for recipe in going[kind] for seed in stage]
            if not jobs:
                continue
            emit("error_budget", jobs=len(jobs))
            trained = self.train([job for _, job in jobs], PROBE_ROWS, SHARE)
            missing = [run is None or run.stopped == Stopped.BUDGET for run in trained]
            cut += sum(missing)
            self.hurried = self.hurried or (math.isfinite(self.deadline) and 2 * sum(missing) > len(missing))
            for (kind, job), run in zip(jobs, trained, strict=True):
                if run is not None and run.best_epoch >= 0:
                    one = self.found(kind, run)
                    if math.isfinite(one.training) and math.isfinite(one.cost):
                        found[kind, job.seed].append(one)
            if first:
                for kind in going:
                    ranked = sorted(found[kind, stage[0]], key=lambda one: one.cost)
                    going[kind] = [one.by for one in ranked[:on] if one.by is not None]
        if cut:
            self.notes.append(
                f"{cut} of the other networks failed or were not trained to their end: the floor and the best weights may lie "
                "lower."
            )
        return found

    def found(self, kind: str, run: Run) -> Found:
        """What a run found; of networks without regularization the cost is the training loss."""
        began = time.perf_counter()
        training, valid = self.losses(run)
        state = run.model.state_dict()
        cost = self.cost(state, run.seed, training) if kind in ("own", "rivals") else training
        self.look = max(self.look, time.perf_counter() - began)
        return Found(state, training, valid, cost, None if kind == "own" else run.recipe)

    def losses(self, run: Run) -> tuple[float, Array]:
        """The data loss on all training rows, and each validation row's part of it."""
        began = time.perf_counter()
        training, valid = run.losses(self.data.train_clean), run.losses(self.data.valid)
        self.pass_ = max(self.pass_, time.perf_counter() - began)
        return training.mean, valid.rows.numpy().astype(np.float64)

    @cached_property
    def data(self) -> Prepared:
        """The rows that the recipe is trained on, and those for validation."""
        return with_sample(self.problem.prepared, Job(self.recipe, rows=self.rows).sample)

    def cost(self, state: StateDict, seed: int, training: float) -> float:
        """The expected noisy loss in evaluation mode of batch norm, plus all penalties; the data loss where there is no cost."""
        recipe, rows = self.objective.cost, min(self.rows or math.inf, len(self.problem.prepared.train))
        # Of the recipe's training, for strengths that follow a schedule.
        last = math.ceil(rows / (self.recipe.batch_size * self.recipe.accumulate)) * self.recipe.epochs - 1
        _, penalty = penalty_costs(self.problem, recipe, state, seed=seed, step=last, rows=self.rows)
        functional = any(isinstance(term.charge, FunctionalPenalty) for term in recipe.build_terms(1))
        if not self.objective.noisy and not recipe.noise.acting("labels") and not functional:
            return training + penalty
        mode: Any = "noise" if self.objective.noisy else "evaluation"
        noisy = loss_as_trained(self.problem, state, View(recipe, mode), rows=self.rows, step=last)
        return noisy.loss + float(noisy.outputs.mean()) + penalty

    def settled(
        self, found: Mapping[tuple[str, int], Sequence[Found]], seeds: Sequence[int]
    ) -> dict[tuple[str, int], Found]:
        """The best rival of each seed, and the best network without regularization, settled where nothing is drawn."""
        quiet = self.objective.fixed and not self.objective.noisy and not self.objective.recipe.noise.acting("labels")
        kinds = ("rivals", "same") if quiet else ("same",)
        wanted = [(kind, seed) for kind in kinds for seed in seeds if found.get((kind, seed))]
        settled = {}
        for left, (kind, seed) in zip(range(len(wanted), 0, -1), wanted, strict=True):
            best = min(found[kind, seed], key=lambda one: one.cost)
            terms = self.objective.recipe if kind == "rivals" else best.by
            one = None if terms is None else self.polished(best, seed, terms, left)
            if one is not None and math.isfinite(one.training):
                settled[kind, seed] = one
        return settled

    def polished(self, best: Found, seed: int, terms: Recipe, pending: int) -> Found | None:
        """The weights settled by full-batch steps on the cost of ``terms``; None where its cost is not smooth in this way."""
        if best.by is None or self.data.train.weight is not None:
            return None
        model = self.problem.build(best.by.model, seed)
        model.load_state_dict(dict(best.state))
        if batch_norms(model):  # its statistics would stay while the weights move
            return None
        forward = None if self.problem.forward is call else lambda net, batch: self.problem.forward(net, batch[0])
        steps = min(max(POLISH[0], best.by.epochs), POLISH[1])
        if math.isfinite(self.deadline):
            left = SETTLING_SHARE * (self.deadline - time.monotonic()) / pending - SPARE * self.look
            steps = min(steps, int(max(left, 0.0) / max(POLISH_STEP * self.pass_, 1e-9)))
        if steps < POLISH[0]:
            self.notes.append("For want of time the best weights were not settled by steps on all rows.")
            return None
        try:
            batches = list(batches_of(self.data.train_clean))
            settle(model, self.problem.loss, batches, terms.build_terms(None), steps=steps, forward=forward)
        except WellposedError as error:
            self.notes.append(f"The best weights were not settled: {error}")
            return None
        run = Run(model.eval(), History(), best.by, seed, self.problem)
        training, valid = self.losses(run)
        state = model.state_dict()
        cost = training if terms is not self.objective.recipe else self.cost(state, seed, training)
        return Found(state, training, valid, cost, best.by, True)

    def levels(
        self,
        seed: int,
        chosen: Found,
        last: Found,
        found: Mapping[tuple[str, int], Sequence[Found]],
        settled: Mapping[tuple[str, int], Found],
    ) -> Levels:
        """What the terms of one seed are differences of."""
        own, bare = ([settled[key, seed]] if (key, seed) in settled else [] for key in ("rivals", "same"))
        everything = [*found["rivals", seed], last, chosen, *own]
        best = min(everything, key=lambda one: one.cost)
        same = [*found["same", seed], *everything, *bare]
        lowest = min(one.training for one in same)
        floor = min([lowest, *(one.training for one in found["larger", seed])])
        winner = ""
        if best.by is not None:
            how = best.by.optimizer
            winner = f"{how.name} lr {how.lr:.2g}, {best.by.schedule.name}, {best.by.epochs} epochs"
            winner += ", settled on all rows" if best.polished else ""
        return Levels(
            floor, lowest, best.training, last.training, chosen.training, chosen.valid, best.valid, last.valid, last.cost,
            best.cost, winner, best.by, **self.kin(found["rivals", seed]),
        )  # fmt: skip

    def kin(self, found: Sequence[Found]) -> dict[str, Any]:
        """What the recipe's own optimizer reaches at its own rate, and what it or its kind does at any."""
        own = self.recipe.optimizer
        kind = [  # Adam and AdamW are one where nothing decays
            (one.training, one.by) for one in found
            if one.by is not None and one.by.optimizer.title.removesuffix("w") == own.title.removesuffix("w")
        ]  # fmt: skip
        same = [training for training, by in kind if by.optimizer.lr == own.lr]
        loss, best = min(kind, key=lambda one: one[0], default=(math.nan, None))
        return {"patient": min(same, default=math.nan), "kin": best, "kin_loss": loss}
