"""Losses are asked example by example and agree with torch; metrics agree with scikit-learn, and with their jackknife."""

from __future__ import annotations

import functools
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.core.errors import InputError, ProblemError, TargetError
from wellposed.losses.metrics import in_target_units, metric, metrics
from wellposed.losses.per_example import TORCH, Loss, PerExample, losses_by_name, mean_loss
from wellposed.losses.proper_scores import OfDistribution
from wellposed.losses.score import Score
from wellposed.training.checkpoint import load, save_run
from wellposed.training.ready_problems import TableMLP

N, CLASSES, TIME = 7, 4, 5


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def scores(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def labels(draw: torch.Generator, *shape: int, classes: int = CLASSES) -> Tensor:
    return torch.randint(classes, shape, generator=draw)


def masked(target: Tensor, value: int = -100) -> Tensor:
    """Another number of masked tokens in each example, and one example with a single token left."""
    target = target.clone()
    for i in range(len(target)):
        target[i, : i % TIME] = value
    return target


# Named losses


def test_cross_entropy_of_one_row_by_hand() -> None:
    part = Loss("cross_entropy").per_example(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([0]))
    assert part.total.item() == pytest.approx(math.log(4.0))
    assert part.count.item() == 1


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("cross_entropy", nn.CrossEntropyLoss()),
        ("squared_error", nn.MSELoss()),
        ("absolute_error", nn.L1Loss()),
        ("mse", nn.MSELoss()),
        ("mae", nn.L1Loss()),
        ("huber", nn.HuberLoss()),
        ("huber:0.25", nn.HuberLoss(delta=0.25)),
        ("poisson", nn.PoissonNLLLoss()),
        ("binary_cross_entropy", nn.BCEWithLogitsLoss()),
    ],
)
def test_named_losses_are_torchs_means(name: str, module: nn.Module, draw: torch.Generator) -> None:
    classes = name == "cross_entropy"
    outputs = scores(draw, N, CLASSES) if classes else scores(draw, N)
    target = labels(draw, N) if classes else labels(draw, N, classes=2).double()
    wanted = module(outputs, target)
    assert Loss(name).mean(outputs, target).item() == pytest.approx(wanted.item())
    assert Loss(module).mean(outputs, target).item() == pytest.approx(wanted.item())
    one_by_one = torch.stack([module(outputs[i : i + 1], target[i : i + 1]) for i in range(N)])
    for loss in (Loss(name), Loss(module)):
        part = loss.per_example(outputs, target)
        torch.testing.assert_close(part.total / part.count, one_by_one)


def test_every_named_loss_is_tried_above() -> None:
    tried = {name.partition(":")[0] for name, _ in test_named_losses_are_torchs_means.pytestmark[0].args[1]}
    heads = {"gaussian", "student_t", "gaussian_mixture", "quantiles", "ordinal"}  # see test_heads
    assert {cls.name for cls in losses_by_name().values()} == tried | heads | {
        "quantile"
    }  # which is scikit-learn's, below


AVERAGES = {"mse": ("squared_error", nn.MSELoss()), "mae": ("absolute_error", nn.L1Loss())}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3), (N, 3, 2)])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_mean_error_is_torchs_over_outputs_too_and_its_sum_has_another_name(
    name: str, shape: tuple[int, ...], weighted: bool, draw: torch.Generator
) -> None:
    total, module = AVERAGES[name]
    outputs, target = scores(draw, *shape).requires_grad_(), scores(draw, *shape)
    weight = torch.rand(N, generator=draw, dtype=torch.float64) if weighted else None
    mine = Loss(name).mean(outputs, target, weight)
    each = type(module)(reduction="none")(outputs, target).reshape(N, -1)
    theirs = module(outputs, target) if weight is None else (each.mean(1) * weight).sum() / weight.sum()
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(torch.autograd.grad(mine, outputs), torch.autograd.grad(theirs, outputs))
    summed = Loss(total).mean(outputs, target, weight)
    torch.testing.assert_close(summed, mine * each.shape[1])
    found, sums = (mean_loss([Loss(one).per_example(outputs, target)]) for one in (name, total))
    torch.testing.assert_close(found.rows * each.shape[1], sums.rows)
    assert found.se * each.shape[1] == pytest.approx(sums.se)


@pytest.mark.parametrize("name", ["huber", "quantile:0.8", "poisson", "binary_cross_entropy"])
def test_other_losses_add_up_over_outputs(name: str, draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, 3), torch.randint(0, 2, (N, 3), generator=draw).double()
    alone = sum(Loss(name).mean(outputs[:, q], target[:, q]) for q in range(3))
    torch.testing.assert_close(Loss(name).mean(outputs, target), alone)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_mean_error_trains_as_torchs_does(name: str, outputs: int, draw: torch.Generator) -> None:
    x, y = torch.randn(24, 2, generator=draw), torch.randn(24, outputs, generator=draw)
    data = wp.Data(train=(x, y), valid=(x, y))
    recipe = wp.Recipe(epochs=2, batch_size=8)
    mine, theirs = (
        wp.fit(wp.Problem(lambda: nn.Linear(2, outputs), loss, data, metric="r2"), recipe, seed=0)
        for loss in (name, AVERAGES[name][1])
    )
    for key in ("train_loss", "valid_loss", "valid_loss_se", "cost"):
        assert [row[key] for row in mine.history.rows] == pytest.approx([row[key] for row in theirs.history.rows])


def test_short_names_and_unknown_ones() -> None:
    assert Loss("mse").summed == Loss("squared_error").summed == Loss(nn.MSELoss()).summed == "squared_error"
    assert Loss("ce").classifies
    with pytest.raises(InputError, match="Did you mean 'cross_entropy'"):
        Loss("cross_entrpy")
    with pytest.raises(InputError, match="neither"):
        Loss(3)


def test_probabilities_as_targets(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, CLASSES), scores(draw, N, CLASSES).softmax(1)
    wanted = F.cross_entropy(outputs, target)
    for loss in (Loss("cross_entropy"), Loss(nn.CrossEntropyLoss())):
        assert loss.mean(outputs, target).item() == pytest.approx(wanted.item())


# Shapes


