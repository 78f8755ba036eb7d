"""Strengths in the conventions of others: what ``L2(s)`` and ``L1(s)`` must be given to mean the same.

Ours: the loss is a mean over examples, squared error has no 1/2, ``L2(s) = s/2 |w|^2`` and ``L1(s) = s |w|_1``.

============================================================  =============================================
theirs                                                        strength
============================================================  =============================================
``1/m sum_i loss_i + lam/(2m) sum_j |W_j|^2``                 ``lam/m``                          `L2.textbook`
``mean loss + lam |w|^2``                                     ``2 lam``                          `L2.keras`
``|y - Xw|^2 + alpha |w|^2``                                  ``2 alpha/m``                      `L2.ridge`
``1/(2m) |y - Xw|^2 + alpha |w|_1``                           ``2 alpha``                        `L1.lasso`
``-log p(data|w) + |w|^2/(2 std^2)``                          ``1/(m std^2)``                    `L2.prior`
``-log p(data|w) + |w|_1/scale``                              ``1/(m scale)``                    `L1.prior`
============================================================  =============================================

Under squared error with targets of standard deviation ``noise_std``, ``-log p = (y - f)^2/(2 noise_std^2)``: both priors are
multiplied by ``2 noise_std^2``. ``"mse"`` averages over ``k`` outputs what squared error adds up: there ``m`` is the number of
values, rows times ``k``, and strengths without ``m`` are divided by ``k``. docs/derivations/elementwise.md has the algebra.
"""

from __future__ import annotations

import math
import sys
from numbers import Integral, Real
from typing import Annotated, Any

from wellposed.core.checks import Positive, Within, checked
from wellposed.core.errors import InputError, did_you_mean


def decay_per_strength(scaling: str, lr: float, first: float, largest: float) -> float:
    """The share that decay takes off each weight in one step, per strength: ``lr`` for torch, ``lr/first`` for composer, 1 for
    independent, ``lr^2/largest`` for timm.
    """
    if scaling == "composer":
        check_above_zero("The decay of Composer", first=first)
        return lr / first
    if scaling == "timm":
        check_above_zero("The decay of timm", largest=largest)
        return lr * lr / largest
    return 1.0 if scaling == "independent" else lr


SCALINGS = {
    "torch": "torch", "keras": "torch", "optax": "torch", "pat": "torch", "composer": "composer", "timm": "timm",
    "independent": "independent",
}  # fmt: skip
"""Libraries and the scaling of their decoupled decay: AdamW of torch, Keras and optax, and the thresholds of torchao's PAT, follow
the learning rate; Composer's decay is a share of the rate over the first one; timm's corrected one goes with its square."""


@checked
def translate_decay(
    value: Annotated[float, Within(0, sys.float_info.max)],
    source: str,
    target: str,
    *,
    lr: Positive,
    largest: Positive | None = None,
) -> float:
    """The decoupled decay that takes as much off a weight in a step: ``value * f_source(lr) / f_target(lr)``.

    Args:
        value: >= 0, as the source's optimizer is given it.
        source, target: ``"torch"``, ``"keras"``, ``"optax"``, ``"pat"`` (all ``lr``), ``"composer"`` (``lr/first``, the first
            rate being ``lr`` here), ``"timm"`` (``lr^2/largest``) or ``"independent"`` (1).
        lr: > 0, the rate that the optimizer is built with; where schedules differ, the two agree at this rate alone.
        largest: > 0, of the schedule; ``lr`` by default.
    Raises:
        InputError: an unknown convention, a negative value, or a rate that is not positive or beyond the numbers there are.
    Example:
        >>> translate_decay(0.01, "torch", "composer", lr=1e-3)
        1e-05
    """
    shares = []
    for name in (source, target):
        if name not in SCALINGS:
            raise InputError(
                f"There is no decay convention {name!r}.{did_you_mean(name, SCALINGS)} Known: {', '.join(SCALINGS)}."
            )
        shares.append(decay_per_strength(SCALINGS[name], lr, lr, lr if largest is None else largest))
    if not all(0 < share < math.inf for share in shares) or not math.isfinite(found := value * (shares[0] / shares[1])):
        raise InputError(
            f"At a rate of {lr:g} a step's decay in the convention of {source} or {target} is too small or too large for a number; "
            "give the rate that is used."
        )
    return found


def call_text(name: str, **given: float | None) -> str:
    """``prior(std=0.5, m=100)``: the convention as it was called, without what was left out."""
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items() if value is not None)})"


def squared_error_factor(owner: str, noise_std: float | None) -> float:
    """The mean squared error divided by the mean negative log-likelihood, up to a constant."""
    if noise_std is None:
        return 1.0
    check_above_zero(owner, noise_std=noise_std)
    return 2.0 * noise_std**2


def check_above_zero(owner: str, or_zero: bool = False, **values: Any) -> None:
    """Refuse what is not above 0 (``or_zero``), infinite or no number, naming it."""
    for name, value in values.items():
        number = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and not or_zero):
            raise InputError(f"{owner} needs a finite {name} {'>=' if or_zero else '>'} 0; it was given {value!r}.")


def checked_examples(owner: str, m: object) -> int:
    """The number of training examples, refused where it is no whole number >= 1."""
    if isinstance(m, bool) or not isinstance(m, Integral) or m < 1:
        raise InputError(f"{owner} needs m, the number of training examples, an integer >= 1; it was given {m!r}.")
    return int(m)
