"""The same recipes and epochs on a real table: `wp.fit_many` beside Optuna with two kinds of loop, and the loop alone.

    python benchmarks/search_peers.py [--table TABLE.csv.gz] [--recipes 32] [--epochs 5] [--width 128] [--repeats 3]
                                      [--threads 1,2]

Every side trains the same recipes (learning rate, weight decay, dropout) of the same perceptron (two hidden layers) from the
same distribution of first weights, with fused AdamW and batches of 128, on the same tensors, and evaluates after each epoch.
wellposed and the loops take loss and accuracy of all validation rows and of as many training rows, in evaluation mode;
skorch, with its default callbacks, scores the validation rows and sums up the training batches as they come. wellposed also
keeps the best weights of each recipe, and the peers do not. Optuna is given the recipes (``enqueue_trial``), so that all train
the same; its samplers have no part in this. Sides run in turn in one process; the minimum of the repeats is compared, with
the number of threads that suits each side best. The last column shows that nobody wins by training less: one training, in which
the recipes of `wp.fit_many` share a seed, as those of a search do, so that its means vary more than the peers'.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
import torch
from peers import EVALUATED_AT_ONCE, Batches, Rows, problem_of
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp
from wellposed.models.mlp import MLP
from wellposed.training.problem import Problem

BATCH, DEPTH = 128, 2
RATES, DECAYS, DROPOUTS = (3e-4, 1e-2), (1e-3, 0.3), (0.05, 0.5)
"""Ranges: the first two on a logarithmic scale."""

Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Setting:
    """What differs between two recipes."""

    lr: float
    weight_decay: float
    dropout: float


@dataclass(frozen=True)
class Final:
    """Validation loss and accuracy after the last epoch."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Task:
    """A table, and how long which recipes are trained on it."""

    problem: Problem
    settings: list[Setting]
    epochs: int
    width: int

    @cached_property
    def train(self) -> Rows:
        return Rows.of(self.problem.prepared.train)

    @cached_property
    def valid(self) -> Rows:
        return Rows.of(self.problem.prepared.valid)

    @cached_property
    def probe(self) -> Rows:
        """As many training rows as there are validation rows."""
        return Rows.of(self.problem.prepared.train, len(self.valid))

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments of the network, but for dropout."""
        data = self.problem.prepared
        return {"inputs": data.features, "outputs": data.outputs, "width": self.width, "depth": DEPTH}


def drawn(count: int) -> list[Setting]:
    """Random settings, always the same."""
    draw = np.random.default_rng(0)

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(draw.uniform(np.log(low), np.log(high))))

    return [Setting(log_uniform(*RATES), log_uniform(*DECAYS), draw.uniform(*DROPOUTS)) for _ in range(count)]


# --- the sides


def ours(task: Task) -> list[Final]:
    """`wp.fit_many`."""
    recipes = [
        wp.Recipe(
            epochs=task.epochs, batch_size=BATCH, model={"width": task.width, "depth": DEPTH},
            optimizer={"name": "adamw", "lr": s.lr, "weight_decay": s.weight_decay},
            noise={"dropout": s.dropout}, stopping={"patience": 0},
        )
        for s in task.settings
    ]  # fmt: skip
    runs = wp.fit_many(task.problem, recipes, seeds=(0,), device="cpu")
    return [Final(run.history["valid_loss"][-1], run.history["valid_metric"][-1]) for run in whole(runs, task.epochs)]


def whole(runs: list[wp.Run], epochs: int) -> list[wp.Run]:
    """The runs, if each had all its epochs: else the comparison would be of different work."""
    short = [run for run in runs if len(run.history) != epochs]
    if short:
        raise SystemExit(f"{len(short)} of {len(runs)} runs ended before epoch {epochs} ({short[0].stopped}).")
    return runs


def tensor_loop(task: Task) -> list[Final]:
    """A plain loop over tensors, without Optuna and without DataLoader."""
    train, probe, valid = (
        Batches(task.train, BATCH, shuffled=True),
        Batches(task.probe, EVALUATED_AT_ONCE),
        Batches(task.valid, EVALUATED_AT_ONCE),
    )
    return [trained(task, setting, train, probe, valid) for setting in task.settings]


def optuna_loop(task: Task) -> list[Final]:
    """Optuna over a plain loop with DataLoaders."""
    sets = [TensorDataset(rows.x, rows.y) for rows in (task.train, task.probe, task.valid)]
    train = DataLoader(sets[0], batch_size=BATCH, shuffle=True)
    probe, valid = (DataLoader(part, batch_size=EVALUATED_AT_ONCE) for part in sets[1:])
    return with_optuna(task, lambda setting: trained(task, setting, train, probe, valid))


def optuna_skorch(task: Task) -> list[Final]:
    """Optuna over skorch, with its default callbacks and the accuracy of the training batches beside them."""
    x, y = task.train.x.numpy(), task.train.y.numpy()
    valid = predefined_split(Dataset(task.valid.x.numpy(), task.valid.y.numpy()))

    def score(setting: Setting) -> Final:
        net = NeuralNetClassifier(
            MLP, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, train_split=valid,
            lr=setting.lr, optimizer__weight_decay=setting.weight_decay, optimizer__fused=True,
            batch_size=BATCH, iterator_train__shuffle=True, iterator_valid__batch_size=EVALUATED_AT_ONCE,
            max_epochs=task.epochs, verbose=0, callbacks=[EpochScoring("accuracy", name="train_acc", on_train=True)],
            module__dropout=setting.dropout, **{f"module__{name}": value for name, value in task.sizes.items()},
        )  # fmt: skip
        last = net.fit(x, y).history[-1]
        return Final(last["valid_loss"], last["valid_acc"])

    return with_optuna(task, score)


SIDES: dict[str, Callable[[Task], list[Final]]] = {
    "wp.fit_many": ours,
    "plain loop over tensors": tensor_loop,
    "Optuna, plain loop with DataLoader": optuna_loop,
    "Optuna, skorch": optuna_skorch,
}


def with_optuna(task: Task, score: Callable[[Setting], Final]) -> list[Final]:
    """A study of exactly these settings."""
    finals = []

    def objective(trial: optuna.Trial) -> float:
        setting = Setting(
            trial.suggest_float("lr", *RATES, log=True),
            trial.suggest_float("weight_decay", *DECAYS, log=True),
            trial.suggest_float("dropout", *DROPOUTS),
        )
        finals.append(score(setting))
        return finals[-1].loss

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for setting in task.settings:
        study.enqueue_trial(vars(setting))
    study.optimize(objective, n_trials=len(task.settings))
    return finals


def trained(task: Task, setting: Setting, train: Loader, probe: Loader, valid: Loader) -> Final:
    """What a person writes in PyTorch: epochs of steps, and an evaluation after each."""
    net = MLP(**task.sizes, dropout=setting.dropout)
    optimizer = torch.optim.AdamW(net.parameters(), lr=setting.lr, weight_decay=setting.weight_decay, fused=True)
    history = []
    for _ in range(task.epochs):
        net.train()
        for x, y in train:
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()
        history.append((evaluated(net, probe), evaluated(net, valid)))
    return history[-1][1]


@torch.no_grad()
def evaluated(net: nn.Module, batches: Loader) -> Final:
    """Mean loss and accuracy."""
    net.eval()
    loss, right, rows = 0.0, 0, 0
    for x, y in batches:
        outputs = net(x)
        loss += float(cross_entropy(outputs, y, reduction="sum"))
        right += int((outputs.argmax(1) == y).sum())
        rows += len(y)
    return Final(loss / rows, right / rows)


# --- the comparison


@dataclass
class Measured:
    """Seconds by number of threads, repeat by repeat, and how the last training ended."""

    seconds: dict[int, list[float]]
    finals: list[Final]

    @property
    def threads(self) -> int:
        """With which this side is fastest."""
        return min(self.seconds, key=lambda count: min(self.seconds[count]))

    @property
    def best(self) -> float:
        """The minimum, with the threads that suit it."""
        return min(self.seconds[self.threads])


def measured(task: Task, threads: list[int], repeats: int) -> dict[str, Measured]:
    """All sides in turn, again and again; before, each trains a little, since first calls import and set up."""
    for side in SIDES.values():
        side(replace(task, settings=task.settings[:2], epochs=1))
    found = {name: Measured({count: [] for count in threads}, []) for name in SIDES}
    for repeat in range(repeats):
        for count in threads:
            torch.set_num_threads(count)
            for name, side in SIDES.items():
                torch.manual_seed(repeat)
                began = time.perf_counter()
                found[name].finals = side(task)
                found[name].seconds[count].append(time.perf_counter() - began)
    return found


def table_of(found: dict[str, Measured]) -> list[str]:
    """The result as Markdown."""
    titles = (
        "side",
        "threads",
        "s, minimum",
        "s, median",
        "times wp.fit_many",
        "final validation loss, accuracy (means)",
    )
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for name, side in found.items():
        loss = statistics.fmean(final.loss for final in side.finals)
        accuracy = statistics.fmean(final.accuracy for final in side.finals)
        median = statistics.median(side.seconds[side.threads])
        ratio = side.best / found["wp.fit_many"].best
        lines.append(
            f"| {name} | {side.threads} | {side.best:.2f} | {median:.2f} | {ratio:.2f} | {loss:.4f}, {accuracy:.4f} |"
        )
    return lines


def both_ways() -> str:
    """One thread, which suits short steps, and all of them."""
    return ",".join(map(str, sorted({1, torch.get_num_threads()})))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("../shared/data/tables/phoneme.csv.gz"))
    parser.add_argument("--recipes", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", default=both_ways(), help="each side takes what suits it best")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = problem_of(arguments.table)
    data = problem.prepared
    if data.task != "classification":
        raise SystemExit(f"{problem.name!r} is a regression; skorch's side needs classes: give another --table.")
    task = Task(problem, drawn(arguments.recipes), arguments.epochs, arguments.width)
    print(
        f"{problem.name}: {len(data.train)} training rows, {len(data.valid)} validation rows, {data.features} features; "
        f"{len(task.settings)} recipes, {task.epochs} epochs, width {task.width}, depth {DEPTH}, batch {BATCH}; "
        f"torch {torch.__version__}, optuna {optuna.__version__}"
    )
    threads = [int(count) for count in arguments.threads.split(",")]
    print("\n".join(table_of(measured(task, threads, arguments.repeats))))


if __name__ == "__main__":
    main()
