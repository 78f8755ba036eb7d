"""The programs of `further.md`, rebuilt small after their answers were written down; run by ``published --further``.

Network, loss, optimizer, rate, epochs and batch are those of the source where it says them. Data that are not at hand are drawn
in the same shape.
"""

from __future__ import annotations

import functools

import torch
from benchmarks.planted import data
from benchmarks.planted.published import (
    Pair,
    Program,
    Setup,
    begun,
    cut,
    dense,
    digits,
    even,
    normal,
    pictures,
    program,
)
from torch import Tensor, nn
from torch.nn import functional

PROGRAMS: dict[str, Program] = {}
further = functools.partial(program, into=PROGRAMS)


def logarithms(p: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of probabilities, summed over the batch, with nothing to keep the logarithm off 0."""
    return -(y * p.log()).sum()


def both_logarithms(p: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy by hand, summed over outputs."""
    return (-y * p.log() - (1 - y) * (1 - p).log()).sum(1).mean()


def summed(outputs: Tensor, y: Tensor) -> Tensor:
    """Squares, summed over the batch."""
    return (outputs - y).square().sum()


def set_to(net: nn.Sequential, weight: float, bias: float = 0.0, std: float = 0.0) -> nn.Sequential:
    """Weights that begin at one value, or around it; biases at another."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(layer.weight, weight, std) if std else nn.init.constant_(layer.weight, weight)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)
    return net


def numbers(pairs: tuple[Pair, Pair]) -> tuple[Pair, Pair]:
    """Classes by number, of rows of 0 and 1."""
    return tuple((x, y.argmax(1)) for x, y in pairs)


def tutorial(*last: nn.Module) -> nn.Sequential:
    """The convolutional network of an old tutorial on digits."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(288, 256), nn.ReLU(), *last,
    )  # fmt: skip
    return set_to(net, 0.0, 0.1, std=0.1)


@further("33712178", "loss")
def _(seed: int) -> Setup:
    net = tutorial(nn.Dropout(0.5), nn.Linear(256, 10), nn.Softmax(-1))
    return Setup(net, logarithms, *digits(1000, seed), "Adam", 1e-4, 30, 50)


@further("43239467", "output")
def _(seed: int) -> Setup:
    net = tutorial(nn.Linear(256, 10), nn.ReLU())
    return Setup(net, nn.CrossEntropyLoss(), *digits(1000, seed), "Adam", 1e-3, 8, 100)


@further("45002504", "rate too high", "regularizer")
def _(seed: int) -> Setup:
    middle = torch.tensor([138.0, 3.6, 4.7, 25, 0.4, 53, 26, 17, 43])
    z = normal(420, 9, seed)
    x = middle * (1 + 0.3 * z)
    y = functional.one_hot((z[:, 8] + z[:, 1] + normal(420, 1, seed + 1)[:, 0] > 0).long(), 2).float()
    return Setup(dense(9, 2, how="wide"), nn.CrossEntropyLoss(), *cut(x, y, 0.75, seed), "SGD", 0.5, 40, 7, decay=1.0)


@further("33641799", "rate too high")
def _(seed: int) -> Setup:
    net = set_to(dense(196, 10, "softmax"), 0.0)
    return Setup(net, logarithms, *digits(2050, seed, flat=True), "SGD", 0.01, 50, 205)


@further("43636736", "rate too high")
def _(seed: int) -> Setup:
    x = torch.stack([torch.arange(100.0), torch.ones(100)], 1)
    y = x @ torch.tensor([[2.0], [4.0]]) + 10 * even(100, 1, seed)
    net = set_to(nn.Sequential(nn.Linear(2, 1, bias=False)), 1.0)
    return Setup(
        net, lambda out, wanted: (out - wanted).square().mean() / 2, *cut(x, y, 0.8, seed), "SGD", 0.5, 100, 100
    )


@further("46577203", "rate too high")
def _(seed: int) -> Setup:
    at = torch.arange(4.0)[:, None]
    rows = torch.cat([at**2, at, torch.ones(4, 1)], 1), at**2
    return Setup(set_to(nn.Sequential(nn.Linear(3, 1, bias=False)), 0.0), summed, rows, rows, "SGD", 0.01, 100, 4)


@further("39939881", "rate too high", "optimizer")
def _(seed: int) -> Setup:
    x = 16 * even(8, 1, seed) - 8
    y = 3 * x - 2 + 2 * even(8, 1, seed + 1) - 1
    return Setup(set_to(dense(1, 1), 0.0), "squared", (x, y), (x, y), "SGD", 0.1, 100, 8)


@further("35078027", "output", "loss", "rate too low")
def _(seed: int) -> Setup:
    net = nn.Sequential(nn.Linear(196, 512, bias=False), nn.Sigmoid(), nn.Linear(512, 10, bias=False))
    return Setup(set_to(net, 0.0, std=1.0), both_logarithms, *digits(1000, seed, flat=True), "SGD", 0.05, 10, 100)


@further("96648", "scales", "target scales")
def _(seed: int) -> Setup:
    x = torch.arange(1.0, 4000)[:, None]
    return Setup(dense(1, 50, "relu", 1), "squared", *cut(x, x**3, 0.8, seed), "Adam", 1e-3, 100, 4000)


