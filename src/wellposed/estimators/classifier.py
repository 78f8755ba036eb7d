"""`Classifier`: networks for a table with classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.bayes.calibrators import inverse_temperature
from wellposed.core.checks import Count
from wellposed.core.errors import DataError, InputError, described, first_line, require
from wellposed.estimators.ensemble import HeldOut, Joint
from wellposed.estimators.networks import Networks
from wellposed.estimators.training import EncodedRows
from wellposed.recipe.recipe import Recipe
from wellposed.training.ready_problems import rare_classes

base: Any = require("sklearn.base", "tables")
multiclass: Any = require("sklearn.utils.multiclass", "tables")
validation: Any = require("sklearn.utils.validation", "tables")
class_weights: Any = require("sklearn.utils.class_weight", "tables")

POWERS = (0.1, 10.0)
"""Bounds of the power that calibrates: rows held out are too few to tell more."""
CALIBRATING = 1000
"""Rows by which mixtures are calibrated while recipes are chosen, which is done a hundred times."""
SMALLEST = 1e-30


class Classifier(base.ClassifierMixin, Networks):  # type: ignore[misc]
    """Networks for a table with classes, as many as ``members``, whose mean probabilities are the answer.

    `fit` reads the columns (numbers, truths, dates, categories; any value may be missing), spends the budget on the search for a
    recipe, and trains the networks that are kept: each with another part of the rows held out, which says when its training ends.
    The rows held out from all of them then calibrate the probabilities, and decide which recipes of the search stay.

    Args:
        budget: ``"1m"``, ``"30 recipes"``, ``"200 epochs"``; ``"0"`` searches nothing and trains the default recipe at once. The
            networks that are kept come on top of a budget in recipes or epochs; one in time holds them too.
        members: >= 1, networks; each has a part of the rows held out. With ``time=``, own validation rows or 100,000 rows and more,
            all have the same rows held out and differ by their seeds.
        recipe: a `wellposed.Recipe`, a preset's name or a path, in place of the default one; a search tries it first.
        metric: by which a search chooses: ``accuracy``, or ``balanced_accuracy`` where classes are rare; ``log_loss``, ``auc``, ...
        class_weight: None, ``"balanced"`` or a dict from class to weight, which multiplies sample weights. The probabilities are
            then those of classes that are as frequent as their weights say.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        n_jobs: threads of torch in `fit`; None leaves them as they are, -1 takes all cores.
        random_state: seed; with budgets in recipes or epochs a fit is repeated exactly.
        verbose: show how a search gets on, where a terminal or a notebook watches.
    Attributes:
        classes_: the labels, sorted.
        power_: of the mean probabilities, which calibrates them: ``p^power / sum p^power``, fitted to the rows held out.
        study_: the `Study` of the search; None where nothing was searched: budget ``"0"``, or fewer than 30 different rows.
        members_, held_out_: the networks, and what they say of rows that they have not learned from.
        encoder_: how columns become numbers.
        n_features_in_, feature_names_in_: columns of X, and their names where it is a frame.
    Example:
        >>> import wellposed as wp
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True, as_frame=True)
        >>> model = wp.Classifier("0", members=2, recipe=wp.Recipe(epochs=5), random_state=0).fit(x, y)
        >>> model.predict_proba(x).shape, model.classes_.tolist()
        ((150, 3), [0, 1, 2])
    """

    _classifies = True

    def __init__(
        self,
        budget: str = "1m",
        *,
        members: Count = 5,
        recipe: Recipe | str | Path | None = None,
        metric: str | None = None,
        class_weight: Any = None,
        device: str = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = True,
    ) -> None:
        self.budget, self.members, self.recipe, self.metric = budget, members, recipe, metric
        self.class_weight, self.device, self.n_jobs, self.random_state = class_weight, device, n_jobs, random_state
        self.verbose = verbose

    def predict(self, X: Any) -> Any:
        """``(rows,)`` the likeliest class of each row."""
        chosen = self.predict_proba(X).argmax(1)
        return self.classes_[chosen]

    def predict_proba(self, X: Any) -> Any:
        """``(rows, classes)`` probabilities, in the order of ``classes_``."""
        x = self._x(X)
        logs = self._logs(self.members_.outputs(x), self.members_.weights)
        return (self.power_ * logs).softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> Any:
        """``(rows, classes)`` logarithms of `predict_proba`."""
        return np.log(self.predict_proba(X))

    @staticmethod
    def _logs(outputs: Tensor, weights: Tensor) -> Tensor:
        """Logarithms of the networks' mean probabilities, ``(rows, classes)``."""
        return torch.einsum("k,kro->ro", weights, outputs.softmax(-1)).clamp_min(SMALLEST).log()

    def _target(self, y: Any, *, new: bool = True) -> Any:
        y = validation.column_or_1d(y, warn=True)
        if (absent := int(require("pandas", "tables").isna(y).sum())) and y.dtype.kind == "O":
            raise DataError(f"Input y contains NaN or None in {absent} of {len(y)} rows. Leave these rows out.")
        y = validation.check_array(y, ensure_2d=False, dtype=None, input_name="y", estimator=self)
        multiclass.check_classification_targets(y)
        if new:
            self.classes_ = np.unique(y)
            if len(self.classes_) < 2:
                raise InputError(
                    f"Classification needs at least 2 classes; the target has one class, {self.classes_.tolist()[0]!r}."
                )
        codes = require("pandas", "tables").Index(self.classes_).get_indexer(y)
        if (codes < 0).any():
            raise InputError(f"These rows have the class {y[codes < 0].tolist()[0]!r}, which y had not in fit.")
        return codes

    def _weights(self, y: Any) -> Any:
        if self.class_weight is None:
            return None
        try:
            weights = class_weights.compute_sample_weight(self.class_weight, self.classes_[y])
            return validation._check_sample_weight(weights, y[:, None], ensure_non_negative=True)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"class_weight= must be None, 'balanced' or a dict from each class to a number; {described(self.class_weight)} "
                f"is not possible: {first_line(error)}."
            ) from None

    def _usual_metric(self, y: Any) -> str | None:
        return "balanced_accuracy" if self.class_weight is not None or rare_classes(y) else None

    def _scaled(self, y: Any) -> Tensor:
        return torch.as_tensor(y, dtype=torch.int64)

    @property
    def _outputs(self) -> int:
        return len(self.classes_)

    def _row_losses(self, outputs: Tensor, weights: Tensor, y: Tensor) -> Tensor:
        return -self._logs(outputs, weights).gather(1, y[:, None])[:, 0]

    def _joint(self) -> Joint:
        return Joint(self.members_, True, torch.zeros(()), torch.ones(()), self.power_)

    def _mixture_loss(self, parts: Sequence[tuple[Tensor, Tensor, EncodedRows]]) -> float:
        """The logarithmic loss of the mean probabilities once they are calibrated: how sure networks are decides nothing."""
        logs = torch.cat([self._logs(outputs, weights) for outputs, weights, _ in parts])
        y, counts = torch.cat([rows.y for *_, rows in parts]), torch.cat([rows.counts for *_, rows in parts])
        some = slice(None, None, max(1, len(y) // CALIBRATING))  # of parts in turn, so that all are among them
        costs = -(_power(logs[some], y[some], counts[some]) * logs).log_softmax(1).gather(1, y[:, None])[:, 0]
        return float(costs @ counts / counts.sum())

    def _settle(self, held: HeldOut) -> None:
        logs = held.each(self._logs)
        self.power_ = _power(logs, torch.cat(held.y), torch.cat(held.counts))


def _power(logs: Tensor, y: Tensor, counts: Tensor) -> float:
    """The power of probabilities that calibrates them; 1 where every row is right, or all are of one class."""
    right = logs.gather(1, y[:, None])[:, 0] == logs.max(1).values
    if bool(right.all()) or bool((y == y[0]).all()):
        return 1.0
    return float(np.clip(inverse_temperature(logs, y, counts), *POWERS))
