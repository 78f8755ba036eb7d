"""Exact zeros beside torchao's prototype ``pat``: how far from stationary training ends, and what it keeps.

    python benchmarks/zeros_peers.py [--steps 600]

Needs ``torchao`` in the environment. Five problems of scikit-learn's own data, standardized, L1 on all weights, the same start, the
same optimizer and learning rate, full batches in double precision, so that `wp.certify` measures the end alone and not the noise
of batches. ``moved`` is the share of the weights that are zero after one of two runs alone, the second with twice the steps.
Decay is 0, which leaves one objective to all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torchao.prototype.pat.optim import PruneOptimizer

import wellposed as wp

STRENGTH, MOST_ROWS = 0.02, 300
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.003),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.003, weight_decay=0.0),
}
NAMES = {"diabetes": 0, "breast_cancer": 0, "wine": 0, "iris": 8, "digits": 16}
"""Hidden units."""


def problem(name: str) -> tuple[Callable[[], nn.Module], Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """A factory, the rows and the loss."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    kept = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    x, y = x[kept], y[kept]
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0)
    numbers = name == "diabetes"
    target = torch.tensor((y - y.mean()) / y.std())[:, None] if numbers else torch.tensor(y)
    outputs, hidden = 1 if numbers else int(y.max()) + 1, NAMES[name]

    def make() -> nn.Module:
        torch.manual_seed(0)
        if not hidden:
            return nn.Linear(x.shape[1], outputs).double()
        return nn.Sequential(nn.Linear(x.shape[1], hidden), nn.SiLU(), nn.Linear(hidden, outputs)).double()

    return make, torch.tensor(x), target, mse_loss if numbers else cross_entropy


def end(kind: str, name: str, optimizer: str, steps: int) -> tuple[float, Tensor, float, float]:
    """Violation, which weights are zero, loss, and milliseconds of a step."""
    make, x, y, loss = problem(name)
    net = make()
    weights = [p for p in net.parameters() if p.ndim > 1]
    terms = [wp.L1(STRENGTH).on(wp.weights, "prox")]
    if kind == "ours":
        stepping: Any = wp.regularize(OPTIMIZERS[optimizer](net.parameters()), net, terms)
    else:
        groups = [
            {"params": weights, "group_type": "ElemGrouper", "prox_type": "ProxLasso", "reg_lambda": STRENGTH},
            {"params": [p for p in net.parameters() if p.ndim == 1]},
        ]
        stepping = PruneOptimizer(OPTIMIZERS[optimizer](groups))
    began = time.process_time()
    for _ in range(steps):
        stepping.zero_grad()
        loss(net(x), y).backward()
        stepping.step()
    took = 1000 * (time.process_time() - began) / steps
    found = wp.certify(net, "squared_error" if loss is mse_loss else "cross_entropy", (x, y), terms)
    return found.violation, torch.cat([p.detach().reshape(-1) == 0 for p in weights]), found.loss, took


def main() -> None:
    """Print a row for each problem and optimizer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    measures = ("violation", "zeros", "loss", "moved", "ms of a step")
    print(f"| problem | optimizer | {' | '.join(f'{measure}, ours | pat' for measure in measures)} |")
    print("|---" * (2 + 2 * len(measures)) + "|")
    for name in NAMES:
        for optimizer in OPTIMIZERS:
            once = {kind: end(kind, name, optimizer, steps) for kind in ("ours", "pat")}
            twice = {kind: end(kind, name, optimizer, 2 * steps) for kind in ("ours", "pat")}
            cells = [f"{once[kind][0]:.1e}" for kind in once]
            cells += [f"{100 * float(once[kind][1].double().mean()):.0f} %" for kind in once]
            cells += [f"{once[kind][2]:.4f}" for kind in once]
            cells += [f"{100 * float((once[kind][1] != twice[kind][1]).double().mean()):.1f} %" for kind in once]
            cells += [f"{once[kind][3]:.2f}" for kind in once]
            print(f"| {name} | {optimizer} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
