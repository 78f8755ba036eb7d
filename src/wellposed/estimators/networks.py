"""What both estimators have in common: `fit` from rows to networks, and what is at hand afterwards."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time as clock
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from wellposed.core.checks import ConfidenceLevel, Count, Seed, checked, checking
from wellposed.core.errors import DataError, InputError, described, require
from wellposed.core.formats import count_noun
from wellposed.core.progress import emit
from wellposed.core.shared import threads_of
from wellposed.core.signs import escape_html
from wellposed.data.columns import ordered_values
from wellposed.data.data import Data
from wellposed.data.encoding import TableEncoder
from wellposed.data.splits import duplicate_ids
from wellposed.estimators.ensemble import PICKS, HeldOut, Joint, Members, outputs_of
from wellposed.estimators.importance import importances
from wellposed.estimators.rows import FEW_ROWS, features_of, refuse_texts, row_values
from wellposed.estimators.training import EncodedRows, HeldPart, held_out, train, untuned
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.reporting.html import report
from wellposed.search.improve import improve
from wellposed.search.progress_bar import show_progress
from wellposed.sparsity.compress import compress
from wellposed.statistics.intervals import Interval
from wellposed.study.budget import Budget
from wellposed.study.study import Study
from wellposed.study.trials import rank_trials
from wellposed.training.checkpoint import Saved
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import PIECES, TABLE_SPACE, TableMLP, check_metric

base: Any = require("sklearn.base", "tables")
validation: Any = require("sklearn.utils.validation", "tables")
sklearn_utils: Any = require("sklearn.utils", "tables")

FINALISTS = 3
"""Recipes of a study that are trained again, beside the default one."""
SEARCHED = 0.7
"""Share of the clock that the search has; the rest is for the networks that are kept."""
LEAST_SEARCHED = 30
"""Different rows below which nothing is searched: of fewer, too few are held out to tell recipes apart. Copies go together."""


@dataclass(frozen=True, eq=False)
class FitRows:
    """Rows as `fit` was given them, without those of weight 0."""

    frame: Any
    y: Any
    weight: Any = None
    groups: Any = None
    times: Any = None

    def at(self, index: Any) -> FitRows:
        """The rows at ``index``."""
        return FitRows(
            self.frame.iloc[index].reset_index(drop=True), self.y[index],
            *(None if values is None else values[index] for values in (self.weight, self.groups, self.times)),
        )  # fmt: skip


def _sample_weights(weight: Any, rows: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``(rows,)``, checked, and by a power of two so small that their sum is no overflow."""
    found = validation._check_sample_weight(weight, np.zeros((rows, 1)), dtype=np.float64, ensure_non_negative=True)
    return np.asarray(np.ldexp(found, -int(np.frexp(found.max())[1])), np.float64)


