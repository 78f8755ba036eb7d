"""The estimators at a budget against scikit-learn's defaults, on real tables.

    python benchmarks/estimators.py FOLDER_OF_TABLES [--budget 0] [--seeds 3] [--rows 2000] [--only adult,car]
        [--peers wellposed,mlp,boosting,linear,xgboost,catboost,realmlp,tabm] [--work] [--out results.json]

Of each table a fifth is held out, stratified by class, and at most ``--rows`` of the other rows are learned from. Balanced accuracy
or R2, the logarithmic loss of classes, and seconds, each a mean over seeds. The peers have their default settings on what their
users do with a table: numbers are standardized and missing ones filled with the median, categories are one-hot; boosting takes
categories as they are. XGBoost, CatBoost, RealMLP and TabM (tuned defaults) are compared where they are asked for and installed
(`xgboost-cpu`, `catboost`, `pytabkit[models]`). With ``--work`` all clocks, that of the budget too, count the work of this
process, so that what else a machine does takes no part.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
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
PEERS = "wellposed,mlp,boosting,linear"


def prepared(model):
    """A model of scikit-learn's behind what its users do with a table."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (categories, make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(columns, model)


def model_of(peer: str, classifies: bool, seed: int, settings: dict[str, object]):
    """One of the estimators that are compared, all with torch's number of threads."""
    threads = torch.get_num_threads()
    if peer == "wellposed":
        return (wp.Classifier if classifies else wp.Regressor)(random_state=seed, **settings)
    if peer == "mlp":
        return prepared((MLPClassifier if classifies else MLPRegressor)(random_state=seed))
    if peer == "boosting":
        boosting = HistGradientBoostingClassifier if classifies else HistGradientBoostingRegressor
        return boosting(random_state=seed, categorical_features="from_dtype")
    if peer == "linear":
        return prepared(LogisticRegression(max_iter=1000) if classifies else Ridge())
    if peer == "xgboost":
        import xgboost

        boosting = xgboost.XGBClassifier if classifies else xgboost.XGBRegressor
        return Coded(boosting(random_state=seed, enable_categorical=True, n_jobs=threads))
    if peer == "catboost":
        import catboost

        boosting = catboost.CatBoostClassifier if classifies else catboost.CatBoostRegressor
        return Coded(
            boosting(random_state=seed, verbose=False, allow_writing_files=False, thread_count=threads), texts=True
        )
    if peer in ("realmlp", "tabm"):
        import pytabkit

        kind = "Classifier" if classifies else "Regressor"
        made = getattr(pytabkit, f"{'RealMLP_TD' if peer == 'realmlp' else 'TabM_D'}_{kind}")
        numbers = (
            SimpleImputer(strategy="median"),
            make_column_selector(dtype_include="number"),
        )  # it takes none missing
        filled = make_column_transformer(numbers, remainder="passthrough", verbose_feature_names_out=False)
        return make_pipeline(
            filled.set_output(transform="pandas"), made(device="cpu", random_state=seed, n_threads=threads)
        )
    raise SystemExit(f"There is no peer {peer!r}.")


class Coded:
    """Boosting that wants its classes as 0, 1, ... and, with ``texts``, its categories as texts without missing ones."""

    def __init__(self, model, texts: bool = False) -> None:
        self.model, self.texts = model, texts

    def _read(self, X):
        names = list(X.columns[[isinstance(kind, pd.CategoricalDtype) for kind in X.dtypes]])
        return (
            X.assign(**{n: X[n].astype(object).fillna("missing").map(str) for n in names}) if self.texts else X
        ), names

    def fit(self, X, y):
        X, names = self._read(X)
        self.classes_, codes = (
            np.unique(y, return_inverse=True) if hasattr(self.model, "predict_proba") else (None, np.asarray(y))
        )
        self.model.fit(X, codes, **({"cat_features": names} if self.texts else {}))

    def predict(self, X):
        found = np.asarray(self.model.predict(self._read(X)[0])).reshape(len(X))
        return found if self.classes_ is None else self.classes_[found.astype(int)]

    def predict_proba(self, X):
        return self.model.predict_proba(self._read(X)[0])


def compared(
    path: Path, seed: int, rows: int, peers: list[str], settings: dict[str, object]
) -> dict[str, dict[str, float]]:
    """Scores of every peer on one split of one table."""
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
    for peer in peers:
        model = model_of(peer, classifies, seed, settings)
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
    parser.add_argument("--peers", default=PEERS)
    parser.add_argument("--work", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.work:
        time.monotonic = time.perf_counter = time.process_time
    settings = {"budget": options.budget, "members": options.members}
    peers = options.peers.split(",")
    only = [name for name in options.only.split(",") if name]
    results = {}
    print("| table | " + " | ".join(peers) + " | log loss | seconds |")
    print("|" + "---|" * (len(peers) + 3))
    for path in sorted(options.folder.glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        if only and name not in only:
            continue
        each = [compared(path, seed, options.rows, peers, settings) for seed in range(options.seeds)]
        results[name] = each
        mean = {p: {k: float(np.mean([one[p][k] for one in each])) for k in each[0][p]} for p in peers}
        losses = ", ".join(f"{mean[p]['log_loss']:.3f}" for p in peers if "log_loss" in mean[p]) or "-"
        seconds = ", ".join(f"{mean[p]['seconds']:.1f}" for p in peers)
        print(
            f"| {name} | " + " | ".join(f"{mean[p]['score']:.4f}" for p in peers) + f" | {losses} | {seconds} |",
            flush=True,
        )
        if options.out:
            options.out.write_text(json.dumps(results))
    scores = np.array([[np.mean([one[p]["score"] for one in each]) for p in peers] for each in results.values()])
    ranks = (scores[:, None, :] > scores[:, :, None]).sum(2) + (
        (scores[:, None, :] == scores[:, :, None]).sum(2) + 1
    ) / 2
    print("mean rank: " + ", ".join(f"{p} {rank:.2f}" for p, rank in zip(peers, ranks.mean(0), strict=True)))


if __name__ == "__main__":
    main()
