"""Laws of penalties and constraints: what a proximal operator and a projection must satisfy, whatever their formula.

    from wellposed.testing import check_penalty
    def test_my_penalty():
        check_penalty(MyPenalty(strength=0.3))

Each law is a function of a penalty (or a constraint) and one `Case`; it raises `LawBroken` with what it found. A law that
does not apply (firm non-expansiveness of a penalty that is not convex) says nothing. With float64 the tolerance is 1e-9,
with float32 1e-5; laws that need finite differences run in float64 only. Beside the points, each shape is tried with
numbers from 1e-30 to 1e30, in float16 and bfloat16, in long groups, and without any number.

The objective of a proximal step is ``h(u) = 1/2 sum_i (u_i - w_i)^2/step_i + g(u)`` throughout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.core.errors import ShapeError, WellposedError
from wellposed.ops.prox import soft_threshold
from wellposed.penalties.base import Chargeable, Constraint, Penalty, changed

SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (6, 1), (1, 5), (3, 2, 2, 2), (7,))
SCALES = (0.05, 1.0, 20.0)
STEPS = (0.05, 1.0, 3.0)
NOISES = (1.0, 1e-1, 1e-2, 1e-4, 1e-6)
NOT_FINITE = (math.nan, math.inf, -math.inf)
NOTHING: tuple[tuple[int, ...], ...] = ((0,), (5, 0), (0, 5), (0, 0))
LONG = (3, 512)
MAGNITUDES: tuple[tuple[torch.dtype, tuple[float, ...]], ...] = (
    (torch.float32, (1e-30, 1e-20, 1e20, 1e30)),
    (torch.float16, (1e-3, 1.0, 1e4)),
    (torch.bfloat16, (1e-30, 1.0, 1e30)),
)
"""Types, and sizes of weights at which an operator must agree with itself in float64, which has room for their squares."""


class LawBroken(WellposedError, AssertionError):
    """A penalty or a constraint does not satisfy a law."""


@dataclass(frozen=True)
class Case:
    """One point at which laws are tried: weights, another point, a step, and where random rivals are drawn."""

    w: Tensor
    other: Tensor
    step: float
    seed: int

    @property
    def tolerance(self) -> float:
        """1e-9 in float64, 1e-5 in lower precision; relative to the sizes that are compared."""
        return 1e-9 if self.w.dtype == torch.float64 else 1e-5

    @property
    def exact(self) -> bool:
        """Whether finite differences mean anything."""
        return self.w.dtype == torch.float64

    def noise(self, salt: int = 0) -> Tensor:
        """Standard normal numbers of the shape of ``w``."""
        source = torch.Generator().manual_seed(self.seed + 7919 * salt)
        return torch.randn(self.w.shape, generator=source, dtype=torch.float64).to(self.w.dtype)

    def metric(self) -> Tensor:
        """A step for each coordinate, between a tenth and twice ``step``."""
        source = torch.Generator().manual_seed(self.seed + 104729)
        spread = torch.rand(self.w.shape, generator=source, dtype=torch.float64).to(self.w.dtype)
        return self.step * (0.1 + 1.9 * spread)

    @property
    def about(self) -> str:
        return f"shape {tuple(self.w.shape)}, size {float(self.w.abs().max()):.3g}, step {self.step:g}, {self.w.dtype}"


AnyCharge = Penalty | Constraint
PenaltyLaw = Callable[[Penalty, Case], None]
ConstraintLaw = Callable[[Constraint, Case], None]


def holds(condition: object, message: str) -> None:
    """Raise `LawBroken` unless the condition is true."""
    if not bool(condition):
        raise LawBroken(message)


def close(found: Tensor | float, wanted: Tensor | float, tolerance: float, message: str) -> None:
    """Raise `LawBroken` unless the values agree, relative to the larger of 1 and their size."""
    a, b = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64)
    holds(a.shape == b.shape, f"{message}: shape {tuple(a.shape)} instead of {tuple(b.shape)}")
    holds(bool(torch.isfinite(a).all()), f"{message}: a value is not finite")
    gap = float((a - b).abs().max()) if a.numel() else 0.0
    size = max(1.0, float(b.abs().max())) if b.numel() else 1.0
    holds(gap <= tolerance * size, f"{message}: {gap:.3g} apart, {tolerance * size:.3g} allowed")


def objective(penalty: Penalty, u: Tensor, w: Tensor, step: float | Tensor) -> float:
    """``1/2 sum_i (u_i - w_i)^2/step_i + g(u)``; coordinates with step 0 must not move and cost nothing."""
    t = torch.as_tensor(step, dtype=w.dtype).expand(w.shape)
    distance = torch.where(t > 0, (u - w).square() / t.where(t > 0, torch.ones_like(t)), torch.zeros_like(w))
    return 0.5 * float(distance.sum(dtype=torch.float64)) + float(penalty.value(u))


def operators(charge: AnyCharge, case: Case) -> Iterator[tuple[str, Callable[[Tensor], Tensor], float | Tensor]]:
    """What moves weights, what it is called, and its step: the projection, or the prox with one step for all, and with one for
    each coordinate where it takes that."""
    if isinstance(charge, Constraint):
        yield "the projection", charge.project, 1.0
        return
    yield "the prox", functools.partial(charge.prox, step=case.step), case.step
    if charge.traits.diagonal:
        step = case.metric()
        yield "the prox, with a step per coordinate,", lambda w: charge.prox(w, step.to(w)), step


def rival_points(p: Tensor, case: Case) -> Iterator[tuple[str, Tensor]]:
    """Points that must not be better than the minimizer ``p``."""
    w = case.w
    yield "w", w
    yield "0", torch.zeros_like(w)
    for scale in NOISES:
        for salt in (1, 2):
            yield f"prox + {scale:g} noise", p + scale * max(1e-3, float(w.abs().max())) * case.noise(salt)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2.0):
        yield f"{factor:g} prox", factor * p
    for i in range(p.numel()):
        for label, value in (("zeroed", torch.zeros_like(w)), ("restored", w)):
            yield f"coordinate {i} {label}", _one_taken(p, value, i)


def _one_taken(p: Tensor, other: Tensor, i: int) -> Tensor:
    u = p.clone().reshape(-1)
    u[i] = other.reshape(-1)[i]
    return u.view(p.shape)


def same_kind(charge: AnyCharge, case: Case) -> None:
    """Shape and type stay, the result is finite, and layout in memory changes nothing; a value is 0-d and >= 0."""
    w = case.w
    strided = w.movedim(0, -1).contiguous().movedim(-1, 0)
    for name, operator, _ in operators(charge, case):
        p = operator(w)
        holds(p.shape == w.shape and p.dtype == w.dtype, f"{name} gives {tuple(p.shape)}, {p.dtype}")
        holds(bool(torch.isfinite(p).all()), f"{name} is not finite")
        close(operator(strided), p, case.tolerance, f"{name} of a transposed copy")
    if isinstance(charge, Penalty):
        value = charge.value(w)
        holds(value.ndim == 0, f"value has shape {tuple(value.shape)}; it is 0-d")
        holds(value.dtype == w.dtype, f"value gives {value.dtype}")
        holds(float(value) >= 0 and math.isfinite(float(value)), f"value is {float(value)}")
        close(charge.value(strided), value, case.tolerance, "value of a transposed copy")


def pure(charge: AnyCharge, case: Case) -> None:
    """Nothing is modified: not ``w``, not ``grad``, not a step that is a tensor."""
    w, grad, step = case.w.clone(), case.noise(3), case.metric()
    kept, versions = [x.clone() for x in (w, grad, step)], [x._version for x in (w, grad, step)]
    if isinstance(charge, Constraint):
        charge.project(w)
    else:
        charge.value(w)
        for given in (case.step, step) if charge.traits.diagonal else (case.step,):
            charge.prox(w, given)
    charge.violation(w, grad, case.step)
    for name, tensor, before, version in zip(("w", "grad", "step"), (w, grad, step), kept, versions, strict=True):
        holds(torch.equal(tensor, before) and tensor._version == version, f"{name} is modified in place")


def standing_still(penalty: Penalty, case: Case) -> None:
    """Step 0 returns ``w``, at 0 as well, and coordinate by coordinate: where the step is 0 nothing moves."""
    for w in (case.w, torch.zeros_like(case.w)):
        for step in (0.0, torch.zeros_like(w) if penalty.traits.diagonal else torch.zeros(())):
            close(penalty.prox(w, step), w, 0.0, "step 0 must return w")
    if not penalty.traits.diagonal:
        return
    step = case.metric()
    still = torch.arange(step.numel()).view(step.shape) % 3 == 0
    step = step.masked_fill(still, 0.0)
    p = penalty.prox(case.w, step)
    close(p[still], case.w[still], case.tolerance, "a coordinate with step 0 must not move")


def minimizes(penalty: Penalty, case: Case) -> None:
    """No rival has a lower objective than the prox."""
    _unrivalled(penalty, case, case.step)


def minimizes_in_metric(penalty: Penalty, case: Case) -> None:
    """The same with a step for each coordinate, some of them 0, where the prox takes one."""
    if not penalty.traits.diagonal:
        return
    full = case.metric()
    equal, number = penalty.prox(case.w, torch.full_like(full, case.step)), penalty.prox(case.w, case.step)
    close(equal, number, case.tolerance, "a tensor of equal steps must act as the number")
    for step in (full, full.masked_fill(torch.arange(full.numel()).view(full.shape) % 4 == 1, 0.0)):
        _unrivalled(penalty, case, step, "with a step per coordinate ")


def _unrivalled(penalty: Penalty, case: Case, step: float | Tensor, told: str = "") -> None:
    p = penalty.prox(case.w, step)
    best = objective(penalty, p, case.w, step)
    for name, rival in rival_points(p, case):
        u = torch.where(step > 0, rival, case.w) if isinstance(step, Tensor) else rival
        h = objective(penalty, u, case.w, step)
        allowed = case.tolerance * max(1.0, abs(best))
        holds(h >= best - allowed, f"{told}{name} is better than the prox by {best - h:.3g}")


def moreau_gradient(penalty: Penalty, case: Case) -> None:
    """``grad min_u h(u) = (w - prox(w))/step``, by finite differences of the minimum."""
    if not case.exact or not penalty.traits.convex:
        return
    w, t = case.w, case.step
    slope = (w - penalty.prox(w, t)) / t
    for salt in (4, 5):
        d = case.noise(salt)
        d = d / d.norm()
        eps = 1e-6 * max(1.0, float(w.abs().max()))
        ends = [objective(penalty, penalty.prox(w + sign * eps * d, t), w + sign * eps * d, t) for sign in (1, -1)]
        found, size = (ends[0] - ends[1]) / (2 * eps), float(slope.norm())
        gap = abs(found - float((slope * d).sum()))
        message = f"the Moreau envelope has slope {found:.6g}, {gap:.2g} off (w - prox)/step"
        holds(gap <= 1e-4 * max(1e-2, size), message)


def subgradient(penalty: Penalty, case: Case) -> None:
    """``g(u) >= g(p) + <(w - p)/step, u - p>``: what the prox took away is a subgradient at ``p``."""
    if not penalty.traits.convex:
        return
    p = penalty.prox(case.w, case.step)
    slope = (case.w - p) / case.step
    base = float(penalty.value(p))
    for name, u in rival_points(p, case):
        lower = base + float((slope * (u - p)).sum(dtype=torch.float64))
        value = float(penalty.value(u))
        rounding = float((u - p).norm()) * float(case.w.norm()) / case.step
        allowed = case.tolerance * max(1.0, abs(lower), abs(value), rounding)
        holds(value >= lower - allowed, f"the subgradient inequality fails at {name} by {lower - value:.3g}")


def convexity(penalty: Penalty, case: Case) -> None:
    """``g`` of a midpoint is at most the mean of ``g`` at the ends."""
    if not penalty.traits.convex:
        return
    middle = float(penalty.value((case.w + case.other) / 2))
    mean = (float(penalty.value(case.w)) + float(penalty.value(case.other))) / 2
    holds(middle <= mean + case.tolerance * max(1.0, mean), f"value is not convex: {middle:.6g} > {mean:.6g}")


def moreau_identity(penalty: Penalty, case: Case) -> None:
    """``w = prox(w) + projection of w on step * (dual ball)``, for norms.

    That ``y = w - p`` is this projection is said by two things: ``y/step`` is a subgradient at 0 (it lies in the dual
    ball), and ``<y, p> = step * g(p)``.
    """
    if not penalty.traits.convex or penalty.traits.homogeneous != 1:
        return
    p = penalty.prox(case.w, case.step)
    y = (case.w - p) / case.step
    size = max(1.0, float(case.w.norm()) / case.step)
    outside = float(penalty.violation(torch.zeros_like(p), -y, case.step))
    holds(outside <= case.tolerance * 10 * size, f"(w - prox)/step is {outside:.3g} outside of the dual ball")
    inner, allowed = float((y * p).sum(dtype=torch.float64)), case.tolerance * 10 * size * max(1.0, float(p.norm()))
    close(inner, float(penalty.value(p)), allowed, "Moreau's identity: <(w - prox)/step, prox> is not g(prox)")


def stationary_at_prox(penalty: Penalty, case: Case) -> None:
    """The violation is 0 at a fixed point: at ``p = prox(w)`` under the gradient ``(p - w)/step``."""
    p = penalty.prox(case.w, case.step)
    grad = (p - case.w) / case.step
    found = float(penalty.violation(p, grad, case.step))
    allowed = case.tolerance * 10 * max(1.0, float(grad.norm()), float(case.w.norm()) / case.step)
    holds(found <= allowed, f"the violation at a fixed point is {found:.3g}")


def violation_is_distance(penalty: Penalty, case: Case) -> None:
    """``|w - prox(w - t*grad, t)|/t`` tends to the violation as ``t`` falls; it is positive where the prox moves.

    The limit of the proximal gradient step is the shortest element of ``grad + subdifferential``, also on a kink.
    """
    if not case.exact or not (penalty.traits.convex or math.isfinite(penalty.traits.weak_convexity)):
        return
    kink = penalty.prox(case.w, case.step)
    small = 1e-9
    for w in (case.w, kink, torch.zeros_like(kink)):
        for scale in (1e-3, 0.3, 3.0):
            grad = scale * case.noise(6)
            found = float(penalty.violation(w, grad, case.step))
            moved = float((w - penalty.prox(w - small * grad, small)).norm()) / small
            size = max(1.0, moved, float(w.norm()))
            holds(abs(found - moved) <= 1e-5 * size, f"the violation is {found:.6g}; the distance is {moved:.6g}")


def violation_of_fixed_point(penalty: Penalty, case: Case) -> None:
    """Zero violation and standing still under the proximal step are the same thing.

    Where ``step * weak_convexity >= 1`` a stationary point need not be the global minimizer that the prox jumps to.
    """
    local = case.step * penalty.traits.weak_convexity >= 1
    for w in (case.w, penalty.prox(case.w, case.step)):
        grad = case.noise(7)
        moved = float((w - penalty.prox(w - case.step * grad, case.step)).norm())
        found = float(penalty.violation(w, grad, case.step))
        holds(found >= 0 and math.isfinite(found), f"the violation is {found}")
        holds(local or found > 0 or moved <= case.tolerance, f"the violation is 0 and the prox moves by {moved:.3g}")
        holds(moved > 0 or found <= case.tolerance * 10, f"the prox stands still and the violation is {found:.3g}")


def nonexpansive(charge: AnyCharge, case: Case) -> None:
    """``<p - q, w - v> >= |p - q|^2`` if convex, in any metric; monotone always; Lipschitz if weakly convex."""
    for name, operator, step in operators(charge, case):
        t = torch.as_tensor(step, dtype=case.w.dtype).expand(case.w.shape)
        p, q = operator(case.w), operator(case.other)
        inner = float(((p - q) * (case.w - case.other) / t).sum(dtype=torch.float64))
        square = float(((p - q).square() / t).sum(dtype=torch.float64))
        allowed = case.tolerance * max(1.0, abs(inner), square)
        holds(inner >= -allowed, f"{name} is not monotone: {inner:.3g} < 0")
        if charge.traits.convex:
            holds(inner >= square - allowed, f"{name} is not firmly non-expansive: {inner:.6g} < {square:.6g}")
        elif (
            isinstance(charge, Penalty)
            and case.step * charge.traits.weak_convexity < 1
            and not isinstance(step, Tensor)
        ):
            most = float((case.w - case.other).norm()) / (1.0 - case.step * charge.traits.weak_convexity)
            found = float((p - q).norm())
            holds(found <= most * (1 + case.tolerance), f"{name} moves apart: {found:.6g} > {most:.6g}")


def gradient_flows(penalty: Penalty, case: Case) -> None:
    """``value`` carries a gradient, and finite differences agree with it (away from kinks)."""
    w = torch.where(case.w.abs() < 0.01, torch.full_like(case.w, 0.5), case.w).requires_grad_()
    value = penalty.value(w)
    holds(value.requires_grad, "value carries no gradient: something reads .data or detaches")
    (grad,) = torch.autograd.grad(value, w, allow_unused=True)
    holds(grad is not None, "value does not depend on w for autograd")
    holds(bool(torch.isfinite(grad).all()), "the gradient of value is not finite")
    if not case.exact:
        return
    for salt in (8, 9):
        d = case.noise(salt)
        eps = 1e-6
        with torch.no_grad():
            found = float(penalty.value(w + eps * d) - penalty.value(w - eps * d)) / (2 * eps)
        wanted = float((grad * d).sum())
        size = max(1.0, float(grad.norm()), float(value.detach()))
        holds(abs(found - wanted) <= 1e-6 * size, f"the gradient of value says {wanted:.6g}, differences {found:.6g}")
    zero = torch.zeros_like(case.w).requires_grad_()
    (at_zero,) = torch.autograd.grad(penalty.value(zero), zero)
    holds(bool(torch.isfinite(at_zero).all()), "the gradient of value at w = 0 is not finite")


def homogeneous(penalty: Penalty, case: Case) -> None:
    """``g(c w) = |c|^k g(w)`` where ``traits.homogeneous`` says k; the prox scales with it."""
    degree = penalty.traits.homogeneous
    if degree is None:
        return
    value = penalty.value(case.w)
    p = penalty.prox(case.w, case.step)
    for c in (0.25, 3.0):
        larger = penalty.value(c * case.w)
        close(larger, c**degree * value, case.tolerance, f"value is not homogeneous of degree {degree}")
        scaled = penalty.prox(c * case.w, case.step * c ** (2 - degree))
        close(scaled, c * p, case.tolerance, f"the prox is not that of a penalty of degree {degree}")


def symmetric(charge: AnyCharge, case: Case) -> None:
    """Flipping signs and permuting an axis changes no value, and the operator goes along."""
    if not charge.traits.symmetric:
        return
    signs = case.noise(10).sign()
    moves: dict[str, Callable[[Tensor], Tensor]] = {"signs": lambda x: signs * x}
    for axis, size in enumerate(case.w.shape):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(case.seed + axis))
        moves[f"the order along axis {axis}"] = functools.partial(torch.index_select, dim=axis, index=order)
    name, operator, _ = next(operators(charge, case))
    p = operator(case.w)
    for what, move in moves.items():
        if isinstance(charge, Penalty):
            close(charge.value(move(case.w)), charge.value(case.w), case.tolerance, f"value changes with {what}")
        close(operator(move(case.w)), move(p), case.tolerance, f"{name} does not follow {what}")


def linear_in_strength(penalty: Penalty, case: Case) -> None:
    """Twice the strength is twice the charge and twice the step; strength 0 charges nothing and moves nothing."""
    if "strength" not in getattr(penalty, "__dataclass_fields__", {}):
        return
    twice, none = changed(penalty, strength=2 * penalty.strength), changed(penalty, strength=0.0)
    close(none.value(case.w), 0.0, 0.0, "strength 0 charges something")
    for _, operator, _ in operators(none, case):
        close(operator(case.w), case.w, 0.0, "strength 0 moves w")
    if not penalty.traits.linear:
        return
    close(twice.value(case.w), 2 * penalty.value(case.w), case.tolerance, "value is not linear in strength")
    wanted = penalty.prox(case.w, 2 * case.step)
    close(twice.prox(case.w, case.step), wanted, case.tolerance, "twice the strength is not twice the step")


def sparse(charge: AnyCharge, case: Case) -> None:
    """Where ``traits.sparse`` says no, no weight that is not 0 becomes exactly 0, however large the step."""
    for one in (case, replace(case, step=100.0 * case.step)) if not charge.traits.sparse else ():
        name, operator, _ = next(operators(charge, one))
        made = (operator(case.w) == 0) & (case.w != 0)
        holds(not bool(made.any()), f"{name} makes zeros that averages would lose; declare traits with sparse=True")


def single_precision(charge: AnyCharge, case: Case) -> None:
    """float32 agrees with float64 to 1e-5."""
    if not case.exact:
        return
    low = case.w.float()
    for name, operator, _ in operators(charge, case):
        close(operator(low), operator(low.double()), 1e-5, f"{name} in float32 differs from float64")
    if isinstance(charge, Penalty):
        close(charge.value(low), charge.value(low.double()), 1e-5, "value in float32 differs from float64")


def not_finite(charge: AnyCharge, case: Case) -> None:
    """NaN and infinities stay what is not finite, also where a bound could clip them: where they are, in the violation, in the
    value of NaN."""
    for place, bad, w in _not_finite(case.w):
        for name, operator, _ in operators(charge, case):
            _stays(operator(w), place, name, bad)
        if math.isnan(bad) and isinstance(charge, Penalty):
            _stays(charge.value(w).reshape(1), 0, "value", bad)
        _stays(charge.violation(w, case.noise(3), case.step).reshape(1), 0, "the violation", bad)


def _not_finite(w: Tensor) -> Iterator[tuple[int, float, Tensor]]:
    """The weights with one of them not finite, and which."""
    for bad in NOT_FINITE:
        for place in {0, w.numel() // 2, w.numel() - 1}:
            changed = w.clone().reshape(-1)
            changed[place] = bad
            yield place, bad, changed.view(w.shape)


def _stays(found: Tensor, place: int, what: str, bad: float) -> None:
    number = found.reshape(-1)[place]
    holds(
        not bool(torch.isfinite(number)), f"{what} makes {float(number):g} of {bad}: what diverged must not look finite"
    )


def gradients_are_finite(charge: AnyCharge, case: Case) -> None:
    """Autograd through value and operator is finite at 0 and on kinks; at 0 minus the gradient of value has no violation."""
    kink = next(operators(charge, case))[1](case.w)
    for at, w in (("0", torch.zeros_like(kink)), ("a kink", kink), ("the point", case.w)):
        if isinstance(charge, Penalty):
            grad = _gradient(charge.value, w, f"value at {at}")
            smooth = charge.traits.convex or math.isfinite(charge.traits.weak_convexity)
            if at == "0" and smooth and "loss" in charge.hows:
                found = float(charge.violation(w, -grad, case.step))
                holds(
                    found <= case.tolerance * 10,
                    f"the gradient of value at 0 is {found:.3g} away from its subgradients",
                )
        for name, operator, _ in operators(charge, case):
            _differentiates(operator, w, case, f"{name} at {at}")


def _gradient(function: Callable[[Tensor], Tensor], w: Tensor, what: str, along: Tensor | None = None) -> Tensor:
    """The gradient of ``<along, function(w)>``, which must be finite."""
    with torch.enable_grad():
        free = w.detach().clone().requires_grad_()
        found = function(free)
        total = found.sum() if along is None else (found * along).sum()
        (grad,) = torch.autograd.grad(total, free, allow_unused=True) if total.requires_grad else (None,)
    grad = torch.zeros_like(w) if grad is None else grad
    holds(bool(torch.isfinite(grad).all()), f"the gradient of {what} is not finite")
    return grad


def _differentiates(operator: Callable[[Tensor], Tensor], w: Tensor, case: Case, what: str) -> None:
    """A finite gradient, which is that of finite differences where those of both sides agree."""
    along, d = case.noise(11), case.noise(12)
    grad = _gradient(operator, w, what, along)
    if not case.exact:
        return
    eps = 1e-6 * max(1e-3, float(w.abs().max()))
    p, other = operator(w), case.noise(13)

    def slope(direction: Tensor) -> float:
        return float(((operator(w + eps * direction) - p) * along).sum()) / eps

    # Where slopes add up, the operator has a derivative; else, on a kink, any finite one will do.
    ahead, behind, beside, both = slope(d), -slope(-d), slope(other), slope(d + other)
    size = max(1.0, abs(ahead), abs(beside), float(along.norm() * d.norm()))
    if abs(ahead - behind) <= 1e-5 * size and abs(ahead + beside - both) <= 1e-5 * size:
        found = float((grad * d).sum())
        holds(abs(found - ahead) <= 1e-4 * size, f"the gradient of {what} says {found:.6g}, differences {ahead:.6g}")


def of_any_size(penalty: Penalty, w: Tensor) -> None:
    """In every type the operators of large and small numbers agree with those in float64, to rounding."""
    for dtype, sizes in MAGNITUDES:
        # Long groups cost time, and try short types.
        for size in sizes if dtype != torch.float32 or w.numel() < math.prod(LONG) else ():
            # Norms scale with a step of the weights' size; with 1 beside it other penalties see both of their ends.
            for t in {1.0, size}:
                low = (size * w / w.abs().max()).to(dtype)
                spread = torch.linspace(0.5 * t, 2 * t, w.numel(), dtype=torch.float64).view(w.shape).to(dtype)
                for step in (t, spread) if penalty.traits.diagonal else (t,):
                    wide = step.double() if isinstance(step, Tensor) else step
                    p, wanted = penalty.prox(low, step), penalty.prox(low.double(), wide)
                    _agree(p, wanted, float(low.abs().max()), f"the prox at {size:g}, step {t:g},")
            _agree(penalty.value(low).reshape(1), penalty.value(low.double()).reshape(1), 0.0, f"value at {size:g}")


def _agree(found: Tensor, wanted: Tensor, scale: float, what: str) -> None:
    """To a few units in the last place of the largest number; what the type cannot hold may be infinite."""
    limits = torch.finfo(found.dtype)
    wanted = wanted.where(wanted.abs() <= limits.max, torch.full_like(wanted, math.inf).copysign(wanted))
    good = torch.isfinite(wanted)
    holds(bool((found.double() == wanted)[~good].all()), f"{what} in {found.dtype} is not infinite as in float64")
    size = max(scale, float(wanted[good].abs().max())) if bool(good.any()) else 0.0
    gap = float((found.double() - wanted)[good].abs().nan_to_num(math.inf).max()) if bool(good.any()) else 0.0
    allowed = (64 if found.dtype == torch.float32 else 4) * limits.eps * size + limits.smallest_normal
    holds(gap <= allowed, f"{what} in {found.dtype} differs from float64 by {gap:.3g}, {allowed:.3g} allowed")


def of_nothing(charge: Chargeable, shape: tuple[int, ...]) -> None:
    """A tensor without numbers comes back, and is charged 0; or `check` refuses it in a sentence."""
    w = torch.zeros(shape, dtype=torch.float64)
    try:
        charge.check("w", w)
    except WellposedError:
        return
    try:
        if isinstance(charge, Penalty):
            found = [charge.prox(w, 0.5), *([charge.prox(w, w + 0.5)] if charge.traits.diagonal else [])]
            numbers = [charge.value(w), charge.violation(w, w, 0.5)]
            _gradient(charge.value, w, "value of nothing")
        else:
            assert isinstance(charge, Constraint)
            found, numbers = [charge.project(w)], [charge.violation(w, w, 0.5)]
    except (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError) as error:
        raise LawBroken(f"a tensor of shape {shape} ends in a raw error: {error}") from error
    holds(all(p.shape == w.shape for p in found), f"a tensor of shape {shape} does not come back")
    holds(all(float(x) == 0 and x.ndim == 0 for x in numbers), f"a tensor of shape {shape} is charged")


def idempotent(constraint: Constraint, case: Case) -> None:
    """Projecting twice changes nothing, bit for bit: what is feasible is untouched."""
    p = constraint.project(case.w)
    holds(torch.equal(constraint.project(p), p), "projecting twice changes the result")
    zero = constraint.project(torch.zeros_like(case.w))
    holds(torch.equal(constraint.project(zero), zero), "projecting twice changes the result at w = 0")


def nearest(constraint: Constraint, case: Case) -> None:
    """No feasible point is nearer to ``w``: none on the way to ``w``, none between or around known feasible ones."""
    w = case.w
    p = constraint.project(w)
    best = float((w - p).norm())
    for u in feasible(constraint, p, case):
        gap = best - float((w - u).norm())
        allowed = case.tolerance * max(1.0, float(w.norm()))
        holds(gap <= allowed, f"a feasible point is nearer to w than its projection, by {gap:.3g}")


def feasible(constraint: Constraint, p: Tensor, case: Case) -> Iterator[Tensor]:
    """Points of the set: around ``p``, on the way from it to ``w``, and further away."""
    w, best = case.w, float((case.w - p).norm())
    others = [constraint.project(case.other), constraint.project(torch.zeros_like(w))]
    others += [constraint.project(p + scale * best * case.noise(salt)) for salt, scale in enumerate(NOISES)]
    others += [p + share * (w - p) for share in (1e-6, 1e-3, 0.1, 0.5, 0.9)]
    others += [p + share * (q - p) for q in others[:2] for share in (1e-4, 0.1, 0.5)]
    others += [_one_taken(p, w, i) for i in range(w.numel())]
    yield from (u for u in others if torch.equal(constraint.project(u), u))


def keeps_signs(constraint: Constraint, case: Case) -> None:
    """Where ``keeps_signs`` says so, the projection turns no sign around and makes nothing of a zero."""
    if constraint.keeps_signs:
        p = constraint.project(case.w)
        holds(bool((p * case.w >= 0).all()), "the projection turns a sign around; declare keeps_signs=False")
        holds(bool((p[case.w == 0] == 0).all()), "the projection moves a zero; declare keeps_signs=False")


def follows_thresholds(constraint: Constraint, case: Case) -> None:
    """Where `follows` says so, projecting after the proximal step of absolute values is the step of both."""
    if not constraint.follows(False, True, ()):
        return
    w, t = case.w, case.step
    p = constraint.project(soft_threshold(w, t))

    def cost(u: Tensor) -> float:
        return 0.5 * float((u - w).square().sum(dtype=torch.float64)) + t * float(u.abs().sum(dtype=torch.float64))

    best = cost(p)
    for u in feasible(constraint, p, case):
        allowed, less = case.tolerance * max(1.0, abs(best)), best - cost(u)
        holds(less <= allowed, f"absolute values, then the set, is not the joint step, by {less:.3g}")


def projection_of_any_size(constraint: Constraint, w: Tensor) -> None:
    """In every type the projection of large and small numbers agrees with float64, and projecting twice changes nothing."""
    for dtype, sizes in ((torch.float64, (1e-150, 1e150)), *MAGNITUDES):
        for size in sizes:
            low = (size * w / w.abs().max()).to(dtype)
            p = constraint.project(low)
            holds(torch.equal(constraint.project(p), p), f"projecting twice changes the result at {size:g} in {dtype}")
            _agree(p, constraint.project(low.double()), 0.0, f"the projection at {size:g}")


def _laws_of(kind: str) -> tuple[Any, ...]:
    """The laws above, in their order: functions of a case and of a charge of this kind, or of any, that return nothing."""
    taken = (
        {name: said, "case": "Case", "return": "None"} for name, said in ((kind.lower(), kind), ("charge", "AnyCharge"))
    )
    kinds = list(taken)
    return tuple(found for found in globals().values() if getattr(found, "__annotations__", None) in kinds)


PENALTY_LAWS: tuple[PenaltyLaw, ...] = _laws_of("Penalty")
CONSTRAINT_LAWS: tuple[ConstraintLaw, ...] = _laws_of("Constraint")


def cases(
    charge: Chargeable, shapes: Sequence[tuple[int, ...]], seed: int, dtype: torch.dtype, steps: Sequence[float]
) -> Iterator[Case]:
    """Points of all shapes that the charge accepts, at three sizes, with and without zeros, for each step.

    Raises:
        LawBroken: it accepts none of the shapes.
    """
    tried = 0
    for shape in shapes:
        try:
            charge.check("w", torch.zeros(shape, dtype=dtype))
        except ShapeError:
            continue
        for size in SCALES:
            for step in steps:
                tried += 1
                source = torch.Generator().manual_seed(seed + 15485863 * tried)
                w, other = torch.randn((2, *shape), generator=source, dtype=torch.float64).to(dtype) * size
                if tried % 2:
                    w = w * (torch.arange(w.numel()).view(shape) % 3 != 0)
                yield Case(w, other, step, seed + tried)
    holds(tried, f"{charge} accepts none of the shapes {list(shapes)}; give shapes= that it does")


def _at_the_ends(charge: Any, law: Any, shapes: Sequence[tuple[int, ...]], seed: int, dtype: torch.dtype) -> None:
    """The laws of numbers of any size, once for each shape and for long groups, and of tensors without numbers."""
    if dtype != torch.float64:
        return
    for shape in (*shapes, LONG):
        w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        try:
            charge.check("w", w)
        except WellposedError:
            continue
        _judge(charge, law, f"shape {shape}", w)
    for shape in NOTHING:
        _judge(charge, of_nothing, f"shape {shape}", shape)


def _judge(charge: Chargeable, law: Any, about: str, given: Any) -> None:
    try:
        law(charge, given)
    except LawBroken as broken:
        raise LawBroken(f"{charge} breaks the law of {law.__name__!r} ({about}): {broken}") from None


def check_penalty(
    penalty: Penalty,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    steps: Sequence[float] = STEPS,
) -> None:
    """Try every law on a penalty, at many points.

    Args:
        penalty: with a strength of about 0.1 to 1, so that the points (of size 0.05, 1 and 20) see both of its ends.
        shapes: those that ``penalty.check`` refuses are left out.
        seed: of the points.
        dtype: float64 tries everything to 1e-9; float32 what makes sense there, to 1e-5.
        steps: > 0.
    Raises:
        LawBroken: naming the law, the point and the size of the gap.
    Example:
        >>> import wellposed as wp
        >>> check_penalty(wp.L1(0.3))
    """
    for case in cases(penalty, shapes, seed, dtype, steps):
        for law in PENALTY_LAWS:
            _judge(penalty, law, case.about, case)
    _at_the_ends(penalty, of_any_size, shapes, seed, dtype)


def check_constraint(
    constraint: Constraint,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Try every law on a constraint, at many points; see `check_penalty`.

    Raises:
        LawBroken: naming the law, the point and the size of the gap.
    Example:
        >>> import wellposed as wp
        >>> check_constraint(wp.MaxNorm(1.0))
    """
    for case in cases(constraint, shapes, seed, dtype, steps=(1.0,)):
        for law in CONSTRAINT_LAWS:
            _judge(constraint, law, case.about, case)
    _at_the_ends(constraint, projection_of_any_size, shapes, seed, dtype)
