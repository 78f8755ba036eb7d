"""Averages in anybody's own loop: torch's, with a start that is forgotten, zeros that stay, and batch norms."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import wellposed as wp
from wellposed.core.errors import FormatError, InputError
from wellposed.optim import averaging
from wellposed.optim.averaging import Average, redo_batch_norm
from wellposed.optim.zeros import keeps_zeros


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


class Timm:
    """timm's formulas, over everything in the ``state_dict`` that is no count: constant from the model on (``ModelEmaV2``), or
    a warm-up after the first step, which copies (``ModelEmaV3``, ``power`` and ``gamma`` of its own)."""

    def __init__(self, net: nn.Module, decay: float, power: float | None = None, gamma: float = 1.0) -> None:
        self.module, self.decay, self.power, self.gamma, self.steps = copy.deepcopy(net), decay, power, gamma, 0

    def update_parameters(self, net: nn.Module) -> None:
        kept = self.decay
        if self.power is not None:
            kept = min(kept, 1 - (1 + self.steps / self.gamma) ** -self.power) if self.steps else 0.0
        for mean, w in zip(self.module.state_dict().values(), net.state_dict().values(), strict=True):
            mean.copy_(kept * mean + (1 - kept) * w if mean.is_floating_point() else w)
        self.steps += 1


def torchs(net: nn.Module, decay: float | None, buffers: bool = False) -> AveragedModel:
    return AveragedModel(net, multi_avg_fn=decay and get_ema_multi_avg_fn(decay), use_buffers=buffers)


PEERS: dict[str, tuple[Any, Any]] = {
    "torch": (lambda n: Average(n, 0.97, warmup="none"), lambda n: torchs(n, 0.97)),
    "torch, buffers": (lambda n: Average(n, 0.97, warmup=None, buffers="average"), lambda n: torchs(n, 0.97, True)),
    "torch, swa": (Average, lambda n: torchs(n, None)),
    "torch, swa, buffers": (lambda n: Average(n, buffers="average"), lambda n: torchs(n, None, True)),
    "tensorflow": (lambda n: Average(n, 0.97, warmup="ratio"), lambda n: AveragedModel(n, avg_fn=warmed(0.97))),
    "timm v2": (
        lambda n: Average(n, 0.97, warmup="none", start="model", buffers="average"), lambda n: Timm(n, 0.97),
    ),
    "timm v3": (lambda n: Average(n, 0.97, warmup="power", buffers="average"), lambda n: Timm(n, 0.97, 2 / 3)),
    "timm v3, own warm-up": (
        lambda n: Average(n, 0.97, warmup=lambda t: 1 - (1 + t / 5) ** -0.8, buffers="average"),
        lambda n: Timm(n, 0.97, 0.8, 5.0),
    ),
}  # fmt: skip
EXACT = ("torch", "torch, buffers")
"""Computed by the same operations of torch, so equal bit for bit; others to rounding."""


@pytest.mark.parametrize("name", PEERS)
def test_an_average_is_its_peers(name: str) -> None:
    net = network()
    ours, theirs = (make(net) for make in PEERS[name])
    train(net, [ours, theirs], 40)
    for kind in ("named_parameters", "named_buffers"):
        pairs = dict(getattr(theirs.module, kind)())
        for key, found in getattr(ours.module, kind)():
            if name in EXACT and found.is_floating_point():
                assert torch.equal(found, pairs[key]), key
            elif found.is_floating_point():
                torch.testing.assert_close(found, pairs[key], rtol=1e-12, atol=1e-13)
            else:
                assert torch.equal(found, dict(net.named_buffers())[key])  # a count is the model's, never a mean


def test_every_choice_has_a_peer() -> None:
    made = [ours(network()) for ours, _ in PEERS.values()]
    assert (
        {a.warmup for a in made if isinstance(a.warmup, str)}
        == set(averaging.WARMUPS)
        == set(get_args(averaging.Warmup))
    )
    assert {a.start for a in made} == set(get_args(averaging.Start))
    assert {a.buffers for a in made} == set(get_args(averaging.Buffers))
    assert {a.ema is None for a in made} == {True, False}


def test_what_is_left_of_the_start() -> None:
    """After 500 updates of decay 0.999 the constant average still holds 61 % of its first weights, the others nothing."""
    left = {}
    for warmup in averaging.WARMUPS:
        net = nn.Linear(1, 1)
        average = Average(net, ema=0.999, warmup=warmup)  # type: ignore[arg-type]
        for step in range(501):
            nn.init.constant_(net.weight, float(step == 0))
            average.update()
        left[warmup] = float(average.module.weight)
    assert left["none"] == pytest.approx(0.999**500, rel=1e-4)
    assert max(left["ratio"], left["power"]) < 1e-6
    assert pytest.approx(8990) == 9 / (1 - 0.999) - 10  # (1 + t)/(10 + t) reaches 0.999 there


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
    optimizer = train(net, [average, plain], 150, [wp.L1(0.05).on()])
    assert [row.objective for row in optimizer.audit().rows if row.parameter == "0.weight"] == [
        "loss + L1(strength=0.05)"
    ]
    zeros = net[0].weight == 0
    assert zeros.any()
    assert not zeros.all()
    assert torch.equal(average.module[0].weight == 0, zeros)
    assert not (plain.module[0].weight == 0).any()


def mean_of(values: list[float], terms: Any, **settings: Any) -> float:
    """The average of a weight that is set to these values, one after another, by an optimizer with terms."""
    net = nn.Linear(1, 1, bias=False).double()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=1.0), net, terms)
    average = Average(net, **settings)
    for value in values:
        net.weight.grad = net.weight.detach() - value
        optimizer.step()
        average.update()
    return float(average.module.weight)


DENSE = {
    "nothing": [], "l2 decay": [wp.L2(0.0).on()], "l1 of strength 0": [wp.L1(0.0).on()], "max norm": [wp.MaxNorm(9.0).on()],
    "box": [wp.Box(-3.0, 3.0).on()], "l2_sp": [wp.L2SP(1e-9, reference=0.0).on()], "l2 prox": [wp.L2(0.0).on(how="prox")],
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_where_no_term_makes_zeros_a_zero_is_a_number(name: str) -> None:
    """The mean of 1, 0 and 1 is 2/3; with decay 1/2 from 1 on it is 3/4."""
    assert mean_of([1.0, 0.0, 1.0], DENSE[name]) == pytest.approx(2 / 3)
    assert mean_of([1.0, 0.0, 1.0], DENSE[name], ema=0.5, warmup="none") == pytest.approx(0.75)


SPARSE = {"l1": [wp.L1(1e-9).on()], "top_k": [wp.TopK(1).on()], "non_negative": [wp.NonNegative().on()],
          "group": [wp.GroupL2(1e-9).on()], "decayed too": [wp.L2(0.0).on(), wp.L1(1e-9).on()]}  # fmt: skip


@pytest.mark.parametrize("name", SPARSE)
def test_where_a_term_makes_zeros_a_zero_is_kept(name: str) -> None:
    assert mean_of([1.0, 0.0], SPARSE[name]) == 0.0
    assert mean_of([1.0, 0.0, 1.0], SPARSE[name]) == pytest.approx(1 / 3)  # it came back, from 0


def test_zeros_are_kept_where_the_optimizer_that_steps_makes_them() -> None:
    """Not by what an audit or a look at the model binds in between; by parameter; through wrappers, moves and copies."""
    net = network()
    weight, other = net[0].weight, net[4].weight
    sparse = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on("0")])
    assert not keeps_zeros(net)
    sparse.step()
    assert keeps_zeros(net) == {id(weight)}
    wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, []).audit()
    assert keeps_zeros(nn.Sequential(net)) == {id(weight)}
    assert not keeps_zeros(copy.deepcopy(net))
    net.float()
    assert keeps_zeros(net) == {id(net[0].weight)}
    wp.regularize(torch.optim.SGD(net[4].parameters(), lr=0.1), net, [wp.L1(0.1).on("4")]).step()
    assert keeps_zeros(net) == {id(weight), id(other)}
    wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, []).step()
    assert not keeps_zeros(net)
    pickle.loads(pickle.dumps(net))
    held = weakref.ref(net)
    del net, sparse, weight, other
    gc.collect()
    assert held() is None


def test_tied_groups_keep_their_zeros() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    axes = {"0.weight": "unit", "0.bias": "unit", "2.weight": "input"}
    average = Average(net, 0.9)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.TiedGroups(0.5, axes=axes).on()])
    train(net, [average], 60, optimizer=optimizer)
    assert bool((net[0].weight == 0).all(1).any())
    for name in axes:
        assert torch.equal(average.module.get_parameter(name) == 0, net.get_parameter(name) == 0), name


def test_the_audit_names_the_average() -> None:
    net = network()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [])
    assert "average" not in str(optimizer.audit())
    average = Average(net, ema=0.999)
    found = str(optimizer.audit())
    assert (
        "note: an average of the weights is kept: ema=0.999, warmup='ratio', start='update', buffers='copy'." in found
    )
    assert average.says in found
    del average
    assert "average" not in str(optimizer.audit())
    equal = Average(net, buffers="average")
    assert "is kept: equal, buffers='average'." in str(optimizer.audit())
    assert repr(equal) == "Average(Sequential, equal, buffers='average', count=0)"
    equal.remove()
    assert "average" not in str(optimizer.audit())


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


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_whole_number_weights_are_copied(buffers: Any) -> None:
    """Quantized weights are parameters of whole numbers, which have no mean."""
    net = network()
    net.register_parameter("quantized", torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False))
    average = Average(net, ema=0.5, buffers=buffers)
    average.update()
    net.quantized.data.fill_(7)
    net[0].bias.data += 1.0
    before = average.module[0].bias.clone()
    average.update()
    assert average.module.quantized.tolist() == [7, 7, 7]
    assert bool((average.module[0].bias > before).all())


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
    with pytest.raises(InputError, match=r"Average needs ema= to be a number in \(0, 1\) or None; it was given"):
        Average(network(), ema)
    with pytest.raises(InputError, match=r"Average needs model= to be an nn.Module; it was given 3"):
        Average(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": "ration"}, r"warmup.*'ratio'.*it was given 'ration'. Did you mean 'ratio'\?"),
        ({"warmup": True}, "warmup.*; it was given True"),
        ({"start": "first"}, "start.*update.*model.*; it was given 'first'"),
        ({"buffers": True}, "buffers.*copy.*average.*; it was given True"),
    ],
)
def test_impossible_choices(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Average(network(), 0.9, **settings)


@pytest.mark.parametrize("most", [-0.1, 1.1, float("nan"), "0.5", None])
def test_a_warmup_that_gives_no_share(most: Any) -> None:
    average = Average(network(), 0.9, warmup=lambda t: most)
    average.update()  # the first one copies
    with pytest.raises(InputError, match=r"a number in \[0, 1\]; at update 1 it gave"):
        average.update()
    assert average.count == 1


class KeepsNoZeros(Average):
    """An average that never reaches zero."""

    def update(self) -> None:
        before = [w.clone() for w in self.module.parameters()]
        super().update()
        with torch.no_grad():
            for mean, old in zip(self.module.parameters(), before, strict=True):
                mean.copy_(torch.where(mean == 0, 0.5 * old, mean))


class KeepsEveryZero(Average):
    """An average that is zero where the current weight is, whether a term made that zero or not."""

    def update(self) -> None:
        super().update()
        for mean, w in zip(self.module.parameters(), self._model.parameters(), strict=True):
            mean.masked_fill_(w == 0, 0.0)


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
        (KeepsEveryZero, lambda: test_where_no_term_makes_zeros_a_zero_is_a_number("nothing")),
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