@pytest.mark.parametrize("given", ["squared_error", nn.MSELoss(), F.mse_loss, nn.L1Loss(), "binary_cross_entropy"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_column_against_a_row_is_never_broadcast(given: object, swap: bool, draw: torch.Generator) -> None:
    outputs, target = scores(draw, N), labels(draw, N, classes=2).double()
    wanted = Loss(given).mean(outputs, target)
    pair = (outputs, target[:, None]) if swap else (outputs[:, None], target)
    assert Loss(given).mean(*pair).item() == pytest.approx(wanted.item())
    assert Loss(given).per_example(*pair).total.shape == (N,)


@pytest.mark.parametrize("given", ["squared_error", "huber", nn.MSELoss(), F.l1_loss])
def test_other_shapes_are_refused(given: object, draw: torch.Generator) -> None:
    with pytest.raises(ProblemError, match=r"\(7, 2\).*\(7,\)"):
        Loss(given).mean(scores(draw, N, 2), scores(draw, N))


def test_a_callable_that_broadcasts_is_found_out(draw: torch.Generator) -> None:
    loss = Loss(lambda f, y: ((f - y) ** 2).mean())
    with pytest.raises(ProblemError, match="all rows with all"):
        loss.per_example(scores(draw, N, 1), scores(draw, N))
    # One that takes care of the shapes itself is left alone.
    careful = Loss(lambda f, y: ((f.reshape(-1) - y) ** 2).mean())
    assert careful.per_example(scores(draw, N, 1), scores(draw, N)).total.shape == (N,)


def test_labels_that_the_outputs_cannot_express(draw: torch.Generator) -> None:
    with pytest.raises(ProblemError, match="label 4 needs 5 outputs, there are 4"):
        Loss("cross_entropy").mean(scores(draw, N, CLASSES), torch.full((N,), 4))


def test_a_label_far_beyond_the_others_may_mark_no_class(draw: torch.Generator) -> None:
    """255 is what segmentation masks say of a border."""
    outputs, target = torch.randn(2, 5, 4, 4, generator=draw), torch.randint(0, 5, (2, 4, 4), generator=draw)
    target[:, 0] = 255
    with pytest.raises(TargetError, match=r"label 255 needs 256 outputs.*leave it out.*ignore_index=255"):
        Loss("cross_entropy").mean(outputs, target)
    assert bool(Loss(torch.nn.CrossEntropyLoss(ignore_index=255)).mean(outputs, target).isfinite())


def test_labels_in_a_column(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, CLASSES), labels(draw, N)
    wanted = F.cross_entropy(outputs, target).item()
    assert Loss("cross_entropy").mean(outputs, target[:, None]).item() == pytest.approx(wanted)
    assert metric("accuracy").score(outputs, target[:, None]) == metric("accuracy").score(outputs, target)
    assert metric("accuracy").rows(outputs, target[:, None]).shape == (N,)


@pytest.mark.parametrize("outputs", [(torch.zeros(3, 2),), {"scores": torch.zeros(3, 2)}, None])
def test_outputs_that_are_no_tensor(outputs: object) -> None:
    with pytest.raises(ProblemError, match="does not fit the model: outputs are"):
        Loss("cross_entropy").mean(outputs, torch.zeros(3, dtype=torch.long))


def test_a_loss_that_returns_no_tensor(draw: torch.Generator) -> None:
    with pytest.raises(ProblemError, match="must return a tensor"):
        Loss(lambda f, y: 0.5).mean(scores(draw, N), scores(draw, N))


# Masks


@pytest.mark.parametrize("classes_last", [False, True])
@pytest.mark.parametrize("ignored", [-100, 0])
def test_masked_tokens_in_both_layouts(classes_last: bool, ignored: int, draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, CLASSES, TIME), masked(labels(draw, N, TIME), ignored)
    module = nn.CrossEntropyLoss(ignore_index=ignored)
    wanted = module(outputs, target).item()
    given = outputs.movedim(1, -1) if classes_last else outputs
    losses = [Loss(module), Loss(functools.partial(F.cross_entropy, ignore_index=ignored))]
    losses += [Loss("cross_entropy"), Loss(F.cross_entropy)] if ignored == -100 else []
    for loss in losses:
        assert loss.mean(given, target).item() == pytest.approx(wanted), loss.name
        part = loss.per_example(given, target)
        torch.testing.assert_close(part.count, (target != ignored).double().sum(1))
        measured = mean_loss([part])
        assert measured.mean == pytest.approx(wanted)
        assert measured.rows.mean().item() == pytest.approx(wanted)


def test_a_callable_with_a_mask_of_its_own(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, TIME), scores(draw, N, TIME)
    mask = torch.rand(N, TIME, generator=draw) < 0.6
    squares = (outputs - target).square()
    broken = squares.masked_fill(~mask, math.nan)  # what is masked may be anything
    loss = Loss(lambda f, y: (broken, mask))
    assert loss.mean(outputs, target).item() == pytest.approx(squares[mask].mean().item())


def test_an_example_without_a_unit_counts_nothing() -> None:
    outputs, target = torch.randn(3, 2, 4), torch.tensor([[-100] * 4, [1, 0, -100, 1], [0, 0, 0, 0]])
    part = Loss("cross_entropy").per_example(outputs, target)
    assert part.total[0] == 0
    assert mean_loss([part]).mean == pytest.approx(F.cross_entropy(outputs, target).item())
    nothing = Loss("cross_entropy").mean(outputs[:1].requires_grad_(), target[:1])
    assert nothing.item() == 0.0
    nothing.backward()
    assert math.isnan(mean_loss([Loss("cross_entropy").per_example(outputs[:1], target[:1])]).mean)


def test_the_standard_error_of_masked_tokens_is_that_of_a_ratio(draw: torch.Generator) -> None:
    """Examples are the draws, not tokens: compared with the spread over many redrawn data sets."""
    count = torch.randint(1, 9, (4000, 50), generator=draw).double()
    level = torch.randn(4000, 50, generator=draw).double()
    found = [mean_loss([PerExample(t, c)]) for t, c in zip(count * level, count, strict=True)]
    spread = np.std([a.mean for a in found])
    assert np.mean([a.se for a in found]) == pytest.approx(spread, rel=0.05)


# Weights


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_are_torchs(tokens: bool, smoothing: float, draw: torch.Generator) -> None:
    outputs = scores(draw, N, CLASSES, TIME) if tokens else scores(draw, N, CLASSES)
    target = masked(labels(draw, N, TIME)) if tokens else labels(draw, N)
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64)
    module = nn.CrossEntropyLoss(weight, label_smoothing=smoothing)
    same = functools.partial(F.cross_entropy, weight=weight, label_smoothing=smoothing)
    plain = nn.CrossEntropyLoss(weight)(outputs, target).item()
    for loss in (Loss(module), Loss(same)):
        assert loss.mean(outputs, target).item() == pytest.approx(module(outputs, target).item())
        assert mean_loss([loss.per_example(outputs, target)]).mean == pytest.approx(plain)
    nll = nn.NLLLoss(weight)
    assert Loss(nll).mean(outputs.log_softmax(1), target).item() == pytest.approx(plain)


def test_example_weights(draw: torch.Generator) -> None:
    outputs, target, weight = scores(draw, N), scores(draw, N), torch.rand(N, generator=draw).double()
    squares = (outputs - target).square()
    wanted = (weight * squares).sum() / weight.sum()
    loss = Loss("squared_error")
    assert loss.mean(outputs, target, weight).item() == pytest.approx(wanted.item())
    measured = mean_loss([loss.per_example(outputs, target)], [weight])
    assert measured.mean == pytest.approx(wanted.item())
    residual = weight * (squares - wanted)
    assert measured.se == pytest.approx(math.sqrt(N / (N - 1) * residual.square().sum().item()) / weight.sum().item())
    # A weight of two is the row twice.
    twice = torch.tensor([2.0] + [1.0] * (N - 1))
    repeated = loss.mean(torch.cat([outputs, outputs[:1]]), torch.cat([target, target[:1]]))
    assert loss.mean(outputs, target, twice).item() == pytest.approx(repeated.item())


def test_weights_cannot_go_with_a_mean(draw: torch.Generator) -> None:
    with pytest.raises(ProblemError, match="reduction='none'"):
        Loss(lambda f, y: (f - y).square().mean()).mean(scores(draw, N), scores(draw, N), torch.ones(N))


# Callables


def test_a_mean_is_asked_example_by_example(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N), scores(draw, N)
    part = Loss(lambda f, y: (f - y).abs().mean()).per_example(outputs, target)
    torch.testing.assert_close(part.total, (outputs - target).abs().float())
    assert mean_loss([part]).se == pytest.approx((outputs - target).abs().std().item() / math.sqrt(N), rel=1e-5)


def test_a_loss_that_couples_examples_counts_batches(draw: torch.Generator) -> None:
    def coupled(f: Tensor, y: Tensor) -> Tensor:
        return (f - y).mean().square()

    outputs, target = scores(draw, 3 * N), scores(draw, 3 * N)
    batches = [(outputs[: 2 * N], target[: 2 * N]), (outputs[2 * N :], target[2 * N :])]
    parts = [Loss(coupled).per_example(f, y) for f, y in batches]
    assert [part.total.shape for part in parts] == [(1,), (1,)]
    values = [coupled(f, y).item() for f, y in batches]
    # A batch of twice as many rows counts twice.
    assert mean_loss(parts).mean == pytest.approx((2 * values[0] + values[1]) / 3, rel=1e-5)
    assert math.isnan(mean_loss(parts[:1]).se)


def test_a_mean_over_tokens_is_no_mean_over_examples(draw: torch.Generator) -> None:
    def token_mean(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f.flatten(0, 1), y.flatten())

    outputs, target = scores(draw, N, TIME, CLASSES), masked(labels(draw, N, TIME))
    part = Loss(token_mean).per_example(outputs, target)
    assert mean_loss([part]).mean == pytest.approx(token_mean(outputs, target).item(), rel=1e-5)
    assert part.total.shape == (1,)


def test_values_of_a_callable_with_reduction(draw: torch.Generator) -> None:
    def own(f: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        values = (f - y).abs() ** 3
        return values if reduction == "none" else values.mean()

    outputs, target = scores(draw, N), scores(draw, N)
    loss = Loss(own)
    assert loss.name == "own"
    torch.testing.assert_close(loss.per_example(outputs, target).total, (outputs - target).abs() ** 3)


def test_kullback_leibler_by_batchmean(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, CLASSES).log_softmax(1), scores(draw, N, CLASSES).softmax(1)
    module = nn.KLDivLoss(reduction="batchmean")
    assert Loss(module).mean(outputs, target).item() == pytest.approx(module(outputs, target).item())


@pytest.mark.parametrize(
    "smoothing", [nn.CrossEntropyLoss(label_smoothing=0.3), functools.partial(F.cross_entropy, label_smoothing=0.3)]
)
def test_label_smoothing_trains_but_is_not_measured(smoothing: object, draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, CLASSES), labels(draw, N)
    loss = Loss(smoothing)
    assert loss.classifies
    assert loss.mean(outputs, target).item() == pytest.approx(
        F.cross_entropy(outputs, target, label_smoothing=0.3).item()
    )
    measured = mean_loss([loss.per_example(outputs, target)])
    assert measured.mean == pytest.approx(F.cross_entropy(outputs, target).item())


def test_means_carry_gradients_and_measurements_do_not(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, CLASSES).requires_grad_(), labels(draw, N)
    Loss("cross_entropy").mean(outputs, target).backward()
    wanted = (outputs.softmax(1) - F.one_hot(target, CLASSES)) / N
    torch.testing.assert_close(outputs.grad, wanted.detach())
    assert not Loss("cross_entropy").per_example(outputs, target).total.requires_grad


@pytest.mark.parametrize("name", ["squared_error", "absolute_error", "binary_cross_entropy"])
def test_half_precision_outputs_are_compared_in_single(name: str) -> None:
    target = torch.tensor([1.001])  # not a bfloat16 number
    wanted = Loss(name).mean(torch.tensor([1.0]), target)
    torch.testing.assert_close(Loss(name).mean(torch.tensor([1.0], dtype=torch.bfloat16), target), wanted)


# Averages


def test_mean_and_standard_error_are_the_textbooks(draw: torch.Generator) -> None:
    values = scores(draw, 31)
    measured = mean_loss([PerExample(values[:20], torch.ones(20)), PerExample(values[20:], torch.ones(11))])
    assert measured.mean == pytest.approx(values.mean().item())
    assert measured.se == pytest.approx(values.std().item() / math.sqrt(31))
    torch.testing.assert_close(measured.rows, values)


def test_one_example_has_no_standard_error() -> None:
    measured = mean_loss([PerExample(torch.ones(1), torch.ones(1))])
    assert (measured.mean, math.isnan(measured.se)) == (1.0, True)


# Metrics against scikit-learn


def binary(draw: torch.Generator, n: int = 60) -> tuple[Tensor, Tensor]:
    """Scores with many ties."""
    target = labels(draw, n, classes=2)
    return ((scores(draw, n) + target) * 3).round() / 3, target


@pytest.mark.parametrize("form", ["(n,)", "(n, 1)", "(n, 2)"])
def test_two_classes_in_each_form(form: str, draw: torch.Generator) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    score, target = binary(draw)
    forms = {"(n,)": score, "(n, 1)": score[:, None], "(n, 2)": torch.stack([-score / 2, score / 2], 1)}
    outputs, chance = forms[form], score.sigmoid()
    assert metric("auc").score(outputs, target) == pytest.approx(theirs.roc_auc_score(target, score))
    assert metric("log_loss").score(outputs, target) == pytest.approx(theirs.log_loss(target, chance))
    predicted = (score > 0).long()
    assert metric("accuracy").score(outputs, target) == pytest.approx(theirs.accuracy_score(target, predicted))
    balanced = theirs.balanced_accuracy_score(target, predicted)
    assert metric("balanced_accuracy").score(outputs, target) == pytest.approx(balanced)


def test_auc_by_hand_and_its_limits() -> None:
    auc = metric("auc")
    assert auc.score(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])) == 0.75
    assert auc.score(torch.tensor([2.0, 2.0]), torch.tensor([0, 1])) == 0.5
    with pytest.raises(InputError, match="both classes, and all 2 that count are of class 1"):
        auc.score(torch.tensor([1.0, 2.0]), torch.tensor([1, 1]))
    with pytest.raises(InputError, match="two classes"):
        auc.rows(torch.zeros(3, 3), torch.tensor([0, 1, 2]))


