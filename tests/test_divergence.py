"""Divergences from a prior: closed forms against torch's, integrals and draws; what is free, what is sampled, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn

import wellposed as wp
from wellposed.core.errors import CompositionError, InputError, ShapeError
from wellposed.optim.charges import Charges
from wellposed.penalties.base import Context
from wellposed.penalties.divergence import FAMILIES, KL, DroppedInputs, Prior, WeightDistribution

PRIORS: dict[str, Prior] = {
    "gaussian": wp.GaussianPrior(0.7),
    "laplace": wp.LaplacePrior(0.7),
    "mixture": wp.ScaleMixturePrior(0.25, 1.0, 0.05),
}
KINDS = {"gaussian": distributions.Normal, "laplace": distributions.Laplace}
PAIRS = [(family, prior) for family in FAMILIES for prior in PRIORS]
MEANS = torch.tensor([0.0, 0.03, -0.4, 2.0, -9.0], dtype=torch.float64)
SCALES = torch.tensor([0.7, 0.01, 0.3, 1.5, 0.2], dtype=torch.float64)


def weights(family: str, prior: str, log_scale: Tensor | None = None, samples: int = 1) -> WeightDistribution:
    return WeightDistribution(
        PRIORS[prior], FAMILIES[family], SCALES.log() if log_scale is None else log_scale, samples=samples
    )


def integral(family: str, prior: Prior, mean: float, scale: float) -> float:
    """``KL(q || p)`` by the trapezoidal rule, where q has more than 1e-16 of its mass."""
    w = mean + scale * torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    log_q = KINDS[family](torch.tensor(mean).double(), torch.tensor(scale).double()).log_prob(w)
    return float(torch.trapezoid(log_q.exp() * (log_q - prior.log_density(w)), w))


@pytest.mark.parametrize(("family", "prior"), [pair for pair in PAIRS if pair[1] != "mixture"])
def test_closed_forms_are_the_integral(family: str, prior: str) -> None:
    found = weights(family, prior).divergence(MEANS)
    wanted = [integral(family, PRIORS[prior], m, s) for m, s in zip(MEANS.tolist(), SCALES.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-7)
    if family == prior:
        q, p = KINDS[family](MEANS, SCALES), KINDS[family](0 * MEANS, 0 * MEANS + 0.7)
        torch.testing.assert_close(found, distributions.kl_divergence(q, p), rtol=1e-12, atol=1e-14)
    assert bool((found >= -1e-15).all())
    # It is 0 where q is p and nowhere else: a Laplace distribution is no Gaussian at any scale.
    assert (abs(float(found[0])) < 1e-15) == (family == prior)
    assert bool((found[1:] > 1e-3).all())


@pytest.mark.parametrize(("family", "prior"), PAIRS)
def test_gradients(family: str, prior: str) -> None:
    """By the mean and by the scale, also where draws are needed: the draws are the same at every call."""
    means = torch.tensor([0.02, -0.4, 2.0], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([-1.0, -2.0, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: weights(family, prior, s, 3).divergence(m), (means, log_scale))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_draws_agree_with_the_integral(family: str) -> None:
    """Of a mixture the estimate is without bias: 200,000 draws come within five standard errors."""
    mean, scale, pairs = 0.4, 0.3, 200_000
    q = weights(family, "mixture", torch.tensor(math.log(scale)).double(), pairs)
    found = float(q.divergence(torch.tensor([mean], dtype=torch.float64)))
    w = mean + scale * q.draws(torch.zeros(1).double())
    error = float(q.prior.log_density(w).std()) / math.sqrt(pairs)
    assert abs(found - integral(family, q.prior, mean, scale)) < 5 * error
    # The draws have the family's mean size and variance.
    draws = q.draws(torch.zeros(1).double())
    assert float(draws.var()) == pytest.approx(FAMILIES[family].spread ** 2, rel=0.02)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(draws.abs().mean()) == pytest.approx(float(FAMILIES[family].mean_size(zero, zero)), rel=0.01)


def test_a_prior_of_ones_own_needs_a_density_alone() -> None:
    class Cauchy(Prior):
        def log_density(self, w: Tensor) -> Tensor:
            return -torch.log1p(w.square()) - math.log(math.pi)

    q = WeightDistribution(Cauchy(), log_scale=torch.tensor(-1.0).double(), samples=20_000)
    found = float(q.divergence(torch.tensor([0.5]).double()))
    assert found == pytest.approx(integral("gaussian", q.prior, 0.5, math.exp(-1.0)), abs=0.01)


def test_a_mixture_of_equal_parts_is_its_part() -> None:
    w = torch.linspace(-3, 3, 13, dtype=torch.float64)
    mixed = wp.ScaleMixturePrior(0.3, 0.8, 0.8).log_density(w)
    torch.testing.assert_close(mixed, distributions.Normal(0 * w, 0 * w + 0.8).log_prob(w), rtol=1e-12, atol=1e-12)


def test_dropped_inputs_are_charged_as_the_paper_says() -> None:
    """Of weights that are divided by the share kept: ``|W|^2/(2 (1-p) std^2) - K H(p)``, and ``K log 2`` for a start."""
    w, logit = torch.ones(3, 4, dtype=torch.float64), torch.tensor(math.log(0.2 / 0.8), dtype=torch.float64)
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    q = DroppedInputs(wp.GaussianPrior(2.0), log_scale=logit, inputs=4)
    assert float(q.divergence(w).sum()) == pytest.approx(12 / (2 * 0.8 * 4) + 4 * (math.log(2) - entropy), rel=1e-12)
    half = DroppedInputs(wp.GaussianPrior(2.0), log_scale=torch.zeros(()).double(), inputs=4)
    assert float(half.divergence(0 * w).sum()) == pytest.approx(0.0, abs=1e-12)


def test_free_nats_take_the_gradient_away_below_them() -> None:
    w = torch.tensor([1.0, -0.5], requires_grad=True)
    q = WeightDistribution(wp.GaussianPrior(1.0), log_scale=math.log(0.5))
    total = float(q.divergence(w.detach()).sum())
    for free, moves in ((0.4 * total, True), (0.6 * total, False)):
        charge = KL(rows=2, free=free, q=q)
        (gradient,) = torch.autograd.grad(charge.value(w), w)
        assert float(charge.value(w.detach())) == pytest.approx(max(total, 2 * free) / 2)
        assert bool((gradient != 0).any()) == moves
        zero = torch.zeros(2)
        assert (float(charge.violation(w.detach(), zero)) > 0) == moves


class Code(nn.Module):
    def __init__(self, axis: int = 1) -> None:
        super().__init__()
        self.code, self.axis = nn.Identity(), axis

    def forward(self, x: Tensor) -> Tensor:
        return self.code(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(6, 8), (6, 4, 3, 3)])
def test_activations_against_the_standard_normal(shape: tuple[int, ...]) -> None:
    """Equal to torch's divergence, a sum over dimensions and a mean over examples; parts of a batch add up to the whole."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = Code()
    net.register_parameter("w", nn.Parameter(torch.ones(())))
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.KLToStandardNormal(0.5).on("code")])
    net(x.clone().requires_grad_())
    mean, log_variance = x.chunk(2, dim=1)
    wanted = distributions.kl_divergence(
        distributions.Normal(mean, (log_variance / 2).exp()), distributions.Normal(0.0, 1.0)
    )
    assert float(optimizer.penalty().detach()) == pytest.approx(0.5 * float(wanted.sum() / len(x)), rel=1e-12)
    charge = wp.KLToStandardNormal(1.0, free=0.5)
    dimensions = wanted.mean(0)
    assert float(charge.mean(x)) == pytest.approx(float(dimensions.clamp_min(0.5).sum()), rel=1e-12)
    assert float(charge.mean(torch.zeros(2, 4))) == 1.0
    assert float(wp.KLToStandardNormal().mean(torch.zeros(2, 4))) == 0.0


