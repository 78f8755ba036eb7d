"""The cost of a model on all rows, in evaluation mode, and its gradient; the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from wellposed.core.errors import DataError, InputError, guard_call
from wellposed.core.random import reseed
from wellposed.data.arrays import real_numbers, split_batch, to_device
from wellposed.losses.per_example import Loss
from wellposed.optim.charges import Charges
from wellposed.penalties.base import Context, Term
from wellposed.training.calls import Target
from wellposed.training.evaluate import BATCH, Forward, call, evaluating
from wellposed.training.sides import sides_of
from wellposed.training.watch import Batches, cache_batches


@dataclass(frozen=True)
class CostPoint:
    """The cost at the weights of a moment.

    Attributes:
        loss: its mean over ``units``.
        functional: the penalties of outputs, means over rows.
        penalty: all other terms.
        grads: of loss and functional, in the order of `Charges.params`.
        batches: how many there were.
    """

    loss: float
    functional: float
    penalty: float
    grads: list[Tensor]
    units: float
    batches: int

    @property
    def smooth(self) -> float:
        return self.loss + self.functional

    @property
    def objective(self) -> float:
        """The whole cost: the loss and every penalty."""
        return self.smooth + self.penalty


class Cost:
    """``mean loss + sum of terms`` of a model on all rows. See `wellposed.optimality.certify.certify` for what is given."""

    def __init__(
        self,
        net: nn.Module,
        loss: Any,
        data: Any,
        terms: Iterable[Term] | Term | Optimizer,
        optimizer: Optimizer | None,
        *,
        forward: Forward | None = None,
        target: Target | None = None,
    ) -> None:
        self.net, self.loss = net, Loss(loss)
        self.forward = None if forward is None else guard_call("forward=", forward)
        self.target = guard_call("target=", target or (lambda batch: split_batch(batch)[1]))
        self.call = guard_call("The model", call)
        self.charges = Charges.of(net, terms, optimizer)
        self.params = self.charges.params
        self.batches = cache_batches(all_rows(data, self.params[0].dtype))
        self._differentiates = any("inputs" in penalty.needs for penalty in self.charges.functional)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode without gradients; all that is reached comes back as it was."""
        with evaluating(self.net, self.forward, self.target, self.loss.given):
            yield

    def at(self) -> CostPoint:
        """The cost and its gradient at the weights as they are; inside `frozen`."""
        loss, functional, batches = self._means(self.params)
        grads = [a + b for a, b in zip(loss.gradient, functional.gradient, strict=True)]
        return CostPoint(loss.mean, functional.mean, self.charges.value(), grads, loss.count, batches)

    def smooth(self) -> float:
        """`CostPoint.smooth` without gradients; inside `frozen`."""
        loss, functional, _ = self._means(())
        return loss.mean + functional.mean

    def _means(self, params: Sequence[Tensor]) -> tuple[_Mean, _Mean, int]:
        """Loss, functional penalties, and the number of batches."""
        reseed(0, "certify")
        penalties, batches = self.charges.functional, 0
        loss, functional = _Mean(params), _Mean(params)
        for batch in self.batches():
            batches += 1
            batch = to_device(batch, self.params[0].device)
            with torch.set_grad_enabled(bool(params) or bool(penalties)):
                outputs, inputs = self._outputs(batch)
                total, units = self.loss.parts(outputs, self.target(batch)).sums()
                context = Context(outputs=outputs, inputs=inputs)
                values = [len(outputs) * penalty.value(context) for penalty in penalties]
                charged = torch.stack(values).sum() if values else None
            loss.add(total, float(units), retain_graph=charged is not None)
            if charged is not None:
                functional.add(charged, len(outputs))
        if loss.count == 0:
            raise DataError("There is no example to judge the model by: the data are empty, or all targets are masked.")
        return loss, functional, batches

    def _outputs(self, batch: Any) -> tuple[Any, Tensor | None]:
        """The outputs, and the inputs where a penalty differentiates by them."""
        if self.forward is not None:
            if self._differentiates:
                raise InputError("A penalty that differentiates by the inputs cannot be judged with forward=.")
            return self.forward(self.net, batch), None
        inputs = split_batch(batch)[0]
        if not self._differentiates:
            return self.call(self.net, inputs), None
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError("A penalty that differentiates by the inputs needs one floating tensor of inputs.")
        inputs = inputs.detach().requires_grad_()
        return self.call(self.net, inputs), inputs


@dataclass
class _Mean:
    """A mean that is added up batch by batch, with its gradient by ``params``."""

    params: Sequence[Tensor]
    total: float = 0.0
    count: float = 0.0
    slopes: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slopes = [torch.zeros_like(p) for p in self.params]

    def add(self, total: Tensor, count: float, retain_graph: bool = False) -> None:
        if self.params and total.requires_grad:
            found = torch.autograd.grad(total, self.params, allow_unused=True, retain_graph=retain_graph)
            for slope, grad in zip(self.slopes, found, strict=True):
                if grad is not None:
                    slope.add_(grad)
        self.total, self.count = self.total + float(total.detach()), self.count + count

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def gradient(self) -> list[Tensor]:
        return [slope / self.count if self.count else slope for slope in self.slopes]


@dataclass(frozen=True)
class BatchList:
    """Batches that can be gone through again and again, taken as they are: a plain list could be one of examples."""

    batches: Sequence[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def all_rows(data: Any, dtype: torch.dtype) -> Batches:
    """A way to go through all rows again and again, from what a person gave.

    Arrays of numbers take the model's precision, which a `Source` would not keep; other data are left as they are.
    """
    arrays = isinstance(data, (tuple, list)) and len(data) == 2 and len(getattr(data[0], "shape", ())) >= 2
    if arrays or type(data) is TensorDataset:
        return _chunks([_array(part, dtype) for part in (data if arrays else data.tensors)])
    if hasattr(data, "__next__"):
        data = list(data)
    if isinstance(data, (tuple, list)) and not data:
        raise DataError("There is no example to judge the model by: the data are empty.")
    if hasattr(data, "__iter__") and not hasattr(data, "__getitem__") and not isinstance(data, DataLoader):
        return lambda: data  # an iterable of batches of its own
    side = sides_of(data)[0]
    return lambda: side.batches(torch.arange(side.size))


def _array(value: Any, dtype: torch.dtype) -> Tensor:
    """Floating numbers in the model's precision, labels as they are."""
    tensor = real_numbers(value, "Data", "Give (X, y) as arrays of numbers.")
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _chunks(parts: Sequence[Tensor]) -> Batches:
    if len({len(part) for part in parts}) > 1:
        sizes = " and ".join(str(len(part)) for part in parts)
        raise DataError(f"Inputs and targets must have equally many rows; they have {sizes}.")
    return lambda: zip(*(torch.split(part, BATCH) for part in parts), strict=True)
