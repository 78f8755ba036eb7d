"""`watch` compares like with like in anybody's loop, and leaves the loop as it was."""

from __future__ import annotations

import math
import queue
import random
from collections import UserDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

import wellposed as wp
from wellposed.core.errors import DataError, FormatError, InputError, ProblemError, TargetError
from wellposed.losses.score import Score
from wellposed.training import watch as watching
from wellposed.training.watch import FEWEST, MOST, probe_rows

ROWS, FEATURES, CLASSES = 40, 6, 3


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=draw)
    return x, torch.randint(CLASSES, (ROWS,), generator=draw)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def squared(net: nn.Module, *names: str) -> float:
    """The sum of the squares of these parameters, or of all."""
    return sum(float(p.detach().square().sum()) for n, p in net.named_parameters() if n in names or not names)


def clean(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The loss that both sides should show: evaluation mode, no noise."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    with torch.no_grad():
        value = F.cross_entropy(net(x), y).item()
    for module, mode in modes.items():
        module.training = mode
    return value


# The loop is left as it was


def random_state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global state is what is checked
    return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), *rest


class Augmenting(Dataset[tuple[Tensor, Tensor]]):
    """Draws from all three global generators for each item."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.asked = x, y, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.asked += 1
        noise = float(torch.rand(())) + np.random.rand() + random.random()  # noqa: NPY002
        return self.x[i] + noise, self.y[i]


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_in_the_loop_changes(kept: bool, data: Any, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr(watching, "KEPT_BYTES", 0)
    own = torch.Generator().manual_seed(7)
    loader = DataLoader(Augmenting(*data), batch_size=8, shuffle=True, generator=own)
    net.train()
    net[1].eval()  # partly frozen
    net[0].weight.requires_grad_(False)
    F.cross_entropy(net(data[0]), data[1]).backward()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = random_state()
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    drawn = own.get_state().clone()

    watch = wp.watch(net, "cross_entropy", train=loader, valid=loader)
    watch.epoch()
    watch.epoch()

    assert random_state() == before
    assert torch.equal(own.get_state(), drawn)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())  # batch-norm buffers too
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        assert (p.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(p.grad, gradient)
    assert [p.requires_grad for p in net.parameters()][:2] == [False, True]
    assert torch.is_grad_enabled()


def test_a_loop_that_is_watched_is_the_loop_that_is_not(data: Any) -> None:
    def trained(watched: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        loader = DataLoader(TensorDataset(*data), batch_size=8, shuffle=True)
        watch = wp.watch(net, nn.CrossEntropyLoss(), train=loader, valid=loader) if watched else None
        for _ in range(3):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            if watch is not None:
                watch.epoch()
        return net.state_dict()

    plain = trained(False)
    assert all(torch.equal(value, plain[key]) for key, value in trained(True).items())


def test_an_error_while_watching_leaves_modes_and_random_state(data: Any, net: nn.Module) -> None:
    fails: list[bool] = []

    def failing(model: nn.Module, batch: Any) -> Tensor:
        torch.rand(3)
        if fails:
            raise RuntimeError("no forward today")
        return model(batch[0])  # type: ignore[no-any-return]

    watch = wp.watch(net, "cross_entropy", train=data, valid=data, forward=failing)
    fails.append(True)
    net.train()
    before = random_state()
    with pytest.raises(InputError, match="forward= raised RuntimeError: no forward today") as caught:
        watch.epoch()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert net.training
    assert net[3].training
    assert random_state() == before
    assert len(watch.history) == 0


class Switching(nn.Module):
    """Its train() has side effects, as adapters that merge weights have."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.switched = nn.Linear(FEATURES, CLASSES), 0

    def train(self, mode: bool = True) -> nn.Module:
        self.switched += 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        out: Tensor = self.head(x)
        return out


def test_side_effects_of_train_are_not_called(data: Any) -> None:
    net = Switching()
    wp.watch(net, "cross_entropy", train=data, valid=data).epoch()
    assert net.switched == 0
    assert net.training


# Like for like


