"""What of a loss is due to which rows were drawn and which seed: estimates from repeated training, row by row.

    E loss(f) = loss(centre) + E [loss(f) - loss(centre)],    centre = E f

The centre is the mean of the outputs: under squared error the mean prediction, under cross-entropy on logits the normalized
geometric mean of the predicted probabilities. The second summand is the variance: ``E |f - centre|^2``, or
``E KL(centre || f)``. The loss at the mean of finitely many members is above that at the centre, by a term in ``1/R``: the
jackknife takes it away, under squared error all of it. ``docs/derivations/bias_variance.md`` has the proofs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wellposed.core.errors import InputError
from wellposed.losses.per_example import Loss
from wellposed.statistics.intervals import Array, crossed_interval
from wellposed.statistics.student import half_width

AT_ONCE = 2**22
"""Outputs whose losses are computed at once: 32 MB in double precision."""
FEWEST = 3
"""Resamples: without one, and without a second, there must still be one left."""
LEVEL = 0.95


@dataclass(frozen=True)
class VarianceComponent:
    """One summand: its estimate and 95 % interval over resamples and rows (and seeds, where they are crossed).

    Attributes:
        table: ``(rows, resamples)`` jackknife pseudo-values; of two recipes on the same resamples they are paired.
        over_seeds: ``(seeds,)`` pseudo-values, where at least three seeds are crossed with resamples; else empty.
    """

    estimate: float
    low: float
    high: float
    table: Array = field(repr=False, compare=False)
    over_seeds: Array = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


class RowLosses:
    """What each row adds to the loss of many members: ``(members, rows, ...)`` outputs to ``(members, rows)``, whose means over
    rows are the losses.

    Args:
        target: ``(rows, ...)``.
        weight: ``(rows,)`` >= 0, or None.
        like: ``(rows, ...)``, the outputs of one member.
    Raises:
        InputError: the loss does not say what each row adds to it.
    """

    def __init__(self, loss: Loss, target: Tensor, weight: Tensor | None, like: Tensor) -> None:
        self.loss, self.target = loss, target
        count = loss.per_example(like, target).count.double()
        if len(count) != len(target):
            raise InputError(
                f"A decomposition needs the loss of each row; {loss.name!r} gives one number for all of them. "
                "Use a loss with reduction='none'."
            )
        counted = count if weight is None else count * weight.double()
        size = counted.sum() / len(target)
        self.scale = (torch.ones_like(count) if weight is None else weight.double()) / size
        self.share: Array = np.asarray((counted / size).numpy())
        """How much each row counts; mean 1."""

    def __call__(self, outputs: Tensor) -> Array:
        step = max(1, AT_ONCE // max(1, outputs[0].numel()))
        totals = [self.loss.of_many(part, self.target)[0] for part in torch.split(outputs, step)]
        return np.asarray((torch.cat(totals).double() * self.scale).numpy())


# --- a quantity is an array (1 + resamples, rows): the estimate, and what it would be without each resample


def mean_of(each: Array) -> Array:
    """The mean over resamples of ``(resamples, rows)``, as a quantity."""
    count = len(each)
    mean = each.mean(0)
    return np.concatenate([mean[None], (count * mean - each) / (count - 1)])


def at_centre(members: Tensor, losses: RowLosses, left_out: bool = True) -> Array:
    """The loss at the expected output, jackknifed over ``members``, as a quantity.

    ``R loss(mean) - (R - 1) mean_r loss(mean without r)``: unbiased where the loss is a square of the outputs, else to the order
    ``1/R^2``.

    Args:
        members: ``(resamples, rows, ...)`` outputs, at least `FEWEST` (2 without leaving out).
        left_out: whether what it would be without each resample is wanted too.
    """
    count, total = len(members), members.sum(0)
    whole = losses((total / count)[None])[0]
    one = losses((total - members) / (count - 1))
    estimate: Array = (count * whole - (count - 1) * one.mean(0))[None]
    if not left_out:
        return estimate
    two = np.zeros_like(one)
    for r in range(count - 1):
        pairs = losses((total - members[r] - members[r + 1 :]) / (count - 2))
        two[r] += pairs.sum(0)
        two[r + 1 :] += pairs
    left = (count - 1) * one - (count - 2) * two / (count - 1)
    return np.concatenate([estimate, left])


def leave_out(members: Tensor, i: int) -> Tensor:
    """The members without the ``i``-th seed, their second axis."""
    return torch.cat([members[:, :i], members[:, i + 1 :]], dim=1)


def loss_over_seeds(outputs: Tensor, losses: RowLosses) -> Array:
    """The loss at the output expected over seeds, for each resample: ``(resamples, rows)``, jackknifed over seeds."""
    seeds = outputs.shape[1]
    whole = losses(outputs.mean(1))
    one = np.mean([losses(leave_out(outputs, s).mean(1)) for s in range(seeds)], axis=0)
    return np.asarray(seeds * whole - (seeds - 1) * one)


def nested_components(outputs: Tensor, losses: RowLosses) -> dict[str, Array]:
    """The parts where each resample has seeds of its own: ``loss = bias + data + seeds``.

    Args:
        outputs: ``(resamples, seeds, rows, ...)`` in double precision.
    """
    resamples, seeds = outputs.shape[:2]
    each = losses(outputs.flatten(0, 1)).reshape(resamples, seeds, -1)
    loss, bias = mean_of(each.mean(1)), at_centre(outputs.mean(1), losses)
    parts = {"loss": loss, "bias": bias, "variance": loss - bias}
    if seeds > 1:
        between = mean_of(loss_over_seeds(outputs, losses))
        parts |= {"data": between - bias, "seeds": loss - between}
    return parts


def crossed_components(outputs: Tensor, losses: RowLosses, left_out: bool = True) -> dict[str, Array]:
    """The parts where every resample has the same seeds, at least two: ``loss = bias + data + seeds + both``."""
    resamples, seeds = outputs.shape[:2]
    each = losses(outputs.flatten(0, 1)).reshape(resamples, seeds, -1)

    def centre(members: Tensor) -> Array:
        return at_centre(members, losses, left_out)

    whole = centre(outputs.mean(1))
    one = np.mean([centre(leave_out(outputs, s).mean(1)) for s in range(seeds)], axis=0)
    means = mean_of(each.mean(1)), mean_of(loss_over_seeds(outputs, losses))
    loss, by_data = means if left_out else (mean[:1] for mean in means)
    bias = seeds * whole - (seeds - 1) * one
    by_seeds = np.mean([centre(outputs[:, s]) for s in range(seeds)], axis=0)
    return {
        "loss": loss, "bias": bias, "variance": loss - bias, "data": by_data - bias, "seeds": by_seeds - bias,
        "both": loss - by_data - by_seeds + bias,
    }  # fmt: skip


def hits(outputs: Tensor, target: Tensor) -> dict[str, Array] | None:
    """The parts of 0-1 loss by Domingos: ``error = main + away - back``; None where outputs are no classes.

    ``main`` is the error of the most frequent prediction (of equally frequent ones the first class), ``away`` the rows on which
    that is right and a member is not, ``back`` those on which it is wrong and a member is right: there variance helps. The mode
    of finitely many members is no more than that: nothing is corrected for their number.

    Args:
        outputs: ``(resamples, seeds, rows, classes)``, or one logit of two classes.
        target: ``(rows,)`` class indices, or ``(rows,)`` or ``(rows, 1)`` of 0 and 1.
    Source:
        Domingos (2000), A unified bias-variance decomposition.
    """
    resamples = len(outputs)
    logits = outputs.reshape(*outputs.shape[:3], -1)
    labels = target.reshape(len(target), -1)
    if labels.shape[1] != 1 or outputs.ndim > 4 or (logits.shape[-1] > 1 and target.is_floating_point()):
        return None
    predicted = logits.argmax(-1) if logits.shape[-1] > 1 else (logits[..., 0] > 0).long()
    classes = max(2, logits.shape[-1])
    counts = torch.nn.functional.one_hot(predicted, classes).sum(1)  # (resamples, rows, classes)
    total = counts.sum(0)
    votes = torch.cat([total[None], total - counts]).double()
    true = labels[:, 0].long()
    right = votes.gather(-1, true.expand(resamples + 1, -1)[..., None])[..., 0] / votes.sum(-1)
    main = (votes.argmax(-1) != true).double()
    error = 1 - right
    found = {"error": error, "main": main, "away": (1 - main) * error, "back": main * right}
    return {name: np.asarray(values.numpy()) for name, values in found.items()}


# --- intervals


VARIANCES = ("variance", "data", "seeds", "both")


def part_of(
    quantity: Array, share: Array, over_seeds: Array | None = None, variance: bool = False
) -> VarianceComponent:
    """The estimate and its interval: pseudo-values of resamples and rows, which are crossed.

    A variance that is clearly above zero has its interval on the scale of its logarithm, since estimates of it by few
    resamples are skewed.

    Args:
        quantity: ``(1 + resamples, rows)``.
        share: ``(rows,)`` with mean 1, how much each row counts; the mean over rows is then a ratio, and is linearized.
        over_seeds: the estimate without each seed, where seeds are crossed; at least 3.
        variance: whether it is one.
    Source:
        Efron & Stein (1981) for the jackknife; Miller (1968) for the logarithm of a variance.
    """
    whole, left = quantity[0], quantity[1:]
    count = len(left)
    estimate = float(whole.mean())
    pseudo = count * whole - (count - 1) * left
    pseudo = pseudo - pseudo.mean(1, keepdims=True) * (share - 1)
    table = np.ascontiguousarray(pseudo.T)
    found = crossed_interval(table, LEVEL)
    several = 0 if over_seeds is None else len(over_seeds)
    seeds = several * estimate - (several - 1) * over_seeds if over_seeds is not None else np.empty(0)
    more = half_over(seeds, LEVEL)
    below, above = math.hypot(found.estimate - found.low, more), math.hypot(found.high - found.estimate, more)
    low, high = estimate - below, estimate + above
    if variance and estimate > max(below, above):
        low, high = estimate * math.exp(-below / estimate), estimate * math.exp(above / estimate)
    return VarianceComponent(estimate, low, high, table, seeds)


def half_over(seeds: Array, level: float) -> float:
    """Half the interval's width that crossed seeds add, by their pseudo-values; 0 of fewer than `FEWEST`."""
    return 0.0 if len(seeds) < FEWEST else half_width(seeds, level)


