"""Operators on singular values, and matrices with orthonormal rows.

All take stacks of matrices ``(parts, rows, columns)``, as `on_matrices` cuts them out of a parameter. A matrix with a
number that is not finite comes back as it is, and has values that are not finite; never an error or a wait.

Gradients are those of the operators, not of the decomposition: equal singular values, and such that are 0, have
gradients as all others. See `Composed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wellposed.ops.norms import at_least_float32, with_gradient_of
from wellposed.ops.project import simplex_threshold

Spectrum = Callable[[Tensor], Tensor]


def as_matrices(w: Tensor, parts: int = 1) -> Tensor:
    """``(parts, rows/parts, everything else)`` of at least float32: axis 0 is cut into equal parts."""
    matrices: Tensor = at_least_float32(w).reshape(parts, w.shape[0] // parts, math.prod(w.shape[1:]))
    return matrices


def from_matrices(matrices: Tensor, w: Tensor) -> Tensor:
    """The inverse of `as_matrices`, in the shape and type of ``w``."""
    return matrices.reshape(w.shape).to(w.dtype)


def finite(a: Tensor) -> Tensor:
    """``(parts, 1, 1)``: whether every number of a matrix is finite."""
    return torch.isfinite(a).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)


def on_matrices(w: Tensor, parts: int, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """``operator`` on the matrices of ``w``; one that is not finite comes back as it is, and so does what is empty."""
    if not w.numel():
        return w.clone()
    a = as_matrices(w, parts)
    good = finite(a)
    return from_matrices(torch.where(good, operator(a.where(good, torch.zeros_like(a))), a), w)


class Decomposed(torch.autograd.Function):
    """Thin ``U, sigma, V^T`` of finite matrices, of which sigma carries gradient: ``d sigma_i = u_i^T dA v_i``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The singular value decomposition of ``a``: U, sigma and V^T."""
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        ctx.mark_non_differentiable(u, vh)
        ctx.save_for_backward(u, vh)
        return u, s, vh

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient by ``a``, ``U diag(grad) V^T``."""
        u, vh = ctx.saved_tensors
        grad: Tensor = (u * grads[1].unsqueeze(-2)) @ vh
        return grad


class Composed(torch.autograd.Function):
    """``U diag(g) V^T`` with the gradient of ``A -> U g(sigma(A)) V^T``, finite also where singular values meet.

    In the bases of U and V a change ``P`` of the matrix moves the result, off the diagonal, by
    ``(g_i - g_j)/(sigma_i - sigma_j)`` times its symmetric part and ``(g_i + g_j)/(sigma_i + sigma_j)`` times its
    antisymmetric one, and beside the bases by ``g_i/sigma_i``. Where a denominator vanishes the quotient is ``slope``, the
    derivative of one value. On the diagonal the gradient goes to ``g``, and with it to sigma.

    Source:
        Daleckii & Krein (1965); for singular values: Lewis & Sendov (2005), Set-Valued Analysis 13.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor, s: Tensor, vh: Tensor, g: Tensor, slope: Tensor) -> Tensor:
        """The matrix ``U diag(g) V^T`` with the singular values ``g``."""
        ctx.save_for_backward(u, s, vh, g, slope)
        return (u * g.unsqueeze(-2)) @ vh

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """To A and to g."""
        u, s, vh, g, slope = ctx.saved_tensors
        grad = grads[0]
        p = u.mT @ grad @ vh.mT
        # Nearer than this a quotient would be rounding.
        floor = math.sqrt(torch.finfo(s.dtype).eps) * s[..., :1, None]
        one, other = s.unsqueeze(-1), s.unsqueeze(-2)
        mean = (slope.unsqueeze(-1) + slope.unsqueeze(-2)) / 2
        even = _quotient(g.unsqueeze(-1) - g.unsqueeze(-2), one - other, floor, mean)
        odd = _quotient(g.unsqueeze(-1) + g.unsqueeze(-2), one + other, floor, mean)
        moved = (even * (p + p.mT) + odd * (p - p.mT)) / 2
        moved = moved - torch.diag_embed(moved.diagonal(dim1=-2, dim2=-1))
        ratio = _quotient(g, s, floor.squeeze(-1), slope)
        to_a = u @ moved @ vh
        left, right = grad - u @ (u.mT @ grad), grad - (grad @ vh.mT) @ vh
        to_a = to_a + (left @ vh.mT * ratio.unsqueeze(-2)) @ vh + (u * ratio.unsqueeze(-2)) @ (u.mT @ right)
        return to_a, None, None, None, p.diagonal(dim1=-2, dim2=-1), None


def _quotient(over: Tensor, under: Tensor, floor: Tensor, otherwise: Tensor) -> Tensor:
    far = under.abs() > floor
    return torch.where(far, over / under.where(far, torch.ones_like(under)), otherwise)


def svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin ``U, sigma, V^T``; U and sigma of a matrix that is not finite are not numbers. Only sigma carries gradient."""
    good = finite(a)
    u, s, vh = Decomposed.apply(a.where(good, torch.zeros_like(a)))  # type: ignore[no-untyped-call]
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


