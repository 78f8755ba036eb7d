"""Data for planted cases: real tables, images and sequences, and teachers whose answers can be drawn without end.

Each has training and validation rows, and **fresh** rows that only the ground truth sees.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"
FRESH = 1500
"""A rate of errors is known to about 1 % from so many rows, and evaluating them takes less than an epoch."""
REAL_TARGETS = {"california-housing", "concrete", "diamonds", "energy", "power-plant", "yacht"}
"""Tables of regressions; elsewhere the target is a class, also where it is written as a number."""
_root = [DEFAULT]

Pair = tuple[Tensor, Tensor]


def use(root: str | Path) -> None:
    """Read real data below this folder.

    Raises:
        FileNotFoundError: it is no folder.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"There are no data at {root}; give the folder that has tables/ and images/ with --data."
        )
    _root[0] = Path(root)


@dataclass(frozen=True)
class Split:
    """Training, validation and fresh rows of one task."""

    train: Pair
    valid: Pair
    fresh: Pair
    outputs: int
    classifies: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's input."""
        return tuple(self.train[0].shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one example's input."""
        return int(np.prod(self.shape))

    def inputs(self, change: Callable[[Tensor], Tensor]) -> Split:
        """The same with changed inputs."""
        return self.each(lambda x, y: (change(x), y))

    def each(self, change: Callable[[Tensor, Tensor], Pair]) -> Split:
        """The same with each side changed."""
        return replace(self, train=change(*self.train), valid=change(*self.valid), fresh=change(*self.fresh))

    def but_train(self, change: Callable[[Tensor, Tensor], Pair]) -> Split:
        """The same with changed training rows."""
        return replace(self, train=change(*self.train))

    def but_valid(self, change: Callable[[Tensor, Tensor], Pair]) -> Split:
        """The same with changed validation rows."""
        return replace(self, valid=change(*self.valid))


def random(seed: int) -> torch.Generator:
    """A stream of random numbers of its own."""
    return torch.Generator().manual_seed(seed)


def parted(x: Tensor, y: Tensor, rows: int, valid: int, seed: int, outputs: int, classifies: bool) -> Split:
    """Rows in random order, cut into training, validation and fresh ones."""
    order = torch.randperm(len(x), generator=random(seed))
    x, y = x[order], y[order]
    end = rows + valid
    if len(x) < end + 100:
        raise ValueError(f"{rows} training and {valid} validation rows leave too few of {len(x)} for the ground truth.")
    sides = (slice(0, rows), slice(rows, end), slice(end, end + FRESH))
    train, held, fresh = ((x[side].contiguous(), y[side].contiguous()) for side in sides)
    return Split(train, held, fresh, outputs, classifies)


@cache
def read_table(name: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Inputs with categories as 0/1 columns and missing numbers as the median, targets, and whether they are classes."""
    with gzip.open(_root[0] / "tables" / f"{name}.csv.gz", "rt", newline="") as file:
        _, *lines = csv.reader(file)
    columns = list(zip(*lines[:8000], strict=True))
    *inputs, target = (np.array(column) for column in columns)
    parts = []
    for column in inputs:
        try:
            values = np.array([float(v) if v else np.nan for v in column])
            parts.append(np.where(np.isnan(values), np.nanmedian(values), values)[:, None])
        except ValueError:
            levels = np.unique(column)
            if len(levels) <= 20:
                parts.append((column[:, None] == levels[None, :]).astype(float))
    classifies = name not in REAL_TARGETS
    answer = np.unique(target, return_inverse=True)[1] if classifies else target.astype(float)
    x = np.concatenate(parts, axis=1)
    _, single = np.unique(x, axis=0, return_index=True)  # a row that is there twice would leak
    return x[single], answer[single], classifies


def table(name: str, rows: int, valid: int, seed: int, *, scaled: bool = True) -> Split:
    """Rows of a real table; inputs and a real target scaled by their training rows, unless ``scaled`` is False (inputs)."""
    x, y, classifies = read_table(name)
    inputs = torch.tensor(x, dtype=torch.float32)
    target = torch.tensor(y, dtype=torch.long if classifies else torch.float32)
    split = parted(inputs, target if classifies else target[:, None], rows, valid, seed, 1, classifies)
    if scaled:
        mean, std = split.train[0].mean(0), split.train[0].std(0).clamp_min(1e-3)
        split = split.inputs(lambda values: ((values - mean) / std).clamp(-5, 5))
    if classifies:
        return replace(split, outputs=int(y.max()) + 1)
    centre, spread = split.train[1].mean(), split.train[1].std()
    return split.each(lambda values, answers: (values, (answers - centre) / spread))


@cache
def read_images(name: str) -> tuple[Tensor, Tensor]:
    """Up to 10,000 images in [0, 1], halved in size, channels first, with their classes."""
    with np.load(_root[0] / "images" / f"{name}.npz") as file:
        raw, y = file["X_train"][:10_000], file["y_train"][:10_000]
    x = torch.from_numpy(raw).float() / 255
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return nn.functional.avg_pool2d(x, 2).contiguous(), torch.from_numpy(y.astype(np.int64)).flatten()


def images(name: str, rows: int, valid: int, seed: int, *, scaled: bool = True) -> Split:
    """Rows of an image set, scaled to mean 0 and standard deviation 1 unless ``scaled`` is False (then in [0, 1])."""
    x, y = read_images(name)
    split = parted(x, y, rows, valid, seed, 10, True)
    mean, std = split.train[0].mean(), split.train[0].std()
    return split.inputs(lambda values: (values - mean) / std) if scaled else split


def power_demand(rows: int, valid: int, seed: int) -> Split:
    """Days of power demand, winter against summer: sequences of 24 hours, ``(rows, 24, 1)``."""
    with np.load(_root[0] / "sequences" / "italy-power-demand.npz") as file:
        x = np.concatenate([file["X_train"], file["X_test"]])
        y = np.concatenate([file["y_train"], file["y_test"]])
    target = torch.from_numpy(np.unique(y, return_inverse=True)[1].astype(np.int64))
    return parted(torch.from_numpy(x).permute(0, 2, 1).float(), target, rows, valid, seed, 2, True)


def classes(rows: int, valid: int, seed: int, *, features: int = 10, count: int = 2, noise: float = 0.0,
            hidden: int = 8, sharpness: float = 8.0) -> Split:  # fmt: skip
    """Classes by the largest output of a random network; ``noise`` is the share of labels drawn anew among the others."""
    g = random(seed)
    total = rows + valid + FRESH
    x = torch.randn(total, features, generator=g)
    first = torch.randn(features, hidden, generator=g) / features**0.5
    second = torch.randn(hidden, count, generator=g) / hidden**0.5
    scores = torch.tanh(2 * x @ first + 0.5 * torch.randn(hidden, generator=g)) @ second
    y = (scores - scores.median(0).values).mul(sharpness).argmax(1)
    split = parted(x, y, rows, valid, seed + 1, count, True)
    return split.each(lambda a, b: (a, flipped(b, noise, count, seed + len(b)))) if noise else split


def flipped(y: Tensor, share: float, count: int, seed: int) -> Tensor:
    """Labels of which a share is another class, each other equally likely."""
    g = random(seed)
    wrong = torch.rand(len(y), generator=g) < share
    return torch.where(wrong, (y + torch.randint(1, count, (len(y),), generator=g)) % count, y)


def linear_classes(rows: int, valid: int, seed: int, *, features: int = 8, scale: float = 3.0) -> Split:
    """Two classes drawn from a logistic model of standard normal inputs; ``scale`` is the norm of its weights."""
    g = random(seed)
    w = torch.randn(features, generator=g)
    x = torch.randn(rows + valid + FRESH, features, generator=g)
    y = (torch.rand(len(x), generator=g) < torch.sigmoid(scale * x @ (w / w.norm()))).long()
    return parted(x, y, rows, valid, seed + 1, 2, True)


def curve(rows: int, valid: int, seed: int, *, features: int = 6, noise: float = 0.1, bends: float = 1.0) -> Split:
    """A smooth function of all features, of variance 1, with Gaussian noise; ``bends`` sets how fast it turns."""
    g = random(seed)
    x = torch.randn(rows + valid + FRESH, features, generator=g)
    w = torch.randn(features, 6, generator=g) * bends / features**0.5
    y = torch.sin(2 * x @ w + torch.rand(6, generator=g) * 6.28) @ torch.randn(6, 1, generator=g)
    y = (y - y.mean()) / y.std()
    return parted(x, y + noise * torch.randn(y.shape, generator=g), rows, valid, seed + 1, 1, False)


def line(rows: int, valid: int, seed: int, *, features: int = 12, noise: float = 0.1, condition: float = 1.0) -> Split:
    """A linear function with noise; the inputs' covariance, of unit variances, has about this condition number."""
    g = random(seed)
    turn = torch.linalg.qr(torch.randn(features, features, generator=g)).Q
    spectrum = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), features)
    x = torch.randn(rows + valid + FRESH, features, generator=g) @ (spectrum.sqrt()[:, None] * turn.T)
    x = (x - x.mean(0)) / x.std(0)
    along = torch.linalg.eigh(torch.cov(x.T))
    y = (x @ along.eigenvectors / along.eigenvalues.sqrt()) @ torch.randn(features, 1, generator=g)
    y = (y - y.mean()) / y.std()
    return parted(x, y + noise * torch.randn(y.shape, generator=g), rows, valid, seed + 1, 1, False)


