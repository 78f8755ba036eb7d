"""Test error, likelihood and coverage on the UCI tables with published splits: networks, posteriors, cross-fitted networks, peers.

    python benchmarks/uci.py FOLDER_OF_TABLES [--only yacht,energy] [--splits 20] [--methods point,cross_fit] [--out uci.jsonl]
    python benchmarks/uci.py FOLDER_OF_TABLES --validate        # a tenth of the training rows in place of the test rows

RMSE and NLL (nats a row) are in the units of the target, as mean and standard error over the splits; coverage is that of 90 %
intervals; seconds are of the processor, for training, every choice and the answers of a split (at most 120: 60 s on two
cores). All tables get one program with one set of numbers, chosen with ``--validate`` on few splits; test rows are looked at by
`scores` alone.

Splits that stand in ``--out`` are not trained again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.bayes.predictive import PredictiveNumbers

TABLES = "yacht", "concrete", "energy", "power-plant"
PUBLISHED = {
    "boosting, published": ((0.48, 0.16), (4.15, 2.83), (0.42, 0.53), (3.19, 2.60)),
    "deep ensemble, published": ((1.58, 1.18), (6.03, 3.06), (2.09, 1.38), (4.11, 2.79)),
    "MC dropout, published": ((1.11, 1.55), (5.23, 3.04), (1.66, 1.99), (4.02, 2.80)),
}
"""RMSE and NLL on `TABLES` of the best published column, and of two with networks."""
STEPS = 1500
"""Of each training: epochs follow from the rows, so that few rows are seen more often."""


def network(inputs: int, norm: bool) -> Callable[[], nn.Module]:
    def build(width: int = 128) -> nn.Module:
        layers: list[nn.Module] = []
        for size in (inputs, width):
            layers += [nn.Linear(size, width), *([nn.LayerNorm(width)] if norm else []), nn.SiLU()]
        return nn.Sequential(*layers, nn.Linear(width, 1))

    return build


def recipe(rows: int, lr: float) -> wp.Recipe:
    batch = 32 if rows < 2000 else 128
    return wp.Recipe(
        epochs=max(1, STEPS * batch // rows),
        batch_size=batch,
        optimizer={"lr": lr},
        schedule={"name": "one_cycle"},
        terms=[{"penalty": "l2", "strength": 1e-2}],
        stopping={"patience": 0, "keep": "last"},
    )


class Standard:
    """Training rows in standard units, of which a tenth measures noise where a method has no rows of its own for that."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.shift, self.scale = float(y.mean()), float(y.std())
        z = ((y - self.shift) / self.scale).float()[:, None]
        kept = len(x) - len(x) // 10  # the rows of a split are in random order
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        self.train, self.valid = ((x[part], z[part]) for part in (order[:kept], order[kept:]))
        self.problem = wp.Problem(
            network(x.shape[1], norm=True), "squared_error", wp.Data(self.train, valid=self.valid)
        )
        self.recipe = recipe(kept, 5e-3)

    def noise(self, outputs: Tensor) -> float:
        return float((outputs - self.valid[1]).square().mean().sqrt())

    def back(self, found: PredictiveNumbers) -> PredictiveNumbers:
        return found.rescaled(self.scale, self.shift)