def test_metrics_of_several_outputs_are_scikit_learns(draw: torch.Generator) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    target = scores(draw, 40, 3) * torch.arange(1, 4)
    predicted = target + scores(draw, 40, 3)
    wanted = theirs.r2_score(target, predicted, multioutput="variance_weighted")
    assert metric("r2").score(predicted, target) == pytest.approx(wanted)
    assert metric("mae").score(predicted, target) == pytest.approx(theirs.mean_absolute_error(target, predicted))
    assert metric("rmse").score(predicted, target) ** 2 == pytest.approx(theirs.mean_squared_error(target, predicted))


def test_masked_tokens_and_probabilities_in_metrics(draw: torch.Generator) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    outputs, target = scores(draw, N, CLASSES, TIME), masked(labels(draw, N, TIME))
    keep = target != -100
    flat, label = outputs.movedim(1, -1)[keep], target[keep]
    wanted = {
        "accuracy": theirs.accuracy_score(label, flat.argmax(1)),
        "balanced_accuracy": theirs.balanced_accuracy_score(label, flat.argmax(1)),
        "log_loss": F.cross_entropy(flat, label).item(),
    }
    for name, value in wanted.items():
        for layout in (outputs, outputs.movedim(1, -1)):
            rows = metric(name).rows(layout, target)
            assert rows.shape == (N,), name
            assert rows.mean().item() == pytest.approx(value), name
    soft = scores(draw, N, CLASSES).softmax(1)
    agree = (outputs[..., 0].argmax(1) == soft.argmax(1)).double().mean().item()
    assert metric("accuracy").score(outputs[..., 0], soft) == agree


