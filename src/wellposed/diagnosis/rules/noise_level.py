"""What the curves are worth: too noisy for a verdict, or clear enough to see that nothing is wrong."""

from __future__ import annotations

import math

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.caveats import reading_of
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding, counted, moved
from wellposed.diagnosis.moves import with_annealing, with_averaging, with_lower_rate
from wellposed.diagnosis.rules.generalization import FEWEST_SINCE, Overfits
from wellposed.diagnosis.rules.rule import FEWEST_EPOCHS, MATERIAL_PROGRESS, Rule, end_of, measured, valid_learned


class NoisyEvidence(Rule):
    """The noise in the curves is larger than what would matter, so that they do not show whether it is there.

    Holds if the interval of the rise since the best epoch holds both no rise and twice one that would matter, and the chance
    that it rose by what matters is a quarter or more; or if the
    interval of the gap holds zero and reaches to twice a gap that would matter on either side. What is found in
    spite of the noise, its interval beyond what matters, is not hidden by it.
    """

    name, severity = "noisy_evidence", 6
    axis, pulls = "evidence", "data"
    code = "watch = wp.watch(model, loss, train=train, valid=valid, rows=4096)  # and watch.epoch() after each epoch"
    moves = ((with_annealing, with_averaging), (with_lower_rate(3),))
    of_fit = True
    CHANCE = 0.25  # that it rose by what matters: one in four is more than one would leave open
    LEVER = "use more validation rows, or average over seeds; a larger batch or a decaying learning rate calms curves"

    def judge(self, curves: Curves) -> Finding | None:
        if len(curves.valid) < NotEnoughEvidence.FEWEST:
            return None
        found, clear = self._rise(curves) or self._gap(curves), Overfits().judge(curves)
        if clear is not None and float(clear.evidence["low"]) >= float(clear.evidence.get("material", Overfits.GAP)):
            return None  # it is found with its interval beyond what matters
        return found

    def _rise(self, curves: Curves) -> Finding | None:
        rise = measure.valid_rise(curves)
        if rise.epochs < FEWEST_SINCE or measure.falls_throughout(curves.valid_loss):
            return None
        if not (rise.low <= 0 and rise.high >= 2 * rise.material > 0) or rise.se == 0:
            return None
        # Of an estimate below 0 only the correction for having picked the lowest level is known.
        if measure.normal((max(rise.estimate, 0.0) - rise.material) / rise.se) < self.CHANCE:
            return None
        undecided = 1 - 2 * rise.material / (rise.high + 2 * rise.material)
        return self.finding(
            0.2 + 0.7 * undecided,
            {**measured("change of the validation loss since its lowest", rise.estimate, rise.low, rise.high),
             "material": rise.material},
            self.LEVER,
            f"Since its lowest level validation loss {moved(rise.estimate)}, give or take {(rise.high - rise.low) / 2:.2g}, where "
            f"{rise.material:.2g} would matter: the noise hides whether it turned.",
        )  # fmt: skip

    def _gap(self, curves: Curves) -> Finding | None:
        gap, constant = measure.generalization_gap(curves), curves.fact("constant_loss")
        # Twice what ``overfits`` asks for: a share of what the constant prediction leaves (else the start), and of the loss.
        reference = abs(measure.start(curves.valid_loss) if constant is None else constant)
        large = 2 * max(Overfits.GAP * reference, Overfits.GAP_SHARE * abs(measure.end(curves.valid_loss)))
        reach = max(gap.high, -gap.low)
        if not math.isfinite(gap.estimate) or not (gap.low <= 0 <= gap.high and reach >= large > 0):
            return None
        return self.finding(
            0.3 + 0.6 * (1 - large / (reach + large)),
            {**measured("validation minus training loss", gap.estimate, gap.low, gap.high),
             "material": large / 2},
            self.LEVER,
            f"The gap between validation and training loss may be anything from {gap.low:.3g} to {gap.high:.3g}: so few "
            "validation rows cannot show it.",
        )  # fmt: skip


