"""Faulty programs that others published, rebuilt small, with the published faults as the right answer.

    python -m benchmarks.planted.published [--further] [--seeds 1] [--json FILE] [--data ../shared/data]

Two papers judge tools by one list of 52 faulty Keras programs from Stack Overflow and GitHub: DeepFD (Cao et al., ICSE 2022) and
DEFault (Jahan et al., ICSE 2025), which diagnoses 63.5 % of them and detects 94 %. The list with its faults and patches is
``Benchmark/Benchmark-with-patches.xlsx`` in ArabelaTso/DeepFD; many of the programs are in Wardat-ISU/DeepLocalize. Each
program below keeps the published network, loss, optimizer, rate, epochs and batch, in plain torch with Keras's initialization
and losses of probabilities. Widths, rows and images are smaller where they are only expensive, and data that are not at
hand are drawn in the same shape.

A program is **diagnosed** where a finding names one of the published faults (a fault category has the names in `NAMES`), and
**detected** where any fault is found. What cannot be had: 41372874 (published as correct), 39810655 (its fault shows in no run),
41947039 (nothing is told of it), and 72328867 to the letter (its table is not at hand; one of the same shape is drawn).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.planted import data
from benchmarks.planted.judging import write_curves
from benchmarks.planted.score import rate, share
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp
from wellposed.core.files import jsonable, write_atomically

NAMES = {
    "rate too low": ("rate_too_low", "slow", "undertrained"),
    "rate too high": ("rate_too_high", "diverged", "oscillates", "exploding_gradients"),
    "optimizer": ("rate_too_low", "slow", "rate_too_high", "oscillates"),
    "epochs": ("undertrained", "slow", "too_few_steps"),
    "output": ("wrong_output",),
    "activation": ("vanishing_gradients", "dying_units", "dead_layers"),
    "loss": ("wrong_loss",),
    "scales": ("unscaled_inputs",),
    "batch": ("batch_too_small", "noisy_evidence"),
    "layers": ("overfits", "overconfident", "underfits", "vanishing_gradients"),
    "labels": ("wrong_loss", "wrong_output", "wrong_targets"),
    "start": ("exploding_gradients", "vanishing_gradients", "equal_units"),
    "regularizer": ("over_regularized",),
    "target scales": ("wrong_targets",),
}
"""What this project calls a published fault; "output" is the last activation, "labels" are targets that are prepared wrongly."""
HARMLESS = {"healthy", "noisy_evidence", "not_enough_evidence"}
EPSILON = 1e-7
Pair = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def binary(outputs: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities, cut off near 0 and 1."""
    p = outputs.clamp(EPSILON, 1 - EPSILON)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def categorical(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of outputs that are scaled to sum to 1, cut off near 0 and 1, against 0/1 rows."""
    p = (outputs / outputs.sum(-1, keepdim=True)).clamp(EPSILON, 1 - EPSILON)
    return -(y * p.log()).sum(-1).mean()


LOSSES: dict[str, Loss] = {
    "binary": binary, "categorical": categorical, "squared": nn.MSELoss(), "absolute": nn.L1Loss(),
}  # fmt: skip
ACTIVATIONS = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "linear": nn.Identity,
    "softmax": lambda: nn.Softmax(-1), "flat": nn.Flatten,
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A program: what it trains on what, and how."""

    net: nn.Module
    loss: str | Loss
    train: Pair
    valid: Pair
    optimizer: str
    lr: float
    epochs: int
    batch: int
    momentum: float = 0.0
    shuffle: bool = True
    decay: float = 0.0


@dataclass(frozen=True)
class Program:
    """A published program: its number, its published faults, and how it is built."""

    post: str
    faults: tuple[str, ...]
    build: Callable[[int], Setup]

    @property
    def right(self) -> frozenset[str]:
        """The names that diagnose it."""
        return frozenset(name for fault in self.faults for name in NAMES[fault])

    def watched(self, seed: int) -> wp.Watch:
        """Train it, watched."""
        torch.manual_seed(seed)
        its = self.build(seed)
        settings: dict[str, Any] = {"momentum": its.momentum, "nesterov": True} if its.momentum else {}
        if its.optimizer == "Adam":
            settings["eps"] = 1e-7
        if its.decay:
            settings["weight_decay"] = its.decay
        optimizer = getattr(torch.optim, its.optimizer)(its.net.parameters(), lr=its.lr, **settings)
        loss = LOSSES[its.loss] if isinstance(its.loss, str) else its.loss
        loader = DataLoader(TensorDataset(*its.train), batch_size=its.batch, shuffle=its.shuffle)
        valid = DataLoader(TensorDataset(*its.valid), batch_size=256)
        watch = wp.watch(its.net, loss, train=loader, valid=valid, optimizer=optimizer, share=1)
        for _ in range(its.epochs):
            its.net.train()
            for x, y in loader:
                optimizer.zero_grad()
                loss(its.net(x), y).backward()
                optimizer.step()
            watch.epoch()
        return watch


PROGRAMS: dict[str, Program] = {}


def program(
    post: str, *faults: str, into: dict[str, Program] = PROGRAMS
) -> Callable[[Callable[[int], Setup]], Callable[[int], Setup]]:
    """Register what builds a program."""

    def registered(build: Callable[[int], Setup]) -> Callable[[int], Setup]:
        into[post] = Program(post, faults, build)
        return build

    return registered


# Networks and data


def begun(net: nn.Sequential, how: str = "glorot") -> nn.Sequential:
    """Weights as Keras begins them; biases at 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            if how == "glorot":
                nn.init.xavier_uniform_(layer.weight)
            elif how == "uniform":
                nn.init.uniform_(layer.weight, -0.05, 0.05)
            else:
                nn.init.normal_(layer.weight, std=1.0 if how == "wide" else 0.05)
            nn.init.normal_(layer.bias, std=1.0 if how == "wide" else 0.0)
    return net


def dense(features: int, *layers: int | str | float, how: str = "glorot") -> nn.Sequential:
    """Whole numbers are layers, names activations, shares dropout: ``dense(20, 50, "relu", 0.5, 1, "sigmoid")``."""
    made: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, int):
            made.append(nn.Linear(features, layer))
            features = layer
        else:
            made.append(nn.Dropout(layer) if isinstance(layer, float) else ACTIVATIONS[layer]())
    return begun(nn.Sequential(*made), how)


def hot(y: Tensor, count: int) -> Tensor:
    """Classes as rows of 0 and 1."""
    return functional.one_hot(y, count).float()


def cut(x: Tensor, y: Tensor, part: float = 0.8, seed: int = 0) -> tuple[Pair, Pair]:
    """Rows in random order, in two parts."""
    order = torch.randperm(len(x), generator=data.random(seed))
    many = int(part * len(x))
    return (x[order[:many]], y[order[:many]]), (x[order[many:]], y[order[many:]])


def digits(rows: int, seed: int, *, scale: float = 1.0, flat: bool = False) -> tuple[Pair, Pair]:
    """Handwritten digits in [0, scale], with 0/1 rows."""
    split = data.images("mnist", rows, 400, seed, scaled=False)
    return tuple((scale * (x.flatten(1) if flat else x), hot(y, 10)) for x, y in (split.train, split.valid))


def pictures(rows: int, seed: int, *, scale: float = 1.0) -> tuple[Pair, Pair]:
    """Small color pictures in [0, scale], with 0/1 rows."""
    split = data.images("cifar10-sub", rows, 400, seed, scaled=False)
    return tuple((scale * x, hot(y, 10)) for x, y in (split.train, split.valid))


def normal(rows: int, features: int, seed: int) -> Tensor:
    """Standard normal inputs."""
    return torch.randn(rows, features, generator=data.random(seed))


def even(rows: int, features: int, seed: int) -> Tensor:
    """Inputs that are uniform in [0, 1]."""
    return torch.rand(rows, features, generator=data.random(seed))


def raw_table(name: str, rows: int, seed: int) -> tuple[Pair, Pair]:
    """A table as it is, unscaled, with 0/1 rows."""
    split = data.table(name, rows, 200, seed, scaled=False)
    return tuple((x, hot(y, split.outputs)) for x, y in (split.train, split.valid))


def flowers(seed: int, *, scaled: bool = False, part: float = 0.8) -> tuple[Pair, Pair]:
    """The irises."""
    from sklearn.datasets import load_iris

    loaded = load_iris()
    x, y = torch.tensor(loaded.data, dtype=torch.float32), torch.tensor(loaded.target)
    return cut((x - x.mean(0)) / x.std(0) if scaled else x, hot(y, 3), part, seed)


EXCLUSIVE_OR: Pair = (
    torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
    torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
)

# Programs of Stack Overflow, by the number of the question


@program("48385830", "rate too high", "output", "loss", "activation", "start")
def _(seed: int) -> Setup:
    net = dense(196, 30, "linear", 10, how="wide")
    return Setup(net, "squared", *digits(1500, seed, flat=True), "SGD", 3.0, 15, 10)


@program("44164749", "rate too low", "epochs", "output", "loss")
def _(seed: int) -> Setup:
    net = dense(196, 500, "relu", 0.1, 100, "relu", 0.1, 10, "softmax")
    return Setup(net, "categorical", *digits(3000, seed, flat=True), "SGD", 0.01, 5, 200, 0.9)


@program("31556268", "rate too low", "epochs", "loss", "optimizer")
def _(seed: int) -> Setup:
    net = dense(2, 4, "sigmoid", 1, "sigmoid")
    return Setup(net, "absolute", EXCLUSIVE_OR, EXCLUSIVE_OR, "SGD", 0.05, 400, 4, 0.11)


@program("50306988", "rate too low", "epochs")
def _(seed: int) -> Setup:
    x = torch.cat([0.2 + 0.2 * even(100, 2, seed), 0.5 + 0.2 * even(100, 2, seed + 1)])
    y = hot((torch.arange(200) >= 100).long(), 2)
    return Setup(dense(2, 2, "sigmoid", 2, "softmax"), "categorical", *cut(x, y, 0.8, seed), "Adam", 1e-3, 5, 32)


@program("48251943", "output")
def _(seed: int) -> Setup:
    x = normal(40, 2, seed)
    y = 0.3 + (x @ torch.tensor([[0.5], [-0.4]])) + 0.3 * normal(40, 1, seed + 1)
    return Setup(dense(2, 4, "relu", 1, "relu"), "squared", *cut(x, y, 0.75, seed), "SGD", 0.01, 50, 10)


@program("38648195", "output", "loss", "epochs")
def _(seed: int) -> Setup:
    from sklearn.datasets import make_multilabel_classification

    x, y = make_multilabel_classification(n_samples=3000, n_features=20, n_classes=3, random_state=seed)
    net = dense(20, 20, "relu", 0.5, 20, "relu", 0.5, 3, "softmax")
    pairs = cut(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), 0.8, seed)
    return Setup(net, "squared", *pairs, "SGD", 0.01, 20, 20)


@program("33969059", "output")
def _(seed: int) -> Setup:
    x = 10_000 * even(3000, 3, seed)
    y = x @ torch.tensor([[2.0], [1.0], [0.5]]) + 2.2
    net = dense(3, 3, "tanh", 0.5, 2, "tanh", 0.5, 1, "softmax", how="uniform")
    return Setup(net, "squared", *cut(x, y, 0.8, seed), "SGD", 0.1, 20, 32, 0.9)


@program("55328966", "output", "optimizer", "scales")
def _(seed: int) -> Setup:
    net = dense(196, 196, 50, "relu", 10, "sigmoid")
    return Setup(net, "categorical", *digits(2500, seed, scale=255, flat=True), "SGD", 1e-4, 10, 32)


@program("34311586", "rate too low", "output", "activation", "epochs")
def _(seed: int) -> Setup:
    x, y = (torch.cat([part, part[:2]]) for part in EXCLUSIVE_OR)
    net = dense(2, 2, "sigmoid", 3, "sigmoid", 1, "softmax", how="uniform")
    return Setup(net, "squared", (x, y), (x, y), "SGD", 0.001, 20, 32, 0.9)


@program("31880720", "output", "epochs")
def _(seed: int) -> Setup:
    x = torch.cat([torch.ones(1000, 128), torch.zeros(1000, 128)])
    y = x[:, :1].clone()
    net = dense(128, 50, "relu", "relu", 0.2, 50, "relu", 0.2, 1, "softmax")
    return Setup(net, "binary", *cut(x, y, 0.9, seed), "RMSprop", 1e-3, 3, 8)


@program("39525358", "activation", "rate too low", "scales")
def _(seed: int) -> Setup:
    rows = torch.tensor([[65.0, 66, 67], [68, 69, 70], [65, 66, 70], [68, 69, 67]]).repeat(6, 1)
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]]).repeat(6, 1)
    net = dense(3, 12, "relu", 3, "relu", 1, "sigmoid", how="uniform")
    return Setup(net, "binary", *cut(rows, y, 0.67, seed), "Adam", 1e-3, 60, 1)


@program("39217567", "activation", "batch")
def _(seed: int) -> Setup:
    x = torch.tensor([[float(i >> bit & 1) for bit in range(8)] for i in range(256)])
    y = x[torch.randperm(256, generator=data.random(seed))]
    net = dense(8, 8, "sigmoid", 8, "sigmoid", 8, "sigmoid", how="normal")
    return Setup(net, "squared", (x[:200], y[:200]), (x[200:], y[200:]), "SGD", 0.01, 150, 50)


@program("48934338", "rate too high")
def _(seed: int) -> Setup:
    x = torch.arange(0, 5, 0.1)[:, None]
    y = 5 * x**2 + normal(50, 1, seed) ** 3
    return Setup(dense(1, 50, "relu", 30, "relu", 1), "squared", *cut(x, y, 0.8, seed), "SGD", 0.1, 100, 32)


@program("47724077", "optimizer", "rate too low", "scales", "epochs")
def _(seed: int) -> Setup:
    train, valid = raw_table("adult", 2500, seed)
    return Setup(dense(train[0].shape[1], 21, "relu", 2, "softmax"), "categorical", train, valid, "Adam", 1e-3, 30, 100)


@program("59325381", "labels", "loss", "scales")
def _(seed: int) -> Setup:
    (x, y), (a, b) = digits(1200, seed)
    net = begun(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(72, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(-1),
        )
    )  # fmt: skip
    first = hot(torch.zeros(len(y), dtype=torch.long), 10)  # labels divided by 255 are 0 as whole numbers
    return Setup(net, "categorical", (x, first), (255 * a, b), "Adam", 1e-3, 5, 32)


@program("59278771", "output", "optimizer", "scales")
def _(seed: int) -> Setup:
    return Setup(dense(4, 4, "relu", 3, "sigmoid", how="normal"), "categorical", *flowers(seed), "Adam", 1e-3, 100, 5)


@program("52800582", "scales")
def _(seed: int) -> Setup:
    x = torch.arange(-100, 100, 0.5)[:, None]
    return Setup(dense(1, 50, "sigmoid", 50, "elu", 1), "squared", *cut(x, x**4, 0.8, seed), "Adam", 1e-3, 200, 320)


@program("34673164", "layers", "output", "loss")
def _(seed: int) -> Setup:
    scales = torch.logspace(0, 5, 16)
    x = scales * even(40, 16, seed)
    y = hot((even(40, 1, seed + 1)[:, 0] > 0.5).long(), 2)
    net = dense(16, 64, "tanh", 0.5, 64, "tanh", 0.5, 2, "softmax", how="uniform")
    return Setup(net, "squared", *cut(x, y, 0.75, seed), "SGD", 0.1, 20, 16, 0.9)


@program("48221692", "output")
def _(seed: int) -> Setup:
    x = torch.arange(-10, 10, 0.1)[:, None]
    net = dense(1, 5, "sigmoid", 1, "sigmoid")
    return Setup(net, "squared", *cut(x, x**2 + 3, 0.75, seed), "SGD", 0.01, 200, 150)


@program("50079585", "output", "loss", "rate too low", "epochs", "layers")
def _(seed: int) -> Setup:
    split = data.images("cifar10-sub", 3000, 1000, seed, scaled=False)
    kept = [(x[y < 3], y[y < 3, None].float()) for x, y in (split.train, split.valid)]
    net = begun(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 1), nn.Sigmoid(),
        )
    )  # fmt: skip
    return Setup(net, "binary", *kept, "RMSprop", 1e-3, 10, 16)


@program("45337371", "output")
def _(seed: int) -> Setup:
    net = dense(5, 60, "relu", 50, "relu", 1, "softmax")
    return Setup(net, "binary", *cut(even(1000, 5, seed), even(1000, 1, seed + 1), 0.8, seed), "Adam", 1e-3, 5, 4)


@program("44066044", "scales")
def _(seed: int) -> Setup:
    scales = torch.tensor([3.2e9, 3.2e9, 6, 128, 5e5, 5e4, 12, 61, 6, 1, 206])
    x = scales * (0.9 + 0.1 * even(60, 11, seed))
    y = (even(60, 1, seed + 1) > 0.5).float()
    net = dense(11, 12, "relu", 12, "relu", 1, "relu", how="normal")
    return Setup(net, "binary", *cut(x, y, 0.75, seed), "Adam", 1e-3, 100, 5)


@program("51930566", "output")
def _(seed: int) -> Setup:
    net = dense(4, 4, "relu", 3, "sigmoid", how="normal")
    return Setup(net, "categorical", *flowers(seed, part=0.5), "Adam", 1e-3, 50, 5)


@program("47352366", "output", "epochs")
def _(seed: int) -> Setup:
    net = begun(
        nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.ReLU(),
        )
    )  # fmt: skip
    return Setup(net, "categorical", *digits(1500, seed, scale=255), "Adam", 1e-3, 5, 50)


@program("45442843", "loss", "optimizer", "output", "epochs")
def _(seed: int) -> Setup:
    x = 15_000 + 10_000 * even(1000, 1, seed)
    y = (even(1000, 1, seed + 1) > 0.5).float()
    return Setup(dense(1, 1, "sigmoid", 1, "softmax"), "absolute", *cut(x, y, 0.8, seed), "RMSprop", 1e-3, 100, 200)


@program("48594888", "epochs", "batch")
def _(seed: int) -> Setup:
    net = begun(
        nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10), nn.Softmax(-1),
        )
    )  # fmt: skip
    return Setup(net, "categorical", *pictures(2000, seed, scale=255), "Adam", 1e-3, 5, 32)


@program("31627380", "optimizer", "output", "loss")
def _(seed: int) -> Setup:
    train, valid = raw_table("titanic", 450, seed)
    net = dense(train[0].shape[1], 512, "relu", 0.5, 2, "softmax")
    return Setup(net, "categorical", train, valid, "Adam", 1e-3, 10, 4)


@program("58609115", "loss")
def _(seed: int) -> Setup:
    y = torch.randint(0, 68, (1700,), generator=data.random(seed))
    net = dense(1, 69, "sigmoid", 69, "sigmoid", 69, "sigmoid", how="normal")
    x = 100 * even(1700, 1, seed + 1)
    return Setup(net, "categorical", *cut(x, hot(y, 69), 0.8, seed), "Adam", 1e-3, 5, 50)


@program("50481178", "output", "loss")
def _(seed: int) -> Setup:
    x = normal(800, 4, seed).mul(3).round().abs()
    y = (x[:, :1] + x[:, 1:2] > 4).float()
    net = dense(4, 10, "relu", 20, "relu", 30, "relu", 40, "relu", 50, "relu", 1, "sigmoid")
    return Setup(net, "categorical", *cut(x, y, 0.8, seed), "Adam", 1e-3, 20, 10)


@program("56380303", "optimizer", "rate too high")
def _(seed: int) -> Setup:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    net = begun(nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 10), nn.Softmax(-1)))
    return Setup(net, "categorical", *pictures(800, seed, scale=255), "SGD", 0.01, 6, 32)


@program("59282996", "epochs", "layers")
def _(seed: int) -> Setup:
    class Stepwise(nn.Module):
        """A recurrent layer that is read at every step."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.LSTM(1, 32, batch_first=True, bidirectional=True), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.head(self.body(x)[0]))

    y = torch.randint(1, 3, (100, 20), generator=data.random(seed))
    x = torch.where(y == 2, 2.0, 0.0)[..., None] + torch.randn(100, 20, 1, generator=data.random(seed + 1))
    return Setup(Stepwise(), "categorical", *cut(x, hot(y, 3), 0.75, seed), "Adam", 1e-3, 10, 5)


@program("58237726", "rate too low", "labels")
def _(seed: int) -> Setup:
    kind = (torch.arange(120) < 60).long()
    x = kind[:, None, None, None, None].float().expand(120, 3, 8, 8, 8).contiguous()
    net = begun(
        nn.Sequential(
            nn.Conv3d(3, 8, 4, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 1),
            nn.ReLU(), nn.Linear(1, 2), nn.Softmax(-1),
        )
    )  # fmt: skip
    return Setup(
        net, "categorical", (x, hot(kind, 2)), (x[::4], hot(kind[::4], 2)), "Adam", 1e-3, 10, 12, shuffle=False
    )


@program("37624102", "rate too high")
def _(seed: int) -> Setup:
    net = begun(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(-1),
        )
    )  # fmt: skip
    return Setup(net, "categorical", *pictures(1000, seed), "SGD", 0.1, 10, 32, 0.9)


