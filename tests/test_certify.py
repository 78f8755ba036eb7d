"""Certificates: stationarity by closed form, gaps that bound, and wrong certifiers that must be caught."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp
from wellposed.constraints.balls import L2Ball
from wellposed.core.errors import CompositionError, DataError, InputError
from wellposed.core.progress import reporting_to
from wellposed.core.selectors import leaves
from wellposed.ops import duality
from wellposed.optim import charges, stationarity
from wellposed.optimality import objective as costs
from wellposed.optimality.certify import Certificate, certify
from wellposed.optimality.settle import settle
from wellposed.penalties.base import Constraint, Context, CoupledPenalty, FunctionalPenalty, Penalty, Traits
from wellposed.penalties.elementwise import WeightedL1
from wellposed.penalties.nonconvex import L0, MCP
from wellposed.penalties.reference import L1SP, L2SP

N, D = 50, 6


def data(outputs: int = 1, seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=draw, dtype=torch.float64) + 0.3
    truth = torch.randn(D, outputs, generator=draw, dtype=torch.float64)
    truth[D // 2 :] = 0
    return x, x @ truth + 0.4 * torch.randn(n, outputs, generator=draw, dtype=torch.float64)


def linear(outputs: int = 1, bias: bool = True, seed: int = 1) -> nn.Linear:
    net = nn.Linear(D, outputs, bias=bias, dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
    return net


@dataclass(frozen=True)
class Interval(Constraint):
    """``low <= w_i <= high``."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def project(self, w: Tensor) -> Tensor:
        return w.clamp(self.low, self.high)


# Violations in closed form.


