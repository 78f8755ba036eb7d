"""A CNN in its own loop, with too little data for its size: three lines show that it overfits, and what is charged.

Run: python examples/own_loop_cnn.py                plain training: it overfits
     python examples/own_loop_cnn.py regularized    L1 on all weights, max-norm on the wide layer: compare the two verdicts
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp


def digits(rows: int = 150, noise: float = 0.2) -> tuple[DataLoader, DataLoader]:
    """8 x 8 images of digits; a fifth of the few training labels is drawn anew, so that there is something to overfit."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=random)
    train, valid = order[:rows], order[rows:]
    wrong = train[torch.rand(rows, generator=random) < noise]
    y[wrong] = torch.randint(10, (len(wrong),), generator=random)
    return (
        DataLoader(TensorDataset(x[train], y[train]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(x[valid], y[valid]), batch_size=256),
    )


def network() -> nn.Module:
    """Two convolutions and a wide layer: far more weights than examples."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def train(regularized: bool, epochs: int = 30) -> tuple[wp.Watch, torch.optim.Optimizer]:
    """An ordinary training loop; the lines with ``wp.`` are all that wellposed adds."""
    torch.manual_seed(0)
    train_loader, valid_loader = digits()
    net, loss = network(), nn.CrossEntropyLoss()
    terms = [wp.L1(2e-3).on(wp.weights), wp.MaxNorm(2.0).on("6")] if regularized else []
    optimizer = wp.regularize(torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0), net, terms)
    watch = wp.watch(net, loss, train=train_loader, valid=valid_loader, optimizer=optimizer)
    for _ in range(epochs):
        net.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()
        watch.epoch()
    return watch, optimizer


if __name__ == "__main__":
    watch, optimizer = train(regularized="regularized" in sys.argv[1:])
    print(optimizer.audit())
    print(watch)
    print(wp.diagnose(watch))
