"""Small networks of several kinds; each is a factory whose keywords are what a search may vary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "leaky": nn.LeakyReLU, "none": nn.Identity,
}  # fmt: skip
NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def mlp(features: int, outputs: int, *, width: int = 64, depth: int = 2, activation: str = "relu", dropout: float = 0.0,
        norm: str | None = None, head: nn.Module | None = None) -> nn.Sequential:  # fmt: skip
    """``depth`` hidden layers; a depth of 0 is linear. ``head`` follows the last layer. Dropout layers are there at 0 too."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = features
    for _ in range(depth):
        layers.append(nn.Linear(size, width))
        layers += [NORMS[norm](width)] if norm else []
        layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Dropout(dropout))
        size = width
    layers.append(nn.Linear(size, outputs))
    return nn.Sequential(*layers, *([head] if head is not None else []))


def convnet(
    channels: int, side: int, outputs: int, *, width: int = 8, norm: bool = False, dropout: float = 0.0, dense: int = 0
) -> nn.Sequential:
    """Two convolutions, each halving the side, and with ``dense`` a hidden layer of that size with batch norm."""

    def block(before: int, after: int) -> list[nn.Module]:
        normed: list[nn.Module] = [nn.BatchNorm2d(after)] if norm else []
        return [nn.Conv2d(before, after, 3, stride=2, padding=1), *normed, nn.ReLU()]

    left = (side + 3) // 4
    size = 2 * width * left**2
    hidden: list[nn.Module] = [nn.Linear(size, dense), nn.BatchNorm1d(dense), nn.ReLU()] if dense else []
    read = nn.Linear(dense or size, outputs)
    return nn.Sequential(
        *block(channels, width), *block(width, 2 * width), nn.Flatten(), nn.Dropout(dropout), *hidden, read
    )


class Recurrent(nn.Module):
    """A recurrent network whose last state is read."""

    def __init__(self, outputs: int, width: int = 24, cell: str = "gru") -> None:
        super().__init__()
        kinds: dict[str, Any] = {"gru": nn.GRU, "rnn": nn.RNN}
        self.body = kinds[cell](1, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, steps, 1)`` to ``(rows, outputs)``."""
        read: Tensor = self.head(self.body(x)[0][:, -1])
        return read


class Transformer(nn.Module):
    """One encoder layer over the steps, then their mean."""

    def __init__(self, outputs: int, length: int, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.place = nn.Parameter(0.5 * torch.randn(1, length, width))
        self.body = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, steps, 1)`` to ``(rows, outputs)``."""
        read: Tensor = self.head(self.body(self.embed(x) + self.place).mean(1))
        return read


class Detached(nn.Module):
    """Two parts, between which the gradient is cut: a ``detach`` that should not be there."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """As if nothing were cut."""
        read: Tensor = self.second(self.first(x).detach())
        return read


class Bypassed(nn.Module):
    """A net with a layer that is built and never called."""

    def __init__(self, net: nn.Module, width: int) -> None:
        super().__init__()
        self.net, self.adapter = net, nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Without the adapter."""
        read: Tensor = self.net(x)
        return read
