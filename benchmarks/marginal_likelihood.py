"""One L2 strength by the evidence against 5-fold cross-validation: the loss on untouched test rows, and seconds of the processor.

    python benchmarks/marginal_likelihood.py FOLDER_OF_TABLES [--rows 400] [--epochs 60] [--only yacht,vehicle]

Both sides choose the strength of one term, `wp.L2(s).on(wp.weights)`, of the same network (16 tanh units) by the same training
rows, and train it once more on all of them. Cross-validation tries seven strengths from 1e-4 to 1, trained together as one program;
the evidence starts from 1e-2 and looks at no validation row. A difference above 0 means that the evidence's strength costs less on
the test rows; its interval is paired over the rows and two seeds. Seconds are of the processor for the choice alone, without the
last training.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wellposed as wp
from wellposed.data.tables import prepare_table, read_table

TABLES = (
    "yacht", "concrete", "energy", "power-plant", "california-housing", "australian", "blood-transfusion", "credit-g", "vehicle",
    "titanic", "segment", "phoneme",
)  # fmt: skip
STRENGTHS = tuple(10.0 ** np.arange(-4, 0.1, 4 / 6))
FOLDS, SEEDS, MOST_TEST = 5, 2, 1000


@dataclass(frozen=True)
class Table:
    """Encoded rows of a table; its loss."""

    name: str
    loss: str
    outputs: int
    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor

    def problem(self, train: torch.Tensor | None = None, valid: torch.Tensor | None = None) -> wp.Problem:
        """All training rows (validated on themselves, so that nothing is chosen by others), or a fold."""
        train = torch.arange(len(self.x)) if train is None else train
        valid = train if valid is None else valid
        data = wp.Data(
            (self.x[train], self.y[train]), valid=(self.x[valid], self.y[valid]), test=(self.x_test, self.y_test)
        )
        return wp.Problem(self.net, self.loss, data)

    def net(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.x.shape[1], 16), nn.Tanh(), nn.Linear(16, self.outputs))


def read(path: Path, rows: int) -> Table:
    """At most ``rows`` training rows and `MOST_TEST` test rows, drawn once; scaled by training rows."""
    table = prepare_table(read_table(path), "target", name=path.name)
    frame, target = table.frame, table.target
    order = np.random.default_rng(0).permutation(len(frame))
    test = order[: min(MOST_TEST, len(frame) // 4)]
    train = order[len(test) : len(test) + rows]
    pick = [
        (frame.iloc[part].reset_index(drop=True), target.iloc[part].reset_index(drop=True)) for part in (train, test)
    ]
    made = wp.Data(pick[0], valid=pick[1], task=table.task).prepare()
    (x, y), (x_test, y_test) = (s.batch(torch.arange(len(s))) for s in (made.train, made.valid))
    numbers = table.task == "regression"
    if numbers:
        y, y_test = y[:, None], y_test[:, None]
    return Table(
        path.name.removesuffix(".csv.gz"),
        "squared_error" if numbers else "cross_entropy",
        made.outputs,
        x,
        y,
        x_test,
        y_test,
    )


def term(strength: float) -> wp.Term:
    return wp.L2(strength).on(wp.weights, how="loss")


def cross_validated(table: Table, recipe: wp.Recipe) -> float:
    """The strength with the least mean loss over the folds at the end of training."""
    parts = torch.randperm(len(table.x), generator=torch.Generator().manual_seed(0)).chunk(FOLDS)
    recipes = [recipe.replace(terms=[term(strength)]) for strength in STRENGTHS]
    losses = np.zeros(len(STRENGTHS))
    for held in range(FOLDS):
        rest = torch.cat([part for i, part in enumerate(parts) if i != held])
        runs = wp.fit_many(table.problem(rest, parts[held]), recipes, seeds=[0], engine="inprocess")
        losses += [run.history.rows[-1]["valid_loss"] for run in runs]
    return float(STRENGTHS[int(losses.argmin())])


def compared(path: Path, rows: int, epochs: int) -> str:
    """One row of the table."""
    table = read(path, rows)
    recipe = wp.Recipe(
        epochs=epochs, batch_size=32, optimizer={"name": "adamw", "lr": 1e-2}, schedule={"name": "cosine"}
    )
    began = time.process_time()
    by_folds = cross_validated(table, recipe)
    middle = time.process_time()
    found = wp.evidence(table.problem(), recipe, term(1e-2))
    ended = time.process_time()
    chosen = next(iter(found.strengths.values()))
    finals = [
        wp.fit_many(table.problem(), [recipe.replace(terms=[term(s)])], seeds=range(SEEDS), engine="inprocess")
        for s in (by_folds, chosen)
    ]
    shown = wp.compare(*finals, on="test").interval
    losses = [np.mean([run.evaluate("test").loss.mean for run in runs]) for runs in finals]
    metric = wp.compare(*(np.stack([loss_rows(run) for run in runs], 1) for runs in finals)).interval
    return (
        f"| {table.name} | {len(table.x)} | {by_folds:.2g} | {chosen:.2g} | {losses[0]:.4f} | {losses[1]:.4f} | "
        f"{metric.estimate:+.4f} ({metric.low:+.4f}, {metric.high:+.4f}) | {shown.estimate:+.4f} | {middle - began:.1f} | "
        f"{ended - middle:.1f} | {(middle - began) / (ended - middle):.1f} |"
    )


def loss_rows(run: wp.Run) -> np.ndarray:
    """Minus the loss of each test row."""
    return -run.evaluate("test").loss.rows.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--only", default=",".join(TABLES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| table | rows | strength, CV | evidence | loss, CV | evidence | gain of the evidence (95 %) | in the metric | s, CV | "
        "s, evidence | times |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in args.only.split(","):
        print(compared(args.folder / f"{name}.csv.gz", args.rows, args.epochs), flush=True)


if __name__ == "__main__":
    main()
