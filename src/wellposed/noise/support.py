"""Which noise takes which kind of input, and why it refuses the others."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.core.errors import InputError, ShapeError, described

NO_CHANNELS = "Spatial dropout needs channels with an axis beside them, such as (examples, channels, height, width)."
NO_IMAGE = "It cuts a box out of an image, and needs floating inputs (examples, channels, height, width)."
NO_NUMBERS = "Tokens are names, not numbers: there is nothing between two of them."


def needs_numbers(method: str, x: Tensor) -> None:
    """Refuse inputs that are integers, complex or a single number.

    Raises:
        ShapeError: ``x`` is not floating.
    """
    if not x.is_floating_point() or x.ndim == 0:
        if x.is_complex() or x.ndim == 0:
            raise ShapeError(
                f"{method} needs real numbers, examples first; it was given {x.dtype} of shape {tuple(x.shape)}."
            )
        raise ShapeError(f"{method} was given {x.dtype}. {NO_NUMBERS} Mix or disturb their embeddings instead.")


def needs_images(method: str, x: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        ShapeError: ``x`` is not floating, or not ``(examples, channels, height, width)``.
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[-2:]:
        raise ShapeError(f"{method} was given {x.dtype} of shape {tuple(x.shape)}. {NO_IMAGE}")


def needs_source(source: object) -> None:
    """Refuse a seed, or nothing, in place of a generator.

    Raises:
        InputError: ``source`` is no ``torch.Generator`` on the CPU.
    """
    if not isinstance(source, torch.Generator) or source.device.type != "cpu":
        given = f"one on {source.device}" if isinstance(source, torch.Generator) else described(source)
        raise InputError(
            f"Noise is drawn from source, a torch.Generator on the CPU; it was given {given}. "
            "Write torch.Generator().manual_seed(0)."
        )