def parity(rows: int, valid: int, seed: int, *, bits: int = 8, of: int = 3) -> Split:
    """The parity of the first bits of several, each with a little noise: no linear function tells anything about it."""
    g = random(seed)
    x = torch.randint(0, 2, (rows + valid + FRESH, bits), generator=g).float() * 2 - 1
    y = (x[:, :of].prod(1) > 0).long()
    return parted(x + 0.1 * torch.randn(x.shape, generator=g), y, rows, valid, seed + 1, 2, True)


def first_of(rows: int, valid: int, seed: int, *, length: int = 40, noise: float = 0.5) -> Split:
    """Sequences whose class is the sign of their first entry; what follows is noise."""
    g = random(seed)
    x = noise * torch.randn(rows + valid + FRESH, length, 1, generator=g)
    y = torch.randint(0, 2, (len(x),), generator=g)
    x[:, 0, 0] = y.float() * 2 - 1
    return parted(x, y, rows, valid, seed + 1, 2, True)


def waves(rows: int, valid: int, seed: int, *, length: int = 24, count: int = 3, noise: float = 0.3,
          phases: float = 1.0) -> Split:  # fmt: skip
    """Sequences of sines: the class is the frequency; ``phases`` is the share of a turn that phases are drawn from."""
    g = random(seed)
    y = torch.randint(0, count, (rows + valid + FRESH,), generator=g)
    phase = 6.28 * phases * torch.rand(len(y), 1, generator=g)
    angle = 6.28 * (y[:, None] + 1) * torch.arange(length)[None, :] / length + phase
    x = torch.sin(angle) + noise * torch.randn(len(y), length, generator=g)
    return parted(x[:, :, None].float(), y, rows, valid, seed + 1, count, True)


