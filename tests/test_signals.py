"""Faults of optimization are planted and found from inside, near misses and healthy networks are left alone, deliberately
wrong rules are caught, and looking disturbs nothing."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import wellposed as wp
from wellposed.diagnosis import row_checks as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnose import rules
from wellposed.diagnosis.rules import (
    batch_norm,
    convergence,
    decayed_norms,
    gradient_flow,
    input_scales,
    latent_codes,
    learning_rates,
    outputs,
    row_faults,
    underfitting,
    units,
)
from wellposed.diagnosis.rules.rule import Inside
from wellposed.diagnosis.signals import Signals, Toll
from wellposed.losses.per_example import Loss
from wellposed.training import inspection
from wellposed.training.inspection import Unseen, inspect_network
from wellposed.training.watch import FEW_ROWS

NAMES = {rule.name for rule in rules() if isinstance(rule, Inside)}
Rows = tuple[Tensor, Tensor]
Case = Callable[[int], wp.Watch]
TRAIN, VALID = 600, 400
LOSS = Loss("cross_entropy")
WIDTH = 32


# Data


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(seed: int, rows: int = TRAIN + VALID, features: int = 12, classes: int = 4, apart: float = 1.2) -> Rows:
    """Classes with a normal cloud each."""
    g = drawn(seed)
    centers = apart * torch.randn(classes, features, generator=g)
    y = torch.randint(classes, (rows,), generator=g)
    return centers[y] + torch.randn(rows, features, generator=g), y


def curve(seed: int, rows: int = TRAIN + VALID, features: int = 8) -> Rows:
    """A smooth function with noise."""
    g = drawn(seed)
    x = torch.randn(rows, features, generator=g)
    y = torch.sin(x @ torch.randn(features, generator=g)) + x[:, 0] + 0.2 * torch.randn(rows, generator=g)
    return x, y[:, None]


def images(seed: int, rows: int = 500, scale: float = 1.0) -> Rows:
    """Noisy copies of one pattern a class, from 0 to ``scale``."""
    g = drawn(seed)
    patterns = torch.rand(4, 1, 8, 8, generator=g)
    y = torch.randint(4, (rows,), generator=g)
    return scale * (patterns[y] + 0.3 * torch.randn(rows, 1, 8, 8, generator=g)).clamp(0, 1), y


def waves(seed: int, rows: int = 400) -> Rows:
    """Sequences of one of three frequencies."""
    g = drawn(seed)
    y = torch.randint(3, (rows,), generator=g)
    phase, time = 6 * torch.rand(rows, 1, generator=g), 0.3 * torch.arange(16)
    return (torch.sin(phase + time * (1 + y[:, None])) + 0.3 * torch.randn(rows, 16, generator=g))[..., None], y


def words(seed: int, rows: int = 400) -> Rows:
    """Sequences of tokens, of which the classes use different ones."""
    x = torch.randint(20, (rows, 10), generator=drawn(seed))
    return x, ((x < 7).float().mean(1) > 0.33).long()


def changed(
    of: Callable[[int], Rows], change: Callable[[Tensor, Tensor, torch.Generator], Rows]
) -> Callable[[int], Rows]:
    return lambda seed: change(*of(seed), drawn(seed + 1000))


def centered() -> nn.Module:
    """A network whose answers begin at the mean of targets around 100."""
    net = mlp(8, 1)
    nn.init.constant_([m for m in net.modules() if isinstance(m, nn.Linear)][-1].bias, 100.0)
    return net


def hot(x: Tensor, y: Tensor, _: torch.Generator) -> Rows:
    return x, F.one_hot(y, 4).float()


def labels(x: Tensor, y: Tensor, _: torch.Generator) -> Rows:
    """Three labels, of which a row may have several or none."""
    return x, (x[:, :3] > 0.3 * (y[:, None] - 1)).float()


def noisy(share: float, first: int = 0, **settings: Any) -> Callable[[int], Rows]:
    """Blobs of which a share of the labels is another one; only the rows up to ``first`` if it is given."""

    def change(x: Tensor, y: Tensor, g: torch.Generator) -> Rows:
        flip = torch.rand(len(y), generator=g) < share
        if first:
            flip[first:] = False
        return x, torch.where(flip, (y + torch.randint(1, 4, (len(y),), generator=g)) % 4, y)

    return changed(functools.partial(blobs, **settings), change)


def sorted_rows(x: Tensor, y: Tensor, _: torch.Generator) -> Rows:
    order = y[:TRAIN].flatten().argsort()
    return torch.cat([x[:TRAIN][order], x[TRAIN:]]), torch.cat([y[:TRAIN][order], y[TRAIN:]])


def with_copies(x: Tensor, y: Tensor, _: torch.Generator, count: int = 80) -> Rows:
    """The first validation rows are training rows."""
    x, y = x.clone(), y.clone()
    x[TRAIN : TRAIN + count], y[TRAIN : TRAIN + count] = x[:count], y[:count]
    return x, y


def drawn_again(x: Tensor, y: Tensor, g: torch.Generator) -> Rows:
    """Rows drawn with replacement before they were split: training has as many copies of its own as validation has."""
    drawn = torch.randint(len(x) // 2, (len(x),), generator=g)
    return x[drawn], y[drawn]


def with_hint(x: Tensor, y: Tensor, g: torch.Generator) -> Rows:
    """A feature is the target with a little noise."""
    x = x.clone()
    x[:, 5] = y.flatten().float() + 0.02 * torch.randn(len(x), generator=g)
    return x, y


def stretched(x: Tensor, y: Tensor, _: torch.Generator) -> Rows:
    x = x.clone()
    x[:, 0] *= 1000
    return x, y


def binary(x: Tensor, y: Tensor, _: torch.Generator) -> Rows:
    return x, (y > 1).float()[:, None]


# Networks


def mlp(inputs: int = 12, outs: int = 4, depth: int = 2, act: Callable[[], nn.Module] = nn.ReLU,
        norm: Callable[[int], nn.Module] | None = None, drop: float = 0.0, width: int = WIDTH) -> nn.Sequential:  # fmt: skip
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else inputs, width), *([norm(width)] if norm else []), act()]
        layers += [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.Linear(width, outs))


def begun(gain: float, depth: int = 10) -> nn.Sequential:
    """A deep network whose initial weights have ``gain / sqrt(inputs)`` as standard deviation."""
    net = mlp(depth=depth)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, gain / layer.in_features**0.5)
    return net


def killed(bias: float = -6.0) -> nn.Sequential:
    """A network whose hidden biases are so low that hardly a unit ever fires."""
    net = mlp(depth=2, act=nn.ReLU)
    for layer in net:
        if isinstance(layer, nn.Linear) and layer.out_features == WIDTH:
            nn.init.constant_(layer.bias, bias)
    return net


def alike(act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A network whose weights all begin at 0."""
    net = mlp(act=act)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def zero_head() -> nn.Linear:
    """A last layer that begins at 0, as is usual where a trained network is given a new one."""
    head = nn.Linear(4, 4)
    nn.init.zeros_(head.weight)
    return head


def ended(net: nn.Module, *by: nn.Module) -> nn.Sequential:
    return nn.Sequential(net, *by)


def cnn(norm: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 2)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.table(x)).mean(1))


class Tied(nn.Module):
    """A language model whose head is its table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cells = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 20)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.table(x))[0]).transpose(1, 2)


class Residual(nn.Module):
    """Blocks whose last weights begin at zero, as is usual for deep residual networks."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, WIDTH), nn.Linear(WIDTH, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
            for _ in range(depth)
        )
        for block in self.blocks:
            nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = mlp(), nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Gated(nn.Module):
    """A branch that a factor of 0 cuts off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(12, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(x + 0.0 * self.branch(x))


class Centered(nn.Module):
    """Divides bytes by 255 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x / 255 - 0.5)


