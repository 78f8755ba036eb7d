"""The metric of each optimizer: what one gradient finally moves, and the problem that is solved with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, Lasso
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import CompositionError
from wellposed.optim import optimizer_metrics
from wellposed.optim.optimizer_metrics import Diagonal, MetricOrStep, is_adaptive, metric_of, needs_metric

Make = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0, eps=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05, eps=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.05, eps=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05, eps=1e-4),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, eps=0.1),
    "rmsprop_momentum": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, eps=0.01, alpha=0.999),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.5, lr_decay=1e-3, initial_accumulator_value=0.1, eps=0.01),
}
NO_FIRST_MOMENT: dict[str, Make] = {
    **{name: OPTIMIZERS[name] for name in ("sgd", "rmsprop", "rmsprop_centered", "adagrad")},
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.7, rho=0.8, eps=1e-3),
    "adadelta_foreach": lambda p: torch.optim.Adadelta(p, foreach=True, maximize=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.3),
    "adafactor_clipped": lambda p: torch.optim.Adafactor(p, lr=0.3, eps=(1e-4, 0.2), beta2_decay=-0.2),
    "adafactor_foreach": lambda p: torch.optim.Adafactor(p, foreach=True, maximize=True),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.125, lambd=0.0),  # torch keeps the first rate in single precision
}
SIZES = torch.tensor([0.03, 0.5, 2.0, 40.0], dtype=torch.float64)


def steps_now(optimizer: torch.optim.Optimizer, w: Tensor) -> Tensor:
    """The metric as tensor, in the state that the optimizer is in."""
    state = {**optimizer.state[w], **getattr(optimizer, "before", {})}
    metric: MetricOrStep = needs_metric(optimizer)(optimizer.param_groups[0], state, int(state.get("step", 1)))
    return metric.steps() if isinstance(metric, Diagonal) else torch.full_like(w, metric)


def go_on(w: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> list[Tensor]:
    """Feed gradients; the movement of each step."""
    moved = []
    for gradient in gradients:
        before = w.detach().clone()
        w.grad = gradient.clone()
        look = needs_metric(optimizer).before
        with torch.no_grad():
            seen = look(w, optimizer.param_groups[0], optimizer.state[w]) if look else {}
        optimizer.before = seen  # type: ignore[attr-defined]
        optimizer.step()
        moved.append(w.detach() - before)
    return moved


def follow(make: Make, gradients: list[Tensor]) -> tuple[nn.Parameter, torch.optim.Optimizer, list[Tensor]]:
    """The parameter after these gradients, its optimizer, and the movement of each step."""
    w = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make([w])
    return w, optimizer, go_on(w, optimizer, gradients)


def impulse_error(make: Make) -> float:
    """Largest relative error of the metric against the final displacement of one unit of gradient.

    Gradients are of constant size and random sign, so that second moments stand still; at one step the gradient is 0 in
    one run and tiny in the other, which no second moment sees.
    """
    draw = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (1700, len(SIZES)), generator=draw).double() - 1.0
    at, tiny = 1500, 1e-6
    gradients = [s * SIZES for s in signs]
    begun = follow(make, gradients[:at])[:2]
    finals = []
    for size in (0.0, tiny):
        w, optimizer = copy.deepcopy(begun)
        go_on(w, optimizer, [size * SIZES, *gradients[at + 1 :]])
        finals.append(w.detach())
    w, optimizer = begun
    go_on(w, optimizer, gradients[at : at + 1])
    wanted = (finals[0] - finals[1]) / (tiny * SIZES)
    return float((steps_now(optimizer, w) / wanted - 1).abs().max())


SETTLED = {"nadam": 3000, "rmsprop_momentum": 3000}
"""Steps after which moments stand still: 400, but for a momentum that rises and a second moment without correction."""


def stationary_error(name: str, count: int | None = None) -> float:
    """Largest relative error of ``movement = -step * gradient`` under a constant gradient, after ``count`` steps."""
    w, optimizer, moved = follow(OPTIMIZERS[name], [SIZES] * (count or SETTLED.get(name, 400)))
    return float((moved[-1] / (-steps_now(optimizer, w) * SIZES) - 1).abs().max())


def gradient_error(make: Make, shape: tuple[int, ...] = (4,), count: int = 50) -> float:
    """Largest relative error of ``movement = -step * gradient`` at any gradient, for optimizers without a first moment."""
    draw = torch.Generator().manual_seed(0)
    sizes = SIZES.view(-1, *[1] * (len(shape) - 1))
    gradients = [sizes * (2.0 + torch.randn(shape, generator=draw, dtype=torch.float64)) for _ in range(count)]
    w, optimizer, moved = follow(make, gradients)
    sign = -1.0 if optimizer.param_groups[0].get("maximize") else 1.0
    return float((moved[-1] / (-sign * steps_now(optimizer, w) * gradients[-1]) - 1).abs().max())


CENTERED_ERROR = 0.05
"""A centered variance moves with each gradient in first order, so an impulse is not alone what is measured."""


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_metric_is_the_final_displacement_of_one_unit_of_gradient(name: str) -> None:
    # Second moments and NAdam's momenta still move a little over the ten steps that an impulse takes.
    assert impulse_error(OPTIMIZERS[name]) < (CENTERED_ERROR if name == "rmsprop_centered" else 6e-3)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)], ids=str)
@pytest.mark.parametrize("name", list(NO_FIRST_MOMENT))
def test_without_a_first_moment_every_step_moves_by_the_metric_times_the_gradient(
    name: str, shape: tuple[int, ...]
) -> None:
    """Adafactor keeps rows and columns of a matrix, and steps by their product in each coordinate."""
    for count in (1, 2, 50):
        assert gradient_error(NO_FIRST_MOMENT[name], shape, count) < 1e-11


def test_asgd_steps_by_a_rate_that_falls_and_decays_by_its_lambd() -> None:
    """``w <- (1 - lambd*eta) w - eta*g`` with ``eta = lr/(1 + lambd*lr*n)^alpha`` of the step before."""

    def make(p: Any) -> torch.optim.Optimizer:
        return torch.optim.ASGD(p, lr=0.5, lambd=0.2, alpha=0.9)

    w, optimizer, moved = follow(make, [SIZES] * 20)
    eta = 0.5 / (1 + 0.2 * 0.5 * 19) ** 0.9
    torch.testing.assert_close(steps_now(optimizer, w), torch.full_like(w, eta))
    before = w.detach() - moved[-1]
    torch.testing.assert_close(moved[-1], -eta * (SIZES + 0.2 * before))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "rmsprop_centered"])
def test_under_a_constant_gradient_each_step_moves_by_the_metric_times_the_gradient(name: str) -> None:
    """Not where centered: the variance of a constant gradient is rounding; see `test_centered_variance_0`."""
    # NAdam's two momenta differ by 1e-6 after 3,000 steps, as its steps grow.
    assert stationary_error(name) < (1e-3 if name == "nadam" else 1e-8)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 100])
@pytest.mark.parametrize("name", ["sgd", "adam", "amsgrad", "adamw", "radam", "adamax", "adagrad"])
def test_corrected_moments_are_exact_from_the_first_step_on(name: str, count: int) -> None:
    """RAdam changes its branch at the sixth step."""
    assert stationary_error(name, count) < 1e-9


def test_centered_variance_0() -> None:
    """A coordinate with a constant gradient has had one: it moves by ``lr*g/eps``, and so must be charged."""

    def make(p: Any) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(p, lr=0.01, alpha=0.5, eps=0.25, centered=True)

    w, optimizer, moved = follow(make, [torch.tensor([1.0, 0.0])] * 40)
    state = optimizer.state[w]
    assert float(state["square_avg"][0] - state["grad_avg"][0] ** 2) < 1e-6
    torch.testing.assert_close(steps_now(optimizer, w), torch.tensor([0.04, 0.0]), rtol=1e-2, atol=0)
    torch.testing.assert_close(moved[-1], torch.tensor([-0.04, 0.0]), rtol=1e-2, atol=0)


def _lr(group: Any, state: Any, count: int) -> MetricOrStep:
    return float(group["lr"])


def _no_root(group: Any, state: Any, count: int) -> MetricOrStep:
    right = optimizer_metrics._adam(group, state, count)
    return Diagonal(right.second, right.scale, right.eps, root=False)


def _no_bias_correction(group: Any, state: Any, count: int) -> MetricOrStep:
    return Diagonal(state["exp_avg_sq"], float(group["lr"]), float(group["eps"]))


def _eps_not_corrected(group: Any, state: Any, count: int) -> MetricOrStep:
    root = math.sqrt(1 - float(group["betas"][1]) ** count)
    return Diagonal(state["exp_avg_sq"], float(group["lr"]) * root, float(group["eps"]))


def _forgets(name: str, value: float, right: Any) -> Any:
    def wrong(group: Any, state: Any, count: int) -> MetricOrStep:
        return right({**group, name: value}, state, count)  # type: ignore[no-any-return]

    return wrong


def _adagrad_without_the_root(group: Any, state: Any, count: int) -> MetricOrStep:
    right = optimizer_metrics._adagrad(group, state, count)
    return Diagonal(right.second, right.scale, right.eps, right.floor, root=False)


def _adamax_with_a_root(group: Any, state: Any, count: int) -> MetricOrStep:
    right = optimizer_metrics._adamax(group, state, count)
    return Diagonal(right.second, right.scale, 0.0, right.floor)


WRONG: list[tuple[str, type[torch.optim.Optimizer], Any]] = [
    ("momentum", torch.optim.SGD, _lr),
    ("nesterov", torch.optim.SGD, _lr),
    ("dampened", torch.optim.SGD, _forgets("dampening", 0.0, optimizer_metrics._sgd)),
    ("adam", torch.optim.Adam, _lr),
    ("adam", torch.optim.Adam, _no_root),
    ("adam", torch.optim.Adam, _no_bias_correction),
    ("adamw", torch.optim.AdamW, _eps_not_corrected),
    ("radam", torch.optim.RAdam, optimizer_metrics._adam),
    ("rmsprop", torch.optim.RMSprop, _lr),
    ("rmsprop", torch.optim.RMSprop, _forgets("eps", 0.0, optimizer_metrics._rmsprop)),
    ("rmsprop_momentum", torch.optim.RMSprop, _forgets("momentum", 0.0, optimizer_metrics._rmsprop)),
    ("rmsprop_centered", torch.optim.RMSprop, _forgets("centered", False, optimizer_metrics._rmsprop)),
    ("adagrad", torch.optim.Adagrad, _adagrad_without_the_root),
    ("adagrad", torch.optim.Adagrad, _forgets("lr_decay", 0.0, optimizer_metrics._adagrad)),
    ("adamax", torch.optim.Adamax, _adamax_with_a_root),
    ("nadam", torch.optim.NAdam, _forgets("eps", 0.0, optimizer_metrics._nadam)),
]


@pytest.mark.parametrize(("name", "cls", "wrong"), WRONG, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(WRONG)])
def test_a_wrong_metric_is_caught(
    name: str, cls: type[torch.optim.Optimizer], wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = optimizer_metrics.OptimizerMetric(wrong, euclidean=cls is torch.optim.SGD)
    monkeypatch.setitem(optimizer_metrics.METRICS, cls, metric)
    if name == "rmsprop_centered":
        assert gradient_error(OPTIMIZERS[name]) > 1e-3
        return
    # Of the adaptive ones the exact tests see what an impulse does not, at the first steps or in the long run.
    errors = [stationary_error(name)]
    if name in ("adam", "adamw", "radam"):
        errors.append(stationary_error(name, 7))
    assert max(errors) > 2e-3


def _after(w: Tensor, group: Any, state: Any) -> Any:
    """What the state says after the step."""
    return {}


def _of_another_size(w: Tensor, group: Any, state: Any) -> Any:
    return {"size": 2.0 * float(w.norm()) / math.sqrt(w.numel()), "gradient": w.grad}


def _not_clipped(w: Tensor, group: Any, state: Any) -> Any:
    return {"size": float(w.norm()) / math.sqrt(w.numel()), "gradient": None}


@pytest.mark.parametrize(
    ("name", "cls", "wrong"),
    [
        ("adadelta", torch.optim.Adadelta, _after),
        ("adafactor", torch.optim.Adafactor, _of_another_size),
        ("adafactor", torch.optim.Adafactor, _not_clipped),
    ],
)
def test_a_wrong_moment_before_the_step_is_caught(
    name: str, cls: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = optimizer_metrics.OptimizerMetric(optimizer_metrics.METRICS[cls].step, wrong)
    monkeypatch.setitem(optimizer_metrics.METRICS, cls, metric)
    assert max(gradient_error(NO_FIRST_MOMENT[name], count=count) for count in range(2, 20)) > 1e-3


@pytest.mark.parametrize("name", ["adadelta", "adafactor", "asgd", "adam"])
def test_tied_groups_of_one_tensor_are_groups(name: str) -> None:
    """The step of several tensors knows of the moment before it too."""
    found = []
    for term in (wp.TiedGroups(0.05, axes={"weight": "unit"}).on(), wp.GroupL2(0.05).on()):
        torch.manual_seed(0)
        net = nn.Linear(5, 4, bias=False, dtype=torch.float64)
        optimizer = wp.regularize(LASSO[name][0](net.parameters()), net, [term])
        for step in range(40):
            net.weight.grad = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)).double()
            optimizer.step()
        found.append(net.weight.detach())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["adadelta", "adafactor", "asgd"])
def test_a_resumed_optimizer_takes_the_same_proximal_steps(name: str) -> None:
    def steps(optimizer: Any, w: nn.Parameter, first: int) -> None:
        for step in range(first, first + 5):
            w.grad = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)).double()
            optimizer.step()

    nets = [nn.Linear(5, 4, bias=False, dtype=torch.float64) for _ in range(2)]
    made = [wp.regularize(LASSO[name][0](net.parameters()), net, [wp.L1(0.05).on()]) for net in nets]
    steps(made[0], nets[0].weight, 0)
    nets[1].load_state_dict(nets[0].state_dict())
    made[1].load_state_dict(copy.deepcopy(made[0].state_dict()))
    for net, optimizer in zip(nets, made, strict=True):
        steps(optimizer, net.weight, 5)
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_a_nadam_with_one_momentum_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gradient receives at once is a tenth to a half of all; both parts count."""

    def at_once(group: Any, state: Any, count: int) -> MetricOrStep:
        now = float(group["betas"][0]) * (1 - 0.5 * 0.96 ** (count * float(group["momentum_decay"])))
        return optimizer_metrics._nadam(group, state, count).times(1 - now)

    monkeypatch.setitem(optimizer_metrics.METRICS, torch.optim.NAdam, optimizer_metrics.OptimizerMetric(at_once))
    assert impulse_error(OPTIMIZERS["nadam"]) > 0.1


