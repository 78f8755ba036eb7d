"""`Nearby`: what the residuals of rows nearby say of a new row, by a Gaussian process of each row's neighbours.

A network is smooth, and data often are not: two power stations at nearly the same weather have nearly the same residual. A Gaussian
process with the rough kernel ``exp(-d/length)`` sees that, and of it only the near rows matter: each row is predicted from its own
``NEAR`` neighbours, at a cost that grows with the rows and not with their cube.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 48
"""Nearby of a row: three times as many changed no held-out error by more than a hundredth."""
LENGTHS = (0.1, 0.3, 1.0, 3.0)
"""Of the kernel, in standard deviations of an input."""
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Variance of what neighbours do not share, in units of what they share."""
CHOSEN_ON = 1000
"""Rows whose left-out errors choose among lengths and noises."""
SURE = 2.5
"""Standard errors by which the best of 28 corrections must lower the squared error: of noise alone, one does so by chance."""
BLOCK = 1024
"""Rows whose systems of equations are solved together: 10 MB."""


@dataclass(frozen=True)
class Nearby:
    """``g(x) = k(x, N) (K(N, N) + noise I)^-1 r(N)`` over the neighbours ``N`` of ``x``, with ``k(x, z) = exp(-|x - z|/length)``.

    Attributes:
        inputs, residuals: of the rows that it knows, ``(rows, features)`` and ``(rows,)``.
        length, noise: of the least squared error where each row is left out; a length of 0 says that neighbours do not help.
    """

    inputs: Tensor
    residuals: Tensor
    length: float
    noise: float

    @classmethod
    def fit(cls, inputs: Tensor, residuals: Tensor) -> Nearby:
        """Length and noise by the squared error of rows that are left out; no correction where it helps no more than chance does.

        Args:
            inputs: ``(rows, features)``, standardized.
            residuals: ``(rows,)``, target less prediction, of a prediction that was not fitted to these rows.
        """
        x, r = inputs.double(), residuals.double()
        rows = torch.linspace(0, len(r) - 1, min(len(r), CHOSEN_ON)).round().long()
        near = _near(x, x[rows], rows)
        gains = {
            (length, noise): r[rows].square() - (r[rows] - _solved(x, r, x[rows], near, length, noise)[0]).square()
            for length, noise in itertools.product(LENGTHS, NOISES)
        }
        best = max(gains, key=lambda pair: float(gains[pair].mean()))
        gain = gains[best]
        sure = gain.mean() > SURE * gain.std() / len(gain) ** 0.5
        return cls(x, r, *(best if sure else (0.0, 1.0)))

    def __call__(self, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean and the share of the variance that neighbours leave, each ``(rows,)``.

        Args:
            inputs: of new rows; None for each known row, left out of its own neighbours.
        """
        x = self.inputs if inputs is None else inputs.double()
        if not self.length:
            return x.new_zeros(len(x)), x.new_ones(len(x))
        parts = []
        for rows in torch.arange(len(x)).split(BLOCK):
            near = _near(self.inputs, x[rows], rows if inputs is None else None)
            parts.append(_solved(self.inputs, self.residuals, x[rows], near, self.length, self.noise))
        means, left = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(left)


def _near(known: Tensor, x: Tensor, itself: Tensor | None) -> Tensor:
    """The nearest known rows of each row, ``(rows, NEAR)``, without ``itself``."""
    apart = torch.cdist(x, known)
    if itself is not None:
        apart[torch.arange(len(x)), itself] = torch.inf
    return apart.topk(min(NEAR, len(known) - (itself is not None)), largest=False).indices


def _solved(known: Tensor, r: Tensor, x: Tensor, near: Tensor, length: float, noise: float) -> tuple[Tensor, Tensor]:
    points = known[near]
    among = (-torch.cdist(points, points) / length).exp()
    among.diagonal(dim1=1, dim2=2).add_(noise)
    lower = torch.linalg.cholesky(among)
    to = (-(points - x[:, None]).norm(dim=2) / length).exp()
    both = torch.linalg.solve_triangular(lower, torch.stack([to, r[near]], 2), upper=False)
    return (both[..., 0] * both[..., 1]).sum(1), 1 - both[..., 0].square().sum(1) / (1 + noise)
