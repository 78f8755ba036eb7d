"""Sharded tensors (DTensor, of FSDP), whose operators need the whole."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def unshard(w: Tensor) -> Tensor:
    """A sharded tensor put together from its shards, carrying gradient; any other tensor as it is."""
    gather: Callable[[], Tensor] | None = getattr(w, "full_tensor", None)
    return w if gather is None else gather()