def mute() -> nn.Sequential:
    """The weights of a layer in the middle are zero and stay so: it passes on its bias alone."""
    net = mlp(depth=3)
    nn.init.zeros_(net[2].weight)
    for parameter in net[2].parameters():
        parameter.requires_grad_(False)
    return net


def frozen() -> nn.Sequential:
    net = mlp(depth=3)
    for parameter in net[0].parameters():
        parameter.requires_grad_(False)
    return net


# The loop


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "squared_error": F.mse_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "classes by hand": lambda p, y: -(y * (p / p.sum(1, keepdim=True)).clamp(1e-7, 1).log()).sum(1).mean(),
    "indices by hand": lambda p, y: -p[torch.arange(len(y)), y].log().sum(),
    "binary by hand": lambda p, y: -(y * p.clamp(1e-7, 1).log() + (1 - y) * (1 - p).clamp(1e-7, 1).log()).mean(),
}


def looped(
    make: Callable[[], nn.Module], rows: Callable[[int], Rows], loss: str = "cross_entropy", lr: float = 3e-3,
    epochs: int = 5, batch: int = 50, shuffle: bool = True, modes: tuple[bool, bool] = (True, False), seed: int = 0,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None, evaluates: bool = True,
) -> wp.Watch:  # fmt: skip
    """Somebody's own loop; ``modes`` are those in which it trains and evaluates."""
    torch.manual_seed(seed)
    net, (x, y) = make(), rows(seed)
    held = min(VALID, len(x) * 2 // 5)
    train, valid = (x[:-held], y[:-held]), (x[-held:], y[-held:])
    loader = DataLoader(TensorDataset(*train), batch_size=batch, shuffle=shuffle)
    stepper = optimizer(net) if optimizer else torch.optim.Adam(net.parameters(), lr)
    own = LOSSES[loss] if loss.endswith("by hand") else loss
    watch = wp.watch(net, own, train=loader, valid=valid, optimizer=stepper, share=1)
    for _ in range(epochs):
        net.train(modes[0])
        for a, b in loader:
            stepper.zero_grad()
            LOSSES[loss](net(a), b).backward()
            stepper.step()
        if evaluates:
            net.train(modes[1])
            with torch.no_grad():
                net(valid[0])
        watch.epoch()
    return watch


def case(
    make: Callable[[], nn.Module], rows: Callable[[int], Rows] = blobs, loss: str = "cross_entropy", **how: Any
) -> Case:
    return functools.cache(lambda seed: looped(make, rows, loss, seed=seed, **how))


class Coder(nn.Module):
    """A small variational autoencoder; ``deaf`` is one whose decoder has no way to listen to its code."""

    def __init__(self, code: int, deaf: bool = False) -> None:
        super().__init__()
        self.see, self.code = nn.Sequential(nn.Linear(12, 32), nn.ReLU()), nn.Linear(32, 2 * code)
        self.draw = nn.Sequential(nn.Linear(code, 32), nn.ReLU(), nn.Linear(32, 12))
        self.deaf = deaf

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.code(self.see(x)).chunk(2, dim=1)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.draw(0 * drawn if self.deaf else drawn)  # type: ignore[no-any-return]


def misses(out: Tensor, x: Tensor) -> Tensor:
    """The negative log-likelihood of Gaussians with a standard deviation of 0.3, but for a constant."""
    return (out - x).square().sum(1) / (2 * 0.3**2)


def coded(
    beta: float = 1.0, code: int = 4, epochs: int = 12, schedule: Any = None, free: float = 0.0, deaf: bool = False
) -> Case:
    """An autoencoder of 12 numbers that three hidden ones make."""

    def train(seed: int) -> wp.Watch:
        torch.manual_seed(seed)
        x = torch.randn(500, 3) @ torch.randn(3, 12) + 0.3 * torch.randn(500, 12)
        net = Coder(code, deaf)
        term = wp.KLToStandardNormal(beta, free=free).on("code", schedule=schedule)
        stepper = wp.regularize(torch.optim.Adam(net.parameters(), 5e-3), net, [term])
        watch = wp.watch(net, misses, train=(x[:400], x[:400]), valid=(x[400:], x[400:]), optimizer=stepper)
        for _ in range(epochs):
            net.train()
            for batch in x[:400][torch.randperm(400)].split(25):
                stepper.zero_grad()
                (misses(net(batch), batch).mean() + stepper.penalty()).backward()
                stepper.step()
            watch.epoch()
        return watch

    return functools.cache(train)


def sgd(lr: float, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda net: torch.optim.SGD(net.parameters(), lr, **settings)


def adamw(lr: float, decay: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda net: torch.optim.AdamW(net.parameters(), lr, weight_decay=decay)


def all_but_the_second(net: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that was not given the second layer."""
    return torch.optim.Adam([p for name, p in net.named_parameters() if not name.startswith("2.")], 3e-3)


def weights_alone(net: nn.Module) -> torch.optim.Optimizer:
    wide = [p for p in net.parameters() if p.ndim > 1]
    flat = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": wide, "weight_decay": 0.5}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, 1e-2)


NORMED = functools.partial(mlp, norm=nn.BatchNorm1d)
SMOOTH = functools.partial(mlp, 8, 1)
CODES = changed(functools.partial(blobs, classes=6), lambda x, y, _: (x, y.float()[:, None]))
RANKS = changed(curve, lambda x, y, _: (x, (1.5 * y + 4).round().clamp(0, 8)))
SIGMOID = functools.partial(mlp, act=nn.Sigmoid)

FEW = functools.partial(blobs, rows=300)

PLANTED: dict[str, list[Case]] = {
    "vanishing_gradients": [
        case(functools.partial(SIGMOID, depth=9)),
        case(functools.partial(SIGMOID, depth=8), optimizer=sgd(0.05)),
        case(functools.partial(begun, 0.15), optimizer=sgd(0.01)),
    ],
    "exploding_gradients": [
        case(functools.partial(begun, 6.0), optimizer=sgd(1e-5)),
        case(functools.partial(begun, 4.0), lr=1e-4),
    ],
    "dying_units": [case(killed), case(functools.partial(mlp, depth=3), lr=0.3)],
    "dead_layers": [
        case(Gated),
        case(Unused),
        case(mute),
        case(mlp, optimizer=all_but_the_second),
        case(functools.partial(killed, -50.0)),
    ],
    "wrong_output": [
        case(lambda: ended(mlp(), nn.Softmax(1))),
        case(lambda: ended(mlp(), nn.ReLU())),
        case(lambda: ended(mlp(outs=1), nn.Sigmoid()), changed(blobs, binary), "binary_cross_entropy"),
        case(lambda: ended(SMOOTH(), nn.Sigmoid()), curve, "squared_error"),
        case(lambda: ended(SMOOTH(), nn.Tanh()), curve, "squared_error"),
        case(lambda: ended(mlp(outs=1), nn.Softmax(1)), changed(blobs, binary), "binary_cross_entropy"),
        case(lambda: ended(mlp(outs=1), nn.Softmax(1)), changed(blobs, binary), "squared_error"),
        case(lambda: ended(mlp(), nn.Sigmoid()), changed(blobs, hot), "classes by hand"),
        case(lambda: ended(mlp(), nn.Sigmoid()), blobs, "indices by hand"),
        case(lambda: ended(mlp(outs=1), nn.ReLU()), changed(blobs, binary), "binary by hand"),
        case(functools.partial(mlp, outs=1), changed(blobs, binary), "binary by hand"),
        case(lambda: ended(mlp(outs=3), nn.Softmax(1)), changed(blobs, labels), "binary by hand"),
        case(lambda: ended(mlp(outs=3), nn.Softmax(1)), changed(blobs, labels), "squared_error"),
    ],
    "wrong_loss": [
        case(lambda: ended(mlp(outs=1), nn.Sigmoid()), changed(blobs, binary), "classes by hand"),
        case(lambda: ended(mlp(outs=1), nn.Sigmoid()), changed(blobs, lambda x, y, _: (x, y.float()[:, None])), "binary by hand"),
        case(lambda: ended(mlp(), nn.Softmax(1)), changed(blobs, hot), "binary by hand"),
        case(lambda: ended(mlp(outs=1), nn.Sigmoid()), changed(blobs, binary), "squared_error"),
        case(lambda: ended(mlp(), nn.Softmax(1)), changed(blobs, lambda x, y, _: (40 * x, y)), "indices by hand", lr=0.1),
        case(functools.partial(mlp, outs=1), CODES, "squared_error"),
        case(mlp, changed(blobs, lambda x, y, _: (x, F.one_hot(y, 4).float())), "squared_error"),
        case(functools.partial(mlp, outs=1), changed(blobs, lambda x, y, _: (x, 0 * y))),
    ],
    "unscaled_inputs": [
        case(mlp, changed(blobs, stretched)),
        case(cnn, functools.partial(images, scale=255.0), epochs=3),
        case(mlp, changed(blobs, lambda x, y, _: (x * 1e-3, y))),
        case(cnn, changed(images, lambda x, y, _: (torch.cat([x[:300], 255 * x[300:]]), y)), epochs=3),
    ],
    "wrong_targets": [
        case(mlp, changed(blobs, lambda x, y, _: (x, torch.cat([0 * y[:TRAIN], y[TRAIN:]])))),
        case(SMOOTH, changed(curve, lambda x, y, _: (x, 1e4 * y + 5e4)), "squared_error"),
        case(SMOOTH, changed(curve, lambda x, y, _: (x, 1e4 * y)), "squared_error", optimizer=sgd(0.05)),
    ],
    "too_few_steps": [
        case(cnn, images, lr=1e-3, batch=100, epochs=3),
    ],
    "equal_units": [case(alike), case(functools.partial(alike, nn.Sigmoid))],
    "unshuffled": [
        case(mlp, changed(blobs, sorted_rows), shuffle=False),
        case(SMOOTH, changed(curve, sorted_rows), "squared_error", shuffle=False),
    ],
    "leakage": [
        case(mlp, changed(blobs, with_copies)),
        case(mlp, changed(blobs, drawn_again)),
        case(mlp, changed(functools.partial(blobs, apart=0.6), with_hint)),
        case(SMOOTH, changed(curve, with_hint), "squared_error"),
    ],
    "label_noise": [
        case(mlp, noisy(0.2, rows=2400, apart=2.0), epochs=4),
        case(mlp, noisy(0.35, rows=2400, apart=2.0), epochs=4),
        case(mlp, noisy(0.3, rows=2400, apart=2.0, first=2000), epochs=4),
    ],
    "forgotten_mode": [
        case(NORMED, modes=(False, False)),
        case(functools.partial(mlp, drop=0.3), modes=(True, True)),
    ],
    "batch_too_small": [case(NORMED, FEW, batch=2, epochs=2), case(NORMED, FEW, batch=4, epochs=2)],
    "decayed_norms": [
        case(NORMED, optimizer=adamw(1e-2, 0.1)),
        case(functools.partial(mlp, norm=nn.LayerNorm), optimizer=sgd(0.1, momentum=0.9, weight_decay=1e-2)),
        case(NORMED, optimizer=lambda net: torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-2)),
    ],
    "posterior_collapse": [coded(beta=300.0), coded(deaf=True), coded(beta=300.0, code=12, schedule=wp.ramp(50))],
}  # fmt: skip

NEAR_MISSES: dict[str, list[Case]] = {
    "posterior_collapse": [
        coded(),
        coded(beta=20.0, code=16),  # some of it stays empty, and the rest is listened to
        coded(beta=300.0, free=1.0),
        coded(deaf=True, schedule=wp.ramp(10_000)),  # the warm-up has just begun
        coded(epochs=3),
        case(mlp),
    ],
    "vanishing_gradients": [
        case(functools.partial(SIGMOID, depth=2), lr=1e-2),  # a sigmoid or two pass enough on
        case(Residual),  # the first gradient of a head that begins at zero is zero
        case(functools.partial(mlp, depth=9, norm=nn.BatchNorm1d)),
    ],
    "exploding_gradients": [
        case(functools.partial(mlp, depth=9)),
        case(SMOOTH, changed(curve, lambda x, y, _: (x, 100 * y + 500)), "squared_error"),  # a unit is no explosion
        case(mlp, changed(blobs, stretched)),  # that has a name of its own
    ],
    "dying_units": [
        case(functools.partial(mlp, width=128)),
        case(functools.partial(mlp, act=nn.GELU)),
        case(cnn, images, epochs=3),
    ],
    "dead_layers": [
        case(frozen),
        case(Tied, changed(words, lambda x, y, _: (x, x.roll(-1, 1)))),
        case(functools.partial(SIGMOID, depth=8), optimizer=sgd(0.05)),  # what vanishes is no matter of one layer
    ],
    "wrong_output": [
        case(lambda: ended(mlp(), nn.LogSoftmax(1))),  # changes nothing
        case(lambda: ended(SMOOTH(), nn.Sigmoid()), changed(curve, lambda x, y, _: (x, y.sigmoid())), "squared_error"),
        case(lambda: ended(SMOOTH(), nn.ReLU()), changed(curve, lambda x, y, _: (x, y.exp())), "squared_error"),
        case(functools.partial(mlp, outs=1), changed(blobs, binary), "binary_cross_entropy"),
        case(lambda: ended(mlp(), nn.Softmax(1)), changed(blobs, hot), "classes by hand"),
        case(lambda: ended(mlp(), nn.Softmax(1)), blobs, "indices by hand"),
        case(lambda: ended(mlp(outs=3), nn.Sigmoid()), changed(blobs, labels), "binary by hand"),
        case(lambda: ended(mlp(), nn.Softmax(1)), changed(blobs, hot), "binary by hand"),  # it is the loss that does not fit
    ],
    "wrong_loss": [
        case(lambda: ended(mlp(), nn.Softmax(1)), changed(blobs, hot), "classes by hand"),
        case(lambda: ended(mlp(outs=3), nn.Sigmoid()), changed(blobs, labels), "binary by hand"),
        case(lambda: ended(SMOOTH(), nn.Sigmoid()), changed(curve, lambda x, y, _: (x, y.sigmoid())), "squared_error"),
        case(SMOOTH, RANKS, "squared_error"),  # counts and ranks are amounts
        case(functools.partial(mlp, outs=4), changed(blobs, lambda x, y, _: (x, F.one_hot(y, 4).float())), "binary_cross_entropy"),
        case(functools.partial(mlp, outs=1), changed(blobs, binary), "squared_error"),
        case(mlp, changed(blobs, lambda x, y, _: (x, 0.9 * F.one_hot(y, 4).float() + 0.025))),
    ],
    "unscaled_inputs": [
        case(cnn, images, epochs=3),
        case(Centered, functools.partial(images, scale=255.0), epochs=3),
        case(lambda: ended(nn.BatchNorm1d(12), mlp()), changed(blobs, stretched)),
        case(functools.partial(mlp, 60), changed(functools.partial(blobs, features=60), lambda x, y, _: ((x > 2).float(), y))),
        case(Attention, words, epochs=3),
        case(cnn, changed(images, lambda x, y, _: (torch.cat([x[:300], 3 * x[300:]]), y)), epochs=3),  # brighter rows
        case(mlp, changed(blobs, lambda x, y, _: (torch.cat([x[:-1], 3000 + x[-1:]]), y))),  # one row of validation
    ],
    "wrong_targets": [
        case(mlp),
        case(functools.partial(SMOOTH, depth=1), changed(curve, lambda x, y, _: (x, 60 * y)), "squared_error", lr=0.1, epochs=20),
        case(SMOOTH, curve, "squared_error", lr=1e-5),  # worse than a constant, and of a sane size
        case(mlp, changed(blobs, lambda x, y, _: (x, 0 * y))),  # nothing says that there are other labels
        case(centered, changed(curve, lambda x, y, g: (x, 100 + 5 * torch.randn(y.shape, generator=g))), "squared_error", lr=0.5),
    ],
    "too_few_steps": [
        case(mlp, lr=3e-2, batch=100, epochs=4),  # few, and enough
        case(mlp, optimizer=sgd(30.0), batch=100, epochs=4),  # what leaps about needs no more steps
        case(mlp, lr=1e-6, epochs=11),  # 132 steps
        case(lambda: nn.Linear(12, 4), noisy(0.8), optimizer=sgd(1.0), batch=1000, epochs=40),  # at rest: labels are mostly noise
    ],
    "equal_units": [case(mlp), case(Residual), case(frozen), case(lambda: ended(mlp(), zero_head()))],
    "unshuffled": [
        case(mlp, shuffle=False),  # a fixed order that says nothing of the labels
        case(mlp, changed(blobs, sorted_rows)),
    ],
    "leakage": [
        case(mlp, changed(blobs, lambda x, y, _: ((x > 0).float()[:, :6].repeat(1, 2), y))),  # few rows that differ
        case(functools.partial(mlp, 12, 2), changed(blobs, lambda x, y, _: (x, (x[:, 0] + x[:, 1] > 0).long()))),
    ],
    "label_noise": [
        case(mlp, functools.partial(blobs, apart=0.5, rows=2400), epochs=4),  # classes that overlap, and are learned by heart
        case(functools.partial(mlp, width=128), functools.partial(blobs, apart=0.6, rows=560), epochs=30),
        case(mlp, noisy(0.03, rows=2400, apart=2.0), epochs=4),
    ],
    "forgotten_mode": [
        case(NORMED),
        case(NORMED, evaluates=False),
        case(mlp, modes=(False, True)),  # nothing in it minds the mode
    ],
    "batch_too_small": [
        case(NORMED, FEW, batch=16),
        case(cnn, images, batch=8, epochs=2),  # of 64 positions each
        case(functools.partial(mlp, norm=nn.LayerNorm), FEW, batch=2, epochs=1),
    ],
    "decayed_norms": [
        case(NORMED, optimizer=adamw(1e-3, 0.01)),  # a thousandth
        case(NORMED, optimizer=weights_alone),
        case(mlp, optimizer=adamw(1e-2, 0.1)),  # no norm
    ],
}  # fmt: skip

HEALTHY: dict[str, Case] = {
    "mlp": case(mlp),
    "deep": case(functools.partial(mlp, depth=8), lr=1e-3),
    "tanh": case(functools.partial(mlp, act=nn.Tanh)),
    "dropout and layer norm": case(functools.partial(mlp, norm=nn.LayerNorm, drop=0.3)),
    "batch norm": case(functools.partial(mlp, norm=nn.BatchNorm1d, depth=4), optimizer=adamw(3e-3, 0.01)),
    "sgd": case(mlp, optimizer=sgd(0.05, momentum=0.9)),
    "regression": case(SMOOTH, curve, "squared_error"),
    "cnn": case(cnn, images, epochs=4),
    "cnn without norm": case(functools.partial(cnn, norm=False), images, epochs=4),
    "gru": case(Recurrent, waves, lr=1e-2, epochs=25),
    "transformer": case(Attention, words),
    "residual": case(Residual, lr=1e-3),
    "tied": case(Tied, changed(words, lambda x, y, _: (x, x.roll(-1, 1)))),
    "frozen": case(frozen),
    "sparse": case(functools.partial(mlp, 60), changed(functools.partial(blobs, features=60), lambda x, y, _: (x * (x > 1), y))),
    "one logit": case(functools.partial(mlp, outs=1), changed(blobs, binary), "binary_cross_entropy"),
}  # fmt: skip


@functools.cache
def curves_of(make: Case, seed: int) -> Curves:
    return Curves.of(make(seed))


def found(make: Case, seed: int = 0) -> list[str]:
    """Names of the findings from inside, alone."""
    inside = [rule.judge(curves_of(make, seed)) for rule in rules() if isinstance(rule, Inside)]
    return [finding.name for finding in inside if finding is not None]


def test_complex_weights_are_watched_without_a_warning() -> None:
    """As of a Fourier neural operator; a warning is an error in this suite."""
    net = nn.Linear(3, 1)
    net.register_parameter("spectrum", nn.Parameter(torch.tensor([1.0 + 2.0j, 3.0j])))
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    watch = wp.watch(net, nn.MSELoss(), train=(x, y), valid=(x, y))
    watch.epoch()
    net.spectrum.data *= 1j  # the same sizes, other numbers
    watch.epoch()
    assert wp.diagnose(watch).findings


def test_the_rules_found_are_those_that_are_tested() -> None:
    assert NAMES == PLANTED.keys() == NEAR_MISSES.keys()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_planted_faults_are_found(name: str) -> None:
    for number, make in enumerate(PLANTED[name]):
        findings = {finding.name: finding for finding in wp.diagnose(make(0))}
        assert name in findings, (number, list(findings), curves_of(make, 0).signals)
        finding = findings[name]
        assert 0.5 <= finding.confidence <= 1
        assert finding.lever
        assert finding.says.endswith(".")
        assert finding.axis in ("optimization", "regularization", "evidence")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_near_misses_are_left_alone(name: str) -> None:
    for number, make in enumerate(NEAR_MISSES[name]):
        assert name not in found(make), (number, [str(f) for f in wp.diagnose(make(0)) if f.name == name])


@pytest.mark.parametrize("kind", sorted(HEALTHY))
def test_healthy_networks_are_left_alone(kind: str) -> None:
    assert found(HEALTHY[kind]) == [], [f.says for f in wp.diagnose(HEALTHY[kind](0))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_healthy_networks_of_other_seeds_are_left_alone(seed: int) -> None:
    alarms = {kind: names for kind, make in HEALTHY.items() if (names := found(make, seed))}
    assert not alarms


def seen_dead(curves: Curves, first: int, last: int, **facts: Any) -> Curves:
    """The same run with so many of 16 units dead at the first weights and at the last."""
    signals = curves.signals
    assert signals is not None
    assert signals.first is not None
    assert signals.last is not None
    born, left = (
        dataclasses.replace(look, units=(inspection.Units("ReLU 1", 16, dead), *look.units))
        for look, dead in ((signals.first, first), (signals.last, last))
    )
    near = dict.fromkeys(signals.moved, 0.3)
    return dataclasses.replace(
        curves, facts={**curves.facts, **facts}, signals=dataclasses.replace(signals, first=born, last=left, moved=near)
    )


def test_steps_that_kill_a_whole_layer_are_too_long() -> None:
    """However short the way of the weights was: of dead units nothing moves any more."""
    curves = curves_of(case(functools.partial(mlp, depth=1, width=8), lr=1e-6, epochs=8), 0)
    rule = learning_rates.RateTooHigh()
    assert rule.judge(curves) is None
    broke = rule.judge(seen_dead(curves, 2, 16))
    assert broke is not None
    assert "killed 14" in broke.says
    for first, last, facts in ((16, 16, {}), (2, 12, {}), (2, 16, {"regularized": {"weight_decay": 0.1}})):
        assert rule.judge(seen_dead(curves, first, last, **facts)) is None, (first, last, facts)


def test_losses_beyond_all_targets_do_not_show_that_sides_are_the_same_rows() -> None:
    same = [1.2345e9, 1.2344e9, 1.2343e9, 1.2342e9, 1.2341e9, 1.2339e9]
    curves = Curves.of({"loss": same, "val_loss": same})
    assert row_faults.Leakage().judge(curves) is not None
    assert row_faults.Leakage().judge(dataclasses.replace(curves, facts={"constant_loss": 10.0})) is None
    assert row_faults.Leakage().judge(dataclasses.replace(curves, facts={"constant_loss": 1e8})) is not None


def test_gradients_over_weights_of_zeros_are_not_compared() -> None:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)))
    for layer in (net[0][0], net[2][0], net[5][0]):  # type: ignore[index]
        nn.init.zeros_(layer.weight)
    x = torch.randn(64, 4)
    watch = wp.watch(net, "squared_error", (x, x), (x, x))
    assert watch.first is not None
    assert any(math.isnan(layer.relative) for layer in watch.first.layers)
    assert all(map(math.isfinite, gradient_flow.relative(watch.first).values()))


# Deliberately wrong rules: the cases above must catch every one.


class NeverHarmful(gradient_flow.VanishingGradients):
    RATIO, STAYS = 1e-30, 1.0


class ShrinkingIsEnough(gradient_flow.VanishingGradients):
    RATIO, STAYS, LAGS = 0.5, 10.0, 10.0


class GrowthIsUsual(gradient_flow.ExplodingGradients):
    RATIO = 1e12


class AnyGrowth(gradient_flow.ExplodingGradients):
    RATIO = 0.01


class WarmUpIsOver(latent_codes.PosteriorCollapse):
    WARM = 0.0


class EveryCodeIsHeard(latent_codes.PosteriorCollapse):
    BIT, IGNORED = 0.0, -1.0


class AFewDead(units.DyingUnits):
    ALL, ONE = 0.01, 0.01


class NeverDead(units.DyingUnits):
    ALL, ONE = 1.1, 1.1


class FrozenIsDead(units.DeadLayers):
    @staticmethod
    def _still(signals: Signals) -> list[str]:
        return [name for name, far in signals.moved.items() if far == 0]


class StillIsAlive(units.DeadLayers):
    @staticmethod
    def _still(signals: Signals) -> list[str]:
        return []


class UnusedIsAlive(units.DeadLayers):
    @staticmethod
    def _unused(signals: Signals) -> list[str]:
        return []


class AnyActivationIsWrong(outputs.WrongOutput):
    OUTSIDE = -1.0


class RangesAreFine(outputs.WrongOutput):
    OUTSIDE = 2.0


class AnyCodesAreClasses(outputs.WrongLoss):
    GAIN = -1.0

    def _numbers(self, signals: Signals, targets: Any, made: Any) -> Any:
        return self.finding(1.0, {}, "", ".") if targets.whole and targets.columns == 1 else None


class CodesAreAmounts(outputs.WrongLoss):
    GAIN = 2.0


class EveryHandIsBinary(outputs.WrongOutput):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        loss = copy.copy(signals.loss)
        loss.of_shares = "binary" if loss.of_shares else None
        return super().inside(curves, dataclasses.replace(signals, loss=loss))


class EachTargetIsALabel(outputs.WrongLoss):
    def _numbers(self, signals: Signals, targets: Any, made: Any) -> Any:
        return self.finding(1.0, {}, "", ".") if made == "sigmoid" else None


class UnitsAreNoMatter(input_scales.WrongTargets):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        targets = signals.targets
        return self.finding(1.0, {}, "", ".") if targets is not None and targets.spread > 30 else None


class FewAreFew(convergence.TooFewSteps):
    LEFT = 0.0


class ManyAreFew(convergence.TooFewSteps):
    MOST = 200


class HeadsCount(units.EqualUnits):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        return self.finding(1.0, {}, "", ".") if signals.first is not None and signals.first.copies else None


class RawInputsCount(input_scales.UnscaledInputs):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        columns = signals.last.entering if signals.last else None
        wide = columns is not None and columns.rms.max() > 0.5
        return self.finding(1.0, {}, "", "") if wide else None


class AnyOrderIsWrong(row_faults.Unshuffled):
    RESEMBLANCE, SURE = -1.0, -1e9


class OrderIsFine(row_faults.Unshuffled):
    RESEMBLANCE = 2.0


class CopiesWithinCount(row_faults.Leakage):
    def _copies(self, signals: Signals) -> Any:
        return self.finding(1.0, {}, "", "") if signals.copies and signals.copies.valid > 0.1 else None


class CopiesAreFine(row_faults.Leakage):
    SHARE = 2.0


class FeaturesAreFine(row_faults.Leakage):
    EXPLAINS = 2.0


class AnyFeature(row_faults.Leakage):
    EXPLAINS = 0.2


class ErrorsAreNoise(row_faults.LabelNoise):
    SHARE, FLAT, BAD = 0.005, 0.0, 2.0


class LabelsAreRight(row_faults.LabelNoise):
    SHARE = 1.0


class TrainingLabelsAreRight(row_faults.LabelNoise):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        valid = signals.wrong.get("valid")
        return self._sure(valid, "valid", 1.0) if valid else None


class ModesDoNotMatter(batch_norm.ForgottenMode):
    SHARE = 2.0


class EveryModeMinds(batch_norm.ForgottenMode):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        return super().inside(curves, dataclasses.replace(signals, moody=True))


class RowsAreValues(batch_norm.BatchTooSmall):
    VALUES, DISAGREES = 33, 2.0


class BatchesAreLarge(batch_norm.BatchTooSmall):
    VALUES, DISAGREES = 0, 1e9


class AnyDecay(decayed_norms.DecayedNorms):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        return self.finding(1.0, {}, "", "") if signals.charges else None


class NoDecay(decayed_norms.DecayedNorms):
    def inside(self, curves: Curves, signals: Signals) -> Any:
        return None


MUTANTS = [
    NeverHarmful, ShrinkingIsEnough, GrowthIsUsual, AnyGrowth, AFewDead, NeverDead, FrozenIsDead, StillIsAlive,
    UnusedIsAlive, AnyActivationIsWrong, RangesAreFine, AnyCodesAreClasses, CodesAreAmounts, RawInputsCount,
    AnyOrderIsWrong, OrderIsFine, CopiesWithinCount, CopiesAreFine, FeaturesAreFine, AnyFeature, ErrorsAreNoise,
    LabelsAreRight, TrainingLabelsAreRight, ModesDoNotMatter, EveryModeMinds, RowsAreValues, BatchesAreLarge, AnyDecay,
    NoDecay, EveryHandIsBinary, EachTargetIsALabel, UnitsAreNoMatter, FewAreFew, ManyAreFew, HeadsCount,
]  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_wrong_rules_are_caught(mutant: type[Inside]) -> None:
    rule = mutant()
    missed = [number for number, make in enumerate(PLANTED[rule.name]) if rule.judge(curves_of(make, 0)) is None]
    alarms = [
        number for number, make in enumerate(NEAR_MISSES[rule.name]) if rule.judge(curves_of(make, 0)) is not None
    ]
    assert missed or alarms
    right = next(one for one in rules() if one.name == rule.name)
    assert all(right.judge(curves_of(make, 0)) is not None for make in PLANTED[rule.name])


# Looking disturbs nothing


def state_of(net: nn.Module) -> dict[str, Any]:
    return {
        "modes": [m.training for m in net.modules()],
        "values": {k: v.clone() for k, v in net.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "needs": [p.requires_grad for p in net.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # type: ignore[index]  # noqa: NPY002
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_diagnosis_leaves_a_watch_as_it_was() -> None:
    watch = looped(functools.partial(mlp, norm=nn.BatchNorm1d, drop=0.2), blobs, epochs=2)
    net = watch.model
    net.train()
    net[1].eval()
    before, sampler = state_of(net), copy.deepcopy(watch.notes.forwards)
    wp.diagnose(watch)
    after = state_of(net)
    assert all(same(before[key], after[key]) for key in before), [k for k in before if not same(before[k], after[k])]
    assert watch.notes.forwards == sampler
    assert watch.notes._now == type(watch.notes._now)()


def test_watching_from_inside_changes_no_training() -> None:
    def trained(watched: bool) -> Tensor:
        torch.manual_seed(0)
        net, (x, y) = mlp(norm=nn.BatchNorm1d, drop=0.2), blobs(0, rows=300)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y)) if watched else None
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            if watch is not None:
                watch.epoch()
                wp.diagnose(watch)
        return torch.cat([v.flatten().float() for v in net.state_dict().values()])

    assert torch.equal(trained(True), trained(False))


def test_the_hook_goes_into_no_copy_pickle_or_graph() -> None:
    net, (x, y) = mlp(drop=0.1), blobs(0, rows=300)
    watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y))
    copied, stored = copy.deepcopy(net), pickle.dumps(net)
    pickle.loads(stored)(x), copied(x)
    assert b"wellposed" not in stored
    assert watch.notes._now.trained == 0
    assert net.state_dict().keys() == mlp(drop=0.1).state_dict().keys()
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    net(x)
    assert (watch.notes._now.trained, watch.notes._now.rows) == (1, 300)
    whole = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(whole.eval()(x), net.eval()(x))
    del watch
    gc.collect()
    assert not net._forward_pre_hooks


def test_a_closed_watch_notes_no_more() -> None:
    net, (x, y) = mlp(), blobs(0, rows=300)
    watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y))
    watch.close()
    net(x)
    assert not net._forward_pre_hooks
    assert watch.notes._now.trained == 0
    watch.epoch()


# What is seen


def test_forwards_are_counted_by_gradients_and_mode() -> None:
    watch = HEALTHY["dropout and layer norm"](0)
    assert {(f.trained, f.trained_evaluating, f.evaluated, f.evaluated_training) for f in watch.notes.forwards} == {
        (TRAIN // 50, 0, 1, 0)
    }
    assert all(f.rows == TRAIN for f in watch.notes.forwards)


def test_gradients_are_those_of_the_mean_loss() -> None:
    torch.manual_seed(0)
    net, (x, y) = mlp(), blobs(0, rows=90)
    seen = inspect_network(
        net,
        lambda m, b: m(b),
        LOSS,
        [(x[:40], y[:40]), (x[40:], y[40:])],
    )
    F.cross_entropy(net(x), y).backward()
    for layer in seen.layers:
        parameter = net.get_parameter(layer.name)
        assert layer.gradient == pytest.approx(float(parameter.grad.norm()), rel=1e-4)  # type: ignore[union-attr]
        assert layer.size == pytest.approx(float(parameter.detach().norm()), rel=1e-5)
    assert [layer.name for layer in seen.layers] == ["0.weight", "2.weight", "4.weight"]


def test_rectifiers_are_seen_as_modules_functions_and_in_place() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            x = torch.relu_(self.b(x))
            return self.d(self.c(x).clamp(min=0))

    torch.manual_seed(0)
    net, (x, y) = Mixed(), blobs(0, rows=100)
    with torch.no_grad():
        net.b.bias[:2] = -1e3
    seen = inspect_network(net, lambda m, b: m(b), LOSS, [(x, y)])
    assert [(u.count, u.dead) for u in seen.units[:2]] == [(6, 0), (6, 2)]
    assert [u.place for u in seen.units] == ["ReLU 1 after a", "ReLU 2 after b", "ReLU 3 after c"]


def test_units_of_a_convolution_are_its_channels() -> None:
    torch.manual_seed(0)
    net, (x, y) = cnn(norm=False), images(0, rows=100)
    with torch.no_grad():
        net[0].bias[3] = -1e3
    seen = inspect_network(net, lambda m, b: m(b), LOSS, [(x, y)])
    assert (seen.units[0].count, seen.units[0].dead) == (8, 1)


def test_a_run_is_looked_into_at_its_first_and_chosen_weights() -> None:
    x, y = blobs(0, rows=400)
    problem = wp.Problem(lambda data, width=16: mlp(data.features, data.outputs, width=width), "cross_entropy", (x, y))
    run = wp.fit(problem, wp.Recipe(epochs=4), seed=3)
    before = torch.get_rng_state()
    signals = wp.diagnose(run).curves.signals
    assert signals is not None
    assert signals.first is not None
    assert signals.last is not None
    assert torch.equal(before, torch.get_rng_state())
    assert signals.first.loss > signals.last.loss
    fresh = problem.build(run.recipe.model, 3)
    sizes = {layer.name: layer.size for layer in signals.first.layers}
    assert sizes["0.weight"] == pytest.approx(float(fresh[0].weight.detach().norm()), rel=1e-5)
    assert signals.missing == ()


def test_logs_have_no_signals() -> None:
    assert Curves.of({"loss": [1.0, 0.5, 0.3], "val_loss": [1.0, 0.6, 0.5]}).signals is None


def test_other_batches_and_forwards_are_looked_into() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8 + 6, 4)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.b(torch.cat([F.relu(self.a(left)), right], 1))

    x, y = blobs(0, rows=300)
    pairs = TensorDataset(x[:, :6], x[:, 6:], y)
    watch = wp.watch(Two(), "cross_entropy", train=pairs, valid=pairs)
    watch.epoch()
    signals = Signals.of(watch)
    assert signals is not None
    assert signals.last is not None
    assert len(signals.last.layers) == 2

    class Mapped(Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 300

        def __getitem__(self, i: int) -> dict[str, Tensor]:
            return {"x": x[i], "label": y[i]}

    net = mlp()
    watch = wp.watch(net, "cross_entropy", train=Mapped(), valid=Mapped(), forward=lambda m, batch: m(batch["x"]))
    watch.epoch()
    signals = Signals.of(watch)
    assert signals is not None
    assert signals.last is not None
    assert signals.copies is not None
    assert signals.copies.valid == 0 or "leakage" in wp.diagnose(watch).names


def test_what_cannot_be_looked_into_is_said() -> None:
    class Shy(nn.Module):
        """Cannot be called in training mode."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("no teacher")
            return self.inner(x)

    x, y = blobs(0, rows=300)
    watch = wp.watch(Shy(), "cross_entropy", train=(x, y), valid=(x + 1, y))
    for _ in range(3):
        watch.epoch()
    diagnosis = wp.diagnose(watch)
    assert len(diagnosis) >= 1
    assert diagnosis.curves.signals is not None
    assert [sentence for sentence in diagnosis.limits if "no teacher" in sentence]
    with pytest.raises(Unseen, match="no teacher"):
        inspect_network(Shy(), lambda m, b: m(b), LOSS, [(x, y)])


def test_the_first_pass_is_one_batch() -> None:
    x, y = blobs(0)
    watch = wp.watch(mlp(), "cross_entropy", train=(x, y), valid=(x, y))
    assert watch.first is not None
    assert watch.first.rows == FEW_ROWS


# What the rows say


def test_a_loss_that_has_no_bound_is_told_and_is_not_called_undertrained() -> None:
    torch.manual_seed(0)
    net, (x, y) = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), (torch.randn(96, 4), torch.randn(96, 1))
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    loss = lambda out, target: -F.mse_loss(out, target)  # noqa: E731 - as a loop has it
    watch = wp.watch(net, loss, train=(x[:64], y[:64]), valid=(x[64:], y[64:]), optimizer=optimizer)
    for _ in range(14):
        for _ in range(4):
            optimizer.zero_grad()
            loss(net(x[:64]), y[:64]).backward()
            optimizer.step()
        watch.epoch()
    names = wp.diagnose(watch).names
    assert "wrong_loss" in names
    assert not {"undertrained", "rate_too_low"} & {*names}


def test_noise_is_not_shared_by_neighbours_and_what_was_not_fitted_is() -> None:
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(600, 4, generator=g), torch.randn(600, 1, generator=g)
    for bent, low, high in ((0.0, -3.0, 2.0), (1.0, 3.0, math.inf)):
        target = x[:, :1] + bent * x[:, 1:2] ** 2 + noise
        sides = [(x[rows, :1], target[rows], x[rows]) for rows in (slice(400), slice(400, 600))]
        assert low < float(measure.leftover(sides[0], sides[1], classes=False, exclusive=False) or 0.0) < high
    scores = torch.zeros(600, 2)  # of classes: both are as likely, everywhere or on average
    for y, low, high in ((noise[:, 0] > 0, -3.0, 2.0), (x[:, 0] > 0, 3.0, math.inf)):
        sides = [(scores[rows], y.long()[rows], x[rows]) for rows in (slice(400), slice(400, 600))]
        assert low < float(measure.leftover(sides[0], sides[1], classes=True, exclusive=True) or 0.0) < high
    assert measure.leftover(sides[0], (scores[:9], y.long()[:9], x[:9]), classes=True, exclusive=True) is None


def test_copies_are_counted_within_and_across() -> None:
    x, y = torch.arange(20.0)[:, None].repeat(1, 3), torch.zeros(20)
    seen = measure.exact_copies((torch.cat([x[:8], x[:2]]), torch.zeros(10)), (x[6:14], torch.zeros(8)))
    assert seen is not None
    assert (seen.valid, seen.within, seen.rows) == (2 / 8, 4 / 10, 8)
    assert seen.natural == 0  # no two different rows agree in any column
    few = measure.exact_copies((x[:8] % 2, torch.arange(8)), (x[:8] % 2, torch.arange(8)))
    assert few is not None
    assert few.natural == pytest.approx(8 * 3 / 7)  # of 8 different rows each agrees with 3 of the 7 others
    other = measure.exact_copies((x[:8], torch.zeros(8)), (x[:8], torch.ones(8)))
    assert other is not None
    assert other.valid == 0  # equal inputs with another target are no copies
    del y


def test_parts_of_one_dataset_are_compared_by_number() -> None:
    x, y = blobs(0, rows=100)
    whole = TensorDataset(x, y)
    shared = measure.same_rows(Subset(whole, range(80)), DataLoader(Subset(whole, range(60, 100)), batch_size=10))
    assert shared is not None
    assert shared.valid == 0.5
    apart = measure.same_rows(Subset(whole, range(80)), Subset(whole, range(80, 100)))
    assert apart is not None
    assert apart.valid == 0
    assert measure.same_rows((x, y), (x, y)) is None


def test_resemblance_of_shuffled_batches_is_none_and_of_sorted_ones_all() -> None:
    rng = np.random.default_rng(0)
    z = [measure.resemblance(rng.integers(0, 3, (16, 32)).astype(float), True).z for _ in range(200)]  # type: ignore[union-attr]
    assert abs(float(np.mean(z))) < 0.5
    assert float(np.max(np.abs(z))) < 6
    numbers = [measure.resemblance(rng.normal(size=(16, 32)), False).z for _ in range(200)]  # type: ignore[union-attr]
    assert 0.7 < float(np.std(numbers)) < 1.4
    ordered = measure.resemblance(np.sort(rng.normal(size=512)).reshape(16, 32), False)
    assert ordered is not None
    assert ordered.resemblance > 0.95


def test_the_noise_of_labels_is_estimated_without_bias() -> None:
    """An answerer that knows the classes, and labels of which a known share is wrong."""
    for share in (0.1, 0.3):
        estimates = []
        for seed in range(30):
            g = drawn(seed)
            y = torch.randint(4, (2000,), generator=g)
            scores = 4.0 * F.one_hot(y, 4) + torch.randn(2000, 4, generator=g)
            flip = torch.rand(2000, generator=g) < share
            seen = measure.wrong_labels(scores, torch.where(flip, (y + 1) % 4, y))
            assert seen is not None
            estimates.append(seen.sure)
        assert float(np.mean(estimates)) == pytest.approx(share, abs=3 * (share * (1 - share) / 400 / 30) ** 0.5)


def test_overlapping_classes_have_few_errors_among_the_surest() -> None:
    g = drawn(0)
    y = torch.randint(2, (4000,), generator=g)
    score = 0.7 * (2.0 * y - 1) + torch.randn(4000, generator=g)
    seen = measure.wrong_labels(score, y)
    assert seen is not None
    assert seen.all > 0.2
    assert seen.sure < 0.3 * seen.all


def test_a_feature_that_ties_or_tells() -> None:
    g = drawn(0)
    y = torch.randint(2, (400,), generator=g)
    x = torch.randn(400, 4, generator=g)
    plain = measure.giveaway((x[:200], y[:200]), (x[200:], y[200:]))
    assert plain is not None
    assert plain.explains < 0.2
    x[:, 2] = y.float()  # a column of ties
    told = measure.giveaway((x[:200], y[:200]), (x[200:], y[200:]))
    assert told is not None
    assert (told.feature, round(told.explains, 6)) == (2, 1.0)
    assert told.next < 0.3


def test_wilson_covers() -> None:
    low, high = row_faults.wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert row_faults.wilson(0.0, 50)[0] == pytest.approx(0.0, abs=1e-12)
    assert row_faults.wilson(0.0, 50)[1] == pytest.approx(0.0713, abs=1e-3)


def test_terms_that_select_norms_are_seen() -> None:
    torch.manual_seed(0)
    net, (x, y) = NORMED(), blobs(0, rows=300)
    base = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0)
    optimizer = wp.regularize(base, net, [wp.L2(0.5).on(wp.weights | wp.norms)])
    watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y), optimizer=optimizer)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        watch.epoch()
    assert "decayed_norms" in wp.diagnose(watch).names


