"""Engines: wherever jobs are trained, the runs are the same; a worker that dies costs time and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError, MissingExtra, ProblemError, RecipeError, TrainingError
from wellposed.core.progress import reporting_to
from wellposed.parallel import executors, processes, transfer
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Conditions, Job, Outcome, Standing
from wellposed.parallel.population.compiled import kernel
from wellposed.study.folder import claim_folder
from wellposed.training.loop import fit
from wellposed.training.ready_problems import file_problem

ROWS, FEATURES = 60, 4
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(ROWS, FEATURES, generator=DRAW)
Y = (X[:, 0] > 0).long()
XV = torch.randn(30, FEATURES, generator=DRAW)
YV = (XV[:, 0] > 0).long()


def problem(make: Callable[..., nn.Module] | None = None, train: Any = (X, Y), **settings: Any) -> wp.Problem:
    """Its factory is a function without a name, which does not pickle."""

    def net(width: int = 8) -> nn.Module:
        layers = nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2)
        return nn.Sequential(*layers)

    return wp.Problem(make or (lambda width=8: net(width)), "cross_entropy", wp.Data(train, (XV, YV)), **settings)


def recipe(**settings: Any) -> wp.Recipe:
    return wp.Recipe(**{"epochs": 3, "batch_size": 16, **settings})


JOBS = [
    Job(recipe(noise={"dropout": 0.1}), 3),
    Job(recipe(model={"width": 5}), 3),
    Job(recipe(terms=[{"penalty": "l1", "strength": 0.01}]), 4, rows=40),
    Job(recipe(averaging={"ema": 0.9}), 5),
    Job(recipe(model={"width": 5}, noise={"dropout": 0.0}), 6),
]
"""Two shapes, noise in the model, fewer rows."""
PLAIN = [Job(recipe())]
CLOSE = 0.0 if kernel() is not None else 1e-2
"""By torch's own operations company and threads change roundings, which Adam makes steps of where a gradient is 0 but for them."""


def train(engine: str, given: wp.Problem, jobs: Sequence[Job] = JOBS, **settings: Any) -> list[Outcome]:
    return train_jobs(given, jobs, engine=engine, device="cpu", **settings)


def workers(given: wp.Problem, jobs: Sequence[Job], fork: bool, **settings: Any) -> list[Outcome]:
    return processes.train_in_processes(given, jobs, Conditions("cpu", **settings), workers=2, fork=fork)


forked, fresh = partial(workers, fork=True), partial(workers, fork=False)


def same(a: Outcome, b: Outcome) -> bool:
    """Equal bit for bit: weights, the model's noise, and everything in the history but the time.

    Up to rounding where there is no compiler: what is promised of populations by torch's own operations.
    """
    if not (isinstance(a, wp.Run) and isinstance(b, wp.Run)):
        return type(a) is type(b) and str(a) == str(b)
    rows = [[{k: v for k, v in row.items() if "seconds" not in k} for row in run.history] for run in (a, b)]
    rows[0] = [pytest.approx(row, rel=CLOSE, abs=CLOSE, nan_ok=True) for row in rows[0]]
    left, right = a.model.state_dict(), b.model.state_dict()
    return (
        rows[1] == rows[0]
        and a.history.facts == b.history.facts
        and (a.recipe, a.seed, a.stopped, str(a.model)) == (b.recipe, b.seed, b.stopped, str(b.model))
        and a.problem is b.problem
        and left.keys() == right.keys()
        and all(torch.allclose(left[k], right[k], rtol=CLOSE, atol=CLOSE, equal_nan=True) for k in left)
    )


