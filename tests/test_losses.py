"""Losses are asked example by example and agree with torch; metrics agree with scikit-learn, and with their jackknife."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellposed.core.errors import InputError, ProblemError
from wellposed.losses.metrics import metric, metrics, scaled
from wellposed.losses.per_example import named, Loss, PerExample, average

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
        ("huber", nn.HuberLoss()),
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
    assert set(named) == {"cross_entropy", "squared_error", "absolute_error", "huber", "binary_cross_entropy"}


def test_squared_error_sums_over_outputs_and_torchs_averages() -> None:
    outputs, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    assert Loss("squared_error").mean(outputs, target).item() == 5.0
    assert Loss(nn.MSELoss()).mean(outputs, target).item() == 2.5


def test_short_names_and_unknown_ones() -> None:
    assert Loss("mse").name == "squared_error"
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
        measured = average([part])
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
    assert average([part]).mean == pytest.approx(F.cross_entropy(outputs, target).item())
    nothing = Loss("cross_entropy").mean(outputs[:1].requires_grad_(), target[:1])
    assert nothing.item() == 0.0
    nothing.backward()
    assert math.isnan(average([Loss("cross_entropy").per_example(outputs[:1], target[:1])]).mean)


def test_the_standard_error_of_masked_tokens_is_that_of_a_ratio(draw: torch.Generator) -> None:
    """Examples are the draws, not tokens: compared with the spread over many redrawn data sets."""
    count = torch.randint(1, 9, (4000, 50), generator=draw).double()
    level = torch.randn(4000, 50, generator=draw).double()
    found = [average([PerExample(t, c)]) for t, c in zip(count * level, count, strict=True)]
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
        assert average([loss.per_example(outputs, target)]).mean == pytest.approx(plain)
    nll = nn.NLLLoss(weight)
    assert Loss(nll).mean(outputs.log_softmax(1), target).item() == pytest.approx(plain)


def test_example_weights(draw: torch.Generator) -> None:
    outputs, target, weight = scores(draw, N), scores(draw, N), torch.rand(N, generator=draw).double()
    squares = (outputs - target).square()
    wanted = (weight * squares).sum() / weight.sum()
    loss = Loss("squared_error")
    assert loss.mean(outputs, target, weight).item() == pytest.approx(wanted.item())
    measured = average([loss.per_example(outputs, target)], [weight])
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
    assert average([part]).se == pytest.approx((outputs - target).abs().std().item() / math.sqrt(N), rel=1e-5)


def test_a_loss_that_couples_examples_counts_batches(draw: torch.Generator) -> None:
    def coupled(f: Tensor, y: Tensor) -> Tensor:
        return (f - y).mean().square()

    outputs, target = scores(draw, 3 * N), scores(draw, 3 * N)
    batches = [(outputs[: 2 * N], target[: 2 * N]), (outputs[2 * N :], target[2 * N :])]
    parts = [Loss(coupled).per_example(f, y) for f, y in batches]
    assert [part.total.shape for part in parts] == [(1,), (1,)]
    values = [coupled(f, y).item() for f, y in batches]
    # A batch of twice as many rows counts twice.
    assert average(parts).mean == pytest.approx((2 * values[0] + values[1]) / 3, rel=1e-5)
    assert math.isnan(average(parts[:1]).se)


def test_a_mean_over_tokens_is_no_mean_over_examples(draw: torch.Generator) -> None:
    def token_mean(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f.flatten(0, 1), y.flatten())

    outputs, target = scores(draw, N, TIME, CLASSES), masked(labels(draw, N, TIME))
    part = Loss(token_mean).per_example(outputs, target)
    assert average([part]).mean == pytest.approx(token_mean(outputs, target).item(), rel=1e-5)
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
    measured = average([loss.per_example(outputs, target)])
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
    measured = average([PerExample(values[:20], torch.ones(20)), PerExample(values[20:], torch.ones(11))])
    assert measured.mean == pytest.approx(values.mean().item())
    assert measured.se == pytest.approx(values.std().item() / math.sqrt(31))
    torch.testing.assert_close(measured.rows, values)


def test_one_example_has_no_standard_error() -> None:
    measured = average([PerExample(torch.ones(1), torch.ones(1))])
    assert (measured.mean, math.isnan(measured.se)) == (1.0, True)


# Metrics against scikit-learn


def binary(draw: torch.Generator, n: int = 60) -> tuple[Tensor, Tensor]:
    """Scores with many ties."""
    target = labels(draw, n, classes=2)
    return ((scores(draw, n) + target) * 3).round() / 3, target


def test_classification_metrics_are_scikit_learns(draw: torch.Generator) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    outputs, target = scores(draw, 60, CLASSES), torch.randint(CLASSES, (60,), generator=draw).clamp_max(2)
    predicted = outputs.argmax(1)
    assert metric("accuracy").score(outputs, target) == pytest.approx(theirs.accuracy_score(target, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        wanted = theirs.balanced_accuracy_score(target, predicted)
    assert metric("balanced_accuracy").score(outputs, target) == pytest.approx(wanted)
    loss = theirs.log_loss(target, outputs.softmax(1), labels=range(CLASSES))
    assert metric("log_loss").score(outputs, target) == pytest.approx(loss)


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
    assert math.isnan(auc.score(torch.tensor([1.0, 2.0]), torch.tensor([1, 1])))
    with pytest.raises(InputError, match="two classes"):
        auc.rows(torch.zeros(3, 3), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_metrics_are_scikit_learns(outputs: int, draw: torch.Generator) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    target = scores(draw, 40, outputs) * torch.arange(1, outputs + 1)
    predicted = target + scores(draw, 40, outputs)
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


def example(name: str, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    if name in ("r2", "rmse", "mae"):
        target = scores(draw, 200)
        return target + 0.5 * scores(draw, 200), target
    if name == "auc":
        return binary(draw, 200)
    return scores(draw, 200, CLASSES), labels(draw, 200)


@pytest.mark.parametrize("name", metrics())
def test_the_mean_of_rows_is_the_score_and_rows_are_the_jackknife(name: str, draw: torch.Generator) -> None:
    outputs, target = example(name, draw)
    measured = metric(name)
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
        wide = scaled(metric(name), 10.0)
        assert wide.score(outputs, target) == pytest.approx(metric(name).score(outputs * 10, target * 10))
        assert (wide.name, wide.higher_is_better) == (name, False)
    assert scaled(metric("r2"), 10.0).name == "r2"


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        metric("acuracy")
