"""References on the same rows: a constant, a linear model, histogram boosting. Untuned, as people know them.

They are fitted to what the loss asks for (classes, labels 0 and 1, probabilities, amounts, a median, a quantile, counts) with
the rows' weights, answer as the network does (log-probabilities, logits, numbers, one for each output), and are scored by the
same function row by row, so that the network is compared with them in pairs.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.core.errors import require
from wellposed.core.shared import warnings_apart
from wellposed.data.arrays import Arrays, Source, Subset
from wellposed.losses.regression import AbsoluteError, Quantile
from wellposed.losses.targets import IGNORED, need_shares
from wellposed.search.linear_quantile import LinearQuantile
from wellposed.training.evaluate import evaluate, signed_rows
from wellposed.training.problem import Problem

ROUNDS, FIRST, GROWTH = 100, {"linear": 10, "boosting": 1}, 5
"""Rounds of boosting and of the linear model's solver, scikit-learn's default, how many are timed before the rest,
and by how much the parts grow in which the rest comes."""
SMALL = 200_000
"""Numbers in a table below which several threads only wait for each other, and on a busy machine for a long time."""
MOST_NUMBERS = 100_000_000
"""Numbers in the table in which each row stands once for each class that it may be."""
TINY = 1e-12
"""Of a class that a model holds impossible, the probability whose logarithm is taken."""


@dataclass(frozen=True)
class References:
    """Scores on the test rows by name, what each row adds to them (higher is better), and what had to be cut."""

    scores: dict[str, float] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """What a reference is to answer.

    Attributes:
        columns: what each of its models is fitted to: class indices or amounts ``(n,)``, or how much a row counts as one of each
            class, ``(n, classes)``.
        outputs: makes of the models' answers on other rows what a network would put out.
    """

    columns: list[np.ndarray]
    classifies: bool
    outputs: Callable[[list[np.ndarray]], Tensor]


def references(problem: Problem, deadline: float = math.inf) -> References:
    """Fit each reference on the training rows and score it on the test rows, with the problem's metric, or its loss without one.

    Args:
        deadline: value of ``time.monotonic()`` by which all should be done; a reference that would take longer is left out,
            and that is said.
    """
    data = problem.prepared
    if data.test is None or len(data.shape) != 1 or not _is_table(data.train_clean):
        return References()
    if problem.loss.outputs_for(3) != 3:  # a distribution of each number, or classes in an order
        name = problem.loss.name
        said = f"There are no references: scikit-learn's models do not answer with the outputs that the loss {name!r} needs."
        return References(notes=(said,))
    (x, y), (inputs, target) = _rows(data.train_clean), _rows(data.test)
    if data.encoder is not None:
        x, inputs = x[:, data.encoder.whole], inputs[:, data.encoder.whole]
    weight = _fit_weights(problem, y)
    found, notes = References(), []
    imported = time.monotonic()
    for module in ("dummy", "ensemble", "linear_model"):
        require(f"sklearn.{module}", "tables")
    began = time.monotonic()
    deadline += began - imported  # an import is no fitting, and a linear model would be cut by it
    for name, share in (("constant", 0.0), ("linear", 1 / 3), ("boosting", 1.0)):
        until = began + share * (deadline - began)
        try:
            asked = _asked(problem, y, target)
            with few_threads(x):
                fitted = [
                    _fitted(name, _model(name, problem, asked, until), x, one, weight, until) for one in asked.columns
                ]
                rounds = min(rounds for _, rounds in fitted)
                outputs = asked.outputs([answers(model, inputs, asked.classifies) for model, _ in fitted])
            score, rows = _scored(problem, outputs, target)
        except (ValueError, IndexError, RuntimeError) as error:
            # Somebody's own arrays may be what only their model takes: missing values, targets of another kind.
            notes.append(f"There is no {name} reference: {' '.join(str(error).split('. ')[0].split())}.")
            continue
        if rounds < ROUNDS:
            notes.append(
                f"The {name} reference is left out: the clock cut it after {rounds} of {ROUNDS} rounds. "
                "A larger budget has time for it."
            )
            continue
        found.scores[name], found.rows[name] = score, rows
    return References(found.scores, found.rows, tuple(notes))


def _fit_weights(problem: Problem, y: Tensor) -> np.ndarray | None:
    """What each training row counts in the network's loss: its weight, times that of its class; None where all count alike."""
    weight, by_class = problem.prepared.train_clean.weight, getattr(problem.loss.module, "weight", None)
    if by_class is not None and not y.is_floating_point() and y.ndim == 1 and problem.loss.classes_are_indices:
        of_class = by_class.detach().cpu().double()[y.clamp_min(0)]  # what is left out counts nothing anyway
        weight = of_class if weight is None else of_class * weight
    return None if weight is None else weight.numpy()


