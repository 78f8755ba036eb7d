"""Noise, losses and metrics of somebody's own are treated as ours, everywhere."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError, ProblemError, RecipeError
from wellposed.decomposition.gap_split import gap_split
from wellposed.decomposition.rivals import Objective, without_regularization
from wellposed.diagnosis.advice import Room, recipe_difference
from wellposed.diagnosis.moves import with_less_regularization
from wellposed.losses.metrics import metric
from wellposed.losses.per_example import Loss
from wellposed.noise.noise import THEIRS, kinds
from wellposed.recipe.noise_section import NoiseSpec
from wellposed.search.ingredients import contents, ingredients
from wellposed.search.space import Space

ROOT = Path(__file__).parents[1]
X = torch.randn(160, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + 0.3 * X[:, 1] > 0).long()


@dataclass(frozen=True)
class Blank(wp.Noise):
    """Each input is 0 with probability ``rate``."""

    rate: float
    acts = "inputs"
    searched = wp.Searched(low=0.01, high=0.3, least=0.001, most=0.5, odds=0.2)

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return x * (torch.rand(x.shape, generator=source) >= size).to(x)


@dataclass(frozen=True)
class Relabel(wp.Noise):
    """A share of the labels is that of another row."""

    rate: float
    acts = "labels"

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        other = torch.rand(len(x), generator=source) < size
        return torch.where(other.view(-1, *[1] * (x.ndim - 1)), x[torch.randperm(len(x), generator=source)], x)


@dataclass(frozen=True)
class Shrunk(wp.Noise):
    """Gradients times a draw from [1 - std, 1]."""

    std: float
    acts = "gradients"
    size_field, share = "std", False

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return x * (1 - size * torch.rand((), generator=source))


@dataclass(frozen=True)
class Scaled(wp.Noise):
    """A weight times a draw around 1."""

    std: float
    acts = "weights"
    size_field, share = "std", False

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return x * (1 + size * torch.randn((), generator=source))


@dataclass(frozen=True)
class Averaged(wp.Noise):
    """Half of each example is another one's."""

    rate: float
    acts, mixes = "inputs", True

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
        permutation = torch.randperm(len(x), generator=source)
        return (1 - size) * x + size * x[permutation], permutation, 1 - size


@pytest.fixture
def blank() -> Iterator[type[wp.Noise]]:
    """A kind that is known only here."""
    yield wp.Noise.known_as("blank")(Blank)
    THEIRS.clear()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    THEIRS.clear()


class Net(nn.Sequential):
    def __init__(self, outputs: int = 2, width: int = 8) -> None:
        super().__init__(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, outputs))


def problem(loss: Any = "cross_entropy", **given: Any) -> wp.Problem:
    target = (
        Y
        if loss == "cross_entropy"
        else X[:, :1]
        if loss != "binary_cross_entropy"
        else torch.stack([Y, 1 - Y], 1).float()
    )
    outputs = 1 if loss not in ("cross_entropy", "binary_cross_entropy") else 2
    return wp.Problem(lambda: Net(outputs), loss, wp.Data(train=(X, target), valid=0.3), **given)


def recipe(**given: Any) -> wp.Recipe:
    return wp.Recipe(**{"epochs": 3, "batch_size": 32, **given})


def weights_of(run: wp.Run) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


# --- a kind of noise


def test_a_known_kind_is_a_key_of_recipes(blank: Any) -> None:
    made = wp.Recipe(noise={"blank": 0.1, "dropout": 0.3})
    assert made.noise.blank == 0.1
    assert wp.Recipe().noise.blank == 0.0
    assert "blank = 0.1" in made.to_toml()
    assert "blank 0.1" in made.describe()
    assert wp.Recipe.from_toml(made.to_toml()) == made == wp.Recipe(**made.to_dict()) == wp.Recipe(**made.model_dump())
    assert made.replace(noise={"blank": 0.2}).noise.own == (Blank(0.2),)
    assert made.replace(noise={"blank": 0}).noise == NoiseSpec(dropout=0.3)
    assert made.replace(epochs=7).noise == made.noise
    assert made.differences(wp.Recipe(noise={"dropout": 0.3})) == {"noise.blank": (0.1, None)}
    assert made == wp.Recipe(noise=[Blank(0.1), wp.Dropout(0.3)])
    both = wp.Recipe(noise=[Relabel(0.1), Blank(0.1)])
    assert both == wp.Recipe(noise=[Blank(0.1), Relabel(0.1)]) == wp.Recipe.from_toml(both.to_toml())
    with pytest.raises(RecipeError, match=r"Blank needs a rate in \[0, 1\)"):
        wp.Recipe(noise={"blank": 1.0})
    with pytest.raises(InputError, match="'blank' of a noise is taken by Blank"):
        wp.Noise.known_as("blank")(Relabel)
    for name in ("input", "mixup", "places", "dropout"):
        with pytest.raises(InputError, match=f"'{name}' of a noise is taken by"):
            wp.Noise.known_as(name)(Relabel)
    assert json.loads(json.dumps(made.to_dict()))["noise"] == {"dropout": 0.3, "blank": 0.1}


