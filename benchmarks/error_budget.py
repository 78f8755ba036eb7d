"""Does the error budget name the lever of a fault that was planted, and does its first change help?

    python benchmarks/error_budget.py [--seeds 3] [--epochs 0] [--only NAME] [--check]
    python benchmarks/error_budget.py --tables FOLDER [--seeds 3] [--epochs 0] [--only NAME]
    python benchmarks/error_budget.py --gap [--figure FILE]

Each case is a table that ships with scikit-learn, or one that is made, with a recipe or a network in which one thing is wrong.
The budget is measured with three seeds. Beside the lever stand the largest term, what the first change does to the validation
loss (paired, over other seeds), and the seconds; at the end, how far the terms are from adding up. ``--check`` runs four cases.
``--tables`` takes a folder of `NAME.csv.gz` with a column `target`: other faults on other tables, and runs in which nothing is
wrong; their first change is judged by rows that neither training nor the budget has seen. ``--epochs`` bounds each rival.
``--gap`` splits the visible gap of a convolutional network with everything at once, and draws it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import nn

import wellposed as wp
from wellposed.core.files import write_atomically
from wellposed.data.tables import prepare_table, read_table
from wellposed.models.mlp import MLP
from wellposed.statistics.intervals import crossed_interval

torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """A problem with one fault, and the levers that answer it; none where nothing is wrong. Advice is judged by the rows ``on``."""

    name: str
    problem: wp.Problem
    recipe: wp.Recipe
    levers: tuple[str, ...]
    on: str = "valid"


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


MOST_ROWS = 1200
"""Of a table in a folder: enough for an effect, few enough for minutes."""


def from_folder(
    folder: Path, name: str, rows: int | None = None, width: int = 64, depth: int = 2, dropout: float = 0.1
) -> wp.Problem:
    """Four tenths of a table for training, three for validation, three to judge advice by."""
    taken = prepare_table(read_table(folder / f"{name}.csv.gz"), "target", name=name)
    order = np.random.default_rng(0).permutation(len(taken.frame))[:MOST_ROWS]
    first, second = int(0.4 * len(order)), int(0.7 * len(order))
    train, valid, test = (
        (taken.frame.iloc[part], taken.target.iloc[part])
        for part in (order[: rows or first], order[first:second], order[second:])
    )

    def make(data: Any, width: int = width, depth: int = depth, dropout: float = dropout) -> nn.Module:
        return MLP(data.features, data.outputs, width=width, depth=depth, dropout=dropout)

    loss = "cross_entropy" if taken.task == "classification" else "squared_error"
    return wp.Problem(make, loss, wp.Data(train=train, valid=valid, test=test, task=taken.task), name=name)


STRONG_L1 = {"penalty": "l1", "strength": 0.1, "how": "prox"}
SHORT_RADIUS = {"penalty": "max_norm", "bound": 0.1, "how": "project"}
HEALTHY = ("phoneme", "concrete", "energy", "vehicle", "segment", "power-plant", "credit-g", "blood-transfusion")


def folder_cases(folder: Path) -> Iterator[Case]:
    """Other faults on other tables, then runs in which nothing is wrong: a network that fits, an annealed rate, some dropout and
    decay, and the best epoch."""
    good = wp.Recipe(
        epochs=40, batch_size=32, optimizer={"name": "adamw", "lr": 3e-3}, schedule={"name": "cosine"},
        terms=[{"penalty": "l2", "strength": 0.05}],
    )  # fmt: skip
    plain = good.replace(terms=[])
    slow = wp.Recipe(epochs=30, batch_size=32, optimizer={"name": "sgd", "lr": 1e-4})

    def case(words: str, recipe: wp.Recipe, levers: tuple[str, ...], **settings: Any) -> Case:
        name = words.partition(":")[0]
        return Case(words, from_folder(folder, name, **settings), recipe, levers, "test")

    yield case("phoneme: sgd 1e-4", slow, ("optimizer", "schedule"))
    yield case("concrete: dropout .8", plain.replace(noise={"dropout": 0.8}), ("regularizer",))
    yield case("energy: three epochs", plain.replace(epochs=3), ("schedule", "optimizer"))
    yield case("segment: l1 .1", plain.replace(terms=[STRONG_L1]), ("regularizer",))
    yield case("vehicle: one unit", plain, ("capacity",), width=1, depth=1, dropout=0.0)
    yield case("power-plant: adam .3", plain.replace(optimizer={"lr": 0.3}), ("optimizer", "schedule"))
    yield case(
        "yacht: 25 rows", plain.replace(stopping={"keep": "last"}), ("regularizer",), rows=25, width=256, dropout=0.0
    )
    yield case(
        "credit-g: 100 rows",
        plain.replace(stopping={"keep": "last"}),
        ("regularizer",),
        rows=100,
        width=256,
        dropout=0.0,
    )
    yield case("blood-transfusion: norm .1", plain.replace(terms=[SHORT_RADIUS]), ("regularizer",))
    yield case("titanic: noise 3", plain.replace(noise={"input": 3.0}), ("regularizer",))
    for name in HEALTHY:
        yield case(f"{name}: healthy", good, ())


def helps(case: Case, change: wp.Recipe, seeds: list[int]) -> Any:
    """Validation loss before less after, paired over seeds that the probe did not use."""
    before, after = (wp.fit_many(case.problem, recipe, seeds) for recipe in (case.recipe, change))
    rows = [
        a.evaluate(case.on).loss.rows.numpy() - b.evaluate(case.on).loss.rows.numpy()
        for a, b in zip(before, after, strict=True)
    ]
    return crossed_interval(np.stack(rows, axis=1))


def visible_gap(out: Path | None) -> None:
    """Mixup, smoothing, dropout, batch norm, a penalty and an average, on images of 8 by 8; a figure where asked for."""
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
    split = wp.gap_split(wp.fit(wp.Problem(make, loss, data), recipe))
    print(split)
    if out is not None:
        write_atomically(out, split.figure())


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--gap", action="store_true")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if given.gap:
        visible_gap(given.figure)
        return
    chosen = [case for case in (folder_cases(given.tables) if given.tables else cases()) if given.only in case.name]
    chosen = chosen[5:9] if given.check else chosen
    print(
        f"{'case':<28}{'lever':<14}{'finding':<21}{'right':<7}{'its term':<31}{'s':<6}first change: what it takes off the loss"
    )
    lines = [line for case in chosen if (line := judged(case, given.seeds, given.epochs or None)) is not None]
    faults = [line for line in lines if line.case.levers]
    healthy = [line for line in lines if not line.case.levers]
    gains = [line.gain for line in faults if line.gain is not None]
    print(
        f"lever right in {sum(line.right for line in faults)} of {len(faults)}, none named in "
        f"{sum(line.lever in NO_LEVER for line in faults)}; the first change lowered the loss in "
        f"{sum(gain.estimate > 0 for gain in gains)} of {len(gains)}, clearly in {sum(gain.low > 0 for gain in gains)}; "
        f"terms add up to {max((line.error for line in lines), default=0.0):.1e}; "
        f"median {np.median([line.seconds for line in lines]):.1f} s"
    )
    if healthy:
        named = [line for line in healthy if line.lever not in NO_LEVER]
        wrong = [line for line in named if line.gain is not None and line.gain.estimate <= 0]
        print(
            f"nothing wrong: a lever named in {len(named)} of {len(healthy)}; its first change raised the loss in {len(wrong)}"
        )


NO_LEVER = ("none", "data")


@dataclass(frozen=True)
class Line:
    """What was found of a case."""

    case: Case
    lever: str
    gain: Any
    error: float
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the lever is one of the case's."""
        return self.lever in self.case.levers


