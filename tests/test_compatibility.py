"""The wrapped optimizer in other people's hands: schedulers, scalers, compiled and parallel models, trainers.

What works gives what the bare optimizer gives; what cannot work is refused with a sentence.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

import wellposed as wp
from two_processes import found_by_both
from wellposed.constraints.balls import L1Ball
from wellposed.core.errors import InputError, WellposedError
from wellposed.core.selectors import leaves
from wellposed.optim import zeros
from wellposed.penalties.variation import TotalVariation

TERMS = [wp.L2(0.3).on(), wp.L1(0.01).on("0"), wp.MaxNorm(0.9).on("3")]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=draw), torch.randint(0, 3, (16,), generator=draw)


def cost(net: Callable[[Tensor], Tensor], step: int) -> Tensor:
    x, y = batch(step)
    return nn.functional.cross_entropy(net(x.to(dtype_of(net))), y)


def dtype_of(net: Any) -> torch.dtype:
    return next(net.parameters()).dtype if isinstance(net, nn.Module) else torch.float32


def train(net: nn.Module, optimizer: Any, steps: int = 10, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        cost(net, step).backward()
        optimizer.step()
    return weights_of(net)


def weights_of(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def sgd(net: nn.Module, terms: Any = TERMS, **settings: Any) -> Any:
    return wp.regularize(torch.optim.SGD(net.parameters(), lr=0.05, **settings), net, terms)


def adam(net: nn.Module, terms: Any = TERMS, **settings: Any) -> Any:
    return wp.regularize(torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0, **settings), net, terms)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    before = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before)


# Schedulers.

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.2, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.StepLR(o, 2)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    found = {
        name
        for name, cls in vars(lr_scheduler).items()
        if inspect.isclass(cls) and issubclass(cls, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert found - {"LRScheduler"} <= set(SCHEDULERS)


def scheduled(name: str, optimizer: Any, net: nn.Module, steps: int = 10) -> list[tuple[float, float]]:
    """Learning rate and momentum at each step. Warnings are errors."""
    clock, seen = SCHEDULERS[name](optimizer), []
    for step in range(steps):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        train(net, optimizer, 1, step)
        clock.step(1.0) if name == "ReduceLROnPlateau" else clock.step()
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_sets_rate_and_momentum_of_all_three(name: str) -> None:
    """As the bare optimizer; and decay and prox follow: here both are written by hand after torch's own step."""
    bare, ours = network().double(), network().double()
    by_hand = torch.optim.SGD(bare.parameters(), lr=0.05, momentum=0.9)
    optimizer = sgd(ours, [wp.L2(0.3).on(), wp.L1(0.01).on()], momentum=0.9)
    charged = [p for p in bare.parameters() if p.ndim == 2]

    def decay(*_: Any) -> None:
        for p in charged:
            p.data.mul_(1 - by_hand.param_groups[0]["lr"] * 0.3)

    def shrink(*_: Any) -> None:
        group = by_hand.param_groups[0]
        for p in charged:
            t = 0.01 * group["lr"] / (1 - group["momentum"])
            p.data.sub_(p.data.clamp(-t, t))

    by_hand.register_step_pre_hook(decay)
    by_hand.register_step_post_hook(shrink)
    assert scheduled(name, optimizer, ours) == scheduled(name, by_hand, bare)
    for a, b in zip(weights_of(ours), weights_of(bare), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_the_order_of_steps_is_watched_as_with_a_bare_optimizer() -> None:
    for wrapped in (False, True):
        net = network()
        optimizer = sgd(net) if wrapped else torch.optim.SGD(net.parameters(), lr=0.05)
        clock = lr_scheduler.StepLR(optimizer, 3)
        with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
            clock.step()
        optimizer = sgd(network()) if wrapped else torch.optim.SGD(net.parameters(), lr=0.05)
        clock, second = lr_scheduler.StepLR(optimizer, 3), lr_scheduler.ExponentialLR(optimizer, 0.9)
        optimizer.step()
        clock.step()
        second.step()


def test_a_scheduler_resumes() -> None:
    net = network()
    optimizer = adam(net)
    clock = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
    for step in range(4):
        train(net, optimizer, 1, step)
        clock.step()
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), clock.state_dict()))
    other = network(1)
    resumed = adam(other)
    again = lr_scheduler.OneCycleLR(resumed, 0.1, total_steps=12)
    for part, state in zip((other, resumed, again), saved, strict=True):
        part.load_state_dict(state)
    for step in range(4, 10):
        for a, b, c in ((net, optimizer, clock), (other, resumed, again)):
            train(a, b, 1, step)
            c.step()
    assert same(weights_of(net), weights_of(other))
    assert resumed.steps == 10


