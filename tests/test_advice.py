"""Advice is a recipe that differs, is possible, and says how; the search tries it first and writes down whether it helped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.diagnosis import advice
from wellposed.diagnosis.advice import ADVICE, MOST_CHANGES, Room, changes_for, with_advice
from wellposed.diagnosis.diagnose import rules
from wellposed.diagnosis.finding import AXES, PULLS, Finding
from wellposed.diagnosis.moves import with_lower_rate
from wellposed.noise.noise import keyed
from wellposed.search import advised_trials as trying
from wellposed.search import lots
from wellposed.study.trials import State

PLAIN = wp.Recipe()
ROOMY = Room({"dropout": 0.0, "label_smoothing": 0.0}, {"width": [16, 64, 256], "depth": [1, 2]})
BARE = Room()
RECIPES = {
    "plain": PLAIN,
    "sgd": wp.Recipe(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}, batch_size=4),
    "strong": wp.Recipe(
        terms=[{"penalty": "l2", "strength": 0.5}, {"penalty": "max_norm", "bound": 2.0}],
        noise={"dropout": 0.6, "label_smoothing": 0.3, "input": 0.5},
        schedule={"name": "cosine"}, clip=1.0, averaging={"ema": 0.99},
    ),
}  # fmt: skip
NOT_BY_A_RECIPE = {"loop", "data", "none"}


def test_every_finding_has_an_axis_a_kind_of_lever_and_advice_where_a_recipe_can_help() -> None:
    for rule in rules():
        assert rule.axis in AXES, rule.name
        assert rule.pulls in PULLS, rule.name
        if rule.pulls not in NOT_BY_A_RECIPE and rule.name not in ("dead_layers", "equal_units"):  # how weights begin
            assert rule.name in ADVICE, rule.name
    assert set(ADVICE) <= {rule.name for rule in rules()}
    for key in (key for kind in keyed() for key in kind.keys):
        assert all(len(sizes) == len(ADVICE[name]) for name, sizes in key.advised.items()), key.name


@pytest.mark.parametrize("room", [ROOMY, BARE], ids=["roomy", "bare"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("name", sorted(ADVICE))
def test_changes_differ_from_the_recipe_and_from_each_other_and_say_how(name: str, recipe: Any, room: Room) -> None:
    changes = changes_for(name, recipe, room)
    assert len(changes) <= MOST_CHANGES
    tried = [recipe]
    for change in changes:
        assert change.recipe not in tried
        tried.append(change.recipe)
        assert change.says
        assert "->" in change.says or "added" in change.says
        if "dropout" not in room.noise:
            assert change.recipe.noise.dropout in (recipe.noise.dropout, *_divided(recipe.noise.dropout))
        if "label_smoothing" not in room.noise:
            assert change.recipe.noise.label_smoothing <= recipe.noise.label_smoothing


def _divided(rate: float | None) -> list[float]:
    return [] if rate is None else [float(f"{rate / by:.3g}") for by in (3, 10, 100)]


def only(name: str, recipe: Any, room: Room = ROOMY) -> Any:
    return changes_for(name, recipe, room)[0].recipe


def test_the_first_change_pulls_the_lever_in_its_direction() -> None:
    assert only("rate_too_high", PLAIN).optimizer.lr == pytest.approx(1e-4)
    assert only("rate_too_low", PLAIN).optimizer.lr == pytest.approx(1e-2)
    assert only("diverged", PLAIN).optimizer.lr < PLAIN.optimizer.lr
    assert only("undertrained", PLAIN).epochs == 3 * PLAIN.epochs
    assert only("oscillates", PLAIN).schedule.name == "cosine"
    assert only("underfits", PLAIN.replace(model={"width": 16, "depth": 1})).model == {"width": 256, "depth": 2}
    assert only("overfits", PLAIN).terms[0].penalty == "l2"
    assert only("batch_too_small", RECIPES["sgd"]).batch_size == 32
    assert only("exploding_gradients", PLAIN).clip == 1.0


def test_milder_divides_every_strength_and_loosens_every_bound() -> None:
    strong = RECIPES["strong"]
    mild = only("over_regularized", strong)
    assert [t.amount for t in mild.terms] == pytest.approx([0.05, 20.0])
    assert mild.noise.dropout == pytest.approx(0.06)
    assert mild.noise.input == pytest.approx(0.05)


def test_milder_weakens_the_models_own_dropout() -> None:
    changed = only("over_regularized", PLAIN, Room({"dropout": 0.8}))
    assert changed.noise.dropout == pytest.approx(0.08)
    net = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.8), nn.Linear(4, 2), nn.Dropout(0.5))
    assert Room.of(small_problem(), net).noise["dropout"] == 0.8


def test_decay_of_everything_becomes_decay_of_weights_with_the_same_strength() -> None:
    changed = only("decayed_norms", RECIPES["sgd"])
    assert changed.optimizer.settings["weight_decay"] == 0.0
    assert [(t.penalty, t.amount, t.on) for t in changed.terms] == [("l2", 0.01, "weights")]


def test_not_learning_goes_towards_the_usual_rate_from_either_side() -> None:
    assert only("not_learning", PLAIN.replace(optimizer={"lr": 1.0})).optimizer.lr == pytest.approx(2e-3)
    assert only("not_learning", PLAIN.replace(optimizer={"lr": 1e-6})).optimizer.lr == pytest.approx(2e-3)
    momentum = wp.Recipe(optimizer={"name": "sgd", "lr": 5.0, "momentum": 0.9})
    assert only("not_learning", momentum).optimizer.lr == pytest.approx(5e-3)


def test_what_no_recipe_can_mend_has_no_change() -> None:
    (told,) = with_advice([Finding("wrong_loss", 1.0)], PLAIN, ROOMY)
    assert told.changes == ()
    assert changes_for("healthy", PLAIN, ROOMY) == ()


class Jumpy(wp.Rule):
    """A finding of one's own, with a move of ours."""

    name, severity, axis, pulls = "jumpy", 1, "optimization", "learning rate"
    moves = ((with_lower_rate(2),),)

    def judge(self, curves: Any) -> None:
        return None