# Oracle: the full-batch lasso.

ROWS, COLUMNS = 60, 8


def table() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(ROWS, COLUMNS)) * np.linspace(0.7, 1.4, COLUMNS)
    X = X + 0.3 * X[:, :1]
    y = X[:, :4] @ (draw.normal(size=4) + 1.0) + 0.3 * draw.normal(size=ROWS)
    return X - X.mean(0), y - y.mean()


LASSO: dict[str, tuple[Make, int]] = {
    "strongly_dampened": (lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.8, dampening=0.8), 400),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=0.05), 800),
    "nadam_fast": (lambda p: torch.optim.NAdam(p, lr=0.02, momentum_decay=0.1), 1600),
    "radam": (lambda p: torch.optim.RAdam(p, lr=0.05), 1600),
    "adamax": (lambda p: torch.optim.Adamax(p, lr=0.1), 800),
    "adagrad": (lambda p: torch.optim.Adagrad(p, lr=1.0), 400),
    "adagrad_decaying": (
        lambda p: torch.optim.Adagrad(p, lr=2.0, lr_decay=1e-4, initial_accumulator_value=0.1),
        400,
    ),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.05), 800),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0), 800),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5), 1600),
    "adadelta": (lambda p: torch.optim.Adadelta(p, eps=1e-4), 1600),
    "adadelta_foreach": (lambda p: torch.optim.Adadelta(p, lr=0.5, rho=0.8, eps=1e-4, foreach=True), 1600),
    "adafactor": (lambda p: torch.optim.Adafactor(p, lr=0.05), 1600),
    "asgd": (lambda p: torch.optim.ASGD(p, lr=0.1, lambd=0.0), 400),
}


