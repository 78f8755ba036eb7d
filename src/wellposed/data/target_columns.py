"""Targets of numbers that are more than one plain column: several of them, levels in order, or a long tail.

`TargetEncoder` knows classes and one number. `TargetColumns` composes it: each column has its own link (the logarithm of a
long-tailed amount, the place of a level), is shifted and scaled by its training rows, and comes back in its own terms where it
is predicted or scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from wellposed.core.errors import DataError, did_you_mean, listed, require
from wellposed.core.files import check_schema
from wellposed.core.numbers import LARGEST
from wellposed.core.schemas import Finite, Scale, validate
from wellposed.data.columns import as_numbers, category_codes, level_name
from wellposed.data.encoding import SCHEMA, Label, TargetEncoder
from wellposed.data.readings import Floats

Link = Literal["none", "log"]
LINKS: tuple[Link, ...] = ("none", "log")

LONG_TAIL = 2.0
"""Skewness from which a positive target counts as long-tailed, if its logarithm is less than half as skew; an exponential
one has 2."""
LEAST_TAILED = 50  # rows; in fewer, one value makes the skewness
SMALLEST_PART = 0.05
"""Of a target with zeros the logarithm is that of ``1 + y / unit``, with this quantile of the values above 0 as unit."""


@dataclass(frozen=True)
class TargetColumn:
    """One target of numbers, as ``(link(y) - mean) / scale`` with mean and deviation of the training rows.

    Args:
        link: ``"none"``, or ``"log"``: ``log y``, or ``log(1 + y / unit)`` where some training value is 0.
        unit: 0 where the link is ``log y``.
        levels: of an ordinal target from the lowest on; ``y`` is then a level's place 0, 1, ..., and a prediction the
            nearest level.
    """

    name: str
    mean: Finite
    scale: Scale
    link: Link = "none"
    unit: Finite = 0.0
    levels: Annotated[tuple[Label, ...], Field(min_length=2)] | None = None

    @classmethod
    def fit(
        cls, series: Any, link: Link = "none", levels: Sequence[Label] | None = None, zeros: bool = False
    ) -> TargetColumn:
        """Learn from the training rows.

        Args:
            zeros: whether an amount may be 0 though no training row's is.

        Raises:
            DataError: a value is missing or no number, no level, or below 0 under a logarithm.
        """
        name, unit = str(series.name), 0.0
        y = cls._numbers(series, levels)
        if link == "log":
            above = y[y > 0]
            with_zeros = (zeros or len(above) < len(y)) and len(above) > 0
            unit = float(np.quantile(above, SMALLEST_PART)) if with_zeros else 0.0
        bare = cls(name, 0.0, 1.0, link, unit, None if levels is None else tuple(levels))
        base = TargetEncoder.fit(bare.linked(y), "regression")
        return replace(bare, mean=base.mean, scale=base.scale)

    @staticmethod
    def _numbers(series: Any, levels: Sequence[Label] | None) -> Floats:
        return as_numbers(series) if levels is None else level_places(series, [level_name(level) for level in levels])

    def transform(self, series: Any) -> Floats:
        """``(rows,)``, mean 0 and deviation 1 on the training rows.

        Raises:
            DataError: as `fit`.
        """
        y = self.linked(self._numbers(series, self.levels))
        return TargetEncoder("regression", None, self.mean, self.scale).transform(y)

    def linked(self, y: Floats) -> Floats:
        """The target as the network learns it: ``y`` itself, or its logarithm. ``(rows,)``.

        Raises:
            DataError: a value is below what the logarithm takes.
        """
        if self.link == "none":
            return y
        lost = int(((y < 0) | ((y == 0) & (self.unit == 0))).sum())
        if lost:
            raise DataError(
                f"The target {self.name!r} has {lost} values of 0 or less, of which there is no logarithm. Leave these rows out, "
                "or take --target-transform none."
            )
        return np.log1p(y / self.unit) if self.unit else np.log(y)

    def restored(self, values: Tensor) -> Tensor:
        """``(rows,)`` scaled numbers in the target's own terms, double: amounts, never below 0 under a logarithm; or places
        of levels."""
        y = values.double() * self.scale + self.mean
        if self.link == "log":
            y = y.clamp(max=float(np.log(LARGEST)))
            y = (torch.expm1(y) * self.unit).clamp_min(0.0) if self.unit else y.exp()
        return y.round().clamp(0, len(self.levels) - 1) if self.levels else y


@dataclass(frozen=True)
class TargetColumns:
    """Targets of numbers, ``(rows, k)``, or ``(rows,)`` of one, each with its own link.

    Example:
        >>> import pandas as pd
        >>> both = TargetColumns.fit(pd.DataFrame({"low": [1.0, 3.0], "high": [10.0, 1000.0]}), "log")
        >>> {name: [round(float(v)) for v in y] for name, y in both.predictions(torch.tensor([[0.0, 0.0]])).items()}
        {'prediction_low': [2], 'prediction_high': [100]}
    """

    columns: Annotated[tuple[TargetColumn, ...], Field(min_length=1)]

    @classmethod
    def fit(
        cls,
        frame: Any,
        link: Link = "none",
        levels: Sequence[Label] | None = None,
        rows: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> TargetColumns:
        """Learn from a frame ``(rows, targets)`` or a series.

        Args:
            rows: the training rows; all by default. Of the others it is known only whether an amount may be 0.

        Raises:
            DataError: see `TargetColumn.fit`.
        """
        kept = slice(None) if rows is None else rows
        several = [(one, link == "log" and bool((as_numbers(one) == 0).any())) for one in _series_of(frame)]
        return cls(tuple(TargetColumn.fit(one.iloc[kept], link, levels, zeros) for one, zeros in several))

    task: Literal["regression"] = "regression"

    @property
    def classes(self) -> None:
        """There are none: levels are amounts here."""
        return None

    @property
    def bent(self) -> bool:
        """Whether more than a shift and a scale lies between a target and what is trained."""
        return any(column.link != "none" or column.levels is not None for column in self.columns)

    def transform(self, frame: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """``(rows, targets)`` float32, or ``(rows,)`` of one target."""
        found = np.stack([c.transform(one) for c, one in zip(self.columns, _series_of(frame), strict=True)], axis=1)
        return found[:, 0] if len(self.columns) == 1 else found

    def restored(self, values: Tensor) -> Tensor:
        """Outputs or targets in the targets' own terms, double, in the shape that they had."""
        flat = values.reshape(len(values), -1)
        parts = [column.restored(one) for column, one in zip(self.columns, flat.T, strict=True)]
        return torch.stack(parts, dim=1).reshape(values.shape)

    def predictions(self, values: Tensor, kind: str = "prediction") -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """``prediction``, or ``prediction_NAME`` for each of several targets; levels as they came in.

        Args:
            kind: what the columns are called, where the values are quantiles, say.
        """
        flat = self.restored(values).reshape(len(values), -1).numpy()
        found = {}
        for column, one in zip(self.columns, flat.T, strict=True):
            known = None if column.levels is None else TargetEncoder("classification", column.levels)
            title = kind if len(self.columns) == 1 else f"{kind}_{column.name}"
            found[title] = one if known is None else known.inverse(one)
        return found

    def to_dict(self) -> dict[str, Any]:
        """What JSON can say; `target_from_dict` gives the targets back."""
        return {"schema": SCHEMA, "task": self.task, "columns": [asdict(column) for column in self.columns]}


