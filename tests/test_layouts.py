"""Kernels of transposed and grouped convolutions, layers with parametrizations, and recorded activations."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import wellposed as wp
from wellposed.core.errors import CompositionError, InputError, ShapeError
from wellposed.core.selectors import leaves
from wellposed.optim.batch import axis_groups
from wellposed.optim.binding import bind
from wellposed.penalties.layouts import laid_out


def sgd(net: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr)


def still(optimizer: Any, *weights: Tensor) -> None:
    for w in weights:
        w.grad = torch.zeros_like(w)
    optimizer.step()


def kernel(layer: nn.Module) -> Any:
    return leaves(layer)[0]


# Who is an output, and who an input: told by what the layer computes.


LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(4, 6, bias=False),
    "conv": lambda: nn.Conv1d(4, 6, 3, bias=False),
    "transposed": lambda: nn.ConvTranspose1d(4, 6, 3, bias=False),
    "grouped": lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False),
    "transposed and grouped": lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False),
}


def reached(layer: nn.Module, by: str, index: int) -> Tensor:
    """The weights between one unit (or input) of a layer and all others, by differentiating what it computes."""
    x = torch.ones(1, 4) if isinstance(layer, nn.Linear) else torch.ones(1, 4, 5)
    if by == "unit":
        out = layer(x)[:, index].sum()
    else:
        one = torch.zeros_like(x)
        one[:, index] = 1.0
        out = layer(one).sum()
    return torch.autograd.grad(out, [kernel(layer).tensor])[0] != 0


@pytest.mark.parametrize("by", ["unit", "input"])
@pytest.mark.parametrize("name", LAYERS)
def test_groups_are_the_weights_of_one_unit_or_input_or_are_refused(name: str, by: str) -> None:
    layer = LAYERS[name]()
    leaf = kernel(layer)
    charges: list[Any] = [
        wp.GroupL2(1.0, by=by),
        wp.SparseGroup(1.0, by=by),
        wp.GroupMCP(1.0, by=by),
        wp.MaxNorm(1.0, by=by),
    ]
    charges += [wp.L1Ball(1.0, by=by), wp.UnitNorm(by=by), wp.Simplex(by=by), wp.TopK(1, by=by)]
    charges += [wp.RowL21(1.0)] if by == "unit" else []
    if (name, by) in {("grouped", "input"), ("transposed and grouped", "unit")}:
        for charge in charges:
            with pytest.raises(ShapeError, match=r"groups=2.* Use by="):
                charge.at(leaf)
        return
    for index in range(6 if by == "unit" else 4):
        wanted = reached(layer, by, index)
        for charge in charges:
            here = charge.at(leaf)
            assert here.at(leaf) == here
            axis = wp.GroupL2(1.0, by=here.by).axis
            assert torch.equal(wanted, torch.zeros_like(wanted).index_fill(axis, torch.tensor(index), True))


def test_an_axis_that_is_given_by_number_stays() -> None:
    layer = LAYERS["transposed and grouped"]()
    for axis in ("axis 0", "axis 1"):
        assert laid_out(wp.GroupL2(1.0), axis, kernel(layer)) == axis
    rows = wp.regularize(sgd(layer), layer, [wp.MaxNorm(0.5, by="axis 0").on()]).audit().rows
    assert "MaxNorm(bound=0.5, by='axis 0')" in str(rows[0])


@pytest.mark.parametrize(("number", "name"), [("axis 0", "unit"), ("axis 1", "input")])
def test_by_number_is_by_name(number: str, name: str) -> None:
    """Bit for bit, so that the laws, which are tried by name, hold by number too."""
    draw = torch.Generator().manual_seed(0)
    w, grad, step = torch.randn(3, 4, 3, 2, generator=draw, dtype=torch.float64)
    w[1] = 0.0
    for cls in (wp.GroupL2, wp.SparseGroup, wp.GroupMCP, wp.RowL21):
        one, other = (cls(0.3, by=by) for by in (number, name))
        assert torch.equal(one.value(w), other.value(w))
        assert torch.equal(one.violation(w, grad), other.violation(w, grad))
        assert all(torch.equal(one.prox(w, t), other.prox(w, t)) for t in (0.7, step.abs()))
    one_set, other_set = (wp.MaxNorm(0.5, by=by) for by in (number, name))
    assert torch.equal(one_set.project(w), other_set.project(w))


def operators(layer: nn.Module, penalty: Any, bound: Any, lr: float) -> Tensor:
    """What one step without a gradient gives, by the operators of the public classes on the kernel turned round."""
    w = kernel(layer).tensor.detach().transpose(0, 1)
    moved: Tensor = bound.project(penalty.prox(w, lr)).transpose(0, 1)
    return moved


@pytest.mark.parametrize("penalty", [wp.GroupL2(0.3), wp.RowL21(0.8), wp.SparseGroup(0.3)], ids=lambda p: p.name)
def test_kernels_and_operators_agree_on_transposed_kernels(penalty: Any) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 5, 3, bias=False).double()
    bound = wp.MaxNorm(0.2)
    wanted = operators(layer, penalty, bound, 0.1)
    optimizer = wp.regularize(sgd(layer), layer, [penalty.on(), bound.on()])
    (one,) = optimizer.binding.charged
    prox = one.plan(0).prox
    assert prox is not None
    found = axis_groups(prox.core, one.leaf.tensor)
    assert found is not None
    assert found.axis == 1
    still(optimizer, layer.weight)
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-10, atol=1e-12)
    assert 0 < float(layer.weight.detach().norm()) < float(layer.weight.numel())


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam], ids=["sgd", "adam"])
def test_a_transposed_layer_trains_as_its_kernel_turned_round(make: Any) -> None:
    """With 1x1 kernels both layers are the same map."""
    torch.manual_seed(0)
    plain: Any
    turned: Any
    plain, turned = nn.Conv2d(4, 3, 1).double(), nn.ConvTranspose2d(4, 3, 1).double()
    with torch.no_grad():
        turned.weight.copy_(plain.weight.transpose(0, 1))
        turned.bias.copy_(plain.bias)
    x = torch.randn(8, 4, 2, 2, dtype=torch.float64)
    terms = [wp.GroupL2(0.02, by="unit").on(), wp.MaxNorm(0.5, by="unit").on()]
    for net in (plain, turned):
        optimizer = wp.regularize(make(net.parameters(), lr=0.02), net, terms)
        for _ in range(40):
            optimizer.zero_grad()
            (net(x) - x[:, :3]).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(plain.weight, turned.weight.transpose(0, 1), rtol=1e-9, atol=1e-12)


def test_groups_that_are_cut_in_another_way_are_refused_on_transposed_kernels_too() -> None:
    layer = nn.ConvTranspose2d(3, 5, 3)
    with pytest.raises(CompositionError, match="no proven joint step"):
        wp.regularize(sgd(layer), layer, [wp.GroupL2(0.1).on(), wp.MaxNorm(0.1, by="input").on()])
    wp.regularize(sgd(layer), layer, [wp.GroupL2(0.1, by="channel").on(), wp.MaxNorm(0.1, by="input").on()])


def test_tied_groups_know_the_axes_of_transposed_kernels() -> None:
    net: Any = nn.Sequential(nn.ConvTranspose2d(2, 6, 3), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 2, 3))
    tied = wp.TiedGroups(50.0, {"0.weight": "unit", "0.bias": "unit", "1.weight": "unit", "2.weight": "input"})
    optimizer = wp.regularize(sgd(net), net, [tied.on()])
    still(optimizer, *net.parameters())
    assert not net[0].weight.any()
    assert not net[2].weight.any()
    grouped = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 3, groups=2))
    with pytest.raises(ShapeError, match="groups=2"):
        wp.regularize(sgd(grouped), grouped, [wp.TiedGroups(0.1, {"0.weight": "unit", "1.weight": "input"}).on()])


def test_a_hierarchy_needs_its_inputs_on_axis_1() -> None:
    net = nn.ModuleDict({"skip": nn.Linear(3, 3), "first": nn.ConvTranspose1d(3, 3, 2)})
    charge = wp.Hierarchical(0.1, skip="skip.weight", first="first.weight")
    with pytest.raises(ShapeError, match="inputs on axis 1"):
        wp.regularize(sgd(net), net, [charge.on()])


@pytest.mark.parametrize("name", ["conv", "transposed", "grouped", "transposed and grouped"])
def test_matrices_of_kernels_have_the_singular_values_of_the_layer_at_one_patch(name: str) -> None:
    layer = LAYERS[name]()
    leaf = kernel(layer)
    if "transposed" in name:
        matrix = torch.stack([layer(row.view(1, 4, 1)).flatten() for row in torch.eye(4)], 1)
    else:
        matrix = torch.stack([layer(patch.view(1, 4, 3)).flatten() for patch in torch.eye(12)], 1)
    wanted = torch.linalg.svdvals(matrix)
    nuclear = wp.Nuclear(1.0).at(leaf)
    torch.testing.assert_close(nuclear.value(leaf.tensor), wanted.sum())
    ball = wp.SpectralBall(0.5 * float(wanted[0].detach())).at(leaf)
    with torch.no_grad():
        leaf.tensor.copy_(ball.project(leaf.tensor))
        again = leaf.tensor.clone()
    assert float(wp.Spectral(1.0, parts=1).at(leaf).value(again)) <= nuclear.parts * ball.bound * 1.00001


# Parametrizations.


class Softplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x)


def old(kind: str) -> nn.Module:
    make: Any = getattr(torch.nn.utils, kind)
    layer: nn.Module = make(nn.Linear(4, 3))
    return layer


def softplus() -> nn.Module:
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", Softplus())
    return layer


COMPUTED: dict[str, Any] = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
    "the older weight_norm": lambda: old("weight_norm"),
    "the older spectral_norm": lambda: old("spectral_norm"),
    "softplus": softplus,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*has not been added to the cost")
def test_what_a_weight_is_computed_from_is_not_shrunk_and_not_projected(name: str) -> None:
    net = nn.Sequential(COMPUTED[name](), nn.Linear(3, 1))
    for charge in (wp.L1(0.1), wp.GroupL2(0.1), wp.MaxNorm(0.1), wp.NonNegative(), wp.NormBound(0.1)):
        with pytest.raises(CompositionError, match=r"computes '0\.weight' from"):
            wp.regularize(sgd(net), net, [charge.on("0")])
    direction = next(leaf.name for leaf in leaves(net) if leaf.module is net[0] and leaf.role == "weight")
    with pytest.raises(CompositionError, match=r"computes '0\.weight' from"):
        wp.regularize(sgd(net), net, [wp.TiedGroups(0.1, {direction: "unit"}).on()])
    optimizer = wp.regularize(sgd(net), net, [wp.L2(0.1).on(), wp.L1(0.1).on("0", how="loss"), wp.L1(0.1).on("1")])
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", ["weight_norm", "the older weight_norm"])
def test_the_way_out_that_the_refusal_names(name: str) -> None:
    layer = COMPUTED[name]()
    with pytest.raises(CompositionError) as refusal:
        wp.regularize(sgd(layer), layer, [wp.L1(1.0).on()])
    gain = str(refusal.value).split('wp.named("')[1].split('")')[0]
    optimizer = wp.regularize(sgd(layer), layer, [wp.L1(1e3).on(wp.named(gain))])
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    out = layer(torch.zeros(1, 4) + 1.0) - layer.bias
    assert not out.any()


def test_other_layers_of_a_parametrized_model_and_masks_are_charged() -> None:
    mask: Any = prune.random_unstructured
    net = nn.Sequential(mask(nn.Linear(4, 3), "weight", 0.5), nn.BatchNorm1d(3))
    optimizer = wp.regularize(sgd(net), net, [wp.L1(0.1).on(), wp.MaxNorm(0.1).on()])
    assert optimizer.binding.charged[0].leaf.name == "0.weight_orig"


# Recorded activations.


def net_of_two() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


class Shared(nn.Module):
    """One ReLU, used three times at two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.last(self.relu(self.first(self.relu(x)))))
        return out


