"""`regularize`: strength 0 is plain training, the optimizer stays a torch optimizer, and what would be wrong is refused."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import wellposed as wp
from wellposed.core.errors import CompositionError, FormatError, InputError, SelectorError
from wellposed.optim.optimizer_metrics import RAMP_STEPS
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import unwrap_optimizer
from wellposed.penalties.base import Term

Make = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0, fused=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=draw), torch.randint(0, 3, (16,), generator=draw)


def cost(net: nn.Module, step: int) -> Tensor:
    x, y = batch(step)
    return nn.functional.cross_entropy(net(x), y)


def train(net: nn.Module, optimizer: Any, steps: int = 20, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        cost(net, step).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    before = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before)


NOTHING = {
    "no terms": [],
    "all": [wp.L2(0).on(), wp.L1(0).on(), wp.GroupL2(0, by="input").on(), wp.MaxNorm(1e6, by="input").on()],
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("what", list(NOTHING))
def test_strength_0_is_plain_training_bit_for_bit(name: str, what: str) -> None:
    plain = network()
    wanted = train(plain, OPTIMIZERS[name](plain.parameters()))
    net = network()
    assert same(train(net, wp.regularize(OPTIMIZERS[name](net.parameters()), net, NOTHING[what])), wanted)
    other = network()
    if what == "all":
        charged = train(other, wp.regularize(OPTIMIZERS[name](other.parameters()), other, [wp.L2(0.1).on()]))
        assert not same(charged, wanted)


@pytest.mark.parametrize("form", [{"foreach": False, "fused": False}, {"foreach": True}, {"fused": True}])
def test_decay_is_that_of_adamw(form: dict[str, bool]) -> None:
    """Bit for bit against torch's plain formulation; the fused one rounds in another order."""
    theirs, ours = network(), network()
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    wanted = train(theirs, torch.optim.AdamW(groups, lr=0.01, **form))
    plain = torch.optim.AdamW(ours.parameters(), lr=0.01, weight_decay=0, **form)
    found = train(ours, wp.regularize(plain, ours, [wp.L2(0.3).on()]))
    if form.get("fused"):
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    else:
        assert same(found, wanted)


def test_momentum_l2_in_the_loss_is_torchs_own_weight_decay() -> None:
    theirs, ours = network().double(), network().double()
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.ndim < 2]},
    ]
    torchs = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    optimizer = wp.regularize(OPTIMIZERS["momentum"](ours.parameters()), ours, [wp.L2(0.3).on(how="loss")])
    x, y = batch(0)
    for _ in range(10):
        for net, opt in ((theirs, torchs), (ours, optimizer)):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x.double()), y)
            (loss if opt is torchs else loss + optimizer.penalty()).backward()
            opt.step()
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


def test_it_is_a_torch_optimizer() -> None:
    net = network()
    inner = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0)
    optimizer = wp.regularize(inner, net, wp.L1(0.1).on())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    assert "AdamW" in repr(optimizer)
    assert "L1(strength=0.1) on weights by prox" in repr(optimizer)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = optimizer.nothing_like_it


def test_each_optimizer_step_is_followed_by_one_proximal_step() -> None:
    """One SGD step by hand: decay, gradient step, joint prox with lr/(1 - momentum), projection."""
    net = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    w0 = net.weight.detach().clone()
    terms = [wp.L2(0.2).on(), wp.L1(0.05).on(), wp.GroupL2(0.1).on(), wp.MaxNorm(0.4).on()]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5), net, terms)
    grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net.weight.grad = grad.clone()
    optimizer.step()
    w = w0 * (1 - 0.1 * 0.2) - 0.1 * grad
    w = w - w.clamp(-0.01, 0.01)
    norms = w.norm(dim=1, keepdim=True)
    w = w * (1 - 0.2 * 0.1 * 2 / norms).clamp_min(0)
    w = w * (0.4 / w.norm(dim=1, keepdim=True)).clamp_max(1)
    torch.testing.assert_close(net.weight.detach(), w, rtol=1e-13, atol=1e-14)
    assert torch.equal(net.weight.grad, grad)


def test_zeros_are_exact_and_stay_while_biases_and_norms_are_left_alone() -> None:
    net, plain = network(), network()
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.01), net, [wp.L1(0.03).on()])
    train(net, optimizer, 400)
    train(plain, torch.optim.Adam(plain.parameters(), lr=0.01), 400)
    share = [float((p == 0).float().mean()) for p in net.parameters()]
    assert share[0] > 0.2
    assert share[1] == share[2] == share[3] == share[5] == 0
    assert all((p != 0).all() for p in plain.parameters() if p.ndim == 2)


def test_whole_units_become_zero() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.01), net, [wp.GroupL2(0.02, by="input").on("0")])
    train(net, optimizer, 400)
    dead = (net[0].weight == 0).all(dim=0)
    assert dead.any()
    assert (net[0].weight[:, ~dead] != 0).all()