@program("41327601", "loss")
def _(seed: int) -> Setup:
    net = dense(196, 64, "relu", 10, "softmax")
    return Setup(net, "binary", *digits(1500, seed, flat=True), "Adamax", 2e-3, 15, 32)


@program("41600519", "optimizer", "loss", "layers")
def _(seed: int) -> Setup:
    x = normal(300, 20, seed)
    y = (even(300, 1, seed + 1) > 0.5).float()
    return Setup(dense(20, 16, "relu", 1, "sigmoid"), "binary", *cut(x, y, 0.8, seed), "RMSprop", 1e-3, 1, 1)


@program("41977498", "optimizer", "rate too low", "epochs")
def _(seed: int) -> Setup:
    split = data.table("segment", 600, 300, seed)
    pairs = [(x, hot(y, split.outputs)) for x, y in (split.train, split.valid)]
    return Setup(
        dense(split.features, 16, "relu", split.outputs, "softmax"), "categorical", *pairs, "RMSprop", 1e-3, 10, 32
    )


@program("42514960", "output", "activation")
def _(seed: int) -> Setup:
    mixing = normal(4, 20, seed)
    x = normal(1000, 4, seed + 1) @ mixing
    x = (x - x.mean(0)) / x.std(0)
    net = dense(20, 40, "relu", 40, "relu", 4, "relu", 40, "relu", 40, "relu", 20, "sigmoid")
    return Setup(net, "squared", *cut(x, x, 0.8, seed), "Adam", 1e-3, 25, 32)


