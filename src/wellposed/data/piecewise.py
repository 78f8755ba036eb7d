"""`PiecewiseLinear`: columns of numbers as many, so that a network need not learn where a function bends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wellposed.core.checks import Count, checked
from wellposed.core.errors import DataError
from wellposed.data.arrays import doubles


@checked
class PiecewiseLinear:
    """Each column standardized, and how far it went through each of its bins: ``clip((x - low_b)/(high_b - low_b), 0, 1)``.

    A linear layer on it is piecewise linear in each column, with a bend at every edge: networks on tables then fit what trees fit.
    The first and the last bin go on beyond the rows that it was fitted on, as the column itself does.

    Args:
        X: the training rows, ``(rows, columns)``, finite; the targets are not looked at.
        bins: >= 1, between quantiles of the rows; a column with fewer values has a bin between each two.
    Raises:
        DataError: X is no matrix of finite numbers, or is empty.
    Source:
        Gorishniy, Rubachev & Babenko (2022), NeurIPS.
    Example:
        >>> PiecewiseLinear([[0.0], [1.0], [4.0]])([[2.5]])[0, 1:].tolist()
        [1.0, 0.5]
    """

    def __init__(self, X: Any, bins: Count = 16) -> None:
        x = self._numbers(X)
        self.mean, scale = x.mean(0), x.std(0, correction=0)
        self.scale = torch.where(scale > 0, scale, 1.0)
        self.edges = []
        for column in x.T:
            values = column.unique()
            many = len(values) > bins + 1
            levels = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
            self.edges.append(column.quantile(levels).unique() if many else values)

    @property
    def columns(self) -> int:
        """How many columns there were; so many of the encoded rows' first columns are the standardized ones."""
        return len(self.mean)

    def __call__(self, X: Any) -> Tensor:
        """``(rows, columns + bins of all)``, float32."""
        x = self._numbers(X)
        if x.shape[1] != len(self.mean):
            raise DataError(f"The encoding was fitted on {len(self.mean)} columns; these rows have {x.shape[1]}.")
        parts = [(x - self.mean) / self.scale]
        for column, edges in zip(x.T, self.edges, strict=True):
            if len(edges) > 2:
                through = (column[:, None] - edges[:-1]) / edges.diff()
                through[:, 1:].clamp_(min=0.0)
                through[:, :-1].clamp_(max=1.0)
                parts.append(through)
        return torch.cat(parts, 1).float()

    @staticmethod
    def _numbers(X: Any) -> Tensor:
        x = doubles(X, "X")
        if x.ndim != 2 or not x.numel() or not bool(x.isfinite().all()):
            raise DataError(
                f"PiecewiseLinear needs finite numbers of shape (rows, columns), not empty; X has {tuple(x.shape)}."
            )
        return x
