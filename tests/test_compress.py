"""Smaller networks with equal outputs: laws over kinds of layers, networks as people write them, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import FolderInUse, FormatError
from wellposed.models.mlp import MLP
from wellposed.sparsity import compress as measured
from wellposed.sparsity import dependencies, shrink
from wellposed.sparsity.aten_graph import traced

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few calls are enough to have a latency."""
    monkeypatch.setattr(measured, "SECONDS", 0.0)


def zero(*tensors: Tensor, at: Any) -> None:
    for tensor in tensors:
        tensor.data[at] = 0


def silence(conv: nn.Module, norm: nn.Module, at: Any) -> None:
    """A channel that is zero behind its norm."""
    zero(conv.weight, norm.weight, norm.bias, at=at)


def settled(net: nn.Module, seed: int = 0) -> nn.Module:
    """Norms as training leaves them: no mean of 0, no gain of 1."""
    source = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.weight.data.uniform_(0.5, 1.5, generator=source)
            module.bias.data.normal_(generator=source)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=source)
                module.running_var.uniform_(0.5, 2, generator=source)
    return net.eval()


class Residual(nn.Module):
    """Stem, two residual blocks, pooling, head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.first = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)])
        self.second = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(4)])
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        for block in range(2):
            y = self.relu(self.norms[2 * block](self.first[block](x)))
            y = self.norms[2 * block + 1](self.second[block](y))
            y += x
            x = self.relu(y)
        return self.head(x.mean((2, 3)))


def residual() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Residual())
    silence(net.first[0], net.norms[0], slice(2, 5))  # inside a block: three leave
    for conv, norm in ((net.stem, net.norm), (net.second[0], net.norms[1]), (net.second[1], net.norms[3])):
        silence(conv, norm, 6)  # on the stream: all that write to it are zero
    silence(net.second[1], net.norms[3], 1)  # one writer alone: stays
    return (
        net,
        torch.randn(6, 3, 8, 8),
        {"stem.weight": (7, 3, 3, 3), "first.0.weight": (5, 7, 3, 3), "head.weight": (5, 7)},
    )


def dead_branch() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Residual())
    zero(net.norms[3].weight, net.norms[3].bias, at=slice(None))  # a whole block adds nothing
    return net, torch.randn(6, 3, 8, 8), {"first.1.weight": (), "second.1.weight": (), "norms.2.weight": ()}


def vgg() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    layers: list[nn.Module] = []
    size = 3
    for width in (6, 8):
        layers += [nn.Conv2d(size, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        size = width
    net = settled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 4)))
    silence(net[0], net[1], slice(0, 2))
    zero(net[0].bias, at=slice(0, 2))
    net[1].running_mean[:2] = 0
    zero(net[4].weight, at=3)  # a constant, which no padded convolution follows: it goes into the linear layer
    return net, torch.randn(5, 3, 8, 8), {"0.weight": (4, 3, 3, 3), "4.weight": (7, 4, 3, 3), "9.weight": (10, 28)}


def lenet() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 12),
        nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 10), nn.LogSoftmax(1),
    ).eval()  # fmt: skip
    zero(net[0].weight, at=slice(0, 3))  # biases stay, and are folded: no padding
    zero(net[6].weight, at=slice(4, 9))
    return net, torch.rand(5, 1, 12, 12), {"0.weight": (3, 1, 5, 5), "3.weight": (8, 3, 3, 3), "6.weight": (7, 32)}


class Inverted(nn.Module):
    """Expand, depthwise, project, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 1, bias=False)
        self.depth, self.project = (
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.Conv2d(12, 4, 1, bias=False),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in (12, 12, 4)])
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.norms[0](self.expand(x)))
        y = self.norms[2](self.project(F.relu6(self.norms[1](self.depth(y)))))
        return self.head(F.avg_pool2d(x + y, 4).view(x.size(0), -1))