def lasso(make: Make, steps: int, penalty: Any, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Full-batch training; the rate is constant for two thirds of the steps, and then falls by a factor of 10,000."""
    net = nn.Linear(COLUMNS, Y.shape[1], bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    optimizer = wp.regularize(make(net.parameters()), net, [penalty.on()])
    first = optimizer.param_groups[0]["lr"]
    gram, right = torch.tensor(2 / ROWS * X.T @ X), torch.tensor(2 / ROWS * Y.T @ X)
    settle = not isinstance(make([torch.zeros(1)]), torch.optim.Adagrad)
    for step in range(steps):
        if settle:
            optimizer.param_groups[0]["lr"] = first * min(1.0, 1e-4 ** (3 * step / steps - 2))
        net.weight.grad = net.weight.detach() @ gram - right
        optimizer.step()
    return net.weight.detach().numpy().copy()


SEVERAL = ("adafactor", "adadelta", "adamax")


@pytest.mark.parametrize("name", [name for name in LASSO if name not in SEVERAL])
def test_the_lasso_is_scikit_learns(name: str) -> None:
    X, y = table()
    wanted = Lasso(alpha=0.3, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, y).coef_
    make, steps = LASSO[name]
    found = lasso(make, steps, wp.L1(0.6), X, y[:, None])[0]
    assert np.abs(found - wanted).max() < 1e-6
    assert np.array_equal(found == 0, wanted == 0)
    assert 0 < (wanted == 0).sum() < COLUMNS


@pytest.mark.parametrize("name", SEVERAL)
def test_the_lasso_of_several_outputs_is_scikit_learns(name: str) -> None:
    """A matrix of several rows, of whose squared gradients Adafactor keeps a product only."""
    X, y = table()
    Y = np.stack([y, np.roll(y, 7), X[:, 3:7].sum(1) + 0.3 * y], axis=1)
    wanted = Lasso(alpha=0.3, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, Y).coef_
    make, steps = LASSO[name]
    found = lasso(make, steps, wp.L1(0.6), X, Y)
    assert np.abs(found - wanted).max() < 1e-6
    assert np.array_equal(found == 0, wanted == 0)
    assert 0 < (wanted == 0).sum() < wanted.size


def test_asgds_own_decay_and_l1_are_scikit_learns_elastic_net() -> None:
    """``loss + 0.6 |w|_1 + 0.4/2 |w|^2``: what the audit says is solved."""
    X, y = table()
    make: Make = lambda p: torch.optim.ASGD(p, lr=0.1, lambd=0.4, alpha=0.1)  # noqa: E731
    wanted = ElasticNet(alpha=0.3 + 0.2, l1_ratio=0.6, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, y).coef_
    found = lasso(make, 1500, wp.L1(0.6), X, y[:, None])[0]
    assert np.abs(found - wanted).max() < 1e-6
    assert np.array_equal(found == 0, wanted == 0)
    net = nn.Linear(COLUMNS, 1, bias=False)
    rows = wp.regularize(make(net.parameters()), net, [wp.L1(0.6).on()]).audit().rows
    assert [(row.term, row.effective_strength) for row in rows] == [("lambd", 0.4), ("L1(strength=0.6)", 0.6)]
    double = nn.Linear(COLUMNS, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        double.weight.copy_(torch.from_numpy(wanted)[None])
    solved = wp.regularize(make(double.parameters()), double, [wp.L1(0.6).on()])
    assert (
        wp.certify(double, "squared_error", (torch.from_numpy(X), torch.from_numpy(y)[:, None]), solved).violation
        < 1e-6
    )


# Coordinates that never had a gradient.

FAMILIES: dict[str, Make] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "adamax_large_eps": lambda p: torch.optim.Adamax(p, lr=0.01, eps=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adagrad_initial": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, eps=1e-4),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "adagrad_large_initial": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=3.3),
}


@pytest.mark.parametrize(
    ("name", "penalty", "dtype"),
    [
        # Half of them, so that each optimizer meets both penalties and both precisions.
        pytest.param(
            name,
            penalty,
            dtype,
            marks=() if i == j else pytest.mark.nightly,
            id=f"{name}-{penalty.name}-{str(dtype)[6:]}",
        )
        for name in FAMILIES
        for i, penalty in enumerate((wp.L1(0.5), wp.GroupL2(0.5)))
        for j, dtype in enumerate((torch.float32, torch.float64))
    ],
)
def test_a_coordinate_without_gradients_is_not_moved(name: str, penalty: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 4, bias=False, dtype=dtype)
    first = net.weight.detach().clone()
    optimizer = wp.regularize(FAMILIES[name](net.parameters()), net, [penalty.on()])
    seen = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=dtype)
    for step in range(130):
        net.weight.grad = (1.0 + 0.5 * (-1) ** step) * seen.expand(4, 5).contiguous()
        optimizer.step()
    assert torch.equal(net.weight[:, 1::2], first[:, 1::2])
    assert (net.weight[:, ::2] != first[:, ::2]).all()


# Refusals.


class Lion(torch.optim.Optimizer):
    """Signs of an interpolated momentum."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})


class Unheard(Lion):
    """No name that is known."""


class SteppingAdam(torch.optim.Adam):
    """An Adam that steps in its own way."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


REFUSED: list[tuple[Any, str]] = [
    (Lion, "Lion has none: its steps follow the signs of gradients"),
    (torch.optim.Rprop, "Rprop has none: its steps follow the signs of gradients"),
    (torch.optim.LBFGS, "LBFGS has none: it moves along a direction that mixes all coordinates"),
    (torch.optim.SparseAdam, "SparseAdam has none: it moves only the rows that a batch touches"),
    (Unheard, "that of Unheard is not known"),
    (SteppingAdam, "that of SteppingAdam is not known"),
]
if hasattr(torch.optim, "Muon"):
    REFUSED.append((torch.optim.Muon, "Muon has none: it orthogonalizes the update of a whole matrix"))


def test_every_optimizer_of_torch_has_a_metric_or_a_reason() -> None:
    """A class that a later torch brings fails here, until its step is derived or refused with the reason."""
    found = {v for v in vars(torch.optim).values() if isinstance(v, type) and issubclass(v, torch.optim.Optimizer)}
    for cls in found - {torch.optim.Optimizer}:
        assert (cls in optimizer_metrics.METRICS) != (cls.__name__ in optimizer_metrics.REASONS), cls
    tried = {type(make([nn.Parameter(torch.ones(1))])) for make, _ in LASSO.values()}
    assert tried == set(optimizer_metrics.METRICS)
    known = {cls.__name__ for cls in found} | {"Lion"}
    assert set(optimizer_metrics.REASONS) <= known | {"Muon"}  # Muon came with torch 2.9


@pytest.mark.parametrize(("cls", "reason"), REFUSED, ids=[cls.__name__ for cls, _ in REFUSED])
def test_an_optimizer_without_a_metric_is_refused_with_the_reason(cls: Any, reason: str) -> None:
    net = nn.Linear(3, 2, bias=False)
    optimizer = cls(net.parameters(), lr=0.1)
    assert metric_of(optimizer) is None
    assert not is_adaptive(optimizer)
    with pytest.raises(CompositionError, match=f'{reason}.*how="loss".*SGD, Adam, AdamW'):
        wp.regularize(optimizer, net, [wp.L1(0.1).on()])


def test_a_subclass_that_steps_as_its_parent_is_known() -> None:
    class Named(torch.optim.RAdam):
        pass

    assert metric_of(Named([nn.Parameter(torch.ones(1))])) is optimizer_metrics.METRICS[torch.optim.RAdam]


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_times_multiplies_every_step(factor: float) -> None:
    metric = Diagonal(torch.tensor([0.0, 1.0, 4.0]), 0.3, 1e-3)
    torch.testing.assert_close(metric.times(factor).steps(), factor * metric.steps())
    assert float(metric.steps()[0]) == 0.0
