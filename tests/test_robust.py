"""What people's own loops do to `regularize`: odd layers, shared and copied models, resumed states, and wrong arguments."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import wellposed as wp
from wellposed.core.errors import CompositionError, InputError, WellposedError

Make = Callable[[Any], torch.optim.Optimizer]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def batch(rows: int = 16) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))


def train(optimizer: Any, cost: Callable[[], Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cost().backward()
        optimizer.step()


def still(optimizer: Any, *weights: Tensor) -> None:
    """A step whose gradients are all 0: what moves is moved by the terms."""
    for w in weights:
        w.grad = torch.zeros_like(w)
    optimizer.step()


# Layers whose weight is not the parameter that is charged, or is laid out in another way.


def rescaled(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "weight_norm":
        return parametrizations.weight_norm(nn.Linear(4, 3))
    if kind == "spectral_norm":
        return parametrizations.spectral_norm(nn.Linear(4, 3))
    return parametrizations.orthogonal(nn.Linear(4, 3))


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("penalty", [wp.L1(5.0), wp.GroupL2(5.0), wp.RowL21(5.0)], ids=lambda p: p.name)
def test_zeros_in_a_layer_that_divides_by_its_norm_are_refused_or_stay_finite(kind: str, penalty: Any) -> None:
    """A unit that is shrunk to 0 is then divided by its norm: 0/0."""
    layer = rescaled(kind)
    net, x = nn.Sequential(layer, nn.Linear(3, 1)), batch()
    try:
        optimizer = wp.regularize(sgd(net.parameters()), net, [penalty.on("0")])
    except WellposedError:
        return
    train(optimizer, lambda: (net(x) - x.sum(1, keepdim=True)).square().mean(), 60)
    assert torch.isfinite(net(x)).all()


def test_a_bound_on_a_weight_normed_layer_holds_for_its_weight_or_is_refused() -> None:
    """The audit says ``loss over the set MaxNorm``: then the layer's weight is in that set."""
    layer = rescaled("weight_norm")
    net, x = nn.Sequential(layer, nn.Linear(3, 1)), batch()
    try:
        optimizer = wp.regularize(sgd(net.parameters()), net, [wp.MaxNorm(0.1).on("0")])
    except WellposedError:
        return
    train(optimizer, lambda: net(x).square().mean(), 3)
    weight: Any = layer.weight
    assert bool((weight.detach().norm(dim=1) <= 0.1001).all())


@pytest.mark.parametrize("term", [wp.MaxNorm(0.1), wp.L1(5.0), wp.L1Ball(0.1)], ids=lambda term: term.name)
def test_an_orthogonal_layer_stays_orthogonal_or_the_term_is_refused(term: Any) -> None:
    """What torch keeps of it is no weight but a point on a manifold, which shrinking leaves."""
    layer = rescaled("orthogonal")
    net, x = nn.Sequential(layer, nn.Linear(3, 1)), batch()
    try:
        optimizer = wp.regularize(sgd(net.parameters()), net, [term.on("0")])
    except WellposedError:
        return
    train(optimizer, lambda: net(x).square().mean(), 3)
    weight: Any = layer.weight
    torch.testing.assert_close((weight @ weight.mT).detach(), torch.eye(3), atol=1e-4, rtol=0.0)


def test_units_of_a_transposed_convolution_are_its_outputs_or_refused() -> None:
    """Its kernel is ``(in, out, k...)``: an index of axis 0 is an input, not a unit."""
    layer = nn.ConvTranspose2d(2, 5, 3, bias=False)
    with torch.no_grad():
        layer.weight.mul_(100.0)
    try:
        optimizer = wp.regularize(sgd(layer.parameters()), layer, [wp.MaxNorm(0.5, by="unit").on()])
    except WellposedError:
        return
    still(optimizer, layer.weight)
    norms = layer.weight.detach().square().sum((0, 2, 3)).sqrt()
    torch.testing.assert_close(norms, torch.full((5,), 0.5))


def test_inputs_of_a_grouped_convolution_are_its_channels_or_refused() -> None:
    """Axis 1 of a depthwise kernel ``(channels, 1, k, k)`` has one index for all channels."""
    layer = nn.Conv2d(4, 4, 3, groups=4, bias=False)
    with torch.no_grad():
        layer.weight.mul_(100.0)
    try:
        optimizer = wp.regularize(sgd(layer.parameters()), layer, [wp.MaxNorm(0.5, by="channel").on()])
    except WellposedError:
        return
    still(optimizer, layer.weight)
    norms = layer.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((4,), 0.5))


