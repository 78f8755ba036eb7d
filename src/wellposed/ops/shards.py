"""Sharded tensors (DTensor, of FSDP), whose operators need the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def unshard(w: Tensor) -> Tensor:
    """A sharded tensor put together from its shards, carrying gradient; any other tensor as it is."""
    gather: Callable[[], Tensor] | None = getattr(w, "full_tensor", None)
    return w if gather is None else gather()


def least_of_all(value: float, model: nn.Module) -> float:
    """The least ``value`` among the processes that hold a part of the model; itself where nothing is sharded.

    Each pass through such a model waits for all of them, so that what one's clock decides has to be decided for all.
    """
    groups: list[Any] = []
    for module in model.modules():
        mesh = next((p.device_mesh for p in module.parameters(recurse=False) if hasattr(p, "device_mesh")), None)
        groups = mesh.get_all_groups() if mesh is not None else []
        if hasattr(module, "_fsdp_wrapped_module"):
            groups = [module.process_group]
        if groups:
            break
    if groups:
        device = next(p.device for p in model.parameters())
        least = torch.tensor(value, dtype=torch.float64, device=device)
        for group in groups:
            torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN, group)
        return float(least)
    return value
