"""Budgets: what is understood, how it is spent, and that a clock is kept."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
threadpool_limits = pytest.importorskip("threadpoolctl").threadpool_limits

from wellposed.cli import main  # noqa: E402 - needs the extras
from wellposed.core.errors import InputError  # noqa: E402
from wellposed.data.tables import prepare_table  # noqa: E402
from wellposed.recipe.recipe import Recipe  # noqa: E402
from wellposed.search import timing  # noqa: E402
from wellposed.search.improve import improve  # noqa: E402
from wellposed.search.lots import Rounds  # noqa: E402
from wellposed.search.space import Space  # noqa: E402
from wellposed.study.budget import Account, Budget  # noqa: E402
from wellposed.study.study import Study  # noqa: E402
from wellposed.training.problem import Problem  # noqa: E402
from wellposed.training.ready_problems import table_problem  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_clock")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("90s", 90, "seconds"),
        ("90 sec", 90, "seconds"),
        ("1.5m", 90, "seconds"),
        ("2 minutes", 120, "seconds"),
        ("1h", 3600, "seconds"),
        (" 5M ", 300, "seconds"),
        ("1 recipe", 1, "recipes"),
        ("30 recipes", 30, "recipes"),
        ("30recipes", 30, "recipes"),
        ("200 epochs", 200, "epochs"),
        ("0", 0, "seconds"),
        ("0s", 0, "seconds"),
        ("0 recipes", 0, "recipes"),
    ],
)
def test_budgets_that_are_understood(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit)
    assert budget.none == (amount == 0)
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize(
    "text", ["", "m", "five minutes", "-5m", "5 days", "1e3s", "5m30s", "5,5m", "nan s", "inf h", "٥m5"]
)
def test_budgets_that_are_not(text: str) -> None:
    with pytest.raises(InputError, match="not understood; write 90s, 5m, '30 recipes', '200 epochs', or 0"):
        Budget.parse(text)


def test_a_number_alone_needs_a_unit() -> None:
    with pytest.raises(InputError, match="no unit; write 30s, 30m or '30 recipes'"):
        Budget.parse("30")


def test_an_account_counts_what_its_budget_counts() -> None:
    now = time.monotonic()
    recipes = Account(Budget.parse("4 recipes"), now)
    epochs = Account(Budget.parse("200 epochs"), now)
    clock = Account(Budget.parse("100s"), now - 25)
    for account in (recipes, epochs, clock):
        account.book(40)
    assert recipes.spent == 0.25
    assert epochs.spent == 0.2
    assert clock.spent == pytest.approx(0.25, abs=0.05)
    assert clock.deadline(0.5) == clock.began + 50
    assert recipes.deadline(0.5) == math.inf
    assert Account(Budget.parse("0"), now).spent == 1.0
    assert not Account(Budget.parse("0"), now).timed


# --- in a study ----------------------------------------------------------------------------------------------------


def tiny(rows: int = 120) -> Problem:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(rows, 4)), columns=list("abcd"))
    frame["kind"] = np.where(frame["a"] + 0.5 * draw.normal(size=rows) > 0, "x", "y")
    return table_problem(prepare_table(frame, "kind"))


def linear() -> Problem:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(80, 3, generator=draw)
    return Problem(lambda: nn.Linear(3, 2), "cross_entropy", (x, (x[:, 0] > 0).long()))


def kinds(study: Study) -> dict[str, int]:
    names = [trial.kind for trial in study.trials]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def test_no_budget_compares_the_default_recipe_untuned() -> None:
    study = improve(linear(), "0")
    assert kinds(study) == {"confirmation": 10}
    assert study.record()["recipes_tried"] == 0
    assert study.baseline.recipe.optimizer.lr == 1e-3
    assert study.best.recipe != study.baseline.recipe
    assert study.improvement is not None
    assert study.improvement.pairs == 5


@pytest.mark.parametrize("count", [4, 9])
def test_so_many_recipes_are_tried(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PLAIN_EPOCHS", 2)
    study = improve(linear(), f"{count} recipes")
    tried = kinds(study)
    assert tried["baseline"] + tried["search"] == study.record()["recipes_tried"] == count
    assert tried["search"] >= 1
    assert {trial.epochs for trial in study.trials} <= {1, 2}


@pytest.mark.parametrize("count", [40, 150])
def test_so_many_epochs_are_trained(count: int) -> None:
    study = improve(linear(), f"{count} epochs")
    trained = sum(trial.epochs for trial in study.trials if trial.kind in ("baseline", "search"))
    assert count <= trained < count + count // 30 + 1
    assert study.record()["recipes_tried"] >= 20


@pytest.mark.parametrize("seconds", [3, 8])
def test_a_clock_is_kept_on_a_tiny_table(seconds: int) -> None:
    """Within a fifth, and half a second for the last step and the record."""
    problem = tiny()
    improve(problem, "0")  # imports
    began = time.monotonic()
    study = improve(problem, f"{seconds}s")
    took = time.monotonic() - began
    assert took < 1.2 * seconds + 0.5
    assert study.facts["seconds"] == pytest.approx(took, abs=1.0)
    assert study.improvement is not None
    assert study.improvement.pairs >= 1
    assert kinds(study)["baseline"] >= 3
    if seconds >= 8:
        assert took > 0.4 * seconds, "the time that was given is used"
        assert study.record()["recipes_tried"] >= 10


def test_time_that_was_gone_before_counts() -> None:
    """The command line starts the clock before it reads the data."""
    study = improve(linear(), "60s", began=time.monotonic() - 55)
    assert study.facts["seconds"] < 60 * 1.2
    assert study.improvement is not None


def test_large_data_are_searched_on_fewer_rows_and_that_is_said() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 50, generator=draw)

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(50, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 2))

    problem = Problem(net, "cross_entropy", (x, (x[:, 0] > 0).long()))
    began = time.monotonic()
    study = improve(problem, "6s")
    assert time.monotonic() - began < 1.2 * 6 + 0.5
    rows = {kind: {trial.train_rows for trial in study.trials if trial.kind == kind} for kind in ("baseline", "search")}
    assert max(rows["baseline"] | rows["search"]) < len(problem.prepared.train)
    said = [note for note in study.notes if note.startswith("The search trained on")]
    assert [note.split()[4] for note in said] == [str(one) for one in rows["search"]]
    assert any("fewer than 20" in note for note in study.notes) == (study.record()["recipes_tried"] < 20)


@pytest.fixture
def an_epoch_takes_40_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its arithmetic, each 32 rows take 10 ms and an evaluation 20 ms: 64 rows are an epoch of 40 ms."""
    monkeypatch.setattr(timing.Pace, "epoch", lambda _, recipe, rows: rows / 32 * 0.01 + 0.02)


