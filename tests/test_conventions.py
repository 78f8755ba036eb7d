"""Strengths in the conventions of others, each against a computation that knows nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from sklearn.linear_model import ElasticNet as SkElasticNet
from sklearn.linear_model import Lasso, Ridge
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.core.selectors import select
from wellposed.penalties.base import Penalty

Array = NDArray[np.float64]
M, D = 40, 3
NOISE_STD, STD, SCALE = 0.7, 0.35, 0.08


def table(seed: int = 0) -> tuple[Array, Array, Array]:
    """Inputs, real targets and classes."""
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(M, D))
    X[:, 2] += 0.5 * X[:, 0]
    truth = np.array([1.0, 0.0, -0.5])
    return X, X @ truth + NOISE_STD * draw.normal(size=M), (draw.random(M) < 1 / (1 + np.exp(-X @ truth))) * 1.0


def ours(penalty: Penalty, loss: Callable[[Tensor], Tensor]) -> Array:
    """The minimizer of ``loss + penalty``, by proximal gradient steps in torch."""
    w = torch.zeros(D, dtype=torch.float64)
    for _ in range(4000):
        w.requires_grad_()
        (grad,) = torch.autograd.grad(loss(w), w)
        step = 0.15
        moved = penalty.prox(w.detach() - step * grad, step)
        if torch.equal(moved, w.detach()):
            break
        w = moved
    return w.detach().numpy()


def squared(X: Array, y: Array) -> Callable[[Tensor], Tensor]:
    a, b = torch.tensor(X), torch.tensor(y)
    return lambda w: (b - a @ w).square().mean()


def logistic(X: Array, y: Array) -> Callable[[Tensor], Tensor]:
    a, b = torch.tensor(X), torch.tensor(y)
    return lambda w: nn.functional.binary_cross_entropy_with_logits(a @ w, b)


def score_of_squares(X: Array, y: Array, std: float) -> Callable[[Array], Array]:
    """Gradient of the negative log-likelihood of ``y ~ N(Xw, std^2)``: a sum over examples."""
    return lambda w: X.T @ (X @ w - y) / std**2


def score_of_logits(X: Array, y: Array) -> Callable[[Array], Array]:
    """The same of ``y ~ Bernoulli(1/(1 + exp(-Xw)))``."""
    return lambda w: X.T @ (1 / (1 + np.exp(-X @ w)) - y)


def laplace_map(score: Callable[[Array], Array], scale: float) -> Array:
    """The maximum a posteriori under a Laplace prior, one coordinate at a time, each to rounding."""
    w = np.zeros(D)
    for _ in range(80):
        for j in range(D):

            def slope(x: float, j: int = j) -> float:
                at = w.copy()
                at[j] = x
                return float(score(at)[j])

            at_zero = slope(0.0)
            if abs(at_zero) <= 1 / scale:
                w[j] = 0.0
            else:
                sign = -math.copysign(1.0, at_zero)
                w[j] = brentq(lambda x, s=sign: slope(x) + s / scale, 0.0, sign * 50.0, xtol=1e-15)
    return w


def test_textbook_over_the_matrices_of_a_network() -> None:
    """``lam/(2m) * sum_j |W_j|_F^2``: matrices only, and by hand."""
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    lam, m = 0.7, 60
    first, second = model[0].weight.detach().numpy(), model[2].weight.detach().numpy()
    by_hand = lam / (2 * m) * (np.sum(first * first) + np.sum(second * second))
    term = wp.L2.textbook(lam, m).on(wp.weights)
    assert term.how == "loss"
    charged = sum(float(wp.L2.textbook(lam, m).value(leaf.tensor.detach())) for leaf in select(model, wp.weights))
    assert charged == pytest.approx(by_hand, rel=1e-14)
    optimizer = wp.regularize(torch.optim.SGD(model.parameters(), lr=0.1), model, [term])
    added = optimizer.penalty()
    assert float(added.detach()) == pytest.approx(by_hand, rel=1e-6)
    added.backward()
    np.testing.assert_allclose(model[0].weight.grad.numpy(), lam / m * first, rtol=1e-12)
    assert model[0].bias.grad is None


def test_keras() -> None:
    w = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    assert float(wp.L2.keras(0.03).value(w)) == pytest.approx(0.03 * (1 + 4 + 0.25 + 9), rel=1e-15)


def test_ridge_against_the_normal_equations_and_scikit_learn() -> None:
    X, y, _ = table()
    alpha = 7.0
    by_hand = np.linalg.solve(X.T @ X + alpha * np.eye(D), X.T @ y)
    found = ours(wp.L2.ridge(alpha, M), squared(X, y))
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found, Ridge(alpha=alpha, fit_intercept=False).fit(X, y).coef_, rtol=0, atol=1e-10)


def test_lasso_and_elastic_net_against_scikit_learn() -> None:
    X, y, _ = table()
    settings: dict[str, Any] = {"fit_intercept": False, "tol": 1e-15, "max_iter": 10**6}
    lasso = ours(wp.L1.lasso(0.3), squared(X, y))
    np.testing.assert_allclose(lasso, Lasso(alpha=0.3, **settings).fit(X, y).coef_, rtol=0, atol=1e-9)
    assert (lasso == 0).any()
    for ratio in (0.2, 0.8):
        net = ours(wp.ElasticNet.sklearn(0.3, ratio), squared(X, y))
        wanted = SkElasticNet(alpha=0.3, l1_ratio=ratio, **settings).fit(X, y).coef_
        np.testing.assert_allclose(net, wanted, rtol=0, atol=1e-9)


def test_a_gaussian_prior_under_squared_error() -> None:
    """The mean of the Gaussian posterior is its maximum."""
    X, y, _ = table()
    precision = X.T @ X / NOISE_STD**2 + np.eye(D) / STD**2
    by_hand = np.linalg.solve(precision, X.T @ y / NOISE_STD**2)
    found = ours(wp.L2.prior(STD, M, noise_std=NOISE_STD), squared(X, y))
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-9)
    forgotten = ours(wp.L2.prior(STD, M), squared(X, y))
    assert np.abs(forgotten - by_hand).max() > 1e-3


def test_a_gaussian_prior_under_a_likelihood() -> None:
    X, _, y = table()
    score = score_of_logits(X, y)

    def posterior(w: Array) -> float:
        z = X @ w
        return float(np.sum(np.logaddexp(0, z) - y * z) + w @ w / (2 * STD**2))

    by_hand = minimize(posterior, np.zeros(D), jac=lambda w: score(w) + w / STD**2, tol=1e-13).x
    for _ in range(5):  # Newton's method takes the last digits.
        p = 1 / (1 + np.exp(-X @ by_hand))
        curvature = (X.T * (p * (1 - p))) @ X + np.eye(D) / STD**2
        by_hand = by_hand - np.linalg.solve(curvature, score(by_hand) + by_hand / STD**2)
    found = ours(wp.L2.prior(STD, M), logistic(X, y))
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-9)


def test_a_laplace_prior_under_squared_error() -> None:
    X, y, _ = table()
    by_hand = laplace_map(score_of_squares(X, y, NOISE_STD), SCALE)
    found = ours(wp.L1.prior(SCALE, M, noise_std=NOISE_STD), squared(X, y))
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-9)
    assert np.array_equal(found == 0, by_hand == 0)
    assert (found == 0).any()
    assert (found != 0).any()


def test_a_laplace_prior_under_a_likelihood() -> None:
    X, _, y = table()
    by_hand = laplace_map(score_of_logits(X, y), 4 * SCALE)
    found = ours(wp.L1.prior(4 * SCALE, M), logistic(X, y))
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-9)
    assert np.array_equal(found == 0, by_hand == 0)
    assert (found == 0).any()
    assert (found != 0).any()


LEARNING_RATES = [0.1, 0.4, 0.3, 0.05]


def decayed(scaling: str, amount: float) -> float:
    """The weight 1 after all steps, by the formulas of the libraries."""
    w = 1.0
    for lr in LEARNING_RATES:
        if scaling == "torch":
            w = w - lr * amount * w
        elif scaling == "composer":
            w = w - lr / LEARNING_RATES[0] * amount * w
        elif scaling == "independent":
            w = w - amount * w
        else:
            w = w - lr**2 / max(LEARNING_RATES) * amount * w
    return w


@pytest.mark.parametrize("scaling", ["torch", "composer", "independent", "timm"])
def test_the_four_scalings_of_decay(scaling: str) -> None:
    penalty = wp.L2.decoupled(0.2, scaling)
    w = 1.0
    for lr in LEARNING_RATES:
        w *= penalty.decay_factor(lr, first=LEARNING_RATES[0], largest=max(LEARNING_RATES))
    assert w == pytest.approx(decayed(scaling, 0.2), rel=1e-14)
    assert penalty.on().how == "decay"
    assert penalty.times(0.0).decay_factor(0.1, 0.1, 0.1) == 1.0
    assert penalty.times(0.5) == wp.L2.decoupled(0.1, scaling)


def test_the_default_decay_is_torchs() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -3.0], dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.2)
    weight.grad = torch.zeros_like(weight)
    before = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), wp.L2(0.2).decay_factor(0.1, 1.0, 1.0) * before, rtol=1e-15, atol=0)
    assert wp.L2.decoupled(0.2) == wp.L2(0.2)


@pytest.mark.parametrize("scaling", ["composer", "independent", "timm"])
def test_a_scaling_of_decay_is_enforced_by_decay_only(scaling: str) -> None:
    penalty = wp.L2.decoupled(0.2, scaling)
    for how in ("loss", "prox"):
        with pytest.raises(InputError, match=f"scaling='{scaling}'.*cannot be enforced by how='{how}'.*L2\\(0.2\\)"):
            penalty.on(how=how)
    assert wp.L2.decoupled(0.2).on(how="prox").how == "prox"


def test_translated_forms_are_enforced_in_the_loss_and_say_so() -> None:
    translated = {
        "L2(strength=0.05, convention='textbook(lam=0.5, m=10)')": wp.L2.textbook(0.5, 10),
        "L2(strength=1.0, convention='keras(lam=0.5)')": wp.L2.keras(0.5),
        "L2(strength=0.4, convention='prior(std=0.5, m=10)')": wp.L2.prior(0.5, 10),
        "L2(strength=0.8, convention='prior(std=0.5, m=10, noise_std=1.0)')": wp.L2.prior(0.5, 10, noise_std=1.0),
        "L2(strength=0.1, convention='ridge(alpha=0.5, m=10)')": wp.L2.ridge(0.5, 10),
        "L1(strength=0.2, convention='prior(scale=0.5, m=10)')": wp.L1.prior(0.5, 10),
        "L1(strength=1.0, convention='lasso(alpha=0.5)')": wp.L1.lasso(0.5),
        "ElasticNet(strength=1.0, mix=0.25, convention='sklearn(alpha=0.5, l1_ratio=0.25)')": wp.ElasticNet.sklearn(
            0.5, 0.25
        ),
    }
    for text, penalty in translated.items():
        assert str(penalty) == repr(penalty) == text
        assert penalty.on().how == "loss"
        assert penalty.on(how="prox").how == "prox"
    assert str(wp.L2(0.1)) == repr(wp.L2(0.1)) == "L2(strength=0.1)"
    assert str(wp.L2.decoupled(0.1, "timm")) == "L2(strength=0.1, scaling='timm')"
    assert wp.L2(0.1).on().how == "decay"
    assert wp.L1(0.1).on().how == "prox"


@pytest.mark.parametrize("m", [0, -3, 2.5, True, "10", None, math.nan])
def test_impossible_numbers_of_examples(m: Any) -> None:
    for name, make in (
        ("L2.textbook", lambda: wp.L2.textbook(0.1, m)),
        ("L2.ridge", lambda: wp.L2.ridge(0.1, m)),
        ("L2.prior", lambda: wp.L2.prior(0.1, m)),
        ("L1.prior", lambda: wp.L1.prior(0.1, m)),
    ):
        with pytest.raises(InputError, match=f"{name} needs m, the number of training examples, an integer >= 1"):
            make()
    assert wp.L2.textbook(1.0, np.int64(4)) == wp.L2.textbook(1.0, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, True, "1"])
def test_impossible_deviations(value: Any) -> None:
    for name, make in (
        ("std", lambda: wp.L2.prior(value, 10)),
        ("noise_std", lambda: wp.L2.prior(1.0, 10, noise_std=value)),
        ("scale", lambda: wp.L1.prior(value, 10)),
        ("noise_std", lambda: wp.L1.prior(1.0, 10, noise_std=value)),
        ("first", lambda: wp.L2.decoupled(0.1, "composer").decay_factor(0.1, value, 1.0)),
        ("largest", lambda: wp.L2.decoupled(0.1, "timm").decay_factor(0.1, 1.0, value)),
    ):
        with pytest.raises(InputError, match=f"needs a finite {name} > 0; it was given"):
            make()


@pytest.mark.parametrize("value", [-1.0, math.nan, "1", None])
def test_impossible_amounts(value: Any) -> None:
    for name, make in (
        ("lam", lambda: wp.L2.textbook(value, 10)),
        ("lam", lambda: wp.L2.keras(value)),
        ("alpha", lambda: wp.L2.ridge(value, 10)),
        ("alpha", lambda: wp.L1.lasso(value)),
        ("alpha", lambda: wp.ElasticNet.sklearn(value, 0.5)),
        ("amount", lambda: wp.L2.decoupled(value)),
    ):
        with pytest.raises(InputError, match=rf"^(L2\.\w+|The lasso) needs a finite {name} >= 0; it was given"):
            make()
    with pytest.raises(InputError, match=r"needs mix= to be a number in \[0, 1\]"):
        wp.ElasticNet.sklearn(0.1, 1.5)
    with pytest.raises(InputError, match=r"at most 1; it was given 1.5.*scaling='torch'"):
        wp.L2.decoupled(1.5, "independent")
    with pytest.raises(InputError, match=r"needs scaling= to be 'torch' or 'composer' or .* it was given 'keras'"):
        wp.L2.decoupled(0.1, "keras")


@pytest.mark.parametrize("outputs", [1, 3])
def test_under_a_mean_over_outputs_m_counts_values(outputs: int) -> None:
    """Of ridge and prior: rows under the sum, rows times outputs under the mean; the solution is scikit-learn's."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=draw, dtype=torch.float64)
    y = torch.randn(40, outputs, generator=draw, dtype=torch.float64)
    wanted = Ridge(alpha=3.0).fit(x.numpy(), y.numpy())
    for loss, m in (("squared_error", 40), ("mse", 40 * outputs), (nn.MSELoss(), 40 * outputs)):
        for penalty in (wp.L2.ridge(3.0, m=m), wp.L2.prior(std=0.5, m=m, noise_std=0.5 * math.sqrt(3.0))):
            net = nn.Linear(4, outputs, dtype=torch.float64)
            assert wp.settle(net, loss, (x, y), [penalty.on(how="loss")], tolerance=1e-10).optimal
            assert net.weight.detach().numpy() == pytest.approx(wanted.coef_.reshape(outputs, 4), abs=1e-8)