def spectral_map(a: Tensor, change: Spectrum, slope: Spectrum = torch.zeros_like) -> Tensor:
    """``U change(sigma) V^T``; ``slope`` says how much a new value follows its own old one, where two are equal."""
    u, s, vh = svd(a)
    return compose_spectrum(a, u, s, vh, change(s), slope(s))


def compose_spectrum(a: Tensor, u: Tensor, s: Tensor, vh: Tensor, g: Tensor, slope: Tensor) -> Tensor:
    """``U diag(g) V^T`` with a gradient that is finite everywhere; see `Composed`."""
    found: Tensor = Composed.apply(a, u, s.detach(), vh, g, slope.detach())  # type: ignore[no-untyped-call]
    return found


def soft_threshold_spectrum(a: Tensor, threshold: Tensor) -> Tensor:
    """``argmin_B 1/2 |B - A|^2 + threshold * sum_i sigma_i(B)``: ``max(sigma - threshold, 0)``.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        threshold: 0-d, >= 0. 0 returns ``a`` bit for bit.
    Source:
        Cai, Candes & Shen (2010), SIAM Journal on Optimization 20(4).
    """
    moved = spectral_map(a, lambda s: (s - threshold).clamp_min(0.0), lambda s: (s > threshold).to(s.dtype))
    return torch.where(threshold > 0, moved, a)


def lower_the_largest(a: Tensor, radius: Tensor) -> Tensor:
    """``argmin_B 1/2 |B - A|^2 + radius * sigma_1(B)``: ``min(sigma, theta)`` with ``sum_i max(sigma_i - theta, 0) = radius``.

    By Moreau's identity this is ``A`` minus its projection on the nuclear ball of that radius, which is ``A`` itself
    (and the minimizer 0) where ``sum_i sigma_i <= radius``.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        radius: 0-d, >= 0. 0 returns ``a`` bit for bit.
    """

    u, s, vh = svd(a)
    theta = simplex_threshold(s, radius).clamp_min(0.0)
    some = s.sum(dim=-1, keepdim=True) > radius
    capped = torch.where(some, s.minimum(theta), torch.zeros_like(s))
    return torch.where(radius > 0, compose_spectrum(a, u, s, vh, capped, (some & (s < theta)).to(s.dtype)), a)


def toward_one(a: Tensor, amount: Tensor, dtype: torch.dtype) -> Tensor:
    """``argmin_B 1/2 |B - A|^2 + amount/4 * sum_i (sigma_i(B)^2 - 1)^2``.

    Each singular value goes to the largest root of ``amount*u^3 + (1 - amount)*u = sigma``, which is the global
    minimizer for every amount. Where sigma is 0 and the amount above 1, the root is not 0 and its direction free: the
    matrices of `polar` are taken, which carry no gradient.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        amount: 0-d, >= 0. 0 returns ``a`` bit for bit.
        dtype: of the weights, which says what is a zero singular value.
    """
    u, s, vh = svd(a)
    alive, some = above_rounding(s, a, dtype), amount > 0
    amount = amount.where(some, torch.ones_like(amount))
    # What is taken for 0 is brought there without its gradient being lost.
    root = largest_root(torch.where(alive, s, s - s.detach()), amount)
    moved = compose_spectrum(a, u, s, vh, torch.where(alive, root, root - root.detach()), _slope(root, amount))
    with torch.no_grad():
        length = largest_root(torch.zeros_like(s[..., :1]), amount).unsqueeze(-1)
        free = length * _complement(a, u, alive, vh, dtype)
    return torch.where(some, moved + free, a)


