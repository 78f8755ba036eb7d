"""Noise on inputs: added, cut out, or mixed from two examples."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, described
from wellposed.core.numbers import plain
from wellposed.noise.support import needs_images, needs_numbers, needs_source


def gaussian(x: Tensor, std: float, source: torch.Generator) -> Tensor:
    """``x + std * e`` with ``e`` standard normal.

    Args:
        x: floating, any shape and device. Not modified.
        std: >= 0, in the units of ``x``. 0 returns ``x``.
        source: where the noise comes from, on the CPU.
    Raises:
        ShapeError: ``x`` is not floating (tokens).
        InputError: ``source`` is no generator on the CPU.
    Source:
        Bishop (1995), Neural Computation 7(1): training with noise is Tikhonov regularization.
    """
    needs_numbers("gaussian", x)
    needs_source(source)
    if std == 0:
        return x
    noise = torch.randn(x.shape, generator=source, dtype=torch.float32)
    return x + std * noise.to(device=x.device, dtype=x.dtype)


@checked
def cutout(x: Tensor, share: float, source: torch.Generator, fill: Literal["zero", "mean"] = "zero") -> Tensor:
    """Each image with a box at a random place set to a constant; the box has ``sqrt(share)`` of either side.

    The box lies wholly inside the image, at every place with equal probability, so that the share is the same for each.

    Args:
        x: ``(N, C, H, W)``, floating, any device. Not modified.
        share: of the area, in [0, 1). 0 returns ``x``; sides are rounded to whole pixels.
        source: where the places come from, on the CPU.
        fill: ``zero``, or ``mean``: of the image's own channel.
    Raises:
        ShapeError: ``x`` is no batch of images.
        InputError: ``share`` is not in [0, 1), or ``source`` no generator on the CPU.
    Source:
        DeVries & Taylor (2017), arXiv 1708.04552; there boxes may reach over the border.
    """
    needs_images("cutout", x)
    needs_source(source)
    share = plain(share)
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share < 1:
        raise InputError(f"cutout needs a share of the area in [0, 1); it was given {described(share)}.")
    if share == 0:
        return x
    examples, _, height, width = x.shape
    inside = torch.ones((), dtype=torch.bool)
    for axis, size in ((-2, height), (-1, width)):
        side = round(share**0.5 * size)
        first = torch.randint(size - side + 1, (examples, 1), generator=source)
        place = torch.arange(size)
        row = (place >= first) & (place < first + side)
        inside = inside & (row[:, None, :, None] if axis == -2 else row[:, None, None, :])
    value = x.mean((-2, -1), keepdim=True) if fill == "mean" else x.new_zeros(())
    return torch.where(inside.to(x.device), value, x)


def mixing_weight(concentration: float, source: torch.Generator) -> float:
    """A draw from ``Beta(concentration, concentration)``; its mean is 1/2. 0 gives 1: nothing is mixed in.

    Args:
        concentration: >= 0. Small: nearly one of both examples; 1: any mixture; large: nearly halves.
    """
    if not 0 <= concentration < float("inf"):
        raise InputError(f"Mixing needs a finite concentration >= 0; it was given {concentration!r}.")
    needs_source(source)
    if concentration == 0:
        return 1.0
    # torch has no public Beta that takes a generator; numpy's is seeded from ours.
    seed = int(torch.randint(2**62, (), generator=source))
    return float(np.random.default_rng(seed).beta(concentration, concentration))


@checked
def mixup(x: Tensor, concentration: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """``weight * x + (1 - weight) * x[permutation]``, with one ``weight ~ Beta(concentration, concentration)`` a batch.

    Args:
        x: ``(N, *)``, floating, any device. Not modified.
        concentration: >= 0. 0 returns ``x``.
        source: where weight and permutation come from, on the CPU.
    Returns:
        The mixed inputs, the permutation ``(N,)`` on the CPU, and the weight; `mixed` mixes the targets with them.
    Raises:
        ShapeError: ``x`` is not floating (tokens).
        InputError: ``concentration`` is negative, or ``source`` no generator on the CPU.
    Source:
        Zhang et al. (2018), ICLR.
    """
    needs_numbers("mixup", x)
    weight = mixing_weight(concentration, source)
    permutation = torch.randperm(len(x), generator=source) if weight < 1 else torch.arange(len(x))
    return blend(x, permutation, weight), permutation, weight


def blend(x: Tensor, permutation: Tensor, weight: float) -> Tensor:
    """``weight * x + (1 - weight) * x[permutation]``; ``x`` itself where the weight is 1."""
    if weight == 1:
        return x
    return weight * x + (1.0 - weight) * x[permutation.to(x.device)]


@checked
def cutmix(x: Tensor, concentration: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Images with a box from another one; the weight is the share of the area that is kept, exactly.

    Either side of the box is ``sqrt(1 - b)`` of the image's, ``b ~ Beta(concentration, concentration)``, its centre is
    anywhere, and what reaches over the border is cut off. One box and one weight for the batch.

    Args:
        x: ``(N, C, H, W)``, floating, any device. Not modified.
        concentration: >= 0. 0 returns ``x``.
        source: where box and permutation come from, on the CPU.
    Returns:
        The images, the permutation ``(N,)`` on the CPU, and the weight; `mixed` mixes the targets with them.
    Raises:
        ShapeError: ``x`` is no batch of images.
        InputError: ``concentration`` is negative, or ``source`` no generator on the CPU.
    Source:
        Yun et al. (2019), ICCV.
    """
    needs_images("cutmix", x)
    drawn = mixing_weight(concentration, source)
    if drawn == 1:
        return x, torch.arange(len(x)), 1.0
    permutation = torch.randperm(len(x), generator=source)
    top, bottom = _span(x.shape[-2], drawn, source)
    left, right = _span(x.shape[-1], drawn, source)
    box = torch.zeros(x.shape[-2:], dtype=torch.bool)
    box[top:bottom, left:right] = True
    weight = 1.0 - (bottom - top) * (right - left) / box.numel()
    return torch.where(box.to(x.device), x[permutation.to(x.device)], x), permutation, weight


def _span(size: int, kept: float, source: torch.Generator) -> tuple[int, int]:
    """First and one past the last pixel of ``sqrt(1 - kept)`` of a side, around a random pixel, cut off at the border."""
    side = round((1.0 - kept) ** 0.5 * size)
    first = int(torch.randint(size, (), generator=source)) - side // 2
    return max(first, 0), min(first + side, size)
