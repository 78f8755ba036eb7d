"""Frozen layers stay bit for bit: whatever they are charged, whatever gradient is left on them, under every optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from charges import constraints, elementwise, groups, matrix
from wellposed.optim.regularize import Regularized
from wellposed.penalties.base import FunctionalPenalty, How, Term
from wellposed.recipe.recipe import chargeables, optimizers

TABLES = {name: given for room in (elementwise, groups, matrix, constraints) for name, given in room.GIVEN.items()}
TIED = {"layers.0.weight": "unit", "layers.0.bias": "unit", "layers.3.weight": "input"}
SPECIAL = {"tied_groups": {"strength": 0.2, "axes": TIED}, "hierarchical": {"strength": 0.4, "hierarchy": 1.5}}
"""Those that name the tensors that they are about."""


class Net(nn.Module):
    """A perceptron and a linear part beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
        self.skip = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Both together."""
        found: Tensor = self.layers(x) + self.skip(x)
        return found


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def train(net: nn.Module, optimizer: Any, steps: int, first: int = 0, left: str = "zeros", scale: float = 1.0) -> None:
    """Steps as people write them; ``left`` is what becomes of the gradients of frozen parameters."""
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 6, generator=draw), torch.randint(0, 3, (16,), generator=draw)
        if left == "stale":
            for p in net.parameters():
                p.grad = None if p.requires_grad else p.grad
        else:
            optimizer.zero_grad(set_to_none=left == "none")
        loss = nn.functional.cross_entropy(net(x), y)
        if isinstance(optimizer, Regularized):
            loss = loss + optimizer.penalty()
        (scale * loss).backward()
        optimizer.step()


def layer(net: Net) -> list[Tensor]:
    return [p.detach().clone() for p in net.layers[0].parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def terms() -> dict[str, Term]:
    """Every charge of weights in every way that it can be enforced; one that no table knows fails here.

    `wp.KL` charges distributions alone, which are frozen in tests/test_divergence.py.
    """
    found: dict[str, Term] = {}
    for name, cls in chargeables().items():
        if not issubclass(cls, (FunctionalPenalty, wp.KL)):
            for how in cls.hows:
                where = None if name in SPECIAL else "layers.0.weight"
                found[f"{name} by {how}"] = cls(**SPECIAL.get(name, TABLES[name][0])).on(where, how=how)
    return found


TERMS = terms()


@pytest.mark.parametrize("left", ["zeros", "stale"])
@pytest.mark.parametrize("name", TERMS)
def test_no_term_moves_a_frozen_layer(name: str, left: str) -> None:
    net = Net()
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.05), net, [TERMS[name]])
    train(net, optimizer, 3)
    net.layers[0].requires_grad_(False)
    frozen, free = layer(net), net.layers[3].weight.detach().clone()
    train(net, optimizer, 4, 3, left)
    optimizer.project()
    assert net.layers[0].weight.grad is not None
    assert same(layer(net), frozen)
    assert not torch.equal(net.layers[3].weight, free)


UNFIT = ("lbfgs", "sparseadam")
"""They need closures, and sparse gradients."""


def of_kind(name: str, net: Net, **settings: Any) -> torch.optim.Optimizer:
    """An optimizer of torch without decay of its own; Muon takes matrices only."""
    if "weight_decay" in inspect.signature(optimizers()[name]).parameters:
        settings.setdefault("weight_decay", 0.0)
    parameters = [p for p in net.parameters() if p.ndim == 2 or name != "muon"]
    return optimizers()[name](parameters, **{"lr": 0.02, **settings})  # type: ignore[call-arg]


@pytest.mark.parametrize("left", ["zeros", "stale"])
@pytest.mark.parametrize("name", [name for name in optimizers() if name not in UNFIT])
def test_no_optimizer_moves_a_frozen_layer(name: str, left: str) -> None:
    """Not by its momentum either, which torch's own step applies where the gradient is zero."""
    net = Net()
    how: How = "loss" if name in ("muon", "rprop") else "prox"
    charges = [wp.L1(0.05).on(how=how), wp.L2(0.1).on("layers.0", how="decay"), wp.MaxNorm(0.4).on()]
    optimizer = wp.regularize(of_kind(name, net), net, charges)
    train(net, optimizer, 3)
    net.layers[0].requires_grad_(False)
    frozen = layer(net)
    train(net, optimizer, 4, 3, left)
    assert same(layer(net), frozen)


