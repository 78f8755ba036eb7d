"""A study's error budgets: of both recipes where the time allows, said where it does not, and never beyond the clock's say."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import wellposed as wp
from wellposed.core.errors import TrainingError
from wellposed.core.progress import reporting_to
from wellposed.decomposition import error_budget as probe
from wellposed.decomposition import rivals
from wellposed.search import budget_split, error_sources
from wellposed.search.confirmation import Confirmed
from wellposed.search.error_sources import error_budgets
from wellposed.search.runner import Bench
from wellposed.study.budget import Account, Budget
from wellposed.study.trials import State

pytestmark = pytest.mark.usefixtures("own_clock")

EPOCHS = 6


@pytest.fixture(autouse=True)
def short_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is when budgets are measured, and not how good they are."""
    monkeypatch.setattr(rivals, "FEWEST_STEPS", 1)
    monkeypatch.setattr(probe, "POLISH", (1, 2))


def problem() -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 4, generator=generator)
    y = x[:, :1] + 0.3 * torch.randn(80, 1, generator=generator)
    return wp.Problem(
        lambda: torch.nn.Linear(4, 1), "squared_error", wp.Data(train=(x[:50], y[:50]), valid=(x[50:], y[50:]))
    )


def bench_of(budget: str, spent: float = 0.0) -> Bench:
    parsed = Budget.parse(budget)
    began = time.monotonic() - spent * parsed.amount if parsed.unit == "seconds" else time.monotonic()
    return Bench(problem(), Account(parsed, began), State("", "r2", 0, False), None, torch.device("cpu"), "inprocess")


def confirmed(bench: Bench) -> Confirmed:
    plain = wp.Recipe(epochs=EPOCHS, optimizer={"lr": 0.05})
    best = plain.replace(terms=[{"penalty": "l2", "strength": 0.1}])
    runs = [wp.fit_many(bench.problem, [recipe], range(2)) for recipe in (plain, best)]
    return Confirmed(plain, best, pairs=list(zip(*runs, strict=True)), looks=1, epochs=EPOCHS)


def test_both_recipes_are_taken_apart_and_their_terms_add_up() -> None:
    bench = bench_of("60s")
    found = error_budgets(bench, confirmed(bench))
    assert list(found) == ["baseline", "best"], bench.notes
    for budget in found.values():
        parts = [part["estimate"] for part in budget["parts"]]
        assert sum(parts) == pytest.approx(budget["valid"]["estimate"], abs=1e-9)
    assert found["baseline"]["parts"] != found["best"]["parts"]


@pytest.mark.parametrize("budget", ["6 recipes", "30 epochs"])
def test_without_a_clock_nothing_says_when_to_end_so_that_nothing_is_begun(budget: str) -> None:
    bench = bench_of(budget)
    assert error_budgets(bench, confirmed(bench)) == {}
    assert bench.notes == []


def test_too_little_time_is_said() -> None:
    bench = bench_of("60s", spent=0.99)
    assert error_budgets(bench, confirmed(bench)) == {}
    assert "was not measured" in bench.notes[0]
    assert "wp.error_budget" in bench.notes[0]


def test_a_time_that_is_never_too_short_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_split, "ERROR_BUDGET", -1e9)
    monkeypatch.setattr(error_sources, "least_seconds", lambda *_: -1e9)
    with pytest.raises(AssertionError):
        test_too_little_time_is_said()


def test_ctrl_c_during_a_budget_ends_the_study_and_keeps_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first budget is kept, the second is left out, and the bench knows."""
    bench = bench_of("60s")
    begun = 0

    def pressed(event: str, fields: dict[str, Any]) -> None:
        nonlocal begun
        begun += event == "phase"
        if event == "error_budget" and begun == 2:
            raise KeyboardInterrupt

    with reporting_to(pressed):
        found = error_budgets(bench, confirmed(bench))
    assert list(found) == ["baseline"]
    assert bench.interrupted


def test_the_report_is_left_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a budget is given ends before the study does."""
    bench = bench_of("60s")
    given: list[float] = []

    def measured(*_: Any, deadline: float, **__: Any) -> Any:
        given.append(deadline)
        raise TrainingError("enough")

    monkeypatch.setattr(error_sources, "error_budget", measured)
    assert error_budgets(bench, confirmed(bench)) == {}
    assert len(given) == 2
    assert given[-1] == pytest.approx(bench.account.deadline(1.0) - bench.writing, abs=0.5)
    assert "enough" in bench.notes[0]


def test_time_for_one_recipe_is_for_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of("60s")
    monkeypatch.setattr(budget_split, "ERROR_BUDGET", 40.0)  # more than half of what is left, and less than all of it
    found = error_budgets(bench, confirmed(bench))
    assert list(found) == ["best"]
    assert "tuned baseline" in bench.notes[0]
