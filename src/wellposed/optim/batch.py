"""The proximal steps of many parameters at once: those that the kernels know together, others one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wellposed.core.errors import noting
from wellposed.ops.shards import unshard
from wellposed.optim.binding import Charged
from wellposed.optim.kernels import group_soft_thresholds_, soft_threshold_
from wellposed.optim.optimizer_metrics import Diagonal, MetricOrStep
from wellposed.optim.proximal import JointProx
from wellposed.penalties.base import Penalty
from wellposed.penalties.group import GroupL2
from wellposed.penalties.matrix import RowL21


class Move(NamedTuple):
    """One parameter, what it is moved by, and how far."""

    one: Charged
    prox: JointProx
    metric: MetricOrStep


@dataclass(frozen=True)
class AxisGroups:
    """A core that is a sum of norms over the indices of one axis."""

    axis: int
    strength: float


def axis_groups(core: Penalty | None, w: Tensor) -> AxisGroups | None:
    """What the kernels need to know of a core, or None where it is of another kind, or has an operator of its own."""
    if not isinstance(core, (GroupL2, RowL21)) or type(core).prox is not GroupL2.prox or not core.alike:
        return None
    strength = core.scaled(w)
    return AxisGroups(core.axis, strength) if isinstance(strength, float) else None


def proximal_steps_(moves: Sequence[Move]) -> None:
    """Move every parameter in place by its joint proximal step: absolute values and squares in one pass over all parameters; then
    groups along an axis, where no square has changed the metric; anything else by its own operator.
    """
    flat, grouped, others = [], [], []
    for move in moves:
        w = move.one.leaf.tensor
        groups = axis_groups(move.prox.core, w)
        if (
            type(w) not in (Tensor, nn.Parameter)
            or not move.prox.plain
            or (move.prox.core is not None and (groups is None or move.prox.l2))
        ):
            others.append(move)
            continue
        if move.prox.l1 or move.prox.l2:
            flat.append(move)
        if groups is not None:
            grouped.append((move, groups))
    if flat:
        soft_threshold_(
            [move.one.leaf.tensor for move in flat],
            [move.metric for move in flat],
            [float(move.prox.l1) for move in flat],
            [move.prox.l2 for move in flat],
        )
    for axis in sorted({groups.axis for _, groups in grouped}):
        alike = [(move, groups) for move, groups in grouped if groups.axis == axis]
        radii = group_soft_thresholds_(
            [move.one.leaf.tensor for move, _ in alike],
            [move.metric for move, _ in alike],
            [groups.strength for _, groups in alike],
            axis,
            [move.one.radius for move, _ in alike],
        )
        for (move, _), radius in zip(alike, radii, strict=True):
            move.one.radius = radius
    for move in others:
        _alone(move)


def _alone(move: Move) -> None:
    """By the operators themselves, in float32 at least; a core without a diagonal form takes one step for all weights."""
    w = move.one.leaf.tensor
    dtype = torch.promote_types(w.dtype, torch.float32)
    step: float | Tensor
    spared = None
    if isinstance(move.metric, Diagonal):
        diagonal = move.prox.diagonal
        spared = move.metric.spared() if diagonal else None
        step = (move.metric.steps() if diagonal else unshard(move.metric.overall())).to(dtype)
    else:
        step = move.metric
    with noting(move.prox.core, w):
        assemble_(w, lambda u, step, spared: move.prox(u.to(dtype), step, spared), step, spared)


def assemble_(w: Tensor, operator: Callable[..., Tensor], *more: object) -> None:
    """``w <- operator(w, *more)``; a sharded parameter is put together first, and cut again."""
    if not hasattr(w, "full_tensor"):
        w.copy_(operator(w, *more))
        return
    from torch.distributed.tensor import distribute_tensor

    moved = operator(*(unshard(x) if isinstance(x, Tensor) else x for x in (w, *more))).to(w.dtype)
    sharded: Any = w
    w.copy_(distribute_tensor(moved, sharded.device_mesh, sharded.placements))
