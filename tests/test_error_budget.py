"""The error budget adds up, is exact where it can be computed, and names the lever of faults that are known."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError, TrainingError
from wellposed.core.files import jsonable
from wellposed.decomposition import waterfall
from wellposed.decomposition.budget_terms import TERMS, Levels, Remedy, cross_fitted
from wellposed.decomposition.error_budget import RivalPlan
from wellposed.decomposition.measured_budget import ErrorBudget
from wellposed.decomposition.rivals import Objective, larger_model_settings, rival_recipes
from wellposed.diagnosis.finding import Change
from wellposed.models.mlp import MLP

DRAW = torch.Generator().manual_seed(3)
X = torch.randn(240, 4, generator=DRAW)
W = torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
Y = X @ W + 0.5 * torch.randn(240, 1, generator=DRAW)
CURVED = Y + 2 * torch.sin(3 * X[:, :1])


def linear() -> nn.Module:
    return nn.Linear(4, 1, bias=False)


def net(width: int = 16, depth: int = 1, dropout: float = 0.0) -> nn.Module:
    return MLP(4, 1, width=width, depth=depth, dropout=dropout)


def problem(model: object = linear, y: Tensor = Y, rows: int = 120) -> wp.Problem:
    data = wp.Data(train=(X[:rows], y[:rows]), valid=(X[120:], y[120:]))
    return wp.Problem(model, "squared_error", data)  # type: ignore[arg-type]


def adam(**settings: object) -> wp.Recipe:
    plain = {"epochs": 60, "batch_size": 32, "optimizer": {"name": "adam", "lr": 0.01}, "stopping": {"patience": 0}}
    return wp.Recipe(**{**plain, **settings})


def total(budget: ErrorBudget) -> float:
    return math.fsum(part.estimate for part in budget.parts)


def mean_square(x: Tensor, y: Tensor, w: Tensor) -> float:
    return float((y.double() - x.double() @ w).square().mean())


def ridge(strength: float) -> Tensor:
    """The minimizer of ``mean (y - xw)^2 + strength/2 |w|^2``."""
    x, y = X[:120].double(), Y[:120].double()
    return torch.linalg.solve(x.T @ x / 120 + strength / 2 * torch.eye(4), x.T @ y / 120)


@pytest.fixture(scope="module")
def of_ridge() -> ErrorBudget:
    recipe = adam(epochs=8, terms=[{"penalty": "l2", "strength": 0.4, "how": "loss"}])
    return wp.error_budget(problem(), recipe, seeds=(0, 1), epochs=100)


class TestRidge:
    """A linear model, of which every term is known in closed form."""

    def test_floor_regularization_and_optimization(self, of_ridge: ErrorBudget) -> None:
        least, best = ridge(0.0), ridge(0.4)
        floor, bias = mean_square(X[:120], Y[:120], least), mean_square(X[:120], Y[:120], best)
        assert of_ridge["floor"].estimate == pytest.approx(floor, abs=1e-6)
        assert of_ridge["regularization"].estimate == pytest.approx(bias - floor, abs=1e-6)
        for seed, one in zip(of_ridge.seeds, of_ridge.levels, strict=True):
            end = wp.fit(problem(), of_ridge.recipe.replace(stopping={"keep": "last"}), seed, device="cpu")
            w = end.model.weight.detach().double().T  # type: ignore[operator, union-attr]
            reached = mean_square(X[:120], Y[:120], w)
            assert one.end - one.best == pytest.approx(reached - bias, abs=2e-5)  # trained alone, not among others
            cost = reached + 0.2 * float(w.square().sum()) - bias - 0.2 * float(best.square().sum())
            assert one.cost_end - one.cost_best == pytest.approx(cost, abs=2e-5)
            assert float(one.valid_best.mean()) == pytest.approx(mean_square(X[120:], Y[120:], best), abs=2e-5)

    def test_adds_up(self, of_ridge: ErrorBudget) -> None:
        assert [part.name for part in of_ridge.parts] == list(TERMS)
        assert total(of_ridge) == pytest.approx(of_ridge.valid.estimate, abs=1e-12)
        for place, one in enumerate(of_ridge.levels):
            assert math.fsum(p.values[place] for p in of_ridge.parts) == pytest.approx(one.valid.mean(), abs=1e-12)

    def test_a_linear_model_has_no_larger_one(self, of_ridge: ErrorBudget) -> None:
        assert of_ridge.apart == ()
        assert "larger" in " ".join(of_ridge.notes)
        with pytest.raises(InputError, match="no 'capacity'"):
            of_ridge["capacity"]


class TestKnownFaults:
    """Each fault is planted, and the lever named first is its own."""

    @pytest.mark.parametrize(
        ("model", "y", "rows", "recipe", "part", "lever", "name", "seeds"),
        [
            (lambda width=1, depth=1: net(width, depth), CURVED, 120, adam(), "capacity", "capacity", "underfits", 2),
            (net, CURVED, 120, adam(terms=[{"penalty": "l2", "strength": 3.0, "how": "prox"}]), "charged", "regularizer",
             "over_regularized", 2),
            (net, Y, 120, adam(optimizer={"name": "adam", "lr": 1e-5}), "optimization", "optimizer", "rate_too_low", 2),
            (net, Y, 120, adam(epochs=3), "optimization", "schedule", "undertrained", 3),
            (lambda width=128, depth=2: net(width, depth), CURVED, 20, adam(stopping={"patience": 0, "keep": "last"}), "gap",
             "regularizer", "overfits", 3),
        ],
        ids=["tiny", "strong", "low rate", "short", "few rows"],
    )  # fmt: skip
    def test_names_it(
        self, model: object, y: Tensor, rows: int, recipe: wp.Recipe, part: str, lever: str, name: str, seeds: int
    ) -> None:
        budget = wp.error_budget(problem(model, y, rows), recipe, seeds=range(seeds), epochs=60)
        assert budget.candidates[0].name in part, str(budget)
        assert (budget.lever, budget.findings[0].name) == (lever, name), str(budget)
        assert total(budget) == pytest.approx(budget.valid.estimate, abs=1e-12)
        assert budget["regularization"].estimate >= 0
        assert all(one.cost_end >= one.cost_best for one in budget.levels)
        assert budget.findings[0].changes


@pytest.fixture(scope="module")
def trained() -> tuple[wp.Problem, list[wp.Run], list[wp.Run], ErrorBudget]:
    """An overfitting recipe whose chosen epoch is not its last, with its runs, their ends, and the budget of both."""
    of = problem(lambda width=64, depth=2: net(width, depth), CURVED, 40)
    recipe = adam(stopping={"patience": 12})
    runs = wp.fit_many(of, recipe, seeds=(0, 1, 2))
    ends = wp.fit_many(of, recipe.replace(stopping={"keep": "last"}), seeds=(0, 1, 2))
    return of, runs, ends, wp.error_budget(of, recipe, runs=runs, epochs=30)


def law(budget: ErrorBudget, runs: list[wp.Run], ends: list[wp.Run]) -> None:
    """Each seed's terms are the differences of losses that its own runs have, in the order of the formula."""
    for place, (run, end) in enumerate(zip(runs, ends, strict=True)):
        chosen, valid = run.evaluate("train").loss.mean, run.evaluate("valid").loss.mean
        last = end.evaluate("train").loss.mean
        values = {part.name: part.values[place] for part in budget.parts}
        assert values["gap"] == pytest.approx(valid - chosen, abs=1e-9)
        assert values["stopping"] == pytest.approx(chosen - last, abs=1e-3)
        assert values["floor"] + values["regularization"] + values["optimization"] == pytest.approx(last, abs=1e-3)
        assert values["regularization"] >= 0
        assert values["optimization"] >= -1e-9  # nothing is charged: the lowest cost is the lowest training loss
        assert math.fsum(values.values()) == pytest.approx(valid, abs=1e-9)


