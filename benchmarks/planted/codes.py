"""Variational autoencoders in plain torch, watched, and what their codes are known to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from benchmarks.planted import truth
from torch import Tensor, nn
from torch.nn import functional

import wellposed as wp

TOLD = 0.1
"""Of the variance of fresh rows that a linear function of their codes explains, beyond which a code says something; a collapsed
one explains less than half of it."""


class Coder(nn.Module):
    """Numbers to a code and back; ``apart``: a layer for means and one for log-variances; ``deaf``: the decoder has no code."""

    def __init__(self, features: int, code: int, width: int = 32, apart: bool = False, deaf: bool = False) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.code = nn.Linear(width, (1 if apart else 2) * code)
        self.wide = nn.Linear(width, code) if apart else None
        self.draw = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, features))
        self.deaf = deaf

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances, ``(rows, code)`` each."""
        seen = self.see(x)
        mean, wide = self.code(seen).chunk(2, 1) if self.wide is None else (self.code(seen), self.wide(seen))
        return mean, wide

    def forward(self, x: Tensor) -> Tensor:
        """What a drawn code gives, ``(rows, features)``."""
        mean, wide = self.moments(x)
        drawn: Tensor = self.draw((mean + torch.randn_like(mean) * (wide / 2).exp()) * (not self.deaf))
        return drawn


class Speller(nn.Module):
    """Letters to a code and back, each told to the decoder before the next: ``(rows, length)`` to ``(rows, letters, length)``."""

    def __init__(self, letters: int, code: int, width: int = 32, told: bool = True) -> None:
        super().__init__()
        self.embed, self.told = nn.Embedding(letters + 1, 12), told
        self.read, self.code = nn.GRU(12, width, batch_first=True), nn.Linear(width, 2 * code)
        self.begin, self.write = nn.Linear(code, width), nn.GRU(12, width, batch_first=True)
        self.out = nn.Linear(width, letters)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances, ``(rows, code)`` each."""
        mean, wide = self.code(self.read(self.embed(x + 1))[1][0]).chunk(2, 1)
        return mean, wide

    def forward(self, x: Tensor) -> Tensor:
        """The logits of each letter."""
        mean, wide = self.moments(x)
        start = self.begin(mean + torch.randn_like(mean) * (wide / 2).exp())
        before = functional.pad(x + 1, (1, 0))[:, :-1] * self.told
        written: Tensor = self.out(self.write(self.embed(before), start[None])[0]).transpose(1, 2)
        return written


def gaussian(out: Tensor, x: Tensor) -> Tensor:
    """Of each row, with a standard deviation of 0.3, but for a constant."""
    return (out - x).square().sum(1) / (2 * 0.3**2)


def bernoulli(out: Tensor, x: Tensor) -> Tensor:
    """Of each row of pixels from 0 to 1."""
    return functional.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1)


def spelled(out: Tensor, x: Tensor) -> Tensor:
    """Of each row of letters."""
    return functional.cross_entropy(out, x, reduction="none").sum(1)


@dataclass(frozen=True)
class Coding:
    """A training of an autoencoder, run once, when something of it is asked for.

    Args:
        net, loss: the loss of each row.
        rows: the last quarter is fresh.
        place: where the divergence is charged, times ``beta``, after a warm-up of as many steps as ``warmup`` says.
    """

    net: Callable[[], Any]
    loss: Callable[[Tensor, Tensor], Tensor]
    rows: Tensor
    seed: int
    beta: float
    warmup: int = 0
    free: float = 0.0
    lr: float = 5e-3
    epochs: int = 20
    place: Any = "code"

    @cached_property
    def done(self) -> tuple[wp.Watch, Any]:
        torch.manual_seed(self.seed)
        net, kept = self.net(), len(self.rows) * 3 // 4
        charge = wp.KLToStandardNormal(self.beta, free=self.free, apart=isinstance(self.place, list))
        term = charge.on(self.place, schedule=wp.ramp(self.warmup) if self.warmup else None)
        optimizer = wp.regularize(torch.optim.Adam(net.parameters(), self.lr), net, [term])
        train, fresh = self.rows[:kept], self.rows[kept:]
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        watch = wp.watch(net, self.loss, (train, train), (fresh, fresh), optimizer=optimizer, share=1)
        for _ in range(self.epochs):
            net.train()
            for batch in torch.randperm(kept).split(25):
                optimizer.zero_grad()
                (self.loss(net(train[batch]), train[batch]).mean() + optimizer.penalty()).backward()
                optimizer.step()
            falling.step()
            watch.epoch()
        return watch, net

    def watched(self) -> wp.Watch:
        """What `wp.diagnose` takes."""
        return self.done[0]

    def told(self) -> float:
        """The share of the fresh rows' variance that a linear function of a drawn code explains, fitted on training rows."""
        net, kept = self.done[1].eval(), len(self.rows) * 3 // 4
        with torch.no_grad():
            mean, wide = net.moments(self.rows)
        code = mean + torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)) * (wide / 2).exp()
        code = torch.cat([code, torch.ones(len(code), 1)], 1).double()
        x = self.rows if self.rows.is_floating_point() else functional.one_hot(self.rows).flatten(1)
        x = x.double()
        solved = torch.linalg.solve(
            code[:kept].T @ code[:kept] + 1e-3 * torch.eye(code.shape[1]), code[:kept].T @ x[:kept]
        )
        rest = (x[kept:] - code[kept:] @ solved).square().sum()
        return 1 - float(rest / (x[kept:] - x[:kept].mean(0)).square().sum())

    def says_nothing(self) -> str:
        return truth.holds(lambda: self.told() < TOLD / 2, "the code says something of its row")

    def says_something(self) -> str:
        return truth.holds(lambda: self.told() > TOLD, "the code says nothing of its row")


def hidden(seed: int, rows: int, features: int, causes: int) -> Tensor:
    """Numbers that a few hidden ones make, with noise of 0.3."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, causes, generator=draw) @ torch.randn(causes, features, generator=draw)
    return mixed + 0.3 * torch.randn(rows, features, generator=draw)


def counted(seed: int, rows: int, length: int, letters: int = 20) -> Tensor:
    """Letters in steps of one, two or three from the first on; a quarter is any letter, so that no two rows are alike."""
    draw = torch.Generator().manual_seed(seed)
    start, step = torch.randint(letters, (rows, 1), generator=draw), torch.randint(1, 4, (rows, 1), generator=draw)
    told = (start + step * torch.arange(length)) % letters
    return torch.where(
        torch.rand(told.shape, generator=draw) < 0.25, torch.randint(letters, told.shape, generator=draw), told
    )
