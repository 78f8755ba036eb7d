"""Noise on depth: a residual branch is left out for some examples."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.core.errors import ShapeError
from wellposed.noise.activations import dropout_mask, move_noise


def stochastic_depth(
    x: Tensor, rate: float, source: torch.Generator, skip: Tensor | None = None, by: str = "example"
) -> Tensor:
    """``m_n x_n`` with ``m_n in {0, 1/(1-p)}``, ``P(m_n = 0) = p``: a branch is dropped for each example; the mean is kept.

    Args:
        x: ``(N, *)``, the output of a residual branch, before the skip is added. Not modified.
        rate: p in [0, 1). 0 returns ``x``.
        source: where the mask comes from, on the CPU.
        skip: None, or the block's input where ``x`` is the whole block's output; the branch is then ``x - skip``.
        by: ``example``, or ``batch``: all examples together (also where the first axis is not the examples).
    Raises:
        ShapeError: ``x`` has no axis, or ``skip`` another shape.
    Source:
        Huang et al. (2016), ECCV; there branches are scaled at test time, here in training.
    """
    if x.ndim == 0:
        raise ShapeError("Stochastic depth needs an axis of examples; it was given a single number.")
    if skip is not None and skip.shape != x.shape:
        raise ShapeError(
            f"Stochastic depth of a whole block needs an output of its input's shape {tuple(skip.shape)}; "
            f"it was given {tuple(x.shape)}. Select the branch before the addition, with of='branch'."
        )
    if rate == 0:
        return x
    mask = dropout_mask((x.shape[0] if by == "example" else 1, *([1] * (x.ndim - 1))), rate, source)
    return x * move_noise(x, mask) if skip is None else skip + (x - skip) * move_noise(x, mask)


def linear_rates(rate: float, count: int) -> list[float]:
    """``rate * l/count`` for the ``l``-th of ``count`` blocks: the first is hardly ever dropped, the last at ``rate``."""
    return [rate * (place + 1) / count for place in range(count)]
