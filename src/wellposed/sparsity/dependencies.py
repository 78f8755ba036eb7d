"""What of a network can only go together, and what of it is a constant: read off its graph in one pass over an example.

Every number of a network belongs to a *unit*, such as a channel, a head, a hidden unit or an input. A tensor that flows
through the graph has a *label* of its own shape, which says for each entry whose unit it is. Operators that move entries
(view, permute, cat, select ...) are simply run on labels; those that add or multiply entries make units one; a weight
matrix joins the units of its columns (which it reads) to those of its rows (which it makes). So residual connections,
concatenation, flattening, shared weights, depthwise convolution and heads need no code of their own. Unit 0 is what must
stay: it is what an operator that is not known here touches, so that ignorance costs size, never equality.

Beside the label runs a mask of what is *known*: entries that are the same for all inputs. It is propagated as the operators
demand it (a row of zeros makes its bias, a rectified constant is a constant, zero times anything is zero), and the constant itself
is the value that the example gave.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from wellposed.sparsity.aten_graph import tensors_of

aten = torch.ops.aten
LARGEST = 2**21
"""Entries up to which those of an input or of an added tensor are units of their own."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """A place where units end: a weight reads them, or a norm counts them.

    Attributes:
        units: ``(inputs,)``, whom it reads.
        makes: ``(outputs,)``, whom it makes of them; None for a norm, which reads all for all.
        weight: ``(outputs, inputs)``, summed over the places of a kernel; None for a norm.
        nonzero: ``(outputs, inputs)``, whether there is any weight between the two.
        constant: ``(inputs,)``, whether the input is a constant that a bias can hold.
        level: ``(inputs,)``, that constant.
    """

    node: Any
    units: Tensor
    constant: Tensor
    level: Tensor
    makes: Tensor | None = None
    weight: Tensor | None = None
    nonzero: Tensor | None = None


class Dependencies:
    """Labels, known entries and readers of all nodes of a graph. `units` maps a label to its unit."""

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> None:
        self.tensors = tensors_of(module)
        self.value: dict[Any, Any] = {}
        self.label: dict[Any, Any] = {}
        self.known: dict[Any, Any] = {}
        self.axes: dict[str, dict[int, Tensor]] = {}
        self.readers: list[Consumer] = []
        self._joined: list[Tensor] = []
        self._count = 1
        given = iter(inputs)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._input(node, next(given))
            elif node.op == "get_attr":
                self._tensor(node)
            elif node.op == "call_function":
                self._call(node)
            else:
                map_arg(node.args, lambda leaf: self.keep(self.label[leaf]))
        self.units = torch.from_numpy(_roots(self._count, self._joined))

    # What rules are written in

    def fresh(self, shape: Sequence[int]) -> Tensor:
        """Labels of new units, one for each entry."""
        made = torch.arange(self._count, self._count + int(np.prod(shape))).reshape(tuple(shape))
        self._count += made.numel()
        return made

    def join(self, first: Tensor, second: Tensor) -> None:
        """Entries at one place are of one unit."""
        first, second = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
        for axis in range(first.ndim):
            if first.stride(axis) == second.stride(axis) == 0:
                first, second = first.narrow(axis, 0, 1), second.narrow(axis, 0, 1)
        pairs = torch.stack([first.reshape(-1), second.reshape(-1)])
        self._joined.append(pairs.unique(dim=1))  # type: ignore[no-untyped-call]

    def keep(self, *labels: Any) -> None:
        """Mark entries that must stay, whatever their values are."""
        for label in labels:
            if isinstance(label, Tensor):
                self.join(label, torch.zeros((), dtype=torch.long))
            elif label is not None:
                self.keep(*label)

    def same_along(self, label: Tensor, axes: Sequence[int]) -> Tensor:
        """Entries along these axes are of one unit; the label with length 1 there."""
        first = label
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        self.join(label, first)
        return first

    def along(self, label: Tensor, axis: int) -> Tensor:
        """The units along one axis, ``(length,)``, which are the same at all other places."""
        return self.same_along(label, [a for a in range(label.ndim) if a != axis % label.ndim]).reshape(-1)

    def weight_axis(self, node: Any, axis: int) -> Tensor | None:
        """The units along an axis of a weight, or None where the tensor is none that the graph holds."""
        return self.axes.get(str(node.target), {}).get(axis)

    def on_labels(self, node: Any, table: dict[Any, Any]) -> Any:
        """The node's operator, run on labels or on masks."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda leaf: table.get(leaf, self.value[leaf]))
        # A label's memory may not be laid out as the value's.
        view = table is not self.value and _packet(node) is aten.view
        return (aten.reshape.default if view else node.target)(*args, **kwargs)

    def masked(self, node: Any, source: Any, *rest: Any, **named: Any) -> Tensor:
        """What of an output is known, where it is a sum, a mean or a maximum of entries of ``source``."""
        unknown = (~self.known[source]).to(torch.float32)
        args = rest if rest or named else node.args[1:]
        args = map_arg(tuple(args), lambda leaf: self.value[leaf])
        made: Tensor = node.target(unknown, *args, **(named or dict(node.kwargs)))
        return made == 0

    def levels(self, node: Any, axis: int) -> tuple[Tensor, Tensor]:
        """Along an axis: whether all other entries are one known constant, and which."""
        value = self.value[node].movedim(axis, -1).reshape(-1, self.value[node].shape[axis]).double()
        known = self.known[node].movedim(axis, -1).reshape(-1, value.shape[1]).all(0)
        near = 1e-13 if self.value[node].dtype == torch.float64 else 1e-6
        return known & ((value - value[0]).abs().amax(0) <= near * (1 + value[0].abs())), value[0]

    # Leaves

    def _input(self, node: Any, value: Any) -> None:
        self.value[node] = value
        if isinstance(value, Tensor):
            removable = value.is_floating_point() and value.ndim > 1 and value[0].numel() <= LARGEST
            label = self.fresh(value.shape[1:]) if removable else torch.zeros((), dtype=torch.long)
            self.label[node] = label.expand(value.shape)
            self.known[node] = torch.tensor(False).expand(value.shape)

    def _tensor(self, node: Any) -> None:
        name = str(node.target)
        value = self.value[node] = self.tensors[name].detach()
        self.known[node] = torch.tensor(True).expand(value.shape)
        weight = [user for user in node.users if WEIGHT_AT.get(_packet(user), -1) in _places(user, node)]
        if name not in self.axes and weight:
            self.axes[name] = {axis: self.fresh((value.shape[axis],)) for axis in range(min(value.ndim, 2))}
        if name in self.axes and len(weight) < len(node.users):
            self.keep(*self.axes[name].values())
        twin = next((n for n in self.label if n.op == "get_attr" and n.target == name), None)
        if not value.ndim or name in self.axes or value.numel() > LARGEST:
            self.label[node] = torch.tensor(0).expand(value.shape)
        else:
            self.label[node] = self.fresh(value.shape) if twin is None else self.label[twin]

    def _call(self, node: Any) -> None:
        made = self.value[node] = self.on_labels(node, self.value)
        many = isinstance(made, (tuple, list)) and all(isinstance(one, Tensor) for one in made)
        if not isinstance(made, Tensor) and not many:
            return
        if not any(leaf in self.label for leaf in node.all_input_nodes):  # made of sizes alone
            self.label[node] = torch.tensor(0).expand(made.shape) if isinstance(made, Tensor) else None
            self.known[node] = torch.tensor(True).expand(made.shape) if isinstance(made, Tensor) else None
            return
        rule = RULES.get(_packet(node))
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = _pointwise
        if rule is None or not rule(self, node):
            self.keep(*(self.label.get(leaf) for leaf in node.all_input_nodes))
            for leaf in node.all_input_nodes:
                self.keep(*self.axes.get(str(leaf.target), {}).values())
            parts = [made] if isinstance(made, Tensor) else made
            label = [torch.tensor(0).expand(part.shape) for part in parts]
            known = [torch.tensor(False).expand(part.shape) for part in parts]
            self.label[node], self.known[node] = (label, known) if many else (label[0], known[0])


