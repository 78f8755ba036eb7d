"""`fit`: what is minimized is what was asked for, the best weights come back however training ends, runs are repeatable."""

from __future__ import annotations

import copy
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

import wellposed as wp
from wellposed.core.errors import DataError, InputError, ProblemError, RecipeError, TrainingError
from wellposed.core.random import stream_seed
from wellposed.recipe.recipe import optimizers
from wellposed.training.early_stopping import Patience
from wellposed.training.loop import Training

N, FEATURES, CLASSES = 47, 5, 3
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(N, FEATURES, generator=DRAW)
Y = (X[:, 0] > 0.3).long() + (X[:, 1] > 0).long()
XV = torch.randn(30, FEATURES, generator=DRAW)
YV = (XV[:, 0] > 0.3).long() + (XV[:, 1] > 0).long()
# Validation labels that have nothing to do with training: the more is learned, the worse.
AGAINST = (Y[:30] + 1) % CLASSES


def net(width: int = 8, dropout: float = 0.0, norm: bool = False) -> nn.Module:
    hidden = [nn.Linear(FEATURES, width), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*([nn.BatchNorm1d(FEATURES)] if norm else []), *hidden, nn.Linear(width, CLASSES))


def problem(model: Callable[..., nn.Module] = net, loss: Any = "cross_entropy", **settings: Any) -> wp.Problem:
    data = {"train": (X, Y), "valid": (XV, YV), **settings.pop("data", {})}
    return wp.Problem(model, loss, wp.Data(**data), **settings)


def rising() -> wp.Problem:
    """A problem whose validation loss soon rises."""
    return problem(data={"valid": (X[:30], AGAINST)})


def recipe(**settings: Any) -> wp.Recipe:
    """One step an epoch by SGD, unless said otherwise."""
    return wp.Recipe(**{"epochs": 3, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.1}, **settings})


def fit(problem: wp.Problem, recipe: wp.Recipe | str, seed: int = 0, **settings: Any) -> wp.Run:
    return wp.fit(problem, recipe, seed, device="cpu", **settings)


def weights(run: wp.Run | nn.Module) -> dict[str, Tensor]:
    return (run.model if isinstance(run, wp.Run) else run).state_dict()


def same(a: wp.Run, b: wp.Run) -> bool:
    """Equal bit for bit: weights, and everything in the history but the time."""
    rows = [[{k: repr(v) for k, v in row.items() if "seconds" not in k} for row in run.history] for run in (a, b)]
    left, right = weights(a), weights(b)
    return rows[0] == rows[1] and left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def by_hand(start: nn.Module, steps: int, make: Callable[[Any], torch.optim.Optimizer]) -> nn.Module:
    """Plain full-batch training."""
    model = copy.deepcopy(start).train()
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return model


def last_is_best(run: wp.Run) -> bool:
    return run.best_epoch == len(run.history) - 1


# Optimizers

TRIED = {
    "sgd": {"lr": 0.1},
    "momentum": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "nesterov": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
    "rmsprop": {"lr": 0.01},
}


@pytest.mark.parametrize("name", TRIED)
def test_fit_is_the_loop_that_one_would_write(name: str) -> None:
    settings = {"name": name, **TRIED[name]}
    run = fit(problem(), recipe(epochs=5, optimizer=settings))
    rest = {k: v for k, v in settings.items() if k != "name"}
    cls = optimizers()[settings["name"]]
    decay = {"weight_decay": 0.0} if name == "adamw" else {}
    hand = by_hand(run.problem.build({}, 0), 5, lambda p: cls(p, **rest, **decay))
    assert last_is_best(run)
    for key, value in weights(run).items():
        torch.testing.assert_close(value, weights(hand)[key], rtol=1e-4, atol=1e-6)
    assert run.history["train_loss"][-1] < run.history["train_loss"][0]


REFUSED = {
    "lbfgs": "evaluates the cost of the same rows several times",
    "sparseadam": "sparse gradients only",
    "muon": "only supports 2D parameters",
}


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_of_torch_trains_or_is_refused(name: str) -> None:
    wanted = recipe(epochs=2, optimizer={"name": name, "lr": 0.01})
    if name in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[name]) as caught:
            fit(problem(), wanted)
        assert "\n" not in str(caught.value)
    else:
        run = fit(problem(), wanted)
        assert run.stopped == "epochs"
        assert not torch.equal(weights(run)["0.weight"], weights(run.problem.build({}, 0))["0.weight"])


def test_an_optimizer_of_ones_own_is_scheduled() -> None:
    def own(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.0}, {"params": rest}], lr=0.2)

    run = fit(problem(), recipe(schedule={"name": "cosine"}), optimizer=own)
    start = problem().build({}, 0)
    assert torch.equal(weights(run)["0.weight"], weights(start)["0.weight"])
    assert not torch.equal(weights(run)["3.weight"], weights(start)["3.weight"])
    with pytest.raises(RecipeError, match="LBFGS does not work in fit"):
        fit(problem(), recipe(), optimizer=torch.optim.LBFGS)


# Schedules


def cosine(t: float) -> float:
    return 0.01 + 0.99 * (1 + math.cos(math.pi * t)) / 2


SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "cosine": cosine,
    "one_cycle": lambda t: 0.04 + 0.48 * (1 - math.cos(math.pi * t / 0.3)) if t < 0.3 else cosine((t - 0.3) / 0.7),
    "step": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_schedules_by_formula(name: str, warmup: float) -> None:
    settings = {"schedule": {"name": name, "warmup": warmup}, "stopping": {"patience": 0}}
    run = fit(problem(), recipe(epochs=8, batch_size=20, **settings))
    steps, warm = 3 * 8, round(warmup * 24)  # three steps an epoch: 20, 20 and 7 rows
    for epoch, lr in enumerate(run.history["lr"]):
        last = 3 * epoch + 2
        wanted = SHAPES[name](max(0, last - warm) / (steps - warm)) * min(1, (last + 1) / (warm + 1))
        assert lr == pytest.approx(0.1 * wanted), epoch


