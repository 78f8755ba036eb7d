"""Several charges on one parameter as one joint step, where that is proven; a refusal elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wellposed.core.errors import CompositionError
from wellposed.ops.project import IntervalEnd, into_interval
from wellposed.ops.prox import shrink, soft_threshold
from wellposed.optim.composition import is_cone
from wellposed.penalties.base import Penalty, as_weights, setting_text

StepSize = float | Tensor
Center = float | Tensor | None


@dataclass(frozen=True)
class JointProx:
    """``argmin_u 1/2 sum (u-w)^2/t + sum_k l2_k/2 |u-c_k|^2 + l1 |u|_1 + [low <= u <= high] + core(u)`` in one step.

    The squares (with centers ``c_k``; None is 0) come first: completing them turns ``(w, t)`` into
    ``((w + t sum l2 c)/(1 + t sum l2), t/(1 + t sum l2))``, whatever follows. The absolute values are next, since
    ``sign(u) = sign(soft(w, t*l1))`` and the stationarity of the rest is that of the thresholded point in the same metric; then
    the interval, which clips a convex function of one number; the core (a group norm, or one penalty of another kind) is last.
    """

    squares: tuple[tuple[float, Center], ...] = ()
    l1: float | Tensor = 0.0
    interval: tuple[IntervalEnd, IntervalEnd] | None = None
    core: Penalty | None = None

    @property
    def l2(self) -> float:
        return sum(strength for strength, _ in self.squares)

    @property
    def empty(self) -> bool:
        bare = not self.squares and self.interval is None and self.core is None
        return bare and not isinstance(self.l1, Tensor) and self.l1 == 0

    @property
    def diagonal(self) -> bool:
        return self.core is None or self.core.traits.diagonal

    @property
    def plain(self) -> bool:
        """Only numbers: ``l1 |u|_1 + l2/2 |u|^2``, and perhaps a core."""
        return (
            self.interval is None and isinstance(self.l1, float) and all(center is None for _, center in self.squares)
        )

    def __call__(self, w: Tensor, step: StepSize, spared: Tensor | None = None) -> Tensor:
        """The joint minimizer; step 0 returns ``w``. A step for each coordinate where `diagonal`, else a number.

        ``spared``: see `Penalty.prox_sparing`.
        """
        u = w
        if self.l2:
            for strength, center in self.squares:
                if center is not None:
                    u = u + step * strength * as_weights(center, w)
            u = shrink(u, step * self.l2)
            step = step / (1.0 + step * self.l2)
        if isinstance(self.l1, Tensor) or self.l1:
            u = soft_threshold(u, step * as_weights(self.l1, w))
        if self.interval is not None:
            u = into_interval(u, *self.interval)
        if self.core is None:
            return u
        if spared is None or not isinstance(step, Tensor):
            return self.core.prox(u, step)
        return self.core.prox_sparing(u, step, spared)


def joint(
    name: str, penalties: Sequence[Penalty], interval: tuple[IntervalEnd, IntervalEnd] | None = None
) -> JointProx:
    """The joint operator of several penalties on the parameter ``name``, and of an interval that its weights stay in."""
    squares: list[tuple[float, Center]] = []
    l1: float | Tensor = 0.0
    core: Penalty | None = None
    for penalty in penalties:
        parts = penalty.summands()
        squares += [square for square in parts.squares if square[0]]
        l1 = l1 + parts.l1
        if core is None:
            core = parts.core
        elif parts.core is not None:
            core = core.merged(parts.core)
            if core is None:
                raise no_joint_step(name, penalties)
    thresholds = isinstance(l1, Tensor) or l1 > 0
    # Absolute values go before group norms only, and so does an interval that a factor in [0, 1] cannot leave: a cone.
    grouped = core is not None and core.merged(core) is not None
    if core is not None and thresholds and not grouped:
        raise no_joint_step(name, penalties)
    if core is not None and interval is not None and not (grouped and is_cone(interval)):
        raise no_joint_step(name, [*penalties, f"the interval ({', '.join(map(setting_text, interval))})"])
    return JointProx(tuple(squares), l1, interval, core)


def no_joint_step(name: str, charges: Sequence[object]) -> CompositionError:
    return CompositionError(
        f"{' and '.join(str(charge) for charge in charges)} have no proven joint proximal step on {name!r}. "
        'Charge different parameters, or enforce all but one with how="loss".'
    )