def mobilenet() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Inverted())
    zero(net.depth.weight, at=slice(0, 5))  # dead filters: the norm makes a constant, which a 1x1 convolution holds
    return (
        net,
        torch.randn(5, 3, 8, 8),
        {"expand.weight": (7, 4, 1, 1), "depth.weight": (7, 1, 3, 3), "project.weight": (4, 7, 1, 1)},
    )


def border() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    zero(net[0].weight, at=slice(0, 2))
    net[0].bias.data[0], net[0].bias.data[1] = (
        0.7,
        -0.7,
    )  # before zeros of a border: 0.7 must stay, relu(-0.7) = 0 may go
    return net, torch.randn(5, 2, 4, 4), {"0.weight": (5, 2, 3, 3), "2.weight": (4, 5, 3, 3)}


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(3 + 4 * i) for i in range(3)])
        self.mix, self.head = nn.Conv2d(15, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.adaptive_avg_pool2d(F.relu(self.mix(x)), 1).flatten(1))


def densenet() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Dense())
    zero(net.convs[0].weight, at=slice(0, 2))
    for conv in (net.convs[1], net.convs[2]):  # nobody behind a padded convolution reads them
        zero(conv.weight, at=(slice(None), slice(3, 5)))
    zero(net.mix.weight, net.mix.bias, at=1)
    sizes = {
        "convs.0.weight": (2, 3, 3, 3),
        "convs.1.weight": (4, 5, 3, 3),
        "norms.2.weight": (9,),
        "mix.weight": (5, 13, 1, 1),
    }
    return net, torch.randn(5, 3, 6, 6), sizes


class UNet(nn.Module):
    """Down, up by a transposed convolution, a skip connection that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.join, self.out = (
            nn.ConvTranspose2d(8, 5, 2, stride=2),
            nn.Conv2d(11, 6, 3, padding=1),
            nn.Conv2d(6, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        up = F.pad(self.up(F.relu(self.deep(F.max_pool2d(skip, 2)))), [0, 0, 0, 0])
        return self.out(F.relu(self.join(torch.cat([skip, up], 1))))


def unet() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = UNet().eval()
    zero(net.down.weight, net.down.bias, at=0)
    zero(net.deep.weight, net.deep.bias, at=slice(2, 6))
    zero(net.up.weight, at=(slice(None), 1))
    zero(net.up.bias, at=1)
    sizes = {
        "down.weight": (5, 2, 3, 3),
        "deep.weight": (4, 5, 3, 3),
        "up.weight": (4, 4, 2, 2),
        "join.weight": (6, 9, 3, 3),
    }
    return net, torch.randn(4, 2, 8, 8), sizes


def encoder() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True))
    nn.init.normal_(net.self_attn.in_proj_bias)
    zero(
        net.self_attn.in_proj_weight, at=slice(36, 40)
    )  # the values of a head: it adds its bias, whatever it attends to
    zero(net.linear2.weight, at=(slice(None), slice(0, 10)))
    return (
        net,
        torch.randn(6, 5, 16),
        {"self_attn.in_proj_weight": (36, 16), "self_attn.out_proj.weight": (16, 12), "linear1.weight": (14, 16)},
    )


class Padded(nn.Module):
    """Token 0 is padding, which torch's own layer writes as a mask for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(7, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.words(tokens), src_key_padding_mask=tokens == 0)


def padded() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Padded())
    zero(net.layer.self_attn.out_proj.weight, at=(slice(None), slice(4, 8)))
    tokens = torch.randint(1, 7, (6, 5)).masked_fill(torch.arange(5) >= torch.tensor([5, 3, 4, 1, 2, 5])[:, None], 0)
    return net, tokens, {"layer.self_attn.in_proj_weight": (36, 16), "layer.self_attn.out_proj.weight": (16, 12)}