def python(code: str, *arguments: object, timeout: float = 300, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A program of its own."""
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **settings)


# Shares


def test_shares_have_every_place_once_and_the_kinds_dealt_out_evenly() -> None:
    jobs = [Job(recipe(model={"width": width}), seed) for width in (4, 8, 16) for seed in range(4)]
    dealt = [lot.places for lot in transfer.shares(jobs, 2, Conditions())]
    assert sorted(place for places in dealt for place in places) == list(range(12))
    for places in dealt:
        assert [jobs[place].recipe.model["width"] for place in places] == [4, 4, 8, 8, 16, 16]
    assert [lot.places for lot in transfer.shares(jobs[:2], 5, Conditions())] == [(0,), (1,)]


def test_cull_is_asked_in_the_places_of_all_jobs() -> None:
    asked: list[int] = []

    def cull(standings: Sequence[Standing]) -> list[int]:
        asked.extend(standing.job for standing in standings)
        return [7]

    placed = Conditions(cull=cull).among((2, 7, 9)).cull
    assert placed is not None
    assert placed([Standing(0, wp.History(), 3), Standing(1, wp.History(), 3)]) == [1]
    assert asked == [2, 7]
    assert Conditions().among((0,)).cull is None


# What travels


def test_arrays_travel_apart_and_once() -> None:
    given = problem()
    parcel = transfer.pack_problem(given, cloudpickle, "processes")
    assert sum(part.nbytes for part in parcel.memory) == sum(t.nbytes for t in (X, Y, XV, YV))
    there = transfer.unpack_problem(parcel)
    inputs, target = there.prepared.train.batch(torch.arange(ROWS))
    assert torch.equal(inputs, X)
    assert torch.equal(target, Y)
    assert there.prepared.train is there.prepared.train_clean  # one copy of the rows, not two
    assert given.data is not None


def test_rows_are_read_where_they_lie() -> None:
    parcel = transfer.pack_problem(problem(), cloudpickle, "processes")
    memory = [np.array(part) for part in parcel.memory]  # of our own, so that it can be written to
    there = transfer.unpack_problem(transfer.Parcel(parcel.body, tuple(memory)))
    for part in memory:
        part[:] = 0
    assert not there.prepared.train.batch(torch.arange(ROWS))[0].any()


def test_a_problem_of_a_file_travels_with_its_code(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text(
        "import torch, wellposed as wp\n"
        "def net(): return torch.nn.Linear(2, 2)\n"
        "task = wp.Problem(net, 'cross_entropy', (torch.randn(20, 2), torch.arange(20) % 2))\n"
    )
    given = file_problem(f"{file}:task")
    parcel = transfer.pack_problem(given, cloudpickle, "processes")
    del sys.modules[given.model.__module__]
    assert isinstance(transfer.unpack_problem(parcel).build({}, 0), nn.Linear)
    assert not cloudpickle.list_registry_pickle_by_value()


def test_a_problem_that_cannot_travel_is_refused() -> None:
    lock = threading.Lock()
    given = problem(lambda: nn.Linear(FEATURES, 2) if lock else nn.Identity())
    with pytest.raises(ProblemError, match=r"engine 'ray' sends the problem .*inprocess"):
        transfer.pack_problem(given, cloudpickle, "ray")


def test_a_run_is_built_anew_with_what_its_state_leaves_out() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(FEATURES, 2), nn.Dropout(0.5))
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return self.inner(x)

    given = problem(Counting)
    job = Job(recipe(noise={"dropout": 0.25}))
    run = wp.fit(given, job.recipe, device="cpu")
    back = transfer.unpack_outcome(transfer.pack_outcome(run), given, job, "processes")
    assert same(run, back)
    assert isinstance(back, wp.Run)
    assert back.model.seen == run.model.seen > 3
    assert back.model.inner[1].p == 0.25
    assert not back.model.training
    assert back.engine == "processes: alone"


def test_only_the_weights_of_a_run_travel() -> None:
    run = wp.fit(problem(), recipe(), device="cpu")
    stack = torch.zeros(1000, 8, FEATURES)
    run.model[0].weight = nn.Parameter(stack[3])  # a slot of a population
    assert len(transfer.pack_outcome(run)) < stack.nbytes / 10


def test_errors_travel_with_what_was_reached() -> None:
    def stop(history: wp.History) -> str | None:
        raise LookupError("no such rule")

    given, job = problem(), Job(recipe())
    with pytest.raises(TrainingError) as caught:
        wp.fit(given, job.recipe, device="cpu", stop=stop)
    back = transfer.unpack_outcome(transfer.pack_outcome(caught.value), given, job, "processes")
    assert isinstance(back, TrainingError)
    assert str(back) == str(caught.value)
    assert same(back.run, caught.value.run)
    assert "LookupError: no such rule" in back.__notes__[-1]


def test_weights_that_do_not_fit_are_said() -> None:
    widths = iter((3, 4))
    given, job = problem(lambda: nn.Sequential(nn.Linear(FEATURES, next(widths)), nn.LazyLinear(2))), Job(recipe())
    back = transfer.unpack_outcome(
        transfer.pack_outcome(wp.fit(given, job.recipe, device="cpu")), given, job, "processes"
    )
    assert isinstance(back, TrainingError)
    assert "do not fit the model that the factory builds" in str(back)


# One result, wherever it is trained


@pytest.mark.parametrize("engine", [forked, pytest.param(fresh, marks=pytest.mark.slow)], ids=["fork", "fresh"])
def test_processes_give_the_same_runs(engine: Callable[..., list[Outcome]]) -> None:
    given = problem()
    told: dict[int, Outcome] = {}
    expected = train("inprocess", given)
    found = engine(given, JOBS, done=told.__setitem__)
    assert len(found) == len(JOBS)
    assert all(map(same, expected, found))
    assert [told[place] for place in range(len(JOBS))] == found
    assert {run.engine.partition(":")[0] for run in found if isinstance(run, wp.Run)} == {"processes"}


def test_the_comparison_sees_a_difference() -> None:
    given = problem()
    run, other = train("auto", given, [Job(recipe()), Job(recipe(), seed=1)])
    assert not same(run, other)
    other = transfer.unpack_outcome(transfer.pack_outcome(run), given, Job(recipe()), "processes")
    assert same(run, other)
    next(other.model.parameters()).data[0] += CLOSE * 10 or 1e-7
    assert not same(run, other)


def test_jobs_that_cannot_be_trained_stop_no_other() -> None:
    def net(width: int = 2) -> nn.Module:
        if width == 13:
            raise ValueError("unlucky")
        return nn.Linear(FEATURES, 2)

    jobs = [Job(recipe(model={"width": width})) for width in (2, 13, 3)]
    given = problem(net)
    for outcomes in (train("inprocess", given, jobs), forked(given, jobs)):
        first, second, third = outcomes
        assert isinstance(first, wp.Run)
        assert isinstance(third, wp.Run)
        assert isinstance(second, ProblemError)
        assert "unlucky" in str(second)


@pytest.mark.parametrize("error", [ZeroDivisionError("in a worker"), OSError("in a worker")])
def test_a_bug_is_raised_with_where_it_happened(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*given: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(transfer, "train_population", broken)
    with pytest.raises(type(error), match="in a worker") as caught:
        forked(problem(), JOBS)
    assert "raise error" in caught.value.__notes__[0]


def test_cull_judges_each_share() -> None:
    def cull(standings: Sequence[Standing]) -> list[int]:
        return [standing.job for standing in standings if standing.job % 2 and len(standing.history) == 2]

    for outcomes in (train("inprocess", problem(), cull=cull), forked(problem(), JOBS, cull=cull)):
        assert [(run.stopped, len(run.history)) for run in outcomes] == [("epochs", 3), ("culled", 2)] * 2 + [
            ("epochs", 3)
        ]


def test_the_deadline_holds_in_workers() -> None:
    jobs = [Job(recipe(epochs=10**6, stopping={"patience": 0}), seed) for seed in range(2)]
    began = time.monotonic()
    runs = forked(problem(), jobs, deadline=began + 0.5)
    assert [run.stopped for run in runs] == ["budget"] * 2
    assert time.monotonic() - began < 300, "a million epochs take hours"


def test_progress_of_workers_is_told_here() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    with reporting_to(lambda event, fields: events.append((event, fields))):
        train("processes", problem(), JOBS[:2])
    trained = [fields for event, fields in events if event == "trained"]
    assert sorted(fields["job"] for fields in trained) == [0, 1]
    assert {fields["engine"].partition(":")[0] for fields in trained} == {"processes"}
    assert any(event == "epoch" for event, _ in events)


def test_one_torch_thread_a_worker() -> None:
    class Telling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.get_num_threads() != 1:
                raise RuntimeError("several threads")
            return super().forward(x)

    assert isinstance(forked(problem(lambda: Telling(FEATURES, 2)), PLAIN)[0], wp.Run)


AFTER_THREADS = """
import sys
import torch, wellposed as wp
from torch import nn
from wellposed.parallel import transfer as remote
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job

torch.set_num_threads(2)
if sys.argv[1] == "mutant":
    remote.torch = type("Torch", (), {"set_num_threads": staticmethod(lambda n: None)})
X = torch.randn(2000, 300)
net = lambda: nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 2))
problem = wp.Problem(net, "cross_entropy", (X, (X[:, 0] > 0).long()))
jobs = [Job(wp.Recipe(epochs=1, batch_size=1000), seed) for seed in range(2)]
train_jobs(problem, jobs, engine="inprocess", device="cpu")  # starts OpenMP's threads
print([run.stopped for run in train_jobs(problem, jobs, engine="processes", device="cpu")])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_a_fork_after_threads_does_not_hang() -> None:
    assert python(AFTER_THREADS, "").stdout.strip() == "['epochs', 'epochs']"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or processes.cores() < 2, reason="needs Linux and two cores")
