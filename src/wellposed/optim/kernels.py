"""Proximal steps in place, in the metric of an optimizer: the operators of `wellposed.ops.prox` at the speed of memory.

Weights are taken in chunks that stay in cache over all passes, so that main memory is read once and written once; small
tensors are packed together, so that many of them cost a handful of calls. Scratch is a few chunks, less than the charged
weights together, and gone when a call returns. Callers hold ``torch.no_grad``.

No steps are formed: with ``size_i = root(second_i) + eps`` a step is ``scale/size_i``, and a coordinate that has had no
gradient, whose step is 0, is given an infinite size as its second moment is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.ops.groups import Tiled, along, sparing
from wellposed.ops.norms import group_norms
from wellposed.ops.prox import group_shrink, group_soft_threshold, shrink, soft_threshold
from wellposed.optim.optimizer_metrics import Diagonal, MetricOrStep

CHUNK = 2**19
"""Elements of a chunk on a CPU: a few such buffers fit into the shared cache, and a call costs little beside its work."""

CHUNK_ELSEWHERE = 2**24
"""On an accelerator a launch costs more than a pass through memory."""

SMALL = 8
"""Tensors of less than a chunk over this are packed; above, packing's copies cost more than the calls that it saves."""

LEAST = 1e-15
"""Below, squares of what a product of step and strength shrinks may vanish in float32: the operators scale them first."""

MOST = 1e15
"""Above, squares may be infinite in float32."""

NEWTON_STEPS = 64
"""At most. From the last step's radii one or two are usual, from anywhere about ten."""


Item = tuple[Tensor, Tensor, int]
"""A parameter, its second moment, and its place in the caller's list."""


class _Scale(NamedTuple):
    """A threshold for each coordinate, ``amount/(root(second) + eps)``; or ``amount`` itself where ``eps`` is None."""

    amount: float
    eps: float | None
    floor: float
    root: bool

    @classmethod
    def of(cls, metric: MetricOrStep, strength: float) -> _Scale:
        if isinstance(metric, Diagonal):
            return cls(metric.scale * strength, metric.eps, metric.floor, metric.root)
        return cls(metric * strength, None, 0.0, False)