def test_the_moves_of_a_rule_of_ones_own_are_made() -> None:
    (change,) = changes_for("jumpy", PLAIN, ROOMY, [Jumpy()])
    assert change.says == "lr 0.001 -> 0.0005"


def small_problem(rows: int = 90) -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 8, generator=generator)
    y = (x[:, 0] + 0.9 * torch.randn(rows, generator=generator) > 0).long()

    def make(width: int = 64) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, 2))

    return wp.Problem(make, "cross_entropy", wp.Data(train=(x[:60], y[:60]), valid=(x[60:], y[60:])))


def test_the_diagnosis_of_a_run_names_the_changes_of_its_recipe() -> None:
    run = wp.fit(small_problem(), wp.Recipe(epochs=60, optimizer={"lr": 2e-2}, stopping={"patience": 0}), seed=0)
    found = {finding.name: finding for finding in wp.diagnose(run)}
    name = next(name for name in found if name in ADVICE)
    assert found[name].changes == changes_for(name, run.recipe, Room.of(run.problem, run.model))
    assert found[name].to_dict()["changes"] == [change.says for change in found[name].changes]
    assert {"dropout", "label_smoothing"} <= Room.of(run.problem, run.model).noise.keys()


def test_improve_tries_advice_first_and_writes_down_what_became_of_it(tmp_path: Path) -> None:
    study = wp.improve(small_problem(160), budget="9 recipes", seed=1, out=tmp_path / "study")
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    findings = [f for f in State.load(tmp_path / "study").findings if f in ADVICE]
    assert findings
    able = [finding for finding in findings if finding != "undertrained" or len(changes_for(finding, PLAIN, ROOMY)) > 1]
    assert [told["finding"] for told in record["advice"]] == able[: trying.MOST_ADVICE]
    assert not any(
        str(told["says"]).startswith("epochs") for told in record["advice"]
    )  # the study plans the epochs itself
    searched = [trial for trial in study.trials if trial.kind == "search"]
    for place, told in enumerate(record["advice"]):
        trial = searched[place]
        assert told["trial"] == trial.index
        assert told["after"] == pytest.approx(trial.valid_loss)
        assert told["helped"] == (told["low"] > 0)
        assert told["low"] <= told["before"] - told["after"] <= told["high"]
        assert str(told["says"]) in told["told"]


def test_whether_advice_helped_is_judged_row_by_row() -> None:
    problem = small_problem(300)
    recipe = wp.Recipe(epochs=8, optimizer={"lr": 1e-2})
    good, bad = wp.fit(problem, recipe, seed=0), wp.fit(problem, recipe.replace(optimizer={"lr": 1e-6}), seed=0)
    kept = {name: trying.losses_of(run) for name, run in (("good", good), ("bad", bad))}
    fell, rose, same = (
        trying.paired_gain(kept[name], run) for name, run in (("bad", good), ("good", bad), ("good", good))
    )
    assert fell is not None
    assert rose is not None
    assert 0 < fell.low < fell.high
    assert (rose.low, rose.high) == pytest.approx((-fell.high, -fell.low))
    assert same is not None
    assert same.low == same.high == 0  # equal runs did not help
    for lost in ("", "AAAA", "no base64", kept["bad"][:-16]):
        assert trying.paired_gain(lost, good) is None


def test_what_was_not_measured_is_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval of no width was made of a difference alone, and called harm."""
    monkeypatch.setattr(lots, "measure_against", lambda bench, baseline: None)
    study = wp.improve(small_problem(160), budget="4 recipes", seed=1)
    advice = study.record()["advice"]
    assert advice
    for told in advice:
        assert (told["low"], told["high"], told["helped"], told["harmed"]) == (None, None, False, False)
        assert "was not measured" in told["told"]


def test_a_wrong_direction_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(advice.ADVICE, "rate_too_high", ADVICE["rate_too_low"])
    with pytest.raises(AssertionError):
        test_the_first_change_pulls_the_lever_in_its_direction()


def test_a_change_is_of_the_given_recipe_and_leaves_it_as_it_was() -> None:
    before = replace(ROOMY)
    strong = RECIPES["strong"]
    kept = strong.to_toml()
    for name in ADVICE:
        changes_for(name, strong, ROOMY)
    assert strong.to_toml() == kept
    assert before == ROOMY
