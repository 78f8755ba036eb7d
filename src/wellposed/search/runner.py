"""Where lots of recipes are trained together, booked, and kept on disk each as soon as it has ended."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wellposed.core.clock import DIAGNOSIS, WRITING, spent_on
from wellposed.core.errors import InputError, TrainingError, WellposedError
from wellposed.core.progress import emit
from wellposed.core.shared import threads_of
from wellposed.diagnosis.diagnose import Diagnosis, diagnose
from wellposed.diagnosis.rules.rule import Rule
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job, Outcome
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.optuna_journal import Journal
from wellposed.search.space import Point
from wellposed.search.successive_halving import Halving, reached_rungs
from wellposed.search.timing import Pace, TrialTiming
from wellposed.study.budget import Account
from wellposed.study.ranking import Rank, chosen_row, ended_usable, shown_score, sign_of
from wellposed.study.trials import BOOKED, FailedTrial, Pending, State, Trial, book_trials
from wellposed.training.history import History, Stopped
from wellposed.training.problem import Problem
from wellposed.training.run import Run

SOME_WORK = 0.2
"""Seconds of work from which it is told how busy the machine is."""
LAST = 5
"""Runs of the search and of the finalists whose models are kept: many would fill the memory."""


Note = Callable[[Trial, Run], None]


@dataclass(frozen=True)
class PlannedTrial:
    """A recipe that is to be trained.

    Attributes:
        index: of its trial.
        recipe: as it was proposed; ``run`` is the same with its epochs.
        point: in the space; empty where it did not come from there.
    """

    index: int
    recipe: Recipe
    run: Recipe
    seed: int
    point: Point = field(default_factory=dict)

    def kept(self, kind: str) -> dict[str, Any]:
        """The recipe as the state has it."""
        return (self.run if kind == "confirmation" else self.recipe).to_dict()


class Bench:
    """What all stages of a study share: the problem, the budget, the state on disk, and the way to train a lot.

    Attributes:
        runs: those whose models are kept, by the number of their trial.
        notes: what the study has to say.
        interrupted: whether Ctrl-C ended it; ``cut`` is then the run that was being trained.
        kept_free: share of the budget that the confirmation leaves to smaller networks.
    """

    def __init__(
        self,
        problem: Problem,
        account: Account,
        state: State,
        folder: Path | None,
        device: torch.device,
        engine: str,
        rules: Sequence[Rule] = (),
        kept_free: float = 0.0,
    ) -> None:
        self.problem, self.account, self.state, self.folder = problem, account, state, folder
        self.device, self.engine, self.seed, self.rules = device, engine, state.seed, rules
        self.pace = Pace(problem, account, device)
        self.sign = sign_of(problem)
        self.journal = None if folder is None else Journal(folder, self.sign > 0)
        self.runs: dict[int, Run] = {}
        self.notes: list[str] = []
        self.interrupted = False
        self.cut: Run | None = None
        self.kept_free = kept_free
        self.before, self.start = state.seconds, 0.0
        self.slower, self.seen = 1.0, (time.monotonic(), busy_seconds())
        self.cut_short: Counter[str] = Counter()  # recipes of each kind that the clock cut
        self.booked = {trial.index for trial in state.of(*BOOKED)}
        self.numbered: set[int] = set()

    def until(self, share: float) -> float:
        """The share of the whole budget at which ``share`` of what was left at the start is gone; see `shares`."""
        return self.start + (1.0 - self.start) * share

    @property
    def writing(self) -> float:
        """Seconds to be kept for what comes after training: more where other processes leave this one little of the machine."""
        return self.slower * min(budget_split.WRITING, budget_split.MOST_WRITING * self.account.budget.amount)

    def look_around(self) -> None:
        """See how much of the machine this process had since it last looked: a second of its work took so many seconds. What is
        trained on a cluster says nothing of that."""
        (wall, used), now = self.seen, (time.monotonic(), busy_seconds())
        if now[1] - used >= SOME_WORK and self.engine != "ray":
            self.slower = min(max((now[0] - wall) / (now[1] - used), 1.0), budget_split.SLOWEST)
            self.seen = now

    @property
    def latest(self) -> float:
        """The share of the budget by which any training is cut, so that all is written in time."""
        return budget_split.ENDS - self.writing / self.account.budget.amount if self.account.timed else math.inf

    def late(self) -> bool:
        """Whether figures would be drawn when all should have been written."""
        self.look_around()
        drawn = self.account.elapsed + self.slower * budget_split.DRAWING
        return self.account.timed and drawn > budget_split.ENDS * self.account.budget.amount

    def seconds_until(self, share: float, part: float = 1.0) -> float:
        """Seconds that a lot may be planned to take which ends by a share of what was left at the start, or a ``part`` of them."""
        return part * self.seconds_to(self.until(share))

    def seconds_to(self, share: float) -> float:
        """The same for a share of the whole budget."""
        return budget_split.HASTE * (share - self.account.spent) * self.account.budget.amount

    @property
    def total(self) -> int:
        """How many training rows there are."""
        return len(self.problem.prepared.train)

    def rank(self, trial: Trial) -> Rank:
        return trial.rank(self.sign)

    # --- plans

    def planned(self, kind: str, recipe: Recipe, run: Recipe, seed: int, point: Point | None = None) -> PlannedTrial:
        """A recipe to be trained; one that was planned before, since the last confirmation, keeps its number."""
        text = json.dumps(PlannedTrial(0, recipe, run, seed).kept(kind), sort_keys=True)
        before: list[Pending | Trial] = [*self.state.pending, *self.state.trials[self.state.confirmed :]]
        same = (
            one.index
            for one in before
            if one.index not in self.numbered and (one.kind, one.seed) == (kind, seed)
            and json.dumps(one.recipe, sort_keys=True) == text
        )  # fmt: skip
        number = next(same, None)
        number = self.state.number() if number is None else number
        self.numbered.add(number)
        return PlannedTrial(number, recipe, run, seed, point or {})

    def left(self, lot: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """What of a lot is still to be trained. Without a clock that is all of it unless every recipe has ended, since what is
        trained together and stopped together must be so again for equal results; under a clock only what has not ended."""
        ended = self.state.ended()
        missing = [planned for planned in lot if planned.index not in ended]
        return missing if self.account.timed or not missing else list(lot)

    def begin_again(self) -> list[Trial]:
        """The trials of the last confirmation. What came after them is trained anew, with its numbers, and booked anew: a process
        was killed before all that its runs say was kept."""
        kept = self.state.trials[: self.state.confirmed]
        self.booked = {trial.index for trial in kept if trial.kind in BOOKED}
        self.account.recipes = self.account.epochs = 0
        book_trials(self.account, kept, [one for one in self.state.failed if kept and one.index < kept[-1].index])
        return kept

    def waits(self, kind: str, lot: Sequence[PlannedTrial], rows: int | None) -> None:
        """Write down a lot before it is trained, so that it keeps its numbers; the search has done so when it planned it."""
        if kind != "search":
            self.state.pending = [pending for pending in self.state.pending if pending.kind != kind]
            for one in lot:
                pending = Pending(one.index, one.kept(kind), one.point, one.run.epochs, rows, kind, one.seed)
                self.state.pending.append(pending)
            self.keep()

    def trained(self, recipe: Recipe) -> Run | None:
        """Of the recipe's runs that are at hand the one that was trained on most rows, and of those one that ended by itself."""
        built = {trial.index: trial.built for trial in self.state.trials}
        alike = [run for index, run in self.runs.items() if built.get(index) == recipe]
        cut = (Stopped.BUDGET, Stopped.CULLED)
        return max(alike, key=lambda run: (len(run.problem.prepared.train), run.stopped not in cut), default=None)

    def stand_in(self, recipe: Recipe) -> Run:
        """A run of the recipe, or else another that was trained, for a study that was interrupted before its confirmation."""
        stood_in = self.trained(recipe) or next(iter(self.runs.values()), self.cut)
        if stood_in is None or not stood_in.history.rows:
            raise KeyboardInterrupt
        return stood_in

    # --- a lot

    def train(
        self,
        kind: str,
        lot: Sequence[PlannedTrial],
        rows: int | None = None,
        ends: float = math.inf,
        halving: Halving | None = None,
        note: Note | None = None,
    ) -> list[Run | None]:
        """Train a lot together; its runs in order, None for what was not trained to an end.

        Args:
            rows: train on at most this many; None takes all.
            ends: share of the budget by which training is cut, under a clock.
            halving: stops the worse of them early.
            note: called with a trial and its run before the trial is written, so that what it notes is written with it.
        Raises:
            TrainingError, InputError: of the baseline and the confirmation, which need their runs.
        """
        if not lot or self.interrupted:
            return [None] * len(lot)
        self.waits(kind, lot, rows)
        began = time.monotonic()
        runs: list[Run | None] = [None] * len(lot)
        errors: list[WellposedError] = []

        def done(place: int, outcome: Outcome) -> None:
            if isinstance(outcome, Run):
                runs[place] = self._ended(kind, lot[place], outcome, rows, (time.monotonic() - began) / len(lot), note)
            elif time.monotonic() > deadline and getattr(outcome, "run", None) is None:
                self.cut_short[kind] += 1  # it had not begun, which says nothing of it
            elif kind in ("search", "finalist", "ablation", "small"):
                self._not_trained(kind, lot[place], outcome)
            else:
                errors.append(outcome)

        self.look_around()
        deadline = self.account.deadline(min(ends, self.latest))
        jobs = [Job(planned.run, planned.seed, rows) for planned in lot]
        try:
            with threads_of(self.pace.threads()):
                outcomes = train_jobs(
                    self.problem, jobs, engine=self.engine, device=self.device, deadline=deadline,
                    probe_rows=self.pace.probe_rows(rows or self.total), cull=halving, done=done,
                )  # fmt: skip
        except KeyboardInterrupt:  # before the first step
            self.interrupted = True
            return runs
        if len(outcomes) < len(jobs) or any(getattr(o, "stopped", "") == Stopped.INTERRUPTED for o in outcomes):
            self.interrupted = True
        if errors:
            raise errors[0]
        if kind != "search" and not self.interrupted:
            self.state.pending = [pending for pending in self.state.pending if pending.kind != kind]
        if self.account.timed and not self.interrupted:
            trained = [TrialTiming.of(run) for run in runs if run is not None]
            self.pace.compiled = any(run.engine.startswith("compiled") for run in runs if run is not None)
            self.pace.took(kind, trained, rows or self.total, time.monotonic() - began)
        self._forget()
        return runs

    def _ended(
        self, kind: str, planned: PlannedTrial, run: Run, rows: int | None, seconds: float, note: Note | None
    ) -> Run | None:
        """Book a run and keep it; None for one that was interrupted, or cut before its first epoch."""
        if run.stopped == Stopped.INTERRUPTED:
            # Half a run says nothing of its recipe; the study goes on with a whole one.
            self.interrupted, self.cut = True, run
            return None
        if run.stopped == Stopped.BUDGET:
            self.cut_short[kind] += 1
            if not ended_usable(run):
                return None
        last, finite = chosen_row(run), ended_usable(run)
        trial = Trial(
            index=planned.index,
            kind=kind,
            recipe=planned.kept(kind),
            describe=planned.run.describe(),
            seed=planned.seed,
            valid=shown_score(last) if finite else math.nan,
            valid_loss=last["valid_loss"] if finite else math.nan,
            train_loss=last["train_loss"] if finite else math.nan,
            epochs=len(run.history),
            best_epoch=run.best_epoch,
            seconds=seconds,
            stopped=run.stopped,
            train_rows=rows or self.total,
            params=dict(planned.point),
            rungs=[] if kind != "search" else reached_rungs(run.history, planned.run.epochs, self.sign),
            findings=[] if kind != "baseline" else [finding.name for finding in self.diagnosed(run.history)],
        )
        self.runs[trial.index] = run
        known = trial.index in self.state.ended() and kind in (*BOOKED, "finalist")
        if not known:  # of a lot that is trained again, what had ended stays as it was written
            self.state.add(trial)
        if kind in BOOKED and trial.index not in self.booked:
            self.booked.add(trial.index)
            self.account.book(trial.epochs)
        if note is not None:
            note(trial, run)
        self.keep()
        if self.journal is not None and not known:
            with spent_on(WRITING):
                self.journal.add(trial)
        self._forget()
        emit("trial", trial=trial, best=self.best_so_far(), elapsed=self.account.elapsed, spent=self.account.spent)
        return run

    def _not_trained(self, kind: str, planned: PlannedTrial, error: WellposedError) -> None:
        """What cannot be trained is said and passed over in the search; baseline and confirmation need their runs."""
        if not isinstance(error, (TrainingError, InputError)):
            raise error
        if planned.index in self.state.ended():
            return
        if kind in BOOKED:
            self.account.book(1)
        self.state.failed.append(FailedTrial(planned.index, kind, f"{planned.recipe.describe()}: {error}"))
        self.keep()

    def diagnosed(self, run: Run | History) -> Diagnosis:
        """What holds a run back; rules of the user's own are asked too."""
        with spent_on(DIAGNOSIS):
            return diagnose(run, rules=self.rules)

    # --- what is kept

    def keep(self) -> None:
        """Write the state, so that a killed process loses at most the lot that it was training."""
        if self.folder is not None:
            with spent_on(WRITING):
                self.state.seconds = self.before + self.account.elapsed
                self.state.save(self.folder)

    def best_so_far(self) -> float:
        """The best validation score of the baseline and the search; NaN before there is one."""
        ranked = [trial for trial in self.state.of(*BOOKED) if math.isfinite(trial.valid_loss)]
        return max(ranked, key=self.rank).valid if ranked else math.nan

    def _forget(self) -> None:
        """Keep the models of baseline and confirmation, and the last of the others."""
        kinds = {trial.index: trial.kind for trial in self.state.trials}
        others = [index for index in self.runs if kinds.get(index) not in ("baseline", "confirmation")]
        for index in others[:-LAST]:
            del self.runs[index]


def busy_seconds() -> float:
    """Seconds that this process and its workers have computed."""
    workers = os.times()
    return time.process_time() + workers.children_user + workers.children_system
