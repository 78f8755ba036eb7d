"""Constraints: against brute force, on every layer's layout, at zeros, in low precision; and the adaptive bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

import wellposed as wp
from wellposed.constraints.balls import L1Ball, L2Ball, LInfBall, MaxNorm, UnitNorm
from wellposed.constraints.multiplier import NormBound
from wellposed.constraints.patterns import Box, HalfSpace, NonNegative, Simplex, TopK
from wellposed.constraints.spectral import Orthogonal, SpectralBall
from wellposed.core.errors import CompositionError, InputError, ShapeError
from wellposed.core.selectors import leaves
from wellposed.penalties.base import Constraint
from wellposed.penalties.elementwise import L2

ALL: list[Constraint] = [
    MaxNorm(0.7),
    MaxNorm(0.7, by="all"),
    L2Ball(0.7),
    L1Ball(0.7),
    L1Ball(0.3, by="filter"),
    LInfBall(0.1),
    UnitNorm(),
    UnitNorm(by="channel"),
    NonNegative(),
    Box(-0.1, 0.3),
    Simplex(),
    Simplex(5.0, by="all"),
    TopK(0.3, by="unit"),
    TopK(7),
    SpectralBall(0.7),
    Orthogonal(),
]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("charge", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_projecting_twice_changes_nothing_in_any_precision(charge: Constraint, dtype: torch.dtype) -> None:
    for shape in ((30, 20), (8, 300), (1, 3), (3, 1), (1, 1), (4, 3, 2)):
        for scale in (0.0, 1e-3, 1.0, 1e3):
            w = random(*shape, scale=scale).to(dtype)
            kept = w.clone()
            p = charge.project(w)
            assert p.dtype == dtype
            assert torch.isfinite(p).all()
            assert torch.equal(charge.project(p), p), (shape, scale)
            assert torch.equal(w, kept)


@pytest.mark.parametrize("charge", [MaxNorm(1.0), UnitNorm(), L1Ball(3.0), Simplex()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_groups(charge: Constraint, dtype: torch.dtype) -> None:
    """A running sum of a million numbers in float32 is wrong by many units in the last place."""
    w = torch.rand(1, 1_000_000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    p = charge.project(w)
    assert torch.equal(charge.project(p), p)


def solve(w: Tensor, sums: float, equality: bool) -> np.ndarray:
    """``argmin 1/2 |u - w|^2`` over ``u >= 0`` and ``sum u`` at most (or equal to) ``sums``, by SLSQP."""
    found = minimize(
        lambda u: 0.5 * ((u - w.numpy()) ** 2).sum(),
        np.full(len(w), sums / len(w)),
        jac=lambda u: u - w.numpy(),
        bounds=[(0, None)] * len(w),
        constraints={"type": "eq" if equality else "ineq", "fun": lambda u: sums - u.sum()},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return np.asarray(found.x)


@pytest.mark.parametrize("seed", range(6))
def test_simplex_and_l1_ball_are_what_a_solver_finds(seed: int) -> None:
    w = random(7, seed=seed)
    assert np.abs(Simplex(1.3, by="all").project(w).numpy() - solve(w, 1.3, True)).max() < 1e-6
    wanted = w.sign().numpy() * solve(w.abs(), 1.3, False)
    assert np.abs(L1Ball(1.3).project(w).numpy() - wanted).max() < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_top_k_is_the_best_of_all_patterns(seed: int) -> None:
    w = random(6, seed=seed)
    masks = torch.tensor([[(i >> j) & 1 for j in range(6)] for i in range(64)], dtype=torch.float64)
    allowed = masks[masks.sum(dim=1) <= 2]
    best = (allowed * w - w).norm(dim=1).min()
    torch.testing.assert_close((TopK(2).project(w) - w).norm(), best)


def test_simplex_from_very_far() -> None:
    for scale in (1e8, 1e-8):
        p = Simplex().project(random(3, 50, scale=scale))
        torch.testing.assert_close(p.sum(dim=1), torch.ones(3, dtype=torch.float64), rtol=1e-15, atol=0)
        assert (p >= 0).all()


LAYERS: list[tuple[nn.Module, dict[str, tuple[int, ...]]]] = [
    (nn.Linear(5, 4), {"unit": (1,), "input": (0,)}),
    (nn.Conv1d(3, 4, 2), {"filter": (1, 2), "channel": (0, 2)}),
    (nn.Conv2d(3, 4, 2), {"filter": (1, 2, 3), "channel": (0, 2, 3)}),
    (nn.Conv3d(3, 4, 2), {"unit": (1, 2, 3, 4), "input": (0, 2, 3, 4)}),
    (nn.Embedding(7, 3), {"unit": (1,), "input": (0,)}),
]


@pytest.mark.parametrize(("layer", "axes"), LAYERS, ids=lambda x: type(x).__name__)
def test_the_right_axis_of_each_layer(layer: nn.Module, axes: dict[str, tuple[int, ...]]) -> None:
    w = 10 * layer.weight.detach().double()
    for by, others in axes.items():
        norms = torch.linalg.vector_norm(w, dim=others)
        bound = float(norms.median())
        p = MaxNorm(bound, by=by).project(w)
        torch.testing.assert_close(torch.linalg.vector_norm(p, dim=others), norms.clamp_max(bound))
        shape = [1 if i in others else n for i, n in enumerate(w.shape)]
        feasible = (norms <= bound).view(shape).expand_as(w)
        assert torch.equal(p[feasible], w[feasible])
        ones = torch.ones_like(norms)
        torch.testing.assert_close(torch.linalg.vector_norm(UnitNorm(by).project(w), dim=others), ones)
        torch.testing.assert_close(Simplex(by=by).project(w).sum(dim=others), ones)
        torch.testing.assert_close(L1Ball(0.1, by).project(w).abs().sum(dim=others), 0.1 * ones)
        assert (TopK(2, by).project(w).count_nonzero(dim=others) == 2).all()
    matrix = w.flatten(1)
    s = torch.linalg.svdvals(matrix)
    clipped = SpectralBall(float(s[1])).project(w)
    assert clipped.shape == w.shape
    torch.testing.assert_close(torch.linalg.svdvals(clipped.flatten(1)), s.clamp_max(float(s[1])))
    ones = torch.ones_like(s)
    torch.testing.assert_close(torch.linalg.svdvals(Orthogonal().project(w).flatten(1)), ones)


@pytest.mark.parametrize("charge", [SpectralBall(0.5), Orthogonal()], ids=str)
def test_attention_is_cut_into_queries_keys_and_values(charge: Any) -> None:
    leaf = next(leaf for leaf in leaves(nn.MultiheadAttention(4, 2)) if leaf.name == "in_proj_weight")
    here = charge.at(leaf)
    assert here.parts == 3
    w = leaf.tensor.detach()
    wanted = torch.cat([charge.project(piece) for piece in w.chunk(3)])
    torch.testing.assert_close(here.project(w), wanted)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_completion_of_a_matrix_without_full_rank(seed: int, rank: int) -> None:
    """Orthonormal, the same for two ways of writing the matrix, and as near as singular values allow."""
    w = random(4, rank, seed=seed) @ random(rank, 3, seed=seed + 50) if rank else torch.zeros(4, 3, dtype=torch.float64)
    w = torch.where(torch.arange(3) == seed % 3, 0.0, w)
    p = Orthogonal().project(w)
    torch.testing.assert_close(p.T @ p, torch.eye(3, dtype=torch.float64))
    s = torch.linalg.svdvals(w)
    torch.testing.assert_close((p - w).norm(), (s - 1).norm())
    torch.testing.assert_close(Orthogonal().project(w.T.contiguous().T.clone() * 1.7), p, rtol=0, atol=1e-10)
    # Crossed zeros: nothing of the identity is left where the completion goes.
    crossed = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(Orthogonal().project(crossed).abs().round(decimals=6), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("charge", ALL, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_end_nothing(charge: Constraint, bad: float) -> None:
    """They stay what they are, and in their group all comes back; other groups are projected as ever."""
    w = random(4, 3)
    w[1, 2] = bad
    p = charge.project(w)
    assert p[1, 2].isnan() if math.isnan(bad) else p[1, 2] == bad
    axis = getattr(charge, "axis", None)
    if axis is not None:
        others = [i for i in range(w.shape[axis]) if i != (1, 2)[axis]]
        left = torch.tensor(others)
        assert torch.equal(p.index_select(axis, left), charge.project(w.index_select(axis, left)))
        group = torch.tensor([(1, 2)[axis]])
        torch.testing.assert_close(
            p.index_select(axis, group), w.index_select(axis, group), rtol=0, atol=0, equal_nan=True
        )


def exactly(row: list[float], total: float, signed: bool) -> list[float]:
    """The projection on the simplex, or the ball of the absolute sum, in rational numbers."""
    sizes = [abs(Fraction(x)) if signed else Fraction(x) for x in row]
    if signed and sum(sizes) <= Fraction(total):
        return row
    ordered = sorted(sizes, reverse=True)
    thresholds = [(sum(ordered[: k + 1]) - Fraction(total)) / (k + 1) for k in range(len(row))]
    theta = next(t for k, t in reversed(list(enumerate(thresholds))) if ordered[k] > t)
    kept = [max(size - theta, Fraction(0)) for size in sizes]
    return [math.copysign(float(k), x) if signed else float(k) for k, x in zip(kept, row, strict=True)]


@pytest.mark.parametrize("total", [1e-30, 1e-3, 1.0, 7.0])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e10, 1e16, 1e20, 1e30])
def test_sums_that_are_kept_beside_numbers_of_any_size(scale: float, total: float) -> None:
    """Against rational numbers: nothing is lost where weights are 1e16 times their bound and more."""
    for row in ([1.0, 0.5, -0.25, 1.0], [3.0, -7.0, 0.0, 2.0], [1.0, 1.0 - 2**-50, 0.3, -1.0]):
        w = torch.tensor([row], dtype=torch.float64) * scale
        for charge, signed in ((Simplex(total, by="all"), False), (L1Ball(total), True)):
            wanted = torch.tensor([exactly(w[0].tolist(), total, signed)], dtype=torch.float64)
            torch.testing.assert_close(charge.project(w), wanted, rtol=1e-12, atol=1e-12 * total)


def test_a_box_with_an_end_for_each_weight_and_a_half_space_in_training() -> None:
    """Both hold after each step, also from a recipe and in a population, whose kernel leaves them to the slot's own step."""
    X = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
    problem = wp.Problem(
        lambda: torch.nn.Linear(2, 2), "squared_error", wp.Data(train=(X, X * 3.0), valid=(X, X * 3.0))
    )
    box = {"penalty": "box", "low": [[0.0, -math.inf], [0.1, -1.0]], "high": [0.5, 2.0]}
    half = {"penalty": "half_space", "normal": [1.0, -1.0], "limit": [-0.25, 0.5], "by": "unit"}
    recipes = [
        wp.Recipe(epochs=8, optimizer={"lr": 0.1}, terms=[box]),
        wp.Recipe(epochs=8, optimizer={"lr": 0.1}, terms=[half]),
        wp.Recipe(epochs=8, optimizer={"lr": 0.1}),
    ]
    assert [wp.Recipe.from_toml(one.to_toml()) for one in recipes] == recipes
    together = wp.fit_many(problem, recipes, seeds=[0])
    for one, run in zip(recipes, together, strict=True):
        alone = wp.fit(problem, one, seed=0).model.weight
        torch.testing.assert_close(run.model.weight, alone, rtol=1e-5, atol=1e-6)
    boxed, halved, free = (run.model.weight.detach() for run in together)
    low, high = torch.tensor(box["low"]), torch.tensor(box["high"])
    assert (boxed >= low).all()
    assert (boxed <= high).all()
    assert not ((free >= low) & (free <= high)).all()
    assert (halved[:, 0] - halved[:, 1] <= torch.tensor([-0.25, 0.5]) + 1e-5).all()
    assert free[0, 0] - free[0, 1] > 0.1


