"""Limits: nothing charged is plain training bit for bit, everything charged leaves exact zeros, and edges are known models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.constraints.multiplier import NormBound
from wellposed.penalties.base import Chargeable, Constraint, How, Summands, Term
from wellposed.recipe.recipe import chargeables

Make = Callable[[Any], torch.optim.Optimizer]
Terms = Sequence[Term]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


class Small(nn.Module):
    """A convolution, a network and a skip layer side by side, with norms and biases; no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))
        self.skip = nn.Linear(6, 3, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.skip(x) + self.head(self.conv(x[:, None]).flatten(1).tanh())
        return out


def small(dtype: torch.dtype = torch.float32) -> Small:
    torch.manual_seed(0)
    return Small().to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=draw).to(dtype), torch.randint(0, 3, (16,), generator=draw)


STEPS = 12
"""Past the sixth step, where RAdam begins to rectify."""


def train(net: nn.Module, optimizer: Any, steps: int = STEPS, charged: bool = False, first: int = 0) -> list[Tensor]:
    """Mini-batches; ``charged`` adds `penalty` to the cost as every penalty of the loss wants it."""
    dtype = next(net.parameters()).dtype
    for step in range(first, first + steps):
        x, y = batch(step, dtype)
        x.requires_grad_(charged)
        optimizer.zero_grad()
        out = net(x)
        cost = F.cross_entropy(out, y)
        if charged:
            cost = cost + optimizer.penalty(out, inputs=x, reference=2.0 * out.detach())
        cost.backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield


# Nothing is charged: bit for bit


def tied(strength: float) -> wp.TiedGroups:
    return wp.TiedGroups(strength, {"layers.0.weight": "unit", "layers.3.weight": "input"})


@dataclass(frozen=True)
class Edge:
    """A charge that changes nothing, and the same one where it changes something."""

    nothing: Callable[[], Chargeable]
    something: Callable[[], Chargeable]


def charging(cls: Any) -> Edge:
    return Edge(lambda: cls(0.0), lambda: cls(0.1))


def bounding(cls: Any, large: float = 1e6, tight: float = 0.3) -> Edge:
    return Edge(lambda: cls(large), lambda: cls(tight))


BOUNDS: dict[str, Edge] = {
    "box": Edge(lambda: wp.Box(-1e6, math.inf), lambda: wp.Box(-0.1, 0.1)),
    "half_space": Edge(lambda: wp.HalfSpace(1.0, 1e6), lambda: wp.HalfSpace(1.0, -0.5)),
    "l1_ball": bounding(wp.L1Ball),
    "l2_ball": bounding(wp.L2Ball),
    "linf_ball": bounding(wp.LInfBall, tight=0.1),
    "max_norm": bounding(wp.MaxNorm),
    "norm_bound": bounding(wp.NormBound),
    "spectral_ball": bounding(wp.SpectralBall),
    "top_k": bounding(wp.TopK, large=10**6, tight=3),
}
WITHOUT_A_LIMIT = {"non_negative", "orthogonal", "simplex", "unit_norm"}
"""Sets that have no bound to open: no setting of theirs contains every weight."""

EDGES: dict[str, Edge] = {
    **{
        name: charging(tied if name == "tied_groups" else cls)
        for name, cls in chargeables().items()
        if not issubclass(cls, Constraint | NormBound | wp.KL)
    },
    **BOUNDS,
}
MODULES = dict.fromkeys(("activation_l1", "activation_l2", "kl_to_standard_normal"), "layers.1")


def bound_to(charge: Chargeable, how: How) -> Term:
    return charge.on(MODULES.get(charge.name), how)


CASES = [(name, how) for name in EDGES for how in chargeables()[name].hows]
PRODUCT = [
    # One in five, so that each charge meets two optimizers of different kinds, and each optimizer a fifth of the charges.
    pytest.param(name, how, optimizer, marks=() if (i + j) % 5 == 0 else pytest.mark.nightly)
    for i, (name, how) in enumerate(CASES)
    for j, optimizer in enumerate(OPTIMIZERS)
]
plainly: dict[str, list[Tensor]] = {}


def plain(optimizer: str) -> list[Tensor]:
    """Training with the bare optimizer, once for each."""
    if optimizer not in plainly:
        net = small()
        plainly[optimizer] = train(net, OPTIMIZERS[optimizer](net.parameters()))
    return plainly[optimizer]


def with_terms(optimizer: str, terms: Terms, dtype: torch.dtype = torch.float32, steps: int = STEPS) -> list[Tensor]:
    net = small(dtype)
    wrapped = wp.regularize(OPTIMIZERS[optimizer](net.parameters()), net, terms)
    return train(net, wrapped, steps, charged=any(term.how == "loss" for term in terms))


