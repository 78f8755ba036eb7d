"""One small class for each finding: its definition, the reasons for its thresholds, and the lever it names.

A rule looks at curves and returns a `Finding`, or None where its definition does not hold. Rules are found by
introspection; a new one is a new class here. All thresholds are ratios or multiples of the noise, so that the unit of
the loss plays no part.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves, Share
from wellposed.diagnosis.finding import Finding, Number
from wellposed.diagnosis.logs import Array

FEWEST_EPOCHS = 3  # a rise, a trend and a noise each need three points
MATERIAL_PROGRESS = 0.02  # a fiftieth of all that training achieved: less is not worth a lever
MENDED = 0.97  # of the highest error rate: the wobble of guessing stays above it for a hundred answers or more


class Rule(ABC):
    """A definition of one finding. ``residual`` rules are asked only where no other rule found anything."""

    name: ClassVar[str]
    severity: ClassVar[int]  # 0 is the worst; decides between equally sure findings
    residual: ClassVar[bool] = False

    @abstractmethod
    def judge(self, curves: Curves) -> Finding | None:
        """The finding, or None where the definition does not hold."""

    def finding(self, confidence: float, evidence: Mapping[str, Number], lever: str, says: str) -> Finding:
        """A finding under this rule's name, its confidence held inside [0, 1]."""
        return Finding(self.name, min(max(float(confidence), 0.0), 1.0), dict(evidence), lever, says)


def falls(y: Array, reference: float | None = None) -> bool:
    """Whether a curve still falls at its end: reliably, by a material share of its progress, and not levelling off.

    Over the last quarter of the epochs the interval of the fitted fall lies above 0, the fall is at least a fiftieth
    of all the progress, and the second half of that quarter falls at no less than a quarter of its pace.
    """
    values = measure.known(y)
    if len(values) < FEWEST_EPOCHS:
        return False
    trend = measure.trend(y)
    progress = max((values[0] if reference is None else reference) - values.min(), 0.0)
    return trend.low > 0 and trend.gain >= MATERIAL_PROGRESS * progress and trend.late_gain >= 0.25 * trend.gain


def descent(y: Array, constant: float | None) -> tuple[float, float, float]:
    """How far a curve came below the constant prediction (below its own start, where that is unknown).

    Returns:
        The descent, its standard error from the noise, and the level it started from.
    """
    values = measure.known(y)
    if len(values) == 0:
        return math.nan, math.inf, math.nan
    reference = float(values[0]) if constant is None else constant
    lowest = float(measure.running_mean(values, measure.window(len(values))).min())
    return reference - lowest, math.sqrt(2.0) * measure.level_se(y), reference


def learned(curves: Curves) -> bool:
    """Whether either loss came below its reference by a fiftieth of it and by more than the noise.

    An error rate overrules: a tenth of the errors gone is learning. Where the constant prediction is unknown and the
    network began with most answers wrong, hardly one of which it mended, the loss fell by shrinking the outputs alone.
    """
    share = measure.remaining(curves)
    if share is not None and share.of == "error":
        if min(share.train, share.valid) < 0.9:
            return True
        if not share.certain and not mended(curves):
            return False
    for y in (curves.train_loss, curves.valid_loss):
        depth, se, reference = descent(y, curves.fact("constant_loss"))
        if depth > max(MATERIAL_PROGRESS * abs(reference), 3 * se):
            return True
    return False


def mended(curves: Curves) -> bool:
    """Whether the error rate on either side ever came below 97 % of its highest value."""
    rates = [rate for side in ("train", "valid") if (rate := measure.error_rate(curves, side)) is not None]
    return any(float(measure.known(rate).min()) < MENDED * float(measure.known(rate).max()) for rate in rates)


def regularizes(curves: Curves) -> bool:
    """Whether the source says that something regularizes: a mapping with a number above 0, or True."""
    what = curves.facts.get("regularized")
    if isinstance(what, Mapping):
        return any(isinstance(value, (int, float)) and value > 0 for value in what.values())
    return bool(what)


