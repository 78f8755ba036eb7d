"""What each ingredient is worth, by planted ones; and the stages together: starts, lots, looks, and going on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("optuna")
pytest.importorskip("sklearn")

from wellposed.core.errors import InputError
from wellposed.core.progress import reporting_to
from wellposed.data.data import Data
from wellposed.recipe.recipe import Recipe
from wellposed.search import confirmation, timing
from wellposed.search import improve as searching
from wellposed.search.ablation import Worth, ablation
from wellposed.search.holdout import with_test
from wellposed.search.improve import improve
from wellposed.search.runner import Bench
from wellposed.study.budget import Account, Budget
from wellposed.study.resume import continue_account
from wellposed.study.trials import State, Trial
from wellposed.training.problem import Problem

pytestmark = pytest.mark.usefixtures("own_clock")


@pytest.fixture(autouse=True)
def _short_runs() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "PLAIN_EPOCHS", 3)
        yield
    torch.set_num_threads(threads)


def rows(count: int = 300) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=draw)
    return x, (x[:, 0] + 0.5 * torch.randn(count, generator=draw) > 0).long()


class Blind(nn.Module):
    """A model that sees its inputs only where it is told to."""

    def __init__(self, sees: bool = False) -> None:
        super().__init__()
        self.layer, self.sees = nn.Linear(3, 2), float(sees)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x * self.sees)
        return out


def make_net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, 2))


def problem(model: Any = make_net, count: int = 80) -> Problem:
    return Problem(model, "cross_entropy", Data(train=rows(count)))


def bench(found: Problem, tried: int = 40) -> Bench:
    """A bench at the end of a search of so many recipes."""
    trials = [
        Trial(i, "search", Recipe().to_dict(), "", 0, 0.5, 0.5, 0.5, 3, 1, 0.1, "epochs", 9) for i in range(tried)
    ]
    state = State("d", "accuracy", 0, False, trials=trials, planned=tried)
    account = Account(Budget.parse("40 recipes"), time.monotonic())
    return Bench(with_test(found), account, state, None, torch.device("cpu"), "inprocess")


# --- ablation ------------------------------------------------------------------------------------------------------

BASELINE = Recipe(batch_size=16, optimizer={"lr": 0.1})


def test_what_matters_is_worth_something_and_what_does_nothing_is_not() -> None:
    best = BASELINE.replace(model={"sees": True}, clip=1e6, terms=[{"penalty": "l2", "strength": 1e-9}])
    found = ablation(bench(problem(Blind, 300)), BASELINE, best, 3, None)
    told = {one["ingredient"]: one for one in map(Worth.told, found.worths)}
    assert set(told) == {"model", "clip", "l2"}
    assert next(iter(told)) == "model", "the most valuable first"
    assert told["model"]["low"] > 0.1
    assert told["clip"]["estimate"] == 0.0
    assert told["clip"]["pairs"] == 5
    assert found.simplest is not None
    assert set(found.simplest["without"]) == {"clip", "l2"}
    simplest = Recipe.from_toml(found.simplest["recipe"])
    assert simplest == BASELINE.replace(model={"sees": True})
    assert found.simplest["difference"] >= -found.simplest["standard_error"]


def test_an_ingredient_that_harms_is_worth_less_than_nothing() -> None:
    best = BASELINE.replace(model={"sees": True}, terms=[{"penalty": "max_norm", "bound": 1e-6}])
    found = ablation(bench(problem(Blind, 300)), BASELINE, best, 3, None)
    worth = {one["ingredient"]: one for one in map(Worth.told, found.worths)}
    assert worth["max_norm"]["high"] < 0
    assert found.simplest is not None
    assert found.simplest["without"] == ["max_norm"]
    assert found.simplest["difference"] > 0.1


def test_a_cocktail_is_compared_with_its_most_valuable_ingredient_alone() -> None:
    best = BASELINE.replace(
        model={"sees": True}, clip=1e6, averaging={"ema": 0.5}, terms=[{"penalty": "max_norm", "bound": 1e-6}]
    )
    found = ablation(bench(problem(Blind, 300)), BASELINE, best, 3, None)
    assert found.cocktail is not None
    first, *others = (w.ingredient.name for w in found.worths if w.ingredient.name != "model")
    assert (found.cocktail["alone"], found.cocktail["others"]) == (first, others)
    assert {first, *others} == {"clip", "ema", "max_norm"}
    assert found.cocktail["high"] < -0.1, "max_norm, which the first of them alone is without, makes the model blind"
    assert found.cocktail["pairs"] == 5
    two = BASELINE.replace(model={"sees": True}, clip=1e6, terms=[{"penalty": "l2", "strength": 1e-9}])
    pair = ablation(bench(problem(Blind, 300)), BASELINE, two, 3, None)
    assert pair.cocktail is not None
    assert pair.cocktail["estimate"] == next(
        w.interval.estimate for w in pair.worths if w.ingredient.name == pair.cocktail["others"][0]
    ), "of two the run without the other is the run of the first alone"
    one = ablation(bench(problem(Blind, 300)), BASELINE, BASELINE.replace(model={"sees": True}, clip=1e6), 3, None)
    assert one.cocktail is None


def test_the_baseline_has_nothing_to_take_apart_and_a_small_budget_says_so() -> None:
    assert ablation(bench(problem()), BASELINE, BASELINE, 3, None).worths == []
    small = bench(problem(), tried=5)
    best = BASELINE.replace(clip=1.0, noise={"dropout": 0.5}, averaging={"ema": 0.9})
    assert ablation(small, BASELINE, best, 3, None).worths == []
    assert any("3 ingredients" in note and "not measured" in note for note in small.notes)


def test_both_sides_of_a_pair_have_the_same_seed_and_it_is_new() -> None:
    at = bench(problem())
    ablation(at, BASELINE, BASELINE.replace(clip=1.0), 3, None)
    trials = at.state.of("ablation")
    seeds = {json.dumps(t.recipe): sorted(o.seed for o in trials if o.recipe == t.recipe) for t in trials}
    assert len(seeds) == 2
    assert len({tuple(each) for each in seeds.values()}) == 1
    assert min(min(each) for each in seeds.values()) >= 2000


def test_a_study_with_enough_recipes_takes_its_best_one_apart() -> None:
    own = Recipe(batch_size=16, optimizer={"lr": 0.1}, model={"sees": True}, clip=50.0)
    study = improve(problem(Blind, 300), "24 recipes", recipe=own)
    record = study.record()
    assert record["ablation"] == study.ablation
    assert study.ablation[0]["ingredient"] == "model"
    assert study.ablation[0]["low"] > 0
    assert {t.kind for t in study.trials} >= {"ablation"}
    assert record["simplest"] is None or "recipe" in record["simplest"]


# --- the stages together -------------------------------------------------------------------------------------------


def test_lots_are_asked_then_trained_then_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is to be trained is on disk before it is trained."""
    seen: list[tuple[int, int]] = []
    train = Bench.train

    def noted(self: Bench, kind: str, lot: Any, *rest: Any, **more: Any) -> Any:
        if kind == "search":
            state = State.load(tmp_path / "run")
            assert {p.index for p in lot} == {p.index for p in state.pending}
            seen.append((state.lots, len(lot)))
        return train(self, kind, lot, *rest, **more)

    monkeypatch.setattr(Bench, "train", noted)
    improve(problem(), "20 recipes", out=tmp_path / "run")
    assert [lot for lot, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) >= 3
    assert State.load(tmp_path / "run").pending == []


