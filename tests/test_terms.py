"""Terms in `regularize` that carry something along: schedules, multipliers, references, activations, several tensors."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import CompositionError, InputError, SelectorError


def quadratic(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A strongly convex least-squares problem: its Gram matrix and its right side."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 6, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([[2.0], [-1.5], [1.0], [0.5], [0.0], [0.0]], dtype=torch.float64)
    y = y + 0.3 * torch.randn(50, 1, generator=draw, dtype=torch.float64)
    return 2 / 50 * x.T @ x, 2 / 50 * y.T @ x


def descend(optimizer: Any, net: nn.Linear, steps: int, falling: bool = False) -> Tensor:
    """Full-batch steps on the quadratic; the gradient that is left."""
    gram, right = quadratic()
    first = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * (min(1.0, 1e-4 ** (3 * step / steps - 2)) if falling else 1.0)
        net.weight.grad = net.weight.detach() @ gram - right
        optimizer.step()
    return net.weight.detach() @ gram - right


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 1, bias=False, dtype=torch.float64)


def test_a_schedule_multiplies_the_strength_at_each_step() -> None:
    seen: list[int] = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 0.0 if step < 5 else 1.0

    plain, scheduled, always = linear(), linear(), linear()
    bare = torch.optim.SGD(plain.parameters(), lr=0.1)
    term = wp.L1(0.4).on(schedule=schedule)
    optimizer = wp.regularize(torch.optim.SGD(scheduled.parameters(), lr=0.1), scheduled, term)
    full = wp.regularize(torch.optim.SGD(always.parameters(), lr=0.1), always, wp.L1(0.4).on())
    for one, net in ((bare, plain), (optimizer, scheduled), (full, always)):
        descend(one, net, 5)
    assert torch.equal(plain.weight, scheduled.weight)
    assert not torch.equal(plain.weight, always.weight)
    for one, net in ((optimizer, scheduled), (full, always)):
        descend(one, net, 400)
    torch.testing.assert_close(scheduled.weight, always.weight, rtol=1e-12, atol=1e-14)
    assert set(range(400)) <= set(seen)
    assert "scheduled" in str(term)
    assert "scheduled" in str(optimizer.audit())


@pytest.mark.parametrize("how", ["loss", "decay", "prox"])
def test_every_enforcement_follows_a_schedule(how: Any) -> None:
    nets = [linear(), linear()]
    terms = [wp.L2(0.4).on(how=how, schedule=lambda step: 0.5), wp.L2(0.2).on(how=how)]
    for net, term in zip(nets, terms, strict=True):
        optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, term)
        gram, right = quadratic()
        for _ in range(20):
            optimizer.zero_grad()
            penalty = optimizer.penalty()
            if penalty.requires_grad:
                penalty.backward()
            gradient = net.weight.detach() @ gram - right
            net.weight.grad = gradient if net.weight.grad is None else net.weight.grad + gradient
            optimizer.step()
    torch.testing.assert_close(nets[0].weight, nets[1].weight, rtol=1e-12, atol=0)


def test_a_bound_follows_a_schedule() -> None:
    net = linear()
    optimizer = wp.regularize(
        torch.optim.SGD(net.parameters(), lr=0.1),
        net,
        wp.L2Ball(1.0).on(schedule=lambda step: 2.0 if step < 3 else 0.5),
    )
    descend(optimizer, net, 3)
    assert 0.5 < float(net.weight.detach().norm()) <= 2.0 + 1e-12
    descend(optimizer, net, 1)
    assert float(net.weight.detach().norm()) == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_a_schedule_gives_a_factor(factor: float) -> None:
    net = linear()
    with pytest.raises(InputError, match="finite factor >= 0; at step 0"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.L1(0.1).on(schedule=lambda step: factor))
    with pytest.raises(InputError, match=r"wp.ramp\(1000\); 3 is none"):
        wp.L1(0.1).on(schedule=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is none"):
        wp.L1(0.1).on(schedule=wp.ramp)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no strength and no bound"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.NonNegative().on(schedule=lambda step: 1.0))


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
}


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_norm_bound_finds_its_multiplier(name: str) -> None:
    """At rest ``grad + multiplier*w = 0`` on the bound; L2 with that strength comes to the same weights."""
    net = linear()
    optimizer = wp.regularize(MAKERS[name](net.parameters()), net, wp.NormBound(1.5).on())
    grad = descend(optimizer, net, 4000, falling=True)
    w = net.weight.detach()
    (multiplier,) = optimizer.state_dict()["wellposed"]["multipliers"].values()
    assert float(w.norm()) == pytest.approx(1.5, rel=1e-6)
    assert float(multiplier) > 0.1
    torch.testing.assert_close(grad, -float(multiplier) * w, rtol=1e-5, atol=1e-7)
    gram, right = quadratic()
    ridge = torch.linalg.solve(gram + float(multiplier) * torch.eye(6, dtype=torch.float64), right.T).T
    torch.testing.assert_close(w, ridge, rtol=1e-5, atol=1e-7)


def test_a_bound_that_does_not_bind_has_multiplier_0() -> None:
    net = linear()
    optimizer = wp.regularize(MAKERS["sgd"](net.parameters()), net, wp.NormBound(100.0).on())
    assert float(descend(optimizer, net, 2000).abs().max()) < 1e-9
    (multiplier,) = optimizer.state_dict()["wellposed"]["multipliers"].values()
    assert float(multiplier) == 0.0


def test_a_bound_may_be_the_norm_after_some_steps() -> None:
    net = linear()
    optimizer = wp.regularize(MAKERS["sgd"](net.parameters()), net, wp.NormBound(warm_steps=3).on())
    descend(optimizer, net, 3)
    warm = float(net.weight.detach().norm())
    descend(optimizer, net, 3000)
    (bound,) = optimizer.state_dict()["wellposed"]["norms"].values()
    # The bound is taken as the fourth step is made, before its proximal part.
    assert bound >= warm
    assert float(net.weight.detach().norm()) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("name", ["momentum", "adam"])
@pytest.mark.parametrize(
    "terms",
    [
        [wp.NormBound(1.0).on()],
        [wp.NormBound(warm_steps=5).on()],
        [wp.L2SP(0.3).on(), wp.L1(0.05).on()],
        [wp.L1SP(0.1).on()],
        [wp.GroupL2(0.1, by="input").on()],
        [wp.L1(0.2).on(schedule=wp.ramp(30))],
    ],
    ids=lambda terms: terms[0].charge.name,
)
def test_what_a_term_carries_is_in_the_state(name: str, terms: list[Any], tmp_path: Any) -> None:
    net = linear()
    optimizer = wp.regularize(MAKERS[name](net.parameters()), net, terms)
    descend(optimizer, net, 20)
    torch.save([net.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    descend(optimizer, net, 20)

    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(1)
    other = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    resumed = wp.regularize(MAKERS[name](other.parameters()), other, terms)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    descend(resumed, other, 20)
    assert torch.equal(other.weight, net.weight)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_penalties_of_functions_reach_the_loss() -> None:
    net, x = network(), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    terms = [wp.ActivationL1(0.1).on(nn.ReLU), wp.Confidence(0.2).on(), wp.L2(0.3).on(how="loss")]
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, terms)
    outputs = net(x)
    found = optimizer.penalty(outputs)
    hidden = net[1](net[0](x))
    p = outputs.softmax(1)
    wanted = 0.1 * hidden.abs().sum(1).mean()
    wanted = wanted + 0.2 * (torch.log(torch.tensor(3.0)) + (p * p.log()).sum(1).mean())
    wanted = wanted + 0.15 * sum(layer.weight.square().sum() for layer in (net[0], net[2]))
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert all(p.grad is not None for p in net.parameters())
    rows = {row.term: row for row in optimizer.audit().rows}
    assert rows["ActivationL1(strength=0.1)"].parameter == "ReLU"
    assert rows["ActivationL1(strength=0.1)"].role == "function"


def test_a_missing_piece_is_asked_for() -> None:
    net, x = network(), torch.randn(8, 4)

    def made(term: Any) -> Any:
        return wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, term)

    with pytest.raises(InputError, match=r"Confidence needs the outputs .* optimizer.penalty\(outputs\)"):
        made(wp.Confidence(0.1).on()).penalty()
    with pytest.raises(InputError, match=r"Jacobian needs the inputs .*requires_grad_"):
        made(wp.Jacobian(0.1).on()).penalty(net(x))
    with pytest.raises(InputError, match="differentiates with respect to the inputs"):
        made(wp.Jacobian(0.1).on()).penalty(net(x), inputs=x)
    with pytest.raises(InputError, match="Consistency needs the reference"):
        made(wp.Consistency(0.1).on()).penalty(net(x))
    with pytest.raises(InputError, match="Run the model in training mode"):
        made(wp.ActivationL2(0.1).on("1")).penalty(net.eval()(x))
    net.train()
    with pytest.raises(InputError, match="ActivationL1 needs modules"):
        wp.ActivationL1(0.1).on()
    with pytest.raises(InputError, match=r"write .on\(\) without a selector"):
        wp.Confidence(0.1).on("0")
    with pytest.raises(SelectorError, match="matches no module"):
        made(wp.ActivationL1(0.1).on("encoder.*"))


@pytest.mark.filterwarnings("ignore:.*has not been added to the cost")
def test_what_was_recorded_goes_with_the_step_and_the_hooks_with_the_optimizer() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.ActivationL1(0.1).on("1"))
    output = weakref.ref(net(torch.randn(2, 4)))
    optimizer.step()
    gc.collect()
    assert output() is None
    assert len(net[1]._forward_hooks) == 1
    del optimizer
    gc.collect()
    assert not net[1]._forward_hooks


def test_tensors_that_are_tied_die_together() -> None:
    net = network()
    charge = wp.TiedGroups(0.05, axes={"0.weight": "unit", "0.bias": "unit", "2.weight": "input"})
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, charge.on())
    assert optimizer.values()[str(charge.on())] > 0
    for step in range(500):
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    gone = (net[0].weight == 0).all(1)
    assert 0 < int(gone.sum()) < 6
    assert torch.equal(gone, (net[2].weight == 0).all(0))
    assert not bool(net[0].bias[gone].any())


def test_coupled_terms_are_refused_beside_others() -> None:
    net = network()
    charge = wp.TiedGroups(0.05, axes={"0.weight": "unit", "2.weight": "input"})

    def made(*terms: Any) -> Any:
        return wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, list(terms))

    for other in (wp.L1(0.1).on("0"), wp.MaxNorm(1.0).on("2"), charge.on()):
        with pytest.raises(CompositionError, match="no proven joint proximal step"):
            made(charge.on(), other)
    made(charge.on(), wp.L2(0.1).on())  # decay comes before the step
    made(charge.on(), wp.L1(0.1).on(how="loss"))
    with pytest.raises(SelectorError, match=r"needs one parameter for '\*.weight'"):
        made(wp.TiedGroups(0.05, axes={"*.weight": "unit", "0.bias": "unit"}).on())
    with pytest.raises(SelectorError, match="Give skip= and first="):
        made(wp.Hierarchical(0.1).on())
    with pytest.raises(SelectorError, match="Give skip= and first="):
        made(wp.Hierarchical(0.1, first="0.weight").on())


def test_hooks_after_the_step_see_what_is_left() -> None:
    net = linear()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.L1(100.0).on())
    seen: list[float] = []
    handle = optimizer.register_step_post_hook(lambda *_: seen.append(float(net.weight.detach().abs().sum())))
    descend(optimizer, net, 1)
    handle.remove()
    descend(optimizer, net, 1)
    assert seen == [0.0]


def test_a_penalty_that_is_never_asked_for_is_warned_of_once() -> None:
    net = linear()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.L1(0.1).on(how="loss"))
    with pytest.warns(UserWarning, match=r"L1\(strength=0.1\) on weights by loss has not been added to the cost"):
        descend(optimizer, net, 1)
    descend(optimizer, net, 2)  # warnings are errors here
    asked = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, wp.L1(0.1).on(how="loss"))
    asked.penalty()
    descend(asked, net, 2)
