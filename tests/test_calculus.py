"""The calculus: laws over every penalty and constraint, closed forms by hand, wrong ones that must be caught, oracles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet as SkElasticNet
from sklearn.linear_model import Lasso, MultiTaskLasso, Ridge
from torch import Tensor, nn

import wellposed as wp
from charges import constraints, divergence, elementwise, groups, matrix
from charges.elementwise import L1TwiceTheThreshold
from charges.groups import GroupScaledByEachStep
from wellposed.core.errors import CompositionError, InputError, ShapeError, WellposedError
from wellposed.ops.norms import group_norms
from wellposed.ops.prox import group_soft_threshold
from wellposed.optim.proximal import joint
from wellposed.penalties.base import Chargeable, Constraint, CoupledPenalty, FunctionalPenalty, How, Penalty, Traits
from wellposed.recipe.recipe import chargeables
from wellposed.testing import LawBroken, check_constraint, check_penalty
from wellposed.testing.laws import SHAPES, STEPS, Case, cases, minimizes, minimizes_in_metric

ROOMS = (elementwise, divergence, groups, matrix, constraints)
GIVEN: dict[str, list[dict[str, Any]]] = {name: given for room in ROOMS for name, given in room.GIVEN.items()}
"""What the laws are tried with. A class found by introspection and absent here fails `test_every_class_is_tried`."""
CLOSED_FORMS = {name: form for room in ROOMS for name, form in room.CLOSED_FORMS.items()}

KNOWN = [(name, given) for name, cases in GIVEN.items() for given in cases]
NAMED = [f"{name}-{'-'.join(map(str, given.values()))}" for name, given in KNOWN]


def judge(charge: Chargeable, **settings: Any) -> None:
    """Every law, whichever kind it is; of several tensors as of one that they are cut from."""
    if isinstance(charge, CoupledPenalty):
        groups.check_coupled(charge, **settings)
    elif isinstance(charge, Penalty):
        check_penalty(charge, **settings)
    elif isinstance(charge, Constraint):
        check_constraint(charge, **settings)


def test_every_class_is_tried() -> None:
    found = {name for name, cls in chargeables().items() if not issubclass(cls, FunctionalPenalty)}
    assert found == set(GIVEN), "give the laws' arguments in GIVEN for each class of penalties and constraints"
    assert found == set(CLOSED_FORMS), "compute one closed form by hand for each class"


@pytest.mark.parametrize(("name", "given"), KNOWN, ids=NAMED)
def test_laws(name: str, given: dict[str, Any]) -> None:
    """Of the first setting of a class at both ends of the steps, of its others at one of them by turns; the rest is nightly."""
    charge = chargeables()[name](**given)
    place = next(i for i, one in enumerate(GIVEN[name]) if one is given)
    judge(charge, **({"steps": (STEPS[place % 3],) if place else STEPS[::2]} if isinstance(charge, Penalty) else {}))


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "given"), KNOWN, ids=NAMED)
def test_laws_at_every_step(name: str, given: dict[str, Any]) -> None:
    judge(chargeables()[name](**given))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        # The first setting of each class.
        pytest.param(name, given, id=label, marks=() if given is GIVEN[name][0] else pytest.mark.nightly)
        for (name, given), label in zip(KNOWN, NAMED, strict=True)
    ],
)
def test_laws_in_single_precision(name: str, given: dict[str, Any]) -> None:
    charge = chargeables()[name](**given)
    one_step = {"steps": (1.0,)} if isinstance(charge, Penalty) else {}
    judge(charge, dtype=torch.float32, seed=1, **one_step)


def test_what_takes_one_step_is_given_no_step_for_each_weight() -> None:
    for name, given in KNOWN:
        charge = chargeables()[name](**given)
        if isinstance(charge, Penalty) and not charge.traits.diagonal:
            for operator, before in (("prox", ()), ("violation", (torch.ones(4, 3),))):
                with pytest.raises(ShapeError, match="one step for all weights"):
                    getattr(charge, operator)(torch.ones(4, 3), *before, torch.full((4, 3), 0.5))


@pytest.mark.parametrize(("name", "given"), KNOWN, ids=NAMED)
def test_a_number_without_axes_is_taken_or_refused_in_a_sentence(name: str, given: dict[str, Any]) -> None:
    charge = chargeables()[name](**given)
    one = torch.tensor(1.5)
    calls = {"value": (one,), "project": (one,), "prox": (one, 0.5), "violation": (one, one, 0.5)}
    for operator in filter(partial(hasattr, charge), calls):
        try:
            found = getattr(charge, operator)(*calls[operator])
        except WellposedError:
            continue
        assert found.shape == (), operator


@pytest.mark.parametrize(("name", "given"), KNOWN, ids=NAMED)
@pytest.mark.parametrize("size", [1e-42, 1e-39, 1e30, 1e37])
def test_numbers_of_any_size_stay_numbers(name: str, given: dict[str, Any], size: float) -> None:
    """A finite weight of float32 never comes back as what is not finite, and a step of 0 moves none."""
    charge = chargeables()[name](**given)
    charge = groups.as_one(charge) if isinstance(charge, CoupledPenalty) else charge
    shapes = [charge.total] if isinstance(charge, groups.AsOne) else SHAPES
    for case in cases(charge, shapes, 0, torch.float32, (1.0,)):
        w = case.w / case.w.abs().max().clamp_min(1.0) * size
        if isinstance(charge, Penalty):
            assert torch.equal(charge.prox(w, 0.0), w)
            for step in (1e-12, 0.7, 1e6):
                assert torch.isfinite(charge.prox(w, step)).all(), step
        elif isinstance(charge, Constraint):
            assert torch.isfinite(charge.project(w)).all()


@pytest.mark.parametrize(("name", "given"), KNOWN, ids=NAMED)
def test_what_operators_cannot_take_is_said(name: str, given: dict[str, Any]) -> None:
    """Of every class, called by hand; what they take is in every other law."""
    charge = chargeables()[name](**given)
    several = isinstance(charge, CoupledPenalty)
    if not several and not isinstance(charge, (Penalty, Constraint)):
        return
    fits = torch.ones(6, 4)
    wrong: list[Any] = [None, "weights", [[1.0]], fits.long(), fits.bool(), fits.numpy()]
    calls: dict[str, list[tuple[Any, ...]]] = {"value": [], "project": [], "prox": [(0.5,)], "violation": [(fits,)]}
    for method, others in calls.items():
        if not hasattr(charge, method):
            continue
        bad = [(value, *rest) for value in wrong for rest in others or [()]]
        if method == "prox":
            bad += [
                (fits, step)
                for step in (-1.0, math.nan, math.inf, "1", None, True, torch.ones(5, 4), torch.ones(1, 6, 4))
            ]
        if method == "violation":
            bad += [(fits, torch.ones(4, 6)), (fits, None), (fits, fits, -1.0)]
        for values in bad:
            with pytest.raises(WellposedError, match=f"{type(charge).__name__}.{method} takes"):
                getattr(charge, method)(*([value] if several and k < 2 else value for k, value in enumerate(values)))


def makes_zeros(charge: Any) -> bool:
    """Whether a proximal step, of whatever length, or a projection makes a weight exactly 0 that was not."""
    made = False
    steps = (1.0, 100.0) if isinstance(charge, Penalty) else (1.0,)
    shapes = [charge.total] if isinstance(charge, groups.AsOne) else SHAPES
    for case in cases(charge, shapes, 0, torch.float64, steps):
        moved = charge.prox(case.w, case.step) if isinstance(charge, Penalty) else charge.project(case.w)
        made = made or bool(((moved == 0) & (case.w != 0)).any())
    return made


@pytest.mark.parametrize(("name", "given"), KNOWN, ids=NAMED)
def test_who_makes_zeros_says_so_and_nobody_else(name: str, given: dict[str, Any]) -> None:
    """Averages and lookahead keep zeros by this trait alone."""
    charge = chargeables()[name](**given)
    charge = groups.as_one(charge) if isinstance(charge, CoupledPenalty) else charge
    if isinstance(charge, (Penalty, Constraint)):
        assert makes_zeros(charge) == charge.traits.sparse
    else:  # a multiplier of an L2
        assert not charge.traits.sparse


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_closed_form(name: str) -> None:
    CLOSED_FORMS[name](chargeables()[name])


def test_the_suite_refuses_to_pass_without_having_tried() -> None:
    with pytest.raises(LawBroken, match="accepts none of the shapes"):
        check_penalty(wp.GroupL2(0.1), shapes=[(3,)])


@pytest.mark.parametrize("seed", range(40))
def test_group_prox_in_a_wild_metric(seed: int) -> None:
    """Steps over twelve orders of magnitude: the secular equation holds to rounding, and no rival wins."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = 5, int(torch.randint(1, 9, (), generator=draw))
    w = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    w = w * 10 ** (4 * torch.rand(rows, 1, generator=draw, dtype=torch.float64) - 2)
    step = 10 ** (12 * torch.rand(rows, columns, generator=draw, dtype=torch.float64) - 9)
    step = step.masked_fill(torch.rand(rows, columns, generator=draw) < 0.2, 0.0)
    kept = w.clone()
    u = group_soft_threshold(w, step, 0.7, axis=0)
    assert torch.isfinite(u).all()
    assert torch.equal(u[step == 0], w[step == 0])
    norms = group_norms(u, 0)
    alive = (norms > 0) & (step > 0)
    # Stationarity, multiplied by the step: u - w + step * s * u/|u| = 0.
    residual = (u - w + step * 0.7 * u / norms.clamp_min(1e-300)).where(alive, torch.zeros_like(w))
    assert (residual.abs() <= 1e-10 * (w.abs() + 1e-9)).all()
    dead = (norms == 0).squeeze(1)
    slack = (w / step).where(step > 0, torch.zeros_like(w))[dead].norm(dim=1)
    assert (slack <= 0.7 * (1 + 1e-12)).all()
    assert torch.equal(w, kept)