def rare(rows: int, valid: int, seed: int, *, share: float = 0.07, features: int = 6, sharpness: float = 6.0) -> Split:
    """Two classes, one of them rare, by a linear score with logistic noise."""
    g = random(seed)
    w = torch.randn(features, generator=g)
    x = torch.randn(rows + valid + FRESH, features, generator=g)
    score = x @ (w / w.norm())
    y = torch.rand(len(x), generator=g) < torch.sigmoid(sharpness * (score - score.quantile(1 - share)))
    return parted(x, y.long(), rows, valid, seed + 1, 2, True)


def polynomial(rows: int, valid: int, seed: int, *, degree: int = 8, noise: float = 0.1) -> Split:
    """The powers of one number, each of variance 1, and a random polynomial of them with noise."""
    g = random(seed)
    z = 2 * torch.rand(rows + valid + FRESH, 1, generator=g) - 0.6
    x = torch.cat([z**k for k in range(1, degree + 1)], 1)
    x = (x - x.mean(0)) / x.std(0)
    y = torch.sin(4 * z + 6 * torch.rand(1, generator=g))
    y = (y - y.mean()) / y.std()
    return parted(x, y + noise * torch.randn(y.shape, generator=g), rows, valid, seed + 1, 1, False)


def text(rows: int, valid: int, seed: int, *, length: int = 8) -> Split:
    """Windows of a text, drawn without overlap, as numbers of letters; the class is the letter that follows."""
    raw = (_root[0] / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:400_000].lower()
    letters = {letter: number for number, letter in enumerate(sorted(set(raw)))}
    codes = torch.tensor([letters[letter] for letter in raw])
    windows = codes[: len(codes) // (length + 1) * (length + 1)].reshape(-1, length + 1)
    windows = torch.unique(windows, dim=0)
    return parted(windows[:, :-1], windows[:, -1], rows, valid, seed, len(letters), True)


def copied_out(split: Split) -> Split:
    """The same with its own inputs, in a row, as the target: what an autoencoder learns."""
    inputs = split.each(lambda x, _: (x, x.flatten(1)))
    return replace(inputs, outputs=split.features, classifies=False)


def whitened(split: Split) -> Split:
    """The same with inputs turned and scaled so that they have no correlation in the training rows."""
    x = split.train[0]
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    turn = vectors / values.clamp_min(1e-7).sqrt()
    return split.inputs(lambda inputs: (inputs - x.mean(0)) @ turn)
