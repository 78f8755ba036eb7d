"""Penalties of groups: who is in a group, exact proximal steps against brute force, and limits to known penalties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from torch import Tensor, nn

import wellposed as wp
from charges.groups import COUPLED, AsOne
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import select
from wellposed.ops.groups import Tiled, groups_of
from wellposed.ops.hierarchy import hierarchical_prox
from wellposed.ops.variation_prox import variation_prox
from wellposed.penalties.coupled import TiedGroups
from wellposed.penalties.elementwise import L1
from wellposed.penalties.group import GroupL2, GroupMCP, GroupPenalty, SparseGroup
from wellposed.penalties.hierarchical import Hierarchical
from wellposed.penalties.variation import TotalVariation
from wellposed.testing import check_penalty
from wellposed.testing.laws import Case, minimizes, minimizes_in_metric, standing_still

LABELS = torch.tensor([0, -1, 3, 0, 5, -1, 3])
"""Groups of two, two and one, and two numbers in none."""


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=source(seed), dtype=torch.float64)


# Who is in a group.


@pytest.mark.parametrize(
    ("shape", "settings", "groups", "size"),
    [
        ((4, 3), {"by": "unit"}, 4, 3),
        ((4, 3, 2, 2), {"by": "filter"}, 4, 12),
        ((4, 3, 2, 2), {"by": "channel"}, 3, 16),
        ((6, 5), {"by": "head", "heads": 3}, 3, 10),
        ((12, 4), {"by": "head", "heads": 2}, 2, 24),
        ((12, 4), {"by": "head_rows", "heads": 2}, 2, 24),
        ((5, 6), {"by": "head_input", "heads": 3}, 3, 10),
        ((4, 6), {"by": "block", "block": (2, 3)}, 4, 6),
        ((2, 7), {"by": LABELS}, 3, None),
    ],
)
def test_groupings_go_there_and_back(
    shape: tuple[int, ...], settings: dict[str, Any], groups: int, size: int | None
) -> None:
    w, other = normal(*shape), normal(*shape, seed=1)
    found = groups_of(w, **settings)
    x = found.split(w)
    assert found.sum(x).numel() == groups
    assert torch.equal(found.join(x, w), w)
    assert size is None or found.sizes == size
    torch.testing.assert_close(found.norms(x).square(), found.sum(x.square()))
    spread = found.join(found.spread(found.amax(x)) + 0 * x, other)
    if size is None:
        assert torch.equal(spread[:, [1, 5]], other[:, [1, 5]])
        assert torch.equal(found.sizes, torch.tensor([4.0, 4.0, 2.0], dtype=torch.float64))
        assert spread[0, 0] == w[:, [0, 3]].max()
    else:
        assert isinstance(found, Tiled)
        assert x.untyped_storage().data_ptr() == w.untyped_storage().data_ptr()  # a view: nothing is copied


def test_heads_of_an_attention_layer() -> None:
    """A zeroed head is a head that attends to nothing and passes nothing on: rows of queries, keys and values."""
    layer = nn.MultiheadAttention(6, 3, bias=False, dtype=torch.float64)
    (leaf,) = select(layer, "in_proj_weight")
    penalty = GroupL2(0.3, by="head").at(leaf)
    assert penalty.heads == 3
    packed = layer.in_proj_weight.detach().clone()
    queries, keys, values = (part.view(3, 2, 6) for part in packed.chunk(3))
    own = torch.stack([torch.cat([q, k, v]) for q, k, v in zip(queries, keys, values, strict=True)])
    torch.testing.assert_close(penalty.value(packed), 0.3 * 6.0 * own.flatten(1).norm(dim=1).sum())
    # Zeroing group 1 of the packed matrix takes head 1 out of the output, and no other.
    groups = penalty.groups(packed)
    drop = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    out = layer.out_proj.weight.detach().clone()
    with torch.no_grad():
        layer.in_proj_weight.copy_(groups.join(groups.split(packed) * drop.view(1, 3, 1, 1), packed))
        x = normal(5, 1, 6)
        without = layer(x, x, x)[0]
        layer.in_proj_weight.copy_(packed)
        columns = GroupL2(0.3, by="head_input", heads=3).groups(out)
        layer.out_proj.weight.copy_(columns.join(columns.split(out) * drop.view(1, 3, 1), out))
        torch.testing.assert_close(layer(x, x, x)[0], without)


def test_unpacked_projections_have_consecutive_rows() -> None:
    """Keys of a third of the width make a matrix (3E, E) that is not packed."""
    layer = nn.MultiheadAttention(6, 3, kdim=2, vdim=5)
    charges = {leaf.name: GroupL2(0.3, by="head").at(leaf) for leaf in select(layer, "*_proj_weight")}
    assert {charge.by for charge in charges.values()} == {"head_rows"}
    w = layer.k_proj_weight.detach()
    expected = 0.3 * 2.0 * w.reshape(3, -1).norm(dim=1).sum()
    torch.testing.assert_close(charges["k_proj_weight"].value(w), expected)


@pytest.mark.parametrize("kind", [GroupL2, SparseGroup, GroupMCP])
def test_own_groups_that_are_axes(kind: type[GroupPenalty]) -> None:
    w, grad, t = normal(4, 3, 2), normal(4, 3, 2, seed=1), 2 * uniform(4, 3, 2)
    own = kind(0.4, by=torch.arange(4).view(4, 1, 1))
    axis = kind(0.4, by="unit")
    for step in (0.7, t):
        torch.testing.assert_close(own.prox(w, step), axis.prox(w, step), rtol=1e-13, atol=1e-13)
    at = axis.prox(w, 1.0)
    torch.testing.assert_close(own.value(w), axis.value(w))
    torch.testing.assert_close(own.violation(at, grad), axis.violation(at, grad))


def test_own_groups_have_their_own_sizes() -> None:
    w = torch.tensor([3.0, 7.0, 1.0, 4.0, 2.0, -5.0, 0.0], dtype=torch.float64)
    charge = GroupL2(1.0, by=LABELS)
    torch.testing.assert_close(float(charge.value(w)), math.sqrt(2) * 5 + math.sqrt(2) + 2)
    u = charge.prox(w, 1.0)
    shrunk = torch.tensor([3.0, 4.0], dtype=torch.float64) * (1 - math.sqrt(2) / 5)
    torch.testing.assert_close(u[[0, 3]], shrunk)
    torch.testing.assert_close(u[[1, 5]], w[[1, 5]], rtol=0, atol=0)
    torch.testing.assert_close(u[[2, 4, 6]], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("charge", "shapes"),
    [
        (GroupL2(0.3, by=LABELS), [(2, 7)]),
        (GroupL2(0.2, by="head", heads=2), [(6, 2)]),
        (GroupL2(0.2, by="head_input", heads=2), [(3, 4)]),
        (SparseGroup(0.4, 0.3, by=LABELS), [(7,)]),
        (GroupMCP(0.2, 4.0, by=LABELS), [(7,)]),
    ],
    ids=str,
)
def test_laws_of_other_groupings(charge: GroupPenalty, shapes: list[tuple[int, ...]]) -> None:
    check_penalty(charge, shapes=shapes)


def test_charges_by_own_groups_are_compared_by_what_they_hold() -> None:
    one, two = GroupL2(0.1, by=LABELS), GroupL2(0.1, by=LABELS.clone())
    assert one == two
    assert hash(one) == hash(two)
    assert one != GroupL2(0.1, by=LABELS + 1)
    assert one != GroupL2(0.1)
    assert one.merged(two) == GroupL2(0.2, by=LABELS)
    assert one.merged(GroupL2(0.1)) is None
    assert str(GroupL2(0.1)) == "GroupL2(strength=0.1, by='unit')"
    assert str(one) == "GroupL2(strength=0.1, by=<7>)"


def test_impossible_groups() -> None:
    for by in (torch.rand(3), torch.tensor([True, False]), torch.tensor([-1, -1]), torch.tensor([0, -2])):
        with pytest.raises(InputError, match="GroupL2 takes group numbers as a tensor of integers"):
            GroupL2(0.1, by=by)
    with pytest.raises(InputError, match=r"by block needs block=\(rows, columns\)"):
        GroupL2(0.1, by="block")
    with pytest.raises(InputError, match="heads >= 1"):
        GroupL2(0.1, by="head", heads=0)
    with pytest.raises(InputError, match=r"'out.weight'.*needs heads="):
        GroupL2(0.1, by="head_input").check("out.weight", torch.zeros(4, 4))
    with pytest.raises(ShapeError, match=r"'w'.*blocks of 2x2 need a matrix.*not \(4, 3\)"):
        GroupL2(0.1, by="block", block=(2, 2)).check("w", torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="3 heads do not divide axis 0"):
        GroupL2(0.1, by="head", heads=3).check("w", torch.zeros(4, 3))
    with pytest.raises(ShapeError, match=r"group numbers of shape \(7,\) do not broadcast to \(4, 3\)"):
        SparseGroup(0.1, by=LABELS).check("w", torch.zeros(4, 3))
    with pytest.raises(InputError, match="not the indices of one axis"):
        _ = GroupL2(0.1, by=LABELS).axis
    with pytest.raises(InputError, match=r"needs mix= to be a number in \[0, 1\]"):
        SparseGroup(0.1, 1.5)
    with pytest.raises(InputError, match="needs gamma= to be a number > 0"):
        GroupMCP(0.1, gamma=0.0)
    with pytest.raises(ShapeError, match=r">= 2 entries along axis 1; 'w' has shape \(4, 1\)"):
        TotalVariation(0.1, axis=1).check("w", torch.zeros(4, 1))
    with pytest.raises(InputError, match="needs hierarchy= to be a number >= 0"):
        Hierarchical(0.1, hierarchy=-1.0)


# Limits to known penalties.


@pytest.mark.parametrize("step", [0.6, "tensor"])
def test_limits(step: float | str) -> None:
    w, grad = normal(5, 4), normal(5, 4, seed=1)
    t = 2 * uniform(5, 4) if step == "tensor" else step
    pairs: list[tuple[Any, Any]] = [
        (GroupMCP(0.3, gamma=math.inf), GroupL2(0.3)),
        (SparseGroup(0.3, mix=1.0), L1(0.3)),
        (SparseGroup(0.3, mix=0.0), GroupL2(0.3)),
        (GroupL2(0.3, by="block", block=(1, 1)), L1(0.3)),
        (GroupL2(0.3, by="filter"), GroupL2(0.3, by="unit")),
    ]
    for ours, known in pairs:
        torch.testing.assert_close(ours.prox(w, t), known.prox(w, t), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(ours.value(w), known.value(w))
        at = known.prox(w, 1.0)
        torch.testing.assert_close(ours.violation(at, grad), known.violation(at, grad))
    almost = GroupMCP(0.3, gamma=1e12)
    torch.testing.assert_close(almost.prox(w, t), GroupL2(0.3).prox(w, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.4, 1.0, 1.7, 6.0])
def test_groups_of_one_are_the_minimax_penalty(gamma: float) -> None:
    """Against a grid over the values that one weight may take, for steps on both sides of gamma."""
    w, t, s = 3 * normal(300, 1), 3 * uniform(300, 1), 0.8
    u = GroupMCP(s, gamma).prox(w, t)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64) * w
    r = grid.abs()
    charge = torch.where(r <= gamma * s, s * r - r.square() / (2 * gamma), gamma * s * s / 2)
    best = ((grid - w).square() / (2 * t) + charge).min(1).values
    found = (u - w).square().squeeze(1) / (2 * t.squeeze(1))
    found = found + torch.stack([GroupMCP(s, gamma).value(row[None]) for row in u])
    assert (found <= best + 1e-12).all()
    assert 0 < int((u == 0).sum()) < 300
    assert 0 < int((u == w).sum()) < 300


# The minimax penalty in a metric.


def minimax_objective(u: Tensor, w: Tensor, t: Tensor, s: float, gamma: float) -> Tensor:
    r = u.norm(dim=-1)
    charge = torch.where(r <= gamma * s, s * r - r.square() / (2 * gamma), gamma * s * s / 2)
    moved = torch.where(t > 0, (u - w).square() / t.where(t > 0, torch.ones_like(t)), torch.zeros_like(u))
    return moved.sum(-1) / 2 + charge


@pytest.mark.parametrize("orders", [0.5, 3, 8])
@pytest.mark.parametrize("gamma", [0.2, 3.0])
def test_no_stationary_point_is_better(gamma: float, orders: float) -> None:
    """Every stationary point is ``w_i/(1 + t_i m)`` for a multiplier m >= 0, or 0: a fine grid of m misses none."""
    w = normal(400, 4)
    w = w * gamma * 10 ** (2 * uniform(400, 1, seed=1) - 1.2)
    t = gamma * 10 ** (orders * (uniform(400, 4, seed=2) - 0.6))
    t = t.masked_fill(uniform(400, 4, seed=3) < 0.1, 0.0)
    u = GroupMCP(0.5, gamma).prox(w, t)
    s = 0.5 * math.sqrt(4)
    assert torch.equal(u[t == 0], w[t == 0])
    m = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-8, 11, 3000, dtype=torch.float64) / gamma])
    candidates = w[:, None] / (1 + t[:, None] * m[None, :, None])
    best = minimax_objective(candidates, w[:, None].expand_as(candidates), t[:, None], s, gamma).min(1).values
    at_zero = minimax_objective(torch.zeros_like(w), w, t, s, gamma)
    best = torch.where(((t == 0) & (w != 0)).any(1), best, torch.minimum(best, at_zero))
    found = minimax_objective(u, w, t, s, gamma)
    assert (found <= best * (1 + 1e-12)).all()
    inside = (u != 0).any(1) & (u != w).any(1)
    assert int(inside.sum()) > 10
    # Where it is inside, it is stationary to rounding.
    r = u.norm(dim=1, keepdim=True).clamp_min(1e-300)
    residual = u - w + t * (s - r / gamma) * u / r
    assert (residual.abs() <= 1e-9 * w.abs() + 1e-12)[inside & (r.squeeze(1) < gamma * s)].all()


def test_no_random_point_is_better_for_large_steps() -> None:
    """The laws that hold above gamma too, where the objective is not convex."""
    for seed in range(10):
        w = 2 * normal(4, 3, seed=seed)
        for step in (2.0, 9.0):
            case = Case(w, -w, step, seed)
            for law in (minimizes, minimizes_in_metric, standing_still):
                law(GroupMCP(0.5, gamma=1.3), case)


# Total variation.


def by_least_squares(w: Tensor, t: Tensor, s: float) -> Tensor:
    """The dual, ``min |T^(1/2) D' z - T^(-1/2) w|`` over ``|z| <= s``, by an active set: ``u = w - T D' z``."""
    n = len(w)
    differences = torch.eye(n, dtype=torch.float64).diff(dim=0)
    root = t.sqrt()
    found = lsq_linear((root[:, None] * differences.T).numpy(), (w / root).numpy(), (-s, s), "bvls", tol=1e-15)
    return w - t * (differences.T @ torch.tensor(found.x))


@pytest.mark.parametrize("seed", range(12))
def test_total_variation_is_the_quadratic_program(seed: int) -> None:
    n = 2 + 2 * seed
    w = normal(4, n, seed=seed) + (normal(4, n, seed=seed + 1).cumsum(1) if seed % 2 else 0)
    t, s = 0.1 + 2 * uniform(4, n, seed=seed + 2), [0.05, 0.5, 3.0][seed % 3]
    u = TotalVariation(s).prox(w, t)
    wanted = torch.stack([by_least_squares(a, b, s) for a, b in zip(w, t, strict=True)])
    torch.testing.assert_close(u, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(TotalVariation(s, axis=0).prox(w.T, t.T), u.T, rtol=0, atol=0)


@pytest.mark.parametrize("orders", [0, 1, 4, 8])
def test_total_variation_is_optimal_in_a_wild_metric(orders: int) -> None:
    """The dual variables are partial sums of ``(w - u)/t``: inside ``[-s, s]``, and at an end where neighbours differ."""
    w, s = normal(40, 70, seed=orders).cumsum(1), 0.7
    t = 10 ** (orders * (uniform(40, 70, seed=1) - 0.5))
    u = variation_prox(w, t, s)
    dual, jumps = ((w - u) / t).cumsum(1), u.diff(dim=1).sign()
    rounding = 1e-13 * (w.abs() / t).sum(1, keepdim=True) + 1e-12
    assert (dual[:, -1:].abs() <= rounding).all()
    assert (dual[:, :-1].abs() <= s + rounding).all()
    assert ((dual[:, :-1] + s * jumps).abs() * (jumps != 0) <= rounding).all()
    assert int((jumps == 0).sum()) > 0


def test_fixed_coordinates_divide_a_line() -> None:
    """Where a weight does not move, its neighbours are pulled to a number: two lines that end there."""
    w = normal(6, 21)
    t = (0.5 + uniform(6, 21)).index_fill(1, torch.tensor([0, 9, 20]), 0.0)
    u = variation_prox(w, t, 0.3)
    assert torch.equal(u[:, [0, 9, 20]], w[:, [0, 9, 20]])
    tiny = variation_prox(w, t.clamp_min(1e-13), 0.3)
    torch.testing.assert_close(u, tiny, rtol=1e-10, atol=1e-10)
    for part in (slice(0, 10), slice(9, 21)):
        torch.testing.assert_close(variation_prox(w[:, part], t[:, part], 0.3), u[:, part], rtol=1e-12, atol=1e-12)


def test_strong_variation_leaves_the_weighted_mean() -> None:
    w, t = normal(3, 30), 0.1 + uniform(3, 30)
    mean = (w / t).sum(1, keepdim=True) / (1 / t).sum(1, keepdim=True)
    u = TotalVariation(1e3).prox(w, t)
    torch.testing.assert_close(u, mean.expand_as(w), rtol=1e-12, atol=1e-12)
    assert (u == u[:, :1]).all()


# Several tensors.


def test_tied_groups_are_one_group_of_all() -> None:
    """Units of one tensor: the same as GroupL2; and of several: as of their rows side by side."""
    w, t = normal(4, 3), uniform(4, 3)
    (alone,) = TiedGroups(0.3, {"w": "unit"}).prox([w], [t])
    torch.testing.assert_close(alone, GroupL2(0.3).prox(w, t), rtol=0, atol=0)
    b, kernel = normal(4, seed=1), normal(2, 4, 3, seed=2)
    ws, steps = [w, b, kernel], [t, 0.5, uniform(2, 4, 3, seed=3)]
    charge = TiedGroups(0.1, {"w": "unit", "b": "unit", "k": "input"})
    charge.check_all(["w", "b", "k"], ws)
    side = torch.cat([w, b[:, None], kernel.movedim(1, 0).reshape(4, -1)], 1)
    metric = torch.cat([t, torch.full((4, 1), 0.5, dtype=torch.float64), steps[2].movedim(1, 0).reshape(4, -1)], 1)
    wanted = GroupL2(0.1).prox(side, metric)
    found = charge.prox(ws, steps)
    torch.testing.assert_close(found[0], wanted[:, :3], rtol=0, atol=0)
    torch.testing.assert_close(found[1], wanted[:, 3], rtol=0, atol=0)
    torch.testing.assert_close(found[2].movedim(1, 0).reshape(4, -1), wanted[:, 4:], rtol=0, atol=0)


def test_tensors_that_do_not_go_together() -> None:
    charge = TiedGroups(0.1, {"a": "unit", "b": "input"})
    with pytest.raises(ShapeError, match=r"'first' by unit 4, 'second' by input 3"):
        charge.check_all(["first", "second"], [torch.zeros(4, 3), torch.zeros(4, 3)])
    with pytest.raises(ShapeError, match=r"no input in 'second' of shape \(4,\)"):
        charge.check_all(["first", "second"], [torch.zeros(4, 3), torch.zeros(4)])
    with pytest.raises(
        InputError,
        match=r"'a' by one of unit, filter, input, channel, axis 0, axis 1; it was given 'units'. Did you mean",
    ):
        TiedGroups(0.1, {"a": "units"})
    with pytest.raises(InputError, match="needs axes"):
        TiedGroups(0.1, {})
    with pytest.raises(ShapeError, match=r"'skip.weight' has shape \(1, 4\) and 'layers.0.weight' has shape \(5, 3\)"):
        Hierarchical(0.1).check_all(Hierarchical(0.1).names, [torch.zeros(1, 4), torch.zeros(5, 3)])


# The hierarchy.


def hierarchical_objective(u: Tensor, v: Tensor, given: tuple[Tensor, ...], s: float) -> Tensor:
    theta, w, tau, t = given
    moved = [
        torch.where(c > 0, (x - y).square() / c.where(c > 0, torch.ones_like(c)), torch.zeros_like(x)).sum(-1)
        for x, y, c in ((u, theta, tau), (v, w, t))
    ]
    return (moved[0] + moved[1]) / 2 + s * u.norm(dim=-1)


def on_a_grid(given: tuple[Tensor, ...], s: float, hierarchy: float) -> Tensor:
    """The least objective over a fine grid of ``u`` (one or two numbers for an input); ``w`` is clipped to it."""
    theta, w = given[:2]
    high = float(theta.norm(dim=1).max() + w.abs().max() / max(hierarchy, 0.1)) * 1.2
    b = torch.linspace(0, high, 6001 if theta.shape[1] == 1 else 601, dtype=torch.float64)
    if theta.shape[1] == 1:
        u = torch.cat([b, -b])[:, None]
    else:
        angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
        u = torch.stack([torch.outer(b, angles.cos()), torch.outer(b, angles.sin())], -1).view(-1, 2)
    best = []
    for j in range(len(theta)):
        bound = hierarchy * u.norm(dim=1, keepdim=True)
        v = torch.minimum(torch.maximum(w[j], -bound), bound)
        one = tuple(x[j] for x in given)
        best.append(hierarchical_objective(u, v, one, s).min())
    return torch.stack(best)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("hierarchy", [0.0, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("metric", ["number", "tensor"])
def test_the_hierarchical_step_is_the_minimum(outputs: int, hierarchy: float, metric: str) -> None:
    theta, w, s = normal(12, outputs, seed=1), normal(12, 5, seed=2), 0.6
    theta[0], theta[1, 0] = 0.0, 0.0
    tau, t = torch.full_like(theta, 0.8), torch.full_like(w, 0.8)
    if metric == "tensor":
        tau, t = 0.05 + 2 * uniform(12, outputs, seed=3), 0.05 + 2 * uniform(12, 5, seed=4)
    given = (theta, w, tau, t)
    u, v = hierarchical_prox(*given, s, hierarchy)
    assert (v.abs().amax(1) <= hierarchy * u.norm(dim=1) * (1 + 1e-12)).all()
    assert (((u == 0).all(1)) == ((v == 0).all(1) & (u == 0).all(1))).all()
    found = hierarchical_objective(u, v, given, s)
    best = on_a_grid(given, s, hierarchy)
    assert (found <= best + 1e-12).all()
    assert (found >= best - 0.03).all()  # the grid is that fine
    # Other lengths in the same direction, and other directions of the same length, are no better.
    for seed in range(40):
        size = 10.0 ** -(seed % 5)
        other = u + size * normal(12, outputs, seed=100 + seed) * u.norm(dim=1, keepdim=True)
        other = other if seed % 2 else u * (1 + size * normal(12, 1, seed=200 + seed))
        bound = hierarchy * other.norm(dim=1, keepdim=True)
        clipped = torch.minimum(torch.maximum(w, -bound), bound)
        assert (hierarchical_objective(other, clipped, given, s) >= found - 1e-12 * (1 + found)).all()


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_hierarchical_step_in_a_wild_metric(outputs: int) -> None:
    theta, w, s, hierarchy = normal(300, outputs, seed=1), normal(300, 6, seed=2), 0.4, 0.7
    tau, t = (10 ** (6 * uniform(*x.shape, seed=i) - 4) for i, x in enumerate((theta, w)))
    t = t.masked_fill(uniform(300, 6, seed=7) < 0.1, 0.0)
    theta = theta.masked_fill(uniform(300, outputs, seed=8) < 0.2, 0.0)
    given = (theta, w, tau, t)
    u, v = hierarchical_prox(*given, s, hierarchy)
    assert torch.isfinite(u).all()
    assert torch.equal(v[t == 0], w[t == 0])
    assert (v.abs().amax(1) <= hierarchy * u.norm(dim=1) * (1 + 1e-12)).all()
    found = hierarchical_objective(u, v, given, s)
    for seed in range(60):
        size = 10.0 ** -(seed % 6)
        other = u + size * normal(300, outputs, seed=100 + seed) * u.norm(dim=1, keepdim=True)
        other = other if seed % 2 else u * (1 + size * normal(300, 1, seed=200 + seed))
        bound = hierarchy * other.norm(dim=1, keepdim=True)
        clipped = torch.where(t > 0, torch.minimum(torch.maximum(w, -bound), bound), w)
        kept = (clipped.abs() <= bound * (1 + 1e-12)).all(1)
        worse = hierarchical_objective(other, clipped, given, s) >= found - 1e-11 * (1 + found)
        assert (worse | ~kept).all()


def test_ends_of_the_hierarchy() -> None:
    theta, w = normal(3, 5), normal(4, 5, seed=1)
    tau, t = uniform(3, 5), uniform(4, 5, seed=1)
    free = Hierarchical(0.5, hierarchy=math.inf, group=True).prox([theta, w], [tau, t])
    torch.testing.assert_close(free[0], GroupL2(0.5, by="input").prox(theta, tau), rtol=1e-12, atol=1e-13)
    assert torch.equal(free[1], w)
    linear = Hierarchical(0.5, hierarchy=0.0, group=True).prox([theta, w], [tau, t])
    torch.testing.assert_close(linear[0], free[0], rtol=1e-12, atol=1e-13)
    assert not linear[1].any()
    off = Hierarchical(0.0).prox([theta, w], [tau, t])
    assert torch.equal(off[0], theta)
    assert torch.equal(off[1], w)
    gone = Hierarchical(1e6).prox([theta, w], [1.0, 1.0])
    assert not gone[0].any()
    assert not gone[1].any()
    kernel = normal(4, 5, 3, 3, seed=2)
    u, v = Hierarchical(0.4, hierarchy=2.0).prox([theta, kernel], [0.5, 0.5])
    assert (v.abs().amax((0, 2, 3)) <= 2.0 * u.norm(dim=0) * (1 + 1e-12)).all()


def test_a_linear_effect_of_zero_gets_a_sign() -> None:
    """What the network draws is worth more than the strength: some linear effect must come back."""
    theta, w = torch.zeros(2, 1, dtype=torch.float64), torch.full((4, 1), 3.0, dtype=torch.float64)
    u, v = Hierarchical(0.5, hierarchy=1.0).prox([theta, w], [1.0, 1.0])
    # b + 0.5 - 4 * (3 - b) = 0
    torch.testing.assert_close(u.norm(dim=0), torch.tensor([2.3], dtype=torch.float64))
    torch.testing.assert_close(v, torch.full_like(w, 2.3))


def test_one_tensor_of_all() -> None:
    """What the laws see is what the parts give."""
    given, shapes = COUPLED["tied_groups"][0]
    charge = TiedGroups(**given)
    w = normal(sum(math.prod(shape) for shape in shapes))
    one = AsOne(charge, shapes)
    torch.testing.assert_close(one.value(w), charge.value(one.cut(w)))
    assert torch.equal(one.flat(one.cut(w)), w)


def test_a_group_norm_beside_absolute_values_is_the_sparse_group_penalty() -> None:
    """Two terms on one parameter are one of them."""
    from wellposed.optim.proximal import joint

    w, t = normal(5, 4), uniform(5, 4)
    both = joint("w", [L1(0.2), GroupL2(0.3)])
    torch.testing.assert_close(both(w, t), SparseGroup(0.5, mix=0.4).prox(w, t), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(joint("w", [SparseGroup(0.5, mix=0.4)])(w, t), both(w, t), rtol=1e-13, atol=1e-14)


def test_groups_in_training_become_zero() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    X = torch.randn(64, 6)
    y = X[:, :1] - X[:, 1:2]
    pairs = torch.tensor([0, 0, 1, 1, 2, 2])  # of inputs
    terms = [GroupL2(0.03, by=pairs).on("0"), GroupMCP(0.02, by="input").on("2")]
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.01), net, terms)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X), y).backward()
        optimizer.step()
    dead = (net[0].weight == 0).all(0)
    assert dead.tolist() == [False, False, True, True, True, True]
    assert (net[2].weight == 0).any()


def test_group_weights_are_those_of_skglm() -> None:
    """Value and proximal step of its WeightedGroupL2, group by group; a weight of 0 leaves a group free."""
    theirs = pytest.importorskip("skglm.penalties").WeightedGroupL2
    indices, starts, weights = np.array([0, 1, 2, 3, 4], np.int32), np.array([0, 2, 5], np.int32), np.array([0.7, 2.0])
    right = theirs(0.4, weights, starts, indices)
    labels = torch.tensor([0, 0, 1, 1, 1])
    for seed in range(5):
        w = normal(5, seed=seed)
        ours = wp.GroupL2(0.4, by=labels, weights=weights)
        assert float(ours.value(w)) == pytest.approx(float(right.value(w.numpy())), rel=1e-12)
        found = ours.prox(w, 0.6)
        for group, (first, last) in enumerate(((0, 2), (2, 5))):
            wanted = right.prox_1group(w.numpy()[first:last].copy(), 0.6, group)
            torch.testing.assert_close(found[first:last], torch.as_tensor(wanted), rtol=1e-12, atol=1e-14)
    free = wp.GroupL2(0.4, by=labels, weights=[0.0, 2.0]).prox(w, torch.full_like(w, 0.6))
    assert torch.equal(free[:2], w[:2])


def test_group_weights_that_do_not_fit() -> None:
    w = torch.zeros(4, 3)
    with pytest.raises(ShapeError, match="GroupL2 cannot charge 'w': there are 4 groups, and 3 weights"):
        wp.GroupL2(0.1, weights=[1.0, 2.0, 3.0]).check("w", w)
    with pytest.raises(ShapeError, match="RowL21 cannot charge 'w': there are 4 groups, and 1 weights"):
        wp.RowL21(0.1, weights=[1.0]).check("w", w)
    with pytest.raises(ShapeError, match="TiedGroups cannot charge a, b"):
        wp.TiedGroups(0.1, {"a": "unit", "b": "unit"}, weights=[1.0]).check_all(["a", "b"], [w, w])
    for wrong in ([-1.0], [math.inf, 1.0], [[1.0]], "1", -1.0, [math.nan], True):
        with pytest.raises(InputError, match="GroupL2 needs "):
            wp.GroupL2(0.1, weights=wrong)  # type: ignore[arg-type]
    assert wp.GroupL2(0.1, weights=[1.0, 2.0]) == wp.GroupL2(0.1, weights=torch.tensor([1.0, 2.0]).double())
    assert wp.GroupL2(0.1, weights=[1.0, 2.0]) != wp.GroupL2(0.1)


@pytest.mark.parametrize("start", [torch.optim.SGD, torch.optim.Adam])
def test_group_weights_in_training(start: type[torch.optim.Optimizer]) -> None:
    """The optimizer's step takes them, whichever way it goes: all weights sqrt(size) are no weights, and 0 frees a group."""
    found = []
    for weights in (None, [3**0.5] * 4, [0.0, 3**0.5, 3**0.5, 3**0.5]):
        net = torch.nn.Linear(3, 4, bias=False)
        with torch.no_grad():
            net.weight.copy_(normal(4, 3, seed=1))
        optimizer = wp.regularize(start(net.parameters(), lr=0.1), net, [wp.GroupL2(0.3, weights=weights).on()])
        for _ in range(120):
            net.weight.grad = net.weight.detach() - normal(4, 3, seed=2).float() * 0.3
            optimizer.step()
        found.append(net.weight.detach().clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][1:], found[2][1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2][0], normal(4, 3, seed=2).float()[0] * 0.3, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spared", [False, True])
