"""`kill -9` before any write, or a full disk there, then ``--resume``: nothing is lost, and every file is as if nothing had been.

`benchmarks/kills.py` does it before every write.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
pytest.importorskip("pandas")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

import killing
from wellposed.search import smaller
from wellposed.search.runner import Bench
from wellposed.sparsity.compress import compress

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
PLACES, LAST = 4, 3
"""Writes that are drawn, beside the last ones; each costs two or three seconds."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    """A folder, what a study that nothing disturbs leaves, and its writes."""
    folder = tmp_path_factory.mktemp("kills")
    killing.warm_up(folder)
    return (folder, *killing.undisturbed(folder))


@pytest.mark.slow
@pytest.mark.parametrize("way", killing.WAYS)
def test_a_study_that_was_cut_ends_as_if_nothing_had_been(whole: tuple[Path, dict[str, Any], int], way: str) -> None:
    folder, wanted, writes = whole
    drawn = random.Random(way).sample(range(1, writes - LAST + 1), PLACES)
    places = [(way, at) for at in [*drawn, *range(writes - LAST + 1, writes + 1)]]
    found = killing.cut_everywhere(folder, wanted, writes, places)
    assert found.wrong == []
    assert found.trials > 0, "some were cut after trials had ended"


def test_the_study_that_is_cut_has_all_that_could_differ(whole: tuple[Path, dict[str, Any], int]) -> None:
    _, wanted, writes = whole
    record = wanted["study.json"]
    assert writes > 100
    assert {trial["kind"] for trial in record["trials"]} >= {"baseline", "search", "finalist", "confirmation"}
    assert {trial["stopped"] for trial in record["trials"]} >= {"culled", "epochs"}
    assert record["advice"]
    assert all(told["low"] < told["high"] for told in record["advice"])
    assert {"state.json", "report.html", "optuna.journal", "recipe.toml"} <= set(wanted)


def faster() -> None:
    """A clock that runs ten times as fast."""
    clock(lambda now: 10 * now)


def slower() -> None:
    """A clock that runs a tenth as fast, as a machine does that is never disturbed."""
    clock(lambda now: now / 10)


def jumping() -> None:
    """A clock that jumps by up to an hour whenever it is looked at, as on a machine that is busy or sleeps."""
    draw, gone = random.Random(0), [0.0]

    def jumped(now: float) -> float:
        gone[0] += draw.random() ** 8 * 3600
        return now + gone[0]

    clock(jumped)


def clock(changed: Any) -> None:
    """Let the process have a clock of its own."""
    for name in ("monotonic", "perf_counter"):
        real = getattr(time, name)
        setattr(time, name, lambda real=real: changed(real()))


@pytest.mark.parametrize("change", [faster, slower, jumping])
def test_a_study_without_a_clock_is_the_same_whatever_the_clock_says(
    whole: tuple[Path, dict[str, Any], int], change: killing.Change
) -> None:
    folder, wanted, _ = whole
    assert list(killing.different(wanted, killing.undisturbed(folder, also=change)[0])) == []


@pytest.mark.slow
def test_a_study_trained_by_several_processes_ends_as_if_nothing_had_been(
    whole: tuple[Path, dict[str, Any], int],
) -> None:
    folder = whole[0]
    wanted, writes = killing.undisturbed(folder, engine="processes")
    places = [("kill", at) for at in random.Random(0).sample(range(1, writes), 1)]
    assert killing.cut_everywhere(folder, wanted, writes, places, engine="processes").wrong == []


def in_training() -> None:
    """Die when a smaller network has been trained, and before the others."""
    keep = Bench.keep

    def kept(bench: Bench) -> None:
        keep(bench)
        if bench.state.of("small"):
            os.kill(os.getpid(), signal.SIGKILL)

    Bench.keep = kept  # type: ignore[method-assign]


def in_compressing() -> None:
    """Die when all smaller networks have been trained, and the first was compressed."""
    left = iter(range(2))

    def compressed(run: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return compress(run)

    smaller.compress = compressed  # type: ignore[assignment]


@pytest.mark.slow
def test_a_study_of_sizes_that_was_cut_ends_as_if_nothing_had_been(whole: tuple[Path, dict[str, Any], int]) -> None:
    folder, more = whole[0], ("--small",)
    assert killing.attempt(folder, folder / "sizes", False, more=more) == 0
    wanted = killing.content_of(folder / "sizes")
    assert [one for one in wanted["study.json"]["trials"] if one["kind"] == "small"]
    for number, dies in enumerate((in_training, in_compressing)):
        out = folder / f"sizes {number}"
        assert killing.attempt(folder, out, False, also=dies, more=more) == -signal.SIGKILL
        assert killing.attempt(folder, out, True, more=more) == 0
        assert list(killing.different(wanted, killing.content_of(out))) == []
        assert killing.wrong_with(out) == []


def test_a_page_that_was_not_written_is_written_by_resume(whole: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, _ = whole
    out = folder / "page"
    assert killing.attempt(folder, out, resume=False) == 0
    page = (out / "report.html").read_text()
    for content in (None, "the page of an earlier study"):
        (out / "report.html").unlink()
        if content is not None:
            (out / "report.html").write_text(content)
        assert killing.attempt(folder, out, resume=True) == 0
        assert (out / "report.html").read_text() == page
    assert killing.attempt(folder, out, resume=True) == 1
    assert "has spent its budget" in killing.said(folder)
    shutil.rmtree(out)


def test_what_would_be_lost_or_differ_is_noticed(tmp_path: Path) -> None:
    """The mutant: a state that a resume wrote over without one of its trials."""
    trials = [{"index": 0, "kind": "search", "valid": 0.5}, {"index": 1, "kind": "search", "valid": 0.7}]
    (tmp_path / "state.json").write_text(json.dumps({"trials": trials}))
    before, content = killing.trials_of(tmp_path), killing.content_of(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"trials": [{**trials[0], "valid": 0.6}]}))
    (tmp_path / "more").write_text("x")
    assert len(killing.missing(before, killing.trials_of(tmp_path))) == 2
    assert killing.missing(before, before) == []
    assert len(list(killing.different(content, killing.content_of(tmp_path)))) == 2
    assert list(killing.different(content, content)) == []
