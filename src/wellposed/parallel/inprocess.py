"""Jobs trained in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wellposed.parallel.jobs import Cull, Done, Job, Outcome
from wellposed.parallel.population.grouping import train_population
from wellposed.training.device import resolve_device
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
    """Train every job, together where that can be; see `wellposed.parallel.executors.train_jobs`."""
    found = resolve_device(device)
    return train_population(problem, jobs, device=found, deadline=deadline, probe_rows=probe_rows, cull=cull, done=done)
