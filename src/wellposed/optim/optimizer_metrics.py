"""The metric of an optimizer: the total weight that one gradient finally receives, for each coordinate.

A proximal step taken with this weight has the fixed points of ``loss + penalty``: where the optimizer stands still it
moves by ``-t * gradient``, and ``w = prox_t(w - t * gradient)`` says that ``-gradient`` is a subgradient of the penalty.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from wellposed.core.errors import CompositionError, InputError, described, listed


class Diagonal(NamedTuple):
    """A step for each coordinate: ``t_i = scale/(root(second_i) + eps)``, and 0 where no gradient has come yet.

    Attributes:
        second: what the optimizer keeps of squared gradients (of their size, without ``root``); of the parameter's shape.
        scale: > 0; learning rate and bias correction.
        eps: >= 0.
        floor: >= 0; ``second_i <= floor`` says that coordinate ``i`` has had no gradient.
        root: whether the square root is taken.
    """

    second: Tensor
    scale: float
    eps: float
    floor: float = 0.0
    root: bool = True

    def times(self, factor: float) -> Diagonal:
        return Diagonal(self.second, self.scale * factor, self.eps, self.floor, self.root)

    def spared(self) -> Tensor | None:
        """Which coordinates have had no gradient; None if all have."""
        found = self.second <= self.floor
        return found if bool(found.any()) else None

    def overall(self) -> Tensor:
        """One step for all: the harmonic mean of those that are not 0, so that a few rare gradients do not make it huge."""
        moved = self.second > self.floor
        size = (self.second.sqrt() if self.root else self.second) + self.eps
        return self.scale * moved.sum() / torch.where(moved, size, torch.zeros_like(size)).sum().clamp_min(1e-30)

    def steps(self) -> Tensor:
        size = self.second.sqrt() if self.root else self.second
        return (self.scale / (size + self.eps)).masked_fill_(self.second <= self.floor, 0.0)


Group = dict[str, Any]
OptimizerState = dict[str, Any]
MetricOrStep = float | Diagonal
EffectiveStep = Callable[[Group, OptimizerState, int], MetricOrStep]
"""From a parameter's group, its state and the number of steps that it has taken (>= 1)."""
Before = Callable[[Tensor, Group, OptimizerState], OptimizerState]
"""From a parameter, its group and its state as they are before a step: what the step uses and then overwrites."""


@dataclass(frozen=True)
class OptimizerMetric:
    """What a proximal step needs to know of an optimizer: the total weight that one gradient finally receives.

    A class of yours declares it, and every penalty works with it; `wellposed.testing.check_optimizer` proves it.

    Args:
        step: from a parameter's group, its state after the step and the number of steps that it has taken (>= 1), to the weight:
            a number, or a `Diagonal` with one for each coordinate.
        before: from a parameter, its group and its state as they are before a step, to what ``step`` is to find in the state
            beside it: what the optimizer uses and then overwrites.
        euclidean: every coordinate has the same step, whatever gradients have come: ``step`` gives a number.
    Example:
        >>> class Plain(torch.optim.SGD):
        ...     effective_step = OptimizerMetric(lambda group, state, count: group["lr"], euclidean=True)
    """

    step: EffectiveStep
    before: Before | None = None
    euclidean: bool = False

    def __call__(self, group: Group, state: OptimizerState, count: int) -> MetricOrStep:
        return self.step(group, state, count)


RAMP_STEPS = 100
"""Steps over which proximal strengths rise from 0 under an adaptive optimizer: its second moment is then an average of
about 100 squared gradients and known to ``sqrt(2/100)``, 14 %. Before, one small gradient would make a huge step."""


def _sgd(group: Group, state: OptimizerState, count: int) -> float:
    """``lr*(1 - dampening)/(1 - momentum)``, with Nesterov too: its look-ahead changes the path, not the sum."""
    momentum = float(group["momentum"])
    kept = 1.0 - float(group["dampening"]) if momentum else 1.0
    return float(group["lr"]) * kept / (1.0 - momentum)


