"""Zero groups leave a network: which may, what follows from it for shapes and biases, and the graph that is left.

A unit may leave if every weight that reads it is zero towards all that stays, or if what is read is a constant that the
reader's bias can take over. The largest such set is found by starting with all units and giving back those that are needed,
until nothing changes: so that chains of units that only feed one another leave together.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from wellposed.core.errors import InputError
from wellposed.sparsity.aten_graph import finished, tensors_of
from wellposed.sparsity.dependencies import Consumer, Dependencies, argument

aten = torch.ops.aten


Removed = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Tensor to ``(shape before, shape after)``."""


def without_zero_groups(module: fx.GraphModule, inputs: list[Any]) -> tuple[fx.GraphModule, Removed, dict[str, int]]:
    """The network without the units that nothing needs, what left it, and of each weight how many rows of zeros had to stay.

    Args:
        inputs: one value for each of the graph's inputs, of two rows.
    Raises:
        InputError: the outputs are the same for all inputs, so that nothing would be left.
    """
    before = tensors_of(module)
    with torch.no_grad():
        module = _without_constant_branches(module, inputs)
        surgery = _Surgery(module, Dependencies(module, inputs))
        model = surgery.done()
    after = tensors_of(model)
    shapes = {
        name: (tuple(old.shape), tuple(after[name].shape if name in after else ())) for name, old in before.items()
    }
    return model, {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}, surgery.stayed


