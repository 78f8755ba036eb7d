"""Continuations from one state: they are what the training would have been, and what a change is worth is judged honestly."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.decomposition.learning_curve import Level, RecipeCurve
from wellposed.decomposition.price import CHANGED, UNCHANGED, price_of
from wellposed.training.continuation import begun_anew, continue_from
from wellposed.training.loop import Training

CLASSES, FEATURES = 3, 6


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=draw)
    return x, (x[:, :CLASSES] + 0.5 * torch.randn(count, CLASSES, generator=draw)).argmax(1)


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))


@pytest.fixture(scope="module")
def problem() -> wp.Problem:
    return wp.Problem(make, "cross_entropy", wp.Data(train=rows(120, 0), valid=rows(200, 1)))


@pytest.fixture(scope="module")
def slow(problem: wp.Problem) -> wp.Run:
    """A run whose learning rate is far too low."""
    return wp.fit(problem, wp.Recipe(epochs=3, optimizer={"lr": 1e-5}, batch_size=30), seed=4)


@pytest.mark.parametrize(
    "optimizer",
    [{"name": "adamw", "lr": 1e-3}, {"name": "sgd", "lr": 0.1, "momentum": 0.9}, {"name": "rmsprop", "lr": 1e-3}],
)
def test_going_on_is_what_the_training_would_have_been(optimizer: dict[str, Any], problem: wp.Problem) -> None:
    recipe = wp.Recipe(
        epochs=6, optimizer=optimizer, batch_size=30, stopping={"patience": 0, "keep": "last"},
        terms=[wp.L1(1e-3).on(wp.weights)], noise={"label_smoothing": 0.1},
    )  # fmt: skip
    whole = wp.fit(problem, recipe, seed=3)
    on = continue_from(wp.fit(problem, recipe.replace(epochs=4), seed=3)).go_on(recipe, 2, 3)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(on.model.state_dict()[key], value), key
    assert on.history["train_loss"] == whole.history["train_loss"][4:]


def test_a_fork_shows_the_change_that_helps_and_no_other(slow: wp.Run) -> None:
    before = {key: value.clone() for key, value in slow.model.state_dict().items()}
    state = torch.get_rng_state()
    found = wp.fork(slow, [{"optimizer": {"lr": 0.02}}, {"clip": 1e3}, {"optimizer": {"lr": 1e-7}}], epochs=6)
    assert found.best.says == "lr 1e-05 -> 0.02"
    assert not found[2].gain.shown
    assert "2 times" not in str(found)
    assert len(found) == 4
    assert len(found[0].runs) == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in slow.model.state_dict().items())
    assert found.to_dict()["branches"][1]["gain"]["shown"] is True


def test_a_fork_after_fewer_epochs_begins_there(slow: wp.Run) -> None:
    found = wp.fork(slow, [{"clip": 1.0}], epochs=1, at=1, repeats=1)
    assert found.after == 1
    assert found[0].runs[0].history["train_loss"][0] == pytest.approx(slow.history["train_loss"][1], rel=1e-6)
    with pytest.raises(InputError, match="has 3 epochs, so it cannot go on after 9"):
        wp.fork(slow, [{"clip": 1.0}], at=9)


def test_the_figure_of_a_fork_is_written(slow: wp.Run, tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    path = wp.fork(slow, [{"optimizer": {"lr": 0.02}}], epochs=2, repeats=2).figure(tmp_path / "fork.svg")
    assert "just go on" in path.read_text()


def test_what_cannot_be_gone_on_with_is_said(problem: wp.Problem) -> None:
    own = wp.fit(problem, wp.Recipe(epochs=2, optimizer={"lr": 1e-3}), optimizer=lambda ps: torch.optim.SGD(ps, lr=1.0))
    with pytest.raises(InputError, match="trained in another way"):
        wp.fork(own, [{"clip": 1.0}])
    with pytest.raises(InputError, match="from a Run or a Watch"):
        wp.fork({"loss": [1.0]}, [{"clip": 1.0}])
    x, y = rows(60, 0)
    with pytest.raises(InputError, match="knows its optimizer"):
        wp.fork(wp.watch(make(), "cross_entropy", train=(x, y), valid=(x, y)), [{"clip": 1.0}])


# --- a loop of one's own --------------------------------------------------------------------------------------------


def looped(
    rate: float, epochs: int = 3, groups: bool = False, **given: Any
) -> tuple[nn.Module, torch.optim.Optimizer, wp.Watch]:
    torch.manual_seed(0)
    net = make()
    named = dict(net.named_parameters())
    parts = [
        {"params": [p for name, p in named.items() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for name, p in named.items() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(parts if groups else net.parameters(), lr=rate)
    train = DataLoader(TensorDataset(*rows(120, 0)), 30, shuffle=True)
    watch = wp.watch(net, "cross_entropy", train=train, valid=rows(200, 1), optimizer=optimizer, **given)
    for _ in range(epochs):
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        watch.epoch()
    return net, optimizer, watch


@pytest.mark.parametrize("groups", [False, True])
def test_a_watched_loop_is_forked_where_it_is_and_left_as_it_was(groups: bool) -> None:
    net, optimizer, watch = looped(1e-5, groups=groups)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    memory = {id(p): optimizer.state[p]["exp_avg"].clone() for p in net.parameters()}
    state, notes = torch.get_rng_state(), len(watch.notes.forwards)
    start = continue_from(watch)
    model = start.problem.build({}, 0)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    found = wp.fork(watch, [{"optimizer": {"lr": 0.02}}], epochs=6)
    assert found.best.says == "lr 1e-05 -> 0.02"
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert all(torch.equal(optimizer.state[p]["exp_avg"], memory[id(p)]) for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert len(watch.notes.forwards) == notes
    assert len(watch.history) == 3


class Rare:
    """Draws rows of the first ten again and again, by a generator of its own or the global one."""

    def __init__(self, own: Any) -> None:
        self.own, self.passes = own, 0

    def __len__(self) -> int:
        return 60

    def __iter__(self) -> Any:
        self.passes += 1
        yield from (
            self.own.integers(10, size=60).tolist()
            if isinstance(self.own, np.random.Generator)
            else torch.randint(10, (60,), generator=self.own).tolist()
        )


class BatchesOf:
    """Batches of its draws, as a sampler of batches gives them."""

    def __init__(self, sampler: Rare) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        numbers = list(self.sampler)
        yield from (numbers[:30], numbers[30:])


@pytest.mark.parametrize(
    "own", [None, torch.Generator().manual_seed(3), np.random.default_rng(3), "weighted", "batches"]
)
def test_a_continuation_draws_as_the_loops_own_sampler_does(own: Any) -> None:
    """Rows that it repeats or leaves out are repeated and left out; each epoch and seed has draws of its own."""
    data, rare = TensorDataset(*rows(120, 0)), Rare(None if isinstance(own, str) else own)
    weights = torch.tensor([1.0] * 10 + [0.0] * 110)
    how: Any = {
        "weighted": {"sampler": WeightedRandomSampler(weights, 60), "batch_size": 30},
        "batches": {"batch_sampler": BatchesOf(rare)},
    }
    given = how[own] if isinstance(own, str) else {"sampler": rare, "batch_size": 30}
    net = make()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    watch = wp.watch(net, "cross_entropy", DataLoader(data, **given), rows(50, 1), optimizer=optimizer)
    state = str(rare.own.bit_generator.state) if isinstance(rare.own, np.random.Generator) else ""
    start = continue_from(watch)

    def drawn(seed: int, epoch: int) -> list[int]:
        training = Training.begin(start.problem, start.recipe, seed, torch.device("cpu"), math.inf, None)
        training.sampler = start.sampler
        return torch.cat(list(training.batches(epoch))).tolist()

    first = drawn(0, 0)
    assert len(first) == 60
    assert set(first) <= set(range(10))
    assert first == drawn(0, 0)
    assert first not in (drawn(0, 1), drawn(1, 0))
    watch.epoch()
    assert len(wp.fork(watch, [{"clip": 1.0}], epochs=1)[0].runs) == 3
    assert rare.passes == 0
    assert not state or state == str(rare.own.bit_generator.state)


def sorted_loop() -> wp.Watch:
    """A loop over a loader that goes through rows sorted by class, one after the other."""
    torch.manual_seed(0)
    net, (x, y) = make(), rows(120, 0)
    order = y.argsort(stable=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    train = DataLoader(TensorDataset(x[order], y[order]), 10)
    watch = wp.watch(net, "cross_entropy", train, rows(200, 1), optimizer=optimizer)
    for _ in range(6):
        for a, b in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(a), b).backward()
            optimizer.step()
        watch.epoch()
    return watch


def test_rows_that_a_loop_does_not_shuffle_are_not_and_the_proof_shuffles_them() -> None:
    watch = sorted_loop()
    start = continue_from(watch)
    assert start.sampler is not None
    assert start.sampler(3).tolist() == list(range(120))
    found = wp.diagnose(watch, prove="0.1s")
    named = next(one for one in found if one.name == "unshuffled")
    assert [change.says for change in named.changes] == ["rows shuffled"]
    assert found.proof is not None
    assert "rows shuffled" in [branch.says for branch in found.proof]
    best = wp.fork(watch, named.changes, epochs=8).best
    assert best.says == "rows shuffled"
    assert best.start.sampler is None


def test_a_training_is_begun_anew_where_no_step_leads_back() -> None:
    """Units that are silent on every row have no gradient."""
    torch.manual_seed(0)
    net, (x, y) = make(), rows(120, 0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    watch = wp.watch(net, "cross_entropy", (x, y), rows(200, 1), optimizer=optimizer)
    with torch.no_grad():
        net[1].bias.fill_(-100.0)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        watch.epoch()
    start, before = continue_from(watch), net[1].bias.detach().clone()
    anew = begun_anew(start)
    assert not anew.here.model[1].bias.any()
    assert torch.equal(anew.state.weights["0.weight"], begun_anew(start).state.weights["0.weight"])
    found = wp.diagnose(watch, prove="0.1s")
    assert torch.equal(net[1].bias, before)
    changes = [change for one in found for change in one.changes if change.says.startswith("begun anew")]
    assert found.proof is not None
    assert changes[0].says in [branch.says for branch in found.proof]
    assert wp.fork(watch, changes[:1], epochs=30).best.says == changes[0].says


@pytest.mark.parametrize("how", ["bare", "terms", "groups", "turned"])
def test_a_continuation_has_the_memory_of_the_loops_own_optimizer(how: str) -> None:
    """Whether it is wrapped or not, and in whatever order and groups it was given the weights."""
    torch.manual_seed(0)
    net, (x, y) = make(), rows(120, 0)
    weights = list(net.parameters())
    given: Any = {"groups": [{"params": weights[1:]}, {"params": weights[:1]}], "turned": weights[::-1]}.get(
        how, weights
    )
    optimizer: Any = torch.optim.AdamW(given, lr=1e-3, weight_decay=0.0)
    if how == "terms":
        optimizer = wp.regularize(optimizer, net, [wp.L2(0.1).on(wp.weights)])
    watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y), optimizer=optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    watch.epoch()
    start = continue_from(watch)
    training = Training.begin(
        start.problem, start.recipe, 0, torch.device("cpu"), math.inf, None, None, start.make(start.recipe)
    )
    start.state.enter(training)
    for mine, theirs in zip(net.parameters(), training.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(optimizer.state[mine]["exp_avg"], training.optimizer.state[theirs]["exp_avg"])
    other = Training.begin(
        start.problem, start.recipe.replace(optimizer={"name": "adam"}), 0, torch.device("cpu"), math.inf, None
    )
    start.state.enter(other)
    assert not other.optimizer.state  # that of another optimizer means nothing to it


@pytest.mark.usefixtures("own_clock")
def test_a_verdict_runs_the_experiment(slow: wp.Run) -> None:
    for source in (slow, looped(1e-5)[2]):
        found = wp.diagnose(source, prove="2s")
        assert found.proof is not None
        assert found.proof.best.gain.shown
        assert "lr 1e-05 ->" in found.proof.best.says
        assert "lowers the validation loss" in str(found)
        assert found.to_dict()["proof"]["branches"]
    with pytest.raises(InputError, match="how long to try"):
        wp.diagnose(slow, prove="soon")
    with pytest.raises(InputError, match="from a Run or a Watch"):
        wp.diagnose({"loss": [1.0, 0.5, 0.2], "val_loss": [1.0, 0.5, 0.2]}, prove="2s")


# --- what a change is worth in rows ---------------------------------------------------------------------------------


def planted(ratio: float, draws: int = 6, noise: float = 0.02) -> Any:
    """Two learning curves, of which that with the change is the other one with so many times the rows."""
    draw = torch.Generator().manual_seed(0)
    counts = (50, 100, 200, 400, 800)

    def levels(times: float) -> tuple[Level, ...]:
        each = torch.randn(300, 1, generator=torch.Generator().manual_seed(1)).numpy() * 0.1
        return tuple(
            Level(n, 0.0, None, None, (10.0 / (times * n)) ** 0.5 + each  # type: ignore[arg-type]
                  + noise * torch.randn(300, draws, generator=draw).numpy())
            for n in counts
        )  # fmt: skip

    curves = tuple(
        RecipeCurve(name, wp.Recipe(), levels(times), None, None, "")
        for name, times in ((UNCHANGED, 1.0), (CHANGED, ratio))
    )
    return wp.LearningCurve(curves, "mse", "valid", 300, draws, 0.05)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.6, 3.0])
def test_rows_that_a_change_is_worth_are_found(ratio: float) -> None:
    found = price_of(planted(ratio))
    assert found.ratio == pytest.approx(ratio, rel=0.15)
    assert found.low <= ratio * 1.05
    assert found.high >= ratio * 0.95
    assert found.shown == (ratio > 1)


def test_a_price_is_asked_in_rows_recipes_or_terms(problem: wp.Problem) -> None:
    base = wp.Recipe(epochs=3, batch_size=30)
    same = wp.price(problem, {"clip": 1e6}, base, sizes=(0.25, 0.5, 1.0), repeats=2)
    assert not same.shown
    assert same.ratio == pytest.approx(1.0, rel=0.05)
    worse = wp.price(problem, wp.L2(50.0).on(), base, sizes=(0.25, 0.5, 1.0), repeats=2)
    assert not worse.shown
    assert worse.to_dict()["shown"] is False


@pytest.mark.parametrize(
    ("last", "scale", "named", "says"),
    [
        (nn.Softmax(1), 1.0, "wrong_output", "without the last activation"),
        (None, 1e3, "unscaled_inputs", "begun anew, inputs standardized"),
    ],
)
def test_faults_of_the_last_layer_and_of_the_inputs_have_a_branch(
    last: Any, scale: float, named: str, says: str
) -> None:
    torch.manual_seed(0)
    net, (x, y) = make(), rows(120, 0)
    if last is not None:
        net.append(last)
    other, labels = rows(200, 1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    watch = wp.watch(net, "cross_entropy", (scale * x, y), (scale * other, labels), optimizer=optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(scale * x), y).backward()
        optimizer.step()
        watch.epoch()
    before = copy.deepcopy(net.state_dict())
    found = wp.diagnose(watch, prove="0.1s")
    finding = next(one for one in found if one.name == named)
    assert finding.changes[0].says.startswith(says)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    branch = wp.fork(watch, finding.changes[:1], epochs=8, repeats=1)[1]
    assert branch.says.startswith(says)
    assert branch.loss < math.log(CLASSES)
