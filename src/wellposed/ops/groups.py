"""Groups of numbers: which coordinates of a tensor belong together.

A grouping splits a tensor so that the numbers of a group can be summed, and joins it again. Numbers per group (a norm, a
strength, a radius) are kept compact and are spread over the coordinates where they meet them. Groups along axes are views:
nothing is copied.

Groups
├── Tiled     the indices along some axes of a reshaped tensor: units, inputs, heads, tiles of a matrix
└── Labelled  a group number for each coordinate, or none: groups of any shape and of different sizes
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.core.errors import InputError, ShapeError
from wellposed.ops.norms import power_of_two, rooted_sum

AXES = {"unit": 0, "filter": 0, "input": 1, "channel": 1, "axis 0": 0, "axis 1": 1}
"""Groups that are the indices of one axis, in torch's layouts (of transposed kernels, whose inputs are axis 0, by number)."""
HEADS = ("head", "head_rows", "head_input")
"""Groups of attention heads: rows (of queries, keys and values where they are packed), rows in any case, columns."""
WAYS = (*AXES, *HEADS, "block")


class Groups(ABC):
    """The groups of the tensors of one shape."""

    @property
    @abstractmethod
    def sizes(self) -> float | Tensor:
        """How many numbers a group holds; compact where groups differ."""

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """The grouped numbers of ``x``, in the layout that the other operators take."""

    @abstractmethod
    def join(self, x: Tensor, w: Tensor) -> Tensor:
        """A tensor of ``w``'s shape from a split one; numbers in no group are ``w``'s."""

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """The sum of each group of a split tensor, compact."""

    @abstractmethod
    def amax(self, x: Tensor) -> Tensor:
        """The largest number of each group of a split tensor, compact."""

    @abstractmethod
    def listed(self, numbers: Tensor) -> Tensor:
        """One number for each group, in their order, as a compact tensor."""

    def scales(self, x: Tensor) -> Tensor:
        """A power of two near the largest magnitude of each group of a split tensor, compact."""
        return power_of_two(self.amax(x.detach().abs()))

    def norms(self, x: Tensor) -> Tensor:
        """``|x_g|_2`` of a split tensor, compact; its gradient at a zero group is 0."""
        scales = self.scales(x)
        return rooted_sum(self.sum((x / self.spread(scales)).square())) * scales

    def sound(self, x: Tensor) -> Tensor:
        """Which groups of a split tensor hold finite numbers only, compact."""
        return self.amax((~torch.isfinite(x)).to(x.dtype)) <= 0

    def spread(self, compact: Tensor) -> Tensor:
        """A number per group, such that it broadcasts against a split tensor."""
        return compact

    def rest(self, w: Tensor) -> Tensor | None:
        """The numbers of ``w`` that are in no group, or None if there are none."""
        return None


@dataclass(frozen=True)
class Tiled(Groups):
    """A group is one index along the axes ``counted`` of the tensor seen in ``shape``; in compact tensors others have length 1."""

    shape: tuple[int, ...]
    counted: tuple[int, ...]

    @cached_property
    def within(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.shape)) if i not in self.counted)

    @property
    def sizes(self) -> float:
        return float(math.prod(self.shape[i] for i in self.within))

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)

    def join(self, x: Tensor, w: Tensor) -> Tensor:
        return x.reshape(w.shape)

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(dim=self.within, keepdim=True) if self.within else x

    def amax(self, x: Tensor) -> Tensor:
        """Axes are kept with length 1; 0 of a group that holds nothing."""
        if not self.within or not x.numel():
            return self.sum(x)
        return x.amax(dim=self.within, keepdim=True)

    def listed(self, numbers: Tensor) -> Tensor:
        """In the order of the counted axes; axes inside of a group have length 1."""
        compact = tuple(size if i in self.counted else 1 for i, size in enumerate(self.shape))
        return _fitting(numbers, math.prod(compact)).reshape(compact)