class Networks(base.BaseEstimator):  # type: ignore[misc]
    """Networks for tables; see `Classifier` and `Regressor`."""

    _classifies: ClassVar[bool]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        tags.non_deterministic = _timed(self.budget)
        return tags

    # --- what differs

    @abstractmethod
    def _target(self, y: Any, *, new: bool = True) -> Any:
        """The target as it is trained before scaling; ``new`` learns its classes."""

    def _learn(self, y: Any) -> None:
        """Learn the scale of the target from rows with a weight above 0."""

    @abstractmethod
    def _scaled(self, y: Any) -> Tensor:
        """The target as networks see it."""

    @abstractmethod
    def _row_losses(self, outputs: Tensor, weights: Tensor, y: Tensor) -> Tensor:
        """``(rows,)`` what the networks' answer costs, by which columns are judged."""

    @abstractmethod
    def _mixture_loss(self, parts: Sequence[tuple[Tensor, Tensor, EncodedRows]]) -> float:
        """What the mean of networks costs a row, by which recipes are chosen; of each part outputs, weights and rows."""

    @abstractmethod
    def _settle(self, held: HeldOut) -> None:
        """Learn from the rows held out what makes probabilities or intervals right."""

    def _weights(self, y: Any) -> Any:
        """Weights of the rows by their class, or None."""
        return None

    def _usual_metric(self, y: Any) -> str | None:
        """What a search chooses by where no metric is named; None for that of the loss."""
        return None

    # --- fit

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        time: Any = None,
        validation: Any = None,
    ) -> Self:
        """Search as long as the budget says, train the networks that are kept, and return the estimator itself.

        Args:
            X: ``(rows, columns)``: an array, or a pandas or polars frame. Columns of a frame may be numbers, truths, dates and
                categories (also as texts), and any value may be missing; columns of sentences are refused.
            y: ``(rows,)``; of a regressor also ``(rows, targets)``.
            sample_weight: ``(rows,)``, >= 0: how much each row counts. Rows of weight 0 are left out.
            groups: ``(rows,)``, an id each: rows of one group are never split between learning and validation.
            time: ``(rows,)``, numbers or dates: networks are chosen by the latest rows.
            validation: ``(X, y)`` or ``(X, y, sample_weight)`` of rows by which networks are chosen, in place of parts of X.
        Raises:
            DataError, InputError: what was given cannot be used; both are a ValueError.
        """
        began = clock.monotonic()
        budget, seed = self._settings()
        given = self._given(X, y, sample_weight, groups, time)
        valid = None
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
                raise InputError(
                    f"validation= is (X, y) or (X, y, sample_weight); it was given {described(validation)}."
                )
            valid = self._given(*validation, like=given)
        count = None if self.n_jobs is None else int(self.n_jobs)
        if count is not None and count < 0:
            count = max(1, (os.cpu_count() or 1) + 1 + count)
        with (
            contextlib.nullcontext() if count is None else threads_of(count),
            show_progress(budget, quiet=not self.verbose or budget.none),
        ):
            self._fit(given, valid, budget, seed, began)
        return self

    def _settings(self) -> tuple[Budget, int]:
        """The budget and the seed, checked with all other settings: scikit-learn leaves that to `fit`."""
        checking(type(self).__init__, type(self).__name__)(copy.copy(self), **self.get_params(deep=False))
        if self.n_jobs == 0:
            raise InputError("n_jobs= must be threads, such as 2, or None or -1; it was given 0.")
        check_metric(self.metric, self._classifies)
        try:
            state = sklearn_utils.check_random_state(self.random_state)
        except ValueError:
            raise InputError(
                f"random_state= must be a whole number >= 0, None or a RandomState; it was given {described(self.random_state)}."
            ) from None
        whole = isinstance(self.random_state, (int, np.integer))
        return Budget.parse(self.budget), int(self.random_state if whole else state.randint(2**31))

    def _given(
        self, X: Any, y: Any, weight: Any = None, groups: Any = None, time: Any = None, *, like: FitRows | None = None
    ) -> FitRows:
        """The rows with a weight above 0, checked; new ones are learned from, those of validation are compared with these."""
        new = like is None
        frame = features_of(self, X, None if like is None else list(like.frame))
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        validation.check_consistent_length(frame, y)
        if new:
            refuse_texts(frame)
        y = self._target(y, new=new)
        rows = len(frame)
        validation.check_array(np.zeros((rows, 1)), ensure_min_samples=2, estimator=self)
        groups, time = row_values(groups, rows, "groups"), row_values(time, rows, "time")
        if weight is not None:
            weight = _sample_weights(weight, rows)
        if (by_class := self._weights(y)) is not None:
            weight = by_class if weight is None else weight * by_class
        times = None if time is None else ordered_values(time)
        if time is not None and times is None:
            raise DataError("time= needs numbers or dates. Of texts pandas.to_datetime makes dates.")
        ids = None if groups is None else np.unique(groups.map(str), return_inverse=True)[1]
        given = FitRows(frame, y, weight, ids, times)
        if weight is not None:
            if np.count_nonzero(weight) < 2:
                raise DataError("All sample weights but one are zero; at least two rows must have a weight above zero.")
            given = given.at(np.flatnonzero(weight > 0))
        if new:
            self._learn(given.y)
        return given

    def _fit(self, given: FitRows, valid: FitRows | None, budget: Budget, seed: int, began: float) -> None:
        self.encoder_ = TableEncoder.fit(given.frame, pieces=PIECES[self._task])
        rows = self._encoded(given)
        copies = duplicate_ids(rows.x.numpy(), np.asarray(given.y) if given.y.ndim == 1 else None)
        if valid is not None:
            parts = [HeldPart(lambda: rows, self._encoded(valid))]
        else:
            classes = given.y if self._classifies else None
            held = held_out(len(rows), self.members, seed, classes, given.groups, given.times, copies)
            parts = [HeldPart(partial(rows.at, rest), rows.at(own)) for rest, own in held]
        # A recipe remembers what it was asked for; the setting stays as it was given.
        own = None if self.recipe is None else as_recipe(self.recipe).model_copy(deep=True)
        recipes = [untuned(len(rows)) if own is None else own]
        self.study_ = None
        if not budget.none and len(np.unique(copies)) >= LEAST_SEARCHED:
            self.study_ = self._searched(given, valid, own, budget, seed, began)
            recipes = finalists(self.study_, recipes)
        deadline = began + budget.amount if budget.unit == "seconds" and not budget.none else math.inf
        emit("phase", text="networks")
        trained = train(parts, recipes, self.members, seed, self._loss, self._outputs, self.device, deadline)
        self._keep(trained, [part.held for part in parts])

    def _keep(self, trained: Sequence[Mapping[str, Sequence[Saved]]], held: Sequence[EncodedRows]) -> None:
        """The networks of the recipes that together cost least on the rows held out."""
        there = [by_recipe for by_recipe in trained if by_recipe]
        names = [name for name in there[0] if all(name in by_recipe for by_recipe in there)] or list(there[0])
        self.members_ = Members.of(trained, dict.fromkeys(names, 1.0))
        if len(names) > 1:
            self.members_ = Members.of(trained, self._shares(trained, held, names))
        self.held_out_ = self.members_.held_out(held)
        self._settle(self.held_out_)

    def _shares(
        self, trained: Sequence[Mapping[str, Sequence[Saved]]], held: Sequence[EncodedRows], names: Sequence[str]
    ) -> dict[str, float]:
        """Weights of recipes: the one that helps the mean most on rows held out is added, `PICKS` times.

        Source:
            Caruana et al. (2004), ICML.
        """
        said = [
            ({n: [outputs_of(m.model, rows.x) for m in by_recipe[n]] for n in names if n in by_recipe}, rows)
            for by_recipe, rows in zip(trained, held, strict=False)
        ]
        counts = dict.fromkeys(names, 0.0)

        def cost(name: str) -> float:
            tried = {**counts, name: counts[name] + 1.0}
            mixed = []
            for outputs, rows in said:
                weights = [tried[one] / len(several) for one, several in outputs.items() for _ in several]
                if sum(weights) > 0:
                    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
                    mixed.append((torch.stack([one for several in outputs.values() for one in several]), shares, rows))
            return self._mixture_loss(mixed) if mixed else math.inf

        for _ in range(PICKS):
            counts[min(names, key=cost)] += 1.0
        return counts

    def _encoded(self, given: FitRows) -> EncodedRows:
        shares = None if given.weight is None else given.weight / given.weight.mean()
        weight = None if shares is None else torch.as_tensor(shares, dtype=torch.float32)
        return EncodedRows(torch.from_numpy(self.encoder_.transform(given.frame)), self._scaled(given.y), weight)

    @property
    def _task(self) -> str:
        return "classification" if self._classifies else "regression"

    @property
    def _loss(self) -> Any:
        return "cross_entropy"

    @property
    @abstractmethod
    def _outputs(self) -> int:
        """Of a network."""

    def _searched(
        self, given: FitRows, valid: FitRows | None, own: Recipe | None, budget: Budget, seed: int, began: float
    ) -> Study:
        pandas = require("pandas", "tables")
        held: Any = 0.2

        def target(y: Any) -> Any:
            return pandas.Series(y, name="target") if y.ndim == 1 else pandas.DataFrame(y).add_prefix("target ")

        if valid is not None:
            held = (valid.frame, target(valid.y), *([] if valid.weight is None else [valid.weight]))
        data = Data(
            (given.frame, target(given.y)), held, groups=given.groups, time=given.times, weight=given.weight,
            task=self._task, split_seed=seed, pieces=PIECES[self._task],
        )  # fmt: skip
        metric, name = self.metric or self._usual_metric(given.y), type(self).__name__
        problem = Problem(TableMLP(), self._loss, data, space=TABLE_SPACE, metric=metric, name=name)
        if budget.unit == "seconds":
            budget = Budget(SEARCHED * budget.amount, "seconds")
        return improve(
            problem, budget, seed, recipe=own, device=self.device, command=f"wp.{name}", began=began, verbose=False
        )

    # --- afterwards

    def _x(self, X: Any) -> Tensor:
        """New rows, encoded; says where they are not as in training."""
        validation.check_is_fitted(self)
        frame = features_of(self, X, [column.name for column in self.encoder_.columns])
        if len(frame) >= FEW_ROWS:
            for doubt in self.encoder_.doubts(frame):
                warnings.warn(doubt, stacklevel=4)
        return torch.from_numpy(self.encoder_.transform(frame))

    @checked
    def importances(
        self,
        X: Any = None,
        y: Any = None,
        sample_weight: Any = None,
        *,
        repeats: Count = 5,
        level: ConfidenceLevel = 0.95,
        seed: Seed = 0,
    ) -> dict[str, Interval]:
        """What each column is worth: how much more a row costs once the column's values are shuffled among the rows.

        The cost is the logarithmic loss of a class in nats, or the squared error of a number in standard deviations of the target.
        The intervals speak of other rows and shuffles, and not of other networks. Columns that say the same share their worth.

        Args:
            X, y: rows that were not learned from; by default those held out in `fit`, each judged by the networks that have not
                seen it, and with the weights that `fit` was given.
            sample_weight: ``(rows,)``, >= 0: how much each row of X counts.
            repeats: how often a column is shuffled.
            level: of the intervals.
            seed: of the shuffles.
        Returns:
            An `Interval` (``.estimate``, ``.low``, ``.high``) for each column, the most valuable first.
        Raises:
            InputError: rows without targets, or a model that was loaded and so has no rows of its own.
        """
        validation.check_is_fitted(self)
        if (X is None) != (y is None):
            raise InputError("importances needs X and y, or neither of them for the rows held out in fit.")
        if X is not None:
            x, target = self._x(X), self._scaled(self._target(y, new=False))
            validation.check_consistent_length(x, target)
            if len(x) < 2:
                raise InputError(f"importances shuffles rows, and needs at least two; it was given {len(x)}.")
            counts = torch.from_numpy(_sample_weights(sample_weight, len(x)))
            parts: list[Any] = [(x, counts, target, list(self.members_.models), self.members_.weights)]
        else:
            held = self.held_out_
            if not held.x:
                raise InputError("A model that was loaded or copied has no rows of its own. Give importances X and y.")
            if sample_weight is not None:
                raise InputError(
                    "importances takes sample_weight= with X and y; the rows held out in fit have theirs already."
                )
            parts = list(zip(held.x, held.counts, held.y, self.members_.unseen_by(), held.weights, strict=True))

        def cost(target: Tensor, models: Sequence[Saved], weights: Tensor, rows: Tensor, index: Tensor) -> Tensor:
            return self._row_losses(torch.stack([outputs_of(m.model, rows) for m in models]), weights, target[index])

        judged = [(x, counts, partial(cost, *how)) for x, counts, *how in parts]
        return importances(self.encoder_, judged, repeats, level, seed)

    def _html_repr(self) -> str:
        """scikit-learn's drawing, and under it what the fitted model is and what its search found."""
        drawn = str(super()._html_repr())
        if not hasattr(self, "members_"):
            return drawn
        networks, columns = len(self.members_.models), len(self.encoder_.columns)
        said = [f"{count_noun(networks, 'network')} for {count_noun(columns, 'column')}"]
        if self.study_ is not None:
            said.append(str(self.study_))
        return f"{drawn}<pre>{escape_html(chr(10).join(said))}</pre>"

    @checked
    def report(self, path: str | Path) -> Path:
        """Write the page of the search: what was tried, what held the baseline back, and what was gained on rows held out.

        Raises:
            InputError: nothing was searched.
        """
        validation.check_is_fitted(self)
        if self.study_ is None:
            raise InputError(
                "There is no study to report on: nothing was searched, or the model was loaded or copied. Fit with a budget such "
                f"as '1m' on {LEAST_SEARCHED} different rows or more."
            )
        return report(self.study_, path)

    @checked
    def save(self, folder: str | Path) -> Path:
        """Write the fitted estimator into a folder, as JSON and safetensors and never as pickle; `wellposed.load` reads it.

        Raises:
            FolderInUse: the folder holds something else.
            InputError: classes or settings that JSON has no words for.
        """
        from wellposed.estimators.saved import save_estimator

        validation.check_is_fitted(self)
        return save_estimator(self, folder)

    @checked
    def to_onnx(self, path: str | Path) -> float | None:
        """Write the networks as one ONNX file, from encoded rows (``encoder_.transform(frame)``) to probabilities or numbers.

        Returns:
            Its largest difference from ours in onnxruntime; None without it.
        Raises:
            MissingExtra: ``wellposed[onnx]`` is not installed.
        """
        validation.check_is_fitted(self)
        rows = torch.randn(64, len(self.encoder_.names), generator=torch.Generator().manual_seed(0))
        return compress(self._joint(), rows).to_onnx(path)

    @abstractmethod
    def _joint(self) -> Joint:
        """The networks as one module."""

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: neither the study, whose runs hold all rows, nor the rows held out."""
        state: dict[str, Any] = super().__getstate__()
        if "study_" in state:
            state = {**state, "study_": None, "held_out_": replace(state["held_out_"], x=())}
        return state


def _timed(budget: Any) -> bool:
    """Whether a clock decides what is trained."""
    try:
        found = Budget.parse(budget)
    except InputError:
        return False  # `fit` refuses it
    return found.unit == "seconds" and not found.none


def finalists(study: Study, default: Sequence[Recipe]) -> list[Recipe]:
    """The study's best recipe, others that came near it, and the default one: which of them stay is decided on rows held out."""
    sign = 1.0 if study.facts["metric"]["higher_is_better"] else -1.0
    ranked = rank_trials([trial for trial in study.trials if trial.kind == "finalist"], sign)
    several = [study.best.recipe, *(trial.built for trial in ranked)]
    distinct = list({recipe.to_toml(): recipe for recipe in several}.values())[:FINALISTS]
    return list({recipe.to_toml(): recipe for recipe in (*distinct, *default)}.values())