Trained = tuple[wp.Problem, list[wp.Run], list[wp.Run], ErrorBudget]


def swapped(one: Levels) -> Levels:
    return dataclasses.replace(one, best=one.end, end=one.best)


def chosen_for_end(one: Levels) -> Levels:
    return dataclasses.replace(one, end=one.chosen)


def valid_for_training(one: Levels) -> Levels:
    return dataclasses.replace(one, chosen=float(one.valid_end.mean()))


class TestMutants:
    def test_the_law_holds(self, trained: Trained) -> None:
        _, runs, ends, budget = trained
        assert any(run.best_epoch < len(run.history) - 1 for run in runs)
        law(budget, runs, ends)

    @pytest.mark.parametrize("wrong", [swapped, chosen_for_end, valid_for_training])
    def test_wrong_levels_are_caught(self, trained: Trained, wrong: Callable[[Levels], Levels]) -> None:
        _, runs, ends, budget = trained
        mutant = dataclasses.replace(budget, levels=tuple(map(wrong, budget.levels)))
        with pytest.raises(AssertionError):
            law(mutant, runs, ends)

    def test_unpaired_seeds_are_caught(self, trained: Trained) -> None:
        _, runs, ends, budget = trained
        mixed = [
            dataclasses.replace(one, valid=other.valid)
            for one, other in zip(budget.levels, budget.levels[1:] + budget.levels[:1], strict=True)
        ]
        mutant = dataclasses.replace(budget, levels=tuple(mixed))
        assert total(mutant) == pytest.approx(total(budget))  # the means do not show it
        with pytest.raises(AssertionError):
            law(mutant, runs, ends)

    def test_pairing_narrows_the_interval(self, trained: Trained) -> None:
        """Two seeds that differ in level and agree in the difference: unpaired, nothing would be clear."""
        levels = [levels_of(end=value + 0.5, best=value) for value in (1.0, 3.0, 2.0)]
        part = made(levels)["optimization"]
        assert (part.low, part.high) == pytest.approx((0.5, 0.5))
        unpaired = [levels_of(end=value + 0.5, best=other) for value, other in ((1.0, 3.0), (3.0, 2.0), (2.0, 1.0))]
        assert not made(unpaired)["optimization"].clear


