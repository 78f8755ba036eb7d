"""Losses that know their noise are torch's and scipy's densities, and their scores those that integrals give, at any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

import wellposed as wp
from wellposed.core.errors import InputError, ProblemError, TargetError
from wellposed.losses.distributions import Distribution
from wellposed.losses.metrics import in_target_units, metric
from wellposed.losses.per_example import Loss
from wellposed.training.checkpoint import load, save_run
from wellposed.training.ready_problems import TableMLP

N = 6
DENSITIES = ["gaussian", "student_t:2.5", "gaussian_mixture:3"]
HEADS = [*DENSITIES, "quantiles:0.1,0.5,0.9"]


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def head(name: str) -> Distribution:
    found = Loss(name).distribution
    assert found is not None
    return found


def theirs(name: str, outputs: Tensor) -> td.Distribution:
    """torch's distribution of one number a row."""
    if name == "gaussian":
        return td.Normal(outputs[:, 0], (0.5 * outputs[:, 1]).exp())
    if name.startswith("student_t"):
        return td.StudentT(2.5, outputs[:, 0], (0.5 * outputs[:, 1]).exp())
    logits, mean, log_var = outputs.chunk(3, 1)
    parts = td.Normal(mean, (0.5 * log_var).exp())
    return td.MixtureSameFamily(td.Categorical(logits=logits), parts)


def case(name: str, draw: torch.Generator, *targets: int) -> tuple[Tensor, Tensor]:
    width = head(name).width * (targets[0] if targets else 1)
    outputs = torch.randn(N, width, *targets[1:], generator=draw, dtype=torch.float64)
    return outputs, torch.randn(N, *targets, generator=draw, dtype=torch.float64)


# Densities


@pytest.mark.parametrize("name", DENSITIES)
def test_the_loss_is_torchs_negative_log_density_and_its_mean_and_spread_are_theirs(
    name: str, draw: torch.Generator
) -> None:
    outputs, y = case(name, draw)
    other = theirs(name, outputs)
    torch.testing.assert_close(Loss(name).per_example(outputs, y).total, -other.log_prob(y))
    torch.testing.assert_close(head(name).nll(outputs, y), -other.log_prob(y))
    torch.testing.assert_close(head(name).response(outputs), other.mean)
    torch.testing.assert_close(head(name).std(outputs), other.stddev)
    if "student" not in name:  # of which torch has no distribution function
        for level in (0.05, 0.5, 0.99):
            at = head(name).quantile(outputs, level)
            torch.testing.assert_close(other.cdf(at), torch.full_like(at, level))


@pytest.mark.parametrize("name", HEADS)
def test_several_numbers_add_up_and_stand_kind_after_kind(name: str, draw: torch.Generator) -> None:
    outputs, y = case(name, draw, 2)
    apart = outputs.unflatten(1, (-1, 2))
    alone = sum(Loss(name).per_example(apart[:, :, t], y[:, t]).total for t in range(2))
    torch.testing.assert_close(Loss(name).per_example(outputs, y).total, alone)
    torch.testing.assert_close(head(name).response(outputs)[:, 1], head(name).response(apart[:, :, 1]))
    images = case(name, draw, 2, 3, 3)
    assert Loss(name).per_example(*images).total.shape == (N,)
    assert head(name).response(images[0]).shape == images[1].shape


@pytest.mark.parametrize("name", [*HEADS, "ordinal"])
def test_gradients_are_finite_differences(name: str, draw: torch.Generator) -> None:
    outputs, y = (
        case(name, draw) if name != "ordinal" else (torch.randn(N, 3, generator=draw).double(), torch.arange(N) % 4)
    )
    assert torch.autograd.gradcheck(lambda f: Loss(name).parts(f, y).total, outputs.requires_grad_())
    if name in DENSITIES[:2]:
        assert torch.autograd.gradgradcheck(lambda f: Loss(name).parts(f, y).total, outputs)


SIZES = [0.0, *(sign * 10.0**power for power in (-30, -15, -3, 0, 3, 15, 30) for sign in (1, -1))]