def test_halving_stops_some_and_no_finalist_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PLAIN_EPOCHS", 12)
    study = improve(problem(), "30 recipes", engine="inprocess")
    searched = [t for t in study.trials if t.kind == "search"]
    culled = [t for t in searched if t.stopped == "culled"]
    assert culled
    assert {t.epochs for t in culled} <= {4, 8}, "at the rungs: a third and two thirds"
    assert all(t.stopped != "culled" for t in study.trials if t.kind != "search"), "never the baseline's own rates"
    finalists = {json.dumps(t.recipe, sort_keys=True) for t in study.trials if t.kind == "finalist"}
    assert not finalists & {json.dumps(t.recipe, sort_keys=True) for t in culled}


def test_ctrl_c_in_a_population_keeps_what_had_ended_and_goes_on(tmp_path: Path) -> None:
    whole = improve(problem(), "14 recipes")
    events = 0

    def sink(event: str, fields: dict[str, Any]) -> None:
        nonlocal events
        events += event == "population"
        if events == 8:
            events += 1
            raise KeyboardInterrupt

    with reporting_to(sink):
        cut = improve(problem(), "14 recipes", out=tmp_path / "run")
    assert cut.facts["looks"] == 0
    assert any("Interrupted" in note for note in cut.notes)
    again = improve(problem(), "14 recipes", out=tmp_path / "run", resume=True)
    assert again.facts["looks"] == 1
    assert again.side("best") == whole.side("best")
    assert again.improvement == whole.improvement