def few_threads(x: np.ndarray) -> contextlib.AbstractContextManager[Any]:
    """One thread for a small table, in fitting and in scoring: ten classes of a hundred trees were scored in 12 s with two."""
    require("sklearn", "tables")
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if x.size < SMALL else None)  # type: ignore[no-any-return]


def _is_table(source: Source) -> bool:
    root = source.source if isinstance(source, Subset) else source
    return isinstance(root, Arrays) and isinstance(root.inputs, torch.Tensor) and isinstance(root.target, torch.Tensor)


def _rows(source: Source) -> tuple[np.ndarray, Tensor]:
    inputs, target = source.batch(torch.arange(len(source)))
    return inputs.numpy(), target


# --- what is asked for, and how it is answered


def _asked(problem: Problem, y: Tensor, test: Tensor) -> _Asked:
    """What the loss, or where it is not known the metric and the target's type, make of the training targets ``y``."""
    if y.ndim > 2:
        raise ValueError(f"targets of the shape {tuple(y.shape)} have more than one axis of outputs")
    loss, metric = problem.loss, problem.metric
    several = y.ndim == 2 and y.shape[1] > 1
    labels = loss.labels
    if labels is None and loss.task is None:
        whole = not y.is_floating_point() and not several and problem.prepared.task == "classification"
        labels = "indices" if whole else "shares" if metric is not None and metric.classifies else None
    if labels == "indices":
        if several and y.is_floating_point():
            need_shares("a reference of classes", y)
            by_class = getattr(loss.module, "weight", None)
            counts = y.double() if by_class is None else y.double() * by_class.detach().cpu()
            return _Asked([counts.numpy()], True, lambda answers: log_shares(answers[0], y.shape[1]))
        classes = max(int(max(y.max(), test.max())) + 1, problem.prepared.outputs)
        index = y.reshape(-1).numpy().astype(np.int64)
        return _Asked([index], True, lambda answers: log_shares(answers[0], classes))
    columns = y.reshape(len(y), -1).to(torch.float64)
    if labels is None:
        shape = (-1, *y.shape[1:])

        def numbers(answers: list[np.ndarray]) -> Tensor:
            found = torch.from_numpy(np.stack(answers, axis=1)).reshape(shape)
            return found.clamp_min(TINY).log() if loss.of_log_rates else found

        return _Asked(list(columns.T.numpy()), False, numbers)
    if labels == "signs":
        columns = (columns + 1) / 2
    need_shares("a reference of labels", columns)

    def logits(answers: list[np.ndarray]) -> Tensor:
        both = torch.stack([log_shares(answer, 2) for answer in answers], dim=1)
        found = (both[..., 1] - both[..., 0]).reshape(-1, *y.shape[1:])
        return found.sigmoid() if isinstance(loss.module, nn.BCELoss) else found

    return _Asked([one.numpy() for one in torch.stack([1 - columns, columns], dim=-1).unbind(1)], True, logits)


def log_shares(answer: np.ndarray, classes: int) -> Tensor:
    """Logarithms of probabilities, also of the classes that no training row had."""
    logs = np.full((len(answer), classes), math.log(TINY))
    logs[:, : answer.shape[1]] = np.log(np.clip(answer, TINY, 1.0))
    return torch.from_numpy(logs)


def answers(model: Any, x: np.ndarray, classifies: bool) -> np.ndarray:
    """Numbers ``(n,)``, or probabilities ``(n, classes)`` of the classes from 0 to the largest that the model knows."""
    if not classifies:
        return np.asarray(model.predict(x), dtype=np.float64)
    found = np.zeros((len(x), int(max(model.classes_)) + 1))
    found[:, np.asarray(model.classes_, dtype=int)] = model.predict_proba(x)
    return found


