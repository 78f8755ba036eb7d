"""Charges of outputs, activations and input gradients: values by hand, laws of a mean, and wrong ones that are caught."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charges import equal
from wellposed.core.errors import InputError, ShapeError
from wellposed.penalties import functional
from wellposed.penalties.base import Context, FunctionalPenalty
from wellposed.penalties.functional import (
    ActivationL1,
    ActivationL2,
    Confidence,
    Consistency,
    Jacobian,
    LogitL2,
    OfActivations,
)

Make = Callable[..., FunctionalPenalty]


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    before = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before)


# By hand.


def activation_l1_form(cls: Make) -> None:
    """Two examples, two modules: (1 + 3 + 0 + 2)/2 + (4 + 0 + 1 + 1)/2 = 6, times 0.5."""
    context = Context(activations={"a": f64([[1.0, -3.0], [0.0, 2.0]]), "b": f64([[[4.0], [0.0]], [[1.0], [-1.0]]])})
    equal(cls(0.5).value(context), 3.0)
    a = f64([[1.0, -3.0], [0.0, 2.0]]).requires_grad_()
    equal(torch.autograd.grad(cls(0.5).value(Context(activations={"a": a})), a)[0], [[0.25, -0.25], [0.0, 0.25]])


def activation_l2_form(cls: Make) -> None:
    """1/2 (1 + 9 + 0 + 4)/2 + 1/2 (16 + 0 + 1 + 1)/2 = 3.5 + 4.5, times 0.5."""
    context = Context(activations={"a": f64([[1.0, -3.0], [0.0, 2.0]]), "b": f64([[[4.0], [0.0]], [[1.0], [-1.0]]])})
    equal(cls(0.5).value(context), 4.0)


def confidence_form(cls: Make) -> None:
    """p = (3/4, 1/4) and (1/2, 1/2): log 2 - H is 3/4 log 3 - log 2 for the first, and 0 for the second."""
    sure = 0.75 * math.log(3.0) - math.log(2.0)
    outputs = f64([[math.log(3.0), 0.0], [5.0, 5.0]])
    equal(cls(2.0).value(Context(outputs=outputs)), sure)
    # One output is the logit of two values, as a column or as a vector; several are so if binary, and are summed.
    for shape in ((2, 1), (2,)):
        equal(cls(2.0).value(Context(outputs=f64([math.log(3.0), 0.0]).view(shape))), sure)
    both = f64([[math.log(3.0), -math.log(3.0)], [0.0, 0.0]])
    equal(cls(2.0, binary=True).value(Context(outputs=both)), 2 * sure)
    # Positions are averaged; the classes are on axis 1, or where axis says.
    tokens = outputs.unsqueeze(2).expand(2, 2, 3)
    equal(cls(2.0).value(Context(outputs=tokens)), sure)
    equal(cls(2.0, axis=-1).value(Context(outputs=tokens.movedim(1, 2))), sure)
    # Sure of one of four classes: log 4.
    equal(cls(1.0).value(Context(outputs=f64([[0.0, 1e4, 0.0, -1e4]]))), math.log(4.0))


def logit_l2_form(cls: Make) -> None:
    """0.5/2 * ((9 + 16) + (1 + 0))/2; of tokens a mean over positions."""
    outputs = f64([[3.0, -4.0], [1.0, 0.0]])
    equal(cls(0.5).value(Context(outputs=outputs)), 3.25)
    equal(cls(0.5).value(Context(outputs=outputs.unsqueeze(2).expand(2, 2, 5))), 3.25)
    equal(cls(0.5).value(Context(outputs=f64([1.0, 3.0]))), 1.25)


def consistency_form(cls: Make) -> None:
    """p = (3/4, 1/4) for the outputs, r = (1/2, 1/2) for the reference, in the first of two examples."""
    there = 0.5 * math.log(2.0 / 3.0) + 0.5 * math.log(2.0)
    back = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    outputs, reference = f64([[math.log(3.0), 0.0], [1.0, 2.0]]), f64([[7.0, 7.0], [1.0, 2.0]])
    context = Context(outputs=outputs, reference=reference)
    equal(cls(3.0).value(context), 3 * (there + back) / 4)
    equal(cls(3.0, both=False).value(context), 3 * there / 2)
    hot = Context(outputs=2.5 * outputs, reference=2.5 * reference)
    equal(cls(3.0, temperature=2.5, both=False).value(hot), 3 * 6.25 * there / 2)
    equal(cls(3.0, temperature=2.5).value(hot), 3 * 6.25 * (there + back) / 4)
    one = Context(outputs=f64([math.log(3.0), 0.0]), reference=f64([0.0, 0.0]))
    equal(cls(3.0, both=False).value(one), 3 * there / 2)
    values = Context(outputs=f64([[1.0, 2.0], [0.0, 0.0]]), reference=f64([[0.0, 4.0], [0.0, 0.0]]))
    equal(cls(3.0, of="values").value(values), 3 * (1 + 4) / 2)
    for both in (True, False):
        pair = [x.clone().requires_grad_() for x in (outputs, reference)]
        value = cls(1.0, both=both).value(Context(outputs=pair[0], reference=pair[1]))
        grads = torch.autograd.grad(value, pair, allow_unused=True)
        assert grads[0] is not None
        assert (grads[1] is not None and bool(grads[1].any())) == both, "who is moved"
        if not both:
            equal(grads[0], ((outputs.softmax(1) - reference.softmax(1)) / 2).tolist())


def jacobian_form(cls: Make) -> None:
    """f(x) = (2 x1, x1 x2) has J = ((2, 0), (x2, x1)): |J|^2 is 4 + 9 + 1 at (1, 3), and 4 + 0 + 4 at (2, 0)."""
    x = f64([[1.0, 3.0], [2.0, 0.0]]).requires_grad_()
    outputs = torch.stack([2 * x[:, 0], x[:, 0] * x[:, 1]], dim=1)
    for projections in (0, 2, 9):
        value = cls(0.5, projections=projections).value(Context(outputs=outputs, inputs=x))
        equal(value.detach(), 0.25 * (14 + 8) / 2)
        # d/dx of (4 + x1^2 + x2^2)/8 by example.
        equal(torch.autograd.grad(value, x, retain_graph=True)[0], [[0.25, 0.75], [0.5, 0.0]])
    square = outputs[:, 1] ** 2
    equal(cls(1.0).value(Context(outputs=square, inputs=x)).detach(), 0.5 * (18**2 + 6**2 + 0 + 0) / 2)
    draws = [cls(0.5, projections=1).value(Context(outputs=outputs, inputs=x, seed=s)).detach() for s in range(600)]
    found = torch.stack(draws)
    error = float(found.std()) / len(found) ** 0.5
    assert error > 1e-3, "random directions do not vary"
    assert abs(float(found.mean()) - 2.75) < 4 * error, "the mean over directions is not the charge"


FORMS: dict[type[FunctionalPenalty], Callable[[Make], None]] = {
    ActivationL1: activation_l1_form,
    ActivationL2: activation_l2_form,
    Confidence: confidence_form,
    Consistency: consistency_form,
    Jacobian: jacobian_form,
    LogitL2: logit_l2_form,
}

GIVEN: dict[type[FunctionalPenalty], list[dict[str, Any]]] = {
    ActivationL1: [{}],
    ActivationL2: [{}],
    Confidence: [{}, {"binary": True}],
    Consistency: [{}, {"both": False}, {"temperature": 3.0}, {"binary": True}, {"of": "values"}],
    Jacobian: [{}],
    LogitL2: [{}],
}


def test_every_class_is_tried() -> None:
    found = {
        cls
        for cls in vars(functional).values()
        if isinstance(cls, type) and issubclass(cls, FunctionalPenalty) and cls.__module__ == functional.__name__
    }
    assert {cls for cls in found if not inspect.isabstract(cls)} == set(FORMS) == set(GIVEN)


@pytest.mark.parametrize("cls", FORMS, ids=lambda cls: cls.__name__)
def test_closed_form(cls: type[FunctionalPenalty]) -> None:
    FORMS[cls](cls)


# The laws: what holds for each, on a network of its own.


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def context_of(net: nn.Sequential, x: Tensor) -> Context:
    """All that a penalty may ask for; the reference is the network on other inputs."""
    x = x.detach().clone().requires_grad_()
    hidden = net[0](x)
    return Context(net[2](net[1](hidden)), x, net(x.flip(1) + 0.3), {"0": hidden, "1": net[1](hidden)})


def rows(count: int = 8) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def gradient(penalty: FunctionalPenalty, parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Value and gradient of the parameters, accumulated over parts as training does it."""
    net = network()
    total = f64(0.0)
    for part in parts:
        value = penalty.value(context_of(net, part)) / len(parts)
        value.backward()
        total = total + value.detach()
    return total, [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]


