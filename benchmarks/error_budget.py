"""Does the error budget name the lever of a fault that was planted, and does its first change help?

    python benchmarks/error_budget.py [--seeds 3] [--only NAME] [--check]
    python benchmarks/error_budget.py --gap

Each case is a table that ships with scikit-learn, or one that is made, with a recipe or a network in which one thing is wrong.
The budget is measured with three seeds. Beside the lever stand the largest term, what the first change does to the validation
loss (paired, over other seeds), and the seconds; at the end, how far the terms are from adding up. ``--check`` runs four cases.
``--gap`` splits the visible gap of a convolutional network with everything at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import nn

import wellposed as wp
from wellposed.diagnosis.evidence import crossed_interval
from wellposed.models.mlp import MLP

torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """A problem with one fault, and the levers that answer it."""

    name: str
    problem: wp.Problem
    recipe: wp.Recipe
    levers: tuple[str, ...]


def table(name: str) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Inputs, targets and loss, shuffled and scaled."""
    if name == "waves":
        draw = np.random.default_rng(0)
        x = draw.normal(size=(2000, 6))
        y = np.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.3 * draw.normal(size=(2000, 1))
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), "squared_error"
    load: Callable[..., Any] = {"digits": load_digits, "cancer": load_breast_cancer, "diabetes": load_diabetes}[name]
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    if name == "diabetes":
        y = ((y - y.mean()) / y.std())[:, None]
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), "squared_error"
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y), "cross_entropy"


def problem(name: str, rows: int | None = None, width: int = 64, depth: int = 2) -> wp.Problem:
    """Half of the table for training, half for validation."""
    x, y, loss = table(name)
    half = len(x) // 2
    outputs = 1 if loss == "squared_error" else int(y.max()) + 1

    def make(width: int = width, depth: int = depth, dropout: float = 0.0) -> nn.Module:
        return MLP(x.shape[1], outputs, width=width, depth=depth, dropout=dropout)

    kept = slice(0, rows or half)
    return wp.Problem(make, loss, wp.Data(train=(x[kept], y[kept]), valid=(x[half:], y[half:])), name=name)


def cases() -> Iterator[Case]:
    """Every table with every fault."""
    good = wp.Recipe(epochs=40, batch_size=64, optimizer={"name": "adam", "lr": 3e-3}, schedule={"name": "cosine"})
    for name in ("waves", "digits", "cancer", "diabetes"):
        whole = problem(name)
        yield Case(f"{name}: rate too low", whole, good.replace(optimizer={"lr": 1e-5}), ("optimizer", "schedule"))
        yield Case(
            f"{name}: rate too high",
            whole,
            good.replace(optimizer={"lr": 0.5}),
            ("optimizer", "schedule"),
        )
        yield Case(f"{name}: two epochs", whole, good.replace(epochs=2), ("schedule", "optimizer"))
        yield Case(
            f"{name}: strength 3",
            whole,
            good.replace(terms=[{"penalty": "l2", "strength": 3.0, "how": "prox"}]),
            ("regularizer",),
        )
        yield Case(f"{name}: dropout .9", whole, good.replace(noise={"dropout": 0.9}), ("regularizer",))
        yield Case(f"{name}: one unit", problem(name, width=1, depth=1), good, ("capacity",))
        yield Case(f"{name}: 30 rows", problem(name, rows=30), good, ("regularizer",))


def helps(case: Case, change: wp.Recipe, seeds: list[int]) -> Any:
    """Validation loss before less after, paired over seeds that the probe did not use."""
    before, after = (wp.fit_many(case.problem, recipe, seeds) for recipe in (case.recipe, change))
    rows = [a.evaluate().loss.rows.numpy() - b.evaluate().loss.rows.numpy() for a, b in zip(before, after, strict=True)]
    return crossed_interval(np.stack(rows, axis=1))


def visible_gap() -> None:
    """Mixup, smoothing, dropout, batch norm, a penalty and an average, on images of 8 by 8."""
    x, y, loss = table("digits")
    images = x.view(-1, 1, 8, 8)

    def make(width: int = 8) -> nn.Module:
        features = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*features, nn.Dropout(0.3), nn.Linear(16 * width, 10))

    data = wp.Data(train=(images[:600], y[:600]), valid=(images[600:1200], y[600:1200]))
    recipe = wp.Recipe(
        epochs=15,
        batch_size=64,
        optimizer={"name": "adamw", "lr": 3e-3},
        terms=[{"penalty": "l2", "strength": 1e-3, "how": "loss"}],
        noise={"mixup": 0.2, "label_smoothing": 0.1},
        averaging={"ema": 0.95},
    )
    print(wp.gap_split(wp.fit(wp.Problem(make, loss, data), recipe)))


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--gap", action="store_true")
    given = parser.parse_args()
    if given.gap:
        visible_gap()
        return
    chosen = [case for case in cases() if given.only in case.name]
    chosen = chosen[5:9] if given.check else chosen
    right, helped, worst, took = 0, [], 0.0, []
    print(
        f"{'case':<28}{'lever':<14}{'finding':<20}{'right':<7}{'largest term':<30}{'first change: gain in V':<40}seconds"
    )
    for case in chosen:
        began = time.perf_counter()
        try:
            budget = wp.error_budget(case.problem, case.recipe, seeds=range(given.seeds))
        except wp.WellposedError as error:
            print(f"{case.name:<28}{type(error).__name__}: {error}")
            continue
        took.append(time.perf_counter() - began)
        named = budget.lever in case.levers
        right += named
        error = abs(sum(part.estimate for part in budget.parts) - budget.valid.estimate)
        worst = max(worst, error)
        first = budget.findings[0]
        gain = "-"
        if first.changes:
            found = helps(case, first.changes[0].recipe, [100, 101, 102])
            helped.append(found.estimate > 0)
            gain = f"{found.estimate:+.3g} [{found.low:+.3g}, {found.high:+.3g}]  {first.changes[0].says}"[:70]
        top = budget.candidates[0] if budget.candidates else None
        size = "-" if top is None else f"{top.name} {top.estimate:.3g} of {budget.valid.estimate:.3g}"
        print(
            f"{case.name:<28}{budget.lever:<14}{first.name:<20}{named!s:<7}{size:<30}{gain:<72}{took[-1]:.1f}",
            flush=True,
        )
    print(
        f"lever right in {right} of {len(chosen)}; the first change lowered the validation loss in {sum(helped)} of {len(helped)}; "
        f"terms add up to {worst:.1e}; median {np.median(took):.1f} s"
    )


if __name__ == "__main__":
    main()