@pytest.mark.parametrize("name", [name for name in optimizers() if name not in UNFIT])
def test_frozen_and_thawed_is_as_if_it_had_had_no_gradient(name: str) -> None:
    nets = [Net(), Net()]
    how: How = "loss" if name in ("muon", "rprop") else "prox"
    charges = [wp.L1(0.01).on(how=how), wp.L2(0.1).on("layers.0", how="decay")]
    made = [wp.regularize(of_kind(name, net), net, charges) for net in nets]
    for net, optimizer, left in zip(nets, made, ("zeros", "none"), strict=True):
        for frozen, first in ((False, 0), (True, 3), (False, 6)):
            net.layers[0].requires_grad_(not frozen)
            train(net, optimizer, 3, first, left)
    assert same([p.detach() for p in nets[0].parameters()], [p.detach() for p in nets[1].parameters()])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_without_terms_the_step_is_torchs_own(name: str) -> None:
    """Bit for bit, also where that moves a frozen layer."""
    nets = [Net(), Net()]
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    made = [of_kind(name, net, **momentum) for net in nets]
    made[1] = wp.regularize(made[1], nets[1], [])
    for net, optimizer in zip(nets, made, strict=True):
        train(net, optimizer, 3)
        net.layers[0].requires_grad_(False)
        train(net, optimizer, 3, 3)
    assert same([p.detach() for p in nets[0].parameters()], [p.detach() for p in nets[1].parameters()])


@pytest.mark.parametrize("name", TERMS)
def test_no_term_moves_a_layer_that_had_no_gradient_in_this_step(name: str) -> None:
    net = Net()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), net, [TERMS[name]])
    train(net, optimizer, 3)
    before, free = layer(net), net.skip.weight.detach().clone()
    optimizer.zero_grad()
    net.skip(torch.ones(4, 6)).square().mean().backward()
    optimizer.step()
    assert same(layer(net), before)
    assert not torch.equal(net.skip.weight, free)


@pytest.mark.parametrize("name", [name for name, term in TERMS.items() if term.how not in ("project", "loss")])
@pytest.mark.parametrize("kind", ["sgd", "adamw", "adadelta", "adafactor"])
def test_a_group_of_learning_rate_0_is_not_decayed_and_not_shrunk(name: str, kind: str) -> None:
    net = Net()
    rest = [p for n, p in net.named_parameters() if not n.startswith("layers.0")]
    groups_of = [{"params": list(net.layers[0].parameters()), "lr": 0.0}, {"params": rest}]
    optimizer = wp.regularize(optimizers()[kind](groups_of, lr=0.05, weight_decay=0.0), net, [TERMS[name]])  # type: ignore[call-arg]
    before = layer(net)
    train(net, optimizer, 4)
    assert same(layer(net), before)


def test_noise_sharpness_and_a_scaler_leave_a_frozen_layer_alone() -> None:
    net = Net()
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.05), net, [wp.L1(0.05).on()])
    noise, sam = wp.GradientNoise(net, eta=1.0), wp.SAM(net, radius=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    train(net, optimizer, 3)
    net.layers[0].requires_grad_(False)
    frozen = layer(net)
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad(set_to_none=False)
        net.layers[0].weight.grad = torch.ones_like(net.layers[0].weight)
        scaler.scale(nn.functional.cross_entropy(net(x), y) * factor).backward()
        with sam.ascended():
            assert same(layer(net), frozen)
            scaler.scale(nn.functional.cross_entropy(net(x), y) * factor).backward()
        net.layers[0].weight.grad = torch.ones_like(net.layers[0].weight)
        scaler.unscale_(optimizer)
        left = net.layers[0].weight.grad.clone()
        noise()
        assert torch.equal(net.layers[0].weight.grad, left)
        scaler.step(optimizer)
        scaler.update()
        assert same(layer(net), frozen)
    assert optimizer.steps == 5


def test_sharpness_ascends_by_the_gradients_of_what_is_trained() -> None:
    """A gradient that is left on a frozen layer does not take a part of the radius."""
    net = Net()
    net.layers[0].requires_grad_(False)
    net.layers[0].weight.grad = 100.0 * torch.ones_like(net.layers[0].weight)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.ones(4, 6)).square().mean().backward()
    with wp.SAM(net, radius=0.25).ascended():
        moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(net.parameters(), before, strict=True)])
        net(torch.ones(4, 6)).square().mean().backward()
    assert float(moved.norm()) == pytest.approx(0.25, rel=1e-5)


def test_a_frozen_layer_is_not_charged_in_the_loss() -> None:
    net = Net()
    net.layers[0].requires_grad_(False)
    net.layers[0].weight.grad = torch.zeros_like(net.layers[0].weight)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(1.0).on("layers.0", how="loss")])
    assert float(optimizer.penalty()) == 0.0