# Scalers.


@pytest.mark.parametrize("make", [sgd, adam], ids=["sgd", "adam"])
def test_skipped_steps_leave_no_trace(make: Callable[..., Any]) -> None:
    """With infinite gradients in between, the weights are those of the good batches alone, and so are the counters."""
    plain, net = network(), network()
    alone, optimizer = make(plain), make(net)
    train(plain, alone, 6)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10_000)
    for step in range(6):
        for factor in (float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(cost(net, step) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 1024.0 / 2**6
    for a, b in zip(weights_of(net), weights_of(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert optimizer.steps == 6


def test_a_resumed_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    net = network()
    optimizer = sgd(net)
    scaler.scale(cost(net, 0)).backward()
    scaler.unscale_(optimizer)
    wanted = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    twin = network()
    cost(twin, 0).backward()
    torch.testing.assert_close(wanted, [p.grad for p in twin.parameters()])
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(optimizer)


# Flags of optimizers.


def decayed(net: nn.Module, make: Any, **settings: Any) -> torch.optim.Optimizer:
    """torch's own decay of the same parameters."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return make(groups, **settings)


FLAGS: list[dict[str, Any]] = [
    {"foreach": True},
    {"foreach": False},
    {"fused": False},
    {"amsgrad": True},
    {"maximize": True},
    {"maximize": True, "foreach": True},
    {"lr": torch.tensor(0.01)},
    {"lr": torch.tensor(0.01, dtype=torch.float64)},
    {"betas": (0.5, 0.9)},
]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_flags(flags: dict[str, Any]) -> None:
    theirs, ours = network(), network()
    wanted = train(theirs, decayed(theirs, torch.optim.AdamW, **{"lr": 0.01, **flags}))
    inner = torch.optim.AdamW(ours.parameters(), **{"lr": 0.01, "weight_decay": 0, **flags})
    found = train(ours, wp.regularize(inner, ours, [wp.L2(0.3).on()]))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("flags", [*FLAGS, {"fused": True}], ids=str)
def test_flags_with_prox(flags: dict[str, Any]) -> None:
    settings = {"lr": 0.01, "weight_decay": 0, **flags}
    nets = [network(), network()]
    plain = {key: value for key, value in settings.items() if key not in ("foreach", "fused")}
    plain["lr"] = float(settings["lr"])
    results = [
        train(net, wp.regularize(torch.optim.AdamW(net.parameters(), **given), net, [wp.L1(0.05).on()]), 100)
        for net, given in zip(nets, (settings, plain), strict=True)
    ]
    assert any((w == 0).any() for w in results[0] if w.ndim == 2)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_maximizing_optimizer_takes_no_penalty_in_the_loss() -> None:
    net = network()
    inner = torch.optim.SGD(net.parameters(), lr=0.1, maximize=True)
    with pytest.raises(InputError, match=r"maximizes, so a penalty that is added to its objective would be rewarded"):
        wp.regularize(inner, net, [wp.L2(0.1).on(how="loss")])


@pytest.mark.parametrize(("flag", "message"), [("capturable", "capturable"), ("differentiable", "a leaf Variable")])
def test_what_torch_refuses_is_refused_in_its_words(flag: str, message: str) -> None:
    """torch captures on accelerators only, and differentiates through steps of parameters that are no leaves only."""
    messages = []
    for wrapped in (False, True):
        net = network()
        settings: Any = {"lr": 0.01, "weight_decay": 0, "foreach": False, flag: True}
        inner: Any = torch.optim.AdamW(net.parameters(), **settings)
        optimizer = wp.regularize(inner, net, TERMS) if wrapped else inner
        with pytest.raises((AssertionError, RuntimeError), match=message) as caught:
            train(net, optimizer, 1)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


# What a parameter may be.


def test_complex_parameters_are_refused() -> None:
    net = nn.Linear(3, 2, dtype=torch.complex64)
    with pytest.raises(InputError, match=r"'weight' is complex.*for example \.on\(wp\.weights - 'weight'\)"):
        sgd(net, [wp.L2(0.1).on()])


def test_the_meta_device_is_refused() -> None:
    """Some operators ask for numbers; and materializing makes parameters that no optimizer built before holds."""
    net = nn.Linear(3, 2, device="meta")
    with pytest.raises(InputError, match=r"'weight' is on the meta device.*to_empty"):
        sgd(net, [wp.L1(0.1).on()])


def test_uninitialized_parameters_are_refused() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"'0.weight' has no shape yet.*one batch"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(dtype: torch.dtype) -> None:
    net = network().to(dtype)
    terms = [wp.L1(0.02).on(), wp.GroupL2(0.02).on("3"), wp.L2(0.1).on()]
    optimizer = sgd(net, terms, momentum=0.9)
    train(net, optimizer, 60)
    assert all(p.dtype == dtype for p in net.parameters())
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert (net[0].weight == 0).any()
    assert all(torch.isfinite(torch.tensor(v)) for v in optimizer.values().values())


class Bag(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(20, 4, sparse=sparse)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.0, foreach=False),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
    ],
    ids=["sgd", "sgd_single", "adagrad"],
)
@pytest.mark.parametrize(
    "terms",
    [
        [wp.L2(0.3).on(wp.embeddings)],
        [wp.L1(0.02).on(wp.embeddings)],
        [wp.GroupL2(0.02).on(wp.embeddings)],
        [wp.MaxNorm(1.5).on(wp.embeddings)],
    ],
    ids=lambda terms: terms[0].charge.name,
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_are_treated_as_dense_ones(make: Any, terms: Any) -> None:
    """Rows that a batch does not touch have gradient 0: decay and SGD's prox reach them, an adaptive prox does once seen."""
    results = []
    for sparse in (False, True):
        net = Bag(sparse)
        optimizer = wp.regularize(make(net.parameters()), net, terms)
        for step in range(30):
            draw = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            x, y = torch.randint(0, 15, (8, 3), generator=draw), torch.randint(0, 3, (8,), generator=draw)
            nn.functional.cross_entropy(net(x), y).backward()
            assert net.table.weight.grad is not None
            assert net.table.weight.grad.is_sparse == sparse
            optimizer.step()
        results.append(weights_of(net))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_sparse_adam() -> None:
    net = Bag(True)
    for how in ("loss", "decay"):
        wp.regularize(torch.optim.SparseAdam([net.table.weight]), net, [wp.L2(0.1).on(wp.embeddings, how=how)])
    with pytest.raises(InputError, match="moves only the rows that a batch touches"):
        wp.regularize(torch.optim.SparseAdam([net.table.weight]), net, [wp.L1(0.1).on(wp.embeddings)])


def test_a_parameter_without_a_gradient_keeps_its_place() -> None:
    """An expert that is not called in a step is neither decayed nor shrunk nor counted in that step."""
    nets = [network(), network()]
    optimizers = [adam(net, [wp.L2(0.3).on(), wp.L1(0.05).on()]) for net in nets]
    for step in range(12):
        idle = step % 3 == 2
        optimizers[0].zero_grad()
        cost(nets[0], step).backward()
        if idle:
            nets[0][0].weight.grad = None
        optimizers[0].step()
    train_only = [step for step in range(12) if step % 3 != 2]
    assert float(optimizers[0].state[nets[0][0].weight]["step"]) == len(train_only)
    assert float(optimizers[0].state[nets[0][3].weight]["step"]) == 12
    saved = copy.deepcopy(optimizers[0].state_dict())
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(saved)
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer, 5, 20)
    assert same(*(weights_of(net) for net in nets))


def test_frozen_then_thawed() -> None:
    net = network()
    net[0].requires_grad_(False)
    inner = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01, weight_decay=0)
    optimizer = wp.regularize(inner, net, TERMS)
    first = net[0].weight.detach().clone()
    train(net, optimizer, 3)
    assert torch.equal(net[0].weight, first)
    net[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.02})
    for step in range(3, 6):
        train(net, optimizer, 1, step)
    assert not torch.equal(net[0].weight, first)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    train(net, optimizer, 1, 6)


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers(wrap: str) -> None:
    net = network()
    getattr(nn.utils.parametrizations, wrap)(net[3])
    optimizer = sgd(net, [wp.L2(0.1).on("3.weight"), wp.L1(0.01).on("0")], momentum=0.9)
    before = weights_of(net)
    train(net, optimizer, 5)
    assert not same(before, weights_of(net))
    assert all(torch.isfinite(p).all() for p in net.parameters())


# Steps.


@pytest.mark.parametrize("make", [sgd, adam], ids=["sgd", "adam"])
def test_functional_call(make: Callable[..., Any]) -> None:
    nets = [network(), network()]
    optimizers = [make(net) for net in nets]
    train(nets[0], optimizers[0], 5)
    for step in range(5):
        optimizers[1].zero_grad()
        parameters = dict(nets[1].named_parameters())
        cost(lambda x, given=parameters: torch.func.functional_call(nets[1], given, (x,)), step).backward()
        optimizers[1].step()
    assert same(*(weights_of(net) for net in nets))


def test_hooks_of_all_kinds_are_called_once() -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    net = network()
    optimizer = adam(net)
    seen: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("any before")),
        register_optimizer_step_post_hook(lambda *_: seen.append("any after")),
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        optimizer.register_state_dict_pre_hook(lambda *_: seen.append("save")),
        optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded")),
    ]
    try:
        train(net, optimizer, 1)
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(seen[:4]) == ["after", "any after", "any before", "before"]
    assert {"before", "any before"} == set(seen[:2])
    assert seen[4:] == ["save", "loaded"]
    train(net, optimizer, 1)
    assert len(seen) == 6


