"""Paths of strengths beside scikit-learn's: coefficients on real tables, and false discoveries where the support is planted.

    python benchmarks/path.py [--tables FOLDER] [--only NAME ...]

Every table is a lasso problem: columns are standardized, classes are taken as numbers, and the right answer is
``sklearn.linear_model.lasso_path`` at a tolerance of 1e-12, on the same alphas. Where two columns are equal the weights
are not unique, and predictions are. A planted problem has 5 of 100 inputs that
matter; ``false`` counts the others that a choice keeps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from sklearn.linear_model import LassoCV, lasso_path

import wellposed as wp

torch.set_num_threads(1)
MOST_ROWS, POINTS, RATIO = 300, 8, 0.05
OWN = ("diabetes", "iris", "wine", "breast_cancer", "digits")
FILES = ("madelon", "isolet", "colon", "mfeat-factors", "concrete", "energy", "yacht", "power-plant")


def table(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Standardized inputs and target; None where the file is absent."""
    if name in OWN:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    else:
        file = folder / f"{name}.csv.gz"
        if not file.is_file():
            return None
        frame = pd.read_csv(file).select_dtypes("number").dropna()
        x, y = frame.drop(columns="target").to_numpy(float), frame["target"].to_numpy(float)
    kept = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    x, y = x[kept].astype(float), y[kept].astype(float)
    x = x[:, x.std(0) > 0]
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def path_of(x: np.ndarray, y: np.ndarray, **given: object) -> wp.Path:
    """Trained on all rows."""
    problem = wp.Problem(
        lambda: torch.nn.Linear(x.shape[1], 1),
        "squared_error",
        wp.Data(train=(x, y[:, None]), valid=0.2 if given else (x, y[:, None])),
    )
    return wp.strength_path(problem, points=POINTS, ratio=RATIO, tolerance=1e-8, **given)


def compare(name: str, x: np.ndarray, y: np.ndarray) -> str:
    """One row of the table."""
    began = time.process_time()
    path = path_of(x, y)
    ours_took = time.process_time() - began
    began = time.process_time()
    theirs = lasso_path(x, y, alphas=[p.strength / 2 for p in path.points], tol=1e-12, max_iter=1_000_000)[1]
    theirs_took = time.process_time() - began
    ours = np.array([p.weights["weight"].numpy()[0] for p in path.points]).T
    same = np.array_equal(ours != 0, theirs != 0)
    open_points = sum(not p.converged for p in path.points)
    return (
        f"| {name} | {len(x)} x {x.shape[1]} | {np.count_nonzero(theirs[:, -1])} | {np.count_nonzero(ours[:, -1])} | "
        f"{'yes' if same else 'no'} | "
        f"{abs(ours - theirs).max():.1e} | {abs(x @ (ours - theirs)).max():.1e} | {open_points} | "
        f"{ours_took:.1f} s | {theirs_took:.2f} s |"
    )


def planted(seed: int, rows: int = 200, inputs: int = 100) -> str:
    """One row: true and false inputs of the strongest model within one standard error, and of LassoCV."""
    source = np.random.default_rng(seed)
    x = source.normal(size=(rows, inputs))
    truth = set(range(5))
    y = x[:, :5] @ np.array([1.0, -1.0, 0.8, 0.8, -0.6]) + source.normal(size=rows)
    path = path_of(x, y, folds=5)
    ours, first = set(path.one_se.support), set(path.ranking()[:5])
    theirs = set(np.flatnonzero(LassoCV(alphas=[p.strength / 2 for p in path.points], cv=5).fit(x, y).coef_))
    return (
        f"| {seed} | {len(ours & truth)} and {len(ours - truth)} | {len(first & truth)} and {len(first - truth)} | "
        f"{len(theirs & truth)} and {len(theirs - truth)} |"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", type=Path, default=Path("../shared/data/tables"))
    parser.add_argument("--only", nargs="*", default=[*OWN, *FILES, "planted"])
    given = parser.parse_args()
    print(
        "| table | rows x inputs | kept, sklearn | kept, ours | same zeros | weights | predictions | open | ours | sklearn |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in given.only:
        found = None if name == "planted" else table(name, given.tables)
        if found is not None:
            print(compare(name, *found), flush=True)
    if "planted" in given.only:
        print("\n| seed | one SE: true and false | first five | LassoCV |\n|---|---|---|---|")
        for seed in range(3):
            print(planted(seed), flush=True)


if __name__ == "__main__":
    main()
