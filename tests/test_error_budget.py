"""The error budget adds up, is exact where it can be computed, and names the lever of faults that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.diagnosis.budget import TERMS, ErrorBudget
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
    return wp.error_budget(problem(), recipe, seeds=(0, 1, 2))


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
        ("model", "y", "rows", "recipe", "part", "lever", "name"),
        [
            (lambda width=1, depth=1: net(width, depth), CURVED, 120, adam(), "capacity", "capacity", "underfits"),
            (net, CURVED, 120, adam(terms=[{"penalty": "l2", "strength": 3.0, "how": "prox"}]), "charged", "regularizer",
             "over_regularized"),
            (net, Y, 120, adam(optimizer={"name": "adam", "lr": 1e-5}), "optimization", "optimizer", "rate_too_low"),
            (net, Y, 120, adam(epochs=3), "optimization", "schedule", "undertrained"),
            (lambda width=128, depth=2: net(width, depth), CURVED, 20, adam(), "gap stopping", "regularizer", "overfits"),
        ],
        ids=["tiny", "strong", "low rate", "short", "few rows"],
    )  # fmt: skip
    def test_names_it(
        self, model: object, y: Tensor, rows: int, recipe: wp.Recipe, part: str, lever: str, name: str
    ) -> None:
        budget = wp.error_budget(problem(model, y, rows), recipe, seeds=(0, 1, 2), epochs=100)
        assert budget.candidates[0].name in part, str(budget)
        assert (budget.lever, budget.findings[0].name) == (lever, name), str(budget)
        assert total(budget) == pytest.approx(budget.valid.estimate, abs=1e-12)
        assert budget["regularization"].estimate >= 0
        assert all(one.cost_end >= one.cost_best for one in budget.levels)
        assert budget.findings[0].changes
