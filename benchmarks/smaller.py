"""Smaller networks on real data: group penalties as proximal steps, `wp.compress`, then training of what is left.

    python benchmarks/smaller.py [--data ../shared/data] [--only lenet mnist adult connect-4 higgs-small resnet sst2]

A dense network is trained. Then, in turns, the groups of each kind (the pixels, the units of a layer, the channels of a stage,
heads) that the loss would miss least are charged by their norms, the others are free, and the zeros are removed. What is left is
trained without a penalty on the targets and on the dense network's outputs. The best epoch is chosen on validation rows; test
rows are looked at once, at the end. Where Torch-Pruning is installed it prunes the dense ResNet to the same number of weights,
which are trained in the same way. FLOPs are twice the multiplications of a row. onnxruntime is measured where it is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.sparsity.compress import footprints

torch.set_num_threads(1)
LEARNING_RATE, MOMENTUM = 2e-3, 0.9
PHASES, FORCE, HEAD, SOFT, HARD = 6, 4.0, 16, 2.0, 0.1
"""Groups leave in so many turns; without gradients a strength would take its groups to zero so many times; rows of a head;
temperature of the dense network's outputs, and the share of the targets beside them."""
Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Rows, a network, the weights that read each kind of groups (along ``head_input``: of one matrix), how many of each may stay,
    epochs (densely, in each turn, and of what is left), rows of a batch, the rate of SGD, and how inputs are varied in training.
    """

    train: Rows
    valid: Rows
    test: Rows
    network: Callable[[], nn.Module]
    groups: list[dict[str, str]]
    most: tuple[int, ...]
    epochs: tuple[int, int, int]
    batch: int = 256
    step: float = 0.02
    varied: Callable[[Tensor], Tensor] = lambda x: x


def perceptron(inputs: int, one: int, two: int, classes: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, one), nn.ReLU(), nn.Linear(one, two), nn.ReLU(), nn.Linear(two, classes))


class Block(nn.Module):
    """Two convolutions with batch norm around a residual connection."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        step = made // given
        self.one, self.norm1 = nn.Conv2d(given, made, 3, step, 1, bias=False), nn.BatchNorm2d(made)
        self.two, self.norm2 = nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made)
        skip = [nn.Conv2d(given, made, 1, step, bias=False), nn.BatchNorm2d(made)]
        self.skip = nn.Sequential(*skip) if step > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images with channels second."""
        return F.relu(self.norm2(self.two(F.relu(self.norm1(self.one(x))))) + self.skip(x))


def resnet() -> nn.Module:
    """ResNet-8 of width 16; its first convolution has a stride of 2, which saves three quarters of the time."""
    first = [
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16),
        Block(16, 32),
        Block(32, 64),
    ]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Transformer(nn.Module):
    """Two layers of 4 heads over word vectors, and the mean of the words that are there (token 0 is none)."""

    def __init__(self, words: int, length: int) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(words, 64), nn.Parameter(0.1 * torch.randn(length, 64))
        layer = nn.TransformerEncoderLayer(64, 64 // HEAD, 128, 0.3, batch_first=True, norm_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of shape ``(rows, length)``."""
        there = tokens > 0
        x = self.body(self.words(tokens) + self.place, src_key_padding_mask=~there) * there[..., None]
        return self.head(x.sum(1) / there.sum(1, keepdim=True))


def images(folder: Path, name: str, held: int, made: Callable[[Tensor], Tensor]) -> tuple[Rows, Rows, Rows]:
    """Training rows without so many for validation, these, and test rows."""
    file = np.load(folder / "images" / f"{name}.npz")
    x, y = ({k: torch.tensor(file[f"{side}_{k}"]) for k in ("train", "test")} for side in "Xy")
    order = torch.randperm(len(x["train"]), generator=torch.Generator().manual_seed(0))
    parts = [("train", order[held:]), ("train", order[:held]), ("test", torch.arange(len(x["test"])))]
    train, valid, test = ((made(x[part][i]), y[part][i].long()) for part, i in parts)
    return train, valid, test