def test_a_kind_without_a_name_is_written_by_its_import_name() -> None:
    made = wp.Recipe(noise=[Blank(0.1), Scaled(0.2).on("0")])
    text = made.to_toml()
    assert f'kind = "{__name__}:Blank"' in text
    assert f'kind = "{__name__}:Scaled"' in text
    assert wp.Recipe.from_toml(text) == made
    THEIRS.clear()
    assert wp.Recipe.from_toml(text) == made
    for kind, match in (
        ("wave:open", "which has not been imported here"),
        (f"{__name__}:recipe", "a class of wp.Noise"),
    ):
        with pytest.raises(RecipeError, match=match):
            wp.Recipe(noise=[{"kind": kind}])
    for wrong, match in (
        ([Scaled(0.1)], "needs a place"),
        ([3], "is no noise"),
        ([Scaled(0.1).on(lambda name, p: True)], "cannot be written"),
        ([wp.Dropout(0.1).on("0", schedule=lambda step: 1.0)], "cannot be written"),
    ):
        with pytest.raises(RecipeError, match=match):
            wp.Recipe(noise=wrong)
    with pytest.raises(InputError, match="acts on inputs, not at a place"):
        Blank(0.1).on("0")


def test_the_loop_applies_it_from_its_stream_and_size_0_is_plain(blank: Any) -> None:
    for loss in ("cross_entropy", "squared_error", "binary_cross_entropy"):
        plain = wp.fit(problem(loss), recipe())
        for noise in (Blank(0.3), Relabel(0.3), Shrunk(0.5), Scaled(0.3).on("0"), Averaged(0.2)):
            run, again = (wp.fit(problem(loss), recipe(noise=noise)) for _ in range(2))
            assert torch.equal(weights_of(run), weights_of(again))
            assert not torch.equal(weights_of(run), weights_of(plain)), noise
        off = wp.fit(problem(loss), recipe(noise=[Blank(0.0), Relabel(0.0), Shrunk(0.0), Scaled(0.0).on("0")]))
        assert torch.equal(weights_of(off), weights_of(plain))
    assert wp.fit(problem(), recipe(noise=Blank(0.3))).history.facts["regularized"] == {"blank": 0.3}


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error", "binary_cross_entropy"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_population_is_equal_to_the_run_alone(loss: str, compiled: bool) -> None:
    from wellposed.parallel.jobs import Conditions, Job
    from wellposed.parallel.population.grouping import train_population

    noises: list[Any] = [
        [Blank(0.3)], [Relabel(0.3)], [Shrunk(0.5)], [Scaled(0.3).on("0")], [Averaged(0.2)],
        [Blank(0.2), Relabel(0.1), Averaged(0.1)],
    ]  # fmt: skip
    recipes = [recipe(noise=noise) for noise in noises] + [recipe(noise=noises[0], sharpness={"radius": 0.05})]
    given = problem(loss)
    jobs = [Job(one, seed) for seed, one in enumerate(recipes)]
    together = train_population(given, jobs, Conditions("cpu"), compiled=compiled)
    for job, run in zip(jobs, together, strict=True):
        assert isinstance(run, wp.Run), run
        alone = wp.fit(given, job.recipe, job.seed)
        torch.testing.assert_close(weights_of(run), weights_of(alone), rtol=1e-3, atol=1e-4)


