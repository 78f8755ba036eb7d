"""The Ray engine on a real cluster of two nodes: the same runs, the rows stored once, workers and nodes that die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.core.errors import InputError, ProblemError, TrainingError
from wellposed.core.progress import reporting_to
from wellposed.parallel import cluster, transfer
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Conditions, Job, Outcome, Outcomes, Standing

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'wellposed[ray]'")
ray_cluster = pytest.importorskip("ray.cluster_utils", reason="Ray has no local clusters here")

pytestmark = pytest.mark.slow

STORE = 80 * 2**20
"""Bytes of each node's object store, near the least that Ray takes."""
FEATURES = 4
X = torch.randn(60, FEATURES, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of one CPU each, found as Ray's own configuration says."""
    started = ray_cluster.Cluster(initialize_head=True, head_node_args=node())
    started.add_node(**node())
    started.wait_for_nodes()
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = started.address
    yield started
    os.environ.pop("RAY_ADDRESS") if before is None else os.environ.update(RAY_ADDRESS=before)
    ray.shutdown()
    started.shutdown()


def node() -> dict[str, Any]:
    return {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}


def problem(make: Any = None) -> wp.Problem:
    def net(width: int = 8) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, width), nn.Tanh(), nn.Dropout(0.5), nn.Linear(width, 2))

    return wp.Problem(make or net, "cross_entropy", wp.Data((X, Y), (X[:30], Y[:30])))


def jobs(count: int = 5, **settings: Any) -> list[Job]:
    recipe = {"epochs": 3, "batch_size": 16, "terms": [{"penalty": "l1", "strength": 0.01}], **settings}
    return [Job(wp.Recipe(**recipe, model={"width": 4 + seed % 2}), seed) for seed in range(count)]


def train(given: wp.Problem, wanted: Sequence[Job], engine: str = "ray", **settings: Any) -> list[Outcome]:
    return train_jobs(given, wanted, engine=engine, device="cpu", **settings)


def same(a: Outcome, b: Outcome) -> bool:
    """Equal bit for bit: weights, and everything in the history but the time."""
    assert isinstance(a, wp.Run)
    assert isinstance(b, wp.Run)
    rows = [[{k: repr(v) for k, v in row.items() if "seconds" not in k} for row in run.history] for run in (a, b)]
    left, right = a.model.state_dict(), b.model.state_dict()
    return (
        rows[0] == rows[1]
        and (a.recipe, a.seed) == (b.recipe, b.seed)
        and all(map(torch.equal, left.values(), right.values()))
    )