def test_equal_weights_give_equal_losses_whatever_training_adds(data: Any, net: nn.Module) -> None:
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.3)
    optimizer = wp.regularize(
        torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L2(1.0).on(wp.weights, how="loss"), wp.MaxNorm(9.0).on("0")]
    )
    watch = wp.watch(net, smoothed, train=data, valid=data, optimizer=optimizer, rows=ROWS)
    net.train()
    row = watch.epoch()
    wanted = clean(net, *data)
    assert row["train_loss"] == pytest.approx(wanted, rel=1e-5)
    assert row["valid_loss"] == row["train_loss"]
    assert row["valid_loss_se"] == row["train_loss_se"] > 0
    assert row["valid_metric"] == row["train_metric"]
    assert row["penalty"] == pytest.approx(0.5 * squared(net, "0.weight", "4.weight"), rel=1e-5)
    assert row["lr"] == 0.1
    assert [c for c in row if c.startswith("term:")] == [f"term:{optimizer.terms[0]}"]


def taken(given: queue.SimpleQueue[Any]) -> list[Any]:
    return [given.get() for _ in range(given.qsize())]


def test_probes_are_equally_large_and_the_same_each_epoch(data: Any, net: nn.Module) -> None:
    given: queue.SimpleQueue[list[int]] = queue.SimpleQueue()  # a list would come back as it was

    class Rows(Dataset[tuple[Tensor, Tensor]]):
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return torch.full((FEATURES,), float(i)), torch.tensor(i % CLASSES)

    def forward(model: nn.Module, batch: Any) -> Tensor:
        given.put(batch[0][:, 0].int().tolist())
        out: Tensor = model(batch[0])
        return out

    watch = wp.watch(net, "cross_entropy", train=Rows(3000), valid=Rows(700), forward=forward)
    assert [len(rows) for rows in taken(given)] == [
        300,
        watching.FEW_ROWS,
    ]  # a whole batch is tried, and the first weights looked at
    for _ in range(3):
        watch.epoch()
    assert watch.rows == round(watching.SHARE * 3000)
    asked = taken(given)
    train, valid = asked[0::2], asked[1::2]
    assert all(rows == train[0] for rows in train)
    assert all(rows == valid[0] for rows in valid)
    assert len(set(train[0])) == len(set(valid[0])) == watch.rows
    assert max(train[0]) > 2500  # drawn from everywhere, not from the front
    assert watch.history.facts["train_rows"] == 3000
    another = wp.watch(net, "cross_entropy", train=Rows(3000), valid=Rows(700), forward=forward, seed=1)
    another.epoch()
    assert taken(given)[-2] != train[0]


def test_rows_that_are_drawn_anew_see_the_same_noise_each_epoch(data: Any, net: nn.Module, monkeypatch: Any) -> None:
    monkeypatch.setattr(watching, "KEPT_BYTES", 0)
    source = Augmenting(*data)
    watch = wp.watch(net, "cross_entropy", train=source, valid=source)
    first, asked = watch.epoch(), source.asked
    torch.rand(1)
    assert watch.epoch()["train_loss"] == first["train_loss"]
    assert source.asked > asked  # they were fetched again


@pytest.mark.parametrize(
    ("train", "valid", "wanted", "size"),
    [(100, 50, None, 50), (2000, 2000, None, 200), (10**6, 10**6, None, MOST), (600, 600, None, FEWEST), (9, 9, 4, 4)],
)
def test_sizes_of_probes(train: int, valid: int, wanted: int | None, size: int) -> None:
    assert probe_rows(train, valid, wanted) == size


def test_a_probe_of_one_row_is_refused(data: Any, net: nn.Module) -> None:
    with pytest.raises(InputError, match="rows= to be a whole number >= 2 or None; it was given 1"):
        wp.watch(net, "cross_entropy", train=data, valid=data, rows=1)


# What a row says