def _roots(count: int, joined: list[Tensor]) -> np.ndarray:
    """The smallest label of each unit."""
    parent = np.arange(count)
    if not joined:
        return parent
    first, second = torch.cat(joined, 1).numpy()
    while True:
        a, b = parent[first], parent[second]
        if (a == b).all():
            return parent
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while (parent[parent] != parent).any():
            parent = parent[parent]


def _varies(label: Tensor, axis: int) -> bool:
    return bool((label != label.narrow(axis, 0, 1)).any())


def _packet(node: Any) -> Any:
    return getattr(node.target, "overloadpacket", node.target)


def _places(user: Any, node: Any) -> list[int]:
    return [place for place, arg in enumerate(user.args) if arg is node]


def argument(node: Any, name: str) -> Any:
    """An argument of a call by its name, as it was given or by default."""
    schema = node.target._schema
    for place, one in enumerate(schema.arguments):
        if one.name == name:
            return node.args[place] if place < len(node.args) else node.kwargs.get(name, one.default_value)
    return None


# One rule for each way in which operators treat units: it sets the node's label and mask, or answers False and all inputs stay.

Treatment = Callable[[Dependencies, Any], bool]


def _same(d: Dependencies, node: Any) -> bool:
    """Dropout in evaluation mode, copies and casts."""
    d.label[node], d.known[node] = d.label[node.args[0]], d.known[node.args[0]]
    return True