def test_a_look_that_was_cut_off_before_it_was_shown_is_made_again_as_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError("the power went off")

    with monkeypatch.context() as patch:
        patch.setattr(searching.Study, "save", gone)
        with pytest.raises(OSError, match="power"):
            improve(problem(), "4 recipes", out=tmp_path / "run")
    assert list(State.load(tmp_path / "run").looks.values()) == [1]
    study = improve(problem(), "4 recipes", out=tmp_path / "run", resume=True)
    assert study.facts["looks"] == 1, "nobody had seen it"


def test_a_look_whose_results_were_written_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(searching.Search, "close", lambda self: None)
        improve(problem(), "4 recipes", out=tmp_path / "run")
    with pytest.raises(InputError, match="has spent its budget of 4 recipes"):
        improve(problem(), "4 recipes", out=tmp_path / "run", resume=True)
    assert improve(problem(), "5 recipes", out=tmp_path / "run", resume=True).facts["looks"] == 2


def test_more_minutes_go_on_where_fewer_have_ended(tmp_path: Path) -> None:
    first = improve(problem(), "2s", out=tmp_path / "run")
    with pytest.raises(InputError, match="has spent its budget of 2s"):
        improve(problem(), "2s", out=tmp_path / "run", resume=True)
    account = continue_account(
        tmp_path / "run", State.load(tmp_path / "run"), Account(Budget.parse("10s"), 0.0), "other rows", 0.5
    )
    assert account.budget.amount == 8.0, "what was spent before counts"
    second = improve(problem(), "10s", out=tmp_path / "run", resume=True)
    assert second.facts["looks"] == 2
    kept = [t.recipe for t in first.trials if t.kind in ("baseline", "search")]
    assert [t.recipe for t in second.trials if t.kind in ("baseline", "search")][: len(kept)] == kept


def test_the_engine_is_handed_on_and_an_unknown_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no engine 'rays'.*Did you mean 'ray'"):
        improve(problem(), "0", engine="rays")
    seen: set[str] = set()
    from wellposed.search import runner as benches

    train = benches.train_jobs

    def noted(*given: Any, engine: str, **more: Any) -> Any:
        seen.add(engine)
        return train(*given, engine="inprocess", **more)

    monkeypatch.setattr(benches, "train_jobs", noted)
    study = improve(problem(), "4 recipes", engine="processes")
    assert seen == {"processes"}
    assert study.record()["engine"] == "processes"


def test_pairs_are_whole_or_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a run that the clock cut, on one side of each pair but the first."""
    at = bench(problem(), 0)
    train = at.train

    def cut(*given: Any, **more: Any) -> Any:
        runs = train(*given, **more)
        for run in runs[3::2]:
            run.stopped = "budget"
        return runs

    monkeypatch.setattr(at, "train", cut)
    plan = confirmation.ConfirmationPlan(3, 3, None)
    whole, rest = confirmation.trained_pairs(at, [BASELINE, BASELINE.replace(clip=1.0)], plan, 0, 3)
    assert (len(whole), len(rest)) == (1, 2)
    assert [a.seed for a, _ in whole + rest] == [1000, 1001, 1002]
    assert all(a.seed == b.seed for a, b in whole + rest)
    assert math.isfinite(whole[0][0].history["valid_loss"][-1])


def test_more_recipes_go_on_where_fewer_have_ended_already_in_the_baseline(tmp_path: Path) -> None:
    """A study that was confirmed before its search began is none that was killed: its baseline is not trained again."""
    improve(problem(), "2 recipes", out=tmp_path / "run")
    fewer = State.load(tmp_path / "run")
    more = improve(problem(), "9 recipes", out=tmp_path / "run", resume=True)
    recipes = [trial.recipe for trial in more.trials if trial.kind in ("baseline", "search")]
    assert len(recipes) == len({json.dumps(recipe, sort_keys=True) for recipe in recipes}) == 9
    assert [trial.index for trial in more.trials][: len(fewer.trials)] == [trial.index for trial in fewer.trials]
