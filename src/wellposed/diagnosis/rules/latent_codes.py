"""Autoencoders whose decoder has given its code up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_less_regularization
from wellposed.diagnosis.rules.rule import FEWEST_EPOCHS, Inside, improves, measured

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals


class PosteriorCollapse(Inside):
    """The code of a variational autoencoder says nothing of its row, or its decoder does not listen.

    Holds if the loss does not rise when every row is decoded from another row's code; or if it rises by less than a tenth of
    itself, and all dimensions of the code together say less than one bit of which row it is. It is not asked in the first half of a
    warm-up; nor, of a code that says a hundredth of a nat, while the training loss falls by a tenth of all its progress in the last
    quarter: every decoder begins by learning the mean of all rows, and turns to the code afterwards.
    """

    name, severity = "posterior_collapse", 3
    axis, pulls = "regularization", "regularizer"
    code = 'wp.KLToStandardNormal(1.0, free=0.1).on("code", schedule=wp.ramp(1000))'
    explains = ("not_learning",)
    moves = ((with_less_regularization(10),), (with_less_regularization(100),))
    BIT, LITTLE, IGNORED, NOTHING, WARM, MOVING = math.log(2), 0.1, 1e-3, 0.01, 0.5, 0.1
    LEVER = (
        "let the strength of the divergence rise from 0 over the first tenth of training, leave each dimension some free nats, "
        "lower the strength (beta), or make the decoder weaker"
    )

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        values = curves.train
        if not signals.codes or len(values) < FEWEST_EPOCHS:
            return None
        moves = measure.trend(curves.train_loss).gain >= self.MOVING * measure.progress(values, None)
        falls = moves and improves(curves.train_loss)
        for seen in signals.codes:
            told = float(seen.told.sum())
            ignored = seen.rise <= max(self.IGNORED * abs(seen.loss), 2 * seen.error)
            empty = told < self.BIT and seen.rise < self.LITTLE * abs(seen.loss)
            if not (empty or ignored) or seen.charged < self.WARM or (falls and told >= self.NOTHING):
                continue
            return self.finding(
                0.9 if ignored else 0.7,
                {
                    **measured("rise of the loss with exchanged codes", seen.rise, seen.error),
                    "place": seen.place, "dimensions": len(seen.nats), "told": told, "nats": float(seen.nats.sum()),
                },
                self.LEVER,
                f"the code {seen.place!r} says at most {told:.2g} nats of which row it is, and rows that are decoded from each "
                f"other's codes cost {seen.rise:.2g} more, of {seen.loss:.3g}: the decoder does without its code (posterior "
                "collapse).",
            )  # fmt: skip
        return None