def _moves(d: Dependencies, node: Any) -> bool:
    """Entries change their place alone."""
    d.label[node], d.known[node] = d.on_labels(node, d.label), d.on_labels(node, d.known)
    return True


def _pointwise(d: Dependencies, node: Any) -> bool:
    shape = d.value[node].shape
    given = [leaf for leaf in node.all_input_nodes if leaf in d.label and d.value[leaf].ndim]
    if not given:
        return False
    wide = {
        leaf: d.label[leaf].reshape((1,) * (len(shape) - d.label[leaf].ndim) + d.label[leaf].shape) for leaf in given
    }
    varies = {leaf: [_varies(wide[leaf], a) for a in range(len(shape))] for leaf in given}
    joined: list[Tensor] = []
    for leaf in given:
        others = [varies[other] for other in given if other is not leaf]
        if any(wide[leaf].shape[a] < shape[a] and any(o[a] for o in others) for a in range(len(shape))):
            d.keep(d.label[leaf])  # one number for many units
        else:
            joined.append(wide[leaf].expand(shape))
    for other in joined[1:]:
        d.join(joined[0], other)
    d.label[node] = joined[0] if joined else torch.tensor(0).expand(shape)
    known, zero = torch.tensor(True), torch.tensor(False)
    for leaf in node.all_input_nodes:
        if leaf in d.known:
            known, zero = known & d.known[leaf], zero | (d.known[leaf] & (d.value[leaf] == 0))
    d.known[node] = (known | zero if _packet(node) is aten.mul else known).expand(shape)
    return True


def _halves(d: Dependencies, node: Any) -> bool:
    """One half gates the other."""
    source, axis = node.args[0], argument(node, "dim")
    first, second = d.label[source].chunk(2, axis)
    d.join(first, second)
    a, b = d.known[source].chunk(2, axis)
    d.label[node], d.known[node] = first, a & b
    return True


def _reads(
    d: Dependencies, node: Any, source: Any, weight: Any, bias: Any, ends: tuple[int, int], axis: int, flat: bool
) -> bool:
    """A weight that reads units and makes others. ``ends``: its axes of inputs and outputs; ``flat``: constants fit a bias."""
    read, makes = d.weight_axis(weight, ends[0]), d.weight_axis(weight, ends[1])
    if read is None or makes is None:
        return False
    numbers = d.value[weight].double()
    table = numbers.movedim(ends, (1, 0)).reshape(numbers.shape[ends[1]], numbers.shape[ends[0]], -1)
    d.join(d.along(d.label[source], axis), read)
    constant, level = d.levels(source, axis)
    constant = constant if flat else constant & (level == 0)
    d.readers.append(Consumer(node, read, constant, level, makes, table.sum(2), (table != 0).any(2)))
    _makes(d, node, makes, bias, axis)
    return True


def _makes(d: Dependencies, node: Any, units: Tensor, bias: Any, axis: int) -> None:
    if bias is not None:
        d.join(d.label[bias], units)
    shape = d.value[node].shape
    d.label[node] = units.reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))]).expand(shape)


def _linear(d: Dependencies, node: Any) -> bool:
    source, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    if not _reads(d, node, source, weight, bias, (1, 0), -1, True):
        return False
    d.known[node] = d.masked(node, source, (d.value[weight] != 0).float())
    return True


