"""Lookahead around any optimizer: by hand, with zeros and bounds that hold, resumed, scheduled, skipped."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import wellposed as wp
from wellposed.core.errors import CompositionError, FormatError, InputError
from wellposed.optim.lookahead import Lookahead
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import find_wrapper, unwrap_optimizer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def cost(net: nn.Module, step: int) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 6, generator=draw).double(), torch.randint(0, 3, (16,), generator=draw)
    return nn.functional.cross_entropy(net(x), y)


def train(net: nn.Module, optimizer: Any, steps: int, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        cost(net, step).backward()
        optimizer.step()
    return values(net)


def values(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-12, atol=1e-14) for x, y in zip(a, b, strict=True))


MAKES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.02, fused=True),
}


@pytest.mark.parametrize("name", list(MAKES))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_by_hand(name: str, share: float) -> None:
    """``slow += share*(fast - slow)`` every third step, with the inner optimizer's state kept."""
    net, twin = network(), network()
    optimizer, inner = Lookahead(MAKES[name](net.parameters()), 3, share), MAKES[name](twin.parameters())
    slow = values(twin)
    for step in range(11):
        found, fast = train(net, optimizer, 1, step), train(twin, inner, 1, step)
        if step % 3 == 2:
            slow = [s + share * (f - s) for s, f in zip(slow, fast, strict=True)]
            with torch.no_grad():
                for p, s in zip(twin.parameters(), slow, strict=True):
                    p.copy_(s)
            fast = slow
        assert close(found, fast)
    assert optimizer.count == 11


@pytest.mark.parametrize("every", [1, 4])
def test_share_1_is_the_inner_optimizer_bit_for_bit(every: int) -> None:
    net, twin = network(), network()
    terms = [wp.L1(0.01).on(), wp.MaxNorm(0.8).on()]
    optimizer = Lookahead(wp.regularize(MAKES["adam"](net.parameters()), net, terms), every, 1)
    plain = wp.regularize(MAKES["adam"](twin.parameters()), twin, terms)
    assert same(train(net, optimizer, 9), train(twin, plain, 9))


def test_every_step_with_a_share_is_a_smaller_learning_rate_for_sgd() -> None:
    net, twin = network(), network()
    found = train(net, Lookahead(torch.optim.SGD(net.parameters(), lr=0.2), 1, 0.25), 6)
    assert close(found, train(twin, torch.optim.SGD(twin.parameters(), lr=0.05), 6))


def test_it_is_a_torch_optimizer() -> None:
    net = network()
    inner = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer = Lookahead(inner)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    assert "SGD" in repr(optimizer)
    assert "every=5, share=0.5" in repr(optimizer)
    seen: list[str] = []
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(net, optimizer, 2)
    assert seen == ["after", "after"]
    with pytest.raises(TypeError, match=r"Lookahead is neither pickled nor copied; save optimizer.state_dict\(\)"):
        copy.deepcopy(optimizer)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = optimizer.nothing_like_it


def test_wrappers_are_found_in_a_chain() -> None:
    net = network()
    inner = torch.optim.SGD(net.parameters(), lr=0.1)
    regularized = wp.regularize(inner, net, [wp.L1(0.01).on(how="loss")])
    optimizer = Lookahead(regularized)
    assert find_wrapper(optimizer, Lookahead) is optimizer
    assert find_wrapper(inner, Lookahead) is None
    assert find_wrapper(None, Lookahead) is None
    assert optimizer.terms is regularized.terms
    assert float(optimizer.penalty().detach()) > 0
    assert find_wrapper(optimizer, Regularized) is regularized
    assert unwrap_optimizer(optimizer) is inner


def test_schedulers_reach_the_inner_rate() -> None:
    net = network()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1), 2)
    clock = lr_scheduler.StepLR(optimizer, 3)
    for step in range(4):
        train(net, optimizer, 1, step)
        clock.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.count == 4


def test_zeros_and_bounds_hold_after_a_synchronization() -> None:
    net = network()
    terms = [wp.L1(0.005).on(), wp.MaxNorm(0.5).on()]
    optimizer = Lookahead(wp.regularize(MAKES["adam"](net.parameters()), net, terms), 5, 0.5)
    for _ in range(10):
        train(net, optimizer, 25)
        assert float(net[0].weight.detach().norm(dim=1).max()) <= 0.5 * (1 + 1e-12)
    assert optimizer.count % 5 == 0
    share = float((net[0].weight == 0).double().mean())
    assert 0.1 < share < 1


