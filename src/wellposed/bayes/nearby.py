"""`Nearby`: what the residuals of rows nearby say of a new row, by a Gaussian process of each row's neighbours.

A network is smooth, and data often are not: two power stations at nearly the same weather have nearly the same residual. A
Gaussian process with the rough kernel ``exp(-d)`` sees that, and of it only the near rows matter: each row is predicted from its
own ``NEAR`` neighbours, at a cost that grows with the square of the rows at most. Which inputs make rows near is learned: a scale
for each.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.core.random import generator

NEAR = 48
"""Neighbours of a row."""
SCALES = (0.3, 1.0, 3.0)
"""Of all inputs, to start with: the reciprocal of the kernel's length, in standard deviations of an input."""
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Variance of what neighbours do not share, in units of what they share."""
FACTOR, PASSES = 3.0, 2
"""By which the scale of one input is changed, as long as that helps, and how often all inputs have their turn."""
WORTH = 1e-3
"""The share by which a step must lower the squared error."""
MOST = 1000
"""Rows that choose among scales and noises, and as many others that must show that the choice helps."""
SURE = 2.0
"""Standard errors by which it must lower their squared error."""
EXACT = "donot_use_mm_for_euclid_dist"
"""Distances from products lose the digits of near rows where one scale is large."""
BLOCK = 1024
"""Rows whose systems of equations are solved together: 20 MB."""


@dataclass(frozen=True)
class Nearby:
    """``g(x) = k(x, N) (K(N, N) + noise I)^-1 r(N)`` over the neighbours ``N`` of ``x``, with ``k(x, z) = exp(-|scales (x - z)|)``.

    Attributes:
        inputs, residuals: of the rows that it knows, ``(rows, features)`` and ``(rows,)``; inputs times ``scales``.
        scales: of each input, ``(features,)``; a large one asks for rows with the same value. None: neighbours do not help.
        noise: > 0.
    """

    inputs: Tensor
    residuals: Tensor
    scales: Tensor | None
    noise: float

    @classmethod
    def fit(cls, inputs: Tensor, residuals: Tensor, seed: int = 0) -> Nearby:
        """Scales and noise by the squared error of rows that are left out; no correction unless other rows show that it helps.

        Args:
            inputs: ``(rows, features)``, standardized.
            residuals: ``(rows,)``, target less prediction, of a prediction that was not fitted to these rows.
            seed: of the rows that choose.
        """
        x, r = inputs.double(), residuals.double()
        order = torch.randperm(len(r), generator=generator(seed, "nearby"))
        half = min(MOST, len(r) // 2)
        choose, show = order[:half], order[half : 2 * half]

        def errors(rows: Tensor, scales: Tensor, noise: float) -> Tensor:
            z = x * scales
            return (r[rows] - _solved(z, r, z[rows], _near(z, z[rows], rows), noise)[0]).square()

        tried = itertools.product([torch.full_like(x[0], scale) for scale in SCALES], NOISES)
        least, scales, noise = min(
            ((float(errors(choose, *at).mean()), *at) for at in tried), key=lambda found: found[0]
        )
        for column, factor in itertools.product([*range(x.shape[1])] * PASSES, (FACTOR, 1 / FACTOR)):
            while True:
                other = scales.clone()
                other[column] *= factor
                error = float(errors(choose, other, noise).mean())
                if error > (1 - WORTH) * least:
                    break
                least, scales = error, other
        noise = min(NOISES, key=lambda other: float(errors(choose, scales, other).mean()))
        gain = r[show].square() - errors(show, scales, noise)
        if gain.mean() > SURE * gain.std() / len(gain) ** 0.5:
            return cls(x * scales, r, scales, noise)
        return cls(x, r, None, noise)

    def __call__(self, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean and the share of the variance that neighbours leave, each ``(rows,)``.

        Args:
            inputs: of new rows; None for each known row, left out of its own neighbours.
        """
        if self.scales is None:
            x = self.inputs if inputs is None else inputs.double()
            return x.new_zeros(len(x)), x.new_ones(len(x))
        x = self.inputs if inputs is None else inputs.double() * self.scales
        parts = []
        for rows in torch.arange(len(x)).split(BLOCK):  # type: ignore[no-untyped-call]
            near = _near(self.inputs, x[rows], rows if inputs is None else None)
            parts.append(_solved(self.inputs, self.residuals, x[rows], near, self.noise))
        means, left = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(left)


def _near(known: Tensor, x: Tensor, itself: Tensor | None) -> Tensor:
    """The nearest known rows of each row, ``(rows, NEAR)``, without ``itself``."""
    apart = torch.cdist(x, known, compute_mode=EXACT)
    if itself is not None:
        apart[torch.arange(len(x)), itself] = torch.inf
    return apart.topk(min(NEAR, len(known) - (itself is not None)), largest=False).indices


def _solved(known: Tensor, r: Tensor, x: Tensor, near: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    points = known[near]
    among = (-torch.cdist(points, points, compute_mode=EXACT)).exp()
    among.diagonal(dim1=1, dim2=2).add_(noise)
    lower = torch.linalg.cholesky(among)
    to = (-(points - x[:, None]).norm(dim=2)).exp()
    both = torch.linalg.solve_triangular(lower, torch.stack([to, r[near]], 2), upper=False)
    return (both[..., 0] * both[..., 1]).sum(1), 1 - both[..., 0].square().sum(1) / (1 + noise)
