"""References on the same rows: a constant, a linear model, histogram boosting. Untuned, as people know them."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wellposed.core.errors import require
from wellposed.core.shared import warnings_apart
from wellposed.data.arrays import Arrays, Source, Subset
from wellposed.training.problem import Problem

ROUNDS, FIRST, GROWTH = 100, {"linear": 10, "boosting": 1}, 5
"""Rounds of boosting and of the linear model's solver, scikit-learn's default, how many are timed before the rest,
and by how much the parts grow in which the rest comes."""


SMALL = 200_000
"""Numbers in a table below which several threads only wait for each other, and on a busy machine for a long time."""


@dataclass(frozen=True)
class References:
    """Scores on test and validation rows by name, and what had to be cut."""

    test: dict[str, float]
    valid: dict[str, float]
    notes: tuple[str, ...] = ()


def references(problem: Problem, deadline: float = math.inf) -> References:
    """Fit each reference on the training rows and score it with the problem's metric.

    Args:
        deadline: value of ``time.monotonic()`` by which all should be done; a reference that would take longer is left out,
            and that is said.
    """
    data, metric = problem.prepared, problem.metric
    if metric is None or data.test is None or len(data.shape) != 1 or not _is_table(data.train_clean):
        return References({}, {})
    x, y = _matrix(data.train_clean)
    weight = _fit_weights(problem, y)
    sides = {"test": _matrix(data.test), "valid": _matrix(data.valid)}
    weights = {"test": data.test.weight, "valid": data.valid.weight}
    scores: dict[str, dict[str, float]] = {"test": {}, "valid": {}}
    notes = []
    began = time.monotonic()
    for name, share in (("constant", 0.0), ("linear", 1 / 3), ("boosting", 1.0)):
        try:
            with few_threads(x):
                model, rounds = _fitted(name, x, y, weight, data.task, began + share * (deadline - began))
                found = {
                    side: metric.score(
                        _outputs(model, inputs, data.task, data.outputs), torch.from_numpy(target), weights[side]
                    )
                    for side, (inputs, target) in sides.items()
                }
        except (ValueError, IndexError, RuntimeError) as error:
            # Somebody's own arrays may be what only their model takes: missing values, several targets.
            notes.append(f"There is no {name} reference: {' '.join(str(error).split('. ')[0].split())}.")
            continue
        if rounds < ROUNDS:
            notes.append(
                f"The {name} reference is left out: the clock cut it after {rounds} of {ROUNDS} rounds. "
                "A larger budget has time for it."
            )
            continue
        for side, score in found.items():
            scores[side][name] = score
    return References(scores["test"], scores["valid"], tuple(notes))


def few_threads(x: np.ndarray) -> contextlib.AbstractContextManager[Any]:
    """One thread for a small table, in fitting and in scoring: ten classes of a hundred trees were scored in 12 s with two."""
    require("sklearn", "tables")
    from threadpoolctl import threadpool_limits

    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(1 if x.size < SMALL else None)
    return limits


def _is_table(source: Source) -> bool:
    root = source.source if isinstance(source, Subset) else source
    return isinstance(root, Arrays) and isinstance(root.inputs, torch.Tensor) and isinstance(root.target, torch.Tensor)


def _matrix(source: Source) -> tuple[np.ndarray, np.ndarray]:
    inputs, target = source.batch(torch.arange(len(source)))
    return inputs.numpy(), target.numpy()


def _fit_weights(problem: Problem, y: np.ndarray) -> np.ndarray | None:
    """What each training row counts in the network's loss: its weight, times that of its class; None where all count alike."""
    own, by_class = problem.prepared.train.weight, getattr(problem.loss.module, "weight", None)
    parts = [] if own is None else [own.numpy().astype(np.float64)]
    if by_class is not None and problem.prepared.task == "classification":
        parts.append(by_class.detach().cpu().numpy().astype(np.float64)[y.astype(np.int64)])
    return np.prod(parts, axis=0) if parts else None


class _Each:
    """A model for each of several targets."""

    def __init__(self, models: list[Any]) -> None:
        self.models = models

    def predict(self, x: np.ndarray) -> np.ndarray:
        """``(rows, targets)``."""
        return np.stack([model.predict(x) for model in self.models], axis=1)


def _fitted(
    name: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, task: str, deadline: float
) -> tuple[Any, int]:
    """The reference, and how many of `ROUNDS` it had: fewer where they would not all be done before the deadline."""
    require("sklearn", "tables")
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    classifying = task == "classification"
    if y.ndim == 2 and not classifying:
        fits = [_fitted(name, x, one, weight, task, deadline) for one in y.T]
        return _Each([model for model, _ in fits]), min(rounds for _, rounds in fits)
    if name == "constant" or (classifying and len(np.unique(y)) < 2):
        return (DummyClassifier() if classifying else DummyRegressor()).fit(x, y, weight), ROUNDS
    if name == "linear" and not classifying:
        return Ridge().fit(x, y, weight), ROUNDS
    boosting = HistGradientBoostingClassifier if classifying else HistGradientBoostingRegressor
    model = LogisticRegression(warm_start=True) if name == "linear" else boosting(random_state=0, warm_start=True)
    rounds, more = 0, FIRST[name]
    with warnings_apart():
        # A linear model that has not converged is what this stops at, and scikit-learn says so each time.
        warnings.simplefilter("ignore")
        while more > 0:
            rounds, began = rounds + more, time.monotonic()
            # Boosting counts all rounds so far, the solver those of this call.
            model.set_params(max_iter=more if name == "linear" else rounds).fit(x, y, weight)
            if int(np.max(model.n_iter_)) < model.max_iter:
                return model, ROUNDS
            now = time.monotonic()
            fit = max(0.0, deadline - now) / max((now - began) / more, 1e-9)
            # In growing parts, so that a machine that slows down is noticed.
            more = int(min(ROUNDS - rounds, fit, GROWTH * more))
    return model, rounds


def _outputs(model: Any, x: np.ndarray, task: str, classes: int) -> torch.Tensor:
    """Scores as our models give them: log-probabilities of all classes, or numbers."""
    if task != "classification":
        return torch.from_numpy(np.asarray(model.predict(x), dtype=np.float64))
    return class_logarithms(model, x, classes)


def class_logarithms(model: Any, x: np.ndarray, classes: int) -> torch.Tensor:
    """``(rows, classes)`` log-probabilities of a fitted classifier; that of a class which it has not seen is the logarithm
    of 1e-12."""
    logs = np.full((len(x), classes), math.log(1e-12))
    logs[:, np.asarray(model.classes_, dtype=int)] = np.log(np.clip(model.predict_proba(x), 1e-12, 1.0))
    return torch.from_numpy(logs)