def test_columns(data: Any, net: nn.Module) -> None:
    x, y = data
    watch = wp.watch(net, "cross_entropy", train=data, valid=(x[:20], y[:20]), rows=20)
    assert math.isnan(watch.epoch()["grad_norm"])  # before any backward
    F.cross_entropy(net(x), y).backward()
    with torch.no_grad():
        net[0].weight[:2] = 0.0
    row = watch.epoch()
    parameters = list(net.parameters())
    assert row["grad_norm"] == pytest.approx(math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)), rel=1e-5)
    assert row["weight_norm"] == pytest.approx(math.sqrt(squared(net)), rel=1e-5)
    assert row["zeros"] == pytest.approx(2 * FEATURES / (8 * FEATURES + 8 * CLASSES))
    assert row["epoch"] == 1
    assert 0 < row["watch_seconds"] <= row["seconds"]
    assert 0 < watch.cost <= 1
    with torch.no_grad():
        predicted = net.eval()(x[:20]).argmax(1)
    assert row["valid_metric"] == pytest.approx((predicted == y[:20]).float().mean().item())


def test_paired_rise_since_the_best_epoch(data: Any) -> None:
    x, y = data
    net = nn.Linear(FEATURES, CLASSES)
    watch = wp.watch(net, "cross_entropy", train=data, valid=data)
    losses = []
    for scale in (1.0, 0.0, 2.0):
        with torch.no_grad():
            net.weight.mul_(scale) if scale < 2 else net.weight.add_(1.5 * torch.randn_like(net.weight))
            losses.append(F.cross_entropy(net(x), y, reduction="none").double())
        watch.epoch()
    best = int(np.argmin([loss.mean() for loss in losses[:2]]))
    difference = losses[2] - losses[best]
    row = watch.history.rows[2]
    assert watch.history["valid_rise"][0] == 0
    assert row["valid_rise"] == pytest.approx(difference.mean().item(), rel=1e-4)
    assert row["valid_rise_se"] == pytest.approx(difference.std().item() / math.sqrt(ROWS), rel=1e-4)


def test_sparse_gradients_have_a_norm() -> None:
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, CLASSES))
    x, y = torch.randint(9, (20, 2)), torch.randint(CLASSES, (20,))
    F.cross_entropy(net(x), y).backward()
    row = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y)).epoch()
    squares = sum(float(p.grad.to_dense().square().sum()) for p in net.parameters())
    assert row["grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_the_best_constant_stands_beside_the_curves(data: Any, net: nn.Module) -> None:
    y = torch.tensor([0] * 30 + [1] * 10)
    facts = wp.watch(net, "cross_entropy", train=(data[0], y), valid=(data[0], y), rows=ROWS).history.facts
    assert facts["constant_loss"] == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), abs=0.01)
    assert facts["chance_metric"] == 0.75
    head = nn.Linear(FEATURES, 1)
    facts = wp.watch(head, "squared_error", train=(data[0], y.float()), valid=(data[0], y.float())).history.facts
    assert facts["constant_loss"] == pytest.approx(0.75 * 0.25)
    assert facts["chance_metric"] == pytest.approx(0.0, abs=1e-6)


def test_printing_shows_losses_with_errors_and_the_cost(data: Any, net: nn.Module) -> None:
    watch = wp.watch(net, "cross_entropy", train=data, valid=data)
    assert "no epoch yet" in str(watch)
    assert math.isnan(watch.cost)
    row = watch.epoch()
    text = str(watch)
    assert f"{row['train_loss']:.4f} ± {row['train_loss_se']:.4f}" in text
    assert f"watching {ROWS} train and {ROWS} validation rows took" in text
    assert f"{100 * watch.cost:.1f} % of the time" in text
    assert watch.history.frame().shape == (1, len(watch.history.columns))


def test_regression_by_torchs_loss(data: Any) -> None:
    x, _ = data
    net, y = nn.Linear(FEATURES, 1), x.sum(1)
    row = wp.watch(net, nn.MSELoss(), train=(x, y), valid=(x, y), rows=ROWS).epoch()
    squares = (net(x)[:, 0] - y).square()
    assert row["train_loss"] == pytest.approx(squares.mean().item(), rel=1e-5)
    assert row["train_metric"] == pytest.approx(1 - (squares.sum() / (y - y.mean()).square().sum()).item(), rel=1e-4)


