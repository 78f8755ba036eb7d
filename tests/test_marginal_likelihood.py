"""Strengths by evidence: scikit-learn's BayesianRidge and ARDRegression, closed forms, what is switched off, ensembles, SWAG."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_diabetes, load_linnerud, make_friedman1, make_regression
from sklearn.linear_model import ARDRegression, BayesianRidge
from torch import nn

import wellposed as wp
from wellposed.core.errors import DataError, InputError, ProblemError

QUICK = wp.Recipe(epochs=1)


def centred(X: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns and target of mean 0 and deviation 1, in single precision as `Data` keeps them; without an intercept."""
    X, y = (np.asarray(a, dtype=np.float32) for a in ((X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()))
    return torch.from_numpy(X), torch.from_numpy(y)[:, None]


SETS = {
    "diabetes": lambda: centred(*load_diabetes(return_X_y=True)),
    "few of many": lambda: centred(*make_regression(60, 15, n_informative=4, noise=30.0, random_state=1)),
    "friedman": lambda: centred(*make_friedman1(80, 10, noise=1.0, random_state=0)),
    "linnerud": lambda: centred(load_linnerud().data, load_linnerud().target[:, 0]),
}


def linear(X: torch.Tensor, y: torch.Tensor, loss: str = "squared_error") -> wp.Problem:
    return wp.Problem(lambda: nn.Linear(X.shape[1], y.shape[1], bias=False), loss, wp.Data((X, y), valid=(X, y)))


def precisions(found: wp.Evidence, rows: int) -> np.ndarray:
    assert found.noise_std is not None
    return np.array(list(found.strengths.values())) * rows / (2 * found.noise_std**2)


@pytest.mark.parametrize(
    ("name", "hyperprior"),
    [
        ("diabetes", 0.0),
        ("few of many", 1e-6),
        ("friedman", 0.0),
        ("linnerud", 1e-4),  # three columns that say little: without a hyperprior all precisions go to infinity
    ],
)
def test_linear_models_are_bayesian_ridge_and_ard(name: str, hyperprior: float) -> None:
    X, y = SETS[name]()
    same = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), hyperprior)
    given: dict[str, Any] = {**same, "fit_intercept": False, "max_iter": 20_000, "tol": 1e-13}
    inputs, targets = X.double().numpy(), y[:, 0].double().numpy()

    known = BayesianRidge(**given).fit(inputs, targets)
    found = wp.evidence(linear(X, y), QUICK, wp.L2(1e-2).on(), hyperprior=hyperprior)
    assert found.settled
    np.testing.assert_allclose(found.model.weight[0].detach(), known.coef_, atol=1e-6)
    np.testing.assert_allclose(1 / found.noise_std**2, known.alpha_, rtol=1e-6)
    np.testing.assert_allclose(precisions(found, len(X))[0], known.lambda_, rtol=1e-6)

    known = ARDRegression(**given, threshold_lambda=1e12).fit(inputs, targets)
    found = wp.evidence(linear(X, y), QUICK, wp.L2(1e-2).on(), by="input", hyperprior=hyperprior)
    np.testing.assert_allclose(found.model.weight[0].detach(), known.coef_, atol=1e-6)
    np.testing.assert_allclose(1 / found.noise_std**2, known.alpha_, rtol=1e-6)
    kept = known.lambda_ < 1e4  # the others are on their way to infinity
    np.testing.assert_allclose(precisions(found, len(X))[kept], known.lambda_[kept], rtol=1e-6)
    if not hyperprior:
        assert {f"weight[:, {i}]" for i in np.flatnonzero(~kept)} <= set(found.off)


def test_the_evidence_is_that_of_the_joint_gaussian_and_its_largest() -> None:
    X, y = SETS["few of many"]()
    found = wp.evidence(linear(X, y), QUICK, wp.L2(1e-2).on())
    inputs, targets = X.double(), y[:, 0].double().numpy()

    def exact(precision: float, variance: float) -> float:
        joint = variance * torch.eye(len(X), dtype=torch.float64) + inputs @ inputs.T / precision
        return float(stats.multivariate_normal(None, joint.numpy()).logpdf(targets))

    precision, variance = float(precisions(found, len(X))[0]), found.noise_std**2
    assert found.log_evidence == pytest.approx(exact(precision, variance), rel=1e-8)
    for factor in (0.9, 1.1):
        assert exact(factor * precision, variance) < found.log_evidence > exact(precision, factor * variance)


