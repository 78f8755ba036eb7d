"""Every pair of charges on one parameter: refused, or the step is the joint minimizer.

For two convex charges the truth is the limit of Dykstra's iteration, which needs nothing but the two operators; for others no
rival may be better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.core.selectors import select
from wellposed.optim.binding import join_operators
from wellposed.penalties.base import Chargeable, Constraint, CoupledPenalty, FunctionalPenalty, Penalty
from wellposed.recipe.recipe import chargeables
from wellposed.testing.laws import Case, rival_points

ROWS, COLUMNS = 6, 4

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "elastic_net": [{"strength": 0.4, "mix": 0.5}],
    "group_l2": [{"strength": 0.2}, {"strength": 0.15, "by": "input"}],
    "group_mcp": [{"strength": 0.2}],
    "l0": [{"strength": 0.2}],
    "l1": [{"strength": 0.3}],
    "l1_sp": [{"strength": 0.3}],
    "l2": [{"strength": 0.5}],
    "l2_sp": [{"strength": 0.5}],
    "mcp": [{"strength": 0.3}],
    "nuclear": [{"strength": 0.4}],
    "orthogonality": [{"strength": 0.3}],
    "row_l21": [{"strength": 0.3}],
    "scad": [{"strength": 0.3}],
    "sparse_group": [{"strength": 0.3}, {"strength": 0.3, "by": "input"}],
    "spectral": [{"strength": 0.4}],
    "total_variation": [{"strength": 0.2}],
    "weighted_l1": [
        {"strength": 0.3, "weights": torch.linspace(0, 2, ROWS * COLUMNS, dtype=torch.float64).view(ROWS, COLUMNS)}
    ],
    "weighted_l2": [
        {"strength": 0.3, "weights": torch.linspace(0, 2, ROWS * COLUMNS, dtype=torch.float64).view(ROWS, COLUMNS)}
    ],
    "box": [{"low": -0.5, "high": 0.7}, {"low": 0.1, "high": 0.7}],
    "half_space": [{"normal": 1.0, "limit": 0.2}, {"normal": 1.0, "limit": -0.1, "by": "unit"}],
    "l1_ball": [{"bound": 1.0}, {"bound": 0.7, "by": "unit"}],
    "l2_ball": [{"bound": 1.5}],
    "linf_ball": [{"bound": 0.6}],
    "max_norm": [{"bound": 0.8}, {"bound": 0.8, "by": "input"}],
    "non_negative": [{}],
    "orthogonal": [{}],
    "simplex": [{}],
    "spectral_ball": [{"bound": 1.0}],
    "top_k": [{"keep": 5}, {"keep": 2, "by": "unit"}],
    "unit_norm": [{}],
}

ELSEWHERE = ("norm_bound", "kl")
"""A multiplier that moves with every step: no fixed objective of one step. And what charges distributions, in the loss alone."""


def matched(name: str, cls: type[Chargeable]) -> list[Chargeable]:
    """The charges of one class that a matrix can bear."""
    return [cls(**given) for given in SETTINGS.get(name, ())]


CHARGES = [charge for name, cls in chargeables().items() for charge in matched(name, cls)]
PAIRS = list(itertools.combinations(CHARGES, 2)) + [(c, c) for c in CHARGES]


def test_every_class_is_in_a_pair() -> None:
    """Those of one parameter; of outputs and of several parameters there is no pair on one."""
    of_one = {n for n, cls in chargeables().items() if not issubclass(cls, (FunctionalPenalty, CoupledPenalty))}
    assert of_one == {*SETTINGS, *ELSEWHERE}, "give the settings of new classes"


def how(charge: Chargeable) -> str | None:
    """By its operator, where it has one."""
    return next((h for h in ("prox", "project") if h in charge.hows), None)


def stepped(a: Chargeable, b: Chargeable, w: Tensor, step: float) -> tuple[Tensor, list[Chargeable]]:
    """What one step without a gradient makes of ``w``, and the charges as the parameter bears them.

    Raises:
        InputError: the pair is refused.
    """
    net = nn.Linear(COLUMNS, ROWS, bias=False, dtype=torch.float64)
    net.weight.data.copy_(start())
    terms = [charge.on(how=how(charge)) for charge in (a, b)]  # type: ignore[arg-type]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=step), net, terms)
    leaf = select(net, wp.weights)[0]
    bound = [charge.at(leaf) for charge in (a, b)]
    net.weight.data.copy_(w)
    net.weight.grad = torch.zeros_like(w)
    optimizer.step()
    return net.weight.detach().clone(), bound


def start() -> Tensor:
    """The weights at first, which some penalties stay close to."""
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(99), dtype=torch.float64) * 0.3


def apply(charge: Chargeable, w: Tensor, step: float | Tensor) -> Tensor:
    """The operator of one charge."""
    if isinstance(charge, Penalty):
        return charge.prox(w, step)
    assert isinstance(charge, Constraint)
    return charge.project(w)


def dykstra(a: Chargeable, b: Chargeable, w: Tensor, step: float | Tensor, rounds: int = 3000) -> Tensor | None:
    """``argmin 1/2 |u - w|^2/step + a(u) + b(u)`` for convex charges, from their operators alone; None: not there yet."""
    x, p, q = w, torch.zeros_like(w), torch.zeros_like(w)
    for _ in range(rounds):
        y = apply(a, x + p, step)
        p = x + p - y
        last, x = x, apply(b, y + q, step)
        q = y + q - x
        if float((x - last).abs().max()) < 1e-12 and float((x - y).abs().max()) < 1e-10:
            return x
    return None


def cost(charges: list[Chargeable], u: Tensor, w: Tensor, step: float | Tensor) -> float:
    """The joint objective; infinite outside of a set."""
    for charge in charges:
        if isinstance(charge, Constraint) and float((charge.project(u) - u).abs().max()) > 1e-9:
            return math.inf
    values = sum(float(charge.value(u)) for charge in charges if isinstance(charge, Penalty))
    return 0.5 * float(((u - w).square() / step).sum()) + values


def candidates(charges: list[Chargeable], p: Tensor, case: Case) -> Iterator[Tensor]:
    """Rivals, on the sets."""
    a, b = charges
    first, second = apply(a, case.w, case.step), apply(b, case.w, case.step)
    orders = [first, second, apply(b, first, case.step), apply(a, second, case.step)]
    for u in (*orders, *((p + u) / 2 for u in orders), *(u for _, u in rival_points(p, case))):
        for x in (a, b), (b, a):
            v = u
            for charge in x:
                v = charge.project(v) if isinstance(charge, Constraint) else v
            yield v


def descended(charges: list[Chargeable], p: Tensor, w: Tensor, step: float | Tensor) -> Iterator[Tensor]:
    """Points downhill of ``p`` among those with its zeros, on the sets: where the joint objective has a slope left."""
    for size in (1e-2, 1e-3, 1e-4):
        u = p
        for _ in range(10):
            v = u.detach().clone().requires_grad_()
            total = 0.5 * ((v - w).square() / step).sum()
            for charge in charges:
                total = total + charge.value(v) if isinstance(charge, Penalty) else total
            (slope,) = torch.autograd.grad(total, v)
            u = u - size * slope.nan_to_num() * (p != 0)
            for charge in charges:
                u = charge.project(u) if isinstance(charge, Constraint) else u
            yield u


def points() -> Iterator[Case]:
    """Small and large weights, some of them 0, and steps up to where a folded concave penalty is no longer convex."""
    draw = torch.Generator().manual_seed(7)
    for i, (size, step) in enumerate(((0.5, 0.3), (2.0, 1.0), (2.0, 5.0))):
        w, other = torch.randn((2, ROWS, COLUMNS), generator=draw, dtype=torch.float64) * size
        if i == 1:
            w[0], w[1:, 2] = 0.0, 0.0
        yield Case(w, other, step, i)


def accepted() -> list[tuple[Chargeable, Chargeable]]:
    """The pairs that are not refused."""
    found = []
    for a, b in PAIRS:
        if how(a) is None or how(b) is None:
            continue
        try:
            stepped(a, b, start(), 0.1)
        except InputError:
            continue
        found.append((a, b))
    return found


ACCEPTED = accepted()


def test_some_pairs_are_accepted_and_some_are_not() -> None:
    assert 20 <= len(ACCEPTED) < len(PAIRS) / 2


def judge(charges: list[Chargeable], p: Tensor, case: Case, step: float | Tensor) -> None:
    """``p`` is on the sets; where both are convex it is Dykstra's limit, and where not, no rival is better."""
    best = cost(charges, p, case.w, step)
    assert best < math.inf, "the step leaves a set"
    if all(charge.traits.convex for charge in charges):
        truth = dykstra(*charges, case.w, step)
        assert truth is not None, "Dykstra's iteration does not settle"
        gap = float((truth - p).abs().max())
        assert gap < 1e-6, f"the joint minimizer is {gap:.3g} away"
        return
    for u in itertools.chain(candidates(charges, p, case), descended(charges, p, case.w, step)):
        rival = cost(charges, u, case.w, step)
        assert rival >= best - 1e-9 * max(1.0, best), f"a rival is better by {best - rival:.3g}"