# Batches in every form


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, tokens: Tensor, scale: Tensor | None = None) -> Any:
        scores = self.head(tokens)
        return SimpleNamespace(logits=scores if scale is None else scores * scale[:, None])


Batch = namedtuple("Batch", ["tokens", "labels"])
Three = namedtuple("Three", ["tokens", "scale", "labels"])


def forms(x: Tensor, y: Tensor) -> dict[str, Any]:
    rows = list(zip(x, y, strict=True))
    halves = [slice(0, 25), slice(25, ROWS)]
    one = torch.ones(len(x))
    plain = TensorDataset(x, y)
    named = [{"tokens": a, "labels": b} for a, b in rows]
    return {
        "pair of tensors": (x, y),
        "pair of arrays": (x.numpy().astype(np.float64), y.numpy()),
        "Dataset": plain,
        "loader": DataLoader(plain, batch_size=8, shuffle=True),
        "loader that drops the last": DataLoader(plain, batch_size=32, drop_last=True),
        "loader with collate_fn": DataLoader(
            rows, batch_size=8, collate_fn=lambda items: [torch.stack(p) for p in zip(*items, strict=True)]
        ),
        "weighted loader": DataLoader(plain, batch_size=8, sampler=WeightedRandomSampler(torch.rand(ROWS), ROWS)),
        "list of examples": rows,
        "list of mappings": named,
        "loader of mappings": DataLoader(named, batch_size=8),
        "list of batches": [(x[s], y[s]) for s in halves],
        "list of lists": [[x[s], y[s]] for s in halves],
        "list of named tuples": [Batch(x[s], y[s]) for s in halves],
        "loader of named tuples": DataLoader([Batch(a, b) for a, b in rows], batch_size=8),
        "list of dicts of batches": [{"tokens": x[s], "y": y[s]} for s in halves],
        "list of mappings of batches": [UserDict({"tokens": x[s], "target": y[s]}) for s in halves],
        "three parts": TensorDataset(x, one, y),
        "three arrays": ((x, one), y),
        "named arrays": ({"tokens": x, "scale": one}, y),
        "three named parts in batches": [Three(x[s], one[s], y[s]) for s in halves],
        "parts of a Dataset": Subset(plain, range(ROWS)),
    }


@pytest.mark.parametrize("name", forms(torch.zeros(ROWS, FEATURES), torch.zeros(ROWS)))
def test_every_form_of_batches_gives_the_same_losses(name: str, data: Any) -> None:
    torch.manual_seed(0)
    net = Named()
    wanted = F.cross_entropy(net.head(data[0]), data[1]).item()
    form = forms(*data)[name]
    row = wp.watch(net, "cross_entropy", train=form, valid=form, rows=ROWS).epoch()
    assert row["train_loss"] == pytest.approx(wanted, rel=1e-5)
    assert row["valid_loss"] == pytest.approx(wanted, rel=1e-5)
    assert row["train_metric"] == pytest.approx((net.head(data[0]).argmax(1) == data[1]).float().mean().item())


def test_a_list_of_batches_is_sampled_throughout(data: Any) -> None:
    """Sorted batches: the first ones alone would show one class only."""
    x, y = torch.randn(90, FEATURES), torch.arange(90) // 30
    net = nn.Linear(FEATURES, CLASSES)
    seen: queue.SimpleQueue[Tensor] = queue.SimpleQueue()

    def target(batch: Any) -> Tensor:
        seen.put(batch[1])
        kept: Tensor = batch[1]
        return kept

    batches = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 90, 10)]
    watch = wp.watch(net, "cross_entropy", train=batches, valid=batches[::-1], rows=30, target=target)
    taken(seen)
    watch.epoch()
    found = torch.cat(taken(seen))
    assert len(found) == 60
    assert torch.bincount(found).min() >= 5


