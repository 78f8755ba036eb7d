"""Models, data and recipes that the laws of the population are tried with, and what two runs differ in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.core.errors import WellposedError
from wellposed.parallel.jobs import Conditions, Job, Outcome
from wellposed.parallel.population.grouping import train_population
from wellposed.training.loop import fit

CPU = torch.device("cpu")
ROWS, FEATURES, CLASSES, WIDTH = 43, 6, 3, 8
DRAW = torch.Generator().manual_seed(0)
X, XV = torch.randn(ROWS, FEATURES, generator=DRAW), torch.randn(20, FEATURES, generator=DRAW)
NOISE = 0.5 * torch.randn(ROWS + 20, 2, generator=DRAW)


def classes(x: Tensor) -> Tensor:
    return (x[:, 0] > 0.3).long() + (x[:, 1] > 0).long()


def numbers(x: Tensor, noise: Tensor) -> Tensor:
    return torch.stack([x[:, 0] - x[:, 2], x[:, 1] * x[:, 3]], 1) + noise


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Net(nn.Module):
    """A model of some kind; inputs are cast to the type of its weights. Layers that a kind has no use for are not there.

    Args:
        kind: a method of this class, or a list of layers of `layers`.
    """

    def __init__(self, kind: str = "plain", outputs: int = CLASSES, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.kind, self.dtype = kind, dtype
        self.net = nn.Sequential(*layers(kind, outputs)) if kind in LAYERS else None
        if self.net is None:
            self.l1, self.l2, self.l3 = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, outputs)
            self.act, self.norm = nn.SiLU(), nn.LayerNorm(WIDTH)
        if kind == "many_drops":
            self.drop = nn.Dropout(0.3)
        if kind == "batch_norm_twice":
            self.batch = nn.BatchNorm1d(WIDTH)
            self.l1, self.l2 = nn.Linear(FEATURES, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        if kind == "alias":
            self.flat = nn.Flatten()
        if kind == "positions":
            self.narrow, self.few, self.flat = nn.Linear(2, 4), nn.Sequential(nn.LayerNorm(4), nn.GELU()), nn.Flatten()
            self.l3 = nn.Linear(12, outputs)
        if kind == "unused":
            self.spare = nn.Linear(WIDTH, WIDTH)
        if kind == "frozen":
            self.l1.requires_grad_(False)
            self.norm.weight.requires_grad_(False)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.double() if self.dtype == torch.float64 else x.float()
        if self.net is not None:
            return self.net(x)
        found: Tensor = getattr(self, self.kind)(x)
        return found

    def skips(self, x: Tensor) -> Tensor:
        """A value that three others use, sums of sums, functions in place of layers."""
        h = F.relu(self.l1(x))
        g = torch.tanh(self.l2(h)) + h
        return self.l3((self.norm(g) + h + g).sigmoid())

    def positions(self, x: Tensor) -> Tensor:
        """A linear map at each of three positions."""
        h = self.narrow(x.view(x.size(0), 3, 2))
        return self.l3(self.act(self.flat(self.few(h) + h)))

    def twice_itself(self, x: Tensor) -> Tensor:
        h = self.l1(x)
        return self.l3(self.act(h + h))

    def alias(self, x: Tensor) -> Tensor:
        """A norm that is used under another name too: it must not be joined with what follows."""
        n = self.norm(self.l1(x))
        return self.l3(self.act(self.flat(n)) + n)

    def shared(self, x: Tensor) -> Tensor:
        return self.l3(self.act(self.l2(self.act(self.l2(self.l1(x))))))

    def batch_norm_twice(self, x: Tensor) -> Tensor:
        return self.l3(self.batch(self.act(self.l2(self.batch(self.l1(x))))))

    def many_drops(self, x: Tensor) -> Tensor:
        h = self.drop(self.drop(self.l1(self.drop(x))))
        return self.l3(self.act(self.drop(self.l2(h))))

    def unused(self, x: Tensor) -> Tensor:
        return self.l3(self.act(self.l1(x)))

    def frozen(self, x: Tensor) -> Tensor:
        return self.l3(self.act(self.norm(self.l2(self.l1(x)))))


def layers(kind: str, outputs: int = CLASSES) -> list[nn.Module]:
    return [*LAYERS[kind](), nn.Linear(WIDTH, outputs, bias=kind != "bare")]


LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": lambda: [
        nn.Linear(FEATURES, WIDTH), nn.LayerNorm(WIDTH), nn.SiLU(), nn.Dropout(0.1),
        nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(0.0),
    ],
    "linear": lambda: [nn.Linear(FEATURES, WIDTH)],
    "no_norm": lambda: [nn.Linear(FEATURES, WIDTH), nn.Tanh()],
    "bare": lambda: [nn.Linear(FEATURES, WIDTH, bias=False), nn.Tanh()],
    "batch": lambda: [
        nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, momentum=0.3, affine=False),
        nn.GELU(), nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, eps=0.1),
    ],
    "activations": lambda: [
        nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Tanh(),
        nn.Linear(WIDTH, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH),
        nn.ELU(0.7), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Identity(),
    ],
    "outside_in": lambda: [
        nn.Dropout(0.2), nn.LayerNorm(FEATURES, elementwise_affine=False), nn.Linear(FEATURES, WIDTH), nn.Dropout(0.3),
        nn.ReLU(), nn.ReLU(), nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, eps=0.2), nn.Dropout(0.1),
    ],
    "residual": lambda: [
        nn.Linear(FEATURES, WIDTH),
        Residual(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH)),
        Residual(Residual(nn.BatchNorm1d(WIDTH), nn.ReLU()), nn.Linear(WIDTH, WIDTH)), nn.LayerNorm(WIDTH),
    ],
    "from_the_input": lambda: [Residual(nn.Linear(FEATURES, FEATURES), nn.Tanh()), nn.Linear(FEATURES, WIDTH), nn.ReLU()],
}  # fmt: skip

STRUCTURES = (
    "positions",
    "skips",
    "twice_itself",
    "alias",
    "shared",
    "batch_norm_twice",
    "many_drops",
    "unused",
    "frozen",
)


def problem(
    kind: str = "plain", loss: Any = "cross_entropy", dtype: torch.dtype = torch.float64, weighted: bool = False,
    **settings: Any,
) -> wp.Problem:  # fmt: skip
    """The data of these laws with a model of some kind; a recipe may name another one under ``[model]``."""
    y, yv = classes(X), classes(XV)
    outputs = CLASSES
    if loss == "binary_cross_entropy":
        y, yv = (torch.stack([numbers(a, NOISE[:n])[:, 0] > 0, a[:, 1] > 0], 1) for a, n in ((X, ROWS), (XV, 20)))
        outputs = 2
    elif loss in ("squared_error", "absolute_error", "mse", "mae", "huber"):
        y, yv = numbers(X, NOISE[:ROWS]), numbers(XV, NOISE[ROWS:])
        outputs = 2
    weight = torch.linspace(0, 2, ROWS) if weighted else None

    def model(kind: str = kind) -> nn.Module:
        return Net(kind, outputs, dtype)

    return wp.Problem(model, loss, wp.Data(train=(X, y), valid=(XV, yv), weight=weight), **settings)


def recipe(**settings: Any) -> wp.Recipe:
    """Two epochs of three steps, the last of 11 rows, unless said otherwise."""
    return wp.Recipe(**{"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.01}, **settings})


def together(problem: wp.Problem, jobs: Sequence[Job], compiled: bool = True, **settings: Any) -> list[Outcome]:
    return train_population(problem, jobs, Conditions(CPU, **settings), compiled)


def alone(problem: wp.Problem, job: Job) -> Outcome:
    try:
        return fit(problem, job.recipe, job.seed, device="cpu", rows=job.rows)
    except WellposedError as error:
        return error


def difference(one: Outcome, other: Outcome) -> float:
    """The largest difference of weights, buffers and histories, relative where numbers are above 1; infinite where the runs
    differ in kind: other columns, another end, or an error in another word."""
    if isinstance(one, WellposedError) or isinstance(other, WellposedError):
        return 0.0 if (type(one), str(one)) == (type(other), str(other)) else math.inf
    rows = list(one.history), list(other.history)
    told = [(run.stopped, run.best_epoch, [list(row) for row in run.history]) for run in (one, other)]
    left, right = one.model.state_dict(), other.model.state_dict()
    if told[0] != told[1] or left.keys() != right.keys():
        return math.inf
    pairs = [(left[name].double(), right[name].double()) for name in left]
    for a, b in zip(*rows, strict=True):
        names = [name for name in a if "seconds" not in name]
        pairs.append((torch.tensor([float(a[n]) for n in names]), torch.tensor([float(b[n]) for n in names])))
    return max(apart(a.double(), b.double()) for a, b in pairs)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative above 1; what is no number must be so on both sides."""
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    finite = a.isfinite()
    a, b = a[finite], b[finite]
    return float(((a - b).abs() / a.abs().clamp_min(1.0)).max()) if a.numel() else 0.0


def same(one: Outcome, other: Outcome) -> bool:
    """Equal bit for bit, but for the time and the word for the engine."""
    return difference(one, other) == 0.0
