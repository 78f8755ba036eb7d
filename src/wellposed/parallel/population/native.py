"""The kernel's side of a population: which numbers it is given for each step, and what comes back."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellposed.losses.classification import CrossEntropy
from wellposed.noise.activations import LEVELS
from wellposed.parallel.population.batch_rows import Batch
from wellposed.parallel.population.compiled import Kernel
from wellposed.parallel.population.lowering import LAYER_NORM, LINEAR, NO_NORM, Layout, Lowered, layout
from wellposed.parallel.population.stacks import ALIGNED_BYTES, Stacks, padded_size
from wellposed.training.loop import Training

OP = np.dtype(
    [(n, "i8") for n in (
        "kind", "source", "other", "out", "rows", "width_in", "width", "weight", "bias", "gamma", "beta", "mean", "var",
        "norm", "act", "site", "keep", "stats", "to", "to_other",
    )] + [(n, "f8") for n in ("eps", "momentum", "slope")]
)  # fmt: skip
RULE = np.dtype(
    [(n, "f8") for n in (
        "kind", "lr", "beta1", "beta2", "eps", "correction1", "root2", "decay", "coupled", "momentum", "dampening",
        "nesterov", "first", "clip", "ramp", "average", "buffers", "radius", "adaptive", "eta", "confidence",
    )]
)  # fmt: skip
CHARGE = np.dtype([(n, "f8") for n in ("decay", "l1", "l2", "bound", "bound_axis", "group", "group_axis", "sparse")])

PLAIN, AVERAGED, NOISY = 0, 1, 2
"""Which weights a slot computes with."""

P, Int = ctypes.c_void_p, ctypes.c_int64


class _Step(ctypes.Structure):
    """``Step`` of kernel.c, field by field."""

    _fields_ = (
        [(n, Int) for n in (
            "count", "batch", "threads", "ops", "leaves", "buffers", "training", "sites", "workspace_size", "outputs", "output",
            "scratch", "loss", "steps",
        )]
        + [(n, P) for n in (
            "active", "op", "value", "gradient", "param", "grad", "first", "second", "noisy", "average", "size", "stride",
            "rows", "moves", "buffer", "average_buffer", "buffer_size", "buffer_stride", "source", "x", "label", "label2",
            "target", "weight", "smoothing", "mix", "bits", "threshold", "scale", "rule", "charge", "cost", "norm", "out",
            "workspace", "gemm", "blas_threads",
        )]
    )  # fmt: skip


class Program:
    """A lowered model on the stacks of a population.

    Args:
        kernel: the compiled library.
        found: the operations.
        model: one of the slots' models, for the names of leaves and buffers.
        loss: its number in kernel.c, as the loss itself declares it.
        batch: the largest number of examples at once.
        threads: >= 1.
    """

    def __init__(
        self, kernel: Kernel, found: Lowered, stacks: Stacks, model: nn.Module, loss: int, batch: int, threads: int
    ) -> None:
        self.kernel, self.found, self.stacks, self.batch = kernel, found, stacks, batch
        self.threads = threads
        first = next(iter(stacks.weights.values())).storage
        self.dtype = first.dtype
        suffix = "f" if first.dtype == torch.float32 else "d"
        self._step = getattr(kernel.library, f"wp_step_{suffix}")
        self._outputs = getattr(kernel.library, f"wp_outputs_{suffix}")
        self.leaves = list(stacks.weights)
        self.layout = layout(found, batch, longest(stacks))
        self._held: dict[str, Any] = {}
        self.workspace = torch.zeros(threads, padded_size(self.layout.size, first.element_size()), dtype=first.dtype)
        self.moves = np.array(
            [bool(p.requires_grad) and _used(found, n) for n, p in model.named_parameters()], np.int64
        )
        self.calls = Counter(op.normed for op in found.ops if op.norm)
        """How often each norm is called in a pass."""
        self.step_arguments = self._arguments(model, loss)
        self._bits = torch.zeros(0, dtype=torch.int16)

    def _keep(self, name: str, array: np.ndarray) -> int:
        self._held[name] = array = np.ascontiguousarray(array)
        return int(array.ctypes.data)

    def _arguments(self, model: nn.Module, loss: int) -> _Step:
        found, stacks, plan = self.found, self.stacks, self.layout
        buffers = list(stacks.buffers)
        s = _Step()
        s.threads, s.ops, s.leaves, s.buffers = self.threads, len(found.ops), len(self.leaves), len(buffers)
        s.sites, s.outputs, s.output = max(1, len(found.sites)), found.outputs, found.output
        s.workspace_size, s.scratch, s.loss = self.workspace.shape[1], plan.scratch, loss
        s.op = self._keep("op", operations(found, plan, self.leaves, buffers, model))
        s.value = self._keep("value", np.array(plan.values, np.int64))
        s.gradient = self._keep("gradient", np.array(plan.gradients, np.int64))
        for name, stack in (
            ("param", stacks.weights), ("grad", stacks.gradients), ("first", stacks.moments[0]),
            ("second", stacks.moments[1]), ("noisy", stacks.noisy), ("average", stacks.averages),
            ("buffer", stacks.buffers), ("average_buffer", stacks.average_buffers),
        ):  # fmt: skip
            setattr(s, name, self._keep(name, np.array([part.address for part in stack.values()] or [0], np.uint64)))
        weights, kept = list(stacks.weights.values()), list(stacks.buffers.values())
        s.size = self._keep("size", np.array([w.count for w in weights], np.int64))
        s.stride = self._keep("stride", np.array([w.stride for w in weights], np.int64))
        s.rows = self._keep("rows", np.array([w.shape[0] if len(w.shape) else 1 for w in weights], np.int64))
        s.moves = self._keep("moves", self.moves)
        s.buffer_size = self._keep("buffer_size", np.array([b.count for b in kept] or [0], np.int64))
        s.buffer_stride = self._keep("buffer_stride", np.array([b.stride for b in kept] or [0], np.int64))
        s.workspace = self.workspace.data_ptr()
        s.gemm = self.kernel.gemm[self.dtype]
        s.blas_threads = self.kernel.blas_threads
        return s

    def rates(self, model: nn.Module) -> np.ndarray:
        """The rate of dropout at each site of a model."""
        layers: list[Any] = [model.get_submodule(layer) for _, layer, _ in self.found.sites]
        return np.array([float(layer.p) for layer in layers] or [0.0])

    def bits(self, seeds: Sequence[Sequence[int]], rows: int) -> np.ndarray:
        """Random bits for each lane and site: ``seeds[lane][site]``; addresses ``(lanes, sites)``."""
        sizes = [size for _, _, size in self.found.sites]
        widest = -(-max(sizes) * self.batch // 4) * 4
        need = len(seeds) * len(sizes) * widest
        if self._bits.numel() < need:
            self._bits = torch.zeros(need, dtype=torch.int16)
        flat = np.array([seed for lane in seeds for seed in lane], np.uint64)
        numbers = np.array([size * rows for size in sizes] * len(seeds), np.int64)
        seeds_at, numbers_at, bits_at = P(flat.ctypes.data), P(numbers.ctypes.data), P(self._bits.data_ptr())
        count = Int(len(flat))
        self.kernel.library.wp_random_bits(count, seeds_at, numbers_at, Int(widest), bits_at, Int(self.threads))
        at = self._bits.data_ptr() + 2 * widest * np.arange(len(flat), dtype=np.uint64)
        return at.reshape(len(seeds), len(sizes))

    @property
    def bits_per_row(self) -> int:
        """Random numbers that dropout takes for one example."""
        return sum(size for _, _, size in self.found.sites)

    def prepared(self, batch: Batch, trainings: Sequence[Training]) -> Given:
        """A batch with the noise of the step that its runs are at."""
        classes = self.step_arguments.loss == CrossEntropy.kernel
        return Given.of(batch, trainings, self.dtype, self.step_arguments.outputs, classes)

    def step(
        self, active: np.ndarray, trainings: Sequence[Training], batches: Sequence[Given], rules: np.ndarray,
        charges: np.ndarray, rates: np.ndarray, bits: np.ndarray | None, noisy: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """A step for each batch of the slots in places ``active``, while their costs are finite: costs and gradient norms
        ``(batches, active)``.

        Args:
            batches: of equally many rows.
            rules: ``(batches, active)`` of `RULE`; kind 0 leaves gradients in the stacks and moves nothing.
            charges: ``(batches, active, leaves)`` of `CHARGE`.
            rates: ``(active, sites)``, of dropout.
            bits: ``(batches, active, sites)``, addresses of random bits; None where nothing is dropped.
            noisy: ``(active,)``, which slots compute with weights that were disturbed.
        """
        s, count = self.step_arguments, len(active)
        source = np.where(noisy, NOISY, PLAIN).astype(np.int64)
        cost, norm = np.empty((2, len(batches), count))
        s.count, s.batch, s.steps, s.training = count, batches[0].rows, len(batches), 1
        dropped, scale = dropout_thresholds(rates)
        smoothing = np.array([t.recipe.noise.label_smoothing for t in trainings])
        s.threshold, s.scale, s.smoothing = dropped.ctypes.data, scale.ctypes.data, smoothing.ctypes.data
        s.active, s.source, s.bits = active.ctypes.data, source.ctypes.data, None
        steps = (_Step * len(batches))(*[s] * len(batches))
        by_step = [("rule", rules), ("charge", charges), ("cost", cost), ("norm", norm)]
        for name, array in by_step if bits is None else [*by_step, ("bits", bits)]:
            for number, one in enumerate(steps):
                setattr(one, name, array.ctypes.data + number * (array.nbytes // len(steps)))
        for one, given in zip(steps, batches, strict=True):
            one.x, one.mix, one.weight = given.at(given.x), given.at(given.mix), given.at(given.weight)
            one.label, one.label2, one.target = given.at(given.label), given.at(given.other), given.at(given.target)
        self._step(steps)
        return cost, norm

    def outputs(self, active: np.ndarray, averaged: np.ndarray, inputs: Tensor) -> Tensor:
        """``(active, rows, outputs)`` on shared rows in evaluation mode, of the averages where ``averaged`` says so."""
        s, count = self.step_arguments, len(active)
        inputs = inputs.to(self.dtype).reshape(len(inputs), -1)
        found = []
        source = np.where(averaged, AVERAGED, PLAIN).astype(np.int64)
        s.count, s.training, s.active, s.source = count, 0, active.ctypes.data, source.ctypes.data
        for part in map(aligned_memory, torch.split(inputs, self.batch)):
            out = torch.empty(count, len(part), self.found.outputs, dtype=self.dtype)
            x = np.full(count, part.data_ptr(), np.uint64)
            s.batch, s.x, s.out = len(part), x.ctypes.data, out.data_ptr()
            self._outputs(ctypes.byref(s))
            found.append(out)
        return torch.cat(found, 1) if len(found) > 1 else found[0]


class Given:
    """A batch as addresses, one a slot, and the tensors that they point into."""

    def __init__(self, count: int, rows: int) -> None:
        self.rows = rows
        self.held: list[Tensor] = []
        self.x = np.zeros(count, np.uint64)
        self.mix = np.ones(count)
        self.label: np.ndarray | None = None
        self.other: np.ndarray | None = None
        self.target: np.ndarray | None = None
        self.weight: np.ndarray | None = None

    @classmethod
    def of(cls, batch: Batch, trainings: Sequence[Training], dtype: torch.dtype, outputs: int, classes: bool) -> Given:
        """The rows of the slots in the models' type; class indices are smoothed and mixed by the kernel."""
        found = cls(len(trainings), batch.rows)
        found.x = found.lanes(batch.inputs.to(dtype), batch.lane)
        for j, own in batch.own.items():
            found.x[j] = found.hold(own.to(dtype))
        if classes:
            found.label = found.lanes(batch.target.long(), batch.lane)
            found.other = found.label.copy()
            for j, (permutation, kept) in batch.mixing.items():
                found.other[j], found.mix[j] = found.hold(batch.target_of(j)[permutation].long()), kept
        else:
            found.target = found.lanes(batch.target.to(dtype), batch.lane)
        if batch.weight is not None:
            found.weight = found.lanes(batch.weight.to(dtype), batch.lane)
        shape = torch.empty(batch.rows, outputs, dtype=dtype)
        for j, training in enumerate(trainings):
            mixing, labels = batch.mixing.get(j), training.recipe.noise.acting("labels")
            if mixing is None and (classes or not labels):
                continue
            if found.target is None and found.weight is None:  # the kernel mixes
                continue
            target, weight = training.told(shape, batch.target_of(j), batch.weight_of(j), mixing)
            if found.target is not None:
                found.target[j] = found.hold(target.to(dtype))
            if found.weight is not None and weight is not None:
                found.weight[j] = found.hold(weight.to(dtype))
        return found

    def hold(self, tensor: Tensor) -> int:
        """The address of a tensor, which is kept for as long as this object lives."""
        tensor = aligned_memory(tensor)
        self.held.append(tensor)
        return tensor.data_ptr()

    def lanes(self, tensor: Tensor, lane: np.ndarray) -> np.ndarray:
        """The address of each slot's lane; lanes begin at multiples of `ALIGNED_BYTES`, with a gap between them if need be."""
        every = ALIGNED_BYTES // tensor.element_size()
        rows = tensor.reshape(len(tensor), -1)
        gap = -rows.shape[1] % every
        if gap and len(rows) > 1:
            rows = F.pad(rows, (0, gap))
        return (self.hold(rows) + rows.shape[1] * rows.element_size() * lane).astype(np.uint64)

    @staticmethod
    def at(array: np.ndarray | None) -> int | None:
        """The address at which the array's numbers begin, or None."""
        return None if array is None else int(array.ctypes.data)