class NotEnoughEvidence(Rule):
    """No verdict can be given.

    Holds, where no fault is found, if fewer than five epochs have a finite loss (what would be seen in so few is a fault
    that cannot be overlooked; that none is seen says nothing); if no validation loss is known; or if validation never came below
    what it is without learning: then curves at rest are not healthy. Noise as large as the effect is ``noisy_evidence``.
    """

    name, severity, residual = "not_enough_evidence", 8, True
    overrules = ("noisy_evidence",)
    axis, pulls = "evidence", "data"
    code = "watch = wp.watch(model, loss, train=train, valid=valid, optimizer=optimizer)  # and watch.epoch() after each epoch"
    FEWEST = 5

    def judge(self, curves: Curves) -> Finding | None:
        valid, train = len(curves.valid), len(curves.train)
        if (valid or train) < self.FEWEST:
            return self.finding(
                1.0, {"epochs": valid or train}, f"train for at least {self.FEWEST} epochs, better ten, and ask again",
                f"{counted(valid or train, 'epoch')} with a finite loss: too short for any verdict.",
            )  # fmt: skip
        change = measure.end(curves.train_loss) - measure.start(curves.train_loss)
        if valid < FEWEST_EPOCHS:
            return self.finding(
                0.9, {"epochs": valid}, "log the validation loss of every epoch",
                f"Over {counted(train, 'point')} training loss {moved(change)}, and {valid or 'no'} validation losses are known: "
                "nothing can be said about generalization.",
            )  # fmt: skip
        if train < FEWEST_EPOCHS:
            return self.finding(
                0.8, {"epochs": valid, **end_of(curves)}, "log the training loss of every epoch too",
                "No training loss is known: whether the network fits its own rows, and how large the gap is, cannot be said.",
            )  # fmt: skip
        if valid_learned(curves):
            return None
        reference = measure.reference_level(curves)
        if reference - measure.end(curves.train_loss) > MATERIAL_PROGRESS * abs(reference):
            return self.finding(
                0.6, {**end_of(curves)}, "use more validation rows, or average over seeds",
                f"Training loss came down to {measure.end(curves.train_loss):.3g}, validation loss never came below its start by "
                "what matters, and is as uncertain as the gap: what was learned may hold for training rows alone.",
            )  # fmt: skip
        return self.finding(
            0.6, {**end_of(curves)}, "keep the log from the first epoch on, and give the loss of a constant prediction",
            f"Validation loss began at {measure.start(curves.valid_loss):.3g} and never came below that by what matters, nor did "
            "training do more: these curves show neither learning nor overfitting.",
        )  # fmt: skip


class Healthy(Rule):
    """None of the other findings holds, and there was enough evidence to see them.

    The confidence is the probability that validation has not risen by an amount that matters. A small gap that is
    significant is no illness.
    """

    name, severity, residual = "healthy", 9, True
    axis, pulls = "none", "none"
    SUREST = 0.95  # curves cannot show that a better model does not exist

    def judge(self, curves: Curves) -> Finding | None:
        if NotEnoughEvidence().judge(curves) is not None or NoisyEvidence().judge(curves) is not None:
            return None
        rise, gap = measure.valid_rise(curves), measure.generalization_gap(curves)
        best = float(curves.epoch[measure.best_index(curves) or 0])
        return self.finding(
            self.SUREST * max(1 - rise.belief, 0.5),
            {**measured("change of the validation loss since its lowest", rise.estimate, rise.low, rise.high),
             "gap": gap.estimate, "gap_low": gap.low,
             "gap_high": gap.high, **end_of(curves)},
            "nothing needs mending; to gain more, search recipes, or add data",
            "Both losses came down, validation did not get worse by an amount that matters, and its best "
            f"{reading_of(curves).axis} is {best:g}: the curves look healthy.",
        )  # fmt: skip