def test_custom_forward_target_and_loss() -> None:
    """A masked autoencoder: the batch is one tensor, the target is made of it, the loss is a mean over masked numbers."""
    net, x = nn.Linear(FEATURES, FEATURES), torch.randn(ROWS, FEATURES)
    hidden = torch.rand(ROWS, FEATURES) < 0.4

    def loss(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return (outputs - batch["x"]).square(), batch["hidden"]

    rows = [{"x": a, "hidden": b} for a, b in zip(x, hidden, strict=True)]
    loader = DataLoader(rows, batch_size=16)
    watch = wp.watch(
        net, loss, train=loader, valid=loader, rows=ROWS,
        forward=lambda model, batch: model(batch["x"] * ~batch["hidden"]), target=lambda batch: batch,
    )  # fmt: skip
    row = watch.epoch()
    squares = (net(x * ~hidden) - x).square()
    assert row["train_loss"] == pytest.approx(squares[hidden].mean().item(), rel=1e-5)
    assert row["train_loss_se"] > 0
    assert watch.metric is None


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
def test_masked_tokens_with_classes_last(loss: Any) -> None:
    net = nn.Embedding(9, 5)
    tokens, target = torch.randint(9, (30, 7)), torch.randint(5, (30, 7))
    target[torch.rand(30, 7) < 0.4] = -100
    row = wp.watch(net, loss, train=(tokens, target), valid=(tokens, target), rows=30).epoch()
    keep = target != -100
    assert row["train_loss"] == pytest.approx(F.cross_entropy(net(tokens)[keep], target[keep]).item(), rel=1e-5)
    right = (net(tokens)[keep].argmax(-1) == target[keep]).float().mean()
    assert row["train_metric"] == pytest.approx(right.item(), rel=1e-5)


# Loaders that see a part of their Dataset


def test_loaders_over_parts_of_one_dataset_are_not_mixed_up(data: Any) -> None:
    """Two loaders with SubsetRandomSampler over one Dataset: the whole of it on both sides would hide overfitting."""
    x, y = data
    net = nn.Linear(FEATURES, CLASSES)
    whole, parts = TensorDataset(x, y), ([*range(10, 40)], [*range(10)])
    losses = [F.cross_entropy(net(x[p]), y[p]).item() for p in parts]
    for make in (
        lambda p: DataLoader(whole, batch_size=8, sampler=SubsetRandomSampler(p)),
        lambda p: DataLoader(whole, batch_sampler=BatchSampler(SubsetRandomSampler(p), 8, drop_last=False)),
    ):
        train, valid = map(make, parts)
        watch = wp.watch(net, "cross_entropy", train=train, valid=valid)
        assert watch.rows == 10
        row = watch.epoch()
        assert row["valid_loss"] == pytest.approx(losses[1], rel=1e-5)
        assert watch.history.facts["train_rows"] == 30
        wide = wp.watch(net, "cross_entropy", train=train, valid=train).epoch()
        assert wide["train_loss"] == pytest.approx(losses[0], rel=1e-5)
    train, valid = random_split(whole, [30, 10], generator=torch.Generator().manual_seed(0))
    row = wp.watch(net, "cross_entropy", train=DataLoader(train), valid=DataLoader(valid)).epoch()
    assert row["valid_loss"] == pytest.approx(F.cross_entropy(net(x[valid.indices]), y[valid.indices]).item(), rel=1e-5)


# Refused


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(FEATURES)


class Sizeless(Dataset[Tensor]):
    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(FEATURES)


class Own(SequentialSampler):
    pass


def refused(x: Tensor, y: Tensor) -> dict[str, tuple[Any, str]]:
    rows = TensorDataset(x, y)
    return {
        "iterator": (iter([(x, y)]), "An iterator would be used up by watching"),
        "iterator of a loader": (iter(DataLoader(rows)), "An iterator would be used up"),
        "generator": (((x, y) for _ in range(2)), "An iterator would be used up"),
        "sampler of names": (
            DataLoader(rows, sampler=["a", "b"]),
            "draws with list, whose rows cannot be told.*islice.loader, 8",
        ),
        "no length": (Sizeless(), "must have a length"),
        "loader without length": (DataLoader(Sizeless(), sampler=range(3)), "must have a length"),
        "empty Dataset": ([], "empty"),
        "empty loader": (DataLoader(Subset(rows, []), batch_size=2), "empty"),
        "empty arrays": ((x[:0], y[:0]), "empty"),
        "unequal arrays": ((x, y[:-1]), "equally many rows"),
        "a number": (3, "Data are .*int is none"),
        "inputs without target": (DataLoader([x[0], x[1]]), "Give forward= and target="),
        "mapping without target": ([{"tokens": x[0]}], "target must be one of labels"),
    }


@pytest.mark.parametrize("name", refused(torch.zeros(4, FEATURES), torch.zeros(4)))
@pytest.mark.parametrize("side", ["train", "valid"])
def test_what_cannot_be_watched_is_said_in_a_sentence(name: str, side: str, data: Any, net: nn.Module) -> None:
    given, sentence = refused(*data)[name]
    sides = {"train": data, "valid": data, side: given}
    with pytest.raises(DataError, match=sentence):
        wp.watch(net, "cross_entropy", **sides)


def held(x: Tensor, y: Tensor) -> dict[str, Any]:
    """Every form in which all targets lie in memory."""
    rows = TensorDataset(x, y)
    return {
        "arrays": (x, y),
        "numpy": (x.numpy(), y.numpy()),
        "TensorDataset": rows,
        "part of one": Subset(rows, range(len(y))),
        "loader": DataLoader(rows, batch_size=8, shuffle=True),
        "loader of a part": DataLoader(Subset(rows, range(len(y))), batch_size=8),
        "loader of some rows": DataLoader(rows, batch_size=8, sampler=SubsetRandomSampler(range(len(y)))),
        "loader that weighs": DataLoader(rows, sampler=WeightedRandomSampler([1.0] * len(y), len(y))),
        "batches": list(zip(x.split(8), y.split(8), strict=True)),
        "mappings": [{"x": a, "y": b} for a, b in zip(x.split(8), y.split(8), strict=True)],
    }


@pytest.mark.parametrize("name", held(torch.zeros(2, 1), torch.zeros(2)))
@pytest.mark.parametrize("side", ["train", "valid"])
@pytest.mark.parametrize("label", [CLASSES, -1])
def test_a_label_that_has_no_output_is_found_in_every_row_that_lies_in_memory(
    name: str, side: str, label: int, data: Any, net: nn.Module
) -> None:
    """Each row in its turn, most of which no probe of five has."""
    x, y = data
    words: dict[str, Any] = {"forward": lambda model, batch: model(batch["x"])} if name == "mappings" else {}
    other = held(x, y)[name]
    wp.watch(net, "cross_entropy", other, other, rows=5, **words)
    for row in range(0, ROWS, 3):
        wrong = y.clone()
        wrong[row] = label
        sides = {"train": other, "valid": other, side: held(x, wrong)[name]}
        with pytest.raises(TargetError, match=str(label)):
            wp.watch(net, "cross_entropy", **sides, rows=5, **words)


def test_rows_that_a_loader_leaves_out_may_have_any_label(data: Any, net: nn.Module) -> None:
    x, y = data
    y = y.clone()
    y[::2] = 99
    odd, rows = list(range(1, ROWS, 2)), TensorDataset(x, y)
    for given in (
        DataLoader(rows, sampler=SubsetRandomSampler(odd)),
        DataLoader(Subset(rows, odd)),
        DataLoader(Subset(rows, range(ROWS)), sampler=SubsetRandomSampler(odd)),
        Subset(rows, odd),
    ):
        wp.watch(net, "cross_entropy", given, given, rows=5)


class Mishap(Exception):
    """What nobody but its author expects."""


class Trap:
    """Raises at its n-th call, counted from 0."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Mishap("my own words")


class Trapped(Score):
    """Somebody's own metric."""

    name = "trapped"

    def __init__(self, trap: Trap) -> None:
        self.trap = trap

    def rows(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        self.trap.step()
        return (outputs.argmax(1) == target).double()


class TrappedRows(Dataset[Any]):
    """Somebody's own data."""

    def __init__(self, x: Tensor, y: Tensor, trap: Trap) -> None:
        self.x, self.y, self.trap = x, y, trap

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.trap.step()
        return self.x[i], self.y[i]


@dataclass(frozen=True)
class TrappedPenalty(wp.GroupL2):
    """Somebody's own penalty."""

    trap: Trap = field(default_factory=lambda: Trap(0), compare=False)

    def value(self, w: Tensor) -> Tensor:
        self.trap.step()
        return super().value(w)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        self.trap.step()
        return super().prox(w, step)


def trapped(kind: str, last: int, data: Any) -> dict[str, Any]:
    """What `watch` and `fit` are given, one of which raises in its turn."""
    trap, (x, y) = Trap(last), data

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        trap.step()
        return F.cross_entropy(outputs, target, reduction="none")

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                trap.step()
            return super().forward(x)

    return {
        "model": Net(FEATURES, CLASSES) if kind == "model" else nn.Linear(FEATURES, CLASSES),
        "loss": loss if kind == "loss" else "cross_entropy",
        "metric": Trapped(trap) if kind == "metric" else None,
        "data": TrappedRows(x, y, trap) if kind == "data" else TensorDataset(x, y),
    }


def by_watch(model: nn.Module, loss: Any, metric: Any, data: Any) -> None:
    wp.watch(model, loss, data, data, metric=metric, rows=5).epoch()


def by_fit(model: nn.Module, loss: Any, metric: Any, data: Any) -> None:
    wp.fit(wp.Problem(lambda: model, loss, wp.Data(data, valid=data), metric=metric), wp.Recipe(epochs=1))


SAID = {
    "loss": "the loss 'loss', which was given Tensor of shape",
    "model": "the model in evaluation mode, which was given Tensor of shape",
    "metric": "the metric 'trapped', which was given Tensor of shape",
    "data": "the Dataset, which was given ",
}


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("entry", [by_watch, by_fit])
def test_what_a_persons_own_code_raises_stays_and_says_where(entry: Any, kind: str, data: Any) -> None:
    """Whenever it raises, its exception is what comes out, or the cause of it; a note says whose it is, on which shapes."""
    raised: list[Exception] = []
    for last in range(12):
        try:
            entry(**trapped(kind, last, data))
        except Exception as error:
            raised.append(error)
    assert raised
    for error in raised:
        mishap: BaseException = error
        while mishap.__cause__ is not None:
            mishap = mishap.__cause__
        assert isinstance(mishap, Mishap)
        assert "my own words" in str(error)
        noted = any(SAID[kind] in note for note in getattr(mishap, "__notes__", ()))
        assert noted or (kind == "model" and error is not mishap), "else a sentence of ours says so"


@pytest.mark.parametrize("how", ["prox", "loss"])
def test_what_a_persons_own_penalty_raises_stays_and_says_where(how: str, net: nn.Module, data: Any) -> None:
    term = TrappedPenalty(0.1, trap=Trap(0)).on("0.weight", how=how)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, term)

    def step() -> None:
        (F.cross_entropy(net(data[0]), data[1]) + optimizer.penalty()).backward()
        optimizer.step()

    with pytest.raises(Mishap, match="my own words") as caught:
        step()
    assert "TrappedPenalty(" in caught.value.__notes__[0]
    assert "Parameter of shape (8, 6)" in caught.value.__notes__[0]


def test_a_model_a_loss_and_a_metric_that_are_none(data: Any, net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"an nn\.Module; it was given function"):
        wp.watch(lambda x: x, "cross_entropy", train=data, valid=data)
    with pytest.raises(InputError, match="Did you mean 'cross_entropy'"):
        wp.watch(net, "crossentropy", train=data, valid=data)
    with pytest.raises(InputError, match="There is no metric 'f2'"):
        wp.watch(net, "cross_entropy", train=data, valid=data, metric="f2")
    with pytest.raises(ProblemError, match=r"outputs are \(8, 3\).*targets are \(8, 2\)"):
        wp.watch(net, "squared_error", train=(data[0], data[0][:, :2]), valid=data).epoch()


# Compiled models


def test_a_compiled_model(data: Any, net: nn.Module) -> None:
    compiled = torch.compile(net, backend="eager")
    watch = wp.watch(compiled, "cross_entropy", train=data, valid=data, rows=ROWS)
    compiled.train()
    row = watch.epoch()
    assert row["train_loss"] == pytest.approx(clean(net, *data), rel=1e-5)
    assert compiled.training
    assert net[3].training
    compiled.eval()
    watch.epoch()
    assert not net[3].training


def test_weights_of_an_input_that_is_always_zero_do_not_stand_for_their_layer() -> None:
    """Evenly spaced weights of a wide layer may all belong to one input, which never moves where it is 0 on every row."""
    from wellposed.training import loop_activity

    first = torch.nn.Linear(64, 256)
    before = loop_activity.samples(first)
    with torch.no_grad():
        first.weight[:, 1:] += 1.0
    assert loop_activity.distances(before, loop_activity.samples(first))["weight"] > 0
    untouched = loop_activity.distances(loop_activity.samples(first), loop_activity.samples(first))
    assert untouched == {"weight": 0.0, "bias": 0.0}


@pytest.mark.parametrize("longest", [[4, 6], [6, 6]])
def test_tokens_of_batches_that_are_padded_to_their_own_longest_row(longest: list[int]) -> None:
    """Losses and accuracy count the tokens that are there, whatever a batch is padded to; a diagnosis reads them too."""
    draw = torch.Generator().manual_seed(0)
    lengths = [4] * 16 + longest * 8
    texts = [torch.randint(9, (length,), generator=draw) for length in lengths]
    rows = [(text, text % 5) for text in texts]

    def padded(some: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        both = [
            nn.utils.rnn.pad_sequence(list(part), batch_first=True, padding_value=0) for part in zip(*some, strict=True)
        ]
        both[1][torch.arange(both[1].shape[1]) >= torch.tensor([len(text) for text, _ in some])[:, None]] = -100
        return both[0], both[1]

    net, loader = nn.Embedding(9, 5), DataLoader(rows, batch_size=4, collate_fn=padded)
    watch = wp.watch(net, "cross_entropy", loader, loader, rows=32)
    row = watch.epoch()
    tokens = torch.cat(texts)
    assert row["valid_loss"] == pytest.approx(F.cross_entropy(net(tokens), tokens % 5).item(), rel=1e-5)
    assert row["valid_metric"] == pytest.approx((net(tokens).argmax(1) == tokens % 5).float().mean().item(), rel=1e-5)
    assert wp.diagnose(watch)


def test_a_watch_goes_on_from_its_state(data: Any, net: nn.Module) -> None:
    first, second = (wp.watch(net, "cross_entropy", data, data, share=1) for _ in range(2))
    first.epoch()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    rows = [{key: value for key, value in one.epoch().items() if "seconds" not in key} for one in (first, second)]
    assert rows[1] == pytest.approx(rows[0], nan_ok=True)
    assert rows[1]["epoch"] == 1
    assert rows[1]["valid_rise"] != 0
    with pytest.raises(FormatError, match="schema"):
        second.load_state_dict({**first.state_dict(), "schema": 99})


GONE = object()
ODD = (GONE, None, "x", -1, 1.5, math.nan, math.inf, 10**400, b"x", [], {}, {"a": 1}, torch.ones(3))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every part of a nested value lies."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in inside:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A nested value with another part at one place."""
    if not at:
        return new
    inside = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    inside[at[0]] = changed(inside[at[0]], at[1:], new)
    if inside[at[0]] is GONE:
        del inside[at[0]]
    return inside if isinstance(value, dict) else type(value)(inside.values())


def test_a_damaged_state_is_taken_right_or_refused_in_a_sentence(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    first = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y))
    for _ in range(2):
        F.cross_entropy(net(x), y).backward()
        first.epoch()
    state, refused = first.state_dict(), list[str]()
    for number, at in enumerate(places(state)):
        second = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y))
        try:
            second.load_state_dict(changed(state, at, ODD[number % len(ODD)]))
        except wp.WellposedError as error:
            refused.append(str(error))
            continue
        second.epoch()
        str(second)
        wp.diagnose(second)
    assert len(refused) > 20
    assert not [said for said in refused if "\n" in said]
