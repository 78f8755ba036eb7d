"""What is kept on disk of a study that runs: each trial as soon as it has ended, and what is being trained."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wellposed.core.files import jsonable, read_json, write_atomically
from wellposed.core.schemas import Finite, Stored, Whole, validate
from wellposed.recipe.recipe import Recipe
from wellposed.study.budget import Account
from wellposed.study.ranking import WORST, Rank, rank_of
from wellposed.training.history import Stopped

SCHEMA = 1
STATE = "state.json"
WRITTEN = ("trials", "proposals", "findings", "confirmed", "looks")
"""Parts of a state that are always written: without them trials or looks would be lost in silence."""


@dataclass
class Trial:
    """One trained recipe, as it is kept on disk.

    Attributes:
        index: its number in the study, given when it was planned.
        kind: ``baseline``, ``search``, ``finalist``, ``confirmation``, ``ablation`` or ``small``.
        recipe: as it was proposed; in the confirmation with its epochs.
        params: its point in the space; empty for a recipe that did not come from there.
        rungs: how it stood at each rung: the epoch, and its rank there.
        findings: of a baseline, what its curves say.
    """

    index: Whole
    kind: str
    recipe: dict[str, Any]
    describe: str
    seed: int
    valid: Stored
    valid_loss: Stored
    train_loss: Stored
    epochs: Whole
    best_epoch: int
    seconds: Stored
    stopped: str
    train_rows: Whole
    params: dict[str, Any] = field(default_factory=dict)
    rungs: list[list[Stored]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @functools.cached_property
    def built(self) -> Recipe:
        return Recipe(**self.recipe)

    @property
    def diverged(self) -> bool:
        """Whether its cost left the numbers."""
        return self.stopped == Stopped.DIVERGED or not math.isfinite(self.valid_loss)

    def rank(self, sign: float) -> Rank:
        """How it ranks; ``sign`` is 1 where a higher score is better, else -1."""
        return rank_of(self.valid, self.valid_loss, sign)


@dataclass
class Pending:
    """A recipe of a lot that is being trained. A lot that was cut by a kill is trained again, with the same numbers.

    Attributes:
        recipe: as its trial will have it.
        rows: of the search alone, whose lots are trained again as they were planned, whatever the budget is now.
    """

    index: Whole
    recipe: dict[str, Any]
    params: dict[str, Any]
    epochs: int
    rows: int | None
    kind: str = "search"
    seed: int = 0


@dataclass
class FailedTrial:
    """A recipe that could not be trained, and why."""

    index: int
    kind: str
    why: str


@dataclass
class State:
    """What ``--resume`` needs: the trials so far, and how often which confirmation rows were looked at.

    Attributes:
        data, metric, seed: must be the same when the study goes on.
        own_test: whether the confirmation rows were given, not split off.
        trials: in the order of their numbers.
        proposals: how many were drawn from the space.
        findings: what held the baseline back when it was chosen; they move the odds of the proposals.
        advice: the changes that they advise, tried first: finding, change, trial, and whether it helped.
        losses: of the baseline's run on each validation row, against which advice is measured, as base64 of 64-bit floats; empty
            where there is nothing to be measured.
        confirmed: how many trials there were when the study was last confirmed.
        looks: by a hash of the confirmation rows.
        planned: numbers of trials given so far.
        pending: the lots that are being trained.
        ranges: of the dimensions whose range was changed while searching. ``said``: what was said of those that were shrunk.
        failed: what could not be trained, and why.
        seconds: spent so far, of all sessions since the last confirmation.
        finished: budgets that were spent by confirmed studies, by their unit.
        looking: the confirmation rows that are being looked at; a look that was cut off before anybody saw it is no other one.
    """

    data: str
    metric: str
    seed: int
    own_test: bool
    trials: list[Trial] = field(default_factory=list)
    proposals: Whole = 0
    findings: list[str] = field(default_factory=list)
    advice: list[dict[str, Any]] = field(default_factory=list)
    losses: str = ""
    confirmed: Whole = 0
    looks: dict[str, Whole] = field(default_factory=dict)
    planned: Whole = 0
    lots: Whole = 0
    pending: list[Pending] = field(default_factory=list)
    ranges: dict[str, list[float]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    failed: list[FailedTrial] = field(default_factory=list)
    seconds: Finite = 0.0
    finished: dict[str, Finite] = field(default_factory=dict)
    looking: str | None = None

    def __post_init__(self) -> None:
        self._written: dict[int, tuple[Trial, str]] = {}

    def save(self, folder: Path) -> None:
        """Write atomically; a killed process loses at most what it was training.

        The text of a trial is made once: a study of a thousand is written after each of them.
        """
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("trials", "pending", "failed")}
        rest["pending"] = [vars(pending) for pending in self.pending]
        rest["failed"] = [asdict(failed) for failed in self.failed]
        body = json.dumps(jsonable({"schema": SCHEMA, **rest}), indent=1, allow_nan=False)
        for trial in self.trials:
            if self._written.get(trial.index, (None, ""))[0] is not trial:
                self._written[trial.index] = trial, "  " + json.dumps(jsonable(asdict(trial)), allow_nan=False)
        trials = ",\n".join(self._written[trial.index][1] for trial in self.trials)
        write_atomically(folder / STATE, f'{body[:-2]},\n "trials": [\n{trials}\n ]\n}}\n', folder)

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read the state of a study that `save` wrote into ``folder``.

        Raises:
            FormatError: missing, damaged, or of another schema.
        """
        value = read_json(folder / STATE, SCHEMA, "state of a study")
        state = validate(cls, value, f"The state in '{folder / STATE}'", WRITTEN)
        state.planned = max(
            [state.planned, *(t.index + 1 for t in state.trials), *(p.index + 1 for p in state.pending)]
        )
        return state

    def of(self, *kinds: str) -> list[Trial]:
        """The trials of these kinds so far."""
        return [trial for trial in self.trials if trial.kind in kinds]

    def ended(self) -> set[int]:
        """The numbers of the recipes that were trained to their end, or cannot be trained."""
        return {trial.index for trial in self.trials} | {failed.index for failed in self.failed}

    def number(self) -> int:
        """The number of a trial that is planned now."""
        self.planned += 1
        return self.planned - 1

    def close(self, unit: str, amount: float) -> None:
        """The results are written: what their budget was is spent, and the look at the confirmation rows is over."""
        self.finished[unit] = max(self.finished.get(unit, 0.0), amount)
        self.looking, self.confirmed, self.seconds = None, len(self.trials), 0.0
        self.pending = [pending for pending in self.pending if pending.kind == "search"]

    def add(self, trial: Trial) -> None:
        """Take a trial in, in the place of one with its number."""
        self.trials = sorted([t for t in self.trials if t.index != trial.index] + [trial], key=lambda t: t.index)


def rank_trials(trials: Sequence[Trial], sign: float) -> list[Trial]:
    """Trials that learned something, the best first."""
    return sorted((t for t in trials if t.rank(sign) > WORST), key=lambda t: t.rank(sign), reverse=True)


BOOKED = ("baseline", "search")
"""Kinds of trials that a budget in recipes or epochs counts."""


def book_trials(account: Account, trials: Iterable[Trial], failed: Iterable[FailedTrial]) -> None:
    """Book what a study has tried before; what could not be trained counts as one epoch."""
    tried = [(trial.kind, trial.epochs) for trial in trials] + [(one.kind, 1) for one in failed]
    for kind, epochs in tried:
        if kind in BOOKED:
            account.book(epochs)
