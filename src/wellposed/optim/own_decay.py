"""What an optimizer's own ``weight_decay`` does to a weight, found by a trial: neither its name nor its class says it.

A copy of the optimizer takes two steps on a few numbers, with its decay and without. Their difference is the same share of
every weight where the decay is decoupled; it grows with momentum where it goes through the gradient; and it depends on the
gradients where an adaptive optimizer divides it by them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from wellposed.optim.wrapper import unwrap_optimizer

EVEN = 1e-3
"""Relative spread of the shares that are taken off several weights, below which they are one share."""
LARGE = 10.0
"""A decay that turns the signs of the gradients of the trial."""
GROWS = 1.05
"""How much more than the first step the second takes off where momentum has the decay in it; 1.1 at momentum 0.1."""


@dataclass(frozen=True)
class OwnDecay:
    """What one step takes off a weight: ``share`` of it in the long run, NaN where that is not one number.

    ``kind`` is ``"decoupled"``: the same share of every weight; ``"coupled"``: through the gradient and its momentum;
    ``"adaptive"``: divided by what the gradients were; ``"none"``; ``"unknown"``: the optimizer could not be tried.
    """

    kind: Literal["decoupled", "coupled", "adaptive", "none", "unknown"]
    share: float = math.nan


def try_decay(optimizer: Optimizer, group: Mapping[str, Any]) -> OwnDecay:
    """Try the decay of a parameter group at its largest learning rate so far; the optimizer itself is left alone."""
    if not float(group.get("weight_decay", 0.0) or 0.0):
        return OwnDecay("none")
    rate = max(float(group.get(key, 0.0) or 0.0) for key in ("lr", "initial_lr", "max_lr"))
    try:
        bare = unwrap_optimizer(optimizer)
        first, second = _taken_off(bare, {**group, "lr": rate})
        if not first.any():  # the signs of gradients, say, do not show a small decay
            first, second = _taken_off(bare, {**group, "lr": rate, "weight_decay": LARGE})
            return OwnDecay("adaptive" if first.any() or second.any() else "none")
    except Exception:
        return OwnDecay("unknown")
    share = float(first.mean())
    if not math.isfinite(share) or float((first - share).abs().max()) > EVEN * abs(share):
        return OwnDecay("adaptive")
    if float(second.mean()) > (1 + GROWS) * share:
        return OwnDecay("coupled", share / (1.0 - float(group.get("momentum", 0.0) or 0.0)))
    return OwnDecay("decoupled", share)


def _taken_off(optimizer: Optimizer, group: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What decay has taken off each of a few weights after one and after two steps, as shares of them."""
    w = torch.linspace(1.0, 2.0, 16, dtype=torch.float64).reshape(4, 4)
    gradients = [torch.sin(k + 7.0 * w) for k in (1, 2)]
    after = []
    for decay in (group["weight_decay"], 0.0):
        tried: Any = object.__new__(type(optimizer))
        tried.__dict__.update(vars(optimizer))  # a copy as pickled would lack what a subclass keeps beside its groups
        tried._optimizer_step_pre_hooks, tried._optimizer_step_post_hooks = {}, {}
        parameter = nn.Parameter(w.clone())
        tried.param_groups = [{**group, "weight_decay": decay, "params": [parameter]}]
        tried.state = defaultdict(dict)
        seen = []
        for gradient in gradients:
            parameter.grad = gradient.clone()
            tried.step()
            seen.append(parameter.detach().clone())
        after.append(seen)
    with_decay, without = after
    return (without[0] - with_decay[0]) / w, (without[1] - with_decay[1]) / w