class Apart(nn.Module):
    """Means and log-variances by two layers, which stand in the other order."""

    def __init__(self, wide: int = 3) -> None:
        super().__init__()
        self.to_log_variance, self.to_mean = nn.Linear(4, wide), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_mean(x), self.to_log_variance(x)


def test_mean_and_log_variance_may_come_from_two_layers_used_more_than_once() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    net, charge = Apart(), wp.KLToStandardNormal(0.5, apart=True)
    term = charge.on(["to_mean", "to_log_variance"])
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [term])
    codes = [net(x), net(2 * x)]
    wanted = sum(
        distributions.kl_divergence(distributions.Normal(m, (v / 2).exp()), distributions.Normal(0.0, 1.0)).sum() / 6
        for m, v in codes
    )
    torch.testing.assert_close(optimizer.penalty(), 0.5 * wanted)
    (back,) = wp.Recipe.from_toml(wp.Recipe(terms=[term]).to_toml()).build_terms()
    assert (back.charge, list(back.where)) == (charge, list(term.where))
    for model, place in ((net, ["to_mean"]), (Apart(wide=2), term.where)):
        optimizer = wp.regularize(torch.optim.SGD(model.parameters(), lr=0.1), model, [charge.on(place)])
        model(x)
        with pytest.raises((InputError, ShapeError), match=r"two modules|a log-variance for each mean"):
            optimizer.penalty()


