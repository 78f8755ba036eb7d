"""A network as a graph of torch's own operators: traced from any module, written as JSON, built again without anybody's code.

`torch.export` follows a call of the module on an example and leaves one list of operators (``aten.linear``, ``aten.conv2d``,
``aten.add`` ...) in evaluation mode; attention and transformer layers come apart into the same few operators. That list is
kept as a `torch.fx.GraphModule`, whose parameters keep the names they had. The number of rows stays free.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import Argument
from torch.utils._pytree import tree_iter, tree_map, tree_unflatten

from wellposed.core.batches import mapped
from wellposed.core.checks import matches_annotation
from wellposed.core.errors import FormatError, InputError, described, first_line
from wellposed.core.preserve import modes_kept, random_states_kept
from wellposed.core.reading import format_bytes
from wellposed.core.shared import silenced, warnings_apart

GraphRecord = dict[str, Any]
"""A graph as JSON: ``{"nodes": [{"name", "do", "target", "args", "kwargs"}]}``."""
ARITHMETIC = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem")
}
"""Python's own operators, on sizes."""
FACTORIES = {"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"}
"""Operators that make a tensor of none, and that a network may need."""
KINDS = {
    "ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format, "Device": torch.device,
}  # fmt: skip
"""Arguments of operators that torch keeps as numbers."""
RESULTS = {"Tensor", "List[Tensor]", "int", "SymInt", "number", "bool"}
"""What an operator of a graph may return: what returns nothing, or a state, is called for what it does elsewhere."""
TRUSTING = re.compile(
    r"^_|unsafe|backward|sparse|segment_reduce|ctc_loss|quantized|fbgemm|mkldnn|cudnn|miopen|mps_|native_batch_norm|batch_norm_"
)
"""Operators that take indices, states or sizes on trust, beyond their memory too; a network that answers needs none."""
DIVIDING = re.compile(r"div|remainder|fmod|gcd|lcm|avg_pool")
"""Operators that divide: the least whole number by -1 ends the process, where a fraction is an infinity."""
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def as_arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call of a network: a tuple is several, a mapping is named ones."""
    if isinstance(batch, dict):
        return (), batch
    return (batch if isinstance(batch, tuple) else (batch,)), {}


def first_rows(batch: Any, count: int) -> Any:
    """The first rows of a batch, repeated where it has fewer."""
    return mapped(
        lambda leaf: leaf[torch.arange(count) % len(leaf)] if isinstance(leaf, Tensor) and leaf.ndim else leaf, batch
    )


def free_rows(values: Any) -> Any:
    """For each value of a tuple or a dict which axis may have any length: the first one of a tensor."""
    return tree_map(lambda leaf: {0: torch.export.Dim.AUTO} if isinstance(leaf, Tensor) and leaf.ndim else None, values)


@contextmanager
def attention_apart() -> Iterator[None]:
    """Inside the block a layer of attention runs as its single operators, not as one that neither tracers nor counters see into."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def traced(net: nn.Module, example: Any) -> fx.GraphModule:
    """The network in evaluation mode as a graph of torch's operators, for any number of rows where its code allows.

    Raises:
        InputError: its code cannot be followed: it branches on values, changes its own buffers, or takes nested inputs.
    """
    args, named = as_arguments(first_rows(example, 2))
    try:
        with (
            attention_apart(),
            random_states_kept(),
            modes_kept(net, training=False),
            warnings_apart(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            program = torch.export.export(net, args, named, dynamic_shapes=free_rows(named or args), strict=False)
    except Exception as error:  # of torch's tracer, or of the network's own code
        raise InputError(
            f"{type(net).__name__} cannot be traced by torch.export, which finds what depends on what: {first_line(error)}. "
            "Take branches on values out of its forward, or compress the part of it that has none."
        ) from error
    return _as_module(program, net)


def _as_module(program: Any, net: nn.Module) -> fx.GraphModule:
    signature, graph = program.graph_signature, program.graph
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise InputError(
            f"{type(net).__name__} changes its buffers or its inputs in evaluation mode; it is not compressed."
        )
    places = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    held = {**program.constants, **dict(program.named_buffers()), **program.state_dict}
    tensors: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op == "placeholder" and node.name in places:
            if node.users:
                name = places[node.name]
                value = held[name].detach().clone()
                trained = node.name in signature.inputs_to_parameters
                tensors[name] = nn.Parameter(value, value.is_floating_point()) if trained else value
                with graph.inserting_before(node):
                    node.replace_all_uses_with(graph.create_node("get_attr", name))
            graph.erase_node(node)
        elif node.op == "call_function":
            _functional(node)
    (output,) = (node for node in graph.nodes if node.op == "output")
    try:
        output.args = (tree_unflatten(list(output.args[0]), program.call_spec.out_spec),)
    except Exception as error:
        raise InputError(
            f"{type(net).__name__} returns an object of its own; tensors, tuples, lists and dicts of them can be compressed."
        ) from error
    return finished(tensors, graph)


def _functional(node: fx.Node) -> None:
    """Write an operation in place (``relu_``) as the one that makes a new tensor; drop checks of sizes."""
    target: Any = node.target
    name = str(getattr(target, "_opname", ""))
    if name.startswith(("_assert", "sym_constrain")) or name == "_guards_fn":
        node.graph.erase_node(node)
    elif name.endswith("_") and not name.startswith("_"):
        changed, seen = node.args[0], False
        node.target = getattr(getattr(torch.ops.aten, name[:-1]), target._overloadname)
        assert isinstance(changed, fx.Node)
        for later in node.graph.nodes:
            if seen:
                later.replace_input_with(changed, node)
            seen = seen or later is node


def finished(tensors: dict[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A module of a graph and its tensors, without what nobody uses."""
    kept = fx.GraphModule(tensors, graph).graph
    kept.eliminate_dead_code()
    used = {str(node.target) for node in kept.nodes if node.op == "get_attr"}
    kept._tracer_cls = None  # the exporter's own can not be made again when a pickle of the network is read
    return Network({name: tensor for name, tensor in tensors.items() if name in used}, kept, "Compressed").eval()


class Network(fx.GraphModule):
    """A graph whose batch norms and dropout follow ``train()`` and ``eval()``, so that what is left can be trained on.

    What is on in evaluation too, as in dropout that is always drawn, stays on.
    """

    def train(self, mode: bool = True) -> Network:
        switched = self.meta.setdefault("switched", [n.name for n in self.graph.nodes if _trains(n) == [False]])
        for node in self.graph.nodes:
            if node.name in switched and _trains(node) != [mode]:
                place = next(
                    i for i, one in enumerate(node.target._schema.arguments) if one.name in ("train", "training")
                )
                node.update_arg(place, mode)
                self._stale = True
        if self.__dict__.pop("_stale", False):
            self.recompile()
        super().train(mode)
        return self


def _trains(node: fx.Node) -> list[Any]:
    """Whether an operator runs as in training; empty where it knows no difference."""
    named = getattr(getattr(node.target, "_schema", None), "arguments", ())
    places = [i for i, one in enumerate(named) if one.name in ("train", "training")]
    return [node.args[i] for i in places if i < len(node.args)]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their names; a tied one once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def to_json(module: fx.GraphModule) -> GraphRecord:
    """The graph as JSON; `from_json` builds it again."""
    nodes = []
    for node in module.graph.nodes:
        target = node.target if isinstance(node.target, str) else str(node.target)
        if callable(node.target) and not isinstance(node.target, torch._ops.OpOverload):
            target = f"operator.{node.target.__name__}"
        args, kwargs = _written(node.args), _written(dict(node.kwargs))
        nodes.append({"name": node.name, "do": node.op, "target": target, "args": args, "kwargs": kwargs})
    return {"nodes": nodes}


def _written(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_written(item) for item in value]}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: _written(item) for key, item in value.items()}}
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and abs(value) == float("inf"):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"The network's graph holds {described(value)}, which is not written as JSON.")


def from_json(graph: GraphRecord, tensors: dict[str, Tensor], where: str) -> fx.GraphModule:
    """Build a network from its graph and its tensors. Only torch's own operators that change nothing are called.

    Raises:
        FormatError: the graph is damaged, or calls anything else.
    """
    made = fx.Graph()
    built: dict[str, fx.Node] = {}
    try:
        for one in graph["nodes"]:
            name, do, target = str(one["name"]), one["do"], str(one["target"])
            args: Any = _meant(one["args"], built)
            kwargs: Any = _meant(one["kwargs"], built)
            named = do == "call_function" or (WORD if do == "placeholder" else PATH).fullmatch(target)
            if not WORD.fullmatch(name) or not named:
                raise FormatError(f"{where} is damaged: {name!r} with {target!r} is no name of a tensor.")
            if do == "call_function":
                function = _operator(target, where)
                if function in ARITHMETIC.values():
                    _refuse_no_size(function, args)
                else:
                    _refuse_codes(function, args, kwargs)
                    _refuse_offsets(function, args)
                built[name] = made.create_node(do, function, args, kwargs, name)
            elif do == "placeholder" or (do == "get_attr" and target in tensors):
                built[name] = made.create_node(do, target, name=name)
            elif do == "output":
                made.output(args[0])
            else:
                raise FormatError(f"{where} is damaged: there is no {do} {target!r}.")
        return finished(dict(tensors), made)
    except (LookupError, TypeError, ValueError, AssertionError, AttributeError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where} is damaged: {first_line(error)}.") from None


def _operator(target: str, where: str) -> Any:
    kind, _, rest = target.partition(".")
    name, _, overload = rest.partition(".")
    if kind == "operator" and rest in ARITHMETIC:
        return ARITHMETIC[rest]
    if kind == "aten" and WORD.fullmatch(name) and WORD.fullmatch(overload):
        found = getattr(getattr(torch.ops.aten, name, None), overload, None)
        if isinstance(found, torch._ops.OpOverload) and _makes_tensors(name, found._schema):
            return found
    raise FormatError(f"{where} is damaged: it calls {target!r}, which is no operator of torch that a network needs.")


def _refuse_codes(operator_: Any, args: Any, kwargs: Any) -> None:
    """A type, a layout or a device is torch's own value: torch takes a number for one without looking whether there is such."""
    for place, argument in enumerate(operator_._schema.arguments):
        value = kwargs.get(argument.name, args[place] if place < len(args) else None)
        kind = KINDS.get(str(argument.real_type).removeprefix("Optional[").removesuffix("]"))
        if kind is not None and value is not None and not isinstance(value, kind):
            raise TypeError(f"{operator_} takes a {kind.__name__} as {argument.name}, and was given {described(value)}")


def _refuse_offsets(operator_: Any, args: Any) -> None:
    """Where bags of an embedding begin is counted up from 0 in the graph: a negative place is read without looking."""
    if operator_._opname == "embedding_bag":
        offsets = args[2]
        if offsets.target is not torch.ops.aten.arange.start_step or offsets.args[0] != 0 or not offsets.args[2] > 0:
            raise TypeError(f"{operator_} is given places that the graph does not count up from 0")


def _makes_tensors(name: str, schema: Any) -> bool:
    """Whether an operator does nothing but make tensors of tensors, and looks at its arguments."""
    takes = name in FACTORIES or any("Tensor" in str(argument.type) for argument in schema.arguments)
    returns = [str(result.type) for result in schema.returns]
    return not TRUSTING.search(name) and takes and bool(returns) and set(returns) <= RESULTS and not schema.is_mutable


class _OnShapes(fx.Interpreter):
    """Runs a graph on shapes alone, so that what it asks for is known before anything is made."""

    def __init__(self, module: fx.GraphModule, limit: int) -> None:
        super().__init__(module)
        self.limit, self.live = limit, 0
        self.held: dict[fx.Node, int] = {}
        self.mode = FakeTensorMode()

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.mode.from_tensor(super().get_attr(target, args, kwargs))

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function" and not isinstance(n.target, torch._ops.OpOverload):
            _refuse_no_size(n.target, self.map_nodes_to_values(n.args, n))
        with self.mode:
            made = super().run_node(n)
        _refuse_whole_division(n, made)
        # A view counts as if it were written out: an operator may copy it, and takes as long.
        self.held[n] = sum(tensor.numel() * tensor.element_size() for tensor in outputs_in(made))
        self.live += self.held[n]
        if self.live > self.limit:
            raise ValueError(
                f"node {n.name!r} asks for {format_bytes(self.live)}, and the limit is {format_bytes(self.limit)}; "
                "wp.reading_up_to raises it"
            )
        self.live -= sum(self.held.pop(gone, 0) for gone in self.user_to_last_uses.get(n, []))
        return made


def _refuse_whole_division(node: fx.Node, made: Any) -> None:
    """Whole numbers are divided by positive numbers that the graph itself names, or not at all."""
    whole = any(not tensor.is_floating_point() for tensor in outputs_in(made))
    if whole and node.op == "call_function" and DIVIDING.search(str(node.target)):
        divisors = [value for value in (*node.args[1:], *node.kwargs.values()) if not isinstance(value, (str, bool))]
        if not all(isinstance(value, (int, float)) and value > 0 for value in divisors):
            raise TypeError(f"{node.target} divides whole numbers by what is not known to be positive")


def _refuse_no_size(target: Any, args: Any) -> None:
    """Python's own operators are for sizes and for picking one of several tensors: of a text they could make anything."""
    if target is operator.getitem:
        fits = len(args) == 2 and isinstance(args[0], (tuple, list, fx.Node)) and isinstance(args[1], (int, fx.Node))
    else:
        numbers = (value for value in args if not isinstance(value, fx.Node))
        fits = all(isinstance(value, (int, float)) and abs(value) < 2**63 for value in numbers)
    if not fits:
        raise TypeError(f"it does arithmetic with {described(args)}")


def refuse_what_does_not_fit(module: fx.GraphModule, batch: Any, limit: int) -> None:
    """Run a graph of a stranger on the shapes of a batch, before it is run on the batch.

    Raises:
        ValueError: a result and those that are still needed would take more than ``limit`` bytes.
        Exception: what torch raises where an operator does not take what it is given.
    """
    run = _OnShapes(module, limit)
    args, named = as_arguments(
        mapped(lambda leaf: run.mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf, batch)
    )
    names = [node.target for node in module.graph.nodes if node.op == "placeholder"][len(args) :]
    with silenced("torch._subclasses.fake_tensor"):
        run.run(*args, *(named[str(name)] for name in names))


def _meant(value: Any, built: dict[str, fx.Node]) -> Argument:
    if isinstance(value, list):
        return [_meant(item, built) for item in value]
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]
    ((kind, inner),) = value.items()
    if kind == "node":
        return built[inner]
    if kind == "tuple":
        return tuple(_meant(item, built) for item in inner)
    if kind == "dict":
        return {str(key): _meant(item, built) for key, item in inner.items()}
    if kind == "device":
        return torch.device(inner)
    if kind == "float":
        return float(inner)
    found = getattr(torch, inner) if kind == "torch" and WORD.fullmatch(inner) else None
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise ValueError(f"{described(value)} is no value of a graph")
    return found


def outputs_in(outputs: Any) -> list[Tensor]:
    """The tensors among the outputs of a network, in order."""
    return [leaf for leaf in tree_iter(outputs) if isinstance(leaf, Tensor)]


def is_batch(example: Any) -> bool:
    """Whether it is a tensor with rows, or a tuple or a dict of values of which one is."""
    values = example if isinstance(example, tuple) else example.values() if isinstance(example, dict) else (example,)
    plain = all(matches_annotation(value, Tensor | int | float | None) for value in values)
    return plain and any(isinstance(value, Tensor) and value.ndim and len(value) for value in values)