def test_max_norm_holds_after_every_step() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=1.0), net, [wp.MaxNorm(0.3).on()])
    for step in range(5):
        train(net, optimizer, 1, step)
        assert (net[0].weight.norm(dim=1) <= 0.3 * (1 + 1e-6)).all()
        assert (net[3].weight.norm(dim=1) <= 0.3 * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.StepLR(o, 5),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=25),
        lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.StepLR(o, 3)], [5]),
    ],
    ids=["step", "cosine", "one_cycle", "lambda", "sequential"],
)
def test_torchs_schedulers(schedule: Callable[[Any], Any]) -> None:
    """The rate of decay and of the proximal step is the scheduled one."""
    rates = []
    for wrapped in (False, True):
        net = network()
        optimizer: Any = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.3 if not wrapped else 0)
        if wrapped:
            optimizer = wp.regularize(optimizer, net, [wp.L2(0.3).on(lambda name, p: True)])
        clock = schedule(optimizer)
        for step in range(20):
            train(net, optimizer, 1, step)
            clock.step()
        rates.append((optimizer.param_groups[0]["lr"], [p.detach().clone() for p in net.parameters()]))
    assert rates[0][0] == rates[1][0]
    assert same(rates[0][1], rates[1][1])


def test_plateau_scheduler() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=1.0), net, [wp.L1(0.1).on()])
    clock = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    clock.step(1.0)
    clock.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD], ids=["adamw", "sgd"])
def test_a_step_that_the_scaler_skips_does_nothing(make: Any, fused: bool) -> None:
    net = network()
    terms = [wp.L2(0.5).on(), wp.L1(0.5).on(), wp.MaxNorm(0.01).on()]
    optimizer = wp.regularize(make(net.parameters(), lr=0.1, weight_decay=0, fused=fused), net, terms)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in net.parameters()]
    scaler.scale(cost(net, 0) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert same([p.detach() for p in net.parameters()], before)
    assert optimizer.steps == 0
    assert scaler.get_scale() == 2.0
    optimizer.zero_grad()
    scaler.scale(cost(net, 0)).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1e9)
    scaler.step(optimizer)
    scaler.update()
    twin = network()
    cost(twin, 0).backward()
    wanted = nn.utils.clip_grad_norm_(twin.parameters(), 1e9)
    torch.testing.assert_close(norm, wanted)
    assert optimizer.steps == 1
    assert (net[0].weight.norm(dim=1) <= 0.01 * (1 + 1e-6)).all()


def test_scaled_training_is_training() -> None:
    """The scaler's factor does not reach decay or the proximal step."""
    results = []
    for scaled in (False, True):
        net = network().double()
        terms = [wp.L2(0.1).on(), wp.L1(0.01).on()]
        optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net, terms)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(10):
            optimizer.zero_grad()
            x, y = batch(step)
            scaler.scale(nn.functional.cross_entropy(net(x.double()), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append([p.detach() for p in net.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_closures() -> None:
    one, two = network(), network()
    terms = [wp.L2(0.1).on(), wp.L1(0.01).on(), wp.MaxNorm(1.0).on()]
    with_closure = wp.regularize(torch.optim.Adam(one.parameters(), lr=0.01), one, terms)
    without = wp.regularize(torch.optim.Adam(two.parameters(), lr=0.01), two, terms)
    for step in range(5):
        calls = []

        def closure(step: int = step, calls: list[int] = calls) -> Tensor:
            calls.append(step)
            with_closure.zero_grad()
            loss = cost(one, step)
            loss.backward()
            return loss

        loss = with_closure.step(closure)
        assert calls == [step]
        assert float(loss.detach()) == float(cost(two, step).detach())
        train(two, without, 1, step)
        assert without.step.__self__ is without
    assert same(list(one.parameters()), list(two.parameters()))


def test_parameter_groups_have_their_own_rates() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[1].parameters(), "momentum": 0.5}]
    optimizer = wp.regularize(torch.optim.SGD(groups, lr=0.2), net, [wp.L1(0.1).on()])
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, w, threshold in zip(net.parameters(), before, (0.01, 0.04), strict=True):
        torch.testing.assert_close(p.detach(), w - w.clamp(-threshold, threshold), rtol=1e-14, atol=1e-16)


def test_a_group_that_joins_later_is_charged_from_then_on() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net[3].parameters(), lr=0.1), net, [wp.L2(0.5).on()])
    first = net[0].weight.detach().clone()
    train(net, optimizer, 2)
    assert torch.equal(net[0].weight, first)
    assert optimizer.audit().rows[0].objective == "not in this optimizer"
    optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.01})
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), first * (1 - 0.01 * 0.5))
    assert optimizer.audit().rows[0].effective_strength == 0.5


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop"])
def test_a_resumed_optimizer_continues(name: str, tmp_path: Any) -> None:
    terms = [wp.L2(0.1).on(), wp.L1(0.01).on()]
    net = network()
    optimizer = wp.regularize(OPTIMIZERS[name](net.parameters()), net, terms)
    train(net, optimizer, 30)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    wanted = train(net, optimizer, 30, 30)

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = network(1)
    resumed = wp.regularize(OPTIMIZERS[name](other.parameters()), other, terms)
    other.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.steps == 30
    assert same(train(other, resumed, 30, 30), wanted)
    assert resumed.steps == 60
    own = saved["optimizer"]["wellposed"]
    rate = optimizer.param_groups[0]["lr"]
    assert (own["schema"], own["steps"], own["rates"]) == (1, 30, [[rate, rate]])
    assert own["references"] == {}


