"""Bias and variance: jobs on resamples are what they say, the estimates are right on average, and wrong ones are seen."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from benchmarks.tradeoff import trade_off
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.drawing import standalone
from wellposed.core.errors import InputError, TrainingError
from wellposed.decomposition import repeated_training, variance_components
from wellposed.decomposition.bias_variance import BiasVariance, BiasVarianceRow
from wellposed.decomposition.repeated_training import format_interval, recipes_by_name, weakest_first, with_amount
from wellposed.decomposition.variance_components import RowLosses, decompose, hits, loss_over_seeds
from wellposed.losses.per_example import Loss
from wellposed.parallel.jobs import Conditions, Job
from wellposed.parallel.population.grouping import train_population
from wellposed.statistics.intervals import crossed_interval
from wellposed.training.loop import fit
from wellposed.training.resampling import Sample, nested_order, sample_index
from wellposed.training.run import Run

CPU = torch.device("cpu")
DRAW = torch.Generator().manual_seed(0)
X, XV = torch.randn(60, 4, generator=DRAW), torch.randn(40, 4, generator=DRAW)
Y, YV = (X[:, 0] + 0.3 * X[:, 1] > 0.4).long(), (XV[:, 0] > 0.4).long()


class Small(nn.Module):
    """In double precision, so that two programs differ by little."""

    def __init__(self, outputs: int = 2, hidden: bool = True) -> None:
        super().__init__()
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Dropout(0.2), nn.Linear(6, outputs)]
        self.net = nn.Sequential(*layers) if hidden else nn.Sequential(nn.Linear(4, outputs, bias=False))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.double())
        return out


def problem(train: tuple[Tensor, Tensor] = (X, Y), weight: Tensor | None = None, **settings: object) -> wp.Problem:
    return wp.Problem(Small, "cross_entropy", wp.Data(train=train, valid=(XV, YV), weight=weight), **settings)


# --- jobs


@pytest.mark.parametrize("how", ["compiled", "torch", "alone"])
def test_a_resample_is_training_on_its_rows(how: str) -> None:
    weight = torch.rand(60, generator=DRAW) + 0.5
    recipe = wp.Recipe(epochs=3, batch_size=16, optimizer={"lr": 0.01}, averaging={"ema": 0.9})
    if how == "alone":
        recipe = recipe.replace(accumulate=2, batch_size=8)
    given = problem(weight=weight)
    jobs = [Job(recipe, 5, resample=0), Job(recipe, 5, resample=3), Job(recipe, 6, resample=3), Job(recipe, 5)]
    outcomes = train_population(given, jobs, Conditions(CPU), how == "compiled")
    for job, run in zip(jobs, outcomes, strict=True):
        assert isinstance(run, Run)
        assert how in run.engine
        rows = sample_index(given.prepared, job.sample)
        expected = fit(problem((X[rows], Y[rows]), weight=weight[rows]), recipe, job.seed)
        for mine, theirs in zip(run.model.parameters(), expected.model.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-9)
        for column in ("train_loss", "valid_loss", "cost"):
            assert run.history[column] == pytest.approx(expected.history[column], abs=1e-9)
        assert run.history.facts.get("resample") == job.resample
    assert len({tuple(sample_index(given.prepared, job.sample).tolist()) for job in jobs}) == 3


def test_jobs_on_all_rows_are_untouched_by_those_on_samples() -> None:
    recipe = wp.Recipe(epochs=2, batch_size=16)
    plain = [Job(recipe, seed) for seed in range(2)]
    before = train_population(problem(), plain, Conditions(CPU))
    beside = train_population(problem(), [*plain, *(Job(recipe, 0, resample=r) for r in range(3))], Conditions(CPU))
    for one, other in zip(before, beside, strict=False):
        assert isinstance(one, Run)
        assert isinstance(other, Run)
        assert all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


def test_draws_are_nested_and_stratified_and_resamples_repeat_rows() -> None:
    rare = torch.zeros(200, dtype=torch.long)
    rare[:20] = 1
    prepared = wp.Problem(Small, "cross_entropy", wp.Data(train=(torch.randn(200, 4), rare), valid=(XV, YV))).prepared
    for draw in range(3):
        order = nested_order(prepared, draw)
        assert sorted(order.tolist()) == list(range(200))
        for rows in (10, 50, 133):
            index = sample_index(prepared, Sample(rows, draw))
            assert index.tolist() == order[:rows].tolist()
            assert abs(int(rare[index].sum()) - rows / 10) <= 1
    binary = wp.Data(train=(torch.randn(200, 4), rare.float()[:, None]), valid=(XV, YV.float()[:, None]))
    one = wp.Problem(lambda: Small(1), "binary_cross_entropy", binary).prepared
    assert nested_order(one, 0).tolist() == nested_order(prepared, 0).tolist()
    assert nested_order(prepared, 0).tolist() != nested_order(prepared, 1).tolist()
    shares = [len(set(sample_index(prepared, Sample(resample=r)).tolist())) / 200 for r in range(20)]
    assert np.mean(shares) == pytest.approx(1 - np.exp(-1), abs=0.02)
    limited = set(sample_index(prepared, Sample(40)).tolist())
    assert len(limited) == 40
    assert set(sample_index(prepared, Sample(40, resample=1)).tolist()) < limited


# --- the estimates


def closed_form(f: Tensor, y: Tensor, crossed: bool) -> dict[str, float]:
    """Mean squares of the layout, the classical way: ``f`` is ``(resamples, seeds, rows, outputs)``."""
    resamples, seeds = f.shape[:2]

    def squares(values: Tensor, df: int, times: int) -> float:
        return float(times * values.square().sum((0, 1)).sum(-1).mean() / df)

    mean, by_data, by_seed = f.mean((0, 1)), f.mean(1, keepdim=True), f.mean(0, keepdim=True)
    of_data = squares(by_data - mean, resamples - 1, seeds)
    loss = float((f - y).square().sum(-1).mean())
    if crossed:
        of_seeds = squares(by_seed - mean, seeds - 1, resamples)
        rest = squares(f - by_data - by_seed + mean, (resamples - 1) * (seeds - 1), 1)
        parts = {"data": (of_data - rest) / seeds, "seeds": (of_seeds - rest) / resamples, "both": rest}
    else:
        rest = squares(f - by_data, resamples * (seeds - 1), 1)
        parts = {"data": (of_data - rest) / seeds, "seeds": rest}
    variance = sum(parts.values())
    return {"loss": loss, "bias": loss - variance, "variance": variance, **parts}


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize(("resamples", "seeds"), [(3, 2), (6, 3)])
def test_squared_error_has_the_parts_of_its_mean_squares(crossed: bool, resamples: int, seeds: int) -> None:
    draw = torch.Generator().manual_seed(1)
    f = torch.randn(resamples, seeds, 7, 2, generator=draw, dtype=torch.float64)
    y = torch.randn(7, 2, generator=draw, dtype=torch.float64)
    losses = RowLosses(Loss("squared_error"), y, None, f[0, 0])
    found = decompose(f, losses, crossed)
    assert {name: part.estimate for name, part in found.items()} == pytest.approx(closed_form(f, y, crossed), abs=1e-12)
    mean = decompose(f, RowLosses(Loss("mse"), y, None, f[0, 0]), crossed)
    assert {name: 2 * part.estimate for name, part in mean.items()} == pytest.approx(
        {name: part.estimate for name, part in found.items()}
    )
    # bias^2 of the mean prediction, less what the mean of R x S still varies
    plain = float((f.mean((0, 1)) - y).square().sum(-1).mean())
    one, two = found["data"].estimate, found["seeds"].estimate
    both = found["both"].estimate if crossed else 0.0
    rest = one / resamples + two / seeds / (1 if crossed else resamples) + both / (resamples * seeds)
    assert found["bias"].estimate == pytest.approx(plain - rest, abs=1e-12)


def test_cross_entropy_is_that_of_the_geometric_mean_and_a_divergence() -> None:
    draw = torch.Generator().manual_seed(2)
    z = 2 * torch.randn(400, 1, 5, 3, generator=draw, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    p = torch.softmax(z[:, 0], -1)
    central = p.log().mean(0).exp()
    central = central / central.sum(-1, keepdim=True)
    divergence = (central * (central.log() - p.log())).sum(-1).mean(0)
    bias = -central[torch.arange(5), y].log()
    loss = -p[:, torch.arange(5), y].log().mean(0)
    assert torch.allclose(loss, bias + divergence, atol=1e-12)  # the identity, for any number of members
    losses = RowLosses(Loss("cross_entropy"), y, None, z[0, 0])
    assert losses(z.mean(0))[0] == pytest.approx(bias.numpy())
    found = decompose(z, losses, False)
    assert found["variance"].estimate == pytest.approx(float(divergence.mean()), rel=0.01)
    assert found["variance"].estimate > float(divergence.mean())


def simulated(name: str, crossed: bool, members: int = 4, draws: int = 150) -> tuple[dict[str, float], ...]:
    """Means over many repetitions, their standard errors, and the truth, of outputs with known effects."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    rows, outputs = 30, 3
    mean = normal(rows, outputs)
    target = torch.randint(outputs, (rows,), generator=draw) if name == "cross_entropy" else normal(rows, outputs)
    losses = RowLosses(Loss(name), target, None, mean)
    spread = {"data": 0.8, "seeds": 0.6, "both": 0.5}
    bias = float(losses(mean[None]).mean())

    def expected(*names: str) -> float:
        sd = float(np.sqrt(sum(spread[n] ** 2 for n in names)))
        return float(losses(mean + sd * normal(8000, rows, outputs)).mean())

    loss, by_data, by_seeds = expected("data", "seeds", "both"), expected("data"), expected("seeds")
    truth = {"loss": loss, "bias": bias, "variance": loss - bias, "data": by_data - bias}
    truth |= (
        {"seeds": by_seeds - bias, "both": loss - by_data - by_seeds + bias} if crossed else {"seeds": loss - by_data}
    )
    found = []
    for _ in range(draws):
        data = spread["data"] * normal(members, 1, rows, outputs)
        seeds = spread["seeds"] * normal(1 if crossed else members, 2, rows, outputs)
        f = mean + data + seeds + spread["both"] * normal(members, 2, rows, outputs)
        found.append({n: part.estimate for n, part in decompose(f, losses, crossed).items()})
    means = {n: float(np.mean([f[n] for f in found])) for n in truth}
    errors = {n: float(np.std([f[n] for f in found]) / np.sqrt(draws)) for n in truth}
    return means, errors, truth


