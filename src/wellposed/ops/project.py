"""Euclidean projections: ``argmin_u |u - w|`` over the allowed set."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.ops.norms import group_norms


def into_norm_ball(w: Tensor, bound: float, axis: int) -> Tensor:
    """Project each group onto ``{u : |u_g|_2 <= bound}``: ``u_g = w_g * min(1, bound/|w_g|)``.

    A feasible group comes back bit for bit, so projecting twice changes nothing.

    Args:
        w: floating. Not modified.
        bound: >= 0. 0 gives zeros.
        axis: groups are counted along this axis.
    """
    norms = group_norms(w, axis)
    # One ulp of slack: rounding in the rescaled norm must not make a projected group look infeasible again.
    outside = norms > bound * (1.0 + 4 * torch.finfo(w.dtype).eps)
    return torch.where(outside, w * (bound / norms.clamp_min(torch.finfo(w.dtype).tiny)), w)