def levels_of(**values: Any) -> Levels:
    plain = {"floor": 0.1, "same": 0.1, "best": 0.1, "end": 0.1, "chosen": 0.1, "cost_end": 0.1, "cost_best": 0.1}
    rows = np.full(50, 0.1)
    return Levels(**{**plain, "valid": rows, "valid_best": rows, "valid_end": rows, **values})


def made(levels: list[Levels], recipe: wp.Recipe | None = None, bigger: dict[str, Any] | None = None) -> ErrorBudget:
    recipe = recipe or adam()
    objective = Objective(recipe, recipe, regularized=bool(recipe.terms))
    return ErrorBudget(tuple(levels), tuple(range(len(levels))), recipe, objective, bigger)


NOISE = np.random.default_rng(0).normal(0, 0.02, (3, 50))


class TestNaming:
    """What is named, from levels that are made up."""

    def optimizer(self, valid_best: float) -> ErrorBudget:
        """A large optimization term, with validation at w* as said."""
        return made(
            [
                levels_of(end=1.0 + s / 100, chosen=1.0 + s / 100, valid=1.1 + NOISE[s], valid_best=valid_best + NOISE[s],
                          valid_end=1.1 + NOISE[s])
                for s in range(3)
            ]
        )  # fmt: skip

    def test_optimization_only_where_validation_improves(self) -> None:
        assert self.optimizer(0.3).lever == "optimizer"
        assert self.optimizer(1.1).lever != "optimizer"
        assert self.optimizer(2.0).lever != "optimizer"

    def test_optimization_that_helps_only_on_the_way_is_no_lever_but_a_note(self) -> None:
        """w* overfits; stopped as the recipe is, the better optimizer helps, or does not."""
        rival = adam(optimizer={"name": "adam", "lr": 0.03}, epochs=120, stopping={"patience": 0, "keep": "last"})
        found = {"rival": rival, "floor": 0.0, "same": 0.0, "best": 0.0}
        levels = [dataclasses.replace(one, **found) for one in self.optimizer(2.0).levels]
        helped, harmed = (
            made([dataclasses.replace(one, valid_way=way + NOISE[s]) for s, one in enumerate(levels)])
            for way in (0.3, 1.2)
        )
        vain = (Remedy("overfits", Change("in vain", adam()), tuple(one.valid for one in levels)),)
        helped, harmed = (dataclasses.replace(each, remedies=vain) for each in (helped, harmed))
        assert helped.lever not in ("optimizer", "schedule")
        assert "optimization" not in [part.name for part in (*helped.candidates, *harmed.candidates)]
        assert helped["way_gain"].estimate == pytest.approx(0.8)
        (note,) = [note for note in helped.to_dict()["notes"] if "not named" in note]
        assert "-0.9 [-0.9, -0.9]" in note
        assert "0.8 [0.8, 0.8]" in note
        assert note in str(helped)
        assert not any("not named" in note for note in harmed.to_dict()["notes"])
        offered = helped.findings[0].changes[0].recipe
        assert (offered.optimizer.lr, offered.epochs, offered.stopping.keep) == (0.03, 120, "best")
        assert harmed.findings[0].changes == ()

    def gap(self, *after: float, remedy: str = "overfits", large: float = 0.0) -> ErrorBudget:
        """A large gap, with the validation losses that changes for it have come to."""
        fitted = dict.fromkeys(("floor", "same", "best", "end", "chosen", "cost_end", "cost_best"), 0.0)
        rows = [{"valid": 1.0 + NOISE[s], "valid_best": 1.2 + NOISE[s], "valid_end": 1.0 + NOISE[s]} for s in range(3)]
        levels = [levels_of(**fitted, **one) for one in rows]
        wide = np.random.default_rng(1).normal(0, large, (3, 50))
        remedies = [
            Remedy(
                remedy,
                Change(f"change {place}", adam(epochs=place + 1)),
                tuple(v + NOISE[s] + wide[s] for s in range(3)),
            )
            for place, v in enumerate(after)
        ]
        return dataclasses.replace(made(levels), remedies=tuple(remedies))

    def test_a_gap_is_named_where_a_regularizer_closes_some_of_it(self) -> None:
        closed = self.gap(1.1, 0.7, 1.0)
        assert (closed.findings[0].name, closed.lever) == ("overfits", "regularizer")
        assert closed.findings[0].changes[0].recipe == adam(epochs=2)
        assert closed.findings[0].evidence["gain"] == pytest.approx(0.3)
        assert "change 1" in closed.findings[0].says

    def test_a_gap_that_nothing_closes_is_no_lever_and_that_is_said(self) -> None:
        left = self.gap(1.1, 1.02, 1.3)
        assert (left.findings[0].name, left.lever) == ("healthy", "none")
        assert "nothing shows that it can be taken away" in left.findings[0].says
        (note,) = [note for note in left.to_dict()["notes"] if "Not named" in note]
        assert "change 1" in note
        assert left.candidates == ()
        assert self.gap(0.999).lever == "none"  # clear, but a trifle

    def test_a_gain_that_is_possible_still_is_not_healthy(self) -> None:
        open_ = self.gap(1.0, large=2.0)
        assert (open_.findings[0].name, open_.lever) == ("noisy_evidence", "data")
        assert "possible still" in open_.findings[0].says

    def test_a_part_that_is_not_clear_is_named_where_its_lever_helps(self) -> None:
        """Seeds in different valleys: the term's interval holds zero, and all of them are better without the terms."""
        recipe = adam(terms=[{"penalty": "l2", "strength": 3.0, "how": "prox"}])
        levels = [
            levels_of(best=best, end=0.7, chosen=0.7, valid=0.7 + NOISE[s], valid_best=best + 0.1 + NOISE[s])
            for s, best in enumerate((0.2, 1.5, 0.1))
        ]
        unclear = made(levels, recipe, {"width": 64})
        assert not unclear["charged"].clear
        assert "charged" in [part.name for part in unclear.suspects]
        assert "charged" not in [part.name for part in unclear.candidates]
        for after, named in ((0.2, True), (0.7, False)):
            weaker = Remedy("over_regularized", Change("weaker", adam()), tuple(after + NOISE[s] for s in range(3)))
            tried = dataclasses.replace(unclear, remedies=(weaker,))
            assert ("charged" in [part.name for part in tried.candidates]) is named

    def test_what_was_not_tried_is_named_and_that_is_said(self) -> None:
        assert self.gap().lever == "regularizer"
        assert "not tried" in self.gap().findings[0].says
        assert self.gap(1.2, remedy="underfits").lever == "regularizer"  # the floor's lever says nothing of the gap

    def test_the_best_of_many_is_not_taken_at_its_word(self) -> None:
        """Changes that do nothing: the best of twenty looks good, and cross-fitted it does not."""
        gains = np.random.default_rng(0).normal(0, 1, (200, 20, 40, 3))
        lucky = np.mean([each.mean((1, 2)).max() for each in gains])
        fitted = np.array([cross_fitted(each).mean() for each in gains])
        assert lucky > 0.15
        assert abs(fitted.mean()) < 4 * fitted.std() / math.sqrt(len(fitted))
        gains[:, 3] += 2.0
        assert np.mean([cross_fitted(each).mean() for each in gains]) == pytest.approx(2.0, abs=0.05)

    def test_stopping_is_a_regularizer_where_going_on_does_harm(self) -> None:
        harm, neither, help_ = (
            made([levels_of(chosen=0.8 + s / 100, valid=0.9 + NOISE[s], valid_end=after + NOISE[s]) for s in range(3)])
            for after in (2.0, 0.9, 0.5)
        )
        assert (harm.findings[0].name, harm.lever) == ("overfits", "regularizer")
        assert (help_.findings[0].name, help_.lever) == ("undertrained", "schedule")
        assert "stopping" not in [part.name for part in neither.candidates]

    def test_one_seed_names_nothing_that_seeds_vary(self) -> None:
        one = made([levels_of(end=1.0, chosen=1.0, valid=1.1 + NOISE[0])])
        assert one.findings[0].name == "not_enough_evidence"
        assert "[one seed]" in str(one)

    def test_few_rows_show_what_the_exact_test_of_their_signs_shows(self) -> None:
        """Every row is gained alike: 5 rows show nothing, 6 do, and one side alone needs 5."""
        for rows in (4, 5, 6):
            losses = {"valid": np.full(rows, 1.1), "valid_best": np.full(rows, 0.3), "valid_end": np.full(rows, 1.5)}
            few = made([levels_of(end=1.0, chosen=1.0, **losses) for _ in range(3)])
            assert [few["valid_gain"].clear, few["gap"].clear, few["going_on"].clear] == [rows > 5] * 3
            assert few.longer_harms == (rows > 4)
            assert few.valid.clear

    def test_a_trifle_is_not_named(self) -> None:
        budget = made(
            [levels_of(floor=1e-6, valid=1.0 + NOISE[s], chosen=1.0, end=1.0, best=1.0, same=1.0) for s in range(3)]
        )
        assert "floor" not in [part.name for part in budget.candidates]

    def test_a_rate_is_too_high_or_low_by_what_did_better(self) -> None:
        for rate, name in ((1e-3, "rate_too_high"), (0.1, "rate_too_low"), (0.012, "slow")):
            kin = adam(optimizer={"name": "adam", "lr": rate})
            levels = [dataclasses.replace(one, kin=kin, kin_loss=0.1) for one in self.optimizer(0.3).levels]
            assert made(levels).findings[0].name == name

    def test_json_and_text(self, trained: Trained) -> None:
        budget = trained[3]
        value = json.loads(json.dumps(budget.to_dict(), allow_nan=True))
        assert [part["name"] for part in value["parts"]] == list(TERMS)
        assert value["runs"] == budget.runs > 0
        lines = str(budget).splitlines()
        assert any(line.startswith("generalization gap") and "█" in line for line in lines)
        assert "a better optimum may exist" in str(budget)
        assert "<pre>" in budget._repr_html_()