def test_the_page_of_faults_finds_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "faults.md").read_text()
    code, shown = re.search(r"```python\n(.*?)```", page, re.DOTALL), re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert code is not None
    assert shown is not None
    exec(code[1], {})
    assert capsys.readouterr().out == shown[1]
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == NAMES


# What regularizes, and steps that broke the network


def at_rest(train: float, valid: float, toll: Toll) -> Curves:
    """Curves at rest of a network with dropout, of four classes, with this toll."""
    fall = torch.exp(-torch.arange(30) / 2.0).double().numpy()
    wobble = 0.002 * np.random.default_rng(0).normal(size=(2, 30))
    one = Curves.of({"loss": train + fall + wobble[0], "val_loss": valid + fall + wobble[1]})
    facts = {"like_for_like": True, "constant_loss": 1.386, "regularized": {"dropout": 0.5}, "task": "classification"}
    return dataclasses.replace(one, facts=facts, signals=Signals(loop=True, loss=Loss("cross_entropy"), toll=toll))


def test_the_toll_of_dropout_is_measured() -> None:
    watch = looped(lambda: mlp(drop=0.5), blobs, epochs=8)
    assert watch.history.facts["regularized"] == {"dropout": 0.5}
    seen, bare = Signals.of(watch), Signals.of(looped(mlp, blobs, epochs=2))
    assert seen is not None
    assert seen.toll is not None
    assert seen.toll.noise > 3 * seen.toll.error > 0
    assert bare is not None
    assert bare.toll is not None
    assert bare.toll.noise == bare.toll.decay == 0


