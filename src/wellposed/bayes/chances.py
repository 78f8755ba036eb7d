"""Outputs or probabilities of classes, as somebody has them, read as logarithms of probabilities beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wellposed.core.errors import DataError
from wellposed.data.arrays import doubles, real_numbers
from wellposed.losses.targets import need_classes

TINY = 1e-30
"""A probability of 0 stands for this one, so that its logarithm is a number."""


@dataclass(frozen=True)
class Chances:
    """Logarithms of the classes' probabilities ``(rows, classes)``, in double precision.

    Attributes:
        probabilities: whether they were given as probabilities, and not as outputs before the softmax.
        single: whether they were given as ``(rows,)`` of the second of two classes.
    """

    logs: Tensor
    probabilities: bool
    single: bool

    @classmethod
    def read(cls, given: Any, like: Chances | None = None) -> Chances:
        """Read ``(rows, classes)``, or ``(rows,)`` of the second of two classes.

        They are probabilities where no number is below 0 and every row sums to 1 (or every single number is at most 1), and a
        network's outputs, before any softmax, where not.

        Args:
            like: what was given before, which these must be too.
        Raises:
            DataError: other shapes, values that are not finite, or another kind than before.
        """
        x = doubles(given, "Probabilities or outputs", "Give a tensor (rows, classes).")
        x = x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x
        if x.ndim not in (1, 2) or not x.numel() or not bool(x.isfinite().all()):
            raise DataError(
                "Probabilities or outputs must be finite numbers of shape (rows, classes), or (rows,) of the second of two "
                f"classes; these have shape {tuple(x.shape)}."
            )
        sums = x if x.ndim == 1 else x.sum(1)
        found = bool((x >= 0).all()) and bool(((sums - 1.0).abs() < 1e-4).all() if x.ndim == 2 else (x <= 1).all())
        if like is not None:
            if (x.ndim == 1) != like.single or (x.ndim == 2 and x.shape[1] != like.logs.shape[1]):
                fitted = "one number a row" if like.single else f"{like.logs.shape[1]} classes"
                raise DataError(f"The calibration was fitted to {fitted}, and these rows have shape {tuple(x.shape)}.")
            if like.probabilities and not found:
                raise DataError(
                    "The calibration was fitted to probabilities, and these are none. Give probabilities, or calibrate again with "
                    "outputs."
                )
            found = like.probabilities
        if found:
            both = torch.stack([1.0 - x, x], 1) if x.ndim == 1 else x
            logs = both.clamp_min(TINY).log()
        else:
            logs = torch.stack([F.logsigmoid(-x), F.logsigmoid(x)], 1) if x.ndim == 1 else x.log_softmax(1)
        return cls(logs, found, x.ndim == 1)

    def labels(self, y: Any) -> Tensor:
        """Class indices ``(rows,)``, checked.

        Raises:
            DataError, TargetError: another number of them, or a class that has no probability.
        """
        found = real_numbers(y, "Labels", "Give the classes, counted from 0.").cpu()
        found = found.squeeze(1) if found.ndim == 2 and found.shape[1] == 1 else found
        if found.shape != self.logs.shape[:1]:
            raise DataError(
                f"There must be one label for each of the {len(self.logs)} rows; the labels have shape {tuple(found.shape)}."
            )
        need_classes("A label", found, self.logs.shape[1], ignored=-1)
        if bool((found < 0).any()):
            raise DataError("Labels are classes counted from 0; some are negative. Leave these rows out.")
        return found.long()

    def answer(self, chances: Tensor) -> Tensor:
        """Probabilities ``(rows, classes)`` in the shape that was given."""
        return chances[:, 1] if self.single else chances