class TestObjective:
    def test_decay_under_adam_is_no_cost_and_is_said(self) -> None:
        of = problem(net)
        decayed = adam(optimizer={"name": "adamw", "lr": 1e-3}, terms=[{"penalty": "l2", "strength": 0.5}])
        objective = Objective.of(of, decayed)
        assert not objective.fixed
        assert "no fixed cost" in objective.notes[0]
        assert all(
            rival.optimizer.name == "adamw" and rival.optimizer.lr >= 1e-3 for rival in rival_recipes(objective, 10)
        )
        assert made([levels_of()] * 2).shortfall is not None
        assert dataclasses.replace(made([levels_of()] * 2), objective=objective).shortfall is None
        both = [*decayed.model_dump()["terms"], {"penalty": "l1", "strength": 0.1}]
        assert [term.penalty for term in Objective.of(of, decayed.replace(terms=both)).cost.terms] == ["l1"]

    @pytest.mark.parametrize(
        ("optimizer", "how", "strength"),
        [
            ({"name": "sgd", "lr": 0.1}, "decay", 0.5),
            ({"name": "sgd", "lr": 0.1, "momentum": 0.9}, "decay", 0.05),
            ({"name": "adam", "lr": 0.1}, "loss", 0.5),
        ],
    )
    def test_the_strength_that_is_solved(self, optimizer: dict[str, Any], how: str, strength: float) -> None:
        recipe = adam(optimizer=optimizer, terms=[{"penalty": "l2", "strength": 0.5, "how": how}])
        objective = Objective.of(problem(net), recipe)
        assert objective.fixed
        assert objective.recipe.terms[0].strength == pytest.approx(strength)
        assert objective.recipe.terms[0].how == ("loss" if how == "loss" else "prox")

    def test_an_optimizers_own_decay(self) -> None:
        for name, fixed in (("adam", True), ("adamw", False)):
            recipe = adam(optimizer={"name": name, "lr": 0.01, "weight_decay": 0.2})
            assert Objective.of(problem(net), recipe).fixed is fixed
        assert Objective.of(
            problem(net), adam(optimizer={"name": "adam", "lr": 0.01, "weight_decay": 0.2})
        ).recipe.terms

    def test_noise_is_part_of_the_cost(self) -> None:
        """``E (y - (m x) w)^2 = (y - xw)^2 + p/(1-p) sum x_j^2 w_j^2``: w* of dropped inputs is a ridge."""
        of = problem(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1, bias=False)))
        budget = wp.error_budget(of, adam(epochs=5), seeds=(0, 1), epochs=150)
        x, y = X[:120].double(), Y[:120].double()
        w = torch.linalg.solve(x.T @ x + torch.diag(x.square().sum(0)), x.T @ y)
        best = mean_square(X[:120], Y[:120], w)
        assert budget.levels[0].best == pytest.approx(best, rel=0.1)
        assert budget["floor"].estimate == pytest.approx(mean_square(X[:120], Y[:120], ridge(0.0)), abs=1e-5)

    def test_larger_networks(self) -> None:
        assert larger_model_settings(problem(net), adam()) == {"width": 64, "depth": 2}
        assert larger_model_settings(problem(linear), adam()) is None
        with_space = wp.Problem(
            lambda size=8: MLP(4, 1, width=size), "squared_error", problem().data, space={"size": [8, 32]}
        )
        assert larger_model_settings(with_space, adam()) == {"size": 32}