def test_labels_of_their_own_for_each_output() -> None:
    outputs, target = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -2.0, 3.0]]), torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    assert metric("accuracy").score(outputs, target) == pytest.approx(4 / 6)
    assert metric("log_loss").rows(outputs, target).shape == (2,)


# Rows are the linearization of the score


def measured_by(name: str) -> Score:
    """The metric; of a distribution that of a Gaussian's mean and logarithm of the variance."""
    of = issubclass(metrics()[name.partition(":")[0]], OfDistribution)
    return metric(name, Loss("gaussian")) if of else metric(name)


def predicted(name: str, mean: Tensor) -> Tensor:
    """What the metric compares with targets, where the prediction is this; a spread is 1."""
    of = issubclass(metrics()[name.partition(":")[0]], OfDistribution)
    outputs = torch.stack([mean, torch.zeros_like(mean)], 1)
    return measured_by(name).read(Loss("gaussian"), outputs) if of else mean


def example(name: str, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    kind = metrics()[name]
    if not kind.classifies:
        target = scores(draw, 200)
        return predicted(name, target + 0.5 * scores(draw, 200)), target
    if name == "auc" or getattr(kind, "average", "") == "binary":
        return binary(draw, 200)
    if name == "ece":  # surer than it may be in every bin: where gaps are near 0 their signs are noise
        outputs = 4 * scores(draw, 200, CLASSES)
        sure, guess = outputs.softmax(1).max(1)
        right = (sure > 0.95) & (torch.arange(200) % 4 == 0)
        return outputs, torch.where(right, guess, (guess + 1) % CLASSES)
    return scores(draw, 200, CLASSES), labels(draw, 200)


@pytest.mark.parametrize("name", metrics())
def test_the_mean_of_rows_is_the_score_and_rows_are_the_jackknife(name: str, draw: torch.Generator) -> None:
    outputs, target = example(name, draw)
    measured = measured_by(name)
    rows, score = measured.rows(outputs, target), measured.score(outputs, target)
    assert rows.dtype == torch.float64
    assert rows.mean().item() == pytest.approx(score)
    keep = torch.ones(200, dtype=torch.bool)
    pseudo = []
    for i in range(200):
        keep[i] = False
        pseudo.append(200 * score - 199 * measured.score(outputs[keep], target[keep]))
        keep[i] = True
    difference = torch.tensor(pseudo, dtype=torch.float64) - rows
    assert difference.abs().max() < 0.1 * max(1.0, (rows - score).abs().max().item())
    assert float(rows.std()) == pytest.approx(float(np.std(pseudo, ddof=1)), rel=0.04)


def test_right_or_wrong_is_exactly_one_or_zero(draw: torch.Generator) -> None:
    outputs, target = scores(draw, 30, CLASSES), labels(draw, 30)
    assert set(metric("accuracy").rows(outputs, target).tolist()) == {0.0, 1.0}


def test_metrics_in_the_units_of_the_target(draw: torch.Generator) -> None:
    outputs, target = scores(draw, 30), scores(draw, 30)
    for name in ("rmse", "mae"):
        wide = in_target_units(metric(name), 10.0)
        assert wide.score(outputs, target) == pytest.approx(metric(name).score(outputs * 10, target * 10))
        assert (wide.name, wide.higher_is_better) == (name, False)
    assert in_target_units(metric("r2"), 10.0).name == "r2"


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        metric("acuracy")


# What targets a loss takes


BAD = {
    "NaN": torch.tensor([math.nan, 1.0, 0.0, 1.0]),
    "infinite": torch.tensor([0.0, math.inf, 1.0, 0.0]),
}
SIGNS, FROM_ONE = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 2.0, 2.0, 1.0])
DOMAINS: dict[str, list[tuple[Tensor, str]]] = {
    "binary_cross_entropy": [(SIGNS, r"from -1 to 1.*\(y \+ 1\) / 2"), (FROM_ONE, r"from 1 to 2.*y - 1")],
    "cross_entropy": [
        (SIGNS.long(), r"\(y \+ 1\) / 2"),
        (torch.tensor([1, 2, 3, 1]), "label 3 needs 4 outputs, there are 3.*subtract 1"),
        (torch.tensor([0, -1, 2, 1]), "label -1.*-100"),
        (torch.tensor([0, 10**9, 2, 1]), "label( is)? 1000000000"),
        (torch.tensor([0.5, 1.0, 0.0, 1.0]), "squared_error for amounts"),
        (torch.full((4, 3), 0.5), "sums to 1.5"),
        (torch.tensor([[2.0, -1.0, 0.0]] * 4), "from -1 to 2"),
    ],
    "poisson": [(SIGNS, "at least 0; the smallest is -1")],
    "squared_error": [],
    "absolute_error": [],
    "mse": [],
    "mae": [],
    "huber": [],
    "quantile": [],
    **{name: [] for name in ("gaussian", "student_t", "gaussian_mixture", "quantiles")},
    "ordinal": [
        (SIGNS.long(), r"\(y \+ 1\) / 2"),
        (torch.tensor([1, 2, 3, 1]), "4 classes.*labelled 3, need 3 outputs, one less; there are 2"),
        (torch.tensor([0, -1, 2, 1]), "label -1.*-100"),
        (torch.tensor([0.5, 1.0, 0.0, 1.0]), "squared_error for amounts"),
    ],
}
MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "cross_entropy",
    nn.MultiMarginLoss: "cross_entropy",
    nn.BCEWithLogitsLoss: "binary_cross_entropy",
    nn.BCELoss: "binary_cross_entropy",
    nn.MultiLabelSoftMarginLoss: "binary_cross_entropy",
    nn.PoissonNLLLoss: "poisson",
    nn.MSELoss: "squared_error",
    nn.L1Loss: "absolute_error",
    nn.SmoothL1Loss: "huber",
    nn.HuberLoss: "huber",
}
SIGNED = {nn.SoftMarginLoss, nn.HingeEmbeddingLoss}


def doors(loss: object, x: Tensor, y: Tensor, outputs: int) -> dict[str, Callable[[], object]]:
    """Every way in that takes a loss and targets."""

    def net() -> nn.Module:
        return nn.Linear(2, outputs)

    def problem() -> wp.Problem:
        return wp.Problem(net, loss, wp.Data(train=(x, y), valid=(x, y)))

    def loop() -> wp.Watch:
        model = net()
        return wp.watch(model, loss, train=(x, y), valid=(x, y))

    one = wp.Recipe(epochs=1)
    return {
        "mean": lambda: Loss(loss).mean(net()(x), y),
        "per_example": lambda: Loss(loss).per_example(net()(x), y),
        "fit": lambda: wp.fit(problem(), one),
        "fit_many": lambda: wp.fit_many(problem(), [one, one.replace(batch_size=2)]),
        "watch": loop,
        "certify": lambda: wp.certify(net(), loss, (x, y)),
    }