def test_states_of_bare_optimizers_go_both_ways() -> None:
    net = network()
    bare = torch.optim.Adam(net.parameters(), lr=0.01)
    train(net, bare, 3)
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.5), net, [wp.L1(0.1).on()])
    optimizer.load_state_dict(bare.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert float(optimizer.state[net[0].weight]["step"]) == 3
    torch.optim.Adam(net.parameters(), lr=0.5).load_state_dict(optimizer.state_dict())
    with pytest.raises(FormatError, match="schema 7; schema 1 can be loaded"):
        optimizer.load_state_dict({**optimizer.state_dict(), "wellposed": {"schema": 7, "steps": 0}})


def test_parameters_without_a_gradient_are_left_alone() -> None:
    net = network()
    terms = [wp.L2(0.5).on(), wp.L1(0.5).on(), wp.MaxNorm(0.01).on()]
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.1), net, terms)
    first = net[0].weight.detach().clone()
    last = net[3].weight.detach().clone()
    net[3](torch.randn(4, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight, first)
    assert not torch.equal(net[3].weight, last)
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(net[0].weight, first)


def test_frozen_parameters_are_not_charged() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    terms = [wp.L2(0.5).on(), wp.L1(0.5).on(how="loss")]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, terms)
    first = net[0].weight.detach().clone()
    only_last = 0.5 * float(net[3].weight.abs().sum().detach())
    assert float(optimizer.penalty().detach()) == pytest.approx(only_last)
    assert optimizer.values()[str(terms[1])] == pytest.approx(only_last)
    assert {row.objective for row in optimizer.audit().rows if row.parameter == "0.weight"} == {"not trained"}
    train(net, optimizer, 3)
    assert torch.equal(net[0].weight, first)
    # Thawed, it is charged.
    net[0].weight.requires_grad_(True)
    train(net, optimizer, 1)
    assert not torch.equal(net[0].weight, first)
    assert "not trained" not in {row.objective for row in optimizer.audit().rows}


def test_tied_weights_are_charged_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    net[1].weight = net[0].weight
    first = net[0].weight.detach().clone()
    terms = [wp.L2(0.5).on(), wp.L1(0.3).on(how="loss")]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, terms)
    assert float(optimizer.penalty().detach()) == pytest.approx(0.3 * float(first.abs().sum()))
    net[0].weight.grad = torch.zeros_like(first)
    optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), first * 0.95)
    rows = optimizer.audit().rows
    assert [row.parameter for row in rows] == ["0.weight = 1.weight"] * 2


def test_zero_grad() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    cost(net, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in net.parameters() if p.grad is not None)
    assert net[0].weight.grad is not None
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_hooks_of_the_optimizer_are_called() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(net, optimizer, 2)
    assert seen == ["before", "after"] * 2


@pytest.mark.parametrize("copying", [copy.deepcopy, pickle.dumps])
def test_copies_are_refused_with_the_way_out(copying: Callable[[Any], Any]) -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    with pytest.raises(TypeError, match=r"save optimizer.state_dict\(\) and wrap again"):
        copying(optimizer)