def test_the_cluster_gives_the_runs_of_this_process(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packings: list[wp.Problem] = []
    pack = transfer.pack_problem
    monkeypatch.setattr(transfer, "pack_problem", lambda given, *rest: packings.append(given) or pack(given, *rest))
    given = problem()
    expected = train(given, jobs(), "inprocess")
    told: dict[int, Outcome] = {}
    found = train(given, jobs(), done=told.__setitem__)
    assert len(found) == 5
    assert all(map(same, expected, found))
    assert found == [told[place] for place in range(5)]
    assert {run.engine.partition(":")[0] for run in found} == {"ray"}
    assert all(run.problem is given for run in found)
    again = train(given, jobs(2))
    assert all(map(same, expected, again))
    assert packings == [given]  # stored once, for both calls
    assert not same(again[0], train(given, [Job(jobs()[0].recipe, 9)])[0])
    assert ray.is_initialized()
    assert len([n for n in ray.nodes() if n["Alive"]]) == 2


def test_no_other_test_process_finds_the_cluster(nodes: Any) -> None:
    """Where Ray writes its address down, each ``ray.init()`` of the machine would connect to it, whoever has started it."""
    kept = Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
    assert kept.read_text(encoding="utf-8") == nodes.address
    everyone = Path("/tmp/ray/ray_current_cluster")
    assert not everyone.exists() or everyone.read_text(encoding="utf-8") != nodes.address


@pytest.mark.parametrize("source", ["RAY_ADDRESS", "ray_current_cluster"])
@pytest.mark.parametrize("address", ["127.0.0.1:{}", "localhost:{}", "127.0.0.1:99999"])
def test_a_cluster_that_has_ended_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, address: str
) -> None:
    """Ray tries for ten minutes, and ends the process then. Also where the file is a leftover of a head that was killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = address.format(free.getsockname()[1])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", address if source == "RAY_ADDRESS" else "")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("" if source == "RAY_ADDRESS" else address, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{source}.* names a Ray cluster at {address}, where nobody answers"):
        cluster.connect(ray)


@pytest.mark.parametrize("address", ["", "local", "auto", "ray://host:10001", "listening", "junk"])
def test_an_address_is_left_to_ray_where_it_can_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if address == "junk":
        address = ""
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_bytes(b"\xff\x00:" * 10_000)
    with socket.create_server(("127.0.0.1", 0)) as there:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{there.getsockname()[1]}" if address == "listening" else address)
        cluster.connect(ray)
    assert len(asked) == 1


def test_both_nodes_train(nodes: Any, tmp_path: Path) -> None:
    driver = os.getpid()

    def net(width: int = 4) -> nn.Module:
        if os.getpid() != driver:  # each waits for the other
            (tmp_path / ray.get_runtime_context().get_node_id()).touch()
            until = time.monotonic() + 300
            while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
                time.sleep(0.05)
        return nn.Linear(FEATURES, 2)

    assert len(train(problem(net), jobs(4))) == 4
    assert len(list(tmp_path.iterdir())) == 2


def test_large_data_are_held_once_a_node(nodes: Any) -> None:
    rows = STORE * 6 // 10 // (4 * 128)  # one copy fits in a store, two do not
    inputs = torch.randn(rows, 128, generator=torch.Generator().manual_seed(1))
    target = (inputs[:, 0] > 0).long()
    given = wp.Problem(
        lambda: nn.Linear(128, 2), "cross_entropy", wp.Data((inputs, target), (inputs[:50].clone(), target[:50]))
    )
    wanted = [Job(wp.Recipe(epochs=1), seed, rows=100) for seed in range(4)]
    expected = train(given, wanted, "inprocess")
    assert all(map(same, expected, train(given, wanted)))


def test_a_worker_that_dies_is_retried(nodes: Any, tmp_path: Path) -> None:
    given = problem(deadly(tmp_path, times=1))
    found = train(given, jobs(4))
    assert len(list(tmp_path.iterdir())) == 1
    assert all(map(same, train(given, jobs(4), "inprocess"), found))


def deadly(folder: Path, times: int) -> Any:
    """A factory that kills its process, so many times."""
    driver = os.getpid()

    def net(width: int = 4) -> nn.Module:
        if width == 5 and os.getpid() != driver and any(claimed(folder / str(death)) for death in range(times)):
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Linear(FEATURES, 2)

    def claimed(place: Path) -> bool:
        """True in one of the processes that ask, also where two ask at once."""
        try:
            place.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    return net


def test_a_worker_that_dies_each_time_is_an_error(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)
    found = train(problem(deadly(tmp_path, times=99)), jobs(4, epochs=1))
    assert len(found) == 4
    assert len(list(tmp_path.iterdir())) == 4  # two lots, twice each
    assert all("2 Ray workers that trained this job died" in str(error) for error in found)


def test_what_cannot_be_trained_stops_no_other(nodes: Any) -> None:
    def net(width: int = 4) -> nn.Module:
        if width == 5:
            raise ValueError("unlucky")
        return nn.Linear(FEATURES, 2)

    found = train(problem(net), jobs(4))
    assert [type(outcome) for outcome in found] == [wp.Run, ProblemError] * 2
    assert "unlucky" in str(found[1])
    with pytest.raises(ProblemError, match="unlucky"):
        wp.fit_many(problem(net), [job.recipe for job in jobs(2)], engine="ray", device="cpu")


def test_cull_and_deadline_hold_there(nodes: Any) -> None:
    def cull(standings: Sequence[Standing]) -> list[int]:
        return [standing.job for standing in standings if standing.job % 2]

    found = train(problem(), jobs(4), cull=cull)
    assert [(run.stopped, len(run.history)) for run in found] == [("epochs", 3), ("culled", 1)] * 2
    began = time.monotonic()
    found = train(problem(), jobs(2, epochs=10**6, stopping={"patience": 0}), deadline=began + 1.0)
    assert [run.stopped for run in found] == ["budget"] * 2
    assert time.monotonic() - began < 300, "a million epochs take hours"


def test_print_stays_what_it_was(nodes: Any) -> None:
    """Ray puts its own in Python's place as soon as it hears of a worker's output; what holds ``print`` is not pickled then."""
    from ray.experimental import tqdm_ray

    cluster.connect(ray)
    tqdm_ray.instance()
    assert print.__module__ == "builtins"


def test_a_gpu_that_no_node_has_is_refused(nodes: Any) -> None:
    with pytest.raises(InputError, match="No node of the Ray cluster has a GPU"):
        train_jobs(problem(), jobs(1), engine="ray", device="cuda")
    with pytest.raises(InputError, match="no device 'mps' on a Ray cluster"):
        train_jobs(problem(), jobs(1), engine="ray", device="mps")


def test_a_bug_there_is_raised_here(nodes: Any) -> None:
    given = problem()
    wrong = transfer.WorkerShare((0,), tuple(jobs(1)), Conditions("cpu"), version="0.0.0")
    task = ray.remote(max_retries=0)(cluster.train_remotely)
    cluster.connect(ray)
    tasks = cluster.Tasks(ray, task, given, cluster.store_problem(ray, given), jobs(1), Outcomes(1, None), 1)
    with pytest.raises(TrainingError, match=r"sent jobs by wellposed 0\.0\.0") as caught:
        tasks.train([wrong])
    assert "In a Ray worker" in caught.value.__notes__[0]


PROGRAM = """
import os, sys
from pathlib import Path
import torch, wellposed as wp
from wellposed.core.progress import reporting_to