def test_that_fork_would_hang_with_several_threads() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        python(AFTER_THREADS, "mutant", timeout=10)


# Workers that die


def deadly(folder: Path, times: int) -> Callable[[Sequence[Standing]], list[int]]:
    """Kills the process in which job 2 has trained for two epochs, so many times."""

    def cull(standings: Sequence[Standing]) -> list[int]:
        deaths = len(list(folder.iterdir()))
        if deaths < times and any(standing.job == 2 and len(standing.history) == 2 for standing in standings):
            (folder / f"{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return []

    return cull


MORTAL = [Job(recipe(epochs=epochs, model={"width": width})) for width, epochs in ((3, 1), (4, 3), (5, 3), (6, 3))]
"""Two workers have jobs 0 and 2, and 1 and 3; the first of them has ended when its worker dies."""


@pytest.mark.parametrize("engine", [forked, pytest.param(fresh, marks=pytest.mark.slow)], ids=["fork", "fresh"])
def test_what_a_dead_worker_had_not_told_is_trained_again(tmp_path: Path, engine: Callable[..., list[Outcome]]) -> None:
    told: list[int] = []
    given = problem()
    runs = engine(given, MORTAL, cull=deadly(tmp_path, 1), done=lambda place, outcome: told.append(place))
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(told) == [0, 1, 2, 3]
    assert all(map(same, train("inprocess", given, MORTAL), runs))


class Among:
    """Stops job 2 after eight epochs where it was judged among others, as halving does; kills its process in the first of them."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.seen = folder, set[int]()

    def __call__(self, standings: Sequence[Standing]) -> list[int]:
        self.seen |= {standing.job for standing in standings}
        late = [standing.job for standing in standings if standing.job == 2 and len(standing.history) == 8]
        if late and self.folder is not None and not any(self.folder.iterdir()):
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return late if len(self.seen) > 1 else []


@pytest.mark.parametrize("engine", [forked, pytest.param(fresh, marks=pytest.mark.nightly)], ids=["fork", "fresh"])
def test_a_death_does_not_change_what_is_stopped(tmp_path: Path, engine: Callable[..., list[Outcome]]) -> None:
    """Job 0 has ended and been told when the worker dies; its replacement judges job 2 beside it all the same."""
    given, told = problem(), list[int]()
    mortal = [
        replace(job, recipe=job.recipe.replace(epochs=2 if place == 0 else 9)) for place, job in enumerate(MORTAL)
    ]
    undisturbed = engine(given, mortal, cull=Among(None))
    runs = engine(given, mortal, cull=Among(tmp_path), done=lambda place, outcome: told.append(place))
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(told) == [0, 1, 2, 3], "each once"
    assert [run.stopped for run in runs if isinstance(run, wp.Run)] == ["epochs", "epochs", "culled", "epochs"]
    assert all(map(same, undisturbed, runs))


def test_two_deaths_are_an_error_that_says_so(tmp_path: Path) -> None:
    outcomes = forked(problem(), MORTAL, cull=deadly(tmp_path, 99))
    assert [isinstance(outcome, wp.Run) for outcome in outcomes] == [True, True, False, True]
    assert isinstance(outcomes[2], TrainingError)
    assert "2 workers that trained this job died, the last by signal 9 (SIGKILL)" in str(outcomes[2])
    assert len(list(tmp_path.iterdir())) == 2


def test_an_exit_is_a_death_too() -> None:
    outcome = forked(problem(lambda: os._exit(7)), PLAIN)[0]
    assert "exit status 7" in str(outcome)


LONG = """
import sys, time, os, signal
signal.alarm(900)  # a run of tests that is killed leaves no program behind that trains without end
from pathlib import Path
import torch, wellposed as wp
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job

torch.set_num_threads(1)
folder = Path(sys.argv[1])
built = []
class Net(torch.nn.Linear):
    def forward(self, x):
        if len(built) == 3 and self.training:  # one is built to be looked at, one ends; this one has no end
            (folder / f"{os.getpid()}").touch()
        return super().forward(x)
def net():
    built.append(1)
    return Net(2, 2)
problem = wp.Problem(net, "cross_entropy", (torch.randn(20, 2), torch.arange(20) % 2))
recipe = wp.Recipe(epochs=10**9, batch_size=8, stopping={"patience": 0})
jobs = [Job(recipe, seed) for seed in range(4)]
short = [Job(wp.Recipe(epochs=1, batch_size=8), seed) for seed in range(2)]
if __name__ == "__main__":
    outcomes = train_jobs(problem, short + jobs, engine="processes", device="cpu")
    print([(run.seed, run.stopped) for run in outcomes if run.recipe.epochs == 1])
    print({run.stopped for run in outcomes if run.recipe.epochs > 1})
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A program that trains without end, and its workers."""
    program = subprocess.Popen(
        [sys.executable, "-c", LONG, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    want, deadline = min(2, processes.cores()), time.monotonic() + 300
    while time.monotonic() < deadline and program.poll() is None:
        workers = [int(mark.name) for mark in folder.iterdir() if int(mark.name) != program.pid]
        if len(workers) >= want:
            time.sleep(0.3)
            return program, workers
        time.sleep(0.05)
    program.kill()
    pytest.fail(f"No workers started: {program.communicate()}")


def all_gone(pids: Sequence[int]) -> bool:
    deadline = time.monotonic() + 120
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_every_worker_and_keeps_what_there_is(tmp_path: Path) -> None:
    program, workers = started(tmp_path)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to parent and workers alike
    try:
        out, err = program.communicate(timeout=120)
    finally:
        program.kill()  # one that did not end would train beside all tests after this
    assert out.splitlines() == ["[(0, 'epochs'), (1, 'epochs')]", "{'interrupted'}"]
    assert err == ""
    assert program.returncode == 0
    assert all_gone(workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    program, workers = started(tmp_path)
    assert all(map(alive, workers))
    program.kill()
    program.communicate()
    assert all_gone(workers)


def test_an_interrupt_that_only_a_worker_sees_ends_all() -> None:
    class Interrupting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise KeyboardInterrupt
            return super().forward(x)

    outcomes = forked(problem(lambda: Interrupting(FEATURES, 2)), PLAIN * 3)
    assert all(isinstance(outcome, wp.Run) and outcome.stopped == "interrupted" for outcome in outcomes)
    assert len(outcomes) < 3


def test_ctrl_c_while_an_outcome_arrives_does_not_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked, arrived = transfer.unpack_outcome, list[int]()

    def arriving(answer: Any, given: wp.Problem, job: Job, engine: str) -> Outcome:
        arrived.append(job.seed)
        if len(arrived) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return unpacked(answer, given, job, engine)

    monkeypatch.setattr(transfer, "unpack_outcome", arriving)
    outcomes = forked(problem(), [Job(PLAIN[0].recipe.replace(epochs=3000 if seed else 1), seed) for seed in range(3)])
    assert {run.seed: str(run.stopped) for run in outcomes if isinstance(run, wp.Run)}[arrived[0]] == "epochs"
    assert [str(run.stopped) for run in outcomes if isinstance(run, wp.Run)].count("interrupted") >= 1


@pytest.mark.parametrize("engine", [partial(train, "inprocess"), forked], ids=["inprocess", "fork"])
def test_ctrl_c_when_all_have_ended_is_no_end_like_another(engine: Callable[..., list[Outcome]]) -> None:
    """No run says so, and whoever asked would go on."""
    told: list[int] = []

    def done(place: int, outcome: Outcome) -> None:
        told.append(place)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine(problem(), PLAIN * 3, done=done)
    assert sorted(told) == [0, 1, 2]


def test_an_error_of_the_listener_ends_the_workers() -> None:
    def done(place: int, outcome: Outcome) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        forked(problem(), JOBS, done=done)


# What is asked for


def test_an_unknown_engine_or_device_is_refused() -> None:
    with pytest.raises(InputError, match=r"no engine 'rays'.* Did you mean 'ray'"):
        train("rays", problem())
    for engine in ("inprocess", "processes"):
        with pytest.raises(InputError, match="no device 'gpu'"):
            train_jobs(problem(), JOBS, engine=engine, device="gpu")


def test_a_fresh_worker_without_cloudpickle_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(MissingExtra, match=r"pip install 'wellposed\[processes\]'"):
        fresh(problem(), JOBS)


def test_no_jobs_are_no_outcomes() -> None:
    assert train("processes", problem(), []) == []


def test_ray_that_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'wellposed\[ray\]'"):
        train("ray", problem())


def test_fit_many_with_an_engine() -> None:
    given = problem()
    recipes = [recipe(), recipe(clip=1.0)]
    runs = wp.fit_many(given, recipes, [1, 2], engine="processes", device="cpu", rows=40)
    assert [(run.recipe.clip, run.seed) for run in runs] == [(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2)]
    assert all(map(same, wp.fit_many(given, recipes, [1, 2], device="cpu", rows=40), runs))


def test_fit_many_raises_the_first_error_when_all_others_have_ended() -> None:
    trained: list[int] = []

    def net(width: int = 2) -> nn.Module:
        if width > 10:
            raise ValueError(f"{width} is too wide")
        trained.append(width)
        return nn.Linear(FEATURES, 2)

    recipes = [recipe(model={"width": width}) for width in (2, 11, 12, 3)]
    with pytest.raises(ProblemError, match="11 is too wide"):
        wp.fit_many(problem(net), recipes, device="cpu")
    assert 3 in trained
    with pytest.raises(RecipeError, match="no-such"):
        wp.fit_many(problem(net), ["baseline", "no-such"])


def test_fit_many_with_callables_trains_here() -> None:
    given = problem()
    calls: list[int] = []

    def stop(history: wp.History) -> str | None:
        calls.append(len(history))
        return "enough" if len(history) == 2 else None

    runs = wp.fit_many(given, recipe(), [0, 1], device="cpu", stop=stop, optimizer=torch.optim.SGD)
    assert [run.stopped for run in runs] == ["enough"] * 2
    assert calls == [1, 2, 1, 2]
    assert runs[0].engine == "alone"
    with pytest.raises(InputError, match="called in this process"):
        wp.fit_many(given, recipe(), engine="processes", stop=stop)
    with pytest.raises(TypeError):
        wp.fit_many(given, recipe(), epochs=3)  # type: ignore[call-arg]


# What auto does

MIXED = [
    JOBS[0],
    Job(recipe(accumulate=2), 3),
    JOBS[3],
    Job(recipe(accumulate=2, clip=0.5), 4),
    Job(recipe(accumulate=2), 5),
]
"""Jobs 1, 3 and 4 accumulate gradients, which no population does."""


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(executors, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_what_is_alone_goes_to_several_processes_and_nothing_else_does() -> None:
    given, told = problem(), []
    outcomes = train("auto", given, MIXED, done=lambda place, outcome: told.append((place, outcome.seed)))
    engines = [outcome.engine for outcome in outcomes]
    assert [engine.startswith("processes: alone: it accumulates") for engine in engines] == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert sorted(told) == [(place, job.seed) for place, job in enumerate(MIXED)]
    for job, outcome in zip(MIXED, outcomes, strict=True):
        alone = fit(given, job.recipe, job.seed, device="cpu")
        # Not weight by weight: a bias before a batch norm has no gradient but rounding, which Adam makes large.
        torch.testing.assert_close(outcome.model(XV), alone.model(XV), rtol=0.0, atol=0.02)


@pytest.mark.usefixtures("two_cores")
def test_auto_asks_the_judge_in_the_places_of_all_jobs(tmp_path: Path) -> None:
    def cull(standings: Sequence[Standing]) -> list[int]:
        return [one.job for one in standings if one.job in (2, 4) and len(one.history) == 2]

    outcomes = train("auto", problem(), MIXED, cull=cull)
    assert [outcome.stopped for outcome in outcomes] == ["epochs", "epochs", "culled", "epochs", "culled"]


@pytest.mark.usefixtures("two_cores")
def test_a_single_job_that_is_alone_stays_here() -> None:
    outcomes = train("auto", problem(), MIXED[:3])
    assert outcomes[1].engine.startswith("alone: it accumulates")
    assert [outcome.engine for outcome in train("inprocess", problem(), MIXED)][3].startswith("alone")


def test_one_thread_trains_here() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert all("processes" not in outcome.engine for outcome in train("auto", problem(), MIXED))
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_time_that_is_over_leaves_out_what_never_began() -> None:
    late = time.monotonic() - 1.0
    runs = wp.fit_many(problem(), recipe(), seeds=range(3), device="cpu", deadline=late)
    assert all(run.stopped == "budget" for run in runs)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_fork_does_not_hold_the_lock_of_a_study(tmp_path: Path) -> None:
    """A worker that outlives a killed parent by a moment would stand in the way of whoever resumes its study."""
    import fcntl

    with claim_folder(tmp_path / "run", resume=False):
        child = os.fork()
        if not child:
            os._exit(int(any("run/.lock" in link for link in links_of(os.getpid()))))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with (tmp_path / "run" / ".lock").open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the parent's own stays


def links_of(process: int) -> list[str]:
    """What the open files of a process are."""
    found = []
    for link in os.listdir(f"/proc/{process}/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/{process}/fd/{link}"))
    return found