def judged(case: Case, seeds: int, epochs: int | None) -> Line | None:
    """Measure, print, and judge the first change by seeds that the budget has not seen."""
    began = time.perf_counter()
    try:
        budget = wp.error_budget(case.problem, case.recipe, seeds=range(seeds), epochs=epochs)
    except wp.WellposedError as error:
        print(f"{case.name:<28}{type(error).__name__}: {error}", flush=True)
        return None
    took = time.perf_counter() - began
    first = budget.findings[0]
    gain, words = None, "-"
    if first.changes:
        gain = helps(case, first.changes[0].recipe, [100, 101, 102])
        words = f"{gain.estimate:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}]  {first.changes[0].says}"[:70]
    top = budget.candidates[0] if budget.candidates else None
    size = "-" if top is None else f"{top.name} {top.estimate:.3g} of {budget.valid.estimate:.3g}"
    right = ("yes" if budget.lever in case.levers else "no") if case.levers else ""
    print(f"{case.name:<28}{budget.lever:<14}{first.name:<21}{right:<7}{size:<31}{took:<6.1f}{words}", flush=True)
    error = abs(sum(part.estimate for part in budget.parts) - budget.valid.estimate)
    return Line(case, budget.lever, gain, error, took)


if __name__ == "__main__":
    main()
