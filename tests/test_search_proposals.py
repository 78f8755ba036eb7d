"""What is asked of Optuna and told to it, the playbook's rules, and the journal that its own tools open."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

optuna = pytest.importorskip("optuna")

from wellposed.core.errors import FormatError  # noqa: E402 - needs the extra
from wellposed.data.data import Data  # noqa: E402
from wellposed.recipe.recipe import Recipe  # noqa: E402
from wellposed.search import playbook  # noqa: E402
from wellposed.search.lots import shared_out  # noqa: E402
from wellposed.search.optuna_journal import FILE, Journal  # noqa: E402
from wellposed.search.proposals import Proposals, TrialResult  # noqa: E402
from wellposed.search.space import Space  # noqa: E402
from wellposed.study.ranking import WORST  # noqa: E402
from wellposed.study.trials import STATE, WRITTEN, State, Trial  # noqa: E402
from wellposed.training.problem import Problem  # noqa: E402


def make_net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, 2))


@pytest.fixture(scope="module")
def problem() -> Problem:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    return Problem(make_net, "cross_entropy", Data(train=(x, (x[:, 0] > 0).long())), space={"width": [4, 8, 16]})


@pytest.fixture
def space(problem: Problem) -> Space:
    return Space(problem, Recipe(batch_size=32, optimizer={"lr": 3e-3}), ())


def told(space: Space, proposals: Proposals, count: int, score: Any) -> list[TrialResult]:
    """Quasi-random points with what a score says of them."""
    points = proposals.ask(count, 0, 0, [])
    return [TrialResult(point, (score(point), 0.0)) for point in points]


# --- proposals -----------------------------------------------------------------------------------------------------


def test_quasi_random_points_fill_the_space_evenly(space: Space) -> None:
    points = Proposals(space, seed=0, quasi=64).ask(64, 0, 0, [])
    widths = [point["model.width"] for point in points]
    assert min(widths.count(width) for width in (4, 8, 16)) >= 16
    dropout = sum(point["dropout"] for point in points)
    assert 28 <= dropout <= 36, "half of them: chance alone would often be further off"
    assert len({json.dumps(point, sort_keys=True) for point in points}) == 64


def test_points_are_a_function_of_seed_lot_and_what_is_told(space: Space) -> None:
    def asked(seed: int, lot: int, first: int = 40) -> list[dict[str, Any]]:
        proposals = Proposals(space, seed, quasi=16)
        return proposals.ask(4, first, lot, told(space, Proposals(space, 0, 99), 16, lambda p: p["dropout"]))

    assert asked(0, 3) == asked(0, 3)
    assert asked(0, 3) != asked(0, 4)
    assert asked(0, 3) != asked(1, 3)
    assert asked(0, 0, first=0) != asked(1, 0, first=0)
    assert Proposals(space, 0, 16).ask(2, 5, 0, []) == Proposals(space, 0, 16).ask(7, 0, 0, [])[5:], "going on"


def test_learned_points_go_where_it_is_good(space: Space) -> None:
    """Planted: rates near 0.01 are good, and dropout is bad."""

    def score(point: dict[str, Any]) -> float:
        rate = point.get("rate", 1.0)
        return -abs(math.log10(rate / 0.01)) - point["dropout"]

    proposals = Proposals(space, 0, quasi=0)
    known = told(space, Proposals(space, 0, 99), 48, score)
    learned = proposals.ask(24, 48, 1, known)
    assert np.mean([score(p) for p in learned]) > np.mean([t.rank[0] for t in known]) + 0.3
    assert np.mean([p["dropout"] for p in learned]) < 0.3
    backwards = [TrialResult(t.point, (-t.rank[0], 0.0)) for t in known]
    mutant = proposals.ask(24, 48, 1, backwards)
    assert np.mean([score(p) for p in mutant]) < np.mean([score(p) for p in learned]) - 0.3


def test_all_of_a_group_have_its_shared_settings(space: Space) -> None:
    proposals = Proposals(space, 0, quasi=4)
    known = told(space, Proposals(space, 0, 99), 16, lambda p: p["model.width"])
    shared = proposals.group(1, 0, known)
    assert {"model.width", "batch_size"} == set(shared)
    for points in (proposals.ask(3, 0, 0, [], shared), proposals.ask(6, 16, 1, known, shared)):
        assert all(point[name] == value for point in points for name, value in shared.items())
    leading = [proposals.group(lot, 0, known)["model.width"] for lot in range(40)]
    assert leading.count(16) > 20, "the best width leads"
    assert len(set(leading)) == 3, "and is not the only one"


def test_learned_points_keep_away_from_those_that_are_trained_at_the_same_time(space: Space) -> None:
    proposals = Proposals(space, 0, quasi=0)
    known = told(space, Proposals(space, 0, 99), 24, lambda p: -abs(math.log10(p.get("rate", 1.0) / 0.01)))
    first = proposals.ask(3, 24, 1, known)
    again = proposals.ask(3, 24, 1, known, running=first)
    assert not any(point in first for point in again)


def test_settings_that_optuna_takes_for_equal_or_cannot_keep_come_back_as_they_are(
    problem: Problem, tmp_path: Path
) -> None:
    def odd(widths: Any = (4,), flag: Any = 1) -> nn.Module:
        return make_net()

    space = Space(
        Problem(odd, "cross_entropy", problem.data, space={"widths": [[4], [8, 8]], "flag": [1, True, 2.0]}),
        Recipe(batch_size=32), (),
    )  # fmt: skip
    proposals = Proposals(space, 0, quasi=4)
    known = [
        TrialResult(point, (0.5 + i / 100, 0.0)) for i, point in enumerate(Proposals(space, 0, 99).ask(16, 0, 0, []))
    ]
    found = [*(t.point for t in known), *proposals.ask(12, 16, 1, known)]
    found += [p for lot in range(6) for p in proposals.ask(2, 16, lot, known, proposals.group(lot, 0, known))]
    assert {(type(p["model.flag"]), p["model.flag"]) for p in found} == {(int, 1), (bool, True), (float, 2.0)}
    assert {tuple(p["model.widths"]) for p in found} == {(4,), (8, 8)}
    journal = Journal(tmp_path, maximize=True)
    journal.open(space, [trial(i, 0.5, params=point) for i, point in enumerate(found)])
    assert {t.params["model.flag"] for t in opened(tmp_path).trials} == {"1", "True", "2.0"}


def test_points_of_another_space_are_not_told_and_diverged_ones_are(space: Space) -> None:
    proposals = Proposals(space, 0, quasi=0)
    known = told(space, Proposals(space, 0, 99), 12, lambda p: 0.5)
    known += [
        TrialResult({**known[0].point, "gone": 1.0}, (9.0, 0.0)),
        TrialResult(known[1].point, WORST),
        TrialResult(known[2].point, (0.1, 0.0), 5),
    ]
    assert len(proposals.ask(3, 20, 1, known)) == 3


def test_optuna_says_nothing_and_is_left_as_it_was(space: Space, capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity(), list(logging.getLogger().handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Proposals(space, 0, 4).ask(8, 0, 0, told(space, Proposals(space, 0, 99), 8, lambda p: 0.0))
    assert (optuna.logging.get_verbosity(), list(logging.getLogger().handlers)) == before
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_lots_have_few_groups() -> None:
    for count in range(1, 60):
        groups = shared_out(count)
        assert sum(groups) == count
        assert len(groups) <= 4
        assert len(groups) == 1 or min(groups) >= 6


# --- the playbook --------------------------------------------------------------------------------------------------


def trial(index: int = 0, valid: float = 0.5, kind: str = "search", **more: Any) -> Trial:
    recipe = Recipe(optimizer={"lr": more.pop("rate", 1e-3)}).to_dict()
    loss = more.pop("loss", 1.0 - valid)
    given = {"params": {}, "stopped": "epochs", **more}
    return Trial(index, kind, recipe, "", 0, valid, loss, loss, 3, 1, 0.1, given["stopped"], 50, params=given["params"])


def test_a_best_point_at_the_border_widens_the_space_there(space: Space) -> None:
    inside = [trial(i, 0.5, params={"l2.size": 0.03, "rate": 3e-3}) for i in range(8)]
    assert playbook.widen(space, inside, 1.0) == []
    best = trial(8, 0.9, params={"l2.size": 0.98, "rate": 3e-3})
    (wider,) = playbook.widen(space, [*inside, best], 1.0)
    assert (wider.name, wider.low, wider.high) == ("l2.size", 1e-3, 3.0)
    assert playbook.widen(space, [*inside, best], -1.0) == [], "a score that is to be low has its best elsewhere"
    assert playbook.widen(space, [*inside[:3], best], 1.0) == [], "of four trials, the best says nothing of a range"
    before = space.declared
    space.dimensions[wider.name] = wider
    assert "l2.size from 0.001 to 1 became 0.001 to 3" in playbook.widening_note(before, space.dimensions)
    assert playbook.widening_note(before, {d.name: d for d in before}) == ""


def test_where_many_diverge_the_rates_are_cut(space: Space) -> None:
    fine = [trial(i, 0.5, params={"rate": 1e-3}) for i in range(4)]
    broken = [trial(i, math.nan, loss=math.nan, params={"rate": rate}) for i, rate in enumerate((6e-3, 9e-3, 1.2e-2))]
    assert playbook.narrow_rates(space, fine + broken[:2]) == []
    ((dimension, said),) = playbook.narrow_rates(space, fine + broken)
    assert dimension.name == "rate"
    assert dimension.high < 6e-3
    assert "3 of 7 recipes" in said


def test_a_best_rate_at_the_edge_of_divergence_is_said() -> None:
    fine = [trial(rate=rate, valid=valid) for rate, valid in ((1e-3, 0.6), (3e-3, 0.8))]
    gone = [trial(rate=1e-2, valid=math.nan, loss=math.nan), trial(rate=3e-2, valid=math.nan, loss=math.nan)]
    said = playbook.edge_note(fine + gone, 1.0, "the baseline")
    assert "0.003 with adamw" in said
    assert "0.01 diverged" in said
    assert playbook.edge_note([*fine, trial(rate=1e-2, valid=0.7), *gone[1:]], 1.0, "") == "", (
        "there is a rate in between"
    )
    assert playbook.edge_note(fine, 1.0, "") == ""
    assert playbook.edge_note(gone, 1.0, "") == ""


# --- the journal ---------------------------------------------------------------------------------------------------


def opened(folder: Path) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / FILE))
    return optuna.load_study(study_name="wellposed", storage=optuna.storages.JournalStorage(backend))


def some(space: Space) -> list[Trial]:
    points = Proposals(space, 0, 99).ask(4, 0, 0, [])
    found = [trial(i, 0.5 + i / 10, params=point) for i, point in enumerate(points)]
    found[1].stopped, found[1].rungs = "culled", [[10.0, 0.4, -0.6]]
    found[2].valid = found[2].valid_loss = math.nan
    return [
        trial(9, 0.5, kind="baseline", params={"optimizer": "adamw", "rate": 0.09}),
        *found,
        trial(10, 0.5, kind="finalist"),
    ]


def test_optuna_reads_what_is_kept(space: Space, tmp_path: Path) -> None:
    journal = Journal(tmp_path, maximize=True)
    journal.open(space, some(space)[:3])
    for one in some(space)[3:]:
        journal.add(one)
    study = opened(tmp_path)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    states = {t.user_attrs["trial"]: t.state.name for t in study.trials}
    assert states == {9: "COMPLETE", 0: "COMPLETE", 1: "PRUNED", 2: "FAIL", 3: "COMPLETE"}
    best = study.best_trial
    assert (best.user_attrs["trial"], best.value) == (3, 0.8)
    assert best.params == some(space)[4].params
    assert Recipe.from_toml(best.user_attrs["recipe"]) == some(space)[4].built
    assert next(t for t in study.trials if t.user_attrs["trial"] == 1).intermediate_values == {10: 0.4}


@pytest.mark.parametrize("damage", ["missing", "torn", "shorter", "empty", "foreign", "locked", "longer"])
def test_a_journal_is_brought_to_the_state(damage: str, space: Space, tmp_path: Path) -> None:
    """The state is the truth: what a killed process did not write, or half wrote, is mended."""
    journal = Journal(tmp_path, maximize=False)
    journal.open(space, some(space))
    path = tmp_path / FILE
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    if damage == "missing":
        path.unlink()
    elif damage == "locked":  # by a process that was killed while it wrote
        (tmp_path / f"{FILE}.lock").symlink_to(path)
    elif damage == "longer":
        journal.add(trial(77, 0.5))
    else:
        cut = {"torn": content[:-20], "shorter": b"".join(lines[:-1]), "empty": b"", "foreign": b'{"a": 1}\n'}
        path.write_bytes(cut[damage])
    Journal(tmp_path, maximize=False).open(space, some(space))
    assert sorted(t.user_attrs["trial"] for t in opened(tmp_path).trials) == [0, 1, 2, 3, 9]
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_values_from_before_a_range_was_changed_are_kept(space: Space, tmp_path: Path) -> None:
    trials = some(space)
    trials[1].params["l2"], trials[1].params["l2.size"] = True, 25.0
    trials[1].params["model.width"] = 999
    Journal(tmp_path, maximize=True).open(space, trials)
    assert next(t for t in opened(tmp_path).trials if t.user_attrs["trial"] == 0).params["l2.size"] == 25.0


# --- the state -----------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was(space: Space, tmp_path: Path) -> None:
    state = State("data", "accuracy", 3, False, findings=["overfits"], looks={"ab": 2}, ranges={"rate": [1e-4, 1.0]})
    for one in some(space):
        state.add(one)
    state.save(tmp_path)
    back = State.load(tmp_path)
    back.save(tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["trials"][2]["valid"] is None
    again = State.load(tmp_path)
    for found in (back, again):
        assert [t.index for t in found.trials] == [0, 1, 2, 3, 9, 10]
        assert math.isnan(found.trials[2].valid)
        assert (found.looks, found.findings, found.ranges) == (state.looks, state.findings, state.ranges)
        assert found.number() == 11


def test_a_trial_that_is_trained_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    state = State("data", "accuracy", 0, False)
    state.add(trial(0, 0.5))
    state.save(tmp_path)
    state.add(trial(0, 0.7))
    state.save(tmp_path)
    assert [t.valid for t in State.load(tmp_path).trials] == [0.7]


def test_a_state_from_before_has_no_points_and_is_read(tmp_path: Path) -> None:
    old = {"schema": 1, "data": "d", "metric": "m", "seed": 0, "own_test": False, "trials": [
        {"index": 0, "kind": "search", "recipe": {}, "describe": "", "seed": 0, "valid": 0.5, "valid_loss": 0.5, "train_loss": 0.5,
         "epochs": 3, "best_epoch": 1, "seconds": 0.1, "stopped": "epochs", "train_rows": 5}],
        "proposals": 1, "findings": [], "confirmed": 0, "looks": {}}  # fmt: skip
    (tmp_path / "state.json").write_text(json.dumps(old))
    assert State.load(tmp_path).trials[0].params == {}


@pytest.mark.parametrize("part", WRITTEN)
def test_a_state_without_a_part_that_is_always_written_is_damaged(part: str, tmp_path: Path) -> None:
    """Its trials or looks would be lost in silence."""
    State("d", "accuracy", 0, False).save(tmp_path)
    kept = json.loads((tmp_path / STATE).read_text())
    State.load(tmp_path)
    del kept[part]
    (tmp_path / STATE).write_text(json.dumps(kept))
    with pytest.raises(FormatError, match=f"damaged: {part} is missing"):
        State.load(tmp_path)
