"""How well the rows trained on are fitted at rest: badly, by lack of capacity or by too much regularization."""

from __future__ import annotations

import math

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves, RelativeError
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_annealing, with_higher_rate, with_larger_model, with_less_regularization
from wellposed.diagnosis.rules import learning_rates
from wellposed.diagnosis.rules.generalization import gap_se
from wellposed.diagnosis.rules.rule import (
    DROPPED,
    FEWEST_EPOCHS,
    Rule,
    comes_down,
    dropout,
    end_of,
    falls,
    improves,
    measured,
    regularizes,
    shows_learning,
)


class Underfits(Rule):
    """The training loss itself came to rest high, and validation is hardly worse.

    Holds if the training loss no longer falls, or validation no longer improves, at least a third of the constant prediction's
    error (or loss) is left on the very rows trained on, and the gap is less than a quarter of what is left. The floor that noise
    in the labels sets cannot be known from curves, so the confidence is modest by design. Where rows are at hand, what is left
    must be shared by rows that lie close, by two standard errors: noise is each row's own.
    """

    name, severity = "underfits", 3
    axis, pulls = "optimization", "capacity"
    code = "width = 2 * width"
    moves = ((with_larger_model,), (with_higher_rate(3), with_annealing), (with_less_regularization(10),))
    of_fit = True
    HIGH = 1 / 3  # of the constant prediction's error; a network able to fit goes on towards zero on its own rows
    HIGH_UNSURE = 2 / 3  # where only the start of the log stands in for the constant prediction
    SMALL_GAP = 0.25  # of what is left: more than three quarters of the error is there on training rows already
    SURE_GAP = 0.5  # of what is left: how far the gap may be uncertain for it to be called small
    SHARED = 2.0  # standard errors: one in forty where all that is left is noise
    FEWEST = 8  # coming to rest cannot be told from fewer epochs
    LEVER = (
        "more capacity (width, depth, features) or better optimization (learning rate, longer); "
        "more regularization will not help"
    )

    def judge(self, curves: Curves) -> Finding | None:
        share = measure.remaining(curves)
        if share is None or not self.high_and_at_rest(curves, share) or not shows_learning(curves):
            return None
        if OverRegularized().judge(curves) is not None or learning_rates.RateTooHigh().judge(curves) is not None:
            return None  # the same symptom with its cause known
        left = curves.signals.leftover if curves.signals is not None else None
        if left is not None and left < self.SHARED:
            return None
        confidence = 0.35 + 0.4 * min(share.train, 1.0)
        gap, whose = measure.generalization_gap(curves), "constant prediction's" if share.certain else "first"
        return self.finding(
            confidence if share.certain else min(confidence, 0.5),
            {**measured("validation minus training loss", gap.estimate, gap.low, gap.high),
             "left": share.train, "of": share.of, **end_of(curves)},
            self.LEVER,
            f"Training came to rest with {share.train:.0%} of the {whose} {share.of} left on its own rows"
            ", and validation is hardly worse: the network underfits. (If the labels are that noisy, no network can do better.)",
        )  # fmt: skip

    @classmethod
    def high_and_at_rest(cls, curves: Curves, share: RelativeError) -> bool:
        """High on the training rows, at rest, and with a gap that is small beside it."""
        if len(curves.train) < cls.FEWEST or not math.isfinite(share.train):
            return False
        high = share.train >= (cls.HIGH if share.certain else cls.HIGH_UNSURE)
        gap = share.valid - share.train if share.certain else abs(share.valid - share.train)
        sure = measure.Z * gap_se(curves, share) < cls.SURE_GAP * share.train
        small = gap < cls.SMALL_GAP * share.train and sure
        seen = share.certain or share.of == "error" or (share.train <= 0.9 and not measure.began_late(curves))
        going_on = falls(curves.train_loss, curves.fact("constant_loss")) and improves(curves.valid_loss)
        going_on = going_on or (not share.certain and falls(curves.valid_loss, curves.fact("constant_loss")))
        return high and small and seen and not going_on


