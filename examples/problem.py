"""A problem to hand over: 1,797 handwritten digits, a perceptron, and what a search may vary of it.

    wellposed improve examples/problem.py:problem --budget 2m

A model's factory takes its settings (and ``data``, if it wants to know shapes); each run then starts from its own seed.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import wellposed as wp


def make_net(data, width: int = 64, depth: int = 1, dropout: float = 0.0) -> nn.Module:
    """``depth`` hidden layers of ``width`` units on the pixels, then a number for each digit."""
    layers: list[nn.Module] = []
    size = data.features
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, data.outputs))


digits = load_digits()
pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)

problem = wp.Problem(
    model=make_net,
    loss="cross_entropy",
    data=wp.Data(train=(pixels, labels), valid=0.2),  # confirmation rows are split off first
    space={"width": [32, 64, 128, 256], "depth": [1, 2, 3]},
    metric="accuracy",
    name="digits",
)

if __name__ == "__main__":
    print("wellposed improve examples/problem.py:problem --budget 2m")