class AnyNoise(underfitting.OverRegularized):
    HALF = 0.01


class GapForgotten(underfitting.OverRegularized):
    @classmethod
    def _drowned(cls, curves: Curves) -> float:
        return 100 * super()._drowned(curves)


def test_noise_that_drowns_a_network_over_regularizes_it() -> None:
    drowned = at_rest(0.4, 0.44, Toll(0.4, 0.02, 0.0, 0.4))
    usual = at_rest(0.1, 0.12, Toll(0.06, 0.01, 0.0, 0.1))  # of a network that does nearly all there is to do
    useful = at_rest(0.4, 0.75, Toll(0.4, 0.02, 0.0, 0.4))  # there is a gap, which the noise may well keep small
    quiet = at_rest(0.6, 0.63, Toll(0.03, 0.01, 0.0, 0.6))  # classes that overlap, and hardly any noise
    judged = [underfitting.OverRegularized().judge(one) is not None for one in (drowned, usual, useful, quiet)]
    assert judged == [True, False, False, False]
    assert AnyNoise().judge(usual) is not None
    assert GapForgotten().judge(useful) is not None


def test_what_a_decay_costs_at_rest_is_half_its_pull() -> None:
    x, y = curve(0, features=4)
    w = torch.linalg.solve(x.T @ x / len(x) + 0.25 * torch.eye(4), x.T @ y / len(x))  # of mean squares + .5/2 |w|^2
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(w.T)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.5)
    watch = wp.watch(
        net, "squared_error", train=(x[:500], y[:500]), valid=(x[500:], y[500:]), optimizer=optimizer, rows=500
    )
    seen = inspect_network(net, lambda model, batch: model(batch), Loss("squared_error"), [(x, y)], rows=len(x))
    assert -seen.layers[0].outward / 2 == pytest.approx(0.25 * float(w.square().sum()), rel=1e-3)
    signals = Signals.of(watch)
    assert signals is not None
    assert signals.toll is not None
    assert signals.toll.decay > 0
    assert watch.history.facts["regularized"] == {"weight_decay": 0.5}


