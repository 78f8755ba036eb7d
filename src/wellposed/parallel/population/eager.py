"""A population by torch's own operations: on any device, for every layer that can be stacked; gradients by autograd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from wellposed.data.arrays import to_device
from wellposed.noise.activations import dropout_mask
from wellposed.parallel.population.batch_rows import Batch
from wellposed.parallel.population.stacks import Stack, Stacks
from wellposed.parallel.population.tracing import DROPOUTS, layer_name, sites
from wellposed.training.evaluate import BATCH
from wellposed.training.loop import TINY, Training


class StackedModel(fx.Interpreter):
    """A traced model with weights of its own for each slot. Values have the examples of all slots on one axis, slot by slot.

    Args:
        module: the traced model.
        slots: how many.
        weights: ``(slots, *shape)`` by name.
        buffers: the same; batch norms in training write to them.
        masks: for each dropout node, ``(slots * rows, ...)``; None outside training.
    """

    def __init__(
        self, module: fx.GraphModule, slots: int, weights: dict[str, Tensor], buffers: dict[str, Tensor],
        masks: dict[fx.Node, Tensor] | None,
    ) -> None:  # fmt: skip
        super().__init__(module)
        self.graph_module = module
        self.slots, self.weights, self.buffers, self.masks = slots, weights, buffers, masks

    def run_node(self, n: fx.Node) -> Any:
        """A layer with weights is stacked, dropout takes its mask, everything else acts on each example by itself."""
        if n.op != "call_module":
            return super().run_node(n)
        layer = self.fetch_attr(str(n.target))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if type(layer) in DROPOUTS:
            return args[0] if self.masks is None or n not in self.masks else args[0] * self.masks[n]
        stacked = LAYERS.get(type(layer))
        if stacked is None:
            return layer(*args, **kwargs)
        return stacked(self, layer_name(self.graph_module, n), layer, args[0])

    def part(self, owner: str, name: str) -> Tensor | None:
        full = f"{owner}.{name}" if owner else name
        found = self.weights.get(full)
        return self.buffers.get(full) if found is None else found

    def apart(self, x: Tensor) -> Tensor:
        """Values with slots and rows on separate axes, ``(slots, rows, ...)``."""
        return x.view(self.slots, -1, *x.shape[1:]) if x.is_contiguous() else x.reshape(self.slots, -1, *x.shape[1:])


def _linear(run: StackedModel, name: str, layer: nn.Linear, x: Tensor) -> Tensor:
    weight, bias = run.part(name, "weight"), run.part(name, "bias")
    assert weight is not None
    flat, turned = run.apart(x).reshape(run.slots, -1, layer.in_features), weight.transpose(1, 2)
    out = torch.bmm(flat, turned) if bias is None else torch.baddbmm(bias[:, None], flat, turned)
    return out.reshape(*x.shape[:-1], layer.out_features)


def _layer_norm(run: StackedModel, name: str, layer: nn.LayerNorm, x: Tensor) -> Tensor:
    weight, bias = run.part(name, "weight"), run.part(name, "bias")
    out = run.apart(F.layer_norm(x, layer.normalized_shape, eps=layer.eps))
    inner = (run.slots, *[1] * (out.ndim - 1 - len(layer.normalized_shape)), *layer.normalized_shape)
    out = out if weight is None else out * weight.view(inner)
    out = out if bias is None else out + bias.view(inner)
    return out.reshape(x.shape)


def _batch_norm(run: StackedModel, name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Each slot's channels are channels of their own."""
    weight, bias = run.part(name, "weight"), run.part(name, "bias")
    mean, var = run.part(name, "running_mean"), run.part(name, "running_var")
    assert mean is not None
    assert var is not None
    out = F.batch_norm(
        _side_by_side(run, x), mean.view(-1), var.view(-1),
        None if weight is None else weight.reshape(-1), None if bias is None else bias.reshape(-1),
        run.masks is not None, float(layer.momentum or 0.0), layer.eps,
    )  # fmt: skip
    return _slot_by_slot(run, out, x.shape[1])