def is_a_mean(penalty: FunctionalPenalty) -> None:
    """A batch twice over is the batch; equal parts, accumulated, are the whole; the order of examples is nothing."""
    whole, wanted = gradient(penalty, [rows()])
    assert float(whole) > 0
    assert any(bool(g.any()) for g in wanted)
    for parts in ([torch.cat([rows(), rows()])], rows().chunk(4), rows().chunk(8), [rows().flip(0)]):
        value, grads = gradient(penalty, parts)
        torch.testing.assert_close(value, whole, rtol=1e-12, atol=1e-14)
        for found, right in zip(grads, wanted, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def has_its_gradient(penalty: FunctionalPenalty) -> None:
    """Finite differences of the value along a direction of the parameters agree with the gradient."""
    if isinstance(penalty, Consistency) and not penalty.both:
        return  # the reference is held still, which finite differences of all parameters are not; see the closed form
    net = network()
    value = penalty.value(context_of(net, rows()))
    assert value.ndim == 0
    grads = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
    draw = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in net.parameters()]
    slope = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True) if g is not None)
    ends = []
    for sign in (1.0, -1.0):
        moved = network()
        for p, d in zip(moved.parameters(), direction, strict=True):
            p.data.add_(sign * 1e-5 * d)
        ends.append(float(penalty.value(context_of(moved, rows())).detach()))
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-6, abs=1e-8)