def test_a_rate_that_breaks_the_network_is_seen_inside() -> None:
    broken = Curves.of(looped(lambda: mlp(depth=3), blobs, epochs=10, lr=0.6))
    assert broken.signals is not None
    found = learning_rates.RateTooHigh()._broke(broken)
    assert found is not None
    assert int(found.evidence.get("units", 8)) >= 8
    sane = Curves.of(looped(lambda: mlp(depth=3), blobs, epochs=10, lr=3e-3))
    assert learning_rates.RateTooHigh().judge(sane) is None


def test_units_that_a_decay_takes_to_nothing_were_not_killed_by_the_rate() -> None:
    curves = Curves.of(looped(mlp, blobs, epochs=10, optimizer=adamw(3e-3, 60.0)))
    assert curves.signals is not None
    assert learning_rates.distance_from_start(curves.signals) < 2
    assert learning_rates.RateTooHigh()._broke(curves) is None


def test_labels_that_a_narrow_network_misses_are_not_called_wrong() -> None:
    g = drawn(0)
    x = torch.randn(600, 2, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long()  # a line is wrong in two quadrants, together with all rows around
    answers = torch.stack([-x[:, 0], x[:, 0]], 1) * 5
    right = (x[:, 0] > 0).long()
    flipped = torch.where(torch.rand(600, generator=g) < 0.3, 1 - right, right)
    narrow, noise = (measure.wrong_labels(answers, labels, x) for labels in (y, flipped))
    assert narrow is not None
    assert noise is not None
    assert narrow.shared > 0.8
    assert noise.shared < 0.2
    assert noise.shared < row_faults.LabelNoise.SHARED < narrow.shared


class Headed(nn.Module):
    """A network with a second head in training mode alone, as a list of outputs or counted in its own way, and perhaps noise."""

    def __init__(self, lists: bool, drop: float = 0.0) -> None:
        super().__init__()
        self.body, self.drop, self.head, self.second = mlp(outs=8), nn.Dropout(drop), nn.Linear(8, 4), nn.Linear(8, 4)
        self.lists = lists

    def forward(self, x: Tensor) -> Any:
        h = self.drop(self.body(x))
        both = [self.head(h), self.second(h)] if self.training else [self.head(h)]
        return both if self.lists else sum(both)


def summed(outputs: Any, target: Tensor) -> Tensor:
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return torch.stack([F.cross_entropy(one, target) for one in outputs]).sum()


@pytest.mark.parametrize("lists", [True, False])
def test_what_training_mode_has_beside_the_loss_is_no_noise(lists: bool) -> None:
    """The loss of a second head is no toll of dropout; beside dropout what the noise adds cannot be told from it."""
    batches = [(x, y) for x, y in DataLoader(TensorDataset(*blobs(0)), batch_size=50)][:4]

    def gap(drop: float) -> tuple[float, float, float]:
        torch.manual_seed(0)
        return inspection.mode_gap(Headed(lists, drop), lambda model, x: model(x), Loss(summed), batches, False)

    assert gap(0.0)[:2] == (0.0, 0.0)
    assert math.isnan(gap(0.5)[0]) == lists


def test_a_decay_has_not_cost_more_than_it_took() -> None:
    """Thirty steps at a thousandth, with a strength of a hundredth, took .03 % of the weights, however far the loss may fall."""
    few = Signals.of(looped(mlp, blobs, epochs=3, optimizer=adamw(1e-3, 1e-2)))
    many = Signals.of(looped(mlp, blobs, epochs=3, optimizer=adamw(1e-3, 1e3)))
    for seen in (few, many):
        assert seen is not None
        assert seen.toll is not None
        assert seen.last is not None
        pull = -math.fsum(layer.outward for layer in seen.last.layers) / 2
        assert seen.toll.decay <= (1e-3 if seen is few else 1.0) * max(pull, 0.0) + 1e-9
    assert few.toll.decay < 1e-3  # type: ignore[union-attr]


def test_factors_that_begin_at_zero_are_no_vanishing_gradients() -> None:
    """Of a product of two factors, one of which begins at zero, the other gets no gradient at first and little later."""
    curves = Curves.of(looped(mlp, blobs, epochs=5, lr=0.0))
    assert curves.signals is not None

    def judged(first: list[tuple[float, float]], last: list[tuple[float, float]]) -> object:
        passes = [
            dataclasses.replace(
                cast(Any, curves.signals).last,
                layers=tuple(
                    inspection.Layer(f"{i}.weight", str(i), "Linear", size, gradient, "weight")
                    for i, (size, gradient) in enumerate(sizes)
                ),
            )
            for sizes in (first, last)
        ]
        signals = dataclasses.replace(cast(Any, curves.signals), first=passes[0], last=passes[1], left={}, moved={})
        return gradient_flow.VanishingGradients().inside(curves, signals)

    late = [(1.0, 1e-5), (0.01, 0.1), (1.0, 1e-5), (0.01, 0.1), (1.0, 0.1)]
    assert judged([(1.0, 0.0), (0.0, 0.1), (1.0, 0.0), (0.0, 0.1), (1.0, 0.1)], late) is None
    assert judged([(1.0, 1e-6), (1.0, 1e-5), (1.0, 1e-4), (1.0, 1e-3), (1.0, 0.1)], late) is not None
