"""Autoencoders whose decoder has given its code up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_less_regularization
from wellposed.diagnosis.rules.rule import FEWEST_EPOCHS, Inside, improves, measured

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals


class PosteriorCollapse(Inside):
    """The code of a variational autoencoder is that of the prior for every row, and the decoder does without it.

    Holds if most dimensions of a code hold less than a hundredth of a nat, and the loss rises by less than a fiftieth of itself
    when every row is decoded from another row's code. Both are needed: a good autoencoder with a wide code leaves dimensions
    empty and uses the others. It is not asked in the first half of a warm-up, nor while the training loss falls by a tenth of all
    its progress in the last quarter: every decoder begins by learning the mean of all rows, and turns to the code afterwards.
    """

    name, severity = "posterior_collapse", 3
    axis, pulls = "regularization", "regularizer"
    code = 'wp.KLToStandardNormal(1.0, free=0.1).on("code", schedule=wp.ramp(1000))'
    explains = ("not_learning",)
    moves = ((with_less_regularization(10),), (with_less_regularization(100),))
    EMPTY, MOST, IGNORED, WARM, MOVING = 0.01, 0.5, 0.02, 0.5, 0.1
    LEVER = (
        "let the strength of the divergence rise from 0 over the first tenth of training, leave each dimension some free nats, "
        "lower the strength (beta), or make the decoder weaker"
    )

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        values = measure.finite_values(curves.train_loss)
        if not signals.codes or len(values) < FEWEST_EPOCHS:
            return None
        moves = measure.trend(curves.train_loss).gain >= self.MOVING * measure.progress(values, None)
        if moves and improves(curves.train_loss):
            return None
        for seen in signals.codes:
            empty = float((seen.nats < self.EMPTY).double().mean())
            ignored = seen.rise <= max(self.IGNORED * abs(seen.loss), 2 * seen.error)
            if empty <= self.MOST or not ignored or seen.charged < self.WARM:
                continue
            return self.finding(
                0.9 if empty == 1 else 0.7,
                {
                    **measured("rise of the loss with exchanged codes", seen.rise, seen.error),
                    "place": seen.place, "dimensions": len(seen.nats), "empty": int((seen.nats < self.EMPTY).sum()),
                    "nats": float(seen.nats.sum()),
                },
                self.LEVER,
                f"{int((seen.nats < self.EMPTY).sum())} of {len(seen.nats)} dimensions of the code {seen.place!r} hold less than "
                f"{self.EMPTY:g} nats, and rows can be decoded from each other's codes: the code says nothing of its "
                "row (posterior collapse).",
            )  # fmt: skip
        return None
