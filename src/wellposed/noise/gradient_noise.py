"""Noise on gradients, that dies out as training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.core.checks import Seed, checked
from wellposed.core.random import generator
from wellposed.noise.activations import normal_like
from wellposed.noise.noise import Key, Noise
from wellposed.penalties.base import Searched, at_least_zero


def annealed_variance(eta: float, step: int, decay: float = 0.55) -> float:
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
    if grad.is_sparse:
        grad = grad.coalesce()
        values = gradient_noise(grad.values(), variance, source)
        disturbed: Tensor = torch.sparse_coo_tensor(
            grad.indices(), values, grad.shape, is_coalesced=True, check_invariants=False
        )
        return disturbed
    return grad + math.sqrt(variance) * normal_like(grad, source)


@dataclass(frozen=True)
class Annealed(Noise):
    """`gradient_noise` whose variance dies out as ``eta/(1 + t)^0.55``; ``eta`` >= 0 is that of the first step."""

    eta: float

    acts = "gradients"
    size_field, share, order, site = "eta", False, 11, "gradient"
    keys = (
        Key(
            name="gradient", field="eta", title="gradient_noise",
            searched=Searched(low=1e-6, high=1e-2, least=1e-8, most=1.0, odds=0.04, rank=6),
        ),
    )  # fmt: skip

    def at(self, step: int) -> float:
        return annealed_variance(self.eta, step)

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return gradient_noise(x, size, source)


@torch.no_grad()
def disturb_gradients(model: nn.Module, noise: Noise, size: float, step: int, seed: int) -> None:
    """Put noise on every gradient that there is; frozen parameters are passed over."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.requires_grad:
            parameter.grad = noise.apply(parameter.grad, size, generator(seed, noise.stream, step, name))


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

    def __init__(self, model: nn.Module, eta: float, decay: float = 0.55, seed: Seed = 0) -> None:
        at_least_zero(self, eta=eta, decay=decay)
        self.model, self.eta, self.decay, self.seed, self.step = model, float(eta), float(decay), seed, 0

    def __call__(self, *_: object) -> None:
        variance = annealed_variance(self.eta, self.step, self.decay)
        disturb_gradients(self.model, Annealed(self.eta), variance, self.step, self.seed)
        self.step += 1
