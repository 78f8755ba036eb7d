"""A budget in seconds ends the study, whatever the machine does meanwhile.

The clock of these tests stands still but for the work that is done, each piece of which takes a given time: no load of the machine
that the tests run on changes what they see.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")
pytest.importorskip("pandas")
pytest.importorskip("sklearn")

import pandas
import sklearn.ensemble
import sklearn.linear_model
import torch

import wellposed.search.improve as improving
from wellposed.core.clock import EVALUATION, PYTHON, TRAINING, WRITING, clock_open, enter_stage, spent_on
from wellposed.data.tables import prepare_table
from wellposed.parallel.population.population import Population
from wellposed.reporting.html import report
from wellposed.search import runner
from wellposed.study.budget import Budget
from wellposed.study.study import Study, summary
from wellposed.study.time_spent import TimeSpent
from wellposed.training.loop import Training
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import table_problem
from wellposed.training.run import Run

BUDGET, MOST = 30.0, 36.0


class Machine:
    """A machine with a clock that only work moves.

    Args:
        slower: by how much all work is slower than on a quiet machine, by the seconds that are gone.
    """

    def __init__(self, patch: pytest.MonkeyPatch, slower: Callable[[float], float]) -> None:
        self.now = self.used = 1000.0
        self.slower, self.began = slower, self.now
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(time, "perf_counter", lambda: self.now)
        patch.setattr(time, "process_time", lambda: self.used)
        self.takes(
            patch, Population, "step", lambda population, slots, *given: len(given[-1]) * (0.005 * len(slots) + 0.01)
        )
        self.takes(patch, Population, "measured", lambda population, slots: 0.005 * len(slots) + 0.01)
        self.takes(patch, Training, "step", lambda *_: 0.01)
        self.takes(patch, Training, "record", lambda *_: 0.01)
        self.takes(patch, runner, "diagnose", lambda of, *_: 0.3 if isinstance(of, Run) else 0.01)
        self.takes(patch, Study, "save", lambda *_: 0.2)
        for model, per_round in (
            (sklearn.ensemble.HistGradientBoostingClassifier, 0.01),
            (sklearn.linear_model.LogisticRegression, 0.001),
        ):
            self.takes(patch, model, "fit", lambda fitted, *_, each=per_round: 0.1 + each * fitted.max_iter)

    @property
    def elapsed(self) -> float:
        return self.now - self.began

    def work(self, seconds: float) -> None:
        """Work that takes so long on a quiet machine."""
        self.used += seconds
        self.now += seconds * self.slower(self.elapsed)

    def takes(self, patch: pytest.MonkeyPatch, owner: Any, name: str, seconds: Callable[..., float]) -> None:
        """Let a call take that long."""
        real = getattr(owner, name)

        def slow(*given: Any, **named: Any) -> Any:
            self.work(seconds(*given))
            return real(*given, **named)

        patch.setattr(owner, name, slow)


def problem() -> Problem:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 4))
    frame = pandas.DataFrame(x, columns=list("abcd"))
    frame["kind"] = np.where(x[:, 0] + 0.5 * draw.normal(size=400) > 0, "yes", "no")
    return table_problem(prepare_table(frame, "kind"))


MACHINES: dict[str, Callable[[float], float]] = {
    "quiet": lambda gone: 1.0,
    "busy": lambda gone: 4.0,
    "very busy": lambda gone: 8.0,
    "busy from the search on": lambda gone: 1.0 if gone < 8 else 6.0,
    "busy at the end": lambda gone: 1.0 if gone < 24 else 3.0,
    "busy at first": lambda gone: 15.0 if gone < 8 else 1.0,
    "standing still now and then": lambda gone: 40.0 if int(gone) % 5 == 4 else 1.0,
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_budget_in_seconds_ends_the_study_on_any_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, MACHINES[name])
    study = improving.improve(problem(), Budget(BUDGET, "seconds"))
    record = study.record()
    spent = TimeSpent.of(record)
    assert spent is not None
    assert spent.seconds == pytest.approx(machine.elapsed), "every second is somewhere, and in one place alone"
    assert sum(row["cpu"] for row in record["clock"]) == pytest.approx(machine.used - machine.began)
    machine.work(1.0)  # the page
    assert machine.elapsed <= MOST
    cut = [trial for trial in record["trials"] if trial["stopped"] == "budget"]
    assert not cut or any("The time ran out before some runs" in note for note in study.notes)
    for reference in ("linear", "boosting"):
        whole = reference in record["references"]
        assert (
            whole != any(reference in note and "left out" in note for note in study.notes) or not record["references"]
        )
        assert whole or reference not in summary(record).lower().replace("the linear model", "")
    if name == "quiet":
        assert set(record["references"]) == {"constant", "linear", "boosting"}
        assert record["improvement"]["pairs"] >= 4
        assert spent.overhead < 0.15, "most of the time trains"
        assert spent.waited == pytest.approx(0.0, abs=1e-9)
        assert machine.elapsed > BUDGET - 1.5, "what nothing else can use, the confirmation does"


def test_what_is_nested_is_charged_once_and_other_threads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda gone: 2.0)

    def beside() -> None:
        with spent_on(EVALUATION):
            machine.work(1.0)

    with clock_open() as clock:
        enter_stage("search")
        with spent_on(TRAINING, "width 8"):
            machine.work(2.0)
            with spent_on(EVALUATION), clock_open() as inner:
                assert inner is clock
                machine.work(0.25)
                with clock_open(
                    time.monotonic()
                ) as later:  # of a second fold: its own, and what it has the first has too
                    machine.work(0.25)
                    assert [row["seconds"] for row in later.told()] == [0.5]
            thread = threading.Thread(target=beside)
            thread.start()
            thread.join()
        with pytest.raises(KeyError), spent_on(WRITING):
            raise KeyError
        machine.work(0.25)
        told = {(row["stage"], row["activity"], row["of"]): (row["seconds"], row["cpu"]) for row in clock.told()}
    assert {place: spent for place, spent in told.items() if spent[0] > 0} == {
        ("search", TRAINING, "width 8"): (6.0, 3.0), ("search", EVALUATION, ""): (0.5, 0.25),
        ("start", PYTHON, ""): (0.5, 0.25), ("search", PYTHON, ""): (0.5, 0.25),
    }  # fmt: skip
    spent = TimeSpent.of({"clock": clock.told()})
    assert spent is not None
    assert (spent.overhead, spent.waited) == pytest.approx((1.0 / 7.5, 0.5))
    assert [part.name for part in spent.shapes] == ["width 8"]
    assert TimeSpent.of({}) is None
    with spent_on(TRAINING):
        pass  # without a clock it does nothing


def test_a_reference_that_was_cut_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda gone: 1.0)
    machine.takes(
        monkeypatch, sklearn.ensemble.HistGradientBoostingClassifier, "fit", lambda fitted, *_: fitted.max_iter
    )
    study = improving.improve(problem(), Budget(BUDGET, "seconds"))
    assert set(study.record()["references"]) == {"constant", "linear"}
    assert any("The boosting reference is left out: the clock cut it after" in note for note in study.notes)
    assert "boosting" not in summary(study.record()).lower()


@pytest.mark.parametrize("before", [10.0, 25.0, 29.0, 34.0])
def test_a_start_that_took_most_of_the_time_leaves_a_study(
    before: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Reading and importing count; what is left is shared by the stages."""
    machine = Machine(monkeypatch, lambda gone: 1.0)
    given, began = problem(), machine.now
    machine.work(before)
    study = improving.improve(given, Budget(BUDGET, "seconds"), began=began)
    assert any("There was no time for the reference models" in note for note in study.notes)
    assert study.record()["references"] == {}
    assert machine.elapsed + 1.0 <= max(MOST, before + 3.0)
    stood = before > BUDGET
    assert stood == any("the runs of the search stand for it" in note for note in study.notes)
    if stood:
        assert not any(trial.kind == "confirmation" for trial in study.trials), "nothing more is trained"
        assert study.improvement is None
        assert np.isfinite(study.record()["baseline"]["test"]).all()
        assert "show nothing" in report(study, tmp_path / "page.html").read_text()


def test_threads_of_torch_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    Machine(monkeypatch, lambda gone: 1.0)
    improving.improve(problem(), Budget(10.0, "seconds"))
    assert torch.get_num_threads() == before