@pytest.mark.parametrize("penalty", [wp.Nuclear(1e-3), wp.Spectral(1e-3)], ids=lambda p: p.name)
def test_a_feature_of_small_scale_does_not_erase_the_matrix_under_adam(penalty: Any) -> None:
    """Its steps are a thousand times those of the others: one step for the whole matrix must not be theirs."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=source)
    x[:, 5] *= 1e-3
    y = x @ torch.randn(6, 4, generator=source)
    torch.manual_seed(0)
    net = nn.Linear(6, 4)
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=1e-2), net, [penalty.on()])
    train(optimizer, lambda: (net(x) - y).square().mean(), 800)
    with torch.no_grad():
        assert float((net(x) - y).square().mean()) < 0.1 * float(y.square().mean())


def test_the_audit_says_where_half_precision_rounds_the_terms_away() -> None:
    """In bfloat16 ``w * (1 - 1e-3)`` is ``w``: a thousand steps of decay, or of shrinkage, move nothing."""
    net = nn.Linear(50, 50).to(torch.bfloat16)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=1e-2), net, [wp.L2(0.1).on(), wp.L1(1e-3).on()])
    before = net.weight.detach().clone()
    for _ in range(100):
        still(optimizer, net.weight)
    shrunk = float(net.weight.detach().float().norm() / before.float().norm())
    assert shrunk < 0.95 or "bfloat16" in str(optimizer.audit())


# What can be known when terms are bound is refused then, not in the middle of training.


@pytest.mark.parametrize("other", [wp.MCP(1e-3), wp.L1SP(1e-3), wp.TotalVariation(1e-3)], ids=lambda p: p.name)
def test_a_strength_that_rises_from_0_is_checked_with_what_it_will_stand_beside(other: Any) -> None:
    net = small_net()
    with pytest.raises(CompositionError, match="no proven joint"):
        wp.regularize(sgd(net.parameters()), net, [wp.L1(1e-3).on(schedule=wp.ramp(5)), other.on()])


def test_a_norm_bound_stands_beside_rates_of_single_weights() -> None:
    net, x = nn.Linear(4, 3), batch()
    optimizer = wp.regularize(
        sgd(net.parameters()), net, [wp.NormBound(0.5).on(), wp.WeightedL1(1e-3, torch.rand(3, 4)).on()]
    )
    train(optimizer, lambda: (net(x) - 3.0 * x[:, :3]).square().mean(), 300)
    assert float(net.weight.detach().norm()) == pytest.approx(0.5, rel=0.05)


def test_a_norm_bound_follows_its_model_into_another_precision() -> None:
    net, x = nn.Linear(4, 3), batch()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.NormBound(0.5).on()])
    train(optimizer, lambda: net(x).square().mean(), 2)
    net.double()
    train(optimizer, lambda: net(x.double()).square().mean(), 2)
    assert net.weight.dtype == torch.float64


def test_a_step_that_fails_moves_nothing() -> None:
    """A schedule that gives NaN is asked before the optimizer's own step, so that a second try is the first."""
    net, x = small_net(), batch()
    coupled = wp.TiedGroups(0.1, {"2.weight": "unit", "2.bias": "unit"})
    schedule = lambda step: float("nan") if step == 1 else 1.0  # noqa: E731
    optimizer = wp.regularize(sgd(net.parameters()), net, [coupled.on(schedule=schedule)])
    train(optimizer, lambda: net(x).square().mean(), 1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match="schedule"):
        train(optimizer, lambda: net(x).square().mean(), 1)
    assert all(torch.equal(w, before[name]) for name, w in net.state_dict().items())


def test_a_parameter_that_its_optimizer_still_moves_is_kept_in_its_set() -> None:
    """Frozen with its last gradient in place: torch's optimizers go on, and so must the terms."""
    net, x = nn.Linear(4, 3), batch()
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net, [wp.MaxNorm(0.01).on()])
    train(optimizer, lambda: (net(x) - 10.0).square().mean(), 1)
    net.weight.requires_grad_(False)
    optimizer.step()
    assert float(net.weight.norm(dim=1).max()) <= 0.0101


def test_a_decay_of_more_than_all_of_a_weight_is_refused_or_stops_at_0() -> None:
    """``1 - lr*strength < 0`` turns every sign at every step."""
    net = nn.Linear(4, 3)
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.L2(30.0).on()])
    before = net.weight.detach().clone()
    try:
        still(optimizer, net.weight)
    except InputError:
        return
    assert bool((net.weight.detach() * before >= 0).all())


