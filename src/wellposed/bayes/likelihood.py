"""`Likelihood`: a loss read as minus the logarithm of a probability, and what a strength is in it.

Every loss is a mean over rows, so that the cost ``C(w) = loss(w) + sum_k strength_k/2 |w_k|^2`` is the negative logarithm of a
posterior once it is multiplied by ``scale``: ``-log p(w|data) = scale*C(w) + const``. The precision of the Gaussian prior that a
strength is, is ``scale*strength``. With ``m`` rows of ``k`` outputs, and targets of noise variance ``v``:

=========================  ==========================================  ===============  ============================
loss                       one row's ``-log p(y|f)``                   ``scale``        curvature by the outputs
=========================  ==========================================  ===============  ============================
``squared_error`` (a sum)  ``|y - f|^2/(2v) + k/2 log(2 pi v)``        ``m/(2v)``       ``I/v``
``mse`` (a mean)           the same                                    ``m*k/(2v)``     ``I/v``
``cross_entropy``          ``-log softmax(f)[y]``                      ``m``            ``diag(p) - p p^T``
``binary_cross_entropy``   ``sum_j log(1 + exp(f_j)) - y_j f_j``       ``m``            ``diag(p (1 - p))``
=========================  ==========================================  ===============  ============================

A loss that is a mean over outputs too, torch's ``BCEWithLogitsLoss`` say, has ``m*k`` in place of ``m``. `L2.prior` is the same
sentence read backwards: strength ``1/(m std^2)``, times ``2v`` under squared error. A prior that is known as a standard deviation
does not change with the number of rows; a strength does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from wellposed.core.errors import InputError, ProblemError, TargetError, described, listed
from wellposed.losses.per_example import Loss
from wellposed.losses.targets import IGNORED

LikelihoodKind = Literal["numbers", "classes", "labels"]
KINDS: dict[str, LikelihoodKind] = {
    "squared_error": "numbers",
    "mse": "numbers",
    "cross_entropy": "classes",
    "binary_cross_entropy": "labels",
}


@dataclass(frozen=True)
class Likelihood:
    """The probability of targets ``y`` given outputs ``f``, both ``(rows, outputs)``; classes are ``(rows,)``.

    Attributes:
        kind: ``"numbers"`` with Gaussian noise, ``"classes"`` of which one is true, ``"labels"`` of 0 and 1 for each output.
        averaged: the loss is a mean over outputs too: ``mse``, and torch's ``BCEWithLogitsLoss``.
        rows, outputs: of the training data.
        noise_var: > 0, of the targets where they are numbers, the same for every output; 1 elsewhere.
        target_var: of the training targets where they are numbers: what a residual is small beside.
    """

    kind: LikelihoodKind
    averaged: bool
    rows: int
    outputs: int
    noise_var: float = 1.0
    target_var: float = 1.0

    @classmethod
    def of(cls, loss: Any, rows: int, outputs: int) -> Self:
        """The likelihood that a loss is.

        Raises:
            ProblemError: the loss is none, or one with weights, ignored classes, smoothed labels or another reduction than the
                mean.
        """
        found = Loss(loss)
        name = found.name if found.criterion is not None or found.same is None else found.same.name
        if name not in KINDS or (found.known is not None and found.known.ends_in is not None):
            raise ProblemError(
                f"The loss {found} is no likelihood that is known here, so that there is no posterior. Use squared_error or mse "
                "(Gaussian noise), cross_entropy or binary_cross_entropy."
            )
        given = found.module
        changed = (
            *(key for key in ("weight", "pos_weight") if getattr(given, key, None) is not None),
            *(("label_smoothing",) if getattr(given, "label_smoothing", 0.0) else ()),
            *(("ignore_index",) if found.ignored_index != IGNORED else ()),
            *(("reduction",) if getattr(given, "reduction", "mean") != "mean" else ()),
        )
        if changed:
            raise ProblemError(
                f"The loss sets {listed(f'{key}={getattr(given, key)}' for key in changed)}: it is no mean of -log p over all "
                f"rows. Use the plain {name}."
            )
        averaged = name == "mse" or isinstance(given, nn.BCEWithLogitsLoss)
        return cls(KINDS[name], averaged, rows, outputs)

    @property
    def numbers(self) -> bool:
        """Whether targets are numbers with Gaussian noise."""
        return self.kind == "numbers"

    @property
    def scale(self) -> float:
        """What the mean loss is multiplied by to be in nats of all rows."""
        units = self.rows * (self.outputs if self.averaged else 1)
        return units / (2 * self.noise_var) if self.numbers else float(units)

    @property
    def constant(self) -> float:
        """``-log p`` of all training rows less `misfit`, in nats."""
        return 0.5 * self.rows * self.outputs * math.log(2 * math.pi * self.noise_var) if self.numbers else 0.0

    def is_exact(self, misfit: float) -> bool:
        """Whether outputs equal all training targets but for the rounding of single precision; ``misfit`` at unit noise."""
        return self.numbers and misfit <= 1e-14 * self.target_var * self.rows * self.outputs

    def with_noise(self, noise_var: float) -> Self:
        """The same with another noise variance, where targets are numbers."""
        return replace(self, noise_var=noise_var) if self.numbers else self

    def targets(self, y: Any, outputs: Tensor) -> Tensor:
        """Targets as they stand beside outputs ``(n, outputs)``.

        Raises:
            TargetError: there is not one for each output, or for each row.
        """
        if not isinstance(y, Tensor):
            raise InputError(f"A likelihood needs targets in a tensor; it was given {described(y)}.")
        if self.kind == "classes":
            given = y.squeeze(1) if y.ndim == 2 and y.shape[1] == 1 else y
            if given.shape != outputs.shape[:1] or given.is_floating_point():
                raise TargetError(
                    f"The likelihood of classes needs one class index for each row; the targets are {str(y.dtype)[6:]} of shape "
                    f"{tuple(y.shape)} for {len(outputs)} rows."
                )
            if bool((given < 0).any() or (given >= outputs.shape[1]).any()):
                raise TargetError(
                    f"The likelihood of classes needs class indices from 0 to {outputs.shape[1] - 1}; rows without a class "
                    "must be left out of the data."
                )
            return given
        if y.numel() != outputs.numel():
            raise TargetError(
                f"The targets have shape {tuple(y.shape)}, the outputs {tuple(outputs.shape)}; they differ."
            )
        return y.reshape(outputs.shape).to(outputs)

    def misfit(self, f: Tensor, y: Tensor) -> Tensor:
        """``-sum_i log p(y_i|f_i)`` in nats but for what does not depend on the outputs, 0-d; carries gradient."""
        if self.kind == "classes":
            return cross_entropy(f, y, reduction="sum")
        if self.kind == "labels":
            return binary_cross_entropy_with_logits(f, y, reduction="sum")
        return (y - f).square().sum() / (2 * self.noise_var)

    def slope(self, f: Tensor, y: Tensor) -> Tensor:
        """The gradient of `misfit` by the outputs, ``(n, outputs)``."""
        if self.kind == "classes":
            return f.softmax(1) - one_hot(y, f.shape[1])
        return (f.sigmoid() - y) if self.kind == "labels" else (f - y) / self.noise_var

    def root(self, f: Tensor) -> Tensor:
        """``S``, ``(n, outputs, outputs)``, with ``S S^T`` the Hessian of `misfit` by the outputs of each row."""
        if self.kind == "classes":
            p = f.softmax(1)
            return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
        if self.kind == "labels":
            p = f.sigmoid()
            return torch.diag_embed((p * (1 - p)).sqrt())
        return torch.eye(f.shape[1]).to(f).expand(len(f), -1, -1) / math.sqrt(self.noise_var)