mark = Path(sys.argv[1])

def net(width=1):
    if width == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return torch.nn.Linear(2, 2)

problem = wp.Problem(net, "cross_entropy", (torch.randn(20, 2), torch.arange(20) % 2))
recipes = [wp.Recipe(epochs=1, model={"width": 2}), wp.Recipe(epochs=10**9, stopping={"patience": 0})]
with reporting_to(lambda event, fields: print(event, flush=True)):
    runs = wp.fit_many(problem, recipes, engine="ray", device="cpu")
print([run.stopped for run in runs])
"""


def test_ctrl_c_keeps_what_has_ended_and_output_has_our_words_alone(nodes: Any, tmp_path: Path) -> None:
    cluster.connect(ray)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "died")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline() == "trained\n"  # of a job whose first worker died, which Ray would print
    time.sleep(1.0)
    program.send_signal(signal.SIGINT)
    try:
        out, err = program.communicate(timeout=300)
    finally:
        program.kill()  # one that did not end would train beside all tests after this
    assert out == "['epochs']\n"
    assert err == ""
    assert (tmp_path / "died").exists()
    assert eventually(lambda: ray.available_resources().get("CPU") == 2)  # the worker that trained without end is gone


def eventually(holds: Callable[[], bool], seconds: float = 300) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.1)
    return holds()


def test_notes_of_workers_are_told_here(nodes: Any) -> None:
    events: list[str] = []
    with reporting_to(lambda event, fields: events.append(event)):
        train(problem(), jobs(1))
    assert events == ["trained"]


def test_a_node_that_is_taken_away(nodes: Any, tmp_path: Path) -> None:
    """Both nodes are in the middle when one goes; its lot is trained again on the other. Another comes then, for the next tests."""
    (tmp_path / "running").mkdir()

    def net(width: int = 4) -> nn.Module:
        if not (tmp_path / "gone").exists():
            (tmp_path / "running" / ray.get_runtime_context().get_node_id()).touch()
        while not (tmp_path / "gone").exists():
            time.sleep(0.05)
        return nn.Linear(FEATURES, 2)

    given, wanted = problem(net), jobs(4, epochs=1)
    other = next(n for n in nodes.list_all_nodes() if n is not nodes.head_node)

    def take_away() -> None:
        while len(list((tmp_path / "running").iterdir())) < 2:
            time.sleep(0.05)
        nodes.remove_node(other, allow_graceful=False)
        (tmp_path / "gone").touch()

    thread = threading.Thread(target=take_away)
    thread.start()
    found = train(given, wanted)
    thread.join()
    assert eventually(lambda: len([n for n in ray.nodes() if n["Alive"]]) == 1)
    nodes.add_node(**node())
    nodes.wait_for_nodes()
    assert all(map(same, train(given, wanted, "inprocess"), found))
