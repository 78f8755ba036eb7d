"""A linear model of a quantile, fast enough to be a reference: scikit-learn's solves a linear program over all rows."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
MOST_STEPS = 100  # of Newton; a problem takes about thirty
PRECISION = 1e-6  # of the cost, as a share of it
ROUNDING = 1e-12  # of the largest curvature
TO_THE_EDGE, CENTRED = (
    0.99,
    0.1,
)  # how far a step goes to where a number would be 0; the next gap as a share of this one


class LinearQuantile:
    """The linear function of least ``sum_i w_i max(q r_i, (q - 1) r_i) + 1/2 |b|^2`` with ``r = (y - c - x b) / scale``.

    The penalty is that of scikit-learn's ``LogisticRegression`` and leaves the intercept ``c`` alone; ``scale`` is the standard
    deviation of ``y``, so that its unit does not matter. A primal-dual interior point method solves the quadratic program.

    Args:
        level: ``q`` inside (0, 1); 0.5 is the median.
        deadline: value of ``time.monotonic()`` at which steps end; `solved` is then False.
    Source:
        Koenker & Bassett (1978), Econometrica 46(1); Portnoy & Koenker (1997), Statistical Science 12(4), for the method.
    Example:
        >>> x = np.arange(9.0)[:, None]
        >>> round(float(LinearQuantile(0.5).fit(x, np.array([0.0] * 8 + [100.0])).predict(x)[0]), 2)
        0.0
    """

    def __init__(self, level: float, deadline: float = math.inf) -> None:
        self.level, self.deadline = level, deadline
        self.solved, self.steps = False, 0
        self.coefficients: Array = np.zeros(0)

    def fit(self, x: Array, y: Array, weight: Array | None = None) -> LinearQuantile:
        """Solve for ``x`` of the shape ``(rows, features)`` and ``y`` of ``(rows,)``.

        Raises:
            ValueError: a number is NaN or infinite, or rounding keeps the solution from being found.
        """
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("the table holds NaN or infinite numbers")
        w = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
        centre = float(np.average(y, weights=w))
        scale = math.sqrt(float(np.average((y - centre) ** 2, weights=w))) or 1.0
        # The cost of a row is homogeneous, so that its weight may multiply the row.
        rows = w[:, None] * np.concatenate([np.ones((len(y), 1)), x], axis=1)
        self.coefficients = scale * self._solution(rows, w * (y - centre) / scale)
        self.coefficients[0] += centre
        return self

    def predict(self, x: Array) -> Array:
        """``(rows,)`` quantiles."""
        return np.asarray(self.coefficients[0] + x @ self.coefficients[1:])

    def _solution(self, x: Array, y: Array) -> Array:
        """The coefficients. Residuals are ``over - under``, and ``price``, inside ``(q - 1, q)``, is the multiplier of each."""
        penalty = np.ones(x.shape[1])
        penalty[0] = 0.0
        b, price = np.zeros(x.shape[1]), np.zeros(len(y))
        spread = float(np.abs(y).mean()) or 1.0
        over, under = np.maximum(y, 0.0) + spread, np.maximum(-y, 0.0) + spread
        for self.steps in range(MOST_STEPS):
            up, down = self.level - price, price + 1.0 - self.level
            gap = float(over @ up + under @ down)
            cost = self.level * over.sum() + (1 - self.level) * under.sum() + 0.5 * float(penalty @ b**2)
            self.solved = gap <= PRECISION * (cost + PRECISION * len(y))
            if self.solved or time.monotonic() >= self.deadline:
                break
            aim = CENTRED * gap / (2 * len(y))
            give = 1.0 / (over / up + under / down)
            left = y - x @ b - aim / up + aim / down
            curvature = x.T @ (give[:, None] * x)
            # Rows on the function weigh so much more than the penalty that collinear columns would be singular by rounding.
            curvature[np.diag_indices_from(curvature)] += penalty + ROUNDING * curvature.diagonal().max()
            to_b = np.linalg.solve(curvature, x.T @ (give * left + price) - penalty * b)
            to_price = give * (left - x @ to_b)
            to_over = (aim + over * to_price) / up - over
            to_under = (aim - under * to_price) / down - under
            moves = ((over, to_over), (under, to_under), (up, -to_price), (down, to_price))
            most = min(float(np.min(-now[by < 0] / by[by < 0], initial=math.inf)) for now, by in moves)
            step = min(1.0, TO_THE_EDGE * most)
            b, price = b + step * to_b, price + step * to_price
            over, under = over + step * to_over, under + step * to_under
        else:
            raise ValueError(f"the linear model of a quantile was not found in {MOST_STEPS} steps")
        return b