def test_every_charge_has_an_edge_or_none() -> None:
    """``KL`` is of distributions alone: tests/test_divergence.py has its edge."""
    assert set(EDGES) | WITHOUT_A_LIMIT | {"kl"} == set(chargeables())
    assert not set(EDGES) & WITHOUT_A_LIMIT


def test_a_fifth_of_the_product_is_always_tried() -> None:
    often = [param.values for param in PRODUCT if not param.marks]
    assert {(name, how) for name, how, _ in often} == set(CASES)
    assert {optimizer for _, _, optimizer in often} == set(OPTIMIZERS)
    assert len(often) * 5 == len(PRODUCT)


@pytest.mark.parametrize(("name", "how", "optimizer"), PRODUCT)
def test_nothing_charged_is_plain_training_bit_for_bit(name: str, how: How, optimizer: str) -> None:
    assert same(with_terms(optimizer, [bound_to(EDGES[name].nothing(), how)]), plain(optimizer))


@pytest.mark.parametrize(("name", "how"), CASES)
def test_something_charged_is_not_plain_training(name: str, how: How) -> None:
    """What makes the test above one that can fail."""
    found = with_terms("momentum", [bound_to(EDGES[name].something(), how)], steps=2)
    net = small()
    assert not same(found, train(net, OPTIMIZERS["momentum"](net.parameters()), 2))
    assert all(bool(w.isfinite().all()) for w in found)


class Rounding(wp.L1):
    """Wrong: strength 0 goes through arithmetic that rounds."""

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return (w / 3.0) * 3.0

    def summands(self) -> Summands:
        return Summands(core=self)


class Nudging(wp.MaxNorm):
    """Wrong: a feasible weight is written down anew."""

    def project(self, w: Tensor) -> Tensor:
        norms = w.flatten(1).norm(dim=1).view(-1, *[1] * (w.ndim - 1))
        return w / norms * norms.clamp_max(self.bound)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("wrong", [Rounding(0.0), Nudging(1e6)], ids=["rounding", "nudging"])
def test_a_charge_that_rounds_is_caught(wrong: Chargeable, optimizer: str) -> None:
    assert not same(with_terms(optimizer, [wrong.on()]), plain(optimizer))


def test_all_of_nothing_at_once_is_plain_training_bit_for_bit() -> None:
    terms = [
        wp.L2(0.0).on(),
        wp.L1(0.0).on(),
        wp.GroupL2(0.0, by="input").on(),
        wp.MaxNorm(1e6, by="input").on(),
        wp.Jacobian(0.0).on(),
        wp.ActivationL1(0.0).on("layers.1"),
    ]
    for optimizer in OPTIMIZERS:
        assert same(with_terms(optimizer, terms), plain(optimizer))


# Everything is charged: exact zeros

HEAVY: dict[str, Callable[[], Chargeable]] = {
    "l1": lambda: wp.L1(5.0),
    "group_l2": lambda: wp.GroupL2(5.0),
    "row_l21": lambda: wp.RowL21(10.0),
    "sparse_group": lambda: wp.SparseGroup(5.0),
    "mcp": lambda: wp.MCP(5.0),
    "scad": lambda: wp.SCAD(5.0),
    "l0": lambda: wp.L0(10.0),
    "weighted_l1": lambda: wp.WeightedL1(5.0, weights=2.0),
    "nuclear": lambda: wp.Nuclear(10.0),
}
WHERE = {"one layer": "layers.0", "all weights": wp.weights}
ENOUGH = {"sgd": 40, "momentum": 40, "adam": 120}  # under Adam strengths rise over the first 100 steps


@pytest.mark.parametrize(
    ("where", "name", "optimizer"),
    [
        # Each penalty on one layer and on all, each under two optimizers, and each optimizer with a third of all.
        pytest.param(where, name, optimizer, marks=() if (i + j + k) % 3 == 0 else pytest.mark.nightly)
        for i, where in enumerate(WHERE)
        for j, name in enumerate(HEAVY)
        for k, optimizer in enumerate(ENOUGH)
    ],
)
def test_a_large_strength_leaves_exact_zeros(where: str, name: str, optimizer: str) -> None:
    net = small()
    wrapped = wp.regularize(OPTIMIZERS[optimizer](net.parameters()), net, [HEAVY[name]().on(WHERE[where])])
    train(net, wrapped, ENOUGH[optimizer])
    charged = ["layers.0.weight"]
    if where == "all weights":
        charged = ["conv.weight", "layers.0.weight", "layers.3.weight", "skip.weight", "head.weight"]
    for more in range(2):
        values = dict(net.named_parameters())
        for key, value in values.items():
            assert bool((value == 0).all()) == (key in charged), key
            assert bool(value.isfinite().all()), key
        assert_said_to_be_gone(wrapped.audit(), charged)
        train(net, wrapped, 10, first=200 + 10 * more)
    moments = [v for state in wrapped.state.values() for v in state.values() if isinstance(v, Tensor)]
    assert all(bool(v.isfinite().all()) for v in moments)


