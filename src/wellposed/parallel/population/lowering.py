"""A traced model as the operations that the kernel knows: products, pointwise blocks (norm, activation, dropout), sums."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from wellposed.parallel.population.stacks import padded_size
from wellposed.parallel.population.tracing import NotStackable, layer_name, node_shape, sites

LINEAR, POINT, ADD = 0, 1, 2
NO_NORM, LAYER_NORM, BATCH_NORM = 0, 1, 2
SKIP, ADD_TO, ASSIGN = -1, 0, 1
"""What the backward pass does with the gradient of an operation's input."""

ACTIVATIONS: dict[str, int] = {
    "identity": 0, "relu": 1, "silu": 2, "gelu": 3, "tanh": 4, "sigmoid": 5, "leaky_relu": 6, "elu": 7,
}  # fmt: skip

FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", F.silu: "silu", F.tanh: "tanh", torch.tanh: "tanh",
    F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid",
}  # fmt: skip
SUMS: tuple[Callable[..., Any], ...] = (operator.add, torch.add)
RESHAPES = ("flatten", "view", "reshape", "contiguous", "float", "double")


@dataclass
class Op:
    """One operation; fields as in kernel.c. ``layer`` names the module whose leaves it uses."""

    kind: int
    source: int
    width: int
    rows: int = 1
    other: int = -1
    out: int = -1
    width_in: int = 0
    linear: str = ""
    norm: int = NO_NORM
    normed: str = ""
    act: int = 0
    site: int = -1
    eps: float = 0.0
    momentum: float = 0.0
    slope: float = 0.0
    to: int = ASSIGN
    to_other: int = ASSIGN


@dataclass
class Lowered:
    """A whole model as a list of operations.

    Attributes:
        sizes: numbers for each example of every value; 0 is the input.
        sites: names of the streams that dropout draws from, with the layer of each and numbers for each example.
    """

    ops: list[Op] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    output: int = 0
    outputs: int = 0
    sites: list[tuple[str, str, int]] = field(default_factory=list)


def lower(module: fx.GraphModule) -> Lowered:
    """The operations of a traced model.

    Raises:
        NotStackable: something in it is not known to the kernel.
    """
    found = Lowered()
    values: dict[fx.Node, int] = {}
    streams = sites(module)
    used: set[str] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if node.users:
                values[node] = _value(found, math.prod((node_shape(node) or ())[1:]))
        elif node.op == "output":
            _finish(found, node, values)
        elif node.op == "call_module":
            values[node] = _layer(found, node, module, values, streams, used)
        else:
            values[node] = _call(found, node, values)
    _gradients(found)
    return found


def _value(found: Lowered, size: int) -> int:
    found.sizes.append(size)
    return len(found.sizes) - 1


def _finish(found: Lowered, node: fx.Node, values: dict[fx.Node, int]) -> None:
    result = node.args[0]
    if not isinstance(result, fx.Node) or len(node_shape(result) or ()) != 2:
        raise NotStackable("its outputs are not (examples, numbers)")
    found.output, found.outputs = values[result], (node_shape(result) or (0, 0))[1]
    if found.output == 0 or any(found.output in (op.source, op.other) for op in found.ops):
        raise NotStackable("its output is used inside it")


def _layer(
    found: Lowered, node: fx.Node, module: fx.GraphModule, values: dict[fx.Node, int],
    streams: dict[fx.Node, str], used: set[str],
) -> int:  # fmt: skip
    layer, name = module.get_submodule(str(node.target)), layer_name(module, node)
    source = node.args[0]
    if not isinstance(source, fx.Node) or len(node.args) > 1 or node.kwargs:
        raise NotStackable(f"{name!r} is called with more than one tensor")
    before, shape = values[source], node_shape(node) or ()
    if isinstance(layer, (nn.Flatten, nn.Identity)):
        if math.prod(shape[1:]) != found.sizes[before]:
            raise NotStackable(f"{name!r} changes sizes")
        return before
    if any(True for _ in layer.parameters(recurse=False)):
        if name in used:
            raise NotStackable(f"{name!r} is called twice")
        used.add(name)
    rows, width = math.prod(shape[1:-1]), shape[-1]
    if isinstance(layer, nn.Linear):
        return _append(found, Op(LINEAR, before, width, rows, width_in=layer.in_features, linear=name))
    if getattr(layer, "inplace", False) and not _only(source, values):
        raise NotStackable(f"{name!r} changes what others use")
    op = Op(POINT, before, width, rows)
    if isinstance(layer, nn.LayerNorm) and tuple(layer.normalized_shape) == (width,):
        op.norm, op.normed, op.eps = LAYER_NORM, name, layer.eps
    elif isinstance(layer, nn.BatchNorm1d) and len(shape) == 2:
        op.norm, op.normed, op.eps, op.momentum = BATCH_NORM, name, layer.eps, float(layer.momentum or 0.0)
    elif type(layer) is nn.Dropout:
        op.site = len(found.sites)
        found.sites.append((streams[node], name, rows * width))
    else:
        op.act, op.slope = _activation(layer, name)
    return _append(found, op, _only(source, values))


