"""A page that follows trainings: changes only, this machine only, nothing of a stranger's is taken for the page's own."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wellposed.core.errors import DataError
from wellposed.reporting.live import POINTS, Live, page_server, thinned


def write(folder: Path, name: str, epochs: int, rise: float = 0.0) -> Path:
    lines = ["epoch,train_loss,val_loss"]
    lines += [f"{i},{0.9**i:.5f},{0.3 + 0.7 * 0.9**i + rise * i:.5f}" for i in range(epochs)]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("count", [1, POINTS, 10 * POINTS + 3])
def test_a_thinned_curve_keeps_its_ends_and_spikes(count: int) -> None:
    y = np.sin(np.arange(count) / 50)
    y[count // 2] = 40.0
    y[count // 3] = np.nan
    found = thinned(np.arange(count), y)
    assert len(found) <= POINTS + 2
    assert [x for x, _ in found] == sorted({x for x, _ in found})
    if count > 1:
        assert max(value for _, value in found) == 40.0
        assert (found[0][0], found[-1][0]) == (0, count - 1)


def test_only_what_changed_is_told_again(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path, f"run{number}.csv", 30)
    write(tmp_path / "deep", "log.csv", 30, rise=0.05)
    (tmp_path / "notes.md").write_text("no curve")
    live = Live(tmp_path)
    live.look()
    first = live.changes(0)
    assert (
        sorted(one["name"] for one in first["runs"].values()) == ["deep/log.csv", *(f"run{i}.csv" for i in range(5))]
        or len(first["runs"]) == 6
    )
    assert {one["finding"] for one in first["runs"].values()} >= {"overfits"}
    numbers = {one["name"]: number for number, one in first["runs"].items()}
    assert first["curves"] == {}  # of nothing that the page shows
    live.look()
    assert live.changes(first["version"])["runs"] == {}
    write(tmp_path, "run3.csv", 31)
    (tmp_path / "run4.csv").unlink()
    live.look()
    told = live.changes(first["version"], view=[numbers["run2.csv"], numbers["run3.csv"]])
    assert {number: one.get("epochs") for number, one in told["runs"].items()} == {
        numbers["run3.csv"]: 31,
        numbers["run4.csv"]: None,
    }
    assert list(told["curves"]) == [numbers["run3.csv"]]  # the other one in view did not move


def test_a_thousand_runs_are_listed_at_once_and_those_in_view_are_read_first(tmp_path: Path) -> None:
    for number in range(1000):
        write(tmp_path, f"run{number:03}.csv", 5)
    live = Live(tmp_path)
    live.scan()
    listed = live.changes(0, view=[700, 701], lacking=[700, 701])
    assert len(listed["runs"]) == 1000
    assert not listed["complete"]
    assert listed["curves"] == {}
    assert len(json.dumps(listed)) < 100_000
    for _ in range(4):  # two are read, then judged, before any other
        live.step()
    told = live.changes(listed["version"], view=[700, 701], lacking=[700, 701])
    assert [(number, one["epochs"], "finding" in one) for number, one in told["runs"].items()] == [
        (700, 5, True),
        (701, 5, True),
    ]
    assert {number: len(one["valid"]) for number, one in told["curves"].items()} == {700: 5, 701: 5}
    assert live.changes(told["version"], view=[700], lacking=[])["curves"] == {}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    write(tmp_path, "<script>alert(1)<.csv", 20)
    server, live = page_server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    while not live.changes(0)["complete"]:
        time.sleep(0.01)
    yield server.server_address[1], tmp_path
    server.shutdown()
    server.server_close()
    thread.join(300)


def ask(port: int, path: str, host: str | None = None) -> Any:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as link:
        link.request("GET", path, headers={"Connection": "close"} | ({} if host is None else {"Host": host}))
        answer = link.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def test_the_page_is_this_machines_alone(served: tuple[int, Path]) -> None:
    port, _ = served
    status, headers, page = ask(port, "/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "alert(1)" not in page
    assert ask(port, "/", f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", ""):
        assert ask(port, "/changes?since=0", host)[0] == 403
    for path in ("/../../etc/passwd", "/changes/../x", "/favicon.ico"):
        assert ask(port, path)[0] == 404
    status, _, body = ask(port, "/changes?since=abc")
    assert [one["epochs"] for one in json.loads(body)["runs"].values()] == [20]


@pytest.mark.skipif(os.name == "nt", reason="permissions of Unix")
def test_what_goes_away_while_it_is_looked_at_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is renamed after it was listed, a folder that is moved and comes back, and one that may not be read."""
    folder = tmp_path / "logs"
    (folder / "inside").mkdir(parents=True)
    write(folder, "a.csv", 20)
    write(folder / "inside", "b.csv", 20)
    (folder / "gone.tmp").touch()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        found = list(listed(path))
        (folder / "gone.tmp").unlink(missing_ok=True)
        if Path(path).name == "inside":
            raise PermissionError(13, "Permission denied")
        return found

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr("wellposed.reporting.live.SECONDS_APART", 0.01)
    server, live = page_server(folder)
    try:
        folder.rename(tmp_path / "away")
        while not live.problem:
            time.sleep(0.01)
        assert "No such file" in live.changes(0)["problem"]
        (tmp_path / "away").rename(folder)
        write(folder, "c.csv", 20)
        until = time.monotonic() + 300
        while sum(bool(run.curves) for run in live.runs.values()) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert {run.row["name"] for run in live.runs.values() if run.curves} == {"a.csv", "c.csv"}
    finally:
        server.server_close()


def test_too_many_files_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.csv", 20)
    monkeypatch.setattr("wellposed.reporting.live.MOST_FILES", 0)
    with pytest.raises(DataError, match="holds more than 0 files"):
        page_server(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        page_server(tmp_path / "none")