def test_workers_know_it(blank: Any) -> None:
    recipes = [recipe(noise={"blank": 0.3}), recipe(noise=[Scaled(0.3).on("0")])]
    here = wp.fit_many(problem(), recipes, seeds=range(2))
    there = wp.fit_many(problem(), recipes, seeds=range(2), engine="processes")
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(weights_of(one), weights_of(other), rtol=1e-4, atol=1e-5)


def test_the_gap_has_its_share(blank: Any) -> None:
    run = wp.fit(problem(), recipe(epochs=8, noise=[Blank(0.4), Relabel(0.2)]))
    shares = {share.name: share.estimate for share in gap_split(run, draws=4).shares}
    assert shares["inputs"]
    assert shares["smoothing"]
    assert "inputs" not in {share.name for share in gap_split(wp.fit(problem(), recipe()), draws=2).shares}


def test_rivals_advice_and_search_treat_it(blank: Any) -> None:
    made = recipe(noise=[Blank(0.3), Shrunk(0.5), wp.Dropout(0.2)])
    objective = Objective.of(problem(), made)
    assert objective.noisy
    assert objective.regularized
    assert objective.recipe.noise.own == (Blank(0.3),), "noise on gradients only smooths the way"
    assert without_regularization(made).noise == NoiseSpec(dropout=0.0)
    assert Objective.of(problem(), recipe(noise=Shrunk(0.5))).noisy is False
    weaker = with_less_regularization(3)(made, Room())
    assert weaker.noise.own == (Blank(0.1), Shrunk(0.167))
    assert "blank 0.3 -> 0.1" in recipe_difference(
        recipe(noise=Blank(0.3)), with_less_regularization(3)(recipe(noise=Blank(0.3)), Room())
    )
    assert [one.name for one in contents(made, recipe())] == ["dropout", "blank"]
    (own,) = [one for one in ingredients() if one.name == "blank"]
    values: dict[str, Any] = {}
    own.put(values, 0.2)
    assert own.inside(wp.Recipe(**values))
    assert wp.Recipe(**values).noise.own == (Blank(0.2),)
    assert own.removed(made).noise.own == (Shrunk(0.5),)
    space = Space(problem(), recipe(), [])
    point = space.plain(1e-3) | {"blank": True, "blank.size": 0.05}
    assert space.recipe(point).noise.blank == 0.05
    before = [name for name in kinds() if name != "blank" and ":" not in name]
    THEIRS.clear()
    assert list(kinds()) == before
    assert "blank" not in [one.name for one in ingredients()]


def error_in_units(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - target).abs().max()


WORST = wp.Metric(error_in_units, higher_is_better=False, name="worst")


def test_improve_takes_and_resumes_noise_and_a_metric(blank: Any, tmp_path: Path) -> None:
    given = problem("squared_error", metric=WORST)
    own = recipe(epochs=2, noise=[Blank(0.3), Relabel(0.1)])
    study = wp.improve(given, "4 recipes", recipe=own, out=tmp_path / "s")
    assert any(trial.built.noise == own.noise for trial in study.trials)
    assert "blank" in (tmp_path / "s" / "state.json").read_text()
    assert study.record()["metric"] == {"name": "worst", "higher_is_better": False}
    assert "worst" in str(study)
    with pytest.raises(InputError, match="another metric"):
        wp.improve(problem("squared_error"), "5 recipes", recipe=own, out=tmp_path / "s", resume=True)
    more = wp.improve(given, "5 recipes", recipe=own, out=tmp_path / "s", resume=True)
    assert len(more.trials) > len(study.trials)
    wp.report(study, tmp_path / "report.html")
    assert "worst" in (tmp_path / "report.html").read_text()


# --- losses


def summed(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - target).square().sum()


class Focal(nn.Module):
    """A module whose reduction is by its own attribute, which it may not take as ``none``."""

    def __init__(self, reduction: str = "mean", refuses: bool = False) -> None:
        super().__init__()
        self.reduction, self.refuses = reduction, refuses

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        values = (outputs - target).square().sum(1)
        if self.reduction == "none":
            if self.refuses:
                raise ValueError(self.reduction)
            return values
        return values.mean() if self.reduction == "mean" else values.sum()


