"""What validation says beside training: it turned, a gap opened, or only the confidence grew."""

from __future__ import annotations

import math

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves, RelativeError
from wellposed.diagnosis.finding import EvidenceValue, Finding, counted, moved
from wellposed.diagnosis.moves import with_averaging, with_decay, with_lower_rate
from wellposed.diagnosis.rules.outputs import WrongOutput
from wellposed.diagnosis.rules.rule import FEWEST_EPOCHS, Rule, end_of, falls, improves, measured, valid_learned

FEWEST_SINCE = 2  # values since the lowest level: one that is higher is no sign of a turn
LONG_ENOUGH = 8  # values; in fewer the last one is all that there is to go by


class Overfits(Rule):
    """Validation got worse by going on, or a large part of the validation error is a gap to the training error.

    Holds (a) if validation turned: the loss ended reliably above its lowest level (corrected for having picked the
    lowest) and by more than a twentieth of it, while the training loss went on falling; where an error rate is known,
    it must have risen too, otherwise the finding is ``overconfident``. Or (b) if the gap in the error is reliable, at
    least a tenth of the constant prediction's error and at least a third of the validation error, while validation has
    stopped improving. (b) needs an error rate, or a regression whose constant prediction is known.
    Or (c), where no error rate says better, if the gap of the loss is reliable, half of the validation loss and a twentieth of
    the loss without learning (which the tail of a log does not know), and validation has stopped improving. Or (d) if training
    learned and validation never came below what it is without learning, by a fiftieth: then nothing that was learned holds for
    new rows.
    Where the loss turned and the error did not rise, the case is one of ``overconfident``, and of this one only if the gap in
    the error is a third of the constant prediction's error. So it is where a wrong output bounds the loss, which cannot turn
    by confidence then.
    """

    name, severity = "overfits", 2
    overrules = (
        "underfits", "undertrained", "slow", "overconfident", "rate_too_low", "over_regularized",
    )  # fmt: skip
    explains = ("noisy_evidence",)  # a gap that is shown comes before a rise that is not
    axis, pulls = "regularization", "regularizer"
    code = "optimizer = wp.regularize(optimizer, model, [wp.L2(1e-2).on(wp.weights)])"
    moves = ((with_decay(0.5),), (with_decay(0.5),), (with_decay(3.0),))  # noise beside it: see `Key.advised`
    of_fit = True
    LOSS_GAP = 0.05  # of the loss without learning: what people see in a plot
    LOSS_SHARE = 0.5  # the larger part of the loss
    BELIEF = 0.5  # more likely than not that the rise matters
    GAP = 0.1  # of the constant prediction's error: a smaller gap is common in networks that do very well
    GAP_SHARE = 1 / 3  # of the validation error: enough for regularization to be worth a try, whatever the rest is
    GAP_OF_CONFIDENT = (
        1 / 3
    )  # of the constant prediction's error: so much of what could be learned holds for no new row
    GAP_CONFIDENCE = 0.85  # a gap alone does not prove harm: some large gaps go with the best validation error
    LEVER = (
        "regularize: weight decay, dropout, augmentation or label smoothing; more data; "
        "and keep the best epoch, not the last"
    )

    def judge(self, curves: Curves) -> Finding | None:
        error = measure.error_rise(curves)
        if error is not None and not error_rose(error) and loss_turned(curves, self.BELIEF):
            return self._gap(curves, self.GAP_OF_CONFIDENT)  # what went on grew the confidence alone
        if WrongOutput().judge(curves) is not None:  # a loss that its output bounds cannot show confidence
            return self._turned(curves) or self._gap(curves, self.GAP_OF_CONFIDENT)
        found = self._turned(curves) or self._nothing_general(curves) or self._gap(curves)
        return found or self._loss_gap(curves)

    def _turned(self, curves: Curves) -> Finding | None:
        rise, trained = measure.valid_rise(curves), len(curves.train) > 0
        if not loss_turned(curves, self.BELIEF) or not (trained or valid_learned(curves)):
            return None
        error = measure.error_rise(curves)
        evidence: dict[str, EvidenceValue] = {
            **measured("rise of the validation loss", rise.estimate, rise.low, rise.high),
            "material": rise.material, "epochs": rise.epochs, "gap": measure.generalization_gap(curves).estimate, **end_of(curves),
        }  # fmt: skip
        if error is not None:
            evidence |= {"error_rise": error.estimate, "error_low": error.low, "error_high": error.high}
        # Without training losses it cannot be seen that fitting went on, as opposed to optimization going wrong.
        certainty = rise.belief * (1.0 if trained else 0.8)
        return self.finding(
            certainty, evidence, self.LEVER,
            f"Validation loss was lowest {counted(rise.epochs, 'epoch')} before the end and has since risen by {rise.estimate:.3g}"
            f"{', while training loss went on falling' if trained else ''}: the network overfits, it learns "
            "by heart what holds for its training rows alone.",
        )  # fmt: skip

    def _gap(self, curves: Curves, least: float | None = None) -> Finding | None:
        least = self.GAP if least is None else least
        share = measure.remaining(curves)
        if share is None or not math.isfinite(share.valid):
            return None
        # An error rate, or a loss that is a share of variance; a cross-entropy's gap grows by confidence alone.
        if share.of == "loss" and not (share.certain and not measure.is_classification(curves)):
            return None
        gap, se = share.valid - share.train, gap_se(curves, share)
        needed = max(least, self.GAP_SHARE * share.valid)
        if not (gap >= needed and gap - measure.Z * se > 0 and measure.generalization_gap(curves).estimate > 0):
            return None
        if falls(curves.valid_loss, curves.fact("constant_loss")):  # still improving: the gap does no harm so far
            return None
        certainty = measure.normal((gap - least) / math.hypot(se, least / 2))
        return self.finding(
            self.GAP_CONFIDENCE * certainty,
            {**measured(f"gap, as a share of a constant prediction's {share.of}", gap, se), "of": share.of,
             "train_left": share.train, "valid_left": share.valid, **end_of(curves)},
            self.LEVER,
            f"On training rows the network makes {share.train:.0%} of the {share.of} that a constant prediction makes, on "
            f"validation rows {share.valid:.0%}: it overfits, part of what it learned holds for its training rows alone.",
        )  # fmt: skip

    def _nothing_general(self, curves: Curves) -> Finding | None:
        train, reference = measure.end(curves.train_loss), measure.reference_level(curves)
        gap, valid = measure.generalization_gap(curves), measure.end(curves.valid_loss)
        learned = reference - train >= self.GAP * abs(reference)
        # A mean that a few rows make large and uncertain is not 0: of positive losses the ratio is looked at.
        ratio = gap.rows and min(train, valid) > 0 and math.log(valid / train) > measure.Z * gap.se / valid
        wide = (gap.low > 0 or ratio) and gap.estimate >= self.GAP * abs(reference)
        if not (wide and learned) or valid_learned(curves) or measure.scales_apart(curves) is not None:
            return None
        if len(curves.valid) < FEWEST_EPOCHS:
            return None
        return self.finding(
            self.GAP_CONFIDENCE, {**measured("validation minus training loss", gap.estimate, gap.low, gap.high), **end_of(curves)},
            self.LEVER,
            f"Training loss came down to {train:.3g}, and validation loss never got better than a constant prediction, about "
            f"{reference:.3g}: the network overfits, nothing that it learned holds for new rows. Check that labels and inputs of "
            "both sides are made alike.",
        )  # fmt: skip

    def _loss_gap(self, curves: Curves) -> Finding | None:
        gap, reference = measure.generalization_gap(curves), measure.reference_level(curves)
        train, valid = measure.end(curves.train_loss), measure.end(curves.valid_loss)
        if all(measure.error_rate(curves, side) is not None for side in ("train", "valid")):
            return None
        if min(len(curves.train), len(curves.valid)) < FEWEST_EPOCHS or measure.scales_apart(curves) is not None:
            return None
        # Minus a log-density has no zero to measure from: there the gap is a share of what training learned.
        signed = curves.train.min() < 0
        whole = reference - train if signed else valid
        needed = max(self.LOSS_SHARE * whole, self.LOSS_GAP * abs(reference))
        if not (whole > 0 and gap.low > 0 and gap.estimate >= needed) or improves(curves.valid_loss):
            return None  # what still improves is not harmed so far
        if signed and not (curves.facts.get("like_for_like") and training_went_on(curves)):
            return None
        if measure.began_late(curves) and curves.fact("constant_loss") is None:  # without learning it is not known
            return None
        share = gap.estimate / whole
        lost = f"{share:.0%} of the validation loss is a gap that more training does not close"
        if signed:
            lost = f"{min(share, 1.0):.0%} of what training learned holds for its training rows alone"
        return self.finding(
            self.GAP_CONFIDENCE * measure.normal((share - self.LOSS_SHARE / 2) / (self.LOSS_SHARE / 2)),
            {**measured("validation minus training loss", gap.estimate, gap.low, gap.high), **end_of(curves)},
            self.LEVER,
            f"Validation loss came to rest at {valid:.3g} and training loss at {train:.3g}: the network overfits, {lost}.",
        )  # fmt: skip


