"""Penalties of whole matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from charges import equal
from wellposed.ops.prox import group_soft_threshold, soft_threshold
from wellposed.ops.singular_values import as_matrices, from_matrices, soft_threshold_spectrum, spectral_map
from wellposed.penalties.base import Traits
from wellposed.penalties.matrix import Nuclear, Orthogonality, RowL21, Spectral

GIVEN: dict[str, list[dict[str, Any]]] = {
    "nuclear": [{"strength": 0.3}, {"strength": 0.4, "parts": 2}],
    "spectral": [{"strength": 0.3}, {"strength": 0.6, "parts": 2}],
    # With step 3 the amount is above 1, where the prox is not unique everywhere.
    "orthogonality": [{"strength": 0.2}, {"strength": 0.35, "parts": 2}],
    "row_l21": [{"strength": 0.3}, {"strength": 0.3, "weights": [1.0, 0.0, 2.0, 0.5]}],
}


def diagonal(*values: float, columns: int | None = None) -> Tensor:
    """A matrix whose singular values are the magnitudes of ``values``."""
    w = torch.zeros(len(values), columns or len(values), dtype=torch.float64)
    w[range(len(values)), range(len(values))] = torch.tensor(values, dtype=torch.float64)
    return w


def nuclear_form(cls: Callable[..., Any]) -> None:
    """Singular values 5, 2 and 0.5; strength 0.5, step 2: threshold 1."""
    w = diagonal(5.0, -2.0, 0.5, columns=4)
    equal(cls(0.5).value(w), 3.75)
    equal(cls(0.5).prox(w, 2.0), diagonal(4.0, -1.0, 0.0, columns=4).tolist())
    # (3, 4; 3, 4)/sqrt(2) has rank one and singular value 5; one less leaves four fifths.
    lone = torch.tensor([[3.0, 4.0], [3.0, 4.0]], dtype=torch.float64) / math.sqrt(2)
    equal(cls(0.5).prox(lone, 2.0), (0.8 * lone).tolist())
    # Off the range of diag(1, 0) Z is free up to 0.5: of 0.9 remains 0.4; beside it 0.5 - 0.2, and 0.4 off the diagonal.
    grad = torch.tensor([[-0.2, 0.4], [0.0, 0.9]], dtype=torch.float64)
    equal(cls(0.5).violation(diagonal(1.0, 0.0), grad), math.sqrt(0.09 + 0.16 + 0.16))
    # Two parts are two matrices: (3; 4) of singular value 5 and (0; 2) of 2; a kernel's row is its filter.
    stacked = torch.tensor([3.0, 4.0, 0.0, 2.0], dtype=torch.float64)
    equal(cls(1.0, parts=2).value(stacked.view(4, 1)), 7.0)
    equal(cls(1.0).value(stacked.view(4, 1)), math.sqrt(29.0))
    equal(cls(1.0).value(torch.tensor([3.0, 4.0, 4.0, -3.0], dtype=torch.float64).view(2, 1, 1, 2)), 10.0)


def spectral_form(cls: Callable[..., Any]) -> None:
    """Singular values 5, 4 and 1; strength 1.5, step 2: 3 is cut off the largest, so 5 and 4 meet at 3."""
    w = diagonal(5.0, -4.0, 1.0)
    equal(cls(1.5).value(w), 7.5)
    equal(cls(1.5).prox(w, 2.0), diagonal(3.0, -3.0, 1.0).tolist())
    equal(cls(1.0).prox(w, 0.5), diagonal(4.5, -4.0, 1.0).tolist())
    equal(cls(1.0).prox(w, 10.0), diagonal(0.0, 0.0, 0.0).tolist())
    # On the top space of diag(2, 2, 1): -grad has eigenvalues 0.9 and 0.7 there, the simplex takes 0.6 and 0.4.
    grad = -diagonal(0.9, 0.7, 0.2)
    equal(cls(1.0).violation(diagonal(2.0, 2.0, 1.0), grad), math.sqrt(0.09 + 0.09 + 0.04))
    # At 0 the subdifferential is the nuclear ball: (3, 1) is projected on (1, 0).
    equal(cls(1.0).violation(diagonal(0.0, 0.0), diagonal(3.0, 1.0)), math.sqrt(5.0))
    equal(cls(1.0, parts=2).value(torch.tensor([[3.0], [4.0], [0.0], [2.0]], dtype=torch.float64)), 7.0)


def orthogonality_form(cls: Callable[..., Any]) -> None:
    """Singular values 2 and 0.5: (9 + 9/16)/4; ``u^3 + u = 10`` has the root 2 with amount 1/2 and sigma 5."""
    w = diagonal(2.0, -0.5, columns=3)
    equal(cls(1.0).value(w), (9.0 + 9.0 / 16.0) / 4.0)
    equal(cls(1.0).value(w.T), (9.0 + 9.0 / 16.0) / 4.0)
    equal(cls(1.0).prox(diagonal(5.0, -1.0), 0.5), diagonal(2.0, -1.0).tolist())
    # 4 u^3 - 3 u = 26 at 2, and = 0 at sqrt(3)/2, which beats 0.
    equal(cls(2.0).prox(diagonal(26.0, 0.0), 2.0), diagonal(2.0, math.sqrt(0.75)).tolist())
    # The gradient at 2 is 2*(4 - 1).
    equal(cls(1.0).violation(diagonal(2.0), diagonal(-2.0)), 4.0)
    equal(cls(0.5).violation(w.T, torch.zeros_like(w.T)), 0.5 * math.hypot(6.0, 0.375))
    equal(cls(1.0, parts=2).value(torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)), 0.0)


def row_l21_form(cls: Callable[..., Any]) -> None:
    """Rows (3, 4) and (0.3, 0.4), norms 5 and 0.5; no factor for their size; step 2, strength 0.5: threshold 1."""
    w = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    equal(cls(0.5).value(w), 2.75)
    equal(cls(0.5).prox(w, 2.0), [[2.4, 3.2], [0.0, 0.0]])
    equal(cls(0.5).violation(torch.zeros_like(w), torch.tensor([[0.0, 2.5], [0.3, 0.0]], dtype=torch.float64)), 2.0)
    equal(cls(0.5).value(w.view(2, 1, 1, 2)), 2.75)


CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {
    "nuclear": nuclear_form,
    "spectral": spectral_form,
    "orthogonality": orthogonality_form,
    "row_l21": row_l21_form,
}


class NuclearOfTheEntries(Nuclear):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return soft_threshold(w, step * self.strength)


class NuclearHardThreshold(Nuclear):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        cut = float(step) * self.strength
        return from_matrices(spectral_map(as_matrices(w, self.parts), lambda s: s * (s > cut)), w)


class NuclearIsFrobenius(Nuclear):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * torch.linalg.vector_norm(w)


class NuclearForgetsItsParts(Nuclear):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        a = as_matrices(w)
        return from_matrices(soft_threshold_spectrum(a, torch.as_tensor(step).to(a) * self.strength), w)


class NuclearViolationWithoutTheFreePart(Nuclear):
    """At a matrix of low rank only ``U V^T`` is taken for the subdifferential."""

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        a = as_matrices(w, self.parts)
        signs = spectral_map(a, lambda s: (s > 1e-12).to(s))
        return torch.linalg.vector_norm(as_matrices(grad, self.parts) + self.strength * signs)


class NuclearNotANumberAtZero(Nuclear):
    def value(self, w: Tensor) -> Tensor:
        # The root of the Gram matrix's eigenvalues has no gradient at 0.
        a = as_matrices(w, self.parts)
        return self.strength * torch.linalg.eigvalsh(a @ a.mT).clamp_min(0).sqrt().sum()


class SpectralIsFrobenius(Spectral):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * torch.linalg.matrix_norm(as_matrices(w, self.parts)).sum()


class SpectralScaled(Spectral):
    """All singular values are made smaller, not the largest alone."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        cut = float(step) * self.strength
        return from_matrices(
            spectral_map(as_matrices(w, self.parts), lambda s: s * (1 - cut / s[..., :1]).clamp_min(0)), w
        )