# The learning rates that scaled decays are measured by.


def decay_of_first_step(scaling: str, **cycle: Any) -> float:
    net = nn.Linear(4, 3)
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.L2.decoupled(0.1, scaling).on()])
    torch.optim.lr_scheduler.OneCycleLR(optimizer, total_steps=100, **cycle)
    before = net.weight.detach().clone()
    still(optimizer, net.weight)
    return float(1.0 - (net.weight.detach() / before).mean())


def test_the_largest_rate_of_a_cycle_is_known_before_it_is_reached() -> None:
    """timm: ``lr^2/largest * amount`` with the largest rate of the schedule, 1.0, from ``lr = 0.04`` on."""
    assert decay_of_first_step("timm", max_lr=1.0) == pytest.approx(0.04 * 0.04 / 1.0 * 0.1, rel=1e-2)


def test_the_first_rate_is_the_one_that_the_optimizer_was_built_with() -> None:
    """Composer: ``lr/first * amount``; a cycle writes its own start, 0.04, over ``initial_lr``."""
    assert decay_of_first_step("composer", max_lr=1.0) == pytest.approx(0.04 / 0.1 * 0.1, rel=1e-2)


# Activations: what is recorded is what this batch will be charged.


class Reused(nn.Module):
    """One ReLU after a convolution and after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.hidden, self.out = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.relu(self.hidden(self.relu(self.conv(x)).flatten(1))))
        return out


def test_a_module_that_is_used_at_several_shapes_is_charged() -> None:
    net, x = Reused(), torch.randn(3, 1, 4, 4)
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.ActivationL1(1e-3).on("relu")])
    net(x)
    assert float(optimizer.penalty().detach()) > 0


def test_a_copy_of_the_model_is_not_charged() -> None:
    """A teacher, an average or a target network carries the hooks of the model that it was copied from."""
    net, x = small_net(), batch()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.ActivationL2(1.0).on("1")])
    teacher = copy.deepcopy(net)
    net(x)
    teacher(100.0 * x)
    expected = 0.5 * net[0](x).detach().relu().square().sum(1).mean()
    assert float(optimizer.penalty().detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_model_whose_activations_are_charged_can_be_saved() -> None:
    net = small_net()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.ActivationL2(1.0).on("1")])
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again[0].weight, net[0].weight)
    assert optimizer.terms


def test_a_pass_that_has_been_differentiated_is_not_charged_again() -> None:
    """A GAN's generator trains through the discriminator before the discriminator's own step."""
    net, x = small_net(), batch()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.ActivationL2(1.0).on("1")])
    net(10.0 * x).square().mean().backward()
    loss = net(x).square().mean()
    expected = 0.5 * net[0](x).relu().detach().square().sum(1).mean()
    penalty = optimizer.penalty()
    (loss + penalty).backward()
    assert float(penalty.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_activations_that_a_checkpoint_computes_again_are_charged_once() -> None:
    """With several micro-batches a step: what backward computes of the last one is not of the next one."""
    net, x = small_net(), batch()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.ActivationL2(1.0).on("0")])
    for scale in (1.0, 2.0, 3.0):
        hidden = checkpoint(lambda z: net[1](net[0](z)), scale * x, use_reentrant=False)
        penalty = optimizer.penalty()
        with torch.no_grad():
            expected = 0.5 * nn.functional.linear(scale * x, net[0].weight, net[0].bias).square().sum(1).mean()
        assert float(penalty.detach()) == pytest.approx(float(expected), rel=1e-5)
        (net[2](hidden).square().mean() + penalty).backward()


# States: what is loaded or added later is held to what was checked when the terms were bound.


def test_a_loaded_state_does_not_bring_a_second_decay() -> None:
    net, x = small_net(), batch()
    bare = torch.optim.AdamW(net.parameters(), weight_decay=0.1)
    train(bare, lambda: net(x).square().mean(), 1)
    optimizer = wp.regularize(torch.optim.AdamW(net.parameters(), weight_decay=0.0), net, [wp.L2(0.1).on()])
    try:
        optimizer.load_state_dict(bare.state_dict())
    except CompositionError:
        return
    assert optimizer.param_groups[0]["weight_decay"] == 0.0


def test_a_group_that_joins_does_not_bring_a_second_decay() -> None:
    net = small_net()
    optimizer = wp.regularize(torch.optim.AdamW(net[0].parameters(), weight_decay=0.0), net, [wp.L2(0.1).on()])
    with pytest.raises(CompositionError, match="twice"):
        optimizer.add_param_group({"params": list(net[2].parameters()), "weight_decay": 0.1})


def test_a_state_of_other_terms_is_said_or_passed_over() -> None:
    """References are saved by the number of their term; the term with that number may be another one now."""
    net = small_net()
    state = wp.regularize(sgd(net.parameters()), net, [wp.L2SP(1e-3).on()]).state_dict()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.L1(1e-3).on()])
    try:
        optimizer.load_state_dict(state)
    except WellposedError:
        return
    assert optimizer.terms[0].charge == wp.L1(1e-3)


def test_terms_that_read_alike_are_both_in_values() -> None:
    net = small_net()
    optimizer = wp.regularize(
        sgd(net.parameters()),
        net,
        [wp.L1(0.1).on(lambda name, _: name == "0.weight"), wp.L1(0.1).on(lambda name, _: name == "2.weight")],
    )
    whole = 0.1 * sum(float(layer.weight.detach().abs().sum()) for layer in (net[0], net[2]))
    assert sum(optimizer.values().values()) == pytest.approx(whole, rel=1e-5)


# Lookahead.


def test_a_hook_on_lookahead_sees_terms_enforced() -> None:
    net, x = small_net(), batch()
    optimizer = wp.Lookahead(wp.regularize(sgd(net.parameters()), net, [wp.MaxNorm(0.01).on()]))
    seen: list[float] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(float(net[0].weight.detach().norm(dim=1).max())))
    train(optimizer, lambda: net(x).square().mean(), 1)
    assert len(seen) == 1
    assert seen[0] <= 0.0101


def test_lookahead_projects_on_the_bound_of_the_step_that_it_ends() -> None:
    net, x = small_net(), batch()
    bound = wp.MaxNorm(1.0).on(schedule=lambda step: 1.0 if step < 5 else 1e-3)
    optimizer = wp.Lookahead(wp.regularize(sgd(net.parameters()), net, [bound]), every=5)
    with torch.no_grad():
        net[0].weight.mul_(5.0)
    train(optimizer, lambda: net(x).square().mean(), 5)
    assert float(net[0].weight.detach().norm(dim=1).max()) > 0.1


# The audit: every sentence is true.


def audited(make: Make, terms: list[Any]) -> list[Any]:
    net = nn.Linear(4, 3, bias=False)
    return list(wp.regularize(make(net.parameters()), net, terms).audit().rows)


DECOUPLED: dict[str, Make] = {
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, weight_decay=0.1),
    "a group of Adam": lambda p: torch.optim.Adam(
        [{"params": list(p), "weight_decay": 0.1, "decoupled_weight_decay": True}], lr=0.1
    ),
}
if hasattr(torch.optim, "Muon"):
    DECOUPLED["Muon"] = lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.1)


@pytest.mark.parametrize("name", DECOUPLED)
def test_the_audit_knows_whose_own_decay_is_decoupled(name: str) -> None:
    """They multiply the weights by ``1 - lr*weight_decay``, outside of their own metric: no L2 objective is solved."""
    (row,) = audited(DECOUPLED[name], [])
    assert row.effective_strength is None
    assert "no fixed objective" in row.objective


MIXING: dict[str, Make] = {
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Rprop": lambda p: torch.optim.Rprop(p),
    "LBFGS": lambda p: torch.optim.LBFGS(p),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_projection_after_a_step_of_unknown_metric_is_not_called_stationary(name: str) -> None:
    try:
        rows = audited(MIXING[name], [wp.MaxNorm(1.0).on()])
    except CompositionError:
        return
    assert "not stationary" in rows[-1].objective


def test_an_interval_after_a_step_that_mixes_coordinates_is_solved_or_not_called_so() -> None:
    """Clipping a quasi-Newton step stands still where the projected gradient does not: at (16.9, 0) in place of (1, 0)."""
    net = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(0.5)
    curvature = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    center = torch.tensor([1.0, -2.0], dtype=torch.float64)
    try:
        optimizer = wp.regularize(torch.optim.LBFGS(net.parameters(), lr=1.0), net, [wp.NonNegative().on()])
    except CompositionError:
        return

    def closure() -> Tensor:
        optimizer.zero_grad()
        w = net.weight[0]
        cost = 0.5 * w @ curvature @ w - center @ w
        cost.backward()
        return cost

    for _ in range(50):
        optimizer.step(closure)
    solved = torch.allclose(net.weight.detach()[0], torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-6)
    assert solved or "not stationary" in optimizer.audit().rows[-1].objective


def test_a_norm_bound_by_decay_under_adam_is_not_called_stationary() -> None:
    """The bound is met, but ``grad + multiplier*w`` is not 0: decay is not in the optimizer's metric."""
    rows = audited(lambda p: torch.optim.Adam(p, lr=0.1), [wp.NormBound(1.0).on(how="decay")])
    assert "not stationary" in rows[-1].objective or "no fixed objective" in rows[-1].objective