def test_a_hook_after_the_step_sees_the_weights_that_are_left() -> None:
    """Averages and checks that hang on the hook must see zeros and the set, as the next forward pass does."""
    net = network()
    optimizer = sgd(net, [wp.MaxNorm(0.1).on(), wp.L1(10.0).on("0")])
    seen: list[list[Tensor]] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(weights_of(net)))
    train(net, optimizer, 1)
    assert len(seen) == 1
    assert same(seen[0], weights_of(net))


@pytest.mark.parametrize("make", [sgd, adam], ids=["sgd", "adam"])
def test_closures_and_clipping(make: Callable[..., Any]) -> None:
    """A closure that clips; the wrapped step runs it once, and returns its loss."""
    nets = [network(), network()]
    optimizers = [make(net) for net in nets]
    for step in range(5):
        calls = []

        def closure(step: int = step, calls: list[int] = calls) -> Tensor:
            calls.append(step)
            optimizers[0].zero_grad()
            loss = cost(nets[0], step)
            loss.backward()
            nn.utils.clip_grad_norm_(nets[0].parameters(), 0.1)
            return loss

        found = optimizers[0].step(closure)
        assert calls == [step]
        optimizers[1].zero_grad()
        loss = cost(nets[1], step)
        assert torch.equal(found, loss)
        loss.backward()
        nn.utils.clip_grad_norm_(nets[1].parameters(), 0.1)
        optimizers[1].step()
    assert same(*(weights_of(net) for net in nets))