def test_the_proximal_strength_of_an_adaptive_optimizer_rises_from_0() -> None:
    """Second moments of one gradient make huge steps: at lr 3e-3 and L1 1e-4 the first step must zero almost nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = wp.regularize(torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0), net, [wp.L1(1e-4).on()])
    x = torch.rand(64, 784) * (torch.rand(784) < 0.7)
    nn.functional.cross_entropy(net(x), torch.randint(0, 10, (64,))).backward()
    unseen = net[0].weight.detach()[:, net[0].weight.grad.abs().sum(0) == 0].clone()
    optimizer.step()
    zeros = [float((p == 0).float().mean()) for p in (net[0].weight, net[2].weight)]
    assert max(zeros) < 0.01
    after = net[0].weight.detach()[:, net[0].weight.grad.abs().sum(0) == 0]
    assert unseen.numel() > 1000
    assert torch.equal(after, unseen)


@pytest.mark.parametrize("penalty", [wp.L1(0.5), wp.ElasticNet(0.5), wp.GroupL2(0.5), wp.GroupL2(0.5, by="input")])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_a_coordinate_that_has_had_no_gradient_is_not_shrunk(make: Any, penalty: Any) -> None:
    net = nn.Linear(5, 4, bias=False)
    first = net.weight.detach().clone()
    settings = {} if make is torch.optim.RMSprop else {"weight_decay": 0}
    optimizer = wp.regularize(make(net.parameters(), lr=0.01, **settings), net, [penalty.on()])
    for _ in range(150):
        net.weight.grad = torch.ones_like(first) * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
        optimizer.step()
    assert torch.equal(net.weight[:, 1::2], first[:, 1::2])
    assert (net.weight[:, ::2] != first[:, ::2]).all()


def test_the_ramp_is_the_parameters_own() -> None:
    """A layer that is thawed late has no second moments yet, whatever the step count."""
    net = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 1, bias=False))
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=1e-3), net, [wp.L1(1.0).on("0")])
    net[0].weight.requires_grad_(False)
    for _ in range(2 * RAMP_STEPS):
        net[1].weight.grad = torch.ones_like(net[1].weight)
        optimizer.step()
    net[0].weight.requires_grad_(True)
    first = net[0].weight.detach().clone()
    # The effective step is lr/|gradient| = 1e-3; strength 1 thus moves by 1e-3 if full, by 1e-5 at the ramp's start.
    net[0].weight.grad = torch.ones_like(first)
    optimizer.step()
    moved = (net[0].weight.detach() - (first - 1e-3)).abs()
    assert float(moved.max()) == pytest.approx(1e-5, rel=0.02)
    for _ in range(RAMP_STEPS):
        before = net[0].weight.detach().clone()
        optimizer.step()
    moved = (net[0].weight.detach() - (before - 1e-3)).abs()
    assert float(moved.max()) == pytest.approx(1e-3, rel=0.02)


def test_sgd_needs_no_ramp() -> None:
    net = nn.Linear(3, 3, bias=False)
    first = net.weight.detach().clone()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.2).on()])
    net.weight.grad = torch.zeros_like(first)
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), first - first.clamp(-0.02, 0.02))


def test_penalty_flows_into_the_gradient() -> None:
    net = network()
    terms = [wp.L2(0.3).on("0", how="loss"), wp.L1(0.2).on("0", how="loss"), wp.GroupL2(0.1).on("3", how="loss")]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, terms)
    penalty = optimizer.penalty()
    assert penalty.ndim == 0
    penalty.backward()
    w, v = net[0].weight.detach(), net[3].weight.detach()
    torch.testing.assert_close(net[0].weight.grad, 0.3 * w + 0.2 * w.sign())
    torch.testing.assert_close(net[3].weight.grad, 0.1 * 8**0.5 * v / v.norm(dim=1, keepdim=True))
    assert net[0].bias.grad is None
    values = optimizer.values()
    assert list(values) == [str(term) for term in terms]
    assert sum(values.values()) == pytest.approx(float(penalty.detach()), rel=1e-6)


def test_the_penalty_does_not_depend_on_batch_or_accumulation() -> None:
    gradients = []
    for parts in (1, 4):
        net = network().double()
        optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L2(0.3).on(how="loss")])
        x, y = batch(0)
        for a, b in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
            ((nn.functional.cross_entropy(net(a), b) + optimizer.penalty()) / parts).backward()
        gradients.append(net[0].weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-14)


def test_penalty_without_terms_by_loss_is_0() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.2).on()])
    assert float(optimizer.penalty()) == 0
    assert float(wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net).penalty()) == 0


@pytest.mark.parametrize("how", ["decay", "prox", "loss"])
def test_a_doubled_decay_is_refused_with_the_fix(how: Any) -> None:
    net = network()
    with pytest.raises(
        CompositionError,
        match=r"'0.weight' would be decayed twice: by the optimizer's weight_decay=0.01 and by L2.*weight_decay=0",
    ):
        wp.regularize(torch.optim.AdamW(net.parameters()), net, [wp.L2(0.1).on(how=how)])
    # What the optimizer does not decay can be.
    groups = [{"params": net[0].parameters(), "weight_decay": 0.0}, {"params": net[3].parameters()}]
    wp.regularize(torch.optim.AdamW(groups), net, [wp.L2(0.1).on("0", how=how), wp.L1(0.1).on("3")])


def test_more_that_would_double() -> None:
    net = network()

    def bare(**settings: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=0.1, **settings)

    with pytest.raises(CompositionError, match=r"decayed twice.*ElasticNet"):
        wp.regularize(bare(weight_decay=0.1), net, [wp.ElasticNet(0.1).on()])
    with pytest.raises(CompositionError, match=r"two L2 terms.*subtract one selector"):
        wp.regularize(bare(), net, [wp.L2(0.1).on(), wp.L2(0.2).on("0")])
    with pytest.raises(CompositionError, match="has two constraints"):
        wp.regularize(bare(), net, [wp.MaxNorm(1).on(), wp.MaxNorm(2, by="input").on()])
    with pytest.raises(CompositionError, match=r"no proven joint proximal step on '0.weight'.*how=\"loss\""):
        wp.regularize(bare(), net, [wp.GroupL2(0.1).on(), wp.GroupL2(0.1, by="input").on()])
    wp.regularize(bare(), net, [wp.GroupL2(0.1).on(), wp.GroupL2(0.1, by="input").on(how="loss")])
    with pytest.raises(CompositionError, match="regularized already"):
        wp.regularize(wp.regularize(bare(), net), net)


def test_wrong_arguments() -> None:
    net, other = network(), network(1)
    with pytest.raises(InputError, match="optimizer= to be a torch optimizer; it was given Sequential"):
        wp.regularize(net, net)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"L1\(strength=0.1\) is not. Write L1\(strength=0.1\).on\(wp.weights\)"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="holds no parameter of this model"):
        wp.regularize(torch.optim.SGD(other.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    with pytest.raises(SelectorError, match=r"Did you mean '0.weight'\?"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on("0.wieght")])


@pytest.mark.parametrize(
    "make",
    [torch.optim.LBFGS, torch.optim.Rprop],
    ids=lambda cls: cls.__name__,
)
def test_prox_is_refused_without_a_metric(make: Any) -> None:
    net = network()
    with pytest.raises(CompositionError, match=rf'{make.__name__} (has none: |is not known).*how="loss"'):
        wp.regularize(make(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    constraint = [] if make is torch.optim.LBFGS else [wp.MaxNorm(1).on()]
    wp.regularize(make(net.parameters(), lr=0.1), net, [wp.L1(0.1).on(how="loss"), *constraint])


def test_subclasses_that_step_in_their_own_way_have_no_known_metric() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    class Same(torch.optim.Adam):
        pass

    net = network()
    with pytest.raises(CompositionError, match="that of Own is not known"):
        wp.regularize(Own(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    wp.regularize(Same(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])


def test_momentum_1_has_no_effective_step() -> None:
    net = network()
    with pytest.raises(CompositionError, match="momentum < 1"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=1.0), net, [wp.L1(0.1).on()])


def test_lbfgs_with_a_penalty_in_the_loss() -> None:
    net = nn.Linear(6, 3).double()
    optimizer = wp.regularize(
        torch.optim.LBFGS(net.parameters(), max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14),
        net,
        [wp.L2(0.1).on(how="loss")],
    )
    x, y = batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x.double()), y) + optimizer.penalty()
        loss.backward()
        return loss

    optimizer.step(closure)
    net.zero_grad()
    nn.functional.cross_entropy(net(x.double()), y).backward()
    assert float(wp.L2(0.1).violation(net.weight.detach(), net.weight.grad)) < 1e-6
    with pytest.raises(CompositionError, match="LBFGS takes many steps in one"):
        wp.regularize(torch.optim.LBFGS(net.parameters()), net, [wp.L2(0.1).on()])
    with pytest.raises(CompositionError, match="LBFGS steps along directions"):
        wp.regularize(torch.optim.LBFGS(net.parameters()), net, [wp.MaxNorm(1.0).on()])


def rows_of(audit: Any) -> dict[tuple[str, str], Any]:
    return {(row.parameter, row.term): row for row in audit.rows}


def test_the_audit_says_who_how_and_what_is_solved() -> None:
    net = network()
    terms = [wp.L2(0.2).on("0"), wp.GroupL2(0.1, by="input").on("0"), wp.MaxNorm(2).on("3"), wp.L1(0.5).on("3", "loss")]
    audit = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net, terms).audit()
    rows = rows_of(audit)
    decay = rows["0.weight", "L2(strength=0.2)"]
    assert (decay.role, decay.how, decay.shape) == ("weight", "decay", (8, 6))
    assert decay.effective_strength == pytest.approx(0.02)
    assert decay.objective == "loss + 0.02/2 |w|^2 (momentum divides decay)"
    group = rows["0.weight", "GroupL2(strength=0.1, by='input')"]
    assert group.effective_strength == pytest.approx(0.1 * 8**0.5)
    assert group.how == "prox"
    bound = rows["3.weight", "MaxNorm(bound=2, by='unit')"]
    assert (bound.how, bound.effective_strength) == ("project", None)
    assert bound.objective == "loss over the set MaxNorm(bound=2, by='unit')"
    assert rows["3.weight", "L1(strength=0.5)"].effective_strength == 0.5
    assert {name for (name, _), row in rows.items() if row.objective == "not charged"} == {
        "0.bias",
        "1.weight",
        "1.bias",
        "3.bias",
    }
    assert rows["1.weight", "-"].role == "norm"
    assert [note.split(":")[0] for note in audit.notes] == ["note"] * 3
    assert "several rows" in audit.notes[0]
    assert "penalty()" in audit.notes[1]
    assert "make nothing exactly zero" in audit.notes[2]
    text = str(audit)
    for word in ("0.weight", "8x6", "momentum divides decay", "convention: mean loss over examples; L2(s) = s/2 |w|^2"):
        assert word in text
    assert len({line.index("  ") > 0 for line in text.splitlines()[:3]}) == 1
    assert json.loads(json.dumps(audit.to_dict()))["rows"][0]["parameter"] == "0.weight"


def test_the_audit_under_an_adaptive_optimizer() -> None:
    net = network()
    audit = wp.regularize(
        torch.optim.AdamW(net.parameters(), weight_decay=0),
        net,
        [wp.L2(0.2).on(), wp.L1(0.1).on("0"), wp.MaxNorm(1).on()],
    ).audit()
    rows = rows_of(audit)
    assert rows["3.weight", "L2(strength=0.2)"].effective_strength is None
    assert rows["3.weight", "L2(strength=0.2)"].objective.startswith("no fixed objective")
    beside = ", but for the decay beside it, which has no objective"
    assert rows["0.weight", "L1(strength=0.1)"].objective == f"loss + L1(strength=0.1){beside}"
    assert "not stationary" in rows["0.weight", "MaxNorm(bound=1, by='unit')"].objective
    assert any("rise from 0" in note for note in audit.notes)


def test_the_audit_shows_the_optimizers_own_decay() -> None:
    """The loudest complaint: torch decays biases and norms, and nobody sees it."""
    net = network()
    audit = wp.regularize(torch.optim.AdamW(net.parameters(), weight_decay=0.1), net, [wp.L1(0.1).on("0")]).audit()
    own = {row.parameter: row for row in audit.rows if row.term == "weight_decay"}
    assert set(own) == {name for name, _ in net.named_parameters()}
    assert own["1.bias"].how == "decay"
    coupled = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1), net).audit().rows[0]
    assert (coupled.how, coupled.effective_strength, coupled.objective) == ("loss", 0.1, "loss + 0.1/2 |w|^2")


def test_the_audit_of_a_model_that_is_gone() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])
    del net
    gc.collect()
    assert [row.parameter for row in optimizer.audit().rows][:2] == ["0.weight", "0.bias"]


def test_terms_are_frozen_and_readable() -> None:
    term = wp.L1(0.1).on("encoder.*")
    assert isinstance(term, Term)
    assert str(term) == "L1(strength=0.1) on encoder.* by prox"
    assert str(wp.MaxNorm(3.0, by="input").on(wp.weights - wp.outputs)) == (
        "MaxNorm(bound=3.0, by='input') on (weights - outputs) by project"
    )
    with pytest.raises(AttributeError):
        term.how = "loss"  # type: ignore[misc]


def test_several_optimizers_on_one_model_charge_their_own() -> None:
    net = network()
    one = wp.regularize(torch.optim.SGD(net[0].parameters(), lr=0.1), net, [wp.L1(0.1).on(how="loss")])
    two = wp.regularize(torch.optim.SGD(net[3].parameters(), lr=0.1), net, [wp.L1(0.1).on(how="loss")])
    total = 0.1 * sum(float(layer.weight.abs().sum().detach()) for layer in (net[0], net[3]))
    assert float((one.penalty() + two.penalty()).detach()) == pytest.approx(total)


def constant_column(make: Make, term: Term, steps: int = 600) -> nn.Sequential:
    """A net that is trained with a column of zeros, whose weights never get a gradient."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=draw)
    x[:, 7] = 0
    y = 2 * x[:, :1] - x[:, 1:2]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = wp.regularize(make(net.parameters()), net, [term])
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize(
    "charge",
    [
        wp.GroupL2(2e-2),
        wp.RowL21(6e-2),
        wp.SparseGroup(2e-2, mix=0.3),
        wp.GroupL2(2e-2, by="block", block=(1, 8)),
        wp.GroupL2(2e-2, by=torch.arange(32).view(32, 1)),
        wp.TiedGroups(2e-2, axes={"0.weight": "unit", "0.bias": "unit", "2.weight": "input"}),
    ],
    ids=str,
)
def test_weights_without_a_gradient_keep_no_group_alive(charge: Any) -> None:
    where = None if charge.name == "tied_groups" else "0"
    make = torch.optim.RMSprop if charge.name == "row_l21" else torch.optim.Adam
    weight = constant_column(lambda p: make(p, lr=3e-3), charge.on(where))[0].weight.detach()
    start = constant_column(lambda p: make(p, lr=3e-3), charge.on(where), steps=0)[0].weight.detach()
    gone = (weight == 0).all(1)
    assert 3 < int(gone.sum()) < 32
    # In the units that live they are as they were.
    assert torch.equal(weight[~gone, 7], start[~gone, 7])


