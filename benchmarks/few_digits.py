"""Digits and MNIST with few rows: accuracy, likelihood and calibration of a point and three posteriors, also of changed rows.

    python benchmarks/few_digits.py [--images mnist.npz] [--rows 50,200,1000] [--seeds 3] [--out few_digits.jsonl]

A perceptron with 128 hidden units and one recipe for all. NLL in nats a row; the error of calibration is that of `wp.calibration`,
which is 0 where chance explains all of it, beside the usual ECE. Rows in ``--out`` are not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp

STEPS, BATCH, TEST = 600, 25, 700
Answer = Callable[[Tensor], Tensor]
KINDS = "as they are", "turned by 30 degrees", "with noise of 0.3"


def rows_of(images: Path | None) -> tuple[Tensor, Tensor]:
    """``(rows, 1, side, side)`` in [0, 1], and classes, in one random order."""
    if images is None:
        x, y = load_digits(return_X_y=True)
        x = x.reshape(-1, 8, 8) / 16
    else:
        with np.load(images) as file:
            x, y = file["X_train"] / 255, file["y_train"]
    order = np.random.default_rng(0).permutation(len(x))
    return torch.from_numpy(x[order]).float()[:, None], torch.from_numpy(y[order]).long()


def changed(x: Tensor, kind: str) -> Tensor:
    """The test rows of a kind, flat."""
    if kind == KINDS[1]:
        angle = torch.tensor(30.0).deg2rad()
        turn = torch.stack(
            [torch.stack([angle.cos(), -angle.sin(), angle * 0]), torch.stack([angle.sin(), angle.cos(), angle * 0])]
        )
        x = F.grid_sample(
            x, F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False), align_corners=False
        )
    if kind == KINDS[2]:
        x = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return x.flatten(1)


def methods(x: Tensor, y: Tensor, seed: int) -> dict[str, Callable[[], Answer]]:
    """What trains each method, and gives a function from rows to probabilities."""

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(x.shape[1], 128), nn.SiLU(), nn.Linear(128, 10))

    problem = wp.Problem(net, "cross_entropy", wp.Data((x, y), valid=(x, y)))
    recipe = wp.Recipe(
        epochs=max(1, STEPS * BATCH // len(x)), batch_size=BATCH, optimizer={"lr": 3e-3}, schedule={"name": "cosine"},
        terms=[{"penalty": "l2", "strength": 1e-3}], stopping={"patience": 0, "keep": "last"},
    )  # fmt: skip

    @cache
    def runs() -> Sequence[wp.Run]:
        return wp.fit_many(problem, recipe, seeds=range(5 * seed, 5 * seed + 5), device="cpu", probe_rows=1)

    def variational(strength: float) -> Answer:
        torch.manual_seed(seed)
        weights = wp.bayesian(net(), prior=wp.GaussianPrior(0.1), spread=0.01).train()
        optimizer = torch.optim.Adam(weights.parameters(), lr=3e-3)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
            batch = torch.randint(len(x), (BATCH,))
            optimizer.zero_grad()
            (F.cross_entropy(weights(x[batch]), y[batch]) + strength * wp.kl(weights) / len(x)).backward()
            optimizer.step()
        return lambda new: wp.predictive(weights.eval(), new, samples=50).probabilities

    def of(posterior: Any) -> Answer:
        return lambda new: posterior.predict(new).probabilities

    return {
        "point": lambda: lambda new: runs()[0].model(new).softmax(1),
        "ensemble": lambda: of(wp.ensemble(runs())),
        "laplace": lambda: of(wp.laplace(runs()[0], layers="last")),
        "variational": lambda: variational(1.0),
        "variational, a tenth of the divergence": lambda: variational(0.1),
    }


def scores(x: Tensor, y: Tensor, rows: int, seed: int, known: set[str]) -> Iterator[dict[str, object]]:
    """Of training rows that a seed draws among all but the test rows, and of each kind of test rows."""
    order = TEST + torch.randperm(len(x) - TEST, generator=torch.Generator().manual_seed(seed))[:rows]
    for method, train in methods(x[order].flatten(1), y[order], seed).items():
        if method in known:
            continue
        answer = train()
        for kind in KINDS:
            with torch.no_grad():
                told = answer(changed(x[:TEST], kind)).double()
            off = wp.calibration(told, y[:TEST])
            yield {
                "rows": rows, "seed": seed, "method": method, "kind": kind,
                "accuracy": float((told.argmax(1) == y[:TEST]).double().mean()),
                "nll": float(F.nll_loss(told.clamp_min(1e-12).log(), y[:TEST])), "ece": off.ece, "error": off.error,
            }  # fmt: skip


def lines(found: list[dict[str, object]]) -> Iterator[str]:
    """The table in Markdown."""
    yield f"| set | rows | test rows | method | seeds | accuracy | NLL | ECE | error beyond chance |\n{'|---' * 9}|"
    for key in dict.fromkeys((row["set"], row["rows"], row["kind"], row["method"]) for row in found):
        same = [row for row in found if (row["set"], row["rows"], row["kind"], row["method"]) == key]
        mean = {name: np.mean([float(str(row[name])) for row in same]) for name in ("accuracy", "nll", "ece", "error")}
        name, rows, kind, method = key
        cells = f"{mean['accuracy']:.3f} | {mean['nll']:.3f} | {mean['ece']:.3f} | {mean['error']:.3f}"
        yield f"| {name} | {rows} | {kind} | {method} | {len(same)} | {cells} |"


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rows", default="50,200,1000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = (
        [json.loads(line) for line in given.out.read_text().splitlines()] if given.out and given.out.exists() else []
    )
    of = "MNIST" if given.images else "digits"
    x, y = rows_of(given.images)
    for seed in range(given.seeds):
        for rows in map(int, given.rows.split(",")):
            known = {str(row["method"]) for row in found if (row["set"], row["rows"], row["seed"]) == (of, rows, seed)}
            made = [{"set": of, **row} for row in scores(x, y, rows, seed, known)]
            found += made
            if given.out:
                with given.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in made)
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