@pytest.mark.parametrize(
    ("a", "b", "point"),
    [
        # Each pair at two of the three points, so that each point meets two thirds of the pairs.
        pytest.param(a, b, point, marks=() if (i + point) % 3 else pytest.mark.nightly, id=f"{a}-{b}-{point}")
        for i, (a, b) in enumerate(ACCEPTED)
        for point in range(3)
    ],
)
def test_an_accepted_pair_is_stepped_jointly(a: Chargeable, b: Chargeable, point: int) -> None:
    case = list(points())[point]
    p, charges = stepped(a, b, case.w, case.step)
    judge(charges, p, case, case.step)


@pytest.mark.parametrize(("a", "b"), ACCEPTED, ids=str)
def test_an_accepted_pair_in_a_metric(a: Chargeable, b: Chargeable) -> None:
    """A step for each coordinate, where the pair takes one: two penalties, or a penalty and an interval."""
    for case in itertools.islice(points(), 2):
        _, charges = stepped(a, b, case.w, case.step)
        penalties = [c for c in charges if isinstance(c, Penalty)]
        if not penalties or not all(c.traits.diagonal for c in penalties):
            return
        prox, rest = join_operators("w", penalties, [c for c in charges if isinstance(c, Constraint)])
        if rest or not prox.diagonal:
            return
        step = case.metric()
        judge(charges, prox(case.w, step), case, step)


WRONG: list[tuple[str, Chargeable, Chargeable]] = [
    ("the group first, then absolute values", wp.GroupL2(0.2), wp.L1(0.3)),
    ("two group norms that cross", wp.GroupL2(0.2), wp.GroupL2(0.2, by="input")),
    ("a ball first, then a penalty", wp.MaxNorm(0.8), wp.L1(0.3)),
    ("groups that cross balls", wp.GroupL2(0.2, by="input"), wp.MaxNorm(0.8)),
    ("a square after a ball", wp.MaxNorm(0.8), wp.L2(0.5)),
    ("two balls", wp.MaxNorm(0.8, by="input"), wp.MaxNorm(0.8)),
]


@pytest.mark.parametrize(("what", "a", "b"), WRONG, ids=[what for what, _, _ in WRONG])
def test_a_wrong_order_is_caught(what: str, a: Chargeable, b: Chargeable) -> None:
    def tried() -> None:
        for case in points():
            judge([a, b], apply(b, apply(a, case.w, case.step), case.step), case, case.step)

    with pytest.raises(AssertionError, match=r"leaves a set|away"):
        tried()
