"""Averages of weights along the path: exponential (EMA) and equal (SWA). Zeros of the current weights stay zeros."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellposed.core.checks import Level, checked
from wellposed.core.errors import FormatError, InputError

SCHEMA = 1


@checked
class Average:
    """A copy of a model whose weights average the model's: ``avg += (1 - kept) * (w - avg)``.

    Exponential with decay ``d``: ``kept = min(d, (1 + t)/(10 + t))`` at update ``t``, so that the start is forgotten
    early. Equal: ``kept = t/(t + 1)``. An average never reaches zero by itself, so it is set to zero where the current
    weight is exactly zero. Buffers are those of the model at the last update: right for an EMA, whose weights are
    near; after equal averaging call `redo_batch_norm`. Averages are kept in the weights' own precision.

    Args:
        model: what is averaged; copied once, in evaluation mode.
        ema: decay in (0, 1), or None for equal averaging.
    Attributes:
        module: the averaged model.
        count: updates so far.
    Raises:
        InputError: no model, or a decay outside (0, 1).
    Sources:
        Polyak & Juditsky (1992), SIAM J. Control Optim. 30; Izmailov et al. (2018), UAI.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x = torch.nn.Linear(2, 1), torch.ones(4, 2)
        >>> optimizer, average = torch.optim.SGD(net.parameters(), lr=0.1), wp.Average(net, ema=0.999)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     net(x).square().mean().backward()
        ...     optimizer.step()
        ...     average.update()                         # after each step
        >>> average.module(x).shape                      # what is evaluated and saved
        torch.Size([4, 1])
    """

    def __init__(self, model: nn.Module, ema: Level | None = None) -> None:
        if not any(True for _ in model.parameters()):
            raise InputError(
                f"Average needs a model with weights; this {type(model).__name__} has none to be averaged."
            )
        self.module = copy.deepcopy(model)
        self.module.requires_grad_(False)
        self.module.eval()
        self.ema, self.count = ema, 0
        self._model = model

    def __repr__(self) -> str:
        return f"Average({type(self.module).__name__}, ema={self.ema}, count={self.count})"

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's current weights in: after each step (EMA), or once an epoch (equal)."""
        t = float(self.count)
        kept = t / (t + 1.0) if self.ema is None else min(self.ema, (1.0 + t) / (10.0 + t)) if t else 0.0
        # Asked for at each update: moving a model to another device or precision gives it new buffers.
        current, average = list(self._model.parameters()), list(self.module.parameters())
        torch._foreach_lerp_(list[Tensor](average), list[Tensor](w.detach() for w in current), 1.0 - kept)
        for mean, weight in zip(average, current, strict=True):
            mean.masked_fill_(weight == 0, 0.0)
        for mine, theirs in zip(self.module.buffers(), self._model.buffers(), strict=True):
            mine.copy_(theirs)
        self.count += 1

    def redo_batch_norm(
        self, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object] | None = None
    ) -> None:
        """Recompute the batch norms of `module` over ``batches`` of training inputs.

        Args:
            batches: such as ``(x.to(device) for x, y in train_loader)``; what the model is called with.
            forward: ``forward(module, batch)``, where the module is not called as ``module(batch)``.
        """
        run = forward or (lambda module, batch: module(batch))
        redo_batch_norm(self.module, (lambda b=batch: run(self.module, b) for batch in batches))  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """The count and the averaged model's state, for a checkpoint."""
        return {"schema": SCHEMA, "count": self.count, "module": self.module.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave.

        Raises:
            FormatError: the state was saved in another schema.
        """
        if state_dict.get("schema") != SCHEMA:
            raise FormatError(f"This average has schema {state_dict.get('schema')!r}; schema {SCHEMA} can be loaded.")
        self.module.load_state_dict(state_dict["module"])
        self.count = int(state_dict["count"])


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


@torch.no_grad()
def redo_batch_norm(model: nn.Module, forwards: Iterable[Callable[[], object]]) -> None:
    """Recompute the running statistics of batch norms as plain averages over ``forwards`` (calls that run the model).

    Only the batch norms are put into training mode: dropout stays off, and every mode comes back as it was, also after an
    exception. Without any forward the statistics stay.
    """
    layers = batch_norms(model)
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    try:
        for i, forward in enumerate(forwards):
            for layer in layers:
                if i == 0:
                    layer.reset_running_stats()
                    layer.momentum = None
                    layer.train()
            forward()
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