class OverRegularized(Rule):
    """What regularizes costs more than it saves: even the training rows are fitted badly, and there is no gap to close.

    Holds only where the source says that something regularizes. The clean training loss is high and at rest as
    ``underfits`` demands (or a third of the constant prediction's is left, or it never left that), the gap is not reliably above
    a twentieth of the
    training loss, and the regularized cost exceeds the clean training loss by at least a tenth of it (or
    nothing was learned, and the weights shrank to a tenth or a dropout takes seven of ten). In fewer than eight epochs nothing
    was learned only if nine tenths of the reference are left. Without the cost
    the confidence is low: the strength cannot be seen. In a loop of one's own the excess is measured: what dropout and other
    noise of the model add to the loss of the same rows, and half of the pull that a weight decay must hold out against the
    gradient, which is what it costs where it is at rest.

    Or if all weights are exactly 0.

    Or, seen from inside, if noise takes what the network can do: at rest, with the noise on, half of the
    constant prediction's loss is left, and the noise is a fifth of the clean loss or more. Such a network spends itself on
    withstanding the noise, and clean rows are fitted worse for it; where the gap is less than half of that, more is paid than
    there is to save.
    """

    name, severity = "over_regularized", 3
    explains = ("not_learning", "rate_too_high")
    overrules = ("underfits",)
    axis, pulls = "regularization", "regularizer"
    code = 'for group in optimizer.param_groups: group["weight_decay"] /= 10'
    moves = ((with_less_regularization(10),), (with_less_regularization(3),), (with_less_regularization(100),))
    of_fit = True
    EXCESS = 0.1  # of the clean training loss: what is charged besides it is a sizeable part of what is minimized
    NO_GAP = 0.05  # of the training loss
    SHRUNK = 0.1  # of the weights' norm at the first epoch: what is left of a network that decay has taken
    NOISE = 0.2  # of the clean loss: what people see in a plot
    HALF = 0.5  # of the constant prediction's loss: with its noise the network does not do half of what there is to do

    def judge(self, curves: Curves) -> Finding | None:
        zeros = measure.finite_values(curves.zeros)
        if len(zeros) and float(zeros[-1]) >= 1.0:
            return self.finding(
                0.97, {"zeros": 1.0, **end_of(curves)},
                "regularize less: lower the strengths by ten; weights that begin at 0 need a start of their own",
                "All weights of the network are exactly 0, so that it says the same for every row: nothing is left of it.",
            )  # fmt: skip
        share, epochs, constant = measure.remaining(curves), len(curves.train), curves.fact("constant_loss")
        if share is None or not regularizes(curves) or epochs < FEWEST_EPOCHS:
            return None
        gap, train, toll = measure.generalization_gap(curves), measure.end(curves.train_loss), self._drowned(curves)
        dropped = dropout(curves)
        much = dropped >= DROPPED
        # Nine tenths of the constant prediction's loss may be left though the answers are better than it.
        hardly = constant is not None and train >= (1 - self.EXCESS) * constant > 0
        # Of a short log noise hides a fall, so that what came down may come down further: it is not stuck.
        stuck = not shows_learning(curves) and (epochs >= Underfits.FEWEST or share.train >= 1 - self.EXCESS)
        stuck = (stuck and not comes_down(curves)) or (much and hardly)
        shrunk = self._shrunk(curves) or much
        if not stuck and not toll and not self._loss_left(curves) and not Underfits.high_and_at_rest(curves, share):
            return None
        if math.isfinite(gap.estimate) and gap.estimate > max(self.NO_GAP * abs(train), measure.Z * gap.se, toll / 2):
            return None
        excess = self._excess(curves, train)
        if excess is not None and not excess >= self.EXCESS and not (stuck and shrunk):
            return None
        sure = 0.8 if stuck and shrunk else 0.45 if excess is None else 0.5 + 0.3 * min(excess, 1.0)
        return self.finding(
            sure,
            {**measured("validation minus training loss", gap.estimate, gap.low, gap.high), "left": share.train,
             "of": share.of, **end_of(curves), **({} if excess is None else {"excess": excess}),
             **({"dropout": dropped} if dropped else {})},
            "regularize less: lower the strengths (by three to ten times), the dropout or the noise, and train again",
            f"On its own training rows {min(share.train, 9.99):.0%} of a constant prediction's {share.of} is left, and there is no "
            "gap to validation to close: the network is over-regularized.",
        )  # fmt: skip

    @staticmethod
    def _loss_left(curves: Curves) -> bool:
        """Whether a third of the constant prediction's loss is left at rest, like for like, though the answers may be right: small
        weights make unsure answers."""
        constant, sides = curves.fact("constant_loss"), (curves.train_loss, curves.valid_loss)
        if constant is None or not curves.facts.get("like_for_like") or len(curves.train) < Underfits.FEWEST:
            return False
        return measure.end(sides[0]) >= Underfits.HIGH * constant > 0 and not all(falls(y, constant) for y in sides)

    @classmethod
    def _shrunk(cls, curves: Curves) -> bool:
        """Whether the weights came down to a tenth of what they were: all of them, or half of those that multiply inputs."""
        signals, norms = curves.signals, measure.finite_values(curves.weight_norm)
        if signals is not None and signals.first is not None and signals.last is not None:
            sizes = {layer.name: layer.size for layer in signals.first.layers if layer.role == "weight"}
            left = [layer.size / size for layer in signals.last.layers if (size := sizes.get(layer.name, 0.0)) > 0]
            if left and float(np.median(left)) < cls.SHRUNK:
                return True
        return len(norms) > 1 and float(norms[-1]) < cls.SHRUNK * float(norms[0])

    @classmethod
    def _drowned(cls, curves: Curves) -> float:
        """The toll of noise inside the network, if it takes most of what the network can do, at rest; else 0."""
        toll, constant = curves.signals.toll if curves.signals is not None else None, curves.fact("constant_loss")
        if toll is None or constant is None or len(curves.train) < Underfits.FEWEST:
            return 0.0
        large = toll.noise >= cls.NOISE * abs(toll.loss) and toll.noise > 3 * toll.error
        most = large and toll.loss + toll.noise >= cls.HALF * constant > 0
        return toll.noise if most and not falls(curves.train_loss, constant) else 0.0

    @staticmethod
    def _excess(curves: Curves, train: float) -> float | None:
        """What the cost has besides the clean loss, as a share of that loss; None where the cost is unknown."""
        cost, penalty = measure.end(curves.cost), measure.end(curves.penalty)
        toll = curves.signals.toll if curves.signals is not None else None
        if not math.isfinite(cost) and toll is not None and math.isfinite(toll.noise):
            cost = train + toll.noise + toll.decay + (penalty if math.isfinite(penalty) else 0.0)
        elif not math.isfinite(cost) and math.isfinite(penalty):
            cost = train + penalty
        return (cost - train) / abs(train) if math.isfinite(cost) and train else None
