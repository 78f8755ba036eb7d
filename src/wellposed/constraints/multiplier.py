"""A norm bound that is met by an L2 strength, which adapts until it is the Lagrange multiplier of the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from wellposed.core.checks import Positive, Within, checked
from wellposed.core.errors import InputError
from wellposed.ops.prox import shrink
from wellposed.penalties.base import Chargeable, How, Traits

GAIN = 0.5
"""The share of the excess that is taken back at once; see docs/derivations/constraints.md for the stable range."""


@checked
@dataclass(frozen=True)
class NormBound(Chargeable):
    """``1/2 |w|^2 <= 1/2 bound^2`` for the whole tensor, with the multiplier of the bound as an L2 strength.

    Regularization is constrained optimization: where training comes to rest, ``grad + multiplier*w = 0``, with multiplier 0
    where the norm stays below the bound. `wellposed.penalties.elementwise.L2` with that strength has the same solution;
    here the bound is given, and the strength is found for each matrix alone. `MaxNorm` and `L2Ball` meet a bound at
    each step; this one meets it in the limit, and near the bound it averages the noise of the gradients.

    With the relative excess ``x = min(|w|/bound - 1, 1)``, the optimizer's effective step ``t`` and the point ``v`` that
    the optimizer's own step has reached

        strength     =  max(0, multiplier + 1/2  * (1/t + multiplier) * x(v/(1 + t*multiplier)))
        multiplier  <-  max(0, multiplier + rate * (1/t + multiplier) * x(w))

    The second line is dual ascent on the augmented Lagrangian, in units in which ``rate = 1`` would bring the norm to the
    bound in one step whatever the curvature of the loss. The first takes half of what is still too much back at once,
    without which norm and multiplier would swing around each other. Neither needs to know the scale of the loss, of
    the weights or of the step. Multipliers, one for each parameter, 0-d, live with the optimizer. Under ``how="decay"`` weights
    shrink by ``strength(multiplier, w, lr, "decay")`` before the optimizer's step, and the update comes after it.

    Args:
        bound: > 0, in the units of the weights; or None: the norm that the matrix has after ``warm_steps`` steps.
        rate: in (0, 1]. Small averages over about ``1/rate`` steps; 1 follows every step.
        warm_steps: >= 0, steps before a bound of None is taken; a bound that is given holds from the first step.
    Raises:
        InputError: a bound that is not positive and finite; use `L2Ball` to allow only zeros.
    Source:
        Constrained parameter regularization: Franke, Hefenbrock, Koehler & Hutter (2024), NeurIPS, where the multiplier acts
        as a decay and the rate has units; the augmented Lagrangian: Hestenes (1969), Powell (1969); the added
        proportional term: Platt & Barr (1987), NeurIPS.
    Example:
        >>> import torch
        >>> bound, w = NormBound(4.0), torch.tensor([3.0, 4.0])
        >>> bound.update(bound.start(w), w, step=0.1)
        tensor(0.2500)
    """

    bound: Positive | None = None
    rate: Annotated[float, Within(0, 1, open="low")] = 0.1
    warm_steps: Annotated[int, Within(0)] = 200
    traits: ClassVar[Traits] = Traits(sparse=False)
    hows: ClassVar[tuple[How, ...]] = ("prox", "decay")

    def times(self, factor: float) -> Self:
        """This constraint with ``factor`` times the bound.

        Raises:
            InputError: the bound is still to be found.
        """
        if self.bound is None:
            raise InputError("NormBound without a bound cannot be scheduled; give the bound.")
        return super().times(factor)

    def start(self, w: Tensor) -> Tensor:
        """The first multiplier of a parameter: 0, 0-d, in float32 at least."""
        return torch.zeros((), dtype=torch.promote_types(w.dtype, torch.float32), device=w.device)

    def strength(
        self,
        multiplier: Tensor,
        w: Tensor | None = None,
        step: float | Tensor | None = None,
        how: How = "prox",
    ) -> Tensor:
        """The multiplier, and half of what would still be too much (or too little) with it; 0-d.

        Args:
            multiplier: 0-d, >= 0.
            w: the point before the proximal step, or before the decay. Without it (and the step) the strength is the
                multiplier itself: it comes to the same limit, but swings.
            step: the optimizer's effective step, a number or one for each coordinate.
            how: ``"prox"`` or ``"decay"``.
        """
        if w is None or step is None or self.bound is None:
            return multiplier
        if how == "prox":
            return self._raised(multiplier, shrink(w, step * multiplier), step, GAIN)
        # Decay is an explicit step: taking more than all of a weight would turn its sign, so half is the most.
        raised = self._raised(multiplier, w, step, GAIN)
        return raised.minimum(0.5 / mean_step(w, step, multiplier))

    def update(self, multiplier: Tensor, w: Tensor, step: float | Tensor) -> Tensor:
        """Dual ascent from ``w``, the point after the proximal step; 0-d. Step 0, and no bound yet, change nothing."""
        return self._raised(multiplier, w, step, self.rate)

    def _raised(self, multiplier: Tensor, w: Tensor, step: float | Tensor, share: float) -> Tensor:
        """``max(0, multiplier + share * (1/step + multiplier) * excess(w))``."""
        if self.bound is None:
            return multiplier
        t = mean_step(w, step, multiplier)
        # Far outside, the multiplier climbs no faster: it would have to come down all the way again.
        raised = multiplier + share * (1.0 / t + multiplier) * self.excess(w, multiplier).clamp_max(1.0)
        return torch.where(t > 0, raised.clamp_min(0.0), multiplier)

    def excess(self, w: Tensor, like: Tensor) -> Tensor:
        bound = math.nan if self.bound is None else self.bound
        norm: Tensor = torch.linalg.vector_norm(w, dtype=torch.promote_types(w.dtype, like.dtype))
        return norm / bound - 1.0


def mean_step(w: Tensor, step: float | Tensor, like: Tensor) -> Tensor:
    """The step by which a strength moves ``|w|``: the mean of the coordinates' steps, weighted by ``w_i^2``; 0-d.

    Under Adam a weight without gradients has an enormous step, and a plain mean would be that weight's.
    """
    if not isinstance(step, Tensor) or step.numel() == 1:
        return torch.as_tensor(step, dtype=like.dtype, device=like.device).reshape(())
    square = w.to(like.dtype).square()
    total = square.sum()
    weights = torch.where(total > 0, square / total, torch.full_like(square, 1.0 / w.numel()))
    return (weights * step).sum()
