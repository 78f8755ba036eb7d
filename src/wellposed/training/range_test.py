"""`lr_range_test`: how the loss falls while the learning rate rises; afterwards everything is as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from wellposed.core.batches import mapped
from wellposed.core.checks import Positive, Seed, Within, checked
from wellposed.core.errors import DataError, InputError, guard_call
from wellposed.core.preserve import buffers_kept, generators_kept, modes_kept, reached
from wellposed.core.random import seeded
from wellposed.data.arrays import split_batch, to_device
from wellposed.losses.per_example import Loss
from wellposed.noise.gradient_noise import GradientNoise
from wellposed.noise.hooks import hooked
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import Wrapper, find_wrapper, needs_its_optimizer, unwrap_optimizer
from wellposed.training.device import device_of
from wellposed.training.evaluate import call

DIVERGED = 4.0
"""The test ends where the smoothed loss exceeds this many times its minimum: beyond, nothing is learned but time lost."""
FEWEST = 5
"""With fewer losses a slope is noise."""
SURE = 3.0
"""A fall counts if it is so many standard errors steep: about the largest of the hundred slopes of noise alone."""


@dataclass(frozen=True)
class RangeTest:
    """A learning rate for each step, the loss before that step, the smoothed loss, and a rate to start from.

    Attributes:
        suggestion: where the smoothed loss falls fastest against the logarithm of the rate; NaN if it nowhere falls by
            more than its noise allows, as at the optimum.
        stopped: ``"high"`` if the highest rate was reached, or ``"diverged"``.
        noise: standard deviation of one loss around the curve.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    stopped: str
    noise: float = 0.0

    def __str__(self) -> str:
        if not self.losses:
            return "RangeTest: the loss is not finite before the first step; nothing can be said."
        best = min(range(len(self.smoothed)), key=self.smoothed.__getitem__)
        reached = f"{self.rates[0]:.2g} to {self.rates[-1]:.2g}, {len(self.rates)} steps"
        end = "where the loss diverged" if self.stopped == "diverged" else "the highest rate asked for"
        if math.isnan(self.suggestion) and self.noise > 0:
            advice = (
                f"no fall of the loss stands out from its noise of {self.noise:.2g}: take more steps or larger batches, "
                "raise high, or there is nothing left to learn"
            )
        elif math.isnan(self.suggestion):
            advice = "the loss falls at no rate: raise high, check the data, or take more steps"
        else:
            advice = f"steepest fall at {self.suggestion:.2g}, lowest loss at {self.rates[best]:.2g}"
        return (
            f"RangeTest: {advice}\n  rates {reached}, up to {end}\n"
            f"  loss {self.smoothed[0]:.4g} at first, {self.smoothed[best]:.4g} at best, {self.smoothed[-1]:.4g} at last"
        )


DRAWING = ("generator", "sampler", "batch_sampler", "dataset", "collate_fn")
"""Parts of a loader that may draw."""


@checked
def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Any,
    data: Any,
    low: Positive = 1e-7,
    high: Positive = 10.0,
    steps: Annotated[int, Within(FEWEST)] = 100,
    smooth: Annotated[float, Within(0, 1, open="high")] = 0.05,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    target: Callable[[Any], Any] | None = None,
    seed: Seed = 0,
) -> RangeTest:
    """Train for some steps at rates ``low * (high/low)^(i/(steps - 1))`` and watch the loss; then undo all of it.

    Afterwards weights, buffers, gradients, modes, the optimizer's groups and state, random states, and the loader are as
    they were, also after an exception: the training that follows is bit for bit that without the test.

    Args:
        model: any ``nn.Module``; trained in training mode if it is not in it already.
        optimizer: any but LBFGS; a regularized one too, whose terms in the loss are added. Groups keep the ratios of their
            rates; the largest is the one that is swept.
        loss, forward, target: as for `watch`.
        data: a DataLoader, or batches that can be gone through again and again: ``(inputs, target)`` or mappings. A
            loader's workers are not used.
        low, high: 0 < low < high, the first and the last rate.
        steps: >= 5.
        smooth: in [0, 1), the width of the smoothing as a share of the steps. 0 does not smooth.
        seed: of the order of the batches and of dropout.
    Returns:
        A `RangeTest`, whose suggestion is a place to start a search from, not its end.
    Raises:
        InputError, DataError: something given cannot be used.
    Source:
        Smith (2017), WACV, 1506.01186.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x = torch.nn.Linear(3, 1), torch.randn(64, 3)
        >>> found = wp.lr_range_test(net, torch.optim.SGD(net.parameters(), lr=0.1), "squared_error", [(x, x[:, :1])])
        >>> 1e-7 < found.suggestion < 10
        True
    """
    _check(model, optimizer, data, low, high)
    criterion = Loss(loss)
    outputs_of = guard_call(
        "forward=" if forward else "The model", forward or (lambda net, batch: call(net, split_batch(batch)[0]))
    )
    target_of = guard_call("target=", target or (lambda batch: split_batch(batch)[1]))

    def cost(batch: Any) -> Tensor:
        outputs = outputs_of(model, batch)
        found = criterion.mean(outputs, target_of(batch)) + _terms(optimizer, outputs)
        if not found.requires_grad:
            raise InputError("The loss has no gradient: it does not depend on any weight of the model that is trained.")
        return found

    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    losses: list[float] = []
    stopped = "high"
    width = smooth * steps
    with (
        modes_kept(model),
        buffers_kept(model),
        parameters_kept(model, optimizer),
        optimizer_kept(optimizer),
        generators_kept(reached(*(getattr(data, part, None) for part in DRAWING), data, model)),
        noise_kept(model, optimizer),
        seeded(seed, "range_test"),
        torch.enable_grad(),
    ):
        if not model.training:
            model.train()
        ratios = _ratios(optimizer)
        device = device_of(model)
        for rate, batch in zip(rates, endless(data), strict=False):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * ratio)
                else:
                    group["lr"] = rate * ratio
            optimizer.zero_grad()
            value = cost(to_device(batch, device))
            number = float(value.detach())
            smoothed = _trailing([*losses, number], width)
            exceeds = len(smoothed) >= 2 and min(smoothed) > 0 and smoothed[-1] > DIVERGED * min(smoothed)
            if not math.isfinite(number) or exceeds:  # the smoothed loss has left its minimum for good
                stopped = "diverged"
                break
            losses.append(number)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _result(rates, losses, width, stopped)