class TestGiven:
    def test_runs_are_not_trained_again(self, trained: Trained) -> None:
        _, runs, _, budget = trained
        assert budget.seeds == (0, 1, 2)
        for one, run in zip(budget.levels, runs, strict=True):
            assert one.chosen == run.evaluate("train").loss.mean

    def test_a_run_and_another_seed(self, trained: Trained) -> None:
        of, runs, _, _ = trained
        budget = wp.error_budget(of, runs[0].recipe, runs=runs[1], seeds=(5,), epochs=3)
        assert budget.seeds == (5, 1)
        assert budget.levels[1].chosen == runs[1].evaluate("train").loss.mean

    def test_is_the_same_again(self) -> None:
        of = problem(net)
        first, second = (wp.error_budget(of, adam(epochs=3), seeds=(4, 2), epochs=5) for _ in range(2))
        assert {**first.to_dict(), "seconds": 0} == {**second.to_dict(), "seconds": 0}
        assert first.seeds == (4, 2)

    def test_time_that_is_over(self) -> None:
        with pytest.raises(TrainingError, match="did not end"):
            wp.error_budget(problem(net), adam(), deadline=0.0)

    def test_a_deadline_leaves_what_is_trained(self, trained: Trained) -> None:
        """With runs that ended at their last epoch nothing must be trained, and the budget still adds up."""
        of = problem(net)
        runs = wp.fit_many(of, adam(epochs=3, stopping={"patience": 0, "keep": "last"}), seeds=(0, 1))
        budget = wp.error_budget(of, runs[0].recipe, runs=runs, deadline=0.0)
        assert budget.runs == 0
        assert total(budget) == pytest.approx(budget.valid.estimate, abs=1e-12)
        assert budget["optimization"].estimate == 0.0

    def test_rivals_that_are_hardly_trained_name_nothing(self) -> None:
        """Against a floor of networks that were not trained, everything would look like a want of capacity."""
        of = problem(net, CURVED)
        runs = wp.fit_many(of, adam(stopping={"patience": 0, "keep": "last"}), seeds=(0, 1))
        budget = wp.error_budget(of, runs[0].recipe, runs=runs, deadline=0.0)
        assert budget.hurried
        assert budget.findings[0].name == "not_enough_evidence"
        assert dataclasses.replace(budget, hurried=False).lever == "capacity"  # what it would say otherwise

    def test_less_time_means_fewer_rivals_before_shorter_ones(self) -> None:
        of = problem(net)
        objective = Objective.of(of, adam(terms=[{"penalty": "l2", "strength": 0.1, "how": "loss"}]))
        for few in (False, True):
            plan = RivalPlan(10, few)
            kinds = plan.kinds(objective, objective.recipe, {"width": 32})
            first = sum(len(recipes) for recipes in kinds.values())
            assert plan.jobs(objective, 3, 1.0) == first + 2 * plan.on * len(kinds)
        assert RivalPlan(10, True).jobs(objective, 3, 9.0) <= RivalPlan(10).jobs(objective, 3, 9.0) / 2

    @pytest.mark.usefixtures("own_clock")
    def test_little_time_makes_short_rivals(self, trained: Trained) -> None:
        of, runs, _, _ = trained
        budget = wp.error_budget(of, runs[0].recipe, runs=runs, seconds=3.0, epochs=10**6)
        assert "For want of time" in " ".join(budget.notes)
        assert total(budget) == pytest.approx(budget.valid.estimate, abs=1e-12)

    def test_refused(self, trained: Trained) -> None:
        of, runs, _, _ = trained
        with pytest.raises(InputError, match="different seeds"):
            wp.error_budget(of, adam(), seeds=(1, 1))
        with pytest.raises(InputError, match="this recipe"):
            wp.error_budget(of, adam(), runs=runs)
        with pytest.raises(InputError, match="seconds"):
            wp.error_budget(of, adam(), seconds=0)
        with pytest.raises(InputError, match="stopped from outside"):
            wp.error_budget(of, runs[0].recipe, runs=[dataclasses.replace(runs[0], stopped="budget")])

    def test_classes_and_rows(self) -> None:
        labels = (X[:, 0] > 0).long()
        data = wp.Data(train=(X[:120], labels[:120]), valid=(X[120:], labels[120:]))
        of = wp.Problem(lambda width=8: MLP(4, 2, width=width, depth=1), "cross_entropy", data)
        recipe = adam(epochs=5, noise={"label_smoothing": 0.1})
        budget = wp.error_budget(of, recipe, seeds=(0, 1), epochs=10, rows=60)
        assert total(budget) == pytest.approx(budget.valid.estimate, abs=1e-12)
        assert len(budget.levels[0].valid) == 120


