"""Ground truths: what fresh rows and a training without the fault say, apart from any rule of diagnosis.

Each returns an empty string where it holds, else what speaks against it. Losses are compared on a scale on which 0 is what
is reached without the fault and 1 is the best constant prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from benchmarks.planted.training import END, LOSSES, Training
from torch import Tensor, nn

CLEAR = 0.1
"""A fault took effect where it lost a tenth of what can be gained over a constant prediction."""
HARMLESS = 0.03
"""Nothing is lost below this share: a third of what is called clear."""


def first(*said: str) -> str:
    """The first objection."""
    return next((sentence for sentence in said if sentence), "")


def lost(fault: Training, mended: Training) -> float:
    """The share of what can be gained over a constant prediction that the fault lost, on fresh rows."""
    constant, reached = mended.trace.constant, mended.trace.end()
    return (fault.trace.end() - reached) / max(constant - reached, 1e-9)


def worse(fault: Training, mended: Training, least: float = CLEAR) -> str:
    """Without the fault the fresh loss is clearly lower."""
    if mended.trace.end() > 0.95 * mended.trace.constant:
        return "the training without the fault learns nothing either"
    share = lost(fault, mended)
    return "" if share >= least else f"the fault lost {share:.2f} of what can be gained"


def no_better(run: Training, other: Training, most: float = HARMLESS) -> str:
    """The other training would not be clearly better than this one."""
    here, there, constant = run.trace.end(), other.trace.end(), run.trace.constant
    gained = here - there
    small = gained <= most * constant and (gained <= 0.25 * here or gained <= 0.01 * constant)
    return "" if small else f"another training lowers the fresh loss from {here:.3g} to {there:.3g}"


def risen(run: Training) -> float:
    """How far the fresh loss is above its lowest."""
    return run.trace.end() - run.trace.fresh[run.trace.best]


def rises(run: Training) -> str:
    """Going on made the fresh loss worse: by a tenth, by a twentieth of the gain, and by five standard errors."""
    trace, rise = run.trace, risen(run)
    low = trace.fresh[trace.best]
    difference = trace.rows[-1] - trace.rows[trace.best]
    noise = float(difference.std()) / math.sqrt(len(difference))
    enough = rise >= 0.1 * low and rise >= 0.05 * (trace.constant - low) and rise >= 5 * noise
    return "" if enough else f"the fresh loss rises from {low:.3g} to {trace.end():.3g} only"


def does_not_rise(run: Training) -> str:
    """Going on did no harm: a rise below 3 % of the loss or 1 % of the gain."""
    trace, rise = run.trace, risen(run)
    low = trace.fresh[trace.best]
    small = rise <= HARMLESS * low or rise <= 0.01 * (trace.constant - low)
    return "" if small else f"the fresh loss rises from {low:.3g} to {trace.end():.3g}"


def error_rose(run: Training) -> float:
    """How far the fresh error at the end is above its lowest, both over as many epochs."""
    errors = run.trace.error
    lowest = min(sum(errors[i : i + END]) for i in range(len(errors) - END + 1)) / END
    return run.trace.end("error") - lowest


def error_rises(run: Training) -> str:
    """Together with the loss, the fresh error rises by at least a point."""
    return "" if error_rose(run) >= 0.01 else f"the fresh error changes by {error_rose(run):.3f}"


def error_does_not_rise(run: Training) -> str:
    """The fresh error at the end is less than a point above that at the lowest fresh loss, and at most 1.5 points above its
    lowest of all epochs, which is that low by chance too."""
    since = run.trace.end("error") - run.trace.error[run.trace.best]
    calm = since < 0.01 and error_rose(run) <= 0.015
    return "" if calm else f"the fresh error rises by {max(since, error_rose(run)):.3f}"


def gap(run: Training) -> float:
    """Fresh loss less training loss at the end, as a share of the constant prediction's."""
    return (run.trace.end() - run.trace.end("train")) / run.trace.constant


def hardly_a_gap(run: Training, most: float = 0.1) -> str:
    """The gap is below a tenth of the constant prediction's loss."""
    return "" if gap(run) <= most else f"there is a gap of {gap(run):.2f}"


