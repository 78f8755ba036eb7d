"""How far training got: it ran away, did not begin, or ended too early."""

from __future__ import annotations

import math

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.learning_rates import RateTooHigh
from wellposed.diagnosis.rules.rule import (
    FEWEST_EPOCHS,
    Rule,
    descent,
    end_of,
    ends_annealed,
    falls,
    measured,
    shows_learning,
)
from wellposed.training.history import Stopped


class Diverged(Rule):
    """The loss left the numbers or ran away.

    Holds if the run says so; if the last epoch's losses are all NaN or any is infinite; or if the training loss ended
    above twice its start and above the constant prediction's loss, as it was in most of the last quarter. (Without
    training losses: validation above ten times its start, since overfitting alone can raise that one.)
    """

    name, severity = "diverged", 0
    axis, pulls = "optimization", "optimizer"
    code = 'for group in optimizer.param_groups: group["lr"] /= 10'
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
        given = [y for name, y in (("train_loss", curves.train_loss), ("valid_loss", curves.valid_loss))
                 if name in curves.given]  # fmt: skip
        if not given or not len(curves):
            return None
        losses = np.stack(given)
        sound = np.flatnonzero(np.isfinite(losses).any(axis=0) & ~np.isinf(losses).any(axis=0))
        after = int(sound[-1]) + 1 if len(sound) else 0
        return after if after < len(curves) else None

    def _runaway(self, curves: Curves) -> Finding | None:
        trained = len(measure.finite_values(curves.train_loss)) > 1
        y, factor = (curves.train_loss, self.RUNAWAY) if trained else (curves.valid_loss, self.RUNAWAY_VALID)
        values = measure.finite_values(y)
        if len(values) < 2:
            return None
        first, last, se = float(values[0]), measure.end(y), measure.level_se(y)
        usual = float(np.median(values[-max(1, len(values) // 4) :]))  # one spike at the end is no divergence
        limit = max(first + (factor - 1) * abs(first), curves.fact("constant_loss") or -math.inf)
        if not min(last, usual) > limit:
            return None
        evidence = {
            **measured("loss at the end", last, se),
            "start": first,
        }  # fmt: skip
        return self.finding(
            0.95, evidence, self.LEVER,
            f"The loss started at {first:.4g} and ended at {last:.4g}: training diverged, its steps make things worse.",
        )  # fmt: skip


class NotLearning(Rule):
    """The training loss did not get reliably below that of the constant prediction.

    Holds if neither loss came below the reference by a fiftieth of it and by three standard errors of the noise. The
    reference is the constant prediction's loss; where it is unknown, the loss at the first epoch, and then the verdict
    is less sure, because a log may begin with a network that is trained already. A metric well above chance refutes it.
    """

    name, severity = "not_learning", 1
    axis, pulls = "optimization", "optimizer"
    code = "print(wp.lr_range_test(model, optimizer, loss, train))"
    of_fit = True
    SURE, UNSURE = 0.95, 0.6  # with and without the constant prediction's loss
    LOW_ERROR = 0.25  # an error rate below this is not that of an untrained network, whatever the first epoch was

    def judge(self, curves: Curves) -> Finding | None:
        y = curves.train_loss if len(measure.finite_values(curves.train_loss)) else curves.valid_loss
        if len(measure.finite_values(y)) < FEWEST_EPOCHS or shows_learning(curves):
            return None
        rates = [rate for side in ("train", "valid") if (rate := measure.error_rate(curves, side)) is not None]
        constant = curves.fact("constant_loss")
        if constant is None and any(measure.end(rate) < self.LOW_ERROR for rate in rates):
            return None
        if constant is None and RateTooHigh().judge(curves) is not None:  # it swings about what it learned
            return None
        depth, se, reference = descent(y, constant)
        if constant is None and reference > 0 and self._began_trained(curves, reference):
            return None
        of = "the constant prediction" if constant is not None else "its first epoch"
        return self.finding(
            self.UNSURE if constant is None else self.SURE,
            {**measured("fall below the loss to be beaten", depth, se), "reference": reference},
            "change the learning rate (by ten, both ways), check that gradients reach the weights, that inputs are "
            "scaled and that labels belong to their rows; or regularize less where something regularizes",
            f"The loss never came more than {max(depth, 0.0):.3g} below that of {of} ({reference:.4g}): the network has not "
            "learned anything yet.",
        )  # fmt: skip

    @staticmethod
    def _began_trained(curves: Curves, reference: float) -> bool:
        """A validation loss that began at a small share of what it became: the network fitted before the log began."""
        valid = measure.finite_values(curves.valid_loss)
        return len(valid) > 0 and reference < 0.5 * float(valid.min())


class Undertrained(Rule):
    """Training and validation loss were still falling when training ended.

    Holds if both fall over the last quarter of the epochs: with 95 % certainty, by a fiftieth of all progress or more,
    and without levelling off; and if they fell below their start. One that a stopping rule ended had its chance, and a
    learning rate that was brought near zero levels off by design: neither is called undertrained.
    """

    name, severity = "undertrained", 4
    axis, pulls = "optimization", "schedule"
    code = "epochs = 3 * epochs"
    of_fit = True
    FEWEST = 5  # epochs: in fewer every training falls, and none can be seen to level off

    def judge(self, curves: Curves) -> Finding | None:
        losses = [y for y in (curves.valid_loss, curves.train_loss) if len(measure.finite_values(y))]
        if not losses or min(len(measure.finite_values(y)) for y in losses) < self.FEWEST:
            return None
        if curves.facts.get("stopped") in (Stopped.PATIENCE, Stopped.TURNED):
            return None
        if not all(falls(y, curves.fact("constant_loss")) for y in losses) or ends_annealed(curves):
            return None
        if not all(measure.end(y) < measure.start(y) for y in losses):  # it comes down from a leap
            return None
        trend = measure.trend(losses[0])
        certainty = measure.normal(measure.Z * trend.gain / max(trend.gain - trend.low, 1e-12 * abs(trend.gain)))
        return self.finding(
            0.9 * certainty,
            {**measured("fall over the last epochs", trend.gain, trend.low, trend.high),
             "epochs": trend.epochs, **end_of(curves)},
            "train longer; or learn faster: a higher learning rate, a better schedule or another optimizer",
            f"Over the last {trend.epochs} epochs the loss still fell by {trend.gain:.3g}: training ended too early, and more of "
            "it would bring more.",
        )  # fmt: skip
