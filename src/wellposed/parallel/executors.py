"""Where jobs are trained: together in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from wellposed.core.checks import Count, Seed, checked
from wellposed.core.errors import InputError, WellposedError, did_you_mean, listed
from wellposed.core.progress import emit
from wellposed.parallel.jobs import Conditions, Cull, Done, Job, NotBegun, Outcome, Outcomes, interrupted
from wellposed.parallel.population.grouping import train_population, why_alone
from wellposed.parallel.processes import cores, forkable, train_in_processes
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.training.device import resolve_device
from wellposed.training.loop import MakeOptimizer, Stop, fit
from wellposed.training.problem import Problem
from wellposed.training.run import Run

ENGINES = ("auto", "inprocess", "processes", "ray")


@checked
def train_jobs(
    problem: Problem,
    jobs: Sequence[Job],
    *,
    engine: str = "auto",
    device: str | torch.device = "auto",
    deadline: float = math.inf,
    probe_rows: int | None = None,
    cull: Cull | None = None,
    done: Done | None = None,
) -> list[Outcome]:
    """Train every job; its run, or the error that says why it could not be trained, in the order of ``jobs``.

    Which engine trains changes no result, but for rounding where threads or the jobs trained together differ; each run says
    how it was trained (``run.engine``), and so does the event ``trained``. After Ctrl-C the outcomes so far come back, fewer
    than there are jobs; those that were in the middle say ``interrupted``.

    Args:
        engine: one of `ENGINES`. ``auto`` trains here what can be trained together, and alone what cannot, in several processes
            where that helps; ``inprocess`` trains all of them here; ``processes`` in as many processes as
            there are cores, a thread each; ``ray`` on the Ray cluster of Ray's own configuration, or a local one.
        deadline: a value of ``time.monotonic()`` after which training stops.
        probe_rows: evaluate at most this many rows of either side at each epoch; None takes all validation rows.
        cull: see `wellposed.parallel.jobs.Cull`. Workers have a copy each, which judges their share of the jobs.
        done: see `wellposed.parallel.jobs.Done`. Called in this process; on Ray, when a worker's share has ended.
    Raises:
        InputError: there is no such engine or device.
        ProblemError: the problem cannot be sent to where it is to be trained.
        MissingExtra: the engine needs a package that is not installed.
    """
    train = engine_of(engine)
    if not jobs:
        return []

    def ended(place: int, outcome: Outcome) -> None:
        how = outcome.engine if isinstance(outcome, Run) else engine
        emit("trained", job=place, of=len(jobs), engine=how)
        if done is not None:
            done(place, outcome)

    return train(problem, jobs, Conditions(device, deadline, probe_rows, cull, ended))


Engine = Callable[[Problem, Sequence[Job], Conditions], list[Outcome]]
"""What `train_jobs` asks to train."""


def engine_of(name: str) -> Engine:
    """The engine of that name.

    Raises:
        InputError: there is none.
        MissingExtra: it needs a package that is not installed.
    """
    if name not in ENGINES:
        raise InputError(f"There is no engine {name!r}.{did_you_mean(name, ENGINES)} Use one of {listed(ENGINES)}.")
    if name == "ray":
        from wellposed.parallel.cluster import train_on_ray

        return train_on_ray
    return {"auto": train_auto, "inprocess": train_population, "processes": train_in_processes}[name]


TOGETHER = 5
"""Assumed speed-up of a job that is trained together with others of its shape; it divides the deadline among the jobs."""


def train_auto(problem: Problem, jobs: Sequence[Job], conditions: Conditions) -> list[Outcome]:
    """In this process what can be trained together; then what must be trained alone in several processes, where that is at
    least two jobs, a fork is safe, and there are cores and threads for it."""
    where = resolve_device(conditions.device)
    several = len(jobs) > 1 and forkable(where) and min(cores(), torch.get_num_threads()) > 1
    alone = sorted(why_alone(problem, jobs, where)) if several else []
    if len(alone) < 2:
        return train_population(problem, jobs, replace(conditions, device=where))
    told = Outcomes(len(jobs), conditions.done)
    here = [i for i in range(len(jobs)) if i not in alone]
    left = len(here) / TOGETHER
    parts: tuple[tuple[Engine, list[int], float], ...] = (
        (train_population, here, left / (left + len(alone))),
        (train_in_processes, alone, 1.0),
    )
    for train, places, share in parts:
        now = time.monotonic()
        deadline = now + share * (conditions.deadline - now)
        part = replace(conditions, device=where, deadline=deadline, done=told.finish_job)
        if places and not any(map(interrupted, told.outcomes.values())):
            train(problem, [jobs[i] for i in places], part.among(places))
    return told.so_far(ended=False)


@checked
def fit_many(
    problem: Problem,
    recipes: Sequence[Recipe | str | Path] | Recipe | str | Path,
    seeds: Sequence[Seed] = (0,),
    *,
    engine: str = "auto",
    device: str | torch.device = "auto",
    deadline: float = math.inf,
    rows: Count | None = None,
    probe_rows: Count | None = None,
    optimizer: MakeOptimizer | None = None,
    stop: Stop | None = None,
) -> list[Run]:
    """Train every recipe with every seed; the runs are ordered by recipe, then by seed. Ctrl-C ends with the runs so far.

    Args:
        engine: where they are trained; see `train_jobs`.
        device, deadline, rows, probe_rows: see `fit`. Runs that had not begun at the deadline are left out.
        optimizer, stop: see `fit`; with either, runs are trained one after another, in this process.
    Raises:
        WellposedError: a recipe cannot be used, or a run failed: then the first such error, after all others have ended.
    """
    several = [recipes] if isinstance(recipes, (Recipe, str, Path)) else list(recipes)
    jobs = [Job(recipe, int(seed), rows) for recipe, seed in itertools.product(map(as_recipe, several), seeds)]
    if optimizer is None and stop is None:
        told: dict[int, Outcome] = {}
        try:
            outcomes = train_jobs(
                problem, jobs, engine=engine, device=device, deadline=deadline, probe_rows=probe_rows,
                done=told.__setitem__,
            )  # fmt: skip
        except KeyboardInterrupt:
            outcomes = [told[place] for place in sorted(told)]
    elif engine in ("auto", "inprocess"):
        train = partial(fit, device=device, deadline=deadline, rows=rows, probe_rows=probe_rows)
        outcomes = []
        for job in jobs:
            try:
                outcomes.append(train(problem, job.recipe, job.seed, optimizer=optimizer, stop=stop))
            except WellposedError as error:
                outcomes.append(error)
            if interrupted(outcomes[-1]):
                break
    else:
        raise InputError(
            f'optimizer= and stop= are called in this process, and engine={engine!r} trains elsewhere. Use "inprocess".'
        )
    for outcome in outcomes:
        if isinstance(outcome, WellposedError) and not isinstance(outcome, NotBegun):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Run)]