def right_on_average(name: str, crossed: bool) -> None:
    means, errors, truth = simulated(name, crossed)
    for part, value in truth.items():
        assert abs(means[part] - value) < 4 * errors[part] + 0.01 * truth["loss"], part


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("name", ["squared_error", "cross_entropy"])
def test_estimates_are_right_on_average(name: str, crossed: bool) -> None:
    right_on_average(name, crossed)


def uncorrected_centre(members: Tensor, losses: RowLosses, left_out: bool = True) -> np.ndarray:
    """The loss at the mean of the members: bias with variance/R in it, and variance without R/(R-1)."""
    count = len(members)
    left = losses((members.sum(0) - members) / (count - 1))
    whole = losses(members.mean(0)[None])
    return np.concatenate([whole, left]) if left_out else whole


def uncorrected_within(outputs: Tensor, losses: RowLosses) -> np.ndarray:
    return losses(outputs.mean(1))


def variance_alone(members: Tensor, losses: RowLosses, left_out: bool = True) -> np.ndarray:
    """R/(R-1) with the wrong sign of what is taken from the bias."""
    return 2 * uncorrected_centre(members, losses, left_out) - RIGHT(members, losses, left_out)


RIGHT = variance_components.at_centre
MUTANTS: dict[str, tuple[str, Callable[..., object]]] = {
    "no correction for resamples": ("at_centre", uncorrected_centre),
    "corrected the wrong way": ("at_centre", variance_alone),
    "no correction for seeds": ("loss_over_seeds", uncorrected_within),
}