def cases() -> list[tuple[object, Tensor, str]]:
    found: list[tuple[object, Tensor, str]] = []
    for name in sorted({cls.name for cls in losses_by_name().values()}):
        bad = [(y, "NaN or infinite") for y in BAD.values()]
        found += [(name, y, match) for y, match in [*DOMAINS[name], *bad]]
    for module in TORCH:
        if module in SIGNED:
            found.append((module(), SIGNS.clamp_min(0), "2 \\* y - 1"))
            continue
        shares = (nn.NLLLoss, nn.MultiMarginLoss)
        taken = [(y, m) for y, m in DOMAINS[MODULES[module]] if module not in shares or y.ndim == 1]
        found += [(module(), y, match) for y, match in [*taken, *((y, "NaN or infinite") for y in BAD.values())]]
    return found


@pytest.mark.parametrize(("loss", "y", "match"), cases(), ids=str)
def test_targets_outside_the_domain_are_refused_at_every_door(loss: object, y: Tensor, match: str) -> None:
    classes = Loss(loss).classes_are_indices or isinstance(loss, nn.MultiMarginLoss) or loss == "ordinal"
    outputs = Loss(loss).outputs_for(3 if classes else 1)
    if isinstance(loss, nn.MultiLabelSoftMarginLoss):
        y = y[:, None]
    for door, enter in doors(loss, torch.randn(4, 2), y, outputs).items():
        refused = ""
        try:
            enter()
        except InputError as error:
            refused = str(error)
        assert re.search(match, refused), (door, refused)


def test_targets_inside_the_domain_are_taken_by_every_loss() -> None:
    """The ends of the ranges, rounding of bfloat16, boolean labels, and masks."""
    score = torch.zeros(3, 1)
    for y in (torch.tensor([0.0, 1.0, 0.5]), torch.tensor([True, False, True]), torch.tensor([0, 1, 1])):
        Loss("bce").mean(score, y)
    soft = torch.tensor([[0.3, 0.7]] * 3).bfloat16()
    Loss("ce").mean(torch.zeros(3, 2), soft * 0.9 + 0.05)
    Loss("ce").mean(torch.zeros(3, 2), torch.tensor([0, -100, 1]))
    Loss(nn.CrossEntropyLoss(ignore_index=-1)).mean(torch.zeros(3, 2), torch.tensor([0, -1, 1]))
    Loss(nn.CrossEntropyLoss(ignore_index=255)).mean(torch.zeros(3, 2), torch.tensor([0, 255, 1]))
    Loss("poisson").mean(score, torch.tensor([0.0, 0.5, 1e6]))
    own = Loss(lambda f, y: (f[:, 0] - y.nan_to_num()).abs())  # a callable of one's own knows what it takes
    own.mean(score, torch.tensor([math.nan, 1.0, 2.0]))


