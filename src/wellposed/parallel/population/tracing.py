"""What a model computes, as a graph of supported layers; or why it cannot be stacked."""

from __future__ import annotations

import operator
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from wellposed.core.preserve import modes_kept
from wellposed.core.shared import exclusively


class NotStackable(Exception):
    """Why a model or a recipe is trained alone, in words that follow ``"trained alone: "``."""


WEIGHTED: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.Embedding, nn.Conv1d, nn.Conv2d,
)  # fmt: skip
"""Layers with weights that can be stacked."""

DROPOUTS: tuple[type[nn.Module], ...] = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Layers whose masks come from streams."""

BARE: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Flatten, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SELU, nn.CELU,
    nn.LeakyReLU, nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Tanhshrink, nn.Softsign, nn.LogSigmoid,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
"""Layers without weights that act on each example by itself: they take the examples of all slots as one batch."""

FUNCTIONS: tuple[Callable[..., Any], ...] = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.getitem, getattr,
    torch.add, torch.sub, torch.mul, torch.div, torch.relu, torch.tanh, torch.sigmoid, torch.flatten, torch.abs,
    F.relu, F.gelu, F.silu, F.tanh, F.sigmoid, F.elu, F.leaky_relu, F.softplus, F.mish, F.selu, F.hardswish,
    F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
)  # fmt: skip
METHODS = (
    "flatten", "view", "reshape", "size", "relu", "tanh", "sigmoid", "float", "double", "contiguous", "add", "mul",
)  # fmt: skip
"""Functions and methods of the same kind. A reshape keeps the first axis, which `trace` checks."""
RESHAPES = ("view", "reshape", "flatten", "size", torch.flatten)
"""What may be given sizes that the model asked for."""


class _Tracer(fx.Tracer):
    """While it traces, torch sends every call of every module through it, those of other threads too."""

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        """The graph; one thread traces at a time, since what torch replaced it puts back in order."""
        self.thread = threading.get_ident()
        with exclusively():
            return super().trace(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of a module; that of another thread is none of this model's."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """A supported layer, and any other of torch's own: those are refused by name."""
        return type(module) in (*WEIGHTED, *DROPOUTS, *BARE) or super().is_leaf_module(module, name)


class _Shapes(fx.Interpreter):
    """Notes at each node the shape of its value. Torch's own pass for it imports an algebra system, half a second of work."""

    def run_node(self, node: fx.Node) -> Any:
        """The node's value, whose shape is noted."""
        value = super().run_node(node)
        node.meta["shape"] = value.shape if isinstance(value, Tensor) else None
        return value


def trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """The graph of a model, each node with the shape of its value for the rows of ``example``.

    Args:
        model: as a factory gave it. Not modified.
        example: a few rows of inputs, at least two.
    Raises:
        NotStackable: something in it is not known to act on each example by itself, or not by stacked weights.
    """
    if any(found for m in model.modules() for found in hooks_of(m)):
        raise NotStackable("the model has hooks")
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise NotStackable("some of its layers share weights")
    # A layer that is the whole model has no name that a graph could call it by.
    single = type(model) in WEIGHTED
    model = nn.Sequential(model) if single else model
    graph = _graph(model)
    module = fx.GraphModule(model, graph)
    module.meta["single"] = single
    module.graph.eliminate_dead_code()
    for node in module.graph.nodes:
        _check(node, module)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder" and not node.args]
    if len(placeholders) != 1:
        raise NotStackable(f"it takes {len(placeholders)} inputs")
    try:
        with modes_kept(model, training=False), torch.no_grad():
            _Shapes(module).run(example)
    except Exception as error:
        raise NotStackable(f"its graph does not run ({type(error).__name__})") from error
    for node in module.graph.nodes:
        found = node_shape(node)
        if found is not None and node.op != "output" and (not found or found[0] != len(example)):
            raise NotStackable("a value has no axis of examples first")
        _check_examples(node)
    return module


def layer_name(module: fx.GraphModule, node: fx.Node) -> str:
    """What the layer that a node calls is called in the model that was traced; empty where it is the whole model."""
    return "" if module.meta["single"] else str(node.target)