def test_the_last_weights_are_kept_where_asked_for() -> None:
    of = problem(lambda width=64, depth=2: net(width, depth), CURVED, 40)
    recipe = adam(stopping={"patience": 5})
    for train in (lambda r: [wp.fit(of, r, device="cpu")], lambda r: wp.fit_many(of, [r, r], seeds=(0,))):
        best, last = train(recipe)[0], train(recipe.replace(stopping={"keep": "last"}))[0]
        assert len(best.history) == len(last.history)
        assert last.best_epoch == len(last.history) - 1 > best.best_epoch
        assert last.evaluate("train").loss.mean == pytest.approx(last.history.rows[-1]["train_loss"], rel=1e-5)
        kept = best.history.rows[best.best_epoch]["train_loss"]
        assert best.evaluate("train").loss.mean == pytest.approx(kept, rel=1e-5)


class TestReport:
    def test_steps_add_up_and_capacity_stands_apart(self, trained: Trained) -> None:
        pytest.importorskip("matplotlib")
        from wellposed.reporting import budget_panel as drawn

        record = json.loads(json.dumps(jsonable(trained[3].to_dict())))
        steps = waterfall.budget_bars(record)
        names = [step.name for step in steps]
        assert names == ["floor", "capacity", "charged", "optimization", "stopping", "gap", "valid"]
        assert steps[-2].end == pytest.approx(steps[-1].size)
        shown = drawn.panel("best", "Best recipe", record, waterfall.waterfall_limits([steps]))
        assert "generalization gap" in shown["says"] or "stopping" in shown["says"]
        assert shown["svg"].count("<text") >= 2 * len(steps)
        assert all(f">{name}<" in shown["svg"] for name in ("floor", "capacity", "validation"))

    @pytest.mark.parametrize(
        "damage",
        [
            lambda r: r.update(parts=None),
            lambda r: r["parts"][2].update(estimate="x"),
            lambda r: r["parts"].pop(),
            lambda r: r["valid"].update(estimate=1e200),
            lambda r: r.update(parts=[{"name": "<script>", "estimate": 1.0}]),
        ],
    )
    def test_a_damaged_budget_is_left_out(self, trained: Trained, damage: Callable[[Any], Any]) -> None:
        pytest.importorskip("matplotlib")

        record = json.loads(json.dumps(jsonable(trained[3].to_dict())))
        damage(record)
        assert waterfall.budget_bars(record) == []

    def test_the_page_shows_it_in_place_of_two_bars(self, trained: Trained) -> None:
        pytest.importorskip("jinja2")
        pytest.importorskip("matplotlib")
        from wellposed.reporting.html import render

        record = {"schema": 1, "error_budget": {"best": jsonable(trained[3].to_dict())}}
        page = render(record)
        assert "What limits these numbers" in page or not trained[3].notes
        assert 'aria-label="Best recipe: floor' in page
        assert render({"schema": 1, "error_budget": {"best": {"parts": 3}}}).count("<svg") == 0


def test_a_notebook_draws_it_where_it_can(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    budget = trained[3]
    drawn = budget._repr_html_()
    assert drawn.count("<svg") == 1
    assert ">validation<" in drawn
    assert "var(--" not in drawn  # a notebook has none of the page's colours
    nowhere = dataclasses.replace(budget.levels[0], floor=math.nan)
    assert "<svg" not in dataclasses.replace(budget, levels=(nowhere, *budget.levels[1:]))._repr_html_()
    monkeypatch.setattr(waterfall, "find_spec", lambda _: None)
    assert "<svg" not in budget._repr_html_()
    assert "generalization gap" in budget._repr_html_()


def test_the_page_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "error-budget.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    assert "rate_too_low" in printed
    assert "visible gap" in printed
    assert all(f"| {words}" in page for words in ("floor, T0", "regularization,", "optimization,", "stopping,", "gap,"))