@pytest.mark.parametrize("name", [*HEADS, "ordinal"])
def test_extreme_numbers_give_no_nan_and_a_value_where_there_is_one(name: str) -> None:
    """Outputs and targets from 1e-30 to 1e30 in single precision, against the same formula in 300 digits' range."""
    grid = torch.cartesian_prod(*[torch.tensor(SIZES)] * 3)
    y, first, second = grid.unbind(1)
    width = 2 if name == "ordinal" else head(name).width
    outputs = torch.stack(
        [first, second] + [first, second, -first, second, second][: width - 2] + [second] * (width - 7), 1
    )
    y = (y > 0).long() if name == "ordinal" else y
    outputs.requires_grad_()
    values = Loss(name).parts(outputs, y).total
    (slope,) = torch.autograd.grad(values.sum(), outputs)
    assert not bool(values.isnan().any())
    assert not bool(slope.isnan().any())
    wide = outputs.detach().double()
    exact = Loss(name).parts(wide, y if name == "ordinal" else y.double()).total
    there = exact.abs() < 1e37
    assert bool(values[there].isfinite().all())
    torch.testing.assert_close(values[there].double(), exact[there], rtol=2e-4, atol=1e-5)


def test_wide_values_are_the_formulas() -> None:
    """By hand, in logarithms: far out one summand is left."""
    far = Loss("student_t:3").parts(torch.tensor([[0.0, -1e30]], dtype=torch.float64), torch.ones(1)).total
    assert far.item() == pytest.approx(1.5e30, rel=1e-12)  # (dof + 1)/2 * 1e30 - 1/2 * 1e30
    near = Loss("gaussian").parts(torch.tensor([[0.0, -1e30]]), torch.tensor([0.0])).total
    assert near.item() == pytest.approx(-5e29)
    tiny = Loss("gaussian").parts(torch.tensor([[0.0, -130.0]]), torch.tensor([1e-25])).total  # z = 1e-25 e^65 = 1.69e3
    assert tiny.item() == pytest.approx(0.5 * (1e-50 * math.exp(130.0)) - 65.0 + 0.5 * math.log(2 * math.pi), rel=1e-5)


def test_student_of_many_degrees_of_freedom_is_gaussian_and_a_mixture_of_equals_too(draw: torch.Generator) -> None:
    outputs, y = case("gaussian", draw)
    wanted = Loss("gaussian").per_example(outputs, y).total
    torch.testing.assert_close(Loss("student_t:1e9").per_example(outputs, y).total, wanted, rtol=1e-6, atol=1e-6)
    outputs, y = outputs.double(), y.double()
    wanted = Loss("gaussian").per_example(outputs, y).total
    for many in (2e6, 1e15, 1e17, 1e30):
        student = wp.StudentT(many)
        torch.testing.assert_close(student.nll(outputs, y), wanted, rtol=1e-5, atol=1e-5)
        score = wp.distribution_of("gaussian", outputs).crps(y)
        assert wp.distribution_of(student, outputs).crps(y) == pytest.approx(score, rel=1e-6)
        torch.testing.assert_close(student.nll(outputs.float(), y.float()).double(), wanted, rtol=1e-5, atol=1e-5)
    outputs, y = outputs.float(), y.float()
    wanted = wanted.float()
    same = torch.cat(
        [torch.randn(N, 2, generator=draw), outputs[:, :1], outputs[:, :1], outputs[:, 1:], outputs[:, 1:]], 1
    )
    torch.testing.assert_close(Loss("gaussian_mixture:2").per_example(same, y).total, wanted)


# Scores


def crps_by_integral(cdf: Callable[[np.ndarray], np.ndarray], y: float) -> float:
    grid = np.linspace(-60.0, 60.0, 1_200_001) + y
    return float(np.trapezoid((cdf(grid) - (grid >= y)) ** 2, grid))


