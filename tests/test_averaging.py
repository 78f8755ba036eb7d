"""Averages in anybody's own loop: torch's, with a start that is forgotten, zeros that stay, and batch norms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

import wellposed as wp
from wellposed.core.errors import FormatError, InputError
from wellposed.optim import averaging
from wellposed.optim.averaging import Average, redo_batch_norm


def network(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=0.5)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3)).double()


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 6, generator=draw).double() + 0.3, torch.randint(0, 3, (16,), generator=draw))
        for _ in range(count)
    ]


def train(net: nn.Module, averages: list[Any], steps: int = 12, terms: Any = (), optimizer: Any = None) -> Any:
    optimizer = optimizer or wp.regularize(torch.optim.Adam(net.parameters(), lr=0.02), net, terms)
    for step in range(steps):
        x, y = batches()[step % 4]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        for average in averages:
            average.update() if isinstance(average, Average) else average.update_parameters(net)
    return optimizer


def close(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.allclose(x, y, rtol=1e-12, atol=1e-13) for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def warmed(decay: float) -> Any:
    """torch's form of our average: how much is kept at update t."""

    def mean(average: Tensor, current: Tensor, count: Any) -> Tensor:
        t = float(count)
        kept = min(decay, (1 + t) / (10 + t))
        return kept * average + (1 - kept) * current

    return mean


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.999])
def test_an_exponential_average_is_torchs(decay: float) -> None:
    net = network()
    ours, theirs = Average(net, ema=decay), AveragedModel(net, avg_fn=warmed(decay))
    train(net, [ours, theirs])
    assert close(ours.module, theirs.module)
    assert not close(ours.module, net)
    assert ours.count == 12


def test_a_decay_below_the_warmup_is_torchs_own() -> None:
    net = network()
    constant = AveragedModel(net, avg_fn=lambda average, w, _: 0.15 * average + 0.85 * w)
    ours = Average(net, ema=0.15)
    train(net, [ours, constant])
    assert close(ours.module, constant.module)


def test_an_equal_average_is_torchs_with_batch_norms_redone() -> None:
    net = network()
    ours, theirs = Average(net), AveragedModel(net)
    train(net, [ours, theirs])
    assert close(ours.module, theirs.module)
    x = batches()[0][0]
    stale = ours.module(x)
    ours.redo_batch_norm(x for x, _ in batches())
    theirs.train()
    update_bn(batches(), theirs)
    for mine, other in zip(ours.module.buffers(), theirs.module.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.module(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)
    assert float((ours.module(x) - stale).abs().max()) > 1e-3
    assert not ours.module.training
    assert ours.module[2].momentum == 0.5


def test_redone_batch_norms_are_the_statistics_of_the_data() -> None:
    net = network()
    redo_batch_norm(net, [lambda b=x: net(b) for x, _ in batches()])  # type: ignore[misc]
    hidden = [net[0](x).detach() for x, _ in batches()]
    torch.testing.assert_close(net[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert net.training


def test_a_forward_that_fails_leaves_modes_and_momenta() -> None:
    net = network()
    net[0].eval()

    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        redo_batch_norm(net, [fails])
    assert [m.training for m in net] == [False, True, True, True, True]
    assert [net[1].momentum, net[2].momentum] == [0.1, 0.5]


def test_without_a_batch_the_statistics_stay() -> None:
    net = network()
    train(net, [])
    kept = [b.clone() for b in net.buffers()]
    redo_batch_norm(net, [])
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), kept, strict=True))


@pytest.mark.parametrize("ema", [0.9, None])
def test_zeros_of_the_current_weights_are_zeros(ema: float | None) -> None:
    net = network()
    average, plain = Average(net, ema), AveragedModel(net)
    train(net, [average, plain], 150, [wp.L1(0.05).on()])
    zeros = net[0].weight == 0
    assert zeros.any()
    assert not zeros.all()
    assert torch.equal(average.module[0].weight == 0, zeros)
    assert not (plain.module[0].weight == 0).any()


