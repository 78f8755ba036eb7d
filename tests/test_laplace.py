"""Laplace's approximation: the algebra of strengths against Hessians by autograd, closed forms, laplace-torch, bad input."""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call

import wellposed as wp
from wellposed.bayes.laplace import STATIONARY
from wellposed.bayes.likelihood import Likelihood
from wellposed.bayes.linearized import Linearized, full_parts, kronecker
from wellposed.core.errors import DataError, InputError, ProblemError
from wellposed.losses.per_example import Loss
from wellposed.training.evaluate import call

TERMS = [wp.L2(1e-2).on(wp.weights), wp.L2(3e-3).on(wp.biases)]


def rows(outputs: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 3, generator=draws, dtype=torch.float64)
    noise = 0.3 * torch.randn(40, outputs, generator=draws, dtype=torch.float64)
    return x, x[:, :1] - x[:, 1:2].square() + noise


def net_of(outputs: int, layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    inner = [nn.Linear(3, 4), nn.Tanh()] if layers == 2 else []
    return nn.Sequential(*inner, nn.Linear(4 if inner else 3, outputs)).double()


LOSSES: dict[str, tuple[Any, int, Any]] = {
    "squared_error": ("squared_error", 2, lambda y: y),
    "mse": ("mse", 2, lambda y: y),
    "torch mse": (nn.MSELoss(), 2, lambda y: y),
    "cross_entropy": ("cross_entropy", 3, lambda y: (y[:, 0] > 0).long() + (y[:, 1] > 0).long()),
    "binary_cross_entropy": ("binary_cross_entropy", 2, lambda y: (y > 0).double()),
    "torch bce": (nn.BCEWithLogitsLoss(), 2, lambda y: (y > 0).double()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_strength_is_the_precision_that_autograd_sees(name: str) -> None:
    """The Hessian of ``-log posterior`` is ``scale`` times that of the cost as training has it, in every convention."""
    loss, outputs, labelled = LOSSES[name]
    x, y = rows(2)
    y, net, strength = labelled(y), net_of(outputs, layers=1), 0.07
    likelihood = Likelihood.of(loss, len(x), outputs).with_noise(0.3)
    given = Loss(loss)

    shapes = {key: p.shape for key, p in net.named_parameters()}

    def by_name(w: Tensor) -> dict[str, Tensor]:
        parts = torch.split(w, [shape.numel() for shape in shapes.values()])
        return {key: part.reshape(shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}

    def cost(w: Tensor) -> Tensor:
        named = by_name(w)
        return given.mean(functional_call(net, named, (x,)), y) + strength / 2 * named["0.weight"].square().sum()

    def posterior(w: Tensor) -> Tensor:
        named = by_name(w)
        prior, f = (
            torch.distributions.Normal(0.0, (likelihood.scale * strength) ** -0.5),
            functional_call(net, named, (x,)),
        )
        known: Any = torch.distributions.Normal(f, 0.3**0.5)
        if not likelihood.numbers:
            of_classes = likelihood.kind == "classes"
            known = torch.distributions.Categorical(logits=f) if of_classes else torch.distributions.Bernoulli(logits=f)
        return -(known.log_prob(y).sum() + prior.log_prob(named["0.weight"]).sum())

    w = torch.cat([p.detach().flatten() for p in net.parameters()])
    second = torch.autograd.functional.hessian(posterior, w)
    torch.testing.assert_close(likelihood.scale * torch.autograd.functional.hessian(cost, w), second)
    # And the Gauss-Newton matrix is that Hessian, for a linear model.
    curvature, slope, value = full_parts(Linearized(net, call), [(x, y)], likelihood)
    charged = torch.zeros_like(w)
    charged[: shapes["0.weight"].numel()] = likelihood.scale * strength
    torch.testing.assert_close(curvature.matrix + charged.diag(), second)
    torch.testing.assert_close(slope + charged * w, torch.autograd.functional.jacobian(posterior, w))
    assert value == pytest.approx(float(likelihood.misfit(net(x), likelihood.targets(y, net(x))).detach()))
    if name == "squared_error":  # the same sentence as `L2.prior`, read backwards
        assert wp.L2.prior(std=2.0, m=40, noise_std=0.3**0.5).strength == pytest.approx(0.25 / likelihood.scale)


@pytest.mark.parametrize("name", ["squared_error", "cross_entropy", "binary_cross_entropy"])
def test_kronecker_factors_are_exact_where_one_of_them_is_constant(name: str) -> None:
    """Of one row the matrix of a weight is ``(a a^T) (x) (g g^T)``; of many rows its factors are those sums."""
    loss, outputs, labelled = LOSSES[name]
    x, y = rows(2)
    y, net = labelled(y), Linearized(net_of(outputs), call)
    one = Likelihood.of(loss, 1, outputs)
    exact, slope, value = full_parts(net, [(x[:1], y[:1])], one)
    found, slope_k, value_k = kronecker(net, [(x[:1], y[:1])], one)
    torch.testing.assert_close(slope, slope_k)
    assert value == pytest.approx(value_k)
    start = 0
    for outer, inner in found.blocks:
        size = len(outer) * len(inner)
        torch.testing.assert_close(torch.kron(outer, inner), exact.matrix[start : start + size, start : start + size])
        start += size


def test_kronecker_factors_of_a_convolution_are_those_of_its_patches() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(1, 2, 4, 4).double(), torch.randn(1, 3).double()
    conv = nn.Sequential(
        nn.Conv2d(2, 3, 4, padding=0), nn.Flatten()
    ).double()  # one place, so that it is a linear layer
    linear = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    linear[1].weight.data = conv[0].weight.data.reshape(3, 32)
    linear[1].bias.data = conv[0].bias.data
    likelihood = Likelihood.of("squared_error", 1, 3)
    pairs = [kronecker(Linearized(net, call), [(x, y)], likelihood)[0].blocks for net in (conv, linear)]
    for (outer, inner), (other, other_inner) in zip(*pairs, strict=True):
        torch.testing.assert_close(outer, other)
        torch.testing.assert_close(inner, other_inner)
    wide = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(12, 1)).double()
    data, kind = (
        (torch.randn(9, 2, 4, 4), torch.randn(9, 1)),
        {"curvature": "kronecker", "noise_std": 1.0, "prior_std": 1.0},
    )
    post = wp.laplace(wide, data, "squared_error", wp.L2(0.1).on(), **kind)
    assert post.predict(torch.randn(2, 2, 4, 4)).std.shape == (2,)


def test_a_linear_model_has_its_closed_form() -> None:
    """Evidence, mean and spread of Bayesian linear regression, from the joint Gaussian of all targets."""
    x, y = rows()
    net, strength = nn.Linear(3, 1, bias=False).double(), 0.05
    terms = wp.L2(strength).on()
    wp.settle(net, "squared_error", (x, y), wp.L2(strength).on(how="loss"), tolerance=1e-12)
    post = wp.laplace(net, (x, y), "squared_error", terms, noise_std=0.4)
    precision = 40 * strength / (2 * 0.16)
    joint = 0.16 * torch.eye(40, dtype=torch.float64) + x @ x.T / precision
    assert post.evidence == pytest.approx(stats.multivariate_normal(None, joint.numpy()).logpdf(y[:, 0].numpy()))
    assert (post.distance, post.notes, post.certificate.violation < 1e-9) == (pytest.approx(0, abs=1e-9), (), True)
    new = torch.randn(5, 3, dtype=torch.float64)
    inverse = torch.linalg.inv(x.T @ x / 0.16 + precision * torch.eye(3))
    answer = post.predict(new)
    torch.testing.assert_close(answer.mean, (new @ inverse @ x.T @ y / 0.16)[:, 0], rtol=0, atol=1e-9)
    torch.testing.assert_close(answer.epistemic, (new @ inverse * new).sum(1).sqrt())
    torch.testing.assert_close(answer.aleatoric, torch.full((5,), 0.4, dtype=torch.float64))
    # The noise is what MacKay's fixed point says, at this strength.
    found = wp.laplace(net, (x, y), "squared_error", terms)
    residual = (y - net(x).detach()).square().sum()
    assert found.noise_std == pytest.approx(math.sqrt(residual / (40 - found.effective)))
    assert found.effective == pytest.approx(
        float(torch.trace(torch.linalg.inv(x.T @ x + 40 * strength / 2 * torch.eye(3)) @ x.T @ x))
    )


def test_probit_and_draws_are_the_integral_over_one_logit() -> None:
    x, y = rows()
    labels = (y[:, 0] > 0).long()
    for loss, outputs in (("cross_entropy", 2), ("binary_cross_entropy", 1)):
        net = nn.Linear(3, outputs).double()
        terms = [wp.L2(0.05).on(how="loss"), wp.L2(0.05).on(wp.biases, how="loss")]
        wp.settle(net, loss, (x, labels if outputs == 2 else labels[:, None].double()), terms)
        post = wp.laplace(net, (x, labels if outputs == 2 else labels[:, None].double()), loss, terms)
        _, f, jacobian = next(post.net.jacobian(x[:3]))
        spread = post.posterior.covariance(jacobian)
        against = torch.tensor([[-1.0], [1.0]]).double() if outputs == 2 else torch.ones(1, 1).double()
        mean, std = (f @ against)[:, 0], (against.T @ spread @ against)[:, 0, 0].sqrt()
        points = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        density = torch.exp(-points.square() / 2) / math.sqrt(2 * math.pi) * 16 / 4000
        exact = (torch.sigmoid(mean[:, None] + std[:, None] * points) * density).sum(1)
        torch.testing.assert_close(post.predict(x[:3]).probabilities[:, 1], exact, atol=0.01, rtol=0)
        drawn = post.predict(x[:3], samples=20_000)
        torch.testing.assert_close(drawn.probabilities[:, 1], exact, atol=0.01, rtol=0)
        assert drawn.epistemic is not None


def test_a_shift_of_all_logits_that_no_row_decides_changes_no_probability() -> None:
    x, y = rows(2)
    net, labels = nn.Linear(3, 3).double(), LOSSES["cross_entropy"][2](y)
    wp.settle(net, "cross_entropy", (x, labels), wp.L2(0.05).on(how="loss"), tolerance=1e-4)
    found = [wp.laplace(net, (x, labels), "cross_entropy", wp.L2(0.05).on(), prior_std=std) for std in (1e2, 1e4)]
    narrow, wide = (post.predict(x).probabilities for post in found)
    torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-3)
    assert found[1].predict(x).accuracy(labels) > 0.6


@pytest.mark.skipif(importlib.util.find_spec("laplace") is None, reason="laplace-torch is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("ours", "theirs"), [("full", "full"), ("kronecker", "kron"), ("diagonal", "diag")])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_laplace_torch_agrees(loss: str, ours: Any, theirs: str) -> None:
    from laplace import Laplace  # type: ignore[import-not-found]
    from torch.utils.data import DataLoader, TensorDataset

    _, outputs, labelled = LOSSES[loss]
    x, y = rows(2)
    y, net = labelled(y), net_of(outputs)
    wp.settle(net, loss, (x, y), [wp.L2(1e-2).on(how="loss"), wp.L2(3e-3).on(wp.biases, how="loss")])
    numbers = {"noise_std": 0.4} if loss == "squared_error" else {}
    post = wp.laplace(net, (x, y), loss, TERMS, curvature=ours, **numbers)
    each = [1e-2 if name.endswith("weight") else 3e-3 for name, _ in net.named_parameters()]
    sizes = [1 if theirs == "kron" else p.numel() for p in net.parameters()]
    precision = torch.cat(
        [torch.full((n,), post.likelihood.scale * s).double() for n, s in zip(sizes, each, strict=True)]
    )
    kind = {"likelihood": "regression", "sigma_noise": 0.4} if numbers else {"likelihood": "classification"}
    torch.set_default_dtype(torch.float64)
    try:
        known = Laplace(
            copy.deepcopy(net), subset_of_weights="all", hessian_structure=theirs, prior_precision=precision, **kind
        )
        known.fit(DataLoader(TensorDataset(x, y), batch_size=40))
        assert post.evidence == pytest.approx(float(known.log_marginal_likelihood()), rel=1e-8)
        _, variance = known._glm_predictive_distribution(x[:5])
    finally:
        torch.set_default_dtype(torch.float32)
    covariance = post.posterior.covariance(next(post.net.jacobian(x[:5]))[2])
    torch.testing.assert_close(covariance, variance, rtol=1e-7, atol=1e-10)


def test_a_run_answers_in_the_units_of_its_target() -> None:
    pd = pytest.importorskip("pandas")
    x, y = rows()
    frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c"])
    target = pd.Series(1000 * y[:, 0].numpy() + 5000)
    problem = wp.Problem(lambda data: nn.Linear(data.features, 1), "squared_error", wp.Data((frame, target)))
    run = wp.fit(problem, wp.Recipe(epochs=200, batch_size=40, optimizer={"lr": 0.05}, terms=[wp.L2(1e-3).on()]))
    post = wp.laplace(run)
    answer = post.predict(frame)
    assert abs(float(answer.mean.mean()) - float(target.mean())) < 0.2 * float(target.std())
    assert answer.rmse(target) < float(target.std())
    own = float(target.std(ddof=0))
    assert answer.nll(target) == pytest.approx(post.predict(frame).rescaled(1 / own).nll(target / own) + math.log(own))
    low, high = answer.interval(0.9)
    inside = (torch.tensor(target.to_numpy()) > low) & (torch.tensor(target.to_numpy()) < high)
    assert 0.75 < float(inside.double().mean()) <= 1.0
    assert "weights that the data decide" in str(post)


def test_a_point_that_is_no_minimum_is_told_with_its_number() -> None:
    x, y = rows()
    net = net_of(1)
    post = wp.laplace(net, (x, y), "squared_error", TERMS)
    assert f"a violation of {post.certificate.violation:.3g}" in post.notes[0]
    assert post.distance > 10
    wp.settle(net, "squared_error", (x, y), [wp.L2(1e-2).on(how="loss"), wp.L2(3e-3).on(wp.biases, how="loss")])
    assert wp.laplace(net, (x, y), "squared_error", TERMS).notes == ()


def test_a_long_way_in_a_flat_direction_is_told_though_the_slope_is_small() -> None:
    x, y = torch.linspace(-1e-3, 1e-3, 40)[:, None].double(), 0.01 * torch.cos(torch.arange(40.0).double())[:, None]
    net = nn.Linear(1, 1, bias=False).double()
    net.weight.data.fill_(20.0)
    post = wp.laplace(net, (x, y), "squared_error", wp.L2(1e-9).on(), noise_std=0.01)
    assert post.certificate.violation < STATIONARY
    assert post.distance > 10
    assert "no minimum" in post.notes[0]


@pytest.mark.parametrize("layers", ["all", "last"])
def test_a_run_of_classes_with_l2_on_its_weights_has_a_posterior(layers: Any) -> None:
    """The biases are free, and a common shift of them changes nothing; what a weak prior says of it reaches no probability."""
    x, y = rows(2)
    labels = LOSSES["cross_entropy"][2](y)
    problem = wp.Problem(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), "cross_entropy", (x, labels)
    )
    run = wp.fit(problem, wp.Recipe(epochs=3, terms=[wp.L2(1e-2).on()]))
    post = wp.laplace(run, layers=layers)
    assert f"no term charges {3 if layers == 'last' else 7} of" in post.notes[-1]
    wide = wp.laplace(run, layers=layers, prior_std=1e4)
    torch.testing.assert_close(post.predict(x).probabilities, wide.predict(x).probabilities, rtol=0, atol=1e-3)
    flawed = x.clone()
    flawed[2, 1] = math.nan
    for samples in (0, 5):
        with pytest.raises(DataError, match=r"1 of 40 new rows are not finite \(rows 2, counted from 0\)"):
            post.predict(flawed, samples)


@pytest.mark.parametrize("noise", [{"label_smoothing": 0.1}, {"mixup": 0.2}])
def test_disturbed_labels_have_no_likelihood(noise: dict[str, float]) -> None:
    x, y = rows()
    problem = wp.Problem(lambda: nn.Linear(3, 2), "cross_entropy", (x, (y[:, 0] > 0).long()))
    recipe = wp.Recipe(epochs=1, noise=noise, terms=[wp.L2(0.1).on()])
    with pytest.raises(ProblemError, match="labels that are disturbed"):
        wp.laplace(wp.fit(problem, recipe))
    with pytest.raises(ProblemError, match="labels that are disturbed"):
        wp.evidence(problem, recipe)


def test_the_last_layer_alone_is_linear_regression_on_its_features() -> None:
    x, y = rows()
    net = net_of(1)
    post = wp.laplace(net, (x, y), "squared_error", TERMS, layers="last", noise_std=0.5)
    features = torch.cat([net[:2](x), torch.ones(40, 1).double()], 1).detach()
    prior = torch.tensor([1e-2] * 4 + [3e-3]).double() * 40 / (2 * 0.25)
    inverse = torch.linalg.inv(features.T @ features / 0.25 + prior.diag())
    torch.testing.assert_close(post.predict(x).epistemic, (features @ inverse * features).sum(1).sqrt())


def test_bad_input_is_told() -> None:
    x, y = rows()
    net = nn.Linear(3, 1).double()
    for loss in ("absolute_error", "huber", "poisson", nn.CrossEntropyLoss(label_smoothing=0.1), nn.NLLLoss()):
        with pytest.raises(ProblemError, match=r"no likelihood that is known|label_smoothing"):
            wp.laplace(net, (x, y), loss, TERMS)
    for changed in (
        nn.CrossEntropyLoss(ignore_index=0),
        nn.CrossEntropyLoss(weight=torch.ones(2)),
        nn.BCEWithLogitsLoss(weight=torch.tensor(3.0)),
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)),
        nn.MSELoss(reduction="sum"),
        functools.partial(nn.functional.mse_loss, reduction="sum"),
    ):
        with pytest.raises(ProblemError, match=r"The loss sets (weight|pos_weight|ignore_index|reduction)="):
            wp.laplace(net, (x, y), changed, TERMS)
    decaying = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.2), net, [])
    with pytest.raises(ProblemError, match=r"decays weights by itself \(weight_decay=0.2\)"):
        wp.laplace(net, (x, y), "squared_error", decaying)
    with pytest.raises(DataError, match="two training rows"):
        wp.laplace(net, (x[:1], y[:1]), "squared_error", TERMS)
    with pytest.raises(DataError, match="targets of all 40 training rows are alike"):
        wp.laplace(net, (x, 0 * y), "squared_error", TERMS)
    with pytest.raises(InputError, match="no Gaussian prior"):
        wp.laplace(net, (x, y), "squared_error", wp.L1(0.1).on())
    with pytest.raises(InputError, match="no Gaussian prior"):
        wp.laplace(net, (x, y), "squared_error", wp.MaxNorm(1.0, by="unit").on())
    with pytest.raises(InputError, match="curvature is singular"):
        wp.laplace(nn.Linear(50, 1).double(), (torch.ones(9, 50), y[:9]), "squared_error", [], prior_std=1e12)
    exact = nn.Linear(3, 1).double()
    with pytest.raises(DataError, match="no noise to estimate"):
        wp.laplace(exact, (x, exact(x).detach()), "squared_error", TERMS)
    wide = nn.Linear(3, 1).double()
    with pytest.raises(DataError, match="nothing is left to estimate"):
        wp.laplace(wide, (x[:4], y[:4]), "squared_error", wp.L2(1e-12).on())
    with pytest.raises(InputError, match="needs the training rows and the loss"):
        wp.laplace(net)
    with pytest.raises(InputError, match="one strength for each parameter"):
        wp.laplace(
            net, (x, y), "squared_error", wp.WeightedL2(1.0, [1.0, 2.0, 3.0]).on(), curvature="kronecker", prior_std=1.0
        )
    with pytest.raises(InputError, match="Kronecker factors are known for"):
        wp.laplace(
            nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)).double(),
            (x, y),
            "squared_error",
            TERMS,
            curvature="kronecker",
        )