def gradient(net: nn.Linear, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    residual = 2 / len(x) * (net(x) - y)
    return (residual.T @ x).detach(), residual.sum(0).detach()


def test_of_an_uncharged_model_the_violation_is_the_gradient() -> None:
    net, (x, y) = linear(), data()
    dw, db = gradient(net, x, y)
    found = certify(net, "squared_error", (x, y))
    assert found.violation == pytest.approx(math.hypot(float(dw.norm()), float(db.norm())), rel=1e-13)
    assert found.objective == found.loss == pytest.approx(float((net(x) - y).square().mean().detach()), rel=1e-13)
    assert found.penalty == 0
    assert [row.parameter for row in found.rows] == ["weight", "bias"]
    assert found.gap is None


def test_l1_l2_and_groups_together() -> None:
    """At a point with a group of zeros, a zero inside a living group, and living numbers; by hand for each."""
    net, (x, y) = linear(3), data(3)
    with torch.no_grad():
        net.weight[:, 1] = 0.0
        net.weight[0, 2] = 0.0
    terms = [wp.L1(0.4).on(), wp.L2(0.3).on(how="loss"), wp.GroupL2(0.5, by="input").on()]
    dw, db = gradient(net, x, y)
    w, s = net.weight.detach(), 0.5 * math.sqrt(3)
    smooth = dw + 0.3 * w
    parts = [float(db.square().sum())]
    for j in range(D):
        column, g = w[:, j], smooth[:, j]
        if not column.any():
            soft = np.sign(g.numpy()) * np.maximum(np.abs(g.numpy()) - 0.4, 0)
            parts.append(max(float(np.linalg.norm(soft)) - s, 0) ** 2)
            continue
        for i in range(3):
            if column[i] == 0:
                parts.append(max(abs(float(g[i])) - 0.4, 0) ** 2)
            else:
                pull = 0.4 * float(column[i].sign()) + s * float(column[i] / column.norm())
                parts.append((float(g[i]) + pull) ** 2)
    found = certify(net, "squared_error", (x, y), terms)
    assert found.violation == pytest.approx(math.sqrt(sum(parts)), rel=1e-12)
    penalty = 0.4 * w.abs().sum() + 0.15 * w.square().sum() + s * w.norm(dim=0).sum()
    assert found.penalty == pytest.approx(float(penalty), rel=1e-13)
    assert found.rows[0].measure == "distance"


def test_the_distance_is_the_least_over_the_subdifferential() -> None:
    """At a group of zeros: no element of the box plus the ball is nearer."""
    net, (x, y) = linear(3), data(3)
    with torch.no_grad():
        net.weight.zero_()
    dw, _ = gradient(net, x, y)
    terms = [wp.L1(0.2).on(), wp.GroupL2(0.3, by="input").on()]
    row = certify(net, "squared_error", (x, y), terms).rows[0]
    draw = torch.Generator().manual_seed(0)
    box = 0.4 * torch.rand(2000, *dw.shape, generator=draw, dtype=torch.float64) - 0.2
    box[0] = (-dw).clamp(-0.2, 0.2)
    ball = -dw - box
    s = 0.3 * math.sqrt(3)
    ball = ball * (s / ball.norm(dim=1, keepdim=True)).clamp_max(1.0)
    apart = (-dw - box - ball).flatten(1).norm(dim=1)
    assert row.violation == pytest.approx(float(apart.min()), rel=1e-12)
    assert float(apart[1:].min()) > row.violation


@pytest.mark.parametrize("penalty", [wp.L1(0.3), wp.ElasticNet(0.3), wp.GroupL2(0.2), MCP(0.3, 3.0), wp.L2(0.3)])
def test_one_penalty_is_judged_by_its_own_violation(penalty: Penalty) -> None:
    net, (x, y) = linear(2), data(2)
    dw, _ = gradient(net, x, y)
    row = certify(net, "squared_error", (x, y), [penalty.on(how="loss")]).rows[0]
    assert row.violation == pytest.approx(float(penalty.violation(net.weight.detach(), dw)), rel=1e-13)


LABELS = torch.tensor([[0, 0, 1, 1, 1, -1]] * 2 + [[2, 2, 2, -1, 3, 3]] * 2)
GROUPINGS: dict[str, tuple[wp.GroupL2, Tensor]] = {
    "head": (wp.GroupL2(0.2, by="head", heads=2), torch.arange(4)[:, None].expand(4, D) // 2),
    "head_input": (wp.GroupL2(0.2, by="head_input", heads=3), torch.arange(D).expand(4, D) // 2),
    "block": (wp.GroupL2(0.2, by="block", block=(2, 3)), torch.arange(4)[:, None] // 2 * 2 + torch.arange(D) // 3),
    "labels": (wp.GroupL2(0.2, by=LABELS), LABELS),
}


@pytest.mark.parametrize("l1", [0.0, 0.15])
@pytest.mark.parametrize("name", list(GROUPINGS))
def test_groups_of_any_shape(name: str, l1: float) -> None:
    """By hand, number by number, with a group of zeros and a zero inside of a living one."""
    net, (x, y) = linear(4), data(4)
    penalty, labels = GROUPINGS[name]
    with torch.no_grad():
        net.weight[labels == 1] = 0.0
        net.weight[0, 0] = 0.0
    dw, db = gradient(net, x, y)
    w, h = net.weight.detach(), dw + 0.3 * net.weight.detach()
    squares = float(db.square().sum())
    for group in labels.unique().tolist():
        inside = labels == group
        u, g, size = w[inside], h[inside], float(inside.sum())
        s = 0.2 * math.sqrt(size) if group >= 0 else 0.0
        soft = torch.where(u == 0, g.sign() * (g.abs() - l1).clamp_min(0), g + l1 * u.sign())
        if u.any():
            squares += float((soft + s * u / u.norm()).square().sum())
        else:
            squares += max(float(soft.norm()) - s, 0.0) ** 2
    terms = [penalty.on(), wp.L1(l1).on(), wp.L2(0.3).on(how="prox")]
    found = certify(net, "squared_error", (x, y), terms)
    assert found.violation == pytest.approx(math.sqrt(squares), rel=1e-12)
    assert found.rows[0].measure == "distance"
    assert found.gap is not None
    if not l1:
        alone = certify(net, "squared_error", (x, y), [penalty.on()]).rows[0]
        assert alone.violation == pytest.approx(float(penalty.violation(w, dw)), rel=1e-12)
    best = settle(net, "squared_error", (x, y), terms, tolerance=1e-8)
    assert best.optimal
    assert 0 <= (best.gap or 0.0) < 1e-6


RATES = torch.linspace(0, 1, 3 * D, dtype=torch.float64).reshape(3, D)
START = {"weight": RATES.sin(), "bias": RATES[:, 0]}
KINDS: dict[str, Penalty] = {
    "weighted_l1": WeightedL1(0.3, RATES),
    "weighted_l1_broadcast": WeightedL1(0.3, RATES[0]),
    "l2_sp": L2SP(0.3, START),
    "l1_sp": L1SP(0.3, START),
    "sparse_group": wp.SparseGroup(0.3, by="input"),
    "group_mcp": wp.GroupMCP(0.3),
    "mcp": MCP(0.3),
    "row_l21": wp.RowL21(0.3),
    "total_variation": wp.TotalVariation(0.2),
    "nuclear": wp.Nuclear(0.3),
    "spectral": wp.Spectral(0.3),
    "orthogonality": wp.Orthogonality(0.1),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_is_judged_by_its_own_violation_also_beside_squares(name: str) -> None:
    net, (x, y) = linear(3), data(3)
    penalty = KINDS[name]
    bound = penalty.at(next(leaf for leaf in leaves(net) if leaf.name == "weight"))
    dw, _ = gradient(net, x, y)
    w = net.weight.detach()
    for l2 in (0.0, 0.3):
        terms = [penalty.on(), wp.L2(l2).on(how="loss")]
        found = certify(net, "squared_error", (x, y), terms)
        assert found.rows[0].violation == pytest.approx(float(bound.violation(w, dw + l2 * w)), rel=1e-12)
        assert found.rows[0].measure == "distance"
        assert found.penalty == pytest.approx(float(bound.value(w) + 0.5 * l2 * w.square().sum()), rel=1e-12)
        assert found.convex == bound.traits.convex
    after = settle(net, "squared_error", (x, y), terms, tolerance=1e-7)
    assert after.optimal
    near = after.gap is not None and after.gap <= 1e-7
    assert str(after).startswith(f"optimal to {after.gap:.3g}: " if near else "stationary to 1e-07: ")
    draw = torch.Generator().manual_seed(0)
    w, b = net.weight.detach(), net.bias.detach()
    for size in (1e-2, 1e-4):  # no rival nearby
        for _ in range(20):
            u = w + size * torch.randn(w.shape, generator=draw, dtype=torch.float64)
            cost = (x @ u.T + b - y).square().sum(1).mean() + bound.value(u) + 0.15 * u.square().sum()
            assert float(cost) >= after.objective - 1e-9


def test_group_norms_in_another_convention_go_with_l1() -> None:
    net, rows = linear(3), data(3)
    ours = [wp.GroupL2(0.3 / math.sqrt(D)).on(), wp.L1(0.1).on()]
    theirs = [wp.RowL21(0.3).on(), wp.L1(0.1).on()]
    assert certify(net, "squared_error", rows, theirs).rows[0] == replace(
        certify(net, "squared_error", rows, ours).rows[0], terms=("RowL21(strength=0.3)", "L1(strength=0.1)")
    )


def test_a_penalty_without_subdifferential_is_judged_by_its_residual() -> None:
    found = certify(linear(), "squared_error", data(), [L0(0.1).on()])
    assert found.rows[0].measure == "residual"
    assert any("residual" in note for note in found.notes)
    assert found.distance_bound is None
    assert not found.convex


def test_two_penalties_without_a_known_sum_are_refused() -> None:
    net = linear(3)
    terms = [wp.GroupL2(0.1, by="input").on(how="loss"), wp.GroupL2(0.1).on(how="loss")]
    with pytest.raises(CompositionError, match=r"stationarity of GroupL2.* and GroupL2.* together on 'weight'"):
        certify(net, "squared_error", data(3), terms)


# Constraints.


@pytest.mark.parametrize("flipped", [False, True])
def test_an_interval_has_one_sided_conditions(flipped: bool) -> None:
    net, (x, y) = linear(), data()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5, 0.5]]))
        net.weight.copy_(1 - net.weight if flipped else net.weight)
    dw, _ = gradient(net, x, y)
    row = certify(net, "squared_error", (x, y), [Interval(0.0, 1.0).on(), wp.L1(0.1).on()]).rows[0]
    w, g = net.weight.detach()[0], dw[0] + 0.1
    wanted = torch.where(w == 0, (-g).clamp_min(0), torch.where(w == 1, g.clamp_min(0), g))
    assert row.violation == pytest.approx(float(wanted.norm()), rel=1e-12)
    assert row.measure == "distance"
    assert row.infeasible == 0
    assert flipped == bool((wanted == 0).any())


def test_a_ball_is_judged_by_its_residual_and_infeasibility_counts() -> None:
    net, (x, y) = linear(), data()
    dw, _ = gradient(net, x, y)
    ball = wp.MaxNorm(0.5)
    w = net.weight.detach()
    found = certify(net, "squared_error", (x, y), [ball.on()])
    row = found.rows[0]
    assert row.violation == pytest.approx(float((w - ball.project(w - dw)).norm()), rel=1e-12)
    assert row.infeasible == pytest.approx(float(w.norm()) - 0.5, rel=1e-9)
    assert ("weight: the violation is the distance" in str(found)) == (row.violation == row.infeasible)
    assert not found.optimal
    after = settle(net, "squared_error", (x, y), [ball.on()], tolerance=1e-9)
    assert after.optimal
    assert float(net.weight.detach().norm()) == pytest.approx(0.5)
    # Minus the gradient points straight out of the ball.
    dw, _ = gradient(net, x, y)
    w = net.weight.detach()
    assert torch.allclose(-dw / dw.norm(), w / w.norm(), atol=1e-6)


def test_a_norm_bound_is_judged_as_the_ball_that_it_comes_to() -> None:
    from wellposed.constraints.multiplier import NormBound

    net, rows = linear(), data()
    found = certify(net, "squared_error", rows, [NormBound(0.5).on()])
    assert found.violation == certify(net, "squared_error", rows, [L2Ball(0.5).on()]).violation
    assert settle(net, "squared_error", rows, [NormBound(0.5).on()], tolerance=1e-8).optimal
    with pytest.raises(CompositionError, match="takes its bound after 200 steps"):
        certify(net, "squared_error", rows, [NormBound().on()])


def test_a_ball_and_an_l1_settle_where_no_rival_is_better() -> None:
    net, (x, y) = linear(), data()
    terms = [wp.MaxNorm(0.5).on(), wp.L1(0.3).on()]
    found = settle(net, "squared_error", (x, y), terms, tolerance=1e-9)
    assert found.optimal
    w, b = net.weight.detach(), net.bias.detach()
    draw = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(50):
            u = terms[0].charge.project(w + size * torch.randn(w.shape, generator=draw, dtype=torch.float64))  # type: ignore[attr-defined]
            cost = (x @ u.T + b - y).square().mean() + 0.3 * u.abs().sum()
            assert float(cost) >= found.objective - 1e-12


def test_a_box_with_l1_settles_where_the_projected_path_ends() -> None:
    net, (x, y) = linear(), data()
    terms = [wp.Box(-0.2, 0.4).on(), wp.L1(0.2).on()]
    found = settle(net, "squared_error", (x, y), terms, tolerance=1e-9)
    assert found.optimal
    assert found.rows[0].measure == "distance"
    w, b = net.weight.detach()[0].clone(), net.bias.detach().clone()
    for _ in range(3000):  # coordinates in turn: each has a closed form
        b = (y[:, 0] - x @ w).mean()
        for j in range(D):
            rest = y[:, 0] - x @ w - b + x[:, j] * w[j]
            c, q = 2 * float((rest * x[:, j]).mean()), 2 * float(x[:, j].square().mean())
            w[j] = min(max(math.copysign(max(abs(c) - 0.2, 0.0), c) / q, -0.2), 0.4)
        if float((net.weight.detach()[0] - w).norm()) > 1e-6:
            break
    assert float((net.weight.detach()[0] - w).norm()) < 1e-7
    assert {-0.2, 0.4} & {round(float(v), 9) for v in w}


def test_a_fixed_point_is_never_called_optimal() -> None:
    """A constraint beside a penalty with no proven joint step."""
    net, rows = linear(3), data(3)
    terms = [MCP(0.1).on(how="loss"), wp.MaxNorm(0.5).on()]
    found = certify(net, "squared_error", rows, terms, tolerance=1e9)
    assert found.rows[0].measure == "fixed point"
    assert str(found).startswith("not proven stationary: ")
    assert any("not proven to be stationary" in note for note in found.notes)
    with pytest.raises(CompositionError, match=r"No joint step is known for MCP.* on 'weight'"):
        settle(net, "squared_error", rows, terms)


# What is judged: rows, mode, parameters.


@pytest.mark.parametrize("batch", [7, 16, 50])
def test_batches_of_unequal_size_count_by_their_rows(batch: int) -> None:
    net, (x, y) = linear(), data()
    whole = certify(net, "squared_error", (x, y), [wp.L1(0.1).on()])
    loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
    parts = [(x[i : i + batch], y[i : i + batch]) for i in range(0, N, batch)]
    gaps = []
    for given in (loader, TensorDataset(x, y), parts, iter(parts), (part for part in parts)):
        found = certify(net, "squared_error", given, [wp.L1(0.1).on()])
        assert found.violation == pytest.approx(whole.violation, rel=1e-12)
        assert found.objective == pytest.approx(whole.objective, rel=1e-12)
        gaps.append(found.gap)
    assert gaps == pytest.approx([whole.gap] * 5, rel=1e-9)
    arrays = certify(net, "squared_error", (x.numpy(), y.numpy()), [wp.L1(0.1).on()])
    assert arrays.violation == pytest.approx(whole.violation, rel=1e-12)


def test_masked_targets_are_left_out() -> None:
    net, (x, _) = linear(3), data()
    y = torch.arange(N) % 3
    y[5:15] = -100
    some = certify(net, "cross_entropy", (x, y), [wp.L1(0.1).on()])
    kept = y >= 0
    rest = certify(net, "cross_entropy", (x[kept], y[kept]), [wp.L1(0.1).on()])
    assert some.violation == pytest.approx(rest.violation, rel=1e-12)
    assert some.gap == pytest.approx(rest.gap, rel=1e-9)
    parts = [(x[:12], y[:12]), (x[12:], y[12:])]
    assert certify(net, "cross_entropy", parts, [wp.L1(0.1).on()]).objective == pytest.approx(rest.objective)


def restless() -> nn.Sequential:
    """Dropout, batch norm and a counter that even evaluation moves."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), Counting(), nn.ReLU(), nn.Linear(5, 1))


def test_the_model_is_left_as_it_was_and_judged_in_evaluation_mode() -> None:
    net = restless()
    x, y = (t.float() for t in data())
    net[2].eval()
    net(x).square().mean().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    modes = [module.training for module in net.modules()]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = certify(
        net, "squared_error", DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True), [wp.L1(0.01).on()]
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert modes == [module.training for module in net.modules()]
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert all(torch.equal(p.grad, grads[name]) for name, p in net.named_parameters() if p.grad is not None)
    net.eval()
    assert found.loss == pytest.approx(float((net(x) - y).square().mean().detach()), rel=1e-5)
    assert certify(net, "squared_error", (x, y), [wp.L1(0.01).on()]).violation == pytest.approx(
        found.violation, rel=1e-4
    )


def test_tied_parameters_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(D, D, dtype=torch.float64), nn.Linear(D, D, dtype=torch.float64)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(x)))

    torch.manual_seed(0)
    net, (x, y) = Tied(), data(D)
    found = certify(net, "squared_error", (x, y), [wp.L1(0.1).on()])
    assert [row.parameter for row in found.rows] == ["one.weight = two.weight", "one.bias", "two.bias"]
    assert found.penalty == pytest.approx(0.1 * float(net.one.weight.abs().sum().detach()))


def test_frozen_parameters_and_those_of_no_optimizer_are_left_out() -> None:
    net, (x, y) = linear(), data()
    net.bias.requires_grad_(False)
    found = certify(net, "squared_error", (x, y), [wp.L1(0.1).on()])
    assert [row.parameter for row in found.rows] == ["weight"]
    assert found.gap is not None
    net.bias.requires_grad_(True)
    optimizer = wp.regularize(torch.optim.SGD([net.weight], lr=0.1), net, [wp.L1(0.1).on()])
    same = certify(net, "squared_error", (x, y), optimizer)
    assert [row.parameter for row in same.rows] == ["weight"]
    assert same.violation == found.violation
    net.requires_grad_(False)
    with pytest.raises(InputError, match="no trained parameter"):
        certify(net, "squared_error", (x, y))


def test_a_layer_that_is_gone_is_named() -> None:
    net, (x, y) = linear(), data()
    found = settle(net, "squared_error", (x, y), [wp.L1(100.0).on()])
    assert found.rows[0].gone
    assert found.rows[0].zeros == 1
    assert any("weight is zero as a whole" in note for note in found.notes)
    assert "all" in str(found)
    assert float(net.bias.detach()) == pytest.approx(float(y.mean()), abs=1e-6)


# Decay.


def test_decay_is_an_l2_under_plain_sgd_and_refused_elsewhere() -> None:
    net, (x, y) = linear(), data()
    decay = [wp.L2(0.2).on()]
    wanted = certify(net, "squared_error", (x, y), [wp.L2(0.2).on(how="prox")])
    plain = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, decay)
    assert certify(net, "squared_error", (x, y), plain).violation == wanted.violation
    assert certify(net, "squared_error", (x, y), decay, plain.optimizer).objective == wanted.objective
    with pytest.raises(CompositionError, match=r"depends on the optimizer. Give optimizer=.*how='prox' or how='loss'"):
        certify(net, "squared_error", (x, y), decay)
    momentum = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net, decay)
    with pytest.raises(CompositionError, match=r"What it solves: loss \+ 0.02/2 \|w\|\^2 \(momentum divides decay\)"):
        certify(net, "squared_error", (x, y), momentum)
    adam = wp.regularize(torch.optim.Adam(net.parameters()), net, decay)
    with pytest.raises(CompositionError, match=r"with Adam.*no fixed objective: decay in the optimizer's own metric"):
        certify(net, "squared_error", (x, y), adam)
    with pytest.raises(CompositionError, match="momentum divides decay"):
        settle(net, "squared_error", (x, y), momentum)


def test_an_optimizers_own_weight_decay_is_judged_too() -> None:
    net, (x, y) = linear(), data()
    own = torch.optim.Adam(net.parameters(), weight_decay=0.2)
    terms = [wp.L2(0.2).on(wp.named("*"), how="prox")]
    assert certify(net, "squared_error", (x, y), [], own).violation == pytest.approx(
        certify(net, "squared_error", (x, y), terms).violation
    )
    with pytest.raises(CompositionError, match=r"AdamW's weight_decay on 'weight' minimizes no fixed objective"):
        certify(net, "squared_error", (x, y), [], torch.optim.AdamW(net.parameters()))


def test_strengths_that_follow_a_schedule_need_the_step() -> None:
    net, (x, y) = linear(), data()
    ramped = [wp.L1(0.2).on(schedule=lambda step: min(1.0, step / 10))]
    with pytest.raises(InputError, match="depends on the step"):
        certify(net, "squared_error", (x, y), ramped)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.0), net, ramped)
    for _ in range(6):
        net(x).square().mean().backward()
        optimizer.step()
    half = certify(net, "squared_error", (x, y), [wp.L1(0.1).on()])
    assert certify(net, "squared_error", (x, y), optimizer).objective == pytest.approx(half.objective)


def test_a_reference_is_that_of_the_optimizer_and_not_taken_anew() -> None:
    net, (x, y) = linear(), data()
    start = net.weight.detach().clone()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [L2SP(0.4).on()])
    net(x).square().mean().backward()
    optimizer.step()
    moved_by = float((net.weight.detach() - start).square().sum())
    assert certify(net, "squared_error", (x, y), optimizer).penalty == pytest.approx(0.2 * moved_by)
    assert certify(net, "squared_error", (x, y), optimizer.terms).penalty == 0
    inside = wp.Lookahead(wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()]))
    assert (
        certify(net, "squared_error", (x, y), inside).violation
        == certify(net, "squared_error", (x, y), [wp.L1(0.1).on()]).violation
    )


@pytest.mark.parametrize("charge", [wp.Nuclear(0.2), wp.TotalVariation(0.1), MCP(0.1), wp.SparseGroup(0.1, by="input")])
def test_plain_sgd_comes_to_rest_at_what_is_certified(charge: Penalty) -> None:
    net, (x, y) = linear(3), data(3)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [charge.on()])
    for _ in range(1500):
        net.weight.grad, net.bias.grad = gradient(net, x, y)
        optimizer.step()
    found = certify(net, "squared_error", (x, y), optimizer)
    assert found.optimal
    assert found.rows[0].measure == "distance"


def test_euclidean_steps_of_an_adaptive_optimizer_are_noted() -> None:
    net, (x, y) = linear(), data()
    found = certify(net, "squared_error", (x, y), [wp.MaxNorm(1.0).on()], torch.optim.Adam(net.parameters()))
    assert any("Euclidean under Adam" in note for note in found.notes)
    found = certify(net, "squared_error", (x, y), [wp.MaxNorm(1.0).on()], torch.optim.SGD(net.parameters(), lr=0.1))
    assert not any("Euclidean" in note for note in found.notes)


# Functional and coupled penalties.


@dataclass(frozen=True)
class Outputs(FunctionalPenalty):
    """``strength * mean_i |f(x_i)|^2``."""

    strength: float

    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return self.strength * context.outputs.square().sum(1).mean()


@dataclass(frozen=True)
class InputGradient(FunctionalPenalty):
    """``strength * mean_i |df/dx_i|^2``."""

    strength: float
    needs: ClassVar[tuple[str, ...]] = ("outputs", "inputs")

    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        (slope,) = torch.autograd.grad(context.outputs.sum(), context.inputs, create_graph=True)
        return self.strength * slope.square().sum(1).mean()


@dataclass(frozen=True)
class ToTeacher(FunctionalPenalty):
    strength: float
    needs: ClassVar[tuple[str, ...]] = ("outputs", "reference")

    def value(self, context: Context) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Bridge(CoupledPenalty):
    """``strength * |(w_1, w_2)|_2``: both tensors vanish together."""

    strength: float
    traits: ClassVar[Traits] = Traits(homogeneous=1)

    @property
    def names(self) -> tuple[str, ...]:
        return "weight", "bias"

    def value(self, ws: Sequence[Tensor]) -> Tensor:
        return self.strength * torch.cat([w.flatten() for w in ws]).norm()

    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        norm = torch.cat([w.flatten() for w in ws]).norm()
        scale = (1 - float(steps[0]) * self.strength / norm).clamp_min(0.0)
        return [scale * w for w in ws]

    def violation(self, ws: Sequence[Tensor], grads: Sequence[Tensor], step: float = 1.0) -> Tensor:
        w, g = (torch.cat([t.flatten() for t in ts]) for ts in (ws, grads))
        if not w.any():
            return (g.norm() - self.strength).clamp_min(0.0)
        return (g + self.strength * w / w.norm()).norm()


def test_functional_penalties_are_part_of_the_smooth_cost() -> None:
    net, (x, y) = linear(), data()
    found = certify(net, "squared_error", (x, y), [Outputs(0.1).on(), InputGradient(0.2).on(), wp.L1(0.1).on()])
    w = net.weight.detach()
    assert found.penalty == pytest.approx(
        float((0.1 * net(x).square().mean() + 0.2 * w.square().sum()).detach() + 0.1 * w.abs().sum())
    )
    dw, db = gradient(net, x, y)
    residual = 0.2 / N * net(x).detach()
    dw, db = dw + residual.T @ x + 0.4 * w + 0.1 * w.sign(), db + residual.sum(0)
    assert found.violation == pytest.approx(math.hypot(float(dw.norm()), float(db.norm())), rel=1e-10)
    assert found.gap is None
    parts = DataLoader(TensorDataset(x, y), batch_size=7)
    other = certify(net, "squared_error", parts, [Outputs(0.1).on(), InputGradient(0.2).on(), wp.L1(0.1).on()])
    assert other.violation == pytest.approx(found.violation, rel=1e-10)
    assert settle(net, "squared_error", (x, y), [Outputs(0.1).on(), InputGradient(0.2).on(), wp.L1(0.1).on()]).optimal
    with pytest.raises(InputError, match="looks at reference"):
        certify(net, "squared_error", (x, y), [ToTeacher(0.1).on()])


def test_coupled_parameters_make_one_row() -> None:
    net, (x, y) = linear(), data()
    terms = [Bridge(0.4).on(), wp.L2(0.1).on(wp.named("*"), how="loss")]
    found = certify(net, "squared_error", (x, y), terms)
    assert [row.parameter for row in found.rows] == ["weight & bias"]
    dw, db = gradient(net, x, y)
    w = torch.cat([net.weight.detach().flatten(), net.bias.detach()])
    g = torch.cat([dw.flatten(), db]) + 0.1 * w
    assert found.violation == pytest.approx(float((g + 0.4 * w / w.norm()).norm()), rel=1e-12)
    assert settle(net, "squared_error", (x, y), terms, tolerance=1e-8).optimal
    assert settle(net, "squared_error", (x, y), [Bridge(100.0).on()], tolerance=1e-8).rows[0].gone
    with pytest.raises(CompositionError, match="together with the other terms on 'weight' is not known"):
        certify(net, "squared_error", (x, y), [Bridge(0.4).on(), wp.L1(0.1).on(how="loss")])
    with pytest.raises(CompositionError, match=r"Bridge.* together with Bridge"):
        certify(net, "squared_error", (x, y), [Bridge(0.4).on(how="loss"), Bridge(0.1).on(how="loss")])


def test_an_input_that_two_layers_share_is_one_row() -> None:
    torch.manual_seed(0)
    net, rows = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 1)).double(), data()
    tied = wp.TiedGroups(0.05, {"0.weight": "unit", "0.bias": "unit", "2.weight": "input"})
    terms = [tied.on(), wp.L2(0.01).on("0", how="loss")]
    found = settle(net, "squared_error", rows, terms, tolerance=1e-7)
    assert found.optimal
    assert [row.parameter for row in found.rows] == ["2.bias", "0.weight & 0.bias & 2.weight"]
    assert found.rows[1].measure == "distance"
    assert found.penalty == pytest.approx(
        float(tied.value([net[0].weight, net[0].bias, net[2].weight]).detach())
        + 0.005 * float(net[0].weight.detach().square().sum())
    )


def test_a_bias_that_is_coupled_has_no_gap() -> None:
    """It is neither free nor fixed: no dual point is known."""
    found = certify(linear(3), "squared_error", data(3), [wp.TiedGroups(0.1, {"bias": "unit"}).on(), wp.L1(0.1).on()])
    assert found.gap is None
    assert found.strong_convexity is None


def test_a_hierarchy_is_judged_by_its_residual() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skip, self.first, self.out = nn.Linear(D, 1, bias=False), nn.Linear(D, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.skip(x) + self.out(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    net, rows = Skipping().double(), data()
    terms = [wp.Hierarchical(0.2, skip="skip.weight", first="first.weight").on()]
    found = certify(net, "squared_error", rows, terms)
    assert found.rows[-1].parameter == "skip.weight & first.weight"
    assert found.rows[-1].measure == "residual"
    assert any("residual" in note for note in found.notes)


@pytest.mark.parametrize("penalty", [wp.Confidence(0.1), wp.LogitL2(0.1), wp.Jacobian(0.1)])
def test_penalties_of_outputs_by_finite_differences(penalty: FunctionalPenalty) -> None:
    net, (x, _) = linear(3), data()
    rows = (x, torch.arange(N) % 3)
    found = certify(net, "cross_entropy", rows, [penalty.on()])
    slopes = []
    for p in net.parameters():
        for i in range(p.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    p.view(-1)[i] += step
                ends.append(certify(net, "cross_entropy", rows, [penalty.on()]).objective)
                with torch.no_grad():
                    p.view(-1)[i] -= step
            slopes.append((ends[0] - ends[1]) / 2e-5)
    assert found.violation == pytest.approx(math.hypot(*slopes), rel=1e-6)
    assert not found.convex
    assert found.gap is None


def test_random_projections_are_said() -> None:
    found = certify(linear(3), "squared_error", data(3), [wp.Jacobian(0.1, projections=1).on()])
    assert any("one draw" in note for note in found.notes)


# The duality gap.

LOSSES: dict[str, tuple[Any, int]] = {
    "squared_error": ("squared_error", 2),
    "mse": ("mse", 3),
    "mse_module": (nn.MSELoss(), 2),
    "cross_entropy": ("cross_entropy", 3),
    "binary_cross_entropy": ("binary_cross_entropy", 1),
}
TERMS: dict[str, Callable[[], list[Any]]] = {
    "l1": lambda: [wp.L1(0.03).on()],
    "l2": lambda: [wp.L2(0.05).on(how="loss")],
    "elastic_net": lambda: [wp.ElasticNet(0.05).on()],
    "group": lambda: [wp.GroupL2(0.03, by="input").on()],
    "l1_group": lambda: [wp.GroupL2(0.02).on(), wp.L1(0.02).on()],
    "own_groups": lambda: [wp.GroupL2(0.03, by=torch.tensor([0, 0, 1, 1, 1, -1])).on(), wp.L1(0.01).on()],
    "all": lambda: [wp.GroupL2(0.02, by="input").on(), wp.L1(0.01).on(), wp.L2(0.02).on(how="prox")],
}


def problem(name: str) -> tuple[Any, tuple[Tensor, Tensor], int]:
    loss, outputs = LOSSES[name]
    x, y = data(outputs, seed=3)
    noisy = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    if name == "cross_entropy":
        return loss, (x, noisy.argmax(1)), outputs
    return loss, (x, (noisy > 0).double() if name == "binary_cross_entropy" else y), outputs


def moved(net: nn.Module, star: list[Tensor], size: float, draw: torch.Generator) -> None:
    with torch.no_grad():
        for p, w in zip(net.parameters(), star, strict=True):
            p.copy_(w + size * torch.randn(w.shape, generator=draw, dtype=torch.float64))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("terms", list(TERMS))
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_gap_bounds_how_far_the_objective_is_above_its_minimum(name: str, terms: str, bias: bool) -> None:
    loss, rows, outputs = problem(name)
    net = linear(outputs, bias)
    best = settle(net, loss, rows, TERMS[terms](), tolerance=1e-9)
    assert best.optimal
    assert best.convex
    assert best.gap is not None
    assert 0 <= best.gap < 1e-7
    star = [p.detach().clone() for p in net.parameters()]
    draw, tightest = torch.Generator().manual_seed(0), 0.0
    for i in range(12):  # with 48 settings: more than 500 points
        moved(net, star, 10.0 ** (-i / 3), draw)
        found = certify(net, loss, rows, TERMS[terms]())
        above = found.objective - best.objective
        assert found.gap is not None
        assert -1e-12 < above <= found.gap + 1e-12
        tightest = max(tightest, above / found.gap)
        if found.distance_bound is not None:
            apart = math.sqrt(
                sum(float((p - w).detach().square().sum()) for p, w in zip(net.parameters(), star, strict=True))
            )
            assert apart <= found.distance_bound * (1 + 1e-9) + 1e-7
    assert tightest > 0.01


def test_the_gap_bounds_at_a_hundred_random_points() -> None:
    loss, rows, _ = problem("binary_cross_entropy")
    net = linear()
    best = settle(net, loss, rows, TERMS["l1"](), tolerance=1e-10)
    star, draw = [p.detach().clone() for p in net.parameters()], torch.Generator().manual_seed(1)
    for i in range(100):
        moved(net, star, 3.0 * 0.9**i, draw)
        found = certify(net, loss, rows, TERMS["l1"]())
        assert found.gap is not None
        assert 0 < found.objective - best.objective <= found.gap


def test_the_gap_of_ridge_by_hand() -> None:
    """At zero, one input and no bias: ``P = mean y^2``, ``min = mean y^2 - c^2/(q + s/2)``, and the dual point is exact."""
    x, y = data()
    x = x[:, :1]
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    found = certify(net, "squared_error", (x, y), [wp.L2(0.5).on(how="loss")])
    c, q = float((x * y).mean()), float(x.square().mean())
    assert found.gap == pytest.approx((2 * c) ** 2 / (2 * 0.5), rel=1e-12)
    assert found.gap > c**2 / (q + 0.25)
    assert found.strong_convexity == pytest.approx(2 * q + 0.5)


@pytest.mark.parametrize("name", duality.LOSSES)
def test_conjugates_are_the_supremum(name: str) -> None:
    """``l*(v) >= v z - l(z)`` everywhere, with equality where ``v`` is the slope."""
    draw = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(200, 3, generator=draw, dtype=torch.float64)
    y = torch.softmax(torch.randn(200, 3, generator=draw, dtype=torch.float64), 1)
    v = duality.slopes(name, z, y)
    held = duality.conjugates(name, v, y)
    torch.testing.assert_close(held, (v * z).sum(1) - duality.losses(name, z, y), rtol=1e-10, atol=1e-12)
    for _ in range(50):
        other = z + torch.randn(z.shape, generator=draw, dtype=torch.float64)
        assert bool((held >= (v * other).sum(1) - duality.losses(name, other, y) - 1e-12).all())


def test_where_no_gap_is_known() -> None:
    net, (x, y) = linear(), data()
    assert certify(net, "squared_error", (x, y), [wp.L1(0.1).on(wp.named("*"))]).gap is None
    assert certify(net, "absolute_error", (x, y), [wp.L1(0.1).on()]).gap is None
    assert certify(nn.Sequential(linear(), nn.Identity()), "squared_error", (x, y), [wp.L1(0.1).on()]).gap is None
    assert certify(nn.Sequential(linear()), "squared_error", (x, y), [wp.L1(0.1).on()]).gap is not None
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0], dtype=torch.float64))
    found = certify(net, weighted, (x, (y > 0).double()), [wp.L1(0.1).on()])
    assert found.gap is None
    assert any("weighs or smooths" in note for note in found.notes)
    same = certify(net, "binary_cross_entropy", (x, torch.ones(N, 1)), [wp.L1(0.1).on()])
    assert same.gap == pytest.approx(
        same.objective
    )  # labels of one class: the bias goes to infinity, and the cost to 0


def test_a_function_of_a_persons_own_is_not_taken_for_one_of_ours() -> None:
    def huber(outputs: Tensor, target: Tensor) -> Tensor:
        return torch.sin(outputs - target).square().sum(1)

    assert certify(linear(), "huber", data(), [wp.L2(0.1).on(how="loss")]).convex
    found = certify(linear(), huber, data(), [wp.L2(0.1).on(how="loss")])
    assert not found.convex
    assert found.strong_convexity is None


# Settling.


def test_settling_never_raises_the_cost_of_a_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    rows = data()
    terms = [wp.L1(0.01).on(), wp.GroupL2(0.01).on("0")]
    costs = [certify(net, "squared_error", rows, terms).objective]
    for _ in range(20):
        costs.append(settle(net, "squared_error", rows, terms, steps=15, tolerance=0.0).objective)
    assert all(b <= a + 1e-13 for a, b in pairwise(costs))
    found = settle(net, "squared_error", rows, terms, tolerance=1e-7)
    assert found.optimal
    assert not found.convex
    assert str(found).startswith("stationary to 1e-07: ")
    assert 0 < found.rows[0].zeros < 1


def test_single_precision_ends_with_a_sentence() -> None:
    torch.manual_seed(0)
    x, y = (t.float() for t in data())
    net = nn.Linear(D, 1)
    found = settle(net, "squared_error", (x, y), [wp.L1(0.1).on()], tolerance=1e-12, steps=4000)
    assert found.violation < 1e-4
    assert any("rounding in float32" in note for note in found.notes)
    assert not found.optimal


def test_steps_that_are_used_up_are_said_and_progress_is_reported() -> None:
    events: list[str] = []
    net, rows = linear(), data()
    with reporting_to(lambda event, fields: events.append(event)):
        short = settle(net, "squared_error", rows, [wp.L1(0.1).on()], steps=3)
        assert settle(net, "squared_error", rows, [wp.L1(0.1).on()], tolerance=0.0, steps=400).notes
    assert any("used up its 3 steps" in note for note in short.notes)
    assert "settle" in events
    kept = [p.detach().clone() for p in net.parameters()]
    settle(net, "squared_error", rows, [wp.L1(0.5).on()], steps=0)
    assert all(torch.equal(a, b) for a, b in zip(kept, net.parameters(), strict=True))


def test_settling_leaves_all_but_the_weights_as_it_was() -> None:
    net = restless()
    x, y = (t.float() for t in data())
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    settle(net, "squared_error", (x, y), [wp.L1(0.01).on()], steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers())


# What it says.


def test_a_certificate_is_readable_and_goes_to_json() -> None:
    net, rows = linear(), data()
    settle(net, "squared_error", rows, [wp.L1(0.1).on()], tolerance=1e-9)
    found = certify(net, "squared_error", rows, [wp.L1(0.1).on()])
    text = str(found)
    for part in ("optimal to ", "objective", "duality gap", "of the minimizer", "weight", "L1(strength=0.1)"):
        assert part in text
    assert json.loads(json.dumps(found.to_dict()))["optimal"] is True
    assert isinstance(found, Certificate)
    assert found.distance_bound is not None
    assert str(certify(linear(seed=5), "squared_error", rows, [wp.L1(0.1).on()])).startswith("not optimal: ")
    assert str(certify(linear(seed=5), "huber", rows, [wp.L1(0.1).on()])).startswith("not stationary: ")


def test_only_a_gap_is_called_optimal() -> None:
    """On a flat cost a small gradient says nothing about the distance to the minimum."""
    gap_known = Certificate(1.0, 1.0, 0.0, 1e-8, (), 1e-6, gap=2e-7, convex=True)
    assert str(gap_known).startswith("optimal to 2e-07: violation 1e-08, tolerance 1e-06\n")
    assert str(replace(gap_known, gap=0.5)).startswith("stationary to 1e-06: ")
    assert str(replace(gap_known, gap=None)).startswith("stationary to 1e-06: ")
    assert str(replace(gap_known, violation=1.0)).startswith("not optimal: ")
    assert str(replace(gap_known, violation=1.0, gap=None)).startswith("not stationary: ")
    # Weights so small that the cost is flat, and far from where it is least.
    x, y = 1e-8 * torch.ones(4, 1, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    flat = certify(net, "squared_error", (x, y))
    assert flat.optimal
    assert str(flat).startswith("stationary to 1e-06: ")


def test_what_cannot_be_judged() -> None:
    net, rows = linear(), data()
    with pytest.raises(InputError, match=r"to be an nn\.Module"):
        certify("net", "squared_error", rows)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"bound with \.on"):
        certify(net, "squared_error", rows, [wp.L1(0.1)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="has no terms"):
        certify(net, "squared_error", rows, torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(DataError, match="equally many rows"):
        certify(net, "squared_error", (rows[0], rows[1][:-1]))
    with pytest.raises(DataError, match="the data are empty"):
        certify(net, "squared_error", [])
    with pytest.raises(InputError, match="steps= to be a whole number >= 0"):
        settle(net, "squared_error", rows, steps=-1)
    with torch.no_grad():
        net.weight.fill_(math.nan)
    assert not certify(net, "squared_error", rows).optimal
    assert any("not finite" in note for note in settle(net, "squared_error", rows).notes)


# The tests of the tests: certifiers that are wrong in one way each.


def caught(test: Callable[..., None], *given: Any) -> bool:
    try:
        test(*given)
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


def wrong_distance(patch: pytest.MonkeyPatch) -> None:
    """Sign(0) = 0 at zeros: the slack of the subdifferential is forgotten."""
    patch.setattr(stationarity, "_slopes", lambda w, l1, interval: (l1 * w.sign(), l1 * w.sign()))


def wrong_group(patch: pytest.MonkeyPatch) -> None:
    """At zero groups the two slacks are added number by number, not as a box and a ball."""
    right = stationarity._slopes

    def wrong(w: Tensor, l1: Any, interval: Any) -> tuple[Tensor, Tensor]:
        return right(w, l1 + 0.3 * math.sqrt(3), interval)

    patch.setattr(stationarity, "_slopes", wrong)


def forgets_the_interval(patch: pytest.MonkeyPatch) -> None:
    """No normal cone: a constraint that holds a weight back looks like a gradient."""
    right = stationarity._slopes
    patch.setattr(stationarity, "_slopes", lambda w, l1, interval: right(w, l1, (-math.inf, math.inf)))


def batches_weigh_the_same(patch: pytest.MonkeyPatch) -> None:
    from wellposed.losses.per_example import PerExample

    patch.setattr(PerExample, "sums", lambda self, weight=None: (self.total.mean(), torch.ones(())))


def training_mode(patch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    patch.setattr(costs, "evaluating", lambda *given: nullcontext())


def forgets_a_term(patch: pytest.MonkeyPatch) -> None:
    right = charges.checked_terms
    patch.setattr(charges, "checked_terms", lambda terms: right(terms)[:-1])


def any_bias(patch: pytest.MonkeyPatch) -> None:
    """A dual point whose slopes do not sum to zero is no bound where the bias is free."""
    patch.setattr(duality, "dual_point", lambda name, y, z, units, free: duality.slopes(name, z, y) / units)


def shrinks_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(duality, "largest_feasible_factor", lambda c, l1, group, groups: c.new_ones(()))


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[..., None], tuple[Any, ...]]] = [
    (wrong_distance, test_l1_l2_and_groups_together, ()),
    (wrong_group, test_the_distance_is_the_least_over_the_subdifferential, ()),
    (forgets_the_interval, test_an_interval_has_one_sided_conditions, (True,)),
    (batches_weigh_the_same, test_batches_of_unequal_size_count_by_their_rows, (7,)),
    (training_mode, test_the_model_is_left_as_it_was_and_judged_in_evaluation_mode, ()),
    (forgets_a_term, test_l1_l2_and_groups_together, ()),
    (shrinks_nothing, test_the_gap_bounds_at_a_hundred_random_points, ()),
]


@pytest.mark.parametrize(("mutant", "test", "given"), MUTANTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_wrong_certifier_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None],
    test: Callable[..., None],
    given: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not caught(test, *given)
    mutant(monkeypatch)
    assert caught(test, *given)


def test_without_centering_the_gap_would_not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that the slopes of a free bias sum to zero refuses such a point, and it would have been no bound."""
    any_bias(monkeypatch)
    x, y = data()
    y = y + 5.0
    net = linear()
    found = certify(net, "squared_error", (x, y), [wp.L1(0.1).on()])
    assert found.gap is None
    monkeypatch.undo()
    w, b = net.weight.detach(), net.bias.detach()
    best = settle(linear(), "squared_error", (x, y), [wp.L1(0.1).on()], tolerance=1e-10)
    u = duality.slopes("squared_error", x @ w.T + b, y) / N
    given: dict[str, Any] = {
        "l1": 0.1,
        "l2": 0.0,
        "group": 0.0,
        "groups": None,
        "units": float(N),
        "offset": torch.zeros(1),
    }
    right = duality.dual_point("squared_error", y, x @ w.T + b, float(N), True)
    assert float(duality.dual("squared_error", x, y, right, **given)) <= best.objective
    assert float(duality.dual("squared_error", x, y, u, **given)) > best.objective
