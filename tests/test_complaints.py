"""What people who regularize networks complain about, as tests: what no other file holds already. See docs/complaints.md."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import wellposed as wp
from wellposed.penalties.base import How
from wellposed.recipe.recipe import chargeables

Make = Callable[[Any], torch.optim.Optimizer]
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "complaints.md").read_text(encoding="utf-8")
D = torch.float64

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
}


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def without_gradient(model: nn.Module) -> None:
    """What a batch leaves that says nothing: then each step is made by the terms alone."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)


def rows(step: int, count: int = 16) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(count, 6, generator=draw, dtype=D)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def train(net: nn.Module, optimizer: Any, steps: int, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        x, y = rows(step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# 1. Who is decayed


class OwnNorm(nn.Module):
    """A norm of somebody's own: no name or type of it says what it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))


class Everything(nn.Module):
    """One of each that has been decayed by mistake, and the five kinds that are charged."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.own = OwnNorm(4)
        self.norm, self.batch, self.group = nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)
        self.slope = nn.PReLU(4)
        self.mix = nn.Linear(4, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.unusual = nn.ParameterDict({"matrix": torch.ones(4, 3), "shift": torch.ones(3)})
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.tokens.weight


CHARGED = {
    "mix.weight",
    "conv.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "unusual.matrix",
    "normed.parametrizations.weight.original1",
}
"""Of the weight-normed layer the direction, not its length."""


@pytest.mark.parametrize("wrapping", ["bare", "compiled", "parallel", "copied"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_biases_norms_and_embeddings_are_not_decayed_whatever_they_are_called(optimizer: str, wrapping: str) -> None:
    """What moves without a gradient is what is charged, and it is what the audit lists."""
    net = Everything()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.5)
    model: Any = {
        "bare": lambda: net,
        "compiled": lambda: torch.compile(net, backend="eager"),
        "parallel": lambda: nn.DataParallel(net),
        "copied": lambda: copy.deepcopy(net),
    }[wrapping]()
    trained = model if wrapping == "copied" else net
    wrapped = wp.regularize(OPTIMIZERS[optimizer](trained.parameters()), model, [wp.L2(0.5).on()])
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    without_gradient(trained)
    wrapped.step()
    moved = {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])}
    assert moved == CHARGED
    assert {row.parameter for row in wrapped.audit().rows if row.how == "decay"} == CHARGED


@pytest.mark.parametrize("term", [{"penalty": "l2"}, {"penalty": "l1"}, {"penalty": "elastic_net", "how": "loss"}])
def test_a_recipe_charges_no_norm_and_no_bias(term: dict[str, Any]) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), OwnScale(5), nn.Linear(5, 2))

    x, y = rows(0, 40)
    problem = wp.Problem(model, "cross_entropy", wp.Data(train=(x, y), valid=rows(1, 20)))
    run = wp.fit(problem, wp.Recipe(epochs=2, terms=[{**term, "strength": 0.1}]), device="cpu")
    assert {row.parameter for row in run.audit().rows if row.how != "-"} == {"0.weight", "4.weight"}


class OwnScale(OwnNorm):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.g


# 2. Coupling and conventions


@pytest.mark.parametrize("scaling", ["torch", "independent"])
def test_decay_has_a_schedule_of_its_own_and_follows_no_other_unless_asked(scaling: str) -> None:
    """The learning rate falls to a tenth, the decay rises to its strength; the product is taken where it is torch's."""
    net = nn.Linear(3, 2, bias=False).double()
    inner = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0)
    wrapped = wp.regularize(inner, net, [wp.L2(0.2, scaling=scaling).on(schedule=wp.ramp(4))])
    clock = torch.optim.lr_scheduler.LambdaLR(wrapped, lambda step: 0.1 if step >= 3 else 1.0)
    wanted = net.weight.detach().clone()
    for step in range(6):
        lr = 0.01 if step >= 3 else 0.1
        wanted *= 1 - 0.2 * wp.ramp(4)(step) * (lr if scaling == "torch" else 1.0)
        without_gradient(net)
        wrapped.step()
        clock.step()
        torch.testing.assert_close(net.weight.detach(), wanted, rtol=1e-12, atol=0)