def test_averages_of_torch() -> None:
    net = network()
    optimizer = sgd(net, TERMS, momentum=0.9)
    average = swa_utils.AveragedModel(net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    clock = swa_utils.SWALR(optimizer, swa_lr=0.01)
    for step in range(5):
        train(net, optimizer, 1, step)
        average.update_parameters(net)
        clock.step()
    assert not same(weights_of(net), weights_of(average.module))
    swa_utils.update_bn([(batch(0)[0],)], average)


def test_states_go_both_ways() -> None:
    net, twin = network(), network()
    bare = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0)
    train(net, bare, 5)
    twin.load_state_dict(net.state_dict())
    optimizer = adam(twin, [])
    optimizer.load_state_dict(copy.deepcopy(bare.state_dict()))
    assert same(train(net, bare, 5, 5), train(twin, optimizer, 5, 5))
    bare.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(train(net, bare, 5, 10), train(twin, optimizer, 5, 10))


def test_a_state_that_was_loaded_into_the_bare_optimizer_goes_on_when_it_is_regularized() -> None:
    """As by a trainer that loads a checkpoint before anybody can wrap its optimizer. References stay those of the first start."""
    terms = [wp.L2SP(0.3).on("0"), wp.L1(0.01).on("3")]
    net, twin, third = network(), network(1), network(2)
    optimizer = adam(net, terms)
    train(net, optimizer, 5)
    states = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    wanted = train(net, optimizer, 5, 5)
    for other, way in ((twin, "loaded"), (third, "unwrapped")):
        other.load_state_dict(states[1])
        bare = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0)
        bare.load_state_dict(copy.deepcopy(states[0]))
        if way == "unwrapped":
            bare = wp.regularize(bare, other, terms).bare()
        again = wp.regularize(bare, other, terms)
        assert again.steps == 5
        assert same(train(other, again, 5, 5), wanted)
        assert "wellposed" not in bare.param_groups[0]