def is_linear_in_strength(penalty: FunctionalPenalty) -> None:
    """Twice the strength is twice the charge; strength 0 charges exactly nothing, whatever the outputs are."""
    context = context_of(network(), rows())
    once = penalty.value(context).detach()
    torch.testing.assert_close(penalty.times(2.0).value(context).detach(), 2 * once, rtol=1e-13, atol=0)
    none = penalty.times(0.0).value(context)
    assert none.ndim == 0
    assert float(none.detach()) == 0


def is_wide(penalty: FunctionalPenalty) -> None:
    """Half precision is widened before anything is summed; single and double stay what they are."""
    for dtype in (torch.float32, torch.float64):
        assert penalty.value(context_of(network(dtype), rows().to(dtype))).dtype == dtype
    if isinstance(penalty, Jacobian):
        return
    for dtype in (torch.float16, torch.bfloat16):
        context = context_of(network(), 3 * rows())
        narrow = replace_tensors(context, lambda x, to=dtype: x.detach().to(to))
        single = replace_tensors(narrow, lambda x: x.float())
        found = penalty.value(narrow)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, penalty.value(single), rtol=1e-6, atol=0)


def replace_tensors(context: Context, change: Callable[[Tensor], Tensor]) -> Context:
    outputs, inputs, reference = (
        None if x is None else change(x) for x in (context.outputs, context.inputs, context.reference)
    )
    return Context(outputs, inputs, reference, {name: change(a) for name, a in context.activations.items()})