def test_a_group_that_is_not_finite_comes_back(bad: float, spared: bool) -> None:
    """And the others are moved as if it were not there; also where a coordinate has had no gradient."""
    w, step = normal(4, 3, seed=5), 0.3 + uniform(4, 3, seed=6)
    w[1, 2] = bad
    still = torch.zeros_like(w, dtype=torch.bool)
    still[1, 2], still[2, 0] = spared, True
    left = torch.tensor([0, 2, 3])
    for charge in (wp.GroupL2(0.2), wp.GroupMCP(0.2), wp.RowL21(0.3)):
        for p, other in (
            (charge.prox(w, 0.4), charge.prox(w[left], 0.4)),
            (charge.prox(w, step), charge.prox(w[left], step[left])),
            (
                charge.prox_sparing(w, step.masked_fill(still, 0.0), still),
                charge.prox_sparing(w[left], step.masked_fill(still, 0.0)[left], still[left]),
            ),
        ):
            torch.testing.assert_close(p[1], w[1], rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(p[left], other, rtol=1e-14, atol=0)


def test_coupled_penalties_of_nothing() -> None:
    """No groups, or groups without numbers: tensors come back, and cost nothing."""
    tied = wp.TiedGroups(0.1, {"a": "unit", "b": "input"})
    lasso = wp.Hierarchical(0.1)
    for charge, ws in (
        (tied, [torch.zeros(0), torch.zeros(5, 0)]),
        (tied, [torch.zeros(3, 0), torch.zeros(0, 3)]),
        (lasso, [torch.zeros(2, 0), torch.zeros(4, 0)]),
        (lasso, [torch.zeros(0, 3), torch.zeros(0, 3)]),
        (lasso, [torch.ones(1, 3), torch.zeros(0, 3)]),
    ):
        moved = charge.prox(ws, [0.5, 0.5])
        assert [p.shape for p in moved] == [w.shape for w in ws]
        assert float(charge.value(ws)) >= 0
        assert float(charge.violation(ws, [torch.zeros_like(w) for w in ws])) >= 0