# 3. and 4. L1 is missing, and zeros that are none


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_term_gives_no_zeros_and_a_proximal_step_gives_them(optimizer: str) -> None:
    counts = {}
    for how in ("loss", "prox"):
        net = nn.Linear(6, 2).double()
        wrapped = wp.regularize(OPTIMIZERS[optimizer](net.parameters()), net, [wp.L1(0.05).on(how=how)])
        for step in range(200):
            x, y = rows(step)
            wrapped.zero_grad()
            (F.cross_entropy(net(x), y) + wrapped.penalty()).backward()
            wrapped.step()
        counts[how] = int((net.weight == 0).sum())
    assert counts["loss"] == 0
    assert counts["prox"] >= 2


def test_zeros_are_kept_by_saving_loading_averaging_and_lower_precision(tmp_path: Any) -> None:
    net = nn.Linear(6, 2).double()
    wrapped = wp.regularize(OPTIMIZERS["adam"](net.parameters()), net, [wp.L1(0.05).on()])
    average = wp.Average(net, ema=0.99)
    for step in range(200):
        train(net, wrapped, 1, step)
        average.update()
    zero = net.weight == 0
    assert 0 < int(zero.sum()) < zero.numel()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = nn.Linear(6, 2).double()
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    for found in (other, average.module, other.half()):
        assert torch.equal(found.weight == 0, zero)


GROUPS = ("group_l2", "row_l21", "nuclear", "spectral")


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_penalty_is_a_norm_and_not_its_square(name: str) -> None:
    """Without the square root it would be an L2: ten times the weights a hundred times the charge, and never a zero."""
    charge: Any = chargeables()[name](0.3)
    w = torch.randn(4, 3, dtype=D)
    torch.testing.assert_close(charge.value(10 * w), 10 * charge.value(w))
    assert bool((charge.prox(1e-3 * w, 1.0) == 0).all())


# 5. Constraints


BOUNDED: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)),
    "conv": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(6, 2)),
}


@pytest.mark.parametrize("averaging", [None, {"ema": 0.5}, {"swa": 0.5}], ids=["none", "ema", "swa"])
@pytest.mark.parametrize("name", BOUNDED)
def test_a_constraint_of_a_recipe_holds_in_the_model_that_comes_back(name: str, averaging: Any) -> None:
    """It does something, on the incoming weights of each unit, also after the last step and in an average."""

    def longest(terms: list[dict[str, Any]]) -> float:
        problem = wp.Problem(BOUNDED[name], "cross_entropy", wp.Data(train=rows(0, 40), valid=rows(1, 20)))
        recipe = wp.Recipe(epochs=6, batch_size=8, optimizer={"name": "sgd", "lr": 1.0}, terms=terms)
        run = wp.fit(problem, recipe.replace(averaging=averaging or {}), device="cpu")
        matrices = [p for p in run.model.parameters() if p.ndim > 1]
        return max(float(p.detach().flatten(1).norm(dim=1).max()) for p in matrices)

    assert longest([{"penalty": "max_norm", "bound": 0.3}]) <= 0.3 * (1 + 1e-6)
    assert longest([]) > 0.5


# 6. Early stopping, restore, resume


@pytest.mark.parametrize("how", ["prox", "decay"])
@pytest.mark.parametrize("bound", [0.7, None])
def test_resuming_keeps_multipliers_schedules_and_the_bound_that_was_found(
    how: How, bound: float | None, tmp_path: Any
) -> None:
    def made(seed: int) -> tuple[nn.Module, Any]:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        terms = [wp.NormBound(bound, warm_steps=10).on("0", how), wp.L1(0.02).on("2", schedule=wp.ramp(30))]
        return net, wp.regularize(OPTIMIZERS["adam"](net.parameters()), net, terms)

    net, optimizer = made(0)
    train(net, optimizer, 20)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    wanted = train(net, optimizer, 20, 20)
    forgetful, resumed = made(1), made(1)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for other, state in ((resumed, saved["optimizer"]), (forgetful, without_ours(saved["optimizer"]))):
        other[0].load_state_dict(saved["net"])
        other[1].load_state_dict(state)
    assert same(train(*resumed, 20, 20), wanted)
    assert not same(train(*forgetful, 20, 20), wanted)


def without_ours(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "wellposed"}


def test_a_resumed_run_trains_from_its_own_weights_and_not_from_the_average(tmp_path: Any) -> None:
    """Both are saved, neither takes the other's place, and the run goes on as if it had not been interrupted."""

    def made(seed: int) -> tuple[nn.Module, Any, wp.Average]:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        return net, wp.regularize(OPTIMIZERS["adam"](net.parameters()), net, [wp.L1(0.01).on()]), wp.Average(net, 0.9)

    def trained(net: nn.Module, optimizer: Any, average: wp.Average, first: int) -> list[Tensor]:
        for step in range(first, first + 15):
            train(net, optimizer, 1, step)
            average.update()
        return [p.detach().clone() for model in (net, average.module) for p in model.parameters()]

    begun, resumed = made(0), made(1)
    trained(*begun, first=0)
    torch.save([part.state_dict() for part in begun], tmp_path / "state.pt")
    wanted = trained(*begun, first=15)
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert same(trained(*resumed, first=15), wanted)
    assert not same(wanted[:4], wanted[4:])