class Masked(nn.Module):
    """Attention whose heads look at places of their own: each keeps its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mix = nn.Linear(8, 24), nn.Linear(8, 8)
        self.register_buffer("mask", torch.randn(4, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.mix(F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2).flatten(2))


def masked() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = Masked()
    zero(net.mix.weight, at=(slice(None), slice(2, 4)))
    return net, torch.randn(6, 5, 8), {"qkv.weight": (18, 8), "mix.weight": (8, 6)}


class Decoder(nn.Module):
    """Tokens, positions, causal attention written out, an embedding that is tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 12), nn.Embedding(6, 12)
        self.norms = nn.ModuleList([nn.LayerNorm(12) for _ in range(3)])
        self.qkv, self.mix = nn.Linear(12, 36, bias=False), nn.Linear(12, 12, bias=False)
        self.wide, self.narrow = nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, index: Tensor) -> Tensor:
        batch, length = index.size()
        x = self.tokens(index) + self.places(torch.arange(length))
        q, k, v = (
            part.view(batch, length, 3, 4).transpose(1, 2) for part in self.qkv(self.norms[0](x)).split(12, dim=2)
        )
        mask = torch.ones(length, length).tril() == 0
        attention = ((q @ k.transpose(-2, -1)) / 2).masked_fill(mask, float("-inf")).softmax(-1)
        x = x + self.mix((attention @ v).transpose(1, 2).contiguous().view(batch, length, 12))
        x = x + self.narrow(F.gelu(self.wide(self.norms[1](x))))
        return self.head(self.norms[2](x))


def decoder() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Decoder())
    zero(net.mix.weight, at=(slice(None), slice(4, 8)))  # nobody reads the second head
    zero(net.wide.weight, at=slice(0, 6))
    for weight in (
        net.tokens.weight,
        net.places.weight,
    ):  # a coordinate of the stream that nothing writes and nothing reads
        zero(weight, at=(slice(None), 2))
    zero(net.mix.weight, net.narrow.weight, net.narrow.bias, at=2)
    for norm in net.norms:
        zero(norm.weight, norm.bias, at=2)
    sizes = {
        "head.weight": (11, 11),
        "places.weight": (6, 11),
        "qkv.weight": (24, 11),
        "mix.weight": (11, 8),
        "wide.weight": (14, 11),
    }
    return net, torch.randint(0, 11, (7, 6), generator=torch.Generator().manual_seed(0)), sizes


class Recurrent(nn.Module):
    """An LSTM, of which the head alone is looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.wide, self.head = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.wide(self.rnn(x)[0][:, -1])))


def lstm() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = Recurrent().eval()
    zero(net.wide.weight, at=slice(0, 7))
    return net, torch.randn(5, 4, 3), {"wide.weight": (5, 6), "head.weight": (2, 5)}


class Shuffled(nn.Module):
    """Grouped convolution and a shuffle of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.grouped, self.out = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.wide(x))))
        n, c, h, w = x.size()
        return self.out(x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)).mean((2, 3))


def shuffled() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = Shuffled().eval()
    zero(net.grouped.weight, at=slice(2, 4))  # a whole group
    zero(net.grouped.weight, at=4)  # half of one: stays
    return (
        net,
        torch.randn(5, 2, 4, 4),
        {"wide.weight": (6, 2, 1, 1), "grouped.weight": (6, 2, 1, 1), "out.weight": (3, 6, 1, 1)},
    )


class Mixer(nn.Module):
    """Tokens are mixed, then channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(2)])
        self.tokens = nn.Sequential(nn.Conv1d(5, 8, 1), nn.GELU(), nn.Conv1d(8, 5, 1))
        self.channels = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norms[0](x))
        return (x + self.channels(self.norms[1](x))).mean(1)


def mixer() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Mixer())
    zero(net.tokens[0].weight, at=slice(0, 3))
    zero(net.channels[2].weight, at=(slice(None), slice(0, 4)))
    return net, torch.randn(7, 5, 6), {"tokens.0.weight": (5, 5, 1), "channels.0.weight": (6, 6)}


class Squeezed(nn.Module):
    """Channels are scaled by what their means say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head((x * scale).mean((2, 3)))