@pytest.mark.parametrize("name", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_estimates_are_seen(mutant: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, wrong = MUTANTS[mutant]
    monkeypatch.setattr(variance_components, place, wrong)
    with pytest.raises(AssertionError):
        right_on_average(name, False)


def test_what_a_resample_leaves_out_is_the_estimate_without_it() -> None:
    f = torch.randn(5, 2, 6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    losses = RowLosses(Loss("cross_entropy"), torch.tensor([0, 1, 2, 2, 1, 0]), None, f[0, 0])
    for layout in (variance_components.nested_components, variance_components.crossed_components):
        whole = layout(f, losses)
        for r in range(5):
            kept = [i for i in range(5) if i != r]
            for name, values in layout(f[kept], losses).items():
                assert whole[name][1 + r] == pytest.approx(values[0], abs=1e-12)
    assert loss_over_seeds(f, losses).shape == (5, 6)


def test_a_row_of_weight_2_is_a_row_twice() -> None:
    f = torch.randn(4, 2, 5, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y, twice = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([0, 0, 1, 2, 3, 4])
    weighted = RowLosses(Loss("cross_entropy"), y, torch.tensor([2.0, 1, 1, 1, 1]), f[0, 0])
    repeated = RowLosses(Loss("cross_entropy"), y[twice], None, f[0, 0, twice])
    one, other = decompose(f, weighted, False), decompose(f[:, :, twice], repeated, False)
    assert {n: p.estimate for n, p in one.items()} == pytest.approx({n: p.estimate for n, p in other.items()})
    assert float(weighted.share.mean()) == pytest.approx(1)


def test_a_callable_loss_is_the_loss_by_name() -> None:
    f = torch.randn(4, 2, 5, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 1, 0])
    parts = [
        decompose(f, RowLosses(Loss(loss), y, None, f[0, 0]), True) for loss in ("cross_entropy", nn.CrossEntropyLoss())
    ]
    assert {n: p.estimate for n, p in parts[0].items()} == pytest.approx({n: p.estimate for n, p in parts[1].items()})
    with pytest.raises(InputError, match="one number for all"):
        RowLosses(Loss(lambda outputs, target: (outputs.mean() - target.float().mean()) ** 2), y, None, f[0, 0])


def test_hits_add_up_and_variance_may_help() -> None:
    draw = torch.Generator().manual_seed(6)
    f, y = torch.randn(7, 2, 50, 4, generator=draw), torch.randint(4, (50,), generator=draw)
    found = hits(f, y)
    assert found is not None
    assert found["error"] == pytest.approx(found["main"] + found["away"] - found["back"])
    assert float(found["error"][0].mean()) == pytest.approx(float((f.argmax(-1) != y).double().mean()))
    assert found["back"].mean() > 0
    binary = hits(f[..., :1], y.clamp_max(1).float()[:, None])
    assert binary is not None
    assert float(binary["error"][0].mean()) == pytest.approx(float(((f[..., 0] > 0) != (y > 0)).double().mean()))
    assert hits(f, torch.randn(50, 4)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squared_error", "cross_entropy"])
def test_intervals_cover(name: str) -> None:
    """Rows and members are both drawn, with effects in common to all rows. `benchmarks/bias_variance.py` has the table."""
    draw = torch.Generator().manual_seed(7)
    spread, members, rows, count = 0.5, 20, 100, 150

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def case(members: int, rows: int) -> dict[str, variance_components.VarianceComponent]:
        x, y = normal(rows, 2), normal(rows, 2)
        common = spread * normal(members, 1, 1, 2)  # an effect that all rows share, as that of a shifted network is
        f = x + common * (0.5 + x[:, :1].abs()) + 0.5 * normal(members, 1, rows, 2)
        target = (y[:, 0] > 0).long() if name == "cross_entropy" else y
        return decompose(f, RowLosses(Loss(name), target, None, f[0, 0]), False)

    truth = [case(60, 2000) for _ in range(12)]
    for part in ("loss", "bias", "variance"):
        expected = np.mean([t[part].estimate for t in truth])
        covered = np.mean([(p := case(members, rows)[part]).low <= expected <= p.high for _ in range(count)])
        assert covered > 0.9, (part, covered)  # 95 % promised; two standard errors are .036


# --- from a problem


def test_ridge_over_resamples_has_its_closed_form() -> None:
    draw = torch.Generator().manual_seed(8)
    x, xv = torch.randn(30, 4, generator=draw), torch.randn(25, 4, generator=draw)
    w = torch.tensor([1.0, -1.0, 0.5, 0.0])
    y, yv = x @ w + 0.5 * torch.randn(30, generator=draw), xv @ w + 0.5 * torch.randn(25, generator=draw)
    given = wp.Problem(
        lambda: Small(1, hidden=False), "squared_error", wp.Data(train=(x, y[:, None]), valid=(xv, yv[:, None]))
    )
    strengths = (0.0, 0.5, 2.0)
    descent = wp.Recipe(
        epochs=120, batch_size=30, optimizer={"name": "sgd", "lr": 0.2}, stopping={"keep": "last", "patience": 0}
    )
    found = wp.bias_variance_path(
        given, descent, lambda r, s: r.replace(terms=[{"penalty": "l2", "strength": s, "how": "loss"}]), strengths,
        resamples=6, seeds=(0,),
    )  # fmt: skip
    for point, strength in zip(found.points, strengths, strict=True):
        predictions = []
        for r in range(6):
            rows = sample_index(given.prepared, Sample(resample=r)).numpy()
            a, b = x.double().numpy()[rows], y.double().numpy()[rows]
            solved = np.linalg.solve(2 * a.T @ a / 30 + strength * np.eye(4), 2 * a.T @ b / 30)
            predictions.append(xv.double().numpy() @ solved)
        f = np.array(predictions)
        variance = f.var(axis=0, ddof=1).mean()
        bias = ((f.mean(axis=0) - yv.double().numpy()) ** 2).mean() - variance / 6
        assert point.parts["variance"].estimate == pytest.approx(variance, rel=1e-4)
        assert point.parts["bias"].estimate == pytest.approx(bias, rel=1e-4)
    variances = [point.parts["variance"].estimate for point in found.points]
    assert variances == sorted(variances, reverse=True)


@pytest.fixture(scope="module")
def measured() -> BiasVariance:
    draw = torch.Generator().manual_seed(9)
    x, noise = torch.randn(460, 4, generator=draw), torch.rand(460, generator=draw)
    y = ((x[:, 0] + x[:, 1] > 0) ^ (noise < 0.12)).long()
    given = wp.Problem(
        lambda: nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 2)), "cross_entropy",
        wp.Data(train=(x[:80], y[:80]), valid=(x[80:160], y[80:160]), test=(x[160:], y[160:])),
    )  # fmt: skip
    base = wp.Recipe(epochs=60, batch_size=80, optimizer={"lr": 0.03}, stopping={"keep": "last", "patience": 0})
    return wp.bias_variance_path(given, base, "terms.l2", [30, 0, 1.5], resamples=12)


def test_a_path_trades_variance_for_bias(measured: BiasVariance) -> None:
    assert [point.strength for point in measured.points] == [0.0, 1.5, 30.0]
    weak, middle, strong = measured.points
    assert measured.best is middle
    assert weak.parts["variance"].estimate > 2 * middle.parts["variance"].estimate
    assert strong.parts["bias"].estimate > middle.parts["bias"].estimate
    for point in measured.points:
        parts = {name: part.estimate for name, part in point.parts.items()}
        assert parts["loss"] == pytest.approx(parts["bias"] + parts["variance"])
        assert parts["variance"] == pytest.approx(parts["data"] + parts["seeds"])
        assert all(part.low < part.estimate < part.high for part in point.parts.values())
    assert weak.whole < weak.parts["loss"].estimate  # all rows are more than 63 %


DROPPED = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Dropout(0.0), nn.Linear(16, 2))
SHORT = wp.Recipe(epochs=4, batch_size=20, optimizer={"lr": 0.03}, stopping={"keep": "last", "patience": 0})
PATHS: dict[str, tuple[tuple[float, ...], list[str], str]] = {
    "noise.dropout": ((0.6, 0, 0.3), ["dropout 0", "dropout 0.3", "dropout 0.6"], "dropout"),
    "noise.label_smoothing": ((0.3, 0.0), ["label_smoothing 0", "label_smoothing 0.3"], "label smoothing"),
    "terms.max_norm": ((0.2, np.inf, 1), ["max_norm none", "max_norm 1", "max_norm 0.2"], "bound of max_norm"),
    "epochs": ((1, 30, 6), ["epochs 30", "epochs 6", "epochs 1"], "epochs"),
    "stopping.patience": ((1, 0, 3), ["patience 0", "patience 3", "patience 1"], "patience"),
}


@pytest.mark.parametrize("vary", PATHS)
def test_a_path_goes_from_the_weakest_to_the_strongest(vary: str) -> None:
    """Whatever regularizes; a figure has the weakest to the left."""
    strengths, names, axis = PATHS[vary]
    given = wp.Problem(lambda: copy.deepcopy(DROPPED), "cross_entropy", wp.Data(train=(X, Y), valid=(XV, YV)))
    found = wp.bias_variance_path(given, SHORT, vary, strengths, resamples=5, seeds=(0,))
    assert [point.name for point in found.points] == names
    assert {point.strength for point in found.points} == set(map(float, strengths))
    weak, strong = found.points[0], found.points[-1]
    if vary not in ("noise.dropout", "stopping.patience"):  # which in so few steps hardly act
        assert weak.parts["variance"].estimate >= strong.parts["variance"].estimate
    words = [word.strip() for word in ElementTree.fromstring(standalone(trade_off("one", found))).itertext()]
    assert axis in words
    ticks = [word for word in words if word in {name.split()[-1] for name in names}]
    assert ticks[: len(names)] == [name.split()[-1] for name in names]
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_order_that_is_the_wrong_way_round_is_seen() -> None:
    assert weakest_first("terms.l2", [3, 1, 1]) == [1, 3]
    assert weakest_first("terms.max_norm", [0, 3, np.inf]) == [np.inf, 3, 0]
    assert weakest_first(lambda recipe, value: recipe, [3, 1]) == [1, 3]
    bounded_at = with_amount(wp.Recipe(), "terms.max_norm", 2.0)
    assert bounded_at.terms[0].bound == 2.0
    assert with_amount(bounded_at, "terms.max_norm", 1.0).terms[0].bound == 1.0
    assert with_amount(bounded_at, "terms.max_norm", np.inf).terms == ()
    found = wp.bias_variance_path(problem(), wp.Recipe(), "epochs", [1, 2], resamples=3, seeds=(0,))
    assert "kept its best epoch" in str(found)


def test_findings_say_which_end_is_worse(measured: BiasVariance) -> None:
    draw = torch.Generator().manual_seed(10)
    x = torch.randn(460, 4, generator=draw)
    y = 2 * x[:, :1] + 0.7 * torch.randn(460, 1, generator=draw)
    given = wp.Problem(
        lambda: nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 1)), "squared_error",
        wp.Data(train=(x[:60], y[:60]), valid=(x[60:160], y[60:160]), test=(x[160:], y[160:])),
    )  # fmt: skip
    base = wp.Recipe(epochs=100, batch_size=60, optimizer={"lr": 0.03}, stopping={"keep": "last", "patience": 0})
    path = wp.bias_variance_path(given, base, "terms.l2", [0, 1, 30], resamples=8, seeds=(0,))
    over, strong = path.findings()
    assert (over.name, over.pulls, strong.name) == ("overfits", "regularizer", "over_regularized")
    assert strong.pulls == "regularizer"
    assert over.changes[0].recipe == path.best.recipe == path.point("l2 1").recipe
    assert over.evidence["low"] > 0
    assert "l2 0 -> l2 1" in over.to_dict()["changes"]