def gap_se(curves: Curves, share: RelativeError) -> float:
    """Standard error of ``share.valid - share.train``: from numbers of rows for an error rate, else of the losses."""
    if share.of == "loss":
        reference = curves.fact("constant_loss") or measure.start(curves.train_loss)
        return measure.generalization_gap(curves).se / abs(reference) if reference else math.inf
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
    if rise.epochs < FEWEST_SINCE and len(curves.valid) >= LONG_ENOUGH:
        return False  # the last of many values alone is higher
    return training_went_on(curves)


def training_went_on(curves: Curves) -> bool:
    """Whether the training loss ended below its level at the best epoch (True where there is no training loss)."""
    best, train = measure.best_index(curves), curves.train_loss
    values = measure.finite_values(train)
    if best is None or len(values) == 0:
        return True
    width = measure.window(len(values))
    around = measure.finite_values(train[max(0, best - width // 2) : best + width // 2 + 1])
    return len(around) > 0 and measure.end(train) < float(around.mean()) - measure.level_se(train)


def error_rose(error: measure.Rise) -> bool:
    """Whether the error rate rather rose than not, by at least a twentieth of itself."""
    return error.belief >= Overfits.BELIEF


class Overconfident(Rule):
    """The validation loss rose while the validation error did not: the hits are the same, the misses are surer.

    Holds if the loss turned as ``overfits`` demands, and the error rate at the end is not reliably above that at the
    loss's best epoch (or by less than a twentieth of itself). A matter of calibration, not of generalization.
    """

    name, severity = "overconfident", 5
    overrules = ("underfits", "undertrained", "slow", "rate_too_low", "over_regularized")
    explains = ("noisy_evidence",)
    axis, pulls = "regularization", "regularizer"
    code = "loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)"
    moves = ((with_decay(0.5),), (with_decay(0.5),), (with_lower_rate(3), with_averaging))
    of_fit = True

    def judge(self, curves: Curves) -> Finding | None:
        error, rise = measure.error_rise(curves), measure.valid_rise(curves)
        if error is None or error_rose(error) or not loss_turned(curves, Overfits.BELIEF):
            return None
        # How sure it is that the error did not rise by a tenth of itself (twice the least that matters).
        same = measure.normal((2 * error.material - error.estimate) / max(error.se, 1e-12))
        return self.finding(
            rise.belief * max(same, 0.5),
            {**measured("rise of the validation loss", rise.estimate, rise.low, rise.high),
             "epochs": rise.epochs, "error_rise": error.estimate, "error_low": error.low, "error_high": error.high,
             **end_of(curves)},
            "calibrate: label smoothing, a temperature fitted on validation rows, or weight decay; the last epoch's "
            "decisions are no worse than the best epoch's",
            f"Over {counted(rise.epochs, 'epoch')} validation loss rose by {rise.estimate:.3g}, but the validation error "
            f"{moved(100 * error.estimate, ' percentage points')}: the network is overconfident, its answers are as good as "
            "before and it is too sure of the wrong ones.",
        )  # fmt: skip