def test_every_use_of_a_module_is_charged() -> None:
    net, x = Shared(), torch.randn(6, 4)
    optimizer = wp.regularize(sgd(net), net, [wp.ActivationL1(0.5).on("relu")])
    net(x)
    hidden = net.first(x.relu()).relu()
    wanted = 0.5 * sum(a.sum() for a in (x.relu(), hidden, net.last(hidden).relu())) / 6
    torch.testing.assert_close(optimizer.penalty(), wanted)


def test_uses_have_names() -> None:
    net, x = Shared(), torch.randn(6, 4)
    optimizer: Any = wp.regularize(sgd(net), net, [wp.ActivationL1(0.5).on("relu")])
    net(x)
    assert list(optimizer._recorder.taken(["relu"])) == ["relu", "relu#1", "relu#2"]


def test_equal_parts_of_a_batch_have_the_mean_of_the_whole() -> None:
    net, x = Shared(), torch.randn(6, 4)
    optimizer: Any = wp.regularize(sgd(net), net, [wp.ActivationL2(0.5).on("relu")])

    def charge(part: Tensor) -> Tensor:
        net(part)
        return optimizer.penalty()  # type: ignore[no-any-return]

    torch.testing.assert_close(charge(x), (charge(x[:3]) + charge(x[3:])) / 2)


