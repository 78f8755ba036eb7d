"""Batch norm and modes: trained in evaluation mode, evaluated in training mode, statistics of a handful of rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_averaging, with_larger_batches, with_lower_rate
from wellposed.diagnosis.rules.rule import Inside, measured

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals


DISAGREES = 0.2  # of the loss: a fifth is what people see in a plot


def disagree(signals: Signals, share: float = DISAGREES) -> bool:
    """Whether the loss of the same rows differs between batch norms in training and in evaluation mode, beyond noise."""
    difference, error, loss = signals.disagreement or (0.0, math.inf, math.nan)
    return abs(difference) > share * abs(loss) and abs(difference) > 3 * error


class ForgottenMode(Inside):
    """The loop trains in evaluation mode, or evaluates in training mode.

    Asked only where a module minds (batch norm, dropout). Holds if in a third of the epochs with training no forward
    pass with gradients was in training mode (``model.train()`` forgotten, often after the first validation), or if in
    two epochs or more the passes without gradients were all in training mode (``model.eval()`` forgotten) and rows of
    validation were among them, at least half as often as training rows: those alone are passed so where statistics are
    estimated anew for averaged weights, and made rows within a step. Modules that are frozen one by one are not asked: the
    mode is the whole model's. A network that no step moves is evaluated with gradients, not trained.
    """

    name, severity = "forgotten_mode", 2
    axis, pulls = "optimization", "loop"
    code = "model.train()  # before training; model.eval() before evaluating"
    SHARE = 1 / 3
    SEEN = 0.1

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        if not signals.moody:
            return None
        training = [f for f in signals.forwards if f.trained + f.trained_evaluating]
        asleep = [f for f in training if not f.trained]
        if signals.learns and asleep and len(asleep) >= max(self.SHARE * len(training), 1):
            return self.finding(
                0.95, {**measured("share of epochs", len(asleep) / len(training)), "epochs": len(training)},
                "call model.train() at the beginning of each epoch",
                f"In {len(asleep)} of {len(training)} epochs the loop trained in evaluation mode, without dropout and with the "
                "running statistics of batch norm: the mode was forgotten.",
            )  # fmt: skip
        looked = [f for f in signals.forwards if f.evaluated + f.evaluated_training]
        noisy = [f for f in looked if not f.evaluated]
        seen = signals.unlearned.get("valid", 0.0)
        validated = seen >= max(self.SEEN, signals.unlearned.get("train", 0.0) / 2)
        if validated and len(noisy) >= 2 and len(noisy) > len(looked) / 2:
            return self.finding(
                0.9, {**measured("share of epochs", len(noisy) / len(looked)), "epochs": len(looked)},
                "call model.eval() before evaluating and model.train() after it",
                f"In {len(noisy)} of {len(looked)} epochs the loop evaluated in training mode, which adds dropout's noise and "
                "moves batch norm's statistics by rows of validation: the mode was forgotten.",
            )  # fmt: skip
        return None


class BatchTooSmall(Inside):
    """Batches are too small for batch norm: its statistics are those of a handful of values.

    Holds if a batch norm takes its mean and variance of fewer than 8 values (with 8, a variance is off by half of itself
    in one batch of three); or if a batch has at most 16 rows and the loss of the same rows in training mode of the
    batch norms differs from that in evaluation mode by a fifth of it and by three standard errors, as where the many
    positions of an image resemble each other.
    """

    name, severity = "batch_too_small", 3
    axis, pulls = "optimization", "loop"
    code = "train = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True)"
    moves = ((with_larger_batches(32),), (with_lower_rate(3), with_averaging))
    VALUES = 8
    DISAGREES = DISAGREES

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        inspection = signals.last
        if not signals.norms or inspection is None or signals.batch is None or inspection.values is None:
            return None
        difference, error, loss = signals.disagreement or (math.nan, math.inf, math.nan)
        few, apart = inspection.values < self.VALUES, disagree(signals, self.DISAGREES)
        if not (few or apart):
            return None
        return self.finding(
            0.95 if few and apart else 0.85 if few else 0.75,
            {**measured("loss in training minus evaluation mode", difference, error),
             "batch": signals.batch, "values": inspection.values, "loss": loss},
            "use larger batches, or group or layer norm, whose statistics are each row's own",
            f"Batches of {signals.batch} rows give batch norm {inspection.values} values a channel"
            f"{', and training and evaluation mode disagree' if apart else ''}: they are too small for a mean and a variance.",
        )  # fmt: skip