def _matmul(d: Dependencies, node: Any) -> bool:
    """Rows times a weight, or two flowing tensors: then units are matrices (heads), the inner axis or the last one."""
    bias, first, second = (None, *node.args) if _packet(node) is not aten.addmm else node.args
    a, b = d.value[first], d.value[second]
    if d.weight_axis(second, 0) is not None and b.ndim == 2 and len(node.kwargs) == 0:
        if not _reads(d, node, first, second, bias, (0, 1), -1, True):
            return False
        d.known[node] = ((~d.known[first]).float() @ (b != 0).float()) == 0
        return True
    if bias is not None or a.ndim < 2 or b.ndim != a.ndim or a.shape[:-2] != b.shape[:-2]:
        return False
    d.keep(*(axis for leaf in (first, second) for axis in d.axes.get(str(leaf.target), {}).values()))
    left, right = d.label[first], d.label[second]
    matrices = [x[..., :1, :1] for x in (left, right)]
    if any(bool((x != x.flatten()[0]).any()) for x in matrices) or _varies(left, -2):
        heads = [d.same_along(x, (-1, -2)) for x in (left, right)]
        d.join(heads[0], heads[1])
        d.label[node] = heads[0].expand(d.value[node].shape)
    elif _varies(right, -1) and not _varies(left, -1) and not _varies(right, -2):
        d.keep(left)
        d.label[node] = right[..., :1, :].expand(d.value[node].shape)
    else:
        d.join(left.narrow(-2, 0, 1).squeeze(-2), right.narrow(-1, 0, 1).squeeze(-1))
        d.join(left, left.narrow(-2, 0, 1))
        d.join(right, right.narrow(-1, 0, 1))
        d.label[node] = torch.tensor(0).expand(d.value[node].shape)
    unknown = [(~d.known[leaf]).float() for leaf in (first, second)]
    alive = [(~(d.known[leaf] & (d.value[leaf] == 0))).float() for leaf in (first, second)]
    d.known[node] = (unknown[0] @ alive[1] + alive[0] @ unknown[1]) == 0
    return True


def _convolves(d: Dependencies, node: Any) -> bool:
    source, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    groups, padding = argument(node, "groups"), argument(node, "padding")
    back = "transpose" in str(node.target)
    flat = not back and (padding == "valid" or (isinstance(padding, (list, tuple)) and not any(padding)))
    if d.value[source].ndim != d.value[weight].ndim:
        return False
    if groups == 1:
        if not _reads(d, node, source, weight, bias, (0, 1) if back else (1, 0), 1, flat):
            return False
    else:
        makes, other = d.weight_axis(weight, 0), d.weight_axis(weight, 1)
        read = d.along(d.label[source], 1)
        if makes is None or (back and len(makes) != d.value[node].shape[1]):
            return False
        d.keep(other)
        d.join(makes.reshape(groups, -1), d.same_along(read.reshape(groups, -1), [1]))  # a group goes as a whole
        _makes(d, node, makes, bias, 1)
    rest = [a for a in node.target._schema.arguments if a.name not in ("input", "weight", "bias")]
    named = {a.name: argument(node, a.name) for a in rest}
    numbers = (d.value[weight] != 0).float()
    d.known[node] = d.masked(node, source, weight=numbers, bias=None, **named)
    return True


def _looks_up(d: Dependencies, node: Any) -> bool:
    makes, rows = d.weight_axis(node.args[0], 1), d.weight_axis(node.args[0], 0)
    if makes is None:
        return False
    d.keep(rows)
    _makes(d, node, makes, None, -1)
    numbers = d.value[node.args[0]]
    d.known[node] = (numbers == numbers[0]).all(0).expand(d.value[node].shape)
    return True


def _by_channel(d: Dependencies, node: Any) -> bool:
    """Batch and instance norm, and a slope for each channel: channels stay apart."""
    source = node.args[0]
    units = d.along(d.label[source], 1)
    for leaf in node.all_input_nodes[1:]:
        if d.value[leaf].numel() == len(units):
            d.join(d.label[leaf], units)
    shape = [1, -1, *[1] * (d.value[node].ndim - 2)]
    known = d.known[source].movedim(1, 0).flatten(1).all(1)
    gain = argument(node, "weight")
    if gain is not None and _packet(node) is not aten.prelu:
        known = known | (d.value[gain] == 0)
    d.label[node], d.known[node] = d.label[source], known.reshape(shape).expand(d.value[node].shape)
    return True


def _normalizes(d: Dependencies, node: Any) -> bool:
    """Layer and root-mean-square norm over the last axis: a constant that goes stays in its sums."""
    source = node.args[0]
    if len(argument(node, "normalized_shape")) != 1:
        return False
    units = d.along(d.label[source], -1)
    d.readers.append(Consumer(node, units, *d.levels(source, -1)))
    known = d.known[source].all(-1, keepdim=True).expand(d.value[node].shape)
    for name in ("weight", "bias"):
        if (leaf := argument(node, name)) is not None:
            d.join(d.label[leaf], units)
            known = known | (d.value[leaf] == 0) if name == "weight" else known
    d.label[node], d.known[node] = d.label[source], known
    return True


