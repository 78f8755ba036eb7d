"""`gap_split`: what the gap that a loop shows is made of.

    visible gap = V - logged        logged: the mean of the cost over an epoch of training, as loops print it

    logged  ->  training's cost at the weights of the epoch's end      moving weights
            ->  without penalty                                       penalty
            ->  without label smoothing                               smoothing
            ->  without mixing, augmentation and input noise          inputs
            ->  without dropout and other noise inside                dropout
            ->  batch norm by its running statistics                  batch norm
            ->  averaged weights                                      averaging
            ->  V, on validation rows                                 generalization

Each step takes away one thing that the one before still had, in this order; what it lowers the training cost by is what it hid
of the gap. The parts add up to the visible gap. `docs/error-budget.md` has the reasons for the order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from wellposed.core.batches import examples_in, examples_of
from wellposed.core.checks import checked
from wellposed.core.drawing import INK, VALID
from wellposed.core.errors import InputError, described, listed
from wellposed.core.preserve import reach_kept
from wellposed.core.random import seeded
from wellposed.decomposition import waterfall
from wellposed.decomposition.training_cost import (
    DRAWS,
    Mode,
    View,
    loss_as_trained,
    loss_parts,
    penalty_costs,
    set_mode,
)
from wellposed.losses.per_example import MeanLoss, PerExample, mean_loss
from wellposed.noise.hooks import hooked
from wellposed.noise.noise import PLACED
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import find_wrapper
from wellposed.statistics.intervals import Array, crossed_interval
from wellposed.statistics.student import student_quantile
from wellposed.training.evaluate import evaluate
from wellposed.training.history import Stopped
from wellposed.training.loop import Training
from wellposed.training.resampling import Sample, with_sample
from wellposed.training.run import Run
from wellposed.training.watch import Watch

ROUNDING = 1e-6
"""Of the loss: single precision rounds sums over rows to about this much."""
STEPS = ("moving", "penalty", "smoothing", "inputs", "dropout", "batch_norm", "averaging", "generalization")
"""What is taken away, in this order."""
SAYS = {
    "moving": "weights that moved during the epoch",
    "penalty": "penalties in the cost",
    "smoothing": "label smoothing",
    "inputs": "mixing, augmentation and noise of inputs",
    "dropout": "dropout and other noise inside the network",
    "batch_norm": "batch norm by batches",
    "averaging": "averaged weights",
    "generalization": "generalization: the true gap",
    "unseen": "what cannot be seen from here",
}
NAMES = {
    "generalization": "true gap",
    "averaging": "averaged weights",
    "batch_norm": "batch norm",
    "dropout": "dropout, noise inside",
    "inputs": "mixing, noise of inputs",
    "smoothing": "label smoothing",
    "penalty": "penalty",
    "moving": "weights that moved",
    "unseen": "what is not seen",
    "visible": "visible gap",
}
"""The same in the figure, whose names have `LEFT` points of room."""
COLOURS, LEFT = {"generalization": VALID, "visible": INK}, 152


@dataclass(frozen=True)
class GapShare:
    """What one thing makes of the visible gap: positive widens it, negative hides some of it.

    Attributes:
        low, high: where it lies at the split's level; NaN where one number is all there is.
    """

    name: str
    estimate: float
    low: float
    high: float

    @property
    def says(self) -> str:
        return SAYS[self.name]

    def plus(self, more: float) -> GapShare:
        """The share with so much more in it."""
        return GapShare(self.name, self.estimate + more, self.low + more, self.high + more)

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "says", "estimate", "low", "high"}``."""
        return {key: getattr(self, key) for key in ("name", "says", "estimate", "low", "high")}