def test_plateau_divides_by_ten() -> None:
    settings = {"schedule": {"name": "plateau", "patience": 1}, "optimizer": {"name": "sgd", "lr": 0.5}}
    run = fit(rising(), recipe(epochs=6, **settings))
    assert run.best_epoch == 0
    assert run.history["lr"] == pytest.approx([0.5, 0.5, 0.5, 0.05, 0.05, 0.005])


# Steps


def test_clipping_bounds_the_step_and_shows_the_norm_before() -> None:
    start = problem().build({}, 0)
    plain = fit(problem(), recipe(epochs=1))
    clipped = fit(problem(), recipe(epochs=1, clip=0.01))
    assert clipped.history["grad_norm"] == plain.history["grad_norm"]
    moved = [math.sqrt(sum(float((w - weights(start)[k]).square().sum()) for k, w in weights(r).items()))
             for r in (plain, clipped)]  # fmt: skip
    assert moved[0] == pytest.approx(0.1 * plain.history["grad_norm"][0], rel=1e-4)
    assert moved[1] == pytest.approx(0.1 * 0.01, rel=1e-3)


class Tagger(nn.Module):
    """A label for each number of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.double().unsqueeze(-1))
        return out


MASKED = torch.randint(CLASSES, (N, FEATURES), generator=DRAW)
MASKED[torch.rand(N, FEATURES, generator=DRAW) < 0.5] = -100
WEIGHT = torch.rand(N, generator=DRAW)


@pytest.mark.parametrize("kind", ["plain", "weights", "masks", "class weights", "mean", "penalty"])
def test_accumulated_batches_are_one_large_batch(kind: str) -> None:
    """Rows left over make smaller batches (47 = 2 * 20 + 7, and 7 = 5 + 2), and must not weigh more than their share."""
    settings: dict[str, Any] = {"forward": lambda m, x: m(x.double())}
    model: Any = lambda: net().double()  # noqa: E731
    if kind == "weights":
        settings["data"] = {"weight": WEIGHT}
    elif kind == "masks":
        model, settings = Tagger, {"data": {"train": (X, MASKED), "valid": (X, MASKED)}}
    elif kind == "class weights":
        settings["loss"] = nn.CrossEntropyLoss(torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64))
    elif kind == "mean":
        settings["loss"] = lambda f, y: F.cross_entropy(f, y)
    terms = [{"penalty": "l2", "strength": 0.5, "how": "loss"}] if kind == "penalty" else []
    one, several = (
        fit(problem(model, **settings), recipe(batch_size=b, accumulate=a, clip=100.0, terms=terms))
        for b, a in ((20, 1), (5, 4))
    )
    for key, value in weights(one).items():
        torch.testing.assert_close(weights(several)[key], value, rtol=1e-6, atol=1e-8)
    for column in ("cost", "grad_norm", "train_loss", "valid_loss"):
        assert several.history[column] == pytest.approx(one.history[column], rel=1e-6), column
    # The first step alone: closer than single-precision weights of rows could blur.
    assert one.history["cost"][0] != one.history["train_loss"][0]


def test_strengths_do_not_change_with_the_batch_size() -> None:
    """Without any gradient of the loss, each step shrinks the weights by the strength alone."""
    still = {"train": (torch.zeros(40, FEATURES), torch.zeros(40)), "valid": (torch.zeros(9, FEATURES), torch.zeros(9))}
    start = weights(nn.Linear(FEATURES, 1, bias=False))["weight"]

    def model() -> nn.Module:
        made = nn.Linear(FEATURES, 1, bias=False)
        made.load_state_dict({"weight": start})
        return made

    for how, shrunk in (("loss", 0.95**4), ("decay", 0.95**4), ("prox", 1.05**-4)):
        terms = [{"penalty": "l2", "strength": 0.5, "how": how}]
        for batch_size, accumulate, epochs in ((40, 1, 4), (10, 1, 1), (5, 2, 1)):
            run = fit(
                problem(model, "squared_error", data=still),
                recipe(batch_size=batch_size, accumulate=accumulate, epochs=epochs, terms=terms),
            )
            # Equal validation losses keep the first epoch, so the current weights are read from the penalty.
            assert run.history["penalty"][-1] == pytest.approx(0.25 * float((shrunk * start).square().sum()), rel=1e-5)


def test_weights_of_rows_are_repetitions() -> None:
    times = torch.arange(N) % 3
    repeated = (X.repeat_interleave(times, 0), Y.repeat_interleave(times, 0))
    one = fit(problem(data={"weight": times}), recipe())
    many = fit(problem(data={"train": repeated}), recipe())
    for key, value in weights(many).items():
        torch.testing.assert_close(weights(one)[key], value, rtol=1e-4, atol=1e-6)


def test_a_batch_of_rows_without_weight_costs_nothing() -> None:
    run = fit(problem(data={"weight": [1.0] * 4 + [0.0] * (N - 4)}), recipe(batch_size=2))
    assert run.stopped == "epochs"
    assert all(math.isfinite(value) for column in ("cost", "grad_norm", "train_loss") for value in run.history[column])


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 1), (23, 1), (2, 4), (46, 2)])
def test_a_row_alone_is_not_normalized(batch_size: int, accumulate: int) -> None:
    """47 rows in batches of 2, 23 or 46 leave one row, which has no variance."""
    settings = {"batch_size": batch_size, "accumulate": accumulate, "schedule": {"name": "cosine"}}
    run = fit(problem(lambda: net(norm=True)), recipe(**settings))
    steps = math.ceil(46 / (batch_size * accumulate)) * 3
    assert run.history["lr"][-1] == pytest.approx(0.1 * cosine((steps - 1) / steps))


def test_batches_of_one_row_train_on_all_rows() -> None:
    training = Training.begin(problem(), recipe(batch_size=1), 0, torch.device("cpu"), math.inf, None)
    assert torch.cat(list(training.batches(0))).sort().values.tolist() == list(range(N))
    assert training.steps_per_epoch == N


def test_bfloat16() -> None:
    low, full = (fit(problem(), recipe(epochs=10, precision=p)) for p in ("bfloat16", "float32"))
    assert low.history["train_loss"][-1] == pytest.approx(full.history["train_loss"][-1], abs=0.02)
    assert low.history["cost"] != full.history["cost"]
    assert {w.dtype for w in weights(low).values()} == {torch.float32}
    smooth = fit(problem(), recipe(precision="bfloat16", noise={"label_smoothing": 0.1}))
    assert math.isfinite(smooth.history["cost"][-1])


# Endings: the best weights come back in each


def restored(run: wp.Run) -> bool:
    """The model's validation loss is the lowest of the history, and the last epoch's is another."""
    losses = run.history["valid_loss"]
    found = run.evaluate("valid").loss.mean
    return found == pytest.approx(min(losses), rel=1e-6) and run.best_epoch == int(np.argmin(losses))


class Ending(Dataset[tuple[Tensor, Tensor]]):
    """Training rows whose fetching ends badly after so many epochs."""

    def __init__(self, error: BaseException, epochs: float) -> None:
        self.error, self.left = error, int(epochs * N)

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if self.left < -2:  # two are asked for when the data are prepared
            raise self.error
        return X[i], Y[i]


def ending(error: BaseException, epochs: float = 4.5) -> wp.Problem:
    return problem(data={"train": Ending(error, epochs), "train_clean": (X, Y), "valid": (X[:30], AGAINST)})


LONG = {"epochs": 400, "optimizer": {"name": "sgd", "lr": 0.5}}


def test_a_history_names_its_columns_where_it_has_not_the_one_asked_for() -> None:
    history = wp.History(rows=[{"epoch": 0, "train_loss": 1.0, "term:L1": 0.5}])
    assert history["term:L1"] == [0.5]
    assert math.isnan(history["valid_loss"][0])  # a column that this run did not measure
    with pytest.raises(
        InputError, match=r"no column 'train_los'. Did you mean 'train_loss'\? It has: epoch, train_loss"
    ):
        history["train_los"]


def test_patience() -> None:
    run = fit(rising(), recipe(**LONG, stopping={"patience": 3}))
    assert run.stopped == "patience" == run.history.facts["stopped"]
    assert len(run.history) == run.best_epoch + 4
    assert restored(run)
    assert not run.model.training


def keras_stops(
    values: Sequence[float], patience: int, delta: float, baseline: float | None, higher: bool
) -> int | None:
    """The epoch after which Keras' EarlyStopping stops: the first one but epoch 0 that is no improvement and comes ``patience``
    or more epochs after the last improvement that was one on the baseline too."""
    begun, best = -1, -math.inf if higher else math.inf
    for epoch, value in enumerate(values):

        def better(than: float, value: float = value) -> bool:
            return value - delta > than if higher else value + delta < than

        if better(best):
            best = value
            begun = epoch if baseline is None or better(baseline) else begun
        elif epoch and epoch - begun >= patience:
            return epoch
    return None


def stops(values: Sequence[float], higher: bool = False, **settings: Any) -> tuple[int | None, int | None]:
    """The epoch after which training stops, and the best one until then."""
    waiting, best = Patience(wp.Recipe(stopping=settings).stopping, higher), None
    for epoch, value in enumerate(values):
        best = epoch if waiting.update(epoch, value) else best
        if waiting.over:
            return epoch, best
    return None, best


FALLING = (10.0, 9.0, 8.0, 9.0, 8.9, 8.8, 8.7, 8.6, 8.5)
NAN = math.nan


@pytest.mark.parametrize(
    ("values", "settings", "wanted"),
    [
        (FALLING, {"patience": 1}, (3, 2)),  # these six are of Keras' own tests
        (FALLING, {"patience": 2}, (4, 2)),
        (FALLING, {"patience": 3}, (5, 2)),
        ((0.2, 0.15, 0.1, 0.11, 0.12), {"patience": 2}, (4, 2)),
        ((0.9, 0.8, 0.7, 0.71, 0.72, 0.73), {"patience": 5, "baseline": 0.5}, (4, 2)),
        ((0.9, 0.8, 0.7, 0.71), {"patience": 5, "baseline": 0.5}, (None, 2)),
        (
            (1.0, 0.95, 0.91, 0.85),
            {"patience": 2, "min_delta": 0.1},
            (2, 2),
        ),  # kept although it was too small to wait on
        ((1.0, 0.95, 0.85, 0.84, 0.83), {"patience": 2, "min_delta": 0.1}, (4, 4)),
        ((0.9, 0.4, 0.6, 0.6), {"patience": 2, "baseline": 0.5}, (3, 1)),
        ((0.9, 0.8, 0.7, 0.7), {"patience": 2, "baseline": 0.5}, (3, 2)),  # no stop in an epoch that improves
        ((1.0, NAN, NAN), {"patience": 2}, (2, 0)),
        ((NAN, NAN, 1.0), {"patience": 1}, (1, None)),
        ((NAN, 1.0, 2.0), {"patience": 2}, (None, 1)),
        (FALLING, {"patience": 0, "baseline": 1.0, "min_delta": 5.0}, (None, 2)),
    ],
)
def test_patience_is_keras_early_stopping(
    values: Sequence[float], settings: dict[str, Any], wanted: tuple[int | None, int | None]
) -> None:
    assert stops(values, **settings) == wanted
    mirrored = {**settings, **({"baseline": -settings["baseline"]} if "baseline" in settings else {})}
    assert stops([-value for value in values], higher=True, **mirrored) == wanted


@given(
    st.lists(st.sampled_from([NAN, *(i / 10 for i in range(12))]), max_size=30), st.integers(1, 5), st.booleans(),
    st.sampled_from([0.0, 0.1, 0.25]), st.none() | st.sampled_from([0.3, 0.5, -0.2]),
)  # fmt: skip
@hypothesis_settings(max_examples=400, deadline=None)
def test_patience_stops_when_keras_does(
    values: list[float], patience: int, higher: bool, delta: float, baseline: float | None
) -> None:
    found, _ = stops(values, higher, patience=patience, min_delta=delta, baseline=baseline)
    assert found == keras_stops(values, patience, delta, baseline, higher)


WHILE_PATIENT = {"epochs": 60, "optimizer": {"name": "sgd", "lr": 0.5}}


@cache
def without_patience(metric: str) -> tuple[wp.Problem, wp.Run]:
    """A problem whose validation rows contradict the training rows, and its run to the end."""
    task = problem(metric=metric, data={"valid": (X[:30], AGAINST)})
    return task, fit(task, recipe(**WHILE_PATIENT, stopping={"patience": 0}))


@pytest.mark.parametrize(
    ("monitor", "metric", "keep"),
    [
        # Half of them: each number of each metric, with the best weights or the last.
        pytest.param(monitor, metric, keep, marks=() if (i + j + k) % 2 == 0 else pytest.mark.nightly)
        for i, monitor in enumerate(["valid_loss", "valid_metric", "train_loss", "train_metric", "cost"])
        for j, metric in enumerate(["accuracy", "log_loss"])
        for k, keep in enumerate(["best", "last"])
    ],
)
def test_what_is_monitored_stops_and_says_which_weights_come_back(monitor: str, metric: str, keep: str) -> None:
    """By the history of the same run without patience; more accuracy is better, of anything else less."""
    task, whole = without_patience(metric)
    higher = monitor.endswith("metric") and metric == "accuracy"
    values = whole.history[monitor]
    for settings in ({}, {"min_delta": 0.02}, {"min_delta": 0.001, "baseline": statistics.median(values)}):
        run = fit(task, recipe(**WHILE_PATIENT, stopping={"patience": 3, "monitor": monitor, "keep": keep, **settings}))
        last = keras_stops(values, 3, settings.get("min_delta", 0.0), settings.get("baseline"), higher)
        assert run.stopped == ("epochs" if last is None else "patience")
        assert len(run.history) == (60 if last is None else last + 1)
        seen = values[: len(run.history)]
        best = seen.index(max(seen) if higher else min(seen))
        assert run.best_epoch == (best if keep == "best" else len(seen) - 1)
        assert run.history["valid_rise"][-1] == whole.history["valid_rise"][len(seen) - 1]


def test_patience_of_zero_never_stops() -> None:
    run = fit(rising(), recipe(epochs=30, stopping={"patience": 0}))
    assert (run.stopped, len(run.history)) == ("epochs", 30)
    assert not last_is_best(run)
    assert restored(run)


@pytest.mark.usefixtures("own_clock")
def test_deadline() -> None:
    run = fit(rising(), recipe(**{**LONG, "epochs": 10**6}, stopping={"patience": 0}), deadline=time.monotonic() + 0.2)
    assert run.stopped == "budget"
    assert len(run.history) > 2
    assert restored(run)
    past = fit(problem(), recipe(batch_size=1), deadline=0.0)  # one step, and it is measured
    assert (past.stopped, len(past.history)) == ("budget", 1)


def test_stop_callback_gets_the_history_and_gives_the_reason() -> None:
    seen: list[int] = []

    def stop(history: wp.History) -> str | None:
        seen.append(len(history))
        return "seen enough" if history["train_loss"][-1] > 0 and len(history) == 5 else None

    run = fit(rising(), recipe(**LONG), stop=stop)
    assert (run.stopped, seen) == ("seen enough", [1, 2, 3, 4, 5])
    assert restored(run)


@pytest.mark.parametrize("error", [OSError("disk gone"), DataError("a batch is damaged."), ZeroDivisionError("0")])
def test_an_exception_in_the_data(error: Exception) -> None:
    with pytest.raises(TrainingError, match=str(error)) as caught:
        fit(ending(error), recipe(**LONG, stopping={"patience": 0}))
    run = caught.value.run
    assert (run.stopped, len(run.history)) == ("failed", 4)
    assert caught.value.__cause__ is error
    assert not last_is_best(run)
    assert restored(run)


def test_an_exception_in_the_first_epoch() -> None:
    with pytest.raises(TrainingError, match="OSError: disk gone") as caught:
        fit(ending(OSError("disk gone"), 0.5), recipe())
    assert len(caught.value.run.history) == 0
    with pytest.raises(DataError, match=r"a batch is damaged\."):  # what was given is at fault, nothing is lost
        fit(ending(DataError("a batch is damaged."), 0.5), recipe())


def test_an_exception_in_the_callback() -> None:
    def stop(history: wp.History) -> str | None:
        if len(history) == 3:
            raise LookupError("no such rule")
        return None

    with pytest.raises(TrainingError, match="no such rule") as caught:
        fit(rising(), recipe(**LONG), stop=stop)
    assert len(caught.value.run.history) == 3
    assert restored(caught.value.run)


def test_ctrl_c_in_the_data_and_in_a_callback() -> None:
    run = fit(ending(KeyboardInterrupt()), recipe(**LONG, stopping={"patience": 0}))
    assert (run.stopped, len(run.history)) == ("interrupted", 4)
    assert restored(run)

    def stop(history: wp.History) -> str | None:
        if len(history) == 4:
            raise KeyboardInterrupt
        return None

    again = fit(rising(), recipe(**LONG, stopping={"patience": 0}), stop=stop)
    assert again.stopped == "interrupted"
    assert restored(again)


def test_ctrl_c_ends_many_runs() -> None:
    runs = wp.fit_many(ending(KeyboardInterrupt()), [recipe(**LONG)] * 2, seeds=range(3), device="cpu")
    assert [run.stopped for run in runs] == ["interrupted"] * len(runs)
    assert 1 < len(runs) < 6  # those that had begun were trained together; the first of another group came too late


def test_many_runs_are_recipe_by_recipe() -> None:
    runs = wp.fit_many(problem(), [recipe(), recipe(clip=1.0)], seeds=[3, 4], device="cpu")
    assert [(run.recipe.clip, run.seed) for run in runs] == [(0.0, 3), (0.0, 4), (1.0, 3), (1.0, 4)]
    alone = fit(problem(), recipe(), 4)
    for name, weight in alone.model.state_dict().items():
        torch.testing.assert_close(runs[1].model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert runs[1].best_epoch == alone.best_epoch


# Divergence


def test_a_huge_rate_diverges_with_its_history() -> None:
    target = X.sum(1)
    run = fit(
        problem(lambda: nn.Linear(FEATURES, 1), "squared_error", data={"train": (X, target), "valid": (X, target)}),
        recipe(epochs=300, batch_size=16, optimizer={"name": "sgd", "lr": 1e6}),
    )
    assert run.stopped == "diverged"
    assert 0 < len(run.history) < 300
    assert not math.isfinite(run.history["cost"][-1])
    assert "diverged" in [finding.name for finding in wp.diagnose(run)]


def test_best_weights_outlive_a_divergence() -> None:
    class Exploding(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Exploding.calls += self.training
            return super().forward(x) * (math.inf if self.training and Exploding.calls > 3 else 1.0)

    run = fit(problem(lambda: Exploding(FEATURES, CLASSES)), recipe(epochs=9))
    assert (run.stopped, len(run.history)) == ("diverged", 4)
    assert math.isnan(run.history["cost"][-1])
    assert all(torch.isfinite(w).all() for w in weights(run).values())
    assert restored(run)


def test_nan_in_the_first_step() -> None:
    broken = X.clone()
    broken[:, 0] = math.nan
    run = fit(problem(data={"train": (broken, Y)}), recipe())
    assert (run.stopped, len(run.history)) == ("diverged", 1)
    assert math.isnan(run.history["cost"][0])
    assert all(torch.isfinite(w).all() for w in weights(run).values())  # the step was not taken


def test_nan_after_the_last_step() -> None:
    class Root(nn.Module):
        """``sqrt|w| x``: its gradient at 0 is infinite."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(FEATURES, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w.sqrt()

    run = fit(problem(Root), recipe(epochs=1))
    assert run.stopped == "diverged"


