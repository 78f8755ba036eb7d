"""Which loss a callable is, found by calling it: a function, a module and a lambda around either are one loss.

What is known of a loss (its best constant prediction, its metric, which outputs fit it) must not depend on how it is spelled.
A callable is taken for a known loss if both give the same mean on a batch's outputs as they are, with the rows in another
order, halved, and disturbed; one that is a cross-entropy of probabilities keeps its own formula.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wellposed.core.preserve import reach_kept
from wellposed.core.random import seeded
from wellposed.losses.per_example import BY_HAND, TORCH, Loss, losses_by_name

CLOSE = 1e-4
"""Relative difference of two means that are the same formula in single precision."""
SLACK = 1e-4
"""By how much shares of a row may miss a sum of 1."""


def recognized(loss: Loss, outputs: Any, target: Any) -> Loss:
    """The known loss that a callable computes, by ``outputs`` and ``target`` of a few rows; the callable's own `Loss` where it is
    none, or keeps something of its own.
    """
    given = loss.given
    keeps = isinstance(given, nn.Module) and bool(
        [*given.parameters(), *given.buffers()]
    )  # centers, class weights, counts
    plain = (
        isinstance(outputs, Tensor) and isinstance(target, Tensor) and outputs.is_floating_point() and len(outputs) > 1
    )
    if loss.criterion is not None or loss.known is not None or keeps or not plain:
        return loss
    with torch.no_grad(), reach_kept(given), seeded(0, "recognized"):
        tried = [outputs, outputs.roll(1, 0), 0.5 * outputs, outputs + torch.randn_like(outputs)]
        wanted = {at: mean for at, one in enumerate(tried) if (mean := _mean(loss, one, target)) is not None}
        loss.blind = len(wanted) == len(tried) and len(set(wanted.values())) == 1 and _is_blind(loss, outputs, target)
        by_hand = _of_shares(loss, outputs, target)
        if len(set(wanted.values())) < 2 or (by_hand is not None and by_hand.breaks):
            return by_hand or loss  # what stands in for it would be finite
        for candidate in _candidates(target):
            if all(_close(_mean(candidate, tried[at], target), mean) for at, mean in wanted.items()):
                return candidate
        return _smoothed(tried, wanted, target) or by_hand or loss


def _mean(loss: Loss, outputs: Tensor, target: Tensor) -> float | None:
    """The mean; None where the loss does not take these outputs, or its value is not finite."""
    with suppress(Exception):  # the user's own, of outputs that are made up
        mean = loss.mean(outputs, target)
        return float(mean) if bool(torch.isfinite(mean)) else None
    return None


def _is_blind(loss: Loss, outputs: Tensor, target: Tensor) -> bool:
    """Whether outputs far away, beside which no target is large, cost the same: a loss may rest, or round small changes off."""
    size = 100 * (1 + float(target.abs().max())) if target.is_floating_point() and target.numel() else 100.0
    far = (-10 * outputs, size * torch.randn_like(outputs), -size * outputs.sign())
    return len({_mean(loss, one, target) for one in (outputs, *far)}) == 1


def _close(one: float | None, other: float) -> bool:
    return one is not None and abs(one - other) <= CLOSE * max(abs(one), abs(other))


def _candidates(target: Tensor) -> Iterator[Loss]:
    """Every loss of ours and of torch, with each class index that may be left out."""
    for ours in dict.fromkeys(losses_by_name().values()):
        yield Loss(ours())
    for module, known in TORCH.items():
        if known.ends_in is not None or known.same is None:
            yield Loss(module())
    for ignored in _left_out(target):
        yield from (Loss(module(ignore_index=ignored)) for module in (nn.CrossEntropyLoss, nn.NLLLoss))


def _left_out(target: Tensor) -> list[int]:
    """Labels that may mark what does not count: below 0, the most frequent, the largest."""
    if target.is_floating_point() or not target.numel():
        return []
    labels = torch.unique(target)
    return sorted({*labels[labels < 0].tolist()[:2], int(target.flatten().mode().values), int(labels[-1])})


def _of_shares(loss: Loss, outputs: Tensor, target: Tensor) -> Loss | None:
    """A cross-entropy of probabilities that somebody wrote, times any constant: compared on probabilities that are made up, since
    the outputs of a network that ends in the wrong activation are none."""
    rows, classes = len(outputs), outputs.numel() // len(outputs)
    if outputs.ndim > 2 or not target.ndim or not target.numel() or target.is_complex() or len(target) != rows:
        return None
    wide = target.is_floating_point() and target.shape == outputs.shape
    indices = (
        target.ndim == 1 and not target.is_floating_point() and 0 <= int(target.min()) <= int(target.max()) < classes
    )
    if not (wide or indices) or (wide and not target.any()):
        return None
    y = (target if wide else nn.functional.one_hot(target.long(), classes)).reshape(rows, -1).double()
    kinds: tuple[Literal["binary", "classes"], ...] = ("binary", "classes") if wide else ("classes",)
    for kind in kinds:
        ratios = []
        for _ in range(3):
            p = 0.1 + 0.8 * torch.rand_like(y)
            p = p / p.sum(1, keepdim=True) if kind == "classes" else p
            cost = -(y * p.log() + ((1 - y) * (1 - p).log() if kind == "binary" else 0)).sum()
            mean = _mean(loss, p.reshape(outputs.shape).to(outputs), target)
            ratios.append(0.0 if mean is None or not cost else mean / float(cost))
        if ratios[0] > 0 and all(_close(one, ratios[0]) for one in ratios):
            loss.of_shares, loss.breaks = kind, _mean(loss, (1 - y).reshape(outputs.shape).to(outputs), target) is None
            sums = y.sum(1)
            fits = (y <= 1) if kind == "binary" else ((sums - 1).abs() < SLACK) | (sums.abs() < SLACK)
            if not bool((y >= 0).all() and fits.all()):
                return None  # counts, or rows that weigh more or less: its metric and its constant are others
            found = copy.copy(loss)
            found.known = BY_HAND[kind]
            found.same = found.known.same() if found.known.same is not None else None
            return found
    return None


def _smoothed(tried: list[Tensor], wanted: dict[int, float], target: Tensor) -> Loss | None:
    """Cross-entropy with smoothed labels, which is linear in the amount: the first batch gives it, the others prove it."""
    make: Callable[[float], Loss] = lambda amount: Loss(nn.CrossEntropyLoss(label_smoothing=amount))  # noqa: E731
    at = min(wanted)
    none, all_of_it = (_mean(make(amount), tried[at], target) for amount in (0.0, 1.0))
    if none is None or all_of_it is None or none == all_of_it:
        return None
    amount = (wanted[at] - none) / (all_of_it - none)
    if not 1e-4 < amount < 1.0:
        return None
    found = make(amount)
    same = all(_close(_mean(found, tried[at], target), mean) for at, mean in wanted.items())
    return found if same else None
