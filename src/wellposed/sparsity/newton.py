"""Newton steps on the weights that are not zero: between two changes of the support a path's cost is smooth.

Proximal steps find the support fast and converge on it slowly where inputs are correlated; Newton's steps need a known support
and few of them are enough. So the two take turns, and `wellposed.optimality.certify` alone says when a point is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from wellposed.data.arrays import split_batch
from wellposed.optim.charges import ChargedParameter
from wellposed.optimality.objective import Cost

MOST_ACTIVE = 300
"""Weights that are not zero, up to which a matrix of second derivatives pays."""
MOST_NUMBERS = 3_000_000
"""Rows times active weights, up to which the second derivatives are formed at once."""
STEPS, HALVINGS = 8, 6


class _Called(nn.Module):
    """A model called as a problem calls it, so that its weights can be replaced."""

    def __init__(self, net: nn.Module, forward: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.net, self.call = net, forward

    def forward(self, inputs: Any) -> Any:
        return self.call(self.net, inputs)


def newton(cost: Cost, forward: Callable[[nn.Module, Any], Any]) -> None:
    """Lower the cost in place, inside `Cost.frozen`; nothing is done where it is not smooth or too large.

    A step ends where the first charged weight reaches zero, which then is exactly zero. Directions of negative curvature are
    followed downhill. No step raises the cost.
    """
    parts = [part for part in cost.charges.parts if isinstance(part, ChargedParameter) and not part.constraints]
    tensors = [part.leaf.tensor for part in parts]
    called = _Called(cost.net, forward)
    names = {id(p): name for name, p in called.named_parameters()}
    batches = [(split_batch(batch)[0], cost.target(batch)) for batch in cost.batches()]
    rows = sum(len(target) for _, target in batches if isinstance(target, Tensor))
    if len(parts) < len(cost.charges.parts) or cost.charges.functional or not rows:
        return

    for _ in range(STEPS):
        masks = [
            p != 0 if part.charges else torch.ones_like(p, dtype=torch.bool)
            for part, p in zip(parts, tensors, strict=True)
        ]
        sizes = [int(mask.sum()) for mask in masks]
        if not 0 < sum(sizes) <= MOST_ACTIVE or sum(sizes) * rows > MOST_NUMBERS:
            return
        w = torch.cat([p.detach()[mask] for p, mask in zip(tensors, masks, strict=True)])
        charged = torch.tensor([bool(part.charges) for part in parts]).repeat_interleave(torch.tensor(sizes))
        places = [mask.reshape(-1).nonzero()[:, 0] for mask in masks]

        def objective(flat: Tensor, sizes: list[int] = sizes, places: list[Tensor] = places) -> Tensor:
            filled = [
                torch.zeros_like(p).reshape(-1).index_copy(0, place, own).view_as(p)
                for p, place, own in zip(tensors, places, torch.split(flat, sizes), strict=True)
            ]
            weights = {names[id(p)]: value for p, value in zip(tensors, filled, strict=True)}
            sums = [cost.loss.parts(functional_call(called, weights, (x,)), y).sums() for x, y in batches]
            loss = torch.stack([total for total, _ in sums]).sum() / torch.stack([count for _, count in sums]).sum()
            for part, value in zip(parts, filled, strict=True):
                for penalty in part.penalties:
                    loss = loss + penalty.value(value)
            return loss

        try:
            with torch.enable_grad():
                flat = w.clone().requires_grad_()
                value = objective(flat)
                (slope,) = torch.autograd.grad(value, flat)
                curvature: Tensor = hessian(objective, w, vectorize=True)  # type: ignore[no-untyped-call]
            curves, axes = torch.linalg.eigh(curvature)
        except RuntimeError:  # a layer without second derivatives, or numbers that are not finite
            return
        floor = 1e-12 * max(float(curves.abs().max()), 1e-300)
        move = -(axes @ ((axes.T @ slope) / curves.abs().clamp_min(floor)))
        share = torch.where(charged & (w * move < 0), -w / move, torch.inf)
        first, longest = int(share.argmin()), min(1.0, float(share.min()))
        for halving in range(HALVINGS):
            length = longest / 2**halving
            u = w + length * move
            if halving == 0 and longest < 1.0:
                u[first] = 0.0
            if float(objective(u)) < float(value):
                for p, mask, own in zip(tensors, masks, u.split(sizes), strict=True):
                    p.masked_scatter_(mask, own)
                break
        else:
            return
