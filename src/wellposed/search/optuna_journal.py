"""The trials for Optuna's own tools, in the study's folder: ``optuna-dashboard optuna.journal`` opens it.

`state` is the truth. A trial is written here in one line when it has ended, so that none is ever left running; when a study
goes on, the file is made anew from the state, whatever a killed process or somebody else left in it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wellposed.core.errors import require
from wellposed.core.files import open_for_appending, replace
from wellposed.search.proposals import distribution, quietly, to_optuna
from wellposed.search.space import Space
from wellposed.study.trials import BOOKED, Trial
from wellposed.training.history import Stopped

FILE, NAME = "optuna.journal", "wellposed"


class Journal:
    """Optuna's journal of a study.

    Args:
        folder: of the study; this process has claimed it.
        maximize: whether a higher score is better.
    """

    def __init__(self, folder: Path, maximize: bool) -> None:
        self.path, self.maximize = folder / FILE, maximize
        self._study: Any = None
        self._space: Space | None = None

    def open(self, space: Space, trials: Iterable[Trial]) -> None:
        """Make the file anew from the trials of the state, whatever it held; in place at once, when it is whole."""
        self._space = space
        for stale in self.path.parent.glob(f"{FILE}.*"):  # of a process that was killed: nobody else is in the folder
            stale.unlink()
        fresh = self.path.with_name(f"{FILE}.new")
        with quietly():
            self._opened(fresh).add_trials([self._frozen(trial) for trial in trials if trial.kind in BOOKED])
            replace(fresh, self.path)
            self._study = self._opened(self.path)

    def add(self, trial: Trial) -> None:
        """Write a trial that has ended; before `open` nothing is written, and `open` does it."""
        if trial.kind in BOOKED and self._study is not None:
            with quietly():
                self._study.add_trial(self._frozen(trial))

    def _opened(self, path: Path) -> Any:
        optuna = require("optuna", "search")
        storage = optuna.storages.JournalStorage(_backend(path))
        direction = "maximize" if self.maximize else "minimize"
        return optuna.create_study(storage=storage, study_name=NAME, load_if_exists=True, direction=direction)

    def _frozen(self, trial: Trial) -> Any:
        """The trial as Optuna keeps it: one that diverged has failed, one that halving stopped is pruned."""
        optuna = require("optuna", "search")
        states = optuna.trial.TrialState
        state = states.FAIL if trial.diverged else states.PRUNED if trial.stopped == Stopped.CULLED else states.COMPLETE
        score = trial.valid if math.isfinite(trial.valid) else trial.valid_loss
        sign = 1.0 if self.maximize else -1.0
        rungs = {int(epoch): sign * rank for epoch, rank, _ in trial.rungs if rank is not None and math.isfinite(rank)}
        attributes = {
            "trial": trial.index, "kind": trial.kind, "recipe": trial.built.to_toml(), "describe": trial.describe,
            "seed": trial.seed, "epochs": trial.epochs, "stopped": trial.stopped, "train_rows": trial.train_rows,
            **{k: v for k in ("valid_loss", "train_loss", "seconds") if math.isfinite(v := getattr(trial, k))},
        }  # fmt: skip
        params, holding = dict(trial.params), {}
        for name, value in trial.params.items():
            dimension = None if self._space is None else self._space.dimensions.get(name)
            if dimension is None:
                holding[name] = optuna.distributions.CategoricalDistribution([value])
            else:
                params[name] = to_optuna(dimension, value)
                holding[name] = distribution(dimension, params[name])
        return optuna.trial.create_trial(
            state=state, params=params, distributions=holding, user_attrs=attributes,
            value=None if state is states.FAIL else score, intermediate_values=rungs,
        )  # fmt: skip


def _backend(path: Path) -> Any:
    """A file of lines for Optuna, opened by our door: Optuna's own follows links, and leaves another as its lock.

    Nobody else writes, since this process has claimed the folder: what is in the file is read once.
    """
    base: Any = require("optuna.storages.journal", "search").BaseJournalBackend
    with open_for_appending(path, path.parent) as file:
        held: list[dict[str, Any]] = [json.loads(line) for line in file.read().splitlines()]

    class Lines(base):  # type: ignore[misc]
        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return held[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = [json.dumps(log, separators=(",", ":")) for log in logs]
            with open_for_appending(path, path.parent) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                os.fsync(file.fileno())
            held.extend(map(json.loads, lines))

    return Lines()
