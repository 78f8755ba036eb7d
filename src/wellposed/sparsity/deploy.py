"""A network as ONNX, for devices; compared in onnxruntime where that is installed."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wellposed.core.errors import InputError, first_line, require
from wellposed.core.files import write_atomically
from wellposed.core.shared import warnings_apart
from wellposed.sparsity.aten_graph import as_arguments, free_rows, outputs_in

if TYPE_CHECKING:
    from wellposed.sparsity.compress import Compressed

NEAR = 1e-4
"""Outputs in onnxruntime, whose kernels add in another order, are equal up to this times ``1 + max |output|``."""
Call = Callable[[Any], list[Any]]
"""From a batch to the outputs of a network."""


def write_onnx(small: Compressed, path: Path) -> float | None:
    """Write the network to an ONNX file; see `Compressed.to_onnx`."""
    content = _exported(small.model, small.example)
    difference = None
    if importlib.util.find_spec("onnxruntime") is not None:
        _, difference = _session(content, small.model, small.example)
    write_atomically(path, content)
    return difference


def in_onnxruntime(net: nn.Module, example: Any) -> Call:
    """The network as a session of onnxruntime with torch's number of threads, after a comparison on the example.

    Raises:
        MissingExtra: ``wellposed[onnx]`` is not installed.
        InputError: the network has an operator that ONNX lacks, or onnxruntime computes something else.
    """
    return _session(_exported(net, example), net, example)[0]


def _exported(net: nn.Module, example: Any) -> bytes:
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    args, named = as_arguments(example)
    shapes = free_rows((*args, *named.values()))
    with warnings_apart(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(net, args, kwargs=named, dynamo=True, dynamic_shapes=shapes, verbose=False)
        except Exception as error:  # of the exporter
            raise InputError(f"The network cannot be written as ONNX: {first_line(error)}.") from error
    content: bytes = program.model_proto.SerializeToString()
    return content


def _session(content: bytes, net: nn.Module, example: Any) -> tuple[Call, float]:
    """A call of onnxruntime, and its largest difference from the network's outputs on the example."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def call(batch: Any) -> list[Any]:
        args, named = as_arguments(batch)
        given = [value.numpy() for value in (*args, *named.values()) if isinstance(value, Tensor)]
        found: list[Any] = session.run(None, dict(zip(names, given, strict=True)))
        return found

    args, named = as_arguments(example)
    with torch.no_grad():
        wanted = outputs_in(net(*args, **named))
    pairs = zip(call(example), wanted, strict=True)
    difference = max(float((torch.as_tensor(found) - right).abs().max()) for found, right in pairs)
    allowed = NEAR * (1 + max(float(one.abs().max()) for one in wanted))
    if not difference <= allowed:
        raise InputError(
            f"onnxruntime's outputs differ by {difference:.2g} from the network's, and may by {allowed:.2g}; "
            "no ONNX is written."
        )
    return call, difference
