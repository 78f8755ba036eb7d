"""Operators on singular values, and matrices with orthonormal rows.

All take stacks of matrices ``(parts, rows, columns)``. Numbers shorter than float32 are computed in float32. A matrix
with a number that is not finite gives matrices and values that are not finite, never an error or a wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.ops.project import simplex_threshold

Spectrum = Callable[[Tensor], Tensor]


def as_matrices(w: Tensor, parts: int = 1) -> Tensor:
    """``(parts, rows/parts, everything else)`` of at least float32: axis 0 is cut into equal parts."""
    low = w.dtype in (torch.float16, torch.bfloat16)
    return (w.float() if low else w).reshape(parts, w.shape[0] // parts, -1)


def back(matrices: Tensor, w: Tensor) -> Tensor:
    """The inverse of `as_matrices`, in the shape and type of ``w``."""
    return matrices.reshape(w.shape).to(w.dtype)


def finite(a: Tensor) -> Tensor:
    """``(parts, 1, 1)``: whether every number of a matrix is finite."""
    return torch.isfinite(a).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)


def svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin ``U, sigma, V^T``; U and sigma of a matrix that is not finite are not numbers."""
    good = finite(a)
    u, s, vh = torch.linalg.svd(a.where(good, torch.zeros_like(a)), full_matrices=False)
    return u.where(good, torch.full_like(u, math.nan)), s.where(good.squeeze(-1), torch.full_like(s, math.nan)), vh


def singular_values(a: Tensor) -> Tensor:
    """``(parts, min(rows, columns))``, downwards; differentiable."""
    good = finite(a)
    s: Tensor = torch.linalg.svdvals(a.where(good, torch.zeros_like(a)))
    return s.where(good.squeeze(-1), torch.full_like(s, math.nan))


def rounding(a: Tensor, dtype: torch.dtype) -> float:
    """How much rounding may change a singular value, relative to the largest: of the numbers held, and of computing."""
    return 8 * torch.finfo(dtype).eps + 4 * torch.finfo(a.dtype).eps * math.sqrt(max(a.shape[-2:]))