@dataclass(frozen=True)
class Together(Penalty):
    """A sum whose prox is the joint operator."""

    parts: tuple[Penalty, ...]
    traits: ClassVar[Traits] = Traits()
    hows: ClassVar[tuple[How, ...]] = ("prox",)

    def check(self, name: str, w: Tensor) -> None:
        for part in self.parts:
            part.check(name, w)

    def value(self, w: Tensor) -> Tensor:
        return torch.stack([part.value(w) for part in self.parts]).sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        return joint("w", self.parts)(w, step)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        # Of a sum there is no simple distance; the residual of the fixed point stands in.
        return (w - self.prox(w - step * grad, step)).norm() / step


@pytest.mark.parametrize(
    "parts",
    [
        (wp.L1(0.2), wp.L2(0.5)),
        (wp.L1(0.2), wp.ElasticNet(0.3, 0.5)),
        (wp.L1(0.2), wp.GroupL2(0.1)),
        (wp.GroupL2(0.1), wp.L1(0.2)),
        (wp.L2(0.7), wp.GroupL2(0.2, by="input")),
        (wp.L1(0.1), wp.L2(0.4), wp.GroupL2(0.15), wp.GroupL2(0.05)),
    ],
    ids=lambda parts: "+".join(part.name for part in parts),
)
def test_the_joint_proximal_step_minimizes_the_sum(parts: tuple[Penalty, ...]) -> None:
    from wellposed.testing.laws import PENALTY_LAWS, violation_is_distance

    charge = Together(parts)
    for case in cases(charge, [(4, 3), (3, 2, 2)], 3, torch.float64, STEPS):
        for law in PENALTY_LAWS:
            if law is not violation_is_distance:
                law(charge, case)


