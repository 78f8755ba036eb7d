"""Do the intervals of bias, variance and learning curves keep their word? And the figures of real tables and images.

    python benchmarks/bias_variance.py coverage DATA          a few minutes
    python benchmarks/bias_variance.py extrapolation DATA     about ten minutes
    python benchmarks/bias_variance.py fresh DATA             about as long
    python benchmarks/bias_variance.py figures DATA docs/figures

DATA is a folder with `tables/*.csv.gz`, `images/mnist.npz` and `images/cifar10-sub.npz`.

Coverage: a network is trained on some hundred resamples, which are the world; of these, few are drawn, and few of the test
rows, and the 95 % intervals are asked for what all resamples and all test rows say. Extrapolation: the law is fitted to sizes up
to half of the rows, and what it says of twice the rows is compared with what is then measured there, on the same test rows;
beside it the same by least squares of the same form. The method was chosen with the tables of ``extrapolation`` in sight; those of
``fresh`` had no part in it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wellposed as wp
from wellposed.data.images import image_tensor, read_npz
from wellposed.data.tables import prepare_table, read_table
from wellposed.decomposition.learning_curve import (
    HELP,
    NOT,
    UNKNOWN,
    LearningCurve,
    RecipeCurve,
    curve_of,
    learning_curve,
)
from wellposed.decomposition.repeated_training import rows_on
from wellposed.decomposition.variance_components import RowLosses, decompose
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job
from wellposed.statistics.power_law import SHAPE
from wellposed.training.ready_problems import table_problem
from wellposed.training.run import Run

TABLES = (
    "phoneme", "higgs-small", "adult", "credit-g", "segment", "mfeat-factors", "vehicle", "california-housing",
    "power-plant", "concrete", "diamonds",
)  # fmt: skip
FRESH = (
    "anneal", "australian", "blood-transfusion", "car", "connect-4", "energy", "isolet", "madelon", "titanic", "yacht",
    "cifar10-sub",
)  # fmt: skip
"""What no constant was chosen by: all other tables of 300 rows and more, and other images."""
IMAGES = ("mnist", "cifar10-sub")
PLAIN = wp.Recipe(
    epochs=30, batch_size=64, optimizer={"lr": 4e-3}, schedule={"name": "cosine"}, stopping={"patience": 0}
)
LAST = PLAIN.replace(stopping={"keep": "last"})
DECAYED = LAST.replace(terms=[{"penalty": "l2", "strength": 0.3}], noise={"dropout": 0.3})


def arrays(data: Path, name: str) -> tuple[torch.Tensor, torch.Tensor, str]:
    """All rows of a table, encoded, in random order; or images in which every other pixel is left out."""
    if name in IMAGES:
        found = read_npz(data / "images" / f"{name}.npz")
        x = image_tensor(found["X_train"])[:, :, ::2, ::2].float().flatten(1) / 255
        return x[:12000], torch.from_numpy(found["y_train"][:12000]).long(), "cross_entropy"
    table = prepare_table(read_table(data / "tables" / f"{name}.csv.gz"), "target", name=name)
    problem = table_problem(table)
    prepared = problem.prepared
    parts = [source.batch(torch.arange(len(source))) for source in (prepared.train, prepared.valid)]
    x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:12000]
    return x[order], y[order], problem.loss.name


def problem(data: Path, name: str, train: int) -> wp.Problem:
    """The first rows for training, as many as a quarter of them at most for validation, the rest (4,000 at most) for the test."""
    x, y, loss = arrays(data, name)
    train = min(train, len(x) // 2)
    valid = train // 4
    outputs = int(y.max()) + 1 if loss == "cross_entropy" else y.reshape(len(y), -1).shape[1]

    def net(width: int = 64) -> nn.Module:
        return nn.Sequential(
            nn.Linear(x.shape[1], width), nn.SiLU(), nn.Dropout(0.0), nn.Linear(width, width), nn.SiLU(), nn.Dropout(0.0),
            nn.Linear(width, outputs),
        )  # fmt: skip

    cuts = (slice(0, train), slice(train, train + valid), slice(train + valid, train + valid + 4000))
    train_rows, valid_rows, test_rows = ((x[cut], y[cut]) for cut in cuts)
    return wp.Problem(net, loss, wp.Data(train=train_rows, valid=valid_rows, test=test_rows), name=name)


# --- coverage


def coverage(data: Path, pool: int = 120, draws: int = 200) -> None:
    """The table of shares of intervals that hold what they are of."""
    print(
        f"## 95 % intervals of bias and variance that hold the value of {pool} resamples and all test rows, in percent\n"
    )
    parts = ("loss", "bias", "variance", "data", "seeds")
    print(f"| table | recipe | resamples | rows | {' | '.join(parts)} |\n|---|---|---|---|{'---|' * len(parts)}")
    for name in ("phoneme", "concrete", "mnist"):
        given = problem(data, name, 400)
        source, target, _ = rows_on(given, "test")
        for label, recipe in (("plain", LAST), ("decay and dropout", DECAYED)):
            jobs = [Job(recipe, 2 * r + s, resample=r) for r in range(pool) for s in range(2)]
            runs = [run for run in train_jobs(given, jobs) if isinstance(run, Run)]
            outputs = torch.stack([run.outputs(source) for run in runs]).double()
            outputs = outputs.view(pool, 2, *outputs.shape[1:])
            # The world's own means: of so many that the jackknife has nothing to do.
            losses = RowLosses(given.loss, target, None, outputs[0, 0])
            truth = {name: float(q) for name, q in world(outputs, losses).items()}
            rng = np.random.default_rng(0)
            for resamples, rows in ((5, 300), (10, 300), (20, 300), (20, 100)):
                held = dict.fromkeys(parts, 0)
                for _ in range(draws):
                    r = torch.from_numpy(rng.choice(pool, resamples, replace=False))
                    i = torch.from_numpy(rng.choice(len(target), rows, replace=False))
                    few = outputs[r][:, :, i]
                    found = decompose(few, RowLosses(given.loss, target[i], None, few[0, 0]), False)
                    for part in parts:
                        held[part] += found[part].low <= truth[part] <= found[part].high
                cells = " | ".join(f"{100 * held[part] / draws:.0f}" for part in parts)
                print(f"| {name} | {label} | {resamples} | {rows} | {cells} |", flush=True)


def world(outputs: torch.Tensor, losses: RowLosses) -> dict[str, np.float64]:
    """The parts by all resamples, with the correction for their number to first order."""
    pool, seeds = outputs.shape[:2]
    loss = losses(outputs.flatten(0, 1)).mean()
    centre = losses(outputs.mean((0, 1))[None]).mean()
    between = losses(outputs.mean(1)).mean()
    within = (loss - between) * seeds / (seeds - 1)
    variance_of_means = (between - centre) * pool / (pool - 1)
    data = variance_of_means - within / seeds
    bias = loss - data - within
    return {"loss": loss, "bias": bias, "variance": data + within, "data": data, "seeds": within}


# --- extrapolation


def extrapolation(data: Path, names: tuple[str, ...] = (*TABLES, "mnist"), rows: int = 2000) -> None:
    """What is said of twice the rows, and what is measured there."""
    print("## Twice the rows: said from sizes up to half, and measured\n")
    print(
        "| table | recipe | rows | loss | gain said | measured | held | by least squares | verdict | twice the rows |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    tally: list[tuple[bool, float, float, float, str, bool]] = []
    for name in names:
        given = problem(data, name, rows)
        recipes = {"plain, best epoch": PLAIN, "decay and dropout": DECAYED}
        measured = learning_curve(given, recipes, sizes=(0.08, 0.13, 0.2, 0.32, 0.5, 1.0), repeats=5)
        for curve in measured.curves:
            tally.append(judged(name, curve))
    summed(tally)


def summed(tally: list[tuple[bool, float, float, float, str, bool]]) -> None:
    """What the table comes to."""
    held, said, squares, true, verdicts, matters = zip(*tally, strict=True)
    count = len(tally)
    print(
        f"\n{count} curves; 95 % intervals that held what was measured: {sum(held)} ({100 * sum(held) / count:.0f} %)"
    )
    for label, values in (("the mixture", said), ("least squares", squares), ("no gain", [0.0] * count)):
        errors = np.abs(np.subtract(values, true))
        print(f"relative gain by {label}: mean error {errors.mean():.3f}, median {np.median(errors):.3f}")
    for verdict in (HELP, NOT, UNKNOWN):
        mine = [m for v, m in zip(verdicts, matters, strict=True) if v == verdict]
        print(f"{verdict!r}: {len(mine)} curves, of which twice the rows took away more than 5 % in {sum(mine)}")


def judged(name: str, curve: RecipeCurve) -> tuple[bool, float, float, float, str, bool]:
    """One row of the table."""
    *known, beyond = curve.levels
    before = curve_of(curve.name, curve.recipe, known)
    assert before.law is not None
    assert before.gain is not None
    now = known[-1].table.mean()
    differences = known[-1].table.mean(0) - beyond.table.mean(0)
    # The rows are the same here, so that the interval without them is what must hold it; what is measured is a mean of few runs.
    gain, noise = before.law.gain(beyond.rows), differences.std(ddof=1) / math.sqrt(len(differences))
    measured = float(differences.mean())
    gain = gain.wider(noise, SHAPE * gain.estimate)
    low, high = gain.low, gain.high
    held = low <= measured <= high
    squares = least_squares([level.rows for level in known], [level.table.mean() for level in known], beyond.rows)
    said = f"{100 * gain.estimate / now:.1f} [{100 * low / now:.1f}, {100 * high / now:.1f}]"
    more = measured > 0.05 * now
    print(
        f"| {name} | {curve.name} | {known[-1].rows} | {now:.3f} | {said} % | {100 * measured / now:.1f} % | "
        f"{'yes' if held else '**no**'} | {100 * squares / now:.1f} % | {before.verdict} | {'helped' if more else 'did not'} |",
        flush=True,
    )
    return held, gain.estimate / now, squares / now, measured / now, before.verdict, more


def least_squares(sizes: list[int], losses: list[float], rows: int) -> float:
    """The gain by the best single ``a + b n^-c`` with ``a, b >= 0``."""
    n, y = np.array(sizes, float) / sizes[-1], np.array(losses)
    best = (np.inf, 0.0)
    for rate in np.geomspace(0.01, 3, 200):
        x = n**-rate
        b, a = np.polyfit(x, y, 1)
        if b < 0:
            a, b = y.mean(), 0.0
        elif a < 0:
            a, b = 0.0, float((x * y).sum() / (x * x).sum())
        miss = float(((a + b * x - y) ** 2).sum())
        if miss < best[0]:
            best = (miss, float(b * (1 - (rows / sizes[-1]) ** -rate)))
    return best[1]


# --- figures


def figures(data: Path, out: Path, asked: tuple[str, ...] = ("concrete", "credit-g", "mnist")) -> None:
    """Bias and variance along the strength of weight decay, learning curves, and where regularization is needed."""
    from benchmarks.tradeoff import learning_curves, needed, trade_off

    from wellposed.core.drawing import standalone
    from wellposed.core.files import write_atomically

    strengths = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
    for name in asked:
        found = wp.bias_variance_path(problem(data, name, 100), LAST, "terms.l2", strengths)
        print(found, "\n", flush=True)
        write_atomically(out / f"bias_variance_{name}.svg", standalone(trade_off(f"bv-{name}", found)))
        curve = capacities(problem(data, name, 400))
        print(curve, flush=True)
        write_atomically(out / f"learning_curve_{name}.svg", standalone(learning_curves(f"lc-{name}", curve)))
        pairs = [("small", "small, regularized"), ("large", "large, regularized")]
        for plain, regularized in pairs:
            print(
                plain,
                {
                    n: f"{d.estimate:.3g} [{d.low:.3g}, {d.high:.3g}]"
                    for n, d in curve.differences(plain, regularized).items()
                },
            )
        write_atomically(out / f"regularization_needed_{name}.svg", standalone(needed(f"rn-{name}", curve, pairs)))
        print()


def capacities(given: wp.Problem) -> LearningCurve:
    """A small and a large network, each plain and regularized."""
    recipes = {
        f"{size}{kind}": recipe.replace(model={"width": width})
        for size, width in (("small", 4), ("large", 128))
        for kind, recipe in (("", LAST), (", regularized", DECAYED))
    }
    return learning_curve(given, recipes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "extrapolation", "fresh", "figures"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("."))
    asked = parser.parse_args()
    began = time.monotonic()
    if asked.what == "figures":
        figures(asked.data, asked.out)
    else:
        ways = {"coverage": coverage, "extrapolation": extrapolation, "fresh": lambda data: extrapolation(data, FRESH)}
        ways[asked.what](asked.data)
    print(f"\n{time.monotonic() - began:.0f} s")
