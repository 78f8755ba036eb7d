"""Noise on inputs: added, cut out, or mixed from two examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from wellposed.core.checks import Within, checked, unchecked
from wellposed.core.errors import InputError, ShapeError, described
from wellposed.core.numbers import convert_numbers
from wellposed.noise.activations import needs_source, normal_like
from wellposed.noise.noise import Key, Noise
from wellposed.penalties.base import Searched

NO_IMAGE = "It cuts a box out of an image, and needs floating inputs (examples, channels, height, width)."
NO_NUMBERS = "Tokens are names, not numbers: there is nothing between two of them."


def needs_numbers(method: str, x: Tensor) -> None:
    if not x.is_floating_point() or x.ndim == 0:
        if x.is_complex() or x.ndim == 0:
            raise ShapeError(
                f"{method} needs real numbers, examples first; it was given {x.dtype} of shape {tuple(x.shape)}."
            )
        raise ShapeError(f"{method} was given {x.dtype}. {NO_NUMBERS} Mix or disturb their embeddings instead.")


def needs_images(method: str, x: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[-2:]:
        raise ShapeError(f"{method} was given {x.dtype} of shape {tuple(x.shape)}. {NO_IMAGE}")


@checked
def cutout(x: Tensor, share: Annotated[float, Within(0, 1, open="high")], source: torch.Generator) -> Tensor:
    """Each image with a box at a random place set to 0; the box has ``sqrt(share)`` of either side.

    The box lies wholly inside the image, at every place with equal probability, so that the share is the same for each.

    Args:
        x: ``(N, C, H, W)``, floating, any device. Not modified.
        share: of the area, in [0, 1). 0 returns ``x``; sides are rounded to whole pixels.
        source: where the places come from, on the CPU.
    Raises:
        ShapeError: ``x`` is no batch of images.
        InputError: ``share`` is not in [0, 1), or ``source`` no generator on the CPU.
    Source:
        DeVries & Taylor (2017), arXiv 1708.04552; there boxes may reach over the border.
    """
    needs_images("cutout", x)
    needs_source(source)
    if share == 0:
        return x
    examples, _, height, width = x.shape
    ranges = []
    for size in (height, width):
        side = round(share**0.5 * size)
        ranges.append(_range(size, torch.randint(size - side + 1, (examples, 1), generator=source), side))
    inside = ranges[0][:, None, :, None] & ranges[1][:, None, None, :]
    return x.masked_fill(inside.to(x.device), 0.0)


def _range(size: int, first: Tensor, side: int | Tensor) -> Tensor:
    """``(boxes, size)``: which places of an axis lie in a box that begins at ``first`` ``(boxes, 1)``."""
    place = torch.arange(size)
    return (place >= first) & (place < first + side)


MixMode = Literal["batch", "elem"]
"""Whether one weight is drawn for a batch, or one for each of its examples; the words are timm's."""
Weight = float | Tensor
"""What is kept of an example: one number for all, or ``(N,)``, float64, on the CPU."""


def check_mixing(concentration: float, source: object) -> None:
    number = isinstance(concentration, (int, float)) and not isinstance(concentration, bool)
    if not number or not 0 <= concentration < float("inf"):
        raise InputError(f"Mixing needs a finite concentration >= 0; it was given {described(concentration)}.")
    needs_source(source)


def mixing_weight(concentration: float, source: torch.Generator) -> float:
    """A draw from ``Beta(concentration, concentration)``; its mean is 1/2. 0 gives 1: nothing is mixed in.

    Args:
        concentration: >= 0. Small: nearly one of both examples; 1: any mixture; large: nearly halves.
    """
    check_mixing(concentration, source)
    return float(_beta(np.array(concentration, np.float64), source)) if concentration else 1.0


def _beta(concentration: np.ndarray, source: torch.Generator) -> np.ndarray:
    """A draw for each concentration > 0. Torch has no public Beta that takes a generator; numpy's is seeded from ours."""
    seed = int(torch.randint(2**62, (), generator=source))
    return np.asarray(np.random.default_rng(seed).beta(concentration, concentration))


@checked
def mixup(
    x: Tensor, concentration: float, source: torch.Generator, mode: MixMode = "batch"
) -> tuple[Tensor, Tensor, Weight]:
    """``weight * x + (1 - weight) * x[permutation]`` with ``weight ~ Beta(concentration, concentration)``.

    Args:
        x: ``(N, *)``, floating, any device. Not modified.
        concentration: >= 0. 0 returns ``x``.
        source: where weights and permutation come from, on the CPU.
        mode: ``"batch"``, one weight for all; or ``"elem"``, one for each example.
    Returns:
        The mixed inputs, the permutation ``(N,)`` on the CPU, and the weight, or the weights ``(N,)``; `mixed_targets` mixes
        the targets with them.
    Raises:
        ShapeError: ``x`` is not floating (tokens).
        InputError: ``concentration`` is negative, ``mode`` is not known, or ``source`` is no generator on the CPU.
    Source:
        Zhang et al. (2018), ICLR.
    """
    needs_numbers("mixup", x)
    check_mixing(concentration, source)
    if concentration == 0:
        return _unmixed(x, mode)
    weight = _weights(concentration, len(x), mode, source)
    permutation = torch.randperm(len(x), generator=source)
    return blend(x, permutation, weight), permutation, weight


