"""What `watch.epoch()` costs beside an epoch of training.

    python benchmarks/watch_cost.py [--epochs 10]

Epoch and watching alternate in one process; the minimum of each is compared.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp


def perceptron() -> nn.Module:
    """64 inputs, two hidden layers of 256."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def convnet() -> nn.Module:
    """Two convolutions on 16 x 16 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 16, 16)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10),
    )  # fmt: skip


def measured(net: nn.Module, features: int, rows: int, epochs: int) -> tuple[float, float, int]:
    """Seconds of an epoch, of watching, and the rows of a probe."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, features, generator=random), torch.randint(10, (rows,), generator=random)
    data = TensorDataset(x, y)
    loader = DataLoader(data, batch_size=128, shuffle=True)
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.AdamW(net.parameters())
    watch = wp.watch(net, loss, train=loader, valid=DataLoader(data, batch_size=128), optimizer=optimizer)
    epoch, look = float("inf"), float("inf")
    for _ in range(epochs):
        began = time.perf_counter()
        for inputs, target in loader:
            optimizer.zero_grad()
            loss(net(inputs), target).backward()
            optimizer.step()
        middle = time.perf_counter()
        watch.epoch()
        epoch, look = min(epoch, middle - began), min(look, time.perf_counter() - middle)
    return epoch, look, watch.rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    print("| model | rows | probe rows | epoch, s | watch, s | share |\n|---|---|---|---|---|---|")
    for name, make, features in (("perceptron", perceptron, 64), ("convnet", convnet, 256)):
        for rows in (1_000, 10_000, 50_000):
            epoch, look, probe = measured(make(), features, rows, epochs)
            share = f"{100 * look / (epoch + look):.1f} %"
            print(f"| {name} | {rows:,} | {probe:,} | {epoch:.3f} | {look:.4f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