def squeezed() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(Squeezed())
    silence(net.conv, net.norm, slice(0, 3))  # zero times any scale is zero
    zero(net.squeeze.weight, at=1)
    return (
        net,
        torch.randn(5, 2, 5, 5),
        {"conv.weight": (5, 2, 3, 3), "squeeze.weight": (3, 5, 1, 1), "excite.weight": (5, 3, 1, 1)},
    )


def table() -> tuple[nn.Module, Any, dict[str, tuple[int, ...]]]:
    net = settled(MLP(9, 3, width=12))
    zero(net.hidden[1].weight, at=(slice(None), slice(2, 5)))  # three inputs that nobody reads
    for layer, norm in ((1, 2), (5, 6)):
        zero(
            net.hidden[layer].weight,
            net.hidden[layer].bias,
            net.hidden[norm].weight,
            net.hidden[norm].bias,
            at=slice(0, 5),
        )
    net.hidden[5].bias.data[3] = 0.4  # a constant before a norm stays in its sums
    return net, torch.randn(7, 9), {"hidden.1.weight": (7, 6), "hidden.5.weight": (7, 7), "head.weight": (3, 7)}


KINDS: list[Callable[[], tuple[nn.Module, Any, dict[str, tuple[int, ...]]]]] = [
    residual, dead_branch, vgg, lenet, mobilenet, border, densenet, unet, encoder, padded, masked, decoder,
    lstm, shuffled, mixer, squeezed, table,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_outputs_are_equal_and_sizes_are_as_written_down(kind: Any) -> None:
    torch.manual_seed(0)
    net, example, sizes = kind()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = wp.compress(net, example)
    assert {name: small.removed.get(name, (0, 0))[1] for name in sizes} == sizes
    with torch.no_grad():
        wanted, found = net(example), small.model(example)
    assert float((wanted - found).abs().max()) <= 1e-5 * (1 + float(wanted.abs().max()))
    assert small.difference <= small.tolerance
    assert small.after.parameters == sum(p.numel() for p in small.model.parameters()) < small.before.parameters
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("seed", range(6))
def test_of_random_networks_with_random_zeros_every_dead_unit_leaves(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    widths = [5, *(int(torch.randint(4, 12, (), generator=source)) for _ in range(3)), 2]
    net = nn.Sequential()
    dead = []
    for place, (size, width) in enumerate(pairwise(widths)):
        layer = nn.Linear(size, width).double()
        layer.weight.data.normal_(generator=source)
        layer.bias.data.normal_(generator=source)
        rows = torch.rand(width, generator=source) < 0.4
        rows[0] = False
        if place < 3:
            zero(layer.weight, at=rows)
        net.append(layer)
        net.append([nn.ReLU(), nn.Tanh(), nn.Softplus(), nn.Identity()][place])
        dead.append(int(rows.sum()) if place < 3 else 0)
    example = torch.randn(9, 5, generator=source, dtype=torch.float64)
    small = wp.compress(net, example)
    kept = [5, *(width - gone for width, gone in zip(widths[1:], dead, strict=True))]
    assert small.after.parameters == sum(b * (a + 1) for a, b in pairwise(kept))
    assert small.difference <= 1e-10 * (1 + float(net(example).detach().abs().max()))


def broken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A mistake in each thing that makes outputs equal."""
    if name == "no bias":
        monkeypatch.setattr(shrink._Surgery, "_bias", lambda self, reader: None)
    elif name == "borders":
        wrong = dependencies._reads
        monkeypatch.setattr(dependencies, "_reads", lambda *given: wrong(*given[:-1], True))
    elif name == "sums of a norm":
        monkeypatch.setattr(shrink._Surgery, "_norm", lambda self, reader: None)
    elif name == "what is read":

        def always(self: Any, node: Any, axis: int) -> tuple[Tensor, Tensor]:
            length = self.value[node].shape[axis]
            return torch.ones(length, dtype=torch.bool), torch.zeros(length, dtype=torch.double)

        monkeypatch.setattr(dependencies.Dependencies, "levels", always)


@pytest.mark.parametrize(
    ("name", "kind"), [("no bias", lenet), ("borders", border), ("sums of a norm", table), ("what is read", lenet)]
)
def test_a_mistake_keeps_the_original_and_says_why(name: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, example, _ = kind()
    broken(monkeypatch, name)
    small = wp.compress(net, example)
    assert small.model is net
    assert not small.shrunk
    assert small.notes[0].startswith("The original is kept, since ")


def test_what_stays_although_zero_is_told() -> None:
    net, example, _ = border()
    assert "A row of '0.weight' stay" in str(wp.compress(net, example))


def plain() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    zero(net[0].weight, at=slice(0, 3))
    return net


X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def test_nothing_to_remove_gives_the_network_back(tmp_path: Path) -> None:
    net = nn.Linear(4, 2)
    small = wp.compress(net, X)
    assert small.model is net
    assert "Nothing is removed" in str(small)
    with pytest.raises(wp.InputError, match="Nothing was removed, so that nothing is written"):
        small.save(tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_everything_removed_is_refused() -> None:
    net = plain()
    zero(net[2].weight, at=slice(None))
    with pytest.raises(wp.InputError, match="the same for all inputs"):
        wp.compress(net, X)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("net", "example", "words"),
    [
        (Branching(), X, "cannot be traced"),
        (nn.Linear(4, 2), None, "real rows"),
        (nn.Linear(4, 2), X[:0], "real rows"),
        (nn.Linear(4, 2), X * float("nan"), "no finite numbers"),
    ],
    ids=["branch", "no rows", "empty", "nan"],
)
def test_what_cannot_be_compressed_is_one_sentence(net: nn.Module, example: Any, words: str) -> None:
    with pytest.raises(wp.InputError, match=words) as caught:
        wp.compress(net, example)
    assert "\n" not in str(caught.value)


def test_a_saved_network_is_verified_from_its_files(tmp_path: Path) -> None:
    small = wp.compress(plain(), X)
    folder = small.save(tmp_path / "small")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    proof = wp.verify(folder)
    assert proof.holds, str(proof)
    assert torch.equal(proof.model(X), small.model(X))
    assert [type(p) for p in proof.model.parameters()] == [nn.Parameter] * 4


def change(folder: Path, what: str) -> None:
    claims = json.loads((folder / "claims.json").read_text())
    if what == "weights":
        path = folder / "network.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\x80?")
    elif what == "parameters":
        claims["after"]["parameters"] -= 1
    elif what == "rows":
        path = folder / "rows.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\x80?")
    (folder / "claims.json").write_text(json.dumps(claims))


@pytest.mark.parametrize(
    ("what", "claims"),
    [
        ("weights", ["SHA-256 of network.safetensors", "largest difference of an output"]),
        ("rows", ["SHA-256 of rows.safetensors"]),
        ("parameters", ["parameters after"]),
    ],
)
def test_a_claim_that_is_not_true_is_found(what: str, claims: list[str], tmp_path: Path) -> None:
    folder = wp.compress(plain(), X).save(tmp_path / "small")
    change(folder, what)
    proof = wp.verify(folder)
    assert [check.claim for check in proof.checks if check.holds is False] == claims
    assert not proof.holds


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wp.compress(plain(), X).save(tmp_path_factory.mktemp("compressed") / "small")


def with_node(folder: Path, **node: Any) -> None:
    """A node more, before the output."""
    graph = json.loads((folder / "network.json").read_text())
    last = {"name": "more", "do": "call_function", "args": {"tuple": []}, "kwargs": {"dict": {}}, **node}
    graph["nodes"].insert(-1, last)
    output = graph["nodes"][-1]["args"]["tuple"]
    output[0] = {"tuple": [output[0], {"node": last["name"]}]}
    (folder / "network.json").write_text(json.dumps(graph))


@pytest.mark.parametrize(
    "target",
    ["aten.from_file.default", "aten.add_.Tensor", "operator.eval", "os.system", "aten.no.such", "aten.manual_seed.default",
     "aten.save.default", "aten.set_grad_enabled.default", "aten.backward.default", "aten._print.default",
     "aten._reshape_alias.default", "aten.max_pool2d_with_indices_backward.default",
     "aten.sparse_coo_tensor.indices", "aten.segment_reduce.default", "aten.native_batch_norm.default",
     "aten.batch_norm_update_stats.default",
     "aten.seed.default", "aten.rand.default", "aten.empty.memory_format"],
)  # fmt: skip
def test_a_graph_of_a_stranger_calls_no_code(target: str, small_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_folder, tmp_path / "small")
    with_node(folder, target=target)
    with pytest.raises(FormatError, match="no operator of torch that a network needs"):
        wp.verify(folder)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"target": "aten.zeros.default", "args": {"tuple": [[5 * 10**9]]}}, "asks for 18.6 GiB, and the limit is 4 GiB"),
        ({"target": "aten.expand.default", "args": {"tuple": [{"node": "linear_1"}, [10**8, -1, -1]]}}, "and the limit is 4 GiB"),
        ({"target": "aten.bmm.default", "args": {"tuple": [{"node": "linear_1"}, {"node": "linear_1"}]}}, "cannot be run"),
        ({"target": "aten.softmax.int", "args": {"tuple": [{"node": "linear_1"}, 0, -1]}}, "takes a dtype as dtype"),
        ({"target": "aten.to.dtype", "args": {"tuple": [{"node": "linear_1"}, 99]}}, "takes a dtype as dtype"),
        ({"target": "aten.ones.default", "args": {"tuple": [[2]]}, "kwargs": {"dict": {"layout": 70}}}, "takes a layout as"),
        ({"target": "operator.mul", "args": {"tuple": ["x" * 100, 10**9]}}, "does arithmetic with"),
        ({"target": "operator.mul", "args": {"tuple": [[1], 10**9]}}, "does arithmetic with"),
        ({"target": "operator.mul", "args": {"tuple": [2**200, 2**200]}}, "does arithmetic with"),
        ({"target": "operator.getitem", "args": {"tuple": [{"tuple": [1, 2]}, 5]}}, "cannot be run"),
        ({"target": "operator.getitem", "args": {"tuple": [{"tuple": [1, 2]}, "x"]}}, "does arithmetic with"),
        ({"target": "aten.relu.default", "args": 1e308}, "damaged"),
        ({"target": "aten.embedding_bag.default", "args": {"tuple": [{"node": "linear_1"}] * 3}}, "count up from 0"),
        ({"target": "aten.relu.default", "kwargs": 3}, "damaged"),
    ],
    ids=str,
)  # fmt: skip
def test_a_graph_that_asks_for_what_it_cannot_have(
    node: dict[str, Any], words: str, small_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence, nothing printed, and nothing made of that size."""
    folder = shutil.copytree(small_folder, tmp_path / "small")
    with_node(folder, **node)
    with pytest.raises(FormatError, match=words) as caught:
        wp.verify(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("target", "by", "kwargs"),
    [
        ("aten.div.Tensor_mode", {"node": "more"}, {"rounding_mode": "trunc"}), ("aten.remainder.Scalar", -1, {}),
        ("aten.floor_divide.default", {"node": "more"}, {}), ("aten.gcd.default", {"node": "more"}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_the_least_whole_number_is_not_divided(
    target: str, by: Any, kwargs: dict[str, Any], small_folder: Path, tmp_path: Path
) -> None:
    """By -1 it would end the process."""
    folder = shutil.copytree(small_folder, tmp_path / "small")
    whole = {"tuple": [[2], -(2**63)]}
    with_node(folder, target="aten.full.default", args=whole, kwargs={"dict": {"dtype": {"torch": "int64"}}})
    with_node(folder, name="again", target=target, args={"tuple": [{"node": "more"}, by]}, kwargs={"dict": kwargs})
    with pytest.raises(FormatError, match="divides whole numbers by"):
        wp.verify(folder)


@pytest.mark.parametrize("place", [None, 5, "\0", "/dev/null", "/dev/null/below"], ids=repr)
def test_no_place_to_save(place: Any) -> None:
    small = wp.compress(plain(), X)
    with pytest.raises(wp.InputError):
        small.save(place)


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FolderInUse):
        wp.compress(plain(), X).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="There is no list of claims at"):
        wp.verify(tmp_path)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs wellposed[onnx]",
)
def test_onnxruntime_computes_the_same(tmp_path: Path) -> None:
    difference = wp.compress(plain(), X).to_onnx(tmp_path / "small.onnx")
    assert difference is not None
    assert difference < 1e-5
    assert (tmp_path / "small.onnx").stat().st_size > 100


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs wellposed[onnx]",
)
def test_latency_in_onnxruntime_is_in_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measured, "FASTER", 0.0)
    small = wp.compress(plain(), X, onnx=True)
    for cost in (small.before, small.after):
        assert cost.latency_1_onnx is not None
        assert 0 < cost.latency_1_onnx < 100
    assert "ms, batch 256, onnxruntime" in str(small)
    assert any(note.startswith("It is not faster at batch 256 in onnxruntime on this machine") for note in small.notes)
    assert wp.verify(small.save(tmp_path / "small")).holds


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="wellposed[onnx] is installed")
def test_without_onnx_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"wellposed\[onnx\]"):
        wp.compress(plain(), X).to_onnx(tmp_path / "small.onnx")
    with pytest.raises(ImportError, match=r"wellposed\[onnx\]"):
        wp.compress(plain(), X, onnx=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "term", [wp.GroupL2(0.03, by="unit").on("0.weight"), wp.RowL21(0.2).on("0.weight")], ids=["GroupL2", "RowL21"]
)
def test_zeros_that_training_made_become_a_smaller_network(term: Any) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data[:600] / 16, dtype=torch.float32), torch.tensor(digits.target[:600])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.01), net, [term])
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    dead = int((net[0].weight == 0).all(1).sum())
    small = wp.compress(net, x)
    assert 0 < dead < 48
    assert small.removed["0.weight"][1][0] == 48 - dead
    assert bool((small.model(x).argmax(1) == net(x).argmax(1)).all())


