"""Penalties that drive whole groups of weights to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from wellposed.core.checks import Within, checked
from wellposed.core.errors import InputError, described
from wellposed.core.numbers import to_python
from wellposed.core.selectors import Leaf
from wellposed.ops.groups import AXES, HEADS, WAYS, Groups, groups_of, sparing
from wellposed.ops.norms import at_least_float32, length, signs
from wellposed.ops.prox import group_minimax_shrink, group_shrink, soft_threshold
from wellposed.penalties.base import (
    ByValue,
    Penalty,
    Searched,
    Summands,
    Traits,
    array,
    at_least_zero,
    changed,
    needs_axes,
    setting_text,
    tensor_of,
)
from wellposed.penalties.layouts import laid_out

Weights = float | Tensor | None
"""How much each group is charged, beside the strength: None, one number for all, or one for each."""
Membership = str | Tensor
"""Who is in a group: a way by name, or a number of its group for each weight."""


class GroupPenalty(ByValue, Penalty):
    """What penalties of groups have in common: who is in a group, and how much each is charged.

    ``by`` says it:

    - ``"unit"`` or ``"filter"``: the weights into one unit or filter (an index of axis 0);
    - ``"input"`` or ``"channel"``: the weights out of one input or channel (an index of axis 1). Kernels of transposed
      convolutions, ``(in, out, k...)``, have them the other way round, and are grouped so in a model; with ``groups > 1``
      a convolution has no axis of channels (transposed: of units), and is refused;
    - ``"axis 0"`` or ``"axis 1"``: an index of this axis, whatever it is of;
    - ``"head"``: the rows of one attention head. Of queries, keys and values packed in one matrix ``(3E, E)``, as in
      ``nn.MultiheadAttention``, each head owns rows of all three; of any other shape the rows are consecutive;
    - ``"head_rows"``: consecutive rows also where the matrix happens to be ``(3E, E)``;
    - ``"head_input"``: the columns of one head, of the projection that follows attention;
    - ``"block"``: tiles of a matrix of ``block=(rows, columns)``;
    - a tensor of integers (an array, or lists) that broadcasts to the weights: a group number for each of them, -1 for
      none. Groups may have any shape and different sizes.

    ``heads`` is filled in for the parameters of ``nn.MultiheadAttention`` itself; its ``out_proj`` does not know it.

    ``weights`` stand in place of ``sqrt(size_g)``: a finite number >= 0 for all groups, or one for each (a tensor, an array
    or a list): of units, inputs and heads in their order, of blocks row by row, of group numbers that at place ``k`` for the
    group ``k``. A group of weight 0 is free. They are constants: no gradient flows to them.

    Raises:
        ShapeError: a parameter has fewer than two axes, or cannot be grouped so.
    """

    strength: float
    by: Membership
    heads: int | None = None
    block: tuple[int, int] | None = None
    weights: Weights

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "by", group_numbers(self, self.by))
        if isinstance(self.block, (tuple, list)):
            object.__setattr__(self, "block", tuple(to_python(side) for side in self.block))
        check_grouping(self, self.by, self.heads, self.block)
        check_weights(self)

    def __str__(self) -> str:
        given = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{k}={setting_text(v)}' for k, v in given if v is not None)})"

    @property
    def alike(self) -> bool:
        """Whether groups are the indices of an axis and charged alike, so that their order changes nothing."""
        return isinstance(self.by, str) and self.by in AXES and not isinstance(self.weights, Tensor)

    @property
    def axis(self) -> int:
        """The axis along which groups are counted, where they are the indices of one."""
        if not isinstance(self.by, str) or self.by not in AXES:
            raise InputError(f"The groups of {self} are not the indices of one axis.")
        return AXES[self.by]

    def at(self, leaf: Leaf) -> Self:
        """With the number of heads of a ``nn.MultiheadAttention``, its unpacked projections by rows, and units and inputs of a
        transposed convolution by its own layout.
        """
        if isinstance(self.by, str) and self.by in AXES:
            return changed(self, by=laid_out(self, self.by, leaf))
        if not (isinstance(self.by, str) and self.by in HEADS and isinstance(leaf.module, nn.MultiheadAttention)):
            return self
        by = self.by
        if by == "head" and any(f"{one}_proj_weight" in leaf.name for one in "qkv"):
            by = "head_rows"
        heads = self.heads if self.heads is not None else leaf.module.num_heads
        return changed(self, by=by, heads=heads)

    def check(self, name: str, w: Tensor) -> None:
        if isinstance(self.by, str):
            needs_axes(self, name, w, 2)
        try:
            group_strength(self.strength, self.weights, self.groups(w), w)
        except InputError as error:
            raise type(error)(f"{type(self).__name__} cannot charge {name!r}: {error}") from None

    def groups(self, w: Tensor) -> Groups:
        return groups_of(w, self.by, self.heads, self.block)

    def prox_sparing(self, w: Tensor, step: Tensor, spared: Tensor) -> Tensor:
        return sparing(w, spared, self.groups(w), lambda moving: self.prox(moving, step))

    def scaled(self, w: Tensor) -> float | Tensor:
        """``strength * sqrt(size of a group)``, or times its weight; compact where groups differ."""
        return group_strength(self.strength, self.weights, self.groups(w), w)


def group_strength(strength: float, weights: Weights, groups: Groups, w: Tensor) -> float | Tensor:
    """``strength * weight``, or ``strength * sqrt(size)`` where there are no weights."""
    if weights is None:
        sizes = groups.sizes
        return strength * (sizes.sqrt() if isinstance(sizes, Tensor) else math.sqrt(sizes))
    if not isinstance(weights, Tensor):
        return strength * weights
    each = groups.listed(weights.detach().to(w.device))
    return strength * each.to(torch.promote_types(w.dtype, torch.float32))


def check_weights(owner: Any) -> None:
    """Make the weights of groups a number or a tensor of one axis."""
    weights = array(owner, "weights")
    if weights is None or (
        isinstance(weights, Tensor) and weights.ndim == 1 and bool(((weights >= 0) & torch.isfinite(weights)).all())
    ):
        return
    if isinstance(weights, Tensor):
        raise InputError(
            f"{type(owner).__name__} needs finite weights >= 0, a number or one for each group in a row; it was given "
            f"{setting_text(weights)} {'with numbers below 0, or infinite' if weights.ndim == 1 else 'of several axes'}."
        )
    at_least_zero(owner, weights=weights)


def group_numbers(owner: object, given: object) -> object:
    """Group numbers of lists, as a recipe writes them, or of an array as a tensor; anything else as it is."""
    try:
        found = tensor_of(given)
        return given if found is None else found
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{type(owner).__name__} takes group numbers as lists of integers of one length; it was given {described(given)}."
        ) from None


def check_grouping(owner: object, by: object, heads: object, block: object) -> None:
    kind = type(owner).__name__
    if isinstance(by, Tensor):
        whole = not (by.is_floating_point() or by.is_complex() or by.dtype == torch.bool)
        if not whole or by.numel() == 0 or int(by.min()) < -1 or int(by.max()) < 0:
            raise InputError(
                f"{kind} takes group numbers as a tensor of integers >= 0, or -1 for none, of which one is not -1; it was "
                f"given {by.dtype} of shape {tuple(by.shape)}."
            )
    elif not isinstance(by, str) or by not in WAYS:
        raise InputError(
            f"{kind} groups by unit or input (filter, channel), axis 0, axis 1, head, head_rows, head_input, block, or a "
            f"tensor of group numbers; it was given by={by!r}."
        )
    if block is not None and by != "block":
        raise InputError(f'{kind} takes block={block!r} only with by="block"; it was given by={by!r}.')
    if heads is not None and not isinstance(by, Tensor) and by not in HEADS:
        raise InputError(
            f"{kind} takes heads={heads!r} only with by one of {', '.join(HEADS)}; it was given by={by!r}."
        )
    if heads is not None and not (isinstance(heads, int) and not isinstance(heads, bool) and heads > 0):
        raise InputError(f"{kind} needs heads >= 1, a whole number; it was given heads={heads!r}.")
    if by == "block" if isinstance(by, str) else False:
        sides = tuple(block) if isinstance(block, (tuple, list)) else ()
        if len(sides) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides):
            raise InputError(f"{kind} by block needs block=(rows, columns), each >= 1; it was given block={block!r}.")


def norm_violation(
    w: Tensor, grad: Tensor, strength: float | Tensor, groups: Groups, gamma: float = math.inf
) -> Tensor:
    """Distance of ``-grad`` to the subdifferential of ``sum_g h(|w_g|)``; what is in no group is charged nothing.

    ``h'(r) = max(strength - r/gamma, 0)``; off zero ``|grad_g + h'(|w_g|) w_g/|w_g||``, at zero ``max(|grad_g| - strength, 0)``.
    """
    w, grad = at_least_float32(w), at_least_float32(grad)
    x, slope, rest = groups.split(w), groups.split(grad), groups.rest(grad)
    norms = groups.norms(x)
    some = norms > 0
    pull = (strength - norms / gamma).clamp_min(0.0) / norms.where(some, torch.ones_like(norms))
    off = groups.norms(slope + groups.spread(pull) * x)
    at = (groups.norms(slope) - strength).clamp_min(0.0)
    distance = length(torch.where(norms == 0, at, off))
    return distance if rest is None else torch.hypot(distance, length(rest))


class _GroupNorms(GroupPenalty):
    """``strength * sum_g c_g |w_g|_2``: convex, of degree 1."""

    @property
    def traits(self) -> Traits:
        return Traits(homogeneous=1, symmetric=self.alike)

    def merged(self, other: Penalty) -> Penalty | None:
        alike = type(other) is type(self) and changed(other, strength=self.strength) == self
        return changed(self, strength=self.strength + other.strength) if alike else None

    def value(self, w: Tensor) -> Tensor:
        """The charge of all groups, 0-d; its gradient at a zero group is 0."""
        groups, x = self.groups(w), at_least_float32(w)
        return (self.scaled(w) * groups.norms(groups.split(x))).sum().to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """Exact, also with a step for each coordinate; see `wellposed.ops.prox.group_soft_threshold`."""
        return w.clone() if self.strength == 0 else group_shrink(w, step, self.scaled(w), self.groups(w))

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """Off zero ``|grad_g + s w_g/|w_g||``, at zero ``max(|grad_g| - s, 0)``; Euclidean over groups."""
        return norm_violation(w, grad, self.scaled(w), self.groups(w))


@checked
@dataclass(frozen=True, eq=False)
class GroupL2(_GroupNorms):
    """``strength * sum_g c_g |w_g|_2``, ``c_g = sqrt(size_g)``: whole units, inputs, heads or blocks become exactly zero.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        by: who is in a group; see `GroupPenalty`.
        heads: the number of attention heads, for ``by="head"`` and its kin.
        block: rows and columns of a tile, for ``by="block"``.
        weights: in place of ``sqrt(size_g)``: a number >= 0, or one for each group; see `GroupPenalty`.
    Raises:
        ShapeError: a parameter has fewer than two axes, or cannot be grouped so.
    Source:
        Yuan & Lin (2006), JRSS-B 68(1); Scardapane et al. (2017), Neurocomputing 241.
    Example:
        >>> import torch
        >>> GroupL2(1.0, by=torch.tensor([0, 0, -1])).prox(torch.tensor([0.6, 0.8, 0.5]), step=1.0)
        tensor([0.0000, 0.0000, 0.5000])
    """

    strength: float
    by: Membership = "unit"
    heads: int | None = None
    block: tuple[int, int] | None = None
    weights: Weights = None
    searched: ClassVar[Searched] = Searched(
        low=1e-6, high=1e-3, least=1e-8, most=1e-1, odds=0.08, settings={"by": "input", "on": "inputs"}
    )


@checked
@dataclass(frozen=True, eq=False)
class SparseGroup(GroupPenalty):
    """``strength * (mix * |w|_1 + (1 - mix) * sum_g c_g |w_g|_2)``: zeros of whole groups, and inside of others.

    ``c_g`` is ``sqrt(size_g)``, or the group's weight.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        mix: in [0, 1]; 1 is L1, 0 is GroupL2.
        by, heads, block, weights: who is in a group, and how much it is charged; see `GroupPenalty`, with its errors. What is
            in no group is charged by its absolute value only.
    Raises:
        ShapeError: a parameter cannot be grouped so.
    Source:
        Simon, Friedman, Hastie & Tibshirani (2013), Journal of Computational and Graphical Statistics 22(2).
    """

    strength: float
    mix: Annotated[float, Within(0, 1)] = 0.5
    by: Membership = "unit"
    heads: int | None = None
    block: tuple[int, int] | None = None
    weights: Weights = None

    @property
    def traits(self) -> Traits:
        return Traits(homogeneous=1, symmetric=self.alike)

    @property
    def l1(self) -> float:
        return self.strength * self.mix

    @property
    def whole(self) -> GroupL2:
        return GroupL2(self.strength * (1.0 - self.mix), self.by, self.heads, self.block, self.weights)

    def summands(self) -> Summands:
        return Summands(l1=self.l1, core=self.whole)

    def value(self, w: Tensor) -> Tensor:
        x = at_least_float32(w)
        return (self.l1 * x.abs().sum() + self.whole.value(x)).to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """Absolute values first, then the groups in the same metric: exact, also with a step for each coordinate."""
        return self.whole.prox(soft_threshold(w, step * self.l1), step)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """Distance of ``-grad``: each zero takes up to ``strength*mix`` off its gradient, then a zero group as GroupL2."""
        left = torch.where(w == 0, soft_threshold(grad, self.l1), grad + self.l1 * signs(w))
        return self.whole.violation(w, left, step)


@checked
@dataclass(frozen=True, eq=False)
class GroupMCP(GroupPenalty):
    """``sum_g h(|w_g|_2)``, ``h(r) = s*r - r^2/(2*gamma)`` up to ``r = gamma*s``, ``gamma*s^2/2`` beyond; zeros without bias.

    ``s = strength*sqrt(size_g)`` (or times the group's weight): small groups become exactly zero as with GroupL2, large ones
    are left alone. Not convex. The prox is the global minimizer for every step, also above ``gamma`` and with a step for each
    coordinate (docs/derivations/groups.md); of two that are equally good to rounding either may come back.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        gamma: > 0, in units of a step: groups of a norm above ``gamma*s`` are free. Infinity is GroupL2; towards 0 groups
            are kept or dropped as by their count.
        by, heads, block, weights: who is in a group, and how much it is charged; see `GroupPenalty`, with its errors.
    Raises:
        ShapeError: a parameter cannot be grouped so.
    Source:
        Zhang (2010), Annals of Statistics 38(2); of groups: Huang, Breheny & Ma (2012), Statistical Science 27(4).
    """

    strength: float
    gamma: Annotated[float, Within(0, open="low")] = 3.0
    by: Membership = "unit"
    heads: int | None = None
    block: tuple[int, int] | None = None
    weights: Weights = None

    @property
    def traits(self) -> Traits:
        return Traits(convex=False, weak_convexity=1.0 / self.gamma, symmetric=self.alike, linear=False)

    def value(self, w: Tensor) -> Tensor:
        """The charge, 0-d; its gradient at a zero group is 0."""
        groups, x = self.groups(w), at_least_float32(w)
        norms = groups.norms(groups.split(x))
        if self.strength == 0:
            return (0.0 * norms.sum()).to(w.dtype)
        s = torch.as_tensor(self.scaled(w), dtype=x.dtype, device=x.device)
        if math.isinf(self.gamma):
            return (s * norms).sum().to(w.dtype)
        # What is not a number is in neither case: it stays visible.
        m = torch.where(norms > self.gamma * s, self.gamma * s, norms)
        return (m * (s - m / (2.0 * self.gamma))).sum().to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The global minimizer, of ``w``'s shape; see `wellposed.ops.prox.group_minimax_shrink`."""
        if self.strength == 0:
            return w.clone()
        return group_minimax_shrink(w, step, self.scaled(w), self.gamma, self.groups(w))

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """Off zero ``|grad_g + h'(|w_g|) w_g/|w_g||``, at zero ``max(|grad_g| - s, 0)``; Euclidean over groups."""
        return norm_violation(w, grad, self.scaled(w), self.groups(w), self.gamma)
