"""Averages of weights along the path: exponential (EMA) and equal (SWA)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellposed.core.checks import ConfidenceLevel, checked
from wellposed.core.errors import FormatError, InputError
from wellposed.core.numbers import to_python
from wellposed.core.preserve import modes_kept
from wellposed.core.selectors import refuse_scripted, unwrap_model
from wellposed.optim.zeros import copy_zeros

SCHEMA = 1

Warmup = Literal["ratio", "power", "none"]
Start = Literal["update", "model"]
Buffers = Literal["copy", "average"]

WARMUPS: dict[str, Callable[[float], float]] = {
    "ratio": lambda t: (1.0 + t) / (10.0 + t),
    "power": lambda t: 1.0 - (1.0 + t) ** (-2.0 / 3.0),
    "none": lambda t: 1.0,
}
"""The largest share of the average that update ``t`` (0 for the first) keeps; the decay is at most this."""

_MADE: WeakKeyDictionary[nn.Module, WeakSet[Average]] = WeakKeyDictionary()


@checked
class Average:
    """A copy of a model whose weights average the model's: ``avg += (1 - kept) * (w - avg)``.

    Exponential with decay ``d``: ``kept = min(d, warmup(t))`` at update ``t`` (0 for the first). Equal (``ema=None``):
    ``kept = t/(t + 1)``.

    A constant decay keeps ``d^t`` of what it started from after ``t`` updates: with 0.999, 61 % of untrained weights after
    500. A warm-up forgets them early, and ends where it reaches ``d`` (for 0.999 after 8,990 updates by ``"ratio"``).

    Where a term of `regularize` makes exact zeros (L1, groups, the largest k), the average is zero wherever the current
    weight is: by itself it would never be. Averages are kept in the weights' own precision.

    Args:
        model: what is averaged; copied once, in evaluation mode.
        ema: decay in (0, 1), or None for equal averaging.
        warmup: of an exponential average: ``"ratio"``, ``(1 + t)/(10 + t)``, as in TensorFlow; ``"power"``,
            ``1 - (1 + t)^(-2/3)``, as in timm's ``ModelEmaV3``; ``"none"`` (or None), constant decay, as in torch's
            ``get_ema_multi_avg_fn``, Keras and timm's ``ModelEmaV2``; or a function of ``t`` with values in [0, 1].
        start: what an exponential average begins with: ``"update"``, the weights at the first update, as in torch and Keras; or
            ``"model"``, those that the model had when the average was made, as in timm's ``ModelEmaV2``.
        buffers: ``"copy"``: those of the model at the last update, right for an EMA, whose weights are near (after equal
            averaging call `redo_batch_norm`). ``"average"``: averaged like weights, as by torch's ``use_buffers=True`` and
            timm; counts and other whole numbers are copied.
    Attributes:
        module: the averaged model.
        count: updates so far.
    Raises:
        InputError: no model, a decay outside (0, 1), or a choice that is not known.
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

    def __init__(
        self,
        model: nn.Module,
        ema: ConfidenceLevel | None = None,
        *,
        warmup: Warmup | Callable[[float], float] | None = "ratio",
        start: Start = "update",
        buffers: Buffers = "copy",
    ) -> None:
        warmup = "none" if warmup is None else warmup
        refuse_scripted("Average", model)
        if not any(True for _ in model.parameters()):
            raise InputError(
                f"Average needs a model with weights; this {type(model).__name__} has none to be averaged."
            )
        self.module = copy.deepcopy(model)
        self.module.requires_grad_(False)
        self.module.eval()
        self.ema, self.warmup, self.start, self.buffers, self.count = ema, warmup, start, buffers, 0
        self._model = model
        _MADE.setdefault(unwrap_model(model), WeakSet()).add(self)

    def __repr__(self) -> str:
        return f"Average({type(self.module).__name__}, {self.says}, count={self.count})"

    @property
    def says(self) -> str:
        """The settings that are in use, as text."""
        return averaging_says(self.ema, self.warmup, self.start, self.buffers)

    def share(self, t: float) -> float:
        """The share ``1 - kept`` that update ``t`` (0 for the first) takes of the current weights.

        Raises:
            InputError: a warm-up of one's own gives something outside [0, 1].
        """
        if self.ema is None:
            return 1.0 / (t + 1.0)
        if self.start == "update" and t == 0:
            return 1.0
        most = to_python(WARMUPS[self.warmup](t) if isinstance(self.warmup, str) else self.warmup(t))
        if not isinstance(most, (int, float)) or not 0.0 <= most <= 1.0:
            raise InputError(f"The warm-up of an Average gives a number in [0, 1]; at update {t:g} it gave {most!r}.")
        return 1.0 - min(self.ema, most)

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's current weights into the average: after each step (EMA), or once an epoch (equal)."""
        share = self.share(float(self.count))
        # Asked for at each update: moving a model to another device or precision gives it new buffers.
        weights = list(zip(self.module.parameters(), self._model.parameters(), strict=True))
        buffers = list(zip(self.module.buffers(), self._model.buffers(), strict=True))
        average, current = list[Tensor](), list[Tensor]()
        for mine, theirs in weights + buffers if self.buffers == "average" else weights:
            if mine.is_floating_point() or mine.is_complex():
                average.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)  # counts and quantized weights have no mean
        if self.buffers == "copy":
            for mine, theirs in buffers:
                mine.copy_(theirs)
        torch._foreach_lerp_(average, [w.detach() for w in current], share)
        copy_zeros(self.module, self._model)
        self.count += 1

    def remove(self) -> None:
        """Take the average out of the audit of its model, since it is over; the averaged weights stay as they are."""
        _MADE.get(unwrap_model(self._model), WeakSet()).discard(self)

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
        """Go on with an average that `state_dict` saved.

        Raises:
            FormatError: the state was saved in another schema.
        """
        if state_dict.get("schema") != SCHEMA:
            raise FormatError(f"This average has schema {state_dict.get('schema')!r}; schema {SCHEMA} can be loaded.")
        self.module.load_state_dict(state_dict["module"])
        self.count = int(state_dict["count"])


def averages_of(model: nn.Module) -> list[Average]:
    return list(_MADE.get(unwrap_model(model), ()))


def averaging_says(ema: float | None, warmup: Any, start: str, buffers: str) -> str:
    if ema is None:
        return f"equal, buffers={buffers!r}"
    return f"ema={ema}, warmup={warmup!r}, start={start!r}, buffers={buffers!r}"


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


@torch.no_grad()
def redo_batch_norm(model: nn.Module, forwards: Iterable[Callable[[], object]]) -> None:
    """Recompute the running statistics of batch norms as plain averages over ``forwards`` (calls that run the model), with them
    alone in training mode. Modes come back, also after an exception; without any forward the statistics stay.
    """
    layers = batch_norms(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    with modes_kept(model, training=False):
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
