"""Noise on inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(x: Tensor, std: float, source: torch.Generator) -> Tensor:
    """``x + std * e`` with ``e`` standard normal; integer inputs (tokens) are refused by the caller.

    Args:
        x: floating, any shape and device. Not modified.
        std: >= 0, in the units of ``x``. 0 returns ``x``.
        source: where the noise comes from, on the CPU.
    Source:
        Bishop (1995), Neural Computation 7(1): training with noise is Tikhonov regularization.
    """
    if std == 0:
        return x
    noise = torch.randn(x.shape, generator=source, dtype=torch.float32)
    return x + std * noise.to(device=x.device, dtype=x.dtype)
