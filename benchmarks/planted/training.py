"""One training in plain torch, watched: everything that may be done wrong in it is a setting.

Beside the watch, each epoch is measured on many fresh rows by code of its own: the ground truth rests on that alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from benchmarks.planted.data import Split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "summed_cross_entropy": nn.CrossEntropyLoss(reduction="sum"),
    "negated_cross_entropy": lambda outputs, y: -functional.cross_entropy(outputs, y),
    "squared_error": nn.MSELoss(),
    "binary_cross_entropy": nn.BCEWithLogitsLoss(),
}
OF_CLASSES = ("cross_entropy", "summed_cross_entropy", "negated_cross_entropy")
END = 3
"""Epochs at the end that are averaged, so that one lucky epoch decides nothing."""


def factor(schedule: str, t: float) -> float:
    """The learning rate's factor at the share ``t`` of training."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    if schedule == "one_cycle":
        return t / 0.3 if t < 0.3 else 0.5 * (1 + math.cos(math.pi * (t - 0.3) / 0.7))
    if schedule == "step":
        return 1.0 if t < 0.5 else 0.1
    if schedule == "spike":
        return 1.0 if t < 0.1 else 0.01
    if schedule == "dying":
        return 10.0 ** (-8 * t)
    return 1.0


@dataclass
class Trace:
    """Losses and errors after each epoch, in evaluation mode, on training rows and on fresh rows."""

    constant: float
    train: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch with the lowest fresh loss."""
        return min(range(len(self.fresh)), key=lambda i: self.fresh[i])

    def end(self, side: str = "fresh") -> float:
        """Mean over the last epochs; infinite where it is no number."""
        values = getattr(self, side)[-END:]
        mean = math.fsum(values) / len(values)
        return mean if math.isfinite(mean) else math.inf


@dataclass
class Trained:
    """What a training leaves."""

    net: nn.Module
    watch: wp.Watch
    trace: Trace
    logs: dict[str, list[float]]


def per_row(loss: str, outputs: Tensor, y: Tensor) -> Tensor:
    """The loss of each row."""
    if loss in OF_CLASSES:
        return functional.cross_entropy(outputs, y, reduction="none")
    if loss == "binary_cross_entropy":
        return functional.binary_cross_entropy_with_logits(outputs, y, reduction="none").mean(1)
    return (outputs - y).square().mean(1)


def wrong(loss: str, outputs: Tensor, y: Tensor) -> float:
    """The share of wrong classes, or the squared error."""
    if loss in OF_CLASSES:
        return float((outputs.argmax(1) != y).float().mean())
    if loss == "binary_cross_entropy":
        return float(((outputs > 0) != (y > 0.5)).float().mean())
    return float((outputs - y).square().mean())


def constant_loss(loss: str, train: Tensor, fresh: Tensor) -> float:
    """What the best constant prediction costs on fresh rows."""
    if loss in OF_CLASSES:
        share = torch.bincount(train, minlength=int(fresh.max()) + 1).clamp_min(0.5).float()
        return float(-(share / share.sum()).log()[fresh].mean())
    if loss == "binary_cross_entropy":
        share = train.mean().clamp(1e-3, 1 - 1e-3)
        return float(functional.binary_cross_entropy(share.expand_as(fresh), fresh.clamp(0, 1)))
    return float((fresh - train.mean(0)).square().mean())


@dataclass(frozen=True)
class Training:
    """A training to be run, once, when something of it is asked for.

    Args:
        data, net: what on what; ``net(**model)`` builds the network.
        settings: of the optimizer, beside the learning rate.
        decay: weight decay of weights alone, or of every parameter with ``decay_all``.
        prepare: changes the network after its initialization.
        parameters: those that the optimizer is given.
        mode: called at the beginning of an epoch to set the network's mode.
        evaluated: the loop leaves the network in evaluation mode when it calls ``watch.epoch()``.
        augment: changes the inputs of a training batch.
        probe: rows that the watch looks at.
        forgets: the loop does not set gradients to zero between steps.
    """

    data: Split
    net: Callable[..., nn.Module]
    seed: int
    model: dict[str, Any] = field(default_factory=dict)
    loss: str = "cross_entropy"
    optimizer: str = "Adam"
    lr: float = 3e-3
    settings: dict[str, Any] = field(default_factory=dict)
    decay: float = 0.0
    decay_all: bool = False
    epochs: int = 25
    batch: int = 32
    schedule: str = "constant"
    clip: float = 0.0
    shuffle: bool = True
    prepare: Callable[[nn.Module], None] | None = None
    parameters: Callable[[nn.Module], Iterable[nn.Parameter]] | None = None
    mode: Callable[[nn.Module, int], object] = lambda net, epoch: net.train()
    evaluated: bool = False
    augment: Callable[[Tensor], Tensor] | None = None
    probe: int | None = 400
    forgets: bool = False

    def but(self, **changes: Any) -> Training:
        """The same with changes; those of ``model`` alone are merged."""
        if "model" in changes:
            changes["model"] = {**self.model, **changes["model"]}
        return replace(self, **changes)

    def built(self) -> nn.Module:
        """The network before training."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = self.net(**self.model)
        if self.prepare is not None:
            with torch.no_grad():
                self.prepare(net)
        return net

    def make_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimizer, with decay as the settings say."""
        given = list(self.parameters(net)) if self.parameters else list(net.parameters())
        groups: list[Any] = [{"params": given}]
        if self.decay and self.decay_all:
            groups = [{"params": given, "weight_decay": self.decay}]
        elif self.decay:
            inner = {id(p) for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) for p in [m.weight]}
            groups = [{"params": [p for p in given if id(p) in inner], "weight_decay": self.decay}]
            groups += [{"params": [p for p in given if id(p) not in inner], "weight_decay": 0.0}]
        if self.optimizer == "AdamW":
            groups = [{"weight_decay": 0.0, **group} for group in groups]
        made: torch.optim.Optimizer = getattr(torch.optim, self.optimizer)(groups, lr=self.lr, **self.settings)
        return made

    @cached_property
    def done(self) -> Trained:
        """Train: the loop, from top to bottom."""
        net, loss = self.built(), LOSSES[self.loss]
        optimizer = self.make_optimizer(net)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed + 1)
            single = len(self.data.train[0]) % self.batch == 1  # a batch that batch norm cannot take
            loader = DataLoader(
                TensorDataset(*self.data.train), batch_size=self.batch, shuffle=self.shuffle, drop_last=single
            )
            valid = DataLoader(TensorDataset(*self.data.valid), batch_size=256)
            watch = wp.watch(net, loss, train=loader, valid=valid, optimizer=optimizer, rows=self.probe, share=1)
            trained = Trained(net, watch, Trace(constant_loss(self.loss, self.data.train[1], self.data.fresh[1])), {})
            steps, total = 0, self.epochs * len(loader)
            for epoch in range(self.epochs):
                self.mode(net, epoch)
                costs, rights, seen = 0.0, 0.0, 0
                for x, y in loader:
                    for group in optimizer.param_groups:
                        group["lr"] = self.lr * factor(self.schedule, steps / total)
                    if not self.forgets:
                        optimizer.zero_grad()
                    outputs = net(self.augment(x) if self.augment else x)
                    cost = loss(outputs, y)
                    cost.backward()
                    if self.clip:
                        nn.utils.clip_grad_norm_(net.parameters(), self.clip)
                    optimizer.step()
                    steps += 1
                    costs, seen = costs + float(cost.detach()) * len(x), seen + len(x)
                    rights += (1 - wrong(self.loss, outputs.detach(), y)) * len(x)
                self._measured(trained, costs / seen, rights / seen, epoch)
                if self.evaluated:
                    net.eval()
                watch.epoch()
        return trained

    @torch.no_grad()
    def _measured(self, trained: Trained, cost: float, right: float, epoch: int) -> None:
        """Add an epoch to the trace and to the logs of the loop."""
        net, trace, logs = trained.net, trained.trace, trained.logs
        training = net.training
        net.eval()
        x, y = self.data.fresh
        outputs = net(x)
        trace.rows.append(per_row(self.loss, outputs, y))
        trace.fresh.append(float(trace.rows[-1].mean()))
        trace.error.append(wrong(self.loss, outputs, y))
        seen, target = (part[:1000] for part in self.data.train)
        trace.train.append(float(per_row(self.loss, net(seen), target).mean()))
        held = net(self.data.valid[0])
        sign = -1 if self.loss.startswith("negated") else 1
        against = sign * float(per_row(self.loss, held, self.data.valid[1]).mean())
        row = {"epoch": epoch, "loss": cost, "val_loss": against}
        if self.data.classifies:
            row |= {"accuracy": right, "val_accuracy": 1 - wrong(self.loss, held, self.data.valid[1])}
        for name, value in row.items():
            logs.setdefault(name, []).append(value)
        net.train(training)

    def watched(self) -> wp.Watch:
        """The watch of the loop."""
        return self.done.watch

    def logged(self) -> dict[str, list[float]]:
        """What the loop wrote down: the training cost as it went, and the validation loss."""
        return self.done.logs

    @property
    def trace(self) -> Trace:
        """What fresh rows say."""
        return self.done.trace

    @cached_property
    def problem(self) -> wp.Problem:
        """The same model, loss and data as a problem; the test rows are the fresh ones."""
        space = {
            key: sorted({max(1, value // 4), value, value * 4}) for key, value in self.model.items() if key == "width"
        }
        settings = {key: value for key, value in self.model.items() if key not in ("dropout",)}
        net = self.net

        def factory(**given: Any) -> nn.Module:
            return net(**{**settings, **given})

        data = wp.Data(train=self.data.train, valid=self.data.valid, test=self.data.fresh)
        return wp.Problem(factory, self.loss, data, space=space, name="planted")

    @cached_property
    def recipe(self) -> wp.Recipe:
        """The same training as a recipe, without early stopping."""
        decay = [{"penalty": "l2", "strength": self.decay}] if self.decay else []
        dropout = self.model.get("dropout")
        return wp.Recipe(
            epochs=self.epochs, batch_size=self.batch, clip=self.clip, terms=decay,
            model={key: value for key, value in self.model.items() if key != "dropout"},
            optimizer={"name": self.optimizer.lower(), "lr": self.lr, **self.settings},
            schedule={"name": self.schedule}, noise={"dropout": dropout} if dropout else {},
            stopping={"patience": 0},
        )  # fmt: skip

    @cached_property
    def fitted(self) -> wp.Run:
        """The same training by `wp.fit`."""
        return wp.fit(self.problem, self.recipe, seed=self.seed)
