"""`compress`: a smaller network with equal outputs, what it costs before and after, and the proof that it is equal."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from wellposed.core.batches import bytes_in, count_numbers, examples_in, mapped
from wellposed.core.checks import checked
from wellposed.core.errors import InputError, described, first_line
from wellposed.core.formats import count, score, table
from wellposed.core.preserve import modes_kept
from wellposed.sparsity.aten_graph import (
    as_arguments,
    attention_apart,
    first_rows,
    is_batch,
    outputs_in,
    tensors_of,
    traced,
)
from wellposed.sparsity.shrink import without_zero_groups
from wellposed.training.evaluate import evaluating
from wellposed.training.run import Run

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Outputs are equal up to ``tolerance * (1 + max |output|)``; of other types 1e-2, which is their rounding."""
ROWS = 1024
"""Validation rows of a run on which outputs are compared."""
BATCHES = (1, 256)
SECONDS, REPEATS = 0.15, 40
"""A latency is the shortest of at most so many calls in about that time, in turns: what else the machine does makes calls longer,
and the longer a call is the more."""
FASTER = 0.97


@dataclass(frozen=True)
class Footprint:
    """What it costs to keep a network and to call it.

    Attributes:
        parameters: numbers in the parameters that evaluation uses; a tied one counts once.
        bytes: of parameters and buffers.
        flops: of one row: twice the multiplications of its matrix products, convolutions and attention.
        latency_1, latency_256: milliseconds of a call with 1 and with 256 rows, on this machine; None where the network takes
            another number of rows only.
        latency_1_onnx, latency_256_onnx: the same in onnxruntime; None where it was not asked for.
    """

    parameters: int
    bytes: int
    flops: int
    latency_1: float | None = None
    latency_256: float | None = None
    latency_1_onnx: float | None = None
    latency_256_onnx: float | None = None