def test_examples_may_lie_along_the_second_axis_as_of_the_last_state_of_an_lstm() -> None:
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    one, other = wp.KLToStandardNormal(axis=-1, batch=1), wp.KLToStandardNormal(axis=-1)
    found = one.value(Context(activations={"code": x}))
    torch.testing.assert_close(found, other.value(Context(activations={"code": x.movedim(1, 0)})))
    assert found < other.value(Context(activations={"code": x}))


def test_what_a_code_tells_is_bounded_by_its_divergence_from_the_gaussian_of_all_rows() -> None:
    """0 where all rows have one distribution, whichever; log 10 or more of ten codes that do not overlap."""
    charge, log_variance = wp.KLToStandardNormal(), torch.full((10, 1), -20.0)
    assert float(charge.told(torch.cat([log_variance, log_variance], 1)).sum()) == pytest.approx(0.0, abs=1e-12)
    mean = torch.arange(10.0)[:, None]
    found = float(charge.told(torch.cat([mean, log_variance], 1)).sum())
    assert found == pytest.approx(0.5 * math.log(1 + 8.25 * math.exp(20.0)), rel=1e-6)
    assert found > math.log(10)


MIXED, PLAIN = WeightDistribution(wp.ScaleMixturePrior()), WeightDistribution(wp.GaussianPrior(1.0))


def _linear() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def _bayesian(**settings: Any) -> nn.Module:
    return wp.bayesian(_linear(), prior=wp.GaussianPrior(1.0), **settings)


def _regularized(net: nn.Module, *terms: wp.Term, **settings: Any) -> Any:
    return wp.regularize(torch.optim.AdamW(net.parameters(), lr=0.01, **{"weight_decay": 0.0, **settings}), net, terms)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: wp.KL(rows=0), InputError, "at least 1; it was given rows=0"),
        (lambda: wp.KL(rows=5).value(torch.ones(2)), InputError, "no distribution to charge before it is bound"),
        (lambda: wp.GaussianPrior(0.0), InputError, "GaussianPrior"),
        (lambda: wp.ScaleMixturePrior(share=1.0), InputError, "ScaleMixturePrior"),
        (lambda: wp.KL(rows=5).on(how="prox"), InputError, "it can by loss"),
        (lambda: _regularized(_linear(), wp.KL(rows=5).on(wp.weights)), InputError, "'0.weight' is one of numbers"),
        (lambda: _regularized(_linear(), wp.KL(rows=5).on()), wp.SelectorError, "matches no parameter"),
        (lambda: _regularized(_bayesian(), wp.KL(rows=5).on(), wp.L2(0.1).on()), CompositionError, "two terms that decay"),
        (lambda: _regularized(_bayesian(), wp.KL(rows=5).on(), weight_decay=0.1), CompositionError, "decayed twice"),
        (lambda: wp.KLToStandardNormal().of(torch.ones(4, 3)), ShapeError, "side by side along axis 1"),
        (lambda: KL(rows=1, q=MIXED).prox(torch.ones(2), 0.1), InputError, "from draws"),
        (lambda: KL(rows=1, free=1.0, q=PLAIN).prox(torch.ones(2), 0.1), InputError, "free nats"),
    ],
)  # fmt: skip
def test_what_is_refused(wrong: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says.replace("(", r"\(")):
        wrong()