def test_states_of_torchs_distributed_checkpoints() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    net, twin = network(), network(1)
    optimizer, resumed = adam(net), adam(twin)
    train(net, optimizer, 5)
    twin.load_state_dict(net.state_dict())
    set_optimizer_state_dict(twin, resumed, copy.deepcopy(get_optimizer_state_dict(net, optimizer)))
    # They keep torch's own part only; ours is put beside it, where a strength follows a schedule.
    resumed.load_state_dict({**resumed.state_dict(), "wellposed": optimizer.state_dict()["wellposed"]})
    assert resumed.steps == optimizer.steps == 5
    assert same(train(net, optimizer, 5, 5), train(twin, resumed, 5, 5))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step() -> None:
    nets = [network(), network()]
    optimizers = [sgd(net, momentum=0.9) for net in nets]
    step = torch.compile(optimizers[1].step, backend="eager")
    for i in range(3):
        for net, optimizer, move in zip(nets, optimizers, (optimizers[0].step, step), strict=True):
            optimizer.zero_grad()
            cost(net, i).backward()
            move()
    for a, b in zip(*(weights_of(net) for net in nets), strict=True):
        torch.testing.assert_close(a, b)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_looks_at_no_other_network_of_the_process() -> None:
    """What is noted of all networks changes whenever one dies, also while a step is being compiled."""
    others = [nn.Identity() for _ in range(2000)]
    zeros._NAMES.update((other, frozenset({"a"})) for other in others)
    stop, before = threading.Event(), sys.getswitchinterval()

    def come_and_go() -> None:
        while not stop.is_set():
            zeros._NAMES.update((nn.Identity(), frozenset({"a"})) for _ in range(50))

    thread = threading.Thread(target=come_and_go)
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        net, plain = network(), network()
        optimizer, average = sgd(net), wp.Average(net, 0.9)
        step, update = (torch.compile(f, backend="eager") for f in (optimizer.step, average.update))
        expected, kept = sgd(plain), wp.Average(plain, 0.9)
        for move, take, made, model in ((step, update, optimizer, net), (expected.step, kept.update, expected, plain)):
            for i in range(2):
                made.zero_grad()
                cost(model, i).backward()
                move()
                take()
        assert zeros.keeps_zeros(net)
        assert same(weights_of(average.module), weights_of(kept.module))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
        torch.compiler.reset()


# Models inside of others.


def compiled(backend: str) -> Callable[[nn.Module], nn.Module]:
    return lambda net: torch.compile(net, backend=backend)  # type: ignore[return-value]


