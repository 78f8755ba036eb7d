"""`audit` of any optimizer: what its own decay does is found by a trial, and how long it remembers is said."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.optim.own_decay import try_decay

LR, DECAY = 0.01, 0.1


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


class Own(torch.optim.Optimizer):
    """An optimizer that nobody here knows: its decay as ``rule`` says, its step by the sign of the gradient or as it is."""

    def __init__(self, params: Any, rule: str, weight_decay: float = DECAY) -> None:
        self.rule = rule
        super().__init__(params, {"lr": LR, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                with torch.no_grad():
                    decay = group["weight_decay"] * p
                    g = p.grad + (decay if self.rule == "sign" else 0)
                    p.sub_(group["lr"] * (g.sign() if self.rule == "sign" else g))
                    if self.rule in ("lr", "apart"):
                        p.sub_(decay * (group["lr"] if self.rule == "lr" else 1.0))


optim = torch.optim
KINDS: list[tuple[str, Any, str, float]] = [
    ("AdamW", lambda p: optim.AdamW(p, LR, weight_decay=DECAY), "decoupled", LR * DECAY),
    ("Adam", lambda p: optim.Adam(p, LR, weight_decay=DECAY), "adaptive", math.nan),
    (
        "Adam, decoupled",
        lambda p: optim.Adam(p, LR, weight_decay=DECAY, decoupled_weight_decay=True),
        "decoupled",
        LR * DECAY,
    ),
    ("RMSprop", lambda p: optim.RMSprop(p, LR, weight_decay=DECAY), "adaptive", math.nan),
    ("SGD", lambda p: optim.SGD(p, LR, weight_decay=DECAY), "decoupled", LR * DECAY),
    ("momentum", lambda p: optim.SGD(p, LR, momentum=0.9, weight_decay=DECAY), "coupled", 10 * LR * DECAY),
    ("no decay", lambda p: optim.AdamW(p, LR, weight_decay=0.0), "none", math.nan),
    ("own, by the rate", lambda p: Own(p, "lr"), "decoupled", LR * DECAY),
    ("own, apart", lambda p: Own(p, "apart"), "decoupled", DECAY),
    ("own, in the sign", lambda p: Own(p, "sign"), "adaptive", math.nan),
    ("own, unused", lambda p: Own(p, "none"), "none", math.nan),
]


@pytest.mark.parametrize(("make", "kind", "share"), [case[1:] for case in KINDS], ids=[case[0] for case in KINDS])
def test_what_a_decay_does_is_found_by_a_trial(make: Any, kind: str, share: float, net: nn.Module) -> None:
    optimizer = make(net.parameters())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = try_decay(optimizer, optimizer.param_groups[0])
    assert found.kind == kind
    assert found.share == pytest.approx(share, rel=1e-6, nan_ok=True)
    assert not optimizer.state
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_memory_is_how_long_a_weight_without_gradient_takes_to_shrink(net: nn.Module) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=DECAY)
    steps = 1.0 / try_decay(optimizer, optimizer.param_groups[0]).share
    weight = net[0].weight.detach().clone()
    for _ in range(round(steps)):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(
        net[0].weight.detach() / weight, torch.full_like(weight, math.exp(-1)), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize(
    ("decay", "epochs", "says"),
    [(0.1, 30, "are 10 epochs."), (10.0, 30, "less than an epoch"), (0.01, 30, "longer than the run of 30 epochs")],
)
def test_a_memory_outside_the_run_is_warned_of(decay: float, epochs: float, says: str, net: nn.Module) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=decay)
    assert says in wp.audit(optimizer, net, steps_per_epoch=100, epochs=epochs).notes[-1]


def test_terms_and_the_optimizers_own_decay_have_one_audit(net: nn.Module) -> None:
    bare = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.0)
    optimizer = wp.regularize(bare, net, [wp.L2(DECAY).on(wp.weights)])
    assert wp.audit(optimizer, net).rows == optimizer.audit().rows
    assert "2 parameters over about 1,000 steps" in wp.audit(optimizer, net).notes[-1]
    own = {row.parameter: row for row in wp.audit(Own(net.parameters(), "apart"), net).rows}
    assert own["0.weight"].how == "decay"
    assert len(own) == 4
    with pytest.raises(InputError, match="no parameter of this model"):
        wp.audit(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), net)


@pytest.mark.parametrize(
    ("source", "target"), [("torch", "composer"), ("timm", "keras"), ("composer", "timm"), ("pat", "independent")]
)
def test_a_translated_decay_takes_as_much_off_and_back_again(source: str, target: str) -> None:
    there = wp.translate_decay(0.3, source, target, lr=0.01, largest=0.04)
    assert wp.translate_decay(there, target, source, lr=0.01, largest=0.04) == pytest.approx(0.3)
    shares = {"torch": 0.01, "keras": 0.01, "pat": 0.01, "composer": 1.0, "independent": 1.0, "timm": 0.01**2 / 0.04}
    assert there * shares[target] == pytest.approx(0.3 * shares[source])
    with pytest.raises(InputError, match="Did you mean 'torch'"):
        wp.translate_decay(0.3, "toch", target, lr=0.01)


@pytest.mark.parametrize("rates", [{"lr": 1e-310}, {"lr": 1e308}, {"lr": 1e-300, "largest": 1e300}], ids=str)
def test_rates_beyond_numbers_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(InputError, match="too small or too large"):
        wp.translate_decay(0.3, "torch", "timm", **rates)


def test_an_optimizer_without_a_rate_is_refused() -> None:
    class NoRate(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    net = nn.Linear(2, 1)
    with pytest.raises(InputError, match="have no 'lr'"):
        wp.audit(NoRate(net.parameters()), net)