@dataclass(frozen=True, eq=False)
class Compressed:
    """A network without its zero groups. ``str()`` is a table; `save` writes it without pickle, `to_onnx` for a device.

    Attributes:
        model: the smaller network, in evaluation mode, on the CPU; where nothing could be removed the network that was given.
        before, after: `Footprint` of both.
        difference: largest difference of an output on the rows that were compared.
        tolerance: what it may be at most.
        rows: how many rows were compared.
        removed: tensor to its shapes ``(before, after)``; ``()`` where it is gone.
        notes: what was kept and why, and where the smaller network is not faster.
        shrunk: whether ``model`` is smaller.
        original: the network before, as a graph. example: the rows that were compared.
    """

    model: nn.Module
    before: Footprint
    after: Footprint
    difference: float
    tolerance: float
    rows: int
    removed: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    notes: tuple[str, ...]
    original: fx.GraphModule
    example: Any

    @property
    def shrunk(self) -> bool:
        """Whether anything was removed from the network."""
        return bool(self.removed)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the networks and the rows, as dicts and lists that JSON can hold."""
        left = ("model", "original", "example")
        found = {name: value for name, value in vars(self).items() if name not in left}
        return {**found, "before": asdict(self.before), "after": asdict(self.after)}

    def __str__(self) -> str:
        rows = [("", "before", "after", "times smaller"), *footprint_rows(self.before, self.after)]
        return "\n".join([*table(rows, ruled=True), self.equality(), *(f"note: {note}" for note in self.notes)])

    def equality(self) -> str:
        """What was compared and how large the difference is, as a sentence."""
        if not self.shrunk:
            return "the network is as it was"
        return f"largest difference of an output: {self.difference:.2g} on {count(self.rows)} rows, of {self.tolerance:.2g} allowed"

    @checked
    def save(self, folder: str | Path) -> Path:
        """Write both networks, the rows and all claims into a folder: JSON and safetensors, never pickle; `verify` reads it.

        Raises:
            FolderInUse: the folder holds something else.
            InputError: nothing was removed, so that there is nothing to claim.
        """
        from wellposed.sparsity.verify import save_compressed

        return save_compressed(self, Path(folder))

    @checked
    def to_onnx(self, path: str | Path) -> float | None:
        """Write the smaller network as ONNX, and return its largest difference from ours in onnxruntime, None without it.

        Raises:
            MissingExtra: ``wellposed[onnx]`` is not installed.
            InputError: the network has an operator that ONNX lacks, or onnxruntime computes something else; nothing is written.
        """
        from wellposed.sparsity.deploy import write_onnx

        return write_onnx(self, Path(path))


def footprint_rows(before: Footprint, after: Footprint) -> list[tuple[str, str, str, str]]:
    """Rows of a table: what, before, after, ratio."""
    names = {
        "parameters": "parameters", "bytes": "bytes", "flops": "FLOPs of a row", "latency_1": "ms, batch 1",
        "latency_256": "ms, batch 256", "latency_1_onnx": "ms, batch 1, onnxruntime",
        "latency_256_onnx": "ms, batch 256, onnxruntime",
    }  # fmt: skip
    rows = []
    for field, name in names.items():
        old, new = getattr(before, field), getattr(after, field)
        if old is not None and new is not None:
            write = score if field.startswith("latency") else count
            rows.append((name, write(old), write(new), f"{old / new:.3g}" if new else "all of it"))
    return rows


@checked
def compress(source: nn.Module | Run, example: Any = None, onnx: bool = False) -> Compressed:
    """A smaller network with equal outputs: units, channels, heads and inputs that are zero as a group are removed.

    What depends on what is read off the network's own operators (`torch.export`), through residual connections, norms,
    concatenation, flattening, shared weights, grouped convolution, attention and embeddings. A unit that is a constant goes
    into the next bias where that is exact; before the zeros that pad a convolution it stays, unless it is zero. Then outputs
    of both networks are compared on ``example``: they are equal up to ``1e-5 * (1 + max |output|)`` in float32 and
    ``1e-10 * (1 + max |output|)`` in float64, or the original is kept.

    Args:
        source: a network, which is not modified; or a `Run`.
        example: real rows: a tensor ``(rows, ...)``, a tuple of arguments or a dict of named ones. By default, of a run, its
            validation rows. The more there are, the more the comparison says.
        onnx: whether latency is measured in onnxruntime too, which takes some seconds for the two exports.
    Raises:
        InputError: the network cannot be traced, its outputs are the same for all inputs, or the example is no batch.
        MissingExtra: ``onnx=True``, and ``wellposed[onnx]`` is not installed.

    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> net[0].weight.data[2:] = 0  # as a group penalty leaves it
        >>> small = wp.compress(net, torch.randn(5, 3))
        >>> small.model(torch.randn(7, 3)).shape, small.removed["0.weight"]
        (torch.Size([7, 1]), ((8, 3), (2, 3)))
    """
    if isinstance(source, Run):
        rows = source.problem.prepared.valid
        example = rows.batch(torch.arange(min(len(rows), ROWS)))[0] if example is None else example
        source = source.model
    if not is_batch(example):
        raise InputError(
            f"compress needs example= to be real rows: a tensor (rows, ...), a tuple of arguments or a dict of named ones; "
            f"it was given {described(example)}."
        )
    here = all(leaf.device.type == "cpu" for leaf in source.state_dict().values())
    net = source if here else copy.deepcopy(source).cpu()
    example = mapped(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, example)
    return _compressed(net, source, example, onnx)


def _compressed(net: nn.Module, given: nn.Module, example: Any, onnx: bool) -> Compressed:
    name = type(net).__name__
    try:
        wanted = _outputs(net, example, name)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name} does not take the example: {first_line(error)}. Give rows that it was made for."
        ) from error
    graph = traced(net, example)
    args, named = as_arguments(first_rows(example, 2))
    original = copy.deepcopy(graph)
    try:
        made, removed, stayed = without_zero_groups(graph, [*args, *named.values()])
        difference, tolerance = largest_difference(made, example, wanted)
        alone, _ = largest_difference(made, first_rows(example, 1), [w[:1] for w in wanted])
        difference = max(difference, alone)
        why = "" if difference <= tolerance else f"outputs would differ by {difference:.2g}, and may by {tolerance:.2g}"
    except InputError:
        raise
    except Exception as error:  # of an operator that does not take the sizes that are left
        why = f"the smaller network cannot be run: {first_line(error)}"
    notes = [f"The original is kept, since {why}."] if why else []
    if not why:
        if not removed:
            notes = ["Nothing is removed: no group of zeros can leave without changing the outputs."]
        notes += [
            f"{'A row' if number == 1 else f'{count(number)} rows'} of {name!r} stay, although zero: what they make reaches more "
            "than weights, such as a norm, an output, or the border of a padded convolution."
            for name, number in stayed.items()
        ]
    if why or not removed:
        cost = footprints([original], example, [net], onnx)[0]
        return Compressed(given, cost, cost, 0.0, 0.0, examples_in(example), {}, tuple(notes), original, example)
    before, after = footprints([original, made], example, [net, made], onnx)
    for batch, runtime in [(batch, runtime) for runtime in ("", "_onnx")[: 1 + onnx] for batch in BATCHES]:
        old, new = (getattr(cost, f"latency_{batch}{runtime}") for cost in (before, after))
        where = f"at batch {batch}{' in onnxruntime' if runtime else ''}"
        if old is None or new is None:
            notes.append(f"Latency {where} is not measured: the network's code takes another number of rows only.")
        elif new > old * FASTER:
            notes.append(f"It is not faster {where} on this machine: {score(old)} ms before, {score(new)} ms after.")
    return Compressed(
        made, before, after, difference, tolerance, examples_in(example), removed, tuple(notes), original, example
    )


def _outputs(net: nn.Module, batch: Any, name: str) -> list[Tensor]:
    args, named = as_arguments(batch)
    with evaluating(net):
        found = outputs_in(net(*args, **named))
    if not found or not all(torch.isfinite(one).all() for one in found if one.is_floating_point()):
        raise InputError(
            f"{name} gives outputs that are no finite numbers on the example; compare on rows that it was made for."
        )
    return found


def largest_difference(net: nn.Module, batch: Any, wanted: list[Tensor]) -> tuple[float, float]:
    """The largest difference of a network's outputs from those wanted, and what it may be; infinite where shapes differ."""
    found = _outputs(net, batch, "The smaller network")
    if [one.shape for one in found] != [one.shape for one in wanted]:
        return float("inf"), 0.0
    pairs = [(a.double(), b.double(), TOLERANCES.get(b.dtype, 1e-2)) for a, b in zip(found, wanted, strict=True)]
    worst = max(pairs, key=lambda pair: _largest(pair[0] - pair[1]) / (pair[2] * (1 + _largest(pair[1]))))
    return _largest(worst[0] - worst[1]), worst[2] * (1 + _largest(worst[1]))


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def footprints(
    graphs: list[nn.Module], example: Any, timed: list[nn.Module] | None = None, onnx: bool = False
) -> list[Footprint]:
    """What each of several networks costs in evaluation; ``timed`` are measured in turns, by default the graphs themselves.

    With ``onnx`` the graphs are measured in onnxruntime too.
    """
    sizes = []
    for net in graphs:
        tensors = tensors_of(net)
        args, named = as_arguments(first_rows(example, 2))
        with attention_apart(), evaluating(net), FlopCounterMode(display=False) as counter:
            net(*args, **named)
        numbers = count_numbers([t for t in tensors.values() if isinstance(t, nn.Parameter)])
        sizes.append((numbers, bytes_in(list(tensors.values())), counter.get_total_flops() // 2))
    timed = timed or graphs
    batches = [first_rows(example, batch) for batch in BATCHES]
    with modes_kept(timed[0], training=False):  # the network that was given; graphs are in evaluation mode
        latencies = [_latencies([_call(net) for net in timed], batch) for batch in batches]
    if onnx:
        from wellposed.sparsity.deploy import in_onnxruntime

        calls = [in_onnxruntime(net, example) for net in graphs]
        latencies += [_latencies(calls, batch) for batch in batches]
    return [Footprint(*size, *(latency[place] for latency in latencies)) for place, size in enumerate(sizes)]


def _call(net: nn.Module) -> Callable[[Any], Any]:
    def call(batch: Any) -> Any:
        args, named = as_arguments(batch)
        with torch.inference_mode():
            return net(*args, **named)

    return call


def _latencies(calls: list[Callable[[Any], Any]], batch: Any) -> list[float | None]:
    taken: list[list[float]] = [[] for _ in calls]
    began = time.perf_counter()
    for repeat in range(REPEATS):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            try:
                call(batch)
            except (RuntimeError, AssertionError, ValueError):
                return [None] * len(calls)
            times.append(1000 * (time.perf_counter() - start))
        if repeat > 2 and time.perf_counter() - began > SECONDS * len(calls):
            break
    return [min(times[1:]) for times in taken]
