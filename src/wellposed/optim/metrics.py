"""The metric of an optimizer: the total weight that one gradient finally receives, for each coordinate.

A proximal step taken with this weight has the fixed points of ``loss + penalty``: where the optimizer stands still it
moves by ``-t * gradient``, and ``w = prox_t(w - t * gradient)`` says that ``-gradient`` is a subgradient of the penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wellposed.core.errors import CompositionError, listed

Group = dict[str, Any]
State = dict[str, Any]
EffectiveStep = Callable[[Group, State, Tensor], "float | Tensor"]

RAMP_STEPS = 100
"""Steps over which proximal strengths rise from 0 under an adaptive optimizer: its second moment is then an average of
about 100 squared gradients and known to ``sqrt(2/100)``, 14 %. Before, one small gradient would make a huge step."""


def _sgd(group: Group, state: State, parameter: Tensor) -> float:
    """``lr*(1 - dampening)/(1 - momentum)``, with Nesterov too: its look-ahead changes the path, not the sum."""
    momentum = float(group["momentum"])
    kept = 1.0 - float(group["dampening"]) if momentum else 1.0
    return float(group["lr"]) * kept / (1.0 - momentum)


def _adam(group: Group, state: State, parameter: Tensor) -> Tensor:
    """``lr/(sqrt(v_hat) + eps)``, with AMSGrad's maximum; 0 where no gradient has come yet (``v = 0``)."""
    second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    correction = 1.0 - float(group["betas"][1]) ** float(state["step"])
    return _inverse_root(second, float(group["lr"]), float(group["eps"]), correction)


def _rmsprop(group: Group, state: State, parameter: Tensor) -> Tensor:
    """``lr/(1 - momentum)/(sqrt(v) + eps)``, ``v`` less the squared mean where centered; 0 where ``v = 0``."""
    second = state["square_avg"]
    if group["centered"]:
        second = (second - state["grad_avg"].square()).clamp_min(0.0)
    lr = float(group["lr"]) / (1.0 - float(group["momentum"]))
    return _inverse_root(second, lr, float(group["eps"]), 1.0)


def _inverse_root(second: Tensor, lr: float, eps: float, correction: float) -> Tensor:
    steps = lr / ((second / correction).sqrt() + eps)
    return steps.masked_fill(second == 0, 0.0)


METRICS: dict[type[Optimizer], EffectiveStep] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
}


def metric_of(optimizer: Optimizer) -> EffectiveStep | None:
    """The effective step of an optimizer, or None where it is not known."""
    for cls in type(optimizer).__mro__:
        known = METRICS.get(cls)
        if known is not None:
            # A subclass that steps in its own way has a metric of its own.
            return known if getattr(type(optimizer), "step", None) is getattr(cls, "step", None) else None
    return None


def is_adaptive(optimizer: Optimizer) -> bool:
    """Whether the metric depends on the gradients that have come."""
    metric = metric_of(optimizer)
    return metric is not None and metric is not _sgd


def needs_metric(optimizer: Optimizer) -> EffectiveStep:
    """The effective step, or a refusal with the reason.

    Raises:
        CompositionError: the optimizer's step has no known diagonal metric.
    """
    metric = metric_of(optimizer)
    if metric is None:
        raise CompositionError(
            f"how='prox' needs the step that a gradient receives, and that of {type(optimizer).__name__} is not known. "
            f'Use .on(..., how="loss") with optimizer.penalty(), or one of {listed(c.__name__ for c in METRICS)}.'
        )
    for group in optimizer.param_groups:
        if float(group.get("momentum", 0.0)) >= 1.0:
            raise CompositionError("how='prox' needs momentum < 1: with 1 a gradient's total weight has no bound.")
    return metric
