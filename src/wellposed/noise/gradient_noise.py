"""Noise on gradients, that dies out as training goes on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.random import generator
from wellposed.noise.activations import move_noise
from wellposed.noise.support import needs_source
from wellposed.penalties.base import at_least_zero


def annealed_variance(eta: float, step: int, decay: float = 0.55) -> float:
    """The variance ``eta/(1 + step)^decay``; ``step`` is 0 for the first."""
    return float(eta / (1.0 + step) ** decay)


def gradient_noise(grad: Tensor, variance: float, source: torch.Generator) -> Tensor:
    """``grad + sqrt(variance) * e`` with ``e`` standard normal; of a sparse gradient only the stored values get noise.

    Args:
        grad: floating, any shape and device, dense or sparse COO. Not modified.
        variance: >= 0. 0 returns ``grad``.
        source: where the noise comes from, on the CPU.
    """
    if variance == 0:
        return grad
    needs_source(source)
    if grad.is_sparse:
        grad = grad.coalesce()
        values = gradient_noise(grad.values(), variance, source)
        disturbed: Tensor = torch.sparse_coo_tensor(
            grad.indices(), values, grad.shape, is_coalesced=True, check_invariants=False
        )
        return disturbed
    noise = torch.randn(grad.shape, generator=source, dtype=torch.float32)
    return grad + math.sqrt(variance) * move_noise(grad, noise)


@checked
class GradientNoise:
    """Add ``N(0, eta/(1+t)^decay)`` to every gradient at step ``t``; call it between ``backward`` and ``step``.

    ``optimizer.register_step_pre_hook(noise)`` calls it by itself. With a closure, call it at the closure's end; with a
    gradient scaler, after ``scaler.unscale_(optimizer)``. Frozen parameters and those without a gradient are passed over.
    ``noise.step`` counts the calls; set it when training is resumed.

    Args:
        model: whose gradients are disturbed; its names say which stream each parameter draws from.
        eta: >= 0, the variance at the first step, in squared units of the gradients (0.01, 0.3 and 1 in the source).
        decay: >= 0. 0 never dies out.
        seed: of the draws.
    Source:
        Neelakantan et al. (2015), arXiv 1511.06807.
    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> _ = optimizer.register_step_pre_hook(GradientNoise(net, eta=0.01))
    """

    def __init__(self, model: nn.Module, eta: float, decay: float = 0.55, seed: int = 0) -> None:
        at_least_zero(self, eta=eta, decay=decay)
        self.model, self.eta, self.decay, self.seed, self.step = model, float(eta), float(decay), seed, 0

    @torch.no_grad()
    def __call__(self, *_: object) -> None:
        """Disturb the gradients that there are, and move on by one step."""
        variance = annealed_variance(self.eta, self.step, self.decay)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and parameter.requires_grad:
                source = generator(self.seed, "gradient", self.step, name)
                parameter.grad = gradient_noise(parameter.grad, variance, source)
        self.step += 1
