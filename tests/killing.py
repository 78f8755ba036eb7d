"""Kill `wellposed improve` before each of its writes, or fill its disk there; resume it, and see that nothing differs.

What lies on disk changes by writes alone, so that a kill at any other moment leaves what a kill before the next write leaves. An
audit hook sees every file that is opened for writing, made, renamed or removed, wherever in the code. A server has imported
everything; each attempt is a fork of it.
"""

from __future__ import annotations

import errno
import importlib
import json
import math
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wellposed as wp
from wellposed.cli.improve import Asked, problem_of

RECIPES, EPOCHS = 9, 9
CLOCK = frozenset({"seconds", "watch_seconds", "clock", "command"})
"""What a record says of the clock, and of how it was started; all else is to be equal."""
WAYS = ("kill", "full")


@dataclass
class Found:
    """What became of the attempts.

    Attributes:
        writes: of the undisturbed study.
        attempts: studies that were cut before a write and then resumed.
        trials: that were on disk when a study was cut, over all attempts.
        wrong: what was lost, differed or was said badly, in words.
    """

    writes: int
    attempts: int = 0
    trials: int = 0
    wrong: list[str] = field(default_factory=list)


class Trap:
    """Counts what would change a file below a folder, and acts before the ``at``-th of them."""

    def __init__(self, folder: Path, at: float, way: str) -> None:
        self.folder, self.at, self.way, self.count = str(folder), at, way, 0
        sys.addaudithook(self.hook)
        self._fsync = os.fsync
        os.fsync = self.fsync

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python itself before it does anything of the kind."""
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) or set(mode or "") & set("wax+")
            if writes and self.below(path):
                self.seen(grows=True)
        elif event in ("os.rename", "os.link", "os.symlink", "os.mkdir") and any(map(self.below, arguments)):
            self.seen(grows=event == "os.mkdir")
        elif event in ("os.remove", "os.rmdir", "os.truncate") and self.below(arguments[0]):
            self.seen(grows=False)

    def below(self, path: object) -> bool:
        """Whether a path lies below the folder; one that is relative is looked up from a folder that is open, so it may."""
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        return text.startswith(self.folder) or (bool(text) and not os.path.isabs(text))

    def fsync(self, file: int) -> None:
        """In the place of ``os.fsync``, where a full disk may be noticed first."""
        self.seen(grows=True)
        self._fsync(file)

    def seen(self, grows: bool) -> None:
        """One more of them; ``grows``: it needs room on the disk."""
        self.count += 1
        if self.way == "kill" and self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "full" and self.count >= self.at and grows:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def table(folder: Path) -> Path:
    """A small table."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(100, 3))
    y = np.where(x[:, 0] + 0.5 * draw.normal(size=100) > 0, "yes", "no")
    lines = ["a,b,c,kind", *(f"{a},{b},{c},{kind}" for (a, b, c), kind in zip(x, y, strict=True))]
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def warm_up(folder: Path) -> None:
    """Import what every fork needs, and do once what only the first study of a process pays for."""
    importlib.import_module("wellposed.cli.app")
    torch.set_num_threads(1)
    problem, _, _ = problem_of(str(table(folder)), None, Asked("kind"))
    wp.report(wp.improve(problem, "4 recipes"), folder / "first.html")


def attempt(
    folder: Path,
    out: Path,
    resume: bool,
    at: float = math.inf,
    way: str = "kill",
    also: Change | None = None,
    engine: str = "auto",
    more: tuple[str, ...] = (),
) -> int:
    """The command in a fork, cut before its ``at``-th write; its exit status, less the signal that ended it."""
    child = os.fork()
    if not child:
        _command(folder, out, resume, at, way, also, [*more, "--engine", engine])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


Change = Callable[[], object]
"""What is changed in a fork before it begins, such as its clock."""


def _command(folder: Path, out: Path, resume: bool, at: float, way: str, also: Change | None, more: list[str]) -> None:
    try:
        from wellposed.cli import main
        from wellposed.search import timing

        timing.PLAIN_EPOCHS = EPOCHS
        if also is not None:
            also()
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(folder / "stderr", "w", buffering=1)  # noqa: SIM115
        words = [
            "improve",
            str(folder / "t.csv"),
            "--target",
            "kind",
            "--recipes",
            str(RECIPES),
            "--out",
            str(out),
            *more,
        ]
        sys.argv = ["wellposed", *words, *(["--resume"] if resume else [])]
        trap = Trap(out, at, way)
        try:
            main.run()
        finally:
            trap.at = math.inf
            (folder / "writes").write_text(str(trap.count))
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def trials_of(out: Path) -> dict[int, str]:
    """The trials on disk, by number. The file is whole at any moment."""
    path = out / "state.json"
    if not path.exists():
        return {}
    return {trial["index"]: json.dumps(trial, sort_keys=True) for trial in json.loads(path.read_text())["trials"]}