def _adam(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """``lr/(sqrt(v_hat) + eps)``, with AMSGrad's maximum."""
    second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    return _corrected(second, float(group["lr"]), group, count)


def _nadam(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """Adam's, times what a gradient receives at once and through the first moment, by the current momenta."""
    beta, decay = float(group["betas"][0]), float(group["momentum_decay"])
    now, following = (beta * (1.0 - 0.5 * 0.96 ** (step * decay)) for step in (count, count + 1))
    product = float(state["mu_product"])
    weight = (1.0 - now) / (1.0 - product) + following / (1.0 - product * following)
    return _corrected(state["exp_avg_sq"], float(group["lr"]) * weight, group, count)


def _radam(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """Adam's times the rectification where the variance is tractable; before, ``lr``, as the optimizer itself does."""
    beta, lr = float(group["betas"][1]), float(group["lr"])
    most = 2.0 / (1.0 - beta) - 1.0
    length = most - 2.0 * count * beta**count / (1.0 - beta**count)
    if length <= 5.0:
        return Diagonal(torch.sign(state["exp_avg_sq"]), lr, 0.0)
    share = (length - 4.0) * (length - 2.0) * most / ((most - 4.0) * (most - 2.0) * length)
    correction = math.sqrt(1.0 - beta**count)
    return Diagonal(state["exp_avg_sq"], lr * math.sqrt(share) * correction, float(group["eps"]))


def _adamax(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """``lr/u`` with ``u`` the infinity norm, which holds eps already: a coordinate without gradients has ``u = eps``."""
    return Diagonal(state["exp_inf"], float(group["lr"]), 0.0, 1.0001 * float(group["eps"]), root=False)


def _rmsprop(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """``lr/(1 - momentum)/(sqrt(v) + eps)``, ``v`` less the squared mean where centered."""
    second = state["square_avg"]
    if group["centered"]:
        # Of a constant gradient the variance is 0, and the optimizer moves by lr*gradient/eps: not the 0 of no gradient.
        variance = (second - state["grad_avg"].square()).clamp_min(torch.finfo(second.dtype).tiny)
        second = variance.masked_fill_(second == 0, 0.0)
    return Diagonal(second, float(group["lr"]) / (1.0 - float(group["momentum"])), float(group["eps"]))


def _adagrad(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """``lr/(1 + (count - 1)*lr_decay)/(sqrt(sum) + eps)``."""
    lr = float(group["lr"]) / (1.0 + (count - 1) * float(group["lr_decay"]))
    return Diagonal(state["sum"], lr, float(group["eps"]), float(group["initial_accumulator_value"]))


def _adadelta_before(w: Tensor, group: Group, state: OptimizerState) -> OptimizerState:
    """The squared movements that the step multiplies by; it adds its own to them."""
    moved = state.get("acc_delta")
    return {"acc_delta": torch.zeros_like(w) if moved is None else moved.clone()}


def _adadelta(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """``lr * sqrt(moved + eps)/sqrt(v + eps)``, ``moved`` the mean squared movement before the step."""
    eps, second = float(group["eps"]), state["square_avg"]
    ratio = (second + eps) / (state["acc_delta"] + eps)
    return Diagonal(ratio.masked_fill_(second == 0, 0.0), float(group["lr"]), 0.0)


def _adafactor_before(w: Tensor, group: Group, state: OptimizerState) -> OptimizerState:
    """The root mean square of the weights, which the step is relative to, and the gradient, whose size it clips."""
    return {"size": _mean_size(w), "gradient": w.grad}


def _adafactor(group: Group, state: OptimizerState, count: int) -> Diagonal:
    """``a/(sqrt(v) max(1, rms(g/sqrt(v))/d))`` with ``a = max(eps2, rms(w)) min(lr, count^(-1/2))`` before the step.

    Of a matrix, ``v`` is the product of the means of its rows and columns over their mean: a number for each coordinate too.
    """
    rows: Tensor | None = state.get("row_var")
    second: Tensor = state["variance"] if rows is None else rows @ state["col_var"]
    given, smallest = group["eps"]
    least = torch.finfo(second.dtype).eps if given is None else float(given)
    if rows is not None:
        second = second / rows.mean(dim=-2, keepdim=True).clamp_min(least)
    unseen = second == 0
    second = second.clamp_min(least * least)
    gradient: Tensor | None = state["gradient"]
    length = 0.0 if gradient is None else _mean_size(gradient * second.rsqrt())
    scale = max(float(smallest), state["size"]) * min(float(group["lr"]), 1.0 / math.sqrt(count))
    return Diagonal(second.masked_fill_(unseen, 0.0), scale / max(1.0, length / float(group["d"])), 0.0)


def _mean_size(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) / math.sqrt(max(1, x.numel()))


def _corrected(second: Tensor, lr: float, group: Group, count: int) -> Diagonal:
    """``lr/(sqrt(second/correction) + eps)`` with Adam's correction for the bias of the second moment."""
    root = math.sqrt(1.0 - float(group["betas"][1]) ** count)
    return Diagonal(second, lr * root, float(group["eps"]) * root)


METRICS: dict[type[Optimizer], OptimizerMetric] = {
    torch.optim.SGD: OptimizerMetric(_sgd, euclidean=True),
    torch.optim.Adam: OptimizerMetric(_adam),
    torch.optim.AdamW: OptimizerMetric(_adam),
    torch.optim.NAdam: OptimizerMetric(_nadam),
    torch.optim.RAdam: OptimizerMetric(_radam),
    torch.optim.Adamax: OptimizerMetric(_adamax),
    torch.optim.RMSprop: OptimizerMetric(_rmsprop),
    torch.optim.Adagrad: OptimizerMetric(_adagrad),
    torch.optim.Adadelta: OptimizerMetric(_adadelta, _adadelta_before),
    torch.optim.Adafactor: OptimizerMetric(_adafactor, _adafactor_before),
    # eta falls as lr/(1 + lambd*lr*count)^alpha, and a step puts that of the next one in its place.
    torch.optim.ASGD: OptimizerMetric(
        lambda group, state, count: float(state["eta"]),
        lambda w, group, state: {"eta": float(state["eta"] if "eta" in state else group["lr"])},
        euclidean=True,
    ),
}
"""Of torch's own optimizers. One of somebody else's says its own, as its class attribute ``effective_step``."""

REASONS = {
    "LBFGS": "it moves along a direction that mixes all coordinates",
    "Rprop": "its steps follow the signs of gradients, not their sizes",
    "Lion": "its steps follow the signs of gradients, not their sizes",
    "Muon": "it orthogonalizes the update of a whole matrix",
    "SparseAdam": "it moves only the rows that a batch touches",
}
"""Why an optimizer, by the name of its class, has no step for each coordinate."""


def metric_of(optimizer: Optimizer) -> OptimizerMetric | None:
    """The metric of an optimizer: what its class declares as ``effective_step``, or torch's; None where it is not known."""
    for cls in type(optimizer).__mro__:
        known = vars(cls).get("effective_step", METRICS.get(cls))
        if known is not None:
            if not isinstance(known, OptimizerMetric):
                raise InputError(
                    f"{cls.__name__}.effective_step is a wp.OptimizerMetric; it was given {described(known)}."
                )
            # A subclass that steps in its own way has a metric of its own; AdamW is a subclass of Adam that does not.
            return known if _own_step(type(optimizer)) is _own_step(cls) else None
    return None


def _own_step(cls: type[Optimizer]) -> Any:
    """The function that steps, without what torch wraps around it in each class of which it first makes an object."""
    return inspect.unwrap(getattr(cls, "step", None))  # type: ignore[arg-type]


def is_adaptive(optimizer: Optimizer) -> bool:
    metric = metric_of(optimizer)
    return metric is not None and not metric.euclidean


def is_euclidean(optimizer: Optimizer) -> bool:
    metric = metric_of(optimizer)
    return metric is not None and metric.euclidean


def decays_by_its_step(optimizer: Optimizer) -> bool:
    """Whether ``w *= 1 - lr*s`` beside the step is an L2 in the loss: every step of every coordinate is ``lr`` times a number."""
    metric = metric_of(optimizer)
    return metric is not None and metric.step is _sgd


def needs_metric(optimizer: Optimizer) -> OptimizerMetric:
    """The effective step, or a refusal with the reason."""
    metric = metric_of(optimizer)
    if metric is None:
        name = type(optimizer).__name__
        reason = f"{name} has none: {REASONS[name]}" if name in REASONS else f"that of {name} is not known"
        raise CompositionError(
            f"how='prox' needs the step that a gradient receives in each coordinate, and {reason}. "
            f'Use .on(..., how="loss") with optimizer.penalty(), or one of {listed((c.__name__ for c in METRICS), 20)}; a class of '
            "your own may say it: effective_step = wp.OptimizerMetric(...)."
        )
    return metric


def check_momentum(groups: Sequence[Mapping[str, Any]]) -> None:
    if any(float(group.get("momentum", 0.0)) >= 1.0 for group in groups):
        raise CompositionError("how='prox' needs momentum < 1: with 1 a gradient's total weight has no bound.")
