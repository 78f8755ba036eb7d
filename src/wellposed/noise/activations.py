"""Dropout whose masks are functions of (seed, step, site), for any module that has dropout layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from wellposed.core.errors import ShapeError
from wellposed.core.random import generator, random_bits
from wellposed.noise.support import NO_CHANNELS, needs_source

LEVELS = 65536
"""Masks compare 16 random bits with a threshold, so a rate is kept to 1/65536, and the rescaling is by that exact rate."""


def dropout_mask(shape: torch.Size | tuple[int, ...], rate: float, source: torch.Generator) -> Tensor:
    """``m_i in {0, 1/(1-p)}`` with ``P(m_i = 0) = p``, so that the mean of ``m_i x_i`` is ``x_i``; on the CPU.

    Args:
        shape: of the mask.
        rate: p in [0, 1). 0 gives ones; 1 is all zeros.
        source: where the bits come from.
    """
    needs_source(source)
    dropped = round(rate * LEVELS)
    if dropped >= LEVELS:
        return torch.zeros(shape)
    bits = random_bits(torch.Size(shape).numel(), source)
    kept = bits >= dropped - LEVELS // 2
    return kept.to(torch.float32).mul_(LEVELS / (LEVELS - dropped)).view(shape)


def dropout(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    """``m_i x_i`` with ``m_i in {0, 1/(1-p)}``, ``P(m_i = 0) = p``: each number is dropped by itself, the mean is kept.

    Args:
        x: floating, any shape and device. Not modified.
        rate: p in [0, 1). 0 returns ``x``.
        source: where the mask comes from, on the CPU.
    Source:
        Srivastava et al. (2014), JMLR 15.
    """
    return x if rate == 0 else x * move_noise(x, dropout_mask(x.shape, rate, source))


def spatial_dropout(x: Tensor, rate: float, source: torch.Generator, axis: int = 1) -> Tensor:
    """``m_nc x_nc...`` with ``m_nc in {0, 1/(1-p)}``: a channel of an example is dropped as a whole, the mean is kept.

    Args:
        x: ``(N, C, *)`` with at least one axis beside examples and channels; floating. Not modified.
        rate: p in [0, 1), of channels. 0 returns ``x``.
        source: where the mask comes from, on the CPU.
        axis: of the channels; -1 for sequences ``(N, places, features)``.
    Raises:
        ShapeError: ``x`` has no axis beside examples and channels.
    Source:
        Tompson et al. (2015), CVPR.
    """
    if x.ndim < 3 or axis % x.ndim == 0:
        raise ShapeError(f"{NO_CHANNELS} It was given shape {tuple(x.shape)} and axis {axis}.")
    if rate == 0:
        return x
    shape = [size if i in (0, axis % x.ndim) else 1 for i, size in enumerate(x.shape)]
    return x * move_noise(x, dropout_mask(tuple(shape), rate, source))


def gaussian_dropout(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    """``x_i (1 + s e_i)`` with ``e_i`` standard normal and ``s^2 = p/(1-p)``: dropout's mean and variance, no zeros.

    Args:
        x: floating, any shape and device. Not modified.
        rate: p in [0, 1). 0 returns ``x``; 0.5 is noise as large as ``x``.
        source: where the noise comes from, on the CPU.
    Source:
        Srivastava et al. (2014), JMLR 15, section 10.
    """
    if rate == 0:
        return x
    needs_source(source)
    noise = torch.randn(x.shape, generator=source, dtype=torch.float32)
    return x * move_noise(x, 1.0 + (rate / (1.0 - rate)) ** 0.5 * noise)


def move_noise(x: Tensor, drawn: Tensor) -> Tensor:
    """What was drawn on the CPU, on the device and in the type of ``x``."""
    return drawn.to(device=x.device, dtype=x.dtype)


class Streams:
    """Where the noise of a run is drawn: the training loop moves ``step`` on, each site asks for its own generator."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step = 0
        self._calls: dict[str, int] = {}

    @property
    def step(self) -> int:
        """Where the run is. Setting it, also to the same, begins the draws of that step anew."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self._calls.clear()

    def call(self, site: str) -> int:
        """How often the site has been called before in this step; counts the call."""
        count = self._calls.get(site, 0)
        self._calls[site] = count + 1
        return count

    def at(self, stream: str, site: str) -> torch.Generator:
        """The generator of this stream and site at the current step."""
        return generator(self.seed, stream, self.step, site)


def dropouts(model: nn.Module) -> dict[str, _DropoutNd]:
    """The dropout layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _DropoutNd)}


def set_dropout(model: nn.Module, rate: float) -> int:
    """Set the rate of every dropout layer, and of attention's inner dropout; how many there are.

    Args:
        rate: in [0, 1). 0 switches them off.
    """
    layers = list(dropouts(model).values())
    for layer in layers:
        layer.p = rate
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    for attention in attentions:
        attention.dropout = rate
    return len(layers) + len(attentions)


def _mask_shape(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Spatial dropout drops whole channels; plain dropout single numbers."""
    if isinstance(module, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and x.ndim > 2:
        return (*x.shape[:2], *([1] * (x.ndim - 2)))
    return tuple(x.shape)


@contextmanager
def dropout_from_streams(model: nn.Module, streams: Streams) -> Iterator[None]:
    """Let every plain and spatial dropout layer of ``model`` draw its masks from ``streams`` inside the block.

    A layer that is called several times in one step gets another mask each time. Alpha dropout keeps torch's own
    formula and draws from the global generator, which the training loop seeds at each step.
    """
    plain = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    patched = [(name, module) for name, module in dropouts(model).items() if type(module) in plain]

    def drawing(name: str, module: _DropoutNd) -> object:
        def forward(x: Tensor) -> Tensor:
            if not module.training or module.p == 0:
                return x
            count = streams.call(name)
            source = streams.at("dropout", name if count == 0 else f"{name}#{count}")
            mask = dropout_mask(_mask_shape(module, x), module.p, source)
            return x * mask.to(device=x.device, dtype=x.dtype)

        return forward

    for name, module in patched:
        module.forward = drawing(name, module)  # type: ignore[assignment]
    try:
        yield
    finally:
        for _, module in patched:
            del module.forward
