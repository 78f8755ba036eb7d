"""Noise that is a function of (seed, step, site): of dropout layers, and of layers that draw of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from wellposed.core.errors import InputError, described
from wellposed.core.random import generator, random_bits

LEVELS = 65536
"""Masks compare 16 random bits with a threshold, so a rate is kept to 1/65536, and the rescaling is by that exact rate."""


def needs_source(source: object) -> None:
    """Refuse a seed, or nothing, in place of a generator on the CPU."""
    if not isinstance(source, torch.Generator) or source.device.type != "cpu":
        given = f"one on {source.device}" if isinstance(source, torch.Generator) else described(source)
        raise InputError(
            f"Noise is drawn from source, a torch.Generator on the CPU; it was given {given}. "
            "Write torch.Generator().manual_seed(0)."
        )


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


def draw_normal(shape: torch.Size, source: torch.Generator) -> Tensor:
    needs_source(source)
    return torch.randn(shape, generator=source, dtype=torch.float32)


def normal_like(x: Tensor, source: torch.Generator) -> Tensor:
    return move_noise(x, draw_normal(x.shape, source))


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

    def at(self, stream: str, site: str) -> torch.Generator:
        """The generator of this stream and site at the current step."""
        return generator(self.seed, stream, self.step, site)

    def next(self, stream: str, site: str) -> torch.Generator:
        """The generator of this call of a site: ``site#1`` is that of the second call in a step."""
        count = self._calls.get(site, 0)
        self._calls[site] = count + 1
        return self.at(stream, f"{site}#{count}" if count else site)


def refuse_recomputed(site: str) -> None:
    """Refuse to draw where a forward pass is a checkpoint's, which computes again what was drawn before."""
    if torch._C._current_graph_task_id() != -1:
        raise InputError(
            f"{site!r} is computed again in the backward pass (activation checkpointing), where its noise would be "
            "another. Leave it out of the checkpoint, or out of the noise."
        )


class Draws:
    """Where a network that draws of itself has its noise from: all its layers share one of these, as do those of a copy.

    In a loop of ours it is the run's streams; elsewhere streams of its own, on which every forward in training mode (and with
    ``sampling`` in evaluation mode) is a step.
    """

    def __init__(self, seed: int, sampling: bool = False) -> None:
        self._own = Streams(seed)
        self._lent: Streams | None = None
        self.step = 0
        """How many forwards of its own there were; set it to resume or to draw the same again."""
        self.sampling = sampling

    def begin(self, model: nn.Module, args: object = ()) -> None:
        if self._lent is None and (model.training or self.sampling):
            self._own.step = self.step
            self.step += 1

    def source(self, stream: str, site: str) -> torch.Generator:
        """The generator of this call of a site."""
        refuse_recomputed(site)
        return (self._lent or self._own).next(stream, site)

    @contextmanager
    def lent(self, streams: Streams) -> Iterator[None]:
        """Inside, these streams are drawn from, and whoever owns them counts the steps."""
        before, self._lent = self._lent, streams
        try:
            yield
        finally:
            self._lent = before

    @contextmanager
    def apart(self, seed: int, sampling: bool) -> Iterator[None]:
        """Inside, another seed is drawn from, and each forward is another draw, with ``sampling`` in evaluation mode too;
        afterwards all is as it was before.
        """
        kept = self._own, self._lent, self.step, self.sampling
        self._own, self._lent, self.step, self.sampling = Streams(seed), None, 0, sampling
        try:
            yield
        finally:
            self._own, self._lent, self.step, self.sampling = kept


def draws_of(model: nn.Module) -> list[Draws]:
    """What the layers of a network draw from, each once; empty where none draws of itself."""
    found = (getattr(module, "draws", None) for module in model.modules())
    return list({id(draws): draws for draws in found if isinstance(draws, Draws)}.values())


def dropouts(model: nn.Module) -> dict[str, _DropoutNd]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _DropoutNd)}


def dropout_rates(model: nn.Module) -> list[float]:
    """The rate of every dropout layer, and of attention's inner dropout."""
    attentions = (module for module in model.modules() if isinstance(module, nn.MultiheadAttention))
    return [layer.p for layer in dropouts(model).values()] + [attention.dropout for attention in attentions]


def set_dropout(model: nn.Module, rate: float) -> int:
    """Set the rate (0 switches off) of every dropout layer, and of attention's inner dropout; how many there are."""
    layers = list(dropouts(model).values())
    for layer in layers:
        layer.p = rate
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    for attention in attentions:
        attention.dropout = rate
    return len(layers) + len(attentions)


def dropped(layer: _DropoutNd, x: Tensor, source: torch.Generator) -> Tensor:
    """What a dropout layer makes of ``x``: of spatial ones whole channels are dropped."""
    spatial = isinstance(layer, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and x.ndim > 2
    shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if spatial else x.shape
    return x * move_noise(x, dropout_mask(shape, layer.p, source))


@contextmanager
def dropout_from_streams(model: nn.Module, streams: Streams) -> Iterator[None]:
    """Let every plain and spatial dropout layer of ``model`` draw its masks from ``streams`` inside the block, another one at each
    call in a step, and every layer that draws of itself (`Draws`). Alpha dropout keeps torch's own formula and draws from the
    global generator, which the training loop seeds at each step.
    """
    plain = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    patched = [(name, module) for name, module in dropouts(model).items() if type(module) in plain]

    def drawing(name: str, module: _DropoutNd) -> object:
        def forward(x: Tensor) -> Tensor:
            return dropped(module, x, streams.next("dropout", name)) if module.training and module.p else x

        return forward

    for name, module in patched:
        module.forward = drawing(name, module)  # type: ignore[assignment]
    try:
        with ExitStack() as stack:
            for draws in draws_of(model):
                stack.enter_context(draws.lent(streams))
            yield
    finally:
        for _, module in patched:
            del module.forward