AnyTarget = TargetEncoder | TargetColumns


def target_from_dict(saved: Mapping[str, Any]) -> AnyTarget:
    """What the ``to_dict`` of `TargetEncoder` or `TargetColumns` described.

    Raises:
        FormatError: the description has another schema or is damaged.
    """
    if "columns" not in saved:
        return TargetEncoder.from_dict(saved)
    check_schema(saved.get("schema"), SCHEMA, "target", "description of a target")
    return validate(TargetColumns, {"columns": saved["columns"]}, "The description of a target", ("columns",))


def is_long_tailed(target: Any) -> bool:
    """Whether numbers, none below 0, are so skew that a few rows would make the squared error, and their logarithm is not.

    Example:
        >>> is_long_tailed(np.exp(np.linspace(-3, 6, 100))), is_long_tailed(np.linspace(0, 1, 100))
        (True, False)
    """
    y = np.asarray(target, dtype=np.float64)
    if len(y) < LEAST_TAILED or y.min() < 0 or len(np.unique(y)) < LEAST_TAILED:
        return False
    positive = y[y > 0]
    skew, of_log = _skewness(positive), _skewness(np.log(positive))
    return skew >= LONG_TAIL and abs(of_log) <= skew / 2


def ordered_levels(series: Any, levels: Sequence[str]) -> tuple[Label, ...]:
    """The levels of an ordinal target from the lowest on: as given, or the distinct numbers sorted.

    Raises:
        DataError: texts without a given order, a level that is not there, or a value that is no level.
    """
    given = [level_name(level) for level in levels]
    if given:
        if len(set(given)) < len(given) or len(given) < 2:
            raise DataError(f"Levels are at least two different values; these are {listed(given)}.")
        level_places(series, given)
        numbers = as_numbers(require("pandas", "tables").Series(given))
    else:
        numbers = np.unique(as_numbers(series))
    if not np.isnan(numbers).any():
        return tuple(int(n) if n.is_integer() else n for n in numbers.tolist())
    if given:
        return tuple(given)
    names = category_codes(series)[1]
    raise DataError(
        f"The order of the levels of {series.name!r} ({listed(names)}) is not known. Give it from the lowest on: "
        f"--levels {','.join(names[:3])}."
    )


def level_places(series: Any, levels: Sequence[str]) -> Floats:
    """``(rows,)`` the place 0, 1, ... of each row's level, by the levels' names; NaN where it is missing.

    Raises:
        DataError: a value is no level.
    """
    codes, names = category_codes(series)
    place = {level: i for i, level in enumerate(levels)}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise DataError(
            f"The target {series.name!r} has {listed(map(repr, unknown))}, which is no level.{did_you_mean(unknown[0], levels)} "
            f"Levels: {listed(levels)}."
        )
    return np.array([*(float(place[name]) for name in names), np.nan])[codes]


def _series_of(frame: Any) -> list[Any]:
    return [frame] if getattr(frame, "ndim", 1) == 1 else [frame[name] for name in frame.columns]


def _skewness(x: Floats) -> float:
    z = x - x.mean()
    spread = float(np.sqrt(np.square(z).mean()))
    return float((z**3).mean()) / spread**3 if spread > 0 else 0.0