def content_of(out: Path) -> dict[str, Any]:
    """Every file of a finished study, without what a clock says; the page and the journal are made of the others."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            header, *lines = (line.split(",") for line in path.read_text().splitlines())
            found[name] = [[cell for key, cell in zip(header, row, strict=True) if key not in CLOCK] for row in lines]
        elif path.name.startswith("events."):
            found[name] = events_of(path)
        else:
            found[name] = None if name in ("report.html", "optuna.journal") else path.read_bytes()
    return found


def events_of(path: Path) -> list[tuple[str, int, float]]:
    """Tag, step and number of each event, without when it was."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    tags = sorted(set(reader.Tags()["scalars"]) - CLOCK)
    return [(tag, one.step, one.value) for tag in tags for one in reader.Scalars(tag)]


def timeless(value: Any) -> Any:
    """The value without what a clock says, in it or in what lies in it."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def different(a: Any, b: Any, at: str = "") -> Iterator[str]:
    """Where two contents differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if (key in a) != (key in b):
                yield f"{at}/{key} is only in one of them"
            else:
                yield from different(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, pair in enumerate(zip(a, b, strict=True)):
            yield from different(*pair, f"{at}[{place}]")
    elif a != b:
        yield f"{at}: {str(a)[:60]} and {str(b)[:60]}"


def wrong_with(out: Path) -> list[str]:
    """What is wrong with the page and Optuna's journal of a finished study."""
    import optuna

    from wellposed.reporting.html import same_page

    backend = optuna.storages.journal.JournalFileBackend(str(out / "optuna.journal"))
    study = optuna.load_study(study_name="wellposed", storage=optuna.storages.JournalStorage(backend))
    held = sorted(trial.user_attrs["trial"] for trial in study.trials)
    state = json.loads((out / "state.json").read_text())
    wanted = sorted(trial["index"] for trial in state["trials"] if trial["kind"] in ("baseline", "search"))
    running = [trial.number for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    return [
        *([f"the journal has the trials {held}, the state {wanted}"] if held != wanted else []),
        *([f"trials {running} are left running"] if running else []),
        *([] if same_page(out) else ["the page is not that of study.json"]),
    ]


def undisturbed(folder: Path, also: Change | None = None, engine: str = "auto") -> tuple[dict[str, Any], int]:
    """What a study that nothing disturbs leaves, and its writes."""
    out = folder / "whole"
    if (status := attempt(folder, out, resume=False, also=also, engine=engine)) != 0:
        raise AssertionError(f"the undisturbed study ended with {status}: {said(folder)}")
    found = content_of(out), int((folder / "writes").read_text())
    assert wrong_with(out) == []
    shutil.rmtree(out)
    return found


def cut_everywhere(
    folder: Path,
    wanted: dict[str, Any],
    writes: int,
    places: Iterable[tuple[str, int]],
    also: Change | None = None,
    engine: str = "auto",
) -> Found:
    """Cut a study at each of the places, resume it until it ends, and compare what is there then.

    Args:
        places: the way, and before which write.
    """
    found = Found(writes)
    for way, at in places:
        out, name = folder / "cut", f"{way} before write {at}"
        status = attempt(folder, out, False, at, way, also, engine)
        if status == 0 and way == "full":  # nothing more was to be written
            found.wrong += [f"{name}: {where}" for where in list(different(wanted, content_of(out)))[:5]]
            shutil.rmtree(out)
            continue
        if status != (-signal.SIGKILL if way == "kill" else 1):
            found.wrong.append(f"{name}: the status is {status}: {said(folder)}")
        if way == "full" and not ("disk is full" in said(folder) or "cannot be written: No space left" in said(folder)):
            found.wrong.append(f"{name}: it says {said(folder)!r}")
        before = trials_of(out)
        status = attempt(folder, out, out.exists(), also=also, engine=engine)
        finished = status == 1 and "has spent its budget" in said(folder)  # all was written; what differs is seen below
        if status != 0 and not finished:
            found.wrong.append(f"{name}: resumed, the status is {status}: {said(folder)}")
        else:
            found.wrong += [f"{name}: {words}" for words in wrong_with(out)]
            found.wrong += [f"{name}: {where}" for where in list(different(wanted, content_of(out)))[:5]]
        found.wrong += [f"{name}: {number} lost" for number in missing(before, trials_of(out))]
        found.attempts, found.trials = found.attempts + 1, found.trials + len(before)
        shutil.rmtree(out, ignore_errors=True)
    return found


def said(folder: Path) -> str:
    """What the last process said."""
    return (folder / "stderr").read_text().strip()[-1500:]


def missing(before: dict[int, str], after: dict[int, str]) -> list[int]:
    """Trials that stay as they were written, and are not there any more, or are different."""
    return [number for number, trial in before.items() if after.get(number) != trial and kept(trial)]


def kept(trial: str) -> bool:
    """Whether a trial stays as it was written; those of confirmation and ablation are made anew with their models."""
    return json.loads(trial)["kind"] in ("baseline", "search", "finalist")