def _check(model: nn.Module, optimizer: Optimizer, data: Any, low: float, high: float) -> None:
    needs_its_optimizer("lr_range_test", model, optimizer)
    if isinstance(unwrap_optimizer(optimizer), torch.optim.LBFGS):
        raise InputError("LBFGS takes many steps in one, so a range test says nothing; lr=1 is its natural rate.")
    if not low < high:
        raise InputError(f"lr_range_test needs 0 < low < high; it was given low={low!r}, high={high!r}.")
    if hasattr(data, "__next__") or not isinstance(data, Iterable) or getattr(data, "ndim", 1) == 0:
        raise DataError(
            f"lr_range_test goes through the data again and again, which a {type(data).__name__} does not allow. "
            "Give a DataLoader or a list of batches."
        )
    if isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset):
        raise DataError(
            "A loader over an iterable Dataset cannot be put back to where it was; give a list of some of its batches, "
            "such as list(itertools.islice(loader, 100))."
        )


def _terms(optimizer: Optimizer, outputs: Any) -> Tensor | float:
    regularized = find_wrapper(optimizer, Regularized)
    if regularized is None or not any(term.how == "loss" for term in regularized.terms):
        return 0.0
    return regularized.penalty(outputs if isinstance(outputs, Tensor) else None)


def endless(data: Any) -> Iterator[Any]:
    """Batches, again and again; of a loader without touching the loader itself."""
    while True:
        count = 0
        for batch in _loaded(data) if isinstance(data, DataLoader) else data:
            count += 1
            yield batch
        if not count:
            raise DataError("The data are empty: there is no batch.")


def _loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """What the loader would give, in this process: asking it would use up its generator and restart its workers."""
    dataset, collate = loader.dataset, loader.collate_fn
    if loader.batch_sampler is None:
        yield from (collate(dataset[index]) for index in loader.sampler)
        return
    for index in loader.batch_sampler:
        yield collate(dataset.__getitems__(index) if hasattr(dataset, "__getitems__") else [dataset[i] for i in index])


