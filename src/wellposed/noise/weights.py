"""Noise on weights, for one forward pass: the stored parameter stays clean, and the gradient goes to it."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.noise.activations import dropout_mask, move_noise
from wellposed.noise.support import needs_source


def drop_connect(w: Tensor, rate: float, source: torch.Generator) -> Tensor:
    """``m_i w_i`` with ``m_i in {0, 1/(1-p)}``, ``P(m_i = 0) = p``: each connection is dropped by itself, the mean is kept.

    Args:
        w: floating, any shape and device. Not modified; the gradient flows to it.
        rate: p in [0, 1). 0 returns ``w``.
        source: where the mask comes from, on the CPU.
    Source:
        Wan et al. (2013), ICML. One mask serves a whole batch here, where they draw one for each example.
    """
    return w if rate == 0 else w * move_noise(w, dropout_mask(w.shape, rate, source))


def weight_noise(w: Tensor, std: float, source: torch.Generator, relative: bool = False) -> Tensor:
    """``w_i + std * e_i`` with ``e_i`` standard normal; relative: ``w_i + std * |w_i| * e_i``. The mean is kept.

    Args:
        w: floating, any shape and device. Not modified; the gradient flows to it.
        std: >= 0, in the units of ``w``; relative: a share of each weight. 0 returns ``w``.
        source: where the noise comes from, on the CPU.
    Source:
        An (1996), Neural Computation 8(3).
    """
    if std == 0:
        return w
    needs_source(source)
    noise = move_noise(w, torch.randn(w.shape, generator=source, dtype=torch.float32))
    # e and e * sign(w) have one law; without the modulus the gradient is smooth at zero.
    return w * (1.0 + std * noise) if relative else w + std * noise
