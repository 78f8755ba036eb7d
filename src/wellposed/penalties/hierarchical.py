"""Penalties with a hierarchy: a network may use what has a linear effect only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from wellposed.core.checks import Within, checked
from wellposed.core.errors import ShapeError
from wellposed.core.selectors import Leaf
from wellposed.ops.hierarchy import hierarchical_prox
from wellposed.ops.norms import at_least_float32, length, lengths
from wellposed.penalties.base import CoupledPenalty, How, Traits
from wellposed.penalties.layouts import laid_out


@checked
@dataclass(frozen=True)
class Hierarchical(CoupledPenalty):
    """``strength * sum_j |theta_j|_2`` subject to ``|W_j|_inf <= hierarchy * |theta_j|_2``: whole inputs vanish (LassoNet).

    ``theta_j`` is what the linear part (``skip``) makes of input ``j``, ``W_j`` its weights into the first layer. Once the
    linear effect is 0 the network does not see the input at all.

    Strength 0 turns all of it off, the hierarchy too. The set is not convex, but the prox is its exact minimizer, with a
    step for each coordinate: given the length of ``theta_j`` the rest is known, and in the length the problem is convex.
    A weight with step 0 is not moved, so that it keeps the linear effect of its input as long as it needs.

    Args:
        strength: >= 0, per mean loss.
        hierarchy: >= 0. 0 leaves a linear model; infinity is a group lasso on the linear part alone.
        skip: name or glob of the linear part, ``(outputs, inputs)``.
        first: name or glob of the first layer, ``(units, inputs, ...)``.
        group: charge ``strength * sqrt(outputs)``, the convention of GroupL2, instead of ``strength``.
    Raises:
        ShapeError: the parameters have no inputs, or not the same number.
    Source:
        Lemhadri, Ruan, Abraham & Tibshirani (2021), JMLR 22.
    """

    strength: float
    hierarchy: Annotated[float, Within(0)] = 10.0
    skip: str = "skip.weight"
    first: str = "layers.0.weight"
    group: bool = False
    traits: ClassVar[Traits] = Traits(convex=False, weak_convexity=math.inf, homogeneous=1, symmetric=False)
    hows: ClassVar[tuple[How, ...]] = ("prox",)
    remedy: ClassVar[str] = "Give skip= and first=, the names of the linear part and of the network's first layer."

    @property
    def names(self) -> tuple[str, ...]:
        return self.skip, self.first

    def at_all(self, leaves: Sequence[Leaf]) -> Self:
        for leaf in leaves:
            if laid_out(self, "input", leaf) != "input":
                raise ShapeError(
                    f"Hierarchical needs the inputs on axis 1; {leaf.name!r} is the kernel of a transposed convolution."
                    " Name a layer of another kind."
                )
        return self

    def check_all(self, names: Sequence[str], ws: Sequence[Tensor]) -> None:
        shapes = [tuple(w.shape) for w in ws]
        if any(len(shape) < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
            raise ShapeError(
                f"Hierarchical needs one column for each input in both parameters; {names[0]!r} has shape {shapes[0]} and "
                f"{names[1]!r} has shape {shapes[1]}."
            )

    def scaled(self, skip: Tensor) -> float:
        return self.strength * math.sqrt(skip.shape[0] * math.prod(skip.shape[2:])) if self.group else self.strength

    def value(self, ws: Sequence[Tensor]) -> Tensor:
        """``strength * sum_j |theta_j|_2``, 0-d; its gradient at 0 is 0. NaN where a weight is not finite. The constraint is the
        prox's to keep.
        """
        total = self.scaled(ws[0]) * lengths(at_least_float32(_inputs(ws[0])), 1).sum()
        sound = torch.isfinite(ws[1]).all()
        return torch.where(sound, total, torch.full_like(total, math.nan)).to(ws[0].dtype)

    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        """The joint minimizer, a tensor for each parameter; see `wellposed.ops.hierarchy.hierarchical_prox`."""
        if self.strength == 0:
            return [w.clone() for w in ws]
        given = [
            torch.as_tensor(t, dtype=w.dtype, device=w.device).expand_as(w) for t, w in zip(steps, ws, strict=True)
        ]
        theta, w = (_inputs(x) for x in ws)
        tau, t = (_inputs(x) for x in given)
        found = hierarchical_prox(theta, w, tau, t, self.scaled(ws[0]), self.hierarchy)
        return [x.reshape(old.movedim(1, 0).shape).movedim(0, 1) for x, old in zip(found, ws, strict=True)]

    def prox_sparing(
        self, ws: Sequence[Tensor], steps: Sequence[float | Tensor], spared: Sequence[Tensor]
    ) -> list[Tensor]:
        """The prox without hidden weights that have had no gradient; they come back as far as their input allows."""
        # What is not finite is not masked: it holds its input as it is.
        away = spared[1] & torch.isfinite(ws[1])
        theta, hidden = self.prox([ws[0], ws[1].masked_fill(away, 0.0)], steps)
        if self.strength == 0:
            return [theta, ws[1].clone()]
        most = self.hierarchy * lengths(_inputs(theta), 1)
        bound = most.view(1, -1, *[1] * (hidden.ndim - 2))
        return [theta, torch.where(away, ws[1].clamp(-bound, bound), hidden)]

    def violation(self, ws: Sequence[Tensor], grads: Sequence[Tensor], step: float = 1.0) -> Tensor:
        """The residual of the fixed point ``|w - prox(w - step*grad, step)|/step``."""
        moved = self.prox([w - step * g for w, g in zip(ws, grads, strict=True)], [step] * len(ws))
        return length(torch.cat([(w - m).reshape(-1) for w, m in zip(ws, moved, strict=True)])) / step


def _inputs(w: Tensor) -> Tensor:
    """``(inputs, all that is made of one)``."""
    return w.movedim(1, 0).flatten(1) if w.ndim > 2 else w.T