def test_a_unit_without_any_gradient_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].bias[0] = -1e3  # never active
    before = net[0].weight[0].detach().clone()
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=1e-2), net, [wp.GroupL2(10.0).on("0")])
    for step in range(200):
        optimizer.zero_grad()
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))
        net(x).square().mean().backward()
        optimizer.step()
    assert torch.equal(net[0].weight[0].detach(), before)
    assert not net[0].weight[1:].any()


def test_hidden_weights_without_a_gradient_keep_no_input() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skip = nn.Linear(6, 1)
            self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.skip(x) + self.layers(x)
            return found

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.layers[0].bias[:5] = -1e3  # never active: their weights get no gradient
    charge = wp.Hierarchical(0.3, hierarchy=5.0, skip="skip.weight", first="layers.0.weight")
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=3e-3), net, [charge.on()])
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=draw)
    y = 2 * x[:, :1] - x[:, 1:2]
    for _ in range(1500):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    skip, first = net.skip.weight.detach(), net.layers[0].weight.detach()
    gone = (skip == 0).all(0)
    assert int(gone.sum()) >= 3
    assert not bool(first[:, gone].any())
    assert bool((first.abs().amax(0) <= 5.0 * skip.abs().amax(0) * (1 + 1e-6)).all())


@pytest.mark.parametrize("charge", [wp.Nuclear(1e-3), wp.Spectral(1e-3)], ids=str)
def test_a_rare_gradient_makes_no_huge_euclidean_step(charge: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=draw)
    y = 2 * x[:, :1] - x[:, 1:2]
    x[:, 7] *= 1e-6
    torch.manual_seed(0)
    net = nn.Linear(8, 3)
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=3e-3), net, [charge.on()])
    for _ in range(600):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y.expand(-1, 3)).backward()
        optimizer.step()
    assert float(net.weight.detach().abs().max()) > 1


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "ASGD",
                                  "AdamW", "Adafactor", "Muon"])  # fmt: skip