def end_of(curves: Curves) -> dict[str, Number]:
    """The levels at the end, for the evidence."""
    return {"train_loss": measure.end(curves.train_loss), "valid_loss": measure.end(curves.valid_loss)}


class Diverged(Rule):
    """The loss left the numbers or ran away.

    Holds if the run says so; if the last epoch's losses are all NaN or any is infinite; or if the training loss ended
    above twice its start and above the constant prediction's loss, as it was in most of the last quarter. (Without
    training losses: validation above ten times its start, since overfitting alone can raise that one.)
    """

    name, severity = "diverged", 0
    RUNAWAY = 2.0  # twice the loss of untrained weights: the steps do harm. Neither noise nor overfitting does that
    RUNAWAY_VALID = 10.0  # an overconfident network may multiply its validation loss; ten times is beyond what is usual
    LEVER = "lower the learning rate (by ten to begin with), warm it up, or clip gradients; look for bad rows"

    def judge(self, curves: Curves) -> Finding | None:
        stopped, broken = curves.facts.get("stopped") == "diverged", self._broken(curves)
        if stopped or broken is not None:
            epoch = float(curves.epoch[broken]) if broken is not None and len(curves) else math.nan
            where = "the run broke off" if broken is None else f"from epoch {epoch:g} on no loss is a finite number"
            return self.finding(1.0, {"epoch": epoch, **end_of(curves)}, self.LEVER, f"Training diverged: {where}.")
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
        trained = len(measure.known(curves.train_loss)) > 1
        y, factor = (curves.train_loss, self.RUNAWAY) if trained else (curves.valid_loss, self.RUNAWAY_VALID)
        values = measure.known(y)
        if len(values) < 2:
            return None
        first, last, se = float(values[0]), measure.end(y), measure.level_se(y)
        usual = float(np.median(values[-max(1, len(values) // 4) :]))  # one spike at the end is no divergence
        limit = max(first + (factor - 1) * abs(first), curves.fact("constant_loss") or -math.inf)
        if not min(last, usual) > limit:
            return None
        evidence = {"estimate": last, "low": last - measure.Z * se, "high": last + measure.Z * se, "start": first}
        return self.finding(
            0.95, evidence, self.LEVER,
            f"Training ran away: the loss ended at {last:.4g}, having started at {first:.4g}.",
        )  # fmt: skip


class NotLearning(Rule):
    """The training loss did not get reliably below that of the constant prediction.

    Holds if neither loss came below the reference by a fiftieth of it and by three standard errors of the noise. The
    reference is the constant prediction's loss; where it is unknown, the loss at the first epoch, and then the verdict
    is less sure, because a log may begin with a network that is trained already. A metric well above chance refutes it.
    """

    name, severity = "not_learning", 1
    SURE, UNSURE = 0.95, 0.6  # with and without the constant prediction's loss
    LOW_ERROR = 0.25  # an error rate below this is not that of an untrained network, whatever the first epoch was

    def judge(self, curves: Curves) -> Finding | None:
        y = curves.train_loss if len(measure.known(curves.train_loss)) else curves.valid_loss
        if len(measure.known(y)) < FEWEST_EPOCHS or learned(curves):
            return None
        rates = [rate for side in ("train", "valid") if (rate := measure.error_rate(curves, side)) is not None]
        constant = curves.fact("constant_loss")
        if constant is None and any(measure.end(rate) < self.LOW_ERROR for rate in rates):
            return None
        depth, se, reference = descent(y, constant)
        if constant is None and reference > 0 and self._began_trained(curves, reference):
            return None
        of = "the constant prediction" if constant is not None else "its first epoch"
        return self.finding(
            self.UNSURE if constant is None else self.SURE,
            {"estimate": depth, "low": depth - measure.Z * se, "high": depth + measure.Z * se, "reference": reference},
            "change the learning rate (by ten, both ways), check that gradients reach the weights, that inputs are "
            "scaled and that labels belong to their rows; or regularize less where something regularizes",
            f"The network did not learn: its loss came {max(depth, 0.0):.3g} below that of {of} ({reference:.4g}).",
        )

    @staticmethod
    def _began_trained(curves: Curves, reference: float) -> bool:
        """A validation loss that began at a small share of what it became: the network fitted before the log began."""
        valid = measure.known(curves.valid_loss)
        return len(valid) > 0 and reference < 0.5 * float(valid.min())


class Undertrained(Rule):
    """Training and validation loss were still falling when training ended.

    Holds if both fall over the last quarter of the epochs: with 95 % certainty, by a fiftieth of all progress or more,
    and without levelling off. One that ended by patience had its chance, and a learning rate that was brought near zero
    levels off by design: neither is called undertrained.
    """

    name, severity = "undertrained", 4
    ANNEALED = 0.05  # the last learning rate as a share of the largest: below it the fall is the schedule's end

    def judge(self, curves: Curves) -> Finding | None:
        losses = [y for y in (curves.valid_loss, curves.train_loss) if len(measure.known(y))]
        if not losses or curves.facts.get("stopped") == "patience":
            return None
        if not all(falls(y, curves.fact("constant_loss")) for y in losses) or self._annealed(curves):
            return None
        trend = measure.trend(losses[0])
        certainty = measure.normal(measure.Z * trend.gain / max(trend.gain - trend.low, 1e-12 * abs(trend.gain)))
        return self.finding(
            0.9 * certainty,
            {"estimate": trend.gain, "low": trend.low, "high": trend.high, "epochs": trend.epochs, **end_of(curves)},
            "train longer; or learn faster: a higher learning rate, a better schedule or another optimizer",
            f"Training ended too early: over its last {trend.epochs} epochs the loss still fell by {trend.gain:.3g}.",
        )

    def _annealed(self, curves: Curves) -> bool:
        lr = measure.known(curves.lr)
        return len(lr) > 1 and bool(lr[-1] < self.ANNEALED * lr.max()) and bool(lr[-1] < lr[0])


class Underfits(Rule):
    """The training loss itself came to rest high, and validation is hardly worse.

    Holds if the training loss no longer falls, at least a third of the constant prediction's error (or loss) is left on
    the very rows trained on, and the gap is less than a quarter of what is left. The floor that noise in the labels
    sets cannot be known from curves, so the confidence is modest by design.
    """

    name, severity = "underfits", 3
    HIGH = 1 / 3  # of the constant prediction's error; a network able to fit goes on towards zero on its own rows
    HIGH_UNSURE = 2 / 3  # where only the start of the log stands in for the constant prediction
    SMALL_GAP = 0.25  # of what is left: more than three quarters of the error is there on training rows already
    FEWEST = 8  # coming to rest cannot be told from fewer epochs
    LEVER = (
        "more capacity (width, depth, features) or better optimization (learning rate, longer); "
        "more regularization will not help"
    )

    def judge(self, curves: Curves) -> Finding | None:
        share = measure.remaining(curves)
        if share is None or not self.high_and_at_rest(curves, share) or not learned(curves):
            return None
        if OverRegularized().judge(curves) is not None:  # the same symptom with its cause known
            return None
        confidence = 0.35 + 0.4 * min(share.train, 1.0)
        gap = measure.gap(curves)
        return self.finding(
            confidence if share.certain else min(confidence, 0.5),
            {"estimate": gap.estimate, "low": gap.low, "high": gap.high, "left": share.train, "of": share.of,
             **end_of(curves)},
            self.LEVER,
            f"The network underfits: training came to rest with {share.train:.0%} of the {self._reference(share)} "
            f"{share.of} left on its own rows, and validation is hardly worse. "
            "(If the labels are that noisy, this is the floor.)",
        )  # fmt: skip

    @staticmethod
    def _reference(share: Share) -> str:
        return "constant prediction's" if share.certain else "first"

    @classmethod
    def high_and_at_rest(cls, curves: Curves, share: Share) -> bool:
        """High on the training rows, at rest, and with a gap that is small beside it."""
        if len(measure.known(curves.train_loss)) < cls.FEWEST or not math.isfinite(share.train):
            return False
        high = share.train >= (cls.HIGH if share.certain else cls.HIGH_UNSURE)
        small = not math.isfinite(share.valid) or share.valid - share.train < cls.SMALL_GAP * share.train
        return high and small and not falls(curves.train_loss, curves.fact("constant_loss"))


class Overfits(Rule):
    """Validation got worse by going on, or a large part of the validation error is a gap to the training error.

    Holds (a) if validation turned: the loss ended reliably above its lowest level (corrected for having picked the
    lowest) and by more than a twentieth of it, while the training loss went on falling; where an error rate is known,
    it must have risen too, otherwise the finding is ``overconfident``. Or (b) if the gap in the error is reliable, at
    least a tenth of the constant prediction's error and at least a third of the validation error, while validation has
    stopped improving. (b) needs an error rate, or a regression whose constant prediction is known.
    Or (c), in curves that are like for like, if the loss's gap is reliable, at least a third of the validation loss, and
    widening: training still falls as ``undertrained`` demands, validation does not fall any more.
    """

    name, severity = "overfits", 2
    BELIEF = 0.5  # more likely than not that the rise matters
    GAP = 0.1  # of the constant prediction's error: a smaller gap is common in networks that do very well
    GAP_SHARE = 1 / 3  # of the validation error: enough for regularization to be worth a try, whatever the rest is
    GAP_CONFIDENCE = 0.85  # a gap alone does not prove harm: some large gaps go with the best validation error
    LEVER = (
        "regularize: weight decay, dropout, augmentation or label smoothing; more data; "
        "and keep the best epoch, not the last"
    )

    def judge(self, curves: Curves) -> Finding | None:
        return self._turned(curves) or self._gap(curves) or self._widening(curves)

    def _turned(self, curves: Curves) -> Finding | None:
        rise = measure.valid_rise(curves)
        if not loss_turned(curves, self.BELIEF):
            return None
        error = measure.error_rise(curves)
        if error is not None and not error_rose(error):
            return None
        evidence: dict[str, Number] = {
            "estimate": rise.estimate, "low": rise.low, "high": rise.high, "material": rise.material,
            "epochs": rise.epochs, "gap": measure.gap(curves).estimate, **end_of(curves),
        }  # fmt: skip
        if error is not None:
            evidence |= {"error_rise": error.estimate, "error_low": error.low, "error_high": error.high}
        # Without training losses it cannot be seen that fitting went on, as opposed to optimization going wrong.
        certainty = rise.belief * (1.0 if len(measure.known(curves.train_loss)) else 0.8)
        return self.finding(
            certainty, evidence, self.LEVER,
            f"The network overfits: validation loss turned {rise.epochs} epochs before the end and rose by "
            f"{rise.estimate:.3g}{' while training loss went on falling' if 'train_loss' in curves.given else ''}.",
        )  # fmt: skip

    def _gap(self, curves: Curves) -> Finding | None:
        share = measure.remaining(curves)
        if share is None or not self._comparable(curves, share) or not math.isfinite(share.valid):
            return None
        gap, se = share.valid - share.train, gap_se(curves, share)
        needed = max(self.GAP, self.GAP_SHARE * share.valid)
        if not (gap >= needed and gap - measure.Z * se > 0 and measure.gap(curves).estimate > 0):
            return None
        if falls(curves.valid_loss, curves.fact("constant_loss")):  # still improving: the gap does no harm so far
            return None
        certainty = measure.normal((gap - self.GAP) / math.hypot(se, self.GAP / 2))
        return self.finding(
            self.GAP_CONFIDENCE * certainty,
            {"estimate": gap, "low": gap - measure.Z * se, "high": gap + measure.Z * se, "of": share.of,
             "train_left": share.train, "valid_left": share.valid, **end_of(curves)},
            self.LEVER,
            f"The network overfits: of the constant prediction's {share.of}, {share.train:.0%} is left on training "
            f"rows and {share.valid:.0%} on validation rows.",
        )  # fmt: skip

    def _widening(self, curves: Curves) -> Finding | None:
        gap, trend = measure.gap(curves), measure.trend(curves.valid_loss)
        wide = gap.low > 0 and gap.estimate >= self.GAP_SHARE * abs(measure.end(curves.valid_loss))
        if not (curves.facts.get("like_for_like") and wide and trend.low <= 0):
            return None
        if not falls(curves.train_loss, curves.fact("constant_loss")):
            return None
        return self.finding(
            self.GAP_CONFIDENCE * measure.normal(-measure.Z * trend.gain / max(trend.gain - trend.low, 1e-300)),
            {"estimate": gap.estimate, "low": gap.low, "high": gap.high, "validation_fell": trend.gain,
             "epochs": trend.epochs, **end_of(curves)},
            self.LEVER,
            f"The network overfits: over the last {trend.epochs} epochs training loss still fell and validation loss did not; "
            f"the gap has grown to {gap.estimate:.3g}.",
        )  # fmt: skip

    @staticmethod
    def _comparable(curves: Curves, share: Share) -> bool:
        """An error rate, or a loss that is a share of variance; a cross-entropy's gap grows by confidence alone."""
        return share.of == "error" or (share.certain and not measure.is_classification(curves))


def gap_se(curves: Curves, share: Share) -> float:
    """Standard error of ``share.valid - share.train``: from numbers of rows for an error rate, else of the losses."""
    if share.of == "loss":
        reference = curves.fact("constant_loss") or measure.start(curves.train_loss)
        return measure.gap(curves).se / abs(reference) if reference else math.inf
    variance, reference = 0.0, 1.0
    for side, left in (("train", share.train), ("valid", share.valid)):
        alike = curves.facts.get("like_for_like")  # then as many training rows were looked at as validation rows
        rate, rows = measure.error_rate(curves, side), curves.fact("valid_rows" if alike else f"{side}_rows")
        if rate is None:
            return math.inf
        level = measure.end(rate)
        reference = level / left if left > 0 and level > 0 else reference
        # With no error among n rows the error may still be about 1/n, so the variance is that of at least one.
        sampling = max(level * (1 - level), 1 / rows) / rows if rows else 0.0
        variance += sampling + measure.level_se(rate) ** 2
    return math.sqrt(variance) / reference


def loss_turned(curves: Curves, belief: float) -> bool:
    """Whether validation ended reliably and materially above its lowest level while training loss went on falling."""
    rise = measure.valid_rise(curves)
    if not (rise.low > 0 and rise.estimate >= rise.material and rise.belief >= belief):
        return False
    return training_went_on(curves)


def training_went_on(curves: Curves) -> bool:
    """Whether the training loss ended below its level at the best epoch (True where there is no training loss)."""
    best, train = measure.best_index(curves), curves.train_loss
    values = measure.known(train)
    if best is None or len(values) == 0:
        return True
    width = measure.window(len(values))
    around = measure.known(train[max(0, best - width // 2) : best + width // 2 + 1])
    return len(around) > 0 and measure.end(train) < float(around.mean()) - measure.level_se(train)


def error_rose(error: measure.Rise) -> bool:
    """Whether the error rate rose reliably, and by at least a twentieth of itself."""
    return error.low > 0 and error.estimate >= error.material


class Overconfident(Rule):
    """The validation loss rose while the validation error did not: the hits are the same, the misses are surer.

    Holds if the loss turned as ``overfits`` demands, and the error rate at the end is not reliably above that at the
    loss's best epoch (or by less than a twentieth of itself). A matter of calibration, not of generalization.
    """

    name, severity = "overconfident", 5

    def judge(self, curves: Curves) -> Finding | None:
        error, rise = measure.error_rise(curves), measure.valid_rise(curves)
        if error is None or error_rose(error) or not loss_turned(curves, Overfits.BELIEF):
            return None
        # How sure it is that the error did not rise by a tenth of itself (twice the least that matters).
        same = measure.normal((2 * error.material - error.estimate) / max(error.se, 1e-12))
        return self.finding(
            rise.belief * max(same, 0.5),
            {"estimate": rise.estimate, "low": rise.low, "high": rise.high, "epochs": rise.epochs,
             "error_rise": error.estimate, "error_low": error.low, "error_high": error.high, **end_of(curves)},
            "calibrate: label smoothing, a temperature fitted on validation rows, or weight decay; the last epoch's "
            "decisions are no worse than the best epoch's",
            f"The network grows overconfident: validation loss rose by {rise.estimate:.3g} over {rise.epochs} epochs, "
            f"but its error did not (change {error.estimate:+.3g}).",
        )  # fmt: skip


class OverRegularized(Rule):
    """What regularizes costs more than it saves: even the training rows are fitted badly, and there is no gap to close.

    Holds only where the source says that something regularizes. The clean training loss is high and at rest as
    ``underfits`` demands (or never left the constant prediction), the gap is not reliably above a twentieth of the
    training loss, and the regularized cost exceeds the clean training loss by at least a tenth of it. Without the cost
    the confidence is low: the strength cannot be seen.
    """

    name, severity = "over_regularized", 3
    EXCESS = 0.1  # of the clean training loss: what is charged besides it is a sizeable part of what is minimized
    NO_GAP = 0.05  # of the training loss

    def judge(self, curves: Curves) -> Finding | None:
        share = measure.remaining(curves)
        if share is None or not regularizes(curves) or len(measure.known(curves.train_loss)) < FEWEST_EPOCHS:
            return None
        stuck = not learned(curves)
        if not stuck and not Underfits.high_and_at_rest(curves, share):
            return None
        gap, train = measure.gap(curves), measure.end(curves.train_loss)
        if math.isfinite(gap.estimate) and gap.estimate > max(self.NO_GAP * abs(train), measure.Z * gap.se):
            return None
        excess = self._excess(curves, train)
        if excess is not None and excess < self.EXCESS:
            return None
        sure = 0.45 if excess is None else 0.5 + 0.3 * min(excess, 1.0)
        evidence: dict[str, Number] = {
            "estimate": gap.estimate, "low": gap.low, "high": gap.high, "left": share.train, "of": share.of,
            **end_of(curves),
        }  # fmt: skip
        if excess is not None:
            evidence["excess"] = excess
        return self.finding(
            sure, evidence,
            "regularize less: lower the strengths (by three to ten times), the dropout or the noise, and train again",
            f"The network is over-regularized: {min(share.train, 9.99):.0%} of the {share.of} is left on its own "
            f"training rows and there is no gap to close ({gap.estimate:+.3g}).",
        )  # fmt: skip

    @staticmethod
    def _excess(curves: Curves, train: float) -> float | None:
        """What the cost has besides the clean loss, as a share of that loss; None where the cost is unknown."""
        cost = measure.end(curves.cost)
        if not math.isfinite(cost) and math.isfinite(measure.end(curves.penalty)):
            cost = train + measure.end(curves.penalty)
        return (cost - train) / abs(train) if math.isfinite(cost) and train else None


class NoisyEvidence(Rule):
    """The curves are too short, too noisy or too incomplete for a verdict on generalization.

    Holds if fewer than three epochs are known, or no validation loss is; if the interval of the rise since the best
    epoch holds both no rise and twice one that would matter; or if the interval of the gap holds both zero and a
    quarter of the validation loss.
    """

    name, severity = "noisy_evidence", 6
    LARGE_GAP = 0.25  # of the validation loss: everybody would act on it
    LEVER = "use more validation rows, or average over seeds; a larger batch or a decaying learning rate calms curves"

    def judge(self, curves: Curves) -> Finding | None:
        losses = {name: len(measure.known(y)) for name, y in
                  (("training", curves.train_loss), ("validation", curves.valid_loss))}  # fmt: skip
        if max(losses.values()) < FEWEST_EPOCHS:
            return self._short(max(losses.values()))
        if losses["validation"] < FEWEST_EPOCHS:
            return self.finding(
                0.9, {"epochs": losses["validation"]}, "log the validation loss of every epoch",
                f"Only {losses['validation']} validation losses are known: nothing can be said about generalization.",
            )  # fmt: skip
        return self._rise(curves) or self._gap(curves)

    def _short(self, epochs: int) -> Finding:
        return self.finding(
            1.0, {"epochs": epochs}, f"train for at least {FEWEST_EPOCHS} epochs, better ten, and ask again",
            f"{epochs} epoch{'' if epochs == 1 else 's'} with a finite loss: too short for any verdict.",
        )  # fmt: skip

    def _rise(self, curves: Curves) -> Finding | None:
        rise = measure.valid_rise(curves)
        if not (rise.low <= 0 and rise.high >= 2 * rise.material > 0) or rise.se == 0:
            return None
        undecided = 1 - 2 * rise.material / (rise.high + 2 * rise.material)
        return self.finding(
            0.2 + 0.7 * undecided, {"estimate": rise.estimate, "low": rise.low, "high": rise.high, "material": rise.material},
            self.LEVER,
            f"The noise hides whether validation turned: it rose by {rise.estimate:.3g}, interval {rise.low:.3g} "
            f"to {rise.high:.3g}, and {rise.material:.2g} would matter.",
        )  # fmt: skip

    def _gap(self, curves: Curves) -> Finding | None:
        gap, valid = measure.gap(curves), measure.end(curves.valid_loss)
        large = self.LARGE_GAP * abs(valid)
        if not math.isfinite(gap.estimate) or not (gap.low <= 0 and gap.high >= large > 0):
            return None
        return self.finding(
            0.3 + 0.6 * (1 - large / (gap.high + large)),
            {"estimate": gap.estimate, "low": gap.low, "high": gap.high, "large": large}, self.LEVER,
            f"The validation set is too small to see the gap: it is {gap.estimate:.3g}, the interval is {gap.low:.3g} "
            f"to {gap.high:.3g}.",
        )  # fmt: skip


class Healthy(Rule):
    """None of the other findings holds, and there was enough evidence to see them.

    The confidence is the probability that validation has not risen by an amount that matters. A small gap that is
    significant is no illness.
    """

    name, severity, residual = "healthy", 9, True
    SUREST = 0.95  # curves cannot show that a better model does not exist

    def judge(self, curves: Curves) -> Finding | None:
        if len(measure.known(curves.valid_loss)) < FEWEST_EPOCHS:
            return None
        rise, gap = measure.valid_rise(curves), measure.gap(curves)
        best = float(curves.epoch[measure.best_index(curves) or 0])
        return self.finding(
            self.SUREST * max(1 - rise.belief, 0.5),
            {"estimate": rise.estimate, "low": rise.low, "high": rise.high, "gap": gap.estimate, "gap_low": gap.low,
             "gap_high": gap.high, **end_of(curves)},
            "nothing needs mending; to gain more, search recipes, or add data",
            "The curves look healthy: they show no fault, and validation did not turn by an amount that matters "
            f"(best epoch {best:g}).",
        )  # fmt: skip
