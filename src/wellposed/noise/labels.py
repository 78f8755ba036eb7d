"""Noise on labels."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_classes(target: Tensor, classes: int, amount: float) -> Tensor:
    """Class indices as probabilities: ``1 - amount + amount/classes`` on the label, ``amount/classes`` elsewhere.

    Args:
        target: ``(n,)``, integer class indices.
        classes: >= 2.
        amount: in [0, 1). 0 is one-hot.
    Returns:
        ``(n, classes)``, float32, rows sum to 1.
    Source:
        Szegedy et al. (2016), CVPR.
    """
    smooth = torch.full((*target.shape, classes), amount / classes, device=target.device)
    return smooth.scatter_(-1, target.unsqueeze(-1), 1.0 - amount + amount / classes)


def smooth_binary(target: Tensor, amount: float) -> Tensor:
    """0/1 targets drawn towards one half: ``y*(1 - amount) + amount/2``; amount in [0, 1)."""
    return target * (1.0 - amount) + 0.5 * amount