def test_joint_refuses_what_is_not_proven() -> None:
    with pytest.raises(CompositionError, match="no proven joint"):
        joint("w", [wp.GroupL2(0.1), wp.GroupL2(0.1, by="input")])


@pytest.mark.parametrize("step", [0.0, 0.7, "tensor"])
def test_groups_of_size_one_are_l1(step: float | str) -> None:
    w = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.linspace(0, 3, 50, dtype=torch.float64).view(50, 1) if step == "tensor" else step
    grad = torch.randn(50, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lone, group = wp.L1(0.5), wp.GroupL2(0.5)
    torch.testing.assert_close(group.prox(w, t), lone.prox(w, t), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(group.value(w), lone.value(w), rtol=1e-14, atol=0)
    sparse = lone.prox(w, 1.0)
    torch.testing.assert_close(group.violation(sparse, grad), lone.violation(sparse, grad), rtol=1e-13, atol=0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None, True])
@pytest.mark.parametrize("cls", [wp.L1, wp.L2, wp.ElasticNet, wp.GroupL2, wp.MaxNorm])
def test_impossible_strengths(cls: type[Chargeable], value: Any) -> None:
    with pytest.raises(InputError, match=rf"{cls.__name__} needs a finite (strength|bound) >= 0"):
        cls(value)  # type: ignore[call-arg]


def test_impossible_settings() -> None:
    with pytest.raises(InputError, match=r"needs mix= to be a number in \[0, 1\]"):
        wp.ElasticNet(0.1, 1.5)
    with pytest.raises(InputError, match=r"groups by unit or input.*'row'"):
        wp.GroupL2(0.1, by="row")
    with pytest.raises(InputError, match="groups by unit or input"):
        wp.MaxNorm(1.0, by="column")
    with pytest.raises(ShapeError, match=r"GroupL2 needs >= 2 axes; 'encoder.bias' has shape \(64,\)"):
        wp.GroupL2(0.1).check("encoder.bias", torch.zeros(64))
    with pytest.raises(InputError, match="L1 cannot be enforced by how='decay'; it can by prox, loss"):
        wp.L1(0.1).on(wp.weights, how="decay")
    with pytest.raises(InputError, match="how='proxy' is not known"):
        wp.L1(0.1).on(wp.weights, how="proxy")  # type: ignore[arg-type]


# The tests of the tests: each mutant is wrong in one way, and must be caught by the laws or by the closed form.


def mutants() -> list[type[Chargeable]]:
    """Every subclass of a penalty or constraint that stands in `charges`."""
    return [
        cls
        for room in ROOMS
        for cls in vars(room).values()
        if isinstance(cls, type) and issubclass(cls, Chargeable) and cls.__module__ == room.__name__
    ]


def is_caught(cls: type[Chargeable]) -> str:
    """The message that catches a wrong class, or an empty string. It is tried with all that its kind is tried with."""
    kind = next(name for name, right in chargeables().items() if issubclass(cls, right))
    try:
        CLOSED_FORMS[kind](cls)  # first, as it costs nothing
        for given in GIVEN[kind]:
            judge(cls(**given))
    except (AssertionError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return ""


def test_there_are_enough_mutants() -> None:
    assert len(mutants()) >= 50


@pytest.mark.nightly
@pytest.mark.parametrize("cls", mutants(), ids=lambda cls: cls.__name__)
def test_a_wrong_penalty_is_caught(cls: type[Chargeable]) -> None:
    assert is_caught(cls), f"{cls.__name__} passed every law and its closed form"


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (elementwise.L0OfNotANumber, "not_finite"),
        (elementwise.L1ViolationOfNotANumber, "not_finite"),
        (groups.GroupOfNotANumber, "not_finite"),
        (constraints.BoxClipsInfinity, "not_finite"),
        (elementwise.L1WithoutAGradient, "gradient"),
        (matrix.NuclearThroughTheDecomposition, "gradients_are_finite"),
        (constraints.L2WithoutAGradient, "gradients_are_finite"),
        (groups.GroupWithoutRoom, "of_any_size"),
        (constraints.SimplexLosesItsTotal, "projection_of_any_size"),
        (groups.GroupOfNothing, "of_nothing"),
        (constraints.BallOfNothing, "of_nothing"),
    ],
)
def test_the_law_that_is_meant_bites(cls: type[Chargeable], law: str) -> None:
    """Each is right on finite numbers of ordinary size: only this law can tell."""
    assert f"breaks the law of '{law}" in is_caught(cls)


