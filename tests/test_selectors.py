"""Who is charged: roles by what a parameter does, globs that match whole names, sets, and errors that help."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wellposed as wp
from wellposed.core.errors import SelectorError, ShapeError
from wellposed.core.selectors import leaves, select, selector, unwrap_model


def chosen(model: nn.Module, value: object) -> list[str]:
    return [leaf.name for leaf in select(model, value)]


def roles(model: nn.Module) -> dict[str, str]:
    return {leaf.name: leaf.role for leaf in leaves(model)}


class RMSNorm(nn.Module):
    """A norm layer of somebody's own, with a name of its own for its gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.g * x / x.square().mean(-1, keepdim=True).sqrt()


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))


class OwnLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(inputs, outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))


class LanguageModel(nn.Module):
    """A head tied to the embedding, as in most language models."""

    def __init__(self, head_first: bool = False) -> None:
        super().__init__()
        if head_first:
            self.head = nn.Linear(4, 10, bias=False)
        self.tokens = nn.Embedding(10, 4)
        self.mix = nn.Linear(4, 4)
        if not head_first:
            self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.tokens.weight


def deep(layers: int = 12) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(2, 2) for _ in range(layers)])


def test_banning_1_weight_does_not_ban_11_weight() -> None:
    net = deep()
    kept = chosen(net, wp.weights - wp.named("1.weight"))
    assert "1.weight" not in kept
    assert kept == [f"{i}.weight" for i in range(12) if i != 1]
    assert chosen(net, "1.weight") == ["1.weight"]
    assert chosen(net, "1") == ["1.weight"]
    assert chosen(net, "1.*") == ["1.weight"]
    assert chosen(net, "1*.weight") == ["1.weight", "10.weight", "11.weight"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(3),
        nn.GroupNorm(1, 3),
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.InstanceNorm2d(3, affine=True),
        nn.SyncBatchNorm(3),
        nn.RMSNorm(3),
        RMSNorm(3),
        LayerScale(3),
        nn.PReLU(3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_norms_of_any_class_are_not_charged(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(3, 3), layer)
    assert chosen(net, wp.weights) == ["0.weight"]
    assert chosen(net, wp.norms) == [f"1.{name}" for name, _ in layer.named_parameters()]


@pytest.mark.parametrize(
    ("layer", "charged"),
    [
        (nn.Linear(3, 1), {"weight"}),
        (nn.Linear(1, 1), {"weight"}),
        (nn.Conv1d(1, 1, 1), {"weight"}),
        (nn.Conv2d(3, 2, 3), {"weight"}),
        (nn.ConvTranspose2d(3, 2, 3), {"weight"}),
        (nn.Conv2d(4, 4, 3, groups=4), {"weight"}),
        (nn.Bilinear(2, 3, 1), {"weight"}),
        (OwnLinear(3, 2), {"kernel"}),
        (OwnLinear(3, 1), {"kernel"}),
        (nn.Embedding(5, 3), set()),
        (nn.EmbeddingBag(5, 3), set()),
        (nn.LSTM(3, 4, num_layers=1), {"weight_ih_l0", "weight_hh_l0"}),
        (nn.LSTM(3, 4, proj_size=2), {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"}),
        (nn.GRU(1, 1, bidirectional=True), {f"weight_{a}_l0{b}" for a in ("ih", "hh") for b in ("", "_reverse")}),
        (nn.RNNCell(3, 1), {"weight_ih", "weight_hh"}),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight", "out_proj.weight"}),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
            {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
        ),
        (
            nn.TransformerEncoderLayer(4, 2, 8),
            {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"},
        ),
        (nn.ParameterList([torch.zeros(3, 2), torch.zeros(3)]), {"0"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weights_are_matrices_and_kernels(layer: nn.Module, charged: set[str]) -> None:
    assert {name for name, role in roles(layer).items() if role == "weight"} == charged


def test_a_decoder_has_all_four_roles() -> None:
    found = roles(nn.Sequential(nn.Embedding(7, 4), nn.TransformerDecoderLayer(4, 2, 8), nn.Linear(4, 7)))
    assert found["0.weight"] == "embedding"
    assert found["1.norm3.weight"] == found["1.norm1.bias"] == "norm"
    assert found["1.multihead_attn.in_proj_bias"] == found["2.bias"] == "bias"
    assert found["1.multihead_attn.in_proj_weight"] == found["2.weight"] == "weight"


def test_raw_parameters_are_judged_by_shape() -> None:
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.positions = nn.Parameter(torch.zeros(1, 17, 8))
            self.temperature = nn.Parameter(torch.tensor(1.0))
            self.projection = nn.Parameter(torch.zeros(8, 4))
            self.experts = nn.Parameter(torch.zeros(2, 8, 4))

    assert chosen(Vision(), wp.weights) == ["projection", "experts"]
    assert chosen(Vision(), wp.embeddings) == ["positions"]


@pytest.mark.parametrize("head_first", [False, True])
def test_a_tied_parameter_is_one_and_an_embedding(head_first: bool) -> None:
    net = LanguageModel(head_first)
    found = leaves(net)
    assert len(found) == 3
    tied = next(leaf for leaf in found if len(leaf.aliases) == 2)
    assert tied.role == "embedding"
    assert set(tied.aliases) == {"tokens.weight", "head.weight"}
    assert chosen(net, wp.weights) == ["mix.weight"]
    for name in ("tokens.weight", "head.weight", "head", "tokens"):
        assert chosen(net, wp.named(name)) == [tied.name]


def test_a_shared_module_is_one_layer() -> None:
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert chosen(net, wp.weights) == ["0.weight"]
    assert chosen(net, "2.weight") == ["0.weight"]
    assert leaves(net)[0].aliases == ("0.weight", "2.weight")


def test_two_tied_linear_weights() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert chosen(net, wp.weights) == ["0.weight"]
    assert chosen(net, wp.weights - "0.weight" | "1.weight") == ["0.weight"]


def test_a_renamed_parameter_keeps_its_role() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weightless = nn.Linear(3, 3)
            self.bias = nn.LayerNorm(3)
            self.layernorm = nn.Linear(3, 3)

    assert chosen(Renamed(), wp.weights) == ["weightless.weight", "layernorm.weight"]
    assert chosen(Renamed(), wp.norms) == ["bias.weight", "bias.bias"]


@pytest.mark.parametrize("width", [(10, 3), (10, 1), (1, 10), (1, 1)])
@pytest.mark.parametrize(
    ("wrap", "charged", "gains"),
    [
        (parametrizations.weight_norm, "original1", ["original0"]),
        (parametrizations.spectral_norm, "original", []),
        (parametrizations.orthogonal, "original", []),
    ],
)
def test_parametrized_weights(
    wrap: Callable[[nn.Module], nn.Module], charged: str, gains: list[str], width: tuple[int, int]
) -> None:
    net = nn.Sequential(wrap(nn.Linear(*width)))
    assert chosen(net, wp.weights) == [f"0.parametrizations.weight.{charged}"]
    assert chosen(net, "0.weight") == chosen(net, wp.weights)
    assert chosen(net, nn.Linear) == chosen(net, wp.weights)
    assert chosen(net, wp.biases) == ["0.bias"]
    if gains:
        assert chosen(net, wp.norms) == [f"0.parametrizations.weight.{name}" for name in gains]


def test_parametrized_convolution_and_several_layers() -> None:
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 2)))
    )
    assert chosen(net, wp.convs) == ["0.parametrizations.weight.original1"]
    assert chosen(net, "1.0.weight") == ["1.0.parametrizations.weight.original1"]
    assert chosen(net, "1.*") == ["1.0.parametrizations.weight.original1"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_older_weight_norm() -> None:
    net = torch.nn.utils.weight_norm(nn.Linear(10, 3))
    assert roles(net) == {"weight_v": "weight", "weight_g": "norm", "bias": "bias"}


def test_inputs_outputs_and_convs() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert chosen(net, wp.inputs) == ["1.weight"]
    assert chosen(net, wp.outputs) == ["4.weight"]
    assert chosen(net, wp.convs) == ["1.weight", "2.weight"]
    for text in ("weights", "biases", "norms", "inputs", "outputs", "convs"):
        assert chosen(net, text) == chosen(net, getattr(wp, text))


def nested() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4)))
            self.encoder_two = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)

    return Net()


def test_globs_name_parameters_or_modules_among_the_weights() -> None:
    net = nested()
    inside = ["encoder.0.weight", "encoder.2.0.weight"]
    assert chosen(net, "encoder") == inside
    assert chosen(net, "encoder.*") == inside
    assert chosen(net, "encoder.2") == ["encoder.2.0.weight"]
    assert chosen(net, "encoder*") == [*inside, "encoder_two.weight"]
    assert chosen(net, "*.weight") == [*inside, "encoder_two.weight", "head.weight"]
    assert chosen(net, "encoder.[01]*") == ["encoder.0.weight"]
    assert chosen(net, "hea?") == ["head.weight"]


def test_named_takes_any_parameter() -> None:
    net = nested()
    assert chosen(net, wp.named("encoder.1")) == ["encoder.1.weight", "encoder.1.bias"]
    assert chosen(net, "named:encoder.1.weight") == ["encoder.1.weight"]
    assert chosen(net, wp.named("head")) == ["head.weight", "head.bias"]
    assert repr(wp.named("head")) == "named:head"


def test_sets() -> None:
    net = nested()
    outputs, inside = wp.outputs, selector("encoder")
    assert chosen(net, wp.weights - wp.outputs) == ["encoder.0.weight", "encoder.2.0.weight", "encoder_two.weight"]
    assert chosen(net, outputs | inside) == ["encoder.0.weight", "encoder.2.0.weight", "head.weight"]
    assert chosen(net, wp.weights & "encoder.0.*") == ["encoder.0.weight"]
    assert chosen(net, (wp.biases | wp.norms) & wp.named("encoder.*")) == [
        "encoder.0.bias",
        "encoder.1.weight",
        "encoder.1.bias",
        "encoder.2.0.bias",
    ]
    assert chosen(net, wp.weights - "head" - nn.LayerNorm) == chosen(net, wp.weights - wp.outputs)
    assert repr(wp.weights - (wp.outputs | wp.inputs)) == "(weights - (outputs | inputs))"
    # The order of registration, whatever the order of the union.
    assert chosen(net, ["head", "encoder"]) == chosen(net, ["encoder", "head"]) == chosen(net, outputs | inside)
    assert not wp.outputs.choose([])


def test_types_and_predicates() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 4, 1), nn.LayerNorm(4))
    assert chosen(net, nn.Linear) == ["0.weight"]
    assert chosen(net, nn.Conv1d) == ["1.weight"]
    assert chosen(net, lambda name, p: p.ndim == 1 and name.startswith("0")) == ["0.bias"]
    assert chosen(net, (nn.Linear, nn.Conv1d)) == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("encodr.*", r"'encodr.\*' matches no parameter. Did you mean 'encoder.\*'\? The model has: encoder.0.weight"),
        ("hed.weight", r"Did you mean 'head.weight'\?"),
        ("named:hed.bias", r"Did you mean 'head.bias'\?"),
        (
            "encoder.1.*",
            r"'encoder.1.\*' matches encoder.1.weight, encoder.1.bias, but no weight .*wp.named\(\"encoder",
        ),
        (nn.Conv2d, r"The selector 'Conv2d' matches no parameter. The model has"),
        (lambda name, p: False, "The selector 'predicate' matches no parameter"),
        (wp.convs, "The selector 'convs' matches no parameter"),
        (wp.weights - wp.weights, r"The selector '\(weights - weights\)' matches no parameter"),
        (3, "A selector is wp.weights, another role, a glob, a module type or a predicate; 3 is none"),
        ([], r"\[\] is none of them"),
        (None, "None is none of them"),
    ],
)
def test_matching_nothing_is_an_error_that_helps(value: Any, message: str) -> None:
    net = nested()
    with pytest.raises(SelectorError, match=message):
        select(net, value)
    if value is not None:  # on(None) is where a penalty is charged if nothing is said
        with pytest.raises(SelectorError, match=message):
            wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L1(0.1).on(value)])