def test_a_strength_means_the_same_under_every_convention() -> None:
    """``mse`` divides by the outputs, so its strengths are smaller by that; the weights are the same."""
    X, y = SETS["friedman"]()
    both = torch.cat([y, y.flip(0)], 1)
    one, other = (wp.evidence(linear(X, both, loss), QUICK, wp.L2(1e-2).on()) for loss in ("squared_error", "mse"))
    torch.testing.assert_close(one.model.weight, other.model.weight)
    assert one.noise_std == pytest.approx(other.noise_std)
    assert one.strengths["weights"] == pytest.approx(2 * other.strengths["weights"])


def test_the_terms_charge_what_was_found() -> None:
    """Regularized with them, the linear model's minimum is the posterior mean; each way of grouping gives terms of its own."""
    X, y = SETS["few of many"]()
    for by in ("term", "layer", "input"):
        found = wp.evidence(linear(X, y), QUICK, [wp.L2(1e-2).on(how="loss")], by=by)
        net = nn.Linear(15, 1, bias=False).double()
        wp.settle(net, "squared_error", (X.double(), y.double()), found.terms, tolerance=1e-7)
        torch.testing.assert_close(net.weight.float(), found.model.weight, rtol=0, atol=1e-5)
        assert wp.Recipe(epochs=1, terms=list(found.terms)).build_terms()


def test_units_and_inputs_that_say_nothing_are_switched_off_in_a_network() -> None:
    torch.manual_seed(0)
    X = torch.randn(120, 4)
    y = torch.sin(2 * X[:, :1]) + 0.1 * torch.randn(120, 1)
    problem = wp.Problem(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), "squared_error", (X, y))
    recipe = wp.Recipe(epochs=120, optimizer={"lr": 0.02})
    found = wp.evidence(problem, recipe, wp.L2(1e-3).on(wp.inputs), by="input")
    rank = sorted(found.strengths, key=lambda name: found.strengths[name])
    assert rank[0] == "0.weight[:, 0]"
    assert all(found.strengths[name] > 20 * found.strengths[rank[0]] for name in rank[1:])
    one = wp.evidence(problem, recipe, wp.L2(1e-3).on())
    assert 0.05 < one.noise_std < 0.3
    assert (
        one.log_evidence > wp.evidence(problem, recipe, wp.L2(1e-3).on(), curvature="kronecker", rounds=1).log_evidence
    )
    assert "log evidence" in str(found)


def test_classes_settle_where_the_fixed_point_is() -> None:
    """At the end ``lambda |w|^2 = gamma``, with gamma from a Laplace approximation at these weights and this strength."""
    X, y = SETS["diabetes"]()
    labels = (y[:, 0] > 0).long()
    data = wp.Data((X, labels), valid=(X, labels))
    problem = wp.Problem(lambda: nn.Linear(10, 2), "cross_entropy", data)
    recipe = wp.Recipe(epochs=40, batch_size=64, optimizer={"lr": 0.03})
    for curvature in ("full", "kronecker"):
        found = wp.evidence(problem, recipe, [wp.L2(1e-2).on(how="loss")], curvature=curvature)
        if curvature == "full":
            wp.settle(found.model, "cross_entropy", (X, labels), found.terms, tolerance=1e-5)
        post = wp.laplace(found.model, (X, labels), "cross_entropy", found.terms, curvature=curvature, prior_std=1e3)
        weights = float(found.model.weight.detach().square().sum()) * len(X) * found.strengths["weights"]
        assert weights == pytest.approx(found.decided["weights"], rel=0.1)
        assert post.predict(X).accuracy(labels) > 0.7


@pytest.mark.parametrize("curvature", ["full", "kronecker"])
def test_validation_rows_play_no_part_and_laplace_agrees(curvature: Any) -> None:
    X, y = SETS["friedman"]()
    recipe = wp.Recipe(epochs=8, optimizer={"lr": 0.05}, stopping={"patience": 1})

    def problem(valid: torch.Tensor) -> wp.Problem:
        return wp.Problem(
            lambda: nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 1)),
            "squared_error",
            wp.Data((X, y), valid=(X[:20], valid)),
        )

    found, other = (
        wp.evidence(problem(valid), recipe, wp.L2(1e-2).on(), curvature=curvature, rounds=1)
        for valid in (y[:20], -5 * y[:20])
    )
    assert found.strengths == other.strengths
    again = {"curvature": curvature, "noise_std": found.noise_std}
    post = wp.laplace(found.model, (X, y), "squared_error", found.terms, **again)
    assert post.evidence == pytest.approx(found.log_evidence, abs=1e-4)
    assert post.effective == pytest.approx(sum(found.decided.values()) + 5, abs=1e-2)  # and the five biases
    if curvature == "kronecker":
        last = {"patience": 0, "keep": "last"}
        run = wp.fit(problem(y[:20]), recipe.replace(terms=list(found.terms), stopping=last), seed=0)
        torch.testing.assert_close(found.model[0].weight, run.model[0].weight)
    with pytest.raises(ProblemError, match="looks at no validation row"):
        wp.evidence(problem(y[:20]), recipe.replace(schedule={"name": "plateau"}), wp.L2(1e-2).on())


