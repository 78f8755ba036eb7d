"""How fast the steps were: too large to settle, too large to learn, too small to get anywhere, or held up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.caveats import reading_of
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import EvidenceValue, Finding
from wellposed.diagnosis.moves import (
    with_adaptive_optimizer,
    with_annealing,
    with_averaging,
    with_clipping,
    with_higher_rate,
    with_lower_rate,
    with_more_epochs,
)
from wellposed.diagnosis.rules.input_scales import unscaled
from wellposed.diagnosis.rules.rule import (
    DROPPED,
    FEWEST_EPOCHS,
    MATERIAL_PROGRESS,
    PACE,
    Rule,
    dropout,
    end_of,
    falls,
    measured,
    regularizes,
    shows_learning,
)
from wellposed.logs import Array

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals
    from wellposed.training.inspection import Layer

FEWEST = 8  # epochs: a quarter of fewer has no shape


class Oscillates(Rule):
    """The training loss swings from epoch to epoch without settling.

    Holds if, over the last quarter, the training loss swings about its trend by more than the trend falls (half of it),
    no less than a third as much as in the quarter before, and

    (a) by a tenth of its level and a fiftieth of all progress, validation swinging too; or
    (b) with validation, epoch for epoch (their residuals are correlated by .6), where there is no gap to close
    (validation less than a tenth above training), and by so much that the steps cost what matters. Around a minimum the
    loss that is lost to the size of steps is a sum of ``d`` squares, whose mean is ``sqrt(d / 2)`` times its swings; with
    ten directions or more, swings of a 45th of the level and a 112th of all progress cost a twentieth and a fiftieth.

    Noise of sampling alone is no such thing: other rows give other noise, so that training and validation would not
    swing together.
    """

    name, severity = "oscillates", 4
    axis, pulls = "optimization", "schedule"
    code = "schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)"
    moves = ((with_annealing,), (with_lower_rate(5),), (with_averaging,))
    of_fit = True
    SWING = 0.1  # of the level: twice what is worth a lever, since a swing is a rough measure
    VALID_SWING = 0.05  # of validation's level: what row noise adds to the level there dilutes the swing
    COST = math.sqrt(10 / 2)  # of the swings, in ten directions: a network has more
    SETTLES = 1 / 3  # of the swings a quarter earlier: of eight epochs each, half comes by chance in one of twenty
    TOGETHER = 0.6  # the correlation: a third of the variance in common, more than chance gives in 8 epochs
    GAP = 0.1  # of the level: with more, the gap is what there is to gain

    def judge(self, curves: Curves) -> Finding | None:
        y = curves.train_loss
        values = measure.finite_values(y)
        if len(values) < 2 * FEWEST:
            return None
        (now, before), level, progress = measure.swings(values), measure.end(y), measure.whole_progress(y)
        progress = max(progress, (curves.fact("constant_loss") or -math.inf) - float(values.min()))
        alone = len(curves.valid) < FEWEST_EPOCHS  # noise of sampling, of batches or of rows, swings too
        if alone or not now > 0 or now < self.SETTLES * before or measure.trend(y).gain >= 2 * now:
            return None
        swing = measure.swings(curves.valid_loss)[0]
        still = len(curves.valid) >= 2 * FEWEST and swing < self.VALID_SWING * abs(measure.end(curves.valid_loss))
        large = now >= max(self.SWING * abs(level), MATERIAL_PROGRESS * progress) and not still
        costly = self.COST * now >= max(measure.RISE_OF_BEST * abs(level), MATERIAL_PROGRESS * progress)
        if not large and not (costly and self._together(curves, level)):
            return None
        return self.finding(
            (0.6 if large else 0.5) + 0.3 * min(now / max(abs(level), 1e-300), 1.0),
            {**measured("swings of the training loss", now), "before": before, **end_of(curves)},
            "let the learning rate fall towards the end (a cosine or a plateau schedule), lower it, or average weights",
            f"At a level of {level:.3g} the training loss swings by {now:.3g} from epoch to epoch: training does not settle, its "
            "steps are too long for the end.",
        )  # fmt: skip

    @classmethod
    def _together(cls, curves: Curves, level: float) -> bool:
        """Whether training and validation swing with the weights, at one level."""
        gap = measure.end(curves.valid_loss) - level
        return gap < cls.GAP * abs(level) and measure.common(curves.train_loss, curves.valid_loss) >= cls.TOGETHER


class Slow(Rule):
    """Training still falls, steadily, but by a small share per epoch.

    Holds if the training loss (and validation's, where it is known) falls reliably over the last quarter of the epochs,
    by what matters (a fiftieth of all progress, or a twentieth of its level) but by less than a tenth of all progress;
    and hardly slower than before: by half of what the quarter before brought or more. What comes to rest
    exponentially slows down more than that once so little is left, so that as many epochs again would not end it.
    """

    name, severity = "slow", 5
    overrules = ("undertrained", "underfits")
    axis, pulls = "optimization", "optimizer"
    code = "optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)"
    moves = ((with_adaptive_optimizer, with_annealing), (with_higher_rate(5), with_annealing), (with_more_epochs(3),))
    of_fit = True
    SMALL = 0.1  # of all progress, in a quarter of the epochs: a steady pace would have brought a quarter

    def judge(self, curves: Curves) -> Finding | None:
        losses = curves.train_loss, curves.valid_loss
        if not all(self._creeps(y) for y in losses) or not shows_learning(curves):
            return None
        trend, progress = measure.trend(losses[0]), measure.progress(losses[0])
        if trend.gain >= self.SMALL * progress:
            return None
        return self.finding(
            0.7 * trend.surely,
            {**measured("fall over the last epochs", trend.gain, trend.low, trend.high),
             "epochs": trend.epochs, "progress": progress, **end_of(curves)},
            "another optimizer (momentum, Adam, Muon), scaled inputs, normalization layers or a higher learning rate; "
            "more epochs alone would take many",
            f"The last {trend.epochs} epochs took {trend.gain:.3g} off the loss, of {progress:.3g} in all, and at a steady pace: "
            "training is slow, it would take many more epochs.",
        )  # fmt: skip

    @staticmethod
    def _creeps(y: Array) -> bool:
        values = measure.finite_values(y)
        if len(values) < 2 * FEWEST:
            return False
        last, before = measure.trend(values), measure.trend(values[: len(values) * 3 // 4], of=len(values))
        matters = min(MATERIAL_PROGRESS * measure.progress(y), measure.RISE_OF_BEST * abs(measure.end(y)))
        return last.low > 0 and last.gain >= max(matters, PACE * before.gain) and last.keeps(PACE)


class RateTooHigh(Rule):
    """The learning rate is so high that training does worse than it would at a lower one.

    Holds (a) if the training loss jumped above its start in the first quarter of the epochs, for more than one and a twentieth
    of them:
    to twice the start, or by a quarter of it where much is left at the end or nothing was learned; if it ended a tenth
    above its start; or if validation went to twice its start and stayed though nothing was learned. Steps along the
    gradient raise the loss only where they are too long. Or (b) if the training loss ended reliably above its own lowest
    level, by a tenth of all progress and a twentieth of that level: training undid what it had reached, which no
    regularizer explains that did not grow. Or (c) if it swings without settling, as ``oscillates`` demands, at a level
    where much is left. Or (d) if it came to rest above the constant prediction, which the last bias alone would reach, by
    no more than its swings cost.

    Seen from inside it also holds, where half of the constant prediction's loss or error is left, (e) if the steps broke the
    network: half of the units that were alive at the first weights are 0 on every row, or a layer that told rows apart gives
    the same for each, and the weights went twice as far
    as they are large (one that shrinks them to nothing goes once), or all units behind a ReLU died with nothing that shrinks;
    or they were thrown ten times as far as they were
    large, which learning does not take: initialization gives weights the size at which signals pass. Or (f) if the first
    epoch, before which curves know nothing, made the loss worse than at the first weights and than a constant
    prediction, by as much as (a) asks for. Unscaled inputs have a finding of their own, and (e) is not asked there.

    A run that diverged after such a jump has both findings.
    """

    name, severity = "rate_too_high", 2
    beyond = "anew"
    overrules = ("rate_too_low", "underfits")
    axis, pulls = "optimization", "optimizer"
    code = 'for group in optimizer.param_groups: group["lr"] /= 10'
    moves = ((with_lower_rate(10),), (with_lower_rate(3), with_clipping, with_annealing), (with_lower_rate(100),))
    explains = ("not_learning", "oscillates", "noisy_evidence", "dying_units", "dead_layers")
    LEAP = 1.0  # of the loss at the start: whatever came later, the epochs to come back were lost
    JUMP = 0.25  # of the loss at the start: a warm-up or a first epoch's noise moves less
    ABOVE = 0.1  # of the loss at the start, at the end
    HARM = 0.005  # of the constant prediction's loss, above it: what overshooting the last bias costs is small
    UNDONE = 0.1  # of all progress
    MUCH = 0.5  # of the loss at the start
    BELIEF = 0.9
    DIED = 0.5  # of the units that were alive
    FARTHER = 2.0  # than the weights are large: a decay to nothing moves them by 1
    THROWN = 10.0  # times the size of the first weights; networks that had learned moved by .2 to 4
    FEWEST_UNITS = 8
    LEVER = "lower the learning rate (by three to ten times), warm it up, or clip gradients"

    def judge(self, curves: Curves) -> Finding | None:
        signs = (self._jumped, self._undone, self._unsettled, self._above_constant, self._broke)
        return next(filter(None, (sign(curves) for sign in signs if len(curves.train) >= FEWEST)), None)

    def _broke(self, curves: Curves) -> Finding | None:
        signals, left = curves.signals, measure.remaining(curves)
        if signals is None or unscaled(signals) is not None:
            return None
        if shows_learning(curves) and (left is None or not left.certain or left.train < self.MUCH):
            return None
        moved, alive, died = distance_from_start(signals), 0, 0
        silenced: list[str] = []
        if signals.first is not None and signals.last is not None:
            alive, living = (sum(u.count - u.dead for u in seen.units) for seen in (signals.first, signals.last))
            died = max(alive - living, 0)
            silenced = [name for name in signals.last.silent if name not in signals.first.silent]
        dead = silenced or (alive >= self.FEWEST_UNITS and died >= self.DIED * alive)
        dead = dead and (moved >= self.FARTHER or (not regularizes(curves) and self._wiped_out(signals)))
        if not dead and not moved >= self.THROWN:
            return None
        evidence: dict[str, EvidenceValue] = {
            **measured("way of the weights, in their own sizes", moved),
            "threshold": (self.FARTHER if moved >= self.FARTHER else 0.0) if dead else self.THROWN,
            **end_of(curves),
        }
        if dead:
            evidence |= {"units": alive, "died": died}
        return self.finding(
            0.8 if dead else 0.7, evidence, self.LEVER,
            f"The steps took the weights {moved:.3g} times as far as they were large"
            f"{f' and killed {died} of {alive} units' if dead and died else ''}"
            f"{f' and silenced {silenced[0]!r}' if dead and silenced else ''}, and the training loss ended at "
            f"{measure.end(curves.train_loss):.3g}: the learning rate is too high.",
        )  # fmt: skip

    @classmethod
    def _wiped_out(cls, signals: Signals) -> bool:
        """Whether all units behind some ReLU are dead, most of which were alive at the first weights."""
        born = {u.place: u.dead for u in signals.first.units} if signals.first is not None else {}
        last = signals.last.units if signals.last is not None else ()
        wide = (u for u in last if u.count >= cls.FEWEST_UNITS and u.dead == u.count)
        return any(born.get(u.place, u.count) < cls.DIED * u.count for u in wide)

    def _jumped(self, curves: Curves) -> Finding | None:
        values = curves.train
        signals, constant = curves.signals, curves.fact("constant_loss")
        # A network with batch norms is not asked at its first weights: after an epoch its running statistics lag behind.
        seen = signals.first if signals is not None and constant is not None and not signals.norms else None
        if seen is not None and constant is not None and math.isfinite(seen.loss):
            values = np.concatenate([[max(seen.loss, constant)], values])
        elif measure.began_late(curves) and constant is None:  # the start is that of a tail
            return None
        first, end = float(values[0]), measure.end(curves.train_loss)
        early = np.sort(values[1 : max(4, len(values) // 4)])
        lost = max(2, len(values) // 20)  # so many were spent above: a leap that is over at once costs nothing
        top, rose = float(early[-lost]), float(np.median(values[-max(4, len(values) // 4) :]))
        unlearned = end >= self.MUCH * first or not shows_learning(curves)
        jumped = top > max(first + (self.JUMP if unlearned else self.LEAP) * abs(first), measure.lowest_valid(curves))
        ended_above = min(rose, end - measure.Z * measure.level_se(values)) > first + self.ABOVE * abs(first)
        if not (jumped or self._leapt(curves) or ended_above):
            return None
        return self.finding(
            0.9 if unlearned else 0.7,
            {**measured("highest early training loss", top), "start": first, **end_of(curves)}, self.LEVER,
            f"The training loss started at {first:.3g}, was at {top:.3g} early on, and ended at {end:.3g}: the learning rate is "
            "too high, its steps overshoot.",
        )  # fmt: skip

    def _leapt(self, curves: Curves) -> bool:
        """Whether validation went to twice its start, and stayed, though nothing was learned: no overfitting."""
        values = curves.valid
        return (
            len(values) >= FEWEST
            and not shows_learning(curves)
            and float(np.median(values[len(values) // 2 :])) > float(values[0]) + self.LEAP * abs(float(values[0]))
        )

    def _undone(self, curves: Curves) -> Finding | None:
        rise = measure.rise(curves.train_loss, curves.fact("constant_loss"))
        needed = max(rise.material, self.UNDONE * measure.whole_progress(curves.train_loss))
        if rise.epochs < FEWEST_EPOCHS or not (rise.low > 0 and rise.estimate >= needed and rise.belief >= self.BELIEF):
            return None
        return self.finding(
            0.8 * rise.belief,
            {**measured("rise of the training loss", rise.estimate, rise.low, rise.high),
             "epochs": rise.epochs, **end_of(curves)},
            self.LEVER,
            f"Over the last {rise.epochs} epochs the training loss itself rose by {rise.estimate:.3g}: the learning rate is too "
            "high, its steps undo what they reached.",
        )  # fmt: skip

    def _unsettled(self, curves: Curves) -> Finding | None:
        swings, end = Oscillates().judge(curves), measure.end(curves.train_loss)
        first = measure.start(curves.train_loss)
        if swings is None or not end >= self.MUCH * first > 0:
            return None
        return self.finding(
            0.6, {**swings.evidence, "start": first}, self.LEVER,
            f"The training loss swings at {end:.3g}, not far below its start at {first:.3g}: the learning rate is too high.",
        )  # fmt: skip

    def _above_constant(self, curves: Curves) -> Finding | None:
        constant, y, values = curves.fact("constant_loss"), curves.train_loss, curves.train
        if constant is None or len(values) < 2 * FEWEST - 1 or falls(y, constant):
            return None
        later = values[-max(FEWEST - 1, len(values) // 4) :]
        excess, swing = float(later.mean()) - constant, measure.swings(y)[0]
        se = measure.Z * float(later.std()) / math.sqrt(len(later) / 2)  # neighbours resemble each other
        if not (excess > se and self.HARM * abs(constant) <= excess <= 2 * Oscillates.COST * swing):
            return None
        return self.finding(
            0.6,
            {**measured("loss above a constant prediction's", excess, excess - se, excess + se), "constant": constant,
             **end_of(curves)},
            self.LEVER,
            f"The training loss swings at {constant + excess:.4g}, above what a constant prediction gets ({constant:.4g}): the "
            "learning rate is too high.",
        )  # fmt: skip


class RateTooLow(Rule):
    """The learning rate is so low that hardly anything happened in the epochs given.

    Holds if the training loss fell reliably to the end, without slowing down (the second half of the epochs brought a
    third of the whole fall or more, where a steady pace brings half), yet by less than a tenth of what it was (of the constant
    prediction's, where that is known), or ended a tenth above the constant prediction's: such
    steps follow the first gradient and reach nothing that would bend the curve.

    Where nothing was learned it also holds if the weights, which all get a gradient, moved by a fiftieth of their size or less
    (networks that had learned moved by a fifth or more); or if the rate itself fell below a hundredth of its highest before half of
    the epochs were over.
    """

    name, severity = "rate_too_low", 3
    axis, pulls = "optimization", "optimizer"
    code = 'for group in optimizer.param_groups: group["lr"] *= 10'
    moves = ((with_higher_rate(10),), (with_higher_rate(100),), (with_adaptive_optimizer,))
    explains = ("undertrained", "slow", "not_learning", "too_few_steps")
    overrules = ("underfits",)
    of_fit = True
    HARDLY = 0.1  # of the loss at the start: at that pace the rest would take ten times the epochs
    STILL = 0.02  # of the weights' size, gone in the whole training
    SPENT = 0.01  # of the highest rate
    STEADY = 1 / 3

    def judge(self, curves: Curves) -> Finding | None:
        y = curves.train_loss if len(curves.train) else curves.valid_loss
        values = measure.finite_values(y)
        if len(values) < FEWEST or measure.began_late(curves) or curves.facts.get("averaged"):
            return None
        if (found := self._nothing_moved(curves)) is not None or self._elsewhere(curves):
            return found
        trend, end, constant = measure.trend(y), measure.end(y), curves.fact("constant_loss")
        fell, reference = measure.start(y) - end, constant or abs(measure.start(y))
        above = constant is not None and end > (1 + self.HARDLY) * constant
        if not (trend.low > 0 and fell > 0 and (above or fell < self.HARDLY * reference)):
            return None
        if constant and end < (1 - self.HARDLY) * reference:  # it began trained
            return None
        if measure.end(values[: (len(values) + 1) // 2]) - end < self.STEADY * fell:
            return None
        return self.finding(
            0.85,
            {**measured("fall over the last epochs", trend.gain, trend.low, trend.high),
             "fell": fell, **end_of(curves)},
            "raise the learning rate (by ten to begin with); a range test finds it",
            f"In {len(values)} epochs the loss fell by {fell:.3g} of {reference:.3g}, and never slowed down: the learning rate is "
            "too low to get anywhere.",
        )  # fmt: skip

    def _nothing_moved(self, curves: Curves) -> Finding | None:
        rates, signals = measure.finite_values(curves.lr), curves.signals
        if shows_learning(curves) or not rates.any():
            return None
        spent = float(rates[len(rates) // 2] / rates.max()) < self.SPENT and int(rates.argmax()) < len(rates) // 2
        reached = [layer.gradient > 0 for layer in _weights(signals)]
        moved = distance_from_start(signals) if signals is not None and reached and all(reached) else 0.0
        if not spent and not 0 < moved <= self.STILL:
            return None
        says = f"The learning rate fell from {rates.max():.3g} to {rates[len(rates) // 2]:.3g} before half of the epochs were over"
        if not spent:
            says = f"At a learning rate of {rates.max():.3g} the weights moved by {moved:.2%} of their size in all"
        return self.finding(
            0.96,
            {**({} if spent else measured("way of the weights, in their own sizes", moved)),
             "highest_rate": float(rates.max()), "rate": float(rates[-1]), **end_of(curves)},
            "raise the learning rate (by ten to begin with), or let it fall later; a range test finds it",
            f"{says}, and nothing was learned: the learning rate is too low to get anywhere.",
        )  # fmt: skip

    @staticmethod
    def _elsewhere(curves: Curves) -> bool:
        """Whether something else holds it up: a dropout of most units, validation has come to rest, or no gradient reaches some
        layers; or how much of an epoch it was is not known."""
        rests = len(curves.valid) >= FEWEST and measure.trend(curves.valid_loss).low <= 0
        in_steps = not len(curves.valid) and reading_of(curves).axis == "step"
        unreached = any(layer.gradient == 0 for layer in _weights(curves.signals))
        return dropout(curves) >= DROPPED or in_steps or rests or unreached


def _weights(signals: Signals | None) -> list[Layer]:
    """The layers of weights, as they were seen at the last ones."""
    layers = signals.last.layers if signals is not None and signals.last is not None else ()
    return [layer for layer in layers if layer.role == "weight"]


def distance_from_start(signals: Signals) -> float:
    """How far the weights went from where they began, over their size there: the median of the layers; 0 where unknown."""
    far = [signals.moved.get(layer.name, math.inf) for layer in _weights(signals)]
    far = [distance for distance in far if math.isfinite(distance)]  # one that began at 0 is infinitely far
    return float(np.median(far)) if far else 0.0
