"""A compressed network as ONNX, for devices; compared in onnxruntime where that is installed."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wellposed.core.errors import InputError, first_line, require
from wellposed.core.files import write_atomically
from wellposed.core.shared import warnings_apart
from wellposed.sparsity.aten_graph import as_arguments, free_rows, outputs_in

if TYPE_CHECKING:
    from wellposed.sparsity.compress import Compressed

NEAR = 1e-4
"""Outputs in onnxruntime, whose kernels add in another order, are equal up to this times ``1 + max |output|``."""


def write_onnx(small: Compressed, path: Path) -> float | None:
    """Write the network to an ONNX file; see `Compressed.to_onnx`."""
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    args, named = as_arguments(small.example)
    shapes = free_rows((*args, *named.values()))
    with warnings_apart(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                small.model, args, kwargs=named, dynamo=True, dynamic_shapes=shapes, verbose=False
            )
        except Exception as error:  # of the exporter
            raise InputError(f"The network cannot be written as ONNX: {first_line(error)}.") from error
        wanted = outputs_in(small.model(*args, **named))
    content: bytes = program.model_proto.SerializeToString()
    difference = None
    if importlib.util.find_spec("onnxruntime") is not None:
        difference = _difference(content, [v for v in (*args, *named.values()) if isinstance(v, Tensor)], wanted)
        allowed = NEAR * (1 + max(float(one.abs().max()) for one in wanted))
        if not difference <= allowed:
            raise InputError(
                f"onnxruntime's outputs differ by {difference:.2g} from the network's, and may by {allowed:.2g}; "
                f"'{path}' is not written."
            )
    write_atomically(path, content)
    return difference


def _difference(content: bytes, given: list[Tensor], wanted: list[Tensor]) -> float:
    runtime = require("onnxruntime", "onnx")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    return max(float((torch.as_tensor(a) - b).abs().max()) for a, b in zip(found, wanted, strict=True))
