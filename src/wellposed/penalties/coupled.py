"""Groups that reach across several parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, ShapeError, did_you_mean, listed
from wellposed.core.selectors import Leaf
from wellposed.ops.groups import AXES, Tiled, sparing
from wellposed.ops.norms import at_least_float32
from wellposed.ops.prox import group_shrink
from wellposed.penalties.base import ByValue, CoupledPenalty, Traits
from wellposed.penalties.group import Weights, check_weights, group_strength, norm_violation
from wellposed.penalties.layouts import laid_out


@checked
@dataclass(frozen=True, eq=False)
class TiedGroups(ByValue, CoupledPenalty):
    """``strength * sum_g c_g |(w1_g, w2_g, ...)|_2``, ``c_g = sqrt(size)``: one norm for what is useful only together.

    Group ``g`` is index ``g`` of every listed parameter: a channel with its filter, the scale and shift of its norm, and what
    the next layers do with it. It vanishes everywhere at once, and can be cut out. Channels that a residual connection adds
    must be listed together: each of them is one group.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        axes: by name, or glob that matches one parameter, along which axis its groups are counted: ``"unit"`` (or
            ``"filter"``), axis 0, or ``"input"`` (or ``"channel"``), axis 1; of transposed convolutions the other way
            round. ``"axis 0"`` and ``"axis 1"`` are what they say. Vectors have units only.
        weights: in place of ``sqrt(size)``: a finite number >= 0, or one for each group in their order. 0 leaves a group free.
    Raises:
        ShapeError: a parameter has no such axis, or the numbers of groups disagree.
    Source:
        Yuan & Lin (2006), JRSS-B 68(1); across layers: Fang et al. (2023), CVPR.
    Example:
        >>> str(TiedGroups(0.1, {"0.weight": "unit", "0.bias": "unit", "2.weight": "input"}).names)
        "('0.weight', '0.bias', '2.weight')"
    """

    strength: float
    axes: Mapping[str, str]
    weights: Weights = None
    traits: ClassVar[Traits] = Traits(homogeneous=1, symmetric=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.axes, Mapping) or not self.axes:
            raise InputError(f"TiedGroups needs axes, such as {{'0.weight': 'unit'}}; it was given {self.axes!r}.")
        for name, by in self.axes.items():
            if by not in AXES:
                raise InputError(
                    f"TiedGroups groups {name!r} by one of {', '.join(AXES)}; it was given {by!r}.{did_you_mean(by, AXES)}"
                )
        object.__setattr__(self, "axes", dict(self.axes))
        check_weights(self)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that are bound together."""
        return tuple(self.axes)

    def at_all(self, leaves: Sequence[Leaf]) -> Self:
        """The same groups with each axis as the parameter lays it out: that of a transposed convolution is another one."""
        here = zip(self.axes.items(), leaves, strict=True)
        return replace(self, axes={name: laid_out(self, by, leaf) for (name, by), leaf in here})

    def check_all(self, names: Sequence[str], ws: Sequence[Tensor]) -> None:
        """Refuse parameters without the axis, and numbers of groups that differ."""
        counts: dict[str, int] = {}
        for name, w, by in zip(names, ws, self.axes.values(), strict=True):
            if w.ndim <= AXES[by]:
                raise ShapeError(
                    f"TiedGroups has no {by} in {name!r} of shape {tuple(w.shape)}: that is an index of axis {AXES[by]}."
                )
            counts[f"{name!r} by {by} {w.shape[AXES[by]]}"] = w.shape[AXES[by]]
        if len(set(counts.values())) > 1:
            raise ShapeError(
                f"TiedGroups needs the same number of groups in each parameter; there are {', '.join(counts)}."
            )
        try:
            self._scaled(self._gathered(ws))
        except ShapeError as error:
            raise ShapeError(f"TiedGroups cannot charge {listed(names)}: {error}") from None

    def value(self, ws: Sequence[Tensor]) -> Tensor:
        """The charge of all groups, 0-d; its gradient at a zero group is 0."""
        x = self._gathered(ws)
        return (self._scaled(x) * _rows(x).norms(at_least_float32(x))).sum().to(x.dtype)

    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        """Exact, also with a step for each coordinate; see `wellposed.ops.prox.group_soft_threshold`."""
        if self.strength == 0:
            return [w.clone() for w in ws]
        x = self._gathered(ws)
        given = [torch.as_tensor(t, dtype=w.dtype, device=w.device) for t, w in zip(steps, ws, strict=True)]
        step = self._gathered([t.expand_as(w) for t, w in zip(given, ws, strict=True)])
        return self._scattered(group_shrink(x, step, self._scaled(x), _rows(x)), ws)

    def prox_sparing(
        self, ws: Sequence[Tensor], steps: Sequence[float | Tensor], spared: Sequence[Tensor]
    ) -> list[Tensor]:
        """The prox of what has had gradients; the rest of a group stays as long as the group does."""
        x = self._gathered(ws)

        def step(moving: Tensor) -> Tensor:
            return self._gathered(self.prox(self._scattered(moving, ws), steps))

        return self._scattered(sparing(x, self._gathered(spared), _rows(x), step), ws)

    def violation(self, ws: Sequence[Tensor], grads: Sequence[Tensor], step: float = 1.0) -> Tensor:
        """Off zero ``|grad_g + s w_g/|w_g||``, at zero ``max(|grad_g| - s, 0)``; Euclidean over groups."""
        x = self._gathered(ws)
        return norm_violation(x, self._gathered(grads), self._scaled(x), _rows(x))

    def _scaled(self, x: Tensor) -> float | Tensor:
        """What the norm of a group is charged."""
        return group_strength(self.strength, self.weights, _rows(x), x)

    def _gathered(self, ws: Sequence[Tensor]) -> Tensor:
        """``(groups, size)``: the numbers of each group side by side."""
        parts = zip(ws, self.axes.values(), strict=True)
        return torch.cat([w.movedim(AXES[by], 0).flatten(1) if w.ndim > 1 else w.unsqueeze(1) for w, by in parts], 1)

    def _scattered(self, x: Tensor, ws: Sequence[Tensor]) -> list[Tensor]:
        """The parameters, in their shapes, from the numbers of each group."""
        moved = [w.movedim(AXES[by], 0) for w, by in zip(ws, self.axes.values(), strict=True)]
        parts = torch.split(x, [math.prod(m.shape[1:]) for m in moved], 1)
        return [
            part.reshape(m.shape).movedim(0, AXES[by])
            for part, m, by in zip(parts, moved, self.axes.values(), strict=True)
        ]


def _rows(x: Tensor) -> Tiled:
    return Tiled(tuple(x.shape), (0,))