# 8. and 9. Losses that can be compared, and what they say


@pytest.mark.parametrize(
    "noise", [{"mixup": 1.0}, {"cutout": 0.5}, {"dropout": 0.5}, {"label_smoothing": 0.4}], ids=str
)
def test_training_accuracy_is_that_of_clean_rows_whatever_is_mixed(noise: dict[str, float]) -> None:
    """The same rows on both sides have the same loss and accuracy in every epoch, high where the network has learned."""
    x, y = rows(0, 60)
    image = "cutout" in noise
    layers = [nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2)]
    x = x.view(-1, 1, 2, 3) if image else x
    problem = wp.Problem(
        lambda: copy.deepcopy(nn.Sequential(*layers)),
        "cross_entropy",
        wp.Data(train=(x, y), valid=(x, y)),
        metric="accuracy",
    )
    run = wp.fit(problem, wp.Recipe(epochs=25, batch_size=10, optimizer={"lr": 0.01}, noise=noise), device="cpu")
    assert run.history["train_metric"] == run.history["valid_metric"]
    assert run.history["train_loss"] == run.history["valid_loss"]
    assert max(run.history["train_metric"]) > 0.9
    assert run.history["cost"][-1] > run.history["train_loss"][-1] + 0.02


@pytest.mark.parametrize("turn", [12, 30])
def test_the_turning_point_its_duration_and_the_way_back_are_said(turn: int) -> None:
    e = np.arange(60)
    curves = {
        "train_loss": 0.02 + 2 * np.exp(-e / 12),
        "valid_loss": 0.3 + 2 * np.exp(-e / 6) + 0.02 * np.maximum(e - turn, 0),
    }
    diagnosis = wp.diagnose({name: list(values) for name, values in curves.items()})
    (finding,) = [f for f in diagnosis if f.name == "overfits"]
    best = int(curves["valid_loss"].argmin())
    assert diagnosis.best_epoch == best
    assert abs(finding.evidence["epochs"] - (59 - best)) <= 4
    rise = curves["valid_loss"][-1] - curves["valid_loss"].min()  # of the curve; what is said is that of a smoothed one
    assert finding.evidence["estimate"] == pytest.approx(rise, rel=0.2)
    assert "keep the best epoch" in finding.lever


# 14. Penalties that depend on the number of batches


THRESHOLD = 0.1 * 0.3
"""Learning rate times strength."""
ONCE: dict[tuple[str, How], Callable[[Tensor], Tensor]] = {
    ("l1", "prox"): lambda w: w - w.clamp(-THRESHOLD, THRESHOLD),
    ("l1", "loss"): lambda w: w - THRESHOLD * w.sign(),
    ("l2", "prox"): lambda w: w / (1 + THRESHOLD),
    ("l2", "decay"): lambda w: w * (1 - THRESHOLD),
    ("l2", "loss"): lambda w: w * (1 - THRESHOLD),
    ("group_l2", "prox"): lambda w: w * (1 - THRESHOLD * 6**0.5 / w.norm(dim=1, keepdim=True)).clamp_min(0),
    ("group_l2", "loss"): lambda w: w * (1 - THRESHOLD * 6**0.5 / w.norm(dim=1, keepdim=True)),
}


@pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 16, 5), (1, 1, 1)])
@pytest.mark.parametrize(("name", "how"), ONCE)
def test_a_partial_last_batch_is_charged_as_any_other(name: str, how: How, sizes: tuple[int, ...]) -> None:
    """Rows that say nothing: each step takes off what rate and strength say, however many rows it has."""
    net = nn.Linear(6, 3, bias=False).double()
    charge: Any = chargeables()[name](0.3)
    wrapped = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [charge.on(how=how)])
    wanted = net.weight.detach().clone()
    for size in sizes:
        wrapped.zero_grad()
        (net(torch.zeros(size, 6, dtype=D)).square().sum(1).mean() + wrapped.penalty()).backward()
        wrapped.step()
        wanted = ONCE[name, how](wanted)
        torch.testing.assert_close(net.weight.detach(), wanted, rtol=1e-12, atol=1e-15)