@dataclass(frozen=True)
class GapSplit:
    """What `gap_split` measured; ``str()`` for people, `to_dict` for programs.

    Attributes:
        logged: the training cost as the loop logs it; where it is not known, that at the weights as they are.
        training: the training loss at the weights that are used, evaluation mode, clean rows.
        valid: the validation loss of the same weights.
        shares: they add up to `visible`; what the run does not have is left out.
        epoch: at which; -1 where unknown.
        notes: what limits the numbers, a sentence each.
    """

    logged: float
    training: float
    valid: float
    shares: tuple[GapShare, ...]
    level: float = 0.95
    epoch: int = -1
    notes: tuple[str, ...] = ()

    @property
    def visible(self) -> float:
        """The gap that the loop shows, in units of the loss: validation loss minus logged training loss."""
        return self.valid - self.logged

    @property
    def true(self) -> float:
        """The generalization gap: validation less training loss, like for like."""
        return self.valid - self.training

    def __getitem__(self, name: str) -> GapShare:
        """A share by its name.

        Raises:
            InputError: there is none.
        """
        known = {share.name: share for share in self.shares}
        if name not in known:
            raise InputError(f"This gap has no share {name!r}. It has {listed(list(known), len(known))}.")
        return known[name]

    def to_dict(self) -> dict[str, Any]:
        numbers = {
            key: getattr(self, key) for key in ("logged", "training", "valid", "visible", "true", "level", "epoch")
        }
        return {"schema": 1, **numbers, "shares": [share.to_dict() for share in self.shares], "notes": list(self.notes)}

    def __str__(self) -> str:
        rows = [("visible gap", self.visible, f"validation {self.valid:.4f} less logged training {self.logged:.4f}")]
        rows += [(f"  {share.says}", share.estimate, _interval(share)) for share in self.shares]
        wide = max(len(row[0]) for row in rows)
        lines = [f"{words.ljust(wide)}  {value:+9.4f}  {more}".rstrip() for words, value, more in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return waterfall.figure_html(str(self), self.figure)

    def figure(self) -> str:
        """The waterfall from the true gap to the visible one as SVG; empty where a loss is not finite.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        steps = self.bars()
        if not all(math.isfinite(step.size) for step in steps):
            return ""
        label = f"What the visible gap is made of: {waterfall.bars_in_words(steps, NAMES)}"
        frame = waterfall.waterfall_limits([steps], 1, 1, True)
        svg = waterfall.draw_waterfall("gap-split", label, steps, frame, "generalization", NAMES, COLOURS, LEFT)
        return waterfall.on_any_ground(svg)

    def bars(self) -> list[waterfall.WaterfallBar]:
        """The true gap, the shares from the inside out, and their sum, the visible gap.

        That is the order of the table turned around: a reader begins with what is so, and sees what is laid upon it.
        """
        steps: list[waterfall.WaterfallBar] = []
        for one in reversed(self.shares):
            steps.append(
                waterfall.WaterfallBar(one.name, steps[-1].end if steps else 0.0, one.estimate, one.low, one.high)
            )
        return [*steps, waterfall.WaterfallBar("visible", 0.0, self.visible, math.nan, math.nan)]


def _interval(share: GapShare) -> str:
    return f"[{share.low:+.4f}, {share.high:+.4f}]" if math.isfinite(share.low) else ""


@checked
def gap_split(
    source: Run | Watch,
    *,
    logged: float | None = None,
    batch_size: int | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
) -> GapSplit:
    """Split the visible gap of a run, or of a model in your own loop, into what makes it.

    Args:
        source: a Run: everything is known of it. A `Watch`: the model's modes, the penalty of `regularize` and a smoothing of
            torch's loss can be seen; mixing, augmentation and moving weights are ``unseen``.
        logged: the training loss that your loop printed for the last epoch, for a Watch; left out, nothing is unseen.
        batch_size: of your loop, for a Watch, >= 2; batch norm depends on it. By default 128.
        draws: >= 1, of the noise.
        level: of the intervals, inside (0, 1): rows and draws are both counted.
    Raises:
        InputError: neither a Run nor a Watch, or a number outside its range.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
        >>> net = lambda: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
        >>> run = wp.fit(wp.Problem(net, "squared_error", wp.Data(train=(x, x[:, :1]), valid=0.5)), wp.Recipe(epochs=3))
        >>> split = wp.gap_split(run)
        >>> abs(sum(share.estimate for share in split.shares) - split.visible) < 1e-9
        True
    """
    if draws < 1 or not 0 < level < 1 or (batch_size is not None and batch_size < 2):
        raise InputError(
            f"gap_split needs draws >= 1, a level inside (0, 1) and batch_size >= 2; given {draws!r}, {level!r}, {batch_size!r}."
        )
    if isinstance(source, Run):
        if logged is not None or batch_size is not None:
            raise InputError("A Run knows what it logged and its batch size. Leave logged= and batch_size= out.")
        return _of_run(source, draws, level)
    if isinstance(source, Watch):
        return _of_watch(source, logged, batch_size or 128, draws, level)
    raise InputError(f"gap_split needs a Run or a Watch; it was given {described(source)}.")


@dataclass(frozen=True)
class Stage:
    """The training cost with some things taken away.

    Attributes:
        rows: ``(rows, draws)``, each row's part.
        more: what is added to each draw's mean: penalties.
    """

    rows: Array
    more: Array

    @property
    def value(self) -> float:
        return float(self.rows.mean() + self.more.mean())


def _between(name: str, before: Stage, after: Stage, level: float) -> GapShare:
    """What the step from ``before`` to ``after`` hid of the gap: the fall of the training cost, as a part of the gap."""
    estimate = after.value - before.value
    if before.rows.shape[0] != after.rows.shape[0]:  # a loss that is one number for a batch on one side
        return GapShare(name, estimate, math.nan, math.nan)
    draws = max(before.rows.shape[1], after.rows.shape[1], len(before.more), len(after.more))
    added = np.broadcast_to(after.more, (draws,)) - np.broadcast_to(before.more, (draws,))
    shape = (len(before.rows), draws)
    difference = np.broadcast_to(after.rows, shape) - np.broadcast_to(before.rows, shape) + added
    if float(np.abs(difference - difference.mean()).max()) == 0.0 or len(difference) < 2:
        return GapShare(name, estimate, estimate, estimate)
    found = crossed_interval(difference, level)
    return GapShare(name, estimate, found.low, found.high)


def _moving(logged: float, now: Stage, level: float) -> GapShare:
    """The logged cost has one draw of the noise for each row, and this is the expectation over draws."""
    estimate = now.value - logged
    means = now.rows.mean(axis=0) + now.more
    if len(means) < 2:
        return GapShare("moving", estimate, estimate, estimate)
    half = student_quantile((1 + level) / 2, len(means) - 1) * float(means.std(ddof=1)) * math.sqrt(1 + 1 / len(means))
    return GapShare("moving", estimate, estimate - half, estimate + half)


def _true(training: float, valid: Array, level: float) -> GapShare:
    """The generalization gap; the training rows are all that there are, the validation rows a sample."""
    estimate = float((valid - training).mean())
    if len(valid) < 2:
        return GapShare("generalization", estimate, math.nan, math.nan)
    found = crossed_interval(valid - training, level)
    return GapShare("generalization", estimate, found.low, found.high)


# --- a run


def _of_run(run: Run, draws: int, level: float) -> GapSplit:
    """From its problem and recipe, at the epoch whose weights came back."""
    epoch = run.best_epoch
    if epoch < 0 or not math.isfinite(run.history.rows[epoch].get("cost", math.nan)):
        raise InputError("This run has no epoch with a finite cost, so there is no gap to split.")
    problem, recipe, rows = run.problem, run.recipe, int(run.history.facts["train_rows"])
    limit = rows if rows < len(problem.prepared.train) else None
    logged = float(run.history.rows[epoch]["cost"])
    notes: list[str] = []
    state = run.model.state_dict()
    averaged = bool(recipe.averaging.ema or recipe.averaging.swa)
    raw = _raw(run, epoch, limit, notes) if averaged else state
    steps = math.ceil(rows / (recipe.batch_size * recipe.accumulate)) * (epoch + 1)

    def stage(view: View) -> Stage:
        found = loss_as_trained(problem, raw, view, seed=run.seed, rows=limit, draws=draws, step=steps)
        return Stage(found.rows, found.outputs)

    in_cost, everything = penalty_costs(problem, recipe, raw, seed=run.seed, step=steps, rows=limit)
    if everything > in_cost and in_cost == 0:
        notes.append(
            "Decay and proximal terms are enforced beside the cost, so that they are no part of what is logged."
        )
    whole = stage(View(recipe))
    cost = Stage(whole.rows, whole.more + in_cost)
    shares = [_moving(logged, cost, level)]
    before = cost
    for name, after in _taken_away(run, whole, stage):
        if name != "batch_norm" or any(isinstance(module, _BatchNorm) for module in run.model.modules()):
            shares.append(_between(name, before, after, level))
        before = after
    data = with_sample(problem.prepared, Sample(limit))
    training, valid = run.losses(data.train_clean), run.losses(data.valid)
    clean = Stage(_rows(training)[:, None], np.zeros(1))
    if averaged:
        shares.append(_between("averaging", before, clean, level))
    else:  # rounding, and losses that are one number for a batch
        shares[-1] = shares[-1].plus(clean.value - before.value)
    shares.append(_true(training.mean, _rows(valid), level))
    return _split_of(logged, training, valid, shares, level, epoch, notes)


def _rows(loss: MeanLoss) -> Array:
    return loss.rows.numpy().astype(np.float64)


def _split_of(
    logged: float,
    training: MeanLoss,
    valid: MeanLoss,
    shares: list[GapShare],
    level: float,
    epoch: int,
    notes: list[str],
) -> GapSplit:
    """The split with the shares that are more than rounding, whose cause is in the recipe; the rest goes into the first."""
    least, always = ROUNDING * max(1.0, abs(logged)), ("moving", "unseen", "generalization")
    kept = [s for s in shares if s.name in always or max(map(abs, (s.estimate, s.low, s.high))) > least]
    rest = valid.mean - logged - math.fsum(share.estimate for share in kept)
    kept[0] = kept[0].plus(rest)
    return GapSplit(logged, training.mean, valid.mean, tuple(kept), level, epoch, tuple(notes))


def _taken_away(run: Run, whole: Stage, stage: Any) -> Iterator[tuple[str, Stage]]:
    """Each thing that is taken away, and the cost without it and all before it."""
    recipe = run.recipe
    yield "penalty", Stage(whole.rows, np.zeros(1))
    recipe = recipe.replace(terms=[], noise=recipe.noise.without("labels"))
    yield "smoothing", stage(View(recipe, smooth=False))
    recipe = recipe.replace(noise=recipe.noise.without("inputs"))
    yield "inputs", stage(View(recipe, augmented=False, smooth=False))
    recipe = recipe.replace(noise=recipe.noise.without(*PLACED))
    yield "dropout", stage(View(recipe, "norms", augmented=False, smooth=False))
    yield "batch_norm", stage(View(recipe, "evaluation", augmented=False, smooth=False))


def _raw(run: Run, epoch: int, rows: int | None, notes: list[str]) -> Mapping[str, Tensor]:
    """The weights of an epoch before averaging, which a run does not keep: it is trained again up to there."""
    with seeded(run.seed, "begin"):
        training = Training.begin(run.problem, run.recipe, run.seed, torch.device("cpu"), math.inf, rows)
        for number in range(epoch + 1):
            training.epoch(number)
            if training.stopped:
                break
    state = {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}
    reached = float(training.history.rows[-1]["train_loss"])
    training.finish(Stopped.EPOCHS)
    was = float(run.history.rows[epoch]["train_loss"])
    if not math.isclose(reached, was, rel_tol=1e-3, abs_tol=1e-6):
        notes.append(
            f"The run was trained again to have its weights before averaging, and came to a training loss of {reached:.4g} "
            f"instead of {was:.4g}: the share of averaging is that of this second training."
        )
    return state


# --- somebody's own loop


def _of_watch(watch: Watch, logged: float | None, batch_size: int, draws: int, level: float) -> GapSplit:
    """From the model as it stands, on the rows that are watched."""
    regularized = find_wrapper(watch.optimizer, Regularized)
    penalty = 0.0
    if regularized is not None:
        with torch.no_grad():
            penalty = float(regularized.weights_penalty())
    views: list[tuple[Mode, bool]] = [("training", True), ("training", False), ("norms", False), ("evaluation", False)]
    stages = [Stage(_watched(watch, mode, batch_size, draws, smooth), np.zeros(1)) for mode, smooth in views]
    cost = Stage(stages[0].rows, np.full(1, penalty))
    steps = zip(("penalty", "smoothing", "dropout", "batch_norm"), pairwise([cost, *stages]), strict=True)
    shares = [_between(name, before, after, level) for name, (before, after) in steps]
    losses = []
    for side in ("train", "valid"):  # in evaluation mode
        with seeded(0, "watch"), watch.notes.blind():
            batches = watch.batches(side)
            seen = evaluate(
                watch.model, batches, watch.loss, None, device=watch.device, forward=watch.forward, restores=True
            )
            losses.append(seen.loss)
    training, valid = losses
    shares.append(_true(training.mean, _rows(valid), level))
    notes = [f"Measured on {watch.rows} training rows and as many of validation."]
    if logged is None:
        notes.append(
            "logged= was not given: the visible gap is that of the weights as they are, with the noise of training switched on."
        )
        logged = cost.value
    else:
        known = crossed_interval(cost.rows, level) if len(cost.rows) > 1 else None
        half = math.nan if known is None else (known.high - known.low) / 2
        unseen = cost.value - logged
        shares.insert(0, GapShare("unseen", unseen, unseen - half, unseen + half))
        notes.append(
            "The unseen share holds weights that moved during the epoch, mixing, augmentation and noise that the loop adds, and "
            "penalties on outputs; its interval says how far the watched rows can mislead."
        )
    return _split_of(logged, training, valid, shares, level, len(watch.history) - 1, notes)


def _watched(watch: Watch, mode: Mode, batch_size: int, draws: int, smooth: bool) -> Array:
    """Each watched training row's part of the loss with each draw, in one mode of the model."""
    found: list[Array] = []
    for draw in range(draws):
        with ExitStack() as stack:
            for owner in hooked(watch.model):  # each draw is another step of theirs
                stack.enter_context(owner.ahead(draw * (watch.rows // batch_size + 2)))
            for kept in (reach_kept(watch.model, watch.forward, watch.loss.given), torch.no_grad()):
                stack.enter_context(kept)
            stack.enter_context(seeded(0, "gap", draw))
            stack.enter_context(watch.notes.blind())
            set_mode(watch.model, mode)
            parts: list[PerExample] = []
            for batch, _ in watch.batches("train"):
                for part in _split(batch, batch_size):
                    outputs = watch.forward(watch.model, part)
                    parts.append(loss_parts(watch.loss, outputs, watch.target_of(part), smooth))
            found.append(_rows(mean_loss(parts)))
        if draw == 1 and np.array_equal(found[0], found[1]):  # nothing is drawn
            return found[0][:, None]
    return np.stack(found, axis=1)


def _split(batch: Any, size: int) -> Iterator[Any]:
    """Smaller batches of a batch; one row alone, which batch norms refuse, joins those before it."""
    count = examples_in(batch)
    starts = range(0, max(count, 1), size)
    if len(starts) > 1 and count % size == 1:
        starts = starts[:-1]
    for start in starts:
        yield examples_of(batch, slice(start, count if start == starts[-1] else start + size), count)