def assert_said_to_be_gone(audit: Any, charged: list[str]) -> None:
    assert {row.parameter for row in audit.rows if row.gone} == set(charged)
    assert all("the layer is gone" in row.objective for row in audit.rows if row.gone)
    said = [line for line in str(audit).splitlines() if line.startswith("note: nothing is left of")]
    assert len(said) == 1
    assert all(name in said[0] for name in charged)


def test_a_small_strength_leaves_layers_that_are_there() -> None:
    """The sentence is not said of a layer with one weight left, of an uncharged zero, or of training as such."""
    net = small()
    wrapped = wp.regularize(OPTIMIZERS["adam"](net.parameters()), net, [wp.L1(0.01).on()])
    train(net, wrapped, ENOUGH["adam"])
    with torch.no_grad():
        net.head.bias.zero_()
        net.skip.weight.zero_()
        net.skip.weight[2, 5] = 1e-30
    assert not any(row.gone for row in wrapped.audit().rows)
    assert "nothing is left" not in str(wrapped.audit())


def test_a_loss_term_leaves_no_zeros() -> None:
    """Subgradients jump over zero: why the proximal step exists."""
    net = small()
    wrapped = wp.regularize(OPTIMIZERS["adam"](net.parameters()), net, [wp.L1(5.0).on(how="loss")])
    train(net, wrapped, ENOUGH["adam"], charged=True)
    assert not any(row.gone for row in wrapped.audit().rows)


# Edges that are other models

D = torch.float64
EQUAL: dict[str, tuple[Chargeable, Chargeable]] = {
    "mcp far away": (wp.MCP(0.02, gamma=1e12), wp.L1(0.02)),
    "scad far away": (wp.SCAD(0.02, gamma=1e12), wp.L1(0.02)),
    "weights of one": (wp.WeightedL1(0.02), wp.L1(0.02)),
    "half the strength, twice the weights": (wp.WeightedL1(0.01, weights=2.0), wp.L1(0.02)),
    "elastic net of l1 alone": (wp.ElasticNet(0.02, mix=1.0), wp.L1(0.02)),
    "sparse groups of l1 alone": (wp.SparseGroup(0.02, mix=1.0), wp.L1(0.02)),
    "sparse groups of groups alone": (wp.SparseGroup(0.02, mix=0.0), wp.GroupL2(0.02)),
    "groups far away": (wp.GroupMCP(0.02, gamma=1e12), wp.GroupL2(0.02)),
    "towards zero, l1": (wp.L1SP(0.02, reference=0.0), wp.L1(0.02)),
    "a ball around everything": (wp.MaxNorm(0.5, by="all"), wp.L2Ball(0.5)),
    "a box around zero": (wp.Box(-0.2, 0.2), wp.LInfBall(0.2)),
    "a box without a top": (wp.Box(0.0, math.inf), wp.NonNegative()),
}


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(name, optimizer, marks=() if (i + j) % 2 == 0 else pytest.mark.nightly)
        for i, name in enumerate(EQUAL)
        for j, optimizer in enumerate(["momentum", "adam"])
    ],
)
def test_an_edge_is_a_known_model(name: str, optimizer: str) -> None:
    one, other = (with_terms(optimizer, [charge.on()], D, steps=30) for charge in EQUAL[name])
    assert gap(one, other) < 1e-10
    net = small(D)
    assert gap(one, train(net, OPTIMIZERS[optimizer](net.parameters()), 30)) > 1e-3


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_elastic_net_of_l2_alone_is_a_proximal_l2(optimizer: str) -> None:
    one = with_terms(optimizer, [wp.ElasticNet(0.3, mix=0.0).on()], D)
    assert gap(one, with_terms(optimizer, [wp.L2(0.3).on(how="prox")], D)) < 1e-10
    assert gap(one, with_terms(optimizer, [wp.L2(0.3).on()], D)) > 1e-4


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_groups_of_one_weight_are_l1(optimizer: str) -> None:
    """Units with one input each: by unit a group is one weight, by input it is all of them."""
    results = []
    for charge in (wp.GroupL2(0.05), wp.L1(0.05), wp.GroupL2(0.05, by="input")):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 3)).double()
        wrapped = wp.regularize(OPTIMIZERS[optimizer](net.parameters()), net, [charge.on("0")])
        for step in range(150):
            x, y = batch(step, D)
            wrapped.zero_grad()
            F.cross_entropy(net(x[:, :1]), y).backward()
            wrapped.step()
        results.append([p.detach().clone() for p in net.parameters()])
    assert gap(results[0], results[1]) < 1e-9
    assert torch.equal(results[0][0] == 0, results[1][0] == 0)
    assert bool((results[0][0] == 0).any())
    assert gap(results[0], results[2]) > 1e-3