def test_the_audit_knows_which_decay_is_in_the_loss(name: str) -> None:
    """A decay that is in the loss does nothing else to a weight than the same gradient would."""
    cls = getattr(torch.optim, name, None)
    if cls is None:
        pytest.skip(f"this torch has no {name}")
    nets = [nn.Linear(3, 2, bias=False) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    inner = [cls(nets[0].parameters(), lr=0.1, weight_decay=0.5), cls(nets[1].parameters(), lr=0.1, weight_decay=0.0)]
    for step in range(3):
        for net, decay in zip(nets, (0.0, 0.5), strict=True):
            gradient = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
            net.weight.grad = gradient + decay * net.weight.detach()
        for optimizer in inner:
            optimizer.step()
    coupled = torch.allclose(nets[0].weight, nets[1].weight, atol=1e-6)
    audit = wp.regularize(inner[0], nets[0], []).audit()
    assert (audit.rows[0].how == "loss") == coupled


class Sharp(torch.optim.SGD):
    """A script's own optimizer, which has steps of other names; what is inside of it takes the last one."""

    def __init__(self, parameters: Any, inside: bool) -> None:
        super().__init__(parameters, lr=0.1)
        if inside:
            self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    def second_step(self) -> None:
        getattr(self, "base", self).step()


class Directed(torch.optim.SGD):
    """An optimizer whose step takes a direction, as line searches of several calls have it."""

    def step(self, direction: Any, scale: float = 1.0) -> float:  # type: ignore[override]
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(direction * torch.ones_like(p), alpha=scale)
        return scale


def test_terms_are_refused_where_steps_of_other_names_would_pass_them_by() -> None:
    net = nn.Linear(4, 3)
    terms = [wp.L2(0.1).on(wp.weights)]
    with pytest.raises(CompositionError, match=r"takes steps by second_step too, in which .* would not act"):
        wp.regularize(Sharp(net.parameters(), inside=False), net, terms)
    assert wp.regularize(Sharp(net.parameters(), inside=False), net, wp.L2(0.1).on(wp.weights, how="loss"))
    assert wp.regularize(Sharp(net.parameters(), inside=True), net)
    sharp: Any = Sharp(net.parameters(), inside=True)
    with pytest.raises(CompositionError, match=r"optimizer\.base = wp\.regularize\(optimizer\.base, net, terms\)"):
        wp.regularize(sharp, net, terms)
    sharp.base = wp.regularize(sharp.base, net, terms)
    before = net.weight.detach().clone()
    net.weight.grad = torch.zeros_like(net.weight)
    sharp.second_step()
    assert torch.allclose(net.weight, before * (1 - 0.1 * 0.1))
    assert [row.term for row in wp.audit(sharp, net).rows] == ["L2(strength=0.1)", "-"]


@pytest.mark.parametrize("terms", [[], [wp.L2(0.1).on(wp.weights)]], ids=["none", "decay"])
def test_a_step_that_takes_more_than_a_closure_gets_it(terms: list[Term]) -> None:
    net = nn.Linear(4, 3)
    optimizer: Any = wp.regularize(Directed(net.parameters(), lr=0.5), net, terms)
    before = net.weight.detach().clone()
    net.weight.grad = torch.zeros_like(net.weight)
    assert optimizer.step(torch.ones(()), scale=2.0) == 2.0
    assert torch.allclose(net.weight, before * (1 - 0.5 * 0.1 * len(terms)) + 2.0)


def test_without_terms_the_closure_is_the_optimizers_own() -> None:
    class Needs(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            assert closure is not None
            return [closure() for _ in range(2)][-1]  # with gradients, as it is called

    net, calls = nn.Linear(4, 3), []

    def closure() -> float:
        calls.append(net(torch.ones(1, 4)).sum().requires_grad)
        return 7.0

    assert wp.regularize(Needs(net.parameters(), lr=0.1), net).step(closure) == 7.0
    assert calls == [True, True]


def test_a_decay_that_a_loop_gives_beside_a_term_is_warned_of_once() -> None:
    net = nn.Linear(4, 3)
    optimizer = wp.regularize(
        torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.0), net, [wp.L2(0.1).on(wp.weights)]
    )
    net.weight.grad = torch.ones_like(net.weight)
    optimizer.step()
    for decay in (0.04, 0.05):
        optimizer.param_groups[0]["weight_decay"] = decay
        if decay == 0.04:
            with pytest.warns(UserWarning, match="would be decayed twice"):
                optimizer.step()
        else:
            optimizer.step()


class Parted(torch.optim.SGD):
    """An optimizer that has another one for the parameters that are not its own, itself by another name, and a part of a step."""

    def __init__(self, parameters: Any, others: Any) -> None:
        super().__init__(parameters, lr=0.1, weight_decay=0.3)
        self.beside, self.me = torch.optim.Adam(others, lr=0.01), self

    def update_step(self, group: Any, parameter: Any) -> None:
        """What `step` calls for each parameter."""


def test_an_optimizer_for_other_parameters_is_no_wrapped_one() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    made = Parted(net[0].parameters(), net[1].parameters())
    assert unwrap_optimizer(made) is made
    assert [row.term for row in wp.audit(made, net).rows] == ["weight_decay", "weight_decay", "-", "-"]
    assert isinstance(wp.regularize(made, net, wp.L1(0.1).on("0.weight", how="prox")), Regularized)


@pytest.mark.parametrize("terms", [[], [wp.L2(0.1).on(wp.weights)]], ids=["none", "decay"])
@pytest.mark.parametrize("closure", [None, lambda: 3.0], ids=["no closure", "closure"])
def test_what_a_step_takes_stays_at_its_place(terms: list[Term], closure: Any) -> None:
    class Scaled(torch.optim.SGD):
        def step(self, closure: Any = None, scale: float = 1.0) -> float:  # type: ignore[override]
            assert closure is None or callable(closure)
            return scale if closure is None else closure()  # type: ignore[no-any-return]

    net = nn.Linear(4, 3)
    optimizer: Any = wp.regularize(Scaled(net.parameters(), lr=0.5), net, terms)
    assert optimizer.step(closure, 0.5) == (0.5 if closure is None else 3.0)


def test_a_term_that_was_not_added_is_warned_of_where_the_step_is() -> None:
    net = nn.Linear(4, 3)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.L1(0.1).on(wp.weights, how="loss"))
    with pytest.warns(UserWarning, match="has not been added") as warned:
        optimizer.step()
    assert warned[0].filename == __file__