@pytest.fixture
def _alone() -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "eager": compiled("eager"),
    "aot_eager": compiled("aot_eager"),
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compiled DistributedDataParallel": lambda net: compiled("eager")(nn.parallel.DistributedDataParallel(net)),
}


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("given", ["wrapped", "raw"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapped_model_is_its_inner_one(wrapping: str, given: str) -> None:
    """Names are the inner model's, whichever of the two is given to `regularize`; training is that of the inner one."""
    terms = [wp.L2(0.3).on(), wp.L1(0.01).on("0.*"), wp.GroupL2(0.01).on("3"), wp.MaxNorm(2.0).on("*.weight")]
    plain, net = network(), network()
    wanted = train(plain, sgd(plain, terms))
    outer = WRAPPINGS[wrapping](net)
    assert [leaf.name for leaf in leaves(outer)] == [leaf.name for leaf in leaves(net)]
    optimizer = wp.regularize(torch.optim.SGD(outer.parameters(), lr=0.05), outer if given == "wrapped" else net, terms)
    train(outer, optimizer)
    for a, b in zip(weights_of(net), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert next(row.parameter for row in optimizer.audit().rows) == "0.weight"
    torch.compiler.reset()


def test_a_compiled_network_is_fitted_like_its_inner_one() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))

    def make(compile: bool) -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        return compiled("eager")(net) if compile else net

    wanted, found = (
        wp.fit(wp.Problem(partial(make, compile), "cross_entropy", (x, (x[:, 0] > 0).long())), wp.Recipe(epochs=3))
        for compile in (False, True)
    )
    np.testing.assert_allclose(found.history["valid_loss"], wanted.history["valid_loss"], rtol=1e-5)
    torch.compiler.reset()


def test_the_audit_outlives_the_wrapping() -> None:
    """Only the wrapping is dropped; the model itself is still there."""
    net = network()
    optimizer = sgd(nn.DataParallel(net))
    gc.collect()
    assert optimizer.audit().rows[0].parameter == "0.weight"


def test_penalties_of_activations_see_through_a_compiled_model() -> None:
    from wellposed.penalties.functional import ActivationL1

    values = []
    for wrap in (lambda net: net, compiled("eager")):
        net = network()
        outer = wrap(net)
        optimizer = sgd(outer, [ActivationL1(0.1).on("2")])
        x, _ = batch(0)
        outputs = outer(x)
        values.append(float(optimizer.penalty(outputs).detach()))
    assert values[0] > 0
    assert values[0] == pytest.approx(values[1])
    torch.compiler.reset()


# Several processes.


SEVERAL: dict[str, Any] = {
    "ddp": [wp.L2(0.3).on(), wp.L1(0.02).on("0"), wp.GroupL2(0.02).on("3"), wp.MaxNorm(0.5).on("0")],
    "fsdp": [wp.L2(0.3).on(), wp.L1(0.02).on("0"), wp.GroupL2(0.02).on("3"), wp.MaxNorm(0.5).on("0")],
    "fsdp by input": [wp.GroupL2(0.06, by="input").on("0"), wp.MaxNorm(0.4, by="input").on("3")],
    "fsdp of whole matrices": [TotalVariation(0.02).on("0"), L1Ball(1.0).on("3")],
    "fsdp in the loss": [wp.L2(0.3).on(how="loss"), wp.L1(0.02).on("0", how="loss"), wp.L1(0.02).on("3")],
}


def of_two(kind: str, rank: int | None) -> dict[str, Any]:
    """Weights and charges after some steps; of one process, or of one of two with half of each batch."""
    net = network().double()
    outer: nn.Module = net
    if rank is not None and kind == "ddp":
        outer = nn.parallel.DistributedDataParallel(net)
    elif rank is not None:
        from torch.distributed.fsdp import fully_shard

        outer = fully_shard(net)
    optimizer = sgd(outer, SEVERAL[kind], momentum=0.9)
    for step in range(12):
        x, y = (part if rank is None else part[rank::2] for part in batch(step))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(outer(x.double()), y)
        (loss + optimizer.penalty() if "loss" in kind else loss).backward()
        optimizer.step()
    full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
    return {"weights": [p.detach().clone() for p in full], "values": optimizer.values()}


def work(rank: int, folder: str) -> None:
    """One of two processes: what it finds, or why it failed, by kind."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for kind in SEVERAL:
        try:
            found[kind] = of_two(kind, rank)
        except Exception as error:
            found[kind] = f"{type(error).__name__}: {error}"
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Not an ordinary exit: on a busy machine a thread of torch's backend may still run, and then it aborts.
    os._exit(0)


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return found_by_both(tmp_path_factory.mktemp("two"), __name__)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store is not for Windows")
@pytest.mark.parametrize("kind", SEVERAL)
def test_two_processes_train_as_one(kind: str, of_both: list[dict[str, Any]]) -> None:
    """Half of each batch on each of two processes, whole or sharded parameters: weights and charges of one process."""
    wanted = of_two(kind, None)
    if kind != "fsdp in the loss":
        assert any((w == 0).any() for w in wanted["weights"] if w.ndim == 2)
    for found in of_both:
        assert not isinstance(found[kind], str), found[kind]
        for a, b in zip(found[kind]["weights"], wanted["weights"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
            assert torch.equal(a == 0, b == 0)
        assert found[kind]["values"] == pytest.approx(wanted["values"])


# Trainers.

HAS_LIGHTNING = importlib.util.find_spec("lightning") is not None
HAS_ACCELERATE = importlib.util.find_spec("accelerate") is not None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIGHTNING, reason="lightning is not installed")
@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    """Automatic optimization with a scheduler, clipping and accumulation; a run that is resumed equals one that is not."""
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self, regularized: bool = True) -> None:
            super().__init__()
            self.net, self.regularized = network(), regularized

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            return loss + self.optimizers().penalty() if self.regularized else loss

        def configure_optimizers(self) -> Any:
            if self.regularized:
                inner = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0)
                terms = [wp.L2(0.3).on(), wp.L1(0.0).on("net.0"), wp.L1(0.0).on("net.3", how="loss")]
                optimizer: Any = wp.regularize(inner, self, terms)
            else:
                optimizer = decayed(self, torch.optim.AdamW, lr=0.01)
            clock = lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=24)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": clock, "interval": "step"}}

    x = torch.cat([batch(i)[0] for i in range(8)])
    y = torch.cat([batch(i)[1] for i in range(8)])
    loader = DataLoader(TensorDataset(x, y), batch_size=16)

    def fit(module: Module, epochs: int, resume: str | None = None) -> Any:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            gradient_clip_val=0.5,
            accumulate_grad_batches=2,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, loader, ckpt_path=resume)
        return trainer

    whole, bare, first, second = Module(), Module(False), Module(), Module()
    trainer = fit(whole, 4)
    fit(bare, 4)
    for a, b in zip(weights_of(whole), weights_of(bare), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert trainer.optimizers[0].steps == 16
    path = str(tmp_path / "half.ckpt")
    fit(first, 2).save_checkpoint(path)
    resumed = fit(second, 4, path)
    assert resumed.optimizers[0].steps == 16
    assert same(weights_of(second), weights_of(whole))
    assert resumed.optimizers[0].audit().rows[0].parameter == "net.0.weight"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ACCELERATE, reason="accelerate is not installed")
@pytest.mark.filterwarnings("ignore")
def test_accelerate(tmp_path: Path) -> None:
    """Prepare, accumulate, clip, save and load. Ask the optimizer that `regularize` gave for its penalty and audit."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader, TensorDataset

    x = torch.cat([batch(i)[0] for i in range(8)])
    y = torch.cat([batch(i)[1] for i in range(8)])

    def parts(seed: int, regularized: bool = True) -> tuple[Any, ...]:
        net = network(seed)
        if regularized:
            optimizer: Any = adam(net, [wp.L2(0.3).on(), wp.L1(0.0).on(), wp.L1(0.0).on("3", how="loss")])
        else:
            optimizer = decayed(net, torch.optim.AdamW, lr=0.01)
        clock = lr_scheduler.StepLR(optimizer, 2)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        loader = DataLoader(TensorDataset(x, y), batch_size=16)
        return accelerator, optimizer, *accelerator.prepare(net, optimizer, loader, clock)

    def epoch(accelerator: Any, ours: Any, net: Any, optimizer: Any, loader: Any, clock: Any) -> None:
        for a, b in loader:
            with accelerator.accumulate(net):
                loss = nn.functional.cross_entropy(net(a), b)
                loss = loss + ours.penalty() if hasattr(ours, "penalty") else loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
                clock.step()
                optimizer.zero_grad()

    one, bare = parts(0), parts(0, regularized=False)
    epoch(*one)
    one[0].save_state(str(tmp_path / "state"))
    epoch(*one)
    epoch(*bare)
    epoch(*bare)
    for a, b in zip(weights_of(one[2]), weights_of(bare[2]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert one[1].steps == 8
    two = parts(1)
    two[0].load_state(str(tmp_path / "state"))
    assert two[1].steps == 4
    epoch(*two)
    assert same(weights_of(one[2]), weights_of(two[2]))
    assert one[1].audit().rows[0].parameter == "0.weight"


def test_refusals_are_one_sentence_of_ours() -> None:
    net = network()
    with pytest.raises(WellposedError, match="regularized already"):
        wp.regularize(sgd(net), net, TERMS)
