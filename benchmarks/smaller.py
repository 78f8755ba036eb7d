"""Smaller networks on real data: group penalties as proximal steps, `wp.compress`, then training of what is left.

    python benchmarks/smaller.py [--data ../shared/data] [--only lenet mnist adult connect-4 higgs-small]

A dense network is trained, and then at one strength after the other of ``GroupL2(strength, by="input")`` on all matrices, which
drops inputs and units. After each strength the zeros are removed, the next one goes on from there, and a copy is trained without
the penalty. The strength is chosen on validation rows: the best network of those that are small enough, which is at most 15 KFLOPs
of `lenet` and 90 % of the weights gone of the others; where none is, the smallest. Test rows are looked at once, for that one.
FLOPs are twice the multiplications of a row.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import wellposed as wp
from wellposed.sparsity.compress import footprints

torch.set_num_threads(1)
BATCH, LEARNING_RATE, FLOPS, LEFT = 256, 2e-3, 15_000, 0.1
SIDE, BORDER = 28, 1
"""Images are shifted by at most so many pixels in training."""
Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Rows, the hidden layers, and how long to train: densely, under the penalty, and what is left."""

    train: Rows
    valid: Rows
    test: Rows
    hidden: tuple[int, int]
    epochs: tuple[int, int, int]
    strengths: tuple[float, ...]
    images: bool = False

    def network(self) -> nn.Module:
        """A new one."""
        torch.manual_seed(0)
        (one, two), inputs, classes = self.hidden, self.train[0].shape[1], int(self.train[1].max()) + 1
        return nn.Sequential(nn.Linear(inputs, one), nn.ReLU(), nn.Linear(one, two), nn.ReLU(), nn.Linear(two, classes))


def images(folder: Path, rows: int) -> tuple[Rows, Rows, Rows]:
    """So many training rows of MNIST, 5,000 others for validation, and its test rows; the background is 0."""
    file = np.load(folder / "images" / "mnist.npz")
    x, y = ({k: torch.tensor(file[f"{name}_{k}"]) for k in ("train", "test")} for name in "Xy")
    order = torch.randperm(len(x["train"]), generator=torch.Generator().manual_seed(0))
    parts = [("train", order[5000:][:rows]), ("train", order[:5000]), ("test", torch.arange(len(x["test"])))]
    train, valid, test = ((x[part][i].flatten(1) / 80, y[part][i].long()) for part, i in parts)
    return train, valid, test


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
    if name == "lenet":
        return Task(*images(folder, 30_000), (300, 100), (5, 5, 20), (4e-4, 8e-4, 1.6e-3), images=True)
    if name == "mnist":
        return Task(*images(folder, 20_000), (512, 512), (8, 6, 15), (2e-4, 4e-4, 8e-4), images=True)
    return Task(*table(folder, name), (512, 512), (6, 6, 8), (3e-4, 6e-4, 1e-3, 2e-3))


def hits(net: nn.Module, rows: Rows) -> np.ndarray:
    """1 for each row whose class is found; ``(rows, 1)``."""
    with torch.no_grad():
        return (net(rows[0]).argmax(1) == rows[1]).double().numpy()[:, None]


def trained(net: nn.Module, given: Task, epochs: int, terms: list[wp.Term], keep_best: bool) -> nn.Module:
    """In place, by Adam with a cosine schedule; with the weights of the best epoch on validation rows, or of the last."""
    x, y = given.train
    params = [p for p in net.parameters() if p.requires_grad]
    adam = torch.optim.Adam(params, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs * -(-len(x) // BATCH))
    stepping = wp.regularize(adam, net, terms) if terms else adam
    if given.images:  # every shift is a choice of pixels out of the image with a border
        pixels = torch.arange((SIDE + 2 * BORDER) ** 2).reshape(SIDE + 2 * BORDER, -1)
        places = pixels.unfold(0, SIDE, 1).unfold(1, SIDE, 1).reshape(-1, SIDE * SIDE)
        x = nn.functional.pad(x.reshape(-1, SIDE, SIDE), (BORDER,) * 4).flatten(1)
    best, kept = -1.0, copy.deepcopy(net.state_dict())
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            rows = x[batch]
            if given.images:
                rows = rows.gather(1, places[torch.randint(len(places), (len(batch),))])
            stepping.zero_grad()
            cross_entropy(net(rows), y[batch]).backward()
            stepping.step()
            schedule.step()
        right = float(hits(net, given.valid).mean()) if keep_best else 0.0
        if keep_best and right > best:
            best, kept = right, copy.deepcopy(net.state_dict())
    if keep_best:
        net.load_state_dict(kept)
    return net


def main() -> None:
    """Print a row for each strength, and the chosen one on test rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", default=["lenet", "mnist", "adult", "connect-4", "higgs-small"])
    given = parser.parse_args()
    for name in given.only:
        began, one = time.process_time(), task(name, given.data)
        dense = trained(one.network(), one, one.epochs[0], [], True)
        weights = sum(p.numel() for p in dense.parameters() if p.ndim > 1)
        found, net = [], copy.deepcopy(dense)
        for strength in one.strengths:
            trained(net, one, one.epochs[1], [wp.GroupL2(strength, by="input").on("*")], False)
            small = wp.compress(net, one.valid[0][:1024])
            net = small.model
            left = trained(copy.deepcopy(net), one, one.epochs[2], [], True)
            shapes = [tuple(p.shape) for p in left.parameters() if p.ndim > 1]
            kept = sum(a * b for a, b in shapes) / weights
            right = float(hits(left, one.valid).mean())
            fits = small.after.flops <= FLOPS if name == "lenet" else kept <= LEFT
            found.append(((fits, right if fits else -kept), strength, small, left, kept))
            sizes = "-".join(str(inputs) for _, inputs in shapes)
            print(
                f"| {name} | {strength:g} | {sizes} | {100 * (1 - kept):.1f} % | {small.after.flops / 1000:.1f} | "
                f"{small.after.bytes / 1000:.1f} | {100 * (1 - right):.2f} % |",
                flush=True,
            )
        _, strength, small, left, kept = max(found, key=lambda f: f[0])
        paired = wp.compare(hits(dense, one.test), hits(left, one.test)).interval
        before, after = footprints([dense, left], one.valid[0][:1024])
        wrong = [100 * (1 - hits(net, one.test).mean()) for net in (dense, left)]
        print(
            f"{name}: strength {strength:g}, {100 * (1 - kept):.1f} % of {weights:,} weights gone, "
            f"{after.flops / 1000:.1f} KFLOPs, {after.bytes / 1000:.1f} kB; "
            f"test error {wrong[0]:.2f} % dense, {wrong[1]:.2f} % small, "
            f"{-100 * paired.high:.2f} to {-100 * paired.low:.2f} points lost; ms at batch 1 {before.latency_1:.3f} to "
            f"{after.latency_1:.3f}, at batch 256 {before.latency_256:.3f} to {after.latency_256:.3f}; outputs differ by "
            f"{small.difference:.1e} of {small.tolerance:.1e}; {time.process_time() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