def test_a_right_one_is_not_caught() -> None:
    for right in (wp.L1, wp.MaxNorm):
        assert not is_caught(right)


def test_a_broken_law_names_penalty_law_and_point() -> None:
    with pytest.raises(
        LawBroken, match=r"L1TwiceTheThreshold\(strength=0.3\) breaks the law of '\w+' \(shape \(4, 3\)"
    ):
        check_penalty(L1TwiceTheThreshold(0.3))


def test_one_law_alone_sees_a_metric() -> None:
    """With equal steps the closed form per coordinate is right; only the law in a metric can tell."""
    w = torch.tensor([[1.0, 2.0], [0.5, -3.0]], dtype=torch.float64)
    case = Case(w, -w, 0.5, 0)
    minimizes(GroupScaledByEachStep(0.3), case)
    with pytest.raises(LawBroken, match="step per coordinate"):
        minimizes_in_metric(GroupScaledByEachStep(0.3), case)


# Oracles: the limit of training is what scikit-learn computes.

ROWS, COLUMNS = 60, 8


def table(targets: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(ROWS, COLUMNS)) * np.linspace(0.7, 1.4, COLUMNS)
    X = X + 0.3 * X[:, :1]
    truth = np.zeros((COLUMNS, targets))
    truth[:4] = draw.normal(size=(4, targets)) + 1.0
    y = X @ truth + 0.3 * draw.normal(size=(ROWS, targets))
    X, y = X - X.mean(0), y - y.mean(0)
    return X, y