def hooks_of(module: nn.Module) -> list[Any]:
    """What shall be called beside a module's layers, or with the gradients of its weights."""
    own = [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]
    weights = module.parameters(recurse=False)
    return own + [hooks for w in weights for hooks in (w._backward_hooks, w._post_accumulate_grad_hooks)]


def _graph(model: nn.Module) -> fx.Graph:
    """The graph of a model in training, which must be that in evaluation too."""
    with modes_kept(model):
        try:
            model.eval()
            evaluated = _Tracer().trace(model)
            model.train()
            graph = _Tracer().trace(model)
        except Exception as error:  # whatever somebody's forward does with a value that is not there
            raise NotStackable(f"its forward cannot be traced ({type(error).__name__})") from error
        if not all(m.training for m in model.modules()):
            raise NotStackable("some of its layers stay in evaluation mode")
    # What was computed while tracing is numbered anew in each trace.
    first, second = (re.sub(r"_tensor_constant\d+", "_tensor_constant", str(one)) for one in (evaluated, graph))
    if first != second:
        raise NotStackable("its forward is another one in evaluation")
    return graph


def node_shape(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's value; None where it is no tensor."""
    shape = node.meta["shape"]
    return None if shape is None else tuple(shape)


def _check(node: fx.Node, module: fx.GraphModule) -> None:
    if node.op == "call_module":
        _check_layer(str(node.target), module.get_submodule(str(node.target)))
    elif node.op == "call_function" and node.target not in FUNCTIONS:
        raise NotStackable(f"it calls {getattr(node.target, '__name__', node.target)}")
    elif node.op == "call_method" and node.target not in METHODS:
        raise NotStackable(f"it calls .{node.target}()")
    elif node.op == "get_attr":
        raise NotStackable(f"it uses {node.target!r} outside a layer")
    elif node.op == "placeholder" and len(node.args) > 0 and node.users:
        raise NotStackable(f"it uses the argument {node.target!r}")


def _check_examples(node: fx.Node) -> None:
    """Refuse what looks at other examples, or at how many there are: in a population there are those of all slots."""
    shapes = [node_shape(given) for given in node.all_input_nodes]
    if node_shape(node) is not None and node.target not in RESHAPES and None in shapes:
        raise NotStackable("it computes with sizes")
    if not shapes or None in shapes or node.op == "output":
        return
    if node.target is getattr and node.args[1] != "shape":
        raise NotStackable(f"it uses .{node.args[1]}")
    if node.target is operator.getitem and not _every_example(node.args[1], len(shapes[0] or ())):
        raise NotStackable("it picks examples")
    if len({len(shape or ()) for shape in shapes}) > 1:
        raise NotStackable("it combines values of different dimensions")


def _every_example(index: object, axes: int) -> bool:
    """Whether an index leaves the first of so many axes alone."""
    first, *rest = index if isinstance(index, tuple) and index else (index,)
    return (isinstance(first, slice) and first == slice(None)) or (first is Ellipsis and len(rest) < axes)


def _check_layer(name: str, layer: nn.Module) -> None:
    if type(layer) not in (*WEIGHTED, *DROPOUTS, *BARE):
        raise NotStackable(f"{name!r} is {type(layer).__name__}")
    if nn.utils.parametrize.is_parametrized(layer):
        raise NotStackable(f"{name!r} has a parametrization")
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.momentum is None or not layer.track_running_stats):
        raise NotStackable(f"{name!r} keeps no running mean of a fixed momentum")
    if isinstance(layer, nn.Embedding) and (layer.max_norm or layer.sparse or layer.scale_grad_by_freq):
        raise NotStackable(f"{name!r} changes its weights or gradients by itself")
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode != "zeros":
        raise NotStackable(f"{name!r} pads with {layer.padding_mode}")
    if isinstance(layer, nn.Flatten) and layer.start_dim < 1:
        raise NotStackable(f"{name!r} joins the axis of examples with others")


def sites(module: fx.GraphModule) -> dict[fx.Node, str]:
    """The stream that each dropout node draws from: the layer's name, and which of its calls it is."""
    found: dict[fx.Node, str] = {}
    calls: Counter[str] = Counter()
    for node in module.graph.nodes:
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) in DROPOUTS:
            name = str(node.target)
            found[node] = f"{name}#{calls[name]}" if calls[name] else name
            calls[name] += 1
    return found