def test_two_terms_have_two_strengths() -> None:
    X, y = SETS["few of many"]()
    problem = wp.Problem(
        lambda: nn.Sequential(nn.Linear(15, 3), nn.Linear(3, 1)), "squared_error", wp.Data((X, y), valid=(X, y))
    )
    terms = [wp.L2(1e-2).on("0.*", how="loss"), wp.L2(1e-2).on("1.*", how="loss")]
    found = wp.evidence(problem, wp.Recipe(epochs=20), terms)
    assert list(found.strengths) == ["0.*", "1.*"]
    assert [term.charge.strength for term in found.terms] == list(found.strengths.values())
    assert [str(term.place) for term in found.terms] == ["0.*", "1.*"]


def test_bad_input_is_told() -> None:
    X, y = SETS["few of many"]()
    for wrong in (wp.L1(0.1).on(), wp.L2(0).on(), wp.L2(0.1).on(schedule=wp.ramp(9))):
        with pytest.raises(InputError, match="chooses strengths of L2 terms"):
            wp.evidence(linear(X, y), QUICK, wrong)
    with pytest.raises(InputError, match="needs L2 terms"):
        wp.evidence(linear(X, y), QUICK)
    with pytest.raises(InputError, match="Two terms charge 'weight'"):
        wp.evidence(linear(X, y), QUICK, [wp.L2(0.1).on(how="loss"), wp.L2SP(0.2, 0.0).on("weight", how="loss")])
    with pytest.raises(ProblemError, match="no likelihood"):
        wp.evidence(linear(X, y, "absolute_error"), QUICK, wp.L2(0.1).on())
    with pytest.raises(DataError, match="alike"):
        wp.evidence(linear(X, 0 * y + 1), QUICK, wp.L2(0.1).on())
    with pytest.raises(DataError, match="without residual"):
        wp.evidence(linear(X, X[:, :1]), QUICK, wp.L2(0.1).on())
    problem = wp.Problem(lambda: nn.Linear(15, 1), "squared_error", (X, y))
    with pytest.raises(InputError, match="needs weights with 2 axes"):
        wp.evidence(problem, QUICK, wp.L2(0.1).on(wp.biases), by="input")


def test_an_ensemble_is_the_mixture_of_its_runs() -> None:
    X, y = SETS["friedman"]()
    problem = wp.Problem(lambda: nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1)), "squared_error", (X, y))
    runs = [wp.fit(problem, wp.Recipe(epochs=5), seed) for seed in range(3)]
    found = wp.ensemble(runs)
    answer = found.predict(X)
    with torch.no_grad():
        outputs = torch.stack([run.model(X)[:, 0] for run in runs]).double()
    torch.testing.assert_close(answer.mean, outputs.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(answer.epistemic, outputs.std(0, correction=0), rtol=0, atol=1e-6)
    valid = [run.evaluate("valid").loss.mean for run in runs]
    np.testing.assert_allclose(found.noise_std, np.sqrt(valid), rtol=1e-5)
    with pytest.raises(InputError, match="two runs or more of one problem"):
        wp.ensemble(runs[:1])


def test_swag_has_the_moments_of_its_iterates() -> None:
    draws = torch.Generator().manual_seed(0)
    net, root = nn.Linear(3, 1, bias=False).double(), torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0, 0, 0.1]]).double()
    swag = wp.SWAG(net, rank=400)
    with pytest.raises(InputError, match="two iterates or more"):
        swag.sample()
    path = torch.randn(400, 3, generator=draws, dtype=torch.float64) @ root.T + 2
    for w in path:
        net.weight.data = w[None].clone()
        swag.update()
    drawn = torch.stack([swag.sample(seed).weight[0].detach() for seed in range(1000)])
    torch.testing.assert_close(swag.mean, path.mean(0))
    expected = (torch.cov(path.T) + path.var(0).diag()) / 2
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0.2, atol=0.1)
    few = [set(swag.predict(torch.eye(3), "squared_error", 9, 0.1, seed=s).means[:, 0, 0].tolist()) for s in (0, 1)]
    assert not few[0] & few[1]
    answer = swag.predict(torch.eye(3), "squared_error", 50, 0.1)
    assert answer.mean[:2].tolist() == pytest.approx([2, 2], abs=0.5)
    with pytest.raises(InputError, match="needs noise_std="):
        swag.predict(torch.eye(3), "squared_error")
    assert math.isfinite(answer.nll(torch.ones(3)))
