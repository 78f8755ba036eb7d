"""Averages of weights along the path: exponential (EMA) and equal (SWA). Zeros of the current weights stay zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel


def exponential(decay: float) -> Callable[[Any, Any, Any], None]:
    """``avg = d*avg + (1-d)*w`` with ``d = min(decay, (1+t)/(10+t))``, so that the start is forgotten early.

    An average never reaches zero by itself, so it is set to zero where the current weight is exactly zero.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        t = float(count)
        kept = min(decay, (1.0 + t) / (10.0 + t))
        for average, weight in zip(averaged, current, strict=True):
            average.lerp_(weight.to(average.dtype), 1.0 - kept)
            average.masked_fill_(weight == 0, 0.0)

    return update


@torch.no_grad()
def equal(averaged: Any, current: Any, count: Any) -> None:
    """``avg += (w - avg)/(t + 1)``, zero where the current weight is exactly zero."""
    for average, weight in zip(averaged, current, strict=True):
        average.lerp_(weight.to(average.dtype), 1.0 / (float(count) + 1.0))
        average.masked_fill_(weight == 0, 0.0)


def averaged(model: nn.Module, ema: float | None) -> AveragedModel:
    """A copy of ``model`` that averages it: exponentially with decay ``ema``, or equally where ``ema`` is None.

    Sources:
        Polyak & Juditsky (1992); Izmailov et al. (2018), UAI.
    """
    return AveragedModel(model, multi_avg_fn=equal if ema is None else exponential(ema))


def has_batch_norm(model: nn.Module) -> bool:
    """Whether averaged weights need their batch-norm statistics redone."""
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())


@torch.no_grad()
def redo_batch_norm(model: nn.Module, forwards: Iterable[Callable[[], object]]) -> None:
    """Recompute the running statistics of batch norms as plain averages over ``forwards`` (calls that run the model).

    Only the batch norms are put into training mode: dropout stays off, and every mode comes back as it was.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
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
