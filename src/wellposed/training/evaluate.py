"""Like-for-like evaluation: given weights, evaluation mode, clean rows, no penalty; nothing else is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.core.batches import cat_padded, examples_in
from wellposed.core.clock import EVALUATION, spent_on
from wellposed.core.errors import noting
from wellposed.core.preserve import random_states_kept, reach_kept
from wellposed.core.random import seeded
from wellposed.data.arrays import Source, to_device
from wellposed.losses.per_example import Loss, MeanLoss, PerExample, mean_loss, mean_losses
from wellposed.losses.score import Score
from wellposed.losses.targets import joined_targets

Forward = Callable[[nn.Module, Any], Any]
BATCH = 1024
"""Rows evaluated at once: large enough to be fast, small enough for any device."""
KEPT_OUTPUTS = 2**27
"""Outputs are kept for the metric up to this many numbers; beyond, the metric is left out."""


def call(model: nn.Module, inputs: Any) -> Any:
    """``model(inputs)``, ``model(*inputs)`` or ``model(**inputs)`` by what inputs are; ``.logits`` is taken out."""
    if isinstance(inputs, dict):
        outputs = model(**inputs)
    elif isinstance(inputs, tuple) and not isinstance(inputs, nn.utils.rnn.PackedSequence):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    return outputs.logits if hasattr(outputs, "logits") else outputs


@contextmanager
def evaluating(model: nn.Module, *code: object, weights: bool = False) -> Iterator[None]:
    """Evaluation mode, own random state, and no gradients but where a `Loss` needs derivatives; all that the model, and ``code``
    that is called beside it, reach comes back as it was (`reach_kept`); ``weights`` too, which what is inside may otherwise move.
    """
    derived = any(isinstance(one, Loss) and one.derived for one in code)
    with (
        random_states_kept(),
        reach_kept(model, *code, training=False, weights=weights),
        torch.set_grad_enabled(derived),
    ):
        yield


@dataclass(frozen=True)
class Evaluation:
    """Loss with its standard error and each row's part; the metric and each row's part, where there is one."""

    loss: MeanLoss
    metric: float
    metric_rows: Tensor | None


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss,
    metric: Score | None,
    *,
    device: torch.device,
    forward: Forward = call,
    weights: list[Tensor] | None = None,
    by_row: bool = False,
    restores: bool = False,
) -> Evaluation:
    """Evaluate on batches of ``(inputs, target)``; a metric that is not defined on the targets is NaN without rows.

    ``by_row``: each row's part of the metric is needed, also where it costs more than the score. ``restores``: weights that the
    forward of somebody's own loop moves by itself come back, for the price of a copy.
    """
    parts: list[PerExample] = []
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    kept = 0
    with spent_on(EVALUATION), evaluating(model, forward, loss, weights=restores):
        for inputs, target in batches:
            inputs, target = to_device(inputs, device), to_device(target, device)
            with noting("the model in evaluation mode", inputs):
                predicted = forward(model, inputs)
            parts.append(loss.per_example(predicted, target).of_examples(examples_in(inputs)))
            if metric is not None and isinstance(predicted, Tensor) and isinstance(target, Tensor):
                kept += predicted.numel()
                if kept <= KEPT_OUTPUTS:
                    outputs.append(metric.read(loss, predicted.detach().float()).cpu())
                    targets.append(loss.marked(target.detach()).cpu())
    measured = mean_loss(parts, weights)
    if metric is None or not outputs or kept > KEPT_OUTPUTS:
        return Evaluation(measured, float("nan"), None)
    target, weight = joined_targets(targets), None if weights is None else torch.cat(weights).cpu()
    if target is None or metric.undefined(target, weight):
        return Evaluation(measured, float("nan"), None)
    together = cat_padded(outputs, 0.0)
    with noting(f"the metric {metric.name!r}", together, target):
        rows = (metric.rows if by_row else metric.at_once)(together, target, weight)
    return Evaluation(measured, float(rows.mean()), rows)


def batches_of(source: Source, index: Tensor | None = None, size: int = BATCH) -> Iterator[tuple[Any, Any]]:
    index = torch.arange(len(source)) if index is None else index
    for start in range(0, len(index), size):
        yield source.batch(index[start : start + size])


class Probe:
    """A fixed set of rows that is evaluated again and again.

    Rows of arrays are gathered once; rows of a Dataset are fetched at each evaluation, under a fixed random state.
    """

    def __init__(self, source: Source, index: Tensor, device: torch.device) -> None:
        self.index, self.source = index, source
        self.weights = None if source.weight is None else [source.weight[index]]
        self._held: list[tuple[Any, Any]] | None = None
        if source.arrays is not None:
            self._held = [to_device(batch, device) for batch in batches_of(source, index)]

    def __len__(self) -> int:
        return len(self.index)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        yield from self._held or ()
        for part in torch.split(self.index, BATCH) if self._held is None else ():
            with seeded(0, "probe", int(part[0])):
                batch = self.source.batch(part)
            yield batch


def signed_rows(rows: Tensor, higher_is_better: bool) -> np.ndarray:
    """Each row's part of a metric with the sign that makes higher better."""
    values = rows.double().cpu().numpy()
    return values if higher_is_better else -values


def evaluations(
    outputs: Tensor, target: Tensor, loss: Loss, metric: Score | None, weights: list[Tensor] | None = None
) -> list[Evaluation]:
    """`evaluate` of several models on the same rows, from their outputs ``(models, rows, ...)`` and the target ``(rows, ...)``."""
    with torch.no_grad():
        losses = mean_losses(*loss.of_many(outputs, target), None if weights is None else torch.cat(weights))
        weight, known = None if weights is None else torch.cat(weights).cpu(), loss.marked(target).cpu()
        if metric is None or outputs[0].numel() > KEPT_OUTPUTS or metric.undefined(known, weight):
            return [Evaluation(one, float("nan"), None) for one in losses]
        predicted = metric.read(loss, outputs.float().flatten(0, 1)).cpu()
        predicted = predicted.view(*outputs.shape[:2], *predicted.shape[1:])
        with noting(f"the metric {metric.name!r}", predicted, known):
            scored = metric.rows_of_many(predicted, known, weight)
        means = scored.mean(1).tolist()
    return [Evaluation(one, mean, row) for one, mean, row in zip(losses, means, scored, strict=True)]
