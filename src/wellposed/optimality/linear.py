"""What more is known of a cost whose model is one linear layer: convexity, its smallest curvature, and a duality gap."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellposed.data.arrays import split_batch
from wellposed.ops import duality
from wellposed.optim.charges import ChargedParameter
from wellposed.optimality.objective import Cost, CostPoint
from wellposed.penalties.base import Constraint
from wellposed.penalties.group import GroupL2

MOST_FEATURES = 2000
"""The smallest eigenvalue of a Gram matrix is computed up to this size."""
MOST_NUMBERS = 2**26
"""Rows times features that are gathered for a duality gap: half a gibibyte of doubles."""


def layer_of(cost: Cost) -> nn.Linear | None:
    """The one linear layer that the model is, if it is one, its loss is known to be convex, and nothing else is charged."""
    net = cost.net
    while type(net) is nn.Sequential and len(net) == 1:
        net = net[0]
    linear = type(net) is nn.Linear and cost.forward is None
    return net if linear and cost.loss.convex and not cost.charges.functional else None  # type: ignore[return-value]


def is_convex(cost: Cost) -> bool:
    return layer_of(cost) is not None and all(c.traits.convex for part in cost.charges.parts for c in part.charges)


def strong_convexity(cost: Cost, point: CostPoint) -> float | None:
    """mu >= 0, the smallest curvature of the smooth part less what weakly convex penalties take away; None: not known."""
    layer, parts = layer_of(cost), cost.charges.parts
    totals = {id(part.leaf.tensor): part.total for part in parts if isinstance(part, ChargedParameter)}
    taken = max((t.core.traits.weak_convexity for t in totals.values() if t.core is not None), default=0.0)
    sets_are_convex = all(c.traits.convex for part in parts for c in part.charges if isinstance(c, Constraint))
    if layer is None or len(totals) < len(parts) or not math.isfinite(taken) or not sets_are_convex:
        return None
    squares = {key: total.l2 for key, total in totals.items()}
    known = cost.loss.summed == "squared_error" and layer.in_features < MOST_FEATURES
    table = double_table(cost, layer) if known else None
    lowest = min(squares.values()) if table is None else _curvature(table[0], point.units, layer, squares)
    return max(lowest - taken, 0.0)


def _curvature(x: Tensor, units: float, layer: nn.Linear, squares: dict[int, float]) -> float:
    """The smallest eigenvalue of ``2/units Z'Z + diag(squares)``; ``Z``: the rows, and a column of ones for the bias."""
    columns = [(layer.weight, x)] + ([] if layer.bias is None else [(layer.bias, x.new_ones(len(x), 1))])
    columns = [(p, z) for p, z in columns if id(p) in squares]
    z = torch.cat([z for _, z in columns], 1)
    own = torch.cat([x.new_full((z.shape[1],), squares[id(p)]) for p, z in columns])
    values = torch.linalg.eigvalsh(2.0 / units * (z.T @ z) + torch.diag(own))
    return float(values[0]) if values[0] > 1e-12 * values[-1] else 0.0


def double_table(cost: Cost, layer: nn.Linear) -> tuple[Tensor, Tensor] | None:
    """All rows in double precision, targets as columns; None where they are not such a table, or too many."""
    xs, ys, numbers = [], [], 0
    for batch in cost.batches():
        x, y = split_batch(batch)[0], cost.target(batch)
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim != 2 or not x.is_floating_point():
            return None
        numbers += x.numel()
        if numbers > MOST_NUMBERS:
            return None
        xs.append(x.to(layer.weight.device, torch.float64))
        ys.append(y.to(layer.weight.device))
    x, y = torch.cat(xs), torch.cat(ys)
    if not bool(torch.isfinite(x).all()):
        return None
    if cost.loss.name == "cross_entropy" and not y.is_floating_point():
        y = y.reshape(len(y), -1)[:, 0].long()
        counted = y >= 0  # what is masked is left out
        x, y = x[counted], F.one_hot(y[counted], layer.out_features)
    y = y.reshape(len(y), -1).double()
    return (x, y) if y.shape[1] == layer.out_features else None


def linear_duality_gap(cost: Cost, point: CostPoint) -> tuple[float | None, list[str]]:
    """The duality gap, and why there is none where one could be hoped for."""
    layer = layer_of(cost)
    charged = {id(part.leaf.tensor): part for part in cost.charges.parts if isinstance(part, ChargedParameter)}
    weight = None if layer is None else charged.get(id(layer.weight))
    if layer is None or weight is None or cost.loss.summed not in duality.LOSSES:
        return None, []
    total, bias = weight.total, charged.get(id(layer.bias))
    group = total.core if type(total.core) is GroupL2 else None
    alone = len(charged) == len(cost.charges.parts) and (bias is None or not bias.charges)
    centered = any(center is not None for _, center in total.squares)
    if not alone or not weight.penalties or weight.constraints or group is not total.core or centered:
        return None, []
    table = double_table(cost, layer)
    if table is None:
        return None, ["no duality gap: the rows are no table of numbers, or too many."]
    x, y = table
    w = layer.weight.detach().double()
    b = None if layer.bias is None else layer.bias.detach().double()
    z = x @ w.T if b is None else x @ w.T + b
    mean = float(duality.losses(cost.loss.summed, z, y).sum()) / point.units
    if not math.isclose(mean, point.loss, rel_tol=1e3 * torch.finfo(layer.weight.dtype).eps, abs_tol=1e-12):
        return None, ["no duality gap: the loss weighs or smooths its targets, and its conjugate is not known here."]
    found = duality.duality_gap(
        cost.loss.summed,
        x,
        y,
        w,
        b,
        l1=total.l1.to(w) if isinstance(total.l1, Tensor) else total.l1,
        l2=total.l2,
        group=0.0 if group is None else group.scaled(w),
        groups=None if group is None else group.groups(w),
        free_bias=bias is not None,
        units=point.units,
    )
    return (
        (float(found), []) if bool(torch.isfinite(found)) else (None, ["no duality gap: the best bias was not found."])
    )