def test_a_box_of_arrays_with_penalties_is_one_joint_step() -> None:
    """Absolute values, then the clip, weight by weight; two boxes meet, and two that do not are refused."""
    net = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -3.0]]))
    ends = torch.tensor([0.5, -2.5]), torch.tensor([0.75, -1.0])
    terms = [wp.L1(1.0).on(), wp.Box(*ends).on(), wp.Box(-10.0, torch.tensor([0.6, 5.0])).on()]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, terms)
    net.weight.grad = torch.zeros_like(net.weight)
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), torch.tensor([[0.6, -2.5]]))
    with pytest.raises(CompositionError, match="nothing satisfies"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [terms[1], wp.Box(0.7, [1.0, 1.0]).on()])


def test_what_does_not_fit_an_array_is_said() -> None:
    for charge, message in (
        (Box(torch.zeros(3), 1.0), r"Box needs a low that broadcasts.*'w' has shape \(4, 2\), the low has \(3,\)"),
        (HalfSpace([1.0, 2.0, 3.0], 0.0), "HalfSpace needs a normal that broadcasts"),
        (HalfSpace(1.0, [1.0, 2.0], by="unit"), "one limit for each of the 4 groups of 'w'"),
        (HalfSpace([[1.0], [0.0], [1.0], [1.0]], -1.0, by="unit"), "nothing satisfies 0 <= limit"),
    ):
        with pytest.raises(InputError, match=message):
            charge.check("w", torch.zeros(4, 2))
    for make, message in (
        (lambda: Box([0.0, 2.0], 1.0), "Box needs numbers low <= high"),
        (lambda: Box([0.0, math.nan], 1.0), "Box needs low as a number"),
        (lambda: Box([[0.0], [1.0, 2.0]], 1.0), "Box needs low as a number"),
        (lambda: HalfSpace([0.0, 0.0], 1.0), "a normal that is not 0"),
        (lambda: HalfSpace(1.0, math.inf), "finite limit"),
        (lambda: HalfSpace(1.0, [1.0, 2.0]), "one for each group in a row"),
        (lambda: HalfSpace(None, 1.0), "finite normal"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    assert Box([0.0, 1.0], 2.0) == Box(torch.tensor([0.0, 1.0], dtype=torch.float64), 2.0) != Box([0.0, 0.5], 2.0)


def test_violations_are_zero_where_nothing_can_be_gained() -> None:
    w, grad = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([3.0, 1.0, 1.0])
    assert float(Simplex(by="all").violation(w, grad)) < 1e-6
    assert float(NonNegative().violation(torch.zeros(2), torch.ones(2))) == 0.0
    assert float(NonNegative().violation(torch.zeros(2), -torch.ones(2))) == pytest.approx(math.sqrt(2))
    assert float(TopK(1).violation(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.5]))) == 0.0


