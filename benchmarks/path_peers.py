"""The path of a network beside LassoNet's: processor time, distinct supports, and how far each point is from stationary.

    python benchmarks/path_peers.py TABLE.csv.gz [--hidden 72] [--rounds 1] [--tolerance 0.1]

Needs ``lassonet`` in the environment. Both train on the same rows in one process with one thread, in turns, and pay for their
whole path, the dense network included. Each point of both is judged by the same number: ``|w - prox(w - gradient)|`` of its own
objective on all training rows in double precision, where ``prox`` is that of LassoNet's hierarchy with M = 10.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lassonet import LassoNetClassifier

import wellposed as wp
from wellposed.ops.hierarchy import hierarchical_prox
from wellposed.sparsity.select import SkipNet

HIERARCHY = 10.0
Rows = tuple[np.ndarray, np.ndarray]


def theirs(train: Rows, valid: Rows, hidden: int) -> tuple[float, list[int], list[float]]:
    """Seconds, sizes of the supports, violations."""
    model = LassoNetClassifier(hidden_dims=(hidden,), M=HIERARCHY, verbose=0, torch_seed=0)
    began = time.process_time()
    history = model.path(*train, X_val=valid[0], y_val=valid[1], return_state_dicts=True)
    took = time.process_time() - began
    net = model.model.double()
    x, y = torch.tensor(train[0]).double(), torch.tensor(train[1])
    violations = []
    for point in history[1:]:
        net.load_state_dict(point.state_dict)
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        found = {name: (p.detach(), p.grad) for name, p in net.named_parameters()}
        (skip, at_skip), (first, at_first) = found.pop("skip.weight"), found.pop("layers.0.weight")
        ones = torch.ones_like
        moved = hierarchical_prox(
            (skip - at_skip).T, (first - at_first).T, ones(skip.T), ones(first.T), point.lambda_, HIERARCHY
        )
        rest = [skip.T - moved[0], first.T - moved[1], *(grad for _, grad in found.values())]
        violations.append(float(torch.cat([part.reshape(-1) for part in rest]).norm()))
    return took, [int(point.selected.sum()) for point in history[1:]], violations


def ours(train: Rows, valid: Rows, hidden: int, given: argparse.Namespace) -> tuple[float, list[int], list[float]]:
    """Seconds, sizes of the supports, violations."""
    inputs, classes = train[0].shape[1], int(train[1].max()) + 1
    problem = wp.Problem(lambda: SkipNet(inputs, classes, hidden), "cross_entropy", wp.Data(train=train, valid=valid))
    began = time.process_time()
    path = wp.strength_path(
        problem,
        wp.Hierarchical(1.0, HIERARCHY),
        points=given.points,
        ratio=given.ratio,
        tolerance=given.tolerance,
        steps=200,
    )
    took = time.process_time() - began
    return took, [len(point.support) for point in path.points], [point.violation for point in path.points]


def main() -> None:
    """Print a row for each path."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--hidden", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--ratio", type=float, default=3e-3)
    parser.add_argument("--tolerance", type=float, default=0.1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    frame = pd.read_csv(given.table)
    x = frame.drop(columns="target").to_numpy(np.float32)
    x = (x - x.mean(0)) / x.std(0).clip(1e-6)
    y = frame["target"].astype("category").cat.codes.to_numpy(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = order[: len(x) // 10], order[len(x) // 10 :]
    train, valid = (x[kept], y[kept]), (x[held], y[held])
    print("| path | CPU seconds | points | distinct sizes | violation, median | largest |\n|---|---|---|---|---|---|")
    for number in range(given.rounds):
        runs = [
            ("LassoNet", lambda: theirs(train, valid, given.hidden)),
            ("ours", lambda: ours(train, valid, given.hidden, given)),
        ]
        for name, run in runs[:: -1 if number % 2 else 1]:
            took, sizes, violations = run()
            print(
                f"| {name} | {took:.1f} | {len(sizes)} | {len(set(sizes))} | {statistics.median(violations):.2g} | "
                f"{max(violations):.2g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
