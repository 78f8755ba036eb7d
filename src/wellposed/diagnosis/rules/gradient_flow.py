"""Gradients on their way from the last layer to the first: they vanish, or they explode."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import (
    with_adaptive_optimizer,
    with_annealing,
    with_clipping,
    with_higher_rate,
    with_lower_rate,
)
from wellposed.diagnosis.rules.input_scales import unscaled
from wellposed.diagnosis.rules.rule import Inside, measured, shows_learning

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals
    from wellposed.training.inspection import Inspection


def relative(inspection: Inspection | None) -> dict[str, float]:
    """Gradient over size of each weight that the loss depends on and that is not zero, in the order in which data reach them."""
    layers = inspection.layers if inspection is not None else ()
    known = (layer for layer in layers if layer.role == "weight" and layer.gradient > 0)
    return {layer.name: layer.relative for layer in known if math.isfinite(layer.relative)}


def ends(gradients: dict[str, float]) -> tuple[float, float]:
    """The median over the first third of the layers and the largest over the last third, at least one layer each."""
    values = list(gradients.values())
    third = max(1, len(values) // 3)
    return float(np.median(values[:third])), max(values[-third:])


class VanishingGradients(Inside):
    """Gradients shrink from the last layer to the first, so much that the first layers do not learn.

    Holds if the gradient relative to the weights is in the first third of the layers below a thousandth of that in the
    last third, and below a hundredth whenever else it was looked at (first weights and last; in a loop, what it left
    after its first epoch); and if that did harm: the network did not learn, or the first layers moved by less than a tenth
    of what the last ones did. A zero-initialized head shrinks them at the first weights alone, and normalized steps
    (Adam) may undo the harm: neither is called vanishing. The thousandth is AutoTrainer's (ICSE 2021) first/last ratio;
    its second condition, a first norm below 1e-4, depends on the unit of the loss and is replaced by the harm.
    """

    name, severity = "vanishing_gradients", 2
    beyond = "anew"
    axis, pulls = "optimization", "capacity"
    code = "block = torch.nn.Sequential(torch.nn.Linear(n, n), torch.nn.LayerNorm(n), torch.nn.ReLU())"
    moves = ((with_higher_rate(3), with_annealing), (with_adaptive_optimizer,))
    RATIO = 1e-3  # AutoTrainer's; healthy networks of 2 to 50 layers lie between .03 and 30
    STAYS = 1e-2  # as training goes on the ratio grows, unless the fault is mended
    FEWEST_LAYERS = 3  # one layer between the first and the last: where its units are saturated, that is enough
    LAGS = 0.1  # the first layers learn at a tenth of the pace: a tenth of the learning rate
    LEVER = (
        "normalize between the layers (batch or layer norm), use ReLU-like activations with He initialization in place "
        "of sigmoid or tanh, add residual connections, or use fewer layers"
    )

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        first, last = relative(signals.first), relative(signals.last)
        if signals.first is not None:
            # A factor that begins at zero stays small, and the one beside it gets little for it.
            last = {name: gradient for name, gradient in last.items() if name in first}
        seen = [gradients for gradients in (first, last) if len(gradients) >= self.FEWEST_LAYERS]
        left = {name: signals.left[name] for name in (seen or [{}])[-1] if signals.left.get(name)}
        seen += [left] if len(left) >= self.FEWEST_LAYERS else []
        ratios = [first / last for first, last in map(ends, seen)]
        if not seen or min(ratios) >= self.RATIO or max(ratios) >= self.STAYS:
            return None
        unlearned, lag = not shows_learning(curves), self._lag(signals, list(seen[-1]))
        if not (unlearned or lag < self.LAGS):
            return None
        worst = min(ratios)
        depth = math.log10(self.RATIO / worst) if worst > 0 else 9.0
        return self.finding(
            min(0.95, (0.9 if unlearned else 0.75) + 0.05 * depth),
            {**measured("relative gradient, first over last layers", worst), "layers": len(seen[-1]),
             "threshold": self.RATIO, "first_layers_moved": lag},
            self.LEVER,
            f"Relative to the weights, the gradients of the first layers are {worst:.1g} of those of the last, and "
            f"{'the network did not learn' if unlearned else 'the first layers hardly moved'}: gradients vanish on their way back.",
        )  # fmt: skip

    @staticmethod
    def _lag(signals: Signals, names: list[str]) -> float:
        """How far the first layers moved over how far the last did; infinite where it is not known."""
        moved = {name: signals.moved[name] for name in names if math.isfinite(signals.moved.get(name, math.nan))}
        if len(moved) < VanishingGradients.FEWEST_LAYERS:
            return math.inf
        first, last = ends(moved)
        return first / last if last > 0 else math.inf


class ExplodingGradients(Inside):
    """Gradients are so large that no step of a usual size can bear them.

    With ``e = |gradient| |weights| / loss of the constant prediction`` of a layer, a change of its weights by ``1/e``
    of their size moves the loss by all that there is to learn. Holds if ``e`` exceeds 70 somewhere at the first weights,
    or if the gradient's norm once exceeded 70 times its median over the epochs while the loss jumped. Unscaled inputs
    have a finding of their own, so ``e`` is only asked where inputs are scaled. 70 is AutoTrainer's (ICSE 2021) ratio of
    gradients between neighbouring layers; healthy networks of 29 kinds had ``e`` from .01 to 18.
    """

    name, severity = "exploding_gradients", 1
    beyond = "anew"
    axis, pulls = "optimization", "optimizer"
    code = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()"
    moves = ((with_clipping,), (with_lower_rate(10), with_clipping), (with_lower_rate(100),))
    RATIO = 70.0
    LEVER = (
        "clip gradients by their norm, initialize with a smaller scale (He or orthogonal, gain 1), normalize between "
        "the layers; then lower the learning rate"
    )

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        growth, layer = self._elasticity(curves, signals)
        spike = self._spike(curves)
        if growth > self.RATIO and unscaled(signals) is None:
            return self.finding(
                min(0.95, 0.75 + 0.1 * math.log10(growth / self.RATIO)),
                {**measured("gradient times weights, over the loss", growth), "layer": layer, "threshold": self.RATIO},
                self.LEVER,
                f"A change of '{layer}' by 1/{growth:.3g} of its size moves the loss by all that there is to learn: gradients "
                "explode.",
            )  # fmt: skip
        if spike > self.RATIO:
            return self.finding(
                0.75, {**measured("largest over usual gradient", spike), "threshold": self.RATIO}, self.LEVER,
                f"Once the gradients' norm was {spike:.3g} times its median, and the loss jumped: gradients explode.",
            )  # fmt: skip
        return None

    @staticmethod
    def _elasticity(curves: Curves, signals: Signals) -> tuple[float, str]:
        if signals.first is None:
            return 0.0, ""
        scale = abs(curves.fact("constant_loss") or signals.first.loss)
        layers = [one for one in signals.first.layers if one.role == "weight" and math.isfinite(one.gradient)]
        found = [(one.gradient * one.size / scale, one.name) for one in layers if scale > 0]
        return max(found, default=(0.0, ""))

    @staticmethod
    def _spike(curves: Curves) -> float:
        """The largest gradient norm over the median, if the training loss of that epoch was above its start."""
        norms, losses = curves.grad_norm, curves.train_loss
        values = measure.finite_values(norms)
        if len(values) < 5 or not np.median(values) > 0:
            return 0.0
        at = int(np.nanargmax(np.where(np.isfinite(norms), norms, -np.inf)))
        start = curves.train[:1]
        jumped = len(start) > 0 and at > 0 and not losses[at] <= start[0]
        return float(norms[at] / np.median(values)) if jumped else 0.0