def _conv(run: StackedModel, name: str, layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with as many groups as slots."""
    weight, bias = run.part(name, "weight"), run.part(name, "bias")
    assert weight is not None
    function: Any = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    out = function(
        _side_by_side(run, x), weight.flatten(0, 1), None if bias is None else bias.reshape(-1), layer.stride,
        layer.padding, layer.dilation, run.slots * layer.groups,
    )  # fmt: skip
    return _slot_by_slot(run, out, layer.out_channels)


def _side_by_side(run: StackedModel, x: Tensor) -> Tensor:
    """``(slots * rows, channels, ...)`` as ``(rows, slots * channels, ...)``."""
    return run.apart(x).transpose(0, 1).flatten(1, 2)


def _slot_by_slot(run: StackedModel, x: Tensor, channels: int) -> Tensor:
    return x.view(len(x), run.slots, channels, *x.shape[2:]).transpose(0, 1).flatten(0, 1)


def _embedding(run: StackedModel, name: str, layer: nn.Embedding, x: Tensor) -> Tensor:
    weight = run.part(name, "weight")
    assert weight is not None
    first = torch.arange(run.slots, device=x.device).view(-1, *[1] * x.ndim) * layer.num_embeddings
    out = F.embedding((run.apart(x) + first).reshape(x.shape), weight.flatten(0, 1))
    if layer.padding_idx is None:
        return out
    return torch.where((x == layer.padding_idx)[..., None], out.detach(), out)


LAYERS: dict[type[nn.Module], Any] = {
    nn.Linear: _linear, nn.LayerNorm: _layer_norm, nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm,
    nn.Conv1d: _conv, nn.Conv2d: _conv, nn.Embedding: _embedding,
}  # fmt: skip


class Eager:
    """The torch side of a population; see `wellposed.parallel.population.native.Program` for the compiled one.

    Args:
        module: the traced model.
        device: where everything is.
    """

    def __init__(self, module: fx.GraphModule, stacks: Stacks, device: torch.device) -> None:
        self.module, self.stacks, self.device = module, stacks, device
        self.streams = sites(module)
        self.leaves = list(stacks.weights)
        self.calls = Counter(layer_name(module, node) for node in module.graph.nodes if node.op == "call_module")
        """How often each layer is called in a pass."""
        whole = module.get_submodule("0") if module.meta["single"] else module
        trained = {name for name, weight in whole.named_parameters() if weight.requires_grad}
        self.moves = [name in trained for name in self.leaves]
        """Which leaves a gradient comes to: a traced module has no others than it uses."""

    def _of(self, stacks: dict[str, Stack], places: np.ndarray) -> dict[str, Tensor]:
        """Views where all places are wanted, in order; else copies."""
        every = len(places) == self.stacks.places and bool((places == np.arange(len(places))).all())
        index = None if every else torch.from_numpy(places).to(self.device)
        return {name: stack.of(index) for name, stack in stacks.items()}

    def _mix(self, mine: dict[str, Tensor], theirs: dict[str, Stack], places: np.ndarray, which: np.ndarray) -> None:
        """Take the tensors of some slots from another stack."""
        chosen = torch.from_numpy(which.astype(bool)).to(self.device)
        for name, other in self._of(theirs, places).items():
            mine[name] = torch.where(chosen.view(-1, *[1] * (other.ndim - 1)), other, mine[name])

    def prepared(self, batch: Batch, trainings: Sequence[Training]) -> Batch:
        """The batch itself: what is told of its targets is drawn with the step."""
        return batch

    def step(self, places: np.ndarray, trainings: Sequence[Training], batch: Batch, noisy: np.ndarray) -> np.ndarray:
        """The cost of each slot; gradients are left in the stacks, of disturbed weights where ``noisy`` says so."""
        plain = self._of(self.stacks.weights, places)
        if noisy.any():
            self._mix(plain, self.stacks.noisy, places, noisy)
        weights = {name: w.detach().requires_grad_() for name, w in plain.items()}
        kept = self._of(self.stacks.buffers, places)
        buffers = {name: b.clone(memory_format=torch.contiguous_format) for name, b in kept.items()}
        inputs = torch.stack([to_device(batch.inputs_of(j), self.device) for j in range(len(places))])
        run = StackedModel(self.module, len(places), weights, buffers, self._masks(trainings, batch.rows))
        outputs = run.run(inputs.flatten(0, 1))
        outputs = outputs.view(len(places), batch.rows, *outputs.shape[1:])
        costs = torch.stack([self._cost(j, training, outputs[j], batch) for j, training in enumerate(trainings)])
        moving = [name for name, moves in zip(self.leaves, self.moves, strict=True) if moves]
        found = torch.autograd.grad(costs.sum(), [weights[name] for name in moving], allow_unused=True)
        gradients = {self.stacks.gradients[name]: gradient for name, gradient in zip(moving, found, strict=True)}
        moved = {self.stacks.buffers[name]: buffer for name, buffer in buffers.items()}
        index = torch.from_numpy(places).to(self.device)
        with torch.no_grad():
            for stack, value in (gradients | moved).items():
                if value is not None:
                    stack.storage[index, : stack.count] = value.flatten(1)
        return np.asarray(costs.detach().double().cpu().numpy())

    def _masks(self, trainings: Sequence[Training], rows: int) -> dict[fx.Node, Tensor]:
        """The mask of each dropout node for all slots, from the streams that each would draw from alone."""
        found: dict[fx.Node, Tensor] = {}
        for node, site in self.streams.items():
            layers: list[Any] = [training.model.get_submodule(str(node.target)) for training in trainings]
            if not any(layer.p for layer in layers):
                continue
            shape = node.meta["shape"][1:]
            if type(layers[0]) is not nn.Dropout and len(shape) > 1:
                shape = (shape[0], *[1] * (len(shape) - 1))
            drawn: dict[tuple[int, int, float], Tensor] = {}
            for training, layer in zip(trainings, layers, strict=True):
                key = training.seed, training.streams.step, float(layer.p)
                if key not in drawn:
                    source = training.streams.at("dropout", site)
                    drawn[key] = dropout_mask((rows, *shape), layer.p, source) if layer.p else torch.ones(rows, *shape)
            masks = [drawn[t.seed, t.streams.step, float(layer.p)] for t, layer in zip(trainings, layers, strict=True)]
            dtype = next(iter(self.stacks.weights.values())).storage.dtype
            found[node] = torch.cat(masks).to(device=self.device, dtype=dtype)
        return found

    def _cost(self, j: int, training: Training, outputs: Tensor, batch: Batch) -> Tensor:
        """A slot's mean loss, with what its outputs are charged."""
        target, weight = to_device(batch.target_of(j), self.device), to_device(batch.weight_of(j), self.device)
        total, count = training.loss_sums(outputs, target, weight, batch.mixing.get(j))
        cost = total / count.clamp_min(TINY)
        return cost + training.optimizer.outputs_penalty(outputs) if training.needs else cost

    def outputs(self, places: np.ndarray, averaged: np.ndarray, inputs: Tensor) -> Tensor:
        """``(slots, rows, ...)`` on shared rows in evaluation mode, of the averages where ``averaged`` says so."""
        weights, buffers = self._of(self.stacks.weights, places), self._of(self.stacks.buffers, places)
        if averaged.any():
            self._mix(weights, self.stacks.averages, places, averaged)
            self._mix(buffers, self.stacks.average_buffers, places, averaged)
        buffers = {name: buffer.contiguous() for name, buffer in buffers.items()}
        found = []
        with torch.no_grad():
            for part in torch.split(inputs, BATCH):
                run = StackedModel(self.module, len(places), weights, buffers, None)
                outputs = run.run(part.repeat(len(places), *[1] * (part.ndim - 1)))
                found.append(outputs.view(len(places), len(part), *outputs.shape[1:]))
        return torch.cat(found, 1)
