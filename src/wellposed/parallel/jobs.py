"""What is to be trained, together with what else: jobs, how they stand, and how each of them ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch

from wellposed.core.errors import TrainingError, WellposedError
from wellposed.recipe.recipe import Recipe
from wellposed.training.history import History, Stopped
from wellposed.training.resampling import Sample
from wellposed.training.run import Run


@dataclass(frozen=True)
class Job:
    """One recipe to be trained with one seed.

    Attributes:
        rows: train on at most this many rows (stratified); None takes all.
        draw, resample: which rows; see `wellposed.training.resampling.Sample`.
    """

    recipe: Recipe
    seed: int = 0
    rows: int | None = None
    draw: int | None = None
    resample: int | None = None

    @property
    def sample(self) -> Sample:
        return Sample(self.rows, self.draw, self.resample)


class NotBegun(TrainingError):
    """The time was over before a job began to be trained."""

    def __init__(self, message: str = "The time ran out before the training of this recipe began.") -> None:
        super().__init__(message)  # its only argument, as of every exception that a worker sends


Outcome = Run | WellposedError
"""How a job ended: its run, or why it could not be trained."""


def interrupted(outcome: Outcome) -> bool:
    """Whether Ctrl-C ended the job."""
    return isinstance(outcome, Run) and outcome.stopped == Stopped.INTERRUPTED


@dataclass(frozen=True)
class Standing:
    """How one job stands after an epoch.

    Attributes:
        job: its place among the jobs.
        history: so far, of the weights that would be used: averaged ones where there is an average.
        epochs: planned.
    """

    job: int
    history: History
    epochs: int

    @property
    def progress(self) -> float:
        """Share of the planned epochs that is done, in (0, 1]."""
        return len(self.history) / self.epochs


Cull = Callable[[Sequence[Standing]], Collection[int]]
"""Called after each epoch with those that are still trained together; the jobs to be stopped now, as ``"culled"``."""

Done = Callable[[int, Outcome], None]
"""Called with a job's place and outcome as soon as it has ended."""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions jobs are trained, wherever that is; see `wellposed.parallel.executors.train_jobs`."""

    device: str | torch.device = "auto"
    deadline: float = math.inf
    probe_rows: int | None = None
    cull: Cull | None = None
    done: Done | None = None

    def among(self, places: Sequence[int]) -> Conditions:
        """The same for a share of the jobs: asked and told by the places that these have among all."""
        cull, done = self.cull, self.done
        local = {place: i for i, place in enumerate(places)}

        def asked(standings: Sequence[Standing]) -> list[int]:
            assert cull is not None
            named = cull([replace(standing, job=places[standing.job]) for standing in standings])
            return [local[place] for place in named if place in local]

        def told(i: int, outcome: Outcome) -> None:
            assert done is not None
            done(places[i], outcome)

        return replace(self, cull=cull and asked, done=done and told)


@dataclass
class Outcomes:
    """The outcomes of ``count`` jobs so far, by their places."""

    count: int
    done: Done | None
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def finish_job(self, place: int, outcome: Outcome) -> None:
        """A job has ended, and whoever asked is told."""
        self.outcomes[place] = outcome
        if self.done is not None:
            self.done(place, outcome)

    def so_far(self, ended: bool) -> list[Outcome]:
        """The outcomes in the order of the jobs; ``ended`` says that Ctrl-C came.

        Raises:
            KeyboardInterrupt: it came when all had ended: no outcome says so, and whoever asked would go on.
        """
        if ended and len(self.outcomes) == self.count and not any(map(interrupted, self.outcomes.values())):
            raise KeyboardInterrupt
        return [self.outcomes[place] for place in sorted(self.outcomes)]