def _activation(layer: nn.Module, name: str) -> tuple[int, float]:
    """The kernel's number of an activation, and its slope."""
    if isinstance(layer, nn.LeakyReLU):
        return ACTIVATIONS["leaky_relu"], layer.negative_slope
    if isinstance(layer, nn.ELU):
        return ACTIVATIONS["elu"], layer.alpha
    known = {nn.ReLU: "relu", nn.SiLU: "silu", nn.GELU: "gelu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    if type(layer) not in known or getattr(layer, "approximate", "none") != "none":
        raise NotStackable(f"{name!r} is {type(layer).__name__}")
    return ACTIVATIONS[known[type(layer)]], 0.0


def _call(found: Lowered, node: fx.Node, values: dict[fx.Node, int]) -> int:
    shape, target = node_shape(node), node.target
    sources = [arg for arg in node.args if isinstance(arg, fx.Node) and node_shape(arg) is not None]
    if shape is None:
        return -1  # a size, or part of one: reshapes are checked by what comes out
    first = values[sources[0]] if sources else -1
    if (node.op == "call_method" and target in RESHAPES) or target is torch.flatten:
        if math.prod(shape[1:]) == found.sizes[first] and (target not in ("float", "double") or first == 0):
            return first
    elif target in SUMS and len(sources) == len(node.args) == 2 and not node.kwargs:
        if node_shape(sources[0]) == node_shape(sources[1]):
            rows, width = math.prod(shape[1:-1]), shape[-1]
            return _append(found, Op(ADD, first, width, rows, other=values[sources[1]]))
    elif _pointwise(node):
        act = ACTIVATIONS[FUNCTIONS.get(target, str(target))]
        op = Op(POINT, first, shape[-1], math.prod(shape[1:-1]), act=act)
        return _append(found, op, _only(sources[0], values))
    raise NotStackable(f"{getattr(target, '__name__', target)} has no kernel")


def _pointwise(node: fx.Node) -> bool:
    """Whether a call is an activation that the kernel knows, with nothing set (``inplace`` would change what others use)."""
    known = node.target in FUNCTIONS or (node.op == "call_method" and node.target in ("relu", "tanh", "sigmoid"))
    return known and len(node.args) == 1 and not any(node.kwargs.values())


def _only(node: fx.Node, values: dict[fx.Node, int]) -> bool:
    """Whether the value of a node has one user, under whichever name: a reshape gives it another."""
    names = [other for other, value in values.items() if value == values[node]]
    return all(len(name.users) == 1 for name in names)


def _append(found: Lowered, op: Op, only: bool = False) -> int:
    """Add an operation, in one pass with the one before it where that is possible: norm, then activation, then dropout, each
    at most once. ``only`` says that nothing else uses its input."""
    last = found.ops[-1] if found.ops else None
    follows = only and last is not None and last.kind == op.kind == POINT and last.out == op.source
    if last is not None and follows and last.site < 0 and op.norm == NO_NORM and 0 in (op.act, last.act):
        slope = op.slope if op.act else last.slope
        op = replace(found.ops.pop(), act=op.act or last.act, slope=slope, site=op.site)
    op.out = _value(found, op.rows * op.width)
    found.ops.append(op)
    return op.out


def _gradients(found: Lowered) -> None:
    """Who writes the gradient of a value first, going backward, and who adds to it; the input needs none."""
    seen: set[int] = set()

    def first(value: int) -> int:
        if value == 0:
            return SKIP
        if value in seen:
            return ADD_TO
        seen.add(value)
        return ASSIGN

    for op in reversed(found.ops):
        op.to = first(op.source)
        op.to_other = first(op.other) if op.kind == ADD else SKIP


@dataclass
class Layout:
    """Where everything lies in a thread's workspace, in numbers.

    Attributes:
        values, gradients: of each value.
        keeps, stats: of each operation: its normalized input, and what it was divided by.
        scratch: lines that a pass may use.
        size: of the whole.
    """

    values: list[int]
    gradients: list[int]
    keeps: list[int]
    stats: list[int]
    scratch: int
    size: int


def layout(found: Lowered, batch: int, longest: int) -> Layout:
    """Places for ``batch`` examples, and lines of ``longest`` numbers.

    A value that only one pointwise block uses is kept where it is, and the gradients of both ends of that block share one place.
    """
    end = 0

    def take(count: int) -> int:
        nonlocal end
        at, end = end, end + padded_size(count, bytes_each=4)  # of the smaller type: the larger one is aligned too
        return at

    uses = Counter(value for op in found.ops for value in (op.source, *([op.other] if op.kind == ADD else [])))
    values = [0] + [take(batch * size) for size in found.sizes[1:]]
    keeps, stats = [], []
    gradients = [-1] * len(found.sizes)
    for op in reversed(found.ops):
        if gradients[op.out] < 0:
            gradients[op.out] = take(batch * found.sizes[op.out])
        inside = op.source != 0 and uses[op.source] == 1
        if op.kind == POINT and inside:
            gradients[op.source] = gradients[op.out]
    for op in found.ops:
        inside = op.source != 0 and uses[op.source] == 1
        kept = 0 if op.kind != POINT else values[op.source] if inside else take(batch * found.sizes[op.out])
        keeps.append(kept)
        stats.append(take(max(batch * op.rows, op.width)) if op.norm else 0)
    scratch = take(3 * max(longest, *(op.width for op in found.ops)))
    return Layout(values, gradients, keeps, stats, scratch, end)