PIXELS = torch.arange(30 * 30).reshape(30, 30).unfold(0, 28, 1).unfold(1, 28, 1).reshape(9, -1)
"""Every shift by at most a pixel is a choice of pixels out of the image with a border."""


def shifted(x: Tensor) -> Tensor:
    """Digits, each shifted by at most one pixel either way."""
    return F.pad(x.view(-1, 28, 28), (1,) * 4).flatten(1).gather(1, PIXELS[torch.randint(9, (len(x),))])


def cropped(x: Tensor) -> Tensor:
    """Photographs, shifted together by at most two pixels, half of them mirrored."""
    i, j = torch.randint(5, (2,)).tolist()
    x = F.pad(x, (2,) * 4)[:, :, i : i + 32, j : j + 32]
    return torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)


def reviews(folder: Path, length: int = 32) -> tuple[tuple[Rows, Rows, Rows], int]:
    """Rows of SST-2 as numbers of words, 1 being any that training rows hold once at most; and how many numbers there are."""
    frame = pd.read_csv(folder / "text" / "sst2.csv.gz")
    texts = [text.split() for text in frame["text"]]
    counted = pd.Series([word for text in texts[:6920] for word in text]).value_counts()
    numbers = {word: 2 + k for k, word in enumerate(counted.index[counted > 1])}
    rows = [([numbers.get(word, 1) for word in text] + [0] * length)[:length] for text in texts]
    x, y = torch.tensor(rows), torch.tensor(frame["target"].to_numpy(np.int64))
    train, valid, test = zip(x.split([6920, 872, 1821]), y.split([6920, 872, 1821]), strict=True)
    return (train, valid, test), 2 + len(numbers)


def table(folder: Path, name: str, most: int = 20_000) -> tuple[Rows, Rows, Rows]:
    """Random rows: 2,000 or a fifth for test, 15 % for validation, at most so many for training; one-hot, standardized."""
    frame = pd.read_csv(folder / "tables" / f"{name}.csv.gz")
    target = torch.tensor(frame.pop("target").astype("category").cat.codes.to_numpy(np.int64))
    values = pd.get_dummies(frame, dummy_na=False).fillna(frame.median(numeric_only=True)).to_numpy(np.float32)
    order = np.random.default_rng(0).permutation(len(values))
    tested, checked = max(2000, len(values) // 5), int(0.15 * len(values))
    kept = np.split(order, [tested, tested + checked, tested + checked + most])[:3]
    mean, scale = values[kept[2]].mean(0), values[kept[2]].std(0)
    x = torch.tensor((values - mean) / np.where(scale > 0, scale, 1))
    test, valid, train = ((x[i], target[i]) for i in kept)
    return train, valid, test


def task(name: str, folder: Path) -> Task:
    """By its name."""
    layers = [{f"{place}.weight": "input"} for place in (0, 2, 4)]
    if name in ("lenet", "mnist"):  # the background is 0
        rows = images(folder, "mnist", 5000, lambda x: x.flatten(1) / 80)
        if name == "lenet":
            return Task(
                *rows, lambda: perceptron(784, 300, 100, 10), layers, (110, 48, 30), (25, 2, 50), varied=shifted
            )
        return Task(*rows, lambda: perceptron(784, 512, 512, 10), layers, (200, 80, 50), (12, 2, 20), varied=shifted)
    if name == "resnet":
        rows = images(folder, "cifar10-sub", 1000, lambda x: x.permute(0, 3, 1, 2) / 64 - 2)
        streams = "3.one 4.one 4.skip.0", "5.one 5.skip.0", "8", "3.two", "4.two", "5.two"
        tied = [{f"{one}.weight": "input" for one in stream.split()} for stream in streams]
        return Task(*rows, resnet, tied, (11, 18, 36, 8, 15, 26), (14, 1, 14), 64, varied=cropped)
    if name == "sst2":
        rows, words = reviews(folder)
        kinds = ("self_attn.out_proj", "head_input"), ("linear2", "input")
        axes = [{f"body.layers.{k}.{one}.weight": by} for one, by in kinds for k in (0, 1)]
        return Task(*rows, lambda: Transformer(words, 32), axes, (2, 2, 32, 32), (8, 1, 8), 64)
    rows = table(folder, name)
    inputs, classes = rows[0][0].shape[1], int(rows[0][1].max()) + 1
    return Task(*rows, lambda: perceptron(inputs, 512, 512, classes), layers, (inputs, 48, 200), (6, 2, 10))


def hits(net: nn.Module, rows: Rows) -> np.ndarray:
    """1 for each row whose class is found; ``(rows, 1)``."""
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in rows[0].split(1000)])
    return (found == rows[1]).double().numpy()[:, None]