def test_a_run_is_compressed_on_its_validation_rows() -> None:
    def model() -> nn.Module:
        return plain()

    run = wp.fit(wp.Problem(model, "cross_entropy", (X, (X[:, 0] > 0).long())), wp.Recipe(epochs=1))
    zero(run.model[0].weight, at=slice(0, 3))
    small = wp.compress(run)
    assert small.removed["0.weight"] == ((8, 4), (5, 4))
    assert small.rows == len(run.problem.prepared.valid)


class Products(nn.Module):
    """Two products with matrices, on whose way constants are folded."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.shift = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))
        self.two = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.one + self.shift) @ self.two


def seen(rows: int = 60) -> nn.Module:
    """Channels with batch norm, whose averages have seen images, and dropout."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6 * 16, 2)
    )
    for _ in range(10):
        net(torch.randn(rows, 3, 6, 6))
    return net.eval()


Zeros = list[tuple[str, Any]]
TWICE: dict[str, tuple[Callable[[], nn.Module], Tensor, Zeros, Zeros, tuple[str, tuple[int, ...]]]] = {
    "inputs": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(40, 6),
        [("0.weight", np.s_[:, [1, 4]])], [("0.weight", np.s_[:, [0, 2]])], ("0.weight", (5, 2)),
    ),
    "inputs along two axes": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), torch.randn(40, 4, 6),
        [("1.weight", np.s_[:, [2, 8, 14, 20, *range(6, 12)]])],  # column 2 and row 1 of 4 x 6
        [("1.weight", np.s_[:, [4, 9, 14, *range(5)]])], ("1.weight", (2, 8)),  # column 4 and row 0 of 3 x 5
    ),
    "channels": (
        seen, torch.randn(40, 3, 6, 6), [("0.weight", np.s_[:, [1]])], [("0.weight", np.s_[:, [1]])], ("0.weight", (6, 1, 3, 3)),
    ),
    "constants before products": (
        Products, torch.randn(40, 4), [("one", np.s_[:, [1, 2]])], [("one", np.s_[:, [0]])], ("two", (3, 3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TWICE)
def test_a_compressed_network_is_compressed_again(kind: str, tmp_path: Path) -> None:
    """Its choice of inputs becomes narrower, and what was folded before stays."""
    made, example, first, second, (name, shape) = TWICE[kind]
    torch.manual_seed(0)
    net: nn.Module = made()
    for zeros in (first, second):
        for one, where in zeros:
            net.get_parameter(one).data[where] = 0
        wanted = net(example)
        small = wp.compress(net, example)
        net = small.model
        assert small.shrunk, small.notes
        torch.testing.assert_close(net(example), wanted, atol=1e-5, rtol=1e-5)
    assert tuple(net.get_parameter(name).shape) == shape
    assert wp.verify(small.save(tmp_path / "small")).holds


class AlwaysDropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


def test_what_is_left_is_trained_as_before(tmp_path: Path) -> None:
    """Batch norm moves its averages and dropout draws in training alone; a dropout that is always drawn stays so."""
    torch.manual_seed(0)
    net, x = seen(), torch.randn(40, 3, 6, 6)
    zero(net[0].weight, at=slice(0, 2))
    small = wp.compress(net, x).model
    assert not small.training
    before, averages = small(x), dict(small.named_buffers())["1.running_mean"].clone()
    for _ in range(2):  # also a copy, also a second time
        small = copy.deepcopy(small).train()
        assert not torch.equal(small(x), small(x))
        assert not torch.equal(dict(small.named_buffers())["1.running_mean"], averages)
        small.eval()
        assert torch.equal(small(x), small(x))
        assert not torch.equal(small(x), before)
    torch.save(small, tmp_path / "small.pt")
    assert torch.equal(torch.load(tmp_path / "small.pt", weights_only=False)(x), small(x))
    always = traced(nn.Sequential(nn.Linear(3, 3), AlwaysDropped()), X[:, :3])
    for mode in (True, False):
        assert not torch.equal(always.train(mode)(X[:, :3]), always(X[:, :3]))


def test_units_that_a_residual_connection_ties_are_one() -> None:
    net, example, _ = residual()
    graph = traced(net, example)
    found = dependencies.Dependencies(graph, [example[:2]])
    makes = [
        found.units[found.axes[name][0]].tolist() for name in ("stem.weight", "second.0.weight", "second.1.weight")
    ]
    assert makes[0] == makes[1] == makes[2]
    assert not set(makes[0]) & set(found.units[found.axes["first.0.weight"][0]].tolist())


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_the_table_and_leaves_what_verify_needs(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    from wellposed.cli.compress import compress
    from wellposed.data.tables import prepare_table
    from wellposed.training.checkpoint import save_run
    from wellposed.training.ready_problems import table_problem

    frame = pd.DataFrame({f"x{i}": X[:, i].numpy() for i in range(4)} | {"y": (X[:, 0] > 0).numpy().astype(int)})
    run = wp.fit(
        table_problem(prepare_table(frame, "y"), pieces=False),
        wp.Recipe(epochs=1, model={"width": 8, "depth": 1, "norm": False}),
    )
    zero(run.model.hidden[1].weight, at=slice(0, 5))
    save_run(run, tmp_path / "model")
    compress(tmp_path, None, None, as_json)
    said = capsys.readouterr().out
    assert (json.loads(said)["removed"]["hidden.1.weight"][1] == [3, 4]) if as_json else ("ms, batch 256" in said)
    assert "The rows were random numbers" in said
    assert wp.verify(tmp_path / "small").holds


def test_the_page_of_sparsity_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "sparsity.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert names["small"].after.parameters < names["small"].before.parameters / 2
    assert names["proof"].holds