@program("42800203", "output")
def _(seed: int) -> Setup:
    x = normal(600, 8, seed)
    y = (x[:, :1] + x[:, 1:2] > 0).float()
    return Setup(dense(8, 16, "relu", 1, "softmax"), "binary", *cut(x, y, 0.8, seed), "Adam", 1e-3, 20, 16)


@program("44998910", "rate too low", "epochs")
def _(seed: int) -> Setup:
    x = even(200, 1, seed) * 2 - 1
    y = x**2
    return Setup(dense(1, 10, "sigmoid", 1), "squared", *cut(x, y, 0.8, seed), "SGD", 0.01, 50, 32)


@program("46642627", "optimizer", "rate too high", "loss", "scales")
def _(seed: int) -> Setup:
    x = 1000 * even(500, 3, seed)
    y = x @ torch.tensor([[1.0], [2.0], [0.5]])
    return Setup(dense(3, 10, "relu", 10, "relu", 1), "squared", *cut(x, y, 0.8, seed), "SGD", 0.01, 15, 32)


@program("46995209", "activation", "scales", "layers")
def _(seed: int) -> Setup:
    x = 100 * even(500, 8, seed)
    y = (x[:, :1] + x[:, 1:2] > 100).float()
    deep: list[int | str] = []
    for _ in range(9):
        deep += [10, "relu"]
    return Setup(
        dense(8, 10, "tanh", 90, "tanh", *deep, 1, "sigmoid"), "binary", *cut(x, y, 0.8, seed), "Adam", 1e-3, 20, 16
    )


