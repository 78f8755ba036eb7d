"""Averages of weights along the path: exponential (EMA) and equal (SWA). Zeros of the current weights stay zeros."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Average:
    """A copy of a model whose weights average the model's: ``avg += (1 - kept) * (w - avg)``.

    Exponential with decay ``d``: ``kept = min(d, (1 + t)/(10 + t))`` at update ``t``, so that the start is forgotten
    early. Equal: ``kept = t/(t + 1)``. An average never reaches zero by itself, so it is set to zero where the current
    weight is exactly zero. Buffers (batch-norm statistics) are those of the model; see `redo_batch_norm`.

    Args:
        model: what is averaged; copied once.
        ema: decay in (0, 1), or None for equal averaging.
    Sources:
        Polyak & Juditsky (1992), SIAM J. Control Optim. 30; Izmailov et al. (2018), UAI.
    """

    def __init__(self, model: nn.Module, ema: float | None) -> None:
        self.module = copy.deepcopy(model)
        self.module.requires_grad_(False)
        self.ema, self.count = ema, 0
        self._weights = list(model.parameters()), list(self.module.parameters())
        self._buffers = list(model.buffers()), list(self.module.buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's current weights in."""
        t = float(self.count)
        kept = t / (t + 1.0) if self.ema is None else min(self.ema, (1.0 + t) / (10.0 + t)) if t else 0.0
        current, average = self._weights
        torch._foreach_lerp_(list[Tensor](average), list[Tensor](w.detach() for w in current), 1.0 - kept)
        for mean, weight in zip(average, current, strict=True):
            mean.masked_fill_(weight == 0, 0.0)
        for mine, theirs in zip(self._buffers[1], self._buffers[0], strict=True):
            mine.copy_(theirs)
        self.count += 1


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


@torch.no_grad()
def redo_batch_norm(model: nn.Module, forwards: Iterable[Callable[[], object]]) -> None:
    """Recompute the running statistics of batch norms as plain averages over ``forwards`` (calls that run the model).

    Only the batch norms are put into training mode: dropout stays off, and every mode comes back as it was.
    """
    layers = batch_norms(model)
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for forward in forwards:
        forward()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for module, training in modes:
        module.training = training
