"""Penalties of matrices: against brute force and exact theory, with parts, low rank, low precision and bad numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import leaves
from wellposed.ops.singular_values import largest_root, polar
from wellposed.penalties.base import Chargeable, Penalty
from wellposed.penalties.group import GroupL2
from wellposed.penalties.matrix import Nuclear, Orthogonality, RowL21, Spectral
from wellposed.testing import check_penalty
from wellposed.testing.laws import PENALTY_LAWS, cases, violation_is_distance

SPECTRAL = [Nuclear, Spectral, Orthogonality]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("cls", SPECTRAL)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_turning_a_matrix_turns_its_prox(cls: type[Penalty], shape: tuple[int, int]) -> None:
    charge, w, grad = cls(0.4), random(*shape), random(*shape, seed=1)  # type: ignore[call-arg]
    left, right = (torch.linalg.qr(random(n, n, seed=n)).Q for n in shape)
    turned = left @ w @ right.T
    torch.testing.assert_close(charge.value(turned), charge.value(w), rtol=1e-12, atol=0)
    torch.testing.assert_close(charge.prox(turned, 1.0), left @ charge.prox(w, 1.0) @ right.T, rtol=0, atol=1e-12)
    found, wanted = charge.violation(turned, left @ grad @ right.T), charge.violation(w, grad)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=0)


@pytest.mark.parametrize("cls", SPECTRAL)
def test_parts_are_matrices_of_their_own_and_kernels_are_flat(cls: type[Any]) -> None:
    w, grad = random(6, 2, 2), random(6, 2, 2, seed=1)
    whole, cut = cls(0.3), cls(0.3, parts=3)
    pieces = w.reshape(3, 2, 4)
    torch.testing.assert_close(cut.value(w), sum(whole.value(piece) for piece in pieces))
    wanted = torch.stack([whole.prox(piece, 0.5) for piece in pieces]).reshape(w.shape)
    torch.testing.assert_close(cut.prox(w, 0.5), wanted)
    each = torch.stack([whole.violation(p, g) for p, g in zip(pieces, grad.reshape(3, 2, 4), strict=True)])
    torch.testing.assert_close(cut.violation(w, grad), each.norm())
    torch.testing.assert_close(whole.prox(w, 0.5), whole.prox(w.reshape(6, 4), 0.5).reshape(w.shape))


@pytest.mark.parametrize("cls", SPECTRAL)
def test_attention_is_cut_into_queries_keys_and_values(cls: type[Any]) -> None:
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "linear": nn.Linear(4, 6)})
    parts = {leaf.name: cls(0.1).at(leaf).parts for leaf in leaves(net)}
    assert parts.pop("attention.in_proj_weight") == 3
    assert set(parts.values()) >= {1}
    assert parts["attention.out_proj.weight"] == parts["linear.weight"] == 1
    stacked = next(leaf for leaf in leaves(net) if leaf.name.endswith("in_proj_weight"))
    assert cls(0.1, parts=6).at(stacked).parts == 6


@pytest.mark.parametrize("cls", SPECTRAL)
@pytest.mark.parametrize(
    "w", [torch.zeros(3, 4), torch.ones(3, 4), torch.eye(3, 4), torch.diag(torch.ones(2)).repeat(2, 1)]
)
def test_gradients_are_finite_and_subgradients(cls: type[Any], w: Tensor) -> None:
    """Also at zero, at low rank, and where singular values are equal: minus the gradient has no violation."""
    w = w.double().requires_grad_()
    charge = cls(0.7)
    (grad,) = torch.autograd.grad(charge.value(w), w)
    assert torch.isfinite(grad).all()
    assert float(charge.violation(w.detach(), -grad)) < 1e-12
    if not w.any():
        assert not grad.any()


def test_nuclear_gives_low_rank_and_exact_zeros() -> None:
    w = random(6, 8)
    s = torch.linalg.svdvals(w)
    cut = float(s[2] + s[3]) / 2
    p = Nuclear(cut).prox(w, 1.0)
    assert int(torch.linalg.matrix_rank(p)) == 3
    torch.testing.assert_close(torch.linalg.svdvals(p)[:3], s[:3] - cut)
    assert not Nuclear(float(s[0]) * 1.001).prox(w, 1.0).any()
    assert not Spectral(float(s.sum()) * 1.001).prox(w, 1.0).any()


@pytest.mark.parametrize("cls", [Nuclear, Spectral])
def test_the_violation_ends_a_proximal_gradient_descent(cls: type[Any]) -> None:
    """On ``1/2 |A W - B|^2`` it falls to rounding at the solution, which has low rank (a flat top), and only there."""
    A, B = random(20, 5) / 4, random(20, 6, seed=1)
    charge, w = cls(2.0), torch.zeros(5, 6, dtype=torch.float64)
    step = 1 / float(torch.linalg.matrix_norm(A, ord=2)) ** 2
    first = charge.violation(w, -A.T @ B)
    for _ in range(600):
        w = charge.prox(w - step * A.T @ (A @ w - B), step)
    assert float(charge.violation(w, A.T @ (A @ w - B))) < 1e-9 < float(first)
    s = torch.linalg.svdvals(w)
    assert int(torch.linalg.matrix_rank(w)) < 5 if cls is Nuclear else float(s[0] - s[1]) < 1e-9


@pytest.mark.parametrize("amount", [1e-9, 0.3, 0.999999, 1.0, 1.000001, 2.0, 1e6])
def test_the_cubic_is_solved_to_rounding_by_its_global_minimizer(amount: float) -> None:
    s = torch.cat([torch.zeros(1), torch.logspace(-12, 6, 400)]).double()
    a = torch.tensor(amount, dtype=torch.float64)
    u = largest_root(s, a)
    size = a * u**3 + (1 - a).abs() * u + s
    assert ((a * u**3 + (1 - a) * u - s).abs() <= 1e-14 * size).all()
    best = (u - s) ** 2 / 2 + a * (u**2 - 1) ** 2 / 4
    for factor in (0.0, 0.5, 0.99, 1.01, 2.0, -1.0):
        rival = factor * u + (0.01 if factor == 0.5 else 0.0)
        assert (best <= ((rival - s) ** 2 / 2 + a * (rival**2 - 1) ** 2 / 4) * (1 + 1e-12)).all()


@pytest.mark.parametrize(("strength", "shapes"), [(0.6, [(4, 3), (1, 5)]), (3.0, [(3, 4), (2, 2, 2)])])
def test_orthogonality_where_its_prox_is_not_unique(strength: float, shapes: list[tuple[int, ...]]) -> None:
    """Amounts up to 9. One law assumes a curvature below 1e4, which ``3 s sigma^2`` exceeds at the largest points."""
    charge = Orthogonality(strength)
    for case in cases(charge, shapes, 0, torch.float64, (0.05, 3.0)):
        for law in PENALTY_LAWS:
            if law is not violation_is_distance:
                law(charge, case)


def test_orthogonality_is_zero_at_orthonormal_matrices_only() -> None:
    for shape in ((3, 5), (5, 3)):
        q = polar(random(*shape).unsqueeze(0), torch.float64)[0]
        assert float(Orthogonality(1.0).value(q)) < 1e-28
        torch.testing.assert_close(Orthogonality(1.0).prox(q, 2.0), q)
        assert float(Orthogonality(1.0).value(1.1 * q)) > 0.01


def test_rows_are_groups_without_the_factor() -> None:
    w, grad = random(5, 4), random(5, 4, seed=1)
    steps = random(5, 4, seed=2).abs()
    ours, theirs = RowL21(0.8), GroupL2(0.4)
    torch.testing.assert_close(ours.value(w), 0.8 * w.norm(dim=1).sum())
    torch.testing.assert_close(ours.prox(w, steps), theirs.prox(w, steps))
    torch.testing.assert_close(ours.violation(w, grad), theirs.violation(w, grad))
    assert ours.merged(RowL21(0.2)) == RowL21(1.0)
    assert ours.merged(theirs) is None


@pytest.mark.parametrize("cls", SPECTRAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision(cls: type[Any], dtype: torch.dtype) -> None:
    w = random(4, 6).to(dtype)
    charge = cls(0.2)
    p = charge.prox(w, 1.0)
    assert p.dtype == charge.value(w).dtype == charge.violation(w, w).dtype == dtype
    wanted = charge.prox(w.double(), 1.0)
    assert float((p.double() - wanted).abs().max()) < 4 * torch.finfo(dtype).eps * float(w.abs().max())


@pytest.mark.parametrize("cls", SPECTRAL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_stay_visible(cls: type[Any], bad: float) -> None:
    w = random(4, 3)
    w[1, 2] = bad
    charge = cls(0.2, parts=2)
    p = charge.prox(w, 1.0)
    assert not torch.isfinite(p[:2]).all()
    torch.testing.assert_close(p[2:], cls(0.2).prox(w[2:], 1.0))
    assert not math.isfinite(float(charge.value(w)))
    assert not math.isfinite(float(charge.violation(w, torch.zeros_like(w))))


@pytest.mark.parametrize("cls", [*SPECTRAL, RowL21])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None, True])
def test_impossible_strengths(cls: type[Any], value: Any) -> None:
    with pytest.raises(InputError, match=rf"{cls.__name__} needs a finite strength >= 0"):
        cls(value)


@pytest.mark.parametrize("cls", SPECTRAL)
def test_impossible_parts_and_shapes(cls: type[Any]) -> None:
    for parts in (0, -1, 1.5, True, "3"):
        with pytest.raises(InputError, match=f"{cls.__name__} needs parts= to be a whole number >= 1"):
            cls(0.1, parts=parts)
    charge: Chargeable = cls(0.1, parts=2)
    with pytest.raises(ShapeError, match=r"needs >= 2 axes; 'b' has shape \(4,\)"):
        charge.check("b", torch.zeros(4))
    with pytest.raises(ShapeError, match=r"parts=2 needs axis 0 to hold 2 equal parts; 'w' has shape \(3, 4\)"):
        charge.check("w", torch.zeros(3, 4))


def test_the_laws_hold_at_other_points() -> None:
    for charge in (Nuclear(0.5), Spectral(0.9), RowL21(0.4)):
        check_penalty(charge, shapes=[(3, 3), (2, 5)], seed=11, steps=(0.7,))