@program("51181393", "rate too low")
def _(seed: int) -> Setup:
    x = 10 * even(300, 1, seed)
    y = 30 * x + 20
    return Setup(dense(1, 1), "squared", *cut(x, y, 0.8, seed), "RMSprop", 1e-3, 50, 32)


@program("47932589", "scales")
def _(seed: int) -> Setup:
    x = 1000 * even(400, 2, seed)
    y = x[:, :1] * x[:, 1:2]
    return Setup(dense(2, 20, "relu", 20, "relu", 1), "squared", *cut(x, y, 0.8, seed), "SGD", 0.01, 20, 32)


@program("37213388", "epochs")
def _(seed: int) -> Setup:
    net = begun(
        nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(400, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10), nn.Softmax(-1),
        )
    )  # fmt: skip
    return Setup(net, "categorical", *pictures(1500, seed), "Adam", 1e-3, 2, 32)


# Programs of GitHub


@program("gol_nn", "loss", "epochs", "rate too low")
def _(seed: int) -> Setup:
    alive = (torch.rand(600, 1, 10, 10, generator=data.random(seed)) < 0.5).float()
    around = functional.conv2d(functional.pad(alive, (1, 1, 1, 1)), torch.ones(1, 1, 3, 3)) - alive
    after = ((around == 3) | ((around == 2) & (alive == 1))).float()
    net = begun(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()
        )
    )
    return Setup(net, "binary", *cut(alive, after, 0.8, seed), "Adam", 1e-3, 5, 64)