def test_buffers_are_the_models_also_after_it_moved() -> None:
    """``model.half()``, ``.to(device)`` and their kind put new buffers in place of the old ones."""
    net = network().float()
    average = Average(net, ema=0.5)
    average.update()
    net.double()
    average.module.double()
    for x, _ in batches():
        net(x)
    average.update()
    torch.testing.assert_close(average.module[1].running_mean, net[1].running_mean)
    assert int(average.module[1].num_batches_tracked) == 4


def test_the_first_update_copies_and_the_model_is_left_alone() -> None:
    net = network()
    average = Average(net, ema=0.999)
    with torch.no_grad():
        net[0].weight.mul_(3.0)
    kept = copy.deepcopy(net.state_dict())
    average.update()
    assert torch.equal(average.module[0].weight, net[0].weight)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), kept.values(), strict=True))
    assert net.training
    assert net[0].weight.requires_grad
    assert not average.module[0].weight.requires_grad


def test_a_resumed_average_continues(tmp_path: Any) -> None:
    net = network()
    average = Average(net, ema=0.9)
    optimizer = train(net, [average], 6)
    torch.save(average.state_dict(), tmp_path / "average.pt")
    other = copy.deepcopy(net)
    resumed = Average(other, ema=0.9)
    resumed.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    state = copy.deepcopy(optimizer.state_dict())
    train(net, [average], 6, optimizer=optimizer)
    again = wp.regularize(torch.optim.Adam(other.parameters(), lr=0.02), other)
    again.load_state_dict(state)
    train(other, [resumed], 6, optimizer=again)
    assert resumed.count == average.count == 12
    assert all(torch.equal(a, b) for a, b in zip(resumed.module.parameters(), average.module.parameters(), strict=True))
    with pytest.raises(FormatError, match="schema 9; schema 1 can be loaded"):
        resumed.load_state_dict({"schema": 9})


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5, float("nan"), 2, "0.9"])
def test_impossible_settings(ema: Any) -> None:
    with pytest.raises(InputError, match=r"ema in \(0, 1\), or None"):
        Average(network(), ema)
    with pytest.raises(InputError, match=r"an nn.Module; it was given int"):
        Average(3)  # type: ignore[arg-type]


class KeepsNoZeros(Average):
    """An average that never reaches zero."""

    def update(self) -> None:
        before = [w.clone() for w in self.module.parameters()]
        super().update()
        with torch.no_grad():
            for mean, old in zip(self.module.parameters(), before, strict=True):
                mean.copy_(torch.where(mean == 0, 0.5 * old, mean))


class ForgetsBuffers(Average):
    """The statistics of the model as it was at first."""

    def update(self) -> None:
        kept = [b.clone() for b in self.module.buffers()]
        super().update()
        for buffer, old in zip(self.module.buffers(), kept, strict=True):
            buffer.copy_(old)


class CountsTwice(Average):
    """The equal average with a wrong count."""

    def update(self) -> None:
        super().update()
        self.count += 1


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (KeepsNoZeros, lambda: test_zeros_of_the_current_weights_are_zeros(0.9)),
        (ForgetsBuffers, test_buffers_are_the_models_also_after_it_moved),
        (CountsTwice, test_an_equal_average_is_torchs_with_batch_norms_redone),
        (CountsTwice, lambda: test_an_exponential_average_is_torchs(0.999)),
    ],
)
def test_a_wrong_average_is_caught(mutant: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Average", mutant)
    with pytest.raises(AssertionError):
        check()


def test_redoing_with_the_layers_own_momentum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, forwards: Any) -> None:
        model.train()
        for forward in forwards:
            forward()
        model.eval()

    monkeypatch.setattr(averaging, "redo_batch_norm", wrong)
    with pytest.raises(AssertionError):
        test_an_equal_average_is_torchs_with_batch_norms_redone()
