"""Units and layers that say nothing or do nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.moves import with_annealing, with_clipping, with_lower_rate
from wellposed.diagnosis.rules.row_faults import Unshuffled
from wellposed.diagnosis.rules.rule import Inside, measured, regularizes

if TYPE_CHECKING:
    from wellposed.diagnosis.signals import Signals
    from wellposed.training.inspection import Units

LEAST_PULL = 1e-2  # of the strongest relative gradient: what is pulled so much moves within two epochs
FEWEST_ROWS = 64  # rows on which a unit must be 0: a useful one may fire on one row in twenty


class DyingUnits(Inside):
    """A large share of the units behind ReLUs is 0 on every row.

    Holds if at the last weights half of all such units are 0 on every row looked at, or 70 % of those behind one ReLU
    of eight units or more: then the layer is narrower than it was made, and its dead units get no gradient that could
    revive them. 70 % is AutoTrainer's (ICSE 2021) share of zero gradients for a dying ReLU. Where a regularizer
    made weights exactly zero, units are gone on purpose and it is not asked; nor where rows are unshuffled: the last batches
    are of one kind, for which units of the others fall silent, and that finding says what to mend.
    """

    name, severity = "dying_units", 3
    beyond = "anew"
    axis, pulls = "optimization", "optimizer"
    code = 'for group in optimizer.param_groups: group["lr"] /= 10'
    moves = ((with_lower_rate(10), with_annealing), (with_lower_rate(10), with_clipping))
    ALL, ONE = 0.5, 0.7
    FEWEST = 8  # of four units, three may well be of no use
    LEVER = (
        "lower the learning rate or warm it up, start biases at 0 and weights by He's rule, scale the inputs; or use "
        "leaky ReLU, GELU or a norm before the activation, which leave no unit without a gradient"
    )

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        inspection = signals.last
        if inspection is None or inspection.rows < FEWEST_ROWS or not inspection.units or _made_sparse(curves):
            return None
        if Unshuffled().judge(curves) is not None:
            return None
        total, dead = sum(u.count for u in inspection.units), sum(u.dead for u in inspection.units)
        worst = max((u for u in inspection.units if u.count >= self.FEWEST), key=_share, default=None)
        share = dead / total
        if not (total >= self.FEWEST and share >= self.ALL) and (worst is None or _share(worst) < self.ONE):
            return None
        born = signals.first
        evidence: dict[str, float | int | str | bool] = {
            **measured("share of dead units", share), "units": total, "dead": dead, "rows": inspection.rows,
            **({"worst": worst.place, "worst_share": _share(worst)} if worst else {}),
            **({"at_first": sum(u.dead for u in born.units) / max(sum(u.count for u in born.units), 1)} if born else {}),
        }  # fmt: skip
        return self.finding(
            0.9, evidence, self.LEVER,
            f"{dead} of {total} units behind ReLUs are 0 on all of {inspection.rows} rows"
            f"{f', most of them in {worst.place} with {_share(worst):.0%}' if worst else ''}: such units are dead, and "
            "get no gradient to revive.",
        )  # fmt: skip


def _share(units: Units) -> float:
    return units.dead / units.count


def _made_sparse(curves: Curves) -> bool:
    """Whether weights are exactly zero because something regularizes: then units are gone on purpose."""
    zeros = curves.zeros[-1] if len(curves.zeros) else math.nan
    return regularizes(curves) and math.isfinite(zeros) and zeros > 0.05


class DeadLayers(Inside):
    """A whole layer says nothing (its output is the same for every row) or does nothing (it never learns).

    Holds if a layer's outputs do not vary though its inputs do; if every unit behind a ReLU is 0 on every row; if the
    loss does not depend on a trainable layer (its gradient is exactly 0 whenever looked at, and it never moved); or, in
    a loop, if a trainable layer that gets a gradient never moved while others did (the optimizer does not hold it).
    Layers with ``requires_grad=False`` are frozen on purpose and not asked, nor those that a regularizer made zero.
    """

    name, severity = "dead_layers", 3
    beyond = "anew"
    explains = ("not_learning",)
    axis, pulls = "optimization", "capacity"
    code = "print([name for name, p in model.named_parameters() if p.grad is None])"

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        if signals.last is None or signals.last.rows < 2:
            return None
        for found, said, lever in (
            (self._silent(curves, signals), "gives the same output for every row", "a layer that says nothing passes nothing "
             "on: initialize it anew with a sane scale, lower the learning rate, check what comes before it; or remove it"),
            (self._unused(signals), "plays no part in the loss", "let its output reach the loss (a detach or a "
             "factor of 0 may cut it off), or remove it"),
            (self._still(signals), "never moved though it is trainable and has a gradient", "give its parameters to the "
             "optimizer, or set requires_grad=False to freeze it on purpose"),
        ):  # fmt: skip
            if found:
                names = ", ".join(f"'{name}'" for name in found[:3]) + (" and others" if len(found) > 3 else "")
                return self.finding(
                    0.9 if signals.last.rows >= FEWEST_ROWS else 0.6,
                    {**measured("dead layers", len(found)), "layer": found[0], "rows": signals.last.rows},
                    lever,
                    f"Layer {names} {said}: it is dead." if len(found) == 1 else
                    f"Each of the layers {names} {said}: they are dead.",
                )  # fmt: skip
        return None

    @staticmethod
    def _silent(curves: Curves, signals: Signals) -> list[str]:
        inspection = signals.last
        if inspection is None or inspection.rows < 16 or _made_sparse(curves):
            return []
        return [*inspection.silent, *(u.place for u in inspection.units if u.dead == u.count and u.count > 1)]

    @staticmethod
    def _unused(signals: Signals) -> list[str]:
        seen = [one.layers for one in (signals.first, signals.last) if one is not None and one.layers]
        reached = [{one.name for one in layers if one.gradient > 0 or signals.moved.get(one.name)} for layers in seen]
        weights = [one.name for one in seen[-1] if one.role == "weight"] if reached and all(reached) else []
        return [name for name in weights if name not in set.union(*reached)]

    @staticmethod
    def _still(signals: Signals) -> list[str]:
        if len(signals.forwards) < 2 or signals.last is None:
            return []
        ours = [layer for layer in signals.last.layers if layer.role == "weight" and layer.name in signals.moved]
        pull = max((layer.relative for layer in ours if signals.moved[layer.name] > 0), default=math.inf)
        # What a vanishing gradient does not move is no matter of one layer.
        return [layer.name for layer in ours if signals.moved[layer.name] == 0 and layer.relative > LEAST_PULL * pull]


class EqualUnits(Inside):
    """All units of a layer before the last have the same weights, as where all began at 0: they get equal gradients for good."""

    name, severity = "equal_units", 2
    beyond = "anew"
    explains = ("not_learning", "dead_layers", "dying_units", "underfits")
    axis, pulls = "optimization", "capacity"
    code = "torch.nn.init.kaiming_normal_(layer.weight)"

    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        last = signals.last
        layers = [one.name for one in last.layers if one.role == "weight"][:-1] if last is not None else []
        begun = signals.first.copies if signals.first is not None else ()
        same = [name for name in layers if last is not None and name in last.copies and name in begun]
        if not same or _made_sparse(curves):
            return None
        return self.finding(
            0.95, {**measured("layers of equal units", len(same)), "layer": same[0]}, "begin weights at random, each its own",
            f"All units of '{same[0]}' have the same weights, as they began alike: they get the same gradients, and stay one unit.",
        )  # fmt: skip
