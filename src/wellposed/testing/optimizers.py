"""The law of an optimizer's effective step: with it, a proximal step ends where ``loss + penalty`` is stationary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from wellposed.optim.optimizer_metrics import metric_of
from wellposed.optim.regularize import regularize
from wellposed.penalties.elementwise import L1
from wellposed.testing.laws import LawBroken, holds

ROWS, COLUMNS, USED = 60, 8, 4
TOLERANCE = 1e-4
"""Of the violation, as a share of the largest gradient at 0. A step that is wrong by a hundredth leaves a hundredth of the
strength, which is a quarter of that gradient."""
SHARE = 0.25
FALL = 1e-4
"""What the learning rate falls to in the last third: an optimizer that keeps swinging at a constant rate comes to rest."""


def check_optimizer(make: Callable[[list[nn.Parameter]], Optimizer], steps: int = 3000, seed: int = 0) -> None:
    """Solve a lasso by full batches: the violation of stationarity must vanish, with weights that are exactly 0 and others.

    Args:
        make: builds the optimizer of a list of parameters, with a learning rate that suits a quadratic of curvature 1 to 10; its
            class declares ``effective_step``, a `wellposed.OptimizerMetric`.
        steps: of training; the learning rate is constant for two thirds of them.
        seed: of the data.
    Example:
        >>> import torch
        >>> check_optimizer(lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9))
    """
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, COLUMNS, generator=draw, dtype=torch.float64)
    y = x[:, :USED] @ torch.linspace(1.0, 2.0, USED, dtype=torch.float64)
    y = y + 0.3 * torch.randn(ROWS, generator=draw, dtype=torch.float64)
    net = nn.Linear(COLUMNS, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    optimizer: Any = make(list(net.parameters()))
    name = type(optimizer).__name__
    message = f"{name} declares no effective step for its own step(): effective_step = wp.OptimizerMetric(...)"
    holds(metric_of(optimizer) is not None, message)
    gram, right = 2 / ROWS * x.T @ x, 2 / ROWS * y @ x
    largest = float(right.abs().max())
    penalty = L1(SHARE * largest)
    regularized = regularize(optimizer, net, [penalty.on()])
    rates = [group["lr"] for group in regularized.param_groups]
    for step in range(steps):
        for group, rate in zip(regularized.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, FALL ** (3 * step / steps - 2))
        net.weight.grad = net.weight.detach() @ gram - right
        regularized.step()
    w = net.weight.detach()
    grad = w @ gram - right
    holds(bool(torch.isfinite(w).all()), f"{name} diverged on a lasso; give it a smaller learning rate")
    violation = float(penalty.violation(w, grad)) / largest
    if not violation <= TOLERANCE:
        raise LawBroken(
            f"{name} ends {violation:.2g} of the largest gradient away from a stationary point of a lasso, and {TOLERANCE:g} are "
            "allowed. Either its effective step is not the whole weight that one gradient receives, or it has not arrived after "
            f"{steps} steps: then give it a larger learning rate, or more steps."
        )
    zeros = int((w == 0).sum())
    holds(0 < zeros < COLUMNS, f"{name} finds no exact zeros in a lasso that has some, or only zeros")