def _without_constant_branches(module: fx.GraphModule, inputs: list[Any]) -> fx.GraphModule:
    """A branch that always adds the same becomes that constant, or nothing where it is zero."""
    found, tensors = Dependencies(module, inputs), tensors_of(module)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    if output.all_input_nodes and all(bool(found.known[leaf].all()) for leaf in output.all_input_nodes):
        raise InputError(
            "The network's outputs are the same for all inputs: its zeros cut every path, and nothing would be left of it. "
            "Charge less: take a smaller strength."
        )
    for node in list(module.graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs or len(node.all_input_nodes) != 2:
            continue
        for other, branch in (node.args, reversed(node.args)):
            constant = found.value[branch]
            known = branch.op != "get_attr" and bool(found.known[branch].all()) and not bool(found.known[other].all())
            if not known or constant.dtype != found.value[node].dtype:
                continue
            if not constant.any() and found.value[other].shape == found.value[node].shape:
                node.replace_all_uses_with(other)
            else:
                for axis in range(constant.ndim):
                    if bool((constant == constant.narrow(axis, 0, 1)).all()):
                        constant = constant.narrow(axis, 0, 1)
                if not (constant.ndim == found.value[node].ndim and len(constant) > 1):  # the same for all rows
                    name = _new_name(tensors, f"constant_{node.name}")
                    tensors[name] = constant.clone()
                    with module.graph.inserting_before(node):
                        node.replace_input_with(branch, module.graph.create_node("get_attr", name))
            break
    return finished(tensors, module.graph)


def _new_name(tensors: dict[str, Any], name: str) -> str:
    """A network that was compressed before has a tensor of such a name, which another operator may read."""
    while name in tensors:
        name += "_"
    return name


def _leaving(found: Dependencies) -> Tensor:
    """``(units,)``: whether a unit leaves."""
    units = found.units
    leaving = torch.ones(len(units), dtype=torch.bool)
    leaving[0] = False
    labels = [label for made in found.label.values() for label in (made if isinstance(made, (list, tuple)) else [made])]
    blocks = [_thin(label) for label in labels if label is not None]
    blocks += [axis for axes in found.axes.values() for axis in axes.values()]
    shapes = {(block.shape, *units[block].flatten().tolist()): units[block] for block in blocks if block.numel()}

    def needed() -> None:
        """Give back who is read by what stays, from the outputs to the inputs, until nothing changes."""
        before = -1
        while (now := int(leaving.sum())) != before:
            before = now
            for reader in reversed(found.readers):
                read = ~reader.constant
                if reader.makes is not None and reader.nonzero is not None:
                    read &= reader.nonzero[~leaving[units[reader.makes]]].any(0)
                leaving[units[reader.units[read]]] = False

    before = -1
    while (now := int(leaving.sum())) != before:
        before = now
        needed()
        for block in shapes.values():
            goes = leaving[block]
            if goes.all():  # a layer of nothing is no layer
                leaving[block.flatten()[0]] = False
            elif goes.ndim > 1 and goes.any():
                leaving[block[goes & ~_slices(goes)]] = False  # what is left must be a tensor again
    return leaving


def _thin(label: Tensor) -> Tensor:
    for axis in range(label.ndim):
        if label.stride(axis) == 0:
            label = label.narrow(axis, 0, 1)
    return label.squeeze()


def _gone_along(goes: Tensor) -> list[Tensor]:
    """For each axis, which of its places are gone as a whole."""
    return [goes.movedim(axis, 0).reshape(goes.shape[axis], -1).all(1) for axis in range(goes.ndim)]


def _slices(goes: Tensor) -> Tensor:
    """Which entries lie in a place of some axis that is gone as a whole."""
    covered = torch.zeros_like(goes)
    for axis, gone in enumerate(_gone_along(goes)):
        covered |= gone.reshape([-1 if a == axis else 1 for a in range(goes.ndim)])
    return covered


class _Surgery:
    """Cut all tensors of a graph to the units that stay, and write what that changes: sizes, groups, biases, sums of norms."""

    def __init__(self, module: fx.GraphModule, found: Dependencies) -> None:
        self.found, self.goes = found, _leaving(found)[found.units]
        self.before = tensors_of(module)
        self.tensors: dict[str, Any] = dict(self.before)
        self.graph = copy.deepcopy(module.graph)
        self.old: list[Any] = list(module.graph.nodes)
        self.new: dict[Any, Any] = dict(zip(self.old, self.graph.nodes, strict=True))
        self.stayed: dict[str, int] = {}

    def done(self) -> fx.GraphModule:
        for node in self.old:
            if node.op == "get_attr":
                self._cut(str(node.target), node)
            elif node.op == "placeholder":
                self._choose_inputs(node)
            elif node.op == "call_function" and isinstance(self.found.value[node], (Tensor, list, tuple)):
                self._resize(node)
        for reader in self.found.readers:
            if self.goes[reader.units].any():
                (self._bias if reader.weight is not None else self._norm)(reader)
            self._count_zeros(reader)
        return finished(self.tensors, self.graph)

    def _gone(self, node: Any) -> list[Tensor]:
        label = self.found.label.get(node)
        return _gone_along(self.goes[label]) if isinstance(label, Tensor) else []

    def _cut(self, name: str, node: Any) -> None:
        axes = self.found.axes.get(name)
        gone = dict(enumerate(self._gone(node))) if axes is None else {a: self.goes[units] for a, units in axes.items()}
        if not any(places.any() for places in gone.values()):
            return
        value = self.before[name].detach()
        for axis, places in gone.items():
            value = value.index_select(axis, (~places).nonzero()[:, 0].to(value.device))
        trained = isinstance(self.before[name], nn.Parameter)
        self.tensors[name] = nn.Parameter(value, self.before[name].requires_grad) if trained else value

    def _choose_inputs(self, node: Any) -> None:
        last = new = self.new[node]
        users, chosen, after = list(new.users), set(), node
        while len(after.users) == 1 and (after := next(iter(after.users))).target is aten.index_select.default:
            chosen.add(after.args[1])  # it was compressed before: `_resize` makes that choice narrower
        for axis, gone in enumerate(self._gone(node)):
            if gone.any() and axis not in chosen:
                with self.graph.inserting_after(last):
                    last = self._kept(last, axis, gone, f"kept_{node.name}_{axis}")
        for user in users if last is not new else ():
            user.replace_input_with(new, last)

    def _kept(self, source: Any, axis: int, gone: Tensor, name: str) -> Any:
        """A new node: the places of a new node that are not gone."""
        name = _new_name(self.tensors, name)
        self.tensors[name] = (~gone).nonzero()[:, 0]
        index = self.graph.create_node("get_attr", name)
        with self.graph.inserting_after(index):
            return self.graph.call_function(aten.index_select.default, (source, axis, index))

    def _resize(self, node: Any) -> None:
        """Sizes that were written into the graph."""
        new, name = self.new[node], str(node.target).split(".")[1] if "." in str(node.target) else ""
        gone = self._gone(node)
        source = next((leaf for leaf in node.all_input_nodes if leaf in self.found.label), None)
        if name == "index_select" and isinstance(self.found.label[node], Tensor):
            self._choose_again(node, gone)
            return
        if name in ("view", "reshape", "_unsafe_view", "expand") and any(places.any() for places in gone):
            sizes = [self._length(size, places) for size, places in zip(node.args[1], gone, strict=True)]
            new.args = (new.args[0], map_arg(sizes, self.new.__getitem__), *new.args[2:])
        if source is None or not any(places.any() for places in self._gone(source)):
            return
        before = self._gone(source)
        axis = argument(node, "dim")
        if name == "unflatten":
            axis = axis % len(before)
            made = gone[axis : axis + len(node.args[2])]
            sizes = [self._length(size, places) for size, places in zip(node.args[2], made, strict=True)]
            new.args = (*new.args[:2], map_arg(sizes, self.new.__getitem__))
        elif name in ("split", "split_with_sizes", "chunk"):
            parts = [_gone_along(self.goes[label]) for label in self.found.label[node]]
            sizes = [int((~part[axis]).sum()) for part in parts]
            new.target, new.args, new.kwargs = aten.split_with_sizes.default, (new.args[0], sizes, axis), {}
        elif name == "slice" and before[axis].any():
            length = len(before[axis])
            ends = [argument(node, "start") or 0, length if argument(node, "end") is None else argument(node, "end")]
            moved = [
                int((~before[axis][: max(0, min(end + length if end < 0 else end, length))]).sum()) for end in ends
            ]
            if argument(node, "step") != 1:
                raise InputError("A slice with a step runs over units of which some are zero; they stay.")
            new.args, new.kwargs = (new.args[0], axis, *moved), {}
        elif name in ("select", "narrow") and before[axis].any():
            index = node.args[2] % len(before[axis])
            last = None if name == "select" else index + node.args[3]
            rest = [] if last is None else [int((~before[axis][index:last]).sum())]
            new.args = (*new.args[:2], int((~before[axis][:index]).sum()), *rest)
        elif name == "scaled_dot_product_attention" and before[-3].any():
            mask = argument(node, "attn_mask")
            if (
                isinstance(mask, fx.Node) and self.found.value[mask].shape[-3:-2] == before[-3].shape
            ):  # one for each head
                with self.graph.inserting_before(new):
                    mine = self._kept(self.new[mask], self.found.value[mask].ndim - 3, before[-3], f"heads_{node.name}")
                new.replace_input_with(self.new[mask], mine)
        elif name.startswith("conv") and argument(node, "groups") != 1:
            groups = int(argument(node, "groups"))
            kept = int((~before[1].reshape(groups, -1)).any(1).sum())
            place = next(i for i, one in enumerate(node.target._schema.arguments) if one.name == "groups")
            given = [argument(node, one.name) for one in node.target._schema.arguments[:place]]
            rest = list(new.args[place + 1 :])
            new.args, new.kwargs = (*map_arg(given, self.new.__getitem__), kept, *rest), _less(new.kwargs, given, node)

    def _choose_again(self, node: Any, gone: list[Tensor]) -> None:
        """Fewer places of those that were chosen, by their numbers among what is left of the source."""
        source, axis, index = node.args
        if index.op != "get_attr" or not gone[axis].any():
            return
        numbers = self.found.value[index][~gone[axis]]
        first = source
        while first.target is aten.index_select.default:
            first = first.args[0]
        if first.op != "placeholder":  # an input is as long as before
            numbers = (~self._gone(source)[axis]).cumsum(0)[numbers] - 1
        self.tensors[str(index.target)] = numbers

    @staticmethod
    def _length(size: Any, gone: Tensor) -> Any:
        if not gone.any():
            return size
        return int((~gone).sum()) if isinstance(size, int) and size >= 0 else -1

    def _bias(self, reader: Consumer) -> None:
        """What the units that leave always added goes into the bias."""
        assert reader.weight is not None
        assert reader.makes is not None
        goes = self.goes[reader.units] & reader.constant
        added = (reader.weight[:, goes] * reader.level[goes]).sum(1)[~self.goes[reader.makes]]
        node = self.new[reader.node]
        if not added.any():
            return
        name = _new_name(self.tensors, f"folded_{node.name}")
        like = self.found.value[reader.node]
        summed = str(reader.node.target).split(".")[1] in ("matmul", "mm", "addmm")
        bias = None if summed else argument(reader.node, "bias")
        old = 0 if bias is None else self.tensors[str(bias.target)].detach().double()
        self.tensors[name] = nn.Parameter((old + added).to(like.dtype))
        with self.graph.inserting_before(node):
            held = self.graph.create_node("get_attr", name)
        if summed:
            with self.graph.inserting_after(node):
                total = self.graph.call_function(aten.add.Tensor, (node, held))
            node.replace_all_uses_with(total, lambda user: user is not total)
            return
        node.args = (*node.args[:2], held, *node.args[3:])
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "bias"}

    def _norm(self, reader: Consumer) -> None:
        """A norm over the units that stay, with those that left still in its sums."""
        old: Any = reader.node
        node = self.new[old]
        goes = self.goes[reader.units]
        levels, count = reader.level[goes], len(goes)
        gain, shift = (argument(old, name) for name in ("weight", "bias"))
        eps = argument(old, "eps")
        eps = torch.finfo(self.found.value[old].dtype).eps if eps is None else eps
        total, squares = float(levels.sum()), float((levels**2).sum())
        with self.graph.inserting_before(node):
            ops = self.graph.call_function
            x = source = node.args[0]
            mean: Any = None
            if "layer_norm" in str(old.target):
                mean = ops(aten.sum.dim_IntList, (source, [-1], True))
                mean = ops(aten.div.Tensor, (ops(aten.add.Tensor, (mean, total)) if total else mean, float(count)))
                x = ops(aten.sub.Tensor, (source, mean))
            power = ops(aten.sum.dim_IntList, (ops(aten.mul.Tensor, (x, x)), [-1], True))
            # sum_i (c_i - mean)^2 over those that left, as a polynomial of the mean
            if mean is not None:
                one = ops(aten.mul.Tensor, (mean, float(len(levels))))
                one = ops(aten.sub.Tensor, (one, 2 * total)) if total else one
                power = ops(aten.add.Tensor, (power, ops(aten.mul.Tensor, (one, mean))))
            power = ops(aten.add.Tensor, (power, squares)) if squares else power
            power = ops(aten.add.Tensor, (ops(aten.div.Tensor, (power, float(count))), float(eps)))
            made = ops(aten.mul.Tensor, (x, ops(aten.rsqrt.default, (power,))))
            if gain is not None:
                made = ops(aten.mul.Tensor, (made, self.new[gain]))
            if shift is not None:
                made = ops(aten.add.Tensor, (made, self.new[shift]))
        node.replace_all_uses_with(made)

    def _count_zeros(self, reader: Consumer) -> None:
        if reader.nonzero is not None and reader.makes is not None:
            count = int((~reader.nonzero.any(1) & ~self.goes[reader.makes]).sum())
            name = str(next(leaf for leaf in reader.node.all_input_nodes if str(leaf.target) in self.found.axes).target)
            if count:
                self.stayed[name] = count


def _less(kwargs: dict[str, Any], given: list[Any], node: Any) -> dict[str, Any]:
    names = [one.name for one in node.target._schema.arguments[: len(given) + 1]]
    return {key: value for key, value in kwargs.items() if key not in names}