def still_falls(run: Training) -> str:
    """Training and fresh loss fell over the last third by at least a twentieth of what was gained so far."""
    for side in ("train", "fresh"):
        values = getattr(run.trace, side)
        fell = values[-1 - max(2, len(values) // 3)] - values[-1]
        if fell < 0.05 * (run.trace.constant - values[-1]):
            return f"the {side} loss hardly falls any more"
    return ""


def at_rest(run: Training) -> str:
    """The training loss fell by less than 3 % of its gain over the last quarter."""
    values, part = run.trace.train, max(2, len(run.trace.train) // 8)
    before, after = sum(values[-2 * part : -part]) / part, sum(values[-part:]) / part
    share = (before - after) / max(run.trace.constant - after, 1e-9)
    return "" if share <= HARMLESS else f"the training loss still fell by {share:.3f} of its gain"


def swing(run: Training, side: str = "train") -> float:
    """Mean change from epoch to epoch over the last half, less the trend, as a share of the gain."""
    values = getattr(run.trace, side)[len(run.trace.train) // 2 :]
    steps = [b - a for a, b in pairwise(values)]
    trend = sum(steps) / len(steps)
    return sum(abs(step - trend) for step in steps) / len(steps) / max(run.trace.constant - min(values), 1e-9)


def swings(run: Training) -> str:
    """The training loss changes by a twentieth of its gain from epoch to epoch."""
    return "" if swing(run) >= 0.05 else f"the training loss swings by {swing(run):.3f} of its gain only"


def healthy(run: Training, *others: Training, learned: float = 0.5) -> str:
    """Nothing is wrong: half of the constant prediction's loss is gone, the fresh loss does not rise, the gap is small, training
    is at rest without swings, and neither twice the epochs nor the others given would be clearly better."""
    trace = run.trace
    share = 1 - trace.end() / trace.constant
    rivals = [run.but(epochs=2 * run.epochs), *others]
    return first(
        "" if share >= learned else f"only {share:.2f} of the constant prediction's loss is gone",
        does_not_rise(run), hardly_a_gap(run), at_rest(run),
        "" if swing(run) <= HARMLESS else f"the training loss swings by {swing(run):.3f} of its gain",
        *(no_better(run, rival) for rival in rivals),
    )  # fmt: skip


def leaves_the_numbers(run: Training) -> str:
    """The training loss is no number at the end, or ten times the constant prediction's and more."""
    end = run.trace.end("train")
    return "" if not math.isfinite(end) or end > 10 * run.trace.constant else f"the training loss ends at {end:.3g}"


def learns_nothing(run: Training) -> str:
    """The lowest training loss is within 2 % of the constant prediction's."""
    low = min(run.trace.train)
    return "" if low > 0.98 * run.trace.constant else f"the training loss gets to {low:.3g}"


def gradients(net: nn.Module, run: Training) -> list[float]:
    """Norm of the gradient of each weight matrix, from the first layer to the last, on 200 training rows."""
    x, y = (part[:200] for part in run.data.train)
    net.zero_grad()
    LOSSES[run.loss](net(x), y).backward()
    norms = [float(p.grad.norm()) for p in net.parameters() if p.ndim > 1 and p.grad is not None]
    net.zero_grad()
    return norms


def dead_share(net: nn.Module, x: Tensor) -> float:
    """The share of ReLU units that are 0 on every row; channels of images over all places."""
    dead, units = 0, 0
    found: list[Tensor] = []
    hooks = [
        m.register_forward_hook(lambda _m, _i, out: found.append(out)) for m in net.modules() if isinstance(m, nn.ReLU)
    ]
    training = net.training
    net.eval()
    with torch.no_grad():
        net(x)
    net.train(training)
    for hook in hooks:
        hook.remove()
    for out in found:
        alive = (out > 0).transpose(0, 1).flatten(1).any(1)
        dead, units = dead + int((~alive).sum()), units + len(alive)
    return dead / max(units, 1)


def holds(fact: bool | Callable[[], bool], otherwise: str) -> str:
    """A fact by construction or measurement."""
    return "" if (fact() if callable(fact) else fact) else otherwise
