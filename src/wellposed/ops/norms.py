"""Norms over the groups of a tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def other_axes(w: Tensor, axis: int) -> tuple[int, ...]:
    """Every axis of ``w`` but ``axis``: a group is one index along ``axis``."""
    return tuple(i for i in range(w.ndim) if i != axis % w.ndim)


def group_norms(w: Tensor, axis: int) -> Tensor:
    """``|w_g|_2`` for each index ``g`` along ``axis``; shape of ``w`` with the other axes of length 1."""
    norms: Tensor = torch.linalg.vector_norm(w, dim=other_axes(w, axis), keepdim=True)
    return norms


def group_size(w: Tensor, axis: int) -> int:
    """How many numbers one group holds."""
    return math.prod(w.shape[i] for i in other_axes(w, axis))