class SpectralLowersOne(Spectral):
    """Only the first singular value is lowered, also below the second."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        cut = float(step) * self.strength

        def lowered(s: Tensor) -> Tensor:
            return torch.cat([(s[..., :1] - cut).clamp_min(0), s[..., 1:]], dim=-1)

        return from_matrices(spectral_map(as_matrices(w, self.parts), lowered), w)


class SpectralIsNuclear(Spectral):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return Nuclear(self.strength, self.parts).prox(w, step)


class SpectralViolationOfOneVector(Spectral):
    """On a kink only the gradient of the first singular value is taken."""

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        a = as_matrices(w, self.parts)
        first = spectral_map(a, lambda s: torch.eye(s.shape[-1], dtype=s.dtype)[0].expand_as(s))
        return torch.linalg.vector_norm(as_matrices(grad, self.parts) + self.strength * first)


class OrthogonalityWithoutQuarter(Orthogonality):
    def value(self, w: Tensor) -> Tensor:
        return 4 * super().value(w)


class OrthogonalityOfTheLargerGram(Orthogonality):
    """Of a tall matrix ``W W^T`` cannot be the identity."""

    def value(self, w: Tensor) -> Tensor:
        a = as_matrices(w, self.parts)
        gram = a @ a.mT
        return 0.25 * self.strength * (gram - torch.eye(gram.shape[-1], dtype=w.dtype)).square().sum()


class OrthogonalityOneGradientStep(Orthogonality):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        a = as_matrices(w, self.parts)
        return from_matrices(a - step * self.strength * ((a @ a.mT) @ a - a), w)


class OrthogonalityOnTheOrthogonal(Orthogonality):
    """Straight to the polar factor."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return from_matrices(spectral_map(as_matrices(w, self.parts), torch.ones_like), w)


class OrthogonalitySaysItIsConvex(Orthogonality):
    @property
    def traits(self) -> Traits:
        return Traits(symmetric=False, diagonal=False)


class RowsWithTheirSize(RowL21):
    def scaled(self, w: Tensor) -> Any:
        return wp.GroupL2(self.strength).scaled(w)


class RowsAreColumns(RowL21):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return group_soft_threshold(w, step, self.strength, axis=1)


class RowsAreEntries(RowL21):
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return soft_threshold(w, step * self.strength)


class RowsSquared(RowL21):
    def value(self, w: Tensor) -> Tensor:
        return self.strength * w.square().sum()


class NuclearThroughTheDecomposition(Nuclear):
    """The gradient of a singular value decomposition is not a number where singular values meet."""

    def moved(self, a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        return torch.where(amount > 0, (u * (s - amount).clamp_min(0.0).unsqueeze(-2)) @ vh, a)