def test_wrapped_models_have_the_names_of_the_inner_one() -> None:
    net = nested()
    compiled = torch.compile(net, backend="eager")
    for outer in (compiled, nn.DataParallel(net), nn.DataParallel(nn.DataParallel(net)), nn.DataParallel(compiled)):
        assert unwrap_model(outer) is net
        assert [leaf.name for leaf in leaves(outer)] == [name for name, _ in net.named_parameters()]
        for value in ("encoder.*", "head", wp.weights, wp.named("encoder.1"), nn.Linear, wp.outputs):
            assert chosen(outer, value) == chosen(net, value)
        with pytest.raises(SelectorError, match=r"Did you mean 'head.weight'\?"):
            select(outer, "hed.weight")
    assert unwrap_model(net) is net


def test_a_layer_that_is_compiled_alone_keeps_its_name() -> None:
    net = nested()
    net.encoder = torch.compile(net.encoder, backend="eager")
    inside = ["encoder._orig_mod.0.weight", "encoder._orig_mod.2.0.weight"]
    assert chosen(net, "encoder.0.weight") == inside[:1]
    assert chosen(net, "encoder.0") == inside[:1]
    assert chosen(net, "encoder.*") == chosen(net, "encoder") == inside
    assert chosen(net, inside[1]) == inside[1:]
    assert roles(net)["encoder._orig_mod.1.weight"] == "norm"


def test_a_name_of_the_users_own_is_no_wrapping() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.my_orig_mod = nn.Linear(2, 2)

    assert chosen(Net(), wp.weights) == ["module.weight", "my_orig_mod.weight"]
    assert chosen(Net(), "module.*") == ["module.weight"]


def test_a_model_without_parameters() -> None:
    with pytest.raises(SelectorError, match="matches no parameter: the model has none"):
        select(nn.ReLU(), wp.weights)


def test_a_shape_that_cannot_be_charged_is_named() -> None:
    net = nested()
    term = wp.GroupL2(0.1).on(wp.named("encoder.0"))
    with pytest.raises(ShapeError, match=r"GroupL2 needs >= 2 axes; 'encoder.0.bias' has shape \(4,\)"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [term])


@pytest.mark.parametrize("written", ["weights", "outputs", "0.*", "named:*.bias", ["weights", "biases"]], ids=str)
def test_a_selector_that_has_words_is_pickled(written: Any) -> None:
    found = selector(written)
    again = pickle.loads(pickle.dumps(found))
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert [leaf.name for leaf in again.choose(leaves(net))] == [leaf.name for leaf in found.choose(leaves(net))]
    assert found.choose(leaves(net))