def test_the_term_stands_where_terms_stand() -> None:
    """In the audit of mean and spread, in the values, scheduled, and in a recipe that is read back."""
    net = _bayesian()
    optimizer = _regularized(net, wp.KL(rows=50).on(schedule=wp.ramp(10)))
    charged = {row.parameter: row.term for row in optimizer.audit().rows if row.term != "-"}
    assert charged == {f"{i}.{name}": "KL(rows=50)" for i in (0, 1) for name in ("weight", "posterior.weight")}
    (value,) = optimizer.values().values()
    assert value == pytest.approx(float(wp.kl(net).detach()) / 50 * wp.ramp(10)(0), rel=1e-5)
    recipe = wp.Recipe(terms=[wp.KL(rows=50, strength=0.5, free=0.1).on()])
    assert wp.Recipe.from_toml(recipe.to_toml()) == recipe
    assert str(recipe.terms[0].build().charge) == "KL(rows=50, strength=0.5, free=0.1)"


def test_a_trainer_that_adds_penalties_itself_moves_spreads_too() -> None:
    net = _bayesian()
    optimizer = _regularized(net, wp.KL(rows=10).on())
    optimizer.adds_penalty = True
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.endswith("weight")}


@pytest.mark.parametrize("held", [True, False])
def test_spreads_of_frozen_means_are_charged(held: bool) -> None:
    """Whether the optimizer has the frozen mean or not: the term is the divergence, moves the spread, and leaves the mean."""
    net = _bayesian()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("posterior" in name)
    mean, spread = (net.get_parameter(name) for name in ("0.weight", "0.posterior.weight"))
    optimizer = wp.regularize(
        torch.optim.SGD([p for p in net.parameters() if held or p.requires_grad], 0.01),
        net,
        [wp.KL(rows=1).on(), wp.L1(1.0).on(how="loss")],
    )
    wanted = wp.kl(net)
    torch.testing.assert_close(optimizer.penalty(), wanted)
    assert [*optimizer.values().values()] == [pytest.approx(wanted.item()), 0]
    assert Charges.of(net, optimizer, None).value() == pytest.approx(wanted.item())
    (slope,) = torch.autograd.grad(wanted, spread)
    spread.grad = torch.zeros_like(spread)
    mean.grad = torch.zeros_like(mean)
    optimizer._add_penalty()
    torch.testing.assert_close(spread.grad, slope)
    assert not mean.grad.any()


def test_strength_0_is_plain_training_bit_for_bit() -> None:
    def trained(terms: list[Any]) -> list[Tensor]:
        torch.manual_seed(0)
        net = wp.bayesian(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), prior=wp.GaussianPrior(1.0))
        optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.01), net, terms)
        for _ in range(5):
            optimizer.zero_grad()
            (net(torch.ones(8, 4)).square().mean() + optimizer.penalty()).backward()
            optimizer.step()
        return [p.detach() for p in net.parameters()]

    plain, nothing, something = (
        trained(terms) for terms in ([], [wp.KL(rows=9, strength=0.0).on()], [wp.KL(rows=9).on()])
    )
    assert all(map(torch.equal, plain, nothing))
    assert not all(map(torch.equal, plain, something))