def test_differences_are_paired(measured: BiasVariance) -> None:
    paired = measured.difference("l2 0", "l2 1.5")
    alone = [measured.point(name).parts["loss"] for name in ("l2 0", "l2 1.5")]
    assert paired.estimate == pytest.approx(alone[0].estimate - alone[1].estimate, rel=0.05)
    assert paired.high - paired.low < alone[0].high - alone[0].low
    with pytest.raises(InputError, match="no recipe 'l1'"):
        measured.difference("l1", "l2 0")
    with pytest.raises(InputError, match="no part 'noise'"):
        measured.difference("l2 1.5", "l2 0", "noise")


def test_what_is_shown_and_saved(measured: BiasVariance) -> None:
    text = str(measured)
    assert "63 %" in text
    assert "on 300 test rows; 12 resamples of 80 rows with own 2 seeds" in text
    assert "main wrong" in text
    saved = json.loads(json.dumps(measured.to_dict()))
    assert saved["best"] == "l2 1.5"
    assert set(saved["points"][0]["parts"]) == {"loss", "bias", "variance", "data", "seeds"}


def test_the_figure_has_every_strength_and_marks_the_lowest(measured: BiasVariance) -> None:
    alone = standalone(trade_off("one", measured))
    words = [text.strip() for text in ElementTree.fromstring(alone).itertext()]
    assert {"0", "1.5", "30", "lowest: 1.5", "noise + bias", "variance", "strength of l2"} <= set(words)
    assert "var(--" not in alone
    assert "nan" not in alone
    with pytest.raises(InputError, match="with strengths"):
        trade_off("one", replace(measured, points=measured.points[:1]))