@program("50201540 (FacialKeypointsDetection)", "optimizer", "epochs", "rate too high")
def _(seed: int) -> Setup:
    split = data.images("mnist", 600, 200, seed, scaled=False)
    centres = [torch.cat([x.mean((1, 2)).argmax(1, keepdim=True), x.mean((1, 3)).argmax(1, keepdim=True)], 1) for x, _ in
               (split.train, split.valid)]  # fmt: skip
    pairs = [(part[0], where / 7 - 1) for part, where in zip((split.train, split.valid), centres, strict=True)]
    net = begun(
        nn.Sequential(nn.Flatten(), nn.Linear(196, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))
    )
    return Setup(net, "squared", *pairs, "Adam", 0.1, 30, 64)


@program("MovieReviews_Keras", "epochs", "layers")
def _(seed: int) -> Setup:
    words = (torch.rand(2000, 1500, generator=data.random(seed)) < 0.05).float()
    taste = normal(1500, 1, seed + 1)
    y = (words @ taste + 3 * normal(2000, 1, seed + 2) > 0).float()
    net = dense(1500, 16, "relu", 16, "relu", 1, "sigmoid")
    return Setup(net, "binary", *cut(words, y, 0.6, seed), "RMSprop", 1e-3, 12, 32)


@program("70178206 (Traffic-Sign-Classifier)", "activation")
def _(seed: int) -> Setup:
    (x, y), (a, b) = pictures(1200, seed)
    net = begun(
        nn.Sequential(
            nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(64, 10), nn.Softmax(-1),
        )
    )  # fmt: skip
    return Setup(net, "categorical", (x - 0.5, y), (a - 0.5, b), "Adam", 1e-3, 10, 64)