def above_rounding(s: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """Which singular values are not 0; one that is not a number counts as not 0."""
    return ~(s <= rounding(a, dtype) * s[..., :1])


def spectral_map(a: Tensor, change: Spectrum) -> Tensor:
    """``U change(sigma) V^T``."""
    u, s, vh = svd(a)
    return (u * change(s).unsqueeze(-2)) @ vh


def soft_threshold_spectrum(a: Tensor, threshold: Tensor) -> Tensor:
    """``argmin_B 1/2 |B - A|^2 + threshold * sum_i sigma_i(B)``: ``max(sigma - threshold, 0)``.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        threshold: 0-d, >= 0. 0 returns ``a`` bit for bit.
    Source:
        Cai, Candes & Shen (2010), SIAM Journal on Optimization 20(4).
    """
    return torch.where(threshold > 0, spectral_map(a, lambda s: (s - threshold).clamp_min(0.0)), a)


def lower_the_largest(a: Tensor, radius: Tensor) -> Tensor:
    """``argmin_B 1/2 |B - A|^2 + radius * sigma_1(B)``: ``min(sigma, theta)`` with ``sum_i max(sigma_i - theta, 0) = radius``.

    By Moreau's identity this is ``A`` minus its projection on the nuclear ball of that radius, which is ``A`` itself
    (and the minimizer 0) where ``sum_i sigma_i <= radius``.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        radius: 0-d, >= 0. 0 returns ``a`` bit for bit.
    """

    def capped(s: Tensor) -> Tensor:
        theta = simplex_threshold(s, radius).clamp_min(0.0)
        return torch.where(s.sum(dim=-1, keepdim=True) <= radius, torch.zeros_like(s), s.minimum(theta))

    return torch.where(radius > 0, spectral_map(a, capped), a)


def toward_one(a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
    """``argmin_B 1/2 |B - A|^2 + amount/4 * sum_i (sigma_i(B)^2 - 1)^2``.

    Each singular value goes to the largest root of ``amount*u^3 + (1 - amount)*u = sigma``, which is the global
    minimizer for every amount. Where sigma is 0 and the amount above 1, the root is not 0 and its direction free: the
    matrices of `polar` are taken.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        amount: 0-d, >= 0. 0 returns ``a`` bit for bit.
        dtype: of the weights, which says what is a zero singular value.
    """
    u, s, vh = svd(a)
    alive = above_rounding(s, a, dtype)
    zero = torch.zeros_like(s)
    root = largest_root(torch.where(alive, s, zero), amount)
    moved = (u * torch.where(alive, root, zero).unsqueeze(-2)) @ vh
    free = largest_root(zero[..., :1], amount).unsqueeze(-1) * _complement(a, u, alive, vh, dtype)
    return torch.where(amount > 0, moved + free, a)


def largest_root(s: Tensor, amount: Tensor) -> Tensor:
    """The largest u with ``amount*u^3 + (1 - amount)*u = s``, for ``s >= 0`` and ``amount >= 0``.

    Newton's method from a point right of the root, at most twice as far: on that side the cubic is convex and
    increasing, so that it falls to the root monotonically and quadratically.
    """
    cube = (s / amount) ** (1.0 / 3.0)
    below = torch.minimum(cube, s / (1.0 - amount)).where(amount < 1, cube)
    above = ((amount - 1.0).clamp_min(0.0) / amount).sqrt() + cube
    u = torch.where(amount <= 1, below, above)
    for _ in range(8):
        slope = 3.0 * amount * u.square() + (1.0 - amount)
        excess = amount * u * u.square() + (1.0 - amount) * u - s
        u = torch.where(slope > 0, u - excess / slope, u)
    return u


def clip_spectrum(a: Tensor, bound: float, dtype: torch.dtype) -> Tensor:
    """``argmin_B |B - A|`` over ``sigma_1(B) <= bound``: ``min(sigma, bound)``. A feasible matrix is untouched.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        bound: >= 0.
        dtype: of the weights, which says how much is rounding.
    """
    u, s, vh = svd(a)
    outside = s[..., :1] > bound * (1.0 + rounding(a, dtype))
    clipped = (u * s.clamp_max(bound).unsqueeze(-2)) @ vh
    # A matrix that is not finite is left as it is.
    return torch.where(outside.unsqueeze(-1), clipped, a)


def onto_orthonormal(a: Tensor, dtype: torch.dtype) -> Tensor:
    """``argmin_B |B - A|`` over matrices with orthonormal rows (columns, where there are more rows): `polar`.

    A matrix whose Gram matrix is the identity up to rounding is untouched.
    """
    gram = smaller_gram(a)
    eye = torch.eye(gram.shape[-1], dtype=a.dtype, device=a.device)
    gap = (gram - eye).abs().amax(dim=(-2, -1), keepdim=True)
    return torch.where(gap <= rounding(a, dtype), a, polar(a, dtype))


def smaller_gram(a: Tensor) -> Tensor:
    """``A A^T``, or ``A^T A`` where there are more rows than columns."""
    return a @ a.mT if a.shape[-2] <= a.shape[-1] else a.mT @ a


def polar(a: Tensor, dtype: torch.dtype) -> Tensor:
    """``U V^T`` of the singular value decomposition ``U diag(sigma) V^T``; of full rank also where ``A`` is not.

    Where singular values are 0, any completion is equally near. The one that is taken depends on ``A`` alone, not on
    how the decomposition came out: that of ``A + eps*J`` as eps falls to 0, for the identity J and, where that
    leaves zeros too, a fixed matrix in general position.
    """
    u, s, vh = svd(a)
    alive = above_rounding(s, a, dtype)
    return (u * alive.unsqueeze(-2)) @ vh + _complement(a, u, alive, vh, dtype)


def _complement(a: Tensor, u: Tensor, alive: Tensor, vh: Tensor, dtype: torch.dtype) -> Tensor:
    """A partial isometry between what ``A`` does not reach and what it maps to 0; 0 where ``A`` has full rank."""
    found = torch.zeros_like(a)
    for direction in (_identity(a), _general(a)):
        if bool(alive.all()):
            break
        left, right = u * alive.unsqueeze(-2), vh * alive.unsqueeze(-1)
        rest = direction - left @ (left.mT @ direction)
        rest = rest - (rest @ right.mT) @ right
        # Singular values of the rest lie between 0 and about 1; the smaller half of the digits is no direction.
        more_u, more_s, more_vh = svd(rest)
        missing = (~alive).sum(dim=-1, keepdim=True)
        place = torch.arange(more_s.shape[-1], device=a.device)
        taken = (place < missing) & (more_s > math.sqrt(torch.finfo(a.dtype).eps))
        added = (more_u * taken.unsqueeze(-2)) @ more_vh
        found = found + added
        u, s, vh = svd(left @ right + added)
        alive = above_rounding(s, a, dtype)
    # Nothing is left to complete, unless both directions miss: then by whatever the decomposition found.
    return found + (u * (~alive).unsqueeze(-2)) @ vh


def _identity(a: Tensor) -> Tensor:
    return torch.eye(a.shape[-2], a.shape[-1], dtype=a.dtype, device=a.device)


def _general(a: Tensor) -> Tensor:
    """Cosines of distinct angles: no rows or columns of it are special, whatever subspace is left."""
    # Large angles need the digits of float64, which not every device has.
    rows = torch.arange(1, a.shape[-2] + 1, dtype=torch.float64).unsqueeze(-1)
    columns = torch.arange(1, a.shape[-1] + 1, dtype=torch.float64)
    general = torch.cos(math.sqrt(2.0) * rows * columns + rows.square())
    return (general / math.sqrt(max(a.shape[-2:]))).to(a)