def test_a_model_that_was_put_together_for_the_call_can_be_audited() -> None:
    """Two models with one optimizer: nobody else keeps the dict that joins them."""
    first, second = small_net(), small_net()
    optimizer = wp.regularize(
        sgd([*first.parameters(), *second.parameters()]),
        nn.ModuleDict({"first": first, "second": second}),
        [wp.L1(0.1).on("first"), wp.L2(0.1).on("second")],
    )
    assert {row.term for row in optimizer.audit().rows} == {"-", "L1(strength=0.1)", "L2(strength=0.1)"}


def test_a_strength_of_numpy_reads_as_a_number() -> None:
    assert str(wp.L1(np.float64(0.1))) == "L1(strength=0.1)"


# Mistakes of people: one sentence that says what was given, needed and to be done, and no traceback from inside.


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(1), torch.tensor(0.5)], ids=["float32", "int64", "tensor"])
def test_a_number_of_another_library_is_taken_or_the_error_says_what_to_write(value: Any) -> None:
    try:
        penalty = wp.L1(value)
    except InputError as error:
        assert "float(" in str(error) or "Python number" in str(error)  # noqa: PT017
        return
    assert float(penalty.strength) == float(value)


def models_in_its_place(net: nn.Module) -> dict[str, Any]:
    return {"generator": net.parameters(), "list": list(net.parameters()), "state_dict": net.state_dict(), "none": None}