def test_matrices_of_one_column_are_groups() -> None:
    """A matrix of one column has one singular value: the norm of that column."""
    results = []
    for charge in (wp.Nuclear(0.2), wp.GroupL2(0.2 / 12**0.5, by="input"), wp.L1(0.2)):
        torch.manual_seed(0)
        net = nn.Linear(1, 12).double()
        wrapped = wp.regularize(OPTIMIZERS["momentum"](net.parameters()), net, [charge.on()])
        for _ in range(10):
            wrapped.zero_grad()
            (net(torch.ones(4, 1, dtype=D)) - 1.0).square().sum(1).mean().backward()
            wrapped.step()
        results.append([p.detach().clone() for p in net.parameters()])
    assert gap(results[0], results[1]) < 1e-10
    assert gap(results[0], results[2]) > 1e-3


def test_an_l2_cost_is_decay_for_plain_sgd_alone() -> None:
    def apart(optimizer: str) -> float:
        decayed, charged = (with_terms(optimizer, [wp.L2(0.1).on(how=how)], D) for how in ("decay", "loss"))
        return gap(decayed, charged)

    assert apart("sgd") < 1e-14
    assert all(apart(optimizer) > 1e-4 for optimizer in OPTIMIZERS if optimizer != "sgd")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_share_of_one_looks_nowhere(optimizer: str) -> None:
    net, other = small(), small()
    found = train(net, wp.Lookahead(OPTIMIZERS[optimizer](net.parameters()), every=3, share=1.0))
    assert same(found, plain(optimizer))
    halved = train(other, wp.Lookahead(OPTIMIZERS[optimizer](other.parameters()), every=3, share=0.5))
    assert not same(halved, plain(optimizer))


@pytest.mark.parametrize("radius", [0.0, 0.05])
@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw_fused"])
def test_a_radius_of_0_ascends_nowhere(optimizer: str, radius: float) -> None:
    net = small()
    sam, bare = wp.SAM(net, radius=radius), OPTIMIZERS[optimizer](net.parameters())
    for step in range(STEPS):
        x, y = batch(step)
        bare.zero_grad()
        F.cross_entropy(net(x), y).backward()
        with sam.ascended():
            F.cross_entropy(net(x), y).backward()
        bare.step()
    assert same([p.detach() for p in net.parameters()], plain(optimizer)) == (radius == 0)


def test_an_average_that_keeps_nothing_is_the_model_and_one_that_keeps_much_is_not() -> None:
    net = small(D)
    optimizer = OPTIMIZERS["momentum"](net.parameters())
    forgetful, faithful = wp.Average(net, ema=1e-15), wp.Average(net, ema=0.9)
    for step in range(30):
        found = train(net, optimizer, 1, first=step)
        forgetful.update()
        faithful.update()
        assert gap(list(forgetful.module.parameters()), found) < 1e-14
    assert gap(list(faithful.module.parameters()), found) > 1e-3


def test_an_average_of_what_does_not_move_is_it_bit_for_bit() -> None:
    net = small()
    averages = [wp.Average(net, ema=0.9), wp.Average(net)]
    for average in averages:
        for _ in range(5):
            average.update()
        assert same(list(average.module.parameters()), list(net.parameters()))


# Whoever reads the report learns it


@pytest.mark.parametrize("strength", [1e-4, 20.0])
def test_the_report_says_that_a_layer_is_gone(strength: float, tmp_path: Any) -> None:
    """The best model of a record that has the audit of a real run, as a study writes it."""
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    (x, y), (xv, yv) = batch(0), batch(1)
    problem = wp.Problem(Small, "cross_entropy", wp.Data(train=(x, y), valid=(xv, yv)))
    term = {"penalty": "l1", "strength": strength, "on": "layers.0"}
    # All is zero after the first step, so that whichever epoch is kept has no such layer.
    run = wp.fit(problem, wp.Recipe(epochs=2, optimizer={"name": "sgd", "lr": 0.1}, terms=[term]), device="cpu")
    record = {"schema": 1, "audits": {"baseline": run.audit().to_dict(), "best": run.audit().to_dict()}}
    page = wp.report(record, tmp_path / "report.html").read_text(encoding="utf-8")
    sentence = "Nothing is left of layers.0.weight in the best model: all its weights are exactly 0."
    assert (sentence in page) == (strength > 1)