def one_step(terms: list[Any]) -> list[float]:
    """From (1, 2, 0) by one step to (0, 1, -4), and half of the way back."""
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 2.0, 0.0]]))
    inner: Any = torch.optim.SGD(net.parameters(), lr=1.0)
    optimizer = Lookahead(wp.regularize(inner, net, terms) if terms else inner, 1, 0.5)
    net.weight.grad = torch.tensor([[1.0, 1.0, 4.0]])
    optimizer.step()
    return net.weight[0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("term", [wp.L1(1e-9).on(), wp.TopK(2).on()], ids=lambda term: term.charge.name)
def test_zeros_of_the_fast_weights_stay(term: Any) -> None:
    assert one_step([term]) == [0.0, pytest.approx(1.5), pytest.approx(-2.0)]


@pytest.mark.parametrize(
    "terms",
    [[], [wp.L2(0.0).on()], [wp.L1(0.0).on()], [wp.MaxNorm(9.0).on()], [wp.L1(1.0).on(how="loss")]],
    ids=lambda terms: terms[0].charge.name if terms else "none",
)
def test_where_no_term_makes_zeros_it_ends_where_the_paper_says(terms: list[Any]) -> None:
    """``slow + share*(fast - slow)``, of a fast weight that happens to be 0 too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has not been added to the cost")
        assert one_step(terms) == [0.5, 1.5, -2.0]


def test_constraints_are_projected_again() -> None:
    """Weights that start outside would stay outside if the mix were not projected."""
    net = network()
    assert float(net[0].weight.detach().norm(dim=1).max()) > 0.2
    inner = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.MaxNorm(0.1).on()])
    train(net, Lookahead(inner, 2, 0.5), 2)
    assert float(net[0].weight.detach().norm(dim=1).max()) <= 0.1 * (1 + 1e-12)


def test_what_does_not_move_stays_bit_for_bit() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    before = values(net)
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1), 2, 0.3)
    train(net, optimizer, 6)
    assert torch.equal(net[0].weight, before[0])
    assert not torch.equal(net[0].bias, before[1])


def test_a_layer_that_is_frozen_between_two_synchronizations_stays() -> None:
    net = network()
    optimizer = Lookahead(MAKES["sgd"](net.parameters()), 4, 0.3)
    train(net, optimizer, 2)
    net[0].requires_grad_(False)
    frozen, free = net[0].weight.detach().clone(), net[2].weight.detach().clone()
    train(net, optimizer, 2, 2)
    assert torch.equal(net[0].weight, frozen)
    assert not torch.equal(net[2].weight, free)
    net[0].requires_grad_(True)
    train(net, optimizer, 4, 4)
    assert not torch.equal(net[0].weight, frozen)


@pytest.mark.parametrize("at", [3, 5, 7])
@pytest.mark.parametrize("regularized", [False, True])
def test_a_resumed_optimizer_continues(at: int, regularized: bool, tmp_path: Any) -> None:
    def make(net: nn.Module) -> Lookahead:
        inner = MAKES["adam"](net.parameters())
        return Lookahead(wp.regularize(inner, net, [wp.L1(0.01).on()]) if regularized else inner, 5, 0.4)

    net, other = network(), network()
    optimizer = make(net)
    train(net, optimizer, at)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    wanted = train(net, optimizer, 9, at)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    train(other, torch.optim.SGD(other.parameters(), lr=1.0), 2)
    resumed = make(other)
    resumed.load_state_dict(saved["optimizer"])
    other.load_state_dict(saved["net"])
    assert same(train(other, resumed, 9, at), wanted)
    assert resumed.count == at + 9
    assert len(saved["optimizer"]["lookahead"]["slow"]) == (0 if at % 5 == 0 else 4)


def test_states_of_the_inner_optimizer_go_both_ways() -> None:
    net = network()
    inner = torch.optim.Adam(net.parameters(), lr=0.02)
    train(net, inner, 3)
    optimizer = Lookahead(torch.optim.Adam(net.parameters(), lr=0.5))
    optimizer.load_state_dict(inner.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.02
    torch.optim.Adam(net.parameters()).load_state_dict(optimizer.state_dict())
    with pytest.raises(FormatError, match="schema 7; schema 1 can be loaded"):
        optimizer.load_state_dict({**optimizer.state_dict(), "lookahead": {"schema": 7}})


def test_a_step_that_the_scaler_skips_is_not_counted() -> None:
    net = network()
    optimizer = Lookahead(torch.optim.AdamW(net.parameters(), lr=0.1, fused=True), 2, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = values(net)
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(cost(net, 0) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor != 1.0:
            assert same(values(net), before)
            assert optimizer.count == 0
    assert optimizer.count == 1
    assert not same(values(net), before)


def test_closures() -> None:
    net, twin = network(), network()
    optimizer, other = (Lookahead(MAKES["sgd"](n.parameters()), 2) for n in (net, twin))
    for step in range(5):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = cost(net, step)
            loss.backward()
            return loss

        assert float(optimizer.step(closure).detach()) == float(cost(twin, step).detach())
        train(twin, other, 1, step)
    assert same(values(net), values(twin))


def test_a_group_that_joins_between_two_synchronizations() -> None:
    net = network()
    optimizer = Lookahead(torch.optim.SGD(net[0].parameters(), lr=0.1), 3, 0.5)
    train(net, optimizer, 2)
    before = net[2].weight.detach().clone()
    optimizer.add_param_group({"params": list(net[2].parameters())})
    net.zero_grad()
    cost(net, 2).backward()
    slope = net[2].weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(net[2].weight.detach(), before - 0.05 * slope)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every= to be a whole number >= 1; it was given 0"),
        ({"every": 2.0}, "every= to be a whole number >= 1; it was given 2.0"),
        ({"every": True}, "every= to be a whole number >= 1; it was given True"),
        ({"share": 0.0}, r"share= to be a number in \(0, 1\]; it was given 0.0"),
        ({"share": 1.5}, r"share= to be a number in \(0, 1\]"),
        ({"share": float("nan")}, r"share= to be a number in \(0, 1\]; it was given nan"),
    ],
)
def test_impossible_settings(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Lookahead(torch.optim.SGD(network().parameters(), lr=0.1), **settings)


def test_what_cannot_be_wrapped() -> None:
    net = network()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(CompositionError, match="looks ahead already"):
        Lookahead(optimizer)
    with pytest.raises(CompositionError, match="LBFGS remembers"):
        Lookahead(torch.optim.LBFGS(net.parameters()))
    with pytest.raises(InputError, match="optimizer= to be a torch optimizer; it was given Sequential"):
        Lookahead(net)  # type: ignore[arg-type]


def test_regularize_goes_inside() -> None:
    net = network()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(CompositionError, match=r"Wrap the other way round: Lookahead\(regularize"):
        wp.regularize(optimizer, net, [wp.L1(0.1).on()])


# Wrong ones, each caught by a test above.


class NeverZero(Lookahead):
    """Mixes zeros with what they were."""

    def synchronize(self) -> None:
        with torch.no_grad():
            for fast, slow in self._slow.items():
                fast.lerp_(slow, 1 - self.share)
        self._slow = {}


class AlwaysZero(Lookahead):
    """Keeps every zero of the fast weights, whether a term made it or not."""

    def synchronize(self) -> None:
        zeros = [(fast, fast == 0) for fast in self._slow]
        super().synchronize()
        with torch.no_grad():
            for fast, zero in zeros:
                fast.masked_fill_(zero, 0.0)


class MovesFrozen(Lookahead):
    """Mixes what is frozen by now."""

    def synchronize(self) -> None:
        frozen = [fast.requires_grad_(True) for fast in self._slow if not fast.requires_grad]
        super().synchronize()
        for fast in frozen:
            fast.requires_grad_(False)


class NotProjected(Lookahead):
    """Does not project after mixing."""

    def synchronize(self) -> None:
        inner, self.optimizer = self.optimizer, bare_of(self.optimizer)
        try:
            super().synchronize()
        finally:
            self.optimizer = inner


def bare_of(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)


class WrongWay(Lookahead):
    """Keeps ``share`` of the slow weights."""

    def synchronize(self) -> None:
        share, self.share = self.share, 1.0 - self.share
        super().synchronize()
        self.share = share


class SlowFromTheStart(Lookahead):
    """Never moves the slow weights."""

    def synchronize(self) -> None:
        kept = dict(self._slow)
        super().synchronize()
        self._slow = kept

    def step(self, closure: Any = None) -> Any:
        kept = dict(self._slow)
        if self.count % self.every == 0 and kept:
            self.count += self.every * 1000 + 1
            result = super().step(closure)
            self.count -= self.every * 1000 + 1
            return result
        return super().step(closure)


class ForgetsSlow(Lookahead):
    """A checkpoint without the slow weights."""

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["lookahead"]["slow"] = {}
        return state


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (NeverZero, lambda: test_zeros_of_the_fast_weights_stay(wp.L1(1e-9).on())),
        (AlwaysZero, lambda: test_where_no_term_makes_zeros_it_ends_where_the_paper_says([])),
        (MovesFrozen, test_a_layer_that_is_frozen_between_two_synchronizations_stays),
        (NotProjected, test_constraints_are_projected_again),
        (WrongWay, lambda: test_by_hand("sgd", 0.3)),
        (SlowFromTheStart, lambda: test_by_hand("sgd", 0.5)),
    ],
)
def test_a_wrong_lookahead_is_caught(mutant: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Lookahead", mutant)
    with pytest.raises(AssertionError):
        check()


def test_a_checkpoint_without_slow_weights_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(globals(), "Lookahead", ForgetsSlow)
    with pytest.raises(AssertionError):
        test_a_resumed_optimizer_continues(3, False, tmp_path)