Start = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Start] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.03),
    "rmsprop_momentum": lambda p: torch.optim.RMSprop(p, lr=0.015, momentum=0.5),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
}


def solve(start: Start, X: np.ndarray, y: np.ndarray, term: Any, steps: int = 1000) -> tuple[np.ndarray, Tensor]:
    """Full-batch training of a linear model on the mean squared error; its weights and the last gradient.

    The learning rate is constant for two thirds of the steps, and then falls by a factor of 10,000.
    """
    net = nn.Linear(X.shape[1], y.shape[1], bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    optimizer = wp.regularize(start(net.parameters()), net, [term])
    first = [group["lr"] for group in optimizer.param_groups]
    gram, right = torch.tensor(2 / ROWS * X.T @ X), torch.tensor(2 / ROWS * y.T @ X)
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * min(1.0, 1e-4 ** (3 * step / steps - 2))
        net.weight.grad = net.weight.detach() @ gram - right
        optimizer.step()
    w = net.weight.detach()
    return w.numpy().copy(), w @ gram - right


def oracle(kind: str, a: float, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, Any]:
    """scikit-learn's solution and our penalty in its convention; the squared error is a mean without 1/2."""
    settings = {"fit_intercept": False, "tol": 1e-14, "max_iter": 100_000}
    if kind == "lasso":
        return Lasso(alpha=a, **settings).fit(X, y[:, 0]).coef_[None], wp.L1(2 * a)
    if kind == "elastic_net":
        fitted = SkElasticNet(alpha=a, l1_ratio=0.3, **settings).fit(X, y[:, 0])
        return fitted.coef_[None], wp.ElasticNet(2 * a, mix=0.3)
    if kind == "ridge":
        return Ridge(alpha=a, fit_intercept=False).fit(X, y[:, 0]).coef_[None], wp.L2(2 * a / len(X))
    fitted = MultiTaskLasso(alpha=a, **settings).fit(X, y)
    return fitted.coef_, wp.GroupL2(2 * a / math.sqrt(y.shape[1]), by="input")


@pytest.mark.parametrize(
    ("kind", "a", "targets", "name"),
    [
        # Two of the three for each optimizer. The lasso by other optimizers is in tests/test_metrics.py.
        pytest.param(*model, name, marks=() if (i + j) % 3 else pytest.mark.nightly)
        for i, model in enumerate([("lasso", 0.3, 1), ("elastic_net", 0.3, 1), ("groups", 0.4, 3)])
        for j, name in enumerate(OPTIMIZERS)
    ],
)
def test_the_limit_is_that_of_scikit_learn(kind: str, a: float, targets: int, name: str) -> None:
    X, y = table(targets)
    wanted, penalty = oracle(kind, a, X, y)
    adaptive = not isinstance(OPTIMIZERS[name]([torch.zeros(1)]), torch.optim.SGD)
    found, grad = solve(OPTIMIZERS[name], X, y, penalty.on(wp.weights, how="prox"), steps=1600 if adaptive else 800)
    assert np.abs(found - wanted).max() < 1e-6
    assert np.array_equal(found == 0, wanted == 0)
    if kind in ("lasso", "groups"):
        assert (wanted == 0).any()
        assert (wanted != 0).any()
    assert float(penalty.violation(torch.tensor(found), grad)) < 5e-6


def test_decay_is_ridge_for_plain_sgd_and_a_smaller_one_under_momentum() -> None:
    """Momentum divides decay: what the audit calls the effective strength is what is solved."""
    X, y = table()
    wanted, penalty = oracle("ridge", 20.0, X, y)
    found, _ = solve(OPTIMIZERS["sgd"], X, y, penalty.on())
    assert np.abs(found - wanted).max() < 1e-9
    for name in ("momentum", "nesterov", "dampened"):
        net = nn.Linear(COLUMNS, 1, bias=False, dtype=torch.float64)
        audit = wp.regularize(OPTIMIZERS[name](net.parameters()), net, penalty.on()).audit()
        effective = audit.rows[0].effective_strength
        assert effective == pytest.approx(penalty.strength * {"dampened": 0.5 / 0.7}.get(name, 0.1))
        smaller, _ = oracle("ridge", effective * len(X) / 2, X, y)
        found, _ = solve(OPTIMIZERS[name], X, y, penalty.on())
        assert np.abs(found - smaller).max() < 1e-9
        assert np.abs(found - wanted).max() > 0.1


@pytest.mark.parametrize("name", ["momentum", "dampened"])
def test_the_learning_rate_alone_is_the_wrong_metric(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``lr`` for the effective step the lasso of strength 0.6 comes out as one of 0.06."""
    from wellposed.optim import optimizer_metrics

    def wrong(group: Any, state: Any, count: int) -> float:
        return float(group["lr"])

    monkeypatch.setattr(optimizer_metrics, "_sgd", wrong)
    monkeypatch.setitem(
        optimizer_metrics.METRICS, torch.optim.SGD, optimizer_metrics.OptimizerMetric(wrong, euclidean=True)
    )
    X, y = table()
    wanted, penalty = oracle("lasso", 0.3, X, y)
    found, _ = solve(OPTIMIZERS[name], X, y, penalty.on())
    assert np.abs(found - wanted).max() > 0.01
    weaker, _ = oracle("lasso", 0.3 * {"dampened": 0.5 / 0.7}.get(name, 0.1), X, y)
    assert np.abs(found - weaker).max() < 1e-9


def test_the_learning_rate_alone_is_the_wrong_metric_of_adaptive_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    from wellposed.optim import optimizer_metrics

    wrong = optimizer_metrics.OptimizerMetric(lambda group, state, count: float(group["lr"]))
    monkeypatch.setitem(optimizer_metrics.METRICS, torch.optim.Adam, wrong)
    X, y = table()
    wanted, penalty = oracle("lasso", 0.3, X, y)
    found, _ = solve(OPTIMIZERS["adam"], X, y, penalty.on())
    assert np.abs(found - wanted).max() > 0.05


def test_the_lasso_path_ends_where_all_is_zero() -> None:
    """From the largest gradient at zero on, L1 leaves nothing."""
    X, y = table()
    top = float(np.abs(2 / ROWS * X.T @ y).max())
    for strength, alive in ((1.001 * top, False), (0.999 * top, True)):
        found, _ = solve(OPTIMIZERS["sgd"], X, y, wp.L1(strength).on(), steps=1000)
        assert (found != 0).any() == alive
