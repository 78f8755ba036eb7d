"""References on the same rows: a constant, a linear model, histogram boosting. Untuned, as people know them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wellposed.core.errors import require
from wellposed.core.random import numpy_generator
from wellposed.data.arrays import Arrays, Source, Subset
from wellposed.training.problem import Problem

COST = {"linear": 2.5e-7, "boosting": 6e-8}
"""Seconds a row, feature and output on two slow cores, measured; rows are cut where this would pass the time allowed."""


@dataclass(frozen=True)
class References:
    """Scores on test and validation rows by name, and what had to be cut."""

    test: dict[str, float]
    valid: dict[str, float]
    notes: tuple[str, ...] = ()


def references(problem: Problem, seconds: float = math.inf) -> References:
    """Fit each reference on the training rows and score it with the problem's metric.

    Args:
        seconds: about how long all of them may take; fewer rows are used where they would take longer, and that is said.
    """
    data, metric = problem.prepared, problem.metric
    if metric is None or data.test is None or len(data.shape) != 1:
        return References({}, {})
    x, y = _matrix(data.train_clean)
    sides = {"test": _matrix(data.test), "valid": _matrix(data.valid)}
    scores: dict[str, dict[str, float]] = {"test": {}, "valid": {}}
    notes = []
    for name in ("constant", "linear", "boosting"):
        rows = _affordable(name, x, data.outputs, seconds / 2)
        index = slice(None) if rows >= len(x) else numpy_generator(0, "reference").permutation(len(x))[:rows]
        if rows < len(x):
            notes.append(f"The reference {name!r} was trained on {rows} of {len(x)} rows to stay within the budget.")
        model = _fitted(name, x[index], y[index], data.task)
        for side, (inputs, target) in sides.items():
            outputs = _outputs(model, inputs, data.task, data.outputs)
            scores[side][name] = metric.score(outputs, torch.from_numpy(target))
    return References(scores["test"], scores["valid"], tuple(notes))


def _matrix(source: Source) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(source, (Arrays, Subset))
    inputs, target = source.batch(torch.arange(len(source)))
    return inputs.numpy(), target.numpy()


def _affordable(name: str, x: np.ndarray, outputs: int, seconds: float) -> int:
    """How many rows the reference can be trained on in the time."""
    if name not in COST or math.isinf(seconds):
        return len(x)
    each = COST[name] * x.shape[1] * (outputs if outputs > 2 else 1) * 100
    return max(200, int(seconds / each))


def _fitted(name: str, x: np.ndarray, y: np.ndarray, task: str) -> Any:
    require("sklearn", "tables")
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    classifying = task == "classification"
    models: dict[str, Any] = {
        "constant": DummyClassifier() if classifying else DummyRegressor(),
        "linear": LogisticRegression(max_iter=100) if classifying else Ridge(),
        "boosting": (HistGradientBoostingClassifier if classifying else HistGradientBoostingRegressor)(random_state=0),
    }
    with warnings.catch_warnings():
        # An unconverged logistic regression is still a reference, and scikit-learn says so for every table.
        warnings.simplefilter("ignore")
        if classifying and name != "constant" and len(np.unique(y)) < 2:
            return models["constant"].fit(x, y)
        return models[name].fit(x, y)


def _outputs(model: Any, x: np.ndarray, task: str, classes: int) -> torch.Tensor:
    """Scores as our models give them: log-probabilities of all classes, or numbers."""
    if task != "classification":
        return torch.from_numpy(np.asarray(model.predict(x), dtype=np.float64))
    logs = np.full((len(x), classes), math.log(1e-12))
    logs[:, np.asarray(model.classes_, dtype=int)] = np.log(np.clip(model.predict_proba(x), 1e-12, 1.0))
    return torch.from_numpy(logs)