def test_intervals_are_named() -> None:
    assert NonNegative().interval == (0.0, math.inf)
    assert Box(-1.0, 2.0).interval == (-1.0, 2.0)
    assert LInfBall(2.0).interval == (-2.0, 2.0)
    assert L2Ball(2.0).interval is None


BAD: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: MaxNorm(1.0, by="column"),
        "MaxNorm groups by unit or input .filter, channel., axis 0 or axis 1, .*'column'",
    ),
    (lambda: UnitNorm("rows"), "UnitNorm groups by unit or input"),
    (lambda: Box(1.0, 0.0), "Box needs numbers low <= high; it was given 1.0 and 0.0"),
    (lambda: Box(math.nan, 0.0), "Box needs numbers low <= high"),
    (lambda: Box(math.inf, math.inf), "Box needs numbers low <= high"),
    (lambda: Box("0", 1.0), "Box needs numbers low <= high"),  # type: ignore[arg-type]
    (lambda: Box(-math.inf, math.inf), "at least one finite end"),
    (lambda: Simplex(-1.0), "Simplex needs a finite total >= 0"),
    (lambda: TopK(-1), r"TopK needs keep= to be a whole number >= 0 or a number in \(0, 1\); it was given -1"),
    (lambda: TopK(1.0), r"or a number in \(0, 1\); it was given 1.0"),
    (lambda: TopK(True), "it was given True"),
    (lambda: Orthogonal(parts=0), "Orthogonal needs parts= to be a whole number >= 1"),
    (lambda: NormBound(0.0), "NormBound needs bound= to be a number > 0, finite or None"),
    (lambda: NormBound(math.inf), "NormBound needs bound= to be a number > 0, finite or None"),
    (lambda: NormBound(1.0, rate=0.0), r"needs rate= to be a number in \(0, 1\]"),
    (lambda: NormBound(warm_steps=1.5), "needs warm_steps= to be a whole number >= 0"),  # type: ignore[arg-type]
    (lambda: NormBound().times(2.0), "without a bound cannot be scheduled"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_impossible_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("cls", [MaxNorm, L2Ball, L1Ball, LInfBall, SpectralBall])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None, True])
