"""`Regressor`: networks for a table with numbers to predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.bayes.calibrators import conformal
from wellposed.core.checks import ConfidenceLevel, Count, checked
from wellposed.core.errors import DataError, require
from wellposed.core.numbers import LARGEST
from wellposed.estimators.ensemble import HeldOut, Joint
from wellposed.estimators.networks import Networks
from wellposed.estimators.training import EncodedRows
from wellposed.losses.per_example import Loss
from wellposed.recipe.recipe import Recipe

base: Any = require("sklearn.base", "tables")
validation: Any = require("sklearn.utils.validation", "tables")

ROUNDING = 1e-12
"""A target whose deviation is this share of its size is constant, and so is what is predicted."""


class Regressor(base.RegressorMixin, Networks):  # type: ignore[misc]
    """Networks for a table with numbers to predict: one, or several together.

    See `Classifier` for what is done with the rows, and for the settings that both have.

    Args:
        budget: ``"1m"``, ``"30 recipes"``, ``"200 epochs"``; ``"0"`` searches nothing.
        members: >= 1, networks; each has a part of the rows held out.
        recipe: a `wellposed.Recipe`, a preset's name or a path, in place of the default one.
        metric: by which a search chooses: ``r2`` by default; ``mae``, ``rmse``, ``pinball:0.9``, ...
        loss: ``"squared_error"``, ``"absolute_error"``, ``"huber:1"``, ``"poisson"``; ``"gaussian"``, ``"student_t"`` and
            ``"quantiles:0.05,0.5,0.95"`` learn a spread for each row.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        n_jobs: threads of torch in `fit`; None leaves them as they are, -1 takes all cores.
        random_state: seed; with budgets in recipes or epochs a fit is repeated exactly.
        verbose: show how a search gets on, where a terminal or a notebook watches.
    Attributes:
        shift_, scale_: mean and standard deviation of the targets, ``(targets,)``; a scale of 0 is that of a constant one.
        noise_: root mean squared error on rows held out, ``(targets,)``, in units of ``scale_``.
        study_, members_, held_out_, encoder_, n_features_in_, feature_names_in_: see `Classifier`.
    Example:
        >>> import wellposed as wp
        >>> from sklearn.datasets import load_diabetes
        >>> x, y = load_diabetes(return_X_y=True, as_frame=True)
        >>> model = wp.Regressor("0", members=2, recipe=wp.Recipe(epochs=5), random_state=0).fit(x, y)
        >>> low, high = model.predict_interval(x, 0.9)
        >>> model.predict(x).shape, bool((low < high).all())
        ((442,), True)
    """

    _classifies = False

    def __init__(
        self,
        budget: str = "1m",
        *,
        members: Count = 5,
        recipe: Recipe | str | Path | None = None,
        metric: str | None = None,
        loss: Any = "squared_error",
        device: str = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = True,
    ) -> None:
        self.budget, self.members, self.recipe, self.metric = budget, members, recipe, metric
        self.loss, self.device, self.n_jobs, self.random_state = loss, device, n_jobs, random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The expected target, ``(rows,)`` or ``(rows, targets)`` (of the loss ``quantiles`` the median), and its spread if asked.

        Args:
            return_std: also the standard deviation of a target around the prediction. It is that of the loss where the loss knows
                one for each row (``gaussian``, ``student_t``), else the root mean squared error on rows held out; the
                disagreement of the networks comes on top.
        Raises:
            InputError: the loss has quantiles, of which there is no standard deviation.
        """
        outputs, weights = self._answers(X)
        mean = self._mean(outputs, weights)
        if not return_std:
            return self._restored(mean)
        return self._restored(mean), self._restored(self._std(outputs, weights, mean), shifted=False)

    @checked
    def predict_interval(self, X: Any, level: ConfidenceLevel = 0.9) -> Any:
        """``(low, high)`` of intervals that hold a new target with probability ``level``, each of the shape of `predict`.

        They are made as wide as the rows held out need: for a network trained on other rows like these, the share of new targets
        inside is ``level`` on average over rows. With the loss ``gaussian``, ``student_t`` or ``quantiles`` a row has the width
        that its own spread asks for, else all rows have the same one.

        Raises:
            DataError: too few rows were held out for the level.
        Source:
            Romano, Patterson & Candès (2019), NeurIPS; over folds: Barber et al. (2021), Annals of Statistics 49.
        """
        outputs, weights = self._answers(X)
        ends, held = self._ends(outputs, weights, level), self.held_out_
        known = held.each(partial(self._ends, level=level))
        y = torch.cat(held.y).double().reshape(known.shape[1:])
        for target in range(y.shape[1]):
            below, above = known[..., target]
            margin = conformal(below, above, y[:, target], level, torch.cat(held.counts))
            ends[..., target] = torch.stack(margin.predict(*ends[..., target]))
        return self._restored(ends[0]), self._restored(ends[1])

    def _answers(self, X: Any) -> tuple[Tensor, Tensor]:
        """The networks' outputs for new rows, and their weights."""
        x = self._x(X)
        return self.members_.outputs(x), self.members_.weights

    def _ends(self, outputs: Tensor, weights: Tensor, level: float) -> Tensor:
        """Ends of intervals before rows held out widen them, ``(2, rows, targets)``, scaled: of most losses the mean twice."""
        spread = self.members_.loss.distribution
        if spread is None:
            return torch.stack([self._mean(outputs, weights)] * 2)
        levels = (1 - level) / 2, (1 + level) / 2
        return torch.stack([self._averaged(partial(spread.quantile, level=at), outputs, weights) for at in levels])

    def _std(self, outputs: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
        """``sqrt(sum_k w_k (s_k^2 + (m_k - m)^2))``, ``(rows, targets)``, scaled."""
        loss = self.members_.loss
        spread = loss.distribution
        own = torch.as_tensor(self.noise_).square()
        if spread is not None:
            own = self._averaged(lambda o: spread.std(o).square(), outputs, weights)
        apart = self._averaged(lambda o: (loss.response(o).reshape(mean.shape) - mean).square(), outputs, weights)
        return (own + apart).sqrt()

    @staticmethod
    def _averaged(of: Callable[[Tensor], Tensor], outputs: Tensor, weights: Tensor) -> Tensor:
        """The mean over networks of a function of their outputs, ``(rows, targets)``."""
        return torch.einsum("k,krt->rt", weights, torch.stack([of(one).reshape(len(one), -1) for one in outputs]))

    def _mean(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """The mean of the networks' responses, ``(rows, targets)``, scaled."""
        return self._averaged(self.members_.loss.response, outputs, weights)

    def _restored(self, values: Tensor, shifted: bool = True) -> Any:
        """In the target's units, and in its shape."""
        found = values.numpy() * self.scale_ + (self.shift_ if shifted else 0.0)
        return found[:, 0] if self.single_ else found

    def _target(self, y: Any, *, new: bool = True) -> Any:
        _, y = validation.check_X_y(
            np.zeros((validation._num_samples(y), 1)), y, multi_output=True, y_numeric=True, estimator=self
        )
        if y.dtype.kind in "mM":
            raise DataError(f"The target has the type {y.dtype}; make a number of it, such as days.")
        y = np.asarray(y, dtype=np.float64)
        if y.ndim == 2 and y.shape[1] == 1:
            y = validation.column_or_1d(y, warn=True)
        if float(np.abs(y).max(initial=0.0)) > LARGEST:
            raise DataError(f"The target has numbers beyond {LARGEST:g}. Give it in a larger unit, or its logarithm.")
        return y

    def _learn(self, y: Any) -> None:
        self.single_ = y.ndim == 1
        wide = y.reshape(len(y), -1)
        self.shift_, self.scale_ = np.zeros(wide.shape[1]), np.ones(wide.shape[1])
        if Loss(self.loss).affine:
            self.shift_, spread = wide.mean(0), wide.std(0)
            self.scale_ = np.where(spread > ROUNDING * np.abs(wide).max(0), spread, 0.0)

    def _scaled(self, y: Any) -> Tensor:
        scale = np.where(self.scale_ > 0, self.scale_, 1.0)
        found = torch.as_tensor((y.reshape(len(y), -1) - self.shift_) / scale, dtype=torch.float32)
        return found[:, 0] if self.single_ else found

    @property
    def _loss(self) -> Any:
        return self.loss

    @property
    def _outputs(self) -> int:
        return Loss(self.loss).outputs_for(len(self.scale_))

    def _row_losses(self, outputs: Tensor, weights: Tensor, y: Tensor) -> Tensor:
        return (self._mean(outputs, weights) - y.reshape(len(y), -1)).square().mean(1)

    def _mixture_loss(self, parts: Sequence[tuple[Tensor, Tensor, EncodedRows]]) -> float:
        """The trained loss of the mean outputs; the squared error where that loss cannot tell rows apart."""
        total = over = 0.0
        for outputs, weights, rows in parts:
            mean = torch.einsum("k,kro->ro", weights, outputs)
            found = self.members_.loss.per_example(mean, rows.y.to(outputs.dtype))
            costs = self._row_losses(outputs, weights, rows.y) if found.whole else found.total / found.count
            total, over = total + float(costs @ rows.counts), over + float(rows.counts.sum())
        return total / over

    def _joint(self) -> Joint:
        return Joint(self.members_, False, torch.as_tensor(self.shift_), torch.as_tensor(self.scale_), 1.0)

    def _settle(self, held: HeldOut) -> None:
        y, counts = torch.cat(held.y), torch.cat(held.counts)
        errors = (held.each(self._mean) - y.reshape(len(y), -1)).square()
        self.noise_ = (counts @ errors / counts.sum()).sqrt().numpy()