@pytest.mark.parametrize(
    "given",
    [
        summed,
        lambda f, y: (f - y).square().sum() / len(f),
        lambda f, y: (f - y).square().sum(1),
        Focal(), Focal("sum"), Focal("mean", refuses=True), Focal("sum", refuses=True),
    ],
    ids=["sum", "mean", "none", "module mean", "module sum", "module mean alone", "module sum alone"],
)  # fmt: skip
def test_the_reduction_is_found_by_calling(given: Any) -> None:
    outputs, target = torch.randn(7, 2, requires_grad=True), torch.randn(7, 2)
    loss, wanted = Loss(given), Loss("squared_error")
    torch.testing.assert_close(loss.mean(outputs, target), wanted.mean(outputs, target))
    torch.testing.assert_close(loss.per_example(outputs, target).total, wanted.per_example(outputs, target).total)
    (mine,) = torch.autograd.grad(loss.mean(outputs, target), outputs)
    (theirs,) = torch.autograd.grad(wanted.mean(outputs, target), outputs)
    torch.testing.assert_close(mine, theirs)


def test_a_loss_of_ones_own_trains_as_ours() -> None:
    ours = wp.fit(problem("squared_error"), recipe())
    for given in (summed, Focal("sum"), functools.partial(nn.functional.mse_loss, reduction="sum")):
        run = wp.fit(problem(given), recipe())
        torch.testing.assert_close(weights_of(run), weights_of(ours), rtol=1e-4, atol=1e-5)
        for one in wp.fit_many(problem(given), [recipe()] * 2, seeds=range(2)):
            assert one.stopped == "epochs"


# --- metrics


def test_a_callable_is_scored_as_scikit_learn_scores_it() -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    outputs = torch.randn(150, 3, generator=torch.Generator().manual_seed(1))
    target = torch.randint(3, (150,), generator=torch.Generator().manual_seed(2))
    loss, labels, chances = Loss("cross_entropy"), outputs.argmax(1).numpy(), outputs.double().softmax(1).numpy()
    macro = functools.partial(theirs.f1_score, average="macro")
    for given, wanted, better in (
        (macro, theirs.f1_score(target, labels, average="macro"), True),
        (theirs.log_loss, theirs.log_loss(target, chances), False),
        (theirs.zero_one_loss, theirs.zero_one_loss(target, labels), False),
        (theirs.get_scorer("f1_macro"), theirs.f1_score(target, labels, average="macro"), True),
        (theirs.get_scorer("neg_log_loss"), -theirs.log_loss(target, chances), True),
        (theirs.get_scorer("roc_auc_ovr"), theirs.roc_auc_score(target, chances, multi_class="ovr"), True),
        (theirs.matthews_corrcoef, theirs.matthews_corrcoef(target, labels), None),
    ):
        if better is None:
            with pytest.raises(InputError, match="higher 'matthews_corrcoef' is better"):
                metric(given)
            given, better = wp.Metric(given, higher_is_better=True), True
        found = metric(given, loss)
        assert found.score(outputs, target) == pytest.approx(wanted, abs=1e-12)
        assert found.higher_is_better is better
    weight = torch.rand(150, dtype=torch.float64)
    found = metric(macro, loss)
    assert found.name == "f1_score"
    assert found.score(outputs, target, weight) == pytest.approx(metric("f1_macro").score(outputs, target, weight))
    two = outputs[:, :2], (target > 0).long()
    assert metric(theirs.roc_auc_score, loss).score(*two) == pytest.approx(metric("auc").score(*two))
    assert metric(theirs.roc_auc_score, loss).score(two[0][:, 0], two[1]) == pytest.approx(
        metric("auc").score(two[0][:, 0], two[1])
    )
    numbers = metric(theirs.mean_absolute_error, Loss("squared_error"))
    assert numbers.score(outputs[:, :1], outputs[:, 1]) == pytest.approx(
        float((outputs[:, 0] - outputs[:, 1]).abs().mean())
    )
    assert not numbers.higher_is_better