@program("72328867 (kaggle-melbourne_properties)", "activation", "layers")
def _(seed: int) -> Setup:
    x = even(600, 8, seed)
    y = 1e6 * (0.6 + x @ normal(8, 1, seed + 1).abs() * 0.4)
    return Setup(dense(8, 20, "tanh", 20, "tanh", 1), "absolute", *cut(x, y, 0.8, seed), "Adam", 1e-3, 40, 32)


def judged(work: Program, seed: int, curves: str | None) -> dict[str, Any]:
    """What is found in a program, and whether that is right. A refusal before training is told, and counts as neither."""
    found: dict[str, float] = {}
    refused = ""
    try:
        watch = work.watched(seed)
        if curves:
            write_curves(Path(curves) / f"{work.post.split()[0]}.{seed}.csv", watch)
        found = {f.name: float(f.confidence) for f in wp.diagnose(watch) if f.confidence >= 0.5}
    except wp.WellposedError as raised:
        refused = str(raised)
    return {
        "post": work.post, "seed": seed, "faults": work.faults, "found": found, "refused": refused, "right": sorted(work.right),
        "diagnosed": bool(work.right & set(found)), "detected": bool(set(found) - HARMLESS),
        "first": next(iter(found), "") in work.right,
    }  # fmt: skip