def trained(
    net: nn.Module, given: Task, epochs: int, terms: list[wp.Term] | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    """In place: under terms by SGD at one rate, which keeps the last weights; else by Adam with a cosine, which keeps the best."""
    (x, y), params = given.train, [p for p in net.parameters() if p.requires_grad]
    moved = (
        torch.optim.SGD(params, lr=given.step, momentum=MOMENTUM)
        if terms
        else torch.optim.Adam(params, lr=LEARNING_RATE)
    )
    steps, last = epochs * math.ceil(len(x) / given.batch), given.step if terms else 0.0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(moved, steps, last)
    stepping: Any = wp.regularize(moved, net, terms) if terms else moved
    best, kept = -1.0, copy.deepcopy(net.state_dict())
    for _ in range(epochs):
        net.train()
        for batch in torch.randperm(len(x)).split(given.batch):
            made = net(rows := given.varied(x[batch]))
            loss = F.cross_entropy(made, y[batch])
            if teacher is not None:
                with torch.no_grad():
                    wanted = (teacher(rows) / SOFT).softmax(1)
                loss = HARD * loss + (1 - HARD) * SOFT**2 * F.cross_entropy(made / SOFT, wanted)
            stepping.zero_grad()
            loss.backward()
            stepping.step()
            schedule.step()
        if (right := float(hits(net, given.valid).mean())) > best or terms:
            best, kept = right, copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    return net.eval()


def grouped(net: nn.Module, axes: dict[str, str], of: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of a function of the weights over each group of a kind that is left."""
    there, width = dict(net.named_parameters()), HEAD if "head_input" in axes.values() else 1
    found = [of(there[name]).movedim(1, 0).flatten(1).sum(1) for name in axes if name in there]
    return torch.stack(found).sum(0).view(-1, width).sum(1)


def counted(net: nn.Module, given: Task) -> list[int]:
    """How many groups of each kind are left."""
    return [len(grouped(net, axes, torch.abs)) for axes in given.groups]


def missed(net: nn.Module, given: Task) -> list[Tensor]:
    """Of each group the mean square over batches of ``<w, gradient>``: about how much the loss would change without it."""
    (x, y), found = given.train, [torch.zeros(())] * len(given.groups)
    for batch in torch.randperm(len(x)).split(given.batch)[:64]:
        net.zero_grad()
        F.cross_entropy(net(given.varied(x[batch])), y[batch]).backward()
        now = [grouped(net, axes, lambda w: w * w.grad).detach().square() for axes in given.groups]
        found = [before + one for before, one in zip(found, now, strict=True)]
    return found


def charged(net: nn.Module, given: Task, wanted: list[int]) -> list[wp.Term]:
    """The norms of those groups that would be missed least, at a strength that takes them to zero while the net is trained."""
    steps = given.epochs[1] * len(given.train[0]) / given.batch
    terms = []
    for axes, importance, most in zip(given.groups, missed(net, given), wanted, strict=True):
        if (many := len(importance) - most) > 0:
            worst = importance.argsort()[:many]
            norms = grouped(net, axes, torch.square).detach().sqrt()[worst]
            strength = FORCE * float(norms.max()) * (1 - MOMENTUM) / (given.step * steps)
            weights = torch.zeros(len(importance)).index_fill(0, worst, 1.0)
            if "head_input" in axes.values():
                penalty = wp.GroupL2(strength, by="head_input", heads=len(importance), weights=weights)
                terms.append(penalty.on(wp.named(*axes)))
            else:
                terms.append(wp.TiedGroups(strength, axes, weights).on("*"))
    return terms


def shrunk(dense: nn.Module, given: Task, name: str) -> nn.Module:
    """The dense network without the groups that its penalties drop, in equal ratios."""
    net, first, worst = copy.deepcopy(dense), counted(dense, given), 0.0
    for k in range(PHASES):
        pairs = zip(first, given.most, strict=True)
        terms = charged(net, given, [round(now * (most / now) ** ((k + 1) / PHASES)) for now, most in pairs])
        trained(net, given, given.epochs[1], terms)
        made = wp.compress(net, given.valid[0][:512])
        net, worst = made.model, max(worst, made.difference / made.tolerance if made.shrunk else 0.0)
        left, wrong = " ".join(map(str, counted(net, given))), 1 - float(hits(net, given.valid).mean())
        print(f"| {name} | {left} | {matrices(net):,} | {100 * wrong:.2f} % |", flush=True)
    print(f"{name}: outputs of each smaller network differed by at most {worst:.2g} of what they may", flush=True)
    return net


def pruned(dense: nn.Module, given: Task, weights: int) -> nn.Module:
    """The dense network by Torch-Pruning: groups of the smallest norms, in each layer, until so many weights are left."""
    import torch_pruning as tp

    net: Any = copy.deepcopy(dense)
    pruner = tp.pruner.MagnitudePruner(
        net, given.valid[0][:1], tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.95,
        iterative_steps=200, ignored_layers=[net[-1]],
    )  # fmt: skip
    while matrices(net) > weights:
        pruner.step()
    return net


def matrices(net: nn.Module) -> int:
    """How many weights there are, without biases, norms and word vectors."""
    return sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1 and name not in ("words.weight", "place"))


def judged(name: str, kind: str, given: Task, dense: nn.Module, small: nn.Module) -> None:
    """A row of the table: sizes, test errors, the paired interval of what is lost, latencies in torch and in onnxruntime."""
    paired = wp.compare(hits(dense, given.test), hits(small, given.test)).interval
    onnx = all(importlib.util.find_spec(one) for one in ("onnx", "onnxscript", "onnxruntime"))
    before, after = footprints([dense, small], given.valid[0][:512], onnx=onnx)
    wrong = [100 * (1 - hits(net, given.test).mean()) for net in (dense, small)]
    times = [
        f"{getattr(before, one):.3f} to {getattr(after, one):.3f}" for one in list(vars(before))[3 : 7 if onnx else 5]
    ]
    print(
        f"| {name}, {kind} | {len(given.test[0]):,} | {' '.join(map(str, counted(small, given)))} | "
        f"{100 * (1 - matrices(small) / matrices(dense)):.1f} % | {after.flops / 1000:.1f} | {after.bytes / 1000:.1f} | "
        f"{wrong[0]:.2f} % | {wrong[1]:.2f} % | {-100 * paired.high:.2f} to {-100 * paired.low:.2f} | {' | '.join(times)} |",
        flush=True,
    )  # fmt: skip


def main() -> None:
    """Print what is left after each strength, and a row on test rows for each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    known = ["lenet", "mnist", "adult", "connect-4", "higgs-small", "resnet", "sst2"]
    parser.add_argument("--only", nargs="*", default=known, choices=known)
    given = parser.parse_args()
    for name in given.only:
        began, one = time.process_time(), task(name, given.data)
        torch.manual_seed(0)
        dense = trained(one.network(), one, one.epochs[0])
        small = trained(shrunk(dense, one, name), one, one.epochs[2], teacher=dense)
        judged(name, "ours", one, dense, small)
        if name == "resnet" and importlib.util.find_spec("torch_pruning"):
            small = trained(pruned(dense, one, matrices(small)), one, one.epochs[2], teacher=dense)
            judged(name, "Torch-Pruning", one, dense, small)
        print(f"{name}: {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