@further("418955", "target scales", "rate too high")
def _(seed: int) -> Setup:
    at = torch.arange(100.0)[:, None]
    x = (at - at.mean()) / at.std()
    return Setup(dense(1, 1, 1), "squared", *cut(x, at**2 + 3, 0.8, seed), "SGD", 0.01, 300, 32)


@further("367057", "scales")
def _(seed: int) -> Setup:
    net = dense(196, 128, "relu", 128, "relu", 10, "softmax")
    return Setup(net, "categorical", *digits(2000, seed, scale=255, flat=True), "Adam", 1e-3, 20, 32)


@further("mejorcodigo 45698", "rate too high", "scales")
def _(seed: int) -> Setup:
    x = 100 * even(500, 1, seed)
    y = 5 * x + 3 + 0.1 * normal(500, 1, seed + 1)
    return Setup(set_to(dense(1, 1), 0.0), "squared", *cut(x, y, 0.8, seed), "SGD", 0.01, 50, 500)


@further("43814", "rate too high", "activation")
def _(seed: int) -> Setup:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    return Setup(net, nn.CrossEntropyLoss(), *numbers(pictures(1000, seed)), "Adam", 0.03, 10, 32)


@further("federated-learning 9", "output")
def _(seed: int) -> Setup:
    net = nn.Sequential(nn.Linear(196, 64), nn.Dropout(), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(1))
    return Setup(net, nn.CrossEntropyLoss(), *numbers(digits(1500, seed, flat=True)), "SGD", 0.01, 10, 10, 0.5)


@further("Surface-Defect-Detection 3", "output")
def _(seed: int) -> Setup:
    x = torch.randn(300, 1, 16, 16, generator=data.random(seed))
    mask = (functional.avg_pool2d(torch.randn(300, 1, 16, 16, generator=data.random(seed + 1)), 5, 1, 2) > 0.3).float()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.BatchNorm2d(16),
        nn.ReLU(), nn.Conv2d(16, 1, 1), nn.ReLU(),
    )  # fmt: skip
    return Setup(net, nn.BCEWithLogitsLoss(), *cut(x + 2 * mask, mask, 0.8, seed), "Adam", 1e-3, 15, 16)


@further("daisyRec 15", "output")
def _(seed: int) -> Setup:
    class Matched(nn.Module):
        """Users and items as vectors, and a small network on both."""

        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(60, 8), nn.Embedding(80, 8)
            self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.body(torch.cat([self.users(x[:, 0]), self.items(x[:, 1])], 1)))[:, 0]

    random = data.random(seed)
    taste, kind = torch.randn(60, 3, generator=random), torch.randn(80, 3, generator=random)
    x = torch.stack([torch.randint(60, (3000,), generator=random), torch.randint(80, (3000,), generator=random)], 1)
    y = ((taste[x[:, 0]] * kind[x[:, 1]]).sum(1) > 0).float()
    return Setup(Matched(), nn.BCEWithLogitsLoss(), *cut(x, y, 0.8, seed), "Adam", 1e-2, 20, 128)


@further("PyTorch-YOLOv3 108", "output")
def _(seed: int) -> Setup:
    split = data.table("segment", 800, 300, seed)
    net = dense(split.features, 32, "relu", split.outputs, "sigmoid")
    return Setup(net, nn.CrossEntropyLoss(), split.train, split.valid, "Adam", 1e-3, 30, 16)


@further("model-zoo 8", "loss")
def _(seed: int) -> Setup:
    net = dense(196, 32, "relu", 10, "softmax")
    return Setup(net, "squared", *digits(2000, seed, flat=True), "Adam", 1e-3, 20, 100)


@further("Contextualized 140", "loss")
def _(seed: int) -> Setup:
    x = normal(1000, 6, seed)
    y = (x[:, :1] * x[:, 1:2] + 0.3 * normal(1000, 1, seed + 1) > 0).float()
    return Setup(dense(6, 25, "relu", 25, "relu", 1, "sigmoid"), "squared", *cut(x, y, 0.8, seed), "Adam", 1e-3, 30, 32)


@further("learning-to-reweight 10", "rate too low")
def _(seed: int) -> Setup:
    pairs = []
    for x, y in numbers(digits(4000, seed)):
        nines = x[y == 9][: max(1, int((y == 4).sum()) // 9)]
        pairs.append(
            (torch.cat([x[y == 4], nines]), torch.cat([torch.zeros(int((y == 4).sum()), 1), torch.ones(len(nines), 1)]))
        )
    net = begun(
        nn.Sequential(
            nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 84),
            nn.ReLU(), nn.Linear(84, 1),
        )
    )  # fmt: skip
    return Setup(net, nn.BCEWithLogitsLoss(), *pairs, "SGD", 1e-3, 20, 100)


@further("mistnet 87", "start")
def _(seed: int) -> Setup:
    x = normal(600, 8, seed)
    y = torch.stack([x[:, 0] * x[:, 1] > 0, x[:, 2] + x[:, 3] > 0, x[:, 4].abs() > 0.7], 1).float()
    return Setup(set_to(dense(8, 15, "relu", 3, "sigmoid"), 0.0), "binary", *cut(x, y, 0.8, seed), "SGD", 0.1, 30, 20)
