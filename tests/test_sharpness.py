"""SAM in anybody's loop: the right point, the right gradient, and everything else as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.optim import sharpness
from wellposed.optim.sharpness import SAM


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def network(norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)).double()


def batch(step: int = 0, rows: int = 16) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.randn(rows, 6, generator=draw).double(), torch.randint(0, 3, (rows,), generator=draw)


def cost(net: nn.Module, step: int = 0) -> Tensor:
    x, y = batch(step)
    return nn.functional.cross_entropy(net(x), y)


def values(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def gradients(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-12) -> bool:
    return all(torch.allclose(x, y, rtol=tolerance, atol=tolerance * 1e-2) for x, y in zip(a, b, strict=True))


def by_hand(
    net: nn.Module, radius: float, adaptive: bool = False, eta: float = 0.01
) -> tuple[list[Tensor], list[Tensor]]:
    """``e(w)`` and the gradient at ``w + e(w)``, on a copy."""
    twin = copy.deepcopy(net)
    cost(twin).backward()
    scales = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in twin.parameters()]
    norm = sum(float((s * g).square().sum()) for s, g in zip(scales, gradients(twin), strict=True)) ** 0.5
    moves = [radius * s * s * g / norm for s, g in zip(scales, gradients(twin), strict=True)]
    with torch.no_grad():
        for p, move in zip(twin.parameters(), moves, strict=True):
            p.add_(move)
    twin.zero_grad()
    cost(twin).backward()
    return moves, gradients(twin)


def test_direction_and_length_on_a_quadratic() -> None:
    """The gradient of ``sum h w^2/2`` at (3, 4)/h is (3, 4), of norm 5: the step is radius * (0.6, 0.8)."""
    h = torch.tensor([1.0, 100.0], dtype=torch.float64)
    net = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 4.0]]) / h)
    w = net.weight.detach().clone()
    (0.5 * h * net.weight.square()).sum().backward()
    with SAM(net, radius=0.1).ascended():
        torch.testing.assert_close(
            net.weight.detach() - w, torch.tensor([[0.06, 0.08]], dtype=w.dtype), rtol=1e-12, atol=0
        )
        assert net.weight.grad is None
        (0.5 * h * net.weight.square()).sum().backward()
    torch.testing.assert_close(net.weight.grad, torch.tensor([[3.06, 12.0]], dtype=w.dtype), rtol=1e-12, atol=0)
    assert torch.equal(net.weight, w)


def test_adaptive_direction_and_length_by_hand() -> None:
    """w = (1, 2), g = (3, 4), eta = 0: T g = (3, 8), |T g| = sqrt(73), e = radius*(3, 16)/sqrt(73)."""
    net = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0]]))
    net.weight.grad = torch.tensor([[3.0, 4.0]]).double()
    w = net.weight.detach().clone()
    with SAM(net, radius=0.5, adaptive=True, eta=0.0).ascended():
        wanted = 0.5 * torch.tensor([[3.0, 16.0]]).double() / 73**0.5
        torch.testing.assert_close(net.weight.detach() - w, wanted, rtol=1e-12, atol=0)
        # On the boundary of |e/T| <= radius.
        assert float(((net.weight.detach() - w) / w.abs()).norm()) == pytest.approx(0.5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_gradient_is_that_at_the_ascended_point(adaptive: bool) -> None:
    net = network()
    before = values(net)
    moves, wanted = by_hand(net, 0.3, adaptive)
    cost(net).backward()
    with SAM(net, 0.3, adaptive).ascended():
        found = [p - w for p, w in zip(values(net), before, strict=True)]
        cost(net).backward()
    assert close(found, moves, 1e-9)
    assert close(gradients(net), wanted)
    assert same(values(net), before)


def test_no_point_of_the_ball_has_a_larger_linearized_loss() -> None:
    net = network()
    cost(net).backward()
    slope, before = gradients(net), values(net)
    for adaptive in (False, True):
        with SAM(net, 0.2, adaptive, eta=0.05).ascended():
            moves = [p - w for p, w in zip(values(net), before, strict=True)]
        for p, g in zip(net.parameters(), slope, strict=True):
            p.grad = g.clone()
        scales = [w.abs() + 0.05 if adaptive else torch.ones_like(w) for w in before]
        best = sum(float((m * g).sum()) for m, g in zip(moves, slope, strict=True))
        assert sum(float((m / s).square().sum()) for m, s in zip(moves, scales, strict=True)) ** 0.5 == pytest.approx(
            0.2
        )
        for _ in range(100):
            rivals = [torch.randn_like(w) for w in before]
            size = sum(float(r.square().sum()) for r in rivals) ** 0.5
            rise = sum(float((0.2 / size * s * r * g).sum()) for s, r, g in zip(scales, rivals, slope, strict=True))
            assert rise < best


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 7.0, 65536.0, 1e30])
def test_the_scale_of_the_loss_does_not_matter(factor: float) -> None:
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        points = []
        for scale in (1.0, factor):
            net = network().to(dtype)
            for i, p in enumerate(net.parameters()):
                p.grad = scale * torch.sin(torch.arange(p.numel(), dtype=dtype) + i).view_as(p)
            with SAM(net).ascended():
                points.append(values(net))
        assert close(*points, tolerance)
        assert not same(points[0], values(network().to(dtype)))


def test_adaptive_is_invariant_to_how_scale_is_spread() -> None:
    """Rescaling a ReLU layer by c and the next by 1/c leaves the network and, with eta 0, the ascended loss unchanged."""

    def ascended_loss(c: float, adaptive: bool) -> float:
        net = network()
        with torch.no_grad():
            net[0].weight.mul_(c)
            net[0].bias.mul_(c)
            net[3].weight.div_(c)
        cost(net).backward()
        with SAM(net, 0.3, adaptive, eta=0.0).ascended():
            return float(cost(net).detach())

    assert ascended_loss(7.0, True) == pytest.approx(ascended_loss(1.0, True), rel=1e-12)
    assert abs(ascended_loss(7.0, False) - ascended_loss(1.0, False)) > 1e-3


def sam_step(net: nn.Module, sam: SAM, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    cost(net, step).backward()
    with sam.ascended():
        cost(net, step).backward()
    optimizer.step()


@pytest.mark.parametrize("norm", [False, True])
def test_radius_0_is_plain_training_bit_for_bit(norm: bool) -> None:
    plain, net = network(norm), network(norm)
    one, two = (torch.optim.Adam(n.parameters(), lr=0.01) for n in (plain, net))
    for step in range(5):
        one.zero_grad()
        cost(plain, step).backward()
        one.step()
        sam_step(net, SAM(net, 0.0), two, step)
    assert same(values(net), values(plain))
    assert same(list(net.buffers()), list(plain.buffers()))
    sam_step(net, SAM(net, 0.5), two, 5)
    assert not same(values(net), values(plain))


def test_accumulation_is_one_large_batch() -> None:
    found = []
    for parts in (1, 4):
        net = network()
        sam, optimizer = SAM(net, 0.3), torch.optim.SGD(net.parameters(), lr=0.1)
        x, y = batch(0)
        pairs = list(zip(x.chunk(parts), y.chunk(parts), strict=True))

        def backward(net: nn.Module = net, pairs: Any = pairs, parts: int = parts) -> None:
            for a, b in pairs:
                (nn.functional.cross_entropy(net(a), b) / parts).backward()

        backward()
        with sam.ascended():
            backward()
        optimizer.step()
        found.append(values(net))
    assert close(*found)


def test_clipping_comes_after_the_second_pass() -> None:
    net = network()
    _, wanted = by_hand(net, 0.3)
    size = sum(float(g.square().sum()) for g in wanted) ** 0.5
    cost(net).backward()
    with SAM(net, 0.3).ascended():
        cost(net).backward()
    assert float(nn.utils.clip_grad_norm_(net.parameters(), 0.1 * size)) == pytest.approx(size)
    assert close(gradients(net), [0.1 * g for g in wanted], 1e-5)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=None)])
def test_batch_norm_sees_the_first_pass_only(layer: nn.Module) -> None:
    net = network()
    net.insert(1, copy.deepcopy(layer).double())
    twin = copy.deepcopy(net)
    for step in range(3):
        cost(twin, step)
        net.zero_grad()
        cost(net, step).backward()
        with SAM(net, 0.5).ascended():
            cost(net, step).backward()
    assert int(net[1].num_batches_tracked) == 3
    assert same(list(net.buffers()), list(twin.buffers()))
    assert net[1].momentum == layer.momentum
    assert net.training


def test_a_buffer_that_is_replaced_in_the_forward_pass_comes_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return x * self.w

    net = Counts()
    net(torch.ones(2)).sum().backward()
    kept = net.calls
    with SAM(net).ascended():
        net(torch.ones(2)).sum().backward()
    assert net.calls is kept
    assert float(kept) == 1


def test_weights_come_back_after_an_exception() -> None:
    net = network(norm=True)
    before = values(net)
    cost(net).backward()
    buffers = [b.clone() for b in net.buffers()]
    seen = []

    def fails() -> None:
        with SAM(net, 0.5).ascended():
            seen.append(same(values(net), before))
            cost(net, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert seen == [False]
    assert same(values(net), before)
    assert same(list(net.buffers()), buffers)


def test_parameters_without_gradients_and_frozen_ones_stay() -> None:
    net = network()
    net[0].requires_grad_(False)
    before = values(net)
    cost(net).backward()
    with SAM(net, 0.5).ascended():
        moved = [not torch.equal(p, w) for p, w in zip(values(net), before, strict=True)]
        cost(net).backward()
    assert moved == [False, False, True, True]
    assert net[0].weight.grad is None
    # Without a gradient although it could have one.
    net = network()
    before = values(net)
    net[3](torch.randn(4, 8).double()).sum().backward()
    with SAM(net, 0.5).ascended():
        assert [not torch.equal(p, w) for p, w in zip(values(net), before, strict=True)] == [False, False, True, True]


def test_tied_weights_move_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    before = net[0].weight.detach().clone()
    net(torch.randn(5, 3)).square().sum().backward()
    with SAM(net, 0.25).ascended():
        assert float((net[0].weight.detach() - before).norm()) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_a_gradient_without_a_direction_does_not_move(value: float) -> None:
    net = network()
    before = values(net)
    for p in net.parameters():
        p.grad = torch.full_like(p, value)
    with SAM(net, 0.5).ascended():
        assert same(values(net), before)
        cost(net).backward()
    twin = network()
    cost(twin).backward()
    assert same(gradients(net), gradients(twin))


@pytest.mark.parametrize(
    "terms", [[], [wp.L2(0.1).on(), wp.L1(0.01).on(), wp.MaxNorm(0.5).on()]], ids=["bare", "terms"]
)
def test_scaled_training_is_training(terms: list[Any]) -> None:
    """Scaled gradients ascend to the same point, and a step that the scaler skips changes nothing."""
    found = []
    for scaled in (False, True):
        net = network(norm=True)
        sam, optimizer = (
            SAM(net, 0.2),
            wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net, terms),
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale(cost(net, step)).backward()
            with sam.ascended():
                scaler.scale(cost(net, step)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        found.append(values(net))
    assert close(*found, 1e-9)


@pytest.mark.parametrize("overflows", [(True, True), (False, True), (True, False)], ids=str)
def test_infinities_under_a_scaler(overflows: tuple[bool, bool]) -> None:
    net = network()
    sam, optimizer = SAM(net, 0.2), torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = values(net)
    first, second = (float("inf") if over else 1.0 for over in overflows)
    scaler.scale(cost(net) * first).backward()
    with sam.ascended():
        assert same(values(net), before) is overflows[0]
        scaler.scale(cost(net) * second).backward()
    scaler.step(optimizer)
    scaler.update()
    if overflows[1]:
        assert same(values(net), before)
        assert scaler.get_scale() == 2.0
    else:  # the plain gradient at w, from the second pass
        twin = network()
        cost(twin).backward()
        assert close(values(net), [w - 0.1 * g for w, g in zip(before, gradients(twin), strict=True)])


def test_terms_act_once_and_zeros_stay() -> None:
    """Decay, prox and projection happen in the step: SAM with a gradient given by hand is the plain step with it."""
    net, twin = network(), network()
    terms = [wp.L2(0.2).on(), wp.L1(0.3).on(), wp.MaxNorm(0.4).on()]
    optimizers = [wp.regularize(torch.optim.SGD(n.parameters(), lr=0.1), n, terms) for n in (net, twin)]
    for _ in range(3):
        _, wanted = by_hand(twin, 0.1)
        for p, g in zip(twin.parameters(), wanted, strict=True):
            p.grad = g
        optimizers[1].step()
        optimizers[0].zero_grad()
        cost(net).backward()
        with SAM(net, 0.1).ascended():
            cost(net).backward()
        optimizers[0].step()
    assert close(values(net), values(twin), 1e-10)
    assert (net[0].weight == 0).any()
    zeros = net[0].weight == 0
    with SAM(net, 0.1).ascended():
        pass
    assert torch.equal(net[0].weight == 0, zeros)


def test_dropout_draws_again_and_nothing_else() -> None:
    net = network(dropout=0.5)
    cost(net).backward()
    first = gradients(net)
    with SAM(net, 0.0).ascended():
        cost(net).backward()
    assert not same(first, gradients(net))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SAM(nn.Linear(1, 1), -0.1), "SAM needs a finite radius >= 0; it was given -0.1"),
        (lambda: SAM(nn.Linear(1, 1), float("nan")), "radius= to be a number; it was given nan"),
        (lambda: SAM(nn.Linear(1, 1), 0.1, eta=-1.0), "finite eta >= 0"),
        (lambda: SAM(torch.optim.SGD), "SAM needs model= to be an nn.Module; it was given the class SGD"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_what_cannot_ascend_is_refused() -> None:
    net = network()
    with pytest.raises(InputError, match=r"Call loss.backward\(\) before"), SAM(net).ascended():
        pass
    table = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    table(torch.tensor([1, 2])).sum().backward()
    refusal = r"'0.weight' of shape \(5, 2\) has a sparse gradient.*sparse=False"
    with pytest.raises(InputError, match=refusal), SAM(table).ascended():
        pass


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("form", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_a_step_inside_the_block_is_told(make: Any, form: dict[str, bool]) -> None:
    net = network()
    before = values(net)
    optimizer = make(net.parameters(), lr=0.1, **form)
    cost(net).backward()

    def steps_inside() -> None:
        with SAM(net).ascended():
            cost(net).backward()
            optimizer.step()

    with pytest.raises(InputError, match=r"Call optimizer.step\(\) after the block"):
        steps_inside()
    assert same(values(net), before)


def test_an_embedding_that_renormalizes_itself_is_no_step() -> None:
    net = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Linear(4, 1))
    net(torch.tensor([1, 2])).sum().backward()
    with SAM(net).ascended():
        net(torch.tensor([1, 2])).sum().backward()


# Wrong ones, each caught by a test above.


class Unnormalized(SAM):
    """Moves by the gradient itself."""

    def _ascend(self, moving: Any) -> None:
        with torch.no_grad():
            for w in moving:
                w.add_(w.grad, alpha=self.radius)


class Layerwise(SAM):
    """Normalizes each tensor alone."""

    def _ascend(self, moving: Any) -> None:
        for w in moving:
            super()._ascend([w])


class Descends(SAM):
    """The wrong sign."""

    def _ascend(self, moving: Any) -> None:
        self.radius = -abs(self.radius)
        super()._ascend(moving)


class ScaledOnce(SAM):
    """ASAM with T in place of T^2."""

    def _ascend(self, moving: Any) -> None:
        if not self.adaptive:
            return super()._ascend(moving)
        norm = sum(float(((w.detach().abs() + self.eta) * w.grad).square().sum()) for w in moving) ** 0.5
        with torch.no_grad():
            for w in moving:
                w.add_((w.abs() + self.eta) * w.grad, alpha=self.radius / norm)
        return None


class KeepsGradients(SAM):
    """Adds the second gradient to the first."""

    @contextmanager
    def ascended(self) -> Any:
        first = [p.grad.clone() for p in self.model.parameters()]
        with super().ascended():
            yield
        for p, g in zip(self.model.parameters(), first, strict=True):
            p.grad.add_(g)


class Subtracts(SAM):
    """Goes back by subtraction, which rounds."""

    @contextmanager
    def ascended(self) -> Any:
        before = [p.detach().clone() for p in self.model.parameters()]
        with super().ascended():
            moves = [p.detach() - w for p, w in zip(self.model.parameters(), before, strict=True)]
            yield
        with torch.no_grad():
            for p, m in zip(self.model.parameters(), moves, strict=True):
                p.add_(m / 3).sub_(m / 3)


class MovesToInfinity(SAM):
    """Does not look whether the gradient is finite."""

    def _ascend(self, moving: Any) -> None:
        with torch.no_grad():
            norm = torch.stack([w.grad.norm() for w in moving]).norm()
            for w in moving:
                w.add_(w.grad / norm, alpha=self.radius)


MUTANTS: list[tuple[type[SAM], Callable[[], None]]] = [
    (Unnormalized, lambda: test_the_gradient_is_that_at_the_ascended_point(False)),
    (Unnormalized, lambda: test_the_scale_of_the_loss_does_not_matter(65536.0)),
    (Layerwise, lambda: test_the_gradient_is_that_at_the_ascended_point(False)),
    (Descends, test_direction_and_length_on_a_quadratic),
    (ScaledOnce, test_adaptive_direction_and_length_by_hand),
    (ScaledOnce, test_adaptive_is_invariant_to_how_scale_is_spread),
    (KeepsGradients, lambda: test_the_gradient_is_that_at_the_ascended_point(False)),
    (Subtracts, lambda: test_the_gradient_is_that_at_the_ascended_point(False)),
    (MovesToInfinity, lambda: test_a_gradient_without_a_direction_does_not_move(float("inf"))),
    (MovesToInfinity, lambda: test_a_gradient_without_a_direction_does_not_move(0.0)),
]


@pytest.mark.parametrize(("mutant", "check"), MUTANTS, ids=[f"{m.__name__}-{i}" for i, (m, _) in enumerate(MUTANTS)])
def test_a_wrong_sam_is_caught(mutant: type[SAM], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    check()
    monkeypatch.setitem(globals(), "SAM", mutant)
    with pytest.raises(AssertionError):
        check()


def test_a_sam_that_forgets_the_buffers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "buffers_kept", lambda model: nullcontext())
    with pytest.raises(AssertionError):
        test_batch_norm_sees_the_first_pass_only(nn.BatchNorm1d(8))
