"""Where jobs are trained: together in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wellposed.core.errors import WellposedError
from wellposed.training.jobs import Cull, Done, Job, Outcome
from wellposed.training.loop import fit
from wellposed.training.problem import Problem

ENGINES = ("auto", "inprocess", "processes", "ray")


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

    After Ctrl-C the outcomes so far come back, fewer than there are jobs; the last run says ``interrupted``.

    Args:
        engine: one of `ENGINES`.
        deadline: a value of ``time.monotonic()`` after which training stops.
        probe_rows: evaluate at most this many rows of either side at each epoch; None takes all validation rows.
        cull: see `wellposed.training.jobs.Cull`.
        done: see `wellposed.training.jobs.Done`.
    """
    outcomes: list[Outcome] = []
    for place, job in enumerate(jobs):
        outcome: Outcome
        try:
            outcome = fit(
                problem, job.recipe, job.seed, device=device, deadline=deadline, rows=job.rows, probe_rows=probe_rows
            )
        except WellposedError as error:
            outcome = error
        outcomes.append(outcome)
        if done is not None:
            done(place, outcome)
        if getattr(outcome, "stopped", None) == "interrupted":
            break
    return outcomes