def test_an_audit_says_what_another_optimizer_moves_and_what_another_network_has() -> None:
    """Two optimizers share a network; a third one also moves a head, which the network does not have, and decays it."""
    net, head = network(), nn.Linear(3, 2)
    weights = [p for p in net.parameters() if p.ndim > 1]
    audit = wp.audit(torch.optim.SGD(weights, lr=0.1), net)
    assert {row.objective for row in audit.rows if row.parameter.endswith("bias")} == {"not in this optimizer"}
    assert not [note for note in audit.notes if "not in this network" in note]
    net[0].weight.requires_grad_(False)
    given = [{"params": list(net.parameters())}, {"params": list(head.parameters()), "weight_decay": 0.3}]
    for optimizer in (torch.optim.SGD(given, lr=0.1), wp.regularize(torch.optim.SGD(given, lr=0.1), net, [])):
        audit = wp.audit(optimizer, net)
        assert next(row for row in audit.rows if row.parameter == "0.weight").objective == "not trained"
        (note,) = [note for note in audit.notes if "not in this network" in note]
        assert "2 more parameters of this optimizer, of shape 2x3, 2" in note
        assert "weight_decay on them is 0.3" in note
    assert not [note for note in wp.audit(optimizer, nn.ModuleList([net, head])).notes if "network" in note]