@pytest.mark.usefixtures("an_epoch_takes_40_ms")
def test_plans_follow_the_arithmetic() -> None:
    recipe = Recipe(batch_size=32)
    plans = timing.Pace(linear(), Account(Budget.parse("100s"), time.monotonic()), torch.device("cpu"))
    assert plans.seconds("baseline", [recipe] * 5, epochs=10, rows=64) == pytest.approx(2.0)
    assert plans.affordable("baseline", [recipe] * 5, 64, seconds=4.0, most=300) == 20
    assert plans.affordable("baseline", [recipe] * 5, 64, seconds=400.0, most=300) == 300
    epochs, rows = plans.search_plan(recipe, 64, seconds=40.0)
    assert rows == 64
    assert epochs * 20 * 0.04 <= 40.0, "20 recipes at least"
    fewest, fewer = plans.search_plan(recipe, 100_000, seconds=40.0)
    assert fewer < 100_000
    assert fewest >= 1
    plain = timing.Pace(linear(), Account(Budget.parse("9 recipes"), 0.0), torch.device("cpu"))
    assert plain.search_plan(recipe, 64, 0.0) == (timing.PLAIN_EPOCHS, 64)


@pytest.mark.usefixtures("an_epoch_takes_40_ms")
def test_the_pace_is_learned_from_lots() -> None:
    recipe, noisy = Recipe(batch_size=32, epochs=10), Recipe(batch_size=32, noise={"places": [
        {"kind": "drop_connect", "on": "weights", "rate": 0.1}
    ]})  # fmt: skip
    plans = timing.Pace(linear(), Account(Budget.parse("100s"), time.monotonic()), torch.device("cpu"))

    def lot(each: float, epochs: int = 10, count: int = 5, cut: bool = False) -> list[timing.TrialTiming]:
        return [timing.TrialTiming(recipe, epochs, each * epochs, cut)] * count

    plans.load = 3.0
    assert plans.factor(recipe) == 3.0, "a busy machine is slower, before any lot has shown how much"
    plans.took("baseline", lot(each=0.008), 64, seconds=0.4)
    assert plans.seconds("finalist", [recipe], 10, 64) == pytest.approx(0.08), "five times as fast as was thought"
    assert plans.factor(noisy) == pytest.approx(0.2), "which holds for others too until one of them was trained"
    plans.took("search", lot(each=0.008, epochs=4), 64, seconds=0.16)
    assert plans.seconds("search", [recipe], 10, 64) == pytest.approx(0.032), "halving ends runs early"
    assert plans.seconds("confirmation", [recipe], 10, 64) == pytest.approx(0.08), "which says nothing of others"
    plans.took("confirmation", lot(each=0.008, epochs=2, cut=True), 64, seconds=0.08)
    assert plans.seconds("confirmation", [recipe], 10, 64) == pytest.approx(0.08), (
        "the clock says nothing of how long runs last"
    )
    plans.took("ablation", lot(each=0.008), 64, seconds=0.8)
    assert plans.seconds("ablation", [recipe], 10, 64) == pytest.approx(0.16), "as much again between the epochs"
    plans.took("finalist", lot(each=0.03, count=1), 64, seconds=0.3)
    assert plans.factor(recipe) == pytest.approx(0.2), "one alone says nothing of many together"
    plans.took("finalist", lot(each=0.032), 64, seconds=1.6)
    assert plans.factor(recipe) == pytest.approx(0.8), "the machine has slowed down"


