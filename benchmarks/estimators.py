"""The estimators at a budget against scikit-learn's defaults, on real tables.

    python benchmarks/estimators.py FOLDER_OF_TABLES [--budget 0] [--seeds 3] [--rows 2000] [--only adult,car] [--out results.json]

Of each table a fifth is held out, stratified by class, and at most ``--rows`` of the other rows are learned from. Balanced accuracy
or R2, the logarithmic loss of classes, and seconds, each a mean over seeds. The peers have their default settings on what their
users do with a table: numbers are standardized and missing ones filled with the median, categories are one-hot; boosting takes
categories as they are.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import wellposed as wp

NUMBERS = {"california-housing", "concrete", "diamonds", "energy", "power-plant", "yacht"}
PEERS = ("wellposed", "mlp", "boosting", "linear")


def prepared(model):
    """A model of scikit-learn's behind what its users do with a table."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (categories, make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(columns, model)


def models(classifies: bool, seed: int, settings: dict[str, object]) -> dict[str, object]:
    """The estimators that are compared, by name."""
    boosting = HistGradientBoostingClassifier if classifies else HistGradientBoostingRegressor
    return {
        "wellposed": (wp.Classifier if classifies else wp.Regressor)(random_state=seed, **settings),
        "mlp": prepared((MLPClassifier if classifies else MLPRegressor)(random_state=seed)),
        "boosting": boosting(random_state=seed, categorical_features="from_dtype"),
        "linear": prepared(LogisticRegression(max_iter=1000) if classifies else Ridge()),
    }


def compared(path: Path, seed: int, rows: int, settings: dict[str, object]) -> dict[str, dict[str, float]]:
    """Scores of every model on one split of one table."""
    frame = pd.read_csv(path)
    name = path.name.removesuffix(".csv.gz")
    X, y = frame.drop(columns="target"), frame["target"]
    for column in X.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in X.dtypes]]:
        X[column] = X[column].astype("category")
    classifies = name not in NUMBERS
    labels = y if classifies else None
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=seed, stratify=labels)
    if len(X) > rows:
        X, _, y, _ = train_test_split(X, y, train_size=rows, random_state=seed, stratify=y if classifies else None)
    there = X.columns[X.notna().any()]  # scikit-learn's boosting does not take a column without a value
    X, X_test = X[there], X_test[there]
    found = {}
    for peer, model in models(classifies, seed, settings).items():
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y)
            said = {"seconds": time.monotonic() - began}
            if classifies:
                said["score"] = balanced_accuracy_score(y_test, model.predict(X_test))
                said["log_loss"] = log_loss(y_test, model.predict_proba(X_test), labels=model.classes_)
            else:
                said["score"] = r2_score(y_test, model.predict(X_test))
        found[peer] = said
    return found


def main() -> None:
    """Print a row for each table, and the mean rank of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", default="0")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = {"budget": options.budget, "members": options.members}
    only = [name for name in options.only.split(",") if name]
    results = {}
    print("| table | " + " | ".join(PEERS) + " | log loss | seconds |")
    print("|" + "---|" * (len(PEERS) + 3))
    for path in sorted(options.folder.glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        if only and name not in only:
            continue
        each = [compared(path, seed, options.rows, settings) for seed in range(options.seeds)]
        results[name] = each
        mean = {p: {k: float(np.mean([one[p][k] for one in each])) for k in each[0][p]} for p in PEERS}
        losses = ", ".join(f"{mean[p]['log_loss']:.3f}" for p in PEERS if "log_loss" in mean[p]) or "-"
        seconds = ", ".join(f"{mean[p]['seconds']:.1f}" for p in PEERS)
        print(
            f"| {name} | " + " | ".join(f"{mean[p]['score']:.4f}" for p in PEERS) + f" | {losses} | {seconds} |",
            flush=True,
        )
        if options.out:
            options.out.write_text(json.dumps(results))
    scores = np.array([[np.mean([one[p]["score"] for one in each]) for p in PEERS] for each in results.values()])
    ranks = (scores[:, None, :] > scores[:, :, None]).sum(2) + (
        (scores[:, None, :] == scores[:, :, None]).sum(2) + 1
    ) / 2
    print("mean rank: " + ", ".join(f"{p} {rank:.2f}" for p, rank in zip(PEERS, ranks.mean(0), strict=True)))


if __name__ == "__main__":
    main()