# Slips


ELSEWHERE = ("l1_sp", "l2_sp", "kl")  # they need a start, or distributions
WITH_GRADIENT = [name for name, cls in chargeables().items() if "loss" in cls.hows and name not in ELSEWHERE]


class Charged(nn.Module):
    """A network with a skip layer, so that penalties of several parameters find theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
        self.skip = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.skip(x)
        return out


def made(name: str, strength: float) -> Any:
    axes = {"layers.0.weight": "unit", "layers.2.weight": "input"}
    cls: Any = chargeables()[name]
    return cls(strength, axes) if name == "tied_groups" else cls(strength)


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_the_gradient_of_every_penalty_flows(name: str) -> None:
    """Strength 100 does not train as strength 0 does: the gradient is the slope of what is charged, and grows with it."""
    torch.manual_seed(0)
    net = Charged().double()
    x, _ = rows(0)
    teacher = 2.0 * net(x).detach()

    def charged(strength: float) -> tuple[Any, Tensor]:
        where = "layers.1" if name.startswith("activation") else "skip" if name.startswith("kl_to") else None
        wrapped = wp.regularize(OPTIMIZERS["sgd"](net.parameters()), net, [made(name, strength).on(where, how="loss")])
        inputs = x.clone().requires_grad_()
        return wrapped, wrapped.penalty(net(inputs), inputs=inputs, reference=teacher)

    def gradients(strength: float) -> Tensor:
        net.zero_grad()
        optimizer, value = charged(strength)
        if value.requires_grad:
            value.backward()
        assert optimizer.steps == 0
        return torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in net.parameters()]
        )

    slope = gradients(0.1)
    assert not bool(gradients(0.0).any())
    assert float((gradients(100.0) - slope).norm()) > float(slope.norm()) > 1e-6
    move = torch.randn_like(slope)
    values = []
    for side in (1e-6, -2e-6):
        move_all(net, side * move)
        values.append(float(charged(0.1)[1].detach()))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(slope @ move), rel=1e-4)


@torch.no_grad()
def move_all(net: nn.Module, move: Tensor) -> None:
    for p, part in zip(net.parameters(), move.split([p.numel() for p in net.parameters()]), strict=True):
        p.add_(part.view_as(p))


STEPPED = [(name, how) for name, cls in chargeables().items() for how in cls.hows if how != "loss"]
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "box": (-0.1, 0.1), "top_k": (5,), "non_negative": (), "orthogonal": (), "unit_norm": (), "simplex": (), "norm_bound": (0.5,),
    "half_space": (1.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize(("name", "how"), STEPPED)
def test_parameters_are_changed_and_not_copies_of_them(name: str, how: How, optimizer: str) -> None:
    """Arithmetic in place on an indexed or reshaped copy does nothing; a transposed parameter is the one that shows it."""
    results = []
    for transposed in (False, True):
        torch.manual_seed(0)
        net = Charged().double()
        if transposed:
            for layer in (net.layers[0], net.layers[2], net.skip):
                layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
                assert not layer.weight.is_contiguous()
        charge: Any = chargeables()[name](*ARGUMENTS[name]) if name in ARGUMENTS else made(name, 0.1)
        wrapped = wp.regularize(OPTIMIZERS[optimizer](net.parameters()), net, [charge.on(how=how)])
        results.append(train(net, wrapped, 15))
    torch.manual_seed(0)
    net = Charged().double()
    plain = train(net, OPTIMIZERS[optimizer](net.parameters()), 15)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert max(float((a - b).abs().max()) for a, b in zip(results[0], plain, strict=True)) > 1e-4


# The page


def defined(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def named() -> list[tuple[str, str]]:
    """Every ``file.py::test`` of the page; a lone ``::test`` is of the file before it."""
    found, file = [], ""
    for before, name in re.findall(r"`(\w+\.py)?::(\w+)`", PAGE):
        file = before or file
        found.append((file, name))
    return found


def test_every_test_that_the_page_names_exists() -> None:
    files = {file: defined(ROOT / "tests" / file) for file, _ in named()}
    assert len(named()) > 50
    assert [f"{file}::{name}" for file, name in named() if name not in files[file]] == []


def test_every_test_of_this_file_is_on_the_page() -> None:
    here = {name for name in defined(Path(__file__)) if name.startswith("test_")} - {
        "test_every_test_that_the_page_names_exists",
        "test_every_test_of_this_file_is_on_the_page",
    }
    assert here == {name for file, name in named() if file == Path(__file__).name}
