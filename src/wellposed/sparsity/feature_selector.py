"""`FeatureSelector`: the inputs of a path as a transformer of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, require
from wellposed.data.data import Data
from wellposed.penalties.hierarchical import Hierarchical
from wellposed.sparsity.select import LinearOrSkip, select
from wellposed.training.problem import Problem

base: Any = require("sklearn.base", "tables")
selection: Any = require("sklearn.feature_selection", "tables")
multiclass: Any = require("sklearn.utils.multiclass", "tables")
validation: Any = require("sklearn.utils.validation", "tables")


@checked
class FeatureSelector(selection.SelectorMixin, base.BaseEstimator):  # type: ignore[misc]
    """Keep the columns that a path of strengths keeps: whole inputs, by a group lasso or LassoNet's hierarchy.

    A frame with columns that are no numbers is encoded first; what is made of one column enters and leaves together.
    Arrays and numeric frames are standardized.

    Args:
        k: >= 1, how many columns; None takes the strongest model within one standard error of the best.
        hidden: >= 0 units of a network beside the linear part; 0 selects by a linear model.
        hierarchy: >= 0, how much of an input the network may use for its linear effect; with hidden units only.
        task: ``"classification"`` or ``"regression"``; None lets the target decide, as scikit-learn does.
        points, folds, steps, seed: see `wellposed.strength_path`; folds are not needed where ``k`` is given.
    Attributes:
        selection_: the `Selection`, with its path.
        importances_: ``(columns,)``, the strength up to which each is in the model.
    Example:
        >>> import wellposed as wp
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> wp.FeatureSelector(k=2, points=8).fit(x, y).get_support(indices=True).tolist()
        [2, 3]
    """

    def __init__(
        self,
        k: int | None = None,
        hidden: int = 0,
        hierarchy: float = 10.0,
        task: str | None = None,
        points: int = 30,
        folds: int = 5,
        steps: int = 1000,
        seed: int = 0,
    ) -> None:
        self.k, self.hidden, self.hierarchy, self.task = k, hidden, hierarchy, task
        self.points, self.folds, self.steps, self.seed = points, folds, steps, seed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.allow_nan = getattr(self, "_encoded", False)
        return tags

    def fit(self, X: Any, y: Any, groups: Any = None, time: Any = None) -> FeatureSelector:
        """Learn from rows which columns are kept, and return the selector itself.

        Args:
            X, y: ``(rows, columns)`` and ``(rows,)``.
            groups, time: ``(rows,)``; folds never cut through a group, and are judged on later rows than they learn from.
        Raises:
            InputError: settings, rows or targets cannot be used.
        """
        kinds = [kind.kind if isinstance(kind, np.dtype) else "O" for kind in getattr(X, "dtypes", ())]
        table = hasattr(X, "columns") and any(kind not in "biuf" for kind in kinds)
        if hasattr(X, "columns") and len(set(X.columns)) < len(X.columns):
            raise InputError("Two columns of the frame have the same name; give each a name of its own.")
        # Dates and numbers have no common type of NumPy's.
        plain = X.astype(object) if table and hasattr(X, "astype") else X
        rows, y = validation.validate_data(
            self, plain, y, dtype=None if table else np.float64, ensure_min_samples=2, ensure_all_finite=not table
        )
        with np.errstate(invalid="ignore"):  # of numbers that are no integer of 64 bits
            kind = multiclass.type_of_target(y, input_name="y")
        if self.task is None and kind not in ("binary", "multiclass", "continuous"):
            raise InputError(
                f"Unknown label type: {kind!r}. FeatureSelector needs one class, or one number, for each row."
            )
        classifying = self.task == "classification" or (self.task is None and kind != "continuous")
        self._encoded = table  # an encoding knows missing values
        if not table:
            spread = rows.std(0)
            X = (rows - rows.mean(0)) / np.where(spread > 0, spread, 1.0)
        if classifying:
            labels, y = np.unique(y, return_inverse=True)
            if len(labels) < 2:
                raise InputError(f"Classification needs at least 2 classes; the target has one class, {labels[0]!r}.")
        else:
            y = np.asarray(y, dtype=np.float64)
            y = y / (np.abs(y).max() or 1.0)  # squares of large numbers would be infinite
            y = ((y - y.mean()) / (y.std() or 1.0))[:, None] if not table else y
        task = "classification" if classifying else "regression"
        # Folds take all rows together; where k decides, or rows are too few to split, none are kept apart.
        whole = self.k is not None or (len(rows) < 10 and groups is None and time is None)
        split: dict[str, Any] = {"valid": (X, y)} if whole else {"valid": 0.2, "groups": groups, "time": time}
        loss = "cross_entropy" if classifying else "squared_error"
        problem = Problem(LinearOrSkip(self.hidden), loss, Data(train=(X, y), task=task, **split))
        penalty = Hierarchical(1.0, self.hierarchy) if self.hidden else "group"  # whole inputs either way
        folds = None if self.k is not None else min(self.folds, len(rows))
        self.selection_ = select(
            problem, self.k, penalty=penalty, points=self.points, folds=folds, steps=self.steps, seed=self.seed
        )
        self.importances_ = np.array([self.selection_.importance[name] for name in self.selection_.path.names])
        return self

    def _get_support_mask(self) -> Any:
        validation.check_is_fitted(self)
        return self.selection_.mask.numpy()
