"""Which device to train on: the one that was asked for, or a sentence why it cannot be; ``auto`` takes what there is."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from wellposed.core.errors import InputError, first_line
from wellposed.core.progress import emit
from wellposed.core.shared import warnings_apart


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` is CUDA, MPS or the CPU, in this order, the first that computes."""
    if device == "auto":
        wanted = "cuda" if _cuda_works() else "mps" if torch.backends.mps.is_available() else "cpu"
    else:
        wanted = str(device)
    try:
        chosen = torch.device(wanted)
    except RuntimeError:
        raise InputError(f"There is no device {wanted!r}; use auto, cpu, cuda, cuda:1 or mps.") from None
    try:
        torch.ones(2, device=chosen).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if device == "auto":
            emit("note", text=f"The device {wanted!r} cannot be used ({first_line(error)}); training on the CPU.")
            return torch.device("cpu")
        raise InputError(
            f"The device {wanted!r} cannot be used: {first_line(error)}. Give cpu, or auto, which takes what there is."
        ) from None
    return chosen


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU for one without weights."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _cuda_works() -> bool:
    """Whether CUDA can be used; torch's warning about a driver that it cannot use becomes one line."""
    with warnings_apart(record=True) as seen:
        warnings.simplefilter("always")
        works = torch.cuda.is_available()
    if seen and not works:
        reason = str(seen[0].message).strip().splitlines()[0]
        emit("note", text=f"The GPU cannot be used ({reason}); training on the CPU.")
    return works