def decompose(outputs: Tensor, losses: RowLosses, crossing: bool) -> dict[str, VarianceComponent]:
    """Every part of the loss with its interval.

    Args:
        outputs: ``(resamples, seeds, rows, ...)``: at least `FEWEST` resamples.
        crossing: whether all resamples have the same seeds; of one seed all is said of that seed.
    """
    outputs = outputs.double()
    crossing, over = crossing and outputs.shape[1] > 1, dict[str, Array]()
    if crossing and outputs.shape[1] >= FEWEST:
        seeds = range(outputs.shape[1])
        others = [crossed_components(leave_out(outputs, s), losses, left_out=False) for s in seeds]
        over = {name: np.array([float(found[name].mean()) for found in others]) for name in others[0]}
    found = crossed_components(outputs, losses) if crossing else nested_components(outputs, losses)
    return {name: part_of(values, losses.share, over.get(name), name in VARIANCES) for name, values in found.items()}


def zero_one(outputs: Tensor, target: Tensor, share: Array) -> dict[str, VarianceComponent] | None:
    """The parts of 0-1 loss with their intervals, of the rows whose ``share`` of the loss is not 0: the others have no label;
    see `hits`."""
    kept = torch.from_numpy(np.flatnonzero(share))
    found = hits(outputs.index_select(2, kept), target[kept])
    if found is None:
        return None
    return {name: part_of(values, np.ones(len(kept))) for name, values in found.items()}