@pytest.mark.parametrize("given", ["generator", "list", "state_dict", "none"])
def test_parameters_in_place_of_the_model(given: str) -> None:
    net = small_net()
    with pytest.raises(InputError, match="model"):
        wp.regularize(sgd(net.parameters()), models_in_its_place(net)[given], [wp.L1(1e-3).on()])


@pytest.mark.parametrize(
    "terms",
    [None, 1e-3, wp.L1(1e-3), "l1", [1e-3], [wp.L1(1e-3)], [[wp.L1(1e-3).on()]], small_net()],
    ids=["None", "a number", "unbound", "a name", "numbers", "a list of unbound", "nested", "the model"],
)
def test_what_is_no_list_of_terms(terms: Any) -> None:
    net = small_net()
    with pytest.raises(InputError, match="term"):
        wp.regularize(sgd(net.parameters()), net, terms)


@pytest.mark.parametrize("place", ["a module", "a parameter", "parameters", "a list of parameters", "one argument"])
def test_places_that_are_no_selectors(place: str) -> None:
    net = small_net()
    where: dict[str, Any] = {
        "a module": net[0],
        "a parameter": net[0].weight,
        "parameters": net.parameters(),
        "a list of parameters": [net[0].weight],
        "one argument": lambda parameter: True,
    }
    with pytest.raises(InputError, match=r"selector|predicate"):
        wp.regularize(sgd(net.parameters()), net, [wp.L1(1e-3).on(where[place])])


def test_a_module_in_place_of_its_name_for_activations() -> None:
    net = small_net()
    with pytest.raises(InputError, match=r"glob|name"):
        wp.regularize(sgd(net.parameters()), net, [wp.ActivationL1(1e-3).on(net[1])])


@pytest.mark.parametrize(
    "schedule", [lambda: 1.0, lambda step: None, lambda step: "1"[step:]], ids=["()", "None", "str"]
)
def test_schedules_that_are_no_functions_of_a_step_to_a_number(schedule: Any) -> None:
    net = small_net()

    def two_steps() -> None:
        optimizer = wp.regularize(sgd(net.parameters()), net, [wp.L1(1e-3).on(schedule=schedule)])
        still(optimizer, net[0].weight)
        still(optimizer, net[0].weight)

    with pytest.raises(InputError, match="schedule"):
        two_steps()


def test_outputs_that_are_no_tensor() -> None:
    """Many models give a tuple, or an object whose logits are meant."""
    net = small_net()
    optimizer = wp.regularize(sgd(net.parameters()), net, [wp.Confidence(0.1).on()])
    outputs: Any = (net(batch()), None)
    with pytest.raises(InputError, match="tensor"):
        optimizer.penalty(outputs)