def largest_root(s: Tensor, amount: Tensor) -> Tensor:
    """The largest u with ``amount*u^3 + (1 - amount)*u = s``, for ``s >= 0`` and ``amount >= 0``.

    Newton's method from a point right of the root, at most twice as far: on that side the cubic is convex and
    increasing, so that it falls to the root monotonically and quadratically. Its gradient is that of the root; where it
    is infinite (s is 0 and the amount 1) it is given as 0.
    """
    with torch.no_grad():
        cube = (s / amount) ** (1.0 / 3.0)
        below = torch.minimum(cube, s / (1.0 - amount)).where(amount < 1, cube)
        above = ((amount - 1.0).clamp_min(0.0) / amount).sqrt() + cube
        u = torch.where(amount <= 1, below, above)
        for _ in range(8):
            rise = 3.0 * amount * u.square() + (1.0 - amount)
            u = torch.where(rise > 0, u - _excess(u, s, amount) / rise, u)
    if not torch.is_grad_enabled():
        return u
    # One more step moves nothing, and has the gradient of the implicit function.
    return u - _slope(u, amount) * (_excess(u, s, amount) - _excess(u, s, amount).detach())


def _excess(u: Tensor, s: Tensor, amount: Tensor) -> Tensor:
    return amount * u * u.square() + (1.0 - amount) * u - s


def _slope(u: Tensor, amount: Tensor) -> Tensor:
    """How fast the root rises with ``s``; 0 where that is infinite."""
    rise = (3.0 * amount * u.square() + (1.0 - amount)).detach()
    return torch.where(rise > 0, 1.0 / rise, torch.zeros_like(rise))


def clip_spectrum(a: Tensor, bound: float, dtype: torch.dtype) -> Tensor:
    """``argmin_B |B - A|`` over ``sigma_1(B) <= bound``: ``min(sigma, bound)``. A feasible matrix is untouched.

    Args:
        a: ``(parts, rows, columns)``. Not modified.
        bound: >= 0.
        dtype: of the weights, which says how much is rounding.
    """
    u, s, vh = svd(a)
    outside = (s[..., :1] > bound * (1.0 + rounding(a, dtype))) | (bound == 0)
    below = s < bound
    clipped = compose_spectrum(a, u, s, vh, torch.where(below, s, torch.full_like(s, bound)), below.to(s.dtype))
    return torch.where(outside.unsqueeze(-1), clipped, a)


def onto_orthonormal(a: Tensor, dtype: torch.dtype) -> Tensor:
    """``argmin_B |B - A|`` over matrices with orthonormal rows (columns, where there are more rows): `polar`.

    A matrix whose Gram matrix is the identity up to rounding is untouched.
    """
    gram = smaller_gram(a)
    eye = torch.eye(gram.shape[-1], dtype=a.dtype, device=a.device)
    gap = (gram - eye).abs().amax(dim=(-2, -1), keepdim=True)
    nearest = polar(a, dtype)
    return with_gradient_of(torch.where(gap <= rounding(a, dtype), a, nearest), nearest)


def smaller_gram(a: Tensor) -> Tensor:
    """``A A^T``, or ``A^T A`` where there are more rows than columns."""
    return a @ a.mT if a.shape[-2] <= a.shape[-1] else a.mT @ a


def polar(a: Tensor, dtype: torch.dtype) -> Tensor:
    """``U V^T`` of the singular value decomposition ``U diag(sigma) V^T``; of full rank also where ``A`` is not.

    Where singular values are 0, any completion is equally near. The one that is taken depends on ``A`` alone, not on
    how the decomposition came out: that of ``A + eps*J`` as eps falls to 0, for the identity J and, where that
    leaves zeros too, a fixed matrix in general position. It carries no gradient.
    """
    u, s, vh = svd(a)
    alive = above_rounding(s, a, dtype)
    kept = compose_spectrum(a, u, s, vh, alive.to(s.dtype), torch.zeros_like(s))
    with torch.no_grad():
        free = _complement(a, u, alive, vh, dtype)
    return kept + free


def _complement(a: Tensor, u: Tensor, alive: Tensor, vh: Tensor, dtype: torch.dtype) -> Tensor:
    """A partial isometry between what ``A`` does not reach and what it maps to 0; 0 where ``A`` has full rank."""
    found = torch.zeros_like(a)
    for direction in (torch.eye(*a.shape[-2:], dtype=a.dtype, device=a.device), _general(a)):
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


def _general(a: Tensor) -> Tensor:
    """Cosines of distinct angles: no rows or columns of it are special, whatever subspace is left."""
    # Large angles need the digits of float64, which not every device has.
    rows = torch.arange(1, a.shape[-2] + 1, dtype=torch.float64).unsqueeze(-1)
    columns = torch.arange(1, a.shape[-1] + 1, dtype=torch.float64)
    general = torch.cos(math.sqrt(2.0) * rows * columns + rows.square())
    return (general / math.sqrt(max(a.shape[-2:]))).to(a)