def test_the_page_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "bias-variance.md").read_text()
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    printed = capsys.readouterr().out
    for words in ("noise + bias²", "overfits", "over_regularized", "At 160 rows"):
        assert words in printed


def test_crossed_seeds_and_one_seed() -> None:
    recipe = wp.Recipe(epochs=2)
    found = wp.bias_variance(problem(), recipe, resamples=3, seeds=(0, 1), crossed=True)
    parts = found.points[0].parts
    assert parts["variance"].estimate == pytest.approx(sum(parts[n].estimate for n in ("data", "seeds", "both")))
    assert "over seeds they need 3" in str(found)
    several = wp.bias_variance(problem(), recipe, resamples=3, seeds=range(3), crossed=True).points[0].parts
    assert len(several["bias"].over_seeds) == 3
    one = wp.bias_variance(problem(), recipe, resamples=3, seeds=(0,))
    assert set(one.points[0].parts) == {"loss", "bias", "variance"}
    assert "One seed" in str(one)
    assert "best on these very rows" in str(one)


def test_a_difference_of_crossed_recipes_is_over_seeds_too() -> None:
    """The seeds of both are the same: what they add is that of their difference."""
    draw = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    y, by_seed = normal(40, 1), normal(1, 4, 1, 1)
    losses = RowLosses(Loss("squared_error"), y, None, y)
    points = {}
    for name, scale in (("plain", 1.0), ("same", 1.0), ("less", 0.2)):
        f = scale * by_seed + 0.01 * normal(6, 4, 40, 1)
        points[name] = BiasVarianceRow(name, wp.Recipe(), decompose(f, losses, True), None, 0.0, tuple(range(6)))
    found = BiasVariance(tuple(points.values()), "squared_error", "test", 40, 40, 4, True)
    same, less = (found.difference("plain", other) for other in ("same", "less"))
    tables = [points[name].parts["loss"].table for name in ("plain", "less")]
    alone = crossed_interval(tables[0] - tables[1])
    assert less.high - less.low > 2 * (alone.high - alone.low)
    assert same.high - same.low < 0.2 * (less.high - less.low)