def aligned_memory(tensor: Tensor) -> Tensor:
    """The tensor, contiguous and beginning at a multiple of `ALIGNED_BYTES`: itself where it is so already, else a copy.

    A matrix product sums in another order where its operands begin elsewhere (MKL on processors without AVX-512, for one), and
    what a slot computes would depend on its lane, on its company, and on where a user's array happens to lie.
    """
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNED_BYTES else tensor


def longest(stacks: Stacks) -> int:
    """The largest number of rows or columns of a leaf."""
    return max(max(w.shape[0], w.count // w.shape[0]) for w in stacks.weights.values() if len(w.shape))


def dropout_thresholds(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and scales of `wellposed.noise.activations.dropout_mask`; scale 1 says that nothing is dropped."""
    dropped = np.round(rates * LEVELS).astype(np.int64)
    scale = np.where(dropped >= LEVELS, 2.0, LEVELS / np.maximum(1, LEVELS - dropped))
    return (dropped - LEVELS // 2).astype(np.int32), scale.astype(np.float32).astype(np.float64)


def _used(found: Lowered, leaf: str) -> bool:
    """Whether a gradient comes to a leaf."""
    owner = leaf.rpartition(".")[0]
    return any((op.kind == LINEAR and op.linear == owner) or (op.norm and op.normed == owner) for op in found.ops)


def operations(found: Lowered, plan: Layout, leaves: list[str], buffers: list[str], model: nn.Module) -> np.ndarray:
    """The operations as the kernel reads them."""

    def place(names: list[str], owner: str, name: str) -> int:
        full = f"{owner}.{name}" if owner else name
        return names.index(full) if full in names else -1

    rows = np.zeros(len(found.ops), OP)
    for i, op in enumerate(found.ops):
        row = rows[i]
        for name in OP.names or ():
            row[name] = getattr(op, name, -1)  # leaves and buffers that it does not have
        row["keep"], row["stats"] = plan.keeps[i], plan.stats[i]
        if op.kind == LINEAR:
            row["weight"], row["bias"] = place(leaves, op.linear, "weight"), place(leaves, op.linear, "bias")
        if op.norm != NO_NORM:
            row["gamma"], row["beta"] = place(leaves, op.normed, "weight"), place(leaves, op.normed, "bias")
        if op.norm > LAYER_NORM:
            row["mean"] = place(buffers, op.normed, "running_mean")
            row["var"] = place(buffers, op.normed, "running_var")
    return rows
