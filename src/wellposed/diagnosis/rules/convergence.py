"""How far training got: it ran away, did not begin, or ended too early."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import (
    with_annealing,
    with_clipping,
    with_higher_rate,
    with_less_regularization,
    with_lower_rate,
    with_more_epochs,
    with_usual_rate,
)
from wellposed.diagnosis.rules.learning_rates import RateTooHigh
from wellposed.diagnosis.rules.rule import (
    FEWEST_EPOCHS,
    FIT,
    LOW_ERROR,
    MATERIAL_PROGRESS,
    PACE,
    Inside,
    Rule,
    comes_down,
    descent,
    end_of,
    falls,
    measured,
    shows_learning,
    valid_learned,
)
from wellposed.logs import Array
from wellposed.training.history import Stopped

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals

FINISHED = 0.05  # of the highest learning rate: schedules that end there have been gone through


class Diverged(Rule):
    """The loss left the numbers or ran away.

    Holds if the run says so; if the last epoch's losses are all NaN or any is infinite; or if the training loss ended
    above twice its start and above the constant prediction's loss, as it was in most of the last quarter. (Without
    training losses: validation above ten times its start, since overfitting alone can raise that one; twice, where it never
    was below its start, and nothing had been learned that could be overdone.)
    """

    name, severity = "diverged", 0
    overrules = (FIT,)
    axis, pulls = "optimization", "optimizer"
    code = 'for group in optimizer.param_groups: group["lr"] /= 10'
    moves = ((with_lower_rate(10),), (with_lower_rate(10), with_clipping, with_annealing), (with_lower_rate(100),))
    RUNAWAY = 2.0  # twice the loss of untrained weights: the steps do harm. Neither noise nor overfitting does that
    RUNAWAY_VALID = 10.0  # an overconfident network may multiply its validation loss; ten times is beyond what is usual
    LEVER = "lower the learning rate (by ten to begin with), warm it up, or clip gradients; look for bad rows"

    def judge(self, curves: Curves) -> Finding | None:
        stopped, broken = curves.facts.get("stopped") == Stopped.DIVERGED, self._broken(curves)
        if stopped or broken is not None:
            epoch = float(curves.epoch[broken]) if broken is not None and len(curves) else math.nan
            where = "The run broke off" if broken is None else f"From epoch {epoch:g} on no loss is a finite number"
            says = f"{where}: training diverged, its steps threw the weights away from every solution."
            return self.finding(1.0, {"epoch": epoch, **end_of(curves)}, self.LEVER, says)
        return self._runaway(curves)

    @staticmethod
    def _broken(curves: Curves) -> int | None:
        """The first epoch of the last stretch without a finite loss, or None."""
        sides = [side for side in ("train", "valid") if f"{side}_loss" in curves.given]
        if not sides or not len(curves):
            return None
        losses, metrics = (
            np.stack([getattr(curves, f"{side}_{kind}") for side in sides]) for kind in ("loss", "metric")
        )
        if ((np.isfinite(metrics).sum(1) >= FEWEST_EPOCHS) & ~np.isfinite(losses).any(1)).any():
            return 0  # a side that was evaluated, and whose loss was no number in any epoch
        sound = np.flatnonzero(np.isfinite(losses).any(axis=0) & ~np.isinf(losses).any(axis=0))
        after = int(sound[-1]) + 1 if len(sound) else 0
        return after if after < len(curves) else None

    def _runaway(self, curves: Curves) -> Finding | None:
        trained = len(curves.train) > 1
        y, values = (curves.train_loss, curves.train) if trained else (curves.valid_loss, curves.valid)
        factor = self.RUNAWAY if trained or not valid_learned(curves) else self.RUNAWAY_VALID
        if len(values) < 2:
            return None
        first, last, se = float(values[0]), measure.end(y), measure.level_se(y)
        usual = float(np.median(values[-max(1, len(values) // 4) :]))  # one spike at the end is no divergence
        limit = max(first + (factor - 1) * abs(first), curves.fact("constant_loss") or -math.inf)
        limit = max(limit, measure.lowest_valid(curves)) if trained else limit
        if not min(last, usual) > limit:
            return None
        known = np.append(values, usual)
        known = np.log(known) if float(known.min()) > 0 else known  # single batches swing by factors
        if known[-1] - known[0] <= measure.Z * measure.noise(known[:-1]):
            return None
        return self.finding(
            0.95, {**measured("loss at the end", last, se), "start": first}, self.LEVER,
            f"The loss started at {first:.4g} and ended at {last:.4g}: training diverged, its steps make things worse.",
        )  # fmt: skip


class NotLearning(Rule):
    """The training loss did not get reliably below that of the constant prediction.

    Holds if neither loss came below the reference by a fiftieth of it and by three standard errors of the noise. The
    reference is the constant prediction's loss; where it is unknown, the loss at the first epoch, and then the verdict
    is less sure, because a log may begin with a network that is trained already; with fewer than five epochs, with a training
    loss alone, or where the log begins late, it is not given. A metric well above chance refutes it. Two signs need no
    reference: a loss that rests at ln K,
    where each of K classes is as likely, and an error rate that is the same in three of four epochs while the loss hardly falls,
    which is that of always answering with one class.
    """

    name, severity = "not_learning", 1
    axis, pulls = "optimization", "optimizer"
    code = "print(wp.lr_range_test(model, optimizer, loss, train))"
    moves = ((with_usual_rate,), (with_less_regularization(10),), (with_lower_rate(10),), (with_higher_rate(10),))
    of_fit = True
    overrules = ("undertrained", "slow", "underfits", "overfits", "overconfident", "noisy_evidence")
    SURE, UNSURE = 0.95, 0.6  # with and without the constant prediction's loss
    FEWEST = 5  # epochs without a reference: a fine-tuning of three epochs shows three times the same
    SAME = 0.75  # of the epochs with one error rate
    MANY = 30  # epochs in which a loss that learns moves by more than a hundredth

    def judge(self, curves: Curves) -> Finding | None:
        y, values = (curves.train_loss, curves.train) if len(curves.train) else (curves.valid_loss, curves.valid)
        constant, chance = curves.fact("constant_loss"), measure.chance_level(curves)
        one = self._one_answer(curves) or self._most_frequent(curves)
        known = chance if constant is None else constant
        few = len(values) < (self.FEWEST if known is None else FEWEST_EPOCHS)
        dead = self._is_dead(values, measure.began_late(curves))
        blind = known is None and not dead and not curves.given & {"valid_loss", "train_metric", "valid_metric"}
        if few or blind or (measure.began_late(curves) and not dead) or (shows_learning(curves) and not one):
            return None
        depth, se, reference = descent(y, known)
        if known is None and not one and self._began_trained(curves, reference):
            return None
        if not one and comes_down(curves):
            return None
        if constant is None and RateTooHigh().judge(curves) is not None:  # it swings about what it learned
            return None
        of = "a constant prediction" if constant is not None else "its first epoch"
        below = f"more than {depth:.3g} below" if depth > 0 else "below"
        says = f"The loss never came {below} that of {of} ({reference:.4g})"
        if chance is not None:
            says = f"The loss rests at {measure.end(y):.4g}, ln {math.exp(chance):.0f}, where each class is as likely"
        elif one:
            says = (
                "The validation error hardly ever changes, as if every row got the same answer, the most frequent class"
            )
        return self.finding(
            self.UNSURE if known is None and not one else self.SURE,
            {**measured("fall below the loss to be beaten", depth, se), "reference": reference},
            "change the learning rate (by ten, both ways), check that gradients reach the weights, that inputs are "
            "scaled and that labels belong to their rows; or regularize less where something regularizes",
            f"{says}: the network has not learned anything yet.",
        )  # fmt: skip

    @classmethod
    def _is_dead(cls, values: Array, tail: bool) -> bool:
        """Whether a loss is one number from the first epoch on: to the last digit, to a thousandth in five epochs, or, where it is
        no ``tail`` of a training, to a hundredth in many without any order."""
        if not len(values):
            return False
        moved, size = float(np.ptp(values)), abs(float(np.median(values)))
        if moved == 0 or (len(values) >= cls.FEWEST and moved <= 1e-3 * size):
            return True
        many = not tail and len(values) >= cls.MANY and moved <= 1e-2 * size
        return many and not measure.is_ordered(values) and not measure.is_ordered(values[::-1])

    @classmethod
    def _one_answer(cls, curves: Curves) -> bool:
        """Whether the error rate does not change from epoch to epoch, nor the training loss by a tenth after the first."""
        ours, theirs = (measure.error_rate(curves, side) for side in ("train", "valid"))
        values, train = measure.finite_values(theirs if theirs is not None else np.empty(0)), curves.train
        if curves.fact("constant_loss") is not None or len(values) < cls.FEWEST:
            return False
        usual = float(np.median(values))
        still = len(train) < 2 or float(train[1:].min()) > 0.9 * float(train[1])
        later = measure.finite_values(ours)[1:] if ours is not None else ()
        still = still and (len(later) == 0 or float(np.ptp(later)) < 0.05)
        return usual > 0.02 and float((values == usual).mean()) >= cls.SAME and still

    @classmethod
    def _most_frequent(cls, curves: Curves) -> bool:
        """Whether both error rates are those of the most frequent class in three of four epochs, and validation never cost less."""
        constant, chance = curves.fact("constant_loss"), measure.chance_error(curves)
        rates = [measure.error_rate(curves, side) for side in ("train", "valid")]
        values = [measure.finite_values(rate) for rate in rates if rate is not None]
        if constant is None or not chance or len(values) < 2 or min(map(len, values)) < cls.FEWEST:
            return False
        still = all(float((y == np.median(y)).mean()) >= cls.SAME for y in values)
        wrong = abs(float(np.median(values[1])) - chance) < 1e-6
        return still and wrong and not valid_learned(curves) and curves.valid.min() > (1 - MATERIAL_PROGRESS) * constant

    @classmethod
    def _began_trained(cls, curves: Curves, reference: float) -> bool:
        """Whether the network could do something before the log began: by its error rate, or a training loss far below any
        validation loss."""
        rates = [rate for side in ("train", "valid") if (rate := measure.error_rate(curves, side)) is not None]
        valid = curves.valid
        below = len(valid) > 0 and 0 < reference < 0.5 * float(valid.min())
        return below or any(measure.end(rate) < LOW_ERROR for rate in rates)


class TooFewSteps(Inside):
    """The optimizer has taken so few steps that hardly a network is fitted by them, and the loss falls.

    Holds for at most a hundred steps, over which the training loss fell in each epoch, in the second half by a quarter of all or
    more, and validation fell too, with nothing learned or four fifths of the constant prediction's loss left: a usual rate of
    .001 moves weights by a tenth then.
    """

    name, severity = "too_few_steps", 4
    axis, pulls = "optimization", "schedule"
    code = "epochs = 10 * epochs  # or smaller batches"
    moves = ((with_more_epochs(10),),)
    explains = ("not_learning", "undertrained", "underfits")
    MOST = 100
    LEFT = 0.8
    LATE = 0.25

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        steps, constant = signals.steps, curves.fact("constant_loss")
        falling = len(curves.train) > 1 and len(curves.valid) > 1 and bool((np.diff(curves.train) < 0).all())
        if not 0 < steps <= self.MOST or not falling or not curves.valid[-1] < curves.valid[0]:
            return None
        half, start = curves.train[(len(curves.train) - 1) // 2], curves.train[0]
        if half - curves.train[-1] < self.LATE * (start - curves.train[-1]):  # it comes to rest
            return None
        if constant is not None and curves.train[-1] >= constant:  # it comes down from a start far off
            return None
        if shows_learning(curves) and (constant is None or curves.train[-1] < self.LEFT * constant):
            return None
        return self.finding(
            0.8, {**measured("steps of the optimizer", steps), "threshold": self.MOST, **end_of(curves)},
            "go on for at least ten times as many steps: more epochs, or smaller batches",
            f"The optimizer has taken {steps} steps, and the loss falls: hardly a network is fitted by so few.",
        )  # fmt: skip


class Undertrained(Rule):
    """Training and validation loss were still falling when training ended.

    Holds if both (validation, where noise hides it of training) fall over the last quarter of the epochs: with 95 % certainty,
    by a fiftieth of all progress or more,
    and in the second half of that quarter at .6 of its pace or more; and if they fell below their start. A learning rate that goes
    to 0 brings half of the pace there, so that a finished schedule is told by its shape, with and without a column of rates.
    Where a column says that the rate ended at a twentieth of its highest or less, the end was planned, and only a fall of a tenth
    of all progress says that the plan was too short. One
    that a stopping rule ended had its chance. In the tail of a log the fall must be a twentieth of the loss. Of an average that
    no gradient moves (a teacher) the lever is the network that it follows.
    """

    name, severity = "undertrained", 4
    axis, pulls = "optimization", "schedule"
    code = "epochs = 3 * epochs"
    moves = ((with_more_epochs(3),), (with_higher_rate(3), with_annealing))
    of_fit = True
    FEWEST = 5  # epochs: in fewer every training falls, and none can be seen to level off
    PLANNED = 0.1  # of all progress, in a quarter of the epochs: as much as training at a steady pace brings in two fifths of it

    @staticmethod
    def _hidden(y: Array) -> bool:
        """Whether a curve falls by what matters, and the noise is as large."""
        trend, progress = measure.trend(y), measure.finite_values(y)[0] - measure.finite_values(y).min()
        return trend.low <= 0 and trend.gain >= MATERIAL_PROGRESS * progress > 0

    def judge(self, curves: Curves) -> Finding | None:
        losses = [y for y in (curves.valid_loss, curves.train_loss) if len(measure.finite_values(y))]
        if not len(curves.valid) or min(len(measure.finite_values(y)) for y in losses) < self.FEWEST:
            return None
        if curves.facts.get("stopped") in (Stopped.PATIENCE, Stopped.TURNED):
            return None
        constant = curves.fact("constant_loss")
        if not all(falls(y, constant, PACE) or (y is not losses[0] and self._hidden(y)) for y in losses):
            return None
        if not all(measure.end(y) < measure.start(y) for y in losses):  # it comes down from a leap
            return None
        trend, rates = measure.trend(losses[0]), measure.finite_values(curves.lr)
        if measure.began_late(curves) and trend.gain < measure.RISE_OF_BEST * abs(measure.end(losses[0])):
            return None
        planned = len(rates) > 1 and rates.max() > 0 and rates[-1] / rates.max() <= FINISHED
        if planned and trend.gain < self.PLANNED * measure.progress(losses[0], constant):
            return None
        found = self.finding(
            0.9 * trend.surely,
            {**measured("fall over the last epochs", trend.gain, trend.low, trend.high),
             "epochs": trend.epochs, **end_of(curves)},
            "train longer; or learn faster: a higher learning rate, a better schedule or another optimizer",
            f"Over the last {trend.epochs} epochs the loss still fell by {trend.gain:.3g}: training ended too early, and more of "
            "it would bring more.",
        )  # fmt: skip
        if not curves.facts.get("averaged"):
            return found
        return replace(
            found,
            lever="judge the network that is trained; where this one lags behind it, average over fewer steps",
            says=f"Over the last {trend.epochs} epochs the loss still fell by {trend.gain:.3g}. No gradient moves this network: as "
            "an average of another it comes later.",
            code="watch = wp.watch(trained, loss, train=train, valid=valid, optimizer=optimizer)",
        )