# History

COLUMNS = {
    "epoch", "train_loss", "valid_loss", "train_loss_se", "valid_loss_se", "train_metric", "valid_metric", "valid_rise",
    "valid_rise_se", "cost", "penalty", "grad_norm", "weight_norm", "zeros", "lr", "seconds", "watch_seconds",
}  # fmt: skip


def test_a_row_has_every_column_and_each_is_right() -> None:
    terms = [
        {"penalty": "l2", "strength": 0.3, "how": "loss", "on": "0.*"},
        {"penalty": "l1", "strength": 0.05, "on": "3.*"},
        {"penalty": "max_norm", "bound": 3.0, "by": "unit"},
    ]
    run = fit(problem(), recipe(epochs=1, terms=terms))
    row = run.history.rows[0]
    l2, l1 = [key for key in row if key.startswith("term:")]
    assert set(row) == COLUMNS | {l2, l1}
    assert "l2" in l2.lower()
    after, start = weights(run), problem().build({}, 0)
    assert row[l2] == pytest.approx(0.15 * after["0.weight"].square().sum().item(), rel=1e-5)
    assert row[l1] == pytest.approx(0.05 * after["3.weight"].abs().sum().item(), rel=1e-5)
    assert row["penalty"] == pytest.approx(row[l1] + row[l2])
    loss = F.cross_entropy(start(X), Y)
    charged = loss + 0.15 * start[0].weight.square().sum()
    charged.backward()
    assert row["cost"] == pytest.approx(charged.item(), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(
        math.sqrt(sum(float(p.grad.square().sum()) for p in start.parameters())), rel=1e-5
    )
    assert row["weight_norm"] == pytest.approx(
        math.sqrt(sum(w.square().sum().item() for w in after.values())), rel=1e-5
    )
    kernels = torch.cat([after["0.weight"].flatten(), after["3.weight"].flatten()])
    assert row["zeros"] == pytest.approx((kernels == 0).float().mean().item())
    measured = F.cross_entropy(run.model(XV), YV, reduction="none")
    assert row["valid_loss"] == pytest.approx(measured.mean().item(), rel=1e-5)
    assert row["valid_loss_se"] == pytest.approx(measured.std().item() / math.sqrt(30), rel=1e-4)
    assert row["valid_metric"] == pytest.approx((run.model(XV).argmax(1) == YV).float().mean().item())
    assert 0 < row["watch_seconds"] < row["seconds"]
    assert list(run.history.frame().columns) == run.history.columns
    facts = run.history.facts
    assert (facts["epochs_planned"], facts["train_rows"], facts["valid_rows"]) == (1, N, 30)
    assert facts["regularized"] == {"l2 on 0.*": 0.3, "l1 on 3.*": 0.05, "max_norm on weights": 3.0}
    assert facts["constant_loss"] > 0


def test_equally_many_rows_on_both_sides_and_all_validation_rows_to_choose_by() -> None:
    few = fit(problem(data={"train": (X[:20], Y[:20])}), recipe())
    assert few.history.facts["valid_rows"] == 20
    assert fit(problem(), recipe()).history.facts["valid_rows"] == 30
    assert fit(problem(), recipe(), probe_rows=12).history.facts["valid_rows"] == 12


def test_losses_are_like_for_like_whatever_the_noise() -> None:
    """Equal rows on both sides: dropout, smoothing, input noise and penalties must not show in either loss."""
    noisy = recipe(
        noise={"dropout": 0.5, "label_smoothing": 0.2, "input": 1.0},
        terms=[{"penalty": "l2", "strength": 1.0, "how": "loss"}],
    )
    run = fit(problem(data={"valid": (X, Y)}), noisy)
    assert run.history["train_loss"] == run.history["valid_loss"]
    assert run.history["train_loss_se"] == run.history["valid_loss_se"]
    assert run.history["valid_loss"][-1] == pytest.approx(F.cross_entropy(run.model(X), Y).item(), rel=1e-5)
    assert run.history["cost"][-1] > run.history["train_loss"][-1] + 0.1


# Averages


KEPT: dict[str, Callable[[int], float]] = {
    "ratio": lambda t: (1 + t) / (10 + t),
    "power": lambda t: 1 - (1 + t) ** (-2 / 3),
    "none": lambda t: 1.0,
}


@pytest.mark.parametrize("start", ["update", "model"])
@pytest.mark.parametrize("warmup", ["", *KEPT])
def test_exponential_average_by_hand(warmup: str, start: str) -> None:
    given = {"ema": 0.6, "start": start, **({"warmup": warmup} if warmup else {})}
    run = fit(problem(), recipe(epochs=6, averaging=given))
    first = problem().build({}, 0)
    average = weights(first)
    for t in range(6):
        now = weights(by_hand(first, t + 1, lambda p: torch.optim.SGD(p, lr=0.1)))
        kept = min(0.6, KEPT[warmup or "ratio"](t)) if t or start == "model" else 0.0
        average = {k: kept * average[k] + (1 - kept) * w for k, w in now.items()}
    said = f"an average of the weights is kept: ema=0.6, warmup='{warmup or 'ratio'}', start='{start}', buffers='copy'."
    assert str(run.audit()).count("an average of the weights") == str(run.audit()).count(said) == 1
    assert last_is_best(run)
    for key, value in weights(run).items():
        torch.testing.assert_close(value, average[key], rtol=1e-4, atol=1e-6)
    assert run.history["valid_loss"][-1] == pytest.approx(run.evaluate("valid").loss.mean, rel=1e-6)


def test_equal_average_by_hand_with_batch_norm_redone() -> None:
    run = fit(problem(lambda: net(norm=True)), recipe(epochs=8, averaging={"swa": 0.5}))
    assert "is kept: equal, buffers='copy', over the last 50% of the epochs." in str(run.audit())
    start = problem(lambda: net(norm=True)).build({}, 0)
    seen = [by_hand(start, t + 1, lambda p: torch.optim.SGD(p, lr=0.1)) for t in range(4, 8)]
    assert last_is_best(run)
    for key, value in weights(run).items():
        if "running" in key or "tracked" in key:
            continue
        torch.testing.assert_close(value, torch.stack([weights(m)[key] for m in seen]).mean(0), rtol=1e-4, atol=1e-6)
    norm = run.model[0]
    torch.testing.assert_close(norm.running_mean, X.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var, X.var(0), rtol=1e-4, atol=1e-6)


def test_a_step_that_the_scaler_skips_is_not_averaged() -> None:
    device = torch.device("cpu")
    training = Training.begin(problem(), recipe(averaging={"ema": 0.9}), 0, device, math.inf, None)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    assert training.averager is not None
    (index,) = training.batches(0)
    first = training.model[0].weight
    for overflows, counted in ((True, 0), (False, 1), (True, 1), (False, 2)):
        hook = first.register_hook(lambda g, big=overflows: g * float("inf") if big else g)
        training.step(0, index)
        hook.remove()
        assert (training.averager.count, training.optimizer.steps) == (counted, counted)


def test_batch_norm_is_redone_on_mixed_batches() -> None:
    """Rows sorted by class: batches of neighbours would show a variance that is far too small."""
    x = torch.arange(400.0)[:, None].expand(-1, FEATURES) / 100
    run = fit(
        problem(lambda: net(norm=True), data={"train": (x, torch.arange(400) * 3 // 400)}),
        recipe(batch_size=20, averaging={"swa": 0.9}, optimizer={"name": "sgd", "lr": 1e-4}),
    )
    assert run.best_epoch > 0
    assert run.model[0].running_var[0].item() == pytest.approx(x[:, 0].var().item(), rel=0.1)


@pytest.mark.parametrize("averaging", [{"ema": 0.9}, {"swa": 0.6}])
def test_averages_keep_the_zeros(averaging: dict[str, float]) -> None:
    terms = [{"penalty": "l1", "strength": 0.05}]
    run = fit(problem(), recipe(epochs=60, batch_size=16, terms=terms, averaging=averaging, stopping={"patience": 0}))
    plain = fit(problem(), recipe(epochs=60, batch_size=16, terms=terms, stopping={"patience": 0}))
    assert run.history["zeros"][-1] == plain.history["zeros"][-1] > 0.2
    assert run.history["weight_norm"][-1] != plain.history["weight_norm"][-1]


# Noise


def test_dropout_comes_from_the_recipe() -> None:
    def rates(noise: dict[str, float]) -> list[float]:
        run = fit(problem(lambda: net(dropout=0.3)), recipe(noise=noise))
        return [m.p for m in run.model.modules() if isinstance(m, nn.Dropout)]

    assert rates({}) == [0.3]
    assert rates({"dropout": 0.45}) == [0.45]
    assert rates({"dropout": 0.0}) == [0.0]
    with pytest.raises(ProblemError, match="no dropout layer"):
        fit(problem(lambda: nn.Linear(FEATURES, CLASSES)), recipe(noise={"dropout": 0.1}))


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """A model that only drops: the cost of the second moment is ``1/(1-p)``, and other steps draw other masks."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.w = nn.Dropout(0.9), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(x) + 0 * self.w

    ones, zeros = torch.ones(2000, FEATURES), torch.zeros(2000, FEATURES)
    data = {"train": (ones, zeros), "valid": (ones, zeros)}
    run = fit(problem(Dropping, "squared_error", data=data), recipe(batch_size=2000, noise={"dropout": 0.25}))
    assert run.history["cost"] == pytest.approx([FEATURES / 0.75] * 3, rel=0.03)
    assert len(set(run.history["cost"])) == 3
    assert run.history["train_loss"] == [FEATURES] * 3


@pytest.mark.parametrize("binary", [False, True])
def test_label_smoothing_is_torchs(binary: bool) -> None:
    data: dict[str, Any] = {}
    if binary:
        data = {"train": (X, (Y > 0).float()), "valid": (XV, (YV > 0).float())}

        def torchs(f: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
            pair = torch.stack([torch.zeros_like(f[:, 0]), f[:, 0]], 1)
            return F.cross_entropy(pair, y.long(), label_smoothing=0.2, reduction=reduction)
    else:
        torchs = nn.CrossEntropyLoss(label_smoothing=0.2)  # type: ignore[assignment]
    model: Any = (lambda: nn.Linear(FEATURES, 1)) if binary else net
    ours = fit(
        problem(model, "binary_cross_entropy" if binary else "cross_entropy", data=data),
        recipe(noise={"label_smoothing": 0.2}),
    )
    theirs = fit(problem(model, torchs, data=data), recipe())
    for key, value in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[key], value, rtol=1e-5, atol=1e-7)
    assert ours.history["cost"] == pytest.approx(theirs.history["cost"], rel=1e-5)
    if not binary:
        assert ours.history["train_loss"] == pytest.approx(theirs.history["train_loss"], rel=1e-5)


def test_smoothing_is_refused_where_there_are_no_classes() -> None:
    numbers = {"train": (X, X[:, 0]), "valid": (XV, XV[:, 0])}
    with pytest.raises(ProblemError, match="Label smoothing needs the loss cross_entropy"):
        fit(problem(lambda: nn.Linear(FEATURES, 1), "mse", data=numbers), recipe(noise={"label_smoothing": 0.1}))
    with pytest.raises(ProblemError, match="one class index for each row"):
        fit(problem(Tagger, data={"train": (X, MASKED), "valid": (X, MASKED)}), recipe(noise={"label_smoothing": 0.1}))


def test_input_noise_is_a_penalty_on_the_squared_weights() -> None:
    """Bishop's identity: for a linear model the expected cost rises by ``std^2 |w|^2``."""
    x, y = X.repeat(200, 1), X.sum(1).repeat(200)
    data = {"train": (x, y), "valid": (X, X.sum(1))}
    slow = {"batch_size": len(x), "epochs": 1, "optimizer": {"name": "sgd", "lr": 1e-9}}
    linear = problem(lambda: nn.Linear(FEATURES, 1), "squared_error", data=data)
    plain, noisy = (fit(linear, recipe(**slow, noise={"input": std})) for std in (0.0, 0.5))
    wanted = 0.25 * noisy.model.weight.square().sum().item()
    assert noisy.history["cost"][0] - plain.history["cost"][0] == pytest.approx(wanted, rel=0.1)
    assert noisy.history["train_loss"] == plain.history["train_loss"]


def test_input_noise_needs_numbers() -> None:
    tokens = (torch.randint(4, (N, 2)), Y)

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Linear(4, CLASSES))

    with pytest.raises(ProblemError, match="one floating tensor"):
        fit(problem(model, data={"train": tokens, "valid": tokens}), recipe(noise={"input": 0.1}))


# Randomness

NOISY = recipe(
    batch_size=10,
    accumulate=2,
    optimizer={"name": "adam", "lr": 0.01},
    noise={"dropout": 0.3, "label_smoothing": 0.1, "input": 0.1},
    terms=[{"penalty": "l1", "strength": 1e-3}],
    averaging={"ema": 0.9},
)


class Drawing(nn.Module):
    """Everything that draws: initialization on first use, dropout of three kinds, and noise in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.LazyLinear(12), nn.Dropout(0.2)
        self.attend = nn.MultiheadAttention(12, 2, dropout=0.2, batch_first=True)
        self.alpha, self.head = nn.AlphaDropout(0.2), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.drop(self.first(x)))
        h = self.alpha(self.attend(h[:, None], h[:, None], h[:, None])[0][:, 0])
        if self.training:
            h = h + 0.1 * torch.randn_like(h) + random.random() + np.random.rand()  # noqa: NPY002
        out: Tensor = self.head(h)
        return out


class Augmenting(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(FEATURES) + random.random() + np.random.rand()  # noqa: NPY002
        return X[i] + 0.5 * noise, Y[i]


def scramble(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("clean", [True, False])
def test_a_run_is_a_function_of_its_seed(clean: bool) -> None:
    data = {"train": Augmenting(), "valid": Augmenting(), "train_clean": (X, Y) if clean else None}
    runs = []
    for state in (1, 2):
        scramble(state)
        kept = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        runs.append(fit(problem(Drawing, data=data), NOISY, seed=5))
        assert torch.equal(torch.get_rng_state(), kept[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == kept[1:]  # noqa: NPY002
    assert same(*runs)
    assert not same(runs[0], fit(problem(Drawing, data=data), NOISY, seed=6))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_others_draw_between_epochs_changes_nothing() -> None:
    """What a step draws depends on its number alone: a run can be resumed, and callbacks may draw."""

    def stop(history: wp.History) -> None:
        scramble(len(history) + 17)

    plain, drawn = (fit(problem(Drawing), NOISY, stop=s) for s in (None, stop))
    assert same(plain, drawn)


def test_measuring_a_run_draws_nothing() -> None:
    run = fit(problem(data={"train": Augmenting(), "valid": (X, Y)}), recipe())
    scramble(4)
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    run.evaluate("train")
    run.outputs(run.problem.prepared.train)
    assert torch.equal(torch.get_rng_state(), kept[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == kept[1:]  # noqa: NPY002


def test_random_state_comes_back_after_an_exception() -> None:
    scramble(3)
    kept = torch.get_rng_state()
    with pytest.raises(TrainingError):
        fit(ending(OSError("x")), recipe(**LONG))
    assert torch.equal(torch.get_rng_state(), kept)


def test_another_seed_changes_start_and_order() -> None:
    one, two = (Training.begin(problem(), recipe(), s, torch.device("cpu"), math.inf, None) for s in (0, 1))
    assert not torch.equal(weights(one.model)["0.weight"], weights(two.model)["0.weight"])
    orders = [torch.cat(list(t.batches(e))).tolist() for t in (one, two) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(N)) for order in orders)
    wanted = torch.randperm(N, generator=torch.Generator().manual_seed(stream_seed(0, "order", 0)))
    assert orders[0] == wanted.tolist()  # what is published stays: a saved run is repeated by later versions


ZERO: list[dict[str, Any]] = [
    {"terms": [{"penalty": "l1", "strength": 0.0}]},
    {"terms": [{"penalty": "l1", "strength": 0.0, "how": "loss"}]},
    {"terms": [{"penalty": "l2", "strength": 0.0}]},
    {"terms": [{"penalty": "l2", "strength": 0.0, "how": "prox"}]},
    {"terms": [{"penalty": "elastic_net", "strength": 0.0}]},
    {"terms": [{"penalty": "group_l2", "strength": 0.0, "by": "unit"}]},
    {"noise": {"dropout": 0.0, "label_smoothing": 0.0, "input": 0.0}},
    {"averaging": {"ema": 0.0, "swa": 0.0}},
    {"clip": 0.0},
]


@pytest.mark.parametrize("nothing", ZERO, ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_strength_zero_is_plain_training_bit_for_bit(nothing: dict[str, Any], optimizer: str) -> None:
    settings = {"epochs": 4, "batch_size": 10, "optimizer": {"name": optimizer, "lr": 0.02}}
    plain, zero = fit(problem(), recipe(**settings)), fit(problem(), recipe(**settings, **nothing))
    assert all(torch.equal(weights(zero)[k], w) for k, w in weights(plain).items())
    for column in ("train_loss", "valid_loss", "cost", "grad_norm", "lr", "weight_norm"):
        assert zero.history[column] == plain.history[column]


def test_clean_training_rows_are_what_is_measured() -> None:
    run = fit(problem(data={"train": Augmenting(), "train_clean": TensorDataset(X, Y), "valid": (X, Y)}), recipe())
    assert run.history["train_loss"] == run.history["valid_loss"]
    assert run.history["train_loss"][-1] == pytest.approx(F.cross_entropy(run.model(X), Y).item(), rel=1e-5)


def test_augmented_rows_are_measured_under_the_same_noise_each_epoch() -> None:
    still = {"name": "sgd", "lr": 1e-12}
    run = fit(problem(data={"train": Augmenting(), "valid": (X, Y)}), recipe(optimizer=still))
    assert len(set(run.history["train_loss"])) == 1
    assert len(set(run.history["cost"])) == 3
    assert run.history["train_loss"] != run.history["valid_loss"]


def test_fewer_rows() -> None:
    run = fit(problem(), recipe(), rows=20)
    assert run.history.facts["train_rows"] == 20
    assert run.history.facts["valid_rows"] == 20
    assert same(run, fit(problem(), recipe(), rows=20))
    assert same(fit(problem(), recipe(), rows=10**6), fit(problem(), recipe()))


@pytest.mark.parametrize(
    "given", [nn.Linear(2, 1), nn.Linear, None, "problem.py"], ids=["a model", "a class", "None", "a path"]
)
def test_what_is_no_problem(given: Any) -> None:
    says = r"^fit needs a wp\.Problem; it was given .*\. Write wp\.Problem\(model=make_net, loss=\.\.\., data=\.\.\.\), with"
    with pytest.raises(ProblemError, match=says):
        wp.fit(given)


def test_presets_files_and_unknown_names(tmp_path: Any) -> None:
    run = fit(problem(), "baseline", deadline=0.0)
    assert run.recipe == wp.Recipe()
    file = tmp_path / "r.toml"
    file.write_text(recipe(clip=2.0).to_toml())
    assert fit(problem(), str(file)).recipe.clip == 2.0
    with pytest.raises(RecipeError, match="Did you mean 'baseline'"):
        fit(problem(), "basline")


def test_scores_of_a_run() -> None:
    run = fit(problem(), recipe(epochs=30))
    right = (run.model(XV).argmax(1) == YV).double()
    assert run.score("valid") == pytest.approx(right.mean().item())
    assert run.row_scores("valid").tolist() == right.tolist()
    with pytest.raises(ValueError, match="no 'test' rows"):
        run.score("test")
    plain = fit(problem(loss=lambda f, y: F.cross_entropy(f, y)), recipe())
    assert plain.score("valid") == pytest.approx(F.cross_entropy(plain.model(XV), YV).item(), rel=1e-5)
    assert plain.row_scores("valid").mean() == pytest.approx(-plain.score("valid"))


def test_the_baseline_audit_charges_nothing_and_a_recipes_terms_are_shown() -> None:
    assert "not charged" in str(fit(problem(), recipe()).audit())
    run = fit(problem(), recipe(terms=[{"penalty": "l2", "strength": 0.25}]))
    assert "0.25" in str(run.audit())