class Counted:
    """As torchmetrics' objects are."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.count = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        assert ((preds >= 0) & (preds <= 1)).all(), "probabilities"
        self.right += int((preds.argmax(1) == target).sum())
        self.count += len(target)

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.count)

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        self.update(preds, target)
        return self.compute()


def test_an_object_with_a_state_is_used_afresh() -> None:
    given = Counted()
    found = metric(given, Loss("cross_entropy"))
    outputs, target = torch.randn(60, 3), torch.randint(3, (60,))
    for _ in range(2):
        assert found.score(outputs, target) == pytest.approx(metric("accuracy").score(outputs, target))
    assert given.count == 0
    assert found.name == "Counted"


def test_torchmetrics_are_taken() -> None:
    theirs = pytest.importorskip("torchmetrics.classification")
    outputs, target = torch.randn(90, 3), torch.randint(3, (90,))
    loss = Loss("cross_entropy")
    found = metric(theirs.MulticlassF1Score(3), loss)
    assert found.higher_is_better
    assert found.score(outputs, target) == pytest.approx(metric("f1_macro").score(outputs, target), abs=1e-6)
    two, label = outputs[:, :2] / 9, (target > 0).long()
    for one in (two, two[:, 1] - two[:, 0]):
        assert metric(theirs.BinaryF1Score(), loss).score(one, label) == pytest.approx(
            metric("f1").score(two, label), abs=1e-6
        )
        assert metric(theirs.BinaryAUROC(), loss).score(one, label) == pytest.approx(
            metric("auc").score(two, label), abs=1e-6
        )
    run = wp.fit(problem(metric=theirs.MulticlassAccuracy(2, average="micro")), recipe())
    assert run.evaluate().metric == pytest.approx(wp.fit(problem(), recipe()).evaluate().metric, abs=1e-6)


def test_rows_are_the_jackknife_and_intervals_are_as_wide_as_ours() -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(3)
    few = torch.randn(60, 2, generator=draw), torch.randint(2, (60,), generator=draw)
    loss = Loss("cross_entropy")
    torch.testing.assert_close(metric(theirs.accuracy_score, loss).rows(*few), metric("accuracy").rows(*few))
    many = torch.randn(3000, 2, generator=draw), torch.randint(2, (3000,), generator=draw)
    mine, ours = metric(theirs.f1_score, loss).rows(*many), metric("f1").rows(*many)
    assert float(mine.mean()) == pytest.approx(float(ours.mean()), abs=1e-12)
    assert float(mine.std()) == pytest.approx(float(ours.std()), rel=0.25)


def test_what_is_no_metric_is_refused() -> None:
    def odd(outputs: Tensor, target: Tensor) -> Any:
        return {"a": 1}

    for wrong, match in (
        (3, "is a name or a callable"),
        (Counted, r"Write Counted\(\)"),
        (odd, "higher_is_better=True"),
        ("f2", "no metric"),
    ):
        with pytest.raises(InputError, match=match):
            problem(metric=wrong)
        with pytest.raises(InputError, match=match):
            wp.watch(Net(), "cross_entropy", train=(X, Y), valid=(X, Y), metric=wrong)
    with pytest.raises(InputError, match="must return one number"):
        wp.fit(problem(metric=wp.Metric(odd, higher_is_better=True)), recipe())
    with pytest.raises(InputError, match="cannot be computed: ZeroDivisionError"):
        wp.fit(problem(metric=wp.Metric(lambda f, y: 1 / 0, higher_is_better=True)), recipe())
    weighted = wp.Data(train=(X, Y), valid=0.3, weight=np.ones(len(X)))
    with pytest.raises(ProblemError, match="takes no sample_weight"):
        wp.fit(wp.Problem(Net, "cross_entropy", weighted, metric=Counted()), recipe())


def test_a_metric_of_ones_own_serves_everywhere() -> None:
    """In a search too: see ``test_improve_takes_and_resumes_noise_and_a_metric``."""
    seen = wp.watch(Net(1), "squared_error", train=(X, X[:, :1]), valid=(X, X[:, :1]), metric=WORST)
    assert seen.epoch()["valid_metric"] > 0
    assert seen.history.facts["metric"] == "worst"
    mine = problem("squared_error", metric=WORST)
    runs = wp.fit_many(mine, [recipe(), recipe(epochs=2)])
    assert runs[0].history.rows[-1]["valid_metric"] == pytest.approx(runs[0].evaluate().metric, rel=1e-5)


def test_the_pages_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    sections = re.findall(
        r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL | re.MULTILINE
    )
    mine = {title: text for title, text in sections if title in ("A kind of noise", "A loss", "A metric")}
    assert len(mine) == 3
    for title, text in mine.items():
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert code.count("\n") < 30, title
        exec(compile(code, title, "exec", dont_inherit=True), names)
    assert "valid_loss" in capsys.readouterr().out