LAWS = (is_a_mean, has_its_gradient, is_linear_in_strength, is_wide)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("cls", "given"), [(cls, given) for cls, all_ in GIVEN.items() for given in all_])
def test_laws(cls: type[FunctionalPenalty], given: dict[str, Any], law: Callable[[FunctionalPenalty], None]) -> None:
    law(cls(strength=0.7, **given))  # type: ignore[call-arg]


# Wrong ones.


class L1OfTheBatch(ActivationL1):
    def of(self, activation: Tensor) -> Tensor:
        return activation.abs() * activation.shape[0]


class L1OfCoordinates(ActivationL1):
    def of(self, activation: Tensor) -> Tensor:
        return activation.abs() / activation[0].numel()


class L1Signed(ActivationL1):
    def of(self, activation: Tensor) -> Tensor:
        return activation


class L1Detached(ActivationL1):
    def of(self, activation: Tensor) -> Tensor:
        return activation.detach().abs()


class L1OfOneModule(ActivationL1):
    def value(self, context: Context) -> Tensor:
        name, a = next(iter(context.activations.items()))
        return super().value(replace(context, activations={name: a}))


class L2WithoutHalf(ActivationL2):
    def of(self, activation: Tensor) -> Tensor:
        return activation.square()


class L2OfTheNorm(ActivationL2):
    def of(self, activation: Tensor) -> Tensor:
        return 0.5 * activation.square().sum().sqrt()


class L2Detached(ActivationL2):
    def of(self, activation: Tensor) -> Tensor:
        return 0.5 * activation.detach().square()


class L2Narrow(ActivationL2):
    def value(self, context: Context) -> Tensor:
        return 0.5 * self.strength * sum(a.square().sum() / len(a) for a in context.activations.values())  # type: ignore[return-value]


class ConfidenceOfTheBatch(Confidence):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(context) * context.outputs.shape[0]


class ConfidenceRewarded(Confidence):
    def value(self, context: Context) -> Tensor:
        return -super().value(context)


class ConfidenceOfUniform(Confidence):
    """KL(uniform || p): the arguments exchanged."""

    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        outputs = context.outputs
        log_p = torch.stack([F.logsigmoid(outputs), F.logsigmoid(-outputs)], -1) if self.binary else outputs
        return -self.strength * (log_p.log_softmax(-1).mean(-1) + math.log(log_p.shape[-1])).mean()


class ConfidenceByLogOfSoftmax(Confidence):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        if context.outputs.ndim != 2 or context.outputs.shape[1] == 1 or self.binary:
            return super().value(context)
        p = context.outputs.softmax(1)
        return self.strength * (math.log(p.shape[1]) + (p * p.log()).sum(1)).mean()


class ConfidenceDetached(Confidence):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(replace(context, outputs=context.outputs.detach())) + 0 * context.outputs.sum()


class LogitL2WithoutHalf(LogitL2):
    def value(self, context: Context) -> Tensor:
        return 2 * super().value(context)


class LogitL2OfTheBatch(LogitL2):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(context) * context.outputs.shape[0]


class LogitL2OfCoordinates(LogitL2):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return 0.5 * self.strength * context.outputs.square().mean()


class LogitL2Centered(LogitL2):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        outputs = context.outputs
        return super().value(replace(context, outputs=outputs - outputs.mean(-1, keepdim=True)))


class ConsistencySwapped(Consistency):
    def value(self, context: Context) -> Tensor:
        if self.both:
            return super().value(context)
        return super().value(replace(context, outputs=context.reference, reference=context.outputs))


class ConsistencyWithoutTheSquare(Consistency):
    def value(self, context: Context) -> Tensor:
        return super().value(context) / self.temperature**2


class ConsistencyOfTheBatch(Consistency):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(context) * context.outputs.shape[0]


class ConsistencyWithoutHalf(Consistency):
    def value(self, context: Context) -> Tensor:
        return super().value(context) * (2 if self.both and self.of == "logits" else 1)