LIMIT = 3 * 2**30
"""Bytes of address space of a process that a wrong label must not fill; torch alone maps one and a half GiB."""
WRONG = """
import resource, sys
import torch, wellposed as wp
from torch import nn
from wellposed.diagnosis import row_checks as rows
from wellposed.losses.metrics import metric, metrics
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
n = 300
x, y = torch.randn(n, 4), torch.randint(0, 3, (n,))
bad = y.clone()
one, net = wp.Recipe(epochs=1), lambda: nn.Linear(4, 3)
loose = lambda f, y: nn.functional.cross_entropy(f, y.clamp(max=2), reduction="none")
def problem(train, valid, loss="cross_entropy"):
    return wp.Problem(net, loss, wp.Data(train=(x, train), valid=valid))
def both(train, valid, loss):
    watch = wp.watch(net(), loss, train=(x, train), valid=(x, valid), rows=n)
    watch.epoch()
    return wp.diagnose(watch)
def split():
    from wellposed.data.splits import split
    return split(n, 0.2, seed=0, target=bad.numpy())
refused = {{
    "fit": lambda: wp.fit(problem(bad, 0.2), one),
    "fit, own validation": lambda: wp.fit(problem(y, (x, bad)), one),
    "fit, torch": lambda: wp.fit(problem(y, (x, bad), nn.CrossEntropyLoss(torch.ones(3))), one),
    "fit, smoothed": lambda: wp.fit(problem(bad, 0.2), wp.Recipe(epochs=1, noise={{"label_smoothing": 0.1}})),
    "fit_many": lambda: wp.fit_many(problem(bad, 0.2), [one] * 2),
    "improve": lambda: wp.improve(problem(bad, 0.2), budget="2 recipes"),
    "bias_variance": lambda: wp.bias_variance(problem(bad, 0.2), [one]),
    "watch": lambda: both(bad, y, "cross_entropy"),
    "watch, validation": lambda: both(y, bad, "cross_entropy"),
    "certify": lambda: wp.certify(net(), "cross_entropy", (x, bad)),
    "range test": lambda: wp.lr_range_test((m := net()), torch.optim.SGD(m.parameters(), lr=1.0), "cross_entropy", [(x, bad)]),
    "mixed": lambda: wp.mixed_targets(bad, torch.randperm(n), 0.5, classes=3),
}} | {{
    "metric " + name: lambda kind=kind: kind().rows(torch.randn(n, 3), bad) for name, kind in metrics(True).items()
}}
taken = {{
    "watch of a loss of one's own": lambda: both(bad, bad, loose),
    "wrong labels": lambda: rows.wrong_labels(torch.randn(n, 3), bad, x),
    "split": split,
}}
from wellposed.core.errors import InputError
for bad[100] in (10**7, 10**9, 2**62):
    for name, call in (refused | taken).items():
        try:
            call()
        except InputError:
            assert name in refused, name
        else:
            assert name in taken, name + " was taken"
print("held")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_a_wrong_label_never_takes_memory() -> None:
    """Labels are compared with the outputs before anything is counted, looked up or built by them."""
    ran = subprocess.run([sys.executable, "-c", WRONG.format(limit=LIMIT)], capture_output=True, text=True, timeout=500)
    assert ran.stdout.strip() == "held", ran.stderr[-2000:]


# Losses with a number


@pytest.mark.parametrize(("text", "made"), [
    ("huber:0.5", wp.Huber(0.5)), ("huber", wp.Huber()), ("quantile:0.9", wp.Quantile(0.9)), ("poisson", wp.Poisson()),
])  # fmt: skip
def test_a_loss_with_its_number_is_a_text_and_an_object(text: str, made: wp.Huber) -> None:
    assert str(made) == str(Loss(text)) == str(Loss(made)) == text
    assert Loss(text).criterion == made
    assert Loss(text).name == text.partition(":")[0]
    assert Loss(str(Loss(made))).criterion == made


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("huber:0", "delta= to be a number > 0, finite"),
        ("huber:-1", "delta"),
        ("huber:nan", "delta"),
        ("huber:x", "number after the colon"),
        ("huber:", "number after the colon"),
        ("quantile:1", r"level= to be a number in \(0, 1\)"),
        ("quantile:0", "level="),
        ("hubr:1", "Did you mean 'huber'"),
        ("squared_error:2", "takes no number"),
    ],
)
def test_numbers_that_a_loss_does_not_take(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Loss(text)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_quantile_and_pinball_are_scikit_learns(level: float, draw: torch.Generator) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    outputs, target = scores(draw, N), scores(draw, N)
    wanted = theirs.mean_pinball_loss(target, outputs, alpha=level)
    assert Loss(wp.Quantile(level)).mean(outputs, target).item() == pytest.approx(wanted, abs=1e-14)
    assert metric(f"pinball:{level}").score(outputs, target) == pytest.approx(wanted, abs=1e-14)


def test_poisson_is_torchs_with_a_logarithm_of_the_rate(draw: torch.Generator) -> None:
    outputs, target = scores(draw, N, 2), torch.randint(0, 9, (N, 2), generator=draw).double()
    each = F.poisson_nll_loss(outputs, target, log_input=True, full=False, reduction="none")
    torch.testing.assert_close(Loss("poisson").per_example(outputs, target).total, each.sum(1))
    assert Loss("poisson").mean(outputs, target).item() == pytest.approx(each.sum(1).mean().item())


@pytest.mark.parametrize("name", sorted({cls.name for cls in losses_by_name().values()}))
def test_the_constant_of_a_loss_is_its_best(name: str, draw: torch.Generator) -> None:
    """No other constant costs less on the training targets."""
    loss = Loss(name + ":0.8" if name == "quantile" else name)
    y = labels(draw, 201) if name in ("cross_entropy", "ordinal", "poisson") else labels(draw, 201, classes=2).double()
    y = y.double() if name == "poisson" else scores(draw, 201) if loss.task == "regression" else y
    best = loss.constant(y, y)
    if best is None:
        assert name in ("huber", "gaussian_mixture")
        return
    best = best.double()
    cost = loss.mean(best.expand(201, *best.shape), y).item()
    for step in (1e-2, 0.1, 1.0):
        for sign in (-1, 1):
            # Half a row more for each class moves the shares a little from the best ones; outputs are in single precision.
            slack = 1e-3 if loss.classifies else 1e-7
            for place in range(best.numel()):
                other = best.clone()
                other.view(-1)[place] += sign * step
                assert loss.mean(other.expand(201, *best.shape), y).item() > cost - slack


@pytest.mark.parametrize("loss", [wp.Huber(0.5), "huber:0.5", wp.Quantile(0.9), "poisson"])
def test_losses_with_a_number_train_alone_as_together_and_are_certified(loss: object) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=draw)
    rate = (0.5 * x[:, :1]).exp()
    y = torch.poisson(rate, generator=draw)
    problem = wp.Problem(lambda: nn.Linear(3, 1), loss, wp.Data(train=(x, y), valid=0.25), metric="mae")
    recipe = wp.Recipe(epochs=30, batch_size=50, optimizer={"name": "adam", "lr": 0.05})
    alone = wp.fit(problem, recipe, seed=1)
    together = wp.fit_many(problem, [recipe], seeds=[0, 1])
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(together[1].model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    first, last = alone.history["valid_loss"][0], alone.history["valid_loss"][-1]
    assert last < first
    assert alone.history.facts.get("constant_loss", math.inf) > last  # Huber's is not known
    found = wp.certify(nn.Linear(3, 1), loss, (x, y), [wp.L1(1e-2).on(wp.weights)])
    assert found.convex
    watch = wp.watch(alone.model, loss, train=(x, y), valid=(x, y), metric="mae")
    watch.epoch()
    assert str(problem.loss) in ("huber:0.5", "quantile:0.9", "poisson")


def test_a_quantile_covers_its_level_and_a_poisson_predicts_rates() -> None:
    """Right answers known beforehand: the share of rows below the 90 % quantile, and the mean of counts."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, generator=draw)
    recipe = wp.Recipe(epochs=60, batch_size=100, optimizer={"name": "adam", "lr": 0.03}, schedule={"name": "cosine"})
    y = x + torch.randn(2000, 1, generator=draw)
    run = wp.fit(wp.Problem(lambda: nn.Linear(1, 1), "quantile:0.9", wp.Data(train=(x, y), valid=0.25)), recipe)
    assert float((y < run.model(x)).double().mean()) == pytest.approx(0.9, abs=0.02)
    counts = torch.poisson((0.5 + 0.5 * x).exp(), generator=draw)
    problem = wp.Problem(lambda: nn.Linear(1, 1), "poisson", wp.Data(train=(x, counts), valid=0.25), metric="mae")
    run = wp.fit(problem, recipe)
    weight, bias = run.model.weight.item(), run.model.bias.item()
    assert (weight, bias) == (pytest.approx(0.5, abs=0.06), pytest.approx(0.5, abs=0.06))
    source = problem.prepared.valid
    inputs, target = source.batch(torch.arange(len(source)))
    assert run.score() == pytest.approx((run.model(inputs).exp() - target).abs().mean().item(), rel=1e-5)


def test_counts_of_a_table_are_not_shifted_and_a_saved_model_predicts_rates(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=draw)
    frame = pd.DataFrame(x.numpy(), columns=["a", "b"])
    y = pd.Series(torch.poisson((1 + 0.5 * x[:, 0]).exp(), generator=draw).numpy(), name="counts")
    problem = wp.Problem(TableMLP(), "poisson", wp.Data(train=(frame, y), valid=0.25, task="regression"), metric="mape")
    run = wp.fit(problem, wp.Recipe(epochs=40, optimizer={"name": "adam", "lr": 0.01}))
    saved = load(save_run(run, tmp_path))
    rates = saved.predict(frame)["prediction"]
    assert rates.min() > 0
    assert rates.mean() == pytest.approx(float(y.mean()), rel=0.15)
    squared = wp.fit(
        wp.Problem(TableMLP(), "squared_error", wp.Data(train=(frame, y), valid=0.25, task="regression"), metric="mape")
    )
    for one in (run, squared):
        source, problem = one.problem.prepared.valid, one.problem
        inputs, target = source.batch(torch.arange(len(source)))
        given = problem.prepared.target.inverse(target.numpy().reshape(-1))
        told = load(save_run(one, tmp_path)).model(inputs).detach().reshape(-1)
        told = problem.prepared.target.inverse(problem.loss.response(told).numpy())
        wanted = np.mean(np.abs(told - given) / np.maximum(np.abs(given), 2.0**-52))
        assert one.score() == pytest.approx(wanted, rel=1e-4)


# Class weights and smoothing


def imbalanced() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    y = (torch.rand(1200, generator=draw) < 0.1).long()
    x = torch.randn(1200, 6, generator=draw)
    x[:, :2] += 1.6 * y[:, None]
    return x, y


