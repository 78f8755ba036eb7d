"""The range test: a rate that works, and everything as it was."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import wellposed as wp
from wellposed.core.errors import DataError, InputError, ProblemError
from wellposed.noise.gradient_noise import GradientNoise
from wellposed.noise.mixing import ManifoldMixup
from wellposed.noise.perturb import DropConnect, Dropout, perturb
from wellposed.optim.lookahead import Lookahead
from wellposed.training import range_test
from wellposed.training.range_test import RangeTest, lr_range_test


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(0)
    yield
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002


class Noisy(nn.Module):
    """Noise from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.source = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn(x.shape, generator=self.source)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), Noisy(), nn.Linear(8, 3))
    net.register_buffer("unsaved", torch.zeros(2), persistent=False)
    return net


class Augmented(Dataset[Any]):
    """Rows with noise of three kinds: torch's, numpy's of its own, and Python's."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(64, 6, generator=draw), torch.randint(0, 3, (64,), generator=draw)
        self.own = np.random.default_rng(5)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        noise = float(torch.randn(())) + self.own.normal() + random.random() + float(np.random.normal())  # noqa: NPY002
        return self.x[i] + 0.01 * noise, self.y[i]


def loader(generator: bool = True, weighted: bool = False) -> DataLoader[Any]:
    own = torch.Generator().manual_seed(7) if generator else None
    data = Augmented()
    if weighted:
        sampler = WeightedRandomSampler(
            torch.linspace(1, 2, 64).tolist(), 64, generator=torch.Generator().manual_seed(9)
        )
        return DataLoader(data, 16, sampler=sampler, generator=own)
    return DataLoader(data, 16, shuffle=True, generator=own)


def train(net: nn.Module, optimizer: Any, data: Any, epochs: int = 2, clock: Any = None) -> None:
    net.train()
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            if hasattr(optimizer, "penalty"):
                loss = loss + optimizer.penalty()
            loss.backward()
            optimizer.step()
            if clock is not None:
                clock.step()


TERMS = [wp.L2(0.1).on(), wp.L1(1e-3).on(), wp.MaxNorm(2.0).on(), wp.L1(1e-3).on(wp.named("*.bias"), how="loss")]

MAKES: dict[str, Callable[[nn.Module], Any]] = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01),
    "fused": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, fused=True),
    "capturable": lambda net: torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01), foreach=False),
    "groups": lambda net: torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[5].parameters(), "momentum": 0.5}], lr=0.05
    ),
    "regularized": lambda net: wp.regularize(torch.optim.Adam(net.parameters(), lr=0.01), net, TERMS),
    "lookahead": lambda net: Lookahead(
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), net, TERMS), 3
    ),
}


def flat(value: Any) -> Any:
    """Anything as something that compares bit for bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {k if isinstance(k, (str, int)) else id(k): flat(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(v) for v in value]
    return value


def snapshot(net: nn.Module, optimizer: Any, data: Any) -> dict[str, Any]:
    """Everything that there is, values and the identity of what others may hold."""
    generator = getattr(data, "generator", None)
    sampler = getattr(data, "sampler", None)
    return {
        "weights": [flat(p) for p in net.parameters()],
        "buffers": [flat(b) for b in net.buffers()],
        "buffers themselves": [id(b) for b in net.buffers()],
        "gradients": [flat(p.grad) for p in net.parameters()],
        "gradients themselves": [id(p.grad) for p in net.parameters()],
        "required": [p.requires_grad for p in net.parameters()],
        "modes": [m.training for m in net.modules()],
        "optimizer": flat(optimizer.state_dict()),
        "state": flat(dict(optimizer.state)),
        "groups": flat([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]),
        "groups themselves": [id(g) for g in optimizer.param_groups],
        "flags": {k: v for k, v in vars(optimizer).items() if isinstance(v, (bool, int, float))},
        "torch": flat(torch.get_rng_state()),
        "numpy": flat(list(np.random.get_state())),  # noqa: NPY002
        "python": random.getstate(),
        "loader": flat(generator.get_state()) if generator is not None else None,
        "sampler": flat(sampler.generator.get_state()) if getattr(sampler, "generator", None) is not None else None,
        "dataset": copy.deepcopy(data.dataset.own.bit_generator.state) if isinstance(data, DataLoader) else None,
        "model": flat(net[4].source.get_state()),
    }


def prepared(name: str, started: bool, **loading: Any) -> tuple[nn.Sequential, Any, DataLoader[Any]]:
    """A net, an optimizer and a loader, in the middle of training or at its start."""
    net, data = network(), loader(**loading)
    optimizer = MAKES[name](net)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    if started:
        train(net, optimizer, data, 1)
        nn.functional.cross_entropy(net(data.dataset.x), data.dataset.y).backward()
    net[0].eval()
    net[5].bias.requires_grad_(False)
    return net, optimizer, data


@pytest.mark.parametrize("name", list(MAKES))
@pytest.mark.parametrize("started", [False, True])
def test_everything_is_as_it_was(name: str, started: bool) -> None:
    net, optimizer, data = prepared(name, started)
    before = snapshot(net, optimizer, data)
    found = lr_range_test(net, optimizer, "cross_entropy", data, 1e-4, 30.0, steps=12)
    after = snapshot(net, optimizer, data)
    for part in before:
        assert before[part] == after[part], part
    assert len(found.losses) >= 5


@pytest.mark.parametrize("name", list(MAKES))
def test_the_training_that_follows_is_that_without_the_test(name: str) -> None:
    ends = []
    for tested in (False, True):
        net, optimizer, data = prepared(name, True, weighted=name == "sgd", generator=name != "adamw")
        net[5].bias.requires_grad_(True)
        if tested:
            lr_range_test(net, optimizer, nn.CrossEntropyLoss(), data, 1e-3, 10.0, steps=9)
        train(net, optimizer, data)
        ends.append([flat(p) for p in (*net.parameters(), *net.buffers())])
    assert ends[0] == ends[1]


def test_a_scheduler_is_none_the_wiser() -> None:
    ends = []
    for tested in (False, True):
        net, data = network(), loader()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        clock = lr_scheduler.CosineAnnealingLR(optimizer, 20)
        if tested:
            lr_range_test(net, optimizer, "cross_entropy", data, steps=8)
            assert "_opt_called" not in vars(optimizer)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        train(net, optimizer, data, clock=clock)
        ends.append(([flat(p) for p in net.parameters()], optimizer.param_groups[0]["lr"]))
    assert ends[0] == ends[1]


def put_noise(kind: str, net: nn.Module, optimizer: Any) -> Any:
    """The package's own noise, which counts."""
    if kind == "perturb":
        return perturb(net, [Dropout(0.2).on(nn.ReLU), DropConnect(0.3).on(nn.Linear)])
    if kind == "mixup":
        return ManifoldMixup(net, nn.ReLU)
    noise = GradientNoise(net, eta=0.1)
    optimizer.register_step_pre_hook(noise)
    return noise


def counted(noise: Any) -> Any:
    """Steps, draws of each place, and what was mixed last."""
    drawn = [site.drawn for site in getattr(noise, "sites", [])]
    mixing = [flat(getattr(noise, part, None)) for part in ("permutation", "weight", "place")]
    return (
        noise.step,
        drawn,
        mixing,
        dict(getattr(getattr(noise, "_streams", None), "_calls", {})),
        list(getattr(noise, "_shadows", [])),
    )


NOISY = ["perturb", "mixup", "gradient"]


@pytest.mark.parametrize("kind", NOISY)
@pytest.mark.parametrize("name", ["sgd", "lookahead"])
def test_noise_goes_on_where_it_was(kind: str, name: str) -> None:
    ends = []
    for tested in (False, True):
        net, optimizer, data = prepared(name, False)
        net[5].bias.requires_grad_(True)
        noise = put_noise(kind, net, optimizer)
        train(net, optimizer, data, 1)
        if tested:
            seen = counted(noise)
            lr_range_test(net, optimizer, "cross_entropy", data, 1e-3, 10.0, steps=9)
            assert noise.step == 4
            assert counted(noise) == seen
        train(net, optimizer, data)
        ends.append([flat(p) for p in (*net.parameters(), *net.buffers())])
    assert ends[0] == ends[1]


def test_gradient_noise_that_is_called_as_a_method_goes_on_too() -> None:
    net, data = quadratic([1.0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    noise = GradientNoise(net, eta=0.1)
    optimizer.register_step_pre_hook(noise.__call__)
    lr_range_test(net, optimizer, "squared_error", data, steps=5)
    assert noise.step == 0


@pytest.mark.parametrize("where", ["loss", "model", "data", "step"])
def test_an_exception_in_the_middle_restores_too(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer, data = prepared("regularized", True)
    before = snapshot(net, optimizer, data)
    calls = []

    def fails(*_: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise ZeroDivisionError

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        if where == "loss":
            fails()
        return nn.functional.cross_entropy(outputs, target, reduction="none")

    handles = [net[2].register_forward_hook(fails)] if where == "model" else []
    if where == "step":
        handles.append(optimizer.register_step_post_hook(fails))
    kept = Augmented.__getitem__
    if where == "data":
        monkeypatch.setattr(Augmented, "__getitem__", lambda self, i: (fails() if i == 3 else None) or kept(self, i))
    expected = (
        (InputError, "^The model raised ZeroDivisionError") if where == "model" else (ZeroDivisionError, r"\A(\n|\Z)")
    )  # notes say where
    with pytest.raises(expected[0], match=expected[1]):
        lr_range_test(net, optimizer, loss, data, steps=40)
    for handle in handles:
        handle.remove()
    after = snapshot(net, optimizer, data)
    for part in before:
        assert before[part] == after[part], part


def test_buffers_that_a_layer_replaces_are_put_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Linear(2, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return self.w(x)

    net = Counts()
    kept = net.calls
    lr_range_test(
        net, torch.optim.SGD(net.parameters(), lr=1.0), "squared_error", [(torch.ones(2, 2), torch.ones(2, 1))]
    )
    assert net.calls is kept
    assert float(kept) == 0


def test_state_in_another_precision_is_not_cast() -> None:
    net = nn.Linear(2, 1).bfloat16()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    data = [(torch.ones(4, 2).bfloat16(), torch.ones(4, 1).bfloat16())]
    optimizer.state[net.weight]["momentum_buffer"] = torch.full((1, 2), 1 / 3)
    kept = optimizer.state[net.weight]["momentum_buffer"]
    lr_range_test(net, optimizer, "squared_error", data, steps=6)
    assert optimizer.state[net.weight]["momentum_buffer"] is kept
    assert torch.equal(kept, torch.full((1, 2), 1 / 3))


# What is found.


def quadratic(curvatures: list[float]) -> tuple[nn.Module, list[Any]]:
    """Squared error of a linear model whose Hessian is diagonal: ``2 X'X/n``."""
    h = torch.tensor(curvatures, dtype=torch.float64)
    net = nn.Linear(len(h), 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.fill_(1.0)
    x = torch.diag((h * len(h) / 2).sqrt())
    return net, [(x, torch.zeros(len(h), 1, dtype=torch.float64))]


@pytest.mark.parametrize("largest", [1e-2, 1.0, 300.0])
def test_the_suggestion_is_below_the_bound_of_stability(largest: float) -> None:
    net, data = quadratic([largest, largest / 3, largest / 10])
    found = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data, 1e-7, 1e5, steps=200)
    bound = 2 / largest
    assert 1e-3 * bound < found.suggestion < bound
    assert found.stopped == "diverged"
    # Divergence begins where the rate passes the bound; no rate far above it is tried.
    assert bound < found.rates[-1] < 30 * bound
    assert min(found.losses) < 0.5 * found.losses[0]


def test_rates_and_losses_by_hand() -> None:
    """With one curvature h, the loss before step i is ``prod_(j<i) (1 - r_j h)^2`` times the first."""
    net, data = quadratic([2.0])
    found = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data, 1e-3, 1.0, 7, 0.0)
    rates = [1e-3 * 10 ** (i / 2) for i in range(7)]
    assert found.rates == pytest.approx(rates[: len(found.rates)])
    w, losses = 1.0, []
    for rate in found.rates:
        losses.append(w * w)
        w *= 1 - rate * 2.0
    assert found.losses == pytest.approx(losses, rel=1e-9)
    assert found.smoothed == pytest.approx(losses, rel=1e-9)


def least_squares(seed: int, solved: bool) -> tuple[nn.Module, list[Any]]:
    """A linear model with noise in its targets, in batches, at its optimum or at zero."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 5, generator=draw)
    y = x @ torch.randn(5, 1, generator=draw) + torch.randn(512, 1, generator=draw)
    net = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T * solved)
    return net, list(zip(x.split(32), y.split(32), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_at_the_optimum_there_is_no_suggestion(seed: int) -> None:
    net, data = least_squares(seed, solved=True)
    found = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data)
    assert math.isnan(found.suggestion)
    assert 0.1 < found.noise < 0.5  # of a mean of 32 squares of standard normals: sqrt(2/32) = 0.25
    assert "no fall of the loss stands out from its noise" in str(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_fall_has_a_suggestion(seed: int) -> None:
    net, data = least_squares(seed, solved=False)
    found = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data)
    assert (
        1e-3 < found.suggestion < 0.5
    )  # the Hessian is about 2: stable below 1, and it takes hundreds of steps at 1e-3


def test_one_that_takes_noise_for_a_fall_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_test, "SURE", 0.0)
    with pytest.raises(AssertionError):
        test_at_the_optimum_there_is_no_suggestion(0)


def test_the_noise_of_a_curve() -> None:
    draw, line = np.random.default_rng(0), np.linspace(3.0, 1.0, 4001)
    assert range_test._noise(line, line) < 1e-12
    assert range_test._noise(line + draw.normal(0, 0.2, 4001), line) == pytest.approx(0.2, rel=0.05)


def test_groups_keep_their_ratios() -> None:
    seen = []
    net, data = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), [(torch.ones(3, 2), torch.ones(3, 1))]
    groups = [{"params": net[0].parameters(), "lr": 0.3}, {"params": net[1].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    hook = optimizer.register_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
    found = lr_range_test(net, optimizer, "squared_error", data, 1e-4, 1e-2, steps=5)
    hook.remove()
    assert [pair[0] for pair in seen] == pytest.approx(found.rates)
    assert all(slow == pytest.approx(fast / 3) for fast, slow in seen)
    assert [g["lr"] for g in optimizer.param_groups] == [0.3, 0.1]


def test_rates_of_0_before_a_warmup() -> None:
    net, data = quadratic([1.0])
    found = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.0), "squared_error", data, 1e-3, 1.0)
    assert found.losses[-1] < found.losses[0]


def test_it_says_the_same_each_time_whatever_the_random_state() -> None:
    found = []
    for seed in (0, 1):
        net, optimizer, data = prepared("adamw", True)
        data.dataset.own = np.random.default_rng(5)
        torch.manual_seed(seed)
        found.append(lr_range_test(net, optimizer, "cross_entropy", data, steps=10))
    assert found[0] == found[1]


def test_terms_in_the_loss_are_part_of_it() -> None:
    net, data = quadratic([1.0])
    with_terms = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L2(10.0).on(how="loss")])
    found = lr_range_test(net, with_terms, "squared_error", data, 1e-4, 1.0, steps=20)
    assert found.losses[0] == pytest.approx(0.5 + 5.0)


def test_the_mode_is_training() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5)).eval()
    modes = []
    net[1].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    data = {"x": torch.ones(4, 2), "y": torch.ones(4, 1)}

    def forward(model: nn.Module, batch: Any) -> Any:
        return model(batch["x"])

    lr_range_test(
        net, torch.optim.SGD(net.parameters(), lr=1.0), "mse", [data], steps=5, forward=forward, target=lambda b: b["y"]
    )
    assert modes == [True] * len(modes)
    assert not net.training


def test_it_works_where_gradients_are_off() -> None:
    net, data = quadratic([1.0])
    with torch.no_grad():
        found = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data)
        assert not torch.is_grad_enabled()
    assert min(found.losses) < found.losses[0]


def test_people_read_it() -> None:
    net, data = quadratic([1.0])
    text = str(lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data, high=1e3))
    assert "steepest fall at" in text
    assert "where the loss diverged" in text
    flat_loss = RangeTest((1e-3, 1e-2, 1e-1), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), math.nan, "high")
    assert "falls at no rate" in str(flat_loss)
    with torch.no_grad():
        net.weight.fill_(math.nan)
    nothing = lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", data)
    assert nothing.losses == ()
    assert math.isnan(nothing.suggestion)
    assert "not finite before the first step" in str(nothing)


class Stream(IterableDataset[Any]):
    """Rows without numbers."""

    def __iter__(self) -> Any:
        yield torch.ones(2), torch.ones(1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"low": 0.0}, InputError, "low= to be a number > 0, finite; it was given 0.0"),
        ({"high": 1e-9}, InputError, "0 < low < high"),
        ({"high": math.inf}, InputError, "high= to be a number > 0, finite; it was given inf"),
        ({"steps": 4}, InputError, "steps= to be a whole number >= 5; it was given 4"),
        ({"smooth": 1.0}, InputError, r"smooth= to be a number in \[0, 1\)"),
        ({"model": 3}, InputError, "model= to be an nn.Module"),
        ({"optimizer": 3}, InputError, "optimizer= to be a torch optimizer"),
        ({"loss": "nothing"}, InputError, "There is no loss 'nothing'"),
        ({"data": iter([1])}, DataError, "a list_iterator does not allow"),
        ({"data": []}, DataError, "there is no batch"),
        ({"data": DataLoader(Stream())}, DataError, "iterable Dataset cannot be put back"),
        ({"data": [(torch.ones(4, 1), torch.ones(3, 1))]}, ProblemError, "does not fit the model"),
    ],
    ids=lambda part: part if isinstance(part, str) else "-",
)
def test_what_cannot_be_used(change: dict[str, Any], error: Any, message: str) -> None:
    net, data = quadratic([1.0])
    net.float()
    given = {
        "model": net,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
        "loss": "squared_error",
        "data": data,
    }
    with pytest.raises(error, match=message):
        lr_range_test(**{**given, **change})
    lbfgs = torch.optim.LBFGS(net.parameters())
    with pytest.raises(InputError, match="LBFGS"):
        lr_range_test(**{**given, "optimizer": lbfgs})


# Wrong ones: each forgets one thing.


ALL = lambda: test_everything_is_as_it_was("sgd", True)  # noqa: E731


@pytest.mark.parametrize(
    ("forgotten", "checks"),
    [
        ("modes_kept", [lambda: test_the_mode_is_training()]),
        ("buffers_kept", [ALL]),
        ("parameters_kept", [ALL]),
        ("seeded", [ALL]),
        ("generators_kept", [ALL]),
        (
            "noise_kept",
            [
                lambda: test_noise_goes_on_where_it_was("perturb", "sgd"),
                lambda: test_noise_goes_on_where_it_was("mixup", "lookahead"),
                lambda: test_noise_goes_on_where_it_was("gradient", "sgd"),
                lambda: test_noise_goes_on_where_it_was("gradient", "lookahead"),
            ],
        ),
        (
            "optimizer_kept",  # as many finders do: weights come back, and moments of the last steps stay
            [
                ALL,
                lambda: test_everything_is_as_it_was("adamw", False),
                lambda: test_the_training_that_follows_is_that_without_the_test("adamw"),
                lambda: test_the_training_that_follows_is_that_without_the_test("lookahead"),
            ],
        ),
    ],
)
def test_one_that_forgets_is_caught(
    forgotten: str, checks: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_test, forgotten, lambda *_: nullcontext())
    for check in checks:
        with pytest.raises(AssertionError):
            check()


def test_one_that_iterates_over_the_loader_itself_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_test, "_loaded", iter)
    monkeypatch.setattr(range_test, "generators_kept", lambda *_: nullcontext())
    with pytest.raises(AssertionError):
        test_the_training_that_follows_is_that_without_the_test("sgd")