def soft_threshold_(
    ws: Sequence[Tensor], metrics: Sequence[MetricOrStep], l1: Sequence[float], l2: Sequence[float]
) -> None:
    """``w <- argmin_u 1/2 sum (u-w)^2/t + l1 |u|_1 + l2/2 |u|^2  =  soft(w, t*l1)/(1 + t*l2)``, for each parameter.

    Args:
        ws: changed in place. float32 and float64 are fast; lower precision is computed in float32 and rounded once.
        metrics: the effective steps ``t``, one metric for each. A coordinate with step 0 stays bit for bit.
        l1: >= 0, one for each. A coordinate with ``|w| <= t*l1`` becomes exactly 0.
        l2: >= 0, one for each.
    """
    total = sum(w.numel() for w in ws)
    packs: dict[tuple[torch.device, torch.dtype, _Scale, float], list[Item]] = {}
    for i, (w, metric, absolute, square) in enumerate(zip(ws, metrics, l1, l2, strict=True)):
        scale, second = _Scale.of(metric, absolute), _second(w, metric)
        ridge = _Scale.of(metric, square).amount if square else 0.0
        if w.numel() == 0 or (scale.amount == 0 and ridge == 0):
            continue
        if not _is_plain(w, second) or not (scale.amount or ridge) >= LEAST:
            wide, steps = _wide(w, metric)
            w.copy_(shrink(soft_threshold(wide, steps * absolute), steps * square))
        elif _is_small(w, second, size := _chunk(w, total // 5)):
            packs.setdefault((w.device, w.dtype, scale, ridge), []).append((w, second, i))
        else:
            order = _by_stride(w)
            _soft(w.permute(order).view(-1), second.permute(order).reshape(-1), scale, ridge, size)
    for (_, _, scale, ridge), items in packs.items():
        for part in _parts(items, _chunk(items[0][0], total // 5)):
            flat, moments = _packed(part)
            _soft(flat, moments, scale, ridge, flat.numel())
            _unpack(flat, part)


def _soft(w: Tensor, second: Tensor, scale: _Scale, ridge: float, size: int) -> None:
    high, low = w.new_empty(2, min(size, w.numel()))
    for start in range(0, w.numel(), size):
        part, moments = w[start : start + size], second[start : start + size]
        _soft_chunk(part, moments, scale, ridge, high[: part.numel()], low[: part.numel()])


def _soft_chunk(w: Tensor, second: Tensor, scale: _Scale, ridge: float, high: Tensor, low: Tensor) -> None:
    """``w - clamp(w, -threshold, threshold)``: inside it is ``w - w``, exactly 0, and at threshold 0 it is ``w - 0``."""
    if scale.eps is None:
        if scale.amount:
            w.sub_(torch.clamp(w, -scale.amount, scale.amount, out=low))
        if ridge:
            w.div_(1.0 + ridge)
        return
    _thresholds(second, scale, scale.amount or ridge, high, low)
    if scale.amount:
        w.sub_(torch.clamp(w, torch.neg(high, out=low), high, out=low))
    if ridge:
        w.div_(high.mul_(ridge / (scale.amount or ridge)).add_(1.0))


def _thresholds(second: Tensor, scale: _Scale, amount: float, out: Tensor, spare: Tensor) -> None:
    """``amount/(root(second) + eps)``, and 0 where there has been no gradient.

    With a root it is ``x/(1 + eps*x)``, ``x = second^(-1/2)``, times ``amount``: that costs less than the root itself.
    """
    torch.threshold(second, scale.floor, math.inf, out=out)
    if scale.root:
        torch.add(_number(1.0 / amount, out), out.rsqrt_(), alpha=(scale.eps or 0.0) / amount, out=spare)
        torch.div(out, spare, out=out)
    else:
        torch.div(_number(amount, out), out.add_(scale.eps or 0.0), out=out)


def group_soft_thresholds_(
    ws: Sequence[Tensor],
    metrics: Sequence[MetricOrStep],
    strengths: Sequence[float],
    axis: int,
    radii: Sequence[Tensor | None],
) -> list[Tensor]:
    """``w <- argmin_u 1/2 sum (u-w)^2/t + strength * sum_g |u_g|_2``, for each parameter, with groups along ``axis``.

    Args:
        ws: changed in place. float32 and float64 are fast; lower precision is computed in float32 and rounded once.
        metrics: the effective steps ``t``, one metric for each. A coordinate with step 0 stays bit for bit unless it is
            smaller than about ``1e-12*scale*strength`` (float32).
        strengths: >= 0, one for each. 0 leaves ``w`` bit for bit.
        axis: along which groups are counted, for all.
        radii: what the last call returned for each, or None. Whatever numbers are given, the result is the same to rounding;
            close ones save passes.
    Returns:
        ``|u_g|_2`` for each parameter, ``(w.shape[axis],)``, of what has had gradients; exactly 0 where that is 0.
    """
    total = sum(w.numel() for w in ws)
    found: dict[int, Tensor] = {}
    packs: dict[tuple[torch.device, torch.dtype, _Scale, Hashable], list[Item]] = {}
    for i, (w, metric, strength, radius) in enumerate(zip(ws, metrics, strengths, radii, strict=True)):
        scale, second = _Scale.of(metric, strength), _second(w, metric)
        if w.numel() == 0 or scale.amount == 0:
            found[i] = _moved_norms(w, metric, axis)
        elif not _is_plain(w, second) or not scale.amount >= LEAST:
            found[i] = _moved_norms(w.copy_(_by_operator(w, metric, strength, axis)), metric, axis)
        elif _is_small(w, second, size := _chunk(w, total // 8)):
            alike = w.numel() // w.shape[0] if axis == 0 else w.shape
            packs.setdefault((w.device, w.dtype, scale, alike), []).append((w, second, i))
        else:
            order = _by_stride(w)
            sides = [_sides(x.permute(order), order.index(axis)) for x in (w, second)]
            found[i] = _groups(sides[0], sides[1], scale, _start(w, axis, radius), size)
    for (_, _, scale, _), items in packs.items():
        for part in _parts(items, _chunk(items[0][0], total // 8)):
            starts = [_start(w, axis, radii[i]) for w, _, i in part]
            after = torch.split(_packed_groups(part, scale, torch.cat(starts), axis), [len(start) for start in starts])
            found.update({i: radius for (_, _, i), radius in zip(part, after, strict=True)})
    return [found[i] for i in range(len(ws))]


def _moved_norms(w: Tensor, metric: MetricOrStep, axis: int) -> Tensor:
    """Norms of the groups without what has had no gradient."""
    spared = metric.spared() if isinstance(metric, Diagonal) else None
    return group_norms(w if spared is None else w.masked_fill(spared, 0.0), axis).flatten()


def _by_operator(w: Tensor, metric: MetricOrStep, strength: float, axis: int) -> Tensor:
    """The step by `wellposed.ops.prox.group_soft_threshold`, leaving out what has had no gradient."""
    wide, steps = _wide(w, metric)
    spared = metric.spared() if isinstance(metric, Diagonal) else None
    if spared is None:
        return group_soft_threshold(wide, steps, strength, axis)
    return sparing(wide, spared, along(wide, axis), lambda w: group_soft_threshold(w, steps, strength, axis))


def _packed_groups(part: list[Item], scale: _Scale, radius: Tensor, axis: int) -> Tensor:
    """The step on several small tensors: rows of one length follow each other, other tensors have one shape."""
    (flat, second), (rows, *columns) = _packed(part), part[0][0].shape
    if axis == 0:
        sides = [x.view(1, 1, -1, math.prod(columns)) for x in (flat, second)]
    else:
        sides = [x.view(len(part), rows, columns[0], -1).transpose(0, 1) for x in (flat, second)]
    after = _groups(sides[0], sides[1], scale, radius, flat.numel())
    _unpack(flat, part)
    return after


def _groups(w: Tensor, second: Tensor, scale: _Scale, radius: Tensor, size: int) -> Tensor:
    """The step on ``(before, tensors, groups, after)``, a block of groups at a time; a group is an index of both middle axes."""
    width = max(1, min(w.shape[2], size * w.shape[2] // w.numel()))
    scratch = w.new_empty(4, w.numel() // w.shape[2] * width)
    after = torch.empty_like(radius)
    for start in range(0, w.shape[2], width):
        part, moments = w[:, :, start : start + width], second[:, :, start : start + width]
        # Several tensors are packed into one block, so that a range of groups is a range of radii.
        some = slice(start, start + part.shape[2]) if width < w.shape[2] else slice(None)
        buffers = scratch[:, : part.numel()].view(4, *part.shape)
        if scale.eps is None:
            found = _group_block_in_number(part, scale.amount, buffers)
        else:
            found = _group_block(part, moments, scale, radius[some], buffers)
        after[some] = _by_operator_(part, moments, scale) if found is None else found
    return after


def _by_operator_(w: Tensor, second: Tensor, scale: _Scale) -> Tensor:
    """The step on a block by `wellposed.ops.prox.group_shrink`: for numbers whose squares do not fit, and such as are
    not finite, whose groups it leaves as they are."""
    groups = Tiled(tuple(w.shape), (1, 2))
    if scale.eps is None:
        w.copy_(group_shrink(w, scale.amount, 1.0, groups))
        return groups.norms(w).flatten()
    metric = Diagonal(second, scale.amount, scale.eps, scale.floor, scale.root)
    spared = second <= scale.floor
    w.copy_(sparing(w, spared, groups, lambda moving: group_shrink(moving, metric.steps(), 1.0, groups)))
    return groups.norms(w.masked_fill(spared, 0.0)).flatten()


def _group_block_in_number(w: Tensor, amount: float, buffers: Tensor) -> Tensor | None:
    """Equal steps: ``u = max(1 - amount/|w|, 0) w``. None, and nothing done, where squares do not fit."""
    norm = _group_sums(torch.mul(w, w, out=buffers[0])).sqrt_()
    if not bool(norm.amax() < MOST):
        return None
    factor = (1.0 - amount / norm).clamp_min_(0.0)
    w.mul_(_spread(factor, w))
    return norm * factor


def _group_block(w: Tensor, second: Tensor, scale: _Scale, radius: Tensor, buffers: Tensor) -> Tensor | None:
    """Newton's method on the secular equation of every group of a block.

    With ``s_i = 1/(t_i*strength)`` a group is 0 where ``sum (w_i s_i)^2 <= 1``; else ``u_i = w_i e_i`` with
    ``e_i = s_i/(s_i + 1/r)`` and ``r = |u|``. ``r/|u(r)| = 1`` has a concave increasing left side, so that Newton's step
    ``r += (|u| - r) |u|^2 / sum u_i^2 e_i`` climbs from the left and from the right lands left of the root. Where that
    is beyond 0, ``|u(r)|``, which lies between the root and ``r``, is divided instead.

    What has had no gradient is left out of the sums; its share is 1 while its group lives, and where nothing moves.
    """
    sizes, shares, squares, kept = buffers
    limits = torch.finfo(w.dtype)
    # A coordinate without a gradient: so large that its share rounds to 1, yet finite, since 0 times it must be 0.
    frozen = min(0.9 * math.sqrt(limits.max), scale.amount * limits.max / 4)
    torch.threshold(second, scale.floor, frozen * frozen if scale.root else frozen, out=sizes)
    if scale.root:
        sizes.sqrt_()
    torch.add(_number((scale.eps or 0.0) / scale.amount, w), sizes, alpha=1.0 / scale.amount, out=sizes)
    moving = w
    if bool(second.amin() <= scale.floor):
        # Times the sign of the second moment: passes without a comparison, which costs more than all of them.
        moving = torch.threshold(second, scale.floor, 0.0, out=kept).sign_().mul_(w)
    total = _group_sums(torch.mul(moving, sizes, out=squares).square_())
    alive, still = ~(total <= 1.0), total == 0
    if bool(still.any()):
        # Squares of small numbers vanish too; a group stands still only where nothing of it moves.
        still = _group_sums(torch.abs(moving, out=squares)) == 0
    if not bool(alive.any()) and not bool(still.any()):
        w.zero_()
        return torch.zeros_like(radius)
    least = limits.tiny**0.75  # its inverse stays far below the size of a coordinate without a gradient
    cold = alive & ~((radius > least) & torch.isfinite(radius))
    if bool(cold.any()):
        radius = torch.where(cold, _group_sums(torch.mul(moving, moving, out=squares)).sqrt_(), radius)
    radius = radius.clamp_min(least)
    for _ in range(NEWTON_STEPS):
        inverse = _spread(torch.where(alive, 1.0 / radius, math.inf).masked_fill_(still, 0.0), w)
        torch.div(sizes, torch.add(sizes, inverse, out=shares), out=shares)
        total = _group_sums(torch.mul(moving, shares, out=squares).square_())
        norm = total.sqrt()
        gap = norm - radius
        if not bool((alive & (gap.abs() > 4 * limits.eps * radius) & (radius > least)).any()):
            break
        slope = _group_sums(squares.mul_(shares))
        newton = radius + gap * (total / slope.clamp_min(limits.tiny))
        radius = torch.where(newton > 0, newton, norm / 16).clamp_min(least)
    # Squares that did not fit have made radii that are not finite, or that have nothing left to shrink.
    if not bool((~alive | ((norm > LEAST) & (norm < MOST))).all()):
        return None
    w.mul_(shares)
    return norm


def _group_sums(x: Tensor) -> Tensor:
    """Sums over the groups of a block in scratch, ``(before, tensors, groups, after)``; in the order of memory."""
    before, tensors, groups, after = x.shape
    rows = x.view(before, -1).sum(0) if before > 1 else x
    return rows.view(tensors * groups, after).sum(1)


def _spread(x: Tensor, w: Tensor) -> Tensor:
    """One number a group, laid out so that it meets the coordinates of ``w`` in long runs."""
    _, tensors, groups, after = w.shape
    column = x.view(1, tensors, groups, 1)
    return column if w.shape[0] == 1 else column.expand(1, tensors, groups, after).contiguous()


def _number(value: float, like: Tensor) -> Tensor:
    return torch.full((), value, dtype=like.dtype)


def _start(w: Tensor, axis: int, radius: Tensor | None) -> Tensor:
    """The radii to start from; 0 where there are none, or of a model that has been converted since."""
    known = radius is not None and radius.dtype == w.dtype and radius.device == w.device
    return radius if radius is not None and known else w.new_zeros(w.shape[axis])


def _sides(x: Tensor, axis: int) -> Tensor:
    """``(before, 1, groups, after)``: what the axis of the groups has on its left and on its right."""
    return x.reshape(math.prod(x.shape[:axis]), 1, x.shape[axis], -1)


def _second(w: Tensor, metric: MetricOrStep) -> Tensor:
    """The second moment; where the step is a number, anything of the shape of ``w``."""
    return metric.second if isinstance(metric, Diagonal) else w


def _is_plain(w: Tensor, second: Tensor) -> bool:
    """Whether the fast path may be taken: float32 or float64, and ``w`` fills its memory without gaps or overlaps."""
    fast = w.dtype in (torch.float32, torch.float64) and second.dtype == w.dtype and second.device == w.device
    return fast and (w.is_contiguous() or w.permute(_by_stride(w)).is_contiguous())


def _wide(w: Tensor, metric: MetricOrStep) -> tuple[Tensor, float | Tensor]:
    dtype = torch.promote_types(w.dtype, torch.float32)
    if not isinstance(metric, Diagonal):
        return w.to(dtype), metric
    return w.to(dtype), Diagonal(metric.second.to(dtype), metric.scale, metric.eps, metric.floor, metric.root).steps()


def _by_stride(w: Tensor) -> list[int]:
    """The axes of ``w`` in the order of memory, outermost first."""
    return sorted(range(w.ndim), key=w.stride, reverse=True)


def _chunk(w: Tensor, room: int) -> int:
    """Elements of a chunk, of which ``room`` are at most to be taken, so that scratch stays below the weights."""
    return max(256, min(CHUNK if w.device.type == "cpu" else CHUNK_ELSEWHERE, room))


def _is_small(w: Tensor, second: Tensor, size: int) -> bool:
    return w.numel() < size // SMALL and w.is_contiguous() and second.is_contiguous()


def _parts(items: list[Item], size: int) -> Iterator[list[Item]]:
    part: list[Item] = []
    count = 0
    for item in items:
        if part and count + item[0].numel() > size:
            yield part
            part, count = [], 0
        part.append(item)
        count += item[0].numel()
    yield part


def _packed(part: list[Item]) -> tuple[Tensor, Tensor]:
    """Weights and second moments of several tensors, one after another."""
    flatten: Callable[[list[Tensor]], Tensor] = torch._utils._flatten_dense_tensors  # one call for all of them
    return flatten([w for w, _, _ in part]), flatten([second for _, second, _ in part])


def _unpack(flat: Tensor, part: list[Item]) -> None:
    ws = [w for w, _, _ in part]
    if flat.data_ptr() == ws[0].data_ptr():  # one tensor alone is flattened in place
        return
    unflatten: Callable[[Tensor, list[Tensor]], list[Tensor]] = torch._utils._unflatten_dense_tensors
    torch._foreach_copy_(ws, unflatten(flat, ws))
