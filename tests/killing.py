"""Kill `wellposed improve` at random moments, resume it, and see that nothing is lost.

A server has imported everything; each attempt is a fork of it that runs the command, so that most of its life is a study.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

RECIPES, EPOCHS = 12, 9
ALIKE = (
    "baseline",
    "best",
    "improvement",
    "recipes",
    "histories",
    "ablation",
    "simplest",
    "recipes_tried",
    "references",
)
"""What a study that was killed and resumed has in common with one that was not."""


@dataclass
class Killed:
    """What the kills did.

    Attributes:
        kills: of running processes.
        studies: that were finished after them.
        trials: that were on disk when a process was killed, over all kills.
        lost: of those, how many were not there or different afterwards.
        broken: what else was wrong, in words.
        whens: at which share of an undisturbed study each kill came.
    """

    kills: int = 0
    studies: int = 0
    trials: int = 0
    lost: int = 0
    broken: list[str] = field(default_factory=list)
    whens: list[float] = field(default_factory=list)


def table(folder: Path) -> Path:
    """A small table."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(100, 3))
    y = np.where(x[:, 0] + 0.5 * draw.normal(size=100) > 0, "yes", "no")
    lines = ["a,b,c,kind", *(f"{a},{b},{c},{kind}" for (a, b, c), kind in zip(x, y, strict=True))]
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def start(folder: Path, out: Path, resume: bool) -> int:
    """The command in a fork; its process number."""
    child = os.fork()
    if child:
        return child
    try:
        from wellposed.cli import main
        from wellposed.search import pace

        torch.set_num_threads(1)
        pace.PLAIN_EPOCHS = EPOCHS
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(folder / "stderr", "a", buffering=1)  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        words = ["improve", str(folder / "t.csv"), "--target", "kind", "--recipes", str(RECIPES), "--out", str(out)]
        sys.argv = ["wellposed", *words, *(["--resume"] if resume else [])]
        main.run()
        os._exit(0)
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(99)


def ended(child: int, seconds: float) -> int | None:
    """The exit status of a child, waited for so long; None where it still runs."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


def trials_of(out: Path) -> dict[int, str]:
    """The trials on disk, by number. The file is whole at any moment."""
    path = out / "state.json"
    if not path.exists():
        return {}
    return {trial["index"]: json.dumps(trial, sort_keys=True) for trial in json.loads(path.read_text())["trials"]}


def record_of(out: Path) -> dict[str, Any]:
    """The finished record without what a clock says."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "watch_seconds")}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    record: dict[str, Any] = timeless(json.loads((out / "study.json").read_text()))
    return record


def check_journal(out: Path) -> str:
    """What is wrong with Optuna's journal of a finished study; empty where nothing is."""
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(out / "optuna.journal"))
    study = optuna.load_study(study_name="wellposed", storage=optuna.storages.JournalStorage(backend))
    held = sorted(trial.user_attrs["trial"] for trial in study.trials)
    state = json.loads((out / "state.json").read_text())
    wanted = sorted(trial["index"] for trial in state["trials"] if trial["kind"] in ("baseline", "search"))
    if held != wanted:
        return f"the journal has the trials {held}, the state {wanted}"
    running = [trial.number for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    return f"trials {running} are left running" if running else ""


def kill(folder: Path, kills: int, seed: int = 0) -> Killed:
    """Kill studies of a small table until there were so many kills, and finish each of them."""
    table(folder)
    draw, found = random.Random(seed), Killed()
    length = math.inf
    for name in ("first", "whole"):  # the first pays for what is made once
        began = time.monotonic()
        status = ended(start(folder, folder / name, resume=False), 600)
        length = min(length, time.monotonic() - began)
        if status != 0:
            raise AssertionError(f"the undisturbed study ended with {status}: {last_words(folder)}")
    wanted = record_of(folder / "whole")
    while found.kills < kills:
        out = folder / f"run{found.studies}"
        resume = False
        while True:
            moment = draw.uniform(0.0, 1.0) * length if found.kills < kills else 600.0
            child = start(folder, out, resume)
            status = ended(child, moment)
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                found.kills += 1
                found.whens.append(round(moment / length, 2))
                before = trials_of(out)
                found.trials += len(before)
                resume = out.exists()
                continue
            if status == 1 and "is confirmed" in last_words(folder):
                status = 0  # it was killed while it wrote its page, after the study was done
            if status != 0:
                found.broken.append(f"status {status}: {(folder / 'stderr').read_text()[-1000:]}")
            break
        after = trials_of(out)
        if resume:
            found.lost += missing(before, after)
        if status == 0:
            record = record_of(out)
            found.broken += [
                f"{key} is not that of the undisturbed study" for key in ALIKE if record[key] != wanted[key]
            ]
            found.broken += [said for said in [check_journal(out)] if said]
            left = [path.name for path in out.iterdir() if path.name.startswith(".") or ".lock" in path.name]
            found.broken += [f"left behind: {left}"] if left else []
        found.studies += 1
        shutil.rmtree(out, ignore_errors=True)
    return found


def last_words(folder: Path) -> str:
    """What the last process said."""
    lines = (folder / "stderr").read_text().strip().splitlines()
    return lines[-1] if lines else ""


def missing(before: dict[int, str], after: dict[int, str]) -> int:
    """How many trials that are never trained again are not there any more, or are different."""
    return sum(after.get(number) != trial for number, trial in before.items() if searched(trial))


def searched(trial: str) -> bool:
    """Whether a trial is one of those that are never trained again."""
    return json.loads(trial)["kind"] in ("baseline", "search", "finalist")
