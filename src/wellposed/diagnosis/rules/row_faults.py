"""Faults of the rows: their order, rows or features that give the answer away, wrong labels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_averaging, with_decay, with_lower_rate
from wellposed.diagnosis.rules.batch_norm import disagree
from wellposed.diagnosis.rules.rule import Inside, end_of, measured
from wellposed.statistics.student import student_quantile

if TYPE_CHECKING:
    from wellposed.diagnosis.row_checks import Wrong
    from wellposed.diagnosis.signals import Signals


class Unshuffled(Inside):
    """Batches come in an order that goes with the targets.

    Holds if the loader goes through its rows one after the other and the targets within a batch resemble each other: an
    intraclass correlation of .3 or more, ten standard deviations from what shuffling gives. Each step then learns one class
    and forgets another. Only a DataLoader shows its order; arrays that a loop cuts into batches itself do not.
    """

    name, severity = "unshuffled", 3
    beyond = "shuffled"
    axis, pulls = "optimization", "data"
    code = "train = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True)"
    RESEMBLANCE = 0.3  # a third of the variance lies between batches; sorted rows have nearly all there
    SURE = 10.0

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        order = signals.order
        if order is None or order.resemblance < self.RESEMBLANCE or order.z < self.SURE:
            return None
        return self.finding(
            0.95,
            {**measured("resemblance within a batch", order.resemblance), "z": order.z, "batches": order.batches},
             "shuffle: DataLoader(..., shuffle=True)",
            f"{order.resemblance:.0%} of the variance of the {order.of} lies between batches: the rows are not shuffled.",
        )  # fmt: skip


class Leakage(Inside):
    """Rows of validation are in training too, or a single feature gives the target away.

    Copies (equal inputs and target): holds if at least five rows and 2 % of validation have a copy in training beyond the
    share of training rows that have one in the rest of training, by three standard errors: a table whose rows agree by chance
    has as many on both sides of a random split. Training's own copies count only as far as rows may agree by chance, which
    the columns bound in which the fewest different rows agree; what is beyond was copied before the split. Rows of
    one Dataset by number count the same. A giveaway: one feature explains 98 % of the target on validation rows and no
    other feature 70 %. Easy data may look so; what was seen is said, and the confidence is modest.
    Curves alone show it where both losses are the same number in every epoch, in at least five of them one of four digits or more.
    """

    name, severity = "leakage", 1
    axis, pulls = "evidence", "data"
    code = "table = table.drop_duplicates()  # before it is split"
    SHARE, FEWEST = 0.02, 5  # of validation: less moves a loss by less than its usual standard error
    EXPLAINS, NEXT = 0.98, 0.7
    VAST = 1e3

    def judge(self, curves: Curves) -> Finding | None:
        return self._same(curves) or super().judge(curves)

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        return self._copies(signals) or self._giveaway(signals)

    def _same(self, curves: Curves) -> Finding | None:
        both = np.isfinite(curves.train_loss) & np.isfinite(curves.valid_loss)
        train, valid = curves.train_loss[both], curves.valid_loss[both]
        told = {x for x in train.tolist() if x != float(f"{x:.3g}")}
        if len(told) < self.FEWEST or not (train == valid).all():
            return None
        if train.min() > self.VAST * (curves.fact("constant_loss") or math.inf):
            return None  # beside outputs so large no target matters, so that any rows give the same number
        found = self.finding(
            0.9, {"epochs": len(train), **end_of(curves)},
            "compute the validation loss on rows that are not trained on; then judge again",
            "Training and validation loss are the same number in every epoch: they are of the same rows, and nothing is known "
            "about new ones.",
        )  # fmt: skip
        return replace(found, code="train, valid = torch.utils.data.random_split(dataset, [0.8, 0.2])")

    def _copies(self, signals: Signals) -> Finding | None:
        found = signals.copies
        if found is None or not found.share > 0:
            return None
        own = min(found.within, found.natural)
        excess = found.valid - own
        error = math.sqrt(max(found.valid * (1 - found.valid), 1 / found.rows) / found.rows)
        if not (excess >= self.SHARE * found.share and excess > 3 * error and excess * found.rows >= self.FEWEST):
            return None
        share = min(1.0, excess / found.share)
        says = "are the same rows of one Dataset as" if found.known else "have an exact copy among the"
        return self.finding(
            0.98 if found.known or own < self.SHARE else 0.85,
            {**measured("share of validation rows in training", share, max(0.0, (excess - 1.96 * error) / found.share),
             min(1.0, (excess + 1.96 * error) / found.share)), "rows": found.rows, "within_training": found.within},
            "split anew so that no row, and no copy of one, is on both sides; then judge again, since the validation loss "
            "says nothing about new rows",
            f"{share:.0%} of the validation rows {says} training rows: validation leaks, and its loss is too good to be true.",
        )  # fmt: skip

    def _giveaway(self, signals: Signals) -> Finding | None:
        found = signals.giveaway
        if found is None or found.explains < self.EXPLAINS or found.next > self.NEXT:
            return None
        return self.finding(
            0.7,
            {**measured("share of the target explained", found.explains), "next": found.next, "feature": found.feature,
             "rows": found.rows},
            f"ask whether feature {found.feature} is known before the target is; if not, drop it",
            f"Feature {found.feature} alone explains {found.explains:.1%} of the target on validation rows, the next one "
            f"{found.next:.0%}: it may give the target away.",
        )  # fmt: skip


class LabelNoise(Inside):
    """A sizeable share of the labels is wrong, as far as can be told from where the network is sure.

    Overlapping classes are confused near their boundary, where a network is unsure; wrong labels lie anywhere. So the
    share is estimated among the fifth of the rows on which the network is surest. Holds if its 95 % interval lies above
    5 %, and it is at least 45 % of the error rate over all rows and not reliably above it (outlying rows are missed
    with the greatest confidence): on validation rows, or on training rows where training did not fit them. Also
    if at the best epoch the training error was above the validation error by 5 % and four standard errors, as with
    labels that are wrong in training only. Silent where most contradicting labels are those of the rows around them too:
    then it is the network that is wrong there, for want of capacity. Silent where the network is bad in general: its error
    must be below 60 % of
    that of the most frequent class. Noise and classes that overlap everywhere look the same. (Confident learning,
    Northcutt et al. 2021, counts confident contradictions by thresholds of calibrated probabilities, which an
    overfitted network does not have; ranks by margin need none.)
    """

    name, severity = "label_noise", 4
    axis, pulls = "regularization", "data"
    code = "loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)"
    moves = ((with_decay(0.5),), (with_decay(0.5),), (with_lower_rate(3), with_averaging))
    SHARE = 0.05  # real data sets have about 3 % (Northcutt et al. 2021, ten test sets); more is worth a lever
    FLAT = (
        0.45  # on clean rows that overlap networks had up to .27 as many errors among the surest, on noisy ones .5 to 1
    )
    BAD = 0.6
    SHARED = 0.5  # of the contradicted answers: wrong labels have neighbours that know better
    FITTED = 0.5  # training error below half of the validation error: then twice the share is asked for
    LEVER = (
        "look at the rows that the surest answers contradict and relabel them; train against the noise with label "
        "smoothing, a robust loss (absolute error, generalized cross-entropy) or early stopping"
    )

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        if disagree(signals):  # in evaluation mode the answers are not those of the network that was trained
            return None
        train, valid = signals.wrong.get("train"), signals.wrong.get("valid")
        # A network that fits its training rows far better than new ones is surely wrong on some new ones by itself.
        fitted = train is not None and valid is not None and train.all < self.FITTED * valid.all
        for side, found in (("validation", valid), ("training", train)):
            if found is not None and (seen := self._sure(found, side, 2.0 if fitted else 1.0)) is not None:
                return seen
        return self._early(curves)

    def _sure(self, found: Wrong, side: str, twice: float) -> Finding | None:
        low, high = wilson(found.sure, found.sure_rows)
        if found.all > self.BAD * found.expected or low < twice * self.SHARE:
            return None
        if found.sure < self.FLAT * found.all or low > found.all or found.shared >= self.SHARED:
            return None
        return self.finding(
            0.6 + 0.3 * min(1.0, found.sure / max(found.all, 1e-12)) * min(1.0, low / (2 * self.SHARE)),
            {**measured("share of wrong labels", found.sure, low, high), "rows": found.sure_rows, "error": found.all,
             "side": side},
            self.LEVER,
            f"Where the network is surest, {found.sure:.0%} of the {side} labels contradict it ({found.all:.0%} over all rows): "
            "about so many labels seem wrong. Noise and classes that overlap everywhere cannot be told apart.",
        )  # fmt: skip

    def _early(self, curves: Curves) -> Finding | None:
        """Labels that are wrong in training only: training rows are hit less often than validation rows, before they are fitted."""
        train, valid = measure.error_rate(curves, "train"), measure.error_rate(curves, "valid")
        rows, best = curves.fact("valid_rows"), measure.best_index(curves)
        if train is None or valid is None or not rows or best is None or not curves.facts.get("like_for_like"):
            return None
        a, b = float(train[best]), float(valid[best])
        error = math.sqrt((a * (1 - a) + b * (1 - b) + 1 / rows) / rows)
        chance = measure.chance_error(curves)
        if not (a - b >= self.SHARE and a - b > 4 * error) or chance is None or b > self.BAD * chance:
            return None
        return self.finding(
            0.7, {**measured("training minus validation error", a - b, error), "side": "training"}, self.LEVER,
            f"At the best epoch training rows were missed more often than validation rows, by {100 * (a - b):.0f} percentage "
            "points: about so many training labels seem wrong. Harder training rows would look the same.",
        )  # fmt: skip


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``rows``."""
    z2 = student_quantile(0.975, 1e6) ** 2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * rows)) / rows) / (1 + z2 / rows)
    return middle - half, middle + half