class ConsistencyTeacherMoves(Consistency):
    def value(self, context: Context) -> Tensor:
        if self.both or self.of == "values":
            return super().value(context)
        assert context.outputs is not None
        assert context.reference is not None
        t = self.temperature
        if context.outputs.ndim == 1:
            return super().value(context)
        log_r, log_p = (context.reference / t).log_softmax(1), (context.outputs / t).log_softmax(1)
        return self.strength * t * t * (log_r.exp() * (log_r - log_p)).sum(1).mean()


class ConsistencyOnePassHeld(Consistency):
    def value(self, context: Context) -> Tensor:
        assert context.reference is not None
        return super().value(replace(context, reference=context.reference.detach()))


class JacobianWithoutHalf(Jacobian):
    def value(self, context: Context) -> Tensor:
        return 2 * super().value(context)


class JacobianOfTheBatch(Jacobian):
    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(context) * context.outputs.shape[0]


class JacobianOfTheSum(Jacobian):
    """The gradient of the sum of outputs: columns are added before they are squared."""

    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(replace(context, outputs=context.outputs.reshape(len(context.outputs), -1).sum(1)))


class JacobianOnce(Jacobian):
    """Not differentiable again."""

    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        return super().value(context).detach() + 0 * context.outputs.sum()


class JacobianUnscaled(Jacobian):
    """Random directions without the factor K/n."""

    def value(self, context: Context) -> Tensor:
        assert context.outputs is not None
        width = context.outputs[0].numel()
        return super().value(context) * (self.projections / width if 0 < self.projections < width else 1.0)


MUTANTS = [
    cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, FunctionalPenalty) and cls.__module__ == __name__
]