@pytest.mark.parametrize("form", ["recipe", "module", "pos_weight"])
def test_smoothing_does_not_undo_class_weights(form: str) -> None:
    """Plain .71; with the smoothing weighed by the classes that it is spread over, as torch does, it was .13."""
    x, y = imbalanced()
    heavy = torch.tensor([1.0, 30.0])

    def accuracy(smoothing: float) -> float:
        noise = {"label_smoothing": smoothing if form != "module" else 0.0}
        recipe = wp.Recipe(epochs=30, optimizer={"name": "adam", "lr": 0.02}, noise=noise)
        if form == "pos_weight":
            problem = wp.Problem(
                lambda: nn.Linear(6, 1), nn.BCEWithLogitsLoss(pos_weight=heavy[1]), (x, y.float()[:, None])
            )
        else:
            own = smoothing if form == "module" else 0.0
            problem = wp.Problem(lambda: nn.Linear(6, 2), nn.CrossEntropyLoss(heavy, label_smoothing=own), (x, y))
        return wp.fit(problem, recipe).score()

    assert accuracy(0.2) > accuracy(0.0) - 0.05


def test_class_weights_weigh_the_example_after_smoothing(draw: torch.Generator) -> None:
    """Value, gradient and count by hand: ``sum_i w_(y_i) CE(f_i, smooth(y_i)) / sum_i w_(y_i)``."""
    outputs, target, amount = scores(draw, N, CLASSES).requires_grad_(), labels(draw, N), 0.2
    weight = torch.tensor([0.5, 2.0, 0.0, 10.0], dtype=torch.float64)
    soft = (1 - amount) * F.one_hot(target, CLASSES).double() + amount / CLASSES
    mine = weight[target]
    wanted = -(mine * (soft * outputs.log_softmax(1)).sum(1)).sum() / mine.sum()
    (slope,) = torch.autograd.grad(wanted, outputs)
    found = Loss(nn.CrossEntropyLoss(weight)).parts(outputs, soft, softened=amount).mean()
    module = Loss(nn.CrossEntropyLoss(weight, label_smoothing=amount), by_example=True).mean(outputs, target)
    for value in (found, module):
        assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
        torch.testing.assert_close(torch.autograd.grad(value, outputs)[0], slope)
    plain = Loss(nn.CrossEntropyLoss(weight)).parts(outputs, F.one_hot(target, CLASSES).double(), softened=0.0).mean()
    assert plain.item() == pytest.approx(F.cross_entropy(outputs, target, weight).item())


def test_a_mixed_example_weighs_as_its_labels_do(draw: torch.Generator) -> None:
    outputs, a, b, share = scores(draw, N, CLASSES), labels(draw, N), labels(draw, N), 0.3
    weight = torch.tensor([0.5, 2.0, 1.0, 10.0], dtype=torch.float64)
    soft = share * F.one_hot(a, CLASSES).double() + (1 - share) * F.one_hot(b, CLASSES)
    parts = [F.cross_entropy(outputs, y, weight, reduction="none") for y in (a, b)]
    wanted = (share * parts[0] + (1 - share) * parts[1]).sum() / (share * weight[a] + (1 - share) * weight[b]).sum()
    found = Loss(nn.CrossEntropyLoss(weight)).parts(outputs, soft, softened=0.0).mean()
    assert found.item() == pytest.approx(wanted.item())


def test_smoothed_class_weights_are_equal_alone_and_in_a_population() -> None:
    x, y = imbalanced()
    problem = wp.Problem(lambda: nn.Linear(6, 2), nn.CrossEntropyLoss(torch.tensor([1.0, 30.0])), (x, y))
    recipe = wp.Recipe(epochs=3, noise={"label_smoothing": 0.2, "mixup": 0.2})
    together = wp.fit_many(problem, [recipe], seeds=[0, 1])
    alone = wp.fit(problem, recipe, seed=1)
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(together[1].model.state_dict()[key], value, rtol=1e-4, atol=1e-6)


# Metrics on ordinary and degenerate targets


def theirs(name: str, score: Tensor, y: Tensor, weight: Tensor | None) -> float:
    """scikit-learn's value of a metric."""
    sk = pytest.importorskip("sklearn.metrics")
    kind, _, number = name.partition(":")
    kw = {} if weight is None else {"sample_weight": weight.numpy()}
    if not metrics()[kind].classifies:
        given = {"mae": "mean_absolute_error", "mape": "mean_absolute_percentage_error", "pinball": "mean_pinball_loss",
                 "rmse": "root_mean_squared_error", "r2": "r2_score"}[kind]  # fmt: skip
        return float(getattr(sk, given)(y, score, **kw, **({"alpha": float(number)} if number else {})))
    classes = score.shape[1] if score.ndim > 1 else 2
    guess = (score.argmax(1) if score.ndim > 1 else (score > 0).long()).numpy()
    chances = (score.softmax(1) if score.ndim > 1 else score.sigmoid()).numpy()
    base, _, average = kind.partition("_")
    if base in ("f1", "precision", "recall"):
        return float(getattr(sk, f"{base}_score")(y, guess, average=average or "binary", **kw))
    if kind == "top_k_accuracy":
        return float(sk.top_k_accuracy_score(y, score.numpy(), k=int(number or 2), labels=range(classes), **kw))
    if kind == "brier":
        return float(sk.brier_score_loss(y, chances, labels=range(classes), **kw))
    if kind == "auc":
        return float(sk.roc_auc_score(y, score.numpy(), **kw))
    if kind == "log_loss":
        return float(sk.log_loss(y, chances, labels=range(classes), **kw))
    return float(getattr(sk, f"{kind}_score")(y, guess, **kw))


SPECIAL = {"ece", *(name for name, kind in metrics().items() if issubclass(kind, OfDistribution))}
"""What scikit-learn does not have; see the tests of its own below, and test_heads."""
NUMBERED = {
    "top_k_accuracy": ["top_k_accuracy:1", "top_k_accuracy:3"],
    "pinball": ["pinball:0.9", "pinball:0", "pinball:1"],
}


@pytest.mark.parametrize("name", [n for base in sorted(set(metrics()) - SPECIAL) for n in NUMBERED.get(base, [base])])
def test_every_metric_is_scikit_learns(name: str) -> None:
    """Random rows with ties and weights, few rows, one class, a constant target, one row."""
    draw = torch.Generator().manual_seed(5)
    kind = metrics()[name.partition(":")[0]]
    two = name == "auc" or getattr(kind, "average", "") == "binary"
    for trial in range(24):
        n = (1, 2, 7, 40)[trial % 4]
        weight = torch.rand(n, generator=draw).double() if trial % 3 == 1 else None
        if not kind.classifies:
            y = scores(draw, n)
            score = y + scores(draw, n)
            if trial % 5 == 4:
                y = torch.full_like(y, 0.1)
            if trial % 10 == 9:
                score = y.clone()
        else:
            score = (scores(draw, n) if two else scores(draw, n, 4)).mul(2).round()
            y = torch.randint(2 if two else 4, (n,), generator=draw)
            y = torch.full_like(y, int(y[0])) if trial % 6 == 5 else y
        if name == "auc" and len(y.unique()) < 2:
            with pytest.raises(InputError, match="both classes"):
                metric(name).score(score, y, weight)
            continue
        found = metric(name).score(score, y, weight)
        if name == "r2" and bool((y == y[0]).all()):  # theirs is NaN of one row, and rounding decides of constants
            wanted = float(torch.equal(score, y))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = theirs(name, score, y, weight)
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12), (trial, n)
        repeated = metric(name).rows_of_many(torch.stack([score, score]), y, weight)
        assert repeated.shape == (2, n)
        torch.testing.assert_close(repeated[1], metric(name).rows(score, y, weight))