def _scored(problem: Problem, outputs: Tensor, target: Tensor) -> tuple[float, np.ndarray]:
    """The score as people read it and what each row adds, as `wellposed.training.run.Run` has them of a network."""
    test = problem.prepared.test
    weights = None if test is None or test.weight is None else [test.weight]
    measured = evaluate(
        nn.Identity(), [(outputs, target)], problem.loss, problem.metric, device=torch.device("cpu"), weights=weights, by_row=True
    )  # fmt: skip
    if measured.metric_rows is not None and problem.metric is not None:
        return measured.metric, signed_rows(measured.metric_rows, problem.metric.higher_is_better)
    return measured.loss.mean, signed_rows(measured.loss.rows, higher_is_better=False)


# --- scikit-learn's models


def _model(name: str, problem: Problem, asked: _Asked, deadline: float) -> Any:
    """scikit-learn's model with its defaults: of classes, or of the mean or rate that the loss asks for; of a median or quantile
    its linear model is `LinearQuantile`."""
    require("sklearn", "tables")
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

    if asked.classifies:
        constant, linear, boosting = DummyClassifier(), LogisticRegression(), HistGradientBoostingClassifier()
    else:
        constant, linear, boosting = DummyRegressor(), Ridge(), HistGradientBoostingRegressor()
        loss = problem.loss.criterion
        if isinstance(loss, Quantile):
            linear = LinearQuantile(loss.level, deadline)
            constant.set_params(strategy="quantile", quantile=loss.level)
            boosting.set_params(loss="quantile", quantile=loss.level)
        elif isinstance(loss, AbsoluteError) or isinstance(problem.loss.module, nn.L1Loss):
            linear = LinearQuantile(0.5, deadline)
            constant.set_params(strategy="median")
            boosting.set_params(loss="absolute_error")
        elif problem.loss.of_log_rates:
            linear, boosting = PoissonRegressor(), boosting.set_params(loss="poisson")
    return {"constant": constant, "linear": linear, "boosting": boosting.set_params(random_state=0)}[name]


def _fitted(
    name: str, model: Any, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, deadline: float
) -> tuple[Any, int]:
    """The reference, and how many of `ROUNDS` it had: fewer where they would not all be done before the deadline."""
    from sklearn.dummy import DummyClassifier

    if y.ndim == 2:  # a row for each class that a row may be, which counts as its share: the cost is the same
        if int((y > 0).sum()) * x.shape[1] > MOST_NUMBERS:
            raise ValueError("the targets give so many classes to each row that a row for each would not fit in memory")
        rows, labels = np.nonzero(y > 0)
        counts = y[rows, labels] * (1.0 if weight is None else weight[rows])
        x, y, weight = x[rows], labels.astype(np.int64), counts
    kept = y != IGNORED if y.dtype == np.int64 else np.ones(len(y), dtype=bool)
    data = (x[kept], y[kept], None if weight is None else weight[kept])
    if y.dtype == np.int64 and len(np.unique(y[kept])) < 2:
        model = DummyClassifier()
    if isinstance(model, LinearQuantile):
        return model.fit(*data), ROUNDS if model.solved else model.steps
    if not hasattr(model, "warm_start") or not hasattr(model, "max_iter"):
        return model.fit(*data), ROUNDS
    model.set_params(warm_start=True)
    rounds, more = 0, FIRST[name]
    with warnings_apart():
        # A linear model that has not converged is what this stops at, and scikit-learn says so each time.
        warnings.simplefilter("ignore")
        while more > 0:
            rounds, began = rounds + more, time.monotonic()
            # Boosting counts all rounds so far, the solver those of this call.
            model.set_params(max_iter=more if name == "linear" else rounds).fit(*data)
            if int(np.max(model.n_iter_)) < model.max_iter:
                return model, ROUNDS
            now = time.monotonic()
            fit = max(0.0, deadline - now) / max((now - began) / more, 1e-9)
            # In growing parts, so that a machine that slows down is noticed.
            more = int(min(ROUNDS - rounds, fit, GROWTH * more))
    return model, rounds