def is_caught(cls: type[FunctionalPenalty]) -> str:
    """The message that catches a wrong class, or an empty string."""
    kind = next(right for right in FORMS if issubclass(cls, right))
    try:
        FORMS[kind](cls)
        for given in GIVEN[kind]:
            for law in LAWS:
                law(cls(strength=0.7, **given))  # type: ignore[call-arg]
    except (AssertionError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return ""


@pytest.mark.parametrize("cls", MUTANTS, ids=lambda cls: cls.__name__)
def test_a_wrong_penalty_is_caught(cls: type[FunctionalPenalty]) -> None:
    assert is_caught(cls), f"{cls.__name__} passed every law and its closed form"


def test_there_are_enough_mutants_and_right_ones_pass() -> None:
    for right in FORMS:
        assert sum(issubclass(cls, right) for cls in MUTANTS) >= 3
        assert not is_caught(right)


# Numbers at their ends.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-6, 50.0, 6e4])
def test_large_and_small_logits(size: float, dtype: torch.dtype) -> None:
    outputs = torch.tensor([[size, -size, 0.0], [0.0, size, size]], dtype=dtype, requires_grad=True)
    reference = torch.tensor([[-size, size, 0.0], [0.0, 0.0, size]], dtype=dtype, requires_grad=True)
    for penalty in (
        Confidence(1.0),
        Confidence(1.0, binary=True),
        Consistency(1.0),
        Consistency(1.0, both=False),
        Consistency(1.0, temperature=4.0, binary=True),
        LogitL2(1e-6),
    ):
        value = penalty.value(Context(outputs=outputs, reference=reference))
        (grad,) = torch.autograd.grad(value, outputs)
        assert math.isfinite(float(value.detach()))
        assert float(value.detach()) >= -1e-6
        assert torch.isfinite(grad).all()
        assert grad.dtype == dtype


def test_a_masked_class_adds_nothing() -> None:
    outputs = f64([[1.0, -math.inf, 0.0]]).requires_grad_()
    reference = f64([[0.5, -math.inf, 0.0]])
    for penalty in (Consistency(1.0), Consistency(1.0, both=False), Consistency(1.0, temperature=2.0)):
        value = penalty.value(Context(outputs=outputs, reference=reference))
        narrow = penalty.value(Context(outputs=outputs.detach()[:, [0, 2]], reference=reference[:, [0, 2]]))
        equal(value.detach(), float(narrow))
        assert torch.isfinite(torch.autograd.grad(value, outputs)[0]).all()
    value = Confidence(1.0).value(Context(outputs=outputs))
    equal(value.detach(), float(Confidence(1.0).value(Context(outputs=outputs.detach()[:, [0, 2]]))) + math.log(1.5))
    assert torch.isfinite(torch.autograd.grad(value, outputs)[0]).all()


def test_confidence_has_the_gradient_of_minus_the_entropy() -> None:
    outputs = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    entropy = torch.distributions.Categorical(logits=outputs).entropy().mean()
    found, wanted = (torch.autograd.grad(x, outputs)[0] for x in (Confidence(1.0).value(Context(outputs)), -entropy))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    assert float(Confidence(1.0).value(Context(torch.zeros(5, 7)))) == pytest.approx(0.0, abs=1e-6)


def test_two_classes_are_one_logit() -> None:
    z, y = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    two, other = (torch.stack([a, torch.zeros_like(a)], 1) for a in (z, y))
    for penalty in (Confidence(1.0), Consistency(1.0), Consistency(1.0, 2.0, both=False)):
        one = penalty.value(Context(outputs=z, reference=y))
        torch.testing.assert_close(one, penalty.value(Context(outputs=two, reference=other)), rtol=1e-12, atol=1e-14)


def test_hot_distillation_compares_centered_logits() -> None:
    """From ``T^2 KL`` the factor ``1/(2 classes) |z - y|^2`` of centered logits remains as ``T`` grows."""
    z, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    gap = (z - z.mean(1, keepdim=True)) - (y - y.mean(1, keepdim=True))
    wanted = gap.square().sum(1).mean() / 8
    for both in (True, False):
        hot = Consistency(1.0, temperature=1e3, both=both).value(Context(outputs=z, reference=y))
        torch.testing.assert_close(hot, wanted, rtol=1e-2, atol=0)


def test_the_same_outputs_are_consistent() -> None:
    outputs = torch.randn(5, 4, dtype=torch.float64)
    for given in GIVEN[Consistency]:
        equal(Consistency(1.0, **given).value(Context(outputs=outputs, reference=outputs)), 0.0)


def test_strength_0_takes_no_pass_and_gives_0_for_any_outputs() -> None:
    broken = f64([[math.inf, math.nan]])
    inputs = f64([[1.0]]).requires_grad_()
    context = Context(broken, inputs, broken, {"a": broken})
    for cls in FORMS:
        assert float(cls(0.0).value(context)) == 0.0  # type: ignore[call-arg]


# Directions of the Jacobian.


def test_directions_are_those_of_the_seed_and_the_step() -> None:
    base = context_of(network(), rows())

    def value(seed: int, step: int) -> float:
        return float(Jacobian(1.0, projections=1).value(replace(base, seed=seed, step=step)).detach())

    state = torch.get_rng_state()
    assert value(0, 0) == value(0, 0)
    assert len({value(0, 0), value(0, 1), value(1, 0), value(1, 1)}) == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_two_directions_vary_less_than_one() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    x = rows().requires_grad_()
    context = Context(outputs=net(x), inputs=x)
    exact = float(Jacobian(1.0).value(context).detach())
    spread = []
    for n in (1, 3, 5):
        draws = [float(Jacobian(1.0, projections=n).value(replace(context, seed=s)).detach()) for s in range(100)]
        spread.append(math.sqrt(sum((d - exact) ** 2 for d in draws) / len(draws)))
        assert sum(draws) / len(draws) == pytest.approx(exact, abs=4 * spread[-1] / 10)
    assert spread[0] > 1.5 * spread[1] > 2 * spread[2]


def test_the_jacobian_of_a_linear_network_is_its_matrix() -> None:
    net = nn.Linear(3, 2, dtype=torch.float64)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    value = Jacobian(1.0).value(Context(outputs=net(x), inputs=x))
    torch.testing.assert_close(value, 0.5 * net.weight.square().sum())
    value.backward()
    torch.testing.assert_close(net.weight.grad, net.weight.detach())


# Refusals.

X = torch.zeros(2, 3, requires_grad=True)
OUT = X * 2


@pytest.mark.parametrize(
    ("penalty", "context", "message"),
    [
        (Confidence(1.0), Context(), r"Confidence needs the outputs.*Call optimizer.penalty\(outputs\)"),
        (LogitL2(0.0), Context(), "LogitL2 needs the outputs"),
        (Consistency(1.0), Context(OUT), r"needs the reference.*penalty\(outputs, reference=\.\.\.\)"),
        (
            Jacobian(1.0),
            Context(OUT),
            r"needs the inputs.*requires_grad_\(\) .* optimizer.penalty\(outputs, inputs=x\)",
        ),
        (ActivationL1(1.0), Context(OUT), "needs the activations.*Run the model"),
        (ActivationL2(1.0), Context(activations={"rnn": (OUT, OUT)}), "the module 'rnn' gave tuple"),  # type: ignore[dict-item]
        (ActivationL2(1.0), Context(activations={"out": OUT.sum()}), "the module 'out' gave a single number"),
        (Jacobian(1.0), Context(OUT, OUT.detach()), r"with respect to the inputs. Call x.requires_grad_\(\)"),
        (Jacobian(1.0), Context(OUT.detach(), X), "do not depend on the inputs"),
        (Jacobian(1.0), Context(torch.zeros(2, 1, requires_grad=True) * 2, X), "do not depend on the inputs"),
        (Jacobian(1.0), Context(OUT[:1], X), "of the same examples; there are 1 and 2"),
        (Consistency(1.0), Context(OUT, None, OUT[:, :1]), r"outputs have \(2, 3\) and the reference has \(2, 1\)"),
        (Confidence(1.0), Context(OUT.sum()), "first axis of examples; they are a single number"),
        (Confidence(1.0, axis=2), Context(OUT), r"classes on axis 2; the outputs have shape \(2, 3\)"),
        (LogitL2(1.0, axis=-2), Context(OUT), r"whose axis 0 is the batch"),
    ],
)
def test_refusals(penalty: FunctionalPenalty, context: Context, message: str) -> None:
    with pytest.raises(InputError, match=message):
        penalty.value(context)


def test_impossible_settings() -> None:
    for cls in FORMS:
        for value in (-1.0, math.nan, math.inf, "1", None, True):
            with pytest.raises(InputError, match=rf"{cls.__name__} needs a finite strength >= 0"):
                cls(value)  # type: ignore[call-arg]
        with pytest.raises(InputError, match="cannot be enforced by how='prox'; it can by loss"):
            cls(1.0).on("0" if issubclass(cls, OfActivations) else None, how="prox")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="needs temperature= to be a number > 0"):
        Consistency(1.0, temperature=0.0)
    with pytest.raises(InputError, match="needs of= to be 'logits' or 'values'; it was given 'outputs'"):
        Consistency(1.0, of="outputs")  # type: ignore[arg-type]
    for given in ({"temperature": 2.0}, {"binary": True}):
        with pytest.raises(InputError, match="has no temperature and no binary"):
            Consistency(1.0, of="values", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs both= to be True or False; it was given 1"):
        Consistency(1.0, both=1)  # type: ignore[arg-type]
    for projections in (-1, 1.5, True):
        with pytest.raises(InputError, match="needs projections= to be a whole number >= 0"):
            Jacobian(1.0, projections=projections)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="looks for classes"):
        Confidence(1.0, axis=3).value(Context(OUT))
    with pytest.raises(InputError, match="which is not 0; it was given 0"):
        LogitL2(1.0, axis=0)