def test_impossible_bounds(cls: type[Any], value: Any) -> None:
    with pytest.raises(InputError, match=rf"{cls.__name__} needs a finite bound >= 0"):
        cls(value)


def test_vectors_are_refused_where_groups_need_two_axes() -> None:
    for charge in (MaxNorm(1.0), UnitNorm(), Simplex(), TopK(1, by="unit"), L1Ball(1.0, by="input"), Orthogonal()):
        with pytest.raises(ShapeError, match=rf"{type(charge).__name__} needs >= 2 axes; 'b' has shape \(4,\)"):
            charge.check("b", torch.zeros(4))
    for charge in (MaxNorm(1.0, by="all"), L1Ball(1.0), L2Ball(1.0), TopK(1), NonNegative(), Simplex(by="all")):
        charge.check("b", torch.zeros(4))


# The adaptive bound: on linear regression, a strongly convex quadratic problem.


def regression(seed: int, scale: float = 1.0, rows: int = 40, columns: int = 6) -> tuple[Tensor, Tensor]:
    """The Hessian and the linear part of a mean squared error."""
    X, noise = random(rows, columns, seed=seed), random(rows, seed=seed + 100)
    X = X * torch.linspace(0.6, 1.4, columns)
    y = X @ random(columns, seed=seed + 200) + 0.3 * noise
    return scale * 2 / rows * X.T @ X, scale * 2 / rows * X.T @ y


