"""Student's t distribution without scipy, which the base install does not have."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from wellposed.core.errors import InputError


@lru_cache(maxsize=4096)
def student_quantile(p: float, dof: float) -> float:
    """The ``t`` with ``P(T <= t) = p`` under Student's distribution with ``dof`` degrees of freedom.

    Args:
        p: inside (0, 1).
        dof: > 0, need not be whole.
    Raises:
        InputError: ``p`` or ``dof`` is outside its range.
    """
    if not (0 < p < 1 and dof > 0):
        raise InputError(f"student_quantile needs 0 < p < 1 and dof > 0; given p = {p}, dof = {dof}.")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -student_quantile(1 - p, dof)
    low, high = 0.0, 2.0
    while student_tail(high, dof) > 1 - p:
        low, high = high, 2 * high
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, dof) > 1 - p else (low, middle)
    return (low + high) / 2


def half_width(values: npt.ArrayLike, level: float) -> float:
    """Half the t interval for the mean of values; NaN for one of them, which says nothing of others."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return math.nan
    return student_quantile((1 + level) / 2, len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found))


def student_tail(t: float, dof: float) -> float:
    """``P(T > t)`` for ``t >= 0``: half the regularized incomplete beta ``I_x(dof/2, 1/2)``, at
    ``x = dof/(dof + t^2)``.
    """
    if dof > 1e8:  # the logarithms of the gamma functions cancel there, and the normal distribution is exact to 1e-9
        return 0.5 * math.erfc(t / math.sqrt(2))
    return 0.5 * _incomplete_beta(dof / 2, 0.5, dof / (dof + t * t), t * t / (dof + t * t))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """``I_x(a, b)`` with ``rest = 1 - x`` given apart, so that nothing cancels near x = 1."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    if x < (a + 1) / (a + b + 2):  # the continued fraction converges fast on this side; the other by symmetry
        return math.exp(log_front) * _beta_fraction(a, b, x) / a
    return 1 - math.exp(log_front) * _beta_fraction(b, a, rest) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, evaluated by the modified Lentz method."""
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