@pytest.mark.parametrize("name", ["gaussian", "student_t:3", "gaussian_mixture:2"])
def test_crps_is_its_integral(name: str, draw: torch.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    outputs, y = case(name, draw)
    found = head(name).crps(outputs, y)
    for row in range(2):
        f = outputs[row].numpy()
        if name == "gaussian":
            cdf: Any = stats.norm(f[0], math.exp(f[1] / 2)).cdf
        elif name == "student_t:3":
            cdf = stats.t(3, f[0], math.exp(f[1] / 2)).cdf
        else:
            share = 1 / (1 + math.exp(f[1] - f[0]))
            parts = [stats.norm(f[2 + k], math.exp(f[4 + k] / 2)).cdf for k in range(2)]
            cdf = lambda x, s=share, p=parts: s * p[0](x) + (1 - s) * p[1](x)  # noqa: E731
        assert found[row].item() == pytest.approx(crps_by_integral(cdf, float(y[row])), rel=1e-4)


def test_scores_of_counts_are_scipys(draw: torch.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    rate, y = torch.tensor([0.3, 2.0, 40.0]).double(), torch.tensor([0.0, 5.0, 33.0]).double()
    poisson = head("poisson")
    torch.testing.assert_close(poisson.nll(rate.log(), y), -torch.from_numpy(stats.poisson.logpmf(y, rate)))
    counts = np.arange(400)[:, None]
    wanted = ((stats.poisson.cdf(counts, rate.numpy()) - (counts >= y.numpy())) ** 2).sum(0)
    torch.testing.assert_close(poisson.crps(rate.log(), y), torch.from_numpy(wanted))
    for level in (0.05, 0.5, 0.95):
        assert poisson.quantile(rate.log(), level).tolist() == stats.poisson.ppf(level, rate.numpy()).tolist()


def test_crps_of_samples_tends_to_the_closed_form_and_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    exact = head("gaussian").crps(torch.tensor([[0.5, 0.0]]).double(), torch.tensor([1.2]).double()).item()
    few = [wp.crps_of_samples(rng.normal(0.5, 1.0, (3, 1)), [1.2]).item() for _ in range(4000)]
    assert np.mean(few) == pytest.approx(exact, abs=4 * np.std(few) / math.sqrt(4000))
    apart = rng.normal(size=(7, 2))
    by_hand = np.abs(apart - [0.0, 1.0]).mean(0) - np.abs(apart[:, None] - apart[None]).sum((0, 1)) / (2 * 7 * 6)
    np.testing.assert_allclose(wp.crps_of_samples(apart, [0.0, 1.0]), by_hand)


@pytest.mark.parametrize("name", ["nll", "crps", "interval_score:0.8", "coverage_gap:0.8", "pinball:0.9"])
@pytest.mark.parametrize("loss", HEADS)
def test_metrics_are_in_the_targets_own_units(name: str, loss: str, draw: torch.Generator) -> None:
    """Scaled by 5 the density is a fifth, and distances are five times as large."""
    outputs, y = case(loss, draw)
    if loss.startswith("quantiles") and name in ("nll", "crps"):
        with pytest.raises(InputError, match=r"gives (some )?quantiles.*pinball"):
            metric(name, Loss(loss))
        return
    inner = metric(name, Loss(loss))
    wide = in_target_units(inner, 5.0, 2.0)
    found = wide.score(wide.read(Loss(loss), outputs), y)
    plain = inner.score(inner.read(Loss(loss), outputs), y)
    wanted = {"nll": plain + math.log(5.0), "coverage_gap": plain}.get(name.partition(":")[0], 5.0 * plain)
    assert found == pytest.approx(wanted)


def test_interval_score_is_the_pinball_loss_of_both_ends(draw: torch.Generator) -> None:
    """``S = 2/a (pinball_(a/2)(l) + pinball_(1-a/2)(u))`` (Gneiting & Raftery)."""
    outputs, y = case("gaussian", draw)
    parts = [metric(name, Loss("gaussian")) for name in ("interval_score:0.9", "pinball:0.05", "pinball:0.95")]
    score, low, high = (one.score(one.read(Loss("gaussian"), outputs), y) for one in parts)
    assert score == pytest.approx(2 / 0.1 * (low + high))


@pytest.mark.parametrize("name", ["nll", "crps", "interval_score", "pinball:0.9"])
def test_the_true_distribution_has_the_best_score(name: str) -> None:
    """Proper: on many rows no shifted, wider or narrower Gaussian scores better than the one the targets were drawn from."""
    y = 2.0 + 3.0 * torch.from_numpy(np.random.default_rng(0).normal(size=20_000))
    measured = metric(name, Loss("gaussian"))
    scores = {}
    for mean in (1.5, 2.0, 2.5):
        for std in (2.0, 3.0, 4.5):
            outputs = torch.tensor([mean, 2 * math.log(std)]).double().expand(len(y), 2)
            scores[mean, std] = measured.score(measured.read(Loss("gaussian"), outputs), y)
    best = min(scores, key=scores.__getitem__)
    assert best == (2.0, 3.0) or (name.startswith("pinball") and scores[best] > 0.99 * scores[2.0, 3.0])


# Quantiles and classes in order


def test_quantiles_are_pinball_losses_and_sorting_never_costs(draw: torch.Generator) -> None:
    name = "quantiles:0.1,0.5,0.9"
    outputs, y = case(name, draw)
    alone = sum(
        Loss(f"quantile:{level}").per_example(outputs[:, k], y).total for k, level in enumerate((0.1, 0.5, 0.9))
    )
    found = Loss(name).per_example(outputs, y).total
    torch.testing.assert_close(found, alone)
    assert bool((Loss(name).per_example(outputs.sort(1).values, y).total <= found + 1e-12).all())
    low, high = head(name).quantile(outputs, 0.1), head(name).quantile(outputs, 0.9)
    assert bool((low <= head(name).response(outputs)).all() and (head(name).response(outputs) <= high).all())
    between = head(name).quantile(outputs, 0.3)
    torch.testing.assert_close(between, (low + head(name).response(outputs)) / 2)
    assert str(wp.Quantiles((0.1, 0.5, 0.9))) == name
    assert Loss(name).criterion == wp.Quantiles((0.1, 0.5, 0.9))
    with pytest.raises(InputError, match=r"from 0.1 to 0.9; 0.95 is outside"):
        head(name).quantile(outputs, 0.95)


@pytest.mark.parametrize("levels", [(0.5,), (0.9, 0.1), (0.0, 0.5), (0.5, 0.5), "ab", 0.5])
def test_levels_that_are_none(levels: Any) -> None:
    with pytest.raises(InputError, match=r"Quantiles needs levels="):
        wp.Quantiles(levels)


def test_ordinal_probabilities_are_differences_of_cumulative_ones(draw: torch.Generator) -> None:
    outputs = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    steps = torch.cat([outputs[:, :1], nn.functional.softplus(outputs[:, 1:])], 1).cumsum(1).sigmoid()
    wanted = torch.cat([steps[:, :1], steps.diff(dim=1), 1 - steps[:, -1:]], 1)
    torch.testing.assert_close(Loss("ordinal").response(outputs).exp(), wanted)
    y = torch.arange(N) % 4
    torch.testing.assert_close(Loss("ordinal").per_example(outputs, y).total, -wanted[torch.arange(N), y].log())
    shares = torch.full((N, 4), 0.25, dtype=torch.float64)
    torch.testing.assert_close(Loss("ordinal").per_example(outputs, shares).total, -wanted.log().mean(1))
    left_out = torch.where(y == 3, -100, y)
    assert Loss("ordinal").per_example(outputs, left_out).count.tolist() == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    two = Loss("ordinal").per_example(outputs[:, 0], y % 2).total  # of two classes a single logit, of the lower
    torch.testing.assert_close(
        two, Loss("binary_cross_entropy").per_example(outputs[:, 0], 1.0 - (y % 2).double()).total
    )


# In a problem


@pytest.mark.parametrize(
    ("loss", "outputs", "match"),
    [
        (
            "gaussian",
            1,
            "needs 2 outputs for each number to predict, a mean and the logarithm of a variance: the model needs 2",
        ),
        ("student_t", 3, "needs 2 outputs for each number"),
        ("gaussian_mixture:2", 5, "needs 6 outputs for each number.*each component: the model needs 6"),
        ("quantiles:0.1,0.9", 3, "needs 2 outputs for each number to predict, one for each level"),
        ("ordinal", 1, "3 classes, of which the last is labelled 2, need 2 outputs, one less; there are 1"),
    ],
)
def test_a_wrong_number_of_outputs_is_said_before_training(loss: str, outputs: int, match: str) -> None:
    x, y = torch.randn(30, 2), torch.arange(30) % 3 if loss == "ordinal" else torch.randn(30)
    with pytest.raises(ProblemError, match=match):
        wp.fit(wp.Problem(lambda: nn.Linear(2, outputs), loss, wp.Data(train=(x, y), valid=0.3)), wp.Recipe(epochs=1))


def test_other_misfits_are_said() -> None:
    x = torch.randn(30, 2)
    with pytest.raises(
        InputError, match=r"metric 'crps' is of a distribution, and the loss 'squared_error' gives none"
    ):
        wp.Problem(lambda: nn.Linear(2, 1), "squared_error", (x, x[:, 0]), metric="crps")
    with pytest.raises(TargetError, match=r"needs training targets that differ.*all 24 rows"):
        wp.fit(wp.Problem(lambda: nn.Linear(2, 2), "gaussian", (x, torch.ones(30))), wp.Recipe(epochs=1))
    for dof in (2, 1e31):
        with pytest.raises(InputError, match=r"dof=.*\(2, 1e\+30\]"):
            wp.StudentT(dof)
    with pytest.raises(InputError, match="several labels at once"):
        wp.distribution_of("binary_cross_entropy", torch.zeros(4, 3))
    with pytest.raises(InputError, match="several labels at once"):
        wp.distribution_of(nn.BCEWithLogitsLoss(), torch.zeros(4, 3))
    assert wp.distribution_of("binary_cross_entropy", torch.zeros(4, 1)).mean.tolist() == [[0.5, 0.5]] * 4
    with pytest.raises(InputError, match=r"its levels, such as quantiles:0\.05"):
        Loss("quantiles:0.1,x")


@pytest.mark.parametrize("loss", ["gaussian", "gaussian_mixture:2", "quantiles:0.1,0.5,0.9", "ordinal"])
def test_a_head_trains_alone_as_together_and_is_watched(loss: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=draw)
    y = x[:, 0] + (0.2 + x[:, 1].abs()) * torch.randn(300, generator=draw)
    y = (y > -0.5).long() + (y > 0.5) if loss == "ordinal" else y
    problem = wp.Problem(lambda data: nn.Linear(3, data.outputs), loss, wp.Data(train=(x, y), valid=0.25))
    recipe = wp.Recipe(epochs=15, batch_size=50, optimizer={"name": "adam", "lr": 0.05})
    alone = wp.fit(problem, recipe, seed=1)
    together = wp.fit_many(problem, [recipe], seeds=[0, 1])
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(together[1].model.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    constant = alone.history.facts.get("constant_loss", math.inf)  # a mixture's is not known
    assert alone.history["valid_loss"][-1] < min(constant, alone.history["valid_loss"][0])
    watch = wp.watch(alone.model, loss, train=(x, y), valid=(x, y))
    watch.epoch()
    assert wp.diagnose(watch)
    convex = loss.startswith("quantiles")
    assert wp.certify(alone.model, loss, (x, y), []).convex == convex


@pytest.mark.parametrize("loss", ["gaussian", "quantiles:0.05,0.5,0.95", "ordinal"])
def test_a_saved_model_predicts_an_interval_in_the_targets_own_units(loss: str, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 2, generator=draw)
    y = 100 + 10 * (x[:, 0] + (0.2 + x[:, 1].abs()) * torch.randn(1200, generator=draw))
    frame = pd.DataFrame(x.numpy(), columns=["a", "b"])
    target = pd.Series(y.numpy() if loss != "ordinal" else (y > 95).long().numpy() + (y > 105).long().numpy(), name="t")
    task = "classification" if loss == "ordinal" else "regression"
    data = wp.Data(train=(frame, target), valid=0.25, task=task)
    measured = "accuracy" if loss == "ordinal" else "interval_score"
    run = wp.fit(
        wp.Problem(TableMLP(), loss, data, metric=measured),
        wp.Recipe(epochs=30, optimizer={"name": "adam", "lr": 0.01}),
    )
    told = load(save_run(run, tmp_path)).predict(frame)
    if loss == "ordinal":
        assert list(told) == ["prediction", "p_0", "p_1", "p_2"]
        np.testing.assert_allclose(sum(told[f"p_{k}"] for k in range(3)), 1.0, atol=1e-6)
        assert np.mean(told["prediction"] == target) > 0.6
        return
    low, high = ("low", "high") if loss == "gaussian" else ("quantile_0.05", "quantile_0.95")
    assert next(iter(told)) == "prediction"
    inside = (told[low] <= target) & (target <= told[high])
    assert inside.mean() == pytest.approx(0.9, abs=0.04)
    assert np.corrcoef(told[high] - told[low], x[:, 1].abs())[0, 1] > 0.6  # where the noise is, the interval is wide
    fine = np.maximum(told[low] - target, 0) + np.maximum(target - told[high], 0)
    prepared = run.problem.prepared
    rows = prepared.places[1] if prepared.places is not None else np.arange(0)
    wanted = (told[high] - told[low] + 20 * fine)[rows].mean()
    assert run.score() == pytest.approx(wanted, rel=1e-4)