def _along_axis(d: Dependencies, node: Any) -> bool:
    """Softmax and the like mix the entries along one axis."""
    source, axis = node.args[0], argument(node, "dim")
    d.label[node] = d.same_along(d.label[source], [axis]).expand(d.value[node].shape)
    d.known[node] = d.known[source].all(axis, keepdim=True).expand(d.value[node].shape)
    return True


def _attends(d: Dependencies, node: Any) -> bool:
    """Whole heads, of queries, keys and values together."""
    given = list(node.args[:3])
    if len({d.label[leaf].shape[:-2] for leaf in given}) > 1:
        return False
    d.keep(*(d.label.get(leaf) for leaf in node.all_input_nodes if leaf not in given))
    heads = [d.same_along(d.label[leaf], (-1, -2)) for leaf in given]
    d.join(heads[0], heads[1])
    d.join(heads[0], heads[2])
    value, known = d.value[given[2]], d.known[given[2]]
    constant = (known & (value == value.narrow(-2, 0, 1))).all(-2, keepdim=True)
    d.label[node], d.known[node] = heads[0].expand(d.value[node].shape), constant.expand(d.value[node].shape)
    return True


def _pools(d: Dependencies, node: Any) -> bool:
    """Neighbours are mixed along the axes whose length changes, and along the last ones of an image; never units."""
    source = node.args[0]
    label, made = d.label[source], d.value[node]
    axes = argument(node, "dim")
    reduced = [axes] if isinstance(axes, int) else list(range(label.ndim)) if axes is None and made.ndim == 0 else axes
    label = d.same_along(label, reduced if reduced is not None else range(2, label.ndim))
    if made.ndim < label.ndim:
        label = label.squeeze(tuple(reduced))
    d.label[node] = label.expand(made.shape)
    d.known[node] = d.masked(node, source)
    return True


def _pads(d: Dependencies, node: Any) -> bool:
    source, sizes = node.args[0], node.args[1]
    label = d.label[source]
    for back in range(len(sizes) // 2):
        axis = label.ndim - 1 - back
        if any(sizes[2 * back : 2 * back + 2]):
            label = d.same_along(label, [axis])
    mode = argument(node, "mode") or "constant"
    unknown = (~d.known[source]).float()
    d.label[node] = label.expand(d.value[node].shape)
    d.known[node] = torch.nn.functional.pad(unknown, list(sizes), mode) == 0
    return True


def _selects(d: Dependencies, node: Any) -> bool:
    """Places along an axis by numbers that the graph holds, as a network does that was compressed before."""
    source, axis, index = node.args
    if index.op != "get_attr" or len(index.users) > 1 or d.value[index].is_floating_point():
        return False
    d.keep(d.label[index])
    d.label[node], d.known[node] = (x[source].index_select(axis, d.value[index]) for x in (d.label, d.known))
    return True


def _taken(d: Dependencies, node: Any) -> bool:
    source, place = node.args
    if not isinstance(d.label[source], (list, tuple)):
        return False
    d.label[node], d.known[node] = d.label[source][place], d.known[source][place]
    return True


def _by_packet(table: dict[Any, str]) -> dict[Any, Any]:
    """From ATen's operators of these names, as far as this torch has them, to what the names stand for."""
    return {getattr(aten, one): kind for kind, names in table.items() for one in names.split() if hasattr(aten, one)}


RULES: dict[Any, Treatment] = _by_packet({
    _same: "dropout feature_dropout alpha_dropout contiguous clone alias detach to _to_copy type_as lift_fresh_copy",
    _moves: "view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze select slice narrow split "
        "split_with_sizes chunk unbind cat concat stack expand expand_as repeat movedim swapaxes flip numpy_T "
        "pixel_shuffle channel_shuffle",
    _pointwise: "hardswish hardsigmoid selu celu relu6 log_sigmoid softplus hardtanh mish silu",
    _along_axis: "softmax log_softmax _softmax cumsum",
    _linear: "linear",
    _matmul: "matmul mm bmm addmm",
    _convolves: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _looks_up: "embedding",
    _halves: "glu",
    _attends: "scaled_dot_product_attention",
    _by_channel: "batch_norm instance_norm prelu",
    _normalizes: "layer_norm rms_norm",
    _pools: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_nearest3d upsample_linear1d "
        "mean sum amax",
    _pads: "pad constant_pad_nd",
    _selects: "index_select",
}) | {operator.getitem: _taken}  # fmt: skip
WEIGHT_AT = _by_packet({
    0: "embedding", 1: "linear matmul mm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", 2: "addmm",
})  # fmt: skip
"""Which argument of an operator is a weight: a matrix that joins units."""