def _ratios(optimizer: Optimizer) -> list[float]:
    """Each group's rate in units of the largest; 1 where all are 0, as before a warmup."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    largest = max(rates)
    return [rate / largest for rate in rates] if largest > 0 else [1.0] * len(rates)


def _trailing(losses: list[float], width: float) -> list[float]:
    """Exponential average of the losses so far, corrected for its start."""
    kept = width / (1.0 + width)
    found, total, weight = [], 0.0, 0.0
    for value in losses:
        total, weight = kept * total + value, kept * weight + 1.0
        found.append(total / weight)
    return found


def _centering(count: int, width: float) -> np.ndarray:
    """Averages over both sides, so that the curve is not shifted to higher rates: a row of weights for each step."""
    kept = width / (1.0 + width)
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    weights: np.ndarray = (kept if kept else 1e-300) ** distance
    weights /= weights.sum(1, keepdims=True)
    return weights


def _noise(losses: np.ndarray, smoothed: np.ndarray) -> float:
    """Of one loss, up to the minimum of the curve (or half of it): each loss less the mean of its two neighbours, which
    any straight line leaves at 0, has 3/2 of the variance (Gasser, Sroka & Jennen-Steinmetz (1986), Biometrika 73)."""
    last = max(int(smoothed.argmin()), len(losses) // 2, 2)
    seen = losses[: last + 1]
    return float(np.sqrt(np.mean((seen[1:-1] - (seen[:-2] + seen[2:]) / 2) ** 2) / 1.5))


def _result(rates: list[float], losses: list[float], width: float, stopped: str) -> RangeTest:
    seen = rates[: len(losses)]
    values, weights = np.array(losses), _centering(len(losses), width)
    smoothed = weights @ values
    suggestion, noise = math.nan, 0.0
    if len(losses) >= 3:
        noise = _noise(values, smoothed)
        # Rates are evenly spaced in their logarithm, so differences are slopes. At the ends, which have one side only,
        # fewer losses are averaged, and a slope must be steeper to count.
        slopes = smoothed[2:] - smoothed[:-2]
        error = noise * np.linalg.norm(weights[2:] - weights[:-2], axis=1)
        sure = np.where(slopes < -SURE * error, slopes, 0.0)
        if sure.min() < 0:
            suggestion = seen[int(sure.argmin()) + 1]
    return RangeTest(tuple(seen), tuple(losses), tuple(map(float, smoothed)), suggestion, stopped, noise)


@contextmanager
def parameters_kept(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Parameters, bit for bit, which of them are trained, and their gradients, the tensors themselves."""
    found = {id(p): p for p in model.parameters()}
    found |= {id(p): p for group in optimizer.param_groups for p in group["params"]}  # a loss may have weights
    kept = [(p, p.requires_grad, p.detach().clone(), p.grad) for p in found.values()]
    for parameter, *_ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, trained, values, gradient in kept:
                parameter.copy_(values)
                parameter.requires_grad_(trained)
                parameter.grad = gradient


@contextmanager
def optimizer_kept(optimizer: Optimizer) -> Iterator[None]:
    """Groups, state (none where there was none) and counters: of the optimizer, and of each wrapper around it.

    Not by the optimizer's own ``load_state_dict``, which puts new groups in place of those that others hold, and casts
    the state to the weights' precision.
    """
    *wrappers, own = _chain(optimizer)
    counters = [
        copy.deepcopy(
            {name: value for name, value in one.state_dict().items() if name not in ("state", "param_groups")}
        )
        for one in wrappers
    ]
    groups, state = own.param_groups, own.state
    kept = [(held, dict(held), _copied(held)) for held in (*groups, *state.values())]
    entries = dict(state)
    attributes = [(one, _plain_attributes(one)) for one in (*wrappers, own)]
    try:
        yield
    finally:
        with torch.no_grad():
            for wrapper, counts in reversed(list(zip(wrappers, counters, strict=True))):
                wrapper.load_state_dict({**wrapper.state_dict(), **counts})
            own.param_groups, own.state = groups, state
            state.clear()
            state.update(entries)
            for held, olds, values in kept:
                held.clear()
                held.update({name: _put_back(olds[name], value) for name, value in values.items()})
        for one, before in attributes:
            for name in _plain_attributes(one).keys() - before.keys():  # a scheduler marks that a step was taken
                delattr(one, name)
            vars(one).update(before)


def _chain(optimizer: Optimizer) -> list[Optimizer]:
    """An optimizer and those that it wraps, from outside in."""
    return [optimizer, *_chain(optimizer.optimizer)] if isinstance(optimizer, Wrapper) else [optimizer]


def _copied(value: Any) -> Any:
    """A copy down to tensors, of what an optimizer keeps; parameters stay themselves."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, nn.Parameter):
            return leaf
        return leaf.detach().clone() if isinstance(leaf, Tensor) else copy.copy(leaf)

    return mapped(one, value)


def _put_back(old: Any, values: Any) -> Any:
    """The tensor ``old`` itself, holding ``values`` again."""
    if isinstance(old, Tensor) and isinstance(values, Tensor) and not isinstance(old, nn.Parameter):
        return old.copy_(values)
    return values


def _plain_attributes(one: object) -> dict[str, Any]:
    """Counters and flags that an optimizer keeps beside its state."""
    return {name: value for name, value in vars(one).items() if isinstance(value, (int, float, str, type(None)))}


@contextmanager
def noise_kept(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Where the draws are of `perturb`, `ManifoldMixup` and each `GradientNoise` that the optimizer, or a wrapper of it, calls."""
    parts: list[Any] = [p for noise in hooked(model) for p in (noise, noise._streams, *getattr(noise, "sites", ()))]
    hooks = [hook for one in _chain(optimizer) for hook in getattr(one, "_optimizer_step_pre_hooks", {}).values()]
    hooks += [getattr(hook, "__self__", None) for hook in hooks]
    parts += [hook for hook in hooks if isinstance(hook, GradientNoise)]
    kept = [
        (part, {k: copy.copy(value) if isinstance(value, (list, dict)) else value for k, value in vars(part).items()})
        for part in parts
    ]
    try:
        yield
    finally:
        for part, values in kept:
            vars(part).update(values)
