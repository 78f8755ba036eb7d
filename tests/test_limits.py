"""Limits: nothing charged is plain training bit for bit, everything charged leaves exact zeros, and edges are known models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.penalties.base import Chargeable, FunctionalPenalty, How, Term
from wellposed.recipe.recipe import chargeables
from wellposed.search import words

Make = Callable[[Any], torch.optim.Optimizer]
Terms = Sequence[Term]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


class Small(nn.Module):
    """A convolution, a network and a skip layer side by side, with norms and biases; no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))
        self.skip = nn.Linear(6, 3, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.skip(x) + self.head(self.conv(x[:, None]).flatten(1).tanh())
        return out


def small(dtype: torch.dtype = torch.float32) -> Small:
    torch.manual_seed(0)
    return Small().to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=draw).to(dtype), torch.randint(0, 3, (16,), generator=draw)


def train(net: nn.Module, optimizer: Any, steps: int = 30, charged: bool = False, first: int = 0) -> list[Tensor]:
    """Mini-batches; ``charged`` adds `penalty` to the cost as every penalty of the loss wants it."""
    dtype = next(net.parameters()).dtype
    for step in range(first, first + steps):
        x, y = batch(step, dtype)
        x.requires_grad_(charged)
        optimizer.zero_grad()
        out = net(x)
        cost = F.cross_entropy(out, y)
        if charged:
            cost = cost + optimizer.penalty(out, inputs=x, reference=out.detach() + 1.0)
        cost.backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield


# Nothing is charged: bit for bit


def tied(strength: float) -> wp.TiedGroups:
    return wp.TiedGroups(strength, {"layers.0.weight": "unit", "layers.3.weight": "input"})


@dataclass(frozen=True)
class Edge:
    """A charge that changes nothing, and the same one where it changes something."""

    nothing: Callable[[], Chargeable]
    something: Callable[[], Chargeable]


def charging(cls: Any) -> Edge:
    return Edge(lambda: cls(0.0), lambda: cls(0.1))


def bounding(cls: Any, large: float = 1e6, tight: float = 0.3) -> Edge:
    return Edge(lambda: cls(large), lambda: cls(tight))


EDGES: dict[str, Edge] = {
    **{name: charging(cls) for name, cls in chargeables().items() if hasattr(cls, "strength") or _strong(cls)},
} if False else {}