@pytest.mark.parametrize("name", metrics())
def test_no_metric_is_nan_where_outputs_are_finite(name: str, draw: torch.Generator) -> None:
    """One row, one class, a constant target, all masked, all weights 0, nothing: a number or a refusal in one sentence."""
    kind = metrics()[name]
    two = name == "auc" or getattr(kind, "average", "") == "binary"
    for n in (0, 1, 5):
        score = scores(draw, n) if two or not kind.classifies else scores(draw, n, 3)
        score = score if kind.classifies else predicted(name, score)
        fill = [0, 1, -100] if kind.classifies else [0.0, 2.5]
        for value in fill:
            y = torch.full((n,), value, dtype=torch.long if kind.classifies else torch.float64)
            for weight in (None, torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)):
                nothing = n == 0 or value == -100 or (weight is not None and not weight.any())
                if nothing or name == "auc":
                    with pytest.raises(InputError, match=name):
                        measured_by(name).rows(score, y, weight)
                else:
                    assert bool(torch.isfinite(measured_by(name).rows(score, y, weight)).all())


def test_r2_of_a_constant_target_is_one_or_zero() -> None:
    r2, y = metric("r2"), torch.full((1000,), 0.1)  # the mean of these is not 0.1
    assert r2.score(y, y) == 1.0
    assert r2.score(y + 1e-3, y) == 0.0
    assert r2.rows(y + torch.arange(1000), y).tolist() == [0.0] * 1000
    problem = wp.Problem(
        lambda: nn.Linear(2, 1), "mse", wp.Data(train=(torch.randn(40, 2), torch.full((40, 1), 3.0)), valid=0.5)
    )
    assert wp.fit(problem, wp.Recipe(epochs=2)).history["valid_metric"] == [0.0, 0.0]


def test_calibration_error_by_hand() -> None:
    """Two bins: of confidences .6 and .8 one is right, of .3 none; so ``(|1.4 - 1| + |.3 - 0|) / 3``."""
    chances = torch.tensor([0.6, 0.8, 0.3], dtype=torch.float64)
    y = torch.tensor([1, 0, 0])
    assert metric("ece:2").score(chances.logit(), y) == pytest.approx(0.7 / 3, abs=1e-15)
    sure = torch.tensor([[900.0, 0.0], [900.0, 0.0]], dtype=torch.float64)  # exactly 1 is in the last bin
    assert metric("ece").score(sure, torch.tensor([0, 1])) == 0.5


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_torchmetrics(bins: int, draw: torch.Generator) -> None:
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    score, y = 2 * scores(draw, 500, CLASSES), labels(draw, 500)
    wanted = theirs.multiclass_calibration_error(score, y, CLASSES, n_bins=bins)
    assert metric(f"ece:{bins}").score(score, y) == pytest.approx(wanted.item(), abs=1e-6)  # they round to float32
    one, two = score[:, 0], (y > 1).long()
    wanted = theirs.binary_calibration_error(one, two, n_bins=bins)
    assert metric(f"ece:{bins}").score(one, two) == pytest.approx(wanted.item(), abs=1e-12)


@pytest.mark.parametrize("name", metrics())
def test_a_weight_of_two_is_the_row_twice_and_of_zero_none(name: str, draw: torch.Generator) -> None:
    outputs, target = example(name, draw)
    twice = torch.cat([outputs, outputs[:50]]), torch.cat([target, target[:50]])
    weight = torch.ones(200, dtype=torch.float64)
    weight[:50] = 2
    assert measured_by(name).score(outputs, target, weight) == pytest.approx(measured_by(name).score(*twice), rel=1e-12)
    weight[:50] = 0
    assert measured_by(name).score(outputs, target, weight) == pytest.approx(
        measured_by(name).score(outputs[50:], target[50:]), rel=1e-12
    )


@pytest.mark.parametrize("text", [f"{name}:1" for name, kind in metrics().items() if not fields(kind)])
def test_metrics_without_a_number_refuse_one(text: str) -> None:
    with pytest.raises(InputError, match="takes no number"):
        metric(text)


@pytest.mark.parametrize(
    "text", ["top_k_accuracy:0", "top_k_accuracy:1.5", "pinball:2", "pinball:x", "ece:0", "ece:nan"]
)
def test_numbers_that_a_metric_does_not_take(text: str) -> None:
    with pytest.raises(InputError, match=r"k=|level=|bins=|number after the colon"):
        metric(text)


def test_f1_of_several_classes_says_which_to_take(draw: torch.Generator) -> None:
    with pytest.raises(InputError, match="f1_macro, f1_micro or f1_weighted"):
        metric("f1").score(scores(draw, N, CLASSES), labels(draw, N))


@pytest.mark.parametrize("name", [*sorted(metrics()), "top_k_accuracy:3", "pinball:0.9", "ece:5"])
def test_every_metric_serves_in_a_problem_and_in_watch(name: str, draw: torch.Generator) -> None:
    kind = metrics()[name.partition(":")[0]]
    x = torch.randn(120, 3, generator=draw)
    two = name == "auc" or getattr(kind, "average", "") == "binary"
    y = labels(draw, 120, classes=2 if two else 4) if kind.classifies else scores(draw, 120, 1).float()
    outputs, loss = (2 if two else 4, "cross_entropy") if kind.classifies else (1, "squared_error")
    outputs, loss = (2, "gaussian") if issubclass(kind, OfDistribution) else (outputs, loss)
    data = wp.Data(train=(x, y), valid=0.4, weight=torch.linspace(0.1, 2, 120))
    problem = wp.Problem(lambda: nn.Linear(3, outputs), loss, data, metric=name)
    run = wp.fit(problem, wp.Recipe(epochs=2))
    assert run.history.facts["metric"] == name
    assert run.history.facts["higher_is_better"] == kind.higher_is_better
    rows = run.row_scores()
    assert rows.mean() == pytest.approx(run.score() if kind.higher_is_better else -run.score())
    assert run.history["valid_metric"][run.best_epoch] == pytest.approx(run.score(), rel=1e-5)
    pair = wp.fit_many(problem, [wp.Recipe(epochs=2)], seeds=[0, 1])
    assert pair[0].history["valid_metric"] == pytest.approx(run.history["valid_metric"], rel=1e-4, abs=1e-6)
    watch = wp.watch(run.model, loss, train=(x, y), valid=(x, y), metric=name)
    assert math.isfinite(watch.epoch()["valid_metric"])


def test_a_metric_without_a_value_on_the_held_out_rows_is_refused_before_training() -> None:
    x, y = torch.randn(60, 2), torch.arange(60) % 2
    data = wp.Data(train=(x, y), valid=(x, torch.ones(60, dtype=torch.long)))
    with pytest.raises(ProblemError, match="Of the validation rows: auc needs rows of both classes"):
        wp.fit(wp.Problem(lambda: nn.Linear(2, 2), "cross_entropy", data, metric="auc"), wp.Recipe(epochs=1))
    with pytest.raises(InputError, match="Did you mean 'f1_macro'"):
        wp.Problem(lambda: nn.Linear(2, 2), "cross_entropy", (x, y), metric="f1_makro")