def test_an_epoch_is_reckoned_from_the_arithmetic_of_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of 3 x w and w x 2 multiply 5 w numbers a row, and have w + 2 outputs; a step by torch alone is as long for any."""

    def net(width: int = 8) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    problem = Problem(net, "cross_entropy", (x, (x[:, 0] > 0).long()), space={"width": [8, 512]})
    plans = timing.Pace(problem, Account(Budget.parse("100s"), time.monotonic()), torch.device("cpu"))
    small, large = (Recipe(batch_size=32, model={"width": width}) for width in (8, 512))
    for recipe, width in ((small, 8), (large, 512)):
        assert plans.size(recipe) == (5 * width + timing.UNIT * (width + 2), 6 * width + 2)
    assert plans.epoch(large, 64) > plans.epoch(small, 64)
    plans.took("search", [timing.TrialTiming(small, 1, 5 * plans.epoch(small, 64), False)] * 8, 64, seconds=1.0)
    assert plans.factor(large) == pytest.approx(5.0), "what is not known is as much slower as what is most alike"
    plans.took("search", [timing.TrialTiming(large, 1, 2 * plans.epoch(large, 64), False)] * 8, 64, seconds=1.0)
    assert [plans.factor(one) for one in (small, large)] == pytest.approx([5.0, 2.0])
    sharp, ahead = small.replace(sharpness={"radius": 0.1}), small.replace(lookahead={"every": 5})
    assert plans.step(sharp) == 2 * plans.step(small)
    assert plans.step(ahead) == plans.step(small)
    plans.compiled = True
    assert plans.step(ahead) == pytest.approx(plans.step(small) + timing.BY_TORCH)
    # Such recipes are as much rarer: of 40 that take four times as long, three quarters lose both ingredients, and nothing else.
    monkeypatch.setattr(timing, "BY_TORCH", 3 * plans.step(small))
    rounds = Rounds.__new__(Rounds)
    rounds.space, rounds.cheapened, rounds.stepped = Space(problem, small, []), 0, {}
    rounds.bench = SimpleNamespace(account=plans.account, pace=plans, seed=0)  # type: ignore[assignment]
    kept = rounds.space.plain(1e-3) | {"l2": True, "l2.size": 0.1}
    dear = {"drop_connect": True, "drop_connect.size": 0.1, "lookahead": True, "lookahead.size": 5.0}
    found = [rounds.cheaper(kept | dear, number) for number in range(40)]
    assert {tuple(sorted(point.items())) for point in found} == {
        tuple(sorted(point.items())) for point in (kept | dear, kept | {"drop_connect": False, "lookahead": False})
    }
    assert 20 < rounds.cheapened == sum(not point["lookahead"] for point in found) < 40
    assert rounds.cheaper(kept, 0) == kept
    odd = kept | dear | {"model.width": -1}  # cannot be built, which ends its own trial and no study
    assert rounds.cheaper(odd, 0) == odd


@pytest.mark.parametrize(
    ("layer", "places", "weights", "outputs"),
    [
        (nn.Linear(8, 3), 12, 8 * 3, 3),
        (nn.Conv1d(6, 4, 3, padding=1), 16, 6 * 4 * 3, 4),
        (nn.LSTM(8, 5, batch_first=True), 12, 4 * 5 * (8 + 5), 5),
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), 12, 8 * 3, 3),
    ],
    ids=["linear", "convolution", "recurrent", "normed"],
)
def test_work_is_counted_of_layers_of_any_kind(layer: nn.Module, places: int, weights: int, outputs: int) -> None:
    work = timing.count_work(layer, lambda: layer(torch.zeros(2, 6, 8)))
    assert work == places * (weights + timing.UNIT * outputs)
    assert not layer._forward_hooks


def test_an_embedding_is_looked_up() -> None:
    layer = nn.Embedding(1000, 5)
    assert timing.count_work(layer, lambda: layer(torch.zeros(2, 3, dtype=torch.long))) == 30 * timing.UNIT


def test_a_pair_that_the_clock_cut_is_no_evidence_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study is done, its scores are shown, nothing is claimed, and the command ends with 0."""
    monkeypatch.setattr(timing.Pace, "epoch", lambda *_: 1e-5)  # ever so hopeful
    monkeypatch.setattr(timing.Pace, "took", lambda *_: None)  # and never taught better

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            until = time.monotonic() + 0.004
            while time.monotonic() < until:
                pass
            assert x.isfinite().all()  # nothing that can be traced: it is trained alone, by calling this
            return self.layer(x)  # type: ignore[no-any-return]

    problem = linear()
    problem.model = Slow
    monkeypatch.setattr("wellposed.cli.improve.problem_of", lambda *_: (problem, None, ()))
    monkeypatch.setattr(
        sys, "argv", ["wellposed", "improve", "--budget", "1s", "--out", str(tmp_path / "run"), "--json"]
    )
    improve(linear(), "0")  # imports
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert time.monotonic() - began < 1.2 + 2.0  # of which the page takes most
    record = json.loads((tmp_path / "run" / "study.json").read_text())
    assert record["improvement"]["estimate"] is None, "the plan was meant to be too long"
    assert record["improvement"]["shown"] is False
    assert record["best"]["test"] is not None
    cut, not_begun = "cut by the clock", "no time for a confirmation"
    assert any(cut in note or not_begun in note for note in record["notes"])
    assert not ended.value.code