@pytest.mark.filterwarnings("ignore:.*has not been added to the cost")
def test_a_graph_is_let_go_when_it_has_been_differentiated() -> None:
    net, x = net_of_two(), torch.randn(6, 4)
    optimizer: Any = wp.regularize(sgd(net), net, [wp.ActivationL2(1.0).on("1")])
    kept = [weakref.ref(net[1](net[0](x)))]
    assert kept[0]() is not None
    for _ in range(3):
        net(x).sum().backward()
    assert len(optimizer._recorder.kept["1"]) == 1
    optimizer.zero_grad()
    optimizer.step()
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_records_nothing_and_can_be_charged_by_its_own(again: Any) -> None:
    net, x = net_of_two(), torch.randn(6, 4)
    first: Any = wp.regularize(sgd(net), net, [wp.ActivationL2(1.0).on("1")])
    copied = again(net)
    second: Any = wp.regularize(sgd(copied), copied, [wp.ActivationL2(1.0).on("1")])
    copied(x)
    assert not first._recorder.kept
    assert len(second._recorder.kept["1"]) == 1
    assert copied(x).equal(net(x))


def test_an_output_that_is_changed_in_place_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    optimizer = wp.regularize(sgd(net), net, [wp.ActivationL2(1.0).on("0")])
    net(torch.randn(6, 4))
    with pytest.raises(InputError, match="changed in place"):
        optimizer.penalty()
    allowed = wp.regularize(sgd(net), net, [wp.ActivationL2(1.0).on("1")])
    net(torch.randn(64, 4))
    assert float(allowed.penalty().detach()) > 0


def test_frozen_outputs_are_charged_without_a_gradient() -> None:
    net = net_of_two().requires_grad_(False)
    net[2].requires_grad_(True)
    optimizer = wp.regularize(sgd(net), net, [wp.ActivationL2(1.0).on("0")])
    net(torch.ones(6, 4))
    assert float(optimizer.penalty()) > 0


def test_bind_gives_the_charges_as_they_are_laid_out() -> None:
    layer = nn.ConvTranspose2d(3, 5, 3)
    (one,) = bind(layer, sgd(layer), [wp.GroupL2(0.1).on()]).charged
    assert one.bounds[0].charge == wp.GroupL2(0.1, by="axis 1")
    assert one.bounds[0].term.charge == wp.GroupL2(0.1)