def descend(
    charge: NormBound, H: Tensor, b: Tensor, pace: float, w: Tensor, how: str, told: bool
) -> tuple[Tensor, Tensor]:
    """Gradient descent with the multiplier as the strength of a proximal step, or of the decay before the step."""
    step = pace / float(torch.linalg.eigvalsh(H)[-1])
    multiplier = charge.start(w)
    for _ in range(int(800 / min(pace, 0.5))):
        if how == "decay":
            strength = charge.strength(multiplier, w, step, "decay")
            w = w * (1 - step * strength) - step * (H @ w - b)
        else:
            w = w - step * (H @ w - b)
            strength = charge.strength(multiplier, w, step) if told else charge.strength(multiplier)
            w = L2(float(strength)).prox(w, step)
        multiplier = charge.update(multiplier, w, step)
    return w, multiplier


@pytest.mark.parametrize(
    ("scale", "pace", "start", "share", "how"),
    [
        # Each setting in two of the three ways.
        pytest.param(*setting, how, marks=() if (i + j) % 3 else pytest.mark.nightly)
        for i, setting in enumerate(
            [
                (1.0, 1.0, 1.0, 0.5), (1e-4, 1.0, 30.0, 0.9), (1e4, 0.3, 0.0, 0.2), (1.0, 0.5, 30.0, 0.5),
                (1e4, 1.3, 1e-3, 0.9),
            ]
        )
        for j, how in enumerate(["prox", "decay", "untold"])
    ],
)  # fmt: skip
def test_a_norm_bound_satisfies_kkt_and_is_l2(scale: float, pace: float, start: float, share: float, how: str) -> None:
    """Whatever the curvature, the step, the first weights and how tight the bound is."""
    H, b = regression(seed=3, scale=scale)
    free = torch.linalg.solve(H, b)
    charge = NormBound(share * float(free.norm()))
    w, multiplier = descend(charge, H, b, pace, start * random(len(b), seed=9), how, told=how != "untold")
    assert charge.bound is not None
    assert float(multiplier) > 0
    assert float((H @ w - b + multiplier * w).norm()) < 1e-6 * float(b.norm())
    assert abs(float(w.norm()) - charge.bound) < 1e-6 * charge.bound
    # The same solution by the strength alone.
    ridge = torch.linalg.solve(H + multiplier * torch.eye(len(b)), b)
    torch.testing.assert_close(w, ridge, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_a_bound_that_does_not_bind_has_multiplier_zero(seed: int) -> None:
    H, b = regression(seed)
    free = torch.linalg.solve(H, b)
    w, multiplier = descend(NormBound(1.5 * float(free.norm())), H, b, 0.7, 30 * random(len(b), seed=8), "prox", True)
    assert float(multiplier) == 0.0
    torch.testing.assert_close(w, free, rtol=1e-9, atol=1e-9)


def test_a_norm_bound_in_the_metric_of_each_coordinate() -> None:
    """Steps over two orders of magnitude, as under Adam: the same solution."""
    H, b = regression(5)
    charge = NormBound(0.5 * float(torch.linalg.solve(H, b).norm()))
    step = torch.logspace(-1.5, 0, len(b), dtype=torch.float64) / float(torch.linalg.eigvalsh(H)[-1])
    w = random(len(b), seed=1)
    multiplier = charge.start(w)
    for _ in range(6000):
        v = w - step * (H @ w - b)
        w = v / (1 + step * charge.strength(multiplier, v, step))
        multiplier = charge.update(multiplier, w, step)
    assert float((H @ w - b + multiplier * w).norm()) < 1e-6
    assert abs(float(w.norm()) / charge.bound - 1) < 1e-6  # type: ignore[operator]


def test_a_norm_bound_averages_noise() -> None:
    """With noisy gradients the multiplier's mean is that without noise."""
    H, b = regression(2)
    charge = NormBound(0.5 * float(torch.linalg.solve(H, b).norm()))
    wanted = float(descend(charge, H, b, 1.0, torch.zeros(len(b), dtype=torch.float64), "prox", True)[1])
    step, w, draw = 0.05 / float(torch.linalg.eigvalsh(H)[-1]), torch.zeros_like(b), torch.Generator().manual_seed(0)
    multiplier, seen = charge.start(w), []
    for _ in range(6000):
        noise = 0.3 * torch.randn(len(b), generator=draw, dtype=torch.float64)
        v = w - step * (H @ w - b + noise)
        w = v / (1 + step * charge.strength(multiplier, v, step))
        multiplier = charge.update(multiplier, w, step)
        seen.append(float(multiplier))
    assert np.mean(seen[1000:]) == pytest.approx(wanted, rel=0.1)


def test_a_bound_to_be_found() -> None:
    charge, w = NormBound(warm_steps=10), torch.ones(4, dtype=torch.bfloat16)
    multiplier = charge.start(w)
    assert (multiplier.ndim, multiplier.dtype) == (0, torch.float32)
    assert float(charge.update(multiplier, w, 0.1)) == float(charge.strength(multiplier, w, 0.1)) == 0.0
    assert charge.default_how == "prox"
    assert NormBound(2.0).times(0.5).bound == 1.0
    assert torch.isnan(NormBound(1.0).update(multiplier, torch.tensor([math.nan]), 0.1))