def test_rows_without_a_label_count_in_neither_loss() -> None:
    labels = YV.clone()
    labels[::3] = -100
    kept = labels != -100
    recipe = wp.Recipe(epochs=2, stopping={"keep": "last"})
    data = [wp.Data(train=(X, Y), valid=(XV, labels)), wp.Data(train=(X, Y), valid=(XV[kept], labels[kept]))]
    some, fewer = (
        wp.bias_variance(wp.Problem(Small, "cross_entropy", d), recipe, resamples=3, seeds=(0,)).points[0] for d in data
    )
    for one, other in ((some.parts, fewer.parts), (some.zero_one, fewer.zero_one)):
        assert one is not None
        assert other is not None
        assert {n: p.estimate for n, p in one.items()} == pytest.approx({n: p.estimate for n, p in other.items()})


@pytest.mark.parametrize("enough", [False, True])
def test_ctrl_c_keeps_whole_resamples_or_is_ctrl_c(enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = repeated_training.train_jobs

    def cut(given: wp.Problem, jobs: list[Job], **settings: object) -> list[object]:
        outcomes: list[object] = list(real(given, jobs, **settings))  # type: ignore[arg-type]
        first = 4 if enough else 2
        for run in outcomes[first:]:
            assert isinstance(run, Run)
            run.stopped = "interrupted"
        return outcomes

    monkeypatch.setattr(repeated_training, "train_jobs", cut)
    recipe = wp.Recipe(epochs=1)
    if enough:
        found = wp.bias_variance(problem(), recipe, resamples=6, seeds=(0,))
        assert found.points[0].resamples == (0, 1, 2, 3)
        assert "2 resamples of a recipe were cut off" in str(found)
        assert np.isnan(found.points[0].whole)
    else:
        for ask in (
            lambda: wp.bias_variance(problem(), recipe, resamples=6, seeds=(0,)),
            lambda: wp.learning_curve(problem(), recipe),
        ):
            with pytest.raises(KeyboardInterrupt):
                ask()


def test_several_processes_give_the_same() -> None:
    recipe = wp.Recipe(epochs=2, accumulate=2, batch_size=8)  # which is trained alone
    here, there = (
        wp.bias_variance(problem(), recipe, resamples=3, seeds=(0,), engine=engine)
        for engine in ("inprocess", "processes")
    )
    assert there.points[0].parts["bias"].estimate == pytest.approx(here.points[0].parts["bias"].estimate, abs=1e-9)


def test_groups_are_said() -> None:
    data = wp.Data(train=(X, Y), valid=(XV, YV), groups=np.arange(60) // 2)
    found = wp.bias_variance(wp.Problem(Small, "cross_entropy", data), wp.Recipe(epochs=1), resamples=3, seeds=(0,))
    assert "come in groups" in str(found)


def test_what_diverges_or_comes_too_late_is_left_out() -> None:
    with pytest.raises(TrainingError, match="Only 0 of 3"):
        wp.bias_variance(problem(), wp.Recipe(epochs=3), resamples=3, seeds=(0,), deadline=0.0)


def test_input_that_cannot_be_used() -> None:
    recipe = wp.Recipe(epochs=1)
    for settings, words in (
        ({"resamples": 2}, "at least 3"), ({"seeds": ()}, "seeds="), ({"seeds": (1, 1)}, "seeds="),
        ({"strengths": (1, 2)}, "2 numbers"), ({"on": "test"}, "no 'test' rows"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            wp.bias_variance(problem(), recipe, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must not fall"):
        wp.bias_variance(problem(), [recipe, recipe], strengths=(1, 0))
    with pytest.raises(InputError, match="no recipe"):
        recipes_by_name([])
    with pytest.raises(InputError, match="same name"):
        recipes_by_name(["baseline", "baseline"])
    with pytest.raises(InputError, match="needs strengths"):
        wp.bias_variance_path(problem(), recipe, "terms.l2", [])
    with pytest.raises(InputError, match="nothing 'strength'"):
        with_amount(recipe, "strength", 1)


def test_a_recipe_is_varied() -> None:
    recipe = wp.Recipe(terms=[{"penalty": "l2", "strength": 1.0, "how": "loss"}])
    assert with_amount(recipe, "terms.l2", 0.5).terms[0].strength == 0.5
    assert with_amount(recipe, "terms.l2", 0.5).terms[0].how == "loss"
    assert [term.penalty for term in with_amount(recipe, "terms.l1", 0.5).terms] == ["l2", "l1"]
    assert with_amount(recipe, "noise.dropout", 0.5).noise.dropout == 0.5
    assert with_amount(recipe, "clip", 2.0).clip == 2.0
    assert format_interval(SimpleNamespace(estimate=0.51234, low=0.49, high=0.534)) == "0.512 [0.490, 0.534]"
    assert format_interval(SimpleNamespace(estimate=1234.5, low=1200, high=1300)) == "1234 [1200, 1300]"