def _unmixed(x: Tensor, mode: MixMode) -> tuple[Tensor, Tensor, Weight]:
    return x, torch.arange(len(x)), 1.0 if mode == "batch" else torch.ones(len(x), dtype=torch.float64)


def _weights(concentration: float, rows: int, mode: MixMode, source: torch.Generator) -> Weight:
    if mode == "batch":
        return mixing_weight(concentration, source)
    return torch.from_numpy(_beta(np.full(rows, concentration, np.float64), source))


def rowwise(weight: Weight, x: Tensor) -> Weight:
    """The weight so that it multiplies the examples of ``x``."""
    if not isinstance(weight, Tensor):
        return weight
    return weight.to(device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


def blend(x: Tensor, permutation: Tensor, weight: Weight) -> Tensor:
    """``weight * x + (1 - weight) * x[permutation]``; ``x`` itself where the weight is 1."""
    if not isinstance(weight, Tensor) and weight == 1:
        return x
    kept = rowwise(weight, x)
    return kept * x + (1.0 - kept) * x[permutation.to(x.device)]


@checked
def cutmix(
    x: Tensor, concentration: float, source: torch.Generator, mode: MixMode = "batch"
) -> tuple[Tensor, Tensor, Weight]:
    """Images with a box from another one; the weight is the share of the area that is kept, exactly.

    Either side of the box is ``sqrt(1 - b)`` of the image's, ``b ~ Beta(concentration, concentration)``, its centre is
    anywhere, and what reaches over the border is cut off. Arguments, results and errors are those of `mixup`, but for:

    Args:
        x: images ``(N, C, H, W)``; anything else is a `ShapeError`.
        mode: ``"batch"``, one box and one weight for all; or ``"elem"``, one for each example.
    Raises:
        ShapeError: ``x`` is no batch of images.
        InputError: ``concentration`` is negative, ``mode`` is not known, or ``source`` is no generator on the CPU.
    Source:
        Yun et al. (2019), ICCV.
    """
    needs_images("cutmix", x)
    check_mixing(concentration, source)
    if concentration == 0:
        return _unmixed(x, mode)
    drawn = _weights(concentration, len(x), mode, source)
    permutation = torch.randperm(len(x), generator=source)
    images, weight = _boxed(x, permutation, drawn, source)
    return images, permutation, weight


def _boxed(x: Tensor, permutation: Tensor, drawn: Weight, source: torch.Generator) -> tuple[Tensor, Weight]:
    """Images with a box from those of the permutation, one box for all or one for each; and the share that is kept."""
    share = torch.as_tensor(drawn, dtype=torch.float64).view(-1)
    ranges = []
    for size in x.shape[-2:]:
        side = ((1.0 - share).sqrt() * size).round().long()[:, None]
        ranges.append(_range(size, torch.randint(size, (len(share), 1), generator=source) - side // 2, side))
    inside = ranges[0][:, None, :, None] & ranges[1][:, None, None, :]
    kept = 1.0 - inside.double().mean((1, 2, 3))
    weight = kept if isinstance(drawn, Tensor) else float(kept)
    return torch.where(inside.to(x.device), x[permutation.to(x.device)], x), weight


@checked
def mixup_or_cutmix(
    x: Tensor,
    mixup_concentration: float,
    cutmix_concentration: float,
    source: torch.Generator,
    *,
    switch_prob: Annotated[float, Within(0, 1)] = 0.5,
    mode: MixMode = "batch",
) -> tuple[Tensor, Tensor, Weight]:
    """`cutmix` with probability ``switch_prob``, else `mixup`, with their results; drawn for each batch, or for each example
    (``mode="elem"``).

    Args:
        x: ``(N, C, H, W)``, floating, any device (``(N, *)`` where nothing is cut). Not modified.
        mixup_concentration, cutmix_concentration: >= 0; where one is 0, the other is always used.
        source: where all is drawn, on the CPU.
        switch_prob: in [0, 1]; it matters only where both are used.
    Raises:
        ShapeError: ``x`` is not floating, or no batch of images where boxes are cut.
        InputError: a concentration is negative, ``switch_prob`` not in [0, 1], or the rest as for `mixup`.
    Source:
        Wightman et al. (2021), "ResNet strikes back", arXiv 2110.00476, which draws for each batch.
    Example:
        >>> import torch, wellposed as wp
        >>> x, y = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> source = torch.Generator().manual_seed(0)
        >>> x, permutation, weight = wp.mixup_or_cutmix(x, 0.8, 1.0, source, mode="elem")
        >>> weight.shape, wp.mixed_targets(y, permutation, weight, classes=3).shape
        (torch.Size([6]), torch.Size([6, 3]))
    """
    for concentration in (mixup_concentration, cutmix_concentration):
        check_mixing(concentration, source)
    if not cutmix_concentration:
        return _mixup(x, mixup_concentration, source, mode)
    needs_images("mixup_or_cutmix", x)
    if not mixup_concentration:
        return _cutmix(x, cutmix_concentration, source, mode)
    cut = torch.rand(len(x) if mode == "elem" else 1, generator=source, dtype=torch.float64) < switch_prob
    if mode == "batch":
        mix, concentration = (_cutmix, cutmix_concentration) if cut else (_mixup, mixup_concentration)
        return mix(x, concentration, source)
    drawn = torch.from_numpy(_beta(np.where(cut, float(cutmix_concentration), float(mixup_concentration)), source))
    permutation = torch.randperm(len(x), generator=source)
    boxed, kept = _boxed(x, permutation, drawn, source)
    images = torch.where(cut.view(-1, 1, 1, 1).to(x.device), boxed, blend(x, permutation, drawn))
    return images, permutation, torch.where(cut, torch.as_tensor(kept), drawn)


_mixup, _cutmix, _mixup_or_cutmix = unchecked(mixup), unchecked(cutmix), unchecked(mixup_or_cutmix)


# --- as kinds of a recipe


@dataclass(frozen=True)
class Gaussian(Noise):
    """``x + std * e`` with ``e`` standard normal; ``std`` >= 0 in the units of the inputs, which are floating.

    Source:
        Bishop (1995), Neural Computation 7(1): training with noise is Tikhonov regularization.
    """

    std: float

    acts = "inputs"
    size_field, share, order, site = "std", False, 2, "x"
    keys = (
        Key(
            name="input", field="std", title="input_noise",
            searched=Searched(low=0.02, high=0.3, least=0.005, most=1.0, odds=0.25, rank=2),
        ),
    )  # fmt: skip

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        needs_numbers("gaussian", x)
        return x if size == 0 else x + size * normal_like(x, source)


@dataclass(frozen=True)
class Cutout(Noise):
    """`cutout` of a share ``area`` of each image, in [0, 1)."""

    area: float

    acts = "inputs"
    size_field, order, images = "area", 3, True
    keys = (
        Key(
            name="cutout", field="area", title="cutout",
            searched=Searched(low=0.05, high=0.3, least=0.01, most=0.6, odds=0.2, log=False, rank=5),
        ),
    )  # fmt: skip

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return cutout(x, size, source)


@dataclass(frozen=True)
class Mixing(Noise):
    """`mixup`, `cutmix`, or one of them drawn each time, by the concentrations ``mixup`` and ``cutmix`` (0 is off), see
    `mixup_or_cutmix`.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch_prob: float = 0.5
    mode: MixMode = "batch"

    acts, mixes = "inputs", True
    share, order, site = False, 10, "mix"
    keys = (
        Key(
            name="mixup", field="mixup", title="mixup",
            searched=Searched(low=0.1, high=1.0, least=0.02, most=4.0, odds=0.15, rank=3),
        ),
        Key(
            name="cutmix", field="cutmix", title="cutmix",
            searched=Searched(low=0.1, high=1.0, least=0.02, most=4.0, odds=0.15, without=("mixup",), rank=4),
        ),
        Key(name="switch_prob", field="switch_prob", off=0.5, type=Annotated[float, Field(ge=0, le=1)]),
        Key(name="mix_mode", field="mode", off="batch", type=MixMode),
    )  # fmt: skip

    def __post_init__(self) -> None:
        convert_numbers(self, "mixup", "cutmix", "switch_prob")

    @property
    def size(self) -> float:
        return max(self.mixup, self.cutmix)

    @property
    def images(self) -> bool:  # type: ignore[override]
        return bool(self.cutmix)

    def uncompiled(self, classes: bool) -> str:
        """The kernel mixes class indices by one weight for a batch."""
        return "classes are mixed by a weight for each example" if classes and self.mode == "elem" else ""

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> tuple[Tensor, Tensor, Weight]:
        return _mixup_or_cutmix(x, self.mixup, self.cutmix, source, switch_prob=self.switch_prob, mode=self.mode)