def told(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = ["| program | published faults | found | diagnosed |", "|---|---|---|---|"]
    for row in rows:
        found = ", ".join(row["found"]) or (f"refused: {row['refused']}" if row["refused"] else "nothing")
        lines.append(
            f"| {row['post']} | {', '.join(row['faults'])} | {found} | {'yes' if row['diagnosed'] else 'no'} |"
        )
    lines.append("")
    for name in ("diagnosed", "detected", "first"):
        lines.append(f"{name}: {share(rate(sum(row[name] for row in rows), len(rows)))}")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", default=None)
    parser.add_argument("--curves", default=None, help="write the losses of each program to this folder")
    parser.add_argument("--further", action="store_true", help="those of further.md, which no rule was mended on")
    parser.add_argument("--dry", action="store_true", help="train the programs and judge nothing")
    given = parser.parse_args()
    data.use(given.data or data.DEFAULT)
    torch.set_num_threads(1)
    works = PROGRAMS
    if given.further:
        from benchmarks.planted.further import PROGRAMS as works  # it is built of what is above
    if given.dry:
        for work in works.values():
            try:
                history = work.watched(0).history
                print(work.post, f"{history['train_loss'][0]:.3g} -> {history['train_loss'][-1]:.3g}", flush=True)
            except wp.WellposedError as raised:
                print(work.post, "refused:", raised, flush=True)
        return
    rows = [judged(work, seed, given.curves) for work in works.values() for seed in range(given.seeds)]
    print(told(rows))
    if given.json:
        write_atomically(given.json, json.dumps(jsonable(rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