@dataclass(frozen=True, eq=False)
class Labelled(Groups):
    """Groups by number: ``members`` are the flat positions that belong to a group, ``of`` the group of each, counted from 0;
    ``numbers`` are those that the groups were given. Split tensors are ``(members,)``, compact ones ``(groups,)``.
    """

    members: Tensor
    of: Tensor
    counts: Tensor
    numbers: Tensor

    @property
    def sizes(self) -> Tensor:
        return self.counts

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(-1)[self.members]

    def join(self, x: Tensor, w: Tensor) -> Tensor:
        return w.reshape(-1).index_copy(0, self.members, x).view(w.shape)

    def sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(self.counts)).index_add(0, self.of, x)

    def amax(self, x: Tensor) -> Tensor:
        return x.new_full((len(self.counts),), -math.inf).scatter_reduce(0, self.of, x, "amax")

    def listed(self, numbers: Tensor) -> Tensor:
        """Number ``k`` is that of the group with the number ``k``."""
        return _fitting(numbers, int(self.numbers.max()) + 1 if len(self.numbers) else len(numbers))[self.numbers]

    def spread(self, compact: Tensor) -> Tensor:
        return compact[self.of]

    def rest(self, w: Tensor) -> Tensor | None:
        """Entries outside every group; 0 elsewhere."""
        if len(self.members) == w.numel():
            return None
        return w.reshape(-1).index_fill(0, self.members, 0.0)


def along(w: Tensor, axis: int) -> Tiled:
    return Tiled(tuple(w.shape), (axis % w.ndim,))


def sparing(w: Tensor, spared: Tensor, groups: Groups, operator: Callable[[Tensor], Tensor]) -> Tensor:
    """``operator`` on what is not ``spared``, which stays as it is, unless its group is gone.

    A coordinate that has had no gradient is left out of its group, so that it keeps none alive. A group with a number
    that is not finite comes back as it is.
    """
    moving = w.masked_fill(spared, 0.0)
    u = operator(moving)
    gone = (groups.norms(groups.split(u)) == 0) & (groups.norms(groups.split(moving)) > 0)
    sound = groups.sound(groups.split(w))
    none = torch.zeros_like(w, dtype=torch.bool)
    whole, dead = (groups.join(groups.spread(some) | groups.split(none), none) for some in (~sound, gone))
    return torch.where(whole | (spared & ~dead), w, u)


def _fitting(numbers: Tensor, count: int) -> Tensor:
    if len(numbers) != count:
        raise ShapeError(
            f"there are {count} groups, and {len(numbers)} weights for them. Give one weight for each group."
        )
    return numbers


def groups_by_label(labels: Tensor, w: Tensor) -> Labelled:
    """Groups of ``w`` by the numbers in ``labels``, of its shape or broadcast to it; negative is no group."""
    try:
        flat = labels.to(w.device).broadcast_to(w.shape).reshape(-1)
    except RuntimeError:
        raise ShapeError(
            f"group numbers of shape {tuple(labels.shape)} do not broadcast to {tuple(w.shape)}; give one for each weight."
        ) from None
    members = (flat >= 0).nonzero().squeeze(1)
    numbers, of, counts = torch.unique(flat[members], return_inverse=True, return_counts=True)
    return Labelled(members, of, counts.to(torch.promote_types(w.dtype, torch.float32)), numbers)


def groups_of(w: Tensor, by: str | Tensor, heads: int | None = None, block: tuple[int, int] | None = None) -> Groups:
    """Split ``w`` into groups of weights that are charged together: by one of `WAYS`, or by integers that broadcast to ``w``, a
    group number for each weight, negative for none; see `wellposed.penalties.group.GroupPenalty`.
    """
    if isinstance(by, Tensor):
        return groups_by_label(by, w)
    shape = tuple(w.shape)
    if len(shape) < 2:
        raise ShapeError(f"groups by {by} need >= 2 axes; the shape is {shape}.")
    if by in AXES:
        return along(w, AXES[by])
    if by == "block":
        if block is None:
            raise InputError('by="block" needs block=(rows, columns).')
        (r, c), (rows, columns) = block, (shape[0], math.prod(shape[1:]))
        if len(shape) != 2 or rows % r or columns % c:
            raise ShapeError(f"blocks of {r}x{c} need a matrix of a multiple of {r} rows and {c} columns, not {shape}.")
        return Tiled((rows // r, r, columns // c, c), (0, 2))
    if heads is None:
        raise InputError(
            f'by="{by}" needs heads=, their number, which only the in_proj of nn.MultiheadAttention knows by itself. '
            'Of an out_proj the columns belong to heads: by="head_input", heads=...'
        )
    packed = by == "head" and len(shape) == 2 and shape[0] == 3 * shape[1]
    axis = 1 if by == "head_input" else 0
    owned = shape[axis] // 3 if packed else shape[axis]
    if owned % heads:
        raise ShapeError(f"{heads} heads do not divide axis {axis} of {shape}, which holds {owned}.")
    if axis == 1:
        return Tiled((shape[0], heads, owned // heads, *shape[2:]), (1,))
    return Tiled(((3,) if packed else ()) + (heads, owned // heads, *shape[1:]), (1,) if packed else (0,))
