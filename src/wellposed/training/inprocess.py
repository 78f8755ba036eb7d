"""Jobs trained in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wellposed.core.errors import WellposedError
from wellposed.training.device import resolve_device
from wellposed.training.history import History
from wellposed.training.jobs import Cull, Done, Job, Outcome, Standing
from wellposed.training.loop import fit
from wellposed.training.problem import Problem


def train_inprocess(
    problem: Problem,
    jobs: Sequence[Job],
    *,
    device: str | torch.device = "auto",
    deadline: float = math.inf,
    probe_rows: int | None = None,
    cull: Cull | None = None,
    done: Done | None = None,
) -> list[Outcome]:
    """Train every job, one after another; see `wellposed.training.executors.train_jobs`."""
    device = resolve_device(device)
    outcomes: list[Outcome] = []
    for place, job in enumerate(jobs):

        def stop(history: History, place: int = place, job: Job = job) -> str | None:
            standing = Standing(place, history, job.recipe.epochs)
            return "culled" if cull is not None and place in cull([standing]) else None

        outcome: Outcome
        try:
            outcome = fit(
                problem, job.recipe, job.seed, device=device, deadline=deadline, rows=job.rows, probe_rows=probe_rows,
                stop=stop,
            )  # fmt: skip
        except WellposedError as error:
            outcome = error
        outcomes.append(outcome)
        if done is not None:
            done(place, outcome)
        if getattr(outcome, "stopped", None) == "interrupted":
            break
    return outcomes
