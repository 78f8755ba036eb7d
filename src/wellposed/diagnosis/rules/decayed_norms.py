"""Who is charged: decay on norm layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_selective_decay
from wellposed.diagnosis.rules.rule import MATERIAL_PROGRESS, Inside, measured

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals


class DecayedNorms(Inside):
    """The decay that the optimizer or a term applies charges gains and shifts of norm layers too, and it shows.

    A decay of a gain does not bound the function, since the layers around it make up for it; it only scales the
    gradients. Holds if over the run it took a fiftieth or more of what the norms had: ``1 - prod(1 - lr * decay)``. The default of
    AdamW (.01 at 1e-3) takes a thousandth in 100 steps, and is left alone in short runs.
    """

    name, severity = "decayed_norms", 6
    axis, pulls = "regularization", "regularizer"
    code = "optimizer = wp.regularize(optimizer, model, [wp.L2(1e-2).on(wp.weights)])  # with weight_decay=0 in the optimizer"
    moves = ((with_selective_decay,),)

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        charges = signals.charges
        if charges is None or charges.pulled < MATERIAL_PROGRESS:
            return None
        return self.finding(
            0.85,
            {**measured("share of the norms that decay took", charges.pulled), "strength": charges.strength,
             "parameters": len(charges.names)},
            "decay weights alone: wp.regularize(optimizer with weight_decay=0, model, [wp.L2(strength).on(wp.weights)]), or "
            "a parameter group of its own with weight_decay=0 for norms and biases",
            f"Weight decay took {charges.pulled:.0%} of {len(charges.names)} parameters of norm layers ('{charges.names[0]}'...) "
            "over the run: it charges what it should leave alone.",
        )  # fmt: skip