def point(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    of = Standard(x, y)
    (run,) = wp.fit_many(of.problem, of.recipe, device="cpu", probe_rows=1)
    with torch.no_grad():
        return of.back(PredictiveNumbers.gaussian(run.model(x_test), 0.0, of.noise(run.model(of.valid[0]))))


def variational(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    """Mean-field Gaussian weights by the evidence lower bound of a Gaussian likelihood, whose noise is trained too."""
    of = Standard(x, y)
    torch.manual_seed(0)
    net, rows = wp.bayesian(of.problem.model(), prior=wp.GaussianPrior(0.3)), len(of.train[0])
    log_noise = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([*net.parameters(), log_noise], lr=of.recipe.optimizer.lr)
    batches = of.recipe.epochs * -(-rows // of.recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, of.recipe.optimizer.lr, batches)
    for _ in range(of.recipe.epochs):
        for batch in torch.randperm(rows).split(of.recipe.batch_size):
            optimizer.zero_grad()
            error = F.mse_loss(net(of.train[0][batch]), of.train[1][batch])
            (error / (2 * (2 * log_noise).exp()) + log_noise + wp.kl(net) / rows).backward()
            optimizer.step()
            schedule.step()
    return of.back(wp.predictive(net.eval(), x_test, noise_std=float(log_noise.detach().exp())))


def laplace(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    """A posterior of the last layer; its noise is measured on rows held out: training rows are fitted too well to tell."""
    of = Standard(x, y)
    (run,) = wp.fit_many(of.problem, of.recipe, device="cpu", probe_rows=1)
    with torch.no_grad():
        noise = of.noise(run.model(of.valid[0]))
    return of.back(wp.laplace(run, layers="last", noise_std=noise).predict(x_test))


def ensemble(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    of = Standard(x, y)
    runs = wp.fit_many(of.problem, of.recipe, seeds=range(5), device="cpu", probe_rows=1)
    return of.back(wp.ensemble(runs).predict(x_test))


def cross_fit(x: Tensor, y: Tensor, x_test: Tensor, near: int) -> PredictiveNumbers:
    """`wp.cross_fit` of two recipes: with layer norm, and without at another rate."""
    makers = {norm: network(x.shape[1], norm) for norm in (True, False)}
    recipes = [recipe(len(x), lr).replace(model={"norm": norm}) for norm, lr in ((True, 5e-3), (False, 5e-3))]
    found = wp.cross_fit(lambda norm: makers[norm](), x, y, recipes, near=near)
    return found.predict(x_test)


def trained_by_draws(of: Standard, net: nn.Module, optimizer: torch.optim.Optimizer, drawn: Callable[[], Any]) -> float:
    """Train a network whose optimizer draws its weights, and return the noise, which is trained beside it by Adam."""
    log_noise, rows = torch.zeros((), requires_grad=True), len(of.train[0])
    noise = torch.optim.Adam([log_noise], lr=of.recipe.optimizer.lr)
    batches = of.recipe.epochs * -(-rows // of.recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
    for _ in range(of.recipe.epochs):
        for batch in torch.randperm(rows).split(of.recipe.batch_size):
            optimizer.zero_grad()
            noise.zero_grad()
            with drawn():
                error = F.mse_loss(net(of.train[0][batch]), of.train[1][batch])
                (error / (2 * (2 * log_noise).exp()) + log_noise).backward()
            optimizer.step()
            noise.step()
            schedule.step()
    return float(log_noise.detach().exp())


DRAWS = 30
PRIOR_STD, IVON_RATE, IVON_START = 0.3, 0.02, 1.0
"""Of both versions of IVON."""


def ivon(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    of = Standard(x, y)
    torch.manual_seed(0)
    net, prior = of.problem.model(), wp.GaussianPrior(PRIOR_STD)
    optimizer = wp.IVON(net.parameters(), IVON_RATE, rows=len(of.train[0]), prior=prior, start=IVON_START)
    noise = trained_by_draws(of, net, optimizer, optimizer.sampled)
    return of.back(wp.predictive(net, x_test, samples=DRAWS, noise_std=noise, drawn_by=optimizer))


def ivon_opt(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    """The package of IVON's authors, with the same prior, rate and start."""
    from ivon import IVON

    of = Standard(x, y)
    torch.manual_seed(0)
    net, rows = of.problem.model(), len(of.train[0])
    decay = 1 / (rows * PRIOR_STD**2)
    optimizer = IVON(net.parameters(), lr=IVON_RATE, ess=rows, weight_decay=decay, hess_init=IVON_START)
    noise, answers = trained_by_draws(of, net, optimizer, lambda: optimizer.sampled_params(train=True)), []
    for _ in range(DRAWS):
        with torch.no_grad(), optimizer.sampled_params():
            answers.append(net(x_test))
    means = torch.stack(answers).double()
    return of.back(PredictiveNumbers.gaussian(means.mean(0), means.var(0, correction=0), noise))


def laplace_torch(x: Tensor, y: Tensor, x_test: Tensor) -> PredictiveNumbers:
    """As its README has it: a last layer, prior and noise by the marginal likelihood."""
    from laplace import Laplace
    from torch.utils.data import DataLoader, TensorDataset

    of = Standard(x, y)
    (run,) = wp.fit_many(of.problem, of.recipe, device="cpu", probe_rows=1)
    found = Laplace(run.model, "regression", subset_of_weights="last_layer", hessian_structure="full")
    found.fit(DataLoader(TensorDataset(*of.train), batch_size=256))
    log_prior, log_noise = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([log_prior, log_noise], lr=1e-1)
    for _ in range(100):
        optimizer.zero_grad()
        (-found.log_marginal_likelihood(log_prior.exp(), log_noise.exp())).backward()
        optimizer.step()
    mean, variance = found(x_test)
    return of.back(
        PredictiveNumbers.gaussian(mean.detach(), variance.detach()[:, :, 0], float(log_noise.detach().exp()))
    )


METHODS = {
    "point": point, "variational": variational, "laplace": laplace, "ensemble": ensemble, "cross_fit": cross_fit, "ivon": ivon,
    "ivon-opt": ivon_opt, "laplace-torch": laplace_torch,
}  # fmt: skip
PEERS = "ivon-opt", "laplace-torch"
"""Packages that are measured where ``--methods`` names them."""


def split_rows(folder: Path, table: str, split: int, validate: bool) -> tuple[Tensor, ...]:
    """Inputs and targets of training rows, then of test rows; or both of training rows, to choose by."""
    frame = pd.read_csv(folder / f"{table}.csv.gz")
    x, y = frame.drop(columns="target").to_numpy(float), frame["target"].to_numpy(float)
    test = np.load(folder / "splits" / f"{table}.npz")["test_mask"][split]
    if validate:
        x, y = x[~test], y[~test]
        test = np.random.default_rng(split).permutation(len(y)) % 10 == 0
    return tuple(torch.from_numpy(part) for part in (x[~test], y[~test], x[test], y[test]))


def scores(folder: Path, table: str, split: int, method: str, validate: bool) -> dict[str, object]:
    """One record."""
    x, y, x_test, y_test = split_rows(folder, table, split, validate)
    began = time.process_time()
    code = wp.PiecewiseLinear(x)
    given = {"near": code.columns} if method == "cross_fit" else {}
    answer = METHODS[method](code(x), y, code(x_test), **given)
    low, high = answer.interval(0.9)
    seconds = time.process_time() - began
    cover = float(((y_test >= low) & (y_test <= high)).double().mean())
    return {
        "table": table, "split": split, "method": method, "rmse": answer.rmse(y_test), "nll": answer.nll(y_test), "cover": cover,
        "seconds": seconds,
    }  # fmt: skip


def lines(found: list[dict[str, object]]) -> Iterator[str]:
    """The table in Markdown."""
    yield "| table | method | splits | RMSE | NLL | 90 % intervals cover | seconds |\n|---|---|---|---|---|---|---|"
    for table in dict.fromkeys(row["table"] for row in found):
        for method in METHODS:
            rows = [row for row in found if row["table"] == table and row["method"] == method]
            if rows:
                each = {key: np.array([row[key] for row in rows], float) for key in ("rmse", "nll", "cover", "seconds")}
                error = {key: v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else float("nan") for key, v in each.items()}
                cells = [f"{each[key].mean():.3f} ± {error[key]:.3f}" for key in ("rmse", "nll")]
                cover = f"{100 * each['cover'].mean():.1f} ± {100 * error['cover']:.1f} %"
                yield f"| {table} | {method} | {len(rows)} | {' | '.join(cells)} | {cover} | {each['seconds'].mean():.1f} |"
        for name, values in PUBLISHED.items():
            yield "| {} | {} | | {} | {} | | |".format(table, name, *values[TABLES.index(table)])


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(TABLES))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name not in PEERS))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    kept = given.out.read_text().splitlines() if given.out and given.out.exists() else []
    found = [json.loads(line) for line in kept]
    done = {(row["table"], row["split"], row["method"]) for row in found}
    for split in range(given.splits):
        for table in given.only.split(","):
            for method in given.methods.split(","):
                if (table, split, method) not in done:
                    found.append(scores(given.folder, table, split, method, given.validate))
                    print(found[-1], flush=True)
                    if given.out:
                        with given.out.open("a") as file:
                            file.write(json.dumps(found[-1]) + "\n")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
